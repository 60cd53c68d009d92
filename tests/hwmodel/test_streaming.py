"""The resource model: structure by hand, how it grows, its coefficients, Vivado's results."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import pytest

from graphopt.errors import GraphoptError, TargetError
from hwmodel.datatypes import DataType, integer
from hwmodel.kernels import (
    Channelwise,
    Concat,
    Downsample,
    Fork,
    GlobalPool,
    Join,
    Kernel,
    LabelSelect,
    MatrixVector,
    MaxPool,
    Padding,
    Pool,
    Shuffle,
    Threshold,
    Upsample,
    VectorVector,
    WidthConverter,
    Window,
)
from hwmodel.streaming import coefficients, fitted, resources
from hwmodel.streaming.fabric import (
    bits,
    block_rams,
    dual_port,
    fabric,
    memory_kind,
    selector,
    single_port,
)

SERIES7 = fabric("7series")
PLUS = fabric("ultrascale+")
U2, U4, U8 = (integer(n, signed=False) for n in (2, 4, 8))
S4, S8, S16 = (integer(n, signed=True) for n in (4, 8, 16))
BIT = DataType.parse("BINARY")


def matrix(**changes: object) -> MatrixVector:
    kernel = MatrixVector(
        name="mvau",
        mw=576,
        mh=64,
        simd=8,
        pe=4,
        input=U4,
        weight=S4,
        accumulator=S16,
        output=U4,
        thresholds=15,
        memory="external",
    )
    return replace(kernel, **changes)


def window(**changes: object) -> Window:
    kernel = Window(
        name="swg",
        height=34,
        width=34,
        channels=16,
        kernel=(3, 3),
        element=U4,
        simd=4,
        ram_style="distributed",
    )
    return replace(kernel, **changes)


def threshold(**changes: object) -> Threshold:
    kernel = Threshold(name="thr", channels=64, pe=4, input=S16, threshold=S16, output=U4, steps=15)
    return replace(kernel, **changes)


def converter(into: int, out_of: int) -> WidthConverter:
    return WidthConverter(name="dwc", elements=into * out_of, into=into, out_of=out_of, element=BIT)


PADDING = Padding(name="pad", height=32, width=32, channels=16, pads=(1, 1, 1, 1), element=U4)
LABELS = LabelSelect(name="top", labels=10, input=S8, output=U8)
OTHERS: tuple[Kernel, ...] = (
    Channelwise(name="k", function="add", channels=64, input=U4, parameter=S8, output=S8),
    Concat(name="k", vectors=9, channels=(8, 16), element=U4, pe=2),
    Downsample(name="k", height=8, width=8, channels=16, stride=(2, 2), element=U4),
    Fork(name="k", elements=256, pe=4, element=U4),
    GlobalPool(name="k", channels=64, vectors=49, input=U4, output=S16),
    Join(name="k", elements=256, pe=4, operands=(U4, U4), output=integer(5, signed=False)),
    MaxPool(name="k", height=8, width=8, channels=16, kernel=(2, 2), element=U4),
    Pool(name="k", channels=16, kernel=(3, 3), vectors=16, function="MaxPool", input=U4, output=U4),
    Shuffle(name="k", elements=1024, page=512, innermost=4, element=U4),
    Shuffle(name="k", elements=1 << 14, page=1 << 14, innermost=4, element=U4, inner=False),
    Upsample(name="k", height=8, width=8, channels=16, scale=2, element=U4),
    VectorVector(name="k", channels=32, kernel=(3, 3), pe=4, input=U4, weight=S4),
)


# ------------------------------------------------------------------------- memories by hand


@pytest.mark.parametrize(
    ("depth", "width", "blocks"),
    [
        (1, 1, 1),
        (512, 36, 1),
        (512, 37, 2),
        (513, 36, 2),  # 1K x 18
        (1024, 18, 1),
        (2048, 9, 1),
        (2049, 9, 2),  # 4K x 9 is a whole block
        (4096, 4, 1),
        (4096, 13, 3),  # a whole block for 9 bits, half of one for 4
        (8192, 3, 2),
        (16384, 1, 1),
        (32768, 8, 16),
        (50176, 8, 32),  # as 64K
    ],
)
def test_shapes_of_block_ram(depth: int, width: int, blocks: int) -> None:
    assert block_rams(depth, width, SERIES7) == blocks


@pytest.mark.parametrize(
    ("depth", "width", "luts"),
    [
        (64, 8, 8),
        (128, 24, 48),
        (48, 48, 48 * 3 + 2),  # 32 + 16 deep, a multiplexer; two write enables
        (576, 8, 8 * (4 + 4 + 1 + 1) + 3),  # 256 + 256 + 64
    ],
)
def test_lut_memory_with_one_address(depth: int, width: int, luts: int) -> None:
    assert single_port(depth, width).lut == luts


def test_lut_memory_with_two_addresses() -> None:
    assert dual_port(32, 6, SERIES7).lutram == 4  # RAM32M
    assert dual_port(64, 9, SERIES7).lutram == 12  # three RAM64M
    assert dual_port(64, 4, SERIES7).lutram == 6  # RAM64M and RAM64X1D
    assert dual_port(64, 7, PLUS).lutram == 8  # RAM64M8
    assert dual_port(32, 14, PLUS).lutram == 8  # RAM32M16
    assert dual_port(128, 9, SERIES7).lut == 2 * 12 + 9  # and a LUT a bit that selects


def test_counts() -> None:
    assert [bits(n) for n in (0, 1, 2, 3, 4, 5, 1024, 1025)] == [0, 0, 1, 2, 2, 3, 10, 11]
    assert [selector(n) for n in (1, 2, 4, 5, 16, 17)] == [0, 1, 1, 2, 4, 6]


def test_where_a_memory_goes() -> None:
    assert memory_kind("auto", 14, 3584, SERIES7) == "block"
    assert memory_kind("auto", 2, 320, SERIES7) == "distributed"
    assert memory_kind("ultra", 4096, 72, PLUS) == "ultra"
    assert memory_kind("ultra", 4096, 72, SERIES7) == "block"


# ------------------------------------------------------------------------- kernels by hand


@pytest.mark.parametrize(
    ("kernel", "family", "dsps"),
    [
        (matrix(backend="rtl", pe=5), "7series", 2 * 8),  # 4 x 4 bits: four rows a DSP
        (matrix(backend="rtl", pe=5, weight=S8), "7series", 3 * 8),  # 8 x 8 bits: two
        (matrix(backend="rtl", pe=5), "versal", 5 * 3),  # three columns of one row
        (matrix(backend="rtl", pe=4, simd=9, pumped=True), "ultrascale+", 5),
        (matrix(resource="dsp"), "7series", 4 * 8),
        (matrix(resource="lut"), "7series", 0),
        (matrix(resource="dsp", input=BIT, weight=BIT), "7series", 0),  # XNOR
    ],
)
def test_dsps(kernel: MatrixVector, family: str, dsps: int) -> None:
    assert resources(kernel, family=family).dsp == dsps


def test_products_beyond_the_dsps_of_the_device_become_luts() -> None:
    kernel = matrix(resource="dsp")
    few, all_of_them = resources(kernel, dsps=10), resources(kernel)
    assert few.dsp == 10
    assert all_of_them.lut < few.lut < resources(replace(kernel, resource="lut")).lut


def test_weights_in_block_ram() -> None:
    kernel = matrix(memory="internal_decoupled", ram_style="block")
    assert kernel.weight_depth == 1152
    assert kernel.weight_width == 128
    assert resources(kernel).bram18 == 15  # 2K x 9: ceil(128 / 9)
    assert resources(matrix()).bram18 == 0


def test_weights_in_ultra_ram() -> None:
    kernel = matrix(memory="internal_decoupled", ram_style="ultra")
    assert resources(kernel, family="ultrascale+").uram == 2  # 4K x 72
    assert resources(kernel, family="7series").uram == 0
    assert resources(kernel, family="7series").bram18 == 15


def test_weights_are_padded_to_bytes() -> None:
    kernel = matrix(
        memory="internal_decoupled", ram_style="block", simd=1, pe=1, input=BIT, weight=BIT
    )
    assert kernel.weight_depth == 36864
    assert resources(kernel).bram18 == 8 * 4  # one bit, kept as eight: 64K x 1 each


def test_line_buffer_in_block_ram() -> None:
    kernel = window(channels=64, simd=16, ram_style="block")
    assert kernel.buffer_words == 284  # (2 x 34 + 3) x 4
    assert resources(kernel).bram18 == 2  # 64 bits: two of 512 x 36


def test_flip_flops_of_the_sliding_window() -> None:
    kernel = window(height=18, width=18, channels=16, simd=1, stride=(2, 2), element=U2)
    # Three counters of 14 bits, position 8, addresses 11 and 10, loops 4 4 3 3 5, six bits of
    # state, and the word of two bits.
    assert resources(kernel).ff == 3 * 14 + 8 + 21 + 19 + 6 + 2


def test_flip_flops_of_a_parallel_window() -> None:
    kernel = window(channels=4, simd=4, stride=(2, 2), element=U8, parallel=True)
    # Nine taps and two lines of 32 bits; two counters of 12 bits, loops of 5 and 5, addresses
    # of 5 and 5, five bits of state.
    assert resources(kernel).ff == 11 * 32 + 2 * 12 + 5 + 5 + 10 + 5


def test_flip_flops_of_padding() -> None:
    # Two words of 8 bits and their flags, a counter of 5 for 16 folds, four of 6 each way, and
    # what is behind AXI-lite.
    assert resources(PADDING).ff == 2 * 9 + 5 + 4 * 6 + 4 * 6 + 6 + 8


def test_flip_flops_of_width_converters() -> None:
    assert resources(converter(2, 98)).ff == 98 + 7 + 2 + 1
    assert resources(converter(70, 7)).ff == 70 + 5 + 2 * 7 + 2
    nothing = resources(converter(8, 8))
    assert (nothing.lut, nothing.ff) == (0, 0)


def test_memories_of_thresholds() -> None:
    # 16 folds of 16 bits: stages of 16, 32, 64, 128 words; from 1024 bits on in block RAM.
    assert resources(threshold()).bram18 == 4 * 2
    assert resources(threshold(depth_trigger_bram=1)).bram18 == 4 * 4
    assert resources(threshold(shared=True)).bram18 == 0
    assert resources(threshold(shared=True)).lutram == 0


# ------------------------------------------------------------------------- how it grows


def luts(kernel: Kernel) -> float:
    return resources(kernel).lut


@dataclass(frozen=True)
class Growth:
    """Kernels in order of what they should take."""

    name: str
    kernels: tuple[Kernel, ...]


def grown(name: str, make: Callable[[int], Kernel], values: tuple[int, ...]) -> Growth:
    return Growth(name, tuple(make(value) for value in values))


POWERS = (1, 2, 4, 8, 16, 32, 64)
GROWTH = (
    grown("pe", lambda n: matrix(pe=n), POWERS),
    grown("pe of dsps", lambda n: matrix(pe=n, resource="dsp"), POWERS),
    grown("pe of rtl", lambda n: matrix(pe=n, backend="rtl"), POWERS),
    grown("simd of rtl", lambda n: matrix(simd=n, backend="rtl"), (8, 16, 32, 64, 144, 288)),
    grown("simd, far out", lambda n: matrix(simd=n, pe=32), (16, 32, 64, 144, 288, 576)),
    grown("weight", lambda n: matrix(weight=integer(n, signed=True)), (2, 3, 4, 6, 8, 12, 16)),
    grown("input", lambda n: matrix(input=integer(n, signed=False)), (2, 3, 4, 6, 8, 12, 16)),
    grown("steps", lambda n: matrix(thresholds=n), (0, 1, 3, 15, 255)),
    grown("accumulator", lambda n: matrix(accumulator=integer(n, signed=True)), (8, 16, 24, 32)),
    grown("width of a map", lambda n: window(width=n), (8, 16, 32, 64, 128, 256)),
    grown("bits of a map", lambda n: window(element=integer(n, signed=False)), (1, 2, 4, 8, 16)),
    grown("channels of padding", lambda n: replace(PADDING, channels=n), POWERS),
    grown("simd of padding", lambda n: replace(PADDING, channels=n, simd=n), POWERS),
    grown("pe of thresholds", lambda n: threshold(pe=n, shared=True), POWERS),
    grown("steps of thresholds", lambda n: threshold(steps=n, shared=True), (1, 3, 7, 15, 255)),
    grown("wide side", lambda n: converter(4, 4 * n), (2, 4, 8, 64, 512)),
    grown("narrow side", lambda n: converter(n, 8 * n), POWERS),
    grown("serializing", lambda n: converter(4 * n, 4), (2, 4, 8, 64, 512)),
    grown("pe of labels", lambda n: replace(LABELS, pe=n), (1, 2, 5, 10)),
)


@pytest.mark.parametrize("growth", GROWTH, ids=lambda growth: growth.name)
def test_more_takes_more(growth: Growth) -> None:
    taken = [luts(kernel) for kernel in growth.kernels]
    assert taken == sorted(taken)
    assert taken[0] < taken[-1]
    registers = [resources(kernel).ff for kernel in growth.kernels]
    assert registers[0] <= registers[-1]


def test_unfolded_rows_cost_as_many_times_as_there_are() -> None:
    once, many = luts(matrix(pe=1, simd=576)), luts(matrix(pe=64, simd=576))
    assert 40 * once < many < 64 * once


# ------------------------------------------------------------------------- the rest


@pytest.mark.parametrize("family", ["7series", "ultrascale+", "versal"])
@pytest.mark.parametrize("kernel", OTHERS, ids=lambda kernel: type(kernel).__name__)
def test_kernels_without_data_are_estimated_and_say_so(kernel: Kernel, family: str) -> None:
    what = resources(kernel, family=family)
    assert what.lut > 0
    assert what.ff > 0
    assert not fitted(kernel)


def test_kernels_with_data() -> None:
    for kernel in (matrix(), window(), PADDING, LABELS, converter(1, 8), threshold(shared=True)):
        assert fitted(kernel)
    assert not fitted(threshold())
    assert not fitted(matrix(backend="rtl"))
    assert not fitted(window(depthwise=True))


def test_what_is_unknown_is_named() -> None:
    with pytest.raises(TargetError, match="'spartan' is no family"):
        resources(matrix(), family="spartan")

    @dataclass(frozen=True)
    class Strange:
        name: str = "odd"

    with pytest.raises(GraphoptError, match="odd is a Strange"):
        resources(Strange())  # type: ignore[arg-type]


def test_coefficients_are_positive() -> None:
    tables = coefficients()
    assert {"MatrixVector.hls.lut", "Window.lut", "Padding.lut", "Threshold.lut"} <= set(tables)
    for name, table in tables.items():
        assert table, name
        for term, value in table.items():
            assert value > 0, f"{name} {term}"


# ------------------------------------------------------------------------- against Vivado


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "vivado_resources.py"
    spec = importlib.util.spec_from_file_location("vivado_resources", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def truth(shared: Path) -> Path:
    folder = shared / "truth"
    if not (folder / "vivado_z7020").is_dir():
        pytest.skip(f"{folder / 'vivado_z7020'} is not here: set GRAPHOPT_SHARED")
    return folder


# Mean absolute error of LUTs and flip-flops on held-out shapes, somewhat above what was measured
# over ten splits; BRAM and DSP are exact.
REACHED = {
    "MVAU": (0.09, 0.07),
    "SWG": (0.05, 0.01),
    "DWC": (0.10, 0.0),
    "Thresholding": (0.03, 0.03),
    "FMPadding": (0.11, 0.0),
}


def test_held_out_shapes_come_as_in_vivado(benchmark: ModuleType, truth: Path) -> None:
    pytest.importorskip("scipy")
    rows = benchmark.read(truth / "vivado_z7020")
    train, test = benchmark.split(rows, seed=0)
    assert not {benchmark.shape(r.kernel) for r in train} & {
        benchmark.shape(r.kernel) for r in test
    }
    estimate = benchmark.ours(benchmark.fit(train))
    groups = benchmark.by_kind(test)
    for kind, (lut, ff) in REACHED.items():
        found = benchmark.errors(groups[kind], estimate)
        assert found["lut"].mape <= lut, kind
        assert found["ff"].mape <= ff, kind
        for exact in ("bram", "dsp"):
            assert not found[exact].mape, (kind, exact)
            assert found[exact].right == found[exact].zeros, (kind, exact)


def test_the_shipped_coefficients_are_those_of_the_fit(benchmark: ModuleType, truth: Path) -> None:
    pytest.importorskip("scipy")
    found = benchmark.fit(benchmark.read(truth / "vivado_z7020"))
    shipped = coefficients()
    assert set(found) == set(shipped)
    for name, table in found.items():
        assert shipped[name] == pytest.approx(table, rel=0.01), name


def test_whole_networks(benchmark: ModuleType, truth: Path) -> None:
    if not (truth / "finn_reports_tfc").is_dir():
        pytest.skip(f"{truth / 'finn_reports_tfc'} is not here: set GRAPHOPT_SHARED")
    groups = benchmark.by_kind(benchmark.networks(truth / "finn_reports_tfc"))
    estimate = benchmark.ours(None)
    units = benchmark.errors(groups["MVAU"], estimate)
    assert units["lut"].mape < 0.2
    assert not units["bram"].mape
    converters = benchmark.errors(groups["StreamingDataWidthConverter"], estimate)
    assert converters["lut"].mape < 0.1
    assert not converters["ff"].mape
