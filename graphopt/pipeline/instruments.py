"""What watches a pipeline run: timing, checks after each pass, prints. Instruments never edit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from graphopt.analysis import AnalysisCache
from graphopt.errors import PassFailed
from graphopt.ir.fingerprint import fingerprint
from graphopt.ir.model import Model
from graphopt.pipeline.passes import Pass, PassResult


class Instrument(Protocol):
    """Called around each pass; `before` is the model, `after` the draft the pass has edited."""

    def after_pass(self, one: Pass, before: Model, after: Model, result: PassResult) -> None:
        """Looks at what a pass did. Raising rejects it."""
        ...


@dataclass
class PrintAfter:
    """`--print-after`: shows the graph after the named passes (`all` for every one)."""

    names: frozenset[str]
    write: Callable[[str], None]

    def after_pass(self, one: Pass, before: Model, after: Model, result: PassResult) -> None:
        """Prints."""
        if one.name in self.names or "all" in self.names:
            self.write(f"// after {one.name} ({'changed' if result.changed else 'unchanged'})")
            self.write(str(after.ir))


@dataclass
class VerifyEach:
    """`--verify-each`: catches the pass that breaks the model or that lies about what it did.

    Compares the outputs of the model before and after each pass (unless it says that they
    differ), checks that a pass which says that it changed nothing has changed nothing,
    and that the analyses which it says to preserve (those that the draft still holds) come out the
    same when computed anew.
    """

    equivalent: Callable[[Model, Model], str | None]
    """Returns a sentence that says how two models differ, or None where they agree."""
    checked: list[str] = field(default_factory=list)

    def after_pass(self, one: Pass, before: Model, after: Model, result: PassResult) -> None:
        """Checks; raises PassFailed where a check fails."""
        same = fingerprint(before) == fingerprint(after)
        if not result.changed and not same:
            raise PassFailed(f"{one.name} says that it changed nothing, but the model is another.")
        equivalent = all(rewrite.exactness.is_equivalent for rewrite in result.rewrites)
        if not same and equivalent:
            difference = self.equivalent(before, after)
            if difference is not None:
                raise PassFailed(f"{one.name} breaks the model: {difference}")
        if result.changed:
            self._check_preserved(one, after)
        self.checked.append(one.name)

    @staticmethod
    def _check_preserved(one: Pass, after: Model) -> None:
        fresh = after.clone()
        fresh.analyses = AnalysisCache(fresh)
        for analysis, kept in after.analyses.cached().items():
            if fresh.analyses.get(analysis) != kept:
                raise PassFailed(
                    f"{one.name} says that it preserves the analysis '{analysis.name}', but its "
                    "result is another afterwards."
                )
