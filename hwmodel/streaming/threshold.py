"""Thresholds and channelwise operations (finn-rtllib/thresholding)."""

from __future__ import annotations

from hwmodel.kernels import Channelwise, Threshold
from hwmodel.resources import Resources
from hwmodel.streaming.fabric import bits, in_blocks, memory_kind, single_port
from hwmodel.streaming.terms import Part, Terms, terms


@terms.register
def _threshold(kernel: Threshold, part: Part) -> Terms:
    """thresholding.sv: N stages of a binary search, each with its memory and comparator.

    Stage s holds C / PE 2^s thresholds for each processing element. Where all channels share their
    thresholds (`shared`), memories shrink to constants, and the first stage compares with one.
    An output FIFO of SRLs takes what is in the pipeline when the sink stalls. The data are input
    quantizers, all of the shared kind: of others the memory is structure alone.
    """
    stages, pe = kernel.stages, kernel.pe
    width = kernel.input.bits
    held = Resources()
    for stage in range(stages):
        depth = kernel.fold * 2**stage
        if not kernel.shared and depth > 1:
            held += _stage(kernel, depth, part) * pe
    deep = stages if kernel.deep_pipeline else 0
    values = width * (stages + max(0, deep - 1))
    if kernel.shared and stages == 1:
        values = 1  # one bit decides where the threshold is a power of two
    results = stages * (stages - 1) // 2 + deep * (stages + 1) // 2 + stages
    channel = 0 if kernel.shared else bits(kernel.fold) * (stages + deep)
    compared = stages - 1 if kernel.shared else stages
    known = held + Resources(lut=pe * stages, srl=pe * stages, ff=pe * (values + results) + channel)
    return Terms(
        "Threshold",
        known,
        lut={"base": 1, "comparator": pe * width * compared},
        ff={"base": 1},
        fitted=kernel.shared and kernel.backend == "rtl",
    )


def _stage(kernel: Threshold, depth: int, part: Part) -> Resources:
    """The memory of one stage of one processing element (RAM_STYLE in thresholding.sv)."""
    width = kernel.threshold.bits
    style = "auto"
    if kernel.depth_trigger_uram and depth >= kernel.depth_trigger_uram:
        style = "ultra"
    elif kernel.depth_trigger_bram and depth >= kernel.depth_trigger_bram:
        style = "block"
    elif kernel.depth_trigger_bram and depth >= 64:
        style = "distributed"
    kind = memory_kind(style, depth, width, part.fabric)
    if kind == "distributed":
        return single_port(depth, width)
    return in_blocks(kind, depth, width, part.fabric)


@terms.register
def _channelwise(kernel: Channelwise, part: Part) -> Terms:
    """A memory of constants, and an adder or multiplier for each element; not fitted."""
    constants = kernel.channels if kernel.constants is None else kernel.constants
    width, depth = kernel.parameter.bits * kernel.pe, constants // kernel.pe
    known = Resources()
    if depth > 1 and kernel.memory != "external":
        kind = memory_kind(kernel.ram_style, depth, width, part.fabric)
        known = single_port(depth, width)
        if kind != "distributed":
            known = in_blocks(kind, depth, width, part.fabric)
    operation = kernel.pe * kernel.output.bits
    if kernel.function == "mul":
        operation = kernel.pe * kernel.input.bits * kernel.parameter.bits
    ports = kernel.pe * (kernel.input.bits + kernel.output.bits)
    counter = bits(kernel.cycles)
    known += Resources(lut=operation + ports / 2 + counter, ff=2 * ports + counter)
    return Terms("LabelSelect", known, lut={"base": 1}, ff={"base": 1}, fitted=False)
