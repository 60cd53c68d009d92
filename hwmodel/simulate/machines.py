"""The state machine of each kernel: which words it takes and gives in a cycle.

A machine is one register transfer: from the state before the clock edge, whether its inputs hold
a word and whether its outputs have room, it decides what moves in this cycle and the state after
the edge. That is all that flow control depends on, since a FIFO stands at both sides of every
kernel. The rules are those of FINN's RTL (finn-rtllib, BSD-3); each machine names its file.

`machine(kernel)` gives the operation code and the constants of a kernel; `step` is the clock edge,
compiled by numba. A kernel whose state did not change in a step will not change before one of its
FIFOs does: the engine lets it sleep until then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

import numba
import numpy as np

from hwmodel import kernels as k
from hwmodel.kernels.kernel import Kernel

# Operation codes.
WIRE, UP, DOWN, PAD, WINDOW, WINDOW_PARALLEL, MULTIPLY, THRESHOLD, REGISTER, CONCAT, BATCH, PICK = (
    range(12)
)

PARAMETERS = 24
"""Constants of a machine, at most."""
STATES = 20
"""State variables of a machine, at most."""

# What `step` returns, as bits.
CHANGED, TAKE, PUSH, STARVED, BLOCKED = 1, 2, 4, 8, 16


@dataclass(frozen=True)
class Machine:
    """Operation code, constants and state at reset."""

    code: int
    constants: Sequence[int] = ()
    reset: Sequence[int] = ()


@singledispatch
def machine(kernel: Kernel) -> Machine:
    """The machine of a kernel.

    Raises:
        NotImplementedError: the kernel has none.
    """
    raise NotImplementedError(f"no flow-control model of {type(kernel).__name__}")


@machine.register
def _(kernel: k.WidthConverter) -> Machine:
    if kernel.into == kernel.out_of:
        return Machine(WIRE)
    if kernel.into < kernel.out_of:
        ratio = kernel.out_of // kernel.into
        return Machine(UP, (ratio,), (ratio - 1, 1))
    return Machine(DOWN, (kernel.into // kernel.out_of,), (1, 1, 0))


@machine.register
def _(kernel: k.Padding) -> Machine:
    top, left, _, _ = kernel.pads
    return Machine(
        PAD,
        (
            kernel.channels // kernel.simd,
            kernel.out_width,
            kernel.out_height,
            left,
            left + kernel.width,
            top,
            top + kernel.height,
        ),
    )


@machine.register
def _(kernel: k.ChannelPadding) -> Machine:
    # A pixel is a row of channels.
    first, last = kernel.before // kernel.simd, (kernel.before + kernel.channels) // kernel.simd
    width = (kernel.before + kernel.channels + kernel.after) // kernel.simd
    return Machine(PAD, (1, width, kernel.vectors, first, last, 0, kernel.vectors))


@machine.register
def _(kernel: k.Window) -> Machine:
    fold, width = kernel.fold, kernel.width
    (kernel_h, kernel_w), (stride_h, stride_w) = kernel.kernel, kernel.stride
    dilation_h, dilation_w = kernel.dilation
    reach_w = (kernel_w - 1) * dilation_w + 1
    unused_columns = width % (reach_w + (kernel.out_width - 1) * stride_w)
    last_read = kernel.height * width * fold - 1
    last_write = kernel.last_needed
    words = kernel.window_words
    if kernel.is_parallel:
        next_window = (stride_w - 1) * fold + 1
        next_row = (unused_columns + reach_w - 1) * fold + 1 + (stride_h - 1) * width * fold
        return Machine(
            WINDOW_PARALLEL,
            (last_read, last_write, words - 1, next_window, next_row, fold, kernel.out_width),
            (-1, words - 1),
        )
    next_row = (unused_columns + reach_w) * fold + (stride_h - 1) * width * fold
    by_channel = kernel.depthwise and fold > 1
    inner = (
        # Depthwise: channel folds outside, then rows and columns of the window.
        (kernel_w, kernel_h, fold, dilation_w * fold)
        if by_channel
        else (fold, kernel_w, kernel_h, 1)
    )
    jump_row = (width - reach_w) * fold + (dilation_h - 1) * width * fold
    if by_channel:
        jumps = (jump_row + fold, -words + fold + 1)
    else:
        jumps = ((dilation_w - 1) * fold + 1, jump_row + 1)
    slack = fold if by_channel else 0
    return Machine(
        WINDOW,
        (
            last_read,
            last_write,
            kernel.buffer_words - 1,
            *inner[:3],
            kernel.out_width,
            kernel.out_height,
            # Increments of the position that is fetched next.
            inner[3],
            *jumps,
            -words + stride_w * fold + 1,
            -words + next_row + 1,
            # Increments of the oldest position still needed.
            stride_w * fold + 1 - slack if by_channel else stride_w * fold,
            next_row + 1 - slack if by_channel else next_row,
            words - 1,
            int(by_channel),
            1 << (kernel.counter_bits - 1) if kernel.counter_wraps else 0,
        ),
        (-1,),
    )


@machine.register
def _(kernel: k.MatrixVector) -> Machine:
    replayed = kernel.neuron_fold > 1
    prefetch = kernel.backend == "rtl" and replayed
    return _multiply(kernel.synapse_fold, kernel.neuron_fold, prefetch, _latency(kernel))


@machine.register
def _(kernel: k.VectorVector) -> Machine:
    chain = -(-kernel.simd // 3)
    latency = 2 + -(-chain // (kernel.segment or chain)) if kernel.backend == "rtl" else HLS_LATENCY
    return _multiply(kernel.synapse_fold, 1, False, latency)


HLS_LATENCY = 5
"""Cycles through an HLS kernel that multiplies: HLS chooses it, so this is a guess. It shifts the
first result of a frame; one cycle of it is one word in the buffers beside it."""


def _latency(kernel: k.MatrixVector) -> int:
    """Enabled cycles from the last word of a vector to its result."""
    if kernel.backend != "rtl":
        return HLS_LATENCY
    if kernel.core == "mvu_vvu_8sx9_dsp58":
        return 3
    return 5


def _multiply(words: int, passes: int, prefetch: bool, latency: int) -> Machine:
    # The replay buffer holds a power of two of words, 2 at least (replay_buffer.sv).
    capacity = max(2, 1 << (words - 1).bit_length())
    return Machine(
        MULTIPLY, (words, passes, int(prefetch), capacity, 1 << (latency - 1)), (0, 0, 0, 0, 0, 1)
    )


@machine.register
def _(kernel: k.Threshold) -> Machine:
    stages = kernel.stages * (2 if kernel.deep_pipeline else 1)
    return Machine(THRESHOLD, (stages + 3, 1 << (stages - 1)))


@machine.register(k.Fork)
@machine.register(k.Join)
@machine.register(k.Channelwise)
def _(kernel: Kernel) -> Machine:
    return Machine(REGISTER)


@machine.register
def _(kernel: k.Concat) -> Machine:
    folds = [channels // kernel.pe for channels in kernel.channels]
    if len(folds) + 1 > PARAMETERS:
        raise NotImplementedError(f"{kernel.name} concatenates more than {PARAMETERS - 1} streams")
    return Machine(CONCAT, (len(folds), *folds))


@machine.register
def _(kernel: k.MaxPool) -> Machine:
    rows = kernel.kernel[0] * kernel.width * kernel.fold
    return Machine(BATCH, (rows, kernel.out_width * kernel.fold))


@machine.register
def _(kernel: k.GlobalPool) -> Machine:
    return Machine(BATCH, (kernel.vectors * kernel.fold, kernel.fold))


@machine.register
def _(kernel: k.LabelSelect) -> Machine:
    return Machine(BATCH, (kernel.inputs[0].words, kernel.k))


@machine.register
def _(kernel: k.Upsample) -> Machine:
    # A row in, then it leaves `scale` times.
    row = kernel.width * kernel.channels // kernel.simd
    return Machine(BATCH, (row, row * kernel.scale**2))


@machine.register
def _(kernel: k.Pool) -> Machine:
    taps = kernel.kernel[0] * kernel.kernel[1]
    return Machine(PICK, (1, taps, 1, taps, taps - 1, 1))


@machine.register
def _(kernel: k.Downsample) -> Machine:
    fold = kernel.channels // kernel.simd
    stride_h, stride_w = kernel.stride
    return Machine(PICK, (fold, kernel.width, kernel.height, stride_w, 0, stride_h))


@numba.njit(cache=True)
def step(code: int, i: int, c: Any, s: Any, has: bool, room: bool) -> int:
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


def state_of(machines: Sequence[Machine]) -> tuple[Any, Any, Any]:
    """Arrays of codes [kernels], constants [kernels, PARAMETERS] and states [kernels, STATES]."""
    codes = np.array([each.code for each in machines], np.int64)
    constants = np.zeros((len(machines), PARAMETERS), np.int64)
    states = np.zeros((len(machines), STATES), np.int64)
    for row, each in enumerate(machines):
        constants[row, : len(each.constants)] = each.constants
        states[row, : len(each.reset)] = each.reset
    return codes, constants, states
