"""Moves Transposes towards the outputs and cancels them: `f(T(x)) = T(f(x))`.

Converters of channels-last networks wrap every convolution in Transposes, so that no residual block
is a chain of operators any more. Most operators between them do not care for the order of the axes.
For each of these the pass chooses the order in which it works; a Transpose is needed wherever a
tensor is made in one order and read in another. The choice that needs fewest is a minimum cut.
Among those with equally many the pass prefers operators that work in the order of the convolutions
beside them, then Transposes that stand deep in the network: one remains at the input and one at an
output. So their number never grows, and what is settled stays settled.

An order of axes is written as the `perm` of the Transpose that leads to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeAlias

import networkx as nx
import numpy as np
import numpy.typing as npt
import onnx_ir

from graphopt.evidence import Exactness, Region, Rewrite
from graphopt.ir.constants import constant
from graphopt.ir.layers import data_tensors
from graphopt.ir.model import Model, node_label
from graphopt.ir.shapes import Shapes, ShapeTable
from graphopt.pipeline.passes import Context, PassResult
from passes.linear import Initializers

Array: TypeAlias = npt.NDArray[Any]
Perm: TypeAlias = tuple[int, ...]

_ANNOTATION = "quant_parameter_tensor_names"
_QONNX = ("qonnx.custom_op.general", "onnx.brevitas", "finn.custom_op.general")

_ELEMENTWISE = frozenset(
    {
        ("", operator)
        for operator in "Abs Acos Acosh Add And Asin Asinh Atan Atanh BitShift BitwiseAnd "
        "BitwiseNot BitwiseOr BitwiseXor Cast Ceil Celu Clip Cos Cosh Div Dropout Elu Equal Erf "
        "Exp Floor Gelu Greater GreaterOrEqual HardSigmoid HardSwish Identity IsInf IsNaN "
        "LeakyRelu Less LessOrEqual Log Max Mean Min Mish Mod Mul Neg Not Or PRelu Pow "
        "Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin Sinh Softplus Softsign Sqrt Sub Sum "
        "Swish Tan Tanh ThresholdedRelu Where Xor".split()
    }
    | {
        ("com.microsoft", operator)
        for operator in "Gelu QuickGelu QLinearAdd QLinearMul QLinearSigmoid "
        "QLinearLeakyRelu".split()
    }
    | {(domain, name) for domain in _QONNX for name in "Quant BipolarQuant IntQuant Trunc".split()}
)
"""Operators that compute each element by itself, all inputs broadcast against each other."""

_RANK_OF_FIRST = frozenset(
    "AveragePool BatchNormalization Concat Conv ConvTranspose GlobalAveragePool GlobalMaxPool "
    "LogSoftmax MaxPool Pad Slice Softmax Split".split()
)
"""Operators whose outputs have as many axes as their first input."""

_CHANNELS_FIRST = frozenset(
    ("", operator)
    for operator in "AveragePool Conv ConvInteger ConvTranspose GlobalAveragePool GlobalMaxPool "
    "MaxPool QLinearConv".split()
)
"""Operators whose order of axes others had better share."""

_QUANTIZERS = frozenset(
    (domain, name)
    for domain in ("", "com.microsoft")
    for name in ("QuantizeLinear", "DequantizeLinear")
)


@dataclass(frozen=True)
class SinkTransposes:
    """Moves Transposes towards the outputs and cancels inverse ones."""

    name: ClassVar[str] = "sink-transposes"
    preserves: ClassVar[frozenset[str]] = frozenset()

    def run(self, model: Model, context: Context) -> PassResult:
        """Settles each group of operators between fixed ones, then writes down what changed."""
        if model.opset < 7 or not any(_operator(n) == ("", "Transpose") for n in model.graph):
            return PassResult()
        groups = _groups(model)
        for number, group in enumerate(groups):
            context.progress(f"{self.name}: group {number + 1}", number / len(groups))
            group.settle()
        groups = [g for g in groups if g.moved or g.needed < len(g.transposes)]
        if not groups:
            return PassResult()
        rewrites = tuple(self._rewrite(group) for group in groups)
        statistics = {
            "transposes removed": sum(len(g.transposes) - g.needed for g in groups),
            "operators moved": sum(len(g.moved) for g in groups),
        }
        _Writer(model, groups).write()
        return PassResult(True, rewrites, statistics=statistics)

    def _rewrite(self, group: _Group) -> Rewrite:
        labels = [node_label(node) for node in group.transposes]
        moved = group.moved
        facts = [f"Transposes before: {len(labels)}, after: {group.needed}"]
        exactness = Exactness.BIT_EXACT
        if moved:
            kinds = ", ".join(sorted({mover.node.op_type for mover in moved}))
            facts.append(f"operators that work in another order of axes: {len(moved)} ({kinds})")
        if any(mover.sums for mover in moved):
            exactness = Exactness.EXACT
            facts.append("sums of floats are taken over the same numbers in another order")
        region = Region(labels[0], (*labels, *(node_label(mover.node) for mover in moved)))
        return Rewrite(self.name, "f(T(x)) = T(f(x))", region, exactness, tuple(facts))


# Orders of axes -----------------------------------------------------------------------------


def _identity(rank: int) -> Perm:
    return tuple(range(rank))


def _then(first: Perm, second: Perm) -> Perm:
    """The Transpose that does `first` and then `second`."""
    return tuple(first[axis] for axis in second)


def _inverse(perm: Perm) -> Perm:
    return tuple(perm.index(axis) for axis in range(len(perm)))


def _operator(node: onnx_ir.Node) -> tuple[str, str]:
    return ("" if node.domain == "ai.onnx" else node.domain, node.op_type)


def _perm(node: onnx_ir.Node, rank: int | None = None) -> Perm | None:
    """The `perm` of a Transpose; None for another node, or where it is neither given nor known."""
    if _operator(node) != ("", "Transpose"):
        return None
    perm = tuple(node.attributes.get_ints("perm", ()) or ())
    if not perm and rank is not None:
        return tuple(reversed(range(rank)))
    return perm if sorted(perm) == list(range(len(perm))) and rank in (None, len(perm)) else None


class _Orders:
    """Which order of axes goes with which, from what has been joined (union-find)."""

    def __init__(self) -> None:
        self._up: dict[object, tuple[object, Perm]] = {}

    def add(self, item: object, rank: int) -> None:
        """An item that goes with none so far."""
        self._up.setdefault(item, (item, _identity(rank)))

    def __contains__(self, item: object) -> bool:
        return item in self._up

    def find(self, item: object) -> tuple[object, Perm]:
        """The item that stands for all that go together, and what leads from it to `item`."""
        below: list[object] = []
        while self._up[item][0] is not item:
            below.append(item)
            item = self._up[item][0]
        whole = self._up[item][1]
        for one in reversed(below):
            whole = _then(whole, self._up[one][1])
            self._up[one] = item, whole
        return item, whole

    def join(self, one: object, other: object, perm: Perm) -> bool:
        """Says that `perm` leads from `one` to `other`; False where that contradicts the rest."""
        (top, before), (root, behind) = self.find(one), self.find(other)
        whole = _then(before, perm)
        if top is root:
            return whole == behind
        self._up[root] = top, _then(whole, _inverse(behind))
        return True


# Operators ----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Facts:
    """What is known of a model's tensors."""

    shapes: ShapeTable
    ranks: dict[onnx_ir.Value, int]
    data: frozenset[str]
    opset: int

    @classmethod
    def of(cls, model: Model) -> _Facts:
        """Collects them. A Transpose tells the rank where shape inference does not."""
        shapes = model.analyses.get(Shapes())
        ranks = {
            value: len(shape)
            for value in model.values()
            if (shape := shapes[value.name or ""].shape) is not None
        }
        for node in model.graph:
            if perm := _perm(node):
                for value in (*node.inputs, *node.outputs):
                    if value is not None:
                        ranks.setdefault(value, len(perm))
        for node in model.graph:
            known = [ranks.get(value) for value in node.inputs if value is not None]
            rank = None
            if _operator(node) in _ELEMENTWISE:
                rank = max((r for r in known if r is not None), default=None)
                rank = None if None in known else rank
            elif _operator(node)[0] == "" and node.op_type in _RANK_OF_FIRST:
                rank = known[0] if known else None
            if rank is not None:
                for value in node.outputs:
                    ranks.setdefault(value, rank)
        return cls(shapes, ranks, data_tensors(model), model.opset)

    def array(self, value: onnx_ir.Value | None) -> Array | None:
        """The value of a constant."""
        return None if value is None or value.name in self.data else constant(value)

    def dims(self, value: onnx_ir.Value | None) -> tuple[Any, ...] | None:
        """The shape of a tensor."""
        return self.shapes[value.name or ""].shape if value is not None else None

    def rank(self, value: onnx_ir.Value | None) -> int:
        """The number of axes of a tensor, 0 where it is not known."""
        return self.ranks.get(value, 0) if value is not None else 0

    def is_single(self, value: onnx_ir.Value) -> bool:
        """Whether it is one number, which is the same in every order of axes."""
        dims = self.dims(value)
        return dims is not None and all(dim == 1 for dim in dims)


