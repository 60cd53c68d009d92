"""Quantized tensors: the grid on which the values of each tensor lie.

A quantizer maps a real number x to the code `clip(round(x / scale + zero_point), low, high)`. The
tensor then carries either the codes (QuantizeLinear, QLinear*, FINN's annotations) or the real
numbers `scale (code - zero_point)` that they stand for (QONNX's Quant, DequantizeLinear). The
analysis `Quantization` says which, for every tensor of which it is known, whatever the dialect.

Sources: docs/qonnx-custom-ops in qonnx; the operators QuantizeLinear, DequantizeLinear, QLinear* of
ONNX; com.microsoft in ONNX Runtime's docs/ContribOperators.md.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import onnx_ir

from graphopt.ir.constants import constant
from graphopt.ir.model import Model
from graphopt.ir.shapes import Shapes, ShapeTable

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Grid:
    """Where the values of a tensor can lie.

    Attributes:
        scale: step of the grid in real numbers, positive; a float64 array that broadcasts to the
            tensor, of rank 0 where one number holds for all.
        zero_point: the code of the real number 0, likewise; no integer for a grid without a 0.
        low, high: least and greatest code.
        signed: whether the integer type has negative codes.
        rounding: the mode of the quantizer, as QONNX calls it; None where none has rounded here.
        codes: whether the tensor carries the codes, not the real numbers.
    """

    scale: Array
    zero_point: Array
    low: int
    high: int
    signed: bool
    rounding: str | None = None
    codes: bool = False

    @property
    def bits(self) -> int:
        """Bits of the narrowest integer type of this sign that holds the codes."""
        if self.signed:
            return max(1, max(-self.low - 1, self.high).bit_length() + 1)
        return max(1, self.high.bit_length())

    @property
    def per_tensor(self) -> bool:
        """Whether one scale and one zero point hold for all elements."""
        return self.scale.size == 1 and self.zero_point.size == 1

    @property
    def symmetric(self) -> bool:
        """Whether code 0 stands for the real number 0."""
        return not self.zero_point.any()

    def real(self, code: Any) -> Array:
        """The real numbers that codes stand for."""
        return self.scale * (np.asarray(code, np.float64) - self.zero_point)

    def same_as(self, other: Grid) -> bool:
        """Whether both have the same step and the same zero: their codes can be added."""
        return np.array_equal(self.scale, other.scale) and np.array_equal(
            self.zero_point, other.zero_point
        )


class GridTable(Mapping[str, Grid]):
    """`Grid` by tensor name, of those that are known to lie on one."""

    def __init__(self, table: Mapping[str, Grid]) -> None:
        self._table = table

    def __getitem__(self, name: str) -> Grid:
        return self._table[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._table)

    def __len__(self) -> int:
        return len(self._table)


@dataclass(frozen=True)
class Quantization:
    """Analysis: the `GridTable` of a model."""

    name: ClassVar[str] = "quantization"

    def run(self, model: Model) -> GridTable:
        """Reads quantizers and annotations, and follows their results through operators that keep
        values on their grid.
        """
        shapes = model.analyses.get(Shapes())
        table: dict[str, Grid] = {}
        for value in [*model.graph.inputs, *model.graph.initializers.values()]:
            _note(table, value, annotated(value))
        for node in model.graph:
            rule = _RULES.get(node.op_type)
            found = rule(node, table, shapes) if rule is not None else None
            for output in node.outputs:
                _note(table, output, annotated(output) or found)
        return GridTable(table)


def _note(table: dict[str, Grid], value: onnx_ir.Value, grid: Grid | None) -> None:
    if value.name and grid is not None:
        table[value.name] = grid


ONE, ZERO = np.array(1.0), np.array(0.0)


def annotated(value: onnx_ir.Value) -> Grid | None:
    """The integers that FINN's annotation promises."""
    names = value.meta.get("quant_parameter_tensor_names")
    text = names.get("finn_datatype") if isinstance(names, dict) else None
    if not text:
        return None
    if text == "BIPOLAR":
        return _bipolar(ONE)
    if text in ("BINARY", "TERNARY"):
        return Grid(ONE, ZERO, -int(text == "TERNARY"), 1, text == "TERNARY", codes=True)
    match = re.fullmatch(r"(U?)INT(\d{1,2})", text)
    if match is None:
        return None
    low, high = limits(int(match.group(2)), signed=not match.group(1))
    return Grid(ONE, ZERO, low, high, not match.group(1), codes=True)


