"""The clock: runs the machines of a design and their FIFOs, cycle by cycle, skipping idle time.

A FIFO takes a word while it holds fewer than its depth, and gives one while it holds any; its
count is a register, so that a word pushed in cycle t can be taken in t + 1 (Q_srl.v). Every
machine therefore sees the counts at the start of the cycle, in whatever order they run. Those
whose state rests and whose FIFOs rest are not run; when none is left, time jumps to the next
word of a throttled source, and where there is none the design is dead.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from hwmodel.simulate.machines import BLOCKED, CHANGED, CONCAT, PUSH, STARVED, TAKE, step

FINISHED, DEADLOCK, TIME_OUT = 0, 1, 2


@numba.njit(cache=True)
def run(
    codes: Any,
    constants: Any,
    states: Any,
    in_start: Any,
    in_fifo: Any,
    out_start: Any,
    out_fifo: Any,
    reader: Any,
    writer: Any,
    depth: Any,
    source_words: Any,
    period: int,
    fed: int,
    arrival: Any,
    arrival_start: Any,
    record: Any,
    record_start: Any,
    sink_words: Any,
    frame_words: Any,
    frames: int,
    limit: int,
    patience: int,
    trace_every: int,
    trace_size: int,
) -> Any:
    """Runs until `frames` frames have left by every sink.

    Args:
        codes, constants, states: the machines; see `machines.state_of`.
        in_start, in_fifo: FIFOs read by kernel i: in_fifo[in_start[i]:in_start[i + 1]].
        out_start, out_fifo: FIFOs written, likewise.
        reader, writer: kernel at either end of each FIFO; -1: outside.
        depth: words each FIFO holds; 0: a wire, to a sink that is always ready or from a source.
        source_words: words in a frame of a FIFO that is fed from outside, else 0.
        fed: frames that the source sends.
        arrival, arrival_start: where arrival_start[f] >= 0, the words of a frame of a source come
            at these cycles (from there on), every `period` again; else evenly.
        record, record_start: where record_start[f] >= 0, the cycles at which the words of a frame
            were pushed, less `period` for each frame before, are written there.
        period: cycles between two frames of the source; 0: a word is always ready.
        sink_words: words in a frame of a FIFO that is emptied outside, else 0.
        frame_words: words in a frame of every FIFO.
        frames: frames to run.
        limit: cycles after which it gives up.
        patience: cycles without a word that leaves after which it calls the design dead.
        trace_every, trace_size: the counts are recorded every so many cycles, so many times.

    Returns:
        status; end of each frame [frames] in cycles from reset; peak count, words passed, cycles
        in which the writer waited for room and in which the reader waited for a word, for each
        FIFO; cycles in which a source had a word and no room; waiting kernels at the end
        [kernels] as flags; words in each FIFO then; cycles; trace [records, FIFOs].
    """
    kernels, fifos = len(codes), len(depth)
    count = np.zeros(fifos, np.int64)
    change = np.zeros(fifos, np.int64)
    touched = np.zeros(fifos, np.int64)
    is_touched = np.zeros(fifos, np.bool_)
    peak = np.zeros(fifos, np.int64)
    passed = np.zeros(fifos, np.int64)
    blocked = np.zeros(fifos, np.int64)
    starved = np.zeros(fifos, np.int64)
    sent = np.zeros(fifos, np.int64)
    late = np.zeros(fifos, np.int64)
    taken = np.zeros(fifos, np.int64)
    ends = np.zeros(frames, np.int64)
    trace = np.zeros((trace_size, fifos), np.int64)
    traced = 0

    active = np.arange(kernels)
    waiting = np.zeros(kernels, np.int64)
    starving = np.full(fifos, -1)
    blocking = np.full(fifos, -1)
    after = np.zeros(kernels, np.int64)
    is_active = np.ones(kernels, np.bool_)
    alive = kernels
    # Streams that the outside works on.
    outside = np.zeros(fifos, np.int64)
    outsides = 0
    sinks = 0
    for f in range(fifos):
        if source_words[f] > 0 or sink_words[f] > 0:
            outside[outsides] = f
            outsides += 1
        if sink_words[f] > 0:
            sinks += 1
    for f in range(fifos):
        if source_words[f] > 0 and depth[f] == 0:
            # The first word waits at the port, without a FIFO.
            count[f] = 1
            sent[f] = 1
    frame = 0
    status = TIME_OUT
    last_left = 0
    t = 0
    while t < limit:
        while traced < trace_size and traced * trace_every <= t:
            trace[traced] = count
            traced += 1
        many = 0
        nexts = 0
        left = 0
        for index in range(alive):
            i = active[index]
            a, b = in_start[i], in_start[i + 1]
            has = True
            if codes[i] == CONCAT:
                has = count[in_fifo[a + states[i, 1]]] > 0
                a += states[i, 1]
                b = a + 1
            else:
                for j in range(a, b):
                    if count[in_fifo[j]] == 0:
                        has = False
                        break
            room = True
            for j in range(out_start[i], out_start[i + 1]):
                f = out_fifo[j]
                if count[f] >= depth[f] > 0:
                    room = False
                    break
            flags = step(codes[i], i, constants, states, has, room)
            now = flags & (STARVED | BLOCKED)
            if now != 0 or waiting[i] != 0:
                for j in range(a, b):
                    _wait(
                        now & STARVED != 0 and count[in_fifo[j]] == 0,
                        t,
                        in_fifo[j],
                        starving,
                        starved,
                    )
                for j in range(out_start[i], out_start[i + 1]):
                    f = out_fifo[j]
                    full = count[f] >= depth[f] > 0
                    _wait(now & BLOCKED != 0 and full, t, f, blocking, blocked)
                waiting[i] = now
            if flags & TAKE:
                for j in range(a, b):
                    f = in_fifo[j]
                    change[f] -= 1
                    if not is_touched[f]:
                        is_touched[f] = True
                        touched[many] = f
                        many += 1
            if flags & PUSH:
                for j in range(out_start[i], out_start[i + 1]):
                    f = out_fifo[j]
                    if record_start[f] >= 0:
                        words = frame_words[f]
                        at = record_start[f] + passed[f] % words
                        record[at] = t - passed[f] // words * period
                    passed[f] += 1
                    if depth[f] == 0:
                        taken[f] += 1
                        left += 1
                        continue
                    change[f] += 1
                    if not is_touched[f]:
                        is_touched[f] = True
                        touched[many] = f
                        many += 1
            if flags & CHANGED:
                after[nexts] = i
                nexts += 1
            else:
                is_active[i] = False
        # Outside: sources push, sinks take.
        soonest = -1
        for index in range(outsides):
            f = outside[index]
            words = source_words[f]
            if words > 0 and sent[f] < fed * words:
                ready_at = 0
                if arrival_start[f] >= 0:
                    ready_at = arrival[arrival_start[f] + sent[f] % words]
                    ready_at += sent[f] // words * period
                elif period > 0:
                    ready_at = sent[f] // words * period
                    ready_at += sent[f] % words * period // words
                if depth[f] == 0 and count[f] + change[f] > 0:
                    pass
                elif count[f] >= depth[f] > 0:
                    if ready_at <= t:
                        late[f] += 1
                elif ready_at <= t:
                    sent[f] += 1
                    passed[f] += 1
                    change[f] += 1
                    if not is_touched[f]:
                        is_touched[f] = True
                        touched[many] = f
                        many += 1
                elif count[f] == 0 and (soonest < 0 or ready_at < soonest):
                    soonest = ready_at
            if sink_words[f] > 0 and depth[f] > 0 and count[f] > 0:
                taken[f] += 1
                left += 1
                change[f] -= 1
                if not is_touched[f]:
                    is_touched[f] = True
                    touched[many] = f
                    many += 1
        for index in range(many):
            f = touched[index]
            is_touched[f] = False
            if change[f] != 0:
                before = count[f]
                count[f] += change[f]
                change[f] = 0
                peak[f] = max(peak[f], count[f])
                # Who waits is woken: a reader when the first word comes, a writer when there is
                # room again.
                i = -1
                if before == 0:
                    i = reader[f]
                elif before >= depth[f] and count[f] < depth[f]:
                    i = writer[f]
                if i >= 0 and not is_active[i]:
                    is_active[i] = True
                    after[nexts] = i
                    nexts += 1
        active, after = after, active
        alive = nexts
        t += 1
        if left > 0:
            last_left = t
        elif t - last_left > patience:
            status = DEADLOCK
            break
        # A frame has ended when its last word has left by every sink.
        while frame < frames:
            done_in_frame = 0
            for index in range(outsides):
                f = outside[index]
                if sink_words[f] > 0 and taken[f] >= (frame + 1) * sink_words[f]:
                    done_in_frame += 1
            if done_in_frame < sinks:
                break
            ends[frame] = t
            frame += 1
        if frame == frames:
            status = FINISHED
            break
        # Nothing moves but sources that fill FIFOs which hold words already.
        if alive == 0 and left == 0 and (many == 0 or patience >= limit):
            if soonest < 0:
                status = DEADLOCK
                break
            if many == 0:
                t = max(t, soonest)
    for f in range(fifos):
        _wait(False, t, f, starving, starved)
        _wait(False, t, f, blocking, blocked)
    return (
        status, ends, frame, peak, passed, blocked, starved, late, waiting, count, t,
        trace[:traced],
    )  # fmt: skip


@numba.njit(cache=True)
def _wait(waits: bool, t: int, f: int, since: Any, total: Any) -> None:
    """Notes that one side of FIFO f waits from cycle t on, or no longer."""
    if waits and since[f] < 0:
        since[f] = t
    elif not waits and since[f] >= 0:
        total[f] += t - since[f]
        since[f] = -1
