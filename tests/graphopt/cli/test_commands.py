"""`graphopt inspect`, `compare` and `passes`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from graphopt import plugins
from graphopt.pipeline import Pipeline
from tests.graphopt.cli.conftest import Run
from tests.support.models import (
    matrices,
    residual_mlp,
    residual_net,
    weight_named,
    with_weight,
)
from tests.support.packages import package


@pytest.fixture
def other(model: Path) -> Path:
    """The same network with one wrong weight."""
    proto = residual_net()
    name = matrices(proto)[1]
    path = model.parent / "other.onnx"
    onnx.save(with_weight(proto, name, weight_named(proto, name) * np.float32(1.01)), path)
    return path


# inspect --------------------------------------------------------------------------------------


def test_inspect(run: Run, model: Path) -> None:
    left = run("inspect", model)
    assert (left.code, left.err) == (0, "")
    shown = " ".join(left.out.split())
    assert f"{model}: 15 nodes, opset onnx 17" in shown.replace(" /", "/")
    for word in ("Skips", "identity", "add_", "Cost", "multiply-adds", "peak act", "Memory"):
        assert word in shown
    assert list(model.parent.iterdir()) == [model]


def test_inspect_as_json(run: Run, model: Path) -> None:
    told = json.loads(run("inspect", model, "--json").out)
    assert [skip["kind"] for skip in told["skips"]] == ["identity", "identity"]
    assert all(skip["bytes"] == 4 * 4 * 8 * 8 for skip in told["skips"])
    assert told["model"]["nodes"] == 15
    # four 3x3 convolutions of 4 channels, one of 3, on 8x8 positions, and the classifier
    assert told["cost"]["multiply_adds"] == 8 * 8 * 9 * 4 * (3 + 4 * 4) + 4 * 5
    assert told["cost"]["parameters"] == 9 * 4 * (3 + 4 * 4) + 5 * 4 + 4 * 5 + 5
    assert told["memory"]["peak_bytes"] == told["cost"]["peak_activation_bytes"]
    assert told["evidence"] == {"rewrites": [], "refusals": []}
    assert "latency_s" not in told["cost"]


def test_inspect_layers_and_latency(run: Run, model: Path) -> None:
    told = json.loads(run("inspect", model, "--layers", "--measure", "--json").out)
    layers = told["cost"]["layers"]
    assert sum(layer["multiply_adds"] for layer in layers) == told["cost"]["multiply_adds"]
    assert 0 < told["cost"]["latency_s"] < 1
    shown = run("inspect", model, "--layers").out
    assert all(layer["name"] in shown for layer in layers)


def test_inspect_a_model_without_skips(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "plain.onnx"
    onnx.save(residual_mlp(0), path)
    assert "The model has no skip connections." in run("inspect", path).out
    assert json.loads(run("inspect", path, "--json").out)["skips"] == []


def test_inspect_a_model_out_of_order(run: Run, tmp_path: Path) -> None:
    proto = residual_net()
    nodes = list(proto.graph.node)
    del proto.graph.node[:]
    proto.graph.node.extend(reversed(nodes))
    path = tmp_path / "reversed.onnx"
    path.write_bytes(proto.SerializeToString())
    left = run("inspect", path)
    assert left.code == 0
    assert "not in order and have been sorted" in " ".join(left.out.split())


# compare --------------------------------------------------------------------------------------


def test_compare_equal_models(run: Run, model: Path) -> None:
    run("optimize", model, "--preset", "plain")
    left = run("compare", model, model.parent / "net.opt.onnx")
    assert (left.code, left.err) == (0, "")
    assert "Equivalent on" in left.out
    assert "net.opt.onnx" in left.out
    assert "ratio" in left.out


def test_compare_a_model_with_itself(run: Run, model: Path) -> None:
    left = run("compare", model, model)
    assert left.code == 0
    assert "Nothing to compare" in left.out


def test_compare_different_models(run: Run, model: Path, other: Path) -> None:
    left = run("compare", model, other)
    assert left.code == 1
    assert left.err == ""
    assert "Different: on normal" in " ".join(left.out.split())


def test_compare_as_json(run: Run, model: Path, other: Path) -> None:
    left = run("compare", model, other, "--json", "--measure")
    assert left.code == 1
    told = json.loads(left.out)
    assert told["verification"]["status"] == "different"
    (tensor,) = told["verification"]["tensors"]
    assert tensor["relative"] > tensor["tolerance"] > 0
    assert all(cost["multiply_adds"] > 0 for cost in told["costs"])
    assert all(cost["latency_s"] > 0 for cost in told["costs"])
    assert [m["path"] for m in told["models"]] == [str(model), str(other)]


def test_compare_models_of_other_outputs_as_json(run: Run, model: Path) -> None:
    proto = residual_net()
    proto.graph.output.append(onnx.ValueInfoProto(name=proto.graph.node[2].output[0]))
    path = model.parent / "more.onnx"
    onnx.save(onnx.shape_inference.infer_shapes(proto), path)
    left = run("compare", model, path, "--json")
    assert left.code == 1
    assert "the outputs are" in json.loads(left.out)["verification"]["reason"]


def test_infinite_errors_are_null_in_json(run: Run, model: Path) -> None:
    """JSON has no infinity; Python's own writer would put one there."""
    proto = residual_net()
    proto.graph.node[-1].op_type = "Gemm"
    name = matrices(proto)[-1]
    wider = np.zeros((6, 4), np.float32)
    bias = next(t.name for t in reversed(proto.graph.initializer) if t.dims[:] == [5])
    changed = with_weight(with_weight(proto, name, wider), bias, np.zeros(6, np.float32))
    del changed.graph.value_info[:]
    changed.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 6
    path = model.parent / "wider.onnx"
    onnx.save(changed, path)
    left = run("compare", model, path, "--json")
    assert left.code == 1
    assert "Infinity" not in left.out
    (tensor,) = json.loads(left.out)["verification"]["tensors"]
    assert tensor["relative"] is None


