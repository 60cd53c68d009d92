"""The operators that keep channels apart, and where a tensor holds them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir

from graphopt.ir.constants import constant, scalar
from graphopt.ir.shapes import ShapeTable
from passes.activations.function import DOMAINS, OPERATORS
from passes.channel_pruning.laws import Depthwise, Elementwise, Kept, Law, Norm, Repeated
from passes.channel_pruning.weights import Weights
from passes.norm_folding import CannotFold, batch_norm

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Place:
    """Where a tensor holds channels: a run of `run` entries for each, in order, along one axis."""

    axis: int
    rank: int
    run: int = 1

    def entries(self, channels: Array) -> Array:
        """One element per entry from one per channel."""
        return np.repeat(channels, self.run)

    def channels(self, entries: Array) -> Array:
        """For each channel whether the mask holds for all of its entries."""
        return np.asarray(entries.reshape(-1, self.run).all(axis=1))


@dataclass(frozen=True, eq=False)
class Step:
    """A channel-wise operator.

    Attributes:
        node: the operator.
        sources: the inputs that hold the channels.
        target: where its output holds them.
        law: what it does to constant channels.
        per_entry: the constant inputs with one number per entry, each with the axis of these.
    """

    node: onnx_ir.Node
    sources: tuple[int, ...]
    target: Place
    law: Law
    per_entry: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, eq=False)
class Site:
    """A node in front of which channels arrive.

    Attributes:
        node: the node.
        places: where the inputs that hold channels hold them.
        channels: number of channels.
        shapes: of the tensors.
    """

    node: onnx_ir.Node
    places: Mapping[int, Place]
    channels: int
    shapes: ShapeTable

    @property
    def place(self) -> Place:
        """Where the first input holds them."""
        return self.places[0]

    @property
    def entries(self) -> int:
        """Number of entries of the first input."""
        return self.channels * self.place.run

    def step(self, law: Law, target: Place | None = None, **more: Any) -> Step:
        """A step that reads the first input alone."""
        return Step(self.node, (0,), target or self.place, law, **more)

    def sizes(self) -> tuple[int, ...] | None:
        """Sizes of the axes of the first input behind the channels, where they are known."""
        value = self.node.inputs[0]
        shape = self.shapes[(value.name if value is not None else None) or ""].shape
        if shape is None or len(shape) != self.place.rank:
            return None
        behind = shape[self.place.axis + 1 :]
        known = tuple(size for size in behind if isinstance(size, int))
        return known if len(known) == len(behind) else None


def read_step(site: Site) -> Step | None:
    """What the node does, or None where it does not keep channels apart."""
    node = site.node
    if any(one.uses() or one.is_graph_output() for one in node.outputs[1:]):
        return None
    if node.op_type in OPERATORS and node.domain in DOMAINS:
        return _elementwise(site)
    reader = _READERS.get(node.op_type) if node.domain in ("", "ai.onnx") else None
    return reader(site) if reader is not None and set(site.places) == {0} else None


def _elementwise(site: Site) -> Step | None:
    """One function of tensors that hold the same channels, and of numbers per channel."""
    node, places = site.node, site.places
    rank = max(place.rank for place in places.values())
    (from_end, run), *others = {(place.axis - place.rank, place.run) for place in places.values()}
    if others or (node.op_type in ("Max", "Min") and len(node.inputs) != 2):
        return None
    target = Place(rank + from_end, rank, run)
    entries = site.channels * run
    constants: dict[int, Array] = {}
    per_entry: list[tuple[int, int]] = []
    for index, value in enumerate(node.inputs):
        if value is None or index in places:
            continue
        array = constant(value)
        if array is None or array.ndim > rank:
            return None
        constants[index] = array.astype(np.float64).reshape(-1)
        if array.size == 1:
            constants[index] = constants[index].reshape(())
            continue
        axis = array.ndim + from_end
        if axis < 0 or array.shape[axis] != entries or array.size != entries:
            return None
        per_entry.append((index, axis))
    attributes = node.attributes
    if node.op_type == "Clip":  # bounds that are attributes (before opset 11), or left out
        for index, (name, bound) in enumerate((("min", -math.inf), ("max", math.inf)), 1):
            constants.setdefault(index, np.asarray(attributes.get_float(name, bound)))
    parameters = {name: one.value for name, one in attributes.items() if not one.is_ref()}
    sources = tuple(places)
    law = Elementwise(node.op_type, parameters, sources, constants)
    return Step(node, sources, target, law, tuple(per_entry))


def _norm(site: Site) -> Step | None:
    try:
        affine = batch_norm(site.node)
    except CannotFold:
        return None
    if site.place.axis != 1 or affine.scale.shape != (site.entries,):
        return None
    return site.step(Norm(affine), per_entry=((1, 0), (2, 0), (3, 0), (4, 0)))


def _dropout(site: Site) -> Step | None:
    training = site.node.inputs[2] if len(site.node.inputs) > 2 else None
    return None if training is not None and scalar(training) != 0 else site.step(Kept())


def _pool(site: Site) -> Step | None:
    if site.place.axis != 1:
        return None
    attributes = site.node.attributes
    moved = (
        any(attributes.get_ints("pads", ()) or ())
        or attributes.get_string("auto_pad", "NOTSET") not in ("NOTSET", "VALID")
        or attributes.get_int("ceil_mode", 0) != 0
    )
    return site.step(Kept(padded=moved and attributes.get_int("count_include_pad", 0) != 0))


def _reduced(site: Site) -> Step | None:
    """A mean or maximum over other axes than that of the channels; Squeeze drops such axes."""
    node, place = site.node, site.place
    given = node.attributes.get_ints("axes")
    if given is None and len(node.inputs) > 1:
        array = constant(node.inputs[1])
        given = None if array is None else [int(axis) for axis in array.reshape(-1)]
    if not given:
        return None
    axes = {axis % place.rank for axis in given}
    if place.axis in axes:
        return None
    if node.op_type != "Squeeze" and node.attributes.get_int("keepdims", 1) != 0:
        return site.step(Kept())
    before = sum(axis < place.axis for axis in axes)
    return site.step(Kept(), replace(place, axis=place.axis - before, rank=place.rank - len(axes)))


def _flatten(site: Site) -> Step | None:
    """[N, C, *sizes] becomes [N, C * prod(sizes)]."""
    axis = site.node.attributes.get_int("axis", 1) or 0
    return _flattened(site) if axis % site.place.rank == 1 else None


def _reshape(site: Site) -> Step | None:
    """The same, written as a Reshape to a constant shape."""
    step, target, sizes = _flattened(site), constant(site.node.inputs[1]), site.sizes()
    if step is None or target is None or target.size != 2 or sizes is None:
        return None
    rows, columns = (int(size) for size in target)
    source = site.node.inputs[0]
    shape = site.shapes[(source.name if source is not None else None) or ""].shape
    copies = rows == 0 and not site.node.attributes.get_int("allowzero", 0)
    if columns == -1:
        return step if copies or (shape is not None and rows == shape[0]) else None
    return step if columns == site.entries * math.prod(sizes) else None


def _flattened(site: Site) -> Step | None:
    sizes = site.sizes()
    if sizes is None or site.place.axis != 1:
        return None
    times = math.prod(sizes)
    return site.step(Repeated(times), Place(1, 2, site.place.run * times)) if times else None


def _depthwise(site: Site) -> Step | None:
    """A convolution with one group and one output per channel."""
    weights = Weights.read(site.node, site.shapes)
    if weights is None or site.place.axis != 1:
        return None
    linear = weights.linear
    if not linear.group == linear.outputs == site.entries:
        return None
    law = Depthwise(
        weights.summed(np.arange(1))[:, 0],
        linear.bias.astype(np.float64),
        ~weights.used[:, 0],
        weights.used_at_border[:, 0],
    )
    per_entry = tuple((i, 0) for i in (1, 2) if i < len(site.node.inputs) and site.node.inputs[i])
    return site.step(law, per_entry=per_entry)


_READERS: dict[str, Callable[[Site], Step | None]] = {
    "BatchNormalization": _norm,
    "Dropout": _dropout,
    "MaxPool": _pool,
    "AveragePool": _pool,
    "GlobalAveragePool": _pool,
    "GlobalMaxPool": _pool,
    "ReduceMean": _reduced,
    "ReduceMax": _reduced,
    "Squeeze": _reduced,
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Conv": _depthwise,
}
