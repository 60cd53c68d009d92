"""The lattice merge: a residual sum and its quantizer, exactly, in integers.

Where a block adds at full precision and quantizes the sum, one channel of its output has the code

    code(a, x) = clip(round((gain a + step x + shift) / scale))

with the integer accumulator a of the branch and the integer code x of the skip. Merged, the layer
has the one accumulator a' = m a + n x: its old row times a whole number m, and the weight n for the
reserved channel. The step is no multiple of the gain, so no m and n make the sums equal; but only
the codes must be. They are the number of thresholds t_k that a' reaches, for every pair (a, x), if
for every k

    max {a' : code(a, x) < k}  <  t_k  <=  min {a' : code(a, x) >= k},

and both sides are known: for each x there is a least a of which the code is k. So m is the smallest
number for which some n near m step / gain leaves room for every threshold.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

Rounding = Literal["half-even", "half-up", "half-away"]
"""What becomes of a sum half way between two codes: the even one, the upper one (as thresholds do),
or the one further from 0 (what QONNX calls HALF_UP).
"""

_TIE = 2.0**-40
"""Share by which a quotient may miss a whole number and still be one, in float64."""


@dataclass(frozen=True)
class Sum:
    """One channel before the quantizer: `gain a + step x + shift`.

    Attributes:
        gain: of the accumulator; positive.
        step: of the skip's code; positive.
        shift: what is added.
        low, high: least and greatest accumulator that can occur.
        codes: least and greatest code of the skip.
    """

    gain: float
    step: float
    shift: float
    low: int
    high: int
    codes: tuple[int, int]


@dataclass(frozen=True)
class Quantizer:
    """`clip(round(v / scale), low, high)`, of the positive part of v if `relu`."""

    scale: float
    low: int
    high: int
    rounding: Rounding
    relu: bool = False

    def code(self, value: Array) -> Array:
        """The codes of real numbers."""
        value = np.maximum(value, 0) if self.relu else value
        steps = value / self.scale
        near = np.rint(steps * 2) / 2
        steps = np.where(np.abs(steps - near) <= _TIE * np.maximum(1, np.abs(steps)), near, steps)
        if self.rounding == "half-even":
            codes = np.rint(steps)
        elif self.rounding == "half-up":
            codes = np.floor(steps + 0.5)
        else:
            codes = np.sign(steps) * np.floor(np.abs(steps) + 0.5)
        return np.clip(codes, self.low, self.high).astype(np.int64)


@dataclass(frozen=True)
class Merged:
    """One merged channel.

    Attributes:
        m, n: weights of the old accumulator and of the skip's code.
        thresholds: t_k for k = low + 1 ... high; half integers, so that a float sum that is off by
            less than half of one counts as the integer that it stands for.
        wrong: pairs (a, x) times codes by which they are off; 0 where it is exact.
        pairs: pairs that can occur.
    """

    m: int
    n: int
    thresholds: Array
    wrong: int
    pairs: int

    def code(self, accumulator: Array, code: Array, low: int) -> Array:
        """The codes that the thresholds give."""
        merged = self.m * np.asarray(accumulator) + self.n * np.asarray(code)
        reached: Array = np.searchsorted(self.thresholds, merged, side="right")
        return low + reached


def first(sum_: Sum, quantizer: Quantizer) -> Array:
    """The least accumulator from which on the code is at least k: [k = low + 1 ... high, x].

    It may lie outside of the accumulators that occur.
    """
    k = np.arange(quantizer.low + 1, quantizer.high + 1)[:, None]
    x = np.arange(sum_.codes[0], sum_.codes[1] + 1)[None, :]
    edge = ((k - 0.5) * quantizer.scale - sum_.shift - sum_.step * x) / sum_.gain
    whole = np.rint(edge)
    tie = np.abs(edge - whole) <= _TIE * np.maximum(1, np.abs(edge))
    if quantizer.rounding == "half-even":
        up = k % 2 == 0
    else:
        up = (k > 0) | (quantizer.rounding == "half-up")
    least = np.where(tie, whole + ~up, np.ceil(edge))
    if quantizer.relu:
        least = np.where(k <= 0, sum_.low, least)
    reach = 2.0**62
    return np.clip(least, -reach, reach).astype(np.int64)


def merge(
    sum_: Sum, quantizer: Quantizer, limit: int = 1024, *, approximate: bool = False
) -> Merged | None:
    """The smallest m up to `limit` for which all codes agree; None where there is none.

    With `approximate`, then, the m and n with the fewest wrong pairs.
    """
    least = first(sum_, quantizer)
    x = np.arange(sum_.codes[0], sum_.codes[1] + 1, dtype=np.int64)
    best: Merged | None = None
    few = least[:: max(1, len(least) // 8)]  # most m fail on a few codes already
    for m in range(1, limit + 1):
        ideal = m * sum_.step / sum_.gain
        for n in dict.fromkeys((round(ideal), int(np.floor(ideal)), int(np.ceil(ideal)))):
            below, above = _sides(sum_, few, m, n, x)
            if not approximate and (below >= above).any():
                continue
            below, above = _sides(sum_, least, m, n, x)
            if (below < above).all():
                return _with(sum_, least, m, n, (below + above) / 2, x)
            if approximate:
                found = _with(sum_, least, m, n, (below + above) / 2, x)
                if best is None or found.wrong < best.wrong:
                    best = found
    return best


def _sides(sum_: Sum, least: Array, m: int, n: int, x: Array) -> tuple[Array, Array]:
    """For every k: the greatest merged accumulator of a smaller code, the least of the others.

    Where no pair is on a side, the end of what can occur stands for it.
    """
    ends = [m * a + n * b for a in (sum_.low, sum_.high) for b in sum_.codes]
    far = (min(ends) - 1, max(ends) + 1)
    under = np.minimum(least - 1, sum_.high)
    over = np.maximum(least, sum_.low)
    below = np.where(least - 1 >= sum_.low, m * under + n * x, far[0]).max(axis=1)
    above = np.where(least <= sum_.high, m * over + n * x, far[1]).min(axis=1)
    return below, above


def _with(sum_: Sum, least: Array, m: int, n: int, middle: Array, x: Array) -> Merged:
    thresholds = np.sort(np.floor(middle) + 0.5)
    reached = np.ceil((thresholds[:, None] - n * x[None, :]) / m)
    wanted = np.clip(least, sum_.low, sum_.high + 1)
    got = np.clip(reached, sum_.low, sum_.high + 1)
    wrong = int(np.abs(wanted - got).sum())
    return Merged(m, n, thresholds, wrong, (sum_.high - sum_.low + 1) * len(x))
