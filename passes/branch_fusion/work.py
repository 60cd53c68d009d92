"""What the two rewrites of the pass share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from graphopt.evidence import Cost, Exactness, Refusal, Region, Rewrite
from graphopt.ir.model import Model
from graphopt.ir.shapes import ShapeTable
from graphopt.pipeline.passes import Context
from graphopt.verify.algebra import Claim
from passes.linear import Initializers, Linear
from passes.refused import Refused

When = Literal["worth", "possible"]


@dataclass(frozen=True, eq=False)
class Work:
    """The model under the knife, and what has been done to it.

    Attributes:
        model: the draft.
        context: of the run.
        when: as in `BranchFusion`.
        shapes: by tensor name; what is replaced keeps the name of its result.
        initializers: makes new weights.
    """

    by: ClassVar[str] = "branch-fusion"
    by_choice: ClassVar[str] = "not-worth-it"

    model: Model
    context: Context
    when: When
    shapes: ShapeTable
    initializers: Initializers
    rewrites: list[Rewrite] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    claims: list[Claim] = field(default_factory=list)

    def ask(self, what: str, before: Cost, after: Cost) -> None:
        """Asks the cost model.

        Raises:
            Refused: it is not worth it.
        """
        verdict = self.context.cost.judge(before, after, self.context.target)
        if self.when == "worth" and not verdict:
            raise Refused(self.by_choice, f"{what}: {verdict.reason}")

    def refuse(self, region: Region, reason: Refused) -> None:
        """Notes a refusal."""
        chosen = reason.code == self.by_choice
        self.refusals.append(Refusal(self.by, region, str(reason), reason.code, chosen))

    def done(
        self,
        rule: str,
        regions: Iterable[Region],
        facts: tuple[str, ...],
        before: Cost,
        after: Cost,
    ) -> None:
        """Notes a rewrite: one entry per region, the costs with the first."""
        costs: tuple[Cost | None, Cost | None] = (before, after)
        for region in regions:
            self.rewrites.append(Rewrite(self.by, rule, region, Exactness.EXACT, facts, *costs))
            costs = (None, None)

    def positions(self, linear: Linear) -> int:
        """Positions of the output of one sample; 1 where they are not known."""
        elements = self.shapes[linear.result.name or ""].elements() or linear.outputs
        return max(1, elements // linear.outputs)
