"""The weights of a linear operator as pruning sees them: which inputs each output depends on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir

from graphopt.ir.constants import constant
from graphopt.ir.shapes import Dim, ShapeTable
from passes.linear import Linear, NotLinear, matmul_before

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Weights:
    """A linear operator without groups, or one convolution per channel.

    Attributes:
        linear: the operator; weight [M, K / group, *kernel].
        at_border: whether a tap may read padding; shape [*kernel].
    """

    linear: Linear
    at_border: Array

    @cached_property
    def used(self) -> Array:
        """Whether an output depends on an input; shape [M, K / group]."""
        return self._any(self.linear.weight != 0)

    @cached_property
    def used_at_border(self) -> Array:
        """Whether it does so by a tap that may read padding; shape [M, K / group]."""
        return self._any((self.linear.weight != 0) & self.at_border)

    def summed(self, columns: Array) -> Array:
        """What inputs that are 1 everywhere add to the outputs: float64 [M, len(columns)]."""
        weight = self.linear.weight[:, columns].astype(np.float64)
        return np.asarray(weight.sum(axis=tuple(range(2, weight.ndim))))

    @staticmethod
    def _any(mask: Array) -> Array:
        return np.asarray(mask.any(axis=tuple(range(2, mask.ndim))))

    @classmethod
    def read(cls, node: onnx_ir.Node, shapes: ShapeTable) -> Weights | None:
        """Reads a Conv, a Gemm, or a MatMul with the Add behind it that adds its bias, all with
        constant weights; None for anything else.
        """
        source = node.inputs[0] if node.inputs else None
        before = shapes[(source.name if source is not None else None) or ""].shape
        try:
            linear = Linear.read(_tail(node, shapes) or node, before)
        except NotLinear:
            return None
        if linear.node is not node:
            return None
        return cls(linear, _border(linear, before, shapes[linear.result.name or ""].shape))


def _tail(node: onnx_ir.Node, shapes: ShapeTable) -> onnx_ir.Node | None:
    """The Add that adds the bias of a MatMul, one number per output."""
    readers = node.outputs[0].consumers()
    if node.op_type != "MatMul" or len(readers) != 1 or matmul_before(readers[0]) is not node:
        return None
    (tail,) = readers
    rank = len(shapes[node.outputs[0].name or ""].shape or ())
    biases = [array for value in tail.inputs if (array := constant(value)) is not None]
    columns = constant(node.inputs[1])
    if columns is None or len(biases) != 1 or biases[0].ndim not in range(1, rank + 1):
        return None
    return tail if biases[0].size == biases[0].shape[-1] == columns.shape[-1] else None


def _border(linear: Linear, before: tuple[Dim, ...] | None, after: tuple[Dim, ...] | None) -> Array:
    """Which taps of the kernel may read padding."""
    unknown = (None,) * len(linear.kernel)
    sizes = [unknown if shape is None else shape[2:] for shape in (before, after)]
    mask = np.zeros(linear.kernel, bool)
    for tap in np.ndindex(*linear.kernel):
        starts = zip(tap, linear.dilations, linear.pads_begin, strict=True) if tap else ()
        mask[tap] = any(index * d < pad for index, d, pad in starts) or not linear.reads_inside(
            tap, *sizes
        )
    return mask
