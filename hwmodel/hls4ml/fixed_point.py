"""Fixed-point types, as HLS has them, and the narrowest one for given numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from graphopt.errors import ModelError

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class FixedPoint:
    """A fixed-point type: `bits` in all, `integer` of them before the point (the sign among them).

    `integer` may be negative, or more than `bits`.
    """

    bits: int
    integer: int
    signed: bool

    @property
    def step(self) -> float:
        """The difference of two numbers next to each other."""
        return 2.0 ** (self.integer - self.bits)

    def __str__(self) -> str:
        """As hls4ml writes it."""
        return f"{'' if self.signed else 'u'}fixed<{self.bits},{self.integer}>"

    def rounded(self, values: Array) -> Array:
        """The nearest numbers of the type, as float32."""
        low = -(2 ** (self.bits - 1)) if self.signed else 0
        high = 2 ** (self.bits - int(self.signed)) - 1
        codes = np.clip(np.round(values.astype(np.float64) / self.step), low, high)
        return np.asarray(codes * self.step, np.float32)


def narrowest(values: Array, bits: int) -> FixedPoint:
    """The narrowest type that holds all values exactly; where that takes more bits, the type of
    `bits` bits with the finest step that holds the largest.

    Raises:
        ModelError: a value is not finite.
    """
    flat = values.astype(np.float64).reshape(-1)
    signed = bool((flat < 0).any())
    largest = float(np.abs(flat).max(initial=0.0))
    if largest == 0:
        return FixedPoint(2, 2, True)
    if not math.isfinite(largest):
        raise ModelError("a constant is not finite, which fixed point cannot hold.")
    # 2^before > largest, or equal where only the negative side needs it.
    before = math.floor(math.log2(largest)) + 1
    finest = before - (bits - int(signed))
    behind = next(
        (k for k in range(before, finest, -1) if not np.remainder(flat, 2.0**k).any()), finest
    )
    if np.round(largest / 2.0**behind) >= 2 ** (before - behind):
        before, behind = before + 1, behind + 1  # rounding up reached the next power of two
    width = max(before - behind, 1) + int(signed)
    return FixedPoint(max(width, 2), max(width, 2) + behind, signed)
