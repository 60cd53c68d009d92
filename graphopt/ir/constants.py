"""The value of a tensor that does not depend on the model's inputs, computed when asked for.

Exporters leave weights behind chains of Constant, ConstantOfShape, Identity, Cast, Transpose ...
`constant` evaluates such a chain with ONNX's reference evaluator, one node at a time, and only a
fixed list of harmless operators: nothing is executed on a model's behalf beyond these, and no
result is allocated before its size is known.
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir

Array: TypeAlias = npt.NDArray[Any]

MAX_BYTES = 2**31
"""A constant of more bytes than this is not computed."""

EVALUATED = frozenset(
    "Constant ConstantOfShape Identity Cast Reshape Transpose Unsqueeze Squeeze Flatten Concat "
    "Slice Gather Neg Add Sub Mul Div Sqrt Reciprocal Expand Range".split()
)
"""Operators that `constant` evaluates."""


def constant(value: onnx_ir.Value | None) -> Array | None:
    """The array that `value` always holds, or None where it depends on an input (or is too large,
    or made by an operator outside `EVALUATED`). A graph input with a default is not a constant.
    """
    return None if value is None else _constant(value, {})


def _constant(value: onnx_ir.Value, known: dict[onnx_ir.Value, Array | None]) -> Array | None:
    """`known` holds what has been asked for: a tensor that is read twice is computed once."""
    if value not in known:
        known[value] = _made(value, known)
    return known[value]


def _made(value: onnx_ir.Value, known: dict[onnx_ir.Value, Array | None]) -> Array | None:
    if value.is_graph_input():
        return None
    if value.const_value is not None and value.producer() is None:
        return value.const_value.numpy()
    node = value.producer()
    if node is None or node.op_type not in EVALUATED or node.domain not in ("", "ai.onnx"):
        return None
    if node.op_type == "Constant":
        try:
            tensor = onnx_ir.convenience.get_const_tensor(value)
        except UnicodeEncodeError:  # onnx_ir reads `value_strings` as ASCII
            return None
        return None if tensor is None else tensor.numpy()
    arguments: list[Array | None] = []
    for source in node.inputs:
        array = None if source is None else _constant(source, known)
        if source is not None and array is None:
            return None
        arguments.append(array)
    return _evaluate(node, arguments)


def scalar(value: onnx_ir.Value | None) -> float | None:
    """The number in a constant of one element, or None."""
    array = constant(value)
    return float(array.reshape(-1)[0]) if array is not None and array.size == 1 else None


def _too_large(shape: Array | None) -> bool:
    return shape is not None and math.prod(map(int, shape)) * 8 > MAX_BYTES


def _grows_too_large(op_type: str, arrays: list[Array]) -> bool:
    """Whether an operator that may make more than it reads makes more than `MAX_BYTES`."""
    if op_type == "Gather" and len(arrays) == 2:
        elements = arrays[0].size * arrays[1].size // max(1, min(arrays[0].shape, default=1))
    elif op_type == "Concat":
        elements = sum(array.size for array in arrays)
    elif op_type in ("Add", "Sub", "Mul", "Div"):
        try:
            elements = math.prod(np.broadcast_shapes(*(array.shape for array in arrays)))
        except ValueError:
            return False  # the evaluator will refuse it
    else:
        return False
    return elements * arrays[0].itemsize > MAX_BYTES


def _evaluate(node: onnx_ir.Node, arguments: list[Array | None]) -> Array | None:
    first = arguments[0]
    if node.op_type == "ConstantOfShape" and first is not None:
        fill = node.attributes.get_tensor("value")
        dtype = np.dtype(np.float32) if fill is None else fill.dtype.numpy()
        if math.prod(map(int, first)) * dtype.itemsize > MAX_BYTES or (first < 0).any():
            return None
        content = 0 if fill is None else fill.numpy().reshape(-1)[0]
        return np.full(tuple(map(int, first)), content, dtype)
    if node.op_type == "Expand" and _too_large(arguments[1]):
        return None
    if node.op_type == "Range":
        start, limit, delta = (a.item() if a is not None and a.size == 1 else 0 for a in arguments)
        if not delta or (limit - start) / delta * 8 > MAX_BYTES:
            return None
    if _grows_too_large(node.op_type, [a for a in arguments if a is not None]):
        return None
    from onnx.reference import ReferenceEvaluator

    proto = onnx_ir.to_proto(node)
    names = [name for name in proto.input if name]
    graph = onnx.helper.make_graph(
        [proto],
        "constant",
        [onnx.helper.make_value_info(name, onnx.TypeProto()) for name in names],
        [onnx.helper.make_value_info(name, onnx.TypeProto()) for name in proto.output],
    )
    imports = node.graph.opset_imports if node.graph else {}
    opset = node.version or imports.get("", imports.get("ai.onnx", 13))
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
    feeds: dict[str, Any] = {
        str(source.name): array
        for source, array in zip(node.inputs, arguments, strict=True)
        if source is not None and source.name
    }
    try:
        (result,) = ReferenceEvaluator(model).run(None, feeds)
        return np.asarray(result)
    except Exception:  # the reference evaluator raises what numpy raises: not a constant we know
        return None
