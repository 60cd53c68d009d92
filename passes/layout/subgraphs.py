"""Graphs inside nodes (If, Loop, Scan), which read tensors of the graph around them."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir


def bodies(node: onnx_ir.Node) -> Iterator[onnx_ir.Graph]:
    """The graphs inside a node, and those inside them."""
    for attribute in node.attributes.values():
        if attribute.type == onnx_ir.AttributeType.GRAPH and not attribute.is_ref():
            yield attribute.as_graph()
            yield from attribute.as_graph().subgraphs()
        elif attribute.type == onnx_ir.AttributeType.GRAPHS and not attribute.is_ref():
            for graph in attribute.as_graphs():
                yield graph
                yield from graph.subgraphs()


def reads(graph: onnx_ir.Graph) -> Iterator[onnx_ir.Value]:
    """What a graph reads; that may be its own or that of a graph around it."""
    for node in graph:
        yield from (value for value in node.inputs if value is not None)
    yield from graph.outputs
