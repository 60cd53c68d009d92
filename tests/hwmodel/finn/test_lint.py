"""finn-lint finds each trap on a model made to have it, and mends what can be mended exactly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from graphopt import optimize
from graphopt.cli.main import main
from graphopt.ir import Model
from graphopt.verify.numeric import Status
from hwmodel.finn.lint import Finding, FinnLint, findings
from hwmodel.finn.package import annotated, single
from tests.support.benchmarks import benchmark

blocks = benchmark("quantized_blocks")
X = np.random.default_rng(3).normal(size=(2, 6, 8, 8)).astype(np.float32)


def block(bits: int = 4, power_of_two: bool = False) -> Any:
    return blocks.Block(X, 1, bits, True, power_of_two)


def fixed(net: Any, output: str, shape: list[int | str]) -> onnx.ModelProto:
    """The model with the shape of its output written out."""
    proto = net.model(output)
    del proto.graph.output[:]
    info = onnx.helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, shape)
    proto.graph.output.append(info)
    return proto


def traps(proto: onnx.ModelProto) -> list[Finding]:
    """But the one that all of these models have: their input is quantized float."""
    found = findings(Model.load(proto))
    return [one for one in found if one.code != "float-input"]


def codes(proto: onnx.ModelProto) -> set[str]:
    return {one.code for one in traps(proto)}


def mended(proto: onnx.ModelProto, code: str) -> onnx.ModelProto:
    """What `fix` makes of a model with a trap: the trap is gone, and every code is the same."""
    assert code in codes(proto)
    outcome = optimize(proto, pipeline="finn-lint{fix=true}")
    assert [one.rule for one in outcome.model.evidence.rewrites] == [code]
    assert outcome.verification is not None
    assert outcome.verification.status is Status.EQUAL
    result = outcome.model.to_proto()
    assert code not in codes(result)
    np.testing.assert_array_equal(blocks.exact(result, X), blocks.exact(proto, X))
    assert not optimize(outcome.model, pipeline="finn-lint{fix=true}").changed
    return result


def test_a_plain_network_has_no_trap() -> None:
    net = block()
    x = net.quantized("x", signed=True)
    output = net.relu(net.conv(x, 6, 4, 3))
    assert codes(fixed(net, output, ["N", 4, 8, 8])) == set()


def test_an_input_that_is_quantized_in_the_network() -> None:
    net = block()
    output = net.relu(net.conv(net.quantized("x", signed=True), 6, 4, 3))
    (found,) = findings(Model.load(fixed(net, output, ["N", 4, 8, 8])))
    assert (found.code, found.where) == ("float-input", "x")
    net = block()
    proto = fixed(net, net.relu(net.conv("x", 6, 4, 3)), ["N", 4, 8, 8])
    note = proto.graph.quantization_annotation.add()
    note.tensor_name = "x"
    note.quant_parameter_tensor_names.add(key="finn_datatype", value="INT8")
    assert findings(Model.load(proto)) == ()


def test_joins() -> None:
    net = block()
    x = net.quantized("x", signed=True)
    inner = net.quantized(net.conv(x, 6, 6, 3), signed=True, scale=0.3)
    skip = net.quantized(x, signed=True, scale=0.2)
    proto = fixed(net, net.relu(net.op("Add", inner, skip)), ["N", 6, 8, 8])
    assert codes(proto) == {"unequal-scales", "residual-join"}
    (unequal, _) = traps(proto)
    assert "0.3 and 0.2" in unequal.what
    assert unequal.fix is None


@pytest.mark.parametrize("kind", ["Sigmoid", "Tanh", "Softmax"])
def test_float_operators(kind: str) -> None:
    net = block()
    x = net.quantized("x", signed=True)
    proto = fixed(net, net.op(kind, net.conv(x, 6, 4, 3)), ["N", 4, 8, 8])
    assert codes(proto) == {"float-operator"}


def test_products_of_tensors() -> None:
    net = block()
    x = net.quantized("x", signed=True)
    y = net.op("Mul", net.conv(x, 6, 4, 3), net.conv(x, 6, 4, 1))
    assert codes(fixed(net, y, ["N", 4, 8, 8])) == {"float-operator"}


@pytest.mark.parametrize("kind", ["AveragePool", "GlobalAveragePool", "ReduceMean"])
def test_pools_become_convolutions(kind: str) -> None:
    net = block()
    x = net.relu(net.conv(net.quantized("x", signed=True), 6, 5, 3))
    attributes = {
        "AveragePool": {"kernel_shape": [8, 8], "strides": [8, 8]},
        "ReduceMean": {"axes": [2, 3], "keepdims": 1},
    }
    y = net.op(kind, x, **attributes.get(kind, {}))
    result = mended(fixed(net, y, ["N", 5, 1, 1]), "pool")
    (conv,) = [n for n in result.graph.node if n.op_type == "Conv" and n.output[0] == y]
    assert {a.name: a.i for a in conv.attribute if a.name == "group"} == {"group": 5}


def test_a_pool_that_cannot_be_a_convolution_stays() -> None:
    net = block()
    x = net.relu(net.conv(net.quantized("x", signed=True), 6, 5, 3))
    y = net.op("AveragePool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    proto = fixed(net, y, ["N", 5, 4, 4])
    outcome = optimize(proto, pipeline="finn-lint{fix=true}")
    assert not outcome.changed
    assert codes(proto) == {"pool"}


def test_a_mean_over_channels_or_batch_stays() -> None:
    for axes, shape in (([1, 2, 3], [2, 1, 1, 1]), ([0, 2, 3], [1, 5, 1, 1])):
        net = block()
        x = net.relu(net.conv(net.quantized("x", signed=True), 6, 5, 3))
        proto = fixed(net, net.op("ReduceMean", x, axes=axes, keepdims=1), shape)
        proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
        assert not optimize(proto, pipeline="finn-lint{fix=true}").changed
        assert codes(proto) == {"pool"}


def test_attributes_that_are_left_out() -> None:
    net = block()
    x = net.quantized("x", signed=True)
    weight = net.quantized(net.constant(net.rng.normal(size=(4, 6, 1, 1))), signed=True, scale=0.2)
    y = net.relu(net.op("Conv", x, weight))
    result = mended(fixed(net, y, ["N", 4, 8, 8]), "conv-attributes")
    (conv,) = [n for n in result.graph.node if n.op_type == "Conv"]
    names = {a.name for a in conv.attribute}
    assert names == {"kernel_shape", "strides", "pads", "dilations", "group"}


def test_a_flattening_before_a_quantizer() -> None:
    net = block()
    x = net.relu(net.conv(net.quantized("x", signed=True), 6, 5, 3))
    y = net.quantized(net.op("Flatten", x), signed=True)
    result = mended(fixed(net, y, ["N", 320]), "flatten-before-quantizer")
    assert result.graph.node[-1].op_type == "Flatten"


def test_ties_get_thresholds_of_their_own() -> None:
    net = block(power_of_two=True)
    x = net.quantized("x", signed=True)
    y = net.relu(net.conv(x, 6, 5, 3))
    proto = fixed(net, y, ["N", 5, 8, 8])
    result = mended(proto, "half-even-ties")
    assert "MultiThreshold" in {node.op_type for node in result.graph.node}
    # There are ties: thresholds that round up, as FINN makes them, give other codes.
    table = next(t for t in result.graph.initializer if t.name.endswith(".thresholds.1"))
    assert table.dims[1] == 15


def test_no_ties_no_trap() -> None:
    net = block()
    y = net.relu(net.conv(net.quantized("x", signed=True), 6, 5, 3))
    assert "half-even-ties" not in codes(fixed(net, y, ["N", 5, 8, 8]))


@pytest.mark.parametrize("pad", [0, 1])
def test_windows_that_hang(pad: int) -> None:
    """Maps of 8 x 8 x 8 without padding: the counter of the oldest word is too narrow."""
    net = block()
    x = net.relu(net.conv(net.quantized("x", signed=True), 6, 8, 3))
    weight = net.quantized(net.constant(net.rng.normal(size=(8, 1, 3, 3))), signed=True, scale=0.2)
    y = net.op("Conv", x, weight, pads=[pad] * 4, kernel_shape=[3, 3], strides=[1, 1],
               dilations=[1, 1], group=8)  # fmt: skip
    found = traps(fixed(net, y, ["N", 8, 6 + 2 * pad, 6 + 2 * pad]))
    assert [one.code for one in found] == ([] if pad else ["window-hangs"])
    assert pad or "SIMD 1, 2, 4" in found[0].what


def test_opset_and_dynamo() -> None:
    net = block()
    y = net.relu(net.conv(net.quantized("x", signed=True), 6, 5, 3))
    proto = fixed(net, y, ["N", 5, 8, 8])
    proto.opset_import[0].version = 18
    proto.graph.node[0].metadata_props.add(key="pkg.torch.onnx.name_scopes", value="[]")
    assert codes(proto) == {"opset", "dynamo-export"}


def test_the_pass_leaves_refusals() -> None:
    net = block()
    x = net.quantized("x", signed=True)
    model = Model.load(fixed(net, net.op("Tanh", net.conv(x, 6, 4, 3)), ["N", 4, 8, 8]))
    outcome = optimize(model, pipeline="finn-lint")
    refusal = outcome.model.evidence.refusals[-1]
    assert refusal.by == FinnLint.name
    assert "thresholds" in refusal.reason


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as left:
        main([str(argument) for argument in arguments])
    return int(left.value.code or 0)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = block()
    x = net.relu(net.conv(net.quantized("x", signed=True), 6, 5, 3))
    onnx.save(fixed(net, net.op("GlobalAveragePool", x), ["N", 5, 1, 1]), tmp_path / "net.onnx")
    assert run("lint", tmp_path / "net.onnx") == 1
    assert "GlobalAveragePool stops streamlining" in " ".join(capsys.readouterr().out.split())
    assert run("lint", tmp_path / "net.onnx", "--json") == 1
    first, second = json.loads(capsys.readouterr().out)
    assert (first["code"], first["fixable"]) == ("float-input", False)
    assert (second["code"], second["fixable"]) == ("pool", True)
    code = run("lint", tmp_path / "net.onnx", "--fix")
    printed = capsys.readouterr().out
    assert "mended" in printed
    left = {one.code for one in findings(Model.load(tmp_path / "net.lint.onnx"))}
    assert "pool" not in left
    assert code == bool(left)
    assert run("lint", tmp_path / "net.onnx", "--fix", "-o", tmp_path / "net.onnx") == 2


def test_the_preset_makes_a_network_that_finn_takes() -> None:
    net = block()
    y = blocks.FORMS["B, pointwise"][0](net, 6)
    proto = fixed(net, y, ["N", 6, 8, 8])
    outcome = optimize(proto, preset="finn")
    assert codes(outcome.model.to_proto()) == set()


def depthwise(*, per_channel: bool = True, norm: bool = True) -> onnx.ModelProto:
    """A convolution, and a depthwise one that reads its codes."""
    net = block()
    x = net.conv(net.quantized("x", signed=True), 6, 6, 3)
    if not norm:
        x = net.op("Add", x, net.constant(np.float32(0.125)))
    x = net.op("Relu", x)
    scale = net.rng.uniform(0.1, 0.4, (1, 6, 1, 1)) if per_channel else 0.25
    parameters = [net.constant(value) for value in (scale, 0.0, 4)]
    x = net.op("Quant", x, *parameters, domain=blocks.DOMAIN, signed=0, narrow=0,
               rounding_mode="ROUND")  # fmt: skip
    return fixed(net, net.relu(net.conv(x, 6, 6, 3, group=6)), ["N", 6, 8, 8])


def test_scales_by_channel_before_a_depthwise_convolution() -> None:
    assert "depthwise-scale" not in codes(depthwise(per_channel=False))
    result = mended(depthwise(), "depthwise-scale")
    arrays = {t.name: numpy_helper.to_array(t) for t in result.graph.initializer}
    convs = [node for node in result.graph.node if node.op_type == "Conv"]
    (reads,) = (n for n in result.graph.node if n.output[0] == convs[1].input[0])
    assert arrays[reads.input[1]] == 1


def test_scales_that_no_batch_norm_takes() -> None:
    proto = depthwise(norm=False)
    outcome = optimize(proto, pipeline="finn-lint{fix=true}")
    assert not outcome.changed
    assert "depthwise-scale" in codes(outcome.model.to_proto())


def test_an_input_of_which_nothing_is_said() -> None:
    net = block()
    proto = fixed(net, net.relu(net.conv("x", 6, 6, 3)), ["N", 6, 8, 8])
    (found,) = findings(Model.load(proto))
    assert (found.code, found.where) == ("unquantized-input", "x")
    assert not findings(annotated(Model.load(proto), "UINT8"))


def test_weights_that_are_inputs_too() -> None:
    net = block()
    proto = fixed(net, net.relu(net.conv(net.quantized("x", signed=True), 6, 6, 3)), ["N", 6, 8, 8])
    for tensor in proto.graph.initializer:
        info = onnx.helper.make_tensor_value_info(tensor.name, 1, list(tensor.dims))
        proto.graph.input.append(info)
    assert [one.code for one in findings(Model.load(proto))] == ["float-input"]


def test_a_pool_that_is_truncated_is_one_of_finns() -> None:
    net = block()
    x = net.relu(net.conv(net.quantized("x", signed=True), 6, 6, 3))
    pooled = net.op("AveragePool", x, kernel_shape=[8, 8], strides=[8, 8])
    scale = net.scale
    given = [net.constant(value) for value in (scale / 64, 0.0, 10, 4)]
    assert codes(fixed(net, pooled, ["N", 6, 1, 1])) == {"pool"}
    trunc = net.op("Trunc", pooled, *given, domain=blocks.DOMAIN, rounding_mode="FLOOR")
    assert codes(fixed(net, trunc, ["N", 6, 1, 1])) == set()


def test_only_an_open_batch_becomes_one() -> None:
    proto = depthwise()
    for value in (*proto.graph.input, *proto.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            dim.Clear()
    made = single(Model.load(proto)).to_proto().graph
    (dims,) = ([d.dim_value for d in v.type.tensor_type.shape.dim] for v in made.input)
    assert dims == [1, 0, 0, 0]
