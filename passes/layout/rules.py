"""Which nodes are movers: one rule per operator, from its definition in ONNX or QONNX."""

from __future__ import annotations

import onnx_ir

from passes.layout.axes import pad, reduce, with_axes
from passes.layout.elementwise import elementwise, quantizer
from passes.layout.facts import Facts
from passes.layout.mover import Mover
from passes.layout.one_axis import along_axis, concat, norm, softmax
from passes.layout.operators import ELEMENTWISE, operator_of
from passes.layout.shaping import gathered, reshape

_QUANTIZERS = frozenset(
    (domain, name)
    for domain in ("", "com.microsoft")
    for name in ("QuantizeLinear", "DequantizeLinear")
)


def mover_of(node: onnx_ir.Node, facts: Facts) -> Mover | None:
    """How the node works in another order of axes, or None where it cannot."""
    made: Mover | None
    match operator_of(node):
        case operator if operator in ELEMENTWISE:
            made = elementwise(node, facts)
        case operator if operator in _QUANTIZERS:
            made = quantizer(node, facts)
        case "", "Concat":
            made = concat(node, facts)
        case "", "Split" | "Gather":
            made = along_axis(node, facts)
        case "", "Softmax" | "LogSoftmax":
            made = softmax(node, facts)
        case "", "ReduceMean" | "ReduceSum" | "ReduceMax" | "ReduceMin":
            made = reduce(node, facts)
        case "", "Slice" | "Squeeze":
            made = with_axes(node, facts)
        case "", "Pad":
            made = pad(node, facts)
        case "", "BatchNormalization":
            made = norm(node, facts)
        case "", "Reshape" | "Flatten":
            made = reshape(node, facts)
        case "", "Shape" if not {"start", "end"} & set(node.attributes):
            made = Mover(node, facts.rank(node.inputs[0]), (0,), gathered(node), follows=False)
        case _:
            return None
    return made if made is not None and made.rank > 1 else None
