"""A residual block, its shortened form and its plain form: our prediction beside the papers.

    python benchmarks/published_blocks.py

NonResNet (Weng, Khodamoradi, Kastner 2021) measured a FINN block with 1-bit weights and 2-bit
activations with and without its skip; Tailor (Weng et al. 2023) measured hls4ml blocks with the
skip as it is, shortened to span one convolution, and removed. Neither gives the folding, so ours is
one that balances the two convolutions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hwmodel.datatypes import DataType, integer
from hwmodel.design import Builder, Design
from hwmodel.devices import device
from hwmodel.estimator import Sizing, Target, estimate_sized, sized
from hwmodel.kernels import Fork, Join, MatrixVector, Padding, Threshold, Window
from hwmodel.kernels.kernel import Port

NAMES = {"finn": "as FINN", "joint": "by need"}
Form = Literal["kept", "shortened", "removed"]


@dataclass(frozen=True)
class Block:
    """Two 3x3 convolutions on a square map.

    Attributes:
        side, channels: the map.
        weight, activation: element types.
        simd, pe: folding of both convolutions.
        thresholds: activations are kernels of their own, with thresholds in memory, as in FINN;
            else a cast inside the kernel before, as in hls4ml.
    """

    side: int
    channels: int
    weight: DataType
    activation: DataType
    simd: int
    pe: int
    thresholds: bool

    def design(self, form: Form) -> Design:
        build = Builder()
        elements = self.side**2 * self.channels
        words = elements // self.simd
        stream = build.source("in", Port(self.activation, self.simd, words))
        if form == "kept":
            branch, skip = self._fork(build, stream, 0)
            branch = self._quantized(build, self._conv(build, branch, 0), 0)
            stream = self._joined(build, self._conv(build, branch, 1), skip, 0)
        elif form == "shortened":
            for index in range(2):
                branch, skip = self._fork(build, stream, index)
                branch = self._quantized(build, self._conv(build, branch, index), index)
                stream = self._joined(build, branch, skip, index)
                if index == 0:
                    stream = self._quantized(build, stream, 10)
        else:
            for index in range(2):
                stream = self._conv(build, stream, index)
                if index == 0:
                    stream = self._quantized(build, stream, 0)
        self._quantized(build, stream, 20)
        return build.design()

    def _fork(self, build: Builder, stream: str, index: int) -> tuple[str, str]:
        fork = Fork(
            name=f"fork{index}",
            elements=self.side**2 * self.channels,
            pe=self.simd,
            element=self.activation,
        )
        one, two = build.add(fork, [stream], [f"branch{index}", f"skip{index}"])
        return one, two

    def _conv(self, build: Builder, stream: str, index: int) -> str:
        taps = 9 * self.channels
        accumulator = integer(
            self.weight.bits + self.activation.bits + taps.bit_length(), signed=True
        )
        kernels = (
            Padding(
                name=f"pad{index}",
                height=self.side,
                width=self.side,
                channels=self.channels,
                pads=(1, 1, 1, 1),
                element=self.activation,
                simd=self.simd,
            ),
            Window(
                name=f"window{index}",
                height=self.side + 2,
                width=self.side + 2,
                channels=self.channels,
                kernel=(3, 3),
                element=self.activation,
                simd=self.simd,
            ),
            MatrixVector(
                name=f"conv{index}",
                mw=taps,
                mh=self.channels,
                vectors=self.side**2,
                simd=self.simd,
                pe=self.pe,
                input=self.activation,
                weight=self.weight,
                accumulator=accumulator,
                output=accumulator if self.thresholds else self.activation,
                resource="lut",
            ),
        )
        for kernel in kernels:
            (stream,) = build.add(kernel, [stream])
        return stream

    def _quantized(self, build: Builder, stream: str, index: int) -> str:
        if not self.thresholds:
            return stream
        given = build.port(stream).element
        threshold = Threshold(
            name=f"threshold{index}",
            channels=self.channels,
            vectors=self.side**2,
            pe=self.pe,
            input=given,
            threshold=given,
            output=self.activation,
            steps=2**self.activation.bits - 1,
        )
        (stream,) = build.add(threshold, [stream])
        return stream

    def _joined(self, build: Builder, branch: str, skip: str, index: int) -> str:
        operands = (build.port(branch).element, build.port(skip).element)
        join = Join(
            name=f"join{index}",
            elements=self.side**2 * self.channels,
            pe=self.pe,
            operands=operands,
            output=integer(max(o.bits for o in operands) + 1, signed=True)
            if self.thresholds
            else self.activation,
        )
        (stream,) = build.add(join, [branch, skip])
        return stream


def compare(title: str, block: Block, board: str, forms: tuple[Form, ...]) -> None:
    print(f"\n{title}")
    print(f"{'':20} {'LUT':>7} {'FF':>7} {'BRAM18':>7} {'FIFO bits':>10} {'skip':>8}"
          f" {'cycles':>8}   change of LUT, FF, BRAM, FIFO bits")  # fmt: skip
    where = Target(board, device(board))
    sizings: tuple[Sizing, ...] = ("finn", "joint")
    for sizing in sizings:
        base = None
        for form in forms:
            found = estimate_sized(sized(block.design(form), sizing), where)
            used = found.resources
            base = base or found
            changes = [
                (used.lut, base.resources.lut),
                (used.ff, base.resources.ff),
                (used.bram18, base.resources.bram18),
                (found.fifo_bits, base.fifo_bits),
            ]
            text = "  ".join(f"{new / old - 1:+6.1%}" if old else "     -" for new, old in changes)
            print(
                f"{form:9} {NAMES[sizing]:10} {used.lut:7.0f} {used.ff:7.0f} {used.bram18:7.1f} "
                f"{found.fifo_bits:10d} {found.skip_bits:8d} {found.interval:8d}   {text}"
            )


def main() -> None:
    compare(
        "NonResNet's block: 16 channels, 32 x 32, 1-bit weights, 2-bit activations, U250",
        Block(32, 16, DataType.parse("BIPOLAR"), integer(2, signed=False), 16, 16, thresholds=True),
        "U250",
        ("kept", "removed"),
    )
    print(
        "published: LUT -2.0 %, FF -5.4 %, BRAM -5.3 %, frames a second +4.7 %.\n"
        "Same direction. The size differs because the published figures are rounded shares of a\n"
        "device that hold more than the block (shell, DMA), and because their folding is not\n"
        "given. The rate stays here: a skip that is deep enough costs no cycles."
    )
    compare(
        "Tailor's block: 16 channels, 32 x 32, 8-bit weights and activations, U250",
        Block(32, 16, integer(8, signed=True), integer(8, signed=False), 16, 16, thresholds=False),
        "U250",
        ("kept", "shortened", "removed"),
    )
    print(
        "published: up to BRAM -34 %, FF -13 %, LUT -16 %, cycles the same.\n"
        "Removed: same direction. Shortened: two skips of half the depth take as many words as\n"
        "one before, and a second fork and join. What the paper wins is the implementation:\n"
        "hls4ml gives a skip H W words (benchmarks/hls4ml_fifos.py) in BRAM, and a shortened one\n"
        "fits shift registers. Sized by need, the kept skip is in shift registers to begin with."
    )


if __name__ == "__main__":
    main()
