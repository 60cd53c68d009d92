"""EfficientNet-B0 (Tan and Le 2019, *EfficientNet: Rethinking Model Scaling for CNNs*)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from .layers import SqueezeExcite, classifier, conv_norm, scaled
from .mobilenet import InvertedResidual

# Expansion, channels, blocks, stride and kernel of each stage.
B0 = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)


def efficientnet_b0(
    stages: Sequence[tuple[int, int, int, int, int]] = B0, width: float = 1.0, classes: int = 1000
) -> nn.Sequential:
    """`[N, 3, H, W] -> [N, classes]`. Every block has a gate, a quarter of its input wide."""
    inputs, head = scaled(32 * width), scaled(1280 * width)
    net = nn.Sequential()
    net.add_module("stem", nn.Sequential(*conv_norm(3, inputs, 3, 2), nn.SiLU()))
    for depth, (expansion, channels, repeats, first, kernel) in enumerate(stages, start=1):
        outputs = scaled(channels * width)
        for index in range(repeats):
            hidden, stride = inputs * expansion, 1 if index else first
            gate = SqueezeExcite(hidden, inputs // 4, nn.SiLU, nn.Sigmoid)
            block = InvertedResidual(inputs, hidden, outputs, kernel, stride, nn.SiLU, gate)
            net.add_module(f"stage{depth}_block{index + 1}", block)
            inputs = outputs
    net.add_module("head", nn.Sequential(*conv_norm(inputs, head), nn.SiLU()))
    net.add_module("classifier", classifier(head, classes))
    return net
