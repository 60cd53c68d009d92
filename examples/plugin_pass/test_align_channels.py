"""The tests of the example, as its author would write them: `pytest test_align_channels.py`."""

from itertools import pairwise

import numpy as np
import onnx
import pytest
from align_channels import HiddenChannels
from onnx import helper

from graphopt import Model, Pipeline
from graphopt.errors import PipelineError
from graphopt.ir import fingerprint
from graphopt.optimizer import optimize
from graphopt.verify.numeric import Status


def network(widths: tuple[int, ...] = (3, 10, 13, 4)) -> onnx.ModelProto:
    """3x3 convolutions of these widths with a Relu behind each; the last is the output."""
    rng = np.random.default_rng(0)
    nodes, weights, x = [], [], "x"
    for number, (k, m) in enumerate(pairwise(widths)):
        for name, shape in (("w", (m, k, 3, 3)), ("b", (m,))):
            array = rng.standard_normal(shape).astype(np.float32)
            weights.append(onnx.numpy_helper.from_array(array, f"{name}{number}"))
        inputs = [x, f"w{number}", f"b{number}"]
        output, x = f"c{number}", f"r{number}"
        nodes.append(helper.make_node("Conv", inputs, [output], f"conv{number}", pads=[1] * 4))
        nodes.append(helper.make_node("Relu", [output], [x], f"relu{number}"))
    image, output = tensor("x", ("N", widths[0], 8, 8)), tensor(x, ("N", widths[-1], 8, 8))
    graph = helper.make_graph(nodes, "net", [image], [output], weights)
    opset = helper.make_opsetid("", 17)
    return onnx.shape_inference.infer_shapes(
        helper.make_model(graph, opset_imports=[opset], ir_version=8)
    )


def tensor(name: str, shape: tuple) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)


def widths(model: Model) -> list[int]:
    convs = [node for node in model.graph if node.op_type == "Conv"]
    return [convs[0].inputs[1].shape[1], *(conv.inputs[1].shape[0] for conv in convs)]


def test_hidden_channels_are_aligned() -> None:
    outcome = optimize(network(), pipeline="align-channels")
    assert widths(outcome.model) == [3, 16, 16, 4]  # what comes in and out stays
    assert outcome.verification.status is Status.EQUAL
    assert outcome.records[0].claims_checked == 3  # a weight in the middle is widened both ways
    assert [r.region.name for r in outcome.model.evidence.rewrites] == ["conv0", "conv1"]
    assert [r.code for r in outcome.model.evidence.refusals] == ["channels-are-seen"]
    onnx.checker.check_model(outcome.model.to_proto(), full_check=True)


def test_twice_changes_nothing_more() -> None:
    pipeline = Pipeline.parse("align-channels{multiple=4}")
    model = Model.load(network())
    assert pipeline.run(model)[0].changed
    once = fingerprint(model)
    assert not pipeline.run(model)[0].changed
    assert fingerprint(model) == once


def test_the_preset_folds_norms_first() -> None:
    assert widths(optimize(network(), preset="aligned").model) == [3, 16, 16, 4]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda g: g.output.append(onnx.ValueInfoProto(name="r0")), "is an output of the model"),
        (lambda g: g.node.append(helper.make_node("Neg", ["r0"], ["z"])), "read more than once"),
        (lambda g: setattr(g.node[1], "op_type", "Softmax"), "relu0 (Softmax) reads them"),
        (lambda g: g.input.append(tensor("w0", (10, 3, 3, 3))), "weights that are not constants"),
    ],
)
def test_channels_that_are_seen_stay(change, why: str) -> None:
    proto = network((3, 10, 4))
    change(proto.graph)
    model = Model.load(proto)
    (record,) = Pipeline.parse("align-channels{multiple=2}").run(model)
    assert not record.changed
    (record,) = Pipeline.parse("align-channels{multiple=8}").run(model)
    assert not record.changed
    assert why in record.refusals[0].reason


def test_the_analysis_outlives_the_pass() -> None:
    model = Model.load(network())
    found = model.analyses.get(HiddenChannels())
    Pipeline.parse("align-channels").run(model)
    assert model.analyses.get(HiddenChannels()) is found


def test_a_wrong_option_is_one_sentence() -> None:
    with pytest.raises(PipelineError, match="multiple=0 is not positive"):
        Pipeline.parse("align-channels{multiple=0}")
