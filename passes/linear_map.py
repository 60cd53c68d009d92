"""`LinearMap`: what a path between two tensors does: a skip path, or one of parallel branches.

`s(x)[o, i] = sum P[o, c, t] x[c, i s + a + t d] + b[o]`: identity, 1x1 projections, average pools,
strided slices with zero channels (option A in all its spellings) and constant scales differ only in
P, s, a, d and b.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir

from graphopt.ir.constants import constant, scalar
from graphopt.ir.model import node_label
from graphopt.ir.shapes import ShapeTable
from passes.linear import Linear, NotLinear
from passes.norm_folding import Affine, CannotFold, affine_of
from passes.refused import Refused

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class LinearMap:
    """A linear map from one tensor to another, over channels and a window of positions.

    Attributes:
        taps: shape [M, K, *kernel], float64.
        bias: shape [M], float64.
        strides: per spatial axis.
        start: input position that output 0 reads with its first tap, per spatial axis.
        dilations: distance of the taps, per spatial axis.
        slack: per spatial axis, the number e for which an input of size n gives
            `floor((n + e) / stride) + 1` positions: -1 where every `stride`-th position is read.
        padded: whether it may read zeros beyond the tensor.
        nodes: labels of the nodes that it stands for.
    """

    taps: Array
    bias: Array
    strides: tuple[int, ...]
    start: tuple[int, ...]
    dilations: tuple[int, ...]
    slack: tuple[int, ...]
    padded: bool = False
    nodes: tuple[str, ...] = ()

    @property
    def is_pointwise(self) -> bool:
        """Whether each output position depends on one input position."""
        return all(size == 1 for size in self.taps.shape[2:])

    @property
    def matrix(self) -> Array:
        """P summed over its taps, shape [M, K]; for a pointwise map, P itself."""
        total: Array = self.taps.reshape(*self.taps.shape[:2], -1).sum(axis=2)
        return total

    @property
    def is_identity(self) -> bool:
        """Whether it passes the tensor on unchanged."""
        rows, columns = self.taps.shape[:2]
        return (
            rows == columns
            and self.is_pointwise
            and not self.bias.any()
            and not any(self.start)
            and all(stride == 1 for stride in self.strides)
            and np.array_equal(self.matrix, np.eye(rows))
        )

    @property
    def read_channels(self) -> Array:
        """The input channels that it reads, in order."""
        return np.flatnonzero(np.abs(self.taps).sum(axis=(0, *range(2, self.taps.ndim))))

    @property
    def made_channels(self) -> Array:
        """The output channels that are not always 0, in order."""
        size = np.abs(self.taps).sum(axis=tuple(range(1, self.taps.ndim))) + np.abs(self.bias)
        return np.flatnonzero(size)

    @classmethod
    def identity(cls, channels: int, axes: int) -> LinearMap:
        """The identity on `channels` channels and `axes` spatial axes."""
        one, zero = (1,) * axes, (0,) * axes
        taps = np.eye(channels).reshape(channels, channels, *one)
        return cls(taps, np.zeros(channels), one, zero, one, slack=(-1,) * axes)

    def scaled(self, affine: Affine) -> LinearMap:
        """This map, then a per-channel scale and shift."""
        rows = self.taps.shape[0]
        scale, shift = (np.broadcast_to(a, (rows,)) for a in (affine.scale, affine.shift))
        taps = self.taps * scale.reshape(rows, *[1] * (self.taps.ndim - 1))
        return replace(self, taps=taps, bias=self.bias * scale + shift)

    def with_zero_channels(self, front: int, back: int) -> LinearMap:
        """This map with output channels that are always 0 before and behind its own."""
        widths = [(front, back)] + [(0, 0)] * (self.taps.ndim - 1)
        return replace(self, taps=np.pad(self.taps, widths), bias=np.pad(self.bias, (front, back)))

    def then_matrix(self, matrix: Array, bias: Array) -> LinearMap:
        """This map, then a matrix over the channels."""
        taps = np.tensordot(matrix, self.taps, axes=1)
        return replace(self, taps=taps, bias=matrix @ self.bias + bias)

    def then_strided(
        self, strides: tuple[int, ...], start: tuple[int, ...], cut: tuple[int, ...]
    ) -> LinearMap:
        """This map, read at every `strides`-th position from `start` on, without the last `cut`."""
        moved = tuple(a + s * b for a, s, b in zip(self.start, self.strides, start, strict=True))
        jump = tuple(s * t for s, t in zip(self.strides, strides, strict=True))
        lost = map(sum, zip(start, cut, strict=True))
        slack = tuple(e - s * n for e, s, n in zip(self.slack, self.strides, lost, strict=True))
        return replace(self, start=moved, strides=jump, slack=slack)

    def then_conv(self, linear: Linear) -> LinearMap:
        """This map, then a convolution or matrix product."""
        dense, bias = linear.dense().astype(np.float64), linear.bias.astype(np.float64)
        if linear.is_pointwise:
            here = self.then_matrix(dense.reshape(dense.shape[:2]), bias)
            still = (0,) * len(linear.strides)
            return here.then_strided(linear.strides, still, still) if linear.strides else here
        if not self.is_pointwise:
            raise Refused("skip-not-simple", "the skip path holds two spatial operators in a row")
        self._check_border(linear)
        matrix = self.matrix
        same = np.array_equal(matrix, np.eye(len(matrix)))
        taps = dense if same else np.moveaxis(np.tensordot(dense, matrix, axes=(1, 0)), -1, 1)
        sums = dense.reshape(*dense.shape[:2], -1).sum(axis=2)
        begin, end = linear.pads_begin, linear.pads_end
        before = list(zip(self.strides, self.start, self.slack, strict=True))
        gained = (
            b + e - d * (k - 1)
            for b, e, d, k in zip(begin, end, linear.dilations, linear.kernel, strict=True)
        )
        return LinearMap(
            taps=taps,
            bias=bias + sums @ self.bias,
            strides=tuple(s * t for (s, _, _), t in zip(before, linear.strides, strict=True)),
            start=tuple(a - s * b for (s, a, _), b in zip(before, begin, strict=True)),
            dilations=tuple(s * d for (s, _, _), d in zip(before, linear.dilations, strict=True)),
            slack=tuple(e + s * g for (s, _, e), g in zip(before, gained, strict=True)),
            padded=self.padded or any(begin + end),
        )

    def _check_border(self, linear: Linear) -> None:
        """Refuses padding with zeros where this map, read beyond its end, would not be zero."""
        pads = list(zip(linear.pads_begin, linear.pads_end, strict=True))
        if any(map(any, pads)) and self.bias.any():
            raise Refused("padded-border", f"{linear.label} on the skip path pads a shifted tensor")
        for axis, (begin, end) in enumerate(pads):
            start = self.start[axis]
            cut_before = begin and start >= self.strides[axis]
            cut_behind = end and self.slack[axis] + 1 + start < 0
            if cut_before or cut_behind:
                raise Refused(
                    "padded-border", f"{linear.label} on the skip path pads a tensor that was cut"
                )


def read(value: onnx_ir.Value, fork: onnx_ir.Value, shapes: ShapeTable, axis: int = 1) -> LinearMap:
    """The map from `fork` to `value`.

    Args:
        value: where the path ends.
        fork: where it starts.
        shapes: of the tensors.
        axis: of the channels. Where it is not 1 (products of matrices in a transformer have them
            last) all other axes are positions, and no operator with a window can stand on the path.

    Raises:
        Refused: the path holds something that is not linear, or whose parameters are not known.
    """
    nodes: list[onnx_ir.Node] = []
    here = value
    while here is not fork:
        node = here.producer()
        if node is None:
            raise Refused(
                "not-from-fork", f"the skip path starts at '{here.name}', not at the fork"
            )
        nodes.append(node)
        here = _source(node, fork)
    shape = shapes[fork.name or ""].shape
    channels = shape[axis] if shape is not None and axis < len(shape) else None
    if shape is None or not isinstance(channels, int):
        raise Refused("unknown-shape", f"the number of channels of '{fork.name}' is not known")
    result = LinearMap.identity(channels, len(shape) - 2 if axis == 1 else 0)
    for node in reversed(nodes):
        step = (_STEPS if axis == 1 else _STEPS_LAST).get(node.op_type)
        if step is None or node.domain not in ("", "ai.onnx"):
            raise Refused(
                "skip-not-linear", f"{node_label(node)} on the skip path is a {node.op_type}"
            )
        result = step(result, node, shapes)
    return replace(result, nodes=tuple(node_label(node) for node in reversed(nodes)))


def lineage(value: onnx_ir.Value) -> Iterator[onnx_ir.Value]:
    """`value`, and the tensors of which it may be a linear map, nearest first."""
    yield value
    while (node := value.producer()) is not None:
        if node.op_type not in _STEPS or node.domain not in ("", "ai.onnx"):
            return
        try:
            value = _source(node)
        except Refused:
            return
        yield value


def _source(node: onnx_ir.Node, fork: onnx_ir.Value | None = None) -> onnx_ir.Value:
    """The input through which the data comes."""
    data = [v for v in node.inputs if v is not None and (v is fork or not _is_weight(v))]
    if len(data) != 1:
        raise Refused(
            "skip-not-simple", f"{node_label(node)} on the skip path joins several tensors itself"
        )
    return data[0]


def _is_weight(value: onnx_ir.Value) -> bool:
    """Whether a tensor carries no data: a constant, or computed from shapes only."""
    waiting, seen = [value], set[onnx_ir.Value]()
    while waiting:
        here = waiting.pop()
        if here.is_graph_input():
            return False
        node = here.producer()
        if here in seen or node is None or node.op_type in ("Constant", "Shape", "Size"):
            continue
        seen.add(here)
        waiting += [source for source in reversed(node.inputs) if source is not None]
    return True


def _identity(before: LinearMap, node: onnx_ir.Node, shapes: ShapeTable) -> LinearMap:
    if node.op_type == "Dropout" and len(node.inputs) > 2 and scalar(node.inputs[2]) != 0:
        raise Refused("training-mode", f"{node_label(node)} is a Dropout in training mode")
    return before


def _conv(before: LinearMap, node: onnx_ir.Node, shapes: ShapeTable) -> LinearMap:
    try:
        linear = Linear.within(node, shapes)
    except NotLinear as error:
        raise Refused("runtime-weights", str(error)) from error
    return before.then_conv(linear)


def _matmul(before: LinearMap, node: onnx_ir.Node, shapes: ShapeTable) -> LinearMap:
    """A MatMul works on the last axis, which is that of the channels where there is no other."""
    if before.strides:
        raise Refused("skip-not-linear", f"{node_label(node)} multiplies along another axis")
    return _conv(before, node, shapes)


def _affine(before: LinearMap, node: onnx_ir.Node, shapes: ShapeTable) -> LinearMap:
    return _affine_along(1, before, node, shapes)


def _affine_last(before: LinearMap, node: onnx_ir.Node, shapes: ShapeTable) -> LinearMap:
    shape = shapes[node.outputs[0].name or ""].shape
    return _affine_along(len(shape or ()) - 1, before, node, shapes)


def _affine_along(
    axis: int, before: LinearMap, node: onnx_ir.Node, shapes: ShapeTable
) -> LinearMap:
    try:
        affine = affine_of(node, shapes, axis)
    except CannotFold as error:
        raise Refused(error.code, f"{node_label(node)} on the skip path: {error}") from error
    if affine is None:
        raise Refused(
            "skip-not-linear", f"{node_label(node)} on the skip path is no per-channel constant"
        )
    return before.scaled(affine)


def _average_pool(before: LinearMap, node: onnx_ir.Node, shapes: ShapeTable) -> LinearMap:
    source = node.inputs[0]
    shape = shapes[source.name or ""].shape if source is not None else None
    try:
        return before.then_conv(Linear.of_pool(node, before.taps.shape[0], shape))
    except NotLinear as reason:
        raise Refused("pooled-border", str(reason)) from reason


def _slice(before: LinearMap, node: onnx_ir.Node, shapes: ShapeTable) -> LinearMap:
    source = node.inputs[0]
    shape = shapes[source.name or ""].shape if source is not None else None
    if shape is None:
        raise Refused("unknown-shape", f"the shape before {node_label(node)} is not known")
    starts, ends, axes, steps = _slice_arguments(node, len(shape))
    result = before
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        size = shape[axis]
        if step < 1 or (start < 0 and not isinstance(size, int)):
            raise Refused("skip-not-linear", f"{node_label(node)} slices backwards")
        begin = max(0, start + size) if start < 0 and isinstance(size, int) else start
        if axis == 0:
            if begin or step != 1 or not (end >= 2**31 - 1 or end == size):
                raise Refused("skip-not-linear", f"{node_label(node)} slices the batch")
        elif axis == 1:
            rows = np.arange(before.taps.shape[0])[slice(start, end, step)]
            result = result.then_matrix(np.eye(before.taps.shape[0])[rows], np.zeros(len(rows)))
        else:
            if not isinstance(size, int) and end < 2**31 - 1:
                raise Refused("unknown-shape", f"{node_label(node)} cuts an axis of unknown size")
            strides, offset, cut = ([n] * (len(shape) - 2) for n in (1, 0, 0))
            strides[axis - 2], offset[axis - 2] = step, begin
            if isinstance(size, int):
                cut[axis - 2] = size - min(size, end + size if end < 0 else end)
            result = result.then_strided(tuple(strides), tuple(offset), tuple(cut))
    return result


def _slice_arguments(node: onnx_ir.Node, rank: int) -> tuple[list[int], ...]:
    if len(node.inputs) > 1:
        arrays = [constant(value) for value in node.inputs[1:]]
        known = [None if a is None else [int(i) for i in a.reshape(-1)] for a in arrays]
        given = [value is not None for value in node.inputs[1:]]
        if any(a is None and wanted for a, wanted in zip(known, given, strict=True)):
            raise Refused("runtime-weights", f"{node_label(node)} slices at computed places")
    else:
        names = ("starts", "ends", "axes")
        known = [list(node.attributes.get_ints(n, ()) or ()) or None for n in names]
    starts, ends = known[0] or [], known[1] or []
    axes = (known[2] if len(known) > 2 else None) or list(range(len(starts)))
    steps = (known[3] if len(known) > 3 else None) or [1] * len(starts)
    return starts, ends, [axis % rank for axis in axes], steps


def _pad(before: LinearMap, node: onnx_ir.Node, shapes: ShapeTable) -> LinearMap:
    if node.attributes.get_string("mode", "constant") != "constant":
        raise Refused("skip-not-linear", f"{node_label(node)} pads by reflection or repetition")
    if len(node.inputs) > 1:
        amounts = constant(node.inputs[1])
        fill = (
            scalar(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else 0.0
        )
        if len(node.inputs) > 3 and node.inputs[3] is not None:
            raise Refused("skip-not-linear", f"{node_label(node)} pads chosen axes")
        pads = None if amounts is None else [int(i) for i in amounts.reshape(-1)]
    else:
        pads = list(node.attributes.get_ints("pads", ()) or ())
        fill = node.attributes.get_float("value", 0.0)
    if pads is None:
        raise Refused("runtime-weights", f"{node_label(node)} pads by a computed amount")
    if fill != 0:
        raise Refused("skip-not-linear", f"{node_label(node)} pads with {fill}, not with zero")
    rank = len(pads) // 2
    if any(p for axis, p in enumerate(pads) if axis % rank != 1) or min(pads) < 0:
        raise Refused("skip-not-linear", f"{node_label(node)} pads other axes than the channels")
    return before.with_zero_channels(pads[1], pads[1 + rank])


def _concat(before: LinearMap, node: onnx_ir.Node, shapes: ShapeTable) -> LinearMap:
    """Concatenation of the tensor with zeros along the channels: option A as TFLite writes it."""
    rank = before.taps.ndim
    if node.attributes.get_int("axis", 0) % rank != 1:
        raise Refused("skip-not-linear", f"{node_label(node)} joins along another axis")
    rows = {True: 0, False: 0}
    passed = False
    for value in node.inputs:
        if value is not None and not _is_weight(value):
            passed = True
            continue
        width = shapes[(value.name if value is not None else "") or ""].shape
        if value is None or not _is_zero(value) or width is None or not isinstance(width[1], int):
            raise Refused("skip-not-linear", f"{node_label(node)} joins with what is not zero")
        rows[passed] += width[1]
    return before.with_zero_channels(rows[False], rows[True])


def _is_zero(value: onnx_ir.Value) -> bool:
    node = value.producer()
    if node is not None and node.op_type == "ConstantOfShape":
        fill = node.attributes.get_tensor("value")
        return fill is None or not fill.numpy().any()
    if node is not None and node.op_type in ("Transpose", "Reshape", "Identity", "Expand"):
        return node.inputs[0] is not None and _is_zero(node.inputs[0])
    array = constant(value)
    return array is not None and not array.any()


_STEPS: dict[str, Callable[[LinearMap, onnx_ir.Node, ShapeTable], LinearMap]] = {
    "Identity": _identity,
    "Dropout": _identity,
    "Conv": _conv,
    "Gemm": _conv,
    "MatMul": _matmul,
    "BatchNormalization": _affine,
    "Add": _affine,
    "Sub": _affine,
    "Mul": _affine,
    "Div": _affine,
    "AveragePool": _average_pool,
    "Slice": _slice,
    "Pad": _pad,
    "Concat": _concat,
}
_STEPS_LAST: dict[str, Callable[[LinearMap, onnx_ir.Node, ShapeTable], LinearMap]] = {
    "Identity": _identity,
    "Dropout": _identity,
    "MatMul": _conv,
    "Add": _affine_last,
    "Sub": _affine_last,
    "Mul": _affine_last,
    "Div": _affine_last,
}
