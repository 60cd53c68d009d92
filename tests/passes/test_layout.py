"""Transposes sink and cancel, and not a bit changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto
from onnx import helper as oh

from graphopt.evidence import Exactness
from graphopt.ir import Model, Shapes, node_label
from graphopt.optimizer import optimize
from graphopt.pipeline import Context, PassResult
from passes.cleanup import DeadCode
from passes.layout import SinkTransposes
from tests.support.blocks import Net
from tests.support.check import RM, removed
from tests.support.models import plain_model

TO_FIRST, TO_LAST = (0, 3, 1, 2), (0, 2, 3, 1)
SHAPE = (2, 3, 4, 5)


def sunk(proto: onnx.ModelProto, *, runs: bool = True) -> tuple[Model, PassResult]:
    """Runs the pass, and checks what holds for every model."""
    before = Model.load(proto)
    model = before.clone()
    result = SinkTransposes().run(model, Context())
    after = model.to_proto()
    assert count(model) <= count(before)
    assert result.changed == bool(result.rewrites)
    model.analyses.keep_only(frozenset())
    again = model.clone()
    assert not SinkTransposes().run(again, Context()).changed
    other = before.clone()
    SinkTransposes().run(other, Context())
    assert other.to_proto().SerializeToString() == after.SerializeToString()
    assert [v.name for v in model.graph.outputs] == [v.name for v in before.graph.outputs]
    if runs:
        onnx.checker.check_model(after, full_check=True)
        same(before.to_proto(), after)
    return model, result


def count(model: Model, operator: str = "Transpose") -> int:
    return sum(node.op_type == operator for node in model.graph)


def session(proto: onnx.ModelProto) -> ort.InferenceSession:
    """Runs what is written: what ONNX Runtime fuses would depend on where a Transpose stands."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return ort.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def same(before: onnx.ModelProto, after: onnx.ModelProto, *, whole: bool = True) -> None:
    """The two give the same bits, types and shapes, on whole numbers or on any."""
    one, other = session(before), session(after)
    rng = np.random.default_rng(7)
    feeds = {}
    for value in one.get_inputs():
        shape = [size if isinstance(size, int) else 2 for size in value.shape]
        drawn = rng.integers(-9, 9, shape) if whole else rng.standard_normal(shape) * 3
        kind = {"tensor(float)": np.float32, "tensor(bool)": np.bool_}
        feeds[value.name] = drawn.astype(kind[value.type])
    for old, new in zip(one.run(None, feeds), other.run(None, feeds), strict=True):
        assert old.dtype == new.dtype
        assert np.array_equal(old, new)


# One operator at a time ---------------------------------------------------------------------

Build = Callable[[Net, str], str]


def _ints(net: Net, *values: int) -> str:
    return net.const(values, np.int64)


def _normal(net: Net, *shape: int) -> str:
    return net.const(net.rng.integers(1, 9, shape))


UNARY = (
    "Abs Ceil Elu Exp Floor HardSigmoid Identity LeakyRelu Neg Relu Selu Sigmoid Sign Softplus "
    "Softsign Tanh ThresholdedRelu"
).split()

