"""Reserve-merge on QDQ and QLinear graphs of 8 bits: exact in the codes.

**Reserve.** The rows that reserve a tensor of codes have the weight 1 and the scale s' / s, so that
their multiplier is 1; a bias of whole steps takes the codes past other zero points.
What was read as q on the skip's grid leaves the branch as q, beside the branch's codes.

**Merge.** The last layer reserves too; a 1x1 convolution adds, with whole weights m for the branch
and n for the skip, whose ratio stands for that of the two steps:

    q = clip(rint(M (m (q_b - z_b) + n (q_x - z_x))) + z, low, high),   M = s_b / (m s).

The sum is over two codes of 8 bits, so the result of every pair is known, in float32 too: m is the
smallest for which all of them come out as they did. Where m and n have 8 bits it is a QLinearConv;
else the convolution is of floats that hold these integers, with a QuantizeLinear behind it. A
quarter more, or a step of the last that differs in its last digits, puts a sum that is almost half
way between two codes on the side where it was.

A projection on the skip is refused: its codes lie around a zero point of their own, and no bias of
whole steps moves them to that of the branch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir

from graphopt.evidence import Cost
from graphopt.ir.model import Model, node_label
from graphopt.ir.quant import Grid, GridTable
from graphopt.ir.shapes import ShapeTable
from passes.linear import Initializers, Linear, prune, replace_output
from passes.refused import Refused
from passes.reserve_merge.integer_layers import (
    IntegerLayer,
    check_single,
    codes_of,
    integer_chain,
    read_by,
)
from passes.reserve_merge.quantized_layers import at_tap, tap_of

Array = npt.NDArray[Any]

_INT8 = 127
"""Largest weight of a QLinearConv."""
_EXACT = 2**24
"""Up to which float32 holds every integer."""
_NUDGES = ((0.0, 0), (0.25, 0), (-0.25, 0), (0.0, 1), (0.0, -1))
"""What may be added to a sum, and to the last digit of the step that it is divided by: ONNX
Runtime's own sum is off by about that."""
_HARD = 256
"""Pairs nearest to half way between two codes, which are tried first."""


@dataclass(frozen=True)
class Addition:
    """How the 1x1 convolution adds.

    Attributes:
        m, n: weights of the branch and of the skip.
        wrong: of all pairs of codes, those that come out otherwise.
        pairs: all pairs.
        off: codes by which they are off, at most.
        unsure: pairs whose code in float32 is not that of the real sum, before and after.
        nudge: what is added to the sum, in steps of 1 / m of the branch's.
        step: what the sum is divided by, a float32, where no QLinearConv adds.
        fused: whether a QLinearConv may add: not where a Relu behind the sum clips codes.
    """

    m: int
    n: int
    wrong: int
    pairs: int
    off: int
    unsure: int
    nudge: float
    step: float
    fused: bool

    @property
    def bits(self) -> int:
        """Of the wider weight."""
        return max(self.m, self.n).bit_length() + 1

    @property
    def is_int8(self) -> bool:
        """Whether a QLinearConv can hold the weights."""
        return self.fused and max(self.m, self.n) <= _INT8


@dataclass(frozen=True, eq=False)
class _Join:
    """A join and what follows up to its codes.

    Attributes:
        node: Add or QLinearAdd.
        last: what gives the codes.
        out: their grid.
        relu: whether a Relu stands between.
    """

    node: onnx_ir.Node
    last: onnx_ir.Node
    out: Grid
    relu: bool


