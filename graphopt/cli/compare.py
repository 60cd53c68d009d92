"""`graphopt compare`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from graphopt.cli.console import JsonOption, ModelArgument, TargetOption, out, print_json, progress


def compare(
    first: ModelArgument,
    second: ModelArgument,
    target: TargetOption = "cpu",
    measure: Annotated[
        bool, typer.Option("--measure", help="Measure the latency in ONNX Runtime.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Compare two models: what each costs, and whether they compute the same (exit code 1: no)."""
    from graphopt.cost import cost_model
    from graphopt.ir import Model
    from graphopt.optimizer import measured
    from graphopt.report import record, tables
    from graphopt.verify import numeric

    with progress() as shown:
        models = [Model.load(first), Model.load(second)]
        cost = cost_model(target)
        estimates = [cost.estimate(model, target) for model in models]
        totals = [estimate.total for estimate in estimates]
        if measure:
            totals = [measured(model, total) for model, total in zip(models, totals, strict=True)]
        verification = numeric.compare(models[0], models[1], progress=shown)
    if json:
        print_json(
            {
                "models": [record.model_record(model) for model in models],
                "costs": [{"target": target, **total.to_json()} for total in totals],
                "verification": record.verification_record(verification),
            }
        )
    else:
        console = out()
        names = (escape(path.name) for path in (first, second))
        console.print(tables.costs(list(zip(names, totals, strict=True))))
        console.print(tables.verification(verification))
    if verification.status is numeric.Status.DIFFERENT:
        raise typer.Exit(1)
