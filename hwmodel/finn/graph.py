"""Reads FINN's hardware graphs: ONNX models of nodes such as MVAU_hls, after step_convert_to_hw or
any later step up to step_set_fifo_depths.

FIFO nodes become the depth of their stream, which takes their name. Where two nodes stand side by
side with words of different widths, a `WidthConverter` is put in, and a `Fork` where a tensor is
read twice. Reshape, Squeeze and Unsqueeze only rename: they become a `WidthConverter` with equal
sides, a wire. Nodes that are not specialized yet (MVAU, Thresholding ...) get the implementation
that FINN's SpecializeLayers chooses by default.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import lcm

import onnx_ir

from graphopt.errors import ModelError
from graphopt.ir.model import Model
from hwmodel import kernels as k
from hwmodel.design import Design, End, Stream
from hwmodel.finn.formulas import Dsp
from hwmodel.finn.names import FIFO_NAME, SECOND, converter_order, is_converter, seconds
from hwmodel.finn.nodes import DOMAIN, FIFO, draft_of
from hwmodel.kernels.kernel import Kernel, Port


@dataclass(frozen=True)
class Connection:
    """Two ports to be joined, whatever their widths.

    Attributes:
        source: output port; None: from outside.
        sink: input port; None: to outside.
        depth: words of the FIFO, where the two widths are equal.
        name: name of the stream; None: after its source or sink.
    """

    source: End | None
    sink: End | None
    depth: int | None = None
    name: str | None = None


def with_converters(
    kernels: Sequence[Kernel],
    connections: Iterable[Connection],
    layers: Mapping[str, str] | None = None,
) -> Design:
    """A design of these kernels, with a `WidthConverter` wherever two widths differ.

    Converters are named StreamingDataWidthConverter_rtl_N, in FINN's order, from the first number
    that no kernel has. Where neither width divides the other, two converters make up FINN's one,
    up to the smallest common multiple and down from it; the second has `_narrow` behind its name.

    Raises:
        GraphoptError: two ports carry different numbers of elements in a frame.
    """
    known = {kernel.name: kernel for kernel in kernels}
    taken = set(known)
    streams: list[Stream] = []
    behind: dict[str, list[Kernel]] = {kernel.name: [] for kernel in kernels}
    where = {name: layer for name, layer in (layers or {}).items() if name in known}
    for connection in connections:
        source, sink = connection.source, connection.sink
        writes = known[source.kernel].outputs[source.port] if source else None
        reads = known[sink.kernel].inputs[sink.port] if sink else None
        port = writes or reads
        if port is None:
            continue
        name = connection.name or _stream_name(known, source, sink)
        if source is None or sink is None or writes is None or reads is None:
            streams.append(_stream(name, source, sink, port, connection.depth))
            continue
        frame, wanted = writes.elements * writes.words, reads.elements * reads.words
        if frame != wanted:
            raise ModelError(
                f"{source.kernel} writes {frame} elements in a frame, but {sink.kernel} reads "
                f"{wanted}: check the shapes in the model."
            )
        depth = connection.depth if writes.elements == reads.elements else None
        writer = source.kernel
        for width in _steps(writes.elements, reads.elements):
            new = k.WidthConverter(
                name=_free("converter", taken),
                elements=frame,
                into=port.elements,
                out_of=width,
                element=writes.element,
            )
            behind[writer].append(new)
            where[new.name] = where.get(sink.kernel, sink.kernel)
            streams.append(_stream(name, source, End(new.name), port, None))
            source, port = End(new.name), new.outputs[0]
            name = f"{new.name}.out"
        streams.append(_stream(name, source, sink, port, depth))
    ordered = [each for kernel in kernels for each in (kernel, *behind[kernel.name])]
    design = Design(tuple(ordered), tuple(streams), where)
    return _numbered(design, {new.name for news in behind.values() for new in news})


def without_converters(design: Design) -> tuple[list[Kernel], list[Connection]]:
    """The kernels of a design but its converters, and how they are connected.

    A connection keeps the depth of its FIFO where no converter stood in it.
    """
    kernels = [kernel for kernel in design.kernels if not is_converter(kernel)]
    onward = {
        stream.source.kernel: stream
        for stream in design.streams
        if stream.source is not None and is_converter(design.kernel[stream.source.kernel])
    }
    connections = []
    for stream in design.streams:
        if stream.source is not None and stream.source.kernel in onward:
            continue
        last = stream
        while last.sink is not None and last.sink.kernel in onward:
            last = onward[last.sink.kernel]
        depth = stream.depth if last is stream else None
        # FINN numbers its FIFOs anew when it puts them in again.
        name = None if FIFO_NAME.fullmatch(stream.name) else stream.name
        connections.append(Connection(stream.source, last.sink, depth, name))
    return kernels, connections


def _steps(into: int, out_of: int) -> list[int]:
    """Widths after each converter between two widths."""
    if into == out_of:
        return []
    if into % out_of and out_of % into:
        return [lcm(into, out_of), out_of]
    return [out_of]


def _stream(
    name: str, source: End | None, sink: End | None, port: Port, depth: int | None
) -> Stream:
    return Stream(name, source, sink, port.element, port.elements, port.words, depth)


def _stream_name(kernels: Mapping[str, Kernel], source: End | None, sink: End | None) -> str:
    if source is not None:
        several = len(kernels[source.kernel].outputs) > 1
        return f"{source.kernel}.out{source.port if several else ''}"
    return f"{sink.kernel}.in{sink.port}" if sink else "stream"


def _free(stem: str, taken: set[str]) -> str:
    number = 0
    while f"{stem}_{number}" in taken:
        number += 1
    taken.add(f"{stem}_{number}")
    return f"{stem}_{number}"


def _numbered(design: Design, new: set[str]) -> Design:
    """The design with FINN's names for the converters in `new`."""
    taken = {kernel.name for kernel in design.kernels} - new
    names = {
        name: _free("StreamingDataWidthConverter_rtl", taken)
        for name in converter_order(design)
        if name in new
    }
    names |= {
        second: names[head] + SECOND for second, head in seconds(design).items() if second in new
    }
    if not names:
        return design

    def end(old: End | None) -> End | None:
        return old and replace(old, kernel=names.get(old.kernel, old.kernel))

    def stream_name(name: str) -> str:
        stem = name.removesuffix(".out")
        return f"{names[stem]}.out" if stem in names else name

    return Design(
        tuple(
            replace(kernel, name=names[kernel.name])
            if isinstance(kernel, k.WidthConverter) and kernel.name in names
            else kernel
            for kernel in design.kernels
        ),
        tuple(
            replace(
                stream,
                name=stream_name(stream.name),
                source=end(stream.source),
                sink=end(stream.sink),
            )
            for stream in design.streams
        ),
        {names.get(name, name): layer for name, layer in design.layers.items()},
    )


