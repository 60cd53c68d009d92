"""`graphopt export`: what FINN or hls4ml wants to read."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from graphopt.cli.console import ModelArgument, out
from graphopt.cli.places import check_place, write_text
from hwmodel.commands.cost import Sizing


class Tool(StrEnum):
    """Who reads it."""

    FINN = "finn"
    HLS4ML = "hls4ml"


class Dialect(StrEnum):
    """Which FINN: they name operators and write FIFOs differently."""

    FINN_PLUS = "finn-plus"
    FINN = "finn"


def export(
    tool: Annotated[Tool, typer.Argument(help="finn or hls4ml.")],
    model: ModelArgument,
    folder: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder; beside the model by default.")
    ] = None,
    bits: Annotated[str | None, typer.Option(help="Widths for a model without any: w4a4.")] = None,
    fps: Annotated[float | None, typer.Option(help="Frames a second to fold for.")] = None,
    clock: Annotated[float, typer.Option(help="Clock in MHz.")] = 100.0,
    folding: Annotated[Path | None, typer.Option(help="FINN's folding configuration.")] = None,
    sizing: Annotated[Sizing, typer.Option(help="How FIFO depths are found.")] = Sizing.JOINT,
    dialect: Annotated[
        Dialect, typer.Option(help="For finn-plus, or for Xilinx/finn.")
    ] = Dialect.FINN_PLUS,
) -> None:
    """Write folding and FIFO depths for FINN, or a configuration for hls4ml."""
    from hwmodel.estimator import design_of, sized

    where = folder or model.parent
    if where.exists() and not where.is_dir():
        raise typer.BadParameter(f"{where} is no folder.")
    design = design_of(model, bits=bits, folding=folding, fps=fps, clock_mhz=clock)
    fitted = sized(design, sizing.value).design
    files: dict[str, Any]
    if tool is Tool.FINN:
        from hwmodel.finn.config import fifo_json, folding_json

        foldings = folding_json(fitted, dialect=dialect.value)
        fifos = fifo_json(fitted, dialect.value)
        if dialect is Dialect.FINN:
            # Its FIFOs stand in the folding file, beside the other nodes.
            files = {f"{model.stem}.folding.json": {**foldings, **fifos}}
        else:
            files = {f"{model.stem}.folding.json": foldings, f"{model.stem}.fifos.json": fifos}
    else:
        from hwmodel.hls4ml import configuration

        files = {f"{model.stem}.hls4ml.json": configuration(fitted)}
    for name in files:
        check_place(where / name, model)
    console = out()
    for name, content in files.items():
        write_text(where / name, json.dumps(content, indent=2) + "\n")
        console.print(f"wrote {where / name}")
