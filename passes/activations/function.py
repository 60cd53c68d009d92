"""`Function`: elementwise operators between two tensors, read as one function of one variable.

Exporters write SiLU as `x Sigmoid(x)`, GELU as five nodes, HardSwish as `x Clip(x + 3, 0, 6) / 6`.
All of these are regions of the graph with one tensor going in, one coming out, and nothing but
elementwise operators with constants in between; what such a region computes is decided by its
operators, not by its spelling. Constants that differ from channel to channel (the slopes of a
PRelu, a batch norm, a scale) are kept apart: reserved channels get values of their own there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir

from graphopt.ir.constants import constant
from passes.norm_folding import CannotFold, batch_norm, per_channel

Array = npt.NDArray[Any]

DOMAINS = ("", "ai.onnx", "com.microsoft")


@dataclass(frozen=True)
class Channels:
    """Where a tensor has its channels: their number, their axis, and the rank of the tensor."""

    count: int
    axis: int
    rank: int

    def shaped(self, values: Array) -> Array:
        """One number per channel in a shape that broadcasts over the tensor."""
        return values.reshape(-1, *[1] * (self.rank - 1 - self.axis))


@dataclass(frozen=True, eq=False)
class Call:
    """One operator of a region.

    Attributes:
        operator: ONNX operator type (a batch norm counts as a Mul and an Add).
        operands: for each input a constant of shape [1] or [C], or the place of the call that makes
            it; place 0 is the region's input.
        parameters: attributes that are numbers or texts.
        node: the node that it stands for.
    """

    operator: str
    operands: tuple[int | Array, ...]
    parameters: Mapping[str, Any]
    node: onnx_ir.Node

    @property
    def is_per_channel(self) -> bool:
        """Whether channels could be given other constants: at a PRelu, or where they have them."""
        return self.operator == "PRelu" or any(
            not isinstance(operand, int) and operand.size > 1 for operand in self.operands
        )


@dataclass(frozen=True, eq=False)
class Function:
    """A region of elementwise operators.

    Attributes:
        source: the tensor that goes in.
        result: the tensor that comes out.
        calls: the operators in order; `Call.operands` counts them from 1.
        channels: of these tensors.
    """

    source: onnx_ir.Value
    result: onnx_ir.Value
    calls: tuple[Call, ...]
    channels: Channels

    @property
    def nodes(self) -> tuple[onnx_ir.Node, ...]:
        """The nodes of the region, in order of execution."""
        return tuple(dict.fromkeys(call.node for call in self.calls))

    @property
    def label(self) -> str:
        """How reports call it: by its node, or its operators."""
        names = [node.name or (node.outputs[0].name or node.op_type) for node in self.nodes]
        return names[0] if len(names) == 1 else f"{names[0]} .. {names[-1]}"

    @cached_property
    def shared(self) -> Function:
        """What it does to a channel at which every per-channel constant is neutral: scales and
        slopes 1, shifts 0.
        """
        places, calls = {0: 0}, []
        for place, call in enumerate(self.calls, 1):
            if call.is_per_channel:
                places[place] = next(places[o] for o in call.operands if isinstance(o, int))
                continue
            operands = tuple(places[o] if isinstance(o, int) else o for o in call.operands)
            calls.append(Call(call.operator, operands, call.parameters, call.node))
            places[place] = len(calls)
        return Function(self.source, self.result, tuple(calls), self.channels)

    @property
    def only(self) -> Call | None:
        """The call, where there is one only."""
        return self.calls[0] if len(self.calls) == 1 else None

    def __call__(self, x: Array) -> Array:
        """Its values in float64 on an array of shape [channel, sample]."""
        results = [x]
        for call in self.calls:
            arguments = [
                results[o] if isinstance(o, int) else o.astype(np.float64)[:, None]
                for o in call.operands
            ]
            results.append(np.asarray(OPERATORS[call.operator](call.parameters, *arguments)))
        return np.broadcast_to(results[-1], x.shape)

    def affine(self) -> tuple[Array, Array] | None:
        """Scale and shift per channel, shape [C] each, where it is nothing else; else None."""
        scale, shift = np.ones(self.channels.count), np.zeros(self.channels.count)
        for place, call in enumerate(self.calls):
            chained = any(isinstance(o, int) and o == place for o in call.operands)
            if not chained or len(call.operands) > 2:
                return None
            others = [o for o in call.operands if not isinstance(o, int)]
            match call.operator, others:
                case "Identity", []:
                    pass
                case "Add", [c]:
                    shift = shift + c
                case "Sub", [c] if isinstance(call.operands[0], int):
                    shift = shift - c
                case "Mul", [c]:
                    scale, shift = scale * c, shift * c
                case "Div", [c] if isinstance(call.operands[0], int) and c.all():
                    scale, shift = scale / c, shift / c
                case _:
                    return None
        return scale, shift


def ending_at(
    result: onnx_ir.Value, stop: Callable[[onnx_ir.Value], bool], channels: Channels
) -> Function | None:
    """The largest region that makes `result`.

    Args:
        result: the tensor that comes out.
        stop: tells of a tensor that the region must not reach behind it.
        channels: of the tensors in it.

    Returns:
        None where `result` is not made by an elementwise operator. Every inner tensor is read
        inside the region only.
    """
    inside: dict[onnx_ir.Node, list[Call]] = {}
    frontier = [result]
    found: list[onnx_ir.Node] = []
    source = result
    while True:
        ready = [
            value
            for value in frontier
            if not stop(value)
            and (value is result or not value.is_graph_output())
            and (value is result or all(use.node in inside for use in value.uses()))
        ]
        for value in ready:
            node = value.producer()
            calls = _calls(node, channels) if node is not None else None
            if node is not None and calls is not None:
                break
        else:
            break
        inside[node] = calls
        frontier.remove(value)
        for read in _data(node):
            if read not in frontier:
                frontier.append(read)
        if len(frontier) == 1:
            found, source = list(inside), frontier[0]
    if not found:
        return None
    places = {source: 0}
    ordered: list[Call] = []
    for node in reversed(found):
        for call in inside[node]:
            operands = tuple(
                o if not isinstance(o, int) else places[_value(node, o)] if o >= 0 else len(ordered)
                for o in call.operands
            )
            ordered.append(Call(call.operator, operands, call.parameters, node))
        places[node.outputs[0]] = len(ordered)
    return Function(source, result, tuple(ordered), channels)


def _value(node: onnx_ir.Node, index: int) -> onnx_ir.Value:
    value = node.inputs[index]
    assert value is not None  # `_calls` has looked
    return value


def _data(node: onnx_ir.Node) -> list[onnx_ir.Value]:
    """The inputs that are no constants."""
    return [v for v in node.inputs if v is not None and constant(v) is None]


def _calls(node: onnx_ir.Node, channels: Channels) -> list[Call] | None:
    """A node as calls whose operands count the inputs of the node (-1: the call before); None where
    it is no elementwise operator with constants.
    """
    if node.domain not in DOMAINS or sum(1 for o in node.outputs if o.uses()) > 1:
        return None
    parameters = {
        a.name: a.value
        for a in node.attributes.values()
        if not a.is_ref() and isinstance(a.value, int | float | str)
    }
    if node.op_type == "BatchNormalization":
        try:
            affine = batch_norm(node)
        except CannotFold:
            return None
        if channels.axis != 1:
            return None
        return [
            Call("Mul", (0, affine.scale), {}, node),
            Call("Add", (-1, affine.shift), {}, node),
        ]
    if node.op_type == "Dropout" and len(node.inputs) > 2 and node.inputs[2] is not None:
        return None
    operator = "Identity" if node.op_type == "Dropout" else node.op_type
    if operator not in OPERATORS:
        return None
    if operator == "Identity":
        return [Call("Identity", (0,), {}, node)]
    operands: list[int | Array] = []
    for index, value in enumerate(node.inputs):
        if value is None:
            operands.append(np.full(1, _ABSENT.get((operator, index), 0.0)))
            continue
        array = constant(value)
        if array is None:
            operands.append(index)
            continue
        known = _per_channel(array, channels)
        if known is None:
            return None
        operands.append(known)
    if operator == "Clip":  # bounds that are attributes (before opset 11), or that are left out
        bounds = (parameters.get("min", -math.inf), parameters.get("max", math.inf))
        operands += [np.full(1, float(bound)) for bound in bounds[len(operands) - 1 :]]
    if operator in ("Max", "Min") and len(operands) != 2:
        return None
    wide = [o for o in operands if not isinstance(o, int) and o.size > 1]
    if wide and not _neutral(operator, operands):
        return None
    if not any(isinstance(operand, int) for operand in operands):
        return None
    return [Call(operator, tuple(operands), parameters, node)]


def _per_channel(array: Array, channels: Channels) -> Array | None:
    if array.dtype.kind not in "fiV":
        return None
    return per_channel(array.astype(np.float64), channels.rank, channels.count, channels.axis)


def _neutral(operator: str, operands: list[int | Array]) -> bool:
    """Whether a value exists for the wide constant at which the operator is the identity."""
    if len(operands) != 2 or sum(isinstance(o, int) for o in operands) != 1:
        return False
    first = isinstance(operands[0], int)
    return operator in ("Add", "Mul") or (first and operator in NEUTRAL)


NEUTRAL = {
    "Add": 0.0, "Sub": 0.0, "Mul": 1.0, "Div": 1.0, "PRelu": 1.0, "Max": -math.inf, "Min": math.inf
}  # fmt: skip
"""The constant at which an operator leaves its other input alone."""

_ABSENT = {("Clip", 1): -math.inf, ("Clip", 2): math.inf}


def _sigmoid(x: Array) -> Array:
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * x)))


def _gelu(p: Mapping[str, Any], x: Array) -> Array:
    if p.get("approximate", "none") == "tanh":
        inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
        return np.asarray(0.5 * x * (1 + np.tanh(inner)))
    return np.asarray(0.5 * x * (1 + _erf(x / math.sqrt(2))))


def _erf(x: Array) -> Array:
    return np.asarray(np.vectorize(math.erf, otypes=[np.float64])(x))


def _negative(x: Array) -> Array:
    return np.minimum(x, 0.0)


OPERATORS: dict[str, Callable[..., Any]] = {
    "Identity": lambda p, x: x,
    "Add": lambda p, x, y: x + y,
    "Sub": lambda p, x, y: x - y,
    "Mul": lambda p, x, y: x * y,
    "Div": lambda p, x, y: x / y,
    "Pow": lambda p, x, y: x**y,
    "Neg": lambda p, x: -x,
    "Max": lambda p, x, y: np.maximum(x, y),
    "Min": lambda p, x, y: np.minimum(x, y),
    "Relu": lambda p, x: np.maximum(x, 0.0),
    "LeakyRelu": lambda p, x: np.where(x >= 0, x, p.get("alpha", 0.01) * x),
    "PRelu": lambda p, x, slope: np.where(x >= 0, x, slope * x),
    "ThresholdedRelu": lambda p, x: np.where(x > p.get("alpha", 1.0), x, 0.0),
    "Clip": lambda p, x, low, high=math.inf: np.minimum(np.maximum(x, low), high),
    "Sigmoid": lambda p, x: _sigmoid(x),
    "HardSigmoid": lambda p, x: np.clip(p.get("alpha", 0.2) * x + p.get("beta", 0.5), 0, 1),
    "HardSwish": lambda p, x: x * np.clip(x / 6 + 0.5, 0, 1),
    "Swish": lambda p, x: x * _sigmoid(p.get("alpha", 1.0) * x),
    "QuickGelu": lambda p, x: x * _sigmoid(p.get("alpha", 1.702) * x),
    "Gelu": _gelu,
    "Mish": lambda p, x: x * np.tanh(np.logaddexp(0, x)),
    "Softplus": lambda p, x: np.logaddexp(0, x),
    "Softsign": lambda p, x: x / (1 + np.abs(x)),
    "Tanh": lambda p, x: np.tanh(x),
    "Erf": lambda p, x: _erf(x),
    "Elu": lambda p, x: np.where(x > 0, x, p.get("alpha", 1.0) * np.expm1(_negative(x))),
    "Celu": lambda p, x: (
        np.maximum(x, 0) + p.get("alpha", 1.0) * np.expm1(_negative(x) / p.get("alpha", 1.0))
    ),
    "Selu": lambda p, x: (
        p.get("gamma", 1.0507009873554805)
        * np.where(x > 0, x, p.get("alpha", 1.6732632423543772) * np.expm1(_negative(x)))
    ),
}
"""What each elementwise operator computes, in float64."""
