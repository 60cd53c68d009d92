"""How long an estimate takes, and how that grows with the graph.

    python benchmarks/estimate_time.py [--longest 8]

ResNet-50 for 224 x 224 pixels, folded for 100 frames a second, FIFOs by their closed forms, nothing
simulated; then with twice as many blocks in each stage, and so on. An exponent of 1 is linear.
"""

from __future__ import annotations

import argparse
import math
import time

from skip_memory import BLOCKS, resnet

from graphopt.ir import Model
from hwmodel import estimate


def seconds(model: Model) -> tuple[int, float]:
    """Kernels of the design, and the shortest of three times."""
    taken = []
    for _ in range(3):
        start = time.perf_counter()
        found = estimate(model, "finn:U250", bits="w4a4", fps=100)
        taken.append(time.perf_counter() - start)
    return len(found.kernels), min(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--longest", type=int, default=8, help="times the blocks of a ResNet-50")
    options = parser.parse_args()
    first: tuple[int, float] | None = None
    print("blocks  kernels  seconds  per kernel  exponent")
    factor = 1
    while factor <= options.longest:
        blocks = [factor * count for count in BLOCKS["ResNet-50"]]
        kernels, taken = seconds(Model.load(resnet(blocks)))
        row = f"{sum(blocks):6d} {kernels:8d} {taken:8.2f} {1000 * taken / kernels:8.2f} ms"
        if first is None:
            first = (kernels, taken)
        else:
            row += f" {math.log(taken / first[1]) / math.log(kernels / first[0]):9.2f}"
        print(row)
        factor *= 2


if __name__ == "__main__":
    main()
