"""The networks designed for compilation: what they cost, how they export, what becomes of them."""

from __future__ import annotations

import io
from collections import Counter

import numpy as np
import onnxruntime
import pytest

torch = pytest.importorskip("torch")

from examples.networks import export, lively  # noqa: E402
from graphopt.cost import cost_model  # noqa: E402
from graphopt.ir import Model  # noqa: E402
from graphopt.optimizer import optimize  # noqa: E402
from training_hooks.architectures import (  # noqa: E402
    InvertedResidual,
    ReservingBlock,
    mobilenet_v1_cifar,
    mobilenet_v2_cifar,
    repvgg_cifar,
)
from training_hooks.architectures.mobilenet import BOTTLENECKS  # noqa: E402

SHAPE = (1, 3, 32, 32)
MIXED = [1, 2, 2, 1, 3, 1, 1, 2, 3, 3, 1, 2, 1]


def exported(module: torch.nn.Module, shape: tuple[int, ...] = SHAPE) -> Model:
    """The exported model, once ONNX Runtime agrees with torch."""
    file = io.BytesIO()
    export(module, shape, file)
    x = torch.randn(2, *shape[1:], generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = module(x).numpy()
    session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {"input": x.numpy()})
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    return Model.load(file.getvalue())


def multiply_adds(module: torch.nn.Module) -> int:
    return cost_model("cpu").estimate(exported(module), "cpu").total.multiply_adds


def kinds(model: Model) -> Counter[str]:
    return Counter(node.op_type for node in model.graph)


@pytest.mark.parametrize(
    ("free", "expected"), [(1, 24_214_528), (3, 68_254_720), (4, 90_274_816), (8, 178_355_200)]
)
def test_multiply_adds_of_the_paper(free: int, expected: int) -> None:
    assert multiply_adds(mobilenet_v2_cifar(free)) == expected


def test_multiply_adds_of_the_plain_network() -> None:
    """47.1 M in the paper, which may count more than convolutions and the linear layer."""
    assert multiply_adds(mobilenet_v1_cifar()) == pytest.approx(47.1e6, rel=0.02)


@pytest.mark.parametrize("width", [0.3, 1.0])
def test_the_plain_network_has_the_hidden_widths(width: float) -> None:
    with torch.device("meta"):
        plain, residual = mobilenet_v1_cifar(width), mobilenet_v2_cifar(3, width)
    blocks = [part for part in residual if isinstance(part, InvertedResidual)]
    hidden = [block.residual[0].out_channels + block.skips * block.carried for block in blocks]
    pointwise = [part[3].out_channels for name, part in plain.named_children() if "block" in name]
    assert pointwise[:-1] == hidden
    strides = [part[0].stride for name, part in plain.named_children() if "block" in name]
    assert strides[1:] == [block.residual[3].stride for block in blocks]


@pytest.mark.parametrize(
    ("free_in", "free_out", "slices", "pads"),
    [(1, 1, 0, 0), (1, 3, 0, 1), (3, 1, 1, 0), (3, 3, 1, 1), (2, 4, 1, 1)],
)
def test_skip_of_the_first_channels(free_in: int, free_out: int, slices: int, pads: int) -> None:
    block = lively(InvertedResidual(4, 4, 3, 1, free_in, free_out), 0, (4, 4 * free_in, 8, 8))
    x = torch.randn(2, 4 * free_in, 8, 8)
    with torch.inference_mode():
        carried = block(x) - block.residual(x)
    torch.testing.assert_close(carried[:, :4], x[:, :4], rtol=0, atol=1e-5)
    assert not carried[:, 4:].any()
    found = kinds(exported(block, (1, 4 * free_in, 8, 8)))
    # The exporter turns the list of pads around with a Slice of its own.
    assert (found["Slice"] - pads, found["Pad"], found["Add"]) == (slices, pads, 1)


@pytest.mark.parametrize("free", [1, 3, MIXED], ids=["narrow", "wide", "mixed"])
def test_skips_can_be_removed(free: int | list[int]) -> None:
    module = lively(mobilenet_v2_cifar(free, width=0.25), 0, (4, 3, 32, 32))
    outcome = optimize(exported(module), preset="plain")
    assert [one.fate.value for one in outcome.fates] == ["removed"] * 8
    assert not {"Add", "Slice", "Pad"} & set(kinds(outcome.model))


@pytest.mark.parametrize("free", [0, [1, 1], [0] * BOTTLENECKS])
def test_factors_that_do_not_fit(free: int | list[int]) -> None:
    with pytest.raises(ValueError, match="13 factors of at least 1"):
        mobilenet_v2_cifar(free)


def test_reserving_block() -> None:
    """The first channels pass through the ReLU alone; the others are the sum of three branches."""
    block = lively(ReservingBlock(10, 10, ratio=0.25), 0, (4, 10, 8, 8))
    x = torch.randn(2, 10, 8, 8)
    with torch.inference_mode():
        out = block(x)
        rest = block.square(x) + block.point(x) + block.identity(x[:, 2:])
    assert torch.equal(out[:, :2], x[:, :2].relu())
    torch.testing.assert_close(out[:, 2:], rest.relu())
    found = kinds(exported(block, (1, 10, 8, 8)))
    names = ("Conv", "BatchNormalization", "Add", "Slice", "Concat", "Relu")
    assert [found[kind] for kind in names] == [2, 3, 2, 2, 1, 1]


def test_reserving_network() -> None:
    module = lively(repvgg_cifar(blocks=(1, 2), width=8), 0, (4, 3, 32, 32))
    found = kinds(exported(module))
    assert (found["Concat"], found["Slice"], found["Relu"]) == (3, 6, 5)
    plain = kinds(exported(lively(repvgg_cifar(0, (1, 2), 8), 0, (4, 3, 32, 32))))
    assert not {"Concat", "Slice"} & set(plain)


@pytest.mark.parametrize(("outputs", "ratio"), [(8, 1.0), (8, -0.1), (16, 0.5)])
def test_ratios_that_do_not_fit(outputs: int, ratio: float) -> None:
    with pytest.raises(ValueError, match=r"ratio is at least|channels pass only"):
        ReservingBlock(8, outputs, ratio=ratio)
