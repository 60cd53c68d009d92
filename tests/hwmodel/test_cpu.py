"""ONNX Runtime, measured: latency, and how the nodes share it."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx.helper as oh
import pytest

from graphopt import Model
from graphopt.errors import GraphoptError
from hwmodel.cpu import measure

DIGITS = Path(__file__).parents[2] / "examples" / "models" / "digits_resnet.onnx"


def test_latency_is_measured_and_counts_come_with_it() -> None:
    found = measure(Model.load(DIGITS), seconds=0.05, threads=1)
    assert 0 < found.latency_s < 1
    assert found.threads == 1
    assert found.nodes == ()
    written = found.to_json()
    assert written["runs_per_second"] == pytest.approx(1 / found.latency_s)
    assert written["multiply_adds"] == found.cost.multiply_adds > 0
    assert "nodes" not in written


def test_nodes_share_the_time() -> None:
    found = measure(Model.load(DIGITS), seconds=0.01, threads=1, profile=True)
    assert sum(node.share for node in found.nodes) == pytest.approx(1)
    shares = [node.share for node in found.nodes]
    assert shares == sorted(shares, reverse=True)
    convolutions = sum(n.share for n in found.nodes if n.operator in ("Conv", "FusedConv"))
    assert convolutions > 0.3
    assert found.to_json()["nodes"][0]["name"] == found.nodes[0].name


def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    measure(Model.load(DIGITS), seconds=0.01, threads=1, profile=True)
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_does_not_run_gets_a_sentence() -> None:
    graph = oh.make_graph(
        [oh.make_node("Nothing", ["x"], ["y"], domain="nowhere")],
        "g",
        [oh.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 4])],
        [oh.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 4])],
    )
    opsets = [oh.make_opsetid("", 17), oh.make_opsetid("nowhere", 1)]
    model = Model.load(oh.make_model(graph, opset_imports=opsets, ir_version=8))
    with pytest.raises(GraphoptError, match="ONNX Runtime does not take the model"):
        measure(model, seconds=0.01)