@dataclass(frozen=True, eq=False)
class _Mover:
    """A node that can work in another order of axes.

    Attributes:
        node: the node.
        rank: number of axes that are permuted.
        data: indices of the inputs that come in the order of the node.
        adapt: rewrites the node for an order, given relative to the present one.
        accepts: whether it can work in an order, given likewise.
        follows: whether its outputs are in its order; if not, they stay as they are.
        sums: whether it sums floats, the order of which changes.
    """

    node: onnx_ir.Node
    rank: int
    data: tuple[int, ...]
    adapt: Callable[[Perm, _Weights], None]
    accepts: Callable[[Perm], bool] = lambda perm: True
    follows: bool = True
    sums: bool = False


class _Weights:
    """Makes permuted constants, each once."""

    def __init__(self, model: Model) -> None:
        taken = {o.name for node in model.graph.all_nodes() for o in node.outputs if o.name}
        self._initializers = Initializers(model.graph, taken | set(model.value_index()))
        self._made: dict[tuple[onnx_ir.Value, Perm], onnx_ir.Value] = {}
        self.fresh = self._initializers.fresh

    def permuted(self, value: onnx_ir.Value, array: Array, perm: Perm) -> onnx_ir.Value:
        """The constant `array` that `value` holds, in another order of axes."""
        if (value, perm) not in self._made:
            whole = array.reshape((1,) * (len(perm) - array.ndim) + array.shape)
            made = self.added(value, np.ascontiguousarray(whole.transpose(perm)))
            made.meta.update(value.meta)
            made.metadata_props.update(value.metadata_props)
            self._made[value, perm] = made
        return self._made[value, perm]

    def added(self, value: onnx_ir.Value, array: Array) -> onnx_ir.Value:
        """A constant that takes the place of `value`."""
        return self._initializers.add(value.name or "constant", array)


