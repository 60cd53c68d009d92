"""The algebra of exact rewrites, checked on the weights themselves.

A pass that widens layers claims what stands in every block of every new weight: the old weight
unchanged, zeros, or a Dirac that copies channels. The host checks these claims on the arrays
before it accepts the draft, with code that shares nothing with the pass: a rewrite that would need
luck to be right is stopped here even if no test input shows it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from graphopt.errors import GraphoptError
from graphopt.ir.constants import constant
from graphopt.ir.model import Model

Array = npt.NDArray[Any]


class ClaimError(GraphoptError):
    """A claim about the weights does not hold: the rewrite is wrong."""


class Claim(Protocol):
    """A statement about a model before and after a pass."""

    def check(self, before: Model, after: Model) -> None:
        """Raises ClaimError where the statement is false."""
        ...


def check(claims: Iterable[Claim], before: Model, after: Model) -> None:
    """Checks every claim.

    Raises:
        ClaimError: naming the tensor.
    """
    for claim in claims:
        claim.check(before, after)


@dataclass(frozen=True, eq=False)
class Block:
    """One block of a weight seen as [output channel, input channel of the group, *kernel].

    Attributes:
        rows: output channels.
        columns: input channels within the group.
        kind: `old` (a block of the old weight, bit for bit), `zero`, or `dirac` (a matrix at some
            taps of the kernel, zero at all others).
        old_rows: for `old`, the output channels of the old weight.
        old_columns: for `old`, its input channels.
        matrix: for `dirac`, shape [len(rows), len(columns), len(taps)].
        taps: for `dirac`, indices into the kernel; one empty index for a matrix product.
    """

    rows: tuple[int, ...]
    columns: tuple[int, ...]
    kind: Literal["old", "zero", "dirac"]
    old_rows: tuple[int, ...] = ()
    old_columns: tuple[int, ...] = ()
    matrix: Array | None = None
    taps: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True, eq=False)
class WidenedWeight:
    """Claims every element of one new weight.

    Attributes:
        new: tensor name in the model after the pass.
        old: tensor name in the model before it.
        new_value: the new weight as the pass made it, [output, input, *kernel].
        old_value: the old weight as the pass found it, likewise. Where one pass widens a weight
            twice (nested skips) the weight in between is in neither model; then, and only then,
            the claim is checked on these.
        blocks: must cover each element of the new weight exactly once.
        transposed: whether the tensors are stored as [input, output] (Gemm).
    """

    new: str
    old: str
    new_value: Array
    old_value: Array
    blocks: tuple[Block, ...]
    transposed: bool = False

    def check(self, before: Model, after: Model) -> None:
        """Compares the arrays block by block; see `Claim.check`."""
        new = self._weight(after, self.new, self.new_value)
        old = self._weight(before, self.old, self.old_value)
        seen = np.zeros(new.shape[:2], int)
        for block in self.blocks:
            index = np.ix_(block.rows, block.columns)
            seen[index] += 1
            found = new[index]
            if not np.array_equal(found, self._expected(block, old, found), equal_nan=True):
                raise ClaimError(
                    f"in the new weight '{self.new}' the {block.kind} block of output channels "
                    f"{block.rows[0]}.. and inputs {block.columns[0]}.. is not what it must be"
                )
        if (seen != 1).any():
            raise ClaimError(f"the claims do not cover the new weight '{self.new}' exactly once")

    @staticmethod
    def _expected(block: Block, old: Array, found: Array) -> Array:
        if block.kind == "old":
            return old[np.ix_(block.old_rows, block.old_columns)]
        expected = np.zeros_like(found)
        if block.kind == "dirac" and block.matrix is not None:
            for number, tap in enumerate(block.taps):
                at: Any = (slice(None), slice(None), *tap)
                expected[at] = block.matrix[:, :, number]
        return expected

    def _weight(self, model: Model, name: str, between: Array) -> Array:
        value = model.value_index().get(name)
        if value is None:
            return between
        array = constant(value)
        if array is None:
            raise ClaimError(f"the weight '{name}' is not a constant of the model")
        return array.swapaxes(0, 1) if self.transposed else array


@dataclass(frozen=True)
class Activation:
    """An elementwise function as the algebra knows it, per channel where arrays are given.

    Attributes:
        function: relu, leaky (`slope` for negative values, broadcast over channels) or clip.
        slope: for leaky; one for all channels, or one per channel.
        low: lower bound of clip.
        high: upper bound of clip.
    """

    function: Literal["relu", "leaky", "clip"]
    slope: tuple[float, ...] = ()
    low: float = -np.inf
    high: float = np.inf

    def __call__(self, x: Array) -> Array:
        """Applies it to an array of shape [channel, sample]."""
        match self.function:
            case "relu":
                return np.maximum(x, 0.0)
            case "clip":
                return np.clip(x, self.low, self.high)
            case "leaky":
                return np.where(x >= 0, x, x * np.asarray(self.slope)[:, None])


@dataclass(frozen=True, eq=False)
class Step:
    """One layer as the reserved channels see it: `activation(matrix @ channels + offset)`, where
    the activation takes an array of shape [channel, sample].
    """

    matrix: Array
    offset: Array
    activation: Callable[[Array], Array] | None = None


@dataclass(frozen=True, eq=False)
class CarriedChannels:
    """Claims that the reserved channels arrive at the join as what the skip delivers.

    Attributes:
        steps: what each layer of the branch does to the reserved channels, the merge included.
        skip: the matrix of the skip path, shape [output channel, input channel].
        skip_bias: its bias, shape [output channel].
        low: proved lower bound of the fork tensor, scalar or one per channel.
        high: proved upper bound.
        where: name of the skip, for messages.
    """

    steps: tuple[Step, ...]
    skip: Array
    skip_bias: Array
    low: Array
    high: Array
    where: str
    samples: int = 64

    def check(self, before: Model, after: Model) -> None:
        """Sends samples from the proved range through the reserved channels, in float64."""
        channels = self.skip.shape[1]
        rng = np.random.default_rng(0)
        low, high = (np.broadcast_to(end, (channels,))[:, None] for end in (self.low, self.high))
        low, high = (
            np.maximum(low, np.minimum(-1e4, high - 1e4)),
            np.minimum(high, np.maximum(1e4, low + 1e4)),
        )
        x = low + (high - low) * rng.random((channels, self.samples))
        x = np.concatenate([x, low, high, np.clip(np.zeros_like(low), low, high)], axis=1)
        state = x
        for step in self.steps:
            state = step.matrix @ state + step.offset[:, None]
            if step.activation is not None:
                state = step.activation(state)
        wanted = self.skip @ x + self.skip_bias[:, None]
        # each delivered value is one product or a sum over the skip's inputs, in float64
        scale = np.abs(self.skip) @ np.abs(x) + np.abs(self.skip_bias)[:, None] + 1.0
        carried = max(float(np.max(np.abs(step.offset), initial=0.0)) for step in self.steps)
        if not (np.abs(state - wanted) <= 1e-12 * (scale + carried)).all():  # also where it is NaN
            worst = float(np.abs(state - wanted).max())
            raise ClaimError(
                f"the reserved channels of '{self.where}' deliver values off by {worst:.3g}"
            )


@dataclass(frozen=True, eq=False)
class Map:
    """A linear operator on a window: weight [M, K, *kernel] without groups, bias [M]."""

    weight: Array
    bias: Array

    def on_window(self, window: Array) -> Array:
        """Its value for one output position: `window` has shape [K, *kernel]."""
        axes = list(range(window.ndim))
        summed = np.tensordot(
            self.weight.astype(np.float64), window, axes=([a + 1 for a in axes], axes)
        )
        return np.asarray(summed + self.bias)

    def on_points(self, points: Array) -> Array:
        """Its value at every position of [K, *kernel] where it is pointwise."""
        flat = self.weight.astype(np.float64).reshape(self.weight.shape[:2])
        shift = self.bias.reshape(-1, *[1] * (points.ndim - 1))
        return np.asarray(np.tensordot(flat, points, axes=1) + shift)

    @property
    def is_pointwise(self) -> bool:
        """Whether the kernel has one tap."""
        return all(size == 1 for size in self.weight.shape[2:])


@dataclass(frozen=True, eq=False)
class Composed:
    """Claims that a new weight is the composition of two linear operators, of which at least one
    is pointwise, or which both have dilation 1.

    Attributes:
        weight: tensor name of the new weight in the model after the pass.
        bias: tensor name of its bias; "" where it has none.
        new: the same as the pass made it, without groups, for a weight that was fused on.
        first: what came first.
        second: what read it.
        group: groups of the new weight.
        transposed: whether it is stored as [input, output].
        strides: of the first operator, where neither is pointwise.
    """

    weight: str
    bias: str
    new: Map
    first: Map
    second: Map
    group: int = 1
    transposed: bool = False
    strides: tuple[int, ...] = ()

    def check(self, before: Model, after: Model) -> None:
        """Sends random windows through both, in float64; see `Claim.check`."""
        new = self._new(after)
        rng = np.random.default_rng(0)
        kernel = new.weight.shape[2:]
        u = (
            float(np.finfo(self.new.weight.dtype).eps)
            if self.new.weight.dtype.kind == "f"
            else 2.0**-7
        )
        for _ in range(4):
            window = rng.standard_normal((self.first.weight.shape[1], *kernel))
            wanted = self._one_after_the_other(window)
            found = new.on_window(window)
            size = np.abs(new.weight.astype(np.float64)).sum(axis=tuple(range(1, new.weight.ndim)))
            bound = (
                4 * u * (size + np.abs(new.bias) + np.abs(wanted)) * max(1.0, np.abs(window).max())
            )
            same = (found == wanted) | (np.isnan(found) & np.isnan(wanted))
            if not (same | (np.isfinite(bound) & (np.abs(found - wanted) <= bound))).all():
                worst = float(np.abs(found - wanted).max())
                raise ClaimError(
                    f"the weight '{self.weight}' is not the composition of what it replaces "
                    f"(off by {worst:.3g})"
                )

    def _one_after_the_other(self, window: Array) -> Array:
        """What the second operator makes of what the first one makes of a window."""
        if self.first.is_pointwise:
            return self.second.on_window(self.first.on_points(window))
        size = self.first.weight.shape[2:]
        between = np.zeros((len(self.first.weight), *self.second.weight.shape[2:]))
        for place in np.ndindex(*between.shape[1:]):
            starts = [p * s for p, s in zip(place, self.strides or (1,) * len(size), strict=True)]
            part = (slice(start, start + k) for start, k in zip(starts, size, strict=True))
            between[(slice(None), *place)] = self.first.on_window(window[(slice(None), *part)])
        return self.second.on_window(between)

    def _new(self, model: Model) -> Map:
        index = model.value_index()
        if self.weight not in index:
            return self.new
        weight = constant(index[self.weight])
        bias = constant(index.get(self.bias)) if self.bias else self.new.bias * 0
        if weight is None or bias is None:
            raise ClaimError(f"the weight '{self.weight}' is not a constant of the model")
        if self.transposed:
            weight = weight.swapaxes(0, 1)
        return Map(ungrouped(weight, self.group), bias.astype(np.float64))


@dataclass(frozen=True, eq=False)
class PrunedWeight:
    """Claims that a new constant is an old one with slices taken out, bit for bit.

    Attributes:
        new: tensor name in the model after the pass.
        old: tensor name in the model before it.
        kept: along each axis of the tensor as stored, the indices that stay; None for all.
    """

    new: str
    old: str
    kept: tuple[tuple[int, ...] | None, ...]

    def check(self, before: Model, after: Model) -> None:
        """Compares every element that stays; see `Claim.check`."""
        new, old = _constant(after, self.new), _constant(before, self.old)
        if len(self.kept) != old.ndim:
            raise ClaimError(f"the claim about '{self.new}' names {len(self.kept)} axes")
        ranges = (
            range(size) if indices is None else indices
            for size, indices in zip(old.shape, self.kept, strict=True)
        )
        expected = old[np.ix_(*ranges)]
        if new.dtype != old.dtype or not np.array_equal(new, expected, equal_nan=True):
            raise ClaimError(f"'{self.new}' is not '{self.old}' without what was taken out")


@dataclass(frozen=True, eq=False)
class PrunedBias:
    """Claims that a new bias is the old one without some rows, plus what the inputs that were
    taken out have added to the others: each was a constant.

    Attributes:
        new: tensor name in the model after the pass.
        old: tensor name in the model before it, or None where there was no bias.
        weight: tensor name of the weight in the model before the pass.
        rows: the outputs that stay.
        inputs: inputs that were taken out, of those that were not zero.
        values: the constant that each of them held, shape [len(inputs)].
        transposed: whether the weight is stored as [input, output].
    """

    new: str
    old: str | None
    weight: str
    rows: tuple[int, ...]
    inputs: tuple[int, ...]
    values: Array
    transposed: bool = False

    def check(self, before: Model, after: Model) -> None:
        """Adds it up again, in float64; see `Claim.check`."""
        new, weight = _constant(after, self.new), _constant(before, self.weight)
        if self.transposed:
            weight = weight.swapaxes(0, 1)
        if new.shape != (len(self.rows),):
            raise ClaimError(f"the bias '{self.new}' has not one number per output")
        old = np.zeros(1) if self.old is None else _constant(before, self.old).reshape(-1)
        kept = np.broadcast_to(old, weight.shape[:1])[list(self.rows)].astype(np.float64)
        taken = weight[np.ix_(self.rows, self.inputs)].astype(np.float64)
        terms = taken.sum(axis=tuple(range(2, taken.ndim))) * self.values
        expected = kept + terms.sum(axis=1)
        eps = float(np.finfo(new.dtype).eps) if new.dtype.kind == "f" else 2.0**-7
        bound = eps * np.abs(expected) + 1e-12 * np.abs(terms).sum(axis=1)
        if new.dtype.kind == "f":  # also where it underflows
            bound += float(np.finfo(new.dtype).smallest_subnormal)
        bound[~terms.any(axis=1)] = 0
        found = new.astype(np.float64)
        if not ((found == expected) | (np.abs(found - expected) <= bound)).all():
            worst = float(np.abs(found - expected).max())
            raise ClaimError(
                f"the bias '{self.new}' is not the old one and what the constants add "
                f"(off by {worst:.3g})"
            )


def _constant(model: Model, name: str) -> Array:
    array = constant(model.value_index().get(name))
    if array is None:
        raise ClaimError(f"'{name}' is not a constant of the model")
    return array


def ungrouped(weight: Array, group: int) -> Array:
    """A grouped weight [M, K / group, *kernel] as a dense one [M, K, *kernel]."""
    if group == 1:
        return weight
    rows, columns = weight.shape[0] // group, weight.shape[1]
    wide = np.zeros((weight.shape[0], columns * group, *weight.shape[2:]), weight.dtype)
    for g in range(group):
        block = slice(g * rows, (g + 1) * rows)
        wide[block, g * columns : (g + 1) * columns] = weight[block]
    return wide


@dataclass(frozen=True, eq=False)
class Placed:
    """A linear operator and the positions that it reads for its first output.

    Attributes:
        weight: shape [M, K / group, *kernel].
        bias: shape [M].
        start: position of its first tap, per spatial axis.
        dilations: distance of the taps, per spatial axis.
        group: number of groups.
    """

    weight: Array
    bias: Array
    start: tuple[int, ...]
    dilations: tuple[int, ...]
    group: int = 1

    @property
    def end(self) -> tuple[int, ...]:
        """Position behind its last tap, per spatial axis."""
        axes = zip(self.start, self.dilations, self.weight.shape[2:], strict=True)
        return tuple(start + (size - 1) * dilation + 1 for start, dilation, size in axes)

    @property
    def size(self) -> Array:
        """Sum of the magnitudes of its weights and bias, shape [M]."""
        rows = np.abs(self.weight.astype(np.float64)).reshape(len(self.weight), -1)
        return np.asarray(rows.sum(axis=1) + np.abs(self.bias))

    def value(self, signal: Array, origin: tuple[int, ...]) -> Array:
        """Its first output where `signal`, shape [K, *positions], holds the input from `origin`."""
        axes = zip(self.start, self.end, self.dilations, origin, strict=True)
        read = signal[:, *(slice(a - o, b - o, d) for a, b, d, o in axes)]
        rows = self.weight.astype(np.float64).reshape(self.group, len(self.bias) // self.group, -1)
        products = np.einsum("gmk,gk->gm", rows, read.reshape(self.group, -1))
        return np.asarray(products.reshape(-1) + self.bias)


@dataclass(frozen=True, eq=False)
class Summed:
    """Claims that a new linear operator is the sum of others that read the same tensor.

    Attributes:
        weight: tensor name of the new weight in the model after the pass.
        bias: tensor name of its bias; "" where it has none.
        new: the same as the pass made it, for a weight that was fused on.
        terms: what it is the sum of.
        transposed: whether it is stored as [input, output].
    """

    weight: str
    bias: str
    new: Placed
    terms: tuple[Placed, ...]
    transposed: bool = False

    def check(self, before: Model, after: Model) -> None:
        """Sends random signals through all of them, in float64; see `Claim.check`."""
        new = self._new(after)
        both = (new, *self.terms)
        origin = tuple(min(places) for places in zip(*(one.start for one in both), strict=True))
        end = tuple(max(places) for places in zip(*(one.end for one in both), strict=True))
        shape = tuple(b - a for a, b in zip(origin, end, strict=True))
        size = sum((one.size for one in self.terms), start=new.size)
        kind = new.weight.dtype
        u = float(np.finfo(kind).eps) if kind.kind == "f" else 2.0**-7
        rng = np.random.default_rng(0)
        for _ in range(4):
            signal = rng.standard_normal((new.weight.shape[1] * new.group, *shape))
            wanted = sum(one.value(signal, origin) for one in self.terms)
            error = np.abs(new.value(signal, origin) - wanted)
            if not (error <= 4 * u * size * max(1.0, np.abs(signal).max())).all():  # also NaN
                raise ClaimError(
                    f"the weight '{self.weight}' is not the sum of the branches that it replaces "
                    f"(off by {float(error.max()):.3g})"
                )

    def _new(self, model: Model) -> Placed:
        index = model.value_index()
        if self.weight not in index:
            return self.new
        weight = constant(index[self.weight])
        bias = constant(index.get(self.bias)) if self.bias else np.zeros_like(self.new.bias)
        if weight is None or bias is None:
            raise ClaimError(f"the weight '{self.weight}' is not a constant of the model")
        stored = weight.swapaxes(0, 1) if self.transposed else weight
        return replace(self.new, weight=stored, bias=bias.astype(np.float64))


@dataclass(frozen=True, eq=False)
class Stacked:
    """Claims that a new tensor holds old ones, one after the other along its first axis.

    Attributes:
        new: tensor name in the model after the pass.
        old: tensor names in the model before it, in order; "" for one that did not exist.
        new_value: the new tensor as the pass made it.
        old_values: the old ones as the pass found them, for those in neither model.
    """

    new: str
    old: tuple[str, ...]
    new_value: Array
    old_values: tuple[Array, ...]

    def check(self, before: Model, after: Model) -> None:
        """Compares the arrays, bit for bit; see `Claim.check`."""
        earlier, later = before.value_index(), after.value_index()
        new = constant(later.get(self.new))
        parts = [
            found if (found := constant(earlier.get(name))) is not None else value
            for name, value in zip(self.old, self.old_values, strict=True)
        ]
        new = self.new_value if new is None else new
        if not np.array_equal(new, np.concatenate(parts), equal_nan=True):
            raise ClaimError(f"'{self.new}' does not hold {', '.join(filter(None, self.old))}")
