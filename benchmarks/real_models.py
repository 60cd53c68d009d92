"""Every real model through `optimize --preset plain`: joins removed, cost, error, seconds.

Usage: python benchmarks/real_models.py [FOLDER]   (default: $GRAPHOPT_SHARED/data/models)

Prints one Markdown row per model and the share of additive joins removed over all of them.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from graphopt.cost import si
from graphopt.optimizer import Fate, Outcome, optimize


def row(name: str, outcome: Outcome, seconds: float) -> str:
    adds = [one for one in outcome.fates if one.skip.is_additive]
    gone = sum(one.fate is Fate.REMOVED for one in adds)
    before, after = outcome.before.total, outcome.after.total
    assert outcome.verification is not None
    worst = outcome.verification.worst
    error = f"{worst.relative:.1e} / {worst.tolerance:.1e}" if worst is not None else "-"
    return (
        f"| {name} | {gone} of {len(adds)} | {len(outcome.fates) - len(adds)} | "
        f"{si(before.multiply_adds)} -> {si(after.multiply_adds)} | "
        f"{si(before.parameters)} -> {si(after.parameters)} | "
        f"{outcome.verification.status.value} | {error} | {seconds:.1f} |"
    )


def main() -> None:
    shared = os.environ.get("GRAPHOPT_SHARED", "../shared")
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else f"{shared}/data/models")
    print("| model | additive joins removed | other joins | multiply-adds | parameters | outputs | worst error / tolerance | s |")  # fmt: skip  # noqa: E501
    print("|---|---|---|---|---|---|---|---|")
    removed = total = 0
    for path in sorted(folder.glob("*/*.onnx")):
        if path.parent.name == "malformed":
            continue
        start = time.perf_counter()
        outcome = optimize(path, preset="plain")
        name = str(path.relative_to(folder).with_suffix(""))
        print(row(name, outcome, time.perf_counter() - start), flush=True)
        adds = [one for one in outcome.fates if one.skip.is_additive]
        removed += sum(one.fate is Fate.REMOVED for one in adds)
        total += len(adds)
    print(f"\nAdditive joins removed over all models: {removed} of {total} ({removed / total:.0%})")


if __name__ == "__main__":
    main()
