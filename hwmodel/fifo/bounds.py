"""Closed forms for the FIFO of a skip: below which depth it deadlocks, from which it costs no time.

Let the skip FIFO hold d words, w0 of them a pixel, and let the branch lag: before the join gets the
first word of its pixel j, the fork must have sent pixel j + lag entirely.

**Deadlock.** The fork sends to both sides or to none. The join takes word n when the branch has
swallowed `need(n)` words, all of which lie in the skip FIFO but for the n - 1 that the join took:
d >= max over n of need(n) - (n - 1). For convolutions of stride 1 this is w0 (lag + 1) with
lag = sum of (k - 1 - p) (W + 1). `needs.need` gives it for any kernels.

**Full throughput.** With x words more than that, the fork may send the last word of pixel j + lag
as soon as the join took word w0 - 1 - x of pixel j - 1. From there it takes L cycles until the
join gets the first word of pixel j: the registers on the way, and (NF - 1) SF for each
matrix-vector unit but the last, since the next one needs all of a pixel. The join takes the words
of one pixel over S cycles, spread as the last unit makes them. The loop must not take longer than
the pixel time T for each pixel that x spans: with x = m w0 + y, m the smallest with L <= (m + 1) T,

    L + S (1 - y / (w0 - 1)) <= (m + 1) T.

The first word of a pixel closes a loop too, with an L of its own: it waits for the rest of its
pixel at the first window or unit. Both must be in time.

Between two frames a padding takes in border and the join gets nothing. Where a kernel in front of
it has no cycles to spare, the fork must go on sending, and the FIFO holds that in place of the
deadlock bound if it is more.

The bounds are of a branch without forks of its own. The second is an estimate: a window generator
that sets the pace fills the faster the more pixels wait for it, and how much that is worth depends
on the phase of every unit. `search` confirms it or repairs it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import networkx as nx
import numpy as np

from hwmodel.design import Design, End, Stream
from hwmodel.fifo.needs import need
from hwmodel.kernels import (
    Concat,
    Fork,
    Join,
    Kernel,
    MatrixVector,
    Padding,
    Split,
    Threshold,
    VectorVector,
    WidthConverter,
    Window,
)


@dataclass(frozen=True)
class Skip:
    """A fork, a join, and two ways between them.

    Attributes:
        fork, join: kernels; the fork sends to both ways alike (Fork), or to each its own channels
            (Split).
        port: port of the join at which the shorter way ends.
        stream: the stream on the shorter way whose FIFO has to wait: the last one before the join.
        branch: kernels on the longest way, in order.
        skip: kernels on the shorter way, in order; most often none but wires.
        branch_streams: streams on the longest way.
        others: kernels on the ways to every other port than `port`, by port.
        starts: for each port of the join the port of the fork that leads there.
    """

    fork: str
    join: str
    port: int
    stream: str
    branch: tuple[Kernel, ...]
    skip: tuple[Kernel, ...]
    branch_streams: tuple[Stream, ...]
    others: Mapping[int, tuple[Kernel, ...]]
    starts: Mapping[int, int]


@dataclass(frozen=True)
class Bound:
    """Depths of a skip FIFO in words.

    Attributes:
        skip: the skip.
        deadlock: below this the design stops for ever.
        throughput: from about here on it costs no time.
        words: w0, words a pixel.
        lag: pixels that the branch swallows before it gives its first.
        loop: L, cycles from the fork to the join.
        spread: S, cycles over which the join takes a pixel.
        pixel: T, cycles a pixel.
    """

    skip: Skip
    deadlock: int
    throughput: int
    words: int
    lag: float
    loop: int
    spread: int
    pixel: float


def skips(design: Design) -> Iterator[Skip]:
    """Every way from a fork to a join that has to wait for another, if none forks in between."""
    into = {stream.sink: stream for stream in design.streams if stream.sink}
    order = {kernel.name: index for index, kernel in enumerate(design.kernels)}
    graph = nx.DiGraph(design.graph)
    root = ""
    graph.add_edges_from((root, name) for name in list(graph) if not graph.in_degree(name))
    dominator = nx.immediate_dominators(graph, root)
    for join in design.kernels:
        if not isinstance(join, Join | Concat):
            continue
        fork = dominator[join.name]
        if fork == root or not isinstance(design.kernel[fork], Fork | Split):
            continue
        ways: dict[int, tuple[tuple[Kernel, ...], tuple[Stream, ...]]] = {}
        for port in range(len(join.inputs)):
            way = _way(design, into, End(join.name, port), fork, order)
            if way is not None:
                ways[port] = way
        if len(ways) < len(join.inputs):
            continue
        longest = max(ways, key=lambda port: (_first_need(ways[port][0]), len(ways[port][0])))
        for port, (kernels, streams) in ways.items():
            # In a concatenation the longest way waits for its turn too.
            if port != longest or isinstance(join, Concat):
                others = {q: way[0] for q, way in ways.items() if q != port}
                starts = {q: _start(way[1][0]) for q, way in ways.items()}
                yield Skip(fork, join.name, port, streams[-1].name, ways[longest][0], kernels,
                           ways[longest][1], others, starts)  # fmt: skip


def _way(
    design: Design, into: dict[End, Stream], end: End, fork: str, order: dict[str, int]
) -> tuple[tuple[Kernel, ...], tuple[Stream, ...]] | None:
    """Kernels and streams from the fork to this port; None where they are no single line."""
    kernels: list[Kernel] = []
    streams: list[Stream] = []
    while True:
        stream = into[end]
        streams.append(stream)
        if stream.source is None:
            return None
        if stream.source.kernel == fork:
            return tuple(reversed(kernels)), tuple(reversed(streams))
        kernel = design.kernel[stream.source.kernel]
        if len(kernel.inputs) != 1 or len(kernel.outputs) != 1 or order[kernel.name] < order[fork]:
            return None
        kernels.append(kernel)
        end = End(kernel.name, 0)


def _start(stream: Stream) -> int:
    return stream.source.port if stream.source is not None else 0


def _first_need(kernels: tuple[Kernel, ...]) -> int:
    """Words that must enter a line of kernels before it gives its first."""
    words = np.array([1])
    for kernel in reversed(kernels):
        words = need(kernel, words)
    return int(words[0])


def bounds(design: Design, *, interval: int | None = None) -> dict[str, Bound]:
    """The bounds of every skip FIFO, by stream.

    Args:
        design: the design.
        interval: cycles between frames; default: those of its slowest kernel.
    """
    target = max(interval or 0, design.cycles)
    return {skip.stream: _bound(design, skip, target) for skip in skips(design)}


def _bound(design: Design, skip: Skip, interval: int) -> Bound:
    join = design.kernel[skip.join]
    stream = design.stream[skip.stream]
    total = stream.words
    pixels = _pixels(skip, total)
    words = max(1, total // pixels)
    deadlock = _deadlock(skip, design.kernel[skip.fork], join, words)
    lag = deadlock / words - 1
    pace = _pace(skip, words, pixels, interval)
    if isinstance(join, Concat):
        return Bound(skip, deadlock, deadlock + words, words, lag, 0, 0, pace.pixel)
    loop, first, taken = _loop(skip, words, join.inputs[0].elements)
    more = 0
    while not _in_time(more, words, loop, first, taken, pace):
        more += 1
    filled = max(deadlock, _in_the_gap(skip, words, pixels, interval))
    return Bound(skip, deadlock, filled + more, words, lag, loop, int(taken[-1]), pace.pixel)


@dataclass(frozen=True)
class _Pace:
    """When pixels come: every `pixel` cycles, and `border` more at the end of a row of `width`."""

    pixel: float
    border: float
    width: int

    def cycles(self, pixels: int) -> float:
        """Cycles that so many pixels take at least."""
        return pixels * self.pixel + (pixels - 1) // self.width * self.border


def _in_time(more: int, words: int, loop: int, first: int, taken: np.ndarray, pace: _Pace) -> bool:
    """Whether the loop closes in time, for the last and for the first word of a pixel, with `more`
    words beyond the deadlock bound.
    """
    for word, cycles in ((words - 1, loop), (0, first)):
        before, index = divmod(word - more, words)
        if taken[index] + cycles > pace.cycles(1 - before) + 1e-9:
            return False
    return True


def _in_the_gap(skip: Skip, words: int, pixels: int, interval: int) -> int:
    """Words that the fork sends between two frames, while the join gets none.

    From the last pixel of a frame that a padding takes until the window behind it is full again
    there go D words of border and of the next frame, one a cycle. A kernel in front of them that
    is busy for c cycles of the interval I may rest for I - c of these; then it must go on.
    """
    most = 0.0
    busy = [words * pixels]
    for kernel, behind in zip(skip.branch, (*skip.branch[1:], None), strict=True):
        if isinstance(kernel, Padding) and isinstance(behind, Window):
            top, left, _, _ = kernel.pads
            fold = kernel.channels // kernel.simd
            last = (top + kernel.height - 1) * kernel.out_width + left + kernel.width
            gap = kernel.outputs[0].words - last * fold + behind.window_words
            for cycles in busy:
                most = max(most, (gap - (interval - cycles)) * pixels / cycles)
        busy.append(kernel.cycles)
    return math.floor(most * words)


def _deadlock(skip: Skip, fork: Kernel, join: Kernel, words: int) -> int:
    """The deadlock bound of the FIFO at the skip's port.

    Whenever the join waits for a word at another port, the fork must have sent what that way needs
    for it, and this FIFO must hold its share of that, but for what the join has taken of it. Exact
    where the skip is a plain FIFO. Kernels on the skip hold some of its words themselves; then the
    bound is enough, but up to so many words too high.
    """
    most = 1
    for port, branch in skip.others.items():
        wanted, taken = _waits(join, skip.port, port, words)
        for kernel in reversed(branch):
            wanted = need(kernel, wanted)
        if isinstance(fork, Split):  # each way has words of its own
            wanted = fork.sent(skip.starts[skip.port], skip.starts[port], wanted)
        if skip.skip:
            asks = np.arange(1, skip.skip[-1].outputs[0].words + 1)
            for kernel in reversed(skip.skip):
                asks = need(kernel, asks)
            wanted = np.searchsorted(asks, wanted, side="right")
        most = max(most, int(np.max(wanted - taken)))
    return most


def _waits(join: Kernel, own: int, other: int, words: int) -> tuple[np.ndarray, np.ndarray]:
    """For moments at which a join waits at port `other`: which word of that port it waits for
    (1 ...), and how many of port `own` it has taken.
    """
    if isinstance(join, Concat):
        folds = [channels // join.pe for channels in join.channels]
        pixel, place = np.divmod(np.arange(join.vectors * folds[other]), folds[other])
        before = pixel * folds[own] + (folds[own] if own < other else 0)
        return pixel * folds[other] + place + 1, before
    # The first word of each pixel has the most to wait for.
    wanted = np.arange(0, join.inputs[0].words, words) + 1
    return wanted, wanted - 1


def _pixels(skip: Skip, total: int) -> int:
    """Pixels in a frame at the join, which gets `total` words."""
    for kernel in reversed(skip.branch):
        if isinstance(kernel, MatrixVector | VectorVector | Threshold):
            return math.gcd(kernel.vectors, total)
    return total


_LATENCY_OF_A_FIFO = 1


def _loop(skip: Skip, words: int, join_elements: int) -> tuple[int, int, np.ndarray]:
    """L for the last and for the first word of a pixel: cycles from fork to join; and the cycle at
    which the join takes each word of a pixel, from the first on.
    """
    last = max(
        (i for i, k in enumerate(skip.branch) if isinstance(k, MatrixVector | VectorVector)),
        default=-1,
    )
    loop = _LATENCY_OF_A_FIFO * (1 + len(skip.branch_streams))
    step = burst = 1
    for index, kernel in enumerate(skip.branch):
        if isinstance(kernel, WidthConverter):
            if kernel.into > kernel.out_of:
                loop += 1 + (kernel.into // kernel.out_of if index < last else 1)
            elif kernel.into < kernel.out_of:
                loop += 1
        elif isinstance(kernel, Padding):
            loop += 2
        elif isinstance(kernel, Window):
            loop += 1
        elif isinstance(kernel, Threshold):
            loop += kernel.stages * (2 if kernel.deep_pipeline else 1) + 2
        elif isinstance(kernel, MatrixVector | VectorVector):
            folds, cycles = _passes(kernel)
            loop += 6 + (2 if isinstance(kernel, MatrixVector) and folds > 1 else 0)
            if index < last:
                loop += (folds - 1) * cycles
            else:
                # A word of the join is made of several results, or several of one.
                gathered = max(1, join_elements // kernel.pe)
                loop += (gathered - 1) * cycles
                step, burst = gathered * cycles, max(1, kernel.pe // join_elements)
    # The first word of a pixel waits at the first window or unit for the others of its pixel.
    first = loop
    for kernel in skip.branch:
        if isinstance(kernel, Padding | Window | MatrixVector | VectorVector):
            first += kernel.inputs[0].words // kernel_pixels(kernel) - 1
            break
        if isinstance(kernel, WidthConverter) and kernel.into > kernel.out_of:
            first -= kernel.into // kernel.out_of - 1
    word = np.arange(words)
    return loop, first, np.maximum(word, word // burst * step + word % burst)


def kernel_pixels(kernel: Kernel) -> int:
    """Pixels in a frame at the input of a kernel that works on maps."""
    if isinstance(kernel, Padding | Window):
        return kernel.height * kernel.width
    if isinstance(kernel, MatrixVector | VectorVector):
        return kernel.vectors
    return 1


def _passes(kernel: MatrixVector | VectorVector) -> tuple[int, int]:
    """Results of a pixel, and cycles between two of them."""
    if isinstance(kernel, MatrixVector):
        return kernel.neuron_fold, kernel.synapse_fold
    return kernel.fold, kernel.synapse_fold


def _pace(skip: Skip, words: int, pixels: int, interval: int) -> _Pace:
    """Pixels within a row come as the slowest kernel of the branch makes them; where the branch is
    not what sets the pace, so much slower.
    """
    within, row, width = float(words), 0.0, pixels
    own = 1
    for kernel in skip.branch:
        own = max(own, kernel.cycles)
        if isinstance(kernel, Padding):
            fold = kernel.channels // kernel.simd
            row, width = max((row, width), (kernel.out_width * fold, kernel.width))
        elif isinstance(kernel, Window):
            within = max(within, kernel.outputs[0].words / pixels)
        else:
            within = max(within, kernel.cycles / pixels)
    slower = max(1.0, interval / own)
    pixel = within * slower
    return _Pace(pixel, max(0.0, row - width * pixel), width)
