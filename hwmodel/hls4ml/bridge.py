"""hls4ml itself, in an environment of its own: convert, compile the C++, run it, and compare.

hls4ml brings the headers that its C++ needs (ac_types, under the names of ap_types), so a C++
compiler is enough; no tool of Xilinx is asked for. The network is first written as hls4ml converts
it to the bit (`lowering`), converted with `io_stream` and the precision that hls4ml infers
("auto") for every layer, and given our FIFO depths.

What the C simulation shows, and what not: an `hls::stream` there is a queue without an end, so FIFO
depths stand in the pragmas of the C++ and change nothing of what is computed. Whether a depth is
enough is for `hwmodel.simulate`, or a co-simulation.

The results are compared with the network as it was given, in ONNX Runtime, or, for QONNX, in ONNX's
reference evaluator with the operators of `graphopt.interop.qonnx`, in float32.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from graphopt.errors import GraphoptError, ModelError
from graphopt.ir import Model, write_whole
from graphopt.ir.quant import Quantization
from graphopt.ir.shapes import Shapes
from graphopt.verify.runtime import runner
from hwmodel import hls4ml
from hwmodel.hls4ml.fixed_point import FixedPoint
from hwmodel.hls4ml.lowering import is_channels_last, lowered, without_defaults

Array = npt.NDArray[Any]
Depths = Literal["default", "ours"]

HLS4ML = "1.3.0"
"""The version that this was measured with."""
CONSTANT_BITS = 24
EXTRA_BITS = 8
"""Bits of the input's type behind the step of the quantizer that reads it."""


class Hls4mlError(GraphoptError):
    """hls4ml is not there, or could not be run."""


@dataclass(frozen=True)
class Converted:
    """What hls4ml made of a network.

    Attributes:
        project: the folder with the project that hls4ml wrote.
        step: where it ended: "lower" (ours), "read", "convert", "write", "compile", "run", "done".
        reason: why it ended there, in one sentence; empty where it came to the end.
        layers: name and class of each of hls4ml's layers, in order.
        default_bits: of all FIFOs with the depths that hls4ml gives.
        bits: of all FIFOs with the depths that stand in the project.
        depths: words of each FIFO in the project, by hls4ml's name of the stream.
        unsized: why our depths are not in the project; empty where they are, or were not wanted.
        seconds: that each step took.
    """

    project: Path
    step: str
    reason: str = ""
    layers: tuple[tuple[str, str], ...] = ()
    default_bits: int = 0
    bits: int = 0
    depths: Mapping[str, int] = field(default_factory=dict)
    unsized: str = ""
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def accepted(self) -> bool:
        """Whether it came to the end."""
        return not self.reason


@dataclass(frozen=True)
class Comparison:
    """hls4ml's C++ beside the network, on the same samples.

    Attributes:
        samples: how many.
        largest: greatest absolute difference of an output.
        mean: of the absolute differences.
        span: greatest absolute output of the network.
        differing: share of the outputs that differ by more than a millionth of `span`.
        agreement: share of the places (samples, or pixels of a map) at which the same channel is
            greatest.
    """

    samples: int
    largest: float
    mean: float
    span: float
    differing: float
    agreement: float


@dataclass(frozen=True)
class Simulated:
    """A conversion, and what its C++ computes; without a comparison where that could not be run."""

    converted: Converted
    comparison: Comparison | None = None


def environment() -> Path | None:
    """The folder of hls4ml's environment, where it is one of its own: $GRAPHOPT_HLS4ML, or else the
    user's data folder. None where the running interpreter has hls4ml, and no folder is named.
    """
    given = os.environ.get("GRAPHOPT_HLS4ML")
    if given:
        return Path(given)
    if importlib.util.find_spec("hls4ml") and importlib.util.find_spec("qonnx"):
        return None
    home = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(home) / "graphopt" / "hls4ml"


