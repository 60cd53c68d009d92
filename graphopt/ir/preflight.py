"""Guards around `onnx_ir`: what must be checked or set aside before a protobuf becomes a graph.

`onnx_ir` keeps nearly everything of a model. What it drops (sparse initializers, training info,
annotations and shapes of tensors that no node makes, ...) is put into a `Sidecar` here and put
back on the way out; what it would crash on is refused with one sentence. A model file is untrusted:
sizes are compared before anything is allocated, external data may not leave the model's folder, and
functions that call themselves, on which onnx's own shape inference crashes, are refused.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np
import onnx
from google.protobuf.message import Message

from graphopt.errors import ModelError

_M = TypeVar("_M", bound=Message)

MAX_DENSE_ELEMENTS = 2**28
"""Sparse tensors with more elements than this when dense, all together, are refused (1 GiB of
float32)."""

MAX_ELEMENTS = 2**46
"""A tensor of more elements than this is refused, whatever its file holds."""

MAX_NODES = 10_000_000
"""A model with more nodes than this, function calls counted with their bodies, is refused."""

MAX_CALL_DEPTH = 64
"""Function calls nested deeper than this are refused."""

FIRST_WITH_FREE_WEIGHTS = 4
"""First IR version in which a weight need not be a graph input as well."""

FIRST_WITH_FUNCTION_SHAPES = 10
"""First IR version in which a function has shapes of its own; `onnx_ir` keeps those of earlier ones
in the main graph, as the dynamo exporter did."""

Place: TypeAlias = tuple[str, ...]
"""Where a graph is: () for the main graph; for a subgraph the place of its node's graph, the node's
first output, the attribute and the index in it; a function starts with "function" and its key."""


@dataclass
class GraphNotes:
    """What one graph or function body holds that `onnx_ir` has no place for.

    Attributes:
        sparse: sparse initializers by tensor name.
        sparse_constants: nodes with `sparse_value`, by the name of their output.
        value_info: entries of tensors that nothing in the graph defines, of types that `onnx_ir`
            does not have, and of the inputs of a function.
        annotations: quantization annotations of tensors that nothing in the graph defines.
        initializer_info: names of the initializers that had a `value_info` entry of their own.
        both_ends: inputs and outputs, in order, of a graph that lists a tensor more than once.
    """

    sparse: dict[str, onnx.SparseTensorProto] = field(default_factory=dict)
    sparse_constants: dict[str, onnx.NodeProto] = field(default_factory=dict)
    value_info: list[onnx.ValueInfoProto] = field(default_factory=list)
    annotations: list[onnx.TensorAnnotation] = field(default_factory=list)
    initializer_info: frozenset[str] = frozenset()
    both_ends: tuple[list[onnx.ValueInfoProto], list[onnx.ValueInfoProto]] | None = None


@dataclass
class Sidecar:
    """What a model holds that `onnx_ir` has no place for, kept until the model is written.

    Attributes:
        notes: by the place of the graph or function body.
        training_info: the model's training graphs, untouched.
        checksums: `checksum` entries of external tensors, by location, offset and length.
        inputs: the inputs of a model of IR version 3 or less, where every weight must be listed
            among them; None for later versions, whose listed weights are inputs with a default.
    """

    notes: dict[Place, GraphNotes] = field(default_factory=dict)
    training_info: list[onnx.TrainingInfoProto] = field(default_factory=list)
    checksums: dict[tuple[str | None, ...], str] = field(default_factory=dict)
    inputs: list[onnx.ValueInfoProto] | None = None


def shown(name: object) -> str:
    """A name from a model as an error message may show it: short, and without line breaks."""
    text = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in str(name))
    return text if len(text) <= 120 else text[:117] + "..."


# Checks -------------------------------------------------------------------------------------


def check(proto: onnx.ModelProto, label: str, folder: Path | None) -> None:
    """Refuses what cannot be handled.

    Args:
        proto: the model, external data not loaded.
        label: how error messages call the model (usually its path).
        folder: the folder that external data must stay in; None for a model in memory.

    Raises:
        ModelError: with the cure.
    """
    _check_text(proto, label)
    if not proto.HasField("graph") or not (proto.graph.node or proto.graph.output):
        raise ModelError(f"{label} holds no ONNX graph: check that it is the right file.")
    if not proto.opset_import:
        raise ModelError(
            f"{label} names no opset (it predates ONNX 1.0): export it again, or set the opset "
            "with onnx.helper.make_opsetid and onnx.version_converter."
        )
    if not proto.graph.output:
        raise ModelError(f"{label} has no outputs, so it computes nothing: export it again.")
    for info in (*proto.graph.input, *proto.graph.output):
        if _kinds(info.type) & _NO_TYPE:
            raise ModelError(
                f"{label}: tensor '{shown(info.name)}' is a map, which graphopt does not handle: "
                "cut the classical machine-learning part (ai.onnx.ml) off the model first."
            )
    _check_names(proto.graph, label)
    _check_functions(proto, label)
    for nodes in (proto.graph.node, *(function.node for function in proto.functions)):
        for node in _walk(nodes):
            _check_attributes(node, label)
    for tensor in _tensors(proto):
        _check_tensor(tensor, label, folder)
    for sparse in _sparse_tensors(proto):
        _check_sparse(sparse, label)


def _check_text(proto: onnx.ModelProto, label: str) -> None:
    """Refuses text that is not UTF-8, which protobuf hands out as bytes."""
    for message in _messages(proto):
        for name in _text_fields(message):
            content = getattr(message, name)
            if isinstance(content, bytes) or (
                not isinstance(content, str) and any(isinstance(item, bytes) for item in content)
            ):
                raise ModelError(
                    f"{label} holds a name or text that is not UTF-8 (field '{name}' of a "
                    f"{type(message).__name__}): the file is damaged, copy or export it again."
                )


def _check_names(graph: onnx.GraphProto, label: str) -> None:
    """Refuses a tensor that is defined twice: onnx_ir would keep one of the two."""
    lists = {
        "is listed twice among the inputs": [info.name for info in graph.input],
        "is given twice as a weight": [*(t.name for t in graph.initializer), *_sparse_names(graph)],
        "is made twice": [name for node in graph.node for name in node.output if name],
    }
    for what, names in lists.items():
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ModelError(
                f"{label}: the tensor '{shown(twice)}' {what}: the graph is damaged, export it "
                "again."
            )
    inputs, weights, made = map(set, lists.values())
    if "" in inputs | weights:
        raise ModelError(f"{label}: an input or a weight has no name: export the model again.")
    for name in made & (inputs | weights):
        raise ModelError(
            f"{label}: the tensor '{shown(name)}' is made by a node and given as "
            f"{'an input' if name in inputs else 'a weight'} as well: the graph is damaged, export "
            "it again."
        )
    for node in graph.node:
        for attribute in node.attribute:
            for inner in _subgraphs(attribute):
                _check_names(inner, label)


def _check_functions(proto: onnx.ModelProto, label: str) -> None:
    """Refuses functions that call themselves and calls that unfold into too many nodes."""
    functions = {_function_key(function): function for function in proto.functions}
    if len(functions) < len(proto.functions):
        raise ModelError(f"{label} defines a function twice: export the model again.")
    sizes: dict[Place, int] = {}
    open_calls: list[Place] = []

    def size(nodes: Iterable[onnx.NodeProto]) -> int:
        total = 0
        for node in _walk(nodes):
            key = ("function", node.domain, node.op_type, node.overload)
            if key in open_calls:
                raise ModelError(
                    f"{label}: the function '{shown(node.op_type)}' calls itself, which ONNX does "
                    "not allow: export the model again."
                )
            if len(open_calls) > MAX_CALL_DEPTH:
                raise ModelError(
                    f"{label}: function calls are nested more than {MAX_CALL_DEPTH} deep: export "
                    "the model without functions that call functions."
                )
            if key in functions and key not in sizes:
                open_calls.append(key)
                sizes[key] = size(functions[key].node)
                open_calls.pop()
            total += 1 + sizes.get(key, 0)
        return total

    for key, function in functions.items():
        open_calls.append(key)
        size(function.node)
        open_calls.pop()
    if size(proto.graph.node) > MAX_NODES:
        raise ModelError(
            f"{label} unfolds into more than {MAX_NODES:,} nodes: export it without functions that "
            "call functions."
        )


def _check_attributes(node: onnx.NodeProto, label: str) -> None:
    kinds = onnx.AttributeProto
    for attribute in node.attribute:
        what = f"{label}: attribute '{shown(attribute.name)}' of node '{shown(_label(node))}'"
        if (
            attribute.type == kinds.UNDEFINED
            and not attribute.ref_attr_name
            and _kind_of(attribute) is None
        ):
            raise ModelError(f"{what} has no type: export the model again.")
        if attribute.type in _CONTENT and not (
            attribute.ref_attr_name or attribute.HasField(_CONTENT[attribute.type])
        ):
            raise ModelError(f"{what} has no content: the file is damaged, export it again.")
        sparse = attribute.HasField("sparse_tensor") or attribute.sparse_tensors
        if sparse and not (_is_constant(node) and attribute.name == "sparse_value"):
            raise ModelError(
                f"{what} is a sparse tensor, which graphopt handles only in a Constant: store it "
                "dense."
            )
        for inner in (attribute.tp, *attribute.type_protos):
            if _kinds(inner) & _NO_TYPE:
                raise ModelError(
                    f"{what} is a type that graphopt does not handle: cut the classical "
                    "machine-learning part (ai.onnx.ml) off the model first."
                )


_KIND_BY_FIELD = {
    "f": "FLOAT",
    "i": "INT",
    "s": "STRING",
    "t": "TENSOR",
    "g": "GRAPH",
    "tp": "TYPE_PROTO",
    "sparse_tensor": "SPARSE_TENSOR",
    "floats": "FLOATS",
    "ints": "INTS",
    "strings": "STRINGS",
    "tensors": "TENSORS",
    "graphs": "GRAPHS",
    "type_protos": "TYPE_PROTOS",
}


_CONTENT: dict[int, str] = {
    onnx.AttributeProto.TENSOR: "t",
    onnx.AttributeProto.GRAPH: "g",
    onnx.AttributeProto.SPARSE_TENSOR: "sparse_tensor",
}
"""Fields of the attributes that have no default."""


def _kind_of(attribute: onnx.AttributeProto) -> int | None:
    """The type that the content of an attribute tells, for models that do not state it."""
    present = {descriptor.name for descriptor, _ in attribute.ListFields()} & set(_KIND_BY_FIELD)
    if len(present) != 1:
        return None
    kind: int = onnx.AttributeProto.AttributeType.Value(_KIND_BY_FIELD[present.pop()])
    return kind


def _check_tensor(tensor: onnx.TensorProto, label: str, folder: Path | None) -> None:
    name = shown(tensor.name) or "a constant"
    if any(dim < 0 for dim in tensor.dims):
        raise ModelError(
            f"{label}: weight '{name}' has a negative dimension in {_shape(tensor.dims)}: the file "
            "is damaged, export it again."
        )
    if math.prod(max(dim, 1) for dim in tensor.dims) > MAX_ELEMENTS:
        raise ModelError(
            f"{label}: weight '{name}' of shape {_shape(tensor.dims)} is too large for any "
            "machine: the file is damaged, export it again."
        )
    if _bits(tensor.data_type) is None and tensor.data_type != onnx.TensorProto.STRING:
        raise ModelError(
            f"{label}: weight '{name}' has the element type {tensor.data_type}, which graphopt "
            "does not know: export the model again."
        )
    expected = _stored_bytes(tensor)
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        _check_external(tensor, name, label, folder, expected)
        return
    if tensor.HasField("raw_data"):
        held, needed, unit = len(tensor.raw_data), expected or 0, "bytes"
    else:
        held, needed, unit = _entries(tensor)
    if held != needed:
        raise ModelError(
            f"{label}: weight '{name}' holds {held} {unit} where its shape {_shape(tensor.dims)} "
            f"needs {needed}: the file is damaged, export it again."
        )


def _shape(dims: Iterable[int]) -> str:
    return shown(list(dims))


def _bits(data_type: int) -> int | None:
    """Bits of one element, or None where the type has no fixed width."""
    import onnx_ir

    try:
        return onnx_ir.DataType(data_type).bitwidth
    except (ValueError, TypeError):
        return None


def _stored_bytes(tensor: onnx.TensorProto) -> int | None:
    """Bytes that the tensor's shape and type need, or None where the type has no fixed width."""
    bits = _bits(tensor.data_type)
    return None if bits is None else (math.prod(tensor.dims) * bits + 7) // 8


