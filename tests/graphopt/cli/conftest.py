"""Running the command within the test's own process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import onnx
import pytest

from graphopt.cli.main import app, main
from tests.support.models import residual_net


@dataclass(frozen=True)
class Left:
    """How the command left: its exit code and what it wrote."""

    code: int
    out: str
    err: str


Run = Callable[..., Left]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """`run("optimize", model, ...)`."""

    def once(*arguments: object) -> Left:
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main([str(argument) for argument in arguments])
        written = capsys.readouterr()
        return Left(int(left.value.code or 0), written.out, written.err)

    return once


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A small network with two skips, alone in a folder."""
    folder = tmp_path / "models"
    folder.mkdir()
    onnx.save(residual_net(), folder / "net.onnx")
    return folder / "net.onnx"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on `sys.path` for packages whose subcommands are forgotten after the test."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(app, "registered_commands", list(app.registered_commands))
    return folder
