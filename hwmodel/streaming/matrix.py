"""Matrix-vector units (finn-rtllib/mvu, finn-hlslib mvau.hpp) with their weight memories."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from hwmodel.kernels import MatrixVector, VectorVector
from hwmodel.resources import Resources
from hwmodel.streaming.fabric import (
    bits,
    bytewise,
    dual_port,
    in_blocks,
    memory_kind,
    selector,
    single_port,
)
from hwmodel.streaming.terms import Part, Terms, terms


@dataclass(frozen=True)
class _Array:
    """The multipliers of a kernel and what feeds them.

    Attributes:
        products: multiplications in a cycle.
        elements: processing elements.
        operands: bits of an input and of a weight.
        dsps: multipliers taken; "auto" takes none in HLS, as FINN counts.
        loose: products left to LUTs.
    """

    products: int
    elements: int
    operands: tuple[int, int]
    dsps: int
    loose: int


def _core(kernel: MatrixVector | VectorVector, part: Part) -> str:
    """As FINN's _resolve_impl_style: by the operands' widths and the DSP of the family."""
    if part.fabric.dsp == "DSP58" or isinstance(kernel, VectorVector):
        return "mvu_vvu_8sx9_dsp58"
    narrow = kernel.input.bits <= 4 and kernel.weight.bits <= 4
    return "mvu_4sx4u" if narrow else "mvu_8sx8u_dsp48"


def _lanes(core: str) -> int:
    """Products of different rows that one DSP computes at once."""
    return {"mvu_4sx4u": 4, "mvu_8sx8u_dsp48": 2}.get(core, 1)


def _packed(core: str, pe: int, simd: int) -> int:
    """DSPs of an RTL core; a DSP58 adds three products of one row."""
    if core == "mvu_vvu_8sx9_dsp58":
        return pe * ceil(simd / 3)
    return ceil(pe / _lanes(core)) * simd


def _array(kernel: MatrixVector | VectorVector, part: Part) -> _Array:
    products = kernel.pe * kernel.simd
    operands = (kernel.input.bits, kernel.weight.bits)
    if kernel.backend == "rtl":  # the DSPs are instantiated: none of them can become LUTs
        pumped = isinstance(kernel, MatrixVector) and kernel.pumped
        simd = ceil(kernel.simd / 2) if pumped else kernel.simd
        dsps = _packed(_core(kernel, part), kernel.pe, simd)
        return _Array(products, kernel.pe, operands, dsps, 0)
    if kernel.resource != "dsp" or max(operands) == 1:
        return _Array(products, kernel.pe, operands, 0, products)
    # FINN divides the sum of the bits by 48; a DSP multiplies 25 x 18 bits (UG479).
    each = ceil(max(operands) / 25) * ceil(min(operands) / 18)
    held = products if part.dsps is None else min(products, part.dsps // each)
    return _Array(products, kernel.pe, operands, held * each, products - held)


def _weights(kernel: MatrixVector | VectorVector, part: Part) -> Resources:
    """The weight memory: words padded to bytes, as memstream has them."""
    if kernel.memory == "external":
        return Resources()
    depth, width = kernel.weight_depth, bytewise(kernel.weight_width)
    if kernel.memory == "internal_embedded":
        width = kernel.weight_width
    kind = memory_kind(kernel.ram_style, depth, width, part.fabric)
    if kind == "distributed":
        return single_port(depth, width)
    return in_blocks(kind, depth, width, part.fabric)


def _multiplier(first: int, second: int) -> int:
    """Bits of the rows of a multiplier of LUTs: a row for each two bits of the narrower operand."""
    return ceil(min(first, second) / 2) * (max(first, second) + 2)


@terms.register
def _matrix_vector(kernel: MatrixVector, part: Part) -> Terms:
    """A matrix-vector unit; by its backend.

    HLS (mvau.hpp): the vector is kept in MW A registers behind a decoder and a multiplexer of SF
    ways; PE SIMD products are added in a tree; thresholds are constants, compared all at once.
    RTL (mvu_vvu_axi.sv, mvu_4sx4u.sv, mvu_8sx8u_dsp48.sv): a replay buffer, DSPs that each compute
    several products, and adder trees.
    """
    if kernel.backend == "rtl":
        words, width = 2 ** bits(kernel.synapse_fold), kernel.simd * kernel.input.bits
        replay = Resources()
        if kernel.neuron_fold > 1:
            kind = memory_kind("auto", words, width, part.fabric)
            replay = dual_port(words, width, part.fabric)
            if kind == "block":
                replay = in_blocks(kind, words, width, part.fabric)
        return _rtl(kernel, part, kernel.neuron_fold, replay)
    return _hls(kernel, part, kernel.mw, kernel.neuron_fold, kernel.simd * kernel.input.bits)


@terms.register
def _vector_vector(kernel: VectorVector, part: Part) -> Terms:
    """As `MatrixVector` without the vector's buffer; not fitted."""
    if kernel.backend == "rtl":
        what = _rtl(kernel, part, 1, Resources())
    else:
        width = kernel.pe * kernel.simd * kernel.input.bits
        what = _hls(kernel, part, 0, kernel.fold, width)
    return Terms(what.group, what.known, what.lut, what.ff, fitted=False)