@dataclass(frozen=True, eq=False)
class IntegerBlock:
    """A residual block from codes to codes, read and planned.

    Attributes:
        layers: of the branch.
        branch, skip: grids of the codes that the join adds, as it reads them.
        fork: the codes it starts from.
        join: where it ends.
        addition: how the merge adds.
        taps: for each layer the one that reads the skip's pixel.
    """

    layers: tuple[IntegerLayer, ...]
    branch: Grid
    skip: Grid
    fork: onnx_ir.Value
    join: _Join
    addition: Addition
    taps: tuple[tuple[int, ...], ...]

    @property
    def facts(self) -> tuple[str, ...]:
        """What the rewrite relies on, and what it takes."""
        add = self.addition
        reach = 255 * (add.m + add.n)
        held = "int8" if add.is_int8 else f"{add.bits} bits, held in floats"
        ratio = float(self.skip.scale) / float(self.branch.scale)
        return (
            f"the addends' steps have the ratio {ratio:.6g}; whole weights {add.m} and {add.n} "
            f"stand for it ({held}), accumulators stay below {reach + 1}",
            f"of {add.pairs} pairs of codes {add.wrong} give another code"
            + (f", by at most {add.off}" if add.wrong else "")
            + "; rounded to the nearest, as float32 does it"
            + (f" ({add.unsure} otherwise than real numbers)" if add.unsure else ""),
        )

    def cost(self, shapes: ShapeTable) -> tuple[Cost, Cost]:
        """Weights, their bytes and multiply-adds, before and after."""
        old, new = [], []
        count = self.layers[0].linear.inputs
        for number, layer in enumerate(self.layers):
            linear = layer.linear
            taps = math.prod(linear.kernel)
            positions = _positions(linear, shapes)
            old.append((linear.weight.size, 1, positions))
            columns = 1 if layer.linear.is_depthwise else linear.inputs + count * bool(number)
            new.append(((linear.outputs + count) * columns * taps, 1, positions))
        add = 2 * count * count
        width = 1 if self.addition.is_int8 else 4
        new.append((add, width, _positions(self.layers[-1].linear, shapes)))
        return _total(old), _total(new)


def read(
    join: onnx_ir.Node,
    branch: onnx_ir.Value,
    other: onnx_ir.Value,
    fork: onnx_ir.Value,
    grids: GridTable,
    shapes: ShapeTable,
    *,
    limit: int,
    approximate: bool,
) -> IntegerBlock:
    """Reads the block around a join of codes.

    Args:
        join: an Add or QLinearAdd.
        branch, other, fork: tensors of the skip, codes or dequantized.
        grids, shapes: of all tensors.
        limit: the largest weight of the merge.
        approximate: take the weights with the fewest wrong pairs where none has none.

    Raises:
        Refused: a condition does not hold.
    """
    start, _ = codes_of(fork, grids)
    values = list(join.inputs)
    end, grid = read_by(join, values.index(branch), grids)
    straight, skip = read_by(join, values.index(other), grids)
    if straight is not start:
        path = integer_chain(straight, start, shapes, grids)
        raise Refused(
            "zero-point",
            f"the codes of {path[-1].label} lie around {int(skip.zero_point)}, to which no bias of "
            "whole steps takes those of a row in the branch",
        )
    layers = integer_chain(end, start, shapes, grids)
    if not layers:
        raise Refused("no-branch", "there is no layer between the fork and the join")
    found = _behind(join, grids)
    if len({one.low for layer in layers for one in (layer.into, layer.out)} | {found.out.low}) > 1:
        raise Refused("mixed-types", "int8 and uint8 codes meet, which no QLinearConv takes")
    taps = _check(layers, shapes)
    _check_room(layers, skip)
    wanted = sums(
        *((grid, skip) if join.inputs[0] is branch else (skip, grid)),
        found.out, relu=found.relu, qlinear=join.op_type == "QLinearAdd",
    )  # fmt: skip
    if join.inputs[0] is not branch:
        wanted = wanted.T
    addition = weights(
        grid, skip, found.out, wanted, relu=found.relu, limit=limit, approximate=approximate
    )
    return IntegerBlock(layers, grid, skip, start, found, addition, taps)


def _behind(join: onnx_ir.Node, grids: GridTable) -> _Join:
    if join.op_type == "QLinearAdd":
        _, out = codes_of(join.outputs[0], grids)
        return _Join(join, join, out, False)
    relu, value = False, join.outputs[0]
    while True:
        uses = list(value.uses())
        if len(uses) != 1 or value.is_graph_output():
            break
        node = uses[0].node
        if node.op_type == "QuantizeLinear":
            check_single(node)
            _, out = codes_of(node.outputs[0], grids)
            return _Join(join, node, out, relu)
        if node.op_type != "Relu" or relu:
            break
        relu, value = True, node.outputs[0]
    raise Refused("no-quantizer-behind", "the sum is read before it is quantized")


