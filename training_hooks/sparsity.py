"""Network slimming's sparsity (Liu et al. 2017, section 3): L1 on the scales of batch norms.

The penalty drives the scales of channels that matter little towards 0, so that `prune-channels`
can rank channels by them. It is a subgradient on the scales alone, which is what the paper trains
with: nothing is added to the loss, and any training loop will do.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextmanager
def l1_on_scales(module: nn.Module, strength: float) -> Iterator[None]:
    """Within the context, each backward pass adds the gradient of `strength * sum |scale|`.

    Args:
        module: the network; every affine batch norm in it takes part.
        strength: the penalty's weight, 1e-5 to 1e-3 in the paper.

    Raises:
        ValueError: the strength is negative, or no batch norm has a scale.
    """
    if strength < 0:
        raise ValueError(f"a strength of {strength} would drive scales away from 0")
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.affine]
    if not norms:
        raise ValueError("no batch norm of this network has a scale")
    handles = [norm.weight.register_hook(_Subgradient(norm.weight, strength)) for norm in norms]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Subgradient:
    def __init__(self, scale: nn.Parameter, strength: float) -> None:
        self._scale, self._strength = scale, strength

    def __call__(self, gradient: torch.Tensor) -> torch.Tensor:
        return gradient + self._strength * self._scale.detach().sign()
