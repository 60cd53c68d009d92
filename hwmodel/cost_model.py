"""The streaming accelerator as a target of graphopt: `--target finn:BOARD[:BITS]`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from graphopt.cost import Estimate, LayerCost, PlainCounts, si
from graphopt.evidence import Cost, Verdict
from graphopt.ir.layers import Layers
from graphopt.ir.model import Model
from hwmodel.estimates import KernelEstimate
from hwmodel.estimator import Target, estimate
from hwmodel.resources import total


@dataclass(frozen=True)
class StreamingCost:
    """The cost model of `finn:` targets.

    The plain counts, and beside them cycles, logic and memory of the unfolded design with FIFOs
    by their closed forms: comparable between models, before any folding is chosen. A model whose
    layers have no widths needs them in the target: `finn:ZCU104:w4a4`.
    """

    name: ClassVar[str] = "streaming"

    def serves(self, target: str) -> bool:
        """Serves `finn:...`."""
        return target.startswith("finn:")

    def estimate(self, model: Model, target: str) -> Estimate:
        """The model on the target; a layer has the sum of its kernels and no FIFOs.

        Raises:
            GraphoptError: the target is unknown, or the model cannot be mapped.
        """
        Target.parse(target)
        plain = PlainCounts().estimate(model, target)
        found = estimate(model, target)
        heads = {node: layer.name for layer in model.analyses.get(Layers()) for node in layer.nodes}
        own: dict[str, list[KernelEstimate]] = {}
        for kernel in found.kernels:
            own.setdefault(heads.get(kernel.layer, kernel.layer), []).append(kernel)
        layers = tuple(
            LayerCost(layer.name, layer.kind, _with(layer.cost, own.get(layer.name, [])))
            for layer in plain.layers
        )
        whole = found.resources
        summed = replace(
            plain.total,
            interval_cycles=found.interval,
            lut=whole.lut,
            ff=whole.ff,
            bram18=whole.bram18,
            uram=whole.uram,
            dsp=whole.dsp,
            fifo_bits=found.fifo_bits,
        )
        return Estimate(target, summed, layers)

    def judge(self, before: Cost, after: Cost, target: str) -> Verdict:
        """Yes if no frame takes longer and the shares of the device that it takes do not grow.

        Regions have plain counts only, so they are judged by these.
        """
        if before.interval_cycles is None or after.interval_cycles is None:
            return PlainCounts().judge(before, after, target)
        device = Target.parse(target).device

        def share(cost: Cost) -> float:
            parts = ((cost.lut, device.lut), (cost.bram18, device.bram18), (cost.dsp, device.dsp))
            return sum((used or 0) / there for used, there in parts if there)

        better = (after.interval_cycles, share(after)) <= (before.interval_cycles, share(before))
        return Verdict(
            better,
            f"cycles {si(before.interval_cycles)} -> {si(after.interval_cycles)}, "
            f"share of the device {share(before):.1%} -> {share(after):.1%}",
        )


def _with(plain: Cost, kernels: list[KernelEstimate]) -> Cost:
    """The plain counts of a layer and what its kernels take."""
    if not kernels:
        return plain
    used = total(kernel.resources for kernel in kernels)
    return replace(
        plain,
        interval_cycles=max(kernel.cycles for kernel in kernels),
        lut=used.lut,
        ff=used.ff,
        bram18=used.bram18,
        uram=used.uram,
        dsp=used.dsp,
    )
