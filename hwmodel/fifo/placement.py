"""On which stream of a skip its FIFO costs least: a minimum cut over the skip path.

A skip that goes through kernels of its own (a projection, a quantizer) can wait before any of them
or behind them all. What has to wait is the same share of a frame everywhere, but words differ in
number and width: a projection to four times the channels makes each pixel four times as wide, one
with a stride leaves one pixel of four, thresholds make an accumulator of 20 bits a code of 4. On a
line of kernels the minimum cut is one stream: the one with the fewest bits.

Left to itself the words wait at the join, in the last stream, since nothing stops them before. So
the others get a depth of two pixels, and the cheapest one all the rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from hwmodel.design import Design, Stream
from hwmodel.fifo.bounds import Skip, skips
from hwmodel.fifo.needs import need
from hwmodel.fifo.search import SMALLEST, bits
from hwmodel.kernels import Kernel
from hwmodel.simulate import simulate

_FRAMES = 4


@dataclass(frozen=True)
class Move:
    """A FIFO that waits elsewhere.

    Attributes:
        skip: the skip.
        stream: where most of its words wait now.
        before, after: bits of all FIFOs of the skip.
    """

    skip: Skip
    stream: str
    before: float
    after: float


def placed(design: Design) -> tuple[Design, tuple[Move, ...]]:
    """The design with the FIFO of every skip where it costs least, and what was moved.

    Args:
        design: with the depths of all FIFOs.

    A place is taken only where the simulated design is as fast as before.
    """
    interval = simulate(design, frames=_FRAMES).interval
    moves: list[Move] = []
    for skip in skips(design):
        way = tuple(_way(design, skip))
        if len(way) < 2:
            continue
        now = {stream.name: stream.depth or SMALLEST for stream in way}
        before = _total(way, now)
        for depths in sorted(_places(skip, way, now), key=lambda each: _total(way, each)):
            after = _total(way, depths)
            if after >= before:
                break
            moved = design.with_depths(dict(depths))
            run = simulate(moved, frames=_FRAMES)
            if run.status == "ok" and run.interval <= interval:
                design = moved
                most = max(way, key=lambda stream: bits(stream, depths[stream.name]))
                moves.append(Move(skip, most.name, before, after))
                break
    return design, tuple(moves)


def _way(design: Design, skip: Skip) -> Iterator[Stream]:
    """The streams of the skip from the fork on."""
    into = {stream.sink.kernel: stream for stream in design.streams if stream.sink}
    for kernel in skip.skip:
        yield into[kernel.name]
    yield design.stream[skip.stream]


def _places(
    skip: Skip, way: tuple[Stream, ...], now: Mapping[str, int]
) -> Iterator[dict[str, int]]:
    """Depths with the words in each stream but the last."""
    last = way[-1]
    for place, stream in enumerate(way[:-1]):
        depths = {one.name: min(now[one.name], _two_pixels(one, way)) for one in way[place + 1 :]}
        depths |= {one.name: now[one.name] for one in way[:place]}
        depths[stream.name] = max(
            now[stream.name], _upstream(skip.skip[place:], now[last.name], last.words)
        )
        yield depths


def _two_pixels(stream: Stream, way: tuple[Stream, ...]) -> int:
    pixels = min(one.words for one in way)
    return max(SMALLEST, 2 * -(-stream.words // pixels))


def _upstream(kernels: tuple[Kernel, ...], depth: int, words: int) -> int:
    """Words before these kernels that become `depth` words behind them, at most."""
    asks = np.arange(1, words + 1)
    for kernel in reversed(kernels):
        asks = np.asarray(need(kernel, asks))
    if depth >= words:
        return int(asks[-1])
    return int(np.max(asks[depth:] - asks[:-depth]))


def _total(way: tuple[Stream, ...], depths: Mapping[str, int]) -> float:
    return sum(bits(stream, depths[stream.name]) for stream in way)
