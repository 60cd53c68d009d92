"""Puts a plan into the graph: widened operators, activations and gates, node by node."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir

from graphopt.ir.model import Model, node_label
from graphopt.ir.shapes import ShapeTable, TensorInfo
from graphopt.verify.algebra import Block, Claim, WidenedWeight
from passes.activations import Call, Function
from passes.activations.function import NEUTRAL
from passes.linear import Built, Initializers, Linear, NewLinear
from passes.reserve_merge.branch import Stage
from passes.reserve_merge.carriers import Carriage
from passes.reserve_merge.gates import Gate, widened_shape
from passes.reserve_merge.rule import Plan
from passes.reserve_merge.widen import Layout, Widened

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Builder:
    """Builds nodes in front of one node of a graph.

    Attributes:
        model: takes the nodes.
        before: the node that they are put before.
        shapes: of the tensors that were there.
        fresh: takes the shapes of the tensors that are made, by name.
        initializers: takes the weights.
    """

    model: Model
    before: onnx_ir.Node
    shapes: ShapeTable
    fresh: dict[str, TensorInfo]
    initializers: Initializers

    def block(
        self, stages: Sequence[Stage], plan: Plan, fork: onnx_ir.Value
    ) -> tuple[onnx_ir.Value, list[Claim]]:
        """The stages of a block as planned.

        Returns:
            The tensor that comes out, and what is claimed of the new weights.
        """
        claims: list[Claim] = []
        here = fork
        for stage, planned in zip(stages, plan.stages, strict=True):
            here = self._linear(stage.linear, planned.widened, here, claims)
            layout = planned.widened.layout
            for one, carriage in zip(stage.through, planned.through, strict=True):
                if isinstance(one, Gate):
                    here = self._gate(one, here, layout, claims)
                else:
                    here = self._function(one, here, layout, carriage, stage.linear.weight.dtype)
        return here, claims

    # --- linear operators ------------------------------------------------------------------------

    def _linear(
        self, old: Linear, widened: Widened, source: onnx_ir.Value, claims: list[Claim]
    ) -> onnx_ir.Value:
        name = self.initializers.fresh(f"{old.result.name}.reserved")
        built = widened.linear.build(source, name, self.initializers)
        claims.append(_claim(built, old, widened.linear, widened.blocks))
        for node in built.nodes:
            self.insert(node, old.result, widened.layout.total, _axis(old, self.shapes))
        return built.result

    def insert(
        self, node: onnx_ir.Node, like: onnx_ir.Value, channels: int, axis: int = 1
    ) -> onnx_ir.Value:
        """Puts a node into the graph; its output has the shape of `like`, but for the channels."""
        result = node.outputs[0]
        if result.name is None:
            result.name = self.initializers.fresh(f"{like.name}.reserved")
        self.model.graph.insert_before(self.before, node)
        info = self.shapes[like.name or ""]
        if info.shape is not None:
            shape = (*info.shape[:axis], channels, *info.shape[axis + 1 :])
            info = TensorInfo(info.dtype, shape)
        self.fresh[result.name] = info
        return result

    # --- activations -----------------------------------------------------------------------------

    def _function(
        self,
        function: Function,
        source: onnx_ir.Value,
        layout: Layout,
        carriage: Carriage | None,
        dtype: npt.DTypeLike,
    ) -> onnx_ir.Value:
        if carriage is not None and carriage.form == "pass-through":
            return self._around(function, source, layout, dtype)
        form = carriage.form if carriage is not None else "same"
        site = _Site(self, function, layout, dtype)
        values = [source]
        for call in function.calls:
            arguments = [values[o] if isinstance(o, int) else None for o in call.operands]
            replaced = form if not call.is_per_channel else "same"
            if call.operator == "Identity" and arguments[0] is not None:
                values.append(arguments[0])
            elif replaced == "prelu" and call.operator in ("Relu", "LeakyRelu"):
                values.append(site.prelu(call, arguments[0]))
            elif replaced == "max-min" and call.operator == "Clip":
                values.append(site.max_min(call, arguments[0]))
            else:
                values.append(site.same(call, arguments))
        return values[-1]

    def _around(
        self, function: Function, source: onnx_ir.Value, layout: Layout, dtype: npt.DTypeLike
    ) -> onnx_ir.Value:
        """The activation on the old channels, joined with the others in the layout's order."""
        count, axis = len(layout.old), function.channels.axis
        others = np.setdiff1d(np.arange(layout.total), layout.old)
        old = self._taken(function, source, layout.old, "old")
        kept = self._taken(function, source, others, "kept")
        acted = self._function(function, old, Layout.appended(count, 0), None, dtype)
        join = onnx_ir.node(
            "Concat", [acted, kept], attributes={"axis": axis},
            name=self.initializers.fresh(f"{function.label}.concat"),
        )  # fmt: skip
        whole = self.insert(join, function.result, layout.total, axis)
        order = np.argsort(np.concatenate([layout.old, others]))
        if np.array_equal(order, np.arange(layout.total)):
            return whole
        return self._taken(function, whole, order, "order")

    def _taken(
        self, function: Function, value: onnx_ir.Value, places: Array, stem: str
    ) -> onnx_ir.Value:
        """Some channels of a tensor, in the order of `places`."""
        at = self.initializers.add(f"{function.label}.{stem}", places.astype(np.int64))
        node = onnx_ir.node(
            "Gather", [value, at], attributes={"axis": function.channels.axis},
            name=self.initializers.fresh(f"{function.label}.gather"),
        )  # fmt: skip
        return self.insert(node, function.source, len(places), function.channels.axis)

    # --- gates -----------------------------------------------------------------------------------

    def _gate(
        self, gate: Gate, source: onnx_ir.Value, layout: Layout, claims: list[Claim]
    ) -> onnx_ir.Value:
        """Zero columns in the first layer, zero rows and an opening bias in the last one."""
        first, last = gate.layers[0], gate.layers[-1]
        here, width = source, len(layout.old)
        inner: Layout | None = None  # of the tensors between the layers; `layout` outside of them
        for item in gate.items:
            if isinstance(item, Linear):
                here = self._gate_layer(item, here, gate, layout, claims)
                inner = None if item is last else Layout.appended(item.outputs, 0)
            elif isinstance(item, Function):
                here = self._function(item, here, inner or layout, None, first.weight.dtype)
            else:
                here = self._reshaped(item, here, width, (inner or layout).total)
        product = onnx_ir.node("Mul", [source, here], name=gate.product.name)
        return self.insert(product, gate.result, layout.total)

    def _gate_layer(
        self,
        linear: Linear,
        source: onnx_ir.Value,
        gate: Gate,
        layout: Layout,
        claims: list[Claim],
    ) -> onnx_ir.Value:
        weight, bias = linear.weight.astype(np.float64), linear.bias.astype(np.float64)
        blocks: list[Block] = []
        if linear is gate.layers[0]:
            weight, blocks = _more_columns(weight, layout)
        elif linear is gate.layers[-1]:
            weight, bias, blocks = _more_rows(weight, bias, layout, gate.bias)
        new = NewLinear(linear, weight, bias)
        built = new.build(
            source, self.initializers.fresh(f"{linear.result.name}.reserved"), self.initializers
        )
        if blocks:
            claims.append(_claim(built, linear, new, tuple(blocks)))
        for node in built.nodes:
            self.insert(node, linear.result, len(weight))
        return built.result

    def _reshaped(
        self, node: onnx_ir.Node, source: onnx_ir.Value, old: int, channels: int
    ) -> onnx_ir.Value:
        others = list(node.inputs[1:])
        shape = widened_shape(node, old, channels)
        if shape is not None:
            others[0] = self.initializers.add(f"{node_label(node)}.shape", shape)
        copy = onnx_ir.Node(
            node.domain, node.op_type, [source, *others], node.attributes.values(), name=node.name
        )
        return self.insert(copy, node.outputs[0], channels)


