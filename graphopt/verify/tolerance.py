"""How far two float evaluations of the same function may lie apart, on one input.

A rewrite that is exact over the reals re-associates sums. Rounding a sum of n products disturbs it
by about u sqrt(n) times the size of its terms (u: unit roundoff; Higham, Accuracy and Stability of
Numerical Algorithms, section 2.8, on the random walk behind the n u bound); layers add up, and
what an early layer disturbs the later ones pass on, damp or amplify. Instead of bounding that from
above, it is measured on each input (Monte Carlo arithmetic: Parker 1997): every weight of a copy is
disturbed by u sqrt(n) at random, and the change of an output is the size of the rounding noise
there. Done for both models, the noisier one counts: a rewrite may carry a tensor beside a large
constant, which costs digits. So the tolerance follows the depth, the length and the size of the
sums, and where a sum cancels it knows.

A quantizer rounds, so noise either does nothing to its codes or moves one by a whole step: where a
number lies half way between two. So the steps of quantizers are disturbed too, once up and once
down, and integers may differ as far, and in as many places, as they do for that.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir

from graphopt.ir.constants import constant
from graphopt.ir.layers import Layers
from graphopt.ir.model import Model, node_label

Array = npt.NDArray[Any]

SPREAD = 8.0
"""The tolerance over the noise of one random draw: four standard deviations for the worst of many
outputs, and as much again because the draw itself may fall short."""

FLOOR = 16.0
"""Unit roundoffs, relative to the largest output, that are always granted."""

_ROUNDOFF = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
_ROUNDINGS = 4.0
"""Roundings on the way of a number through a quantizer."""
_STEPS = {
    "QuantizeLinear": (1,), "Quant": (1,), "IntQuant": (1,), "BipolarQuant": (1,), "Trunc": (1,),
    "MultiThreshold": (1,),
}  # fmt: skip
"""Where quantizers have their steps, or thresholds; QLinear operators have floats for nothing else.
"""
_WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization"})


def roundoff(dtype: Any) -> float:
    """Unit roundoff u of a float type; that of float32 for any other."""
    return _ROUNDOFF.get(str(np.dtype(dtype)), _ROUNDOFF["float32"])


def quantizes(model: Model) -> bool:
    """Whether the model rounds to integers, so that noise moves whole steps."""
    return any(_is_quantizer(node) for node in model.graph)


def _is_quantizer(node: onnx_ir.Node) -> bool:
    return node.op_type in _STEPS or node.op_type.startswith("QLinear")


def disturbed(model: Model, seed: int = 0, sign: int = 1) -> Model:
    """A copy whose weights are off by u sqrt(n), n being the number of terms in the sums that each
    takes part in, and whose quantizers have steps that are off by a few u.

    Args:
        model: the model.
        seed: of the noise.
        sign: 1, or -1 for the same noise the other way.
    """
    copy = model.clone()
    rng = np.random.default_rng(seed)
    lengths = {
        layer.name: max(1, layer.multiply_adds // (layer.output.elements() or 1))
        for layer in model.analyses.get(Layers(fuse=False))
    }
    for number, node in enumerate(copy.graph):
        weighted = node.op_type in _WEIGHTED and node.domain in ("", "ai.onnx")
        if not weighted and not _is_quantizer(node):
            continue
        for index, value in enumerate(node.inputs):
            if index not in _STEPS.get(node.op_type, (index,)):
                continue
            array = _weight(value)
            if array is None or array.dtype.kind not in "fV" or array.size == 0:
                continue
            terms = lengths.get(node_label(node), 1) if index == 1 else 1
            step = roundoff(array.dtype) * (math.sqrt(terms) if weighted else _ROUNDINGS)
            noise = (1 + sign * step * rng.standard_normal(array.shape)).astype(np.float64)
            node.replace_input_with(
                index,
                _initializer(
                    copy, f"{number}.{index}.disturbed", (array * noise).astype(array.dtype)
                ),
            )
    copy.analyses.keep_only(())
    return copy


def _weight(value: onnx_ir.Value | None) -> Array | None:
    """A constant, or a weight that is a graph input as well."""
    if value is not None and value.is_graph_input() and value.const_value is not None:
        return value.const_value.numpy()
    return constant(value)


def _initializer(model: Model, name: str, array: Array) -> onnx_ir.Value:
    value = onnx_ir.Value(
        name=name,
        shape=onnx_ir.Shape(array.shape),
        const_value=onnx_ir.tensor(array, name=name),
    )
    value.type = onnx_ir.TensorType(value.const_value.dtype)  # type: ignore[union-attr]
    model.graph.register_initializer(value)
    return value


def allowed(noise: float, size: float, dtype: Any) -> float:
    """The greatest absolute error allowed for one tensor on one input.

    Args:
        noise: largest change that disturbing the weights makes to it, absolute.
        size: its largest magnitude.
        dtype: its type.
    """
    return SPREAD * noise + FLOOR * roundoff(dtype) * size
