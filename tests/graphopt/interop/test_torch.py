"""A float ONNX model as a torch module: it computes the same, it trains, or says why not."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from graphopt.errors import GraphoptError, ModelError
from graphopt.interop.torch import logits, to_module
from graphopt.ir import Model
from tests.support.blocks import Net, basic_block
from tests.support.models import plain_model, residual_net

torch = pytest.importorskip("torch")


pytestmark = pytest.mark.skipif(
    find_spec("onnx2torch") is None,
    reason="onnx2torch is not installed: pip install --no-deps onnx2torch",
)


def computed(proto: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {session.get_inputs()[0].name: x})[0])


def data(*shape: int) -> np.ndarray:
    return np.random.default_rng(3).standard_normal(shape).astype(np.float32)


def assert_equal(module: Any, proto: onnx.ModelProto, x: np.ndarray) -> None:
    expected = computed(proto, x)
    with torch.no_grad():
        found = module(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(found, expected, atol=2e-5 * float(np.abs(expected).max()))


@pytest.mark.parametrize(
    "proto",
    [
        pytest.param(residual_net(), id="identity"),
        pytest.param(residual_net(stride=2, norm=True), id="projection and norms"),
        pytest.param(residual_net(activation="relu6"), id="clips"),
        pytest.param(
            basic_block(stride=2, out=8, shortcut="option-a", sizes=(8, 8)), id="option A"
        ),
        pytest.param(
            basic_block(stride=2, out=8, shortcut="option-a-concat", sizes=(8, 8)),
            id="zeros of a computed shape",
        ),
        pytest.param(basic_block(pads=(0, 0, 2, 2), sizes=(8, 8)), id="pads one side"),
    ],
)
def test_the_module_computes_what_the_model_computes(proto: onnx.ModelProto) -> None:
    before = proto.SerializeToString(deterministic=True)
    module = to_module(proto)
    for batch in (1, 3):
        assert_equal(module, proto, data(batch, 3, 8, 8))
    assert proto.SerializeToString(deterministic=True) == before
    assert not module.training


def test_every_weight_trains() -> None:
    module = to_module(residual_net(stride=2, norm=True))
    module(torch.from_numpy(data(2, 3, 8, 8))).square().sum().backward()
    parameters = dict(module.named_parameters())
    assert (
        len(parameters) == 19
    )  # a stem and a Gemm with biases, five convolutions and as many norms
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in parameters.values())


def flattened(net: Net, x: str, how: str, batch: int) -> str:
    """From [batch, 6, 2, 2] to [batch, 24], in the ways of several exporters."""
    match how:
        case "written":
            return net.op("Reshape", x, net.const([batch, 24], np.int64))
        case "written -1":
            return net.op("Reshape", x, net.const([-1, 24], np.int64))
        case "of the shape":
            size = net.op("Gather", net.op("Shape", x), net.const(0, np.int64), axis=0)
            size = net.op("Unsqueeze", size, net.const([0], np.int64))
            target = net.op("Concat", size, net.const([-1], np.int64), axis=0)
            return net.op("Reshape", x, target)
        case _:
            return net.op(how, x)


@pytest.mark.parametrize("batch", [1, "N"])
@pytest.mark.parametrize("how", ["written", "written -1", "of the shape", "Flatten"])
def test_any_batch_whatever_the_exporter_saw(how: str, batch: int | str) -> None:
    if how == "written" and batch == "N":
        return
    net = Net(1)
    x = flattened(net, net.conv("x", 3, 6), how, 1)
    weight, bias = net.const(net.rng.standard_normal((24, 5))), net.const(np.arange(5.0))
    proto = net.model(net.op("Add", net.op("MatMul", x, weight), bias), (batch, 3, 2, 2))
    module = to_module(proto)
    x = data(1, 3, 2, 2)
    assert_equal(module, proto, x)
    assert module(torch.from_numpy(np.repeat(x, 4, 0))).shape == (4, 5)
    kinds = [type(one).__name__ for one in module.modules()]
    assert kinds.count("Linear") == kinds.count("Flatten") == 1


def test_constants_behind_nodes() -> None:
    """Weights that are Constant nodes, as some exporters write them, or transposed ones."""
    net = Net(2)
    weight = net.op(
        "Transpose", net.const(net.rng.standard_normal((3, 4, 1, 1))), perm=[1, 0, 2, 3]
    )
    x = net.op("Conv", "x", weight)
    x = net.op("Mul", x, net.const(net.rng.uniform(1, 2, (4, 1, 1))))
    proto = net.model(x, ("N", 3, 4, 4))
    for tensor in list(proto.graph.initializer):
        node = helper.make_node("Constant", [], [tensor.name], value=tensor)
        proto.graph.node.insert(0, node)
    del proto.graph.initializer[:]
    module = to_module(proto)
    assert_equal(module, proto, data(2, 3, 4, 4))
    assert sorted(p.numel() for p in module.parameters()) == [4, 12]


@pytest.mark.parametrize("opset", [8, 11, 13, 17, 18, 22])
def test_operator_sets(opset: int) -> None:
    """onnx2torch knows none above 15 or below 9 in full."""
    net = Net(4, opset=opset)
    x = net.op("Relu", net.norm(net.conv("x", 3, 4), 4))
    x = net.op("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2])
    if opset >= 18:
        x = net.op("ReduceMean", x, net.const([2, 3], np.int64), keepdims=0)
    else:
        x = net.op("ReduceMean", x, axes=[2, 3], keepdims=0)
    proto = net.model(x, ("N", 3, 8, 8))
    assert_equal(to_module(proto), proto, data(2, 3, 8, 8))


@pytest.mark.parametrize("kind", ["Softmax", "LogSoftmax"])
def test_logits(kind: str) -> None:
    net = Net(5)
    before = net.op("Flatten", net.conv("x", 3, 4))
    proto = net.model(net.op(kind, before, axis=1), ("N", 3, 2, 2))
    model = logits(proto)
    assert [node.op_type for node in model.graph] == ["Conv", "Flatten"]
    x = data(2, 3, 2, 2)
    scores = computed(model.to_proto(), x)
    assert (scores.argmax(1) == computed(proto, x).argmax(1)).all()
    again = logits(model)
    assert [node.op_type for node in again.graph] == ["Conv", "Flatten"]
    assert_equal(to_module(again), model.to_proto(), x)


def test_an_unknown_operator_is_named() -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["h"], name="first"),
        helper.make_node("Quant", ["h", "s", "z", "b"], ["y"], "second", domain="onnx.brevitas"),
    ]
    arrays = {"s": np.float32(1), "z": np.float32(0), "b": np.float32(4)}
    proto = plain_model(
        nodes, {"x": (np.float32, [1, 3])}, ["y"], arrays, domains=["onnx.brevitas"]
    )
    with pytest.raises(ModelError, match=r"node 'second' is a onnx\.brevitas\.Quant"):
        to_module(proto)


def test_a_form_that_cannot_be_converted_is_named() -> None:
    net = Net(6)
    net.op("Conv", "x", net.const(np.ones((2, 3, 3, 3))), auto_pad="SAME_UPPER")
    with pytest.raises(ModelError, match=r"node 'conv_2' is a Conv .*SAME_UPPER"):
        to_module(net.model("conv_2", (1, 3, 8, 8)))


def test_what_computes_something_else_is_refused() -> None:
    """onnx2torch takes every Resize by "half_pixel" for torch's."""
    net = Net(7)
    sizes = net.const([1, 3, 7, 5], np.int64)
    x = net.op(
        "Resize", "x", "", "", sizes, mode="nearest", nearest_mode="ceil",
        coordinate_transformation_mode="half_pixel",
    )  # fmt: skip
    with pytest.raises(ModelError, match=r"something else|cannot convert"):
        to_module(net.model(net.conv(x, 3, 2), (1, 3, 4, 4)))


