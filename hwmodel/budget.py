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
lut = "2%"               # how much more is allowed; a number is an amount
fps = "1%"               # how much less

[[layer]]
name = "layer1/conv1"
lut = 2000
cycles = 100_000

[[stream]]
name = "add1.skip"
depth = 512
"""

from __future__ import annotations

import difflib
import json
import math
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, ValidationError

from graphopt.errors import GraphoptError
from hwmodel.estimates import Estimate

Level = Literal["ok", "over", "unknown"]

_RESOURCES = ("lut", "ff", "bram18", "uram", "dsp")
_TIMES = ("latency", "fps")


@dataclass(frozen=True)
class Finding:
    """One limit, held against an estimate.

    Attributes:
        rule: which, such as "limits.lut" or "regression.fps".
        value, limit: in `unit`; a value of None is not known, or not a number.
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

    @property
    def quantity(self) -> str:
        """What is limited: the rule without its table."""
        return self.rule.partition(".")[2]


def _number(value: object) -> float:
    """A finite number that is not negative; TOML has nan, inf and booleans too."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError("is no number: write one such as 1000")
    if value < 0:
        raise ValueError("must not be negative")
    return value


def _positive(value: object) -> float:
    if not (number := _number(value)):
        raise ValueError("must be more than 0")
    return number


def _amount(value: object) -> float | str:
    if not isinstance(value, str):
        return _number(value)
    try:
        _number(_percent(value))
    except ValueError:
        raise ValueError("is no amount: write a number, or a share such as '80%'") from None
    return value


def _percent(share: str) -> float:
    """80 of "80%".

    Raises:
        ValueError: it is none.
    """
    if not share.endswith("%"):
        raise ValueError
    return float(share.removesuffix("%"))


_Amount = Annotated[float | str, BeforeValidator(_amount)]
_Number = Annotated[float, BeforeValidator(_number)]
_Positive = Annotated[float, BeforeValidator(_positive)]
_Flag = Annotated[bool, Field(strict=True)]
_Name = Annotated[str, Field(strict=True)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Limits(_Table):
    """The table [limits]."""

    lut: _Amount | None = None
    ff: _Amount | None = None
    bram18: _Amount | None = None
    bram36: _Amount | None = None
    uram: _Amount | None = None
    dsp: _Amount | None = None
    fifo_bits: _Number | None = None
    skip_bits: _Number | None = None
    min_fps: _Positive | None = None
    max_latency_ms: _Positive | None = None
    max_interval: _Positive | None = None
    deadlock_free: _Flag = False


class Regression(_Table):
    """The table [regression]: the baseline, and how much worse each quantity may be."""

    baseline: _Name
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

    name: _Name
    lut: _Number | None = None
    ff: _Number | None = None
    bram18: _Number | None = None
    uram: _Number | None = None
    dsp: _Number | None = None
    cycles: _Positive | None = None


class StreamLimit(_Table):
    """One table [[stream]]: a FIFO's own limits."""

    name: _Name
    depth: _Number | None = None
    bits: _Number | None = None


class Budget(_Table):
    """A budget file; see the module."""

    limits: Limits = Limits()
    regression: Regression | None = None
    layer: tuple[LayerLimit, ...] = ()
    stream: tuple[StreamLimit, ...] = ()
    _folder: Path = PrivateAttr(default=Path())

    @property
    def folder(self) -> Path:
        """Where the path of the baseline starts."""
        return self._folder

    @classmethod
    def load(cls, path: Path) -> Budget:
        """Reads a budget.

        Raises:
            GraphoptError: the file cannot be read, is no TOML, has an entry that is wrong, or
                limits nothing, so that everything would pass.
        """
        try:
            entries = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise GraphoptError(f"the budget {path} cannot be read: {error.strerror}.") from None
        except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise GraphoptError(f"the budget {path} is no TOML file: {error}.") from None
        try:
            budget = cls.model_validate(entries)
        except ValidationError as error:
            raise GraphoptError(f"the budget {path} is wrong: {_sentence(error)}.") from None
        if idle := budget._idle():
            raise GraphoptError(f"the budget {path} is wrong: {idle}.")
        budget._folder = path.parent
        return budget

    def _idle(self) -> str:
        """Which table limits nothing, and what it may hold; "" if none is there in vain."""
        tables: list[tuple[str, _Table]] = [
            *((f"[[layer]] '{each.name}'", each) for each in self.layer),
            *((f"[[stream]] '{each.name}'", each) for each in self.stream),
        ]
        if self.regression is not None:
            tables.append(("[regression]", self.regression))
        if not tables:
            tables.append(("[limits]", self.limits))
        for title, each in tables:
            entries = each.model_dump(exclude={"name", "baseline"})
            if not any(value is not None and value is not False for value in entries.values()):
                return f"{title} limits nothing; give it one of {', '.join(entries)}"
        return ""


