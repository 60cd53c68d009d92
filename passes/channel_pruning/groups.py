"""Channel groups: who makes some channels, what they go through, and who reads them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import onnx_ir

from graphopt.evidence import Region
from graphopt.ir.model import Model, node_label
from graphopt.ir.shapes import ShapeTable
from passes.channel_pruning.steps import Place, Site, Step, read_step
from passes.channel_pruning.weights import Weights


@dataclass(eq=False)
class Group:
    """The output channels of one linear operator, up to the linear operators that read them.

    Attributes:
        producer: makes the channels: its output rows.
        tensors: where each tensor holds them, in order of execution.
        steps: the channel-wise operators between these tensors, in order of execution.
        readers: read the channels as input columns.
        coupled: what else depends on them, as a sentence; empty where they stand alone.
        coupling: label of that node.
    """

    producer: Weights
    tensors: dict[onnx_ir.Value, Place]
    steps: list[Step] = field(default_factory=list)
    readers: list[Weights] = field(default_factory=list)
    coupled: str = ""
    coupling: str = ""

    @property
    def label(self) -> str:
        """How reports call it: after its producer."""
        return self.producer.linear.label

    @property
    def channels(self) -> int:
        """Number of channels."""
        return self.producer.linear.outputs

    @property
    def is_free(self) -> bool:
        """Whether its channels can be taken out one by one."""
        return not self.coupled and bool(self.readers)

    @property
    def region(self) -> Region:
        """Producer, channel-wise operators, readers."""
        between = tuple(node_label(step.node) for step in self.steps)
        behind = tuple(reader.linear.label for reader in self.readers)
        last = (self.coupling,) if self.coupling else ()
        return Region(self.label, tuple(dict.fromkeys((self.label, *between, *behind, *last))))

    def couple(self, node: str, sentence: str) -> None:
        """Notes the first thing that ties the channels to others."""
        if not self.coupled:
            self.coupling, self.coupled = node, sentence


def channel_groups(model: Model, shapes: ShapeTable) -> tuple[Group, ...]:
    """The groups of a model, in order of execution of their producers."""
    search = _Search(shapes)
    for node in model.graph:
        search.visit(node)
    for group in search.groups:
        for value in group.tensors:
            if value.is_graph_output():
                group.couple("", f"'{value.name}' is an output of the model")
            for reader in value.consumers():
                if reader.graph is not model.graph:
                    group.couple("", f"a subgraph reads '{value.name}'")
    return tuple(search.groups)


@dataclass(eq=False)
class _Search:
    """The walk through the graph.

    Attributes:
        shapes: of the tensors.
        groups: what has been found.
        home: the group whose channels a tensor holds.
        tails: the Adds that add the bias of a MatMul.
    """

    shapes: ShapeTable
    groups: list[Group] = field(default_factory=list)
    home: dict[onnx_ir.Value, Group] = field(default_factory=dict)
    tails: set[onnx_ir.Node] = field(default_factory=set)

    def visit(self, node: onnx_ir.Node) -> None:
        """Takes one node into the groups whose channels reach it."""
        if node in self.tails:
            return
        read = {i: v for i, v in enumerate(node.inputs) if v is not None and v in self.home}
        before = list(dict.fromkeys(self.home[value] for value in read.values()))
        weights = Weights.read(node, self.shapes)
        if weights is not None and weights.linear.group == 1:
            if list(read) == [0] and _reads(weights, before[0], read[0]):
                before[0].readers.append(weights)
            else:
                _couple(before, node)
            self._start(weights)
            return
        step = self._step(node, before[0], read) if len(before) == 1 else None
        if step is not None:
            before[0].steps.append(step)
            self._hold(node.outputs[0], before[0], step.target)
            return
        _couple(before, node)
        if weights is not None:
            self._start(weights).couple(
                node_label(node), f"{node_label(node)} has {weights.linear.group} groups"
            )

    def _step(
        self, node: onnx_ir.Node, group: Group, read: dict[int, onnx_ir.Value]
    ) -> Step | None:
        places = {index: group.tensors[value] for index, value in read.items()}
        return read_step(Site(node, places, group.channels, self.shapes))

    def _start(self, weights: Weights) -> Group:
        """A new group behind a linear operator."""
        linear = weights.linear
        rank = 2 + len(linear.kernel)
        if linear.node.op_type == "MatMul":
            rank = len(self.shapes[linear.result.name or ""].shape or ())
        group = Group(weights, {})
        self.groups.append(group)
        self.tails.update(linear.nodes[1:])
        for node in linear.nodes:
            self._hold(node.outputs[0], group, Place(1 if linear.is_conv else rank - 1, rank))
        if rank < 2:
            group.couple(linear.label, f"the shape behind {linear.label} is not known")
        return group

    def _hold(self, value: onnx_ir.Value, group: Group, place: Place) -> None:
        group.tensors[value] = place
        self.home[value] = group


def _reads(weights: Weights, group: Group, value: onnx_ir.Value) -> bool:
    """Whether the columns of a linear operator are the entries of a tensor."""
    linear, place = weights.linear, group.tensors[value]
    axis = 1 if linear.is_conv else place.rank - 1
    ranks = linear.node.op_type == "MatMul" or place.rank == 2 + len(linear.kernel)
    return ranks and place.axis == axis and linear.inputs == group.channels * place.run


def _couple(groups: Iterable[Group], node: onnx_ir.Node) -> None:
    for group in groups:
        group.couple(
            node_label(node), f"{node_label(node)} ({node.op_type}) takes more than a channel"
        )
