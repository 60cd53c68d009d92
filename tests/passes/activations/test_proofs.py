"""What is proved of activations holds on samples: gains of the +-split, linear from a point on."""

from __future__ import annotations

import numpy as np
import onnx_ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.ir import Model
from passes.activations import Channels, Function, limit, line_from, split_gain
from passes.activations.function import OPERATORS, ending_at
from tests.support.blocks import Net
from tests.support.matrix import ACTIVATIONS

UNARY = sorted(set(OPERATORS) - set("Add Sub Mul Div Pow Max Min PRelu Clip Identity".split()))


def read(net: Net, result: str) -> Function:
    """The region between the model's input [N, 4, 5, 5] and `result`."""
    net.opset = 24
    shape = ("N", 4, 5, 5)
    model = Model.load(net.model(result, shape, opset_imports=(("com.microsoft", 1),)))
    value = model.graph.outputs[0]
    found = ending_at(value, onnx_ir.Value.is_graph_input, Channels(4, 1, 4))
    assert found is not None
    assert found.source.name == "x"
    return found


def check(function: Function) -> tuple[float | None, tuple[float, float] | None]:
    """Compares what is proved with float64 samples, and returns it."""
    shared = function.shared
    x = np.random.default_rng(0).standard_normal((4, 400)) * 8
    gain, line, end = split_gain(shared), line_from(shared), limit(shared)
    with np.errstate(all="ignore"):
        if gain is not None:
            size = np.abs(shared(x)) + np.abs(x) + 1
            assert (np.abs(shared(x) - shared(-x) - gain * x) <= 1e-9 * size).all()
        if line is not None:
            far = line[0] + np.abs(x) * 5
            np.testing.assert_allclose(shared(far), line[1] * far, rtol=1e-9, atol=1e-9)
        if end is not None:
            np.testing.assert_allclose(shared(end[0] + np.abs(x)), end[1], rtol=1e-9)
    return gain, line


@pytest.mark.parametrize(
    ("name", "gain", "line"),
    [
        ("ReLU", 1, (0, 1)),
        ("ReLU6", None, None),
        ("LeakyReLU", 1.125, (0, 1)),
        ("SiLU", 1, (40, 1)),
        ("GELU", 1, (12, 1)),
        ("GELU (tanh)", 1, None),
        ("HardSwish", 1, (3, 1)),
        ("Softplus", 1, (40, 1)),
        ("Mish", None, (20, 1)),
        ("ELU", None, (0, 1)),
        ("Sigmoid", None, None),
        ("Tanh", None, None),
    ],
)
def test_known_activations(name: str, gain: float | None, line: tuple[float, float] | None) -> None:
    net = Net()
    assert check(read(net, ACTIVATIONS[name](net, "x"))) == (gain, line)


@pytest.mark.parametrize("operator", UNARY)
def test_every_operator_computes_what_onnx_says(operator: str) -> None:
    """The float64 table against ONNX's reference evaluator, or ONNX Runtime for foreign ones."""
    import onnxruntime as ort
    from onnx.reference import ReferenceEvaluator

    net = Net(dtype=np.float32)
    foreign = operator == "QuickGelu"
    y = net.op(operator, "x", domain="com.microsoft" if foreign else "")
    function = read(net, y)
    net.opset = 21 if foreign else 24
    proto = net.model(y, ("N", 4, 5, 5), opset_imports=(("com.microsoft", 1),))
    x = np.random.default_rng(1).standard_normal((2, 4, 5, 5)).astype(np.float32) * 5
    if foreign:
        session = ort.InferenceSession(proto.SerializeToString())
        (expected,) = session.run(None, {"x": x})
    else:
        (expected,) = ReferenceEvaluator(proto).run(None, {"x": x})
    columns = x.transpose(1, 0, 2, 3).reshape(4, -1).astype(np.float64)
    found = function(columns).reshape(4, 2, 5, 5).transpose(1, 0, 2, 3)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-6)
    check(function)


@st.composite
def regions(draw: st.DrawFn) -> Function:
    """Random regions: unary operators, sums, products and quotients of what there is already."""
    net = Net()
    values = ["x"]
    steps = st.sampled_from(["unary", "unary", "scale", "shift", "sum", "product", "clip", "power"])
    for _ in range(draw(st.integers(1, 5))):
        a, b = (draw(st.sampled_from(values)) for _ in range(2))
        number = net.const(draw(st.sampled_from([-2.0, -1.0, 0.5, 1.0, 3.0, 6.0])))
        match draw(steps):
            case "unary":
                kind = draw(st.sampled_from([u for u in UNARY if u != "QuickGelu"]))
                values.append(net.op(kind, a))
            case "scale":
                values.append(net.op(draw(st.sampled_from(["Mul", "Div"])), a, number))
            case "shift":
                values.append(net.op(draw(st.sampled_from(["Add", "Sub"])), a, number))
            case "sum":
                values.append(net.op(draw(st.sampled_from(["Add", "Sub"])), a, b))
            case "product":
                values.append(net.op("Mul", a, b))
            case "clip":
                high = net.const(draw(st.sampled_from([1.0, 6.0])))
                values.append(
                    net.op("Clip", a, net.const(draw(st.sampled_from([-1.0, 0.0]))), high)
                )
            case _:
                values.append(net.op("Pow", a, net.const(draw(st.sampled_from([2.0, 3.0])))))
    # everything that was made takes part, so that the region has one end
    used = {name for node in net.nodes for name in node.input}
    loose = [value for value in values[1:] if value not in used]
    result = loose[0]
    for value in loose[1:]:
        result = net.op(draw(st.sampled_from(["Add", "Mul"])), result, value)
    return read(net, result)


@given(regions())
@settings(max_examples=150)
def test_nothing_is_proved_that_does_not_hold(function: Function) -> None:
    check(function)


def test_constants_per_channel_are_neutral_on_other_channels() -> None:
    net = Net()
    h = net.op("Relu", net.norm("x", 4))
    function = read(net, net.act(net.op("Mul", h, net.const(np.full((4, 1, 1), 3.0))), "prelu", 4))
    assert [call.operator for call in function.calls] == ["Mul", "Add", "Relu", "Mul", "PRelu"]
    assert [call.operator for call in function.shared.calls] == ["Relu"]
    x = np.linspace(-3, 3, 8)[None].repeat(4, axis=0)
    np.testing.assert_array_equal(function.shared(x), np.maximum(x, 0))


def test_a_constant_that_divides_cannot_be_neutral() -> None:
    net = Net()
    y = net.op("Div", net.const(np.full((4, 1, 1), 3.0)), "x")
    model = Model.load(net.model(y, ("N", 4, 5, 5)))
    value = model.graph.outputs[0]
    assert ending_at(value, onnx_ir.Value.is_graph_input, Channels(4, 1, 4)) is None


def test_scale_and_shift() -> None:
    net = Net()
    h = net.op(
        "Sub", net.op("Div", "x", net.const(2.0)), net.const(np.arange(4.0).reshape(4, 1, 1))
    )
    affine = read(net, net.op("Mul", net.op("Identity", h), net.const(3.0))).affine()
    assert affine is not None
    np.testing.assert_array_equal(affine[0], [1.5] * 4)
    np.testing.assert_array_equal(affine[1], [0, -3, -6, -9])
    net = Net()
    assert read(net, net.op("Relu", net.op("Add", "x", net.const(1.0)))).affine() is None
