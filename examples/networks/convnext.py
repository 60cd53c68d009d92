"""ConvNeXt (Liu et al. 2022, *A ConvNet for the 2020s*)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .layers import classifier


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of `[N, C, H, W]`."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class LayerScale(nn.Module):
    """A factor per channel, on the last axis."""

    def __init__(self, width: int, initial: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((width,), initial))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


class Block(nn.Module):
    """Depthwise 7x7, then a perceptron per pixel on channels-last data: `[N, C, H, W] -> same`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.pointwise = nn.Sequential(
            nn.LayerNorm(width, eps=1e-6),
            nn.Linear(width, 4 * width),
            nn.GELU(),
            nn.Linear(4 * width, width),
            LayerScale(width, 1e-6),
        )

    def forward(self, x: Tensor) -> Tensor:
        last = self.depthwise(x).permute(0, 2, 3, 1)
        return x + self.pointwise(last).permute(0, 3, 1, 2)


def convnext(
    blocks: Sequence[int] = (3, 3, 9, 3), width: float = 1.0, classes: int = 1000
) -> nn.Sequential:
    """`[N, 3, H, W] -> [N, classes]`; Tiny by default."""
    channels = round(96 * width)
    patches = nn.Conv2d(3, channels, 4, stride=4)
    net = nn.Sequential()
    net.add_module("stem", nn.Sequential(patches, ChannelNorm(channels, eps=1e-6)))
    for depth, repeats in enumerate(blocks, start=1):
        if depth > 1:
            halve = nn.Conv2d(channels, 2 * channels, 2, stride=2)
            down = nn.Sequential(ChannelNorm(channels, eps=1e-6), halve)
            net.add_module(f"down{depth - 1}", down)
            channels *= 2
        for index in range(repeats):
            net.add_module(f"stage{depth}_block{index + 1}", Block(channels))
    pool, flatten, linear = classifier(channels, classes)
    norm = nn.LayerNorm(channels, eps=1e-6)
    net.add_module("classifier", nn.Sequential(pool, flatten, norm, linear))
    return net
