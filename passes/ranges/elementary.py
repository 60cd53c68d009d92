from __future__ import annotations

RULES = Rules()


ELEMENTARY = 32


def sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))


def softplus(x: Array) -> Array:
    return np.asarray(np.logaddexp(0.0, x))


erf = np.vectorize(math.erf, otypes=[np.float64])


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
    return Bounds.of(
        np.clip(ends.low - slack, lowest, highest), np.clip(ends.high + slack, lowest, highest)
    )


def signed(step: Step, bounds: Bounds) -> Bounds:
    """Of a function that keeps the sign of x in floats as well."""
    low, high = step.x()
    return Bounds.of(
        np.where(low >= 0, np.maximum(bounds.low, 0), bounds.low),
        np.where(high <= 0, np.minimum(bounds.high, 0), bounds.high),
    )
