"""Tiny models, each with one feature of ONNX that a reader or writer may lose."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper
from onnx.numpy_helper import from_array

FEATURES: dict[str, Callable[[], onnx.ModelProto]] = {}
"""By name; each call makes the model anew."""

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def feature(make: Callable[[], onnx.ModelProto]) -> Callable[[], onnx.ModelProto]:
    """Registers a model under the name of the function that makes it."""
    FEATURES[make.__name__] = make
    return make


def info(name: str, dtype: int = FLOAT, shape: Sequence[int | str | None] | None = (2, 3)) -> Any:
    return helper.make_tensor_value_info(name, dtype, shape)


def model(
    nodes: Iterable[onnx.NodeProto],
    inputs: Sequence[Any] = (),
    outputs: Sequence[Any] = (),
    *,
    weights: Sequence[onnx.TensorProto] = (),
    opsets: dict[str, int] | None = None,
    ir_version: int = 8,
    functions: Sequence[onnx.FunctionProto] = (),
    **graph: Any,
) -> onnx.ModelProto:
    made = helper.make_graph(
        list(nodes),
        graph.pop("name", "g"),
        list(inputs) or [info("x")],
        list(outputs) or [info("y")],
        list(weights),
        **graph,
    )
    imports = [helper.make_opsetid(d, v) for d, v in (opsets or {"": 17}).items()]
    return helper.make_model(
        made, opset_imports=imports, ir_version=ir_version, functions=list(functions)
    )


def node(kind: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    """`inputs` and `outputs` are names between spaces; "_" is an empty name."""
    read, made = (["" if n == "_" else n for n in names.split()] for names in (inputs, outputs))
    return helper.make_node(kind, read, made, **attributes)


def weight(name: str, shape: Sequence[int] = (2, 3), dtype: Any = np.float32) -> onnx.TensorProto:
    values = np.arange(1, 1 + int(np.prod(shape))).reshape(shape) / 4
    return from_array(values.astype(dtype), name)


def note(proto: onnx.ModelProto, tensor: str, **parameters: str) -> None:
    """Adds a quantization annotation."""
    annotation = proto.graph.quantization_annotation.add(tensor_name=tensor)
    for key, value in parameters.items():
        annotation.quant_parameter_tensor_names.add(key=key, value=value)


def properties(message: Any, **entries: str) -> None:
    """Adds metadata."""
    for key, value in entries.items():
        message.metadata_props.add(key=key, value=value)


# Sparse tensors -----------------------------------------------------------------------------


def sparse(name: str, indices: Any, values: Any = (1.5, -2.0), shape: Any = (2, 3)) -> Any:
    return helper.make_sparse_tensor(
        from_array(np.array(values, np.float32), name),
        from_array(np.array(indices, np.int64), name + "_indices"),
        shape,
    )


@feature
def sparse_weight_flat_indices() -> onnx.ModelProto:
    return model([node("Add", "x w", "y")], sparse_initializer=[sparse("w", [1, 5])])


@feature
def sparse_weight_tuple_indices() -> onnx.ModelProto:
    return model([node("Add", "x w", "y")], sparse_initializer=[sparse("w", [[0, 1], [1, 2]])])


@feature
def sparse_weight_empty() -> onnx.ModelProto:
    return model([node("Add", "x w", "y")], sparse_initializer=[sparse("w", [], [])])


@feature
def sparse_weight_in_branch() -> onnx.ModelProto:
    then = branch(
        [node("Add", "x w", "a")], "a", sparse_initializer=[sparse("w", [[0, 1], [1, 2]])]
    )
    return conditional(then)


@feature
def sparse_constant() -> onnx.ModelProto:
    made = node("Constant", "", "c", sparse_value=sparse("s", [0, 4]), name="constant")
    return model([made, node("Add", "x c", "y")])


@feature
def sparse_constant_in_branch() -> onnx.ModelProto:
    made = node("Constant", "", "c", sparse_value=sparse("s", [0, 4]))
    return conditional(branch([made, node("Add", "x c", "a")], "a"))


@feature
def sparse_constant_in_function() -> onnx.ModelProto:
    made = node("Constant", "", "c", sparse_value=sparse("s", [[0, 0], [1, 1]]))
    body = [made, node("Add", "a c", "b")]
    return called(helper.make_function("local", "F", ["a"], ["b"], body, [opset(17)]))


# Subgraphs ----------------------------------------------------------------------------------


def branch(nodes: Iterable[onnx.NodeProto], output: str, **graph: Any) -> onnx.GraphProto:
    return helper.make_graph(list(nodes), "branch", [], [info(output)], **graph)


def conditional(
    then: onnx.GraphProto, other: onnx.GraphProto | None = None, **rest: Any
) -> onnx.ModelProto:
    """`y = then if c else other`."""
    other = other or branch([node("Neg", "x", "b")], "b")
    made = helper.make_node("If", ["c"], ["y"], then_branch=then, else_branch=other, name="if")
    return model([made], [info("x"), info("c", TensorProto.BOOL, [])], **rest)


@feature
def if_reads_outer_tensor_and_weight() -> onnx.ModelProto:
    inner = branch([node("Add", "x w", "t"), node("Mul", "t own", "a")], "a")
    inner.initializer.append(weight("own"))
    return conditional(inner, weights=[weight("w")])


@feature
def if_with_notes_inside() -> onnx.ModelProto:
    """Everything that a graph may say about itself and its tensors, in a branch."""
    inner = branch([node("Relu", "x", "t", doc_string="a node"), node("Add", "t own", "a")], "a")
    inner.initializer.append(weight("own"))
    inner.doc_string = "a branch"
    inner.value_info.extend([info("t"), info("own"), info("gone", INT64, ["N"])])
    properties(inner, origin="branch")
    for name in ("t", "own", "gone"):
        annotation = inner.quantization_annotation.add(tensor_name=name)
        annotation.quant_parameter_tensor_names.add(key="finn_datatype", value="INT4")
    return conditional(inner)


@feature
def if_in_if() -> onnx.ModelProto:
    deepest = branch([node("Add", "x own", "p")], "p", initializer=[weight("own")])
    other = branch([node("Neg", "outer", "q")], "q")
    inner = helper.make_node("If", ["c"], ["a"], then_branch=deepest, else_branch=other)
    made = conditional(branch([inner], "a"))
    made.graph.node.insert(0, node("Relu", "x", "outer"))
    return made


@feature
def loop_carrying_and_scanning() -> onnx.ModelProto:
    body = helper.make_graph(
        [
            node("Add", "state w", "next"),
            node("Identity", "going", "still"),
            node("Mul", "next own", "scanned"),
        ],
        "body",
        [info("i", INT64, []), info("going", TensorProto.BOOL, []), info("state")],
        [info("still", TensorProto.BOOL, []), info("next"), info("scanned")],
        [weight("own")],
    )
    loop = helper.make_node("Loop", ["trips", "", "x"], ["y", "all"], body=body)
    return model(
        [loop],
        outputs=[info("y"), info("all", shape=("T", 2, 3))],
        weights=[weight("w"), from_array(np.array(3, np.int64), "trips")],
    )


@feature
def scan_over_an_axis() -> onnx.ModelProto:
    body = helper.make_graph(
        [node("Add", "sum row", "total"), node("Identity", "total", "running")],
        "body",
        [info("sum", shape=[3]), info("row", shape=[3])],
        [info("total", shape=[3]), info("running", shape=[3])],
    )
    scan = helper.make_node("Scan", ["zero", "x"], ["last", "y"], body=body, num_scan_inputs=1)
    return model(
        [scan], outputs=[info("last", shape=[3]), info("y")], weights=[weight("zero", [3])]
    )


@feature
def list_of_subgraphs() -> onnx.ModelProto:
    graphs = [branch([node("Neg", "x", f"a{i}")], f"a{i}") for i in range(2)]
    made = helper.make_node("Choose", ["x"], ["y"], domain="com.example", bodies=graphs)
    return model([made], opsets={"": 17, "com.example": 1})


# Functions ----------------------------------------------------------------------------------


def opset(version: int, domain: str = "") -> onnx.OperatorSetIdProto:
    return helper.make_opsetid(domain, version)


def called(*functions: onnx.FunctionProto, ir_version: int = 8, **attributes: Any) -> Any:
    """A model that calls the last of `functions`."""
    last = functions[-1]
    made = helper.make_node(last.name, ["x"], ["y"], domain=last.domain, **attributes)
    if last.overload:
        made.overload = last.overload
    opsets = {"": 17, **{function.domain: 1 for function in functions}}
    return model([made], functions=functions, opsets=opsets, ir_version=ir_version)


@feature
def function_with_attributes() -> onnx.ModelProto:
    leaky = node("LeakyRelu", "a", "t")
    leaky.attribute.add(name="alpha", ref_attr_name="slope", type=onnx.AttributeProto.FLOAT)
    power = node("Elu", "t", "b")
    power.attribute.add(name="alpha", ref_attr_name="scale", type=onnx.AttributeProto.FLOAT)
    function = helper.make_function(
        "local",
        "F",
        ["a"],
        ["b"],
        [leaky, power],
        [opset(17)],
        attributes=["slope"],
        attribute_protos=[helper.make_attribute("scale", 0.5)],
    )
    function.doc_string = "a function"
    return called(function, slope=0.25)


@feature
def functions_calling_functions() -> onnx.ModelProto:
    inner = helper.make_function(
        "local", "Inner", ["a"], ["b"], [node("Relu", "a", "b", name="r")], [opset(17)]
    )
    body = [
        helper.make_node("Inner", ["a"], ["t"], domain="local"),
        helper.make_node("Inner", ["t"], ["b"], domain="local"),
    ]
    outer = helper.make_function(
        "other", "Outer", ["a"], ["b"], body, [opset(17), opset(1, "local")]
    )
    return called(inner, outer)


@feature
def function_overloads() -> onnx.ModelProto:
    functions = [
        helper.make_function(
            "local", "F", ["a"], ["b"], [node(kind, "a", "b")], [opset(17)], overload=name
        )
        for kind, name in (("Relu", ""), ("Neg", "second"))
    ]
    return called(*functions, ir_version=10)


@feature
def function_with_shapes_and_metadata() -> onnx.ModelProto:
    function = helper.make_function(
        "local", "F", ["a"], ["b"], [node("Relu", "a", "t"), node("Neg", "t", "b")], [opset(17)]
    )
    function.value_info.extend([info("a"), info("t"), info("gone", INT64, ["N"])])
    properties(function, origin="test")
    properties(function.node[0], origin="inside")
    return called(function, ir_version=10)


@feature
def function_shapes_before_ir_10() -> onnx.ModelProto:
    """As the dynamo exporter wrote them."""
    function = helper.make_function(
        "local", "F", ["a"], ["b"], [node("Relu", "a", "t"), node("Neg", "t", "b")], [opset(17)]
    )
    made = called(function)
    made.graph.value_info.extend([info("local::F/t"), info("local::Missing/t")])
    return made


@feature
def function_own_shapes_before_ir_10() -> onnx.ModelProto:
    function = helper.make_function(
        "local", "F", ["a"], ["b"], [node("Relu", "a", "t"), node("Neg", "t", "b")], [opset(17)]
    )
    function.value_info.extend([info("t")])
    return called(function)


@feature
def function_with_subgraph() -> onnx.ModelProto:
    then = branch([node("Relu", "a", "p")], "p")
    other = branch([node("Neg", "a", "q")], "q")
    body = [
        node("Constant", "", "c", value=from_array(np.array(True))),
        helper.make_node("If", ["c"], ["b"], then_branch=then, else_branch=other),
    ]
    return called(helper.make_function("local", "F", ["a"], ["b"], body, [opset(17)]))


# Annotations, metadata, doc strings ---------------------------------------------------------


@feature
def quantization_annotations() -> onnx.ModelProto:
    """FINN's: on an input, a weight, an inner tensor, an output, and a tensor that is nowhere."""
    made = model([node("Add", "x w", "t"), node("Relu", "t", "y")], weights=[weight("w")])
    for name, kind in (("x", "INT8"), ("w", "INT4"), ("t", "INT9"), ("y", "UINT8"), ("z", "INT2")):
        note(made, name, finn_datatype=kind)
    return made


