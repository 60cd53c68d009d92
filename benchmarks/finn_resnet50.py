"""FINN's ResNet-50 for the Alveo U250: its FIFO depths against ours.

    python benchmarks/finn_resnet50.py

FINN ships a folding configuration of a ResNet-50 with 1-bit weights (Xilinx/finn-examples,
build/resnet50), with the depth of every FIFO as FINN's RTL simulation sized it. The network is not
shipped with it, so it is built here from its published topology, with the folding and the depths of
the configuration; names are FINN's.
"""

from __future__ import annotations

import argparse
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

IMAGE = integer(8, signed=False)
BRANCH = integer(2, signed=False)
"""Activations between the convolutions."""
RESIDUAL = integer(4, signed=True)
"""Activations on the skips and at the joins (Elastic-DF, Petrica et al. 2020: residual paths of
the binary ResNet-50 are wider)."""
WEIGHT = DataType.parse("BIPOLAR")


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

    def add(self, kernel: Kernel, stream: str) -> str:
        """The kernel behind its width converter, if it needs one, with the depths of the file."""
        entry = self.config[kernel.name]
        port, wanted = self.build.port(stream), kernel.inputs[0]
        if port.elements != wanted.elements:
            converter = WidthConverter(
                name=self.name("StreamingDataWidthConverter_rtl"),
                elements=port.elements * port.words,
                into=port.elements,
                out_of=wanted.elements,
                element=port.element,
            )
            (stream,) = self.build.add(converter, [stream], depths=[entry["inFIFODepths"][0]])
        (out,) = self.build.add(kernel, [stream], depths=[entry["outFIFODepths"][0]])
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
        port, pe = self.build.port(stream), entry["PE"]
        if port.elements != pe:
            converter = WidthConverter(
                name=self.name("StreamingDataWidthConverter_rtl"),
                elements=elements,
                into=port.elements,
                out_of=pe,
                element=port.element,
            )
            (stream,) = self.build.add(converter, [stream], depths=[entry["inFIFODepths"][0]])
        fork = Fork(name=name, elements=elements, pe=pe, element=port.element)
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
            branch = self.quantized(branch, channels, side, BRANCH)
            skip = self.quantized(skip, channels, side, RESIDUAL)
        branch = self.conv(branch, channels, width, side, BRANCH, output=BRANCH)
        if projected:
            if stride > 1:
                name = self.name("DownSampler_hls")
                skip = self.add(
                    Downsample(
                        name=name,
                        height=side,
                        width=side,
                        channels=channels,
                        stride=(stride, stride),
                        element=self.build.port(skip).element,
                        simd=self.folding(name)["SIMD"],
                    ),
                    skip,
                )
            skip = self.conv(skip, channels, 4 * width, small, BRANCH)
        branch = self.padded(branch, width, side, 1)
        branch = self.window(branch, width, side + 2, 3, stride)
        branch = self.conv(branch, width, width, small, BRANCH, 3, output=BRANCH)
        branch = self.conv(branch, width, 4 * width, small, BRANCH)
        return self.join(branch, skip, 4 * width * small * small)


def skips(design: Design, config: Mapping[str, Any]) -> dict[str, int]:
    """FINN's depth of each skip FIFO, by stream, in order of the blocks.

    FINN numbers the two thresholdings behind a fork in an order of its own, so in an identity
    block the deeper of the two entries is the skip's.
    """
    found = {}
    into = {stream.sink.kernel: stream for stream in design.streams if stream.sink}
    for join in (kernel for kernel in design.kernels if isinstance(kernel, Join)):
        skip = next(s for s in design.streams if s.sink == End(join.name, 1))
        assert skip.source is not None
        depth = config[skip.source.kernel]["outFIFODepths"][0]
        if skip.source.kernel.startswith("Thresholding"):
            source = into[skip.source.kernel].source
            assert source is not None
            pair = [s.sink.kernel for s in design.streams
                    if s.source and s.sink and s.source.kernel == source.kernel]  # fmt: skip
            depth = max(config[name]["outFIFODepths"][0] for name in pair)
        found[skip.name] = depth
    return found


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
    path = CONFIGURATIONS / "resnet50__folding_config__U250_folding_config.json"
    if not path.is_file():
        print(f"{path} is not there: set GRAPHOPT_SHARED to the folder with the records.")
        return
    config = json.loads(path.read_text())
    design = ResNet50(config).design()
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
    for name, finn in skips(design, config).items():
        peak, rate = eager.streams[name].peak, matched.streams[name].peak
        worst = max(worst, abs(peak / finn - 1))
        print(f"{name:22} {finn:6d} {peak:14d}  {peak / finn - 1:+6.2%} {rate:12d}")
    print(f"largest error: {worst:.2%}")
    first = next(iter(skips(design, config)))
    block = next(part for part in regions(design) if first in part.stream)
    need = minimal(block, first, interval=eager.interval)
    print(f"first skip: {need} words are enough at the same pace, all others as shipped")
    if options.no_joint:
        return

    start = time.perf_counter()
    sizing = size(design, report=lambda line: print("  " + line, flush=True))
    seconds = time.perf_counter() - start
    print(f"\njoint minimum: {seconds / 60:.1f} minutes, {sizing.simulations} simulations, "
          f"{sizing.interval} cycles a frame")  # fmt: skip
    print(f"first skip: {sizing.depths[first]} words (FINN {skips(design, config)[first]})")
    given = {stream.name: stream.depth or 2 for stream in design.streams}
    # The names of the deeper thresholdings are exchanged in some blocks; the sum is the same.
    print(f"\n{'all FIFOs':24} {'words':>9} {'Mbit':>7} {'RAMB18':>7}")
    rows = {
        "FINN, shipped": (given, True),
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
