"""Fuses two linear operators with nothing between them into one, where that pays.

`W2 (W1 x + b1) + b2 = (W2 W1) x + (W2 b1 + b2)`, one of the two pointwise (RMNet, section 4.4: what
turns MobileNetV2 into MobileNetV1). Two pointwise convolutions cost `mid (in + out)` before and
`in out` after, so the cost model decides each pair: a bottleneck is better left alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import onnx_ir

from graphopt.evidence import Cost, Exactness, Refusal, Region, Rewrite
from graphopt.ir.model import Model
from graphopt.ir.shapes import Shapes, ShapeTable
from graphopt.pipeline.passes import Context, PassResult
from graphopt.verify.algebra import Claim
from passes.linear import Initializers, Linear, NewLinear, NotLinear, matmul_before


@dataclass(frozen=True)
class LinearFusion:
    """Fuses pairs of linear operators.

    Attributes:
        when: `worth` asks the cost model about each pair; `possible` fuses every pair.
    """

    name: ClassVar[str] = "linear-fusion"
    preserves: ClassVar[frozenset[str]] = frozenset()

    when: Literal["worth", "possible"] = "worth"

    def run(self, model: Model, context: Context) -> PassResult:
        """Fuses from the input on; a fused operator may fuse with the next one again."""
        shapes = model.analyses.get(Shapes())
        initializers = Initializers(model.graph, set(model.value_index()))
        rewrites: list[Rewrite] = []
        refusals: list[Refusal] = []
        claims: list[Claim] = []
        for node in list(model.graph):
            pair = _pair(node, shapes)
            if pair is None:
                continue
            first, second = pair
            region = Region(second.label, (first.label, second.label))
            obstacle = _obstacle(first, second)
            if obstacle is not None:
                refusals.append(Refusal(self.name, region, obstacle, "padded-border"))
                continue
            new = fuse(first, second)
            before, after = _costs(first, second, new, shapes)
            verdict = context.cost.judge(before, after, context.target)
            if self.when == "worth" and not verdict:
                reason = f"fusing {first.label} with {second.label}: {verdict.reason}"
                refusals.append(Refusal(self.name, region, reason, "not-worth-it", True))
                continue
            built = new.build(first.source, "", initializers)
            built.place(model, second.nodes[-1])
            model.graph.remove((*first.nodes, *second.nodes[:-1]), safe=True)
            claims.append(new.composition(built, first.as_map(), second.as_map()))
            facts = (f"nothing but {second.label} reads the output of {first.label}",)
            rewrites.append(
                Rewrite(self.name, "W2 W1", region, Exactness.EXACT, facts, before, after)
            )
        return PassResult(
            bool(rewrites),
            tuple(rewrites),
            tuple(refusals),
            tuple(claims),
            {"fused": len(rewrites)},
        )


def _pair(node: onnx_ir.Node, shapes: ShapeTable) -> tuple[Linear, Linear] | None:
    """A linear operator and the one before it, where they stand alone and one is pointwise."""
    if node.graph is None:  # it went with a pair before
        return None
    readers = node.outputs[0].consumers() if node.op_type == "MatMul" else ()
    if len(readers) == 1 and matmul_before(readers[0]) is node:
        return None  # it is looked at together with its bias
    try:
        second = Linear.read(node, _shape_before(node, shapes))
        producer = second.source.producer()
        if producer is None or second.source.is_graph_output() or len(second.source.uses()) != 1:
            return None
        first = Linear.read(producer, _shape_before(producer, shapes))
    except NotLinear:
        return None
    if first.is_conv != second.is_conv or not (first.is_pointwise or second.is_pointwise):
        return None
    if first.is_pointwise and not second.is_pointwise and any(s != 1 for s in first.strides):
        return None
    return first, second


def _shape_before(node: onnx_ir.Node, shapes: ShapeTable) -> tuple[int | str | None, ...] | None:
    source = node.inputs[0] if node.inputs else None
    return shapes[source.name or ""].shape if source is not None else None


def _obstacle(first: Linear, second: Linear) -> str | None:
    if not second.is_pointwise and any(second.pads_begin + second.pads_end) and first.bias.any():
        return (
            f"{second.label} pads with zeros after the bias of {first.label}, so its border would "
            "be wrong"
        )
    return None


def fuse(first: Linear, second: Linear) -> NewLinear:
    """The operator that does what `first` and then `second` do; one of them is pointwise."""
    one, two = first.dense().astype(np.float64), second.dense().astype(np.float64)
    spatial_two = two.reshape(*two.shape[:2], -1).sum(axis=2)
    bias = spatial_two @ first.bias + second.bias
    if first.is_pointwise:
        weight = np.einsum("om...,mi->oi...", two, one.reshape(one.shape[:2]))
        like = second
    else:
        weight = np.einsum("om,mi...->oi...", two.reshape(two.shape[:2]), one)
        like = first
    strides = tuple(a * b for a, b in zip(first.strides, second.strides, strict=True))
    return NewLinear(like, weight, bias, strides=strides)


def _costs(first: Linear, second: Linear, new: NewLinear, shapes: ShapeTable) -> tuple[Cost, Cost]:
    places = []
    for linear in (first, second):
        elements = shapes[linear.result.name or ""].elements() or linear.outputs
        places.append(max(1, elements // linear.outputs))
    size = first.weight.dtype.itemsize
    before = first.weight.size + first.bias.size + second.weight.size + second.bias.size
    after = new.weight.size + new.bias.size
    return (
        Cost(
            before,
            before * size,
            places[0] * int(first.weight.size) + places[1] * int(second.weight.size),
        ),
        Cost(int(after), int(after) * size, places[1] * int(new.weight.size)),
    )
