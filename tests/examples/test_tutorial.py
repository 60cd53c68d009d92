"""The commands of docs/from-pytorch-to-finn.md do what it says, one after the other."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from hwmodel.finn import bridge
from tests.conftest import REPOSITORY

TUTORIAL = REPOSITORY / "docs" / "from-pytorch-to-finn.md"


def commands(kind: str) -> list[str]:
    """The lines of the blocks that are marked so."""
    blocks = re.findall(rf"^```{kind}\n(.*?)^```$", TUTORIAL.read_text(), re.M | re.S)
    return [line for block in blocks for line in block.splitlines() if line]


def run(line: str, folder: Path) -> str:
    """Runs a line; its comment says where the exit code is not 0."""
    command, _, comment = line.partition("  # ")
    wanted = int(found[1]) if (found := re.match(r"exit code (\d)", comment)) else 0
    program, *arguments = shlex.split(command)
    if program == "graphopt":
        arguments = ["-m", "graphopt", *arguments]
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == wanted, f"{line}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the tutorial has been followed, but for FINN."""
    for library in ("torch", "brevitas", "onnx2torch", "onnxoptimizer", "sklearn"):
        if find_spec(library) is None:
            pytest.skip(f"{library} is not installed")
    place = tmp_path_factory.mktemp("tutorial")
    (place / "examples").symlink_to(REPOSITORY / "examples")
    told = [run(line, place) for line in commands("sh")]
    (place / "told.txt").write_text("\n".join(told))
    return place


def test_every_command_runs(folder: Path) -> None:
    assert len(commands("sh")) >= 8
    told = (folder / "told.txt").read_text()
    assert float(re.findall(r"resnet\.onnx: ([\d.]+)%", told)[0]) > 90
    assert float(re.findall(r"epoch 6: .*test accuracy ([\d.]+)%", told)[0]) > 90
    assert told.count("residual-join") == 2
    removed = re.findall(
        r"^.*(identity|projection) .*removed .*reserve-merge \(pointwise\)", told, re.M
    )
    assert sorted(removed) == ["identity", "projection"]
    assert "The model has no skip connections." in told
    names = {path.name for path in (folder / "work" / "finn").iterdir()}
    assert {"model.onnx", "folding.json", "fifos.json", "build.py", "build.json"} <= names


@pytest.mark.skipif(
    not (bridge.environment() / "bin" / "python").is_file(), reason="FINN is not set up"
)
def test_finn_takes_it(folder: Path) -> None:
    first, second = commands("sh finn")
    told = run(first, folder)
    assert "rejected at step_create_dataflow_partition" in told
    assert "accepted" in told
    assert "FINN: layers only" in run(second, folder)
