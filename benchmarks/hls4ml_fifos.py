"""FIFOs of residual blocks in hls4ml: its default beside ours, for models that it converted itself.

    python benchmarks/hls4ml_fifos.py --hls4ml-python /path/to/python

hls4ml lives in an environment of its own (`pip install hls4ml qonnx`); the conversion needs no
Vivado. A block of two 3x3 convolutions is made here and converted there (io_stream, Vitis); its
layers and FIFO depths come back as JSON, our depths go there, and the C++ that hls4ml writes is
read for what it makes of them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.helper as oh
from onnx import TensorProto, numpy_helper

from hwmodel import hls4ml
from hwmodel.fifo import deadlock_free
from hwmodel.simulate import simulate

REPOSITORY = Path(__file__).parents[1]

BRIDGE = """
import json, re, sys, warnings
warnings.filterwarnings("ignore")
from pathlib import Path
from qonnx.core.modelwrapper import ModelWrapper
from qonnx.transformation.channels_last import ConvertToChannelsLastAndClean
from qonnx.util.cleanup import cleanup_model
import hls4ml as tool
folder, repository, reuse = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
sys.path.insert(0, repository)
from hwmodel.hls4ml import apply_depths, dump
model = cleanup_model(ModelWrapper(str(folder / "block.onnx")))
model = model.transform(ConvertToChannelsLastAndClean(make_input_channels_last=True))
model = cleanup_model(model)
config = tool.utils.config_from_onnx_model(
    model, granularity="name", backend="Vitis", default_precision="fixed<16,6>")
config["Model"]["ReuseFactor"] = reuse
for layer in config["LayerName"].values():
    layer["ReuseFactor"] = reuse
graph = tool.converters.convert_from_onnx_model(
    model, output_dir=str(folder / "project"), io_type="io_stream", backend="Vitis",
    hls_config=config)
ours = folder / "ours.json"
if ours.exists():
    apply_depths(graph, json.loads(ours.read_text()))
graph.write()
written = {}
for source in (folder / "project" / "firmware").glob("*.cpp"):
    for name, depth in re.findall(r"HLS STREAM variable=(\\w+) depth=(\\d+)", source.read_text()):
        written[name] = int(depth)
(folder / "dump.json").write_text(json.dumps({**dump(graph), "written": written}))
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
        oh.make_node("Relu", ["s"], ["t"]),
        oh.make_node("GlobalAveragePool", ["t"], ["g"]),
        oh.make_node("Flatten", ["g"], ["f"], axis=1),
        oh.make_node("MatMul", ["f", "head"], ["y"]),
    ]
    square = (channels, channels, 3, 3)
    shapes = {"w0": (channels, 3, 3, 3), "w1": square, "w2": square}
    shapes |= {f"b{index}": (channels,) for index in range(3)} | {"head": (channels, 10)}
    graph = oh.make_graph(
        nodes,
        "block",
        [oh.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, side, side])],
        [oh.make_tensor_value_info("y", TensorProto.FLOAT, [1, 10])],
        [
            numpy_helper.from_array((0.1 * rng.normal(size=shape)).astype(np.float32), name)
            for name, shape in shapes.items()
        ],
    )
    return oh.make_model(graph, opset_imports=[oh.make_opsetid("", 13)], ir_version=8)


def converted(python: str, folder: Path, reuse: int) -> dict[str, Any]:
    """What hls4ml makes of block.onnx there, with the depths of ours.json if there are some."""
    done = subprocess.run(
        [python, "-c", BRIDGE, str(folder), str(REPOSITORY), str(reuse)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"hls4ml failed: {done.stderr.strip().splitlines()[-1]}")
    record: dict[str, Any] = json.loads((folder / "dump.json").read_text())
    return record


def compared(python: str, side: int, channels: int, reuse: int) -> str:
    """A row of the table."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        onnx.save(block(channels, side), folder / "block.onnx")
        record = converted(python, folder, reuse)
        theirs = hls4ml.design(record)
        profiled = hls4ml.profiled(theirs)
        ours = hls4ml.sized(theirs)
        depths = hls4ml.stream_depths(ours)
        (folder / "ours.json").write_text(json.dumps(depths))
        again = converted(python, folder, reuse)
    for which, made, wanted in (
        ("default", record, hls4ml.default_depths(record)),
        ("ours", again, depths),
    ):
        names = {made["streams"][stream]["variable"]: depth for stream, depth in wanted.items()}
        if made["written"] != names:
            raise SystemExit(f"hls4ml wrote {made['written']}, not the {which} depths {names}.")
    skip = next(name for name in depths if name.endswith("cpy2"))
    alive = deadlock_free(theirs, skip)
    words = [each.stream[skip].depth or 0 for each in (theirs, profiled, ours)]
    held = [hls4ml.fifo_bits(each) for each in (theirs, profiled, ours)]
    cycles = [simulate(each, frames=4).interval for each in (theirs, profiled, ours)]
    return (
        f"{side:>3}x{side:<3} {reuse:5d} | {words[0]:7d} {words[1]:8d} {words[2]:5d} "
        f"{words[0] / words[2]:5.1f}x {alive:6d} {words[0] / alive:5.1f}x | "
        f"{held[0]:9,d} {held[1]:9,d} {held[2]:7,d} {held[0] / held[2]:6.1f}x | "
        f"{cycles[0]:7d} {cycles[1]:8d} {cycles[2]:6d}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hls4ml-python", default=sys.executable)
    options = parser.parse_args()
    probe = [options.hls4ml_python, "-c", "import hls4ml, qonnx, networkx"]
    if subprocess.run(probe, capture_output=True, check=False).returncode:
        print("hls4ml is not there: name a Python that has it with --hls4ml-python.")
        return
    print(
        "A stem and a residual block of two 3x3 convolutions in hls4ml, io_stream, fixed<16,6>\n"
        "map     reuse |    words of the skip's FIFO               | "
        "  bits of all FIFOs                | cycles a frame\n"
        "              | default profiled  ours  ratio  alive  ratio | "
        "  default  profiled    ours   ratio | default profiled   ours"
    )
    for side, channels, reuse in ((16, 8, 1), (16, 8, 8), (32, 16, 1), (32, 16, 16)):
        print(compared(options.hls4ml_python, side, channels, reuse))
    print(
        "default: read from what hls4ml writes; profiled: what its own optimization would\n"
        "measure, by our simulator instead of a co-simulation; ours: the smallest together at\n"
        "equal cycles, set in hls4ml's model and found again in what it writes; alive: the\n"
        "skip's smallest depth without a deadlock. Ratios are of the default. Cycles are of our\n"
        "model of its loops."
    )


if __name__ == "__main__":
    main()
