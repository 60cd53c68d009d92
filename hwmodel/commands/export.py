"""`graphopt export`: what FINN or hls4ml wants to read."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from graphopt.cli.console import ModelArgument, out
from graphopt.cli.places import check_place, write_text
from hwmodel.commands.cost import Sizing

if TYPE_CHECKING:
    from hwmodel.estimator import Backend
    from hwmodel.finn.bridge import Accepted


class Tool(StrEnum):
    """Who reads it."""

    FINN = "finn"
    HLS4ML = "hls4ml"


class Dialect(StrEnum):
    """Which FINN: they name operators and write FIFOs differently."""

    FINN_PLUS = "finn-plus"
    FINN = "finn"


def export(
    tool: Annotated[Tool, typer.Argument(help="finn or hls4ml.")],
    model: ModelArgument,
    folder: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Folder; MODEL.finn or MODEL.hls4ml by default."),
    ] = None,
    board: Annotated[str, typer.Option(help="As FINN calls it.")] = "ZCU104",
    element: Annotated[
        str | None,
        typer.Option("--input", help="Type of the inputs where no quantizer tells it: UINT8."),
    ] = None,
    bits: Annotated[str | None, typer.Option(help="Widths for a model without any: w4a4.")] = None,
    fps: Annotated[float | None, typer.Option(help="Frames a second to fold for.")] = None,
    clock: Annotated[float, typer.Option(help="Clock in MHz.")] = 100.0,
    folding: Annotated[Path | None, typer.Option(help="FINN's folding configuration.")] = None,
    sizing: Annotated[Sizing, typer.Option(help="How FIFO depths are found.")] = Sizing.JOINT,
    dialect: Annotated[
        Dialect, typer.Option(help="For finn-plus, or for Xilinx/finn.")
    ] = Dialect.FINN_PLUS,
    estimate: Annotated[
        bool,
        typer.Option(
            "--estimate", help="Run FINN to its estimates; the files then have its names."
        ),
    ] = False,
    simulate: Annotated[
        bool, typer.Option("--simulate", help="Run hls4ml's C++, compared with the model.")
    ] = False,
    limit: Annotated[
        float, typer.Option(help="Seconds after which FINN or hls4ml is stopped.")
    ] = 600.0,
) -> None:
    """Write a model, its folding, FIFO depths and a build script for FINN; or a configuration for
    hls4ml.
    """
    from graphopt.ir import Model
    from hwmodel.estimator import Target, design_of, sized
    from hwmodel.finn import bridge, graph, package

    where = folder or model.with_suffix(f".{tool.value}")
    if where.exists() and not where.is_dir():
        raise typer.BadParameter(f"{where} is no folder.")
    if estimate and (tool is not Tool.FINN or dialect is not Dialect.FINN_PLUS):
        raise typer.BadParameter("--estimate is for finn-plus.")
    if simulate and (tool is not Tool.HLS4ML or bits is not None):
        raise typer.BadParameter("--simulate is for hls4ml, and a model as it is.")
    target = Target.parse(f"finn:{board}")
    loaded = Model.load(model)
    if element is not None:
        loaded = package.annotated(loaded, element)
    # FINN takes no float model, and a graph of its own hardware is past its front end.
    buildable = (
        tool is Tool.FINN
        and dialect is Dialect.FINN_PLUS
        and bits is None
        and not graph.is_hardware(loaded)
    )
    if estimate and not buildable:
        raise typer.BadParameter(f"--estimate wants a quantized model, which {model} is not.")
    if estimate:
        bridge.interpreter()
    design = design_of(
        loaded, bits=bits, folding=folding, fps=fps, clock_mhz=clock, dsp=target.device.dsp_kind
    )
    fitted = sized(design, sizing.value).design
    if tool is Tool.FINN:
        files = package.json_files(fitted, dialect.value)
    else:
        from hwmodel.hls4ml import configuration

        files = {"hls4ml.json": json.dumps(configuration(fitted), indent=2) + "\n"}
    names = [*files, *((package.MODEL, package.SCRIPT, package.CONFIGURATION) if buildable else ())]
    for name in names:
        check_place(where / name, model)
    console = out()
    for name, content in files.items():
        write_text(where / name, content)
    if buildable:
        package.write_build(
            loaded, where, board=board, clock_mhz=clock, fps=fps, sizing=sizing.value
        )
    for name in names:
        console.print(f"wrote {where / name}")
    if simulate:
        _simulated(model, where, limit)
    if not estimate:
        return
    found = bridge.estimate(
        where / package.MODEL, where / "build", board=board, clock_mhz=clock,
        fps=None if fps is None else round(fps), limit=limit, sizing=sizing.value,
    )  # fmt: skip
    if not found.accepted:
        console.print(f"FINN rejects it at {found.step}: {found.reason}")
        raise typer.Exit(1)
    for name, path in bridge.answers(where / "build").items():
        write_text(where / name, path.read_text(encoding="utf-8"))
        console.print(f"wrote {where / name} again, with the names that FINN gave")
    _beside(found, where / "build", board, clock)


def _simulated(model: Path, folder: Path, limit: float) -> None:
    """hls4ml's own conversion in `folder`/project, its C++ compiled, run and compared."""
    from hwmodel.hls4ml.bridge import report

    came, lines = report(model, folder, limit=limit)
    for line in lines:
        out().print(line)
    if not came:
        raise typer.Exit(1)


def _beside(found: Accepted, folder: Path, board: str, clock: float) -> None:
    """FINN's figures, and ours for the graph that FINN made, FIFOs and converters included."""
    from graphopt.ir import Model
    from graphopt.report.tables import table
    from hwmodel.estimator import estimate
    from hwmodel.finn import bridge

    shown = table("FINN's estimate and ours", "", ">LUT", ">BRAM18", ">DSP", ">fps", ">FIFO bits")
    counts = [found.resources[key] for key in ("LUT", "BRAM_18K", "DSP")]
    shown.add_row(
        "FINN: layers only", *(f"{n:,.0f}" for n in counts), f"{found.fps:,.1f}", "not counted"
    )
    graph = Model.load(bridge.with_fifos(folder))
    rows: tuple[tuple[Backend, str], ...] = (
        ("finn", "FINN's formulas, with FIFOs"),
        ("streaming", "ours"),
    )
    for backend, label in rows:
        ours = estimate(graph, f"finn:{board}", clock_mhz=clock, sizing="given", backend=backend)
        every = ours.resources
        shown.add_row(
            label, f"{every.lut:,.0f}", f"{every.bram18:,.0f}", f"{every.dsp:,.0f}",
            f"{ours.fps:,.1f}", f"{ours.fifo_bits:,}",
        )  # fmt: skip
    out().print(shown)
