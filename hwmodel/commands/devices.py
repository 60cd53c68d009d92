"""`graphopt devices`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from graphopt.cli.console import out, print_json


class Format(StrEnum):
    """How to print."""

    TABLE = "table"
    JSON = "json"


def devices(
    device: Annotated[
        Path | None,
        typer.Option("--device", help="A TOML file that describes a device: check and show it."),
    ] = None,
    form: Annotated[Format, typer.Option("--format", help="How to print.")] = Format.TABLE,
) -> None:
    """List the FPGAs that costs can be counted for, with their resources and board names."""
    import dataclasses

    from graphopt.report.tables import table
    from hwmodel import devices as known

    listed = known.devices() if device is None else (known.load(device),)
    if form is Format.JSON:
        print_json([dataclasses.asdict(one) for one in listed])
        return
    shown = table(
        "Devices",
        "device",
        "boards",
        "family",
        ">LUT",
        ">FF",
        ">BRAM36",
        ">URAM",
        ">DSP",
        "kind",
    )
    for one in listed:
        boards = ", ".join(a for a in one.aliases if not a.lower().startswith("xc"))
        counts = (one.lut, one.ff, one.bram18 // 2, one.uram, one.dsp)
        shown.add_row(one.name, boards, one.family, *(f"{n:,}" for n in counts), one.dsp_kind)
    console = out()
    console.print(shown)
    if device is None:
        console.print("Sources and part names: --format json. Your own: --device FILE.toml.")
