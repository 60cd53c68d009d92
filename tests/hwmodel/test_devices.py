"""Devices: names, files of the user's, utilisation, and the command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from graphopt.errors import GraphoptError, TargetError
from hwmodel.commands.devices import devices as command
from hwmodel.devices import device, devices, load
from hwmodel.resources import Resources

GOOD = """
name = "Mine"
family = "7series"
lut = 20800
ff = 41600
bram36 = 50
dsp = 90
aliases = ["Basys"]
"""

FINN_BOARDS = (
    "Ultra96 Ultra96-V2 Pynq-Z1 Pynq-Z2 ZCU102 ZCU104 ZCU111 RFSoC2x2 RFSoC4x2 KV260_SOM "
    "AUP-ZU3_8GB U50 U200 U250 U280 U55C VEK280 VCK190 V80"
)


@pytest.mark.parametrize("board", FINN_BOARDS.split())
def test_finns_board_names_in_any_case(board: str) -> None:
    assert device(board) == device(board.lower()) == device(f" {board.upper()} ")


@pytest.mark.parametrize(
    ("board", "part", "dsp_kind"),
    [
        ("Pynq-Z1", "xc7z020clg400-1", "DSP48E1"),
        ("Ultra96-V2", "xczu3eg-sbva484-1-i", "DSP48E2"),
        ("U250", "xcu250-figd2104-2L-e", "DSP48E2"),
        ("V80", "xcv80-lsva4737-2MHP-e-s", "DSP58"),
    ],
)
def test_parts_and_multipliers(board: str, part: str, dsp_kind: str) -> None:
    assert device(part) is device(board)
    assert device(board).dsp_kind == dsp_kind


def test_numbers_of_the_table() -> None:
    zcu104 = device("ZCU104")
    assert (zcu104.lut, zcu104.ff, zcu104.bram18, zcu104.uram, zcu104.dsp) == (
        (230400, 460800, 624, 96, 1728)
    )
    assert device("pynq-z2").uram == 0


def test_every_device_is_sound() -> None:
    known = devices()
    names = [n.lower() for d in known for n in {d.name, d.part, *d.aliases}]
    assert len(names) == len(set(names)), "a name means two devices"
    for one in known:
        assert one.source
        assert one.ff == pytest.approx(2 * one.lut, rel=0.01)


def test_unknown_name_says_what_comes_close() -> None:
    with pytest.raises(TargetError, match=r"'zcu14'.*ZCU104"):
        device("zcu14")
    with pytest.raises(GraphoptError, match=r"'qqq'.*known are K26, .*--device FILE.toml"):
        device("qqq")


def test_utilisation() -> None:
    shares = device("Pynq-Z1").utilisation(Resources(lut=5320, ff=10640, bram18=70, dsp=22))
    assert shares == {"lut": 0.1, "ff": 0.1, "bram18": 0.25, "uram": 0.0, "dsp": 0.1}
    assert device("Pynq-Z1").utilisation(Resources(uram=1))["uram"] == float("inf")


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(GOOD)
    mine = load(path)
    assert (mine.name, mine.bram18, mine.uram, mine.dsp_kind) == ("Mine", 100, 0, "DSP48E1")
    assert mine.aliases == ("Basys",)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("lut = 20800", "lut = 0"), r"field 'lut' should be greater than 0, not 0"),
        (("lut = 20800", "lut = -5"), r"field 'lut' should be greater than 0, not -5"),
        (("lut = 20800", 'lut = "many"'), r"field 'lut' should be a valid integer, not 'many'"),
        (("lut = 20800", "lut = 1.5"), r"field 'lut' should be a valid integer"),
        (("lut = 20800\n", ""), r"field 'lut' is missing"),
        (("dsp = 90", "dsps = 90"), r"field 'dsp' is missing; field 'dsps' is unknown"),
        (
            ("7series", "spartan3"),
            r"field 'family' should be '7series', 'ultrascale\+' or 'versal'",
        ),
        (('name = "Mine"', 'name = ""'), r"field 'name'"),
        (("lut = 20800", "lut = "), r"is no TOML"),
    ],
)
def test_a_wrong_file_is_one_sentence(tmp_path: Path, change: tuple[str, str], says: str) -> None:
    path = tmp_path / "board.toml"
    path.write_text(GOOD.replace(*change))
    with pytest.raises(TargetError, match=rf"board\.toml .*{says}") as caught:
        load(path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(".")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=r"none\.toml cannot be read: No such file"):
        load(tmp_path / "none.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TargetError, match=r"bytes\.toml cannot be read: it is no text"):
        load(tmp_path / "bytes.toml")


@pytest.fixture
def app() -> typer.Typer:
    made = typer.Typer()
    made.command()(command)
    return made


def test_the_command_lists_all(app: typer.Typer) -> None:
    result = CliRunner().invoke(app, [])
    assert result.exit_code == 0
    for one in devices():
        assert one.name in result.stdout


def test_the_command_as_json(app: typer.Typer, tmp_path: Path) -> None:
    listed = json.loads(CliRunner().invoke(app, ["--format", "json"]).stdout)
    assert [one["name"] for one in listed] == [one.name for one in devices()]
    assert all(one["source"] for one in listed)
    path = tmp_path / "mine.toml"
    path.write_text(GOOD)
    result = CliRunner().invoke(app, ["--device", str(path), "--format", "json"])
    (mine,) = json.loads(result.stdout)
    assert mine["name"] == "Mine"
    assert mine["bram18"] == 100


def test_the_command_names_what_is_wrong(app: typer.Typer, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(GOOD.replace("dsp = 90", ""))
    result = CliRunner().invoke(app, ["--device", str(path)])
    assert isinstance(result.exception, TargetError)
    assert "field 'dsp' is missing" in str(result.exception)
