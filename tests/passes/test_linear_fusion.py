"""Two linear operators become one, exactly and only where it pays."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.optimize import Outcome, optimize
from tests.support.blocks import Net
from tests.support.check import equal

FORCE = "linear-fusion{when=possible}"


def kinds(outcome: Outcome) -> list[str]:
    return [node.op_type for node in outcome.model.graph]


@pytest.mark.parametrize(("k1", "k2"), [(1, 1), (1, 3), (3, 1), (5, 1)])
@pytest.mark.parametrize(("s1", "s2"), [(1, 1), (1, 2), (2, 1), (2, 2)])
def test_pairs(k1: int, k2: int, s1: int, s2: int) -> None:
    net = Net()
    h = net.conv("x", 3, 5, k1, stride=s1)
    y = net.conv(h, 5, 4, k2, stride=s2, pads=(0, 0, 0, 0) if k1 == 1 else None)
    outcome = optimize(net.model(y, ("N", 3, 11, 12)), pipeline=FORCE)
    if k1 == 1 and k2 == 3 and s1 == 2:
        assert kinds(outcome) == ["Conv", "Conv"]
        return
    assert kinds(outcome) == ["Conv"]
    equal(outcome)


@pytest.mark.parametrize("group", [1, 3])
def test_depthwise_before_pointwise(group: int) -> None:
    net = Net()
    y = net.conv(net.conv("x", 3, 3, 3, group=group), 3, 6, 1)
    outcome = optimize(net.model(y, ("N", 3, 9, 9)), pipeline=FORCE)
    assert kinds(outcome) == ["Conv"]
    equal(outcome)


def test_bias_before_padding_is_refused() -> None:
    net = Net()
    y = net.conv(net.conv("x", 3, 5, 1), 5, 4, 3)
    outcome = optimize(net.model(y, (1, 3, 8, 8)), pipeline=FORCE)
    assert kinds(outcome) == ["Conv", "Conv"]
    assert [r.code for r in outcome.records[0].refusals] == ["padded-border"]


def test_without_bias_padding_does_no_harm() -> None:
    net = Net()
    y = net.conv(net.conv("x", 3, 5, 1, bias=False), 5, 4, 3)
    outcome = optimize(net.model(y, ("N", 3, 8, 8)), pipeline=FORCE)
    assert kinds(outcome) == ["Conv"]
    equal(outcome)


def test_gemm_chain() -> None:
    net = Net()

    def gemm(x: str, cin: int, cout: int, trans: int) -> str:
        weight = net.rng.standard_normal((cout, cin) if trans else (cin, cout))
        return net.op("Gemm", x, net.const(weight), net.const(np.ones(cout)), transB=trans)

    y = gemm(gemm(gemm("x", 4, 9, 0), 9, 8, 1), 8, 3, 0)
    outcome = optimize(net.model(y, ("N", 4)), pipeline="linear-fusion")
    assert kinds(outcome) == ["Gemm"]
    equal(outcome)


@pytest.mark.parametrize(
    ("cin", "mid", "out", "fuses"),
    [(8, 2, 8, False), (4, 8, 4, True), (4, 2, 4, True), (6, 3, 7, False)],
)
def test_cost_decides(cin: int, mid: int, out: int, fuses: bool) -> None:
    """A win only if in * out <= mid * (in + out)."""
    assert fuses is (cin * out <= mid * (cin + out))
    net = Net()
    y = net.conv(net.conv("x", cin, mid, 1), mid, out, 1)
    outcome = optimize(net.model(y, (1, cin, 5, 5)), pipeline="linear-fusion")
    assert kinds(outcome) == (["Conv"] if fuses else ["Conv", "Conv"])
    if not fuses:
        (refusal,) = outcome.records[0].refusals
        assert refusal.by_choice
        assert "multiply-adds" in refusal.reason


def test_tensor_in_between_that_is_read_elsewhere_stays() -> None:
    net = Net()
    h = net.conv("x", 3, 3, 1)
    y = net.op("Concat", net.conv(h, 3, 3, 1), h, axis=1)
    outcome = optimize(net.model(y, (1, 3, 5, 5)), pipeline=FORCE)
    assert kinds(outcome) == ["Conv", "Conv", "Concat"]


def test_bottleneck_between_expansions_after_reserve_merge() -> None:
    """MobileNetV2 to V1 in small: once the joins are gone, project and expand are neighbours."""
    net = Net()
    x = net.conv(net.act(net.conv("x", 3, 6, 3), "Relu"), 6, 4, 1)
    for _ in range(2):
        h = net.act(net.conv(x, 4, 8, 1), "Relu")
        h = net.act(net.conv(h, 8, 8, 3, group=8), "Relu")
        x = net.op("Add", x, net.conv(h, 8, 4, 1))
    model = net.model(net.conv(x, 4, 2, 1), ("N", 3, 8, 8))
    outcome = optimize(
        model, pipeline="reserve-merge{when=possible},linear-fusion{when=possible},dce"
    )
    assert "Add" not in kinds(outcome)
    pointwise = [
        n
        for n in outcome.model.graph
        if n.op_type == "Conv" and n.attributes.get_int("group", 1) == 1
    ]
    assert len(pointwise) == 4  # stem, two fused pairs, and the last project with the head
    equal(outcome)
