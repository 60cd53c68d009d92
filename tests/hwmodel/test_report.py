"""The formats of `graphopt cost`, with names that try to break out of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from graphopt.errors import GraphoptError
from hwmodel.budget import Finding
from hwmodel.report import FORMATS, render
from tests.support.estimates import made

EVIL = 'a[bold]\x1b[31m"<b>&]]>%0A::error::x\n|`'
FINDINGS = (
    Finding("limits.lut", 1000, 2000, "LUT", "", "ok", "1000 LUT, within 2000"),
    Finding("layer.lut", 800, 700, "LUT", EVIL, "over", f"{EVIL}: 800 LUT, over 700"),
    Finding("limits.deadlock_free", None, 1, "", "", "unknown", "not known"),
)
MODEL = Path("models/net, 1%.onnx")


def estimate() -> object:
    found = made()
    kernel = replace(found.kernels[0], name=EVIL, layer=EVIL)
    stream = replace(found.streams[0], name=EVIL, reason=EVIL)
    return replace(
        found,
        kernels=(kernel, found.kernels[1]),
        streams=(stream, found.streams[1]),
        warnings=(EVIL,),
    )


def shown(form: str, everything: bool = False) -> str:
    return render(estimate(), FINDINGS, form, model_path=MODEL, everything=everything)  # type: ignore[arg-type]


@pytest.mark.parametrize("form", FORMATS)
def test_no_format_lets_a_name_break_out(form: str) -> None:
    text = shown(form)
    assert "\x1b" not in text
    if form != "json":
        assert "\n::error::x" not in text


def test_the_table_says_what_matters() -> None:
    text = shown("table")
    assert max(map(len, text.splitlines())) <= 100
    for part in ("1,000 frames a second", "Z7020", "free of deadlock", "LUT", "skip", "Budget"):
        assert part in text, part
    assert "2 of 3 limits broken" in text
    assert "a[bold]" in text  # shown as it is, not as markup


def test_the_table_hides_shallow_fifos_unless_asked() -> None:
    assert "1 more with --all" in shown("table")
    assert "more with --all" not in shown("table", everything=True)


def test_json_holds_everything_and_comes_back() -> None:
    data = json.loads(shown("json"))
    assert data["resources"]["lut"] == 1000
    assert data["kernels"][0]["name"] == EVIL
    assert [finding["level"] for finding in data["findings"]] == ["ok", "over", "unknown"]
    assert shown("json") == shown("json")


def test_junit_has_a_case_for_each_limit() -> None:
    suite = ElementTree.fromstring(shown("junit")).find("testsuite")
    assert suite is not None
    assert (suite.get("tests"), suite.get("failures")) == ("3", "2")
    cases = suite.findall("testcase")
    assert [case.find("failure") is not None for case in cases] == [False, True, True]
    failure = cases[1].find("failure")
    assert failure is not None
    assert "800 LUT, over 700" in (failure.get("message") or "")


def test_sarif_has_a_result_for_each_broken_limit() -> None:
    log = json.loads(shown("sarif"))
    assert log["version"] == "2.1.0"
    (run,) = log["runs"]
    rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    assert sorted(rules) == rules
    assert len(run["results"]) == 2
    for result in run["results"]:
        assert rules[result["ruleIndex"]] == result["ruleId"]
        location = result["locations"][0]["physicalLocation"]
        assert location["artifactLocation"]["uri"] == "models/net%2C%201%25.onnx"
        assert location["region"]["startLine"] == 1


def test_github_commands_are_one_line_each() -> None:
    lines = [line for line in shown("github").splitlines() if line.startswith("::")]
    assert [line.split(" ")[0] for line in lines] == ["::notice", "::error", "::error", "::warning"]
    assert all("file=models/net%2C 1%25.onnx" in line for line in lines)


def test_an_unknown_format_gets_a_sentence() -> None:
    with pytest.raises(GraphoptError, match="is no format"):
        shown("yaml")