def _entries(tensor: onnx.TensorProto) -> tuple[int, int, str]:
    """Entries in the typed field of a tensor, how many its shape needs, and the field's name."""
    name = _FIELD.get(tensor.data_type, "int32_data")
    elements = math.prod(tensor.dims)
    if tensor.data_type in (onnx.TensorProto.COMPLEX64, onnx.TensorProto.COMPLEX128):
        elements *= 2
    bits = _bits(tensor.data_type)
    if name == "int32_data" and bits in (2, 4):
        elements = (elements * bits + 7) // 8
    return len(getattr(tensor, name)), elements, f"entries in {name}"


_FIELD: dict[int, str] = {
    onnx.TensorProto.FLOAT: "float_data",
    onnx.TensorProto.COMPLEX64: "float_data",
    onnx.TensorProto.DOUBLE: "double_data",
    onnx.TensorProto.COMPLEX128: "double_data",
    onnx.TensorProto.INT64: "int64_data",
    onnx.TensorProto.UINT32: "uint64_data",
    onnx.TensorProto.UINT64: "uint64_data",
    onnx.TensorProto.STRING: "string_data",
}
"""Typed field of each element type that is not kept in `int32_data`."""


def _check_external(
    tensor: onnx.TensorProto, name: str, label: str, folder: Path | None, expected: int | None
) -> None:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    where = shown(location)
    if expected is None:
        raise ModelError(
            f"{label}: weight '{name}' holds text in an external file, which ONNX does not allow: "
            "export the model again."
        )
    if folder is None:
        raise ModelError(
            f"{label}: weight '{name}' lies in an external file '{where}', but the model came "
            "without a folder: load it from its path instead."
        )
    root = folder.resolve()
    try:
        path = (root / location).resolve()
        inside = bool(location) and not os.path.isabs(location) and path.is_relative_to(root)
        is_file = inside and path.is_file()
        status = path.stat() if is_file else None
    except (OSError, ValueError, RuntimeError):  # a loop of links, an impossible name
        inside, status = True, None
    if not inside:
        raise ModelError(
            f"{label}: weight '{name}' points to '{where}', outside the model's folder: move "
            "the data file beside the model and export it again."
        )
    if status is None:
        raise ModelError(
            f"{label}: weight '{name}' needs the file '{where}', which is not there: put the "
            f"model's external data into {folder}."
        )
    if status.st_nlink > 1:
        raise ModelError(
            f"{label}: weight '{name}' lies in '{where}', a file with several hard links, which "
            "may be another program's: make it a copy of its own."
        )
    try:
        offset = int(entries.get("offset", "0"))
        length = int(entries.get("length", str(expected)))
    except ValueError:
        raise ModelError(
            f"{label}: weight '{name}' has an external offset or length that is not a number: "
            "export the model again."
        ) from None
    if "length" in entries and length != expected:
        raise ModelError(
            f"{label}: weight '{name}' has {length} bytes in '{where}' where its shape "
            f"{_shape(tensor.dims)} needs {expected}: export the model again."
        )
    if offset < 0 or offset + expected > status.st_size:
        raise ModelError(
            f"{label}: weight '{name}' reaches beyond the end of '{where}' "
            f"({status.st_size} bytes): the data file is cut short, copy it again."
        )


