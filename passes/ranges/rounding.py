"""Rounding: sums and products as floats compute them (Higham, sections 3.1 and 4.2)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from passes.ranges.formats import Float
from passes.ranges.interval import Array, Bounds, times


def power_of_two(values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Where multiplying by a value rounds nothing: powers of two, and 0."""
    return np.asarray((np.abs(np.frexp(values)[0]) == 0.5) | (values == 0))


def exact(factor: Bounds) -> bool:
    """Whether multiplying by this factor rounds nothing, in any channel."""
    return factor.constant and bool(power_of_two(factor.low).all())


def _gamma(roundings: npt.NDArray[Any], unit: float) -> Array:
    """gamma_n, inf where n u >= 1/2; and 0 for no rounding."""
    share = roundings * unit
    return np.where(share < 0.5, share / (1 - np.minimum(share, 0.5)), np.inf)


class Terms(NamedTuple):
    """A sum seen from its terms, shape [] or [C].

    The sums of the negative and of the positive parts of their lower ends, then of their upper
    ends. At most the negative parts of `low` and the positive ones of `high` are infinite.
    """

    low_negative: Array
    low_positive: Array
    high_negative: Array
    high_positive: Array

    @classmethod
    def of(cls, term: Bounds) -> Terms:
        low, high = term
        zero = np.float64(0)
        return cls(
            np.minimum(low, zero), np.maximum(low, zero),
            np.minimum(high, zero), np.maximum(high, zero),
        )  # fmt: skip

    def plus(self, other: Terms) -> Terms:
        return Terms(*(a + b for a, b in zip(self, other, strict=True)))

    def rounded(self, kind: Float, roundings: npt.ArrayLike, products: npt.ArrayLike) -> Bounds:
        """Bounds of the sum in floats.

        Args:
            kind: the format it is computed in.
            roundings: most roundings that one term goes through, shape [] or [C]. At 0 the float64
                arithmetic here is exact too; else its own error is added.
            products: how many results may underflow.
        """
        count = np.asarray(roundings, float)
        own = np.where(count > 0, count + 8, 0)
        gamma = _gamma(count, kind.unit) + _gamma(own, 2.0**-53)
        lost = np.asarray(products, float) * kind.tiny
        low = times(self.low_negative, 1 + gamma) + times(self.low_positive, 1 - gamma) - lost
        high = times(self.high_negative, 1 - gamma) + times(self.high_positive, 1 + gamma) + lost
        return Bounds.of(
            np.where(self.low_negative == 0, np.maximum(low, 0), low),
            np.where(self.high_positive == 0, np.minimum(high, 0), high),
        )
