"""`Design`: kernels joined by streams, what every part of the package reads.

A stream carries the words of one output port to one input port, through one FIFO. Both ports have
the same word; where they differ, a `WidthConverter` stands between.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import networkx as nx

from graphopt.errors import GraphoptError
from hwmodel.datatypes import DataType
from hwmodel.kernels.kernel import Kernel, Port


@dataclass(frozen=True)
class End:
    """One end of a stream: a port of a kernel."""

    kernel: str
    port: int = 0


@dataclass(frozen=True)
class Stream:
    """A connection with its FIFO.

    Attributes:
        name: unique in a design.
        source: output port that writes; None: comes from outside.
        sink: input port that reads; None: leaves the design.
        element: type of one element.
        elements: elements in a word.
        words: words in a frame.
        depth: words the FIFO holds; None: not sized yet (2 in hardware, unlimited in sizing).
    """

    name: str
    source: End | None
    sink: End | None
    element: DataType
    elements: int
    words: int
    depth: int | None = None

    @property
    def bits(self) -> int:
        """Width of a word in bits."""
        return self.elements * self.element.bits


@dataclass(frozen=True)
class Design:
    """A streaming accelerator.

    Attributes:
        kernels: in order of execution.
        streams: every connection.
        layers: for each kernel the layer of the model it belongs to (its own name where absent).
    """

    kernels: tuple[Kernel, ...]
    streams: tuple[Stream, ...]
    layers: Mapping[str, str]

    def __post_init__(self) -> None:
        """Checks that the streams fit the kernels' ports.

        Raises:
            GraphoptError: names twice, a port without stream or with two, or words that differ.
        """
        if len(self.kernel) != len(self.kernels) or len(self.stream) != len(self.streams):
            raise GraphoptError("kernels and streams of a design need names of their own.")
        read: dict[End, Stream] = {}
        written: dict[End, Stream] = {}
        for stream in self.streams:
            for end, ends in ((stream.source, written), (stream.sink, read)):
                if end is not None:
                    if end in ends:
                        raise GraphoptError(f"two streams at port {end.port} of {end.kernel}.")
                    ends[end] = stream
        for kernel in self.kernels:
            for ends, ports in ((read, kernel.inputs), (written, kernel.outputs)):
                for index, port in enumerate(ports):
                    end = End(kernel.name, index)
                    if end not in ends:
                        raise GraphoptError(f"no stream at port {index} of {kernel.name}.")
                    stream = ends[end]
                    if (stream.elements, stream.words) != (port.elements, port.words):
                        raise GraphoptError(
                            f"stream {stream.name} carries {stream.words} words of "
                            f"{stream.elements} elements, {kernel.name} has {port.words} of "
                            f"{port.elements}."
                        )

    @cached_property
    def kernel(self) -> dict[str, Kernel]:
        """Kernels by name."""
        return {kernel.name: kernel for kernel in self.kernels}

    @cached_property
    def stream(self) -> dict[str, Stream]:
        """Streams by name."""
        return {stream.name: stream for stream in self.streams}

    @cached_property
    def graph(self) -> nx.MultiDiGraph[str]:
        """Kernel names as nodes; an edge for each stream between two, its name as the key."""
        graph: nx.MultiDiGraph[str] = nx.MultiDiGraph()
        graph.add_nodes_from(kernel.name for kernel in self.kernels)
        for stream in self.streams:
            if stream.source is not None and stream.sink is not None:
                graph.add_edge(stream.source.kernel, stream.sink.kernel, key=stream.name)
        return graph

    def layer_of(self, kernel: str) -> str:
        """The layer of the model that the kernel belongs to."""
        return self.layers.get(kernel, kernel)

    def with_depths(self, depths: Mapping[str, int | None]) -> Design:
        """The design with these FIFO depths, by stream name; others stay."""
        streams = tuple(
            replace(stream, depth=depths[stream.name]) if stream.name in depths else stream
            for stream in self.streams
        )
        return replace(self, streams=streams)

    @property
    def cycles(self) -> int:
        """Cycles of the slowest kernel: a lower bound on the cycles between frames."""
        return max((kernel.cycles for kernel in self.kernels), default=0)


class Builder:
    """Builds a design kernel by kernel.

    >>> build = Builder()
    >>> image = build.source("in", Port(integer(8, signed=False), 1, 64))  # doctest: +SKIP
    """

    def __init__(self) -> None:
        self._kernels: list[Kernel] = []
        self._streams: dict[str, Stream] = {}
        self._layers: dict[str, str] = {}

    def source(self, name: str, port: Port, depth: int | None = None) -> str:
        """A stream from outside; returns its name."""
        return self._open(name, None, port, depth)

    def add(
        self,
        kernel: Kernel,
        inputs: Iterable[str],
        names: Iterable[str] | None = None,
        *,
        depths: Iterable[int | None] | None = None,
        layer: str | None = None,
    ) -> tuple[str, ...]:
        """A kernel that reads the open streams `inputs`; returns the streams it opens.

        Args:
            kernel: the kernel.
            inputs: names of open streams, in order of its ports.
            names: names for the streams it opens; default `KERNEL.out` or `KERNEL.out0` ...
            depths: depths of the FIFOs of the streams it opens.
            layer: the layer of the model it belongs to.

        Raises:
            GraphoptError: a stream that nothing writes, or that another kernel reads.
        """
        for index, name in enumerate(inputs):
            self._close(name, End(kernel.name, index))
        self._kernels.append(kernel)
        if layer is not None:
            self._layers[kernel.name] = layer
        ports = kernel.outputs
        numbers = [str(index) if len(ports) > 1 else "" for index in range(len(ports))]
        labels = list(names) if names is not None else [f"{kernel.name}.out{n}" for n in numbers]
        sizes = list(depths) if depths is not None else [None] * len(ports)
        return tuple(
            self._open(label, End(kernel.name, index), port, size)
            for index, (label, port, size) in enumerate(zip(labels, ports, sizes, strict=True))
        )

    def port(self, name: str) -> Port:
        """What the stream carries."""
        stream = self._streams[name]
        return Port(stream.element, stream.elements, stream.words)

    def design(self) -> Design:
        """The design; streams still open leave it."""
        return Design(tuple(self._kernels), tuple(self._streams.values()), dict(self._layers))

    def _open(self, name: str, source: End | None, port: Port, depth: int | None) -> str:
        if name in self._streams:
            raise GraphoptError(f"two streams are named {name}.")
        self._streams[name] = Stream(
            name, source, None, port.element, port.elements, port.words, depth
        )
        return name

    def _close(self, name: str, sink: End) -> None:
        stream = self._streams.get(name)
        if stream is None:
            raise GraphoptError(f"{sink.kernel} reads stream {name}, which nothing writes.")
        if stream.sink is not None:
            raise GraphoptError(f"stream {name} is read twice: put a Fork behind it.")
        self._streams[name] = replace(stream, sink=sink)
