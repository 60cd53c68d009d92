"""The pass `reserve-merge`: applies the rule of `rule` to the skips of a model."""

from __future__ import annotations

from collections import ChainMap
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import onnx_ir

from graphopt.evidence import Cost, Refusal, Region, Rewrite
from graphopt.ir.model import Model, node_label
from graphopt.ir.shapes import Shapes, ShapeTable, TensorInfo
from graphopt.pipeline.passes import Context, PassResult
from graphopt.skips import Skip
from graphopt.verify.algebra import Claim, WidenedWeight
from passes import linear_map
from passes.linear import Initializers
from passes.linear_map import LinearMap
from passes.ranges import Ranges, RangeTable
from passes.refused import Refused
from passes.reserve_merge import branch
from passes.reserve_merge.branch import Stage
from passes.reserve_merge.carriers import CARRIERS, Carrier, Content
from passes.reserve_merge.rule import Plan, ResidualBlock, plan
from passes.reserve_merge.widen import Form, Widened
from passes.skip_detection import Skips

CarrierName = Literal["auto", "plain", "prelu", "split", "shift", "scale"]


@dataclass(frozen=True)
class ReserveMerge:
    """Removes residual joins exactly, by reserving the skip's tensor in the branch.

    Attributes:
        when: `worth` keeps a skip where the result costs more on the target; `possible` removes
            every skip that can be removed.
        carrier: the only carrier to use, or `auto` for the cheapest valid one.
        form: how reserved channels pass the middle layers: `dense`, `grouped`, or `auto` for the
            one with fewer weights.
    """

    name: ClassVar[str] = "reserve-merge"
    preserves: ClassVar[frozenset[str]] = frozenset()

    when: Literal["worth", "possible"] = "worth"
    carrier: CarrierName = "auto"
    form: Form = "auto"

    def run(self, model: Model, context: Context) -> PassResult:
        """Goes through the skips, inner ones first, and removes or refuses each."""
        skips = model.analyses.get(Skips())
        shapes = model.analyses.get(Shapes())
        ranges = model.analyses.get(Ranges())
        fresh: dict[str, TensorInfo] = {}
        work = _Work(
            model,
            ShapeTable(ChainMap(fresh, dict(shapes))),
            fresh,
            ranges,
            Initializers(model.graph, set(model.value_index())),
        )
        rewrites: list[Rewrite] = []
        refusals: list[Refusal] = []
        claims: list[Claim] = []
        for number, skip in enumerate(skips):
            context.progress(f"{self.name}: {skip.name}", number / len(skips))
            region = Region(skip.name, (skip.join,))
            try:
                found = work.block(skip)
                chosen = plan(found.block, self._carriers(), self.form)
                before, after = work.costs(found, chosen)
                verdict = context.cost.judge(before, after, context.target)
                if self.when == "worth" and not verdict:
                    refusals.append(
                        Refusal(self.name, region, verdict.reason, "not-worth-it", by_choice=True)
                    )
                    continue
            except Refused as reason:
                refusals.append(Refusal(self.name, region, str(reason), reason.code))
                continue
            nodes = tuple(stage.linear.label for stage in found.block.stages)
            claims += work.apply(found, chosen)
            claims.append(chosen.proof)
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

    def _carriers(self) -> tuple[Carrier, ...]:
        return tuple(c for c in CARRIERS if self.carrier in ("auto", c.name))


def _rule_name(block: ResidualBlock, chosen: Plan) -> str:
    where = "projected first" if chosen.place == "first" else "merged last"
    kind = "identity" if block.skip.is_identity else where
    return f"{kind}, carried by {' then '.join(chosen.carriers) or 'nothing'}"


