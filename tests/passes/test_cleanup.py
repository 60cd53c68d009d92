"""Frozen weights, folded constants, dead code."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper as oh

from graphopt.ir import Model
from graphopt.optimizer import optimize
from graphopt.verify.numeric import Status
from tests.support.blocks import Net, basic_block


def _weights_as_inputs(model: onnx.ModelProto, ir_version: int) -> onnx.ModelProto:
    model.ir_version = ir_version
    for tensor in model.graph.initializer:
        model.graph.input.append(
            oh.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        )
    return model


def test_weights_that_are_inputs_become_constants() -> None:
    model = _weights_as_inputs(basic_block(norm=True), 6)
    outcome = optimize(model, preset="plain")
    assert [v.name for v in outcome.model.graph.inputs] == ["x"]
    assert outcome.fates[0].fate.value == "removed"
    assert outcome.verification is not None
    assert outcome.verification.status is Status.EQUAL
    (rewrite,) = outcome.records[0].rewrites
    assert "can no longer override" in rewrite.facts[0]


def test_without_freezing_overridable_weights_are_not_folded() -> None:
    model = _weights_as_inputs(basic_block(norm=True), 6)
    outcome = optimize(model, pipeline="fold-norm,reserve-merge{when=possible}")
    assert not outcome.changed
    assert {r.code for r in outcome.records[0].refusals} == {"runtime-weights"}


def test_ir_version_3_keeps_listing_weights_as_inputs() -> None:
    model = _weights_as_inputs(basic_block(norm=True), 3)
    outcome = optimize(model, preset="plain")
    proto = outcome.model.to_proto()
    onnx.checker.check_model(proto)
    assert proto.ir_version == 3
    assert {t.name for t in proto.graph.initializer} <= {i.name for i in proto.graph.input}
    assert outcome.fates[0].fate.value == "removed"


def test_folding_keeps_annotations_names_and_output_shapes() -> None:
    net = Net()
    two = net.op("Add", net.const(np.ones(4)), net.const(np.ones(4)))
    y = net.op("Mul", "x", two)
    model = net.model(y, ("N", 4))
    model.graph.node[1].name = ""
    note = model.graph.quantization_annotation.add(tensor_name=two)
    note.quant_parameter_tensor_names.add(key="finn_datatype", value="INT4")
    outcome = optimize(model, pipeline="fold-constants")
    proto = outcome.model.to_proto()
    assert [n.op_type for n in proto.graph.node] == ["Mul"]
    assert proto.graph.node[0].name == ""
    assert [a.tensor_name for a in proto.graph.quantization_annotation] == [two]
    assert [
        d.dim_param or d.dim_value for d in proto.graph.output[0].type.tensor_type.shape.dim
    ] == ["N", 4]


def test_dead_code_goes() -> None:
    net = Net()
    net.conv("x", 3, 4, 1)
    outcome = optimize(net.model(net.act("x", "Relu"), (1, 3, 4, 4)), pipeline="dce")
    assert [n.op_type for n in outcome.model.graph] == ["Relu"]
    assert not outcome.model.graph.initializers
    assert outcome.records[0].statistics == {"nodes removed": 1, "weights removed": 2}


def test_clean_model_is_left_alone() -> None:
    net = Net()
    model = Model.load(net.model(net.conv("x", 3, 4, 1), (1, 3, 4, 4)))
    outcome = optimize(model, preset="clean")
    assert not outcome.changed
    assert outcome.verification is not None
    assert outcome.verification.status is Status.UNCHANGED
