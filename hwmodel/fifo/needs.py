"""How many words of a frame a kernel must have taken before it can give its n-th.

This is what makes a skip wait, and it does not depend on time: the branch of a fork must swallow
that many words before the join gets its next one, and the FIFO of the skip must hold them all.
"""

from __future__ import annotations

from functools import singledispatch
from typing import Any

import numpy as np

from hwmodel import kernels as k
from hwmodel.kernels.kernel import Kernel


@singledispatch
def need(kernel: Kernel, output: Any) -> Any:
    """Words of each input that must have come for these words of the output.

    Args:
        kernel: the kernel; of one with several inputs, all need the same.
        output: how many words it shall have given (1 ... words of a frame), an array.

    Returns:
        As many words of its input, the same shape.
    """
    raise NotImplementedError(f"what {type(kernel).__name__} needs is not known")


def _index(output: Any) -> Any:
    """The index of the last of so many words; -1 for none."""
    return np.asarray(output) - 1


@need.register(k.Fork)
@need.register(k.Join)
@need.register(k.Threshold)
@need.register(k.Channelwise)
def _(kernel: Kernel, output: Any) -> Any:
    return np.asarray(output)


@need.register
def _(kernel: k.WidthConverter, output: Any) -> Any:
    return -(-np.asarray(output) * kernel.out_of // kernel.into)


@need.register
def _(kernel: k.Padding, output: Any) -> Any:
    fold = kernel.channels // kernel.simd
    pixel, word = np.divmod(_index(output), fold)
    y, x = np.divmod(pixel, kernel.out_width)
    top, left, _, _ = kernel.pads
    y = y - top
    rows = np.clip(y, 0, kernel.height)
    inside = (y >= 0) & (y < kernel.height)
    column = x - left
    whole = np.clip(column, 0, kernel.width)
    at_pixel = (column >= 0) & (column < kernel.width)
    pixels = rows * kernel.width + np.where(inside, whole, 0)
    return pixels * fold + np.where(inside & at_pixel, word + 1, 0)


@need.register
def _(kernel: k.ChannelPadding, output: Any) -> Any:
    before, own = kernel.before // kernel.simd, kernel.channels // kernel.simd
    width = before + own + kernel.after // kernel.simd
    pixel, word = np.divmod(_index(output), width)
    return pixel * own + np.clip(word - before + 1, 0, own)


@need.register
def _(kernel: k.Window, output: Any) -> Any:
    fold, taps_w = kernel.fold, kernel.kernel[1]
    index = _index(output)
    taps = 1 if kernel.is_parallel else kernel.kernel[0] * taps_w
    window, word = np.divmod(index, taps * fold)
    y, x = np.divmod(window, kernel.out_width)
    if kernel.is_parallel:
        tap, channel = kernel.kernel[0] * taps_w - 1, word
    elif kernel.depthwise:
        channel, tap = np.divmod(word, taps)
    else:
        tap, channel = np.divmod(word, fold)
    tap_y, tap_x = np.divmod(tap, taps_w)
    row = y * kernel.stride[0] + tap_y * kernel.dilation[0]
    column = x * kernel.stride[1] + tap_x * kernel.dilation[1]
    at = (row * kernel.width + column) * fold + channel + 1
    # Words before it have been sent, so what they needed has come.
    return np.maximum.accumulate(at) if np.ndim(at) else at


@need.register
def _(kernel: k.MatrixVector, output: Any) -> Any:
    return (_index(output) // kernel.neuron_fold + 1) * kernel.synapse_fold


@need.register
def _(kernel: k.VectorVector, output: Any) -> Any:
    return np.asarray(output) * kernel.synapse_fold


@need.register
def _(kernel: k.Pool, output: Any) -> Any:
    return np.asarray(output) * (kernel.kernel[0] * kernel.kernel[1])


@need.register
def _(kernel: k.MaxPool, output: Any) -> Any:
    row = kernel.kernel[0] * kernel.width * kernel.fold
    return (_index(output) // (kernel.out_width * kernel.fold) + 1) * row


@need.register
def _(kernel: k.GlobalPool, output: Any) -> Any:
    return np.full(np.shape(output), kernel.inputs[0].words)


@need.register
def _(kernel: k.LabelSelect, output: Any) -> Any:
    return np.full(np.shape(output), kernel.inputs[0].words)


@need.register
def _(kernel: k.Upsample, output: Any) -> Any:
    row = kernel.width * kernel.channels // kernel.simd
    return (_index(output) // (row * kernel.scale**2) + 1) * row


@need.register
def _(kernel: k.Shuffle, output: Any) -> Any:
    words = kernel.page // kernel.simd
    return (_index(output) // words + 1) * words


@need.register
def _(kernel: k.Split, output: Any) -> Any:
    """Of the first output."""
    pixel, word = np.divmod(_index(output), kernel.channels[0] // kernel.pe)
    return pixel * (sum(kernel.channels) // kernel.pe) + word + 1


@need.register
def _(kernel: k.Downsample, output: Any) -> Any:
    fold = kernel.channels // kernel.simd
    pixel, word = np.divmod(_index(output), fold)
    y, x = np.divmod(pixel, kernel.out_width)
    place = y * kernel.stride[0] * kernel.width + x * kernel.stride[1]
    return place * fold + word + 1