@feature
def quantization_annotations_of_the_specification() -> onnx.ModelProto:
    made = model([node("Relu", "x", "y")], weights=[weight("s", []), weight("z", [])])
    note(made, "x", SCALE_TENSOR="s", ZERO_POINT_TENSOR="z")
    note(made, "y", SCALE_TENSOR="s")
    return made


@feature
def quantization_annotation_of_repeated_tensors() -> onnx.ModelProto:
    made = model([node("Relu", "x", "y")], outputs=[info("y"), info("y"), info("x")])
    note(made, "y", finn_datatype="INT4")
    note(made, "x", finn_datatype="INT8")
    return made


@feature
def metadata_everywhere() -> onnx.ModelProto:
    made = model(
        [node("Add", "x w", "t", name="add"), node("Relu", "t", "y")],
        weights=[weight("w")],
        value_info=[info("t")],
        ir_version=10,
    )
    properties(made, b="2", a="1", **{"with space": "", "graph": "of the model"})
    properties(made.graph, level="graph")
    properties(made.graph.node[0], level="node", pkg="x.y")
    properties(made.graph.initializer[0], level="weight")
    for value in (made.graph.input[0], made.graph.output[0], made.graph.value_info[0]):
        properties(value, level="value", name=value.name)
    return made


@feature
def doc_strings_everywhere() -> onnx.ModelProto:
    made = model(
        [node("LeakyRelu", "x", "t", alpha=0.5), node("Add", "t w", "y")],
        weights=[weight("w")],
        value_info=[info("t")],
    )
    made.doc_string = "a model\nof two lines"
    made.graph.doc_string = "a graph"
    made.graph.initializer[0].doc_string = "a weight"
    made.graph.node[0].attribute[0].doc_string = "an attribute"
    for number, part in enumerate([*made.graph.node, *made.graph.input, *made.graph.output]):
        part.doc_string = f"part {number}"
    made.graph.value_info[0].doc_string = "inner"
    return made


