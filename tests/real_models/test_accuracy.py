"""Networks that others trained: no join left, the same answers on all of CIFAR-10's test images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from graphopt.optimizer import optimize
from graphopt.verify.numeric import Status
from tests.support.cifar import CIFAR, IMAGENET, load_test_set, normalised, predictions

pytestmark = pytest.mark.real_models


@pytest.mark.parametrize(
    ("name", "joins", "correct", "statistics"),
    [
        ("resnet20_torch213_opset13", 9, 9169, IMAGENET),
        ("resnet32_torch213_opset13", 15, 9260, IMAGENET),
        ("mlperf_resnet8_tf2onnx", 3, 8722, None),
        ("mlperf_resnet8_fp32_kai", 3, 8722, None),
        ("cidr_resnet8_fp32", 3, 8687, IMAGENET),
        ("vnncomp21_resnet_2b", 2, 6923, CIFAR),
    ],
)
def test_plain_network_answers_the_same(
    shared: Path,
    name: str,
    joins: int,
    correct: int,
    statistics: tuple[tuple[float, ...], ...] | None,
) -> None:
    outcome = optimize(shared / f"data/models/cifar10/{name}.onnx", preset="plain")
    assert outcome.verification is not None
    assert outcome.verification.status is Status.EQUAL
    assert len(outcome.fates) == joins
    assert [one.fate.value for one in outcome.fates] == ["removed"] * joins
    raw, labels = load_test_set(shared)
    images = normalised(raw, statistics)
    before, after = (predictions(m, images) for m in (outcome.original, outcome.model))
    assert int((before == labels).sum()) == correct
    assert np.array_equal(before, after)


@pytest.mark.parametrize(
    ("name", "fates", "correct", "statistics"),
    [
        ("mlperf_resnet8_int8_qdq_K1", ["removed", "refused", "refused"], 8700, None),
        ("cidr_resnet8_int8_qlinear", ["removed", "refused", "refused"], 8673, IMAGENET),
    ],
)
def test_integer_network_answers_the_same(
    shared: Path,
    name: str,
    fates: list[str],
    correct: int,
    statistics: tuple[tuple[float, ...], ...] | None,
) -> None:
    """The identity goes; around a projection's zero point nothing exact can be done."""
    outcome = optimize(shared / f"data/models/cifar10/{name}.onnx", preset="plain")
    assert [one.fate.value for one in outcome.fates] == fates
    assert [one.refusals[-1].code for one in outcome.fates[1:]] == ["zero-point"] * 2
    raw, labels = load_test_set(shared)
    images = normalised(raw, statistics)
    before, after = (predictions(m, images) for m in (outcome.original, outcome.model))
    assert int((before == labels).sum()) == correct
    # QDQ says floats; ONNX Runtime fuses them to integers, and rounds a few sums otherwise.
    assert int((before != after).sum()) <= (10 if "qdq" in name else 0)


def test_every_join_of_an_integer_mobilenet(shared: Path) -> None:
    outcome = optimize(shared / "data/models/imagenet/mobilenetv2-12-int8.onnx", preset="plain")
    assert [one.fate.value for one in outcome.fates] == ["removed"] * 10
    assert outcome.verification is not None
    assert outcome.verification.status is Status.EQUAL
    assert max(error.absolute for error in outcome.verification.errors) == 0
