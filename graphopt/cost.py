"""What a model costs: the protocol that cost models follow, and the plain counts.

A cost model is an object registered under the entry-point group `graphopt.cost_models`. The host
ships `PlainCounts` for the target `cpu`: weights, multiply-adds, peak activation memory, and the
latency on ONNX Runtime where it is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Protocol, runtime_checkable

from graphopt import plugins
from graphopt.errors import TargetError
from graphopt.evidence import Cost, Verdict
from graphopt.ir.layers import LayerKind, Layers
from graphopt.ir.model import Model
from graphopt.ir.shapes import Shapes


@dataclass(frozen=True)
class LayerCost:
    """The cost of one layer."""

    name: str
    kind: LayerKind
    cost: Cost


@dataclass(frozen=True)
class Estimate:
    """What a cost model says of a whole model on a target."""

    target: str
    total: Cost
    layers: tuple[LayerCost, ...]


@runtime_checkable
class CostModel(Protocol):
    """What a cost model has to offer."""

    name: ClassVar[str]

    def serves(self, target: str) -> bool:
        """Whether it knows this target."""
        ...

    def estimate(self, model: Model, target: str) -> Estimate:
        """The cost of the model on the target, per layer and in all."""
        ...

    def judge(self, before: Cost, after: Cost, target: str) -> Verdict:
        """Whether a rewrite that changes `before` into `after` is not worse on the target."""
        ...


@dataclass(frozen=True)
class PlainCounts:
    """Counts that hold on any target; the criterion is multiply-adds, then bytes of weights."""

    name: ClassVar[str] = "plain-counts"

    def serves(self, target: str) -> bool:
        """Serves `cpu`."""
        return target == "cpu"

    def estimate(self, model: Model, target: str) -> Estimate:
        """Counts of the model. Symbolic sizes (the batch) count as 1."""
        layers = tuple(
            LayerCost(
                layer.name,
                layer.kind,
                Cost(layer.parameters, layer.weight_bytes, layer.multiply_adds),
            )
            for layer in model.analyses.get(Layers())
        )
        parameters, weight_bytes = _weights(model)
        total = Cost(
            parameters=parameters,
            weight_bytes=weight_bytes,
            multiply_adds=sum(layer.cost.multiply_adds for layer in layers),
            peak_activation_bytes=_peak_activation_bytes(model),
        )
        return Estimate(target, total, layers)

    def judge(self, before: Cost, after: Cost, target: str) -> Verdict:
        """Yes if multiply-adds fall, or stay and the weights do not grow."""
        better = (after.multiply_adds, after.weight_bytes) <= (
            before.multiply_adds,
            before.weight_bytes,
        )
        return Verdict(
            better, f"multiply-adds {si(before.multiply_adds)} -> {si(after.multiply_adds)}"
        )


def cost_model(target: str) -> CostModel:
    """The installed cost model that serves `target`.

    Raises:
        TargetError: none does.
    """
    candidates: list[CostModel] = [PlainCounts()]
    candidates += [plugin.load()() for plugin in plugins.cost_models().values()]
    for candidate in candidates:
        if candidate.serves(target):
            return candidate
    raise TargetError(
        f"no installed cost model knows the target '{target}': use cpu, or install the package "
        "that serves it."
    )


def with_latency(cost: Cost, seconds: float) -> Cost:
    """`cost` with a measured latency."""
    return replace(cost, latency_s=seconds)


def si(number: float) -> str:
    """A count for people: 40.6 M, 269 k, 17."""
    for factor, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= 0.9995 * factor:  # 999.7 is 1 k, to three digits
            return f"{number / factor:.3g} {unit}"
    return f"{number:.3g}"


def _weights(model: Model) -> tuple[int, int]:
    """Elements and bytes of the weights that layers multiply by, each tensor counted once."""
    shapes = model.analyses.get(Shapes())
    view = model.analyses.get(Layers(fuse=False))
    weighted = {name for layer in view if layer.parameters for name in layer.nodes}
    elements = size = 0
    seen: set[str] = set()
    data = {name for layer in view for name in (*layer.inputs, *layer.outputs)}
    for label, node in model.node_index().items():
        if label not in weighted:
            continue
        for value in node.inputs:
            if value is None or not value.name or value.name in data or value.name in seen:
                continue
            seen.add(value.name)
            info = shapes[value.name]
            elements += info.elements() or 0
            size += info.bytes() or 0
    return elements, size


def _peak_activation_bytes(model: Model) -> int | None:
    """Peak of the live activations, where a lifetime analysis is installed."""
    entry = plugins.analyses().get("lifetime")
    if entry is None:
        return None
    peak: int | None = model.analyses.get(entry.load()()).peak_bytes
    return peak
