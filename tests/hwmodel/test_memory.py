"""Memory shapes by hand, the cheapest option, FINN's choice, and counts that yosys gave."""

from __future__ import annotations

import itertools

import pytest

from graphopt.errors import GraphoptError
from hwmodel.devices import Device, device
from hwmodel.memory import (
    Mapped,
    Piece,
    axis_fifo,
    bram18,
    cheapest,
    fifo_options,
    finn_choice,
    finn_depth,
    lutram_luts,
    rom_luts,
    srl_fifo,
    urams,
    weight_options,
)
from hwmodel.resources import Resources

DEPTHS = [1, 2, 3, 4, 31, 32, 33, 34, 64, 65, 97, 129, 255, 256, 257, 300, 512, 513, 1000, 1024]
DEPTHS += [1025, 2048, 4096, 4097, 7676, 8192, 12000, 16384, 32768, 32769, 40000, 65536, 95924]
WIDTHS = [1, 2, 7, 8, 9, 16, 17, 18, 24, 32, 35, 36, 37, 48, 64, 72, 73, 100, 128, 200, 288, 600]


def by_style(options: tuple[Mapped, ...]) -> dict[str, Mapped]:
    """The first option of each style."""
    found: dict[str, Mapped] = {}
    for option in options:
        found.setdefault(option.style, option)
    return found


# Shapes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "bits", "halves"),
    [
        (1, 1, 1),
        (512, 36, 1),
        (512, 72, 2),
        (513, 36, 2),
        (1024, 18, 1),
        (1024, 36, 2),
        (1024, 48, 3),  # 18 + 18 + 12
        (2048, 9, 1),
        (2048, 24, 3),
        (2048, 32, 4),
        (4096, 8, 2),  # 4 + 4, or 9 in two rows
        (8192, 8, 4),
        (16384, 1, 1),
        (16384, 8, 8),
        (32768, 1, 2),
        (8192, 64, 29),  # 7 x 9 bits of four RAMs, 1 bit of one
        (1536, 36, 3),  # three rows of 512 x 36
        (0, 8, 0),
    ],
)
def test_block_rams(words: int, bits: int, halves: int) -> None:
    assert bram18(words, bits) == bram18(words, bits, "7series") == halves


def test_block_rams_of_a_wide_word_are_those_of_its_parts() -> None:
    assert bram18(512, 36 * 5000) == 5000
    assert bram18(1024, 18 * 5000 + 1) == 5001


def test_versal_has_fewer_shapes() -> None:
    assert bram18(4096, 4) == 1
    assert bram18(4096, 4, "versal") == 2
    assert bram18(1024, 48, "versal") == 3


def test_ultra_rams() -> None:
    assert [urams(4096, 72), urams(4097, 72), urams(4096, 73), urams(1, 1)] == [1, 2, 2, 1]
    assert [urams(32768, 9, "versal"), urams(8193, 36, "versal"), urams(4096, 37, "versal")] == (
        [1, 2, 1]
    )


def test_luts_as_memory() -> None:
    assert [lutram_luts(32, 14), lutram_luts(32, 15), lutram_luts(33, 7)] == [8, 16, 8]
    assert lutram_luts(128, 14) == 32
    assert [lutram_luts(32, 6, "7series"), lutram_luts(64, 6, "7series")] == [4, 8]
    assert [rom_luts(32, 8), rom_luts(64, 8), rom_luts(256, 8), rom_luts(512, 8)] == [4, 8, 32, 72]


# FIFOs ----------------------------------------------------------------------------------------


def test_shift_registers_by_the_formula() -> None:
    assert srl_fifo(2, 8) == Resources(lut=11, ff=20)
    assert srl_fifo(3, 8) == Resources(lut=8 + 16, ff=24 + 7)
    assert srl_fifo(32, 8) == Resources(lut=16 + 22, ff=18, srl=8)
    assert srl_fifo(33, 8) == Resources(lut=16 + 24, ff=19, srl=8)
    assert srl_fifo(34, 8) == Resources(lut=24 + 24, ff=19, srl=16)
    assert srl_fifo(70, 10) == Resources(lut=30 + 16 + 26, ff=22, srl=30)
    assert srl_fifo(256, 8) == Resources(lut=72 + 28, ff=21, srl=64)


def test_the_monitor_counts_to_the_depth() -> None:
    plain, watched = srl_fifo(32, 8), srl_fifo(32, 8, monitor=True)
    assert (watched.ff - plain.ff, watched.lut - plain.lut, watched.srl) == (6, 15, 8)


