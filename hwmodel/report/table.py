"""The table for people."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from graphopt.cost import si
from graphopt.report.tables import table
from hwmodel.budget import Finding
from hwmodel.estimates import Estimate
from hwmodel.resources import Resources, total

WIDTH = 100
MOST = 10
"""Rows of a table unless everything is asked for."""

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
    """Totals, the dearest layers, the FIFOs, and the budget."""
    buffer = io.StringIO()
    console = Console(file=buffer, width=WIDTH, highlight=False)
    console.print(
        f"{escape(_clean(str(model_path)))} on {escape(estimate.device.name)} at "
        f"{estimate.clock_mhz:g} MHz ({estimate.backend})"
    )
    how = "simulated" if estimate.simulated else "estimated"
    console.print(
        f"{estimate.fps:,.6g} frames a second ({si(estimate.interval)} cycles a frame), latency "
        f"{estimate.latency_s * 1e3:.4g} ms, {how}"
    )
    alive = {True: "free of deadlock", False: "[bold red]DEADLOCKS[/]", None: "deadlock: not known"}
    console.print(f"FIFOs: {_SIZINGS[estimate.sizing]}; {alive[estimate.deadlock_free]}")
    console.print(_totals(estimate))
    console.print(_layers(estimate, everything))
    console.print(_fifos(estimate, everything))
    if findings:
        console.print(_findings(findings))
    for warning in estimate.warnings:
        console.print(f"warning: {escape(_clean(warning))}")
    return buffer.getvalue()


def _clean(name: str) -> str:
    """A name without control characters."""
    return "".join(c if c.isprintable() else "?" for c in name)


def _shown(name: str, most: int = 36) -> str:
    clean = _clean(name)
    return escape(clean if len(clean) <= most else "…" + clean[1 - most :])


def _totals(estimate: Estimate) -> Table:
    made = table("Resources", "", ">kernels", ">FIFOs", ">all", ">device", ">used", "")
    shares = estimate.utilisation
    for name in ("lut", "ff", "bram18", "uram", "dsp"):
        kernels = getattr(estimate.kernel_resources, name)
        fifos = getattr(estimate.fifo_resources, name)
        share = shares[name]
        bar = "█" * min(20, round(20 * min(share, 1))) + ("!" if share > 1 else "")
        made.add_row(
            name.upper(),
            si(kernels),
            si(fifos),
            si(kernels + fifos),
            si(getattr(estimate.device, name)),
            f"{100 * share:.1f} %" if share != float("inf") else "none there",
            bar,
        )
    return made


def _layers(estimate: Estimate, everything: bool) -> Table:
    layers: dict[str, list[int]] = {}
    for index, kernel in enumerate(estimate.kernels):
        layers.setdefault(kernel.layer, []).append(index)

    def used(name: str) -> Resources:
        return total(estimate.kernels[i].resources for i in layers[name])

    order = list(layers)
    if not everything:
        order.sort(key=lambda n: sum(estimate.device.utilisation(used(n)).values()), reverse=True)
    shown = order if everything else order[:MOST]
    title = "Layers" if everything or len(order) <= MOST else f"Layers: the dearest {MOST}"
    made = table(title, "layer", "folding", ">cycles", ">LUT", ">FF", ">BRAM18", ">DSP")
    for name in shown:
        kernels = [estimate.kernels[i] for i in layers[name]]
        main = max(kernels, key=lambda k: (k.kind in ("MatrixVector", "VectorVector"), k.cycles))
        cost = used(name)
        made.add_row(
            _shown(name),
            main.folding,
            si(max(kernel.cycles for kernel in kernels)),
            si(cost.lut),
            si(cost.ff),
            si(cost.bram18),
            si(cost.dsp),
        )
    if len(shown) < len(order):
        made.caption = f"{len(order) - len(shown)} more with --all"
    return made


def _fifos(estimate: Estimate, everything: bool) -> Table:
    streams = [s for s in estimate.streams if s.depth]
    order = sorted(streams, key=lambda s: (not s.skip, -s.bits))
    deep = [s for s in order if s.skip or s.depth > 2]
    shown = order if everything else deep[:MOST]
    made = table(
        f"FIFOs: {si(estimate.fifo_bits)}bit, {si(estimate.skip_bits)}bit of it for skips",
        "stream", ">words", ">bits", "in", ">LUT", ">BRAM18", "why",
    )  # fmt: skip
    for stream in shown:
        made.add_row(
            _shown(stream.name, 24) + (" [bold]skip[/]" if stream.skip else ""),
            str(stream.depth),
            str(stream.width),
            stream.style,
            si(stream.resources.lut),
            si(stream.resources.bram18),
            escape(_clean(stream.reason)),
        )
    rest = len(streams) - len(shown)
    if rest:
        made.caption = f"{rest} more with --all"
    return made


def _findings(findings: Sequence[Finding]) -> Table:
    broken = sum(finding.level != "ok" for finding in findings)
    verdict = f"{broken} of {len(findings)} limits broken" if broken else "kept"
    made = table(f"Budget: {verdict}", "limit", "", "what")
    marks = {"ok": "ok", "over": "[bold red]over[/]", "unknown": "[bold red]unknown[/]"}
    for finding in findings:
        made.add_row(escape(finding.rule), marks[finding.level], escape(_clean(finding.message)))
    return made
