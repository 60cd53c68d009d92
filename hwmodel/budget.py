"""Budgets: what a design may cost, as a file that CI checks.

[limits]
lut = "70%"              # of the device, or a number
bram18 = 200
fifo_bits = 100_000
min_fps = 1000
max_latency_ms = 5
deadlock_free = true

[regression]             # against what `graphopt cost ... --format json` wrote before
baseline = "cost.json"   # beside this file
lut = "2%"               # how much more is allowed
fps = "1%"               # how much less

[[stream]]
name = "add1.skip"
depth = 512
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from graphopt.errors import GraphoptError
from hwmodel.estimates import Estimate

Level = Literal["ok", "over", "unknown"]

_RESOURCES = ("lut", "ff", "bram18", "uram", "dsp")


@dataclass(frozen=True)
class Finding:
    """One limit, held against an estimate.

    Attributes:
        rule: which, such as "limits.lut" or "regression.fps".
        value, limit: in `unit`; None where the value is not known.
        unit: "LUT", "fps", "%" ...
        where: the layer or stream it is about; "" for the whole.
        level: "ok", "over", or "unknown" where it could not be checked, which counts as over.
        message: for people.
    """

    rule: str
    value: float | None
    limit: float
    unit: str
    where: str
    level: Level
    message: str


def _share(value: float | str) -> float | str:
    if isinstance(value, str):
        number = value.removesuffix("%")
        try:
            good = value.endswith("%") and float(number) >= 0
        except ValueError:
            good = False
        if not good:
            raise ValueError("write a number, or a share such as '80%'")
    elif value < 0:
        raise ValueError("it must not be negative")
    return value


_Amount = Annotated[float | str, AfterValidator(_share)]
_Positive = Annotated[float, Field(gt=0)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Limits(_Table):
    """The table [limits]."""

    lut: _Amount | None = None
    ff: _Amount | None = None
    bram18: _Amount | None = None
    bram36: _Amount | None = None
    uram: _Amount | None = None
    dsp: _Amount | None = None
    fifo_bits: Annotated[int, Field(ge=0)] | None = None
    skip_bits: Annotated[int, Field(ge=0)] | None = None
    min_fps: _Positive | None = None
    max_latency_ms: _Positive | None = None
    max_interval: Annotated[int, Field(gt=0)] | None = None
    deadlock_free: bool = False


class Regression(_Table):
    """The table [regression]: the baseline, and how much worse each quantity may be."""

    baseline: str
    lut: _Amount | None = None
    ff: _Amount | None = None
    bram18: _Amount | None = None
    uram: _Amount | None = None
    dsp: _Amount | None = None
    fifo_bits: _Amount | None = None
    skip_bits: _Amount | None = None
    latency: _Amount | None = None
    fps: _Amount | None = None


class LayerLimit(_Table):
    """One table [[layer]]: a layer's own limits."""

    name: str
    lut: Annotated[float, Field(ge=0)] | None = None
    ff: Annotated[float, Field(ge=0)] | None = None
    bram18: Annotated[float, Field(ge=0)] | None = None
    uram: Annotated[float, Field(ge=0)] | None = None
    dsp: Annotated[float, Field(ge=0)] | None = None
    cycles: Annotated[int, Field(gt=0)] | None = None


class StreamLimit(_Table):
    """One table [[stream]]: a FIFO's own limits."""

    name: str
    depth: Annotated[int, Field(ge=0)] | None = None
    bits: Annotated[int, Field(ge=0)] | None = None


