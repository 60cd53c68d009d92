"""Parallel linear branches become one operator, exactly and only where that is proved."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.ir import Model, constant, fingerprint
from graphopt.optimizer import Fate, Outcome, optimize
from graphopt.pipeline import Context, Pipeline
from graphopt.verify.algebra import ClaimError, Placed, Stacked, Summed
from graphopt.verify.runtime import ReferenceRunner
from passes.branch_fusion import BranchFusion
from tests.support.blocks import Net
from tests.support.check import equal

WORTH, FORCE = "branch-fusion,dce", "branch-fusion{when=possible},dce"
WIDER = "branch-fusion{wider=true},dce"
Block = Callable[[Net, str], str]
Shape = tuple[int | str, ...]

BATCH = ("N", 4, 7, 9)
FREE = ("N", 4, "H", "W")
ALL = np.iinfo(np.int64).max


def nodes(outcome: Outcome) -> list[Any]:
    return list(outcome.model.graph)


def kinds(outcome: Outcome) -> list[str]:
    return [node.op_type for node in outcome.model.graph]


def codes(outcome: Outcome) -> list[str]:
    return [refusal.code for refusal in outcome.records[0].refusals]


def attribute(outcome: Outcome, name: str) -> Any:
    (conv,) = (node for node in outcome.model.graph if node.op_type == "Conv")
    return conv.attributes[name].value


def model(build: Block, shape: Shape, dtype: type = np.float32, opset: int = 17) -> onnx.ModelProto:
    net = Net(3, dtype, opset=opset)
    return net.model(net.op("Identity", build(net, "x")), shape)


def twice(proto: onnx.ModelProto, pipeline: str) -> Model:
    """The model after the pass; once more changes nothing, and another run gives the same."""
    results = []
    for _ in range(2):
        result = Model.load(proto)
        assert Pipeline.parse(pipeline).run(result)[0].changed
        results.append(fingerprint(result))
    assert results[0] == results[1]
    assert not any(record.changed for record in Pipeline.parse(pipeline).run(result))
    return result


def exact(build: Block, shape: Shape, pipeline: str = FORCE) -> Model:
    """Fuses, asserts that in float64 the outputs agree to the last digits; returns the result."""
    proto = model(build, shape, np.float64)
    before, after = Model.load(proto), twice(proto, pipeline)
    rng = np.random.default_rng(1)
    sizes = [d if isinstance(d, int) else 2 if i == 0 else 6 + i for i, d in enumerate(shape)]
    feeds = {"x": rng.standard_normal(sizes) * 4}
    for old, new in zip(
        ReferenceRunner(before).run(feeds).values(),
        ReferenceRunner(after).run(feeds).values(),
        strict=True,
    ):
        assert old.shape == new.shape
        assert np.abs(old - new).max() <= 1e-12 * max(1.0, np.abs(old).max())
    return after


def fused(build: Block, shape: Shape = BATCH, pipeline: str = FORCE, opset: int = 17) -> Outcome:
    """Fuses, and asserts that no sum is left and that the outputs are equal."""
    outcome = optimize(model(build, shape, opset=opset), pipeline=pipeline)
    assert not {"Add", "Sum", "BatchNormalization", "AveragePool"}.intersection(kinds(outcome))
    assert {one.fate for one in outcome.fates} <= {Fate.REMOVED}
    assert {rewrite.by for rewrite in outcome.records[0].rewrites} == {"branch-fusion"}
    assert outcome.records[0].claims_checked
    equal(outcome)
    return outcome


def add(net: Net, *terms: str) -> str:
    total = terms[0]
    for term in terms[1:]:
        total = net.op("Add", total, term)
    return total


def scale(net: Net, x: str, channels: int = 4, axes: int = 2) -> str:
    return net.op("Mul", x, net.const(net.rng.uniform(-2, 2, (channels, *(1,) * axes))))


def average(net: Net, x: str, k: int = 3, stride: int = 1, pad: int = 1, **more: int) -> str:
    size = {"kernel_shape": [k, k], "strides": [stride, stride], "pads": [pad] * 4}
    return net.op("AveragePool", x, **size, **more)


def cut(net: Net, x: str, start: int, end: int, step: int = 1, axes: int = 2) -> str:
    bounds = ([start] * axes, [end] * axes, list(range(2, 2 + axes)), [step] * axes)
    return net.op("Slice", x, *(net.const(values, np.int64) for values in bounds))


def repvgg(net: Net, x: str, cin: int, cout: int, stride: int = 1) -> str:
    square, point = (
        net.norm(net.conv(x, cin, cout, k, stride=stride, bias=False), cout) for k in (3, 1)
    )
    same = [net.norm(x, cin)] if cin == cout and stride == 1 else []
    return add(net, square, point, *same)


def mobileone(net: Net, x: str) -> str:
    convs = [net.conv(x, 4, 4, k, group=4, bias=False) for k in (3, 3, 3, 1)]
    return add(net, *(net.norm(conv, 4) for conv in convs), net.norm(x, 4))


def diverse(net: Net, x: str) -> str:
    """A Diverse Branch Block whose norms in the middle are left out."""
    chain = net.norm(net.conv(net.conv(x, 4, 6, 1, bias=False), 6, 4, 3), 4)
    pool = net.norm(average(net, net.conv(x, 4, 4, 1, bias=False), count_include_pad=1), 4)
    return net.op("Sum", net.conv(x, 4, 4, 3), net.norm(net.conv(x, 4, 4, 1), 4), chain, pool)


BLOCKS: dict[str, tuple[Block, list[int], int]] = {
    "RepVGG": (lambda n, x: repvgg(n, x, 4, 4), [3, 3], 1),
    "RepVGG with stride": (lambda n, x: repvgg(n, x, 4, 6, 2), [3, 3], 1),
    "ACNet": (
        lambda n, x: add(n, *(n.norm(n.conv(x, 4, 4, k), 4) for k in (3, (1, 3), (3, 1)))),
        [3, 3],
        1,
    ),
    "MobileOne, depthwise": (mobileone, [3, 3], 4),
    "Diverse Branch Block": (diverse, [3, 3], 1),
    "a cross": (lambda n, x: add(n, n.conv(x, 4, 4, (1, 5)), n.conv(x, 4, 4, (3, 1))), [3, 5], 1),
    "identity": (lambda n, x: n.op("Add", n.conv(x, 4, 4), x), [3, 3], 1),
    "identity first": (lambda n, x: n.op("Add", x, n.conv(x, 4, 4, bias=False)), [3, 3], 1),
    "scaled identity": (lambda n, x: n.op("Add", n.conv(x, 4, 4, 5), scale(n, x)), [5, 5], 1),
    "negative": (
        lambda n, x: n.op("Add", n.op("Mul", n.conv(x, 4, 4), n.const(-1.5)), x),
        [3, 3],
        1,
    ),
    "shifted": (
        lambda n, x: n.op("Add", n.conv(x, 4, 4), n.op("Sub", n.const(np.ones((4, 1, 1))), x)),
        [3, 3],
        1,
    ),
    "sevenfold": (
        lambda n, x: add(n, *(n.conv(x, 4, 3, k) for k in (1, 3, 5, 1, 3, 5, 3))),
        [5, 5],
        1,
    ),
    "grouped": (
        lambda n, x: add(n, n.conv(x, 4, 8, group=4), n.conv(x, 4, 8, 1, group=2)),
        [3, 3],
        2,
    ),
    "grouped and identity": (lambda n, x: add(n, n.conv(x, 4, 4, group=2), scale(n, x)), [3, 3], 2),
    "depthwise and dense": (
        lambda n, x: add(n, n.conv(x, 4, 4, group=4), n.conv(x, 4, 4, 1)),
        [3, 3],
        1,
    ),
    "even kernels": (
        lambda n, x: add(
            n,
            n.conv(x, 4, 4, 2, pads=(0, 0, 1, 1)),
            n.conv(x, 4, 4, 2, pads=(1, 0, 0, 1)),
            n.conv(x, 4, 4, 4, pads=(1, 2, 2, 1)),
        ),
        [4, 4],
        1,
    ),
    "beside itself": (
        lambda n, x: add(n, n.conv(x, 4, 4, pads=(2, 2, 0, 0)), n.conv(x, 4, 4, pads=(0, 0, 2, 2))),
        [5, 5],
        1,
    ),
    "even kernels with stride": (
        lambda n, x: add(
            n,
            n.conv(x, 4, 4, 3, stride=2),
            n.conv(x, 4, 4, 4, stride=2, pads=(2, 1, 1, 2)),
            n.conv(x, 4, 4, 2, stride=2, pads=(0, 1, 1, 0)),
        ),
        [4, 4],
        1,
    ),
    "dilated": (lambda n, x: add(n, n.conv(x, 4, 4, dilation=2), x), [3, 3], 1),
    "two dilations": (
        lambda n, x: add(n, n.conv(x, 4, 4, dilation=2), n.conv(x, 4, 4, dilation=3)),
        [7, 7],
        1,
    ),
    "two dilations on one grid": (
        lambda n, x: add(n, n.conv(x, 4, 4, dilation=2), n.conv(x, 4, 4, dilation=4)),
        [5, 5],
        1,
    ),
    "strided before a window": (
        lambda n, x: add(
            n,
            n.conv(n.conv(x, 4, 3, 1, stride=2, bias=False), 3, 4, 3),
            n.conv(x, 4, 4, 1, stride=2),
        ),
        [3, 3],
        1,
    ),
    "strided slice": (
        lambda n, x: add(n, n.conv(x, 4, 4, stride=2), cut(n, x, 0, ALL, 2)),
        [3, 3],
        1,
    ),
    "average": (
        lambda n, x: add(n, n.conv(x, 4, 4), average(n, x, count_include_pad=1)),
        [3, 3],
        1,
    ),
    "average in blocks": (
        lambda n, x: add(n, n.conv(x, 4, 4, 2, stride=2, pads=(0,) * 4), average(n, x, 2, 2, 0)),
        [2, 2],
        1,
    ),
    "in a chain": (
        lambda n, x: add(n, n.conv(n.conv(x, 4, 6, 3), 6, 4, 1), n.op("Dropout", n.norm(x, 4))),
        [3, 3],
        1,
    ),
    "nested sums": (
        lambda n, x: n.op(
            "Add",
            n.op("Sum", n.conv(x, 4, 4), x, n.conv(x, 4, 4, 1)),
            n.op("Add", scale(n, x), n.norm(n.conv(x, 4, 4), 4)),
        ),
        [3, 3],
        1,
    ),
    "nested blocks": (
        lambda n, x: add(n, n.norm(repvgg(n, x, 4, 4), 4), n.conv(x, 4, 4, 5), x),
        [5, 5],
        1,
    ),
    "one after the other": (
        lambda n, x: repvgg(n, n.op("Relu", repvgg(n, x, 4, 4)), 4, 4),
        [],
        0,
    ),
}


@pytest.mark.parametrize("shape", [BATCH, (1, 4, 8, 6)], ids=["odd", "even"])
@pytest.mark.parametrize("name", BLOCKS)
def test_blocks(name: str, shape: Shape) -> None:
    build, kernel, group = BLOCKS[name]
    outcome = fused(build, shape)
    if kernel:
        assert kinds(outcome) == ["Conv", "Identity"]
        assert list(attribute(outcome, "kernel_shape")) == kernel
        assert attribute(outcome, "group") == group


def test_zeros_in_the_window_are_told() -> None:
    """Zero times infinity is no number."""
    cross = fused(BLOCKS["a cross"][0])
    assert any("infinite" in fact for fact in cross.records[0].rewrites[0].facts)
    square = fused(BLOCKS["RepVGG"][0])
    assert not any("infinite" in fact for fact in square.records[0].rewrites[0].facts)


@pytest.mark.parametrize("shape", [BATCH, FREE], ids=["odd", "free"])
@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_in_double_precision(name: str, shape: Shape) -> None:
    assert not any(node.op_type == "Add" for node in exact(BLOCKS[name][0], shape).graph)


def test_free_sizes() -> None:
    fused(BLOCKS["even kernels with stride"][0], FREE)


@pytest.mark.parametrize("axes", [1, 3])
def test_other_ranks(axes: int) -> None:
    def build(net: Net, x: str) -> str:
        crop = cut(net, x, 1, ALL, 2, axes)
        point = net.conv(crop, 4, 4, 1, axes=axes)
        window = net.conv(x, 4, 4, 3, stride=2, axes=axes, pads=(0,) * 2 * axes)
        both = net.conv(x, 4, 4, 2, stride=2, axes=axes, pads=(0,) * 2 * axes, group=2)
        return add(net, window, both, scale(net, point, axes=axes))

    outcome = fused(build, ("N", 4, *(7, 5, 9)[:axes]))
    assert list(attribute(outcome, "kernel_shape")) == [3] * axes
    assert list(attribute(outcome, "pads")) == [0] * 2 * axes
    exact(build, ("N", 4, *(7, 5, 9)[:axes]))


CUTS: dict[str, tuple[Block, list[int], list[int]]] = {
    "the middle": (
        lambda n, x: add(n, n.conv(x, 4, 4, pads=(0,) * 4), cut(n, x, 1, -1)),
        [3, 3],
        [0, 0, 0, 0],
    ),
    "from the second on": (
        lambda n, x: add(n, n.conv(cut(n, x, 1, ALL), 4, 4, 1), cut(n, x, -6, ALL)),
        [2, 2],
        [0, 0, 0, 0],
    ),
    "all but the last": (
        lambda n, x: add(n, n.conv(cut(n, x, 0, -1), 4, 4, 1), cut(n, x, 0, 6)),
        [2, 2],
        [0, 0, 0, 0],
    ),
    "sizes that happen to agree": (
        lambda n, x: add(
            n, n.conv(x, 4, 4, 2, stride=2, pads=(0,) * 4), n.conv(x, 4, 4, 1, stride=2)
        ),
        [2, 2],
        [0, 0, 0, 0],
    ),
}
"""Windows that end where the tensor does not: a tap of zeros, or padding, keeps the size."""


@pytest.mark.parametrize("name", CUTS)
def test_cuts(name: str) -> None:
    build, kernel, pads = CUTS[name]
    size = 8 if name.startswith("sizes") else 7
    outcome = fused(build, ("N", 4, size, size))
    assert list(attribute(outcome, "kernel_shape")) == kernel
    assert list(attribute(outcome, "pads")) == pads
    exact(build, ("N", 4, size, size))


def test_padding_that_depends_on_the_size() -> None:
    def build(net: Net, x: str) -> str:
        convs = [
            net.op(
                "Conv",
                x,
                net.const(net.rng.standard_normal((4, 4, k, k))),
                auto_pad=mode,
                strides=[2, 2],
            )
            for k, mode in ((4, "SAME_UPPER"), (3, "SAME_LOWER"), (2, "SAME_UPPER"))
        ]
        return add(net, *convs)

    for size in (7, 8):
        fused(build, ("N", 4, size, size))
    refused(build, "runtime-weights", FREE)


# --- matrices ------------------------------------------------------------------------------------


def gemm(net: Net, x: str, cin: int, cout: int, trans: int = 1, bias: bool = True) -> str:
    weight = net.rng.standard_normal((cout, cin) if trans else (cin, cout))
    more = [net.const(net.rng.standard_normal(cout))] if bias else []
    return net.op("Gemm", x, net.const(weight), *more, transB=trans)


def matmul(net: Net, x: str, cin: int, cout: int) -> str:
    return net.op("MatMul", x, net.const(net.rng.standard_normal((cin, cout))))


@pytest.mark.parametrize("batch", ["N", 3])
def test_gemms(batch: int | str) -> None:
    def build(net: Net, x: str) -> str:
        shifted = net.op("Add", matmul(net, x, 5, 5), net.const(np.arange(5)))
        low = gemm(net, gemm(net, x, 5, 2, bias=False), 2, 5, 0)
        return add(net, gemm(net, x, 5, 5), gemm(net, x, 5, 5, 0, False), shifted, low, x)

    outcome = fused(build, (batch, 5), WORTH)
    assert kinds(outcome) == ["Gemm", "Identity"]
    exact(build, (batch, 5))


@pytest.mark.parametrize(("opset", "inputs"), [(9, 3), (17, 2)])
def test_gemm_without_bias(opset: int, inputs: int) -> None:
    """Before opset 11 a Gemm had to have a bias."""
    outcome = fused(
        lambda n, x: add(n, matmul(n, x, 5, 6), matmul(n, x, 5, 6)), ("N", 5), WORTH, opset
    )
    assert [len(node.inputs) for node in nodes(outcome)] == [inputs, 1]


@pytest.mark.parametrize("shift", [True, False])
def test_matrices_on_the_last_axis(shift: bool) -> None:
    """As LoRA adds them (Hu et al. 2022)."""

    def build(net: Net, x: str) -> str:
        low = net.op("Mul", matmul(net, matmul(net, x, 6, 2), 2, 5), net.const(0.5))
        whole = matmul(net, x, 6, 5)
        whole = net.op("Add", whole, net.const(np.arange(5))) if shift else whole
        return net.op("Add", whole, low)

    outcome = optimize(model(build, ("N", "T", 6)), pipeline=WORTH)
    assert kinds(outcome) == ["MatMul", *(["Add"] if shift else []), "Identity"]
    assert [one.fate for one in outcome.fates] == [Fate.REMOVED]
    equal(outcome)
    exact(build, ("N", 5, 6))


# --- in a network --------------------------------------------------------------------------------


def test_repvgg_network() -> None:
    """RepVGG-A0 in small: 22 blocks, 39 joins, one convolution each."""
    net = Net()
    x, cin = "x", 3
    for repeats, cout in zip((1, 2, 4, 14, 1), (4, 4, 6, 8, 10), strict=True):
        for index in range(repeats):
            x = net.op("Relu", repvgg(net, x, cin, cout, 1 if index else 2))
            cin = cout
    proto = net.model(x, ("N", 3, 32, 32))
    for pipeline in (WORTH, f"fold-norm,{WORTH}"):
        outcome = optimize(proto, pipeline=pipeline)
        assert kinds(outcome) == ["Conv", "Relu"] * 22
        assert [one.fate for one in outcome.fates] == [Fate.REMOVED] * (22 + 17)
        equal(outcome)


def test_what_reserve_merge_leaves() -> None:
    proto = model(lambda n, x: n.op("Add", n.conv(x, 4, 4), x), BATCH)
    first = optimize(proto, pipeline="reserve-merge{when=possible}")
    assert [r.code for one in first.fates for r in one.refusals] == ["linear-branch"]
    both = optimize(proto, pipeline="reserve-merge{when=possible}," + WORTH)
    assert [one.fate for one in both.fates] == [Fate.REMOVED]
    assert both.after.total.weight_bytes == both.before.total.weight_bytes


def test_what_is_told() -> None:
    outcome = fused(lambda n, x: add(n, n.conv(x, 4, 4), n.conv(x, 4, 4, 1), scale(n, x), x))
    joins = [one.skip.name for one in outcome.fates]
    rewrites = outcome.records[0].rewrites
    assert [rewrite.region.name for rewrite in rewrites] == joins[::-1]
    assert [rewrite.before is not None for rewrite in rewrites] == [True, False, False]
    assert rewrites[0].rule == "branches summed (3x3 + 1x1 + scale + identity)"
    sources, window, alone = rewrites[0].facts
    assert sources.endswith("conv_3; conv_6; mul_8; the tensor itself")
    assert "3x3 window from [-1, -1]" in window
    assert "for every size" in window
    assert "nothing else" in alone
    assert nodes(outcome)[0].name == "conv_3"


def test_nodes_without_names() -> None:
    proto = model(lambda n, x: add(n, n.conv(x, 4, 4), n.conv(x, 4, 4, 1), x), BATCH)
    for node in proto.graph.node:
        node.name = ""
    outcome = optimize(proto, pipeline=WORTH)
    assert [one.fate for one in outcome.fates] == [Fate.REMOVED] * 2
    equal(outcome)


def test_half_precision() -> None:
    outcome = optimize(model(lambda n, x: repvgg(n, x, 4, 4), BATCH, np.float16), pipeline=WORTH)
    assert kinds(outcome) == ["Conv", "Identity"]
    equal(outcome)


def test_a_branch_that_is_added_twice() -> None:
    def build(net: Net, x: str) -> str:
        square = net.conv(x, 4, 4)
        return add(net, square, net.conv(x, 4, 4, 1), square)

    assert kinds(fused(build, pipeline=WORTH)) == ["Conv", "Identity"]
    exact(build, BATCH)


def test_larger_sum_goes_before_smaller_one() -> None:
    """Branches of branches: all of it is one window, rounded once."""

    def build(net: Net, x: str) -> str:
        inner = net.conv(x, 4, 4, 1, bias=False)
        return add(net, net.conv(inner, 4, 4), net.conv(inner, 4, 4, 1), x)

    outcome = fused(build)
    assert nodes(outcome)[0].inputs[0].name == "x"
    assert outcome.records[0].claims_checked == 1
    exact(build, BATCH)


# --- what it costs -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("branch", "fuses"),
    [
        (lambda n, x: add(n, n.conv(x, 4, 4, (1, 3)), n.conv(x, 4, 4, (3, 1))), False),
        (lambda n, x: add(n, *(n.conv(x, 4, 4, k) for k in (3, (1, 3), (3, 1)))), True),
        (lambda n, x: add(n, n.conv(x, 4, 4, 1), average(n, x, count_include_pad=1)), False),
        (lambda n, x: add(n, n.conv(x, 4, 4, group=4), n.conv(x, 4, 4, 1)), False),
        (lambda n, x: add(n, n.conv(x, 4, 4, group=4), n.conv(x, 4, 4, 1, group=4)), True),
        (lambda n, x: add(n, n.conv(x, 4, 4, bias=False), x), True),
        (lambda n, x: add(n, n.conv(x, 4, 4, bias=False), n.op("Add", x, n.const(1.0))), False),
        (lambda n, x: add(n, n.conv(x, 4, 4, group=2), x), True),
        (lambda n, x: add(n, n.conv(n.conv(x, 4, 1, 1), 1, 4, 1), x), False),
    ],
)
def test_cost_decides(branch: Block, fuses: bool) -> None:
    outcome = optimize(model(branch, BATCH), pipeline=WORTH)
    removed = [one.fate is Fate.REMOVED for one in outcome.fates]
    assert all(removed) is fuses
    if not fuses:
        assert [one.fate for one in outcome.fates] == [Fate.KEPT]
        assert "multiply-adds" in outcome.fates[0].reason
        assert outcome.records[0].refusals[0].by_choice
    fused(branch)


def test_where_the_whole_is_not_worth_it_a_part_may_be() -> None:
    def build(net: Net, x: str) -> str:
        parts = add(net, net.conv(x, 4, 4), net.conv(x, 4, 4, 1))
        return add(net, parts, net.conv(x, 4, 4, 1, group=4), net.conv(x, 4, 4, 5, group=4))

    outcome = optimize(model(build, BATCH), pipeline=WORTH)
    assert [one.fate for one in outcome.fates] == [Fate.REMOVED, Fate.REMOVED, Fate.KEPT]
    assert kinds(outcome) == ["Conv", "Conv", "Add", "Identity"]
    equal(outcome)
    twice(model(build, BATCH), WORTH)


# --- what is refused -----------------------------------------------------------------------------


def refused(build: Block, code: str, shape: Shape = BATCH, dtype: type = np.float32) -> str:
    """Asserts that the sum, and each part of it, stays for this reason; returns the sentence."""
    subject = Model.load(model(build, shape, dtype))
    result = BranchFusion(when="possible").run(subject, Context())
    assert not result.changed
    assert {(refusal.code, refusal.by_choice) for refusal in result.refusals} == {(code, False)}
    return result.refusals[0].reason


def made(net: Net, x: str) -> str:
    """A weight that is computed as the network runs."""
    return net.op("Mul", net.const(np.ones((4, 4, 1, 1))), net.op("ReduceMean", x))


REFUSALS: dict[str, tuple[str, Block, Shape]] = {
    "two windows in a row": (
        "skip-not-simple",
        lambda n, x: add(n, n.conv(n.conv(x, 4, 4), 4, 4), n.conv(x, 4, 4, 5)),
        BATCH,
    ),
    "shift before padding": (
        "padded-border",
        lambda n, x: add(n, n.conv(n.conv(x, 4, 4, 1), 4, 4), n.conv(x, 4, 4)),
        BATCH,
    ),
    "norm before padding": (
        "padded-border",
        lambda n, x: add(n, n.conv(n.norm(x, 4), 4, 4), x),
        BATCH,
    ),
    "norm before a padded average": (
        "padded-border",
        lambda n, x: add(n, average(n, n.norm(x, 4), count_include_pad=1), n.conv(x, 4, 4)),
        BATCH,
    ),
    "cut before padding": (
        "padded-border",
        lambda n, x: add(n, n.conv(cut(n, x, 0, -1), 4, 4, 2, pads=(1,) * 4), n.conv(x, 4, 4)),
        BATCH,
    ),
    "cut in front of padding": (
        "padded-border",
        lambda n, x: add(n, n.conv(cut(n, x, 1, ALL), 4, 4, 2, pads=(1,) * 4), n.conv(x, 4, 4)),
        BATCH,
    ),
    "average that leaves out the padding": (
        "pooled-border",
        lambda n, x: add(n, n.conv(x, 4, 4), average(n, x)),
        BATCH,
    ),
    "average of a cut window": (
        "pooled-border",
        lambda n, x: add(n, n.conv(x, 4, 4, stride=2), average(n, x, 2, 2, 0, ceil_mode=1)),
        BATCH,
    ),
    "average over an unknown size": (
        "pooled-border",
        lambda n, x: add(n, n.conv(x, 4, 4, stride=2), average(n, x, 2, 2, 0, ceil_mode=1)),
        FREE,
    ),
    "sizes that agree for even inputs only": (
        "unknown-shape",
        lambda n, x: add(
            n, n.conv(x, 4, 4, 2, stride=2, pads=(0,) * 4), n.conv(x, 4, 4, 1, stride=2)
        ),
        FREE,
    ),
    "a cut of an unknown size": (
        "unknown-shape",
        lambda n, x: add(n, n.conv(x, 4, 4, pads=(0,) * 4), cut(n, x, 1, -1)),
        FREE,
    ),
    "strides": (
        "stride-mismatch",
        lambda n, x: add(n, n.conv(x, 4, 4), n.conv(x, 4, 4, stride=2)),
        ("N", 4, 1, 1),
    ),
    "broadcast channels": (
        "broadcast",
        lambda n, x: add(n, n.conv(x, 4, 4), n.conv(x, 4, 1)),
        BATCH,
    ),
    "broadcast positions": (
        "broadcast",
        lambda n, x: add(n, n.conv(x, 4, 4), n.conv(x, 4, 4, (7, 9), pads=(0,) * 4)),
        BATCH,
    ),
    "something else as well": (
        "mixed-sum",
        lambda n, x: n.op("Sum", n.conv(x, 4, 4), n.op("Relu", n.conv(x, 4, 4)), x),
        BATCH,
    ),
    "an average that is scaled by integers": (
        "integer-weights",
        lambda n, x: add(
            n,
            n.conv(x, 4, 4, 1, weight=np.sign(n.rng.standard_normal((4, 4, 1, 1)))),
            scale(n, x),
        ),
        BATCH,
    ),
    "a Gemm with alpha": (
        "runtime-weights",
        lambda n, x: add(n, n.op("Gemm", x, n.const(np.eye(4)), alpha=0.5), x),
        ("N", 4),
    ),
    "matrices along two axes": (
        "skip-not-linear",
        lambda n, x: add(n, n.conv(x, 4, 4, axes=1), matmul(n, x, 6, 6)),
        ("N", 4, 6),
    ),
    "a norm that trains": (
        "training-mode",
        lambda n, x: add(
            n,
            n.conv(x, 4, 4),
            n.op(
                "BatchNormalization",
                x,
                *(n.const(np.ones(4)) for _ in range(4)),
                outputs=3,
                training_mode=1,
            )[0],
        ),
        BATCH,
    ),
    "channels that are not known": (
        "unknown-shape",
        lambda n, x: add(n, n.conv(x, 4, 4), x),
        ("N", "C", 7, 9),
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals(name: str) -> None:
    code, build, shape = REFUSALS[name]
    refused(build, code, shape)


def test_sum_of_integers_is_refused() -> None:
    reason = refused(
        lambda n, x: add(n, matmul(n, x, 4, 4), matmul(n, x, 4, 4)),
        "weight-type",
        ("N", 4),
        np.int32,
    )
    assert "int32" in reason


def test_sum_that_overflows_is_refused() -> None:
    def build(net: Net, x: str) -> str:
        large = np.full((4, 4, 1, 1), 4e4)
        return add(net, *(net.conv(x, 4, 4, 1, weight=large, bias=False) for _ in range(2)))

    assert "float16" in refused(build, "overflow", BATCH, np.float16)


@pytest.mark.parametrize("output", [True, False])
def test_tensor_that_is_read_elsewhere_stays(output: bool) -> None:
    net = Net()
    seen = net.conv("x", 4, 4)
    y = add(net, seen, net.conv("x", 4, 4, 1))
    more = (seen,) if output else (net.op("Relu", seen),)
    outcome = optimize(net.model(y, BATCH, extra_outputs=more), pipeline=FORCE)
    assert codes(outcome) == ["read-elsewhere"]
    assert not outcome.changed


def test_fork_may_be_read_elsewhere() -> None:
    net = Net()
    fork = net.conv("x", 4, 4)
    y = add(net, net.conv(fork, 4, 4), fork)
    outcome = optimize(net.model(y, BATCH, extra_outputs=(fork,)), pipeline=WORTH)
    assert kinds(outcome) == ["Conv", "Conv"]
    equal(outcome)


SILENT: dict[str, Block] = {
    "residual block": lambda n, x: add(n, n.conv(n.op("Relu", n.conv(x, 4, 4)), 4, 4), x),
    "after an activation": lambda n, x: add(n, n.op("Relu", n.conv(x, 4, 4)), x),
    "two forks": lambda n, x: add(n, n.conv(n.op("Relu", x), 4, 4), n.conv(x, 4, 4)),
    "gate": lambda n, x: n.op("Mul", n.conv(x, 4, 4), x),
    "difference": lambda n, x: n.op("Sub", n.conv(x, 4, 4), x),
    "doubled": lambda n, x: n.op("Add", x, x),
    "no weights": lambda n, x: n.op("Add", n.norm(x, 4), scale(n, x)),
    "constant": lambda n, x: n.op("Add", n.conv(x, 4, 4), n.const(1.0)),
    "weights that are computed": lambda n, x: add(n, n.op("Conv", x, made(n, x)), x),
    "another domain": lambda n, x: n.op("Add", n.conv(x, 4, 4), x, domain="custom"),
}


@pytest.mark.parametrize("name", SILENT)
def test_what_is_no_case_is_passed_over_in_silence(name: str) -> None:
    net = Net()
    proto = net.model(SILENT[name](net, "x"), BATCH, opset_imports=(("custom", 1),))
    result = BranchFusion(when="possible").run(Model.load(proto), Context())
    assert not result.changed
    assert not result.refusals


def test_other_terms_are_no_matter_where_a_part_fuses() -> None:
    def build(net: Net, x: str) -> str:
        return add(net, net.conv(x, 4, 4), net.conv(x, 4, 4, 1), net.op("Relu", net.conv(x, 4, 4)))

    outcome = optimize(model(build, BATCH), pipeline=WORTH)
    assert sorted(kinds(outcome)) == ["Add", "Conv", "Conv", "Identity", "Relu"]
    assert not codes(outcome)
    equal(outcome)


# --- wider convolutions --------------------------------------------------------------------------


def test_wider_is_off_by_default() -> None:
    proto = model(lambda n, x: n.op("Mul", n.conv(x, 4, 4), n.conv(x, 4, 4)), BATCH)
    assert not optimize(proto, pipeline=WORTH).changed


@pytest.mark.parametrize("opset", [9, 17])
def test_wider_with_a_split(opset: int) -> None:
    def build(net: Net, x: str) -> str:
        first, second = net.conv(x, 4, 4, stride=2), net.conv(x, 4, 4, stride=2)
        third = net.conv(x, 4, 6, stride=2)
        return net.op("Concat", net.op("Mul", first, net.op("Relu", second)), third, axis=1)

    outcome = optimize(model(build, BATCH, opset=opset), pipeline=WIDER)
    assert sorted(kinds(outcome)) == sorted(["Conv", "Split", "Relu", "Mul", "Concat", "Identity"])
    assert outcome.records[0].claims_checked == 2
    equal(outcome)
    twice(model(build, BATCH, opset=opset), WIDER)


@pytest.mark.parametrize("axis", [1, -3])
def test_wider_instead_of_a_concatenation(axis: int) -> None:
    def build(net: Net, x: str) -> str:
        parts = [net.conv(x, 4, cout, bias=cout == 3) for cout in (2, 3, 4)]
        return net.op("Concat", parts[1], parts[2], parts[0], axis=axis)

    outcome = optimize(model(build, BATCH), pipeline=WIDER.replace("wider", "when=possible,wider"))
    assert kinds(outcome) == ["Conv", "Identity"]
    assert [one.fate for one in outcome.fates] == [Fate.REMOVED]
    equal(outcome)
    kept = optimize(model(build, BATCH), pipeline=WIDER)  # two of them gain a bias of zeros
    assert codes(kept) == ["not-worth-it"]
    assert not kept.changed


def test_wider_in_a_concatenation_of_more() -> None:
    """What is read in a row needs no Split; what lies elsewhere, or is read twice, does."""

    def build(net: Net, x: str) -> str:
        a, b, c, d, e = (net.conv(x, 4, cout) for cout in (1, 2, 3, 4, 5))
        joined = net.op("Concat", b, c, net.op("Relu", x), a, d, axis=1)
        return net.op("Concat", joined, net.op("Relu", d), e, net.op("Neg", joined), axis=1)

    outcome = optimize(model(build, BATCH), pipeline=WIDER)
    (split,) = (node for node in nodes(outcome) if node.op_type == "Split")
    sizes = constant(split.inputs[1])
    assert sizes is not None
    assert sorted(sizes.tolist()) == [1, 4, 5, 5]
    assert [len(n.inputs) for n in nodes(outcome) if n.op_type == "Concat"] == [4, 4]
    equal(outcome)
    twice(model(build, BATCH), WIDER)


def test_wider_where_outputs_are_seen() -> None:
    """Also: without a bias, and beside a convolution whose weight nobody knows beforehand."""
    net = Net()
    first, second = (net.conv("x", 4, 4, 1, bias=False) for _ in range(2))
    third = net.op("Conv", "x", made(net, "x"))
    y = net.op("Concat", first, second, third, axis=1)
    outcome = optimize(net.model(y, BATCH, extra_outputs=(second, third)), pipeline=WIDER)
    assert sorted(kinds(outcome)) == ["Concat", "Conv", "Conv", "Mul", "ReduceMean", "Split"]
    assert [value.name for value in outcome.model.graph.outputs] == [y, second, third]
    equal(outcome)


def test_wider_before_wider() -> None:
    def build(net: Net, x: str) -> str:
        inner = net.conv(x, 4, 4)
        sides = (net.conv(x, 4, 4), net.conv(inner, 4, 4), net.conv(inner, 4, 4))
        return net.op("Concat", *(net.op("Relu", side) for side in sides), axis=1)

    outcome = optimize(model(build, BATCH), pipeline=WIDER)
    assert kinds(outcome).count("Conv") == 2
    equal(outcome)
    twice(model(build, BATCH), WIDER)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({}, {"k": 1}),
        ({}, {"stride": 2, "pads": (4, 4, 5, 6)}),
        ({}, {"pads": (0, 2, 2, 0)}),
        ({}, {"dilation": 2}),
        ({"group": 2}, {"group": 2}),
    ],
)
def test_other_windows_are_not_widened(one: dict[str, Any], other: dict[str, Any]) -> None:
    proto = model(
        lambda n, x: n.op("Mul", n.conv(x, 4, 4, **one), n.conv(x, 4, 4, **other)), (1, 4, 7, 9)
    )
    assert not optimize(proto, pipeline=WIDER).changed


def test_sums_go_before_wider() -> None:
    outcome = fused(lambda n, x: add(n, n.conv(x, 4, 4), n.conv(x, 4, 4)), pipeline=WIDER)
    assert kinds(outcome) == ["Conv", "Identity"]


# --- claims --------------------------------------------------------------------------------------


def test_summed_is_checked() -> None:
    rng = np.random.default_rng(0)
    square = rng.standard_normal((4, 2, 3, 3))
    one = Placed(square, rng.standard_normal(4), (-1, -1), (1, 1), 2)
    two = Placed(rng.standard_normal((4, 2, 1, 1)), rng.standard_normal(4), (0, 1), (1, 1), 2)
    weight = square.copy()
    weight[:, :, 1:2, 2:3] += two.weight
    total = Placed(weight, one.bias + two.bias, (-1, -1), (1, 1), 2)
    empty = Model.load(model(lambda n, x: x, BATCH))
    Summed("w", "b", total, (one, two)).check(empty, empty)
    for wrong in (
        replace(total, weight=square),
        replace(total, bias=one.bias),
        replace(total, start=(-1, 0)),
        replace(total, weight=weight * (1 + 1e-12)),
        replace(total, weight=np.where(weight == weight.max(), np.nan, weight)),
    ):
        with pytest.raises(ClaimError, match="not the sum"):
            Summed("w", "b", wrong, (one, two)).check(empty, empty)


def test_stored_weights_are_checked() -> None:
    """A weight that was changed after the pass had made it is found."""
    proto = model(lambda n, x: add(n, matmul(n, x, 4, 4), matmul(n, x, 4, 4)), ("N", 4))
    before, after = Model.load(proto), Model.load(proto)
    (claim,) = BranchFusion().run(after, Context()).claims
    assert isinstance(claim, Summed)
    claim.check(before, after)
    with pytest.raises(ClaimError, match="not the sum"):
        replace(claim, weight=proto.graph.initializer[0].name).check(before, after)
    with pytest.raises(ClaimError, match="not a constant"):
        replace(claim, weight="x").check(before, after)


def test_stacked_is_checked() -> None:
    proto = model(lambda n, x: n.op("Mul", n.conv(x, 4, 4), n.conv(x, 4, 4)), BATCH)
    before, after = Model.load(proto), Model.load(proto)
    weights, biases = BranchFusion(wider=True).run(after, Context()).claims
    for claim in (weights, biases):
        assert isinstance(claim, Stacked)
        claim.check(before, after)
        with pytest.raises(ClaimError, match="does not hold"):
            replace(claim, old=claim.old[::-1]).check(before, after)


# --- any branches --------------------------------------------------------------------------------


@st.composite
def branches(draw: st.DrawFn) -> tuple[Block, Shape]:
    """Two to four branches of one tensor, all of one size, added up in a drawn order."""
    axes, stride = draw(st.integers(1, 2)), draw(st.integers(1, 3))
    drawn = draw(st.lists(_branch(axes, stride), min_size=2, max_size=4))
    as_sum = draw(st.booleans())

    def build(net: Net, x: str) -> str:
        terms = [net.conv(x, 4, 4, 1, stride=stride, axes=axes, pads=(0,) * 2 * axes)]
        terms += [branch(net, x) for branch in drawn]
        return net.op("Sum", *terms) if as_sum else add(net, *terms)

    sizes = draw(st.lists(st.integers(4, 8), min_size=axes, max_size=axes))
    free = draw(st.booleans())
    return build, ("N", 4, *("HW"[:axes] if free else sizes))


@st.composite
def _branch(draw: st.DrawFn, axes: int, stride: int) -> Block:
    kernel = tuple(draw(st.integers(1, 4)) for _ in range(axes))
    dilation = draw(st.integers(1, 3))
    padding = [dilation * (k - 1) for k in kernel]
    begin = [draw(st.integers(0, p)) for p in padding]
    pads = (*begin, *(p - b for p, b in zip(padding, begin, strict=True)))
    kind = draw(st.sampled_from(["conv", "grouped", "depthwise", "chain", "slice", "average"]))
    normed, bias = draw(st.booleans()), draw(st.booleans())

    def build(net: Net, x: str) -> str:
        window = {"stride": stride, "pads": pads, "dilation": dilation, "bias": bias, "axes": axes}
        match kind:
            case "chain":
                inner = net.conv(x, 4, 3, 1, bias=False, axes=axes)
                y = net.conv(inner, 3, 4, kernel, **window)
            case "slice":
                y = cut(net, x, 0, ALL, stride, axes)
            case "average":
                y = net.op(
                    "AveragePool",
                    cut(net, x, 0, ALL, stride, axes),
                    kernel_shape=[3] * axes,
                    pads=[1] * 2 * axes,
                    count_include_pad=1,
                )
            case _:
                group = {"conv": 1, "grouped": 2, "depthwise": 4}[kind]
                y = net.conv(x, 4, 4, kernel, group=group, **window)
        return net.norm(y, 4) if normed else y

    return build


@given(branches())
@settings(max_examples=60)
def test_any_branches(drawn: tuple[Block, Shape]) -> None:
    build, shape = drawn
    exact(build, shape)


@given(branches())
@settings(max_examples=12)
def test_any_branches_on_inputs_that_hurt(drawn: tuple[Block, Shape]) -> None:
    build, shape = drawn
    fused(build, shape)