def _check_sparse(sparse: onnx.SparseTensorProto, label: str) -> None:
    name = shown(sparse.values.name) or "a constant"
    for part in (sparse.values, sparse.indices):
        if part.data_location == onnx.TensorProto.EXTERNAL:
            raise ModelError(
                f"{label}: the sparse weight '{name}' lies in an external file, which graphopt "
                "does not handle: store it dense."
            )
    if sparse.indices.data_type != onnx.TensorProto.INT64:
        raise ModelError(
            f"{label}: the indices of the sparse weight '{name}' are not int64: export the model "
            "again."
        )


# Setting aside and putting back -------------------------------------------------------------


def set_aside(proto: onnx.ModelProto, label: str) -> Sidecar:
    """Takes out of `proto` (in place) what `onnx_ir` would drop or crash on.

    Raises:
        ModelError: a sparse tensor is malformed or too large when dense.
    """
    sparse = sum(math.prod(max(d, 0) for d in tensor.dims) for tensor in _sparse_tensors(proto))
    if sparse > MAX_DENSE_ELEMENTS:
        raise ModelError(
            f"{label} holds sparse weights that are too large to be made dense ({sparse:,} "
            "elements): store them dense."
        )
    sidecar = Sidecar(training_info=[_copy(info) for info in proto.training_info])
    del proto.training_info[:]
    if proto.ir_version < FIRST_WITH_FREE_WEIGHTS:
        weights = {tensor.name for tensor in proto.graph.initializer}
        weights.update(_sparse_names(proto.graph))
        sidecar.inputs = [_copy(info) for info in proto.graph.input]
        _keep(proto.graph.input, lambda info: info.name not in weights)
    for tensor in _tensors(proto):
        for entry in tensor.external_data:
            if entry.key == "checksum":
                sidecar.checksums[_external_key(tensor)] = entry.value
    _set_aside_graph(proto.graph, (), sidecar, label)
    for function in proto.functions:
        place = _function_key(function)
        notes = sidecar.notes[place] = GraphNotes()
        _set_aside_nodes(function.node, place, notes, sidecar, label)
        made = {name for node in function.node for name in node.output}
        notes.value_info = [
            _copy(info)
            for info in function.value_info
            if info.name not in made or proto.ir_version < FIRST_WITH_FUNCTION_SHAPES
        ]
    return sidecar