def test_axis_fifos_pad_to_bytes() -> None:
    assert axis_fifo("bram", 512, 33) == Resources(lut=56, ff=53, bram18=2)
    assert axis_fifo("bram", 512, 32, "7series") == Resources(lut=49, ff=53, bram18=1)
    assert axis_fifo("uram", 8192, 72) == Resources(lut=72, ff=69, uram=2)
    assert axis_fifo("lutram", 32, 14) == Resources(lut=40 + 16, ff=37 + 16, lutram=16)
    assert axis_fifo("lutram", 512, 7) == Resources(lut=56 + 128 + 24, ff=53 + 8, lutram=128)


def test_no_fifo_and_the_smallest() -> None:
    assert fifo_options(0, 8) == (Mapped("none", Resources(), 0),)
    assert cheapest(0, 8, device("U250")).resources == Resources()
    for depth in (1, 2):
        srl = by_style(fifo_options(depth, 8))["srl"]
        assert (srl.depth_as_built, srl.resources) == (2, Resources(lut=11, ff=20))
    assert by_style(fifo_options(1, 8))["bram"].depth_as_built == 16


@pytest.mark.parametrize(("depth", "bits"), [(-1, 8), (4, 0), (4, -8)])
def test_nonsense_is_refused(depth: int, bits: int) -> None:
    for ask in (fifo_options, finn_choice, weight_options):
        with pytest.raises(GraphoptError, match=rf"{depth} words of {bits} bits"):
            ask(depth, bits)


@pytest.mark.parametrize("board", ["Pynq-Z1", "ZCU104", "V80"])
def test_options_hold_what_was_asked_for(board: str) -> None:
    chip = device(board)
    for depth, bits in itertools.product(DEPTHS, WIDTHS):
        options = fifo_options(depth, bits, chip)
        styles = {option.style for option in options}
        assert styles == {"srl", "lutram", "bram"} | ({"uram"} if chip.uram else set())
        for option in options:
            assert option.depth_as_built == sum(piece.depth for piece in option.pieces) >= depth
            assert all(piece.depth <= 32768 for piece in option.pieces)
            assert all(piece.depth <= 256 for piece in option.pieces if piece.style == "srl")


def test_a_deep_shift_register_is_a_chain() -> None:
    srl = by_style(fifo_options(600, 8))["srl"]
    assert srl.pieces == (Piece("srl", 200),) * 3
    assert srl.resources == srl_fifo(200, 8) * 3


def test_chains_trade_rams_for_luts() -> None:
    brams = [option for option in fifo_options(7676, 64) if option.style == "bram"]
    assert [option.depth_as_built for option in brams] == [8192, 7676]
    assert [option.resources.bram18 for option in brams] == [29, 27]
    assert [piece.depth for piece in brams[1].pieces] == [4096, 2048, 1024, 256, 252]


LUTS_GROW = ("srl", "lutram")


@pytest.mark.parametrize("board", ["Pynq-Z1", "ZCU104", "V80"])
def test_more_words_or_bits_never_take_less(board: str) -> None:
    chip = device(board)

    def costs(depth: int, bits: int) -> list[float]:
        options = fifo_options(depth, bits, chip)
        found = [o.resources.lut for o in options if o.style in LUTS_GROW]
        found.append(min(o.resources.bram18 for o in options if o.style == "bram"))
        return [*found, *(o.resources.uram for o in options if o.style == "uram")]

    for bits in WIDTHS:
        for small, large in itertools.pairwise(DEPTHS):
            for less, more in zip(costs(small, bits), costs(large, bits), strict=True):
                assert less <= more, f"{bits} bits, {small} and {large} words"
    for depth in DEPTHS:
        for small, large in itertools.pairwise(WIDTHS):
            for less, more in zip(costs(depth, small), costs(depth, large), strict=True):
                assert less <= more, f"{depth} words, {small} and {large} bits"


def test_shift_registers_grow_with_every_word() -> None:
    for family in ("7series", "ultrascale+", "versal"):
        taken = [srl_fifo(depth, 13, family) for depth in range(2, 300)]
        assert all(a.lut <= b.lut and a.srl <= b.srl for a, b in itertools.pairwise(taken))


# Cheapest -------------------------------------------------------------------------------------


def test_cheapest_takes_the_smallest_share() -> None:
    chip = device("ZCU104")
    for depth, bits in itertools.product(DEPTHS, WIDTHS):
        shares = [
            o.resources.lut / chip.lut
            + o.resources.ff / chip.ff
            + o.resources.bram18 / chip.bram18
            + o.resources.uram / chip.uram
            for o in fifo_options(depth, bits, chip)
        ]
        taken = cheapest(depth, bits, chip).resources
        assert sum(chip.utilisation(taken).values()) == pytest.approx(min(shares))