def interpreter() -> Path:
    """The Python that runs hls4ml.

    Raises:
        Hls4mlError: there is none.
    """
    folder = environment()
    if folder is None:
        return Path(sys.executable)
    python = folder / "bin" / "python"
    if not python.is_file():
        raise Hls4mlError(
            f"hls4ml is not set up in {folder}: make it with `python -m venv {folder}` and "
            f"`{python} -m pip install hls4ml=={HLS4ML} qonnx`, or name another folder in "
            "$GRAPHOPT_HLS4ML."
        )
    return python


def convert(
    model: Path,
    folder: Path,
    *,
    depths: Depths = "ours",
    backend: str = "Vitis",
    reuse: int = 1,
    precision: str = "fixed<16,6>",
    limit: float = 600.0,
) -> Converted:
    """Converts a network and writes hls4ml's project, `folder`/project.

    Args:
        model: an ONNX file, float or QONNX.
        folder: takes the project and what goes to and fro.
        depths: of the FIFOs: hls4ml's, or the smallest that `hwmodel.hls4ml.sized` finds.
        backend: as hls4ml calls it; one whose streams have depths: "Vitis" or "Vivado".
        reuse: hls4ml's reuse factor, of every layer.
        precision: of what no quantizer and no rule of hls4ml gives a type: float weights, and the
            input where no quantizer reads it.
        limit: seconds after which a run of hls4ml is stopped.

    Raises:
        Hls4mlError: hls4ml is not there.
        ModelError: the file cannot be read.
    """
    job = _Job(model, folder, depths, backend, reuse, precision, limit)
    network = without_defaults(Model.load(model))
    return job.run(network, input_range(network, precision)[0], "write")


def c_simulate(
    model: Path,
    folder: Path,
    *,
    samples: int = 8,
    seed: int = 0,
    inputs: Array | None = None,
    depths: Depths = "ours",
    backend: str = "Vitis",
    reuse: int = 1,
    precision: str = "fixed<16,6>",
    limit: float = 600.0,
) -> Simulated:
    """Converts a network, compiles its C++, runs it, and compares it with the network.

    Args:
        samples: how many inputs to draw (`drawn`).
        seed: of what is drawn.
        inputs: [N, ...] as the network reads it; in the place of what would be drawn. Rounded to
            hls4ml's input type for both sides.
        limit: seconds after which a run of hls4ml is stopped, the compiler's among them.

    The other arguments, and what is raised, are those of `convert`.
    """
    job = _Job(model, folder, depths, backend, reuse, precision, limit)
    network = without_defaults(Model.load(model))
    kind, low, high = input_range(network, precision)
    given = kind.rounded(drawn(network, samples, seed, low, high) if inputs is None else inputs)
    found = job.run(network, kind, "run", given)
    if not found.accepted:
        return Simulated(found)
    reference, name = runner(network), network.graph.inputs[0].name or ""
    wanted = [list(reference.run({name: one[None]}).values()) for one in given]
    pairs = []
    for number in range(len(network.graph.outputs)):
        ours = np.concatenate([row[number] for row in wanted]).astype(np.float64)
        if ours.ndim > 2 and not is_channels_last(network):
            ours = np.moveaxis(ours, 1, -1)
        theirs = np.load(folder / f"output{number}.npy").astype(np.float64)
        pairs.append((ours, theirs.reshape(ours.shape)))
    return Simulated(found, compared(pairs))


def report(
    model: Path,
    folder: Path,
    samples: int = 8,
    seed: int = 0,
    limit: float = 600.0,
    precision: str = "fixed<16,6>",
) -> tuple[bool, list[str]]:
    """`c_simulate` for a command: whether hls4ml came to the end, and the lines to print."""
    found = c_simulate(model, folder, samples=samples, seed=seed, limit=limit, precision=precision)
    made, compared = found.converted, found.comparison
    if not made.accepted:
        return False, [f"hls4ml: stopped at {made.step}: {made.reason}"]
    lines = [
        f"hls4ml: {len(made.layers)} layers in {made.project}, compiled in "
        f"{made.seconds.get('compile', 0):.0f} s",
        f"FIFOs: {made.default_bits:,} bits with hls4ml's depths, {made.bits:,} as written"
        + (f" (not ours: {made.unsized})" if made.unsized else ""),
    ]
    if compared is not None:
        lines.append(
            f"C simulation of {compared.samples} samples: largest difference "
            f"{compared.largest:.3g} of {compared.span:.3g}, mean {compared.mean:.3g}; "
            f"{compared.differing:.2%} of the outputs differ; same greatest channel at "
            f"{compared.agreement:.2%} (FIFO depths have no part in it)"
        )
        largest = 2.0 ** (_type(precision).integer - 1)
        if compared.span >= largest and compared.differing:
            lines.append(
                f"The network gives out {compared.span:.3g}, and {precision} holds numbers below "
                f"{largest:g}: what is not quantized needs a wider precision."
            )
    return True, lines


