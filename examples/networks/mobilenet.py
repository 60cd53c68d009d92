"""MobileNetV2 (Sandler et al. 2018) and MobileNetV3-Large (Howard et al. 2019)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from .layers import Activation, SqueezeExcite, classifier, conv_norm, scaled


class InvertedResidual(nn.Module):
    """Expand, filter per channel, gate if asked to, project linearly.

    `[N, inputs, H, W] -> [N, outputs, H / stride, W / stride]`; the skip exists where input and
    output have the same shape.
    """

    def __init__(
        self,
        inputs: int,
        hidden: int,
        outputs: int,
        kernel: int = 3,
        stride: int = 1,
        activation: Activation = nn.ReLU6,
        gate: nn.Module | None = None,
    ) -> None:
        super().__init__()
        expand = [*conv_norm(inputs, hidden), activation()] if hidden != inputs else []
        self.residual = nn.Sequential(
            *expand,
            *conv_norm(hidden, hidden, kernel, stride, groups=hidden),
            activation(),
            *([gate] if gate else []),
            *conv_norm(hidden, outputs),
        )
        self.skips = inputs == outputs and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        return x + self.residual(x) if self.skips else self.residual(x)


# Expansion, channels, blocks and stride of each stage.
V2 = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)

# Kernel, hidden channels, channels, gate, activation and stride of each block.
V3_LARGE = (
    (3, 16, 16, False, nn.ReLU, 1),
    (3, 64, 24, False, nn.ReLU, 2),
    (3, 72, 24, False, nn.ReLU, 1),
    (5, 72, 40, True, nn.ReLU, 2),
    (5, 120, 40, True, nn.ReLU, 1),
    (5, 120, 40, True, nn.ReLU, 1),
    (3, 240, 80, False, nn.Hardswish, 2),
    (3, 200, 80, False, nn.Hardswish, 1),
    (3, 184, 80, False, nn.Hardswish, 1),
    (3, 184, 80, False, nn.Hardswish, 1),
    (3, 480, 112, True, nn.Hardswish, 1),
    (3, 672, 112, True, nn.Hardswish, 1),
    (5, 672, 160, True, nn.Hardswish, 2),
    (5, 960, 160, True, nn.Hardswish, 1),
    (5, 960, 160, True, nn.Hardswish, 1),
)


def mobilenet_v2(
    stages: Sequence[tuple[int, int, int, int]] = V2, width: float = 1.0, classes: int = 1000
) -> nn.Sequential:
    """`[N, 3, H, W] -> [N, classes]`. The head gets no narrower than published."""
    inputs, head = scaled(32 * width), scaled(1280 * max(1.0, width))
    net = nn.Sequential()
    net.add_module("stem", nn.Sequential(*conv_norm(3, inputs, 3, 2), nn.ReLU6()))
    for depth, (expansion, channels, repeats, first) in enumerate(stages, start=1):
        outputs = scaled(channels * width)
        for index in range(repeats):
            stride = 1 if index else first
            block = InvertedResidual(inputs, inputs * expansion, outputs, stride=stride)
            net.add_module(f"stage{depth}_block{index + 1}", block)
            inputs = outputs
    net.add_module("head", nn.Sequential(*conv_norm(inputs, head), nn.ReLU6()))
    net.add_module("classifier", classifier(head, classes))
    return net


def mobilenet_v3_large(
    blocks: Sequence[tuple[int, int, int, bool, Activation, int]] = V3_LARGE,
    width: float = 1.0,
    classes: int = 1000,
) -> nn.Sequential:
    """`[N, 3, H, W] -> [N, classes]`."""
    inputs, last, head = (scaled(channels * width) for channels in (16, 960, 1280))
    net = nn.Sequential()
    net.add_module("stem", nn.Sequential(*conv_norm(3, inputs, 3, 2), nn.Hardswish()))
    for index, (kernel, mid, channels, gated, activation, stride) in enumerate(blocks, start=1):
        hidden, outputs = scaled(mid * width), scaled(channels * width)
        gate = SqueezeExcite(hidden, scaled(hidden / 4), nn.ReLU, nn.Hardsigmoid) if gated else None
        block = InvertedResidual(inputs, hidden, outputs, kernel, stride, activation, gate)
        net.add_module(f"block{index}", block)
        inputs = outputs
    net.add_module("last", nn.Sequential(*conv_norm(inputs, last), nn.Hardswish()))
    net.add_module("pool", nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    net.add_module("head", nn.Sequential(nn.Linear(last, head), nn.Hardswish()))
    net.add_module("classifier", nn.Linear(head, classes))
    return net