def _check(layers: Sequence[IntegerLayer], shapes: ShapeTable) -> tuple[tuple[int, ...], ...]:
    """The tap of each layer that reads the skip's pixel."""
    for layer in layers:
        if layer.linear.group != 1 and not layer.linear.is_depthwise:
            raise Refused("grouped", f"{layer.label} has groups")
        if any(stride != 1 for stride in layer.linear.strides):
            raise Refused("strides", f"{layer.label} has strides that the skip path has not")
    if layers[0].linear.is_depthwise:
        raise Refused("grouped", f"{layers[0].label} filters each channel by itself")
    if layers[-1].linear.outputs != layers[0].linear.inputs:
        raise Refused("broadcast", "branch and skip path differ in their channels")
    return tuple(tap_of(layer.linear, shapes) for layer in layers)


def _check_room(layers: Sequence[IntegerLayer], skip: Grid) -> None:
    """A code of the skip can be any of 8 bits, so every layer has to let all of them through."""
    for layer in layers:
        if layer.lowest > skip.low:
            raise Refused(
                "zero-point",
                f"a Relu before the quantizer of {layer.label} leaves {layer.out.high} - "
                f"{layer.lowest} codes, too few for the skip's",
            )


def sums(first: Grid, second: Grid, out: Grid, *, relu: bool, qlinear: bool) -> Array:
    """The codes of the sums of all pairs of codes, [first, second], in float32.

    QDQ as ONNX defines its operators: two products, a sum and a quotient, each rounded. QLinearAdd
    as ONNX Runtime computes it with fused multiply-adds (core/mlas/lib/intrinsics/avx2/
    qladd_avx2.cpp), which rounds to whole numbers after it has added the zero point: equal on
    7,405,568 pairs of codes at 113 triples of steps. Where a sum lies within their roundings of
    half way between two codes, the two may differ.
    """
    single = np.float32
    one = np.arange(first.low, first.high + 1)[:, None]
    two = np.arange(second.low, second.high + 1)[None, :]
    s_1, s_2, s = (single(grid.scale) for grid in (first, second, out))
    z_1, z_2, z = (single(grid.zero_point) for grid in (first, second, out))
    if qlinear:
        r_1, r_2 = s_1 / s, s_2 / s
        fixed = z - _fused(r_1, z_1, r_2 * z_2)
        steps = _fused(r_1, one, _fused(r_2, two, fixed))
        return np.asarray(np.clip(np.rint(steps), out.low, out.high))
    total = s_1 * (one - z_1).astype(single) + s_2 * (two - z_2).astype(single)
    return _codes(total / s, out, relu)


def _fused(a: Any, b: Any, c: Any) -> Array:
    """One rounding of `a b + c`, to float32."""
    wide = np.float64
    return np.asarray(np.asarray(a, wide) * b + np.asarray(c, wide)).astype(np.float32)


def weights(
    branch: Grid,
    skip: Grid,
    out: Grid,
    wanted: Array,
    *,
    relu: bool,
    limit: int,
    approximate: bool,
) -> Addition:
    """The smallest m with an n for which all pairs of codes come out as `wanted` in float32.

    With `approximate`, else, those with the fewest that do not.

    Args:
        branch, skip, out: grids of the addends and of the sum.
        wanted: [branch, skip], the codes of the sums.
        relu: whether the sum is taken at 0 and above.
        limit: the largest weight.
        approximate: as above.

    Raises:
        Refused: there is none up to `limit`.
    """
    b = np.arange(branch.low, branch.high + 1)[:, None] - int(branch.zero_point)
    x = np.arange(skip.low, skip.high + 1)[None, :] - int(skip.zero_point)
    s_b, s_x, s = (float(grid.scale) for grid in (branch, skip, out))
    exact = s_b / s * b + s_x / s * x
    half = np.abs(exact - np.floor(exact) - 0.5)
    hard = np.unravel_index(np.argsort(half, axis=None)[:_HARD], half.shape)

    fused = not (relu and int(out.zero_point) > out.low)

    def off(m: int, n: int, nudge: float, step: np.float32, where: Any) -> Array:
        total = (m * b + n * x)[where].astype(np.float32) + np.float32(nudge)
        if fused and max(m, n) <= _INT8:  # QLinearConv: scales in, of the weight, out
            steps = total * (np.float32(s_b) * np.float32(1 / m) / np.float32(s))
        else:
            steps = total / step
        return np.asarray(np.abs(_codes(steps, out, relu) - wanted[where]))

    best: tuple[int, int, int, float, np.float32] | None = None
    for m in range(1, limit + 1):
        n = round(m * s_x / s_b)
        if not 0 < n <= limit or 255 * (m + n) >= _EXACT:
            continue
        for nudge, digits in _NUDGES[:1] if max(m, n) <= _INT8 else _NUDGES:
            step = _moved(np.float32(s * m / s_b), digits)
            if not approximate and off(m, n, nudge, step, hard).any():
                continue
            count = int(np.count_nonzero(off(m, n, nudge, step, ...)))
            if best is None or count < best[0]:
                best = (count, m, n, nudge, step)
        if best is not None and not best[0]:
            break
    if best is None or (best[0] and not approximate):
        raise Refused(
            "no-lattice",
            f"the addends' steps have the ratio {s_x / s_b:.6g}: no whole weights up to {limit} "
            "give all codes as they were",
        )
    count, m, n, nudge, step = best
    real = int(np.count_nonzero(_codes(exact, out, relu) != wanted))
    most = int(off(m, n, nudge, step, ...).max())
    return Addition(m, n, count, wanted.size, most, real, nudge, float(step), fused)


