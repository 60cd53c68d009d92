"""What a network is made of, as far as quantizers have to know: its graph, and a role a node."""

from __future__ import annotations

import copy
import math
import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from graphopt.errors import GraphoptError

Kind: TypeAlias = Literal["input", "layer", "relu", "sum", "concat", "mean", "affine", "move"]
"""Roles of a node: what quantizers have to know of it. An affine node is a batch norm that is not
folded, or arithmetic with a constant; a move keeps every value, or drops it, or adds zeros.
"""

_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Linear)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
_RELUS = (nn.ReLU, nn.ReLU6, nn.Hardtanh)

_MODULES: Mapping[type[nn.Module], Kind] = {
    **dict.fromkeys(_LAYERS, "layer"),
    **dict.fromkeys(_NORMS, "affine"),
    **dict.fromkeys(_RELUS, "relu"),
    **dict.fromkeys(
        (nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d), "mean"
    ),
    **dict.fromkeys(
        (
            nn.Flatten, nn.Unflatten, nn.Identity, nn.MaxPool1d, nn.MaxPool2d, nn.ZeroPad1d,
            nn.ZeroPad2d, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.PixelShuffle,
            nn.ChannelShuffle,
        ),
        "move",
    ),
}  # fmt: skip

_FUNCTIONS: Mapping[Callable[..., Any], Kind] = {
    **dict.fromkeys((functional.relu, functional.relu_, torch.relu, torch.relu_), "relu"),
    **dict.fromkeys((functional.relu6, functional.hardtanh, torch.clamp, torch.clip), "relu"),
    **dict.fromkeys((operator.add, operator.iadd, torch.add), "sum"),
    **dict.fromkeys((operator.sub, operator.mul, operator.truediv), "affine"),
    **dict.fromkeys((torch.sub, torch.mul, torch.div), "affine"),
    **dict.fromkeys((torch.cat, torch.concat), "concat"),
    **dict.fromkeys(
        (torch.mean, functional.avg_pool2d, functional.adaptive_avg_pool2d), "mean"
    ),
    **dict.fromkeys(
        (
            torch.flatten, torch.reshape, torch.permute, torch.transpose, torch.squeeze,
            torch.unsqueeze, torch.chunk, torch.split, operator.getitem, functional.pad,
            functional.max_pool2d, torch.max_pool2d, functional.dropout, functional.pixel_shuffle,
        ),
        "move",
    ),
}  # fmt: skip

_METHODS: Mapping[str, Kind] = {
    **dict.fromkeys(("relu", "relu_", "clamp", "clamp_", "clip"), "relu"),
    **dict.fromkeys(("add", "add_"), "sum"),
    **dict.fromkeys(("sub", "mul", "div"), "affine"),
    "mean": "mean",
    **dict.fromkeys(
        "flatten view reshape permute transpose squeeze unsqueeze contiguous chunk split".split(),
        "move",
    ),
}  # fmt: skip


