"""Kernels as the engine's state machines: operation code, constants, state at reset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

import numpy as np

from hwmodel import kernels as k
from hwmodel.kernels.kernel import Kernel
from hwmodel.simulate.engine import (
    BATCH,
    CONCAT,
    DOWN,
    MULTIPLY,
    PAD,
    PICK,
    REGISTER,
    SPLIT,
    THRESHOLD,
    UP,
    WINDOW,
    WINDOW_PARALLEL,
    WIRE,
)

PARAMETERS = 24
"""Constants of a machine, at most."""
STATES = 20
"""State variables of a machine, at most."""


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
def _(kernel: k.Split) -> Machine:
    folds = [channels // kernel.pe for channels in kernel.channels]
    if len(folds) + 1 > PARAMETERS:
        raise NotImplementedError(f"{kernel.name} splits into more than {PARAMETERS - 1} streams")
    return Machine(SPLIT, (len(folds), *folds))


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
def _(kernel: k.Shuffle) -> Machine:
    # One page at a time: two of them, where the hardware has them, hide half of it.
    words = kernel.page // kernel.simd
    return Machine(BATCH, (words, words))


@machine.register
def _(kernel: k.Pool) -> Machine:
    taps = kernel.kernel[0] * kernel.kernel[1]
    return Machine(PICK, (1, taps, 1, taps, taps - 1, 1))


@machine.register
def _(kernel: k.Downsample) -> Machine:
    fold = kernel.channels // kernel.simd
    stride_h, stride_w = kernel.stride
    return Machine(PICK, (fold, kernel.width, kernel.height, stride_w, 0, stride_h))


def state_of(machines: Sequence[Machine]) -> tuple[Any, Any, Any]:
    """Arrays of codes [kernels], constants [kernels, PARAMETERS] and states [kernels, STATES]."""
    codes = np.array([each.code for each in machines], np.int64)
    constants = np.zeros((len(machines), PARAMETERS), np.int64)
    states = np.zeros((len(machines), STATES), np.int64)
    for row, each in enumerate(machines):
        constants[row, : len(each.constants)] = each.constants
        states[row, : len(each.reset)] = each.reset
    return codes, constants, states
