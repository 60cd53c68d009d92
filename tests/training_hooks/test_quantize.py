"""Quantizers on a float network: where they stand, that they train, and what graphopt and FINN
make of the exported file."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir
import pytest
from onnx.reference import ReferenceEvaluator

torch = pytest.importorskip("torch")
pytest.importorskip("brevitas")
pytest.importorskip("onnxoptimizer")  # Brevitas exports with it

import torch.nn.functional as F  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from graphopt import GraphoptError, optimize  # noqa: E402
from graphopt.interop import qonnx  # noqa: E402
from graphopt.ir import Model, constant  # noqa: E402
from graphopt.optimizer import Fate  # noqa: E402
from training_hooks.quantize import Widths, calibrate, export_qonnx, quantize  # noqa: E402

WIDTHS = Widths.parse("w4a3,first=w6a8,last=w7a5")


class Residual(nn.Module):
    """A stem, an identity block, a projection block, a pool, a classifier; one ReLU for all."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.a, self.b = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.c, self.d = nn.Conv2d(4, 8, 3, 2, 1, bias=False), nn.Conv2d(8, 8, 3, padding=1)
        self.norm_c = nn.BatchNorm2d(8)
        self.skip = nn.Conv2d(4, 8, 1, 2)
        self.classes = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm(self.stem(x)))
        x = F.relu(x + self.b(self.relu(self.a(x))))
        branch = self.d(self.relu(self.norm_c(self.c(x))))
        branch += self.skip(x)
        x = torch.relu(branch)
        return self.classes(torch.flatten(F.avg_pool2d(x, 4), 1))


def images(count: int = 32, size: int = 8) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    """A float network whose batch norms have seen something."""
    torch.manual_seed(0)
    net = make()
    with torch.no_grad():
        for _ in range(3):
            net(images() * 2 - 0.3)
    return net.eval()


def quantized(net: nn.Module, widths: Widths = WIDTHS, data: Tensor | None = None) -> Any:
    data = images() if data is None else data
    made = quantize(net, data[:1], widths)
    calibrate(made, [data])
    return made.eval()


def exported(net: nn.Module, path: Path, data: Tensor | None = None) -> onnx.ModelProto:
    export_qonnx(net, (images() if data is None else data)[:1], path)
    return onnx.load(path)


def computed(proto: onnx.ModelProto, x: Tensor) -> np.ndarray:
    evaluator = ReferenceEvaluator(proto, new_ops=qonnx.reference_operators(proto))
    return np.concatenate([evaluator.run(None, {"input": one[None].numpy()})[0] for one in x])


def scale_of(value: onnx_ir.Value | None) -> tuple[float, int, bool]:
    """Step, bits and sign of the quantizer that makes a tensor."""
    node = value.producer() if value is not None else None
    assert node is not None
    assert node.op_type == "Quant"
    step, bits = (constant(node.inputs[index]) for index in (1, 3))
    assert step is not None
    assert bits is not None
    return float(np.max(step)), int(bits), node.attributes.get_int("signed", 1) == 1


@pytest.fixture(scope="module")
def residual(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, onnx.ModelProto]:
    net = quantized(seeded(Residual))
    return net, exported(net, tmp_path_factory.mktemp("q") / "net.onnx")


# --- what is exported ---------------------------------------------------------------------------


def test_the_file_computes_what_torch_computes(residual: tuple[Any, onnx.ModelProto]) -> None:
    net, proto = residual
    onnx.checker.check_model(proto)
    x = images(6)
    with torch.no_grad():
        np.testing.assert_allclose(computed(proto, x), net(x).numpy(), atol=1e-5)


def test_both_addends_of_a_join_have_one_scale(residual: tuple[Any, onnx.ModelProto]) -> None:
    model = Model.load(residual[1])
    joins = [node for node in model.graph if node.op_type == "Add"]
    assert len(joins) == 2
    steps = []
    for node in joins:
        first, second = map(scale_of, node.inputs)
        assert first == second
        assert first[1:] == (3, True)
        steps.append(first[0])
    assert steps[0] != steps[1]


