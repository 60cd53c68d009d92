"""Whole networks, shrunk: every join is rewritten or refused with the reason that belongs there."""

from __future__ import annotations

from collections import Counter
from io import BytesIO

import pytest

torch = pytest.importorskip("torch")

from examples.networks import NETWORKS, export, input_shape, lively  # noqa: E402
from graphopt.optimizer import Fate, Outcome, optimize  # noqa: E402
from graphopt.verify.numeric import Status  # noqa: E402


def optimized(name: str, pipeline: str | None = None, **more: int) -> Outcome:
    module = lively(NETWORKS[name](width=0.125, **more).eval(), shape=(2, 3, 64, 64))
    buffer = BytesIO()
    export(module, input_shape(module, 64), buffer)
    outcome = optimize(buffer.getvalue(), preset="plain", pipeline=pipeline)
    assert outcome.verification is not None
    assert outcome.verification.status in (Status.EQUAL, Status.UNCHANGED)
    return outcome


def verdicts(outcome: Outcome) -> dict[str, int]:
    """How many joins were removed, and how many stay for which reason; products left out."""
    joins = [one for one in outcome.fates if one.skip.operator != "Mul"]
    return dict(
        Counter("removed" if one.fate is Fate.REMOVED else one.refusals[-1].code for one in joins)
    )


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("resnet18", {"removed": 8}),
        ("resnet34", {"removed": 16}),
        ("resnet50", {"removed": 16}),
        ("preact_resnet18", {"removed": 8}),  # a max pool makes the first fork: a layer copies it
        ("mobilenet_v2", {"removed": 11}),
        ("mobilenet_v3_large", {"removed": 11}),
        ("efficientnet_b0", {"removed": 11}),
        ("repvgg_a0", {"removed": 39}),
        ("densenet121", {"concat-join": 58}),
        ("unet", {"concat-join": 4}),
        ("convnext_tiny", {"norm-in-branch": 5, "shuffle-in-branch": 13}),
        # one skip around attention and one around the perceptron in each layer
        ("bert_encoder", {"attention-in-branch": 12, "removed": 12}),
        ("bert_encoder_prenorm", {"attention-in-branch": 12, "norm-in-branch": 12}),
    ],
)
def test_every_join_has_its_fate(name: str, told: dict[str, int]) -> None:
    outcome = optimized(name)
    assert verdicts(outcome) == told
    adds = sum(node.op_type == "Add" for node in outcome.model.graph)
    assert adds == 0 or set(told) != {"removed"}


def test_concatenations_on_request() -> None:
    """A dense block in small, its concatenations carried in the convolutions themselves."""
    pipeline = "fold-constants,fold-norm,reserve-merge{when=possible,concat=true},fold-norm,dce"
    outcome = optimized("densenet121", pipeline)
    assert verdicts(outcome) == {"removed": 58}
    assert not [node for node in outcome.model.graph if node.op_type == "Concat"]
    assert outcome.after.total.multiply_adds > outcome.before.total.multiply_adds


@pytest.mark.parametrize(
    ("form", "ratio"), [("grouped", 85 / 17), ("dense", 265 / 17)], ids=["grouped", "dense"]
)
def test_a_bottleneck_grows_as_the_paper_says(form: str, ratio: float) -> None:
    """4C-C-C-4C: 17 C^2 weights become 265 C^2, or 85 C^2 where the identity is grouped."""
    pipeline = f"fold-norm,reserve-merge{{when=possible,form={form}}},dce"
    outcome = optimized("resnet50", pipeline)
    blocks = [one.rewrite for one in outcome.fates if one.skip.kind.value == "identity"]
    assert len(blocks) == 12
    for rewrite in blocks:
        assert rewrite is not None
        assert rewrite.before is not None
        assert rewrite.after is not None
        grown = rewrite.after.multiply_adds / rewrite.before.multiply_adds
        assert grown == pytest.approx(ratio, rel=1e-9)


def test_a_basic_block_doubles() -> None:
    outcome = optimized("resnet18")
    for one in outcome.fates:
        assert one.rewrite is not None
        assert one.rewrite.before is not None
        assert one.rewrite.after is not None
        before, after = one.rewrite.before, one.rewrite.after
        told = 2.0 if one.skip.kind.value == "identity" else 81 / 56
        assert after.multiply_adds / before.multiply_adds == pytest.approx(told, rel=1e-9)
