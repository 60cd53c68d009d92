"""Lists of integers (axes, pads, shapes), which are attributes or inputs, by opset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir

from passes.layout.facts import Facts
from passes.layout.weights import Weights


@dataclass(frozen=True, eq=False)
class Ints:
    """A list of integers that a node takes as an attribute or as a constant input.

    Attributes:
        node: the node.
        name: of the attribute.
        index: of the input.
        values: what is there; None where the node is given none.
    """

    node: onnx_ir.Node
    name: str
    index: int
    values: tuple[int, ...] | None

    @classmethod
    def read(cls, node: onnx_ir.Node, name: str, index: int, facts: Facts) -> Ints | None:
        """Reads it; None where it depends on the model's input."""
        if name in node.attributes:
            return cls(node, name, -1, tuple(node.attributes.get_ints(name, ()) or ()))
        value = node.inputs[index] if index < len(node.inputs) else None
        array = facts.array(value)
        if value is not None and array is None:
            return None
        values = None if array is None else tuple(int(v) for v in array.reshape(-1))
        return cls(node, name, index, values)

    def write(self, values: Sequence[int], weights: Weights) -> None:
        """Replaces it."""
        if self.index < 0:
            self.node.attributes[self.name] = onnx_ir.AttrInt64s(self.name, list(values))
            return
        if self.index >= len(self.node.inputs):
            self.node.resize_inputs(self.index + 1)
        like = self.node.inputs[self.index] or self.node.inputs[1]
        assert like is not None
        dtype = like.dtype.numpy() if like.dtype is not None else np.int64
        self.node.replace_input_with(self.index, weights.added(like, np.asarray(values, dtype)))
