"""Squeeze-excite gates in the branch: opened for reserved channels, or refused."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest

from graphopt.evidence import Rewrite
from graphopt.optimizer import Fate, Outcome, optimize
from tests.support.blocks import Net
from tests.support.check import RM, equal

C, HIDDEN = 4, 6
Gate = Callable[[Net, str], str]


def block(gate: Gate, *, act_first: bool = True) -> onnx.ModelProto:
    """An inverted residual whose depthwise convolution is gated."""
    net = Net()
    x = net.conv("x", 3, C, 1)
    h = net.act(net.conv(x, C, HIDDEN, 1), "HardSwish")
    h = net.conv(h, HIDDEN, HIDDEN, 3, group=HIDDEN)
    if act_first:
        h = net.act(h, "Relu")
        h = net.op("Mul", h, gate(net, h))
    else:
        h = net.act(net.op("Mul", gate(net, h), h), "Relu")
    y = net.op("Add", net.conv(h, HIDDEN, C, 1), x)
    return net.model(net.conv(y, C, 2, 1), (2, 3, 6, 5))


def layers(net: Net, pooled: str, last: Callable[[Net, str], str]) -> str:
    inner = net.op("Relu", net.conv(pooled, HIDDEN, 3, 1))
    return last(net, net.conv(inner, 3, HIDDEN, 1))


def sigmoid(net: Net, x: str) -> str:
    return net.op("Sigmoid", x)


def clip_sixth(net: Net, x: str) -> str:
    """HardSigmoid as some exporters write it: 6 * fl(1/6) is not 1."""
    clipped = net.op("Clip", net.op("Add", x, net.const(3.0)), net.const(0.0), net.const(6.0))
    return net.op("Mul", clipped, net.const(1 / 6))


def pooled(operator: str, **more: object) -> Gate:
    return lambda net, h: layers(net, net.op(operator, h, **more), sigmoid)


def dense(net: Net, h: str) -> str:
    """Flatten, two Gemms, and a Reshape that names the channels."""

    def gemm(x: str, inputs: int, outputs: int) -> str:
        weight = net.const(net.rng.standard_normal((outputs, inputs)))
        return net.op("Gemm", x, weight, net.const(net.rng.standard_normal(outputs)), transB=1)

    flat = net.op("Flatten", net.op("GlobalAveragePool", h))
    g = gemm(net.op("Mul", *[gemm(flat, HIDDEN, 3)] * 2), 3, HIDDEN)
    return net.op("Reshape", sigmoid(net, g), net.const([-1, HIDDEN, 1, 1], np.int64))


def opened(proto: onnx.ModelProto) -> tuple[Outcome, Rewrite]:
    """Asserts that the block's join is gone, and the outputs equal; the gate's product stays."""
    outcome = optimize(proto, pipeline=RM)
    last = outcome.fates[-1]
    assert (last.skip.operator, last.fate) == ("Add", Fate.REMOVED), last.reason
    assert last.rewrite is not None
    equal(outcome)
    return outcome, last.rewrite


GATES: dict[str, Gate] = {
    "sigmoid": pooled("GlobalAveragePool"),
    "mean": pooled("ReduceMean", axes=[2, 3]),
    "max": pooled("GlobalMaxPool"),
    "hard sigmoid": lambda net, h: layers(
        net, net.op("GlobalAveragePool", h), lambda n, x: n.op("HardSigmoid", x)
    ),
    "clip by a sixth": lambda net, h: layers(net, net.op("GlobalAveragePool", h), clip_sixth),
    "dense": dense,
}


@pytest.mark.parametrize("name", GATES)
def test_gate_behind_the_activation(name: str) -> None:
    _, rewrite = opened(block(GATES[name]))
    assert any("makes the gate 1 on the reserved channels" in fact for fact in rewrite.facts)


@pytest.mark.parametrize("name", ["sigmoid", "hard sigmoid", "dense"])
def test_gate_before_the_activation(name: str) -> None:
    opened(block(GATES[name], act_first=False))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_an_open_gate_is_exactly_one(dtype: type) -> None:
    """The bias on reserved channels drives sigmoid to 1 in every float type."""
    outcome, _ = opened(block(GATES["sigmoid"]))
    biases = [
        value.const_value.numpy()
        for node in outcome.model.graph
        if node.op_type == "Conv"
        for value in node.inputs[2:]
    ]
    (opening,) = {float(b) for array in biases for b in array if b > 30}
    one = dtype(1)
    assert one / (one + np.exp(-dtype(opening))) == 1


REFUSED: dict[str, Gate] = {
    "a convolution": lambda net, h: net.conv(h, HIDDEN, HIDDEN, 1),
    "not pooled": lambda net, h: layers(net, h, sigmoid),
    "one layer": lambda net, h: sigmoid(
        net, net.conv(net.op("GlobalAveragePool", h), HIDDEN, HIDDEN, 1)
    ),
    "limit zero": lambda net, h: layers(
        net,
        net.op("GlobalAveragePool", h),
        lambda n, x: n.op("Clip", x, n.const(-1.0), n.const(0.0)),
    ),
    "no limit": lambda net, h: layers(
        net, net.op("GlobalAveragePool", h), lambda n, x: n.op("Relu", x)
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_gate_is_refused(name: str) -> None:
    outcome = optimize(block(REFUSED[name]), pipeline=RM)
    assert outcome.fates[-1].skip.operator == "Add"
    assert outcome.fates[-1].refusals[-1].code == "gate-in-branch"


def test_a_gate_that_is_read_elsewhere_is_refused() -> None:
    net = Net()
    x = net.conv("x", 3, C, 1)
    h = net.act(net.conv(x, C, HIDDEN, 1), "Relu")
    gate = GATES["sigmoid"](net, h)
    h = net.op("Mul", h, gate)
    y = net.op("Add", net.conv(h, HIDDEN, C, 1), x)
    proto = net.model(y, (2, 3, 6, 5), extra_outputs=(gate,))
    outcome = optimize(proto, pipeline=RM)
    assert outcome.fates[-1].refusals[-1].code == "gate-in-branch"
