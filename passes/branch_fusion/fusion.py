"""Sums parallel linear branches of one tensor into one operator, exactly.

A convolution is linear in its kernel: `W1 * x + W2 * x = (W1 + W2) * x` once both kernels lie in
one window. That is how the blocks of ACNet (Ding et al. 2019, section 3.2), RepVGG (Ding et al.
2021, section 3.3), Diverse Branch Block (Ding et al. 2021, section 3.2) and MobileOne (Vasu et al.
2023) become plain convolutions: identities, norms, 1x1, 1x3, average pools and chains of them are
all kernels in a larger window. The sum is taken in float64 and rounded once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import onnx_ir

from graphopt.evidence import Cost, Region
from graphopt.ir.constants import constant
from graphopt.ir.layers import data_tensors
from graphopt.ir.model import Model, node_label
from graphopt.ir.shapes import Shapes
from graphopt.pipeline.passes import Context, PassResult
from graphopt.verify.algebra import Placed, Summed
from passes.branch_fusion import wider
from passes.branch_fusion.branches import MIXED, Branches, Sums
from passes.branch_fusion.window import grouped, summed
from passes.branch_fusion.work import When, Work
from passes.linear import Initializers, replace_output
from passes.refused import Refused

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class BranchFusion:
    """Turns sums of parallel linear branches into one linear operator each.

    Attributes:
        when: `worth` asks the cost model about each sum; `possible` fuses every one that can be.
        wider: also makes one convolution of those that read one tensor through the same window,
            with a Split behind it where no concatenation reads them in a row.
    """

    name: ClassVar[str] = Work.by
    preserves: ClassVar[frozenset[str]] = frozenset()

    when: When = "worth"
    wider: bool = False

    def run(self, model: Model, context: Context) -> PassResult:
        """Fuses from the input on: a fused sum may be a branch of a later one."""
        shapes = model.analyses.get(Shapes())
        initializers = Initializers(model.graph, set(model.value_index()))
        work = Work(model, context, self.when, shapes, initializers)
        sums = Sums(model, shapes, data_tensors(model))
        nodes = list(model.graph)
        for number, node in enumerate(nodes):
            if node.graph is not None and sums.is_root(node):
                context.progress(f"{self.name}: {node_label(node)}", number / len(nodes))
                _fuse(node, sums, work)
        fused = len(work.rewrites)
        if self.wider:
            wider.widen(work)
        return PassResult(
            bool(work.rewrites),
            tuple(work.rewrites),
            tuple(work.refusals),
            tuple(work.claims),
            {"fused": fused, "widened": len(work.rewrites) - fused, "left": len(work.refusals)},
        )


def _fuse(root: onnx_ir.Node, sums: Sums, work: Work) -> None:
    """Fuses a sum; where that cannot be, the smaller sums in it."""
    waiting, refused, fused = [root], list[tuple[Region, Refused]](), False
    while waiting:
        join = waiting.pop()
        try:
            found = sums.read(sums.tree(join))
            if found is not None:
                _apply(found, sums.data, work)
                fused = True
                continue
        except Refused as reason:
            refused.append((Region(node_label(join), (node_label(join),)), reason))
        inner = [sums.inner(value) for value in join.inputs if value is not None]
        waiting += dict.fromkeys(node for node in inner if node is not None)
    for region, why in refused:
        if not (fused and why.code == MIXED):  # a part of it was fused, so nothing is left to say
            work.refuse(region, why)


def _apply(found: Branches, data: frozenset[str], work: Work) -> None:
    """Puts the fused operator where the sum stood.

    Raises:
        Refused: it is not worth it, or its weights cannot be stored.
    """
    maps, window, group, root = found.maps, found.window, found.group, found.tree.root
    shift = np.sum([one.bias for one in maps], axis=0)
    before, after = _costs(found, data, work, bool(shift.any()))
    work.ask(f"one operator for {found.kinds}", before, after)
    total = summed(maps, window, group)
    _check_integers(found, total)
    weight, bias = (_rounded(array, found.like.weight.dtype) for array in (total, shift))
    labels = tuple(node_label(node) for node in found.nodes)
    regions = [Region(node_label(join), labels) for join in found.tree.joins]
    nodes, names = _build(found, weight, bias, work)
    for node in nodes[:-1]:
        work.model.graph.insert_before(root, node)
    replace_output(work.model, root, nodes[-1])
    work.model.graph.remove([node for node in found.nodes if node is not root], safe=True)
    new = Placed(weight, bias.astype(np.float64), window.start, window.dilations, group)
    terms = (
        Placed(grouped(one.taps, group), one.bias, one.start, one.dilations, group) for one in maps
    )
    work.claims.append(Summed(*names, new, tuple(terms), found.last))
    sizes = (work.shapes[found.fork.name or ""].shape or ())[2:]
    facts = found.facts(sizes)
    if not weight.all():
        facts += ("an infinite or NaN input may reach outputs that it did not reach before",)
    work.done(f"branches summed ({found.kinds})", regions, facts, before, after)


def _check_integers(found: Branches, total: Array) -> None:
    """Refuses to turn a network of integer weights into one of fractions."""
    weights = (one.weight.astype(np.float64) for one in found.linears)
    whole = all(np.array_equal(weight, np.rint(weight)) for weight in weights)
    if whole and not np.array_equal(total, np.rint(total)):
        raise Refused(
            "integer-weights",
            "all weights are integers, which the scales on the branches would spoil",
        )


def _rounded(array: Array, dtype: np.dtype[Any]) -> Array:
    with np.errstate(over="ignore"):
        stored: Array = array.astype(dtype)
    if not np.isfinite(stored.astype(np.float64)).all():
        raise Refused("overflow", f"the sum is too large for {dtype}, or no number")
    return stored


def _costs(found: Branches, data: frozenset[str], work: Work, shifted: bool) -> tuple[Cost, Cost]:
    """Of the branches, their norms and scales included, and of the operator in their place."""
    size = found.like.weight.dtype.itemsize
    read = dict.fromkeys(v for node in found.nodes for v in node.inputs if v is not None)
    arrays = [constant(value) for value in read if value.name not in data]
    held = sum(a.size for a in arrays if a is not None and a.dtype.kind in "fV")
    spent = sum(work.positions(one) * int(one.weight.size) for one in found.linears)
    rows, columns = found.maps[0].taps.shape[:2]
    weights = rows * columns // found.group * math.prod(found.window.kernel)
    elements = work.shapes[found.tree.root.outputs[0].name or ""].elements() or rows
    left = weights + rows * shifted
    return (
        Cost(held, held * size, spent),
        Cost(left, left * size, max(1, elements // rows) * weights),
    )


def _build(
    found: Branches, weight: Array, bias: Array, work: Work
) -> tuple[list[onnx_ir.Node], tuple[str, str]]:
    """The nodes of the fused operator, and the tensor names of its weight and bias."""
    like, window = found.like, found.window
    stored = np.ascontiguousarray(weight.T) if found.last else weight
    inputs = [found.fork, work.initializers.add(like.weight_name, stored)]
    shift: list[onnx_ir.Value] = []
    needed = not window.kernel and not found.last and work.model.opset < 11  # by Gemm
    if needed or bias.any():
        shift.append(work.initializers.add(f"{like.label}.bias", bias))
    names = (inputs[1].name or "", (shift[0].name if shift else None) or "")
    if found.last:
        node = onnx_ir.node("MatMul", inputs, name=like.node.name)
    elif window.kernel:
        attributes = window.attributes(found.group)
        node = onnx_ir.node("Conv", inputs + shift, attributes=attributes, name=like.node.name)
    else:
        node = onnx_ir.node("Gemm", inputs + shift, attributes={"transB": 1}, name=like.node.name)
    node.metadata_props.update(like.node.metadata_props)
    if not (found.last and shift):
        return [node], names
    node.outputs[0].name = work.initializers.fresh(f"{like.label}.product")
    tail = onnx_ir.node("Add", [node.outputs[0], *shift], name=found.tree.root.name)
    return [node, tail], names
