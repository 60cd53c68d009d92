"""Well-known networks, written from their papers, to feed the compiler with.

Every constructor takes `width` (a factor on all channels) and its depth; image classifiers take
`classes`. The defaults are the published network. Dropout and stochastic depth are left out:
exported networks do not train.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from os import PathLike, fspath
from typing import BinaryIO

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .convnext import convnext
from .densenet import densenet121
from .efficientnet import efficientnet_b0
from .mobilenet import mobilenet_v2, mobilenet_v3_large
from .repvgg import repvgg_a0
from .resnet import preact_resnet18, resnet18, resnet34, resnet50
from .transformer import Encoder
from .unet import unet

NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "bert_encoder": Encoder,
    "bert_encoder_prenorm": partial(Encoder, prenorm=True),
    "convnext_tiny": convnext,
    "densenet121": densenet121,
    "efficientnet_b0": efficientnet_b0,
    "mobilenet_v2": mobilenet_v2,
    "mobilenet_v3_large": mobilenet_v3_large,
    "preact_resnet18": preact_resnet18,
    "repvgg_a0": repvgg_a0,
    "resnet18": resnet18,
    "resnet34": resnet34,
    "resnet50": resnet50,
    "unet": unet,
}


def input_shape(module: nn.Module, size: int = 224) -> tuple[int, ...]:
    """What a network of `NETWORKS` takes: one RGB image of `size` by `size`, or embedded tokens."""
    if isinstance(module, Encoder):
        return (1, module.tokens, module.width)
    return (1, 3, size, size)


def lively(module: nn.Module, seed: int = 0, shape: Sequence[int] = (4, 3, 128, 128)) -> nn.Module:
    """`module` itself, with parameters and statistics as varied as a trained network's.

    Weights get He's initialisation. Scales (of norms, and layer scales) lie in 0.5 to 1.5, one
    in ten of them negative; biases are normal with deviation 0.2. A batch norm's statistics are
    those of its input when noise of `shape` and of several contrasts runs through the network,
    disturbed: the variance by a factor of 0.5 to 2, the mean by 0.2 deviations. So activations
    stay of order 1 at any depth. A network without batch norms has no use for `shape`.
    """
    random = torch.Generator().manual_seed(seed)

    def uniform(like: Tensor, low: float, high: float) -> Tensor:
        return torch.empty_like(like).uniform_(low, high, generator=random)

    def normal(like: Tensor, deviation: float) -> Tensor:
        return torch.empty_like(like).normal_(0, deviation, generator=random)

    def disturb(norm: _BatchNorm, inputs: tuple[Tensor]) -> None:
        channels = inputs[0].transpose(0, 1).flatten(1)
        variance, mean = torch.var_mean(channels, dim=1, correction=0)
        variance.clamp_(min=0.05)
        norm.running_mean.copy_(mean + variance.sqrt() * normal(mean, 0.2))
        norm.running_var.copy_(variance * uniform(variance, 0.5, 2))

    module.eval()
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.dim() > 1:
                nn.init.kaiming_normal_(parameter, generator=random)
            elif name.endswith("bias"):
                parameter.copy_(normal(parameter, 0.2))
            else:
                sign = torch.where(uniform(parameter, 0, 1) < 0.1, -1, 1)
                parameter.copy_(sign * uniform(parameter, 0.5, 1.5))
        norms = [part for part in module.modules() if isinstance(part, _BatchNorm)]
        hooks = [norm.register_forward_pre_hook(disturb) for norm in norms]
        if norms:
            contrast = torch.linspace(0.5, 2, shape[0])
            noise = torch.randn(*shape, generator=random)
            module(torch.einsum("n, n... -> n...", contrast, noise))
        for hook in hooks:
            hook.remove()
    return module


def export(module: nn.Module, shape: Sequence[int], target: str | PathLike[str] | BinaryIO) -> None:
    """Write `module`, in evaluation mode, to a path or buffer; the first axis of `shape` is free.

    `shape` is that of the input, batch included. The graph maps `input` to `output`. It keeps
    every BatchNormalization as a node of its own (in inference form: TrainingMode.PRESERVE on a
    module in evaluation mode; TrainingMode.EVAL would fold them), and leaves constants unfolded:
    Slice and Pad compute their operands from Constant, Shape, Concat and the like.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "You are using the legacy", DeprecationWarning)
        warnings.filterwarnings("ignore", "", DeprecationWarning, r"torch\.onnx")
        warnings.filterwarnings("ignore", "Constant folding - Only steps=1", UserWarning)
        torch.onnx.export(
            module.eval(),
            (torch.zeros(*shape),),
            fspath(target) if isinstance(target, str | PathLike) else target,
            input_names=["input"],
            output_names=["output"],
            dynamic_axes={"input": {0: "N"}, "output": {0: "N"}},
            opset_version=17,
            training=torch.onnx.TrainingMode.PRESERVE,
            do_constant_folding=False,
            dynamo=False,
        )
