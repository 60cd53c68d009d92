"""Writes a choice of orders down: movers adapt, and the Transposes are made anew."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import onnx_ir

from graphopt.ir.model import Model
from passes.layout.choice import Group, Tensor
from passes.layout.mover import Mover
from passes.layout.orders import Perm, identity, inverse, then
from passes.layout.statement import ANNOTATION, Statement, turned_annotation
from passes.layout.subgraphs import bodies
from passes.layout.weights import Weights


class Writer:
    """Gives the movers of some groups their new orders, and makes the Transposes anew.

    A name stays with what it stands for: a tensor gets the name under which its content was in the
    graph before, and a new name where it was not.
    """

    def __init__(self, model: Model, groups: Sequence[Group]) -> None:
        self._graph = model.graph
        self._outputs = list(model.graph.outputs)
        self._weights = Weights(model)
        self._old = [node for group in groups for node in group.transposes]
        self._origin: dict[onnx_ir.Value, tuple[Tensor, Perm]] = {}
        self._made_in: dict[Tensor, Perm] = {}
        self._turns: dict[onnx_ir.Node, tuple[Mover, Perm]] = {}
        self._new: dict[tuple[Tensor, Perm], onnx_ir.Value] = {}
        self._copies: dict[onnx_ir.Value, onnx_ir.Value] = {}
        for group in groups:
            for tensor in group.tensors:
                rank = len(tensor.order)
                self._made_in[tensor] = group.turn(tensor.maker, rank)
                self._origin[tensor.value] = tensor, identity(rank)
                self._origin |= {v: (tensor, perm) for v, perm in tensor.transposes.items()}
            for mover in group.orders:
                self._turns[mover.node] = mover, group.turn(mover)

    def write(self) -> None:
        """Edits the graph from the inputs on; each new Transpose stands before its first reader."""
        old = set(self._old)
        for node in list(self._graph):
            if node in old:
                continue
            mover, turn = self._turns.get(node, (None, ()))
            for index, value in enumerate(node.inputs):
                if value is not None and value in self._origin:
                    turned = turn if mover is not None and index in mover.data else ()
                    node.replace_input_with(index, self._tensor(value, node, turned))
            for graph in bodies(node):
                self._write_body(graph, node)
            if mover is not None and turn != identity(mover.rank):
                mover.adapt(turn, self._weights)
        self._write_outputs()
        statements = [self._statement(*item) for item in self._renamed()]
        self._graph.remove(self._old, safe=True)
        for statement in statements:
            statement.apply()

    def _write_body(self, graph: onnx_ir.Graph, node: onnx_ir.Node) -> None:
        """What a graph inside a node reads stays as it is."""
        for inner in graph:
            for index, value in enumerate(inner.inputs):
                if value is not None and value in self._origin:
                    inner.replace_input_with(index, self._tensor(value, node))
        for index, output in enumerate(graph.outputs):
            if output in self._origin:
                graph.outputs[index] = self._tensor(output, node)

    def _tensor(
        self, value: onnx_ir.Value, before: onnx_ir.Node | None, turn: Perm = ()
    ) -> onnx_ir.Value:
        """What to read in place of `value`, by a node whose order has changed by `turn`."""
        tensor, perm = self._origin[value]
        perm = then(perm, turn) if turn else perm
        if perm == self._made_in[tensor]:
            return tensor.value
        if (tensor, perm) not in self._new:
            self._new[tensor, perm] = self._transpose(tensor, perm, before)
        return self._new[tensor, perm]

    def _transpose(self, tensor: Tensor, perm: Perm, before: onnx_ir.Node | None) -> onnx_ir.Value:
        like = self._like(tensor, perm)
        old = like.producer() if like in tensor.transposes else None
        node = onnx_ir.node(
            "Transpose",
            [tensor.value],
            attributes={"perm": then(inverse(self._made_in[tensor]), perm)},
            name=old.name if old is not None else "",
            doc_string=old.doc_string if old is not None else None,
            metadata_props=dict(old.metadata_props) if old is not None else None,
        )
        node.outputs[0].name = ""
        if before is None:
            self._graph.append(node)
        else:
            self._graph.insert_before(before, node)
        return node.outputs[0]

    def _like(self, tensor: Tensor, perm: Perm) -> onnx_ir.Value | None:
        """The tensor that was the same before, an output of the graph if there is one."""
        same = [value for value, other in tensor.transposes.items() if other == perm]
        if perm == identity(len(perm)):
            if tensor.value.producer() is None:
                return tensor.value
            same.insert(0, tensor.value)
        return next((v for v in same if v in self._outputs), same[0] if same else None)

    def _write_outputs(self) -> None:
        """An output keeps its name; two names of one tensor take an Identity."""
        for index, value in enumerate(self._outputs):
            if value not in self._origin:
                continue
            new = self._tensor(value, None)
            if self._like(*self._origin[value]) is not value:
                if value not in self._copies:
                    node = onnx_ir.node("Identity", [new], name="")
                    self._graph.append(node)
                    self._copies[value] = node.outputs[0]
                new = self._copies[value]
            self._graph.outputs[index] = new

    def _renamed(self) -> Iterator[tuple[onnx_ir.Value, onnx_ir.Value | None, Tensor, Perm]]:
        """The tensors that are new or in another order: what they are like, and what they are."""
        for tensor, perm in self._made_in.items():
            like = self._like(tensor, perm)
            if like is not tensor.value and tensor.value.producer() is not None:
                yield tensor.value, like, tensor, perm
        for (tensor, perm), value in self._new.items():
            yield value, self._like(tensor, perm), tensor, perm
        for like, value in self._copies.items():
            yield value, like, *self._origin[like]

    def _statement(
        self, value: onnx_ir.Value, like: onnx_ir.Value | None, tensor: Tensor, perm: Perm
    ) -> Statement:
        root = tensor.value
        name = like.name if like is not None else root.name and self._weights.fresh(root.name)
        shape = like.shape if like is not None else None
        if shape is None and root.shape is not None:
            shape = onnx_ir.Shape(
                [root.shape[axis] for axis in perm],
                [root.shape.get_denotation(axis) for axis in perm],
            )
        meta, properties = dict(root.meta), dict(root.metadata_props)
        if ANNOTATION in meta:
            meta[ANNOTATION] = turned_annotation(meta[ANNOTATION], perm)
        if like is not None and like is not root:
            notes = meta.get(ANNOTATION, {}) | like.meta.get(ANNOTATION, {})
            meta |= {**like.meta, **({ANNOTATION: notes} if notes else {})}
            properties |= like.metadata_props
        doc_string = like.doc_string if like is not None else root.doc_string
        kind = (like.type if like is not None else None) or root.type
        return Statement(value, name or "", kind, shape, doc_string, meta, properties)