@dataclass(frozen=True, eq=False)
class _Found:
    """A block in the graph."""

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

    def block(self, skip: Skip) -> _Found:
        """Reads the block around a skip.

        Raises:
            Refused: it is no block that the rule knows.
        """
        _check_join(skip)
        values = self.model.value_index()
        fork = values.get(skip.fork)
        join = self.model.node_index().get(skip.join)
        if fork is None or join is None:
            raise Refused("changed", "another rewrite has changed this region already")
        left, right = (value for value in join.inputs if value is not None)
        self._check_broadcast(left, right)
        first = left if left.name == skip.skip.tensor else right
        second = right if first is left else left
        try:
            return self._read(skip, fork, join, first, second)
        except Refused as reason:
            try:
                return self._read(skip, fork, join, second, first)
            except Refused:
                raise reason from None

    def _read(
        self,
        skip: Skip,
        fork: onnx_ir.Value,
        join: onnx_ir.Node,
        skipped: onnx_ir.Value,
        branched: onnx_ir.Value,
    ) -> _Found:
        stages = branch.read(branched, fork, self.shapes)
        path = linear_map.read(skipped, fork, self.shapes)
        self._check_channels(stages, path)
        _check_sizes(stages, path, join, self.shapes)
        block = ResidualBlock(
            skip.name, stages, path, self._content(fork, path, 1), self._content(skipped, path, 0)
        )
        index = self.model.node_index()
        nodes = tuple(index[label] for label in path.nodes)
        return _Found(block, fork, join, nodes)

    def _check_broadcast(self, left: onnx_ir.Value, right: onnx_ir.Value) -> None:
        one, two = self.shapes[left.name or ""].shape, self.shapes[right.name or ""].shape
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
    def _check_channels(stages: tuple[Stage, ...], path: LinearMap) -> None:
        if stages[0].linear.inputs != path.taps.shape[1] or (
            stages[-1].linear.outputs != path.taps.shape[0]
        ):
            raise Refused("broadcast", "branch and skip path differ in their channels")
        axes = len(path.strides)
        if any(len(stage.linear.kernel) != axes for stage in stages):
            raise Refused("branch-not-a-chain", "the branch changes the rank of the tensor")

    def _content(self, value: onnx_ir.Value, path: LinearMap, axis: int) -> Content:
        interval = self.ranges[value.name or ""]
        low, high = interval.per_channel(int(path.taps.shape[axis]))
        return Content(low, high, interval.because)

    def costs(self, found: _Found, chosen: Plan) -> tuple[Cost, Cost]:
        """Cost of the block with its skip path, before and after."""
        stages = found.block.stages
        weights = [stage.linear for stage in stages]
        before_adds = sum(s.positions * int(s.linear.weight.size) for s in stages)
        before_parameters = sum(w.weight.size + w.bias.size for w in weights)
        positions = stages[-1].positions
        for node in found.skip_nodes:
            if node.op_type in ("Conv", "Gemm"):
                size = self.shapes[(node.inputs[1].name if node.inputs[1] else "") or ""].elements()
                before_adds += positions * (size or 0)
                before_parameters += size or 0
        bytes_each = weights[0].weight.dtype.itemsize
        return (
            Cost(before_parameters, before_parameters * bytes_each, before_adds),
            Cost(chosen.parameters, chosen.parameters * bytes_each, chosen.multiply_adds),
        )

    def apply(self, found: _Found, chosen: Plan) -> list[Claim]:
        """Puts the plan into the graph and returns what it claims of the new weights."""
        claims: list[Claim] = []
        source = found.fork
        for stage, layer in zip(found.block.stages, chosen.layers, strict=True):
            last = layer is chosen.layers[-1]
            old = stage.linear.node.outputs[0]
            name = "" if last else self.initializers.fresh(f"{old.name}.reserved")
            built = layer.linear.build(source, name, self.initializers)
            claims.append(_claim(built.weight, stage, layer))
            if last:
                built.place(self.model, found.join)
                continue
            for node in built.nodes:
                self.model.graph.insert_before(found.join, node)
            source = built.result
            self._note_shape(source, stage, layer)
            if layer.activation is not None:
                source = self._activation(layer, source, found.join)
                self._note_shape(source, stage, layer)
        self._remove(found)
        return claims

    def _note_shape(self, value: onnx_ir.Value, stage: Stage, layer: Widened) -> None:
        channels = len(layer.layout.old) + len(layer.layout.reserved)
        shape = (stage.size_out[0], channels, *stage.size_out[2:])
        dtype = onnx_ir.DataType.from_numpy(stage.linear.weight.dtype)
        self.fresh[value.name or ""] = TensorInfo(dtype, shape)

    def _activation(
        self, layer: Widened, source: onnx_ir.Value, join: onnx_ir.Node
    ) -> onnx_ir.Value:
        """The activation behind a widened operator."""
        assert layer.activation is not None
        old = layer.activation.node
        others = list(old.inputs[1:])
        attributes = dict(old.attributes)
        operator = old.op_type
        if layer.slopes is not None:
            rank = layer.linear.weight.ndim
            dtype = layer.linear.like.weight.dtype
            shaped = layer.slopes.reshape(-1, *[1] * (rank - 2)).astype(dtype)
            others, attributes, operator = [], {}, "PRelu"
            others.append(
                self.initializers.add(f"{node_label(old)}.slope", np.ascontiguousarray(shaped))
            )
        node = onnx_ir.Node("", operator, [source, *others], attributes.values(), name=old.name)
        node.outputs[0].name = self.initializers.fresh(f"{old.outputs[0].name}.reserved")
        self.model.graph.insert_before(join, node)
        return node.outputs[0]

    def _remove(self, found: _Found) -> None:
        """Removes the old branch, and of the old skip path what nothing else reads."""
        old: list[onnx_ir.Node] = list(found.skip_nodes)
        for stage in found.block.stages:
            here: onnx_ir.Value | None = stage.linear.node.inputs[0]
            while here is not None and here is not found.fork:
                node = here.producer()
                if node is None or node in old:
                    break
                old.append(node)
                here = node.inputs[0]
            old.append(stage.linear.node)
            if stage.activation is not None:
                old.append(stage.activation)
        waiting = list(dict.fromkeys(old))
        while waiting:
            dead = [
                n for n in waiting if not any(v.uses() or v.is_graph_output() for v in n.outputs)
            ]
            if not dead:
                return
            for node in dead:
                self.model.graph.remove(node, safe=True)
                waiting.remove(node)