@feature
def producer_and_versions() -> onnx.ModelProto:
    made = model([node("Relu", "x", "y")])
    made.producer_name, made.producer_version = "test", "1.2.3"
    made.domain, made.model_version = "org.example", 42
    return made


@feature
def training_info() -> onnx.ModelProto:
    made = model([node("Add", "x w", "y")], weights=[weight("w")])
    training = made.training_info.add()
    training.algorithm.CopyFrom(
        helper.make_graph([node("Sub", "w rate", "updated")], "step", [], [info("updated")])
    )
    training.initialization.CopyFrom(
        helper.make_graph([node("Identity", "w", "first")], "start", [], [info("first")])
    )
    training.update_binding.add(key="w", value="updated")
    training.initialization_binding.add(key="w", value="first")
    return made


@feature
def devices() -> onnx.ModelProto:
    made = model([node("Relu", "x", "y")], ir_version=11)
    made.configuration.add(name="two", num_devices=2, device=["a", "b"])
    split = made.graph.node[0].device_configurations.add(configuration_id="two", pipeline_stage=1)
    spec = split.sharding_spec.add(tensor_name="x", device=[0, 1])
    spec.sharded_dim.add(axis=0).simple_sharding.add(dim_value=2, num_shards=2)
    return made


# Operator sets and nodes --------------------------------------------------------------------


