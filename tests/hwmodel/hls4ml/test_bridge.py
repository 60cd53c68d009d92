"""hls4ml run as a tool of its own: what is asked of it, what is made of what it says, and, where
it is set up, that its C++ computes the network.
"""

from __future__ import annotations

import json
import shutil
import stat
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.helper as oh
import pytest
from onnx import TensorProto, numpy_helper

from graphopt import optimize
from graphopt.errors import ModelError
from graphopt.ir import Model, save
from graphopt.verify.runtime import runner
from hwmodel.hls4ml import bridge
from hwmodel.hls4ml.fixed_point import FixedPoint, narrowest
from hwmodel.hls4ml.lowering import lowered
from tests.support.benchmarks import benchmark

blocks = benchmark("quantized_blocks")
DUMP = Path(__file__).parents[1] / "data" / "hls4ml_block.json"
X = np.random.default_rng(0).normal(size=(4, 4, 6, 6)).astype(np.float32)


def fixed(proto: onnx.ModelProto, *output: int) -> onnx.ModelProto:
    """The model for one sample, with the sizes of its output."""
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    if output:
        dims = proto.graph.output[0].type.tensor_type.shape.dim
        for dim, size in zip(dims, (1, *output), strict=True):
            dim.dim_value = size
    return proto


def block(form: str, seed: int = 1, signed: bool = True) -> onnx.ModelProto:
    """A residual block with 4-bit weights and activations, on maps of 6 x 6."""
    proto = blocks.drawn(form, 4, signed, seed, X if signed else np.abs(X))
    return fixed(proto, *((8, 3, 3) if form == "B, projection" else (4, 6, 6)))


def network() -> onnx.ModelProto:
    """An average, a flattened map and a matrix behind a convolution, all quantized."""
    net = blocks.Block(X, 3, 4, True)
    x = net.relu(net.conv(net.quantized("x", signed=True), 4, 6, 3))
    x = net.op("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = net.op("Flatten", net.quantized(x, signed=True), axis=1)
    weight = net.rng.normal(size=(5, 54))
    parameters = [net.constant(value) for value in (np.abs(weight).max() / 7, 0.0, 4)]
    read = net.op("Quant", net.constant(weight), *parameters, domain=blocks.DOMAIN, signed=1,
                  narrow=1, rounding_mode="ROUND")  # fmt: skip
    y = net.op("Gemm", x, read, net.constant(net.rng.normal(size=5)), transB=1)
    proto = net.model(y)
    del proto.graph.output[0].type.tensor_type.shape.dim[2:]
    return fixed(proto, 5)


def both(proto: onnx.ModelProto, x: Any) -> tuple[Any, Any]:
    """What the network gives, channels last, and what it gives as it is written for hls4ml."""
    (wanted,) = runner(Model.load(proto)).run({"x": x}).values()
    new = lowered(Model.load(proto))
    (found,) = runner(Model.load(new.proto)).run({"x": np.moveaxis(x, 1, -1)}).values()
    return np.moveaxis(wanted, 1, -1) if wanted.ndim > 2 else wanted, found


@pytest.mark.parametrize("form", list(blocks.FORMS))
@pytest.mark.parametrize("signed", [False, True])
def test_a_block_is_written_with_integers_and_computes_the_same(form: str, signed: bool) -> None:
    proto = block(form, signed=signed)
    wanted, found = both(proto, X[:1])
    # Where the last quantizer's scale and the addends' stand as 2 to 3, half of the sums lie on a
    # half, and the last bit of a scale decides.
    codes = np.abs(found - wanted) / np.unique(wanted[wanted > 0])[0]
    assert codes.max() < 1.01
    assert (codes > 1e-3).mean() < 0.1
    new = lowered(Model.load(proto)).proto
    assert "Transpose" not in {node.op_type for node in new.graph.node}
    constants = {t.name: numpy_helper.to_array(t) for t in new.graph.initializer}
    scales = [constants[node.input[1]] for node in new.graph.node if node.op_type == "Quant"]
    assert scales
    assert all(np.frexp(scale)[0] == 0.5 for scale in scales)  # each one power of two
    onnx.checker.check_model(new)


def test_a_scale_goes_to_every_reader_of_a_fork() -> None:
    # hls4ml's own insert_node gives it to the first.
    new = lowered(Model.load(block("A, lattice"))).proto
    (codes,) = {n.input[0] for n in new.graph.node if n.op_type == "Conv"} & {
        n.input[0] for n in new.graph.node if n.op_type == "Mul"
    }
    assert next(n.op_type for n in new.graph.node if n.output[0] == codes) == "Quant"


def test_an_average_keeps_the_bits_of_its_division() -> None:
    new = lowered(Model.load(network()))
    (node,) = (n for n in new.proto.graph.node if n.op_type == "AveragePool")
    assert new.types[node.name] == {"result": "ufixed<6,4>"}  # of four codes of four bits


def test_a_float_network_is_written_too() -> None:
    rng = np.random.default_rng(2)
    arrays = {
        "w": rng.normal(size=(3, 4, 3, 3)),
        "b": rng.normal(size=3),
        "scale": rng.uniform(0.5, 2, 3),
        "shift": rng.normal(size=3),
        "mean": rng.normal(size=3),
        "variance": rng.uniform(0.5, 2, 3),
        "m": rng.normal(size=(3 * 36, 2)),
    }
    nodes = [
        oh.make_node("Conv", ["x", "w", "b"], ["c"], pads=[1] * 4),
        oh.make_node("BatchNormalization", ["c", "scale", "shift", "mean", "variance"], ["n"]),
        oh.make_node("Relu", ["n"], ["r"]),
        oh.make_node("Flatten", ["r"], ["f"]),
        oh.make_node("MatMul", ["f", "m"], ["y"]),
    ]
    graph = oh.make_graph(
        nodes, "float",
        [oh.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 6, 6])],
        [oh.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2])],
        [numpy_helper.from_array(a.astype(np.float32), name) for name, a in arrays.items()],
    )  # fmt: skip
    proto = oh.make_model(graph, opset_imports=[oh.make_opsetid("", 17)], ir_version=8)
    wanted, found = both(proto, X[:1])
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("values", "bits", "wanted"),
    [
        ([0.5, 1.25], 24, FixedPoint(3, 1, False)),
        ([-1.0, 0.75], 24, FixedPoint(4, 2, True)),
        ([3.0], 24, FixedPoint(2, 2, False)),
        ([0.1], 8, FixedPoint(8, -3, False)),
        ([0.999], 8, FixedPoint(8, 1, False)),  # rounds up to 1
        ([0.0], 8, FixedPoint(2, 2, True)),
    ],
)
def test_the_narrowest_type(values: list[float], bits: int, wanted: FixedPoint) -> None:
    found = narrowest(np.asarray(values, np.float32), bits)
    assert found == wanted
    error = np.abs(found.rounded(np.asarray(values)) - values).max()
    assert error <= found.step / 2


