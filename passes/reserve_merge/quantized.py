"""Reserve-merge on quantized graphs: exact in the codes.

**Reserve.** A quantized tensor is carried by its codes. The rows that reserve it have the integer
weight 1 and a scale by channel of their own, s_i / s_(i-1), so that what comes out lies on the grid
of the layer's quantizer, at the same code; the quantizer snaps away what float arithmetic adds.
Where the quantizer has no negative codes, all codes are raised by half the range, and lowered again
at the merge.

**Merge.** How depends on where the block rounds.

- Both addends are quantized, on one grid (what FINN wants): the last layer reserves as well, and a
  1x1 convolution [I | I] of two-bit weights adds: *pointwise*.
- The sum is taken at full precision and then quantized: the skip's code goes into the last
  convolution with a whole weight, where its step is a multiple of the accumulator's
  (*power-of-two*), or else by the *lattice* merge of `lattice`, whose thresholds come out as a
  MultiThreshold.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import onnx_ir

from graphopt.evidence import Cost, Exactness, Refusal, Region, Rewrite
from graphopt.ir.constants import constant
from graphopt.ir.model import Model, node_label
from graphopt.ir.quant import Grid, GridTable, Quantization, limits
from graphopt.ir.shapes import Shapes, ShapeTable
from graphopt.pipeline.passes import Context, PassResult
from graphopt.skips import Skip
from passes.linear import Initializers, prune, replace_output
from passes.refused import Refused
from passes.reserve_merge import integer, lattice
from passes.reserve_merge.integer_layers import is_integer
from passes.reserve_merge.quantized_layers import (
    Layer,
    OnlyQuantizer,
    at_tap,
    chain,
    check_sizes,
    tap_of,
)
from passes.skip_detection import Skips

Array = npt.NDArray[Any]

_WHOLE = 2.0**-40
"""Share by which a ratio of steps may miss a whole number, in float64; other ratios are for the
lattice.
"""

_HALF_EVEN = ("ROUND", "HALF_EVEN")
_NEAREST = (*_HALF_EVEN, "HALF_UP", "HALF_DOWN")
"""Modes that snap a code with float noise back to itself."""


@dataclass(frozen=True)
class QuantizedReserveMerge:
    """Removes joins of QONNX, QDQ and QLinear graphs, so that every code stays what it was.

    Attributes:
        when: `worth` keeps a skip where the result costs more on the target; `possible` removes
            every skip that can be removed.
        rounding: what becomes of a sum half way between two codes where thresholds take a
            quantizer's place: `model` does as the quantizer says, `half-up` as FINN does when it
            makes thresholds of it.
        limit: the largest factor m that the lattice merge tries: weights grow by its bits.
        integer_limit: the largest weight with which QDQ and QLinear codes are added; up to 127 a
            QLinearConv takes it.
        approximate: where no m makes all codes agree, take the one with the fewest that do not, and
            say how many.
    """

    name: ClassVar[str] = "reserve-merge-quantized"
    preserves: ClassVar[frozenset[str]] = frozenset()

    when: Literal["worth", "possible"] = "worth"
    rounding: Literal["model", "half-up"] = "model"
    limit: int = 1024
    integer_limit: int = 32767
    approximate: bool = False

    def run(self, model: Model, context: Context) -> PassResult:
        """Goes through the skips, inner ones first, and removes or refuses each."""
        skips = [skip for skip in model.analyses.get(Skips()) if skip.is_additive]
        grids = model.analyses.get(Quantization())
        rewrites: list[Rewrite] = []
        refusals: list[Refusal] = []
        for number, skip in enumerate(skips):
            context.progress(f"{self.name}: {skip.name}", number / len(skips))
            join = model.node_index().get(skip.join)
            if join is None:
                continue
            try:
                if is_integer(join, grids):
                    done = self._remove(skip, join, model, grids, context)
                elif _is_quantized(join, grids):
                    work = _Work(model, model.analyses.get(Shapes()), grids, self)
                    done = work.remove(skip, join, context)
                else:
                    continue
            except Refused as reason:
                chosen = reason.code == "not-worth-it"
                region = Region(skip.name, (skip.join,))
                refusals.append(Refusal(self.name, region, str(reason), reason.code, chosen))
                continue
            rewrites.append(done)
            model.analyses.keep_only(())
            grids = model.analyses.get(Quantization())
        statistics = {"removed": len(rewrites), "kept": len(refusals)}
        return PassResult(bool(rewrites), tuple(rewrites), tuple(refusals), (), statistics)

    def _remove(
        self,
        skip: Skip,
        join: onnx_ir.Node,
        model: Model,
        grids: GridTable,
        context: Context,
    ) -> Rewrite:
        """A join of integers: QDQ or QLinear.

        Raises:
            Refused: a condition does not hold.
        """
        if join.op_type != "QLinearAdd" and len(join.inputs) != 2:
            raise Refused("many-paths", "the join adds more than one branch and one skip")
        fork, branch, other = _ends(skip, join, model)
        shapes = model.analyses.get(Shapes())
        check_sizes((branch, other, join.outputs[0]), shapes)
        block = integer.read(
            join, branch, other, fork, grids, shapes,
            limit=self.integer_limit, approximate=self.approximate,
        )  # fmt: skip
        before, after = block.cost(shapes)
        self._judge(before, after, context)
        integer.build(block, model)
        exact = not block.addition.wrong
        nodes = tuple(layer.label for layer in block.layers)
        return Rewrite(
            self.name,
            f"reserve-merge ({'integers' if exact else 'approximate'})",
            Region(skip.name, (*nodes, skip.join)),
            Exactness.EXACT if exact else Exactness.BOUNDED,
            block.facts,
            before,
            after,
        )

    def _judge(self, before: Cost, after: Cost, context: Context) -> None:
        """Whether the target likes it better.

        Raises:
            Refused: it does not, and `when` asks for it.
        """
        verdict = context.cost.judge(before, after, context.target)
        if self.when == "worth" and not verdict:
            raise Refused("not-worth-it", verdict.reason)


def shorten(skip: Skip, model: Model) -> str:
    """Moves the fork of a quantized skip behind the first layer of its branch.

    Returns:
        What was done, for the report.

    Raises:
        Refused: a condition does not hold; nothing is changed then.
    """
    join = model.node_index().get(skip.join)
    grids = model.analyses.get(Quantization())
    if join is None or is_integer(join, grids) or not _is_quantized(join, grids):
        raise Refused("not-quantized", "it adds no tensors of QONNX's quantizers")
    work = _Work(model, model.analyses.get(Shapes()), grids, QuantizedReserveMerge())
    return work.shorten(skip, join)


def _ends(
    skip: Skip, join: onnx_ir.Node, model: Model
) -> tuple[onnx_ir.Value, onnx_ir.Value, onnx_ir.Value]:
    """Fork, branch and skip of a join of two.

    Raises:
        Refused: it joins others, or the region has changed.
    """
    if len(skip.paths) != 2:
        raise Refused("many-paths", "the join adds more than one branch and one skip")
    fork = model.value_index().get(skip.fork)
    if fork is None:
        raise Refused("changed", "another rewrite has changed this region already")
    ends = {value.name or "": value for value in join.inputs if value is not None}
    names = (skip.branch.tensor, skip.skip.tensor)
    if names[0] == names[1] or not set(names) <= set(ends):
        raise Refused("many-paths", "the join takes one tensor twice")
    return fork, ends[names[0]], ends[names[1]]


def _is_quantized(join: onnx_ir.Node, grids: GridTable) -> bool:
    """Whether QONNX's quantizers have to do with a join: others are none of this pass."""
    names = {value.name or "" for value in join.inputs if value is not None}
    return bool(names & set(grids)) and not any(
        grid.codes for name in names if (grid := grids.get(name)) is not None
    )


