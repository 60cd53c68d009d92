"""FINN's estimate of a StreamingFIFO, in the form of finn-plus and in that of Xilinx/finn.

FINN changed its FIFO in August 2026 (finn-rtllib/fifo/hdl/fifo.sv); finn-plus 1.6.1 estimates the
new one (util/resource_models.py), whose memory styles are srl, distributed, block and ultra.
Before, a FIFO was "rtl" (a shift register) or "vivado" (AMD's AXI stream FIFO); Xilinx/finn
estimates that one (custom_op/fpgadataflow/streamingfifo.py).
"""

from __future__ import annotations

from functools import lru_cache
from math import ceil, log

from graphopt.errors import GraphoptError
from hwmodel.finn.formulas import Estimated, stored
from hwmodel.finn.memories import ceil_div, uram, weight_bram18

STYLES = ("auto", "srl", "distributed", "block", "ultra")

_SHAPES = ((36, 512), (18, 1024), (9, 2048), (4, 4096), (2, 8192), (1, 16384))
_VERSAL_SHAPES = _SHAPES[:3]
_VERSAL_ULTRA = ((9, 32768), (18, 16384), (36, 8192), (72, 4096))
_ULTRA = ((72, 4096),)


def fifo_style(depth: int, bits: int, ram_style: str = "auto") -> str:
    """What fifo.sv builds: "srl", "distributed", "block" or "ultra".

    Args:
        depth: words.
        bits: width of a word; padded to bytes, as its AXI stream is.
        ram_style: what is asked for.

    Raises:
        GraphoptError: no such style.
    """
    if ram_style not in STYLES:
        known = ", ".join(STYLES)
        raise GraphoptError(f"'{ram_style}' is no ram_style of a FIFO: use one of {known}.")
    width = ceil_div(bits, 8) * 8
    if depth <= 33:
        return "srl"
    if ram_style != "auto":
        return ram_style
    if depth <= 64 and width < 12:
        return "srl"
    if depth <= 257 or width < 5:
        return "distributed"
    return "block" if depth <= 2028 else "ultra"


def fifo_resources(
    depth: int,
    bits: int,
    impl_style: str | None = None,
    ram_style: str = "auto",
    *,
    versal: bool = False,
) -> Estimated:
    """FINN's estimate of a FIFO.

    Args:
        depth: words.
        bits: width of a word.
        impl_style: None: finn-plus 1.6.1, which knows none. "rtl" or "vivado": Xilinx/finn before
            August 2026.
        ram_style: "auto", "block", "distributed", "ultra"; in finn-plus also "srl".
        versal: the device is a Versal, whose memories have other shapes (finn-plus only).

    Raises:
        GraphoptError: no such style, or a depth below 1.
    """
    if depth < 1 or bits < 1:
        raise GraphoptError(f"a FIFO of {depth} words of {bits} bits: both must be at least 1.")
    if impl_style is None:
        return _estimate(depth, ceil_div(bits, 8) * 8, fifo_style(depth, bits, ram_style), versal)
    if impl_style not in ("rtl", "vivado"):
        raise GraphoptError(f"'{impl_style}' is no impl_style of a FIFO: use rtl or vivado.")
    address = 2 * ceil(log(depth, 2))
    storage = ram_style if impl_style == "vivado" else "distributed"
    blocks = weight_bram18(bits, depth) if storage == "block" else 0
    urams = uram(bits, depth) if storage == "ultra" else 0
    cells = ceil_div(depth, 32) * ceil_div(bits, 2) if storage == "distributed" else 0
    estimate = stored(bits * depth, bram18=blocks, lut=address + cells)
    return Estimated(estimate.bram18, estimate.bram_efficiency, estimate.lut, urams)


