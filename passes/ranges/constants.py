"""Tensors that no input changes: which they are, and the bounds of what they hold."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir

from graphopt.ir.constants import EVALUATED
from graphopt.ir.model import Model
from passes.ranges.interval import UNBOUNDED, ZERO, Bounds


def fixed_tensors(model: Model) -> frozenset[str]:
    """Names of the tensors that `constant` can evaluate, found without evaluating."""
    inputs = {value.name for value in model.graph.inputs}
    fixed = {name for name in model.graph.initializers if name not in inputs}
    for node in model.graph:
        evaluated = node.op_type in EVALUATED and node.domain in ("", "ai.onnx")
        if evaluated and all(value is None or value.name in fixed for value in node.inputs):
            fixed.update(output.name for output in node.outputs if output.name)
    return frozenset(fixed)


def along(array: npt.NDArray[Any], axis: int | None) -> Bounds | None:
    """The bounds of a constant per element of one axis, or of all of it."""
    with contextlib.suppress(TypeError, ValueError):
        if not array.size or array.dtype.kind in "cOSU":
            return None
        others = tuple(other for other in range(array.ndim) if other != axis)
        low, high = array.min(axis=others), array.max(axis=others)
        return Bounds.of(low.astype(np.float64), high.astype(np.float64))
    return None


def filled(node: onnx_ir.Node) -> Bounds:
    """What a ConstantOfShape of any shape holds."""
    fill = node.attributes.get_tensor("value")
    return ZERO if fill is None else along(fill.numpy(), None) or UNBOUNDED
