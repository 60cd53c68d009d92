"""Folding: how many words a kernel works on at once.

FINN's terms: PE outputs and SIMD inputs of a matrix-vector unit in each cycle; the other kernels
follow. A unit of MH outputs and MW inputs takes MH / PE x MW / SIMD cycles a pixel, so both must
divide; SIMD beyond the channels of a convolution needs the parallel window.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from graphopt.errors import GraphoptError
from hwmodel.design import Design, Stream
from hwmodel.finn.graph import with_converters, without_converters
from hwmodel.kernels import (
    ChannelPadding,
    Concat,
    LabelSelect,
    MatrixVector,
    VectorVector,
    WidthConverter,
    Window,
)
from hwmodel.kernels.kernel import Kernel
from hwmodel.resources import Resources


@dataclass(frozen=True)
class Fold:
    """New parallelism of a kernel; None: as it is.

    Attributes:
        pe, simd: as the kernel has them.
        parallel: of a window: a whole window in one word.
    """

    pe: int | None = None
    simd: int | None = None
    parallel: bool | None = None


def fold(design: Design, folds: Mapping[str, Fold]) -> Design:
    """The design with these parallelisms, width converters where words differ.

    Raises:
        GraphoptError: no such kernel, or it has no such parallelism, or the number does not divide.
    """
    kernels, connections = without_converters(design)
    unknown = set(folds) - {kernel.name for kernel in kernels}
    if unknown:
        raise GraphoptError(f"the design has no kernel {sorted(unknown)[0]} to fold.")
    channels = channels_of(design)
    folded = [
        _folded(kernel, folds[kernel.name], channels) if kernel.name in folds else kernel
        for kernel in kernels
    ]
    return with_converters(folded, connections, design.layers)


def _folded(kernel: Kernel, wanted: Fold, channels: Mapping[str, int]) -> Kernel:
    changes = {
        name: value
        for name in ("pe", "simd", "parallel")
        if (value := getattr(wanted, name)) is not None
    }
    for name, value in changes.items():
        if not hasattr(kernel, name):
            raise GraphoptError(f"{kernel.name} ({type(kernel).__name__}) has no {name.upper()}.")
        if name == "parallel":
            continue
        most = _divided(kernel, name, channels)
        if value < 1 or most % value:
            raise GraphoptError(f"{name.upper()} {value} of {kernel.name} does not divide {most}.")
    return replace(kernel, **changes)  # type: ignore[type-var]


def _divided(kernel: Kernel, name: str, channels: Mapping[str, int]) -> int:
    """What the parallelism has to divide."""
    match kernel:
        case MatrixVector():
            return kernel.mh if name == "pe" else kernel.mw
        case VectorVector():
            return kernel.channels if name == "pe" else kernel.taps
        case LabelSelect():
            return kernel.labels
        case Concat():
            return math.gcd(*kernel.channels)
        case ChannelPadding():
            return math.gcd(kernel.channels, kernel.before, kernel.after)
        case _:
            return channels[kernel.name]


def channels_of(design: Design) -> dict[str, int]:
    """Channels of what each kernel works on: for those that don't say, of their neighbours."""
    before: dict[str, list[str]] = {}
    behind: dict[str, list[str]] = {}
    for stream in design.streams:
        if stream.source and stream.sink:
            before.setdefault(stream.sink.kernel, []).append(stream.source.kernel)
            behind.setdefault(stream.source.kernel, []).append(stream.sink.kernel)
    reads: dict[str, int] = {}
    for kernel in reversed(design.kernels):
        own = getattr(kernel, "mw", None) or getattr(kernel, "channels", None)
        near = [reads[name] for name in behind.get(kernel.name, ()) if name in reads]
        if isinstance(own, int):
            reads[kernel.name] = own
        elif near:
            reads[kernel.name] = near[0]
    makes: dict[str, int] = {}
    found: dict[str, int] = {}
    for kernel in design.kernels:
        near = [makes[name] for name in before.get(kernel.name, ())]
        own = near[0] if near else reads.get(kernel.name, 1)
        made = own
        match kernel:
            case MatrixVector():
                own, made = kernel.mw, kernel.mh
            case Concat():
                own = made = sum(kernel.channels)
            case ChannelPadding():
                own = kernel.channels
                made = kernel.before + kernel.channels + kernel.after
            case LabelSelect():
                own = made = kernel.labels
            case _:
                own = made = getattr(kernel, "channels", own)
        found[kernel.name], makes[kernel.name] = own, made
    return found


