"""`Terms`: what a kernel takes, before the coefficients are put in.

A kernel's LUTs are what follows from its structure (memories, shift registers), plus a few terms,
each a count that the RTL or HLS source explains, times a coefficient fitted to Vivado results. So
an estimate grows with PE, SIMD and bits as the hardware does, far outside the data too.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache, singledispatch
from importlib.resources import files
from types import MappingProxyType

from graphopt.errors import GraphoptError
from hwmodel.kernels.kernel import Kernel
from hwmodel.resources import Resources
from hwmodel.streaming.fabric import Fabric, fabric

Coefficients = Mapping[str, Mapping[str, float]]
"""Table name ("MatrixVector.hls.lut") to term to coefficient."""

_NOTHING = Resources()


@dataclass(frozen=True)
class Terms:
    """What a kernel takes.

    Attributes:
        group: kind of kernel whose coefficients apply: "MatrixVector.hls".
        known: what follows from the structure alone.
        lut, ff: counts that a coefficient multiplies.
        fitted: whether Vivado results of this kind of kernel set the coefficients.
    """

    group: str
    known: Resources = _NOTHING
    lut: Mapping[str, float] = field(default_factory=dict)
    ff: Mapping[str, float] = field(default_factory=dict)
    fitted: bool = True


@dataclass(frozen=True)
class Part:
    """What a kernel needs to know of the device.

    Attributes:
        fabric: the family's.
        dsps: multipliers on the device; Vivado makes of LUTs what goes beyond.
    """

    fabric: Fabric
    dsps: int | None = None


@singledispatch
def terms(kernel: Kernel, part: Part) -> Terms:
    """The terms of a kernel.

    Raises:
        GraphoptError: a kernel of a class that the model does not know.
    """
    raise GraphoptError(
        f"{kernel.name} is a {type(kernel).__name__}, for which the streaming model has no "
        f"resources: register one with hwmodel.streaming.terms.register."
    )


@cache
def coefficients() -> Coefficients:
    """The coefficients shipped with the package, from data/streaming.toml."""
    text = files("hwmodel").joinpath("data", "streaming.toml").read_text(encoding="utf-8")
    tables = tomllib.loads(text)["coefficients"]
    return MappingProxyType({name: MappingProxyType(table) for name, table in tables.items()})


def resources(
    kernel: Kernel,
    *,
    family: str = "7series",
    dsps: int | None = None,
    using: Coefficients | None = None,
) -> Resources:
    """What a kernel takes of a device, FIFOs around it not counted.

    Fitted on Vivado's out-of-context results for an xc7z020; for other families the memory
    primitives and multipliers change and the coefficients stay.

    Args:
        kernel: the kernel.
        family: "7series", "ultrascale+" or "versal".
        dsps: multipliers on the device; Vivado makes of LUTs what one kernel needs beyond.
        using: coefficients; default: those of the package.

    Raises:
        GraphoptError: a kernel or a family that the model does not know.
    """
    what = terms(kernel, Part(fabric(family), dsps))
    tables = coefficients() if using is None else using
    lut = _weigh(what.lut, tables, f"{what.group}.lut")
    ff = _weigh(what.ff, tables, f"{what.group}.ff")
    return replace(what.known, lut=round(what.known.lut + lut), ff=round(what.known.ff + ff))


def fitted(kernel: Kernel) -> bool:
    """Whether Vivado results of this kind of kernel set its coefficients."""
    return terms(kernel, Part(fabric("7series"))).fitted


def _weigh(counts: Mapping[str, float], tables: Coefficients, name: str) -> float:
    if not counts:
        return 0.0
    table = tables[name]
    return sum(table[term] * count for term, count in counts.items())
