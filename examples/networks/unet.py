"""U-Net (Ronneberger et al. 2015), with padded convolutions and batch norms as is usual today."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .layers import conv_norm


def double_conv(inputs: int, outputs: int) -> nn.Sequential:
    """Two 3x3 convolutions: `[N, inputs, H, W] -> [N, outputs, H, W]`."""
    return nn.Sequential(
        *conv_norm(inputs, outputs, 3), nn.ReLU(), *conv_norm(outputs, outputs, 3), nn.ReLU()
    )


class Level(nn.Module):
    """One level of the U, around all that is below it: `[N, inputs, H, W] -> [N, width, H, W]`."""

    def __init__(self, inputs: int, width: int, depth: int) -> None:
        super().__init__()
        below: nn.Module = double_conv(width, 2 * width)
        if depth > 1:
            below = Level(width, 2 * width, depth - 1)
        self.encode = double_conv(inputs, width)
        self.down = nn.MaxPool2d(2)
        self.below = below
        self.up = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.decode = double_conv(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.encode(x)
        up = self.up(self.below(self.down(skip)))
        return self.decode(torch.cat([skip, up], dim=1))


def unet(
    depth: int = 4, base: int = 64, width: float = 1.0, channels: int = 3, classes: int = 2
) -> nn.Sequential:
    """`[N, channels, H, W] -> [N, classes, H, W]`, H and W multiples of `2 ** depth`."""
    top = round(base * width)
    return nn.Sequential(Level(channels, top, depth), nn.Conv2d(top, classes, 1))