_TABLES: Mapping[str, type[_Table]] = {
    "limits": Limits, "regression": Regression, "layer": LayerLimit, "stream": StreamLimit,
}  # fmt: skip


def _sentence(error: ValidationError) -> str:
    """The first wrong entry, what is wrong with it, and what would be right."""
    first = error.errors()[0]
    path = [part + 1 if isinstance(part, int) else part for part in first["loc"]]
    known = list(_TABLES)
    if len(path) > 1 and path[0] in _TABLES:
        known = list(_TABLES[str(path[0])].model_fields)
        # A key, and not pydantic's name for a branch of a union behind it.
        path = path[: 3 if isinstance(path[1], int) else 2]
    entry = ".".join(map(str, path))
    match first["type"]:
        case "extra_forbidden":
            close = difflib.get_close_matches(str(path[-1]), known, n=1)
            meant = f"did you mean {close[0]}? It" if close else "it"
            return f"'{entry}' is no entry of a budget; {meant} may have {', '.join(known)}"
        case "missing":
            return f"'{entry}' is missing: write it into the table"
        case "value_error":
            what = first["msg"].removeprefix("Value error, ")
            return f"'{entry}' is {first['input']!r}, which {what}"
        case "model_type" | "tuple_type":
            title = f"[[{path[0]}]]" if path[0] in ("layer", "stream") else f"[{entry}]"
            return f"'{entry}' must be a table: write {title} above its entries"
        case "bool_type":
            return f"'{entry}' must be true or false, not {first['input']!r}"
    return f"'{entry}': {first['msg']}, not {first['input']!r}"


def check(estimate: Estimate, budget: Budget) -> tuple[Finding, ...]:
    """Every limit of the budget held against the estimate, those that are kept too.

    Raises:
        GraphoptError: the baseline cannot be read or is of another design, or a layer or stream
            is not in the design.
    """
    return (
        *_limits(estimate, budget.limits),
        *_regression(estimate, budget),
        *_layers(estimate, budget.layer),
        *_streams(estimate, budget.stream),
    )


def _shown(number: float) -> str:
    """A number for people: 1,234,567 or 2.139; never 1.23e+06."""
    if not math.isfinite(number):
        return "not a number"
    if abs(number) < 100:
        return f"{number:.4g}"
    return f"{number:,.2f}".rstrip("0").rstrip(".")


def _at_most(
    rule: str, value: float, limit: float, unit: str, where: str = "", note: str = ""
) -> Finding:
    if not math.isfinite(value):
        text = f"{where + ': ' if where else ''}{unit} could not be worked out"
        return Finding(rule, None, limit, unit, where, "unknown", text)
    over = value > limit
    text = f"{where + ': ' if where else ''}{_shown(value)} {unit}, "
    text += f"{'over' if over else 'within'} the limit of {_shown(limit)}{note}"
    return Finding(rule, value, limit, unit, where, "over" if over else "ok", text)


