"""Train two small residual networks on scikit-learn's digits and export them to ONNX.

The data are the 1797 grey 8x8 images of ``sklearn.datasets.load_digits``, fed as ``pixel / 16``.
A stratified fifth is held out and never looked at in training. The script writes

* ``digits_resnet.onnx``: a CIFAR-style ResNet (He et al. 2016, *Deep Residual Learning for Image
  Recognition*) with identity, projection (option B) and strided zero-padded (option A) shortcuts;
* ``digits_mobilenetv2.onnx``: a MobileNetV2 (Sandler et al. 2018, *MobileNetV2: Inverted Residuals
  and Linear Bottlenecks*) with identity skips around inverted residuals;
* ``digits_test.npz``: the held-out ``images`` (float32 ``[n, 1, 8, 8]``) and ``labels`` (int64
  ``[n]``).

Both graphs map ``image`` ``[N, 1, 8, 8]`` to ``logits`` ``[N, 10]`` and keep every batch
normalisation as a node of its own.

Usage: ``python examples/train_digits.py [--out examples/models] [--epochs N]``
"""

import argparse
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from math import pi
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional

CLASSES = 10


class Shortcut(Enum):
    """How a residual block that changes shape carries its input to the addition."""

    PROJECTION = "projection"
    PAD = "pad"


@dataclass(frozen=True)
class ResStage:
    """``blocks`` basic blocks of ``width`` channels, the first one with ``stride``."""

    width: int
    blocks: int
    stride: int
    shortcut: Shortcut = Shortcut.PROJECTION


@dataclass(frozen=True)
class InvertedStage:
    """``blocks`` inverted residuals of ``width`` channels, the first one with ``stride``."""

    width: int
    blocks: int
    stride: int
    expansion: int


@dataclass(frozen=True)
class Training:
    """Optimisation settings (SGD with Nesterov momentum and a one-cycle learning rate)."""

    epochs: int = 30
    batch: int = 64
    peak_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    label_smoothing: float = 0.05
    max_shift: float = 0.125
    max_angle: float = pi / 18
    seed: int = 0


@dataclass(frozen=True)
class Split:
    """Images ``[n, 1, 8, 8]`` in [0, 1] and their labels ``[n]``."""

    images: Tensor
    labels: Tensor


RESNET = (
    ResStage(width=8, blocks=2, stride=1),
    ResStage(width=16, blocks=2, stride=2, shortcut=Shortcut.PROJECTION),
    ResStage(width=32, blocks=2, stride=2, shortcut=Shortcut.PAD),
)

MOBILENET = (
    InvertedStage(width=12, blocks=2, stride=1, expansion=4),
    InvertedStage(width=20, blocks=3, stride=2, expansion=4),
    InvertedStage(width=32, blocks=2, stride=2, expansion=6),
)


def conv_bn(
    inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    """A bias-free, size-preserving convolution and its batch normalisation."""
    padding = kernel // 2
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outputs)]


class PadShortcut(nn.Module):
    """Option A of He et al. 2016: subsample by ``stride`` and append zero channels.

    ``[N, inputs, H, W] -> [N, outputs, H / stride, W / stride]``, without parameters.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.missing = outputs - inputs
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        sampled = x[:, :, :: self.stride, :: self.stride]
        return functional.pad(sampled, (0, 0, 0, 0, 0, self.missing))


def make_shortcut(kind: Shortcut, inputs: int, outputs: int, stride: int) -> nn.Module:
    """The identity where shapes allow it, otherwise the shortcut asked for."""
    if inputs == outputs and stride == 1:
        return nn.Identity()
    if kind is Shortcut.PAD:
        return PadShortcut(inputs, outputs, stride)
    return nn.Sequential(*conv_bn(inputs, outputs, kernel=1, stride=stride))


class BasicBlock(nn.Module):
    """Basic residual block of He et al. 2016.

    ``[N, inputs, H, W] -> [N, outputs, H / stride, W / stride]``.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, shortcut: Shortcut) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            *conv_bn(inputs, outputs, kernel=3, stride=stride),
            nn.ReLU(),
            *conv_bn(outputs, outputs, kernel=3),
        )
        self.shortcut = make_shortcut(shortcut, inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.residual(x) + self.shortcut(x))


