"""Pools, upsampling and label selection: HLS kernels."""

from __future__ import annotations

from hwmodel.kernels import GlobalPool, LabelSelect, MaxPool, Pool, Upsample
from hwmodel.resources import Resources
from hwmodel.streaming.fabric import bits, dual_port
from hwmodel.streaming.terms import Part, Terms, terms


@terms.register
def _label_select(kernel: LabelSelect, part: Part) -> Terms:
    """The k best so far with their labels, and PE comparators."""
    label, value = bits(kernel.labels), kernel.input.bits
    kept = kernel.k * (value + label)
    width = kernel.pe * value
    return Terms(
        "LabelSelect",
        lut={"base": 1, "comparator": kernel.k * width},
        ff={"base": 1, "value": kept + width},
    )


@terms.register
def _max_pool(kernel: MaxPool, part: Part) -> Terms:
    """A row of maxima in LUT memory, and a comparator for each element; not fitted."""
    width = kernel.pe * kernel.element.bits
    row = dual_port(max(2, kernel.out_width * kernel.fold), width, part.fabric)
    return _reducing(kernel.cycles, 2 * width, row, 2 * width, kernel.out_height)


@terms.register
def _pool(kernel: Pool, part: Part) -> Terms:
    """An accumulator or maximum for each of PE elements; not fitted."""
    width = kernel.pe * (kernel.input.bits + kernel.output.bits)
    held = kernel.input.bits + bits(kernel.kernel[0] * kernel.kernel[1])
    return _reducing(kernel.cycles, width, Resources(ff=kernel.pe * held), 2 * kernel.pe * held, 1)


@terms.register
def _global_pool(kernel: GlobalPool, part: Part) -> Terms:
    """An accumulator for each channel, in LUT memory where there are several rows; not fitted."""
    width = kernel.pe * kernel.output.bits
    held = dual_port(kernel.fold, width, part.fabric) if kernel.fold > 1 else Resources(ff=width)
    ports = kernel.pe * (kernel.input.bits + kernel.output.bits)
    return _reducing(kernel.cycles, ports, held, width, 1)


@terms.register
def _upsample(kernel: Upsample, part: Part) -> Terms:
    """A row in LUT memory; not fitted."""
    width = kernel.simd * kernel.element.bits
    row = dual_port(kernel.width * kernel.channels // kernel.simd, width, part.fabric)
    return _reducing(kernel.cycles, 2 * width, row, width, kernel.height)


def _reducing(cycles: int, ports: int, held: Resources, operation: int, rows: int) -> Terms:
    """The control of `LabelSelect`, counters, register slices, what is held, the operation."""
    counter = bits(cycles) + bits(rows)
    known = Resources(lut=operation + ports / 2 + counter, ff=2 * ports + counter)
    return Terms("LabelSelect", held + known, lut={"base": 1}, ff={"base": 1}, fitted=False)