def limits(bits: int, *, signed: bool, narrow: bool = False) -> tuple[int, int]:
    """Least and greatest code of an integer type; narrow types leave out the lowest code of signed
    integers, the highest of the others.
    """
    if signed:
        return -(2 ** (bits - 1)) + narrow, 2 ** (bits - 1) - 1
    return 0, 2**bits - 1 - narrow


def _bipolar(scale: Array) -> Grid:
    """-scale and +scale: codes 0 and 1 of step 2 scale, with the real 0 between them."""
    return Grid(2 * scale, np.array(0.5), 0, 1, False, "BIPOLAR")


# --- quantizers ----------------------------------------------------------------------------------


def _array(node: onnx_ir.Node, index: int) -> Array | None:
    """A constant input, in float64."""
    value = node.inputs[index] if len(node.inputs) > index else None
    found = constant(value)
    return None if found is None else found.astype(np.float64)


def _plain(array: Array) -> Array:
    return array.reshape(()) if array.size == 1 else array


def _quant(node: onnx_ir.Node, table: Mapping[str, Grid], shapes: ShapeTable) -> Grid | None:
    scale, zero, bits = (_array(node, index) for index in (1, 2, 3))
    if scale is None or zero is None or bits is None or bits.size != 1 or not (scale > 0).all():
        return None
    width = float(bits.reshape(-1)[0])
    if not (width.is_integer() and 1 <= width <= 32):
        return None
    signed = node.attributes.get_int("signed", 1) != 0
    if signed and width == 1:
        return _bipolar(_plain(scale))
    low, high = limits(int(width), signed=signed, narrow=bool(node.attributes.get_int("narrow", 0)))
    mode = (node.attributes.get_string("rounding_mode", "ROUND") or "ROUND").upper()
    return Grid(_plain(scale), _plain(zero), low, high, signed, mode)


def _bipolar_quant(node: onnx_ir.Node, table: Mapping[str, Grid], _: ShapeTable) -> Grid | None:
    scale = _array(node, 1)
    return None if scale is None or not (scale > 0).all() else _bipolar(_plain(scale))


def _trunc(node: onnx_ir.Node, table: Mapping[str, Grid], shapes: ShapeTable) -> Grid | None:
    """Version 1 keeps the scale and makes the codes smaller; version 2 has a scale of its own."""
    before = _of(node.inputs[0], table)
    scale, zero, bits = (_array(node, index) for index in (1, 2, 3))
    others = [_array(node, index) for index in range(4, len(node.inputs))]
    if before is None or scale is None or zero is None or bits is None:
        return None
    last = others[-1] if others else None
    if last is None or last.size != 1 or bits.size != 1:
        return None
    mode = (node.attributes.get_string("rounding_mode", "FLOOR") or "FLOOR").upper()
    if len(others) == 1:
        shift = 2.0 ** float(bits.reshape(-1)[0] - last.reshape(-1)[0])
        low, high = math.floor(before.low / shift), math.ceil(before.high / shift)
        return Grid(_plain(scale), _plain(zero), low, high, before.signed, mode)
    step = others[0]
    if step is None or not (step > 0).all() or zero.any():
        return None
    signed = node.attributes.get_int("signed", 1) != 0
    narrow = bool(node.attributes.get_int("narrow", 0))
    low, high = limits(int(last.reshape(-1)[0]), signed=signed, narrow=narrow)
    return Grid(_plain(step), ZERO, low, high, signed, mode)


def _multi_threshold(node: onnx_ir.Node, table: Mapping[str, Grid], _: ShapeTable) -> Grid | None:
    """`out_bias + out_scale n`, n thresholds reached. Codes count from the bias where that is a
    whole number of steps, so that code 0 is the real 0.
    """
    value = node.inputs[1]
    shape = value.shape if value is not None else None
    steps = shape[-1] if shape is not None and len(shape) == 2 else None
    scale = node.attributes.get_float("out_scale", 1.0) or 0.0
    bias = node.attributes.get_float("out_bias", 0.0) or 0.0
    if not isinstance(steps, int) or scale <= 0:
        return None
    first = bias / scale
    start = int(first) if float(first).is_integer() else 0
    zero = np.array(0.0 if start or not bias else -first)
    return Grid(np.array(scale), zero, start, start + steps, start < 0 or bool(zero), "THRESHOLDS")


