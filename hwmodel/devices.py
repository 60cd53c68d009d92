"""FPGAs: what each one has, by FINN's board names or from a file of the user's.

The numbers and their sources are in `data/devices.toml`.
"""

from __future__ import annotations

import difflib
import tomllib
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from graphopt.errors import TargetError
from hwmodel.resources import Resources

Family = Literal["7series", "ultrascale+", "versal"]
"""7-series (Zynq-7000), UltraScale / UltraScale+, Versal: what the LUTs, RAMs and DSPs can do."""

DspKind = Literal["DSP48E1", "DSP48E2", "DSP58"]

_DSP: dict[Family, DspKind] = {"7series": "DSP48E1", "ultrascale+": "DSP48E2", "versal": "DSP58"}
_COUNTED = ("lut", "ff", "bram18", "uram", "dsp")


@dataclass(frozen=True)
class Device:
    """An FPGA.

    Attributes:
        name: how it is called here.
        part: AMD's part name, "" where unknown.
        family: generation of the chip.
        dsp_kind: kind of its multiplier slices.
        lut: 6-input look-up tables.
        ff: flip-flops.
        bram18: half block RAMs of 18 Kbit (two in each RAMB36).
        uram: UltraRAMs of 288 Kbit.
        dsp: multiplier slices.
        aliases: other names: boards, further parts.
        source: where the numbers are from, and what was checked.
    """

    name: str
    part: str
    family: Family
    dsp_kind: DspKind
    lut: int
    ff: int
    bram18: int
    uram: int
    dsp: int
    aliases: tuple[str, ...] = ()
    source: str = field(default="", compare=False)

    def utilisation(self, resources: Resources) -> dict[str, float]:
        """Used share of each resource by name (lut, ff, bram18, uram, dsp); 1 is all of it.

        A resource that the device does not have gives 0 where none is used, else infinity.
        """
        shares = {}
        for name in _COUNTED:
            used, there = float(getattr(resources, name)), int(getattr(self, name))
            shares[name] = used / there if there else float("inf") if used else 0.0
        return shares


class _Entry(BaseModel):
    """A device as it is written in a TOML file."""

    model_config = ConfigDict(extra="forbid", strict=True)

    part: str = ""
    family: Family
    lut: Annotated[int, Field(gt=0)]
    ff: Annotated[int, Field(gt=0)]
    bram36: Annotated[int, Field(gt=0)]
    uram: Annotated[int, Field(ge=0)] = 0
    dsp: Annotated[int, Field(ge=0)]
    dsp_kind: DspKind | None = None
    aliases: list[str] = []
    source: str = ""

    def device(self, name: str) -> Device:
        return Device(
            name=name,
            part=self.part,
            family=self.family,
            dsp_kind=self.dsp_kind or _DSP[self.family],
            lut=self.lut,
            ff=self.ff,
            bram18=2 * self.bram36,
            uram=self.uram,
            dsp=self.dsp,
            aliases=tuple(self.aliases),
            source=self.source,
        )


class _Named(_Entry):
    """A device alone in its file."""

    name: Annotated[str, Field(min_length=1)]


@cache
def devices() -> tuple[Device, ...]:
    """The devices that come with the package, by name."""
    text = (resources.files("hwmodel") / "data" / "devices.toml").read_text(encoding="utf-8")
    entries = tomllib.loads(text)
    return tuple(_Entry.model_validate(entries[name]).device(name) for name in sorted(entries))


@cache
def _by_name() -> dict[str, Device]:
    return {
        name.lower(): device
        for device in devices()
        for name in (device.name, device.part, *device.aliases)
    }


def device(name: str) -> Device:
    """The device of that name, part or board, in any case: ZU7EV, zcu104, Pynq-Z1.

    Raises:
        TargetError: there is none; the message has the names that come close.
    """
    known = _by_name()
    if found := known.get(name.strip().lower()):
        return found
    spelt = {
        alias.lower(): alias for one in devices() for alias in (one.name, one.part, *one.aliases)
    }
    close = difflib.get_close_matches(name.strip().lower(), spelt, n=3)
    names = [spelt[match] for match in close] or [one.name for one in devices()]
    word = "did you mean" if close else "known are"
    raise TargetError(
        f"no device is called '{name}' ({word} {', '.join(names)}): `graphopt devices` lists all, "
        "and --device FILE.toml describes one of your own."
    )


def load(path: Path) -> Device:
    """The device described in a TOML file.

    The file has `name`, `family` (7series, ultrascale+ or versal), `lut`, `ff`, `bram36`, `dsp`,
    and may have `uram` (default 0), `part`, `dsp_kind`, `aliases` and `source`.

    Raises:
        TargetError: it cannot be read, is no TOML, or a field is missing, unknown or no sensible
            value.
    """
    try:
        entry: Any = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise TargetError(f"the device file {path} cannot be read: {reason}.") from error
    except tomllib.TOMLDecodeError as error:
        raise TargetError(f"the device file {path} is no TOML: {error}.") from error
    try:
        named = _Named.model_validate(entry)
    except ValidationError as error:
        raise TargetError(f"the device file {path} is wrong: {_sentence(error)}.") from error
    return named.device(named.name)


def _sentence(error: ValidationError) -> str:
    """Each wrong field and what is wrong with it."""
    wrong = []
    for one in error.errors():
        name = ".".join(str(part) for part in one["loc"])
        if one["type"] == "extra_forbidden":
            known = ", ".join(_Named.model_fields)
            wrong.append(f"field '{name}' is unknown (there are {known})")
        elif one["type"] == "missing":
            wrong.append(f"field '{name}' is missing")
        else:
            text = one["msg"].removeprefix("Input ")
            wrong.append(f"field '{name}' {text[0].lower()}{text[1:]}, not {one['input']!r}")
    return "; ".join(wrong)
