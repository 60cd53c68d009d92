"""The analysis: walks through a graph once and applies to each node the rule of its operator."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir

from graphopt.ir.model import Model, node_label
from graphopt.ir.quant import GridTable, Quantization
from passes.ranges import activations, elementwise, gates, linear, movement, pooling, quantized
from passes.ranges.facts import Facts, Origin
from passes.ranges.interval import Bounds
from passes.ranges.rule import Rule
from passes.ranges.step import Step
from passes.ranges.table import RangeTable

_RULES: dict[tuple[str, str], Rule] = {
    **activations.RULES,
    **elementwise.RULES,
    **gates.RULES,
    **linear.RULES,
    **movement.RULES,
    **pooling.RULES,
    **quantized.RULES,
}
"""The rule of each operator, by its domain and name."""

_BOUNDING = frozenset(
    "Relu LeakyRelu PRelu Clip Sigmoid HardSigmoid HardSwish Tanh Softmax Softplus Elu Selu Celu "
    "Gelu QuickGelu Mish Swish Erf Abs Sqrt Exp QuantizeLinear Quant IntQuant BipolarQuant "
    "MultiThreshold".split()
)
"""Operators that a reason names as the source of a bound, whatever was known before them."""

_SNAPPING = frozenset("Quant IntQuant BipolarQuant QuantizeLinear DequantizeLinear".split())
"""Operators whose results are values of codes, computed as such."""


@dataclass(frozen=True)
class Ranges:
    """Analysis: the `RangeTable` of a model."""

    name: ClassVar[str] = "ranges"

    def run(self, model: Model) -> RangeTable:
        """Walks through the graph once, in order of execution."""
        facts = Facts(model)
        grids = model.analyses.get(Quantization())
        with np.errstate(all="ignore"):
            _lie_on(facts, grids, model.graph.inputs)
            for node in model.graph:
                if any(output.name not in facts.fixed for output in node.outputs):
                    _visit(facts, node)
                    _lie_on(facts, grids, node.outputs)
        return RangeTable(facts.found)


def _lie_on(facts: Facts, grids: GridTable, values: Iterable[onnx_ir.Value]) -> None:
    """What a quantizer makes has no values but those of its codes. What arithmetic makes of them
    may miss its grid by a rounding.
    """
    for value in values:
        grid, node = grids.get(value.name or ""), value.producer()
        made = node is None or node.op_type in _SNAPPING or node.op_type.startswith("QLinear")
        if grid is not None and made and value.name not in facts.fixed:
            facts.lie_on(value, grid)


def _visit(facts: Facts, node: onnx_ir.Node) -> None:
    """Bounds the outputs of one node."""
    results = _apply(facts, node)
    origin = _origin(facts, node)
    for output, bounds in zip(node.outputs, results, strict=True):
        facts.note(output, bounds, origin)


def _apply(facts: Facts, node: onnx_ir.Node) -> Sequence[Bounds | None]:
    """What the rule of the operator says of each output, None where there is none."""
    domain = "" if node.domain == "ai.onnx" else node.domain
    rule = _RULES.get((domain, node.op_type))
    unknown = (None,) * len(node.outputs)
    if rule is None or not node.outputs:
        return unknown
    kind = facts.kind(node.outputs[0])
    if kind is None and not rule.integers:
        return unknown
    try:
        result = rule.compute(Step(node, facts, kind or facts.coarsest))
    except (ValueError, IndexError, ZeroDivisionError):  # malformed: sizes contradict
        return unknown
    return result if isinstance(result, list) else (result, *unknown[1:])


def _origin(facts: Facts, node: onnx_ir.Node) -> Origin:
    """A node that bounds is a source itself, any other passes on what its inputs go back to."""
    label = node_label(node)
    if node.op_type in _BOUNDING:
        return Origin((label,))
    origins = [
        facts.origins[value.name]
        for value in dict.fromkeys(node.inputs)
        if value is not None and value.name in facts.origins and facts.found[value.name].known
    ]
    sources = tuple(dict.fromkeys(s for origin in origins for s in origin.sources))
    if not sources:
        return Origin((label,))
    return Origin(sources[:3], label, 1 + max(origin.steps for origin in origins))
