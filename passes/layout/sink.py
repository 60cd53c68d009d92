"""The pass `sink-transposes`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphopt.evidence import Exactness, Region, Rewrite
from graphopt.ir.model import Model, node_label
from graphopt.pipeline.passes import Context, PassResult
from passes.layout.choice import Group
from passes.layout.groups import groups_of
from passes.layout.operators import operator_of
from passes.layout.writer import Writer


@dataclass(frozen=True)
class SinkTransposes:
    """Moves Transposes towards the outputs and cancels inverse ones."""

    name: ClassVar[str] = "sink-transposes"
    preserves: ClassVar[frozenset[str]] = frozenset()

    def run(self, model: Model, context: Context) -> PassResult:
        """Settles each group of operators between fixed ones, then writes down what changed."""
        if model.opset < 7 or not any(operator_of(n) == ("", "Transpose") for n in model.graph):
            return PassResult()
        groups = groups_of(model)
        for number, group in enumerate(groups):
            context.progress(f"{self.name}: group {number + 1}", number / len(groups))
            group.settle()
        groups = [g for g in groups if g.moved or g.needed < len(g.transposes)]
        if not groups:
            return PassResult()
        rewrites = tuple(self._rewrite(group) for group in groups)
        statistics = {
            "transposes removed": sum(len(g.transposes) - g.needed for g in groups),
            "operators moved": sum(len(g.moved) for g in groups),
        }
        Writer(model, groups).write()
        return PassResult(True, rewrites, statistics=statistics)

    def _rewrite(self, group: Group) -> Rewrite:
        labels = [node_label(node) for node in group.transposes]
        moved = group.moved
        facts = [f"Transposes before: {len(labels)}, after: {group.needed}"]
        exactness = Exactness.BIT_EXACT
        if moved:
            kinds = ", ".join(sorted({mover.node.op_type for mover in moved}))
            facts.append(f"operators that work in another order of axes: {len(moved)} ({kinds})")
        if any(mover.sums for mover in moved):
            exactness = Exactness.EXACT
            facts.append("sums of floats are taken over the same numbers in another order")
        region = Region(labels[0], (*labels, *(node_label(mover.node) for mover in moved)))
        return Rewrite(self.name, "f(T(x)) = T(f(x))", region, exactness, tuple(facts))