class InvertedResidual(nn.Module):
    """Inverted residual with a linear bottleneck, of Sandler et al. 2018.

    ``[N, inputs, H, W] -> [N, outputs, H / stride, W / stride]``; the skip exists only where
    input and output have the same shape.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.residual = nn.Sequential(
            *conv_bn(inputs, hidden, kernel=1),
            nn.ReLU6(),
            *conv_bn(hidden, hidden, kernel=3, stride=stride, groups=hidden),
            nn.ReLU6(),
            *conv_bn(hidden, outputs, kernel=1),
        )
        self.skips = inputs == outputs and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        update: Tensor = self.residual(x)
        return x + update if self.skips else update


def classifier(width: int) -> nn.Sequential:
    """Global average pooling and a linear layer: ``[N, width, H, W] -> [N, CLASSES]``."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, CLASSES))


def build_resnet(stages: tuple[ResStage, ...] = RESNET) -> nn.Sequential:
    """CIFAR-style ResNet: ``[N, 1, 8, 8] -> [N, CLASSES]``."""
    width = stages[0].width
    net = nn.Sequential()
    net.add_module("stem", nn.Sequential(*conv_bn(1, width, kernel=3), nn.ReLU()))
    for depth, stage in enumerate(stages, start=1):
        for index in range(stage.blocks):
            stride = stage.stride if index == 0 else 1
            block = BasicBlock(width, stage.width, stride, stage.shortcut)
            net.add_module(f"stage{depth}_block{index + 1}", block)
            width = stage.width
    net.add_module("classifier", classifier(width))
    return net


def build_mobilenet(stages: tuple[InvertedStage, ...] = MOBILENET, head: int = 96) -> nn.Sequential:
    """MobileNetV2 for small images: ``[N, 1, 8, 8] -> [N, CLASSES]``."""
    width = stages[0].width
    net = nn.Sequential()
    net.add_module("stem", nn.Sequential(*conv_bn(1, width, kernel=3), nn.ReLU6()))
    for depth, stage in enumerate(stages, start=1):
        for index in range(stage.blocks):
            stride = stage.stride if index == 0 else 1
            block = InvertedResidual(width, stage.width, stride, stage.expansion)
            net.add_module(f"stage{depth}_block{index + 1}", block)
            width = stage.width
    net.add_module("head", nn.Sequential(*conv_bn(width, head, kernel=1), nn.ReLU6()))
    net.add_module("classifier", classifier(head))
    return net


NETWORKS: dict[str, Callable[[], nn.Sequential]] = {
    "digits_resnet": build_resnet,
    "digits_mobilenetv2": build_mobilenet,
}