SAME_AXES: dict[str, Build] = {
    **{kind: lambda net, x, kind=kind: net.op(kind, x) for kind in UNARY},
    **{
        f"{kind} with a constant of {rank} axes": lambda net, x, kind=kind, rank=rank: net.op(
            kind, x, _normal(net, *sizes(net, x)[4 - rank :])
        )
        for kind in ("Add", "Sub", "Mul", "Div", "Max", "PRelu")
        for rank in (0, 1, 2, 3, 4)
    },
    "constant first": lambda net, x: net.op("Sub", _normal(net, sizes(net, x)[3]), x),
    "constant of one axis": lambda net, x: net.op("Mul", x, _normal(net, sizes(net, x)[1], 1, 1)),
    "two of one": lambda net, x: net.op("Add", net.op("Relu", x), net.op("Neg", x)),
    "Sum of three": lambda net, x: net.op("Sum", x, net.op("Neg", x), _normal(net, 1, 1)),
    "Pow": lambda net, x: net.op("Pow", net.op("Abs", x), net.const(2.0)),
    "Clip": lambda net, x: net.op("Clip", x, net.const(-1.0), net.const(6.0)),
    "Where": lambda net, x: net.op("Where", net.op("Less", x, net.const(0.0)), x, net.const(1.0)),
    "Cast": lambda net, x: net.op("Cast", net.op("Cast", x, to=TensorProto.INT32), to=1),
    "Dropout": lambda net, x: net.op("Dropout", x),
    "quantizers": lambda net, x: quantized(net, x, None),
    "quantizers per axis": lambda net, x: quantized(net, x, 1),
    "quantizers per last axis": lambda net, x: quantized(net, x, -1),
    "Concat": lambda net, x: net.op("Concat", x, net.op("Neg", x), axis=1),
    "Concat with a constant": lambda net, x: net.op(
        "Concat", x, _normal(net, *sizes(net, x)), axis=-1
    ),
    "Split": lambda net, x: net.op(
        "Concat", *reversed(net.op("Split", x, _ints(net, 1, -1 + sizes(net, x)[2]), axis=2,
                                   outputs=2)), axis=2,
    ),
    "Slice": lambda net, x: net.op(
        "Slice", x, _ints(net, 1, 0), _ints(net, 9, -1), _ints(net, -1, 1), _ints(net, 2, 1)
    ),
    "Slice without axes": lambda net, x: net.op("Slice", x, _ints(net, 0, 1), _ints(net, 9, 9)),
    "Pad": lambda net, x: net.op("Pad", x, _ints(net, 0, 1, 2, 3, 0, 0, 1, 2), net.const(0.5)),
    "Pad by reflection": lambda net, x: net.op(
        "Pad", x, _ints(net, 0, 1, 0, 1, 1, 0, 0, 1), mode="reflect"
    ),
    "ReduceMean": lambda net, x: net.op("ReduceMean", x, axes=[1, -1], keepdims=1),
    "ReduceMax": lambda net, x: net.op("ReduceMax", x, axes=[1, -1], keepdims=1),
    "ReduceSum": lambda net, x: net.op("ReduceSum", x, _ints(net, 2), keepdims=1),
    "ReduceSum of all": lambda net, x: net.op("ReduceSum", x, keepdims=1),
    "ReduceSum of nothing": lambda net, x: net.op("ReduceSum", x, noop_with_empty_axes=1),
    "Softmax": lambda net, x: net.op("Softmax", x, axis=1),
    "LogSoftmax": lambda net, x: net.op("LogSoftmax", x),
    "Gather": lambda net, x: net.op("Gather", x, _ints(net, 1, 0, 1), axis=2),
    "gate": lambda net, x: net.op(
        "Mul", x, net.op("Sigmoid", net.op("ReduceMax", x, axes=[1, 2], keepdims=1))
    ),
}  # fmt: skip


def sizes(net: Net, x: str) -> tuple[int, ...]:
    """The sizes of the tensor under test, which is always SHAPE transposed."""
    perm = next(node.attribute[0].ints for node in net.nodes if node.op_type == "Transpose")
    return tuple(SHAPE[axis] for axis in perm)


def quantized(net: Net, x: str, axis: int | None) -> str:
    """To 8 bits and back; `axis` None: one scale for all."""
    if axis is None:
        scale, zero, rest = net.const(0.5), net.const(3, np.uint8), {}
    else:
        size = sizes(net, x)[axis]
        scale = net.const(net.rng.uniform(0.2, 1, size))
        zero, rest = net.const(net.rng.integers(0, 9, size), np.uint8), {"axis": axis}
    return net.op(
        "DequantizeLinear", net.op("QuantizeLinear", x, scale, zero, **rest), scale, zero, **rest
    )


