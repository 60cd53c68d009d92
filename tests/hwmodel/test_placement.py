"""Where the FIFO of a skip costs least."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.ir import Model
from hwmodel.dataflow import map_model
from hwmodel.datatypes import integer
from hwmodel.design import Builder, Design
from hwmodel.fifo import placed, placement, shared, size
from hwmodel.fifo.placement import _upstream
from hwmodel.fifo.search import total_bits
from hwmodel.kernels import Fork, Join, MatrixVector, Padding, Window
from hwmodel.kernels.kernel import Port
from hwmodel.simulate import Run, simulate
from tests.support.benchmarks import benchmark

blocks = benchmark("quantized_blocks")
U4 = integer(4, signed=False)
PADS, KERNEL = (1, 1, 1, 1), (3, 3)


def projected(form: str = "B, projection") -> Design:
    x = np.abs(np.random.default_rng(0).normal(size=(1, 6, 12, 12))).astype(np.float32)
    return map_model(Model.load(blocks.drawn(form, 4, False, 0, x)))


def held(design: Design) -> int:
    return total_bits(design, {stream.name: stream.depth or 2 for stream in design.streams})


def test_a_projection_waits_where_its_words_are_narrow() -> None:
    sized = size(projected()).design
    before = simulate(sized, frames=4)
    after, moves = placed(sized)
    (move,) = moves
    run = simulate(after, frames=4)
    assert run.status == "ok"
    assert run.interval <= before.interval
    assert held(sized) - held(after) == move.before - move.after > 0
    # Accumulators wait no longer: the stream has the bits of the activations.
    assert after.stream[move.stream].element.bits <= 4
    assert placed(after) == (after, ())


@pytest.mark.parametrize(("missing", "then"), [(8, "slower"), (64, "deadlock")])
def test_a_place_that_hurts_is_not_taken(
    missing: int, then: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With too few words before the kernels the design would stall, and stays as it was."""
    sized = size(projected()).design
    depth = placement._upstream
    monkeypatch.setattr(placement, "_upstream", lambda *of: max(2, depth(*of) - missing))
    tried = []

    def watched(design: Design, *, frames: int) -> Run:
        tried.append(simulate(design, frames=frames))
        return tried[-1]

    monkeypatch.setattr(placement, "simulate", watched)
    assert placed(sized) == (sized, ())
    before, *others = tried
    assert others
    for run in others:
        slower = run.status == "ok" and run.interval > before.interval
        assert slower if then == "slower" else run.status == "deadlock"


def test_a_plain_skip_has_one_place() -> None:
    x = np.abs(np.random.default_rng(0).normal(size=(1, 6, 12, 12))).astype(np.float32)
    sized = size(map_model(Model.load(blocks.drawn("A, lattice", 4, False, 0, x)))).design
    assert placed(sized) == (sized, ())


def test_words_before_a_kernel() -> None:
    """Of a matrix of 8 columns and 4 rows, PE 2 and SIMD 4: two words in for each two out."""
    unit = MatrixVector(name="m", mw=8, mh=4, pe=2, simd=4, vectors=9, input=U4, weight=U4)
    assert _upstream((unit,), 2, 18) == 2
    assert _upstream((unit,), 6, 18) == 6
    assert _upstream((unit,), 40, 18) == 18


def two_skips() -> Design:
    """One source; a join behind one window, another behind two, and a skip to each."""
    build = Builder()
    x = build.source("x", Port(U4, 1, 100))
    here, *skips = build.add(Fork(name="fork", elements=100, pe=1, element=U4, ways=3), [x])
    for number, skip in enumerate(skips):
        for kernel in (
            Padding(name=f"pad{number}", height=10, width=10, channels=1, pads=PADS, element=U4),
            Window(name=f"win{number}", height=12, width=12, channels=1, kernel=KERNEL, element=U4),
            MatrixVector(
                name=f"unit{number}", mw=9, mh=1, vectors=100, input=U4, weight=U4, output=U4
            ),
        ):
            (here,) = build.add(kernel, [here])
        join = Join(name=f"join{number}", elements=100, pe=1, operands=(U4, U4), output=U4)
        (here,) = build.add(join, [here, skip])
    return size(build.design()).design


def test_skips_of_one_source_share_a_fifo() -> None:
    sized = two_skips()
    before = simulate(sized, frames=4)
    after, saved = shared(sized)
    run = simulate(after, frames=4)
    assert run.status == "ok"
    assert run.interval <= before.interval
    assert held(sized) - held(after) == saved > 0
    assert sum(isinstance(kernel, Fork) for kernel in after.kernels) == 2
    assert shared(after) == (after, 0)


def test_nothing_to_share() -> None:
    sized = size(projected()).design
    assert shared(sized) == (sized, 0)