def load_splits(test_share: float = 0.2, seed: int = 0) -> tuple[Split, Split]:
    """The digits as a stratified pair of training and held-out splits."""
    pixels, labels = load_digits(return_X_y=True)
    images = (pixels / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    train_x, test_x, train_y, test_y = train_test_split(
        images, labels.astype(np.int64), test_size=test_share, stratify=labels, random_state=seed
    )
    train = Split(torch.from_numpy(train_x), torch.from_numpy(train_y))
    return train, Split(torch.from_numpy(test_x), torch.from_numpy(test_y))


def jitter(images: Tensor, config: Training, generator: torch.Generator) -> Tensor:
    """Rotate and shift every image of ``[n, 1, H, W]`` by small random amounts."""
    noise = 2 * torch.rand(len(images), 3, generator=generator) - 1
    angle, shift = noise[:, 0] * config.max_angle, noise[:, 1:] * 2 * config.max_shift
    cos, sin = angle.cos(), angle.sin()
    rotation = torch.stack([cos, -sin, sin, cos], dim=1).view(-1, 2, 2)
    grid = functional.affine_grid(
        torch.cat([rotation, shift[:, :, None]], dim=2), list(images.shape), align_corners=False
    )
    return functional.grid_sample(images, grid, align_corners=False)


def train(build: Callable[[], nn.Sequential], data: Split, config: Training) -> nn.Sequential:
    """Build a network from the seed, fit it to ``data`` and return it in evaluation mode."""
    torch.manual_seed(config.seed)
    generator = torch.Generator().manual_seed(config.seed)
    model = build()
    loss_of = nn.CrossEntropyLoss(label_smoothing=config.label_smoothing)
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=config.peak_rate,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        nesterov=True,
    )
    steps = len(data.labels) // config.batch
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.peak_rate, total_steps=config.epochs * steps
    )
    for _ in range(config.epochs):
        order = torch.randperm(len(data.labels), generator=generator)
        for chosen in order[: steps * config.batch].view(steps, config.batch):
            logits = model(jitter(data.images[chosen], config, generator))
            loss = loss_of(logits, data.labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def export(model: nn.Module, path: Path) -> None:
    """Write ``model``, in evaluation mode, to ``path`` with its batch normalisations unfolded."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.filterwarnings("ignore", message="Constant folding", category=UserWarning)
        torch.onnx.export(
            model,
            (torch.zeros(1, 1, 8, 8),),
            str(path),
            input_names=["image"],
            output_names=["logits"],
            dynamic_axes={"image": {0: "N"}, "logits": {0: "N"}},
            opset_version=17,
            training=torch.onnx.TrainingMode.PRESERVE,
            do_constant_folding=False,
            dynamo=False,
        )


def accuracy(logits: NDArray[np.float32], labels: Tensor) -> float:
    """Share of rows of ``logits`` ``[n, CLASSES]`` whose largest entry is at the label."""
    return float((logits.argmax(axis=1) == labels.numpy()).mean())


def torch_logits(model: nn.Module, images: Tensor) -> NDArray[np.float32]:
    """Logits ``[n, CLASSES]`` of the torch network."""
    with torch.inference_mode():
        logits: NDArray[np.float32] = model(images).numpy()
    return logits


def onnx_logits(path: Path, images: Tensor) -> NDArray[np.float32]:
    """Logits ``[n, CLASSES]`` of the exported network, run by ONNX Runtime."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"image": images.numpy()})
    return np.asarray(logits, dtype=np.float32)


def parse_arguments() -> argparse.Namespace:
    """Command line: where to write, and for how many epochs to train."""
    default_out = Path(__file__).resolve().parent / "models"
    parser = argparse.ArgumentParser(description="Train and export two small digit classifiers.")
    parser.add_argument("--out", type=Path, default=default_out, help="folder to write to")
    parser.add_argument("--epochs", type=int, default=Training.epochs, help="epochs per network")
    return parser.parse_args()


def main() -> None:
    """Train, export and score both networks."""
    arguments = parse_arguments()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    arguments.out.mkdir(parents=True, exist_ok=True)

    fitting, held_out = load_splits()
    np.savez_compressed(
        arguments.out / "digits_test.npz",
        images=held_out.images.numpy(),
        labels=held_out.labels.numpy(),
    )
    for name, build in NETWORKS.items():
        start = time.perf_counter()
        model = train(build, fitting, Training(epochs=arguments.epochs))
        seconds = time.perf_counter() - start

        path = arguments.out / f"{name}.onnx"
        export(model, path)
        in_torch = torch_logits(model, held_out.images)
        in_onnx = onnx_logits(path, held_out.images)
        print(
            f"{path.name}: torch {accuracy(in_torch, held_out.labels):.2%}, "
            f"ONNX Runtime {accuracy(in_onnx, held_out.labels):.2%}, "
            f"largest difference {np.abs(in_torch - in_onnx).max():.1e}, "
            f"{path.stat().st_size / 1000:.0f} kB, trained in {seconds:.0f} s"
        )


if __name__ == "__main__":
    main()