@dataclass(frozen=True, eq=False)
class _Site:
    """An activation on widened channels."""

    builder: Builder
    function: Function
    layout: Layout
    dtype: npt.DTypeLike

    def same(self, call: Call, arguments: Sequence[onnx_ir.Value | None]) -> onnx_ir.Value:
        """The same operator; constants per channel are neutral on the channels that are not old."""
        inputs = list(arguments)
        folded = call.node.op_type != call.operator
        for index, operand in enumerate(call.operands):
            if isinstance(operand, int):
                continue
            if call.is_per_channel:
                inputs[index] = self._constant(call, operand, NEUTRAL[call.operator])
            elif folded:
                stem = f"{node_label(call.node)}.{call.operator.lower()}"
                inputs[index] = self.builder.initializers.add(stem, operand.astype(self.dtype))
            elif index < len(call.node.inputs):
                inputs[index] = call.node.inputs[index]
        attributes = () if folded else call.node.attributes.values()
        while inputs and inputs[-1] is None:
            inputs.pop()
        return self._node(call, call.operator, inputs, attributes)

    def prelu(self, call: Call, source: onnx_ir.Value | None) -> onnx_ir.Value:
        """A ReLU or LeakyReLU as a PRelu with slope 1 on the channels that are not old."""
        slope = call.parameters.get("alpha", 0.01) if call.operator == "LeakyRelu" else 0.0
        slopes = self._constant(call, np.full(1, slope), 1.0)
        return self._node(call, "PRelu", [source, slopes])

    def max_min(self, call: Call, source: onnx_ir.Value | None) -> onnx_ir.Value:
        """A Clip as Max and Min with infinite bounds on the channels that are not old."""
        low, high = (o for o in call.operands[1:] if not isinstance(o, int))
        lows, highs = self._constant(call, low, -np.inf), self._constant(call, high, np.inf)
        return self._node(call, "Min", [self._node(call, "Max", [source, lows]), highs])

    def _constant(self, call: Call, old: Array, neutral: float) -> onnx_ir.Value:
        values = np.full(self.layout.total, neutral)
        values[self.layout.old] = old
        shaped = self.function.channels.shaped(values).astype(self.dtype)
        stem = f"{node_label(call.node)}.{call.operator.lower()}"
        return self.builder.initializers.add(stem, np.ascontiguousarray(shaped))

    def _node(
        self,
        call: Call,
        operator: str,
        inputs: Sequence[onnx_ir.Value | None],
        attributes: Any = (),
    ) -> onnx_ir.Value:
        name = call.node.name
        if operator != call.node.op_type:
            name = self.builder.initializers.fresh(f"{node_label(call.node)}.{operator.lower()}")
        domain = call.node.domain if operator == call.node.op_type else ""
        node = onnx_ir.Node(domain, operator, inputs, attributes, name=name)
        like, axis = call.node.outputs[0], self.function.channels.axis
        return self.builder.insert(node, like, self.layout.total, axis)