@dataclass(frozen=True, eq=False)
class _Skipped:
    """What the skip brings to the join.

    Attributes:
        grid: where its values lie.
        layer: the projection on it, or None.
        snapped: whether a quantizer of its own has rounded it.
        before: where what that quantizer rounds lies, if there is no projection and it is known.
    """

    grid: Grid
    layer: Layer | None
    snapped: bool
    before: Grid | None

    @property
    def step(self) -> float:
        """The real number of one code."""
        return float(self.grid.scale)


@dataclass(frozen=True, eq=False)
class _Rows:
    """Rows that a layer gets for the reserved channels.

    Attributes:
        codes: [R, K, *kernel], over the layer's old and reserved inputs.
        scale: [R], real number of one code.
        bias: [R], in real numbers.
        bits: that the codes need.
    """

    codes: Array
    scale: Array
    bias: Array
    bits: int


@dataclass
class _Work:
    """One block under the knife."""

    model: Model
    shapes: ShapeTable
    grids: GridTable
    options: QuantizedReserveMerge
    facts: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.initializers = Initializers(self.model.graph, set(self.model.value_index()))

    def remove(self, skip: Skip, join: onnx_ir.Node, context: Context) -> Rewrite:
        """Reads the block around a skip and takes its join away.

        Raises:
            Refused: a condition does not hold.
        """
        if len(join.inputs) != 2 or skip.operator != "Add":
            raise Refused("many-paths", "the join adds more than one branch and one skip")
        fork, branch, other = _ends(skip, join, self.model)
        check_sizes((branch, other, join.outputs[0]), self.shapes)
        layers = chain(branch, fork, self.shapes, self.grids)
        if not layers:
            raise Refused("no-branch", "there is no layer between the fork and the join")
        skipped = self._skipped(other, fork)
        self._check(layers, skipped)
        rule, build, after = self._planned(layers, skipped, fork, join)
        before = _cost([*layers, *([skipped.layer] if skipped.layer else [])], self.shapes)
        self.options._judge(before, after, context)
        nodes = tuple(layer.label for layer in layers)
        build()
        return Rewrite(
            self.options.name,
            f"reserve-merge ({rule})",
            Region(skip.name, (*nodes, skip.join)),
            Exactness.BOUNDED if rule == "approximate" else Exactness.EXACT,
            tuple(self.facts),
            before,
            after,
        )

    def shorten(self, skip: Skip, join: onnx_ir.Node) -> str:
        """Moves the fork behind the first layer of the branch; returns what was done.

        Raises:
            Refused: a condition does not hold; nothing is changed then.
        """
        if len(join.inputs) != 2 or skip.operator != "Add":
            raise Refused("many-paths", "the join adds more than one branch and one skip")
        fork, branch, other = _ends(skip, join, self.model)
        check_sizes((branch, other, join.outputs[0]), self.shapes)
        layers = chain(branch, fork, self.shapes, self.grids)
        skipped = self._skipped(other, fork)
        if len(layers) < 2:
            raise Refused("one-layer", "there is no layer behind the first that could be skipped")
        first, second = layers[:2]
        if skipped.layer is not None:
            raise Refused("skip-not-simple", f"{skipped.layer.label} stands on the skip")
        if first.linear.group != 1 or any(stride != 1 for stride in first.linear.strides):
            raise Refused("strides", f"{first.label} has groups or strides")
        check_sizes((fork, first.linear.node.outputs[0]), self.shapes)
        grid = skipped.grid
        exact = [limits(grid.bits, signed=grid.low < 0, narrow=narrow) for narrow in (False, True)]
        if skipped.snapped and (grid.low, grid.high) not in exact:
            raise Refused("unequal-widths", "no quantizer clips to the codes of the skip's own")
        rows = self._rows([first], skipped)
        assert first.quantizer is not None
        here = self._reserve([first], rows, fork, second.linear.node)
        own, more = first.linear.outputs, len(rows.rows[0].codes)
        kept, carried = self._split(here, (own, more), second.linear.node, skip.name)
        first.quantizer.outputs[0].replace_all_uses_with(kept)
        join.replace_input_with(
            join.inputs.index(other), self._snapped(carried, skipped, rows, other, join)
        )
        old = list(first.nodes)
        maker = other.producer()
        if other is not fork and maker is not None and not other.uses():
            old.append(maker)
        prune(self.model, old)
        return f"the skip starts behind {first.label}, which carries {more} more channels"

    def _split(
        self, value: onnx_ir.Value, sizes: tuple[int, int], at: onnx_ir.Node, stem: str
    ) -> tuple[onnx_ir.Value, onnx_ir.Value]:
        """The channels of a tensor in two parts."""
        inputs, attributes = [value], {"axis": 1}
        if self.model.opset < 13:
            attributes["split"] = list(sizes)  # type: ignore[assignment]
        else:
            inputs.append(self.initializers.add(f"{stem}.sizes", np.array(sizes, np.int64)))
        node = onnx_ir.node(
            "Split", inputs, attributes=attributes, num_outputs=2,
            name=self.initializers.fresh(f"{stem}.split"),
        )  # fmt: skip
        for output in node.outputs:
            output.name = self.initializers.fresh(f"{stem}.part")
        self.model.graph.insert_before(at, node)
        return node.outputs[0], node.outputs[1]

    def _snapped(
        self,
        value: onnx_ir.Value,
        skipped: _Skipped,
        rows: _Reserved,
        other: onnx_ir.Value,
        at: onnx_ir.Node,
    ) -> onnx_ir.Value:
        """The carried codes with the skip's step again, lowered, and snapped to its grid."""
        grid, stem = skipped.grid, other.name or "skip"
        ratio = skipped.step / rows.step
        here = value
        if ratio != 1:
            factor = self.initializers.add(f"{stem}.ratio", np.array(ratio, np.float32))
            here = self._put(onnx_ir.node("Mul", [here, factor]), f"{stem}.scaled", at)
        if rows.raised:
            lower = np.array(-rows.raised * skipped.step, np.float32)
            amount = self.initializers.add(f"{stem}.raised", lower)
            here = self._put(onnx_ir.node("Add", [here, amount]), f"{stem}.lowered", at)
        signed = grid.low < 0
        narrow = (grid.low, grid.high) == limits(grid.bits, signed=signed, narrow=True)
        parameters = [
            self.initializers.add(f"{stem}.{name}", np.array(number, np.float32))
            for name, number in (("scale", skipped.step), ("zero", 0), ("bits", grid.bits))
        ]
        node = onnx_ir.node(
            "Quant", [here, *parameters],
            attributes={
                "signed": int(signed), "narrow": int(narrow), "rounding_mode": "ROUND",
            },
            domain=self._domain(), name=self.initializers.fresh(f"{stem}.snap"),
        )  # fmt: skip
        return self._put(node, f"{stem}.snapped", at)

    def _domain(self) -> str:
        """The domain that the model has for quantizers."""
        found = (n.domain for n in self.model.graph if n.op_type in ("Quant", "IntQuant"))
        return next(found, "qonnx.custom_op.general")

    def _skipped(self, value: onnx_ir.Value, fork: onnx_ir.Value) -> _Skipped:
        try:
            layers = chain(value, fork, self.shapes, self.grids)
            snapped, before = bool(layers), None
        except OnlyQuantizer:
            layers, snapped, before = (), True, self.grids.get(fork.name or "")
        if len(layers) > 1:
            raise Refused("skip-not-simple", "the skip path has more than one layer")
        layer = layers[0] if layers else None
        grid = self.grids.get(value.name or "")
        if layer is not None and (layer.relu or layer.quantizer is None):
            raise Refused(
                "skip-not-quantized",
                f"the sum takes the accumulator of {layer.label}, which is no code of few bits",
            )
        if grid is None or not grid.per_tensor or not grid.symmetric or grid.codes:
            raise Refused("activation-grid", f"'{value.name}' lies on no grid with one scale")
        return _Skipped(grid, layer, snapped, before)

    def _check(self, layers: Sequence[Layer], skipped: _Skipped) -> None:
        first, projection = layers[0].linear, skipped.layer
        for layer in layers:
            if layer.linear.group != 1 and not layer.linear.is_depthwise:
                raise Refused("grouped", f"{layer.label} has groups")
        if layers[0].linear.is_depthwise:
            raise Refused("grouped", f"{layers[0].label} filters each channel by itself")
        strides = {layer.label: layer.linear.strides for layer in layers}
        wanted = projection.linear.strides if projection is not None else None
        for number, (label, stride) in enumerate(strides.items()):
            allowed = wanted if number == 0 and wanted else (1,) * len(stride)
            if stride != allowed:
                raise Refused("strides", f"{label} has strides that the skip path has not")
        if projection is not None and projection.linear.group != 1:
            raise Refused("grouped", f"{projection.label} has groups")
        outputs = projection.linear.outputs if projection is not None else first.inputs
        if layers[-1].linear.outputs != outputs:
            raise Refused("broadcast", "branch and skip path differ in their channels")

    # --- planning --------------------------------------------------------------------------------

    def _planned(
        self, layers: Sequence[Layer], skipped: _Skipped, fork: onnx_ir.Value, join: onnx_ir.Node
    ) -> tuple[str, Any, Cost]:
        """The rule, what builds it, and what it costs; nothing is changed yet."""
        last = layers[-1]
        *middle, end = layers
        if last.quantizer is not None:
            grid = last.grid
            assert grid is not None
            if not grid.same_as(skipped.grid):
                raise Refused(
                    "unequal-scales",
                    f"the addends have steps of {float(grid.scale):.6g} and {skipped.step:.6g}",
                )
            if skipped.snapped and (grid.low, grid.high) != (skipped.grid.low, skipped.grid.high):
                raise Refused("unequal-widths", "the addends are clipped to different codes")
            rows = self._rows(layers, skipped)
            add = _Adding(last.linear.outputs, rows.raised, float(grid.scale))
            self.facts.append("both addends lie on one grid, so a 1x1 convolution adds their codes")
            cost = _cost(layers, self.shapes, rows.rows, add.weights)
            return "pointwise", lambda: self._pointwise(layers, rows, add, fork, join), cost
        if end.linear.is_depthwise:
            raise Refused("grouped", f"{end.label} filters each channel by itself and cannot merge")
        if not middle:
            raise Refused("one-layer", "no quantizer in the branch could carry the skip's codes")
        rows = self._rows(middle, skipped)
        if skipped.snapped and not rows.clipped:
            raise Refused(
                "unequal-widths",
                "no quantizer of the branch clips the skip to the codes that its own one has",
            )
        behind = self._behind(join)
        sums = self._sums(end, middle[-1], skipped)
        ratios = np.array([one.step / one.gain for one in sums])
        signs = np.where(end.gain < 0, -1, 1)
        tap = tap_of(end.linear, self.shapes)
        if (np.abs(ratios - np.rint(ratios)) <= _WHOLE * ratios).all() and ratios.min() >= 1:
            weights = (signs * np.rint(ratios)).astype(np.int64)
            self.facts.append(
                "the step of the skip is a whole multiple of the accumulator's: "
                f"{int(abs(weights).min())} to {int(abs(weights).max())}"
            )
            codes = _beside(end.linear.weight, weights, tap)
            cost = _cost([*middle, end], self.shapes, rows.rows, 0, codes)
            return (
                "power-of-two",
                lambda: self._whole(middle, end, rows, codes, weights, fork, join),
                cost,
            )
        quantizer = self._quantizer(behind)
        merged = [
            lattice.merge(one, quantizer, self.options.limit, approximate=self.options.approximate)
            for one in sums
        ]
        found = [one for one in merged if one is not None]
        if len(found) < len(merged):
            raise Refused(
                "no-lattice",
                f"for {len(merged) - len(found)} of {len(merged)} channels no factor up to "
                f"{self.options.limit} makes all codes agree",
            )
        factors = np.array([one.m for one in found]) * signs
        codes = _beside(
            end.linear.weight * factors.reshape(-1, *[1] * (end.linear.weight.ndim - 1)),
            np.array([one.n for one in found]),
            tap,
        )
        self._tell(found, quantizer, sums, codes, end)
        wrong = sum(one.wrong for one in found)
        cost = _cost([*middle, end], self.shapes, rows.rows, 0, codes)
        return (
            "approximate" if wrong else "lattice",
            lambda: self._lattice(middle, end, rows, codes, found, behind, quantizer, fork),
            cost,
        )

    def _tell(
        self,
        merged: Sequence[lattice.Merged],
        quantizer: lattice.Quantizer,
        sums: Sequence[lattice.Sum],
        codes: Array,
        end: Layer,
    ) -> None:
        factors = [one.m for one in merged]
        self.facts.append(
            f"row factors {min(factors)} to {max(factors)}: weights of {end.label} grow from "
            f"{end.bits} to {_bits(codes)} bits"
        )
        reach = max(
            abs(one.m * a + one.n * x)
            for one, total in zip(merged, sums, strict=True)
            for a in (total.low, total.high)
            for x in total.codes
        )
        self.facts.append(f"accumulators stay below {reach + 1} ({reach.bit_length() + 1} bits)")
        if reach >= 2**24:
            self.facts.append("float32 holds accumulators exactly only up to 16777216")
        wrong, pairs = sum(one.wrong for one in merged), sum(one.pairs for one in merged)
        self.facts.append(
            f"of {pairs} pairs of accumulator and code {wrong} give another code; a sum half way "
            f"between two codes is rounded {quantizer.rounding}"
        )

    def _sums(self, end: Layer, before: Layer, skipped: _Skipped) -> list[lattice.Sum]:
        """Each output channel of the last layer, in integers; negative gains turned round."""
        grid = before.grid
        assert grid is not None
        if not end.gain.all():
            raise Refused("dead-channel", f"a channel of {end.label} is multiplied by 0")
        codes = end.linear.weight.reshape(end.linear.outputs, -1)
        low_in, high_in = (0 if before.relu else grid.low), grid.high
        ends = np.stack([codes * low_in, codes * high_in])
        low, high = ends.min(axis=0).sum(axis=1), ends.max(axis=0).sum(axis=1)
        found = []
        for row in range(end.linear.outputs):
            gain = float(end.gain[row] * end.scale[row]) * float(grid.scale)
            shift = float(end.gain[row] * end.linear.bias[row] + end.shift[row])
            reach = (int(low[row]), int(high[row]))
            if gain < 0:
                reach = (-reach[1], -reach[0])
            found.append(
                lattice.Sum(
                    abs(gain), skipped.step, shift, *reach, (skipped.grid.low, skipped.grid.high)
                )
            )
        return found

    def _behind(self, join: onnx_ir.Node) -> tuple[onnx_ir.Node, ...]:
        """The Relu, if there is one, and the quantizer behind a join."""
        found: list[onnx_ir.Node] = []
        value = join.outputs[0]
        while len(found) < 2:
            uses = list(value.uses())
            if len(uses) != 1 or value.is_graph_output():
                break
            node = uses[0].node
            if node.op_type in ("Quant", "IntQuant"):
                return (*found, node)
            if node.op_type != "Relu":
                break
            found.append(node)
            value = node.outputs[0]
        raise Refused("no-quantizer-behind", "the sum is read before it is quantized")

    def _quantizer(self, behind: Sequence[onnx_ir.Node]) -> lattice.Quantizer:
        grid = self.grids.get(behind[-1].outputs[0].name or "")
        label = node_label(behind[-1])
        if grid is None or not grid.per_tensor or not grid.symmetric or grid.rounding == "BIPOLAR":
            raise Refused("activation-grid", f"{label} has scales by channel or a zero point")
        modes: dict[str, lattice.Rounding] = {
            "ROUND": "half-even", "HALF_EVEN": "half-even", "HALF_UP": "half-away",
        }  # fmt: skip
        mode = modes.get(grid.rounding or "")
        if mode is None:
            raise Refused("rounding", f"{label} rounds by {grid.rounding}")
        if self.options.rounding == "half-up":
            mode = "half-up"
        relu = len(behind) > 1
        return lattice.Quantizer(float(grid.scale), grid.low, grid.high, mode, relu)

    def _rows(self, layers: Sequence[Layer], skipped: _Skipped) -> _Reserved:
        """The reserved rows of each layer."""
        made: list[_Rows] = []
        raised, step = 0, skipped.step
        clipped = False
        projection = skipped.layer.linear if skipped.layer is not None else None
        count = projection.outputs if projection is not None else layers[0].linear.inputs
        for number, layer in enumerate(layers):
            grid = layer.grid
            if grid is None:
                raise Refused("not-quantized", f"nothing quantizes what {layer.label} gives")
            lowest = max(0, grid.low) if layer.relu else grid.low
            lift = max(0, lowest - skipped.grid.low)
            lift += lift % 2  # an odd one would turn ties to the other side
            if skipped.grid.high + lift > grid.high:
                raise Refused(
                    "activation-too-narrow",
                    f"the quantizer behind {layer.label} has no room for the skip's codes "
                    f"{skipped.grid.low} to {skipped.grid.high}",
                )
            self._check_rounding(layer, grid, skipped, first=number == 0)
            ends = (skipped.grid.low + lift, skipped.grid.high + lift)
            clipped |= ends == (lowest, grid.high)
            scale = float(grid.scale)
            if number == 0 and skipped.before is not None:
                _check_codes(skipped.before, skipped.grid, scale, lift)
            bias = np.full(count, scale * (lift - raised))
            if number == 0 and skipped.layer is not None:
                made.append(self._projected(layer, skipped.layer, scale / step, bias))
            else:
                tap = tap_of(layer.linear, self.shapes)
                columns = layer.linear.inputs if number == 0 else count
                codes = np.zeros((count, columns, *layer.linear.kernel), np.int64)
                codes[at_tap(np.arange(count), np.arange(count), tap)] = 1
                if number and not layer.linear.is_depthwise:
                    before = np.zeros((count, layer.linear.inputs, *layer.linear.kernel), np.int64)
                    codes = np.concatenate([before, codes], axis=1)
                elif layer.linear.is_depthwise:
                    codes = codes[np.arange(count), np.arange(count)][:, None]
                made.append(_Rows(codes, np.full(count, scale / step), bias, 2))
            raised, step = lift, scale
        if raised:
            self.facts.append(
                f"codes are carried raised by {raised}, since a quantizer has no sign"
            )
        return _Reserved(tuple(made), raised, step, clipped)

    def _check_rounding(self, layer: Layer, grid: Grid, skipped: _Skipped, first: bool) -> None:
        """A code must come out of a quantizer as it went in; the first one also rounds what the
        skip's own quantizer rounded, and raised codes keep their ties only where these go to even.
        """
        modes = {grid.rounding, skipped.grid.rounding} if skipped.snapped and first else set()
        if grid.rounding not in _NEAREST or not modes <= set(_HALF_EVEN):
            raise Refused(
                "rounding",
                f"the quantizer behind {layer.label} rounds by {grid.rounding}, so the skip's "
                "codes would not come out as they are",
            )

    def _projected(self, layer: Layer, projection: Layer, ratio: float, bias: Array) -> _Rows:
        """The projection's rows within the kernel of the branch's first layer."""
        into, own = layer.linear, projection.linear
        codes = np.zeros((own.outputs, own.inputs, *into.kernel), np.int64)
        signs = np.where(projection.gain < 0, -1, 1)
        for tap in np.ndindex(*own.kernel):
            offset = [
                index * dilation - pad
                for index, dilation, pad in zip(tap, own.dilations, own.pads_begin, strict=True)
            ]
            place = tap_of(into, self.shapes, offset)
            codes[at_tap(slice(None), slice(None), place)] = own.weight[
                at_tap(slice(None), slice(None), tap)
            ]
        codes = codes * signs.reshape(-1, *[1] * (codes.ndim - 1))
        scale = projection.scale * np.abs(projection.gain) * ratio
        if not scale.all():
            raise Refused("dead-channel", f"a channel of {projection.label} is multiplied by 0")
        shift = (projection.gain * own.bias + projection.shift) * ratio
        return _Rows(codes, scale, bias + shift, _bits(codes))

    # --- building --------------------------------------------------------------------------------

    def _reserve(
        self, layers: Sequence[Layer], rows: _Reserved, source: onnx_ir.Value, at: onnx_ir.Node
    ) -> onnx_ir.Value:
        """The layers with their reserved rows; returns what the last one gives."""
        here = source
        for number, (layer, more) in enumerate(zip(layers, rows.rows, strict=True)):
            old = layer.linear.weight
            group = 1
            if layer.linear.is_depthwise:
                group = layer.linear.group + len(more.codes)
            elif number:
                zeros = np.zeros((old.shape[0], len(more.codes), *old.shape[2:]), np.int64)
                old = np.concatenate([old, zeros], axis=1)
            codes = np.concatenate([old, more.codes])
            scale = np.concatenate([layer.scale, more.scale])
            bias = np.concatenate([layer.linear.bias, more.bias])
            here = self._conv(
                layer, codes, scale, bias, max(layer.bits, more.bits, 2), group, here, at
            )
            for node in layer.tail:
                here = self._wider(node, len(layer.linear.weight), len(more.codes), here, at)
            quantizer = layer.quantizer
            assert quantizer is not None
            copy = onnx_ir.Node(
                quantizer.domain,
                quantizer.op_type,
                [here, *quantizer.inputs[1:]],
                quantizer.attributes.values(),
                name=quantizer.name,
            )
            here = self._put(copy, f"{quantizer.outputs[0].name}.reserved", at)
        return here

    def _put(self, node: onnx_ir.Node, stem: str, at: onnx_ir.Node) -> onnx_ir.Value:
        node.outputs[0].name = self.initializers.fresh(stem)
        self.model.graph.insert_before(at, node)
        return node.outputs[0]

    def _weights(
        self, layer: Layer, codes: Array, scale: Array, bits: int, at: onnx_ir.Node
    ) -> onnx_ir.Value:
        """Codes times scale behind a quantizer that gives them back."""
        old = layer.linear.node.inputs[1]
        assert old is not None
        quantizer = old.producer()
        assert quantizer is not None
        stem = old.name or "weight"
        steps = scale.astype(np.float32).reshape(-1, *[1] * (codes.ndim - 1))
        real = (codes.astype(np.float32) * steps).astype(np.float32)
        inputs = [
            self.initializers.add(stem, real),
            self.initializers.add(f"{stem}.scale", steps),
            self.initializers.add(f"{stem}.zero", np.zeros((), np.float32)),
            self.initializers.add(f"{stem}.bits", np.array(bits, np.float32)),
        ]
        node = onnx_ir.node(
            "Quant",
            inputs,
            attributes={"signed": 1, "narrow": 0, "rounding_mode": "ROUND"},
            domain=quantizer.domain,
            name=self.initializers.fresh(f"{layer.label}.weights"),
        )
        return self._put(node, f"{stem}.quantized", at)

    def _conv(
        self,
        layer: Layer,
        codes: Array,
        scale: Array,
        bias: Array,
        bits: int,
        group: int,
        source: onnx_ir.Value,
        at: onnx_ir.Node,
    ) -> onnx_ir.Value:
        linear = layer.linear
        inputs = [source, self._weights(layer, codes, scale, max(bits, _bits(codes)), at)]
        if bias.any():
            inputs.append(self.initializers.add(f"{layer.label}.bias", bias.astype(np.float32)))
        node = onnx_ir.node(
            "Conv",
            inputs,
            attributes={
                "kernel_shape": list(codes.shape[2:]),
                "strides": list(linear.strides),
                "dilations": list(linear.dilations),
                "pads": list(linear.pads_begin + linear.pads_end),
                "group": group,
            },
            name=linear.node.name,
        )
        node.metadata_props.update(linear.node.metadata_props)
        return self._put(node, f"{linear.node.outputs[0].name}.reserved", at)

    def _wider(
        self, node: onnx_ir.Node, count: int, more: int, source: onnx_ir.Value, at: onnx_ir.Node
    ) -> onnx_ir.Value:
        """An affine node or Relu that leaves `more` channels behind the others as they are."""
        inputs: list[onnx_ir.Value | None] = []
        if node.op_type == "BatchNormalization":
            epsilon = node.attributes.get_float("epsilon", 1e-5) or 1e-5
            one = math.sqrt(1 + epsilon)
            for value, fill in zip(node.inputs, (None, one, 0.0, 0.0, 1.0), strict=False):
                inputs.append(source if fill is None else self._longer(value, more, fill))
        else:
            rank = len(self.shapes[node.outputs[0].name or ""].shape or ())
            neutral = 1.0 if node.op_type in ("Mul", "Div") else 0.0
            for value in node.inputs:
                array = constant(value)
                if array is None:
                    inputs.append(source)
                    continue
                shape = (1,) * (rank - array.ndim) + array.shape
                whole = np.broadcast_to(array.reshape(shape), (1, count, *[1] * (rank - 2)))
                longer = np.concatenate(
                    [whole, np.full((1, more, *whole.shape[2:]), neutral, array.dtype)], axis=1
                )
                inputs.append(self.initializers.add((value and value.name) or "constant", longer))
        copy = onnx_ir.Node("", node.op_type, inputs, node.attributes.values(), name=node.name)
        return self._put(copy, f"{node.outputs[0].name}.reserved", at)

    def _longer(self, value: onnx_ir.Value | None, more: int, fill: float) -> onnx_ir.Value:
        array = constant(value)
        assert array is not None
        longer = np.concatenate([array, np.full(more, fill, array.dtype)])
        return self.initializers.add((value and value.name) or "parameter", longer)

    def _pointwise(
        self,
        layers: Sequence[Layer],
        rows: _Reserved,
        add: _Adding,
        fork: onnx_ir.Value,
        join: onnx_ir.Node,
    ) -> None:
        here = self._reserve(layers, rows, fork, join)
        count = layers[-1].linear.outputs
        one = np.eye(count, dtype=np.int64)
        rank = layers[-1].linear.weight.ndim
        codes = np.concatenate([one, one], axis=1).reshape(count, 2 * count, *[1] * (rank - 2))
        weights = self._weights(layers[-1], codes, np.ones(count), 2, join)
        inputs = [here, weights]
        if add.raised:
            lowered = np.full(count, -add.step * add.raised, np.float32)
            inputs.append(self.initializers.add(f"{node_label(join)}.bias", lowered))
        ones = [1] * (rank - 2)  # qonnx reads every attribute
        attributes: dict[str, Any] = {
            "kernel_shape": ones,
            "strides": ones,
            "dilations": ones,
            "pads": [0] * 2 * len(ones),
            "group": 1,
        }
        node = onnx_ir.node("Conv", inputs, attributes=attributes, name=join.name)
        self._finish(join, node)

    def _whole(
        self,
        middle: Sequence[Layer],
        end: Layer,
        rows: _Reserved,
        codes: Array,
        weights: Array,
        fork: onnx_ir.Value,
        join: onnx_ir.Node,
    ) -> None:
        here = self._reserve(middle, rows, fork, join)
        bias = end.linear.bias - rows.raised * weights * end.scale * rows.step
        here = self._conv(end, codes, end.scale, bias, end.bits, 1, here, join)
        for node in end.tail:
            here = self._wider(node, end.linear.outputs, 0, here, join)
        maker = here.producer()
        assert maker is not None
        self.model.graph.remove(maker)
        self._finish(join, maker)

    def _lattice(
        self,
        middle: Sequence[Layer],
        end: Layer,
        rows: _Reserved,
        codes: Array,
        merged: Sequence[lattice.Merged],
        behind: Sequence[onnx_ir.Node],
        quantizer: lattice.Quantizer,
        fork: onnx_ir.Value,
    ) -> None:
        last = behind[-1]
        here = self._reserve(middle, rows, fork, last)
        none = np.zeros(end.linear.outputs)
        here = self._conv(end, codes, none + 1, none, end.bits, 1, here, last)
        thresholds = np.stack([one.thresholds + one.n * rows.raised for one in merged])
        table = self.initializers.add(
            f"{node_label(last)}.thresholds", (thresholds * rows.step).astype(np.float32)
        )
        bits = max(1, (quantizer.high - quantizer.low).bit_length())
        kind = f"{'INT' if quantizer.low < 0 else 'UINT'}{bits}"
        steps = onnx_ir.node(
            "MultiThreshold",
            [here, table],
            attributes={"out_scale": 1.0, "out_bias": float(quantizer.low), "out_dtype": kind},
            domain=last.domain,
            name=self.initializers.fresh(f"{node_label(last)}.steps"),
        )
        here = self._put(steps, f"{last.outputs[0].name}.codes", last)
        scale = self.initializers.add(
            f"{node_label(last)}.scale", np.array(quantizer.scale, np.float32)
        )
        self._finish(last, onnx_ir.node("Mul", [here, scale], name=last.name))

    def _finish(self, old: onnx_ir.Node, new: onnx_ir.Node) -> None:
        """Puts `new` in the place of `old`, and takes away what nothing reads any more."""
        sources = [value.producer() for value in old.inputs if value is not None]
        replace_output(self.model, old, new)
        prune(self.model, [node for node in sources if node is not None])