# passes ---------------------------------------------------------------------------------------


def test_passes(run: Run) -> None:
    left = run("passes")
    assert (left.code, left.err) == (0, "")
    for name in (*plugins.passes(), *plugins.presets(), *plugins.analyses()):
        assert name in left.out
    assert "when=worth|possible" in left.out


def test_passes_as_json(run: Run) -> None:
    told = json.loads(run("passes", "--json").out)
    assert [one["name"] for one in told["passes"]] == sorted(plugins.passes())
    assert told["presets"].keys() == plugins.presets().keys()
    assert all(one["summary"] and "\n" not in one["summary"] for one in told["passes"])
    assert all(told["analyses"].values())


def test_the_values_that_passes_shows_can_be_written(run: Run) -> None:
    """Every `option=value` of the table is one that the pipeline takes, the default first."""
    for one in json.loads(run("passes", "--json").out)["passes"]:
        default = Pipeline.parse(one["name"])
        for option in one["options"]:
            first, *others = option["values"].split("|")
            text = f"{one['name']}{{{option['name']}={first}}}"
            assert Pipeline.parse(text) == default
            for value in others:
                text = f"{one['name']}{{{option['name']}={value}}}"
                assert str(Pipeline.parse(text)) == text


# Subcommands of plug-ins -----------------------------------------------------------------------

GREET = """
def greet(name: str, loud: bool = False) -> None:
    'Say hello.'
    print(('HELLO ' if loud else 'hello ') + name)
"""


def test_a_subcommand_of_a_plugin(run: Run, site: Path) -> None:
    package(site, "greeter", GREET, commands="hi = greeter:greet")
    assert run("hi", "you", "--loud").out == "HELLO you\n"
    assert run("hi", "you").out == "hello you\n"  # a second time in one process
    shown = run("--help").out
    assert "Say hello." in shown
    assert "inspect" in shown
    assert run("hi").code == 2


def test_a_plugin_does_not_replace_a_subcommand_of_ours(run: Run, site: Path, model: Path) -> None:
    package(site, "thief", GREET, commands="inspect = thief:greet\nhello = thief:greet")
    assert json.loads(run("inspect", model, "--json").out)["model"]["nodes"] == 15
    assert run("hello", "you").out == "hello you\n"
