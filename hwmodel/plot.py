"""Pictures of FIFOs: how full each is over time, and what the skips hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from graphopt.errors import GraphoptError
from hwmodel.design import Design
from hwmodel.fifo import bounds
from hwmodel.simulate import simulate

_INK, _FILL, _LIMIT = "#30363d", "#4878a8", "#c8553d"
_PARTS = (
    ("#4878a8", "needed, or it deadlocks"),
    ("#8fb3d1", "more, for full speed"),
    ("#d9dde2", "beyond both"),
)


def plot(design: Design, path: Path, *, frames: int = 3, most: int = 12) -> None:
    """Draws occupancy over time of the FIFOs that hold most, and the memory of each skip.

    Args:
        design: a sized design; it is simulated.
        path: where to; the suffix names the format (.png, .svg, .pdf).
        frames: frames to show.
        most: FIFOs to show.

    Raises:
        GraphoptError: matplotlib is not installed, or it does not know the format.
    """
    try:
        import matplotlib
    except ImportError:
        raise GraphoptError(
            "plots need matplotlib: pip install 'graphopt[plot]' or leave --plot out."
        ) from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    supported = pyplot.figure().canvas.get_supported_filetypes()
    pyplot.close("all")
    if path.suffix.lstrip(".").lower() not in supported:
        raise GraphoptError(f"{path.name}: a plot is a .png, .svg or .pdf file.")
    run = simulate(design, frames=frames, trace=1500)
    known = bounds(design)
    index = {stream.name: i for i, stream in enumerate(design.streams)}

    def held(name: str) -> int:
        return run.streams[name].peak * design.stream[name].bits

    # The skips first, then whatever else holds most.
    skips = sorted(known, key=held, reverse=True)
    others = sorted((n for n in index if n not in known), key=held, reverse=True)
    shown = (skips[: most - 2] + others)[:most]
    bars = skips[:24]
    rows = len(shown)
    height = 0.75 * rows + 0.32 * len(bars) + 2.2
    figure = pyplot.figure(figsize=(10, height), layout="constrained")
    ratios = [0.75] * rows + ([0.32 * len(bars) + 0.7] if bars else [])
    axes = figure.subplots(rows + bool(bars), 1, height_ratios=ratios)
    axes = list(axes) if rows + bool(bars) > 1 else [axes]
    cycles = [i * run.trace_every for i in range(len(run.trace))]
    for axis, name in zip(axes, shown, strict=False):
        _occupancy(axis, cycles, run, index[name], name, name in known)
        for end in run.frame_ends:
            axis.axvline(end, color=_INK, linewidth=0.5, linestyle=":")
        axis.set_xlim(0, cycles[-1] if cycles else 1)
        if axis is not axes[rows - 1]:
            axis.set_xticklabels([])
    axes[rows - 1].set_xlabel("cycle (dotted: a frame has left)", fontsize=8)
    state = "" if run.status == "ok" else f", {run.status} after {run.cycles} cycles"
    figure.suptitle(f"Words in the FIFOs over {frames} frames{state}", fontsize=11, color=_INK)
    if bars:
        _memory(axes[-1], design, bars, known)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _occupancy(axis: Any, cycles: list[int], run: Any, column: int, name: str, skip: bool) -> None:
    depth = run.streams[name].depth
    counts = run.trace[:, column]
    axis.fill_between(cycles, counts, step="post", color=_FILL, alpha=0.85, linewidth=0)
    top = max(1, run.streams[name].peak)
    if depth <= 1.5 * top:
        axis.axhline(depth, color=_LIMIT, linewidth=0.9)
        top = max(top, depth)
    axis.set_ylim(0, 1.15 * top)
    axis.set_yticks([0, top])
    axis.tick_params(labelsize=7, colors=_INK, length=2)
    label = f"{name}{' (skip)' if skip else ''}"
    if run.streams[name].full >= 0.005:
        label += f", its writer waits {100 * run.streams[name].full:.0f} % of the time"
    axis.text(
        0.004, 0.93, label, transform=axis.transAxes, fontsize=7.5, va="top", color=_INK,
        bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 1},
    )  # fmt: skip
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def _memory(axis: Any, design: Design, names: list[str], known: Any) -> None:
    """Bars of Kbit for each skip: what deadlock, speed and the rest ask for."""
    for row, name in enumerate(reversed(names)):
        bits = design.stream[name].bits
        depth = design.stream[name].depth or 0
        deadlock = min(depth, known[name].deadlock)
        speed = max(0, min(depth, known[name].throughput) - deadlock)
        left = 0.0
        for (color, _), words in zip(
            _PARTS, (deadlock, speed, depth - deadlock - speed), strict=True
        ):
            axis.barh(row, words * bits / 1024, left=left, color=color, height=0.72)
            left += words * bits / 1024
        axis.text(left, row, f" {depth} words of {bits} bits", fontsize=7, va="center", color=_INK)
    axis.set_yticks(range(len(names)), list(reversed(names)), fontsize=7.5)
    axis.tick_params(axis="x", labelsize=7)
    axis.set_xlabel("memory of each skip in Kbit", fontsize=8)
    axis.margins(x=0.18, y=0.02)
    for color, label in _PARTS:
        axis.barh(0, 0, color=color, label=label)
    axis.legend(fontsize=7, frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=3)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
