"""Shapes and element types of every tensor, with a symbolic batch, without touching the model."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir
from onnx_ir.passes.common import ShapeInferencePass

from graphopt.ir.model import Model, _quiet_onnx_ir

Dim = int | str | None
"""A size, the name of a symbolic size ("N"), or None where nothing is known."""

SHAPE_PRESERVING = frozenset(
    {
        ("qonnx.custom_op.general", "Quant"),
        ("qonnx.custom_op.general", "BipolarQuant"),
        ("qonnx.custom_op.general", "Trunc"),
        ("qonnx.custom_op.general", "IntQuant"),
        ("qonnx.custom_op.general", "MultiThreshold"),
        ("onnx.brevitas", "Quant"),
        ("onnx.brevitas", "BipolarQuant"),
        ("onnx.brevitas", "Trunc"),
        ("finn.custom_op.general", "Quant"),
        ("finn.custom_op.general", "BipolarQuant"),
        ("finn.custom_op.general", "MultiThreshold"),
        ("com.microsoft", "QLinearSigmoid"),
        ("com.microsoft", "QLinearLeakyRelu"),
        ("com.microsoft", "QuantizeLinear"),
        ("com.microsoft", "DequantizeLinear"),
        ("com.microsoft", "Gelu"),
        ("com.microsoft", "QuickGelu"),
        ("PACTOps", "RequantShift"),
        ("", "RequantShift"),
        ("", "MultiThreshold"),
    }
)
"""Operators outside ONNX whose output has the shape of their first input."""


@dataclass(frozen=True)
class TensorInfo:
    """Element type and shape of one tensor.

    Attributes:
        dtype: ONNX element type, or None where unknown.
        shape: one `Dim` per axis, or None where not even the rank is known.
    """

    dtype: onnx_ir.DataType | None
    shape: tuple[Dim, ...] | None

    def elements(self) -> int | None:
        """Number of elements of one sample: symbolic sizes count as 1. None where unknown."""
        if self.shape is None or any(dim is None for dim in self.shape):
            return None
        return math.prod(dim if isinstance(dim, int) else 1 for dim in self.shape)

    def bytes(self) -> int | None:
        """Bytes of one sample, as `elements` counts; None where unknown."""
        elements = self.elements()
        if elements is None or self.dtype is None:
            return None
        with contextlib.suppress(TypeError):
            return math.ceil(elements * self.dtype.bitwidth / 8)
        return None

    def static(self) -> tuple[int, ...] | None:
        """The shape where every size is a number."""
        if self.shape is None or not all(isinstance(dim, int) for dim in self.shape):
            return None
        return tuple(dim for dim in self.shape if isinstance(dim, int))

    def __str__(self) -> str:
        dims = (
            "?"
            if self.shape is None
            else "x".join("?" if d is None else str(d) for d in self.shape)
        )
        return f"{dims} {self.dtype.name.lower() if self.dtype else '?'}"


UNKNOWN = TensorInfo(None, None)


class ShapeTable(Mapping[str, TensorInfo]):
    """`TensorInfo` by tensor name; `UNKNOWN` for a name it does not hold. A view of `table`."""

    def __init__(self, table: Mapping[str, TensorInfo]) -> None:
        self._table = table

    def __getitem__(self, name: str) -> TensorInfo:
        return self._table.get(name, UNKNOWN)

    def __iter__(self) -> Iterator[str]:
        return iter(self._table)

    def __len__(self) -> int:
        return len(self._table)

    def __contains__(self, name: object) -> bool:
        return name in self._table


@dataclass(frozen=True)
class Shapes:
    """Analysis: the `ShapeTable` of a model.

    ONNX's own inference, carried across foreign operators that keep the shape of their input.
    Where shape arithmetic in the graph stops it (Shape -> Slice -> Pad chains), the constants are
    folded in a copy and the shapes taken from there.
    """

    name: ClassVar[str] = "shapes"

    def run(self, model: Model) -> ShapeTable:
        """Infers. Tensors of subgraphs are not in the table."""
        copy = model.ir.clone()
        for value in [v for v in copy.graph.inputs if v.name in copy.graph.initializers]:
            copy.graph.inputs.remove(value)  # so that shape arithmetic on them can be folded
        for value in copy.graph.initializers.values():  # value_info may know less of them
            if value.const_value is not None:
                value.shape = onnx_ir.Shape(value.const_value.shape.numpy())
        for node in copy.graph:  # one domain without an import would stop the inference of all
            copy.graph.opset_imports.setdefault(node.domain, 1)
        given = frozenset(
            dim.value
            for value in copy.graph.inputs
            for dim in value.shape or ()
            if not isinstance(dim, int)
        )
        _infer(copy)
        table = _table(copy)
        if any(_open(info, given) for info in table.values()):
            _fold(copy)
            _infer(copy)
            for name, info in _table(copy).items():
                if name in table and _open(info, given) < _open(table[name], given):
                    table[name] = info
        return ShapeTable(table)


def _open(info: TensorInfo, given: frozenset[str | None]) -> float:
    """How many sizes are not known. ONNX's inference names some of them ("unk__0"); a name that no
    input has tells nothing.
    """
    if info.shape is None:
        return math.inf
    return sum(not isinstance(dim, int) and (not dim or dim not in given) for dim in info.shape)


def _infer(model: onnx_ir.Model) -> None:
    """Alternates ONNX's inference and the rule for shape-preserving operators until both rest."""
    for _ in range(64):
        with _quiet_onnx_ir(), contextlib.suppress(Exception):
            ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(model)
        if not _carry_over(model):
            return


def _carry_over(model: onnx_ir.Model) -> bool:
    changed = False
    for node in model.graph:
        source = _carrier_of_shape(node)
        if source is None or source.shape is None or not node.outputs:
            continue
        target = node.outputs[0]
        if target.shape is None or _unknown(target.shape) > _unknown(source.shape):
            target.shape = source.shape.copy()
            changed = True
        if target.dtype is None and source.dtype is not None:
            target.type = onnx_ir.TensorType(source.dtype)
    return changed


def _carrier_of_shape(node: onnx_ir.Node) -> onnx_ir.Value | None:
    """The input whose shape the output has, for operators that ONNX's inference does not know."""
    if not node.inputs:
        return None
    if (node.domain, node.op_type) in SHAPE_PRESERVING:
        return node.inputs[0]
    if node.op_type in ("QLinearAdd", "QLinearMul") and len(node.inputs) > 3:
        left, right = node.inputs[0], node.inputs[3]
        alike = left is not None and right is not None and left.shape == right.shape
        return left if alike else None
    return None


def _unknown(shape: onnx_ir.Shape) -> int:
    return sum(not isinstance(dim, int) and dim.value is None for dim in shape)


def _fold(model: onnx_ir.Model) -> None:
    from onnxscript import optimizer

    with _quiet_onnx_ir(), contextlib.suppress(Exception):
        optimizer.fold_constants(model, onnx_shape_inference=False)


def _table(model: onnx_ir.Model) -> dict[str, TensorInfo]:
    table: dict[str, TensorInfo] = {}
    values = list(model.graph.inputs) + list(model.graph.initializers.values())
    values += [output for node in model.graph for output in node.outputs]
    for value in values:
        if value.name:
            table[value.name] = _info(value)
    return table


def _info(value: onnx_ir.Value) -> TensorInfo:
    if value.shape is None:
        return TensorInfo(value.dtype, None)
    dims = tuple(dim if isinstance(dim, int) else dim.value for dim in value.shape)
    return TensorInfo(value.dtype, dims)
