"""graphsurgeon: its `Graph` there and back, without what graphsurgeon loses on the way.

A `Graph` has no place for quantization annotations, metadata, most doc strings, many types and
attributes, unused weights, and more. So a `Graph` made here remembers the protobuf it was made
from, and when it comes back three versions are merged, name by name: the original, what
graphsurgeon makes of the untouched original, and what it makes of the graph now. Where the latter
two agree, the original holds; where they differ, the edit holds. A copy of such a Graph
(`Graph.copy()`) has forgotten; edit the Graph itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import onnx
from google.protobuf.message import Message

from graphopt.errors import GraphoptError, ModelError

_ORIGINAL = "_graphopt_original"
"""The attribute of a `Graph` that holds the protobuf it was made from."""

FALLBACK_IR_VERSION = 10
"""IR version of a Graph that names none; a later one only where its operator sets need it."""


def to_proto(graph: Any) -> onnx.ModelProto:
    """The model in a graphsurgeon `Graph`, with all that it held before it became a Graph.

    Raises:
        ModelError: graphsurgeon cannot write this graph.
    """
    now = _written(graph)
    original = vars(graph).get(_ORIGINAL)
    if original is None:
        return now
    untouched = _written(_read(_digestible(original)))
    _merge(now, untouched, original)
    return now


def from_proto(proto: onnx.ModelProto) -> Any:
    """A graphsurgeon `Graph`. `proto` is not changed; the Graph keeps a copy of it.

    Raises:
        GraphoptError: graphsurgeon is not installed.
        ModelError: graphsurgeon cannot read this model.
    """
    original = onnx.ModelProto()
    original.CopyFrom(proto)
    graph = _read(_digestible(original))
    setattr(graph, _ORIGINAL, original)
    return graph


def _read(proto: onnx.ModelProto) -> Any:
    try:
        import onnx_graphsurgeon
    except ImportError as error:
        raise GraphoptError(
            "a graphsurgeon Graph needs the package onnx-graphsurgeon: "
            "pip install 'graphopt[graphsurgeon]'."
        ) from error
    try:
        with onnx_graphsurgeon.logger.G_LOGGER.suppress():
            return onnx_graphsurgeon.import_onnx(proto)
    except Exception as error:
        raise ModelError(f"graphsurgeon cannot read this model ({_sentence(error)}).") from error


def _written(graph: Any) -> onnx.ModelProto:
    import onnx_graphsurgeon

    try:
        with onnx_graphsurgeon.logger.G_LOGGER.suppress():
            proto: onnx.ModelProto = onnx_graphsurgeon.export_onnx(graph, do_type_check=False)
    except Exception as error:
        raise ModelError(
            f"graphsurgeon cannot write this graph ({_sentence(error)}): mend it with "
            "graph.cleanup().toposort()."
        ) from error
    if graph.ir_version is None:
        needed = onnx.helper.find_min_ir_version_for(list(proto.opset_import), ignore_unknown=True)
        proto.ir_version = max(FALLBACK_IR_VERSION, needed)
    return proto


def _sentence(error: Exception) -> str:
    return (str(error).strip() or repr(error)).splitlines()[0].rstrip(".")


# What graphsurgeon chokes on ----------------------------------------------------------------

_KINDS = frozenset({"FLOAT", "INT", "STRING", "TENSOR", "GRAPH", "FLOATS", "INTS", "STRINGS"})
"""Kinds of attributes that graphsurgeon has."""


def _digestible(original: onnx.ModelProto) -> onnx.ModelProto:
    """A copy without the attributes and types that graphsurgeon drops aloud or crashes on."""
    proto = onnx.ModelProto()
    proto.CopyFrom(original)
    _strip_graph(proto.graph)
    for function in proto.functions:
        _strip_nodes(function.node)
    return proto


def _strip_graph(graph: onnx.GraphProto) -> None:
    for info in (*graph.input, *graph.output, *graph.value_info):
        kind = info.type.WhichOneof("value")
        element = info.type.sequence_type.elem_type if kind == "sequence_type" else None
        if kind not in (None, "tensor_type", "sparse_tensor_type", "sequence_type") or (
            element is not None and not element.HasField("tensor_type")
        ):
            info.ClearField("type")
    _strip_nodes(graph.node)


def _strip_nodes(nodes: Any) -> None:
    for node in nodes:
        for attribute in [a for a in node.attribute if not _holds(a)]:
            node.attribute.remove(attribute)
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _strip_graph(attribute.g)


def _holds(attribute: onnx.AttributeProto) -> bool:
    """Whether graphsurgeon can hold the attribute."""
    kind = onnx.AttributeProto.AttributeType.Name(attribute.type)
    if attribute.ref_attr_name:
        return kind in _KINDS
    if kind == "STRING":
        return _is_text(attribute.s)
    if kind == "STRINGS":
        return bool(attribute.strings) and all(map(_is_text, attribute.strings))
    return kind in _KINDS and (kind not in ("FLOATS", "INTS") or any(_lists(attribute)))


def _lists(attribute: onnx.AttributeProto) -> Iterator[bool]:
    yield from (bool(attribute.floats), bool(attribute.ints))


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


# The three-way merge ------------------------------------------------------------------------


def _merge(now: Message, untouched: Message, original: Message) -> None:
    """Makes `now` (in place) the original with the edits that lead from `untouched` to `now`."""
    if now == untouched:
        now.CopyFrom(original)
        return
    if isinstance(now, onnx.TensorProto):
        _merge_tensor(now, original)
        return
    if isinstance(now, onnx.TypeProto):
        return
    if isinstance(now, onnx.NodeProto) and _operator(now) != _operator(untouched):
        return
    given = {info.name for info in now.input} if isinstance(now, onnx.GraphProto) else set()
    for field in now.DESCRIPTOR.fields:
        name = field.name
        old, new, was = (getattr(message, name) for message in (untouched, now, original))
        if field.is_repeated:
            if list(new) == list(old):
                now.ClearField(name)
                getattr(now, name).extend(was)
            elif field.message_type is not None and len(new) + len(old) and _key((*new, *old)[0]):
                merged = _merged_list(new, old, was)
                now.ClearField(name)
                getattr(now, name).extend(merged)
        elif now.HasField(name) == untouched.HasField(name) and new == old:
            now.ClearField(name)
            if original.HasField(name):
                if field.message_type is not None:
                    getattr(now, name).CopyFrom(was)
                else:
                    setattr(now, name, was)
        elif field.message_type is not None and now.HasField(name) and original.HasField(name):
            _merge(new, old, was)
    if isinstance(now, onnx.GraphProto) and isinstance(original, onnx.GraphProto):
        _prune(now, original, given)


def _operator(node: Message) -> tuple[str, str]:
    assert isinstance(node, onnx.NodeProto)
    return node.domain, node.op_type


def _merge_tensor(now: onnx.TensorProto, original: Message) -> None:
    """Keeps the original encoding where graphsurgeon has only read the values."""
    assert isinstance(original, onnx.TensorProto)
    if now.dims == original.dims and now.data_type == original.data_type:
        try:
            arrays = [onnx.numpy_helper.to_array(tensor) for tensor in (now, original)]
        except Exception:  # external, or an encoding that onnx does not read: the edit holds
            arrays = []
        if arrays and arrays[0].tobytes() == arrays[1].tobytes():
            now.CopyFrom(original)
    now.doc_string = original.doc_string
    del now.metadata_props[:]
    now.metadata_props.extend(original.metadata_props)


def _key(message: Message) -> tuple[tuple[object, ...], ...]:
    """What a message in a list is known by, best first; empty for messages without a name."""
    match message:
        case onnx.NodeProto():
            outputs = tuple(filter(None, message.output))
            keys = [("outputs", *outputs)] if outputs else []
            return (*keys, ("name", message.name)) if message.name else tuple(keys) or (("",),)
        case onnx.SparseTensorProto():
            return (("", message.values.name),)
        case onnx.OperatorSetIdProto():
            return (("", message.domain.removeprefix("ai.onnx") and message.domain),)
        case onnx.FunctionProto():
            return (("", message.domain, message.name),)
        case onnx.TensorProto() | onnx.ValueInfoProto() | onnx.AttributeProto():
            return (("", message.name),)
        case _:
            return ()


def _merged_list(new: Any, old: Any, was: Any) -> list[Message]:
    """The merge of a list of named messages, in the order of `new`; what graphsurgeon could not
    hold follows the neighbour it had.
    """
    old_at, was_at = _Index(old), _Index(was)
    merged: list[Message] = []
    place_of: dict[int, int] = {}
    for message in new:
        before = old_at.take(message)
        first = was_at.take(message)
        if before is not None and first is None:
            if message != before:
                merged.append(message)
            continue
        copy = type(message)()
        copy.CopyFrom(message)
        if before is not None and first is not None:
            _merge(copy, before, first)
            place_of[id(copy)] = was_at.position(first)
        merged.append(copy)
    held = _Index(old)
    lost = [message for message in was if held.take(message) is None]
    for message in lost:
        position = was_at.position(message)
        index = next(
            (
                i + 1
                for i in range(len(merged) - 1, -1, -1)
                if place_of.get(id(merged[i]), position) < position
            ),
            0,
        )
        copy = type(message)()
        copy.CopyFrom(message)
        place_of[id(copy)] = position
        merged.insert(index, copy)
    return merged


class _Index:
    """Messages by their keys; each is given out once, so that equal keys meet in order."""

    def __init__(self, messages: Any) -> None:
        self._messages = list(messages)
        self._free = dict.fromkeys(range(len(self._messages)))
        self._at: dict[tuple[object, ...], list[int]] = {}
        for index, message in enumerate(self._messages):
            for key in _key(message):
                self._at.setdefault(key, []).append(index)

    def take(self, message: Message) -> Message | None:
        """The next free message that shares a key with `message`."""
        for key in _key(message):
            for index in self._at.get(key, ()):
                if index in self._free:
                    del self._free[index]
                    found: Message = self._messages[index]
                    return found
        return None

    def position(self, message: Message) -> int:
        """Place of this very message in the list."""
        return next(i for i, other in enumerate(self._messages) if other is message)


def _prune(graph: onnx.GraphProto, original: onnx.GraphProto, given: set[str]) -> None:
    """Removes what speaks of tensors that are gone, and inputs that were weights (but not those of
    `given`, which the edited graph has as inputs).
    """
    weights = _weights(graph)
    was_weight = _weights(original)
    made = {name for node in graph.node for name in node.output}
    for tensor in [t for t in graph.initializer if t.name in made]:
        graph.initializer.remove(tensor)
    for info in [i for i in graph.input if i.name in was_weight - weights - given]:
        graph.input.remove(info)
    gone = _defined(original) - _defined(graph)
    for info in [i for i in graph.value_info if i.name in gone]:
        graph.value_info.remove(info)
    for note in [n for n in graph.quantization_annotation if n.tensor_name in gone]:
        graph.quantization_annotation.remove(note)


def _weights(graph: onnx.GraphProto) -> set[str]:
    sparse = {tensor.values.name for tensor in graph.sparse_initializer}
    return {tensor.name for tensor in graph.initializer} | sparse


def _defined(graph: onnx.GraphProto) -> set[str]:
    made = {name for node in graph.node for name in node.output}
    return made | {info.name for info in graph.input} | _weights(graph)