def test_a_bias_may_be_quantized() -> None:
    net = blocks.Block(X, 1, 4, True, True)
    x = net.quantized("x", signed=True)
    shifted = net.op("Add", net.conv(x, 4, 4, 3), net.quantized(
        net.constant(net.rng.normal(size=(4, 1, 1))), signed=True, scale=0.25))  # fmt: skip
    wanted, found = both(fixed(net.model(net.relu(shifted)), 4, 6, 6), X[:1])
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(
    ("number", "value", "message"),
    [(3, 1.0, "one with a sign"), (2, 3.0, None)],
)
def test_a_bit_and_a_zero_point(number: int, value: float, message: str | None) -> None:
    proto = block("A, power of two")
    node = next(n for n in proto.graph.node if n.op_type == "Quant" and n.input[0] == "x")
    tensor = next(t for t in proto.graph.initializer if t.name == node.input[number])
    tensor.CopyFrom(numpy_helper.from_array(np.asarray(value, np.float32), tensor.name))
    if message is None:
        wanted, found = both(proto, X[:1])
        np.testing.assert_allclose(found, wanted, atol=1e-6)
    else:
        with pytest.raises(ModelError, match=message):
            lowered(Model.load(proto))


def test_what_has_no_form_for_hls4ml_is_named() -> None:
    proto = block("A, power of two")
    node = next(n for n in proto.graph.node if n.op_type == "Relu")
    node.op_type = "Cos"
    with pytest.raises(ModelError, match=r"relu_\d+ \(Cos\) cannot be written for hls4ml"):
        lowered(Model.load(proto))