@feature
def foreign_domains() -> onnx.ModelProto:
    pairs = (
        ("qonnx.custom_op.general", "Quant"),
        ("finn.custom_op.general", "MultiThreshold"),
        ("onnx.brevitas", "BipolarQuant"),
        ("com.microsoft", "Gelu"),
        ("ai.onnx.ml", "Normalizer"),
    )
    names = ["x", "a", "b", "c", "d", "y"]
    nodes = [
        helper.make_node(kind, [read], [made], domain=domain, mode="test")
        for (domain, kind), read, made in zip(pairs, names, names[1:], strict=False)
    ]
    return model(nodes, opsets={"": 17, **{domain: 2 for domain, _ in pairs}})


@feature
def foreign_domain_without_import() -> onnx.ModelProto:
    """As Brevitas writes it."""
    return model([helper.make_node("Quant", ["x"], ["y"], domain="onnx.brevitas", signed=1)])


@feature
def default_domain_by_name() -> onnx.ModelProto:
    return model([helper.make_node("Relu", ["x"], ["y"], domain="ai.onnx")], opsets={"ai.onnx": 17})


@feature
def unnamed_nodes() -> onnx.ModelProto:
    return model([node("Relu", "x", "a"), node("Relu", "a", "b"), node("Relu", "b", "y")])


