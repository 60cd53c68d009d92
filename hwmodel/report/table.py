"""The table for people."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from graphopt.report.tables import table
from hwmodel.budget import Finding
from hwmodel.estimates import Estimate, KernelEstimate
from hwmodel.report.printable import printable
from hwmodel.resources import total

WIDTH = 100
MOST = 10
"""Rows of a table unless everything is asked for."""

_NARROW = (0, 1, 0, 0)
"""Space around a cell, in tables that need their width for names and reasons."""

_SIZINGS = {
    "bounds": "closed forms",
    "given": "the model's own",
    "simulated": "peaks of a paced simulation",
    "joint": "joint minimum",
    "deadlock-free": "as shallow as runs",
    "finn": "as FINN sizes them",
}


def text(
    estimate: Estimate, findings: Sequence[Finding], model_path: Path, *, everything: bool
) -> str:
    """Totals, the dearest layers, the FIFOs, and the budget; plain text of at most 100 columns."""
    buffer = io.StringIO()
    # Not for a terminal, whatever the environment says (FORCE_COLOR in CI): it may go to a file.
    # Without emoji, because the names of a model may hold :codes:.
    console = Console(
        file=buffer, width=WIDTH, highlight=False, emoji=False, force_terminal=False,
        color_system=None,
    )  # fmt: skip
    console.print(
        f"{_escaped(str(model_path))} on {_escaped(estimate.device.name)} at "
        f"{estimate.clock_mhz:g} MHz ({estimate.backend})"
    )
    how = "simulated" if estimate.simulated else "not simulated"
    console.print(
        f"{estimate.fps:,.6g} frames a second ({estimate.interval:,} cycles a frame), latency "
        f"{estimate.latency_s * 1e3:.4g} ms, {how}"
    )
    alive = {True: "free of deadlock", False: "DEADLOCKS", None: "deadlock: not known"}
    sizing = _SIZINGS.get(estimate.sizing, estimate.sizing)
    console.print(f"FIFOs: {_escaped(sizing)}; {alive[estimate.deadlock_free]}\n")
    console.print(_totals(estimate))
    console.print(_layers(estimate, everything))
    console.print(_fifos(estimate, everything))
    if findings:
        console.print(_findings(findings))
    for warning in estimate.warnings:
        console.print(f"warning: {_escaped(warning)}")
    return _harmless("\n".join(line.rstrip() for line in buffer.getvalue().splitlines())) + "\n"


def _harmless(lines: str) -> str:
    """The text without what a GitHub runner would take for a command of ours, in its log.

    A name may start with `::`, or a line may be broken before it.
    """
    return re.sub(r"(?m)^(\s*):(?=:)", r"\1;", lines).replace("##[", "##(")


def _escaped(name: str) -> str:
    return escape(printable(name))


def _shown(name: str, most: int = 32) -> str:
    clean = printable(name)
    return escape(clean if len(clean) <= most else "…" + clean[1 - most :])


def _count(number: float) -> str:
    return f"{number:,.0f}"


def _totals(estimate: Estimate) -> Table:
    made = table("Resources", "", ">kernels", ">FIFOs", ">all", ">device", ">used", "")
    for name, share in estimate.utilisation.items():
        kernels = getattr(estimate.kernel_resources, name)
        fifos = getattr(estimate.fifo_resources, name)
        there = getattr(estimate.device, name)
        bar = "█" * min(20, round(20 * min(share, 1)))
        made.add_row(
            name.upper(),
            _count(kernels),
            _count(fifos),
            _count(kernels + fifos),
            _count(there),
            f"{100 * share:.1f} %" if there else "none there" if kernels + fifos else "",
            bar.ljust(20, "·") + (" over" if share > 1 else ""),
        )
    return made


def _layers(estimate: Estimate, everything: bool) -> Table:
    layers: dict[str, list[KernelEstimate]] = {}
    for kernel in estimate.kernels:
        layers.setdefault(kernel.layer, []).append(kernel)
    used = {name: total(k.resources for k in kernels) for name, kernels in layers.items()}
    shares = {name: estimate.device.utilisation(each) for name, each in used.items()}
    order = list(layers)
    if not everything:
        order.sort(key=lambda name: sum(shares[name].values()), reverse=True)
    shown = order if everything else order[:MOST]
    counted = [
        name for name in estimate.utilisation
        if name != "uram" or any(each.uram for each in used.values())
    ]  # fmt: skip
    title = "Layers" if len(shown) == len(order) else f"Layers: the dearest {MOST}"
    made = table(title, "layer", "folding", ">cycles", *(f">{n.upper()}" for n in counted))
    made.padding = _NARROW
    for name in shown:
        kernels = layers[name]
        main = max(kernels, key=lambda k: (k.kind in ("MatrixVector", "VectorVector"), k.cycles))
        made.add_row(
            _shown(name),
            _escaped(main.folding),
            _count(max(kernel.cycles for kernel in kernels)),
            *(_count(getattr(used[name], each)) for each in counted),
        )
    return _with_rest(made, len(order) - len(shown))


def _fifos(estimate: Estimate, everything: bool) -> Table:
    streams = [s for s in estimate.streams if s.depth]
    order = sorted(streams, key=lambda s: (not s.skip, -s.bits))
    deep = [s for s in order if s.skip or s.depth > 2]
    shown = order if everything else deep[:MOST]
    counted = [
        name for name in ("lut", "bram18", "uram")
        if name == "lut" or any(getattr(each.resources, name) for each in shown)
    ]  # fmt: skip
    made = table(
        f"FIFOs: {_count(estimate.fifo_bits)} bits, {_count(estimate.skip_bits)} of them for skips",
        "stream", "skip", ">words × bits", "in", *(f">{n.upper()}" for n in counted), "why",
    )  # fmt: skip
    made.padding = _NARROW
    for stream in shown:
        made.add_row(
            _shown(stream.name, 24),
            "skip" if stream.skip else "",
            f"{stream.depth:,} × {stream.width}",
            _escaped(stream.style),
            *(_count(getattr(stream.resources, each)) for each in counted),
            _escaped(stream.reason),
        )
    return _with_rest(made, len(streams) - len(shown))


def _with_rest(made: Table, rest: int) -> Table:
    """The table, saying below how many rows it has not shown."""
    if rest:
        made.caption, made.caption_justify = f"{rest} more with --all\n", "left"
    return made


def _findings(findings: Sequence[Finding]) -> Table:
    broken = sum(finding.level != "ok" for finding in findings)
    verdict = f"{broken} of {len(findings)} limits broken" if broken else "kept"
    made = table(f"Budget: {verdict}", "limit", "", "what")
    for finding in findings:
        level = finding.level if finding.level == "ok" else finding.level.upper()
        made.add_row(escape(finding.rule), level, _escaped(finding.message))
    return made
