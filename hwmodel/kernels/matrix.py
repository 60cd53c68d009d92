"""The kernels that multiply by weights."""

from __future__ import annotations

from dataclasses import dataclass

from hwmodel.datatypes import DataType, integer
from hwmodel.kernels.kernel import Port

_INT32 = integer(32, signed=True)


@dataclass(frozen=True, kw_only=True)
class MatrixVector:
    """A matrix of weights times each vector of a frame (FINN: MVAU).

    SF = MW / SIMD words make a vector; it is replayed NF = MH / PE times; each pass yields PE
    results: SF NF cycles a vector.

    Attributes:
        mw: rows of the matrix: k_h k_w C_in.
        mh: columns: C_out.
        vectors: vectors in a frame: OH OW for a convolution.
        simd: inputs multiplied in a cycle by each processing element.
        pe: processing elements.
        input, weight, accumulator, output: element types; `output` is that of the thresholds
            where the kernel has some inside, else the accumulator's.
        thresholds: steps of the activation inside the kernel; 0 where it gives accumulators.
        backend: "rtl" (DSP cores) or "hls".
        core: the compute core of an RTL kernel; sets how many cycles lie between the last input
            of a vector and its result.
        resource: "lut", "dsp" or "auto": what multiplies in an HLS kernel.
        memory: "internal_decoupled", "internal_embedded" or "external": where the weights are.
        ram_style: what holds them: "auto", "block", "distributed" or "ultra".
        pumped: the DSPs run at twice the clock (FINN: pumpedCompute).
    """

    name: str
    mw: int
    mh: int
    vectors: int = 1
    simd: int = 1
    pe: int = 1
    input: DataType
    weight: DataType
    accumulator: DataType = _INT32
    output: DataType = _INT32
    thresholds: int = 0
    backend: str = "hls"
    core: str = "mvu_4sx4u_dsp48e2"
    resource: str = "auto"
    memory: str = "internal_decoupled"
    ram_style: str = "auto"
    ram_style_thresholds: str = "auto"
    pumped: bool = False

    @property
    def synapse_fold(self) -> int:
        """SF: words in a vector."""
        return self.mw // self.simd

    @property
    def neuron_fold(self) -> int:
        """NF: passes over a vector."""
        return self.mh // self.pe

    @property
    def inputs(self) -> tuple[Port, ...]:
        return (Port(self.input, self.simd, self.vectors * self.synapse_fold),)

    @property
    def outputs(self) -> tuple[Port, ...]:
        return (Port(self.output, self.pe, self.vectors * self.neuron_fold),)

    @property
    def cycles(self) -> int:
        return self.vectors * self.synapse_fold * self.neuron_fold

    @property
    def multiply_adds(self) -> int:
        """Per frame."""
        return self.vectors * self.mw * self.mh

    @property
    def weight_depth(self) -> int:
        """Words of the weight memory (FINN: calc_wmem)."""
        return self.synapse_fold * self.neuron_fold

    @property
    def weight_width(self) -> int:
        """Bits of one of its words."""
        return self.pe * self.simd * self.weight.bits


@dataclass(frozen=True, kw_only=True)
class VectorVector:
    """A depthwise convolution: each channel by its own taps (FINN: VVAU).

    Attributes:
        channels: C.
        kernel: k_h, k_w.
        vectors: OH OW.
        pe: channels at once; simd: taps at once.
        input, weight, accumulator, output, thresholds, backend, resource, memory, ram_style: as
            in `MatrixVector`.
        segment: stages of the DSP chain between registers (FINN: SEGMENTLEN); 0: all of it.
    """

    name: str
    channels: int
    kernel: tuple[int, int]
    vectors: int = 1
    pe: int = 1
    simd: int = 1
    input: DataType
    weight: DataType
    accumulator: DataType = _INT32
    output: DataType = _INT32
    thresholds: int = 0
    backend: str = "hls"
    segment: int = 0
    resource: str = "auto"
    memory: str = "internal_decoupled"
    ram_style: str = "auto"

    @property
    def taps(self) -> int:
        """Weights of one channel."""
        return self.kernel[0] * self.kernel[1]

    @property
    def synapse_fold(self) -> int:
        """SF: words in the window of PE channels."""
        return self.taps // self.simd

    @property
    def fold(self) -> int:
        """Results in a pixel."""
        return self.channels // self.pe

    @property
    def inputs(self) -> tuple[Port, ...]:
        words = self.vectors * self.fold * self.synapse_fold
        return (Port(self.input, self.pe * self.simd, words),)

    @property
    def outputs(self) -> tuple[Port, ...]:
        return (Port(self.output, self.pe, self.vectors * self.fold),)

    @property
    def cycles(self) -> int:
        return self.inputs[0].words

    @property
    def multiply_adds(self) -> int:
        """Per frame."""
        return self.vectors * self.channels * self.taps

    @property
    def weight_depth(self) -> int:
        """Words of the weight memory."""
        return self.fold * self.synapse_fold

    @property
    def weight_width(self) -> int:
        """Bits of one of its words."""
        return self.pe * self.simd * self.weight.bits
