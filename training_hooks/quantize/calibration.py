"""First scales, from float inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from training_hooks.quantize.quiet import quiet


@torch.no_grad()
def calibrate(module: nn.Module, batches: Iterable[Tensor]) -> None:
    """Gives each quantizer the scale that holds its float inputs; training moves it from there.

    The widest batch counts (Brevitas's own calibration takes the mean of all that a quantizer saw,
    so that one for two addends would clip the larger).

    Args:
        module: from `quantize`, not calibrated or trained before.
        batches: inputs [N, ...]; a few hundred images are enough.
    """
    with quiet():
        from brevitas.core.scaling import ParameterFromRuntimeStatsScaling
        from brevitas.graph.calibrate import calibration_mode
    widest: dict[nn.Module, Tensor] = {}

    def watch(scaling: nn.Module) -> Callable[..., None]:
        def note(_stats: nn.Module, _inputs: Any, range_: Tensor) -> None:
            widest[scaling] = torch.maximum(range_, widest.get(scaling, range_))

        return note

    found = [m for m in module.modules() if isinstance(m, ParameterFromRuntimeStatsScaling)]
    handles = [
        scaling.get_submodule("stats").register_forward_hook(watch(scaling)) for scaling in found
    ]
    training = module.training
    module.eval()
    try:
        with calibration_mode(module):
            for batch in batches:
                module(batch)
    finally:
        for handle in handles:
            handle.remove()
        module.train(training)
    for scaling, range_ in widest.items():
        scaling.get_parameter("value").copy_(range_)
