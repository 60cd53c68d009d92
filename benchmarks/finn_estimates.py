"""FINN's estimates, live: every number that finn-plus gives for a graph, beside ours.

    python benchmarks/finn_estimates.py --finn-python /path/to/finn-environment/bin/python

The hardware graphs of four networks are written here node by node, with the attributes that FINN's
conversion gives them (streamlining and conversion themselves are not run: they take minutes and
change nothing in the formulas). finn-plus then specializes the layers, puts in width converters
and FIFOs, numbers the nodes and estimates; the graph it arrives at is read back by `hwmodel.finn`.
Compared are all keys of its resource and cycle reports for every node, converters and FIFOs among
them, its list of alternatives, and the numbers of converters and FIFOs that `hwmodel.finn` gives
to the same network without them. Foldings, FIFO depths and memory
styles are drawn at random; the first folding of each network is 1.

The environment needs finn-plus 1.6.1; Vivado is not needed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

PARTS = {
    "DSP48E1": "xc7z020clg400-1",
    "DSP48E2": "xczu7ev-ffvc1156-2-e",
    "DSP58": "xcvc1902-vsva2197-2MP-e-S",
}
FIFO_STYLES = ("auto", "auto", "srl", "block", "distributed", "ultra")
DOMAIN = "finn.custom_op.fpgadataflow"


# ------------------------------------------------------------------------------- networks


@dataclass
class Graph:
    """Writes a graph of FINN's unspecialized hardware layers.

    `divisor` and `choice` draw the folding.
    """

    draw: random.Random | None
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)
    shapes: dict[str, list[int]] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)

    def divisor(self, *wholes: int, most: int = 64) -> int:
        if self.draw is None:
            return 1
        limit = min(*wholes, most) if len(wholes) > 1 else min(wholes[0], most)
        return self.draw.choice(
            [n for n in range(1, limit + 1) if all(whole % n == 0 for whole in wholes)]
        )

    def choice(self, *values: str) -> str:
        return values[0] if self.draw is None else self.draw.choice(values)

    def flag(self) -> int:
        return 0 if self.draw is None else self.draw.randint(0, 1)

    def input(self, shape: list[int], kind: str) -> str:
        self.shapes["x"], self.types["x"] = shape, kind
        return "x"

    def constant(self, shape: tuple[int, ...], low: int, high: int) -> str:
        name = f"c{len(self.constants)}"
        values = np.random.default_rng(len(self.constants)).integers(low, high, shape)
        self.constants.append(numpy_helper.from_array(values.astype(np.float32), name))
        return name

    def node(
        self, operator: str, inputs: list[str], shape: list[int], kind: str, **attributes: object
    ) -> str:
        return self.node_of(operator, inputs, [(shape, kind)], **attributes)[0]

    def node_of(
        self,
        operator: str,
        inputs: list[str],
        outputs: list[tuple[list[int], str]],
        **attributes: object,
    ) -> list[str]:
        names = [f"t{len(self.nodes)}_{index}" for index in range(len(outputs))]
        for name, (shape, kind) in zip(names, outputs, strict=True):
            self.shapes[name], self.types[name] = shape, kind
        name = f"{operator}_draft_{len(self.nodes)}"
        self.nodes.append(
            helper.make_node(
                operator,
                inputs,
                names,
                name,
                domain=DOMAIN,
                backend="fpgadataflow",
                **attributes,
            )
        )
        return names

    def window(
        self, x: str, kernel: tuple[int, int], stride: tuple[int, int], depthwise: int = 0
    ) -> str:
        _, height, width, channels = self.shapes[x]
        out = [(height - kernel[0]) // stride[0] + 1, (width - kernel[1]) // stride[1] + 1]
        parallel = self.flag() if kernel != (1, 1) else 0
        simd = self.divisor(channels)
        if parallel and not depthwise:
            simd = channels
        return self.node(
            "ConvolutionInputGenerator",
            [x],
            [1, *out, kernel[0] * kernel[1] * channels],
            self.types[x],
            ConvKernelDim=kernel,
            IFMChannels=channels,
            IFMDim=[height, width],
            OFMDim=out,
            SIMD=simd,
            Stride=stride,
            Dilation=[1, 1],
            inputDataType=self.types[x],
            outputDataType=self.types[x],
            depthwise=depthwise,
            parallel_window=parallel,
            ram_style=self.choice("distributed", "auto", "block", "ultra"),
        )

    def pad(self, x: str, pad: int) -> str:
        _, height, width, channels = self.shapes[x]
        return self.node(
            "FMPadding",
            [x],
            [1, height + 2 * pad, width + 2 * pad, channels],
            self.types[x],
            ImgDim=[height, width],
            Padding=[pad] * 4,
            NumChannels=channels,
            SIMD=self.divisor(channels),
            inputDataType=self.types[x],
            numInputVectors=1,
        )

    def matrix(self, x: str, channels: int, weight: str, inside: str | None = None) -> str:
        """An MVAU; `inside`: the type after thresholds that it has inside."""
        *vectors, mw = self.shapes[x]
        bits = int(weight.removeprefix("INT"))
        accumulator = f"INT{bits + int(''.join(filter(str.isdigit, self.types[x]))) + 8}"
        inputs = [x, self.constant((mw, channels), -(2 ** (bits - 1)) + 1, 2 ** (bits - 1))]
        if inside:
            steps = 2 ** int(inside.removeprefix("UINT")) - 1
            inputs.append(self.constant((channels, steps), -50, 50))
        memory = self.choice("internal_decoupled", "internal_decoupled", "internal_embedded")
        return self.node(
            "MVAU",
            inputs,
            [*vectors, channels],
            inside or accumulator,
            MW=mw,
            MH=channels,
            SIMD=self.divisor(mw),
            PE=self.divisor(channels),
            numInputVectors=vectors,
            inputDataType=self.types[x],
            weightDataType=weight,
            outputDataType=inside or accumulator,
            accDataType=accumulator,
            noActivation=0 if inside else 1,
            resType=self.choice("auto", "lut", "dsp"),
            mem_mode=memory,
            ram_style=self.choice("auto", "block", "distributed", "ultra"),
            ram_style_thresholds=self.choice("auto", "block", "distributed"),
        )

    def depthwise(self, x: str, channels: int, weight: str) -> str:
        _, height, width, _ = self.shapes[x]
        bits = int(weight.removeprefix("INT"))
        weights = self.constant((channels, 1, 3, 3), -(2 ** (bits - 1)) + 1, 2 ** (bits - 1))
        return self.node(
            "VVAU",
            [x, weights],
            [1, height, width, channels],
            "INT16",
            Channels=channels,
            Kernel=[3, 3],
            Dim=[height, width],
            PE=self.divisor(channels),
            SIMD=self.divisor(9),
            inputDataType=self.types[x],
            weightDataType=weight,
            outputDataType="INT16",
            accDataType="INT16",
            noActivation=1,
            resType=self.choice("auto", "lut", "dsp"),
            ram_style=self.choice("auto", "block", "distributed", "ultra"),
        )

    def threshold(self, x: str, kind: str) -> str:
        *vectors, channels = self.shapes[x]
        steps = 2 ** int(kind.removeprefix("UINT")) - 1
        triggers = self.draw.choice([(0, 0), (64, 512), (16, 2048)]) if self.draw else (0, 0)
        backend = self.choice("rtl", "rtl", "hls")
        return self.node(
            "Thresholding",
            [x, self.constant((channels, steps), -100, 100)],
            [*vectors, channels],
            kind,
            NumChannels=channels,
            PE=self.divisor(channels),
            numSteps=steps,
            numInputVectors=vectors,
            inputDataType=self.types[x],
            weightDataType=self.types[x],
            outputDataType=kind,
            preferred_impl_style=backend,
            **(
                {"depth_trigger_bram": triggers[0], "depth_trigger_uram": triggers[1]}
                if backend == "rtl"
                else {"ram_style": self.choice("distributed", "block", "ultra")}
            ),
        )

    def fork(self, x: str) -> list[str]:
        *vectors, channels = self.shapes[x]
        return self.node_of(
            "DuplicateStreams",
            [x],
            [(self.shapes[x], self.types[x])] * 2,
            NumChannels=channels,
            PE=self.divisor(channels),
            NumOutputStreams=2,
            numInputVectors=vectors,
            inputDataType=self.types[x],
            outFIFODepths=[2, 2],
        )

    def add(self, x: str, y: str, kind: str) -> str:
        shape = self.shapes[x]
        return self.node(
            "ElementwiseAdd",
            [x, y],
            shape,
            kind,
            lhs_dtype=self.types[x],
            rhs_dtype=self.types[y],
            out_dtype=kind,
            lhs_shape=shape,
            rhs_shape=shape,
            out_shape=shape,
            PE=self.divisor(shape[-1]),
        )

    def multiply(self, x: str, shape: tuple[int, ...], kind: str) -> str:
        return self.node(
            "ElementwiseMul",
            [x, self.constant(shape, -7, 8)],
            self.shapes[x],
            kind,
            lhs_dtype=self.types[x],
            rhs_dtype="INT4",
            out_dtype=kind,
            lhs_shape=self.shapes[x],
            rhs_shape=shape,
            out_shape=self.shapes[x],
            rhs_style="const",
            PE=self.divisor(self.shapes[x][-1]),
            mem_mode=self.choice("internal_embedded", "internal_decoupled"),
            ram_style=self.choice("auto", "block", "distributed", "ultra"),
        )

    def pool(self, x: str, kernel: tuple[int, int], function: str, kind: str) -> str:
        x = self.window(x, kernel, kernel, depthwise=1)
        _, height, width, elements = self.shapes[x]
        channels = elements // (kernel[0] * kernel[1])
        return self.node(
            "Pool",
            [x],
            [1, height, width, channels],
            kind,
            Channels=channels,
            PE=self.divisor(channels),
            KernelSize=kernel,
            Function=function,
            OutImgDims=[height, width],
            InputDataType=self.types[x],
            OutputDataType=kind,
            AccumBits=16,
            Size=1,
        )

    def global_sum(self, x: str) -> str:
        *vectors, channels = self.shapes[x]
        top = (2 ** int(self.types[x].removeprefix("UINT")) - 1) * vectors[-1] * vectors[-2]
        return self.node(
            "GlobalAccPool",
            [x],
            [1, 1, 1, channels],
            f"UINT{top.bit_length()}",
            NumChannels=channels,
            PE=self.divisor(channels),
            numInputVectors=vectors,
            inputDataType=self.types[x],
        )

    def reshape(self, x: str, shape: list[int]) -> str:
        old = self.shapes[x]
        return self.node(
            "Reshape",
            [x],
            shape,
            self.types[x],
            inp_shape=old,
            out_shape=shape,
            dtype=self.types[x],
            PE=self.divisor(old[-1], shape[-1]),
        )

    def label(self, x: str) -> str:
        labels = self.shapes[x][-1]
        return self.node(
            "LabelSelect",
            [x],
            [1, 1],
            "UINT16",
            Labels=labels,
            PE=self.divisor(labels),
            K=1,
            inputDataType=self.types[x],
            outputDataType="UINT16",
            numInputVectors=[1],
        )

    def model(self, last: str) -> onnx.ModelProto:
        def info(name: str) -> onnx.ValueInfoProto:
            return helper.make_tensor_value_info(name, TensorProto.FLOAT, self.shapes[name])

        others = [info(name) for name in self.shapes if name not in ("x", last)]
        graph = helper.make_graph(
            self.nodes, "net", [info("x")], [info(last)], self.constants, value_info=others
        )
        for tensor in self.constants:
            graph.value_info.append(
                helper.make_tensor_value_info(tensor.name, TensorProto.FLOAT, tensor.dims)
            )
        for name, kind in self.types.items():
            note = graph.quantization_annotation.add()
            note.tensor_name = name
            entry = note.quant_parameter_tensor_names.add()
            entry.key, entry.value = "finn_datatype", kind
        opsets = [helper.make_opsetid("", 13), helper.make_opsetid(DOMAIN, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def cnv(graph: Graph) -> str:
    """CNV 2w2a: thresholds inside the MVAUs."""
    x = graph.input([1, 32, 32, 3], "UINT8")
    for index, channels in enumerate((64, 64, 128, 128, 256, 256)):
        x = graph.matrix(graph.window(x, (3, 3), (1, 1)), channels, "INT2", "UINT2")
        if index in (1, 3):
            x = graph.pool(x, (2, 2), "MaxPool", "UINT2")
    x = graph.reshape(x, [1, 256])
    for channels in (512, 512):
        x = graph.matrix(x, channels, "INT2", "UINT2")
    return graph.label(graph.matrix(x, 10, "INT2"))


def resnet8(graph: Graph) -> str:
    """ResNet8 4w4a: three residual blocks, thresholds on their own."""

    def conv(x: str, channels: int, kernel: int, stride: int) -> str:
        if kernel > 1:
            x = graph.pad(x, kernel // 2)
        x = graph.window(x, (kernel, kernel), (stride, stride))
        return graph.matrix(x, channels, "INT4")

    x = graph.threshold(conv(graph.input([1, 32, 32, 3], "INT8"), 16, 3, 1), "UINT4")
    for channels, stride in ((16, 1), (32, 2), (64, 2)):
        one, two = graph.fork(x)
        one = graph.threshold(conv(one, channels, 3, stride), "UINT4")
        one = graph.threshold(conv(one, channels, 3, 1), "UINT4")
        if stride > 1:
            two = graph.threshold(conv(two, channels, 1, stride), "UINT4")
        x = graph.threshold(graph.add(one, two, "UINT5"), "UINT4")
    x = graph.reshape(graph.global_sum(x), [1, 64])
    return graph.label(graph.matrix(x, 10, "INT4"))


def mobilenet(graph: Graph) -> str:
    """MobileNetV1 4w4a, width 1, 224 x 224."""
    x = graph.window(graph.pad(graph.input([1, 224, 224, 3], "UINT8"), 1), (3, 3), (2, 2))
    x = graph.threshold(graph.matrix(x, 32, "INT8"), "UINT4")
    plan = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)]
    for channels, stride in [*plan, *[(512, 1)] * 5, (1024, 2), (1024, 1)]:
        width = graph.shapes[x][-1]
        x = graph.window(graph.pad(x, 1), (3, 3), (stride, stride), depthwise=1)
        x = graph.threshold(graph.depthwise(x, width, "INT4"), "UINT4")
        x = graph.threshold(graph.matrix(x, channels, "INT4"), "UINT4")
    x = graph.pool(x, (7, 7), "QuantAvgPool", "UINT4")
    return graph.label(graph.matrix(graph.reshape(x, [1, 1024]), 1000, "INT8"))


def assorted(graph: Graph) -> str:
    """No network: the layers that the others do not have."""
    x = graph.input([1, 1, 120, 24], "INT8")
    x = graph.threshold(graph.window(x, (1, 1), (1, 1)), "UINT4")
    one, two = graph.fork(x)
    three, four = graph.fork(two)
    one = graph.multiply(one, (24,), "INT9")
    one = graph.threshold(graph.multiply(one, (1,), "INT13"), "UINT4")
    x = graph.add(one, graph.add(three, four, "UINT5"), "UINT6")
    x = graph.window(x, (1, 5), (1, 2), depthwise=1)  # along a line
    x = graph.reshape(x, [1, 58, 1, 120])
    x = graph.window(x, (3, 1), (1, 1))
    x = graph.matrix(x, 36, "INT4")
    x = graph.reshape(graph.threshold(x, "UINT3"), [1, 8, 7, 36])
    channels = graph.shapes[x][-1]
    x = graph.node(
        "UpsampleNearestNeighbour",
        [x],
        [1, 16, 14, channels],
        graph.types[x],
        SIMD=graph.divisor(channels),
        HI=8,
        WI=7,
        HO=16,
        WO=14,
        NumChannels=channels,
        inputDataType=graph.types[x],
    )
    one, two = graph.fork(x)
    x = graph.node(
        "StreamingConcat",
        [one, two],
        [1, 16, 14, 2 * channels],
        graph.types[x],
        SIMD=graph.divisor(channels),
        ChannelsPerStream=[channels, channels],
        inputDataTypes=[graph.types[x]] * 2,
        numInputVectors=[1, 16, 14],
        inFIFODepths=[2, 2],
    )
    return graph.label(graph.reshape(graph.global_sum(x), [1, 72]))


NETWORKS: dict[str, Callable[[Graph], str]] = {
    "CNV 2w2a": cnv,
    "ResNet8 4w4a": resnet8,
    "MobileNetV1 4w4a": mobilenet,
    "assorted layers": assorted,
}


# ------------------------------------------------------------------------------- in FINN


def bridge(folder: Path) -> None:
    """Runs in FINN's environment: for each job, the graph with converters and FIFOs, and what FINN
    says of its nodes.
    """
    os.environ.setdefault("XILINX_VIVADO", str(folder / "2024.2"))
    os.environ.setdefault("FINN_BUILD_DIR", str(folder))
    import finn.xsi

    finn.xsi.SimEngine = type("SimEngine", (), {})
    from finn.util.settings import initialize_dummy_settings

    initialize_dummy_settings()
    from finn.analysis.fpgadataflow.exp_cycles_per_layer import exp_cycles_per_layer
    from finn.analysis.fpgadataflow.res_estimation import res_estimation, res_estimation_complete
    from finn.transformation.fpgadataflow.insert_dwc import InsertDWC
    from finn.transformation.fpgadataflow.insert_fifo import InsertFIFO
    from finn.transformation.fpgadataflow.specialize_layers import SpecializeLayers
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.custom_op.registry import getCustomOp
    from qonnx.transformation.general import GiveUniqueNodeNames

    for job in json.loads((folder / "jobs.json").read_text()):
        model = ModelWrapper(str(folder / job["model"]))
        part = job["part"]
        model = model.transform(SpecializeLayers(part)).transform(GiveUniqueNodeNames())
        model.save(str(folder / job["folded"]))
        model = model.transform(InsertDWC()).transform(InsertFIFO(create_shallow_fifos=True))
        model = model.transform(SpecializeLayers(part)).transform(GiveUniqueNodeNames())
        draw = random.Random(job["model"])
        for node in model.graph.node:
            if node.op_type.startswith("StreamingFIFO"):
                depth = draw.choice([2, draw.randint(2, 70), draw.randint(30, 3000), 2**17])
                getCustomOp(node).set_nodeattr("depth", depth)
                getCustomOp(node).set_nodeattr("ram_style", draw.choice(FIFO_STYLES))
        model.save(str(folder / job["result"]))
        report = {
            "resources": model.analysis(lambda m, p=part: res_estimation(m, p)),
            "alternatives": model.analysis(lambda m, p=part: res_estimation_complete(m, p)),
            "cycles": model.analysis(exp_cycles_per_layer),
            "widths": {
                node.name: attribute.ints[-1]
                for node in model.graph.node
                for attribute in node.attribute
                if node.op_type.startswith("StreamingFIFO") and attribute.name == "folded_shape"
            },
        }
        report["styles"] = {
            name: getCustomOp(node).get_nodeattr("ram_style")
            for name, node in ((node.name, node) for node in model.graph.node)
            if name in report["widths"]
        }
        (folder / job["report"]).write_text(json.dumps(report, default=float))


# ------------------------------------------------------------------------------- comparing


def compare(folder: Path, job: dict[str, str], equal: Counter[str], seen: Counter[str]) -> None:
    """Adds what of a job is equal, and what there is; prints what differs."""
    from graphopt.ir.model import Model
    from hwmodel import finn

    report = json.loads((folder / job["report"]).read_text())
    design = finn.read(Model.load(folder / job["result"]), dsp=job["dsp"])
    versal = job["dsp"] == "DSP58"

    def check(key: str, where: str, ours: object, theirs: object) -> None:
        seen[key] += 1
        equal[key] += ours == theirs
        if ours != theirs:
            print(f"    {job['network']}, {job['part']}: {where} {key}: ours {ours}, {theirs}")

    names = finn.finn_names(design)
    streams = {finn_name: name for name, finn_name in names.fifos.items()}
    for node, row in report["resources"].items():
        if node in report["widths"]:
            stream = design.stream[streams[node]]
            ours = finn.fifo_resources(
                stream.depth or 2, stream.bits, None, report["styles"][node], versal=versal
            ).report
        else:
            ours = finn.resources(design.kernel[node], dsp=job["dsp"]).report
            if f"{node}_narrow" in design.kernel:  # two converters for FINN's one
                ours["LUT"] += finn.resources(design.kernel[f"{node}_narrow"]).lut
        for key, value in row.items():
            check(key, node, ours[key], value)
    for node, value in report["cycles"].items():
        if node not in report["widths"]:
            check("cycles", node, finn.cycles(design.kernel[node]), value)
    for node, rows in report["alternatives"].items():
        if node in report["widths"] or f"{node}_narrow" in design.kernel:
            continue
        ours = finn.alternatives(design.kernel[node], dsp=job["dsp"], memories=True)
        check("alternatives", node, [each.report for each in ours], rows)

    # The same network as FINN had it before it put in converters and FIFOs.
    plain = finn.read(Model.load(folder / job["folded"]), dsp=job["dsp"])
    names = finn.finn_names(plain)
    widths = {name: plain.stream[stream].elements for stream, name in names.fifos.items()}
    check("FIFOs (number, width)", "all", widths, report["widths"])
    ours = {name for name in plain.kernel if name.startswith("StreamingDataWidth")}
    theirs = {name for name in design.kernel if name.startswith("StreamingDataWidth")}
    check(
        "converters (number, widths)", "all", _converters(plain, ours), _converters(design, theirs)
    )


def _converters(design: object, names: Iterable[str]) -> dict[str, tuple[int, int]]:
    kernels = design.kernel  # type: ignore[attr-defined]
    return {name: (kernels[name].into, kernels[name].out_of) for name in names}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--finn-python", type=Path, help="python of an environment with finn-plus")
    parser.add_argument("--foldings", type=int, default=6, help="for each network and part")
    parser.add_argument("--seconds", type=int, default=600, help="time limit for FINN, a network")
    parser.add_argument("--bridge", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.bridge:
        bridge(arguments.bridge)
        return
    if arguments.finn_python is None or not arguments.finn_python.exists():
        print("No environment with finn-plus: name its python with --finn-python.")
        return
    totals: Counter[str] = Counter()
    equals: Counter[str] = Counter()
    for network, build in NETWORKS.items():
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            jobs = []
            for seed in range(arguments.foldings):
                for dsp, part in PARTS.items():
                    stem = f"{len(jobs)}"
                    draw = random.Random(f"{network} {seed} {dsp}") if seed else None
                    graph = Graph(draw)
                    onnx.save(graph.model(build(graph)), folder / f"{stem}.onnx")
                    jobs.append(
                        {
                            "network": network,
                            "dsp": dsp,
                            "part": part,
                            "model": f"{stem}.onnx",
                            "folded": f"{stem}.folded.onnx",
                            "result": f"{stem}.result.onnx",
                            "report": f"{stem}.json",
                        }
                    )
            (folder / "jobs.json").write_text(json.dumps(jobs))
            start = time.perf_counter()
            command = [str(arguments.finn_python), __file__, "--bridge", str(folder)]
            try:
                run = subprocess.run(
                    command, capture_output=True, text=True, timeout=arguments.seconds, check=False
                )
            except subprocess.TimeoutExpired:
                print(f"{network}: FINN was not done after {arguments.seconds} s.")
                continue
            if run.returncode:
                print(f"{network}: FINN failed: {(run.stderr or run.stdout).strip()[-2000:]}")
                continue
            seen: Counter[str] = Counter()
            equal: Counter[str] = Counter()
            for job in jobs:
                compare(folder, job, equal, seen)
            seconds = time.perf_counter() - start
            print(
                f"{network}: {len(jobs)} graphs, {equal.total()} of {seen.total()} equal "
                f"({seconds:.0f} s)"
            )
            totals += seen
            equals += equal
    print()
    print(f"{'key':30} {'equal':>8} {'of':>8}")
    for key, count in totals.items():
        print(f"{key:30} {equals[key]:8} {count:8}")
    print(f"{'all':30} {equals.total():8} {totals.total():8}")


if __name__ == "__main__":
    sys.exit(main())
