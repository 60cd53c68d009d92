"""`Kernel`: what all kernels have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from hwmodel.datatypes import DataType


@dataclass(frozen=True)
class Port:
    """One side of a stream, as a kernel sees it.

    Attributes:
        element: type of one element.
        elements: elements in a word.
        words: words in a frame.
    """

    element: DataType
    elements: int
    words: int

    @property
    def bits(self) -> int:
        """Width of a word in bits."""
        return self.elements * self.element.bits


@runtime_checkable
class Kernel(Protocol):
    """A kernel with its folding, immutable."""

    @property
    def name(self) -> str:
        """Unique in a design."""
        ...

    @property
    def inputs(self) -> tuple[Port, ...]:
        """The streams it reads."""
        ...

    @property
    def outputs(self) -> tuple[Port, ...]:
        """The streams it writes."""
        ...

    @property
    def cycles(self) -> int:
        """Cycles between two frames where neither side makes it wait (FINN: get_exp_cycles)."""
        ...
