"""What was done, what was not, and why: the record that every rewrite leaves behind.

Evidence goes to the report and into the saved model's metadata (`METADATA_KEY`), so that
`graphopt inspect` on an optimized model shows again what happened to it.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

METADATA_KEY = "graphopt.evidence"
"""Key of the ONNX `metadata_props` entry that holds the evidence as JSON."""


class Exactness(enum.Enum):
    """How close a rewrite stays to the original, strongest first."""

    BIT_EXACT = "bit-exact"
    """Integer arithmetic, or no arithmetic changed."""
    EXACT = "exact"
    """Equal over the reals; the float error is bounded by re-association."""
    EXACT_IN_RANGE = "exact-in-range"
    """Equal over the reals on a range that an analysis proved; the facts state it."""
    BOUNDED = "bounded"
    """A bound on the error is stated in the facts."""
    NEEDS_RETRAINING = "needs-retraining"
    """Not equal: the network must be trained again."""

    @property
    def is_equivalent(self) -> bool:
        """Whether the results must come out equal, but for rounding noise."""
        return self not in (Exactness.BOUNDED, Exactness.NEEDS_RETRAINING)

    def weakest(self, other: Exactness) -> Exactness:
        """The class of a rewrite made of a part of this class and a part of the other."""
        order = list(Exactness)
        return max(self, other, key=order.index)


@dataclass(frozen=True)
class Cost:
    """What a model, a layer or a region costs.

    Attributes:
        parameters: number of weight elements.
        weight_bytes: bytes of these weights as stored.
        multiply_adds: multiply-accumulate operations for one sample (batch 1).
        peak_activation_bytes: greatest sum of the bytes of live activations at batch 1, or
            None where it is not known (a region, or a tensor of unknown shape).
        latency_s: measured seconds per run, or None where nothing was measured.
        interval_cycles, lut, ff, bram18, uram, dsp, fifo_bits: of a streaming accelerator:
            cycles between frames, what it takes of the FPGA (bram18 counts half block RAMs), and
            storage of its FIFOs; None on other targets.
    """

    parameters: int = 0
    weight_bytes: int = 0
    multiply_adds: int = 0
    peak_activation_bytes: int | None = None
    latency_s: float | None = None
    interval_cycles: int | None = None
    lut: float | None = None
    ff: float | None = None
    bram18: float | None = None
    uram: float | None = None
    dsp: float | None = None
    fifo_bits: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values; what is not known is left out."""
        return {key: value for key, value in vars(self).items() if value is not None}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Cost:
        """The inverse of `to_json`.

        Raises:
            TypeError: an entry is unknown, or no number.
        """
        if not all(isinstance(value, int | float) for value in data.values()):
            raise TypeError(f"{dict(data)} is no cost")
        return cls(**data)


@dataclass(frozen=True)
class Region:
    """Where something happened: the skip or tensor it is about, and the nodes involved."""

    name: str
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rewrite:
    """One rewrite that was applied.

    Attributes:
        by: name of the pass.
        rule: the rule that it applied, in the pass's own vocabulary.
        region: where.
        exactness: how equal the result is.
        facts: what the proof relies on, one sentence each.
        before: cost of the region before, or None where it was not counted.
        after: cost of the region after.
    """

    by: str
    rule: str
    region: Region
    exactness: Exactness
    facts: tuple[str, ...] = ()
    before: Cost | None = None
    after: Cost | None = None


@dataclass(frozen=True)
class Refusal:
    """Something that was not done, and the reason.

    Attributes:
        by: name of the pass that considered it.
        region: where.
        reason: one sentence.
        code: short stable word for the kind of reason (for grouping in reports).
        by_choice: True where it could have been done exactly and was judged not worth it.
    """

    by: str
    region: Region
    reason: str
    code: str
    by_choice: bool = False


@dataclass(frozen=True)
class Evidence:
    """All rewrites a model has been through, and the refusals of the latest run."""

    rewrites: tuple[Rewrite, ...] = ()
    refusals: tuple[Refusal, ...] = ()

    def with_added(
        self, rewrites: Iterable[Rewrite] = (), refusals: Iterable[Refusal] = ()
    ) -> Evidence:
        """This evidence and more; a pass's verdict on a region replaces its earlier one there.

        It takes the earlier one's place, so judging a graph again in another order changes nothing.
        """
        done = tuple(rewrites)
        verdicts = _by_region(self.refusals)
        for rewrite in done:
            verdicts.pop((rewrite.by, rewrite.region.name), None)
        verdicts |= _by_region(refusals)
        return Evidence(self.rewrites + done, tuple(chain.from_iterable(verdicts.values())))

    def to_json(self) -> dict[str, Any]:
        """A dictionary of plain values, the same for the same evidence."""
        return {
            "rewrites": [_rewrite_to_json(r) for r in self.rewrites],
            "refusals": [_refusal_to_json(r) for r in self.refusals],
        }

    def to_text(self) -> str:
        """One line of JSON, byte-identical for equal evidence."""
        return json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_text(cls, text: str) -> Evidence:
        """Reads what `to_text` wrote.

        Raises:
            ValueError: the text is not evidence.
        """
        try:
            data = json.loads(text)
            return cls(
                tuple(_rewrite_from_json(r) for r in data["rewrites"]),
                tuple(_refusal_from_json(r) for r in data["refusals"]),
            )
        except (KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"not graphopt evidence: {error}") from error


def _by_region(refusals: Iterable[Refusal]) -> dict[tuple[str, str], list[Refusal]]:
    """In order, by pass and region: one verdict may take several."""
    found: dict[tuple[str, str], list[Refusal]] = {}
    for refusal in refusals:
        found.setdefault((refusal.by, refusal.region.name), []).append(refusal)
    return found


@dataclass(frozen=True)
class Verdict:
    """Yes or no, with the sentence that says why."""

    yes: bool
    reason: str = field(default="")

    def __bool__(self) -> bool:
        return self.yes


def _rewrite_to_json(rewrite: Rewrite) -> dict[str, Any]:
    data: dict[str, Any] = {
        "by": rewrite.by,
        "rule": rewrite.rule,
        "region": rewrite.region.name,
        "nodes": list(rewrite.region.nodes),
        "exactness": rewrite.exactness.value,
        "facts": list(rewrite.facts),
    }
    if rewrite.before is not None:
        data["before"] = rewrite.before.to_json()
    if rewrite.after is not None:
        data["after"] = rewrite.after.to_json()
    return data


def _rewrite_from_json(data: Mapping[str, Any]) -> Rewrite:
    return Rewrite(
        by=str(data["by"]),
        rule=str(data["rule"]),
        region=Region(str(data["region"]), tuple(map(str, data["nodes"]))),
        exactness=Exactness(data["exactness"]),
        facts=tuple(map(str, data["facts"])),
        before=Cost.from_json(data["before"]) if "before" in data else None,
        after=Cost.from_json(data["after"]) if "after" in data else None,
    )


def _refusal_to_json(refusal: Refusal) -> dict[str, Any]:
    return {
        "by": refusal.by,
        "region": refusal.region.name,
        "nodes": list(refusal.region.nodes),
        "reason": refusal.reason,
        "code": refusal.code,
        "by_choice": refusal.by_choice,
    }


def _refusal_from_json(data: Mapping[str, Any]) -> Refusal:
    return Refusal(
        by=str(data["by"]),
        region=Region(str(data["region"]), tuple(map(str, data["nodes"]))),
        reason=str(data["reason"]),
        code=str(data["code"]),
        by_choice=bool(data["by_choice"]),
    )
