"""`Linear`: a convolution or matrix product, read out of the graph and written back widened.

Every exact rewrite here is arithmetic on weights seen as [output, input of the group, *kernel],
whatever the operator; this is the one place that knows how Conv, Gemm and MatMul store them, and
that a MatMul has its bias in an Add behind it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir

from graphopt.ir.constants import constant
from graphopt.ir.model import Model, node_label
from graphopt.ir.shapes import ShapeTable
from graphopt.verify.algebra import Composed, Map, ungrouped

Array = npt.NDArray[Any]


class NotLinear(Exception):
    """The node is no linear operator with constant weights; the message says why."""


@dataclass(frozen=True, eq=False)
class Linear:
    """One linear operator with constant weights.

    Attributes:
        node: the ONNX node.
        weight: shape [M, K / group, *kernel]; kernel is empty for a matrix product.
        bias: shape [M]; zeros where the node has none.
        group: number of groups (1 for a matrix product).
        strides: per spatial axis.
        dilations: per spatial axis.
        pads_begin: per spatial axis, resolved to numbers.
        pads_end: per spatial axis.
        transposed: whether the node stores its weight as [input, output].
        tail: the Add behind a MatMul that adds its bias, or None.
    """

    node: onnx_ir.Node
    weight: Array
    bias: Array
    group: int = 1
    strides: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()
    pads_begin: tuple[int, ...] = ()
    pads_end: tuple[int, ...] = ()
    transposed: bool = False
    tail: onnx_ir.Node | None = None

    @property
    def nodes(self) -> tuple[onnx_ir.Node, ...]:
        """The nodes it stands for, in order of execution."""
        return (self.node,) if self.tail is None else (self.node, self.tail)

    @property
    def source(self) -> onnx_ir.Value:
        """The tensor it reads."""
        value = self.node.inputs[0]
        assert value is not None  # ONNX asks for it, and loading checks
        return value

    @property
    def result(self) -> onnx_ir.Value:
        """The tensor it makes."""
        return self.nodes[-1].outputs[0]

    @property
    def label(self) -> str:
        """How reports call the node."""
        return node_label(self.node)

    @property
    def inputs(self) -> int:
        """Input channels K."""
        return int(self.weight.shape[1]) * self.group

    @property
    def outputs(self) -> int:
        """Output channels M."""
        return int(self.weight.shape[0])

    @property
    def kernel(self) -> tuple[int, ...]:
        """Kernel sizes; empty for a matrix product."""
        return tuple(self.weight.shape[2:])

    @property
    def is_conv(self) -> bool:
        """Whether it is a convolution, or a pool seen as one."""
        return self.node.op_type == "Conv" or self.is_pool

    @property
    def is_pointwise(self) -> bool:
        """Whether each output position reads one input position: 1x1, unpadded, or a product."""
        return all(k == 1 for k in self.kernel) and not any(self.pads_begin + self.pads_end)

    @property
    def is_depthwise(self) -> bool:
        """Whether each channel is filtered by itself, and there are several."""
        return self.group == self.inputs == self.outputs > 1

    @property
    def weight_name(self) -> str:
        """Tensor name of the weight."""
        value = self.node.inputs[1]
        return (value.name if value is not None else None) or ""

    @property
    def is_pool(self) -> bool:
        """Whether it is an average pool, seen as a depthwise convolution with equal weights."""
        return self.node.op_type == "AveragePool"

    def dense(self) -> Array:
        """The weight without groups: [M, K, *kernel]."""
        return ungrouped(self.weight, self.group)

    def as_map(self) -> Map:
        """What it computes, for the algebra."""
        return Map(self.dense(), self.bias.astype(np.float64))

    @classmethod
    def read(cls, node: onnx_ir.Node, shape: tuple[Any, ...] | None = None) -> Linear:
        """Reads a Conv, Gemm or MatMul with constant weights.

        Args:
            node: the node; for a MatMul with a bias the Add behind it, or the MatMul to leave the
                bias out.
            shape: shape of its input, needed only to resolve auto_pad.

        Raises:
            NotLinear: it is another operator, its weights are not constants, or its padding
                cannot be resolved to numbers.
        """
        if node.domain not in ("", "ai.onnx"):
            raise NotLinear(f"{node_label(node)} is a {node.op_type}")
        if node.op_type == "Add":
            return cls._read_matmul_with_bias(node)
        if node.op_type not in ("Conv", "Gemm", "MatMul"):
            raise NotLinear(f"{node_label(node)} is a {node.op_type}")
        weight = constant(node.inputs[1])
        if weight is None:
            source = node.inputs[1].producer() if node.inputs[1] is not None else None
            made = f" (made by {source.op_type})" if source is not None else ""
            raise NotLinear(f"the weight of {node_label(node)} is not a constant{made}")
        if not np.issubdtype(weight.dtype, np.floating) and weight.dtype.kind != "V":
            raise NotLinear(f"the weight of {node_label(node)} is of type {weight.dtype}")
        given = node.inputs[2] if len(node.inputs) > 2 else None
        bias = constant(given)
        if given is not None and bias is None:
            raise NotLinear(f"the bias of {node_label(node)} is not a constant")
        if node.op_type == "MatMul":
            if weight.ndim != 2:
                raise NotLinear(f"the weight of {node_label(node)} is no matrix")
            return cls(node, weight.T, np.zeros(weight.shape[1], weight.dtype), transposed=True)
        if node.op_type == "Gemm":
            return cls._read_gemm(node, weight, bias)
        return cls._read_conv(node, weight, bias, shape)

    @classmethod
    def convolving(
        cls, node: onnx_ir.Node, weight: Array, bias: Array, shape: tuple[Any, ...] | None
    ) -> Linear:
        """A Conv whose weights are told, such as the codes behind a quantizer; see `read`.

        Raises:
            NotLinear: its padding cannot be resolved to numbers.
        """
        return cls._read_conv(node, weight, bias, shape)

    @classmethod
    def identity(cls, value: onnx_ir.Value, channels: int, axis: int, rank: int) -> Linear:
        """A pointwise operator, not in the graph, that copies `value`.

        Args:
            value: a float tensor.
            channels: number of its channels.
            axis: their axis.
            rank: number of its axes.
        """
        dtype = value.dtype.numpy() if value.dtype is not None else np.dtype(np.float32)
        one = np.eye(channels, dtype=dtype)
        is_conv = axis == 1 and rank > 2
        tensor = onnx_ir.tensor(
            one.reshape(channels, channels, *[1] * (rank - 2)) if is_conv else one
        )
        weight = onnx_ir.Value(name=f"{value.name}.identity", const_value=tensor)
        # its input stands for `value`, which must not count it among its readers
        source = onnx_ir.Value(name=value.name, shape=value.shape, type=value.type)
        operator = "Conv" if is_conv else "Gemm" if rank == 2 else "MatMul"
        node = onnx_ir.node(operator, [source, weight], name=f"{value.name}.copy")
        node.outputs[0].name = value.name
        return cls.read(node)

    @classmethod
    def of_pool(cls, node: onnx_ir.Node, channels: int, shape: tuple[Any, ...] | None) -> Linear:
        """An average pool as a depthwise convolution with equal weights.

        Args:
            node: the pool.
            channels: of its input.
            shape: of its input, where it is known.

        Raises:
            NotLinear: its windows do not all count as many elements: padding is left out, or a
                window is cut off.
        """
        attributes = node.attributes
        kernel = tuple(attributes.get_ints("kernel_shape", ()) or ())
        ones = (1,) * len(kernel)
        strides = tuple(attributes.get_ints("strides", ones) or ones)
        dilations = tuple(attributes.get_ints("dilations", ones) or ones)
        begin, end = _pads(node, kernel, strides, dilations, shape)
        if any(begin + end) and not attributes.get_int("count_include_pad", 0):
            raise NotLinear(f"{node_label(node)} averages over padding")
        sizes = shape[2:] if shape is not None else (None,) * len(kernel)
        for axis, size in enumerate(sizes):
            window = dilations[axis] * (kernel[axis] - 1) + 1
            left = size + begin[axis] + end[axis] - window if isinstance(size, int) else None
            # ONNX Runtime rounds towards zero: a window that finds no room is cut off, not left out
            if left is not None and left < 0:
                raise NotLinear(f"{node_label(node)} averages a window larger than its input")
            # the floor and the ceiling of a division agree where nothing is left over
            if attributes.get_int("ceil_mode", 0) and (left is None or left % strides[axis]):
                raise NotLinear(f"{node_label(node)} rounds up and averages a cut window")
        weight = np.full((channels, 1, *kernel), 1.0 / math.prod(kernel))
        return cls(node, weight, np.zeros(channels), channels, strides, dilations, begin, end)

    @classmethod
    def within(cls, node: onnx_ir.Node, shapes: ShapeTable) -> Linear:
        """Reads a node of a graph whose shapes are known; see `read`."""
        source = node.inputs[0] if node.inputs else None
        return cls.read(node, shapes[(source.name if source is not None else None) or ""].shape)

    @classmethod
    def _read_matmul_with_bias(cls, node: onnx_ir.Node) -> Linear:
        product = matmul_before(node)
        if product is None:
            raise NotLinear(f"{node_label(node)} is an Add")
        linear = cls.read(product)
        bias = next(a for a in map(constant, node.inputs) if a is not None)
        if bias.size != linear.outputs or bias.shape[-1] != linear.outputs:
            raise NotLinear(f"the bias of {node_label(product)} is not one number per output")
        return replace(linear, bias=bias.reshape(-1).astype(linear.weight.dtype), tail=node)

    @classmethod
    def _read_gemm(cls, node: onnx_ir.Node, weight: Array, bias: Array | None) -> Linear:
        attributes = node.attributes
        if (
            attributes.get_float("alpha", 1.0) != 1.0
            or attributes.get_float("beta", 1.0) != 1.0
            or attributes.get_int("transA", 0) != 0
        ):
            raise NotLinear(f"{node_label(node)} is a Gemm with alpha, beta or transA")
        transposed = not attributes.get_int("transB", 0)
        if transposed:
            weight = weight.T
        rows = weight.shape[0]
        if bias is None:
            bias = np.zeros(rows, weight.dtype)
        elif bias.size not in (1, rows) or bias.size != (bias.shape or (1,))[-1]:
            raise NotLinear(f"the bias of {node_label(node)} is not one number per output")
        bias = np.broadcast_to(bias.reshape(-1), (rows,)).copy()
        return cls(node, weight, bias, transposed=transposed)

    @classmethod
    def _read_conv(
        cls, node: onnx_ir.Node, weight: Array, bias: Array | None, shape: tuple[Any, ...] | None
    ) -> Linear:
        attributes = node.attributes
        kernel = weight.shape[2:]
        ones = (1,) * len(kernel)
        strides = tuple(attributes.get_ints("strides", ones) or ones)
        dilations = tuple(attributes.get_ints("dilations", ones) or ones)
        begin, end = _pads(node, kernel, strides, dilations, shape)
        if bias is None:
            bias = np.zeros(weight.shape[0], weight.dtype)
        return cls(
            node,
            weight,
            bias,
            group=attributes.get_int("group", 1) or 1,
            strides=strides,
            dilations=dilations,
            pads_begin=begin,
            pads_end=end,
        )

    def length(self, axis: int, size: int) -> int:
        """Output positions on a spatial axis for an input of `size`; 0 or less if it fits none."""
        padded = size + self.pads_begin[axis] + self.pads_end[axis]
        return (padded - self.dilations[axis] * (self.kernel[axis] - 1) - 1) // self.strides[
            axis
        ] + 1

    def tap(self, offset: Sequence[int]) -> tuple[int, ...] | None:
        """Index of the kernel tap that reads input position `i * stride + offset`.

        That is (pad_begin + offset) / dilation on each axis, not the centre of the kernel; None
        where it is no integer inside the kernel.
        """
        taps = []
        for axis, size in enumerate(self.kernel):
            index, rest = divmod(self.pads_begin[axis] + offset[axis], self.dilations[axis])
            if rest or not 0 <= index < size:
                return None
            taps.append(index)
        return tuple(taps)

    def reads_inside(
        self, tap: Sequence[int], length_in: Sequence[Any], length_out: Sequence[Any]
    ) -> bool:
        """Whether this tap never reads the padding at the end, for sizes known or not.

        The last output reads at most `pad_end - dilation * (kernel - 1 - tap)` positions beyond
        the input; where the sizes are numbers the strides are counted exactly.
        """
        for axis, index in enumerate(tap):
            behind = self.dilations[axis] * (self.kernel[axis] - 1 - index)
            if behind >= self.pads_end[axis]:
                continue
            n, m = length_in[axis], length_out[axis]
            if not isinstance(n, int) or not isinstance(m, int):
                return False
            start = index * self.dilations[axis] - self.pads_begin[axis]
            if (m - 1) * self.strides[axis] + start > n - 1:
                return False
        return True


def matmul_before(node: onnx_ir.Node) -> onnx_ir.Node | None:
    """The MatMul whose bias an Add adds: it has a constant matrix, and nothing else reads it."""
    if node.op_type != "Add" or node.domain not in ("", "ai.onnx"):
        return None
    data = [value for value in node.inputs if value is not None and constant(value) is None]
    if len(data) != 1 or len(data[0].uses()) != 1 or data[0].is_graph_output():
        return None
    product = data[0].producer()
    return product if product is not None and product.op_type == "MatMul" else None


def _pads(
    node: onnx_ir.Node,
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    shape: tuple[Any, ...] | None,
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    rank = len(kernel)
    mode = node.attributes.get_string("auto_pad", "NOTSET")
    if mode in ("NOTSET", ""):
        pads = node.attributes.get_ints("pads", (0,) * (2 * rank)) or (0,) * (2 * rank)
        if min(pads, default=0) < 0:
            raise NotLinear(f"{node_label(node)} has negative pads")
        return tuple(pads[:rank]), tuple(pads[rank:])
    if mode == "VALID":
        return (0,) * rank, (0,) * rank
    sizes = shape[2:] if shape is not None else ()
    if len(sizes) != rank or not all(isinstance(size, int) for size in sizes):
        raise NotLinear(
            f"{node_label(node)} pads by auto_pad={mode} and its input has no fixed size"
        )
    begin, end = [], []
    for size, k, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        total = max(0, (math.ceil(size / stride) - 1) * stride + dilation * (k - 1) + 1 - size)
        small, large = total // 2, total - total // 2
        begin.append(small if mode == "SAME_UPPER" else large)
        end.append(large if mode == "SAME_UPPER" else small)
    return tuple(begin), tuple(end)


@dataclass(frozen=True, eq=False)
class NewLinear:
    """What a rewritten linear operator shall be.

    Attributes:
        like: the operator whose strides, dilations and pads it takes.
        weight: shape [M', K' / group, *kernel].
        bias: shape [M'].
        group: number of groups.
        strides: where they are not those of `like`.
    """

    like: Linear
    weight: Array
    bias: Array
    group: int = 1

    strides: tuple[int, ...] | None = None

    def build(self, source: onnx_ir.Value, output: str, initializers: Initializers) -> Built:
        """Makes the nodes, the first of which reads `source`, and their weights as initializers.

        Returns:
            The nodes, not yet in the graph, and the tensor names of weight and bias.
        """
        like, dtype = self.like, self.like.weight.dtype
        stored = self.weight.swapaxes(0, 1) if like.transposed else self.weight
        weight = initializers.add(f"{like.weight_name}", np.ascontiguousarray(stored, dtype))
        operator = like.node.op_type
        if operator == "MatMul" and not self.bias.any():
            node = onnx_ir.node(operator, [source, weight], name=like.node.name)
            return self._built((node,), output, weight, None)
        bias = initializers.add(f"{like.label}.bias", self.bias.astype(dtype))
        if operator == "MatMul":
            node = onnx_ir.node(operator, [source, weight], name=like.node.name)
            node.outputs[0].name = initializers.fresh(f"{like.label}.product")
            tail = onnx_ir.node("Add", [node.outputs[0], bias], name=like.nodes[-1].name)
            if like.tail is None:
                tail.name = initializers.fresh(f"{like.label}.shift")
            return self._built((node, tail), output, weight, bias)
        node = onnx_ir.node(
            operator,
            [source, weight, bias],
            attributes=self._attributes(),
            name=like.node.name,
        )
        return self._built((node,), output, weight, bias)

    def _attributes(self) -> dict[str, Any]:
        like = self.like
        if not like.is_conv:
            return {"transB": 0 if like.transposed else 1}
        return {
            "kernel_shape": list(self.weight.shape[2:]),
            "strides": list(like.strides if self.strides is None else self.strides),
            "dilations": list(like.dilations),
            "pads": list(like.pads_begin + like.pads_end),
            "group": self.group,
        }

    def _built(
        self,
        nodes: tuple[onnx_ir.Node, ...],
        output: str,
        weight: onnx_ir.Value,
        bias: onnx_ir.Value | None,
    ) -> Built:
        nodes[-1].outputs[0].name = output
        nodes[0].metadata_props.update(self.like.node.metadata_props)
        return Built(nodes, weight.name or "", (bias.name if bias is not None else None) or "")

    def composition(self, built: Built, first: Map, second: Map) -> Composed:
        """The claim that this operator does what `first` and then `second` did."""
        dtype = self.like.weight.dtype
        dense = ungrouped(self.weight, self.group).astype(dtype)
        new = Map(dense, self.bias.astype(dtype).astype(np.float64))
        return Composed(
            built.weight,
            built.bias,
            new,
            first,
            second,
            self.group,
            self.like.transposed,
            self.like.strides,
        )


@dataclass(frozen=True, eq=False)
class Built:
    """The nodes made from a `NewLinear`, and the tensor names of its weights (a MatMul whose bias
    is zero has none).
    """

    nodes: tuple[onnx_ir.Node, ...]
    weight: str
    bias: str

    @property
    def result(self) -> onnx_ir.Value:
        """The tensor that they make."""
        return self.nodes[-1].outputs[0]

    def place(self, model: Model, instead: onnx_ir.Node) -> None:
        """Puts the nodes into the graph; the last one takes the place of `instead`."""
        for node in self.nodes[:-1]:
            model.graph.insert_before(instead, node)
        replace_output(model, instead, self.nodes[-1])


class Initializers:
    """Adds initializers to a graph under names that are not taken."""

    def __init__(self, graph: onnx_ir.Graph, taken: set[str]) -> None:
        self._graph = graph
        self._taken = taken

    def fresh(self, stem: str) -> str:
        """`stem` with a number behind it that makes the name new."""
        number = 1
        while f"{stem}.{number}" in self._taken:
            number += 1
        name = f"{stem}.{number}"
        self._taken.add(name)
        return name

    def add(self, stem: str, array: Array) -> onnx_ir.Value:
        """A new initializer named after `stem` that holds `array`."""
        name = self.fresh(stem)
        tensor = onnx_ir.tensor(array, name=name)
        value = onnx_ir.Value(
            name=name,
            shape=onnx_ir.Shape(array.shape),
            type=onnx_ir.TensorType(tensor.dtype),
            const_value=tensor,
        )
        self._graph.register_initializer(value)
        return value


def replace_output(model: Model, old: onnx_ir.Node, new: onnx_ir.Node) -> None:
    """Puts `new` into the graph in place of `old`; its output takes over the name, the shape, the
    metadata and the readers of the old one.
    """
    before, after = old.outputs[0], new.outputs[0]
    model.graph.insert_before(old, new)
    after.shape, after.type = before.shape, before.type
    after.meta.update(before.meta)
    after.metadata_props.update(before.metadata_props)
    name = before.name
    before.replace_all_uses_with(after, replace_graph_outputs=True)
    model.graph.remove(old, safe=True)
    before.name = None
    after.name = name


def prune(model: Model, nodes: Sequence[onnx_ir.Node]) -> None:
    """Takes away what nothing reads any more, and what only that read."""
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        if node.graph is None or any(o.uses() or o.is_graph_output() for o in node.outputs):
            continue
        behind = [value.producer() for value in node.inputs if value is not None]
        model.graph.remove(node, safe=True)
        waiting += [node for node in behind if node is not None]
