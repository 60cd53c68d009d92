"""Reserve-merge on QONNX: every code stays, and what cannot be is refused with a reason."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from graphopt import optimize
from graphopt.evidence import Refusal, Rewrite
from graphopt.interop import qonnx
from graphopt.ir import Model
from graphopt.optimizer import Fate
from graphopt.pipeline.passes import Context
from graphopt.verify.numeric import Status, compare
from passes.reserve_merge import QuantizedReserveMerge
from tests.support.benchmarks import benchmark

blocks = benchmark("quantized_blocks")


def data(signed: bool, sizes: tuple[int, int] = (7, 9), channels: int = 6) -> np.ndarray:
    x = np.random.default_rng(5).normal(size=(3, channels, *sizes)).astype(np.float32)
    return x if signed else np.abs(x)


def compute(proto: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    operators = qonnx.reference_operators(proto)
    return ReferenceEvaluator(proto, new_ops=operators).run(None, {"x": x})[0]


def removed(proto: onnx.ModelProto, **options: Any) -> tuple[onnx.ModelProto, Rewrite]:
    model = Model.load(proto)
    found = QuantizedReserveMerge(when="possible", **options).run(model, Context())
    (rewrite,) = found.rewrites
    result = model.to_proto()
    onnx.checker.check_model(result)
    assert not any(node.op_type == "Add" for node in result.graph.node)
    return result, rewrite


def refused(proto: onnx.ModelProto, code: str, **options: Any) -> Refusal:
    model = Model.load(proto)
    before = model.to_proto().SerializeToString(deterministic=True)
    found = QuantizedReserveMerge(when="possible", **options).run(model, Context())
    (refusal,) = found.refusals
    assert refusal.code == code, refusal.reason
    assert model.to_proto().SerializeToString(deterministic=True) == before
    return refusal


@pytest.mark.parametrize("form", blocks.FORMS)
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("signed", [False, True])
def test_every_code_stays(form: str, bits: int, signed: bool) -> None:
    x = data(signed)
    proto = blocks.drawn(form, bits, signed, 0, x)
    result, rewrite = removed(proto)
    rule = {"A, lattice": "lattice", "A, power of two": "power-of-two", "MobileNetV2 A": "lattice"}
    assert rule.get(form, "pointwise") in rewrite.rule
    np.testing.assert_allclose(blocks.exact(result, x), blocks.exact(proto, x), atol=1e-9)
    before, after = compute(proto, x), compute(result, x)
    assert len(np.unique(before)) > (1 if bits == 2 else 6)
    # At 8 bits float32 cannot tell a sum that is almost half way between two codes.
    assert (np.abs(before - after) > 1e-6).sum() <= (2 if bits == 8 else 0)


@pytest.mark.parametrize("form", ["A, lattice", "B, pointwise", "B, projection"])
def test_qonnx_computes_the_same(form: str) -> None:
    pytest.importorskip("qonnx")
    x = data(True)
    proto = blocks.drawn(form, 4, True, 1, x)
    result, _ = removed(proto)
    np.testing.assert_allclose(blocks.execute(result, x), blocks.execute(proto, x), atol=1e-6)


@pytest.mark.parametrize("form", blocks.FORMS)
def test_optimize_takes_the_join_away_and_proves_it(form: str) -> None:
    proto = blocks.drawn(form, 4, True, 2, data(True))
    outcome = optimize(proto, preset="plain")
    assert [one.fate for one in outcome.fates] == [Fate.REMOVED]
    again = optimize(outcome.model, preset="plain")
    assert not again.changed
    assert optimize(proto).fates[0].fate is Fate.KEPT  # it is not worth it on a CPU


@pytest.mark.parametrize("signed", [False, True])
def test_blocks_behind_each_other(signed: bool) -> None:
    """The second block reads what thresholds have taken the place of."""
    x = data(signed)
    net = blocks.Block(x, 1, 4, signed)
    here = net.quantized("x", signed=signed)
    for _ in range(3):
        here = net.relu(net.op("Add", blocks._branch(net, here, 6, 6, 1), here))
    proto = net.model(here)
    model = Model.load(proto)
    found = QuantizedReserveMerge(when="possible").run(model, Context())
    assert [one.rule for one in found.rewrites] == ["reserve-merge (lattice)"] * 3
    result = model.to_proto()
    np.testing.assert_allclose(blocks.exact(result, x), blocks.exact(proto, x), atol=1e-9)


def test_no_reserved_code_is_lost_at_the_ends_of_the_grid() -> None:
    x = np.linspace(-9, 9, 3 * 6 * 7 * 9).reshape(3, 6, 7, 9).astype(np.float32)
    proto = blocks.drawn("B, pointwise", 4, True, 3, data(True))
    result, _ = removed(proto)
    np.testing.assert_array_equal(compute(result, x), compute(proto, x))


def test_thresholds_round_up_on_request() -> None:
    """With scales that are powers of two there are ties; only one reference can be met."""
    x = data(True)
    build = blocks.summed(blocks._branch)
    block = blocks.Block(x, 0, 4, True, True)
    proto = block.model(build(block, x.shape[1]))
    for tensor in proto.graph.initializer:  # no multiple of the accumulator's step any more
        array = numpy_helper.to_array(tensor)
        if tensor.name == next(n.input[1] for n in proto.graph.node if n.op_type == "Quant"):
            tensor.CopyFrom(numpy_helper.from_array(array * np.float32(1.3), tensor.name))
    even, rewrite = removed(proto)
    assert "half-even" in " ".join(rewrite.facts)
    np.testing.assert_allclose(blocks.exact(even, x), blocks.exact(proto, x), atol=1e-9)
    _, rewrite = removed(proto, rounding="half-up")
    assert "half-up" in " ".join(rewrite.facts)


def test_where_no_factor_is_small_enough() -> None:
    x = data(True)
    proto = blocks.drawn("A, lattice", 4, True, 0, x)
    assert "no factor up to 2" in refused(proto, "no-lattice", limit=2).reason
    result, rewrite = removed(proto, limit=2, approximate=True)
    assert "approximate" in rewrite.rule
    share = (np.abs(blocks.exact(result, x) - blocks.exact(proto, x)) > 1e-9).mean()
    assert 0 < share < 0.2


def with_scale(proto: onnx.ModelProto, kind: str, index: int, factor: float) -> onnx.ModelProto:
    """The quantizer at `index` of those that read what a `kind` makes, with another scale."""
    made = {output: node.op_type for node in proto.graph.node for output in node.output}
    found = [n for n in proto.graph.node if n.op_type == "Quant" and made.get(n.input[0]) == kind]
    tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
    tensor = tensors[found[index].input[1]]
    array = numpy_helper.to_array(tensor) * np.float32(factor)
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return proto


def test_addends_of_two_scales_are_refused() -> None:
    proto = blocks.drawn("B, pointwise", 4, True, 0, data(True))
    proto = with_scale(proto, "BatchNormalization", 0, 1.5)
    assert "steps of" in refused(proto, "unequal-scales").reason


def test_a_quantizer_without_room_is_refused() -> None:
    x = data(False)
    block = blocks.Block(x, 0, 4, False)
    source = block.quantized("x", signed=False)
    block.bits = 3
    inner = blocks._branch(block, source, 6, 6, 1)
    block.bits = 4
    proto = block.model(block.relu(block.op("Add", inner, source)))
    assert "no room" in refused(proto, "activation-too-narrow").reason


def test_a_depthwise_layer_cannot_merge_a_sum() -> None:
    net = blocks.Block(data(True), 1, 4, True)
    source = net.quantized("x", signed=True)
    h = net.relu(net.conv(source, 6, 6, 3))
    total = net.op("Add", net.conv(h, 6, 6, 3, group=6), source)
    refused(net.model(net.relu(total)), "grouped")


@pytest.mark.parametrize("mode", ["FLOOR", "CEIL", "DOWN"])
def test_a_quantizer_that_does_not_round_to_the_nearest_is_refused(mode: str) -> None:
    proto = blocks.drawn("B, pointwise", 4, True, 1, data(True))
    made = {output: node.op_type for node in proto.graph.node for output in node.output}
    (inner,) = [
        node
        for node in proto.graph.node
        if node.op_type == "Quant"
        and made.get(node.input[0]) == "Relu"
        and node.output[0] != proto.graph.output[0].name
    ]
    next(a for a in inner.attribute if a.name == "rounding_mode").s = mode.encode()
    assert f"rounds by {mode}" in refused(proto, "rounding").reason


@pytest.mark.parametrize("narrower", [0, 1])
def test_a_skip_that_only_its_own_quantizer_clips_is_refused(narrower: int) -> None:
    """The sum at full precision takes codes that the branch has room for, and more."""
    x = data(True)
    net = blocks.Block(x, 1, 4, True)
    h = net.relu(net.conv("x", 6, 6, 3))
    net.bits -= narrower
    skip = net.quantized("x", signed=True, scale=0.2)
    net.bits += narrower
    total = net.op("Add", net.conv(h, 6, 6, 3), skip)
    proto = net.model(net.relu(total))
    if narrower:
        refused(proto, "unequal-widths")
    else:
        result, _ = removed(proto)
        np.testing.assert_allclose(blocks.exact(result, x), blocks.exact(proto, x), atol=1e-9)


def test_a_skip_whose_codes_are_ties_of_its_own_quantizer() -> None:
    """Every second code of x lies half way between two of the skip's; float32 has to agree."""
    x = data(True)
    outcomes = set()
    for scale in (0.1, 0.13, 0.17, 0.29, 0.31, 0.37):
        net = blocks.Block(x, 1, 4, True)
        source = net.quantized("x", signed=True, scale=scale)
        inner = net.quantized(blocks._branch(net, source, 6, 6, 1), signed=True, scale=2 * scale)
        skip = net.quantized(source, signed=True, scale=2 * scale)
        proto = net.model(net.relu(net.op("Add", inner, skip)))
        model = Model.load(proto)
        found = QuantizedReserveMerge(when="possible").run(model, Context())
        if found.rewrites:
            np.testing.assert_array_equal(compute(model.to_proto(), x), compute(proto, x))
        outcomes.add(found.refusals[0].code if found.refusals else "removed")
    assert outcomes <= {"removed", "rounding"}
    assert "rounding" in outcomes