# ---- reading


def is_hardware(model: Model) -> bool:
    """Whether the model is a hardware graph of FINN's."""
    return any(node.domain.startswith(DOMAIN) for node in model.graph)


def read(model: Model, *, dsp: Dsp = "DSP48E2") -> Design:
    """The design that a FINN hardware graph describes; kernels have the names of FINN's nodes.

    Args:
        model: the graph.
        dsp: the multiplier of the device, which decides the core of an RTL MVAU.

    Raises:
        ModelError: a node that is no hardware layer of FINN's or that has no kernel here, an
            attribute that is missing, or nodes that do not fit each other.
    """
    model = model.clone()
    model.tell_apart()
    drafts = [draft_of(node, dsp) for node in model.graph]
    if not drafts:
        raise ModelError(f"{model.origin.label} has no nodes: give a hardware graph of FINN's.")
    depths: dict[onnx_ir.Value, int] = {}
    fifos: dict[onnx_ir.Value, str] = {}
    origin: dict[onnx_ir.Value, onnx_ir.Value] = {}
    kernels: list[Kernel] = []
    inner: list[Connection] = []
    written: dict[onnx_ir.Value, End] = {}
    readers: dict[onnx_ir.Value, list[End]] = {}
    for value in model.graph.inputs:
        if not value.is_initializer():
            readers[value] = []
    for draft in drafts:
        sources = [origin.get(value, value) for value in draft.streams]
        if draft.operator == FIFO:
            tensor = sources[0]
            origin[draft.node.outputs[0]] = tensor
            fifos.setdefault(tensor, draft.name)
            depths[tensor] = depths.get(tensor, 0) + draft.whole("depth")
            continue
        chain = draft.kernels()
        kernel = chain[0]
        kernels += chain
        if len(kernel.inputs) != len(sources):
            raise ModelError(
                f"{kernel.name} ({draft.node.op_type}) reads {len(sources)} streams instead of "
                f"{len(kernel.inputs)}: weights and thresholds must be in the model."
            )
        for port, value in enumerate(sources):
            readers.setdefault(value, []).append(End(kernel.name, port))
        inner += [Connection(End(one.name), End(other.name)) for one, other in pairwise(chain)]
        for port, value in enumerate(draft.node.outputs[: len(chain[-1].outputs)]):
            written[value] = End(chain[-1].name, port)
            readers.setdefault(value, [])
    leaving = {origin.get(value, value) for value in model.graph.outputs}
    labels = {value: fifos.get(value, value.name) for value in readers}
    return _connected(kernels, inner, written, readers, depths, leaving, labels)


def _connected(
    kernels: list[Kernel],
    inner: list[Connection],
    written: Mapping[onnx_ir.Value, End],
    readers: Mapping[onnx_ir.Value, list[End]],
    depths: Mapping[onnx_ir.Value, int],
    leaving: set[onnx_ir.Value],
    labels: Mapping[onnx_ir.Value, str | None],
) -> Design:
    known = {kernel.name: kernel for kernel in kernels}
    taken = set(known)
    connections = list(inner)
    for value, ends in readers.items():
        source, depth, name = written.get(value), depths.get(value), labels[value]
        sinks: list[End | None] = list(ends)
        if value in leaving or (source is not None and not sinks):
            sinks.append(None)
        if len(sinks) > 1:
            first = next(sink for sink in sinks if sink is not None)
            port = (
                known[source.kernel].outputs[source.port]
                if source is not None
                else known[first.kernel].inputs[first.port]
            )
            fork = k.Fork(
                name=_free("DuplicateStreams_hls", taken),
                elements=port.elements * port.words,
                pe=port.elements,
                element=port.element,
                ways=len(sinks),
            )
            place = 1 + kernels.index(known[source.kernel]) if source is not None else 0
            kernels.insert(place, fork)
            connections.append(Connection(source, End(fork.name), depth, name))
            for way, sink in enumerate(sinks):
                connections.append(Connection(End(fork.name, way), sink))
        elif sinks:
            connections.append(Connection(source, sinks[0], depth, name))
    return with_converters(kernels, connections)
