"""Analyses: pure facts about a model, computed when asked for and kept while they hold.

An analysis is a frozen dataclass with a `name` and a `run`. Its result speaks of nodes and tensors
by name only, so it stays true for a copy of the model. A pass says which analyses it preserves;
every other one is computed anew when next asked for (MLIR's scheme, without its bookkeeping).
"""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar, cast, runtime_checkable

if TYPE_CHECKING:
    from graphopt.ir.model import Model

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


@runtime_checkable
class Analysis(Protocol[T_co]):
    """What an analysis has to offer. Must be hashable: instances are the keys of the cache."""

    name: ClassVar[str]

    def run(self, model: Model) -> T_co:
        """Computes the result. Must not change the model."""
        ...


class AnalysisCache:
    """The results that hold for one model."""

    def __init__(self, model: Model, known: dict[Any, Any] | None = None) -> None:
        self._model = model
        self._known = dict(known or {})
        self.seconds: dict[str, float] = {}
        """Time spent computing each analysis on this model and its copies, by name, in seconds."""

    def get(self, analysis: Analysis[T]) -> T:
        """The result of `analysis` on this model, computed at most once while it holds."""
        if analysis not in self._known:
            start = time.perf_counter()
            self._known[analysis] = analysis.run(self._model)
            spent = time.perf_counter() - start
            self.seconds[analysis.name] = self.seconds.get(analysis.name, 0.0) + spent
        return cast(T, self._known[analysis])

    def cached(self) -> dict[Any, Any]:
        """The analyses that are held at present, with their results."""
        return dict(self._known)

    def keep_only(self, preserved: Collection[str]) -> None:
        """Forgets every result but those of the analyses named in `preserved`."""
        self._known = {a: r for a, r in self._known.items() if a.name in preserved}

    def copy_for(self, model: Model) -> AnalysisCache:
        """The same results for an identical copy of the model. Both count their time together."""
        copy = AnalysisCache(model, self._known)
        copy.seconds = self.seconds
        return copy
