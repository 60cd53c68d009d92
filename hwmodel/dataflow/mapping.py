"""The operators of a graph and the kernels that run them.

A convolution is padding, a sliding window and a matrix-vector unit (1x1 ones without stride have
neither padding nor window); a depthwise one has a vector unit. Norms, constant scales and biases
take nothing: they go into the thresholds behind them. An activation with its quantizer is one
thresholding. What only renames (Reshape, Flatten, Identity ...) is no kernel; a tensor with
several readers is a fork. ONNX counts NCHW; streams carry a pixel's channels together (`layout`).

A convolution in groups is one matrix-vector unit whose weights are zero outside the groups: exact,
at G times the products. One with several outputs for each channel is as many depthwise units. A
gate that has one value for each channel is repeated for every pixel. Operators without a kernel
stay on the host where no weights follow them: a Softmax, the boxes of a detector.

In a float model with widths from the user, an activation is quantized where it stands; what is
wider than the activation bits, before a fork or where a layer reads it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir

from graphopt.cost import PlainCounts
from graphopt.errors import GraphoptError
from graphopt.ir.constants import constant
from graphopt.ir.layers import data_tensors
from graphopt.ir.model import Model, node_label
from graphopt.ir.shapes import Shapes
from graphopt.pipeline import Context, Pipeline
from hwmodel.dataflow import precision
from hwmodel.dataflow.layout import CannotReshape, Layout
from hwmodel.dataflow.precision import Bits, attribute
from hwmodel.datatypes import DataType, integer
from hwmodel.design import Builder, Design
from hwmodel.kernels import (
    ChannelPadding,
    Concat,
    Downsample,
    Fork,
    GlobalPool,
    Join,
    Kernel,
    LabelSelect,
    MatrixVector,
    MaxPool,
    Padding,
    Pool,
    Split,
    Threshold,
    Upsample,
    VectorVector,
    Window,
)
from hwmodel.kernels.kernel import Port


class UnsupportedLayer(GraphoptError):
    """A node that no kernel runs; the message names it and says what would help.

    Attributes:
        node: the node, where it is its operator that no kernel runs.
    """

    def __init__(self, message: str, node: onnx_ir.Node | None = None) -> None:
        super().__init__(message)
        self.node = node


@dataclass(frozen=True)
class Map:
    """What a stream carries: `channels` for each of height x width pixels.

    Attributes:
        stream: open stream of the builder; "" where the tensor waits for its first reader.
        element: type of an element.
        layout: in which order; None where the shape is not known.
    """

    stream: str
    element: DataType
    channels: int
    height: int = 1
    width: int = 1
    layout: Layout | None = None

    @property
    def elements(self) -> int:
        """In a frame."""
        return self.channels * self.height * self.width

    @property
    def pixels(self) -> int:
        """In a frame."""
        return self.height * self.width


RENAMES = frozenset(
    "Identity Dropout Cast Reshape Flatten Squeeze Unsqueeze Transpose DequantizeLinear "
    "BatchNormalization Floor Ceil Round".split()
)
"""Operators that take no hardware: they only rename, or go into neighbours."""

_RESHAPES = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze"})
_QUANTIZERS = precision.QUANTIZERS | {"QuantizeLinear", "MultiThreshold", "RequantShift"}

MONOTONE = {
    "Relu": False, "Clip": False, "Sigmoid": False, "HardSigmoid": False, "Tanh": True,
    "LeakyRelu": True, "PRelu": True, "Elu": True, "Selu": True, "Softplus": False,
    "Softsign": True, "Sign": True, "ThresholdedRelu": False,
}  # fmt: skip
"""Activations that thresholds can stand for, and whether their values have a sign."""

GATED = frozenset({"HardSwish", "Swish", "Gelu", "QuickGelu", "Mish"})
"""Activations x g(x) with a monotone g between 0 and 1: thresholds for g, and a product."""

_CONVS = frozenset({"Conv", "QLinearConv"})
_PRODUCTS = frozenset({"Gemm", "MatMul", "QLinearMatMul"})
_LINEAR = _CONVS | _PRODUCTS
_WEIGHTED = _LINEAR | frozenset(
    "ConvTranspose ConvInteger MatMulInteger FusedConv FusedMatMul QGemm LSTM GRU RNN".split()
)
_POOLS = frozenset(
    "MaxPool AveragePool GlobalAveragePool GlobalMaxPool QLinearGlobalAveragePool".split()
)
_JOINS = {
    "Add": "add", "Sum": "add", "Sub": "sub", "Mul": "mul",
    "QLinearAdd": "add", "QLinearMul": "mul",
}  # fmt: skip
_BINARY = frozenset({*_JOINS, "Div"})


def map_model(model: Model, *, bits: Bits | None = None) -> Design:
    """The design of a model, every kernel with PE = SIMD = 1.

    Args:
        model: the model; it is not changed. Widths come from its quantizers (QONNX Quant,
            BipolarQuant, Trunc; QuantizeLinear; MultiThreshold) and annotations (finn_datatype).
        bits: widths where it has none.

    Raises:
        UnsupportedLayer: a node has no kernel, a shape is unknown, or a layer has no widths.
    """
    return mapped(model, bits=bits).design


@dataclass(frozen=True)
class Mapped:
    """A design and what it leaves out.

    Attributes:
        design: the design; what the host reads leaves it.
        host: labels of the nodes that the host runs, in order of execution.
    """

    design: Design
    host: tuple[str, ...]


def mapped(model: Model, *, bits: Bits | None = None) -> Mapped:
    """As `map_model`, and which nodes at the end of the model stay on the host."""
    copy = cleaned(model)
    if any(node.domain.startswith("finn.custom_op.fpgadataflow") for node in copy.graph):
        raise UnsupportedLayer(
            f"{model.origin.label} is a hardware graph of FINN's already: read it with "
            "hwmodel.finn.graph.read."
        )
    host: set[onnx_ir.Node] = set()
    while True:
        try:
            design = _Mapper(copy, bits, frozenset(host)).run()
        except UnsupportedLayer as refused:
            tail = _tail(refused.node)
            if not tail:
                raise
            host |= tail
        else:
            return Mapped(design, tuple(node_label(n) for n in copy.graph if n in host))


def _tail(node: onnx_ir.Node | None) -> set[onnx_ir.Node]:
    """A node and all that depends on it, if weights come before and none after; else nothing."""
    if node is None:
        return set()
    after = _reached(node, lambda each: [u.node for value in each.outputs for u in value.uses()])
    before = _reached(node, lambda each: [p for p in each.predecessors() if p is not None])
    if any(each.op_type in _WEIGHTED for each in after):
        return set()
    return after if any(each.op_type in _WEIGHTED for each in before) else set()


def _reached(
    first: onnx_ir.Node, onward: Callable[[onnx_ir.Node], list[onnx_ir.Node]]
) -> set[onnx_ir.Node]:
    found, waiting = {first}, [first]
    while waiting:
        new = set(onward(waiting.pop())) - found
        found |= new
        waiting += new
    return found


def cleaned(model: Model) -> Model:
    """A copy in which what the graph computes of constants and shapes is constant."""
    copy = model.clone()
    Pipeline.parse(_CLEANING).run(copy, Context("cpu", PlainCounts()))
    return copy


_CLEANING = "freeze-weights,fold-constants,dce"
"""Exporters compute pads and shapes in the graph; here they are needed as numbers."""


class _Mapper:
    def __init__(
        self, model: Model, bits: Bits | None, host: frozenset[onnx_ir.Node] = frozenset()
    ) -> None:
        self.model, self.bits, self.host = model, bits, host
        # What a model quantizes itself is not narrowed to the user's widths.
        self.narrows = not any(node.op_type in _QUANTIZERS for node in model.graph)
        self.shapes = model.analyses.get(Shapes())
        self.data = data_tensors(model)
        self.build = Builder()
        self.maps: dict[str, Map] = {}
        self.layouts: dict[str, Layout | None] = {}
        nodes = [n for n in model.graph if any(o.name in self.data for o in n.outputs)]
        self.nodes = [node for node in nodes if node not in host]
        self.outputs = {value.name for value in model.graph.outputs}
        given = {value.name for value in model.graph.inputs}
        for node in nodes:
            if node in host:  # it has the inputs of the graph itself
                self.outputs |= {v.name for v in self._data_inputs(node)} - given
        self.linear = [n for n in self.nodes if n.op_type in _LINEAR]
        if bits is not None:
            bits.check([node_label(node) for node in self.linear])
        self.place = {id(node): index for index, node in enumerate(self.linear)}
        self.alias: dict[str, str] = {}
        self.readers: dict[str, int] = {}
        self.taken: dict[str, list[str]] = {}
        self.names: set[str] = set()
        self.handlers: dict[str, Callable[[onnx_ir.Node], None]] = {
            "Concat": self._concat,
            "Split": self._split,
            "Resize": self._resize,
            "Upsample": self._resize,
            "Pad": self._pad,
            "Slice": self._slice,
            "ReduceMean": self._mean,
            "ArgMax": self._select,
            "TopK": self._select,
            **dict.fromkeys(_CONVS, self._conv),
            **dict.fromkeys(_PRODUCTS, self._product),
            **dict.fromkeys(_POOLS, self._pool),
            **dict.fromkeys(_JOINS, self._join),
            **dict.fromkeys(GATED, self._gated),
        }

    def run(self) -> Design:
        self._count()
        for value in self.model.graph.inputs:
            if value.name in self.data and value.name and self.readers.get(value.name):
                self._input(value)
        for node in self.nodes:
            if node.outputs[0].name in self.alias:
                self._carry(node)
            else:
                self._map(node)
        return self.build.design()

    # ---- which tensors are the same, and who reads them

    def _count(self) -> None:
        for node in self.nodes:
            if self._renames(node):
                self._check_renaming(node)
                source = self._data_inputs(node)[0]
                for output in node.outputs:
                    if output.name:
                        self.alias[output.name] = self._root(source.name or "")
        for node in self.nodes:
            if node.outputs[0].name in self.alias:
                continue
            for value in self._data_inputs(node):
                root = self._root(value.name or "")
                self.readers[root] = self.readers.get(root, 0) + 1
        for root in {self._root(name or "") for name in self.outputs}:
            if root in self.readers:
                self.readers[root] += 1

    def _renames(self, node: onnx_ir.Node) -> bool:
        """Whether a node takes no hardware: its output is its first data input."""
        kind = node.op_type
        sources = self._data_inputs(node)
        if len(sources) != 1:
            return False
        if kind in RENAMES:
            return True
        if kind in ("Softmax", "LogSoftmax"):
            # The largest stays the largest.
            readers = [use.node for use in node.outputs[0].uses()]
            return bool(readers) and all(r.op_type in ("ArgMax", "TopK") for r in readers)
        if kind == "ReduceMean" and len(self._axes(node)) == 1:
            # A mean over width whose result a mean over height reads: one pool, at the second.
            readers = [use.node for use in node.outputs[0].uses()]
            return len(readers) == 1 and readers[0].op_type == "ReduceMean"
        if kind in _BINARY:
            return True
        if kind in _QUANTIZERS:
            # The quantizer of the graph's input says what comes in, unless an annotation does or
            # there are several that differ: then each is a thresholding.
            return self._is_input(sources[0]) and self._says_what_comes_in(sources[0])
        # Without widths of the user's, an activation goes into the quantizer behind it.
        return kind in MONOTONE and (self.bits is None or self._quantized_next(node))

    def _check_renaming(self, node: onnx_ir.Node) -> None:
        if node.domain.endswith("channels_last"):
            raise self._refused(node, "it is channels-last: convert the model to channels-first")

    def _is_input(self, value: onnx_ir.Value) -> bool:
        root = self._root(value.name or "")
        return any(value.name == root for value in self.model.graph.inputs)

    def _says_what_comes_in(self, value: onnx_ir.Value) -> bool:
        root = self.model.value_index()[self._root(value.name or "")]
        kinds = {precision.quantized(use.node) for use in value.uses()
                 if use.node.op_type in _QUANTIZERS}  # fmt: skip
        return precision.annotated(root) is None and len(kinds) == 1

    def _quantized_next(self, node: onnx_ir.Node) -> bool:
        readers = [use.node for use in node.outputs[0].uses()]
        return bool(readers) and all(reader.op_type in _QUANTIZERS for reader in readers)

    def _root(self, name: str) -> str:
        return self.alias.get(name, name)

    def _data_inputs(self, node: onnx_ir.Node) -> list[onnx_ir.Value]:
        return [value for value in node.inputs if value is not None and value.name in self.data]

    # ---- streams

    def _input(self, value: onnx_ir.Value) -> None:
        name = value.name or ""
        shape = self._shape(value, "the input")
        element = precision.annotated(value) or self._type_behind(name)
        if element is None:
            first = self.bits.first if self.bits and self.bits.first else None
            element = integer(first[1], signed=False) if first else precision.IMAGE
        tensor = _seen(Map("", element, math.prod(shape)), self._order_of_input(value, (1, *shape)))
        stream = self.build.source(name, Port(element, 1, tensor.elements))
        self._open(name, replace(tensor, stream=stream), name)

    def _order_of_input(self, value: onnx_ir.Value, shape: tuple[int, ...]) -> Layout:
        """As its first layer reads it: an image pixel by pixel, tokens as they are."""
        order = list(range(len(shape)))
        as_is = False
        while readers := [u.node for u in value.uses() if u.node.outputs[0].name in self.data]:
            node = readers[0]
            if node.op_type in _CONVS | _POOLS and len(shape) > 2:
                return Layout.of(shape, [order[0], *order[2:], order[1]])
            if node.op_type == "Transpose":
                perm = attribute(node, "perm", None) or order[::-1]
                order, as_is = [order[axis] for axis in perm], True
            elif node.op_type in _RESHAPES:
                as_is = True
                break
            elif len(self._data_inputs(node)) > 1:
                break
            value = node.outputs[0]
        return Layout.of(shape) if as_is or len(shape) != 4 else Layout.of_map(shape)

    def _type_behind(self, name: str) -> DataType | None:
        """What the quantizers that were folded into this tensor say."""
        for node in self.nodes:
            if node.outputs[0].name in self.alias and self.alias[node.outputs[0].name] == name:
                found = precision.quantized(node)
                if found is not None:
                    return found
        return None

    def _shape(self, value: onnx_ir.Value, what: str) -> tuple[int, ...]:
        """The shape of one sample, batch left out."""
        shape = self.shapes[value.name or ""].shape
        if shape is None or any(not isinstance(d, int) for d in shape[1:]):
            raise UnsupportedLayer(
                f"{what} ({value.name}) has no known shape: give the model fixed sizes."
            )
        return tuple(d for d in shape[1:] if isinstance(d, int))

    def _carry(self, node: onnx_ir.Node) -> None:
        """Notes in which order the stream carries what a node renames."""
        layout = self.layouts.get(self._data_inputs(node)[0].name or "")
        if layout is not None and node.op_type == "Transpose":
            layout = layout.transposed(
                attribute(node, "perm", None) or range(len(layout.axes))[::-1]
            )
        elif layout is not None and node.op_type in _RESHAPES:
            shape = self._reshaped(node, layout)
            try:
                layout = layout.reshaped(shape) if shape else None
            except CannotReshape:
                layout = None
        for output in node.outputs:
            self.layouts[output.name or ""] = layout

    def _reshaped(self, node: onnx_ir.Node, layout: Layout) -> tuple[int, ...] | None:
        """The shape that a Reshape gives one sample; one unknown size follows from the others."""
        shape = self.shapes[node.outputs[0].name or ""].shape
        if shape is None:
            return None
        count = math.prod(layout.sizes)
        known = math.prod(d for d in shape if isinstance(d, int))
        if known and all(isinstance(d, int) for d in shape) and known > count:
            # A batch that is fixed in the model: one sample of it.
            first = shape[0]
            assert isinstance(first, int)
            if known % count or first % (known // count):
                return None
            return (first * count // known, *(d for d in shape[1:] if isinstance(d, int)))
        sizes = []
        rest = count // known if known and count % known == 0 else 0
        for dim in shape[::-1]:
            sizes.append(dim if isinstance(dim, int) else rest)
            rest = rest if isinstance(dim, int) else 1
        return tuple(sizes[::-1])

    def _open(self, name: str, tensor: Map, layer: str) -> None:
        """Notes the stream of a tensor, forked for all its readers."""
        count = self.readers.get(name, 0)
        self.taken[name] = self._forked(f"{layer}.fork", tensor, count, layer)
        self.maps[name] = tensor
        self.layouts[name] = tensor.layout

    def _forked(self, name: str, tensor: Map, ways: int, layer: str) -> list[str]:
        if ways < 2:
            return [tensor.stream]
        fork = Fork(
            name=self._name(name),
            # a depthwise window has sent each element several times
            elements=self._words(tensor.stream),
            pe=1,
            element=tensor.element,
            ways=ways,
        )
        return list(self.build.add(fork, [tensor.stream], layer=layer))

    def _words(self, stream: str) -> int:
        return self.build.port(stream).words

    def _take(self, value: onnx_ir.Value) -> Map:
        """One reader's stream of a tensor, in the shape that this reader sees."""
        root = self._root(value.name or "")
        tensor = replace(self.maps[root], stream=self.taken[root].pop(0))
        return _seen(tensor, self.layouts.get(value.name or ""))

    def _take_each(self, node: onnx_ir.Node) -> Map:
        """The same for a reader that looks at each element by itself: channels as they were."""
        value = self._data_inputs(node)[0]
        root = self.maps[self._root(value.name or "")]
        seen = self._take(value)
        return replace(root, stream=seen.stream, layout=seen.layout)

    def _take_map(self, node: onnx_ir.Node, value: onnx_ir.Value | None = None) -> Map:
        """The same for a reader of [N, C, *spatial].

        Raises:
            UnsupportedLayer: the stream carries it in another order.
        """
        tensor = self._take(value or self._data_inputs(node)[0])
        layout = tensor.layout
        if layout is None:
            return tensor
        if not layout.is_map:
            raise self._refused(node, _TURNED)
        _, channels, *spatial = (*layout.shape, 1, 1)
        return replace(tensor, channels=channels, height=spatial[0], width=math.prod(spatial[1:]))

    def _name(self, wanted: str) -> str:
        name, count = wanted, 1
        while name in self.names:
            count += 1
            name = f"{wanted}_{count}"
        self.names.add(name)
        return name

    def _add(self, kernel: Kernel, streams: list[str], node: onnx_ir.Node) -> str:
        (stream,) = self.build.add(kernel, streams, layer=node_label(node))
        return stream

    def _close(self, node: onnx_ir.Node, tensor: Map) -> None:
        if node.op_type.startswith("QLinear"):
            element = precision.quantized(node)
            assert element is not None
            tensor = self._thresholded(node, tensor, element, False, ".requantize")
        forked = self.readers.get(node.outputs[0].name or "", 0) > 1
        wide = self.bits is not None and tensor.element.bits > self.bits.activation
        if self.bits is not None and wide and forked and self.narrows:
            # A skip carries activations, not accumulators: narrowed once, before the fork.
            narrow = integer(self.bits.activation, signed=tensor.element.signed)
            tensor = self._thresholded(node, tensor, narrow, False, ".narrow")
        self._open(node.outputs[0].name or "", tensor, node_label(node))

    # ---- operators

    def _map(self, node: onnx_ir.Node) -> None:
        kind = node.op_type
        self._check_renaming(node)
        if kind in _QUANTIZERS:
            self._quantizer(node)
        elif kind == "Trunc":
            # The shift is part of the pool before it.
            tensor = self._take_each(node)
            made = precision.quantized(node)
            bits = tensor.element.bits if made is None else made.bits
            narrow = integer(bits, signed=tensor.element.signed)
            self._close(node, replace(tensor, element=narrow))
        elif kind in MONOTONE:
            self._activation(node)
        elif kind in self.handlers:
            self.handlers[kind](node)
        else:
            raise self._refused(node, "no kernel of FINN runs it")

    def _refused(self, node: onnx_ir.Node, why: str) -> UnsupportedLayer:
        message = f"{node_label(node)} ({node.op_type}) cannot be mapped: {why}."
        return UnsupportedLayer(message, node)

    def _quantizer(self, node: onnx_ir.Node) -> None:
        element = precision.quantized(node)
        if element is None:
            raise self._refused(node, "its width is not a constant")
        tensor = self._take_each(node)
        shared = False
        if node.op_type == "MultiThreshold" and len(node.inputs) > 1:
            table = constant(node.inputs[1])
            shared = table is not None and table.ndim == 2 and table.shape[0] == 1
        self._close(node, self._thresholded(node, tensor, element, shared))

    def _activation(self, node: onnx_ir.Node) -> None:
        """An activation of a float model, quantized to the user's width."""
        assert self.bits is not None
        element = integer(self.bits.activation, signed=MONOTONE[node.op_type])
        if node.op_type == "Clip" and len(node.inputs) > 1:
            low = constant(node.inputs[1])
            element = integer(element.bits, signed=low is None or float(np.min(low)) < 0)
        tensor = self._take_each(node)
        self._close(node, self._thresholded(node, tensor, element, False))

    def _thresholded(
        self, node: onnx_ir.Node, tensor: Map, element: DataType, shared: bool, suffix: str = ""
    ) -> Map:
        if tensor.element == element:
            return tensor
        kernel = Threshold(
            name=self._name(node_label(node) + suffix),
            channels=tensor.channels,
            vectors=tensor.pixels,
            input=tensor.element,
            threshold=tensor.element,
            output=element,
            steps=precision.steps(element),
            shared=shared,
        )
        stream = self._add(kernel, [tensor.stream], node)
        return replace(tensor, stream=stream, element=element)

    def _widths(
        self, node: onnx_ir.Node, tensor: Map, weight: onnx_ir.Value
    ) -> tuple[Map, DataType]:
        """The input of a layer, narrowed where the user says so, and the type of its weights."""
        kind = precision.of_weight(weight)
        if self.bits is None:
            if kind is None:
                raise UnsupportedLayer(
                    f"{node_label(node)} ({node.op_type}) has weights of no known width: quantize "
                    "the model, or give widths with --bits w4a4."
                )
            return tensor, kind
        place, label = self.place[id(node)], node_label(node)
        given, activation = self.bits.of(place, len(self.linear), label)
        if kind is None:
            kind = DataType.parse("BIPOLAR") if given == 1 else integer(given, signed=True)
        if self.narrows and tensor.element.bits > activation and place > 0:
            narrow = integer(activation, signed=tensor.element.signed)
            tensor = self._thresholded(node, tensor, narrow, False, ".input")
        return tensor, kind

    def _check_bias(self, node: onnx_ir.Node) -> None:
        biases = node.inputs[8:] if node.op_type.startswith("QLinear") else node.inputs[2:]
        if any(value is not None and value.name in self.data for value in biases):
            raise self._refused(node, "its bias is computed: add it by a node of its own")

    def _weight(self, node: onnx_ir.Node) -> tuple[onnx_ir.Value, tuple[int, ...]]:
        places = (0, 3) if node.op_type.startswith("QLinear") else (0, 1)
        given = [node.inputs[place] for place in places]
        sides = [v for v in given if v is not None and v.name not in self.data]
        if not sides:
            raise self._refused(node, "both of its sides depend on the input")
        shape = self.shapes[sides[0].name or ""].static()
        if shape is None and sides[0].const_value is not None:
            shape = tuple(np.shape(sides[0].const_value.numpy()))
        if shape is None:
            raise self._refused(node, "the shape of its weights is not known")
        return sides[0], shape

    def _conv(self, node: onnx_ir.Node) -> None:
        self._check_bias(node)
        weight, shape = self._weight(node)
        if not 3 <= len(shape) <= 4:
            raise self._refused(node, f"its kernel has {len(shape) - 2} axes; 1 or 2 can be mapped")
        tensor = self._take_map(node)
        rank = len(shape)
        tensor, kind = self._widths(node, tensor, weight)
        outputs, *kernel = shape[0], *shape[2:], 1
        window = self._geometry(node, (kernel[0], kernel[1]), tensor)
        groups = attribute(node, "group", 1)
        depthwise = groups > 1 and groups == tensor.channels
        tensor = self._windowed(node, tensor, window, depthwise=depthwise)
        if depthwise:
            tensor = self._depthwise(node, tensor, window, kind, outputs // groups)
        else:
            rows = kernel[0] * kernel[1] * tensor.channels
            tensor = self._multiplied(node, tensor, rows, outputs, kind)
        sizes = (1, outputs, tensor.height, tensor.width)[:rank]
        order = tensor.layout if depthwise and outputs == groups else None
        layout = Layout.of_map(sizes, order)
        if depthwise and outputs > groups:
            # The copies come one after the other, where ONNX has those of a channel together.
            layout = Layout.of((*sizes[:1], outputs // groups, groups, *sizes[2:]),
                               (0, *range(3, rank + 1), 1, 2))  # fmt: skip
            layout = layout.transposed((0, 2, 1, *range(3, rank + 1))).reshaped(sizes)
        self._close(node, replace(tensor, layout=layout))

    def _multiplied(
        self, node: onnx_ir.Node, tensor: Map, rows: int, columns: int, kind: DataType
    ) -> Map:
        """The matrix-vector unit of a layer."""
        wide = precision.accumulator(rows, tensor.element, kind)
        made = _matrix(self._name(node_label(node)), rows, columns, tensor, kind, wide)
        stream = self._add(made, [tensor.stream], node)
        return replace(tensor, stream=stream, element=wide, channels=columns)

    def _depthwise(
        self, node: onnx_ir.Node, tensor: Map, window: _Geometry, kind: DataType, copies: int
    ) -> Map:
        """A vector unit for each output of a channel."""
        if copies > 1 and tensor.layout is not None and len(tensor.layout.axes[1]) > 1:
            raise self._refused(node, "its channels are shuffled and it makes several of each")
        label = node_label(node)
        taps = window.kernel[0] * window.kernel[1]
        wide = precision.accumulator(taps, tensor.element, kind)
        streams = self._forked(f"{label}.copies", tensor, copies, label)
        made = []
        for stream in streams:
            unit = VectorVector(
                name=self._name(label),
                channels=tensor.channels,
                kernel=window.kernel,
                vectors=tensor.pixels,
                input=tensor.element,
                weight=kind,
                accumulator=wide,
                output=wide,
                backend=_backend(tensor.element, kind),
            )
            made.append(self._add(unit, [stream], node))
        tensor = replace(tensor, stream=made[0], element=wide)
        if copies == 1:
            return tensor
        concat = Concat(
            name=self._name(f"{label}.concat"),
            vectors=tensor.pixels,
            channels=(tensor.channels,) * copies,
            element=wide,
        )
        stream = self._add(concat, made, node)
        return replace(tensor, stream=stream, channels=copies * tensor.channels)

    def _geometry(self, node: onnx_ir.Node, kernel: tuple[int, int], tensor: Map) -> _Geometry:
        def pair(name: str) -> tuple[int, int]:
            found = tuple(attribute(node, name, ()) or ())
            return (int(found[0]), int(found[1]) if len(found) > 1 else 1) if found else (1, 1)

        stride, dilation = pair("strides"), pair("dilations")
        reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
        mode = attribute(node, "auto_pad", "NOTSET")
        sizes = (tensor.height, tensor.width)
        if mode in ("SAME_UPPER", "SAME_LOWER"):
            both = [
                max(0, (-(-n // s) - 1) * s + r - n)
                for n, s, r in zip(sizes, stride, reach, strict=True)
            ]
            low = [b // 2 if mode == "SAME_UPPER" else b - b // 2 for b in both]
            pads = (low[0], low[1], both[0] - low[0], both[1] - low[1])
        else:
            found = [int(p) for p in attribute(node, "pads", ()) or (0, 0, 0, 0)]
            if len(found) == 2:
                found = [found[0], 0, found[1], 0]
            pads = (found[0], found[1], found[2], found[3])
        if min(pads) < 0:
            raise self._refused(node, "its pads are negative")
        padded = (sizes[0] + pads[0] + pads[2], sizes[1] + pads[1] + pads[3])
        if any(r > n for r, n in zip(reach, padded, strict=True)):
            raise self._refused(node, "its window is larger than the map")
        return _Geometry(kernel, stride, dilation, pads)

    def _windowed(
        self, node: onnx_ir.Node, tensor: Map, window: _Geometry, *, depthwise: bool
    ) -> Map:
        """The tensor as windows: padding if there is any, then the generator."""
        label = node_label(node)
        if any(window.pads):
            tensor = self._padded(node, tensor, window.pads)
        if window.kernel == (1, 1) and window.stride == (1, 1):
            return tensor
        generator = Window(
            name=self._name(f"{label}.window"),
            height=tensor.height,
            width=tensor.width,
            channels=tensor.channels,
            kernel=window.kernel,
            stride=window.stride,
            dilation=window.dilation,
            element=tensor.element,
            depthwise=depthwise,
        )
        stream = self._add(generator, [tensor.stream], node)
        return replace(
            tensor, stream=stream, height=generator.out_height, width=generator.out_width
        )

    def _padded(self, node: onnx_ir.Node, tensor: Map, pads: tuple[int, int, int, int]) -> Map:
        kernel = Padding(
            name=self._name(f"{node_label(node)}.pad"),
            height=tensor.height,
            width=tensor.width,
            channels=tensor.channels,
            pads=pads,
            element=tensor.element,
        )
        stream = self._add(kernel, [tensor.stream], node)
        return replace(tensor, stream=stream, height=kernel.out_height, width=kernel.out_width)

    def _product(self, node: onnx_ir.Node) -> None:
        source = self._data_inputs(node)[0]
        self._check_bias(node)
        weight, shape = self._weight(node)
        if len(shape) != 2:
            raise self._refused(node, "its weights are no matrix")
        transposed = node.op_type == "Gemm" and attribute(node, "transB", 0)
        rows, columns = (shape[1], shape[0]) if transposed else (shape[0], shape[1])
        if node.inputs[0] is weight:
            raise self._refused(node, "its weights stand on the left")
        tensor = self._take(source)
        layout = tensor.layout
        if layout is not None and not layout.is_innermost(len(layout.axes) - 1):
            raise self._refused(node, _TURNED)
        if tensor.elements % rows or (layout is not None and layout.shape[-1] != rows):
            raise self._refused(node, f"its weights have {rows} rows, its input other vectors")
        tensor = replace(tensor, channels=rows, height=tensor.elements // rows, width=1)
        tensor, kind = self._widths(node, tensor, weight)
        tensor = self._multiplied(node, tensor, rows, columns, kind)
        self._close(node, replace(tensor, layout=layout and layout.with_last(columns)))

    def _pool(self, node: onnx_ir.Node) -> None:
        tensor = self._take_map(node)
        kind = node.op_type
        if kind.endswith(("GlobalAveragePool", "GlobalMaxPool")):
            kernel = (tensor.height, tensor.width)
            window = _Geometry(kernel)
        else:
            sizes = tuple(attribute(node, "kernel_shape", ()))
            kernel = (int(sizes[0]), int(sizes[1]) if len(sizes) > 1 else 1)
            if attribute(node, "ceil_mode", 0):
                window = self._ceiled(node, kernel, tensor)
            else:
                window = self._geometry(node, kernel, tensor)
        largest = kind in ("MaxPool", "GlobalMaxPool")
        whole = kernel == (tensor.height, tensor.width) and not any(window.pads)
        label = node_label(node)
        made: Kernel
        if whole and not largest:
            return self._close(node, self._pooled_whole(node, tensor))
        fits = (
            largest
            and kernel == window.stride
            and not any(window.pads)
            and window.dilation == (1, 1)
            and tensor.height % kernel[0] == 0
            and tensor.width % kernel[1] == 0
        )
        if fits:
            made = MaxPool(
                name=self._name(label),
                height=tensor.height,
                width=tensor.width,
                channels=tensor.channels,
                kernel=kernel,
                element=tensor.element,
            )
            stream = self._add(made, [tensor.stream], node)
            tensor = replace(tensor, stream=stream, height=made.out_height, width=made.out_width)
            return self._close(node, _resized(tensor))
        tensor = self._windowed(node, tensor, window, depthwise=True)
        wide = tensor.element if largest else _summed(tensor.element, kernel[0] * kernel[1])
        made = Pool(
            name=self._name(label),
            channels=tensor.channels,
            kernel=kernel,
            vectors=tensor.pixels,
            function="MaxPool" if largest else "QuantAvgPool",
            input=tensor.element,
            output=wide,
        )
        stream = self._add(made, [tensor.stream], node)
        return self._close(node, _resized(replace(tensor, stream=stream, element=wide)))

    def _axes(self, node: onnx_ir.Node) -> set[int]:
        """The axes that a reduction goes over, batch counted."""
        axes = attribute(node, "axes", None)
        if axes is None and len(node.inputs) > 1:
            given = constant(node.inputs[1])
            axes = None if given is None else [int(a) for a in np.ravel(given)]
        shape = self.shapes[self._data_inputs(node)[0].name or ""].shape
        rank = 0 if shape is None else len(shape)
        return set() if axes is None else {a % max(rank, 1) for a in axes}

    def _mean(self, node: onnx_ir.Node) -> None:
        """A mean over height and width, at once or one after the other (the first is renamed)."""
        value = self._data_inputs(node)[0]
        shape = self.shapes[value.name or ""].shape
        tensor = self._take(value)
        layout = tensor.layout
        axes = self._axes(node)
        if shape is not None and layout is not None and axes == set(range(2, len(shape))):
            if not layout.is_map:
                raise self._refused(node, _TURNED)
            tensor = replace(tensor, channels=layout.shape[1])
        elif shape is not None and layout is not None and axes == set(range(1, len(shape) - 1)):
            last = len(layout.axes) - 1
            if not layout.is_innermost(last):
                raise self._refused(node, _TURNED)
            tensor = replace(tensor, channels=layout.shape[last])
        else:
            raise self._refused(node, "it does not take the mean over height and width")
        elements = math.prod(layout.sizes)
        tensor = replace(tensor, height=elements // tensor.channels, width=1)
        made = self.shapes[node.outputs[0].name or ""].shape
        kept = len(made) if made is not None else 2
        first = axes == set(range(2, len(shape)))
        tensor = self._pooled_whole(node, tensor)
        if first:
            sizes = (1, tensor.channels, *(1,) * (kept - 2))
            tensor = replace(tensor, layout=Layout.of_map(sizes, layout))
        else:
            tensor = replace(tensor, layout=Layout.of((*(1,) * (kept - 1), tensor.channels)))
        self._close(node, tensor)

    def _pooled_whole(self, node: onnx_ir.Node, tensor: Map) -> Map:
        wide = _summed(tensor.element, tensor.pixels)
        kernel = GlobalPool(
            name=self._name(node_label(node)),
            channels=tensor.channels,
            vectors=tensor.pixels,
            input=tensor.element,
            output=wide,
        )
        stream = self._add(kernel, [tensor.stream], node)
        return _resized(replace(tensor, stream=stream, element=wide, height=1, width=1))

    def _ceiled(self, node: onnx_ir.Node, kernel: tuple[int, int], tensor: Map) -> _Geometry:
        """With ceil_mode the last window may reach past the map: more padding there."""
        window = self._geometry(node, kernel, tensor)
        pads = list(window.pads)
        for axis, size in enumerate((tensor.height, tensor.width)):
            reach = (kernel[axis] - 1) * window.dilation[axis] + 1
            total = size + pads[axis] + pads[axis + 2]
            over = (total - reach) % window.stride[axis]
            if over:
                pads[axis + 2] += window.stride[axis] - over
        return replace(window, pads=(pads[0], pads[1], pads[2], pads[3]))

    def _join(self, node: onnx_ir.Node) -> None:
        tensors = [self._take(value) for value in self._data_inputs(node)]
        layouts = [t.layout for t in tensors if t.layout is not None]
        largest = max(layouts, key=lambda each: math.prod(each.sizes), default=None)
        if largest is not None:
            tensors = [self._repeated(node, tensor, largest) for tensor in tensors]
        if len({t.elements for t in tensors}) > 1:
            raise self._refused(node, "its inputs have different sizes, and none can be repeated")
        if len({t.layout for t in tensors if t.layout is not None}) > 1:
            raise self._refused(
                node,
                "its inputs come in different orders: one of them went through a Transpose, a "
                "Reshape or a shuffle of channels",
            )
        function = _JOINS[node.op_type]
        widths = [t.element.bits for t in tensors]
        more = max(widths) + (len(widths) - 1).bit_length()
        wide = sum(widths) if function == "mul" else more
        signed = function == "sub" or any(t.element.signed for t in tensors)
        # An unsigned addend needs one more bit where another has a sign.
        mixed = signed and any(
            not t.element.signed and t.element.bits == max(widths) for t in tensors
        )
        output = integer(wide + int(mixed), signed=signed)
        join = Join(
            name=self._name(node_label(node)),
            elements=tensors[0].elements,
            pe=1,
            operands=tuple(t.element for t in tensors),
            output=output,
            function=function,
        )
        stream = self._add(join, [t.stream for t in tensors], node)
        self._close(node, replace(tensors[0], stream=stream, element=output))

    def _repeated(self, node: onnx_ir.Node, tensor: Map, like: Layout) -> Map:
        """One value for each channel, as a gate has it, for every pixel of a square map."""
        layout = tensor.layout
        if layout is None or layout.shape == like.shape or len(layout.axes) != len(like.axes):
            return tensor
        batch, channels, *spatial = like.shape
        one = Layout.of_map((batch, channels, *(1 for _ in spatial)), like)
        if layout != one or len(spatial) != 2:
            return tensor
        if spatial[0] != spatial[1]:
            raise self._refused(
                node,
                f"a value for each channel can be repeated over a square map, not over "
                f"{spatial[0]} x {spatial[1]}",
            )
        kernel = Upsample(
            name=self._name(f"{node_label(node)}.repeat"),
            height=1,
            width=1,
            channels=channels,
            scale=spatial[0],
            element=tensor.element,
        )
        stream = self._add(kernel, [tensor.stream], node)
        return Map(stream, tensor.element, channels, spatial[0], spatial[1], like)

    def _gated(self, node: onnx_ir.Node) -> None:
        """Of a float model: x and g(x), quantized to the user's width, and their product."""
        if self.bits is None:
            raise UnsupportedLayer(
                f"{node_label(node)} ({node.op_type}) has no known width: quantize the model, or "
                "give widths with --bits w4a4."
            )
        tensor = self._take_each(node)
        if tensor.element.bits > self.bits.activation:
            narrow = integer(self.bits.activation, signed=True)
            tensor = self._thresholded(node, tensor, narrow, False, ".input")
        label = node_label(node)
        straight, aside = self._forked(f"{label}.fork", tensor, 2, label)
        share = integer(self.bits.activation, signed=False)
        gate = self._thresholded(node, replace(tensor, stream=aside), share, False, ".gate")
        output = integer(tensor.element.bits + share.bits, signed=tensor.element.signed)
        join = Join(
            name=self._name(label),
            elements=tensor.elements,
            pe=1,
            operands=(tensor.element, share),
            output=output,
            function="mul",
        )
        stream = self._add(join, [straight, gate.stream], node)
        self._close(node, replace(tensor, stream=stream, element=output))

    def _concat(self, node: onnx_ir.Node) -> None:
        values = self._data_inputs(node)
        known = self.layouts.get(values[0].name or "")
        rank = len(known.axes if known else self.shapes[values[0].name or ""].shape or ())
        axis = attribute(node, "axis", 1) % max(rank, 1)
        # [N, C, H, W], or the last axis of tokens
        if axis == 1 and len(values) == 1 and (zeros := self._zero_channels(node)) is not None:
            tensor = self._take_map(node)
            return self._close(node, self._more_channels(node, tensor, *zeros))
        if len(values) != len(node.inputs) or axis not in (1, rank - 1):
            raise self._refused(node, "it does not put channels of computed tensors behind another")
        if axis == 1:
            tensors = [self._take_map(node, value) for value in values]
        else:
            tensors = [self._tokens(node, self._take(value), axis) for value in values]
        if any(t.layout is not None and len(t.layout.axes[axis]) > 1 for t in tensors):
            raise self._refused(node, "the channels of an input come shuffled")
        if len({(t.height, t.width) for t in tensors}) > 1:
            raise self._refused(node, "its inputs are maps of different sizes")
        element = max((t.element for t in tensors), key=lambda kind: kind.bits)
        concat = Concat(
            name=self._name(node_label(node)),
            vectors=tensors[0].pixels,
            channels=tuple(t.channels for t in tensors),
            element=element,
        )
        stream = self._add(concat, [t.stream for t in tensors], node)
        total = sum(t.channels for t in tensors)
        made = replace(tensors[0], stream=stream, element=element, channels=total)
        if known is not None:
            sizes = (*known.shape[:axis], total, *known.shape[axis + 1 :])
            order = (*(i for i in range(rank) if i != axis), axis)
            made = replace(made, layout=Layout.of(sizes, order))
        self._close(node, made)

    def _split(self, node: onnx_ir.Node) -> None:
        """Channels of a map, some for each output."""
        tensor = self._take_map(node)
        layout = tensor.layout
        rank = len(layout.axes) if layout is not None else 4
        shapes = [self._shape(value, node_label(node)) for value in node.outputs]
        if attribute(node, "axis", 0) % rank != 1 or sum(s[0] for s in shapes) != tensor.channels:
            raise self._refused(node, "only channels are split")
        if layout is not None and len(layout.axes[1]) > 1:
            raise self._refused(node, "the channels of its input come shuffled")
        kernel = Split(
            name=self._name(node_label(node)),
            vectors=tensor.pixels,
            channels=tuple(shape[0] for shape in shapes),
            element=tensor.element,
        )
        streams = self.build.add(kernel, [tensor.stream], layer=node_label(node))
        for value, stream, shape in zip(node.outputs, streams, shapes, strict=True):
            part = _resized(replace(tensor, stream=stream, channels=shape[0]))
            self._open(value.name or "", part, node_label(node))

    def _tokens(self, node: onnx_ir.Node, tensor: Map, axis: int) -> Map:
        """A tensor seen as vectors along its last axis."""
        layout = tensor.layout
        if layout is None or layout != Layout.of(layout.shape):
            raise self._refused(node, _TURNED)
        channels = layout.shape[axis]
        return replace(tensor, channels=channels, height=tensor.elements // channels, width=1)

    def _zero_channels(self, node: onnx_ir.Node) -> tuple[int, int] | None:
        """Channels of zeros before and after the one computed input; None for other constants."""
        around = [0, 0]
        after = 0
        for value in node.inputs:
            if value is not None and value.name in self.data:
                after = 1
                continue
            array = constant(value)
            if array is None or array.ndim < 2 or np.any(array):
                return None
            around[after] += int(array.shape[1])
        return around[0], around[1]

    def _resize(self, node: onnx_ir.Node) -> None:
        tensor = self._take_map(node)
        shape = self._shape(node.outputs[0], node_label(node))
        mode = attribute(node, "mode", "nearest")
        scale = shape[-1] // max(1, tensor.width)
        square = len(shape) == 3 and shape[1:] == (tensor.height * scale, tensor.width * scale)
        alike = mode == "nearest" or tensor.pixels == 1  # whatever lies between equal pixels
        if not alike or not square or scale < 1:
            raise self._refused(
                node, "only the nearest neighbour, whole times larger, has a kernel"
            )
        kernel = Upsample(
            name=self._name(node_label(node)),
            height=tensor.height,
            width=tensor.width,
            channels=tensor.channels,
            scale=scale,
            element=tensor.element,
        )
        stream = self._add(kernel, [tensor.stream], node)
        tensor = replace(tensor, stream=stream, height=shape[1], width=shape[2])
        self._close(node, _resized(tensor))

    def _pad(self, node: onnx_ir.Node) -> None:
        tensor = self._take_map(node)
        given = attribute(node, "pads", None)
        if given is None and len(node.inputs) > 1:
            found = constant(node.inputs[1])
            given = None if found is None else [int(p) for p in np.ravel(found)]
        if (
            given is not None
            and len(given) == 8
            and not any(given[index] for index in (0, 2, 3, 4, 6, 7))
        ):
            return self._close(node, self._more_channels(node, tensor, given[1], given[5]))
        spatial = (
            given is not None
            and len(given) == 8
            and not any(given[index] for index in (0, 1, 4, 5))
        )
        if not spatial or attribute(node, "mode", "constant") != "constant" or min(given) < 0:
            raise self._refused(node, "only zeros around height and width can be added")
        tensor = self._padded(node, tensor, (given[2], given[3], given[6], given[7]))
        self._close(node, _resized(tensor))

    def _more_channels(self, node: onnx_ir.Node, tensor: Map, before: int, after: int) -> Map:
        """Zero channels around those of a tensor: ResNet's shortcut of option A."""
        if tensor.layout is not None and len(tensor.layout.axes[1]) > 1:
            raise self._refused(node, "the channels of its input come shuffled")
        kernel = ChannelPadding(
            name=self._name(node_label(node)),
            vectors=tensor.pixels,
            channels=tensor.channels,
            before=before,
            after=after,
            element=tensor.element,
        )
        stream = self._add(kernel, [tensor.stream], node)
        channels = tensor.channels + before + after
        return _resized(replace(tensor, stream=stream, channels=channels))

    def _slice(self, node: onnx_ir.Node) -> None:
        """Every s-th pixel of every s-th row, as in the shortcut of a strided block."""
        source = self._data_inputs(node)[0]
        arguments = [constant(value) for value in node.inputs[1:]]
        shape = self._shape(source, node_label(node))
        made = self._shape(node.outputs[0], node_label(node))
        steps = [1, 1, 1]
        if len(arguments) == 4 and all(a is not None for a in arguments) and len(shape) == 3:
            _, _, axes, jumps = arguments
            assert axes is not None
            assert jumps is not None
            for axis, jump in zip(np.ravel(axes), np.ravel(jumps), strict=True):
                if 1 <= int(axis) % 4 <= 3:
                    steps[int(axis) % 4 - 1] = int(jump)
        expected = tuple(-(-n // max(1, s)) for n, s in zip(shape, steps, strict=False))
        if len(shape) != 3 or steps[0] != 1 or min(steps) < 1 or made != expected:
            raise self._refused(node, "it does more than leave out rows and columns")
        tensor = self._take_map(node)
        kernel = Downsample(
            name=self._name(node_label(node)),
            height=tensor.height,
            width=tensor.width,
            channels=tensor.channels,
            stride=(steps[1], steps[2]),
            element=tensor.element,
        )
        stream = self._add(kernel, [tensor.stream], node)
        tensor = replace(tensor, stream=stream, height=made[1], width=made[2])
        self._close(node, _resized(tensor))

    def _select(self, node: onnx_ir.Node) -> None:
        tensor = self._take(self._data_inputs(node)[0])
        count = 1
        if node.op_type == "TopK" and len(node.inputs) > 1:
            given = constant(node.inputs[1])
            count = 1 if given is None else int(np.ravel(given)[0])
        element = integer(max(1, (tensor.elements - 1).bit_length()), signed=False)
        kernel = LabelSelect(
            name=self._name(node_label(node)),
            labels=tensor.elements,
            k=count,
            input=tensor.element,
            output=element,
        )
        stream = self._add(kernel, [tensor.stream], node)
        self._close(node, Map(stream, element, count, layout=Layout.of((1, count))))


@dataclass(frozen=True)
class _Geometry:
    """A window: sizes along height and width; pads at the top, left, bottom and right."""

    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)


_TURNED = (
    "its input would have to be turned in a memory, which no kernel does: remove the Transpose or "
    "Reshape before it"
)


def _seen(tensor: Map, layout: Layout | None) -> Map:
    """A tensor in a layout: a map, or else pixels of what lies innermost."""
    tensor = replace(tensor, layout=layout)
    if layout is None:
        return tensor
    if len(layout.axes) == 4 and layout.is_map:
        _, channels, height, width = layout.shape
        return replace(tensor, channels=channels, height=height, width=width)
    elements = math.prod(layout.sizes)
    return replace(tensor, channels=layout.pixel, height=elements // layout.pixel, width=1)


def _resized(tensor: Map) -> Map:
    """A map whose sizes have changed, its layout brought up to date."""
    layout = tensor.layout
    if layout is None:
        return tensor
    sizes = (1, tensor.channels, tensor.height, tensor.width)[: len(layout.axes)]
    pixel = layout if layout.shape[1] == tensor.channels else None
    return replace(tensor, layout=Layout.of_map(sizes, pixel))


def _backend(input_: DataType, weight: DataType) -> str:
    """FINN's choice: DSP cores take 4 to 8 bits (9 signed inputs on DSP58), else HLS."""
    fits = 4 <= weight.bits <= 8 and 4 <= input_.bits <= 8 and weight.signed
    return "rtl" if fits else "hls"


def _matrix(
    name: str, rows: int, columns: int, tensor: Map, kind: DataType, wide: DataType
) -> MatrixVector:
    narrow = max(tensor.element.bits, kind.bits) <= 4
    return MatrixVector(
        name=name,
        mw=rows,
        mh=columns,
        vectors=tensor.pixels,
        input=tensor.element,
        weight=kind,
        accumulator=wide,
        output=wide,
        backend=_backend(tensor.element, kind),
        core="mvu_4sx4u_dsp48e2" if narrow else "mvu_8sx8u_dsp48",
    )


def _summed(kind: DataType, count: int) -> DataType:
    return integer(kind.bits + max(0, count - 1).bit_length(), signed=kind.signed)
