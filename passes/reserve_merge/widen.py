"""How each linear operator of a branch is widened: dense, grouped, depthwise, or merged.

Every function returns the new weight together with the blocks that it claims to consist of, which
the host checks on the array before it accepts the rewrite.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from graphopt.verify.algebra import Block
from passes.linear import Linear, NewLinear
from passes.refused import Refused
from passes.reserve_merge.carriers import ActivationSite

Array = npt.NDArray[Any]
Taps = tuple[tuple[int, ...], ...]
Form = Literal["auto", "dense", "grouped"]


@dataclass(frozen=True, eq=False)
class Layout:
    """Where the old and the reserved channels of a widened tensor lie."""

    old: Array
    reserved: Array

    @property
    def is_appended(self) -> bool:
        """Whether the reserved channels stand behind the old ones."""
        together = np.concatenate([self.old, self.reserved])
        return bool(np.array_equal(together, np.arange(len(together))))

    @classmethod
    def appended(cls, old: int, reserved: int) -> Layout:
        """`old` channels, then `reserved` ones."""
        return cls(np.arange(old), old + np.arange(reserved))


@dataclass(frozen=True, eq=False)
class Widened:
    """One linear operator after the rule.

    Attributes:
        linear: what it becomes.
        blocks: what stands where in its weight, for the proof.
        layout: of its output channels; the last operator has only old ones.
        form: how the reserved channels pass it (dense, grouped, depthwise, merge).
        activation: the activation behind it.
        slopes: slopes of the widened activation, where it becomes or is a PRelu.
    """

    linear: NewLinear
    blocks: tuple[Block, ...]
    layout: Layout
    form: str
    activation: ActivationSite | None = None
    slopes: Array | None = None


def _range(start: int, stop: int) -> tuple[int, ...]:
    return tuple(range(start, stop))


def _place(shape: tuple[int, ...], matrix: Array, taps: Taps) -> Array:
    """An array of `shape` [rows, columns, *kernel] that holds the matrix at the taps."""
    placed = np.zeros(shape)
    for number, tap in enumerate(taps):
        at: Any = (slice(None), slice(None), *tap)
        placed[at] += matrix[:, :, number]
    return placed


def widen_first(linear: Linear, matrix: Array, taps: Taps, offset: Array) -> Widened:
    """Adds output channels; the input is what it was. In groups, each gets its share of them."""
    rows, reserved, group = linear.outputs, len(matrix), linear.group
    per_input = linear.inputs // group
    if group == 1:
        order = np.arange(reserved)
        layout = Layout.appended(rows, reserved)
        local = matrix
    else:
        order, local = _by_group(linear, matrix)
        share, own = reserved // group, rows // group
        wide = np.arange(group)[:, None] * (own + share)
        layout = Layout(
            (wide + np.arange(own)).reshape(-1), (wide + own + np.arange(share)).reshape(-1)
        )
        reserved_positions = np.empty(reserved, int)
        reserved_positions[order] = layout.reserved
        layout = Layout(layout.old, reserved_positions)
    weight = np.zeros((rows + reserved, per_input, *linear.kernel))
    bias = np.zeros(rows + reserved)
    weight[layout.old], bias[layout.old] = linear.weight, linear.bias
    weight[layout.reserved] = _place((reserved, per_input, *linear.kernel), local, taps)
    bias[layout.reserved] = offset
    columns = _range(0, per_input)
    blocks = (
        Block(tuple(layout.old), columns, "old", _range(0, rows), columns),
        Block(tuple(layout.reserved), columns, "dirac", matrix=local, taps=taps),
    )
    form = "dense" if group == 1 else "grouped"
    return Widened(NewLinear(linear, weight, bias, group), blocks, layout, form)


def _by_group(linear: Linear, matrix: Array) -> tuple[Array, Array]:
    """For each reserved channel the group whose inputs it reads: their order by group, and the
    matrix with columns counted within the group.
    """
    width = linear.inputs // linear.group
    touched = np.abs(matrix).sum(axis=2) > 0
    homes = np.array([_home(row, width, linear) for row in touched])
    counts = np.bincount(homes, minlength=linear.group)
    if len(set(counts)) != 1:
        raise Refused(
            "grouped-branch",
            f"{linear.label} has {linear.group} groups and the reserved channels do not divide "
            "evenly among them",
        )
    order = np.argsort(homes, kind="stable")
    local = np.stack(
        [row[h * width : (h + 1) * width] for row, h in zip(matrix, homes, strict=True)]
    )
    return order, local


def _home(row: Array, width: int, linear: Linear) -> int:
    groups = set(np.flatnonzero(row) // width)
    if len(groups) > 1:
        raise Refused(
            "grouped-branch", f"a reserved channel of {linear.label} would read several groups"
        )
    return int(next(iter(groups), 0))


def widen_middle(
    linear: Linear, matrix: Array, tap: tuple[int, ...], offset: Array, layout: Layout, form: Form
) -> Widened:
    """Lets the reserved channels through one more operator: dense, or in groups of their own."""
    if linear.group > 1:
        return _widen_grouped(linear, matrix, tap, offset, layout)
    grouped = _fits_groups(linear, matrix, layout)
    if form == "grouped" and not grouped:
        raise Refused(
            "grouped-branch", f"{linear.label} cannot take the reserved channels as groups"
        )
    if grouped and form != "dense":
        return _widen_grouped(linear, matrix, tap, offset, layout)
    rows, (reserved, inputs) = linear.outputs, matrix.shape
    weight = np.zeros((rows + reserved, len(layout.old) + inputs, *linear.kernel))
    below = np.arange(rows, rows + reserved)
    weight[np.ix_(np.arange(rows), layout.old)] = linear.weight
    placed = _place((reserved, inputs, *linear.kernel), matrix[:, :, None], (tap,))
    weight[np.ix_(below, layout.reserved)] = placed
    old, kept = tuple(layout.old), tuple(layout.reserved)
    blocks = (
        Block(_range(0, rows), old, "old", _range(0, rows), _range(0, len(old))),
        Block(_range(0, rows), kept, "zero"),
        Block(tuple(below), old, "zero"),
        Block(tuple(below), kept, "dirac", matrix=matrix[:, :, None], taps=(tap,)),
    )
    bias = np.concatenate([linear.bias.astype(np.float64), offset])
    return Widened(
        NewLinear(linear, weight, bias), blocks, Layout.appended(rows, reserved), "dense"
    )


def _fits_groups(linear: Linear, matrix: Array, layout: Layout) -> bool:
    """Whether the reserved channels can be further groups of the same size."""
    width, height = linear.inputs // linear.group, linear.outputs // linear.group
    return (
        width == height
        and matrix.shape[0] == matrix.shape[1]
        and len(matrix) % width == 0
        and layout.is_appended
        and np.array_equal(matrix, np.eye(len(matrix)))
        and linear.is_conv
    )


def _widen_grouped(
    linear: Linear, matrix: Array, tap: tuple[int, ...], offset: Array, layout: Layout
) -> Widened:
    width, height = linear.inputs // linear.group, linear.outputs // linear.group
    diagonal = matrix.shape[0] == matrix.shape[1] and np.array_equal(
        matrix, np.diag(np.diagonal(matrix))
    )
    if width == height == 1 and diagonal:
        return _widen_depthwise(linear, np.diagonal(matrix), tap, offset, layout)
    if not _fits_groups(linear, matrix, layout):
        raise Refused(
            "grouped-branch",
            f"{linear.label} has {linear.group} groups of {width} to {height} channels, which the "
            f"{len(matrix)} reserved channels do not fit",
        )
    rows, reserved = linear.outputs, len(matrix)
    own = np.tile(np.eye(width), (reserved // width, 1))
    placed = _place((reserved, width, *linear.kernel), own[:, :, None], (tap,))
    weight = np.concatenate([linear.weight.astype(np.float64), placed])
    bias = np.concatenate([linear.bias.astype(np.float64), offset])
    columns = _range(0, width)
    blocks = (
        Block(_range(0, rows), columns, "old", _range(0, rows), columns),
        Block(_range(rows, rows + reserved), columns, "dirac", matrix=own[:, :, None], taps=(tap,)),
    )
    group = linear.group + reserved // width
    return Widened(
        NewLinear(linear, weight, bias, group), blocks, Layout.appended(rows, reserved), "grouped"
    )


def _widen_depthwise(
    linear: Linear, factors: Array, tap: tuple[int, ...], offset: Array, layout: Layout
) -> Widened:
    """One kernel per channel: a Dirac for each reserved one, wherever it lies."""
    total = len(layout.old) + len(layout.reserved)
    weight, bias = np.zeros((total, 1, *linear.kernel)), np.zeros(total)
    weight[layout.old], bias[layout.old] = linear.weight, linear.bias
    column = factors[:, None, None]
    weight[layout.reserved] = _place((len(factors), 1, *linear.kernel), column, (tap,))
    bias[layout.reserved] = offset
    blocks = (
        Block(tuple(layout.old), (0,), "old", _range(0, linear.outputs), (0,)),
        Block(tuple(layout.reserved), (0,), "dirac", matrix=column, taps=(tap,)),
    )
    return Widened(NewLinear(linear, weight, bias, total), blocks, layout, "depthwise")


def widen_last(linear: Linear, matrix: Array, taps: Taps, bias: Array, layout: Layout) -> Widened:
    """Adds input channels: `W' = [W | P]`."""
    if linear.group > 1:
        raise Refused(
            "grouped-branch",
            f"{linear.label}, the last of the branch, has {linear.group} groups, and the reserved "
            "channels would have to be dealt out among them",
        )
    rows, reserved = linear.outputs, matrix.shape[1]
    weight = np.zeros((rows, linear.inputs + reserved, *linear.kernel))
    weight[:, layout.old] = linear.weight
    weight[:, layout.reserved] = _place((rows, reserved, *linear.kernel), matrix, taps)
    old, kept, every = tuple(layout.old), tuple(layout.reserved), _range(0, rows)
    blocks = (
        Block(every, old, "old", every, _range(0, len(old))),
        Block(every, kept, "dirac", matrix=matrix, taps=taps),
    )
    new = NewLinear(linear, weight, linear.bias.astype(np.float64) + bias)
    return Widened(new, blocks, Layout(np.arange(rows), np.zeros(0, int)), "merge")
