"""Folds batch norms, and per-channel scales and shifts, into the convolution beside them.

`BN(W x + b) = (s W) x + (s b + t)` with `s = gamma / sqrt(var + eps)` and `t = beta - mean s`,
computed in float64 with each node's own epsilon and rounded once. A norm *before* a convolution
folds the other way, `W (s x + t) + b = (W s) x + (W t + b)`, but only where the convolution reads
no padding: a padded border reads 0, not `t` (folding it would be off by 0.45 at the border of a
trained network), so there it is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import onnx_ir

from graphopt.evidence import Exactness, Refusal, Region, Rewrite
from graphopt.ir.constants import constant
from graphopt.ir.model import Model, node_label
from graphopt.ir.shapes import Shapes, ShapeTable
from graphopt.pipeline.passes import Context, PassResult
from graphopt.verify.algebra import Claim, Map
from passes.linear import Built, Initializers, Linear, NewLinear, NotLinear

Array = npt.NDArray[np.float64]


class CannotFold(Exception):
    """Why a norm stays; the message is the reason, `code` its kind."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code


@dataclass(frozen=True, eq=False)
class Affine:
    """`scale * x + shift` per channel; both of shape [C], or [1] for all channels alike."""

    scale: Array
    shift: Array


@dataclass(frozen=True)
class FoldNorm:
    """Folds norms and constant scales into the linear operator before or after them."""

    name: ClassVar[str] = "fold-norm"
    preserves: ClassVar[frozenset[str]] = frozenset()

    def run(self, model: Model, context: Context) -> PassResult:
        """Folds what can be folded; a norm that stays leaves a refusal."""
        shapes = model.analyses.get(Shapes())
        outputs = set(model.graph.outputs)
        initializers = Initializers(model.graph, set(model.value_index()))
        rewrites: list[Rewrite] = []
        refusals: list[Refusal] = []
        claims: list[Claim] = []
        for node in list(model.graph):
            try:
                affine = affine_of(node, shapes)
                if affine is None:
                    continue
                claim, fact = self._fold(model, node, affine, shapes, outputs, initializers)
            except CannotFold as reason:
                if node.op_type == "BatchNormalization":
                    region = Region(node_label(node), (node_label(node),))
                    refusals.append(Refusal(self.name, region, str(reason), reason.code))
                continue
            region = Region(node_label(node), (node_label(node),))
            claims.append(claim)
            rewrites.append(
                Rewrite(self.name, "norm into linear", region, Exactness.EXACT, (fact,))
            )
        return PassResult(
            bool(rewrites),
            tuple(rewrites),
            tuple(refusals),
            tuple(claims),
            statistics={"folded": len(rewrites)},
        )

    def _fold(
        self,
        model: Model,
        node: onnx_ir.Node,
        affine: Affine,
        shapes: ShapeTable,
        outputs: set[onnx_ir.Value],
        initializers: Initializers,
    ) -> tuple[Claim, str]:
        source = _data_input(node)
        producer = source.producer()
        if producer is not None and producer.op_type in ("Conv", "Gemm"):
            if len(source.uses()) > 1 or source in outputs:
                raise CannotFold(
                    "shared-output", f"the output of {node_label(producer)} is read elsewhere too"
                )
            linear = _read(producer, shapes)
            claim = _scaled_after(model, node, linear, affine, initializers)
            return claim, f"{linear.label} is read by {node_label(node)} alone"
        result = node.outputs[0]
        readers = result.consumers()
        if len(readers) != 1 or result in outputs:
            raise CannotFold("no-linear", "no convolution or matrix product stands beside it")
        if readers[0].op_type not in ("Conv", "Gemm") or readers[0].inputs[0] is not result:
            raise CannotFold("no-linear", "no convolution or matrix product stands beside it")
        linear = _read(readers[0], shapes)
        if affine.shift.any() and any(linear.pads_begin + linear.pads_end):
            raise CannotFold(
                "padded-border",
                f"{linear.label} pads with zeros after the shift, so its border would be wrong",
            )
        claim = _scaled_before(model, node, linear, affine, initializers)
        return claim, f"{linear.label} reads no padding, or nothing is shifted"


def affine_of(node: onnx_ir.Node, shapes: ShapeTable, axis: int = 1) -> Affine | None:
    """The per-channel affine map that a node computes, or None where it computes another thing.

    Args:
        node: the node.
        shapes: of the tensors.
        axis: of the channels.

    Raises:
        CannotFold: a batch norm whose parameters are not constants, or in training mode.
    """
    if node.domain not in ("", "ai.onnx"):
        return None
    if node.op_type == "BatchNormalization" and axis == 1:
        return batch_norm(node)
    if node.op_type not in ("Add", "Sub", "Mul", "Div") or len(node.inputs) != 2:
        return None
    left, right = (constant(value) for value in node.inputs)
    if (left is None) == (right is None):
        return None
    data = node.inputs[1 if left is not None else 0]
    known = left if left is not None else right
    assert known is not None
    assert data is not None
    shape = shapes[data.name or ""].shape
    if shape is None or len(shape) < 2 or not np.issubdtype(known.dtype, np.floating):
        return None
    values = per_channel(known.astype(np.float64), len(shape), shape[axis], axis)
    if values is None:
        return None
    one, zero = np.ones_like(values), np.zeros_like(values)
    match node.op_type, left is not None:
        case "Add", _:
            return Affine(one, values)
        case "Sub", False:
            return Affine(one, -values)
        case "Sub", True:
            return Affine(-one, values)
        case "Mul", _:
            return Affine(values, zero)
        case "Div", False if values.all():
            return Affine(1.0 / values, zero)
        case _:
            return None


