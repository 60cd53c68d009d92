"""The losses of the retraining methods, by the symbols of the papers.

S is the student, T the teacher, f_i their stages, C the classifier, y the labels. Teachers must be
in evaluation mode and frozen (`frozen`): one that is left in training mode drifts.

| loss | paper |
|---|---|
| `distillation` | Hinton et al. 2015 |
| `tailor` | Tailor, arXiv 2301.07247 |
| `joint_rd` | JointRD, NeurIPS 2020, equations 1-3 |
| `align_kd` | AlignKD, equations 4-7 |
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from training_hooks.staged import Staged

Module = TypeVar("Module", bound=nn.Module)


def frozen(teacher: Module) -> Module:
    """The teacher itself, in evaluation mode and without gradients."""
    teacher.eval()
    for parameter in teacher.parameters():
        parameter.requires_grad_(False)
    return teacher


def distillation(
    student: Tensor, teacher: Tensor, y: Tensor, *, a: float = 0.5, temperature: float = 1.0
) -> Tensor:
    """`a t^2 KL(T || S) + (1 - a) CE(S, y)` of logits [N, classes], t the temperature."""
    soft = functional.kl_div(
        functional.log_softmax(student / temperature, 1),
        functional.log_softmax(teacher / temperature, 1),
        reduction="batchmean",
        log_target=True,
    )
    return a * temperature**2 * soft + (1 - a) * functional.cross_entropy(student, y)


def tailor(student: Tensor, teacher: Tensor, y: Tensor, *, share: float = 0.35) -> Tensor:
    """`.65 CE(S, y) + .35 MSE(S, T)` of logits [N, classes], without a temperature."""
    return (1 - share) * functional.cross_entropy(student, y) + share * functional.mse_loss(
        student, teacher
    )


def joint_rd(
    student: Staged, teacher: Staged, x: Tensor, y: Tensor, *, eta: float, weight: float = 1e-3
) -> Tensor:
    """JointRD's loss for a batch.

        CE(S(x), y) + eta [ sum_{i=2..n} CE(C^T f^T_{i..n} f^S_{1..i-1}(x), y)
                            + weight sum_{i=1..n} MSE(C^T f^T_{i+1..n} f^S_{1..i}(x), T(x)) ]

    The teacher behind the student's first k stages serves both sums, and runs once for each k.

    Args:
        student, teacher: with stages whose features have the same shapes; the teacher is frozen.
        x, y: inputs and labels.
        eta: weight of the teacher, from `schedules.cosine`.
        weight: lambda; 1e-3 for 32 x 32 images, 1e-4 for 224 x 224.
    """
    with torch.no_grad():
        wanted = teacher(x)
    features = student.features(x)
    loss = functional.cross_entropy(student.head(features[-1]), y)
    for stage, feature in enumerate(features, start=1):
        mixed = teacher.after(stage, feature)
        if stage < len(features):
            loss = loss + eta * functional.cross_entropy(mixed, y)
        loss = loss + eta * weight * functional.mse_loss(mixed, wanted)
    return loss


def align_kd(
    student: Staged,
    teacher: Staged,
    x: Tensor,
    y: Tensor,
    *,
    eta: float,
    a: float = 0.5,
    temperature: float = 1.0,
) -> Tensor:
    """AlignKD's loss for a batch; the teacher runs once.

        a KL(T(x) || S(x)) + (1 - a) CE(S(x), y)
            + eta sum_{i=1..n} MSE(f^S_{1..i}(x), f^T_{1..i}(x))

    Args:
        student, teacher: with stages whose features have the same shapes; the teacher is frozen.
        x, y: inputs and labels.
        eta: weight of the features, from `schedules.cosine`.
        a, temperature: of the distillation.
    """
    with torch.no_grad():
        wanted = teacher.features(x)
        soft = teacher.head(wanted[-1])
    found = student.features(x)
    logits = student.head(found[-1])
    loss = distillation(logits, soft, y, a=a, temperature=temperature)
    for one, other in zip(found, wanted, strict=True):
        loss = loss + eta * functional.mse_loss(one, other)
    return loss
