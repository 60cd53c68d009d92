"""Bad input: one sentence on stderr that names the file, exit code 2, nothing written."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from tests.graphopt.cli.conftest import Run
from tests.support.models import matrices, plain_model, residual_mlp, residual_net
from tests.support.packages import one_line, package
from tests.support.passes import Explode, NegateOutput, install


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


# Models that cannot be read -------------------------------------------------------------------


def missing(path: Path) -> None:
    assert not path.exists()


def empty(path: Path) -> None:
    path.write_bytes(b"")


def text(path: Path) -> None:
    path.write_text("This is not a model, however long it may be.\n" * 100)


def folder(path: Path) -> None:
    path.mkdir()


def truncated(path: Path) -> None:
    data = residual_net(norm=True).SerializeToString()
    path.write_bytes(data[: len(data) * 2 // 3])


def zeros(path: Path) -> None:
    path.write_bytes(bytes(1000))


def no_graph(path: Path) -> None:
    path.write_bytes(onnx.ModelProto(ir_version=8).SerializeToString())


def cycle(path: Path) -> None:
    proto = residual_mlp()
    proto.graph.node[2].input[0] = proto.graph.node[8].output[0]
    path.write_bytes(proto.SerializeToString())


def read_but_never_made(path: Path) -> None:
    proto = residual_mlp()
    proto.graph.node[2].input[0] = "nobody.made.it"
    path.write_bytes(proto.SerializeToString())


def no_opset(path: Path) -> None:
    proto = residual_mlp()
    del proto.opset_import[:]
    path.write_bytes(proto.SerializeToString())


def external(path: Path, location: str) -> None:
    proto = residual_mlp()
    (path.parent.parent / "secret.data").write_bytes(bytes(144))
    name = matrices(proto)[0]
    tensor = next(t for t in proto.graph.initializer if t.name == name)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    path.write_bytes(proto.SerializeToString())


def external_above(path: Path) -> None:
    external(path, "../secret.data")


def external_absolute(path: Path) -> None:
    external(path, str(path.parent.parent / "secret.data"))


def external_by_link(path: Path) -> None:
    external(path, "link.data")
    (path.parent / "link.data").symlink_to(path.parent.parent / "secret.data")


def external_missing(path: Path) -> None:
    external(path, "nowhere.data")


def external_short(path: Path) -> None:
    external(path, "short.data")
    (path.parent / "short.data").write_bytes(bytes(100))


def weight_cut_short(path: Path) -> None:
    proto = residual_mlp()
    proto.graph.initializer[0].raw_data = proto.graph.initializer[0].raw_data[:-4]
    path.write_bytes(proto.SerializeToString())


BAD = [
    (missing, "does not exist: check the path"),
    (empty, "is empty: export or copy the model again"),
    (text, "is not an ONNX model, or is cut short"),
    (folder, "is a folder: name the .onnx file in it"),
    (truncated, "is not an ONNX model, or is cut short"),
    (zeros, ""),
    (no_graph, "holds no ONNX graph"),
    (cycle, "the nodes form a cycle"),
    (read_but_never_made, "'nobody.made.it', which nothing produces"),
    (no_opset, "names no opset"),
    (external_above, "points to '../secret.data', outside the model's folder"),
    (external_absolute, "outside the model's folder"),
    (external_by_link, "points to 'link.data', outside the model's folder"),
    (external_missing, "needs the file 'nowhere.data', which is not there"),
    (external_short, "reaches beyond the end of 'short.data'"),
    (weight_cut_short, "the file is damaged"),
]
COMMANDS = (("optimize",), ("inspect", "--json"), ("compare",))


@pytest.mark.parametrize(("make", "sentence"), BAD, ids=[make.__name__ for make, _ in BAD])
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_a_bad_model(
    run: Run, model: Path, command: tuple[str, ...], make: Callable[[Path], None], sentence: str
) -> None:
    path = model.parent / "bad.onnx"
    make(path)
    before = files(model.parent.parent)
    arguments = (model, path) if command[0] == "compare" else (path,)
    left = run(*command, *arguments)
    assert left.code == 2
    assert left.out == ""
    line = one_line(left.err)
    assert str(path) in line
    assert sentence in line
    assert files(model.parent.parent) == before


def test_with_debug_there_is_a_traceback(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "bad.onnx"
    empty(path)
    for arguments in (("--debug", "inspect", path), ("inspect", path, "--debug")):
        left = run(*arguments)
        assert left.code == 2
        assert left.err.startswith("Traceback (most recent call last):\n")
        assert left.err.splitlines()[-1].startswith("graphopt: ")
        assert "ModelError" in left.err


def test_a_file_that_may_not_be_read(run: Run, model: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    model.chmod(0)
    line = one_line(run("inspect", model).err)
    assert "cannot be read: Permission denied" in line


# Wrong words ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--preset", "plian"), "no preset is called 'plian' (did you mean 'plain'?)"),
        (("--pipeline", "dce,fold-nrom"), "called 'fold-nrom' (did you mean 'fold-norm'?)"),
        (("--pipeline", "reserve-merge{wen=x}"), "has no option 'wen' (did you mean 'when'?)"),
        (("--pipeline", "reserve-merge{when=now}"), "when=now is not possible: choose one of"),
        (("--pipeline", "dce,"), "cannot read the pipeline at 'dce,'"),
        (("--pipeline", "dce;\n\ndce"), "cannot read the pipeline at 'dce; dce'"),
        (("--pipeline", ""), "the pipeline is empty"),
        (("--pipeline", "  "), "the pipeline is empty"),
        (("--target", "toaster"), "no installed cost model knows the target 'toaster'"),
        (("--print-after", "fold-nrom"), "called 'fold-nrom' (did you mean 'fold-norm'?)"),
    ],
)
def test_unknown_words(run: Run, model: Path, options: tuple[str, str], sentence: str) -> None:
    before = files(model.parent)
    left = run("optimize", model, *options)
    assert left.code == 2
    assert left.out == ""
    assert sentence in one_line(left.err)
    assert files(model.parent) == before


@pytest.mark.parametrize("command", ["inspect", "compare"])
def test_unknown_targets(run: Run, model: Path, command: str) -> None:
    models = (model, model) if command == "compare" else (model,)
    left = run(command, *models, "--target", "toaster")
    assert (left.code, left.out) == (2, "")
    assert "'toaster'" in one_line(left.err)


@pytest.mark.parametrize(
    "arguments", [("optimise",), ("optimize",), ("optimize", "x.onnx", "--prest", "plain")]
)
def test_usage_errors_are_the_command_line_librarys(run: Run, arguments: tuple[str, ...]) -> None:
    left = run(*arguments)
    assert left.code == 2
    assert left.out == ""
    assert "Usage: graphopt" in left.err
    assert "Traceback" not in left.err


# Places that cannot be written ----------------------------------------------------------------


def refused(run: Run, model: Path, *options: object) -> str:
    before = files(model.parent.parent)
    left = run("optimize", model, *options)
    assert left.code == 2, left
    assert left.out == ""
    assert files(model.parent.parent) == before
    return one_line(left.err)


def test_an_output_that_is_a_folder(run: Run, model: Path, tmp_path: Path) -> None:
    line = refused(run, model, "-o", tmp_path)
    assert f"{tmp_path} is a folder: name a file for the output" in line


@pytest.mark.parametrize("how", ["same", "relative", "link", "hard link", "around"])
def test_an_output_that_is_the_input(
    run: Run, model: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = model
    if how == "relative":
        monkeypatch.chdir(model.parent)
        output = Path(model.name)
    elif how == "link":
        output = model.parent / "link.onnx"
        output.symlink_to(model)
    elif how == "hard link":
        output = model.parent / "hard.onnx"
        os.link(model, output)
    elif how == "around":
        output = model.parent / ".." / model.parent.name / model.name
    line = refused(run, model, "-o", output)
    assert "is the input model, which is never overwritten: choose another file" in line


def test_an_output_below_a_file(run: Run, model: Path) -> None:
    (model.parent / "file").write_text("in the way")
    line = refused(run, model, "-o", model.parent / "file" / "out.onnx")
    assert f"{model.parent / 'file' / 'out.onnx'} cannot be written" in line


def test_an_output_where_nobody_may_write(run: Run, model: Path, tmp_path: Path) -> None:
    if os.geteuid() == 0:
        if not sys.platform.startswith("linux"):
            pytest.skip("root may write everywhere")
        place = Path("/proc/self/net.opt.onnx")
    else:
        (tmp_path / "closed").mkdir(mode=0o555)
        place = tmp_path / "closed" / "out.onnx"
    assert f"{place} cannot be written" in refused(run, model, "-o", place)


@pytest.mark.parametrize(
    "where", ["folder", "below a file", "input", "link to the input", "output"]
)
def test_a_report_that_cannot_be_written(run: Run, model: Path, where: str) -> None:
    (model.parent / "file").write_text("in the way")
    (model.parent / "link.json").symlink_to(model)
    report = {
        "folder": model.parent,
        "below a file": model.parent / "file" / "report.json",
        "input": model,
        "link to the input": model.parent / "link.json",
        "output": model.parent / "net.opt.onnx",
    }[where]
    assert str(report) in refused(run, model, "--report", report)


def test_a_dry_run_writes_no_report(run: Run, model: Path) -> None:
    line = refused(run, model, "--dry-run", "--report", model.parent / "report.json")
    assert "--dry-run" in line


# Passes that fail -----------------------------------------------------------------------------


def test_a_result_that_is_not_equivalent(
    run: Run, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, NegateOutput)
    before = files(model.parent)
    report = model.parent / "report.json"
    left = run("optimize", model, "--pipeline", "negate-output", "--report", report)
    assert left.code == 1
    assert left.out == ""
    line = one_line(left.err)
    assert f"{model}: the optimized model is not equivalent: on " in line
    assert "nothing was written" in line
    assert "--verify-each" in line
    assert files(model.parent) == before


def test_verify_each_names_the_guilty_pass(
    run: Run, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, NegateOutput)
    left = run("optimize", model, "--pipeline", "fold-norm,negate-output,dce", "--verify-each")
    assert left.code == 2
    line = one_line(left.err)
    assert "the pass 'negate-output' (after fold-norm) failed: negate-output breaks the mod" in line
    assert not (model.parent / "net.opt.onnx").exists()


def test_no_verify_writes_it_nevertheless(
    run: Run, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, NegateOutput)
    left = run("optimize", model, "--pipeline", "negate-output", "--no-verify")
    assert left.code == 0
    assert "Equivalence was not checked (--no-verify)" in " ".join(left.out.split())
    assert (model.parent / "net.opt.onnx").exists()


def test_a_pass_that_raises_leaves_a_reproducer(
    run: Run, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, Explode)
    left = run("optimize", model, "--pipeline", "fold-norm,explode{fuse=5}")
    assert left.code == 2
    line = one_line(left.err)
    assert "the pass 'explode' (after fold-norm) failed: ZeroDivisionError: the fuse was 5" in line
    (crash,) = (path for path in model.parent.iterdir() if path.is_dir())
    assert crash.name.startswith("graphopt-crash-")
    assert f"graphopt optimize {crash / 'model.onnx'} --pipeline" in line

    pipeline = (crash / "pipeline.txt").read_text().strip()
    again = run("optimize", crash / "model.onnx", "--pipeline", pipeline, "--debug")
    assert again.code == 2
    assert "failed: ZeroDivisionError: the fuse was 5" in again.err.splitlines()[-1]
    assert "Traceback" in again.err


def test_a_dry_run_leaves_not_even_a_reproducer(
    run: Run, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, Explode)
    before = files(model.parent)
    left = run("optimize", model, "--pipeline", "explode", "--dry-run")
    assert left.code == 2
    one_line(left.err)
    assert files(model.parent) == before


def test_an_error_of_ours_says_so_in_one_line(
    run: Run, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise LookupError("a sentence\nover two lines")

    monkeypatch.setattr("graphopt.optimizer.cost_model", broken)
    left = run("optimize", model)
    assert left.code == 3
    line = one_line(left.err)
    assert "internal error (LookupError: a sentence over two lines)" in line
    assert "--debug" in line


def test_a_model_that_no_runtime_takes_is_still_optimized(run: Run, tmp_path: Path) -> None:
    """Not run is not different: the claims were checked, and the sentence says what was not."""
    nodes = [
        helper.make_node("Mystery", ["x"], ["a"], domain="nobody"),
        helper.make_node("Add", ["one", "one"], ["two"]),
        helper.make_node("Mul", ["a", "two"], ["b"]),
        helper.make_node("Neg", ["x"], ["dead"]),
        helper.make_node("Identity", ["b"], ["y"]),
    ]
    path = tmp_path / "foreign.onnx"
    x = {"x": (np.float32, ("N", 4))}
    onnx.save(
        plain_model(nodes, x, ["y"], {"one": np.ones(4, np.float32)}, domains=["nobody"]), path
    )
    left = run("optimize", path)
    assert left.code == 0
    assert "Traceback" not in left.err


# Subcommands of plug-ins that are broken -------------------------------------------------------


def test_a_broken_subcommand_stands_in_nobodys_way(run: Run, site: Path, model: Path) -> None:
    package(site, "shards", "1 / 0", commands="shatter = shards:run")
    fine = run("inspect", model, "--json")
    assert fine.code == 0
    assert json.loads(fine.out)
    sentence = "the plug-in 'shatter' (shards:run) cannot be loaded: ZeroDivisionError"
    assert sentence in one_line(fine.err)
    assert "Usage: graphopt" in run("--help").out

    broken = run("shatter", model)
    assert (broken.code, broken.out) == (2, "")
    assert sentence in one_line(broken.err)
    assert "Traceback" in run("--debug", "shatter").err


def test_the_name_of_a_broken_subcommand_is_a_word_like_any_other(
    run: Run, site: Path, model: Path
) -> None:
    package(site, "shards2", "1 / 0", commands="cpu = shards2:run")
    left = run("inspect", model, "--target", "cpu", "--json")
    assert left.code == 0
    assert json.loads(left.out)
    assert "the plug-in 'cpu'" in one_line(left.err)


@pytest.mark.parametrize("source", ["run = 3", "def run(what: int | str): ..."])
def test_a_subcommand_that_is_none(run: Run, site: Path, model: Path, source: str) -> None:
    name = f"nothing{len(source)}"
    package(site, name, source, commands=f"nothing = {name}:run")
    fine = run("inspect", model, "--json")
    assert fine.code == 0
    assert "the plug-in 'nothing'" in one_line(fine.err)
    assert run("nothing").code == 2


def test_a_subcommand_in_a_package_of_ours_that_is_hidden(
    run: Run, site: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user's folder `training_hooks` is found before ours."""
    package(site, "training_hooks", "1 / 0", commands="train = training_hooks:run")
    monkeypatch.delitem(sys.modules, "training_hooks", raising=False)
    hidden = f"{site / 'training_hooks.py'} hides graphopt's own package 'training_hooks'"
    fine = run("inspect", model, "--json")
    assert fine.code == 0
    assert hidden in one_line(fine.err)
    left = run("train")
    assert (left.code, left.out) == (2, "")
    assert hidden in one_line(left.err)


# Ctrl-C ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["graphopt.plugins.commands", "graphopt.optimizer.cost_model"])
def test_interrupted(run: Run, model: Path, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the plug-ins are looked for, and at work (where typer catches it)."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(where, interrupted)
    before = files(model.parent)
    left = run("optimize", model, "-o", model.parent / "out.onnx")
    assert left.code == 130
    assert left.out == ""
    assert one_line(left.err) == "graphopt: stopped"
    assert files(model.parent) == before
