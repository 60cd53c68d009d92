"""Folding: how many words a kernel works on at once.

FINN's terms: PE outputs and SIMD inputs of a matrix-vector unit in each cycle; the other kernels
follow. A unit of MH outputs and MW inputs takes MH / PE x MW / SIMD cycles a pixel, so both must
divide; SIMD beyond the channels of a convolution needs the parallel window.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, TypeAlias

from graphopt.errors import GraphoptError
from hwmodel.design import Design, Stream
from hwmodel.finn.graph import with_converters, without_converters
from hwmodel.kernels import (
    ChannelPadding,
    Concat,
    LabelSelect,
    MatrixVector,
    Shuffle,
    Split,
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
        ram_style: what holds the weights, or what a window holds.
    """

    pe: int | None = None
    simd: int | None = None
    parallel: bool | None = None
    ram_style: str | None = None


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
        for name in ("pe", "simd", "parallel", "ram_style")
        if (value := getattr(wanted, name)) is not None
    }
    for name, value in changes.items():
        if not hasattr(kernel, name):
            raise GraphoptError(f"{kernel.name} ({type(kernel).__name__}) has no {name.upper()}.")
        if name not in ("pe", "simd"):
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
        case Shuffle():
            return kernel.innermost
        case Concat() | Split():
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
            case Split():
                own, made = sum(kernel.channels), math.gcd(*kernel.channels)
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

    Each unit has one of its foldings, its weights in BRAM, LUTRAM or URAM where they are not where
    the kernel says ("auto"); what is as wide as the unit counts with it, and a design's pace is
    that of its slowest kernel. OR-Tools CP-SAT minimises first the cycles, then the shares
    of the budget that are taken. Width converters are known only afterwards: what they took is
    set aside and the search repeated until everything fits.

    Args:
        design: the design.
        budget: what all kernels together may take; a resource of 0 is not counted.
        cost: what one kernel takes.
        seconds: most time for each search; the best found so far is taken then.

    Raises:
        GraphoptError: OR-Tools is missing, or nothing fits.
    """
    names = [name for name in ("lut", "ff", "bram18", "uram", "dsp") if getattr(budget, name) > 0]
    kernels, _ = without_converters(design)
    costs: dict[Kernel, Amounts] = {}

    def amounts(kernel: Kernel) -> Amounts:
        nameless: Kernel = replace(kernel, name="")  # type: ignore[type-var]
        if nameless not in costs:
            used = cost(kernel)
            costs[nameless] = tuple(getattr(used, name) for name in names)
        return costs[nameless]

    limits = tuple(getattr(budget, name) for name in names)
    channels = channels_of(design)
    led, alone = _followers(design)
    windows = windows_before(design)
    none = tuple(0.0 for _ in names)
    base = _sum([none, *map(amounts, alone)])
    least = max((_fastest(kernel, channels).cycles for kernel in kernels), default=0)
    choices = {
        kernel.name: _pareto(
            [
                (option, _sum(map(amounts, _with(option, windows.get(kernel.name), led, channels))))
                for folded in _options(kernel, windows.get(kernel.name))
                for option in _stored(folded, names)
            ]
        )
        for kernel in kernels
        if isinstance(kernel, MatrixVector | VectorVector)
    }
    aside = none
    for _ in range(_ROUNDS):
        free = tuple(limit - b - a for limit, b, a in zip(limits, base, aside, strict=True))
        picked = _searched(choices, free, limits, least, seconds)
        if picked is None:
            break
        cycles = max([least, *(option.cycles for option, _ in picked.values())])
        units = {name: option for name, (option, _) in picked.items()}
        found = _completed(design, units, channels, cycles)
        used = _sum(amounts(kernel) for kernel in found.kernels)
        if all(u <= limit for u, limit in zip(used, limits, strict=True)):
            return found
        modelled = _sum([base, *(each for _, each in picked.values())])
        more = (u - m for u, m in zip(used, modelled, strict=True))
        aside = tuple(max(a, m + 1) for a, m in zip(aside, more, strict=True))
    needs = _sum([base, *map(_least, choices.values())])
    short = [
        f"{round(need)} {name} of {round(limit)}"
        for name, need, limit in zip(names, needs, limits, strict=True)
        if need > limit
    ]
    least_of_all = f": it takes at least {', '.join(short)}" if short else ""
    raise GraphoptError(f"no folding of the model fits the budget{least_of_all}.")


Amounts: TypeAlias = tuple[float, ...]
"""Amounts of the resources that a budget limits."""

_ROUNDS = 8
_SCALE = 16
"""Parts of a LUT that the search tells apart."""


def _stored(option: Option, names: Iterable[str]) -> Iterator[Option]:
    """An option with its weights in each kind of memory that the budget knows."""
    yield option
    if option.kernel.ram_style == "auto":
        for style, name in (("distributed", "lut"), ("block", "bram18"), ("ultra", "uram")):
            if name in names:
                yield replace(option, kernel=replace(option.kernel, ram_style=style))


def _least(options: Iterable[tuple[Option, Amounts]]) -> Amounts:
    return tuple(map(min, zip(*(used for _, used in options), strict=True)))


def _sum(parts: Iterable[Amounts]) -> Amounts:
    return tuple(map(sum, zip(*parts, strict=True)))


def _fastest(kernel: Kernel, channels: Mapping[str, int]) -> Kernel:
    """The kernel as wide as can be; a unit, or its window, as it is."""
    if isinstance(kernel, MatrixVector | VectorVector | Window):
        return _parallel(kernel)
    for name in ("pe", "simd"):
        if hasattr(kernel, name):
            most = _divided(kernel, name, channels)
            return replace(kernel, **{name: most})  # type: ignore[type-var]
    return kernel


def _parallel(kernel: MatrixVector | VectorVector | Window) -> Kernel:
    match kernel:
        case MatrixVector():
            return replace(kernel, pe=kernel.mh, simd=kernel.mw)
        case VectorVector():
            return replace(kernel, pe=kernel.channels, simd=kernel.taps)
        case Window():
            return replace(kernel, simd=kernel.channels, parallel=True)


def _followers(design: Design) -> tuple[dict[tuple[str, str], list[Kernel]], list[Kernel]]:
    """Which kernels are as wide as which unit, as `_completed` makes them.

    Returns:
        For a unit's name and "in" or "out" the kernels that follow that side; and the kernels that
        follow none.
    """
    kernels, connections = without_converters(design)
    reads: dict[str, list[str]] = {}
    gives: dict[str, list[str]] = {}
    for connection in connections:
        if connection.source and connection.sink:
            reads.setdefault(connection.sink.kernel, []).append(connection.source.kernel)
            gives.setdefault(connection.source.kernel, []).append(connection.sink.kernel)
    windows = {window.name: name for name, window in windows_before(design).items()}
    units = {k.name for k in kernels if isinstance(k, MatrixVector | VectorVector)}
    before = {name: (unit, "in") for name, unit in windows.items()}
    before |= {name: (name, "in") for name in units}
    led: dict[tuple[str, str], list[Kernel]] = {}
    alone: list[Kernel] = []
    for kernel in reversed(kernels):
        if kernel.name in before or not hasattr(kernel, "simd"):
            continue
        near = [before[name] for name in gives.get(kernel.name, ()) if name in before]
        if near:
            before[kernel.name] = near[0]
            led.setdefault(near[0], []).append(kernel)
    after = {name: (name, "out") for name in units}
    for kernel in kernels:
        if kernel.name in before:
            continue
        near = [after[name] for name in reads.get(kernel.name, ()) if name in after]
        if near and hasattr(kernel, "pe"):
            after[kernel.name] = near[0]
            led.setdefault(near[0], []).append(kernel)
        else:
            alone.append(kernel)
    return led, alone


def _with(
    option: Option,
    window: Window | None,
    led: Mapping[tuple[str, str], Iterable[Kernel]],
    channels: Mapping[str, int],
) -> Iterator[Kernel]:
    """A folded unit, its window, and the kernels that are as wide as it."""
    unit = option.kernel
    yield unit
    into = unit.inputs[0].elements
    if window is not None:
        feeding = _window_for(unit, window, option.parallel)
        into = feeding.inputs[0].elements
        yield feeding
    for side, field, width in (("in", "simd", into), ("out", "pe", unit.outputs[0].elements)):
        for kernel in led.get((unit.name, side), ()):
            fits = _divided(kernel, field, channels) % width == 0
            yield replace(kernel, **{field: width if fits else 1})  # type: ignore[type-var]


def _searched(
    choices: Mapping[str, list[tuple[Option, Amounts]]],
    free: Amounts,
    limits: Amounts,
    least: int,
    seconds: float,
) -> dict[str, tuple[Option, Amounts]] | None:
    """One option for each unit, with which the slowest is fastest; None where nothing fits."""
    try:
        from ortools.sat.python import cp_model
    except ImportError:
        raise GraphoptError(
            "the best folding within a budget needs OR-Tools: pip install 'graphopt[plan]'."
        ) from None
    every = [(name, *each) for name, options in choices.items() for each in options]
    places = range(len(limits))
    taken = [[math.ceil(used[place] * _SCALE) for _, _, used in every] for place in places]
    room = [math.floor(limit * _SCALE) for limit in free]
    shares = [round(1e6 * sum(used[p] / limits[p] for p in places)) for _, _, used in every]

    def solved(cycles: int, *, least_taken: bool) -> dict[str, tuple[Option, Amounts]] | None:
        problem = cp_model.CpModel()
        picks = [
            (index, name, problem.new_bool_var(""))
            for index, (name, option, _) in enumerate(every)
            if option.cycles <= cycles
        ]
        of_unit: dict[str, list[Any]] = {name: [] for name in choices}
        for _, name, pick in picks:
            of_unit[name].append(pick)
        for options in of_unit.values():
            problem.add_exactly_one(options)
        for place in places:
            problem.add(sum(taken[place][i] * pick for i, _, pick in picks) <= room[place])
        if least_taken:
            problem.minimize(sum(shares[i] * pick for i, _, pick in picks))
        solver = cp_model.CpSolver()
        solver.parameters.max_time_in_seconds = seconds
        solver.parameters.num_workers = 1  # the same answer every time
        solver.parameters.random_seed = 1
        if solver.solve(problem) not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
            return None
        return {name: every[i][1:] for i, name, pick in picks if solver.value(pick)}

    # No design is faster than its slowest unit at its fastest.
    floor = max([least, *(min(o.cycles for o, _ in options) for options in choices.values())])
    paces = sorted({floor, *(o.cycles for _, o, _ in every if o.cycles > floor)})
    low, high = 0, len(paces) - 1
    if solved(paces[high], least_taken=False) is None:
        return None
    while low < high:
        middle = (low + high) // 2
        if solved(paces[middle], least_taken=False) is None:
            low = middle + 1
        else:
            high = middle
    return solved(paces[low], least_taken=True) or solved(paces[low], least_taken=False)


def _pareto(options: list[tuple[Option, Amounts]]) -> list[tuple[Option, Amounts]]:
    """The options that no other beats in cycles and in every resource."""
    kept: list[tuple[Option, Amounts]] = []
    for option, amounts in sorted(options, key=lambda each: (each[0].cycles, each[1])):
        if not any(all(a <= b for a, b in zip(k, amounts, strict=True)) for _, k in kept):
            kept.append((option, amounts))
    return kept
