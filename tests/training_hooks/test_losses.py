"""Each loss against a slow, literal transcription of its equations, in value and gradient."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402

from training_hooks import schedules  # noqa: E402
from training_hooks.losses import align_kd, distillation, frozen, joint_rd, tailor  # noqa: E402
from training_hooks.staged import Staged  # noqa: E402

CLASSES = 5


def stage(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, 2, 1), nn.BatchNorm2d(outputs), nn.ReLU()
    )  # fmt: skip


def network(seed: int, stages: int = 3) -> Staged:
    torch.manual_seed(seed)
    widths = [2, 3, 4, 5][: stages + 1]
    pairs = pairwise(widths)
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], CLASSES))
    return Staged([stage(*pair) for pair in pairs], head).double()


def batch(count: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, 2, 16, 16, generator=generator, dtype=torch.float64)
    return x, torch.randint(0, CLASSES, (count,), generator=generator)


# --- the equations, word for word ----------------------------------------------------------------


def ce(logits: Tensor, y: Tensor) -> Tensor:
    total = torch.zeros((), dtype=logits.dtype)
    for row, label in zip(logits, y, strict=True):
        exponentials = [torch.exp(value) for value in row]
        total = total - torch.log(exponentials[int(label)] / sum(exponentials))
    return total / len(logits)


def mse(one: Tensor, other: Tensor) -> Tensor:
    return sum(((a - b) ** 2 for a, b in zip(one.reshape(-1), other.reshape(-1), strict=True))) / (
        one.numel()
    )


def kl(student: Tensor, teacher: Tensor, t: float) -> Tensor:
    p, q = torch.softmax(teacher / t, 1), torch.softmax(student / t, 1)
    return (p * (torch.log(p) - torch.log(q))).sum() / len(p)


def composed(parts: list[nn.Module], x: Tensor) -> Tensor:
    for part in parts:
        x = part(x)
    return x


def literal_joint_rd(s: Staged, t: Staged, x: Tensor, y: Tensor, eta: float, lam: float) -> Tensor:
    n = len(s.stages)
    f_s, f_t = list(s.stages), list(t.stages)
    first = sum(ce(composed([*f_s[: i - 1], *f_t[i - 1 :], t.head], x), y) for i in range(2, n + 1))
    second = sum(
        mse(composed([*f_s[:i], *f_t[i:], t.head], x), composed([*f_t, t.head], x))
        for i in range(1, n + 1)
    )
    return ce(composed([*f_s, s.head], x), y) + eta * (first + lam * second)


def literal_align_kd(s: Staged, t: Staged, x: Tensor, y: Tensor, eta: float, a: float) -> Tensor:
    f_s, f_t = list(s.stages), list(t.stages)
    logits, soft = composed([*f_s, s.head], x), composed([*f_t, t.head], x)
    features = sum(mse(composed(f_s[:i], x), composed(f_t[:i], x)) for i in range(1, len(f_s) + 1))
    return a * kl(logits, soft, 1.0) + (1 - a) * ce(logits, y) + eta * features


def compare(loss: Callable[[Staged], Tensor], literal: Callable[[Staged], Tensor]) -> None:
    """The two on a student of the same weights. Evaluation mode: a batch norm in training would
    count each of the literal transcription's passes.
    """
    student = network(1).eval()
    values, gradients = [], []
    for compute in (loss, literal):
        student.zero_grad()
        value = compute(student)
        value.backward()
        values.append(value.item())
        gradients.append([p.grad.clone() for p in student.parameters() if p.grad is not None])
    assert values[0] == pytest.approx(values[1], rel=1e-6, abs=1e-9)
    assert len(gradients[0]) == len(gradients[1]) > 5
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)
    assert max(float(g.abs().max()) for g in gradients[0]) > 1e-3


@pytest.mark.parametrize("eta", [1.0, 0.5, 5e-3])
@pytest.mark.parametrize("weight", [1e-3, 0.7])
def test_joint_rd(eta: float, weight: float) -> None:
    teacher, (x, y) = frozen(network(2)), batch()
    compare(
        lambda s: joint_rd(s, teacher, x, y, eta=eta, weight=weight),
        lambda s: literal_joint_rd(s, teacher, x, y, eta, weight),
    )


@pytest.mark.parametrize("eta", [1.0, 0.5])
@pytest.mark.parametrize("a", [0.5, 0.9])
def test_align_kd(eta: float, a: float) -> None:
    teacher, (x, y) = frozen(network(2)), batch()
    compare(
        lambda s: align_kd(s, teacher, x, y, eta=eta, a=a),
        lambda s: literal_align_kd(s, teacher, x, y, eta, a),
    )


def test_tailor_and_distillation() -> None:
    teacher, (x, y) = frozen(network(2)), batch()
    compare(
        lambda s: tailor(s(x), teacher(x), y),
        lambda s: 0.65 * ce(s(x), y) + 0.35 * mse(s(x), teacher(x)),
    )
    compare(
        lambda s: distillation(s(x), teacher(x), y, a=0.3, temperature=4.0),
        lambda s: 0.3 * 16 * kl(s(x), teacher(x), 4.0) + 0.7 * ce(s(x), y),
    )


def test_a_teacher_stays_as_it_was() -> None:
    teacher, (x, y) = frozen(network(2)), batch()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    student = network(1).train()
    optimizer = torch.optim.SGD(student.parameters(), 0.1)
    for loss in (joint_rd, align_kd):
        optimizer.zero_grad()
        loss(student, teacher, x, y, eta=1.0).backward()
        optimizer.step()
    assert not teacher.training
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert all(parameter.grad is None for parameter in teacher.parameters())


@pytest.mark.parametrize("loss", [joint_rd, align_kd])
def test_a_student_learns(loss: Callable[..., Tensor]) -> None:
    """Towards a teacher whose labels it is given; a student that is not trained stays behind."""
    teacher, (x, _) = frozen(network(2)), batch(64)
    y = teacher(x).argmax(1)
    student = network(1).train()

    def right() -> float:
        student.eval()
        with torch.no_grad():
            found = float((student(x).argmax(1) == y).double().mean())
        student.train()
        return found

    assert right() < 0.6
    optimizer = torch.optim.Adam(student.parameters(), 1e-2)
    for _ in range(100):
        optimizer.zero_grad()
        loss(student, teacher, x, y, eta=1.0).backward()
        optimizer.step()
    assert right() > 0.85


def test_schedules_are_the_published_ones() -> None:
    etas = [schedules.cosine(epoch, end=0.5) for epoch in (0, 30, 60, 200)]
    assert etas == pytest.approx([1, 0.75, 0.5, 0.5])
    assert schedules.cosine(20, end=5e-3) == pytest.approx(
        5e-3 + (1 - 5e-3) * (1 + math.cos(math.pi / 3)) / 2
    )
    # Tailor: skip k goes at the end of epoch 3 (k + 1); the first three epochs have all of them.
    gone = [schedules.removed_by_tailor(epoch, 4) for epoch in (0, 2, 3, 5, 6, 11, 12, 50)]
    assert gone == [0, 0, 1, 1, 2, 3, 4, 4]
    assert [schedules.removed_by_nonresnet(stage) for stage in range(4)] == [0, 3, 6, 9]
    rates = [schedules.JOINT_RD_CIFAR.rate_at(epoch) for epoch in (0, 99, 100, 149, 150, 199)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])
    assert schedules.TAILOR_CIFAR.rate_at(60) == pytest.approx(1e-3)