class _Tracer(fx.Tracer):
    """Leaves modules whole that other libraries made for it to call: onnx2torch, Brevitas."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        library = type(m).__module__.partition(".")[0]
        foreign = library in ("onnx2torch", "brevitas")
        return foreign or super().is_leaf_module(m, module_qualified_name)


def traced(module: nn.Module) -> fx.GraphModule:
    """A copy as a graph of torch.fx, in evaluation mode."""
    module = copy.deepcopy(module).eval()
    try:
        graph = _Tracer().trace(module)
    except Exception as error:
        reason = (str(error).strip() or repr(error)).splitlines()[0].rstrip(".")
        raise GraphoptError(
            f"torch.fx cannot trace {type(module).__name__} ({reason}): take Python's branches and "
            "loops over tensors out of its forward."
        ) from error
    made = fx.GraphModule(module, graph, type(module).__name__)
    made.graph.eliminate_dead_code()
    return made


def fold_norms(traced: fx.GraphModule) -> None:
    """Folds each batch norm into the layer that alone it reads, which is exact in evaluation."""
    modules = dict(traced.named_modules(remove_duplicate=False))
    calls = [node.target for node in traced.graph.nodes if node.op == "call_module"]
    for node in list(traced.graph.nodes):
        if node.op != "call_module" or not isinstance(modules[node.target], _NORMS):
            continue
        (before, *_) = node.all_input_nodes
        if before.op != "call_module" or len(before.users) > 1 or calls.count(before.target) > 1:
            continue
        layer, norm = modules[before.target], modules[node.target]
        if norm.running_mean is None or not isinstance(layer, _LAYERS):
            continue
        fuse: Callable[..., nn.Module] = fuse_conv_bn_eval
        if isinstance(layer, nn.Linear):
            fuse = fuse_linear_bn_eval
        traced.set_submodule(before.target, fuse(layer, norm))
        node.replace_all_uses_with(before)
        traced.graph.erase_node(node)


class Roles:
    """The role of each node that holds data of the network.

    Attributes:
        kinds: the roles, in order of execution.
        modules: those that are called, by name.

    Raises:
        GraphoptError: the network does not run on the example, or a node has no role.
    """

    def __init__(self, network: fx.GraphModule, example: Tensor) -> None:
        self.modules: dict[str, nn.Module] = dict(network.named_modules(remove_duplicate=False))
        self.kinds: dict[fx.Node, Kind] = {}
        self._signed_input = bool((example < 0).any())
        try:
            ShapeProp(network).propagate(example)
        except Exception as error:
            reason = (str(error.__cause__ or error).strip() or repr(error)).splitlines()[0]
            raise GraphoptError(
                f"the network does not run on an example of shape {list(example.shape)} ({reason})."
            ) from error
        for node in network.graph.nodes:
            if self._is_data(node):
                self.kinds[node] = self._kind(node)

    def _is_data(self, node: fx.Node) -> bool:
        """Whether a node gives float numbers that depend on the input, or a tuple of such."""
        if node.op == "placeholder":
            return "tensor_meta" in node.meta
        if node.op in ("output", "get_attr") or not any(n in self.kinds for n in self._read(node)):
            return False
        found = node.meta.get("tensor_meta", ())
        types = [found.dtype] if hasattr(found, "dtype") else [one.dtype for one in found]
        return bool(types) and all(one.is_floating_point for one in types)

    def _kind(self, node: fx.Node) -> Kind:
        """The role of a node.

        Raises:
            GraphoptError: it has none that can be quantized.
        """
        if node.op == "placeholder":
            return "input"
        kind: Kind | None
        if node.op == "call_module":
            module = self.modules[str(node.target)]
            kind, what = _MODULES.get(type(module)), type(module).__name__
        else:
            table: Mapping[Any, Kind] = _METHODS if node.op == "call_method" else _FUNCTIONS
            kind, what = table.get(node.target), getattr(node.target, "__name__", str(node.target))
        data = self._read(node)
        if kind == "sum" and len(data) < 2:
            kind = "affine"
        reason = "has no quantized form here: use ReLU, pools, sums, concatenations and layers"
        if kind == "relu" and self.limits(node)[0] != 0:
            kind, reason = None, "does not clip at 0: use ReLU or ReLU6"
        if kind == "affine" and len(data) > 1:
            kind, reason = None, "combines two tensors of data, which only a sum can do here"
        if kind == "sum" and node.kwargs.get("alpha", 1) != 1:
            kind, reason = None, "scales an addend: multiply by a convolution instead"
        if node.target is functional.pad and not _pads_zeros(node):
            kind, reason = None, "pads with something else than zeros"
        if kind is None:
            raise GraphoptError(f"'{node.name}' ({what}) {reason}.")
        return kind

    def _read(self, node: fx.Node) -> list[fx.Node]:
        """The data that a node reads, as often as it reads it (x + x reads twice)."""
        found: list[fx.Node] = []
        fx.node.map_arg((node.args, node.kwargs), found.append)
        return [n for n in found if n in self.kinds]

    def limits(self, node: fx.Node) -> tuple[float, float]:
        """Between which numbers a node clips."""
        if node.op == "call_module":
            module = self.modules[str(node.target)]
            if isinstance(module, nn.Hardtanh):  # ReLU6 is one
                return float(module.min_val), float(module.max_val)
            return 0.0, math.inf
        name = getattr(node.target, "__name__", str(node.target)).rstrip("_")
        if name == "relu":
            return 0.0, math.inf
        if name == "relu6":
            return 0.0, 6.0
        names = ("min_val", "max_val") if name == "hardtanh" else ("min", "max")
        given = dict(zip(names, node.args[1:], strict=False)) | node.kwargs
        default = (-1.0, 1.0) if name == "hardtanh" else (None, None)
        low, high = (given.get(n, d) for n, d in zip(names, default, strict=True))
        numbers = (int, float)
        return (
            float(low) if isinstance(low, numbers) else -math.inf,
            float(high) if isinstance(high, numbers) else math.inf,
        )

    def readers(self, node: fx.Node) -> Iterator[fx.Node]:
        """Who reads a tensor, past what only moves it; the network's output is none."""
        for user in node.users:
            kind = self.kinds.get(user)
            if kind == "move":
                yield from self.readers(user)
            elif kind is not None:
                yield user

    def is_positive(self, node: fx.Node) -> bool:
        """Whether a tensor has no negative numbers, whatever the weights are."""
        kind = self.kinds[node]
        if kind == "input":
            return not self._signed_input
        passes = kind in ("sum", "concat", "mean", "move")
        return kind == "relu" or (passes and all(map(self.is_positive, self._read(node))))


def _pads_zeros(node: fx.Node) -> bool:
    given = dict(zip(("pad", "mode", "value"), node.args[1:], strict=False)) | node.kwargs
    return given.get("mode", "constant") == "constant" and not given.get("value")
