"""Reserve-merge on QONNX: every code stays, and what cannot be is refused with a reason."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
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
from passes.reserve_merge import QuantizedReserveMerge

BENCHMARK = Path(__file__).parents[3] / "benchmarks" / "quantized_blocks.py"


def _benchmark() -> Any:
    spec = importlib.util.spec_from_file_location("quantized_blocks", BENCHMARK)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


blocks = _benchmark()


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
