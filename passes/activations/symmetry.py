"""Which activations a pair of channels x and -x survives: `f(x) - f(-x) = g x` for some g.

That holds if the odd part of f is linear. Every value inside an activation is tracked as one of

- `Odd part linear`: `a x + even`, with its a (the input itself: a = 1, even part 0);
- `Even part constant`: `c + odd`, with its c.

ReLU is `x / 2 + |x| / 2`; Sigmoid(x) is `1/2 + odd`, so x Sigmoid(x) is `x / 2 + even`, however it
is spelled; so are GELU (by erf or by tanh), HardSwish and Softplus. This widens the +-split of
RMNet (section 4.2), which the paper has for ReLU; and it is a proof, not a test on samples.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from passes.activations.function import Call, Function


@dataclass(frozen=True)
class Parity:
    """What is known of a value as a function of x.

    Attributes:
        slope: a, if its odd part is `a x`; None where that is not known.
        middle: c, if its even part is the constant c; None where that is not known.
    """

    slope: float | None = None
    middle: float | None = None

    @property
    def is_odd(self) -> bool:
        """Whether f(-x) = -f(x)."""
        return self.middle == 0

    @property
    def is_even(self) -> bool:
        """Whether f(-x) = f(x)."""
        return self.slope == 0

    @property
    def is_linear(self) -> bool:
        """Whether it is a multiple of x."""
        return self.slope is not None and self.is_odd


UNKNOWN = Parity()


def split_gain(function: Function) -> float | None:
    """The g of `f(x) - f(-x) = g x`; None where no such g is known, or where it is 0."""
    values = [Parity(1.0, 0.0)]
    for call in function.calls:
        operands = [
            values[o]
            if isinstance(o, int)
            else Parity(0.0, float(o[0]))
            if o.size == 1
            else UNKNOWN
            for o in call.operands
        ]
        rule = RULES.get(call.operator)
        values.append(UNKNOWN if rule is None else rule(call, *operands))
    slope = values[-1].slope
    return 2 * slope if slope else None


def _sum(call: Call, x: Parity, y: Parity, sign: float = 1.0) -> Parity:
    def total(a: float | None, b: float | None) -> float | None:
        return None if a is None or b is None else a + sign * b

    return Parity(total(x.slope, y.slope), total(x.middle, y.middle))


def _product(call: Call, x: Parity, y: Parity) -> Parity:
    for one, other in ((x, y), (y, x)):
        if one.is_even and one.middle is not None:  # a constant
            return _scaled(other, one.middle)
    for one, other in ((x, y), (y, x)):
        if one.is_linear and other.middle is not None:  # a x (c + odd) = a c x + even
            return Parity(slope=(one.slope or 0.0) * other.middle)
    if (x.is_odd and y.is_odd) or (x.is_even and y.is_even):
        return Parity(slope=0.0)
    if (x.is_odd and y.is_even) or (x.is_even and y.is_odd):
        return Parity(middle=0.0)
    return UNKNOWN


def _scaled(x: Parity, factor: float) -> Parity:
    return Parity(
        None if x.slope is None else x.slope * factor,
        None if x.middle is None else x.middle * factor,
    )


def _quotient(call: Call, x: Parity, y: Parity) -> Parity:
    constant = y.is_even and y.middle
    return _scaled(x, 1.0 / y.middle) if constant and y.middle else UNKNOWN


def _power(call: Call, x: Parity, y: Parity) -> Parity:
    exponent = y.middle if y.is_even else None
    if exponent is None or exponent != int(exponent) or exponent < 1 or not x.is_odd:
        return UNKNOWN
    return Parity(slope=0.0) if int(exponent) % 2 == 0 else Parity(middle=0.0)


def _negated(call: Call, x: Parity) -> Parity:
    return _scaled(x, -1.0)


def _odd(call: Call, x: Parity) -> Parity:
    """An odd function: odd of what is odd, even of what is even."""
    return Parity(0.0 if x.is_even else None, 0.0 if x.is_odd else None)


def _sigmoid(call: Call, x: Parity) -> Parity:
    """A function that is odd about 1/2."""
    return Parity(middle=0.5) if x.is_odd else UNKNOWN


def _hard_sigmoid(call: Call, x: Parity) -> Parity:
    return _sigmoid(call, x) if call.parameters.get("beta", 0.5) == 0.5 else UNKNOWN


def _clip(call: Call, x: Parity, low: Parity, high: Parity) -> Parity:
    """Bounds that lie evenly about the middle keep it."""
    if x.middle is None or low.middle is None or high.middle is None:
        return UNKNOWN
    return Parity(middle=x.middle) if low.middle + high.middle == 2 * x.middle else UNKNOWN


def _rectified(below: float) -> Callable[..., Parity]:
    """`x` above 0 and `below x` below it, of a multiple of x."""

    def rule(call: Call, x: Parity, *others: Any) -> Parity:
        if not x.is_linear or x.slope is None:
            return UNKNOWN
        slope = call.parameters.get("alpha", 0.01) if call.operator == "LeakyRelu" else below
        return Parity(slope=x.slope * (1 + slope) / 2)

    return rule


def _gated(call: Call, x: Parity) -> Parity:
    """`x (1/2 + odd)` of a multiple of x: SiLU, GELU in both forms, HardSwish, QuickGelu."""
    return Parity(slope=(x.slope or 0.0) / 2) if x.is_linear else UNKNOWN


RULES: dict[str, Callable[..., Parity]] = {
    "Identity": lambda call, x: x,
    "Add": _sum,
    "Sub": lambda call, x, y: _sum(call, x, y, -1.0),
    "Mul": _product,
    "Div": _quotient,
    "Pow": _power,
    "Neg": _negated,
    "Tanh": _odd,
    "Erf": _odd,
    "Softsign": _odd,
    "Sigmoid": _sigmoid,
    "HardSigmoid": _hard_sigmoid,
    "Clip": _clip,
    "Relu": _rectified(0.0),
    "LeakyRelu": _rectified(0.0),
    "Softplus": _gated,
    "Swish": _gated,
    "QuickGelu": _gated,
    "Gelu": _gated,
    "HardSwish": _gated,
}
"""How each operator passes parity on. Softplus is `x / 2 + even` too."""
