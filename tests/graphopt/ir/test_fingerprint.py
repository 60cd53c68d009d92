"""What counts as the same model, and what does not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import pytest
from onnx import TensorProto, helper
from onnx.numpy_helper import from_array

from graphopt.ir import Model, fingerprint
from graphopt.ir.fingerprint import essence, tensor_hash
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
from tests.support.models import plain_model, residual_net

F = np.float32
Edit = Callable[[onnx.ModelProto], object]


def of(proto: onnx.ModelProto) -> str:
    return fingerprint(Model.load(proto))


def example() -> onnx.ModelProto:
    """Nodes, weights, a default, a branch that reads all of them, and a function."""
    inner = branch([node("Add", "t w", "p"), node("Mul", "p own", "a")], "a")
    inner.initializer.append(weight("own"))
    proto = conditional(inner, weights=[weight("w"), weight("d"), weight("unused")])
    graph = proto.graph
    graph.input.append(info("d"))
    graph.node.insert(0, node("Sub", "x w", "s", name="sub"))
    graph.node.insert(1, node("LeakyRelu", "s", "t", name="leaky", alpha=0.5))
    body = [node("Elu", "q", "e"), node("Sub", "e q", "r")]
    body[0].attribute.add(name="alpha", ref_attr_name="alpha", type=onnx.AttributeProto.FLOAT)
    function = helper.make_function(
        "local", "F", ["q"], ["r"], body, [helper.make_opsetid("", 17)],
        attribute_protos=[helper.make_attribute(name, 0.5) for name in ("alpha", "beta")],
    )  # fmt: skip
    proto.functions.append(function)
    proto.opset_import.append(helper.make_opsetid("local", 1))
    graph.node.append(node("F", "y", "z", domain="local"))
    graph.node.append(node("Dropout", "d", "u mask"))
    graph.output.extend([info("z"), info("u")])
    graph.value_info.append(info("t"))
    return proto


def then(proto: onnx.ModelProto) -> onnx.GraphProto:
    (found,) = (n for n in proto.graph.node if n.op_type == "If")
    return next(a.g for a in found.attribute if a.name == "then_branch")


# What does not count ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", FEATURES)
def test_a_model_and_its_copies_are_the_same(name: str, tmp_path: Path) -> None:
    loaded = Model.load(FEATURES[name]())
    known = fingerprint(loaded)
    assert len(known) == 64
    assert fingerprint(loaded.clone()) == known
    assert of(FEATURES[name]()) == known
    assert of(loaded.to_proto()) == known
    assert essence(loaded) == essence(loaded.clone())


@pytest.mark.parametrize("kind", [n.removesuffix("_raw") for n in FEATURES if n.endswith("_raw")])
def test_how_numbers_are_stored_does_not_count(kind: str) -> None:
    assert of(FEATURES[f"{kind}_raw"]()) == of(FEATURES[f"{kind}_typed"]())


def rename(proto: onnx.ModelProto) -> None:
    """New names for everything inside, weights included."""
    new = {"s": "s2", "t": "t2", "w": "w2", "p": "p2", "own": "own2", "a": "a2", "mask": "m2"}
    for number, part in enumerate((*proto.graph.node, *then(proto).node)):
        part.name = f"node {number}"
        part.input[:] = [new.get(name, name) for name in part.input]
        part.output[:] = [new.get(name, name) for name in part.output]
    tensors = (*proto.graph.initializer, *proto.graph.value_info)
    for named in (*tensors, *then(proto).initializer, *then(proto).output):
        named.name = new.get(named.name, named.name)


def comment(proto: onnx.ModelProto) -> None:
    proto.producer_name, proto.doc_string, proto.graph.doc_string = "me", "text", "text"
    proto.model_version = 3
    properties(proto, key="value")
    properties(proto.graph.node[0], key="value")
    note(proto, "t", finn_datatype="INT4")
    proto.graph.name = "other"
    for part in (*proto.graph.node, *proto.graph.initializer, *then(proto).node):
        part.doc_string = "text"


def reorder_weights(proto: onnx.ModelProto) -> None:
    weights = list(proto.graph.initializer)[::-1]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(weights)


def reorder_attributes(proto: onnx.ModelProto) -> None:
    attributes = list(proto.graph.node[2].attribute)[::-1]
    del proto.graph.node[2].attribute[:]
    proto.graph.node[2].attribute.extend(attributes)


def reorder_imports(proto: onnx.ModelProto) -> None:
    imports = list(proto.opset_import)[::-1]
    del proto.opset_import[:]
    proto.opset_import.extend(imports)


SAME: dict[str, Edit] = {
    "names": rename,
    "comments": comment,
    "order of weights": reorder_weights,
    "order of attributes": reorder_attributes,
    "order of imports": reorder_imports,
    "inferred shapes": lambda p: p.graph.value_info.pop(),
    "unused weights": lambda p: p.graph.initializer.pop(),
    "values of unused weights": lambda p: p.graph.initializer[2].CopyFrom(weight("unused", [7])),
    "the IR version": lambda p: setattr(p, "ir_version", 9),
}


@pytest.mark.parametrize("edit", SAME.values(), ids=SAME)
def test_what_does_not_count(edit: Edit) -> None:
    changed = example()
    edit(changed)
    assert changed != example()
    assert of(changed) == of(example())
    assert essence(Model.load(changed)) == essence(Model.load(example()))


# What counts -----------------------------------------------------------------------------------


def shifted(tensor: TensorProto) -> None:
    array = onnx.numpy_helper.to_array(tensor).copy()
    array.reshape(-1)[-1] += 2**-20
    tensor.CopyFrom(from_array(array, tensor.name))


def swap(part: onnx.NodeProto) -> None:
    part.input[:] = list(part.input)[::-1]


DIFFERENT: dict[str, Edit] = {
    "an operator": lambda p: setattr(p.graph.node[1], "op_type", "ThresholdedRelu"),
    "a domain": lambda p: setattr(p.graph.node[1], "domain", "local"),
    "an attribute": lambda p: setattr(p.graph.node[1].attribute[0], "f", 0.25),
    "no attribute": lambda p: p.graph.node[1].attribute.pop(),
    "the wiring": lambda p: swap(p.graph.node[0]),
    "a weight": lambda p: shifted(p.graph.initializer[0]),
    "a weight's shape": lambda p: p.graph.initializer[0].dims.__setitem__(slice(None), [1, 6]),
    "a weight's type": lambda p: setattr(p.graph.initializer[0], "data_type", TensorProto.INT32),
    "a default": lambda p: shifted(p.graph.initializer[1]),
    "no default": lambda p: p.graph.initializer.remove(p.graph.initializer[1]),
    "an input less": lambda p: p.graph.input.pop(),
    "an input's name": lambda p: (
        setattr(p.graph.input[2], "name", "other"),
        setattr(p.graph.initializer[1], "name", "other"),
        p.graph.node[-1].input.__setitem__(0, "other"),
    ),
    "an input's shape": lambda p: p.graph.input[0].CopyFrom(info("x", shape=("N", 3))),
    "an input's type": lambda p: p.graph.input[0].CopyFrom(info("x", TensorProto.FLOAT16)),
    "the order of inputs": lambda p: p.graph.input.insert(0, p.graph.input.pop()),
    "an output less": lambda p: p.graph.output.pop(),
    "the order of outputs": lambda p: p.graph.output.insert(0, p.graph.output.pop()),
    "another output": lambda p: p.graph.output[2].CopyFrom(info("t")),
    "an output's name": lambda p: (
        setattr(p.graph.output[1], "name", "other"),
        p.graph.node[3].output.__setitem__(0, "other"),
    ),
    "an optional output less": lambda p: p.graph.node[-1].output.pop(),
    "an opset": lambda p: setattr(p.opset_import[0], "version", 16),
    "the order of nodes": lambda p: p.graph.node.insert(0, p.graph.node.pop()),
    "a weight in a branch": lambda p: shifted(then(p).initializer[0]),
    "an operator in a branch": lambda p: setattr(then(p).node[1], "op_type", "Div"),
    "what a branch reads": lambda p: then(p).node[0].input.__setitem__(0, "x"),
    "which weight a branch reads": lambda p: then(p).node[0].input.__setitem__(1, "own"),
    "which branch": lambda p: [
        setattr(a, "name", {"then_branch": "else_branch"}.get(a.name, "then_branch"))
        for a in next(n for n in p.graph.node if n.op_type == "If").attribute
    ],
    "a function's body": lambda p: swap(p.functions[0].node[1]),
    "a function's opset": lambda p: setattr(p.functions[0].opset_import[0], "version", 16),
    "a function's default": lambda p: setattr(p.functions[0].attribute_proto[0], "f", 0.25),
    "an attribute's source": lambda p: setattr(
        p.functions[0].node[0].attribute[0], "ref_attr_name", "beta"
    ),
    "an attribute's value for its source": lambda p: (
        p.functions[0].node[0].attribute[0].CopyFrom(helper.make_attribute("alpha", 0.5))
    ),
}


NOT_ESSENTIAL = (
    "an input less",
    "an input's name",
    "the order of inputs",
    "an optional output less",
)
"""The essence takes a weight that is an input for a weight, and drops outputs that are not read."""


@pytest.mark.parametrize("edit", DIFFERENT.values(), ids=DIFFERENT)
def test_what_counts(edit: Edit) -> None:
    changed = example()
    edit(changed)
    if edit is DIFFERENT["which weight a branch reads"]:
        shifted(then(changed).initializer[0])  # else the two hold the same numbers
    assert of(changed) != of(example())
    same = essence(Model.load(changed)) == essence(Model.load(example()))
    assert same is any(edit is DIFFERENT[name] for name in NOT_ESSENTIAL)


def test_no_two_of_those_are_the_same() -> None:
    seen = set()
    for edit in DIFFERENT.values():
        changed = example()
        edit(changed)
        seen.add(of(changed))
    assert len(seen) >= len(DIFFERENT) - 1  # the shared weight above


@pytest.mark.parametrize("make", ["sparse_constant", "sparse_weight_flat_indices"])
def test_sparse_numbers_count(make: str) -> None:
    one, other = FEATURES[make](), FEATURES[make]()
    entries = sparse("w" if other.graph.sparse_initializer else "s", [1, 5], [1.5, -3.0])
    if other.graph.sparse_initializer:
        other.graph.sparse_initializer[0].CopyFrom(entries)
    else:
        other.graph.node[0].attribute[0].sparse_tensor.CopyFrom(entries)
    assert of(one) != of(other)


def test_attributes_of_every_kind_count() -> None:
    base = FEATURES["attributes_of_every_kind"]()
    seen = {of(base)}
    for index in range(len(base.graph.node[0].attribute)):
        changed = FEATURES["attributes_of_every_kind"]()
        del changed.graph.node[0].attribute[index]
        seen.add(of(changed))
    for index, edit in (
        ("ints", lambda a: a.ints.append(0)),
        ("floats", lambda a: a.floats.append(0)),
        ("strings", lambda a: a.strings.append(b"")),
        ("tensors", lambda a: shifted(a.tensors[0])),
        ("t", lambda a: shifted(a.t)),
        ("s", lambda a: setattr(a, "s", b"texu")),
        ("f", lambda a: setattr(a, "f", float(np.nextafter(F(0.1), F(1))))),
    ):
        changed = FEATURES["attributes_of_every_kind"]()
        edit(next(a for a in changed.graph.node[0].attribute if a.name == index))
        seen.add(of(changed))
    assert len(seen) == 1 + len(base.graph.node[0].attribute) + 7


def test_lists_of_graphs_count() -> None:
    one, other = FEATURES["list_of_subgraphs"](), FEATURES["list_of_subgraphs"]()
    other.graph.node[0].attribute[0].graphs[1].node[0].op_type = "Abs"
    assert of(one) != of(other)


# Tensors ---------------------------------------------------------------------------------------


def test_a_weight_in_a_file_is_the_weight(tmp_path: Path) -> None:
    """Also where the file holds more than the weight, and for half a byte per number."""
    for array in (
        np.random.default_rng(0).standard_normal((70, 50)).astype(F),
        np.arange(5).astype(onnx_ir.DataType.INT4.numpy()),
        np.zeros((0, 3), F),
    ):
        dense = onnx_ir.tensor(array)
        (tmp_path / "w.bin").write_bytes(b"before" + dense.tobytes() + b"after")
        outside = onnx_ir.ExternalTensor(
            "w.bin", 6, dense.nbytes, dense.dtype, shape=dense.shape, name="w", base_dir=tmp_path
        )
        assert tensor_hash(outside) == tensor_hash(dense)


def test_type_and_shape_of_a_tensor_count() -> None:
    zeros = [
        np.zeros(6, F),
        np.zeros((2, 3), F),
        np.zeros((3, 2), F),
        np.zeros(6, np.int32),
        np.zeros(12, np.float16),
        np.full(6, -0.0, F),
    ]
    assert len({tensor_hash(onnx_ir.tensor(array)) for array in zeros}) == len(zeros)


def test_text() -> None:
    texts = [["ab", "c"], ["a", "bc"], ["abc", ""], ["", "abc"], ["ü", "c"], ["ab\0", "c"]]
    tensors = [
        onnx_ir.from_proto(
            TensorProto(dims=[2], data_type=TensorProto.STRING, string_data=[t.encode() for t in x])
        )
        for x in texts
    ]
    assert len({tensor_hash(tensor) for tensor in tensors}) == len(texts)
    array = np.array([b"ab", b"c"])
    same = onnx_ir.tensor(array), onnx_ir.Tensor(array, dtype=onnx_ir.DataType.STRING)
    assert {tensor_hash(tensor) for tensor in same} == {tensor_hash(tensors[0])}


# The essence -----------------------------------------------------------------------------------


def scaled(weight_of_two: np.ndarray) -> onnx.ModelProto:
    return model([node("Mul", "x v", "y")], weights=[from_array(weight_of_two, "v")])


def test_the_essence_of_evaluated_constants() -> None:
    """A chain of constants, and the weight that it amounts to."""
    chained = model(
        [
            node("Constant", "", "k", value=weight("k")),
            node("Add", "k w", "s"),
            node("Transpose", "s", "t"),
            node("Mul", "x t", "y"),
        ],
        weights=[weight("w", (2, 3))],
    )
    array = 2 * onnx.numpy_helper.to_array(weight("w")).T
    assert of(chained) != of(scaled(array))
    loaded = Model.load(chained)
    before = fingerprint(loaded)
    assert essence(loaded) == essence(Model.load(scaled(array)))
    assert essence(loaded) != essence(Model.load(scaled(array * F(1 + 2**-20))))
    assert fingerprint(loaded) == before  # it works on a copy


def test_the_essence_of_dead_code() -> None:
    lean = model([node("Relu", "x", "y")])
    fat = model(
        [node("Neg", "x", "dead"), node("Add", "dead w", "deader"), node("Relu", "x", "y")],
        weights=[weight("w")],
    )
    assert of(lean) != of(fat)
    assert essence(Model.load(lean)) == essence(Model.load(fat))


def test_the_essence_of_frozen_weights() -> None:
    free = model([node("Add", "x w", "y")], [info("x"), info("w")], weights=[weight("w")])
    frozen = model([node("Add", "x w", "y")], weights=[weight("w")])
    assert of(free) != of(frozen)
    assert essence(Model.load(free)) == essence(Model.load(frozen))
    asked = model([node("Add", "x w", "y")], [info("x"), info("w")])
    assert essence(Model.load(asked)) != essence(Model.load(frozen))


def test_a_constant_that_is_an_output_stays_what_it_is() -> None:
    made = [node("Constant", "", "k", value=weight("k")), node("Add", "x k", "y")]
    proto = model(made, outputs=[info("y"), info("k")])
    one, other = Model.load(proto), model(made, outputs=[info("y"), info("k")])
    shifted(other.graph.node[0].attribute[0].t)
    assert essence(one) == essence(one.clone())
    assert essence(one) != essence(Model.load(other))


@pytest.mark.parametrize(
    "made",
    [
        node("Constant", "", "k", value_strings=["a", "b"]),
        node("Constant", "", "k", value_string="a"),
        node("Cast", "w", "k", to=TensorProto.STRING),
    ],
)
def test_the_essence_of_text(made: onnx.NodeProto) -> None:
    nodes = [made, node("Equal", "k k", "q"), node("Cast", "q", "y", to=1)]
    proto = plain_model(nodes, {"x": (F, (2,))}, ["y"], {"w": np.arange(2, dtype=F)})
    assert essence(Model.load(proto)) == essence(Model.load(proto))
    changed = onnx.ModelProto()
    changed.CopyFrom(proto)
    changed.graph.node[0].CopyFrom(node("Constant", "", "k", value_strings=["a", "c"]))
    assert essence(Model.load(changed)) != essence(Model.load(proto))


def test_a_real_structure_has_an_essence_of_its_own() -> None:
    nets = [residual_net(seed=seed, norm=norm) for seed in (0, 1) for norm in (False, True)]
    assert len({essence(Model.load(net)) for net in nets}) == len(nets)
