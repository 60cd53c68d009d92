"""The bridge to FINN: what it makes of what FINN says. FINN itself is run where it is set up."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from qonnx.core.modelwrapper import ModelWrapper

from graphopt import optimize
from graphopt.cli.main import main
from graphopt.ir import Model, save
from hwmodel.finn import bridge, build
from hwmodel.finn.transformation import Optimize
from tests.hwmodel.finn.test_lint import block, blocks, fixed

JSONS = ["fifos.json", "folding.json"]


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as left:
        main([str(argument) for argument in arguments])
    return int(left.value.code or 0)


@pytest.fixture
def finn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Puts a program in the place of FINN's interpreter; it gets the arguments of `build`."""

    def put(program: str) -> Path:
        folder = tmp_path / "finn" / "bin"
        folder.mkdir(parents=True, exist_ok=True)
        script = folder / "program.py"
        script.write_text(
            textwrap.dedent(
                """
                import json, sys, time
                from pathlib import Path
                script, place = sys.argv[1:]
                config = json.loads(Path(place).read_text())
                folder = Path(place).parent / config["output"]
                log = folder / "build_dataflow.log"
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
assert script.endswith("build.py")
log.write_text("[now]INFO:Running step: step_a [1/2]\\n[now]INFO:Running step: step_b [2/2]\\n")
report = folder / "report"
report.mkdir(exist_ok=True)
layers = {"MVAU_0": {"LUT": 10, "DSP": 2}, "MVAU_1": {"LUT": 5, "BRAM_18K": 3}}
(report / "estimate_layer_resources.json").write_text(json.dumps({**layers, "total": {"LUT": 15}}))
(report / "estimate_network_performance.json").write_text(
    json.dumps({"estimated_throughput_fps": 1e4 * config["clock_mhz"] + config["fps"]})
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


def quantized(folder: Path) -> Path:
    """A residual block that has lost its join, and has a batch of any size."""
    net = block()
    net.x = np.abs(net.x)
    proto = fixed(net, blocks.FORMS["A, lattice"][0](net, 6), ["N", 6, 8, 8])
    path = folder / "quantized.onnx"
    save(optimize(proto, preset="finn").model, path)
    return path


def test_export_writes_all_that_finn_wants(tmp_path: Path) -> None:
    model, out = quantized(tmp_path), tmp_path / "out"
    code = run(
        "export", "finn", model, "-o", out, "--board", "Pynq-Z2", "--clock", 125, "--fps", 50,
        "--sizing", "bounds",
    )  # fmt: skip
    assert code == 0
    assert sorted(os.listdir(out)) == sorted([*JSONS, "build.json", "build.py", "model.onnx"])
    config = json.loads((out / "build.json").read_text())
    assert (config["model"], config["board"]) == ("model.onnx", "Pynq-Z2")
    assert (config["clock_mhz"], config["fps"], config["until"]) == (125, 50, "estimates")
    written = Model.load(out / "model.onnx").to_proto().graph
    for value in (*written.input, *written.output):
        assert [dim.dim_value for dim in value.type.tensor_type.shape.dim] == [1, 6, 8, 8]
    assert run("export", "finn", model, "-o", out / "again", "--board", "nothing") == 2
    assert run("export", "hls4ml", model, "-o", out / "again", "--estimate") == 2
    assert not (out / "again").exists()


def test_export_of_what_finn_cannot_build(tmp_path: Path) -> None:
    """A float model at widths of the user's, and the dialect of Xilinx/finn: JSON alone."""
    digits = Path(__file__).parents[3] / "examples" / "models" / "digits_mobilenetv2.onnx"
    out, other = tmp_path / "out", tmp_path / "other"
    assert run("export", "finn", digits, "-o", out, "--bits", "w4a4", "--sizing", "bounds") == 0
    assert sorted(os.listdir(out)) == JSONS
    assert run("export", "finn", digits, "-o", out, "--bits", "w4a4", "--estimate") == 2
    model = quantized(tmp_path)
    assert run("export", "finn", model, "-o", other, "--dialect", "finn", "--sizing", "bounds") == 0
    assert os.listdir(other) == ["folding.json"]


def test_export_says_where_finn_rejects_it(
    finn, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finn("log.write_text('[now]INFO:Running step: step_streamline [3/9]'); sys.exit('no way')")
    model, out = quantized(tmp_path), tmp_path / "out"
    assert run("export", "finn", model, "-o", out, "--sizing", "bounds", "--estimate") == 1
    assert "FINN rejects it at step_streamline: no way" in capsys.readouterr().out
    assert (out / "model.onnx").is_file()


def test_build_steps_ask_graphopt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHOPT", f"{sys.executable} -P -m graphopt")
    model = ModelWrapper(str(quantized(tmp_path)))
    cfg = SimpleNamespace(
        output_dir=str(tmp_path / "out"), synth_clk_period_ns=10.0, target_fps=100,
        folding_config_file=None,
    )  # fmt: skip
    assert build.fold(model, cfg) is model
    folding = json.loads(cfg.folding_config_file.read_text())
    assert any(name.startswith("MVAU") for name in folding)
    net = block()
    net.x = np.abs(net.x)
    residual = ModelWrapper(fixed(net, blocks.FORMS["B, pointwise"][0](net, 6), ["N", 6, 8, 8]))
    assert not build.optimize(residual, cfg).get_nodes_by_op_type("Add")
    cfg.target_fps = -1
    with pytest.raises(RuntimeError, match=r"graphopt export: .*not above 0"):
        build.fold(model, cfg)


def test_a_qonnx_transformation() -> None:
    net = block()
    net.x = np.abs(net.x)
    before = ModelWrapper(fixed(net, blocks.FORMS["B, pointwise"][0](net, 6), ["N", 6, 8, 8]))
    after = before.transform(Optimize("finn"))
    assert isinstance(after, ModelWrapper)
    assert [len(each.get_nodes_by_op_type("Add")) for each in (before, after)] == [1, 0]
    np.testing.assert_array_equal(
        blocks.exact(after.model, net.x), blocks.exact(before.model, net.x)
    )


needs_finn = pytest.mark.skipif(
    not (bridge.environment() / "bin" / "python").is_file(), reason="FINN is not set up"
)


@needs_finn
def test_every_depth_arrives_in_finn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, out = quantized(tmp_path), tmp_path / "out"
    assert run("export", "finn", model, "-o", out, "--fps", 50_000, "--estimate") == 0
    assert "FINN: layers only" in capsys.readouterr().out
    wanted = json.loads((out / "fifos.json").read_text())["fifo_depths"]
    arrived = {
        node.name: node.attributes["depth"].value
        for node in Model.load(bridge.with_fifos(out / "build")).graph
        if node.op_type == "StreamingFIFO_rtl"
    }
    assert arrived == wanted
    assert max(wanted.values()) > 2
    applied = json.loads((out / "build" / "report" / "applied_folding_config.json").read_text())
    folded = {
        (name, key): value
        for name, entry in json.loads((out / "folding.json").read_text()).items()
        for key, value in entry.items()
        if key in ("PE", "SIMD")
    }
    assert {place: applied[place[0]][place[1]] for place in folded} == folded
    assert max(folded.values()) > 1


@needs_finn
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
