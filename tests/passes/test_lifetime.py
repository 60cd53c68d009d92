"""Lifetimes: against hand counts, an independent simulation, and published peaks."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from graphopt.ir import Model
from passes.lifetime import Life, Lifetime, LifetimeTable
from passes.skip_detection import Skips

SHARED = Path(os.environ.get("GRAPHOPT_SHARED", Path(__file__).parents[3] / "shared"))
KB = 1024
"""Bytes of a float map of 4 x 8 x 8."""


def model(
    nodes: list[tuple[Any, ...]],
    outputs: list[str],
    shape: list[Any] | None = None,
    constants: dict[str, np.ndarray] | None = None,
) -> Model:
    """A model with input `x`; a node is (operator, inputs, output[, attributes])."""
    made = [
        helper.make_node(n[0], n[1].split(), n[2].split(), n[2].split()[0], **dict(*n[3:]))
        for n in nodes
    ]
    graph = helper.make_graph(
        made,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape or [1, 4, 8, 8])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("somewhere.else", 1)]
    return Model.load(helper.make_model(graph, opset_imports=opsets, ir_version=8))


W = {"w": np.ones((4, 4, 1, 1), np.float32), "c": np.float32(2)}
BLOCK = [
    ("Conv", "x w", "a"),
    ("Relu", "a", "b"),
    ("Conv", "b w", "d"),
    ("Relu", "d", "e"),
    ("Conv", "e w", "f"),
    ("Add", "f b", "g"),
    ("Relu", "g", "y"),
]


def block() -> Model:
    """Stem, then a residual block of two convolutions: b is the skip."""
    return model(BLOCK, ["y"], constants=W)


def test_lives_of_a_residual_block() -> None:
    table = Lifetime(in_place=False).run(block())
    assert table.schedule == ("a", "b", "d", "e", "f", "g", "y")
    assert table["x"] == Life("x", -1, 0, KB, (0,))
    assert table["b"] == Life("b", 1, 5, KB, (2, 5))
    assert table["y"] == Life("y", 6, 7, KB)
    assert table.live_bytes == tuple(n * KB for n in (2, 2, 2, 3, 3, 3, 2))
    assert table.peak_bytes == 3 * KB
    assert table.peak_step == 3
    assert [life.tensor for life in table.live_at(3)] == ["b", "d", "e"]
    assert [[life.tensor for life in table.waiting_at(s)] for s in range(7)] == [
        *[[]] * 3,
        ["b"],
        ["b"],
        *[[]] * 2,
    ]
    assert table.unknown == ()
    assert "w" not in table


def test_in_place_operators_take_over_dying_buffers() -> None:
    table = Lifetime(in_place=True).run(block())
    replaced = {life.tensor: life.replaces for life in table.lives if life.replaces}
    assert replaced == {"b": "a", "e": "d", "g": "f", "y": "g"}
    assert table.live_bytes == tuple(n * KB for n in (2, 1, 2, 2, 3, 2, 1))
    assert [life.tensor for life in table.live_at(3)] == ["b", "e"]


def test_fused_layers_hide_what_lies_between() -> None:
    table = Lifetime(fused=True, in_place=False).run(block())
    assert table.schedule == ("a", "d", "f", "g")
    assert "a" not in table
    assert table.live_bytes == tuple(n * KB for n in (2, 2, 3, 3))
    assert Lifetime(fused=True, in_place=True).run(block()).live_bytes[-1] == 2 * KB


def test_buffers_of_the_caller_and_outputs_are_not_overwritten() -> None:
    nodes = [("Relu", "x", "a"), ("Neg", "a", "b"), ("Sigmoid", "a", "d"), ("Relu", "d", "e")]
    table = Lifetime(in_place=True).run(model(nodes, ["d", "e"]))
    assert {life.tensor: life.replaces for life in table.lives} == {
        "x": None,
        "a": None,
        "b": None,  # Neg is not among the operators that run in place
        "d": "a",
        "e": None,
    }
    assert (table["b"].dies, table["d"].dies, table["e"].dies) == (1, 4, 4)


def test_a_smaller_operand_is_not_written_over() -> None:
    nodes = [
        ("Conv", "x w", "a"),
        ("GlobalAveragePool", "a", "p"),
        ("Sigmoid", "p", "s"),
        ("Mul", "s a", "y"),
    ]
    table = Lifetime(in_place=True).run(model(nodes, ["y"], constants=W))
    assert table["y"].replaces == "a"
    assert table["s"].bytes == 16


def test_an_operand_that_is_read_later_is_not_written_over() -> None:
    nodes = [("Conv", "x w", "a"), ("Relu", "a", "b"), ("Add", "a b", "y")]
    table = Lifetime(in_place=True).run(model(nodes, ["y"], constants=W))
    assert table["b"].replaces is None
    assert table["y"].replaces == "a"


def test_shape_arithmetic_neither_runs_nor_keeps_alive() -> None:
    nodes = [
        ("Relu", "x", "a"),
        ("Sigmoid", "a", "b"),
        ("Relu", "b", "d"),
        ("Shape", "a", "size"),
        ("Reshape", "d size", "y"),
    ]
    table = Lifetime(in_place=False).run(model(nodes, ["y"]))
    assert table.schedule == ("a", "b", "d", "y")
    assert table["a"].dies == 1


def test_subgraphs_keep_what_they_read_alive() -> None:
    def branch(name: str) -> onnx.GraphProto:
        inner = helper.make_node("Relu", ["a"], [f"{name}_out"])
        info = helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, None)
        return helper.make_graph([inner], name, [], [info])

    nodes = [
        ("Relu", "x", "a"),
        ("Sigmoid", "a", "b"),
        ("ReduceSum", "b", "sum", {"keepdims": 0}),
        ("Cast", "sum", "choice", {"to": TensorProto.BOOL}),
        ("If", "choice", "y", {"then_branch": branch("yes"), "else_branch": branch("no")}),
    ]
    table = Lifetime(in_place=False).run(model(nodes, ["y"]))
    assert table["a"].reads == (1, 4)
    assert table["a"].dies == 4


def test_a_symbolic_batch_counts_once_and_unknown_sizes_are_listed() -> None:
    nodes = [("Relu", "x", "a"), ("Guess", "a", "guessed", {"domain": "somewhere.else"})]
    table = Lifetime(in_place=False).run(model(nodes, ["a"], ["N", 4, 8, 8]))
    assert table["a"].bytes == KB
    assert table.unknown == ("guessed",)
    assert table.live_bytes == (2 * KB, KB)


def test_a_model_without_steps() -> None:
    table = LifetimeTable((), ())
    assert table.peak_bytes == 0
    assert table.peak_step == -1
    assert table.live_bytes == ()
    assert table.share_held_by(()) == 0


# Against an independent simulation -----------------------------------------------------------

OPERATORS = ("Conv", "Relu", "Add", "Mul", "Concat", "GlobalAveragePool", "Sigmoid")


@st.composite
def graphs(draw: st.DrawFn) -> tuple[list[tuple[Any, ...]], list[str]]:
    """Random graphs of maps of 4 or 8 channels; some tensors are read by nobody."""
    channels = {"x": 4}
    nodes: list[tuple[Any, ...]] = []
    for index in range(draw(st.integers(1, 12))):
        operator = draw(st.sampled_from(OPERATORS))
        first = draw(st.sampled_from(sorted(channels)))
        alike = sorted(name for name in channels if channels[name] == channels[first])
        second = draw(st.sampled_from(alike))
        name = f"t{index}"
        if operator == "Conv" and channels[first] == 4:
            nodes.append((operator, f"{first} w", name))
        elif operator == "Concat" and channels[first] == 4:
            nodes.append((operator, f"{first} {second}", name, {"axis": 1}))
        elif operator in ("Add", "Mul"):
            nodes.append((operator, f"{first} {second}", name))
        else:
            nodes.append(("GlobalAveragePool" if operator[0] == "G" else "Relu", first, name))
        channels[name] = 8 if operator == "Concat" and channels[first] == 4 else channels[first]
    names = [node[2] for node in nodes]
    outputs = draw(st.lists(st.sampled_from(names), min_size=1, max_size=2, unique=True))
    return nodes, outputs


@settings(max_examples=100)
@given(graphs())
def test_live_bytes_are_those_of_a_reference_counting_run(
    drawn: tuple[list[tuple[Any, ...]], list[str]],
) -> None:
    """Frees every tensor when its last reader has run, as an interpreter would."""
    nodes, outputs = drawn
    net = model(nodes, outputs, constants=W)
    table = Lifetime(in_place=False).run(net)
    size = {life.tensor: life.bytes or 0 for life in table.lives}
    left = {name: sum(name in node[1].split() for node in nodes) for name in size}
    memory = {"x"} if left["x"] else set()
    expected = []
    for _, inputs, name, *_ in nodes:
        memory.add(name)
        expected.append(sum(size[held] for held in memory))
        for source in set(inputs.split()) & set(size):
            left[source] -= 1
        memory = {held for held in memory if left[held] or held in outputs}
    assert table.live_bytes == tuple(expected)
    assert table.peak_bytes == max(expected)
    for step in range(len(nodes)):
        assert sum(life.bytes or 0 for life in table.live_at(step)) == expected[step]


@settings(max_examples=100)
@given(graphs())
def test_in_place_never_overwrites_what_is_still_read(
    drawn: tuple[list[tuple[Any, ...]], list[str]],
) -> None:
    """Runs the buffers: every reader finds the tensor it wants in the buffer that it was put in."""
    nodes, outputs = drawn
    net = model(nodes, outputs, constants=W)
    table, roomy = Lifetime(in_place=True).run(net), Lifetime(in_place=False).run(net)
    buffer = {"x": "x"}
    content = {"x": "x"}
    for step, (_, inputs, name, *_) in enumerate(nodes):
        for source in set(inputs.split()) - {"w"}:
            assert content[buffer[source]] == source
        old = table[name].replaces
        buffer[name] = name if old is None else buffer[old]
        content[buffer[name]] = name
        assert old is None or old in inputs.split()
        assert sum(life.bytes or 0 for life in table.live_at(step)) == table.live_bytes[step]
    assert all(content[buffer[name]] == name for name in outputs)
    assert content["x"] == "x"
    assert all(a <= b for a, b in zip(table.live_bytes, roomy.live_bytes, strict=True))


# Skips ---------------------------------------------------------------------------------------


def test_what_a_skip_holds() -> None:
    """b waits while d -> e and e -> f run; at its birth, at d and at the join it is in use."""
    net = block()
    table, skips = Lifetime(in_place=True).run(net), Skips().run(net)
    assert table.held_by(skips) == (0, 0, 0, KB, KB, 0, 0)
    assert table.held_by(skips, at_join=True) == (0, 0, 0, KB, KB, KB, 0)
    assert table.share_held_by(skips) == 2 / 13
    assert sum(table[life.tensor].bytes or 0 for life in table.waiting_at(3)) == KB


def test_a_projection_that_runs_first_waits_in_place_of_the_fork() -> None:
    nodes = [
        ("Conv", "x w", "a"),
        ("Conv", "a w", "p"),
        ("Conv", "a w", "b"),
        ("Relu", "b", "c1"),
        ("Conv", "c1 w", "d"),
        ("Add", "d p", "y"),
    ]
    net = model(nodes, ["y"], constants=W)
    assert Lifetime(in_place=False).run(net).held_by(Skips().run(net)) == (0, 0, KB, KB, KB, 0)


def test_overlapping_skips_do_not_count_a_tensor_twice() -> None:
    nodes = [
        ("Conv", "x w", "a"),
        ("Conv", "a w", "b"),
        ("Conv", "b w", "d"),
        ("Concat", "a d", "e", {"axis": 1}),
        ("Relu", "e", "f"),
        ("Concat", "a f", "y", {"axis": 1}),
    ]
    net = model(nodes, ["y"], constants=W)
    table, skips = Lifetime(in_place=False).run(net), Skips().run(net)
    assert len(skips) == 2
    assert table.held_by(skips) == (0, 0, KB, 0, KB, 0)


def test_a_chain_holds_nothing() -> None:
    net = model(BLOCK[:5], ["f"], constants=W)
    table = Lifetime(in_place=False).run(net)
    assert table.share_held_by(Skips().run(net)) == 0
    assert not any(table.waiting_at(step) for step in range(5))


def test_lifetimes_of_a_clone_are_equal() -> None:
    net = block()
    assert Lifetime().run(net.clone()) == Lifetime().run(net)


@pytest.mark.real_models
def test_peak_and_skip_share_of_resnet50() -> None:
    """The peak that onnxsim's planner and an independent count agree on, and JointRD's 40 %."""
    path = SHARED / "data" / "models" / "imagenet" / "light_resnet50.onnx"
    if not path.is_file():
        pytest.skip(f"{path} is not here: set GRAPHOPT_SHARED")
    net = Model.load(path)
    table = net.analyses.get(Lifetime(in_place=True))
    assert table.peak_bytes == 7_225_344
    assert net.analyses.get(Lifetime(in_place=False)).peak_bytes == 9_633_792
    assert table.share_held_by(net.analyses.get(Skips())) == pytest.approx(0.406, abs=5e-4)