def _axis(linear: Linear, shapes: ShapeTable) -> int:
    shape = shapes[linear.result.name or ""].shape
    return len(shape) - 1 if linear.node.op_type == "MatMul" and shape is not None else 1


def _claim(built: Built, old: Linear, new: NewLinear, blocks: tuple[Block, ...]) -> WidenedWeight:
    return WidenedWeight(
        new=built.weight,
        old=old.weight_name,
        new_value=new.weight.astype(old.weight.dtype),
        old_value=old.weight,
        blocks=blocks,
        transposed=old.transposed,
    )


def _more_columns(weight: Array, layout: Layout) -> tuple[Array, list[Block]]:
    rows = tuple(range(len(weight)))
    wide = np.zeros((len(weight), layout.total, *weight.shape[2:]))
    wide[:, layout.old] = weight
    others = tuple(map(int, np.setdiff1d(np.arange(layout.total), layout.old)))
    old = tuple(map(int, layout.old))
    return wide, [
        Block(rows, old, "old", rows, tuple(range(len(old)))),
        Block(rows, others, "zero"),
    ]


def _more_rows(
    weight: Array, bias: Array, layout: Layout, opening: float
) -> tuple[Array, Array, list[Block]]:
    wide = np.zeros((layout.total, *weight.shape[1:]))
    shifts = np.full(layout.total, opening)
    wide[layout.old], shifts[layout.old] = weight, bias
    others = tuple(map(int, np.setdiff1d(np.arange(layout.total), layout.old)))
    old, columns = tuple(map(int, layout.old)), tuple(range(weight.shape[1]))
    blocks = [
        Block(old, columns, "old", tuple(range(len(old))), columns),
        Block(others, columns, "zero"),
    ]
    return wide, shifts, blocks