@pytest.mark.parametrize("perm", [TO_FIRST, TO_LAST, (3, 2, 1, 0), (1, 0, 2, 3)])
@pytest.mark.parametrize("kind", SAME_AXES)
def test_transposes_around_an_operator_vanish(kind: str, perm: tuple[int, ...]) -> None:
    net = Net()
    x = net.op("Transpose", "x", perm=perm)
    y = SAME_AXES[kind](net, x)
    back = [perm.index(axis) for axis in range(4)]
    proto = net.model(net.op("Transpose", y, perm=back), SHAPE)
    model, _ = sunk(proto)
    assert count(model) == 0
    same(proto, model.to_proto(), whole="Reduce" in kind)


OTHER_AXES: dict[str, Build] = {
    "ReduceMean": lambda net, x: net.op("ReduceMean", x, axes=[2, 3], keepdims=0),
    "ReduceMax": lambda net, x: net.op("ReduceMax", x, axes=[-1, 2], keepdims=0),
    "ReduceSum": lambda net, x: net.op("ReduceSum", x, _ints(net, 2, 3), keepdims=0),
    "ReduceSum of all": lambda net, x: net.op("ReduceSum", x, keepdims=0),
    "Gather": lambda net, x: net.op("Gather", x, net.const(1, np.int64), axis=1),
    "Shape": lambda net, x: net.op("Cast", net.op("Shape", x), to=1),
}


@pytest.mark.parametrize("kind", OTHER_AXES)
def test_transpose_before_an_operator_that_drops_axes_vanishes(kind: str) -> None:
    net = Net()
    y = OTHER_AXES[kind](net, net.op("Transpose", "x", perm=TO_FIRST))
    model, _ = sunk(net.model(y, SHAPE))
    assert count(model) == 0


ONE_BY_ONE: dict[str, Build] = {
    "Reshape": lambda net, x: net.op("Reshape", x, _ints(net, -1, 5)),
    "Reshape of rows": lambda net, x: net.op("Reshape", x, _ints(net, 0, -1)),
    "Flatten": lambda net, x: net.op("Flatten", x),
    "Squeeze": lambda net, x: net.op("Squeeze", x, _ints(net, 1, 2)),
}


@pytest.mark.parametrize("batch", [2, "N"])
@pytest.mark.parametrize("kind", ONE_BY_ONE)
def test_transpose_of_one_position_is_no_transpose(kind: str, batch: int | str) -> None:
    net = Net()
    pooled = net.op("GlobalAveragePool", "x")
    y = ONE_BY_ONE[kind](net, net.op("Transpose", pooled, perm=TO_LAST))
    model, _ = sunk(net.model(y, (batch, 5, 3, 4)))
    assert count(model) == 0


@pytest.mark.parametrize(
    "build",
    [
        lambda net, x: net.op("Reshape", x, _ints(net, 2, -1)),
        lambda net, x: net.op("Flatten", x),
        lambda net, x: net.op("Flatten", x, axis=3),
        lambda net, x: net.op("ReduceMax", x, axes=[0], keepdims=0),
        lambda net, x: net.op("Gather", x, net.const(1, np.int64), axis=0),
        lambda net, x: net.op("Dropout", x, net.const(0.0), net.const(True, np.bool_)),
        lambda net, x: net.op("MatMul", x, _normal(net, 4, 2)),
        lambda net, x: net.op("Add", x, net.op("Transpose", x, perm=(0, 1, 3, 2))),
        lambda net, x: net.norm(x, 5),
    ],
)
def test_transpose_before_anything_else_stays(build: Build) -> None:
    net = Net()
    proto = net.model(build(net, net.op("Transpose", "x", perm=TO_FIRST)), (2, 4, 4, 5))
    _, result = sunk(proto)
    assert not result.changed


def test_reshape_of_rows_that_moved_stays() -> None:
    net = Net()
    x = net.op("Transpose", "x", perm=(1, 2, 0))
    proto = net.model(net.op("Reshape", x, _ints(net, 0, -1)), (1, 4, 1))
    assert not sunk(proto)[1].changed


