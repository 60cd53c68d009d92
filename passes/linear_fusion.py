"""Fuses two linear operators with nothing between them into one, where that pays.

`W2 (W1 x + b1) + b2 = (W2 W1) x + (W2 b1 + b2)` (RMNet, section 4.4: what turns MobileNetV2 into
MobileNetV1). Two pointwise convolutions cost `mid (in + out)` before and `in out` after, so the
cost model decides each pair: a bottleneck is better left alone. Two spatial ones compose to a
kernel of `k1 + (k2 - 1) s1` taps.

An average pool is linear too. Behind a convolution with a window it is composed with it: one
strided convolution, which pays since it computes no more than what is kept. Behind a pointwise one
it goes first: the convolution then works on fewer positions, with the same weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import onnx_ir

from graphopt.evidence import Cost, Exactness, Refusal, Region, Rewrite
from graphopt.ir.model import Model, node_label
from graphopt.ir.shapes import Shapes, ShapeTable
from graphopt.pipeline.passes import Context, PassResult
from graphopt.verify.algebra import Claim
from passes.linear import (
    Array,
    Initializers,
    Linear,
    NewLinear,
    NotLinear,
    matmul_before,
    replace_output,
)


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
            found = _pool_first(node, shapes)
            pair = _pair(node, shapes) if found is None else None
            if found is not None:
                rewrites.append(_swap(self.name, model, *found))
            if pair is None:
                continue
            first, second = pair
            region = Region(node_label(node), (first.label, second.label))
            obstacle = _obstacle(first, second)
            if obstacle is not None:
                refusals.append(Refusal(self.name, region, obstacle, "padded-border"))
                continue
            before, after = _costs(first, second, shapes)
            verdict = context.cost.judge(before, after, context.target)
            if self.when == "worth" and not verdict:
                reason = f"fusing {first.label} with {second.label}: {verdict.reason}"
                refusals.append(Refusal(self.name, region, reason, "not-worth-it", True))
                continue
            new = fuse(first, second)
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


# --- two weights into one ------------------------------------------------------------------------


def _pair(node: onnx_ir.Node, shapes: ShapeTable) -> tuple[Linear, Linear] | None:
    """A linear operator and the one before it, where they stand alone and can be composed."""
    if node.graph is None:  # it went with a pair before
        return None
    readers = node.outputs[0].consumers() if node.op_type == "MatMul" else ()
    if len(readers) == 1 and matmul_before(readers[0]) is node:
        return None  # it is looked at together with its bias
    try:
        second = _read(node, shapes)
        producer = second.source.producer()
        if producer is None or second.source.is_graph_output() or len(second.source.uses()) != 1:
            return None
        first = _read(producer, shapes)
    except NotLinear:
        return None
    if first.is_pool or first.is_conv != second.is_conv:
        return None
    pointwise = first.is_pointwise or second.is_pointwise
    if pointwise:
        strided = first.is_pointwise and not second.is_pointwise and set(first.strides) != {1}
        return None if strided or (second.is_pool and first.is_pointwise) else (first, second)
    undilated = set(first.dilations) | set(second.dilations) == {1}
    return (first, second) if undilated else None


def _read(node: onnx_ir.Node, shapes: ShapeTable) -> Linear:
    if node.op_type == "AveragePool":
        source = node.inputs[0]
        shape = shapes[(source and source.name) or ""].shape
        if shape is None or not isinstance(shape[1], int):
            raise NotLinear(f"the shape before {node_label(node)} is not known")
        return Linear.of_pool(node, shape[1], shape)
    return Linear.within(node, shapes)


def _obstacle(first: Linear, second: Linear) -> str | None:
    padded = not second.is_pointwise and any(second.pads_begin + second.pads_end)
    if padded and not first.is_pointwise:
        return (
            f"{second.label} pads with zeros where {first.label} would have computed something, so "
            "its border would be wrong"
        )
    if padded and first.bias.any():
        return (
            f"{second.label} pads with zeros after the bias of {first.label}, so its border would "
            "be wrong"
        )
    return None


def fuse(first: Linear, second: Linear) -> NewLinear:
    """The operator that does what `first` and then `second` do.

    One of them is pointwise, or both have dilation 1 and the second does not pad.
    """
    one, two = first.dense().astype(np.float64), second.dense().astype(np.float64)
    spatial_two = two.reshape(*two.shape[:2], -1).sum(axis=2)
    bias = spatial_two @ first.bias + second.bias
    if first.is_pointwise:
        weight = np.einsum("om...,mi->oi...", two, one.reshape(one.shape[:2]))
        like = second
    else:
        weight = _composed(one, two, first.strides)
        like = first
    strides = tuple(a * b for a, b in zip(first.strides, second.strides, strict=True))
    return NewLinear(like, weight, bias, strides=strides)


def _composed(one: Array, two: Array, strides: tuple[int, ...]) -> Array:
    """Kernel of `two` after `one`: tap t2 of the second reads its first at `strides * t2`."""
    sizes = [
        k1 + (k2 - 1) * s for k1, k2, s in zip(one.shape[2:], two.shape[2:], strides, strict=True)
    ]
    weight = np.zeros((two.shape[0], one.shape[1], *sizes))
    for tap in np.ndindex(*two.shape[2:]):
        window = tuple(
            slice(t * s, t * s + k) for t, s, k in zip(tap, strides, one.shape[2:], strict=True)
        )
        part = np.einsum("om,mi...->oi...", two[(slice(None), slice(None), *tap)], one)
        weight[(slice(None), slice(None), *window)] += part
    return weight


def _costs(first: Linear, second: Linear, shapes: ShapeTable) -> tuple[Cost, Cost]:
    """Before and after; known before the weights are multiplied."""
    places = [_positions(linear, shapes) for linear in (first, second)]
    size = first.weight.dtype.itemsize
    multiplies = [0 if linear.is_pool else int(linear.weight.size) for linear in (first, second)]
    kernel = [
        k1 if not second.kernel else k1 + (k2 - 1) * s
        for k1, k2, s in zip(first.kernel, second.kernel, first.strides, strict=True)
    ]
    if first.is_pointwise:
        kernel = list(second.kernel)
    weight = second.outputs * first.inputs * int(np.prod(kernel, dtype=np.int64))
    before = sum(multiplies) + first.bias.size + (0 if second.is_pool else second.bias.size)
    after = weight + second.bias.size
    return (
        Cost(before, before * size, places[0] * multiplies[0] + places[1] * multiplies[1]),
        Cost(after, after * size, places[1] * weight),
    )


def _positions(linear: Linear, shapes: ShapeTable) -> int:
    elements = shapes[linear.result.name or ""].elements() or linear.outputs
    return max(1, elements // linear.outputs)


# --- a pool before a pointwise convolution -------------------------------------------------------


def _pool_first(node: onnx_ir.Node, shapes: ShapeTable) -> tuple[Linear, onnx_ir.Node] | None:
    """An average pool and the pointwise convolution before it, where they can change places.

    The mean of `W x + b` over a window is `W mean(x) + b`, unless zeros that stand for nothing are
    counted in.
    """
    if node.graph is None or node.op_type not in ("AveragePool", "GlobalAveragePool"):
        return None
    source = node.inputs[0]
    producer = source.producer() if source is not None else None
    if source is None or producer is None or producer.op_type != "Conv":
        return None
    if source.is_graph_output() or len(source.uses()) != 1 or node.domain not in ("", "ai.onnx"):
        return None
    try:
        conv = _read(producer, shapes)
    except NotLinear:
        return None
    one_to_one = conv.is_pointwise and all(s == 1 for s in conv.strides)
    pads = any(node.attributes.get_ints("pads", ()) or ())
    pads |= node.attributes.get_string("auto_pad", "NOTSET") not in ("NOTSET", "VALID")
    counted = pads and bool(node.attributes.get_int("count_include_pad", 0))
    if not one_to_one or (counted and conv.bias.any()):
        return None
    whole = node.op_type == "GlobalAveragePool"
    shrinks = whole or any(s > 1 for s in node.attributes.get_ints("strides", ()) or ())
    return (conv, node) if shrinks else None


def _swap(name: str, model: Model, conv: Linear, pool: onnx_ir.Node) -> Rewrite:
    shapes = model.analyses.get(Shapes())
    before = _positions(conv, shapes) * int(conv.weight.size)
    elements = shapes[pool.outputs[0].name or ""].elements() or conv.outputs
    after = max(1, elements // conv.outputs) * int(conv.weight.size)
    pooled = onnx_ir.Node(
        pool.domain, pool.op_type, [conv.source], pool.attributes.values(), name=pool.name
    )
    pooled.outputs[0].name = f"{conv.source.name}.{pool.outputs[0].name}"
    moved = onnx_ir.Node(
        "", "Conv", [pooled.outputs[0], *conv.node.inputs[1:]], conv.node.attributes.values(),
        name=conv.node.name,
    )  # fmt: skip
    model.graph.insert_before(pool, pooled)
    replace_output(model, pool, moved)
    model.graph.remove(conv.node, safe=True)
    size, count = int(conv.weight.nbytes), int(conv.weight.size)
    return Rewrite(
        name,
        "mean of W x + b is W mean(x) + b",
        Region(node_label(pooled), (conv.label, node_label(pooled))),
        Exactness.EXACT,
        (f"{conv.label} is pointwise and nothing else reads it",),
        Cost(count, size, before),
        Cost(count, size, after),
    )
