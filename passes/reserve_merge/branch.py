"""The branch of a block: a chain of linear operators with an activation between each two."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir

from graphopt.ir.model import node_label
from graphopt.ir.shapes import ShapeTable
from passes.linear import Linear, NotLinear
from passes.refused import Refused

ACTIVATIONS = frozenset(
    "Relu Clip LeakyRelu PRelu Sigmoid HardSigmoid HardSwish Tanh Elu Selu Celu Gelu Mish Softplus "
    "Softsign ThresholdedRelu Swish".split()
)
"""Elementwise functions that may stand in a branch; carriers say which can be carried through."""


@dataclass(frozen=True, eq=False)
class Stage:
    """One linear operator of the branch and the activation behind it.

    Attributes:
        linear: the operator.
        activation: the activation that reads its output, or None (the last stage, and two linear
            operators in a row).
        positions: spatial positions of the output of one sample.
        size_in: shape of the input.
        size_out: shape of the output.
    """

    linear: Linear
    activation: onnx_ir.Node | None
    positions: int
    size_in: tuple[int | str | None, ...]
    size_out: tuple[int | str | None, ...]


def read(value: onnx_ir.Value, fork: onnx_ir.Value, shapes: ShapeTable) -> tuple[Stage, ...]:
    """The stages between `fork` and `value`, in order of execution.

    Raises:
        Refused: the branch is no such chain, or something reads it in the middle.
    """
    nodes: list[onnx_ir.Node] = []
    here = value
    while here is not fork:
        node = here.producer()
        if node is None:
            raise Refused("not-from-fork", f"the branch starts at '{here.name}', not at the fork")
        if here.is_graph_output() or len(here.uses()) != 1:
            raise Refused(
                "read-elsewhere", f"'{here.name}' inside the branch is read elsewhere too"
            )
        nodes.append(node)
        here = _step_back(node)
    if not nodes:
        raise Refused("no-branch", "both inputs of the join are the same tensor")
    nodes.reverse()
    if nodes[0].op_type in ACTIVATIONS or nodes[0].op_type == "BatchNormalization":
        raise Refused(
            "pre-activation",
            f"{node_label(nodes[0])} stands before the first convolution of the branch "
            "(pre-activation), so no layer of the branch can reserve the tensor",
        )
    return tuple(_stages(nodes, shapes))


def _step_back(node: onnx_ir.Node) -> onnx_ir.Value:
    """The input through which the data comes, for a node that may stand in a branch."""
    allowed = node.op_type in ACTIVATIONS or node.op_type in ("Conv", "Gemm", "Identity", "Dropout")
    if not allowed or node.domain not in ("", "ai.onnx"):
        raise Refused(_CODES.get(node.op_type, "branch-not-a-chain"), _why_not(node))
    source = node.inputs[0]
    assert source is not None
    return source


_CODES = {
    "BatchNormalization": "norm-not-folded",
    "LayerNormalization": "norm-in-branch",
    "InstanceNormalization": "norm-in-branch",
    "GroupNormalization": "norm-in-branch",
    "Mul": "gate-in-branch",
    "ConvTranspose": "transposed-conv",
    "Transpose": "shuffle-in-branch",
    "Reshape": "shuffle-in-branch",
    "MaxPool": "pool-in-branch",
    "AveragePool": "pool-in-branch",
    "QuantizeLinear": "quantized",
    "DequantizeLinear": "quantized",
    "Quant": "quantized",
    "BipolarQuant": "quantized",
    "MultiThreshold": "quantized",
    "RequantShift": "quantized",
    "QLinearConv": "quantized",
    "QLinearAdd": "quantized",
    "Cast": "quantized",
    "Floor": "quantized",
}

_REASONS = {
    "norm-not-folded": "is a batch norm that could not be folded",
    "norm-in-branch": "normalises over the data itself, which mixes the reserved channels in",
    "gate-in-branch": "is a product inside the branch",
    "transposed-conv": "is a transposed convolution",
    "shuffle-in-branch": "reorders the tensor inside the branch",
    "pool-in-branch": "pools inside the branch",
    "quantized": "quantizes inside the branch",
}


def _why_not(node: onnx_ir.Node) -> str:
    code = _CODES.get(node.op_type, "")
    reason = _REASONS.get(code, f"is a {node.op_type}, which cannot be widened")
    return f"{node_label(node)} ({node.op_type}) {reason}"


def _stages(nodes: list[onnx_ir.Node], shapes: ShapeTable) -> list[Stage]:
    stages: list[Stage] = []
    linear: Linear | None = None
    activation: onnx_ir.Node | None = None
    for node in nodes:
        if node.op_type in ("Identity", "Dropout"):
            if len(node.inputs) > 2 and node.inputs[2] is not None:
                raise Refused("training-mode", f"{node_label(node)} may be a Dropout in training")
            continue
        if node.op_type in ACTIVATIONS:
            if activation is not None:
                raise Refused(
                    "two-activations",
                    f"{node_label(activation)} and {node_label(node)} follow each other",
                )
            activation = node
            continue
        if linear is not None:
            stages.append(_stage(linear, activation, shapes))
        linear, activation = _linear(node, shapes), None
    if activation is not None:
        raise Refused(
            "activation-before-join",
            f"{node_label(activation)} stands between the last convolution and the join, so no "
            "layer can merge the tensor",
        )
    assert linear is not None
    stages.append(_stage(linear, None, shapes))
    return stages


def _linear(node: onnx_ir.Node, shapes: ShapeTable) -> Linear:
    source = node.inputs[0]
    try:
        return Linear.read(node, shapes[source.name or ""].shape if source is not None else None)
    except NotLinear as error:
        weight = node.inputs[1].producer() if node.inputs[1] is not None else None
        maker = weight.op_type if weight is not None else ""
        code = "quantized" if _CODES.get(maker) == "quantized" else "runtime-weights"
        raise Refused(code, str(error)) from error


def _stage(linear: Linear, activation: onnx_ir.Node | None, shapes: ShapeTable) -> Stage:
    source, target = linear.node.inputs[0], linear.node.outputs[0]
    info = shapes[target.name or ""]
    elements = info.elements()
    size_in = shapes[(source.name if source is not None else "") or ""].shape
    if size_in is None or info.shape is None:
        raise Refused("unknown-shape", f"the shape around {linear.label} is not known")
    positions = (elements or linear.outputs) // linear.outputs
    return Stage(linear, activation, max(1, positions), size_in, info.shape)
