"""`optimize`: the way of a model through the program, from the file to the proved result."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from graphopt import plugins
from graphopt.cost import CostModel, Estimate, cost_model, with_latency
from graphopt.errors import NotEquivalent
from graphopt.evidence import Cost, Exactness, Refusal, Rewrite
from graphopt.ir.model import Model, Source
from graphopt.pipeline.instruments import Instrument
from graphopt.pipeline.manager import PassRecord, Pipeline
from graphopt.pipeline.passes import Context
from graphopt.skips import Skip
from graphopt.verify import numeric
from graphopt.verify.numeric import Status, Verification

Progress = Callable[[str, float], None]


class Fate(enum.Enum):
    """What became of a skip."""

    REMOVED = "removed"
    KEPT = "kept"
    """It could have been removed exactly; it costs less as it is."""
    REFUSED = "refused"
    """It could not be removed; the reason says which condition fails."""


@dataclass(frozen=True)
class SkipFate:
    """One skip of the original and what became of it.

    Attributes:
        skip: the skip.
        fate: what became of it.
        reason: one sentence.
        rewrite: the rewrite that removed it, or None.
        refusals: why passes left it.
    """

    skip: Skip
    fate: Fate
    reason: str
    rewrite: Rewrite | None = None
    refusals: tuple[Refusal, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """Everything that `optimize` did and found.

    Attributes:
        original: the model as it was read.
        model: the model as it is now; `model.restore()` gives the kind that was given.
        target: what it was optimized for.
        pipeline: the passes that ran, as text.
        fates: what became of each skip, in order of execution.
        before: cost of the original.
        after: cost of the result.
        records: what each pass did.
        verification: how equivalence was checked, or None where the caller waived it.
    """

    original: Model
    model: Model
    target: str
    pipeline: str
    fates: tuple[SkipFate, ...]
    before: Estimate
    after: Estimate
    records: tuple[PassRecord, ...]
    verification: Verification | None = field(default=None)

    @property
    def changed(self) -> bool:
        """Whether any pass changed the model."""
        return any(record.changed for record in self.records)

    def count(self, fate: Fate) -> int:
        """Number of skips with this fate."""
        return sum(1 for one in self.fates if one.fate is fate)


def optimize(
    source: Source,
    *,
    target: str = "cpu",
    preset: str = "default",
    pipeline: str | None = None,
    verify: bool = True,
    measure: bool = False,
    instruments: Sequence[Instrument] = (),
    reproducers: Path | None = None,
    progress: Progress = lambda text, share: None,
) -> Outcome:
    """Optimizes a model.

    Args:
        source: a path, bytes, ModelProto, onnx_ir.Model, graphsurgeon Graph, qonnx ModelWrapper,
            or `Model`. It is not changed.
        target: what to optimize for.
        preset: a named pipeline.
        pipeline: the passes to run, as text; overrides `preset`.
        verify: compare the result with the original numerically.
        measure: measure the latency of both in ONNX Runtime.
        instruments: what watches the passes.
        reproducers: folder for crash reproducers.
        progress: called with a sentence and a share between 0 and 1.

    Raises:
        GraphoptError: bad input, an unknown pass, target or option; PassFailed where a pass
            fails; NotEquivalent where the result differs from the original and no pass has said
            that it does.
    """
    progress("reading the model", 0.0)
    original = Model.load(source)
    original.tell_apart()
    cost = cost_model(target)
    passes = Pipeline.parse(pipeline or plugins.preset(preset), reproducers)

    progress("finding the skips", 0.1)
    skips: tuple[Skip, ...] = original.analyses.get(plugins.analysis("skips"))
    before = _estimate(cost, original, target, measure)

    model = original.clone()
    context = Context(target, cost, lambda text, share: progress(text, 0.2 + 0.3 * share))
    records = passes.run(model, context, instruments)

    verification = None
    if verify:
        verification = numeric.compare(
            original,
            model,
            probes=_probes(skips, records, original, model),
            progress=lambda text, share: progress(text, 0.5 + 0.4 * share),
        )
        changing = {
            rewrite.by: rewrite.exactness
            for record in records
            for rewrite in record.rewrites
            if not rewrite.exactness.is_equivalent
        }
        if changing:
            retrain = Exactness.NEEDS_RETRAINING in changing.values()
            verification = numeric.waived(verification, tuple(changing), retrain=retrain)
        if verification.status is Status.DIFFERENT:
            raise NotEquivalent(
                f"{original.origin.label}: the optimized model is not equivalent: "
                f"{verification.reason}; nothing was written. Find the pass with --verify-each."
            )
    progress("counting the cost", 0.95)
    after = _estimate(cost, model, target, measure)
    fates = _fates(skips, model, records)
    return Outcome(
        original, model, target, str(passes), fates, before, after, records, verification
    )


def _estimate(cost: CostModel, model: Model, target: str, measure: bool) -> Estimate:
    estimate = cost.estimate(model, target)
    if not measure:
        return estimate
    return Estimate(target, measured(model, estimate.total), estimate.layers)


def measured(model: Model, cost: Cost) -> Cost:
    """`cost` with the latency that ONNX Runtime shows on one ordinary input.

    Raises:
        CannotRun: ONNX Runtime does not take the model.
    """
    from graphopt.verify import inputs, runtime

    return with_latency(cost, runtime.latency(model, inputs.first(model).feeds))


def _probes(
    skips: Sequence[Skip], records: Sequence[PassRecord], original: Model, model: Model
) -> tuple[str, ...]:
    """The outputs of the joins that were rewritten, where they have kept their names."""
    rewritten = {rewrite.region.name for record in records for rewrite in record.rewrites}
    nodes = original.node_index()
    index = model.value_index()
    names = (
        nodes[skip.join].outputs[0].name
        for skip in skips
        if skip.name in rewritten and skip.join in nodes
    )
    return tuple(name for name in names if name and name in index)


def _fates(
    skips: Sequence[Skip], model: Model, records: Sequence[PassRecord]
) -> tuple[SkipFate, ...]:
    """What became of each skip. A skip is removed only if it is no longer found in the result."""
    left = {skip.name for skip in model.analyses.get(plugins.analysis("skips"))}
    rewrites = {r.region.name: r for record in records for r in record.rewrites}
    refusals: dict[str, list[Refusal]] = {}
    for record in records:
        for refusal in record.refusals:
            refusals.setdefault(refusal.region.name, []).append(refusal)
    fates = []
    for skip in skips:
        rewrite, against = rewrites.get(skip.name), tuple(refusals.get(skip.name, ()))
        if skip.name not in left:
            reason = rewrite.rule if rewrite is not None else "it went with constant folding"
            fates.append(SkipFate(skip, Fate.REMOVED, reason, rewrite))
        elif against:
            chosen = any(refusal.by_choice for refusal in against)
            fate = Fate.KEPT if chosen else Fate.REFUSED
            fates.append(SkipFate(skip, fate, against[-1].reason, None, against))
        else:
            reason = "no pass of this pipeline removes skips of this kind"
            fates.append(SkipFate(skip, Fate.REFUSED, reason))
    return tuple(fates)
