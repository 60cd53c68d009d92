"""`LayerView`: the data flow of a model as layers, read-only.

A layer is one linear operator with the norm, activation and quantizer that belong to it alone, or
one other operator. Weights and shape arithmetic are not drawn: an edge is a tensor of activations.
Skip detection, the planner and the hardware model read this view; the PyTorch side builds the same
kind of graph from torch.fx.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import networkx as nx
import onnx_ir

from graphopt.ir.model import Model, node_label
from graphopt.ir.shapes import Shapes, ShapeTable, TensorInfo


class LayerKind(enum.Enum):
    """What a layer is, as far as a skip is concerned."""

    CONV = "conv"
    MATMUL = "matmul"
    NORM = "norm"
    ACTIVATION = "activation"
    QUANTIZER = "quantizer"
    POOL = "pool"
    SCALE = "scale"
    """Elementwise with a constant: Add, Sub, Mul, Div."""
    ADD = "add"
    CONCAT = "concat"
    MUL = "mul"
    MOVE = "move"
    """Only moves values: Slice, Pad, Reshape, Transpose, Split, Gather, Concat with a constant."""
    RESIZE = "resize"
    IDENTITY = "identity"
    OTHER = "other"


_BY_OPERATOR: dict[str, LayerKind] = {
    operator: kind
    for kind, operators in {
        LayerKind.CONV: "Conv ConvTranspose ConvInteger QLinearConv FusedConv MVAU VVAU",
        LayerKind.MATMUL: "Gemm MatMul MatMulInteger QLinearMatMul FusedMatMul QGemm",
        LayerKind.NORM: "BatchNormalization InstanceNormalization LayerNormalization LRN "
        "GroupNormalization RMSNormalization LpNormalization",
        LayerKind.ACTIVATION: "Relu LeakyRelu PRelu Elu Selu Celu Sigmoid HardSigmoid HardSwish "
        "Swish Mish Tanh Clip Softplus Softsign Gelu QuickGelu iGELU ThresholdedRelu Softmax "
        "LogSoftmax Erf QLinearSigmoid QLinearLeakyRelu",
        LayerKind.QUANTIZER: "QuantizeLinear DequantizeLinear DynamicQuantizeLinear Quant IntQuant "
        "BipolarQuant Trunc MultiThreshold Thresholding RequantShift",
        LayerKind.POOL: "MaxPool AveragePool GlobalAveragePool GlobalMaxPool LpPool ReduceMean "
        "ReduceMax ReduceSum QLinearGlobalAveragePool QLinearAveragePool IntegerMean",
        LayerKind.ADD: "Add Sum QLinearAdd",
        LayerKind.CONCAT: "Concat QLinearConcat",
        LayerKind.MUL: "Mul QLinearMul",
        LayerKind.MOVE: "Slice Pad Reshape Transpose Split Gather GatherND Squeeze Unsqueeze "
        "Flatten Expand Tile DepthToSpace SpaceToDepth FMPadding ConvolutionInputGenerator",
        LayerKind.RESIZE: "Resize Upsample",
        LayerKind.IDENTITY: "Identity Dropout Cast",
    }.items()
    for operator in operators.split()
}

_JOINS = {LayerKind.ADD, LayerKind.CONCAT, LayerKind.MUL}
_FOLLOWERS = {LayerKind.NORM, LayerKind.ACTIVATION, LayerKind.QUANTIZER, LayerKind.SCALE}
_LINEAR = {LayerKind.CONV, LayerKind.MATMUL}
_NO_DATA = frozenset({"Shape", "Size"})
_RANDOM = frozenset({"RandomNormal", "RandomUniform", "Multinomial", "Bernoulli"})


@dataclass(frozen=True)
class Layer:
    """One layer.

    Attributes:
        name: `node_label` of its first node.
        kind: what it is.
        operators: ONNX operator types of its nodes, in order of execution.
        nodes: labels of these nodes.
        inputs: names of the activation tensors it reads, in order, constants left out; after its
            own those that only its subgraphs read.
        outputs: names of the activation tensors it makes for others.
        output: element type and shape of the first output.
        parameters: number of weight elements.
        weight_bytes: bytes of these.
        multiply_adds: multiply-accumulates for one sample; 0 for layers without weights.
    """

    name: str
    kind: LayerKind
    operators: tuple[str, ...]
    nodes: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    output: TensorInfo
    parameters: int = 0
    weight_bytes: int = 0
    multiply_adds: int = 0

    @property
    def is_linear(self) -> bool:
        """Whether it multiplies by weights."""
        return self.kind in _LINEAR

    @property
    def is_join(self) -> bool:
        """Whether it joins two or more data paths (Add, Sum, Concat, Mul of distinct tensors)."""
        return self.kind in _JOINS and len(set(self.inputs)) >= 2


@dataclass(frozen=True)
class LayerView:
    """The layers of a model in order of execution.

    Attributes:
        layers: every layer that carries data.
        sources: names of the graph inputs that carry data.
    """

    layers: tuple[Layer, ...]
    sources: tuple[str, ...]

    def __iter__(self) -> Iterator[Layer]:
        return iter(self.layers)

    @cached_property
    def producer(self) -> dict[str, Layer]:
        """The layer that makes each tensor."""
        return {name: layer for layer in self.layers for name in layer.outputs}

    @cached_property
    def readers(self) -> dict[str, tuple[Layer, ...]]:
        """The layers that read each tensor."""
        table: dict[str, list[Layer]] = {}
        for layer in self.layers:
            for name in dict.fromkeys(layer.inputs):
                table.setdefault(name, []).append(layer)
        return {name: tuple(layers) for name, layers in table.items()}

    @cached_property
    def position(self) -> dict[str, int]:
        """Place of each layer in the order of execution, by layer name."""
        return {layer.name: index for index, layer in enumerate(self.layers)}

    @cached_property
    def graph(self) -> nx.DiGraph[str]:
        """Layer names as nodes (attribute `layer`); the attribute `tensor` of an edge flows."""
        graph: nx.DiGraph[str] = nx.DiGraph()
        for layer in self.layers:
            graph.add_node(layer.name, layer=layer)
        for layer in self.layers:
            for name in layer.inputs:
                if name in self.producer:
                    graph.add_edge(self.producer[name].name, layer.name, tensor=name)
        return graph


@dataclass(frozen=True)
class Layers:
    """Analysis: the `LayerView` of a model.

    Attributes:
        fuse: put norms, activations, quantizers and constant scales into the layer before them
            where nothing else reads what lies between.
    """

    name: ClassVar[str] = "layers"
    fuse: bool = True

    def run(self, model: Model) -> LayerView:
        """Builds the view."""
        shapes = model.analyses.get(Shapes())
        data = data_tensors(model)
        layers = [
            _layer(node, data, shapes)
            for node in model.graph
            if any(output.name in data for output in node.outputs)
        ]
        outputs = {value.name for value in model.graph.outputs if value.name}
        if self.fuse:
            layers = _fused(layers, outputs)
        sources = tuple(v.name for v in model.graph.inputs if v.name in data and v.name)
        return LayerView(tuple(layers), sources)


def data_tensors(model: Model) -> frozenset[str]:
    """Names of the tensors that depend on the values (not merely the shapes) of the inputs."""
    data = {
        value.name
        for value in model.graph.inputs
        if value.name and value.name not in model.graph.initializers
    }
    for node in model.graph:
        if node.op_type in _NO_DATA:
            continue
        reads = any(value is not None and value.name in data for value in node.inputs)
        if not reads:
            reads = node.op_type in _RANDOM or not data.isdisjoint(_read_inside(node))
        if reads:
            data.update(value.name for value in node.outputs if value.name)
    return frozenset(data)


def _read_inside(node: onnx_ir.Node) -> Iterator[str]:
    """Names of the tensors that the nodes in its subgraphs read, those of the outside included."""
    for attribute in node.attributes.values():
        if attribute.is_ref():
            continue
        graphs: tuple[onnx_ir.Graph, ...] = ()
        if attribute.type == onnx_ir.AttributeType.GRAPH:
            graphs = (attribute.as_graph(),)
        elif attribute.type == onnx_ir.AttributeType.GRAPHS:
            graphs = tuple(attribute.as_graphs())
        for graph in graphs:
            for inner in graph.all_nodes():
                yield from (v.name for v in inner.inputs if v is not None and v.name)


def _layer(node: onnx_ir.Node, data: frozenset[str], shapes: ShapeTable) -> Layer:
    inputs = tuple(v.name for v in node.inputs if v is not None and v.name in data and v.name)
    inside = (name for name in _read_inside(node) if name in data and name not in inputs)
    inputs += tuple(dict.fromkeys(inside))
    kind = _BY_OPERATOR.get(node.op_type, LayerKind.OTHER)
    if node.op_type in ("Add", "Sub", "Mul", "Div", "Sum", "Pow") and len(inputs) == 1:
        kind = LayerKind.SCALE if node.op_type != "Pow" else LayerKind.OTHER
    if kind is LayerKind.CONCAT and len(inputs) == 1:
        kind = LayerKind.MOVE
    output = shapes[node.outputs[0].name or ""]
    weights = [v for v in node.inputs if v is not None and v.name and v.name not in data]
    counted = kind in _LINEAR or kind is LayerKind.NORM
    elements = [shapes[v.name or ""] for v in weights] if counted else []
    return Layer(
        name=node_label(node),
        kind=kind,
        operators=(node.op_type,),
        nodes=(node_label(node),),
        inputs=inputs,
        outputs=tuple(value.name for value in node.outputs if value.name),
        output=output,
        parameters=sum(info.elements() or 0 for info in elements),
        weight_bytes=sum(info.bytes() or 0 for info in elements),
        multiply_adds=_multiply_adds(node, shapes) if kind in _LINEAR else 0,
    )


def _multiply_adds(node: onnx_ir.Node, shapes: ShapeTable) -> int:
    """Multiply-accumulates of one sample: output elements times the length of each sum.

    For a convolution, weight [M, K/group, *k]: length K/group * prod(k); a transposed one spends
    that per input element. 0 where shapes are unknown or the operator is not counted.
    """

    def info(index: int) -> TensorInfo:
        value = node.inputs[index] if index < len(node.inputs) else None
        return shapes[value.name] if value is not None and value.name else TensorInfo(None, None)

    output = shapes[node.outputs[0].name or ""].elements() or 0
    match node.op_type:
        case "Conv" | "ConvInteger" | "FusedConv":
            weight = info(1).static()
            return output * math.prod(weight[1:]) if weight else 0
        case "QLinearConv":
            weight = info(3).static()
            return output * math.prod(weight[1:]) if weight else 0
        case "ConvTranspose":
            weight = info(1).static()
            return (info(0).elements() or 0) * math.prod(weight[1:]) if weight else 0
        case "Gemm" | "MatMul" | "MatMulInteger" | "FusedMatMul" | "QLinearMatMul":
            shape = info(0).shape
            depth = shape[-2 if node.attributes.get_int("transA", 0) else -1] if shape else None
        case _:
            return 0
    return output * depth if isinstance(depth, int) else 0


def _fused(layers: list[Layer], outputs: set[str]) -> list[Layer]:
    """Joins each follower to the layer before it where that layer's output is read by it alone."""
    readers: dict[str, int] = {}
    for layer in layers:
        for source in layer.inputs:
            readers[source] = readers.get(source, 0) + 1
    heads: dict[str, int] = {}
    fused: list[Layer | None] = []
    for layer in layers:
        name: str | None = layer.inputs[0] if len(layer.inputs) == 1 else None
        place = heads.get(name) if name is not None else None
        head = fused[place] if place is not None else None
        alone = name is not None and readers[name] == 1 and name not in outputs
        if place is not None and head is not None and alone and _follows(head, layer):
            merged = replace(
                head,
                operators=head.operators + layer.operators,
                nodes=head.nodes + layer.nodes,
                outputs=layer.outputs,
                output=layer.output,
                parameters=head.parameters + layer.parameters,
                weight_bytes=head.weight_bytes + layer.weight_bytes,
            )
            fused[place] = None
            fused.append(merged)
        else:
            fused.append(layer)
        last = fused[-1]
        if last is not None:
            for made in last.outputs:
                heads[made] = len(fused) - 1
    return [layer for layer in fused if layer is not None]


def _follows(head: Layer, layer: Layer) -> bool:
    if layer.kind not in _FOLLOWERS or len(head.outputs) != 1:
        return False
    return head.kind in _LINEAR or (head.is_join and layer.kind is not LayerKind.SCALE)
