"""The formats of `graphopt cost`, with names that try to break out of them."""

from __future__ import annotations

import html
import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from graphopt.errors import GraphoptError
from hwmodel.budget import Finding
from hwmodel.estimates import Estimate
from hwmodel.report import FORMATS, markdown, render
from hwmodel.resources import Resources
from tests.support.estimates import made

EVIL = 'a[bold]\x1b[31m"<b>&]]>%0A::error::x\n|`:warning:\u202e\x9b'
FINDINGS = (
    Finding("limits.lut", 1000, 2000, "LUT", "", "ok", "1000 LUT, within 2000"),
    Finding("layer.lut", 800, 700, "LUT", EVIL, "over", f"{EVIL}: 800 LUT, over 700"),
    Finding("limits.deadlock_free", None, 1, "", "", "unknown", "not known"),
)
MODEL = Path("models/net, 1%.onnx")


def estimate() -> Estimate:
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
    return render(estimate(), FINDINGS, form, model_path=MODEL, everything=everything)


@pytest.mark.parametrize("form", FORMATS)
def test_no_format_lets_a_name_break_out(form: str) -> None:
    text = shown(form)
    for character in "\x1b\x9b\u202e":
        assert character not in text
    assert "\n::error::x" not in text
    render(made(), FINDINGS, form, model_path=Path("a\udcff.onnx")).encode()


def test_the_table_is_plain_wherever_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = shown("table")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "40")
    assert shown("table") == plain
    assert ":warning:" in render(  # and not an emoji
        made(warnings=(":warning:",)), (), "table", model_path=MODEL
    )


@pytest.mark.parametrize("name", ["::stop-commands::x", "##[error]x", "x" * 35 + "::error::y"])
@pytest.mark.parametrize("form", ["table", "junit", "github"])
def test_no_name_is_a_command_to_a_github_runner(form: str, name: str) -> None:
    found = made()
    kernel, stream = found.kernels[0], found.streams[0]
    found = replace(
        found,
        kernels=(replace(kernel, name=name, layer=name),),
        streams=(replace(stream, name=name, reason=f"{name} " * 9),),
    )
    findings = (Finding("layer.lut", 8, 9, "LUT", name, "ok", f"{name}: 8 LUT"),)
    for line in render(found, findings, form, model_path=Path("net.onnx")).splitlines():
        if form != "github" or not line.startswith("::notice "):
            assert not line.lstrip().startswith("::"), line
            assert form == "junit" or "##[" not in line, line


def test_the_table_says_what_matters() -> None:
    text = shown("table")
    assert max(map(len, text.splitlines())) <= 100
    for part in ("1,000 frames a second", "Z7020", "free of deadlock", "LUT", "skip", "Budget"):
        assert part in text, part
    assert "2 of 3 limits broken" in text
    assert "UNKNOWN" in text
    assert text == "\n".join(line.rstrip() for line in text.splitlines()) + "\n"
    assert "a[bold]" in text  # shown as it is, not as markup


def test_the_table_hides_shallow_fifos_unless_asked() -> None:
    assert "1 more with --all" in shown("table")
    assert "more with --all" not in shown("table", everything=True)


def test_the_table_stays_narrow_and_short_with_a_large_design() -> None:
    found = made()
    large = Resources(lut=123_456, ff=234_567, bram18=1_234, uram=123, dsp=1_234)
    kernels = [
        replace(
            found.kernels[0], name=f"k{i}", layer=f"/model/stage3/block{i}/residual/conv",
            folding="PE 128, SIMD 128", cycles=12_345_678, resources=large,
        )
        for i in range(60)
    ]  # fmt: skip
    streams = [
        replace(
            found.streams[0], name=f"/model/stage3/block{i}.fork.out1", depth=12_345, width=1_024,
            style="lutram", resources=large, reason="holds 2 rows of conv1 + 2 rows of conv2",
        )
        for i in range(60)
    ]  # fmt: skip
    estimate = replace(found, kernels=tuple(kernels), streams=tuple(streams))
    short = render(estimate, FINDINGS, "table", model_path=MODEL)
    long = render(estimate, FINDINGS, "table", model_path=MODEL, everything=True)
    for text in (short, long):
        assert max(map(len, text.splitlines())) <= 100
        for whole in ("12,345,678", "123,456", "234,567", "12,345 × 1024"):
            assert whole in text, whole
    assert short.count("50 more with --all") == 2
    assert len(short.splitlines()) < 90
    assert all(f"block{i}/residual" in long for i in range(60))
    assert "over" in short.split("Layers")[0]  # than the device has


