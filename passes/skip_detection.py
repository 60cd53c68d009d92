"""Finds every skip connection: any join of two or more data paths with a common fork."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from graphopt.ir.layers import Layer, LayerKind, Layers, LayerView
from graphopt.ir.model import Model
from graphopt.ir.shapes import Shapes
from graphopt.skips import Path, Skip, SkipKind


@dataclass(frozen=True)
class Skips:
    """Analysis: the skips of a model, in the order of their joins (inner ones before outer)."""

    name: ClassVar[str] = "skips"

    def run(self, model: Model) -> tuple[Skip, ...]:
        """Detects. Linear in the size of the regions between forks and joins."""
        shapes = model.analyses.get(Shapes())
        view = model.analyses.get(Layers())
        return detect(view, {name: shapes[name].bytes() for name in shapes})


def detect(view: LayerView, sizes: Mapping[str, int | None]) -> tuple[Skip, ...]:
    """The skips of a graph of layers, whichever framework it was built from.

    Args:
        view: the layers.
        sizes: bytes of each tensor for one sample, None where unknown.

    Returns:
        One `Skip` per join whose inputs share a fork. A join of tensors that have nothing in
        common (two graph inputs) is no skip.
    """
    found = (_skip(view, layer, sizes) for layer in view if layer.is_join)
    return tuple(skip for skip in found if skip is not None)


@dataclass(frozen=True)
class _Fork:
    """Where the inputs of a join part.

    Attributes:
        tensor: the last tensor on which all of them depend.
        dominated: whether nothing from before it reaches the join by another way.
        reached: which inputs (as bits) each tensor between fork and join leads to.
    """

    tensor: str
    dominated: bool
    reached: dict[str, int]


def _fork(view: LayerView, tensors: tuple[str, ...]) -> _Fork | None:
    """Walks back from the inputs of a join, latest tensor first, until one leads to all of them.

    A tensor is taken only after everything made later, so what it leads to is complete then; if
    nothing else is waiting, every way to the join goes through it: it dominates the join. With
    several graph inputs it may be that only some of the join's inputs share an ancestor; then the
    last one shared by two is the fork.
    """

    def place(tensor: str) -> int:
        layer = view.producer.get(tensor)
        return -1 if layer is None else view.position[layer.name]

    everything = (1 << len(tensors)) - 1
    reached: dict[str, int] = {}
    heap: list[tuple[int, str]] = []
    shared: _Fork | None = None

    def visit(tensor: str, bits: int) -> None:
        if tensor not in reached:
            heapq.heappush(heap, (-place(tensor), tensor))
        reached[tensor] = reached.get(tensor, 0) | bits

    for index, tensor in enumerate(tensors):
        visit(tensor, 1 << index)
    while heap:
        _, tensor = heapq.heappop(heap)
        bits = reached[tensor]
        if bits == everything:
            return _Fork(tensor, not heap, dict(reached))
        if shared is None and bits.bit_count() >= 2:
            shared = _Fork(tensor, False, dict(reached))
        layer = view.producer.get(tensor)
        for source in layer.inputs if layer is not None else ():
            visit(source, bits)
    return shared


def _skip(view: LayerView, join: Layer, sizes: Mapping[str, int | None]) -> Skip | None:
    tensors = tuple(dict.fromkeys(join.inputs))
    fork = _fork(view, tensors)
    if fork is None:
        return None
    paths = sorted(
        (_path(view, fork, tensor, 1 << index) for index, tensor in enumerate(tensors)),
        key=lambda path: (path.multiply_adds, len(path.layers)),
    )
    start = view.producer.get(fork.tensor)
    begin = -1 if start is None else view.position[start.name]
    end = view.position[join.name]
    held = _held(view, fork.tensor, paths[0], begin, end)
    return Skip(
        name=join.name,
        fork=fork.tensor,
        join=join.name,
        operator=join.operators[0],
        kind=_kind(view, join, paths[0]),
        paths=tuple(paths),
        dominated=fork.dominated,
        lifetime=end - begin,
        bytes=sizes.get(held),
        held=held,
    )


def _path(view: LayerView, fork: _Fork, tensor: str, bit: int) -> Path:
    """The layers between the fork and one input of the join."""
    layers = {
        view.producer[name].name: view.producer[name]
        for name, bits in fork.reached.items()
        if bits & bit and name != fork.tensor and name in view.producer
    }
    start = view.producer.get(fork.tensor)
    first = -1 if start is None else view.position[start.name]
    ordered = sorted(
        (layer for layer in layers.values() if view.position[layer.name] > first),
        key=lambda layer: view.position[layer.name],
    )
    return Path(
        tensor=tensor,
        layers=tuple(layer.name for layer in ordered),
        operators=tuple(operator for layer in ordered for operator in layer.operators),
        multiply_adds=sum(layer.multiply_adds for layer in ordered),
    )


def _held(view: LayerView, fork: str, path: Path, begin: int, end: int) -> str:
    """The tensor that waits for the join: the fork, or what the skip path has made of it.

    The fork waits until the first layer of the skip path runs, its result from the last one on.
    """
    if not path.layers:
        return fork
    fork_waits = view.position[path.layers[0]] - begin
    result_waits = end - view.position[path.layers[-1]]
    return fork if fork_waits > result_waits else path.tensor


def _kind(view: LayerView, join: Layer, path: Path) -> SkipKind:
    if join.kind is LayerKind.CONCAT:
        return SkipKind.CONCAT
    if join.kind is LayerKind.MUL:
        return SkipKind.GATED
    layers = [view.graph.nodes[name]["layer"] for name in path.layers]
    kinds = {_strongest(layer) for layer in layers} - {LayerKind.IDENTITY, LayerKind.QUANTIZER}
    for kind, verdict in (
        (LayerKind.OTHER, SkipKind.NONLINEAR),
        (LayerKind.CONV, SkipKind.PROJECTION),
        (LayerKind.MATMUL, SkipKind.PROJECTION),
        (LayerKind.RESIZE, SkipKind.RESIZED),
        (LayerKind.POOL, SkipKind.POOLED),
    ):
        if kind in kinds:
            return verdict
    if any(operator in ("Slice", "Pad", "Concat") for operator in path.operators):
        return SkipKind.OPTION_A
    return SkipKind.SCALED if kinds & {LayerKind.SCALE, LayerKind.NORM} else SkipKind.IDENTITY


_ACTIVATIONS_IN_LAYERS = frozenset(
    "Relu LeakyRelu PRelu Elu Selu Celu Sigmoid HardSigmoid HardSwish Swish Mish Tanh Clip "
    "Softplus Softsign Gelu QuickGelu iGELU ThresholdedRelu Softmax Erf".split()
)


def _strongest(layer: Layer) -> LayerKind:
    """The kind of a layer on a skip path; OTHER where anything in it is not linear."""
    if layer.kind in (LayerKind.ACTIVATION, LayerKind.ADD, LayerKind.CONCAT, LayerKind.MUL):
        return LayerKind.OTHER
    if any(operator in _ACTIVATIONS_IN_LAYERS for operator in layer.operators):
        return LayerKind.OTHER
    if any(operator in ("MaxPool", "GlobalMaxPool", "ReduceMax") for operator in layer.operators):
        return LayerKind.POOL
    return layer.kind
