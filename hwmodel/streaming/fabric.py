"""What logic is made of: block RAM, LUTs as memory, counters and multiplexers.

Shapes of block RAM: UG473 (7 series) and UG573 (UltraScale). A 36K block is 1K x 36, 2K x 18,
4K x 9, 8K x 4, 16K x 2 or 32K x 1, an 18K block half of each, and 512 x 36 with one port for each
direction. For memories that it infers, Vivado takes the depth to the next power of two (AR 61995),
which `hwmodel.memory.bram18` doesn't; all 1220 results of weight memories on an xc7z020 agree.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from graphopt.errors import TargetError
from hwmodel.devices import Family
from hwmodel.memory import bram18, urams
from hwmodel.resources import Resources


@dataclass(frozen=True)
class Fabric:
    """What differs between families of devices.

    Attributes:
        name: "7series", "ultrascale+" or "versal".
        luts: LUTs of the widest memory primitive with one write and one read port (RAM64M: 4).
        narrow, deep: bits that it holds 32 deep, and 64 deep.
        dsp: its multiplier: "DSP48E1", "DSP48E2" or "DSP58".
        uram: whether UltraRAM exists.
    """

    name: str
    luts: int
    narrow: int
    deep: int
    dsp: str
    uram: bool


_FABRICS = {
    fabric.name: fabric
    for fabric in (
        Fabric("7series", 4, 6, 3, "DSP48E1", False),
        Fabric("ultrascale+", 8, 14, 7, "DSP48E2", True),
        Fabric("versal", 8, 14, 7, "DSP58", True),
    )
}


def fabric(family: str) -> Fabric:
    """The fabric of a family.

    Raises:
        TargetError: no such family.
    """
    if family not in _FABRICS:
        raise TargetError(f"'{family}' is no family of devices: take one of {', '.join(_FABRICS)}.")
    return _FABRICS[family]


def bits(count: int) -> int:
    """Bits that count `count` values: ceil(log2 count), as $clog2."""
    return max(0, count - 1).bit_length()


def bytewise(width: int) -> int:
    """The width of an AXI stream that carries `width` bits: whole bytes."""
    return ceil(width / 8) * 8


def block_rams(depth: int, width: int, on: Fabric) -> int:
    """18K blocks of a memory of `depth` words of `width` bits, one port for each direction."""
    if on.name == "versal":
        return bram18(depth, width, "versal")
    if depth <= 512:
        return ceil(width / 36)
    if depth <= 1024:
        return ceil(width / 18)
    if depth <= 2048:
        return ceil(width / 9)
    if depth <= 4096:  # 4K x 9 takes a whole 36K block, 4K x 4 half of one
        rest = width % 9
        return width // 9 * 2 + (0 if rest == 0 else 1 if rest <= 4 else 2)
    if depth <= 8192:
        return ceil(width / 2)
    return width << (bits(depth) - 14)


def in_blocks(kind: str, depth: int, width: int, on: Fabric) -> Resources:
    """A memory in block RAM, or in UltraRAM where `kind` is "ultra"."""
    if kind == "ultra":
        family: Family = "versal" if on.name == "versal" else "ultrascale+"
        return Resources(uram=urams(depth, width, family))
    return Resources(bram18=block_rams(depth, width, on))


def memory(style: str, depth: int, width: int, on: Fabric) -> Resources:
    """A memory with one port for each direction, in what `memory_kind` says."""
    kind = memory_kind(style, depth, width, on)
    return (
        dual_port(depth, width, on) if kind == "distributed" else in_blocks(kind, depth, width, on)
    )


def selector(ways: int) -> int:
    """LUTs that select one bit of `ways`: 4 a LUT, four such LUTs joined by MUXF7 and MUXF8."""
    if ways <= 1:
        return 0
    return ceil(ways / 4) + selector(ceil(ways / 16))


def _pieces(depth: int) -> list[int]:
    """Depths of the primitives that make a deep LUT memory: as many of 256 as go, then smaller."""
    whole, rest = divmod(depth, 256)
    pieces = [256] * whole + [size for size in (128, 64, 32, 16) if rest & size]
    return pieces + [16] * (rest % 16 > 0)


def single_port(depth: int, width: int) -> Resources:
    """A memory of LUTs with one address (RAM32X1S to RAM256X1S), its output registered.

    The decomposition was read off Vivado results of FINN's weight memories (`distributed` minus
    `block` of the same kernel on an xc7z020): of 105 shapes, 89 come within 5 %, 100 within 10 %.
    """
    pieces = _pieces(depth)
    cells = width * sum(max(1, size // 64) for size in pieces)
    select = width * selector(len(pieces))
    high = bits(len(pieces))
    decode = len(pieces) * (1 if high <= 4 else 2 if high <= 6 else 3) if high else 0
    return Resources(lut=cells + select + decode, lutram=cells, ff=width)


def dual_port(depth: int, width: int, on: Fabric) -> Resources:
    """A memory of LUTs with one address to write and one to read (RAM32M, RAM64M).

    Output registers are not counted.
    """
    if depth <= 32:
        blocks, held = 1, on.narrow
    else:
        blocks, held = ceil(depth / 64), on.deep
    whole, rest = divmod(width, held)
    cells = blocks * (whole * on.luts + min(2 * rest, on.luts))
    return Resources(lut=cells + width * selector(blocks), lutram=cells)


def shift_register(depth: int, width: int) -> Resources:
    """SRLs: 32 deep a LUT."""
    luts = width * ceil(depth / 32)
    return Resources(lut=luts, srl=luts)


def memory_kind(style: str, depth: int, width: int, on: Fabric) -> str:
    """Where a memory goes: "block", "ultra" (where there is any, else "block") or "distributed".

    `auto` leaves it to Vivado, whose rule is not published. It put 4 x 1024 and 14 x 3584 bits
    into block RAM and 2 x 320 into LUTs (truth/finn_reports_tfc); the limit here, 1024 bits and
    more than two words, lies in between.
    """
    if style == "ultra":
        return "ultra" if on.uram else "block"
    if style in ("block", "distributed"):
        return style
    return "block" if depth > 2 and depth * width >= 1024 else "distributed"