@feature
def nodes_of_one_name() -> onnx.ModelProto:
    return model([node("Relu", "x", "a", name="same"), node("Neg", "a", "y", name="same")])


@feature
def empty_inputs_and_outputs() -> onnx.ModelProto:
    return model(
        [
            node("Clip", "x _ top", "a"),
            node("Clip", "a top _", "b"),
            node("Dropout", "b", "c _"),
            node("LSTM", "s w r _ _ h", "_ y _", hidden_size=3),
        ],
        [info("x"), info("s", shape=(1, 2, 3)), info("h", shape=(1, 2, 3))],
        [info("y", shape=(1, 2, 3)), info("c")],
        weights=[
            from_array(np.array(6, np.float32), "top"),
            weight("w", (1, 12, 3)),
            weight("r", (1, 12, 3)),
        ],
    )


@feature
def attributes_of_every_kind() -> onnx.ModelProto:
    made = helper.make_node(
        "Everything",
        ["x"],
        ["y"],
        domain="com.example",
        i=-(2**63),
        zero=0,
        f=0.1,
        inf=float("inf"),
        s="text",
        empty="",
        t=weight("t"),
        ints=[1, -2],
        floats=[0.5, 1e-30],
        strings=["a", "ü", ""],
        tensors=[weight("p"), weight("q", [0])],
        tp=helper.make_tensor_type_proto(FLOAT, ["N", 3]),
        type_protos=[helper.make_sequence_type_proto(helper.make_tensor_type_proto(INT64, None))],
    )
    for name, kind in (("no_ints", "INTS"), ("no_floats", "FLOATS"), ("no_strings", "STRINGS")):
        made.attribute.add(name=name, type=onnx.AttributeProto.AttributeType.Value(kind))
    made.attribute.add(name="nan", type=onnx.AttributeProto.FLOAT, f=float("nan"))
    made.attribute.add(name="bytes", type=onnx.AttributeProto.STRING, s=b"\xff\x00")
    return model([made], opsets={"": 17, "com.example": 1})


@feature
def unicode_names() -> onnx.ModelProto:
    return model(
        [node("Add", "größe 重み", "中間", name="加算"), node("Relu", "中間", "выход/🙂")],
        [info("größe", shape=("Größe", 3))],
        [info("выход/🙂", shape=("Größe", 3))],
        weights=[weight("重み")],
        name="グラフ",
    )


@feature
def odd_names() -> onnx.ModelProto:
    return model(
        [node("Add", "/a/b.c:0 w[1]", "t%1"), helper.make_node("Relu", ["t%1"], ["a b\tc"])],
        [info("/a/b.c:0")],
        [info("a b\tc")],
        weights=[weight("w[1]")],
    )


# Weights ------------------------------------------------------------------------------------


def stored(kind: int, raw: bool) -> onnx.ModelProto:
    """Two weights of an element type, one of odd length, as raw bytes or in the typed field."""
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    weights = []
    for name, count in (("w", 6), ("v", 5)):
        values = (np.arange(count) % 3).astype(np.float32).astype(dtype)
        tensor = from_array(values, name)
        if not raw:
            tensor = helper.make_tensor(name, kind, values.shape, values)
        weights.append(tensor)
    nodes = [helper.make_node("Cast", [n], [f"{n}_float"], to=FLOAT) for n in ("w", "v")]
    outputs = [info(f"{n}_float", shape=None) for n in ("w", "v")]
    return model([*nodes, node("Relu", "x", "y")], outputs=[*outputs, info("y")], weights=weights)