def _set_aside_graph(graph: onnx.GraphProto, place: Place, sidecar: Sidecar, label: str) -> None:
    notes = sidecar.notes[place] = GraphNotes()
    weights = {tensor.name for tensor in graph.initializer}
    notes.initializer_info = frozenset(i.name for i in graph.value_info if i.name in weights)
    listed = [info.name for info in (*graph.input, *graph.output)]
    if len(set(listed)) < len(listed):
        notes.both_ends = ([_copy(i) for i in graph.input], [_copy(o) for o in graph.output])
    for sparse in graph.sparse_initializer:
        notes.sparse[sparse.values.name] = _copy(sparse)
        graph.initializer.append(_densified(sparse, label))
    del graph.sparse_initializer[:]
    _set_aside_nodes(graph.node, place, notes, sidecar, label)
    known = {name for node in graph.node for name in node.output} | weights | set(notes.sparse)
    known |= {info.name for info in graph.input}

    def fits(info: onnx.ValueInfoProto) -> bool:
        return info.name in known and _is_whole(info.type) and not _kinds(info.type) & _NO_TYPE

    notes.value_info = [_copy(info) for info in graph.value_info if not fits(info)]
    _keep(graph.value_info, fits)
    for info in (*graph.input, *graph.output, *graph.value_info):
        _complete(info.type)
    notes.annotations = [
        _copy(note) for note in graph.quantization_annotation if note.tensor_name not in known
    ]