def test_a_zero_point_is_refused() -> None:
    x = data(True)
    block = blocks.Block(x, 0, 4, True)
    parameters = [block.constant(value) for value in (0.1, 3.0, 4)]
    source = block.op("Quant", "x", *parameters, domain=blocks.DOMAIN, signed=1, narrow=0,
                      rounding_mode="ROUND")  # fmt: skip
    inner = blocks._branch(block, source, 6, 6, 1)
    proto = block.model(block.relu(block.op("Add", inner, source)))
    assert "on no grid" in refused(proto, "activation-grid").reason


def test_joins_without_quantizers_are_left_to_others() -> None:
    x = data(True)
    block = blocks.Block(x, 0, 4, True)
    inner = block.op("Conv", "x", block.constant(np.ones((6, 6, 1, 1))), kernel_shape=[1, 1])
    model = Model.load(block.model(block.op("Add", inner, "x")))
    found = QuantizedReserveMerge(when="possible").run(model, Context())
    assert not found.changed
    assert not found.refusals


def test_a_sum_that_is_read_before_it_is_quantized_is_refused() -> None:
    x = data(True)
    block = blocks.Block(x, 0, 4, True)
    source = block.quantized("x", signed=True)
    total = block.op("Add", blocks._branch(block, source, 6, 6, 1), source)
    proto = block.model(block.op("Sigmoid", total))
    refused(proto, "no-quantizer-behind")


