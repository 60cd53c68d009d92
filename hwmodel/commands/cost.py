"""`graphopt cost`: what a model costs on a target, and whether it still fits."""

from __future__ import annotations

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from graphopt.cli.console import ModelArgument
from graphopt.cli.places import append_text, check_place, write_text


class Format(StrEnum):
    """How to print."""

    TABLE = "table"
    JSON = "json"
    JUNIT = "junit"
    SARIF = "sarif"
    GITHUB = "github"


class Backend(StrEnum):
    """Whose formulas."""

    STREAMING = "streaming"
    FINN = "finn"


class Sizing(StrEnum):
    """How FIFO depths are found."""

    BOUNDS = "bounds"
    GIVEN = "given"
    SIMULATED = "simulated"
    JOINT = "joint"
    DEADLOCK_FREE = "deadlock-free"
    FINN = "finn"


def cost(
    model: ModelArgument,
    target: Annotated[
        str,
        typer.Option(
            "--target",
            help="finn:BOARD, such as finn:ZCU104 (see graphopt devices); sequential:512KiB, a "
            "layer-by-layer accelerator; or cpu, measured.",
        ),
    ] = "finn:ZCU104",
    bits: Annotated[
        str | None, typer.Option(help="Widths for a model without any of its own: w4a4.")
    ] = None,
    fps: Annotated[
        float | None, typer.Option(help="Frames a second to fold the layers for.")
    ] = None,
    clock: Annotated[float, typer.Option(help="Clock in MHz.")] = 100.0,
    folding: Annotated[
        Path | None, typer.Option(help="FINN's folding configuration (JSON).")
    ] = None,
    backend: Annotated[
        Backend, typer.Option(help="Formulas fitted to Vivado, or FINN's own.")
    ] = Backend.STREAMING,
    sizing: Annotated[
        Sizing,
        typer.Option(
            help="FIFO depths: closed forms, the model's own, peaks of a paced simulation, the "
            "joint minimum, as shallow as runs, or FINN's way."
        ),
    ] = Sizing.BOUNDS,
    simulate: Annotated[
        bool, typer.Option("--simulate", help="Simulate the result, cycle by cycle.")
    ] = False,
    budget: Annotated[
        Path | None, typer.Option(help="Limits in TOML; exit code 1 when one is broken.")
    ] = None,
    form: Annotated[Format, typer.Option("--format", help="How to print.")] = Format.TABLE,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write there instead of printing.")
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            help="Draw FIFO occupancy over time and the memory of the skips (.png, .svg)."
        ),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Every layer and FIFO, not only the dearest.")
    ] = False,
) -> None:
    """What a model costs on a target, and whether it keeps a budget."""
    for place in (output, plot):
        if place is not None:
            check_place(place, model)
    if target.startswith("sequential") or target == "cpu":
        if budget is not None or plot is not None or form not in (Format.TABLE, Format.JSON):
            raise typer.BadParameter(
                f"{target} knows no budget, no plot and only the formats table and json."
            )
        _other(model, target, form, output)
        return
    from hwmodel.budget import Budget, check
    from hwmodel.estimator import Target, design_of, estimate_sized, sized
    from hwmodel.report import markdown, render

    where = Target.parse(target)
    limits = Budget.load(budget) if budget is not None else None
    design = design_of(
        model,
        bits=bits or where.bits,
        folding=folding,
        fps=fps,
        clock_mhz=clock,
        dsp=where.device.dsp_kind,
    )
    fitted = sized(design, sizing.value)
    found = estimate_sized(fitted, where, backend=backend.value, clock_mhz=clock, simulate=simulate)
    findings = check(found, limits) if limits is not None else ()
    text = render(found, findings, form.value, model_path=model, everything=everything)
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if form is Format.GITHUB and summary:
        append_text(Path(summary), markdown(found, findings, model))
    if plot is not None:
        from hwmodel.plot import plot as draw

        draw(fitted.design, plot)
    if output is not None:
        write_text(output, text)
    else:
        sys.stdout.write(text if text.endswith("\n") else text + "\n")
    if any(finding.level != "ok" for finding in findings):
        raise typer.Exit(1)


def _other(model: Path, target: str, form: Format, output: Path | None) -> None:
    """Targets that are no streaming design: they have reports of their own."""
    from graphopt import Model
    from graphopt.cli.console import to_json
    from hwmodel.report import other

    loaded = Model.load(model)
    if target == "cpu":
        from hwmodel.cpu import measure

        measured = measure(loaded)
        text = to_json(measured.to_json()) if form is Format.JSON else other.cpu(measured)
    else:
        from hwmodel.sequential import Accelerator, Policy, estimate

        machine = Accelerator.parse(target)
        policies: tuple[Policy, ...] = ("stream", "adjacent", "shortcut")
        found = [estimate(loaded, machine, policy) for policy in policies]
        records = {each.policy: each.to_json() for each in found}
        text = to_json(records) if form is Format.JSON else other.sequential(found)
    if output is not None:
        write_text(output, text)
    else:
        sys.stdout.write(text)
