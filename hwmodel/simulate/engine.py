"""The clock: runs the machines of a design and their FIFOs, cycle by cycle, skipping idle time.

A FIFO takes a word while it holds fewer than its depth, and gives one while it holds any; its
count is a register, so that a word pushed in cycle t can be taken in t + 1 (Q_srl.v). Every
machine therefore sees the counts at the start of the cycle, in whatever order they run. Those
whose state rests and whose FIFOs rest are not run; when none is left, time jumps to the next
word of a throttled source, and where there is none the design is dead.

A machine is one register transfer: from the state before the clock edge, whether its inputs hold
a word and whether its outputs have room, it decides what moves in this cycle and the state after
the edge. That is all that flow control depends on, since a FIFO stands at both sides of every
kernel. The rules are those of FINN's RTL (finn-rtllib, BSD-3); each machine names its file.

All that is compiled stands in this one file, and it imports nothing of ours: numba keeps the
compiled `run` on disk for as long as the file in which `run` stands is the same, and looks at no
other.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

# Operation codes.
(
    WIRE,
    UP,
    DOWN,
    PAD,
    WINDOW,
    WINDOW_PARALLEL,
    MULTIPLY,
    THRESHOLD,
    REGISTER,
    CONCAT,
    BATCH,
    PICK,
    SPLIT,
) = range(13)

# What a step returns, as bits.
CHANGED, TAKE, PUSH, STARVED, BLOCKED = 1, 2, 4, 8, 16

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
        period: cycles between two frames of the source; 0: a word is always ready.
        fed: frames that the source sends.
        arrival, arrival_start: where arrival_start[f] >= 0, the words of a frame of a source come
            at these cycles (from there on), every `period` again; else evenly.
        record, record_start: where record_start[f] >= 0, the cycles at which the words of a frame
            were pushed, less `period` for each frame before, are written there.
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
            first, last = out_start[i], out_start[i + 1]
            if codes[i] == SPLIT:
                first += states[i, 1]
                last = first + 1
            for j in range(first, last):
                f = out_fifo[j]
                if count[f] >= depth[f] > 0:
                    room = False
                    break
            flags = _step(codes[i], i, constants, states, has, room)
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
                for j in range(first, last):
                    f = out_fifo[j]
                    full = count[f] >= depth[f] > 0
                    _wait(now & BLOCKED != 0 and full, t, f, blocking, blocked)
                waiting[i] = now
            if flags & TAKE:
                for j in range(a, b):
                    f = in_fifo[j]
                    change[f] -= 1
                    many = _touch(f, touched, is_touched, many)
            if flags & PUSH:
                for j in range(first, last):
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
                    many = _touch(f, touched, is_touched, many)
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
                    many = _touch(f, touched, is_touched, many)
                elif count[f] == 0 and (soonest < 0 or ready_at < soonest):
                    soonest = ready_at
            if sink_words[f] > 0 and depth[f] > 0 and count[f] > 0:
                taken[f] += 1
                left += 1
                change[f] -= 1
                many = _touch(f, touched, is_touched, many)
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
def _touch(f: int, touched: Any, is_touched: Any, many: int) -> int:
    """Lists FIFO f, once, among those whose count changes at this edge; how many these are."""
    if is_touched[f]:
        return many
    is_touched[f] = True
    touched[many] = f
    return many + 1


@numba.njit(cache=True)
def _wait(waits: bool, t: int, f: int, since: Any, total: Any) -> None:
    """Notes that one side of FIFO f waits from cycle t on, or no longer."""
    if waits and since[f] < 0:
        since[f] = t
    elif not waits and since[f] >= 0:
        total[f] += t - since[f]
        since[f] = -1


@numba.njit(cache=True)
def _step(code: int, i: int, c: Any, s: Any, has: bool, room: bool) -> int:
    """One clock edge of one machine.

    Args:
        code: operation code.
        i: row of the machine in `c` and `s`; below, c[n] and s[n] stand for c[i, n] and s[i, n].
        c: constants.
        s: states; hold the state after the edge on return.
        has: the inputs it reads now all hold a word.
        room: all its outputs have room.

    Returns:
        Bits: state changed, takes a word, pushes a word, waits for a word, waits for room.
    """
    if code == REGISTER:
        return _register(i, s, has, room)
    if code == MULTIPLY:
        return _multiplier(i, c, s, has, room)
    if code == WINDOW:
        return _window(i, c, s, has, room)
    if code == WINDOW_PARALLEL:
        return _window_parallel(i, c, s, has, room)
    if code == PAD:
        return _padding(i, c, s, has, room)
    if code == THRESHOLD:
        return _threshold(i, c, s, has, room)
    if code == UP:
        return _widen(i, c, s, has, room)
    if code == DOWN:
        return _narrow(i, c, s, has, room)
    if code == CONCAT:
        return _concat(i, c, s, has, room)
    if code == SPLIT:
        return _split(i, c, s, has, room)
    if code == BATCH:
        return _batch(i, c, s, has, room)
    if code == PICK:
        return _pick(i, c, s, has, room)
    # WIRE: dwc.sv, genNoop.
    if has and room:
        return CHANGED | TAKE | PUSH
    return (0 if has else STARVED) | (BLOCKED if has and not room else 0)


@numba.njit(cache=True, inline="always")
def _flags(changed: bool, take: bool, push: bool, starved: bool, blocked: bool) -> int:
    result = 0
    if changed or take or push:
        result |= CHANGED
    if take:
        result |= TAKE
    if push:
        result |= PUSH
    if starved:
        result |= STARVED
    if blocked:
        result |= BLOCKED
    return result


@numba.njit(cache=True)
def _register(i: int, s: Any, has: bool, room: bool) -> int:
    """One register: a word leaves when all outputs take it; the next enters in the same cycle."""
    full = s[i, 0] != 0
    push = full and room
    take = has and (not full or push)
    s[i, 0] = take or (full and not push)
    return _flags(False, take, push, not has and not (full and not room), full and not room)


@numba.njit(cache=True)
def _concat(i: int, c: Any, s: Any, has: bool, room: bool) -> int:
    """A register fed by one input after the other: s[1] is the input, s[2] its words so far."""
    flags = _register(i, s, has, room)
    if flags & TAKE:
        s[i, 2] += 1
        if s[i, 2] == c[i, 1 + s[i, 1]]:
            s[i, 2] = 0
            s[i, 1] = (s[i, 1] + 1) % c[i, 0]
    return flags


@numba.njit(cache=True)
def _split(i: int, c: Any, s: Any, has: bool, room: bool) -> int:
    """A register that feeds one output after the other: s[1] is the output, s[2] its words so far.

    `room` is that of this output.
    """
    flags = _register(i, s, has, room)
    if flags & PUSH:
        s[i, 2] += 1
        if s[i, 2] == c[i, 1 + s[i, 1]]:
            s[i, 2] = 0
            s[i, 1] = (s[i, 1] + 1) % c[i, 0]
    return flags


@numba.njit(cache=True)
def _widen(i: int, c: Any, s: Any, has: bool, room: bool) -> int:
    """dwc.sv, genUp. s[0]: ACnt, words missing but one, -1 when full; s[1]: BRdy."""
    full = s[i, 0] < 0
    push = full and room
    take = has and s[i, 1] != 0
    count = c[i, 0] - 1 if push else s[i, 0]
    ready = not full or room
    if (has or s[i, 1] == 0) and ready:
        count -= 1
    side = ready or (s[i, 1] != 0 and not has)
    changed = count != s[i, 0] or side != (s[i, 1] != 0)
    s[i, 0] = count
    s[i, 1] = side
    return _flags(changed, take, push, not full and not has, full and not room)


@numba.njit(cache=True)
def _narrow(i: int, c: Any, s: Any, has: bool, room: bool) -> int:
    """dwc.sv, genDown. s[0]: ACnt, minus the words left, 1 when empty; s[1]: BRdy; s[2]: CVld."""
    count, side, valid = s[i, 0], s[i, 1] != 0, s[i, 2] != 0
    ready = side and count >= 0
    take = has and ready
    push = valid and room
    after = count
    if ready:
        after = 1 - c[i, 0] if has else 1
    elif side:
        after = count + 1
    side_after = not valid or room or (side and count == 1)
    valid_after = (valid and not room) or not side or count < 1
    changed = after != count or side_after != side or valid_after != valid
    s[i, 0] = after
    s[i, 1] = side_after
    s[i, 2] = valid_after
    return _flags(changed, take, push, ready and not has, valid and not room)


@numba.njit(cache=True)
def _padding(i: int, c: Any, s: Any, has: bool, room: bool) -> int:
    """fmpadding.sv. s: side register A, output register B, counters of fold, column, row."""
    a, b = s[i, 0] != 0, s[i, 1] != 0
    x, y = s[i, 3], s[i, 4]
    inside = c[i, 3] <= x < c[i, 4] and c[i, 5] <= y < c[i, 6]
    load = room or not b
    word = has or a or not inside
    push = b and room
    take = has and not a
    moved = load and word
    if moved:
        s[i, 2] += 1
        if s[i, 2] == c[i, 0]:
            s[i, 2] = 0
            s[i, 3] += 1
            if s[i, 3] == c[i, 1]:
                s[i, 3] = 0
                s[i, 4] += 1
                if s[i, 4] == c[i, 2]:
                    s[i, 4] = 0
    a_after = (a or has) and ((b and not room) or not inside)
    b_after = word if load else b
    s[i, 0] = a_after
    s[i, 1] = b_after
    changed = moved or a_after != a or b_after != b
    return _flags(changed, take, push, inside and not has and not a, b and not room)


@numba.njit(cache=True)
def _window(i: int, c: Any, s: Any, has: bool, room: bool) -> int:
    """swg_template_default.sv with swg_controller.

    s[0] newest word in the buffer, s[1] word fetched next, s[2] oldest word still needed,
    s[3] output register full, s[4] all fetched, s[5] all written, s[6:9] loops inside a window,
    s[9] window in the row, s[10] row. c[17] is where s[2] wraps to negative, 0: nowhere.
    """
    last_read, last_write = c[i, 0], c[i, 1]
    newest, current, out, fetched_all = s[i, 0], s[i, 1], s[i, 3] != 0, s[i, 4] != 0
    written_all = s[i, 5] != 0
    write = out and room
    fetch = current <= newest and not (out and not room) and not fetched_all
    read_all = newest == last_read
    oldest = newest - c[i, 2]
    want = not read_all and (fetched_all or (oldest < s[i, 2] and oldest < current))
    take = want and has
    restart = False
    if take:
        s[i, 0] = newest + 1
        if newest == last_read - 1 and written_all:
            restart = True
    if fetch:
        if s[i, 6] == 0 and s[i, 7] == 0 and (s[i, 8] == 0 or c[i, 16] != 0):
            # The first word of a window (depthwise: of a fold of its channels).
            if c[i, 16] != 0 and s[i, 8] < c[i, 5] - 1:
                s[i, 2] += 1
            elif s[i, 9] < c[i, 6] - 1:
                s[i, 2] += c[i, 13]
            elif s[i, 10] < c[i, 7] - 1:
                s[i, 2] += c[i, 14]
            else:
                s[i, 2] += c[i, 15]
            if c[i, 17] != 0 and s[i, 2] >= c[i, 17]:
                s[i, 2] -= 2 * c[i, 17]
        increment = c[i, 8]
        s[i, 6] += 1
        if s[i, 6] == c[i, 3]:
            s[i, 6] = 0
            increment = c[i, 9]
            s[i, 7] += 1
            if s[i, 7] == c[i, 4]:
                s[i, 7] = 0
                increment = c[i, 10]
                s[i, 8] += 1
                if s[i, 8] == c[i, 5]:
                    s[i, 8] = 0
                    increment = c[i, 11]
                    s[i, 9] += 1
                    if s[i, 9] == c[i, 6]:
                        s[i, 9] = 0
                        increment = c[i, 12]
                        s[i, 10] += 1
                        if s[i, 10] == c[i, 7]:
                            s[i, 10] = 0
        if current == last_write:
            s[i, 4] = 1
        else:
            s[i, 1] = current + increment
        s[i, 3] = 1
    elif write:
        s[i, 3] = 0
    if write and fetched_all:
        if read_all or (take and newest == last_read - 1):
            restart = True
        else:
            s[i, 5] = 1
    if restart:
        s[i, 0] = -1
        s[i, 1] = 0
        s[i, 2] = 0
        s[i, 4] = 0
        s[i, 5] = 0
    starved = want and not has and current > newest
    return _flags(fetch or write, take, write, starved, out and not room)


@numba.njit(cache=True)
def _window_parallel(i: int, c: Any, s: Any, has: bool, room: bool) -> int:
    """swg_template_parallel.sv. s[0] newest, s[1] current, s[2] all written, s[3] Write_done,
    s[4] word in the pixel, s[5] window in the row.
    """
    newest, current, finished, done = s[i, 0], s[i, 1], s[i, 2] != 0, s[i, 3] != 0
    write_command = current <= newest and not finished
    write_ok = write_command and (room or done)
    write_blocked = write_command and not room and not done
    read_all = newest == c[i, 0]
    want = not read_all and (finished or newest <= current)
    take = want and has and not write_blocked
    advance = take or (not want and (write_ok or not write_command))
    push = write_command and not done and room
    changed = False
    if advance:
        changed = done
        s[i, 3] = 0
    elif write_ok:
        changed = not done
        s[i, 3] = 1
    restart = False
    if take:
        s[i, 0] = newest + 1
        if newest == c[i, 0] - 1 and finished:
            restart = True
    if write_ok:
        changed = True
        if current == c[i, 1]:
            s[i, 2] = 1
            if read_all or (take and newest == c[i, 0] - 1):
                restart = True
        else:
            increment = 1
            s[i, 4] += 1
            if s[i, 4] == c[i, 5]:
                s[i, 4] = 0
                increment = c[i, 3]
                s[i, 5] += 1
                if s[i, 5] == c[i, 6]:
                    s[i, 5] = 0
                    increment = c[i, 4]
            s[i, 1] = current + increment
    if restart:
        s[i, 0] = -1
        s[i, 1] = c[i, 2]
        s[i, 2] = 0
        s[i, 4] = 0
        s[i, 5] = 0
    return _flags(changed, take, push, want and not has, write_blocked)


@numba.njit(cache=True)
def _multiplier(i: int, c: Any, s: Any, has: bool, room: bool) -> int:
    """mvu_vvu_axi.sv with replay_buffer.sv and its core.

    s[0] output register B, s[1] pipeline of the core as bits, s[2] word in the vector, s[3] pass,
    s[4] word in the replay register: 0 none, 1, or 2 the last of a vector, s[5] ARdy: the
    side-step register is empty, s[6] words in the replay buffer (WP - FP), s[7] of these not yet
    read (WP - RP).
    """
    b, pipe, ready = s[i, 0] != 0, s[i, 1], s[i, 5] != 0
    enabled = ready
    result = (pipe & c[i, 4]) != 0
    push = b and room
    load = not b or room
    take = False
    moved = False
    last = False
    starved = False
    if c[i, 2] != 0:
        take = has and s[i, 6] < c[i, 3]
        starved = s[i, 7] == 0 and not has
        held = s[i, 4]
        read = held == 0 or enabled
        if enabled:
            last = held == 2
        if read:
            available = s[i, 7] > 0
            moved = available or held != 0
            s[i, 4] = 0
            if available:
                final = s[i, 2] == c[i, 0] - 1
                last_pass = s[i, 3] == c[i, 1] - 1
                s[i, 4] = 2 if final else 1
                s[i, 7] += c[i, 0] - 1 if final and not last_pass else -1
                if last_pass:
                    s[i, 6] -= 1
                if final:
                    s[i, 2] = 0
                    s[i, 3] = 0 if last_pass else s[i, 3] + 1
                else:
                    s[i, 2] += 1
        if take:
            s[i, 6] += 1
            s[i, 7] += 1
    elif enabled:
        # Without a replay buffer: words of the first pass come straight from the input.
        first = s[i, 3] == 0
        starved = first and not has
        if has or not first:
            take = first
            moved = True
            last = s[i, 2] == c[i, 0] - 1
            if last:
                s[i, 2] = 0
                s[i, 3] = 0 if s[i, 3] == c[i, 1] - 1 else s[i, 3] + 1
            else:
                s[i, 2] += 1
    if enabled:
        after = ((pipe << 1) & (2 * c[i, 4] - 1)) | (1 if last else 0)
        moved = moved or after != pipe
        s[i, 1] = after
    ready_after = (ready and not result) or load
    b_after = b
    if load:
        b_after = result or not ready
    s[i, 5] = ready_after
    s[i, 0] = b_after
    changed = moved or ready_after != ready or b_after != b
    return _flags(changed, take, push, starved, b and not room)


@numba.njit(cache=True)
def _threshold(i: int, c: Any, s: Any, has: bool, room: bool) -> int:
    """thresholding.sv. s[0] words inside, s[1] pipeline as bits, s[2] output FIFO, s[3] BVld."""
    b = s[i, 3] != 0
    take = has and s[i, 0] < c[i, 0]
    push = b and room
    load = not b or room
    arrives = 1 if (s[i, 1] & c[i, 1]) != 0 else 0
    leaves = 1 if load and s[i, 2] > 0 else 0
    pipe = ((s[i, 1] << 1) & (2 * c[i, 1] - 1)) | (1 if take else 0)
    changed = pipe != s[i, 1] or arrives != leaves
    if load:
        changed = changed or (leaves != 0) != b
        s[i, 3] = leaves
    s[i, 2] += arrives - leaves
    s[i, 1] = pipe
    s[i, 0] += (1 if take else 0) - (1 if push else 0)
    return _flags(changed, take, push, not has and s[i, 0] == 0, b and not room)


@numba.njit(cache=True)
def _batch(i: int, c: Any, s: Any, has: bool, room: bool) -> int:
    """Takes c[0] words, then gives c[1]; the last word given and the next taken do not overlap."""
    if s[i, 0] < c[i, 0]:
        if has:
            s[i, 0] += 1
        return _flags(False, has, False, not has, False)
    if room:
        s[i, 1] += 1
        if s[i, 1] == c[i, 1]:
            s[i, 0] = 0
            s[i, 1] = 0
    return _flags(False, False, room, False, not room)


@numba.njit(cache=True)
def _pick(i: int, c: Any, s: Any, has: bool, room: bool) -> int:
    """A register that keeps some of the words.

    Words come in groups of c[0], groups in rows of c[1], rows in frames of c[2]; kept are the
    groups whose place in the row is c[4] modulo c[3], of the rows that are 0 modulo c[5].
    s[0] register, s[1] word, s[2] group, s[3] row.
    """
    full = s[i, 0] != 0
    push = full and room
    take = has and (not full or push)
    keep = False
    if take:
        keep = s[i, 2] % c[i, 3] == c[i, 4] and s[i, 3] % c[i, 5] == 0
        s[i, 1] += 1
        if s[i, 1] == c[i, 0]:
            s[i, 1] = 0
            s[i, 2] += 1
            if s[i, 2] == c[i, 1]:
                s[i, 2] = 0
                s[i, 3] = (s[i, 3] + 1) % c[i, 2]
    s[i, 0] = keep or (full and not push)
    return _flags(False, take, push, not has and not (full and not room), full and not room)
