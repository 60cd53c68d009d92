"""Movers that compute element by element: only constants that they broadcast have to turn."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias

import numpy.typing as npt
import onnx_ir

from passes.layout.facts import Facts
from passes.layout.mover import Mover, axis_of, permuting

Array: TypeAlias = npt.NDArray[Any]


def elementwise(node: onnx_ir.Node, facts: Facts) -> Mover | None:
    """An operator in `ELEMENTWISE`, a Dropout only where it does nothing."""
    if node.op_type == "Dropout" and len(node.inputs) > 2 and node.inputs[2] is not None:
        training = facts.array(node.inputs[2])
        if training is None or training.any():
            return None
    rank = max((facts.rank(value) for value in node.inputs), default=0)
    operands = _operands(node, facts, range(len(node.inputs)), rank)
    if operands is None:
        return None
    data, constants = operands
    return Mover(node, rank, data, permuting(node, constants))


def _operands(
    node: onnx_ir.Node, facts: Facts, indices: Iterable[int], rank: int
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


def quantizer(node: onnx_ir.Node, facts: Facts) -> Mover | None:
    """A quantizer with one scale, or with one per entry of an axis, but not per block."""
    scale, rank = node.inputs[1], facts.rank(node.inputs[0])
    operands = _operands(node, facts, [0], rank)
    blocks = node.attributes.get_int("block_size", 0)
    if scale is None or operands is None or blocks:
        return None
    data, constants = operands
    if facts.is_single(scale):
        return Mover(node, rank, data, permuting(node, constants))
    if facts.rank(scale) != 1:
        return None
    return Mover(node, rank, data, permuting(node, constants, axis_of(node, rank, 1)))
