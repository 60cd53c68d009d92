"""Intervals over the reals: what is told of a tensor, and the arithmetic that finds it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Interval:
    """Bounds of one tensor.

    Attributes:
        low: greatest proved lower bound, read-only float64; of shape [] for the whole tensor or [C]
            per channel (axis 1). -inf where nothing is known.
        high: least proved upper bound, of the same shape; inf where nothing is known.
        because: where they come from, a clause that goes on from "x >= 0 because".
    """

    low: Array
    high: Array
    because: str

    def per_channel(self, channels: int) -> tuple[Array, Array]:
        """Lower and upper bounds, both of shape [channels].

        Raises:
            ValueError: the bounds are those of another number of channels.
        """
        return np.broadcast_to(self.low, (channels,)), np.broadcast_to(self.high, (channels,))

    @property
    def nonnegative(self) -> bool:
        """Whether no value is below 0."""
        return bool((self.low >= 0).all())

    @property
    def finite(self) -> bool:
        """Whether both bounds are known, in every channel."""
        return bool(np.isfinite(self.low).all() and np.isfinite(self.high).all())

    @property
    def known(self) -> bool:
        """Whether any bound is known, in any channel."""
        return bool(np.isfinite(self.low).any() or np.isfinite(self.high).any())

    def within(self, low: float, high: float) -> bool:
        """Whether every value lies in [low, high]."""
        return bool((self.low >= low).all() and (self.high <= high).all())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Interval):
            return NotImplemented
        return (
            np.array_equal(self.low, other.low)
            and np.array_equal(self.high, other.high)
            and self.because == other.because
        )

    def __str__(self) -> str:
        low, high = self.low.min(initial=np.inf), self.high.max(initial=-np.inf)
        return f"[{low:.6g}, {high:.6g}]"


class Bounds(NamedTuple):
    """What the rules compute with: arrays of shape [] or [C]."""

    low: Array
    high: Array

    @classmethod
    def of(cls, low: npt.ArrayLike, high: npt.ArrayLike) -> Bounds:
        """From anything that broadcasts to one shape."""
        return cls(*np.broadcast_arrays(np.asarray(low, float), np.asarray(high, float)))

    @classmethod
    def point(cls, value: npt.ArrayLike) -> Bounds:
        """A tensor that holds one value, or one per channel."""
        return cls.of(value, value)

    @property
    def constant(self) -> bool:
        """Whether each channel holds one value."""
        return bool((self.low == self.high).all())

    def whole(self) -> Bounds:
        """One interval for all channels."""
        if self.low.ndim == 0:
            return self
        return Bounds.of(self.low.min(), self.high.max()) if self.low.size else UNBOUNDED

    def clip(self, bottom: npt.ArrayLike = -np.inf, top: npt.ArrayLike = np.inf) -> Bounds:
        """Bounds of min(max(x, bottom), top)."""
        return Bounds.of(np.clip(self.low, bottom, top), np.clip(self.high, bottom, top))

    def __neg__(self) -> Bounds:
        return Bounds(-self.high, -self.low)


UNBOUNDED = Bounds.of(-np.inf, np.inf)
ZERO = Bounds.point(0.0)
NOTHING = Interval(*UNBOUNDED, "nothing bounds it")
"""The interval of a tensor of which nothing is known."""


def hull(bounds: Iterable[Bounds]) -> Bounds:
    """The smallest interval around all of them, channel by channel."""
    lows, highs = zip(*bounds, strict=True)
    return Bounds.of(reduce(np.minimum, lows), reduce(np.maximum, highs))


def times(left: Array, right: npt.ArrayLike) -> Array:
    """The product, 0 wherever a factor is 0 (a zero weight forgets an unbounded input)."""
    right = np.asarray(right)
    return np.where((left == 0) | (right == 0), 0.0, left * right)


def product(left: Bounds, right: Bounds) -> Bounds:
    """Bounds of x * y over the reals."""
    corners = [times(x, y) for x in left for y in right]
    return Bounds.of(
        np.minimum(np.minimum(corners[0], corners[1]), np.minimum(corners[2], corners[3])),
        np.maximum(np.maximum(corners[0], corners[1]), np.maximum(corners[2], corners[3])),
    )


def reciprocal(bounds: Bounds) -> Bounds:
    """Bounds of 1 / y; y = 0 itself is left out, for it overflows."""
    one_sign = (bounds.low >= 0) | (bounds.high <= 0)
    low = np.where(bounds.high == 0, -np.inf, 1 / bounds.high)
    high = np.where(bounds.low == 0, np.inf, 1 / bounds.low)
    return Bounds.of(np.where(one_sign, low, -np.inf), np.where(one_sign, high, np.inf))