def _limits(estimate: Estimate, limits: Limits) -> Iterator[Finding]:
    for name in _RESOURCES:
        amount = getattr(limits, name)
        if amount is not None:
            there = float(getattr(estimate.device, name))
            value = float(getattr(estimate.resources, name))
            yield _resource(estimate, name, value, amount, there)
    if limits.bram36 is not None:
        there = estimate.device.bram18 / 2
        yield _resource(estimate, "bram36", estimate.resources.bram18 / 2, limits.bram36, there)
    for name, unit in (("fifo_bits", "FIFO bits"), ("skip_bits", "bits in skip FIFOs")):
        most = getattr(limits, name)
        if most is not None:
            yield _at_most(f"limits.{name}", getattr(estimate, name), most, unit)
    note = _how(estimate)
    if limits.max_interval is not None:
        yield _at_most(
            "limits.max_interval", estimate.interval, limits.max_interval, "cycles a frame",
            note=note,
        )  # fmt: skip
    if limits.max_latency_ms is not None:
        value = estimate.latency_s * 1e3
        yield _at_most(
            "limits.max_latency_ms", value, limits.max_latency_ms, "ms of latency", note=note
        )
    if limits.min_fps is not None:
        low = estimate.fps < limits.min_fps
        yield Finding(
            "limits.min_fps",
            estimate.fps,
            limits.min_fps,
            "fps",
            "",
            "over" if low else "ok",
            f"{_shown(estimate.fps)} frames a second, {'below' if low else 'at least'} "
            f"the {_shown(limits.min_fps)} asked for{note}",
        )
    if limits.deadlock_free:
        yield _deadlock(estimate)


def _how(estimate: Estimate) -> str:
    """What to know of a time that was not simulated."""
    return "" if estimate.simulated else " (not simulated: --simulate makes sure)"


def _resource(
    estimate: Estimate, name: str, value: float, amount: float | str, there: float
) -> Finding:
    """A resource against an amount, or against a share of what is there."""
    limit, note = amount, ""
    if isinstance(amount, str):
        limit, note = there * _percent(amount) / 100, f" ({amount} of {estimate.device.name})"
    return _at_most(f"limits.{name}", value, float(limit), name.upper(), note=note)


def _deadlock(estimate: Estimate) -> Finding:
    level: Level
    match estimate.deadlock_free:
        case True:
            level, text = "ok", "free of deadlock"
        case False:
            level, text = "over", "deadlocks with these FIFO depths: --sizing joint finds others"
        case _:
            level, text = "unknown", "not known to be free of deadlock: run with --simulate"
    value = None if estimate.deadlock_free is None else float(estimate.deadlock_free)
    return Finding("limits.deadlock_free", value, 1, "", "", level, text)


def _regression(estimate: Estimate, budget: Budget) -> Iterator[Finding]:
    rules = budget.regression
    if rules is None:
        return
    timed = any(getattr(rules, name) is not None for name in _TIMES)
    before = _baseline(budget.folder / rules.baseline, estimate, timed=timed)
    for name, value in _quantities(estimate).items():
        allowed = getattr(rules, name)
        if allowed is not None:
            yield _growth(name, before[name], value, allowed)


def _quantities(estimate: Estimate) -> dict[str, float]:
    return {
        **{name: float(getattr(estimate.resources, name)) for name in _RESOURCES},
        "fifo_bits": estimate.fifo_bits,
        "skip_bits": estimate.skip_bits,
        "latency": estimate.latency_s,
        "fps": estimate.fps,
    }


def _growth(name: str, old: float, value: float, allowed: float | str) -> Finding:
    """One quantity against the baseline; all but fps are worse when they grow."""
    rule, change = f"regression.{name}", f"{name} {_shown(old)} -> {_shown(value)}"
    worse = old - value if name == "fps" else value - old
    if isinstance(allowed, str):
        limit, unit, sign = _percent(allowed), "%", " %"
        if worse > 0 and not old:
            text = f"{change}: there was none before, and {allowed} of none is none"
            return Finding(rule, None, limit, unit, "", "over", text)
        worse = worse / old * 100 if old else 0.0
    else:
        limit, unit, sign = allowed, name, ""
    if not math.isfinite(worse):
        text = f"{change} could not be compared"
        return Finding(rule, None, limit, unit, "", "unknown", text)
    # A growth of exactly the share allowed must pass in spite of rounding.
    over = worse > limit + 1e-9
    much = f"{_shown(worse)}{sign} worse" if worse > 0 else "no worse"
    text = f"{change}: {much}, {'over' if over else 'within'} the {_shown(limit)}{sign} allowed"
    return Finding(rule, worse, limit, unit, "", "over" if over else "ok", text)


