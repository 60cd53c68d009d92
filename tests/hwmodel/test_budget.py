"""Budgets: what they hold an estimate against, and what is wrong in a file."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from graphopt.errors import GraphoptError
from hwmodel.budget import Budget, Finding, check
from hwmodel.devices import device
from hwmodel.report import render
from hwmodel.resources import Resources
from tests.support.estimates import made


def load(tmp_path: Path, text: str) -> Budget:
    path = tmp_path / "budget.toml"
    path.write_text(text)
    return Budget.load(path)


def levels(findings: tuple[Finding, ...]) -> dict[str, str]:
    return {finding.rule: finding.level for finding in findings}


def test_limits_on_both_sides(tmp_path: Path) -> None:
    kept = load(
        tmp_path,
        """
        [limits]
        lut = 1000
        ff = "1%"
        bram18 = 10
        bram36 = 5
        dsp = "50%"
        fifo_bits = 416
        skip_bits = 400
        min_fps = 1000
        max_latency_ms = 3
        max_interval = 100_000
        deadlock_free = true
        """,
    )
    findings = check(made(), kept)
    assert set(levels(findings).values()) == {"ok"}
    assert len(findings) == 11
    broken = load(
        tmp_path,
        """
        [limits]
        lut = 999
        ff = "0.4%"
        bram18 = 9
        bram36 = 4.5
        dsp = 3
        fifo_bits = 415
        skip_bits = 399
        min_fps = 1000.5
        max_latency_ms = 2.9
        max_interval = 99_999
        deadlock_free = true
        """,
    )
    findings = check(made(deadlock_free=False), broken)
    assert set(levels(findings).values()) == {"over"}
    by_rule = {finding.rule: finding for finding in findings}
    assert by_rule["limits.ff"].limit == pytest.approx(425.6)
    assert by_rule["limits.bram36"].value == 5
    assert "0.4% of Z7020" in by_rule["limits.ff"].message
    assert "deadlocks" in by_rule["limits.deadlock_free"].message
    assert by_rule["limits.deadlock_free"].quantity == "deadlock_free"


def test_what_is_not_known_counts_as_broken_and_says_what_to_do(tmp_path: Path) -> None:
    budget = load(tmp_path, "[limits]\ndeadlock_free = true")
    (finding,) = check(made(deadlock_free=None), budget)
    assert finding.level == "unknown"
    assert "--simulate" in finding.message


def test_a_value_that_is_no_number_is_not_kept(tmp_path: Path) -> None:
    kernel = replace(made().kernels[0], resources=Resources(lut=math.nan))
    estimate = made(kernels=(kernel,))
    (tmp_path / "before.json").write_text(json.dumps(made().to_json()))
    text = "[limits]\nlut = 1000\n[regression]\nbaseline = 'before.json'\nlut = '5%'"
    assert levels(check(estimate, load(tmp_path, text))) == {
        "limits.lut": "unknown",
        "regression.lut": "unknown",
    }


def test_times_say_whether_they_were_simulated(tmp_path: Path) -> None:
    budget = load(tmp_path, "[limits]\nmin_fps = 1\nmax_interval = 200_000\nmax_latency_ms = 9")
    for finding in check(made(), budget):
        assert "not simulated" in finding.message
    for finding in check(made(simulated=True), budget):
        assert "simulated" not in finding.message


def test_large_numbers_are_written_out(tmp_path: Path) -> None:
    kernel = replace(made().kernels[0], resources=Resources(lut=2_345_678))
    (finding,) = check(made(kernels=(kernel,)), load(tmp_path, "[limits]\nlut = 2_000_000"))
    assert finding.message == "2,345,828 LUT, over the limit of 2,000,000"


def test_layers_and_streams_have_limits_of_their_own(tmp_path: Path) -> None:
    text = """
        [[layer]]
        name = "block/conv1"
        lut = {lut}
        cycles = 100_000
        [[stream]]
        name = "skip"
        depth = {depth}
        bits = 400
        """
    assert set(levels(check(made(), load(tmp_path, text.format(lut=850, depth=100)))).values()) == {
        "ok"
    }
    findings = check(made(), load(tmp_path, text.format(lut=849, depth=99)))
    assert levels(findings) == {
        "layer.lut": "over",
        "layer.cycles": "ok",
        "stream.depth": "over",
        "stream.bits": "ok",
    }
    assert {finding.where for finding in findings} == {"block/conv1", "skip"}
    with pytest.raises(GraphoptError, match="layer 'conv9' that is not there: did you mean 'conv1"):
        check(made(), load(tmp_path, '[[layer]]\nname = "conv9"\nlut = 1'))
    with pytest.raises(GraphoptError, match="stream 's9' that is not there"):
        check(made(), load(tmp_path, '[[stream]]\nname = "s9"\ndepth = 1'))


def test_regressions_against_a_baseline(tmp_path: Path) -> None:
    (tmp_path / "before.json").write_text(json.dumps(made().to_json()))
    budget = load(
        tmp_path,
        """
        [regression]
        baseline = "before.json"
        lut = "2%"
        bram18 = 0
        fps = "1%"
        fifo_bits = "0%"
        latency = "5%"
        """,
    )
    assert set(levels(check(made(), budget)).values()) == {"ok"}
    slower = check(made(interval=102_000, latency=320_000), budget)
    assert levels(slower)["regression.fps"] == "over"
    assert levels(slower)["regression.latency"] == "over"
    faster = check(made(interval=50_000), budget)
    assert set(levels(faster).values()) == {"ok"}
    kernel = replace(made().kernels[0], resources=Resources(lut=830, bram18=11))
    grown = check(made(kernels=(kernel, made().kernels[1])), budget)
    assert levels(grown)["regression.lut"] == "over"
    assert levels(grown)["regression.bram18"] == "over"


@pytest.mark.parametrize(
    ("allowed", "interval", "level"),
    [
        ('"1%"', 101_010, "ok"),  # 0.99999 % fewer frames
        ('"1%"', 101_011, "over"),
        ("10", 101_000, "ok"),  # 9.9 frames fewer
        ("10", 101_011, "over"),
        ('"0%"', 100_000, "ok"),
    ],
)
def test_frames_may_fall_by_what_is_allowed(
    tmp_path: Path, allowed: str, interval: int, level: str
) -> None:
    (tmp_path / "before.json").write_text(json.dumps(made().to_json()))
    budget = load(tmp_path, f"[regression]\nbaseline = 'before.json'\nfps = {allowed}")
    (finding,) = check(made(interval=interval), budget)
    assert finding.level == level, finding.message


def test_growth_from_nothing_is_over_any_share(tmp_path: Path) -> None:
    (tmp_path / "before.json").write_text(json.dumps(made().to_json()))
    kernel = replace(made().kernels[0], resources=Resources(uram=2))
    for allowed, level in (('"50%"', "over"), ("2", "ok"), ("1", "over")):
        budget = load(tmp_path, f"[regression]\nbaseline = 'before.json'\nuram = {allowed}")
        (finding,) = check(made(kernels=(kernel,)), budget)
        assert finding.level == level
        json.dumps(finding.value, allow_nan=False)
        (unchanged,) = check(made(), budget)
        assert unchanged.level == "ok"


def test_a_baseline_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "before.json").write_text(json.dumps(made().to_json()))
    budget = load(tmp_path, "[regression]\nbaseline = 'before.json'\nlut = '1%'")
    with pytest.raises(GraphoptError, match="its device is 'Z7020' and not 'ZU7EV'"):
        check(made(device=device("ZCU104")), budget)
    with pytest.raises(GraphoptError, match="its backend is 'streaming'"):
        check(made(backend="finn"), budget)
    check(made(simulated=True), budget)  # only resources are compared
    timed = load(tmp_path, "[regression]\nbaseline = 'before.json'\nfps = '1%'")
    with pytest.raises(GraphoptError, match="its simulated is False and not True"):
        check(made(simulated=True), timed)


def test_a_baseline_is_found_beside_the_budget_and_may_be_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "ci"
    folder.mkdir()
    report = render(made(), (), "json", model_path=Path("net.onnx"))
    (folder / "before.json").write_text(report)
    budget = load(folder, "[regression]\nbaseline = 'before.json'\nlut = '0%'")
    monkeypatch.chdir(tmp_path)
    assert [finding.level for finding in check(made(), budget)] == ["ok"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[limits]\nluts = 3", "'limits.luts' is no entry of a budget; did you mean lut?"),
        ("[limits]\nlut = -3", "must not be negative"),
        ('[limits]\nlut = "many"', "such as '80%'"),
        ('[limits]\nlut = "nan%"', "such as '80%'"),
        ('[limits]\nlut = "inf%"', "such as '80%'"),
        ("[limits]\nlut = nan", "'limits.lut' is nan, which is no number"),
        ("[limits]\nlut = inf", "'limits.lut' is inf"),
        ("[limits]\nlut = true", "'limits.lut' is True"),
        ("[limits]\nlut = [1]", "'limits.lut' is [1]"),
        ("[limits]\nmin_fps = 0", "'limits.min_fps' is 0, which must be more than 0"),
        ("[limits]\nmin_fps = inf", "limits.min_fps"),
        ('[limits]\nfifo_bits = "5%"', "limits.fifo_bits"),
        ('[limits]\ndeadlock_free = "yes"', "must be true or false"),
        ("[limit]\nlut = 3", "did you mean limits?"),
        ("limits = 3", "write [limits] above"),
        ("[layer]\nlut = 3", "write [[layer]] above"),
        ("layer = [3]", "write [[layer]] above"),
        ("[[layer]]\nlut = 3", "'layer.1.name' is missing"),
        ('[[stream]]\nname = "a"\nwords = 3', "'stream.1.words' is no entry"),
        ("[[layer]]\nname = 3\nlut = 3", "layer.1.name"),
        ("", "[limits] limits nothing"),
        ("[limits]\ndeadlock_free = false", "[limits] limits nothing"),
        ("[regression]\nbaseline = 'a.json'", "[regression] limits nothing"),
        ("[[layer]]\nname = 'conv1'", "[[layer]] 'conv1' limits nothing"),
        ("[limits]\nlut = 1\n[[stream]]\nname = 's'", "[[stream]] 's' limits nothing"),
        ("[regression]\nlut = '1%'", "regression.baseline"),
        ("lut = ", "no TOML"),
        ("folder = '/'", "no entry of a budget"),
    ],
)
def test_a_bad_file_gets_one_sentence(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(GraphoptError) as caught:
        load(tmp_path, text)
    assert message in str(caught.value)
    assert "budget.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        ("{", "no JSON"),
        ("{}", "no result of graphopt cost"),
        ("[]", "no result of graphopt cost"),
        (json.dumps(made().to_json() | {"fps": math.nan}), "no result of graphopt cost"),
        (json.dumps(made().to_json() | {"resources": {"lut": 1}}), "no result of graphopt cost"),
    ],
)
def test_a_bad_baseline_gets_one_sentence(
    tmp_path: Path, content: str | None, message: str
) -> None:
    if content is not None:
        (tmp_path / "b.json").write_text(content)
    budget = load(tmp_path, '[regression]\nbaseline = "b.json"\nlut = "1%"')
    with pytest.raises(GraphoptError, match=message):
        check(made(), budget)


def test_a_missing_budget_gets_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(GraphoptError, match="cannot be read"):
        Budget.load(tmp_path / "none.toml")
