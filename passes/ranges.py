"""Ranges: between which bounds the values of each tensor lie, whatever the input.

Interval arithmetic, per channel (axis 1) where that can be kept, and sound for the *float*
evaluation of the model, not only for the function over the reals. An operator that sums is bounded
by the backward error of summation in any order: `fl(sum t_i) = sum t_i (1 + d_i)` with
`|d_i| <= gamma_n = n u / (1 - n u)`, u the unit roundoff and n the number of roundings that a term
goes through (Higham, Accuracy and Stability of Numerical Algorithms, 2nd edition, sections 3.1 and
4.2). Each term is widened by itself, so signs stay exact: a sum of terms that are all >= 0 is >= 0
in floats too; and a sum with one term that is not 0, and a weight that is a power of two, is not
widened at all (a Dirac kernel hands on exactly the interval it reads). Products that underflow, or
are flushed to zero, are allowed for.

What the bounds assume:
- the input is finite and nothing overflows: NaN and infinities are outside of every claim;
- sums are sums: fast convolutions that subtract (Winograd, FFT) and matrix products in a format
  narrower than the tensor's (TF32) err more than gamma_n and may leave the sign of a zero bound;
- elementary functions (exp, tanh, sigmoid, erf ...) err by at most `ELEMENTARY` units of roundoff,
  several times what ONNX Runtime's polynomials do (its tanh reaches 1 + 4u, which the bound keeps).

Tensors inside subgraphs (If, Loop, Scan) are not in the table.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx_ir

from graphopt.ir.constants import EVALUATED, constant
from graphopt.ir.model import Model, node_label
from graphopt.ir.shapes import Dim, Shapes, ShapeTable, TensorInfo

Array: TypeAlias = npt.NDArray[np.float64]

ELEMENTARY = 32
"""Allowed error of an elementary function, in units of roundoff."""

MAX_CHANNELS = 2**20
"""A reshape that makes more channels than this keeps one interval for all of them."""


# The result ----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Interval:
    """Bounds of one tensor.

    Attributes:
        low: greatest proved lower bound, read-only float64; of shape [] for the whole tensor or [C]
            per channel (axis 1). -inf where nothing is known.
        high: least proved upper bound, of the same shape; inf where nothing is known.
        because: where they come from, a clause that goes on from "x >= 0 because".
    """

    low: Array
    high: Array
    because: str

    def per_channel(self, channels: int) -> tuple[Array, Array]:
        """Lower and upper bounds, both of shape [channels].

        Raises:
            ValueError: the bounds are those of another number of channels.
        """
        return np.broadcast_to(self.low, (channels,)), np.broadcast_to(self.high, (channels,))

    @property
    def nonnegative(self) -> bool:
        """Whether no value is below 0."""
        return bool((self.low >= 0).all())

    @property
    def finite(self) -> bool:
        """Whether both bounds are known, in every channel."""
        return bool(np.isfinite(self.low).all() and np.isfinite(self.high).all())

    @property
    def known(self) -> bool:
        """Whether any bound is known, in any channel."""
        return bool(np.isfinite(self.low).any() or np.isfinite(self.high).any())

    def within(self, low: float, high: float) -> bool:
        """Whether every value lies in [low, high]."""
        return bool((self.low >= low).all() and (self.high <= high).all())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Interval):
            return NotImplemented
        return (
            np.array_equal(self.low, other.low)
            and np.array_equal(self.high, other.high)
            and self.because == other.because
        )

    def __str__(self) -> str:
        low, high = self.low.min(initial=np.inf), self.high.max(initial=-np.inf)
        return f"[{low:.6g}, {high:.6g}]"


class RangeTable(Mapping[str, Interval]):
    """`Interval` by tensor name; an unbounded one for a name it does not hold.

    It holds every tensor that is computed at run time, and the constants that take part in
    elementwise operators and moves (not weights).
    """

    def __init__(self, table: Mapping[str, Interval]) -> None:
        self._table = dict(table)

    def __getitem__(self, name: str) -> Interval:
        return self._table.get(name, _NOTHING)

    def __iter__(self) -> Iterator[str]:
        return iter(self._table)

    def __len__(self) -> int:
        return len(self._table)

    def __contains__(self, name: object) -> bool:
        return name in self._table


@dataclass(frozen=True)
class Ranges:
    """Analysis: the `RangeTable` of a model."""

    name: ClassVar[str] = "ranges"

    def run(self, model: Model) -> RangeTable:
        """Walks through the graph once, in order of execution."""
        walk = _Walk(model)
        with np.errstate(all="ignore"):
            for node in model.graph:
                walk.visit(node)
        return RangeTable(walk.found)


# Bounds --------------------------------------------------------------------------------------


class _Bounds(NamedTuple):
    """What the rules compute with: arrays of shape [] or [C]."""

    low: Array
    high: Array

    @classmethod
    def of(cls, low: npt.ArrayLike, high: npt.ArrayLike) -> _Bounds:
        return cls(*np.broadcast_arrays(np.asarray(low, float), np.asarray(high, float)))

    @property
    def constant(self) -> bool:
        """Whether each channel holds one value."""
        return bool((self.low == self.high).all())

    def whole(self) -> _Bounds:
        """One interval for all channels."""
        if self.low.ndim == 0:
            return self
        return _Bounds.of(self.low.min(), self.high.max()) if self.low.size else _UNBOUNDED

    def __neg__(self) -> _Bounds:
        return _Bounds(-self.high, -self.low)


_UNBOUNDED = _Bounds.of(-np.inf, np.inf)
_ZERO = _Bounds.of(0.0, 0.0)
_NOTHING = Interval(*_UNBOUNDED, "nothing bounds it")


def _hull(bounds: Iterable[_Bounds]) -> _Bounds:
    """The smallest interval around all of them, channel by channel."""
    lows, highs = zip(*bounds, strict=True)
    low, high = lows[0], highs[0]
    for other in lows[1:]:
        low = np.minimum(low, other)
    for other in highs[1:]:
        high = np.maximum(high, other)
    return _Bounds.of(low, high)


def _times(left: Array, right: npt.ArrayLike) -> Array:
    """The product, 0 wherever a factor is 0 (a zero weight forgets an unbounded input)."""
    right = np.asarray(right)
    return np.where((left == 0) | (right == 0), 0.0, left * right)


def _product(left: _Bounds, right: _Bounds) -> _Bounds:
    """Bounds of x * y over the reals."""
    corners = [_times(x, y) for x in left for y in right]
    return _Bounds.of(
        np.minimum(np.minimum(corners[0], corners[1]), np.minimum(corners[2], corners[3])),
        np.maximum(np.maximum(corners[0], corners[1]), np.maximum(corners[2], corners[3])),
    )


def _reciprocal(bounds: _Bounds) -> _Bounds:
    """Bounds of 1 / y; y = 0 itself is left out, for it overflows."""
    one_sign = (bounds.low >= 0) | (bounds.high <= 0)
    low = np.where(bounds.high == 0, -np.inf, 1 / bounds.high)
    high = np.where(bounds.low == 0, np.inf, 1 / bounds.low)
    return _Bounds.of(np.where(one_sign, low, -np.inf), np.where(one_sign, high, np.inf))


def _power_of_two(values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Where multiplying by a value rounds nothing: powers of two, and 0."""
    return np.asarray((np.abs(np.frexp(values)[0]) == 0.5) | (values == 0))


# Floats --------------------------------------------------------------------------------------


class _Float(NamedTuple):
    """A float format: its unit roundoff, what an underflow may lose, its largest number."""

    unit: float
    tiny: float
    largest: float