@dataclass(frozen=True, eq=False)
class _Reserved:
    """The reserved rows of every layer; then their codes are `raised` and have the `step`.

    `clipped`: a quantizer on the way clips them just as the skip's own one does.
    """

    rows: tuple[_Rows, ...]
    raised: int
    step: float
    clipped: bool


@dataclass(frozen=True)
class _Adding:
    """The 1x1 convolution that adds."""

    channels: int
    raised: int
    step: float

    @property
    def weights(self) -> int:
        """Weights it has."""
        return 2 * self.channels**2


def _check_codes(before: Grid, after: Grid, step: float, lift: int) -> None:
    """Whether the codes of one grid come to the same codes of another by the reserved rows as by
    the skip's own quantizer, in float32: a ratio of steps may put many of them half way between.

    Raises:
        Refused: they do not, or the grid is not the same for all channels.
    """
    if not before.per_tensor or before.codes:
        raise Refused("activation-grid", "what the skip's quantizer reads has no one scale")
    one, other = np.float32(after.scale), np.float32(step)
    x = before.real(np.arange(before.low, before.high + 1)).astype(np.float32)
    wanted = np.clip(np.rint(x / one), after.low, after.high)
    row, bias = np.float32(step / float(after.scale)), np.float32(step * lift)
    got = np.clip(np.rint((x * row + bias) / other) - lift, after.low, after.high)
    if not np.array_equal(wanted, got):
        raise Refused(
            "rounding",
            "codes lie half way between two of the skip's quantizer, and float32 does not round "
            "all of them alike",
        )


