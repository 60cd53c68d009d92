"""Tensors that do not depend on the input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper
from onnx.numpy_helper import from_array

from graphopt.ir import Model, constant, constants, scalar
from tests.support.features import info, model, node, sparse, weight

F, INT = np.float32, np.int64

W = {
    "w": np.arange(-6, 6, dtype=F).reshape(3, 4),
    "row": np.array([1, 2, 4, 8], F),
    "two": F(2),
    "i": np.array([2, 0, 0], INT),
    "sizes": np.array([2, 3], INT),
    "wide": np.array([5, 3, 4], INT),
    "axis": np.array([1], INT),
    "minus": np.array([-1], INT),
    "from": np.array([2], INT),
    "to": np.array([-9], INT),
    "start": INT(7),
    "end": INT(-2),
    "by": INT(-3),
    "half": F(0.5),
}


def chain(
    nodes: Sequence[onnx.NodeProto], weights: Mapping[str, Any] = W, opset: int = 17
) -> onnx.ModelProto:
    """A model whose output `c` is what the last node makes."""
    return model(
        [*nodes, node("Relu", "x", "y")],
        outputs=[info("y"), onnx.ValueInfoProto(name="c")],
        weights=[from_array(np.asarray(array), name) for name, array in weights.items()],
        opsets={"": opset},
    )


def held(proto: onnx.ModelProto, name: str = "c") -> Any:
    return constant(Model.load(proto).value_index()[name])


def as_run(proto: onnx.ModelProto) -> np.ndarray:
    """The same tensor in ONNX Runtime."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    data = proto.SerializeToString()
    session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["c"], {"x": np.zeros((2, 3), F)})[0])


MADE = {
    "Constant": [node("Constant", "", "c", value=weight("k"))],
    "Constant of integers": [node("Constant", "", "c", value_ints=[3, -1])],
    "Constant of a float": [node("Constant", "", "c", value_float=0.1)],
    "ConstantOfShape": [node("ConstantOfShape", "sizes", "c")],
    "ConstantOfShape, filled": [
        node("ConstantOfShape", "sizes", "c", value=from_array(np.array([7], np.int32)))
    ],
    "Identity": [node("Identity", "w", "c")],
    "Cast": [node("Cast", "w", "c", to=TensorProto.INT8)],
    "Reshape": [node("Reshape", "w minus", "c")],
    "Transpose": [node("Transpose", "w", "c", perm=[1, 0])],
    "Unsqueeze": [node("Unsqueeze", "w axis", "c")],
    "Squeeze": [node("Unsqueeze", "w axis", "t"), node("Squeeze", "t", "c")],
    "Flatten": [node("Unsqueeze", "w axis", "t"), node("Flatten", "t", "c", axis=2)],
    "Concat": [node("Concat", "w w w", "c", axis=-1)],
    "Slice": [node("Slice", "w from to axis minus", "c")],
    "Slice, no axes": [node("Slice", "row axis from", "c")],
    "Slice, axes left out": [node("Slice", "row from to _ minus", "c")],
    "Gather": [node("Gather", "w i", "c", axis=1)],
    "Neg": [node("Neg", "w", "c")],
    "Add": [node("Add", "w row", "c")],
    "Sub": [node("Sub", "two w", "c")],
    "Mul": [node("Mul", "w row", "c")],
    "Div": [node("Div", "w row", "c")],
    "Div, integers": [node("Div", "i from", "c")],
    "Sqrt": [node("Sqrt", "row", "c")],
    "Reciprocal": [node("Reciprocal", "row", "c")],
    "Expand": [node("Expand", "row wide", "c")],
    "Range": [node("Range", "start end by", "c")],
    "Range of floats": [node("Range", "half two half", "c")],
    "a chain": [
        node("ConstantOfShape", "sizes", "o", value=from_array(np.array([4], F))),
        node("Sqrt", "o", "r"),
        node("Transpose", "r", "t"),
        node("Concat", "t t", "k", axis=1),
        node("Mul", "k row", "c"),
    ],
}