_FLOATS = {
    onnx_ir.DataType.DOUBLE: _Float(2.0**-53, 2.0**-1022, float(np.finfo(np.float64).max)),
    onnx_ir.DataType.FLOAT: _Float(2.0**-24, 2.0**-126, float(np.finfo(np.float32).max)),
    onnx_ir.DataType.FLOAT16: _Float(2.0**-11, 2.0**-24, 65504.0),
    onnx_ir.DataType.BFLOAT16: _Float(2.0**-8, 2.0**-126, (2 - 2.0**-7) * 2.0**127),
}


def _gamma(roundings: npt.NDArray[Any], unit: float) -> Array:
    """gamma_n, inf where n u >= 1/2; and 0 for no rounding."""
    share = roundings * unit
    return np.where(share < 0.5, share / (1 - np.minimum(share, 0.5)), np.inf)


class _Terms(NamedTuple):
    """A sum seen from its terms, shape [] or [C].

    The sums of the negative and of the positive parts of their lower ends, then of their upper
    ends. At most the negative parts of `low` and the positive ones of `high` are infinite.
    """

    low_negative: Array
    low_positive: Array
    high_negative: Array
    high_positive: Array

    @classmethod
    def of(cls, term: _Bounds) -> _Terms:
        low, high = term
        zero = np.float64(0)
        return cls(
            np.minimum(low, zero), np.maximum(low, zero),
            np.minimum(high, zero), np.maximum(high, zero),
        )  # fmt: skip

    def plus(self, other: _Terms) -> _Terms:
        return _Terms(*(a + b for a, b in zip(self, other, strict=True)))

    def rounded(self, kind: _Float, roundings: npt.ArrayLike, products: npt.ArrayLike) -> _Bounds:
        """Bounds of the sum in floats.

        Args:
            kind: the format it is computed in.
            roundings: most roundings that one term goes through, shape [] or [C]. At 0 the float64
                arithmetic here is exact too; else its own error is added.
            products: how many results may underflow.
        """
        count = np.asarray(roundings, float)
        own = np.where(count > 0, count + 8, 0)
        gamma = _gamma(count, kind.unit) + _gamma(own, 2.0**-53)
        lost = np.asarray(products, float) * kind.tiny
        low = _times(self.low_negative, 1 + gamma) + _times(self.low_positive, 1 - gamma) - lost
        high = _times(self.high_negative, 1 - gamma) + _times(self.high_positive, 1 + gamma) + lost
        return _Bounds.of(
            np.where(self.low_negative == 0, np.maximum(low, 0), low),
            np.where(self.high_positive == 0, np.minimum(high, 0), high),
        )


# The walk ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Origin:
    """Which nodes gave a tensor its bounds, and how far back they are."""

    sources: tuple[str, ...] = ()
    last: str = ""
    steps: int = 0

    def because(self) -> str:
        shown = list(self.sources[:2]) + (["others"] if len(self.sources) > 2 else [])
        names = " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)
        several = len(self.sources) > 1
        if self.steps == 0:
            return f"it comes out of {names}"
        if self.steps == 1:
            clause = "tensors that come out of" if several else "a tensor that comes out of"
        else:
            clause = "tensors that go back to" if several else "a tensor that goes back to"
        return f"it is {self.last} of {clause} {names}"


class _Walk:
    """What is known so far, tensor by tensor."""

    def __init__(self, model: Model) -> None:
        self.shapes: ShapeTable = model.analyses.get(Shapes())
        self.opset = model.opset
        self.found: dict[str, Interval] = {}
        self._bounds: dict[str, _Bounds] = {}
        self._origins: dict[str, _Origin] = {}
        self._arrays: dict[str, npt.NDArray[Any] | None] = {}
        self._fixed = _fixed_tensors(model)
        kinds = {info.dtype for info in self.shapes.values()} & set(_FLOATS)
        self._coarsest = max(
            (_FLOATS[kind] for kind in kinds if kind is not None),
            default=_FLOATS[onnx_ir.DataType.FLOAT],
        )
        for value in model.graph.inputs:
            if value.name and value.name not in self._fixed:
                self._note(value.name, self._of_type(value), _Origin((f"the input {value.name}",)))

    def visit(self, node: onnx_ir.Node) -> None:
        """Bounds the outputs of one node."""
        if all(output.name in self._fixed for output in node.outputs):
            return
        results = self._apply(node)
        origin = self._origin(node)
        for output, bounds in zip(node.outputs, results, strict=True):
            if output.name:
                found = self._of_type(output) if bounds is None else self._fit(bounds, output)
                self._note(output.name, found, origin)

    def bounds(self, value: onnx_ir.Value | None) -> _Bounds:
        """What is known of a tensor."""
        if value is None or not value.name:
            return _UNBOUNDED
        if value.name not in self._bounds:
            found = self._constant_bounds(value)
            self._note(value.name, found, _Origin())
        return self._bounds[value.name]

    def array(self, value: onnx_ir.Value | None) -> npt.NDArray[Any] | None:
        """The content of a constant, None for any other tensor."""
        if value is None or not value.name or value.name not in self._fixed:
            return None
        if value.name not in self._arrays:
            self._arrays[value.name] = constant(value)
        return self._arrays[value.name]

    def info(self, value: onnx_ir.Value | None) -> TensorInfo:
        return self.shapes[value.name or ""] if value is not None else TensorInfo(None, None)

    def kind(self, value: onnx_ir.Value) -> _Float | None:
        """The float format of a tensor, None for another type.

        Where inference knows no type, the coarsest one in the model.
        """
        dtype = self.info(value).dtype
        return self._coarsest if dtype is None else _FLOATS.get(dtype)

    def _apply(self, node: onnx_ir.Node) -> Sequence[_Bounds | None]:
        domain = "" if node.domain == "ai.onnx" else node.domain
        rule = _RULES.get((domain, node.op_type))
        unknown = (None,) * len(node.outputs)
        if rule is None or not node.outputs:
            return unknown
        kind = self.kind(node.outputs[0])
        if kind is None and not rule.integers:
            return unknown
        try:
            result = rule.compute(_Step(node, self, kind or self._coarsest))
        except (ValueError, IndexError, ZeroDivisionError):  # malformed: sizes contradict
            return unknown
        return result if isinstance(result, list) else (result, *unknown[1:])

    def _origin(self, node: onnx_ir.Node) -> _Origin:
        label = node_label(node)
        if node.op_type in _BOUNDING:
            return _Origin((label,))
        origins = [
            self._origins[value.name]
            for value in dict.fromkeys(node.inputs)
            if value is not None and value.name in self._origins and self.found[value.name].known
        ]
        sources = tuple(dict.fromkeys(s for origin in origins for s in origin.sources))
        if not sources:
            return _Origin((label,))
        return _Origin(sources[:3], label, 1 + max(origin.steps for origin in origins))

    def _note(self, name: str, bounds: _Bounds, origin: _Origin) -> None:
        low, high = (np.array(side) for side in bounds)
        low.flags.writeable = high.flags.writeable = False
        self._bounds[name] = _Bounds(low, high)
        because = origin.because() if origin.sources else f"it is the constant {name}"
        interval = Interval(low, high, because)
        self.found[name] = interval if interval.known else Interval(low, high, _NOTHING.because)
        self._origins[name] = origin

    def _fit(self, bounds: _Bounds, value: onnx_ir.Value) -> _Bounds:
        """Opens bounds that are no number or beyond the largest one.

        Channels that are all alike, or not those of the tensor, become one interval.
        """
        kind = self.kind(value)
        largest = kind.largest if kind is not None else np.inf
        low = np.where(np.isnan(bounds.low) | (bounds.low < -largest), -np.inf, bounds.low)
        high = np.where(np.isnan(bounds.high) | (bounds.high > largest), np.inf, bounds.high)
        fitted = _Bounds.of(np.minimum(low, largest), np.maximum(high, -largest))
        if fitted.low.ndim:
            shape = self.info(value).shape
            strange = shape is not None and (len(shape) < 2 or shape[1] != fitted.low.size)
            alike = (fitted.low == fitted.low[:1]).all() and (fitted.high == fitted.high[:1]).all()
            if strange or alike:
                return fitted.whole()
        return fitted

    def _of_type(self, value: onnx_ir.Value) -> _Bounds:
        """What the element type alone says."""
        dtype = self.info(value).dtype
        return _INTEGERS.get(dtype, _UNBOUNDED) if dtype is not None else _UNBOUNDED

    def _constant_bounds(self, value: onnx_ir.Value) -> _Bounds:
        node = value.producer()
        if node is not None and node.op_type == "ConstantOfShape":
            return _filled(node)
        array = self.array(value)
        if array is None:
            return self._of_type(value)
        return _along(array, 1 if array.ndim >= 2 else None) or _UNBOUNDED


