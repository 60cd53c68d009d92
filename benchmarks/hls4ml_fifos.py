"""FIFOs of residual blocks in hls4ml: its default beside ours, for models that it converted itself.

    python benchmarks/hls4ml_fifos.py --hls4ml-python /path/to/python

hls4ml lives in an environment of its own (`pip install hls4ml qonnx`); the conversion needs no
Vivado. A block of two 3x3 convolutions is made here, converted there (io_stream, Vitis), and its
layers and FIFO depths come back as JSON.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnx.helper as oh
from onnx import TensorProto, numpy_helper

from hwmodel import hls4ml
from hwmodel.fifo import size
from hwmodel.simulate import simulate

REPOSITORY = Path(__file__).parents[1]

BRIDGE = """
import json, sys, warnings
warnings.filterwarnings("ignore")
from qonnx.core.modelwrapper import ModelWrapper
from qonnx.transformation.channels_last import ConvertToChannelsLastAndClean
from qonnx.util.cleanup import cleanup_model
import hls4ml as tool
sys.path.insert(0, sys.argv[3])
from hwmodel.hls4ml import apply_depths, dump
model = cleanup_model(ModelWrapper(sys.argv[1]))
model = cleanup_model(model.transform(ConvertToChannelsLastAndClean()))
config = tool.utils.config_from_onnx_model(
    model, granularity="name", backend="Vitis", default_precision="fixed<16,6>")
config["Model"]["ReuseFactor"] = int(sys.argv[4])
for layer in config["LayerName"].values():
    layer["ReuseFactor"] = int(sys.argv[4])
graph = tool.converters.convert_from_onnx_model(
    model, output_dir=sys.argv[2] + "/project", io_type="io_stream", backend="Vitis",
    hls_config=config)
record = dump(graph)
apply_depths(graph, {name: s["depth"] for name, s in record["streams"].items() if s["depth"]})
json.dump(record, open(sys.argv[2] + "/dump.json", "w"))
"""


def block(channels: int, side: int) -> onnx.ModelProto:
    """A stem and a residual block of two 3x3 convolutions."""
    rng = np.random.default_rng(0)
    conv = {
        "kernel_shape": [3, 3],
        "pads": [1] * 4,
        "strides": [1, 1],
        "dilations": [1, 1],
        "group": 1,
    }
    nodes = [
        oh.make_node("Conv", ["x", "w0", "b0"], ["a0"], **conv),
        oh.make_node("Relu", ["a0"], ["r0"]),
        oh.make_node("Conv", ["r0", "w1", "b1"], ["a1"], **conv),
        oh.make_node("Relu", ["a1"], ["r1"]),
        oh.make_node("Conv", ["r1", "w2", "b2"], ["a2"], **conv),
        oh.make_node("Add", ["a2", "r0"], ["s"]),
        oh.make_node("Relu", ["s"], ["y"]),
    ]
    square = (channels, channels, 3, 3)
    shapes = {"w0": (channels, 3, 3, 3), "w1": square, "w2": square}
    shapes |= {f"b{index}": (channels,) for index in range(3)}
    graph = oh.make_graph(
        nodes,
        "block",
        [oh.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, side, side])],
        [oh.make_tensor_value_info("y", TensorProto.FLOAT, [1, channels, side, side])],
        [
            numpy_helper.from_array((0.1 * rng.normal(size=shape)).astype(np.float32), name)
            for name, shape in shapes.items()
        ],
    )
    return oh.make_model(graph, opset_imports=[oh.make_opsetid("", 13)], ir_version=8)


def converted(python: str, model: onnx.ModelProto, reuse: int) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "block.onnx"
        onnx.save(model, path)
        done = subprocess.run(
            [python, "-c", BRIDGE, str(path), folder, str(REPOSITORY), str(reuse)],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"hls4ml failed: {done.stderr.strip().splitlines()[-1]}")
        return json.loads((Path(folder) / "dump.json").read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hls4ml-python", default=sys.executable)
    options = parser.parse_args()
    probe = [options.hls4ml_python, "-c", "import hls4ml, qonnx, networkx"]
    if subprocess.run(probe, capture_output=True, check=False).returncode:
        print("hls4ml is not there: name a Python that has it with --hls4ml-python.")
        return
    print("FIFO bits of a stem and a two-convolution residual block, hls4ml io_stream, fixed<16,6>")
    print(f"{'map':>7} {'reuse':>6} {'skip: default':>14} {'ours':>6} {'ratio':>6}"
          f" {'all: default':>13} {'ours':>8} {'ratio':>6}"
          f" {'cycles: default':>16} {'ours':>7}")  # fmt: skip
    for side, channels, reuse in ((16, 8, 1), (16, 8, 8), (32, 16, 1), (32, 16, 16)):
        record = converted(options.hls4ml_python, block(channels, side), reuse)
        theirs = hls4ml.design(record)
        before = simulate(theirs, frames=4)
        ours = size(theirs).design
        after = simulate(ours, frames=4)
        skip = next(n for n in ours.stream if n.endswith("cpy2"))
        words = theirs.stream[skip].depth or 0, ours.stream[skip].depth or 0
        bits = hls4ml.fifo_bits(theirs), hls4ml.fifo_bits(ours)
        print(
            f"{side:>3}x{side:<3} {reuse:6d} "
            f"{words[0]:14d} {words[1]:6d} {words[0] / words[1]:5.1f}x "
            f"{bits[0]:13,d} {bits[1]:8,d} {bits[0] / bits[1]:5.1f}x "
            f"{before.interval:16d} {after.interval:7d}"
        )


if __name__ == "__main__":
    main()
