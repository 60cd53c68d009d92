"""Operators that sum over weights: Conv, ConvTranspose, Gemm, MatMul, BatchNormalization."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from passes.ranges.constants import along
from passes.ranges.interval import ZERO, Array, Bounds, hull, product, times
from passes.ranges.rounding import Terms, power_of_two
from passes.ranges.rule import Result, Rules
from passes.ranges.step import Step

RULES = Rules()


@RULES.add("Conv")
def _conv(step: Step) -> Result:
    weight = step.array(1)
    if weight is None:
        return None
    return _dot(step, weight, _padded(step), _bias(step), 0)


@RULES.add("ConvTranspose")
def _conv_transpose(step: Step) -> Result:
    """Each position sums some of the taps, the others count as reading 0."""
    weight = step.array(1)
    if weight is None:
        return None
    groups = step.integer("group", 1)
    kernel = weight.shape[2:]
    depth = weight.shape[0] // groups
    rows = weight.reshape(groups, depth, weight.shape[1], *kernel).swapaxes(1, 2)
    rows = rows.reshape(groups * weight.shape[1], depth, *kernel)
    return _dot(step, rows, hull([step.x(), ZERO]), _bias(step), 0)


@RULES.add("Gemm")
def _gemm(step: Step) -> Result:
    weight = step.array(1)
    if weight is None or weight.ndim != 2:
        return None
    alpha, beta = step.number("alpha", 1.0), step.number("beta", 1.0)
    rows = weight if step.integer("transB", 0) else weight.T
    x = step.x().whole() if step.integer("transA", 0) else step.x()
    offset = step.aligned(2) if step.given(2) else ZERO
    extra = 0
    if alpha != 1:
        rows, extra = rows.astype(np.float64) * alpha, extra + 2
    if beta != 1:
        offset, extra = product(offset, Bounds.point(beta)), extra + 1
    return _dot(step, rows, x, offset, extra)


@RULES.add("MatMul")
def _matmul(step: Step) -> Result:
    """By a constant matrix, per channel if the left side is a matrix too.

    Above rank 2 the sum runs along the last axis, and axis 1 is no channel axis.
    """
    weight, shape = step.array(1), step.shape()
    if weight is None or weight.ndim != 2:
        return None
    if shape is not None and len(shape) == 2:
        return _dot(step, weight.T, step.x(), ZERO, 0)
    return _dot(step, weight.T, step.x().whole(), ZERO, 0).whole()


@RULES.add("BatchNormalization")
def _batch_norm(step: Step) -> Result:
    """`s x - s mean + bias` with `s = scale / sqrt(var + epsilon)`.

    12 roundings cover folding s and the shift first as well as normalizing x first.
    """
    trains = step.integer("training_mode", 0) or (
        step.version < 7 and not step.integer("is_test", 0)
    )
    arrays = [step.array(index) for index in range(1, 5)]
    if trains or any(output.name for output in step.node.outputs[1:]):
        return None
    known = [array.astype(np.float64) for array in arrays if array is not None]
    if len(known) < 4 or any(array.ndim != 1 for array in known):
        return None
    scale, bias, mean, variance = known
    variance = variance + step.number("epsilon", 1e-5)
    if not (variance > 0).all():
        return None
    slope = scale / np.sqrt(variance)
    shift = -mean * slope
    terms = Terms.of(product(step.x(), Bounds.point(slope)))
    terms = terms.plus(Terms.of(Bounds.point(shift))).plus(Terms.of(Bounds.point(bias)))
    return terms.rounded(step.kind, 12, 3)


def _padded(step: Step) -> Bounds:
    """What a window reads: at a padded border, zeros too."""
    x = step.x()
    automatic = step.text("auto_pad", "NOTSET") not in ("NOTSET", "VALID")
    pads = any(step.integers("pads") or ()) and step.text("auto_pad", "NOTSET") != "VALID"
    return hull([x, ZERO]) if automatic or pads else x


def _bias(step: Step) -> Bounds:
    """The bias of a convolution, shape [] or [M]."""
    if not step.given(2):
        return ZERO
    array = step.array(2)
    return (None if array is None else along(array, 0)) or step.x(2).whole()


def _dot(step: Step, weight: npt.NDArray[Any], x: Bounds, bias: Bounds, extra: int) -> Bounds:
    """Bounds of `sum over c, k of weight[m, c, k] x[c, .] + bias[m]`.

    Args:
        step: the node.
        weight: shape [M, C / groups, *kernel]; rows are dealt to the groups in order.
        x: bounds of the input, shape [] or [C].
        bias: shape [] or [M].
        extra: further roundings of each product.
    """
    if weight.dtype.itemsize < 4:
        weight = weight.astype(np.float32)
    rows, depth = weight.shape[0], weight.shape[1]
    groups = 1 if x.low.ndim == 0 else x.low.size // depth
    low, high = (np.broadcast_to(side, (groups * depth,)).reshape(groups, depth) for side in x)
    up, down = np.maximum(low, 0), np.minimum(high, 0)
    under, over = np.minimum(low, 0), np.maximum(high, 0)
    taps = weight.reshape(groups, rows // groups, depth, -1)
    chunk = max(1, 2**22 // max(1, groups * taps[0, 0].size))
    blocks: list[Terms] = []
    for start in range(0, rows // groups, chunk):
        block = taps[:, start : start + chunk]
        positive = np.maximum(block, 0).sum(axis=3, dtype=np.float64)
        negative = np.minimum(block, 0).sum(axis=3, dtype=np.float64)
        blocks.append(
            Terms(
                _weighted(positive, under) + _weighted(negative, over),
                _weighted(positive, up) + _weighted(negative, down),
                _weighted(positive, down) + _weighted(negative, up),
                _weighted(positive, over) + _weighted(negative, under),
            )
        )
    terms = Terms(*(np.concatenate(s, axis=1).reshape(rows) for s in zip(*blocks, strict=True)))
    others = tuple(range(1, weight.ndim))
    count = np.count_nonzero(weight, axis=others)
    single = (count == 1) & power_of_two(weight.sum(axis=others))
    biased = ((bias.low != 0) | (bias.high != 0)) & (count > 0)
    return terms.plus(Terms.of(bias)).rounded(step.kind, count - single + biased + extra, count)


def _weighted(weight: Array, side: Array) -> Array:
    """Weighted sums over the channels of each group, 0 * inf being 0.

    Args:
        weight: of one sign, shape [groups, rows, depth].
        side: of one sign, shape [groups, depth].

    Returns:
        Shape [groups, rows].
    """
    if not side.any():
        return np.zeros(weight.shape[:2])
    endless = np.where(np.isinf(side), np.sign(side), 0.0)
    total = np.matmul(weight, np.where(endless, 0.0, side)[..., None])[..., 0]
    if endless.any():
        total += times(np.matmul(weight, endless[..., None])[..., 0], np.inf)
    return np.asarray(total)