def _fixed_tensors(model: Model) -> frozenset[str]:
    """Names of the tensors that `constant` can evaluate, found without evaluating."""
    inputs = {value.name for value in model.graph.inputs}
    fixed = {name for name in model.graph.initializers if name not in inputs}
    for node in model.graph:
        evaluated = node.op_type in EVALUATED and node.domain in ("", "ai.onnx")
        if evaluated and all(value is None or value.name in fixed for value in node.inputs):
            fixed.update(output.name for output in node.outputs if output.name)
    return frozenset(fixed)


def _along(array: npt.NDArray[Any], axis: int | None) -> _Bounds | None:
    """The bounds of a constant per element of one axis, or of all of it."""
    with contextlib.suppress(TypeError, ValueError):
        if not array.size or array.dtype.kind in "cOSU":
            return None
        others = tuple(other for other in range(array.ndim) if other != axis)
        low, high = array.min(axis=others), array.max(axis=others)
        return _Bounds.of(low.astype(np.float64), high.astype(np.float64))
    return None


_INTEGERS: dict[onnx_ir.DataType, _Bounds] = {
    onnx_ir.DataType.BOOL: _Bounds.of(0, 1),
    **{
        onnx_ir.DataType[f"UINT{bits}"]: _Bounds.of(0, 2.0**bits - 1)
        for bits in (2, 4, 8, 16, 32, 64)
        if f"UINT{bits}" in onnx_ir.DataType.__members__
    },
    **{
        onnx_ir.DataType[f"INT{bits}"]: _Bounds.of(-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1)
        for bits in (2, 4, 8, 16)
        if f"INT{bits}" in onnx_ir.DataType.__members__
    },
}
"""Bounds that an element type sets by itself. Wider signed integers count as unbounded."""


# Rules ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Step:
    """One node as its rule sees it."""

    node: onnx_ir.Node
    walk: _Walk
    kind: _Float

    def value(self, index: int) -> onnx_ir.Value | None:
        return self.node.inputs[index] if index < len(self.node.inputs) else None

    def given(self, index: int) -> bool:
        """Whether an optional input is there."""
        value = self.value(index)
        return value is not None and bool(value.name)

    def x(self, index: int = 0) -> _Bounds:
        """What is known of an input, channel by channel of its own axis 1."""
        return self.walk.bounds(self.value(index))

    def array(self, index: int) -> npt.NDArray[Any] | None:
        """The content of a constant input."""
        return self.walk.array(self.value(index))

    def shape(self, index: int = 0) -> tuple[Dim, ...] | None:
        return self.walk.info(self.value(index)).shape

    @cached_property
    def made(self) -> TensorInfo:
        """Type and shape of the first output."""
        return self.walk.info(self.node.outputs[0])

    @property
    def version(self) -> int:
        return self.node.version or self.walk.opset

    def number(self, name: str, default: float) -> float:
        return float(self.node.attributes.get_float(name, default))

    def integer(self, name: str, default: int) -> int:
        return int(self.node.attributes.get_int(name, default))

    def text(self, name: str, default: str) -> str:
        return str(self.node.attributes.get_string(name, default))

    def integers(self, name: str, index: int | None = None) -> tuple[int, ...] | None:
        """Whole numbers from an attribute or, in newer versions, a constant input.

        None where neither is given or the input is no constant.
        """
        listed = self.node.attributes.get_ints(name)
        if listed is None and index is not None and self.given(index):
            array = self.array(index)
            return None if array is None else tuple(int(i) for i in array.reshape(-1))
        return None if listed is None else tuple(listed)

    def axis(self, axis: int, index: int = 0) -> int | None:
        """An axis of an input, counted from the front. None where its rank would be needed."""
        shape = self.shape(index)
        if axis >= 0:
            return axis
        return None if shape is None else axis + len(shape)

    def aligned(self, index: int) -> _Bounds:
        """An operand as it broadcasts over the output: per channel of the output's axis 1."""
        rank = None if self.made.shape is None else len(self.made.shape)
        if self.version < 7 and self.integer("broadcast", 0):  # aligned by an attribute
            return self.x(index).whole()
        array = self.array(index)
        if array is not None and rank is not None and rank >= 2 and array.ndim <= rank:
            axis = array.ndim - rank + 1
            channels = axis >= 0 and array.shape[axis] > 1
            return _along(array, axis if channels else None) or _UNBOUNDED
        shape = self.shape(index)
        if shape is None or rank is None or len(shape) != rank:
            return self.x(index).whole()
        return self.x(index)

    def rounded(self, term: _Bounds, roundings: npt.ArrayLike, products: float = 1) -> _Bounds:
        """One term that goes through so many roundings."""
        return _Terms.of(term).rounded(self.kind, roundings, products)


_Result: TypeAlias = "_Bounds | list[_Bounds | None] | None"
"""Bounds of the first output, of all of them, or None for what the type says."""


class _Rule(NamedTuple):
    compute: Callable[[_Step], _Result]
    integers: bool


_RULES: dict[tuple[str, str], _Rule] = {}
# fmt: off
_BOUNDING = frozenset({
    "Relu", "LeakyRelu", "PRelu", "Clip", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Softmax",
    "Softplus", "Elu", "Selu", "Celu", "Gelu", "QuickGelu", "Mish", "Swish", "Erf", "Abs", "Sqrt",
    "Exp", "QuantizeLinear", "Quant", "IntQuant", "BipolarQuant", "MultiThreshold",
})
# fmt: on
"""Operators that a reason names as the source of a bound, whatever was known before them."""


def _rule(
    operators: str, *, domains: Sequence[str] = ("",), integers: bool = False
) -> Callable[[Callable[[_Step], _Result]], Callable[[_Step], _Result]]:
    """Registers a rule. `integers`: it holds for integer outputs too (no arithmetic that wraps)."""

    def register(compute: Callable[[_Step], _Result]) -> Callable[[_Step], _Result]:
        for domain in domains:
            for operator in operators.split():
                _RULES[domain, operator] = _Rule(compute, integers)
        return compute

    return register


# Linear operators ----------------------------------------------------------------------------


