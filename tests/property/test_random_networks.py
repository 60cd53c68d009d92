"""Random residual networks: optimized, they compute the same, and every join has a fate."""

from __future__ import annotations

import onnx
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.ir import Model, fingerprint
from graphopt.optimizer import Fate, Outcome, optimize
from graphopt.verify.numeric import Status
from tests.support.blocks import Net, skip

ACTS = st.sampled_from(["Relu", "relu6", "leaky", "prelu", "none", "Sigmoid"])


@st.composite
def networks(draw: st.DrawFn) -> onnx.ModelProto:
    """Up to four residual blocks of drawn kinds, channels, kernels, strides and shortcuts."""
    net = Net(seed=draw(st.integers(0, 2**16)))
    channels = draw(st.sampled_from([2, 4]))
    x = net.act(net.conv("x", 3, channels, 3), draw(ACTS), channels)
    for _ in range(draw(st.integers(1, 4))):
        act, after, norm = draw(ACTS), draw(ACTS), draw(st.booleans())
        shortcut = draw(
            st.sampled_from(["identity", "identity", "projection", "option-a", "average"])
        )
        stride = 1 if shortcut == "identity" else draw(st.sampled_from([1, 2]))
        if shortcut == "average":
            stride = 2
        out = (
            channels if shortcut in ("identity", "average") else channels * draw(st.integers(1, 2))
        )
        k = draw(st.sampled_from([1, 3, 5]))
        group = draw(st.sampled_from([1, 1, 2]))
        h = net.conv(x, channels, out, k, stride=stride, bias=not norm)
        h = net.act(net.norm(h, out) if norm else h, act, out)
        if draw(st.booleans()):
            h = net.act(net.conv(h, out, out, 3, group=out), act, out)
        h = net.conv(h, out, out, 3, group=group)
        s = skip(net, x, channels, out, stride, shortcut, norm)
        sides = (h, s) if draw(st.booleans()) else (s, h)
        x, channels = net.act(net.op("Add", *sides), after, out), out
    size = draw(st.sampled_from([(8, 8), (16, 12)]))
    return net.model(net.conv(x, channels, 2, 1), (draw(st.sampled_from(["N", 2])), 3, *size))


def _is_sound(outcome: Outcome) -> None:
    assert outcome.verification is not None
    assert outcome.verification.status in (Status.EQUAL, Status.UNCHANGED)
    assert all(one.reason for one in outcome.fates)
    left = {n.name for n in outcome.model.graph if n.op_type == "Add"}
    kept = {one.skip.name for one in outcome.fates if one.fate is not Fate.REMOVED}
    assert left == kept
    onnx.checker.check_model(outcome.model.to_proto(), full_check=True)


@given(networks())
@settings(max_examples=60)
def test_plain_is_equivalent_and_idempotent(proto: onnx.ModelProto) -> None:
    outcome = optimize(proto, preset="plain")
    _is_sound(outcome)
    again = optimize(outcome.model, preset="plain")
    assert not again.changed
    assert fingerprint(again.model) == fingerprint(outcome.model)
    assert again.model.evidence == outcome.model.evidence
    first, second = (
        one.model.to_proto().SerializeToString(deterministic=True) for one in (outcome, again)
    )
    assert first == second


@given(networks())
@settings(max_examples=25)
def test_default_is_equivalent_and_never_costs_more(proto: onnx.ModelProto) -> None:
    outcome = optimize(proto)
    _is_sound(outcome)
    assert outcome.after.total.multiply_adds <= outcome.before.total.multiply_adds


@given(networks())
@settings(max_examples=10)
def test_deterministic(proto: onnx.ModelProto) -> None:
    saved = {
        optimize(proto, preset="plain", verify=False).model.to_proto().SerializeToString()
        for _ in range(2)
    }
    assert len(saved) == 1


@given(networks())
@settings(max_examples=10)
def test_the_original_is_never_touched(proto: onnx.ModelProto) -> None:
    model = Model.load(proto)
    before = model.to_proto().SerializeToString(deterministic=True)
    optimize(model, preset="plain", verify=False)
    assert model.to_proto().SerializeToString(deterministic=True) == before
