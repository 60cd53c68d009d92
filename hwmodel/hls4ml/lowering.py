"""A quantized network written the way that hls4ml converts to the bit: integers and fixed point.

hls4ml 1.3.0 holds a quantizer whose scale is one power of two as a fixed-point type, exactly
(model/optimizer/passes/quant_opt.py). It has no sound way with other scales in residual networks:

- it puts the scale behind the quantizer with `ModelGraph.insert_node`, which rewires only the
  first reader: behind a fork the other branch goes on without the scale, and nothing is said;
- a scale by channel on the weights beside any scale on the activations multiplies arrays whose
  shapes do not match (move_scales.py, `reduced_scale0 @ reduced_scale1`), and the conversion stops
  with an IndexError in another pass;
- what it multiplies and adds by has the default precision, ten bits behind the point.

So the network is written anew before hls4ml sees it. Along each tensor goes what it stands for:
`real = scale x held + shift`, by channel. Quantizers then have scale 1 (or their power of two),
convolutions work on codes, and what is left of scales, biases and batch norms becomes one
multiplication and one addition by constants in fixed point of `bits` bits. In real numbers nothing
changes; in fixed point no constant is further off than half a step of 2^-bits of the largest of
its array, and a code may differ where the real number lies that close to a half.

Layout: hls4ml reads QONNX's channels-last operators. They are written here at once, so that no
Transpose is left at forks, where qonnx's own transformation leaves them
(qonnx/transformation/channels_last.py, MoveChanLastUpstream). Inputs and outputs of rank 3 and 4
have their channels last too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir
from onnx import TensorProto, helper, numpy_helper

from graphopt.errors import ModelError
from graphopt.interop.qonnx import CHANNELS_LAST_DOMAIN, GENERAL_DOMAINS, quant
from graphopt.ir import Model
from graphopt.ir.constants import constant
from graphopt.ir.model import node_label
from graphopt.ir.shapes import Shapes, ShapeTable
from hwmodel.hls4ml.fixed_point import FixedPoint, narrowest

Array = npt.NDArray[Any]

QUANT_DOMAIN = GENERAL_DOMAINS[0]
OPSET = 13
_KEEPS_SCALE = frozenset("Relu MaxPool AveragePool GlobalAveragePool Flatten Reshape".split())
_ELEMENTWISE = frozenset("Sigmoid Tanh LeakyRelu Elu Selu Softplus Softsign".split())
_AFFINE = frozenset("BatchNormalization Add Sub Mul Div".split())
_RESIZES = frozenset("Conv MatMul MaxPool AveragePool Flatten Concat".split())
ONE, ZERO = np.asarray(1.0), np.asarray(0.0)
ONE.flags.writeable = ZERO.flags.writeable = False


@dataclass(frozen=True)
class Lowered:
    """A network for hls4ml.

    Attributes:
        proto: the network, batch 1, with channels last.
        types: hls4ml's types, "result" and "bias", by the name of the node, where what it takes by
            itself is too narrow: an average has the type of its input, and what is added behind a
            product the default type (batchnorm_opt.py asks for a bias of ones, and means zeros).
        channels_last: whether the network that was given has its channels last itself.
    """

    proto: onnx.ModelProto
    types: Mapping[str, Mapping[str, str]]
    channels_last: bool


def lowered(model: Model, *, bits: int = 24) -> Lowered:
    """The network as hls4ml wants it.

    A network that is in QONNX's channels-last form already is left as it is.

    Args:
        model: a float or QONNX network with one input.
        bits: of the constants; see the head of this file.

    Raises:
        ModelError: an operator or a shape has no form for hls4ml.
    """
    copy = without_defaults(model)
    if is_channels_last(copy):
        return Lowered(_without_empty_regions(copy.to_proto()), {}, True)
    if len(copy.graph.inputs) != 1:
        names = ", ".join(value.name or "?" for value in copy.graph.inputs)
        raise ModelError(f"{model.origin.label} has the inputs {names}: one is supported.")
    return _Writer(copy, copy.analyses.get(Shapes()), bits).write()


def without_defaults(model: Model) -> Model:
    """A copy whose inputs are inputs: some exporters list the weights among them."""
    copy = model.clone()
    for value in [v for v in copy.graph.inputs if v.name in copy.graph.initializers]:
        copy.graph.inputs.remove(value)
    return copy


def is_channels_last(model: Model) -> bool:
    """Whether the network is in QONNX's channels-last form."""
    return any(node.domain == CHANNELS_LAST_DOMAIN for node in model.graph)