def per_channel(array: Array, rank: int, channels: Any, axis: int = 1) -> Array | None:
    """A constant that broadcasts over a tensor of `rank` axes, as one number per channel.

    Returns:
        Shape [C], or [1] where all channels share it; None where it varies along an axis that is
        not `axis`.
    """
    if array.ndim > rank:
        return None
    shape = (1,) * (rank - array.ndim) + array.shape
    if any(size != 1 for place, size in enumerate(shape) if place != axis):
        return None
    return array.reshape(-1) if shape[axis] in (1, channels) else None


def batch_norm(node: onnx_ir.Node) -> Affine:
    """What a batch norm computes at inference.

    Raises:
        CannotFold: its parameters are not constants, or it is in training mode.
    """
    if node.attributes.get_int("training_mode", 0) or sum(1 for o in node.outputs if o.uses()) > 1:
        raise CannotFold("training-mode", "it is in training mode: export the model in eval mode")
    if node.attributes.get_int("spatial", 1) == 0:
        raise CannotFold("not-per-channel", "it norms every position by itself (spatial=0)")
    arrays = [constant(value) for value in node.inputs[1:5]]
    if any(array is None for array in arrays):
        raise CannotFold("runtime-weights", "its parameters are not constants")
    gamma, beta, mean, var = (a.astype(np.float64) for a in arrays if a is not None)
    epsilon = node.attributes.get_float("epsilon", 1e-5) or 1e-5
    if (var + epsilon <= 0).any():
        raise CannotFold("bad-variance", "its variance is negative")
    scale = gamma / np.sqrt(var + epsilon)
    return Affine(scale, beta - mean * scale)


def _data_input(node: onnx_ir.Node) -> onnx_ir.Value:
    for value in node.inputs:
        if value is not None and constant(value) is None:
            return value
    raise CannotFold("constant", "it does not depend on the input")


def _read(node: onnx_ir.Node, shapes: ShapeTable) -> Linear:
    try:
        linear = Linear.within(node, shapes)
    except NotLinear as error:
        raise CannotFold("runtime-weights", str(error)) from error
    weight = linear.weight.astype(np.float64).reshape(linear.outputs, -1)
    copies = (np.count_nonzero(weight, axis=1) <= 1).all()  # each output copies one input
    if weight.size and not copies and np.array_equal(weight, np.rint(weight)):
        raise CannotFold(
            "integer-weights", f"{linear.label} has integer weights, which a scale would spoil"
        )
    return linear


def _scaled_after(
    model: Model, node: onnx_ir.Node, linear: Linear, affine: Affine, initializers: Initializers
) -> Claim:
    """Puts `affine` behind `linear` into its weights."""
    scale, shift = (np.broadcast_to(a, (linear.outputs,)) for a in (affine.scale, affine.shift))
    weight = linear.weight.astype(np.float64) * _over_rows(scale, linear)
    bias = linear.bias.astype(np.float64) * scale + shift
    source = linear.node.inputs[0]
    assert source is not None
    new = NewLinear(linear, weight, bias, linear.group)
    built = _replace(model, new, source, (linear.node, node), initializers)
    return new.composition(built, linear.as_map(), _diagonal(scale, shift, linear))


def _scaled_before(
    model: Model, node: onnx_ir.Node, linear: Linear, affine: Affine, initializers: Initializers
) -> Claim:
    """Puts `affine` in front of `linear` into its weights."""
    scale, shift = (np.broadcast_to(a, (linear.inputs,)) for a in (affine.scale, affine.shift))
    dense = linear.dense().astype(np.float64)
    bias = linear.bias.astype(np.float64) + dense.sum(axis=tuple(range(2, dense.ndim))) @ shift
    by_group = np.repeat(scale.reshape(linear.group, -1), linear.outputs // linear.group, axis=0)
    weight = linear.weight.astype(np.float64) * by_group.reshape(
        *by_group.shape, *[1] * len(linear.kernel)
    )
    new = NewLinear(linear, weight, bias, linear.group)
    built = _replace(model, new, _data_input(node), (node, linear.node), initializers)
    return new.composition(built, _diagonal(scale, shift, linear), linear.as_map())


def _diagonal(scale: Array, shift: Array, beside: Linear) -> Map:
    """An affine map as a pointwise operator of the same rank as the linear one beside it."""
    return Map(np.diag(scale).reshape(len(scale), -1, *[1] * len(beside.kernel)), shift)


def _over_rows(scale: Array, linear: Linear) -> Array:
    return scale.reshape(-1, *[1] * (linear.weight.ndim - 1))


def _replace(
    model: Model,
    new: NewLinear,
    source: onnx_ir.Value,
    old: tuple[onnx_ir.Node, onnx_ir.Node],
    initializers: Initializers,
) -> Built:
    """Puts the new operator where the second of the old nodes stood; its output keeps its name."""
    built = new.build(source, "", initializers)
    built.place(model, old[1])
    model.graph.remove(old[0], safe=True)
    return built
