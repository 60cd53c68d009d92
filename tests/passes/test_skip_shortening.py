"""Skips that start behind the first convolution of their branch: the same codes, shorter FIFOs."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from graphopt import optimize
from graphopt.evidence import Exactness
from graphopt.ir import Model
from graphopt.optimizer import Fate
from graphopt.pipeline.passes import Context
from hwmodel.cost_model import StreamingCost
from hwmodel.dataflow import map_model
from hwmodel.fifo import bounds, deadlock_free, size
from hwmodel.kernels import Split
from hwmodel.simulate import simulate
from passes.skip_shortening import SkipShortening
from tests.support.benchmarks import benchmark

blocks = benchmark("quantized_blocks")
FORMS = ["A, lattice", "A, power of two", "B, pointwise", "MobileNetV2 A", "MobileNetV2 B"]


def data(signed: bool) -> np.ndarray:
    x = np.random.default_rng(4).normal(size=(2, 6, 12, 12)).astype(np.float32)
    return x if signed else np.abs(x)


def shortened(proto: onnx.ModelProto) -> tuple[onnx.ModelProto, Any]:
    model = Model.load(proto)
    found = SkipShortening(when="possible").run(model, Context())
    result = model.to_proto()
    onnx.checker.check_model(result)
    return result, found


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("signed", [False, True])
def test_every_code_stays(form: str, bits: int, signed: bool) -> None:
    x = data(signed)
    proto = blocks.drawn(form, bits, signed, 0, x)
    result, found = shortened(proto)
    (rewrite,) = found.rewrites
    assert rewrite.exactness is Exactness.EXACT
    kinds = [node.op_type for node in result.graph.node]
    assert kinds.count("Split") == 1
    np.testing.assert_allclose(blocks.exact(result, x), blocks.exact(proto, x), atol=1e-6)


@pytest.mark.parametrize("form", ["A, lattice", "B, pointwise"])
def test_optimize_proves_it_and_keeps_the_skip(form: str) -> None:
    proto = blocks.drawn(form, 4, True, 1, data(True))
    outcome = optimize(proto, pipeline="shorten-skip{when=possible}")
    assert [one.rule for one in outcome.model.evidence.rewrites] == ["shortened"]
    assert [one.fate for one in outcome.fates] != [Fate.REMOVED]
    # One more layer is left in the branch of form B and none in that of A, so at most once more.
    again = optimize(outcome.model, pipeline="shorten-skip{when=possible}")
    assert not again.changed


def test_the_fifo_is_shorter_and_the_design_as_fast() -> None:
    proto = blocks.drawn("B, pointwise", 4, False, 0, data(False))
    before, after = (map_model(Model.load(one)) for one in (proto, shortened(proto)[0]))
    (split,) = (kernel for kernel in after.kernels if isinstance(kernel, Split))
    old, new = (
        max(bounds(design).values(), key=lambda b: b.deadlock) for design in (before, after)
    )
    assert new.skip.fork == split.name
    assert new.deadlock * new.words < old.deadlock * old.words
    sized = [size(design).design for design in (before, after)]
    assert [simulate(design, frames=4).status for design in sized] == ["ok", "ok"]
    # The closed form is enough, and by few pixels too high, which the kernels on the skip hold.
    least = deadlock_free(sized[1], new.skip.stream)
    assert least <= new.deadlock <= least + 3 * new.words


def test_it_is_done_only_where_it_pays() -> None:
    proto = blocks.drawn("B, pointwise", 4, False, 0, data(False))
    found = SkipShortening().run(Model.load(proto), Context())
    assert not found.rewrites  # a CPU has no FIFOs
    assert not found.refusals
    found = SkipShortening().run(Model.load(proto), Context("finn:ZCU104", StreamingCost()))
    assert not found.rewrites
    assert [one.code for one in found.refusals] == ["not-worth-it"]


@pytest.mark.parametrize("form", ["B, projection"])
def test_refused(form: str) -> None:
    result, found = shortened(proto := blocks.drawn(form, 4, True, 0, data(True)))
    assert [one.code for one in found.refusals] == ["skip-not-simple"]
    assert result.SerializeToString(deterministic=True) == Model.load(
        proto
    ).to_proto().SerializeToString(deterministic=True)


def test_a_first_layer_that_shrinks_the_map_is_refused() -> None:
    x = data(False)
    net = blocks.Block(x, 0, 4, False)
    source = net.quantized("x", signed=False)
    inner = net.relu(net.conv(source, 6, 6, 3))
    last = net.quantized(net.conv(inner, 6, 6, 3), signed=True)
    proto = net.model(net.op("Add", last, net.quantized(source, signed=True, scale=net.scale)))
    convs = [node for node in proto.graph.node if node.op_type == "Conv"]
    for conv, pads in zip(convs, ([0] * 4, [2] * 4), strict=True):
        (attribute,) = (one for one in conv.attribute if one.name == "pads")
        attribute.ints[:] = pads
    _, found = shortened(proto)
    assert [one.code for one in found.refusals] == ["broadcast"]
