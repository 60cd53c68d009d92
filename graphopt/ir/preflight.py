"""Guards around `onnx_ir`: what must be checked or set aside before a protobuf becomes a graph.

`onnx_ir` keeps nearly everything of a model. What it drops (sparse initializers, training info,
annotations and shapes of tensors that no node makes) is put into a `Sidecar` here and put back on
the way out; what it would crash on is refused with one sentence. A model file is untrusted: sizes
are compared before anything is allocated, and external data may not leave the model's folder.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
import onnx
from google.protobuf.message import Message

from graphopt.errors import ModelError

_M = TypeVar("_M", bound=Message)

MAX_DENSE_ELEMENTS = 2**28
"""A sparse tensor with more elements than this when dense is refused (1 GiB of float32)."""

FIRST_WITH_FREE_WEIGHTS = 4
"""First IR version in which a weight need not be a graph input as well."""


@dataclass
class Sidecar:
    """What a model holds that `onnx_ir` has no place for, kept until the model is written.

    Attributes:
        sparse: sparse initializers by tensor name, with the dense tensor that stands for each.
        sparse_constants: nodes with `sparse_value`, by the name of their output.
        training_info: the model's training graphs, untouched.
        value_info: shapes of tensors that no node of the main graph produces.
        annotations: quantization annotations of such tensors.
        initializer_info: names of the initializers that had a `value_info` entry of their own.
        weight_inputs: the weights among the graph inputs of a model of IR version 3 or less, where
            every weight must be listed there; None for later versions.
    """

    sparse: dict[str, onnx.SparseTensorProto] = field(default_factory=dict)
    sparse_constants: dict[str, onnx.NodeProto] = field(default_factory=dict)
    training_info: list[onnx.TrainingInfoProto] = field(default_factory=list)
    value_info: list[onnx.ValueInfoProto] = field(default_factory=list)
    annotations: list[onnx.TensorAnnotation] = field(default_factory=list)
    initializer_info: frozenset[str] = frozenset()
    weight_inputs: list[onnx.ValueInfoProto] | None = None


def check(proto: onnx.ModelProto, label: str, folder: Path | None) -> None:
    """Refuses what cannot be handled.

    Args:
        proto: the model, external data not loaded.
        label: how error messages call the model (usually its path).
        folder: the folder that external data must stay in; None for a model in memory.

    Raises:
        ModelError: with the cure.
    """
    if not proto.HasField("graph") or not (proto.graph.node or proto.graph.output):
        raise ModelError(f"{label} holds no ONNX graph: check that it is the right file.")
    if not proto.opset_import:
        raise ModelError(
            f"{label} names no opset (it predates ONNX 1.0): export it again, or set the opset "
            "with onnx.helper.make_opsetid and onnx.version_converter."
        )
    for info in (*proto.graph.input, *proto.graph.output):
        if info.type.WhichOneof("value") == "map_type":
            raise ModelError(
                f"{label}: tensor '{info.name}' is a map, which graphopt does not handle: cut the "
                "classical machine-learning part (ai.onnx.ml) off the model first."
            )
    for tensor in _tensors(proto.graph):
        _check_tensor(tensor, label, folder)


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield sparse.values
        yield sparse.indices
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            if attribute.HasField("g"):
                yield from _tensors(attribute.g)
            for subgraph in attribute.graphs:
                yield from _tensors(subgraph)


def _check_tensor(tensor: onnx.TensorProto, label: str, folder: Path | None) -> None:
    name = tensor.name or "a constant"
    if any(dim < 0 for dim in tensor.dims):
        raise ModelError(f"{label}: weight '{name}' has a negative dimension {list(tensor.dims)}.")
    expected = _stored_bytes(tensor)
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        _check_external(tensor, name, label, folder, expected)
    elif tensor.HasField("raw_data") and expected not in (None, len(tensor.raw_data)):
        raise ModelError(
            f"{label}: weight '{name}' holds {len(tensor.raw_data)} bytes where its shape "
            f"{list(tensor.dims)} needs {expected}: the file is damaged, export it again."
        )


def _stored_bytes(tensor: onnx.TensorProto) -> int | None:
    """Bytes that the tensor's shape and type need, or None where the type has no fixed width."""
    import onnx_ir

    try:
        bits: int = onnx_ir.DataType(tensor.data_type).bitwidth
    except (ValueError, TypeError):
        return None
    size: int = (math.prod(tensor.dims) * bits + 7) // 8
    return size


def _check_external(
    tensor: onnx.TensorProto, name: str, label: str, folder: Path | None, expected: int | None
) -> None:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    if folder is None:
        raise ModelError(
            f"{label}: weight '{name}' lies in an external file '{location}', but the model came "
            "without a folder: load it from its path instead."
        )
    root = folder.resolve()
    path = root / location
    if not location or os.path.isabs(location) or not path.resolve().is_relative_to(root):
        raise ModelError(
            f"{label}: weight '{name}' points to '{location}', outside the model's folder: move "
            "the data file beside the model and export it again."
        )
    if not path.is_file():
        raise ModelError(
            f"{label}: weight '{name}' needs the file '{location}', which is not there: put the "
            f"model's external data into {folder}."
        )
    try:
        offset = int(entries.get("offset", "0"))
        length = int(entries.get("length", str(expected or 0)))
    except ValueError:
        raise ModelError(
            f"{label}: weight '{name}' has an external offset or length that is not a number: "
            "export the model again."
        ) from None
    size = path.stat().st_size
    if offset < 0 or length < 0 or offset + max(length, expected or 0) > size:
        raise ModelError(
            f"{label}: weight '{name}' reaches beyond the end of '{location}' "
            f"({size} bytes): the data file is cut short, copy it again."
        )


