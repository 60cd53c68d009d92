"""What is known of a model's tensors: shapes, constants, and ranks where no shape is known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy.typing as npt
import onnx_ir

from graphopt.ir.constants import constant
from graphopt.ir.layers import data_tensors
from graphopt.ir.model import Model
from graphopt.ir.shapes import Shapes, ShapeTable
from passes.layout.operators import ELEMENTWISE, RANK_OF_FIRST, operator_of, perm_of

Array: TypeAlias = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Facts:
    """What is known of a model's tensors."""

    shapes: ShapeTable
    ranks: dict[onnx_ir.Value, int]
    data: frozenset[str]
    opset: int

    @classmethod
    def of(cls, model: Model) -> Facts:
        """Collects them. A Transpose tells the rank where shape inference does not."""
        shapes = model.analyses.get(Shapes())
        ranks = {
            value: len(shape)
            for value in model.values()
            if (shape := shapes[value.name or ""].shape) is not None
        }
        for node in model.graph:
            if perm := perm_of(node):
                for value in (*node.inputs, *node.outputs):
                    if value is not None:
                        ranks.setdefault(value, len(perm))
        for node in model.graph:
            known = [ranks.get(value) for value in node.inputs if value is not None]
            rank = None
            if operator_of(node) in ELEMENTWISE:
                rank = max((r for r in known if r is not None), default=None)
                rank = None if None in known else rank
            elif operator_of(node)[0] == "" and node.op_type in RANK_OF_FIRST:
                rank = known[0] if known else None
            if rank is not None:
                for value in node.outputs:
                    ranks.setdefault(value, rank)
        return cls(shapes, ranks, data_tensors(model), model.opset)

    def array(self, value: onnx_ir.Value | None) -> Array | None:
        """The value of a constant."""
        return None if value is None or value.name in self.data else constant(value)

    def dims(self, value: onnx_ir.Value | None) -> tuple[Any, ...] | None:
        """The shape of a tensor."""
        return self.shapes[value.name or ""].shape if value is not None else None

    def rank(self, value: onnx_ir.Value | None) -> int:
        """The number of axes of a tensor, 0 where it is not known."""
        return self.ranks.get(value, 0) if value is not None else 0

    def is_single(self, value: onnx_ir.Value) -> bool:
        """Whether it is one number, which is the same in every order of axes."""
        dims = self.dims(value)
        return dims is not None and all(dim == 1 for dim in dims)
