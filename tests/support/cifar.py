"""CIFAR-10 test images as each real model wants them, and its top-1 accuracy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort

from graphopt.ir import Model

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CIFAR = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)


def load_test_set(shared: Path) -> tuple[np.ndarray, np.ndarray]:
    """uint8 images [10000, 3, 32, 32] and labels [10000]."""
    with np.load(shared / "data/cifar10/test.npz") as data:
        return data["x"], data["y"]


def normalised(images: np.ndarray, statistics: tuple[tuple[float, ...], ...] | None) -> np.ndarray:
    """Float images: raw 0..255 where `statistics` is None, else (x / 255 - mean) / std."""
    if statistics is None:
        return images.astype(np.float32)
    mean, std = (np.array(s, np.float32).reshape(3, 1, 1) for s in statistics)
    return (images.astype(np.float32) / 255 - mean) / std


def predictions(model: Model, images: np.ndarray) -> np.ndarray:
    """Argmax for each image, whatever batch and layout the model wants."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(
        model.to_proto().SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    (source,) = session.get_inputs()
    if source.shape[-1] == 3:
        images = images.transpose(0, 2, 3, 1)
    batch = source.shape[0] if isinstance(source.shape[0], int) else 250
    answers = []
    for start in range(0, len(images), batch):
        chunk = images[start : start + batch]
        missing = batch - len(chunk)
        padded = np.concatenate([chunk, np.repeat(chunk[-1:], missing, axis=0)])
        (scores,) = session.run(None, {source.name: padded})
        answers.append(scores.argmax(axis=1)[: len(chunk)])
    return np.concatenate(answers)
