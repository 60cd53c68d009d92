"""`estimate`: a model on a device. Kernels, then folding, then FIFO depths, then resources."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

from graphopt.errors import TargetError
from hwmodel import streaming
from hwmodel.design import Design, Stream
from hwmodel.devices import Device, DspKind, device
from hwmodel.estimates import Estimate, KernelEstimate, StreamEstimate
from hwmodel.fifo import SMALLEST, Bound, bounds, explain
from hwmodel.finn import formulas
from hwmodel.folding import windows_before
from hwmodel.kernels import Concat, Join, MatrixVector, VectorVector, Window
from hwmodel.kernels.kernel import Kernel
from hwmodel.memory import Mapped, cheapest, finn_choice
from hwmodel.resources import Resources

Backend = Literal["streaming", "finn"]
Sizing = Literal["bounds", "given", "simulated", "joint", "deadlock-free", "finn"]
"""How FIFO depths are found: closed forms for the skips (no simulation); the design's own; peaks of
a simulation whose source keeps the design's pace; the joint minimum of all; as shallow as runs at
all; or FINN's way: peaks under a source that sends as fast as it can, and its rounding."""

DEFAULT_CLOCK_MHZ = 100.0
"""FINN's examples are built for 5 to 10 ns."""


@dataclass(frozen=True)
class Target:
    """`finn:BOARD` or `finn:BOARD:BITS`, taken apart.

    Attributes:
        text: as written.
        device: the device.
        bits: widths for a model that has none of its own, as in `w4a4`; None: not given.
    """

    text: str
    device: Device
    bits: str | None = None

    @classmethod
    def parse(cls, text: str) -> Target:
        """Reads a target.

        Raises:
            TargetError: not of this form, or no such device.
        """
        kind, _, rest = text.partition(":")
        name, _, bits = rest.partition(":")
        if kind != "finn" or not name:
            raise TargetError(f"'{text}' is no target: write finn:BOARD, for example finn:ZCU104.")
        return cls(text, device(name), bits or None)


def estimate(
    model: Any,
    target: str | Device = "finn:ZCU104",
    *,
    backend: Backend = "streaming",
    bits: str | None = None,
    fps: float | None = None,
    clock_mhz: float = DEFAULT_CLOCK_MHZ,
    folding: Mapping[str, Any] | str | Path | None = None,
    sizing: Sizing = "bounds",
    simulate: bool = False,
) -> Estimate:
    """What a model costs as a streaming accelerator.

    Args:
        model: a `Design`, or what `graphopt.Model.load` takes: a path, an onnx.ModelProto, an
            onnx_ir.Model, a graphopt Model. A graph of FINN's hardware layers is read as it is;
            any other is mapped to kernels.
        target: `finn:BOARD`, or a `Device`.
        backend: "streaming" (fitted to Vivado) or "finn" (FINN's own formulas).
        bits: widths where the model has none, as `w4a4`.
        fps: frames a second to fold for; default: no folding (PE = SIMD = 1), or what the model
            or `folding` says.
        clock_mhz: clock.
        folding: FINN's folding JSON, as a path or loaded.
        sizing: how the FIFO depths are found.
        simulate: simulate the sized design for its interval, latency and freedom from deadlock.

    Raises:
        GraphoptError: the model cannot be mapped, a device or type is unknown, a folding is bad.
    """
    if backend not in get_args(Backend):
        raise TargetError(f"'{backend}' is no backend: use {' or '.join(get_args(Backend))}.")
    if sizing not in get_args(Sizing):
        raise TargetError(f"'{sizing}' is no sizing: use {', '.join(get_args(Sizing))}.")
    where = Target(target.name, target) if isinstance(target, Device) else Target.parse(target)
    design = design_of(
        model,
        bits=bits or where.bits,
        folding=folding,
        fps=fps,
        clock_mhz=clock_mhz,
        dsp=where.device.dsp_kind,
    )
    return estimate_sized(
        sized(design, sizing), where, backend=backend, clock_mhz=clock_mhz, simulate=simulate
    )


