"""`graphopt optimize`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from graphopt.cli.console import (
    JsonOption,
    ModelArgument,
    TargetOption,
    out,
    print_json,
    progress,
    to_json,
)
from graphopt.cli.places import check_place, write_text

if TYPE_CHECKING:
    from graphopt.pipeline import Instrument


def _preset_names() -> list[str]:
    from graphopt import plugins

    return list(plugins.presets())


def optimize(
    model: ModelArgument,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Where to write; MODEL.opt.onnx by default."),
    ] = None,
    target: TargetOption = "cpu",
    preset: Annotated[
        str,
        typer.Option(help="A named pipeline.", autocompletion=_preset_names),
    ] = "default",
    pipeline: Annotated[
        str | None, typer.Option(help="The passes to run, such as fold-norm,reserve-merge,dce.")
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(help="Write everything that was done and found to this JSON file."),
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Measure the latency in ONNX Runtime.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be done and write nothing.")
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Compare the outputs with the original's.")
    ] = True,
    verify_each: Annotated[
        bool, typer.Option("--verify-each", help="Compare after each pass, to find a guilty one.")
    ] = False,
    print_after: Annotated[
        list[str] | None,
        typer.Option(help="Print the graph after this pass (all for every pass); to stderr."),
    ] = None,
    timing: Annotated[
        bool, typer.Option("--timing", help="Show where the time went and what each pass counted.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Remove the skip connections that are worth it, exactly, and prove the result.

    Without options: what is exact and not worse on the target. With --preset plain: every skip that
    can be removed exactly, whatever it costs.
    """
    from graphopt.ir import save
    from graphopt.optimizer import optimize as run
    from graphopt.pipeline import Pipeline
    from graphopt.report import record, tables

    target_path = output or model.with_name(f"{model.stem}.opt.onnx")
    if not dry_run:
        check_place(target_path, model)
    if report is not None:
        _check_report(report, model, target_path, dry_run)
    if pipeline is not None:
        Pipeline.parse(pipeline)  # a slip in the text is told before anything takes long
    with progress() as shown:
        outcome = run(
            model,
            target=target,
            preset=preset,
            pipeline=pipeline,
            verify=verify,
            measure=measure,
            instruments=_instruments(verify_each, print_after or []),
            reproducers=None if dry_run else target_path.parent,
            progress=shown,
        )
        if not dry_run:
            shown("writing", 1.0)
            save(outcome.model, target_path)
    told = record.outcome_record(outcome) | {"written": None if dry_run else str(target_path)}
    if report is not None:
        write_text(report, to_json(told))
    if json:
        print_json(told)
        return
    console = out()
    if outcome.fates:
        console.print(tables.fates(outcome))
    else:
        console.print("The model has no skip connections.\n")
    console.print(tables.costs([("before", outcome.before.total), ("after", outcome.after.total)]))
    if timing:
        console.print(tables.timing(outcome.records, outcome.model.analyses.seconds))
    console.print(tables.verification(outcome.verification))
    console.print(_last_line(outcome.changed, dry_run, str(target_path)))


def _check_report(report: Path, model: Path, output: Path, dry_run: bool) -> None:
    """The same for the report."""
    from graphopt.errors import ModelError

    if dry_run:
        raise ModelError(f"--dry-run writes nothing, so not {report} either: use --json instead.")
    check_place(report, model)
    if report.resolve() == output.resolve():
        raise ModelError(f"{report} is where the model goes: choose another file for the report.")


def _instruments(verify_each: bool, print_after: list[str]) -> list[Instrument]:
    from graphopt import plugins
    from graphopt.errors import PipelineError
    from graphopt.ir import Model
    from graphopt.pipeline import PrintAfter, VerifyEach
    from graphopt.verify import numeric

    def difference(before: Model, after: Model) -> str | None:
        found = numeric.compare(before, after, seconds=5.0)
        return found.reason if found.status is numeric.Status.DIFFERENT else None

    known = plugins.passes()
    for name in print_after:
        if name not in known and name != "all":
            raise PipelineError(
                f"no pass is called '{name}'{plugins.suggestion(name, known)}: see "
                "`graphopt passes`."
            )
    made: list[Instrument] = []
    if print_after:
        made.append(PrintAfter(frozenset(print_after), lambda text: print(text, file=sys.stderr)))
    if verify_each:
        made.append(VerifyEach(difference))
    return made


def _last_line(changed: bool, dry_run: bool, path: str) -> str:
    if dry_run:
        return "Dry run: nothing was written."
    return f"Wrote {escape(path)}" + ("." if changed else ", which is the model as it was.")
