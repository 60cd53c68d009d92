"""Models on a device: from Python, and through the commands `cost`, `export` and `devices`."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from graphopt import Model
from graphopt.cli.main import main
from graphopt.cost import cost_model
from graphopt.errors import GraphoptError, TargetError
from hwmodel import estimate, truth
from hwmodel.datatypes import DataType, integer
from hwmodel.design import Builder, Design
from hwmodel.devices import device
from hwmodel.estimator import Target, design_of, estimate_sized, sized
from hwmodel.kernels import Window
from hwmodel.kernels.kernel import Port
from hwmodel.simulate import simulate
from tests.support.blocks import Net

DIGITS = Path(__file__).parents[2] / "examples" / "models" / "digits_mobilenetv2.onnx"
OPTION_A = DIGITS.with_name("digits_resnet.onnx")
"""Its shortcuts pad channels, for which FINN has no kernel."""


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as left:
        main([str(argument) for argument in arguments])
    return int(left.value.code or 0)


def test_a_model_on_a_board() -> None:
    found = estimate(DIGITS, "finn:Pynq-Z1", bits="w4a4", fps=20_000)
    assert found.device.name == "Z7020"
    assert found.fps >= 20_000
    assert 0 < found.utilisation["lut"] < 1
    assert found.deadlock_free
    assert found.skip_bits > 0
    joins = sum(kernel.kind == "Join" for kernel in found.kernels)
    assert sum(stream.skip for stream in found.streams) == joins > 3
    assert found.resources.lut == pytest.approx(
        sum(k.resources.lut for k in found.kernels) + sum(s.resources.lut for s in found.streams)
    )
    reasons = [stream.reason for stream in found.streams if stream.skip]
    assert all("or deadlock" in reason for reason in reasons)


def test_every_sizing_runs_and_the_joint_one_is_the_smallest_that_is_fast() -> None:
    design = design_of(DIGITS, bits="w4a4", fps=20_000)
    where = Target.parse("finn:ZCU104")
    found = {
        sizing: estimate_sized(sized(design, sizing), where, simulate=True)
        for sizing in ("bounds", "simulated", "joint", "deadlock-free", "finn")
    }
    assert all(each.deadlock_free for each in found.values())
    best = found["simulated"].interval
    assert found["joint"].interval == best
    # Two frames, as FINN simulates, are not enough to see every FIFO's need.
    assert found["finn"].interval <= best * 1.1
    assert found["joint"].fifo_bits <= found["simulated"].fifo_bits < found["finn"].fifo_bits
    assert found["deadlock-free"].fifo_bits <= found["joint"].fifo_bits
    # Closed forms size the skips alone; every other FIFO has two words, which costs time.
    assert best < found["bounds"].interval < 3 * best


def test_what_is_estimated_is_near_what_deep_enough_fifos_do() -> None:
    design = design_of(DIGITS, bits="w4a4", fps=20_000)
    where = Target.parse("finn:ZCU104")
    guessed = estimate_sized(sized(design, "bounds"), where)
    seen = estimate_sized(sized(design, "simulated"), where)
    assert seen.simulated
    assert not guessed.simulated
    assert "--simulate" in guessed.warnings[0]
    assert not seen.warnings
    assert guessed.interval == pytest.approx(seen.interval, rel=0.15)
    assert guessed.latency == pytest.approx(seen.latency, rel=0.35)


def test_given_depths_that_deadlock_are_found_with_and_without_simulation() -> None:
    design = design_of(DIGITS, bits="w4a4", fps=20_000)
    known = sized(design, "bounds")
    name, bound = next(iter(known.known.items()))
    shallow = known.design.with_depths({name: bound.deadlock - 1})
    where = Target.parse("finn:ZCU104")
    assert estimate_sized(sized(shallow, "given"), where).deadlock_free is False
    assert estimate_sized(sized(shallow, "given"), where, simulate=True).deadlock_free is False
    assert simulate(shallow).blame


def test_finns_own_formulas_beside_ours() -> None:
    ours = estimate(DIGITS, "finn:ZCU104", bits="w4a4", fps=20_000)
    finns = estimate(DIGITS, "finn:ZCU104", bits="w4a4", fps=20_000, backend="finn")
    # FINN counts no LUT for RTL units, padding, forks and joins.
    assert finns.kernel_resources.lut < ours.kernel_resources.lut
    assert finns.resources.dsp == ours.resources.dsp


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "finn:"}, "write finn:BOARD"),
        ({"target": "gpu"}, "write finn:BOARD"),
        ({"target": "finn:ZCU1004"}, "ZCU104"),
        ({"backend": "magic"}, "no backend"),
        ({"sizing": "magic"}, "no sizing"),
        ({"clock_mhz": 0}, "not above 0"),
        ({"bits": None}, "--bits w4a4"),
        ({"folding": {"nothing": {"PE": 2}}}, "nothing"),
    ],
)
def test_bad_requests_get_a_sentence(options: dict[str, object], message: str) -> None:
    given = {"target": "finn:ZCU104", "bits": "w4a4", **options}
    with pytest.raises(GraphoptError, match=message):
        estimate(DIGITS, **given)  # type: ignore[arg-type]


def depthwise(side: int) -> Design:
    build = Builder()
    byte = integer(8, signed=False)
    source = build.source("in", Port(byte, 4, side * side * 2))
    window = Window(
        name="dw", height=side, width=side, channels=8, kernel=(3, 3), element=byte, simd=4,
        depthwise=True,
    )  # fmt: skip
    build.add(window, [source])
    return build.design()


def test_a_window_that_hangs_in_finn_is_a_warning() -> None:
    where = Target("x", device("ZCU104"))
    hangs = estimate_sized(sized(depthwise(8), "given"), where, simulate=True)
    assert "pull request 1698" in hangs.warnings[0]
    assert not estimate_sized(sized(depthwise(7), "given"), where, simulate=True).warnings


def test_data_types_of_qonnx() -> None:
    names = "INT4 UINT8 BIPOLAR BINARY TERNARY FIXED<8,4> SCALEDINT<6> FLOAT32 FLOAT<4,3,8>"
    bits = [DataType.parse(name).bits for name in names.split()]
    assert bits == [4, 8, 1, 1, 2, 8, 6, 32, 8]
    assert not DataType.parse("FLOAT32").is_integer
    with pytest.raises(GraphoptError, match="no data type"):
        DataType.parse("INT")


def test_finn_is_a_target_of_the_host() -> None:
    model = cost_model("finn:ZCU104:w4a4")
    assert model.name == "streaming"
    loaded = Model.load(DIGITS)
    found = model.estimate(loaded, "finn:ZCU104:w4a4")
    assert found.total.lut
    assert found.total.interval_cycles
    layered = sum(layer.cost.lut or 0 for layer in found.layers)
    assert 0.5 * found.total.lut < layered <= found.total.lut
    cheaper = replace(found.total, lut=found.total.lut / 2)
    assert model.judge(found.total, cheaper, "finn:ZCU104:w4a4")
    assert not model.judge(cheaper, found.total, "finn:ZCU104:w4a4")
    with pytest.raises(TargetError):
        cost_model("finn:Nowhere").estimate(loaded, "finn:Nowhere")


def test_the_command_prints_and_gates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["cost", DIGITS, "--bits", "w4a4", "--fps", "20000"]
    assert run(*arguments) == 0
    assert "Resources" in capsys.readouterr().out
    budget = tmp_path / "budget.toml"
    budget.write_text("[limits]\nlut = 10\ndeadlock_free = true\n")
    written = tmp_path / "out.sarif"
    code = run(*arguments, "--budget", budget, "--format", "sarif", "-o", written)
    assert code == 1
    assert json.loads(written.read_text())["runs"][0]["results"]
    budget.write_text('[limits]\nlut = "90%"\ndeadlock_free = true\n')
    assert run(*arguments, "--budget", budget, "--simulate") == 0
    budget.write_text("[limits]\nluts = 10\n")
    assert run(*arguments, "--budget", budget) == 2
    assert "limits.luts" in capsys.readouterr().err
    assert run("cost", DIGITS) == 2
    assert "--bits w4a4" in capsys.readouterr().err


def test_on_github_the_summary_of_the_job_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary = tmp_path / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    assert run("cost", DIGITS, "--bits", "w4a4", "--format", "github") == 0
    assert "LUT" in summary.read_text()


def test_the_input_is_never_overwritten(tmp_path: Path) -> None:
    model = tmp_path / "net.onnx"
    model.write_bytes(DIGITS.read_bytes())
    for option in ("-o", "--plot"):
        assert run("cost", model, "--bits", "w4a4", option, model) == 2
    assert run("cost", model, "--target", "sequential", "-o", model) == 2
    assert run("cost", model, "--bits", "w4a4", "-o", tmp_path) == 2
    assert run("cost", model, "--bits", "w4a4", "--clock", "0") == 2
    assert run("cost", model, "--bits", "w4a4", "--clock", "inf") == 2
    assert run("cost", model, "--bits", "w4a4", "--fps", "inf") == 2
    assert model.read_bytes() == DIGITS.read_bytes()
    new = tmp_path / "a" / "b.json"
    assert run("cost", model, "--bits", "w4a4", "--format", "json", "-o", new) == 0
    assert json.loads(new.read_text())["resources"]


def test_the_command_draws(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "fifos.png"
    assert run("cost", DIGITS, "--bits", "w4a4", "--fps", "20000", "--plot", picture) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert run("cost", DIGITS, "--bits", "w4a4", "--plot", tmp_path / "a.xyz") == 2
    assert not (tmp_path / "a.xyz").exists()


def test_what_finn_lacks_is_estimated_but_not_exported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert estimate(OPTION_A, bits="w4a4").resources.lut > 0
    assert run("export", "finn", OPTION_A, "-o", tmp_path / "out", "--bits", "w4a4") == 2
    assert "FINN has no ChannelPadding" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("dialect", ["finn-plus", "finn"])
def test_export_for_finn(tmp_path: Path, dialect: str) -> None:
    code = run(
        "export", "finn", DIGITS, "-o", tmp_path / "out", "--bits", "w4a4", "--fps", "20000",
        "--sizing", "bounds", "--dialect", dialect,
    )  # fmt: skip
    assert code == 0
    folding = json.loads((tmp_path / "out" / "folding.json").read_text())
    assert folding["Defaults"] == {}
    assert any("PE" in entry for entry in folding.values())
    if dialect == "finn-plus":
        fifos = json.loads((tmp_path / "out" / "fifos.json").read_text())
        assert max(fifos["fifo_depths"].values()) > 2
    else:
        assert any(name.startswith("StreamingFIFO") for name in folding)


@pytest.mark.real_models
def test_resnet50_is_estimated_in_a_second(shared: Path) -> None:
    loaded = Model.load(shared / "data" / "models" / "imagenet" / "light_resnet50.onnx")
    where = Target.parse("finn:U250")
    estimate_sized(sized(design_of(loaded, bits="w2a4")), where)  # shapes and imports
    start = time.perf_counter()
    found = estimate_sized(sized(design_of(loaded, bits="w2a4", fps=30, clock_mhz=200)), where)
    assert time.perf_counter() - start < 3  # a second on an idle machine
    assert found.deadlock_free
    assert sum(stream.skip for stream in found.streams) == 16


def test_the_time_of_an_estimate_grows_linearly() -> None:
    def shortest(blocks: int) -> float:
        net = Net()
        x = net.act(net.conv("x", 3, 4), "Relu", 4)
        for _ in range(blocks):
            h = net.conv(net.act(net.conv(x, 4, 4), "Relu", 4), 4, 4)
            x = net.act(net.op("Add", h, x), "Relu", 4)
        model = Model.load(net.model(x, (1, 3, 8, 8)))
        taken = []
        for _ in range(4):
            start = time.perf_counter()
            estimate(model, "finn:U250", bits="w4a4")
            taken.append(time.perf_counter() - start)
        return min(taken)

    # Sixteen times the blocks: 16 where it is linear, 256 where it is quadratic.
    assert shortest(64) < 40 * shortest(4)


def test_the_pause_in_which_a_window_fills_counts() -> None:
    block = {
        "H": 19, "W": 13, "C": 16, "stream_elems": 8, "main_fifo": 4, "skip_conv": None,
        "convs": [{"k": 5, "s": 1, "p": 2, "Cin": 16, "Cout": 16, "SIMD": 400, "PE": 8, "par": 1}],
    }  # fmt: skip
    design = truth.wired(block).design
    seen = simulate(design, frames=4).interval
    assert seen > 1.1 * design.cycles
    assert estimate(design).interval == pytest.approx(seen, rel=0.02)