def _mover(node: onnx_ir.Node, facts: _Facts) -> _Mover | None:
    """How the node works in another order of axes, or None where it cannot."""
    made: _Mover | None
    match _operator(node):
        case operator if operator in _ELEMENTWISE:
            made = _elementwise(node, facts)
        case operator if operator in _QUANTIZERS:
            made = _quantizer(node, facts)
        case "", "Concat":
            made = _concat(node, facts)
        case "", "Split" | "Gather":
            made = _along_axis(node, facts)
        case "", "Softmax" | "LogSoftmax":
            made = _softmax(node, facts)
        case "", "ReduceMean" | "ReduceSum" | "ReduceMax" | "ReduceMin":
            made = _reduce(node, facts)
        case "", "Slice" | "Squeeze":
            made = _with_axes(node, facts)
        case "", "Pad":
            made = _pad(node, facts)
        case "", "BatchNormalization":
            made = _norm(node, facts)
        case "", "Reshape" | "Flatten":
            made = _reshape(node, facts)
        case "", "Shape" if not {"start", "end"} & set(node.attributes):
            made = _Mover(node, facts.rank(node.inputs[0]), (0,), _gathered(node), follows=False)
        case _:
            return None
    return made if made is not None and made.rank > 1 else None


def _elementwise(node: onnx_ir.Node, facts: _Facts) -> _Mover | None:
    if node.op_type == "Dropout" and len(node.inputs) > 2 and node.inputs[2] is not None:
        training = facts.array(node.inputs[2])
        if training is None or training.any():
            return None
    rank = max((facts.rank(value) for value in node.inputs), default=0)
    operands = _operands(node, facts, range(len(node.inputs)), rank)
    if operands is None:
        return None
    data, constants = operands
    return _Mover(node, rank, data, _permuting(node, constants))


def _operands(
    node: onnx_ir.Node, facts: _Facts, indices: Iterable[int], rank: int
) -> tuple[tuple[int, ...], dict[int, Array]] | None:
    """The tensors of `rank` axes that a node reads, and the constants that it broadcasts against
    them; None where it reads anything else.
    """
    data: list[int] = []
    constants: dict[int, Array] = {}
    for index in indices:
        value = node.inputs[index]
        if value is None or facts.is_single(value):
            continue
        array = facts.array(value)
        if array is not None:
            constants[index] = array
        elif facts.rank(value) == rank:
            data.append(index)
        else:
            return None
    return tuple(data), constants


def _permuting(
    node: onnx_ir.Node, constants: dict[int, Array], axis: int | None = None
) -> Callable[[Perm, _Weights], None]:
    """Permutes the constants of a node, and its attribute `axis` where it has one."""

    def adapt(perm: Perm, weights: _Weights) -> None:
        for index, array in constants.items():
            value = node.inputs[index]
            assert value is not None
            node.replace_input_with(index, weights.permuted(value, array, perm))
        if axis is not None:
            node.attributes["axis"] = onnx_ir.AttrInt64("axis", perm.index(axis))

    return adapt


def _axis(node: onnx_ir.Node, rank: int, default: int) -> int:
    axis = node.attributes.get_int("axis", default)
    return (default if axis is None else axis) % max(rank, 1)


def _quantizer(node: onnx_ir.Node, facts: _Facts) -> _Mover | None:
    scale, rank = node.inputs[1], facts.rank(node.inputs[0])
    operands = _operands(node, facts, [0], rank)
    blocks = node.attributes.get_int("block_size", 0)
    if scale is None or operands is None or blocks:
        return None
    data, constants = operands
    if facts.is_single(scale):
        return _Mover(node, rank, data, _permuting(node, constants))
    if facts.rank(scale) != 1:
        return None
    return _Mover(node, rank, data, _permuting(node, constants, _axis(node, rank, 1)))


def _concat(node: onnx_ir.Node, facts: _Facts) -> _Mover | None:
    rank = max((facts.rank(value) for value in node.inputs), default=0)
    data, constants = [], {}
    for index, value in enumerate(node.inputs):
        array = facts.array(value)
        if array is not None:
            constants[index] = array
        else:
            data.append(index)
        if facts.rank(value) != rank:
            return None
    return _Mover(node, rank, tuple(data), _permuting(node, constants, _axis(node, rank, -1)))


def _along_axis(node: onnx_ir.Node, facts: _Facts) -> _Mover | None:
    rank = facts.rank(node.inputs[0])
    axis = _axis(node, rank, 0)
    adapt = _permuting(node, {}, axis)
    if node.op_type == "Split":
        return _Mover(node, rank, (0,), adapt)
    places = facts.array(node.inputs[1])
    if places is None or places.ndim > 1:
        return None
    if places.ndim == 1:
        return _Mover(node, rank, (0,), adapt)
    return _Mover(node, rank, (0,), adapt, _keeping_order({axis}), follows=False)


