"""FINN itself, in an environment of its own: set up, and run to its estimates.

FINN pins versions that do not go with ours, so it lives in a virtual environment beside us, and
only files go to and fro. What is installed there is pinned: the set that was measured to work.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from graphopt.errors import GraphoptError

FINN_PLUS = "1.6.1"

_TORCH = "torch==2.13.0"
_PINS = (
    "setuptools==80.9.0 numpy==2.4.6 onnx==1.21.0 onnxruntime==1.25.1 protobuf==5.29.6 "
    "onnx-ir==1.1.0 onnxscript==0.7.2 onnx-passes==0.4.1 onnxoptimizer==0.4.2 qonnx==1.0.0 "
    "scipy==1.17.1 scikit-learn==1.7.2 pandas==2.3.3 matplotlib>=3.10.9,<3.11 "
    "bitstring>=4.3.1,<4.4 click>=8.1.8,<9 mashumaro[yaml]<4 mip==1.17.0 "
    "pydantic>2 pyyaml>=6.0.2,<6.1 rich<14 termcolor<3 psutil pybind11==3.0.1 "
    "cmake>=4.0.3,<4.1 brevitas==0.13.4 onnx-graphsurgeon==0.6.1 networkx"
).split()

SCRIPT = Path(__file__).with_name("build.py")
"""Runs in FINN's environment, on a configuration."""

_STEP = re.compile(r"Running step: (\S+)")
_ERROR = re.compile(r"^\[[^\]]*\](?:ERROR|CRITICAL):(.*)$", re.M)


class FinnError(GraphoptError):
    """FINN is not there, or could not be run."""


@dataclass(frozen=True)
class Accepted:
    """What FINN's front end made of a model.

    Attributes:
        step: the last step that began.
        reason: why it stopped there; empty where it came to the end.
        resources: LUT, BRAM_18K, URAM and DSP that FINN estimates, over all layers.
        fps: frames a second that it estimates, or None.
        layers: hardware layers.
        seconds: that it ran.
    """

    step: str
    reason: str
    resources: Mapping[str, float] = field(default_factory=dict)
    fps: float | None = None
    layers: int = 0
    seconds: float = 0.0

    @property
    def accepted(self) -> bool:
        """Whether it came to the estimates."""
        return not self.reason


def environment() -> Path:
    """Where FINN's environment is, or is to be: $GRAPHOPT_FINN, or the user's data folder."""
    given = os.environ.get("GRAPHOPT_FINN")
    home = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(given) if given else Path(home) / "graphopt" / "finn"


def interpreter() -> Path:
    """Python of FINN's environment.

    Raises:
        FinnError: it is not there.
    """
    python = environment() / "bin" / "python"
    if not python.is_file():
        raise FinnError(f"FINN is not set up in {environment()}: run `graphopt finn setup`.")
    return python


def setup(folder: Path, report: Callable[[str], None]) -> None:
    """Makes the environment: torch first, then what is pinned, then finn-plus without its pins.

    Raises:
        FinnError: one of the steps fails; what pip said last is in the message.
    """
    python = folder / "bin" / "python"
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    for text, command in (
        (f"a virtual environment in {folder}", [sys.executable, "-m", "venv", str(folder)]),
        (_TORCH, [*pip, _TORCH]),
        (f"{len(_PINS)} packages that finn-plus needs, pinned", [*pip, *_PINS]),
        (f"finn-plus=={FINN_PLUS}", [*pip, "--no-deps", f"finn-plus=={FINN_PLUS}"]),
    ):
        report(text)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            said = (done.stderr or done.stdout).strip().splitlines() or ["nothing was said"]
            raise FinnError(f"setting FINN up failed at {text}: {said[-1]}")