def set_aside(proto: onnx.ModelProto, label: str) -> Sidecar:
    """Takes out of `proto` (in place) what `onnx_ir` would drop or crash on.

    Raises:
        ModelError: a sparse tensor is malformed or too large when dense.
    """
    graph = proto.graph
    made = {name for node in graph.node for name in node.output}
    made |= {info.name for info in graph.input}
    initializers = {tensor.name for tensor in graph.initializer}
    sidecar = Sidecar(
        training_info=[_copy(info) for info in proto.training_info],
        initializer_info=frozenset(
            info.name for info in graph.value_info if info.name in initializers
        ),
    )
    del proto.training_info[:]
    if proto.ir_version < FIRST_WITH_FREE_WEIGHTS:
        listed = [info for info in graph.input if info.name in initializers]
        sidecar.weight_inputs = [_copy(info) for info in listed]
        for info in listed:
            graph.input.remove(info)
    for sparse in graph.sparse_initializer:
        sidecar.sparse[sparse.values.name] = _copy(sparse)
        graph.initializer.append(_densified(sparse, label))
    del graph.sparse_initializer[:]
    for node in graph.node:
        if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
            for attribute in node.attribute:
                if attribute.name == "sparse_value":
                    sidecar.sparse_constants[node.output[0]] = _copy(node)
                    dense = _densified(attribute.sparse_tensor, label)
                    attribute.CopyFrom(onnx.helper.make_attribute("value", dense))
    known = made | initializers | set(sidecar.sparse)
    sidecar.value_info = [_copy(info) for info in graph.value_info if info.name not in known]
    sidecar.annotations = [
        _copy(note) for note in graph.quantization_annotation if note.tensor_name not in known
    ]
    return sidecar


def put_back(proto: onnx.ModelProto, sidecar: Sidecar) -> None:
    """The inverse of `set_aside`, for what the passes have left unchanged."""
    graph = proto.graph
    initializers = {tensor.name: tensor for tensor in graph.initializer}
    extra_info = [
        info
        for info in graph.value_info
        if info.name in initializers and info.name not in sidecar.initializer_info
    ]
    for info in extra_info:
        graph.value_info.remove(info)
    if sidecar.weight_inputs is not None:
        _list_weights(graph, sidecar.weight_inputs)
    for name, sparse in sidecar.sparse.items():
        tensor = initializers.get(name)
        if tensor is not None and _same_values(tensor, _densified(sparse, name)):
            graph.initializer.remove(tensor)
            graph.sparse_initializer.append(sparse)
    for node in graph.node:
        original = sidecar.sparse_constants.get(node.output[0]) if len(node.output) else None
        if original is not None and node.op_type == "Constant":
            node.CopyFrom(original)
    proto.training_info.extend(sidecar.training_info)
    present = {info.name for info in graph.value_info}
    graph.value_info.extend(info for info in sidecar.value_info if info.name not in present)
    annotated = {note.tensor_name for note in graph.quantization_annotation}
    graph.quantization_annotation.extend(
        note for note in sidecar.annotations if note.tensor_name not in annotated
    )


def _list_weights(graph: onnx.GraphProto, listed: list[onnx.ValueInfoProto]) -> None:
    """Lists every weight among the inputs: those that were, then the new ones."""
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    known = {info.name for info in listed} | {info.name for info in graph.input}
    graph.input.extend(info for info in listed if info.name in tensors)
    for name, tensor in tensors.items():
        if name not in known:
            graph.input.append(
                onnx.helper.make_tensor_value_info(name, tensor.data_type, list(tensor.dims))
            )


def _copy(message: _M) -> _M:
    copy: _M = type(message)()
    copy.CopyFrom(message)
    return copy


def _densified(sparse: onnx.SparseTensorProto, label: str) -> onnx.TensorProto:
    shape = tuple(sparse.dims)
    name = sparse.values.name
    if math.prod(shape) > MAX_DENSE_ELEMENTS:
        raise ModelError(
            f"{label}: the sparse weight '{name}' of shape {list(shape)} is too large to be made "
            "dense: split it, or store it dense."
        )
    try:
        values = onnx.numpy_helper.to_array(sparse.values)
        indices = onnx.numpy_helper.to_array(sparse.indices).astype(np.int64)
        dense = np.zeros(shape, values.dtype)
        if indices.ndim == 2:
            dense[tuple(indices.T)] = values
        else:
            dense.reshape(-1)[indices] = values
    except (ValueError, IndexError) as error:
        raise ModelError(f"{label}: the sparse weight '{name}' is malformed: {error}.") from error
    return onnx.numpy_helper.from_array(dense, name)


def _same_values(tensor: onnx.TensorProto, dense: onnx.TensorProto) -> bool:
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        return False
    return bool(
        np.array_equal(onnx.numpy_helper.to_array(tensor), onnx.numpy_helper.to_array(dense))
    )