def _hls(
    kernel: MatrixVector | VectorVector, part: Part, kept: int, rows: int, width: int
) -> Terms:
    array = _array(kernel, part)
    activation, weight = array.operands
    binary = activation == weight == 1
    accumulator, steps = kernel.accumulator.bits, kernel.thresholds
    fold = kernel.synapse_fold if kept else 1
    depth = bits(kernel.weight_depth)
    compared = array.elements * steps * accumulator
    joined = (kernel.simd - 1) * array.elements
    lut = {
        "base": 1,
        "counter": depth,
        "decoder": fold if fold > 1 else 0,
        "multiplexer": width * selector(fold),
        "xnor": array.products if binary else 0,
        "multiplier": array.loose * _multiplier(activation, weight) if not binary else 0,
        "adder": joined * (activation + weight) if not binary else 0,
        "comparator": compared,
        "stream": width + array.products * weight + array.elements * kernel.output.bits,
    }
    ff = {
        "base": 1,
        "counter": depth,
        "vector": kept * activation if rows > 1 else 0,
        "stream": width + array.products * weight + array.elements * kernel.output.bits,
        "xnor": array.products if binary else 0,
        "multiplier": array.loose * (activation + weight) if not binary else 0,
        "adder": joined * (activation + weight) if not binary else 0,
        "accumulator": array.elements * accumulator,
        "comparator": compared,
    }
    known = _weights(kernel, part) + Resources(dsp=array.dsps)
    return Terms("MatrixVector.hls", known, lut, ff)


def _rtl(kernel: MatrixVector | VectorVector, part: Part, rows: int, replay: Resources) -> Terms:
    """Replay buffer, DSP cores, adder trees over SIMD, and a register slice at the output.

    Of the lanes of a DSP the leftmost is as wide as the accumulator. Each of the others needs
    outside of the DSP: the two low bits of its products computed once more (a LUT), accumulated
    and subtracted (two each), a tree of the carries found so, and an accumulator of them.
    """
    array = _array(kernel, part)
    pe, simd, accumulator = kernel.pe, kernel.simd, kernel.accumulator.bits
    fold = kernel.synapse_fold
    counters = 2 * (bits(kernel.weight_depth) + 1) + bits(fold) + bits(rows) + 2
    if rows > 1:
        counters += 3 * (bits(fold) + 1)
    lut, ff = counters + pe * accumulator / 2, counters + 2 * pe * accumulator
    ff += simd * kernel.input.bits if rows > 1 else 0
    lanes = _lanes(_core(kernel, part))
    if lanes > 1:
        leading = ceil(pe / lanes)
        guarded = pe - leading
        low = 8 if lanes == 4 else sum(array.operands)
        lut += (simd - 1) * (leading * accumulator + guarded * (low + 2 + 4))
        lut += guarded * (5 * simd + max(0, accumulator - low) + accumulator)
        ff += guarded * (6 * simd + low + bits(simd) + max(0, accumulator - low))
        ff += leading * accumulator + pe * accumulator
    known = _weights(kernel, part) + replay + Resources(lut=lut, ff=ff, dsp=array.dsps)
    # Fitted on one shape with PE = SIMD = 1: enough for the control, not for what grows.
    return Terms("MatrixVector.rtl", known, lut={"base": 1}, ff={"base": 1}, fitted=False)
