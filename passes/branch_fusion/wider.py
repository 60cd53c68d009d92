"""Makes one wider convolution of parallel ones with the same window."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir

from graphopt.evidence import Cost, Region
from graphopt.ir.model import node_label
from graphopt.verify.algebra import Stacked
from passes.branch_fusion.window import Window
from passes.branch_fusion.work import Work
from passes.linear import Linear, NotLinear, replace_output
from passes.refused import Refused


def widen(work: Work) -> None:
    """Goes through the convolutions that read one tensor through the same window."""
    alike: dict[tuple[Any, ...], list[Linear]] = {}
    for node in work.model.graph:
        source = node.inputs[0] if node.op_type == "Conv" else None
        if source is None:
            continue
        try:
            one = Linear.read(node, work.shapes[source.name or ""].shape)
        except NotLinear:
            continue
        if one.group == 1:
            alike.setdefault((source, one.weight.dtype, Window.of(one)), []).append(one)
    for convs in alike.values():
        if len(convs) == 1:
            continue
        region = Region(convs[0].label, tuple(one.label for one in convs))
        try:
            _widen(convs, region, work)
        except Refused as reason:
            work.refuse(region, reason)


def _widen(convs: Sequence[Linear], region: Region, work: Work) -> None:
    """Replaces convolutions by one that has the outputs of all.

    Raises:
        Refused: it is not worth it.
    """
    first, model = convs[0], work.model
    pieces = list(_pieces(convs))
    order = [one for piece in pieces for one in piece]
    weight = np.concatenate([one.weight for one in order])
    bias = np.concatenate([one.bias for one in order])
    before, after = _costs(order, weight.size + bias.size * bool(bias.any()), work)
    work.ask(f"one convolution for {', '.join(region.nodes)}", before, after)
    inputs = [first.source, work.initializers.add(first.weight_name, weight)]
    names = tuple(one.weight_name for one in order)
    old = tuple(one.weight for one in order)
    work.claims.append(Stacked(inputs[1].name or "", names, weight, old))
    if bias.any():
        inputs.append(work.initializers.add(f"{first.label}.bias", bias))
        names = tuple(_bias_name(one) for one in order)
        old = tuple(one.bias for one in order)
        work.claims.append(Stacked(inputs[2].name or "", names, bias, old))
    attributes = Window.of(first).attributes(1)
    conv = onnx_ir.node("Conv", inputs, attributes=attributes, name=first.node.name)
    conv.metadata_props.update(first.node.metadata_props)
    conv.outputs[0].name = work.initializers.fresh(f"{first.label}.wide")
    model.graph.insert_before(first.node, conv)
    made = [conv.outputs[0]]
    if len(pieces) > 1:
        made = _split(conv, [sum(one.outputs for one in piece) for piece in pieces], work)
    gone = [
        label
        for piece, value in zip(pieces, made, strict=True)
        if (label := _hand_over(piece, value, work)) is not None
    ]
    facts = (f"{', '.join(region.nodes)} read '{first.source.name}' through one window",)
    model.graph.remove([one.node for one in convs], safe=True)
    regions = [Region(label, region.nodes) for label in gone] or [region]
    work.done("one wider convolution", regions, facts, before, after)


def _costs(convs: Sequence[Linear], left: int, work: Work) -> tuple[Cost, Cost]:
    weights, size = sum(int(one.weight.size) for one in convs), convs[0].weight.dtype.itemsize
    held = weights + sum(one.outputs for one in convs if _bias_name(one))
    spent = work.positions(convs[0]) * weights
    return Cost(held, held * size, spent), Cost(left, left * size, spent)


def _bias_name(conv: Linear) -> str:
    """Tensor name of the bias; "" where there is none."""
    value = conv.node.inputs[2] if len(conv.node.inputs) > 2 else None
    return (value.name if value is not None else None) or ""


def _split(conv: onnx_ir.Node, sizes: list[int], work: Work) -> list[onnx_ir.Value]:
    """Puts a Split over the channels behind the convolution."""
    source, name = conv.outputs[0], work.initializers.fresh(f"{node_label(conv)}.split")
    inputs, attributes = [source], dict[str, Any](axis=1)
    if work.model.opset < 13:
        attributes["split"] = sizes
    else:
        inputs.append(work.initializers.add(name, np.array(sizes, np.int64)))
    split = onnx_ir.node("Split", inputs, attributes=attributes, num_outputs=len(sizes), name=name)
    for value in split.outputs:
        value.name = work.initializers.fresh(name)
    work.model.graph.insert_after(conv, split)
    return list(split.outputs)


def _pieces(convs: Sequence[Linear]) -> Iterator[tuple[Linear, ...]]:
    """The convolutions in the order of their channels; in one piece those that a concatenation
    reads in a row and nothing else reads.
    """
    waiting = {one.result: one for one in convs}
    while waiting:
        row = _row(next(iter(waiting)), waiting)
        yield tuple(waiting.pop(value) for value in row)


def _row(value: onnx_ir.Value, alike: Mapping[onnx_ir.Value, Linear]) -> tuple[onnx_ir.Value, ...]:
    axis = -1 - len(alike[value].kernel)
    concat = _concat(value, axis)
    if concat is None:
        return (value,)
    read = [v if v and v in alike and _concat(v, axis) is concat else None for v in concat.inputs]
    begin = end = read.index(value)
    while begin > 0 and read[begin - 1] is not None:
        begin -= 1
    while end < len(read) and read[end] is not None:
        end += 1
    return tuple(v for v in read[begin:end] if v is not None)


def _concat(value: onnx_ir.Value, axis: int) -> onnx_ir.Node | None:
    """The concatenation over the channels that alone reads the output of a convolution, once.

    Args:
        value: the output.
        axis: of its channels, counted from the last one.
    """
    if len(value.uses()) != 1 or value.is_graph_output():
        return None
    (node,), conv = value.consumers(), value.producer()
    if node.op_type != "Concat" or node.domain not in ("", "ai.onnx"):
        return None
    here = conv is not None and node.graph is conv.graph
    return node if here and node.attributes.get_int("axis", 1) in (1, axis) else None


def _hand_over(piece: Sequence[Linear], value: onnx_ir.Value, work: Work) -> str | None:
    """Gives `value` the readers of the convolutions in a piece.

    Returns:
        The label of the concatenation that had nothing else to join, and is gone.
    """
    old = piece[0].result
    if len(piece) == 1:
        _take_over(old, value)
        return None
    concat = old.consumers()[0]
    place = concat.inputs.index(old)
    others = (concat.inputs[:place], concat.inputs[place + len(piece) :])
    if not any(others):
        label = node_label(concat)
        _take_over(concat.outputs[0], value)
        work.model.graph.remove(concat, safe=True)
        return label
    fewer = onnx_ir.Node(
        "", "Concat", [*others[0], value, *others[1]], concat.attributes.values(), name=concat.name
    )
    replace_output(work.model, concat, fewer)
    return None


def _take_over(old: onnx_ir.Value, new: onnx_ir.Value) -> None:
    """`new` gets the readers, the name, the shape and the metadata of `old`."""
    name, new.shape, new.type = old.name, old.shape, old.type
    new.meta.update(old.meta)
    new.metadata_props.update(old.metadata_props)
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    old.name, new.name = None, name