def test_norm_moves_where_the_channels_stay() -> None:
    net = Net()
    x = net.norm(net.op("Transpose", "x", perm=(0, 1, 3, 2)), 3)
    model, _ = sunk(net.model(net.op("Transpose", x, perm=(0, 1, 3, 2)), SHAPE))
    assert count(model) == 0


@pytest.mark.parametrize(("axis", "left"), [(3, 0), (1, 2), (2, 2)])
def test_softmax_of_old_takes_all_axes_from_one_on(axis: int, left: int) -> None:
    net = Net(opset=11)
    x = net.op("Transpose", "x", perm=(1, 0, 2, 3))
    x = net.op("Softmax", net.op("Softmax", x, axis=axis), axis=axis)
    perm = (1, 0, 2, 3)
    if axis == 2:  # the last two change places with the others
        net.nodes[0] = oh.make_node("Transpose", ["x"], ["transpose_1"], perm=(2, 1, 0, 3))
        perm = (2, 1, 0, 3)
    model, _ = sunk(net.model(net.op("Transpose", x, perm=perm), SHAPE))
    assert count(model) == left


def test_attributes_of_old_operator_sets() -> None:
    net = Net(opset=9)
    x = net.op("Transpose", "x", perm=TO_FIRST)
    x = net.op("Pad", x, pads=[0, 1, 2, 3, 0, 0, 1, 2], mode="constant", value=0.5)
    x = net.op("Slice", x, starts=[1, 0], ends=[9, 3], axes=[1, 3])
    x = net.op("Slice", x, starts=[0, 1], ends=[9, 3])
    x = net.op("ReduceSum", net.op("Clip", x, min=-2.0, max=5.0), axes=[2], keepdims=1)
    x = net.op("Squeeze", x, axes=[2])
    model, _ = sunk(net.model(net.op("Neg", x), SHAPE))
    kinds = [n.op_type for n in model.graph]
    assert kinds == ["Pad", "Slice", "Slice", "Clip", "ReduceSum", "Transpose", "Squeeze", "Neg"]


def test_operator_sets_before_7_are_left_alone() -> None:
    net = Net(opset=6)
    x = net.op("Relu", net.op("Transpose", "x", perm=TO_FIRST))
    proto = net.model(net.op("Transpose", x, perm=TO_LAST), SHAPE)
    assert not sunk(proto, runs=False)[1].changed


def test_weights_are_transposed_before_they_are_dequantized() -> None:
    net = Net()
    weight = net.const(net.rng.integers(-9, 9, (6, 4)), np.int8)
    scale = net.const(net.rng.uniform(0.1, 1, 6))
    zero = net.const(np.zeros(6), np.int8)
    weight = net.op("DequantizeLinear", weight, scale, zero, axis=0)
    model, _ = sunk(net.model(net.op("MatMul", "x", net.op("Transpose", weight)), (3, 4)))
    assert count(model) == 0


# Wiring -------------------------------------------------------------------------------------


def test_transposes_are_composed() -> None:
    net = Net()
    x = net.op("Transpose", net.op("Transpose", "x", perm=(1, 2, 3, 0)), perm=(1, 0, 2, 3))
    model, _ = sunk(net.model(net.op("MatMul", x, _normal(net, 2, 3)), SHAPE))
    (node,) = [n for n in model.graph if n.op_type == "Transpose"]
    assert tuple(node.attributes.get_ints("perm", ())) == (2, 1, 3, 0)


def test_equal_and_unread_transposes_become_one() -> None:
    net = Net()
    one, two = (net.op("Transpose", "x", perm=TO_FIRST) for _ in range(2))
    net.op("Transpose", "x", perm=TO_LAST)
    y = net.op(
        "Add", net.op("MatMul", one, _normal(net, 4, 2)), net.op("MatMul", two, _normal(net, 4, 2))
    )
    model, result = sunk(net.model(y, SHAPE))
    assert count(model) == 1
    assert result.rewrites[0].facts == ("Transposes before: 3, after: 1",)