def _dot(step: _Step, weight: npt.NDArray[Any], x: _Bounds, bias: _Bounds, extra: int) -> _Bounds:
    """Bounds of `sum over c, k of weight[m, c, k] x[c, .] + bias[m]`.

    Args:
        step: the node.
        weight: shape [M, C / groups, *kernel]; rows are dealt to the groups in order.
        x: bounds of the input, shape [] or [C].
        bias: shape [] or [M].
        extra: further roundings of each product.
    """
    if weight.dtype.itemsize < 4:
        weight = weight.astype(np.float32)
    rows, depth = weight.shape[0], weight.shape[1]
    groups = 1 if x.low.ndim == 0 else x.low.size // depth
    low, high = (np.broadcast_to(side, (groups * depth,)).reshape(groups, depth) for side in x)
    up, down = np.maximum(low, 0), np.minimum(high, 0)
    under, over = np.minimum(low, 0), np.maximum(high, 0)
    taps = weight.reshape(groups, rows // groups, depth, -1)
    chunk = max(1, 2**22 // max(1, groups * taps[0, 0].size))
    blocks: list[_Terms] = []
    for start in range(0, rows // groups, chunk):
        block = taps[:, start : start + chunk]
        positive = np.maximum(block, 0).sum(axis=3, dtype=np.float64)
        negative = np.minimum(block, 0).sum(axis=3, dtype=np.float64)
        blocks.append(
            _Terms(
                _weighted(positive, under) + _weighted(negative, over),
                _weighted(positive, up) + _weighted(negative, down),
                _weighted(positive, down) + _weighted(negative, up),
                _weighted(positive, over) + _weighted(negative, under),
            )
        )
    terms = _Terms(*(np.concatenate(s, axis=1).reshape(rows) for s in zip(*blocks, strict=True)))
    others = tuple(range(1, weight.ndim))
    count = np.count_nonzero(weight, axis=others)
    single = (count == 1) & _power_of_two(weight.sum(axis=others))
    biased = ((bias.low != 0) | (bias.high != 0)) & (count > 0)
    return terms.plus(_Terms.of(bias)).rounded(step.kind, count - single + biased + extra, count)


def _weighted(weight: Array, side: Array) -> Array:
    """Weighted sums over the channels of each group, 0 * inf being 0.

    Args:
        weight: of one sign, shape [groups, rows, depth].
        side: of one sign, shape [groups, depth].

    Returns:
        Shape [groups, rows].
    """
    if not side.any():
        return np.zeros(weight.shape[:2])
    endless = np.where(np.isinf(side), np.sign(side), 0.0)
    total = np.matmul(weight, np.where(endless, 0.0, side)[..., None])[..., 0]
    if endless.any():
        total += _times(np.matmul(weight, endless[..., None])[..., 0], np.inf)
    return np.asarray(total)


def _padded(step: _Step, x: _Bounds) -> _Bounds:
    """What a window reads: at a padded border, zeros too."""
    automatic = step.text("auto_pad", "NOTSET") not in ("NOTSET", "VALID")
    pads = any(step.integers("pads") or ()) and step.text("auto_pad", "NOTSET") != "VALID"
    return _hull([x, _ZERO]) if automatic or pads else x


def _bias(step: _Step, index: int) -> _Bounds:
    """The bias of a convolution, shape [] or [M]."""
    if not step.given(index):
        return _ZERO
    array = step.array(index)
    return (None if array is None else _along(array, 0)) or step.x(index).whole()


@_rule("Conv")
def _conv(step: _Step) -> _Result:
    weight = step.array(1)
    if weight is None:
        return None
    return _dot(step, weight, _padded(step, step.x()), _bias(step, 2), 0)


@_rule("ConvTranspose")
def _conv_transpose(step: _Step) -> _Result:
    """Each position sums some of the taps, the others count as reading 0."""
    weight = step.array(1)
    if weight is None:
        return None
    groups = step.integer("group", 1)
    kernel = weight.shape[2:]
    depth = weight.shape[0] // groups
    rows = weight.reshape(groups, depth, weight.shape[1], *kernel).swapaxes(1, 2)
    rows = rows.reshape(groups * weight.shape[1], depth, *kernel)
    return _dot(step, rows, _hull([step.x(), _ZERO]), _bias(step, 2), 0)


@_rule("Gemm")
def _gemm(step: _Step) -> _Result:
    weight = step.array(1)
    if weight is None or weight.ndim != 2:
        return None
    alpha, beta = step.number("alpha", 1.0), step.number("beta", 1.0)
    rows = weight if step.integer("transB", 0) else weight.T
    x = step.x().whole() if step.integer("transA", 0) else step.x()
    offset = step.aligned(2) if step.given(2) else _ZERO
    extra = 0
    if alpha != 1:
        rows, extra = rows.astype(np.float64) * alpha, extra + 2
    if beta != 1:
        offset, extra = _product(offset, _Bounds.of(beta, beta)), extra + 1
    return _dot(step, rows, x, offset, extra)


@_rule("MatMul")
def _matmul(step: _Step) -> _Result:
    """By a constant matrix, per channel if the left side is a matrix too.

    Above rank 2 the sum runs along the last axis, and axis 1 is no channel axis.
    """
    weight, shape = step.array(1), step.shape()
    if weight is None or weight.ndim != 2:
        return None
    if shape is not None and len(shape) == 2:
        return _dot(step, weight.T, step.x(), _ZERO, 0)
    return _dot(step, weight.T, step.x().whole(), _ZERO, 0).whole()


@_rule("BatchNormalization")
def _batch_norm(step: _Step) -> _Result:
    """`s x - s mean + bias` with `s = scale / sqrt(var + epsilon)`.

    12 roundings cover folding s and the shift first as well as normalizing x first.
    """
    trains = step.integer("training_mode", 0) or (
        step.version < 7 and not step.integer("is_test", 0)
    )
    arrays = [step.array(index) for index in range(1, 5)]
    if trains or any(output.name for output in step.node.outputs[1:]):
        return None
    known = [array.astype(np.float64) for array in arrays if array is not None]
    if len(known) < 4 or any(array.ndim != 1 for array in known):
        return None
    scale, bias, mean, variance = known
    variance = variance + step.number("epsilon", 1e-5)
    if not (variance > 0).all():
        return None
    slope = scale / np.sqrt(variance)
    shift = -mean * slope
    terms = _Terms.of(_product(step.x(), _Bounds(slope, slope)))
    terms = terms.plus(_Terms.of(_Bounds(shift, shift))).plus(_Terms.of(_Bounds(bias, bias)))
    return terms.rounded(step.kind, 12, 3)


# Elementwise arithmetic ----------------------------------------------------------------------


def _sum(step: _Step, terms: Sequence[_Bounds], extra: int = 0) -> _Bounds:
    moving = sum(bool((term.low != 0).any() or (term.high != 0).any()) for term in terms)
    total = _Terms.of(terms[0])
    for term in terms[1:]:
        total = total.plus(_Terms.of(term))
    return total.rounded(step.kind, max(moving - 1, 0) + extra, len(terms))


def _operands(step: _Step) -> list[_Bounds]:
    return [step.aligned(index) for index in range(len(step.node.inputs))]


@_rule("Add Sum")
def _add(step: _Step) -> _Result:
    return _sum(step, _operands(step))


@_rule("Sub")
def _sub(step: _Step) -> _Result:
    return _sum(step, [step.aligned(0), -step.aligned(1)])


@_rule("Mul")
def _mul(step: _Step) -> _Result:
    left, right = step.node.inputs
    if left is right:
        x = step.aligned(0)
        squares = _Bounds.of(np.minimum(x.low**2, x.high**2), np.maximum(x.low**2, x.high**2))
        inside = (x.low <= 0) & (x.high >= 0)
        return step.rounded(_Bounds.of(np.where(inside, 0.0, squares.low), squares.high), 1)
    for data, gate in ((0, right), (1, left)):
        function = _gate(step, step.value(data), gate)
        if function is not None:
            return _gated(step, step.aligned(data), function)
    x, y = step.aligned(0), step.aligned(1)
    exact = any(side.constant and _power_of_two(side.low).all() for side in (x, y))
    return step.rounded(_product(x, y), 0 if exact else 1)


@_rule("Div")
def _div(step: _Step) -> _Result:
    x, y = step.aligned(0), step.aligned(1)
    exact = y.constant and _power_of_two(y.low).all()
    # the float64 reciprocal here is one more rounding, which `rounded` allows for
    return step.rounded(_product(x, _reciprocal(y)), 0 if exact else 1)


@_rule("Max", integers=True)
def _max(step: _Step) -> _Result:
    lows, highs = zip(*_operands(step), strict=True)
    low, high = lows[0], highs[0]
    for index in range(1, len(lows)):
        low, high = np.maximum(low, lows[index]), np.maximum(high, highs[index])
    return _Bounds.of(low, high)


@_rule("Min", integers=True)
def _min(step: _Step) -> _Result:
    lows, highs = zip(*_operands(step), strict=True)
    low, high = lows[0], highs[0]
    for index in range(1, len(lows)):
        low, high = np.minimum(low, lows[index]), np.minimum(high, highs[index])
    return _Bounds.of(low, high)


@_rule("Where", integers=True)
def _where(step: _Step) -> _Result:
    return _hull([step.aligned(1), step.aligned(2)])


@_rule("Neg")
def _neg(step: _Step) -> _Result:
    return -step.x()


@_rule("Abs")
def _abs(step: _Step) -> _Result:
    low, high = step.x()
    nearest = np.maximum(np.maximum(low, -high), 0)
    return _Bounds.of(nearest, np.maximum(np.abs(low), np.abs(high)))


# Activations ---------------------------------------------------------------------------------


@_rule("Relu", integers=True)
def _relu(step: _Step) -> _Result:
    low, high = step.x()
    return _Bounds.of(np.maximum(low, 0), np.maximum(high, 0))


@_rule("Clip", integers=True)
def _clip(step: _Step) -> _Result:
    """Bounds are inputs since opset 11, attributes before; where min > max, max wins."""
    x = step.x()
    if step.version < 11:
        smallest = step.number("min", -np.inf)
        largest = step.number("max", np.inf)
        bottom, top = _Bounds.of(smallest, smallest), _Bounds.of(largest, largest)
    else:
        bottom = step.x(1).whole() if step.given(1) else _Bounds.of(-np.inf, -np.inf)
        top = step.x(2).whole() if step.given(2) else _Bounds.of(np.inf, np.inf)
    return _Bounds.of(
        np.minimum(np.maximum(x.low, bottom.low), top.low),
        np.minimum(np.maximum(x.high, bottom.high), top.high),
    )


def _bent(step: _Step, x: _Bounds, slope: _Bounds) -> _Bounds:
    """`x` above 0, `slope * x` below."""
    exact = slope.constant and _power_of_two(slope.low).all()
    below = _product(_Bounds(np.minimum(x.low, 0), np.minimum(x.high, 0)), slope)
    below = step.rounded(below, 0 if exact else 1)
    above = _Bounds(np.maximum(x.low, 0), np.maximum(x.high, 0))
    both = _hull([above, below])
    low = np.where(x.low >= 0, above.low, np.where(x.high <= 0, below.low, both.low))
    high = np.where(x.low >= 0, above.high, np.where(x.high <= 0, below.high, both.high))
    return _Bounds.of(low, high)


@_rule("LeakyRelu")
def _leaky_relu(step: _Step) -> _Result:
    slope = step.number("alpha", 0.01)
    return _bent(step, step.x(), _Bounds.of(slope, slope))


@_rule("PRelu")
def _prelu(step: _Step) -> _Result:
    return _bent(step, step.x(), step.aligned(1))


def _elementary(
    step: _Step,
    function: Callable[[Array], Array],
    *,
    absolute: float = 0.0,
    lowest: float = -np.inf,
    highest: float = np.inf,
) -> _Bounds:
    """A function that never falls: its values at both ends, widened.

    Args:
        step: the node.
        function: over the reals, in float64.
        absolute: error in units of roundoff, on top of `ELEMENTARY` relative ones.
        lowest: what every evaluation keeps to.
        highest: the same above.
    """
    low, high = step.x()
    ends = step.rounded(_Bounds.of(function(low), function(high)), ELEMENTARY)
    slack = absolute * step.kind.unit
    return _Bounds.of(
        np.clip(ends.low - slack, lowest, highest), np.clip(ends.high + slack, lowest, highest)
    )


def _signed(step: _Step, bounds: _Bounds) -> _Bounds:
    """Of a function that keeps the sign of x in floats as well."""
    low, high = step.x()
    return _Bounds.of(
        np.where(low >= 0, np.maximum(bounds.low, 0), bounds.low),
        np.where(high <= 0, np.minimum(bounds.high, 0), bounds.high),
    )


def _sigmoid_of(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))


def _softplus_of(x: Array) -> Array:
    return np.asarray(np.logaddexp(0.0, x))


_erf_of = np.vectorize(math.erf, otypes=[np.float64])


@_rule("Sigmoid")
def _sigmoid(step: _Step) -> _Result:
    return _elementary(step, _sigmoid_of, absolute=ELEMENTARY, lowest=0, highest=1)


@_rule("Tanh")
def _tanh(step: _Step) -> _Result:
    return _elementary(step, np.tanh)


@_rule("Erf")
def _erf(step: _Step) -> _Result:
    return _signed(step, _elementary(step, _erf_of, absolute=ELEMENTARY))


@_rule("Exp")
def _exp(step: _Step) -> _Result:
    return _elementary(step, np.exp, lowest=0)


@_rule("Sqrt")
def _sqrt(step: _Step) -> _Result:
    """Of what is not negative: the root of anything else is NaN."""
    return _elementary(step, lambda x: np.sqrt(np.maximum(x, 0)), lowest=0)


@_rule("Softplus")
def _softplus(step: _Step) -> _Result:
    return _elementary(step, _softplus_of, absolute=ELEMENTARY, lowest=0)


@_rule("Elu Selu Celu")
def _elu(step: _Step) -> _Result:
    """`gamma x` above 0, `gamma alpha (exp(x / c) - 1)` below."""
    kind = step.node.op_type
    alpha = step.number("alpha", 1.6732632 if kind == "Selu" else 1.0)
    gamma = step.number("gamma", 1.0507010) if kind == "Selu" else 1.0
    inner = alpha if kind == "Celu" else 1.0
    if alpha < 0 or gamma < 0 or inner <= 0:
        return None

    def function(x: Array) -> Array:
        return np.where(x > 0, gamma * x, gamma * alpha * np.expm1(np.minimum(x, 0) / inner))

    return _signed(step, _elementary(step, function, absolute=ELEMENTARY * gamma * alpha))


@_rule("HardSigmoid")
def _hard_sigmoid(step: _Step) -> _Result:
    alpha, beta = step.number("alpha", 0.2), step.number("beta", 0.5)
    scaled = _product(step.x(), _Bounds.of(alpha, alpha))
    low, high = _sum(step, [scaled, _Bounds.of(beta, beta)], extra=1)
    return _Bounds.of(np.clip(low, 0, 1), np.clip(high, 0, 1))


@_rule("Softmax")
def _softmax(step: _Step) -> _Result:
    return _Bounds.of(0, 1 + ELEMENTARY * step.kind.unit)


class _Gate(NamedTuple):
    """A function x * g(x) with g between 0 and `top`: it falls to one minimum, then rises.

    Attributes:
        function: the product, 0 at -inf.
        lowest_at: where the minimum is.
        reach: below -reach, g is exactly 0 in floats.
        top: the largest value of g.
    """

    function: Callable[[Array], Array]
    lowest_at: float
    reach: float
    top: float = 1.0


def _smooth(step: _Step, gate: Callable[[Array], Array], lowest_at: float) -> _Gate:
    """A gate made of exp, tanh or erf; exp(-128) is 0 in formats up to float32."""
    reach = 800.0 if step.kind.unit < 2.0**-24 else 128.0
    return _Gate(lambda x: _times(x, gate(x)), lowest_at, reach)


def _swish_gate(step: _Step, alpha: float) -> _Gate | None:
    if alpha <= 0:
        return None
    gate = _smooth(step, lambda x: _sigmoid_of(alpha * x), -1.2784645427610738 / alpha)
    return gate._replace(reach=gate.reach / min(alpha, 1.0))


def _mish_gate(step: _Step) -> _Gate:
    return _smooth(step, lambda x: np.tanh(_softplus_of(x)), -1.1924312192554467)


def _hard_gate(alpha: float, beta: float, top: float) -> _Gate | None:
    if not (alpha > 0 and 0 <= beta <= top):
        return None
    reach = (beta + top) / alpha

    def function(x: Array) -> Array:
        return _times(x, np.clip(alpha * x + beta, 0, top))

    return _Gate(function, -beta / (2 * alpha), reach, top)


def _gated(step: _Step, x: _Bounds, gate: _Gate) -> _Bounds:
    """Bounds of x * g(x). An error of g, 32 u of its top, counts only where g is not yet 0."""
    low = gate.function(np.clip(gate.lowest_at, x.low, x.high))
    high = np.maximum(gate.function(x.low), gate.function(x.high))
    low, high = step.rounded(_Bounds.of(low, high), ELEMENTARY)
    slack = ELEMENTARY * step.kind.unit * gate.top * np.clip(-x.low, 0, gate.reach)
    return _Bounds.of(
        np.where(x.low >= 0, np.maximum(low, 0), low - slack),
        np.where(x.high <= 0, np.minimum(high + slack, 0), high + slack),
    )


@_rule("Swish")
def _swish(step: _Step) -> _Result:
    gate = _swish_gate(step, step.number("alpha", 1.0))
    return None if gate is None else _gated(step, step.x(), gate)


@_rule("QuickGelu", domains=["com.microsoft"])
def _quick_gelu(step: _Step) -> _Result:
    gate = _swish_gate(step, step.number("alpha", 1.702))
    return None if gate is None else _gated(step, step.x(), gate)


@_rule("Mish")
def _mish(step: _Step) -> _Result:
    return _gated(step, step.x(), _mish_gate(step))


@_rule("HardSwish")
def _hard_swish(step: _Step) -> _Result:
    gate = _hard_gate(1 / 6, 0.5, 1.0)
    return None if gate is None else _gated(step, step.x(), gate)


@_rule("Gelu", domains=["", "com.microsoft"])
def _gelu(step: _Step) -> _Result:
    """`x Phi(x)`, or with `approximate="tanh"` the tanh formula in place of erf."""

    def exact(x: Array) -> Array:
        return np.asarray(0.5 * (1 + _erf_of(x / math.sqrt(2))))

    def by_tanh(x: Array) -> Array:
        return np.asarray(0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))))

    if step.text("approximate", "none") == "tanh":
        return _gated(step, step.x(), _smooth(step, by_tanh, -0.7524614220710162))
    return _gated(step, step.x(), _smooth(step, exact, -0.7517915246935645))


