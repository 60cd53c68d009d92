"""The layer view: what a layer is, what it costs, and what flows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper
from onnx.numpy_helper import from_array

from graphopt.ir import LayerKind, Layers, LayerView, Model, TensorInfo
from graphopt.ir.layers import Layer, data_tensors
from tests.support.blocks import Net
from tests.support.features import FEATURES, branch, info, model, node, weight
from tests.support.models import plain_model, residual_net

F, U8, I8 = np.float32, np.uint8, np.int8
MS = "com.microsoft"


def view(proto: onnx.ModelProto, *, fuse: bool = True) -> LayerView:
    return Model.load(proto).analyses.get(Layers(fuse=fuse))


def operators(proto: onnx.ModelProto, *, fuse: bool = True) -> list[tuple[str, ...]]:
    return [layer.operators for layer in view(proto, fuse=fuse)]


def only(nodes: Sequence[onnx.NodeProto], weights: dict[str, Any], x: Any = (2, 3)) -> Layer:
    """The one layer of a model."""
    proto = plain_model(nodes, {"x": (F, x)}, ["y"], weights)
    (layer,) = view(proto)
    return layer


# Multiply-accumulates --------------------------------------------------------------------------
#
# An independent count: with ones everywhere and no padding, every multiply-accumulate adds 1 to
# one number of the output, so the outputs add up to their number.

ZERO, ONE = np.array(0, U8), np.array(1, F)

COUNTED: dict[str, tuple[str, str, tuple[int, ...], dict[str, Any], dict[str, Any]]] = {
    "Conv": ("", "x w", (1, 4, 7, 6), {"w": (6, 4, 3, 2)}, {"strides": [2, 1]}),
    "Conv, 1 axis": ("", "x w", (1, 4, 9), {"w": (6, 4, 3)}, {"dilations": [2]}),
    "Conv, 3 axes": ("", "x w", (1, 2, 4, 5, 3), {"w": (3, 2, 2, 2, 1)}, {}),
    "Conv, groups": ("", "x w", (1, 4, 7, 6), {"w": (6, 2, 3, 3)}, {"group": 2}),
    "Conv, depthwise": ("", "x w", (1, 4, 7, 6), {"w": (4, 1, 3, 3)}, {"group": 4}),
    "Conv, batch of 3": ("", "x w", (3, 4, 5, 5), {"w": (2, 4, 1, 1)}, {}),
    "FusedConv": (MS, "x w", (1, 4, 7, 6), {"w": (6, 4, 3, 2)}, {"activation": "Relu"}),
    "ConvTranspose": ("", "x w", (1, 4, 3, 5), {"w": (4, 6, 2, 3)}, {"strides": [2, 3]}),
    "ConvTranspose, groups": ("", "x w", (1, 4, 3, 5), {"w": (4, 3, 3, 3)}, {"group": 2}),
    "Gemm": ("", "x w", (5, 3), {"w": (3, 4)}, {}),
    "Gemm, transposed": ("", "x w", (5, 3), {"w": (4, 3)}, {"transB": 1}),
    "Gemm, both": ("", "x w", (5, 3), {"w": (4, 5)}, {"transA": 1, "transB": 1}),
    "MatMul": ("", "x w", (5, 3), {"w": (3, 4)}, {}),
    "MatMul, stacked": ("", "x w", (2, 6, 5, 3), {"w": (6, 3, 4)}, {}),
    "MatMul, a row": ("", "x w", (3,), {"w": (3, 4)}, {}),
    "MatMul, a column": ("", "x w", (5, 3), {"w": (3,)}, {}),
    "FusedMatMul": (MS, "x w", (5, 3), {"w": (5, 4)}, {"transA": 1}),
    "FusedMatMul, stacked": (MS, "x w", (2, 5, 3), {"w": (2, 4, 3)}, {"transB": 1}),
    "ConvInteger": ("", "x w", (1, 4, 7, 6), {"w": (6, 4, 3, 2)}, {}),
    "MatMulInteger": ("", "x w", (5, 3), {"w": (3, 4)}, {}),
    "QLinearConv": ("", "x s z w s z s z", (1, 4, 5, 6), {"w": (6, 4, 3, 2)}, {}),
    "QLinearMatMul": ("", "x s z w s z s z", (5, 3), {"w": (3, 4)}, {}),
}  # fmt: skip


@pytest.mark.parametrize("name", COUNTED)
def test_multiply_adds(name: str) -> None:
    domain, inputs, shape, arrays, attributes = COUNTED[name]
    kind = name.partition(",")[0]
    dtype = U8 if "Integer" in kind or "QLinear" in kind else F
    if "w" in arrays and "Conv" in kind:
        attributes = attributes | {"kernel_shape": arrays["w"][2:]}
    weights = {"w": np.ones(arrays["w"], dtype)}
    if "z" in inputs:
        weights |= {"s": ONE, "z": ZERO}
    made = helper.make_node(kind, inputs.split(), ["y"], domain=domain, **attributes)
    proto = plain_model(
        [made], {"x": (dtype, shape)}, ["y"], weights, domains=[domain] if domain else []
    )
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {"x": np.ones(shape, dtype)})
    if domain:
        proto.graph.output[0].CopyFrom(info("y", shape=y.shape))
    (layer,) = view(proto)
    assert layer.is_linear
    assert layer.multiply_adds == int(y.sum(dtype=np.float64))


@pytest.mark.parametrize("batch", ["N", 1])
def test_a_symbolic_batch_counts_one_sample(batch: int | str) -> None:
    layer = only(
        [node("Conv", "x w", "y", kernel_shape=[3, 3], pads=[1] * 4)],
        {"w": np.ones((4, 3, 3, 3), F)},
        (batch, 3, 8, 6),
    )
    assert layer.multiply_adds == 8 * 6 * 4 * 27
    assert layer.output == TensorInfo(onnx_ir.DataType.FLOAT, (batch, 4, 8, 6))


@pytest.mark.parametrize(
    ("kind", "inputs", "shape", "domain"),
    [
        ("Conv", "x w", None, ""),
        ("Conv", "x u", (1, 3, 8, 8), ""),
        ("ConvTranspose", "x w", None, ""),
        ("MatMul", "x w", None, ""),
        ("MatMul", "x w", (2, "K"), ""),
        ("Gemm", "x w", (2, None), ""),
        ("QGemm", "x w", (2, 3), MS),
        ("MVAU", "x w", (2, 3), "finn.custom_op.fpgadataflow"),
    ],
)
def test_no_count_where_a_size_is_unknown(kind: str, inputs: str, shape: Any, domain: str) -> None:
    made = helper.make_node(kind, inputs.split(), ["y"], domain=domain)
    given = [info("x", shape=shape), info("u", shape=None)]
    proto = model([made], given, [onnx.ValueInfoProto(name="y")],
                  weights=[weight("w", (3, 3, 1, 1) if "Conv" in kind else (3, 4))])  # fmt: skip
    (layer,) = view(proto)
    assert layer.is_linear
    assert layer.multiply_adds == 0


def test_weights_are_counted() -> None:
    net = Net(dtype=np.float16)
    x = net.norm(net.conv("x", 3, 4), 4)
    proto = net.model(net.op("Mul", x, net.const(2.0)), (1, 3, 5, 5))
    (layer,) = view(proto)
    assert layer.parameters == 4 * 3 * 9 + 4 + 4 * 4
    assert layer.weight_bytes == 2 * layer.parameters
    conv, norm, scale = view(proto, fuse=False)
    assert [conv.parameters, norm.parameters, scale.parameters] == [4 * 3 * 9 + 4, 16, 0]
    assert [norm.multiply_adds, scale.multiply_adds] == [0, 0]


# Kinds -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("made", "kind", "join"),
    [
        (node("Add", "x z", "y"), LayerKind.ADD, True),
        (node("Add", "x x", "y"), LayerKind.ADD, False),
        (node("Add", "x w", "y"), LayerKind.SCALE, False),
        (node("Sub", "w x", "y"), LayerKind.SCALE, False),
        (node("Sub", "x z", "y"), LayerKind.OTHER, False),
        (node("Div", "x w", "y"), LayerKind.SCALE, False),
        (node("Sum", "x w z", "y"), LayerKind.ADD, True),
        (node("Sum", "x w", "y"), LayerKind.SCALE, False),
        (node("Sum", "x", "y"), LayerKind.SCALE, False),
        (node("Mul", "x z", "y"), LayerKind.MUL, True),
        (node("Mul", "x x", "y"), LayerKind.MUL, False),
        (node("Mul", "x w", "y"), LayerKind.SCALE, False),
        (node("Pow", "x w", "y"), LayerKind.OTHER, False),
        (node("Concat", "x z", "y", axis=0), LayerKind.CONCAT, True),
        (node("Concat", "x x", "y", axis=0), LayerKind.CONCAT, False),
        (node("Concat", "w x", "y", axis=0), LayerKind.MOVE, False),
        (node("Transpose", "x", "y"), LayerKind.MOVE, False),
        (node("ReduceMean", "x", "y"), LayerKind.POOL, False),
        (node("Cast", "x", "y", to=1), LayerKind.IDENTITY, False),
        (node("Softmax", "x", "y"), LayerKind.ACTIVATION, False),
        (node("MatMul", "x z", "y"), LayerKind.MATMUL, False),
        (node("Where", "b x z", "y"), LayerKind.OTHER, False),
        (node("Quant", "x w w w", "y", domain="onnx.brevitas"), LayerKind.QUANTIZER, False),
    ],
)
def test_kinds(made: onnx.NodeProto, kind: LayerKind, join: bool) -> None:
    given = [info("x"), info("z"), info("b", TensorProto.BOOL)]
    (layer,) = view(model([made], given, [onnx.ValueInfoProto(name="y")], weights=[weight("w")]))
    assert layer.kind is kind
    assert layer.is_join is join
    assert layer.is_linear is (kind is LayerKind.MATMUL)


def test_a_layer_says_what_it_reads_and_makes() -> None:
    made = node("Split", "x", "a b _", name="split", axis=1)
    split, add = view(model([made, node("Add", "b a", "y")]))
    assert (split.name, split.nodes, split.inputs, split.outputs) == (
        "split", ("split",), ("x",), ("a", "b"))  # fmt: skip
    assert (add.name, add.inputs) == ("y", ("b", "a"))  # without a name, that of its output


# Followers -------------------------------------------------------------------------------------


def follow(*kinds: str, outputs: Sequence[str] = (), **more: str) -> onnx.ModelProto:
    """A convolution and a row of unary operators; `more` are further readers, by what they read."""
    net = Net()
    x = net.conv("x", 4, 4)
    for kind in kinds:
        match kind:
            case "Norm":
                x = net.norm(x, 4)
            case "Quant":
                ends = [net.const(v) for v in (0.5, 0.0, 4.0)]
                x = net.op("Quant", x, *ends, domain="onnx.brevitas", signed=1)
            case "Mul" | "Add":
                x = net.op(kind, x, net.const(net.rng.standard_normal((4, 1, 1))))
            case "Join":
                x = net.op("Add", x, "x")
            case "Twice":
                x = net.op("Add", x, x)
            case _:
                x = net.op(kind, x)
    return net.model(
        net.conv(x, 4, 2, 1), (1, 4, 5, 5), extra_outputs=tuple(outputs),
        opset_imports=(("onnx.brevitas", 1),),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("kinds", "wanted"),
    [
        ("Norm Relu Quant", ["Conv BatchNormalization Relu Quant", "Conv"]),
        ("Mul Add Relu", ["Conv Mul Add Relu", "Conv"]),
        ("MaxPool Relu", ["Conv", "MaxPool", "Relu", "Conv"]),
        ("Relu Transpose Relu", ["Conv Relu", "Transpose", "Relu", "Conv"]),
        ("Join Relu Norm", ["Conv", "Add Relu BatchNormalization", "Conv"]),
        ("Join Mul Relu", ["Conv", "Add", "Mul", "Relu", "Conv"]),
        ("Relu Join Quant", ["Conv Relu", "Add Quant", "Conv"]),
        ("Twice Relu", ["Conv", "Add", "Relu", "Conv"]),
    ],
)
def test_followers(kinds: str, wanted: list[str]) -> None:
    proto = follow(*kinds.split())
    for made in proto.graph.node:
        if made.op_type == "MaxPool":
            made.attribute.append(helper.make_attribute("kernel_shape", [1, 1]))
    assert [" ".join(one) for one in operators(proto)] == wanted
    apart = " ".join(wanted).split()
    assert [one for (one,) in operators(proto, fuse=False)] == apart


def test_a_fused_layer_is_the_sum_of_its_parts() -> None:
    proto = follow("Norm", "Relu")
    fused, _ = view(proto)
    conv, norm, relu, _ = view(proto, fuse=False)
    assert (fused.name, fused.kind, fused.inputs) == (conv.name, conv.kind, conv.inputs)
    assert fused.nodes == conv.nodes + norm.nodes + relu.nodes
    assert (fused.outputs, fused.output) == (relu.outputs, relu.output)
    assert fused.multiply_adds == conv.multiply_adds > 0
    assert fused.parameters == conv.parameters + norm.parameters


def test_what_is_read_elsewhere_too_is_not_fused() -> None:
    proto = follow("Relu")
    inner = proto.graph.node[0].output[0]
    proto.graph.node.append(node("Neg", inner, "also"))
    proto.graph.output.append(info("also", shape=None))
    assert operators(proto) == [("Conv",), ("Relu",), ("Conv",), ("Neg",)]


def test_a_graph_output_is_not_fused_away() -> None:
    proto = follow("Relu", "Neg")
    proto.graph.output.append(info(proto.graph.node[0].output[0], shape=None))
    assert operators(proto) == [("Conv",), ("Relu",), ("Neg",), ("Conv",)]


def test_an_operator_with_several_outputs_leads_nobody() -> None:
    nodes = [
        node("MatMul", "x w", "a"),
        node("Dropout", "a", "b mask"),
        node("Relu", "b", "y"),
    ]
    proto = model(nodes, weights=[weight("w", (3, 3))])
    assert operators(proto) == [("MatMul",), ("Dropout",), ("Relu",)]


def test_what_a_branch_reads_is_read() -> None:
    proto = follow("Relu")
    inner = proto.graph.node[0].output[0]
    branches = [branch([node(kind, inner, "r")], "r") for kind in ("Neg", "Abs")]
    proto.graph.node.append(
        helper.make_node("If", ["c"], ["z"], then_branch=branches[0], else_branch=branches[1])
    )
    proto.graph.input.append(info("c", TensorProto.BOOL, []))
    proto.graph.output.append(info("z", shape=None))
    found = view(proto)
    assert [layer.operators for layer in found] == [("Conv",), ("Relu",), ("Conv",), ("If",)]
    assert [layer.name for layer in found.readers[inner]] == ["relu_4", "z"]


# The view --------------------------------------------------------------------------------------


def test_the_view_of_a_residual_net() -> None:
    found = view(residual_net(blocks=1, norm=True))
    kinds = [layer.kind for layer in found]
    assert kinds == [
        LayerKind.CONV, LayerKind.CONV, LayerKind.CONV, LayerKind.ADD, LayerKind.POOL,
        LayerKind.MOVE, LayerKind.MATMUL,
    ]  # fmt: skip
    assert found.sources == ("x",)
    stem, first, second, add, *_ = found.layers
    (name,) = stem.outputs
    assert [layer.name for layer in found.readers[name]] == [first.name, add.name]
    assert found.producer[name] is stem
    assert "x" not in found.producer
    assert [found.position[layer.name] for layer in found] == list(range(len(kinds)))
    assert set(found.graph.predecessors(add.name)) == {stem.name, second.name}
    assert found.graph.edges[stem.name, add.name]["tensor"] == name
    assert found.graph.nodes[add.name]["layer"] is add
    assert found.graph.number_of_edges() == len(kinds)


def test_a_tensor_read_twice_by_one_layer_has_one_reader() -> None:
    found = view(model([node("Relu", "x", "t"), node("Mul", "t t", "y")]))
    assert [layer.name for layer in found.readers["t"]] == ["y"]


@pytest.mark.parametrize("make", FEATURES.values(), ids=FEATURES)
def test_every_feature(make: Any) -> None:
    """Nothing raises; every node that carries data is in one layer, in order."""
    loaded = Model.load(make())
    data = data_tensors(loaded)
    carrying = [n for n in loaded.graph if any(o.name in data for o in n.outputs)]
    for fuse in (False, True):
        found = loaded.analyses.get(Layers(fuse=fuse))
        assert sum(len(layer.operators) for layer in found) == len(carrying)
        assert found.graph.number_of_nodes() == len({layer.name for layer in found})


# What depends on the input ---------------------------------------------------------------------


def data(nodes: Sequence[onnx.NodeProto], *weights: TensorProto, **more: Any) -> set[str]:
    return set(data_tensors(Model.load(model(nodes, weights=weights, **more))))


def test_shapes_of_the_input_are_no_data() -> None:
    nodes = [
        node("Shape", "x", "shape"),
        node("Size", "x", "size"),
        node("Gather", "shape i", "n"),
        node("ConstantOfShape", "shape", "zeros"),
        node("Concat", "zeros zeros", "more", axis=0),
        node("Reshape", "x shape", "r"),
        node("Add", "r zeros", "y"),
    ]
    index = from_array(np.array([0]), "i")
    assert data(nodes, index) == {"x", "r", "y"}
    proto = model(nodes, weights=[index])
    assert operators(proto) == [("Reshape",), ("Add",)]
    assert view(proto).layers[-1].kind is LayerKind.SCALE


def test_weights_are_no_data_even_where_they_are_inputs() -> None:
    nodes = [node("Neg", "w", "t"), node("Quant", "t s s s", "q", domain="onnx.brevitas")]
    nodes += [node("MatMul", "x q", "y")]
    given = [info("x"), info("w", shape=(3, 3))]
    proto = model(nodes, given, weights=[weight("w", (3, 3)), weight("s", [])])
    assert data_tensors(Model.load(proto)) == {"x", "y"}
    found = view(proto)
    assert found.sources == ("x",)
    (layer,) = found
    assert layer.parameters == 9
    assert layer.multiply_adds == 2 * 3 * 3


@pytest.mark.parametrize("kind", ["RandomNormal", "RandomUniform"])
def test_what_is_drawn_is_data(kind: str) -> None:
    assert data([node(kind, "", "r", shape=[2, 3]), node("Add", "x r", "y")]) == {"x", "r", "y"}


def test_a_draw_that_reads_only_constants_is_data() -> None:
    assert "r" in data([node("Bernoulli", "w", "r"), node("Neg", "x", "y")], weight("w"))


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("read", ["x", "w"])
def test_what_branches_read_makes_data(depth: int, read: str) -> None:
    """The condition is a constant; only a node inside reads the input."""
    inner = branch([node("Neg", read, "a")], "a")
    for _ in range(depth - 1):
        other = branch([node("Neg", "w", "b")], "b")
        made = helper.make_node("If", ["k"], ["o"], then_branch=inner, else_branch=other)
        inner = branch([made], "o")
    constant = helper.make_node(
        "If", ["k"], ["t"], then_branch=inner, else_branch=branch([node("Neg", "w", "e")], "e")
    )
    nodes = [constant, node("Add", "t w", "u"), node("Relu", "x", "y")]
    found = data(nodes, weight("w"), from_array(np.array(True), "k"))
    assert found == ({"x", "t", "u", "y"} if read == "x" else {"x", "y"})


def test_lists_of_graphs_and_loops_make_data() -> None:
    made = FEATURES["list_of_subgraphs"]()
    made.graph.node[0].input[0] = "w"
    made.graph.initializer.append(weight("w"))
    assert "y" in data_tensors(Model.load(made))
    assert {"y", "all"} <= data_tensors(Model.load(FEATURES["loop_carrying_and_scanning"]()))


def test_attributes_that_are_only_referred_to_are_passed_over() -> None:
    """In a function's body an attribute may be a reference, without a graph to look into."""
    made = node("Choose", "w", "y", domain="com.example")
    made.attribute.add(name="body", ref_attr_name="other", type=onnx.AttributeProto.GRAPH)
    proto = model([made], weights=[weight("w")], opsets={"": 17, "com.example": 1})
    assert data_tensors(Model.load(proto)) == {"x"}
