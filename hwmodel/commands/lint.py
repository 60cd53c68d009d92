"""`graphopt lint`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphopt.cli.console import JsonOption, ModelArgument, out, print_json
from graphopt.cli.places import check_place


def lint(
    model: ModelArgument,
    fix: Annotated[
        bool, typer.Option("--fix", help="Mend what can be mended exactly, and prove it.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="The mended model; MODEL.lint.onnx by default."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say what FINN will stumble over in a model, and how to mend it."""
    from graphopt import optimize
    from graphopt.ir import Model, save
    from graphopt.report.tables import table
    from hwmodel.finn.lint import findings

    place = output or model.with_suffix(".lint.onnx")
    if fix:
        check_place(place, model)
    loaded = Model.load(model)
    console = out()
    if fix:
        outcome = optimize(loaded, pipeline="freeze-weights,fold-constants,finn-lint{fix=true},dce")
        loaded = outcome.model
        save(loaded, place)
    found = findings(loaded)
    if as_json:
        print_json(
            [
                {
                    "code": trap.code,
                    "where": trap.where,
                    "what": trap.what,
                    "cure": trap.cure,
                    "fixable": trap.fix is not None,
                }
                for trap in found
            ]
        )
    else:
        if fix:
            for done in loaded.evidence.rewrites:
                if done.by == "finn-lint":
                    console.print(f"mended {done.region.name} ({done.rule}): {done.facts[0]}")
            console.print(f"wrote {place}")
        shown = table("What FINN will stumble over", "trap", "where", "what", "cure", "--fix")
        for trap in found:
            shown.add_row(trap.code, trap.where, trap.what, trap.cure, "yes" if trap.fix else "")
        console.print(shown if found else "nothing that we know of stands against it")
    if found:
        raise typer.Exit(1)
