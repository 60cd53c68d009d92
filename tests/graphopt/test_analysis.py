"""Analyses: computed once, kept while they hold, true for copies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest

from graphopt.analysis import Analysis
from graphopt.ir import Layers, Model, Shapes
from tests.support.models import residual_mlp
from tests.support.passes import negate

RUNS: list[str] = []


@dataclass(frozen=True)
class CountNodes:
    """How many nodes there are, times `factor`."""

    name: ClassVar[str] = "count-nodes"
    factor: int = 1

    def run(self, model: Model) -> int:
        RUNS.append(self.name)
        return self.factor * model.graph.num_nodes()


@dataclass(frozen=True)
class Twice:
    """Asks another analysis."""

    name: ClassVar[str] = "twice"

    def run(self, model: Model) -> int:
        RUNS.append(self.name)
        return 2 * model.analyses.get(CountNodes())


@pytest.fixture
def model() -> Model:
    RUNS.clear()
    return Model.load(residual_mlp())


def test_computed_once(model: Model) -> None:
    assert [model.analyses.get(CountNodes()) for _ in range(3)] == [13, 13, 13]
    assert RUNS == ["count-nodes"]


def test_options_are_part_of_the_key(model: Model) -> None:
    assert model.analyses.get(CountNodes()) == 13
    assert model.analyses.get(CountNodes(2)) == 26
    assert model.analyses.get(CountNodes(factor=2)) == 26
    assert len(RUNS) == 2


def test_one_analysis_may_ask_another(model: Model) -> None:
    assert model.analyses.get(Twice()) == 26
    assert model.analyses.get(CountNodes()) == 13
    assert RUNS == ["twice", "count-nodes"]
    assert set(model.analyses.cached()) == {Twice(), CountNodes()}


def test_keep_only_forgets_the_rest(model: Model) -> None:
    model.analyses.get(Twice())
    model.analyses.keep_only({"twice"})
    assert model.analyses.cached() == {Twice(): 26}
    negate(model)
    assert model.analyses.get(Twice()) == 26  # the pass has promised that it holds
    assert model.analyses.get(CountNodes()) == 14
    model.analyses.keep_only(())
    assert model.analyses.cached() == {}
    assert model.analyses.get(Twice()) == 28


def test_a_name_keeps_every_instance(model: Model) -> None:
    model.analyses.get(Layers())
    model.analyses.get(Layers(fuse=False))
    model.analyses.keep_only({"layers"})
    assert set(model.analyses.cached()) == {Layers(), Layers(fuse=False)}


def test_a_copy_starts_with_the_results_and_goes_its_own_way(model: Model) -> None:
    model.analyses.get(CountNodes())
    copy = model.clone()
    assert copy.analyses.get(CountNodes()) == 13
    assert RUNS == ["count-nodes"]
    negate(copy)
    copy.analyses.keep_only(())
    assert copy.analyses.get(CountNodes()) == 14
    assert model.analyses.get(CountNodes()) == 13
    copy.analyses.get(Twice())
    assert Twice() not in model.analyses.cached()


def test_what_is_cached_cannot_be_changed_from_outside(model: Model) -> None:
    model.analyses.get(CountNodes())
    model.analyses.cached().clear()
    assert model.analyses.cached() == {CountNodes(): 13}


def test_the_adopted_results_are_the_drafts(model: Model) -> None:
    model.analyses.get(CountNodes())
    draft = model.clone()
    negate(draft)
    draft.analyses.keep_only(())
    draft.analyses.get(Twice())
    model.adopt(draft)
    assert model.analyses.cached() == {Twice(): 28, CountNodes(): 14}
    model.analyses.keep_only(())
    assert model.analyses.get(CountNodes()) == 14  # of the model as it is now


def test_an_analysis_that_raises_leaves_nothing(model: Model) -> None:
    @dataclass(frozen=True)
    class Raises:
        name: ClassVar[str] = "raises"

        def run(self, model: Model) -> int:
            raise ArithmeticError

    with pytest.raises(ArithmeticError):
        model.analyses.get(Raises())
    assert model.analyses.cached() == {}


def test_time_is_counted_by_name_over_copies(model: Model) -> None:
    model.analyses.get(CountNodes())
    first = model.analyses.seconds["count-nodes"]
    assert first >= 0
    copy = model.clone()
    copy.analyses.get(CountNodes(2))
    copy.analyses.get(Twice())
    assert model.analyses.seconds["count-nodes"] >= first
    assert set(model.analyses.seconds) == {"count-nodes", "twice"}


def test_the_protocol_knows_an_analysis() -> None:
    assert isinstance(CountNodes(), Analysis)
    assert isinstance(Shapes(), Analysis)
    assert not isinstance("shapes", Analysis)