# The process.


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Puts a program in the place of hls4ml's interpreter; gives a block to convert."""

    def put(program: str) -> Path:
        folder = tmp_path / "hls4ml" / "bin"
        folder.mkdir(parents=True, exist_ok=True)
        script = folder / "program.py"
        script.write_text(
            textwrap.dedent(
                f"""
                import json, os, sys, time
                from pathlib import Path
                request = json.loads(Path(sys.argv[2]).read_text())
                assert sys.argv[1].endswith("front_end.py")
                folder = Path(request["folder"])
                dump = json.loads(Path({str(DUMP)!r}).read_text())
                def say(step, reason="", **more):
                    record = dict(step=step, reason=reason, seconds={{"read": 1}}, **more)
                    (folder / "answer.json").write_text(json.dumps(record))
                """
            )
            + textwrap.dedent(program)
        )
        python = folder / "python"
        python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{script}" "$@"\n')
        python.chmod(python.stat().st_mode | stat.S_IEXEC)
        monkeypatch.setenv("GRAPHOPT_HLS4ML", str(tmp_path / "hls4ml"))
        onnx.save(block("A, power of two"), tmp_path / "model.onnx")
        return tmp_path / "model.onnx"

    return put


ACCEPTS = """
import numpy as np
depths = request["depths"] or {name: s["depth"] for name, s in dump["streams"].items()}
written = {dump["streams"][name]["variable"]: depth for name, depth in depths.items()
           if not name.startswith("global")}
say("done", dump=dump, written=written)
if request["until"] == "run":
    np.save(folder / "output0.npy", np.zeros((len(np.load(folder / "inputs.npy")), 144)))
"""


def test_our_depths_go_into_the_project(tool: Callable[[str], Path], tmp_path: Path) -> None:
    model = tool(ACCEPTS)
    ours = bridge.convert(model, tmp_path / "out")
    assert ours.accepted
    assert (ours.step, ours.unsized) == ("done", "")
    assert ours.bits * 20 < ours.default_bits
    assert set(ours.depths) == set(
        json.loads((tmp_path / "out/request.json").read_text())["depths"]
    )
    theirs = bridge.convert(model, tmp_path / "out", depths="default")
    assert theirs.bits == theirs.default_bits == ours.default_bits


def test_the_input_has_room_for_what_its_quantizer_clips(
    tool: Callable[[str], Path], tmp_path: Path
) -> None:
    bridge.convert(tool(ACCEPTS), tmp_path / "out")
    asked = json.loads((tmp_path / "out" / "request.json").read_text())
    kind, low, high = bridge.input_range(Model.load(block("A, power of two")), "fixed<16,6>")
    assert asked["input"] == str(kind)
    assert -(2.0 ** (kind.integer - 1)) < low < 0 < high < 2.0 ** (kind.integer - 1)
    with pytest.raises(bridge.Hls4mlError, match="is no precision"):
        bridge.input_range(Model.load(block("A, power of two")), "int8")


@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")
def test_outputs_are_compared(tool: Callable[[str], Path], tmp_path: Path) -> None:
    found = bridge.c_simulate(tool(ACCEPTS), tmp_path / "out", samples=3, seed=5)
    assert found.comparison is not None
    assert found.comparison.samples == 3
    # The program says zero throughout.
    assert found.comparison.largest == found.comparison.span > 0
    assert 0 < found.comparison.differing < 1
    came, lines = bridge.report(tmp_path / "model.onnx", tmp_path / "out", 3, 5)
    assert came
    assert "C simulation of 3 samples" in lines[-1]


@pytest.mark.parametrize(
    ("program", "step", "reason"),
    [
        ("say('convert', 'Exception: no such layer'); sys.exit(1)", "convert", "no such layer"),
        ("print('last words'); sys.exit(3)", "start", "last words"),
        ("sys.exit(3)", "start", "ended with 3"),
        ("say('run'); os.kill(os.getpid(), 11)", "run", "SIGSEGV"),
        ("print('a.cpp:3: error: no x'); say('compile', 'Exception: Failed'); sys.exit(1)",
         "compile", "the compiler says: a.cpp:3: error: no x"),
    ],
)  # fmt: skip
def test_where_it_stops(
    tool: Callable[[str], Path], tmp_path: Path, program: str, step: str, reason: str
) -> None:
    found = bridge.convert(tool(program), tmp_path / "out")
    assert not found.accepted
    assert found.step == step
    assert reason in found.reason
    came, lines = bridge.report(tmp_path / "model.onnx", tmp_path / "out")
    assert not came
    assert lines[0].startswith(f"hls4ml: stopped at {step}") or shutil.which("g++") is None


