"""`graphopt inspect`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from graphopt.cli.console import JsonOption, ModelArgument, TargetOption, out, print_json, progress


def inspect(
    model: ModelArgument,
    target: TargetOption = "cpu",
    layers: Annotated[bool, typer.Option("--layers", help="Show the cost of each layer.")] = False,
    measure: Annotated[
        bool, typer.Option("--measure", help="Measure the latency in ONNX Runtime.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Show the skips of a model, what they hold in memory and for how long, and what it costs.

    On a model that graphopt has optimized, also what was done to it and why.
    """
    from graphopt import plugins
    from graphopt.cost import Estimate, cost_model
    from graphopt.ir import Model
    from graphopt.optimizer import measured
    from graphopt.report import record, tables

    with progress() as shown:
        shown("reading the model", 0.0)
        loaded = Model.load(model)
        loaded.tell_apart()
        shown("finding the skips", 0.2)
        skips = loaded.analyses.get(plugins.analysis("skips"))
        shown("counting the cost", 0.5)
        estimate = cost_model(target).estimate(loaded, target)
        if measure:
            shown("measuring the latency", 0.7)
            estimate = Estimate(target, measured(loaded, estimate.total), estimate.layers)
        memory = loaded.analyses.get(plugins.analysis("memory")).to_json()
    if json:
        print_json(
            {
                "model": record.model_record(loaded),
                "cost": record.estimate_record(estimate, layers=layers),
                "skips": [skip.to_json() for skip in skips],
                "memory": memory,
                "evidence": loaded.evidence.to_json(),
            }
        )
        return
    console = out()
    opset = ", ".join(f"{d or 'onnx'} {v}" for d, v in sorted(loaded.ir.opset_imports.items()))
    size = f"{loaded.graph.num_nodes()} nodes, opset {opset}"
    if not loaded.was_sorted:
        size += "; its nodes were not in order and have been sorted"
    console.print(f"[bold]{escape(str(model))}[/]: {size}\n")
    console.print(tables.skips(skips) if skips else "The model has no skip connections.\n")
    console.print(tables.costs([("", estimate.total)]))
    console.print(tables.memory(memory))
    if layers:
        console.print(tables.layers(estimate))
    if loaded.evidence.rewrites or loaded.evidence.refusals:
        console.print(tables.evidence(loaded.evidence))
