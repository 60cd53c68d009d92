"""Which channels can go: those that nobody reads and those that are constants, to a fixpoint.

To take one channel out may leave another one unread before it, or constant behind it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir

from passes.channel_pruning.groups import Group
from passes.channel_pruning.laws import Known
from passes.channel_pruning.weights import Weights

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Slimmed:
    """Channels of a group that are to become constants although they are none.

    Attributes:
        wanted: which channels; shape [C].
        scores: how much each channel matters; shape [C].
        tensor: where they become constants.
        constants: what they become there; shape [C].
        why: what the scores are, for reports.
    """

    wanted: Array
    scores: Array
    tensor: onnx_ir.Value
    constants: Array
    why: str


@dataclass(frozen=True, eq=False)
class Verdicts:
    """What can be said of the channels of one group as things stand; all of shape [C].

    Attributes:
        unread: no reader multiplies it by anything but zero.
        constant: it is unread, or arrives as a constant everywhere it is read.
        approximate: it may go: it is constant, or slimmed.
        spoiled: it would be constant, but padding with zeros makes it differ at the border.
    """

    unread: Array
    constant: Array
    approximate: Array
    spoiled: Array


@dataclass(eq=False)
class Removal:
    """The channels that leave, found step by step.

    Attributes:
        groups: all groups of the model.
        slimmed: channels that become constants, by group.
        keep: least number of channels that a tensor keeps.
        align: the number of channels kept is a multiple of this, where there are as many.
        gone: the channels that leave, by free group.
        because: those of them that left as `unread` and as `constant`, by free group.
        arriving: what the columns that leave held, by reader; zero for all others.
    """

    groups: Sequence[Group]
    slimmed: Mapping[Group, Slimmed]
    keep: int
    align: int
    gone: dict[Group, Array] = field(default_factory=dict)
    because: dict[Group, dict[str, Array]] = field(default_factory=dict)
    arriving: dict[onnx_ir.Node, Array] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for group in self.free:
            nothing = np.zeros(group.channels, bool)
            self.gone[group] = nothing
            self.because[group] = {"unread": nothing, "constant": nothing}
            for reader in group.readers:
                self.arriving[reader.linear.node] = np.zeros(reader.linear.inputs)

    @cached_property
    def free(self) -> tuple[Group, ...]:
        """The groups whose channels stand alone."""
        return tuple(group for group in self.groups if group.is_free)

    @cached_property
    def _behind(self) -> dict[onnx_ir.Node, Group]:
        """The group that a linear operator makes, where it is free."""
        return {group.producer.linear.node: group for group in self.free}

    @cached_property
    def _before(self) -> dict[onnx_ir.Node, Group]:
        """The group that a linear operator reads, where it is free."""
        return {reader.linear.node: group for group in self.free for reader in group.readers}

    def rows(self, weights: Weights) -> Array:
        """The output channels of a linear operator that stay; shape [M]."""
        group = self._behind.get(weights.linear.node)
        return np.ones(weights.linear.outputs, bool) if group is None else ~self.gone[group]

    def columns(self, weights: Weights) -> Array:
        """The input channels of a linear operator that stay; shape [K]."""
        linear = weights.linear
        group = self._before.get(linear.node)
        if group is None:
            return np.ones(linear.inputs, bool)
        return group.tensors[linear.source].entries(~self.gone[group])

    def added(self, weights: Weights) -> Array:
        """What the constants that left add to the bias of a linear operator; float64 [M]."""
        arriving = self.arriving.get(weights.linear.node)
        if arriving is None:
            return np.zeros(weights.linear.outputs)
        columns = np.flatnonzero(arriving)
        return np.asarray(weights.summed(columns) @ arriving[columns])

    def solve(self) -> None:
        """Takes channels out until no more can go."""
        while sum(self._take(group) for group in self.free):
            pass

    def verdicts(self, group: Group) -> tuple[Verdicts, dict[onnx_ir.Value, Known]]:
        """What can be said of a group as things stand."""
        known = self._flow(group)
        every = np.ones(group.channels, bool)
        unread, constant, approximate, reached = every, every, every, every
        slimmed = self.slimmed[group].wanted if group in self.slimmed else ~every
        for reader in group.readers:
            source = reader.linear.source
            place, here, alive = group.tensors[source], known[source], self.rows(reader)
            used = np.asarray(reader.used[alive].any(axis=0))
            unharmed = (here.value == 0) | ~reader.used_at_border[alive].any(axis=0)
            fits = ~used | (here.everywhere & unharmed)
            nearly = ~used | here.inside
            unread = unread & place.channels(~used)
            constant = constant & place.channels(fits)
            approximate = approximate & place.channels(fits | (nearly & place.entries(slimmed)))
            reached = reached & place.channels(nearly)
        return Verdicts(unread, constant, approximate, reached & ~constant & ~slimmed), known

    def _take(self, group: Group) -> bool:
        """Takes out of one group what can go as things stand; whether that was anything."""
        found, known = self.verdicts(group)
        gone = self.gone[group]
        stays = group.channels - int((found.approximate | gone).sum())
        stays = -(-max(stays, self.keep) // self.align) * self.align
        number = group.channels - stays - int(gone.sum())
        if number <= 0:
            return False
        scores = self.slimmed[group].scores if group in self.slimmed else np.zeros(len(gone))
        order = np.lexsort((np.where(found.constant, 0.0, scores), ~found.constant))
        candidates = [channel for channel in order if found.approximate[channel] & ~gone[channel]]
        taken = np.zeros(len(gone), bool)
        taken[candidates[:number]] = True
        self.gone[group] = gone | taken
        because = self.because[group]
        because["unread"] = because["unread"] | (taken & found.unread)
        because["constant"] = because["constant"] | (taken & found.constant & ~found.unread)
        for reader in group.readers:
            source = reader.linear.source
            here = known[source]
            used = reader.used[self.rows(reader)].any(axis=0)
            leaves = group.tensors[source].entries(taken) & used & here.inside
            self.arriving[reader.linear.node][leaves] = here.value[leaves]
        return True

    def _flow(self, group: Group) -> dict[onnx_ir.Value, Known]:
        """What is known of each tensor of a group."""
        slimmed, linear = self.slimmed.get(group), group.producer.linear
        used = np.asarray(group.producer.used[:, self.columns(group.producer)].any(axis=1))
        bias = linear.bias.astype(np.float64) + self.added(group.producer)
        rounded = bias.astype(linear.weight.dtype).astype(np.float64)
        known = {linear.result: Known.where(~used, rounded)}

        def force(tensor: onnx_ir.Value) -> None:
            if slimmed is not None and slimmed.tensor is tensor:
                known[tensor] = known[tensor].replaced(slimmed.wanted, slimmed.constants)

        force(linear.result)
        for step in group.steps:
            sources = [step.node.inputs[index] for index in step.sources]
            target = step.node.outputs[0]
            known[target] = step.law([known[value] for value in sources if value is not None])
            force(target)
        return known
