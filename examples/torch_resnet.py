"""A ResNet in PyTorch, trained on scikit-learn's digits: where docs/from-pytorch-to-finn.md starts.

    pip install torch scikit-learn
    python examples/torch_resnet.py FOLDER [--epochs 12]

Writes FOLDER/resnet.onnx, which maps images [N, 1, 8, 8] in 0 ... 1 to logits [N, 10], and the data
as `examples/quantize_network.py` reads them: FOLDER/data/train_batch_1.npz and test.npz, with
x (uint8, NCHW) and y. The network has two stages, an identity and a projection on their skips.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from train_digits import Training, accuracy, export, load_splits, torch_logits, train


class Block(nn.Module):
    """He et al. 2016: two 3x3 convolutions, and a 1x1 one on the skip where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs),
        )  # fmt: skip
        same = inputs == outputs and stride == 1
        self.skip = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.branch(x) + self.skip(x))


def resnet(width: int = 8) -> nn.Sequential:
    """Two blocks; images of 8 x 8."""
    return nn.Sequential(
        nn.Conv2d(1, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
        Block(width, width, 1),
        Block(width, 2 * width, 2),
        nn.AvgPool2d(4), nn.Flatten(), nn.Linear(2 * width, 10),
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=int, default=12)
    options = parser.parse_args()
    torch.set_num_threads(1)
    fitting, held_out = load_splits()
    net = train(resnet, fitting, Training(epochs=options.epochs))
    data = options.folder / "data"
    data.mkdir(parents=True, exist_ok=True)
    for name, split in (("train_batch_1", fitting), ("test", held_out)):
        pixels = (split.images * 255).round().to(torch.uint8)
        np.savez_compressed(data / f"{name}.npz", x=pixels.numpy(), y=split.labels.numpy())
    path = options.folder / "resnet.onnx"
    export(net, path)
    found = accuracy(torch_logits(net, held_out.images), held_out.labels)
    print(f"{path}: {found:.2%} of {len(held_out.labels)} images right")


if __name__ == "__main__":
    main()