def test_both_branches_take_the_transpose_along() -> None:
    net = Net()
    x = net.op("Transpose", "x", perm=TO_FIRST)
    y = net.op("Add", net.op("Relu", x), net.op("Mul", net.op("Neg", x), _normal(net, 5, 1, 1)))
    model, result = sunk(net.model(y, SHAPE))
    assert [n.op_type for n in model.graph] == ["Relu", "Neg", "Mul", "Add", "Transpose"]
    assert result.statistics == {"transposes removed": 0, "operators moved": 4}


def test_a_transpose_is_not_doubled() -> None:
    net = Net()
    x = net.op("Transpose", "x", perm=TO_FIRST)
    first = net.op("MatMul", net.op("Relu", x), _normal(net, 4, 2))
    second = net.op("MatMul", net.op("Neg", x), _normal(net, 4, 2))
    assert not sunk(net.model(net.op("Add", first, second), SHAPE))[1].changed


def test_a_side_that_is_not_transposed_takes_the_inverse_that_is_there() -> None:
    net = Net()
    inner = net.op("Relu", net.conv(net.op("Transpose", "x", perm=TO_FIRST), 5, 5))
    y = net.op("Add", net.op("Transpose", inner, perm=TO_LAST), "x")
    model, _ = sunk(net.model(net.op("Relu", y), SHAPE))
    kinds = [n.op_type for n in model.graph]
    assert kinds == ["Transpose", "Conv", "Relu", "Add", "Relu", "Transpose"]


def test_a_side_that_would_need_another_transpose_stays() -> None:
    net = Net()
    inner = net.conv("x", 5, 5)
    y = net.op("Add", net.op("Transpose", inner, perm=TO_LAST), "side")
    proto = net.model(net.op("MatMul", y, _normal(net, 5, 2)), (2, 5, 3, 4))
    proto.graph.input.append(oh.make_tensor_value_info("side", 1, (2, 3, 4, 5)))
    assert not sunk(onnx.shape_inference.infer_shapes(proto))[1].changed


def test_between_equal_choices_operators_join_the_convolutions() -> None:
    net = Net()
    x = net.op("Sub", "x", _normal(net, 5))
    x = net.conv(net.op("Transpose", x, perm=TO_FIRST), 5, 5)
    y = net.op("Sigmoid", net.op("Transpose", x, perm=TO_LAST))
    model, _ = sunk(net.model(y, SHAPE))
    kinds = [n.op_type for n in model.graph]
    assert kinds == ["Transpose", "Sub", "Conv", "Sigmoid", "Transpose"]


def test_outputs_keep_their_names_types_and_shapes() -> None:
    net = Net()
    x = net.op("Transpose", "x", perm=TO_FIRST)
    a, b = net.op("Relu", x), net.op("Neg", x)
    c = net.op("Transpose", a, perm=TO_LAST)
    proto = net.model(x, ("N", 3, 4, 5), extra_outputs=(b, c, a))
    model, _ = sunk(proto)
    assert [(o.name, o.type) for o in model.to_proto().graph.output] == [
        (o.name, o.type) for o in proto.graph.output
    ]


def test_an_output_that_was_an_input_or_another_output_is_a_copy() -> None:
    net = Net()
    x = net.op("Transpose", "x", perm=TO_FIRST)
    back = net.op("Transpose", x, perm=TO_LAST)
    twin = net.op("Transpose", "x", perm=TO_FIRST)
    model, _ = sunk(net.model(back, SHAPE, extra_outputs=(x, twin)))
    assert sorted(n.op_type for n in model.graph) == ["Identity", "Identity", "Transpose"]


def test_branches_read_what_they_read() -> None:
    net = Net()
    x = net.op("Transpose", "x", perm=TO_FIRST)
    y = net.op("Transpose", net.op("Relu", x), perm=TO_LAST)
    shape = [2, 5, 3, 4]
    bodies = [
        oh.make_graph(
            [oh.make_node(kind, [x], [f"of_{kind}"])],
            kind,
            [],
            [oh.make_tensor_value_info(f"of_{kind}", 1, shape)],
        )
        for kind in ("Neg", "Abs")
    ]
    z = net.op("If", "c", then_branch=bodies[0], else_branch=bodies[1])
    proto = net.model(y, SHAPE, extra_outputs=(z,))
    proto.graph.input.append(oh.make_tensor_value_info("c", TensorProto.BOOL, ()))
    model, _ = sunk(proto)
    assert [n.op_type for n in model.graph] == ["Relu", "Transpose", "If"]


