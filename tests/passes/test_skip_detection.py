"""Skips of every kind are found, with their fork, paths and lifetime."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper as oh

from graphopt.ir import Model
from graphopt.skips import Skip, SkipKind
from passes.skip_detection import Skips
from tests.support.blocks import Net, basic_block


def skips(model: onnx.ModelProto) -> tuple[Skip, ...]:
    return Model.load(model).analyses.get(Skips())


@pytest.mark.parametrize(
    ("shortcut", "kind", "out"),
    [
        ("identity", SkipKind.IDENTITY, 4),
        ("projection", SkipKind.PROJECTION, 8),
        ("option-a", SkipKind.OPTION_A, 8),
        ("option-a-concat", SkipKind.OPTION_A, 8),
        ("average", SkipKind.POOLED, 4),
        ("max", SkipKind.POOLED, 4),
        ("scaled", SkipKind.SCALED, 4),
    ],
)
def test_kinds(shortcut: str, kind: SkipKind, out: int) -> None:
    stride = 1 if shortcut in ("identity", "scaled") else 2
    (found,) = skips(
        basic_block(shortcut=shortcut, out=out, stride=stride, sizes=(8, 8), norm=True)
    )
    assert found.kind is kind
    assert found.fork.startswith("relu")
    assert found.dominated
    assert found.operator == "Add"
    assert "Conv" in found.branch.operators
    assert found.branch.multiply_adds > found.skip.multiply_adds


def test_identity_skip_holds_its_fork() -> None:
    (found,) = skips(basic_block(channels=4, sizes=(6, 5)))
    assert found.held == found.fork
    assert found.bytes == 4 * 6 * 5 * 4
    assert found.skip.layers == ()
    assert found.lifetime == 3  # conv + relu, conv, join


def test_projection_that_runs_first_is_held_itself() -> None:
    net = Net()
    x = net.act(net.conv("x", 3, 4, 1), "Relu")
    s = net.conv(x, 4, 8, 1)
    h = x
    for _ in range(3):
        h = net.act(net.conv(h, 4, 4), "Relu")
    (found,) = skips(net.model(net.op("Add", net.conv(h, 4, 8), s), (1, 3, 6, 6)))
    assert found.held == s
    assert found.bytes == 8 * 6 * 6 * 4


def test_concat_and_gate_and_sum() -> None:
    net = Net()
    x = net.act(net.conv("x", 3, 4, 1), "Relu")
    pooled = net.op("GlobalAveragePool", x)
    gated = net.op("Mul", x, net.act(net.conv(pooled, 4, 4, 1), "Sigmoid"))
    joined = net.op("Concat", x, net.conv(gated, 4, 4), axis=1)
    y = net.op("Sum", joined, net.conv(joined, 8, 8), net.conv(joined, 8, 8, 1))
    found = skips(net.model(y, (1, 3, 6, 6)))
    assert [s.kind for s in found] == [SkipKind.GATED, SkipKind.CONCAT, SkipKind.IDENTITY]
    assert [s.fork for s in found] == [x, x, joined]
    assert [len(s.paths) for s in found] == [2, 2, 3]
    assert [s.is_additive for s in found] == [False, False, True]


def test_nested_and_overlapping() -> None:
    net = Net()
    a = net.act(net.conv("x", 3, 4, 1), "Relu")
    b = net.conv(a, 4, 4)
    c = net.op("Add", net.conv(b, 4, 4), a)
    d = net.op("Add", net.conv(c, 4, 4), b)
    inner = net.op("Add", net.conv(d, 4, 4), d)
    outer = net.op("Add", net.conv(inner, 4, 4), d)
    found = {s.name: s for s in skips(net.model(outer, (1, 3, 6, 6)))}
    assert found[c].dominated
    assert (found[d].fork, found[d].dominated) == (b, False)
    assert (found[inner].fork, found[inner].dominated) == (d, True)
    assert (found[outer].fork, found[outer].dominated) == (d, True)


def test_upsampled_pyramid_and_nonlinear_paths() -> None:
    net = Net()
    x = net.act(net.conv("x", 3, 4, 1), "Relu")
    low = net.conv(net.conv(x, 4, 4, 3, stride=2), 4, 4, 1)
    up = net.op("Resize", low, "", net.const([1, 1, 2, 2]))
    y = net.op("Add", up, net.conv(x, 4, 4, 1))
    z = net.op("Add", net.act(net.conv(y, 4, 4), "Relu"), net.act(net.conv(y, 4, 4), "Tanh"))
    pyramid, nonlinear = skips(net.model(z, (1, 3, 8, 8)))
    assert pyramid.kind is SkipKind.PROJECTION
    assert nonlinear.kind is SkipKind.NONLINEAR


def test_channel_split_forks_before_the_split() -> None:
    """ShuffleNetV2: both halves of one Split meet again in a Concat."""
    net = Net()
    h = net.conv("x", 3, 8, 1)
    left, right = net.op("Split", h, outputs=2, axis=1)
    y = net.op("Concat", left, net.conv(right, 4, 4), axis=1)
    (found,) = skips(net.model(y, (1, 3, 6, 6)))
    assert found.fork == h
    assert found.kind is SkipKind.CONCAT


def test_sums_with_constants_and_of_one_tensor_are_no_joins() -> None:
    net = Net()
    h = net.op("Add", net.conv("x", 3, 4, 1), net.const(np.ones((4, 1, 1))))
    y = net.op("Concat", net.op("Add", h, h), net.const(np.zeros((1, 4, 6, 6))), axis=1)
    assert skips(net.model(y, (1, 3, 6, 6))) == ()


def test_shape_arithmetic_is_no_data() -> None:
    net = Net()
    shape = net.op("Shape", "x")
    batch = net.op("Gather", shape, net.const(0, np.int64))
    size = net.op(
        "Concat",
        net.op("Unsqueeze", batch, net.const([0], np.int64)),
        net.const([-1], np.int64),
        axis=0,
    )
    assert skips(net.model(net.op("Reshape", "x", size), ("N", 3, 4))) == ()


def test_two_inputs_that_share_nothing_are_no_skip() -> None:
    float32 = onnx.TensorProto.FLOAT
    inputs = [oh.make_tensor_value_info(n, float32, (2, 3)) for n in "ab"]
    graph = oh.make_graph(
        [oh.make_node("Add", ["a", "b"], ["y"])],
        "two",
        inputs,
        [oh.make_tensor_value_info("y", float32, (2, 3))],
    )
    assert skips(oh.make_model(graph, ir_version=8, opset_imports=[oh.make_opsetid("", 17)])) == ()


def test_fork_shared_by_some_inputs_of_a_join() -> None:
    float32 = onnx.TensorProto.FLOAT
    inputs = [oh.make_tensor_value_info(n, float32, (2, 3)) for n in "ab"]
    nodes = [
        oh.make_node("Relu", ["a"], ["r"]),
        oh.make_node("Tanh", ["r"], ["t"]),
        oh.make_node("Sum", ["r", "t", "b"], ["y"]),
    ]
    graph = oh.make_graph(nodes, "three", inputs, [oh.make_tensor_value_info("y", float32, (2, 3))])
    (found,) = skips(oh.make_model(graph, ir_version=8, opset_imports=[oh.make_opsetid("", 17)]))
    assert found.fork == "r"
    assert not found.dominated


def _by_definition(edges: dict[str, list[str]], join: list[str]) -> tuple[str | None, bool]:
    """The fork and whether it dominates, by plain reachability: edges lead from a tensor to what it
    was made from; numbers in the names give the order."""

    def ancestors(tensor: str) -> set[str]:
        seen, todo = set(), [tensor]
        while todo:
            here = todo.pop()
            if here not in seen:
                seen.add(here)
                todo += edges.get(here, [])
        return seen

    common = set.intersection(*map(ancestors, join))
    if not common:
        return None, False
    fork = max(common, key=lambda name: int(name[1:]))

    def reaches_source_around(tensor: str) -> bool:
        return tensor != fork and (
            not edges.get(tensor) or any(map(reaches_source_around, edges[tensor]))
        )

    return fork, not any(map(reaches_source_around, join))


@given(st.data())
def test_fork_is_the_last_common_ancestor_and_dominance_is_exact(data: st.DataObject) -> None:
    """Against the definition, on random graphs of sums and unary operators."""
    edges: dict[str, list[str]] = {}
    nodes = []
    for number in range(1, data.draw(st.integers(2, 9))):
        before = [f"t{i}" for i in range(number)]
        reads = data.draw(st.lists(st.sampled_from(before), min_size=1, max_size=2, unique=True))
        name = f"t{number}"
        edges[name] = reads
        kind = "Sum" if len(reads) == 2 else "Tanh"
        nodes.append(oh.make_node(kind, reads, [name], name=name))
    info = [oh.make_tensor_value_info(n, onnx.TensorProto.FLOAT, (2,)) for n in ("t0", *edges)]
    graph = oh.make_graph(nodes, "random", info[:1], info[1:])
    model = oh.make_model(graph, ir_version=8, opset_imports=[oh.make_opsetid("", 17)])
    found = {skip.name: skip for skip in skips(model)}
    for name, reads in edges.items():
        if len(reads) == 2:
            assert (found[name].fork, found[name].dominated) == _by_definition(edges, reads)
        else:
            assert name not in found