def _beside(weight: Array, merged: Array, tap: tuple[int, ...]) -> Array:
    """[W | N]: the weights for the old channels, and `merged` on the diagonal for the reserved."""
    count = len(weight)
    right = np.zeros((count, count, *weight.shape[2:]), np.int64)
    right[at_tap(np.arange(count), np.arange(count), tap)] = merged
    return np.concatenate([weight, right], axis=1)


def _bits(codes: Array) -> int:
    """Bits of the narrowest signed type that holds these codes."""
    low, high = int(codes.min()), int(codes.max())
    bits = 1
    while not (limits(bits, signed=True)[0] <= low and high <= limits(bits, signed=True)[1]):
        bits += 1
    return bits


def _cost(
    layers: Sequence[Layer],
    shapes: ShapeTable,
    rows: Sequence[_Rows] = (),
    more: int = 0,
    last: Array | None = None,
) -> Cost:
    """Weights, their bytes at their bits, and multiply-adds of the layers with reserved rows."""
    parameters, bits, work = 0, 0, 0
    for number, layer in enumerate(layers):
        old = layer.linear.weight
        extra = rows[number] if number < len(rows) else None
        if extra is not None:
            columns = extra.codes.shape[1]
            wide = (len(old) + len(extra.codes)) * columns * math.prod(old.shape[2:])
            width = max(layer.bits, extra.bits, 2)
        elif last is not None and number == len(layers) - 1:
            wide, width = last.size, max(layer.bits, _bits(last))
        else:
            wide, width = old.size, layer.bits
        info = shapes[layer.linear.node.outputs[0].name or ""]
        positions = max(1, (info.elements() or len(old)) // len(old))
        parameters += wide
        bits += wide * width
        work += wide * positions
    if more:
        parameters += more
        bits += 2 * more
        info = shapes[layers[-1].linear.node.outputs[0].name or ""]
        work += more * max(1, (info.elements() or 1) // layers[-1].linear.outputs)
    return Cost(parameters, math.ceil(bits / 8), work)
