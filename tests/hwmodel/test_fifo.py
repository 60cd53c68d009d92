"""FIFO depths: bounds against need, the joint minimum, and what explains them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphopt.errors import GraphoptError
from hwmodel import truth
from hwmodel.datatypes import integer
from hwmodel.design import Builder, Design
from hwmodel.fifo import bounds, deadlock_free, explain, minimal, occupancy, size
from hwmodel.fifo.needs import need
from hwmodel.fifo.regions import regions
from hwmodel.fifo.search import shape_of, total_bits
from hwmodel.kernels import Concat, Downsample, Fork, Join, Padding, VectorVector, Window
from hwmodel.kernels.kernel import Kernel, Port
from hwmodel.simulate import Network, simulate

OWN = Path(__file__).parent / "data" / "rtl_records.jsonl"


def records() -> Iterator[dict[str, Any]]:
    for line in OWN.read_text().splitlines():
        record = json.loads(line)
        if record.get("kind") != "chain":
            yield record


def plain(record: dict[str, Any]) -> bool:
    """A block whose skip is nothing but a FIFO."""
    return not record.get("skip_conv")


def unsized(design: Design) -> Design:
    return design.with_depths({s.name: None for s in design.streams if s.depth != 0})


PLAIN = [record for record in records() if plain(record)]


def test_the_deadlock_bound_is_exact_in_rtl() -> None:
    assert len(PLAIN) >= 30
    for record in PLAIN:
        bound = bounds(truth.wired(record).design)["skip"]
        assert bound.deadlock == record["deadlock_free"], record


def test_search_finds_the_minima_of_the_rtl() -> None:
    for record in PLAIN[::4]:
        design = truth.wired(record).design
        assert minimal(design, "skip") == record["minimum"], record
        assert deadlock_free(design, "skip") == record["deadlock_free"], record


def test_the_throughput_bound_is_near_the_need() -> None:
    errors = []
    for record in PLAIN:
        bound = bounds(truth.wired(record).design, interval=record["II"])["skip"]
        errors.append(abs(bound.throughput / record["minimum"] - 1))
    assert np.mean(np.array(errors) <= 0.05) >= 0.95


def test_the_first_word_of_a_pixel_closes_a_loop_too() -> None:
    block = {
        "H": 10, "W": 13, "C": 12, "stream_elems": 3, "main_fifo": 4, "skip_conv": None,
        "convs": [{"k": 1, "s": 1, "p": 0, "Cin": 12, "Cout": 12, "SIMD": 1, "PE": 12, "par": 0}],
    }  # fmt: skip
    design = truth.wired(block).design
    assert bounds(design)["skip"].throughput == minimal(design, "skip") == 9


def test_in_the_gap_between_frames_the_fork_sends_on() -> None:
    """The input sets the pace, so it may not rest while the branch takes in the border."""
    conv = {"k": 5, "s": 1, "p": 2, "Cin": 4, "Cout": 4, "SIMD": 100, "PE": 2, "par": 1}
    block = {
        "H": 13, "W": 8, "C": 4, "stream_elems": 2, "main_fifo": 32, "skip_conv": None,
        "convs": [conv],
    }  # fmt: skip
    design = truth.wired(block).design
    need, bound = minimal(design, "skip"), bounds(design)["skip"]
    assert need > 2 * bound.deadlock
    assert bound.throughput == pytest.approx(need, rel=0.05)


@pytest.mark.parametrize("record", [r for r in records() if not plain(r)])
def test_kernels_on_the_skip_hold_some_of_its_words(record: dict[str, Any]) -> None:
    design = truth.wired(record).design.with_depths({"skip": 2})
    (name, bound), *_ = bounds(design).items()
    out, exact = design.stream[name], deadlock_free(design, name)
    into = {stream.sink.kernel: stream for stream in design.streams if stream.sink}
    fifos = sum(
        (into[kernel.name].depth or 0) * out.words / into[kernel.name].words
        for kernel in bound.skip.skip
    )
    assert exact <= bound.deadlock <= exact + fifos + 2 * bound.words * len(bound.skip.skip)


def test_the_textbook_lag() -> None:
    record = next(
        r for r in PLAIN if any(c["k"] == 3 for c in r.get("convs", ())) and len(r["convs"]) == 1
    )
    bound = bounds(truth.wired(record).design)["skip"]
    (conv,) = record["convs"]
    lag = (conv["k"] - 1 - conv["p"]) * (record["W"] + 1)
    assert bound.lag == lag
    assert bound.deadlock == record["C"] // record["stream_elems"] * (lag + 1)


@pytest.mark.parametrize("index", range(0, 24, 3))
def test_all_fifos_together(index: int) -> None:
    design = unsized(truth.wired(PLAIN[index]).design)
    free = simulate(design, frames=4)
    sizing = size(design, jobs=1)
    assert sizing.interval <= free.interval
    confirmed = simulate(sizing.design, frames=6)
    assert confirmed.status == "ok"
    assert confirmed.interval <= free.interval
    matched = occupancy(design, period=free.interval, frames=4)
    assert sizing.bits <= total_bits(design, {n: max(2, d + 1) for n, d in matched.items()})
    # Local optimality: no FIFO alone can be shallower.
    for stream in sizing.design.streams:
        depth = sizing.depths[stream.name]
        if depth > 2:
            shallower = simulate(sizing.design.with_depths({stream.name: depth - 1}), frames=4)
            assert shallower.status != "ok" or shallower.interval > free.interval


def test_only_free_of_deadlock_is_smaller_and_runs() -> None:
    design = unsized(truth.wired(PLAIN[0]).design)
    fast, slow = size(design, jobs=1), size(design, jobs=1, throughput=False)
    assert slow.bits <= fast.bits
    assert simulate(slow.design).status == "ok"


def test_another_price_moves_the_words() -> None:
    design = unsized(truth.wired(PLAIN[0]).design)
    free = simulate(design, frames=4).interval

    def dear_skip(stream: Any, depth: int) -> float:
        return depth * (1000.0 if stream.name == "skip" else 1.0)

    plain_price = size(design, jobs=1)
    moved = size(design, jobs=1, price=dear_skip)
    assert moved.depths["skip"] <= plain_price.depths["skip"]
    assert moved.interval <= free


def test_a_slower_interval_asks_for_less() -> None:
    design = unsized(truth.wired(PLAIN[0]).design)
    free = simulate(design, frames=4).interval
    assert size(design, jobs=1, interval=2 * free).bits <= size(design, jobs=1).bits
    with pytest.raises(GraphoptError, match=r"needs .* cycles a frame"):
        size(design, jobs=1, interval=free // 2)


BYTE = integer(8, signed=False)


def depthwise(build: Builder, stream: str, name: str) -> str:
    """A 3x3 depthwise convolution of a 6x6 map of 4 channels, padded by 1, behind a stream."""
    pads = Padding(
        name=f"pad{name}", height=6, width=6, channels=4, pads=(1, 1, 1, 1), element=BYTE, simd=2
    )
    window = Window(
        name=f"window{name}", height=8, width=8, channels=4, kernel=(3, 3), element=BYTE, simd=2,
        depthwise=True,
    )  # fmt: skip
    unit = VectorVector(
        name=f"unit{name}", channels=4, kernel=(3, 3), vectors=36, pe=2, input=BYTE, weight=BYTE,
        output=BYTE, backend="rtl",
    )  # fmt: skip
    for kernel in (pads, window, unit):
        (stream,) = build.add(kernel, [stream])
    return stream


def two_blocks() -> Design:
    """The same block twice, behind each other."""
    build = Builder()
    stream = build.source("in", Port(BYTE, 2, 72))
    for index in range(2):
        fork = Fork(name=f"fork{index}", elements=144, pe=2, element=BYTE)
        branch, skip = build.add(fork, [stream], [f"branch{index}", f"skip{index}"])
        branch = depthwise(build, branch, str(index))
        join = Join(name=f"join{index}", elements=144, pe=2, operands=(BYTE, BYTE), output=BYTE)
        (stream,) = build.add(join, [branch, skip])
    return build.design()


def test_blocks_are_cut_apart_and_sized_once() -> None:
    design = two_blocks()
    parts = regions(design)
    assert [len(part.kernels) for part in parts] == [5, 5]
    assert shape_of(parts[0]) == shape_of(parts[1])
    sizing = size(design, jobs=1)
    assert sizing.interval == simulate(design, frames=4).interval
    assert set(sizing.depths) == {stream.name for stream in design.streams}
    assert set(bounds(design)) == {"skip0", "skip1"}


def test_explanations_name_the_window_and_the_numbers() -> None:
    design = size(two_blocks(), jobs=1).design
    text = explain(design, "skip0")
    assert "2 rows of window0" in text
    assert f"{bounds(design)['skip0'].deadlock} words or deadlock" in text
    assert explain(design, "pad0.out") in {
        "passes words on",
        "evens out bursts of its writer against its reader",
    }


@pytest.mark.parametrize(
    "kernel",
    [
        Padding(
            name="k", height=4, width=3, channels=4, pads=(1, 0, 2, 1), element=BYTE, simd=2
        ),
        Window(
            name="k", height=7, width=6, channels=4, kernel=(3, 2), stride=(2, 1), element=BYTE,
            simd=2,
        ),
        Window(
            name="k", height=6, width=6, channels=4, kernel=(3, 3), element=BYTE, simd=2,
            depthwise=True,
        ),
        Window(
            name="k", height=6, width=5, channels=4, kernel=(2, 2), stride=(2, 2), element=BYTE,
            simd=4, parallel=True,
        ),
        Downsample(
            name="k", height=5, width=7, channels=4, stride=(2, 3), element=BYTE, simd=2
        ),
    ],
    ids=["padding", "window", "depthwise", "parallel", "downsample"],
)  # fmt: skip
def test_what_a_kernel_needs_is_what_it_waits_for(kernel: Kernel) -> None:
    """Fed a word in 40 cycles, an output cannot leave before its last word came, and soon after."""
    (given,), (made,) = kernel.inputs, kernel.outputs
    build = Builder()
    build.add(kernel, [build.source("in", given, depth=2)], ["out"], depths=[2])
    network = Network(build.design())
    gap = 40
    run = network.run(frames=1, period=gap * given.words, trace=1)
    assert run.status == "ok"
    needed = need(kernel, np.arange(1, made.words + 1))
    assert np.all(np.diff(needed) >= 0)
    assert needed[-1] <= given.words
    last = (needed[-1] - 1) * gap
    assert last < run.frame_ends[0] <= last + gap + 2 * made.words


def three_ways(kind: str) -> Design:
    """x, a 3x3 depthwise convolution of x, and two of them behind each other; summed or joined."""
    build = Builder()
    source = build.source("in", Port(BYTE, 2, 72))
    fork = Fork(name="fork", elements=144, pe=2, element=BYTE, ways=3)
    ways = list(build.add(fork, [source], ["plain", "one", "two"]))
    for way, count in ((1, 1), (2, 2)):
        for index in range(count):
            ways[way] = depthwise(build, ways[way], f"{way}.{index}")
    if kind == "sum":
        build.add(
            Join(name="join", elements=144, pe=2, operands=(BYTE,) * 3, output=BYTE), ways, ["y"]
        )
    else:
        concat = Concat(name="join", vectors=36, channels=(4, 4, 4), element=BYTE, pe=2)
        build.add(concat, ways, ["y"])
    return build.design()


@pytest.mark.parametrize("kind", ["sum", "concat"])
def test_every_way_of_a_join_has_its_bound(kind: str) -> None:
    design = three_ways(kind)
    known = bounds(design)
    assert {bound.skip.port for bound in known.values()} >= {0, 1}
    shallow = {stream.name: 2 for stream in design.streams if stream.name not in known}
    sized = design.with_depths({**shallow, **{n: b.deadlock for n, b in known.items()}})
    assert simulate(sized).status == "ok"
    plain = known["plain"].deadlock
    assert simulate(sized.with_depths({"plain": plain - 1})).status == "deadlock"


def test_a_concatenation_of_a_tensor_with_itself_must_hold_a_pixel() -> None:
    build = Builder()
    source = build.source("in", Port(BYTE, 1, 4 * 9), depth=2)
    fork = Fork(name="fork", elements=36, pe=1, element=BYTE)
    one, two = build.add(fork, [source], ["one", "two"])
    concat = Concat(name="join", vectors=9, channels=(4, 4), element=BYTE)
    build.add(concat, [one, two], ["y"], depths=[2])
    design = build.design()
    known = bounds(design)
    sized = design.with_depths({name: bound.deadlock for name, bound in known.items()})
    assert simulate(sized).status == "ok"
    assert known["two"].deadlock == deadlock_free(design.with_depths({"one": 2}), "two")


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("depthwise", [False, True])
def test_what_a_window_needs_is_what_its_taps_read(
    stride: int, dilation: int, depthwise: bool
) -> None:
    window = Window(
        name="w", height=7, width=8, channels=4, kernel=(3, 2), stride=(stride, stride),
        dilation=(dilation, dilation), element=BYTE, simd=2, depthwise=depthwise,
    )  # fmt: skip
    read = []
    for y, x in np.ndindex(window.out_height, window.out_width):
        taps = [(i, j, c) for i in range(3) for j in range(2) for c in range(2)]
        if depthwise:
            taps.sort(key=lambda tap: tap[2])
        for i, j, channel in taps:
            row, column = y * stride + i * dilation, x * stride + j * dilation
            read.append((row * 8 + column) * 2 + channel + 1)
    wanted = np.maximum.accumulate(read)
    np.testing.assert_array_equal(need(window, np.arange(1, len(read) + 1)), wanted)
