"""Constants in another order of axes."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx_ir

from graphopt.ir.model import Model
from passes.layout.orders import Perm
from passes.linear import Initializers

Array: TypeAlias = npt.NDArray[Any]


class Weights:
    """Makes permuted constants, each once."""

    def __init__(self, model: Model) -> None:
        taken = {o.name for node in model.graph.all_nodes() for o in node.outputs if o.name}
        self._initializers = Initializers(model.graph, taken | set(model.value_index()))
        self._made: dict[tuple[onnx_ir.Value, Perm], onnx_ir.Value] = {}
        self.fresh = self._initializers.fresh

    def permuted(self, value: onnx_ir.Value, array: Array, perm: Perm) -> onnx_ir.Value:
        """The constant `array` that `value` holds, in another order of axes."""
        if (value, perm) not in self._made:
            whole = array.reshape((1,) * (len(perm) - array.ndim) + array.shape)
            made = self.added(value, np.ascontiguousarray(whole.transpose(perm)))
            made.meta.update(value.meta)
            made.metadata_props.update(value.metadata_props)
            self._made[value, perm] = made
        return self._made[value, perm]

    def added(self, value: onnx_ir.Value, array: Array) -> onnx_ir.Value:
        """A constant that takes the place of `value`."""
        return self._initializers.add(value.name or "constant", array)
