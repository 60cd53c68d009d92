"""Folding: given, for frames a second, within a budget."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from graphopt import Model
from graphopt.errors import GraphoptError
from hwmodel.dataflow import Bits, map_model
from hwmodel.datatypes import integer
from hwmodel.design import Builder, Design
from hwmodel.devices import device
from hwmodel.estimator import kernel_resources
from hwmodel.folding import Fold, fold, fold_for_cycles, fold_for_fps, fold_within
from hwmodel.kernels import (
    Fork,
    Join,
    MatrixVector,
    Padding,
    Threshold,
    VectorVector,
    WidthConverter,
    Window,
)
from hwmodel.kernels.kernel import Kernel, Port
from hwmodel.resources import Resources, total
from hwmodel.simulate import simulate

ACT = integer(4, signed=False)
WIDE = integer(16, signed=True)
BOARD = device("ZCU104")


def cost(kernel: Kernel) -> Resources:
    return kernel_resources(kernel, BOARD)


def block(channels: int = 8, side: int = 8) -> Design:
    """Two 3x3 convolutions, a depthwise one between them, and a skip."""
    build = Builder()
    elements = side * side * channels
    source = build.source("in", Port(ACT, 1, elements))
    fork = Fork(name="fork", elements=elements, pe=1, element=ACT)
    branch, skip = build.add(fork, [source], ["branch", "skip"])
    for index in range(3):
        pads = Padding(
            name=f"pad{index}", height=side, width=side, channels=channels, pads=(1, 1, 1, 1),
            element=ACT,
        )  # fmt: skip
        window = Window(
            name=f"window{index}", height=side + 2, width=side + 2, channels=channels,
            kernel=(3, 3), element=ACT, depthwise=index == 1,
        )  # fmt: skip
        shared: dict[str, Any] = {
            "name": f"unit{index}", "vectors": side * side, "input": ACT,
            "weight": integer(4, signed=True), "accumulator": WIDE, "output": WIDE,
            "backend": "rtl",
        }  # fmt: skip
        unit: Kernel
        if index == 1:
            unit = VectorVector(channels=channels, kernel=(3, 3), **shared)
        else:
            unit = MatrixVector(mw=9 * channels, mh=channels, **shared)
        threshold = Threshold(
            name=f"threshold{index}", channels=channels, vectors=side * side, input=WIDE,
            threshold=WIDE, output=ACT, steps=15,
        )  # fmt: skip
        for kernel in (pads, window, unit, threshold):
            (branch,) = build.add(kernel, [branch])
    join = Join(name="join", elements=elements, pe=1, operands=(ACT, ACT), output=ACT)
    build.add(join, [branch, skip], ["out"])
    return build.design()


def multipliers(design: Design) -> int:
    units = [k for k in design.kernels if isinstance(k, MatrixVector | VectorVector)]
    return sum(unit.pe * unit.simd for unit in units)


def test_a_given_folding_puts_converters_where_words_differ() -> None:
    folded = fold(block(), {"unit0": Fold(pe=4, simd=8), "window0": Fold(simd=8)})
    unit = folded.kernel["unit0"]
    assert isinstance(unit, MatrixVector)
    assert unit.cycles == 64 * 9 * 2
    widths = {(k.into, k.out_of) for k in folded.kernels if isinstance(k, WidthConverter)}
    assert widths == {(1, 8), (4, 1)}
    assert simulate(folded, frames=2).status == "ok"
    back = fold(folded, {"unit0": Fold(pe=1, simd=1), "window0": Fold(simd=1)})
    assert not any(isinstance(k, WidthConverter) for k in back.kernels)


@pytest.mark.parametrize(
    ("folds", "message"),
    [
        ({"unit0": Fold(pe=3)}, "PE 3 of unit0 does not divide 8"),
        ({"unit9": Fold(pe=2)}, "no kernel unit9"),
        ({"pad0": Fold(pe=2)}, "has no PE"),
        ({"threshold0": Fold(pe=5)}, "does not divide 8"),
    ],
)
def test_foldings_that_cannot_be_get_a_sentence(folds: dict[str, Fold], message: str) -> None:
    with pytest.raises(GraphoptError, match=message):
        fold(block(), folds)


@pytest.mark.parametrize("cycles", [50_000, 10_000, 4_000, 1_000, 200])
def test_no_kernel_takes_longer_than_asked_and_the_design_runs(cycles: int) -> None:
    design = block()
    folded = fold_for_cycles(design, cycles)
    assert folded.cycles <= cycles
    run = simulate(folded, frames=3)
    assert run.status == "ok"
    # Windows do not overlap frames, so the pace is up to a fill of the buffer slower.
    assert run.interval <= 1.35 * cycles
    assert multipliers(folded) >= multipliers(design)


def test_faster_asks_for_more() -> None:
    made = [multipliers(fold_for_cycles(block(), c)) for c in (20_000, 5_000, 1_000, 200)]
    assert made == sorted(made)
    assert len(set(made)) == 4


def test_frames_a_second_are_cycles() -> None:
    assert fold_for_fps(block(), 10_000, 100).cycles <= 10_000
    with pytest.raises(GraphoptError, match="however"):
        fold_for_fps(block(), 10_000_000, 100)
    with pytest.raises(GraphoptError, match="above 0"):
        fold_for_fps(block(), 0, 100)


def test_the_best_within_a_budget_keeps_it_and_beats_any_random_folding() -> None:
    pytest.importorskip("ortools")
    design = block()
    budget = Resources(lut=6000, ff=20_000, bram18=20, dsp=40)
    best = fold_within(design, budget, cost)
    used = total(cost(kernel) for kernel in best.kernels)
    for name in ("lut", "ff", "bram18", "dsp"):
        assert getattr(used, name) <= getattr(budget, name)
    assert fold_within(design, budget, cost) == best
    rng = random.Random(3)
    fitting = 0
    for cycles in rng.sample(range(300, 9600), 60):
        other = fold_for_cycles(design, cycles)
        spent = total(cost(kernel) for kernel in other.kernels)
        if all(getattr(spent, n) <= getattr(budget, n) for n in ("lut", "ff", "bram18", "dsp")):
            fitting += 1
            assert best.cycles <= other.cycles
    assert fitting > 5
    with pytest.raises(GraphoptError, match="fits the budget"):
        fold_within(design, Resources(lut=10), cost)


def test_within_a_budget_weights_go_where_there_is_room() -> None:
    pytest.importorskip("ortools")
    design = block(channels=32)
    plenty = {"lut": 20_000, "dsp": 200}
    few_blocks = fold_within(design, Resources(**plenty, bram18=8, uram=40), cost)
    units = [k for k in few_blocks.kernels if isinstance(k, MatrixVector | VectorVector)]
    assert {"distributed", "ultra"} <= {unit.ram_style for unit in units}
    assert total(cost(kernel) for kernel in few_blocks.kernels).bram18 <= 8
    fixed = fold(design, {unit.name: Fold(ram_style="block") for unit in units})
    assert all(fixed.kernel[unit.name].ram_style == "block" for unit in units)  # type: ignore[attr-defined]
    kept = fold_within(fixed, Resources(**plenty, bram18=200), cost)
    assert all(kept.kernel[unit.name].ram_style == "block" for unit in units)  # type: ignore[attr-defined]
    with pytest.raises(GraphoptError, match=r"at least \d+ bram18 of 1"):
        fold_within(fixed, Resources(**plenty, bram18=1), cost)


@pytest.mark.real_models
def test_resnet20_within_a_small_board(shared: Path) -> None:
    import time

    pytest.importorskip("ortools")
    board = device("Pynq-Z1")
    budget = Resources(
        lut=0.8 * board.lut, ff=0.8 * board.ff, bram18=0.8 * board.bram18, dsp=0.8 * board.dsp
    )
    path = shared / "data" / "models" / "cifar10" / "resnet20_torch213_opset13.onnx"
    design = map_model(Model.load(path), bits=Bits.parse("w4a4"))
    start = time.perf_counter()
    best = fold_within(design, budget, lambda kernel: kernel_resources(kernel, board))
    assert time.perf_counter() - start < 5
    used = total(kernel_resources(kernel, board) for kernel in best.kernels)
    assert used.lut <= budget.lut
    assert used.bram18 <= budget.bram18
    assert used.dsp <= budget.dsp
    assert best.cycles <= 73_728


@pytest.mark.real_models
def test_resnet50_is_mapped_and_folded_in_no_time(shared: Path) -> None:
    import time

    loaded = Model.load(shared / "data" / "models" / "imagenet" / "light_resnet50.onnx")
    map_model(loaded, bits=Bits.parse("w4a4"))  # shapes are known from here on
    start = time.perf_counter()
    folded = fold_for_fps(map_model(loaded, bits=Bits.parse("w4a4")), 20, 200)
    assert time.perf_counter() - start < 2
    assert folded.cycles <= 10_000_000
