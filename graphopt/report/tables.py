"""Tables for the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from graphopt.cost import Estimate, si
from graphopt.evidence import Cost, Evidence
from graphopt.optimizer import Fate, Outcome, SkipFate
from graphopt.pipeline.manager import PassRecord
from graphopt.skips import Skip
from graphopt.verify.numeric import Status, Verification

_COLOURS = {Fate.REMOVED: "green", Fate.KEPT: "cyan", Fate.REFUSED: "yellow"}


def table(title: str, *columns: str) -> Table:
    """An empty table in the house style; a column that starts with `>` is right-aligned."""
    made = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
    for column in columns:
        right = column.startswith(">")
        made.add_column(column.lstrip(">"), justify="right" if right else "left", overflow="fold")
    return made


def size(count: int | None) -> str:
    """Bytes for people."""
    return "?" if count is None else f"{si(count)}B"


def fates(outcome: Outcome) -> Table:
    """What became of each skip."""
    made = table("Skips", "join", "kind", ">holds", "fate", "how, or why not")
    for one in outcome.fates:
        colour = _COLOURS[one.fate]
        made.add_row(
            escape(one.skip.name),
            one.skip.kind.value,
            size(one.skip.bytes),
            f"[{colour}]{one.fate.value}[/]",
            escape(_how(one)),
        )
    return made


def _how(one: SkipFate) -> str:
    if one.rewrite is None:
        return one.reason
    return f"{one.reason}; {one.rewrite.exactness.value}"


def skips(found: Sequence[Skip]) -> Table:
    """The skips of a model."""
    made = table(
        "Skips", "join", "operator", "kind", "fork", ">holds", ">layers held", "skip path", "branch"
    )
    for skip in found:
        made.add_row(
            escape(skip.name),
            skip.operator,
            skip.kind.value + ("" if skip.dominated else " (overlapping)"),
            escape(skip.fork),
            size(skip.bytes),
            "?" if skip.lifetime is None else str(skip.lifetime),
            escape(_operators(skip.skip.operators)),
            escape(_operators(skip.branch.operators)),
        )
    return made


def _operators(operators: Sequence[str], most: int = 6) -> str:
    shown = list(operators[:most])
    more = len(operators) - most
    return " ".join(shown) + (f" +{more}" if more > 0 else "") if operators else "-"


def costs(columns: Sequence[tuple[str, Cost]]) -> Table:
    """Costs side by side; with two, their ratio."""
    both = len(columns) == 2
    made = table("Cost", "", *(f">{name}" for name, _ in columns), *([">ratio"] if both else []))
    rows: Iterable[tuple[str, str, Any]] = (
        ("parameters", "parameters", si),
        ("weights", "weight_bytes", size),
        ("multiply-adds", "multiply_adds", si),
        ("peak activations", "peak_activation_bytes", size),
        ("latency (ONNX Runtime)", "latency_s", lambda s: f"{s * 1e3:.3g} ms"),
        ("cycles a frame", "interval_cycles", si),
        ("LUT", "lut", si),
        ("FF", "ff", si),
        ("BRAM18", "bram18", si),
        ("URAM", "uram", si),
        ("DSP", "dsp", si),
        ("FIFO bits", "fifo_bits", si),
    )
    for label, key, show in rows:
        values = [getattr(cost, key) for _, cost in columns]
        if all(value is None for value in values):
            continue
        cells = ["?" if value is None else show(value) for value in values]
        if both:
            cells.append(_ratio(values[0], values[1]))
        made.add_row(label, *cells)
    return made


def _ratio(before: float | None, after: float | None) -> str:
    return f"{after / before:.2f}x" if before and after is not None else "-"


def memory(record: dict[str, Any], most: int = 6) -> Table:
    """Who holds memory at the worst moment."""
    where = escape(str(record["peak_at"]))
    made = table(
        f"Memory: peak of {size(record['peak_bytes'])} at {where}; skips hold "
        f"{100 * record['share_held_by_skips']:.0f} % of the feature-map memory",
        "live at the peak",
        ">bytes",
        ">from step",
        ">to step",
    )
    for life in record["live_at_peak"][:most]:
        made.add_row(
            escape(life["tensor"]), size(life["bytes"]), str(life["born"]), str(life["dies"])
        )
    if record["unknown_sizes"]:
        made.caption = f"{record['unknown_sizes']} tensors of unknown size are not counted"
    return made


def layers(estimate: Estimate) -> Table:
    """Cost per layer, with its share of the whole."""
    made = table("Layers", "layer", "kind", ">parameters", ">multiply-adds", ">share")
    total = estimate.total.multiply_adds or 1
    for layer in estimate.layers:
        made.add_row(
            escape(layer.name),
            layer.kind.value,
            si(layer.cost.parameters),
            si(layer.cost.multiply_adds),
            f"{100 * layer.cost.multiply_adds / total:.1f} %",
        )
    return made


def timing(records: Sequence[PassRecord], analyses: dict[str, float]) -> Table:
    """Where the time went, and what each pass counted."""
    made = table("Passes", "pass", ">seconds", "changed", ">claims checked", "statistics")
    for record in records:
        made.add_row(
            record.name,
            f"{record.seconds:.3f}",
            "yes" if record.changed else "no",
            str(record.claims_checked),
            ", ".join(f"{name}: {count}" for name, count in record.statistics.items()),
        )
    for name, seconds in sorted(analyses.items()):
        made.add_row(f"(analysis) {name}", f"{seconds:.3f}", "", "", "")
    return made


def evidence(found: Evidence) -> Table:
    """What has been done to a model, as its metadata tells."""
    made = table("What was done to this model", "pass", "region", "rule", "exactness", "facts")
    alike = Counter((r.by, r.rule, r.exactness) for r in found.rewrites if r.before is None)
    shown = set()
    for rewrite in found.rewrites:
        kind = (rewrite.by, rewrite.rule, rewrite.exactness)
        if kind in shown:
            continue
        more = alike[kind] - 1
        if more > 0:
            shown.add(kind)
        made.add_row(
            escape(rewrite.by),
            escape(rewrite.region.name) + (f" and {more} more" if more > 0 else ""),
            escape(rewrite.rule),
            rewrite.exactness.value,
            escape("; ".join(rewrite.facts)),
        )
    for refusal in found.refusals:
        verdict = "kept" if refusal.by_choice else "refused"
        made.add_row(
            escape(refusal.by), escape(refusal.region.name), verdict, "-", escape(refusal.reason)
        )
    return made


def verification(checked: Verification | None) -> str:
    """One sentence on how equivalence was checked."""
    if checked is None:
        return "[yellow]Equivalence was not checked (--no-verify).[/]"
    if checked.status is Status.UNCHANGED:
        return f"Nothing to compare: {escape(checked.reason)}."
    worst = checked.worst
    if checked.status is Status.EQUAL and worst is not None:
        return (
            f"[green]Equivalent[/] on {len(checked.cases)} inputs (negatives, borders, zeros "
            f"...): worst error {worst.relative:.1e} of the largest value, where rounding noise is "
            f"{worst.noise:.1e} and the tolerance {worst.tolerance:.1e} ({escape(worst.tensor)}, "
            f"{escape(worst.case)})."
        )
    colour = "red" if checked.status is Status.DIFFERENT else "yellow"
    return f"[{colour}]{checked.status.value.capitalize()}[/]: {escape(checked.reason)}."
