"""A layer-by-layer accelerator: what crosses to DRAM under each policy; the commands."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx.helper as oh
import pytest
from onnx import TensorProto

from graphopt import Model
from graphopt.cli.main import main
from graphopt.errors import GraphoptError, TargetError
from hwmodel.sequential import Accelerator, Policy, estimate

DIGITS = Path(__file__).parents[2] / "examples" / "models" / "digits_resnet.onnx"
MAP = 4 * 8 * 8
"""Bytes of every map of `block`."""


def block() -> Model:
    """x -> conv0 -> r; r -> conv1 -> conv2 -> + r -> y; 4 channels of 8 x 8 throughout."""
    weights = {f"w{i}": np.ones((4, 4, 3, 3), np.float32) for i in range(3)}
    nodes = [
        oh.make_node("Conv", ["x", "w0"], ["r"], name="conv0", pads=[1] * 4),
        oh.make_node("Conv", ["r", "w1"], ["a"], name="conv1", pads=[1] * 4),
        oh.make_node("Conv", ["a", "w2"], ["b"], name="conv2", pads=[1] * 4),
        oh.make_node("Add", ["b", "r"], ["y"], name="add"),
    ]
    graph = oh.make_graph(
        nodes,
        "g",
        [oh.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 8, 8])],
        [oh.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 8, 8])],
        [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return Model.load(oh.make_model(graph, opset_imports=[oh.make_opsetid("", 17)], ir_version=8))


def traffic(policy: Policy, buffer: int) -> tuple[int, int]:
    found = estimate(block(), Accelerator(buffer_bytes=buffer), policy)
    return found.feature_map_bytes, found.skip_bytes


def test_every_map_goes_out_and_comes_back() -> None:
    # x in; r out, in for conv1, in for add; a and b out and in; y out.
    whole, skip = traffic("stream", 1 << 20)
    assert whole == (1 + 3 + 2 + 2 + 1) * MAP
    # r is written and read once more for the join.
    assert skip == 2 * MAP


def test_adjacent_maps_stay_and_the_skip_crosses_twice() -> None:
    whole, skip = traffic("adjacent", 1 << 20)
    assert whole == (1 + 2 + 1) * MAP
    assert skip == 2 * MAP


def test_a_buffer_that_is_large_enough_keeps_the_skip() -> None:
    # conv2 reads a, makes b, and r waits: three maps.
    assert traffic("shortcut", 3 * MAP) == (2 * MAP, 0)


def test_a_smaller_one_keeps_a_part_of_it() -> None:
    # 100 bytes go out while conv2 runs, and come back at the join.
    assert traffic("shortcut", 3 * MAP - 100) == (2 * MAP + 200, 200)


@pytest.mark.parametrize("policy", ["stream", "adjacent", "shortcut"])
@pytest.mark.parametrize("buffer", [0, 100, 300, 700, 1 << 20])
def test_what_does_not_come_from_dram_comes_from_the_buffer(policy: Policy, buffer: int) -> None:
    found = estimate(block(), Accelerator(buffer_bytes=buffer), policy)
    assert [each.read + each.chip_read for each in found.layers] == [MAP, MAP, MAP, 2 * MAP]
    assert all(each.chip_written <= min(MAP, buffer) for each in found.layers)
    assert found.skip_bytes <= found.feature_map_bytes
    assert found.to_json()["chip_bytes"] == found.chip_bytes
    if policy == "stream":
        assert found.chip_bytes == 0


@pytest.mark.parametrize("policy", ["adjacent", "shortcut"])
def test_more_buffer_never_means_more_traffic(policy: Policy) -> None:
    sizes = [0, 64, 256, 300, 512, 700, 768, 4096]
    found = [traffic(policy, size)[0] for size in sizes]
    assert found == sorted(found, reverse=True)
    assert found[0] == traffic("stream", 0)[0]


def test_policies_are_ordered_on_a_network() -> None:
    model = Model.load(DIGITS)
    policies: Sequence[Policy] = ("stream", "adjacent", "shortcut")
    for size in (128, 1024, 1 << 20):
        found = [estimate(model, Accelerator(buffer_bytes=size), p) for p in policies]
        assert found[0].feature_map_bytes >= found[1].feature_map_bytes
        assert found[1].feature_map_bytes >= found[2].feature_map_bytes
        assert found[0].cycles >= found[2].cycles > 0
        assert {each.weight_bytes for each in found} == {found[0].weight_bytes}


def test_bad_requests_get_a_sentence() -> None:
    assert Accelerator.parse("sequential:2MiB").buffer_bytes == 2 << 20
    for text in ("sequential:many", "sequential:0KiB", "sequential:5"):
        with pytest.raises(TargetError, match="no buffer size"):
            Accelerator.parse(text)
    with pytest.raises(GraphoptError, match="no policy"):
        estimate(block(), policy="magic")  # type: ignore[arg-type]


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    with pytest.raises(SystemExit) as left:
        main([str(argument) for argument in arguments])
    shown = capsys.readouterr()
    return int(left.value.code or 0), shown.out + shown.err


def test_the_command_has_these_targets(capsys: pytest.CaptureFixture[str]) -> None:
    code, out = run(capsys, "cost", DIGITS, "--target", "sequential:4KiB")
    assert code == 0
    assert "shortcut" in out
    code, out = run(capsys, "cost", DIGITS, "--target", "sequential", "--format", "json")
    assert set(json.loads(out)) == {"stream", "adjacent", "shortcut"}
    code, out = run(capsys, "cost", DIGITS, "--target", "cpu")
    assert code == 0
    assert "latency" in out
    code, out = run(capsys, "cost", DIGITS, "--target", "cpu", "--format", "sarif")
    assert code == 2
