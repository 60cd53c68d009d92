"""Takes channels out of the graph: of weights, of numbers per channel, of stated shapes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir

from graphopt.ir.constants import constant
from graphopt.ir.model import Model, node_label
from graphopt.verify.algebra import Claim, PrunedBias, PrunedWeight
from passes.channel_pruning.removal import Removal
from passes.channel_pruning.steps import Step
from passes.channel_pruning.weights import Weights
from passes.linear import Initializers, Linear

Array = npt.NDArray[Any]


def cut(model: Model, removal: Removal) -> tuple[Claim, ...]:
    """Edits the graph, each weight once.

    Returns:
        The claims about the new weights.
    """
    work = _Cut(model, removal, Initializers(model.graph, set(model.value_index())))
    linears = [
        (one, removal.rows(one), removal.columns(one), removal.added(one))
        for one in (group.producer for group in removal.groups)
    ]
    for group in removal.free:
        stays = ~removal.gone[group]
        if stays.all():
            continue
        for step in group.steps:
            work.step(step, stays)
        for value, place in group.tensors.items():
            work.tensor(value, place.axis, int(stays.sum()) * place.run)
    for one, rows, columns, added in linears:
        work.linear(one, rows, columns, np.where(rows, added, 0.0))
    return tuple(work.claims)


@dataclass(eq=False)
class _Cut:
    """The model under the knife."""

    model: Model
    removal: Removal
    initializers: Initializers
    claims: list[Claim] = field(default_factory=list)

    def linear(self, weights: Weights, rows: Array, columns: Array, added: Array) -> None:
        """Takes rows and columns out of a linear operator, and adds to its bias."""
        linear = weights.linear
        if rows.all() and columns.all():
            return
        if added.any() or (not rows.all() and _bias_name(linear) is not None):
            self._bias(weights, rows, added)
        kept = (columns, rows) if linear.transposed else (rows, columns)
        self._take(linear.node, 1, dict(enumerate(kept)))

    def _bias(self, weights: Weights, rows: Array, added: Array) -> None:
        linear = weights.linear
        new = (linear.bias.astype(np.float64) + added)[rows].astype(linear.weight.dtype)
        value = self.initializers.add(f"{linear.label}.bias", new)
        arriving = self.removal.arriving.get(linear.node, np.zeros(0))
        inputs = np.flatnonzero(arriving)
        self.claims.append(
            PrunedBias(
                new=value.name or "",
                old=_bias_name(linear),
                weight=linear.weight_name,
                rows=_indices(rows),
                inputs=tuple(int(i) for i in inputs),
                values=arriving[inputs],
                transposed=linear.transposed,
            )
        )
        place = _bias_place(linear)
        if place is not None:
            place[0].replace_input_with(place[1], value)
        elif linear.node.op_type == "MatMul":
            self._add_behind(linear.node, value)
        else:
            linear.node.resize_inputs(3)
            linear.node.replace_input_with(2, value)

    def _add_behind(self, node: onnx_ir.Node, bias: onnx_ir.Value) -> None:
        """A product without a bias gets an Add, which takes over the name of its output."""
        made = node.outputs[0]
        add = onnx_ir.node("Add", [made, bias], name=self.initializers.fresh(node_label(node)))
        after, name = add.outputs[0], made.name
        after.shape, after.type = made.shape, made.type
        made.replace_all_uses_with(after, replace_graph_outputs=True)
        add.replace_input_with(0, made)
        made.name = self.initializers.fresh(f"{name}.product")
        after.name = name
        self.model.graph.insert_after(node, add)

    def step(self, step: Step, stays: Array) -> None:
        """Takes channels out of a channel-wise operator."""
        entries = step.target.entries(stays)
        for index, axis in step.per_entry:
            self._take(step.node, index, {axis: entries})
        match step.node.op_type:
            case "Conv":
                step.node.attributes["group"] = onnx_ir.AttrInt64("group", int(entries.sum()))
            case "Reshape":
                self._reshape(step.node, int(entries.sum()))

    def tensor(self, value: onnx_ir.Value, axis: int, size: int) -> None:
        """Corrects the shape that the model states for a tensor, and gives it a new name: what has
        the same name in both models is expected to hold the same.
        """
        if value.shape is not None:
            value.shape = onnx_ir.Shape([*value.shape[:axis], size, *value.shape[axis + 1 :]])
        node = value.producer()
        if node is not None:
            node.name = node_label(node)  # reports go by the old name
        value.name = self.initializers.fresh(value.name or "pruned")

    def _reshape(self, node: onnx_ir.Node, entries: int) -> None:
        shape, value = constant(node.inputs[1]), node.inputs[1]
        assert shape is not None
        assert value is not None
        if shape[1] > 0:
            new = np.array([shape[0], entries], shape.dtype)
            node.replace_input_with(1, self.initializers.add(value.name or "shape", new))

    def _take(self, node: onnx_ir.Node, index: int, stays: dict[int, Array]) -> None:
        """Replaces a constant input by what stays of it along some axes."""
        value, old = node.inputs[index], constant(node.inputs[index])
        assert value is not None
        assert old is not None
        kept = tuple(
            _indices(stays[axis]) if axis in stays and not stays[axis].all() else None
            for axis in range(old.ndim)
        )
        new = old
        for axis, indices in enumerate(kept):
            new = new if indices is None else np.take(new, indices, axis)
        made = self.initializers.add(value.name or node_label(node), np.ascontiguousarray(new))
        node.replace_input_with(index, made)
        self.claims.append(PrunedWeight(made.name or "", value.name or "", kept))


def _bias_place(linear: Linear) -> tuple[onnx_ir.Node, int] | None:
    """The node and the input that hold the bias; None where there is none."""
    node = linear.nodes[-1]
    if linear.tail is not None:
        return node, next(i for i, v in enumerate(node.inputs) if constant(v) is not None)
    given = len(node.inputs) > 2 and node.inputs[2] is not None
    return (node, 2) if given else None


def _bias_name(linear: Linear) -> str | None:
    place = _bias_place(linear)
    value = place[0].inputs[place[1]] if place is not None else None
    return value.name if value is not None else None


def _indices(mask: Array) -> tuple[int, ...]:
    return tuple(int(index) for index in np.flatnonzero(mask))
