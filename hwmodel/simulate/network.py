"""`simulate`: runs a design, and what it saw."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from graphopt.errors import GraphoptError
from hwmodel.design import Design, End
from hwmodel.simulate import engine
from hwmodel.simulate.engine import BLOCKED, STARVED
from hwmodel.simulate.machines import machine, state_of

UNLIMITED = 1 << 60
"""Depth of a FIFO that is never full."""


NEVER_ENDS = 1 << 30
"""Frames of a source that never ends."""


@dataclass(frozen=True)
class StreamRun:
    """What one FIFO did in a run.

    Attributes:
        name: of the stream.
        depth: words it holds; `UNLIMITED` where it is not bounded.
        peak: most words it held at the start of any cycle.
        words: words pushed.
        full, empty: share of the cycles in which its writer waited for room, and in which its
            reader waited for a word.
        late: of a stream from outside, cycles in which a word was there and no room for it.
    """

    name: str
    depth: int
    peak: int
    words: int
    full: float
    empty: float
    late: int = 0


@dataclass(frozen=True)
class Run:
    """The result of a simulation.

    Attributes:
        status: "ok", "deadlock", or "timeout" where the limit of cycles was reached.
        frame_ends: cycles from reset to the end of each frame that ended.
        cycles: cycles simulated.
        streams: what each FIFO did, by name.
        blame: in a deadlock, the streams of a cycle that cannot move, with what their ends wait
            for, in order; empty where it is none.
        trace: counts of every FIFO [records, streams] at the start of cycles 0, e, 2 e, ...
        trace_every: that e.
        pushed: for the streams asked for, the cycle at which each word of a frame was pushed,
            less the period for each frame before it.
    """

    status: Literal["ok", "deadlock", "timeout"]
    frame_ends: tuple[int, ...]
    cycles: int
    streams: Mapping[str, StreamRun]
    blame: tuple[Wait, ...]
    trace: Any
    trace_every: int
    pushed: Mapping[str, Any] = field(default_factory=dict)

    @property
    def frame_cycles(self) -> tuple[int, ...]:
        """Cycles from reset to the end of the first frame, then between ends of frames."""
        ends = (0, *self.frame_ends)
        return tuple(b - a for a, b in itertools.pairwise(ends))

    @property
    def interval(self) -> int:
        """Cycles between the last two frames (the initiation interval, once it is steady).

        Raises:
            GraphoptError: fewer than two frames ended.
        """
        if len(self.frame_ends) < 2:
            raise GraphoptError(
                f"fewer than two frames left the design ({self.status} after {self.cycles} cycles)."
            )
        return self.frame_ends[-1] - self.frame_ends[-2]

    @property
    def peaks(self) -> dict[str, int]:
        """Peak occupancy of each FIFO in words."""
        return {name: stream.peak for name, stream in self.streams.items()}


@dataclass(frozen=True)
class Wait:
    """One link of a deadlock: a kernel that waits for its stream.

    Attributes:
        kernel: who waits.
        stream: for which stream.
        reason: "full" (it wants to write) or "empty" (it wants to read).
    """

    kernel: str
    stream: str
    reason: Literal["full", "empty"]

    def __str__(self) -> str:
        return f"{self.kernel} waits: {self.stream} is {self.reason}"


class Network:
    """A design compiled for the simulator; runs many times with different FIFO depths.

    Args:
        design: the design; kernels without a model of their flow control are refused.

    Raises:
        GraphoptError: the design has no stream out, or a kernel has no machine.
    """

    def __init__(self, design: Design) -> None:
        self.design = design
        self._index = {kernel.name: i for i, kernel in enumerate(design.kernels)}
        self._fifo = {stream.name: i for i, stream in enumerate(design.streams)}
        try:
            machines = [machine(kernel) for kernel in design.kernels]
        except NotImplementedError as error:
            raise GraphoptError(f"the design cannot be simulated: {error}.") from None
        self._codes, self._constants, self._states = state_of(machines)
        count = len(design.streams)
        self._reader = np.full(count, -1)
        self._writer = np.full(count, -1)
        self._source_words = np.zeros(count, np.int64)
        self._sink_words = np.zeros(count, np.int64)
        self._frame_words = np.array([stream.words for stream in design.streams], np.int64)
        read: dict[End, int] = {}
        written: dict[End, int] = {}
        for f, stream in enumerate(design.streams):
            if stream.source is None:
                self._source_words[f] = stream.words
            else:
                self._writer[f] = self._index[stream.source.kernel]
                written[stream.source] = f
            if stream.sink is None:
                self._sink_words[f] = stream.words
            else:
                self._reader[f] = self._index[stream.sink.kernel]
                read[stream.sink] = f
        if not self._sink_words.any():
            raise GraphoptError("the design has no stream that leaves it.")
        self._ins = self._table(read, "inputs")
        self._outs = self._table(written, "outputs")

    def _table(self, ends: dict[End, int], side: str) -> tuple[Any, Any]:
        start = [0]
        fifos: list[int] = []
        for kernel in self.design.kernels:
            for port in range(len(getattr(kernel, side))):
                fifos.append(ends[End(kernel.name, port)])
            start.append(len(fifos))
        return np.array(start, np.int64), np.array(fifos, np.int64)

    def depths(self, default: int = UNLIMITED) -> Any:
        """The depths of the design's streams as an array; `default` where not sized."""
        return np.array(
            [default if s.depth is None else s.depth for s in self.design.streams], np.int64
        )

    def run(
        self,
        depths: Any = None,
        *,
        frames: int = 3,
        period: int = 0,
        fed: int | None = None,
        limit: int | None = None,
        patience: int | None = None,
        trace: int = 0,
        arrivals: Mapping[str, Any] | None = None,
        record: Sequence[str] = (),
    ) -> Run:
        """Simulates from reset.

        Args:
            depths: words each FIFO holds, in order of the streams; 0 where a stream that leaves
                the design has no FIFO. Default: the design's own, unlimited where not sized.
            frames: frames that are awaited.
            fed: frames that the source sends; default: it never ends.
            period: cycles between frames at the source, whose words come evenly; 0: a word is
                ready whenever it is asked for.
            limit: cycles after which to give up; default: far more than any working design takes.
            patience: cycles without a word that leaves after which the design counts as dead.
                Default: the limit; a design in which nothing moves is found dead at once.
            arrivals: for streams from outside, the cycles at which the words of a frame come,
                every `period` again; others as `period` says.
            record: streams whose `Run.pushed` is wanted.
            trace: records of the occupancy over time to keep, about.
        """
        if depths is None:
            depths = self.depths()
        if limit is None:
            slowest = sum(kernel.cycles for kernel in self.design.kernels)
            limit = 1000 + (frames + 1) * max(period, 10 * slowest)
        every = 1
        if trace:
            expected = frames * max(period, self.design.cycles, 1)
            every = max(1, expected // trace)
        recorded, record_start = self._table_of(
            {name: np.zeros(self.design.stream[name].words, np.int64) for name in record}
        )
        (
            status,
            ends,
            ended,
            peak,
            passed,
            blocked,
            starved,
            late,
            waiting,
            count,
            cycles,
            counts,
        ) = engine.run(
            self._codes,
            self._constants,
            self._states.copy(),
            *self._ins,
            *self._outs,
            self._reader,
            self._writer,
            depths,
            self._source_words,
            period,
            NEVER_ENDS if fed is None else fed,
            *self._table_of(arrivals or {}),
            recorded,
            record_start,
            self._sink_words,
            self._frame_words,
            frames,
            limit,
            limit if patience is None else patience,
            every,
            4 * trace,
        )
        names = [stream.name for stream in self.design.streams]
        span = max(1, int(cycles))
        streams = {
            name: StreamRun(
                name,
                int(depths[f]),
                int(peak[f]),
                int(passed[f]),
                float(blocked[f]) / span,
                float(starved[f]) / span,
                int(late[f]),
            )
            for f, name in enumerate(names)
        }
        dead = status == engine.DEADLOCK
        verdict: Literal["ok", "deadlock", "timeout"]
        verdict = "deadlock" if dead else "ok" if status == engine.FINISHED else "timeout"
        blame = self._blame(waiting, count, depths) if dead else ()
        pushed = {
            name: recorded[start : start + self.design.stream[name].words].copy()
            for name, start in zip(names, record_start, strict=True)
            if start >= 0
        }
        return Run(
            verdict,
            tuple(map(int, ends[:ended])),
            int(cycles),
            streams,
            blame,
            counts,
            every,
            pushed,
        )

    def _table_of(self, tables: Mapping[str, Any]) -> tuple[Any, Any]:
        """Arrays for some of the streams, one behind the other, and where each starts; -1: none."""
        start = np.full(len(self.design.streams), -1)
        at = 0
        for name, table in tables.items():
            start[self._fifo[name]] = at
            at += len(table)
        return np.concatenate([*tables.values(), np.zeros(1, np.int64)]), start

    def _blame(self, waiting: Any, count: Any, depths: Any) -> tuple[Wait, ...]:
        """The ring of kernels that wait for each other: found by following who waits for whom."""
        (in_start, in_fifo), (out_start, out_fifo) = self._ins, self._outs

        def waits(i: int) -> tuple[int, str] | None:
            if waiting[i] & BLOCKED:
                for f in out_fifo[out_start[i] : out_start[i + 1]]:
                    if count[f] >= depths[f] > 0:
                        return int(f), "full"
            if waiting[i] & STARVED:
                for f in in_fifo[in_start[i] : in_start[i + 1]]:
                    if count[f] == 0:
                        return int(f), "empty"
            return None

        for start in range(len(self.design.kernels)):
            path: list[Wait] = []
            at: dict[int, int] = {}
            i = start
            while i >= 0 and i not in at:
                found = waits(i)
                if found is None:
                    break
                f, reason = found
                at[i] = len(path)
                path.append(
                    Wait(
                        self.design.kernels[i].name,
                        self.design.streams[f].name,
                        "full" if reason == "full" else "empty",
                    )
                )
                i = int(self._reader[f] if reason == "full" else self._writer[f])
            else:
                if i >= 0:
                    return tuple(path[at[i] :])
        return ()


def simulate(design: Design, **options: Any) -> Run:
    """Simulates a design with its own FIFO depths; options as in `Network.run`."""
    return Network(design).run(**options)
