"""When what changes: the published schedules, by epoch (0, 1, ...)."""

from __future__ import annotations

import math
from dataclasses import dataclass


def cosine(epoch: float, *, end: float, start: float = 1.0, over: int = 60) -> float:
    """`start` to `end` along half a cosine within `over` epochs, then `end`.

    JointRD's and AlignKD's eta: to 0.5 on CIFAR, to 5e-3 on ImageNet.
    """
    share = min(max(epoch / over, 0.0), 1.0)
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


def step(epoch: int, *, rate: float, at: tuple[int, ...], factor: float = 0.1) -> float:
    """`rate` times `factor` for every one of `at` that has come."""
    return rate * factor ** sum(epoch >= one for one in at)


def removed_by_tailor(epoch: int, skips: int) -> int:
    """Skips that are gone while epoch `epoch` runs: skip k (0 ..., input side first) goes at the
    end of epoch 3 (k + 1), counted from 1.
    """
    return min(epoch // 3, skips)


def removed_by_nonresnet(stage: int, skips: int = 9, stages: int = 3) -> int:
    """Skips that are gone in stage i = 0 ... `stages` of Algorithm 1: 3 i of 9, input side first;
    stage 0 is the network with all of them (ShortResNet).
    """
    return round(skips * stage / stages)


@dataclass(frozen=True)
class Recipe:
    """A published training.

    Attributes:
        epochs, batch: as published.
        rate: learning rate at the start.
        drops: epochs at which it falls to a tenth.
        momentum, decay: of SGD with Nesterov momentum.
    """

    epochs: int
    batch: int
    rate: float
    drops: tuple[int, ...]
    momentum: float = 0.9
    decay: float = 5e-4

    def rate_at(self, epoch: int) -> float:
        """The learning rate of an epoch."""
        return step(epoch, rate=self.rate, at=self.drops)


TAILOR_CIFAR = Recipe(200, 32, 0.1, tuple(range(30, 200, 30)), decay=1e-4)
TAILOR_IMAGENET = Recipe(120, 256, 0.1, tuple(range(30, 120, 30)), decay=1e-4)
JOINT_RD_CIFAR = Recipe(200, 128, 0.1, (100, 150))
