"""QONNX as FINN and graphopt read it best."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir
import torch
from onnx_ir.passes.common import RemoveUnusedNodesPass
from torch import Tensor, nn

from graphopt.errors import GraphoptError
from graphopt.interop.torch import free_batch, hold_constants
from graphopt.ir import Model, constant, save, scalar
from training_hooks.quantize.quiet import quiet

OPSET = 13
"""The operator set that FINN's steps are made for."""


def export_qonnx(module: nn.Module, example: Tensor, path: str | Path) -> None:
    """Writes the network as QONNX for a batch like `example`, whole or not at all.

    Args:
        module: a network of Brevitas layers; its mode stays as it is.
        example: an input [N, ...]; FINN wants N = 1.
        path: the `.onnx` file.

    Raises:
        GraphoptError: Brevitas lacks a package that it exports with.
    """
    with quiet():
        from brevitas.export import export_qonnx as export

        try:
            proto = export(
                module, args=example, opset_version=OPSET, dynamo=False,
                input_names=["input"], output_names=["output"], keep_initializers_as_inputs=False,
            )  # fmt: skip
        except ModuleNotFoundError as error:
            raise GraphoptError(
                f"Brevitas cannot write QONNX ({error}): pip install onnxoptimizer."
            ) from error
    model = Model.load(proto)
    hold_constants(model)
    _merge_pads(model)
    _forget_shapes(model, module, example)
    free_batch(model)
    RemoveUnusedNodesPass()(model.ir)
    save(model, path)


def _merge_pads(model: Model) -> None:
    """Lets a convolution pad by itself where torch pads in front of it: torch's convolutions pad
    both sides alike, ONNX's do not have to.
    """
    for node in list(model.graph):
        pad = node.inputs[0].producer() if node.op_type == "Conv" and node.inputs[0] else None
        if pad is None or pad.op_type != "Pad" or len(pad.outputs[0].uses()) > 1:
            continue
        sizes, value = constant(pad.inputs[1]), scalar(pad.inputs[2]) if pad.inputs[2:] else 0.0
        if pad.attributes.get_string("mode", "constant") != "constant" or value or sizes is None:
            continue
        before, after = np.split(np.maximum(sizes, 0), 2)
        if (sizes < 0).any() or before[:2].any() or after[:2].any():
            continue
        own = node.attributes.get_ints("pads", [0] * 2 * (len(before) - 2))
        pads = np.asarray(own) + np.concatenate([before[2:], after[2:]])
        node.attributes["pads"] = onnx_ir.AttrInt64s("pads", pads.tolist())
        node.replace_input_with(0, pad.inputs[0])


@torch.no_grad()
def _forget_shapes(model: Model, module: nn.Module, example: Tensor) -> None:
    """Leaves the shapes of inner tensors to whoever reads the file: torch's exporter knows none
    behind its own way to write a padding, and says so by symbols that mean nothing.
    """
    training = module.training
    answer = module.eval()(example)
    module.train(training)
    answers = [answer] if isinstance(answer, Tensor) else list(answer)
    for node in model.graph:
        for value in node.outputs:
            value.shape = None
    for value, found in zip(model.graph.outputs, answers, strict=True):
        value.shape = onnx_ir.Shape(found.shape)