def _check_sizes(
    stages: tuple[Stage, ...], path: LinearMap, join: onnx_ir.Node, shapes: ShapeTable
) -> None:
    """Refuses a join that might broadcast where the sizes are not numbers.

    Both sides are then known functions of the input size, compositions of `floor((n + c) / s) + 1`;
    two such functions of the same total stride that agree over a few periods agree everywhere.
    """
    one, two = (shapes[(v.name if v is not None else "") or ""].shape or () for v in join.inputs)
    for axis, (a, b) in enumerate(zip(one[2:], two[2:], strict=True)):
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


def _check_join(skip: Skip) -> None:
    if skip.operator == "Concat":
        raise Refused(
            "concat-join",
            "a concatenation adds nothing up: its channels can be reserved but not merged away",
        )
    if skip.operator == "Mul":
        raise Refused("gated-join", "a product of two tensors is not linear in either path")
    if skip.operator not in ("Add", "Sum"):
        raise Refused("quantized", f"a {skip.operator} adds quantized integers")
    if len(skip.paths) != 2:
        raise Refused("many-paths", f"the join adds {len(skip.paths)} paths at once")
    if not skip.dominated:
        raise Refused(
            "overlapping", "a path of this skip also depends on something from before its fork"
        )


def _claim(weight: str, stage: Stage, layer: Widened) -> WidenedWeight:
    like = stage.linear
    return WidenedWeight(
        new=weight,
        old=like.weight_name,
        new_value=layer.linear.weight.astype(like.weight.dtype),
        old_value=like.weight,
        blocks=layer.blocks,
        transposed=like.transposed,
    )
