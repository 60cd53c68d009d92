"""What FINN gets of a model: the model, folding, FIFO depths, and a script that builds it all."""

from __future__ import annotations

import json
from pathlib import Path

import onnx_ir

from graphopt.ir import Model, save
from graphopt.ir.io import write_whole
from hwmodel.datatypes import DataType
from hwmodel.design import Design
from hwmodel.finn import bridge
from hwmodel.finn.attributes import Dialect
from hwmodel.finn.config import fifo_json, folding_json

MODEL, FOLDING, FIFOS = "model.onnx", "folding.json", "fifos.json"
SCRIPT, CONFIGURATION = "build.py", "build.json"


def json_files(design: Design, dialect: Dialect = "finn-plus") -> dict[str, str]:
    """The JSON files of a sized design, by name.

    Xilinx/finn reads FIFOs from the folding file, beside the other nodes; finn-plus from a file of
    their own.
    """
    foldings, fifos = folding_json(design, dialect=dialect), fifo_json(design, dialect)
    files = (
        {FOLDING: {**foldings, **fifos}} if dialect == "finn" else {FOLDING: foldings, FIFOS: fifos}
    )
    return {name: json.dumps(content, indent=2) + "\n" for name, content in files.items()}


def write_build(
    model: Model, folder: Path, *, board: str, clock_mhz: float, fps: float | None, sizing: str
) -> None:
    """Writes the model with a batch of one, and the script `build.py` with its configuration.

    In the build FINN asks graphopt for the folding and for the depths of its FIFOs, which then have
    the names that FINN gave them; `python build.py` runs it in FINN's environment.

    Raises:
        ModelError: a file cannot be written.
    """
    content = bridge.configuration(
        Path(MODEL),
        Path("build"),
        board=board,
        clock_mhz=clock_mhz,
        fps=None if fps is None else round(fps),
        sizing=sizing,
    )
    save(single(model), folder / MODEL)
    write_whole(folder / SCRIPT, bridge.SCRIPT.read_bytes())
    write_whole(folder / CONFIGURATION, (json.dumps(content, indent=2) + "\n").encode())


def annotated(model: Model, element: str) -> Model:
    """A copy whose inputs hold elements of a type of FINN's ("UINT8"); they then are integers.

    Raises:
        GraphoptError: it is no type, or none of integers.
    """
    kind = DataType.parse(element)
    copy = model.clone()
    for value in copy.graph.inputs:
        if not value.is_initializer():
            value.meta["quant_parameter_tensor_names"] = {"finn_datatype": kind.name}
    copy.analyses.keep_only(())
    return copy


def single(model: Model) -> Model:
    """A copy whose batch is 1 where it was open; FINN wants every size as a number."""
    copy = model.clone()
    named = {
        value.shape[0].value
        for value in copy.graph.inputs
        if value.shape and isinstance(value.shape[0], onnx_ir.SymbolicDim)
    } - {None}
    made = [value for node in copy.graph for value in node.outputs]
    for value in (*copy.graph.inputs, *made):
        if value.shape is None:
            continue
        value.shape = onnx_ir.Shape(
            1 if isinstance(size, onnx_ir.SymbolicDim)
            and (size.value in named or (axis == 0 and size.value is None))
            else size
            for axis, size in enumerate(value.shape)
        )  # fmt: skip
    return copy
