"""RepVGG (Ding et al. 2021, *Making VGG-style ConvNets Great Again*) in its training form."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from .layers import classifier, conv_norm


class Block(nn.Module):
    """3x3, 1x1 and, where shapes allow it, a bare norm, added up before the ReLU.

    `[N, inputs, H, W] -> [N, outputs, H / stride, W / stride]`.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.square = nn.Sequential(*conv_norm(inputs, outputs, 3, stride))
        self.point = nn.Sequential(*conv_norm(inputs, outputs, 1, stride))
        same = inputs == outputs and stride == 1
        self.identity = nn.BatchNorm2d(inputs) if same else None

    def forward(self, x: Tensor) -> Tensor:
        total = self.square(x) + self.point(x)
        return functional.relu(total if self.identity is None else total + self.identity(x))


def repvgg_a0(
    blocks: Sequence[int] = (1, 2, 4, 14, 1),
    channels: Sequence[int] = (48, 48, 96, 192, 1280),
    width: float = 1.0,
    classes: int = 1000,
) -> nn.Sequential:
    """`[N, 3, H, W] -> [N, classes]`. Every stage begins with stride 2."""
    inputs = 3
    net = nn.Sequential()
    for depth, (repeats, full) in enumerate(zip(blocks, channels, strict=True), start=1):
        outputs = round(full * width)
        for index in range(repeats):
            block = Block(inputs, outputs, stride=1 if index else 2)
            net.add_module(f"stage{depth}_block{index + 1}", block)
            inputs = outputs
    net.add_module("classifier", classifier(inputs, classes))
    return net