@cache
def divisors(number: int) -> tuple[int, ...]:
    """In ascending order."""
    small = [d for d in range(1, math.isqrt(number) + 1) if number % d == 0]
    return tuple(sorted({*small, *(number // d for d in small)}))


def fold_for_fps(design: Design, fps: float, clock_mhz: float) -> Design:
    """The least folding at which no kernel takes longer than a frame's share of the clock.

    Raises:
        GraphoptError: fps or clock is not positive, or some kernel cannot be that fast.
    """
    if not (fps > 0 and clock_mhz > 0):
        raise GraphoptError(f"{fps} frames a second at {clock_mhz} MHz: both must be above 0.")
    return fold_for_cycles(design, int(clock_mhz * 1e6 / fps))


def fold_for_cycles(design: Design, cycles: int) -> Design:
    """The least folding at which no kernel takes more than so many cycles a frame.

    Units are folded first, each with the fewest multipliers; among equals the widest input is
    taken, as FINN's SetFolding does. Other kernels take the width of their neighbour where that is
    enough, so that few converters are needed.

    Raises:
        GraphoptError: some kernel takes longer however it is folded.
    """
    channels = channels_of(design)
    units: dict[str, Option] = {}
    windows = windows_before(design)
    for kernel in design.kernels:
        if isinstance(kernel, MatrixVector | VectorVector):
            options = _options(kernel, windows.get(kernel.name))
            fits = [option for option in options if option.cycles <= cycles]
            if not fits:
                raise GraphoptError(
                    f"{kernel.name} takes {min(o.cycles for o in options)} cycles however it is "
                    f"folded, more than the {cycles} of a frame."
                )
            best = min(
                fits, key=lambda o: (o.multipliers, o.parallel, -o.kernel.inputs[0].elements)
            )
            units[kernel.name] = best
    return _completed(design, units, channels, cycles)


@dataclass(frozen=True)
class Option:
    """One folding of a unit and its window.

    Attributes:
        kernel: the folded unit.
        parallel: whether it needs the parallel window.
        cycles: of the slower of the two.
    """

    kernel: MatrixVector | VectorVector
    parallel: bool
    cycles: int

    @property
    def multipliers(self) -> int:
        """Products in a cycle."""
        return self.kernel.pe * self.kernel.simd


def windows_before(design: Design) -> dict[str, Window]:
    """The window that feeds each unit, by the unit's name."""
    found: dict[str, Window] = {}
    feeds: dict[str, Stream] = {s.sink.kernel: s for s in design.streams if s.sink}
    for kernel in design.kernels:
        if not isinstance(kernel, MatrixVector | VectorVector):
            continue
        stream = feeds.get(kernel.name)
        while stream is not None and stream.source is not None:
            before = design.kernel[stream.source.kernel]
            if isinstance(before, Window):
                found[kernel.name] = before
            if not isinstance(before, WidthConverter):
                break
            stream = feeds.get(before.name)
    return found


def _options(kernel: MatrixVector | VectorVector, window: Window | None) -> list[Option]:
    """Every folding of a unit that its window can feed."""
    made: list[Option] = []
    spatial = window is not None and window.kernel != (1, 1)
    if isinstance(kernel, VectorVector):
        for pe in divisors(kernel.channels):
            sides = [(1, False)]
            if spatial:
                sides += [(simd, True) for simd in divisors(kernel.taps)]
            for simd, parallel in sides:
                unit = replace(kernel, pe=pe, simd=simd)
                made.append(_option(unit, window, parallel))
        return made
    channels = window.channels if spatial and window is not None else kernel.mw
    for simd in divisors(channels):
        for pe in divisors(kernel.mh):
            made.append(_option(replace(kernel, pe=pe, simd=simd), window, False))
    if spatial:
        for pe in divisors(kernel.mh):
            made.append(_option(replace(kernel, pe=pe, simd=kernel.mw), window, True))
    return made


def _option(unit: MatrixVector | VectorVector, window: Window | None, parallel: bool) -> Option:
    if window is None:
        return Option(unit, False, unit.cycles)
    return Option(unit, parallel, max(unit.cycles, _window_for(unit, window, parallel).cycles))


def _window_for(unit: MatrixVector | VectorVector, window: Window, parallel: bool) -> Window:
    """The window folded as its unit reads it."""
    if isinstance(unit, VectorVector):
        simd = unit.pe
    else:
        simd = window.channels if parallel else min(unit.simd, window.channels)
    return replace(window, simd=simd, parallel=parallel)


def _completed(
    design: Design, units: Mapping[str, Option], channels: Mapping[str, int], cycles: int
) -> Design:
    """The design with folded units, everything else as wide as its neighbours or as needed."""
    chosen: dict[str, Kernel] = {name: option.kernel for name, option in units.items()}
    for name, window in windows_before(design).items():
        chosen[window.name] = _window_for(units[name].kernel, window, units[name].parallel)
    reads: dict[str, list[str]] = {}
    gives: dict[str, list[str]] = {}
    for stream in design.streams:
        if stream.source and stream.sink:
            reads.setdefault(stream.sink.kernel, []).append(stream.source.kernel)
            gives.setdefault(stream.source.kernel, []).append(stream.sink.kernel)
    # What is before a window takes its width, so from the end to the start; then the others.
    for kernel in reversed(design.kernels):
        if kernel.name in chosen or not hasattr(kernel, "simd"):
            continue
        near = [chosen[n].inputs[0].elements for n in gives.get(kernel.name, ()) if n in chosen]
        chosen[kernel.name] = _wide_enough(kernel, "simd", near, channels, cycles)
    for kernel in design.kernels:
        if kernel.name in chosen or isinstance(kernel, WidthConverter):
            continue
        if not hasattr(kernel, "pe"):
            chosen[kernel.name] = kernel
            continue
        near = [chosen[n].outputs[0].elements for n in reads.get(kernel.name, ()) if n in chosen]
        chosen[kernel.name] = _wide_enough(kernel, "pe", near, channels, cycles)
    kernels, connections = without_converters(design)
    return with_converters([chosen[kernel.name] for kernel in kernels], connections, design.layers)


def _wide_enough(
    kernel: Kernel, name: str, near: Iterable[int], channels: Mapping[str, int], cycles: int
) -> Kernel:
    """The kernel as wide as a neighbour if that will do, else as narrow as it can be."""
    widths = divisors(_divided(kernel, name, channels))
    for width in (*near, *widths):
        if width in widths:
            made: Kernel = replace(kernel, **{name: width})  # type: ignore[type-var]
            if made.cycles <= cycles:
                return made
    raise GraphoptError(
        f"{kernel.name} takes {made.cycles} cycles however wide it is, more than the {cycles} of a "
        "frame."
    )


def fold_within(
    design: Design,
    budget: Resources,
    cost: Callable[[Kernel], Resources],
    *,
    seconds: float = 20.0,
) -> Design:
    """The fastest folding within a budget; of several, the one that takes the least.

    Each unit has one of its foldings, a design's pace is that of its slowest; OR-Tools CP-SAT
    minimises first the cycles, then the shares of the budget that are taken.

    Args:
        design: the design.
        budget: what all kernels together may take; a resource of 0 is not counted.
        cost: what one kernel takes.
        seconds: most time for each of the two searches; the best found so far is taken then.

    Raises:
        GraphoptError: OR-Tools is missing, or nothing fits.
    """
    try:
        from ortools.sat.python import cp_model
    except ImportError:
        raise GraphoptError(
            "the best folding within a budget needs OR-Tools: pip install 'graphopt[plan]'."
        ) from None
    channels = channels_of(design)
    windows = windows_before(design)
    names = [name for name in ("lut", "ff", "bram18", "uram", "dsp") if getattr(budget, name) > 0]
    # The rest follows the units; its narrowest form is counted.
    rest = [k for k in design.kernels if not isinstance(k, MatrixVector | VectorVector | Window)]
    base = {name: sum(getattr(cost(k), name) for k in rest) for name in names}
    problem = cp_model.CpModel()
    slowest = problem.new_int_var(1, 1 << 40, "cycles")
    picked: dict[str, list[tuple[Any, Option, Resources]]] = {}
    for kernel in design.kernels:
        if not isinstance(kernel, MatrixVector | VectorVector):
            continue
        window = windows.get(kernel.name)
        options = []
        for option in _pareto(_options(kernel, window), window, cost, names):
            used, unit = option
            options.append((problem.new_bool_var(""), unit, used))
        problem.add_exactly_one(choice for choice, _, _ in options)
        for choice, unit, _ in options:
            problem.add(slowest >= unit.cycles).only_enforce_if(choice)
        picked[kernel.name] = options
    scale = 16
    for name in names:
        terms = [
            round(getattr(used, name) * scale) * choice
            for options in picked.values()
            for choice, _, used in options
        ]
        limit = int((getattr(budget, name) - base[name]) * scale)
        problem.add(sum(terms) <= limit)
    problem.minimize(slowest)
    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = seconds
    solver.parameters.num_workers = 2
    solver.parameters.random_seed = 1
    if solver.solve(problem) not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        raise GraphoptError("no folding of the model fits the budget.")
    best = int(solver.value(slowest))
    problem.add(slowest <= best)
    problem.minimize(
        sum(
            round(1e6 * sum(getattr(used, name) / getattr(budget, name) for name in names)) * choice
            for options in picked.values()
            for choice, _, used in options
        )
    )
    if solver.solve(problem) not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        raise GraphoptError("no folding of the model fits the budget.")
    units = {
        name: next(unit for choice, unit, _ in options if solver.value(choice))
        for name, options in picked.items()
    }
    return _completed(design, units, channels, best)


def _pareto(
    options: list[Option],
    window: Window | None,
    cost: Callable[[Kernel], Resources],
    names: list[str],
) -> list[tuple[Resources, Option]]:
    """The options that no other beats in cycles and in every resource."""
    costed = []
    for option in options:
        used = cost(option.kernel)
        if window is not None:
            used = used + cost(_window_for(option.kernel, window, option.parallel))
        costed.append((option.cycles, tuple(getattr(used, name) for name in names), used, option))
    costed.sort(key=lambda each: (each[0], each[1]))
    kept: list[tuple[tuple[float, ...], Resources, Option]] = []
    for _, amounts, used, option in costed:
        beaten = any(
            all(a <= b for a, b in zip(other, amounts, strict=True)) for other, _, _ in kept
        )
        if not beaten:
            kept.append((amounts, used, option))
    return [(used, option) for _, used, option in kept]