def _quantize_linear(node: onnx_ir.Node, table: Mapping[str, Grid], s: ShapeTable) -> Grid | None:
    scale, zero = _array(node, 1), _array(node, 2) if len(node.inputs) > 2 else ZERO
    grid = _integers(node.outputs[0]) or (
        _integers(node.inputs[2]) if len(node.inputs) > 2 else None
    )
    if scale is None or zero is None or not (scale > 0).all():
        return None
    said = node.attributes.get_int("output_dtype", 0)
    grid = grid or (_all_codes(onnx_ir.DataType(said).name) if said else None)
    if grid is None and said:
        return None
    grid = grid or Grid(ONE, ZERO, 0, 255, False)
    shape = s[node.outputs[0].name or ""].shape
    placed = _placed(node, scale, zero, None if shape is None else len(shape))
    if placed is None:
        return None
    return replace(grid, scale=placed[0], zero_point=placed[1], rounding="HALF_EVEN", codes=True)


def _dequantize_linear(node: onnx_ir.Node, table: Mapping[str, Grid], s: ShapeTable) -> Grid | None:
    scale, zero = _array(node, 1), _array(node, 2) if len(node.inputs) > 2 else ZERO
    grid = _of(node.inputs[0], table) or _integers(node.inputs[0])
    if scale is None or zero is None or grid is None or not (scale > 0).all():
        return None
    shape = s[(node.inputs[0].name if node.inputs[0] is not None else "") or ""].shape
    placed = _placed(node, scale, zero, None if shape is None else len(shape))
    if placed is None:
        return None
    return replace(grid, scale=placed[0], zero_point=placed[1], codes=False)


def _placed(
    node: onnx_ir.Node, scale: Array, zero: Array, rank: int | None
) -> tuple[Array, Array] | None:
    """Scale and zero point as they broadcast; None where they hold for blocks."""
    if scale.size == 1 and zero.size == 1:
        return _plain(scale), _plain(zero)
    if rank is None or scale.ndim != 1:
        return None
    axis = node.attributes.get_int("axis", 1) or 0
    shape = [1] * rank
    shape[axis] = -1
    zero = np.broadcast_to(zero, scale.shape)
    return scale.reshape(shape), zero.reshape(shape)


_PLACES = {
    "QLinearConv": (6, 7), "QLinearMatMul": (6, 7), "QLinearAdd": (6, 7), "QLinearMul": (6, 7),
    "QGemm": (7, 8), "QLinearConcat": (0, 1),
}  # fmt: skip
"""Where a QLinear operator has the scale and the zero point of its output; else 3 and 4."""


def _qlinear(node: onnx_ir.Node, table: Mapping[str, Grid], shapes: ShapeTable) -> Grid | None:
    at, zero_at = _PLACES.get(node.op_type, (3, 4))
    scale, zero = _array(node, at), _array(node, zero_at)
    given = node.inputs[zero_at] if len(node.inputs) > zero_at else None
    grid = _integers(node.outputs[0]) or _integers(given)
    if scale is None or scale.size != 1 or not (scale > 0).all() or grid is None:
        return None
    zero = ZERO if zero is None else _plain(zero)
    return replace(grid, scale=_plain(scale), zero_point=zero, rounding="HALF_EVEN", codes=True)


def _integers(value: onnx_ir.Value | None) -> Grid | None:
    """All codes of an integer tensor."""
    return _all_codes(value.dtype.name if value is not None and value.dtype is not None else "")


def _all_codes(name: str) -> Grid | None:
    """All codes of an integer type, "INT8"."""
    match = re.fullmatch(r"(U?)INT(2|4|8|16|32)", name)
    if match is None:
        return None
    signed = not match.group(1)
    low, high = limits(int(match.group(2)), signed=signed)
    return Grid(ONE, ZERO, low, high, signed, codes=True)


# --- operators that stay on a grid ---------------------------------------------------------------


def _of(value: onnx_ir.Value | None, table: Mapping[str, Grid]) -> Grid | None:
    return None if value is None else table.get(value.name or "")


def _real(value: onnx_ir.Value | None, table: Mapping[str, Grid]) -> Grid | None:
    """The grid of a tensor on which arithmetic is that of the real numbers: FINN's integers stand
    for themselves, other codes do not.
    """
    grid = _of(value, table)
    if grid is not None and grid.codes and not (grid.rounding is None and grid.scale == 1):
        return None
    return grid


