"""How many memory blocks FINN counts for a memory of some width and depth.

Sources: `bram_estimation` of FINN's custom ops (matrixvectoractivation.py,
vectorvectoractivation.py, elementwise_binary.py, convolutioninputgenerator_rtl.py) and
util/memutil.py, finn-plus 1.6.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

BRAM18_BITS = 36 * 512
URAM_BITS = 72 * 4096


def ceil_div(amount: int, size: int) -> int:
    """Pieces of `size` that hold `amount`."""
    return -(-amount // size)


def weight_bram18(width: int, depth: int, *, parity: bool = True) -> int:
    """BRAM18 that FINN counts for a memory of weights or constants.

    Args:
        width: bits of a word.
        depth: words.
        parity: whether the parity bits hold data: 9, 18 and 36 bits instead of 8, 16 and 32
            (VVAU is counted without them).
    """
    byte = 9 if parity else 8
    if width <= 2:
        return ceil_div(depth, 16384 // max(width, 1))
    if width <= 4:
        return ceil_div(depth, 4096)
    if width <= 9:
        return ceil_div(depth, 2048) * ceil_div(width, byte)
    if width <= 18 or depth > 512:
        return ceil_div(depth, 1024) * ceil_div(width, 2 * byte)
    return ceil_div(depth, 512) * ceil_div(width, 4 * byte)


def uram(width: int, depth: int) -> int:
    """UltraRAMs, 72 bits by 4096 words."""
    return ceil_div(width, 72) * ceil_div(depth, 4096)


def line_buffer_bram18(width: int, depth: int) -> int:
    """BRAM18 that FINN counts for a line buffer; what is over in the last 16384 words of a deep
    one is counted at the width that its own depth allows.
    """
    whole = ceil_div(width, _widest(depth))
    if depth <= 16384:
        return ceil_div(depth, 16384) * whole
    rest = ceil_div(width, _widest(depth % 16384))
    return ceil_div(depth, 16384) * whole - (whole - rest)


def _widest(depth: int) -> int:
    for size, width in ((512, 36), (1024, 18), (2048, 9), (4096, 4), (8192, 2)):
        if depth <= size:
            return width
    return 1


@dataclass(frozen=True)
class Block:
    """A shape in which a memory block can be used."""

    kind: Literal["uram", "bram", "lutram"]
    width: int
    depth: int

    def count(self, width: int, depth: int) -> int:
        """Blocks that hold a memory of `width` bits by `depth` words."""
        return ceil_div(width, self.width) * ceil_div(depth, self.depth)

    def waste(self, width: int, depth: int) -> int:
        """Bits that such a memory leaves unused in them."""
        return self.count(width, depth) * self.width * self.depth - width * depth


THRESHOLD_BLOCKS = (
    Block("uram", 72, 4096),
    Block("uram", 36, 8192),
    Block("uram", 18, 16384),
    Block("uram", 9, 32768),
    Block("bram", 36, 512),
    Block("bram", 18, 1024),
    Block("bram", 9, 2048),
    Block("lutram", 1, 64),
)
"""What FINN considers for thresholds, on any device (mem_primitives_versal)."""