def test_widths_of_the_layers_and_of_what_they_read(residual: tuple[Any, onnx.ModelProto]) -> None:
    model = Model.load(residual[1])
    layers = [node for node in model.graph if node.op_type in ("Conv", "Gemm")]
    assert [scale_of(node.inputs[1])[1] for node in layers] == [6, 4, 4, 4, 4, 4, 7]
    (last,) = [node for node in model.graph if node.op_type == "Gemm"]
    flatten = last.inputs[0].producer()
    assert flatten is not None
    assert flatten.op_type == "Flatten"
    assert scale_of(flatten.inputs[0])[1:] == (5, False)  # behind the pool, before the flattening
    readers = {use.node.op_type for use in model.graph.inputs[0].uses()}
    assert readers == {"Quant"}
    assert scale_of(layers[0].inputs[0])[1:] == (8, False)
    relus = [node.outputs[0].uses()[0].node for node in model.graph if node.op_type == "Relu"]
    assert {scale_of(node.outputs[0])[1:] for node in relus} == {(3, False)}
    weights = [constant(layer.inputs[1].producer().inputs[1]) for layer in layers]
    assert [np.size(step) for step in weights] == [4, 4, 4, 8, 8, 8, 1]


def test_the_joins_go_and_every_code_stays(residual: tuple[Any, onnx.ModelProto]) -> None:
    proto = residual[1]
    outcome = optimize(proto, preset="finn")
    assert [one.fate for one in outcome.fates] == [Fate.REMOVED] * 2
    kinds = {node.op_type for node in outcome.model.graph}
    assert not kinds & {"Add", "AveragePool", "BatchNormalization"}
    x = images(6)
    before = computed(proto, x)
    np.testing.assert_allclose(computed(outcome.model.to_proto(), x), before, atol=1e-6)
    assert len(np.unique(before)) > 6


def test_from_onnx_to_onnx(tmp_path: Path) -> None:
    if find_spec("onnx2torch") is None:
        pytest.skip("onnx2torch is not installed")
    from graphopt.interop.torch import to_module
    from tests.support.models import residual_net

    net = quantized(to_module(residual_net(stride=2, norm=True)), Widths.parse("w4a4"))
    outcome = optimize(exported(net, tmp_path / "net.onnx"), preset="finn")
    assert [one.fate for one in outcome.fates] == [Fate.REMOVED] * 2


# --- where quantizers stand ---------------------------------------------------------------------


def test_with_many_bits_the_network_is_the_float_one() -> None:
    net = seeded(Residual)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    fine = quantized(net, Widths(16, 16, (16, 16), (16, 16)))
    x = images(8)
    with torch.no_grad():
        expected = net(x)
        torch.testing.assert_close(
            fine(x), expected, atol=2e-3 * float(expected.abs().max()), rtol=0
        )
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    torch.testing.assert_close(fine.a.weight, net.a.weight)


class Functions(nn.Module):
    """What a forward may call, by function, operator and method."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.classes = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a((x - 0.5) / 0.25).relu()
        x = torch.add(self.b(F.pad(x[:, :, ::2, ::2], (1, 1, 0, 0))), 1.0)
        x = torch.clamp(F.max_pool2d(x, 2), min=0).mean((3,))
        return self.classes(F.dropout(x, 0.1, self.training).view(x.size(0), -1)[:, :8])


class Tail(nn.Module):
    """Two convolutions without an activation between them; the sum is the network's output."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.b(x) + x


class PreActivation(nn.Module):
    """He et al. 2016b: the sum is normed on one way and carried on on the other."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
        self.a, self.b = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.a(F.relu(x))
        return x + self.b(F.relu(self.norm(x)))


class Dense(nn.Module):
    """A concatenation of a ReLU and a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x))
        return self.c(torch.cat([x, self.b(x)], 1))


@pytest.mark.parametrize("make", [Functions, Tail, PreActivation, Dense])
def test_every_layer_reads_codes(make: Callable[[], nn.Module], tmp_path: Path) -> None:
    net = seeded(make)
    fine = quantized(net, Widths(16, 16, (16, 16), (16, 16)))
    with torch.no_grad():
        torch.testing.assert_close(fine(images()), net(images()), atol=5e-3, rtol=0)
    model = Model.load(exported(quantized(net), tmp_path / "net.onnx"))
    assert not {node.op_type for node in model.graph} & {"Shape", "ConstantOfShape", "Reshape"}
    moves = ("Slice", "Pad", "Flatten", "Identity", "Concat")
    for node in [node for node in model.graph if node.op_type in ("Conv", "Gemm", "Concat")]:
        data = node.inputs if node.op_type == "Concat" else node.inputs[:1]
        for value in data:
            while value is not None and value.producer().op_type in moves:
                value = value.producer().inputs[0]
            assert scale_of(value)


