"""Elementwise arithmetic: sums, products, extremes, casts and rounding to whole numbers."""

from __future__ import annotations

from functools import reduce

import numpy as np

from passes.ranges.formats import FLOATS, INTEGERS
from passes.ranges.gates import gate_of, gated
from passes.ranges.interval import Bounds, hull, product, reciprocal
from passes.ranges.rounding import exact
from passes.ranges.rule import Result, Rules
from passes.ranges.step import Step

RULES = Rules()


@RULES.add("Add Sum")
def _add(step: Step) -> Result:
    return step.total(_operands(step))


@RULES.add("Sub")
def _sub(step: Step) -> Result:
    return step.total([step.aligned(0), -step.aligned(1)])


@RULES.add("Mul")
def _mul(step: Step) -> Result:
    left, right = step.node.inputs
    if left is right:
        x = step.aligned(0)
        squares = Bounds.of(np.minimum(x.low**2, x.high**2), np.maximum(x.low**2, x.high**2))
        inside = (x.low <= 0) & (x.high >= 0)
        return step.rounded(Bounds.of(np.where(inside, 0.0, squares.low), squares.high), 1)
    for data, gate in ((0, right), (1, left)):
        function = gate_of(step, step.value(data), gate)
        if function is not None:
            return gated(step, step.aligned(data), function)
    x, y = step.aligned(0), step.aligned(1)
    return step.rounded(product(x, y), 0 if exact(x) or exact(y) else 1)


@RULES.add("Div")
def _div(step: Step) -> Result:
    x, y = step.aligned(0), step.aligned(1)
    # the float64 reciprocal here is one more rounding, which `rounded` allows for
    return step.rounded(product(x, reciprocal(y)), 0 if exact(y) else 1)


@RULES.add("Max Min", integers=True)
def _extreme(step: Step) -> Result:
    function = np.maximum if step.node.op_type == "Max" else np.minimum
    lows, highs = zip(*_operands(step), strict=True)
    return Bounds.of(reduce(function, lows), reduce(function, highs))


@RULES.add("Where", integers=True)
def _where(step: Step) -> Result:
    return hull([step.aligned(1), step.aligned(2)])


@RULES.add("Neg")
def _neg(step: Step) -> Result:
    return -step.x()


@RULES.add("Abs")
def _abs(step: Step) -> Result:
    low, high = step.x()
    nearest = np.maximum(np.maximum(low, -high), 0)
    return Bounds.of(nearest, np.maximum(np.abs(low), np.abs(high)))


@RULES.add("Cast", integers=True)
def _cast(step: Step) -> Result:
    """To a float type: rounded where that is coarser; to an integer: cut off, if it fits."""
    x, source, target = step.x(), step.info(0).dtype, step.made.dtype
    if source is None or target is None:
        return None
    if target in FLOATS:
        finest = FLOATS[source].unit if source in FLOATS else 0.0
        whole = source in INTEGERS and max(-x.low.min(), x.high.max()) <= 1 / step.kind.unit
        return step.rounded(x, 0 if whole or finest >= step.kind.unit else 1)
    if source not in FLOATS or not target.is_integer():
        return None
    room = INTEGERS.get(target, Bounds.of(-(2.0**31), 2.0**31 - 1))
    low, high = np.trunc(x.low), np.trunc(x.high)
    return Bounds.of(low, high) if (low >= room.low).all() and (high <= room.high).all() else None


@RULES.add("Floor Ceil Round", integers=True)
def _round(step: Step) -> Result:
    function = {"Floor": np.floor, "Ceil": np.ceil, "Round": np.rint}[step.node.op_type]
    return Bounds.of(*(function(side) for side in step.x()))


def _operands(step: Step) -> list[Bounds]:
    return [step.aligned(index) for index in range(len(step.node.inputs))]
