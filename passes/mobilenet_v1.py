"""MobileNetV2 to MobileNetV1 (RMNet, sections 4.4 and 5.3).

Reserve-merge takes the join out of an inverted residual; then the linear bottleneck stands between
two pointwise convolutions with no activation at it, and they fuse: depthwise and pointwise
convolutions alternate, which is MobileNetV1.

Neither half pays by itself: reserving widens the hidden tensors, and fusing multiplies a narrow
bottleneck out. Whether both together pay depends on the width of the bottlenecks: for MobileNetV2
as published they do not, for the redesigned one they do. So the two are judged together.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from graphopt.cost import si
from graphopt.evidence import Refusal, Region
from graphopt.ir.model import Model
from graphopt.pipeline.passes import Context, PassResult
from passes.linear_fusion import LinearFusion
from passes.reserve_merge import ReserveMerge
from passes.reserve_merge.rule import ResidualBlock


@dataclass(frozen=True)
class MobileNetV1:
    """Turns chains of inverted residuals into depthwise and pointwise convolutions.

    Attributes:
        when: `worth` does it where the cost model agrees to the whole; `possible` always.
    """

    name: ClassVar[str] = "mobilenet-v1"
    preserves: ClassVar[frozenset[str]] = frozenset()

    when: Literal["worth", "possible"] = "worth"

    def run(self, model: Model, context: Context) -> PassResult:
        """Tries it on a copy, and takes the copy over if it is worth it."""
        draft = model.clone()
        merged = ReserveMerge(when="possible").run_on(draft, context, is_inverted_residual)
        if not merged.rewrites:
            return PassResult()
        draft.analyses.keep_only(())
        fused = LinearFusion(when="possible").run(draft, context)
        draft.analyses.keep_only(())
        before, after = (context.cost.estimate(m, context.target).total for m in (model, draft))
        verdict = context.cost.judge(before, after, context.target)
        if self.when == "worth" and not verdict:
            reason = (
                f"as MobileNetV1 the network would go from {si(before.multiply_adds)} to "
                f"{si(after.multiply_adds)} multiply-adds"
            )
            refusals = tuple(
                Refusal(self.name, Region(r.region.name), reason, "not-worth-it", by_choice=True)
                for r in merged.rewrites
            )
            return PassResult(refusals=refusals)
        model.adopt(draft)
        rewrites = tuple(replace(r, by=self.name) for r in (*merged.rewrites, *fused.rewrites))
        statistics = {"joins removed": len(merged.rewrites), "fused": len(fused.rewrites)}
        return PassResult(True, rewrites, (), (*merged.claims, *fused.claims), statistics)


def is_inverted_residual(block: ResidualBlock) -> bool:
    """Whether a branch expands (or not), filters each channel by itself, and projects linearly."""
    linears = [stage.linear for stage in block.stages]
    *expanding, depthwise, project = linears if len(linears) > 1 else [None, *linears]
    if depthwise is None or len(expanding) > 1:
        return False
    pointwise = all(one.is_pointwise and one.group == 1 for one in (*expanding, project))
    return pointwise and depthwise.is_depthwise and depthwise.is_conv
