"""Network slimming (Liu et al. 2017, "Learning Efficient Convolutional Networks through Network
Slimming", ICCV): channels whose batch norm scales them by little go, network-wide.

Behind a norm, gamma is the standard deviation of the channel over the data that the norm's
statistics are of, and beta its mean. So where the norm has been folded both can be measured.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from graphopt.errors import PipelineError
from graphopt.ir.constants import constant
from graphopt.ir.model import Model, node_label
from graphopt.ir.shapes import Shapes
from graphopt.verify.runtime import OrtRunner
from passes.channel_pruning.groups import Group
from passes.channel_pruning.removal import Slimmed

Array = npt.NDArray[Any]

BATCH = 32
"""Samples that are measured at a time, where the model leaves the size of a batch open."""


def scored(groups: Sequence[Group], model: Model, samples: Path | None) -> dict[Group, Slimmed]:
    """The scores of the channels of each group that has any, none of them wanted out yet.

    Args:
        groups: the free groups.
        model: the model.
        samples: file of the samples that groups without a norm are measured on, or None.
    """
    found = {group: by_norm for group in groups if (by_norm := _by_norm(group)) is not None}
    rest = [group for group in groups if group not in found]
    if samples is not None and rest:
        found |= _measured(rest, model, samples)
    return {group: found[group] for group in groups if group in found}


def below(scores: Mapping[Group, Slimmed], threshold: float) -> dict[Group, Slimmed]:
    """Wants the channels out whose score is below the threshold."""
    return {group: replace(one, wanted=one.scores < threshold) for group, one in scores.items()}


def lowest(scores: Mapping[Group, Slimmed], ratio: float) -> dict[Group, Slimmed]:
    """Wants this share of all channels out, those with the lowest scores."""
    every = [score for one in scores.values() for score in one.scores]
    wanted = np.zeros(len(every), bool)
    wanted[np.argsort(every, kind="stable")[: math.floor(ratio * len(every))]] = True
    parts = iter(wanted)
    return {
        group: replace(one, wanted=np.array(list(itertools.islice(parts, group.channels))))
        for group, one in scores.items()
    }


def _by_norm(group: Group) -> Slimmed | None:
    """The scales of the norm that alone reads what the producer makes."""
    made = group.producer.linear.result
    readers = made.consumers()
    if len(readers) != 1 or readers[0].op_type != "BatchNormalization":
        return None
    norm = readers[0]
    gamma, beta = (constant(value) for value in norm.inputs[1:3])
    assert gamma is not None
    assert beta is not None  # the norm is a step of the group, so its parameters are known
    return Slimmed(
        wanted=np.zeros(group.channels, bool),
        scores=np.abs(gamma.astype(np.float64)),
        tensor=norm.outputs[0],
        constants=beta.astype(np.float64),
        why=f"|gamma| of {node_label(norm)}",
    )


def _measured(groups: Sequence[Group], model: Model, path: Path) -> dict[Group, Slimmed]:
    """The standard deviations of the channels over all samples and positions."""
    made = {group: group.producer.linear.result for group in groups}
    names = [value.name or "" for value in made.values()]
    runner = OrtRunner(model, names)
    moments = {group: _Moments(group.channels) for group in groups}
    for feeds in _batches(model, path):
        results = runner.run(feeds)
        for group, value in made.items():
            array = results[value.name or ""].astype(np.float64)
            by_channel = np.moveaxis(array, group.tensors[value].axis, 0)
            moments[group].add(by_channel.reshape(group.channels, -1))
    return {
        group: Slimmed(
            wanted=np.zeros(group.channels, bool),
            scores=moments[group].deviation,
            tensor=value,
            constants=moments[group].mean,
            why=f"the standard deviation behind {group.label} on {path.name}",
        )
        for group, value in made.items()
    }


@dataclass(eq=False)
class _Moments:
    """Mean and spread of some channels, over samples that come in parts (Chan et al. 1983)."""

    channels: int

    def __post_init__(self) -> None:
        self.count = 0
        self.mean = np.zeros(self.channels)
        self._squares = np.zeros(self.channels)

    def add(self, part: Array) -> None:
        """Takes in values of shape [C, samples]."""
        count, mean = part.shape[1], part.mean(axis=1)
        apart, total = mean - self.mean, self.count + count
        self._squares += ((part - mean[:, None]) ** 2).sum(axis=1)
        self._squares += apart**2 * self.count * count / total
        self.mean = self.mean + apart * count / total
        self.count = total

    @property
    def deviation(self) -> Array:
        """Standard deviation of each channel."""
        return np.asarray(np.sqrt(self._squares / self.count))


def _batches(model: Model, path: Path) -> Iterator[dict[str, Array]]:
    """The samples of a file, in batches of a size that the model takes.

    Raises:
        PipelineError: the file cannot be read, or does not fit the inputs of the model.
    """
    shapes = model.analyses.get(Shapes())
    names = [
        value.name or ""
        for value in model.graph.inputs
        if value.name not in model.graph.initializers
    ]
    samples = _samples(path, names)
    fixed = {shape[0] for name in names if (shape := shapes[name].shape)}
    sizes = sorted(size for size in fixed if isinstance(size, int))
    batch, count = sizes[0] if sizes else BATCH, min(len(array) for array in samples.values())
    if sizes and count < batch:
        raise PipelineError(
            f"{path} holds {count} samples, and the model takes {batch} at a time: add more."
        )
    for start in range(0, count - batch + 1 if sizes else count, batch):
        feeds = {}
        for name, array in samples.items():
            dtype = shapes[name].dtype
            part = array[start : start + batch]
            feeds[name] = part if dtype is None else part.astype(dtype.numpy())
        yield feeds


def _samples(path: Path, names: Sequence[str]) -> dict[str, Array]:
    """The arrays of a file, by input; a single array may have any name."""
    try:
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, TypeError) as error:
        reason = getattr(error, "strerror", None) or "it is no .npz file of arrays"
        raise PipelineError(f"the samples {path} cannot be read: {reason}.") from error
    if len(arrays) == len(names) == 1:
        arrays = dict(zip(names, arrays.values(), strict=True))
    missing = [name for name in names if name not in arrays or arrays[name].ndim == 0]
    if missing or not all(len(arrays[name]) for name in names):
        raise PipelineError(
            f"{path} must hold samples for {', '.join(names)}; it holds "
            f"{', '.join(arrays) or 'nothing'}."
        )
    return {name: arrays[name] for name in names}
