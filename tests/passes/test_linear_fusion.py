"""Two linear operators become one, exactly and only where it pays."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.optimizer import Outcome, optimize
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


@pytest.mark.parametrize(("k1", "k2"), [(3, 2), (2, 3), (3, 3), (5, 2)])
@pytest.mark.parametrize(("s1", "s2"), [(1, 1), (2, 1), (1, 2), (2, 3)])
def test_two_windows_compose(k1: int, k2: int, s1: int, s2: int) -> None:
    net = Net()
    h = net.conv("x", 3, 4, k1, stride=s1, pads=(1, 0, 2, 1))
    y = net.conv(h, 4, 2, k2, stride=s2, pads=(0, 0, 0, 0))
    outcome = optimize(net.model(y, ("N", 3, 17, 14)), pipeline=FORCE)
    (conv,) = outcome.model.graph
    assert list(conv.inputs[1].shape)[2:] == [k1 + (k2 - 1) * s1] * 2
    equal(outcome)


def test_a_window_that_pads_after_a_window_is_refused() -> None:
    net = Net()
    y = net.conv(net.conv("x", 3, 4, 3, bias=False), 4, 2, 3)
    outcome = optimize(net.model(y, (1, 3, 9, 9)), pipeline=FORCE)
    assert kinds(outcome) == ["Conv", "Conv"]
    assert "would have computed something" in outcome.records[0].refusals[0].reason


@pytest.mark.parametrize(("k", "p", "fused"), [(3, 2, True), (5, 2, True), (3, 3, True)])
def test_average_pool_into_the_convolution_before_it(k: int, p: int, fused: bool) -> None:
    """One strided convolution computes only what is kept: (k + p - 1)^2 / p^2 < k^2 per output."""
    net = Net()
    h = net.conv("x", 3, 4, k)
    y = net.op("AveragePool", h, kernel_shape=[p, p], strides=[p, p])
    outcome = optimize(net.model(y, ("N", 3, 11, 12)), pipeline="linear-fusion")
    assert kinds(outcome) == (["Conv"] if fused else ["Conv", "AveragePool"])
    equal(outcome)
    cost = outcome.records[0].rewrites[0]
    assert cost.before is not None
    assert cost.after is not None
    assert cost.after.multiply_adds < cost.before.multiply_adds


def test_average_pool_with_overlapping_windows_does_not_pay() -> None:
    net = Net()
    y = net.op("AveragePool", net.conv("x", 3, 4, 3), kernel_shape=[3, 3])
    outcome = optimize(net.model(y, (1, 3, 11, 12)), pipeline="linear-fusion")
    assert kinds(outcome) == ["Conv", "AveragePool"]
    assert [r.code for r in outcome.records[0].refusals] == ["not-worth-it"]


@pytest.mark.parametrize(
    "pool",
    [
        {"kernel_shape": [2, 2], "strides": [2, 2]},
        {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]},
        {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1},
        None,
    ],
)
def test_pool_goes_before_a_pointwise_convolution(pool: dict[str, object] | None) -> None:
    """A classifier of 1x1 convolutions: the mean first, then one product instead of H W."""
    net = Net()
    h = net.conv("x", 3, 5, 1)
    y = net.op("GlobalAveragePool", h) if pool is None else net.op("AveragePool", h, **pool)
    outcome = optimize(net.model(y, ("N", 3, 7, 8)), pipeline="linear-fusion")
    assert kinds(outcome) == ["GlobalAveragePool" if pool is None else "AveragePool", "Conv"]
    equal(outcome)
    assert outcome.after.total.multiply_adds < outcome.before.total.multiply_adds
    again = optimize(outcome.model, pipeline="linear-fusion")
    assert not again.changed


@pytest.mark.parametrize("bias", [True, False])
def test_counted_padding_keeps_a_biased_convolution_first(bias: bool) -> None:
    net = Net()
    h = net.conv("x", 3, 5, 1, bias=bias)
    y = net.op(
        "AveragePool",
        h,
        kernel_shape=[3, 3],
        strides=[2, 2],
        pads=[1, 1, 1, 1],
        count_include_pad=1,
    )
    outcome = optimize(net.model(y, (1, 3, 7, 8)), pipeline="linear-fusion")
    first = ["Conv", "AveragePool"]
    assert kinds(outcome) == (first if bias else first[::-1])
    if not bias:
        equal(outcome)


@pytest.mark.parametrize("bias", [True, False])
def test_products_of_matrices_on_tokens(bias: bool) -> None:
    net = Net()
    h = "x"
    for rows, columns in ((6, 5), (5, 4)):
        h = net.op("MatMul", h, net.const(net.rng.standard_normal((rows, columns))))
        if bias:
            h = net.op("Add", net.const(net.rng.standard_normal(columns)), h)
    outcome = optimize(net.model(h, ("N", 7, 6)), pipeline=FORCE)
    assert kinds(outcome) == ["MatMul", "Add"] if bias else ["MatMul"]
    equal(outcome)
