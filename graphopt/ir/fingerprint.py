"""A stable hash of what a model computes: its graph and its weights, not its names or comments."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import onnx_ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from graphopt.ir.constants import constant
from graphopt.ir.model import Model


def fingerprint(model: Model) -> str:
    """SHA-256 (hexadecimal) over operators, attributes, wiring, weights, inputs and outputs.

    Internal tensor names, node names, doc strings and metadata do not count; the order of the
    nodes does. Equal for a model and its saved copy, in any process and on any machine.
    """
    digest = hashlib.sha256()
    for domain, version in sorted(model.ir.opset_imports.items()):
        _add(digest, "opset", domain, version)
    for identifier, function in sorted(model.ir.functions.items(), key=lambda item: str(item[0])):
        _add(digest, "function", identifier)
        _add_graph(digest, function.graph, {})
    _add_graph(digest, model.graph, {})
    return digest.hexdigest()


def essence(model: Model) -> str:
    """The fingerprint of what is left when constants are evaluated, dead code is removed, and weights
    that are graph inputs too keep their defaults: equal for two models that differ in nothing else.
    """
    copy = model.clone()
    for value in [v for v in copy.graph.inputs if v.name in copy.graph.initializers]:
        copy.graph.inputs.remove(value)
    weights = {}
    for node in list(copy.graph):
        for value in node.outputs:
            array = constant(value)
            if array is not None and not value.is_graph_output():
                name = f"{value.name}.evaluated"
                weights[value] = onnx_ir.Value(
                    name=name, const_value=onnx_ir.tensor(array, name=name)
                )
    for value, weight in weights.items():
        value.replace_all_uses_with(weight)
        copy.graph.register_initializer(weight)
    RemoveUnusedNodesPass()(copy.ir)
    return fingerprint(copy)


def _add(digest: hashlib._Hash, *parts: object) -> None:
    digest.update("\x1f".join(map(str, parts)).encode() + b"\x1e")


def _add_graph(
    digest: hashlib._Hash, graph: onnx_ir.Graph, outer: dict[onnx_ir.Value, int]
) -> None:
    number = dict(outer)
    for value in graph.inputs:
        number[value] = len(number)
        _add(digest, "input", value.name, value.type, value.shape)
    weights: dict[onnx_ir.Value, str] = {}
    for value in graph.initializers.values():
        if value.const_value is not None and value.uses():
            weights[value] = _tensor_hash(value.const_value)
    for node in graph:
        read = [
            "" if value is None else weights.get(value) or number.get(value, value.name)
            for value in node.inputs
        ]
        _add(digest, "node", node.domain, node.op_type, node.overload, *read)
        for name, attribute in sorted(node.attributes.items()):
            _add_attribute(digest, name, attribute, number)
        for value in node.outputs:
            number[value] = len(number)
    for value in graph.outputs:
        _add(digest, "output", value.name, weights.get(value) or number.get(value, value.name))


def _add_attribute(
    digest: hashlib._Hash, name: str, attribute: onnx_ir.Attr, number: dict[onnx_ir.Value, int]
) -> None:
    kind = onnx_ir.AttributeType
    if attribute.is_ref():
        _add(digest, name, "ref", attribute.ref_attr_name)
    elif attribute.type == kind.TENSOR:
        _add(digest, name, _tensor_hash(attribute.as_tensor()))
    elif attribute.type == kind.TENSORS:
        _add(digest, name, *map(_tensor_hash, attribute.as_tensors()))
    elif attribute.type in (kind.GRAPH, kind.GRAPHS):
        graphs: Iterable[onnx_ir.Graph] = (
            [attribute.as_graph()] if attribute.type == kind.GRAPH else attribute.as_graphs()
        )
        for graph in graphs:
            _add(digest, name, "graph")
            _add_graph(digest, graph, number)
    else:
        _add(digest, name, attribute.value)


def _tensor_hash(tensor: onnx_ir.TensorProtocol) -> str:
    digest = hashlib.sha256(f"{tensor.dtype}{tensor.shape}".encode())
    if tensor.dtype == onnx_ir.DataType.STRING:
        for text in tensor.string_data():  # type: ignore[attr-defined]
            digest.update(len(text).to_bytes(8, "little") + text)
    else:
        digest.update(tensor.tobytes())
    return digest.hexdigest()