def test_without_onnx2torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx2torch", None)
    with pytest.raises(GraphoptError, match="pip install --no-deps onnx2torch"):
        to_module(residual_net())


def test_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(GraphoptError, match=r"pip install 'graphopt\[train\]'"):
        to_module(residual_net())


def test_without_torchvision() -> None:
    """onnx2torch imports it for two operators of detectors; the others do without."""
    code = (
        "import sys; sys.modules['torchvision'] = None\n"
        "from graphopt.interop.torch import to_module\n"
        "from tests.support.models import residual_net\n"
        "print(sum(p.numel() for p in to_module(residual_net()).parameters()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 0


def test_a_path_and_a_model(tmp_path: Any) -> None:
    proto = residual_net(blocks=1)
    path = tmp_path / "net.onnx"
    copy = onnx.ModelProto.FromString(proto.SerializeToString())
    onnx.save(copy, path, save_as_external_data=True, size_threshold=0, location="weights")
    for source in (path, Model.load(proto)):
        assert_equal(to_module(source), proto, data(1, 3, 8, 8))


def test_integers_stay_integers() -> None:
    """An index is no parameter."""
    net = Net(8)
    x = net.op("Gather", net.conv("x", 3, 4), net.const([3, 0], np.int64), axis=1)
    proto = net.model(x, ("N", 3, 4, 4))
    assert proto.graph.initializer[-1].data_type == TensorProto.INT64
    module = to_module(proto)
    assert_equal(module, proto, data(2, 3, 4, 4))
    assert len(list(module.parameters())) == 2
