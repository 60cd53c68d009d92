"""Layers of QDQ and QLinear graphs: a convolution from codes to codes.

QDQ: DequantizeLinear - Conv - (Relu) - QuantizeLinear, the weights behind a DequantizeLinear of
constants. QLinear: QLinearConv. Both compute, channel by channel,

    q' = clip(rint((s s_w / s') (W (q - z) + b)) + z', low, high)

with s, z of what goes in, s', z' of what comes out, and s_w of the weights.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir

from graphopt.ir.constants import constant
from graphopt.ir.model import node_label
from graphopt.ir.quant import Grid, GridTable
from graphopt.ir.shapes import ShapeTable
from passes.linear import Linear, NotLinear
from passes.refused import Refused

Array = npt.NDArray[Any]

_SAME_STEP = 2.0**-20
"""Share by which the step of a bias may differ from s s_w, which it stands for."""
_WHOLE = 0.01
"""Steps by which a bias of floats may miss a whole number of them."""
_LARGEST = 2**31 - 2**16
"""Bias in steps that an int32 holds, with room for what reserved channels add."""


@dataclass(frozen=True, eq=False)
class IntegerLayer:
    """One convolution from codes to codes.

    Attributes:
        linear: the convolution; weights [M, K / group, *kernel] and bias [M] in codes (int64).
        scale: [M], real number of a weight's code.
        into, out: grids of what it reads and of what it gives.
        lowest: the least code that comes out: the zero point where a Relu stands before it.
        source, result: tensors of codes.
        nodes: from the convolution to what gives the codes.
    """

    linear: Linear
    scale: Array
    into: Grid
    out: Grid
    lowest: int
    source: onnx_ir.Value
    result: onnx_ir.Value
    nodes: tuple[onnx_ir.Node, ...]

    @property
    def label(self) -> str:
        """How reports call the convolution."""
        return self.linear.label


def is_integer(join: onnx_ir.Node, grids: GridTable) -> bool:
    """Whether a join adds codes (QLinearAdd), or dequantized ones."""
    if join.op_type == "QLinearAdd":
        return True
    values = [value for value in join.inputs if value is not None]
    makers = [value.producer() for value in values]
    return bool(makers) and any(
        node is not None and node.op_type == "DequantizeLinear" for node in makers
    )


def codes_of(value: onnx_ir.Value, grids: GridTable) -> tuple[onnx_ir.Value, Grid]:
    """The codes behind a tensor of QDQ, or the tensor itself where it carries codes; their grid.

    Raises:
        Refused: it carries none of 8 bits with one scale.
    """
    node, grid = value.producer(), grids.get(value.name or "")
    codes: onnx_ir.Value | None = value
    if node is not None and node.op_type == "DequantizeLinear":
        codes = node.inputs[0]
        check_single(node)
    elif grid is not None and not grid.codes:
        grid = None
    if grid is None or codes is None:
        raise Refused("not-quantized", f"'{value.name}' is not quantized to integers")
    if not grid.per_tensor:
        raise Refused("activation-grid", f"'{value.name}' has scales by channel")
    if (grid.low, grid.high) not in ((-128, 127), (0, 255)):
        raise Refused("width", f"the codes of '{value.name}' are not of 8 bits")
    return codes, replace(grid, codes=True)


def check_single(node: onnx_ir.Node) -> None:
    """Whether a quantizer computes in float32.

    Raises:
        Refused: it does not, or its scale is no constant.
    """
    scale = constant(node.inputs[1])
    if scale is None or scale.dtype != np.float32:
        raise Refused("width", f"{node_label(node)} does not compute in float32")


def read_by(node: onnx_ir.Node, place: int, grids: GridTable) -> tuple[onnx_ir.Value, Grid]:
    """The codes that a node reads, and their grid as it reads them: a QLinear operator has the
    scale and the zero point of its input beside it, another reads what was dequantized.

    Raises:
        Refused: they are none of 8 bits with one scale.
    """
    value = node.inputs[place]
    if value is None:
        raise Refused("not-quantized", f"{node_label(node)} lacks an input")
    codes, grid = codes_of(value, grids)
    if not node.op_type.startswith("QLinear"):
        return codes, grid
    scale, zero = (constant(node.inputs[place + step]) for step in (1, 2))
    if scale is None or zero is None or scale.size != 1 or zero.size != 1 or not (scale > 0).all():
        raise Refused("activation-grid", f"{node_label(node)} has no one scale for its input")
    return codes, replace(
        grid,
        scale=scale.astype(np.float64).reshape(()),
        zero_point=zero.astype(np.float64).reshape(()),
    )


def integer_chain(
    codes: onnx_ir.Value, fork: onnx_ir.Value, shapes: ShapeTable, grids: GridTable
) -> tuple[IntegerLayer, ...]:
    """The layers between the codes `fork` and `codes`, in order of execution.

    Raises:
        Refused: another operator stands there, or something reads it in the middle.
    """
    layers: list[IntegerLayer] = []
    here = codes
    while here is not fork:
        layer = _layer(here, shapes, grids)
        layers.append(layer)
        for value in (here, *(node.outputs[0] for node in layer.nodes[:-1])):
            if len(_readers(value)) != 1 or value.is_graph_output():
                raise Refused(
                    "read-elsewhere", f"'{value.name}' inside the branch is read elsewhere too"
                )
        here = layer.source
    return tuple(reversed(layers))


def _readers(value: onnx_ir.Value) -> list[onnx_ir.Node]:
    """The nodes that read a tensor; of a DequantizeLinear, those that read what it gives."""
    found = []
    for use in value.uses():
        node = use.node
        if node.op_type == "DequantizeLinear":
            found += [each.node for each in node.outputs[0].uses()]
            found += [node] * node.outputs[0].is_graph_output()
        else:
            found.append(node)
    return found


def _layer(codes: onnx_ir.Value, shapes: ShapeTable, grids: GridTable) -> IntegerLayer:
    """The layer that gives these codes."""
    last = codes.producer()
    if last is None:
        raise Refused("not-from-fork", f"the branch starts at '{codes.name}', not at the fork")
    _, out = codes_of(codes, grids)
    if last.op_type == "QLinearConv":
        return _qlinear(last, codes, out, shapes, grids)
    if last.op_type != "QuantizeLinear":
        raise Refused(
            "branch-not-a-chain", f"{node_label(last)} ({last.op_type}) stands in the branch"
        )
    check_single(last)
    nodes, lowest = [last], out.low
    value = last.inputs[0]
    node = value.producer() if value is not None else None
    if node is not None and node.op_type == "Relu":
        lowest = max(lowest, int(out.zero_point))
        nodes.insert(0, node)
        node = node.inputs[0].producer() if node.inputs[0] is not None else None
    if node is None or node.op_type != "Conv":
        raise Refused(
            "branch-not-a-chain", f"{node_label(last)} does not quantize what a convolution gives"
        )
    read = node.inputs[0]
    assert read is not None
    source, into = codes_of(read, grids)
    weight, scale = _weights(node.inputs[1])
    step = float(into.scale) * scale
    bias = _bias(node.inputs[2] if len(node.inputs) > 2 else None, step)
    linear = _linear(node, weight, bias, shapes)
    return IntegerLayer(linear, scale, into, out, lowest, source, codes, (node, *nodes))


def _qlinear(
    node: onnx_ir.Node, codes: onnx_ir.Value, out: Grid, shapes: ShapeTable, grids: GridTable
) -> IntegerLayer:
    weight, scale, zero = (constant(node.inputs[place]) for place in (3, 4, 5))
    if weight is None or scale is None or zero is None:
        raise Refused("float-weights", f"{node_label(node)} does not have constant weights")
    source, into = read_by(node, 0, grids)
    weight, scale = _checked(node_label(node), weight, scale, zero)
    bias = constant(node.inputs[8]) if len(node.inputs) > 8 and node.inputs[8] is not None else None
    if len(node.inputs) > 8 and node.inputs[8] is not None and bias is None:
        raise Refused("quantized-bias", f"the bias of {node_label(node)} is not a constant")
    bias = np.zeros(len(weight), np.int64) if bias is None else bias.astype(np.int64)
    linear = _linear(node, weight, bias, shapes)
    return IntegerLayer(linear, scale, into, out, out.low, source, codes, (node,))


def _linear(node: onnx_ir.Node, weight: Array, bias: Array, shapes: ShapeTable) -> Linear:
    source = node.inputs[0]
    shape = shapes[(source.name if source is not None else "") or ""].shape
    try:
        return Linear.convolving(node, weight, bias, shape)
    except NotLinear as reason:
        raise Refused("padding", str(reason)) from reason


def _checked(label: str, weight: Array, scale: Array, zero: Array) -> tuple[Array, Array]:
    """Codes (int64), and one scale (float64) for each output channel."""
    if weight.dtype != np.int8:
        raise Refused("weight-type", f"the weights of {label} are {weight.dtype}, not int8")
    if zero.any():
        raise Refused("zero-point", f"the weights of {label} have a zero point")
    if scale.size not in (1, len(weight)):
        raise Refused("weight-scales", f"the weights of {label} have scales along another axis")
    each = np.broadcast_to(scale.reshape(-1).astype(np.float64), (len(weight),))
    return weight.astype(np.int64), each


def _dequantized(
    value: onnx_ir.Value | None, what: str
) -> tuple[onnx_ir.Node, Array, Array, Array]:
    """The DequantizeLinear of constants behind a tensor: codes, scale, zero point."""
    node = value.producer() if value is not None else None
    if node is None or node.op_type != "DequantizeLinear":
        name = value.name if value is not None else ""
        raise Refused("float-weights", f"the {what} '{name}' are not quantized")
    codes, scale = constant(node.inputs[0]), constant(node.inputs[1])
    given = node.inputs[2] if len(node.inputs) > 2 else None
    zero = np.zeros(()) if given is None else constant(given)
    if codes is None or scale is None or zero is None:
        raise Refused("float-weights", f"{node_label(node)} does not read constants")
    return node, codes, scale, zero


def _weights(value: onnx_ir.Value | None) -> tuple[Array, Array]:
    node, codes, scale, zero = _dequantized(value, "weights")
    if scale.size > 1 and node.attributes.get_int("axis", 1) != 0:
        raise Refused("weight-scales", f"{node_label(node)} has scales along another axis")
    return _checked(node_label(node), codes, scale, zero)


def _bias(value: onnx_ir.Value | None, step: Array) -> Array:
    """[M], in steps of the accumulator.

    Raises:
        Refused: it is no whole number of them.
    """
    if value is None:
        return np.zeros(len(step), np.int64)
    real, times = constant(value), np.ones(len(step))
    if not (np.isfinite(step) & (step > 0)).all():
        raise Refused(
            "weight-scales", f"the layer of '{value.name}' has a scale that is not above 0"
        )
    if real is None:
        _, codes, scale, zero = _dequantized(value, "bias")
        real = codes.astype(np.float64) - zero
        ratio = np.broadcast_to(scale.astype(np.float64).reshape(-1), step.shape) / step
        times = np.rint(ratio)
        if (times < 1).any() or (np.abs(ratio - times) > _SAME_STEP * ratio).any():
            raise Refused(
                "quantized-bias", f"'{value.name}' has no whole number of the layer's steps"
            )
        counted = np.broadcast_to(real.reshape(-1), step.shape) * times
    else:
        counted = np.broadcast_to(real.astype(np.float64).reshape(-1), step.shape) / step
    whole = np.rint(counted)
    if (np.abs(counted - whole) > _WHOLE).any():
        raise Refused("quantized-bias", f"the bias '{value.name}' is no whole number of steps")
    if (np.abs(whole) > _LARGEST).any():
        raise Refused("quantized-bias", f"the bias '{value.name}' needs more than 32 bits")
    return whole.astype(np.int64)
