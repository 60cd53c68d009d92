"""Movers behind which axes are others, or only numbers: Reshape, Flatten, Shape."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir

from graphopt.ir.model import node_label
from passes.layout.facts import Facts
from passes.layout.ints import Ints
from passes.layout.mover import Mover, permuting
from passes.layout.orders import Perm, inverse
from passes.layout.weights import Weights


def reshape(node: onnx_ir.Node, facts: Facts) -> Mover | None:
    """A Reshape or Flatten sees the elements in the same order if only axes of size 1 move."""
    rank, dims = facts.rank(node.inputs[0]), facts.dims(node.inputs[0])
    if dims is None:
        return None
    long = [axis for axis, dim in enumerate(dims) if dim != 1]
    fixed: list[int] = []  # axes that the node names, which have to stay in their places
    border = 0  # of the axes that become rows
    if node.op_type == "Flatten":
        border = node.attributes.get_int("axis", 1) or 0
        border += rank if border < 0 else 0
    else:
        shape = Ints.read(node, "shape", 1, facts)
        if shape is None or shape.values is None:
            return None
        if not node.attributes.get_int("allowzero", 0):
            fixed = [axis for axis, size in enumerate(shape.values) if size == 0]

    def accepts(perm: Perm) -> bool:
        rows = {axis for axis in perm[:border] if axis in long}
        return (
            [axis for axis in perm if axis in long] == long
            and rows == {axis for axis in long if axis < border}
            and all(perm[axis] == axis for axis in fixed)
        )

    return Mover(node, rank, (0,), permuting(node, {}), accepts, follows=False)


def gathered(node: onnx_ir.Node) -> Callable[[Perm, Weights], None]:
    """Puts the sizes that a Shape gives into the order in which they are expected."""

    def adapt(perm: Perm, weights: Weights) -> None:
        sizes, graph = node.outputs[0], node.graph
        assert graph is not None
        places = weights.added(sizes, np.asarray(inverse(perm), np.int64))
        gather = onnx_ir.node("Gather", [None, places], attributes={"axis": 0})
        graph.insert_after(node, gather)
        made, name = gather.outputs[0], sizes.name
        sizes.replace_all_uses_with(made, replace_graph_outputs=True)
        gather.replace_input_with(0, sizes)
        made.type, made.shape = sizes.type, sizes.shape
        node.name = node_label(node)
        sizes.name = weights.fresh(name or node.name)
        made.name = name

    return adapt
