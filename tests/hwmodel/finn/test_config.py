"""FINN's JSON files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from graphopt.errors import GraphoptError
from hwmodel import finn
from hwmodel import kernels as k
from hwmodel.design import Design
from tests.hwmodel.finn import graphs


@pytest.fixture(scope="module")
def design() -> Design:
    return finn.read(graphs.block())


def test_a_folding_is_applied(design: Design) -> None:
    folded = finn.apply(
        design,
        {
            "Defaults": {"ram_style": ["block", ["ConvolutionInputGenerator_rtl"]]},
            "MVAU_rtl_0": {"SIMD": 4, "PE": 2, "resType": "dsp", "inFIFODepths": [2]},
            "f": {"PE": 4},
            "FMPadding_rtl_0": {"SIMD": 4},
            "DuplicateStreams_hls_0": {"PE": 4},
        },
    )
    matrix, window = folded.kernel["e"], folded.kernel["d"]
    assert isinstance(matrix, k.MatrixVector)
    assert isinstance(window, k.Window)
    assert (matrix.simd, matrix.pe, matrix.resource, window.ram_style) == (4, 2, "dsp", "block")
    # All widths are 4 now but that from the MVAU to the thresholds.
    converters = [
        name for name, each in folded.kernel.items() if isinstance(each, k.WidthConverter)
    ]
    assert converters == ["StreamingDataWidthConverter_rtl_0"]
    assert folded.layers == {"StreamingDataWidthConverter_rtl_0": "f"}


def test_depths_from_lists_and_entries(design: Design) -> None:
    folded = finn.apply(
        design,
        {
            "a": {"outFIFODepths": [2, 50]},
            "g": {"inFIFODepths": [7, 64]},
            "d": {"outFIFODepths": [9]},
            "StreamingDataWidthConverter_rtl_2": {"inFIFODepths": [30], "outFIFODepths": [5]},
            "StreamingFIFO_rtl_12": {"depth": 33, "impl_style": "rtl", "ram_style": "auto"},
        },
    )
    names = finn.finn_names(folded).fifos
    depths = {int(fifo[18:]): folded.stream[stream].depth for stream, fifo in names.items()}
    # Before and behind the converter of the skip, before and behind that of the window, ...
    assert {n: depth for n, depth in depths.items() if depth is not None} == {
        1: 50,
        2: 2,
        3: 64,
        6: 30,
        7: 5,
        11: 7,
        12: 33,
    }


def test_depths_stay_where_nothing_changes(design: Design) -> None:
    first = design.streams[0].name
    sized = design.with_depths({first: 17})
    assert finn.apply(sized, {"MVAU_rtl_0": {"SIMD": 4}}).stream[first].depth == 17
    assert finn.apply(sized, {"DuplicateStreams_hls_0": {"PE": 4}}).stream[first].depth is None


def test_folding_round_trip(design: Design, tmp_path: Path) -> None:
    folded = finn.apply(design, {"MVAU_rtl_0": {"SIMD": 9, "PE": 2}, "d": {"SIMD": 2}})
    path = tmp_path / "folding.json"
    path.write_text(json.dumps(finn.folding_json(folded)))
    assert finn.apply(design, path) == folded
    assert finn.apply(design, finn.read_folding(path)) == folded


def test_folding_json(design: Design) -> None:
    folding = finn.folding_json(design)
    assert folding["Defaults"] == {}
    assert folding["MVAU_rtl_0"] == {
        "PE": 1,
        "SIMD": 1,
        "ram_style": "auto",
        "resType": "auto",
        "mem_mode": "internal_decoupled",
        "ram_style_thresholds": "auto",
        "pumpedCompute": 0,
    }
    assert folding["ConvolutionInputGenerator_rtl_0"]["parallel_window"] == 0
    assert "StreamingDataWidthConverter_rtl_0" not in folding
    assert "AddStreams_hls_0" in finn.folding_json(design, dialect="finn")
    first = design.streams[0].name
    lists = finn.folding_json(design.with_depths({first: 17}), fifo_depths=True)
    assert lists["DuplicateStreams_hls_0"]["inFIFODepths"] == [17]
    assert lists["DuplicateStreams_hls_0"]["outFIFODepths"] == [2, 2]
    assert lists["ElementwiseAdd_hls_0"]["inFIFODepths"] == [2, 2]


@pytest.mark.parametrize("dialect", ["finn", "finn-plus"])
def test_fifo_round_trip(design: Design, dialect: Any, tmp_path: Path) -> None:
    depths = {stream.name: 2 + 300 * index for index, stream in enumerate(design.streams)}
    sized = design.with_depths(depths)
    path = tmp_path / "fifos.json"
    path.write_text(json.dumps(finn.fifo_json(sized, dialect)))
    assert finn.read_fifos(design, path) == sized


def test_fifo_json(design: Design) -> None:
    skip = next(
        stream
        for stream, fifo in finn.finn_names(design).fifos.items()
        if fifo == "StreamingFIFO_rtl_1"
    )
    sized = design.with_depths({skip: 300})
    plus: Any = finn.fifo_json(sized, ram_styles={skip: "block"})
    assert plus["fifo_depths"]["StreamingFIFO_rtl_1"] == 300
    assert plus["fifo_sizes"]["StreamingFIFO_rtl_1"] == 1200
    assert plus["fifo_sizes_effective"]["StreamingFIFO_rtl_1"] == 1280
    assert plus["ram_style"]["StreamingFIFO_rtl_1"] == "block"
    assert set(plus["fifo_depths"]) == set(plus["impl_style"]) == set(plus["ram_style"])
    assert len(plus["fifo_depths"]) == 13
    assert plus["total_fifo_size_kiB"] == sum(plus["fifo_sizes"].values()) / 8192
    entries: Any = finn.fifo_json(sized, "finn")
    assert entries["StreamingFIFO_rtl_1"]["impl_style"] == "vivado"
    assert entries["StreamingFIFO_rtl_2"] == {
        "ram_style": "auto",
        "depth": 2,
        "impl_style": "rtl",
        "inFIFODepths": [0],
        "outFIFODepths": [0],
    }


@pytest.mark.parametrize(
    ("folding", "message"),
    [
        ({"MVAU_rtl_7": {"PE": 1}}, "has an entry 'MVAU_rtl_7', but the design has no such kernel"),
        ({"MVAU_rtl_0": {"PE": 3}}, "e: PE = 3 must divide 4"),
        ({"MVAU_rtl_0": {"PE": 0}}, "e: PE is 0, but must be at least 1"),
        ({"MVAU_rtl_0": {"PE": "2"}}, "e: PE is '2', but must be a whole number"),
        ({"MVAU_rtl_0": {"SMID": 3}}, "e has no attribute 'SMID': a MatrixVector takes PE, SIMD"),
        ({"MVAU_rtl_0": {"ram_style": "bram"}}, "ram_style is 'bram', but must be one of auto"),
        ({"MVAU_rtl_0": 4}, "the entry 'MVAU_rtl_0' must be an object"),
        ({"d": {"parallel_window": 1, "SIMD": 2}}, "with parallel_window SIMD must be all 4"),
        ({"d": {"inFIFODepths": 3}}, "d: inFIFODepths must be a list of depths"),
        ({"StreamingFIFO_rtl_99": {"depth": 3}}, "is not among the 13 FIFOs"),
        ({"StreamingFIFO_rtl_1": {"depth": -1}}, "the depth is -1"),
        ({"Defaults": {"PE": 4}}, "Defaults: 'PE' must be a list of a value and operators"),
        ({"fifo_depths": {}}, "is a FIFO configuration, not a folding"),
    ],
)
def test_wrong_foldings(design: Design, folding: Any, message: str) -> None:
    with pytest.raises(GraphoptError, match=message):
        finn.apply(design, folding)


def test_entries_of_other_networks_may_be_left_out(design: Design) -> None:
    folding = {"MVAU_rtl_7": {"PE": 1}, "StreamingFIFO_rtl_99": {"depth": 3}}
    assert finn.apply(design, folding, strict=False) == design


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1]", "must hold a JSON object"),
        ("{", "is no JSON file"),
        ('{"fifo_depths": 3}', "fifo_depths must be an object"),
        (
            '{"fifo_depths": {"StreamingFIFO_rtl_0": 2}}',
            "has no depth for StreamingFIFO_rtl_1; the",
        ),
    ],
)
def test_wrong_files(design: Design, content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(content)
    with pytest.raises(GraphoptError, match=message):
        finn.read_fifos(design, path)


def test_a_file_that_is_not_there(design: Design, tmp_path: Path) -> None:
    with pytest.raises(GraphoptError, match="does not exist: check the path"):
        finn.read_folding(tmp_path / "nothing.json")
