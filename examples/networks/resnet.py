"""ResNet (He et al. 2016, *Deep Residual Learning for Image Recognition*) and its pre-activated
form (He et al. 2016, *Identity Mappings in Deep Residual Networks*)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor, nn
from torch.nn import functional

from .layers import classifier, conv_norm, imagenet_stem


class Basic(nn.Module):
    """Two 3x3 convolutions: `[N, inputs, H, W] -> [N, width, H / stride, W / stride]`."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            *conv_norm(inputs, width, 3, stride), nn.ReLU(), *conv_norm(width, width, 3)
        )
        self.shortcut = projection(inputs, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.residual(x) + self.shortcut(x))


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride, as in v1.5) and 1x1: `[N, inputs, H, W] -> [N, 4 width, ...]`."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = width * self.expansion
        self.residual = nn.Sequential(
            *conv_norm(inputs, width),
            nn.ReLU(),
            *conv_norm(width, width, 3, stride),
            nn.ReLU(),
            *conv_norm(width, outputs),
        )
        self.shortcut = projection(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.residual(x) + self.shortcut(x))


class PreActivated(nn.Module):
    """The basic block with norm and ReLU before each convolution; nothing follows the addition."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.activate = nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU())
        self.residual = nn.Sequential(
            *conv_norm(inputs, width, 3, stride),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
        )
        same = inputs == width and stride == 1
        self.shortcut = None if same else nn.Conv2d(inputs, width, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        active = self.activate(x)
        return self.residual(active) + (x if self.shortcut is None else self.shortcut(active))


def projection(inputs: int, outputs: int, stride: int) -> nn.Module:
    """The identity where shapes allow it, otherwise a 1x1 convolution (option B)."""
    if inputs == outputs and stride == 1:
        return nn.Identity()
    return nn.Sequential(*conv_norm(inputs, outputs, 1, stride))


def resnet(
    block: Callable[[int, int, int], nn.Module],
    blocks: Sequence[int],
    width: float = 1.0,
    classes: int = 1000,
) -> nn.Sequential:
    """`blocks` residual blocks per stage: `[N, 3, H, W] -> [N, classes]`."""
    base = round(64 * width)
    preactivated = block is PreActivated
    net = nn.Sequential()
    stem = imagenet_stem(base)
    # The first block brings norm and ReLU itself, so convolution and pooling remain.
    net.add_module("stem", stem[::3] if preactivated else stem)
    inputs = base
    for depth, repeats in enumerate(blocks):
        for index in range(repeats):
            stride = 2 if depth and not index else 1
            unit = block(inputs, base << depth, stride)
            net.add_module(f"stage{depth + 1}_block{index + 1}", unit)
            inputs = (base << depth) * unit.expansion
    if preactivated:
        net.add_module("final", nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU()))
    net.add_module("classifier", classifier(inputs, classes))
    return net


resnet18 = partial(resnet, block=Basic, blocks=(2, 2, 2, 2))
resnet34 = partial(resnet, block=Basic, blocks=(3, 4, 6, 3))
resnet50 = partial(resnet, block=Bottleneck, blocks=(3, 4, 6, 3))
preact_resnet18 = partial(resnet, block=PreActivated, blocks=(2, 2, 2, 2))