def _set_aside_nodes(
    nodes: Iterable[onnx.NodeProto], place: Place, notes: GraphNotes, sidecar: Sidecar, label: str
) -> None:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.UNDEFINED:
                attribute.type = _kind_of(attribute) or onnx.AttributeProto.UNDEFINED
            if _is_constant(node) and attribute.name == "sparse_value" and node.output:
                notes.sparse_constants[node.output[0]] = _copy(node)
                dense = _densified(attribute.sparse_tensor, label)
                attribute.CopyFrom(onnx.helper.make_attribute("value", dense))
            for type_proto in (attribute.tp, *attribute.type_protos):
                _complete(type_proto)
            for index, graph in enumerate(_subgraphs(attribute)):
                inner = (*place, _label(node), attribute.name, str(index))
                _set_aside_graph(graph, inner, sidecar, label)


def put_back(proto: onnx.ModelProto, sidecar: Sidecar) -> None:
    """The inverse of `set_aside`, for what the passes have left unchanged."""
    _put_back_graph(proto.graph, (), sidecar)
    if sidecar.inputs is not None:
        _list_weights(proto.graph, sidecar.inputs)
    main = sidecar.notes.get((), GraphNotes())
    moved: set[str] = set()
    for function in proto.functions:
        place = _function_key(function)
        notes = sidecar.notes.get(place, GraphNotes())
        _put_back_nodes(function.node, place, notes, sidecar)
        present = {info.name for info in function.value_info}
        function.value_info.extend(i for i in notes.value_info if i.name not in present)
        if proto.ir_version < FIRST_WITH_FUNCTION_SHAPES:
            prefix = f"{function.domain}::{function.name}/"
            moved.update(prefix + info.name for info in notes.value_info)
    moved -= {info.name for info in main.value_info}
    _keep(proto.graph.value_info, lambda info: info.name not in moved)
    proto.training_info.extend(sidecar.training_info)
    for tensor in _tensors(proto):
        entries = {entry.key: entry.value for entry in tensor.metadata_props}
        if len(entries) < len(tensor.metadata_props):  # onnx_ir writes each of them twice
            del tensor.metadata_props[:]
            for key, value in entries.items():
                tensor.metadata_props.add(key=key, value=value)
        checksum = sidecar.checksums.get(_external_key(tensor))
        if checksum is not None and tensor.external_data:
            tensor.external_data.add(key="checksum", value=checksum)


