"""Sums in the graph whose terms are all linear maps of one tensor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir

from graphopt.ir.model import Model
from graphopt.ir.shapes import Dim, ShapeTable
from passes import linear_map
from passes.branch_fusion.window import Window, groups_of, window_of
from passes.linear import Linear
from passes.linear_map import LinearMap
from passes.refused import Refused

_FLOATS = frozenset(
    {
        onnx_ir.DataType.FLOAT,
        onnx_ir.DataType.FLOAT16,
        onnx_ir.DataType.BFLOAT16,
        onnx_ir.DataType.DOUBLE,
    }
)
MIXED = "mixed-sum"
"""Code of the refusal of a sum that adds something else as well."""


@dataclass(frozen=True, eq=False)
class Tree:
    """A sum: Add and Sum nodes that pass their results only on to each other, and what they add.

    Attributes:
        root: the node that makes the result.
        joins: all nodes, the root first.
        leaves: the terms, in order; one that is added twice stands here twice.
    """

    root: onnx_ir.Node
    joins: tuple[onnx_ir.Node, ...]
    leaves: tuple[onnx_ir.Value, ...]


@dataclass(frozen=True, eq=False)
class Branches:
    """A sum all of whose terms are linear maps of one tensor.

    Attributes:
        tree: the sum.
        fork: the tensor.
        nodes: all nodes between the fork and the result, the joins included.
        linears: those that multiply by weights.
        maps: what each term is of the fork.
        window: of the operator in their place.
        group: its number of groups.
        last: whether the channels are the last of three or more axes (MatMul).
    """

    tree: Tree
    fork: onnx_ir.Value
    nodes: tuple[onnx_ir.Node, ...]
    linears: tuple[Linear, ...]
    maps: tuple[LinearMap, ...]
    window: Window
    group: int
    last: bool

    @property
    def like(self) -> Linear:
        """The operator with the most weights, after which the new one is called."""
        return max(self.linears, key=lambda linear: linear.weight.size)

    @property
    def kinds(self) -> str:
        """What the branches are, for people."""
        return " + ".join(map(self._kind, self.maps))

    def _kind(self, one: LinearMap) -> str:
        if not one.nodes:
            return "identity"
        weighted = {linear.label for linear in self.linears}
        if one.is_pointwise and weighted.isdisjoint(one.nodes):
            return "scale"
        return "x".join(map(str, one.taps.shape[2:])) or "matrix"

    def facts(self, sizes: Sequence[Dim]) -> tuple[str, ...]:
        """What the proof relies on, given the sizes of the fork's spatial axes."""
        paths = "; ".join(", ".join(one.nodes) or "the tensor itself" for one in self.maps)
        found = [f"the branches are linear maps of '{self.fork.name}': {paths}"]
        if self.window.kernel:
            equal = len({one.slack for one in self.maps}) == 1
            where = "for every size" if equal else f"for the size {'x'.join(map(str, sizes))}"
            found.append(
                f"a {self.window} window from {list(self.window.start)} on reads all that they "
                f"read, and makes as many positions {where}"
            )
        return (*found, "nothing else reads the tensors in between")


@dataclass(frozen=True, eq=False)
class Sums:
    """Finds the sums of a model and reads them.

    Attributes:
        model: the model.
        shapes: by tensor name.
        data: names of the tensors that depend on the input.
    """

    model: Model
    shapes: ShapeTable
    data: frozenset[str]

    def is_root(self, node: onnx_ir.Node) -> bool:
        """Whether a node adds data up, and its result is no part of a larger sum."""
        return self._is_join(node) and self.inner(node.outputs[0]) is None

    def inner(self, value: onnx_ir.Value) -> onnx_ir.Node | None:
        """The join that makes `value`, where nothing but one other join reads it."""
        node, readers = value.producer(), value.consumers()
        if node is None or not self._is_join(node) or value.is_graph_output():
            return None
        return node if len(readers) == 1 and self._is_join(readers[0]) else None

    def _is_join(self, node: onnx_ir.Node) -> bool:
        adds = node.op_type in ("Add", "Sum") and node.domain in ("", "ai.onnx")
        read = [v for v in node.inputs if v is not None and v.name in self.data]
        return adds and len(read) > 1 and node.graph is self.model.graph

    def tree(self, root: onnx_ir.Node) -> Tree:
        """The sum that ends in `root`."""
        joins, leaves = [root], list[onnx_ir.Value]()
        waiting = [value for value in reversed(root.inputs) if value is not None]
        while waiting:
            value = waiting.pop()
            inner = self.inner(value)
            if inner is None:
                leaves.append(value)
            else:
                joins.append(inner)
                waiting += [value for value in reversed(inner.inputs) if value is not None]
        return Tree(root, tuple(dict.fromkeys(joins)), tuple(leaves))

    def read(self, tree: Tree) -> Branches | None:
        """The branches of a sum; None where it adds no linear maps of one tensor that have weights.

        Raises:
            Refused: it is one, or a part of it is, but a condition fails.
        """
        lines = [tuple(linear_map.lineage(leaf)) for leaf in tree.leaves]
        fork = next((v for v in lines[0] if all(v in line for line in lines)), None)
        if fork is None:
            _check_mixed(tree, lines)
            return None
        if all(leaf is fork for leaf in tree.leaves):
            return None
        info = self.shapes[fork.name or ""]
        between = (value.producer() for line in lines for value in line[: line.index(fork)])
        nodes = tuple(dict.fromkeys(node for node in (*between, *tree.joins) if node is not None))
        weighted = [node for node in nodes if node.op_type in ("Conv", "Gemm", "MatMul")]
        if not weighted:
            return None
        if info.dtype not in _FLOATS:
            kind = "of unknown type" if info.dtype is None else info.dtype.name.lower()
            raise Refused("weight-type", f"'{fork.name}' is {kind}: only floats can be summed up")
        _check_alone(nodes, tree.root)
        rank = len(info.shape or ())
        last = rank > 2 and any(node.op_type == "MatMul" for node in weighted)
        axis = rank - 1 if last else 1
        maps = tuple(linear_map.read(leaf, fork, self.shapes, axis) for leaf in tree.leaves)
        window = window_of(maps, () if last else (info.shape or ())[2:])
        group = groups_of(maps) if window.kernel else 1
        linears = tuple(self._linear(node) for node in weighted)
        return Branches(tree, fork, nodes, linears, maps, window, group, last)

    def _linear(self, node: onnx_ir.Node) -> Linear:
        return Linear.within(node, self.shapes)


def _check_mixed(tree: Tree, lines: Sequence[tuple[onnx_ir.Value, ...]]) -> None:
    """Refuses a sum with two different linear maps of one tensor among other terms."""
    distinct = dict(zip(tree.leaves, lines, strict=True))
    counts = Counter(value for line in distinct.values() for value in line)
    shared = next((value for value, count in counts.items() if count > 1), None)
    if shared is not None:
        other = next(leaf for leaf, line in distinct.items() if shared not in line)
        raise Refused(
            MIXED, f"it also adds '{other.name}', which is no linear map of '{shared.name}'"
        )


def _check_alone(nodes: Sequence[onnx_ir.Node], root: onnx_ir.Node) -> None:
    inside = set(nodes)
    for value in (value for node in nodes if node is not root for value in node.outputs):
        if value.is_graph_output() or not inside.issuperset(value.consumers()):
            raise Refused(
                "read-elsewhere", f"'{value.name}' inside the branches is read elsewhere too"
            )