def test_names_stay_with_what_they_stand_for() -> None:
    net = Net()
    x = net.op("Relu", net.op("Transpose", "x", perm=TO_FIRST))
    y = net.op("Transpose", net.op("Neg", x), perm=TO_LAST)
    net.nodes[1].name = ""
    proto = net.model(net.op("MatMul", y, _normal(net, 5, 2)), SHAPE, extra_outputs=(x,))
    before, (model, _) = Model.load(proto), sunk(proto)
    assert {node_label(n) for n in model.graph} <= {node_label(n) for n in before.graph} | {x}
    old, new = before.analyses.get(Shapes()), model.analyses.get(Shapes())
    for value in model.values():
        assert value.name not in old or old[value.name] == new[value.name]
        assert value.shape is None or tuple(value.shape) == new[value.name or ""].shape
    for info in model.to_proto().graph.value_info:
        assert info.name in {v.name for v in model.values()}


def test_annotations_follow_and_turn() -> None:
    net = Net()
    x = net.op("Relu", net.op("Transpose", "x", perm=TO_FIRST))
    proto = net.model(
        net.op("MatMul", net.op("Transpose", x, perm=TO_LAST), _normal(net, 5, 2)), SHAPE
    )
    note = proto.graph.quantization_annotation.add(tensor_name=x)
    note.quant_parameter_tensor_names.add(key="finn_datatype", value="UINT4")
    note.quant_parameter_tensor_names.add(key="tensor_layout", value="['N', 'C', 'H', 'W']")
    next(i for i in proto.graph.value_info if i.name == x).metadata_props.add(key="a", value="b")
    model, _ = sunk(proto)
    made = next(n for n in model.graph if n.op_type == "Relu").outputs[0]
    (after,) = model.to_proto().graph.quantization_annotation
    assert after.tensor_name == made.name
    assert {e.key: e.value for e in after.quant_parameter_tensor_names} == {
        "finn_datatype": "UINT4",
        "tensor_layout": "['N', 'H', 'W', 'C']",
    }
    assert dict(made.metadata_props) == {"a": "b"}


def test_sums_of_floats_are_exact_but_not_to_the_bit() -> None:
    net = Net()
    x = net.op("ReduceMean", net.op("Transpose", "x", perm=TO_FIRST), axes=[2, 3], keepdims=1)
    _, result = sunk(net.model(net.op("Transpose", x, perm=TO_LAST), SHAPE))
    (rewrite,) = result.rewrites
    assert rewrite.exactness is Exactness.EXACT
    assert "another order" in rewrite.facts[-1]


def test_a_rank_that_only_a_transpose_tells() -> None:
    nodes = [
        oh.make_node("Reshape", ["x", "shape"], ["a"]),
        oh.make_node("Transpose", ["a"], ["b"], perm=[0, 2, 1]),
        oh.make_node("Relu", ["b"], ["c"]),
        oh.make_node("Pad", ["c", "pads"], ["d"]),
        oh.make_node("Transpose", ["d"], ["y"], perm=[0, 2, 1]),
    ]
    inputs = {"x": (np.float32, [24]), "shape": (np.int64, None)}
    proto = plain_model(nodes, inputs, ["y"], {"pads": np.array([0, 1, 0, 0, 0, 2])})
    proto.graph.output[0].type.tensor_type.elem_type = 1
    model, _ = sunk(proto, runs=False)
    assert count(model) == 0


# Networks -----------------------------------------------------------------------------------


