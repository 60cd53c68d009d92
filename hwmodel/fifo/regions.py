"""Cuts a design where one stream alone joins what is before it and what is behind it."""

from __future__ import annotations

from dataclasses import replace

import networkx as nx

from hwmodel.design import Design


def regions(design: Design) -> list[Design]:
    """The parts of a design between its bridges, in order of execution.

    A chain of kernels between two forks and joins stays one part. A stream that is cut feeds the
    part behind it (its FIFO belongs there) and leaves the part before it without a FIFO.
    """
    graph: nx.Graph[str] = nx.Graph()
    graph.add_nodes_from(kernel.name for kernel in design.kernels)
    between: dict[frozenset[str], int] = {}
    for stream in design.streams:
        if stream.source and stream.sink:
            pair = frozenset((stream.source.kernel, stream.sink.kernel))
            between[pair] = between.get(pair, 0) + 1
            graph.add_edge(stream.source.kernel, stream.sink.kernel)
    bridges = {frozenset(edge) for edge in nx.bridges(graph) if between[frozenset(edge)] == 1}
    # Forks and joins bound the parts; chains of other kernels hang on to the part before them.
    order = {kernel.name: index for index, kernel in enumerate(design.kernels)}
    cuts = {
        pair for pair in bridges if len(design.kernel[max(pair, key=order.__getitem__)].outputs) > 1
    }
    kept = graph.copy()
    kept.remove_edges_from(tuple(pair) for pair in cuts)
    groups = sorted(
        nx.connected_components(kept), key=lambda group: min(order[name] for name in group)
    )
    return [_part(design, group) for group in groups]


def _part(design: Design, group: set[str]) -> Design:
    kernels = tuple(kernel for kernel in design.kernels if kernel.name in group)
    streams = []
    for stream in design.streams:
        reads = stream.sink is not None and stream.sink.kernel in group
        writes = stream.source is not None and stream.source.kernel in group
        if reads and writes:
            streams.append(stream)
        elif reads:
            streams.append(replace(stream, source=None))
        elif writes:
            streams.append(replace(stream, sink=None))
    return Design(kernels, tuple(streams), design.layers)
