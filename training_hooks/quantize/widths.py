"""How many bits the quantizers of a network have."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from graphopt.errors import GraphoptError


@dataclass(frozen=True)
class Widths:
    """Bits of the quantizers.

    Attributes:
        weight, activation: bits in general.
        first, last: (weight, activation) of the first and the last layer. Those of an activation
            are the most that a layer which reads it has.
        layers: the same for layers by the name of their module.
    """

    weight: int
    activation: int
    first: tuple[int, int] = (8, 8)
    last: tuple[int, int] = (8, 8)
    layers: Mapping[str, tuple[int, int]] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        pairs = ((self.weight, self.activation), self.first, self.last, *self.layers.values())
        if not all(2 <= bits <= 16 for pair in pairs for bits in pair):
            raise GraphoptError(
                "weights and activations can have 2 to 16 bits: one bit needs other quantizers, "
                "and float32 cannot tell more apart."
            )

    @classmethod
    def parse(cls, text: str) -> Widths:
        """Reads `w4a4`, or `w4a4,first=w8a8,last=w8,NAME=w2a2`; NAME is that of a module.

        The form is that of the command's `--bits`; here the first and the last layer have 8 bits
        where nothing else is said.

        Raises:
            GraphoptError: not of this form, or a width outside 2 ... 16.
        """
        general, *others = text.replace(" ", "").split(",")
        weight, activation = _pair(general, text)
        if weight is None or activation is None:
            raise GraphoptError(_HOW.format(text))
        named: dict[str, tuple[int, int]] = {}
        for part in others:
            name, _, value = part.rpartition("=")
            if not name or name in named:
                raise GraphoptError(_HOW.format(text))
            own = _pair(value, text)
            named[name] = (own[0] or weight, own[1] or activation)
        first, last = (named.pop(name, (8, 8)) for name in ("first", "last"))
        return cls(weight, activation, first, last, MappingProxyType(named))

    def of(self, index: int, count: int, name: str) -> tuple[int, int]:
        """Weight and activation bits of layer `index` of `count`, which has this name."""
        if name in self.layers:
            return self.layers[name]
        if index == 0:
            return self.first
        return self.last if index == count - 1 else (self.weight, self.activation)


_HOW = "'{}' is no width: write w4a4, or w4a4,first=w8a8,last=w8a8, or NAME=w8a8 for a layer."


def _pair(text: str, whole: str) -> tuple[int | None, int | None]:
    match = re.fullmatch(r"(?:w(\d{1,2}))?(?:a(\d{1,2}))?", text)
    if not match or not text:
        raise GraphoptError(_HOW.format(whole))
    weight, activation = (None if bits is None else int(bits) for bits in match.groups())
    return weight, activation
