"""One window for several linear maps, and the kernel in it that is their sum.

Two things have to be proved. All maps read zeros beyond the border of the *same* tensor (one that
never reads beyond it has nothing to disagree about): so `LinearMap` describes each. And the one
window makes as many positions as they do: each makes `floor((n + e) / s) + 1` of n, so for unknown
n their e must be equal, and the padding at the end is chosen to keep it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from graphopt.ir.shapes import Dim
from passes.linear import Linear
from passes.linear_map import LinearMap
from passes.refused import Refused

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Window:
    """What a convolution reads, one number per spatial axis each; empty for a matrix product."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads_begin: tuple[int, ...]
    pads_end: tuple[int, ...]

    @classmethod
    def of(cls, linear: Linear) -> Window:
        """The window of a convolution."""
        return cls(
            linear.kernel, linear.strides, linear.dilations, linear.pads_begin, linear.pads_end
        )

    @property
    def start(self) -> tuple[int, ...]:
        """Position that the first output reads with its first tap."""
        return tuple(-pad for pad in self.pads_begin)

    def attributes(self, group: int) -> dict[str, Any]:
        """Attributes of a Conv with this window."""
        return {
            "kernel_shape": list(self.kernel),
            "strides": list(self.strides),
            "dilations": list(self.dilations),
            "pads": list(self.pads_begin + self.pads_end),
            "group": group,
        }

    def __str__(self) -> str:
        return "x".join(map(str, self.kernel))


def window_of(maps: Sequence[LinearMap], sizes: Sequence[Dim]) -> Window:
    """The smallest window that reads what all maps read, and makes as many positions.

    Args:
        maps: of one tensor.
        sizes: of its spatial axes.

    Raises:
        Refused: there is none, or the numbers of positions are not proved to be equal.
    """
    if len({one.strides for one in maps}) > 1:
        found = ", ".join(str(list(one.strides)) for one in maps)
        raise Refused("stride-mismatch", f"the branches have strides {found}")
    if len({len(one.taps) for one in maps}) > 1:
        raise Refused("broadcast", "the branches differ in their number of channels")
    axes = [_axis(maps, axis, size) for axis, size in enumerate(sizes)]
    kernel, dilations, begin, end = zip(*axes, strict=True) if axes else ((),) * 4
    return Window(kernel, maps[0].strides, dilations, begin, end)


def _axis(maps: Sequence[LinearMap], axis: int, size: Dim) -> tuple[int, int, int, int]:
    """Kernel, dilation, padding before and behind, on one axis."""
    places = sorted(
        {
            one.start[axis] + tap * one.dilations[axis]
            for one in maps
            for tap in range(one.taps.shape[2 + axis])
        }
    )
    step = math.gcd(*(place - places[0] for place in places)) or 1
    start = places[0] - step * max(0, -(-places[0] // step))  # no padding is less than none
    span = places[-1] - start + 1
    slacks = [one.slack[axis] for one in maps]
    least, most = min(slacks), max(slacks)
    if least != most:
        _check_positions(least, most, maps[0].strides[axis], size)
    behind = min(max(-start - span, least), most) + start + span  # the least that the sizes allow
    more = max(0, -(behind // step))  # taps of zeros, where the end of the tensor is not read
    return (span - 1) // step + 1 + more, step, -start, behind + more * step


def _check_positions(least: int, most: int, stride: int, size: Dim) -> None:
    if not isinstance(size, int):
        raise Refused(
            "unknown-shape", "for some sizes of the input the branches would differ in size"
        )
    first, second = ((size + slack) // stride + 1 for slack in (least, most))
    if first != second:
        raise Refused("broadcast", f"the branches differ in size: {first} and {second}")


def groups_of(maps: Sequence[LinearMap]) -> int:
    """The greatest number of groups that a convolution which sums up the maps can have."""
    rows, columns = maps[0].taps.shape[:2]
    used = np.zeros((rows, columns), bool)
    for one in maps:
        used |= one.taps.reshape(rows, columns, -1).any(axis=2)
    common = math.gcd(rows, columns)
    for group in (g for g in range(common, 1, -1) if common % g == 0):
        blocks = used.reshape(group, rows // group, group, columns // group).any(axis=(1, 3))
        if not (blocks & ~np.eye(group, dtype=bool)).any():
            return group
    return 1


def grouped(taps: Array, group: int) -> Array:
    """The blocks on the diagonal: [M, K, *kernel] as [M, K / group, *kernel]."""
    rows, columns = (size // group for size in taps.shape[:2])
    blocks = (slice(g * columns, (g + 1) * columns) for g in range(group))
    return np.concatenate(
        [taps[g * rows : (g + 1) * rows, block] for g, block in enumerate(blocks)]
    )


def summed(maps: Sequence[LinearMap], window: Window, group: int) -> Array:
    """The kernel of the sum, shape [M, K / group, *window.kernel], in float64."""
    rows, columns = maps[0].taps.shape[:2]
    weight = np.zeros((rows, columns // group, *window.kernel))
    for one in maps:
        axes = zip(one.start, one.dilations, one.taps.shape[2:], strict=True)
        grid = zip(axes, window.start, window.dilations, strict=True)
        places = [
            slice((a - start) // step, (a - start + d * (k - 1)) // step + 1, max(1, d // step))
            for (a, d, k), start, step in grid
        ]
        weight[:, :, *places] += grouped(one.taps, group)
    return weight