def design_of(
    model: Any,
    *,
    bits: str | None = None,
    folding: Mapping[str, Any] | str | Path | None = None,
    fps: float | None = None,
    clock_mhz: float = DEFAULT_CLOCK_MHZ,
    dsp: DspKind = "DSP48E2",
) -> Design:
    """The folded design of a model; arguments as in `estimate`, and the device's multiplier.

    Raises:
        GraphoptError: as in `estimate`.
    """
    if not 0 < clock_mhz < math.inf:
        raise TargetError(f"a clock of {clock_mhz} MHz is not above 0.")
    if fps is not None and not 0 < fps < math.inf:
        raise TargetError(f"{fps} frames a second is not above 0.")
    from hwmodel import dataflow
    from hwmodel.finn import config, graph
    from hwmodel.folding import fold_for_fps

    if isinstance(model, Design):
        design = model
    else:
        from graphopt import Model

        loaded = model if isinstance(model, Model) else Model.load(model)
        if graph.is_hardware(loaded):
            design = graph.read(loaded, dsp=dsp)
        else:
            design = dataflow.map_model(loaded, bits=dataflow.Bits.parse(bits) if bits else None)
    if folding is not None:
        design = config.apply(design, folding)
    if fps is not None:
        design = fold_for_fps(design, fps, clock_mhz)
    return design


@dataclass(frozen=True)
class Sized:
    """A design whose FIFOs all have a depth.

    Attributes:
        design: the design.
        sizing: how the depths were found.
        known: bounds of the skip FIFOs, by stream.
    """

    design: Design
    sizing: Sizing
    known: Mapping[str, Bound]


def sized(design: Design, sizing: Sizing = "bounds") -> Sized:
    """A design with all FIFO depths, found as `sizing` says."""
    known = bounds(design)
    return Sized(_with_depths(design, sizing, known), sizing, known)


def estimate_sized(
    fitted: Sized,
    target: Target,
    *,
    backend: Backend = "streaming",
    clock_mhz: float = DEFAULT_CLOCK_MHZ,
    simulate: bool = False,
) -> Estimate:
    """What a sized design costs; arguments as in `estimate`."""
    design, known = fitted.design, fitted.known
    interval, latency, alive = _interval(design), _latency(design), _deadlock_free(design, known)
    simulated = simulate or fitted.sizing not in ("bounds", "given")
    if simulated:
        from hwmodel.simulate import simulate as run_design

        run = run_design(design, frames=4)
        alive = run.status == "ok"
        if alive:
            interval, latency = run.interval, run.frame_ends[0]
    kernels = tuple(_kernel(kernel, design, target.device, backend) for kernel in design.kernels)
    as_finn = "finn" in (backend, fitted.sizing)
    streams = tuple(
        _stream(stream, design, target.device, known, as_finn=as_finn) for stream in design.streams
    )
    return Estimate(
        target=target.text,
        backend=backend,
        device=target.device,
        clock_mhz=clock_mhz,
        interval=interval,
        latency=latency,
        kernels=kernels,
        streams=streams,
        sizing=fitted.sizing,
        simulated=simulated,
        deadlock_free=alive,
        warnings=tuple(_warnings(design, simulated=simulated)),
    )


def _with_depths(design: Design, sizing: Sizing, known: Mapping[str, Bound]) -> Design:
    if sizing == "given":
        return _filled(design)
    if sizing == "bounds":
        depths = {name: bound.throughput for name, bound in known.items()}
        unsized = {s.name: SMALLEST for s in design.streams if s.name not in depths}
        return design.with_depths({**unsized, **depths})
    from hwmodel.fifo import occupancy, placed, size
    from hwmodel.memory import finn_depth
    from hwmodel.simulate import simulate as run_design

    if sizing == "joint":
        return placed(size(design).design)[0]
    if sizing == "deadlock-free":
        return size(design, throughput=False).design
    if sizing == "finn":
        peaks = occupancy(design, frames=2)
        return design.with_depths({n: finn_depth(d) for n, d in peaks.items()})
    free = run_design(design.with_depths({s.name: None for s in design.streams}), frames=4)
    peaks = occupancy(design, period=free.interval, frames=4)
    return design.with_depths({name: max(SMALLEST, depth + 1) for name, depth in peaks.items()})


def _filled(design: Design) -> Design:
    return design.with_depths({s.name: SMALLEST for s in design.streams if s.depth is None})


def _deadlock_free(design: Design, known: Mapping[str, Bound]) -> bool | None:
    """From the bounds alone: yes or no where every join has one, else not known."""
    joins = [kernel for kernel in design.kernels if isinstance(kernel, Join | Concat)]
    shallow = [n for n, bound in known.items() if (design.stream[n].depth or 0) < bound.deadlock]
    plain = all(not known[name].skip.skip for name in shallow)
    if shallow:
        return False if plain else None
    bounded: dict[str, int] = {}
    for bound in known.values():
        bounded[bound.skip.join] = bounded.get(bound.skip.join, 0) + 1
    enough = all(bounded.get(join.name, 0) >= len(join.inputs) - 1 for join in joins)
    return True if enough else None


