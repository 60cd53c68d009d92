"""Elementwise kernels with constants for each channel."""

from __future__ import annotations

from dataclasses import dataclass

from hwmodel.datatypes import DataType
from hwmodel.kernels.kernel import Port


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """Counts how many thresholds of its channel an element reaches (FINN: Thresholding).

    Attributes:
        channels: C.
        vectors: pixels in a frame.
        pe: channels in a word.
        input, threshold, output: element types.
        steps: thresholds of a channel.
        bits: N of the RTL, the stages of its binary search; None: from `steps`.
        deep_pipeline: two registers in a stage instead of one (FINN's default).
        backend: "rtl" or "hls".
        depth_trigger_bram, depth_trigger_uram: FINN's attributes of the same name.
        shared: all channels have the same thresholds, as in the quantizer of a whole tensor; no
            memory is needed then.
        ram_style: what holds the thresholds of an HLS kernel (FINN: ram_style).
    """

    name: str
    channels: int
    vectors: int = 1
    pe: int = 1
    input: DataType
    threshold: DataType
    output: DataType
    steps: int
    bits: int | None = None
    deep_pipeline: bool = True
    backend: str = "rtl"
    depth_trigger_bram: int = 0
    depth_trigger_uram: int = 0
    shared: bool = False
    ram_style: str = "distributed"

    @property
    def stages(self) -> int:
        """N: stages of the binary search."""
        return self.bits if self.bits is not None else self.steps.bit_length()

    @property
    def fold(self) -> int:
        """Words in a pixel."""
        return self.channels // self.pe

    @property
    def inputs(self) -> tuple[Port, ...]:
        return (Port(self.input, self.pe, self.vectors * self.fold),)

    @property
    def outputs(self) -> tuple[Port, ...]:
        return (Port(self.output, self.pe, self.vectors * self.fold),)

    @property
    def cycles(self) -> int:
        return self.inputs[0].words


@dataclass(frozen=True, kw_only=True)
class Channelwise:
    """Adds to, or multiplies, each element by a constant of its channel.

    Attributes:
        function: "add", "mul", "sub", "cmp_le" ...
        channels: C.
        vectors: pixels in a frame.
        pe: channels in a word.
        input, parameter, output: element types; `parameter` is that of the constants.
        ram_style: what holds the constants.
        constants: how many there are; None: one for each channel.
        memory: where they are, as in `MatrixVector`.
        operator: FINN's kind of node: "elementwise" (ElementwiseAdd, ElementwiseMul ...) or
            "channelwise" (ChannelwiseOp, which only Xilinx/finn has).
    """

    name: str
    function: str
    channels: int
    vectors: int = 1
    pe: int = 1
    input: DataType
    parameter: DataType
    output: DataType
    ram_style: str = "auto"
    constants: int | None = None
    memory: str = "internal_embedded"
    operator: str = "elementwise"

    @property
    def fold(self) -> int:
        """Words in a pixel."""
        return self.channels // self.pe

    @property
    def inputs(self) -> tuple[Port, ...]:
        return (Port(self.input, self.pe, self.vectors * self.fold),)

    @property
    def outputs(self) -> tuple[Port, ...]:
        return (Port(self.output, self.pe, self.vectors * self.fold),)

    @property
    def cycles(self) -> int:
        return self.inputs[0].words
