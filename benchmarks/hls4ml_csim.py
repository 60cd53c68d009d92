"""Networks in hls4ml's own C++, compiled and run, beside the networks themselves.

    GRAPHOPT_HLS4ML=/path/to/environment python benchmarks/hls4ml_csim.py [MODEL.onnx ...]

hls4ml lives in an environment of its own (`pip install hls4ml==1.3.0 qonnx`); g++ compiles what it
writes, no tool of Xilinx is needed. Quantized residual blocks are made here, as they are and after
the preset `plain`; hls4ml's own QONNX networks are read from $GRAPHOPT_SHARED (default: ../shared),
and models can be named, for example what `examples/quantize_network.py` writes.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from quantized_blocks import drawn

from graphopt import optimize
from graphopt.ir import save
from hwmodel.hls4ml.bridge import Hls4mlError, c_simulate, interpreter

SHARED = Path(os.environ.get("GRAPHOPT_SHARED", Path(__file__).parents[1] / ".." / "shared"))
CHANNELS, SIDE = 8, 16
NETWORKS = (
    ("hls4ml_branched_ch_last_qonnx", "fixed<16,6>"),
    ("hls4ml_tiny_unet_ch_last_qonnx", "fixed<16,6>"),
    ("qonnx_residual_block_clean", "fixed<16,6>"),
    ("qonnx_residual_block_clean", "fixed<32,12>"),
)
"""Files in data/models/qonnx_finn, and the precision of what they do not quantize. The last has
float weights, and values of 337, which fixed<16,6> does not hold."""


def block(form: str) -> onnx.ModelProto:
    """A block of a form of `quantized_blocks`, 4 bits, for one sample."""
    x = np.random.default_rng(0).normal(size=(4, CHANNELS, SIDE, SIDE)).astype(np.float32)
    proto = drawn(form, 4, True, 1, x)
    for value in (*proto.graph.input, *proto.graph.output):
        sizes = (1, CHANNELS, SIDE, SIDE)
        for dim, size in zip(value.type.tensor_type.shape.dim, sizes, strict=True):
            dim.dim_value = size
    return proto


def models(folder: Path, named: list[Path]) -> Iterator[tuple[str, Path, str]]:
    """Label, file and precision of each."""
    for form in ("A, power of two", "A, lattice", "B, pointwise"):
        place = folder / f"{form.replace(', ', '_').replace(' ', '_')}.onnx"
        onnx.save(block(form), place)
        yield form, place, "fixed<16,6>"
        plain = place.with_suffix(".plain.onnx")
        save(optimize(place, preset="plain").model, plain)
        yield f"{form}, plain", plain, "fixed<16,6>"
    for name, precision in NETWORKS:
        place = SHARED / "data" / "models" / "qonnx_finn" / f"{name}.onnx"
        if place.is_file():
            yield f"{name}, {precision}", place, precision
        else:
            print(f"{place} is not there: set GRAPHOPT_SHARED")
    for place in named:
        yield place.name, place, "fixed<16,6>"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", type=Path, nargs="*")
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--reuse", type=int, default=1, help="hls4ml's reuse factor")
    parser.add_argument("--limit", type=float, default=900.0, help="seconds for a run of hls4ml")
    options = parser.parse_args()
    try:
        interpreter()
    except Hls4mlError as error:
        print(error)
        return
    print(
        f"{'model':44} compile s | largest diff.   of | other  argmax | "
        "FIFO bits default       ours"
    )
    with tempfile.TemporaryDirectory() as name:
        for number, (label, place, precision) in enumerate(models(Path(name), options.models)):
            found = c_simulate(
                place, Path(name) / f"{number}", samples=options.samples, reuse=options.reuse,
                precision=precision, limit=options.limit,
            )  # fmt: skip
            made, seen = found.converted, found.comparison
            if seen is None:
                print(f"{label:44} stopped at {made.step}: {made.reason}", flush=True)
                continue
            ours = f"{made.bits:10,}" if not made.unsized else made.unsized
            print(
                f"{label:44} {made.seconds['compile']:9.0f} | {seen.largest:13.2g} "
                f"{seen.span:4.3g} | {seen.differing:5.1%} {seen.agreement:7.2%} | "
                f"{made.default_bits:17,} {ours}",
                flush=True,
            )
    print(
        "largest diff.: of an output, and the greatest output; other: outputs that differ by more\n"
        "than a millionth of that; argmax: places with the same greatest channel. The networks\n"
        "themselves are run in ONNX Runtime, or in ONNX's reference evaluator where they have\n"
        "QONNX's operators. FIFO depths change nothing of what a C simulation computes."
    )


if __name__ == "__main__":
    main()
