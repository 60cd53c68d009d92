"""Every real model goes through; every join has a fate; the joins are those of the manifest."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from graphopt.cost import cost_model
from graphopt.ir import Model
from graphopt.optimizer import Fate, optimize
from graphopt.skips import Skip
from graphopt.verify.numeric import Status
from passes.lifetime import Lifetime
from passes.skip_detection import Skips

pytestmark = pytest.mark.real_models

ROOT = Path(os.environ.get("GRAPHOPT_SHARED", Path(__file__).parents[2] / "../shared"))
MODELS = ROOT / "data/models"
SOUND = sorted(
    str(path.relative_to(MODELS))
    for path in MODELS.glob("*/*.onnx")
    if path.parent.name != "malformed"
)
LINEAR = {"Conv", "Gemm", "MatMul", "QLinearConv", "QLinearMatMul", "ConvInteger"}

every_model = pytest.mark.parametrize(
    "name",
    SOUND or [pytest.param("", marks=pytest.mark.skip("no shared models: set GRAPHOPT_SHARED"))],
)


def _is_identity(skip: Skip) -> bool:
    """As the manifest counts: one path without a linear operator."""
    return any(not LINEAR & set(path.operators) for path in skip.paths)


@every_model
def test_joins_agree_with_the_manifest(name: str) -> None:
    row = next(
        line
        for line in (ROOT / "data/MANIFEST.md").read_text().splitlines()
        if f"models/{name} " in line
    )
    told = re.search(r"Add (\d+) \((\d+) id\), Concat (\d+), Mul (\d+)", row)
    assert told is not None
    skips = Model.load(MODELS / name).analyses.get(Skips())
    additive = [skip for skip in skips if skip.is_additive]
    found = (
        len(additive),
        sum(map(_is_identity, additive)),
        sum(skip.operator == "Concat" for skip in skips),
        sum(skip.operator == "Mul" for skip in skips),
    )
    assert found == tuple(map(int, told.groups()))


@every_model
def test_inspect(name: str) -> None:
    model = Model.load(MODELS / name)
    estimate = cost_model("cpu").estimate(model, "cpu")
    life = model.analyses.get(Lifetime())
    assert estimate.total.peak_activation_bytes == life.peak_bytes
    assert life.peak_bytes > 0
    for skip in model.analyses.get(Skips()):
        assert skip.lifetime is not None
        assert skip.lifetime > 0
        assert skip.fork
        assert len(skip.paths) >= 2


@pytest.mark.parametrize("preset", ["default", "plain"])
@every_model
def test_optimize(name: str, preset: str) -> None:
    outcome = optimize(MODELS / name, preset=preset)
    assert outcome.verification is not None
    assert outcome.verification.status in (Status.EQUAL, Status.UNCHANGED), (
        outcome.verification.reason
    )
    for one in outcome.fates:
        assert one.reason
        if one.fate is Fate.REMOVED:
            assert one.rewrite is not None
            assert one.rewrite.facts
        else:
            assert one.refusals
    if preset == "default":
        assert outcome.after.total.multiply_adds <= outcome.before.total.multiply_adds
        assert outcome.count(Fate.KEPT) + outcome.count(Fate.REFUSED) == len(
            [one for one in outcome.fates if one.fate is not Fate.REMOVED]
        )


@pytest.mark.parametrize(
    ("name", "removed"),
    [
        ("cifar10/resnet20_torch213_opset13", 9),
        ("cifar10/resnet32_torch213_opset13", 15),
        ("cifar10/mlperf_resnet8_tf2onnx", 3),
        ("cifar10/mlperf_resnet8_fp32_kai", 3),
        ("cifar10/cidr_resnet8_fp32", 3),
        ("cifar10/vnncomp21_resnet_2b", 2),
        ("imagenet/light_resnet50", 16),
        ("seg/deeplab_dm05_nchw", 10),
        ("detect/blazeface_front", 13),
    ],
)
def test_plain_removes(name: str, removed: int) -> None:
    path = MODELS / f"{name}.onnx"
    if not path.exists():
        pytest.skip(f"{path} is not there: set GRAPHOPT_SHARED")
    outcome = optimize(path, preset="plain", verify=False)
    assert outcome.count(Fate.REMOVED) == removed
    left = [s for s in outcome.model.analyses.get(Skips()) if s.is_additive]
    assert len(left) == len([one for one in outcome.fates if one.skip.is_additive]) - removed
