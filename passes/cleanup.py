"""Housekeeping around the rewrites: frozen weights, folded constants, dead code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from onnx_ir.passes.common import RemoveUnusedNodesPass

from graphopt.evidence import Exactness, Region, Rewrite
from graphopt.ir.fingerprint import fingerprint
from graphopt.ir.model import Model
from graphopt.pipeline.passes import Context, PassResult

_ANNOTATION = "quant_parameter_tensor_names"


@dataclass(frozen=True)
class FreezeWeights:
    """Weights that are also graph inputs become constants.

    Old exporters list every weight among the inputs, which makes it a default that a caller may
    override, so that nothing may be folded into it. (IR version 3 demands the listing; there the
    weights count as constants from the start.)
    """

    name: ClassVar[str] = "freeze-weights"
    preserves: ClassVar[frozenset[str]] = frozenset({"shapes", "layers", "skips", "lifetime"})

    def run(self, model: Model, context: Context) -> PassResult:
        """Takes the weights out of the inputs."""
        frozen = [v for v in model.graph.inputs if v.name in model.graph.initializers]
        if not frozen:
            return PassResult()
        for value in frozen:
            model.graph.inputs.remove(value)
        rewrite = Rewrite(
            self.name,
            "weights are no inputs",
            Region("weights"),
            Exactness.BIT_EXACT,
            (f"{len(frozen)} weights were inputs too; a caller can no longer override them",),
        )
        return PassResult(True, (rewrite,), statistics={"frozen": len(frozen)})


@dataclass(frozen=True)
class FoldConstants:
    """Computes what does not depend on the input (onnxscript's constant folding).

    Attributes:
        limit: a folded result of more elements than this stays in the graph as operators.
    """

    name: ClassVar[str] = "fold-constants"
    preserves: ClassVar[frozenset[str]] = frozenset()
    limit: int = 512 * 512

    def run(self, model: Model, context: Context) -> PassResult:
        """Folds."""
        from onnxscript import optimizer

        before, nodes = fingerprint(model), model.graph.num_nodes()
        annotations = {
            value.name: value.meta[_ANNOTATION]
            for value in model.values()
            if _ANNOTATION in value.meta
        }
        shapes = {value: value.shape for value in model.graph.outputs}
        names = {node.outputs[0].name: node.name for node in model.graph if node.outputs}
        optimizer.fold_constants(model.ir, output_size_limit=self.limit)
        RemoveUnusedNodesPass()(model.ir)
        for value in model.graph.outputs:
            if value in shapes and shapes[value] is not None:
                value.shape = shapes[value]
        for node in model.graph:  # the folding names unnamed nodes; reports go by the old labels
            if node.outputs and node.outputs[0].name in names:
                node.name = names[node.outputs[0].name]
        for value in model.values():
            if value.name in annotations:
                value.meta.setdefault(_ANNOTATION, annotations[value.name])
        if fingerprint(model) == before:
            return PassResult()
        return PassResult(True, statistics={"nodes removed": nodes - model.graph.num_nodes()})


@dataclass(frozen=True)
class DeadCode:
    """Removes nodes and weights that no output needs (onnx_ir's pass)."""

    name: ClassVar[str] = "dce"
    preserves: ClassVar[frozenset[str]] = frozenset()

    def run(self, model: Model, context: Context) -> PassResult:
        """Removes."""
        nodes, weights = model.graph.num_nodes(), len(model.graph.initializers)
        result = RemoveUnusedNodesPass()(model.ir)
        return PassResult(
            bool(result.modified),
            statistics={
                "nodes removed": nodes - model.graph.num_nodes(),
                "weights removed": weights - len(model.graph.initializers),
            },
        )
