"""Width converters (finn-rtllib/dwc), forks, joins, concatenation."""

from __future__ import annotations

from dataclasses import replace

from hwmodel.kernels import Concat, Fork, Join, Shuffle, Split, WidthConverter
from hwmodel.resources import Resources
from hwmodel.streaming.fabric import bits, memory
from hwmodel.streaming.terms import Part, Terms, terms


@terms.register
def _width_converter(kernel: WidthConverter, part: Part) -> Terms:
    """dwc.sv: a shift register as wide as the wide side, and one or two words of the narrow.

    Flip-flops are exact. LUTs go to the counter and to bits that are chosen from two sources, two
    bits a LUT: widening, those of the input or its side buffer; narrowing, all that are either
    loaded or shifted, and the output's. The fit saw widening only; narrowing was checked on three
    converters of truth/finn_reports_tfc (2 LUTs or less too few).
    """
    into, out_of = kernel.inputs[0].bits, kernel.outputs[0].bits
    if into == out_of:
        return Terms("WidthConverter.wire")
    narrow, wide = min(into, out_of), max(into, out_of)
    count = bits(-(-wide // narrow)) + 1
    if out_of > into:
        registers, chosen = wide + narrow + 1, narrow
    else:
        registers, chosen = wide + 2 * narrow + 2, wide
    return Terms(
        "WidthConverter",
        Resources(ff=registers + count),
        lut={"base": 1, "counter": count, "chosen": chosen},
    )


@terms.register
def _fork(kernel: Fork, part: Part) -> Terms:
    """HLS: a register slice for each side; not fitted."""
    width = kernel.pe * kernel.element.bits
    return _streaming(kernel.cycles, width * (1 + kernel.ways), 0)


@terms.register
def _join(kernel: Join, part: Part) -> Terms:
    """HLS: a register slice for each side, and a LUT for each bit of a sum; not fitted."""
    width = sum(operand.bits for operand in kernel.operands)
    operation = kernel.pe * kernel.output.bits * (len(kernel.operands) - 1)
    if kernel.function == "mul":
        operation = kernel.pe * kernel.operands[0].bits * kernel.operands[-1].bits
    elif kernel.function == "absdiff":
        operation *= 2
    return _streaming(kernel.cycles, kernel.pe * (width + kernel.output.bits), operation)


@terms.register
def _concat(kernel: Concat, part: Part) -> Terms:
    """HLS: register slices, and a multiplexer of as many ways as inputs; not fitted."""
    width = kernel.pe * kernel.element.bits
    ways = len(kernel.channels)
    return _streaming(kernel.cycles, width * (ways + 1), width * -(-ways // 2))


@terms.register
def _split(kernel: Split, part: Part) -> Terms:
    """HLS: register slices; not fitted."""
    width = kernel.pe * kernel.element.bits
    return _streaming(kernel.cycles, width * (1 + len(kernel.channels)), 0)


@terms.register
def _shuffle(kernel: Shuffle, part: Part) -> Terms:
    """Two pages (inner_shuffle.sv), or the one buffer of HLS; not fitted."""
    width = kernel.simd * kernel.element.bits
    pages = memory("auto", (1 + kernel.inner) * kernel.page // kernel.simd, width, part.fabric)
    control = _streaming(kernel.cycles, 2 * width, 0)
    return replace(control, known=control.known + pages)


def _streaming(cycles: int, registered: int, operation: int) -> Terms:
    """A small HLS kernel: the control of `LabelSelect`, a counter, and register slices.

    A slice holds two words: two flip-flops and half a LUT a bit.
    """
    counter = bits(cycles)
    return Terms(
        "LabelSelect",
        Resources(lut=operation + registered / 2 + counter, ff=2 * registered + counter),
        lut={"base": 1},
        ff={"base": 1},
        fitted=False,
    )
