"""Layers of a QONNX graph: a convolution with quantized weights, and what stands behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir

from graphopt.ir.constants import constant
from graphopt.ir.model import node_label
from graphopt.ir.quant import Grid, GridTable
from graphopt.ir.shapes import ShapeTable
from passes.linear import Linear, NotLinear
from passes.norm_folding import CannotFold, affine_of
from passes.refused import Refused

Array = npt.NDArray[Any]

QUANTIZERS = ("Quant", "IntQuant", "BipolarQuant")


@dataclass(frozen=True, eq=False)
class Layer:
    """`quantizer(relu(gain (scale codes * x + bias) + shift))`, each part but the first optional.

    Attributes:
        linear: the convolution, with the codes of its weights (int64) as weights and its bias in
            real numbers (float64).
        scale: [M], real number of one code, by output channel.
        bits: of the weights.
        tail: affine nodes and Relu behind it, in order of execution.
        gain, shift: [M] each, what the affine nodes do together.
        relu: whether a Relu is among them.
        quantizer: the node at the end, or None.
        grid: what it rounds to.
    """

    linear: Linear
    scale: Array
    bits: int
    tail: tuple[onnx_ir.Node, ...]
    gain: Array
    shift: Array
    relu: bool
    quantizer: onnx_ir.Node | None
    grid: Grid | None

    @property
    def nodes(self) -> tuple[onnx_ir.Node, ...]:
        """All nodes, in order of execution."""
        end = () if self.quantizer is None else (self.quantizer,)
        return (self.linear.node, *self.tail, *end)

    @property
    def label(self) -> str:
        """How reports call the convolution."""
        return self.linear.label


def chain(
    value: onnx_ir.Value,
    fork: onnx_ir.Value,
    shapes: ShapeTable,
    grids: GridTable,
    *,
    read_by_all: bool = False,
) -> tuple[Layer, ...]:
    """The layers between `fork` and `value`, in order of execution; none for the fork itself.

    Args:
        value: where they end.
        fork: where they start.
        shapes: of the tensors.
        grids: on which they lie.
        read_by_all: whether several nodes may read `value`.

    Raises:
        Refused: another operator stands there, or something reads it in the middle.
    """
    layers: list[Layer] = []
    nodes: list[onnx_ir.Node] = []
    here = value
    while here is not fork:
        node = here.producer()
        if node is None:
            raise Refused("not-from-fork", f"the branch starts at '{here.name}', not at the fork")
        shared = len(here.uses()) != 1 or here.is_graph_output()
        if shared and not (read_by_all and here is value):
            raise Refused(
                "read-elsewhere", f"'{here.name}' inside the branch is read elsewhere too"
            )
        nodes.append(node)
        if node.op_type == "Conv":
            layers.append(_layer(nodes[::-1], shapes, grids))
            nodes = []
        here = _data(node, grids)
    if nodes:
        if len(nodes) == 1 and not layers and nodes[0].op_type in QUANTIZERS:
            raise OnlyQuantizer(nodes[0])
        raise Refused(
            "pre-activation", f"{node_label(nodes[-1])} stands before the first layer of the branch"
        )
    return tuple(reversed(layers))


class OnlyQuantizer(Refused):
    """There is nothing but a quantizer between the fork and the value."""

    def __init__(self, node: onnx_ir.Node) -> None:
        super().__init__("no-layer", f"only {node_label(node)} stands there")
        self.node = node


def _data(node: onnx_ir.Node, grids: GridTable) -> onnx_ir.Value:
    data = [v for v in node.inputs if v is not None and constant(v) is None]
    data = [v for v in data if not _is_weight(v)]
    if len(data) != 1:
        raise Refused(
            "branch-not-a-chain",
            f"{node_label(node)} ({node.op_type}) does not read one tensor and constants",
        )
    return data[0]


def _is_weight(value: onnx_ir.Value) -> bool:
    """Whether a quantizer makes it of constants."""
    node = value.producer()
    return (
        node is not None
        and node.op_type in QUANTIZERS
        and all(constant(v) is not None for v in node.inputs if v is not None)
    )


def weight_codes(value: onnx_ir.Value, grids: GridTable) -> tuple[Array, Array, int]:
    """Codes (int64), the real number of one by output channel ([M]), and the bits, of weights that
    a quantizer makes of constants.

    Raises:
        Refused: there is no such quantizer, or its grid has no code for the real 0.
    """
    node, grid = value.producer(), grids.get(value.name or "")
    if node is None or not _is_weight(value) or grid is None:
        raise Refused("float-weights", f"the weights '{value.name}' are not quantized")
    given = constant(node.inputs[0])
    assert given is not None
    real = given.astype(np.float64)
    channels = len(real)
    if grid.rounding == "BIPOLAR":  # -s and +s: the codes -1 and +1
        unit = grid.scale / 2
        codes = np.where(real >= 0, 1, -1)
        bits = 1
    else:
        if grid.zero_point.any():
            raise Refused("zero-point", f"the weights '{value.name}' have a zero point")
        unit = grid.scale
        if (grid.rounding or "") not in ("ROUND", "HALF_EVEN"):
            raise Refused("rounding", f"the weights '{value.name}' are rounded by {grid.rounding}")
        steps = (given / unit.astype(np.float32)).astype(np.float64)
        codes = np.rint(np.clip(steps, grid.low, grid.high))
        bits = grid.bits
    if unit.size not in (1, channels) or (unit.size > 1 and unit.shape[0] != channels):
        raise Refused("weight-scales", f"the weights '{value.name}' have scales along another axis")
    return codes.astype(np.int64), np.broadcast_to(unit.reshape(-1), (channels,)), bits


def check_sizes(values: Sequence[onnx_ir.Value], shapes: ShapeTable) -> None:
    """Whether tensors have maps of the same sizes, so that none is repeated where they meet.

    Raises:
        Refused: they do not, or the sizes are not known.
    """
    found = [shapes[value.name or ""].shape for value in values]
    maps = {None if shape is None else shape[2:] for shape in found}
    if len(maps) != 1 or any(shape is None or None in shape[2:] for shape in found):
        names = " and ".join(f"'{value.name}'" for value in values)
        raise Refused("broadcast", f"{names} are not known to have maps of the same sizes")


def tap_of(
    linear: Linear, shapes: ShapeTable, offset: Sequence[int] | None = None
) -> tuple[int, ...]:
    """The tap that reads the pixel at `offset` from the output's own; its own by default.

    Raises:
        Refused: there is none, or for its own it would reach into the padding.
    """
    tap = linear.tap(offset if offset is not None else (0,) * len(linear.kernel))
    sizes = [shapes[value.name or ""].shape for value in (linear.source, linear.node.outputs[0])]
    if tap is None or not all(sizes):
        raise Refused("padding", f"the kernel of {linear.label} does not reach the skip's pixel")
    inside = linear.reads_inside(tap, (sizes[0] or ())[2:], (sizes[1] or ())[2:])
    if not inside and offset is None:
        raise Refused("padding", f"{linear.label} would read the skip's pixel from the border")
    return tap


def at_tap(rows: Any, columns: Any, tap: Sequence[int]) -> Any:
    """An index into weights: these rows and columns at one tap of the kernel."""
    return (rows, columns, *tap)


def _layer(nodes: list[onnx_ir.Node], shapes: ShapeTable, grids: GridTable) -> Layer:
    conv, *behind = nodes
    weight = conv.inputs[1]
    if weight is None or conv.domain not in ("", "ai.onnx"):
        raise Refused("branch-not-a-chain", f"{node_label(conv)} is no convolution of ONNX")
    codes, scale, bits = weight_codes(weight, grids)
    bias = np.zeros(len(codes))
    if len(conv.inputs) > 2 and conv.inputs[2] is not None:
        given = constant(conv.inputs[2])
        if given is None:
            raise Refused("quantized-bias", f"the bias of {node_label(conv)} is not a constant")
        bias = given.astype(np.float64)
    source = conv.inputs[0]
    shape = shapes[(source.name if source is not None else "") or ""].shape
    try:
        linear = Linear.convolving(conv, codes, bias, shape)
    except NotLinear as reason:
        raise Refused("padding", str(reason)) from reason
    quantizer = behind.pop() if behind and behind[-1].op_type in ("Quant", "IntQuant") else None
    gain, shift = np.ones(len(codes)), np.zeros(len(codes))
    relu = False
    for node in behind:
        if node.op_type == "Sub" and constant(node.inputs[0]) is not None:
            raise Refused(
                "branch-not-a-chain", f"{node_label(node)} takes its input from a constant"
            )
        if node.op_type == "Relu" and node.domain in ("", "ai.onnx"):
            relu = True
            continue
        try:
            affine = None if relu else affine_of(node, shapes)
        except CannotFold as reason:
            raise Refused(reason.code, str(reason)) from reason
        if affine is None:
            raise Refused(
                "branch-not-a-chain",
                f"{node_label(node)} ({node.op_type}) stands between a convolution and its "
                "quantizer",
            )
        gain, shift = gain * affine.scale, shift * affine.scale + affine.shift
    grid = grids.get(quantizer.outputs[0].name or "") if quantizer is not None else None
    if quantizer is not None and (grid is None or not grid.per_tensor or not grid.symmetric):
        raise Refused(
            "activation-grid",
            f"{node_label(quantizer)} has scales by channel, a zero point, or no constants",
        )
    return Layer(linear, scale, bits, tuple(behind), gain, shift, relu, quantizer, grid)
