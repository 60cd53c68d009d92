"""RepVGG blocks that reserve a share of their channels, as in RMNet.

Where RepVGG adds three linear branches before each ReLU, RMNet lets the first channels pass
unchanged: a residual connection whose tensor is reserved from the start, so that the block still
re-parameterizes into a single 3x3 convolution and costs less to train.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


class ReservingBlock(nn.Module):
    """The first `floor(ratio channels)` pass; the others are 3x3 + 1x1 + identity, each normed.

    `[N, inputs, H, W] -> [N, outputs, H / stride, W / stride]`. Convolutions read all channels;
    the norm on the identity reads those that do not pass, and exists where shapes allow it.

    Args:
        inputs: channels of the input.
        outputs: channels of the output.
        stride: of the convolutions.
        ratio: share of channels that pass, at least 0 and below 1; 0 is the plain RepVGG block.

    Raises:
        ValueError: `ratio` is out of its range, or channels are to pass where the shape changes.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1, ratio: float = 0.0) -> None:
        super().__init__()
        same = inputs == outputs and stride == 1
        if not 0 <= ratio < 1:
            raise ValueError(f"ratio is at least 0 and below 1, not {ratio}")
        if ratio and not same:
            raise ValueError("channels pass only where stride is 1 and inputs equal outputs")
        self.reserved = int(ratio * inputs)
        fresh = outputs - self.reserved
        self.square = nn.Sequential(
            nn.Conv2d(inputs, fresh, 3, stride, padding=1, bias=False), nn.BatchNorm2d(fresh)
        )
        self.point = nn.Sequential(
            nn.Conv2d(inputs, fresh, 1, stride, bias=False), nn.BatchNorm2d(fresh)
        )
        self.identity = nn.BatchNorm2d(fresh) if same else None

    def forward(self, x: Tensor) -> Tensor:
        """Maps `[N, inputs, H, W]` to `[N, outputs, H / stride, W / stride]`."""
        total: Tensor = self.square(x) + self.point(x)
        if self.identity is not None:
            total = total + self.identity(x[:, self.reserved :] if self.reserved else x)
        if self.reserved:
            total = torch.cat([x[:, : self.reserved], total], dim=1)
        return functional.relu(total)


def repvgg_cifar(
    ratio: float = 0.25,
    blocks: Sequence[int] = (2, 2, 2, 2),
    width: int = 64,
    classes: int = 100,
) -> nn.Sequential:
    """A small RepVGG with reserving blocks: `[N, 3, 32, 32] -> [N, classes]`.

    Every stage begins with a plain RepVGG block, which doubles the channels and, from the second
    stage on, halves the image.

    Args:
        ratio: share of channels that pass through each reserving block.
        blocks: reserving blocks of each stage.
        width: channels of the first stage.
        classes: number of logits.
    """
    net = nn.Sequential()
    inputs = 3
    for depth, reserving in enumerate(blocks):
        outputs = width << depth
        first = ReservingBlock(inputs, outputs, stride=2 if depth else 1)
        net.add_module(f"stage{depth + 1}_first", first)
        for index in range(reserving):
            block = ReservingBlock(outputs, outputs, ratio=ratio)
            net.add_module(f"stage{depth + 1}_block{index + 1}", block)
        inputs = outputs
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))
    net.add_module("classifier", head)
    return net
