"""What a piece of hardware takes of a device."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Resources:
    """Amounts of each kind of logic.

    Attributes:
        lut: look-up tables, those used as memory or shift register among them.
        ff: flip-flops.
        srl: look-up tables used as shift registers (SRL16 / SRL32); a part of `lut`.
        lutram: look-up tables used as memory; a part of `lut`.
        bram18: half block RAMs of 18 Kbit; a whole one counts 2.
        uram: UltraRAMs of 288 Kbit.
        dsp: multiplier slices.
    """

    lut: float = 0
    ff: float = 0
    srl: float = 0
    lutram: float = 0
    bram18: float = 0
    uram: float = 0
    dsp: float = 0

    def __add__(self, other: Resources) -> Resources:
        return Resources(
            *(getattr(self, f.name) + getattr(other, f.name) for f in fields(Resources))
        )

    def __mul__(self, factor: float) -> Resources:
        return Resources(*(getattr(self, f.name) * factor for f in fields(Resources)))


def total(parts: Iterable[Resources]) -> Resources:
    """The sum of all parts."""
    result = Resources()
    for part in parts:
        result += part
    return result