for _kind in helper.get_all_tensor_dtypes():
    if _kind != TensorProto.STRING:
        for _raw in (True, False):
            _name = TensorProto.DataType.Name(_kind).lower()
            FEATURES[f"weights_{_name}_{'raw' if _raw else 'typed'}"] = partial(stored, _kind, _raw)


@feature
def weights_of_text() -> onnx.ModelProto:
    text = helper.make_tensor("w", TensorProto.STRING, [3], [b"a", "ü".encode(), b""])
    string = info("y", TensorProto.STRING, [3])
    return model([node("Identity", "w", "y")], outputs=[string], weights=[text])


@feature
def weights_of_special_numbers() -> onnx.ModelProto:
    values = np.array([np.nan, np.inf, -np.inf, -0.0, 1e-45, 3.4e38], np.float32).reshape(2, 3)
    half = values.astype(ml_dtypes.bfloat16)
    return model(
        [node("Add", "x w", "y"), node("Cast", "h", "z", to=FLOAT)],
        outputs=[info("y"), info("z")],
        weights=[from_array(values, "w"), from_array(half, "h")],
    )


@feature
def weights_that_are_inputs() -> onnx.ModelProto:
    """Weights with a default, in between the inputs proper."""
    inputs = [info("w"), info("x"), info("v", shape=(None, 3)), info("u")]
    nodes = [node("Add", "x w", "t"), node("Add", "t v", "y")]
    return model(nodes, inputs, weights=[weight("v"), weight("w"), weight("u")])


@feature
def weights_that_are_inputs_in_ir_3() -> onnx.ModelProto:
    made = weights_that_are_inputs()
    made.ir_version = 3
    return made


@feature
def sparse_weights_that_are_inputs_in_ir_3() -> onnx.ModelProto:
    inputs = [info("w"), info("x")]
    return model(
        [node("Add", "x w", "y")], inputs, sparse_initializer=[sparse("w", [1, 2])], ir_version=3
    )


@feature
def weights_unused() -> onnx.ModelProto:
    return model([node("Relu", "x", "y")], weights=[weight("unused"), weight("also", [4])])


@feature
def weights_with_value_info() -> onnx.ModelProto:
    """As qonnx writes them; one entry is vaguer than the weight."""
    infos = [info("w"), info("v", shape=("rows", None))]
    nodes = [node("Add", "x w", "t"), node("Add", "t v", "y")]
    return model(nodes, weights=[weight("w"), weight("v")], value_info=infos)


@feature
def weights_that_are_outputs() -> onnx.ModelProto:
    outputs = [info("y"), info("w", shape=None)]
    return model([node("Relu", "x", "y")], outputs=outputs, weights=[weight("w")])


@feature
def zero_size_and_scalar_tensors() -> onnx.ModelProto:
    weights = [weight("none", [0]), weight("rows", [0, 4]), weight("one", [])]
    weights.append(helper.make_tensor("typed", INT64, [0], []))
    weights.append(helper.make_tensor("text", TensorProto.STRING, [0], []))
    nodes = [node("Mul", "x one", "y")]
    nodes += [node("Identity", t.name, f"{t.name}_out") for t in weights]
    outputs = [info("y")]
    outputs += [info(f"{t.name}_out", t.data_type, list(t.dims)) for t in weights]
    return model(nodes, outputs=outputs, weights=weights)


# Types and shapes ---------------------------------------------------------------------------


@feature
def sequences() -> onnx.ModelProto:
    tensors = helper.make_sequence_type_proto(helper.make_tensor_type_proto(FLOAT, ["N", 3]))
    nested = helper.make_sequence_type_proto(tensors)
    made = [helper.make_value_info(name, kind) for name, kind in (("s", tensors), ("n", nested))]
    return model(
        [node("SequenceConstruct", "x x", "s"), node("Custom", "x", "n", domain="com.example")],
        outputs=made,
        opsets={"": 17, "com.example": 1},
    )


@feature
def sequences_inside() -> onnx.ModelProto:
    tensors = helper.make_sequence_type_proto(helper.make_tensor_type_proto(FLOAT, [2, "M"]))
    return model(
        [node("SequenceConstruct", "x x", "s"), node("ConcatFromSequence", "s", "y", axis=0)],
        value_info=[helper.make_value_info("s", tensors)],
        outputs=[info("y", shape=("R", "C"))],
    )


