"""Movers that work along one axis: Concat, Split, Gather, Softmax, BatchNormalization."""

from __future__ import annotations

import onnx_ir

from passes.layout.facts import Facts
from passes.layout.mover import Mover, axis_of, keeping_order, permuting
from passes.layout.orders import Perm


def concat(node: onnx_ir.Node, facts: Facts) -> Mover | None:
    """A Concat of tensors and constants of the same rank."""
    rank = max((facts.rank(value) for value in node.inputs), default=0)
    data, constants = [], {}
    for index, value in enumerate(node.inputs):
        array = facts.array(value)
        if array is not None:
            constants[index] = array
        else:
            data.append(index)
        if facts.rank(value) != rank:
            return None
    return Mover(node, rank, tuple(data), permuting(node, constants, axis_of(node, rank, -1)))


def along_axis(node: onnx_ir.Node, facts: Facts) -> Mover | None:
    """A Split, or a Gather from known places; of a single one, it removes the axis."""
    rank = facts.rank(node.inputs[0])
    axis = axis_of(node, rank, 0)
    adapt = permuting(node, {}, axis)
    if node.op_type == "Split":
        return Mover(node, rank, (0,), adapt)
    places = facts.array(node.inputs[1])
    if places is None or places.ndim > 1:
        return None
    if places.ndim == 1:
        return Mover(node, rank, (0,), adapt)
    return Mover(node, rank, (0,), adapt, keeping_order({axis}), follows=False)


def softmax(node: onnx_ir.Node, facts: Facts) -> Mover | None:
    """A Softmax or LogSoftmax; before opset 13 over all axes from one on."""
    rank = facts.rank(node.inputs[0])
    if facts.opset >= 13:
        adapt = permuting(node, {}, axis_of(node, rank, -1))
        return Mover(node, rank, (0,), adapt, sums=True)
    first = axis_of(node, rank, 1)  # of the axes that it takes for one

    def accepts(perm: Perm) -> bool:
        return set(perm[:first]) == set(range(first))

    return Mover(node, rank, (0,), permuting(node, {}), accepts, sums=True)


def norm(node: onnx_ir.Node, facts: Facts) -> Mover | None:
    """A BatchNormalization at inference: the channels have to stay axis 1."""
    attributes = node.attributes
    if attributes.get_int("training_mode", 0) or attributes.get_int("spatial", 1) == 0:
        return None
    if len(node.outputs) > 1:
        return None
    rank = facts.rank(node.inputs[0])
    return Mover(node, rank, (0,), permuting(node, {}), lambda perm: perm[1] == 1)