def test_json_holds_everything_and_comes_back() -> None:
    data = json.loads(shown("json"))
    assert data["resources"]["lut"] == 1000
    assert data["kernels"][0]["name"] == EVIL
    assert [finding["level"] for finding in data["findings"]] == ["ok", "over", "unknown"]
    assert shown("json") == shown("json")
    assert data["findings"][1]["quantity"] == "lut"
    assert {key: data[key] for key in made().to_json()} == json.loads(
        json.dumps(estimate().to_json())
    )


def test_junit_has_a_case_for_each_limit() -> None:
    suite = ElementTree.fromstring(shown("junit")).find("testsuite")
    assert suite is not None
    assert suite.get("name") == "graphopt cost models/net, 1%.onnx finn:Pynq-Z1"
    assert (suite.get("tests"), suite.get("failures")) == ("3", "2")
    cases = suite.findall("testcase")
    assert [case.find("failure") is not None for case in cases] == [False, True, True]
    failure = cases[1].find("failure")
    assert failure is not None
    assert "800 LUT, over 700" in (failure.get("message") or "")
    assert cases[1].get("name") == 'layer.lut[a[bold]?[31m"<b>&]]>%0A::error::x\n|`:warning:??]'
    for case in cases:
        assert {"name", "classname", "time"} <= set(case.keys())


def test_sarif_has_a_result_for_each_broken_limit() -> None:
    log = json.loads(shown("sarif"))
    assert log["version"] == "2.1.0"
    assert "sarif-2.1.0" in log["$schema"]
    (run,) = log["runs"]
    rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    assert sorted(rules) == rules
    assert len(rules) == len(set(rules)) == 3
    assert all(rule["shortDescription"]["text"] for rule in run["tool"]["driver"]["rules"])
    assert run["automationDetails"]["id"] == "graphopt-cost/models/net%2C%201%25.onnx/"
    assert len(run["results"]) == 2
    text = run["results"][0]["message"]["text"]
    assert text.startswith("a\\[bold\\]?\\[31m")  # brackets would make a link of a name
    assert run["results"][0]["locations"][0]["logicalLocations"][0]["fullyQualifiedName"] == EVIL
    for result in run["results"]:
        assert rules[result["ruleIndex"]] == result["ruleId"]
        location = result["locations"][0]["physicalLocation"]
        assert location["artifactLocation"]["uri"] == "models/net%2C%201%25.onnx"
        assert location["region"]["startLine"] == 1
        assert result["level"] == "error"


@pytest.mark.parametrize(
    ("path", "uri"),
    [
        ("/work/net.onnx", "file:///work/net.onnx"),
        ("a:b/ü#?.onnx", "a%3Ab/%C3%BC%23%3F.onnx"),
        ("a\udcff.onnx", "a%FF.onnx"),
    ],
)
def test_sarif_names_the_model_by_a_valid_uri(path: str, uri: str) -> None:
    log = json.loads(render(made(), FINDINGS, "sarif", model_path=Path(path)))
    (location, *_) = log["runs"][0]["results"][0]["locations"]
    assert location["physicalLocation"]["artifactLocation"]["uri"] == uri


def test_sarif_without_a_broken_limit_has_no_result() -> None:
    log = json.loads(render(made(), FINDINGS[:1], "sarif", model_path=MODEL))
    assert log["runs"][0]["results"] == []


def test_github_commands_are_one_line_each() -> None:
    lines = shown("github").splitlines()
    starts = [line.split(" ")[0] for line in lines]
    assert starts == ["::notice", "ok", "::error", "::error", "::warning"]
    assert all("file=models/net%2C 1%25.onnx," in line for line in lines if line[0] == ":")
    assert "title=graphopt cost%2C finn%3APynq-Z1::" in lines[0]
    assert "%250A::error::x%0A|`" in lines[2]


def test_the_summary_shows_names_as_they_are() -> None:
    text = markdown(estimate(), FINDINGS, MODEL)
    assert "2 of 3 limits broken" in text
    assert "| LUT | 1,000 | 53,200 | 1.9 % |" in text
    assert "| URAM | 0 | 0 |  |" in text
    rows = [line for line in text.splitlines() if line.startswith("| layer")]
    (row,) = rows
    assert row.count("|") == 4
    cell = row.split("|")[3]
    assert not set(cell) & set("<>[]()*_`~@:/\\")
    assert html.unescape(cell).strip() == (
        'a[bold]?[31m"<b>&]]>%0A::error::x?|`:warning:??: 800 LUT, over 700'
    )
    assert "Budget: kept" in markdown(made(), FINDINGS[:1], MODEL)
    assert "Budget" not in markdown(made(), (), MODEL)


def test_an_unknown_format_gets_a_sentence() -> None:
    with pytest.raises(GraphoptError, match="is no format"):
        shown("yaml")
