"""Movers that name some axes: reductions, Slice, Squeeze, Pad."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir

from passes.layout.facts import Facts
from passes.layout.ints import Ints
from passes.layout.mover import Mover, keeping_order, permuting
from passes.layout.orders import Perm
from passes.layout.weights import Weights


def reduce(node: onnx_ir.Node, facts: Facts) -> Mover | None:
    """Its outputs are in its order only where it keeps the reduced axes."""
    value = node.inputs[0]
    rank, axes = facts.rank(value), Ints.read(node, "axes", 1, facts)
    if axes is None or value is None:
        return None
    keeps = bool(node.attributes.get_int("keepdims", 1))
    sums = node.op_type in ("ReduceMean", "ReduceSum") and not _is_integer(facts, value)
    if not axes.values:
        keeps |= bool(node.attributes.get_int("noop_with_empty_axes", 0))
        return Mover(node, rank, (0,), permuting(node, {}), follows=keeps, sums=sums)
    removed = set() if keeps else {axis % max(rank, 1) for axis in axes.values}
    accepts = (lambda perm: True) if keeps else keeping_order(removed)
    return Mover(node, rank, (0,), _moving(axes), accepts, follows=keeps, sums=sums)


def _is_integer(facts: Facts, value: onnx_ir.Value) -> bool:
    dtype = facts.shapes[value.name or ""].dtype
    return dtype is not None and dtype.is_integer()


def _moving(axes: Ints) -> Callable[[Perm, Weights], None]:
    """Gives the axes that a node names their new numbers."""

    def adapt(perm: Perm, weights: Weights) -> None:
        axes.write([perm.index(axis % len(perm)) for axis in axes.values or ()], weights)

    return adapt


def with_axes(node: onnx_ir.Node, facts: Facts) -> Mover | None:
    """A Slice of named axes or of the first ones, or a Squeeze of named axes."""
    rank = facts.rank(node.inputs[0])
    squeezes = node.op_type == "Squeeze"
    axes = Ints.read(node, "axes", 1 if squeezes else 3, facts)
    if axes is None or (squeezes and not axes.values):
        return None
    if squeezes:
        removed = {axis % max(rank, 1) for axis in axes.values or ()}
        return Mover(node, rank, (0,), _moving(axes), keeping_order(removed), follows=False)
    if axes.values is None:
        starts = node.attributes.get_ints("starts", ()) or ()
        dims = facts.dims(node.inputs[1]) if len(node.inputs) > 1 else (len(starts),)
        if dims is None or not isinstance(dims[0], int):
            return None
        axes = Ints(node, "axes", -1 if starts else 3, tuple(range(dims[0])))
    return Mover(node, rank, (0,), _moving(axes))


def pad(node: onnx_ir.Node, facts: Facts) -> Mover | None:
    """A Pad of named axes, or one that gives numbers for all of them."""
    rank = facts.rank(node.inputs[0])
    axes, pads = Ints.read(node, "axes", 3, facts), Ints.read(node, "pads", 1, facts)
    if axes is not None and axes.values is not None:
        return Mover(node, rank, (0,), _moving(axes))
    if axes is None or pads is None or pads.values is None or len(pads.values) != 2 * rank:
        return None
    known, values = pads, pads.values

    def adapt(perm: Perm, weights: Weights) -> None:
        known.write([values[axis + end] for end in (0, rank) for axis in perm], weights)

    return Mover(node, rank, (0,), adapt)
