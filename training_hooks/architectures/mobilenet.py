"""MobileNetV2 for CIFAR as redesigned in RMNet section 5.3, and the MobileNetV1 it compiles to.

Reserve-merge carries a skip in reserved channels of the expanded tensor, and fusing then merges
each linear bottleneck into the expansion behind it: what is left alternates depthwise and
pointwise convolutions. The width of a bottleneck is gone by then, so a network that is going to be
compiled may have bottlenecks of any width. RMNet makes them `free` times as wide, and adds the
skip to the first channels only, for what it carries has to be reserved.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Stage:
    """Blocks of one width.

    Attributes:
        expansion: hidden channels per base channel of the input.
        channels: base channels of the output.
        blocks: how many blocks.
        stride: that of the first block.
    """

    expansion: int
    channels: int
    blocks: int
    stride: int


STEM = 32
"""Channels of the stem, and base channels of the first bottleneck."""

HEAD = 1024
"""Channels of the last convolution."""

STAGES = (
    Stage(2, 32, 1, 2),
    Stage(3, 32, 1, 1),
    Stage(4, 64, 1, 2),
    Stage(3, 64, 1, 1),
    Stage(4, 128, 1, 2),
    Stage(3, 128, 5, 1),
    Stage(4, 256, 1, 2),
    Stage(3, 256, 1, 1),
)
"""The inverted residuals. With the channels that a skip reserves, each hidden tensor has as many
channels as MobileNetV1 has there: twice or four times those of the block's input."""

BOTTLENECKS = 1 + sum(stage.blocks for stage in STAGES)
"""Bottleneck tensors: one before the first inverted residual, and one behind each."""


def _conv_norm(
    inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    padding = kernel // 2
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outputs)]


def _depthwise(channels: int, stride: int = 1) -> list[nn.Module]:
    return [*_conv_norm(channels, channels, 3, stride, groups=channels), nn.ReLU6()]


def _classifier(channels: int, classes: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout), nn.Linear(channels, classes)
    )


class InvertedResidual(nn.Module):
    """An inverted residual between bottlenecks that may be wider than the skip (RMNet section 5.3).

    `[N, free_in inputs, H, W] -> [N, free_out outputs, H / stride, W / stride]`. Where the stride
    is 1 and the base channels stay, the first `inputs` channels of the input are added to the first
    `inputs` channels of the output: as a plain addition where both bottlenecks have that width,
    otherwise as slice, pad and add.

    Args:
        inputs: base channels of the input.
        outputs: base channels of the output.
        expansion: hidden channels per base channel of the input.
        stride: of the depthwise convolution.
        free_in: width of the input bottleneck, in multiples of `inputs`.
        free_out: width of the output bottleneck, in multiples of `outputs`.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        expansion: int,
        stride: int = 1,
        free_in: int = 1,
        free_out: int = 1,
    ) -> None:
        super().__init__()
        hidden = expansion * inputs
        self.residual = nn.Sequential(
            *_conv_norm(inputs * free_in, hidden),
            nn.ReLU6(),
            *_depthwise(hidden, stride),
            *_conv_norm(hidden, outputs * free_out),
        )
        self.skips = inputs == outputs and stride == 1
        self.carried = inputs
        self.wider_in = free_in > 1
        self.missing = outputs * (free_out - 1)

    def forward(self, x: Tensor) -> Tensor:
        """Maps `[N, free_in inputs, H, W]` to `[N, free_out outputs, H / stride, W / stride]`."""
        out: Tensor = self.residual(x)
        if not self.skips:
            return out
        skip = x[:, : self.carried] if self.wider_in else x
        if self.missing:
            skip = functional.pad(skip, (0, 0, 0, 0, 0, self.missing))
        return out + skip


def mobilenet_v2_cifar(
    free: int | Sequence[int] = 1,
    width: float = 1.0,
    classes: int = 100,
    dropout: float = 0.2,
) -> nn.Sequential:
    """The redesigned MobileNetV2 of RMNet section 5.3: `[N, 3, 32, 32] -> [N, classes]`.

    Args:
        free: width of the bottlenecks in multiples of their base channels: one number for all, or
            one for each of the `BOTTLENECKS`.
        width: factor on all channels.
        classes: number of logits.
        dropout: share of features dropped before the classifier while training.

    Raises:
        ValueError: `free` has another number of factors, or one below 1.
    """
    factors = [free] * BOTTLENECKS if isinstance(free, int) else list(free)
    if len(factors) != BOTTLENECKS or min(factors) < 1:
        raise ValueError(f"free takes {BOTTLENECKS} factors of at least 1, not {factors}")
    stem, head = round(STEM * width), round(HEAD * width)
    net = nn.Sequential()
    net.add_module("stem", nn.Sequential(*_conv_norm(3, stem, 3), nn.ReLU6()))
    first = nn.Sequential(*_depthwise(stem), *_conv_norm(stem, stem * factors[0]))
    net.add_module("first", first)
    inputs, done = stem, 0
    for depth, stage in enumerate(STAGES, start=1):
        outputs = round(stage.channels * width)
        for index in range(stage.blocks):
            stride = 1 if index else stage.stride
            around = factors[done : done + 2]
            block = InvertedResidual(inputs, outputs, stage.expansion, stride, *around)
            net.add_module(f"stage{depth}_block{index + 1}", block)
            inputs, done = outputs, done + 1
    last = nn.Sequential(*_conv_norm(inputs * factors[-1], head), nn.ReLU6())
    net.add_module("head", last)
    net.add_module("classifier", _classifier(head, classes, dropout))
    return net


def mobilenet_v1_cifar(
    width: float = 1.0, classes: int = 100, dropout: float = 0.2
) -> nn.Sequential:
    """The MobileNetV1 that `mobilenet_v2_cifar` becomes, whatever its bottlenecks.

    `[N, 3, 32, 32] -> [N, classes]`. These are the convolutions that are left when each skip
    reserves the channels that it carries, and neighbours are fused. Only the activations differ:
    all are ReLU6 here, where reserved channels have to pass (RMNet section 5.3).

    Args:
        width: factor on all channels.
        classes: number of logits.
        dropout: share of features dropped before the classifier while training.
    """
    base = round(STEM * width)
    widths, strides = [base], [1]
    for stage in STAGES:
        outputs = round(stage.channels * width)
        for index in range(stage.blocks):
            stride = 1 if index else stage.stride
            reserved = base if base == outputs and stride == 1 else 0
            widths.append(stage.expansion * base + reserved)
            strides.append(stride)
            base = outputs
    widths.append(round(HEAD * width))
    net = nn.Sequential()
    net.add_module("stem", nn.Sequential(*_conv_norm(3, widths[0], 3), nn.ReLU6()))
    for index, stride in enumerate(strides):
        pointwise = [*_conv_norm(widths[index], widths[index + 1]), nn.ReLU6()]
        block = nn.Sequential(*_depthwise(widths[index], stride), *pointwise)
        net.add_module(f"block{index + 1}", block)
    net.add_module("classifier", _classifier(widths[-1], classes, dropout))
    return net
