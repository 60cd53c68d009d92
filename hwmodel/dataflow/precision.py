"""Element types: what quantizers and annotations say, and what the user gives for float models."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir

from graphopt.errors import GraphoptError
from graphopt.ir.constants import constant
from hwmodel.datatypes import DataType, integer

QUANTIZERS = frozenset({"Quant", "IntQuant", "BipolarQuant"})
"""QONNX operators that quantize their input (domains qonnx.custom_op.general, onnx.brevitas)."""

IMAGE = integer(8, signed=False)
"""What comes in where nothing says otherwise: pixels."""


@dataclass(frozen=True)
class Bits:
    """Widths for a model that has none of its own.

    Attributes:
        weight, activation: bits in general; the activation bits of a layer are the most that it
            reads, and in general those that an activation gives.
        first, last: (weight, activation) of the first and the last layer, where they differ.
        layers: the same for layers by name.
    """

    weight: int
    activation: int
    first: tuple[int, int] | None = None
    last: tuple[int, int] | None = None
    layers: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Bits:
        """Reads `w4a4`, or `w4a4,first=w8a8,last=w8,NAME=w2a2`; NAME is that of a layer.

        Raises:
            GraphoptError: not of this form, or a width outside 1 ... 32.
        """
        general, *others = text.replace(" ", "").split(",")
        both = _widths(general, text)
        if None in both:
            raise GraphoptError(_HOW.format(text))
        named: dict[str, tuple[int, int]] = {}
        for part in others:
            name, _, value = part.rpartition("=")
            weight, activation = _widths(value, text)
            if not name or name in named:
                raise GraphoptError(_HOW.format(text))
            named[name] = (weight or both[0] or 0, activation or both[1] or 0)
        first, last = named.pop("first", None), named.pop("last", None)
        return cls(both[0] or 0, both[1] or 0, first, last, named)

    def check(self, labels: Iterable[str]) -> None:
        """Whether every layer that is named is among these.

        Raises:
            GraphoptError: one is not.
        """
        known = {label.replace(" ", "") for label in labels}
        if missing := sorted(set(self.layers) - known):
            raise GraphoptError(
                f"no layer with weights is named '{missing[0]}': give widths for first, last, or "
                "the name of a layer."
            )

    def of(self, index: int, count: int, label: str = "") -> tuple[int, int]:
        """Weight and activation bits of layer `index` of `count`, which has this label."""
        if label.replace(" ", "") in self.layers:
            return self.layers[label.replace(" ", "")]
        if index == 0 and self.first:
            return self.first
        if index == count - 1 and self.last:
            return self.last
        return self.weight, self.activation


_HOW = "'{}' is no width: write w4a4, or w4a4,first=w8a8,last=w8a8, or NAME=w8a8 for a layer."


def _widths(text: str, whole: str) -> tuple[int | None, int | None]:
    """Weight and activation bits; None for one that is not given."""
    match = re.fullmatch(r"(?:w(\d{1,2}))?(?:a(\d{1,2}))?", text)
    if not match or not text:
        raise GraphoptError(_HOW.format(whole))
    weight, activation = (None if bits is None else int(bits) for bits in match.groups())
    if any(bits is not None and not 1 <= bits <= 32 for bits in (weight, activation)):
        raise GraphoptError(_HOW.format(whole))
    return weight, activation


def annotated(value: onnx_ir.Value) -> DataType | None:
    """The type that FINN's annotation gives a tensor."""
    names = value.meta.get("quant_parameter_tensor_names")
    text = names.get("finn_datatype") if isinstance(names, dict) else None
    return DataType.parse(text) if text and text != "FLOAT32" else None