def test_cheapest_follows_what_the_device_has() -> None:
    zcu104, pynq = device("ZCU104"), device("Pynq-Z1")
    assert cheapest(32, 8, zcu104).style == "srl"
    assert cheapest(1024, 64, zcu104).style == "bram"
    assert cheapest(7676, 64, zcu104).style == "uram"
    assert cheapest(7676, 64, pynq).style == "bram"
    rich = Device("rich", "", "ultrascale+", "DSP48E2", 10**7, 2 * 10**7, 2, 0, 1)
    assert cheapest(1024, 64, rich).style == "lutram"


# FINN -----------------------------------------------------------------------------------------


def test_finns_depths() -> None:
    assert [finn_depth(d) for d in (0, 1, 2, 3, 32, 33, 7666)] == [2, 2, 2, 32, 32, 33, 7666]


@pytest.mark.parametrize(
    ("depth", "style", "built"),
    [
        (0, "srl", [2]),
        (2, "srl", [2]),
        (3, "srl", [32]),
        (33, "srl", [33]),
        (256, "srl", [256]),
        (257, "bram", [512]),
        (7666, "bram", [8192]),
        (32768, "bram", [32768]),
        (32769, "bram", [32768, 16]),
        (95924, "bram", [32768, 32768, 32768]),
    ],
)
def test_finns_choice(depth: int, style: str, built: list[int]) -> None:
    chosen = finn_choice(depth, 8)
    assert chosen.style == style
    assert [piece.depth for piece in chosen.pieces] == built
    assert chosen.depth_as_built == sum(built)


@pytest.mark.parametrize(
    ("depth", "parts"),
    [
        (256, [256]),
        (8196, [8192, 4]),
        (784, [512, 256, 16]),
        (615, [512, 103]),
        (6881, [4096, 2048, 512, 225]),
        (70000, [32768, 32768, 4096, 256, 112]),
    ],
)
def test_finns_parts_of_a_large_fifo(depth: int, parts: list[int]) -> None:
    chosen = finn_choice(depth, 8, split=True)
    assert chosen.pieces == tuple(Piece("bram" if p > 256 else "srl", p) for p in parts)
    assert chosen.resources.bram18 == sum(bram18(p, 8) for p in parts if p > 256)


def test_finns_styles() -> None:
    assert finn_choice(500, 8, "rtl").pieces == (Piece("srl", 500),)
    assert finn_choice(100, 8, "vivado").pieces == (Piece("bram", 128),)
    assert finn_choice(33, 8, "vivado").pieces == (Piece("lutram", 64),)
    assert finn_choice(100, 8, "vivado", "distributed").pieces == (Piece("lutram", 128),)
    assert finn_choice(5000, 8, ram_style="ultra").resources.uram == 2
    on_pynq = finn_choice(5000, 8, ram_style="ultra", device=device("Pynq-Z1"))
    assert (on_pynq.style, on_pynq.resources.uram) == ("bram", 0)
    assert finn_choice(500, 8, "rtl", split=True).pieces == (Piece("srl", 256), Piece("srl", 244))


# Weights --------------------------------------------------------------------------------------


def test_weights() -> None:
    options = by_style(weight_options(2304, 64, device("ZCU104")))
    assert options["lutram"].resources == Resources(lut=64 * (36 + 3))
    assert options["bram"].resources == Resources(bram18=bram18(4096, 64))
    assert options["uram"].resources == Resources(uram=1)
    assert [option.depth_as_built for option in options.values()] == [2304, 4096, 2304]
    assert set(by_style(weight_options(64, 8, device("Pynq-Z1")))) == {"lutram", "bram"}
    assert weight_options(0, 8) == (Mapped("none", Resources(), 0),)


@pytest.mark.parametrize(
    ("words", "bits", "halves"),
    [(3136, 32, 8), (1024, 49, 4), (64, 108, 4), (448, 224, 7), (4096, 1, 2), (50176, 2, 32)],
)
def test_weight_memories_as_vivado_built_them(words: int, bits: int, halves: int) -> None:
    """FINN's memstream on a xc7z020, BRAM18."""
    options = by_style(weight_options(words, bits, device("Pynq-Z1")))
    assert options["bram"].resources.bram18 == halves