def _keeping_order(removed: set[int]) -> Callable[[Perm], bool]:
    """Accepts orders in which the axes that are not removed follow each other as before."""

    def accepts(perm: Perm) -> bool:
        left = [axis for axis in perm if axis not in removed]
        return left == sorted(left)

    return accepts


def _softmax(node: onnx_ir.Node, facts: _Facts) -> _Mover | None:
    rank = facts.rank(node.inputs[0])
    if facts.opset >= 13:
        adapt = _permuting(node, {}, _axis(node, rank, -1))
        return _Mover(node, rank, (0,), adapt, sums=True)
    first = _axis(node, rank, 1)  # of the axes that it takes for one

    def accepts(perm: Perm) -> bool:
        return set(perm[:first]) == set(range(first))

    return _Mover(node, rank, (0,), _permuting(node, {}), accepts, sums=True)


@dataclass(frozen=True, eq=False)
class _Ints:
    """A list of integers that a node takes as an attribute or as a constant input.

    Attributes:
        node: the node.
        name: of the attribute.
        index: of the input.
        values: what is there; None where the node is given none.
    """

    node: onnx_ir.Node
    name: str
    index: int
    values: tuple[int, ...] | None

    @classmethod
    def read(cls, node: onnx_ir.Node, name: str, index: int, facts: _Facts) -> _Ints | None:
        """Reads it; None where it depends on the model's input."""
        if name in node.attributes:
            return cls(node, name, -1, tuple(node.attributes.get_ints(name, ()) or ()))
        value = node.inputs[index] if index < len(node.inputs) else None
        array = facts.array(value)
        if value is not None and array is None:
            return None
        values = None if array is None else tuple(int(v) for v in array.reshape(-1))
        return cls(node, name, index, values)

    def write(self, values: Sequence[int], weights: _Weights) -> None:
        """Replaces it."""
        if self.index < 0:
            self.node.attributes[self.name] = onnx_ir.AttrInt64s(self.name, list(values))
            return
        if self.index >= len(self.node.inputs):
            self.node.resize_inputs(self.index + 1)
        like = self.node.inputs[self.index] or self.node.inputs[1]
        assert like is not None
        dtype = like.dtype.numpy() if like.dtype is not None else np.int64
        self.node.replace_input_with(self.index, weights.added(like, np.asarray(values, dtype)))


def _reduce(node: onnx_ir.Node, facts: _Facts) -> _Mover | None:
    value = node.inputs[0]
    rank, axes = facts.rank(value), _Ints.read(node, "axes", 1, facts)
    if axes is None or value is None:
        return None
    keeps = bool(node.attributes.get_int("keepdims", 1))
    sums = node.op_type in ("ReduceMean", "ReduceSum") and not _is_integer(facts, value)
    if not axes.values:
        keeps |= bool(node.attributes.get_int("noop_with_empty_axes", 0))
        return _Mover(node, rank, (0,), _permuting(node, {}), follows=keeps, sums=sums)
    removed = set() if keeps else {axis % max(rank, 1) for axis in axes.values}
    accepts = (lambda perm: True) if keeps else _keeping_order(removed)
    return _Mover(node, rank, (0,), _moving(axes), accepts, follows=keeps, sums=sums)


def _is_integer(facts: _Facts, value: onnx_ir.Value) -> bool:
    dtype = facts.shapes[value.name or ""].dtype
    return dtype is not None and dtype.is_integer()


def _moving(axes: _Ints) -> Callable[[Perm, _Weights], None]:
    """Gives the axes that a node names their new numbers."""

    def adapt(perm: Perm, weights: _Weights) -> None:
        axes.write([perm.index(axis % len(perm)) for axis in axes.values or ()], weights)

    return adapt


def _with_axes(node: onnx_ir.Node, facts: _Facts) -> _Mover | None:
    rank = facts.rank(node.inputs[0])
    squeezes = node.op_type == "Squeeze"
    axes = _Ints.read(node, "axes", 1 if squeezes else 3, facts)
    if axes is None or (squeezes and not axes.values):
        return None
    if squeezes:
        removed = {axis % max(rank, 1) for axis in axes.values or ()}
        return _Mover(node, rank, (0,), _moving(axes), _keeping_order(removed), follows=False)
    if axes.values is None:
        starts = node.attributes.get_ints("starts", ()) or ()
        dims = facts.dims(node.inputs[1]) if len(node.inputs) > 1 else (len(starts),)
        if dims is None or not isinstance(dims[0], int):
            return None
        axes = _Ints(node, "axes", -1 if starts else 3, tuple(range(dims[0])))
    return _Mover(node, rank, (0,), _moving(axes))


def _pad(node: onnx_ir.Node, facts: _Facts) -> _Mover | None:
    rank = facts.rank(node.inputs[0])
    axes, pads = _Ints.read(node, "axes", 3, facts), _Ints.read(node, "pads", 1, facts)
    if axes is not None and axes.values is not None:
        return _Mover(node, rank, (0,), _moving(axes))
    if axes is None or pads is None or pads.values is None or len(pads.values) != 2 * rank:
        return None
    known, values = pads, pads.values

    def adapt(perm: Perm, weights: _Weights) -> None:
        known.write([values[axis + end] for end in (0, rank) for axis in perm], weights)

    return _Mover(node, rank, (0,), adapt)


