"""Block kind x activation x stride x padding x carrier: the cells of the reserve-merge table.

`cells` lists them, `measure` rewrites one and measures it; docs/tables.py writes the table, and
tests/passes/reserve_merge/test_matrix.py holds every cell to what the table says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from graphopt.ir import Model
from graphopt.optimizer import Fate, optimize
from graphopt.verify.numeric import Status
from graphopt.verify.runtime import ReferenceRunner
from tests.support.blocks import Net, skip

SAME, ASYMMETRIC = (1, 1, 1, 1), (2, 0, 0, 2)
C = 4


@dataclass(frozen=True)
class Cell:
    """One combination."""

    kind: str
    activation: str
    stride: int
    padding: str
    carrier: str

    def __str__(self) -> str:
        return "-".join(map(str, vars(self).values())).replace(" ", "_")


@dataclass(frozen=True)
class Measured:
    """What became of a cell.

    Attributes:
        verdict: the carriers used ("split then plain"), or the code of the refusal.
        removed: whether the join is gone.
        error: worst error in float32, relative to the largest value; None where it stays.
        tolerance: that is allowed for it.
        error64: the same in float64.
    """

    verdict: str
    removed: bool
    error: float | None = None
    tolerance: float | None = None
    error64: float | None = None


# Activations ----------------------------------------------------------------------------------


def _silu(net: Net, x: str) -> str:
    return net.op("Mul", x, net.op("Sigmoid", x))


def _gelu(net: Net, x: str) -> str:
    inner = net.op("Add", net.op("Erf", net.op("Div", x, net.const(2**0.5))), net.const(1.0))
    return net.op("Mul", net.op("Mul", x, inner), net.const(0.5))


def _gelu_tanh(net: Net, x: str) -> str:
    cubic = net.op("Mul", net.op("Pow", x, net.const(3.0)), net.const(0.044715))
    inner = net.op("Mul", net.op("Add", x, cubic), net.const((2 / np.pi) ** 0.5))
    gate = net.op("Add", net.op("Tanh", inner), net.const(1.0))
    return net.op("Mul", net.op("Mul", x, net.const(0.5)), gate)


def _hard_swish(net: Net, x: str) -> str:
    clipped = net.op("Clip", net.op("Add", x, net.const(3.0)), net.const(0.0), net.const(6.0))
    return net.op("Mul", x, net.op("Div", clipped, net.const(6.0)))


def _mish(net: Net, x: str) -> str:
    return net.op("Mul", x, net.op("Tanh", net.op("Softplus", x)))


def _prelu(net: Net, x: str, channels: int, axes: int) -> str:
    slopes = net.rng.uniform(-0.3, 0.5, (channels, *[1] * axes))
    return net.op("PRelu", x, net.const(slopes))


ACTIVATIONS: dict[str, Callable[[Net, str], str]] = {
    "ReLU": lambda net, x: net.op("Relu", x),
    "ReLU6": lambda net, x: net.act(x, "relu6"),
    "LeakyReLU": lambda net, x: net.op("LeakyRelu", x, alpha=0.125),
    "PReLU": lambda net, x: x,
    "SiLU": _silu,
    "GELU": _gelu,
    "GELU (tanh)": _gelu_tanh,
    "HardSwish": _hard_swish,
    "Softplus": lambda net, x: net.op("Softplus", x),
    "Mish": _mish,
    "ELU": lambda net, x: net.op("Elu", x),
    "Sigmoid": lambda net, x: net.op("Sigmoid", x),
    "Tanh": lambda net, x: net.op("Tanh", x),
}


# Blocks ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Draft:
    """A block being built: every method takes and returns tensor names."""

    net: Net
    cell: Cell

    @property
    def pads(self) -> tuple[int, ...]:
        return ASYMMETRIC if self.cell.padding == "asymmetric" else SAME

    def act(self, x: str, channels: int = C, axes: int = 2) -> str:
        if self.cell.activation == "PReLU":
            return _prelu(self.net, x, channels, axes)
        return ACTIVATIONS[self.cell.activation](self.net, x)

    def conv(self, x: str, cin: int = C, cout: int = C, k: int = 3, **more: Any) -> str:
        pads = self.pads if k == 3 and more.get("axes", 2) == 2 else None
        return self.net.conv(x, cin, cout, k, **{"pads": pads, **more})


def _basic(d: Draft, x: str) -> str:
    h = d.conv(d.act(d.conv(x)))
    return d.net.op("Add", h, x)


def _bottleneck(d: Draft, x: str) -> str:
    h = d.act(d.conv(d.act(d.conv(x, C, 2, 1), 2), 2, 2), 2)
    return d.net.op("Add", d.conv(h, 2, C, 1), x)


def _downsample(shortcut: str) -> Callable[[Draft, str], str]:
    def block(d: Draft, x: str) -> str:
        out, stride = (C if shortcut == "average" else 2 * C), d.cell.stride
        h = d.conv(d.act(d.conv(x, C, out, stride=stride), out), out, out)
        return d.net.op("Add", h, skip(d.net, x, C, out, stride, shortcut))

    return block


def _inverted(d: Draft, x: str) -> str:
    h = d.act(d.conv(x, C, 6, 1), 6)
    h = d.act(d.conv(h, 6, 6, group=6), 6)
    return d.net.op("Add", d.conv(h, 6, C, 1), x)


def _squeeze(gate: str) -> Callable[[Draft, str], str]:
    def block(d: Draft, x: str) -> str:
        net = d.net
        h = d.act(d.conv(d.act(d.conv(x, C, 6, 1), 6), 6, 6, group=6), 6)
        g = net.op("Relu", net.conv(net.op("GlobalAveragePool", h), 6, 2, 1))
        h = net.op("Mul", h, net.op(gate, net.conv(g, 2, 6, 1)))
        return net.op("Add", d.conv(h, 6, C, 1), x)

    return block


def _grouped(d: Draft, x: str) -> str:
    h = d.act(d.conv(d.act(d.conv(x, C, C, 1)), group=2))
    return d.net.op("Add", d.conv(h, k=1), x)


def _depthwise_first(d: Draft, x: str) -> str:
    return d.net.op("Add", d.conv(d.act(d.conv(x, group=C)), k=1), x)


def _grouped_last(d: Draft, x: str) -> str:
    return d.net.op("Add", d.conv(d.act(d.conv(x)), group=2), x)


def _pre_activation(d: Draft, x: str) -> str:
    net = d.net
    h = d.conv(d.act(net.norm(x, C)))
    h = d.conv(d.act(net.norm(h, C)))
    return net.op("Add", h, x)


def _scaled(d: Draft, x: str) -> str:
    return d.net.op("Add", d.conv(d.act(d.conv(x))), skip(d.net, x, C, C, 1, "scaled"))


def _concatenated(d: Draft, x: str) -> str:
    return d.net.op("Concat", x, d.conv(d.act(d.conv(x, C, 3), 3), 3, 2), axis=1)


def _gemm(d: Draft, x: str) -> str:
    def dense(h: str) -> str:
        weight = d.net.const(d.net.rng.standard_normal((C, C)) / 2)
        return d.net.op("Gemm", h, weight, d.net.const(d.net.rng.standard_normal(C)))

    return d.net.op("Add", dense(d.act(dense(x), axes=0)), x)


def _tokens(d: Draft, x: str) -> str:
    def dense(h: str) -> str:
        product = d.net.op("MatMul", h, d.net.const(d.net.rng.standard_normal((C, C)) / 2))
        return d.net.op("Add", d.net.const(d.net.rng.standard_normal(C)), product)

    return d.net.op("Add", dense(d.act(dense(x), axes=0)), x)


def _one_axis(d: Draft, x: str) -> str:
    pads = (2, 0) if d.cell.padding == "asymmetric" else (1, 1)
    more: dict[str, Any] = {"axes": 1, "pads": pads}
    return d.net.op("Add", d.conv(d.act(d.conv(x, **more), axes=1), **more), x)


@dataclass(frozen=True)
class Kind:
    """One kind of block.

    Attributes:
        build: from the tensor at the fork to that behind the join.
        axes: spatial axes of the tensors; None for vectors, -1 for tokens.
        strides: to be tried.
        linear: whether the fork is the output of a linear operator, negative values included.
    """

    build: Callable[[Draft, str], str]
    axes: int | None = 2
    strides: tuple[int, ...] = (1,)
    linear: bool = False
    out: int = C


KINDS: dict[str, Kind] = {
    "basic": Kind(_basic),
    "basic, any x": Kind(_basic, linear=True),
    "bottleneck": Kind(_bottleneck),
    "projection": Kind(_downsample("projection"), strides=(1, 2), out=2 * C),
    "option A": Kind(_downsample("option-a"), strides=(1, 2), out=2 * C),
    "average pool": Kind(_downsample("average"), strides=(2,)),
    "inverted residual": Kind(_inverted, linear=True),
    "with squeeze-excite": Kind(_squeeze("Sigmoid"), linear=True),
    "with hard squeeze-excite": Kind(_squeeze("HardSigmoid"), linear=True),
    "grouped": Kind(_grouped),
    "depthwise first": Kind(_depthwise_first),
    "grouped last": Kind(_grouped_last),
    "pre-activation": Kind(_pre_activation, linear=True),
    "scaled": Kind(_scaled, linear=True),
    "concatenation": Kind(_concatenated, out=C + 2),
    "Gemm": Kind(_gemm, axes=None, linear=True),
    "MatMul on tokens": Kind(_tokens, axes=-1, linear=True),
    "Conv1d": Kind(_one_axis, axes=1, linear=True),
}

CARRIERS = ("plain", "prelu", "split", "shift", "scale", "max-min", "pass-through")


def cells() -> Iterator[Cell]:
    """Every kind with every activation, carriers chosen by the pass; and for the basic blocks and
    the inverted residual every carrier by itself, with both paddings.
    """
    for kind, spec in KINDS.items():
        for activation in ACTIVATIONS:
            for stride in spec.strides:
                yield Cell(kind, activation, stride, "same", "auto")
    for kind in ("basic", "basic, any x", "inverted residual"):
        for activation in ACTIVATIONS:
            for carrier in CARRIERS:
                padding = "asymmetric" if kind != "basic, any x" else "same"
                yield Cell(kind, activation, 1, padding, carrier)


def network(cell: Cell, dtype: type = np.float32) -> onnx.ModelProto:
    """A stem, the block, and a head that depends on everything."""
    spec = KINDS[cell.kind]
    net = Net(seed=7, dtype=dtype)
    draft = Draft(net, cell)
    if spec.axes is None or spec.axes < 0:
        x = net.op("MatMul", "x", net.const(net.rng.standard_normal((3, C))))
        shape: tuple[int | str, ...] = ("N", 3) if spec.axes is None else ("N", 5, 3)
        y = spec.build(draft, x)
        return net.model(net.op("MatMul", y, net.const(net.rng.standard_normal((C, 2)))), shape)
    x = net.conv("x", 3, C, 1, axes=spec.axes)
    # bounded, so that ranges are known: negatives stay where the kind is for any x
    x = net.op("Clip", x, net.const(-4.0 if spec.linear else 0.0), net.const(8.0))
    if spec.linear and cell.kind != "pre-activation":
        x = net.conv(x, C, C, 1, axes=spec.axes)
    elif spec.linear:
        x = net.conv(net.op("Relu", x), C, C, 1)
    sizes = (8, 8) if cell.kind == "average pool" else (7, 9, 5)[: spec.axes]
    y = spec.build(draft, x)
    return net.model(net.conv(y, spec.out, 2, 1, axes=spec.axes), ("N", 3, *sizes))


def measure(cell: Cell) -> Measured:
    """Rewrites the cell in float32 and in float64, and compares outputs.

    Raises:
        AssertionError: the two disagree on whether the join goes.
    """
    options = f"when=possible,carrier={cell.carrier},concat=true"
    pipeline = f"fold-norm,reserve-merge{{{options}}},fold-norm,dce"
    outcome = optimize(network(cell), pipeline=pipeline)
    # the block's own join comes last: a GELU by tanh is full of joins, too
    fate = [one for one in outcome.fates if one.skip.operator in ("Add", "Concat")][-1]
    if fate.fate is not Fate.REMOVED:
        return Measured(fate.refusals[-1].code, False)
    assert outcome.verification is not None
    assert outcome.verification.status is Status.EQUAL, outcome.verification.reason
    worst = outcome.verification.worst
    assert worst is not None
    assert fate.rewrite is not None
    verdict = fate.rewrite.rule.partition("carried by ")[2].rstrip(")")
    error64 = _error64(cell, pipeline)
    return Measured(verdict, True, worst.relative, worst.tolerance, error64)


def _error64(cell: Cell, pipeline: str) -> float:
    proto = network(cell, np.float64)
    after = optimize(proto, pipeline=pipeline, verify=False).model
    shape = [d.dim_value or 2 for d in proto.graph.input[0].type.tensor_type.shape.dim]
    feeds = {"x": np.random.default_rng(3).standard_normal(shape) * 4}
    (old,), (new,) = (
        ReferenceRunner(model).run(feeds).values() for model in (Model.load(proto), after)
    )
    return float(np.abs(old - new).max() / np.abs(old).max())
