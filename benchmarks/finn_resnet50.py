"""FINN's ResNet-50 for the Alveo U250: its FIFO depths against ours.

    python benchmarks/finn_resnet50.py

FINN ships a folding configuration of a ResNet-50 with 1-bit weights (Xilinx/finn-examples,
build/resnet50), with the depth of every FIFO as FINN's RTL simulation sized it. The network is not
shipped with it, so it is built here from its published topology, with the folding and the depths of
the configuration; names are FINN's.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hwmodel.datatypes import DataType, integer
from hwmodel.design import Builder, Design, End
from hwmodel.fifo import minimal, size
from hwmodel.fifo.regions import regions
from hwmodel.fifo.search import total_bits
from hwmodel.kernels import (
    Channelwise,
    Downsample,
    Fork,
    Join,
    Kernel,
    LabelSelect,
    MatrixVector,
    Padding,
    Pool,
    Threshold,
    WidthConverter,
    Window,
)
from hwmodel.kernels.kernel import Port
from hwmodel.simulate import Network

SHARED = Path(os.environ.get("GRAPHOPT_SHARED", Path(__file__).parents[1] / ".." / "shared"))
CONFIGURATIONS = SHARED / "truth" / "finn_configs"
SHIPPED = CONFIGURATIONS / "resnet50__folding_config__U250_folding_config.json"
FINN_PLUS = CONFIGURATIONS / "resnet50__finn_plus_live_fifo_U250.json"
"""The same design, its FIFOs sized by FINN+ with counters on the running FPGA."""

IMAGE = integer(8, signed=False)
BRANCH = integer(2, signed=False)
"""Activations between the convolutions."""
RESIDUAL = integer(4, signed=True)
"""Activations on the skips and at the joins (Elastic-DF, Petrica et al. 2020: residual paths of
the binary ResNet-50 are wider)."""
WEIGHT = DataType.parse("BIPOLAR")


def configuration(path: Path) -> dict[str, Any]:
    """Folding and FIFO depths of every kernel, from a file of FINN or FINN+.

    Both number the FIFOs by the order in which the file names the kernels. FINN writes each depth
    at the kernel, too; FINN+ leaves FINN's depths there, so the numbered ones count.
    """
    entries = json.loads(path.read_text())
    fifo = "StreamingFIFO_rtl_"
    numbers = itertools.count()
    depths = (entries[f"{fifo}{number}"]["depth"] for number in numbers)
    found: dict[str, Any] = {}
    for key, entry in entries.items():
        if key == "Defaults" or key.startswith(fifo):
            continue
        name = key.replace("Converter_", "Converter_rtl_").replace("rtl_rtl", "rtl")
        first = {} if found else {"inFIFODepths": [next(depths)]}
        outputs = [next(depths) for _ in entry["outFIFODepths"]]
        found[name] = entry | first | {"outFIFODepths": outputs}
    return found


@dataclass
class ResNet50:
    """Builds the design block by block; the counters give FINN's names."""

    config: Mapping[str, Any]
    build: Builder = field(default_factory=Builder)
    counts: dict[str, int] = field(default_factory=dict)

    def name(self, kind: str) -> str:
        index = self.counts.get(kind, 0)
        self.counts[kind] = index + 1
        return f"{kind}_{index}"

    def folding(self, name: str) -> Any:
        return self.config[name]

    def fitted(self, stream: str, elements: int) -> str:
        """The stream in words of so many elements: behind a width converter, if it needs one."""
        port = self.build.port(stream)
        if port.elements == elements:
            return stream
        name = self.name("StreamingDataWidthConverter_rtl")
        converter = WidthConverter(
            name=name,
            elements=port.elements * port.words,
            into=port.elements,
            out_of=elements,
            element=port.element,
        )
        (out,) = self.build.add(converter, [stream], depths=self.config[name]["outFIFODepths"])
        return out

    def add(self, kernel: Kernel, stream: str) -> str:
        """The kernel behind its width converter, with the depths of the file."""
        stream = self.fitted(stream, kernel.inputs[0].elements)
        (out,) = self.build.add(kernel, [stream], depths=self.config[kernel.name]["outFIFODepths"])
        return out

    def conv(
        self,
        stream: str,
        inputs: int,
        outputs: int,
        side: int,
        element: DataType,
        kernel: int = 1,
        *,
        output: DataType | None = None,
    ) -> str:
        """A convolution; with `output` its thresholds are inside (noActivation = 0)."""
        name = self.name("MVAU_hls")
        fold = self.folding(name)
        accumulator = integer((inputs * kernel**2).bit_length() + element.bits, signed=True)
        unit = MatrixVector(
            name=name,
            mw=inputs * kernel**2,
            mh=outputs,
            vectors=side * side,
            simd=fold["SIMD"],
            pe=fold["PE"],
            input=element,
            weight=WEIGHT,
            accumulator=accumulator,
            output=output or accumulator,
            thresholds=2**output.bits - 1 if output else 0,
        )
        return self.add(unit, stream)

    def quantized(self, stream: str, channels: int, side: int, element: DataType) -> str:
        name = self.name("Thresholding_rtl")
        given = self.build.port(stream).element
        return self.add(
            Threshold(
                name=name,
                channels=channels,
                vectors=side * side,
                pe=self.folding(name)["PE"],
                input=given,
                threshold=given,
                output=element,
                steps=2**element.bits - 1,
            ),
            stream,
        )

    def padded(self, stream: str, channels: int, side: int, pad: int) -> str:
        name = self.name("FMPadding_rtl")
        return self.add(
            Padding(
                name=name,
                height=side,
                width=side,
                channels=channels,
                pads=(pad, pad, pad, pad),
                element=self.build.port(stream).element,
                simd=self.folding(name)["SIMD"],
            ),
            stream,
        )

    def window(
        self,
        stream: str,
        channels: int,
        side: int,
        kernel: int,
        stride: int,
        depthwise: bool = False,
    ) -> str:
        name = self.name("ConvolutionInputGenerator_rtl")
        return self.add(
            Window(
                name=name,
                height=side,
                width=side,
                channels=channels,
                kernel=(kernel, kernel),
                stride=(stride, stride),
                element=self.build.port(stream).element,
                simd=self.folding(name)["SIMD"],
                depthwise=depthwise,
            ),
            stream,
        )

    def pool(self, stream: str, channels: int, kernel: int, side: int, function: str) -> str:
        name = self.name("Pool_hls")
        element = self.build.port(stream).element
        return self.add(
            Pool(
                name=name,
                channels=channels,
                kernel=(kernel, kernel),
                vectors=side * side,
                function=function,
                input=element,
                output=element,
                pe=self.folding(name)["PE"],
            ),
            stream,
        )

    def fork(self, stream: str, elements: int) -> tuple[str, str]:
        name = self.name("DuplicateStreams_hls")
        entry = self.folding(name)
        pe, element = entry["PE"], self.build.port(stream).element
        stream = self.fitted(stream, pe)
        fork = Fork(name=name, elements=elements, pe=pe, element=element)
        one, two = self.build.add(fork, [stream], depths=entry["outFIFODepths"])
        return one, two

    def join(self, branch: str, skip: str, elements: int) -> str:
        name = self.name("AddStreams_hls")
        entry = self.folding(name)
        operands = (self.build.port(branch).element, self.build.port(skip).element)
        bits = max(operand.bits for operand in operands) + 1
        join = Join(
            name=name,
            elements=elements,
            pe=entry["PE"],
            operands=operands,
            output=integer(bits, signed=True),
        )
        (out,) = self.build.add(join, [branch, skip], depths=entry["outFIFODepths"])
        return out

    def channelwise(self, stream: str, channels: int, vectors: int) -> str:
        name = self.name("ChannelwiseOp_hls")
        element = self.build.port(stream).element
        return self.add(
            Channelwise(
                name=name,
                function="mul",
                channels=channels,
                vectors=vectors,
                pe=self.folding(name)["PE"],
                input=element,
                parameter=element,
                output=element,
            ),
            stream,
        )

    def design(self) -> Design:
        """The whole network: stem, 16 bottleneck blocks in four stages, classifier."""
        first = self.folding("FMPadding_rtl_0")
        port = Port(IMAGE, first["SIMD"], 224 * 224 * 3 // first["SIMD"])
        stream = self.build.source("image", port, depth=first["inFIFODepths"][0])
        stream = self.padded(stream, 3, 224, 3)
        stream = self.window(stream, 3, 230, 7, 2)
        stream = self.conv(stream, 3, 64, 112, IMAGE, 7, output=BRANCH)
        stream = self.padded(stream, 64, 112, 1)
        stream = self.window(stream, 64, 114, 3, 2, depthwise=True)
        stream = self.pool(stream, 64, 3, 56, "MaxPool")
        side, channels = 56, 64
        for stage, (blocks, width) in enumerate(((3, 64), (4, 128), (6, 256), (3, 512))):
            for block in range(blocks):
                stride = 2 if stage and not block else 1
                stream = self.block(stream, channels, width, side, stride, projected=not block)
                side, channels = side // stride, 4 * width
                last = block == blocks - 1
                stream = self.quantized(stream, channels, side, RESIDUAL)
                if last and stage < 3:
                    if stage == 2:
                        stream = self.channelwise(stream, channels, side * side)
                    stream = self.quantized(stream, channels, side, BRANCH)
        stream = self.channelwise(stream, channels, side * side)
        stream = self.window(stream, channels, side, side, 1, depthwise=True)
        stream = self.pool(stream, channels, side, 1, "QuantAvgPool")
        fold = self.folding(self.name("MVAU_rtl"))
        accumulator = integer(24, signed=True)
        stream = self.add(
            MatrixVector(
                name="MVAU_rtl_0",
                mw=2048,
                mh=1000,
                simd=fold["SIMD"],
                pe=fold["PE"],
                input=RESIDUAL,
                weight=integer(8, signed=True),
                accumulator=accumulator,
                output=accumulator,
                backend="rtl",
                core="mvu_8sx8u_dsp48",
            ),
            stream,
        )
        stream = self.channelwise(stream, 1000, 1)
        self.add(
            LabelSelect(
                name=self.name("LabelSelect_hls"),
                labels=1000,
                k=5,
                pe=1,
                input=accumulator,
                output=integer(10, signed=False),
            ),
            stream,
        )
        return self.build.design()

    def block(
        self, stream: str, channels: int, width: int, side: int, stride: int, projected: bool
    ) -> str:
        branch, skip = self.fork(stream, channels * side * side)
        small = side // stride
        if not projected:
            # FINN numbers the two in an order of its own; the deeper FIFO is the skip's.
            index = self.counts["Thresholding_rtl"]
            one, two = (self.folding(f"Thresholding_rtl_{index + n}") for n in (0, 1))
            if one["outFIFODepths"] > two["outFIFODepths"]:
                skip = self.quantized(skip, channels, side, RESIDUAL)
                branch = self.quantized(branch, channels, side, BRANCH)
            else:
                branch = self.quantized(branch, channels, side, BRANCH)
                skip = self.quantized(skip, channels, side, RESIDUAL)
        down = f"DownSampler_hls_{self.counts.get('DownSampler_hls', 0)}"
        if projected:  # FINN numbers the skip's first converter before the branch's
            first = down if stride > 1 else f"MVAU_hls_{self.counts['MVAU_hls'] + 1}"
            skip = self.fitted(skip, self.folding(first)["SIMD"])
        branch = self.conv(branch, channels, width, side, BRANCH, output=BRANCH)
        if stride > 1:
            skip = self.add(
                Downsample(
                    name=self.name("DownSampler_hls"),
                    height=side,
                    width=side,
                    channels=channels,
                    stride=(stride, stride),
                    element=self.build.port(skip).element,
                    simd=self.folding(down)["SIMD"],
                ),
                skip,
            )
        branch = self.padded(branch, width, side, 1)
        if projected:
            skip = self.conv(skip, channels, 4 * width, small, BRANCH)
        branch = self.window(branch, width, side + 2, 3, stride)
        branch = self.conv(branch, width, width, small, BRANCH, 3, output=BRANCH)
        branch = self.conv(branch, width, 4 * width, small, BRANCH)
        return self.join(branch, skip, 4 * width * small * small)


def skips(design: Design) -> list[str]:
    """The streams that end at the second port of a join, in order of the blocks."""
    joins = [kernel.name for kernel in design.kernels if isinstance(kernel, Join)]
    ends = {stream.sink: stream.name for stream in design.streams}
    return [ends[End(join, 1)] for join in joins]


def shipped(design: Design) -> dict[str, int]:
    """The depths that a design came with, by stream; FINN has no FIFO of one word."""
    return {stream.name: stream.depth or 2 for stream in design.streams}


def agreeing(design: Design, peaks: Mapping[str, int]) -> int:
    """How many FIFOs have FINN's depth, within 3 words or 0.5 %; FINN makes a peak up to 2 a 2 and
    up to 32 a 32.
    """
    agree = 0
    for name, depth in shipped(design).items():
        peak = peaks[name]
        rounded = 2 if peak <= 2 else 32 if peak <= 32 else peak
        agree += rounded == depth or abs(peak - depth) <= max(3, 0.005 * depth)
    return agree


def brams(design: Design, depths: Mapping[str, int], *, finn: bool) -> float:
    """RAMB18 of all FIFOs on the U250: as FINN builds them, or the cheapest on the device."""
    from hwmodel.devices import device
    from hwmodel.memory import cheapest, finn_choice

    u250 = device("U250")
    total = 0.0
    for name, depth in depths.items():
        bits = design.stream[name].bits
        mapped = (
            finn_choice(depth, bits, device=u250, split=True)
            if finn
            else cheapest(depth, bits, u250)
        )
        total += mapped.resources.bram18
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--no-joint", action="store_true", help="leave out the joint minimum")
    options = parser.parse_args()
    if not SHIPPED.is_file():
        print(f"{SHIPPED} is not there: set GRAPHOPT_SHARED to the folder with the records.")
        return
    design = ResNet50(configuration(SHIPPED)).design()
    network = Network(design)
    print(f"{len(design.kernels)} kernels, {len(design.streams)} FIFOs, simulated whole")

    # FINN sends two frames as fast as they are taken, with FIFOs of a frame each.
    frame = np.array([stream.words for stream in design.streams])
    start = time.perf_counter()
    eager = network.run(frame, frames=2, fed=2)
    seconds = time.perf_counter() - start
    print(f"{eager.cycles} cycles in {seconds:.0f} s; {eager.interval} cycles a frame\n")
    matched = network.run(frame, frames=2, fed=2, period=eager.interval)
    print("skip FIFO               FINN   ours, as FINN  error   ours, rate-matched")
    worst = 0.0
    for name in skips(design):
        finn = design.stream[name].depth or 0
        peak, rate = eager.streams[name].peak, matched.streams[name].peak
        worst = max(worst, abs(peak / finn - 1))
        print(f"{name:22} {finn:6d} {peak:14d}  {peak / finn - 1:+6.2%} {rate:12d}")
    print(f"largest error: {worst:.2%}; of all FIFOs {agreeing(design, eager.peaks)} agree")
    first = skips(design)[0]
    block = next(part for part in regions(design) if first in part.stream)
    need = minimal(block, first, interval=eager.interval)
    print(f"first skip: {need} words are enough at the same pace, all others as shipped")
    for label, path in (("FINN's", SHIPPED), ("FINN+'s", FINN_PLUS)):
        own = ResNet50(configuration(path)).design()
        run = Network(own).run(list(shipped(own).values()), frames=3)
        print(f"with {label} depths and frames without end: {run.interval} cycles a frame")
    if options.no_joint:
        return

    start = time.perf_counter()
    sizing = size(design, report=lambda line: print("  " + line, flush=True))
    seconds = time.perf_counter() - start
    print(f"\njoint minimum: {seconds / 60:.1f} minutes, {sizing.simulations} simulations, "
          f"{sizing.interval} cycles a frame")  # fmt: skip
    print(f"first skip: {sizing.depths[first]} words (FINN {design.stream[first].depth})")
    print(f"\n{'all FIFOs':24} {'words':>9} {'Mbit':>7} {'RAMB18':>7}")
    plus = ResNet50(configuration(FINN_PLUS)).design()
    rows = {
        "FINN, shipped": (shipped(design), True),
        "FINN+, on the FPGA": (shipped(plus), True),
        "rate-matched peaks": ({n: max(2, p) for n, p in matched.peaks.items()}, False),
        "ours, joint": (dict(sizing.depths), False),
    }
    for label, (depths, finn) in rows.items():
        print(
            f"{label:24} {sum(depths.values()):9d} {total_bits(design, depths) / 1e6:7.2f} "
            f"{brams(design, depths, finn=finn):7.0f}"
        )


if __name__ == "__main__":
    main()
