"""The seven cases that the authors' public code, or a naive tool, gets wrong.

Each test shows what the mistake would have cost, and that graphopt does not make it.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from graphopt.optimizer import optimize
from tests.support.blocks import Net, basic_block
from tests.support.check import RM, refused, removed

CENTRE, PAD_BEGIN = 1, (2, 0)


def outputs(proto: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


def difference(one: onnx.ModelProto, other: onnx.ModelProto, size: tuple[int, ...]) -> float:
    """Largest difference of outputs, relative to the largest output."""
    dtype = onnx.helper.tensor_dtype_to_np_dtype(one.graph.input[0].type.tensor_type.elem_type)
    x = (np.random.default_rng(0).standard_normal((2, 3, *size)) * 6).astype(dtype)
    a, b = outputs(one, x), outputs(other, x)
    return float(np.abs(a - b).max() / np.abs(a).max())


def renamed(proto: onnx.ModelProto, old: str, new: str) -> onnx.ModelProto:
    """A copy in which every operator `old` without parameters of its own is `new`."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    for node in copy.graph.node:
        if node.op_type == old:
            node.op_type = new
            del node.input[1:]
    return copy


def test_negative_input_under_relu() -> None:
    """A reserved channel that is negative dies in a ReLU: it needs a carrier, not hope."""
    proto = basic_block(before="none", sizes=(7, 9))
    outcome = removed(proto)
    assert "carried by plain" not in outcome.fates[0].reason
    naive = renamed(outcome.model.to_proto(), "PRelu", "Relu")
    assert difference(proto, outcome.model.to_proto(), (7, 9)) < 1e-5
    assert difference(proto, naive, (7, 9)) > 0.05


def test_clip_active_above_6() -> None:
    """The authors' code puts a PRelu in place of ReLU6, which forgets the upper bound."""
    proto = basic_block(act="relu6", before="relu6", sizes=(7, 9))
    outcome = removed(proto)
    assert [n.op_type for n in outcome.model.graph].count("Clip") == 2
    naive = renamed(proto, "Clip", "Relu")
    assert difference(proto, outcome.model.to_proto(), (7, 9)) < 1e-5
    assert difference(proto, naive, (7, 9)) > 0.05


def test_asymmetric_padding() -> None:
    """The tap that copies lies at pad_begin / dilation, not at the centre of the kernel."""
    proto = basic_block(pads=(2, 0, 0, 2), sizes=(7, 9))
    outcome = removed(proto)
    plain = outcome.model.to_proto()
    naive = onnx.ModelProto()
    naive.CopyFrom(plain)
    first = next(n for n in naive.graph.node if n.op_type == "Conv" and "reserved" in n.output[0])
    tensor = next(t for t in naive.graph.initializer if t.name == first.input[1])
    weight = onnx.numpy_helper.to_array(tensor).copy()
    for channel in range(4):
        assert weight[4 + channel, channel, *PAD_BEGIN] == 1
        weight[4 + channel, channel, *PAD_BEGIN] = 0
        weight[4 + channel, channel, CENTRE, CENTRE] = 1
    tensor.CopyFrom(onnx.numpy_helper.from_array(weight, tensor.name))
    assert difference(proto, plain, (7, 9)) < 1e-5
    assert difference(proto, naive, (7, 9)) > 0.05


def test_norm_before_a_padded_convolution() -> None:
    """The border of a padded convolution reads 0, not the shift of the norm before it."""
    net = Net()
    h = net.norm("x", 3)
    proto = net.model(net.conv(h, 3, 4, 3), (2, 3, 7, 9))
    scale, bias, mean, var, weight, shift = (
        onnx.numpy_helper.to_array(t).astype(np.float64) for t in net.weights
    )
    s = scale / np.sqrt(var + next(a.f for a in net.nodes[0].attribute if a.name == "epsilon"))
    t = bias - mean * s
    naive = Net()
    y = naive.op(
        "Conv",
        "x",
        naive.const(weight * s[:, None, None]),
        naive.const(shift + weight.sum(axis=(2, 3)) @ t),
        kernel_shape=[3, 3],
        pads=[1] * 4,
    )
    assert difference(proto, naive.model(y, (2, 3, 7, 9)), (7, 9)) > 0.02
    outcome = optimize(proto, pipeline="fold-norm")
    assert not outcome.changed
    assert [r.code for r in outcome.records[0].refusals] == ["padded-border"]


@pytest.mark.parametrize(("size", "ceil"), [(8, 0), (8, 1), (7, 1)])
def test_odd_size_pooled_shortcut(size: int, ceil: int) -> None:
    """Rounded up, the last window of an odd size averages over one row: no kernel does that."""
    net = Net()
    x = net.act(net.conv("x", 3, 4, 1), "Relu")
    h = net.conv(net.act(net.conv(x, 4, 4, stride=2), "Relu"), 4, 4)
    s = net.op("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2], ceil_mode=ceil)
    proto = net.model(net.op("Add", h, s), (2, 3, size, size))
    if size % 2:
        assert "averages a cut window" in refused(proto, "pooled-border")
    else:
        removed(proto)


@pytest.mark.parametrize("shortcut", ["projection", "average"])
def test_equal_width_stride_2_block_with_projection(shortcut: str) -> None:
    """Equal channels do not make a shortcut the identity (the authors ask for no more)."""
    proto = basic_block(shortcut=shortcut, stride=2, out=4, sizes=(8, 8), before="none")
    outcome = removed(proto)
    assert outcome.model.graph.outputs[0].shape[2] == 4
    kinds = [one.skip.kind.value for one in outcome.fates]
    assert kinds == ["pooled" if shortcut == "average" else "projection"]


def test_identity_norm_in_float16() -> None:
    """A norm that shall pass a channel (scale sqrt(var + eps), shift mean) rounds in float16; a
    folded one is a weight of exactly 1.
    """
    proto = basic_block(norm=True, dtype=np.float16, before="Relu", sizes=(7, 9))
    outcome = removed(proto, RM)
    assert not [n for n in outcome.model.graph if n.op_type == "BatchNormalization"]
    x = np.linspace(0, 8, 4096, dtype=np.float16)
    mean, var, eps = np.float16(3.1), np.float16(0.7), np.float16(1e-3)
    scale = np.sqrt(var + eps)
    passed = (x - mean) / np.sqrt(var + eps) * scale + mean
    assert 0.003 < np.abs(passed.astype(float) - x.astype(float)).max() < 0.02
    reserved = [n for n in outcome.model.graph if n.op_type == "Conv" and "reserved" in (n.outputs[0].name or "")]  # fmt: skip  # noqa: E501
    weight = reserved[0].inputs[1].const_value.numpy()[4:]
    assert sorted(set(weight.reshape(-1).tolist())) == [0, 1]
