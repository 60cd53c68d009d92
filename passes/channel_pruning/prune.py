"""The pass `prune-channels`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from graphopt.errors import PipelineError
from graphopt.evidence import Cost, Exactness, Refusal, Rewrite
from graphopt.ir.layers import Layers
from graphopt.ir.model import Model
from graphopt.ir.shapes import Shapes
from graphopt.pipeline.passes import Context, PassResult
from passes.channel_pruning import slimming
from passes.channel_pruning.cut import cut
from passes.channel_pruning.groups import Group, channel_groups
from passes.channel_pruning.removal import Removal, Slimmed


@dataclass(frozen=True)
class PruneChannels:
    """Takes out channels that nobody needs; with by=scale, also those that matter least.

    Attributes:
        by: `none` removes what is never read or constant, which changes nothing; `scale` also what
            network slimming ranks lowest, after which the network must be trained again.
        threshold: for `scale`: channels with a lower score go.
        ratio: for `scale`: this share of all channels goes, those with the lowest scores. One of
            the two must be given.
        calibration: an .npz file of samples, to score channels whose norm has been folded; `none`
            leaves those alone.
        keep: least number of channels that a tensor keeps.
        align: numbers of channels are rounded up to a multiple of this.
    """

    name: ClassVar[str] = "prune-channels"
    preserves: ClassVar[frozenset[str]] = frozenset()

    by: Literal["none", "scale"] = "none"
    threshold: float = 0.0
    ratio: float = 0.0
    calibration: str = "none"
    keep: int = 1
    align: int = 1

    def __post_init__(self) -> None:
        if not self.threshold >= 0:
            raise ValueError(f"threshold={self.threshold} is negative.")
        if not 0 <= self.ratio < 1:
            raise ValueError(f"ratio={self.ratio} does not lie between 0 and 1.")
        if self.threshold and self.ratio:
            raise ValueError("threshold and ratio exclude each other.")
        if self.by == "none" and (self.threshold or self.ratio or self.calibration != "none"):
            raise ValueError("threshold, ratio and calibration are for by=scale.")
        if self.keep < 1 or self.align < 1:
            raise ValueError(f"keep={self.keep} and align={self.align} must be positive.")

    def run(self, model: Model, context: Context) -> PassResult:
        """Finds out first what can go, then cuts each weight once."""
        context.progress(f"{self.name}: looking for channels", 0.0)
        groups = channel_groups(model, model.analyses.get(Shapes()))
        found = _Report(self.name)
        for group in groups:
            if group.coupled:
                found.refuse(group, "coupled", group.coupled)
        slimmed = self._slimmed(groups, model, found) if self.by == "scale" else {}
        removal = Removal(groups, slimmed, self.keep, self.align)
        removal.solve()
        for group in removal.free:
            spoiled = removal.verdicts(group)[0].spoiled & ~removal.gone[group]
            if spoiled.any():
                found.refuse(group, "padded-border", _border(group, int(spoiled.sum())))
        changed = [group for group in removal.free if removal.gone[group].any()]
        statistics = {
            "channels removed": sum(int(removal.gone[group].sum()) for group in changed),
            "groups": len(changed),
            "coupled": sum(bool(group.coupled) for group in groups),
        }
        if not changed:
            return PassResult(refusals=tuple(found.refusals), statistics=statistics)
        before = _costs(model)
        claims = cut(model, removal)
        model.analyses.keep_only(())
        after = _costs(model)
        for group in changed:
            found.rewrites.append(self._rewrite(group, removal, before, after))
        return PassResult(True, tuple(found.rewrites), tuple(found.refusals), claims, statistics)

    def _slimmed(
        self, groups: tuple[Group, ...], model: Model, found: _Report
    ) -> Mapping[Group, Slimmed]:
        """The channels that network slimming takes out, unless it has done so before.

        Raises:
            PipelineError: it is not said how many.
        """
        if not self.threshold and not self.ratio:
            raise PipelineError("by=scale needs a threshold or a ratio.")
        free = [group for group in groups if group.is_free]
        repeats = self.ratio or self.calibration != "none"
        if repeats and any(
            (one.by, one.rule) == (self.name, self._rule) for one in model.evidence.rewrites
        ):
            for group in free:
                why = f"the model has been through '{self._rule}' before: train it again first"
                found.refuse(group, "slimmed-before", why)
            return {}
        samples = None if self.calibration == "none" else Path(self.calibration)
        scores = slimming.scored(free, model, samples)
        for group in free:
            if group not in scores:
                why = f"no norm stands behind {group.label}, and there are no samples to measure on"
                found.refuse(group, "no-score", why)
        if self.threshold:
            return slimming.below(scores, self.threshold)
        return slimming.lowest(scores, self.ratio)

    @property
    def _rule(self) -> str:
        if self.threshold:
            return f"network slimming, scores below {self.threshold}"
        return f"network slimming, the lowest {self.ratio} of all scores"

    def _rewrite(
        self, group: Group, removal: Removal, before: Mapping[str, Cost], after: Mapping[str, Cost]
    ) -> Rewrite:
        gone, because = removal.gone[group], removal.because[group]
        exact = because["unread"] | because["constant"]
        slimmed = int((gone & ~exact).sum())
        facts = [f"{int(gone.sum())} of {group.channels} channels of {group.label} are gone"]
        readers = ", ".join(reader.linear.label for reader in group.readers)
        if because["unread"].any():
            number = int(because["unread"].sum())
            facts.append(f"{number} of them never read: {readers} multiplied by zero")
        if because["constant"].any():
            number = int(because["constant"].sum())
            facts.append(f"{number} of them constant, which went into the biases of {readers}")
        if slimmed:
            why = removal.slimmed[group].why
            facts.append(f"{slimmed} of them low in {why}; means went into the biases of {readers}")
        nodes = group.region.nodes
        old, new = (_sum(nodes, costs) for costs in (before, after))
        facts.append(f"multiply-adds of the region: {old.multiply_adds} -> {new.multiply_adds}")
        rule = self._rule if slimmed else "channels that nobody needs"
        exactness = Exactness.NEEDS_RETRAINING if slimmed else Exactness.EXACT
        return Rewrite(self.name, rule, group.region, exactness, tuple(facts), old, new)


@dataclass
class _Report:
    """What the pass has to tell."""

    by: str
    rewrites: list[Rewrite] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)

    def refuse(self, group: Group, code: str, reason: str) -> None:
        self.refusals.append(Refusal(self.by, group.region, reason, code))


def _border(group: Group, number: int) -> str:
    readers = ", ".join(reader.linear.label for reader in group.readers)
    return (
        f"channels of {group.label} ({number} of {group.channels}) are constant but not zero, and "
        f"on the way to {readers} they meet padding with zeros, so the border would be wrong"
    )


def _costs(model: Model) -> dict[str, Cost]:
    return {
        layer.name: Cost(layer.parameters, layer.weight_bytes, layer.multiply_adds)
        for layer in model.analyses.get(Layers(fuse=False))
    }


def _sum(nodes: tuple[str, ...], costs: Mapping[str, Cost]) -> Cost:
    counted = [costs[node] for node in nodes if node in costs]
    return Cost(
        sum(cost.parameters for cost in counted),
        sum(cost.weight_bytes for cost in counted),
        sum(cost.multiply_adds for cost in counted),
    )
