"""MobileNetV2 to MobileNetV1: the same layers, the same outputs, and only where it pays."""

from __future__ import annotations

from io import BytesIO

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from examples.networks import NETWORKS, export, lively  # noqa: E402
from graphopt.ir import Model  # noqa: E402
from graphopt.optimizer import Fate, Outcome, optimize  # noqa: E402
from graphopt.verify.numeric import Status  # noqa: E402
from training_hooks.architectures import (  # noqa: E402
    mobilenet_v1_cifar,
    mobilenet_v2_cifar,
    repvgg_cifar,
)

Layer = tuple[int, int, int, int]


def exported(module: nn.Module, size: int = 32) -> bytes:
    buffer = BytesIO()
    export(lively(module.eval(), shape=(2, 3, size, size)), (1, 3, size, size), buffer)
    return buffer.getvalue()


def converted(module: nn.Module, when: str, size: int = 32) -> Outcome:
    pipeline = f"fold-constants,fold-norm,mobilenet-v1{{when={when}}},dce"
    outcome = optimize(exported(module, size), pipeline=pipeline)
    assert outcome.verification is not None
    assert outcome.verification.status in (Status.EQUAL, Status.UNCHANGED)
    return outcome


def convolutions(model: Model) -> list[Layer]:
    """Inputs, outputs, kernel size and groups of each, in order."""
    layers = []
    for node in model.graph:
        if node.op_type == "Conv":
            outputs, inputs, kernel, _ = node.inputs[1].shape
            groups = node.attributes.get_int("group", 1)
            layers.append((inputs * groups, outputs, kernel, groups))
    return layers


@pytest.mark.parametrize("free", [1, 3])
def test_the_redesigned_network_becomes_mobilenet_v1_layer_for_layer(free: int) -> None:
    outcome = converted(mobilenet_v2_cifar(free=free), "possible")
    assert [one.fate for one in outcome.fates] == [Fate.REMOVED] * 8
    v1 = optimize(exported(mobilenet_v1_cifar()), preset="clean", verify=False).model
    assert convolutions(outcome.model) == convolutions(v1)
    stem, *layers = convolutions(outcome.model)
    assert stem == (3, 32, 3, 1)
    for depthwise, pointwise in zip(layers[::2], layers[1::2], strict=True):
        assert depthwise[0] == depthwise[1] == depthwise[3]
        assert pointwise[2:] == (1, 1)
    kinds = {node.op_type for node in outcome.model.graph}
    assert kinds == {"Conv", "Clip", "Constant", "GlobalAveragePool", "Flatten", "Gemm"}
    assert outcome.after.total.multiply_adds == 46_446_592


@pytest.mark.parametrize(
    ("free", "before", "fate"), [(1, 24.2, Fate.KEPT), (3, 68.3, Fate.REMOVED)]
)
def test_the_whole_is_judged(free: int, before: float, fate: Fate) -> None:
    outcome = converted(mobilenet_v2_cifar(free=free), "worth")
    assert outcome.before.total.multiply_adds / 1e6 == pytest.approx(before, abs=0.05)
    assert [one.fate for one in outcome.fates] == [fate] * 8
    assert (outcome.after.total.multiply_adds == 46_446_592) == (fate is Fate.REMOVED)
    if fate is Fate.KEPT:
        assert "would go from 24.2 M to 46.4 M" in outcome.fates[0].reason


def test_mobilenet_v2_as_published_is_left_alone() -> None:
    data = exported(NETWORKS["mobilenet_v2"](), 224)
    outcome = optimize(data, verify=False)
    assert [one.fate for one in outcome.fates] == [Fate.KEPT] * 10
    assert outcome.after.total.multiply_adds == outcome.before.total.multiply_adds == 300_774_272
    pipeline = "fold-constants,fold-norm,mobilenet-v1{when=possible},dce"
    forced = optimize(data, pipeline=pipeline, verify=False)
    assert forced.after.total.multiply_adds == 848_285_376


def test_other_blocks_are_passed_over() -> None:
    outcome = converted(NETWORKS["resnet18"](width=0.125), "possible", 64)
    (record,) = [one for one in outcome.records if one.name == "mobilenet-v1"]
    assert not record.changed
    assert not record.refusals


def test_twice_changes_nothing_more() -> None:
    first = converted(mobilenet_v2_cifar(free=3), "worth")
    again = optimize(first.model, pipeline="mobilenet-v1,dce", verify=False)
    assert not again.changed


def test_repvgg_with_a_reserving_ratio_is_nothing_but_convolutions_and_relu() -> None:
    outcome = optimize(exported(repvgg_cifar(width=8)), preset="plain-concat")
    assert outcome.verification is not None
    assert outcome.verification.status is Status.EQUAL
    assert {one.fate for one in outcome.fates} == {Fate.REMOVED}
    assert {one.skip.operator for one in outcome.fates} == {"Add", "Concat"}
    kinds = {node.op_type for node in outcome.model.graph}
    assert kinds == {"Conv", "Relu", "GlobalAveragePool", "Flatten", "Gemm"}