def _moved(number: np.float32, digits: int) -> np.float32:
    """The float32 so many places further on."""
    for _ in range(abs(digits)):
        number = np.nextafter(number, np.float32(np.inf if digits > 0 else 0))
    return number


def _codes(steps: Array, out: Grid, relu: bool) -> Array:
    """Codes of sums in steps of the output."""
    if relu:
        steps = np.maximum(steps, 0)
    codes: Array = np.clip(np.rint(steps) + int(out.zero_point), out.low, out.high)
    return codes


def _positions(linear: Linear, shapes: ShapeTable) -> int:
    info = shapes[linear.node.outputs[0].name or ""]
    return max(1, (info.elements() or linear.outputs) // linear.outputs)


def _total(parts: Sequence[tuple[int, int, int]]) -> Cost:
    """Of (weights, bytes of each, positions)."""
    return Cost(
        sum(count for count, _, _ in parts),
        sum(count * width for count, width, _ in parts),
        sum(count * positions for count, _, positions in parts),
    )


# --- building ------------------------------------------------------------------------------------


def build(block: IntegerBlock, model: Model) -> None:
    """Puts the block without its join into the model."""
    made = _Builder(model, Initializers(model.graph, set(model.value_index())), block.join.last)
    here = block.fork
    count = block.layers[0].linear.inputs
    for number, layer in enumerate(block.layers):
        here = made.reserve(layer, number > 0, count, block.taps[number], here)
    read = [value.producer() for value in block.join.last.inputs if value is not None]
    made.merge(block, here)
    prune(model, [node for node in read if node is not None])


@dataclass
class _Builder:
    """Puts nodes in front of `at`."""

    model: Model
    initializers: Initializers
    at: onnx_ir.Node

    def reserve(
        self,
        layer: IntegerLayer,
        widened: bool,
        count: int,
        tap: tuple[int, ...],
        source: onnx_ir.Value,
    ) -> onnx_ir.Value:
        """A layer with rows for `count` more channels of codes."""
        linear, old = layer.linear, layer.linear.weight
        own = np.arange(count)
        if layer.linear.is_depthwise:
            rows = np.zeros((count, 1, *linear.kernel), np.int64)
            rows[at_tap(own, 0, tap)] = 1
        else:
            before = linear.inputs if widened else 0
            rows = np.zeros((count, before + count, *linear.kernel), np.int64)
            rows[at_tap(own, before + own, tap)] = 1
            if widened:
                zeros = np.zeros((len(old), count, *linear.kernel), np.int64)
                old = np.concatenate([old, zeros], axis=1)
        into, out = layer.into, layer.out
        copied = np.full(count, float(out.scale) / float(into.scale))
        steps = int(into.zero_point) - int(out.zero_point)
        node = self._conv(
            linear.node,
            source,
            np.concatenate([old, rows]),
            np.concatenate([layer.scale, copied]),
            np.concatenate([linear.bias, np.full(count, steps)]),
            (into, out),
            {
                "strides": list(linear.strides),
                "dilations": list(linear.dilations),
                "pads": list(linear.pads_begin + linear.pads_end),
                "group": linear.group + count if layer.linear.is_depthwise else 1,
            },
        )
        return self._put(node, f"{layer.result.name}.reserved")

    def merge(self, block: IntegerBlock, source: onnx_ir.Value) -> None:
        """The convolution that adds, in the place of what gave the codes of the sum."""
        add, out, last = block.addition, block.join.out, block.layers[-1]
        count, rank = last.linear.outputs, last.linear.weight.ndim
        one = np.eye(count, dtype=np.int64)
        codes = np.concatenate([add.m * one, add.n * one], axis=1)
        codes = codes.reshape(count, 2 * count, *[1] * (rank - 2))
        zero = int(block.branch.zero_point)
        bias = np.full(count, add.n * (zero - int(block.skip.zero_point)))
        if add.is_int8:
            scale = np.full(count, 1 / add.m)
            node = self._conv(block.join.node, source, codes, scale, bias, (block.branch, out), {})
        else:
            node = self._floats(block, source, codes)
        replace_output(self.model, block.join.last, node)

    def _floats(self, block: IntegerBlock, source: onnx_ir.Value, codes: Array) -> onnx_ir.Node:
        """The same sums in floats that hold integers, and a quantizer with their step.

        A Cast gives the integers: behind a DequantizeLinear ONNX Runtime would round the weights to
        8 bits (its WeightBiasQuantization).
        """
        out = block.join.out
        label = node_label(block.join.node)
        to = onnx_ir.DataType.FLOAT
        here = self._put(
            onnx_ir.node("Cast", [source], attributes={"to": int(to)}), f"{source.name}.integers"
        )
        zeros = np.repeat([int(block.branch.zero_point), int(block.skip.zero_point)], len(codes))
        named = self.initializers.add(
            f"{label}.zeros", zeros.astype(np.float32).reshape(-1, *[1] * (codes.ndim - 2))
        )
        here = self._put(onnx_ir.node("Sub", [here, named]), f"{label}.centred")
        weight = self.initializers.add(f"{label}.weight", codes.astype(np.float32))
        here = self._put(
            onnx_ir.node(
                "Conv",
                [here, weight],
                attributes={"kernel_shape": list(codes.shape[2:])},
                name=self.initializers.fresh(f"{label}.sum"),
            ),
            f"{label}.sum",
        )
        if block.addition.nudge:
            # A node of its own: within the convolution a large partial sum would swallow it.
            more = self._scalar(label, block.addition.nudge)
            here = self._put(onnx_ir.node("Add", [here, more]), f"{label}.nudged")
        if block.join.relu:
            here = self._put(onnx_ir.node("Relu", [here]), f"{label}.relu")
        given = [self._scalar(label, block.addition.step), self._zero(label, out)]
        return onnx_ir.node("QuantizeLinear", [here, *given], name=block.join.last.name)

    def _conv(
        self,
        old: onnx_ir.Node,
        source: onnx_ir.Value,
        codes: Array,
        scale: Array,
        bias: Array,
        grids: tuple[Grid, Grid],
        attributes: Mapping[str, Any],
    ) -> onnx_ir.Node:
        """A QLinearConv in the place of a node."""
        into, out = grids
        label = node_label(old)
        add = self.initializers.add
        inputs: list[onnx_ir.Value | None] = [
            source,
            self._scalar(label, float(into.scale)),
            self._zero(label, into),
            add(f"{label}.weight", codes.astype(np.int8)),
            add(f"{label}.weight_scale", scale.astype(np.float32)),
            add(f"{label}.weight_zero", np.zeros(len(codes), np.int8)),
            self._scalar(label, float(out.scale)),
            self._zero(label, out),
        ]
        if bias.any():
            inputs.append(add(f"{label}.bias", bias.astype(np.int32)))
        node = onnx_ir.node(
            "QLinearConv",
            inputs,
            attributes={"kernel_shape": list(codes.shape[2:]), **attributes},
            name=old.name,
        )
        node.metadata_props.update(old.metadata_props)
        return node

    def _scalar(self, label: str, value: float) -> onnx_ir.Value:
        return self.initializers.add(f"{label}.scale", np.array(value, np.float32))

    def _zero(self, label: str, grid: Grid) -> onnx_ir.Value:
        kind = np.int8 if grid.low < 0 else np.uint8
        return self.initializers.add(f"{label}.zero", np.array(int(grid.zero_point), kind))

    def _put(self, node: onnx_ir.Node, stem: str) -> onnx_ir.Value:
        node.outputs[0].name = self.initializers.fresh(stem)
        self.model.graph.insert_before(self.at, node)
        return node.outputs[0]
