"""Who holds memory at the worst moment, and how much of it waits in skips."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from graphopt.ir.model import Model
from passes.lifetime import Life, Lifetime
from passes.skip_detection import Skips


@dataclass(frozen=True)
class MemoryReport:
    """What `graphopt inspect` says of the memory of a model, for one sample.

    Attributes:
        peak_bytes: the most bytes of activations that are live at once.
        peak_at: label of the node that runs then; None for a model without nodes.
        live: what is live then, the largest first.
        share_held_by_skips: see `LifetimeTable.share_held_by`.
        unknown_sizes: tensors of unknown size, which are not counted.
    """

    peak_bytes: int
    peak_at: str | None
    live: tuple[Life, ...]
    share_held_by_skips: float
    unknown_sizes: int

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "peak_bytes": self.peak_bytes,
            "peak_at": self.peak_at,
            "live_at_peak": [
                {"tensor": life.tensor, "bytes": life.bytes, "born": life.born, "dies": life.dies}
                for life in self.live
            ],
            "share_held_by_skips": self.share_held_by_skips,
            "unknown_sizes": self.unknown_sizes,
        }


@dataclass(frozen=True)
class Memory:
    """Analysis: the `MemoryReport` of a model."""

    name: ClassVar[str] = "memory"

    def run(self, model: Model) -> MemoryReport:
        """Reads it off the lifetimes."""
        table = model.analyses.get(Lifetime())
        step = table.peak_step
        return MemoryReport(
            table.peak_bytes,
            table.schedule[step] if step >= 0 else None,
            table.live_at(step) if step >= 0 else (),
            table.share_held_by(model.analyses.get(Skips())),
            len(table.unknown),
        )
