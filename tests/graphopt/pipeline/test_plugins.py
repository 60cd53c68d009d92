"""Entry points: clashes, broken packages, and folders of the user's that hide ours."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from graphopt import plugins
from graphopt.cost import PlainCounts, cost_model
from graphopt.errors import PipelineError, TargetError
from graphopt.pipeline import Pipeline
from tests.support.models import residual_mlp
from tests.support.packages import graphopt, one_line, package

PASS = """
from dataclasses import dataclass
from typing import ClassVar

from graphopt.pipeline import PassResult

@dataclass(frozen=True)
class Mine:
    \"\"\"Does nothing. It does it well.

    More of it.
    \"\"\"
    name: ClassVar[str] = "mine"
    preserves: ClassVar[frozenset[str]] = frozenset()
    def run(self, model, context):
        return PassResult()

MINE = "mine,dce"
"""

COST = """
from graphopt.cost import PlainCounts
class Toaster(PlainCounts):
    name = "toaster"
    def serves(self, target):
        return target == "toaster"
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on `sys.path` for packages."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    return folder


def test_a_strangers_pass_and_preset(site: Path) -> None:
    package(site, "stranger1", PASS, passes="mine = stranger1:Mine", presets="me = stranger1:MINE")
    assert "mine" in plugins.passes()
    assert list(plugins.passes()) == sorted(plugins.passes())
    assert plugins.preset("me") == "mine,dce"
    assert [one.name for one in Pipeline.parse(plugins.preset("me")).passes] == ["mine", "dce"]


def test_a_strangers_cost_model(site: Path) -> None:
    assert isinstance(cost_model("cpu"), PlainCounts)
    with pytest.raises(TargetError, match="no installed cost model knows the target 'toaster'"):
        cost_model("toaster")
    package(site, "stranger2", COST, cost_models="toaster = stranger2:Toaster")
    assert cost_model("toaster").name == "toaster"
    assert cost_model("cpu").name == "plain-counts"


def test_two_plugins_of_one_name_are_an_error_that_names_both(site: Path) -> None:
    package(site, "stranger3", PASS, passes="dce = stranger3:Mine")
    with pytest.raises(PipelineError, match="two plug-ins are called 'dce'") as error:
        plugins.passes()
    assert "stranger3:Mine" in str(error.value)
    assert "passes.cleanup:DeadCode" in str(error.value)
    assert str(error.value).endswith("uninstall one of them.")


def test_one_package_seen_twice_is_no_clash(site: Path, tmp_path: Path) -> None:
    package(site, "stranger4", PASS, passes="mine = stranger4:Mine")
    package(tmp_path / "copy", "stranger4", PASS, passes="mine = stranger4:Mine")
    (tmp_path / "copy" / "stranger4-1.0.dist-info").rename(site / "stranger4_copy-1.0.dist-info")
    (site / "stranger4_copy-1.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: stranger4-copy\nVersion: 1.0\n"
    )
    assert "mine" in plugins.passes()


@pytest.mark.parametrize(
    ("name", "source", "cause"),
    [
        ("broken1", "import no_such_module_anywhere", "No module named 'no_such_module_anywhere'"),
        ("broken2", "Other = 1", "has no attribute 'Mine'"),
        ("broken3", "class Mine(", "'(' was never closed"),
        ("broken4", "raise ValueError('two\\nlines')", "two lines"),
        ("broken5", "1 / 0", "division by zero"),
    ],
)
def test_a_broken_plugin_is_one_sentence(site: Path, name: str, source: str, cause: str) -> None:
    package(site, name, source, passes=f"{name} = {name}:Mine")
    with pytest.raises(PipelineError) as error:
        plugins.passes()[name].load()
    sentence = str(error.value)
    assert sentence.startswith(f"the plug-in '{name}' ({name}:Mine) cannot be loaded: ")
    assert cause in sentence
    assert "\n" not in sentence


