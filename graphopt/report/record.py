"""The result of a run as plain values, for `--json` and `--report`."""

from __future__ import annotations

from typing import Any

from graphopt.cost import Estimate
from graphopt.ir.fingerprint import fingerprint
from graphopt.ir.model import Model
from graphopt.optimizer import Outcome, SkipFate
from graphopt.pipeline.manager import PassRecord
from graphopt.verify.numeric import Verification


def model_record(model: Model) -> dict[str, Any]:
    """What identifies a model."""
    return {
        "path": str(model.origin.path) if model.origin.path else None,
        "fingerprint": fingerprint(model),
        "ir_version": model.ir.ir_version,
        "opset_imports": dict(sorted(model.ir.opset_imports.items())),
        "nodes": model.graph.num_nodes(),
    }


def estimate_record(estimate: Estimate, *, layers: bool = False) -> dict[str, Any]:
    """A cost; with `layers`, per layer too."""
    record: dict[str, Any] = {"target": estimate.target, **estimate.total.to_json()}
    if layers:
        record["layers"] = [
            {"name": layer.name, "kind": layer.kind.value, **layer.cost.to_json()}
            for layer in estimate.layers
        ]
    return record


def verification_record(verification: Verification | None) -> dict[str, Any] | None:
    """How equivalence was checked."""
    if verification is None:
        return None
    return {
        "status": verification.status.value,
        "reason": verification.reason,
        "inputs": list(verification.cases),
        "tensors": [dict(vars(error)) for error in verification.errors],
    }


def outcome_record(outcome: Outcome) -> dict[str, Any]:
    """Everything of an optimization that a program may want."""
    return {
        "input": model_record(outcome.original),
        "output": model_record(outcome.model),
        "target": outcome.target,
        "pipeline": outcome.pipeline,
        "skips": [_fate(one) for one in outcome.fates],
        "before": estimate_record(outcome.before),
        "after": estimate_record(outcome.after),
        "passes": [_pass(record) for record in outcome.records],
        "verification": verification_record(outcome.verification),
        "evidence": outcome.model.evidence.to_json(),
    }


def _fate(one: SkipFate) -> dict[str, Any]:
    record = {**one.skip.to_json(), "fate": one.fate.value, "reason": one.reason}
    if one.rewrite is not None:
        record["exactness"] = one.rewrite.exactness.value
        record["facts"] = list(one.rewrite.facts)
    return record


def _pass(record: PassRecord) -> dict[str, Any]:
    return {
        "name": record.name,
        "changed": record.changed,
        "seconds": round(record.seconds, 6),
        "rewrites": len(record.rewrites),
        "refusals": len(record.refusals),
        "claims_checked": record.claims_checked,
        "statistics": dict(record.statistics),
    }
