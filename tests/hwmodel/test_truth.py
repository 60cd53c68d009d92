"""The simulator against RTL: records of our own runs of FINN's RTL, and the shared ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hwmodel import truth

OWN = Path(__file__).parent / "data" / "rtl_records.jsonl"
"""Made by `benchmarks/rtl_truth.py`: FINN's RTL in Verilator, networks drawn at random."""


def test_every_own_record_is_exact() -> None:
    wrong = {
        number: differences
        for number, record in enumerate(truth.records(OWN), 1)
        if (differences := truth.check(record))
    }
    assert not wrong
    kinds = [record.get("kind", "block") for record in truth.records(OWN)]
    assert {"block", "inverted_residual", "residual_threshold", "chain"} <= set(kinds)
    assert len(kinds) > 100


@pytest.mark.parametrize("kind", ["blocks", "depthwise", "threshold", "chain", "swg_hang"])
def test_every_shared_record_is_exact(
    shared: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = shared / "truth" / f"finn_rtl_{kind}.jsonl"
    count = len(path.read_text().splitlines())
    assert truth.main([str(path)]) == 0
    assert f"exact {count} of {count}" in capsys.readouterr().out


def changed(tmp_path: Path, **fields: object) -> str:
    """The first own record with other numbers in its first run, as a file."""
    record = json.loads(OWN.read_text().splitlines()[0])
    record["runs"][0] |= fields
    path = tmp_path / "changed.jsonl"
    path.write_text(json.dumps(record) + "\n")
    return str(path)


@pytest.mark.parametrize(
    "fields", [{"frame_cycles": [1, 2, 3]}, {"status": "DEAD"}, {"max_occupancy": 0}]
)
def test_a_wrong_number_is_found(
    tmp_path: Path, fields: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    assert truth.main([changed(tmp_path, **fields)]) == 1
    shown = capsys.readouterr()
    assert "exact 0 of 1" in shown.out
    assert "instead of" in shown.err


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "no JSON"), ("[1]", "no record"), ('{"runs": [], "H": 4}', "no field")],
)
def test_bad_files_get_a_sentence(
    tmp_path: Path, text: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(text)
    assert truth.main([str(path)]) == 2
    assert message in capsys.readouterr().err


def test_a_missing_file_gets_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert truth.main(["/nowhere/file.jsonl"]) == 2
    assert "cannot be read" in capsys.readouterr().err
    assert truth.main([]) == 2