def test_a_broken_plugin_stands_in_nobodys_way(tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    onnx.save(residual_mlp(), model)
    site = package(tmp_path / "site", "broken6", "1 / 0", passes="broken = broken6:Mine",
                   commands="shatter = broken6:run")  # fmt: skip

    fine = graphopt("optimize", model, "--preset", "clean", cwd=tmp_path, path=site)
    assert fine.returncode == 0
    assert one_line(fine.stderr).startswith("graphopt: the plug-in 'shatter' (broken6:run) cannot")

    for arguments in (("optimize", model, "--pipeline", "broken"), ("shatter", model)):
        bad = graphopt(*arguments, cwd=tmp_path, path=site)
        assert bad.returncode == 2
        assert bad.stdout == ""
        assert "ZeroDivisionError" in bad.stderr.splitlines()[-1]


def test_a_strangers_command(tmp_path: Path) -> None:
    source = "def greet(name: str):\n    '''Say hello.'''\n    print('hello', name)\n"
    site = package(tmp_path / "site", "stranger5", source, commands="hi = stranger5:greet")
    assert graphopt("hi", "you", cwd=tmp_path, path=site).stdout == "hello you\n"
    assert "Say hello." in graphopt("--help", cwd=tmp_path, path=site).stdout


@pytest.mark.parametrize("name", ["optimize", "inspect"])
def test_a_strangers_command_does_not_replace_ours(tmp_path: Path, name: str) -> None:
    source = "def run():\n    print('mine now')\n"
    site = package(tmp_path / "site", "stranger6", source, commands=f"{name} = stranger6:run")
    done = graphopt(name, "--help", cwd=tmp_path, path=site)
    assert "An ONNX model." in done.stdout
    assert "mine now" not in done.stdout


# Folders that hide our packages ---------------------------------------------------------------


def hiding(folder: Path, *, name: str = "passes", init: bool = True) -> Path:
    """A folder of the user's that is called like one of our packages."""
    (folder / name).mkdir(parents=True)
    (folder / name / "mine.py").write_text("")
    if init:
        (folder / name / "__init__.py").write_text("")
    return folder / name


@pytest.mark.parametrize("where", ["working directory", "PYTHONPATH"])
def test_a_folder_that_hides_ours_is_named(tmp_path: Path, where: str) -> None:
    model = tmp_path / "model.onnx"
    onnx.save(residual_mlp(), model)
    work, path = tmp_path / "work", tmp_path / "path"
    work.mkdir()
    path.mkdir()
    folder = hiding(work if where == "working directory" else path)
    for command in (("optimize", model), ("inspect", model), ("passes",)):
        done = graphopt(*command, cwd=work, path=path)
        assert done.returncode == 2
        assert done.stdout == ""
        line = one_line(done.stderr)
        assert str(folder) in line
        assert "hides graphopt's own package 'passes'" in line
        assert "rename it, or start graphopt from another folder" in line
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.onnx", "path", "work"]


def test_the_cure_that_the_sentence_names_works(tmp_path: Path) -> None:
    hiding(tmp_path / "work")
    (tmp_path / "elsewhere").mkdir()
    assert graphopt("passes", cwd=tmp_path / "elsewhere").returncode == 0
    (tmp_path / "work" / "passes").rename(tmp_path / "work" / "my_passes")
    assert graphopt("passes", cwd=tmp_path / "work").returncode == 0


def test_a_folder_without_init_hides_nothing(tmp_path: Path) -> None:
    hiding(tmp_path, init=False)
    assert graphopt("passes", cwd=tmp_path).returncode == 0


def test_a_module_that_hides_ours_is_named(tmp_path: Path) -> None:
    (tmp_path / "passes.py").write_text("")
    done = graphopt("passes", cwd=tmp_path)
    assert done.returncode == 2
    assert f"{tmp_path / 'passes.py'} hides graphopt's own package" in one_line(done.stderr)


def test_help_works_even_then(tmp_path: Path) -> None:
    hiding(tmp_path)
    done = graphopt("--help", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stderr == ""


def test_folders_of_other_names_do_no_harm(tmp_path: Path) -> None:
    hiding(tmp_path, name="models")
    assert graphopt("passes", cwd=tmp_path).returncode == 0


def test_only_our_packages_are_looked_at() -> None:
    plugins.check_not_shadowed("numpy")
    plugins.check_not_shadowed("no_such_package")
    for name in plugins.OWN_PACKAGES:
        plugins.check_not_shadowed(name)


@pytest.mark.parametrize(
    ("word", "expected"),
    [("defualt", " (did you mean 'default'?)"), ("zzz", ""), ("", "")],
)
def test_suggestion(word: str, expected: str) -> None:
    assert plugins.suggestion(word, ["default", "plain"]) == expected


def test_unknown_preset_and_analysis() -> None:
    with pytest.raises(PipelineError, match=r"'plian' \(did you mean 'plain'\?\); there are: "):
        plugins.preset("plian")
    with pytest.raises(PipelineError, match=r"no analysis is called 'skps' \(did you mean 'skips'"):
        plugins.analysis("skps")
