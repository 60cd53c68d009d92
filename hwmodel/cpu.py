"""ONNX Runtime on this machine, measured."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphopt.cost import PlainCounts
from graphopt.evidence import Cost
from graphopt.ir.io import needs_data_file
from graphopt.ir.model import Model, Origin
from graphopt.verify import inputs, runtime


@dataclass(frozen=True)
class NodeTime:
    """Where the time goes.

    Attributes:
        name: of the node, as ONNX Runtime has it after its own fusions.
        operator: its type.
        share: of the time of all nodes.
    """

    name: str
    operator: str
    share: float


@dataclass(frozen=True)
class CpuEstimate:
    """A model on the CPU.

    Attributes:
        cost: the plain counts.
        latency_s: seconds for one run on an ordinary input, the median of repeats.
        threads: of ONNX Runtime; 0: its own choice.
        nodes: shares of the time, the largest first; none where it was not profiled.
    """

    cost: Cost
    latency_s: float
    threads: int
    nodes: tuple[NodeTime, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        shares = {"nodes": [vars(node) for node in self.nodes]} if self.nodes else {}
        return {
            "latency_s": self.latency_s,
            "runs_per_second": 1 / self.latency_s,
            "threads": self.threads,
            **self.cost.to_json(),
            **shares,
        }


def measure(
    model: Model, *, seconds: float = 1.0, threads: int = 0, profile: bool = False
) -> CpuEstimate:
    """Runs a model on one ordinary input until `seconds` are over.

    Args:
        model: what to measure.
        seconds: how long, after one run to warm up; at least five runs are made.
        threads: of ONNX Runtime; 0: its own choice.
        profile: run it a few times more to see how the time is shared among the nodes. Models
            whose weights need a file of their own (2 GiB and more) are not profiled.

    Raises:
        GraphoptError: ONNX Runtime cannot run it.
    """
    feeds = inputs.first(model).feeds
    latency = runtime.latency(model, feeds, seconds=seconds, threads=threads)
    nodes = _profile(model, feeds, threads) if profile else ()
    return CpuEstimate(PlainCounts().estimate(model, "cpu").total, latency, threads, nodes)


_PROFILED_RUNS = 5


def _profile(model: Model, feeds: Mapping[str, Any], threads: int) -> tuple[NodeTime, ...]:
    """Shares by ONNX Runtime's own profile; the first run, which warms up, is not counted."""
    import onnxruntime as ort

    copy = model.clone()
    copy.origin = Origin("proto", copy.origin.label)
    if needs_data_file(copy):
        return ()
    with tempfile.TemporaryDirectory(prefix="graphopt-") as folder:
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = threads
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "run")
        session = ort.InferenceSession(
            copy.to_proto().SerializeToString(), options, ["CPUExecutionProvider"]
        )
        for _ in range(1 + _PROFILED_RUNS):
            session.run(None, dict(feeds))
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    spent: dict[tuple[str, str], list[int]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            node = event["name"].removesuffix("_kernel_time"), event["args"]["op_name"]
            spent.setdefault(node, []).append(int(event["dur"]))
    counted = {node: sum(times[1:]) for node, times in spent.items()}
    whole = max(1, sum(counted.values()))
    shares = [NodeTime(*node, time / whole) for node, time in counted.items()]
    return tuple(sorted(shares, key=lambda node: node.share, reverse=True))
