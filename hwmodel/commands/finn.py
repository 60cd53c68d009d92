"""`graphopt finn`: FINN itself, in an environment of its own."""

from __future__ import annotations

import tempfile
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from graphopt.cli.console import out


class Action(StrEnum):
    """What to do."""

    SETUP = "setup"
    ESTIMATE = "estimate"


def finn(
    action: Annotated[
        Action, typer.Argument(help="setup: install it; estimate: run its stock steps on models.")
    ],
    models: Annotated[
        list[Path] | None, typer.Argument(help="ONNX models, to stand side by side.")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option("-o", "--output", help="Keeps FINN's reports there.")
    ] = None,
    board: Annotated[str, typer.Option(help="As FINN calls it.")] = "ZCU104",
    clock: Annotated[float, typer.Option(help="Clock in MHz.")] = 100.0,
    fps: Annotated[int | None, typer.Option(help="Frames a second that FINN folds for.")] = None,
    limit: Annotated[float, typer.Option(help="Seconds after which FINN is stopped.")] = 600.0,
) -> None:
    """Install FINN in an environment of its own, or let it judge and estimate models.

    The environment is in $GRAPHOPT_FINN, or else in ~/.local/share/graphopt/finn; it takes about
    3 GB. An estimate runs FINN's stock estimate-only steps, without any tool of AMD's.
    """
    from graphopt.report.tables import table
    from hwmodel.finn import bridge

    console = out()
    if action is Action.SETUP:
        bridge.setup(bridge.environment(), lambda text: console.print(f"installing {text}"))
        console.print(f"FINN is in {bridge.environment()}.")
        return
    if not models:
        raise typer.BadParameter("name the models to estimate.")
    for model in models:
        if not model.is_file():
            raise typer.BadParameter(f"{model} is not there.")
    shown = table("FINN's stock steps", "model", "verdict", ">layers", ">LUT", ">BRAM18",
                  ">DSP", ">fps")  # fmt: skip
    rejected = 0
    with tempfile.TemporaryDirectory() as scratch:
        for model in models:
            where = (folder or Path(scratch)) / model.stem
            found = bridge.estimate(
                model, where, board=board, clock_mhz=clock, fps=fps, limit=limit
            )
            if found.accepted:
                counts = [found.resources[key] for key in ("LUT", "BRAM_18K", "DSP")]
                row = [str(found.layers), *(f"{n:,.0f}" for n in counts), f"{found.fps:,.1f}"]
                shown.add_row(model.name, "accepted", *row)
            else:
                rejected += 1
                verdict = f"rejected at {found.step}: {found.reason}"
                shown.add_row(model.name, verdict, *[""] * 5)
    console.print(shown)
    if rejected:
        raise typer.Exit(1)
