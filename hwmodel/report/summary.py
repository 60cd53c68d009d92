"""The summary of a GitHub job, in Markdown: what belongs into the file $GITHUB_STEP_SUMMARY."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hwmodel.budget import Finding
from hwmodel.estimates import Estimate
from hwmodel.report.printable import printable

_MARKS = {"ok": "ok", "over": "**over**", "unknown": "**unknown**"}


def markdown(estimate: Estimate, findings: Sequence[Finding], model_path: Path) -> str:
    """Verdict, totals, every limit, and the warnings."""
    broken = sum(finding.level != "ok" for finding in findings)
    how = "simulated" if estimate.simulated else "not simulated"
    lines = [
        f"### {_text(str(model_path))} on {_text(estimate.device.name)}",
        "",
        f"{estimate.fps:,.6g} frames a second, latency {estimate.latency_s * 1e3:.4g} ms ({how}); "
        f"{estimate.fifo_bits:,} bits in FIFOs, {estimate.skip_bits:,} of them for skips",
        "",
        "| | used | of the device | |",
        "|---|--:|--:|--:|",
    ]
    for name, share in estimate.utilisation.items():
        used, there = getattr(estimate.resources, name), getattr(estimate.device, name)
        percent = f"{100 * share:.1f} %" if there else "" if not used else "none there"
        lines.append(f"| {name.upper()} | {used:,.0f} | {there:,} | {percent} |")
    if findings:
        verdict = f"{broken} of {len(findings)} limits broken" if broken else "kept"
        lines += ["", f"#### Budget: {verdict}", "", "| limit | | what |", "|---|---|---|"]
        lines += [
            f"| {_text(finding.rule)} | {_MARKS[finding.level]} | {_text(finding.message)} |"
            for finding in findings
        ]
    if estimate.warnings:
        lines += ["", *(f"- {_text(warning)}" for warning in estimate.warnings)]
    return "\n".join(lines) + "\n"


def _text(text: str) -> str:
    """Text that Markdown shows as it is: every mark of punctuation as a character reference."""
    return "".join(c if c.isalnum() or c in " ,%" else f"&#{ord(c)};" for c in printable(text))
