"""The networks are the published ones, and export to ONNX as what they compute."""

from __future__ import annotations

import io
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

torch = pytest.importorskip("torch")

from examples.networks import NETWORKS, export, input_shape, lively  # noqa: E402
from tests.conftest import REPOSITORY  # noqa: E402

PARAMETERS = {
    "bert_encoder": 85_054_464,
    "bert_encoder_prenorm": 85_056_000,
    "convnext_tiny": 28_589_128,
    "densenet121": 7_978_856,
    "efficientnet_b0": 5_288_548,
    "mobilenet_v2": 3_504_872,
    "mobilenet_v3_large": 5_483_032,
    "preact_resnet18": 11_687_720,
    "repvgg_a0": 9_108_968,
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "unet": 31_037_698,
}
"""Those of torchvision and of the authors' code, where these exist."""

SMALL: dict[str, dict[str, Any]] = {
    "bert_encoder": {"layers": 2, "tokens": 16},
    "bert_encoder_prenorm": {"layers": 2, "tokens": 16},
    "convnext_tiny": {"blocks": (1, 1, 2, 1)},
    "densenet121": {"blocks": (2, 3, 2, 2)},
    "repvgg_a0": {"blocks": (1, 2, 2, 2, 1)},
    "resnet34": {"blocks": (2, 1, 1, 1)},
    "resnet50": {"blocks": (1, 2, 1, 1)},
    "unet": {"depth": 3},
}

SPELLINGS = {
    "bert_encoder": {"Softmax": 2, "LayerNormalization": 4, "Erf": 2, "Reshape": 8},
    "bert_encoder_prenorm": {"Softmax": 2, "LayerNormalization": 5, "Erf": 2, "Reshape": 8},
    "convnext_tiny": {"LayerNormalization": 10, "Erf": 5, "Add": 5 * 4},
    "densenet121": {"Concat": 9, "BatchNormalization": 2 * 9 + 3 + 2, "AveragePool": 3},
    "efficientnet_b0": {"Sigmoid": 49 + 16, "Mul": 49 + 16, "Add": 9 + 1},
    "mobilenet_v2": {"Clip": 35, "Add": 10 + 1, "BatchNormalization": 52},
    "mobilenet_v3_large": {"HardSwish": 21, "HardSigmoid": 8, "Add": 10},
    "preact_resnet18": {"Add": 8, "BatchNormalization": 17},
    "repvgg_a0": {"Add": 8 + 3, "BatchNormalization": 2 * 8 + 3},
    "resnet18": {"Add": 8, "BatchNormalization": 20},
    "resnet34": {"Add": 5, "BatchNormalization": 1 + 2 * 5 + 3},
    "resnet50": {"Add": 5, "BatchNormalization": 1 + 3 * 5 + 4},
    "unet": {"Concat": 3, "ConvTranspose": 3, "BatchNormalization": 14},
}
"""How many of the telling operators each small network has. At a quarter of the width, the first
block of MobileNetV2 and of EfficientNet has as many channels as the stem, and so one skip more."""


@pytest.mark.parametrize("name", NETWORKS)
def test_parameters(name: str) -> None:
    with torch.device("meta"):
        module = NETWORKS[name]()
    assert sum(weight.numel() for weight in module.parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("name", NETWORKS)
def test_export(name: str) -> None:
    module = lively(NETWORKS[name](width=0.25, **SMALL.get(name, {})))
    shape = input_shape(module, 64)
    file = io.BytesIO()
    export(module, shape, file)
    proto = onnx.load_from_string(file.getvalue())
    onnx.checker.check_model(proto, full_check=True)
    kinds = Counter(node.op_type for node in proto.graph.node)
    assert {kind: kinds[kind] for kind in SPELLINGS[name]} == SPELLINGS[name]
    assert "Identity" not in kinds

    image = torch.randn(3, *shape[1:], generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = module(image).numpy()
    session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {"input": image.numpy()})
    assert 0.1 < expected.std() < 5
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_lively() -> None:
    """Norms vary as promised, activations stay of order 1, and the seed decides."""
    build = NETWORKS["efficientnet_b0"]
    module, same, other = (lively(build(width=0.25), seed) for seed in (0, 0, 1))
    norms = [part for part in module.modules() if isinstance(part, torch.nn.BatchNorm2d)]
    gammas = torch.cat([norm.weight.detach() for norm in norms])
    assert ((gammas.abs() >= 0.5) & (gammas.abs() <= 1.5)).all()
    assert 0.05 < (gammas < 0).float().mean() < 0.15
    assert torch.cat([norm.bias.detach() for norm in norms]).std() == pytest.approx(0.2, rel=0.1)

    spreads = []
    for norm in norms:
        norm.register_forward_hook(lambda _, __, out: spreads.append(float(out.std())))
    image = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        logits = [one(image) for one in (module, same, other)]
    assert len(spreads) == 49
    assert 0.2 < min(spreads) <= max(spreads) < 3
    assert torch.equal(logits[0], logits[1])
    assert not torch.allclose(logits[0], logits[2])


def test_script(tmp_path: Path) -> None:
    path = tmp_path / "small.onnx"
    options = ["bert_encoder", "-o", str(path), "--width", "0.1", "--size", "8"]
    told = subprocess.run(
        [sys.executable, "-W", "error", "examples/export_network.py", *options],
        cwd=REPOSITORY, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert "input [N, 8, 64]" in told
    assert b"/work" not in path.read_bytes()


def test_list() -> None:
    told = subprocess.run(
        [sys.executable, "examples/export_network.py", "--list"],
        cwd=REPOSITORY, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert [line.split()[0] for line in told.splitlines()] == list(NETWORKS)
