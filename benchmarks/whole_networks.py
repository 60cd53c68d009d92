"""Well-known networks at full size: what becomes of every join, and what it costs.

    python benchmarks/whole_networks.py [NETWORK ...]      (default: all)

Each is built by examples/networks with lively weights, exported, and optimized with the preset
`plain`, ResNet-50 in the dense form too. Outputs are compared by graphopt. One Markdown
row each: joins removed, weights, multiply-adds, worst error beside its tolerance, seconds.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections import Counter
from io import BytesIO
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from examples.networks import NETWORKS, export, input_shape, lively
from graphopt import plugins
from graphopt.cost import si
from graphopt.optimizer import Fate, Outcome, optimize

DENSE = {"resnet50"}
"""Networks that are shown in the dense form as well."""


def exported(name: str) -> bytes:
    module = lively(NETWORKS[name]().eval())
    buffer = BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        export(module, input_shape(module), buffer)
    return buffer.getvalue()


def row(name: str, outcome: Outcome, seconds: float) -> str:
    joins = [one for one in outcome.fates if one.skip.operator != "Mul"]
    gone = sum(one.fate is Fate.REMOVED for one in joins)
    before, after = outcome.before.total, outcome.after.total
    assert outcome.verification is not None
    worst = outcome.verification.worst
    error = f"{worst.relative:.1e} / {worst.tolerance:.1e}" if worst is not None else "-"
    codes = Counter(one.refusals[-1].code for one in joins if one.refusals)
    left = ", ".join(f"{count} {code}" for code, count in codes.items()) or "-"
    return (
        f"| {name} | {gone} of {len(joins)} | {left} | {si(before.parameters)} -> "
        f"{si(after.parameters)} | {si(before.multiply_adds)} -> {si(after.multiply_adds)} | "
        f"{outcome.verification.status.value} | {error} | {seconds:.0f} |"
    )


def show(name: str, model: bytes, pipeline: str, note: str = "") -> None:
    start = time.perf_counter()
    outcome = optimize(model, pipeline=pipeline)
    print(row(name + note, outcome, time.perf_counter() - start), flush=True)


def main(names: list[str]) -> None:
    print("| network | joins removed | left, by reason | weights | multiply-adds | outputs | worst error / tolerance | s |")  # fmt: skip  # noqa: E501
    print("|---|---|---|---|---|---|---|---|")
    plain = plugins.preset("plain")
    for name in names or list(NETWORKS):
        model = exported(name)
        show(name, model, plain)
        if name in DENSE:
            show(name, model, plain.replace("possible", "possible,form=dense"), ", dense")


if __name__ == "__main__":
    main(sys.argv[1:])