def _kept(node: onnx_ir.Node, table: Mapping[str, Grid], shapes: ShapeTable) -> Grid | None:
    """Elements are selected, or put in another order within their channel."""
    return _of(node.inputs[0], table)


def _moved(node: onnx_ir.Node, table: Mapping[str, Grid], shapes: ShapeTable) -> Grid | None:
    """Elements change places, so only a grid for all of them survives."""
    grid = _of(node.inputs[0], table)
    return grid if grid is not None and grid.per_tensor else None


def _relu(node: onnx_ir.Node, table: Mapping[str, Grid], shapes: ShapeTable) -> Grid | None:
    grid = _of(node.inputs[0], table)
    if grid is None or grid.codes or not grid.per_tensor:
        return None
    zero = float(grid.zero_point)
    if not zero.is_integer() or not grid.low <= zero <= grid.high:
        return None
    return replace(grid, low=int(zero))


def _scaled(node: onnx_ir.Node, table: Mapping[str, Grid], shapes: ShapeTable) -> Grid | None:
    """Real numbers times, or divided by, a positive constant."""
    for index in (0, 1) if node.op_type == "Mul" else (0,):
        grid, factor = _real(node.inputs[index], table), _array(node, 1 - index)
        if grid is None or factor is None or not (factor > 0).all():
            continue
        factor = _plain(factor)
        scale = grid.scale * factor if node.op_type == "Mul" else grid.scale / factor
        return replace(grid, scale=scale, codes=False)
    return None


def _shifted(node: onnx_ir.Node, table: Mapping[str, Grid], shapes: ShapeTable) -> Grid | None:
    """A sum of two tensors on one grid, or of a tensor and a constant."""
    left, right = (_real(value, table) for value in node.inputs[:2])
    if left is not None and right is not None:
        alike = left.codes == right.codes and left.same_as(right) and left.symmetric
        if not alike or node.op_type != "Add":
            return None
        return replace(
            left,
            low=left.low + right.low,
            high=left.high + right.high,
            signed=left.signed or right.signed,
            rounding=None,
        )
    grid, given = (left, _array(node, 1)) if left is not None else (right, _array(node, 0))
    if grid is None or given is None or (node.op_type == "Sub" and left is None):
        return None
    shift = _plain(given) / grid.scale
    zero = grid.zero_point - shift if node.op_type == "Add" else grid.zero_point + shift
    return replace(grid, zero_point=zero, codes=False)


def _joined(node: onnx_ir.Node, table: Mapping[str, Grid], shapes: ShapeTable) -> Grid | None:
    grids = [_of(value, table) for value in node.inputs]
    first = grids[0] if grids else None
    if first is None or not first.per_tensor:
        return None
    for grid in grids[1:]:
        if grid is None or not first.same_as(grid) or grid.codes != first.codes:
            return None
        first = replace(
            first,
            low=min(first.low, grid.low),
            high=max(first.high, grid.high),
            signed=first.signed or grid.signed,
        )
    return first


_Rule = Callable[[onnx_ir.Node, Mapping[str, Grid], ShapeTable], Grid | None]

_RULES: dict[str, _Rule] = {
    "Quant": _quant,
    "IntQuant": _quant,
    "BipolarQuant": _bipolar_quant,
    "Trunc": _trunc,
    "MultiThreshold": _multi_threshold,
    "QuantizeLinear": _quantize_linear,
    "DequantizeLinear": _dequantize_linear,
    "Relu": _relu,
    "Mul": _scaled,
    "Div": _scaled,
    "Add": _shifted,
    "Sub": _shifted,
    "Concat": _joined,
    **dict.fromkeys(
        "QLinearConv QLinearMatMul QLinearAdd QLinearMul QGemm QLinearConcat QLinearAveragePool "
        "QLinearGlobalAveragePool QLinearSigmoid QLinearLeakyRelu QLinearSoftmax".split(),
        _qlinear,
    ),
    **dict.fromkeys("Identity MaxPool Dropout GlobalMaxPool".split(), _kept),
    **dict.fromkeys(
        "Reshape Flatten Squeeze Unsqueeze Transpose Slice Gather Expand Tile DepthToSpace "
        "SpaceToDepth Split".split(),
        _moved,
    ),
}