def test_addends_share_a_quantizer_wherever_they_come_from(tmp_path: Path) -> None:
    """A sum, a ReLU, a tensor that has a quantizer of its own."""
    for make in (Tail, PreActivation, Dense):
        net = quantized(seeded(make))
        model = Model.load(exported(net, tmp_path / f"{make.__name__}.onnx"))
        joins = [n for n in model.graph if n.op_type in ("Add", "Concat") and len(n.inputs) == 2]
        joins = [n for n in joins if constant(n.inputs[1]) is None]
        assert len(joins) == (2 if make is PreActivation else 1)
        for node in joins:
            first, second = map(scale_of, node.inputs)
            assert first == second


def test_a_sum_that_is_read_twice_is_rounded_once(tmp_path: Path) -> None:
    """Else the norm and the next join would each read it in full precision."""
    model = Model.load(exported(quantized(seeded(PreActivation)), tmp_path / "net.onnx"))
    first, last = [node for node in model.graph if node.op_type == "Add"]
    assert {use.node.op_type for use in first.outputs[0].uses()} == {"Quant"}
    assert len(first.outputs[0].uses()) == 1
    assert last.outputs[0].is_graph_output()
    assert not last.outputs[0].uses()


@pytest.mark.parametrize("signed", [False, True])
def test_the_input_by_its_sign(signed: bool, tmp_path: Path) -> None:
    data = images() - (0.5 if signed else 0.0)
    net = quantized(seeded(Residual), data=data)
    model = Model.load(exported(net, tmp_path / "net.onnx", data))
    conv = next(node for node in model.graph if node.op_type == "Conv")
    step, bits, found = scale_of(conv.inputs[0])
    assert (bits, found) == (8, signed)
    assert step == pytest.approx(float(data.abs().max()) / (127 if signed else 255), rel=0.05)


@pytest.mark.parametrize(
    "make",
    [nn.ReLU6, lambda: nn.Hardtanh(0.0, 6.0), lambda: Call(F.relu6), lambda: Call(clamped)],
)
def test_a_clip_starts_with_its_range(make: Callable[[], nn.Module], tmp_path: Path) -> None:
    net = seeded(lambda: nn.Sequential(nn.Conv2d(3, 4, 1), make(), nn.Conv2d(4, 2, 1)))
    with torch.no_grad():
        net[0].weight.mul_(30)
    x = images()
    fine = quantized(net, Widths(16, 16, (16, 16), (16, 16)))
    with torch.no_grad():
        torch.testing.assert_close(fine(x), net(x), atol=5e-3, rtol=0)
    model = Model.load(exported(quantized(net), tmp_path / "net.onnx"))
    last = [node for node in model.graph if node.op_type == "Conv"][-1]
    assert scale_of(last.inputs[0])[0] == pytest.approx(6 / (2**5 - 1))


class Call(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def clamped(x: Tensor) -> Tensor:
    return x.clamp(0, 6)


def test_a_padding_of_one_side_becomes_the_convolution_s(tmp_path: Path) -> None:
    """As TensorFlow pads before a stride of 2."""
    net = seeded(lambda: nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(3, 4, 3, 2)))
    proto = exported(quantized(net), tmp_path / "net.onnx")
    assert "Pad" not in {node.op_type for node in proto.graph.node}
    (conv,) = [node for node in proto.graph.node if node.op_type == "Conv"]
    assert list(next(a for a in conv.attribute if a.name == "pads").ints) == [0, 0, 1, 1]
    with torch.no_grad():
        found = quantized(net)(images(2)).numpy()
    np.testing.assert_allclose(computed(proto, images(2)), found, atol=1e-5)


# --- training -----------------------------------------------------------------------------------