class Drawn(blocks.Block):
    """Blocks of all that may stand in one: kinds of weights, of scales and biases behind a
    convolution, of activations."""

    def conv(self, x: str, inputs: int, outputs: int, kernel: int, **attributes: Any) -> str:
        weight = self.rng.normal(
            size=(outputs, inputs // attributes.get("group", 1), kernel, kernel)
        )
        weight /= np.sqrt(weight[0].size)
        high = 2 ** (self.bits - 1) - 1
        each = np.abs(weight).max(axis=(1, 2, 3), keepdims=True)
        kind = self.rng.choice(["channel", "tensor", "bipolar"])
        if kind == "bipolar":
            scale = [self.constant(np.abs(weight).mean())]
            read = self.op("BipolarQuant", self.constant(weight), *scale, domain=blocks.DOMAIN)
        else:
            scale = (each if kind == "channel" else each.max()) / high
            parameters = [self.constant(value) for value in (scale, 0.0, self.bits)]
            kept = {"signed": 1, "narrow": int(self.rng.integers(2)), "rounding_mode": "ROUND"}
            values = self.constant(weight)
            read = self.op("Quant", values, *parameters, domain=blocks.DOMAIN, **kept)
        bias = [self.constant(self.rng.normal(size=outputs) * 0.3)] * int(self.rng.integers(2))
        given = {"strides": [1, 1], "dilations": [1, 1], "pads": [kernel // 2] * 4, "group": 1}
        x = self.op("Conv", x, read, *bias, kernel_shape=[kernel] * 2, **(given | attributes))
        match self.rng.integers(4):
            case 0:
                gamma = self.rng.uniform(0.5, 1.5, outputs) * self.rng.choice([1, 1, -1], outputs)
                others = [self.rng.normal(size=outputs) * 0.2 for _ in range(2)]
                var = self.rng.uniform(0.5, 2.0, outputs)
                norm = map(self.constant, [gamma, *others, var])
                return self.op("BatchNormalization", x, *norm, epsilon=1e-3)
            case 1:
                x = self.op("Mul", x, self.constant(self.rng.uniform(0.5, 1.5, (1, outputs, 1, 1))))
                return self.op("Add", x, self.constant(self.rng.normal(size=(outputs, 1, 1)) * 0.2))
            case 2:
                return self.op("Sub", self.op("Mul", self.constant(0.7), x), self.constant(0.1))
        return x

    def act(self, x: str) -> str:
        return self.relu(x) if self.rng.integers(3) else self.quantized(x, signed=True)


WINDOWS = [
    {"kernel": 3},
    {"kernel": 3, "pads": [2] * 4, "dilations": [2, 2]},
    {"kernel": 2, "pads": [0, 1, 1, 0]},
    {"kernel": 4, "pads": [1, 2, 2, 1]},
]


@pytest.mark.parametrize("seed", range(40))
def test_drawn_blocks(seed: int) -> None:
    rng = np.random.default_rng(seed)
    channels, signed = int(rng.choice([3, 4])), bool(rng.integers(2))
    x = data(signed, tuple(rng.integers(5, 10, 2)), channels)
    net = Drawn(x, seed, int(rng.choice([2, 3, 4, 5])), signed)
    stride = int(rng.choice([1, 1, 2]))
    outputs = channels * int(rng.choice([1, 2]) if stride == 2 else 1)
    source = net.quantized("x", signed=signed)
    h = net.act(
        net.conv(source, channels, outputs, int(rng.choice([1, 3, 5])), strides=[stride] * 2)
    )
    if rng.integers(3) == 0:
        h = net.act(net.conv(h, outputs, outputs, 3, group=outputs))
    window = dict(WINDOWS[seed % 4])
    ends = [net.conv(h, outputs, outputs, window.pop("kernel"), **window), source]
    if stride == 2 or rng.integers(2):
        ends[0] = net.quantized(ends[0], signed=True)
        if stride == 2:
            ends[1] = net.conv(source, channels, outputs, 1, strides=[2, 2])
        ends[1] = net.quantized(ends[1], signed=True, scale=net.scale)
    proto = net.model(net.act(net.op("Add", *(ends if rng.integers(2) else ends[::-1]))))
    found = QuantizedReserveMerge(when="possible").run(model := Model.load(proto), Context())
    if found.refusals:
        assert [one.code for one in found.refusals] == ["activation-too-narrow"]
        return
    result = model.to_proto()
    np.testing.assert_allclose(blocks.exact(result, x), blocks.exact(proto, x), atol=1e-9)


def test_a_wrong_bias_is_told_from_noise() -> None:
    """At 8 bits noise moves a few codes by a step; most of them are another matter."""
    x = data(True)
    proto = blocks.drawn("B, pointwise", 8, True, 0, x)
    outcome = optimize(proto, preset="plain")
    assert outcome.verification is not None
    assert outcome.verification.status is Status.EQUAL
    wrong = outcome.model.to_proto()
    tensors = {tensor.name: tensor for tensor in wrong.graph.initializer}
    last = [node for node in wrong.graph.node if node.op_type == "BatchNormalization"][-1]
    quantizer = next(n for n in wrong.graph.node if last.output[0] in n.input)
    step = numpy_helper.to_array(tensors[quantizer.input[1]])
    bias = numpy_helper.to_array(tensors[last.input[2]]) + np.float32(0.8) * step
    tensors[last.input[2]].CopyFrom(numpy_helper.from_array(bias, last.input[2]))
    found = compare(Model.load(proto), Model.load(wrong))
    assert found.status is Status.DIFFERENT, found.reason