def _norm(node: onnx_ir.Node, facts: _Facts) -> _Mover | None:
    attributes = node.attributes
    if attributes.get_int("training_mode", 0) or attributes.get_int("spatial", 1) == 0:
        return None
    if len(node.outputs) > 1:
        return None
    rank = facts.rank(node.inputs[0])
    return _Mover(node, rank, (0,), _permuting(node, {}), lambda perm: perm[1] == 1)


def _reshape(node: onnx_ir.Node, facts: _Facts) -> _Mover | None:
    """A Reshape or Flatten sees the elements in the same order if only axes of size 1 move."""
    rank, dims = facts.rank(node.inputs[0]), facts.dims(node.inputs[0])
    if dims is None:
        return None
    long = [axis for axis, dim in enumerate(dims) if dim != 1]
    fixed: list[int] = []  # axes that the node names, which have to stay in their places
    border = 0  # of the axes that become rows
    if node.op_type == "Flatten":
        border = node.attributes.get_int("axis", 1) or 0
        border += rank if border < 0 else 0
    else:
        shape = _Ints.read(node, "shape", 1, facts)
        if shape is None or shape.values is None:
            return None
        if not node.attributes.get_int("allowzero", 0):
            fixed = [axis for axis, size in enumerate(shape.values) if size == 0]

    def accepts(perm: Perm) -> bool:
        rows = {axis for axis in perm[:border] if axis in long}
        return (
            [axis for axis in perm if axis in long] == long
            and rows == {axis for axis in long if axis < border}
            and all(perm[axis] == axis for axis in fixed)
        )

    return _Mover(node, rank, (0,), _permuting(node, {}), accepts, follows=False)


def _gathered(node: onnx_ir.Node) -> Callable[[Perm, _Weights], None]:
    """Puts the sizes that a Shape gives into the order in which they are expected."""

    def adapt(perm: Perm, weights: _Weights) -> None:
        sizes, graph = node.outputs[0], node.graph
        assert graph is not None
        places = weights.added(sizes, np.asarray(_inverse(perm), np.int64))
        gather = onnx_ir.node("Gather", [None, places], attributes={"axis": 0})
        graph.insert_after(node, gather)
        made, name = gather.outputs[0], sizes.name
        sizes.replace_all_uses_with(made, replace_graph_outputs=True)
        gather.replace_input_with(0, sizes)
        made.type, made.shape = sizes.type, sizes.shape
        node.name = node_label(node)
        sizes.name = weights.fresh(name or node.name)
        made.name = name

    return adapt


# The choice ---------------------------------------------------------------------------------


@dataclass(eq=False)
class _Tensor:
    """A tensor that no Transpose makes, with the Transposes of it.

    Attributes:
        value: the tensor.
        order: its order of axes, as those of its group go.
        depth: number of operators before it.
        maker: the mover that makes it, or None where it is made in one order for good.
        pinned: the orders in which it is made or read by what does not move.
        wanted: those of them that belong to convolutions.
        movers: what makes or reads it in an order of its own choice.
        transposes: what each Transpose of it (or of a Transpose of it) amounts to, by its output.
    """

    value: onnx_ir.Value
    order: Perm
    depth: int
    maker: _Mover | None = None
    pinned: set[Perm] = field(default_factory=set)
    wanted: set[Perm] = field(default_factory=set)
    movers: dict[_Mover, None] = field(default_factory=dict)
    transposes: dict[onnx_ir.Value, Perm] = field(default_factory=dict)

    def pin(self, order: Perm, node: onnx_ir.Node | None) -> None:
        """Takes down that `node` (None: the outside) makes or reads it in this order for good."""
        self.pinned.add(order)
        if node is not None and _operator(node) in _CHANNELS_FIRST:
            self.wanted.add(order)


