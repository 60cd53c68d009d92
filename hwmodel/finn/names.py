"""The names that FINN gives to nodes and FIFOs: operator and number, in FINN's order of nodes.

FINN numbers the nodes of each operator in the order of its list of nodes (GiveUniqueNodeNames).
After every transformation qonnx sorts that list by SortGraph: first all nodes without a
predecessor, then those whose predecessors are all listed, and so on; within such a level the order
of the list before. InsertDWC puts a converter, and InsertFIFO a FIFO, directly behind the node
that writes, so those of a node with several outputs stand in reverse order of its outputs;
InsertFIFO (create_shallow_fifos=True) puts one on every stream, those of the inputs to the front
and those of the outputs to the end. Assumed here: a design lists its kernels in the order in which
FINN's graph listed the nodes before InsertDWC.

Sources: finn-plus 1.6.1, transformation/fpgadataflow/insert_fifo.py, insert_dwc.py; qonnx 1.0.0,
core/modelwrapper.py (cleanup), transformation/general.py.

Two converters behind each other, up to a common multiple of two widths and down from it, are one
node of FINN's: they share a number, and the stream between them is no FIFO.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from hwmodel.design import Design, Stream
from hwmodel.finn.attributes import Dialect, op_type
from hwmodel.kernels.plumbing import WidthConverter

FINN_NAME = re.compile(
    r"(MVAU|VVAU|Thresholding|ConvolutionInputGenerator|FMPadding|DuplicateStreams|AddStreams|"
    r"StreamingEltwise|Elementwise[A-Za-z]+|Pool|StreamingMaxPool|GlobalAccPool|LabelSelect|"
    r"ChannelwiseOp|DownSampler|UpsampleNearestNeighbour|StreamingConcat|StreamingSplit|Reshape|Squeeze|Unsqueeze|"
    r"Shuffle|InnerShuffle|OuterShuffle|"
    r"StreamingDataWidthConverter)(_Batch)?(_hls|_rtl)?_\d+(_narrow)?"
)
"""A name that FINN has given."""

FIFO_NAME = re.compile(r"StreamingFIFO(_rtl|_hls)?_(\d+)")
"""The name that FINN gives to a FIFO."""

SECOND = "_narrow"
"""Behind the name of a converter: the second of two that make up FINN's one."""


@dataclass(frozen=True)
class Names:
    """FINN's names.

    Attributes:
        kernels: for each kernel.
        fifos: for each stream `StreamingFIFO_rtl_N`, in the order of N.
    """

    kernels: Mapping[str, str]
    fifos: Mapping[str, str]


def finn_names(design: Design, dialect: Dialect = "finn-plus") -> Names:
    """FINN's names for the kernels and FIFOs of a design.

    Kernels keep their names where all of them have names of FINN, as in a design read from a FINN
    graph; else the kernels are numbered before converters and FIFOs are inserted, as for a folding
    JSON, and converters and FIFOs after. So do streams where all are named after FIFOs.
    """
    plain, full = _orders(design)
    kernels = {kernel.name: kernel.name for kernel in design.kernels}
    if not all(FINN_NAME.fullmatch(name) for name in kernels):
        converters = [name for name in full if is_converter(design.kernel.get(name))]
        operators = {kernel.name: op_type(kernel, dialect) for kernel in design.kernels}
        kernels = _numbered([*plain, *converters], operators)
        for second, first in seconds(design).items():
            kernels[second] = kernels[first] + SECOND
    streams = [name[1:] for name in full if name.startswith(_FIFO)]
    if all(FIFO_NAME.fullmatch(name) for name in streams):
        streams.sort(key=lambda name: int(name.rpartition("_")[2]))
        return Names(kernels, {name: name for name in streams})
    return Names(kernels, {name: f"StreamingFIFO_rtl_{n}" for n, name in enumerate(streams)})


def is_converter(kernel: object) -> bool:
    """Whether InsertDWC puts it in: a converter that is no wire."""
    return isinstance(kernel, WidthConverter) and kernel.into != kernel.out_of


