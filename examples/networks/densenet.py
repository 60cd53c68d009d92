"""DenseNet-121 (Huang et al. 2017, *Densely Connected Convolutional Networks*)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .layers import classifier, conv_norm, imagenet_stem


class DenseLayer(nn.Module):
    """Appends `growth` channels to the input: `[N, inputs, H, W] -> [N, inputs + growth, H, W]`."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.new = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.ReLU(),
            *conv_norm(inputs, 4 * growth),
            nn.ReLU(),
            nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.new(x)], dim=1)


def transition(inputs: int) -> nn.Sequential:
    """Halves channels and size: `[N, inputs, H, W] -> [N, inputs / 2, H / 2, W / 2]`."""
    return nn.Sequential(
        nn.BatchNorm2d(inputs),
        nn.ReLU(),
        nn.Conv2d(inputs, inputs // 2, 1, bias=False),
        nn.AvgPool2d(2),
    )


def densenet121(
    blocks: Sequence[int] = (6, 12, 24, 16), width: float = 1.0, classes: int = 1000
) -> nn.Sequential:
    """`[N, 3, H, W] -> [N, classes]`, growing by `32 width` channels a layer."""
    growth = round(32 * width)
    inputs = 2 * growth
    net = nn.Sequential()
    net.add_module("stem", imagenet_stem(inputs))
    for depth, layers in enumerate(blocks, start=1):
        if depth > 1:
            net.add_module(f"transition{depth - 1}", transition(inputs))
            inputs //= 2
        for index in range(layers):
            net.add_module(f"block{depth}_layer{index + 1}", DenseLayer(inputs, growth))
            inputs += growth
    net.add_module("final", nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU()))
    net.add_module("classifier", classifier(inputs, classes))
    return net