@pytest.mark.parametrize("nodes", MADE.values(), ids=MADE)
def test_every_operator_as_onnx_runtime_computes_it(nodes: list[onnx.NodeProto]) -> None:
    if nodes == MADE["Expand"]:
        proto = chain(nodes, W | {"wide": np.array([5, 1, 4], INT)})
    else:
        proto = chain(nodes)
    found, wanted = held(proto), as_run(proto)
    assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape)
    np.testing.assert_array_equal(found, wanted)


def test_no_operator_is_forgotten_above() -> None:
    made = {made.op_type for nodes in MADE.values() for made in nodes}
    assert made == constants.EVALUATED


def test_a_sparse_constant() -> None:
    made = node("Constant", "", "t", sparse_value=sparse("s", [0, 4], [1.5, -2.0]))
    found = held(chain([made, node("Neg", "t", "c")]))
    np.testing.assert_array_equal(found, [[-1.5, 0, 0], [0, 2, 0]])


@pytest.mark.parametrize(
    ("opset", "made"),
    [
        (9, node("Slice", "w", "c", starts=[1], ends=[3], axes=[1])),
        (11, node("Unsqueeze", "w", "c", axes=[0])),
        (11, node("Squeeze", "w", "c")),
        (23, node("Cast", "w", "c", to=TensorProto.FLOAT8E4M3FN)),
    ],
)
def test_operators_as_their_opset_has_them(opset: int, made: onnx.NodeProto) -> None:
    proto = chain([made], opset=opset)
    found, wanted = held(proto), as_run(proto) if opset != 23 else W["w"]
    np.testing.assert_array_equal(found.astype(F), wanted)


def test_the_default_domain_by_its_long_name() -> None:
    proto = chain([node("Unsqueeze", "w", "c", axes=[0])], opset=11)
    proto.opset_import[0].domain = "ai.onnx"
    np.testing.assert_array_equal(held(proto), W["w"][None])


# What is no constant ---------------------------------------------------------------------------


def test_what_depends_on_an_input() -> None:
    nodes = [node("Identity", "w", "t"), node("Add", "t z", "c")]
    proto = chain(nodes)
    proto.graph.input.append(info("z", shape=(3, 4)))
    assert held(proto) is None
    assert held(proto, "z") is None
    np.testing.assert_array_equal(held(proto, "t"), W["w"])
    assert constant(None) is None


def test_a_weight_that_can_be_overridden() -> None:
    proto = chain([node("Neg", "w", "c")])
    proto.graph.input.append(info("w", shape=(3, 4)))
    assert held(proto, "w") is None
    assert held(proto) is None


def test_operators_outside_the_list() -> None:
    assert held(chain([node("Abs", "w", "c")])) is None
    assert held(chain([node("Abs", "w", "t"), node("Neg", "t", "c")])) is None
    foreign = chain([node("Neg", "w", "c", domain="com.example")])
    foreign.opset_import.add(domain="com.example", version=1)
    assert held(foreign) is None


@pytest.mark.parametrize(
    "nodes",
    [
        [node("Reshape", "w wide", "c")],
        [node("Concat", "w row", "c", axis=0)],
        [node("Gather", "row wide", "c", axis=0)],
        [node("Squeeze", "w axis", "c")],
        [node("ConstantOfShape", "minus", "c")],
        [node("Range", "start end zero", "c")],
        [node("Range", "sizes sizes sizes", "c")],
    ],
    ids=lambda nodes: nodes[-1].op_type,
)
def test_what_cannot_be_computed(nodes: list[onnx.NodeProto]) -> None:
    assert held(chain(nodes, W | {"zero": INT(0)})) is None


# Sizes -----------------------------------------------------------------------------------------

HUGE = np.array([2**20, 2**20], INT)


