"""Tables of the targets that are no streaming design."""

from __future__ import annotations

import io
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from graphopt.cost import si
from graphopt.report.tables import table
from hwmodel.cpu import CpuEstimate
from hwmodel.sequential import SequentialEstimate


def cpu(estimate: CpuEstimate) -> str:
    """Latency and the plain counts."""
    made = table("ONNX Runtime on this machine", "", ">")
    made.add_row("latency", f"{estimate.latency_s * 1e3:.3g} ms")
    made.add_row("runs a second", f"{1 / estimate.latency_s:,.4g}")
    made.add_row("multiply-adds", si(estimate.cost.multiply_adds))
    made.add_row("parameters", si(estimate.cost.parameters))
    return _text(made)


def sequential(estimates: Sequence[SequentialEstimate]) -> str:
    """One row for each policy."""
    machine = estimates[0].accelerator
    made = table(
        f"Layer by layer, {machine.buffer_bytes // 1024} KiB of feature maps on the chip",
        "maps on the chip", ">off-chip maps", ">of skips", ">weights", ">cycles",
    )  # fmt: skip
    for each in estimates:
        made.add_row(
            each.policy,
            f"{si(each.feature_map_bytes)}B",
            f"{si(each.skip_bytes)}B",
            f"{si(each.weight_bytes)}B",
            si(each.cycles),
        )
    return _text(made)


def _text(made: Table) -> str:
    buffer = io.StringIO()
    Console(file=buffer, width=100, highlight=False, force_terminal=False, color_system=None).print(
        made
    )
    return buffer.getvalue()
