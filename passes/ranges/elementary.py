"""Elementary functions: what they are over the reals, and how far floats are from that."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from passes.ranges.interval import Array, Bounds
from passes.ranges.step import Step

ELEMENTARY = 32
"""Allowed error of an elementary function, in units of roundoff."""


def sigmoid(x: Array) -> Array:
    """1 / (1 + e^-x)."""
    return np.asarray(1 / (1 + np.exp(-x)))


def softplus(x: Array) -> Array:
    """log(1 + e^x)."""
    return np.asarray(np.logaddexp(0.0, x))


erf = np.vectorize(math.erf, otypes=[np.float64])
"""The error function, element by element."""


def elementary(
    step: Step,
    function: Callable[[Array], Array],
    *,
    absolute: float = 0.0,
    lowest: float = -np.inf,
    highest: float = np.inf,
) -> Bounds:
    """A function that never falls: its values at both ends, widened.

    Args:
        step: the node.
        function: over the reals, in float64.
        absolute: error in units of roundoff, on top of `ELEMENTARY` relative ones.
        lowest: what every evaluation keeps to.
        highest: the same above.
    """
    low, high = step.x()
    ends = step.rounded(Bounds.of(function(low), function(high)), ELEMENTARY)
    slack = absolute * step.kind.unit
    return Bounds(ends.low - slack, ends.high + slack).clip(lowest, highest)


def signed(step: Step, bounds: Bounds) -> Bounds:
    """Bounds of a function that keeps the sign of x in floats as well."""
    low, high = step.x()
    return Bounds.of(
        np.where(low >= 0, np.maximum(bounds.low, 0), bounds.low),
        np.where(high <= 0, np.minimum(bounds.high, 0), bounds.high),
    )
