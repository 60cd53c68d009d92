"""Runs hls4ml itself: conversion, C++, compilation, execution. For hls4ml's environment only.

    python front_end.py REQUEST.json

`bridge` starts it with the interpreter of the environment that hls4ml lives in. What it gets
and what it gives are the files that `bridge` names; of graphopt it imports `hwmodel.hls4ml`,
which reads and sets the FIFO depths of a converted model.

The answer is written anew at the beginning of each step, so that it tells the step even where the
process is stopped.
"""

import json
import re
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]


class Answer:
    """The answer, as far as it has come: the step, the seconds of each, and what was found."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.record: dict[str, Any] = {"step": "start", "reason": "", "seconds": {}}
        self.began = time.perf_counter()
        self.write()

    def begin(self, step: str) -> None:
        """The step before has come to its end."""
        now = time.perf_counter()
        self.record["seconds"][self.record["step"]] = now - self.began
        self.record["step"], self.began = step, now
        self.write()

    def write(self) -> None:
        self.path.write_text(json.dumps(self.record))


def converted(request: dict[str, Any], answer: Answer) -> Any:
    """hls4ml's ModelGraph."""
    answer.begin("read")
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.util.cleanup import cleanup_model

    model = ModelWrapper(request["model"])
    if request["clean"]:
        model = cleanup_model(model)
    answer.begin("convert")
    import hls4ml

    configuration = hls4ml.utils.config_from_onnx_model(
        model,
        granularity="name",
        backend=request["backend"],
        default_precision=request["precision"],
        default_reuse_factor=request["reuse"],
    )
    layers = configuration["LayerName"]
    for name, kinds in request["types"].items():
        layers[name].setdefault("Precision", {}).update(kinds)
    if request["input"]:
        layers[model.graph.input[0].name]["Precision"]["result"] = request["input"]
    return hls4ml.converters.convert_from_onnx_model(
        model,
        output_dir=str(Path(request["folder"]) / "project"),
        io_type="io_stream",
        backend=request["backend"],
        hls_config=configuration,
    )


def written_depths(firmware: Path) -> dict[str, int]:
    """Words of each FIFO in the C++, by its variable there."""
    found = {}
    for source in firmware.glob("*.cpp"):
        for name, depth in re.findall(
            r"HLS STREAM variable=(\w+) depth=(\d+)", source.read_text(errors="replace")
        ):
            found[name] = int(depth)
    return found


def executed(graph: Any, folder: Path) -> None:
    """Runs inputs.npy, a sample at a time; output0.npy ... are [samples, elements]."""
    import numpy as np

    samples = np.load(folder / "inputs.npy")
    rows = []
    for sample in samples:
        found = graph.predict(np.ascontiguousarray(sample[None], np.float32))
        rows.append([np.asarray(one).reshape(-1) for one in _listed(found)])
    for number in range(len(rows[0])):
        np.save(folder / f"output{number}.npy", np.stack([row[number] for row in rows]))


def _listed(found: Any) -> list[Any]:
    return list(found) if isinstance(found, list | tuple) else [found]


def main() -> None:
    """Does what the request asks for."""
    request = json.loads(Path(sys.argv[1]).read_text())
    folder = Path(request["folder"])
    answer = Answer(folder / "answer.json")
    sys.path.append(str(REPOSITORY))
    warnings.filterwarnings("ignore")
    try:
        graph = converted(request, answer)
        from hwmodel.hls4ml import apply_depths, dump

        answer.record["dump"] = dump(graph)
        if request["until"] != "convert":
            answer.begin("write")
            if request["depths"]:
                apply_depths(graph, request["depths"])
            graph.write()
            answer.record["written"] = written_depths(folder / "project" / "firmware")
        if request["until"] == "run":
            answer.begin("compile")
            graph.compile()
            answer.begin("run")
            executed(graph, folder)
        answer.begin("done")
    except Exception as error:
        traceback.print_exc()
        said = str(error).strip().splitlines() or ["nothing was said"]
        answer.record["reason"] = f"{type(error).__name__}: {said[0]}"
        answer.write()
        sys.exit(1)


if __name__ == "__main__":
    main()
