"""Shapes and element types, known or not."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper
from onnx.numpy_helper import from_array

from graphopt.ir import Model, Shapes, ShapeTable, TensorInfo
from graphopt.ir.shapes import SHAPE_PRESERVING, UNKNOWN
from tests.support.blocks import Net, basic_block, skip
from tests.support.features import FEATURES, branch, conditional, info, model, node, weight
from tests.support.models import plain_model, residual_mlp, residual_net

F = np.float32
FLOAT, INT64 = onnx_ir.DataType.FLOAT, onnx_ir.DataType.INT64


def shapes(proto: onnx.ModelProto) -> ShapeTable:
    return Model.load(proto).analyses.get(Shapes())


# TensorInfo and ShapeTable ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "shape", "elements", "size", "static", "text"),
    [
        (FLOAT, (2, 3), 6, 24, (2, 3), "2x3 float"),
        (FLOAT, ("N", 3, 4), 12, 48, None, "Nx3x4 float"),
        (FLOAT, (), 1, 4, (), " float"),
        (FLOAT, (0, 3), 0, 0, (0, 3), "0x3 float"),
        (FLOAT, (2, None), None, None, None, "2x? float"),
        (FLOAT, None, None, None, None, "? float"),
        (None, (2, 3), 6, None, (2, 3), "2x3 ?"),
        (None, None, None, None, None, "? ?"),
        (onnx_ir.DataType.INT4, (3,), 3, 2, (3,), "3 int4"),
        (onnx_ir.DataType.BOOL, (3,), 3, 3, (3,), "3 bool"),
        (onnx_ir.DataType.FLOAT16, (3,), 3, 6, (3,), "3 float16"),
        (onnx_ir.DataType.STRING, (3,), 3, None, (3,), "3 string"),
    ],
)
def test_tensor_info(
    dtype: Any, shape: Any, elements: Any, size: Any, static: Any, text: str
) -> None:
    found = TensorInfo(dtype, shape)
    assert found.elements() == elements
    assert found.bytes() == size
    assert found.static() == static
    assert str(found) == text


def test_the_table_is_a_mapping_that_knows_what_it_does_not_hold() -> None:
    table = ShapeTable({"a": TensorInfo(FLOAT, (2,))})
    assert (list(table), len(table)) == (["a"], 1)
    assert "a" in table
    assert "b" not in table
    assert table["b"] == UNKNOWN == TensorInfo(None, None)


# What ONNX itself infers -----------------------------------------------------------------------


def as_run(proto: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Every tensor that the nodes make, in ONNX Runtime."""
    shown = onnx.ModelProto()
    shown.CopyFrom(proto)
    del shown.graph.output[:]
    shown.graph.output.extend(
        onnx.ValueInfoProto(name=name) for made in proto.graph.node for name in made.output if name
    )
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(
        shown.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def padded(front: int = 2) -> onnx.ModelProto:
    """The shortcut that pads channels, with a shape computed in the graph, on symbolic sizes."""
    net = Net(dtype=F)
    x = net.conv("x", 3, 4)
    y = skip(net, x, 4, 4 + front, 2, "option-a-concat")
    y = net.act(y, "Relu")
    return net.model(net.conv(y, 4 + front, 2, 1), ("N", 3, 8, 6))


@pytest.mark.parametrize(
    "proto",
    [
        residual_net(norm=True, stride=2),
        residual_mlp(),
        padded(),
        basic_block(stride=2, out=8, shortcut="option-a"),
        basic_block(stride=2, out=8, shortcut="option-a-concat", batch=3),
    ],
    ids=["net", "mlp", "padded", "option-a", "option-a-concat"],
)
def test_every_shape_is_what_onnx_runtime_makes(proto: onnx.ModelProto) -> None:
    del proto.graph.value_info[:]
    given = proto.graph.input[0].type.tensor_type.shape.dim
    x = np.zeros([d.dim_value or 3 for d in given], F)
    table = shapes(proto)
    for name, array in as_run(proto, {"x": x}).items():
        found = table[name]
        assert found.dtype is not None, name
        assert found.dtype.numpy() == array.dtype, name
        assert found.shape is not None, name
        assert len(found.shape) == array.ndim, name
        for dim, size in zip(found.shape, array.shape, strict=True):
            assert dim == size or (isinstance(dim, str) and size == 3), (name, found)
    for tensor in proto.graph.initializer:
        assert table[tensor.name].static() == tuple(tensor.dims)


def test_the_model_is_not_touched() -> None:
    proto = padded()
    del proto.graph.value_info[:]
    loaded = Model.load(proto)
    before = loaded.to_proto()
    table = loaded.analyses.get(Shapes())
    assert all(table[made.output[0]] != UNKNOWN for made in proto.graph.node)
    assert loaded.to_proto() == before


def test_subgraphs_are_not_in_the_table() -> None:
    inner = branch([node("Relu", "x", "inside"), node("Neg", "inside", "a")], "a")
    table = shapes(conditional(inner))
    assert set(table) == {"x", "c", "y"}
    assert table["y"] == TensorInfo(FLOAT, (2, 3))
    assert table["c"] == TensorInfo(onnx_ir.DataType.BOOL, ())


def test_shape_arithmetic_on_weights_that_are_inputs() -> None:
    """IR version 3 lists them all; they could be overridden, and still the sizes are wanted."""
    proto = plain_model(
        [node("Reshape", "x size", "r"), node("Neg", "r", "y")],
        {"x": (F, (2, 6))},
        ["y"],
        {"size": np.array([3, 4])},
        weights_are_inputs=True,
    )
    del proto.graph.value_info[:]
    table = shapes(proto)
    assert table["r"] == table["y"] == TensorInfo(FLOAT, (3, 4))
    assert table["size"] == TensorInfo(INT64, (2,))


def test_shape_arithmetic_that_onnx_does_not_follow() -> None:
    """As PyTorch exported interpolation: twice the size, by way of real numbers."""
    nodes = [
        node("Shape", "x", "shape"),
        node("Slice", "shape two four", "size"),
        node("Cast", "size", "real", to=TensorProto.FLOAT),
        node("Mul", "real factor", "twice"),
        node("Floor", "twice", "floor"),
        node("Cast", "floor", "whole", to=TensorProto.INT64),
        node("Slice", "shape zero two", "front"),
        node("Concat", "front whole", "sizes", axis=0),
        node("Resize", "x _ _ sizes", "r"),
        node("MaxPool", "r", "y", kernel_shape=[2, 2]),
    ]
    numbers = {"zero": [0], "two": [2], "four": [4], "factor": np.array([2.5, 2], F)}
    proto = plain_model(nodes, {"x": (F, (2, 3, 5, 4))}, ["y"], numbers)
    del proto.graph.value_info[:]
    proto.graph.output[0].ClearField("type")
    table = shapes(proto)
    assert table["r"] == TensorInfo(FLOAT, (2, 3, 12, 8))
    assert table["y"] == TensorInfo(FLOAT, (2, 3, 11, 7))
    assert table["twice"] == TensorInfo(FLOAT, (2,))


def test_what_nobody_knows() -> None:
    nodes = [
        node("Mystery", "x", "t", domain="nobody"),
        node("Relu", "t", "u"),
        node("Shape", "u", "s"),
        node("NonZero", "x", "n"),
        node("Neg", "x", "y"),
    ]
    table = shapes(model(nodes))  # the domain is not even imported
    assert table["t"] == UNKNOWN
    assert table["u"].shape is None
    assert table["n"].dtype == INT64
    assert table["n"].elements() in (None, 2)
    assert table["y"] == TensorInfo(FLOAT, (2, 3))


def test_shapes_that_contradict_each_other_raise_nothing() -> None:
    nodes = [node("MatMul", "x w", "t"), node("Neg", "x", "u"), node("Add", "t u", "y")]
    table = shapes(model(nodes, weights=[weight("w", (7, 9))]))
    assert table["x"] == TensorInfo(FLOAT, (2, 3))
    assert table["w"].static() == (7, 9)


@pytest.mark.parametrize("make", FEATURES.values(), ids=FEATURES)
def test_every_feature(make: Any) -> None:
    """Nothing raises, and every tensor of the main graph is there."""
    proto = make()
    table = shapes(proto)
    named = {i.name for i in proto.graph.input} | {t.name for t in proto.graph.initializer}
    named |= {name for made in proto.graph.node for name in made.output if name}
    assert named <= set(table)


@pytest.mark.parametrize("made", ["Conv", "Add"])
def test_a_weight_has_the_shape_that_it_holds(made: str) -> None:
    """qonnx writes value_info for weights, and some exporters write it without sizes."""
    shape = (4, 3, 3, 3) if made == "Conv" else (1, 3, 1, 1)
    proto = model(
        [node(made, "x w", "y")],
        [info("x", shape=("N", 3, 8, 8))],
        [onnx.ValueInfoProto(name="y")],
        weights=[weight("w", shape)],
        value_info=[info("w", shape=(None, "C", None, None))],
    )
    table = shapes(proto)
    assert table["w"].static() == shape
    assert table["y"].shape == (("N", 4, 6, 6) if made == "Conv" else ("N", 3, 8, 8))


# Operators that keep a shape -------------------------------------------------------------------


@pytest.mark.parametrize(("domain", "kind"), sorted(SHAPE_PRESERVING))
def test_foreign_operators_that_keep_the_shape(domain: str, kind: str) -> None:
    """And what ONNX knows behind them is inferred from there."""
    nodes = [
        node("Conv", "x w", "a", kernel_shape=[3, 3]),
        helper.make_node(kind, ["a", "s"], ["b"], domain=domain),
        node("MaxPool", "b", "c", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node(kind, ["c", "s"], ["d"], domain=domain),
        node("GlobalAveragePool", "d", "y"),
    ]
    weights = [weight("w", (4, 3, 3, 3)), weight("s", [])]
    proto = model(
        nodes, [info("x", shape=("N", 3, 10, 8))], [onnx.ValueInfoProto(name="y")], weights=weights
    )
    table = shapes(proto)
    assert table["b"] == table["a"] == TensorInfo(FLOAT, ("N", 4, 8, 6))
    assert table["d"] == table["c"] == TensorInfo(FLOAT, ("N", 4, 4, 3))
    assert table["y"] == TensorInfo(FLOAT, ("N", 4, 1, 1))


def test_a_vague_shape_is_sharpened() -> None:
    """Written by an exporter that knew only the rank."""
    made = helper.make_node("Quant", ["x", "s", "s", "s"], ["t"], domain="onnx.brevitas")
    proto = model(
        [made, node("Neg", "t", "y")],
        weights=[weight("s", [])],
        value_info=[info("t", TensorProto.FLOAT, (None, None))],
    )
    assert shapes(proto)["t"] == TensorInfo(FLOAT, (2, 3))


@pytest.mark.parametrize("kind", ["QLinearAdd", "QLinearMul"])
@pytest.mark.parametrize("other", [(2, 3), (1, 3), None])
def test_quantized_joins(kind: str, other: tuple[int, ...] | None) -> None:
    """Of equal shapes that of both; what broadcasting makes is not guessed."""
    made = helper.make_node(kind, list("aszbszsz"), ["y"], domain="com.microsoft")
    inputs = [info("a", TensorProto.UINT8), info("b", TensorProto.UINT8, other)]
    proto = model([made], inputs, [onnx.ValueInfoProto(name="y")],
                  weights=[weight("s", []), weight("z", [], np.uint8)])  # fmt: skip
    known = TensorInfo(onnx_ir.DataType.UINT8, (2, 3))
    assert shapes(proto)["y"] == (known if other == (2, 3) else UNKNOWN)


def test_operators_without_inputs_or_outputs_do_no_harm() -> None:
    nodes = [
        helper.make_node("Quant", [], ["t"], domain="onnx.brevitas"),
        helper.make_node("Quant", ["", "x"], ["u"], domain="onnx.brevitas"),
        node("Neg", "x", "y"),
    ]
    table = shapes(model(nodes))
    assert table["t"] == table["u"] == UNKNOWN
    assert table["y"] == TensorInfo(FLOAT, (2, 3))


def test_sizes_that_are_read_off_a_foreign_operator() -> None:
    """Shape -> Gather -> Concat -> Reshape behind a quantizer."""
    nodes = [
        helper.make_node("Quant", ["x", "s", "s", "s"], ["q"], domain="onnx.brevitas"),
        node("Shape", "q", "shape"),
        node("Gather", "shape zero", "batch", axis=0),
        node("Concat", "batch rest", "size", axis=0),
        node("Reshape", "q size", "r"),
        node("Neg", "r", "y"),
    ]
    weights = [
        weight("s", []),
        from_array(np.array([0]), "zero"),
        from_array(np.array([-1]), "rest"),
    ]
    proto = model(nodes, [info("x", shape=(5, 3, 4))], [onnx.ValueInfoProto(name="y")],
                  weights=weights)  # fmt: skip
    assert shapes(proto)["y"].static() == (5, 12)