def _gate(step: _Step, x: onnx_ir.Value | None, gate: onnx_ir.Value | None) -> _Gate | None:
    """Reads `gate` as a function of `x`, None for any other product.

    These are the products that exporters write for Swish, Mish and HardSwish.
    """
    node = gate.producer() if gate is not None else None
    if node is None or x is None or node.domain not in ("", "ai.onnx"):
        return None
    inner = _Step(node, step.walk, step.kind)
    source = inner.value(0)
    made_by = source.producer() if source is not None else None
    match node.op_type:
        case "Sigmoid" if source is x:
            return _swish_gate(step, 1.0)
        case "HardSigmoid" if source is x:
            return _hard_gate(inner.number("alpha", 0.2), inner.number("beta", 0.5), 1.0)
        case "Tanh" if made_by is not None and made_by.op_type == "Softplus":
            return _mish_gate(step) if made_by.inputs[0] is x else None
        case "Clip" if made_by is not None and made_by.op_type == "Add" and x in made_by.inputs:
            shift = next((v for v in made_by.inputs if v is not x), None)
            array, (bottom, top) = step.walk.array(shift), _clip_ends(inner)
            if array is None or array.size != 1 or bottom != 0:
                return None
            return _hard_gate(1.0, float(array.reshape(-1)[0]), top)
        case _:
            return None


