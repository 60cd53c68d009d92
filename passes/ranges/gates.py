"""Activations x * g(x) with a gate g: Swish, Mish, HardSwish and Gelu, whole or as products."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import onnx_ir

from passes.ranges.elementary import ELEMENTARY, erf, sigmoid, softplus
from passes.ranges.interval import Array, Bounds, times
from passes.ranges.rule import Result, Rules
from passes.ranges.step import Step

RULES = Rules()


class Gate(NamedTuple):
    """A function x * g(x) with g between 0 and `top`: it falls to one minimum, then rises.

    Attributes:
        function: g, 0 at -inf.
        lowest_at: where the minimum is.
        reach: below -reach, g is exactly 0 in floats.
        top: the largest value of g.
    """

    function: Callable[[Array], Array]
    lowest_at: float
    reach: float
    top: float = 1.0

    def __call__(self, x: Array) -> Array:
        return times(x, self.function(x))


@RULES.add("Swish")
def _swish(step: Step) -> Result:
    gate = _swish_gate(step, step.number("alpha", 1.0))
    return gate and gated(step, step.x(), gate)


@RULES.add("QuickGelu", domains=["com.microsoft"])
def _quick_gelu(step: Step) -> Result:
    gate = _swish_gate(step, step.number("alpha", 1.702))
    return gate and gated(step, step.x(), gate)


@RULES.add("Mish")
def _mish(step: Step) -> Result:
    return gated(step, step.x(), _mish_gate(step))


@RULES.add("HardSwish")
def _hard_swish(step: Step) -> Result:
    gate = _hard_gate(1 / 6, 0.5, 1.0)
    return gate and gated(step, step.x(), gate)


@RULES.add("Gelu", domains=["", "com.microsoft"])
def _gelu(step: Step) -> Result:
    """`x Phi(x)`, or with `approximate="tanh"` the tanh formula in place of erf."""

    def exact(x: Array) -> Array:
        return np.asarray(0.5 * (1 + erf(x / math.sqrt(2))))

    def by_tanh(x: Array) -> Array:
        return np.asarray(0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))))

    if step.text("approximate", "none") == "tanh":
        return gated(step, step.x(), _smooth(step, by_tanh, -0.7524614220710162))
    return gated(step, step.x(), _smooth(step, exact, -0.7517915246935645))


def gated(step: Step, x: Bounds, gate: Gate) -> Bounds:
    """Bounds of x * g(x). An error of g, 32 u of its top, counts only where g is not yet 0."""
    low = gate(np.clip(gate.lowest_at, x.low, x.high))
    high = np.maximum(gate(x.low), gate(x.high))
    low, high = step.rounded(Bounds.of(low, high), ELEMENTARY)
    slack = ELEMENTARY * step.kind.unit * gate.top * np.clip(-x.low, 0, gate.reach)
    return Bounds.of(
        np.where(x.low >= 0, np.maximum(low, 0), low - slack),
        np.where(x.high <= 0, np.minimum(high + slack, 0), high + slack),
    )


def gate_of(step: Step, x: onnx_ir.Value | None, gate: onnx_ir.Value | None) -> Gate | None:
    """Reads `gate` as a function of `x`, None for any other product.

    These are the products that exporters write for Swish, Mish and HardSwish.
    """
    node = gate.producer() if gate is not None else None
    if node is None or x is None or node.domain not in ("", "ai.onnx"):
        return None
    inner = Step(node, step.facts, step.kind)
    source = inner.value(0)
    made_by = source.producer() if source is not None else None
    match node.op_type:
        case "Sigmoid" if source is x:
            return _swish_gate(step, 1.0)
        case "HardSigmoid" if source is x:
            return _hard_gate(inner.number("alpha", 0.2), inner.number("beta", 0.5), 1.0)
        case "Tanh" if made_by is not None and made_by.op_type == "Softplus":
            return _mish_gate(step) if made_by.inputs[0] is x else None
        case "Clip" if made_by is not None and made_by.op_type == "Add" and x in made_by.inputs:
            shift = next((v for v in made_by.inputs if v is not x), None)
            array, (bottom, top) = step.facts.array(shift), _clip_ends(inner)
            if array is None or array.size != 1 or bottom != 0:
                return None
            return _hard_gate(1.0, float(array.reshape(-1)[0]), top)
        case _:
            return None


def _clip_ends(step: Step) -> tuple[float, float]:
    """The constant bounds of a Clip; NaN for one that is no constant."""
    if step.version < 11:
        return step.number("min", -np.inf), step.number("max", np.inf)
    ends = [step.array(1), step.array(2)]
    low, high = (float(e.reshape(-1)[0]) if e is not None and e.size == 1 else np.nan for e in ends)
    return low, high


def _smooth(step: Step, function: Callable[[Array], Array], lowest_at: float) -> Gate:
    """A gate made of exp, tanh or erf; exp(-128) is 0 in formats up to float32."""
    reach = 800.0 if step.kind.unit < 2.0**-24 else 128.0
    return Gate(function, lowest_at, reach)


def _swish_gate(step: Step, alpha: float) -> Gate | None:
    if alpha <= 0:
        return None
    gate = _smooth(step, lambda x: sigmoid(alpha * x), -1.2784645427610738 / alpha)
    return gate._replace(reach=gate.reach / min(alpha, 1.0))


def _mish_gate(step: Step) -> Gate:
    return _smooth(step, lambda x: np.tanh(softplus(x)), -1.1924312192554467)


def _hard_gate(alpha: float, beta: float, top: float) -> Gate | None:
    if not (alpha > 0 and 0 <= beta <= top):
        return None
    return Gate(
        lambda x: np.clip(alpha * x + beta, 0, top), -beta / (2 * alpha), (beta + top) / alpha, top
    )
