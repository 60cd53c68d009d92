"""A stable hash of what a model computes: its graph and its weights, not its names or comments."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

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
        _add(digest, "function", identifier, sorted(function.opset_imports.items()))
        for name, attribute in function.attributes.items():
            _add_attribute(digest, name, attribute, _Scope({}, {}))
        _add_graph(digest, function.graph, None)
    _add_graph(digest, model.graph, None, named=True)
    return digest.hexdigest()


def essence(model: Model) -> str:
    """The fingerprint of what is left when constants are evaluated, dead code is removed, and
    weights that are graph inputs too keep their defaults: equal for two models that differ in
    nothing else.
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
    digest.update(repr(parts).encode("utf-8", "backslashreplace"))


@dataclass
class _Scope:
    """What the nodes of a graph may read: tensors by the order in which they are made, weights by
    their content.
    """

    number: dict[onnx_ir.Value, int]
    weights: dict[onnx_ir.Value, str]

    def define(self, value: onnx_ir.Value) -> None:
        self.number[value] = len(self.number)

    def read(self, value: onnx_ir.Value | None) -> object:
        if value is None:
            return None
        return self.weights.get(value) or self.number.get(value, value.name)


def _add_graph(
    digest: hashlib._Hash, graph: onnx_ir.Graph, outer: _Scope | None, *, named: bool = False
) -> None:
    scope = _Scope(dict(outer.number), dict(outer.weights)) if outer else _Scope({}, {})
    for value in graph.inputs:
        scope.define(value)
        _add(digest, "input", value.name if named else "", value.type, value.shape)
    for value in graph.initializers.values():
        if value.const_value is not None and (value.uses() or value.is_graph_output()):
            scope.weights[value] = tensor_hash(value.const_value)
            if value in scope.number:
                _add(digest, "default", scope.number[value], scope.weights[value])
    for node in graph:
        read = [scope.read(value) for value in node.inputs]
        _add(digest, "node", node.domain, node.op_type, node.overload, *read)
        for name, attribute in sorted(node.attributes.items()):
            _add_attribute(digest, name, attribute, scope)
        for place, value in enumerate(node.outputs):
            if value.name:  # what is left out at the end may be written or not
                scope.define(value)
                _add(digest, "made", place)
    for value in graph.outputs:
        _add(digest, "output", value.name if named else "", scope.read(value))


def _add_attribute(
    digest: hashlib._Hash, name: str, attribute: onnx_ir.Attr, scope: _Scope
) -> None:
    kind = onnx_ir.AttributeType
    _add(digest, "attribute", name, attribute.type.name)
    if attribute.is_ref():
        _add(digest, "ref", attribute.ref_attr_name)
    elif attribute.type == kind.TENSOR:
        _add(digest, tensor_hash(attribute.as_tensor()))
    elif attribute.type == kind.TENSORS:
        _add(digest, *map(tensor_hash, attribute.as_tensors()))
    elif attribute.type in (kind.GRAPH, kind.GRAPHS):
        graphs: Iterable[onnx_ir.Graph] = (
            [attribute.as_graph()] if attribute.type == kind.GRAPH else attribute.as_graphs()
        )
        for graph in graphs:
            _add(digest, "graph")
            _add_graph(digest, graph, scope)
    else:
        many = attribute.type in (kind.INTS, kind.FLOATS, kind.STRINGS)
        _add(digest, list(attribute.value) if many else attribute.value)


def tensor_hash(tensor: onnx_ir.TensorProtocol) -> str:
    """SHA-256 (hexadecimal) over type, shape and numbers. Weights in an external file are read in
    pieces and not held in memory.
    """
    digest = hashlib.sha256(f"{tensor.dtype}{tensor.shape}".encode())
    if tensor.dtype == onnx_ir.DataType.STRING:
        for text in getattr(tensor, "string_data", tensor.numpy().reshape(-1).tolist)():
            data = text.encode() if isinstance(text, str) else text
            digest.update(len(data).to_bytes(8, "little") + data)
    elif isinstance(tensor, onnx_ir.ExternalTensor):
        tensor.tofile(_Sink(digest))
    else:
        digest.update(tensor.tobytes())
    return digest.hexdigest()


@dataclass
class _Sink:
    """A file to write to, of which only the hash is kept."""

    digest: hashlib._Hash

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return len(data)
