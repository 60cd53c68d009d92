"""Norms fold exactly, or stay with a reason."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from graphopt.optimizer import Outcome, optimize
from graphopt.verify.numeric import Status
from tests.support.blocks import Net
from tests.support.check import equal


def fold(model: onnx.ModelProto) -> Outcome:
    return optimize(model, pipeline="fold-norm,dce")


def left(outcome: Outcome, kind: str = "BatchNormalization") -> int:
    return sum(node.op_type == kind for node in outcome.model.graph)


def reasons(outcome: Outcome) -> list[str]:
    return [r.code for record in outcome.records for r in record.refusals]


@pytest.mark.parametrize("group", [1, 2, 4])
@pytest.mark.parametrize("bias", [False, True])
def test_norm_after_convolution(group: int, bias: bool) -> None:
    net = Net()
    y = net.norm(net.conv("x", 4, 8, 3, group=group, bias=bias), 8)
    outcome = fold(net.model(net.act(y, "Relu"), ("N", 4, 6, 7)))
    assert left(outcome) == 0
    equal(outcome)


def test_norm_after_gemm() -> None:
    net = Net()
    weight, bias = net.const(net.rng.standard_normal((5, 6))), net.const(np.ones(6))
    outcome = fold(net.model(net.norm(net.op("Gemm", "x", weight, bias), 6), ("N", 5)))
    assert left(outcome) == 0
    equal(outcome)


@pytest.mark.parametrize("group", [1, 2])
def test_norm_before_an_unpadded_convolution(group: int) -> None:
    net = Net()
    x = net.act(net.norm("x", 4), "none")
    y = net.conv(x, 4, 6, 3, pads=(0, 0, 0, 0), group=group)
    outcome = fold(net.model(y, ("N", 4, 6, 7)))
    assert left(outcome) == 0
    equal(outcome)


def test_norm_before_a_padded_convolution_stays() -> None:
    """Folding its shift would be wrong at the border, by how much is shown here."""
    net = Net()
    y = net.conv(net.norm("x", 4), 4, 6, 3)
    outcome = fold(net.model(y, ("N", 4, 6, 7)))
    assert left(outcome) == 1
    assert reasons(outcome) == ["padded-border"]


def test_scale_without_shift_before_a_padded_convolution_folds() -> None:
    net = Net()
    scaled = net.op("Mul", "x", net.const(net.rng.uniform(-2, 2, (1, 4, 1, 1))))
    outcome = fold(net.model(net.conv(scaled, 4, 6, 3), ("N", 4, 6, 7)))
    assert left(outcome, "Mul") == 0
    equal(outcome)


def test_chain_of_norm_scale_and_shift() -> None:
    """Caffe writes a norm as BatchNormalization, Mul, Add."""
    net = Net()
    y = net.norm(net.conv("x", 4, 6, 3), 6)
    y = net.op("Mul", y, net.const(net.rng.uniform(0.5, 2, (6, 1, 1))))
    y = net.op("Add", net.const(net.rng.standard_normal((1, 6, 1, 1))), y)
    y = net.op("Sub", net.const(0.5), y)
    y = net.op("Div", y, net.const([[[2.0]], [[3.0]], [[-4.0]], [[5.0]], [[6.0]], [[7.0]]]))
    outcome = fold(net.model(y, ("N", 4, 6, 7)))
    assert [node.op_type for node in outcome.model.graph] == ["Conv"]
    equal(outcome)


@pytest.mark.parametrize("shape", [(6,), (1, 1, 7), (6, 1), (2, 6, 1, 1)])
def test_constant_that_is_not_per_channel_stays(shape: tuple[int, ...]) -> None:
    net = Net()
    y = net.op("Mul", net.conv("x", 4, 6, 3), net.const(net.rng.standard_normal(shape)))
    outcome = fold(net.model(y, (2, 4, 6, 6) if shape == (6,) else (2, 4, 6, 7)))
    assert left(outcome, "Mul") == 1


def test_division_by_zero_stays() -> None:
    net = Net()
    y = net.op("Div", net.conv("x", 2, 2, 1), net.const([[[1.0]], [[0.0]]]))
    assert left(fold(net.model(y, (1, 2, 3, 3))), "Div") == 1


def test_output_read_elsewhere_stays() -> None:
    net = Net()
    h = net.conv("x", 4, 6, 3)
    y = net.op("Concat", h, net.norm(h, 6), axis=1)
    outcome = fold(net.model(y, (1, 4, 6, 6)))
    assert left(outcome) == 1
    assert reasons(outcome) == ["shared-output"]


def test_convolution_that_is_a_graph_output_stays() -> None:
    net = Net()
    h = net.conv("x", 4, 6, 3)
    outcome = fold(net.model(net.norm(h, 6), (1, 4, 6, 6), extra_outputs=(h,)))
    assert left(outcome) == 1


def test_training_mode_stays() -> None:
    net = Net()
    h = net.conv("x", 4, 6, 3)
    names = [net.const(np.ones(6)) for _ in range(4)]
    y, *_ = net.op("BatchNormalization", h, *names, outputs=3, training_mode=1)
    outcome = optimize(net.model(y, (2, 4, 6, 6)), pipeline="fold-norm")
    assert left(outcome) == 1
    assert reasons(outcome) == ["training-mode"]


def test_runtime_parameters_stay() -> None:
    net = Net()
    h = net.conv("x", 2, 2, 1)
    gamma = net.op("Reshape", net.op("ReduceMean", "x", axes=[0, 2, 3]), net.const([2], np.int64))
    others = [net.const(np.ones(2)) for _ in range(3)]
    outcome = fold(net.model(net.op("BatchNormalization", h, gamma, *others), (1, 2, 3, 3)))
    assert left(outcome) == 1
    assert reasons(outcome) == ["runtime-weights"]


def test_integer_weights_are_not_scaled() -> None:
    """NEMO's integer networks keep integers in float tensors; a folded scale would spoil them."""
    net = Net()
    weight = np.round(net.rng.uniform(-9, 9, (4, 3, 3, 3)))
    h = net.op("Conv", "x", net.const(weight), pads=[1, 1, 1, 1])
    y = net.op("Floor", net.op("Mul", h, net.const(0.37)))
    outcome = fold(net.model(y, (1, 3, 6, 6)))
    assert left(outcome, "Mul") == 1
    assert outcome.verification is not None
    assert outcome.verification.status is Status.UNCHANGED


def test_each_norm_has_its_own_epsilon() -> None:
    net = Net()
    h = net.conv("x", 2, 2, 1)
    parts = [np.ones(2), np.zeros(2), np.zeros(2), np.full(2, 1e-4)]
    y = net.op("BatchNormalization", h, *map(net.const, parts), epsilon=1e-2)
    outcome = fold(net.model(y, (1, 2, 3, 3)))
    (node,) = outcome.model.graph
    new = node.inputs[1].const_value.numpy()
    old = onnx.numpy_helper.to_array(net.weights[0])
    assert np.allclose(new, old / np.sqrt(1e-4 + 1e-2), rtol=1e-6)
