"""FINN's own reports on a network (TFC on a Pynq-Z2), equal on every node and key.

Two runs came with their graph; the others ran the same network, three of them without its Reshape.
custom_3 was not run with the folding file beside it, but with that in its final_hw_config.json.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from graphopt.ir.model import Model
from hwmodel import finn
from hwmodel.design import Design, End

RUNS = ("auto", "custom_0", "custom_1", "custom_2", "custom_3", "custom_4")
CONFIGS = [
    *(f"output_{run}__final_hw_config.json" for run in RUNS),
    "output_auto__auto_folding_config.json",
    *(f"custom_{n}_folding_config.json" for n in (0, 1, 2, 4)),
]


@pytest.fixture(scope="module")
def reports(shared: Path) -> Path:
    folder = shared / "truth" / "finn_reports_tfc"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there: set GRAPHOPT_SHARED")
    return folder


def load(path: Path) -> Any:
    return json.loads(path.read_text())


def design_of(reports: Path, graph: str, config: str, run: str) -> Design:
    path = reports / f"output_{graph}__step_set_fifo_depths.onnx"
    design = finn.read(Model.load(path), dsp="DSP48E1")
    if "Reshape_rtl_0" not in load(reports / f"output_{run}__estimate_layer_cycles.json"):
        design = without(design, "Reshape_rtl_0")
    return finn.apply(design, reports / config, strict=False)


def without(design: Design, name: str) -> Design:
    """The design without a wire."""
    kernels, connections = finn.without_converters(design)
    into = next(each for each in connections if each.sink == End(name))
    out = next(each for each in connections if each.source == End(name))
    rest = [each for each in connections if each not in (into, out)]
    kernels = [kernel for kernel in kernels if kernel.name != name]
    return finn.with_converters(kernels, [replace(into, sink=out.sink), *rest])


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("graph", ["auto", "custom_0"])
def test_estimates(reports: Path, graph: str, config: str) -> None:
    run = next(run for run in RUNS if run in config)
    design = design_of(reports, graph, config, run)
    truth = {
        key: load(reports / f"output_{run}__estimate_layer_{key}.json")
        for key in ("resources", "cycles", "config_alternatives")
    }
    total: Counter[str] = Counter()
    for node, row in truth["resources"].items():
        if node != "total":
            report = finn.resources(design.kernel[node], dsp="DSP48E1").report
            assert report == row, node
            total.update({key: report[key] for key in truth["resources"]["total"]})
    assert dict(total) == truth["resources"]["total"]
    assert {node: finn.cycles(design.kernel[node]) for node in truth["cycles"]} == truth["cycles"]
    for node, rows in truth["config_alternatives"].items():
        alternatives = finn.alternatives(design.kernel[node], dsp="DSP48E1")
        assert [each.report for each in alternatives] == rows, node


@pytest.mark.parametrize("run", RUNS)
def test_fifos_and_converters(reports: Path, run: str) -> None:
    config = f"output_{run}__final_hw_config.json"
    design = design_of(reports, "auto", config, run)
    truth = load(reports / f"output_{run}__fifo_sizing.json")
    found = finn.fifo_json(design)
    assert found["fifo_depths"] == truth["fifo_depths"]
    assert found["fifo_sizes"] == truth["fifo_sizes"]
    names = [name for name in load(reports / config) if name.startswith("StreamingDataWidth")]
    assert [name for name in design.kernel if name.startswith("StreamingDataWidth")] == names


@pytest.mark.parametrize("graph", ["auto", "custom_0"])
def test_a_graph_with_fifos(reports: Path, graph: str) -> None:
    path = reports / f"output_{graph}__step_set_fifo_depths.onnx"
    design = finn.read(Model.load(path), dsp="DSP48E1")
    truth = load(reports / f"output_{graph}__fifo_sizing.json")
    assert {stream.name: stream.depth for stream in design.streams} == truth["fifo_depths"]
    assert finn.fifo_json(design)["fifo_sizes"] == truth["fifo_sizes"]
    first = design.kernel["MVAU_hls_0"]
    assert (first.thresholds, first.accumulator.name) == (1, "INT10")  # type: ignore[attr-defined]


def test_the_folding_of_a_graph_comes_back(reports: Path) -> None:
    truth = load(reports / "output_auto__auto_folding_config.json")
    path = reports / "output_auto__step_set_fifo_depths.onnx"
    folding = finn.folding_json(finn.read(Model.load(path)))
    assert list(folding) == list(truth)
    for name, entry in truth.items():
        for key, value in entry.items():
            if key != "runtime_writeable_weights":
                assert folding[name][key] == value, (name, key)


def test_shipped_foldings_are_read(shared: Path) -> None:
    paths = sorted((shared / "truth" / "finn_configs").glob("*.json"))
    if not paths:
        pytest.skip("no folder truth/finn_configs: set GRAPHOPT_SHARED")
    for path in paths:
        assert set(finn.read_folding(path)) == set(load(path))
