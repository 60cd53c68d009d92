"""Activations that rise, or bend at 0; those that fall before they rise are in `gates`."""

from __future__ import annotations

import numpy as np

from passes.ranges.elementary import ELEMENTARY, elementary, erf, sigmoid, signed, softplus
from passes.ranges.interval import Array, Bounds, hull, product
from passes.ranges.rounding import exact
from passes.ranges.rule import Result, Rules
from passes.ranges.step import Step

RULES = Rules()


@RULES.add("Relu", integers=True)
def _relu(step: Step) -> Result:
    return step.x().clip(bottom=0)


@RULES.add("Clip", integers=True)
def _clip(step: Step) -> Result:
    """Bounds are inputs since opset 11, attributes before; where min > max, max wins."""
    x = step.x()
    if step.version < 11:
        bottom = Bounds.point(step.number("min", -np.inf))
        top = Bounds.point(step.number("max", np.inf))
    else:
        bottom = step.x(1).whole() if step.given(1) else Bounds.point(-np.inf)
        top = step.x(2).whole() if step.given(2) else Bounds.point(np.inf)
    return Bounds.of(
        np.minimum(np.maximum(x.low, bottom.low), top.low),
        np.minimum(np.maximum(x.high, bottom.high), top.high),
    )


@RULES.add("LeakyRelu")
def _leaky_relu(step: Step) -> Result:
    return _bent(step, Bounds.point(step.number("alpha", 0.01)))


@RULES.add("PRelu")
def _prelu(step: Step) -> Result:
    return _bent(step, step.aligned(1))


def _bent(step: Step, slope: Bounds) -> Bounds:
    """`x` above 0, `slope * x` below."""
    x = step.x()
    below = step.rounded(product(x.clip(top=0), slope), 0 if exact(slope) else 1)
    above = x.clip(bottom=0)
    both = hull([above, below])
    low = np.where(x.low >= 0, above.low, np.where(x.high <= 0, below.low, both.low))
    high = np.where(x.low >= 0, above.high, np.where(x.high <= 0, below.high, both.high))
    return Bounds.of(low, high)


@RULES.add("Sigmoid")
def _sigmoid(step: Step) -> Result:
    return elementary(step, sigmoid, absolute=ELEMENTARY, lowest=0, highest=1)


@RULES.add("Tanh")
def _tanh(step: Step) -> Result:
    return elementary(step, np.tanh)


@RULES.add("Erf")
def _erf(step: Step) -> Result:
    return signed(step, elementary(step, erf, absolute=ELEMENTARY))


@RULES.add("Exp")
def _exp(step: Step) -> Result:
    return elementary(step, np.exp, lowest=0)


@RULES.add("Sqrt")
def _sqrt(step: Step) -> Result:
    """Of what is not negative: the root of anything else is NaN."""
    return elementary(step, lambda x: np.sqrt(np.maximum(x, 0)), lowest=0)


@RULES.add("Softplus")
def _softplus(step: Step) -> Result:
    return elementary(step, softplus, absolute=ELEMENTARY, lowest=0)


@RULES.add("Elu Selu Celu")
def _elu(step: Step) -> Result:
    """`gamma x` above 0, `gamma alpha (exp(x / c) - 1)` below."""
    kind = step.node.op_type
    alpha = step.number("alpha", 1.6732632 if kind == "Selu" else 1.0)
    gamma = step.number("gamma", 1.0507010) if kind == "Selu" else 1.0
    inner = alpha if kind == "Celu" else 1.0
    if alpha < 0 or gamma < 0 or inner <= 0:
        return None

    def function(x: Array) -> Array:
        return np.where(x > 0, gamma * x, gamma * alpha * np.expm1(np.minimum(x, 0) / inner))

    return signed(step, elementary(step, function, absolute=ELEMENTARY * gamma * alpha))


@RULES.add("HardSigmoid")
def _hard_sigmoid(step: Step) -> Result:
    alpha, beta = step.number("alpha", 0.2), step.number("beta", 0.5)
    scaled = product(step.x(), Bounds.point(alpha))
    return step.total([scaled, Bounds.point(beta)], extra=1).clip(0, 1)


@RULES.add("Softmax")
def _softmax(step: Step) -> Result:
    return Bounds.of(0, 1 + ELEMENTARY * step.kind.unit)
