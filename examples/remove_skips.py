"""Removes the skips of a small trained network from Python and checks its accuracy.

Usage: python examples/remove_skips.py [MODEL]   (default: the digits ResNet beside this file)
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnxruntime

import graphopt

MODELS = Path(__file__).parent / "models"


def accuracy(model: graphopt.Model, images: np.ndarray, labels: np.ndarray) -> float:
    """Share of right answers. Images [n, 1, 8, 8] in 0..1, labels [n]."""
    session = onnxruntime.InferenceSession(model.to_proto().SerializeToString())
    (logits,) = session.run(["logits"], {"image": images})
    return float((logits.argmax(axis=1) == labels).mean())


def main() -> None:
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else MODELS / "digits_resnet.onnx"
    outcome = graphopt.optimize(path, preset="plain")
    for one in outcome.fates:
        print(f"{one.skip.name}: {one.skip.kind.value} skip {one.fate.value}: {one.reason}")
    assert outcome.verification is not None
    print(f"outputs: {outcome.verification.status.value}, {outcome.verification.reason}")
    with np.load(MODELS / "digits_test.npz") as data:
        images, labels = data["images"], data["labels"]
    before, after = (accuracy(m, images, labels) for m in (outcome.original, outcome.model))
    print(f"accuracy on {len(labels)} held-out digits: {before:.2%} before, {after:.2%} after")


if __name__ == "__main__":
    main()