def channels_last(
    blocks: int = 3, *, norm: bool = True, batch: int | str = "N", seed: int = 0
) -> onnx.ModelProto:
    """A residual network as tf2onnx writes it before it optimizes: NHWC between convolutions.

    The second block strides. Biases are added behind the Transposes, over the last axis.
    """
    net = Net(seed)

    def wrapped(kind: str, x: str, *rest: str, **attributes: object) -> str:
        x = net.op(kind, net.op("Transpose", x, perm=TO_FIRST), *rest, **attributes)
        return net.op("Transpose", x, perm=TO_LAST)

    def conv(x: str, cin: int, cout: int, k: int = 3, stride: int = 1) -> str:
        weight = net.const(net.rng.standard_normal((cout, cin, k, k)) / (k * np.sqrt(cin)))
        x = wrapped("Conv", x, weight, auto_pad="SAME_UPPER", strides=[stride, stride])
        x = net.op("Add", x, net.const(net.rng.standard_normal(cout)))
        if norm:
            parameters = [net.const(net.rng.uniform(0.5, 2, cout)) for _ in range(4)]
            x = wrapped("BatchNormalization", x, *parameters, epsilon=1e-3)
        return x

    x, channels = net.op("Relu", conv("x", 3, 4)), 4
    for number in range(blocks):
        stride, wide = (2, 2 * channels) if number == 1 else (1, channels)
        h = net.op("Relu", conv(x, channels, wide, 3, stride))
        h = conv(h, wide, wide)
        shortcut = conv(x, channels, wide, 1, stride) if stride > 1 else x
        x, channels = net.op("Relu", net.op("Add", shortcut, h)), wide
    x = net.op("Squeeze", wrapped("GlobalAveragePool", x), _ints(net, 1, 2))
    y = net.op("Gemm", x, net.const(net.rng.standard_normal((channels, 5))))
    return net.model(y, (batch, 8, 8, 3))


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("batch", [2, "N"])
def test_residual_blocks_of_a_channels_last_network(norm: bool, batch: int | str) -> None:
    proto = channels_last(norm=norm, batch=batch)
    model, result = sunk(proto)
    assert count(model) == 1
    assert next(iter(model.graph)).op_type == "Transpose"
    assert result.statistics["transposes removed"] == count(Model.load(proto)) - 1
    outcome = removed(proto, f"sink-transposes,{RM}")
    assert not [n for n in outcome.model.graph if n.op_type in ("Add", "BatchNormalization")]
    assert optimize(outcome.model, pipeline=f"sink-transposes,{RM}").changed is False


def test_without_the_pass_they_stay() -> None:
    outcome = optimize(channels_last(), pipeline=RM)
    assert [one.fate.value for one in outcome.fates] == ["refused"] * 3


@st.composite
def tangles(draw: st.DrawFn) -> onnx.ModelProto:
    """Elementwise graphs full of Transposes; all axes alike, or all different."""
    shape = draw(st.sampled_from([(2, 3, 4), (3, 3, 3), (2, 2, 3)]))
    net = Net(draw(st.integers(0, 99)))
    known: list[tuple[str, tuple[int, ...]]] = [("x", shape)]
    for _ in range(draw(st.integers(2, 14))):
        x, sizes = draw(st.sampled_from(known))
        match draw(st.sampled_from("TTTTub+++scmr")):
            case "T":
                perm = draw(st.permutations(range(3)))
                made = net.op("Transpose", x, perm=perm), tuple(sizes[axis] for axis in perm)
            case "u":
                made = net.op(draw(st.sampled_from(["Relu", "Neg", "Abs"])), x), sizes
            case "b":
                rank = draw(st.integers(0, 3))
                made = net.op("Sub", _normal(net, *sizes[3 - rank :]), x), sizes
            case "s":
                axis = draw(st.integers(0, 2))
                made = net.op("ReduceMax", x, axes=[axis], keepdims=1), sizes
                made = net.op("Max", x, made[0]), sizes
            case "c":
                axis = draw(st.integers(0, 2))
                made = net.op("Concat", x, net.op("Neg", x), axis=axis), sizes
                first = [_ints(net, bound) for bound in (0, sizes[axis], axis)]
                made = net.op("Slice", made[0], *first), sizes
            case "m":
                made = net.op("MatMul", x, _normal(net, sizes[2], sizes[2])), sizes
            case "r":
                made = net.op("Reshape", x, _ints(net, *sizes)), sizes
            case _:
                others = [name for name, other in known if other == sizes]
                made = net.op("Add", x, draw(st.sampled_from(others))), sizes
        known.append(made)
    names = [name for name, _ in known[1:]]
    outputs = draw(st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True))
    return net.model(outputs[0], shape, extra_outputs=tuple(outputs[1:]))