@pytest.mark.parametrize(
    "made",
    [
        node("ConstantOfShape", "huge", "c"),
        node("Expand", "two huge", "c"),
        node("Range", "zero limit one", "c"),
        node("Range", "limit zero back", "c"),
    ],
    ids=lambda made: made.op_type,
)
def test_nothing_huge_is_computed(made: onnx.NodeProto) -> None:
    """A terabyte would not be there, so returning at all shows that it was not asked for."""
    numbers = {"huge": HUGE, "zero": INT(0), "one": INT(1), "limit": INT(2**40), "back": INT(-1)}
    assert held(chain([made], W | numbers)) is None


def test_the_limit_counts_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "MAX_BYTES", 64)
    bools = from_array(np.array([True]))
    assert held(chain([node("ConstantOfShape", "n", "c")], {"n": np.array([17])})) is None
    assert held(chain([node("ConstantOfShape", "n", "c")], {"n": np.array([16])})).nbytes == 64
    found = held(chain([node("ConstantOfShape", "n", "c", value=bools)], {"n": np.array([64])}))
    assert found.nbytes == 64
    assert found.all()
    numbers = {"start": INT(0), "limit": INT(9), "by": INT(1)}
    assert held(chain([node("Range", "start limit by", "c")], numbers)) is None
    assert (
        len(held(chain([node("Range", "start limit by", "c")], numbers | {"limit": INT(8)}))) == 8
    )


@pytest.mark.parametrize(
    "made",
    [
        node("Add", "column row", "c"),
        node("Gather", "row index", "c"),
        node("Concat", "row row row row", "c", axis=1),
    ],
    ids=lambda made: made.op_type,
)
def test_the_limit_holds_for_every_operator(
    made: onnx.NodeProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "MAX_BYTES", 200)
    numbers = {"column": np.ones((9, 1)), "row": np.ones((1, 9)), "index": np.zeros(9, INT)}
    assert held(chain([made], numbers)) is None


def test_a_tensor_that_is_read_twice_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    evaluate = constants._evaluate
    monkeypatch.setattr(
        constants, "_evaluate", lambda made, *rest: seen.append(made.name) or evaluate(made, *rest)
    )
    names = ["w", *"pqrst", "c"]
    nodes = [node("Add", f"{a} {a}", b) for a, b in pairwise(names)]
    np.testing.assert_array_equal(held(chain(nodes)), W["w"] * 2**6)
    assert len(seen) == 6


def test_a_range_between_tensors_of_one_element() -> None:
    """Not what ONNX asks for, but exporters write it; it must not raise."""
    numbers = {"start": np.array([0]), "limit": np.array([5]), "by": np.array([1])}
    found = held(chain([node("Range", "start limit by", "c")], numbers))
    assert found is None or found.tolist() == [0, 1, 2, 3, 4]


# Text, and single numbers ----------------------------------------------------------------------


def test_text() -> None:
    made = node("Constant", "", "c", value=helper.make_tensor("t", 8, [2], ["ü".encode(), b"b"]))
    assert held(chain([made])).tolist() == ["ü".encode(), b"b"]
    assert held(chain([node("Constant", "", "c", value_strings=["a", "b"])])).tolist() == [
        b"a",
        b"b",
    ]


def test_text_that_is_not_ascii() -> None:
    found = held(chain([node("Constant", "", "c", value_strings=["ü"])]))
    assert found is None or found.tolist() == ["ü".encode()]


@pytest.mark.parametrize(
    ("array", "wanted"),
    [(F(1.5), 1.5), ([[3]], 3.0), ([True], 1.0), ([], None), ([1, 2], None)],
)
def test_scalar(array: Any, wanted: float | None) -> None:
    proto = chain([node("Identity", "s", "c")], {"s": np.asarray(array)})
    assert scalar(Model.load(proto).value_index()["c"]) == wanted


def test_scalar_of_what_is_not_constant() -> None:
    loaded = Model.load(chain([node("Abs", "two", "c")]))
    assert scalar(loaded.value_index()["c"]) is None
    assert scalar(loaded.value_index()["x"]) is None
    assert scalar(None) is None
