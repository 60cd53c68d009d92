"""hls4ml's FIFOs, by a dump of a model that hls4ml 1.3.0 converted itself."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from graphopt.cli.main import main
from graphopt.errors import GraphoptError
from hwmodel import hls4ml
from hwmodel.estimator import design_of, sized
from hwmodel.fifo import deadlock_free
from hwmodel.kernels import Concat, Fork, Join, Padding, Window
from hwmodel.simulate import simulate

DUMP = json.loads((Path(__file__).parents[1] / "data" / "hls4ml_block.json").read_text())
DIGITS = Path(__file__).parents[3] / "examples" / "models" / "digits_mobilenetv2.onnx"


def test_the_default_is_a_map_for_every_stream_between_layers() -> None:
    design = hls4ml.design(DUMP)
    assert sum(isinstance(k, Fork) for k in design.kernels) == 1
    assert sum(isinstance(k, Join) for k in design.kernels) == 1
    assert sum(isinstance(k, Padding) for k in design.kernels) == 3
    skip = next(s for s in design.streams if s.name.endswith("cpy2"))
    assert (skip.depth, skip.bits) == (16 * 16, 8 * 16)
    depths = hls4ml.stream_depths(design)
    # Streams into and out of the model are interfaces.
    assert set(DUMP["streams"]) - set(depths) == {"global_in", "global_out"}
    assert depths == {name: DUMP["streams"][name]["depth"] for name in depths}
    assert depths == hls4ml.default_depths(DUMP)


def with_strategy(strategy: str) -> dict[str, Any]:
    return {**DUMP, "layers": [{**layer, "strategy": strategy} for layer in DUMP["layers"]]}


@pytest.mark.parametrize(("strategy", "pixels"), [("latency", 18 * 18), ("resource", 16 * 16)])
def test_a_layer_takes_its_reuse_factor_a_pixel(strategy: str, pixels: int) -> None:
    # nnet_conv2d_stream.h: with the latency strategy each pixel that comes in, those of the
    # border among them, takes II = reuse_factor cycles; else windows only do.
    design = hls4ml.design(with_strategy(strategy))
    assert all(k.is_parallel for k in design.kernels if isinstance(k, Window))
    interval = simulate(design, frames=4).interval
    assert 8 * pixels <= interval <= 8 * pixels + 2 * 18 * 8


@pytest.mark.parametrize("strategy", ["latency", "resource"])
def test_ours_are_a_fraction_of_the_default_and_as_fast(strategy: str) -> None:
    theirs = hls4ml.design(with_strategy(strategy))
    ours = hls4ml.sized(theirs)
    assert simulate(ours, frames=4).interval == simulate(theirs, frames=4).interval
    assert hls4ml.fifo_bits(ours) * 20 < hls4ml.fifo_bits(theirs)
    skip = next(s for s in ours.streams if s.name.endswith("cpy2"))
    # Two 3x3 convolutions: 2 (W + 1) + 1 pixels at least.
    assert deadlock_free(theirs, skip.name) == 35
    assert 35 <= (skip.depth or 0) < 50
    # hls4ml stores nothing within a layer, so neither may what is compared with it.
    inside = [s.depth for s in ours.streams if s.name.endswith(hls4ml.INSIDE)]
    assert len(inside) >= 6
    assert set(inside) == {hls4ml.WORDS_INSIDE}


def test_peaks_of_an_eager_source_are_more_than_need() -> None:
    theirs = hls4ml.design(DUMP)
    profiled, ours = hls4ml.profiled(theirs), hls4ml.sized(theirs)
    assert hls4ml.fifo_bits(ours) < hls4ml.fifo_bits(profiled) < hls4ml.fifo_bits(theirs)


def record(*layers: tuple[str, Sequence[str], str, Sequence[int], dict[str, Any]]) -> Any:
    """A dump: class, inputs, output, shape of the output, attributes; 16 bits throughout."""
    return {
        "layers": [
            {"name": f"l{i}", "class": kind, "inputs": inputs, "outputs": [output], **attributes}
            for i, (kind, inputs, output, _, attributes) in enumerate(layers)
        ],
        "streams": {
            output: {"shape": shape, "bits": 16, "depth": hls4ml.default_depth(shape)}
            for _, _, output, shape, _ in layers
        },
    }


SQUARE = {"stride_height": 2, "stride_width": 2, "pool_height": 2, "pool_width": 2}


@pytest.mark.parametrize(
    ("layers", "cycles"),
    [
        ([("Pooling2D", ["x"], "y", [4, 4, 3], SQUARE)], 64),
        ([("GlobalPooling2D", ["x"], "y", [3], {})], 64),
        # FINN's kernel takes a row before it gives one: 8 x 8 cycles more than hls4ml's loop.
        ([("Resize", ["x"], "y", [16, 16, 3], {})], 256 + 64),
        ([("Transpose", ["x"], "y", [3, 8, 8], {})], 64),
        ([("Dense", ["x"], "y", [10], {"reuse_factor": 100})], 100),
        ([("Reshape", ["x"], "y", [32, 6], {})], 64),
        ([("Reshape", ["x"], "y", [192, 1], {})], 192),
        ([("Softmax", ["x"], "y", [8, 8, 3], {})], 64),
        ([("Conv2D", ["x"], "y", [4, 4, 5], {**SQUARE, "filt_height": 1, "filt_width": 1,
                                             "reuse_factor": 3})], 192),
    ],
)  # fmt: skip
def test_every_layer_takes_its_cycles(layers: Any, cycles: int) -> None:
    design = hls4ml.design(record(("Input", ["i"], "x", [8, 8, 3], {}), *layers))
    run = simulate(design, frames=4)
    assert run.status == "ok"
    assert cycles <= run.interval <= cycles + 8


@pytest.mark.parametrize(("axis", "shape"), [(3, [4, 4, 5]), (-1, [4, 4, 5])])
def test_channels_are_joined_word_by_word(axis: int, shape: list[int]) -> None:
    layers = (
        ("Input", ["i"], "a", [4, 4, 2], {}),
        ("Input", ["j"], "b", [4, 4, 3], {}),
        ("Concatenate", ["a", "b"], "y", shape, {"axis": axis}),
    )
    design = hls4ml.design(record(*layers))
    assert [k.cycles for k in design.kernels if isinstance(k, Join)] == [16]
    assert design.stream["y"].bits == 5 * 16


@pytest.mark.parametrize(("axis", "shape", "rows"), [(1, [8, 4, 2], 1), (2, [4, 8, 2], 4)])
def test_rows_and_columns_follow_each_other(axis: int, shape: list[int], rows: int) -> None:
    layers = (
        ("Input", ["i"], "a", [4, 4, 2], {}),
        ("Input", ["j"], "b", [4, 4, 2], {}),
        ("Concatenate", ["a", "b"], "y", shape, {"axis": axis}),
    )
    (concat,) = hls4ml.design(record(*layers)).kernels
    assert isinstance(concat, Concat)
    assert (concat.vectors, concat.channels) == (rows, (16 // rows, 16 // rows))


def test_a_reshape_that_moves_nothing_is_the_same_stream() -> None:
    given = record(
        ("Input", ["i"], "x", [4, 4, 3], {}),
        ("GlobalPooling2D", ["x"], "g", [1, 1, 3], {}),
        ("Reshape", ["g"], "f", [3], {}),
        ("Dense", ["f"], "y", [10], {}),
    )
    given["streams"]["f"]["depth"] = 0  # hls4ml's InplaceStreamVariable has no pragma
    design = hls4ml.design(given)
    assert set(design.stream) == {"x", "g", "y"}
    assert set(hls4ml.default_depths({**given, "streams": given["streams"]})) == {"g"}


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
    next(iter(graph.output_vars.values())).pragma = None
    with pytest.raises(GraphoptError, match="is no FIFO"):
        hls4ml.apply_depths(graph, depths)


def test_a_configuration_of_an_onnx_model(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as left:
        main(
            ["export", "hls4ml", str(DIGITS), "-o", str(tmp_path), "--bits", "w8a8",
             "--sizing", "bounds"]
        )  # fmt: skip
    assert not left.value.code
    written = json.loads((tmp_path / "hls4ml.json").read_text())
    assert written["Model"]["Precision"] == "fixed<16,6>"
    design = sized(design_of(DIGITS, bits="w8a8")).design
    assert written == hls4ml.configuration(design)
    assert len(written["FIFODepths"]) >= 4
    assert all(entry["pixels"] >= 1 for entry in written["FIFODepths"])
    # The maps of the three stages.
    assert {entry["default"] for entry in written["FIFODepths"]} == {8 * 8, 4 * 4, 2 * 2}


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