def _put_back_graph(graph: onnx.GraphProto, place: Place, sidecar: Sidecar) -> None:
    notes = sidecar.notes.get(place, GraphNotes())
    weights = {tensor.name: tensor for tensor in graph.initializer}
    added = {name: t for name, t in weights.items() if name not in notes.initializer_info}
    _keep(graph.value_info, lambda i: i.name not in added or i != _plain_info(added[i.name]))
    for name, sparse in notes.sparse.items():
        tensor = weights.get(name)
        if tensor is not None and _same_values(tensor, _densified(sparse, name)):
            graph.initializer.remove(tensor)
            graph.sparse_initializer.append(sparse)
    _put_back_nodes(graph.node, place, notes, sidecar)
    present = {info.name for info in graph.value_info}
    graph.value_info.extend(info for info in notes.value_info if info.name not in present)
    if notes.both_ends is not None:
        _separate_ends(graph, *notes.both_ends)
    _annotate_once(graph, notes.annotations)


def _put_back_nodes(
    nodes: Iterable[onnx.NodeProto], place: Place, notes: GraphNotes, sidecar: Sidecar
) -> None:
    for node in nodes:
        original = notes.sparse_constants.get(node.output[0]) if len(node.output) else None
        if original is not None and _is_constant(node):
            node.CopyFrom(original)
        for attribute in node.attribute:
            for index, graph in enumerate(_subgraphs(attribute)):
                _put_back_graph(graph, (*place, _label(node), attribute.name, str(index)), sidecar)


def _plain_info(tensor: onnx.TensorProto) -> onnx.ValueInfoProto:
    """What `onnx_ir` writes about every weight: nothing that the weight does not say itself."""
    return onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))


def _separate_ends(
    graph: onnx.GraphProto,
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
) -> None:
    """Gives a tensor that is listed more than once the entry it had in each place: in `onnx_ir` it
    has one shape, that of its last entry.
    """
    last = {info.name: info.type for info in (*inputs, *outputs)}
    for now, was in ((graph.input, inputs), (graph.output, outputs)):
        if [info.name for info in now] == [info.name for info in was]:
            for info, original in zip(now, was, strict=True):
                if _completed(info.type) == _completed(last[info.name]):
                    info.CopyFrom(original)


