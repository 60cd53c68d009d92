"""Kept skips are narrowed, exactly, and only where the target gains by it."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from graphopt import optimize
from graphopt.evidence import Exactness
from graphopt.ir import Model
from graphopt.pipeline.passes import Context
from hwmodel.cost_model import StreamingCost
from hwmodel.estimator import estimate
from passes.narrow_skip import NarrowSkip
from tests.support.benchmarks import benchmark

blocks = benchmark("quantized_blocks")
X = np.abs(np.random.default_rng(2).normal(size=(2, 6, 8, 8))).astype(np.float32)
FINN = Context("finn:ZCU104", StreamingCost())


def block() -> Any:
    return blocks.Block(X, 0, 4, True)


def names(proto: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in proto.graph.node]


def narrowed(proto: onnx.ModelProto, context: Context = FINN, **options: Any) -> Any:
    model = Model.load(proto)
    found = NarrowSkip(**options).run(model, context)
    result = model.to_proto()
    onnx.checker.check_model(result)
    np.testing.assert_array_equal(blocks.exact(result, X), blocks.exact(proto, X))
    assert not NarrowSkip(**options).run(Model.load(result), context).rewrites
    return result, found


def shared_quantizer() -> onnx.ModelProto:
    """Accumulators, quantized alike by the branch and by the skip."""
    net = block()
    x = net.conv(net.quantized("x", signed=False), 6, 6, 3)
    step = [net.constant(value) for value in (0.25, 0, 4)]
    ways = [
        net.op("Quant", x, *step, domain=blocks.DOMAIN, signed=1, narrow=0, rounding_mode="ROUND")
        for _ in range(2)
    ]
    branch = net.quantized(net.conv(ways[0], 6, 6, 3), signed=True)
    return net.model(net.op("Add", branch, ways[1]))


def test_one_quantizer_for_all_readers() -> None:
    before = shared_quantizer()
    after, found = narrowed(before)
    (rewrite,) = found.rewrites
    assert rewrite.exactness is Exactness.BIT_EXACT
    assert rewrite.rule == "one quantizer for all"
    assert names(after).count("Quant") == names(before).count("Quant") - 1
    costs = [estimate(proto, "finn:ZCU104") for proto in (before, after)]
    assert costs[1].resources.lut < costs[0].resources.lut
    assert costs[1].fifo_bits < costs[0].fifo_bits


def test_quantizers_that_differ_stay() -> None:
    proto = shared_quantizer()
    makers = {output: node for node in proto.graph.node for output in node.output}
    (add,) = (node for node in proto.graph.node if node.op_type == "Add")
    (narrow,) = (a for a in makers[add.input[1]].attribute if a.name == "narrow")
    narrow.i = 1
    _, found = narrowed(proto, when="possible")
    assert not found.rewrites


def pooled() -> onnx.ModelProto:
    """A skip of accumulators through a largest-of, quantized at its end."""
    net = block()
    x = net.conv(net.quantized("x", signed=False), 6, 6, 3)
    pool = {"kernel_shape": [3, 3], "strides": [1, 1], "pads": [1] * 4}
    aside = net.quantized(net.op("MaxPool", x, **pool), signed=True)
    branch = net.quantized(net.conv(net.quantized(x, signed=True), 6, 6, 3), signed=True)
    return net.model(net.op("Add", branch, aside))


def test_the_quantizer_goes_first() -> None:
    before = pooled()
    after, found = narrowed(before, when="possible")
    assert [one.rule for one in found.rewrites] == ["the quantizer first", "one quantizer for all"]
    made = {output: node for node in after.graph.node for output in node.output}
    (pool,) = (node for node in after.graph.node if node.op_type == "MaxPool")
    assert made[pool.input[0]].op_type == "Quant"


def test_it_is_worth_it_only_where_fifos_shrink() -> None:
    _, found = narrowed(pooled(), Context())  # a CPU has no FIFOs
    assert not found.rewrites
    assert not found.refusals
    after, found = narrowed(pooled())
    assert len(found.rewrites) == 2
    costs = [estimate(proto, "finn:ZCU104") for proto in (pooled(), after)]
    assert costs[1].fifo_bits < costs[0].fifo_bits
    outcome = optimize(shared_quantizer(), target="finn:ZCU104")
    assert any(one.by == "narrow-skip" for one in outcome.model.evidence.rewrites)
    assert outcome.fates[0].fate.value in ("kept", "refused")


@pytest.mark.parametrize(
    "kind", ["per channel", "zero point", "two readers", "average", "ranked scale", "indices"]
)
def test_what_does_not_commute_stays(kind: str) -> None:
    net = block()
    x = net.conv(net.quantized("x", signed=False), 6, 6, 3)
    operator = "AveragePool" if kind == "average" else "MaxPool"
    moved = net.op(operator, x, kernel_shape=[3, 3], strides=[1, 1], pads=[1] * 4)
    scale = np.full((1, 6, 1, 1), 0.25) if kind == "per channel" else np.float64(0.25)
    if kind == "ranked scale":
        scale = np.full((1, 1, 1, 1), 0.25)
    if kind == "indices":
        net.nodes[-1].output.append("places")
    zero = 1.0 if kind == "zero point" else 0.0
    given = [net.constant(value) for value in (scale, zero, 4)]
    quant = {"domain": blocks.DOMAIN, "signed": 1, "narrow": 0, "rounding_mode": "ROUND"}
    aside = net.op("Quant", moved, *given, **quant)
    branch = net.quantized(net.conv(net.quantized(x, signed=True), 6, 6, 3), signed=True)
    out = net.op("Add", branch, aside)
    if kind == "two readers":
        out = net.op("Add", out, moved)
    proto = net.model(out)
    if kind == "indices":
        proto.graph.output.append(helper.make_tensor_value_info("places", TensorProto.INT64, None))
        assert not NarrowSkip(when="possible").run(Model.load(proto), FINN).rewrites
        return
    _, found = narrowed(proto, when="possible")
    assert not found.rewrites
