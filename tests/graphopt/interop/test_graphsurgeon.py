"""A graphsurgeon Graph there and back: nothing is lost, and every edit holds."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper
from onnx.numpy_helper import from_array, to_array

from graphopt.errors import GraphoptError, ModelError
from graphopt.interop.graphsurgeon import FALLBACK_IR_VERSION, from_proto, to_proto
from graphopt.ir import Model
from graphopt.optimizer import Fate, optimize
from tests.support.features import (
    FEATURES,
    branch,
    conditional,
    info,
    model,
    node,
    note,
    properties,
    sparse,
    weight,
)
from tests.support.models import residual_net
from tests.support.same import assert_same

every_feature = pytest.mark.parametrize("make", FEATURES.values(), ids=FEATURES)
FLOAT = np.float32


def annotated(proto: onnx.ModelProto) -> set[str]:
    return {entry.tensor_name for entry in proto.graph.quantization_annotation}


def run(proto: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[Any]:
    onnx.checker.check_model(proto, full_check=True)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(None, feeds))


def notes_everywhere() -> onnx.ModelProto:
    """y = relu(leaky(x + w) + v), where everything has something that graphsurgeon drops."""
    proto = model(
        [
            node("Add", "x w", "a", name="add"),
            node("LeakyRelu", "a", "b", name="leaky", alpha=0.5),
            node("Add", "b v", "c", name="more"),
            node("Relu", "c", "y", name="last"),
        ],
        weights=[weight("w"), weight("v"), weight("unused")],
        value_info=[info("a"), info("b"), info("c")],
        ir_version=10,
    )
    graph = proto.graph
    properties(proto, level="model")
    properties(graph, level="graph")
    for part in (*graph.node, *graph.initializer, *graph.value_info, *graph.input, *graph.output):
        properties(part, of=part.name)
        part.doc_string = f"about {part.name}"
    for name in "xwabvcy":
        note(proto, name, finn_datatype=f"INT{ord(name) % 8 + 2}")
    return proto


# Nothing is lost -------------------------------------------------------------------------------


BEYOND_GRAPHSURGEON = ("int4", "int2", "float4", "float8e4m3fnuz", "text")
"""Types that graphsurgeon itself changes or cannot write once their values were read."""


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in (*FEATURES, "notes_everywhere")
        if name.startswith(("weights", "metadata", "notes", "doc_strings", "if_with"))
        and not any(kind in name for kind in BEYOND_GRAPHSURGEON)
    ],
)
def test_reading_weights_changes_nothing(name: str) -> None:
    """graphsurgeon reads a weight when it is asked for its values, and then writes it anew."""
    make = FEATURES.get(name, notes_everywhere)
    graph = from_proto(make())
    for tensor in graph.tensors().values():
        if isinstance(tensor, gs.Constant):
            assert tensor.values is not None
    returned = to_proto(graph)
    assert_same(returned, make())
    raw, given = ({t.name: t.raw_data for t in p.graph.initializer} for p in (returned, make()))
    assert raw == given


@every_feature
def test_an_added_node_is_all_that_changes(make: Callable[[], onnx.ModelProto]) -> None:
    expected = make()
    source = next((n for m in expected.graph.node for n in m.output if n), "")
    expected.graph.node.append(node("Identity", source, "added", name="add"))
    expected.graph.output.append(info("added"))

    graph = from_proto(make())
    added = gs.Variable("added", FLOAT, (2, 3))
    graph.nodes.append(
        gs.Node("Identity", "add", inputs=[graph.tensors()[source]], outputs=[added])
    )
    graph.outputs.append(added)
    assert_same(to_proto(graph), expected)


@every_feature
def test_new_names_of_nodes_are_all_that_changes(make: Callable[[], onnx.ModelProto]) -> None:
    expected, graph = make(), from_proto(make())
    for index, (ours, theirs) in enumerate(zip(expected.graph.node, graph.nodes, strict=True)):
        ours.name = theirs.name = f"new {index}"
    assert_same(to_proto(graph), expected)


def test_writing_leaves_the_graph_alone() -> None:
    graph = from_proto(notes_everywhere())
    graph.nodes[1].attrs["alpha"] = 0.25
    first = to_proto(graph)
    assert to_proto(graph) == first
    first.graph.node[0].name = "changed"
    assert to_proto(graph) != first


def test_the_graph_keeps_a_copy() -> None:
    given = notes_everywhere()
    graph = from_proto(given)
    assert given == notes_everywhere()
    del given.graph.quantization_annotation[:]
    assert_same(to_proto(graph), notes_everywhere())


def test_a_copy_of_a_graph_has_forgotten() -> None:
    """As the module says: what is left is what graphsurgeon itself holds."""
    written = to_proto(from_proto(notes_everywhere()).copy())
    assert not annotated(written)
    assert [n.op_type for n in written.graph.node] == ["Add", "LeakyRelu", "Add", "Relu"]


# Edits hold ------------------------------------------------------------------------------------


def test_a_changed_attribute() -> None:
    graph = from_proto(notes_everywhere())
    graph.nodes[1].attrs["alpha"] = 0.25
    expected = notes_everywhere()
    expected.graph.node[1].attribute[0].f = 0.25
    assert_same(to_proto(graph), expected)


def test_a_changed_attribute_beside_those_that_graphsurgeon_cannot_hold() -> None:
    expected = FEATURES["attributes_of_every_kind"]()
    graph = from_proto(expected)
    graph.nodes[0].attrs["i"] = 7
    graph.nodes[0].attrs["ints"] = [3]
    del graph.nodes[0].attrs["floats"]
    kept = [a for a in expected.graph.node[0].attribute if a.name != "floats"]
    del expected.graph.node[0].attribute[:]
    expected.graph.node[0].attribute.extend(kept)
    for attribute in expected.graph.node[0].attribute:
        if attribute.name == "i":
            attribute.i = 7
        if attribute.name == "ints":
            attribute.ints[:] = [3]
    assert_same(to_proto(graph), expected)


def test_a_changed_weight_keeps_what_is_said_of_it() -> None:
    graph = from_proto(notes_everywhere())
    graph.tensors()["w"].values = np.full((2, 3), 7, FLOAT)
    expected = notes_everywhere()
    tensor = expected.graph.initializer[0]
    tensor.raw_data = np.full((2, 3), 7, FLOAT).tobytes()
    returned = to_proto(graph)
    assert_same(returned, expected)
    assert returned.graph.initializer[0].doc_string == "about w"


@pytest.mark.parametrize("values", [np.ones((1, 3), FLOAT), np.ones((2, 3), np.float16)])
def test_a_weight_of_another_shape_or_type(values: np.ndarray) -> None:
    graph = from_proto(notes_everywhere())
    graph.tensors()["w"].values = values
    found = to_array(to_proto(graph).graph.initializer[0])
    assert (found.dtype, found.shape) == (values.dtype, values.shape)
    np.testing.assert_array_equal(found, values)


def test_a_weight_in_a_file_that_is_replaced() -> None:
    proto = model([node("Add", "x w", "y")], weights=[weight("w")])
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="nowhere.bin")
    untouched = from_proto(proto)
    assert_same(to_proto(untouched), proto)
    graph = from_proto(proto)
    graph.nodes[0].inputs[1] = gs.Constant("w", np.ones((2, 3), FLOAT))
    (found,) = to_proto(graph).graph.initializer
    assert not found.external_data
    np.testing.assert_array_equal(to_array(found), np.ones((2, 3)))


def test_another_operator_takes_nothing_from_the_one_before() -> None:
    """Attributes of the old operator, even those that graphsurgeon cannot hold, would be wrong."""
    proto = FEATURES["attributes_of_every_kind"]()
    graph = from_proto(proto)
    graph.nodes[0].op, graph.nodes[0].domain = "Relu", ""
    graph.nodes[0].attrs.clear()
    (made,) = to_proto(graph).graph.node
    assert made.op_type == "Relu"
    assert not made.attribute


def test_a_changed_shape_and_type() -> None:
    expected = FEATURES["symbolic_sizes_and_denotations"]()
    graph = from_proto(expected)
    graph.inputs[0].shape = ("B", 3, 8, 8)
    graph.outputs[0].dtype = np.float16
    returned = to_proto(graph)
    shape = helper.make_tensor_type_proto(TensorProto.FLOAT, ("B", 3, 8, 8))
    assert returned.graph.input[0].type.tensor_type == shape.tensor_type
    assert returned.graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT16
    assert_same(
        onnx.ModelProto(graph={"value_info": returned.graph.value_info}),
        onnx.ModelProto(graph={"value_info": expected.graph.value_info}),
    )


def test_a_removed_node_takes_along_what_was_said_of_its_output() -> None:
    graph = from_proto(notes_everywhere())
    leaky, more = graph.nodes[1:3]
    more.inputs[0] = leaky.inputs[0]
    leaky.outputs.clear()
    graph.cleanup()
    expected = notes_everywhere()
    kept = expected.graph
    del kept.node[1]
    kept.node[1].input[0] = "a"
    for entries in (kept.value_info, kept.quantization_annotation):
        for entry in [e for e in entries if "b" in (getattr(e, "name", ""), _tensor(e))]:
            entries.remove(entry)
    assert_same(to_proto(graph), expected)


def _tensor(entry: Any) -> str:
    return getattr(entry, "tensor_name", "")


def test_a_node_in_between_stands_where_it_was_put() -> None:
    graph = from_proto(notes_everywhere())
    leaky = graph.nodes[1]
    before = gs.Variable("before", FLOAT, (2, 3))
    graph.nodes.insert(1, gs.Node("Neg", "neg", inputs=[leaky.inputs[0]], outputs=[before]))
    leaky.inputs[0] = before
    returned = to_proto(graph)
    assert [n.op_type for n in returned.graph.node] == ["Add", "Neg", "LeakyRelu", "Add", "Relu"]
    assert returned.graph.node[2].input[:] == ["before"]
    assert returned.graph.node[2].doc_string == "about leaky"
    assert annotated(returned) == annotated(notes_everywhere())
    x = np.array([[-3, 2, 0], [1, -1, 5]], FLOAT)
    w, v = (to_array(t) for t in notes_everywhere().graph.initializer[:2])
    negative = -(x + w)
    wanted = np.maximum(np.where(negative < 0, 0.5 * negative, negative) + v, 0)
    np.testing.assert_allclose(run(returned, {"x": x})[0], wanted, rtol=1e-6)


def test_inputs_and_outputs_that_come_and_go() -> None:
    expected = FEATURES["several_inputs_unused"]()
    properties(expected.graph.input[1], of="x")
    graph = from_proto(expected)
    graph.inputs = [gs.Variable("new", np.int64, (1,)), graph.inputs[1], graph.inputs[0]]
    given = expected.graph.input
    entries = [info("new", TensorProto.INT64, (1,)), given[1], given[0]]
    del expected.graph.input[:]
    expected.graph.input.extend(entries)
    assert_same(to_proto(graph), expected)

    graph = from_proto(FEATURES["weights_that_are_inputs"]())
    graph.inputs.append(gs.Variable("new", FLOAT, (1,)))
    assert [i.name for i in to_proto(graph).graph.input] == ["w", "x", "v", "u", "new"]

    graph = from_proto(FEATURES["quantization_annotation_of_repeated_tensors"]())
    del graph.outputs[1:]
    returned = to_proto(graph)
    assert [o.name for o in returned.graph.output] == ["y"]
    assert annotated(returned) == {"x", "y"}


def test_an_input_that_becomes_a_weight() -> None:
    proto = model([node("Add", "x u", "y")], [info("x"), info("u")])
    note(proto, "u", finn_datatype="INT4")
    graph = from_proto(proto)
    graph.inputs.pop().to_constant(np.ones((2, 3), FLOAT))
    returned = to_proto(graph)
    assert [i.name for i in returned.graph.input] == ["x"]
    assert [t.name for t in returned.graph.initializer] == ["u"]
    assert annotated(returned) == {"u"}


def test_a_weight_that_becomes_an_input() -> None:
    graph = from_proto(notes_everywhere())
    given = gs.Variable("w", FLOAT, (2, 3))
    graph.nodes[0].inputs[1] = given
    graph.inputs.append(given)
    returned = to_proto(graph)
    assert [i.name for i in returned.graph.input] == ["x", "w"]
    assert "w" not in {t.name for t in returned.graph.initializer}
    onnx.checker.check_model(returned, full_check=True)


def test_a_weight_that_a_node_makes() -> None:
    graph = from_proto(FEATURES["weights_that_are_inputs"]())
    made = gs.Variable("w", FLOAT, (2, 3))
    add = graph.nodes[0]
    graph.nodes.insert(0, gs.Node("Neg", "neg", inputs=[add.inputs[0]], outputs=[made]))
    add.inputs[1] = made
    returned = to_proto(graph)
    assert sorted(t.name for t in returned.graph.initializer) == ["u", "v"]
    assert [i.name for i in returned.graph.input] == ["x", "v", "u"]
    onnx.checker.check_model(returned, full_check=True)


def test_a_weight_that_is_dropped_is_no_input_either() -> None:
    graph = from_proto(FEATURES["weights_that_are_inputs_in_ir_3"]())
    graph.nodes[1].inputs[1] = graph.nodes[0].inputs[0]
    returned = to_proto(graph)
    assert [i.name for i in returned.graph.input] == ["w", "x", "u"]
    assert sorted(t.name for t in returned.graph.initializer) == ["u", "w"]
    onnx.checker.check_model(returned, full_check=True)


def test_what_is_said_of_a_dropped_weight_goes_too() -> None:
    expected = FEATURES["weights_with_value_info"]()
    graph = from_proto(expected)
    graph.nodes[1].inputs[1] = graph.nodes[0].inputs[1]
    expected.graph.node[1].input[1] = "w"
    del expected.graph.initializer[1], expected.graph.value_info[1]
    assert_same(to_proto(graph), expected)


def test_an_unused_weight_makes_way_for_a_tensor_of_its_name() -> None:
    expected = notes_everywhere()
    graph = from_proto(expected)
    made = gs.Variable("unused", FLOAT, (2, 3))
    graph.nodes.append(gs.Node("Neg", "neg", inputs=[graph.outputs[0]], outputs=[made]))
    del expected.graph.initializer[2]
    expected.graph.node.append(node("Neg", "y", "unused", name="neg"))
    expected.graph.value_info.append(info("unused"))
    assert_same(to_proto(graph), expected)


def test_one_of_two_sparse_weights_goes() -> None:
    entries = [sparse("w", [1, 5]), sparse("v", [[0, 1], [1, 2]])]
    nodes = [node("Add", "x w", "t"), node("Add", "t v", "y")]
    expected = model(nodes, sparse_initializer=entries)
    graph = from_proto(expected)
    graph.nodes[0].inputs[1] = graph.nodes[0].inputs[0]
    expected.graph.node[0].input[1] = "x"
    del expected.graph.sparse_initializer[0]
    assert_same(to_proto(graph), expected)


def test_a_sparse_weight_stays_when_its_neighbour_changes() -> None:
    expected = FEATURES["sparse_weight_tuple_indices"]()
    expected.graph.initializer.append(weight("v"))
    expected.graph.node.append(node("Mul", "y v", "z"))
    graph = from_proto(expected)
    graph.tensors()["v"].values = np.ones((2, 3), FLOAT)
    expected.graph.initializer[0].CopyFrom(from_array(np.ones((2, 3), FLOAT), "v"))
    assert_same(to_proto(graph), expected)


def test_an_edit_in_a_branch() -> None:
    expected = FEATURES["if_with_notes_inside"]()
    graph = from_proto(expected)
    inner = graph.nodes[0].attrs["then_branch"]
    inner.nodes[0].op = "Neg"
    inner.doc_string = "changed"
    (then,) = (a.g for a in expected.graph.node[0].attribute if a.name == "then_branch")
    then.node[0].op_type = "Neg"
    then.node[0].ClearField("doc_string")
    then.doc_string = "changed"
    assert_same(to_proto(graph), expected)


def test_a_branch_that_reads_another_tensor_of_the_outside() -> None:
    inner = branch([node("Add", "x w", "a")], "a")
    note(proto := conditional(inner, weights=[weight("w"), weight("v")]), "v", finn_datatype="INT4")
    graph = from_proto(proto)
    graph.nodes[0].attrs["then_branch"].nodes[0].inputs[1] = gs.Constant("v", np.ones(3, FLOAT))
    returned = to_proto(graph)
    (then,) = (a.g for a in returned.graph.node[0].attribute if a.name == "then_branch")
    assert then.node[0].input[:] == ["x", "v"]


def test_an_edit_in_a_function() -> None:
    expected = FEATURES["function_with_shapes_and_metadata"]()
    graph = from_proto(expected)
    graph.functions[0].nodes[1].name = "renamed"
    expected.functions[0].node[1].name = "renamed"
    assert_same(to_proto(graph), expected)


def test_another_operator_set() -> None:
    expected = FEATURES["foreign_domains"]()
    graph = from_proto(expected)
    for entry in graph.import_domains:
        if entry.domain == "ai.onnx.ml":
            entry.version = 3
    for entry in expected.opset_import:
        if entry.domain == "ai.onnx.ml":
            entry.version = 3
    assert_same(to_proto(graph), expected)


@pytest.mark.parametrize("version", [1, 2])
def test_an_import_that_graphsurgeon_made_up(version: int) -> None:
    """Only where somebody changed it does it stay."""
    expected = FEATURES["foreign_domain_without_import"]()
    graph = from_proto(expected)
    to_proto(graph)  # now it is among the imports of the Graph
    for entry in graph.import_domains:
        entry.version = 18 if entry.domain == "" else version
    expected.opset_import[0].version = 18
    if version != 1:
        expected.opset_import.add(domain="onnx.brevitas", version=version)
    assert_same(to_proto(graph), expected)


def test_folded_constants() -> None:
    """What graphsurgeon is used for most."""
    proto = model(
        [
            node("Constant", "", "k", value=weight("k")),
            node("Mul", "k w", "s", name="fold me"),
            node("Add", "x s", "t", name="keep me"),
            node("Relu", "t", "y"),
        ],
        weights=[weight("w")],
        value_info=[info("k"), info("s"), info("t")],
    )
    for name in "kwst":
        note(proto, name, finn_datatype="INT4")
    proto.graph.node[2].doc_string = "kept"
    graph = from_proto(proto)
    graph.fold_constants().cleanup()
    returned = to_proto(graph)
    assert [n.op_type for n in returned.graph.node] == ["Add", "Relu"]
    assert returned.graph.node[0].doc_string == "kept"
    (folded,) = returned.graph.initializer
    np.testing.assert_array_equal(to_array(folded), to_array(weight("w")) ** 2)
    assert annotated(returned) == {folded.name, "t"}
    x = np.ones((2, 3), FLOAT)
    np.testing.assert_array_equal(run(returned, {"x": x})[0], run(proto, {"x": x})[0])


def test_nodes_in_another_order() -> None:
    proto = model([node("Relu", "t", "y", name="second"), node("Neg", "x", "t", name="first")])
    for part in proto.graph.node:
        part.doc_string = f"the {part.name}"
    graph = from_proto(proto)
    graph.toposort()
    nodes = to_proto(graph).graph.node
    assert [(n.op_type, n.doc_string) for n in nodes] == [
        ("Neg", "the first"),
        ("Relu", "the second"),
    ]


# Graphs that were never a model, and errors ----------------------------------------------------


def fresh(opset: int = 17) -> gs.Graph:
    x, y = (gs.Variable(name, FLOAT, (2, 3)) for name in "xy")
    return gs.Graph([gs.Node("Relu", inputs=[x], outputs=[y])], [x], [y], opset=opset)


@pytest.mark.parametrize("opset", [9, 17, 25])
def test_a_graph_made_by_hand_gets_an_ir_version_that_fits(opset: int) -> None:
    written = to_proto(fresh(opset))
    onnx.checker.check_model(written, full_check=True)
    needed = helper.find_min_ir_version_for([helper.make_opsetid("", opset)])
    assert written.ir_version == max(FALLBACK_IR_VERSION, needed)
    assert written.opset_import[0].version == opset


def test_a_graph_made_by_hand_names_its_ir_version() -> None:
    graph = fresh()
    graph.ir_version = 8
    assert to_proto(graph).ir_version == 8


def test_a_model_that_graphsurgeon_cannot_read() -> None:
    proto = model([node("Relu", "x", "y")])
    proto.graph.input[0].type.tensor_type.elem_type = 99
    with pytest.raises(ModelError, match=r"^graphsurgeon cannot read this model \(.+\)\.$"):
        from_proto(proto)


def test_a_graph_that_graphsurgeon_cannot_write() -> None:
    graph = from_proto(model([node("Relu", "x", "y")]))
    graph.nodes[0].attrs["odd"] = object()
    with pytest.raises(ModelError, match=r"^graphsurgeon cannot write this graph \(.+\): mend it"):
        to_proto(graph)
    with pytest.raises(ModelError, match="cannot write this graph"):
        optimize(graph)


def test_without_graphsurgeon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx_graphsurgeon", None)
    with pytest.raises(GraphoptError, match=r"pip install 'graphopt\[graphsurgeon\]'\.$"):
        from_proto(model([node("Relu", "x", "y")]))


# Through the program ---------------------------------------------------------------------------


def test_optimize_gives_a_graph_that_computes_the_same() -> None:
    proto = residual_net(norm=True)
    output = proto.graph.output[0].name
    note(proto, output, finn_datatype="INT8")
    proto.graph.doc_string = "a net"
    graph = from_proto(proto)
    graph.name = "edited"
    outcome = optimize(graph, pipeline="fold-norm,reserve-merge{when=possible},dce")
    assert [one.fate for one in outcome.fates] == [Fate.REMOVED, Fate.REMOVED]

    returned = outcome.model.restore()
    assert isinstance(returned, gs.Graph)
    assert returned.name == "edited"
    assert "Add" not in {made.op for made in returned.nodes}
    written = to_proto(returned)
    assert annotated(written) == {output}
    assert written.graph.doc_string == "a net"
    x = np.random.default_rng(3).standard_normal((2, 3, 8, 8)).astype(FLOAT)
    (old,), (new,) = (run(p, {"x": x}) for p in (proto, written))
    np.testing.assert_allclose(new, old, rtol=1e-4, atol=1e-5)

    graph.name = "net"
    assert_same(to_proto(graph), proto)  # the caller's Graph is as it was


def test_an_edited_result_can_be_optimized_again() -> None:
    returned = optimize(from_proto(residual_net()), preset="plain").model.restore()
    last = returned.outputs[0]
    more = gs.Variable("more", last.dtype, last.shape)
    returned.nodes.append(gs.Node("Neg", "neg", inputs=[last], outputs=[more]))
    returned.outputs = [more]
    again = optimize(returned)
    assert [n.op_type for n in again.model.graph][-1] == "Neg"
    assert again.model.evidence.rewrites == Model.load(returned).evidence.rewrites != ()
