"""The examples run, and say what they promise."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from graphopt.optimizer import optimize

ROOT = Path(__file__).parents[2]
MODELS = ROOT / "examples/models"


def run(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(("name", "joins"), [("digits_resnet", 6), ("digits_mobilenetv2", 5)])
def test_remove_skips(name: str, joins: int) -> None:
    told = run("examples/remove_skips.py", f"examples/models/{name}.onnx")
    assert told.count("skip removed") == joins
    shares = re.findall(r"([\d.]+)% (?:before|after)", told)
    assert shares[0] == shares[1]
    assert float(shares[0]) > 97


@pytest.mark.parametrize("name", ["digits_resnet", "digits_mobilenetv2"])
def test_shipped_models_are_clean(name: str) -> None:
    path = MODELS / f"{name}.onnx"
    proto = onnx.load(path)
    onnx.checker.check_model(proto, full_check=True)
    assert path.stat().st_size < 300_000
    assert b"/work" not in path.read_bytes()
    outcome = optimize(path)
    assert [one.fate.value for one in outcome.fates] == ["kept"] * len(outcome.fates)
    assert not [n for n in outcome.model.graph if n.op_type == "BatchNormalization"]


@pytest.mark.slow
def test_training_script(tmp_path: Path) -> None:
    """One epoch of each network: the same graphs come out, better than chance."""
    pytest.importorskip("torch")
    told = run("examples/train_digits.py", "--epochs", "1", "--out", str(tmp_path))
    for name in ("digits_resnet", "digits_mobilenetv2"):
        made, shipped = (onnx.load(folder / f"{name}.onnx") for folder in (tmp_path, MODELS))
        kinds = [[node.op_type for node in model.graph.node] for model in (made, shipped)]
        assert kinds[0] == kinds[1]
    assert len(re.findall(r"ONNX Runtime", told)) >= 1
    with np.load(MODELS / "digits_test.npz") as data:
        assert data["images"].shape == (360, 1, 8, 8)
