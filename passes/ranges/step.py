"""A node as a rule sees it: its inputs, attributes and shapes, and sums in its float format."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy.typing as npt
import onnx_ir

from graphopt.ir.shapes import Dim, TensorInfo
from passes.ranges.constants import along
from passes.ranges.facts import Facts
from passes.ranges.formats import Float
from passes.ranges.interval import UNBOUNDED, Bounds
from passes.ranges.rounding import Terms

Shape: TypeAlias = tuple[Dim, ...]


@dataclass(frozen=True)
class Step:
    """One node as its rule sees it.

    Attributes:
        node: the node.
        facts: what is known of the tensors before it.
        kind: the float format that it computes in.
    """

    node: onnx_ir.Node
    facts: Facts
    kind: Float

    def value(self, index: int) -> onnx_ir.Value | None:
        return self.node.inputs[index] if index < len(self.node.inputs) else None

    def given(self, index: int) -> bool:
        """Whether an optional input is there."""
        value = self.value(index)
        return value is not None and bool(value.name)

    def x(self, index: int = 0) -> Bounds:
        """What is known of an input, channel by channel of its own axis 1."""
        return self.facts.bounds(self.value(index))

    def array(self, index: int) -> npt.NDArray[Any] | None:
        """The content of a constant input."""
        return self.facts.array(self.value(index))

    def info(self, index: int) -> TensorInfo:
        """Type and shape of an input."""
        return self.facts.info(self.value(index))

    def shape(self, index: int = 0) -> Shape | None:
        return self.info(index).shape

    @cached_property
    def made(self) -> TensorInfo:
        """Type and shape of the first output."""
        return self.facts.info(self.node.outputs[0])

    @property
    def version(self) -> int:
        return self.node.version or self.facts.opset

    def number(self, name: str, default: float) -> float:
        return float(self.node.attributes.get_float(name, default))

    def integer(self, name: str, default: int) -> int:
        return int(self.node.attributes.get_int(name, default))

    def text(self, name: str, default: str) -> str:
        return str(self.node.attributes.get_string(name, default))

    def integers(self, name: str, index: int | None = None) -> tuple[int, ...] | None:
        """Whole numbers from an attribute or, in newer versions, a constant input.

        None where neither is given or the input is no constant.
        """
        listed = self.node.attributes.get_ints(name)
        if listed is None and index is not None and self.given(index):
            array = self.array(index)
            return None if array is None else tuple(int(i) for i in array.reshape(-1))
        return None if listed is None else tuple(listed)

    def axis(self, axis: int) -> int | None:
        """An axis of the first input, counted from the front; None where that takes its rank."""
        shape = self.shape()
        if axis >= 0:
            return axis
        return None if shape is None else axis + len(shape)

    def aligned(self, index: int) -> Bounds:
        """An operand as it broadcasts over the output: per channel of the output's axis 1."""
        rank = None if self.made.shape is None else len(self.made.shape)
        if self.version < 7 and self.integer("broadcast", 0):  # aligned by an attribute
            return self.x(index).whole()
        array = self.array(index)
        if array is not None and rank is not None and rank >= 2 and array.ndim <= rank:
            axis = array.ndim - rank + 1
            channels = axis >= 0 and array.shape[axis] > 1
            return along(array, axis if channels else None) or UNBOUNDED
        shape = self.shape(index)
        if shape is None or rank is None or len(shape) != rank:
            return self.x(index).whole()
        return self.x(index)

    def rounded(self, term: Bounds, roundings: int) -> Bounds:
        """One term that goes through so many roundings."""
        return Terms.of(term).rounded(self.kind, roundings, 1)

    def total(self, terms: Sequence[Bounds], extra: int = 0) -> Bounds:
        """The sum of some terms, each of which goes through `extra` further roundings."""
        moving = sum(bool((term.low != 0).any() or (term.high != 0).any()) for term in terms)
        total = Terms.of(terms[0])
        for term in terms[1:]:
            total = total.plus(Terms.of(term))
        return total.rounded(self.kind, max(moving - 1, 0) + extra, len(terms))


def channels(shape: Shape | None) -> Dim:
    """The size of axis 1, None where there is none or it is not known."""
    return shape[1] if shape is not None and len(shape) > 1 else None


def same_channels(old: Shape, new: Shape) -> bool:
    """Whether axis 1 is known to have one size in both.

    Raises:
        IndexError: one of them has no axis 1.
    """
    return old[1] is not None and old[1] == new[1]


def elements(dims: Sequence[Dim]) -> int | None:
    """The number of elements in a block of these sizes, None where one is not known."""
    known = [dim for dim in dims if isinstance(dim, int)]
    return math.prod(known) if len(known) == len(dims) else None
