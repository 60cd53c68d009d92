"""Every block kind that the rule takes: the join goes, the outputs stay."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from graphopt.evidence import Exactness
from tests.support.blocks import Net, basic_block
from tests.support.check import RM, equal, refused, removed


@pytest.mark.parametrize(
    ("act", "before", "norm"),
    list(itertools.product(["Relu", "leaky", "prelu", "none"], ["Relu", "none"], [False, True])),
)
def test_identity_skip(act: str, before: str, norm: bool) -> None:
    outcome = removed(basic_block(act=act, before=before, norm=norm))
    (fate,) = outcome.fates
    assert fate.rewrite is not None
    assert fate.rewrite.exactness is Exactness.EXACT


@pytest.mark.parametrize("shortcut", ["projection", "option-a", "option-a-concat", "projection3"])
@pytest.mark.parametrize(("stride", "out"), [(2, 8), (1, 8), (2, 4), (3, 6)])
@pytest.mark.parametrize("sizes", [(8, 8), (7, 9), ("H", "W")])
def test_downsample(shortcut: str, stride: int, out: int, sizes: tuple[int | str, ...]) -> None:
    block = basic_block(shortcut=shortcut, stride=stride, out=out, sizes=sizes)
    if shortcut == "projection3" and sizes == ("H", "W"):
        assert "not known" in refused(block, "unknown-shape")
        return
    if shortcut.startswith("option-a") and out == 4:
        pytest.skip("nothing to pad")
    removed(block)


@pytest.mark.parametrize("before", ["Relu", "none"])
@pytest.mark.parametrize("shortcut", ["projection", "option-a", "average"])
def test_equal_width_stride_2(before: str, shortcut: str) -> None:
    removed(basic_block(shortcut=shortcut, stride=2, out=4, sizes=(8, 8), before=before, k=3))


@pytest.mark.parametrize("pads", [(2, 0, 0, 2), (0, 2, 2, 0), (1, 2, 1, 0)])
def test_asymmetric_padding_takes_the_tap_at_pad_begin(pads: tuple[int, ...]) -> None:
    removed(basic_block(pads=pads))


@pytest.mark.parametrize(("dilation", "k"), [(2, 3), (3, 3), (1, 5), (2, 5)])
def test_dilation_and_kernel(dilation: int, k: int) -> None:
    removed(basic_block(dilation=dilation, k=k))


def test_dilation_without_a_tap_is_refused() -> None:
    reason = refused(basic_block(dilation=2, pads=(1, 1, 3, 3)), "tap-outside-kernel")
    assert "dilations [2, 2]" in reason


def test_tap_that_reads_padding_is_refused() -> None:
    """Two valid-then-full convolutions: the copy would read zeros at the far border."""
    net = Net()
    x = net.act(net.conv("x", 3, 4, 1), "Relu")
    h = net.act(net.conv(x, 4, 4, pads=(0, 0, 0, 0)), "Relu")
    h = net.conv(h, 4, 4, pads=(2, 2, 2, 2))
    refused(net.model(net.op("Add", h, x), (1, 3, 8, 8)), "tap-reads-padding")


@pytest.mark.parametrize("kind", ["SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize("k", [2, 3, 4])
def test_auto_pad_is_resolved(kind: str, k: int) -> None:
    net = Net()

    def conv(x: str) -> str:
        weight = net.rng.standard_normal((4, 4, k, k)) / 4
        return net.op("Conv", x, net.const(weight), auto_pad=kind, kernel_shape=[k, k])

    x = net.act(net.conv("x", 3, 4, 1), "Relu")
    y = net.op("Add", x, conv(net.act(conv(x), "Relu")))
    removed(net.model(net.act(y, "Relu"), (2, 3, 7, 6)))


def test_auto_pad_of_unknown_size_is_refused() -> None:
    net = Net()
    x = net.act(net.conv("x", 3, 4, 1), "Relu")
    weight = net.const(net.rng.standard_normal((4, 4, 3, 3)))
    h = net.op("Conv", net.act(net.conv(x, 4, 4), "Relu"), weight, auto_pad="SAME_UPPER")
    assert "auto_pad" in refused(
        net.model(net.op("Add", h, x), (1, 3, "H", "W")), "runtime-weights"
    )


@pytest.mark.parametrize("form", ["auto", "dense", "grouped"])
def test_bottleneck(form: str) -> None:
    net = Net()
    x = net.act(net.conv("x", 3, 16, 1), "Relu")
    h = net.act(net.norm(net.conv(x, 16, 4, 1, bias=False), 4), "Relu")
    h = net.act(net.norm(net.conv(h, 4, 4, 3, bias=False), 4), "Relu")
    h = net.norm(net.conv(h, 4, 16, 1, bias=False), 16)
    y = net.act(net.op("Add", h, x), "Relu")
    model = net.model(net.conv(y, 16, 2, 1), ("N", 3, 9, 8))
    outcome = removed(model, RM.replace("possible", f"possible,form={form}"))
    groups = {n.attributes.get_int("group", 1) for n in outcome.model.graph if n.op_type == "Conv"}
    assert groups == ({1} if form == "dense" else {1, 5})


@pytest.mark.parametrize("act", ["relu6", "Relu", "prelu", "none"])
@pytest.mark.parametrize("stride_pads", [(1, 1, 1, 1), (2, 0, 0, 2)])
def test_inverted_residual(act: str, stride_pads: tuple[int, ...]) -> None:
    net = Net()
    x = net.conv(net.act(net.conv("x", 3, 8, 3), "relu6"), 8, 4, 1)  # a linear bottleneck
    h = net.act(net.conv(x, 4, 24, 1), act, 24)
    h = net.act(net.conv(h, 24, 24, 3, group=24, pads=stride_pads), act, 24)
    y = net.op("Add", net.conv(h, 24, 4, 1), x)
    outcome = removed(net.model(net.conv(y, 4, 2, 1), ("N", 3, 8, 7)))
    (fate,) = outcome.fates
    assert fate.rewrite is not None
    exact = Exactness.EXACT_IN_RANGE if act == "relu6" else Exactness.EXACT
    assert fate.rewrite.exactness is exact


def test_relu6_with_unbounded_input_becomes_max_and_min_not_a_prelu() -> None:
    """A PRelu in place of ReLU6 would lose the clip."""
    outcome = removed(basic_block(act="relu6", before="none"))
    operators = [node.op_type for node in outcome.model.graph]
    assert "PRelu" not in operators
    assert operators.count("Max") == operators.count("Min") == 1
    assert "carried by max-min" in outcome.fates[0].reason


def test_relu6_block_behind_relu6_carries_plainly() -> None:
    outcome = removed(basic_block(act="relu6", before="relu6"))
    (fate,) = outcome.fates
    assert "carried by plain" in fate.reason


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_blazeface_block_reserves_in_a_depthwise_convolution(groups: int) -> None:
    net = Net()
    x = net.act(net.conv("x", 3, 4, 1), "Relu")
    h = net.conv(x, 4, 4, 3, group=groups)
    h = net.conv(net.act(h, "Relu"), 4, 4, 1)
    removed(net.model(net.act(net.op("Add", x, h), "Relu"), ("N", 3, 8, 8)))


def test_grouped_middle_convolution() -> None:
    """ResNeXt: 8 channels in groups of 2, 16 reserved ones make 8 further groups."""
    net = Net()
    x = net.act(net.conv("x", 3, 16, 1), "Relu")
    h = net.act(net.conv(x, 16, 8, 1), "Relu")
    h = net.act(net.conv(h, 8, 8, 3, group=4), "Relu")
    y = net.op("Add", net.conv(h, 8, 16, 1), x)
    outcome = removed(net.model(net.act(y, "Relu"), ("N", 3, 8, 8)))
    assert 12 in {n.attributes.get_int("group", 1) for n in outcome.model.graph}


@pytest.mark.parametrize("groups", [2, 4])
@pytest.mark.parametrize("act", ["Relu", "HardSwish"])
def test_grouped_last_convolution_gets_the_channels_of_its_groups(groups: int, act: str) -> None:
    net = Net()
    x = net.act(net.conv("x", 3, 4, 1), "Relu" if act == "Relu" else "none")
    h = net.conv(net.act(net.conv(x, 4, 4, 1), act), 4, 4, 3, group=groups)
    outcome = removed(net.model(net.op("Add", h, x), (1, 3, 8, 8)))
    (last,) = [n for n in outcome.model.graph if n.attributes.get_int("group", 1) == groups]
    assert last.inputs[1].shape[1] == 4 // groups * (2 if act == "Relu" else 3)


@pytest.mark.parametrize("axes", [1, 3])
def test_conv1d_and_conv3d(axes: int) -> None:
    net = Net()
    x = net.act(net.conv("x", 3, 4, 1, axes=axes), "Relu")
    h = net.act(net.conv(x, 4, 4, 3, axes=axes), "Relu")
    y = net.op("Add", net.conv(h, 4, 4, 3, axes=axes), x)
    removed(net.model(net.act(y, "Relu"), ("N", 3, *(5, 6, 7)[:axes])))


@pytest.mark.parametrize("before", ["Relu", "none"])
def test_gemm_block(before: str) -> None:
    net = Net()

    def gemm(x: str, cin: int, cout: int, trans: int) -> str:
        weight = net.rng.standard_normal((cout, cin) if trans else (cin, cout)) / np.sqrt(cin)
        bias = net.const(net.rng.standard_normal(cout))
        return net.op("Gemm", x, net.const(weight), bias, transB=trans)

    x = net.act(gemm("x", 5, 6, 0), before)
    h = gemm(net.act(gemm(x, 6, 9, 1), "Relu"), 9, 6, 0)
    removed(net.model(gemm(net.act(net.op("Add", x, h), "Relu"), 6, 3, 1), ("N", 5)))


@pytest.mark.parametrize("shortcut", ["scaled"])
def test_scaled_skip(shortcut: str) -> None:
    removed(basic_block(shortcut=shortcut))


def test_nested_skips_go_inside_out() -> None:
    net = Net()
    x = net.act(net.conv("x", 3, 4, 1), "Relu")
    a = net.act(net.conv(x, 4, 4), "Relu")
    b = net.conv(net.act(net.conv(a, 4, 4), "Relu"), 4, 4)
    inner = net.act(net.op("Add", a, b), "Relu")
    y = net.op("Add", net.conv(inner, 4, 4), x)
    outcome = removed(net.model(net.act(y, "Relu"), ("N", 3, 7, 7)))
    assert len(outcome.fates) == 2


def test_overlapping_skips_are_refused() -> None:
    net = Net()
    a = net.act(net.conv("x", 3, 4, 1), "Relu")
    b = net.act(net.conv(a, 4, 4), "Relu")
    c = net.op("Add", net.conv(net.act(net.conv(b, 4, 4), "Relu"), 4, 4), a)
    d = net.op("Add", net.conv(net.act(net.conv(c, 4, 4), "Relu"), 4, 4), b)
    from graphopt.optimizer import optimize

    outcome = optimize(net.model(d, (1, 3, 6, 6)), pipeline=RM)
    codes = [r.code for one in outcome.fates for r in one.refusals]
    assert "overlapping" in codes or "read-elsewhere" in codes


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_float_types(dtype: type) -> None:
    if dtype is np.float64:
        from graphopt.optimizer import optimize

        outcome = optimize(basic_block(dtype=dtype), pipeline=RM, verify=False)
        assert not [n for n in outcome.model.graph if n.op_type == "Add"]
        return
    removed(basic_block(dtype=dtype, norm=True, before="none"))


@pytest.mark.parametrize("carrier", ["plain", "prelu", "split", "shift"])
@pytest.mark.parametrize("before", ["Relu", "relu6", "none"])
def test_carriers_on_relu(carrier: str, before: str) -> None:
    """Each carrier where its precondition holds; where not, the join stays."""
    block = basic_block(before=before)
    pipeline = RM.replace("possible", f"possible,carrier={carrier}")
    if before == "none" and carrier in ("plain", "shift"):
        refused(block, "no-carrier", pipeline)
        return
    outcome = removed(block, pipeline)
    assert f"carried by {carrier}" in outcome.fates[0].reason


def test_split_needs_twice_the_channels() -> None:
    one = removed(basic_block(before="none"), RM.replace("possible", "possible,carrier=prelu"))
    two = removed(basic_block(before="none"), RM.replace("possible", "possible,carrier=split"))
    assert one.fates[0].rewrite is not None
    assert two.fates[0].rewrite is not None
    adds = [f.rewrite.after.multiply_adds for f in (one.fates[0], two.fates[0])]
    # conv1 4 -> 4+4 or 4+8, conv2 8 or 12 -> 4, 3x3, 7x9 positions
    assert adds == [63 * 9 * (4 * 8 + 8 * 4), 63 * 9 * (4 * 12 + 12 * 4)]


def test_weights_that_two_convolutions_share_stay_as_they_are_for_the_other() -> None:
    net = Net()
    weight = net.const(net.rng.standard_normal((4, 4, 3, 3)) / 6)
    pads = {"pads": [1, 1, 1, 1]}
    x = net.act(net.conv("x", 3, 4, 1), "Relu")
    h = net.op("Conv", net.act(net.op("Conv", x, weight, **pads), "Relu"), weight, **pads)
    y = net.act(net.op("Add", h, x), "Relu")
    outcome = removed(net.model(net.op("Conv", y, weight, **pads), (1, 3, 6, 6)))
    assert weight in outcome.model.graph.initializers


def test_keeping_the_skip_is_the_default_where_it_costs_less() -> None:
    from graphopt.optimizer import Fate, optimize

    outcome = optimize(basic_block())
    (fate,) = outcome.fates
    assert fate.fate is Fate.KEPT
    assert "multiply-adds" in fate.reason


def test_facts_name_the_producer() -> None:
    outcome = removed(basic_block())
    (fate,) = outcome.fates
    assert fate.rewrite is not None
    assert any("x >= 0 because" in fact and "relu" in fact for fact in fate.rewrite.facts)


def test_equal_uses_more_than_one_input() -> None:
    outcome = removed(basic_block())
    assert outcome.verification is not None
    assert len(outcome.verification.cases) >= 4
    equal(outcome)
