"""Running a pipeline: each pass is a transaction, and what it claims is checked."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx_ir
import pytest

from graphopt import plugins
from graphopt.errors import PassFailed
from graphopt.evidence import Exactness, Refusal, Region, Rewrite
from graphopt.ir import Layers, Model, Shapes, fingerprint, save
from graphopt.pipeline import Context, PassResult, Pipeline
from graphopt.pipeline.manager import check_consistent
from graphopt.verify import numeric
from graphopt.verify.algebra import Block, Claim, WidenedWeight
from passes.presets import PLAIN
from tests.support.models import residual_mlp, residual_net
from tests.support.passes import Edit, Explode, NegateOutput, Nothing, append, install, negate


@pytest.fixture
def model() -> Model:
    return Model.load(residual_mlp())


def file(model: Model) -> bytes:
    return model.to_proto().SerializeToString(deterministic=True)


# A pass is a transaction ----------------------------------------------------------------------


def test_a_pass_that_raises_half_way_leaves_no_trace(model: Model) -> None:
    shapes = model.analyses.get(Shapes())
    before, held = file(model), model.analyses.cached()
    with pytest.raises(PassFailed, match=r"'explode' .* failed: ZeroDivisionError: the fuse was 3"):
        Pipeline((Explode(),)).run(model)
    assert file(model) == before
    assert model.analyses.cached() == held
    assert model.analyses.get(Shapes()) is shapes


def test_what_the_passes_before_it_did_stays(model: Model) -> None:
    with pytest.raises(PassFailed, match=r"'explode' \(after nothing, negate-output\)"):
        Pipeline((Nothing(), NegateOutput(), Explode())).run(model)
    alone = Model.load(residual_mlp())
    Pipeline((NegateOutput(),)).run(alone)
    assert file(model) == file(alone)


def test_the_first_pass_has_no_other_before_it(model: Model) -> None:
    with pytest.raises(PassFailed, match=r"'explode' \(after no other pass\)"):
        Pipeline((Explode(),)).run(model)


def test_the_cause_is_kept(model: Model) -> None:
    with pytest.raises(PassFailed) as failure:
        Pipeline((Explode(),)).run(model)
    assert isinstance(failure.value.__cause__, ZeroDivisionError)


def test_an_interrupt_is_no_failure_of_the_pass(model: Model) -> None:
    def stop(draft: Model) -> None:
        negate(draft)
        raise KeyboardInterrupt

    before = file(model)
    with pytest.raises(KeyboardInterrupt):
        Pipeline((Edit(stop),)).run(model)
    assert file(model) == before


def test_a_pass_that_changed_nothing_has_no_way_to_change_the_model(model: Model) -> None:
    before = file(model)
    records = Pipeline((Edit(negate, PassResult(changed=False)),)).run(model)
    assert file(model) == before
    assert not records[0].changed


def test_a_pass_that_gives_nothing_back_is_rejected(model: Model) -> None:
    with pytest.raises(PassFailed, match=r"'edit' .* failed: "):
        Pipeline((Edit(negate, None),)).run(model)  # type: ignore[arg-type]


# What a pass leaves must be a graph -----------------------------------------------------------


def read_what_nothing_makes(model: Model) -> None:
    node = list(model.graph)[3]
    node.replace_input_with(0, onnx_ir.Value(name="from nowhere"))


def read_before_it_is_made(model: Model) -> None:
    nodes = list(model.graph)
    nodes[1].replace_input_with(0, nodes[5].outputs[0])


def make_one_tensor_twice(model: Model) -> None:
    nodes = list(model.graph)
    nodes[4].outputs[0].name = nodes[2].outputs[0].name


def make_the_input_again(model: Model) -> None:
    list(model.graph)[2].outputs[0].name = model.graph.inputs[0].name


def lose_the_output(model: Model) -> None:
    last = list(model.graph)[-1]
    output = last.outputs[0]
    model.graph.remove(last)
    assert model.graph.outputs[0] is output


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (read_what_nothing_makes, r"node '\w+' reads 'from nowhere' before it is made"),
        (read_before_it_is_made, r"node '\w+' reads '\w+' before it is made"),
        (make_one_tensor_twice, r"two nodes make '\w+'"),
        (make_the_input_again, r"two nodes make 'x'"),
        (lose_the_output, r"the output '\w+' is made by no node"),
    ],
)
def test_a_broken_graph_is_rejected(
    model: Model, edit: Callable[[Model], None], message: str
) -> None:
    before = file(model)
    with pytest.raises(PassFailed, match=message):
        Pipeline((Edit(edit),)).run(model)
    assert file(model) == before
    check_consistent(model)


# Claims ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Claims:
    """Widens nothing, and claims what it is told to."""

    claims: tuple[Claim, ...]
    name: ClassVar[str] = "claims"
    preserves: ClassVar[frozenset[str]] = frozenset()

    def run(self, model: Model, context: Context) -> PassResult:
        append(model, "Identity")
        return PassResult(changed=True, claims=self.claims)


def claim_about(model: Model, kind: Any) -> WidenedWeight:
    """That the first weight is what it was (`old`), or another thing."""
    weight = next(node for node in model.graph if node.op_type == "Gemm").inputs[1]
    assert weight is not None
    assert weight.name is not None
    assert weight.const_value is not None
    array = weight.const_value.numpy()
    rows, columns = (tuple(range(size)) for size in array.shape)
    block = Block(rows, columns, kind, rows, columns)
    return WidenedWeight(weight.name, weight.name, array, array, (block,))


def test_true_claims_are_counted(model: Model) -> None:
    claim = claim_about(model, "old")
    (record,) = Pipeline((Claims((claim, claim)),)).run(model)
    assert record.claims_checked == 2


def test_a_false_claim_rejects_the_pass(model: Model) -> None:
    before = file(model)
    claims = (claim_about(model, "old"), claim_about(model, "zero"))
    with pytest.raises(PassFailed, match=r"'claims' .* failed: in the new weight 'w_1' the zero"):
        Pipeline((Claims(claims),)).run(model)
    assert file(model) == before


def test_a_claim_is_about_the_model_not_about_what_the_pass_says(model: Model) -> None:
    """The arrays in a claim count only for a weight that is in neither model."""
    honest = claim_about(model, "old")
    lying = WidenedWeight(honest.new, honest.old, np.zeros((6, 6)), np.zeros((6, 6)), honest.blocks)
    (record,) = Pipeline((Claims((lying,)),)).run(model)
    assert record.claims_checked == 1

    def spoil(draft: Model) -> None:
        value = draft.graph.initializers[honest.new]
        value.const_value = onnx_ir.tensor(np.ones((6, 6), np.float32), name=honest.new)

    with pytest.raises(PassFailed, match="the old block"):
        Pipeline((Edit(spoil, PassResult(changed=True, claims=(honest,))),)).run(model)


# Reproducers ----------------------------------------------------------------------------------


def test_a_reproducer_fails_the_same_way(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, Explode, NegateOutput, Nothing)
    pipeline = Pipeline.parse("negate-output,explode{fuse=7},nothing", tmp_path)
    with pytest.raises(PassFailed) as first:
        pipeline.run(model)

    (folder,) = tmp_path.iterdir()
    assert re.fullmatch(r"graphopt-crash-[0-9a-f]{12}", folder.name)
    assert sorted(path.name for path in folder.iterdir()) == [
        "model.onnx", "pipeline.txt", "traceback.txt",
    ]  # fmt: skip
    assert (folder / "pipeline.txt").read_text() == "explode{fuse=7},nothing\n"
    trace = (folder / "traceback.txt").read_text()
    assert trace.startswith("Traceback")
    assert trace.endswith("ZeroDivisionError: the fuse was 7\n")
    assert str(folder / "model.onnx") in str(first.value)
    assert "--pipeline" in str(first.value)

    again = Model.load(folder / "model.onnx")
    assert fingerprint(again) == fingerprint(model)  # negate-output has run, explode has not
    with pytest.raises(PassFailed) as second:
        Pipeline.parse((folder / "pipeline.txt").read_text()).run(again)
    cause = re.compile("failed: (.*the fuse was 7)")
    assert cause.search(str(first.value))[1] == cause.search(str(second.value))[1]  # type: ignore[index]


def test_no_reproducer_without_a_folder(model: Model, tmp_path: Path) -> None:
    with pytest.raises(PassFailed) as failure:
        Pipeline((Explode(),)).run(model)
    assert "To see it again" not in str(failure.value)


def test_a_reproducer_that_cannot_be_written_does_not_hide_the_failure(
    model: Model, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(PassFailed, match=r"the fuse was 3 .*no reproducer could be written"):
        Pipeline((Explode(),), tmp_path / "file" / "folder").run(model)


# Records and evidence -------------------------------------------------------------------------


def test_records_say_what_each_pass_did(model: Model) -> None:
    rewrite = Rewrite("edit", "sign", Region("gemm_9"), Exactness.EXACT, ("because",))
    refusal = Refusal("edit", Region("gemm_3"), "it is not worth it", "not-worth-it", True)
    result = PassResult(True, (rewrite,), (refusal,), statistics={"signs": 1})
    nothing, edit = Pipeline((Nothing(), Edit(negate, result))).run(model)

    assert (nothing.name, nothing.changed, nothing.claims_checked) == ("nothing", False, 0)
    assert nothing.statistics == {"looked at": 13}
    assert (nothing.rewrites, nothing.refusals) == ((), ())
    assert (edit.name, edit.changed, edit.statistics) == ("edit", True, {"signs": 1})
    assert (edit.rewrites, edit.refusals) == ((rewrite,), (refusal,))
    assert nothing.seconds >= 0
    assert edit.seconds > 0
    assert model.evidence.rewrites == (rewrite,)
    assert model.evidence.refusals == (refusal,)


def test_refusals_of_a_pass_that_changed_nothing_are_kept(model: Model) -> None:
    refusal = Refusal("edit", Region("gemm_3"), "no", "no")
    Pipeline((Edit(lambda draft: None, PassResult(refusals=(refusal,))),)).run(model)
    assert model.evidence.refusals == (refusal,)


def test_progress_goes_through_the_passes(model: Model) -> None:
    told: list[tuple[str, float]] = []
    context = Context(progress=lambda text, share: told.append((text, share)))
    Pipeline((Nothing(), NegateOutput())).run(model, context)
    assert told == [("nothing", 0.0), ("negate-output", 0.5)]


# Analyses over a run --------------------------------------------------------------------------


def test_a_change_forgets_the_analyses_that_are_not_preserved(model: Model) -> None:
    model.analyses.get(Layers())
    assert {a.name for a in model.analyses.cached()} == {"shapes", "layers"}
    Pipeline((Edit(negate, preserves=frozenset({"layers"})),)).run(model)
    assert {a.name for a in model.analyses.cached()} == {"layers"}


def test_no_change_forgets_nothing(model: Model) -> None:
    shapes = model.analyses.get(Shapes())
    Pipeline((Nothing(),)).run(model)
    assert model.analyses.get(Shapes()) is shapes


def test_time_spent_in_analyses_within_a_pass_is_counted(model: Model) -> None:
    Pipeline((Edit(lambda draft: draft.analyses.get(Layers()), PassResult()),)).run(model)
    assert set(model.analyses.seconds) >= {"shapes", "layers"}


# Determinism and idempotence ------------------------------------------------------------------

NETWORKS = {
    "mlp": lambda: residual_mlp(3),
    "conv": lambda: residual_net(2, stride=2, norm=True),
    "relu6": lambda: residual_net(2, activation="relu6", norm=True, size=6),
}


@pytest.mark.parametrize("network", sorted(NETWORKS))
def test_the_same_model_and_pipeline_give_the_same_bytes(network: str) -> None:
    made = []
    for _ in range(2):
        model = Model.load(NETWORKS[network]())
        assert any(record.changed for record in Pipeline.parse(PLAIN).run(model))
        made.append(file(model))
    assert made[0] == made[1]


@pytest.mark.parametrize("network", sorted(NETWORKS))
@pytest.mark.parametrize("preset", sorted(plugins.presets()))
def test_every_preset_is_idempotent(preset: str, network: str, tmp_path: Path) -> None:
    pipeline = Pipeline.parse(plugins.preset(preset))
    original = Model.load(NETWORKS[network]())
    model = original.clone()
    pipeline.run(model)
    assert numeric.compare(original, model, seconds=0).status in (
        numeric.Status.EQUAL, numeric.Status.UNCHANGED,
    )  # fmt: skip
    once = save(model, tmp_path / "once.onnx")

    again = Model.load(once)
    records = pipeline.run(again)
    assert [record.name for record in records if record.changed] == []
    assert fingerprint(again) == fingerprint(model)
    twice = save(again, tmp_path / "twice.onnx")
    assert twice.read_bytes() == once.read_bytes()


def test_plain_removes_every_join_of_the_mlp() -> None:
    """So that the tests above speak of rewrites and not of doing nothing."""
    model = Model.load(residual_mlp(3))
    Pipeline.parse(PLAIN).run(model)
    assert not [node for node in model.graph if node.op_type == "Add"]