@feature
def optionals() -> onnx.ModelProto:
    kind = helper.make_optional_type_proto(helper.make_tensor_type_proto(FLOAT, [2, 3]))
    given = helper.make_value_info("x", kind)
    return model([node("OptionalGetElement", "x", "y")], [given])


@feature
def sparse_typed_values() -> onnx.ModelProto:
    kind = helper.make_sparse_tensor_type_proto(FLOAT, [2, "N"])
    made = [helper.make_value_info(name, kind) for name in ("x", "y")]
    return model([node("Custom", "x", "y", domain="com.example")], made[:1], made[1:])


@feature
def opaque_and_map_values_inside() -> onnx.ModelProto:
    made = model(
        [node("Hide", "x", "t", domain="com.example"), node("Show", "t", "y", domain="com.example")]
    )
    hidden = made.graph.value_info.add(name="t")
    hidden.type.opaque_type.domain = "com.example"
    hidden.type.opaque_type.name = "Hidden"
    table = made.graph.value_info.add(name="gone")
    table.type.map_type.key_type = INT64
    table.type.map_type.value_type.tensor_type.elem_type = FLOAT
    return made


@feature
def symbolic_sizes_and_denotations() -> onnx.ModelProto:
    made = model(
        [node("Relu", "x", "t"), node("Neg", "t", "y")],
        [info("x", shape=("N", 3, "H + 1", None))],
        [info("y", shape=("N", 3, None, ""))],
        value_info=[info("t", shape=("N", 0, -1, "height"))],
    )
    shape = made.graph.input[0].type.tensor_type.shape
    for dim, meaning in zip(shape.dim, ("DATA_BATCH", "DATA_CHANNEL"), strict=False):
        dim.denotation = meaning
    made.graph.input[0].type.denotation = "IMAGE"
    made.graph.output[0].type.denotation = "TENSOR"
    return made


@feature
def shapes_that_are_missing() -> onnx.ModelProto:
    made = model(
        [node("Relu", "x", "t"), node("Neg", "t", "u"), node("Abs", "u", "y")],
        [info("x", shape=None)],
        [onnx.ValueInfoProto(name="y")],
        value_info=[info("t", shape=[])],
    )
    untyped = made.graph.value_info.add(name="u")
    untyped.type.tensor_type.shape.dim.add(dim_value=2)
    return made


@feature
def dangling_value_info() -> onnx.ModelProto:
    infos = [info("gone"), info("also", INT64, ["N"])]
    properties(infos[1], why="left over")
    return model([node("Relu", "x", "y")], value_info=infos)


@feature
def outputs_listed_twice() -> onnx.ModelProto:
    outputs = [info("y"), info("y", shape=("N", 3)), info("z")]
    return model([node("Relu", "x", "y"), node("Neg", "x", "z")], outputs=outputs)


@feature
def input_that_is_output() -> onnx.ModelProto:
    """The shape stands at the input, another at the output."""
    inputs = [info("x", shape=("N", 3)), info("p", shape=("N", 4))]
    outputs = [info("y"), info("x", shape=None), info("p", shape=("M", 4))]
    return model([node("Relu", "x", "y")], inputs, outputs)


@feature
def several_inputs_unused() -> onnx.ModelProto:
    return model([node("Relu", "x", "y")], [info("a"), info("x"), info("b", INT64, [])])


@feature
def no_inputs() -> onnx.ModelProto:
    made = model([node("Constant", "", "y", value=weight("c"))])
    del made.graph.input[:]
    return made


def _versions() -> None:
    for version in range(3, 14):
        FEATURES[f"ir_version_{version}"] = lambda version=version: model(
            [node("Add", "x w", "y")],
            [info("x"), *([info("w")] if version < 4 else [])],
            weights=[weight("w")],
            ir_version=version,
        )
    for version in (7, 9, 11, 13, 18, 21, 25):
        FEATURES[f"opset_{version}"] = lambda version=version: model(
            [node("Relu", "x", "y")], opsets={"": version, "ai.onnx.ml": 1}
        )


_versions()
