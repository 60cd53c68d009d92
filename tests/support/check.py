"""Optimizes a model and proves the result, for tests."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort

from graphopt.ir import Model
from graphopt.optimizer import Fate, Outcome, optimize
from graphopt.verify.numeric import Status

RM = "fold-norm,reserve-merge{when=possible},dce"


def removed(proto: onnx.ModelProto, pipeline: str = RM) -> Outcome:
    """Optimizes, and asserts that every additive join is gone and the outputs are equal."""
    outcome = optimize(proto, pipeline=pipeline)
    reasons = {one.skip.name: one.reason for one in outcome.fates if one.fate is not Fate.REMOVED}
    assert not reasons
    assert outcome.fates
    assert not [n for n in outcome.model.graph if n.op_type in ("Add", "Sum")]
    equal(outcome)
    return outcome


def refused(proto: onnx.ModelProto, code: str, pipeline: str = RM) -> str:
    """Optimizes, asserts that the one join stays for this reason, and returns the sentence."""
    outcome = optimize(proto, pipeline=pipeline)
    codes = [r.code for one in outcome.fates for r in one.refusals if r.by == "reserve-merge"]
    assert codes == [code]
    assert any(n.op_type in ("Add", "Sum", "Mul", "Concat") for n in outcome.model.graph)
    return outcome.fates[0].reason


def equal(outcome: Outcome) -> None:
    """The two models agree, by graphopt's own check and by one that shares nothing with it."""
    assert outcome.verification is not None
    assert outcome.verification.status is Status.EQUAL, outcome.verification.reason
    before, after = (run(m) for m in (outcome.original, outcome.model))
    for old, new in zip(before, after, strict=True):
        scale = max(1e-3, float(np.abs(old).max()))
        limit = 2e-2 if old.dtype == np.float16 else 2e-5
        assert float(np.abs(old - new).max()) <= limit * scale


def run(model: Model, seed: int = 5) -> list[np.ndarray]:
    """Outputs on inputs with negatives and values above 6."""
    proto = model.to_proto()
    onnx.checker.check_model(proto, full_check=True)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(seed)
    feeds = {}
    for value in session.get_inputs():
        shape = [
            d if isinstance(d, int) else 3 if i == 0 else 11 for i, d in enumerate(value.shape)
        ]
        dtype = np.float16 if "16" in value.type else np.float32
        feeds[value.name] = (rng.standard_normal(shape) * 4).astype(dtype)
    return [np.asarray(a) for a in session.run(None, feeds)]
