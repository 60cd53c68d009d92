"""`graphopt optimize`: what it writes, says and leaves alone."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from graphopt import plugins
from graphopt.ir import Model
from graphopt.verify import numeric
from tests.graphopt.cli.conftest import Run
from tests.support.models import residual_net


def outputs(path: Path) -> np.ndarray:
    """What a model computes, without graphopt."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    x = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
    (y,) = session.run(None, {"x": x})
    return np.asarray(y)


def operators(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(path).graph.node]


def test_writes_beside_the_input(run: Run, model: Path) -> None:
    before = model.read_bytes()
    left = run("optimize", model, "--preset", "plain")
    assert (left.code, left.err) == (0, "")
    written = model.parent / "net.opt.onnx"
    assert sorted(model.parent.iterdir()) == [model, written]
    assert model.read_bytes() == before
    onnx.checker.check_model(onnx.load(written), full_check=True)
    assert operators(model).count("Add") == 2
    assert "Add" not in operators(written)
    np.testing.assert_allclose(outputs(written), outputs(model), rtol=1e-4, atol=1e-5)
    shown = " ".join(left.out.split())
    assert "removed" in shown
    assert "reserve-merge" in shown
    assert "Equivalent on" in shown
    assert f"Wrote {written}." in shown


def test_without_options_it_keeps_what_is_not_worth_it(run: Run, model: Path) -> None:
    left = run("optimize", model)
    assert left.code == 0
    shown = " ".join(left.out.split())
    assert "kept" in shown
    assert "multiply-adds" in shown
    assert "which is the model as it was." in shown


def test_output_in_a_new_folder(run: Run, model: Path, tmp_path: Path) -> None:
    output = tmp_path / "new" / "folder" / "name.onnx"
    assert run("optimize", model, "-o", output).code == 0
    assert Model.load(output)
    assert list(model.parent.iterdir()) == [model]


def test_an_old_output_is_replaced_and_keeps_its_mode(run: Run, model: Path) -> None:
    output = model.parent / "out.onnx"
    output.write_text("old")
    output.chmod(0o640)
    assert run("optimize", model, "-o", output).code == 0
    assert Model.load(output)
    assert stat.S_IMODE(output.stat().st_mode) == 0o640


def test_a_new_output_has_an_ordinary_mode(run: Run, model: Path) -> None:
    mask = os.umask(0o027)
    try:
        run("optimize", model)
    finally:
        os.umask(mask)
    assert stat.S_IMODE((model.parent / "net.opt.onnx").stat().st_mode) == 0o640


def test_twice_gives_the_same_bytes(run: Run, model: Path) -> None:
    first, second, third = (model.parent / f"{n}.onnx" for n in range(3))
    for output in (first, second):
        assert run("optimize", model, "--preset", "plain", "-o", output).code == 0
    assert first.read_bytes() == second.read_bytes()
    assert run("optimize", first, "--preset", "plain", "-o", third).code == 0
    assert third.read_bytes() == first.read_bytes()


def test_a_dry_run_writes_nothing(run: Run, model: Path) -> None:
    left = run("optimize", model, "--preset", "plain", "--dry-run")
    assert left.code == 0
    assert list(model.parent.iterdir()) == [model]
    assert "removed" in left.out
    assert "Dry run: nothing was written." in left.out
    told = json.loads(run("optimize", model, "--dry-run", "--json").out)
    assert told["written"] is None
    assert list(model.parent.iterdir()) == [model]


def test_a_dry_run_may_name_the_input_as_output(run: Run, model: Path) -> None:
    assert run("optimize", model, "--dry-run", "-o", model).code == 0


def test_json_and_nothing_else(run: Run, model: Path) -> None:
    left = run("optimize", model, "--preset", "plain", "--json")
    assert (left.code, left.err) == (0, "")
    told = json.loads(left.out)
    assert told["written"] == str(model.parent / "net.opt.onnx")
    assert told["target"] == "cpu"
    assert told["pipeline"].startswith("freeze-weights,fold-constants,")
    assert [skip["fate"] for skip in told["skips"]] == ["removed", "removed"]
    assert {skip["exactness"] for skip in told["skips"]} == {"exact"}
    assert all(skip["facts"] for skip in told["skips"])
    assert told["verification"]["status"] == "equal"
    assert told["after"]["multiply_adds"] > told["before"]["multiply_adds"] > 0
    assert told["input"]["fingerprint"] != told["output"]["fingerprint"]
    assert told["input"]["path"] == str(model)
    assert [one["name"] for one in told["passes"]] == told["pipeline"].replace(
        "{when=possible}", ""
    ).split(",")
    assert len(told["evidence"]["rewrites"]) == 2