def compared(pairs: list[tuple[Array, Array]]) -> Comparison:
    """Of outputs [N, ..., channels], the network's first and hls4ml's second in each pair."""
    off = np.concatenate([np.abs(a - b).reshape(-1) for a, b in pairs])
    span = max(float(np.abs(a).max(initial=0.0)) for a, _ in pairs)
    same = np.concatenate([(a.argmax(-1) == b.argmax(-1)).reshape(-1) for a, b in pairs])
    return Comparison(
        len(pairs[0][0]), float(off.max()), float(off.mean()), span,
        float((off > 1e-6 * span).mean()), float(same.mean()),
    )  # fmt: skip


def input_range(model: Model, precision: str) -> tuple[FixedPoint, float, float]:
    """hls4ml's type of the input, and the range that tells most about the network.

    Where quantizers alone read the input, the type holds twice their range, which then clips, and
    `EXTRA_BITS` behind their step; the range is theirs and an eighth more on both sides. Else the
    type is `precision`, and the range three to both sides.

    Args:
        model: a network with one input, without defaults.
        precision: as hls4ml writes it, "fixed<16,6>".

    Raises:
        Hls4mlError: `precision` cannot be read.
    """
    plain = _type(precision), -3.0, 3.0
    found = model.analyses.get(Quantization())
    grids = []
    for use in model.graph.inputs[0].uses():
        grid = found.get(use.node.outputs[0].name or "")
        if use.node.op_type not in ("Quant", "IntQuant") or grid is None:
            return plain
        grids.append(grid)
    if not grids:
        return plain
    low = min(float(grid.real(grid.low).min()) for grid in grids)
    high = max(float(grid.real(grid.high).max()) for grid in grids)
    integer = math.floor(math.log2(max(high, -low))) + 3
    behind = EXTRA_BITS - math.floor(math.log2(min(float(grid.scale.min()) for grid in grids)))
    edge = (high - low) / 8
    return FixedPoint(max(integer + behind, 2), integer, True), low - edge, high + edge


def _type(precision: str) -> FixedPoint:
    written = re.fullmatch(r"\s*(?:ap_)?(u?)fixed<\s*(\d+)\s*,\s*(-?\d+)\s*>\s*", precision)
    if written is None:
        raise Hls4mlError(f"{precision!r} is no precision: write fixed<BITS,INTEGER>.")
    return FixedPoint(int(written[2]), int(written[3]), not written[1])


def drawn(model: Model, samples: int, seed: int, low: float, high: float) -> Array:
    """Inputs [samples, ...], uniform in a range.

    Raises:
        Hls4mlError: the shape of the input is not known.
    """
    source = model.graph.inputs[0]
    shape = model.analyses.get(Shapes())[source.name or ""].shape
    if shape is None or not all(isinstance(size, int) for size in shape[1:]):
        raise Hls4mlError(f"the shape of {source.name} is not known, and hls4ml builds for one.")
    sizes = [int(size) for size in shape[1:] if isinstance(size, int)]
    rng = np.random.default_rng(seed)
    return rng.uniform(low, high, (samples, *sizes)).astype(np.float32)


