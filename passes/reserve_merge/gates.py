"""Squeeze-excite inside a branch: `h * g(fc2(act(fc1(mean h))))`, opened for reserved channels.

The first layer reads the reserved channels with weight 0, so the gates of the old channels are what
they were; the last one gets rows of zeros whose bias drives the gate function to its limit, so the
gates of the reserved channels are 1 (Hu et al. 2018; the authors of RMNet do it likewise). Where
the limit is another constant, the merge divides by it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir

from graphopt.ir.constants import constant
from graphopt.ir.model import node_label
from graphopt.ir.shapes import ShapeTable
from passes.activations import Channels, Function, function, limit
from passes.linear import Linear, NotLinear
from passes.refused import Refused

POOLS = frozenset({"GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceMax"})
RESHAPES = frozenset({"Flatten", "Squeeze", "Unsqueeze", "Reshape"})

Item = onnx_ir.Node | Linear | Function


@dataclass(frozen=True, eq=False)
class Gate:
    """A squeeze-excite gate.

    Attributes:
        source: the tensor that is squeezed and gated.
        product: the Mul.
        items: what stands between them, in order of execution: nodes that pool or reshape, linear
            layers, functions.
        bias: what drives the gate to its limit on a channel where the last layer's weights are 0.
        level: that limit.
    """

    source: onnx_ir.Value
    product: onnx_ir.Node
    items: tuple[Item, ...]
    bias: float
    level: float

    @property
    def label(self) -> str:
        """How reports call it."""
        return node_label(self.product)

    @property
    def result(self) -> onnx_ir.Value:
        """The gated tensor."""
        return self.product.outputs[0]

    @property
    def layers(self) -> tuple[Linear, ...]:
        """The linear layers, in order of execution."""
        return tuple(item for item in self.items if isinstance(item, Linear))

    @property
    def nodes(self) -> tuple[onnx_ir.Node, ...]:
        """All nodes, in order of execution."""
        inner = ((i,) if isinstance(i, onnx_ir.Node) else i.nodes for i in self.items)
        return (*(node for nodes in inner for node in nodes), self.product)


def read(product: onnx_ir.Node, shapes: ShapeTable) -> Gate:
    """The gate that ends in a Mul of two tensors.

    Raises:
        Refused: it is another product.
    """
    left, right = product.inputs
    assert left is not None
    assert right is not None
    for source, gate in ((left, right), (right, left)):
        items = _items(gate, source, shapes)
        if items is not None:
            return _gate(source, product, items)
    raise Refused(
        "gate-in-branch",
        f"{node_label(product)} (Mul) multiplies two tensors, and is no squeeze-excite gate",
    )


def _gate(source: onnx_ir.Value, product: onnx_ir.Node, items: tuple[Item, ...]) -> Gate:
    last = items[-1]
    reached = limit(last.shared) if isinstance(last, Function) else None
    if reached is None or not reached[1]:
        raise Refused(
            "gate-in-branch", f"no bias opens the gate {node_label(product)} on reserved channels"
        )
    return Gate(source, product, items, *reached)


def _items(
    gate: onnx_ir.Value, source: onnx_ir.Value, shapes: ShapeTable
) -> tuple[Item, ...] | None:
    """What makes `gate` out of `source`, in order; None where it is made in another way."""
    items: list[Item] = []
    here, readers = gate, 1
    while here is not source:
        node = here.producer()
        if node is None or here.is_graph_output() or len(here.uses()) != readers:
            return None
        item = _item(here, node, source, shapes)
        if item is None:
            return None
        items.append(item)
        here = item.source if isinstance(item, Linear | Function) else _first(item)
        inside = item.nodes if isinstance(item, Function) else ()
        readers = sum(use.node in inside for use in here.uses()) if inside else 1
    items.reverse()
    layers = [item for item in items if isinstance(item, Linear)]
    pooled = bool(items) and isinstance(items[0], onnx_ir.Node) and items[0].op_type in POOLS
    trailing = items[items.index(layers[-1]) + 1 :] if layers else []
    functions = [item for item in trailing if isinstance(item, Function)]
    if not pooled or len(layers) < 2 or len(functions) != 1:
        return None
    shape = shapes[source.name or ""].shape
    if shape is None or {layers[0].inputs, layers[-1].outputs} != {shape[1]}:
        return None
    first, last = items.index(layers[0]), items.index(layers[-1])
    for place, item in enumerate(items):
        if isinstance(item, onnx_ir.Node) and not _keeps_channels(item, shape, place, first, last):
            return None
    # the gate's own function goes last: reshaping commutes with what is elementwise
    return (*(item for item in items if item is not functions[0]), functions[0])


def _keeps_channels(
    node: onnx_ir.Node, shape: tuple[int | str | None, ...], place: int, first: int, last: int
) -> bool:
    """Whether a node that pools or reshapes leaves batch and channels where they are.

    Args:
        node: the node.
        shape: of the gated tensor.
        place: of the node among the items of the gate.
        first: place of the first layer.
        last: place of the last layer.
    """
    if node.op_type in ("GlobalAveragePool", "GlobalMaxPool"):
        return True
    if node.op_type == "Reshape":
        target = constant(node.inputs[1])
        if target is None or target.size < 2 or target[0] not in (0, -1, shape[0]):
            return False
        # where the number of channels is named, it is written anew (`widened_shape`)
        return not first < place < last and target[1] in (0, -1, shape[1])
    axes = _axes(node)
    if node.op_type in POOLS:
        return sorted(axis % len(shape) for axis in axes) == list(range(2, len(shape)))
    return node.op_type == "Flatten" or (bool(axes) and min(axes) >= 2)


def _axes(node: onnx_ir.Node) -> list[int]:
    """The axes that a node works on; none where they are not known."""
    if len(node.inputs) > 1 and node.inputs[1] is not None:
        known = constant(node.inputs[1])
        return [] if known is None else [int(axis) for axis in known.reshape(-1)]
    return list(node.attributes.get_ints("axes", ()) or ())


def _item(
    value: onnx_ir.Value, node: onnx_ir.Node, source: onnx_ir.Value, shapes: ShapeTable
) -> Item | None:
    if node.domain not in ("", "ai.onnx"):
        return None
    if node.op_type in POOLS or node.op_type in RESHAPES:
        return node
    try:
        linear = Linear.read(node)
        return linear if linear.is_pointwise and linear.group == 1 else None
    except NotLinear:
        pass
    shape = shapes[value.name or ""].shape
    channels = shape[1] if shape is not None and len(shape) > 1 else None
    if shape is None or not isinstance(channels, int):
        return None
    return function.ending_at(value, lambda v: v is source, Channels(channels, 1, len(shape)))


def _first(node: onnx_ir.Node) -> onnx_ir.Value:
    value = node.inputs[0]
    assert value is not None
    return value


def widened_shape(node: onnx_ir.Node, old: int, new: int) -> np.ndarray | None:
    """The constant shape of a Reshape behind the last layer, with `new` channels in place of `old`;
    None where the node needs no other.
    """
    target = constant(node.inputs[1]) if node.op_type == "Reshape" else None
    if target is None or target[1] != old:
        return None
    return np.array([target[0], new, *target[2:]], np.int64)
