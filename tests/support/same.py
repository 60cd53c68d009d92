"""Whether two ONNX models say the same.

What carries no meaning is normalised, and nothing else:

- the order of metadata, opset imports, `value_info`, quantization annotations and their parameters,
  initializers, a node's attributes, and external-data entries;
- a scalar field that is absent, or present with its default ("" for a name, 0 for an attribute);
- the name of the default domain: "ai.onnx" or "";
- how the numbers of a tensor are stored: typed field or raw bytes;
- empty names at the end of a node's outputs;
- `value_info` of a tensor that is a graph input or output (its entry there counts), an entry given
  twice word for word, and annotations without parameters.
"""

from __future__ import annotations

from typing import Any

import onnx
from google.protobuf.message import Message

Canonical = Any

_BY = {
    onnx.StringStringEntryProto: "key",
    onnx.OperatorSetIdProto: "domain",
    onnx.AttributeProto: "name",
    onnx.TensorAnnotation: "tensor_name",
    onnx.TensorProto: "name",
    onnx.ValueInfoProto: "name",
}
"""Messages whose order in a list means nothing (inputs and outputs excepted), and their key."""

_ORDERED = {"input", "output", "tensors"}


def assert_same(actual: onnx.ModelProto, expected: onnx.ModelProto) -> None:
    """Fails with the first few differences."""
    found = differences(actual, expected)
    assert not found, "\n".join(found[:8])


def differences(actual: Message, expected: Message) -> list[str]:
    """One line for each place where the two differ."""
    return _compare(canonical(actual), canonical(expected), type(actual).__name__)


def canonical(message: Message) -> Canonical:
    """The content of a message as plain Python, normalised as the module says."""
    content: dict[str, Canonical] = {}
    for field, value in message.ListFields():
        name = field.name
        if field.is_repeated and field.message_type is not None:
            content[name] = _messages(name, list(value))
        elif field.is_repeated:
            content[name] = list(value)
        elif field.message_type is not None:
            content[name] = canonical(value)
        elif value != field.default_value or _tells_apart(message):
            content[name] = value
    if isinstance(message, onnx.TensorProto):
        return _tensor(message, content)
    if isinstance(message, onnx.NodeProto):
        while content.get("output") and not content["output"][-1]:
            del content["output"][-1]
    if content.get("domain") == "ai.onnx":
        del content["domain"]
    if isinstance(message, onnx.GraphProto):
        ends = {info.name for info in (*message.input, *message.output)}
        infos = content.get("value_info", {})
        content["value_info"] = {name: info for name, info in infos.items() if name not in ends}
        notes = content.get("quantization_annotation", {})
        content["quantization_annotation"] = {
            name: note
            for name, note in notes.items()
            if any("quant" in key for n in note for key in n)
        }
    return {name: value for name, value in content.items() if value != {}}


def _tells_apart(message: Message) -> bool:
    """Whether a default that is present differs from an absent field."""
    return isinstance(message, onnx.TensorShapeProto.Dimension)


def _messages(name: str, messages: list[Message]) -> Canonical:
    key = _BY.get(type(messages[0]))
    if name in _ORDERED or key is None:
        return [canonical(message) for message in messages]
    named: dict[str, list[Canonical]] = {}
    for message in messages:
        label = getattr(message, key)
        label = "" if key == "domain" and label == "ai.onnx" else label
        entries = named.setdefault(label, [])
        content = canonical(message)
        if not isinstance(message, onnx.ValueInfoProto) or content not in entries:
            entries.append(content)
    return named


def _tensor(tensor: onnx.TensorProto, content: dict[str, Canonical]) -> Canonical:
    kept = {
        name: content[name]
        for name in ("name", "dims", "data_type", "doc_string", "metadata_props", "external_data")
        if name in content
    }
    if tensor.data_location != onnx.TensorProto.EXTERNAL:
        array = onnx.numpy_helper.to_array(tensor)
        kept["data"] = array.tolist() if array.dtype == object else array.tobytes()
    return kept


def _compare(actual: Canonical, expected: Canonical, path: str) -> list[str]:
    if isinstance(actual, dict) and isinstance(expected, dict):
        return [
            line
            for key in sorted({*actual, *expected}, key=str)
            for line in (
                _compare(actual[key], expected[key], f"{path}.{key}")
                if key in actual and key in expected
                else [
                    f"{path}.{key}: {'lost' if key in expected else 'added'} "
                    f"{str(expected.get(key, actual.get(key)))[:150]}"
                ]
            )
        ]
    if isinstance(actual, list) and isinstance(expected, list) and len(actual) == len(expected):
        return [
            line
            for index, (one, other) in enumerate(zip(actual, expected, strict=True))
            for line in _compare(one, other, f"{path}[{index}]")
        ]
    if type(actual) is type(expected) and actual == expected:
        return []
    if repr(actual) == repr(expected):  # NaN
        return []
    return [f"{path}: {str(actual)[:150]} instead of {str(expected)[:150]}"]
