"""One FIFO for several skips of one source.

A tensor that skips to two joins waits in two FIFOs, and the words of the shorter wait lie in both.
With a second fork behind the FIFO to the nearer join, the further one only waits for the rest, d:

    fork - d1 -> join 1                  fork - d1 -> fork' ------> join 1
         - d2 -> join 2        becomes                      - d --> join 2

FINN makes one DuplicateStreams of a tensor, however many read it, so this is for designs that are
built otherwise; the exported files do not have it.
"""

from __future__ import annotations

from dataclasses import replace

from hwmodel.design import Design, End, Stream
from hwmodel.fifo.search import SMALLEST, minimal
from hwmodel.kernels import Concat, Fork, Join
from hwmodel.simulate import simulate

_FRAMES = 4


def shared(design: Design) -> tuple[Design, int]:
    """The design with shared FIFOs, and the bits of storage that this saves.

    Args:
        design: with the depths of all FIFOs.

    Two are shared only where the simulated design is as fast as before.
    """
    interval = simulate(design, frames=_FRAMES).interval
    saved = 0
    for fork in [kernel for kernel in design.kernels if isinstance(kernel, Fork)]:
        for nearer, further in _pairs(design, fork):
            together = _chained(design, fork, nearer, further)
            run = simulate(together, frames=_FRAMES)
            if run.status != "ok" or run.interval > interval:
                continue
            rest = minimal(together, further.name, interval=interval)
            together = together.with_depths({further.name: max(SMALLEST, rest)})
            less = _held(design) - _held(together)
            if less > 0:
                saved, design = saved + less, together
                break  # the ways of this fork are others now
    return design, saved


def _held(design: Design) -> int:
    return sum(stream.bits * (stream.depth or SMALLEST) for stream in design.streams)


def _pairs(design: Design, fork: Fork) -> list[tuple[Stream, Stream]]:
    """Skips of a fork that go straight to joins, the shorter wait first; most words first."""
    ways = [
        stream
        for stream in design.streams
        if stream.source is not None
        and stream.source.kernel == fork.name
        and stream.sink is not None
        and isinstance(design.kernel[stream.sink.kernel], Join | Concat)
        and (stream.depth or 0) > 2 * SMALLEST
    ]
    ways.sort(key=lambda stream: stream.depth or 0)
    pairs = [(a, b) for i, a in enumerate(ways) for b in ways[i + 1 :]]
    return sorted(pairs, key=lambda pair: -(pair[0].depth or 0))


def _chained(design: Design, fork: Fork, nearer: Stream, further: Stream) -> Design:
    """The design with a second fork behind the FIFO to the nearer join."""
    taken = {kernel.name for kernel in design.kernels}
    name = next(
        f"{fork.name}.shared{n}" for n in range(len(taken) + 1)
        if f"{fork.name}.shared{n}" not in taken
    )  # fmt: skip
    second = replace(fork, name=name, ways=2)
    first = replace(fork, ways=fork.ways - 1)
    assert nearer.source is not None
    assert further.source is not None
    gone = further.source.port
    streams: list[Stream] = []
    for stream in design.streams:
        source = stream.source
        if stream is nearer:
            streams.append(replace(stream, sink=End(name), source=_moved(source, fork.name, gone)))
            near = replace(stream, name=f"{name}.out0", source=End(name, 0), depth=SMALLEST)
            streams.append(near)
        elif stream is further:
            streams.append(replace(stream, source=End(name, 1)))
        else:
            streams.append(replace(stream, source=_moved(source, fork.name, gone)))
    place = design.kernels.index(fork)
    kernels = (*design.kernels[:place], first, second, *design.kernels[place + 1 :])
    layers = {**design.layers, name: design.layers.get(fork.name, fork.name)}
    return Design(kernels, tuple(streams), layers)


def _moved(end: End | None, fork: str, gone: int) -> End | None:
    """A port of the fork, counted without the one that is gone."""
    if end is None or end.kernel != fork or end.port < gone:
        return end
    return End(fork, end.port - 1)
