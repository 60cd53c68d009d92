"""Trains a float ONNX image classifier with quantizers and writes it as QONNX.

    pip install torch brevitas onnxoptimizer && pip install --no-deps onnx2torch
    python examples/quantize_network.py FLOAT.onnx OUT.onnx --data FOLDER [--bits w4a4]

FOLDER holds `train_batch_*.npz` and `test.npz` with arrays x (uint8, NCHW) and y. The network gets
pixels of 0 ... 255, or with --mean and --std (x / 255 - mean) / std. Widths are those of
`training_hooks.quantize.Widths`: w4a4, or w4a4,first=w8a8,last=w8a8, or NAME=w2a2 for a layer.

Then: `graphopt lint OUT.onnx`, `graphopt optimize OUT.onnx --preset finn -o PLAIN.onnx`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from graphopt import GraphoptError, optimize
from graphopt.interop.torch import logits, to_module
from training_hooks.quantize import Widths, calibrate, export_qonnx, quantize

Scaling = Callable[[Tensor], Tensor]


def load(folder: Path, pattern: str, count: int | None = None) -> tuple[Tensor, Tensor]:
    """uint8 images [n, C, H, W] and labels [n]; at most `count`."""
    paths = sorted(folder.glob(pattern))
    if not paths:
        raise GraphoptError(f"{folder} holds no {pattern}: name the folder with the images.")
    parts = [np.load(path) for path in paths]
    images, labels = (np.concatenate([part[key] for part in parts])[:count] for key in "xy")
    return torch.tensor(images), torch.tensor(labels.astype(np.int64))


def scaling(mean: list[float] | None, std: list[float] | None) -> Scaling:
    """What the network does to pixels before it sees them."""
    if mean is None and std is None:
        return lambda images: images.float()
    shift, step = (torch.tensor(v).view(1, -1, 1, 1) for v in (mean or [0.0], std or [1.0]))
    return lambda images: (images.float() / 255 - shift) / step


def moved(images: Tensor) -> Tensor:
    """Half of the images mirrored; all of them moved by up to an eighth of their size."""
    images = torch.where(torch.rand(len(images), 1, 1, 1) < 0.5, images, images.flip(3))
    height, width = images.shape[2:]
    far = height // 8
    padded = nn.functional.pad(images, (far, far, far, far))
    down, right = (int(torch.randint(0, 2 * far + 1, ())) for _ in range(2))
    return padded[:, :, down : down + height, right : right + width]


@torch.no_grad()
def accuracy(net: nn.Module, images: Tensor, labels: Tensor, scaled: Scaling) -> float:
    net.eval()
    right = sum(
        int((net(scaled(x)).argmax(1) == y).sum())
        for x, y in zip(images.split(500), labels.split(500), strict=True)
    )
    return right / len(labels)


def train(
    net: nn.Module,
    data: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    scaled: Scaling,
    *,
    epochs: int,
    batch: int,
    rate: float,
) -> None:
    """Adam and one cycle of the learning rate, which is relative to the size of each parameter: a
    first layer that reads pixels of 0 ... 255 has weights of a thousandth.
    """
    images, labels = data
    count = max(1, len(images) // batch)
    groups = [
        {"params": [p], "lr": rate * max(1e-3, float(p.detach().square().mean().sqrt()))}
        for p in net.parameters()
    ]
    optimizer = torch.optim.Adam(groups)
    peaks = [group["lr"] for group in groups]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peaks, epochs * count, pct_start=0.2)
    for epoch in range(epochs):
        start, total = time.perf_counter(), 0.0
        net.train()
        for chosen in torch.randperm(len(images)).split(batch)[:count]:
            optimizer.zero_grad()
            guess = net(scaled(moved(images[chosen])))
            loss = nn.functional.cross_entropy(guess, labels[chosen])
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        print(
            f"epoch {epoch + 1}: loss {total / count:.3f}, test accuracy "
            f"{accuracy(net, *test, scaled):.2%}, {time.perf_counter() - start:.0f} s",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("float_model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--bits", default="w4a4")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--images", type=int, help="to train on (default: all)")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument(
        "--rate", type=float, default=2e-3, help="the highest, relative to each weight"
    )
    parser.add_argument("--mean", type=float, nargs="+", help="of each channel, in 0 ... 1")
    parser.add_argument("--std", type=float, nargs="+")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    scaled = scaling(options.mean, options.std)
    images, labels = load(options.data, "train_batch_*.npz", options.images)
    test = load(options.data, "test.npz")

    clean = optimize(options.float_model, preset="clean").model
    module = to_module(logits(clean))
    net = quantize(module, scaled(images[:64]), Widths.parse(options.bits))
    calibrate(net, [scaled(images[:500])])
    print(
        f"{len(images)} images to train on; test accuracy in floats "
        f"{accuracy(module, *test, scaled):.2%}, quantized {accuracy(net, *test, scaled):.2%}",
        flush=True,
    )
    if options.epochs:
        settings = {name: getattr(options, name) for name in ("epochs", "batch", "rate")}
        train(net, (images, labels), test, scaled, **settings)
    export_qonnx(net, scaled(images[:1]), options.out)
    print(f"wrote {options.out}")


if __name__ == "__main__":
    try:
        main()
    except GraphoptError as error:
        sys.exit(f"error: {error}")
