"""MobileNetV2 to MobileNetV1: RMNet's section 5.3 and Table 2, counted and timed here.

    python benchmarks/mobilenet_v1.py

- The redesigned MobileNetV2 (CIFAR, 100 classes) with bottlenecks `free` times as wide:
  multiply-adds before and after `mobilenet-v1`, outputs compared, latency in ONNX Runtime on one
  thread, measured in turns.
- Which widths per bottleneck give the 83.4 M multiply-adds that the paper starts from.
- MobileNetV2 as published (224 x 224): what it would cost there, and that it is left alone.
"""

from __future__ import annotations

import itertools
import sys
import time
import warnings
from io import BytesIO
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from examples.networks import NETWORKS, export, lively
from graphopt.cost import cost_model, si
from graphopt.ir import Model
from graphopt.optimizer import Fate, Outcome, optimize
from graphopt.verify.runtime import OrtRunner
from training_hooks.architectures.mobilenet import (
    BOTTLENECKS,
    mobilenet_v1_cifar,
    mobilenet_v2_cifar,
)

PAPER_START, PAPER_END, PAPER_SPEED = 83.4e6, 47.1e6, 1.45
PIPELINE = "fold-constants,fold-norm,mobilenet-v1{when=%s},dce"


def exported(module: object, size: int) -> bytes:
    buffer = BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        export(module.eval(), (1, 3, size, size), buffer)  # type: ignore[attr-defined]
    return buffer.getvalue()


def multiply_adds(model: bytes) -> int:
    return cost_model("cpu").estimate(Model.load(model), "cpu").total.multiply_adds


def bias_additions(model: Model) -> int:
    """One addition per output of a convolution: what a count of batch norms comes to."""
    from graphopt.ir import Layers

    layers = model.analyses.get(Layers(fuse=False))
    return sum(layer.output.elements() or 0 for layer in layers if layer.operators[0] == "Conv")


def speed(outcome: Outcome, batch: int = 16, rounds: int = 15) -> float:
    """How many times as fast the result is: median of the ratios of runs in turns."""
    runners = [OrtRunner(m, optimize=True, threads=1) for m in (outcome.original, outcome.model)]
    feeds = {
        outcome.original.graph.inputs[0].name or "": np.random.default_rng(0)
        .standard_normal((batch, 3, 32, 32))
        .astype(np.float32)
    }
    ratios = []
    for number in range(rounds + 2):
        times = []
        for runner in runners:
            start = time.perf_counter()
            runner.run(feeds)
            times.append(time.perf_counter() - start)
        if number >= 2:
            ratios.append(times[0] / times[1])
    return float(np.median(ratios))


def redesigned() -> None:
    v1 = multiply_adds(exported(lively(mobilenet_v1_cifar(), shape=(4, 3, 32, 32)), 32))
    print(f"MobileNetV1 itself: {v1:,} multiply-adds (paper: {si(PAPER_END)})\n")
    print(
        "| free | before | after | outputs | decision | speed (paper: 1.45x) |\n"
        "|---|---|---|---|---|---|"
    )
    for free in (1, 2, 3, 4, 8):
        module = lively(mobilenet_v2_cifar(free=free), shape=(4, 3, 32, 32))
        model = exported(module, 32)
        outcome = optimize(model, pipeline=PIPELINE % "possible")
        assert outcome.verification is not None
        kept = optimize(model, pipeline=PIPELINE % "worth", verify=False).count(Fate.KEPT)
        before, after = (e.total.multiply_adds for e in (outcome.before, outcome.after))
        print(
            f"| {free} | {si(before)} | {after:,} ({after / v1:.3f} of V1) | "
            f"{outcome.verification.status.value} | {'kept' if kept else 'done'} | "
            f"{speed(outcome):.2f}x |",
            flush=True,
        )
    extra = bias_additions(outcome.model)
    print(
        f"\nWith one addition per output (bias): {after + extra:,}, "
        f"{(after + extra) / PAPER_END - 1:+.2%} of the paper's {si(PAPER_END)}; "
        f"without: {after / PAPER_END - 1:+.2%}"
    )


def widths() -> None:
    """Both counts are linear in the width of each bottleneck, so a few of them give every other."""
    three = [3] * BOTTLENECKS

    def counts(free: list[int]) -> np.ndarray:
        model = Model.load(exported(mobilenet_v2_cifar(free=free), 32))
        plain = cost_model("cpu").estimate(model, "cpu").total.multiply_adds
        return np.array([plain, plain + bias_additions(model)])

    base = counts(three)
    wider = [[*three[:i], 4, *three[i + 1 :]] for i in range(BOTTLENECKS)]
    steps = np.array([counts(free) - base for free in wider])
    ways = np.array(list(itertools.product((0, 1), repeat=BOTTLENECKS)))
    totals = base + ways @ steps
    grain = np.gcd.reduce(steps[:, 0])
    print(f"\nWidening a bottleneck changes the multiply-adds by a multiple of {grain:,}.")
    for name, column in zip(("multiply-adds", "with bias additions"), totals.T, strict=True):
        miss = np.abs(column - PAPER_START)
        best = int(miss.argmin())
        print(
            f"{name}: {int((miss < 0.05e6).sum())} of {len(ways)} ways to widen each bottleneck 3 "
            f"or 4 times count {si(PAPER_START)} to its last digit; closest: "
            f"{column[best]:,} with free={[3 + int(one) for one in ways[best]]}"
        )


def published() -> None:
    model = exported(lively(NETWORKS["mobilenet_v2"]()), 224)
    forced = optimize(model, pipeline=PIPELINE % "possible")
    default = optimize(model, verify=False)
    assert forced.verification is not None
    print(
        f"\nMobileNetV2 as published: {si(forced.before.total.multiply_adds)}; as MobileNetV1 "
        f"{si(forced.after.total.multiply_adds)} ({forced.verification.status.value}); by default "
        f"{default.count(Fate.KEPT)} of {len(default.fates)} joins are kept, "
        f"{si(default.after.total.multiply_adds)}"
    )


if __name__ == "__main__":
    redesigned()
    widths()
    published()