def test_weights_never_take_less_when_there_are_more() -> None:
    for bits, (small, large) in itertools.product(WIDTHS, itertools.pairwise(DEPTHS)):
        pairs = zip(weight_options(small, bits), weight_options(large, bits), strict=True)
        for less, more in pairs:
            a, b = less.resources, more.resources
            assert a.lut <= b.lut
            assert a.bram18 <= b.bram18
            assert a.uram <= b.uram


# Recorded from yosys 0.23 (synth_xilinx -family xcup) by benchmarks/fifo_resources.py ------------

# Words, bits, SRL16E + SRLC32E, flip-flops of a Q_srl.
YOSYS_SRL = [
    (2, 8, 0, 22),
    (3, 8, 0, 31),
    (4, 8, 8, 15),
    (15, 29, 29, 38),
    (17, 8, 8, 18),
    (32, 8, 8, 18),
    (33, 8, 8, 19),
    (34, 8, 16, 19),
    (56, 48, 96, 59),
    (56, 53, 106, 64),
    (63, 27, 54, 38),
    (64, 8, 16, 19),
    (65, 8, 16, 20),
    (65, 60, 120, 72),
    (72, 50, 150, 62),
    (84, 43, 129, 55),
    (88, 55, 165, 67),
    (89, 30, 90, 42),
    (93, 26, 78, 38),
    (95, 54, 162, 66),
    (98, 18, 72, 30),
    (104, 43, 172, 55),
    (111, 41, 164, 53),
    (124, 16, 64, 28),
    (125, 24, 96, 36),
    (131, 19, 95, 32),
    (137, 10, 50, 23),
    (139, 28, 140, 41),
    (141, 28, 140, 41),
    (141, 32, 160, 45),
    (150, 28, 140, 41),
    (162, 15, 90, 28),
    (165, 54, 324, 67),
    (167, 64, 384, 77),
    (181, 60, 360, 73),
    (190, 18, 108, 31),
    (191, 39, 234, 52),
    (192, 27, 162, 40),
    (198, 34, 238, 47),
    (200, 3, 21, 16),
    (200, 42, 294, 55),
    (202, 45, 315, 58),
    (202, 54, 378, 67),
    (221, 41, 287, 54),
    (227, 53, 424, 66),
    (236, 53, 424, 66),
    (241, 19, 152, 32),
    (253, 34, 272, 47),
    (255, 8, 64, 21),
    (256, 8, 64, 21),
]

# Words, bits, RAMB18E2 + 2 RAMB36E2 of a FIFO in block RAM; yosys never mixes shapes.
YOSYS_BRAM = [
    (512, 35, 1),
    (512, 41, 2),
    (512, 43, 2),
    (512, 48, 2),
    (512, 64, 2),
    (1024, 1, 1),
    (1024, 5, 1),
    (1024, 8, 1),
    (1024, 24, 2),
    (1024, 40, 3),
    (1024, 46, 3),
    (1024, 72, 4),
    (1024, 73, 5),
    (1024, 78, 5),
    (1024, 120, 7),
    (2048, 8, 1),
    (2048, 16, 2),
    (2048, 49, 6),
    (2048, 53, 6),
    (2048, 59, 7),
    (2048, 65, 8),
    (2048, 87, 10),
    (2048, 104, 12),
    (4096, 9, 2),
    (4096, 26, 6),
    (4096, 32, 8),
    (4096, 56, 14),
    (4096, 72, 16),
    (4096, 74, 18),
    (4096, 82, 20),
    (4096, 83, 20),
    (4096, 96, 22),
    (8192, 24, 12),
    (8192, 33, 16),
    (8192, 88, 40),
    (8192, 90, 40),
    (8192, 96, 44),
    (16384, 5, 5),
    (16384, 8, 8),
    (16384, 16, 16),
    (16384, 24, 24),
    (16384, 69, 64),
    (16384, 96, 88),
]


@pytest.mark.parametrize(("depth", "bits", "srl", "ff"), YOSYS_SRL)
def test_shift_registers_as_yosys_built_them(depth: int, bits: int, srl: int, ff: int) -> None:
    said = srl_fifo(depth, bits)
    assert said.srl == srl
    assert said.ff == pytest.approx(ff, abs=2)


@pytest.mark.parametrize(("depth", "bits", "halves"), YOSYS_BRAM)
def test_block_rams_as_yosys_built_them(depth: int, bits: int, halves: int) -> None:
    assert bram18(depth, bits, mixed=False) == halves
    assert 0.9 * halves <= bram18(depth, bits) <= halves
