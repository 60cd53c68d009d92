"""From which point on an activation is linear: ReLU from 0, HardSwish from 3, Mish from 20.

Beyond a point t each value inside an activation is tracked as `a x + b`, or as "at least so much".
A smooth function that closes in on its limit counts as having reached it where the relative
difference is below 2^-53, half an ulp of float64: no float type of ONNX sees it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from passes.activations.function import Call, Function

POINTS = (0.0, 1.0, 3.0, 6.0, 12.0, 20.0, 40.0)
"""Where it is looked for."""

TANH, SIGMOID, ERF, SOFTPLUS = 19.1, 37.0, 5.95, 34.0
"""From here on 1 - tanh, 1 - sigmoid, 1 - erf and (softplus(x) - x) / x are below 2^-53."""


@dataclass(frozen=True)
class Beyond:
    """A value for all x >= t.

    Attributes:
        slope: a, where it is `a x + b`; None where it is known only from below.
        offset: b.
        least: a lower bound of the value.
    """

    slope: float | None
    offset: float
    least: float

    @classmethod
    def line(cls, slope: float, offset: float, t: float) -> Beyond:
        """`slope x + offset` beyond t."""
        low = slope * t + offset if slope >= 0 else -math.inf
        return cls(slope, offset, low)


def line_from(function: Function) -> tuple[float, float] | None:
    """The least of `POINTS` from which on the function is a multiple of x, and the factor; or None.

    The factor is 1 for an activation by itself; a scale that has gone into the next layer's weights
    (the 1/2 of GELU) leaves another.
    """
    for t in POINTS:
        last = _beyond_point(function, t)
        if last is not None and last.slope and last.offset == 0:
            return t, last.slope
    return None


def limit(function: Function) -> tuple[float, float] | None:
    """The least of `POINTS` from which on it is a constant, and that constant; or None."""
    for t in POINTS:
        last = _beyond_point(function, t)
        if last is not None and last.slope == 0:
            return t, last.offset
    return None


def _beyond_point(function: Function, t: float) -> Beyond | None:
    values: list[Beyond | None] = [Beyond.line(1.0, 0.0, t)]
    for call in function.calls:
        operands = [
            values[o]
            if isinstance(o, int)
            else Beyond.line(0.0, float(o[0]), t)
            if o.size == 1
            else None
            for o in call.operands
        ]
        rule = RULES.get(call.operator)
        known = all(operand is not None for operand in operands)
        values.append(rule(call, t, *operands) if rule is not None and known else None)
    return values[-1]


def _sum(call: Call, t: float, x: Beyond, y: Beyond) -> Beyond | None:
    if x.slope is None or y.slope is None:
        return None
    sign = -1.0 if call.operator == "Sub" else 1.0
    return Beyond.line(x.slope + sign * y.slope, x.offset + sign * y.offset, t)


def _product(call: Call, t: float, x: Beyond, y: Beyond) -> Beyond | None:
    for one, other in ((x, y), (y, x)):
        if one.slope == 0 and other.slope is not None:
            return Beyond.line(other.slope * one.offset, other.offset * one.offset, t)
    return None


def _quotient(call: Call, t: float, x: Beyond, y: Beyond) -> Beyond | None:
    if y.slope != 0 or y.offset == 0 or x.slope is None:
        return None
    return Beyond.line(x.slope / y.offset, x.offset / y.offset, t)


def _at_least_zero(call: Call, t: float, x: Beyond, *rest: Beyond) -> Beyond | None:
    """A function that is the identity on x >= 0."""
    return x if x.least >= 0 else None


def _threshold(call: Call, t: float, x: Beyond) -> Beyond | None:
    return x if x.least > call.parameters.get("alpha", 1.0) else None


def _limit(reached: float) -> Callable[..., Beyond | None]:
    """A function that has reached 1 at `reached`."""

    def rule(call: Call, t: float, x: Beyond) -> Beyond | None:
        return Beyond.line(0.0, 1.0, t) if x.least >= reached else None

    return rule


def _hard_sigmoid(call: Call, t: float, x: Beyond) -> Beyond | None:
    alpha, beta = call.parameters.get("alpha", 0.2), call.parameters.get("beta", 0.5)
    return Beyond.line(0.0, 1.0, t) if alpha > 0 and alpha * x.least + beta >= 1 else None


def _softplus(call: Call, t: float, x: Beyond) -> Beyond | None:
    if x.least >= SOFTPLUS:
        return x
    return Beyond(None, 0.0, max(x.least, 0.0))  # softplus(x) > max(x, 0)


def _clip(call: Call, t: float, x: Beyond, low: Beyond, high: Beyond) -> Beyond | None:
    if x.slope == 0:
        return Beyond.line(0.0, min(max(x.offset, low.offset), high.offset), t)
    if x.least >= high.offset:
        return Beyond.line(0.0, high.offset, t)
    return x if x.least >= low.offset and high.offset == math.inf else None


def _beyond(
    point: float, parameter: str = "", default: float = 1.0
) -> Callable[..., Beyond | None]:
    """A function that is the identity from `point` on, divided by its parameter if it has one."""

    def rule(call: Call, t: float, x: Beyond) -> Beyond | None:
        scale = call.parameters.get(parameter, default) if parameter else 1.0
        return x if scale > 0 and x.least * scale >= point else None

    return rule


RULES: dict[str, Callable[..., Beyond | None]] = {
    "Identity": lambda call, t, x: x,
    "Add": _sum,
    "Sub": _sum,
    "Mul": _product,
    "Div": _quotient,
    "Relu": _at_least_zero,
    "LeakyRelu": _at_least_zero,
    "PRelu": _at_least_zero,
    "Elu": _at_least_zero,
    "Celu": _at_least_zero,
    "ThresholdedRelu": _threshold,
    "Clip": _clip,
    "Tanh": _limit(TANH),
    "Sigmoid": _limit(SIGMOID),
    "Erf": _limit(ERF),
    "HardSigmoid": _hard_sigmoid,
    "Softplus": _softplus,
    "HardSwish": _beyond(3.0),
    "Mish": _beyond(TANH),
    "Swish": _beyond(SIGMOID, "alpha"),
    "QuickGelu": _beyond(SIGMOID, "alpha", 1.702),
    "Gelu": _beyond(12.0),
}
"""How each operator passes `Beyond` on."""