def _interval(design: Design) -> int:
    """Cycles between frames: of the slowest kernel, or of a unit that waits for its window.

    A window generator takes nothing of the next frame before it has sent the last window of this
    one (swg_template_*.sv); its unit then has no work until the buffer is filled again, but for
    what it has in its replay buffer.
    """
    longest = design.cycles
    for name, window in windows_before(design).items():
        unit = design.kernel[name]
        assert isinstance(unit, MatrixVector | VectorVector)
        gap = window.window_words - unit.cycles // unit.vectors
        longest = max(longest, unit.cycles + max(0, gap))
    return longest


def _latency(design: Design) -> int:
    """Cycles to the last result: the time to fill each kernel on the longest path, and a frame.

    A kernel gives its first word when the words it needs for that have come; words come at the
    pace of the slowest kernel before it.
    """
    import numpy as np

    from hwmodel.fifo.needs import need

    first: dict[str, float] = {stream.name: 1 for stream in design.streams if not stream.source}
    pace: dict[str, float] = {stream.name: 1 for stream in design.streams if not stream.source}
    reads: dict[str, list[Stream]] = {}
    writes: dict[str, list[Stream]] = {}
    for stream in design.streams:
        if stream.sink:
            reads.setdefault(stream.sink.kernel, []).append(stream)
        if stream.source:
            writes.setdefault(stream.source.kernel, []).append(stream)
    for kernel in design.kernels:
        frame = max([kernel.cycles, *(pace[s.name] * s.words for s in reads.get(kernel.name, ()))])
        start = 0.0
        for stream in reads.get(kernel.name, ()):
            words = 1 if isinstance(kernel, Concat) else int(need(kernel, np.array([1]))[0])
            start = max(start, first[stream.name] + (words - 1) * frame / stream.words)
        for stream in writes.get(kernel.name, ()):
            first[stream.name] = start + 2
            pace[stream.name] = frame / stream.words
    ends = [s for s in design.streams if not s.sink]
    return round(max((first[s.name] + (s.words - 1) * pace[s.name] for s in ends), default=0))


def _kernel(kernel: Kernel, design: Design, where: Device, backend: Backend) -> KernelEstimate:
    return KernelEstimate(
        name=kernel.name,
        kind=type(kernel).__name__,
        layer=design.layer_of(kernel.name),
        folding=", ".join(
            f"{name.upper()} {getattr(kernel, name)}"
            for name in ("pe", "simd")
            if hasattr(kernel, name)
        ),
        cycles=kernel.cycles if backend == "streaming" else formulas.cycles(kernel),
        resources=kernel_resources(kernel, where, backend),
    )


def kernel_resources(kernel: Kernel, where: Device, backend: Backend = "streaming") -> Resources:
    """What a kernel takes of the device, its weights included."""
    if backend == "streaming":
        return streaming.resources(kernel, family=where.family, dsps=where.dsp)
    found = formulas.resources(kernel, dsp=where.dsp_kind)
    return Resources(lut=found.lut, bram18=found.bram18, uram=found.uram, dsp=found.dsp)


def _stream(
    stream: Stream, design: Design, where: Device, known: Mapping[str, Bound], *, as_finn: bool
) -> StreamEstimate:
    depth = stream.depth if stream.depth is not None else 2
    mapped: Mapped | None = None
    if depth:
        choose = partial(finn_choice, device=where) if as_finn else partial(cheapest, device=where)
        mapped = choose(depth, stream.bits)
    return StreamEstimate(
        name=stream.name,
        source=stream.source.kernel if stream.source else "",
        sink=stream.sink.kernel if stream.sink else "",
        width=stream.bits,
        depth=depth,
        style=mapped.style if mapped else "wire",
        resources=mapped.resources if mapped else Resources(),
        skip=stream.name in known,
        reason=explain(design, stream.name, known.get(stream.name)) if stream.name in known else "",
    )


def _warnings(design: Design, *, simulated: bool) -> Iterator[str]:
    if not simulated:
        yield (
            "cycles are those of FIFOs that are deep enough; closed forms size the skips alone: "
            "--simulate shows what these depths do, --sizing joint finds better ones."
        )
    hangs = [k.name for k in design.kernels if isinstance(k, Window) and k.counter_too_narrow]
    if hangs:
        yield (
            f"{', '.join(hangs)}: FINN's depthwise window generator hangs here when its input "
            "comes slowly, at every FIFO depth (its counter overflows); it needs Xilinx/finn pull "
            "request 1698 or finn-plus with pull request 264."
        )
