"""An estimate with round numbers."""

from __future__ import annotations

from dataclasses import replace

from hwmodel.devices import device
from hwmodel.estimates import Estimate, KernelEstimate, StreamEstimate
from hwmodel.resources import Resources


def made(**changes: object) -> Estimate:
    """An estimate: 1000 LUT and 10 BRAM18 on a Z7020, 1000 frames a second at 100 MHz."""
    found = Estimate(
        target="finn:Pynq-Z1",
        backend="streaming",
        device=device("Pynq-Z1"),
        clock_mhz=100,
        interval=100_000,
        latency=300_000,
        kernels=(
            KernelEstimate(
                "conv1", "MatrixVector", "block/conv1", "PE 1, SIMD 2", 100_000,
                Resources(lut=800, ff=500, bram18=10, dsp=4),
            ),
            KernelEstimate("pad1", "Padding", "block/conv1", "SIMD 2", 900, Resources(lut=50)),
        ),
        streams=(
            StreamEstimate(
                "skip", "fork", "add", 4, 100, "srl", Resources(lut=150, ff=20, srl=100), True,
                "holds 2 rows",
            ),
            StreamEstimate("out", "add", "", 8, 2, "srl", Resources()),
        ),
        sizing="bounds",
        deadlock_free=True,
    )  # fmt: skip
    return replace(found, **changes)  # type: ignore[arg-type]
