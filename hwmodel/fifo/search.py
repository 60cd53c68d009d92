"""FIFO depths by simulation: occupancy, need, and the joint minimum.

Every answer is confirmed: a `Sizing` is returned only after the whole design ran at the interval
asked for, with the depths it names.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from graphopt.errors import GraphoptError
from hwmodel.design import Design, End, Stream
from hwmodel.fifo.regions import regions
from hwmodel.simulate import UNLIMITED, Network, Run

FRAMES = 4
"""Frames of a run that judges depths: the interval is that between the last two."""
SMALLEST = 2
"""Depth of a FIFO that only passes words on (FINN's Q_srl needs two to do so at full rate)."""

Price = Callable[[Stream, int], float]
"""What a FIFO of so many words costs."""


def bits(stream: Stream, depth: int) -> float:
    """The plain price: bits of storage."""
    return stream.bits * depth


@dataclass(frozen=True)
class Sizing:
    """FIFO depths that were seen to work.

    Attributes:
        design: the design with these depths.
        depths: words, by stream.
        interval: cycles between frames with them.
        simulations: runs of the simulator that it took.
    """

    design: Design
    depths: Mapping[str, int]
    interval: int
    simulations: int

    @property
    def bits(self) -> int:
        """Storage of all FIFOs."""
        return total_bits(self.design, self.depths)


def total_bits(design: Design, depths: Mapping[str, int]) -> int:
    """Bits of storage of FIFOs with these depths."""
    return sum(design.stream[name].bits * depth for name, depth in depths.items())


def occupancy(design: Design, *, period: int = 0, frames: int = 3) -> dict[str, int]:
    """Peak occupancy of every FIFO, in words, when none is bounded.

    Args:
        design: the design; depths it has are ignored.
        period: cycles between the source's frames, whose words come evenly; 0: a word is ready
            whenever it is asked for, as in FINN's own sizing.
        frames: frames to run.
    """
    network = Network(design)
    depths = np.full(len(design.streams), UNLIMITED)
    run = network.run(depths, frames=frames, fed=frames, period=period)
    return {name: max(1, peak) for name, peak in run.peaks.items()}


def minimal(design: Design, stream: str, *, interval: int | None = None) -> int:
    """The smallest depth of one FIFO, all others as they are, that keeps the interval.

    Args:
        design: the design; FIFOs without a depth are unlimited.
        stream: whose depth is asked for; its own is ignored.
        interval: cycles between frames to keep; default: those with this FIFO unlimited.

    Raises:
        GraphoptError: the design is slower than the interval, or dead, with it unlimited.
    """
    trial = _Trial(Network(design))
    index = [each.name for each in design.streams].index(stream)
    depths = trial.network.depths()
    depths[index] = UNLIMITED
    run = trial.run(depths)
    target = run.interval if interval is None else interval
    if run.status != "ok" or run.interval > target:
        raise GraphoptError(
            f"with {stream} unlimited the design is {run.status} at {run.interval} cycles, "
            f"more than {target}."
        )
    peak = run.streams[stream].peak + 1
    return trial.smallest(depths, index, peak, lambda d: trial.keeps(d, target))


def deadlock_free(design: Design, stream: str) -> int:
    """The smallest depth of one FIFO, all others as they are, at which the design runs at all."""
    trial = _Trial(Network(design))
    index = [each.name for each in design.streams].index(stream)
    depths = trial.network.depths()
    depths[index] = UNLIMITED
    peak = trial.run(depths).streams[stream].peak + 1
    return trial.smallest(depths, index, peak, trial.lives)


def size(
    design: Design,
    *,
    interval: int | None = None,
    price: Price = bits,
    smallest: int = SMALLEST,
    throughput: bool = True,
    jobs: int | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> Sizing:
    """Depths of all FIFOs together, as small as a search finds them, at an equal interval.

    The design is cut where a single stream joins two parts; each part is searched alone, fed as in
    the rate-matched run of the whole. Then all are run together; where that is slower than asked,
    the FIFOs at which the design waited are deepened until it is not. If that was needed (or at
    once in a long design), the search is made again with parts that must take each word when it
    comes, for what is before them may have no time to wait, and give their words in the same
    rhythm, for what is behind was searched with that; the cheaper result is taken.

    A part is searched by descent from the peaks of a rate-matched run: FIFOs in order of what they
    could save, each to the smallest depth that keeps the interval, groups of them at once where
    that works; several orders, the cheapest result.

    Args:
        design: the design; depths it has are ignored.
        interval: cycles between frames to keep; default: the smallest the design reaches.
        price: what a FIFO costs; it must not fall with depth.
        smallest: depth below which no FIFO goes.
        throughput: False: only free of deadlock, however slow.
        jobs: processes; default: one for each core.
        report: is told what is being done, line by line.

    Raises:
        GraphoptError: the design does not run at the interval with unlimited FIFOs.
    """
    whole = _Trial(Network(design))
    names = [stream.name for stream in design.streams]
    unlimited = np.full(len(names), UNLIMITED)
    free = whole.run(unlimited)
    if free.status != "ok":
        raise GraphoptError(f"the design does not run with unlimited FIFOs: {free.status}.")
    target = free.interval if interval is None else interval
    if free.interval > target:
        raise GraphoptError(
            f"the design needs {free.interval} cycles a frame, more than the {target} asked for."
        )
    parts = regions(design)
    cuts = [s.name for part in parts for s in part.streams if s.source is None]
    inside = [name for name in cuts if design.stream[name].source is not None]
    matched = whole.run(unlimited, period=target, record=inside)
    peaks = matched.peaks
    # A full FIFO takes no word in the cycle in which it gives one, so a depth of one more than
    # the peak leaves every word where it was in time.
    ceiling = np.array([max(smallest, peaks[name] + 1) for name in names])
    report(f"rate-matched peaks: {total_bits(design, dict(zip(names, ceiling, strict=True)))} bits")
    if not throughput:
        target = _FOR_EVER
    long_ = free.cycles * len(design.kernels) > _LONG
    enough = np.array([max(smallest, free.peaks[name] + 1) for name in names])
    simulations = 0
    best: tuple[float, Any, Run] | None = None
    for strict in (True,) if long_ else (False, True):
        depth_of, runs = _of_parts(parts, target, price, smallest, matched, strict, jobs, report)
        simulations += runs
        found = np.array([depth_of[name] for name in names])
        top = np.maximum(ceiling, found)
        depths, run = _repaired(whole, found.copy(), top, enough, target, report)
        cost = sum(price(s, int(d)) for s, d in zip(design.streams, depths, strict=True))
        if best is None or cost < best[0]:
            best = cost, depths, run
        if np.array_equal(depths, found):
            break
    assert best is not None
    _, depths, run = best
    sized = dict(zip(names, map(int, depths), strict=True))
    return Sizing(design.with_depths(sized), sized, run.interval, simulations + whole.runs)


def _of_parts(
    parts: Sequence[Design],
    target: int,
    price: Price,
    smallest: int,
    matched: Run,
    strict: bool,
    jobs: int | None,
    report: Callable[[str], None],
) -> tuple[dict[str, int], int]:
    """Depths of all streams, each part searched alone, and the runs it took."""
    # Blocks that differ in names alone are searched once; those whose words come in another
    # pattern, for which these depths will not do, on their own.
    alike: dict[Any, list[Design]] = {}
    for part in parts:
        alike.setdefault(shape_of(part), []).append(part)
    firsts = [group[0] for group in alike.values()]
    others = [part for group in alike.values() for part in group[1:]]

    def task(part: Design) -> _Task:
        leaving = {s.name: matched.pushed[s.name] for s in part.streams
                   if s.sink is None and s.name in matched.pushed}  # fmt: skip
        return _Task(part, target, price, smallest, _arrivals(part, matched), leaving, strict)

    found: dict[Any, list[int]] = {}
    depth_of: dict[str, int] = {}
    simulations = 0

    def note(part: Design, searched: tuple[list[int], int]) -> None:
        sizes, runs = searched
        depth_of.update(zip((s.name for s in part.streams), sizes, strict=True))
        held = sum(s.bits * d for s, d in zip(part.streams, sizes, strict=True))
        report(f"{len(sizes)} FIFOs from {part.kernels[0].name}: {held} bits after {runs} runs")

    for part, searched in zip(firsts, _each(_search, map(task, firsts), jobs), strict=True):
        found[shape_of(part)] = searched[0]
        simulations += searched[1]
        note(part, searched)
    given = [(task(part), found[shape_of(part)]) for part in others]
    again = []
    for part, will_do in zip(others, _each(_will_do, given, jobs), strict=True):
        simulations += 1
        if will_do:
            note(part, (found[shape_of(part)], 1))
        else:
            again.append(part)
    for part, searched in zip(again, _each(_search, map(task, again), jobs), strict=True):
        simulations += searched[1]
        note(part, searched)
    return depth_of, simulations


_FOR_EVER = 1 << 50
"""The interval asked for where only deadlock matters."""

_LONG = 10_000_000
"""Cycles times kernels of one run above which a part is searched in one order only."""


def shape_of(design: Design) -> Any:
    """The same for designs that differ in names alone."""
    place = {kernel.name: index for index, kernel in enumerate(design.kernels)}

    def end(at: End | None) -> Any:
        return None if at is None else (place[at.kernel], at.port)

    kernels = tuple(replace(kernel, name="") for kernel in design.kernels)  # type: ignore[type-var]
    streams = tuple(
        (end(s.source), end(s.sink), s.bits, s.elements, s.words) for s in design.streams
    )
    return kernels, streams


def _each(function: Any, work: Iterable[Any], jobs: int | None) -> Iterable[Any]:
    tasks = list(work)
    jobs = min(jobs or os.cpu_count() or 1, len(tasks))
    if jobs <= 1:
        return map(function, tasks)
    return _parallel(function, tasks, jobs)


def _parallel(function: Any, tasks: Sequence[Any], jobs: int) -> Iterator[Any]:
    with ProcessPoolExecutor(jobs) as pool:
        yield from pool.map(function, tasks)


@dataclass
class _Trial:
    """A network on which depths are tried."""

    network: Network
    period: int = 0
    arrivals: Mapping[str, Any] = field(default_factory=dict)
    departures: Mapping[str, Any] = field(default_factory=dict)
    strict: bool = True
    runs: int = 0
    limit: int | None = None
    seen: dict[tuple[bytes, int], bool] = field(default_factory=dict)

    def run(
        self,
        depths: Any,
        *,
        period: int | None = None,
        frames: int = FRAMES,
        record: Sequence[str] = (),
    ) -> Run:
        self.runs += 1
        return self.network.run(
            depths,
            frames=frames,
            period=self.period if period is None else period,
            limit=self.limit,
            arrivals=self.arrivals,
            record=record,
        )

    def keeps(self, depths: Any, target: int) -> bool:
        """Whether the design runs at `target`; if strict, takes and gives each word in step."""
        key = (depths.tobytes(), target)
        if key not in self.seen:
            run = self.run(depths, record=tuple(self.departures))
            fast = run.status == "ok" and run.interval <= target
            late = self.strict and any(run.streams[name].late for name in self.arrivals)
            self.seen[key] = fast and not late and (not self.strict or self._in_step(run))
        return self.seen[key]

    def _in_step(self, run: Run) -> bool:
        """Whether all words leave as they should, or all later by the same."""
        delays = [run.pushed[name] - table for name, table in self.departures.items()]
        return all(delay.max() == delay.min() for delay in delays)

    def lives(self, depths: Any) -> bool:
        """Whether the design runs at all."""
        return self.run(depths, frames=2).status == "ok"

    def smallest(
        self, depths: Any, index: int, high: int, holds: Callable[[Any], bool], low: int = 1
    ) -> int:
        """The smallest depth of one FIFO in low ... high for which `holds`; `high` does."""
        trial = depths.copy()
        high = max(high, low)
        while low < high:
            middle = (low + high) // 2
            trial[index] = middle
            if holds(trial):
                high = middle
            else:
                low = middle + 1
        return high


def _arrivals(part: Design, matched: Run) -> dict[str, Any]:
    """When words come to a part, as seen in the rate-matched run of the whole."""
    times = {s.name: matched.pushed[s.name] for s in part.streams if s.name in matched.pushed}
    start = min((int(table.min()) for table in times.values()), default=0)
    return {name: table - start for name, table in times.items()}


@dataclass(frozen=True)
class _Task:
    """A part to be searched: pace, price, least depth, and when words come to it and leave it."""

    part: Design
    target: int
    price: Price
    smallest: int
    arrivals: Mapping[str, Any]
    departures: Mapping[str, Any]
    strict: bool

    @property
    def period(self) -> int:
        return 0 if self.target == _FOR_EVER else self.target

    def trial(self) -> _Trial:
        if not self.period:
            return _Trial(Network(self.part))
        return _Trial(Network(self.part), self.period, self.arrivals, self.departures, self.strict)


def _will_do(given: tuple[_Task, list[int]]) -> bool:
    """Whether depths found for a part of the same shape do for this one."""
    task, depths = given
    trial = task.trial()
    if not task.period:
        return trial.lives(np.array(depths))
    return trial.keeps(np.array(depths), task.target)


def _search(task: _Task) -> tuple[list[int], int]:
    """The cheapest depths of one part in order of its streams, and the runs it took."""
    part, target, price, smallest = task.part, task.target, task.price, task.smallest
    trial = task.trial()
    names = [stream.name for stream in part.streams]
    unlimited = np.full(len(names), UNLIMITED)
    start = trial.run(unlimited)
    if target != _FOR_EVER:
        # Depths that keep the interval may delay the first frame, but not for ever.
        trial.limit = start.frame_ends[-1] + max(target // 2, 1000)

    def holds(depths: Any) -> bool:
        return trial.lives(depths) if target == _FOR_EVER else trial.keeps(depths, target)

    top = np.array([max(smallest, start.peaks[name] + 1) for name in names])

    def cost(depths: Any) -> float:
        return sum(
            price(stream, int(depth)) for stream, depth in zip(part.streams, depths, strict=True)
        )

    def saving(index: int) -> float:
        return price(part.streams[index], int(top[index])) - price(part.streams[index], smallest)

    along = list(range(len(names)))
    orders = [sorted(along, key=saving, reverse=True), along, along[::-1]]
    if start.cycles * len(part.kernels) > _LONG:
        del orders[1:]
    best = top
    for begin in (top, *_moved(trial, orders[0][:_MOVED], smallest, holds)):
        for order in orders:
            depths = begin.copy()
            _shrink(trial, depths, order, smallest, holds)
            if cost(depths) < cost(best):
                best = depths
    return list(map(int, best)), trial.runs


_MOVED = 2
"""FIFOs, of those that could save most, whose words are tried elsewhere."""


def _moved(
    trial: _Trial, indices: Sequence[int], smallest: int, holds: Callable[[Any], bool]
) -> Iterator[Any]:
    """Depths with the words of one FIFO in others: those before a convolution are narrower.

    The FIFO is made as shallow as can be, all others unlimited; their peaks are another start.
    """
    names = [stream.name for stream in trial.network.design.streams]
    for index in indices:
        depths = np.full(len(names), UNLIMITED)
        depths[index] = smallest
        if holds(depths):
            peaks = trial.run(depths).peaks
            depths = np.array([max(smallest, peaks[name] + 1) for name in names])
            depths[index] = smallest
            if holds(depths):
                yield depths


def _shrink(
    trial: _Trial, depths: Any, order: Sequence[int], smallest: int, holds: Callable[[Any], bool]
) -> None:
    """Brings the FIFOs of `order` to their smallest depths, in place; halves of the list at once
    to `smallest` where that works.
    """
    open_ = [index for index in order if depths[index] > smallest]
    if not open_:
        return
    attempt = depths.copy()
    attempt[open_] = smallest
    if holds(attempt):
        depths[:] = attempt
        return
    if len(open_) == 1:
        (index,) = open_
        depths[index] = trial.smallest(depths, index, int(depths[index]), holds, smallest + 1)
        return
    half = (len(open_) + 1) // 2
    _shrink(trial, depths, open_[:half], smallest, holds)
    _shrink(trial, depths, open_[half:], smallest, holds)


def _repaired(
    trial: _Trial,
    depths: Any,
    ceiling: Any,
    enough: Any,
    target: int,
    report: Callable[[str], None],
) -> tuple[Any, Run]:
    """Deepens FIFOs until the whole design keeps the interval: up to the peaks of the rate-matched
    run, and if it must be to those of the free one.

    Raises:
        GraphoptError: not even those do, which would be a fault of the simulator.
    """
    names = [stream.name for stream in trial.network.design.streams]
    while True:
        run = trial.run(depths)
        if run.status == "ok" and run.interval <= target:
            return depths, run
        can = [i for i in range(len(names)) if depths[i] < ceiling[i]]
        if not can and ceiling is enough:
            raise GraphoptError(f"FIFOs as deep as their peaks run at {run.frame_cycles} cycles.")
        if not can:
            depths, ceiling = np.maximum(depths, enough), enough
            continue
        waits = sorted(can, key=lambda i: run.streams[names[i]].full, reverse=True)
        chosen = [i for i in waits[: max(1, len(waits) // 8)] if run.streams[names[i]].full > 0]
        for i in chosen or waits:
            depths[i] = min(ceiling[i], max(depths[i] + 1, depths[i] * 5 // 4))
        report(f"{run.status}, {run.frame_cycles}: deepened {len(chosen or waits)} FIFOs")