def quantized(node: onnx_ir.Node) -> DataType | None:
    """The type that a quantizer gives its output; None where the node is none, or not constant."""
    kind = node.op_type
    if kind == "BipolarQuant":
        return DataType.parse("BIPOLAR")
    if kind in ("Quant", "IntQuant", "Trunc"):
        bits = constant(node.inputs[{"Trunc": 4}.get(kind, 3)])
        if bits is None or not np.size(bits) or not 1 <= float(np.max(bits)) <= 64:
            return None
        signed = node.attributes.get_int("signed", 1) != 0
        return integer(math.ceil(float(np.max(bits))), signed=signed)
    if kind == "RequantShift":  # of Deeploy and its PACT
        levels, sign = (node.attributes.get_tensor(name) for name in ("n_levels_out", "signed"))
        if levels is None or not 2 <= float(np.max(levels.numpy())) <= 2**32:
            return None
        width = (int(np.max(levels.numpy())) - 1).bit_length()
        return integer(width, signed=sign is not None and bool(np.any(sign.numpy())))
    if kind == "MultiThreshold":
        text = node.attributes.get_string("out_dtype", "")
        return DataType.parse(text) if text else None
    if kind in ("QuantizeLinear", "DynamicQuantizeLinear"):
        return _of_dtype(node.outputs[0].dtype) or _of_dtype(_dtype_of(node, 2)) or IMAGE
    if kind.startswith("QLinear"):
        return _of_dtype(node.outputs[0].dtype) or _of_dtype(_last_dtype(node)) or IMAGE
    return None


def _last_dtype(node: onnx_ir.Node) -> onnx_ir.DataType | None:
    """The type of the zero point of a QLinear operator's output."""
    index = {"QLinearConv": 7, "QLinearMatMul": 7, "QLinearAdd": 7, "QLinearMul": 7}
    return _dtype_of(node, index.get(node.op_type, 4))


def _dtype_of(node: onnx_ir.Node, index: int) -> onnx_ir.DataType | None:
    value = node.inputs[index] if len(node.inputs) > index else None
    return None if value is None else value.dtype


def _of_dtype(dtype: onnx_ir.DataType | None) -> DataType | None:
    """The type of an ONNX integer tensor of at most 16 bits."""
    if dtype is None:
        return None
    match = re.fullmatch(r"(U?)INT(2|4|8|16)", dtype.name)
    return integer(int(match.group(2)), signed=not match.group(1)) if match else None


def of_weight(value: onnx_ir.Value) -> DataType | None:
    """The type of a weight: annotated, or that of the quantizer it comes through."""
    seen = 0
    at: onnx_ir.Value | None = value
    while at is not None and seen < 32:
        seen += 1
        if found := annotated(at):
            return found
        node = at.producer()
        if node is None:
            return _of_dtype(at.dtype)
        if node.op_type in QUANTIZERS or node.op_type == "QuantizeLinear":
            return quantized(node)
        at = node.inputs[0] if node.inputs else None
    return None


def accumulator(length: int, input_: DataType, weight: DataType) -> DataType:
    """The narrowest integer for `length` products of any values.

    FINN's rule where the weights are not known: minimize_accumulator_width in
    custom_op/fpgadataflow/matrixvectoractivation.py.
    """
    products = [a * b for a in _ends(input_) for b in _ends(weight)]
    low, high = length * min(products), length * max(products)
    if low >= 0:
        return integer(max(1, high.bit_length()), signed=False)
    return integer((max(-low, 1 + high) - 1).bit_length() + 1, signed=True)


def _ends(kind: DataType) -> tuple[int, int]:
    """The least and the greatest value of a type."""
    if kind.name in ("BIPOLAR", "TERNARY"):
        return -1, 1
    if kind.signed:
        return -(2 ** (kind.bits - 1)), 2 ** (kind.bits - 1) - 1
    return 0, int(2**kind.bits) - 1


def steps(kind: DataType) -> int:
    """Thresholds that tell the values of a type apart."""
    return 1 if kind.name in ("BIPOLAR", "BINARY") else int(2**kind.bits - 1)


def attribute(node: onnx_ir.Node, name: str, default: Any) -> Any:
    """An attribute of a node, plain."""
    found = node.attributes.get(name)
    return default if found is None else found.value