def _without_empty_regions(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Gives each Resize a region of interest of one zero in the place of an empty one, whose truth
    hls4ml asks for and NumPy 2.2 no longer tells (passes/resize_remove_constants.py).
    """
    regions = {node.input[1] for node in proto.graph.node if node.op_type == "Resize"}
    for tensor in proto.graph.initializer:
        if tensor.name in regions and not numpy_helper.to_array(tensor).size:
            tensor.CopyFrom(numpy_helper.from_array(np.zeros(1, np.float32), tensor.name))
            for value in proto.graph.value_info:
                if value.name == tensor.name:
                    value.type.tensor_type.shape.dim[0].dim_value = 1
    return proto


@dataclass(frozen=True, eq=False)
class _Tensor:
    """A tensor of the new network, and what it stands for: `scale * held + shift`.

    Attributes:
        name: in the new network.
        scale, shift: rank 0, or one number a channel.
        order: where a map has been flattened: the place that each element had before, as the
            channels came first then.
        kind: of the held numbers, where a quantizer has said.
    """

    name: str
    scale: Array = field(default_factory=lambda: ONE)
    shift: Array = field(default_factory=lambda: ZERO)
    order: Array | None = None
    kind: FixedPoint | None = None

    @property
    def is_plain(self) -> bool:
        return bool((self.scale == 1).all()) and not self.shift.any()

    @property
    def is_scaled_alike(self) -> bool:
        """Whether it is the held numbers by one factor."""
        return self.scale.size == 1 and not self.shift.any()


@dataclass
class _Writer:
    model: Model
    shapes: ShapeTable
    bits: int
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)
    tensors: dict[str, _Tensor] = field(default_factory=dict)
    plain: dict[str, _Tensor] = field(default_factory=dict)
    types: dict[str, dict[str, str]] = field(default_factory=dict)
    sizes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    absorbed: set[onnx_ir.Node] = field(default_factory=set)
    made_by: onnx_ir.Node | None = None
    """The node that is being written."""

    def write(self) -> Lowered:
        (source,) = self.model.graph.inputs
        self.tensors[source.name or ""] = _Tensor("x")
        self.sizes["x"] = self._sizes(source)
        for node in self.model.graph:
            if node in self.absorbed or all(constant(v) is not None for v in node.outputs):
                continue
            self.made_by = node
            self._node(node)
        outputs: list[str] = []
        for number, value in enumerate(self.model.graph.outputs):
            made = self._plain(self.tensors[value.name or ""])
            if made.name in ("x", *outputs):
                raise ModelError(
                    f"{self.model.origin.label} gives its input or a tensor out twice: {value.name}"
                )
            if made.order is not None:
                raise ModelError(
                    f"{self.model.origin.label} gives out a flattened map ({value.name}), whose "
                    "elements hls4ml has in another order."
                )
            name = f"y{number}"
            self._rename(made.name, name)
            outputs.append(name)
        infos = {
            name: helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes)
            for name, sizes in self.sizes.items()
        }
        graph = helper.make_graph(
            self.nodes, "lowered", [infos.pop("x")], [infos.pop(name) for name in outputs],
            self.constants, value_info=list(infos.values()),
        )  # fmt: skip
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(QUANT_DOMAIN, 1),
                  helper.make_opsetid(CHANNELS_LAST_DOMAIN, 1)]  # fmt: skip
        proto = helper.make_model(graph, opset_imports=opsets, ir_version=8)
        return Lowered(proto, self.types, False)

    # What the network is made of.

    def _node(self, node: onnx_ir.Node) -> None:
        name = node.outputs[0].name or ""
        inputs = [value for value in node.inputs if value is not None]
        given = [self.tensors.get(value.name or "") for value in inputs]
        first, second = given[0], given[1] if len(given) > 1 else None
        if node.op_type in ("Quant", "IntQuant") and node.domain in GENERAL_DOMAINS:
            if first is not None:
                self.tensors[name] = self._quantized(node, first)
            return  # one on a weight is written with the layer that reads it
        if first is None and second is not None and node.op_type in ("Add", "Mul"):
            first, second = second, None
        if first is None:
            raise self._refusal(node, "its first input is none that hls4ml would stream")
        match node.op_type:
            case "Conv":
                made = self._convolution(node, first)
            case "Gemm" | "MatMul":
                made = self._matrix(node, first)
            case "Add" | "Concat" if second is not None:
                made = self._joined(node, [one for one in given if one is not None])
            case "BatchNormalization" | "Add" | "Sub" | "Mul" | "Div" if second is None:
                made = _affine(first, *self._factor_and_sum(node))
            case "Identity" | "Dropout":
                made = first
            case "MultiThreshold":
                raise self._refusal(node, "hls4ml has no thresholds")
            case kind if kind in _KEEPS_SCALE:
                made = self._kept(node, first)
            case kind if kind in _ELEMENTWISE:
                made = _Tensor(self._emit(node.op_type, [self._plain(first).name], **_all(node)))
            case _:
                raise self._refusal(node, "this operator has no form for hls4ml here")
        self.tensors[name] = made

    def _quantized(self, node: onnx_ir.Node, x: _Tensor) -> _Tensor:
        """Codes at scale 1, or at the power of two that the scale is."""
        scale, zero, bits = (self._by_channel(node, value) for value in node.inputs[1:4])
        if bits.size != 1 or float(bits) <= int(_attribute(node, "signed", 1)):
            # hls4ml takes one signed bit for -1 and 0, not for -1 and 1.
            raise self._refusal(node, "its bits are not one number, or one with a sign")
        two = scale.size == 1 and _is_power_of_two(float(scale)) and not zero.any()
        inner = scale if two else ONE
        outer = scale / inner
        if two and x.is_plain:
            held = x
        else:
            held = self._made_plain(replace(x, scale=x.scale / outer, shift=x.shift / outer + zero))
        signed = int(_attribute(node, "signed", 1))
        made = self._quant(held.name, float(inner), int(bits), **_quantizer(node))
        kind = FixedPoint(int(bits), int(bits) + round(math.log2(float(inner))), bool(signed))
        return _Tensor(made, outer, -zero * outer, x.order, kind)

    def _convolution(self, node: onnx_ir.Node, x: _Tensor) -> _Tensor:
        if not x.is_scaled_alike:
            x = self._plain(x)
        weight, scale, parameters = self._weight(node, node.inputs[1], axis=0)
        outputs, rank = weight.shape[0], weight.ndim
        attributes = {
            "kernel_shape": weight.shape[2:],
            "pads": [0] * 2 * (rank - 2),
            "strides": [1] * (rank - 2),
            "dilations": [1] * (rank - 2),
            "group": 1,
            **_all(node),
        }
        if attributes.pop("auto_pad", b"NOTSET") not in (b"NOTSET", "NOTSET"):
            raise self._refusal(node, "auto_pad is not supported: write its pads out")
        weight = np.moveaxis(weight, 1, -1)
        bias = self._value(node, node.inputs[2]) if len(node.inputs) > 2 else np.zeros(outputs)
        return self._layer(node, "Conv", x, weight, scale, bias, parameters, CHANNELS_LAST_DOMAIN,
                           **attributes)  # fmt: skip

    def _matrix(self, node: onnx_ir.Node, x: _Tensor) -> _Tensor:
        if not x.is_scaled_alike:
            x = self._plain(x)
        gemm = _all(node) if node.op_type == "Gemm" else {}
        if gemm.get("alpha", 1.0) != 1 or gemm.get("beta", 1.0) != 1 or gemm.get("transA"):
            raise self._refusal(node, "alpha, beta and transA are not supported")
        turned = bool(gemm.get("transB"))
        weight, scale, parameters = self._weight(node, node.inputs[1], axis=0 if turned else 1)
        weight = weight.T if turned else weight
        if x.order is not None:
            weight = weight[x.order]
        given = node.inputs[2] if len(node.inputs) > 2 else None
        bias = np.zeros(weight.shape[1]) if given is None else self._value(node, given).reshape(-1)
        return self._layer(node, "MatMul", x, weight, scale, bias, parameters, "")

    def _layer(
        self, node: onnx_ir.Node, kind: str, x: _Tensor, weight: Array, scale: Array, bias: Array,
        parameters: dict[str, Any] | None, domain: str, **attributes: Any,
    ) -> _Tensor:  # fmt: skip
        """A convolution or a matrix on what `x` holds; scales and bias wait behind it.

        Args:
            parameters: how the weight is quantized; None for a float one, which takes its scale
                in, and a convolution its bias.
        """
        channels = len(bias)
        after, shift, end = self._absorbed(node, channels)
        factor, shift = x.scale * scale * after, bias * after + shift
        if parameters is None:
            # [outputs, ..., inputs] of a convolution, [inputs, outputs] of a matrix.
            along = (-1, *(1,) * (weight.ndim - 1)) if kind == "Conv" else (1, -1)
            weight, factor = weight * factor.reshape(along), ONE
            values = self._constant(weight)
        else:
            inner = parameters.pop("scale")
            values = self._quant(self._constant(weight), inner, **parameters)
        inputs, left = [x.name, values], _reduced(shift)
        if kind == "Conv" and shift.any() and (factor != 0).all():
            # s v + t = s (v + t / s): hls4ml forgets the type of a sum behind a product, and
            # cannot add to a convolution (passes/bn_fuse.py).
            summand = np.broadcast_to(shift / factor, channels)
            inputs.append(self._constant(summand) if parameters is None else self._fixed(summand))
            left = ZERO
        made = _Tensor(self._emit(kind, inputs, domain, **attributes), _reduced(factor), left)
        self.tensors[end.name or ""] = made
        return made

    def _weight(
        self, node: onnx_ir.Node, value: onnx_ir.Value | None, axis: int
    ) -> tuple[Array, Array, dict[str, Any] | None]:
        """What to hold of a weight, its scale by output channel, and how it is quantized.

        Args:
            axis: of the output channels.
        """
        producer = None if value is None else value.producer()
        if producer is None or producer.op_type not in ("Quant", "IntQuant"):
            return self._value(node, value), ONE, None
        source, scale, zero, bits = (self._value(producer, v) for v in producer.inputs[:4])
        options = _quantizer(producer)
        if zero.any() or bits.size != 1 or bits.item() <= options["signed"]:
            raise self._refusal(
                producer, "weights of one bit, with a zero point, or with many bits"
            )
        exact = quant(source.astype(np.float32), scale, zero, bits, **options)
        parameters: dict[str, Any] = {"bits": int(bits.item()), **options}
        alike = _is_one_number(scale)
        if alike and _is_power_of_two(scale.flat[0]):
            return exact, ONE, {"scale": float(scale.flat[0]), **parameters}
        wide = np.broadcast_to(scale, source.shape)
        by_output = np.moveaxis(wide, axis, 0).reshape(source.shape[axis], -1)
        if (by_output != by_output[:, :1]).any():
            raise self._refusal(producer, "the weight's scale differs within an output channel")
        codes = np.round(exact.astype(np.float64) / wide)
        outer = by_output[:, 0].astype(np.float64)
        factor = np.asarray(outer[0]) if alike else outer
        return codes, factor, {"scale": 1.0, **parameters}

    def _factor_and_sum(self, node: onnx_ir.Node) -> tuple[Array, Array]:
        """Of a batch norm, or of an operator whose other input is constant."""
        if node.op_type == "BatchNormalization":
            gamma, beta, mean, variance = (self._value(node, v) for v in node.inputs[1:5])
            factor = gamma / np.sqrt(variance + float(_attribute(node, "epsilon", 1e-5)))
            return np.asarray(factor), np.asarray(beta - mean * factor)
        left = constant(node.inputs[0]) is not None
        if left and node.op_type in ("Sub", "Div"):
            raise self._refusal(node, "its first input is constant")
        number = self._by_channel(node, node.inputs[0 if left else 1], 1 if left else 0)
        match node.op_type:
            case "Add":
                return ONE, number
            case "Sub":
                return ONE, -number
            case "Mul":
                return number, ZERO
            case _:
                return 1 / number, ZERO

    def _absorbed(self, node: onnx_ir.Node, channels: int) -> tuple[Array, Array, onnx_ir.Value]:
        """The batch norms and the like that alone read a layer, and where they end."""
        scale, shift, value = np.ones(channels), np.zeros(channels), node.outputs[0]
        while not value.is_graph_output() and len(value.uses()) == 1:
            (use,) = value.uses()
            others = [v for v in use.node.inputs if v is not None and v is not value]
            if use.node.op_type not in _AFFINE or any(constant(v) is None for v in others):
                break
            factor, summand = self._factor_and_sum(use.node)
            scale, shift = scale * factor, shift * factor + summand
            self.absorbed.add(use.node)
            value = use.node.outputs[0]
        return scale, shift, value

    def _joined(self, node: onnx_ir.Node, given: Sequence[_Tensor]) -> _Tensor:
        if len(given) != 2 or len(node.inputs) != 2:
            raise self._refusal(node, "hls4ml joins two tensors at a time")
        alike = all(one.is_scaled_alike for one in given) and given[0].scale == given[1].scale
        pair = list(given) if alike else [self._plain(one) for one in given]
        if pair[0].order is not None or pair[1].order is not None:
            raise self._refusal(node, "it joins flattened maps")
        names = [one.name for one in pair]
        if node.op_type == "Add":
            return _Tensor(self._emit("Add", names), pair[0].scale, pair[0].shift)
        rank = self._rank(node)
        axis = int(_attribute(node, "axis", 1)) % rank
        axis = axis if rank < 3 or axis == 0 else rank - 1 if axis == 1 else axis - 1
        return _Tensor(self._emit("Concat", names, axis=axis), pair[0].scale, pair[0].shift)

    def _kept(self, node: onnx_ir.Node, x: _Tensor) -> _Tensor:
        """Operators through which a positive factor goes, and averages through which a sum does."""
        if node.op_type == "Relu":
            return self._rectified(node, x)
        if node.op_type == "MaxPool":
            if (x.scale <= 0).any():
                x = self._plain(x)
            elif x.shift.any():  # s v + t = s (v + t / s)
                inner = self._made_plain(_Tensor(x.name, shift=x.shift / x.scale, order=x.order))
                x = replace(inner, scale=x.scale)
        rank = self._rank(node)
        if node.op_type in ("Flatten", "Reshape"):
            return self._flattened(node, x, rank)
        if rank < 3:
            raise self._refusal(node, "its input is no map")
        attributes = _all(node)
        if node.op_type == "GlobalAveragePool":
            # hls4ml reads the sizes of a global pool as if the channels came first.
            sizes = [int(size) for size in (self._shape(node.inputs[0]) or ())[2:]]
            attributes = {"kernel_shape": sizes, "strides": sizes}
        kernel = list(attributes["kernel_shape"])
        attributes = {"strides": [1] * len(kernel), "pads": [0] * 2 * len(kernel), **attributes}
        odd = {attributes.pop(key, 0) for key in ("ceil_mode", "storage_order")}
        if set(attributes.pop("dilations", [1])) != {1} or any(odd):
            raise self._refusal(node, "dilations and ceil_mode are not supported")
        if node.op_type == "MaxPool":
            return replace(x, name=self._emit("MaxPool", [x.name], CHANNELS_LAST_DOMAIN,
                                              **attributes))  # fmt: skip
        if any(attributes["pads"]):
            raise self._refusal(node, "an average over padding is not supported")
        attributes.pop("count_include_pad", None)
        name = self._emit("AveragePool", [x.name], CHANNELS_LAST_DOMAIN, **attributes)
        if x.kind is None:
            return replace(x, name=name)
        # As many bits behind the point as the division makes, if it comes to an end.
        count = math.prod(kernel)
        behind = math.ceil(math.log2(count)) + (self.bits // 2 if count & (count - 1) else 0)
        mean = replace(x.kind, bits=x.kind.bits + behind)
        self.types[self.nodes[-1].name] = {"result": str(mean)}
        return replace(x, name=name, kind=mean)

    def _rectified(self, node: onnx_ir.Node, x: _Tensor) -> _Tensor:
        """hls4ml gives a rectifier the type of the quantizer right behind it, and the default type
        elsewhere: so what that quantizer wants multiplied is multiplied in front of both.
        """
        value, scales = node.outputs[0], set[float]()
        for use in value.uses():
            is_quantizer = use.node.op_type in ("Quant", "IntQuant")
            scale = self._by_channel(node, use.node.inputs[1]) if is_quantizer else np.zeros(2)
            scales.add(float(scale) if scale.size == 1 else 0.0)
        (wanted,) = scales if len(scales) == 1 and not value.is_graph_output() else (0.0,)
        if not wanted or _is_power_of_two(wanted):
            wanted = 1.0
        held = self._plain(replace(x, scale=x.scale / wanted, shift=x.shift / wanted))
        name = self._emit("Relu", [held.name])
        return _Tensor(name, np.asarray(wanted), order=x.order, kind=held.kind)

    def _flattened(self, node: onnx_ir.Node, x: _Tensor, rank: int) -> _Tensor:
        shape, after = self._shape(node.inputs[0]), self._shape(node.outputs[0])
        if shape is None or after is None or len(after) != 2 or (rank > 2 and x.order is not None):
            raise self._refusal(node, "only maps are flattened, to one vector a sample")
        if rank == 2:
            return x
        if node.op_type == "Reshape" and after[1] != math.prod(int(size) for size in shape[1:]):
            raise self._refusal(node, "only maps are flattened, to one vector a sample")
        if not x.is_scaled_alike:
            x = self._plain(x)
        sizes = [int(size) for size in shape[1:]]
        order = np.moveaxis(np.arange(math.prod(sizes)).reshape(sizes), 0, -1).reshape(-1)
        made = self._emit("Flatten", [x.name], axis=1)
        moved = order if (order != np.arange(order.size)).any() else None
        return replace(x, name=made, order=moved)

    # How it is written.

    def _plain(self, x: _Tensor) -> _Tensor:
        """The same tensor, held as it is: what is left of its scale is multiplied in, once."""
        if x.is_plain:
            return x
        key = f"{x.name} {x.scale.tobytes()!r} {x.shift.tobytes()!r}"
        if key not in self.plain:
            self.plain[key] = self._made_plain(x)
        return self.plain[key]

    def _made_plain(self, x: _Tensor) -> _Tensor:
        name = x.name
        if (x.scale != 1).any():
            name = self._emit("Mul", [name, self._fixed(self._ordered(x, x.scale))])
        if x.shift.any():
            shift = self._ordered(x, x.shift)
            name = self._emit("Add", [name, self._fixed(shift)])
            self.types[self.nodes[-1].name] = {"bias": str(narrowest(shift, self.bits))}
        return _Tensor(name, order=x.order, kind=x.kind if name == x.name else None)

    def _ordered(self, x: _Tensor, values: Array) -> Array:
        return values[x.order] if x.order is not None and values.size > 1 else values

    def _fixed(self, values: Array) -> str:
        """A constant in fixed point, one number a channel on the last axis."""
        kind = narrowest(values, self.bits)
        held = kind.rounded(np.atleast_1d(values))
        return self._quant(self._constant(held), kind.step, kind.bits, signed=int(kind.signed))

    def _quant(
        self, name: str, scale: float, bits: int, *, signed: int = 1, narrow: int = 0,
        rounding_mode: str = "ROUND",
    ) -> str:  # fmt: skip
        parameters = [self._constant(np.float32(value)) for value in (scale, 0.0, bits)]
        return self._emit(
            "Quant", [name, *parameters], QUANT_DOMAIN, signed=signed, narrow=narrow,
            rounding_mode=rounding_mode,
        )  # fmt: skip

    def _constant(self, values: Any) -> str:
        name = f"c{len(self.constants)}"
        array = np.asarray(values, np.float32)
        self.constants.append(numpy_helper.from_array(array, name))
        self.sizes[name] = array.shape
        return name

    def _emit(self, kind: str, inputs: Sequence[str], domain: str = "", **attributes: Any) -> str:
        name = f"t{len(self.nodes)}"
        label = f"{kind}_{len(self.nodes)}"
        self.nodes.append(
            helper.make_node(kind, inputs, [name], name=label, domain=domain, **attributes)
        )
        if kind in _RESIZES and self.made_by is not None:
            self.sizes[name] = self._sizes(self.made_by.outputs[0])
        else:
            self.sizes[name] = self.sizes[inputs[0]]
        return name

    def _rename(self, old: str, new: str) -> None:
        for node in self.nodes:
            node.input[:] = [new if name == old else name for name in node.input]
            node.output[:] = [new if name == old else name for name in node.output]
        self.sizes[new] = self.sizes.pop(old)

    def _sizes(self, value: onnx_ir.Value) -> tuple[int, ...]:
        """Of a tensor in the new network: batch 1, channels last."""
        shape = self._shape(value)
        if shape is None or not all(isinstance(size, int) and size > 0 for size in shape[1:]):
            raise ModelError(
                f"{self.model.origin.label}: the shape of {value.name} is not known but for its "
                "batch, and hls4ml builds for one shape."
            )
        sizes = [int(size) for size in shape[1:]]
        return (1, *sizes[1:], sizes[0]) if len(sizes) > 1 else (1, *sizes)

    # What the network says.

    def _shape(self, value: onnx_ir.Value | None) -> tuple[Any, ...] | None:
        return None if value is None else self.shapes[value.name or ""].shape

    def _rank(self, node: onnx_ir.Node, index: int = 0) -> int:
        shape = self._shape(node.inputs[index])
        if shape is None:
            raise self._refusal(node, "the shape of its input is not known")
        return len(shape)

    def _value(self, node: onnx_ir.Node, value: onnx_ir.Value | None) -> Array:
        found = constant(value)
        producer = None if value is None else value.producer()
        if found is None and producer is not None and producer.op_type in ("Quant", "IntQuant"):
            source, *parameters = (self._value(producer, v) for v in producer.inputs[:4])
            return quant(source.astype(np.float32), *parameters, **_quantizer(producer))
        if found is None:
            raise self._refusal(node, f"{value.name if value else 'an input'} is no constant")
        return found

    def _by_channel(
        self, node: onnx_ir.Node, value: onnx_ir.Value | None, beside: int = 0
    ) -> Array:
        """A constant that has one number, or one a channel: rank 0 or 1, float64.

        Args:
            beside: the input that it meets.
        """
        found = self._value(node, value).astype(np.float64)
        if _is_one_number(found):
            return np.asarray(found.reshape(-1)[0])
        rank = self._rank(node, beside)
        padded = found.reshape((1,) * (rank - found.ndim) + found.shape)
        if padded.size != padded.shape[1]:
            raise self._refusal(node, "a constant is neither one number nor one a channel")
        return padded.reshape(-1)

    def _refusal(self, node: onnx_ir.Node, why: str) -> ModelError:
        return ModelError(
            f"{self.model.origin.label}: {node_label(node)} ({node.op_type}) cannot be written "
            f"for hls4ml: {why}."
        )


def _reduced(values: Array) -> Array:
    """One number where all channels have the same."""
    return np.asarray(values.flat[0]) if _is_one_number(values) else values


def _is_power_of_two(number: float) -> bool:
    return math.frexp(number)[0] == 0.5


def _is_one_number(values: Array) -> bool:
    return bool(values.size) and bool((values == values.flat[0]).all())


def _affine(x: _Tensor, scale: Array, shift: Array) -> _Tensor:
    return replace(x, scale=x.scale * scale, shift=x.shift * scale + shift)


def _attribute(node: onnx_ir.Node, name: str, default: Any) -> Any:
    found = node.attributes.get(name)
    return default if found is None else found.value


def _all(node: onnx_ir.Node) -> dict[str, Any]:
    return {name: attribute.value for name, attribute in node.attributes.items()}


def _quantizer(node: onnx_ir.Node) -> dict[str, Any]:
    """Sign, range and rounding of a Quant."""
    return {
        "signed": int(_attribute(node, "signed", 1)),
        "narrow": int(_attribute(node, "narrow", 0)),
        "rounding_mode": str(_attribute(node, "rounding_mode", "ROUND")).upper(),
    }