@dataclass(frozen=True)
class _Job:
    """One conversion: its arguments, which are those of `convert`."""

    model: Path
    folder: Path
    depths: Depths
    backend: str
    reuse: int
    precision: str
    limit: float

    def run(
        self, network: Model, kind: FixedPoint, until: Literal["write", "run"],
        inputs: Array | None = None,
    ) -> Converted:  # fmt: skip
        """Runs hls4ml to the end of a step.

        Args:
            network: the model, without defaults.
            kind: of the input.
            inputs: samples [N, ...] as the network reads them.
        """
        python = interpreter()
        project = self.folder / "project"
        try:
            written = lowered(network, bits=CONSTANT_BITS)
        except ModelError as error:
            return Converted(project, "lower", str(error))
        if until == "run" and shutil.which("g++") is None:
            return Converted(project, "compile", "there is no C++ compiler: g++ is not in the PATH")
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(self.folder / "lowered.onnx", written.proto.SerializeToString())
        if inputs is not None:
            moved = inputs.ndim > 2 and not written.channels_last
            np.save(self.folder / "inputs.npy", np.moveaxis(inputs, 1, -1) if moved else inputs)
        request = {
            "model": str((self.folder / "lowered.onnx").resolve()),
            "folder": str(self.folder.resolve()),
            "clean": written.channels_last,
            "backend": self.backend,
            "precision": self.precision,
            "reuse": self.reuse,
            "types": written.types,
            "input": str(kind),
            "depths": None,
            "until": until,
        }
        unsized = ""
        if self.depths == "ours":
            answer = self._ask(python, {**request, "until": "convert"})
            if answer["reason"]:
                return self._converted(answer)
            try:
                ours = hls4ml.sized(hls4ml.design(answer["dump"]))
                request["depths"] = hls4ml.stream_depths(ours)
            except GraphoptError as error:
                unsized = str(error)
        return self._converted(self._ask(python, request), unsized)

    def _ask(self, python: Path, request: Mapping[str, Any]) -> dict[str, Any]:
        """Runs the front end; what it answered, with a reason where it did not come to the end."""
        answer = self.folder / "answer.json"
        answer.unlink(missing_ok=True)
        place = self.folder / "request.json"
        place.write_text(json.dumps(request, indent=2))
        command = [str(python), str(Path(__file__).with_name("front_end.py"))]
        with (self.folder / "hls4ml.log").open("w") as log:
            process = subprocess.Popen(
                [*command, str(place.resolve())], stdout=log, stderr=subprocess.STDOUT,
                start_new_session=True, cwd=self.folder,
            )  # fmt: skip
            late = ""
            try:
                process.wait(timeout=self.limit)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                late = f"it was still running after {self.limit:.0f} seconds"
        try:
            found: dict[str, Any] = json.loads(answer.read_text())
        except (OSError, ValueError):
            found = {"step": "start", "reason": "", "seconds": {}}
        if late or process.returncode:
            said = (self.folder / "hls4ml.log").read_text(errors="replace")
            found["reason"] = late or _reason(found, said, process.returncode)
        return found

    def _converted(self, answer: Mapping[str, Any], unsized: str = "") -> Converted:
        record = answer.get("dump", {"layers": [], "streams": {}})
        defaults = hls4ml.default_depths(record)
        variables = {stream["variable"]: name for name, stream in record["streams"].items()}
        words = {variables[name]: depth for name, depth in answer.get("written", {}).items()}

        def bits(depths: Mapping[str, int]) -> int:
            streams = record["streams"]
            return sum(
                depth * streams[name]["bits"] * streams[name]["shape"][-1]
                for name, depth in depths.items()
            )

        return Converted(
            self.folder / "project",
            answer["step"],
            answer["reason"],
            tuple((layer["name"], layer["class"]) for layer in record["layers"]),
            bits(defaults),
            bits(words),
            words,
            unsized,
            answer["seconds"],
        )


def _reason(answer: Mapping[str, Any], said: str, code: int) -> str:
    """Why the front end ended, from what it answered and what was printed."""
    if answer["step"] == "compile":
        errors = re.findall(r"^.*(?:error:|command not found|cannot find).*$", said, re.M)
        if errors:
            return f"the compiler says: {errors[0].strip()}"
    if answer["reason"]:
        return str(answer["reason"])
    if code < 0:
        return f"it was ended by {signal.Signals(-code).name}"
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return lines[-1] if lines else f"it ended with {code} and said nothing"