def test_it_is_stopped_when_it_takes_too_long(tool: Callable[[str], Path], tmp_path: Path) -> None:
    found = bridge.convert(tool("say('compile'); time.sleep(60)"), tmp_path / "out", limit=1.5)
    assert (found.step, found.accepted) == ("compile", False)
    assert "still running after 2 seconds" in found.reason


def test_a_layer_that_we_do_not_know_keeps_the_depths(
    tool: Callable[[str], Path], tmp_path: Path
) -> None:
    model = tool('dump["layers"][3]["class"] = "Garnet"\n' + ACCEPTS)
    found = bridge.convert(model, tmp_path / "out")
    assert found.accepted
    assert "Garnet" in found.unsized
    assert found.bits == found.default_bits


def test_a_network_without_a_form_ends_before_hls4ml(
    tool: Callable[[str], Path], tmp_path: Path
) -> None:
    model = tool("raise SystemExit('not to be asked')")
    proto = onnx.load(model)
    next(n for n in proto.graph.node if n.op_type == "Relu").op_type = "Cos"
    onnx.save(proto, model)
    found = bridge.convert(model, tmp_path / "out")
    assert found.step == "lower"
    assert "(Cos)" in found.reason


def test_without_a_compiler(
    tool: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tool(ACCEPTS)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = bridge.c_simulate(model, tmp_path / "out")
    assert (found.converted.step, found.comparison) == ("compile", None)
    assert "g++ is not in the PATH" in found.converted.reason


def test_where_it_is_not_set_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHOPT_HLS4ML", str(tmp_path / "nowhere"))
    onnx.save(block("A, power of two"), tmp_path / "model.onnx")
    with pytest.raises(bridge.Hls4mlError, match=r"pip install hls4ml==1\.3\.0 qonnx"):
        bridge.convert(tmp_path / "model.onnx", tmp_path / "out")
    monkeypatch.delenv("GRAPHOPT_HLS4ML")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert bridge.environment() == tmp_path / "graphopt" / "hls4ml"
    monkeypatch.setattr("importlib.util.find_spec", lambda _: object())
    assert bridge.environment() is None
    assert bridge.interpreter() == Path(sys.executable)


# hls4ml itself.


def _is_set_up() -> bool:
    try:
        bridge.interpreter()
    except bridge.Hls4mlError:
        return False
    return shutil.which("g++") is not None


live = pytest.mark.skipif(not _is_set_up(), reason="hls4ml is not set up, or there is no g++")


@live
@pytest.mark.parametrize("form", ["A, power of two", "B, pointwise"])
def test_the_cpp_computes_a_block_with_and_without_its_join(form: str, tmp_path: Path) -> None:
    before = tmp_path / "before.onnx"
    onnx.save(block(form), before)
    outcome = optimize(before, preset="plain")
    assert outcome.model.evidence.rewrites
    save(outcome.model, tmp_path / "after.onnx")
    classes = []
    for name in ("before", "after"):
        found = bridge.c_simulate(tmp_path / f"{name}.onnx", tmp_path / name, samples=4)
        assert found.converted.accepted, found.converted.reason
        assert not found.converted.unsized
        assert found.converted.bits * 10 < found.converted.default_bits
        assert found.comparison is not None
        # Where scales are no powers of two, sums of codes can lie on a half.
        assert found.comparison.differing <= (0 if "power" in form else 0.02)
        classes.append({kind for _, kind in found.converted.layers})
    assert {"Clone", "Merge"} <= classes[0]
    assert not {"Clone", "Merge"} & classes[1]


@live
def test_the_cpp_computes_averages_and_matrices(tmp_path: Path) -> None:
    onnx.save(network(), tmp_path / "model.onnx")
    found = bridge.c_simulate(tmp_path / "model.onnx", tmp_path / "out", samples=20)
    assert found.converted.accepted, found.converted.reason
    assert found.comparison is not None
    assert found.comparison.largest < 1e-5 * found.comparison.span


@live
def test_what_hls4ml_rejects_is_said_in_its_words(tmp_path: Path) -> None:
    # hls4ml rounds to the nearest even number, or down.
    proto = block("A, power of two")
    for node in proto.graph.node:
        for attribute in node.attribute:
            if attribute.name == "rounding_mode":
                attribute.s = b"CEIL"
    onnx.save(proto, tmp_path / "model.onnx")
    found = bridge.convert(tmp_path / "model.onnx", tmp_path / "out")
    assert (found.step, found.accepted) == ("convert", False)
    assert "Rounding mode CEIL not supported" in found.reason