def _annotate_once(graph: onnx.GraphProto, dangling: list[onnx.TensorAnnotation]) -> None:
    """Adds the annotations set aside, and keeps one for each tensor."""
    notes: dict[str, onnx.TensorAnnotation] = {}
    for note in (*graph.quantization_annotation, *dangling):
        notes.setdefault(note.tensor_name, note)
    kept = [_copy(note) for note in notes.values()]
    del graph.quantization_annotation[:]
    graph.quantization_annotation.extend(kept)


def _list_weights(graph: onnx.GraphProto, listed: list[onnx.ValueInfoProto]) -> None:
    """Lists every weight among the inputs, in the order they had; new ones come last."""
    weights = {tensor.name: tensor for tensor in graph.initializer}
    sparse = set(_sparse_names(graph))
    inputs = {info.name: _copy(info) for info in graph.input}
    merged = [
        inputs.pop(info.name) if info.name in inputs else info
        for info in listed
        if info.name in inputs or info.name in weights or info.name in sparse
    ]
    merged += inputs.values()
    known = {info.name for info in merged}
    merged += [_plain_info(tensor) for name, tensor in weights.items() if name not in known]
    del graph.input[:]
    graph.input.extend(merged)


# Sparse tensors -----------------------------------------------------------------------------


def _densified(sparse: onnx.SparseTensorProto, label: str) -> onnx.TensorProto:
    shape = tuple(sparse.dims)
    name = sparse.values.name
    try:
        values = onnx.numpy_helper.to_array(sparse.values)
        indices = onnx.numpy_helper.to_array(sparse.indices).astype(np.int64)
        if (indices < 0).any():
            raise ValueError("an index is negative")
        dense = np.zeros(shape, values.dtype)
        if indices.ndim == 2 and indices.shape != (values.size, len(shape)):
            raise ValueError(f"indices of shape {indices.shape} for {values.size} values")
        if indices.ndim == 2:
            dense[tuple(indices.T)] = values
        else:
            dense.reshape(-1)[indices] = values
        return onnx.numpy_helper.from_array(dense, name)
    except (ValueError, IndexError, TypeError, KeyError) as error:
        raise ModelError(
            f"{label}: the sparse weight '{shown(name)}' is malformed ({shown(error)}): export the "
            "model again."
        ) from error


def _same_values(tensor: onnx.TensorProto, dense: onnx.TensorProto) -> bool:
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        return False
    return (
        tensor.dims == dense.dims
        and tensor.data_type == dense.data_type
        and bool(
            onnx.numpy_helper.to_array(tensor).tobytes()
            == onnx.numpy_helper.to_array(dense).tobytes()
        )
    )


# Walking through a protobuf -----------------------------------------------------------------


def _label(node: onnx.NodeProto) -> str:
    return next((name for name in node.output if name), node.name or node.op_type)


def _is_constant(node: onnx.NodeProto) -> bool:
    return node.op_type == "Constant" and node.domain in ("", "ai.onnx")


def _function_key(function: onnx.FunctionProto) -> Place:
    return ("function", function.domain, function.name, function.overload)


def _external_key(tensor: onnx.TensorProto) -> tuple[str | None, ...]:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    return tuple(entries.get(key) for key in ("location", "offset", "length"))


def _sparse_names(graph: onnx.GraphProto) -> list[str]:
    return [tensor.values.name for tensor in graph.sparse_initializer]


def _subgraphs(attribute: onnx.AttributeProto) -> Iterator[onnx.GraphProto]:
    if attribute.HasField("g"):
        yield attribute.g
    yield from attribute.graphs