class Budget(_Table):
    """A budget file; see the module."""

    limits: Limits = Limits()
    regression: Regression | None = None
    layer: tuple[LayerLimit, ...] = ()
    stream: tuple[StreamLimit, ...] = ()
    folder: Path = Field(default=Path(), exclude=True)

    @classmethod
    def load(cls, path: Path) -> Budget:
        """Reads a budget.

        Raises:
            GraphoptError: the file cannot be read, is no TOML, or has an entry that is wrong.
        """
        try:
            text = path.read_text(encoding="utf-8")
            entries = tomllib.loads(text)
        except OSError as error:
            raise GraphoptError(f"{path} cannot be read: {error.strerror}.") from None
        except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise GraphoptError(f"{path} is no TOML file: {error}.") from None
        if "folder" in entries:
            raise GraphoptError(f"{path}: 'folder' is no entry of a budget.")
        try:
            return cls(**entries, folder=path.parent)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"] if not _is_type(part))
            what = first["msg"].removeprefix("Value error, ")
            raise GraphoptError(f"{path}: {where or 'an entry'}: {what}.") from None


def _is_type(part: object) -> bool:
    """Whether a part of pydantic's path is one of its own names for a branch of a union."""
    return isinstance(part, str) and (part in ("float", "str", "int") or "function" in part)


def check(estimate: Estimate, budget: Budget) -> tuple[Finding, ...]:
    """Every limit of the budget held against the estimate, those that are kept too.

    Raises:
        GraphoptError: the baseline cannot be read, or a layer or stream is not in the design.
    """
    return (
        *_limits(estimate, budget.limits),
        *_regression(estimate, budget),
        *_layers(estimate, budget.layer),
        *_streams(estimate, budget.stream),
    )


def _at_most(
    rule: str, value: float, limit: float, unit: str, where: str = "", note: str = ""
) -> Finding:
    over = value > limit
    text = f"{where + ': ' if where else ''}{value:,.6g} {unit}, {'over' if over else 'within'} "
    text += f"the limit of {limit:,.6g}{note}"
    return Finding(rule, value, limit, unit, where, "over" if over else "ok", text)


def _limits(estimate: Estimate, limits: Limits) -> Iterator[Finding]:
    for name in _RESOURCES:
        amount = getattr(limits, name)
        if amount is not None:
            there = float(getattr(estimate.device, name))
            yield _resource(estimate, f"limits.{name}", name, amount, there, 1)
    if limits.bram36 is not None:
        there = estimate.device.bram18 / 2
        yield _resource(estimate, "limits.bram36", "bram18", limits.bram36, there, 2, "BRAM36")
    if limits.fifo_bits is not None:
        yield _at_most("limits.fifo_bits", estimate.fifo_bits, limits.fifo_bits, "FIFO bits")
    if limits.skip_bits is not None:
        yield _at_most(
            "limits.skip_bits", estimate.skip_bits, limits.skip_bits, "bits in skip FIFOs"
        )
    if limits.max_interval is not None:
        yield _at_most(
            "limits.max_interval", estimate.interval, limits.max_interval, "cycles a frame"
        )
    if limits.max_latency_ms is not None:
        value = estimate.latency_s * 1e3
        yield _at_most("limits.max_latency_ms", value, limits.max_latency_ms, "ms of latency")
    if limits.min_fps is not None:
        low = estimate.fps < limits.min_fps
        yield Finding(
            "limits.min_fps",
            estimate.fps,
            limits.min_fps,
            "fps",
            "",
            "over" if low else "ok",
            f"{estimate.fps:,.6g} frames a second, {'below' if low else 'at least'} "
            f"the {limits.min_fps:,.6g} asked for",
        )
    if limits.deadlock_free:
        yield _deadlock(estimate)


def _resource(
    estimate: Estimate,
    rule: str,
    name: str,
    amount: float | str,
    there: float,
    per: int,
    unit: str | None = None,
) -> Finding:
    value = float(getattr(estimate.resources, name)) / per
    limit, note = (
        (amount, "")
        if not isinstance(amount, str)
        else (
            there * float(amount.removesuffix("%")) / 100,
            f" ({amount} of {estimate.device.name})",
        )
    )
    return _at_most(rule, value, float(limit), unit or name.upper(), note=note)