def _clip_ends(step: _Step) -> tuple[float, float]:
    """The constant bounds of a Clip; NaN for one that is no constant."""
    if step.version < 11:
        return step.number("min", -np.inf), step.number("max", np.inf)
    ends = [step.array(1), step.array(2)]
    low, high = (float(e.reshape(-1)[0]) if e is not None and e.size == 1 else np.nan for e in ends)
    return low, high


# Pooling and reduction -----------------------------------------------------------------------


@_rule("MaxPool", integers=True)
def _max_pool(step: _Step) -> _Result:
    """Padding never wins; except where a dilated window may miss the tensor altogether."""
    dilated = any(d != 1 for d in step.integers("dilations") or ())
    padded = any(step.integers("pads") or ()) or step.text("auto_pad", "NOTSET")[:4] == "SAME"
    x = step.x()
    return _Bounds.of(-np.inf, x.high) if dilated and padded else x


@_rule("GlobalMaxPool", integers=True)
def _global_max_pool(step: _Step) -> _Result:
    return step.x()


@_rule("AveragePool")
def _average_pool(step: _Step) -> _Result:
    """A mean over the window. Border windows divide by fewer, or read zeros."""
    x = step.x()
    if step.integer("count_include_pad", 0) or step.integer("ceil_mode", 0):
        x = _hull([x, _ZERO])
    window = math.prod(step.integers("kernel_shape") or (0,))
    return step.rounded(x, window + 1, 1) if window else None


@_rule("GlobalAveragePool")
def _global_average_pool(step: _Step) -> _Result:
    shape = step.shape()
    return _averaged(step, step.x(), None if shape is None else _count(shape[2:]))


def _averaged(step: _Step, x: _Bounds, count: int | None) -> _Bounds:
    return _signs(x) if count is None else step.rounded(x, count + 1)


def _signs(x: _Bounds) -> _Bounds:
    """All that is sure of a sum or mean of unknown length in floats."""
    return _Bounds.of(np.where(x.low >= 0, 0.0, -np.inf), np.where(x.high <= 0, 0.0, np.inf))


