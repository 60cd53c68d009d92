"""Evidence: as JSON and back, added up over runs, and kept in the saved model."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphopt.cli.main import main
from graphopt.evidence import (
    METADATA_KEY,
    Cost,
    Evidence,
    Exactness,
    Refusal,
    Region,
    Rewrite,
    Verdict,
)
from graphopt.ir import Model, save
from graphopt.optimizer import optimize
from tests.support.models import residual_mlp, residual_net

WORDS = st.text(max_size=12)
COUNTS = st.integers(0, 2**63)
COSTS = st.builds(
    Cost,
    parameters=COUNTS,
    weight_bytes=COUNTS,
    multiply_adds=COUNTS,
    peak_activation_bytes=st.none() | COUNTS,
    latency_s=st.none() | st.floats(0, 1e6),
)
REGIONS = st.builds(Region, WORDS, st.lists(WORDS, max_size=3).map(tuple))
REWRITES = st.builds(
    Rewrite,
    by=WORDS,
    rule=WORDS,
    region=REGIONS,
    exactness=st.sampled_from(Exactness),
    facts=st.lists(WORDS, max_size=3).map(tuple),
    before=st.none() | COSTS,
    after=st.none() | COSTS,
)
REFUSALS = st.builds(Refusal, WORDS, REGIONS, WORDS, WORDS, st.booleans())
EVIDENCE = st.builds(
    Evidence, st.lists(REWRITES, max_size=3).map(tuple), st.lists(REFUSALS, max_size=3).map(tuple)
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


# JSON -----------------------------------------------------------------------------------------


@given(EVIDENCE)
def test_round_trip(evidence: Evidence) -> None:
    text = evidence.to_text()
    assert "\n" not in text
    assert Evidence.from_text(text) == evidence
    assert Evidence.from_text(text).to_text() == text
    assert Evidence.from_text(json.dumps(evidence.to_json(), indent=4)) == evidence


@given(COSTS)
def test_costs_leave_out_what_is_not_known(cost: Cost) -> None:
    data = cost.to_json()
    assert None not in data.values()
    assert Cost.from_json(data) == cost
    assert ("latency_s" in data) == (cost.latency_s is not None)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "garbage",
        "{",
        "null",
        "[]",
        "7",
        '"text"',
        "{}",
        '{"rewrites": []}',
        '{"rewrites": [], "refusals": [{}]}',
        '{"rewrites": 3, "refusals": []}',
        '{"rewrites": {"a": 1}, "refusals": []}',
        '{"rewrites": [7], "refusals": []}',
        "[" * 100_000,
        '{"rewrites": ' + "[" * 100_000 + ', "refusals": []}',
    ],
    ids=lambda text: text[:30],
)
def test_garbage_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the message is json's own in half of the cases
        Evidence.from_text(text)


ONE = Evidence(
    (Rewrite("p", "r", Region("x", ("n",)), Exactness.EXACT, ("f",), Cost(1, 4, 9), Cost(2, 8)),),
    (Refusal("p", Region("y"), "no", "code", True),),
)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("by", None),
        ("nodes", 5),
        ("exactness", "roughly"),
        ("exactness", ["exact"]),
        ("facts", None),
        ("before", "cheap"),
        ("before", {"parameters": 1, "colour": "red"}),
        ("before", {"parameters": "many"}),
        ("before", {"parameters": [1]}),
        ("after", {"latency_s": {"a": 1}}),
        ("after", [1, 2]),
    ],
)
def test_one_wrong_field_is_a_value_error(key: str, value: object) -> None:
    data = ONE.to_json()
    if value is None:
        del data["rewrites"][0][key]
    else:
        data["rewrites"][0][key] = value
    with pytest.raises(ValueError, match=r"graphopt evidence|Exactness"):
        Evidence.from_text(json.dumps(data))


@given(JSON, st.sampled_from(["by", "rule", "region", "nodes", "exactness", "facts", "before"]))
def test_any_json_is_evidence_or_a_value_error(value: object, key: str) -> None:
    data = ONE.to_json()
    data["rewrites"][0][key] = value
    for text in (json.dumps(value), json.dumps(data)):
        try:
            evidence = Evidence.from_text(text)
        except ValueError:
            continue
        assert hash(evidence) is not None
        again = Evidence.from_text(evidence.to_text())
        assert again.to_text() == evidence.to_text()


# Adding up ------------------------------------------------------------------------------------


def rewrite(region: str, by: str = "p") -> Rewrite:
    return Rewrite(by, "rule", Region(region), Exactness.EXACT)


def refusal(region: str, by: str = "p", reason: str = "no") -> Refusal:
    return Refusal(by, Region(region), reason, "code")


def test_rewrites_add_up_in_order() -> None:
    evidence = Evidence().with_added([rewrite("a")]).with_added([rewrite("b"), rewrite("a")])
    assert [r.region.name for r in evidence.rewrites] == ["a", "b", "a"]


def test_a_later_refusal_replaces_that_pass_s_earlier_one() -> None:
    evidence = Evidence().with_added((), [refusal("a", reason="old"), refusal("b")])
    evidence = evidence.with_added((), [refusal("a", reason="new")])
    assert [(r.region.name, r.reason) for r in evidence.refusals] == [("a", "new"), ("b", "no")]


def test_judging_again_in_another_order_changes_nothing() -> None:
    first, second = refusal("a"), refusal("b")
    evidence = Evidence().with_added((), [first, second])
    assert evidence.with_added((), [second, first]) == evidence
    assert evidence.with_added((), [first]) == evidence


def test_a_rewrite_takes_back_the_refusal() -> None:
    evidence = Evidence().with_added((), [refusal("a"), refusal("b")]).with_added([rewrite("a")])
    assert [r.region.name for r in evidence.refusals] == ["b"]
    assert [r.region.name for r in evidence.rewrites] == ["a"]


def test_another_pass_s_verdict_stands() -> None:
    evidence = Evidence().with_added((), [refusal("a", by="p"), refusal("a", by="q")])
    evidence = evidence.with_added([rewrite("a", by="q")])
    assert [(r.by, r.region.name) for r in evidence.refusals] == [("p", "a")]


def test_a_refusal_does_not_take_back_a_rewrite() -> None:
    evidence = Evidence().with_added([rewrite("a")]).with_added((), [refusal("a")])
    assert (len(evidence.rewrites), len(evidence.refusals)) == (1, 1)


def test_adding_nothing_changes_nothing() -> None:
    assert ONE.with_added() == ONE


def test_exactness_is_as_weak_as_its_weakest_part() -> None:
    order = list(Exactness)
    assert order[0] is Exactness.BIT_EXACT
    assert order[-1] is Exactness.NEEDS_RETRAINING
    for first in order:
        for second in order:
            weakest = first.weakest(second)
            assert order.index(weakest) == max(order.index(first), order.index(second))


def test_a_verdict_is_a_truth_value() -> None:
    assert Verdict(True, "because")
    assert not Verdict(False, "because")


# In the model ---------------------------------------------------------------------------------


def test_it_is_stored_in_the_saved_model(tmp_path: Path) -> None:
    outcome = optimize(residual_mlp(), preset="plain", verify=False)
    assert outcome.model.evidence.rewrites
    path = save(outcome.model, tmp_path / "model.onnx")
    entries = {e.key: e.value for e in onnx.load(path).metadata_props}
    assert Evidence.from_text(entries[METADATA_KEY]) == outcome.model.evidence
    assert Model.load(path).evidence == outcome.model.evidence


def test_a_model_that_nothing_happened_to_has_no_entry(tmp_path: Path) -> None:
    path = save(Model.load(residual_mlp()), tmp_path / "model.onnx")
    assert [e.key for e in onnx.load(path).metadata_props] == []


def test_other_metadata_is_left_alone(tmp_path: Path) -> None:
    proto = residual_mlp()
    onnx.helper.set_model_props(proto, {"author": "me", METADATA_KEY: "garbage", "licence": "mine"})
    model = Model.load(proto)
    assert model.evidence == Evidence()
    model.evidence = ONE
    entries = {e.key: e.value for e in onnx.load(save(model, tmp_path / "m.onnx")).metadata_props}
    assert entries == {"author": "me", "licence": "mine", METADATA_KEY: ONE.to_text()}


def test_optimizing_an_optimized_model_keeps_the_old_rewrites(tmp_path: Path) -> None:
    first = optimize(residual_net(norm=True), preset="clean", verify=False)
    old = first.model.evidence.rewrites
    assert {r.by for r in old} == {"fold-norm"}
    path = save(first.model, tmp_path / "clean.onnx")

    second = optimize(path, preset="plain", verify=False)
    assert second.model.evidence.rewrites[: len(old)] == old
    assert {r.by for r in second.model.evidence.rewrites[len(old) :]} == {"reserve-merge"}
    assert Model.load(save(second.model, tmp_path / "p.onnx")).evidence == second.model.evidence


def test_inspect_shows_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = optimize(residual_net(), preset="default", verify=False)
    kept = [one for one in first.fates if one.refusals and one.refusals[0].by_choice]
    assert kept
    second = optimize(first.model, preset="plain", verify=False)
    path = save(second.model, tmp_path / "model.onnx")
    with pytest.raises(SystemExit):
        main(["inspect", str(path)])
    text = " ".join(capsys.readouterr().out.split())
    assert "What was done to this model" in text
    assert "reserve-merge" in text
    with pytest.raises(SystemExit):
        main(["inspect", str(path), "--json"])
    assert json.loads(capsys.readouterr().out)["evidence"] == second.model.evidence.to_json()


def test_inspect_of_forged_evidence_does_not_break(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The metadata of a model is as untrusted as the rest of it."""
    markup = "[/red]x[bold]"
    forged = Evidence(
        (Rewrite(markup, markup, Region(markup), Exactness.EXACT, (markup,)),),
        (Refusal(markup, Region(markup), markup, markup),),
    )
    model = Model.load(residual_mlp())
    model.evidence = forged
    path = save(model, tmp_path / "model.onnx")
    with pytest.raises(SystemExit) as left:
        main(["inspect", str(path)])
    shown = capsys.readouterr()
    assert left.value.code == 0, shown.err
    assert shown.out.count(markup) == 7
