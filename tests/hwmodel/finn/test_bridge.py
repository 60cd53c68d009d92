"""The bridge to FINN: what it makes of what FINN says. FINN itself is run where it is set up."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import onnx
import pytest

from graphopt import optimize
from graphopt.cli.main import main
from graphopt.ir import save
from hwmodel.finn import bridge
from tests.hwmodel.finn.test_lint import block, blocks, fixed


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as left:
        main([str(argument) for argument in arguments])
    return int(left.value.code or 0)


@pytest.fixture
def finn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Puts a program in the place of FINN's interpreter; it gets the arguments of `front_end`."""

    def put(program: str) -> Path:
        folder = tmp_path / "finn" / "bin"
        folder.mkdir(parents=True, exist_ok=True)
        script = folder / "program.py"
        script.write_text(
            textwrap.dedent(
                """
                import json, sys, time
                from pathlib import Path
                _, front, model, folder, board, period, *fps = sys.argv
                log = Path(folder) / "build_dataflow.log"
                """
            )
            + textwrap.dedent(program)
        )
        python = folder / "python"
        python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{script}" "$@"\n')
        python.chmod(python.stat().st_mode | stat.S_IEXEC)
        monkeypatch.setenv("GRAPHOPT_FINN", str(tmp_path / "finn"))
        model = tmp_path / "model.onnx"
        model.write_bytes(b"")
        return model

    return put


ACCEPTS = """
assert front.endswith("front_end.py")
log.write_text("[now]INFO:Running step: step_a [1/2]\\n[now]INFO:Running step: step_b [2/2]\\n")
report = Path(folder) / "report"
report.mkdir()
layers = {"MVAU_0": {"LUT": 10, "DSP": 2}, "MVAU_1": {"LUT": 5, "BRAM_18K": 3}}
(report / "estimate_layer_resources.json").write_text(json.dumps({**layers, "total": {"LUT": 15}}))
(report / "estimate_network_performance.json").write_text(
    json.dumps({"estimated_throughput_fps": 1e9 / float(period) / 100 + float(fps[0])})
)
"""


def test_accepted(finn, tmp_path: Path) -> None:
    model = finn(ACCEPTS)
    found = bridge.estimate(model, tmp_path / "out", board="ZCU104", clock_mhz=200, fps=7)
    assert found.accepted
    assert (found.step, found.layers) == ("step_b", 2)
    assert found.resources == {"LUT": 15, "BRAM_18K": 3, "URAM": 0, "DSP": 2}
    assert found.fps == pytest.approx(2e6 + 7)


def test_rejected_with_the_reason_of_the_log(finn, tmp_path: Path) -> None:
    model = finn(
        """
        log.write_text("[now]INFO:Running step: step_a [1/2]\\n[now]ERROR:unmapped: Add_0\\n")
        sys.exit(1)
        """
    )
    found = bridge.estimate(model, tmp_path / "out", board="ZCU104")
    assert not found.accepted
    assert (found.step, found.reason) == ("step_a", "unmapped: Add_0")


def test_rejected_by_an_exception(finn, tmp_path: Path) -> None:
    model = finn("raise AttributeError('no strides')")
    found = bridge.estimate(model, tmp_path / "out", board="ZCU104")
    assert (found.step, found.reason) == ("before the first step", "AttributeError: no strides")


def test_stopped_when_it_takes_too_long(finn, tmp_path: Path) -> None:
    model = finn("log.write_text('[now]INFO:Running step: step_streamline [3/9]'); time.sleep(60)")
    found = bridge.estimate(model, tmp_path / "out", board="ZCU104", limit=1.5)
    assert found.step == "step_streamline"
    assert "still running" in found.reason
    assert found.seconds < 30


def test_reports_that_are_missing(finn, tmp_path: Path) -> None:
    model = finn("")
    with pytest.raises(bridge.FinnError, match="cannot be read"):
        bridge.estimate(model, tmp_path / "out", board="ZCU104")


def test_the_command(finn, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = finn(ACCEPTS)
    assert run("finn", "estimate", model, "--fps", 7) == 0
    assert "accepted" in capsys.readouterr().out
    finn("sys.exit(1)")
    assert run("finn", "estimate", model) == 1
    assert "rejected at before the first step" in capsys.readouterr().out
    assert run("finn", "estimate") == 2
    assert run("finn", "estimate", tmp_path / "none.onnx") == 2


def test_where_it_is_not_set_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GRAPHOPT_FINN", str(tmp_path / "nowhere"))
    (tmp_path / "model.onnx").write_bytes(b"")
    assert run("finn", "estimate", tmp_path / "model.onnx") == 2
    assert "run `graphopt finn setup`" in capsys.readouterr().err
    monkeypatch.delenv("GRAPHOPT_FINN")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert bridge.environment() == tmp_path / "graphopt" / "finn"


def test_setup_says_what_it_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []

    def noted(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        failed = any("finn-plus" in word for word in command)
        return subprocess.CompletedProcess(command, int(failed), "", "first\nno such wheel\n")

    monkeypatch.setattr(subprocess, "run", noted)
    told: list[str] = []
    with pytest.raises(bridge.FinnError, match=r"finn-plus==1\.6\.1: no such wheel"):
        bridge.setup(tmp_path, told.append)
    assert [command[1:3] for command in commands] == [["-m", "venv"], *[["-m", "pip"]] * 3]
    assert commands[1][-1].startswith("torch==")  # by itself: pip may backtrack over it
    assert "--no-deps" in commands[3]
    assert len(told) == 4


@pytest.mark.skipif(
    not (bridge.environment() / "bin" / "python").is_file(), reason="FINN is not set up"
)
@pytest.mark.parametrize("form", ["A, lattice", "B, pointwise"])
def test_finn_takes_a_residual_block_only_without_its_join(form: str, tmp_path: Path) -> None:
    net = block()
    net.x = np.abs(net.x)
    proto = fixed(net, blocks.FORMS[form][0](net, 6), ["N", 6, 8, 8])
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(proto, tmp_path / "before.onnx")
    save(optimize(proto, preset="finn").model, tmp_path / "after.onnx")
    before, after = (
        bridge.estimate(tmp_path / f"{name}.onnx", tmp_path / name, board="ZCU104", limit=300)
        for name in ("before", "after")
    )
    assert not before.accepted
    assert after.accepted, after.reason
    assert after.resources["LUT"] > 0
    assert os.listdir(tmp_path / "after" / "report")
