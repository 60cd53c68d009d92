"""ONNX Runtime on this machine, measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from graphopt.cost import PlainCounts
from graphopt.evidence import Cost
from graphopt.ir.model import Model
from graphopt.verify import inputs, runtime


@dataclass(frozen=True)
class CpuEstimate:
    """A model on the CPU.

    Attributes:
        cost: the plain counts.
        latency_s: seconds for one run on an ordinary input, the median of repeats.
        threads: of ONNX Runtime; 0: its own choice.
    """

    cost: Cost
    latency_s: float
    threads: int

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "latency_s": self.latency_s,
            "runs_per_second": 1 / self.latency_s,
            "threads": self.threads,
            **self.cost.to_json(),
        }


def measure(model: Model, *, seconds: float = 1.0, threads: int = 0) -> CpuEstimate:
    """Runs a model on one ordinary input until `seconds` are over.

    Raises:
        GraphoptError: ONNX Runtime cannot run it.
    """
    feeds = inputs.first(model).feeds
    latency = runtime.latency(model, feeds, seconds=seconds, threads=threads)
    return CpuEstimate(PlainCounts().estimate(model, "cpu").total, latency, threads)
