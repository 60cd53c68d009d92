"""What independent fuzzing has found: each was a wrong result, an invalid model or a crash."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest

from graphopt.ir import Model
from graphopt.optimizer import optimize
from tests.support.blocks import Net
from tests.support.check import RM, equal, refused, removed

PASS_THROUGH = "fold-norm,reserve-merge{when=possible,carrier=pass-through,concat=true},dce"
CONCAT = "fold-norm,reserve-merge{when=possible,concat=true},dce"


def tail(net: Net, y: str, channels: int = 4) -> onnx.ModelProto:
    return net.model(net.conv(y, channels, 2, 1), (2, 3, 6, 5))


@pytest.mark.parametrize("channels", [1, 2])
def test_norm_between_padded_convolutions_of_few_channels(channels: int) -> None:
    """With one channel the constants of a norm are no constants per channel by their size."""
    net = Net()
    x = net.act(net.conv("x", 3, channels, 1), "Relu")
    h = net.norm(net.act(net.conv(x, channels, channels), "Relu"), channels)
    y = net.op("Add", net.conv(h, channels, channels), x)
    outcome = optimize(tail(net, y, channels), pipeline=RM)
    assert [one.fate.value for one in outcome.fates] == ["removed"]
    equal(outcome)


@pytest.mark.parametrize("axis", [2, 3, -1])
def test_concatenation_along_another_axis(axis: int) -> None:
    net = Net()
    x = net.act(net.conv("x", 3, 4, 1), "Relu")
    y = net.op("Concat", x, net.conv(net.act(net.conv(x, 4, 4), "Relu"), 4, 4), axis=axis)
    refused(tail(net, y), "concat-join", CONCAT)


def test_gemm_with_one_bias_per_row() -> None:
    net = Net()
    weight, column = net.const(np.eye(4)), net.const(np.arange(4.0).reshape(4, 1))
    h = net.op("Relu", net.op("Gemm", "x", weight, column))
    y = net.op("Add", net.op("Gemm", h, net.const(np.eye(4)), net.const(np.ones(4))), "x")
    refused(net.model(y, (4, 4)), "runtime-weights")


def test_dropout_in_the_branch_leaves_no_attributes_behind() -> None:
    net = Net()
    x = net.act(net.conv("x", 3, 4, 1), "Relu")
    h = net.op("Dropout", net.act(net.conv(x, 4, 4), "Relu"), seed=7)
    outcome = removed(tail(net, net.op("Add", net.conv(h, 4, 4), x)))
    assert not {"Dropout", "Identity"} & {node.op_type for node in outcome.model.graph}


@pytest.mark.parametrize("opset", [12, 17])
def test_pass_through_follows_the_layout(opset: int) -> None:
    """In groups the reserved channels do not stand behind the old ones."""
    net = Net(opset=opset)
    x = net.conv("x", 3, 4, 1)
    h = net.act(net.conv(x, 4, 4, 1), "Sigmoid")
    y = net.op("Add", net.conv(h, 4, 4, 3, group=2), x)
    outcome = optimize(tail(net, y), pipeline=PASS_THROUGH)
    assert outcome.fates[0].fate.value == "removed"
    equal(outcome)


def test_pass_through_into_a_concatenation_that_starts_with_the_skip() -> None:
    net = Net()
    x = net.conv("x", 3, 4, 1)
    y = net.op("Concat", x, net.act(net.conv(x, 4, 4), "Tanh"), axis=1)
    outcome = optimize(tail(net, y, 8), pipeline=PASS_THROUGH)
    assert outcome.fates[0].fate.value == "removed"
    equal(outcome)


@pytest.mark.parametrize("tokens", [5, 8])
def test_pre_activation_on_tokens(tokens: int) -> None:
    """The activation before the first product has its channels last, too."""
    net = Net()
    x = net.op("Tanh", net.op("MatMul", "x", net.const(net.rng.standard_normal((3, 4)))))
    h = net.op("MatMul", net.op("Relu", x), net.const(net.rng.standard_normal((4, 4))))
    y = net.op("Add", h, x)
    removed(net.model(net.op("MatMul", y, net.const(np.eye(4))), ("N", tokens, 3)))


def test_scale_written_before_the_product() -> None:
    net = Net()
    x = net.op("MatMul", "x", net.const(net.rng.standard_normal((3, 4))))
    h = net.op("Relu", net.op("MatMul", x, net.const(net.rng.standard_normal((4, 4)))))
    h = net.op("MatMul", h, net.const(net.rng.standard_normal((4, 4))))
    scaled = net.op("Mul", net.const(net.rng.uniform(0.5, 2, 4)), h)
    removed(net.model(net.op("Add", scaled, x), ("N", 7, 3)))


def test_a_gate_that_opens_wider_than_1_before_a_clip() -> None:
    """Six times the tensor is not within the clip because the tensor was."""
    net = Net()
    x = net.act(net.conv("x", 3, 4, 1), "relu6")
    h = net.act(net.conv(x, 4, 4), "Relu")
    g = net.conv(net.op("Relu", net.conv(net.op("GlobalAveragePool", h), 4, 2, 1)), 2, 4, 1)
    gate = net.op("Clip", net.op("Add", g, net.const(3.0)), net.const(0.0), net.const(6.0))
    h = net.act(net.op("Mul", h, gate), "relu6")
    outcome = optimize(tail(net, net.op("Add", net.conv(h, 4, 4), x)), pipeline=RM)
    assert outcome.fates[-1].refusals[-1].code == "no-carrier"


@pytest.mark.parametrize("axes", [[1], [1, 2, 3]])
def test_a_mean_over_channels_is_no_squeeze(axes: list[int]) -> None:
    net = Net()
    x = net.act(net.conv("x", 3, 4, 1), "Relu")
    h = net.act(net.conv(x, 4, 4), "Relu")
    mean = net.op("ReduceMean", h, axes=axes)
    h = net.op(
        "Mul", h, net.op("Sigmoid", net.conv(net.op("Relu", net.conv(mean, 1, 2, 1)), 2, 1, 1))
    )
    outcome = optimize(tail(net, net.op("Add", net.conv(h, 4, 4), x)), pipeline=RM)
    assert outcome.fates[-1].refusals[-1].code == "gate-in-branch"


def test_channels_made_by_broadcasting() -> None:
    net = Net()
    x = net.act(net.conv("x", 3, 4, 1), "Relu")
    h = net.op("Mul", net.op("Relu", net.conv(x, 4, 1)), net.const(np.ones((4, 1, 1))))
    refused(tail(net, net.op("Add", net.conv(h, 4, 4), x)), "broadcast")


def test_a_projection_behind_a_block_that_was_rewritten() -> None:
    """What is proved of the fork may be lost by then; what is carried is still bounded."""
    net = Net()
    x = net.op("Tanh", net.conv("x", 3, 4, 1))
    y = net.op("Add", net.conv(net.act(net.conv(x, 4, 4), "Relu"), 4, 4), x)
    h = net.conv(net.act(net.conv(net.op("Elu", y), 4, 4), "Relu"), 4, 6)
    z = net.op("Add", h, net.conv(y, 4, 6, 1))
    outcome = optimize(tail(net, z, 6), pipeline=RM)
    assert [one.fate.value for one in outcome.fates] == ["removed", "removed"]
    equal(outcome)


def half(build: Callable[[Net], str]) -> onnx.ModelProto:
    net = Net(dtype=np.float16)
    return net.model(build(net), (2, 3, 6, 5))


def test_float16_is_not_shifted_by_hundreds() -> None:
    def build(net: Net) -> str:
        x = net.op("Clip", net.conv("x", 3, 4, 1), net.const(-1000.0), net.const(1000.0))
        return net.op("Add", net.conv(net.op("Elu", net.conv(x, 4, 4)), 4, 4), x)

    assert "x >= -1000" in refused(half(build), "no-carrier")


def test_float16_does_not_divide_by_a_small_layer_scale() -> None:
    def build(net: Net) -> str:
        x = net.act(net.conv("x", 3, 4, 1), "Relu")
        h = net.conv(net.act(net.conv(x, 4, 4), "Relu"), 4, 4)
        return net.op("Add", net.op("Mul", h, net.const(np.full((4, 1, 1), 1e-4))), x)

    outcome = optimize(half(build), pipeline="reserve-merge{when=possible}")
    assert "too large for its type" in outcome.fates[0].reason


def test_nodes_that_share_a_name_are_told_apart() -> None:
    net = Net()
    x = net.act(net.conv("x", 3, 4, 1), "Relu")
    y = net.op("Add", net.conv(net.act(net.conv(x, 4, 4), "Relu"), 4, 4), x)
    proto = tail(net, y)
    for node in proto.graph.node:
        node.name = "same"
    model = Model.load(proto)
    model.tell_apart()
    labels = list(model.node_index())
    assert labels == ["same", *(f"same.{number}" for number in range(2, 8))]
    assert len(removed(proto).fates) == 1
