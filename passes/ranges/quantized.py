"""Quantizers: QuantizeLinear and DequantizeLinear, and those of QONNX."""

from __future__ import annotations

import numpy as np
import onnx_ir

from passes.ranges.constants import along
from passes.ranges.formats import INTEGERS
from passes.ranges.interval import ZERO, Bounds, product, reciprocal
from passes.ranges.rule import Result, Rules
from passes.ranges.step import Step

_QONNX = ("qonnx.custom_op.general", "onnx.brevitas", "finn.custom_op.general")

RULES = Rules()


@RULES.add("QuantizeLinear", domains=["", "com.microsoft"], integers=True)
def _quantize_linear(step: Step) -> Result:
    """`saturate(round(x / scale) + zero_point)`.

    Rounding to the nearest stays between floor and ceiling, whatever the error of the quotient.
    """
    scale, zero = _per_channel(step, 1), _zero_point(step)
    dtype = step.made.dtype
    if dtype is None and step.given(2):
        dtype = step.info(2).dtype
    room = INTEGERS.get(dtype or onnx_ir.DataType.UINT8)
    if room is None or scale is None or zero is None or not (scale.low > 0).all():
        return None
    steps = product(step.x(), reciprocal(scale))
    places = Bounds.of(np.floor(steps.low) + zero.low, np.ceil(steps.high) + zero.high)
    return places.clip(*room)


@RULES.add("DequantizeLinear", domains=["", "com.microsoft"])
def _dequantize_linear(step: Step) -> Result:
    """`(x - zero_point) scale`."""
    scale, zero = _per_channel(step, 1), _zero_point(step)
    x = step.x()
    if not np.isfinite(x.low).all() and step.given(2):
        x = INTEGERS.get(step.info(2).dtype, x)
    if scale is None or zero is None:
        return None
    steps = Bounds.of(x.low - zero.high, x.high - zero.low)
    return step.rounded(product(steps, scale), 2)


def _zero_point(step: Step) -> Bounds | None:
    """The zero point, which is optional; None where it is no constant."""
    return _per_channel(step, 2) if step.given(2) else ZERO


def _per_channel(step: Step, index: int) -> Bounds | None:
    """Scale or zero point: per channel if it is given along axis 1, else one for all.

    None where it is no constant.
    """
    array, shape = step.array(index), step.shape()
    if array is None:
        return None
    axis = step.axis(step.integer("axis", 1))
    if array.ndim != 1 or array.size == 1 or axis != 1 or shape is None or len(shape) < 2:
        return along(array, None)
    return along(array, 0)


@RULES.add("Quant IntQuant", domains=_QONNX)
def _quant(step: Step) -> Result:
    """QONNX: `(clip(round(x / scale + zero_point)) - zero_point) scale`.

    Bounded by the bit width and, whichever way it rounds, by the floor and the ceiling.
    """
    bits = step.array(3)
    scale, zero = step.aligned(1), step.aligned(2)
    if bits is None or bits.size != 1 or not (scale.low > 0).all() or not zero.constant:
        return None
    width, narrow = float(bits.reshape(-1)[0]), step.integer("narrow", 0)
    if step.integer("signed", 1):
        bottom, top = -(2 ** (width - 1)) + narrow, 2 ** (width - 1) - 1
    else:
        bottom, top = 0.0, 2**width - 1 - narrow
    places = step.total([product(step.x(), reciprocal(scale)), zero], extra=1)
    low, high = Bounds(np.floor(places.low), np.ceil(places.high)).clip(bottom, top)
    steps = Bounds.of(low - zero.high, high - zero.low)
    return step.rounded(product(steps, scale), 2)


@RULES.add("BipolarQuant", domains=_QONNX)
def _bipolar_quant(step: Step) -> Result:
    """-scale or +scale."""
    scale = step.aligned(1)
    reach = np.maximum(np.abs(scale.low), np.abs(scale.high))
    return Bounds.of(-reach, reach)


@RULES.add("MultiThreshold", domains=_QONNX)
def _multi_threshold(step: Step) -> Result:
    """`out_bias + out_scale n` with n the number of thresholds [C, T] that x reaches."""
    thresholds = step.array(1)
    if thresholds is None or thresholds.ndim != 2:
        return None
    scale, bias = step.number("out_scale", 1.0), step.number("out_bias", 0.0)
    counts = product(Bounds.of(0, thresholds.shape[1]), Bounds.point(scale))
    return step.total([counts, Bounds.point(bias)], extra=1)
