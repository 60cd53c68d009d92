"""Kernels that only move words: widths, forks, joins, and other orders."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hwmodel.datatypes import DataType
from hwmodel.kernels.kernel import Port


@dataclass(frozen=True, kw_only=True)
class WidthConverter:
    """Makes wide words of narrow ones or narrow of wide (FINN: StreamingDataWidthConverter).

    Attributes:
        elements: elements in a frame.
        into, out_of: elements in a word that goes in and that comes out; one divides the other.
            Where they are equal the kernel is a wire.
    """

    name: str
    elements: int
    into: int
    out_of: int
    element: DataType

    @property
    def inputs(self) -> tuple[Port, ...]:
        return (Port(self.element, self.into, self.elements // self.into),)

    @property
    def outputs(self) -> tuple[Port, ...]:
        return (Port(self.element, self.out_of, self.elements // self.out_of),)

    @property
    def cycles(self) -> int:
        return max(self.inputs[0].words, self.outputs[0].words)


@dataclass(frozen=True, kw_only=True)
class Fork:
    """Sends each word to all its outputs (FINN: DuplicateStreams)."""

    name: str
    elements: int
    pe: int
    element: DataType
    ways: int = 2

    @property
    def inputs(self) -> tuple[Port, ...]:
        return (Port(self.element, self.pe, self.elements // self.pe),)

    @property
    def outputs(self) -> tuple[Port, ...]:
        return self.inputs * self.ways

    @property
    def cycles(self) -> int:
        return self.inputs[0].words


@dataclass(frozen=True, kw_only=True)
class Join:
    """Adds, or multiplies, its inputs element by element (FINN: AddStreams, StreamingEltwise).

    Attributes:
        elements: elements in a frame of each input.
        pe: elements in a word.
        operands: element type of each input.
        function: "add", "mul", "sub", "absdiff".
    """

    name: str
    elements: int
    pe: int
    operands: tuple[DataType, ...]
    output: DataType
    function: str = "add"

    @property
    def inputs(self) -> tuple[Port, ...]:
        words = self.elements // self.pe
        return tuple(Port(operand, self.pe, words) for operand in self.operands)

    @property
    def outputs(self) -> tuple[Port, ...]:
        return (Port(self.output, self.pe, self.elements // self.pe),)

    @property
    def cycles(self) -> int:
        return self.elements // self.pe


@dataclass(frozen=True, kw_only=True)
class Concat:
    """Puts the channels of its inputs behind each other (FINN: StreamingConcat).

    Attributes:
        vectors: pixels in a frame.
        channels: of each input.
        pe: channels in a word of every stream.
    """

    name: str
    vectors: int
    channels: tuple[int, ...]
    element: DataType
    pe: int = 1

    @property
    def inputs(self) -> tuple[Port, ...]:
        return tuple(
            Port(self.element, self.pe, self.vectors * channels // self.pe)
            for channels in self.channels
        )

    @property
    def outputs(self) -> tuple[Port, ...]:
        words = self.vectors * sum(self.channels) // self.pe
        return (Port(self.element, self.pe, words),)

    @property
    def cycles(self) -> int:
        return self.outputs[0].words


@dataclass(frozen=True, kw_only=True)
class Split:
    """Gives the channels of each pixel to one output after the other (FINN: StreamingSplit).

    Attributes:
        vectors: pixels in a frame.
        channels: of each output.
        pe: channels in a word of every stream.
    """

    name: str
    vectors: int
    channels: tuple[int, ...]
    element: DataType
    pe: int = 1

    @property
    def inputs(self) -> tuple[Port, ...]:
        words = self.vectors * sum(self.channels) // self.pe
        return (Port(self.element, self.pe, words),)

    @property
    def outputs(self) -> tuple[Port, ...]:
        return tuple(
            Port(self.element, self.pe, self.vectors * channels // self.pe)
            for channels in self.channels
        )

    @property
    def cycles(self) -> int:
        return self.inputs[0].words

    def sent(self, port: int, other: int, word: Any) -> Any:
        """Words that have left by `port` when word `word` (1 ...) leaves by `other`."""
        folds = [channels // self.pe for channels in self.channels]
        return (word - 1) // folds[other] * folds[port] + folds[port] * (port < other)


@dataclass(frozen=True, kw_only=True)
class Shuffle:
    """Gives the elements of each page in another order (FINN: InnerShuffle, OuterShuffle).

    Attributes:
        elements: in a frame.
        page: elements that are read before the first of them leaves.
        innermost: what SIMD divides: elements that lie together on both sides.
        inner: whether it transposes the two innermost axes (RTL, two pages); else it moves others
            (HLS, one buffer).
    """

    name: str
    elements: int
    page: int
    innermost: int
    element: DataType
    simd: int = 1
    inner: bool = True

    @property
    def inputs(self) -> tuple[Port, ...]:
        return (Port(self.element, self.simd, self.elements // self.simd),)

    @property
    def outputs(self) -> tuple[Port, ...]:
        return self.inputs

    @property
    def cycles(self) -> int:
        """As get_exp_cycles of inner_shuffle.py: in, out, and a page that is waited for."""
        return (2 * self.elements + self.page) // self.simd
