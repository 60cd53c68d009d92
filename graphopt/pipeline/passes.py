"""`Pass`: one transformation of a model, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Protocol, runtime_checkable

from graphopt.cost import CostModel, PlainCounts
from graphopt.evidence import Refusal, Rewrite
from graphopt.ir.model import Model
from graphopt.verify.algebra import Claim


@dataclass(frozen=True)
class Context:
    """What a pass may ask about the run that it is part of.

    Attributes:
        target: what the model is optimized for, such as `cpu`.
        cost: the cost model that serves it.
        progress: called with a sentence and a share between 0 and 1 as work proceeds.
    """

    target: str = "cpu"
    cost: CostModel = field(default_factory=PlainCounts)
    progress: Callable[[str, float], None] = lambda text, share: None


@dataclass(frozen=True)
class PassResult:
    """What a pass did.

    Attributes:
        changed: whether the model is another than before. False promises that it is not.
        rewrites: what was done.
        refusals: what was not, and why.
        claims: statements about the new weights that the host checks before it accepts them.
        statistics: named counts for `--timing`.
    """

    changed: bool = False
    rewrites: tuple[Rewrite, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    claims: tuple[Claim, ...] = ()
    statistics: Mapping[str, int] = field(default_factory=dict)


@runtime_checkable
class Pass(Protocol):
    """A frozen dataclass: its fields are its options in the pipeline text.

    `preserves` names the analyses whose results still hold after the pass has changed something.
    `run` edits the model it is given, which is a draft: if it raises, the draft is thrown away.
    Running a pass twice must change nothing the second time, and the same model and options must
    give the same result.
    """

    name: ClassVar[str]
    preserves: ClassVar[frozenset[str]]

    def run(self, model: Model, context: Context) -> PassResult:
        """Transforms `model` in place and says what it did."""
        ...
