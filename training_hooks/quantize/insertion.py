"""Where the quantizers go, and their insertion."""

from __future__ import annotations

import math
from typing import Any

from brevitas.nn import QuantConv1d, QuantConv2d, QuantIdentity, QuantLinear, QuantReLU
from brevitas.quant import (
    Int8ActPerTensorFloat,
    Int8WeightPerChannelFloat,
    Int8WeightPerTensorFloat,
    Uint8ActPerTensorFloat,
    Uint8ActPerTensorFloatMaxInit,
)
from torch import Tensor, fx, nn

from graphopt.errors import GraphoptError
from training_hooks.quantize.roles import Roles, fold_norms, traced
from training_hooks.quantize.widths import Widths


def quantize(module: nn.Module, example: Tensor, widths: Widths) -> fx.GraphModule:
    """The network with quantizers; the float weights are where training starts.

    Args:
        module: of convolutions, linear layers, batch norms, ReLU, pools, sums and concatenations,
            and what moves elements about; it is not changed.
        example: an input [N, ...]; its sign decides that of the input's quantizer.
        widths: bits.

    Returns:
        The network. Call `calibrate` before using it: no quantizer has a scale yet.

    Raises:
        GraphoptError: torch.fx cannot trace the module, something in it cannot be quantized, or a
            layer that `widths` names does not exist.
    """
    network = traced(module)
    fold_norms(network)
    _Insertion(network, Roles(network, example), widths).carry_out()
    network.graph.lint()
    network.recompile()
    network.delete_all_unused_submodules()
    return network.to(example.device)


class _Insertion:
    """What follows from the roles.

    Raises:
        GraphoptError: there is no layer, or not one that `widths` names.
    """

    def __init__(self, network: fx.GraphModule, roles: Roles, widths: Widths) -> None:
        self.network, self.roles = network, roles
        kinds = roles.kinds
        layers = list(dict.fromkeys(str(n.target) for n in kinds if kinds[n] == "layer"))
        if not layers:
            raise GraphoptError("the network has no convolution and no linear layer.")
        if missing := sorted(set(widths.layers) - set(layers)):
            raise GraphoptError(
                f"no layer is named '{missing[0]}': the layers are {', '.join(layers)}."
            )
        self.general = widths.activation
        self.widths = {
            name: widths.of(index, len(layers), name) for index, name in enumerate(layers)
        }

    def _bits(self, node: fx.Node) -> int:
        """The most that a layer which reads the tensor has; else what all have."""
        reading = [n for n in self.roles.readers(node) if self.roles.kinds[n] == "layer"]
        return max((self.widths[str(n.target)][1] for n in reading), default=self.general)

    def _wants_quantizer(self, node: fx.Node) -> bool:
        """Whether a tensor that no quantizer made needs one directly behind it: a layer or a pool
        reads it, or two nodes that would round it each in its own way.
        """
        kind, readers = self.roles.kinds[node], set(self.roles.readers(node))
        if kind == "input":
            return True
        if kind not in ("layer", "sum", "mean", "affine"):
            return False
        wants = ("layer",) if kind == "mean" else ("layer", "mean")
        return len(readers) > 1 or any(self.roles.kinds[reader] in wants for reader in readers)

    def carry_out(self) -> None:
        """Replaces layers and ReLU, and inserts the other quantizers."""
        kinds = self.roles.kinds
        relus = {node: self._rectifier(node) for node in kinds if kinds[node] == "relu"}
        behind = {
            node: self._identity(node, self._bits(node))
            for node in kinds
            if self._wants_quantizer(node)
        }
        joins = {
            node: self._identity(node, self.general if kinds[node] == "sum" else self._bits(node))
            for node in kinds
            if kinds[node] in ("sum", "concat")
        }
        for name, (weight, _) in self.widths.items():
            self.network.set_submodule(name, _quantized(self.roles.modules[name], weight))
        for node, quantizer in relus.items():
            self._replace(node, quantizer)
        for node, quantizer in behind.items():
            self._insert(node, quantizer)
        for node, quantizer in joins.items():
            self._share(node, quantizer)

    def _identity(self, node: fx.Node, bits: int) -> nn.Module:
        """A quantizer for a tensor, or for what is summed to it: unsigned where both can be."""
        kind = Uint8ActPerTensorFloat if self.roles.is_positive(node) else Int8ActPerTensorFloat
        made: nn.Module = QuantIdentity(act_quant=kind, bit_width=bits, return_quant_tensor=False)
        return made

    def _rectifier(self, node: fx.Node) -> nn.Module:
        """A ReLU that quantizes; one that clips above starts with that range."""
        _, high = self.roles.limits(node)
        given: dict[str, Any] = {"act_quant": Uint8ActPerTensorFloat}
        if math.isfinite(high):
            given = {"act_quant": Uint8ActPerTensorFloatMaxInit, "max_val": high}
        relu: nn.Module = QuantReLU(bit_width=self._bits(node), return_quant_tensor=False, **given)
        return relu

    def _replace(self, node: fx.Node, module: nn.Module) -> None:
        with self.network.graph.inserting_before(node):
            new = self.network.graph.call_module(self._add(node, "relu", module), (_first(node),))
        node.replace_all_uses_with(new)
        self.network.graph.erase_node(node)

    def _insert(self, node: fx.Node, module: nn.Module) -> None:
        """Puts a quantizer behind a node, for all of its readers but the network's output."""
        users = [user for user in node.users if user.op != "output"]
        with self.network.graph.inserting_after(node):
            new = self.network.graph.call_module(self._add(node, "quantizer", module), (node,))
        for user in users:
            user.replace_input_with(node, new)

    def _share(self, node: fx.Node, module: nn.Module) -> None:
        """Puts one quantizer in front of a join, for all that it reads."""
        target = self._add(node, "addends", module)
        for source in dict.fromkeys(node.all_input_nodes):
            with self.network.graph.inserting_before(node):
                new = self.network.graph.call_module(target, (source,))
            node.replace_input_with(source, new)

    def _add(self, node: fx.Node, role: str, module: nn.Module) -> str:
        name = f"{node.name}_{role}"
        while hasattr(self.network, name):
            name += "_"
        self.network.add_submodule(name, module)
        return name


def _first(node: fx.Node) -> fx.Node:
    (source, *_) = node.all_input_nodes
    return source


def _quantized(layer: nn.Module, bits: int) -> nn.Module:
    """The layer with quantized weights, starting from its own."""
    made: nn.Module
    if isinstance(layer, nn.Linear):
        made = QuantLinear(
            layer.in_features, layer.out_features, layer.bias is not None,
            weight_quant=Int8WeightPerTensorFloat, weight_bit_width=bits,
        )  # fmt: skip
    else:
        assert isinstance(layer, nn.Conv1d | nn.Conv2d)
        kind = QuantConv1d if isinstance(layer, nn.Conv1d) else QuantConv2d
        made = kind(
            layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding,
            layer.dilation, layer.groups, layer.padding_mode, layer.bias is not None,
            weight_quant=Int8WeightPerChannelFloat, weight_bit_width=bits,
        )  # fmt: skip
    made.load_state_dict(layer.state_dict(), strict=False)
    return made
