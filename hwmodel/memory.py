"""From depth and width to memory: what a FIFO or a weight memory takes as SRL, LUTRAM, BRAM, URAM.

How a FIFO is built here:

| style | what it is |
|---|---|
| srl | FINN's Q_srl (finn-rtllib/fifo/hdl/Q_srl.v): a shift register a bit, an output register |
| lutram, bram, uram | Vivado's AXI4-Stream data FIFO on that memory (FINN: impl_style vivado), \
its width padded to bytes, its depth a power of two of at most 32768 |

A FIFO that is deeper, or that wastes less in parts, is a chain of FIFOs (FINN: SplitLargeFIFOs).
Counts of SRL, BRAM and URAM follow from the shapes of the primitives (AMD UG473, UG573, UG1273);
LUTs are fitted to Vivado; benchmarks/fifo_resources.py measures both.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from math import ceil
from typing import Literal

from graphopt.errors import GraphoptError
from hwmodel.devices import Device, Family
from hwmodel.resources import Resources, total

Style = Literal["none", "srl", "lutram", "bram", "uram"]

SRL_MOST = 256
"""Words of the deepest Q_srl that FINN builds (max_qsrl_depth)."""
AXIS_MOST = 32768
"""Words of the deepest AXI4-Stream data FIFO (FINN: max_vivado_depth)."""
AXIS_LEAST = 16
"""Words of the shallowest."""

_RAMB18 = ((512, 36), (1024, 18), (2048, 9), (4096, 4), (8192, 2), (16384, 1))
"""Words x bits of a RAMB18 with one write and one read port. A RAMB36 is two of each of these."""
_RAMB18_VERSAL = _RAMB18[:3]
_URAM = ((4096, 72),)
_URAM_VERSAL = ((32768, 9), (16384, 18), (8192, 36), (4096, 72))


@dataclass(frozen=True)
class Piece:
    """One FIFO of a chain.

    Attributes:
        style: how it is built.
        depth: words that it holds, as built.
    """

    style: Style
    depth: int


@dataclass(frozen=True)
class Mapped:
    """One way to build a memory.

    Attributes:
        style: how its largest piece is built; "none": there is nothing to build.
        resources: what it takes, control logic of FIFOs included.
        depth_as_built: words that it holds, at least those asked for.
        pieces: the FIFOs it is a chain of, in order; empty for weights.
    """

    style: Style
    resources: Resources
    depth_as_built: int
    pieces: tuple[Piece, ...] = ()


_NOTHING = Mapped("none", Resources(), 0)


def fifo_options(depth: int, bits: int, device: Device | None = None) -> tuple[Mapped, ...]:
    """The ways to build a FIFO of at least `depth` words of `bits` bits: srl, lutram, bram, uram.

    There may be several of style bram, that trade RAMs for LUTs.

    Args:
        depth: words; 0 is no FIFO, 1 is built as 2.
        bits: width of a word.
        device: what to build it on; options that it lacks are left out. Default: an UltraScale+
            device with everything.

    Raises:
        GraphoptError: a negative depth, or a width below 1.
    """
    _check(depth, bits)
    if depth == 0:
        return (_NOTHING,)
    family = _family(device)
    options = [_chain(_even("srl", depth), bits, family)]
    options.append(_chain(_axis_pieces("lutram", depth), bits, family))
    options += _bram_chains(depth, bits, family)
    if device is None or device.uram:
        rows, _ = _uram_shape(_padded(bits), family)
        parts = _decompose(rows * ceil(depth / rows), SRL_MOST)
        options.append(_chain([Piece("uram", part) for part in parts], bits, family))
    return tuple(options)


def cheapest(depth: int, bits: int, device: Device) -> Mapped:
    """The option that takes the smallest share of the device.

    The share is the sum over LUT, FF, BRAM and URAM of used / available: each resource is priced by
    its scarcity on the device. A sum, unlike the largest of the shares, adds up over the FIFOs of a
    design, and does not call the control logic of a BRAM FIFO free. Equal shares: the first of srl,
    lutram, bram, uram.

    Raises:
        GraphoptError: a negative depth, or a width below 1.
    """
    return min(
        fifo_options(depth, bits, device),
        key=lambda option: sum(device.utilisation(option.resources).values()),
    )


def finn_depth(depth: int) -> int:
    """The depth that FINN gives a FIFO whose peak occupancy is `depth` (optimize_depth).

    At most 2: 2. At most 32: 32, an SRL's length. Else unchanged.
    """
    return 2 if depth <= 2 else 32 if depth <= 32 else depth


def finn_choice(
    depth: int,
    bits: int,
    impl_style: Literal["auto", "rtl", "vivado"] = "auto",
    ram_style: Literal["auto", "block", "distributed", "ultra"] = "auto",
    device: Device | None = None,
    *,
    split: bool = False,
) -> Mapped:
    """How FINN builds a FIFO whose peak occupancy is `depth`.

    Sources: finn/transformation/fpgadataflow/set_fifo_depths.py (optimize_depth,
    InsertAndSetFIFODepths, get_fifo_split_configs, SplitLargeFIFOs) and insert_fifo.py of
    Xilinx/finn @39f0c9a6; finn-plus 1.6.1 builds another FIFO (fifo.sv).

    Args:
        depth: words.
        bits: width of a word.
        impl_style: `rtl` is a Q_srl, `vivado` the AXI4-Stream data FIFO; `auto` is rtl up to 256
            words. Splitting decides anew for each part, as in FINN.
        ram_style: memory of a `vivado` FIFO. `auto` leaves it to Vivado, which takes BRAM for all
            that FINN builds this way by itself; up to 64 words (only where asked for), LUTRAM.
            `ultra` on a device without URAM becomes BRAM.
        device: what to build it on; default: an UltraScale+ device with everything.
        split: whether FINN's step for large FIFOs runs (split_large_fifos, off by default): powers
            of two, and a Q_srl for what is left. Without it the depth is rounded up to a power of
            two; in both cases no part has more than 32768 words, which Vivado demands.

    Raises:
        GraphoptError: a negative depth, or a width below 1.
    """
    _check(depth, bits)
    wanted = finn_depth(depth)
    parts = [(wanted, wanted > SRL_MOST)]
    if split and wanted > SRL_MOST:
        parts = [(part, part > SRL_MOST) for part in _decompose(wanted, SRL_MOST)]
    if len(parts) == 1 and impl_style != "auto":
        parts = [(wanted, impl_style == "vivado")]
    pieces: list[Piece] = []
    for part, vivado in parts:
        if vivado:
            pieces += _axis_pieces(_finn_memory(part, ram_style, device), part)
        else:
            pieces.append(Piece("srl", part))
    return _chain(pieces, bits, _family(device))


def weight_options(words: int, bits: int, device: Device | None = None) -> tuple[Mapped, ...]:
    """The ways to hold `words` constant words of `bits` bits: lutram, bram, uram.

    Memories are those of FINN's memstream: whole bytes, and a power of two of words in block RAM.
    `lutram` is a ROM in LUTs (any LUT will do, so it counts as no LUTRAM); it takes less where the
    contents repeat. On UltraScale+ an UltraRAM has no initial contents: FINN fills it at run time
    (runtime_writeable_weights). Addressing and streaming logic is not counted.

    Args:
        words: words.
        bits: width of a word.
        device: what to build it on; options that it lacks are left out. Default: an UltraScale+
            device with everything.

    Raises:
        GraphoptError: a negative number of words, or a width below 1.
    """
    _check(words, bits)
    if words == 0:
        return (_NOTHING,)
    family, width, deep = _family(device), _padded(bits), 1 << _log2(words)
    options = [
        Mapped("lutram", Resources(lut=rom_luts(words, bits)), words),
        Mapped("bram", Resources(bram18=bram18(deep, width, family)), deep),
    ]
    if device is None or device.uram:
        options.append(Mapped("uram", Resources(uram=urams(words, width, family)), words))
    return tuple(options)


def srl_fifo(
    depth: int, bits: int, family: Family = "ultrascale+", *, monitor: bool = False
) -> Resources:
    """One Q_srl of `depth` words (at least 2).

    A shift register of depth - 1 words in SRL32s, an output register and a small state machine.
    Below 3 words of shift register Vivado takes flip-flops (UG901: shreg_min_size).

    Args:
        depth: words.
        bits: width of a word.
        family: of the device; Versal has no wide multiplexers behind its LUTs.
        monitor: with the counter of the largest occupancy, which synthesis keeps only where a FIFO
            is built by itself, out of context.
    """
    depth = max(depth, 2)
    address = _log2(depth)
    chained = ceil((depth - 1) / 32) if depth > 3 else 0
    srl = bits * chained
    if depth == 2:
        lut, ff = bits + 3, 2 * bits + 4
    else:
        lut = srl + ceil(bits * _select(chained, family)) + 12 + 2 * address
        ff = (bits if chained else bits * depth) + 5 + address
    if monitor:
        counter = _log2(depth + 1)
        lut += ceil(2.5 * counter)
        ff += counter
    return Resources(lut=lut, ff=ff, srl=srl)


def axis_fifo(style: Style, depth: int, bits: int, family: Family = "ultrascale+") -> Resources:
    """One AXI4-Stream data FIFO of `depth` words (a power of two) on lutram, bram or uram.

    Control logic: flip-flops exact for BRAM in Vivado; LUTs on 7-series from five depths, on the
    others a line. For LUTRAM and URAM the same control is assumed, and the output register that
    BRAM and URAM have inside is added for LUTRAM.
    """
    width, address = _padded(bits), _log2(depth)
    if family == "7series":
        lut = 49 if depth <= 512 else 46 if depth <= 1024 else 30
    else:
        lut = 20 + 4 * address
    control = Resources(lut=lut, ff=17 + 4 * address)
    if style == "lutram":
        memory = lutram_luts(depth, width, family)
        choose = width * ceil((ceil(depth / 64) - 1) / 3)
        return control + Resources(lut=memory + choose, lutram=memory, ff=width)
    if style == "uram":
        return control + Resources(uram=urams(depth, width, family))
    return control + Resources(bram18=bram18(depth, width, family))


def lutram_luts(words: int, bits: int, family: Family = "ultrascale+") -> int:
    """LUTs that hold the words of a memory with one write and one read port.

    A slice of 8 LUTs holds 32 x 14 or 64 x 7 bits (RAM32M16, RAM64M8), on 7-series one of 4 LUTs
    32 x 6 or 64 x 3 (RAM32M, RAM64M).
    """
    luts, wide = (4, 3) if family == "7series" else (8, 7)
    if words <= 32:
        return luts * ceil(bits / (2 * wide))
    return luts * ceil(bits / wide) * ceil(words / 64)


@lru_cache(maxsize=4096)
def bram18(
    words: int, bits: int, family: Family = "ultrascale+", *, mixed: bool | None = None
) -> int:
    """RAMB18s (a RAMB36 counts 2) of a memory with one write and one read port.

    The word is cut into columns, each in RAMB18s of one shape, so that the fewest are needed.

    Args:
        words: words. Vivado takes a memory that it infers to the next power of two.
        bits: width of a word.
        family: of the device.
        mixed: whether columns may have different shapes. By default they may, except on Versal:
            what Vivado does, as FINN+ measured (resource_models.py); yosys 0.23 never mixes.
    """
    if words < 1 or bits < 1:
        return 0
    shapes = _RAMB18_VERSAL if family == "versal" else _RAMB18
    stacks = [(wide, ceil(words / rows)) for rows, wide in shapes]
    if mixed is False or (mixed is None and family == "versal"):
        return min(count * ceil(bits / wide) for wide, count in stacks)
    # Among 36 columns of the narrower shapes, some are together a whole number of times as wide as
    # the densest shape and can be exchanged for it: beyond that, only the densest is of use.
    dense, price = min(stacks, key=lambda stack: (stack[1] / stack[0], -stack[0]))
    whole = max(0, ceil((bits - 36 * 36) / dense))
    rest = bits - whole * dense
    fewest = [0]
    for width in range(1, rest + 1):
        fewest.append(min(count + fewest[max(0, width - wide)] for wide, count in stacks))
    return whole * price + fewest[rest]


def urams(words: int, bits: int, family: Family = "ultrascale+") -> int:
    """UltraRAMs of a memory: 4096 x 72 each; on Versal the narrowest shape that holds the word."""
    if words < 1 or bits < 1:
        return 0
    rows, wide = _uram_shape(bits, family)
    return ceil(words / rows) * ceil(bits / wide)


def rom_luts(words: int, bits: int) -> int:
    """LUTs of a ROM with any contents: 64 x 1 each (32 x 2 where that is enough).

    The multiplexers behind the LUTs join four of them; beyond 256 words LUTs select.
    """
    if words <= 32:
        return ceil(bits / 2)
    return bits * (ceil(words / 64) + ceil((ceil(words / 256) - 1) / 3))


def _check(depth: int, bits: int) -> None:
    if depth < 0 or bits < 1:
        raise GraphoptError(
            f"a memory of {depth} words of {bits} bits cannot be built: give a depth of 0 or more, "
            "and a width of 1 or more."
        )


def _family(device: Device | None) -> Family:
    return "ultrascale+" if device is None else device.family


def _log2(number: int) -> int:
    """The bits that count to `number` - 1."""
    return (number - 1).bit_length()


def _padded(bits: int) -> int:
    """Whole bytes, as AXI4-Stream has them."""
    return 8 * ceil(bits / 8)


def _select(chained: int, family: Family) -> float:
    """LUTs a bit that choose among `chained` SRLs in a row and the word that just came in.

    Versal: the step from one SRL to more as FINN+ fitted it (resource_models.py).
    """
    if chained < 2:
        return 1
    if family == "versal":
        return 1.5 if chained == 2 else 1 + ceil((chained - 1) / 3)
    return 1 if chained & (chained - 1) == 0 else 1.6


def _uram_shape(bits: int, family: Family) -> tuple[int, int]:
    shapes = _URAM_VERSAL if family == "versal" else _URAM
    return next((shape for shape in shapes if shape[1] >= bits), shapes[-1])


def _chain(pieces: Iterable[Piece], bits: int, family: Family) -> Mapped:
    parts = tuple(pieces)
    taken = (
        srl_fifo(piece.depth, bits, family)
        if piece.style == "srl"
        else axis_fifo(piece.style, piece.depth, bits, family)
        for piece in parts
    )
    largest = max(parts, key=lambda piece: piece.depth)
    return Mapped(largest.style, total(taken), sum(piece.depth for piece in parts), parts)


def _even(style: Style, depth: int) -> list[Piece]:
    """As few Q_srl as hold `depth` words, as equal as can be."""
    count = ceil(depth / SRL_MOST)
    return [Piece(style, max(2, (depth + index) // count)) for index in range(count)]


def _axis_pieces(style: Style, depth: int) -> list[Piece]:
    """AXI4-Stream FIFOs for `depth` words, the last one rounded up to a power of two."""
    full, rest = divmod(depth, AXIS_MOST)
    pieces = [Piece(style, AXIS_MOST)] * full
    if rest:
        pieces.append(Piece(style, max(AXIS_LEAST, 1 << _log2(rest))))
    return pieces


def _bram_chains(depth: int, bits: int, family: Family) -> list[Mapped]:
    """One FIFO rounded up, and the chains that take fewer RAMs for more LUTs.

    A chain has the first of FINN's parts of the depth (powers of two, then a Q_srl), and one FIFO
    rounded up for the others.
    """
    found = [_chain(_axis_pieces("bram", depth), bits, family)]
    parts = _decompose(depth, SRL_MOST)
    for count in range(1, len(parts) + 1):
        pieces = [Piece("bram" if part > SRL_MOST else "srl", part) for part in parts[:count]]
        if rest := sum(parts[count:]):
            pieces += _axis_pieces("bram", rest)
        found.append(_chain(pieces, bits, family))
    found = [option for option in found if option.style == "bram"]
    found.sort(key=lambda option: (option.resources.lut, option.resources.bram18))
    best: list[Mapped] = []
    for option in found:
        if not best or option.resources.bram18 < best[-1].resources.bram18:
            best.append(option)
    return best


def _decompose(depth: int, most: int) -> list[int]:
    """Powers of two of at most 32768, largest first within each; `most` or fewer stay whole."""
    parts = []
    while depth:
        rest = min(depth, AXIS_MOST)
        depth -= rest
        while rest > most:
            parts.append(1 << (rest.bit_length() - 1))
            rest -= parts[-1]
        if rest:
            parts.append(rest)
    return parts


def _finn_memory(depth: int, ram_style: str, device: Device | None) -> Style:
    if ram_style == "distributed" or (ram_style == "auto" and depth <= 64):
        return "lutram"
    if ram_style == "ultra" and (device is None or device.uram):
        return "uram"
    return "bram"