@dataclass(eq=False)
class _Group:
    """Tensors and movers whose orders of axes hang together.

    Attributes:
        tensors: in order of execution.
        first: the orders in which the movers work at first.
        orders: the orders in which they work now.
    """

    tensors: list[_Tensor] = field(default_factory=list)
    first: dict[_Mover, Perm] = field(default_factory=dict)
    orders: dict[_Mover, Perm] = field(default_factory=dict)

    @property
    def transposes(self) -> list[onnx_ir.Node]:
        """The Transposes that stand in the graph."""
        made = [value.producer() for tensor in self.tensors for value in tensor.transposes]
        return [node for node in made if node is not None]

    @property
    def needed(self) -> int:
        """How many Transposes it takes."""
        return sum(len(self._used(tensor)) - 1 for tensor in self.tensors)

    @property
    def moved(self) -> list[_Mover]:
        """The movers that work in another order than at first."""
        return [mover for mover, order in self.orders.items() if order != self.first[mover]]

    def turn(self, mover: _Mover | None, rank: int = 0) -> Perm:
        """What leads from the order in which a mover worked at first to the present one."""
        if mover is None:
            return _identity(rank)
        return _then(_inverse(self.first[mover]), self.orders[mover])

    def _used(self, tensor: _Tensor) -> set[Perm]:
        return tensor.pinned | {self.orders[mover] for mover in tensor.movers}

    def settle(self) -> None:
        """Lets movers change to one order after the other, until none of that is better."""
        better = True
        while better:
            better = False
            used = set().union(*(self._used(tensor) for tensor in self.tensors))
            for order in sorted(used) if len(used) > 1 else ():
                changing = self._changing(order)
                self.orders.update(dict.fromkeys(changing, order))
                better |= bool(changing)

    def _changing(self, order: Perm) -> list[_Mover]:
        """The movers that have to change to `order` to make the best of it, by a minimum cut.

        A tensor that is made and read in n orders costs n - 1 Transposes. So an order costs as
        soon as one mover keeps it, and `order` costs as soon as one changes to it, where nothing
        is in these orders anyway. Movers that keep their order are on the side of the source.
        """
        able = {
            mover
            for mover, present in self.orders.items()
            if present != order and mover.accepts(_then(_inverse(self.first[mover]), order))
        }
        cut: nx.DiGraph[object] = nx.DiGraph()
        cut.add_nodes_from(("keep", "change"))
        wanted = set().union(*(tensor.wanted for tensor in self.tensors))
        trifle, weights = self._weights()
        present_cost = 0
        for tensor, weight in zip(self.tensors, weights, strict=True):
            holders: dict[Perm, list[_Mover]] = {}
            for mover in tensor.movers:
                holders.setdefault(self.orders[mover], []).append(mover)
            for kept, movers in holders.items():
                if kept not in tensor.pinned and able.issuperset(movers):
                    present_cost += weight
                    cut.add_edge((tensor, kept), "change", capacity=weight)
                    cut.add_edges_from((mover, (tensor, kept)) for mover in movers)
            if order not in tensor.pinned and order not in holders:
                cut.add_edge("keep", (tensor, order), capacity=weight)
                cut.add_edges_from(
                    ((tensor, order), mover) for mover in tensor.movers if mover in able
                )
        for mover in (mover for mover in able if mover.follows):
            if order in wanted and self.orders[mover] not in wanted:
                present_cost += trifle
                cut.add_edge(mover, "change", capacity=trifle)
            elif order not in wanted and self.orders[mover] in wanted:
                cut.add_edge("keep", mover, capacity=trifle)
        if not present_cost:
            return []
        cost, (_, changing) = nx.minimum_cut(cut, "keep", "change")
        return [mover for mover in self.orders if mover in changing and cost < present_cost]

    def _weights(self) -> tuple[int, list[int]]:
        """What a mover in an unwanted order costs, and a Transpose of each tensor: more than all
        movers, and less the deeper it stands, but by less than one mover.
        """
        trifle = 1 + sum(t.depth * (len(t.pinned) + len(t.movers)) for t in self.tensors)
        one = trifle * (1 + len(self.orders))
        return trifle, [one - tensor.depth for tensor in self.tensors]


def _groups(model: Model) -> list[_Group]:
    """The groups of a model that have a Transpose, in order of execution."""
    facts, orders = _Facts.of(model), _Orders()
    origins = _origins(model, facts)

    def origin(value: onnx_ir.Value) -> tuple[onnx_ir.Value, Perm]:
        return origins.get(value) or (value, _identity(facts.rank(value)))

    movers = _movers(model, facts, orders, origin)
    for root, perm in origins.values():
        orders.add(root, len(perm))
    depths = _depths(model, facts, origin)
    tensors = {
        value: _Tensor(value, orders.find(value)[1], depths.get(value, 0))
        for value in model.values()
        if value in orders
    }
    for tensor in tensors.values():
        maker = tensor.value.producer()
        mover = movers.get(maker) if maker is not None else None
        if mover is not None and mover.follows:
            tensor.maker = mover
            tensor.movers[mover] = None
        else:
            tensor.pin(tensor.order, maker)
    for transposed, (root, perm) in origins.items():
        tensors[root].transposes[transposed] = perm

    def pin(value: onnx_ir.Value, node: onnx_ir.Node | None) -> None:
        root, perm = origin(value)
        if root in tensors:
            tensors[root].pin(_then(tensors[root].order, perm), node)

    for node in model.graph:
        if node.outputs and node.outputs[0] in origins:
            continue
        mover = movers.get(node)
        for index, value in enumerate(node.inputs):
            if value is not None and mover is not None and index in mover.data:
                tensors[origin(value)[0]].movers[mover] = None
            elif value is not None:
                pin(value, node)
        for graph in _bodies(node):
            for read in _outer(graph):
                pin(read, None)
    for output in model.graph.outputs:
        pin(output, None)

    groups: dict[object, _Group] = {}
    for tensor in tensors.values():
        groups.setdefault(orders.find(tensor.value)[0], _Group()).tensors.append(tensor)
    for mover in movers.values():
        top, order = orders.find(mover)
        group = groups.setdefault(top, _Group())
        group.first[mover] = group.orders[mover] = order
    return [group for group in groups.values() if group.transposes]


Origin: TypeAlias = Callable[[onnx_ir.Value], tuple[onnx_ir.Value, Perm]]


