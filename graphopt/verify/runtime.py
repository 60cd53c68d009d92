"""Running a model, for verification and for measured latency. ONNX Runtime is imported here only
when something runs.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import onnx
import onnx.inliner
import onnx_ir

from graphopt.errors import GraphoptError
from graphopt.ir.io import needs_data_file, save
from graphopt.ir.model import Model, Origin

Array = npt.NDArray[Any]
Feeds = Mapping[str, Array]

MAX_OPSET, MAX_IR_VERSION = 26, 13
"""What ONNX Runtime 1.31 reads."""


class CannotRun(GraphoptError):
    """No runtime on this machine executes the model; the message says what is missing."""


class Runner(Protocol):
    """Something that executes a model."""

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """Outputs by name."""
        ...


class OrtRunner:
    """A model in ONNX Runtime on the CPU.

    Args:
        model: what to run.
        extra_outputs: names of inner tensors to give out as well.
        optimize: let ONNX Runtime optimize the graph (for latency); verification runs what is
            written, so that its own rewrites do not blur the comparison.
        threads: intra-operator threads; 0 leaves it to ONNX Runtime.

    Raises:
        CannotRun: ONNX Runtime does not take the model.
    """

    def __init__(
        self,
        model: Model,
        extra_outputs: Sequence[str] = (),
        *,
        optimize: bool = False,
        threads: int = 0,
    ) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = threads
        level = ort.GraphOptimizationLevel
        options.graph_optimization_level = (
            level.ORT_ENABLE_ALL if optimize else level.ORT_DISABLE_ALL
        )
        try:
            self._session = self._open(ort, options, model, extra_outputs)
        except Exception as error:
            text = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
            raise CannotRun(f"ONNX Runtime does not take the model: {text}") from error
        self._names = [output.name for output in self._session.get_outputs()]

    @staticmethod
    def _open(ort: Any, options: Any, model: Model, extra_outputs: Sequence[str]) -> Any:
        copy = model.clone()
        index = copy.value_index()
        present = {value.name for value in copy.graph.outputs}
        copy.graph.outputs.extend(
            index[name] for name in extra_outputs if name in index and name not in present
        )
        providers = ["CPUExecutionProvider"]
        copy.origin = Origin("proto", copy.origin.label)
        if not needs_data_file(copy):
            return ort.InferenceSession(copy.to_proto().SerializeToString(), options, providers)
        with tempfile.TemporaryDirectory(prefix="graphopt-") as folder:
            path = save(copy, Path(folder) / "model.onnx")
            return ort.InferenceSession(str(path), options, providers)

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """Outputs by name, the extra ones included.

        Raises:
            CannotRun: the run fails, for example because a size is not possible.
        """
        try:
            results = self._session.run(None, dict(feeds))
        except Exception as error:
            text = str(error).strip().splitlines()[0]
            raise CannotRun(f"ONNX Runtime cannot run the model on this input: {text}") from error
        return {
            name: np.asarray(result)
            for name, result in zip(self._names, results, strict=True)
            if isinstance(result, np.ndarray | np.generic)
        }


class ReferenceRunner:
    """A model in ONNX's reference evaluator, with the QONNX operators of `graphopt.interop.qonnx`.

    Slow; for graphs with operators that ONNX Runtime does not know.

    Raises:
        CannotRun: an operator has no implementation here.
    """

    def __init__(self, model: Model, extra_outputs: Sequence[str] = ()) -> None:
        from onnx.reference import ReferenceEvaluator

        from graphopt.interop.qonnx import declare_domains, reference_operators

        copy = model.clone()
        onnx_ir.external_data.load_to_model(copy.ir)
        proto = copy.to_proto()
        declare_domains(proto)
        if proto.functions:
            # The evaluator knows neither overloads nor foreign operators in a function's body.
            proto = onnx.inliner.inline_local_functions(proto)
        present = {output.name for output in proto.graph.output}
        proto.graph.output.extend(
            onnx.helper.make_value_info(name, onnx.TypeProto())
            for name in extra_outputs
            if name not in present
        )
        try:
            self._evaluator = ReferenceEvaluator(proto, new_ops=reference_operators(proto))
        except Exception as error:
            text = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
            raise CannotRun(f"the reference evaluator does not take the model: {text}") from error
        self._names = [output.name for output in proto.graph.output]

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """Outputs by name; see `OrtRunner.run`."""
        try:
            results = self._evaluator.run(None, dict(feeds))
        except Exception as error:
            text = (str(error).strip() or repr(error)).splitlines()[0]
            raise CannotRun(f"the reference evaluator cannot run the model: {text}") from error
        return {
            name: np.asarray(result)
            for name, result in zip(self._names, results, strict=True)
            if isinstance(result, np.ndarray | np.generic)
        }


def runner(model: Model, extra_outputs: Sequence[str] = ()) -> Runner:
    """ONNX Runtime if it takes the model, else the reference evaluator.

    Raises:
        CannotRun: neither does; the message is ONNX Runtime's.
    """
    try:
        return OrtRunner(model, extra_outputs)
    except CannotRun as refused:
        try:
            return ReferenceRunner(model, extra_outputs)
        except CannotRun:
            raise refused from None


def latency(model: Model, feeds: Feeds, *, seconds: float = 1.0, threads: int = 0) -> float:
    """Median seconds per run in ONNX Runtime with its optimizations on.

    Args:
        model: what to measure.
        feeds: the input of every run.
        seconds: how long to measure, after one run to warm up; at least five runs are made.
        threads: intra-operator threads; 0 leaves it to ONNX Runtime.

    Raises:
        CannotRun: ONNX Runtime does not take the model or the input.
    """
    session = OrtRunner(model, optimize=True, threads=threads)
    session.run(feeds)
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 5 or (time.perf_counter() < end and len(times) < 10_000):
        start = time.perf_counter()
        session.run(feeds)
        times.append(time.perf_counter() - start)
    return float(np.median(times))
