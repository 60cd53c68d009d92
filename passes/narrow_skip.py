"""Narrows kept skips: what waits in the FIFO of a skip should be codes of few bits.

A skip that stays is cheaper the fewer bits its words have on the way from the fork to the join. Two
rewrites make them fewer, both exact:

- **One quantizer for all.** Several readers of a tensor quantize it alike. Then one quantizer in
  front of the fork does, and fork and FIFO carry its codes.
- **The quantizer first.** On the way to the join a quantizer with one scale stands behind operators
  that only move elements, or keep the largest of some. It does the same to each element and never
  turns an order round, so it can go in front of them, and they work on codes.

On which stream of the remaining path the words then wait is no matter of the graph: it is the
minimum cut of `hwmodel.fifo.placement`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import onnx_ir

from graphopt.evidence import Exactness, Refusal, Region, Rewrite
from graphopt.ir.constants import constant
from graphopt.ir.model import Model, node_label
from graphopt.pipeline.passes import Context, PassResult
from passes.fifos import has_fifos, why_not
from passes.linear import Initializers, replace_output
from passes.skip_detection import Skips

_QUANTIZERS = frozenset({"Quant", "IntQuant", "BipolarQuant"})
_MOVES = frozenset(
    "Identity Reshape Flatten Squeeze Unsqueeze Transpose Slice MaxPool DepthToSpace "
    "SpaceToDepth".split()
)
"""What does the same to codes as to numbers: it moves elements, or keeps the largest of some."""


@dataclass(frozen=True)
class NarrowSkip:
    """Narrows the skips that were kept.

    Attributes:
        when: `worth` asks the cost model about each rewrite, which it estimates on the whole model;
            a target without FIFOs gains nothing. `possible` does every rewrite.
    """

    name: ClassVar[str] = "narrow-skip"
    preserves: ClassVar[frozenset[str]] = frozenset()

    when: Literal["worth", "possible"] = "worth"

    def run(self, model: Model, context: Context) -> PassResult:
        """Goes on until nothing more can be narrowed."""
        rewrites: list[Rewrite] = []
        refusals: dict[str, Refusal] = {}
        if self.when == "worth" and not (_found(model) and has_fifos(model, context)):
            return PassResult()
        while True:
            found = next((one for one in _found(model) if one.key not in refusals), None)
            if found is None:
                break
            reason = self._worth(model, found, context)
            if reason is not None:
                refusals[found.key] = Refusal(self.name, found.region, reason, "not-worth-it", True)
                continue
            rewrites.append(
                Rewrite(
                    self.name,
                    found.rule,
                    found.region,
                    Exactness.BIT_EXACT,
                    (found.fact,),
                )
            )
            found.apply(model)
            model.analyses.keep_only(())
        statistics = {"narrowed": len(rewrites), "left": len(refusals)}
        return PassResult(bool(rewrites), tuple(rewrites), tuple(refusals.values()), (), statistics)

    def _worth(self, model: Model, found: _Found, context: Context) -> str | None:
        """Why not; None where it pays."""
        if self.when == "possible":
            return None
        tried = model.clone()
        tried.tell_apart()
        again = next((one for one in _found(tried) if one.key == found.key), None)
        if again is None:
            return "it is not found again in a copy"
        again.apply(tried)
        tried.analyses.keep_only(())
        return why_not(model, tried, context)


@dataclass(frozen=True)
class _Found:
    """One rewrite: quantizers that become one, or one that goes in front of what it reads.

    Attributes:
        rule, fact: for the report.
        quantizers: labels of the quantizers.
        move: label of the operator that goes behind the quantizer; "" where readers share one.
    """

    rule: str
    fact: str
    quantizers: tuple[str, ...]
    move: str = ""

    @property
    def key(self) -> str:
        """What tells it apart."""
        return " ".join((*self.quantizers, self.move)).strip()

    @property
    def region(self) -> Region:
        """The quantizers, not the skip: that stays."""
        return Region(self.key, (*self.quantizers, *([self.move] if self.move else ())))

    def apply(self, model: Model) -> None:
        """Does it."""
        nodes = model.node_index()
        first, *others = (nodes[label] for label in self.quantizers)
        if self.move:
            _go_first(model, nodes[self.move], first)
            return
        for other in others:
            other.outputs[0].replace_all_uses_with(first.outputs[0], replace_graph_outputs=True)
            model.graph.remove(other, safe=True)


def _found(model: Model) -> list[_Found]:
    """All rewrites on skips, in their order."""
    values = model.value_index()
    place = {node: index for index, node in enumerate(model.graph)}
    found: list[_Found] = []
    for skip in model.analyses.get(Skips()):
        fork = values.get(skip.fork)
        if fork is None:
            continue
        alike: dict[object, list[onnx_ir.Node]] = {}
        for use in fork.uses():
            if _is_quantizer(use.node) and not use.node.outputs[0].is_graph_output():
                alike.setdefault(_parameters(use.node), []).append(use.node)
        for nodes in alike.values():
            nodes.sort(key=place.__getitem__)
            if len(nodes) > 1:
                fact = f"{len(nodes)} readers of '{skip.fork}' quantize it alike"
                labels = tuple(node_label(node) for node in nodes)
                found.append(_Found("one quantizer for all", fact, labels))
        for path in skip.paths:
            found += _first_on(skip.fork, values.get(path.tensor))
    return found


def _first_on(fork: str, end: onnx_ir.Value | None) -> list[_Found]:
    """Quantizers on the way from a fork to `end` that can go in front of what they read."""
    found: list[_Found] = []
    value, seen = end, 0
    while value is not None and value.name != fork and seen < 64:
        seen += 1
        node = value.producer()
        if node is None or not node.inputs:
            break
        source = node.inputs[0]
        move = source.producer() if source is not None else None
        if (
            move is not None
            and source is not None
            and source.name != fork
            and _is_quantizer(node)
            and _has_one_scale(node)
            and move.op_type in _MOVES
            and move.domain in ("", "ai.onnx")
            and len(source.uses()) == 1
            and not any(o.uses() or o.is_graph_output() for o in move.outputs[1:])
            and not source.is_graph_output()
        ):
            fact = f"{node_label(node)} treats all elements alike, and {move.op_type} moves them"
            labels = (node_label(node),)
            found.append(_Found("the quantizer first", fact, labels, node_label(move)))
        value = source
    return found


def _go_first(model: Model, move: onnx_ir.Node, quantizer: onnx_ir.Node) -> None:
    """quantizer(move(x)) becomes move(quantizer(x))."""
    source = move.inputs[0]
    assert source is not None
    initializers = Initializers(model.graph, set(model.value_index()))
    first = onnx_ir.Node(
        quantizer.domain,
        quantizer.op_type,
        [source, *quantizer.inputs[1:]],
        quantizer.attributes.values(),
        name=quantizer.name,
    )
    first.outputs[0].name = initializers.fresh(f"{source.name}.quantized")
    first.outputs[0].type = source.type
    model.graph.insert_before(move, first)
    second = onnx_ir.Node(
        move.domain,
        move.op_type,
        [first.outputs[0], *move.inputs[1:]],
        move.attributes.values(),
        name=move.name,
    )
    replace_output(model, quantizer, second)
    model.graph.remove(move, safe=True)


def _is_quantizer(node: onnx_ir.Node) -> bool:
    return node.op_type in _QUANTIZERS and all(
        constant(value) is not None for value in node.inputs[1:]
    )


def _has_one_scale(node: onnx_ir.Node) -> bool:
    """Whether every number that the quantizer has is one for all elements, whatever their rank; it
    rises, and 0 stays 0.
    """
    arrays = [constant(value) for value in node.inputs[1:]]
    plain = all(array is not None and array.size == 1 and array.ndim <= 1 for array in arrays)
    scale, zero = arrays[0], arrays[1] if len(arrays) > 1 else None
    rises = scale is not None and bool((scale > 0).all())
    return plain and rises and (zero is None or not zero.any())


def _parameters(node: onnx_ir.Node) -> object:
    """What makes two quantizers the same function."""
    arrays = [constant(value) for value in node.inputs[1:]]
    numbers = tuple(
        (array.shape, array.dtype.str, array.tobytes()) for array in arrays if array is not None
    )
    attributes = tuple(sorted((name, str(a.value)) for name, a in node.attributes.items()))
    return node.domain, node.op_type, numbers, attributes