def _estimate(depth: int, width: int, style: str, versal: bool) -> Estimated:
    if depth < 2:
        return Estimated()
    counter = _bits(depth + 1) + 1
    data = depth * width
    if style == "srl":
        stages = ceil_div(max(depth - 1, 4), 32)
        return Estimated(lut=stages * width + _cascade(stages, width, versal) + 5 * counter - 7)
    if style == "distributed":
        rows = 1 << _bits(depth - 1)
        deep = rows // 128 * (width // 2)
        return Estimated(lut=_lutram(rows, width) + deep + 8 * counter - 15)
    low, high = _spaces(depth, style == "ultra")
    rows = 1 << high if high else 0
    in_memory = rows * rows * width >= 1 << 20
    beside = 18 + 3 * width // 7 if high else 0
    if high and not in_memory:
        beside += _lutram(rows, width)
    if style == "block":
        tiles, groups = _blocks(1 << low, width, versal)
        if high and in_memory:
            more, deepest = _blocks(rows, width, versal)
            tiles, groups = tiles + more, max(groups, deepest)
        return stored(data, bram18=tiles, lut=54 + 3 * groups + 2 * tiles // 5 + beside)
    urams, groups = _ultras(1 << low, width, versal)
    lut = 6 * counter + beside + max(1, groups // 4 - 2) * width + (20 if versal else 0)
    blocks = 0
    if high and not in_memory:
        lut += width
    elif high:
        more, _ = _ultras(rows, width, versal)
        tiles, _ = _blocks(rows, width, versal)
        if high >= _SMALLEST_ULTRA or tiles >= 7 * more:
            urams += more
        else:
            blocks = tiles
    return stored(data, bram18=blocks, urams=urams, lut=lut)


_SMALLEST_BLOCK = 9
_SMALLEST_ULTRA = 12
"""Address bits of the smallest memory of the kind."""


def _bits(count: int) -> int:
    """Bits that tell `count` values apart (Verilog's $clog2)."""
    return max(count - 1, 0).bit_length()


def _spaces(depth: int, ultra: bool) -> tuple[int, int]:
    """Address bits of the two memories that fifo.sv puts behind each other; the second is 0 where
    one will do. A word of the depth is in the output register, 16 in the queue of an UltraRAM.
    """
    words = max(depth - (17 if ultra else 1), 1)
    low = _bits(words)
    if low > (_SMALLEST_ULTRA if ultra else _SMALLEST_BLOCK):
        high = _bits(words - (1 << (low - 1)))
        if high < low - 1:
            return low - 1, max(high, 1)
    return low, 0


def _lutram(rows: int, width: int) -> int:
    return ceil_div(rows, 32) * ceil_div(width, 2) * 5 // 4


def _cascade(stages: int, width: int, versal: bool) -> int:
    """LUTs of the multiplexer behind a cascade of shift registers, which only a Versal needs."""
    if not versal or stages < 2:
        return 0
    each = 1 if stages > 2 else 0.5
    return ceil(width * each * ceil_div(stages - 1, 3)) - 2


@lru_cache(maxsize=4096)
def _blocks(rows: int, width: int, versal: bool) -> tuple[int, int]:
    """Fewest BRAM18 for a memory, and how many stand behind each other at most.

    UltraScale+ divides a word over memories of different shapes; Versal doesn't.
    """
    if versal:
        return min(
            (ceil_div(rows, depth) * ceil_div(width, part), ceil_div(rows, depth))
            for part, depth in _VERSAL_SHAPES
        )
    best = [(0, 0)]
    for bits in range(1, width + 1):
        plans = []
        for part, depth in _SHAPES:
            tiles, groups = best[max(bits - part, 0)]
            behind = ceil_div(rows, depth)
            plans.append((behind + tiles, max(behind, groups)))
        best.append(min(plans, key=lambda plan: plan[0]))
    return best[width]


def _ultras(rows: int, width: int, versal: bool) -> tuple[int, int]:
    """UltraRAMs for a memory, and how many stand behind each other."""
    shapes = _VERSAL_ULTRA if versal else _ULTRA
    part, depth = next((shape for shape in shapes if shape[0] >= width), shapes[-1])
    groups = ceil_div(rows, depth)
    return groups * ceil_div(width, part), groups
