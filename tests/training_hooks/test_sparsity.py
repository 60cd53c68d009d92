"""The sparsity hook: its gradient, where it holds, and what it does to a network that trains."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from training_hooks.sparsity import l1_on_scales  # noqa: E402


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 2, 1))


def gradients(net: nn.Sequential, strength: float | None) -> list[torch.Tensor]:
    x = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    net.zero_grad()
    if strength is None:
        net(x).square().mean().backward()
    else:
        with l1_on_scales(net, strength):
            net(x).square().mean().backward()
    return [p.grad.clone() for p in net.parameters()]


def test_the_gradient_is_that_of_the_penalty() -> None:
    net = network()
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([1.0, -1, 0, 2, -3, 0.5, -0.5, 1]))
    plain, sparse = gradients(net, None), gradients(net, 0.01)
    for name, a, b in zip(dict(net.named_parameters()), plain, sparse, strict=True):
        expected = 0.01 * net[1].weight.detach().sign() if name == "1.weight" else 0 * a
        torch.testing.assert_close(b - a, expected, atol=1e-7, rtol=0)


def test_outside_of_the_context_nothing_is_added() -> None:
    net = network()
    before = gradients(net, None)
    gradients(net, 1.0)
    for a, b in zip(before, gradients(net, None), strict=True):
        assert torch.equal(a, b)


def test_scales_that_nothing_needs_go_to_zero() -> None:
    """The target depends on one channel only; the others' scales shrink with the penalty."""
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(4)
    optimizer = torch.optim.SGD(norm.parameters(), lr=0.1)
    x = torch.randn(256, 4)
    for _ in range(200):
        optimizer.zero_grad()
        with l1_on_scales(norm, 0.05):
            (norm(x)[:, 0] - 2 * x[:, 0]).square().mean().backward()
        optimizer.step()
    assert norm.weight[0] > 1.5
    assert norm.weight[1:].abs().max() < 0.02


@pytest.mark.parametrize(("net", "strength"), [(nn.Linear(2, 2), 0.1), (nn.BatchNorm1d(2), -1.0)])
def test_bad_use(net: nn.Module, strength: float) -> None:
    with pytest.raises(ValueError, match="scale"), l1_on_scales(net, strength):
        pass
