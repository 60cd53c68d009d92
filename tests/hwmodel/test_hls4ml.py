"""hls4ml's FIFOs, by a dump of a model that hls4ml 1.3.0 converted itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from graphopt.cli.main import main
from graphopt.errors import GraphoptError
from hwmodel import hls4ml
from hwmodel.estimator import design_of, sized
from hwmodel.fifo import size
from hwmodel.kernels import Fork, Join, MatrixVector, Padding, Window
from hwmodel.simulate import simulate

DUMP = json.loads((Path(__file__).parent / "data" / "hls4ml_block.json").read_text())
DIGITS = Path(__file__).parents[2] / "examples" / "models" / "digits_mobilenetv2.onnx"


def test_the_default_is_a_map_for_every_stream() -> None:
    design = hls4ml.design(DUMP)
    assert sum(isinstance(k, Fork) for k in design.kernels) == 1
    assert sum(isinstance(k, Join) for k in design.kernels) == 1
    assert sum(isinstance(k, Padding) for k in design.kernels) == 3
    skip = next(s for s in design.streams if s.name.endswith("cpy2"))
    assert skip.depth == 16 * 16
    depths = hls4ml.stream_depths(design)
    assert set(depths) == set(DUMP["streams"])
    for name, stream in DUMP["streams"].items():
        assert depths[name] == stream["depth"]


def test_a_layer_takes_its_reuse_factor_a_pixel() -> None:
    design = hls4ml.design(DUMP)
    units = [k for k in design.kernels if isinstance(k, MatrixVector)]
    assert [unit.cycles // unit.vectors for unit in units] == [8, 8, 8]
    assert all(k.is_parallel for k in design.kernels if isinstance(k, Window))
    assert simulate(design, frames=4).interval == 16 * 16 * 8


def test_ours_are_a_fraction_of_the_default_and_as_fast() -> None:
    theirs = hls4ml.design(DUMP)
    ours = size(theirs, jobs=1).design
    assert simulate(ours, frames=4).interval == simulate(theirs, frames=4).interval
    assert hls4ml.fifo_bits(ours) * 20 < hls4ml.fifo_bits(theirs)
    skip = next(s for s in ours.streams if s.name.endswith("cpy2"))
    # Two 3x3 convolutions: 2 (W + 1) + 1 pixels at least; a few more where others hold less.
    assert 35 <= (skip.depth or 0) < 70


class Variable:
    def __init__(self, depth: int) -> None:
        self.pragma: Any = ("stream", depth)


class Graph:
    def __init__(self) -> None:
        self.output_vars = {name: Variable(s["depth"]) for name, s in DUMP["streams"].items()}


def test_depths_are_handed_back() -> None:
    graph = Graph()
    depths = dict.fromkeys(DUMP["streams"], 7)
    assert hls4ml.apply_depths(graph, depths) == len(depths)
    assert {v.pragma for v in graph.output_vars.values()} == {("stream", 7)}
    with pytest.raises(GraphoptError, match="no stream nothing"):
        hls4ml.apply_depths(graph, {"nothing": 3})


def test_a_configuration_of_an_onnx_model(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as left:
        main(
            ["export", "hls4ml", str(DIGITS), "-o", str(tmp_path), "--bits", "w8a8",
             "--sizing", "bounds"]
        )  # fmt: skip
    assert not left.value.code
    written = json.loads((tmp_path / "digits_mobilenetv2.hls4ml.json").read_text())
    assert written["Model"]["Precision"] == "fixed<16,6>"
    design = sized(design_of(DIGITS, bits="w8a8")).design
    assert written == hls4ml.configuration(design)
    assert len(written["FIFODepths"]) >= 4
    assert all(entry["pixels"] >= 1 for entry in written["FIFODepths"])


@pytest.mark.parametrize(
    "record",
    [{}, {"layers": [{"name": "x"}], "streams": {}}, {"layers": 3, "streams": {}}],
)
def test_what_is_no_dump_gets_a_sentence(record: Any) -> None:
    with pytest.raises(GraphoptError, match="no dump"):
        hls4ml.design(record)


def test_a_layer_without_a_kernel_gets_a_sentence() -> None:
    record = json.loads(json.dumps(DUMP))
    target = next(layer for layer in record["layers"] if layer["class"] == "Activation")
    target["class"] = "Softmax"
    record["streams"][target["outputs"][0]]["shape"] = [5, 5, 8]
    with pytest.raises(GraphoptError, match="has no kernel here"):
        hls4ml.design(record)