def test_json_stays_json_beside_every_other_option(run: Run, model: Path) -> None:
    left = run("optimize", model, "--json", "--timing", "--verify-each", "--print-after", "dce")
    assert left.code == 0
    json.loads(left.out)
    assert left.err.startswith("// after dce (")


def test_the_report_is_what_json_prints(run: Run, model: Path) -> None:
    report = model.parent / "report.json"
    report.write_text("{old")
    left = run("optimize", model, "--preset", "plain", "--report", report, "--json")
    assert left.code == 0
    told, printed = json.loads(report.read_text()), json.loads(left.out)
    for record in (told, printed):
        for one in record["passes"]:
            assert one.pop("seconds") >= 0
    assert told == printed
    names = sorted(path.name for path in model.parent.iterdir())
    assert names == ["net.onnx", "net.opt.onnx", "report.json"]


def test_the_report_is_there_without_json(run: Run, model: Path) -> None:
    report = model.parent / "new" / "report.json"
    left = run("optimize", model, "--report", report)
    assert "Wrote" in left.out
    assert json.loads(report.read_text())["skips"]


def test_timing(run: Run, model: Path) -> None:
    shown = run("optimize", model, "--preset", "plain", "--timing").out
    for word in ("fold-constants", "reserve-merge", "claims checked", "removed: 2",
                 "(analysis) skips", "(analysis) ranges"):  # fmt: skip
        assert word in shown
    assert "claims checked" not in run("optimize", model).out


def test_print_after_goes_to_stderr(run: Run, model: Path) -> None:
    left = run("optimize", model, "--print-after", "fold-norm", "--print-after", "dce")
    assert left.code == 0
    headings = [line for line in left.err.splitlines() if line.startswith("// after")]
    folds = plugins.preset("default").split(",").count("fold-norm")
    assert headings == ["// after fold-norm (unchanged)"] * folds + ["// after dce (unchanged)"]
    assert "Conv" in left.err
    assert "// after" not in left.out
    everything = run("optimize", model, "--print-after", "all").err
    assert everything.count("// after ") == len(plugins.preset("default").split(","))


def test_verify_each_on_honest_passes(run: Run, model: Path) -> None:
    assert run("optimize", model, "--preset", "plain", "--verify-each").code == 0


def test_measure(run: Run, model: Path) -> None:
    told = json.loads(run("optimize", model, "--measure", "--json").out)
    assert 0 < told["before"]["latency_s"] < 1
    assert 0 < told["after"]["latency_s"] < 1
    assert "latency_s" not in json.loads(run("optimize", model, "--json").out)["before"]


def test_a_pipeline_overrides_the_preset(run: Run, model: Path) -> None:
    told = json.loads(
        run("optimize", model, "--preset", "plain", "--pipeline", "dce", "--json").out
    )
    assert told["pipeline"] == "dce"
    assert [skip["fate"] for skip in told["skips"]] == ["refused", "refused"]


def test_a_model_with_a_data_file(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "in" / "net.onnx"
    path.parent.mkdir()
    onnx.save(residual_net(), path, save_as_external_data=True, location="net.data",
              size_threshold=64)  # fmt: skip
    before = {file: file.read_bytes() for file in path.parent.iterdir()}
    output = tmp_path / "out" / "net.onnx"
    assert run("optimize", path, "--preset", "plain", "-o", output).code == 0
    assert {file: file.read_bytes() for file in path.parent.iterdir()} == before
    np.testing.assert_allclose(outputs(output), outputs(path), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["we[ird].onnx", "we[/ird].onnx", "[red]x.onnx", "ä ö.onnx", "m"])
def test_odd_file_names(run: Run, tmp_path: Path, name: str) -> None:
    """Square brackets are markup to the library that prints the tables."""

    def unfolded(text: str) -> str:
        return "".join(text.split())

    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(residual_net().SerializeToString())
    written = path.with_name(f"{path.stem}.opt.onnx")
    left = run("optimize", path)
    assert left.code == 0, left.err
    assert unfolded(f"Wrote {written}") in unfolded(left.out)
    assert written.exists()
    left = run("inspect", path)
    assert left.code == 0, left.err
    assert unfolded(f"{path}: 15 nodes") in unfolded(left.out)
    left = run("compare", path, written)
    assert left.code == 0, left.err
    assert unfolded(f"{path.name} {written.name} ratio") in unfolded(left.out)


def test_what_was_written_is_what_was_verified(run: Run, model: Path) -> None:
    run("optimize", model, "--preset", "plain")
    written = model.parent / "net.opt.onnx"
    found = numeric.compare(Model.load(model), Model.load(written))
    assert found.status is numeric.Status.EQUAL