def _count(dims: Sequence[Dim]) -> int | None:
    """The number of elements in a block of these sizes."""
    known = [dim for dim in dims if isinstance(dim, int)]
    return math.prod(known) if len(known) == len(dims) else None


@_rule("ReduceMean ReduceMax ReduceMin ReduceSum")
def _reduce(step: _Step) -> _Result:
    """Per channel while axes 0 and 1 stay."""
    shape, axes = step.shape(), step.integers("axes", 1)
    count, keeps = None, False
    if axes is not None or not step.given(1):
        if not axes and step.integer("noop_with_empty_axes", 0):
            return step.x()
        if shape is not None:
            reduced = {axis % len(shape) for axis in axes or range(len(shape))}
            count = _count([shape[axis] for axis in reduced])
            keeps = min(reduced, default=2) >= 2
    x = step.x() if keeps else step.x().whole()
    match step.node.op_type:
        case "ReduceMean":
            return _averaged(step, x, count)
        case "ReduceSum" if count is not None:
            return step.rounded(_product(x, _Bounds.of(count, count)), count)
        case "ReduceSum":
            return _signs(x)
        case _:
            return x


# Moves ---------------------------------------------------------------------------------------


@_rule("Identity", integers=True)
def _identity(step: _Step) -> _Result:
    return step.x()


@_rule("Dropout")
def _dropout(step: _Step) -> _Result:
    """The identity, unless it is in training mode or might be."""
    if step.version < 7 and not step.integer("is_test", 0):
        return None
    mode = step.array(2)
    if step.given(2) and (mode is None or mode.any()):
        return None
    return step.x()


@_rule("Cast", integers=True)
def _cast(step: _Step) -> _Result:
    """To a float type: rounded where that is coarser; to an integer: cut off, if it fits."""
    x, source, target = step.x(), step.walk.info(step.value(0)).dtype, step.made.dtype
    if source is None or target is None:
        return None
    if target in _FLOATS:
        finest = _FLOATS[source].unit if source in _FLOATS else 0.0
        whole = source in _INTEGERS and max(-x.low.min(), x.high.max()) <= 1 / step.kind.unit
        return step.rounded(x, 0 if whole or finest >= step.kind.unit else 1)
    if source not in _FLOATS or not target.is_integer():
        return None
    room = _INTEGERS.get(target, _Bounds.of(-(2.0**31), 2.0**31 - 1))
    low, high = np.trunc(x.low), np.trunc(x.high)
    return _Bounds.of(low, high) if (low >= room.low).all() and (high <= room.high).all() else None


@_rule("Floor Ceil Round", integers=True)
def _round(step: _Step) -> _Result:
    function = {"Floor": np.floor, "Ceil": np.ceil, "Round": np.rint}[step.node.op_type]
    return _Bounds.of(*(function(side) for side in step.x()))


@_rule("ConstantOfShape", integers=True)
def _constant_of_shape(step: _Step) -> _Result:
    return _filled(step.node)


def _filled(node: onnx_ir.Node) -> _Bounds:
    """What a ConstantOfShape of any shape holds."""
    fill = node.attributes.get_tensor("value")
    return _ZERO if fill is None else _along(fill.numpy(), None) or _UNBOUNDED


@_rule("Concat", integers=True)
def _concat(step: _Step) -> _Result:
    parts = range(len(step.node.inputs))
    axis = step.axis(step.integer("axis", 1))
    if axis != 1:
        return _hull([step.x(i) if axis is not None else step.x(i).whole() for i in parts])
    lows, highs = [], []
    for index in parts:
        shape = step.shape(index)
        channels = shape[1] if shape is not None and len(shape) > 1 else None
        if not isinstance(channels, int):
            return _hull([step.x(i).whole() for i in parts])
        lows.append(np.broadcast_to(step.x(index).low, (channels,)))
        highs.append(np.broadcast_to(step.x(index).high, (channels,)))
    return _Bounds(np.concatenate(lows), np.concatenate(highs))


@_rule("Split", integers=True)
def _split(step: _Step) -> _Result:
    """The channels of each output, from the sizes that shape inference found."""
    axis, x = step.axis(step.integer("axis", 0)), step.x()
    outputs = step.node.outputs
    if x.low.ndim == 0 or (axis is not None and axis != 1):
        return [x] * len(outputs)
    sizes = []
    for output in outputs:
        shape = step.walk.info(output).shape
        sizes.append(shape[1] if shape is not None and len(shape) > 1 else None)
    known = [size for size in sizes if isinstance(size, int)]
    if axis is None or len(known) < len(sizes) or sum(known) != x.low.size:
        return [x.whole()] * len(outputs)
    ends = np.cumsum(known)
    return [
        _Bounds(x.low[end - size : end], x.high[end - size : end])
        for end, size in zip(ends, known, strict=True)
    ]


@_rule("Slice", integers=True)
def _slice(step: _Step) -> _Result:
    x, shape = step.x(), step.shape()
    starts, ends = step.integers("starts", 1), step.integers("ends", 2)
    axes, steps = step.integers("axes", 3), step.integers("steps", 4)
    if axes is None and not step.given(3):
        count = _length(step, starts)
        axes = None if count is None else tuple(range(count))
    if axes is None or (shape is None and min(axes, default=0) < 0):
        return x.whole()
    places = [axis if axis >= 0 else axis + len(shape or ()) for axis in axes]
    if x.low.ndim == 0 or 1 not in places:
        return x
    if starts is None or ends is None or (steps is None and step.given(4)):
        return x.whole()
    at = places.index(1)
    chosen = slice(starts[at], ends[at], steps[at] if steps else 1)
    return _Bounds(x.low[chosen], x.high[chosen])


def _length(step: _Step, starts: tuple[int, ...] | None) -> int | None:
    """How many axes a Slice without `axes` cuts."""
    if starts is not None:
        return len(starts)
    shape = step.shape(1)
    return shape[0] if shape is not None and isinstance(shape[0], int) else None


@_rule("Pad", integers=True)
def _pad(step: _Step) -> _Result:
    """Mode `constant` puts its value into new channels and borders; the others repeat values."""
    x, shape = step.x(), step.shape()
    pads = step.integers("pads" if step.version >= 2 else "paddings", 1)
    new = step.text("mode", "constant") == "constant"
    fill = _Bounds.of(*[step.number("value", 0.0)] * 2)
    if step.version >= 11:
        fill = step.x(2).whole() if step.given(2) else _ZERO
    axes = step.integers("axes", 3)
    if pads is None or shape is None or (axes is None and step.given(3)):
        return _hull([x.whole(), fill]) if new else x.whole()
    places = [axis % len(shape) for axis in axes] if axes is not None else range(len(shape))
    amounts = {place: (pads[i], pads[i + len(places)]) for i, place in enumerate(places)}
    first, last = amounts.pop(1, (0, 0))
    if new and any(amount > 0 for pair in amounts.values() for amount in pair):
        x = _hull([x, fill])
    if not first and not last:
        return x
    if not new or not isinstance(shape[1], int):
        return _hull([x.whole(), fill]) if new else x.whole()
    sides = []
    for side, value in zip(x, fill, strict=True):
        channels = np.broadcast_to(side, (shape[1],))[max(-first, 0) : shape[1] - max(-last, 0)]
        sides.append(np.pad(channels, (max(first, 0), max(last, 0)), constant_values=float(value)))
    return _Bounds(*sides)


