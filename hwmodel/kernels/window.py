"""Line buffers: padding of a map, and the sliding window over it."""

from __future__ import annotations

from dataclasses import dataclass

from hwmodel.datatypes import DataType
from hwmodel.kernels.kernel import Port


@dataclass(frozen=True, kw_only=True)
class Padding:
    """Puts a border of zeros around a map (FINN: FMPadding).

    Attributes:
        height, width, channels: the map before padding.
        pads: zeros at the top, left, bottom and right.
        simd: channels in a word.
    """

    name: str
    height: int
    width: int
    channels: int
    pads: tuple[int, int, int, int]
    element: DataType
    simd: int = 1

    @property
    def out_height(self) -> int:
        """Height of the padded map."""
        return self.height + self.pads[0] + self.pads[2]

    @property
    def out_width(self) -> int:
        """Width of the padded map."""
        return self.width + self.pads[1] + self.pads[3]

    @property
    def inputs(self) -> tuple[Port, ...]:
        fold = self.channels // self.simd
        return (Port(self.element, self.simd, self.height * self.width * fold),)

    @property
    def outputs(self) -> tuple[Port, ...]:
        fold = self.channels // self.simd
        return (Port(self.element, self.simd, self.out_height * self.out_width * fold),)

    @property
    def cycles(self) -> int:
        return self.outputs[0].words


@dataclass(frozen=True, kw_only=True)
class Window:
    """The sliding window generator of a convolution or pool (FINN: ConvolutionInputGenerator).

    In the default style a window leaves word by word: k_h k_w C / SIMD words. In the parallel
    style a whole window of k_h k_w SIMD elements leaves in one word.

    Attributes:
        height, width, channels: the map it reads, padding included.
        kernel, stride, dilation: along height and width.
        simd: channels in a word that comes in.
        depthwise: windows leave channel by channel: for each fold of channels k_h k_w words.
        parallel: the parallel style (FINN: parallel_window).
        ram_style: what holds the line buffer.
        counter_wraps: FINN's generator before Xilinx/finn pull request 1698, whose counter of the
            oldest word is too narrow: see `counter_too_narrow`.
    """

    name: str
    height: int
    width: int
    channels: int
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    element: DataType
    simd: int = 1
    depthwise: bool = False
    parallel: bool = False
    ram_style: str = "auto"
    counter_wraps: bool = False

    @property
    def out_height(self) -> int:
        """Rows of windows."""
        return (self.height - (self.kernel[0] - 1) * self.dilation[0] - 1) // self.stride[0] + 1

    @property
    def out_width(self) -> int:
        """Windows in a row."""
        return (self.width - (self.kernel[1] - 1) * self.dilation[1] - 1) // self.stride[1] + 1

    @property
    def fold(self) -> int:
        """Words in a pixel."""
        return self.channels // self.simd

    @property
    def is_parallel(self) -> bool:
        """Whether the parallel implementation is built, as FINN's select_impl_style."""
        return self.kernel == (1, 1) or (self.parallel and self.kernel[0] * self.kernel[1] > 1)

    @property
    def window_words(self) -> int:
        """Words of input from the first to the last pixel of one window."""
        reach = (self.kernel[0] - 1) * self.dilation[0] * self.width
        reach += (self.kernel[1] - 1) * self.dilation[1]
        return reach * self.fold + 1 if self.is_parallel else (reach + 1) * self.fold

    @property
    def last_needed(self) -> int:
        """Index in the frame of the last word of the last window (FINN: LAST_WRITE_ELEM)."""
        reach_h = (self.kernel[0] - 1) * self.dilation[0] + 1
        reach_w = (self.kernel[1] - 1) * self.dilation[1] + 1
        # FINN's remainder: not what is left over where the windows use less than half of a side.
        unused_rows = self.height % (reach_h + (self.out_height - 1) * self.stride[0])
        unused_columns = self.width % (reach_w + (self.out_width - 1) * self.stride[1])
        rows = (self.height - unused_rows - 1) * self.width
        return (rows + self.width - unused_columns) * self.fold - 1

    @property
    def counter_bits(self) -> int:
        """Width of FINN's signed counter of the oldest word that is still needed."""
        return (self.height * self.width * self.fold - 1).bit_length() + 1

    @property
    def counter_too_narrow(self) -> bool:
        """Whether that counter overflows in the last window of a depthwise convolution.

        FINN's generator then takes no further word, and hangs for ever if the last word of the
        frame comes three or more cycles after the one before (Xilinx/finn pull request 1698).
        """
        by_channel = self.depthwise and self.fold > 1 and not self.is_parallel
        return by_channel and self.last_needed + self.fold - 1 >= 1 << (self.counter_bits - 1)

    @property
    def buffer_words(self) -> int:
        """Depth of the line buffer in words (FINN: get_buffer_depth)."""
        if self.is_parallel:
            return self.window_words + 1
        taps = self.kernel[0] * self.kernel[1]
        slack = max(0, (self.stride[1] - 1) - taps)
        slack += max(0, (self.stride[0] - 1) * self.width - taps)
        return self.window_words + slack * self.fold

    @property
    def inputs(self) -> tuple[Port, ...]:
        return (Port(self.element, self.simd, self.height * self.width * self.fold),)

    @property
    def outputs(self) -> tuple[Port, ...]:
        windows = self.out_height * self.out_width * self.fold
        taps = self.kernel[0] * self.kernel[1]
        if self.is_parallel:
            return (Port(self.element, self.simd * taps, windows),)
        return (Port(self.element, self.simd, windows * taps),)

    @property
    def cycles(self) -> int:
        """As FINN's get_exp_cycles; the restart between frames is left out there, and here."""
        if self.is_parallel:
            return self.inputs[0].words + 2
        taps = self.kernel[0] * self.kernel[1]
        row_out = self.out_width * taps * self.fold
        row_in = self.stride[0] * self.width * self.fold
        return self.window_words + self.out_height * max(row_out, row_in)


@dataclass(frozen=True, kw_only=True)
class Downsample:
    """Keeps every s-th pixel of every s-th row (FINN: DownSampler)."""

    name: str
    height: int
    width: int
    channels: int
    stride: tuple[int, int]
    element: DataType
    simd: int = 1

    @property
    def out_height(self) -> int:
        """Rows kept."""
        return (self.height - 1) // self.stride[0] + 1

    @property
    def out_width(self) -> int:
        """Pixels kept in a row."""
        return (self.width - 1) // self.stride[1] + 1

    @property
    def inputs(self) -> tuple[Port, ...]:
        fold = self.channels // self.simd
        return (Port(self.element, self.simd, self.height * self.width * fold),)

    @property
    def outputs(self) -> tuple[Port, ...]:
        fold = self.channels // self.simd
        return (Port(self.element, self.simd, self.out_height * self.out_width * fold),)

    @property
    def cycles(self) -> int:
        return self.inputs[0].words


@dataclass(frozen=True, kw_only=True)
class ChannelPadding:
    """Puts channels of zeros before and after those of each pixel.

    ResNet's shortcut of option A. FINN has no such kernel; this one is `Padding` along channels.
    """

    name: str
    vectors: int
    channels: int
    before: int
    after: int
    element: DataType
    simd: int = 1

    @property
    def inputs(self) -> tuple[Port, ...]:
        return (Port(self.element, self.simd, self.vectors * self.channels // self.simd),)

    @property
    def outputs(self) -> tuple[Port, ...]:
        channels = self.before + self.channels + self.after
        return (Port(self.element, self.simd, self.vectors * channels // self.simd),)

    @property
    def cycles(self) -> int:
        return self.outputs[0].words
