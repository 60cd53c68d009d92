"""A small builder of residual blocks as ONNX graphs, for tests."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import helper as oh


@dataclass
class Net:
    """Builds one graph; every method takes and returns tensor names.

    The weights are drawn from `seed`; batch norms get statistics that are far from trivial.
    """

    seed: int = 0
    dtype: type = np.float32
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)
    opset: int = 17

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        self.count = 0

    def name(self, stem: str) -> str:
        self.count += 1
        return f"{stem}_{self.count}"

    def const(self, array: object, dtype: object = None) -> str:
        name = self.name("w")
        values = np.asarray(array, dtype or self.dtype)
        self.weights.append(onnx.numpy_helper.from_array(values, name))
        return name

    def op(self, kind: str, *inputs: str, domain: str = "", outputs: int = 1, **attributes: object):
        name = self.name(kind.lower())
        names = [name] if outputs == 1 else [f"{name}.{i}" for i in range(outputs)]
        self.nodes.append(
            oh.make_node(kind, list(inputs), names, name=name, domain=domain, **attributes)
        )
        return name if outputs == 1 else names

    def conv(
        self,
        x: str,
        cin: int,
        cout: int,
        k: int | tuple[int, ...] = 3,
        *,
        stride: int = 1,
        pads: tuple[int, ...] | None = None,
        dilation: int = 1,
        group: int = 1,
        bias: bool = True,
        axes: int = 2,
        weight: np.ndarray | None = None,
    ) -> str:
        kernel = (k,) * axes if isinstance(k, int) else k
        if weight is None:
            fan = cin // group * int(np.prod(kernel))
            weight = self.rng.standard_normal((cout, cin // group, *kernel)) / np.sqrt(fan)
        begin = tuple(dilation * (n - 1) // 2 for n in kernel)
        inputs = [x, self.const(weight)]
        if bias:
            inputs.append(self.const(self.rng.standard_normal(cout)))
        return self.op(
            "Conv",
            *inputs,
            kernel_shape=kernel,
            strides=(stride,) * axes,
            pads=pads if pads is not None else begin + begin,
            dilations=(dilation,) * axes,
            group=group,
        )

    def norm(self, x: str, channels: int) -> str:
        draw = self.rng
        return self.op(
            "BatchNormalization",
            x,
            self.const(draw.uniform(0.5, 2, channels) * draw.choice([-1, 1], channels)),
            self.const(draw.standard_normal(channels)),
            self.const(draw.standard_normal(channels)),
            self.const(draw.uniform(0.2, 3, channels)),
            epsilon=float(draw.choice([1e-5, 1e-3])),
        )

    def act(self, x: str, kind: str, channels: int = 0) -> str:
        match kind:
            case "relu6":
                return self.op("Clip", x, self.const(0.0), self.const(6.0))
            case "prelu":
                slopes = self.rng.uniform(-0.3, 0.5, (channels, 1, 1))
                return self.op("PRelu", x, self.const(slopes))
            case "leaky":
                return self.op("LeakyRelu", x, alpha=0.1)
            case "none":
                return x
            case _:
                return self.op(kind, x)

    def model(
        self,
        output: str,
        shape: tuple[int | str, ...],
        *,
        extra_outputs: tuple[str, ...] = (),
        opset_imports: tuple[tuple[str, int], ...] = (),
        ir_version: int = 8,
        source: str = "x",
    ) -> onnx.ModelProto:
        kind = oh.np_dtype_to_tensor_dtype(np.dtype(self.dtype))
        graph = oh.make_graph(
            self.nodes,
            "net",
            [oh.make_tensor_value_info(source, kind, shape)],
            [onnx.ValueInfoProto(name=name) for name in (output, *extra_outputs)],
            self.weights,
        )
        imports = [oh.make_opsetid(d, v) for d, v in (("", self.opset), *opset_imports)]
        return onnx.shape_inference.infer_shapes(
            oh.make_model(graph, opset_imports=imports, ir_version=ir_version)
        )


def basic_block(
    *,
    channels: int = 4,
    out: int | None = None,
    act: str = "Relu",
    before: str = "Relu",
    stride: int = 1,
    shortcut: str = "identity",
    norm: bool = False,
    sizes: tuple[int | str, ...] = (7, 9),
    pads: tuple[int, ...] | None = None,
    dilation: int = 1,
    k: int = 3,
    after: str = "Relu",
    batch: int | str = "N",
    dtype: type = np.float32,
    seed: int = 0,
) -> onnx.ModelProto:
    """Stem, one basic block, a head that depends on everything."""
    net = Net(seed, dtype)
    out = out or channels
    x = net.act(net.conv("x", 3, channels, 1), before, channels)
    h = net.conv(x, channels, out, k, stride=stride, pads=pads, dilation=dilation, bias=not norm)
    h = net.act(net.norm(h, out) if norm else h, act, out)
    h = net.conv(h, out, out, k, pads=pads, dilation=dilation, bias=not norm)
    h = net.norm(h, out) if norm else h
    s = skip(net, x, channels, out, stride, shortcut, norm)
    y = net.act(net.op("Add", h, s), after, out)
    return net.model(net.conv(y, out, 2, 1), (batch, 3, *sizes))


def skip(
    net: Net, x: str, channels: int, out: int, stride: int, kind: str, norm: bool = False
) -> str:
    """One of the shortcuts of He et al. 2016, and others."""
    match kind:
        case "identity":
            return x
        case "projection":
            s = net.conv(x, channels, out, 1, stride=stride, bias=not norm)
            return net.norm(s, out) if norm else s
        case "projection3":
            return net.conv(x, channels, out, 3, stride=stride)
        case "option-a":
            s = _strided(net, x, stride)
            front = (out - channels) // 2
            pads = [0, front, 0, 0, 0, out - channels - front, 0, 0]
            return net.op("Pad", s, net.const(pads, np.int64), net.const(0.0))
        case "option-a-concat":
            s = _strided(net, x, stride)
            width = out - channels
            shape = net.op("Shape", s)

            def part(start: int, end: int) -> str:
                bounds = (net.const([i], np.int64) for i in (start, end))
                return net.op("Slice", shape, *bounds)

            size = net.op("Concat", part(0, 1), net.const([width], np.int64), part(2, 4), axis=0)
            zeros = net.op("ConstantOfShape", size)
            return net.op("Concat", s, zeros, axis=1)
        case "average":
            return net.op("AveragePool", x, kernel_shape=[stride, stride], strides=[stride, stride])
        case "max":
            return net.op("MaxPool", x, kernel_shape=[stride, stride], strides=[stride, stride])
        case "scaled":
            return net.op("Mul", x, net.const(net.rng.uniform(-2, 2, (channels, 1, 1))))
        case _:
            raise ValueError(kind)


def _strided(net: Net, x: str, stride: int) -> str:
    if stride == 1:
        return x
    ends = net.const([2**31 - 1, 2**31 - 1], np.int64)
    return net.op(
        "Slice", x, net.const([0, 0], np.int64), ends, net.const([2, 3], np.int64),
        net.const([stride, stride], np.int64),
    )  # fmt: skip