def _origins(model: Model, facts: _Facts) -> dict[onnx_ir.Value, tuple[onnx_ir.Value, Perm]]:
    """What each Transpose (of something that is no constant) is a Transpose of, through others."""
    origins: dict[onnx_ir.Value, tuple[onnx_ir.Value, Perm]] = {}
    for node in model.graph:
        value = node.inputs[0] if node.inputs else None
        perm = _perm(node, facts.rank(value) or None)
        if perm is None or value is None or facts.array(node.outputs[0]) is not None:
            continue
        root, before = origins.get(value) or (value, _identity(len(perm)))
        origins[node.outputs[0]] = root, _then(before, perm)
    return origins


def _movers(
    model: Model, facts: _Facts, orders: _Orders, origin: Origin
) -> dict[onnx_ir.Node, _Mover]:
    """The nodes that can work in another order. One that reads a tensor in two orders cannot."""
    movers = {}
    for node in model.graph:
        mover = _mover(node, facts)
        if mover is None:
            continue
        orders.add(mover, mover.rank)
        agree = True
        for index in mover.data:
            value = node.inputs[index]
            assert value is not None
            root, perm = origin(value)
            orders.add(root, mover.rank)
            agree &= orders.join(root, mover, perm)
        if not agree:
            continue
        movers[node] = mover
        for value in node.outputs if mover.follows else ():
            facts.ranks[value] = mover.rank
            orders.add(value, mover.rank)
            orders.join(mover, value, _identity(mover.rank))
    return movers


def _depths(model: Model, facts: _Facts, origin: Origin) -> dict[onnx_ir.Value, int]:
    """How many operators stand before each tensor at most; Transposes and shape arithmetic do not
    count.
    """
    depths: dict[onnx_ir.Value, int] = {}
    for node in model.graph:
        before = [depths.get(origin(value)[0], 0) for value in node.inputs if value is not None]
        for value in node.outputs:
            if value.name in facts.data and origin(value)[0] is value:
                depths[value] = 1 + max(before, default=0)
    return depths


def _bodies(node: onnx_ir.Node) -> Iterator[onnx_ir.Graph]:
    """The graphs inside a node, and those inside them."""
    for attribute in node.attributes.values():
        if attribute.type == onnx_ir.AttributeType.GRAPH and not attribute.is_ref():
            yield attribute.as_graph()
            yield from attribute.as_graph().subgraphs()
        elif attribute.type == onnx_ir.AttributeType.GRAPHS and not attribute.is_ref():
            for graph in attribute.as_graphs():
                yield graph
                yield from graph.subgraphs()


def _outer(graph: onnx_ir.Graph) -> Iterator[onnx_ir.Value]:
    """What a graph reads; that may be its own or that of a graph around it."""
    for node in graph:
        yield from (value for value in node.inputs if value is not None)
    yield from graph.outputs


# Writing it down ----------------------------------------------------------------------------