@given(tangles())
@settings(max_examples=200)
def test_any_tangle_gives_the_same_bits_and_has_no_more_transposes(proto: onnx.ModelProto) -> None:
    sunk(proto)


@given(tangles())
@settings(max_examples=50)
def test_a_tangle_saved_and_read_again_is_settled(proto: onnx.ModelProto) -> None:
    model, _ = sunk(proto)
    assert not SinkTransposes().run(Model.load(model.to_proto()), Context()).changed


@pytest.mark.real_models
@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("cifar10/mlperf_resnet8_tf2onnx", 1, 1),
        ("cifar10/mlperf_resnet8_fp32_kai", 1, 0),
        ("cifar10/mlperf_resnet8_int8_qdq_K1", 1, 1),
        ("detect/yunet_n_640", 12, 6),
        ("kws_vww/mlperf_vww_mbv1_fp32", 1, 0),
        ("kws_vww/mlperf_vww_mbv1_int8_qdq", 1, 0),
        ("misc/mini_xception_fer_tf2onnx", 0, 0),
        ("seg/selfie_segmentation", 1, 1),
        ("seg/vnncomp22_carvana_unet_upsample", 4, 3),
    ],
)
def test_real_network(shared: Path, name: str, before: int, after: int) -> None:
    original = Model.load(shared / f"data/models/{name}.onnx")
    model, _ = sunk(original.to_proto())
    assert (count(original), count(model)) == (before, after)
    same(original.to_proto(), model.to_proto(), whole=False)


@pytest.mark.real_models
@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("qonnx_finn/hls4ml_branched_ch_last_qonnx", 0, 0),
        ("qonnx_finn/hls4ml_tiny_unet_ch_last_qonnx", 0, 0),
        ("qonnx_finn/zoo_TFC_2W2A", 4, 0),
        ("qonnx_finn/zoo_kwsmlp_w3a3", 4, 0),
    ],
)
def test_real_quantized_network(shared: Path, name: str, before: int, after: int) -> None:
    """Their weights are quantized in the graph: the weight is transposed before that."""
    path = shared / f"data/models/{name}.onnx"
    outcome = optimize(path, pipeline="freeze-weights,sink-transposes,dce")
    assert outcome.verification is not None
    assert outcome.verification.status.value in ("equal", "unchanged")
    assert (count(outcome.original), count(outcome.model)) == (before, after)


@pytest.mark.real_models
def test_real_network_of_onnxmltools(shared: Path) -> None:
    """ONNX Runtime runs it until two halves do not fit, so it is compared up to there."""
    folder = shared / "data/models/malformed"
    original = Model.load(folder / "not_topologically_sorted_onnxmltools.onnx")
    model, _ = sunk(original.to_proto(), runs=False)
    assert (count(original), count(model)) == (52, 10)
    ranks = {"Test/tcm_layers-0-0/conv_1d:0": 3, "Test/deconv2d_7/Tanh:0": 4}
    original.graph.outputs[:] = [original.value_index()[name] for name in ranks]
    for value, rank in zip(original.graph.outputs, ranks.values(), strict=True):
        value.type = onnx_ir.TensorType(onnx_ir.DataType.FLOAT)
        value.shape = onnx_ir.Shape([None] * rank)
    DeadCode().run(original, Context())
    model, _ = sunk(original.to_proto())
    same(original.to_proto(), model.to_proto(), whole=False)