@_rule("Reshape Flatten Squeeze Unsqueeze", integers=True)
def _reshape(step: _Step) -> _Result:
    """Per channel where the batch axis stays.

    The elements of one sample keep their order, so a new channel is a part of an old one, or
    several old ones.
    """
    x, old, new = step.x(), step.shape(), step.made.shape
    if x.low.ndim == 0 or old is None or new is None or min(len(old), len(new)) < 2:
        return x.whole()
    if old[0] is None or old[0] != new[0]:
        return x.whole()
    if old[1] is not None and old[1] == new[1]:
        return x
    area, new_area = _count(old[2:]), _count(new[2:])
    channels, made = old[1], new[1]
    if not (isinstance(channels, int) and isinstance(made, int) and area and new_area):
        return x.whole()
    if channels * area != made * new_area or made > MAX_CHANNELS:
        return x.whole()
    if area % new_area == 0:
        return _Bounds(*(np.repeat(side, area // new_area) for side in x))
    if new_area % area == 0:
        low, high = (side.reshape(made, new_area // area) for side in x)
        return _Bounds(low.min(axis=1), high.max(axis=1))
    return x.whole()


@_rule("Transpose", integers=True)
def _transpose(step: _Step) -> _Result:
    order = step.integers("perm")
    return step.x() if order is not None and len(order) > 1 and order[1] == 1 else step.x().whole()


@_rule("Gather", integers=True)
def _gather(step: _Step) -> _Result:
    x, axis, indices = step.x(), step.axis(step.integer("axis", 0)), step.array(1)
    if axis is not None and axis >= 2:
        return x
    if axis != 1 or indices is None or indices.ndim != 1 or x.low.ndim == 0:
        return x.whole()
    return _Bounds(x.low[indices], x.high[indices])


@_rule("Expand Tile", integers=True)
def _expand(step: _Step) -> _Result:
    """Per channel where neither the rank nor the number of channels changes."""
    old, new = step.shape(), step.made.shape
    if old is None or new is None or len(old) != len(new) or len(old) < 2:
        return step.x().whole()
    return step.x() if old[1] is not None and old[1] == new[1] else step.x().whole()


@_rule("DepthToSpace SpaceToDepth GatherElements GatherND", integers=True)
def _rearrange(step: _Step) -> _Result:
    return step.x().whole()


@_rule("Resize Upsample")
def _resize(step: _Step) -> _Result:
    """Nearest picks values; linear mixes them by weights >= 0 that sum to 1; cubic overshoots."""
    mode = step.text("mode", "nearest")
    if mode not in ("nearest", "linear", "bilinear"):
        return None
    x = step.x() if _keeps_channels(step) else step.x().whole()
    if step.text("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize":
        outside = step.number("extrapolation_value", 0.0)
        x = _hull([x, _Bounds.of(outside, outside)])
    return x if mode == "nearest" else step.rounded(x, 16)


def _keeps_channels(step: _Step) -> bool:
    """Whether a Resize leaves axis 1 as it is."""
    old, new = step.shape(), step.made.shape
    axes = step.integers("axes")
    if axes is not None and old is not None and all(axis % len(old) >= 2 for axis in axes):
        return True
    if axes is not None:
        return False
    if step.given(3):
        same = old is not None and new is not None and old[1] is not None and old[1] == new[1]
        return same and step.text("keep_aspect_ratio_policy", "stretch") == "stretch"
    listed = step.node.attributes.get_floats("scales")
    modern = step.node.op_type == "Resize" and step.version >= 11
    array = step.array(2 if modern else 1) if listed is None else np.asarray(listed)
    return array is not None and array.size > 1 and float(array[1]) == 1.0


# Quantizers ----------------------------------------------------------------------------------


@_rule("QuantizeLinear", domains=["", "com.microsoft"], integers=True)
def _quantize_linear(step: _Step) -> _Result:
    """`saturate(round(x / scale) + zero_point)`.

    Rounding to the nearest stays between floor and ceiling, whatever the error of the quotient.
    """
    scale = _grid(step, 1)
    zero = _grid(step, 2) if step.given(2) else _ZERO
    dtype = step.made.dtype
    if dtype is None and step.given(2):
        dtype = step.walk.info(step.value(2)).dtype
    room = _INTEGERS.get(dtype or onnx_ir.DataType.UINT8)
    if room is None or scale is None or zero is None or not (scale.low > 0).all():
        return None
    steps = _product(step.x(), _reciprocal(scale))
    return _Bounds.of(
        np.clip(np.floor(steps.low) + zero.low, room.low, room.high),
        np.clip(np.ceil(steps.high) + zero.high, room.low, room.high),
    )


@_rule("DequantizeLinear", domains=["", "com.microsoft"])
def _dequantize_linear(step: _Step) -> _Result:
    """`(x - zero_point) scale`."""
    scale = _grid(step, 1)
    zero = _grid(step, 2) if step.given(2) else _ZERO
    x = step.x()
    if not np.isfinite(x.low).all() and step.given(2):
        dtype = step.walk.info(step.value(2)).dtype
        x = _INTEGERS.get(dtype, x) if dtype is not None else x
    if scale is None or zero is None:
        return None
    steps = _Bounds.of(x.low - zero.high, x.high - zero.low)
    return step.rounded(_product(steps, scale), 2)


def _grid(step: _Step, index: int) -> _Bounds | None:
    """Scale or zero point: per channel if it is given along axis 1, else one for all."""
    array, shape = step.array(index), step.shape()
    if array is None:
        return None
    axis = step.axis(step.integer("axis", 1))
    if array.ndim != 1 or array.size == 1 or axis != 1 or shape is None or len(shape) < 2:
        return _along(array, None)
    return _along(array, 0)


_QONNX = ("qonnx.custom_op.general", "onnx.brevitas", "finn.custom_op.general")


@_rule("Quant IntQuant", domains=_QONNX)
def _quant(step: _Step) -> _Result:
    """QONNX: `(clip(round(x / scale + zero_point)) - zero_point) scale`.

    Bounded by the bit width and, whichever way it rounds, by the floor and the ceiling.
    """
    bits = step.array(3)
    scale, zero = step.aligned(1), step.aligned(2)
    if bits is None or bits.size != 1 or not (scale.low > 0).all() or not zero.constant:
        return None
    width, narrow = float(bits.reshape(-1)[0]), step.integer("narrow", 0)
    if step.integer("signed", 1):
        bottom, top = -(2 ** (width - 1)) + narrow, 2 ** (width - 1) - 1
    else:
        bottom, top = 0.0, 2**width - 1 - narrow
    places = _sum(step, [_product(step.x(), _reciprocal(scale)), zero], extra=1)
    low = np.clip(np.floor(places.low), bottom, top) - zero.high
    high = np.clip(np.ceil(places.high), bottom, top) - zero.low
    return step.rounded(_product(_Bounds.of(low, high), scale), 2)


@_rule("BipolarQuant", domains=_QONNX)
def _bipolar_quant(step: _Step) -> _Result:
    """-scale or +scale."""
    scale = step.aligned(1)
    reach = np.maximum(np.abs(scale.low), np.abs(scale.high))
    return _Bounds.of(-reach, reach)


@_rule("MultiThreshold", domains=_QONNX)
def _multi_threshold(step: _Step) -> _Result:
    """`out_bias + out_scale n` with n the number of thresholds [C, T] that x reaches."""
    thresholds = step.array(1)
    if thresholds is None or thresholds.ndim != 2:
        return None
    scale, bias = step.number("out_scale", 1.0), step.number("out_bias", 0.0)
    counts = _product(_Bounds.of(0, thresholds.shape[1]), _Bounds.of(scale, scale))
    return _sum(step, [counts, _Bounds.of(bias, bias)], extra=1)
