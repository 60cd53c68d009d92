"""Pools, resizing and the choice of the largest."""

from __future__ import annotations

from dataclasses import dataclass

from hwmodel.datatypes import DataType
from hwmodel.kernels.kernel import Port


@dataclass(frozen=True, kw_only=True)
class MaxPool:
    """Maximum over windows that do not overlap (FINN: StreamingMaxPool, k = stride).

    Attributes:
        height, width, channels: the map it reads.
        kernel: k_h, k_w; also the stride.
    """

    name: str
    height: int
    width: int
    channels: int
    kernel: tuple[int, int]
    element: DataType
    pe: int = 1

    @property
    def out_height(self) -> int:
        """Rows of the result."""
        return self.height // self.kernel[0]

    @property
    def out_width(self) -> int:
        """Width of the result."""
        return self.width // self.kernel[1]

    @property
    def fold(self) -> int:
        """Words in a pixel."""
        return self.channels // self.pe

    @property
    def inputs(self) -> tuple[Port, ...]:
        return (Port(self.element, self.pe, self.height * self.width * self.fold),)

    @property
    def outputs(self) -> tuple[Port, ...]:
        return (Port(self.element, self.pe, self.out_height * self.out_width * self.fold),)

    @property
    def cycles(self) -> int:
        """As FINN's get_exp_cycles for two dimensions: it reads a row, then writes one."""
        return self.height * self.width * self.fold


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Maximum or average of windows that a `Window` sends (FINN: Pool).

    Attributes:
        channels: C.
        kernel: k_h, k_w.
        vectors: windows in a frame.
        function: "MaxPool", "QuantAvgPool" ...
        pe: channels in a word. Windows come channel by channel, as from a depthwise `Window`.
    """

    name: str
    channels: int
    kernel: tuple[int, int]
    vectors: int
    function: str
    input: DataType
    output: DataType
    pe: int = 1

    @property
    def fold(self) -> int:
        """Words in a pixel."""
        return self.channels // self.pe

    @property
    def inputs(self) -> tuple[Port, ...]:
        taps = self.kernel[0] * self.kernel[1]
        return (Port(self.input, self.pe, self.vectors * self.fold * taps),)

    @property
    def outputs(self) -> tuple[Port, ...]:
        return (Port(self.output, self.pe, self.vectors * self.fold),)

    @property
    def cycles(self) -> int:
        return self.inputs[0].words


@dataclass(frozen=True, kw_only=True)
class GlobalPool:
    """Sum of each channel over the map (FINN: GlobalAccPool)."""

    name: str
    channels: int
    vectors: int
    input: DataType
    output: DataType
    pe: int = 1

    @property
    def fold(self) -> int:
        """Words in a pixel."""
        return self.channels // self.pe

    @property
    def inputs(self) -> tuple[Port, ...]:
        return (Port(self.input, self.pe, self.vectors * self.fold),)

    @property
    def outputs(self) -> tuple[Port, ...]:
        return (Port(self.output, self.pe, self.fold),)

    @property
    def cycles(self) -> int:
        """As FINN's get_exp_cycles: all words in, then one word out for each channel fold."""
        return self.inputs[0].words + self.fold


@dataclass(frozen=True, kw_only=True)
class Upsample:
    """Repeats each pixel `scale` times along both sides (FINN: UpsampleNearestNeighbour)."""

    name: str
    height: int
    width: int
    channels: int
    scale: int
    element: DataType
    simd: int = 1

    @property
    def inputs(self) -> tuple[Port, ...]:
        words = self.height * self.width * self.channels // self.simd
        return (Port(self.element, self.simd, words),)

    @property
    def outputs(self) -> tuple[Port, ...]:
        return (Port(self.element, self.simd, self.inputs[0].words * self.scale**2),)

    @property
    def cycles(self) -> int:
        return self.outputs[0].words


@dataclass(frozen=True, kw_only=True)
class LabelSelect:
    """Indices of the k largest (FINN: LabelSelect)."""

    name: str
    labels: int
    k: int = 1
    pe: int = 1
    input: DataType
    output: DataType

    @property
    def inputs(self) -> tuple[Port, ...]:
        return (Port(self.input, self.pe, self.labels // self.pe),)

    @property
    def outputs(self) -> tuple[Port, ...]:
        return (Port(self.output, 1, self.k),)

    @property
    def cycles(self) -> int:
        return self.inputs[0].words + self.k