def _baseline(path: Path, estimate: Estimate, *, timed: bool) -> dict[str, float]:
    """What a stored estimate says.

    Args:
        path: of the JSON file.
        estimate: what it will be compared with.
        timed: whether times are compared, which are only alike if both are simulated or neither.

    Raises:
        GraphoptError: it cannot be read, is no estimate, or cannot be compared.
    """
    write = "write it with graphopt cost ... --format json -o FILE"
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise GraphoptError(
            f"the baseline {path} cannot be read ({error.strerror}): {write}."
        ) from None
    except ValueError:
        raise GraphoptError(f"the baseline {path} is no JSON file: {write}.") from None
    try:
        resources: Mapping[str, Any] = stored["resources"]
        now: dict[str, object] = {"device": estimate.device.name, "backend": estimate.backend}
        if timed:
            now["simulated"] = estimate.simulated
        then = {key: stored[key] for key in now}
        values = {
            **{name: float(resources[name]) for name in _RESOURCES},
            "fifo_bits": float(stored["fifo_bits"]),
            "skip_bits": float(stored["skip_bits"]),
            "latency": float(stored["latency_s"]),
            "fps": float(stored["fps"]),
        }
        if not all(map(math.isfinite, values.values())):
            raise ValueError
    except (KeyError, TypeError, ValueError):
        raise GraphoptError(
            f"the baseline {path} is no result of graphopt cost --format json: {write}."
        ) from None
    for key, value in now.items():
        if then[key] != value:
            raise GraphoptError(
                f"the baseline {path} cannot be compared, because its {key} is {then[key]!r} and "
                f"not {value!r}: write it again with the options of now."
            )
    return values


def _layers(estimate: Estimate, limits: tuple[LayerLimit, ...]) -> Iterator[Finding]:
    for limit in limits:
        kernels = [k for k in estimate.kernels if limit.name in (k.layer, k.name)]
        if not kernels:
            names = (name for k in estimate.kernels for name in (k.layer, k.name))
            raise _absent("layer", limit.name, names)
        for name in _RESOURCES:
            most = getattr(limit, name)
            if most is not None:
                value = sum(getattr(kernel.resources, name) for kernel in kernels)
                yield _at_most(f"layer.{name}", value, most, name.upper(), limit.name)
        if limit.cycles is not None:
            cycles = max(kernel.cycles for kernel in kernels)
            yield _at_most("layer.cycles", cycles, limit.cycles, "cycles", limit.name)


def _streams(estimate: Estimate, limits: tuple[StreamLimit, ...]) -> Iterator[Finding]:
    for limit in limits:
        stream = next((s for s in estimate.streams if s.name == limit.name), None)
        if stream is None:
            raise _absent("stream", limit.name, (s.name for s in estimate.streams))
        if limit.depth is not None:
            yield _at_most("stream.depth", stream.depth, limit.depth, "words", limit.name)
        if limit.bits is not None:
            yield _at_most("stream.bits", stream.bits, limit.bits, "bits", limit.name)


def _absent(kind: str, name: str, there: Iterable[str]) -> GraphoptError:
    close = difflib.get_close_matches(name, sorted(set(there)), n=3)
    cure = "graphopt cost ... --format json lists them."
    if close:
        cure = f"did you mean {' or '.join(map(repr, close))}?"
    return GraphoptError(f"the budget names a {kind} '{name}' that is not there: {cure}")