def _walk(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """The nodes and those of their subgraphs."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for graph in _subgraphs(attribute):
                yield from _walk(graph.node)


def _graphs(proto: onnx.ModelProto) -> Iterator[onnx.GraphProto]:
    yield proto.graph
    for nodes in (proto.graph.node, *(function.node for function in proto.functions)):
        for node in _walk(nodes):
            for attribute in node.attribute:
                yield from _subgraphs(attribute)


def _attributes(proto: onnx.ModelProto) -> Iterator[onnx.AttributeProto]:
    for function in proto.functions:
        yield from function.attribute_proto
    for nodes in (proto.graph.node, *(function.node for function in proto.functions)):
        for node in _walk(nodes):
            yield from node.attribute


def _sparse_tensors(proto: onnx.ModelProto) -> Iterator[onnx.SparseTensorProto]:
    for graph in _graphs(proto):
        yield from graph.sparse_initializer
    for attribute in _attributes(proto):
        if attribute.HasField("sparse_tensor"):
            yield attribute.sparse_tensor
        yield from attribute.sparse_tensors


def _tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor outside the training graphs, the parts of sparse ones included."""
    for graph in _graphs(proto):
        yield from graph.initializer
    for attribute in _attributes(proto):
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
    for sparse in _sparse_tensors(proto):
        yield sparse.values
        yield sparse.indices


def _messages(message: Message) -> Iterator[Message]:
    """A message and those inside it, except the weights' numbers and the training graphs."""
    yield message
    for name, repeated in _message_fields(message):
        if repeated:
            for inner in getattr(message, name):
                yield from _messages(inner)
        elif message.HasField(name):
            yield from _messages(getattr(message, name))


_TEXT_FIELDS: dict[str, tuple[str, ...]] = {}
_MESSAGE_FIELDS: dict[str, tuple[tuple[str, bool], ...]] = {}


def _text_fields(message: Message) -> tuple[str, ...]:
    """Names of the text fields of a message's type."""
    kind = message.DESCRIPTOR.full_name
    if kind not in _TEXT_FIELDS:
        fields = message.DESCRIPTOR.fields
        _TEXT_FIELDS[kind] = tuple(f.name for f in fields if f.type == f.TYPE_STRING)
    return _TEXT_FIELDS[kind]


def _message_fields(message: Message) -> tuple[tuple[str, bool], ...]:
    """Names of the fields of a message's type that hold messages, and whether they are lists."""
    kind = message.DESCRIPTOR.full_name
    if kind not in _MESSAGE_FIELDS:
        _MESSAGE_FIELDS[kind] = tuple(
            (f.name, f.is_repeated)
            for f in message.DESCRIPTOR.fields
            if f.message_type is not None and f.name != "training_info"
        )
    return _MESSAGE_FIELDS[kind]


# Types --------------------------------------------------------------------------------------

_NO_TYPE = frozenset({"map_type", "opaque_type"})
"""Kinds of types that `onnx_ir` does not have."""


def _kinds(type_proto: onnx.TypeProto) -> set[str]:
    """The kinds of a type and of the types of its elements."""
    kind = type_proto.WhichOneof("value")
    if kind in ("sequence_type", "optional_type"):
        return {kind} | _kinds(getattr(type_proto, kind).elem_type)
    return {kind} if kind else set()


def _is_whole(type_proto: onnx.TypeProto) -> bool:
    """Whether sequences and optionals say what they are of."""
    kind = type_proto.WhichOneof("value")
    if kind not in ("sequence_type", "optional_type"):
        return True
    element = getattr(type_proto, kind).elem_type
    return element.WhichOneof("value") is not None and _is_whole(element)


def _complete(type_proto: onnx.TypeProto) -> None:
    """Writes out an element type that is left out: without it `onnx_ir` drops the shape."""
    kind = type_proto.WhichOneof("value")
    if kind in ("tensor_type", "sparse_tensor_type"):
        inner: Any = getattr(type_proto, kind)
        if not inner.HasField("elem_type"):
            inner.elem_type = onnx.TensorProto.UNDEFINED
    elif kind in ("sequence_type", "optional_type"):
        _complete(getattr(type_proto, kind).elem_type)


def _completed(type_proto: onnx.TypeProto) -> onnx.TypeProto:
    copy = _copy(type_proto)
    _complete(copy)
    return copy


def _keep(messages: Any, wanted: Callable[[Any], bool]) -> None:
    """Removes from a list in a message what is not wanted."""
    kept = [_copy(message) for message in messages if wanted(message)]
    if len(kept) < len(messages):
        del messages[:]
        messages.extend(kept)


def _copy(message: _M) -> _M:
    copy: _M = type(message)()
    copy.CopyFrom(message)
    return copy
