"""Layers that several families share."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

Activation = Callable[[], nn.Module]


def scaled(channels: float, divisor: int = 8) -> int:
    """`channels` rounded to a multiple of `divisor`, and never by more than a tenth down."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded if rounded >= 0.9 * channels else rounded + divisor


def conv_norm(
    inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    """A convolution without bias that keeps the size up to the stride, and its batch norm."""
    padding = (kernel - 1) // 2
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outputs)]


def imagenet_stem(width: int) -> nn.Sequential:
    """The stem of ResNet and DenseNet: `[N, 3, H, W] -> [N, width, H / 4, W / 4]`."""
    return nn.Sequential(*conv_norm(3, width, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1))


def classifier(width: int, classes: int) -> nn.Sequential:
    """Global average pooling and a linear layer: `[N, width, H, W] -> [N, classes]`."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))


class SqueezeExcite(nn.Module):
    """A gate per channel, computed from the mean over the image (Hu et al. 2018)."""

    def __init__(self, width: int, hidden: int, activation: Activation, gate: Activation) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(width, hidden, 1),
            activation(),
            nn.Conv2d(hidden, width, 1),
            gate(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x)
