"""`Estimate`: what a design takes of a device, kernel by kernel and stream by stream."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from hwmodel.devices import Device
from hwmodel.resources import Resources, total


@dataclass(frozen=True)
class KernelEstimate:
    """One kernel.

    Attributes:
        name: of the kernel.
        kind: its class: MatrixVector, Window ...
        layer: the layer of the model that it belongs to.
        folding: its parallelism, for people: "PE 4, SIMD 8".
        cycles: between two frames if nothing makes it wait.
        resources: what it takes, its weights included.
    """

    name: str
    kind: str
    layer: str
    folding: str
    cycles: int
    resources: Resources


@dataclass(frozen=True)
class StreamEstimate:
    """One stream with its FIFO.

    Attributes:
        name: of the stream.
        source, sink: kernels at its ends; "" outside.
        width: bits of a word.
        depth: words the FIFO holds.
        style: what it is built of: "srl", "lutram", "bram", "uram".
        resources: what it takes.
        skip: whether it is the FIFO of a skip connection.
        reason: why it is as deep as it is.
    """

    name: str
    source: str
    sink: str
    width: int
    depth: int
    style: str
    resources: Resources
    skip: bool = False
    reason: str = ""

    @property
    def bits(self) -> int:
        """Storage."""
        return self.width * self.depth


@dataclass(frozen=True)
class Estimate:
    """A design on a device.

    Attributes:
        target: as the user wrote it.
        backend: whose formulas: "streaming" or "finn".
        device: the device.
        clock_mhz: clock.
        interval: cycles between two frames.
        latency: cycles from the first word of a frame to its last result.
        kernels, streams: the parts.
        sizing: how the FIFO depths came about: "given", "bounds", "simulated", "joint", "finn".
        simulated: whether interval and latency were simulated; else they are of the slowest
            kernel and of the longest path.
        deadlock_free: whether the design runs with these depths; None: not known.
        warnings: what the user should know.
    """

    target: str
    backend: str
    device: Device
    clock_mhz: float
    interval: int
    latency: int
    kernels: tuple[KernelEstimate, ...]
    streams: tuple[StreamEstimate, ...]
    sizing: str
    simulated: bool = False
    deadlock_free: bool | None = None
    warnings: tuple[str, ...] = field(default=())

    @cached_property
    def resources(self) -> Resources:
        """Everything together."""
        return self.kernel_resources + self.fifo_resources

    @cached_property
    def kernel_resources(self) -> Resources:
        """All kernels."""
        return total(kernel.resources for kernel in self.kernels)

    @cached_property
    def fifo_resources(self) -> Resources:
        """All FIFOs."""
        return total(stream.resources for stream in self.streams)

    @property
    def fifo_bits(self) -> int:
        """Storage of all FIFOs."""
        return sum(stream.bits for stream in self.streams)

    @property
    def skip_bits(self) -> int:
        """Storage of the FIFOs of skips."""
        return sum(stream.bits for stream in self.streams if stream.skip)

    @property
    def fps(self) -> float:
        """Frames a second."""
        return self.clock_mhz * 1e6 / self.interval

    @property
    def latency_s(self) -> float:
        """Seconds from the first word of a frame to its last result."""
        return self.latency / (self.clock_mhz * 1e6)

    @property
    def utilisation(self) -> Mapping[str, float]:
        """Share of the device by resource; 1 is all of it."""
        return self.device.utilisation(self.resources)

    def to_json(self) -> dict[str, Any]:
        """Everything as plain values, in the units of the attributes."""
        return {
            "target": self.target,
            "backend": self.backend,
            "device": self.device.name,
            "clock_mhz": self.clock_mhz,
            "interval_cycles": self.interval,
            "fps": self.fps,
            "latency_cycles": self.latency,
            "latency_s": self.latency_s,
            "sizing": self.sizing,
            "simulated": self.simulated,
            "deadlock_free": self.deadlock_free,
            "fifo_bits": self.fifo_bits,
            "skip_bits": self.skip_bits,
            "resources": asdict(self.resources),
            "utilisation": dict(self.utilisation),
            "warnings": list(self.warnings),
            "kernels": [asdict(kernel) for kernel in self.kernels],
            "streams": [asdict(stream) | {"bits": stream.bits} for stream in self.streams],
        }
