"""Lifetimes: which activation tensors are in memory at each step, and how much of it skips hold.

A tensor is live from the step that makes it to the last step that reads it, both included: the
inputs and the outputs of the running step are in memory at the same time. Graph inputs are live
from the start, graph outputs to the end. Sizes are those of one sample (batch 1); weights,
constants, shape arithmetic and the scratch space of kernels are not counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import ClassVar

import onnx_ir

from graphopt.ir.layers import Layer, LayerKind, Layers, data_tensors
from graphopt.ir.model import Model
from graphopt.ir.shapes import Shapes, ShapeTable
from graphopt.skips import Skip

_IN_PLACE_KINDS = frozenset(
    {
        LayerKind.ACTIVATION,
        LayerKind.SCALE,
        LayerKind.ADD,
        LayerKind.MUL,
        LayerKind.QUANTIZER,
        LayerKind.IDENTITY,
    }
)
_IN_PLACE_OPERATORS = frozenset(
    {"BatchNormalization", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Sub", "Div", "Max", "Min"}
)
"""Further operators that write every element once, at the place of what they have just read."""


@dataclass(frozen=True)
class Life:
    """When one tensor is in memory.

    Attributes:
        tensor: its name.
        born: the step that makes it; -1 for a graph input.
        dies: the last step that reads it; the number of steps for a graph output; `born` where
            nothing reads it.
        bytes: its size for one sample, None where its shape or type is unknown.
        reads: the steps that read it.
        replaces: the tensor whose buffer it is written into, None for a buffer of its own.
    """

    tensor: str
    born: int
    dies: int
    bytes: int | None
    reads: tuple[int, ...] = ()
    replaces: str | None = None


@dataclass(frozen=True)
class LifetimeTable:
    """What is in memory at each step.

    Attributes:
        schedule: what runs, in order of execution: node labels, or layer names if fused.
        lives: every activation tensor, in order of birth.
    """

    schedule: tuple[str, ...]
    lives: tuple[Life, ...]

    @cached_property
    def live_bytes(self) -> tuple[int, ...]:
        """Bytes of all live tensors, per step. Tensors of unknown size count as 0."""
        change = [0] * (len(self.schedule) + 1)
        for life in self.lives:
            first, last = self._held(life)
            if first <= last:
                change[first] += life.bytes or 0
                change[last + 1] -= life.bytes or 0
        return tuple(accumulate(change[:-1]))

    @cached_property
    def peak_bytes(self) -> int:
        """The most bytes that are live at once."""
        return max(self.live_bytes, default=0)

    @cached_property
    def peak_step(self) -> int:
        """The first step at which that is so; -1 for a model without steps."""
        return self.live_bytes.index(self.peak_bytes) if self.live_bytes else -1

    @cached_property
    def unknown(self) -> tuple[str, ...]:
        """Names of the tensors of unknown size."""
        return tuple(life.tensor for life in self.lives if life.bytes is None)

    def __getitem__(self, tensor: str) -> Life:
        """The life of a tensor.

        Raises:
            KeyError: it is no activation, or lies within a fused layer.
        """
        return self._by_name[tensor]

    def __contains__(self, tensor: object) -> bool:
        return tensor in self._by_name

    def step(self, label: str) -> int:
        """The place of a node or layer in the schedule.

        Raises:
            KeyError: nothing in it is called so.
        """
        return self._steps[label]

    def live_at(self, step: int) -> tuple[Life, ...]:
        """What is in memory at a step, the largest first; the sizes add up to `live_bytes`.

        A tensor that is overwritten in place gives way to the one that overwrites it.
        """
        live = (life for life in self.lives if self._holds(life, step))
        return tuple(sorted(live, key=lambda life: -(life.bytes or 0)))

    def waiting_at(self, step: int) -> tuple[Life, ...]:
        """What is in memory at a step without being read or written there, the largest first."""
        return tuple(
            life
            for life in self.live_at(step)
            if step != life.born and step not in life.reads and step < life.dies
        )

    def held_by(self, skips: Sequence[Skip], *, at_join: bool = False) -> tuple[int, ...]:
        """Bytes that wait for a join, per step.

        What a skip holds is its fork and what the skip path has made of it, at the steps between
        birth and join that neither read nor write them. In a plain chain nothing waits.

        Args:
            skips: the skips of the same model.
            at_join: count the step of the join too, where the waiting ends.

        Raises:
            KeyError: a skip's join is not in the schedule.
        """
        waiting: set[tuple[str, int]] = set()
        for skip in skips:
            join = self.step(skip.join)
            for tensor in {skip.fork, skip.held, skip.skip.tensor} & self._by_name.keys():
                life = self[tensor]
                steps = range(life.born + 1, min(life.dies, join))
                waiting.update((tensor, step) for step in steps if step not in life.reads)
                if at_join and join in life.reads:
                    waiting.add((tensor, join))
        held = [0] * len(self.schedule)
        for tensor, step in waiting:
            held[step] += self[tensor].bytes or 0
        return tuple(held)

    def share_held_by(self, skips: Sequence[Skip]) -> float:
        """The share of all feature-map memory that only waits for a join: bytes times steps.

        With `Lifetime(in_place=True)` 0.41 for ResNet-50 and 0.44 for ResNet-152. JointRD (Li et
        al., NeurIPS 2020) gives about 40 % and 43 % without saying how it counts, "because the
        features in the preceding layers cannot be released until the subsequent calculation is
        completed". `benchmarks/skip_memory.py` sets other definitions beside this one.

        Args:
            skips: the skips of the same model.

        Returns:
            Between 0 and 1; 0 where nothing of known size is live.

        Raises:
            KeyError: a skip's join is not in the schedule.
        """
        total = sum(self.live_bytes)
        return sum(self.held_by(skips)) / total if total else 0.0

    @cached_property
    def _by_name(self) -> dict[str, Life]:
        return {life.tensor: life for life in self.lives}

    @cached_property
    def _steps(self) -> dict[str, int]:
        return {label: index for index, label in enumerate(self.schedule)}

    @cached_property
    def _replaced(self) -> frozenset[str]:
        return frozenset(life.replaces for life in self.lives if life.replaces is not None)

    def _held(self, life: Life) -> tuple[int, int]:
        """First and last step at which a tensor has a buffer of its own."""
        last = life.dies - (life.tensor in self._replaced)
        return max(life.born, 0), min(last, len(self.schedule) - 1)

    def _holds(self, life: Life, step: int) -> bool:
        first, last = self._held(life)
        return first <= step <= last


@dataclass(frozen=True)
class Lifetime:
    """Analysis: the `LifetimeTable` of a model, in the order in which its nodes are stored.

    Attributes:
        in_place: let operators that are elementwise (activations, batch norm, Add with an operand
            that dies there ...) and views (Reshape ...) write into the buffer of an input that
            nothing reads later and that has the same size. That is what the planners of inference
            engines reach: 7.23 MB for ResNet-50, 6.02 MB for MobileNetV2. The buffers of graph
            inputs belong to the caller and are never overwritten. Off, no step reuses what it
            reads.
        fused: a convolution or matrix product runs together with the norm, activation and
            quantizer behind it, as in an inference engine (one step per `Layer`): what lies
            between is never in memory.
    """

    name: ClassVar[str] = "lifetime"
    in_place: bool = True
    fused: bool = False

    def run(self, model: Model) -> LifetimeTable:
        """Follows every tensor. Linear in the number of nodes and edges."""
        shapes = model.analyses.get(Shapes())
        view = model.analyses.get(Layers(fuse=self.fused))
        reads: dict[str, list[int]] = {name: [] for name in view.sources}
        born = dict.fromkeys(view.sources, -1)
        captured = _captured(model)
        for step, layer in enumerate(view):
            for name in dict.fromkeys((*layer.inputs, *captured.get(layer.name, ()))):
                if name in reads:
                    reads[name].append(step)
            for name in layer.outputs:
                born[name] = step
                reads[name] = []
        end = len(view.layers)
        outputs = {value.name for value in model.graph.outputs}
        dies = {
            name: end if name in outputs else max(reads[name], default=start)
            for name, start in born.items()
        }
        replaces = {
            layer.outputs[0]: source
            for step, layer in enumerate(view if self.in_place else ())
            if (source := _overwritten(layer, step, born, dies, shapes)) is not None
        }
        lives = tuple(
            Life(
                tensor=name,
                born=start,
                dies=dies[name],
                bytes=shapes[name].bytes(),
                reads=tuple(reads[name]),
                replaces=replaces.get(name),
            )
            for name, start in born.items()
        )
        return LifetimeTable(tuple(layer.name for layer in view), lives)


def _overwritten(
    layer: Layer, step: int, born: dict[str, int], dies: dict[str, int], shapes: ShapeTable
) -> str | None:
    """The input that a step may write its first output over: it dies there and has its size."""
    able = layer.kind in _IN_PLACE_KINDS or layer.operators[0] in _IN_PLACE_OPERATORS
    size = shapes[layer.outputs[0]].bytes() if able and layer.outputs else None
    if size is None:
        return None
    return next(
        (
            name
            for name in layer.inputs
            if dies[name] == step and born[name] >= 0 and shapes[name].bytes() == size
        ),
        None,
    )


def _captured(model: Model) -> dict[str, tuple[str, ...]]:
    """By layer name, the activations that the subgraphs of If, Loop and Scan read from outside."""
    data = data_tensors(model)
    found: dict[str, tuple[str, ...]] = {}
    for label, node in model.node_index().items():
        names = [
            value.name
            for graph in _subgraphs(node)
            for value in _read_in(graph)
            if value.name is not None and value.name in data
        ]
        if names:
            found[label] = tuple(dict.fromkeys(names))
    return found


def _subgraphs(node: onnx_ir.Node) -> Iterator[onnx_ir.Graph]:
    for attribute in node.attributes.values():
        if attribute.is_ref():
            continue
        if attribute.type == onnx_ir.AttributeType.GRAPH:
            yield attribute.as_graph()
        elif attribute.type == onnx_ir.AttributeType.GRAPHS:
            yield from attribute.as_graphs()


def _read_in(graph: onnx_ir.Graph) -> Iterator[onnx_ir.Value]:
    for node in graph.all_nodes():
        yield from (value for value in node.inputs if value is not None)
        for inner in _subgraphs(node):
            yield from inner.outputs
    yield from graph.outputs
