"""The simulator beside the RTL records: verdicts, sources, traces, kernels without RTL."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest

from graphopt.errors import GraphoptError
from hwmodel.datatypes import integer
from hwmodel.design import Builder, Design
from hwmodel.kernels import (
    Channelwise,
    Concat,
    Downsample,
    Fork,
    GlobalPool,
    Join,
    LabelSelect,
    MatrixVector,
    MaxPool,
    Padding,
    Pool,
    Shuffle,
    Upsample,
    Window,
)
from hwmodel.kernels.kernel import Kernel, Port
from hwmodel.simulate import Network, engine, simulate

BYTE = integer(8, signed=False)


def line(port: Port, *kernels: Kernel, depth: int | None = None) -> Design:
    """Kernels behind each other."""
    build = Builder()
    stream = build.source("in", port, depth=depth)
    for kernel in kernels:
        (stream,) = build.add(kernel, [stream], depths=[depth])
    return build.design()


def block(skip: int | None) -> Design:
    """A 3x3 convolution on an 8x8 map beside its skip."""
    build = Builder()
    source = build.source("in", Port(BYTE, 4, 64))
    fork = Fork(name="fork", elements=256, pe=4, element=BYTE)
    branch, side = build.add(fork, [source], ["branch", "skip"], depths=[2, skip])
    pads = Padding(
        name="pad", height=8, width=8, channels=4, pads=(1, 1, 1, 1), element=BYTE, simd=4
    )
    window = Window(
        name="window", height=10, width=10, channels=4, kernel=(3, 3), element=BYTE, simd=4
    )
    multiply = MatrixVector(
        name="conv",
        mw=36,
        mh=4,
        vectors=64,
        simd=4,
        pe=4,
        input=BYTE,
        weight=BYTE,
        output=BYTE,
        backend="rtl",
    )
    for kernel in (pads, window, multiply):
        (branch,) = build.add(kernel, [branch], depths=[2])
    join = Join(name="join", elements=256, pe=4, operands=(BYTE, BYTE), output=BYTE)
    build.add(join, [branch, side], ["out"], depths=[2])
    return build.design()


def test_a_skip_too_shallow_is_a_deadlock_and_its_ring_is_named() -> None:
    # lag = (k - 1 - p) (W + 1) = 9 pixels of one word: 10 words or nothing moves.
    dead = simulate(block(9))
    assert dead.status == "deadlock"
    assert {wait.kernel for wait in dead.blame} == {"fork", "pad", "window", "conv", "join"}
    assert {(wait.stream, wait.reason) for wait in dead.blame} >= {
        ("skip", "full"),
        ("conv.out", "empty"),
    }
    assert "fork waits: skip is full" in map(str, dead.blame)
    alive = simulate(block(10))
    assert alive.status == "ok"
    assert not alive.blame


def test_a_shallow_skip_costs_time_and_waiting_is_counted() -> None:
    free, tight = simulate(block(None)), simulate(block(10))
    assert tight.interval > free.interval
    assert tight.streams["skip"].full > 0.1
    assert tight.streams["skip"].peak == 10
    assert free.streams["skip"].full == 0


def test_the_source_may_be_throttled_or_end() -> None:
    design = block(None)
    free = simulate(design)
    slow = simulate(design, period=2 * free.interval)
    assert slow.interval == 2 * free.interval
    fed = Network(design).run(frames=2, fed=2)
    assert fed.status == "ok"
    assert fed.streams["in"].words == 2 * 64
    # What is not sent never leaves: nothing moves any more.
    assert Network(design).run(frames=3, fed=2).status == "deadlock"


def test_the_trace_holds_the_counts_over_time() -> None:
    design = block(12)
    run = simulate(design, trace=200)
    index = [stream.name for stream in design.streams].index("skip")
    column = run.trace[:, index]
    assert run.trace_every >= 1
    assert column.max() <= 12
    assert column.max() >= 10
    assert len(column) == -(-run.cycles // run.trace_every)


def test_runs_are_repeatable_and_do_not_touch_the_network() -> None:
    network = Network(block(12))
    assert network.run().frame_cycles == network.run().frame_cycles


@pytest.mark.parametrize(
    ("kernel", "port"),
    [
        (
            MaxPool(name="k", height=6, width=4, channels=4, kernel=(2, 2), element=BYTE, pe=2),
            Port(BYTE, 2, 48),
        ),
        (
            Pool(
                name="k",
                channels=4,
                kernel=(3, 3),
                vectors=5,
                function="MaxPool",
                input=BYTE,
                output=BYTE,
                pe=2,
            ),
            Port(BYTE, 2, 90),
        ),
        (
            GlobalPool(name="k", channels=8, vectors=9, input=BYTE, output=BYTE, pe=4),
            Port(BYTE, 4, 18),
        ),
        (
            Upsample(name="k", height=3, width=5, channels=2, scale=2, element=BYTE),
            Port(BYTE, 1, 30),
        ),
        (
            Shuffle(name="k", elements=48, page=24, innermost=2, simd=2, element=BYTE),
            Port(BYTE, 2, 24),
        ),
        (LabelSelect(name="k", labels=10, k=3, input=BYTE, output=BYTE), Port(BYTE, 1, 10)),
        (
            Downsample(
                name="k", height=5, width=7, channels=4, stride=(2, 3), element=BYTE, simd=2
            ),
            Port(BYTE, 2, 70),
        ),
        (
            Channelwise(
                name="k",
                function="mul",
                channels=6,
                vectors=4,
                pe=3,
                input=BYTE,
                parameter=BYTE,
                output=BYTE,
            ),
            Port(BYTE, 3, 8),
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_kernels_give_their_words_at_their_pace(kernel: Kernel, port: Port) -> None:
    design = line(port, kernel)
    assert kernel.inputs == (port,)
    run = simulate(design, frames=4)
    assert run.status == "ok"
    assert run.streams["k.out"].words >= 4 * kernel.outputs[0].words
    # The estimate of a frame is right but for a few cycles between frames.
    assert 0 <= run.interval - max(port.words, kernel.outputs[0].words) <= kernel.cycles
    assert abs(run.interval - kernel.cycles) <= max(4, kernel.cycles // 4)


def test_concatenation_takes_its_inputs_in_turn() -> None:
    build = Builder()
    one = build.source("one", Port(BYTE, 2, 10))
    two = build.source("two", Port(BYTE, 2, 15))
    concat = Concat(name="concat", vectors=5, channels=(4, 6), element=BYTE, pe=2)
    build.add(concat, [one, two], ["out"])
    run = simulate(build.design(), frames=3)
    assert run.status == "ok"
    assert run.interval == 25


def test_stride_that_leaves_rows_over_still_runs() -> None:
    window = Window(name="w", height=7, width=8, channels=4, kernel=(2, 2), stride=(2, 2),
                    element=BYTE, simd=2)  # fmt: skip
    run = simulate(line(Port(BYTE, 2, 112), window), frames=3)
    assert run.status == "ok"
    assert run.streams["w.out"].words == 3 * window.outputs[0].words


def test_unlimited_is_the_default_and_depths_can_be_tried() -> None:
    network = Network(block(None))
    depths = network.depths(default=100)
    assert network.run(depths).streams["skip"].depth == 100
    assert np.array_equal(network.depths(), Network(block(None)).depths())


def test_a_design_without_an_end_is_refused() -> None:
    with pytest.raises(GraphoptError, match="no stream that leaves"):
        Network(Design((), (), {}))


def test_what_numba_keeps_on_disk_depends_on_one_file() -> None:
    """Its cache looks at the file of the outermost function only: what that calls or reads from
    another file could change, and the old code would still run.
    """
    home = Path(engine.__file__)
    compiled = {path for path in home.parents[1].rglob("*.py") if "numba" in path.read_text()}
    assert compiled == {home}
    tree = ast.walk(ast.parse(home.read_text()))
    modules = {
        module
        for node in tree
        if isinstance(node, ast.Import | ast.ImportFrom)
        for module in (
            [node.module] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
        )
    }
    assert modules == {"__future__", "typing", "numba", "numpy"}