def trained(net: nn.Module, steps: int = 60) -> list[float]:
    """Losses on a problem with two classes: which half of the image is brighter."""
    data = images(64)
    labels = (data[:, :, :4].sum((1, 2, 3)) > data[:, :, 4:].sum((1, 2, 3))).long()
    parameters = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, 1e-2)
    losses = []
    net.train()
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.cross_entropy(net(data), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def small() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 4, 4), nn.ReLU(), nn.Flatten(), nn.Linear(32, 16), nn.ReLU(),
        nn.Linear(16, 2),
    )  # fmt: skip


def test_training_reduces_the_loss() -> None:
    net = quantized(seeded(small), Widths.parse("w4a4"))
    losses = trained(net)
    assert losses[-1] < 0.3 * losses[0]
    frozen = quantized(seeded(small), Widths.parse("w4a4"))
    for name, parameter in frozen.named_parameters():
        parameter.requires_grad_(name.endswith("scaling_impl.value"))
    assert trained(frozen)[-1] > 0.6 * losses[0]


def test_the_scales_train_too() -> None:
    net = quantized(seeded(Residual))
    scales = {n: p for n, p in net.named_parameters() if n.endswith("scaling_impl.value")}
    assert len(scales) == 9  # the input, five ReLU, two joins, the pool
    before = {name: parameter.item() for name, parameter in scales.items()}
    trained(net, 2)
    assert all(parameter.item() != before[name] for name, parameter in scales.items())


def test_modes_are_left_as_they_are(tmp_path: Path) -> None:
    net = quantize(seeded(Residual), images(1), WIDTHS)
    for training in (True, False):
        net.train(training)
        calibrate(net, [images(4)])
        exported(net, tmp_path / "net.onnx")
        assert net.training is training


# --- what is refused ----------------------------------------------------------------------------


class Loop(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) if x.sum() > 0 else x


def behind(*modules: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 1), *modules)


@pytest.mark.parametrize(
    ("net", "match"),
    [
        (behind(nn.Sigmoid()), r"Sigmoid\) has no quantized form"),
        (behind(nn.ConvTranspose2d(4, 4, 2)), "ConvTranspose2d"),
        (behind(nn.Hardtanh()), "does not clip at 0"),
        (behind(Call(lambda x: torch.clamp(x, max=1.0))), "does not clip at 0"),
        (behind(Call(lambda x: x * torch.flip(x, (3,)))), "flip"),
        (behind(Call(lambda x: x * x)), "combines two tensors"),
        (behind(Call(lambda x: torch.add(x, x, alpha=2))), "scales an addend"),
        (behind(Call(lambda x: F.pad(x, (1, 1), value=1.0))), "something else than zeros"),
        (behind(Call(lambda x: F.pad(x, (1, 1, 1, 1), "reflect"))), "something else than zeros"),
        (Loop(), "cannot trace Loop"),
        (nn.ReLU(), "no convolution and no linear layer"),
    ],
)
def test_refused(net: nn.Module, match: str) -> None:
    with pytest.raises(GraphoptError, match=match):
        quantize(net, images(1), WIDTHS)


def test_a_layer_that_is_not_there() -> None:
    with pytest.raises(GraphoptError, match=r"named 'c': the layers are 0, 1\."):
        quantize(behind(nn.Conv2d(4, 4, 1)), images(1), Widths.parse("w4a4,c=w2"))


def test_widths() -> None:
    assert Widths.parse("w4a4") == Widths(4, 4, (8, 8), (8, 8), {})
    assert Widths.parse("w2a4, last=w8, first=a3, b.c=w3a3, d=w5") == Widths(
        2, 4, (2, 3), (8, 4), {"b.c": (3, 3), "d": (5, 4)}
    )
    widths = Widths.parse("w4a4,b=w2a3")
    assert [widths.of(i, 3, name) for i, name in enumerate("abc")] == [(8, 8), (2, 3), (8, 8)]


@pytest.mark.parametrize("text", ["", "w4", "4", "w4a4,", "w4a4,w2", "w4a4,x=", "w4a4,x=w2,x=w3"])
def test_what_is_no_width(text: str) -> None:
    with pytest.raises(GraphoptError, match="is no width"):
        Widths.parse(text)


@pytest.mark.parametrize("text", ["w1a4", "w4a1", "w4a17", "w4a4,x=w1"])
def test_widths_that_have_no_quantizer(text: str) -> None:
    with pytest.raises(GraphoptError, match="2 to 16 bits"):
        Widths.parse(text)
