"""Element types of a stream, with the names that QONNX and FINN give them.

Only what hardware needs is kept: how many bits, and whether a sign is among them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from graphopt.errors import GraphoptError


@dataclass(frozen=True)
class DataType:
    """The type of one element.

    Attributes:
        name: as in QONNX: INT4, UINT2, BIPOLAR, BINARY, TERNARY, FIXED<8,4>, FLOAT32 ...
        bits: width in bits.
        signed: whether negative values occur.
    """

    name: str
    bits: int
    signed: bool

    @property
    def is_integer(self) -> bool:
        """Whether the values are integers (float and fixed point are not)."""
        return not self.name.startswith(("FLOAT", "FIXED"))

    def __str__(self) -> str:
        return self.name

    @classmethod
    def parse(cls, name: str) -> DataType:
        """The type of a QONNX name.

        Raises:
            GraphoptError: no such type.
        """
        if name in _NAMED:
            return _NAMED[name]
        for pattern, signed in _PATTERNS:
            if match := re.fullmatch(pattern, name):
                return cls(name, int(match.group(1)), signed)
        if match := re.fullmatch(r"FLOAT<(\d+),(\d+),-?\d+>", name):
            return cls(name, 1 + int(match.group(1)) + int(match.group(2)), True)
        raise GraphoptError(f"'{name}' is no data type of QONNX (INT4, UINT8, BIPOLAR, FLOAT32).")


_NAMED = {
    "BIPOLAR": DataType("BIPOLAR", 1, True),
    "BINARY": DataType("BINARY", 1, False),
    "TERNARY": DataType("TERNARY", 2, True),
}
_PATTERNS = (
    (r"INT([1-9]\d{0,2})", True),
    (r"UINT([1-9]\d{0,2})", False),
    (r"SCALEDINT<([1-9]\d{0,2})>", True),
    (r"FIXED<([1-9]\d{0,2}),-?\d+>", True),
    (r"UFIXED<([1-9]\d{0,2}),-?\d+>", False),
    (r"FLOAT(16|32|64)", True),
)


def integer(bits: int, *, signed: bool) -> DataType:
    """The integer type of `bits` bits."""
    return DataType(f"{'INT' if signed else 'UINT'}{bits}", bits, signed)
