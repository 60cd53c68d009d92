"""The branch of a block: a chain of linear operators, with activations and gates between them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import onnx_ir

from graphopt.ir.constants import constant
from graphopt.ir.model import node_label
from graphopt.ir.shapes import ShapeTable
from passes.activations import Channels, Function, function
from passes.linear import Linear, NotLinear, matmul_before
from passes.refused import Refused
from passes.reserve_merge import gates
from passes.reserve_merge.gates import Gate

LINEAR = frozenset({"Conv", "Gemm", "MatMul"})


@dataclass(frozen=True, eq=False)
class Stage:
    """One linear operator of the branch and what stands between it and the next one.

    Attributes:
        linear: the operator.
        through: activations and gates behind it, in order of execution.
        positions: positions of the output of one sample (every axis but batch and channels).
        size_in: shape of the input.
        size_out: shape of the output.
    """

    linear: Linear
    through: tuple[Function | Gate, ...]
    positions: int
    size_in: tuple[int | str | None, ...]
    size_out: tuple[int | str | None, ...]

    @property
    def nodes(self) -> tuple[onnx_ir.Node, ...]:
        """All nodes, in order of execution."""
        return (*self.linear.nodes, *(node for one in self.through for node in one.nodes))

    @property
    def result(self) -> onnx_ir.Value:
        """The tensor that comes out."""
        return self.through[-1].result if self.through else self.linear.result


def read(
    value: onnx_ir.Value,
    fork: onnx_ir.Value,
    shapes: ShapeTable,
    shared: Collection[onnx_ir.Value] = (),
    first: Linear | None = None,
) -> tuple[Stage, ...]:
    """The stages between `fork` and `value`, in order of execution.

    Args:
        value: where the branch ends.
        fork: where it starts.
        shapes: of the tensors.
        shared: inner tensors that the skip path may read as well.
        first: a linear operator to start with, where the branch starts with something else.

    Raises:
        Refused: the branch is no such chain, or something reads it in the middle.
    """
    items: list[Linear | Function | Gate] = []
    here = value
    axis = channel_axis(value, fork, shapes)
    while here is not fork:
        node = here.producer()
        if node is None:
            raise Refused("not-from-fork", f"the branch starts at '{here.name}', not at the fork")
        item = _item(here, node, fork, shapes, axis)
        users = {use.node for use in item.source.uses()}
        alone = item.source is fork or item.source in shared or users <= set(item.nodes)
        if not alone or (item.source is not fork and item.source.is_graph_output()):
            raise Refused(
                "read-elsewhere", f"'{item.source.name}' inside the branch is read elsewhere too"
            )
        items.append(item)
        here = item.source
    if value.is_graph_output() or len(value.uses()) != 1:
        raise Refused("read-elsewhere", f"'{value.name}' is read elsewhere too")
    items.reverse()
    if not items:
        raise Refused("no-branch", "both inputs of the join are the same tensor")
    if not isinstance(items[0], Linear):
        if first is None:
            raise Refused(
                "pre-activation",
                f"{items[0].label} stands before the first linear layer of the branch, so no layer "
                "of the branch can reserve the tensor",
            )
        items.insert(0, first)
    starts = [i for i, item in enumerate(items) if isinstance(item, Linear)]
    stages = []
    for start, end in zip(starts, [*starts[1:], len(items)], strict=True):
        linear = items[start]
        through = tuple(i for i in items[start + 1 : end] if not isinstance(i, Linear))
        assert isinstance(linear, Linear)
        stages.append(_stage(linear, through, shapes))
    return tuple(stages)


def channel_axis(value: onnx_ir.Value, fork: onnx_ir.Value, shapes: ShapeTable) -> int:
    """The axis of the channels in a block: 1, or the last one where its operators are MatMuls."""
    here: onnx_ir.Value | None = value
    while here is not None and here is not fork:
        node = here.producer()
        if node is None:
            break
        if node.op_type == "MatMul":
            shape = shapes[here.name or ""].shape
            return len(shape) - 1 if shape is not None else 1
        if node.op_type in LINEAR or node.op_type == "Transpose":
            break
        data = [v for v in node.inputs if v is not None and constant(v) is None]
        here = data[0] if data else None
    return 1


def _item(
    value: onnx_ir.Value, node: onnx_ir.Node, fork: onnx_ir.Value, shapes: ShapeTable, axis: int
) -> Linear | Function | Gate:
    known = node.domain in ("", "ai.onnx")
    if known and (node.op_type in LINEAR or matmul_before(node) is not None):
        return _linear(node, shapes)
    shape = shapes[value.name or ""].shape
    channels = shape[axis] if shape is not None and axis < len(shape) else None
    if shape is not None and isinstance(channels, int):
        found = function.ending_at(
            value, lambda v: v is fork or _is_biased(v), Channels(channels, axis, len(shape))
        )
        if found is not None:
            before = shapes[found.source.name or ""].shape
            if before is None or len(before) != len(shape) or before[axis] != channels:
                raise Refused("broadcast", f"{found.label} makes more channels by broadcasting")
            return found
    if known and node.op_type in ("PRelu", "Clip") and constant(node.inputs[-1]) is None:
        raise Refused(
            "runtime-weights", f"what {node_label(node)} ({node.op_type}) bends by is computed"
        )
    if known and node.op_type == "Mul" and all(constant(v) is None for v in node.inputs):
        return gates.read(node, shapes)
    raise Refused(_CODES.get(node.op_type, "branch-not-a-chain"), _why_not(node))


def _is_biased(value: onnx_ir.Value) -> bool:
    """Whether a MatMul with its bias makes it."""
    node = value.producer()
    return node is not None and matmul_before(node) is not None


_CODES = {
    "BatchNormalization": "norm-not-folded",
    "LayerNormalization": "norm-in-branch",
    "InstanceNormalization": "norm-in-branch",
    "GroupNormalization": "norm-in-branch",
    "RMSNormalization": "norm-in-branch",
    "ReduceMean": "norm-in-branch",
    "Dropout": "training-mode",
    "Mul": "gate-in-branch",
    "Softmax": "attention-in-branch",
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
    "norm-not-folded": "is a batch norm that cannot be folded",
    "norm-in-branch": "normalises over the data itself, which mixes the reserved channels in",
    "training-mode": "may be a Dropout in training",
    "gate-in-branch": "is a product inside the branch",
    "attention-in-branch": "weighs tokens by each other (attention)",
    "transposed-conv": "is a transposed convolution",
    "shuffle-in-branch": "reorders the tensor inside the branch",
    "pool-in-branch": "pools inside the branch",
    "quantized": "quantizes inside the branch",
}


def _why_not(node: onnx_ir.Node) -> str:
    code = _CODES.get(node.op_type, "")
    reason = _REASONS.get(code, f"is a {node.op_type}, which cannot be widened")
    return f"{node_label(node)} ({node.op_type}) {reason}"


def _linear(node: onnx_ir.Node, shapes: ShapeTable) -> Linear:
    try:
        return Linear.within(node, shapes)
    except NotLinear as error:
        operands = [v for v in node.inputs[1:2] if v is not None]
        maker = next((v.producer() for v in operands), None)
        if (
            node.op_type == "MatMul"
            and maker is not None
            and _CODES.get(maker.op_type) != "quantized"
        ):
            raise Refused(
                "attention-in-branch",
                f"{node_label(node)} (MatMul) multiplies two tensors, as attention does",
            ) from error
        code = "quantized" if maker and _CODES.get(maker.op_type) == "quantized" else ""
        raise Refused(code or "runtime-weights", str(error)) from error


def _stage(linear: Linear, through: tuple[Function | Gate, ...], shapes: ShapeTable) -> Stage:
    info = shapes[linear.result.name or ""]
    size_in = shapes[linear.source.name or ""].shape
    if size_in is None or info.shape is None:
        raise Refused("unknown-shape", f"the shape around {linear.label} is not known")
    positions = (info.elements() or linear.outputs) // linear.outputs
    return Stage(linear, through, max(1, positions), size_in, info.shape)
