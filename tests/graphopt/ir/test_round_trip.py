"""Loading and writing: nothing is lost. `tests.support.same` says what counts as the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import pytest
from onnx import TensorProto, helper
from onnx.numpy_helper import from_array, to_array

from graphopt.errors import ModelError
from graphopt.evidence import METADATA_KEY
from graphopt.interop import from_proto
from graphopt.ir import Model, save
from tests.support.features import FEATURES, branch, conditional, info, model, node, note, weight
from tests.support.same import assert_same, differences

every_feature = pytest.mark.parametrize("make", FEATURES.values(), ids=FEATURES)


@every_feature
def test_every_feature(make: Callable[[], onnx.ModelProto], tmp_path: Path) -> None:
    given = make()
    assert_same(Model.load(given).to_proto(), make())
    assert given == make(), "the caller's protobuf was changed"

    data = make().SerializeToString()
    returned = Model.load(data).restore()
    assert isinstance(returned, bytes)
    assert_same(onnx.load_from_string(returned), make())

    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    loaded = Model.load(path)
    assert_same(loaded.restore(), make())
    assert_same(onnx.load(save(loaded, tmp_path / "copy.onnx"), load_external_data=False), make())


@every_feature
def test_every_feature_through_a_clone(make: Callable[[], onnx.ModelProto]) -> None:
    loaded = Model.load(make())
    copy = loaded.clone()
    for node_of_copy in copy.graph:
        node_of_copy.name = "renamed"
    assert_same(loaded.clone().clone().to_proto(), make())
    assert_same(loaded.to_proto(), make())


@every_feature
def test_every_feature_through_other_libraries(make: Callable[[], onnx.ModelProto]) -> None:
    for kind in ("graphsurgeon", "qonnx"):
        loaded = Model.load(from_proto(make(), kind))
        assert loaded.origin.kind == kind
        assert_same(loaded.to_proto(), make())
        again = Model.load(loaded.restore())
        assert again.origin.kind == kind
        assert_same(again.to_proto(), make())


@every_feature
def test_every_feature_twice(make: Callable[[], onnx.ModelProto]) -> None:
    once = Model.load(make()).to_proto().SerializeToString(deterministic=True)
    twice = Model.load(once).to_proto().SerializeToString(deterministic=True)
    assert once == twice


def test_kinds_that_come_back() -> None:
    proto = FEATURES["quantization_annotations"]()
    assert isinstance(Model.load(proto).restore(), onnx.ModelProto)
    assert isinstance(Model.load(bytearray(proto.SerializeToString())).restore(), bytes)
    assert type(Model.load(from_proto(proto, "qonnx")).restore()).__name__ == "ModelWrapper"
    assert type(Model.load(from_proto(proto, "graphsurgeon")).restore()).__name__ == "Graph"


def test_onnx_ir_model_comes_back() -> None:
    given = onnx_ir.from_proto(FEATURES["metadata_everywhere"]())
    returned = Model.load(given).restore()
    assert isinstance(returned, onnx_ir.Model)
    assert returned is not given
    assert METADATA_KEY not in returned.metadata_props
    assert returned.metadata_props == given.metadata_props
    assert not differences(onnx_ir.to_proto(returned), onnx_ir.to_proto(given))


def test_onnx_ir_model_keeps_what_is_said_of_a_weight() -> None:
    given = onnx_ir.from_proto(model([node("Add", "x w", "y")], weights=[weight("w")]))
    given.graph.initializers["w"].metadata_props["layer"] = "first"
    (entry,) = Model.load(given).to_proto().graph.value_info
    assert (entry.name, entry.metadata_props[0].value) == ("w", "first")


def test_unknown_kind_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="give a path, bytes"):
        Model.load(42)


@pytest.mark.parametrize("version", range(3, 14))
def test_versions_stay(version: int) -> None:
    given = FEATURES[f"ir_version_{version}"]()
    assert Model.load(given).to_proto().ir_version == version
    for domain in ("", "ai.onnx.ml"):
        opsets = FEATURES["opset_11"]().opset_import
        kept = Model.load(FEATURES["opset_11"]()).to_proto().opset_import
        assert {o.version for o in kept if o.domain == domain} == {
            o.version for o in opsets if o.domain == domain
        }


def test_weights_come_back_bit_by_bit() -> None:
    """What `assert_same` may normalise (the field that holds the numbers) stays too."""
    for name, make in FEATURES.items():
        if name.startswith("weights_"):
            before, after = make(), Model.load(make()).to_proto()
            assert before.graph.initializer == after.graph.initializer, name


# External data ------------------------------------------------------------------------------


def external_model(folder: Path) -> tuple[Path, dict[str, np.ndarray]]:
    """Three weights in one file, at offsets, out of order, with a gap; one in a subfolder; one in
    an attribute."""
    arrays = {
        name: np.random.default_rng(number).standard_normal(shape).astype(np.float32)
        for number, (name, shape) in enumerate(
            {"a": (2, 3), "b": (3,), "c": (1, 3), "d": (2, 1), "e": (3,)}.items()
        )
    }
    order = [("b", 0), ("c", 100), ("a", 4096)]
    blob = bytearray(5000)
    for name, offset in order:
        blob[offset : offset + arrays[name].nbytes] = arrays[name].tobytes()
    (folder / "deep").mkdir()
    (folder / "weights.bin").write_bytes(bytes(blob))
    (folder / "deep" / "d.bin").write_bytes(arrays["d"].tobytes())
    (folder / "e.bin").write_bytes(arrays["e"].tobytes())

    def outside(name: str, location: str, **entries: int | str) -> TensorProto:
        tensor = TensorProto(name=name, dims=arrays[name].shape, data_type=TensorProto.FLOAT)
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in {"location": location, **entries}.items():
            tensor.external_data.add(key=key, value=str(value))
        return tensor

    weights = [
        outside("a", "weights.bin", offset=4096, length=24, checksum="abc"),
        outside("b", "weights.bin", offset=0, length=12),
        outside("c", "weights.bin", offset=100),
        outside("d", "deep/d.bin"),
    ]
    weights[1].doc_string = "the second"
    nodes = [node("Constant", "", "k", value=outside("e", "e.bin"))]
    nodes += [node("Add", f"{r} {w}", m) for r, w, m in zip("xpqrs", "abcdk", "pqrsy", strict=True)]
    path = folder / "external.onnx"
    path.write_bytes(model(nodes, weights=weights).SerializeToString())
    return path, arrays


def test_external_data_entries_stay(tmp_path: Path) -> None:
    path, arrays = external_model(tmp_path)
    loaded = Model.load(path)
    assert_same(loaded.to_proto(), onnx.load(path, load_external_data=False))
    for name in "abcd":
        tensor = loaded.graph.initializers[name].const_value
        assert tensor is not None
        np.testing.assert_array_equal(tensor.numpy(), arrays[name])
    constant = loaded.graph[0].attributes.get_tensor("value")
    assert constant is not None
    np.testing.assert_array_equal(constant.numpy(), arrays["e"])


@pytest.mark.parametrize("external", [None, True, False])
def test_external_data_moves_along(tmp_path: Path, external: bool | None) -> None:
    source = tmp_path / "in"
    source.mkdir()
    path, arrays = external_model(source)
    saved = save(Model.load(path), tmp_path / "out" / "model.onnx", external=external)
    for file in source.iterdir():
        if file.is_file():
            file.unlink()
    proto = onnx.load(saved)
    held = {tensor.name: to_array(tensor) for tensor in proto.graph.initializer}
    held["e"] = to_array(proto.graph.node[0].attribute[0].t)
    for name, array in arrays.items():
        np.testing.assert_array_equal(held[name], array)
    assert proto.graph.initializer[1].doc_string == "the second"


def test_external_data_in_a_branch_and_a_function(tmp_path: Path) -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    (tmp_path / "w.bin").write_bytes(array.tobytes())
    tensor = TensorProto(name="w", dims=(2, 3), data_type=TensorProto.FLOAT)
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="w.bin")
    proto = conditional(branch([node("Add", "x w", "a")], "a", initializer=[tensor]))
    body = [node("Constant", "", "k", value=tensor), node("Add", "p k", "q")]
    function = helper.make_function("local", "F", ["p"], ["q"], body, [helper.make_opsetid("", 17)])
    proto.functions.append(function)
    proto.opset_import.append(helper.make_opsetid("local", 1))
    proto.graph.node.append(helper.make_node("F", ["y"], ["z"], domain="local"))
    proto.graph.output.append(info("z"))
    path = tmp_path / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    loaded = Model.load(path)
    assert_same(loaded.to_proto(), proto)
    saved = onnx.load(save(loaded, tmp_path / "out" / "copy.onnx"))
    branches = {attribute.name: attribute.g for attribute in saved.graph.node[0].attribute}
    (inner,) = branches["then_branch"].initializer
    np.testing.assert_array_equal(to_array(inner), array)
    np.testing.assert_array_equal(to_array(saved.functions[0].node[0].attribute[0].t), array)


# What a pass changes is written; what it leaves comes back --------------------------------------


def test_changed_sparse_weight_is_written_dense() -> None:
    loaded = Model.load(FEATURES["sparse_weight_flat_indices"]())
    loaded.graph.initializers["w"].const_value = onnx_ir.tensor(np.ones((2, 3), np.float32))
    proto = loaded.to_proto()
    assert not proto.graph.sparse_initializer
    np.testing.assert_array_equal(to_array(proto.graph.initializer[0]), np.ones((2, 3)))


def test_weight_made_by_a_pass_is_listed_in_ir_3() -> None:
    loaded = Model.load(FEATURES["weights_that_are_inputs_in_ir_3"]())
    made = onnx_ir.Value(name="new", const_value=onnx_ir.tensor(np.ones(3, np.float32), name="new"))
    loaded.graph.register_initializer(made)
    loaded.graph.remove(loaded.graph[-1], safe=False)
    del loaded.graph.initializers["v"]
    assert [i.name for i in loaded.to_proto().graph.input] == ["w", "x", "u", "new"]


def test_input_that_a_pass_reshapes_keeps_its_new_shape() -> None:
    loaded = Model.load(FEATURES["input_that_is_output"]())
    for value in loaded.graph.inputs:
        value.shape = onnx_ir.Shape([7, 7])
    proto = loaded.to_proto()
    sizes = {
        [dim.dim_value for dim in entry.type.tensor_type.shape.dim] == [7, 7]
        for entry in proto.graph.input
    }
    assert sizes == {True}


def test_attribute_without_type_gets_the_one_it_shows() -> None:
    proto = model([node("LeakyRelu", "x", "y", alpha=0.5)])
    proto.graph.node[0].attribute[0].ClearField("type")
    written = Model.load(proto).to_proto()
    assert_same(written, model([node("LeakyRelu", "x", "y", alpha=0.5)]))


def test_annotation_of_a_renamed_tensor_follows() -> None:
    proto = model([node("Relu", "x", "t"), node("Relu", "t", "y")])
    note(proto, "t", finn_datatype="INT4")
    loaded = Model.load(proto)
    loaded.graph[0].outputs[0].name = "better"
    (annotation,) = loaded.to_proto().graph.quantization_annotation
    assert annotation.tensor_name == "better"


def test_sorted_model_says_so() -> None:
    nodes = [node("Relu", "t", "y"), node("Neg", "x", "t")]
    loaded = Model.load(model(nodes))
    assert not loaded.was_sorted
    assert [n.op_type for n in loaded.graph] == ["Neg", "Relu"]
    assert_same(loaded.to_proto(), model(nodes[::-1]))
    assert loaded.clone().was_sorted is False


def test_unsorted_bodies_are_sorted() -> None:
    """A branch that reads what comes after its If, a body and a function out of order."""
    inner = branch([node("Relu", "t", "a"), node("Add", "x late", "t")], "a")
    proto = conditional(inner)
    proto.graph.node.append(node("Abs", "x", "late"))
    body = [node("Neg", "t", "q"), node("Relu", "p", "t")]
    proto.functions.append(
        helper.make_function("local", "F", ["p"], ["q"], body, [helper.make_opsetid("", 17)])
    )
    loaded = Model.load(proto)
    assert not loaded.was_sorted
    onnx.checker.check_model(loaded.clone().to_proto())


def test_unsorted_onnx_ir_model_is_left_to_its_owner() -> None:
    given = onnx_ir.from_proto(model([node("Relu", "t", "y"), node("Neg", "x", "t")]))
    with pytest.raises(ModelError, match=r"graph\.sort\(\)"):
        Model.load(given)
    assert [n.op_type for n in given.graph] == ["Relu", "Neg"]


# Real models --------------------------------------------------------------------------------


@pytest.mark.real_models
def test_real_models(shared: Path, tmp_path: Path) -> None:
    refused = {"no_opset_import_super_resolution", "zigzag_resnet18_external_data_missing"}
    seen = 0
    for path in sorted((shared / "data" / "models").rglob("*.onnx")):
        if path.stem in refused:
            continue
        original = onnx.load(path)
        loaded = Model.load(path)
        written = loaded.clone().to_proto()
        if loaded.was_sorted:
            assert not differences(written, original), path
        else:
            assert path.stem == "not_topologically_sorted_onnxmltools"
            onnx.checker.check_model(written)
        assert written.ir_version == original.ir_version
        assert not differences(onnx.load(save(loaded, tmp_path / "copy.onnx")), written)
        seen += 1
    assert seen >= 40


@pytest.mark.real_models
@pytest.mark.parametrize("kind", ["graphsurgeon", "qonnx"])
def test_real_models_through_other_libraries(shared: Path, kind: str) -> None:
    models = sorted((shared / "data" / "models" / "qonnx_finn").glob("*.onnx"))
    models += sorted((shared / "data" / "models" / "imagenet").glob("light_*.onnx"))
    assert models
    for path in models:
        returned = Model.load(from_proto(onnx.load(path), kind)).restore()
        assert not differences(Model.load(returned).to_proto(), onnx.load(path)), path


def test_comparison_sees_what_is_lost() -> None:
    """The comparison itself: each of these edits must show."""
    base = FEATURES["metadata_everywhere"]
    edits: list[Callable[[onnx.ModelProto], object]] = [
        lambda p: p.graph.node.pop(),
        lambda p: p.graph.metadata_props.pop(),
        lambda p: p.graph.initializer[0].metadata_props.pop(),
        lambda p: p.graph.value_info.pop(),
        lambda p: p.graph.node[0].ClearField("name"),
        lambda p: p.graph.initializer[0].CopyFrom(from_array(np.zeros((2, 3), np.float32), "w")),
        lambda p: p.graph.input[0].type.tensor_type.shape.dim[0].ClearField("dim_value"),
        lambda p: p.graph.input[0].type.tensor_type.ClearField("shape"),
        lambda p: p.opset_import.add(domain="other", version=1),
        lambda p: setattr(p, "ir_version", 9),
    ]
    for edit in edits:
        changed = base()
        edit(changed)
        assert differences(changed, base())
