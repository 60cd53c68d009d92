"""Padding, sliding windows, downsampling (finn-rtllib/fmpadding, finn-rtllib/swg)."""

from __future__ import annotations

from hwmodel.kernels import ChannelPadding, Downsample, Padding, Window
from hwmodel.resources import Resources
from hwmodel.streaming.fabric import bits, bytewise, memory, shift_register
from hwmodel.streaming.terms import Part, Terms, terms


@terms.register
def _padding(kernel: Padding, part: Part) -> Terms:
    """fmpadding.sv: three nested counters, their bounds in writable registers, two word buffers.

    Flip-flops are exact: two words and their valid flags, the channel counter with its sign, four
    registers as wide as each of the other counters (count, on, off, end), and behind AXI-lite an
    address of five bits, the data and three flags.
    """
    word = bytewise(kernel.simd * kernel.element.bits)
    fold = bits(kernel.channels // kernel.simd - 1) + 1
    across, down = bits(kernel.out_width), bits(kernel.out_height)
    ff = 2 * (word + 1) + fold + 4 * (across + down) + max(across, down) + 8
    return Terms(
        "Padding",
        Resources(ff=ff),
        lut={"base": 1, "word": word, "counter": fold + across + down},
    )


@terms.register
def _window(kernel: Window, part: Part) -> Terms:
    """swg_template_default.sv and swg_template_parallel.sv: the buffer, and counters to steer it.

    Flip-flops are exact within two: every counter and the output word.
    """
    return _parallel(kernel, part) if kernel.is_parallel else _default(kernel, part)


def _default(kernel: Window, part: Part) -> Terms:
    width = kernel.simd * kernel.element.bits
    depth, fold = kernel.buffer_words, kernel.fold
    inner = (fold, *kernel.kernel) if kernel.depthwise else (*kernel.kernel, fold)
    taps = kernel.kernel[0] * kernel.kernel[1]
    steering = (
        3 * (bits(kernel.height * kernel.width * fold) + 1)  # newest, current, first of next
        + bits(taps * fold)  # position in the window
        + 2 * bits(depth)  # addresses
        + 1
        + _counters(kernel.out_height, kernel.out_width, *inner)
        + 6  # state of the controller, three flags
    )
    buffer = memory(kernel.ram_style, depth, width, part.fabric)
    return Terms(
        "Window",
        buffer + Resources(ff=steering + width),
        lut={"base": 1, "steering": steering},
        fitted=not kernel.depthwise,
    )


def _parallel(kernel: Window, part: Part) -> Terms:
    """Taps in registers, words between taps of a row in SRLs, lines between rows in memories."""
    width = kernel.simd * kernel.element.bits
    high, wide = kernel.kernel
    reach = (wide - 1) * kernel.dilation[1] + 1
    line = ((kernel.width - reach) + kernel.width * (kernel.dilation[0] - 1)) * kernel.fold
    gap = kernel.dilation[1] * kernel.fold - 1
    between = shift_register(gap, width) * (high * (wide - 1)) if gap else Resources()
    lines = Resources()
    if line and high > 1:
        lines = memory(kernel.ram_style, line, width, part.fabric) * (high - 1)
        lines += Resources(ff=width * (high - 1))
    steering = (
        2 * (bits(kernel.height * kernel.width * kernel.fold) + 1)
        + _counters(kernel.out_height, kernel.out_width, kernel.fold)
        + (2 * bits(line) if line and high > 1 else 0)
        + 5
    )
    taps = high * wide * width
    return Terms(
        "Window",
        between + lines + Resources(ff=steering + taps),
        lut={"base": 1, "steering": steering},
    )


def _counters(*loops: int) -> int:
    """Bits of the counters of nested loops; the controller's state counts once for the last."""
    turning = [loop for loop in loops if loop > 1]
    if not turning:
        return 0
    return sum(1 + bits(loop) for loop in turning[:-1]) + 1 + bits(turning[-1] - 1)


@terms.register
def _downsample(kernel: Downsample, part: Part) -> Terms:
    """Two counters and an output word, from the coefficients of `Padding`."""
    word = bytewise(kernel.simd * kernel.element.bits)
    counter = bits(kernel.width * kernel.channels // kernel.simd) + bits(kernel.height)
    return Terms(
        "Padding",
        Resources(ff=2 * (word + 1) + counter + 2),
        lut={"base": 1, "word": word, "counter": counter},
        fitted=False,
    )


@terms.register
def _channel_padding(kernel: ChannelPadding, part: Part) -> Terms:
    """A `Padding` whose rows are pixels."""
    word = bytewise(kernel.simd * kernel.element.bits)
    counter = bits(kernel.outputs[0].words // kernel.vectors) + bits(kernel.vectors)
    return Terms(
        "Padding",
        Resources(ff=2 * (word + 1) + counter + 2),
        lut={"base": 1, "word": word, "counter": counter},
        fitted=False,
    )
