"""A pass that rounds hidden channels up to a multiple, for hardware that computes in lanes.

A convolution with 10 output channels on 8 lanes runs twice and wastes 6 of 16. What the next
convolution reads may as well have 16 channels, 6 of which it multiplies by zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import onnx_ir

from graphopt.evidence import Exactness, Refusal, Region, Rewrite
from graphopt.ir import Model, Shapes, ShapeTable, constant, node_label
from graphopt.pipeline import Context, PassResult
from graphopt.verify.algebra import Block, WidenedWeight

Array = npt.NDArray[Any]

ELEMENTWISE = frozenset({"Relu", "LeakyRelu", "Clip", "Sigmoid", "Tanh", "HardSwish"})
"""Operators whose result for a channel depends on that channel alone, and is finite at 0."""

ALIGNED = "freeze-weights,fold-constants,fold-norm,align-channels,dce"
"""The preset: norms have to be folded first, for a norm between two convolutions has channels."""


@dataclass(frozen=True)
class Hidden:
    """The output channels of one convolution, and who sees them.

    Attributes:
        first: label of the convolution that makes them.
        second: label of the convolution that alone reads them, or None where they are seen.
        between: labels of the elementwise nodes on the way.
        why: what shows them, where `second` is None.
    """

    first: str
    second: str | None
    between: tuple[str, ...]
    why: str = ""


@dataclass(frozen=True)
class HiddenChannels:
    """Finds the channels that only one other convolution reads."""

    name: ClassVar[str] = "hidden-channels"

    def run(self, model: Model) -> tuple[Hidden, ...]:
        """One entry for each convolution, in order of execution."""
        return tuple(_follow(node) for node in model.graph if _operator(node) == "Conv")


def _follow(first: onnx_ir.Node) -> Hidden:
    """Walks from a convolution over elementwise nodes to whatever comes next."""
    label, value = node_label(first), first.outputs[0]
    between: list[str] = []

    def seen(why: str) -> Hidden:
        return Hidden(label, None, tuple(between), why)

    if not _plain(first):
        return seen("it has groups, or weights that are not constants")
    while True:
        readers = value.consumers()
        if value.is_graph_output() or len(readers) != 1:
            return seen(f"'{value.name}' is an output of the model, or read more than once")
        node = readers[0]
        data = node.graph is first.graph and node.inputs[0] is value
        if data and _operator(node) in ELEMENTWISE:
            between.append(node_label(node))
            value = node.outputs[0]
        elif data and _operator(node) == "Conv" and _plain(node):
            return Hidden(label, node_label(node), tuple(between))
        else:
            return seen(f"{node_label(node)} ({node.op_type}) reads them")


def _operator(node: onnx_ir.Node) -> str:
    """The ONNX operator of a node; nothing for a foreign one that happens to be called alike."""
    return node.op_type if node.domain in ("", "ai.onnx") else ""


def _plain(conv: onnx_ir.Node) -> bool:
    """Whether a convolution has one group, and a weight and a bias that are known."""
    known = all(value is None or constant(value) is not None for value in conv.inputs[1:])
    return known and conv.attributes.get_int("group", 1) == 1


@dataclass(frozen=True)
class AlignChannels:
    """Rounds the channels between two convolutions up to a multiple.

    Attributes:
        multiple: of what, such as the number of lanes of the target.
    """

    name: ClassVar[str] = "align-channels"
    preserves: ClassVar[frozenset[str]] = frozenset({"hidden-channels"})

    multiple: int = 8

    def __post_init__(self) -> None:
        if self.multiple < 1:
            raise ValueError(f"multiple={self.multiple} is not positive.")

    def run(self, model: Model, context: Context) -> PassResult:
        """Finds out first what can be done, then widens each convolution once."""
        nodes, shapes = model.node_index(), model.analyses.get(Shapes())
        rows: dict[str, int] = {}
        columns: dict[str, int] = {}
        rewrites: list[Rewrite] = []
        refusals: list[Refusal] = []
        hidden = model.analyses.get(HiddenChannels())
        for number, one in enumerate(hidden):
            context.progress(f"{self.name}: {one.first}", number / len(hidden))
            have = _channels(shapes, nodes[one.first].outputs[0])
            if have is not None and have % self.multiple == 0:
                continue
            region = Region(one.first, (one.first, *one.between))
            if have is None or one.second is None:
                why = one.why or "its shape is not known"
                refusals.append(Refusal(self.name, region, why, "channels-are-seen"))
                continue
            want = -(-have // self.multiple) * self.multiple
            rows[one.first] = columns[one.second] = want
            for label in (one.first, *one.between):
                _set_channels(nodes[label].outputs[0], want)
            facts = (
                f"only {one.second} reads the channels of {one.first}",
                f"{one.second} multiplies the {want - have} new ones by zero",
            )
            rule = f"{have} channels aligned to {want}"
            rewrites.append(Rewrite(self.name, rule, region, Exactness.EXACT, facts))
        claims = tuple(
            _widen(model, nodes[label], rows.get(label), columns.get(label))
            for label in nodes
            if label in rows or label in columns
        )
        statistics = {"aligned": len(rewrites), "left": len(refusals)}
        return PassResult(bool(rewrites), tuple(rewrites), tuple(refusals), claims, statistics)


def _channels(shapes: ShapeTable, value: onnx_ir.Value) -> int | None:
    shape = shapes[value.name or ""].shape
    channels = shape[1] if shape is not None and len(shape) > 1 else None
    return channels if isinstance(channels, int) else None


def _set_channels(value: onnx_ir.Value, channels: int) -> None:
    """Corrects the shape that the model states for a tensor."""
    if value.shape is not None:
        value.shape = onnx_ir.Shape([value.shape[0], channels, *value.shape[2:]])


def _widen(
    model: Model, conv: onnx_ir.Node, rows: int | None, columns: int | None
) -> WidenedWeight:
    """Gives a convolution more output channels, more input channels, or both; all zeros."""
    value, old = conv.inputs[1], constant(conv.inputs[1])
    assert value is not None
    assert old is not None  # `_plain` has looked
    m, k = old.shape[:2]
    rows, columns = rows or m, columns or k
    new = np.zeros((rows, columns, *old.shape[2:]), old.dtype)
    new[:m, :k] = old
    label = node_label(conv)
    weight = _initializer(model, f"{label}.weight.aligned", new)
    conv.replace_input_with(1, weight)
    bias = constant(conv.inputs[2]) if len(conv.inputs) > 2 else None
    if bias is not None:
        wide = np.concatenate([bias, np.zeros(rows - m, bias.dtype)])
        conv.replace_input_with(2, _initializer(model, f"{label}.bias.aligned", wide))
    outputs, inputs = tuple(range(m)), tuple(range(k))
    more_outputs, more_inputs = tuple(range(m, rows)), tuple(range(k, columns))
    blocks = (
        Block(outputs, inputs, "old", outputs, inputs),
        Block(more_outputs, inputs, "zero"),
        Block((*outputs, *more_outputs), more_inputs, "zero"),
    )
    return WidenedWeight(weight.name or "", value.name or "", new, old, blocks)


def _initializer(model: Model, name: str, array: Array) -> onnx_ir.Value:
    """A new weight, under a name that is not taken."""
    while name in model.value_index():
        name += "_"
    tensor = onnx_ir.tensor(array, name=name)
    value = onnx_ir.Value(
        name=name,
        shape=onnx_ir.Shape(array.shape),
        type=onnx_ir.TensorType(tensor.dtype),
        const_value=tensor,
    )
    model.graph.register_initializer(value)
    return value
