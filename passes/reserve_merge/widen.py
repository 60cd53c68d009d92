"""How each linear operator of a branch is widened: dense, grouped, depthwise, in pairs, or merged.

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

Array = npt.NDArray[Any]
Taps = tuple[tuple[int, ...], ...]
Form = Literal["auto", "dense", "grouped"]


@dataclass(frozen=True, eq=False)
class Layout:
    """Where the old and the reserved channels of a widened tensor lie.

    Attributes:
        old: places of the old channels.
        reserved: places of the reserved ones.
        total: number of channels; those that are neither are 0 and fill groups up.
    """

    old: Array
    reserved: Array
    total: int

    @property
    def is_appended(self) -> bool:
        """Whether the reserved channels stand behind the old ones, and nothing else does."""
        return self.same_as(Layout.appended(len(self.old), len(self.reserved)))

    def same_as(self, other: Layout) -> bool:
        """Whether both put every channel in the same place."""
        return (
            self.total == other.total
            and np.array_equal(self.old, other.old)
            and np.array_equal(self.reserved, other.reserved)
        )

    @property
    def filling(self) -> Array:
        """Places of the channels that are neither old nor reserved."""
        return np.setdiff1d(np.arange(self.total), np.concatenate([self.old, self.reserved]))

    @classmethod
    def appended(cls, old: int, reserved: int) -> Layout:
        """`old` channels, then `reserved` ones."""
        return cls(np.arange(old), old + np.arange(reserved), old + reserved)

    @classmethod
    def paired(cls, old: int, pairs: Array) -> Layout:
        """`old` channels, rounded up to an even number, then the reserved ones two by two.

        Args:
            old: number of old channels.
            pairs: for each reserved channel the number of its pair.
        """
        start = old + old % 2
        order = np.argsort(pairs, kind="stable")
        reserved = np.empty(len(pairs), int)
        reserved[order] = start + np.arange(len(pairs))
        return cls(np.arange(old), reserved, start + len(pairs))


@dataclass(frozen=True, eq=False)
class Widened:
    """One linear operator after the rule.

    Attributes:
        linear: what it becomes.
        blocks: what stands where in its weight, for the proof.
        layout: of its output channels.
        form: how the reserved channels pass it (dense, grouped, depthwise, in pairs, merge).
    """

    linear: NewLinear
    blocks: tuple[Block, ...]
    layout: Layout
    form: str


def _range(start: int, stop: int) -> tuple[int, ...]:
    return tuple(range(start, stop))


def _place(shape: tuple[int, ...], matrix: Array, taps: Taps) -> Array:
    """An array of `shape` [rows, columns, *kernel] that holds the matrix at the taps."""
    placed = np.zeros(shape)
    for number, tap in enumerate(taps):
        at: Any = (slice(None), slice(None), *tap)
        placed[at] += matrix[:, :, number]
    return placed


def widen_first(
    linear: Linear, matrix: Array, taps: Taps, offset: Array, want: Layout | None
) -> Widened:
    """Adds output channels; the input is what it was. In groups, each gets its share of them.

    Args:
        linear: the first operator of the branch.
        matrix: what the reserved channels read, shape [R, K, taps].
        taps: where in the kernel.
        offset: what is added to them, shape [R].
        want: the layout that a later operator needs, or None.
    """
    rows, reserved, group = linear.outputs, len(matrix), linear.group
    if group == 1:
        local, layout = matrix, want or Layout.appended(rows, reserved)
    else:
        local, layout = _by_group(linear, matrix)
        if want is not None and not layout.same_as(want):
            raise Refused(
                "grouped-branch",
                f"{linear.label} and a later operator need the reserved channels in other places",
            )
    per_input = linear.inputs // group
    weight, bias = _blank(linear, layout, per_input)
    weight[layout.old], bias[layout.old] = linear.weight, linear.bias
    weight[layout.reserved] = _place((reserved, per_input, *linear.kernel), local, taps)
    bias[layout.reserved] = offset
    columns = _range(0, per_input)
    blocks = (
        Block(tuple(layout.old), columns, "old", _range(0, rows), columns),
        Block(tuple(layout.reserved), columns, "dirac", matrix=local, taps=taps),
        *_zero(layout.filling, columns),
    )
    form = "dense" if group == 1 else "grouped"
    return Widened(NewLinear(linear, weight, bias, group), blocks, layout, form)


def _blank(linear: Linear, layout: Layout, columns: int) -> tuple[Array, Array]:
    return np.zeros((layout.total, columns, *linear.kernel)), np.zeros(layout.total)


def _zero(rows: Array, columns: tuple[int, ...]) -> tuple[Block, ...]:
    return (Block(tuple(map(int, rows)), columns, "zero"),) if len(rows) and columns else ()


def _by_group(linear: Linear, matrix: Array) -> tuple[Array, Layout]:
    """The matrix with columns counted within the group that each reserved channel reads, and a
    layout in which each group makes its old channels and then its reserved ones, filled up with
    zeros to equally many.
    """
    width, own = linear.inputs // linear.group, linear.outputs // linear.group
    touched = np.abs(matrix).sum(axis=2) > 0
    homes = np.array([_home(row, width, linear) for row in touched], int)
    local = np.stack(
        [row[h * width : (h + 1) * width] for row, h in zip(matrix, homes, strict=True)]
    )
    return local, dealt(linear.group, own, homes)


def dealt(group: int, own: int, homes: Array) -> Layout:
    """A layout by groups: `own` old channels, then the reserved ones that are at home there.

    Args:
        group: number of groups.
        own: old channels of each group.
        homes: the group of each reserved channel.
    """
    share = int(np.bincount(homes, minlength=group).max())
    wide = own + share
    old = (np.arange(group)[:, None] * wide + np.arange(own)).reshape(-1)
    filled = np.zeros(group, int)
    reserved = np.empty(len(homes), int)
    for channel, home in enumerate(homes):
        reserved[channel] = home * wide + own + filled[home]
        filled[home] += 1
    return Layout(old, reserved, group * wide)


def _home(row: Array, width: int, linear: Linear) -> int:
    groups = set(np.flatnonzero(row) // width)
    if len(groups) > 1:
        raise Refused(
            "grouped-branch", f"a reserved channel of {linear.label} would read several groups"
        )
    return int(next(iter(groups), 0))


def wanted_by(linear: Linear, matrix: Array, after: Layout | None) -> Layout | None:
    """The layout of its input that an operator in the middle needs; None where any will do.

    Args:
        linear: the operator.
        matrix: from the reserved channels before it to those behind it, shape [R', R].
        after: the layout that its output is to have, or None.
    """
    if not linear.is_depthwise:
        return None
    if _is_diagonal(matrix):
        return after
    return Layout.paired(linear.outputs, _pairs(linear, matrix))


def _is_diagonal(matrix: Array) -> bool:
    return matrix.shape[0] == matrix.shape[1] and np.array_equal(
        matrix, np.diag(np.diagonal(matrix))
    )


def _pairs(linear: Linear, matrix: Array) -> Array:
    """For each reserved channel its pair, where the matrix mixes channels two by two."""
    touched = matrix != 0
    if touched.shape[0] == touched.shape[1]:
        partners = [frozenset(map(int, np.flatnonzero(row))) for row in touched]
        known = {pair: number for number, pair in enumerate(dict.fromkeys(partners))}
        if all(len(pair) == 2 for pair in known) and len(known) * 2 == len(matrix):
            pairs = np.array([known[pair] for pair in partners])
            if all(len(set(pairs[list(pair)])) == 1 for pair in known):
                return pairs
    raise Refused(
        "grouped-branch",
        f"{linear.label} is depthwise, and the reserved channels behind it mix several before it",
    )


def widen_middle(
    linear: Linear,
    matrix: Array,
    tap: tuple[int, ...],
    offset: Array,
    layout: Layout,
    form: Form,
    want: Layout | None,
) -> Widened:
    """Lets the reserved channels through one more operator.

    Args:
        linear: the operator.
        matrix: from the reserved channels before it to those behind it, shape [R', R].
        tap: the tap that copies a position.
        offset: what is added, shape [R'].
        layout: of its input.
        form: `dense`, `grouped` (groups of their own), or `auto` for the one with fewer weights.
        want: the layout that its output is to have, or None.
    """
    if linear.is_depthwise:
        return _widen_depthwise(linear, matrix, tap, offset, layout, want)
    fits = _fits_groups(linear, matrix, layout) and (want is None or want.is_appended)
    if (linear.group > 1 or form == "grouped") and not fits:
        raise Refused(
            "grouped-branch",
            f"{linear.label} has {linear.group} groups of {linear.inputs // linear.group} to "
            f"{linear.outputs // linear.group} channels, which the {len(matrix)} reserved channels "
            "do not fit",
        )
    if linear.group > 1 or (fits and form != "dense"):
        return _widen_grouped(linear, matrix, tap, offset)
    target = want or Layout.appended(linear.outputs, len(matrix))
    weight, bias = _blank(linear, target, layout.total)
    weight[np.ix_(target.old, layout.old)] = linear.weight
    placed = _place((*matrix.shape, *linear.kernel), matrix[:, :, None], (tap,))
    weight[np.ix_(target.reserved, layout.reserved)] = placed
    bias[target.old], bias[target.reserved] = linear.bias, offset
    old, kept, fill = (tuple(map(int, c)) for c in (layout.old, layout.reserved, layout.filling))
    top, below = tuple(target.old), tuple(target.reserved)
    blocks = (
        Block(top, old, "old", _range(0, linear.outputs), _range(0, len(old))),
        Block(top, kept, "zero"),
        Block(below, old, "zero"),
        Block(below, kept, "dirac", matrix=matrix[:, :, None], taps=(tap,)),
        *_zero(np.array((*top, *below)), fill),
        *_zero(target.filling, _range(0, layout.total)),
    )
    return Widened(NewLinear(linear, weight, bias), blocks, target, "dense")


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


def _widen_grouped(linear: Linear, matrix: Array, tap: tuple[int, ...], offset: Array) -> Widened:
    """Further groups that copy (the structured identity: no dense multiplications)."""
    width = linear.inputs // linear.group
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
    linear: Linear,
    matrix: Array,
    tap: tuple[int, ...],
    offset: Array,
    layout: Layout,
    want: Layout | None,
) -> Widened:
    """One kernel per channel, wherever it lies; in groups of two where the matrix mixes pairs."""
    if want is not None and not want.same_as(layout):
        raise Refused(
            "grouped-branch", f"{linear.label} is depthwise and cannot reorder the channels"
        )
    width = 1 if _is_diagonal(matrix) else 2
    weight, bias = _blank(linear, layout, width)
    bias[layout.old], bias[layout.reserved] = linear.bias, offset
    inner = np.arange(layout.total) % width  # place of each channel within its group
    weight[layout.old, inner[layout.old]] = linear.weight[:, 0]
    by_place = np.zeros((layout.total, layout.total))
    by_place[np.ix_(layout.reserved, layout.reserved)] = matrix
    start = (layout.reserved // width) * width
    local = np.stack(
        [by_place[r, s : s + width] for r, s in zip(layout.reserved, start, strict=True)]
    )
    weight[layout.reserved] = _place((len(local), width, *linear.kernel), local[:, :, None], (tap,))
    blocks = [Block(tuple(layout.reserved), _range(0, width), "dirac", matrix=local[:, :, None], taps=(tap,))]  # fmt: skip  # noqa: E501
    for place in range(width):
        here = np.flatnonzero(inner[layout.old] == place)
        if len(here):
            rows = tuple(layout.old[here])
            blocks.append(Block(rows, (place,), "old", tuple(map(int, here)), (0,)))
            others = tuple(p for p in range(width) if p != place)
            blocks += _zero(np.array(rows), others)
    blocks += _zero(layout.filling, _range(0, width))
    form = "depthwise" if width == 1 else "paired depthwise"
    new = NewLinear(linear, weight, bias, layout.total // width)
    return Widened(new, tuple(blocks), layout, form)


def wanted_by_merge(linear: Linear, matrix: Array) -> Layout | None:
    """The layout of its input that the last operator needs; None where any will do.

    Args:
        linear: the operator.
        matrix: what it adds, shape [M, R].

    Raises:
        Refused: in groups, a reserved channel would be read by several.
    """
    if linear.group == 1:
        return None
    height = linear.outputs // linear.group
    homes = []
    for column in matrix.T:
        groups = set(np.flatnonzero(column) // height)
        if len(groups) > 1:
            raise Refused(
                "grouped-branch",
                f"{linear.label}, the last of the branch, has {linear.group} groups, and a "
                "reserved channel would be read by several of them",
            )
        homes.append(int(next(iter(groups), 0)))
    return dealt(linear.group, linear.inputs // linear.group, np.array(homes))


def widen_last(linear: Linear, matrix: Array, taps: Taps, bias: Array, layout: Layout) -> Widened:
    """Adds input channels: `W' = [W | P]`, in groups each its own.

    Args:
        linear: the last operator of the branch.
        matrix: what it adds, shape [M, R, taps].
        taps: where in the kernel.
        bias: what its bias gets, shape [M].
        layout: of its input, as `wanted_by_merge` says.
    """
    rows, group = linear.outputs, linear.group
    width = layout.total // group
    weight = np.zeros((rows, width, *linear.kernel))
    blocks: list[Block] = []
    height, own = rows // group, linear.inputs // group
    for g in range(group):
        top, start = _range(g * height, (g + 1) * height), g * width
        old = [int(c) - start for c in layout.old if start <= c < start + width]
        here = np.flatnonzero((layout.reserved >= start) & (layout.reserved < start + width))
        kept = [int(layout.reserved[c]) - start for c in here]
        weight[np.ix_(top, old)] = linear.weight[list(top)]
        local = matrix[list(top)][:, here]
        weight[np.ix_(top, kept)] = _place((height, len(kept), *linear.kernel), local, taps)
        blocks.append(Block(top, tuple(old), "old", top, _range(0, own)))
        if kept:
            blocks.append(Block(top, tuple(kept), "dirac", matrix=local, taps=taps))
        rest = tuple(sorted(set(range(width)) - set(old) - set(kept)))
        blocks += _zero(np.array(top), rest)
    new = NewLinear(linear, weight, linear.bias.astype(np.float64) + bias, group)
    return Widened(new, tuple(blocks), Layout.appended(rows, 0), "merge")
