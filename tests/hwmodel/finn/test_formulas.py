"""FINN's formulas, on numbers recorded from finn-plus 1.6.1."""

from __future__ import annotations

from dataclasses import replace

import pytest

from graphopt.errors import GraphoptError
from hwmodel import finn
from hwmodel import kernels as k
from hwmodel.datatypes import DataType
from hwmodel.kernels.kernel import Kernel

INT4, UINT4, INT16 = (DataType.parse(name) for name in ("INT4", "UINT4", "INT16"))
INT12, UINT3 = DataType.parse("INT12"), DataType.parse("UINT3")
MVAU = k.MatrixVector(
    name="mvau",
    mw=288,
    mh=64,
    vectors=256,
    simd=18,
    pe=8,
    input=UINT4,
    weight=INT4,
    accumulator=INT16,
    output=INT16,
)
VVAU = k.VectorVector(
    name="vvau",
    channels=96,
    kernel=(3, 3),
    vectors=196,
    pe=4,
    simd=3,
    input=UINT4,
    weight=INT4,
    accumulator=INT12,
    output=INT12,
)
SWG = k.Window(
    name="swg",
    height=34,
    width=34,
    channels=64,
    kernel=(3, 3),
    element=UINT4,
    simd=8,
    ram_style="distributed",
)
LINE = replace(SWG, height=1, width=100, kernel=(1, 3), stride=(1, 2), depthwise=True)
DEEP = replace(SWG, height=230, width=230, channels=320, simd=4, ram_style="auto")
THRESHOLD = k.Threshold(
    name="threshold",
    channels=64,
    vectors=64,
    pe=4,
    input=INT16,
    threshold=INT16,
    output=UINT4,
    steps=15,
)
HLS = replace(THRESHOLD, backend="hls")


def converter(into: int, out_of: int) -> k.WidthConverter:
    return k.WidthConverter(
        name="dwc", elements=8 * 8 * 24, into=into, out_of=out_of, element=UINT4
    )


# kernel, its report (BRAM, efficiency, LUT, URAM, efficiency, DSP), its cycles
RECORDED: list[tuple[Kernel, list[float], int]] = [
    (MVAU, [16, 0.25, 6706, 0, 1, 0], 32768),
    (replace(MVAU, resource="dsp", ram_style="distributed"), [0, 1, 4056, 0, 1, 144], 32768),
    (replace(MVAU, ram_style="ultra"), [0, 1, 6706, 8, 0.03125, 0], 32768),
    (replace(MVAU, memory="internal_embedded"), [0, 1, 7858, 0, 1, 0], 32768),
    (
        replace(MVAU, thresholds=15, output=UINT4, ram_style_thresholds="distributed"),
        [16, 0.25, 10930, 0, 1, 0],
        32768,
    ),
    (replace(MVAU, backend="rtl"), [16, 0.25, 0, 0, 1, 36], 32768),
    (VVAU, [0, 1, 845, 0, 1, 0], 14112),
    (replace(VVAU, pe=1, simd=1, resource="dsp"), [1, 0.1875, 322, 0, 1, 1], 169344),
    (
        replace(VVAU, thresholds=7, output=UINT3, ram_style="distributed"),
        [0, 1, 1449, 0, 1, 0],
        14112,
    ),
    (replace(VVAU, backend="rtl"), [0, 1, 0, 0, 1, 4], 14112),
    (SWG, [0, 1, 780, 0, 1, 0], 74296),
    (replace(SWG, ram_style="auto"), [2, 1, 300, 0, 1, 0], 74296),
    (replace(SWG, ram_style="ultra"), [0, 1, 300, 1, 0.06163194444444445, 0], 74296),
    (replace(SWG, simd=64, parallel=True, ram_style="block"), [16, 1, 300, 0, 1, 0], 1158),
    (
        replace(SWG, stride=(2, 2), depthwise=True, ram_style="block"),
        [2, 1, 300, 0, 1, 0],
        21064,
    ),
    (LINE, [0, 1, 332, 0, 1, 0], 1199),
    (DEEP, [40, 1, 300, 0, 1, 0], 37465520),
    (THRESHOLD, [0, 1, 320, 0, 1, 0], 1024),
    (
        replace(THRESHOLD, depth_trigger_bram=32, depth_trigger_uram=1024),
        [12, 0.06481481481481481, 64, 0, 1, 0],
        1024,
    ),
    (replace(THRESHOLD, channels=512, pe=1), [0, 1, 1920, 0, 1, 0], 32768),
    (HLS, [0, 1, 1024, 0, 1, 0], 1024),
    (replace(HLS, ram_style="block"), [60, 0.013888888888888888, 64, 0, 1, 0], 1024),
    (replace(HLS, ram_style="ultra"), [0, 1, 64, 14, 0.003720238095238095, 0], 1024),
    (converter(24, 8), [0, 1, 34, 0, 1, 0], 0),
    (converter(8, 24), [0, 1, 97, 0, 1, 0], 0),
    (
        k.GlobalPool(name="pool", channels=64, vectors=64, pe=4, input=UINT4, output=INT16),
        [0, 1, 0, 0, 1, 0],
        1040,
    ),
    (
        k.LabelSelect(name="label", labels=10, pe=2, input=INT4, output=UINT4),
        [0, 1, 0, 0, 1, 0],
        5,
    ),
    (
        k.Channelwise(
            name="scale",
            function="mul",
            channels=96,
            vectors=64,
            pe=4,
            input=DataType.parse("INT8"),
            parameter=DataType.parse("INT6"),
            output=DataType.parse("INT14"),
            memory="internal_decoupled",
            ram_style="distributed",
        ),
        [0, 1, 24, 0, 1, 0],
        1536,
    ),
]