class _Writer:
    """Gives the movers of some groups their new orders, and makes the Transposes anew.

    A name stays with what it stands for: a tensor gets the name under which its content was in the
    graph before, and a new name where it was not.
    """

    def __init__(self, model: Model, groups: Sequence[_Group]) -> None:
        self._graph = model.graph
        self._outputs = list(model.graph.outputs)
        self._weights = _Weights(model)
        self._old = [node for group in groups for node in group.transposes]
        self._origin: dict[onnx_ir.Value, tuple[_Tensor, Perm]] = {}
        self._made_in: dict[_Tensor, Perm] = {}
        self._turns: dict[onnx_ir.Node, tuple[_Mover, Perm]] = {}
        self._new: dict[tuple[_Tensor, Perm], onnx_ir.Value] = {}
        self._copies: dict[onnx_ir.Value, onnx_ir.Value] = {}
        for group in groups:
            for tensor in group.tensors:
                rank = len(tensor.order)
                self._made_in[tensor] = group.turn(tensor.maker, rank)
                self._origin[tensor.value] = tensor, _identity(rank)
                self._origin |= {v: (tensor, perm) for v, perm in tensor.transposes.items()}
            for mover in group.orders:
                self._turns[mover.node] = mover, group.turn(mover)

    def write(self) -> None:
        """Edits the graph from the inputs on; each new Transpose stands before its first reader."""
        old = set(self._old)
        for node in list(self._graph):
            if node in old:
                continue
            mover, turn = self._turns.get(node, (None, ()))
            for index, value in enumerate(node.inputs):
                if value is not None and value in self._origin:
                    turned = turn if mover is not None and index in mover.data else ()
                    node.replace_input_with(index, self._tensor(value, node, turned))
            for graph in _bodies(node):
                self._write_body(graph, node)
            if mover is not None and turn != _identity(mover.rank):
                mover.adapt(turn, self._weights)
        self._write_outputs()
        statements = [self._statement(*item) for item in self._renamed()]
        self._graph.remove(self._old, safe=True)
        for statement in statements:
            statement.apply()

    def _write_body(self, graph: onnx_ir.Graph, node: onnx_ir.Node) -> None:
        """What a graph inside a node reads stays as it is."""
        for inner in graph:
            for index, value in enumerate(inner.inputs):
                if value is not None and value in self._origin:
                    inner.replace_input_with(index, self._tensor(value, node))
        for index, output in enumerate(graph.outputs):
            if output in self._origin:
                graph.outputs[index] = self._tensor(output, node)

    def _tensor(
        self, value: onnx_ir.Value, before: onnx_ir.Node | None, turn: Perm = ()
    ) -> onnx_ir.Value:
        """What to read in place of `value`, by a node whose order has changed by `turn`."""
        tensor, perm = self._origin[value]
        perm = _then(perm, turn) if turn else perm
        if perm == self._made_in[tensor]:
            return tensor.value
        if (tensor, perm) not in self._new:
            self._new[tensor, perm] = self._transpose(tensor, perm, before)
        return self._new[tensor, perm]

    def _transpose(self, tensor: _Tensor, perm: Perm, before: onnx_ir.Node | None) -> onnx_ir.Value:
        like = self._like(tensor, perm)
        old = like.producer() if like in tensor.transposes else None
        node = onnx_ir.node(
            "Transpose",
            [tensor.value],
            attributes={"perm": _then(_inverse(self._made_in[tensor]), perm)},
            name=old.name if old is not None else "",
            doc_string=old.doc_string if old is not None else None,
            metadata_props=dict(old.metadata_props) if old is not None else None,
        )
        node.outputs[0].name = ""
        if before is None:
            self._graph.append(node)
        else:
            self._graph.insert_before(before, node)
        return node.outputs[0]

    def _like(self, tensor: _Tensor, perm: Perm) -> onnx_ir.Value | None:
        """The tensor that was the same before, an output of the graph if there is one."""
        same = [value for value, other in tensor.transposes.items() if other == perm]
        if perm == _identity(len(perm)):
            if tensor.value.producer() is None:
                return tensor.value
            same.insert(0, tensor.value)
        return next((v for v in same if v in self._outputs), same[0] if same else None)

    def _write_outputs(self) -> None:
        """An output keeps its name; two names of one tensor take an Identity."""
        for index, value in enumerate(self._outputs):
            if value not in self._origin:
                continue
            new = self._tensor(value, None)
            if self._like(*self._origin[value]) is not value:
                if value not in self._copies:
                    node = onnx_ir.node("Identity", [new], name="")
                    self._graph.append(node)
                    self._copies[value] = node.outputs[0]
                new = self._copies[value]
            self._graph.outputs[index] = new

    def _renamed(self) -> Iterator[tuple[onnx_ir.Value, onnx_ir.Value | None, _Tensor, Perm]]:
        """The tensors that are new or in another order: what they are like, and what they are."""
        for tensor, perm in self._made_in.items():
            like = self._like(tensor, perm)
            if like is not tensor.value and tensor.value.producer() is not None:
                yield tensor.value, like, tensor, perm
        for (tensor, perm), value in self._new.items():
            yield value, self._like(tensor, perm), tensor, perm
        for like, value in self._copies.items():
            yield value, like, *self._origin[like]

    def _statement(
        self, value: onnx_ir.Value, like: onnx_ir.Value | None, tensor: _Tensor, perm: Perm
    ) -> _Statement:
        root = tensor.value
        name = like.name if like is not None else root.name and self._weights.fresh(root.name)
        shape = like.shape if like is not None else None
        if shape is None and root.shape is not None:
            shape = onnx_ir.Shape(
                [root.shape[axis] for axis in perm],
                [root.shape.get_denotation(axis) for axis in perm],
            )
        meta, properties = dict(root.meta), dict(root.metadata_props)
        if _ANNOTATION in meta:
            meta[_ANNOTATION] = _turned(meta[_ANNOTATION], perm)
        if like is not None and like is not root:
            notes = meta.get(_ANNOTATION, {}) | like.meta.get(_ANNOTATION, {})
            meta |= {**like.meta, **({_ANNOTATION: notes} if notes else {})}
            properties |= like.metadata_props
        doc_string = like.doc_string if like is not None else root.doc_string
        kind = (like.type if like is not None else None) or root.type
        return _Statement(value, name or "", kind, shape, doc_string, meta, properties)


@dataclass(frozen=True, eq=False)
class _Statement:
    """What the model shall say about a tensor."""

    value: onnx_ir.Value
    name: str
    type: onnx_ir.TypeProtocol | None
    shape: onnx_ir.Shape | None
    doc_string: str | None
    meta: dict[str, Any]
    properties: dict[str, str]

    def apply(self) -> None:
        """Says it. A node without a name goes by that of its output, so it is given one."""
        value, node = self.value, self.value.producer()
        if node is not None and value.name:
            node.name = node_label(node)
        value.name, value.type, value.shape = self.name, self.type, self.shape
        value.doc_string = self.doc_string
        for new, old in ((self.meta, value.meta), (self.properties, value.metadata_props)):
            old.clear()
            old.update(new)


def _turned(annotation: dict[str, str], perm: Perm) -> dict[str, str]:
    """A quantization annotation after a Transpose: QONNX keeps a letter for each axis there."""
    layout = annotation.get("tensor_layout", "").strip("[]").split(",")
    if len(layout) != len(perm):
        return annotation
    letters = ", ".join(layout[axis].strip() for axis in perm)
    return annotation | {"tensor_layout": f"[{letters}]"}
