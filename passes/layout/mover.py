"""Movers: nodes that can work in another order of axes, and what that takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy.typing as npt
import onnx_ir

from passes.layout.orders import Perm
from passes.layout.weights import Weights

Array: TypeAlias = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Mover:
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
    adapt: Callable[[Perm, Weights], None]
    accepts: Callable[[Perm], bool] = lambda perm: True
    follows: bool = True
    sums: bool = False


def permuting(
    node: onnx_ir.Node, constants: dict[int, Array], axis: int | None = None
) -> Callable[[Perm, Weights], None]:
    """Permutes the constants of a node, and its attribute `axis` where it has one."""

    def adapt(perm: Perm, weights: Weights) -> None:
        for index, array in constants.items():
            value = node.inputs[index]
            assert value is not None
            node.replace_input_with(index, weights.permuted(value, array, perm))
        if axis is not None:
            node.attributes["axis"] = onnx_ir.AttrInt64("axis", perm.index(axis))

    return adapt


def axis_of(node: onnx_ir.Node, rank: int, default: int) -> int:
    """The attribute `axis` of a node, counted from the front."""
    axis = node.attributes.get_int("axis", default)
    return (default if axis is None else axis) % max(rank, 1)


def keeping_order(removed: set[int]) -> Callable[[Perm], bool]:
    """Accepts orders in which the axes that are not removed follow each other as before."""

    def accepts(perm: Perm) -> bool:
        left = [axis for axis in perm if axis not in removed]
        return left == sorted(left)

    return accepts