@pytest.mark.parametrize(("kernel", "report", "cycles"), RECORDED)
def test_numbers_of_finn_plus(kernel: Kernel, report: list[float], cycles: int) -> None:
    assert list(finn.resources(kernel).report.values()) == report
    assert finn.cycles(kernel) == cycles


def test_the_multiplier_of_a_versal_takes_three_products() -> None:
    kernel = replace(MVAU, backend="rtl")
    assert finn.resources(kernel, dsp="DSP58").dsp == 48
    assert finn.resources(kernel, dsp="DSP48E1") == finn.resources(kernel, dsp="DSP48E2")


# By the formulas of Xilinx/finn 39f0c9a, whose ChannelwiseOp finn-plus does not have.
@pytest.mark.parametrize(
    ("style", "bram", "lut"), [("distributed", 0, 64), ("block", 2, 32), ("auto", 0, 32)]
)
def test_channelwise_op(style: str, bram: int, lut: int) -> None:
    kernel = k.Channelwise(
        name="scale",
        function="mul",
        channels=96,
        pe=4,
        input=DataType.parse("INT8"),
        parameter=INT4,
        output=INT12,
        ram_style=style,
        operator="channelwise",
    )
    estimate = finn.resources(kernel)
    assert (estimate.bram18, estimate.lut) == (bram, lut)


@pytest.mark.parametrize(
    ("height", "width", "kernel", "cycles"),
    [(32, 32, (2, 2), 1280), (1, 64, (1, 2), 1536), (64, 1, (2, 1), 1536)],
)
def test_max_pool(height: int, width: int, kernel: tuple[int, int], cycles: int) -> None:
    plane = height == width
    pool = k.MaxPool(
        name="pool",
        height=height,
        width=width,
        channels=64,
        kernel=kernel,
        element=UINT4,
        pe=64 if plane else 4,
    )
    assert finn.cycles(pool) == cycles
    assert finn.resources(pool) == finn.Estimated()


def test_a_wire_costs_nothing_and_takes_its_words() -> None:
    assert finn.resources(converter(8, 8)) == finn.Estimated()
    assert finn.cycles(converter(8, 8)) == 192


def test_an_unknown_kernel_is_an_error() -> None:
    class Odd:
        name = "odd"

    for estimate in (finn.cycles, finn.resources):
        with pytest.raises(GraphoptError, match="odd: FINN has no estimate for a Odd"):
            estimate(Odd())  # type: ignore[arg-type]


def test_alternatives_in_both_dialects() -> None:
    dsp, lut = finn.alternatives(MVAU)
    assert (dsp.dsp, lut.dsp) == (144, 0)
    assert [each.uram for each in finn.alternatives(SWG)] == [0, 0, 1]
    every = finn.alternatives(MVAU, memories=True)
    assert [each.uram for each in every] == [0, 0, 8, 0, 0, 8]
    assert len(finn.alternatives(HLS)) == 1
    assert len(finn.alternatives(HLS, memories=True)) == 3
    assert len(finn.alternatives(THRESHOLD, memories=True)) == 1


def test_estimate_as_resources() -> None:
    found = finn.resources(MVAU).resources
    assert (found.lut, found.bram18, found.dsp, found.ff) == (6706, 16, 0, 0)


@pytest.mark.parametrize(
    ("depth", "bits", "style", "bram", "uram", "lut"),
    [
        (2, 8, "auto", 0, 0, 16),
        (33, 64, "auto", 0, 0, 92),
        (64, 8, "auto", 0, 0, 49),
        (200, 36, "auto", 0, 0, 297),
        (1000, 24, "auto", 2, 0, 60),
        (1000, 24, "srl", 0, 0, 816),
        (3000, 32, "block", 6, 0, 99),
        (11144, 64, "auto", 0, 3, 199),
        (70000, 8, "ultra", 0, 18, 145),
    ],
)
def test_fifos_of_finn_plus(
    depth: int, bits: int, style: str, bram: int, uram: int, lut: int
) -> None:
    estimate = finn.fifo_resources(depth, bits, None, style)
    assert (estimate.bram18, estimate.uram, estimate.lut) == (bram, uram, lut)


def test_a_fifo_on_a_versal() -> None:
    estimate = finn.fifo_resources(3000, 32, versal=True)
    assert list(estimate.report.values()) == [0, 1, 130, 1, 0.3255208333333333, 0]


# By the formulas of Xilinx/finn 39f0c9a, streamingfifo.py.
@pytest.mark.parametrize(
    ("impl", "style", "report"),
    [
        ("rtl", "auto", [0, 1, 20 + 32 * 12, 0, 1, 0]),
        ("vivado", "auto", [0, 1, 20, 0, 1, 0]),
        ("vivado", "block", [2, 1000 * 24 / (2 * 18432), 20, 0, 1, 0]),
        ("vivado", "distributed", [0, 1, 20 + 32 * 12, 0, 1, 0]),
        ("vivado", "ultra", [0, 1, 20, 1, 1, 0]),
    ],
)
def test_fifos_before_august_2026(impl: str, style: str, report: list[float]) -> None:
    assert list(finn.fifo_resources(1000, 24, impl, style).report.values()) == report


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 8), "a FIFO of 0 words of 8 bits"),
        ((64, 8, "hls"), "'hls' is no impl_style"),
        ((64, 8, None, "lutram"), "'lutram' is no ram_style of a FIFO: use one of auto, srl"),
    ],
)
def test_wrong_fifos(arguments: tuple[int, int], message: str) -> None:
    with pytest.raises(GraphoptError, match=message):
        finn.fifo_resources(*arguments)
