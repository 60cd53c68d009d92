"""Whole small models, seeded, IR version 8 and opset 17. `blocks.Net` draws their weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper

from tests.support.blocks import Net, skip

Shape = Sequence[int | str]


def conv_block(
    net: Net,
    x: str,
    channels: int,
    out: int | None = None,
    *,
    activation: str = "Relu",
    stride: int = 1,
    projection: str | None = None,
    norm: bool = False,
) -> str:
    """A basic residual block behind `x`: two 3x3 convolutions, an Add, an activation.

    Args:
        net: takes the nodes.
        x: tensor of `channels` channels.
        channels: of the input.
        out: channels of the output; those of the input by default.
        activation: as in `Net.act`.
        stride: of the first convolution.
        projection: a shortcut of `blocks.skip`; by default the identity where it fits, else a 1x1.
        norm: a batch norm behind each convolution.
    """
    out = out or channels
    fits = out == channels and stride == 1
    h = net.conv(x, channels, out, stride=stride, bias=not norm)
    h = net.act(net.norm(h, out) if norm else h, activation, out)
    h = net.conv(h, out, out, bias=not norm)
    h = net.norm(h, out) if norm else h
    shortcut = projection or ("identity" if fits else "projection")
    joined = net.op("Add", h, skip(net, x, channels, out, stride, shortcut, norm))
    return net.act(joined, activation, out)


def residual_net(
    blocks: int = 2,
    channels: int = 4,
    *,
    activation: str = "Relu",
    stride: int = 1,
    projection: str | None = None,
    norm: bool = False,
    batch: int | str = "N",
    size: int | str = 8,
    classes: int = 5,
    seed: int = 0,
) -> onnx.ModelProto:
    """A convolution, `blocks` residual blocks, the mean of each channel, a classifier.

    The first block has `stride` and `projection`, and doubles the channels where it strides; the
    others keep the size.
    """
    net = Net(seed)
    x = net.act(net.conv("x", 3, channels), activation, channels)
    for number in range(blocks):
        first = number == 0
        wider = channels * 2 if first and stride > 1 else channels
        x = conv_block(
            net,
            x,
            channels,
            wider,
            activation=activation,
            stride=stride if first else 1,
            projection=projection if first else None,
            norm=norm,
        )
        channels = wider
    y = net.op("Flatten", net.op("GlobalAveragePool", x))
    weight = net.rng.standard_normal((classes, channels)) / np.sqrt(channels)
    bias = net.const(net.rng.standard_normal(classes))
    y = net.op("Gemm", y, net.const(weight), bias, transB=1)
    return net.model(y, (batch, 3, size, size))


def residual_mlp(
    blocks: int = 2, width: int = 6, *, batch: int | str = "N", seed: int = 0
) -> onnx.ModelProto:
    """`blocks` times `x + W2 relu(W1 x)`, then a linear layer with three outputs."""
    net = Net(seed)
    x = net.act(dense(net, "x", width, width), "Relu")
    for _ in range(blocks):
        h = dense(net, net.act(dense(net, x, width, width), "Relu"), width, width)
        x = net.act(net.op("Add", h, x), "Relu")
    return net.model(dense(net, x, width, 3), (batch, width))


def dense(net: Net, x: str, inputs: int, outputs: int) -> str:
    """A Gemm with a bias."""
    weight = net.rng.standard_normal((outputs, inputs)) * np.sqrt(2 / inputs)
    bias = net.rng.standard_normal(outputs) * 0.3
    return net.op("Gemm", x, net.const(weight), net.const(bias), transB=1)


def plain_model(
    nodes: Iterable[onnx.NodeProto],
    inputs: Mapping[str, tuple[Any, Shape | None]],
    outputs: Sequence[str],
    weights: Mapping[str, Any] | None = None,
    *,
    weights_are_inputs: bool = False,
    opset: int = 17,
    domains: Sequence[str] = (),
) -> onnx.ModelProto:
    """A model from its parts, for graphs of no common kind.

    Args:
        nodes: in order of execution.
        inputs: numpy type and shape by name.
        outputs: names; their types are inferred.
        weights: arrays by name.
        weights_are_inputs: lists the weights among the inputs as well.
        opset: version of the operator set.
        domains: further domains, of version 1.
    """
    arrays = {name: np.asarray(array) for name, array in (weights or {}).items()}
    listed = dict(inputs)
    if weights_are_inputs:
        listed |= {name: (array.dtype, array.shape) for name, array in arrays.items()}
    graph = helper.make_graph(
        list(nodes),
        "net",
        [
            helper.make_tensor_value_info(
                name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape
            )
            for name, (dtype, shape) in listed.items()
        ],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    imports = [helper.make_opsetid(d, v) for d, v in (("", opset), *((d, 1) for d in domains))]
    model = helper.make_model(graph, opset_imports=imports, ir_version=8)
    return onnx.shape_inference.infer_shapes(model)


def matrices(proto: onnx.ModelProto) -> list[str]:
    """Names of the weights of two or more axes, in the order in which they were made."""
    return [tensor.name for tensor in proto.graph.initializer if len(tensor.dims) > 1]


def weight_named(proto: onnx.ModelProto, name: str) -> np.ndarray:
    """A copy of an initializer."""
    tensor = next(tensor for tensor in proto.graph.initializer if tensor.name == name)
    return onnx.numpy_helper.to_array(tensor).copy()


def with_weight(proto: onnx.ModelProto, name: str, array: Any) -> onnx.ModelProto:
    """A copy of the model in which one initializer holds `array`."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    tensor = next(tensor for tensor in copy.graph.initializer if tensor.name == name)
    tensor.CopyFrom(onnx.numpy_helper.from_array(np.asarray(array), name))
    return copy