def _deadlock(estimate: Estimate) -> Finding:
    level: Level
    match estimate.deadlock_free:
        case True:
            level, text = "ok", "free of deadlock"
        case False:
            level, text = "over", "deadlocks with these FIFO depths"
        case _:
            level, text = "unknown", "not known to be free of deadlock: run with --simulate"
    value = None if estimate.deadlock_free is None else float(estimate.deadlock_free)
    return Finding("limits.deadlock_free", value, 1, "", "", level, text)


def _regression(estimate: Estimate, budget: Budget) -> Iterator[Finding]:
    rules = budget.regression
    if rules is None:
        return
    before = _baseline(budget.folder / rules.baseline)
    now: dict[str, float] = {
        **{name: float(getattr(estimate.resources, name)) for name in _RESOURCES},
        "fifo_bits": estimate.fifo_bits,
        "skip_bits": estimate.skip_bits,
        "latency": estimate.latency_s,
        "fps": estimate.fps,
    }
    for name, value in now.items():
        allowed = getattr(rules, name)
        if allowed is None:
            continue
        old = before[name]
        worse = old - value if name == "fps" else value - old
        share = isinstance(allowed, str)
        limit = float(allowed.removesuffix("%")) if isinstance(allowed, str) else float(allowed)
        grown = worse / old * 100 if share and old else worse
        if share and not old:
            grown = 0.0 if worse <= 0 else float("inf")
        unit = "%" if share else name
        over = grown > limit + 1e-9
        yield Finding(
            f"regression.{name}", grown, limit, unit, "", "over" if over else "ok",
            f"{name} {old:,.6g} -> {value:,.6g}: {max(grown, 0):.3g} {unit} worse, "
            f"{'over' if over else 'within'} the {limit:g} {unit} allowed",
        )  # fmt: skip


def _baseline(path: Path) -> dict[str, float]:
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise GraphoptError(
            f"the baseline {path} cannot be read ({error.strerror}): write it with graphopt cost "
            "--format json."
        ) from None
    except ValueError:
        raise GraphoptError(f"the baseline {path} is no JSON file.") from None
    try:
        resources: Mapping[str, Any] = stored["resources"]
        return {
            **{name: float(resources[name]) for name in _RESOURCES},
            "fifo_bits": float(stored["fifo_bits"]),
            "skip_bits": float(stored["skip_bits"]),
            "latency": float(stored["latency_s"]),
            "fps": float(stored["fps"]),
        }
    except (KeyError, TypeError, ValueError):
        raise GraphoptError(
            f"the baseline {path} is no result of graphopt cost --format json."
        ) from None


def _layers(estimate: Estimate, limits: tuple[LayerLimit, ...]) -> Iterator[Finding]:
    for limit in limits:
        kernels = [k for k in estimate.kernels if limit.name in (k.layer, k.name)]
        if not kernels:
            raise GraphoptError(f"the budget names a layer '{limit.name}' that is not there.")
        for name in _RESOURCES:
            most = getattr(limit, name)
            if most is not None:
                value = sum(getattr(kernel.resources, name) for kernel in kernels)
                yield _at_most(f"layer.{name}", value, most, name.upper(), limit.name)
        if limit.cycles is not None:
            value = max(kernel.cycles for kernel in kernels)
            yield _at_most("layer.cycles", value, limit.cycles, "cycles", limit.name)


def _streams(estimate: Estimate, limits: tuple[StreamLimit, ...]) -> Iterator[Finding]:
    for limit in limits:
        stream = next((s for s in estimate.streams if s.name == limit.name), None)
        if stream is None:
            raise GraphoptError(f"the budget names a stream '{limit.name}' that is not there.")
        if limit.depth is not None:
            yield _at_most("stream.depth", stream.depth, limit.depth, "words", limit.name)
        if limit.bits is not None:
            yield _at_most("stream.bits", stream.bits, limit.bits, "bits", limit.name)
