"""The CI examples: the commands in them run, the files are what they say."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import yaml

from graphopt.cli.main import main
from hwmodel.budget import Budget

FOLDER = Path(__file__).parents[2] / "examples" / "ci"
MODEL = Path(__file__).parents[2] / "examples" / "models" / "digits_mobilenetv2.onnx"


def leaves(arguments: list[str]) -> int:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    return int(left.value.code or 0)


def test_the_budget_is_one() -> None:
    budget = Budget.load(FOLDER / "budget.toml")
    assert budget.limits.deadlock_free
    assert budget.limits.lut == "70%"


def test_the_workflow_and_the_action_name_real_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workflow = yaml.safe_load((FOLDER / "workflow.yml").read_text())
    (step,) = [
        step["run"]
        for step in workflow["jobs"]["cost"]["steps"]
        if "graphopt cost" in step.get("run", "")
    ]
    words = shlex.split(step)[1:]
    words[1] = str(MODEL)
    words[words.index("--budget") + 1] = str(FOLDER / "budget.toml")
    monkeypatch.chdir(tmp_path)
    assert leaves(words) == 0
    assert (tmp_path / "cost.sarif").is_file()
    action = yaml.safe_load((FOLDER / "action.yml").read_text())
    run = action["runs"]["steps"][-1]["run"]
    values = {
        "$MODEL": str(MODEL),
        "$TARGET": "finn:ZCU104",
        "$BUDGET": str(FOLDER / "budget.toml"),
    }
    filled = [values.get(word, word) for word in shlex.split(run)[1:]]
    filled[filled.index("$OPTIONS") : filled.index("$OPTIONS") + 1] = [
        "--bits",
        "w4a4",
        "--fps",
        "1000",
    ]
    assert leaves(filled) == 0


def test_the_hook_runs_with_a_file_behind_it() -> None:
    (hook,) = yaml.safe_load((FOLDER / "pre-commit-hooks.yaml").read_text())
    words = shlex.split(hook["entry"])[1:]
    words[words.index("--budget") + 1] = str(FOLDER / "budget.toml")
    assert leaves([*words, str(MODEL)]) == 0