def converter_order(design: Design) -> list[str]:
    """The converters in the order in which FINN numbers them, `seconds` left out."""
    return [name for name in _orders(design)[1] if is_converter(design.kernel.get(name))]


def seconds(design: Design) -> dict[str, str]:
    """Converters that read another converter, and that one."""
    return {
        stream.sink.kernel: stream.source.kernel
        for stream in design.streams
        if stream.source is not None
        and stream.sink is not None
        and is_converter(design.kernel[stream.source.kernel])
        and is_converter(design.kernel[stream.sink.kernel])
    }


_FIFO = "\0"
"""Before the name of a stream: the node of its FIFO."""


def _numbered(names: Iterable[str], operators: Mapping[str, str]) -> dict[str, str]:
    counts: dict[str, int] = {}
    numbered = {}
    for name in names:
        operator = operators[name]
        counts[operator] = counts.get(operator, -1) + 1
        numbered[name] = f"{operator}_{counts[operator]}"
    return numbered


def _orders(design: Design) -> tuple[list[str], list[str]]:
    """FINN's list of nodes before InsertDWC, and after InsertFIFO."""
    first = seconds(design)
    written: dict[str, list[Stream]] = {kernel.name: [] for kernel in design.kernels}
    read: dict[str, list[Stream]] = {kernel.name: [] for kernel in design.kernels}
    for stream in design.streams:
        if stream.sink is not None and stream.sink.kernel in first:
            continue
        if stream.source is not None:
            written[_writer(stream, first)].append(stream)
        if stream.sink is not None:
            read[stream.sink.kernel].append(stream)
    for streams in written.values():
        streams.sort(key=lambda stream: stream.source.port if stream.source else 0)
    converters = {
        name: [
            stream.sink.kernel
            for stream in reversed(streams)
            if stream.sink is not None and is_converter(design.kernel[stream.sink.kernel])
        ]
        for name, streams in written.items()
    }
    sources = {
        name: [_writer(stream, first) for stream in streams if stream.source is not None]
        for name, streams in read.items()
    }
    kept = [kernel.name for kernel in design.kernels if not is_converter(kernel)]
    before = {
        name: [each for source in sources[name] for each in _through(source, sources, design)]
        for name in kept
    }
    plain = _by_level(kept, before)
    nodes = _by_level([node for name in plain for node in (name, *converters[name])], sources)

    streams = [s for s in design.streams if s.sink is None or s.sink.kernel not in first]
    listed = [_FIFO + stream.name for stream in reversed(streams) if stream.source is None]
    predecessors: dict[str, list[str]] = {}
    for name in nodes:
        inner = [stream for stream in written[name] if stream.sink is not None]
        listed += [name, *(_FIFO + stream.name for stream in reversed(inner))]
        predecessors[name] = [_FIFO + stream.name for stream in read[name]]
    for stream in streams:
        if stream.source is not None and stream.sink is None:
            listed.append(_FIFO + stream.name)
        predecessors[_FIFO + stream.name] = [_writer(stream, first)] if stream.source else []
    return plain, _by_level(listed, predecessors)


def _writer(stream: Stream, first: Mapping[str, str]) -> str:
    """FINN's node that writes a stream."""
    name = stream.source.kernel if stream.source is not None else ""
    return first.get(name, name)


def _through(name: str, sources: Mapping[str, list[str]], design: Design) -> list[str]:
    """A kernel, or where it is a converter, what it reads."""
    return sources[name] if is_converter(design.kernel[name]) else [name]


def _by_level(nodes: Sequence[str], predecessors: Mapping[str, Iterable[str]]) -> list[str]:
    """SortGraph: by the longest way from an input, then as listed."""
    position = {node: index for index, node in enumerate(nodes)}
    level: dict[str, int] = {}
    for first in nodes:
        stack = [first]
        while stack:
            node = stack[-1]
            missing = [name for name in predecessors.get(node, ()) if name not in level]
            if missing:
                stack += missing
            else:
                level[node] = 1 + max((level[n] for n in predecessors.get(node, ())), default=-1)
                stack.pop()
    return sorted(nodes, key=lambda node: (level[node], position[node]))
