"""A trained quantized network without its joins: do all predictions stay, and does FINN take it?

    python benchmarks/quantized_network.py MODEL.onnx [MODEL.onnx ...] [--data FOLDER] [--finn]

MODEL is QONNX, for CIFAR-10 in pixels of 0 ... 255, as `examples/quantize_network.py` writes it.
It goes through the preset `finn`; both are executed by qonnx on all test images. With --finn,
the stock estimate-only steps of FINN are run on both (`graphopt finn setup` first).
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

import numpy as np
import onnx
from quantized_blocks import execute

from graphopt import optimize
from graphopt.ir import save
from hwmodel import estimate

SHARED = Path(os.environ.get("GRAPHOPT_SHARED", Path(__file__).parents[1] / ".." / "shared"))


def logits(proto: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    """Of every image."""
    name = proto.graph.input[0].name
    if name != "x":
        renamed = onnx.ModelProto()
        renamed.CopyFrom(proto)
        renamed.graph.input[0].name = "x"
        for node in renamed.graph.node:
            node.input[:] = ["x" if value == name else value for value in node.input]
        proto = renamed
    del proto.graph.value_info[:]
    for dim in proto.graph.output[0].type.tensor_type.shape.dim[:1]:
        dim.dim_param = "N"
    return np.concatenate(
        [execute(proto, part.astype(np.float32)) for part in np.array_split(images, 20)]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--data", type=Path, default=SHARED / "data" / "cifar10")
    parser.add_argument("--finn", action="store_true", help="run FINN's stock steps on both")
    parser.add_argument("--fps", type=int, default=200, help="that FINN and we fold for")
    options = parser.parse_args()
    test = np.load(options.data / "test.npz")
    images, labels = test["x"], test["y"]
    for path in options.models:
        outcome = optimize(path, preset="finn")
        fates = ", ".join(f"{one.skip.name} {one.fate.value}" for one in outcome.fates)
        print(f"{path.name}: {fates}")
        before = logits(onnx.load(path), images)
        after = logits(outcome.model.to_proto(), images)
        same = int((before.argmax(1) == after.argmax(1)).sum())
        print(
            f"  accuracy {(before.argmax(1) == labels).mean():.2%} and "
            f"{(after.argmax(1) == labels).mean():.2%}; same prediction on {same} of "
            f"{len(labels)}; largest difference of a logit {np.abs(before - after).max():.2e}"
        )
        with tempfile.TemporaryDirectory() as folder:
            plain = Path(folder) / f"{path.stem}.finn.onnx"
            save(outcome.model, plain)
            for label, model in (("as it was", path), ("without joins", plain)):
                ours = estimate(model, "finn:ZCU104", fps=options.fps)
                total = ours.resources
                print(
                    f"  {label:14} ours: LUT {total.lut:,.0f}, BRAM18 {total.bram18:,.0f}, DSP "
                    f"{total.dsp:,.0f}, {ours.fps:,.0f} fps"
                )
                if not options.finn:
                    continue
                from hwmodel.finn import bridge

                found = bridge.estimate(
                    model, Path(folder) / label, board="ZCU104", fps=options.fps
                )
                if found.accepted:
                    counts = found.resources
                    print(
                        f"  {'':14} FINN: LUT {counts['LUT']:,.0f}, BRAM18 "
                        f"{counts['BRAM_18K']:,.0f}, DSP {counts['DSP']:,.0f}, {found.fps:,.0f} fps"
                    )
                else:
                    print(f"  {'':14} FINN: rejected at {found.step}: {found.reason}")


if __name__ == "__main__":
    main()
