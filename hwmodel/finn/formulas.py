"""FINN's own estimates of cycles and resources, reproduced to compare with.

They are what FINN writes into estimate_layer_cycles.json and estimate_layer_resources.json, right
or wrong: `hwmodel.streaming` is the model that follows the hardware. Source: `get_exp_cycles` and
`node_res_estimation` of the custom ops in finn-plus 1.6.1, src/finn/custom_op/fpgadataflow; of
Xilinx/finn for the operators that only it has (ChannelwiseOp, StreamingMaxPool, DownSampler).

Where Xilinx/finn (before August 2026) gives other numbers:

* RTL thresholding: BRAM is always 0 there, for it is looked up under a name that never occurs.
* HLS thresholding: counts one threshold of the input's width for each channel; URAM is 0.
* Depthwise windows over a line (height or width 1): another formula for the cycles.
* URAM efficiency of windows and thresholding is always 1 there.
* UpsampleNearestNeighbour: OFMDim^2 cycles, without folding.
* FIFOs: see `hwmodel.finn.fifo`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import singledispatch
from itertools import product
from typing import Literal, TypeAlias

from graphopt.errors import GraphoptError
from hwmodel import kernels as k
from hwmodel.finn.memories import (
    BRAM18_BITS,
    THRESHOLD_BLOCKS,
    URAM_BITS,
    Block,
    ceil_div,
    line_buffer_bram18,
    uram,
    weight_bram18,
)
from hwmodel.kernels.kernel import Kernel
from hwmodel.resources import Resources

Dsp: TypeAlias = Literal["DSP48E1", "DSP48E2", "DSP58"]
"""The multiplier of the device: 7-series, UltraScale(+), Versal."""


@dataclass(frozen=True)
class Estimated:
    """One node of FINN's resource report.

    Attributes:
        bram18, uram, lut, dsp: amounts.
        bram_efficiency, uram_efficiency: share of the bits of these blocks that hold data; 1
            where there is none.
    """

    bram18: int = 0
    bram_efficiency: float = 1
    lut: int = 0
    uram: int = 0
    uram_efficiency: float = 1
    dsp: int = 0

    @property
    def report(self) -> dict[str, float]:
        """With the keys of estimate_layer_resources.json."""
        return {
            "BRAM_18K": self.bram18,
            "BRAM_efficiency": self.bram_efficiency,
            "LUT": self.lut,
            "URAM": self.uram,
            "URAM_efficiency": self.uram_efficiency,
            "DSP": self.dsp,
        }

    @property
    def resources(self) -> Resources:
        """As `Resources`. FINN estimates no flip-flops."""
        return Resources(lut=self.lut, bram18=self.bram18, uram=self.uram, dsp=self.dsp)


def stored(bits: int, *, bram18: int = 0, urams: int = 0, lut: int = 0, dsp: int = 0) -> Estimated:
    """The estimate of a kernel whose memory of `bits` bits takes these blocks."""
    return Estimated(
        bram18,
        bits / (bram18 * BRAM18_BITS) if bram18 else 1,
        lut,
        urams,
        bits / (urams * URAM_BITS) if urams else 1,
        dsp,
    )


# ---- cycles


@singledispatch
def cycles(kernel: Kernel) -> int:
    """Cycles of a frame by FINN's `get_exp_cycles`.

    Raises:
        GraphoptError: FINN has no such kernel.
    """
    raise GraphoptError(f"{kernel.name}: FINN has no estimate for a {type(kernel).__name__}.")


@cycles.register(k.MatrixVector)
@cycles.register(k.VectorVector)
@cycles.register(k.Threshold)
@cycles.register(k.Channelwise)
@cycles.register(k.Padding)
@cycles.register(k.Downsample)
@cycles.register(k.Fork)
@cycles.register(k.Join)
@cycles.register(k.Concat)
@cycles.register(k.Pool)
@cycles.register(k.GlobalPool)
@cycles.register(k.Upsample)
@cycles.register(k.Shuffle)
@cycles.register(k.Split)
def _(kernel: Kernel) -> int:
    return kernel.cycles


@cycles.register
def _(kernel: k.LabelSelect) -> int:
    return kernel.inputs[0].words


@cycles.register
def _(kernel: k.WidthConverter) -> int:
    # FINN has no estimate for a converter; a wire is a Reshape, for which it has.
    return kernel.inputs[0].words if kernel.into == kernel.out_of else 0


@cycles.register
def _(kernel: k.MaxPool) -> int:
    height, width, k_h, k_w = kernel.height, kernel.width, *kernel.kernel
    if width == 1:
        height, width, k_h, k_w = width, height, k_w, k_h
    if height == 1 and k_h == 1:
        return width // k_w * kernel.fold * (k_w + 1)
    return int(width * width * (1 + 1 / (k_w * k_w)))


@cycles.register
def _(kernel: k.Window) -> int:
    if kernel.is_parallel:
        return kernel.inputs[0].words + 2
    fold = kernel.fold
    if kernel.height == 1 or kernel.width == 1:
        along = 0 if kernel.width == 1 else 1
        length, taps, stride = (
            (kernel.height, kernel.width)[along],
            kernel.kernel[along],
            kernel.stride[along],
        )
        out = (kernel.out_height, kernel.out_width)[along] * taps * fold
        if kernel.depthwise:
            out += (fold - 1) * taps
            into = length * fold + fold * (taps - 1) * (stride - 1)
            return max(out, into) + 2
        return out + 2
    taps = kernel.kernel[0] * kernel.kernel[1]
    # FINN takes the stride along the width for the rows read between two rows of windows.
    row = max(kernel.out_width * taps * fold, kernel.stride[1] * kernel.width * fold)
    gap = 0
    if kernel.depthwise:
        row += kernel.out_width * (kernel.stride[1] - 1) * (fold - 1)
        gap = (kernel.stride[0] - 1) * kernel.width * fold
    return kernel.window_words + kernel.out_height * row + gap


# ---- resources


@singledispatch
def resources(kernel: Kernel, *, dsp: Dsp = "DSP48E2") -> Estimated:
    """Resources by FINN's `node_res_estimation`.

    Args:
        kernel: the kernel.
        dsp: the multiplier of the device; only RTL MatrixVectors differ.

    Raises:
        GraphoptError: FINN has no such kernel.
    """
    raise GraphoptError(f"{kernel.name}: FINN has no estimate for a {type(kernel).__name__}.")


@resources.register(k.Padding)
@resources.register(k.Downsample)
@resources.register(k.Fork)
@resources.register(k.Join)
@resources.register(k.Concat)
@resources.register(k.MaxPool)
@resources.register(k.Pool)
@resources.register(k.GlobalPool)
@resources.register(k.Upsample)
@resources.register(k.LabelSelect)
@resources.register(k.Shuffle)
@resources.register(k.Split)
def _(kernel: Kernel, *, dsp: Dsp = "DSP48E2") -> Estimated:
    return Estimated()


@resources.register
def _(kernel: k.MatrixVector, *, dsp: Dsp = "DSP48E2") -> Estimated:
    width, depth = kernel.weight_width, kernel.weight_depth
    embedded = kernel.memory == "internal_embedded"
    outside = kernel.memory in ("external", "external_mem") or (embedded and depth <= 128)
    decoupled = kernel.memory == "internal_decoupled"
    blocks = 0 if outside or (decoupled and kernel.ram_style in ("distributed", "ultra")) else 1
    ultra = 0 if outside or (decoupled and kernel.ram_style != "ultra") else 1
    if kernel.backend == "rtl":
        if dsp == "DSP58":
            dsps = kernel.pe * ceil_div(kernel.simd, 3)
        else:
            dsps = ceil_div(kernel.pe, 4) * kernel.simd
        lut = 0
    else:
        pairs = kernel.pe * kernel.simd
        dsps = pairs * ceil_div(_operand_bits(kernel), 48) if kernel.resource == "dsp" else 0
        threshold = 0.0
        accumulator = _accumulator_bits(kernel, kernel.mw)
        if kernel.thresholds and kernel.ram_style_thresholds == "distributed":
            levels = 2**kernel.output.bits - 1
            tables = ceil_div(kernel.neuron_fold, 64)
            threshold = levels * accumulator * tables + levels * accumulator
        lut = _multiplier_luts(kernel, accumulator + threshold, depth)
    return stored(
        kernel.weight.bits * kernel.mw * kernel.mh,
        bram18=blocks * weight_bram18(width, depth),
        urams=ultra * uram(width, depth),
        lut=lut,
        dsp=dsps,
    )


@resources.register
def _(kernel: k.VectorVector, *, dsp: Dsp = "DSP48E2") -> Estimated:
    width, depth = kernel.weight_width, kernel.weight_depth
    decoupled = kernel.memory == "internal_decoupled"
    no_blocks = (
        (decoupled and kernel.ram_style in ("distributed", "ultra"))
        or (kernel.ram_style == "auto" and depth <= 128)
        or (kernel.memory == "internal_embedded" and depth <= 128)
        or kernel.memory == "external"
    )
    if kernel.backend == "rtl":
        dsps, lut = kernel.pe * ceil_div(kernel.simd, 3), 0
    else:
        dsps = kernel.pe * ceil_div(_operand_bits(kernel), 48) if kernel.resource == "dsp" else 0
        threshold = 0.0
        accumulator = _accumulator_bits(kernel, kernel.taps)
        if kernel.thresholds:
            levels = 2**kernel.output.bits - 1
            threshold = levels * accumulator * kernel.fold / 64 + levels * accumulator
        lut = _multiplier_luts(kernel, accumulator + threshold, depth)
    blocks = 0 if no_blocks else weight_bram18(width, depth, parity=False)
    urams = uram(width, depth) if decoupled and kernel.ram_style == "ultra" else 0
    estimate = stored(
        kernel.weight.bits * kernel.taps * kernel.channels, urams=urams, lut=lut, dsp=dsps
    )
    # FINN leaves SIMD out of the bits that it holds against the capacity of the BRAM.
    efficiency = kernel.weight.bits * kernel.pe * depth / (blocks * BRAM18_BITS) if blocks else 1
    return replace(estimate, bram18=blocks, bram_efficiency=efficiency)


def _operand_bits(kernel: k.MatrixVector | k.VectorVector) -> int:
    return kernel.weight.bits + kernel.input.bits


def _accumulator_bits(kernel: k.MatrixVector | k.VectorVector, length: int) -> float:
    """Bits of the accumulator, or those that `length` products need where that is fewer (the bound
    of arxiv.org/abs/2301.13376, with FINN's rounding).
    """
    alpha = math.log(length, 2) + _operand_bits(kernel) - 1 - int(kernel.input.signed)
    bound = math.ceil(alpha + math.log(1 + pow(2, -alpha), 2) + 1)
    return min(kernel.accumulator.bits, bound)


def _multiplier_luts(kernel: k.MatrixVector | k.VectorVector, beside: float, depth: int) -> int:
    """LUTs of an HLS kernel. `beside`: those of a processing element for accumulator and
    thresholds; `depth`: words of the weight memory.
    """
    bits, simd = _operand_bits(kernel), kernel.simd
    product_luts = 0 if kernel.resource == "dsp" else simd * (2 * ceil_div(bits, 6) - 1) * bits
    tree = bits * (2 * simd - 1)
    in_luts = kernel.memory == "internal_decoupled" and kernel.ram_style == "distributed"
    in_luts |= kernel.memory == "internal_embedded" and depth <= 128
    weights = kernel.weight_width * ceil_div(depth, 64) if in_luts else 0
    return int(300 + 1.1 * (kernel.pe * (product_luts + tree + beside)) + weights)


@resources.register
def _(kernel: k.Window, *, dsp: Dsp = "DSP48E2") -> Estimated:
    width = kernel.simd * kernel.element.bits
    depth, count = kernel.buffer_words, 1
    if kernel.is_parallel:
        reach = (kernel.kernel[1] - 1) * kernel.dilation[1] + 1
        depth = kernel.width - reach + kernel.width * (kernel.dilation[0] - 1)
        count = 0 if 1 in (kernel.height, kernel.width) else kernel.kernel[0] - 1
    lut, blocks, urams = 300, 0, 0
    match kernel.ram_style:
        case "distributed":
            lut += width * ceil_div(kernel.buffer_words, 38)
        case "ultra":
            urams = count * uram(width, depth)
        case _:
            blocks = count * line_buffer_bram18(width, depth)
    estimate = stored(width * depth * count, urams=urams, lut=lut)
    return replace(estimate, bram18=blocks)  # FINN reports no efficiency for it


@resources.register
def _(kernel: k.Threshold, *, dsp: Dsp = "DSP48E2") -> Estimated:
    if kernel.backend == "rtl":
        return _binary_search(kernel)
    width = kernel.pe * kernel.threshold.bits * kernel.steps
    depth = kernel.fold
    lut, blocks, urams = kernel.input.bits * kernel.pe, 0, 0
    if depth > 1:
        match kernel.ram_style:
            case "distributed":
                lut += width * ceil_div(depth, 64)
            case "block":
                blocks = ceil_div(width, 16) * ceil_div(depth, 1024)
            case "ultra":
                urams = uram(width, depth)
    return stored(width * depth, bram18=blocks, urams=urams, lut=lut)


def _binary_search(kernel: k.Threshold) -> Estimated:
    """Stage x of each processing element holds 2^x thresholds of each of its channels, in the
    blocks that it wastes least of.
    """
    low, high = kernel.depth_trigger_bram, kernel.depth_trigger_uram
    counts = dict.fromkeys(("uram", "bram", "lutram"), 0)
    used, capacity = dict(counts), dict(counts)
    for stage in range(kernel.output.bits):
        width, depth = kernel.threshold.bits, kernel.fold << stage
        blocks: tuple[Block, ...] = THRESHOLD_BLOCKS
        if low or high:
            if low <= depth < high:
                blocks = tuple(block for block in blocks if block.kind == "bram")
            elif depth >= high:
                blocks = tuple(block for block in blocks if block.kind == "uram")
        best = min(blocks, key=lambda block: block.waste(width, depth))
        number = kernel.pe * best.count(width, depth)
        counts[best.kind] += number
        used[best.kind] += kernel.pe * width * depth
        capacity[best.kind] += number * best.width * best.depth
    return Estimated(
        counts["bram"],
        used["bram"] / capacity["bram"] if counts["bram"] else 1,
        counts["lutram"],
        counts["uram"],
        used["uram"] / capacity["uram"] if counts["uram"] else 1,
    )


@resources.register
def _(kernel: k.Channelwise, *, dsp: Dsp = "DSP48E2") -> Estimated:
    if kernel.operator == "channelwise":
        return _channelwise_op(kernel)
    if kernel.memory != "internal_decoupled":  # FINN gives constants inside the kernel width 0
        return Estimated()
    constants = kernel.channels if kernel.constants is None else kernel.constants
    width = kernel.pe * kernel.parameter.bits
    depth = max(1, constants // kernel.pe)
    lut, blocks, urams = 0, 0, 0
    match kernel.ram_style:
        case "distributed":
            lut = width * ceil_div(depth, 64)
        case "ultra":
            urams = uram(width, depth)
        case _:
            blocks = weight_bram18(width, depth)
    return stored(width * depth, bram18=blocks, urams=urams, lut=lut)


def _channelwise_op(kernel: k.Channelwise) -> Estimated:
    width = kernel.input.bits * kernel.pe
    lut, blocks = width, 0
    if kernel.fold > 1:
        if kernel.ram_style == "block":
            blocks = ceil_div(width, 16) * ceil_div(kernel.fold, 1024)
        elif kernel.ram_style == "distributed":
            lut += width * ceil_div(kernel.fold, 64)
    return Estimated(bram18=blocks, lut=lut)


@resources.register
def _(kernel: k.WidthConverter, *, dsp: Dsp = "DSP48E2") -> Estimated:
    if kernel.into == kernel.out_of:
        return Estimated()
    counter = abs(math.ceil(math.log(kernel.into / kernel.out_of, 2)))
    return Estimated(lut=counter + kernel.outputs[0].bits)


# ---- alternatives


def alternatives(
    kernel: Kernel, *, dsp: Dsp = "DSP48E2", memories: bool = False
) -> tuple[Estimated, ...]:
    """The list of a node in estimate_layer_config_alternatives.json.

    Args:
        kernel: the kernel.
        dsp: as in `resources`.
        memories: False: as in Xilinx/finn, MVAU and VVAU with DSPs and with LUTs, windows with
            block, distributed and ultra memory. True: as in finn-plus 1.6.1, every combination of
            multiplier and memory that the kernel has attributes for.
    """
    return tuple(resources(variant, dsp=dsp) for variant in _variants(kernel, memories))


_STYLES = ("block", "distributed", "ultra")


def _variants(kernel: Kernel, memories: bool) -> Iterator[Kernel]:
    match kernel:
        case k.MatrixVector() | k.VectorVector():
            styles = _STYLES if memories else (kernel.ram_style,)
            for resource, style in product(("dsp", "lut"), styles):
                yield replace(kernel, resource=resource, ram_style=style)
        case k.Window():
            for style in _STYLES:
                yield replace(kernel, ram_style=style)
        case k.Threshold(backend="hls") | k.Channelwise() if memories:
            for style in _STYLES:
                yield replace(kernel, ram_style=style)
        case k.Join() if memories:  # has the attribute for its constants, even without any
            yield from (kernel,) * len(_STYLES)
        case _:
            yield kernel