def configuration(
    model: Path,
    output: Path,
    *,
    board: str,
    clock_mhz: float,
    fps: int | None,
    sizing: str | None,
) -> dict[str, object]:
    """What `build.py` reads; its paths start from the folder of the configuration.

    Args:
        sizing: how graphopt finds FIFO depths; None: FINN's steps alone.
    """
    return {
        "model": str(model),
        "output": str(output),
        "board": board,
        "clock_mhz": clock_mhz,
        "fps": fps,
        "until": "estimates",
        "graphopt": None if sizing is None else [sys.executable, "-P", "-m", "graphopt"],
        "sizing": sizing,
    }


def estimate(
    model: Path,
    folder: Path,
    *,
    board: str,
    clock_mhz: float = 100.0,
    fps: int | None = None,
    limit: float = 600.0,
    sizing: str | None = None,
) -> Accepted:
    """Runs FINN's stock estimate-only steps on a model.

    Args:
        model: an ONNX file.
        folder: takes FINN's reports and intermediate models.
        board: as FINN calls it.
        clock_mhz: clock.
        fps: frames a second that FINN folds for; default: no folding.
        limit: seconds after which FINN is stopped; streamlining can loop for ever.
        sizing: how graphopt finds FIFO depths: it then folds FINN's graph and sizes its FIFOs
            (`build.fold`, `build.size_fifos`), and what it said is in `folder`/graphopt. None:
            the stock steps alone.

    Raises:
        FinnError: FINN's environment is not there.
    """
    python = interpreter()
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "build_dataflow.log"
    log.unlink(missing_ok=True)
    config = folder / "build.json"
    content = configuration(
        model.resolve(), Path(), board=board, clock_mhz=clock_mhz, fps=fps, sizing=sizing
    )
    config.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    command = [str(python), str(SCRIPT), str(config.resolve())]
    start = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True, cwd=folder,
    )  # fmt: skip
    try:
        said, _ = process.communicate(timeout=limit)
        late = ""
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        said, _ = process.communicate()
        late = f"it was still running after {limit:.0f} seconds"
    seconds = time.perf_counter() - start
    text = log.read_text(errors="replace") if log.is_file() else ""
    steps = _STEP.findall(text)
    step = steps[-1] if steps else "before the first step"
    if process.returncode == 0:
        return _reports(folder / "report", step, seconds)
    errors = [line.strip() for line in _ERROR.findall(text) if line.strip()]
    lines = [line.strip() for line in said.strip().splitlines() if line.strip()]
    fallen = next(
        (line for line in reversed(lines) if re.match(r"\w+(Error|Exception)\b", line)), ""
    )
    reason = (
        late or (errors[-1] if errors else "") or fallen or (lines[-1] if lines else "it stopped")
    )
    return Accepted(step, reason, seconds=seconds)


def answers(folder: Path) -> dict[str, Path]:
    """What graphopt answered during a build with `sizing`: folding.json and fifos.json by name."""
    made = folder / "graphopt"
    return {
        "folding.json": made / "folding" / "folding.json",
        "fifos.json": made / "fifos" / "fifos.json",
    }


def with_fifos(folder: Path) -> Path:
    """FINN's graph of such a build, with converters and FIFOs, whose depths FINN has applied."""
    return folder / "graphopt" / "with_fifos.onnx"


def _reports(folder: Path, step: str, seconds: float) -> Accepted:
    """What FINN wrote at the end.

    Raises:
        FinnError: it is not there.
    """
    try:
        layers: dict[str, dict[str, Any]] = json.loads(
            (folder / "estimate_layer_resources.json").read_text()
        )
        network = json.loads((folder / "estimate_network_performance.json").read_text())
    except (OSError, ValueError) as error:
        raise FinnError(
            f"FINN came to the end, but its reports cannot be read: {error}."
        ) from error
    layers.pop("total", None)
    totals = {
        key: sum(float(layer.get(key, 0)) for layer in layers.values())
        for key in ("LUT", "BRAM_18K", "URAM", "DSP")
    }
    return Accepted(
        step, "", totals, float(network["estimated_throughput_fps"]), len(layers), seconds
    )
