"""The pass `reserve-merge`: applies the rule of `rule` to the skips of a model."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
import onnx_ir

from graphopt.evidence import Cost, Refusal, Region, Rewrite
from graphopt.ir.model import Model
from graphopt.ir.shapes import Shapes, ShapeTable, TensorInfo
from graphopt.pipeline.passes import Context, PassResult
from graphopt.skips import Skip
from graphopt.verify.algebra import Claim
from passes import linear_map
from passes.linear import Initializers, Linear, NotLinear, replace_output
from passes.linear_map import LinearMap
from passes.ranges import Ranges, RangeTable
from passes.refused import Refused
from passes.reserve_merge import branch
from passes.reserve_merge.branch import Stage
from passes.reserve_merge.build import Builder
from passes.reserve_merge.carriers import (
    CARRIERS,
    MAX_RANGE,
    ON_REQUEST,
    Carrier,
    Content,
    range_of,
)
from passes.reserve_merge.gates import Gate
from passes.reserve_merge.rule import Plan, ResidualBlock, plan
from passes.reserve_merge.widen import Form
from passes.skip_detection import Skips

CarrierName = Literal[
    "auto", "plain", "prelu", "split", "shift", "scale", "max-min", "pass-through"
]


@dataclass(frozen=True)
class ReserveMerge:
    """Removes residual joins exactly, by reserving the skip's tensor in the branch.

    Attributes:
        when: `worth` keeps a skip where the result costs more on the target; `possible` removes
            every skip that can be removed.
        carrier: the only carrier to use, or `auto` for the cheapest valid one.
        form: how reserved channels pass the middle layers: `dense`, `grouped`, or `auto` for the
            one with fewer weights.
        concat: take concatenations away too (DenseNet): reserved channels are carried to the end
            of the branch and not merged, which costs far more than the concatenation did.
    """

    name: ClassVar[str] = "reserve-merge"
    preserves: ClassVar[frozenset[str]] = frozenset()

    when: Literal["worth", "possible"] = "worth"
    carrier: CarrierName = "auto"
    form: Form = "auto"
    concat: bool = False

    def run(self, model: Model, context: Context) -> PassResult:
        """Goes through the skips, inner ones first, and removes or refuses each."""
        return self.run_on(model, context, lambda block: True)

    def run_on(
        self, model: Model, context: Context, wanted: Callable[[ResidualBlock], bool]
    ) -> PassResult:
        """As `run`, but passes over the blocks that are not wanted."""
        skips = model.analyses.get(Skips())
        fresh: dict[str, TensorInfo] = {}
        work = _Work(
            model,
            ShapeTable(ChainMap(fresh, dict(model.analyses.get(Shapes())))),
            fresh,
            model.analyses.get(Ranges()),
            Initializers(model.graph, set(model.value_index())),
            self.concat,
        )
        judge = partial(context.cost.judge, target=context.target)
        rewrites: list[Rewrite] = []
        refusals: list[Refusal] = []
        claims: list[Claim] = []
        for number, skip in enumerate(skips):
            context.progress(f"{self.name}: {skip.name}", number / len(skips))
            region = Region(skip.name, (skip.join,))
            try:
                found = work.block(skip)
                if not wanted(found.block):
                    continue
                carriers = self._carriers(found.block, model.opset)
                chosen = plan(found.block, judge, carriers, self.form)
            except Refused as reason:
                refusals.append(Refusal(self.name, region, str(reason), reason.code))
                continue
            before, after = work.costs(found, chosen)
            verdict = judge(before, after)
            if self.when == "worth" and not verdict:
                refusals.append(
                    Refusal(self.name, region, verdict.reason, "not-worth-it", by_choice=True)
                )
                continue
            nodes = tuple(stage.linear.label for stage in found.block.stages)
            claims += [*work.apply(found, chosen), chosen.proof]
            rewrites.append(
                Rewrite(
                    self.name,
                    f"reserve-merge ({_rule_name(found.block, chosen)})",
                    Region(skip.name, (*nodes, skip.join)),
                    chosen.exactness,
                    chosen.facts,
                    before,
                    after,
                )
            )
        statistics = {"removed": len(rewrites), "kept": len(refusals)}
        return PassResult(
            bool(rewrites), tuple(rewrites), tuple(refusals), tuple(claims), statistics
        )

    def _carriers(self, block: ResidualBlock, opset: int) -> tuple[Carrier, ...]:
        """Those that may be used on a block, whose operators exist for its type."""
        dtype = str(block.stages[0].linear.weight.dtype)
        missing = {name for name, least in _BFLOAT16_FROM.items() if opset < least}
        allowed = CARRIERS if self.carrier == "auto" else (*CARRIERS, *ON_REQUEST)
        return tuple(
            carrier
            for carrier in allowed
            if self.carrier in ("auto", carrier.name)
            and not (dtype == "bfloat16" and carrier.name in missing)
        )


_BFLOAT16_FROM = {"prelu": 16, "max-min": 13}
"""Operator sets from which on PRelu, Max and Min take bfloat16."""


def _rule_name(block: ResidualBlock, chosen: Plan) -> str:
    where = "projected first" if chosen.place == "first" else "merged last"
    if block.branch_at is not None:
        where = "not merged"
    kind = "identity" if block.skip.is_identity else where
    return f"{kind}, carried by {' then '.join(chosen.carriers) or 'nothing'}"


@dataclass(frozen=True, eq=False)
class _Found:
    """A block in the graph.

    Attributes:
        block: what the rule is applied to.
        fork: the tensor that the rewritten block reads.
        join: the node that goes.
        skip_nodes: the nodes of the skip path.
    """

    block: ResidualBlock
    fork: onnx_ir.Value
    join: onnx_ir.Node
    skip_nodes: tuple[onnx_ir.Node, ...]


@dataclass(frozen=True, eq=False)
class _Work:
    """The model under the knife, with what is known of it."""

    model: Model
    shapes: ShapeTable
    fresh: dict[str, TensorInfo]
    """Shapes of the tensors made so far; `shapes` sees them."""
    ranges: RangeTable
    initializers: Initializers
    concat: bool

    def block(self, skip: Skip) -> _Found:
        """Reads the block around a skip.

        Raises:
            Refused: it is no block that the rule knows.
        """
        _check_join(skip, self.concat)
        values = self.model.value_index()
        fork = values.get(skip.fork)
        join = self.model.node_index().get(skip.join)
        if fork is None or join is None:
            raise Refused("changed", "another rewrite has changed this region already")
        inputs = tuple(value for value in join.inputs if value is not None)
        if join.op_type != "Concat":
            self._check_broadcast(inputs)
        elif len(skip.paths) != len(inputs):
            raise Refused("concat-join", "the join concatenates something that is no path of it")
        # the heaviest path is the branch; where that one is linear, another may be
        heaviest = [path.tensor for path in reversed(skip.paths)]
        reasons: list[Refused] = []
        for branched in sorted(inputs, key=lambda value: heaviest.index(value.name or "")):
            try:
                return self._read(skip, fork, join, inputs, branched)
            except Refused as reason:
                reasons.append(reason)
        raise reasons[0]

    def _read(
        self,
        skip: Skip,
        fork: onnx_ir.Value,
        join: onnx_ir.Node,
        inputs: tuple[onnx_ir.Value, ...],
        branched: onnx_ir.Value,
    ) -> _Found:
        if inputs.count(branched) > 1:
            raise Refused("many-paths", f"the join takes '{branched.name}' more than once")
        axis = branch.channel_axis(branched, fork, self.shapes)
        if join.op_type == "Concat":
            rank = len(self.shapes[_name(branched)].shape or ()) or 1
            if join.attributes.get_int("axis", 1) % rank != axis:
                raise Refused(
                    "concat-join", "the join concatenates along another axis than the channels"
                )
        others = tuple(value for value in inputs if value is not branched)
        start, shared = fork, set[onnx_ir.Value]()
        try:
            stages = branch.read(branched, fork, self.shapes)
        except Refused as reason:
            if reason.code != "pre-activation":
                raise
            # the layer that makes the fork is the first one of the branch, and of the skip path
            # too; where no layer makes it, one that copies it does
            maker = self._maker(fork)
            if maker is not None:
                start, shared = maker.source, {fork}
                stages = branch.read(branched, start, self.shapes, shared)
            else:
                copy = self._copy(fork, axis)
                stages = branch.read(branched, fork, self.shapes, first=copy)
        paths = [linear_map.read(value, start, self.shapes, axis) for value in others]
        self._check_channels(stages, paths, join)
        for value, path in zip(others, paths, strict=True):
            _check_sizes(stages, path, (value, branched), self.shapes)
        index = self.model.node_index()
        skip_nodes = tuple(index[label] for path in paths for label in path.nodes)
        inside = {join, *skip_nodes, *(node for stage in stages for node in stage.nodes)}
        if any(use.node not in inside for value in shared for use in value.uses()):
            raise Refused("read-elsewhere", f"'{fork.name}' is read outside of the block too")
        contents = [self._content(v, len(p.taps), axis) for v, p in zip(others, paths, strict=True)]
        fork_content = self._content(start, paths[0].taps.shape[1], axis)
        if join.op_type == "Concat":
            path, skipped, places = _side_by_side(inputs, branched, paths, contents, stages)
            block = ResidualBlock(skip.name, stages, path, fork_content, skipped, places)
        else:
            path, skipped = _added_up(paths), _sum_of(contents)
            block = ResidualBlock(skip.name, stages, path, fork_content, skipped)
        return _Found(block, start, join, skip_nodes)

    def _maker(self, fork: onnx_ir.Value) -> Linear | None:
        """The linear operator that makes the fork."""
        node = fork.producer()
        if node is None or fork.is_graph_output():
            return None
        try:
            return Linear.within(node, self.shapes)
        except NotLinear:
            return None

    def _copy(self, fork: onnx_ir.Value, axis: int) -> Linear:
        info = self.shapes[_name(fork)]
        channels = info.shape[axis] if info.shape is not None and axis < len(info.shape) else None
        if info.shape is None or not isinstance(channels, int) or info.dtype not in _FLOATS:
            raise Refused("unknown-shape", f"the channels of '{fork.name}' are not known")
        convolves = axis == 1 and len(info.shape) > 2
        if info.dtype is onnx_ir.DataType.BFLOAT16 and convolves and self.model.opset < 22:
            raise Refused("pre-activation", "no convolution of this opset copies bfloat16")
        if fork.dtype is None:
            fork.type = onnx_ir.TensorType(info.dtype)
        return Linear.identity(fork, channels, axis, len(info.shape))

    def _check_broadcast(self, inputs: tuple[onnx_ir.Value, ...]) -> None:
        one = self.shapes[_name(inputs[0])].shape
        for value in inputs[1:]:
            two = self.shapes[_name(value)].shape
            if one is None or two is None or len(one) < 2:
                raise Refused("unknown-shape", "the shapes at the join are not known")
            sizes = [
                (a, b)
                for a, b in zip(one, two, strict=False)
                if isinstance(a, int) or isinstance(b, int)
            ]
            if len(one) != len(two) or any(
                a != b and isinstance(a, int) and isinstance(b, int) for a, b in sizes
            ):
                raise Refused("broadcast", f"the join broadcasts {list(one)} with {list(two)}")
            if any(1 in (a, b) and a != b for a, b in sizes):
                raise Refused("broadcast", "the join may broadcast: a size is 1 on one side only")

    @staticmethod
    def _check_channels(
        stages: tuple[Stage, ...], paths: list[LinearMap], join: onnx_ir.Node
    ) -> None:
        for path in paths:
            adds = join.op_type != "Concat"
            if stages[0].linear.inputs != path.taps.shape[1] or (
                adds and stages[-1].linear.outputs != path.taps.shape[0]
            ):
                raise Refused("broadcast", "branch and skip path differ in their channels")
            if any(len(stage.linear.kernel) != len(path.strides) for stage in stages):
                raise Refused("branch-not-a-chain", "the branch changes the rank of the tensor")

    def _content(self, value: onnx_ir.Value, channels: int, axis: int) -> Content:
        interval = self.ranges[_name(value)]
        if axis == 1:
            low, high = interval.per_channel(channels)
        else:  # the bounds are told along axis 1, which holds positions here
            low, high = (
                np.full(channels, end) for end in (interval.low.min(), interval.high.max())
            )
        dtype = self.shapes[_name(value)].dtype
        reach = range_of(dtype.numpy()) if dtype in _FLOATS and dtype is not None else MAX_RANGE
        return Content(low, high, interval.because, reach)

    def costs(self, found: _Found, chosen: Plan) -> tuple[Cost, Cost]:
        """Cost of the block with its skip path, before and after."""
        stages = found.block.stages
        present = [stage for stage in stages if stage.linear.node.graph is not None]
        linears = [stage.linear for stage in present]
        before_adds = sum(s.positions * int(s.linear.weight.size) for s in present)
        before_parameters = sum(w.weight.size + w.bias.size for w in linears)
        counted = {node for linear in linears for node in linear.nodes}
        for node in found.skip_nodes:
            if node.op_type in branch.LINEAR and node not in counted:
                size = self.shapes[_name(node.inputs[1])].elements() or 0
                before_adds += stages[-1].positions * size
                before_parameters += size
        gates = [
            (layer, extra)
            for stage, planned in zip(stages, chosen.stages, strict=True)
            for one in stage.through
            if isinstance(one, Gate)
            for layer, extra in _gate_growth(one, planned.widened.layout.total)
        ]
        gate_before = sum(int(layer.weight.size) for layer, _ in gates)
        gate_after = gate_before + sum(extra for _, extra in gates)
        size = stages[0].linear.weight.dtype.itemsize
        before = Cost(
            before_parameters + gate_before,
            (before_parameters + gate_before) * size,
            before_adds + gate_before,
        )
        parameters = chosen.parameters + gate_after
        return before, Cost(parameters, parameters * size, chosen.multiply_adds + gate_after)

    def apply(self, found: _Found, chosen: Plan) -> list[Claim]:
        """Puts the plan into the graph and returns what it claims of the new weights."""
        builder = Builder(self.model, found.join, self.shapes, self.fresh, self.initializers)
        result, claims = builder.block(found.block.stages, chosen, found.fork)
        last = result.producer()
        assert last is not None
        self.model.graph.remove(last)
        replace_output(self.model, found.join, last)
        self._remove(found)
        return claims

    def _remove(self, found: _Found) -> None:
        """Removes the old branch, and of the old skip path what nothing else reads."""
        old = (node for stage in found.block.stages for node in stage.nodes)
        there = [node for node in (*found.skip_nodes, *old) if node.graph is not None]
        waiting = list(dict.fromkeys(there))
        while waiting:
            dead = [
                n for n in waiting if not any(v.uses() or v.is_graph_output() for v in n.outputs)
            ]
            if not dead:
                return
            for node in dead:
                self.model.graph.remove(node, safe=True)
                waiting.remove(node)


_FLOATS = frozenset(
    {
        onnx_ir.DataType.FLOAT,
        onnx_ir.DataType.DOUBLE,
        onnx_ir.DataType.FLOAT16,
        onnx_ir.DataType.BFLOAT16,
    }
)


def _name(value: onnx_ir.Value | None) -> str:
    return (value.name if value is not None else None) or ""


def _gate_growth(gate: Gate, channels: int) -> list[tuple[Linear, int]]:
    """The layers of a gate and how many weights each gets in addition, for so many channels."""
    first, last = gate.layers[0], gate.layers[-1]
    grown = {
        first: (channels - first.inputs) * first.outputs,
        last: (channels - last.outputs) * last.inputs,
    }
    return [(layer, grown.get(layer, 0)) for layer in gate.layers]


def _added_up(paths: list[LinearMap]) -> LinearMap:
    """Several skip paths of one fork as one map."""
    total = paths[0]
    for path in paths[1:]:
        alike = path.taps.shape == total.taps.shape and (path.strides, path.dilations) == (
            total.strides,
            total.dilations,
        )
        if not alike or path.start != total.start:
            raise Refused("many-paths", "the join adds skip paths that read different windows")
        total = replace(
            total,
            taps=total.taps + path.taps,
            bias=total.bias + path.bias,
            padded=total.padded or path.padded,
        )
    return replace(total, nodes=tuple(label for path in paths for label in path.nodes))


def _sum_of(contents: list[Content]) -> Content:
    low = np.sum([content.low for content in contents], axis=0)
    high = np.sum([content.high for content in contents], axis=0)
    return replace(contents[0], low=low, high=high)


def _side_by_side(
    inputs: tuple[onnx_ir.Value, ...],
    branched: onnx_ir.Value,
    paths: list[LinearMap],
    contents: list[Content],
    stages: tuple[Stage, ...],
) -> tuple[LinearMap, Content, npt.NDArray[np.intp]]:
    """The skip paths of a concatenation as one map to all of its channels.

    Returns:
        The map, with zeros for the channels of the branch; their bounds; the places of the channels
        of the branch.
    """
    widths = [len(path.taps) for path in paths]
    at = inputs.index(branched)
    widths.insert(at, stages[-1].linear.outputs)
    starts = np.concatenate([[0], np.cumsum(widths)])
    total = int(starts[-1])
    low, high = np.zeros(total), np.zeros(total)
    maps = []
    places = [place for place in range(len(inputs)) if place != at]
    for place, path, content in zip(places, paths, contents, strict=True):
        start, stop = int(starts[place]), int(starts[place + 1])
        maps.append(path.with_zero_channels(start, total - stop))
        low[start:stop], high[start:stop] = content.low, content.high
    branch_at = np.arange(int(starts[at]), int(starts[at + 1]))
    return _added_up(maps), replace(contents[0], low=low, high=high), branch_at


def _check_sizes(
    stages: tuple[Stage, ...],
    path: LinearMap,
    ends: tuple[onnx_ir.Value, onnx_ir.Value],
    shapes: ShapeTable,
) -> None:
    """Refuses a join that might broadcast where the sizes are not numbers.

    Both sides are then known functions of the input size, compositions of `floor((n + c) / s) + 1`;
    two such functions of the same total stride that agree over a few periods agree everywhere.
    """
    one, two = (shapes[_name(value)].shape or () for value in ends)
    for axis in range(len(path.strides)):
        a, b = one[2 + axis], two[2 + axis]
        if a == b and a is not None:
            continue
        if not path.is_pointwise or path.padded or any(path.start):
            raise Refused("unknown-shape", "the sizes at the join are not known to be equal")
        stride = path.strides[axis]
        for size in range(1, 16 * stride + 64):
            length = size
            for stage in stages:
                length = stage.linear.length(axis, length)
            if length > 0 and length != -(-size // stride):
                raise Refused(
                    "unknown-shape",
                    f"for an input of size {size} the branch and the skip path differ in size",
                )


def _check_join(skip: Skip, concat: bool) -> None:
    if skip.operator == "Concat" and not concat:
        raise Refused(
            "concat-join",
            "a concatenation adds nothing up: its channels can be reserved but not merged away "
            "(reserve-merge{concat=true} does that, at a price)",
        )
    if skip.operator == "Mul":
        raise Refused("gated-join", "a product of two tensors is not linear in either path")
    if skip.operator not in ("Add", "Sum", "Concat"):
        raise Refused("quantized", f"a {skip.operator} adds quantized integers")
    if any("Softmax" in path.operators for path in skip.paths):
        raise Refused(
            "attention-in-branch",
            "the branch weighs tokens by each other (attention), and reserved channels would be "
            "weighed too",
        )
    if not skip.dominated:
        raise Refused(
            "overlapping", "a path of this skip also depends on something from before its fork"
        )
