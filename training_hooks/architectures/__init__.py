"""Networks that are designed for the removal of their skips, to be trained and then compiled."""

from training_hooks.architectures.mobilenet import (
    InvertedResidual,
    mobilenet_v1_cifar,
    mobilenet_v2_cifar,
)
from training_hooks.architectures.repvgg import ReservingBlock, repvgg_cifar

__all__ = [
    "InvertedResidual",
    "ReservingBlock",
    "mobilenet_v1_cifar",
    "mobilenet_v2_cifar",
    "repvgg_cifar",
]
