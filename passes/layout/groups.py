"""Groups: tensors and movers whose orders of axes hang together, found in a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import onnx_ir

from graphopt.ir.model import Model
from passes.layout.choice import Group, Tensor
from passes.layout.facts import Facts
from passes.layout.mover import Mover
from passes.layout.operators import perm_of
from passes.layout.orders import Orders, Perm, identity, then
from passes.layout.rules import mover_of
from passes.layout.subgraphs import bodies, reads

_Origin: TypeAlias = Callable[[onnx_ir.Value], tuple[onnx_ir.Value, Perm]]


def groups_of(model: Model) -> list[Group]:
    """The groups of a model that have a Transpose, in order of execution."""
    facts, orders = Facts.of(model), Orders()
    origins = _origins(model, facts)

    def origin(value: onnx_ir.Value) -> tuple[onnx_ir.Value, Perm]:
        return origins.get(value) or (value, identity(facts.rank(value)))

    movers = _movers(model, facts, orders, origin)
    for root, perm in origins.values():
        orders.add(root, len(perm))
    depths = _depths(model, facts, origin)
    tensors = {
        value: Tensor(value, orders.find(value)[1], depths.get(value, 0))
        for value in model.values()
        if value in orders
    }
    for tensor in tensors.values():
        maker = tensor.value.producer()
        mover = movers.get(maker) if maker is not None else None
        if mover is not None and mover.follows:
            tensor.maker = mover
            tensor.movers[mover] = None
        else:
            tensor.pin(tensor.order, maker)
    for transposed, (root, perm) in origins.items():
        tensors[root].transposes[transposed] = perm

    def pin(value: onnx_ir.Value, node: onnx_ir.Node | None) -> None:
        root, perm = origin(value)
        if root in tensors:
            tensors[root].pin(then(tensors[root].order, perm), node)

    for node in model.graph:
        if node.outputs and node.outputs[0] in origins:
            continue
        mover = movers.get(node)
        for index, value in enumerate(node.inputs):
            if value is not None and mover is not None and index in mover.data:
                tensors[origin(value)[0]].movers[mover] = None
            elif value is not None:
                pin(value, node)
        for graph in bodies(node):
            for read in reads(graph):
                pin(read, None)
    for output in model.graph.outputs:
        pin(output, None)

    groups: dict[object, Group] = {}
    for tensor in tensors.values():
        groups.setdefault(orders.find(tensor.value)[0], Group()).tensors.append(tensor)
    for mover in movers.values():
        top, order = orders.find(mover)
        group = groups.setdefault(top, Group())
        group.first[mover] = group.orders[mover] = order
    return [group for group in groups.values() if group.transposes]


def _origins(model: Model, facts: Facts) -> dict[onnx_ir.Value, tuple[onnx_ir.Value, Perm]]:
    """What each Transpose (of something that is no constant) is a Transpose of, through others."""
    origins: dict[onnx_ir.Value, tuple[onnx_ir.Value, Perm]] = {}
    for node in model.graph:
        value = node.inputs[0] if node.inputs else None
        perm = perm_of(node, facts.rank(value) or None)
        if perm is None or value is None or facts.array(node.outputs[0]) is not None:
            continue
        root, before = origins.get(value) or (value, identity(len(perm)))
        origins[node.outputs[0]] = root, then(before, perm)
    return origins


def _movers(
    model: Model, facts: Facts, orders: Orders, origin: _Origin
) -> dict[onnx_ir.Node, Mover]:
    """The nodes that can work in another order. One that reads a tensor in two orders cannot."""
    movers = {}
    for node in model.graph:
        mover = mover_of(node, facts)
        if mover is None:
            continue
        orders.add(mover, mover.rank)
        agree = True
        for index in mover.data:
            value = node.inputs[index]
            assert value is not None
            root, perm = origin(value)
            orders.add(root, mover.rank)
            agree &= orders.join(root, mover, perm)
        if not agree:
            continue
        movers[node] = mover
        for value in node.outputs if mover.follows else ():
            facts.ranks[value] = mover.rank
            orders.add(value, mover.rank)
            orders.join(mover, value, identity(mover.rank))
    return movers


def _depths(model: Model, facts: Facts, origin: _Origin) -> dict[onnx_ir.Value, int]:
    """How many operators stand before each tensor at most; Transposes and shape arithmetic do not
    count.
    """
    depths: dict[onnx_ir.Value, int] = {}
    for node in model.graph:
        before = [depths.get(origin(value)[0], 0) for value in node.inputs if value is not None]
        for value in node.outputs:
            if value.name in facts.data and origin(value)[0] is value:
                depths[value] = 1 + max(before, default=0)
    return depths
