"""Ranges: what ONNX Runtime computes lies inside the interval that was proved for it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from graphopt.ir import Model
from passes.ranges import Interval, Ranges, RangeTable

SHARED = Path(os.environ.get("GRAPHOPT_SHARED", Path(__file__).parents[3] / "shared"))
FLOATS = {1: np.float32, 10: np.float16, 11: np.float64}
STYLES = ("normal", "big", "negative", "zeros", "tiny", "edges")


# Small graphs -------------------------------------------------------------------------------


@dataclass
class Net:
    """A graph under construction with one input `x`."""

    shape: Sequence[int | str] = (2, 4, 6, 5)
    opset: int = 17
    dtype: int = TensorProto.FLOAT
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)
    infos: list[onnx.ValueInfoProto] = field(default_factory=list)

    def add(self, operator: str, *inputs: Any, outputs: int = 1, **attributes: Any) -> str:
        """Adds a node; arrays among its inputs become initializers. Gives its first output."""
        label = f"{operator}_{len(self.nodes)}"
        names = [i if isinstance(i, str) else self.constant(i) for i in inputs]
        made = [f"{label}_out{i or ''}" for i in range(outputs)]
        self.nodes.append(helper.make_node(operator, names, made, name=label, **attributes))
        return made[0]

    def constant(self, values: Any) -> str:
        array = np.asarray(values)
        if array.dtype.kind == "f":
            array = array.astype(FLOATS.get(self.dtype, np.float32))
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def proto(self) -> onnx.ModelProto:
        last = self.nodes[-1].output
        graph = helper.make_graph(
            self.nodes,
            "net",
            [helper.make_tensor_value_info("x", self.dtype, self.shape)],
            [onnx.ValueInfoProto(name=name) for name in last],
            self.constants,
            value_info=self.infos,
        )
        opsets = [helper.make_opsetid("", self.opset)]
        domains = {node.domain for node in self.nodes} - {""}
        opsets += [helper.make_opsetid(domain, 1) for domain in sorted(domains)]
        return helper.make_model(
            graph, opset_imports=opsets, ir_version=8 if self.opset < 19 else 11
        )

    def ranges(self) -> RangeTable:
        return ranges(self.proto())


def ranges(source: Any) -> RangeTable:
    model = Model.load(source)
    return model.analyses.get(Ranges())


def session(proto: onnx.ModelProto, names: Sequence[str]) -> ort.InferenceSession:
    """A session that runs what is written and gives out the tensors called `names`."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    del copy.graph.output[:]
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return ort.InferenceSession(copy.SerializeToString(), options, ["CPUExecutionProvider"])


def filled(style: str, shape: Sequence[int], dtype: Any, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(shape)
    match style:
        case "big":
            values = values * (30.0 if dtype == np.float16 else 1e4)
        case "negative":
            values = -np.abs(values) - 0.1
        case "zeros":
            values = np.zeros(shape)
        case "tiny":
            values = values * 1e-39
        case "edges":
            values = rng.choice([-6.0, -3.0, -1.5, -1.0, -0.0, 0.5, 1.0, 3.0, 6.0, 20.0], shape)
    return values.astype(dtype)


def outside(interval: Interval, values: np.ndarray) -> float:
    """How far the worst value lies outside of the interval; 0 where all are inside."""
    values = values.astype(np.float64)
    low, high = interval.low, interval.high
    if low.ndim:
        assert low.shape == (values.shape[1],)
        sides = (1, -1, *(1,) * (values.ndim - 2))
        low, high = low.reshape(sides), high.reshape(sides)
    if not values.size:
        return 0.0
    return float(max(np.max(low - values), np.max(values - high), 0.0))


def check(
    proto: onnx.ModelProto, feeds: Iterator[Mapping[str, np.ndarray]] | None = None
) -> RangeTable:
    """Runs the graph and compares every tensor with its interval. Gives the intervals."""
    table = ranges(proto)
    names = [name for node in proto.graph.node for name in node.output if name]
    running = session(proto, names)
    if feeds is None:
        x = proto.graph.input[0].type.tensor_type
        shape = [d.dim_value or 2 for d in x.shape.dim]
        dtype = helper.tensor_dtype_to_np_dtype(x.elem_type)
        feeds = ({"x": filled(style, shape, dtype)} for style in STYLES)
    for number, feed in enumerate(feeds):
        found = running.run(None, dict(feed))
        for name, values in zip(names, found, strict=True):
            if values.dtype.kind not in "fiub" or not np.isfinite(values).all():
                continue
            error = outside(table[name], values)
            assert error == 0, f"{name} leaves {table[name]} by {error:.3g} on feed {number}"
    return table


def preluded(prelude: str, net: Net) -> str:
    """A tensor of which nothing, the sign, or a box per channel is known."""
    channels = net.shape[1]
    assert isinstance(channels, int)
    match prelude:
        case "unknown":
            return "x"
        case "positive":
            return net.add("Relu", "x")
        case _:
            sides = (channels, *(1,) * (len(net.shape) - 2))
            rng = np.random.default_rng(7)
            width = net.add("Mul", net.add("Sigmoid", "x"), rng.uniform(0.5, 9, sides))
            return net.add("Add", width, rng.uniform(-6, 3, sides))


RNG = np.random.default_rng(3)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape)


def case(operator: str, *more: Any, name: str = "", **options: Any) -> Any:
    """One operator: further inputs, attributes and (in capitals) properties of the graph."""
    return pytest.param(operator, more, options, id=name or operator)


C = (4, 1, 1)
LINEAR = [
    case("Conv", normal(3, 4, 1, 1), normal(3), name="Conv-1x1"),
    case("Conv", normal(3, 4, 3, 3), normal(3), pads=[1, 1, 1, 1], name="Conv-padded"),
    case("Conv", normal(3, 4, 3, 2), pads=[2, 0, 0, 1], strides=[2, 1], name="Conv-asymmetric"),
    case("Conv", normal(6, 2, 3, 3), normal(6), group=2, name="Conv-groups"),
    case("Conv", normal(8, 1, 3, 3), group=4, pads=[0, 1, 0, 1], name="Conv-depthwise"),
    case("Conv", normal(3, 4, 2, 2), auto_pad="SAME_UPPER", name="Conv-same"),
    case("Conv", normal(3, 4, 2, 2), dilations=[2, 3], auto_pad="VALID", name="Conv-dilated"),
    case("Conv", normal(3, 4, 3), normal(3), SHAPE=(2, 4, 9), pads=[1, 0], name="Conv-1d"),
    case("Conv", normal(3, 4, 2, 2, 2), SHAPE=(1, 4, 3, 3, 3), name="Conv-3d"),
    case("ConvTranspose", normal(4, 3, 3, 3), normal(3), strides=[2, 2], pads=[1, 0, 1, 0]),
    case("ConvTranspose", normal(4, 2, 2, 2), group=2, name="ConvTranspose-groups"),
    case("Gemm", normal(4, 3), normal(3), SHAPE=(2, 4)),
    case(
        "Gemm",
        normal(3, 4),
        normal(1, 3),
        SHAPE=(2, 4),
        transB=1,
        alpha=0.3,
        beta=-2.0,
        name="Gemm-scaled",
    ),
    case("Gemm", normal(2, 3), SHAPE=(2, 4), transA=1, name="Gemm-transA"),
    case("MatMul", normal(4, 3), SHAPE=(2, 4)),
    case("MatMul", normal(5, 3), SHAPE=(2, 4, 5), name="MatMul-3d"),
    case(
        "BatchNormalization",
        np.array([1.5, -2, 0, 1e-3]),
        normal(4),
        normal(4),
        np.array([0.1, 2, 1, 1e-6]),
        epsilon=1e-3,
    ),
]
ELEMENTWISE = [
    case("Relu"),
    case("LeakyRelu", alpha=0.2),
    case("LeakyRelu", alpha=-0.5, name="LeakyRelu-neg"),
    case("PRelu", normal(*C)),
    case("PRelu", np.array([0.25]), name="PRelu-one"),
    case("Clip", np.array(-1.5), np.array(2.0)),
    case("Clip", "", np.array(6.0), name="Clip-max"),
    case("Clip", np.array(0.0), name="Clip-min"),
    case("Clip", np.array(3.0), np.array(1.0), name="Clip-crossed"),
    case("Clip", min=0.0, max=6.0, OPSET=9, name="Clip-attributes"),
    case("Clip", OPSET=9, name="Clip-no-attributes"),
    case("Sigmoid"),
    case("HardSigmoid"),
    case("HardSigmoid", alpha=-0.3, beta=0.1, name="HardSigmoid-neg"),
    case("HardSwish"),
    case("Tanh"),
    case("Softmax", axis=1),
    case("Softmax", axis=-1, name="Softmax-last"),
    case("Softplus"),
    case("Elu", alpha=2.0),
    case("Selu"),
    case("Celu", alpha=0.7),
    case("Gelu", OPSET=20),
    case("Gelu", approximate="tanh", OPSET=20, name="Gelu-tanh"),
    case("Gelu", domain="com.microsoft", name="Gelu-ms"),
    case("QuickGelu", domain="com.microsoft"),
    case("Mish", OPSET=18),
    case("Erf"),
    case("Abs"),
    case("Neg"),
    case("Floor"),
    case("Ceil"),
    case("Round"),
    case("Sqrt"),
    case("Exp"),
    case("Identity"),
    case("Dropout"),
    case("Cast", to=TensorProto.FLOAT16),
    case("Cast", to=TensorProto.DOUBLE, name="Cast-double"),
    case("Add", normal(*C)),
    case("Add", normal(4, 6, 5), name="Add-full"),
    case("Add", np.array(2.5), name="Add-one"),
    case("Add", normal(5), name="Add-last-axis"),
    case("Sub", normal(1, 4, 1, 1)),
    case("Mul", normal(*C)),
    case("Mul", np.array(-0.0), name="Mul-zero"),
    case("Div", np.array([2.0, -0.3, 7, 1]).reshape(C)),
    case("Div", np.array([1.0, 0]).reshape(2, 1, 1, 1), name="Div-zero"),
    case("Max", normal(*C), np.array(0.0)),
    case("Min", normal(*C), np.array(0.5)),
    case("Sum", normal(*C), np.array(1.0)),
]
POOLS = [
    case("MaxPool", kernel_shape=[2, 3], strides=[2, 1]),
    case("MaxPool", kernel_shape=[3, 3], pads=[1, 1, 1, 1], name="MaxPool-padded"),
    case(
        "MaxPool",
        kernel_shape=[2, 2],
        ceil_mode=1,
        strides=[2, 2],
        pads=[1, 0, 1, 1],
        name="MaxPool-ceil",
    ),
    case(
        "MaxPool",
        kernel_shape=[2, 2],
        strides=[3, 3],
        pads=[1, 1, 1, 1],
        ceil_mode=1,
        SHAPE=(2, 4, 5, 5),
        name="MaxPool-beyond",
    ),
    case(
        "AveragePool",
        kernel_shape=[3, 3],
        strides=[2, 2],
        pads=[0, 1, 1, 0],
        ceil_mode=1,
        count_include_pad=1,
        name="AveragePool-beyond",
    ),
    case("AveragePool", kernel_shape=[3, 2]),
    case("AveragePool", kernel_shape=[3, 3], pads=[1, 1, 1, 1], name="AveragePool-padded"),
    case(
        "AveragePool",
        kernel_shape=[3, 3],
        pads=[1, 1, 1, 1],
        count_include_pad=1,
        name="AveragePool-pad-counts",
    ),
    case("AveragePool", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1, name="AveragePool-ceil"),
    case("GlobalAveragePool"),
    case("GlobalMaxPool"),
    case("ReduceMean", axes=[2, 3]),
    case("ReduceMean", axes=[-1], keepdims=0, name="ReduceMean-last"),
    case("ReduceMean", axes=[1, 2], keepdims=0, name="ReduceMean-channel"),
    case("ReduceMean", name="ReduceMean-all"),
    case("ReduceMax", axes=[3], keepdims=0),
    case("ReduceMean", np.array([2, 3]), OPSET=18, name="ReduceMean-18"),
    case("ReduceSum", np.array([2, 3])),
    case("ReduceSum", np.array([1]), name="ReduceSum-channel"),
    case("ReduceMin", axes=[1]),
    case("ReduceMax", axes=[1], keepdims=0, SHAPE=(2, 4, 4), name="ReduceMax-square"),
    case(
        "MaxPool",
        kernel_shape=[2, 2],
        dilations=[2, 2],
        pads=[1, 1, 1, 1],
        SHAPE=(2, 4, 1, 1),
        name="MaxPool-misses",
    ),
]
MOVES = [
    case("Pad", np.array([0, 0, 1, 2, 0, 0, 0, 1])),
    case("Pad", np.array([0, 2, 1, 0, 0, 1, 0, 0]), np.array(0.25), name="Pad-channels"),
    case("Pad", np.array([0, -1, 0, 0, 0, 2, 0, 0]), name="Pad-crops"),
    case("Pad", np.array([0, 0, 1, 1, 0, 0, 1, 1]), mode="reflect", name="Pad-reflect"),
    case("Pad", np.array([0, 1, 0, 0, 0, 1, 0, 0]), mode="edge", name="Pad-edge-channels"),
    case("Pad", pads=[0, 1, 0, 1, 0, 0, 0, 0], value=-3.0, OPSET=9, name="Pad-attributes"),
    case("Pad", np.array([1, 1]), np.array(1.0), np.array([1]), OPSET=18, name="Pad-axes"),
    case("Slice", np.array([1]), np.array([3]), np.array([1])),
    case(
        "Slice",
        np.array([0, 3]),
        np.array([9, -9]),
        np.array([2, 1]),
        np.array([2, -1]),
        name="Slice-reversed",
    ),
    case("Slice", np.array([1]), np.array([5]), np.array([-1]), name="Slice-space"),
    case("Slice", starts=[0, 2], ends=[1, 4], OPSET=9, name="Slice-attributes"),
    case("Concat", normal(2, 3, 6, 5), axis=1),
    case("Concat", normal(2, 4, 6, 1), axis=-1, name="Concat-space"),
    case("Split", axis=1, OUTPUTS=2),
    case("Split", np.array([1, 3]), axis=1, OUTPUTS=2, name="Split-sizes"),
    case("Split", axis=2, OUTPUTS=3, name="Split-space"),
    case("Reshape", np.array([2, -1])),
    case("Reshape", np.array([0, 2, 2, 6, 5]), name="Reshape-split"),
    case("Reshape", np.array([0, 0, -1]), name="Reshape-space"),
    case("Reshape", np.array([-1]), name="Reshape-flat"),
    case("Reshape", np.array([2, 5, 24]), name="Reshape-mixed"),
    case("Reshape", np.array([4, 4, 15]), name="Reshape-batch"),
    case("Flatten"),
    case("Flatten", axis=2, name="Flatten-2"),
    case("Squeeze", np.array([2]), SHAPE=(2, 4, 1, 5)),
    case("Unsqueeze", np.array([4])),
    case("Unsqueeze", np.array([1]), name="Unsqueeze-channel"),
    case("Transpose", perm=[0, 1, 3, 2]),
    case("Transpose", perm=[0, 2, 3, 1], name="Transpose-last"),
    case("Transpose", name="Transpose-reversed"),
    case("Transpose", perm=[0, 2, 1, 3], SHAPE=(2, 4, 4, 3), name="Transpose-square"),
    case("Gather", np.array([3, 0, -1]), axis=1),
    case("Gather", np.array(2), axis=1, name="Gather-one"),
    case("Gather", np.array([1, 2]), axis=-1, name="Gather-space"),
    case("Gather", np.array([[0, 1]]), name="Gather-batch"),
    case("Expand", np.array([3, 2, 4, 6, 5])),
    case("Expand", np.array([2, 4, 6, 5]), SHAPE=(2, 4, 1, 5), name="Expand-space"),
    case("Tile", np.array([1, 1, 2, 1])),
    case("Tile", np.array([1, 2, 1, 1]), name="Tile-channels"),
    case("DepthToSpace", blocksize=2),
    case("SpaceToDepth", blocksize=2, SHAPE=(2, 4, 6, 4)),
    case("Resize", "", np.array([1, 1, 2, 1.7]), mode="nearest"),
    case("Resize", "", np.array([1, 1, 1.3, 0.6]), mode="linear", name="Resize-linear"),
    case(
        "Resize",
        "",
        "",
        np.array([2, 4, 9, 9]),
        mode="linear",
        name="Resize-sizes",
        coordinate_transformation_mode="align_corners",
    ),
    case("Resize", "", np.array([1, 1, 2, 2.0]), mode="cubic", name="Resize-cubic"),
    case(
        "Resize",
        np.array([0, 0, -0.5, 0, 1, 1, 1.5, 1]),
        np.array([1, 1, 2, 1.0]),
        mode="linear",
        OPSET=13,
        coordinate_transformation_mode="tf_crop_and_resize",
        extrapolation_value=-9.0,
        name="Resize-crop",
    ),
    case("Upsample", np.array([1, 1, 2, 3.0]), mode="linear", OPSET=9),
    case("Upsample", scales=[1.0, 1.0, 2.0, 2.0], OPSET=7, name="Upsample-attribute"),
    case("QuantizeLinear", np.array(0.05), np.array(3, np.uint8)),
    case(
        "QuantizeLinear",
        np.array([0.1, 0.02, 1, 0.3]),
        np.zeros(4, np.int8),
        name="QuantizeLinear-channels",
    ),
]
UNBOUNDED_EVEN_IN_A_BOX = {"Resize-cubic", "Div-zero", "MaxPool-misses"}


@pytest.mark.parametrize("prelude", ["unknown", "positive", "box"])
@pytest.mark.parametrize(("operator", "more", "options"), LINEAR + ELEMENTWISE + POOLS + MOVES)
def test_values_lie_inside(
    operator: str, more: Any, options: dict[str, Any], prelude: str, request: pytest.FixtureRequest
) -> None:
    options = dict(options)
    net = Net(options.pop("SHAPE", (2, 4, 6, 5)), options.pop("OPSET", 17))
    made = net.add(
        operator, preluded(prelude, net), *more, outputs=options.pop("OUTPUTS", 1), **options
    )
    interval = check(net.proto())[made]
    name = request.node.name.partition("[")[2].removesuffix(f"-{prelude}]")
    if prelude == "box" and name not in UNBOUNDED_EVEN_IN_A_BOX:
        assert interval.finite, f"a box goes into {operator}, but {interval} comes out"


# Joins, exporters' products, formats ---------------------------------------------------------


@pytest.mark.parametrize("second", ["unknown", "positive", "box"])
@pytest.mark.parametrize("first", ["positive", "box"])
@pytest.mark.parametrize("operator", ["Add", "Sub", "Mul", "Div", "Max", "Min", "Sum", "Concat"])
def test_joins_of_two_tensors(operator: str, first: str, second: str) -> None:
    net = Net()
    options = {"axis": 1} if operator == "Concat" else {}
    net.add(operator, preluded(first, net), preluded(second, net), **options)
    check(net.proto())


def test_where_is_between_both_branches() -> None:
    net = Net()
    positive = net.add("Greater", "x", np.array(0.3))
    low = net.add("Sigmoid", "x")
    made = net.add("Where", positive, low, np.full((4, 1, 1), [[[2.0]], [[3]], [[-4]], [[0]]]))
    interval = check(net.proto())[made]
    assert interval.low.tolist() == [0, 0, -4, 0]
    assert interval.high.tolist() == [2, 3, 1, 1]


def swish(net: Net, x: str) -> str:
    return net.add("Mul", x, net.add("Sigmoid", x))


def hard_swish(net: Net, x: str) -> str:
    gate = net.add("Clip", net.add("Add", x, np.array(3.0)), np.array(0.0), np.array(6.0))
    return net.add("Div", net.add("Mul", gate, x), np.array(6.0))


def hard_sigmoid_gate(net: Net, x: str) -> str:
    return net.add("Mul", net.add("HardSigmoid", x, alpha=1 / 6, beta=0.5), x)


def mish(net: Net, x: str) -> str:
    return net.add("Mul", x, net.add("Tanh", net.add("Softplus", x)))


@pytest.mark.parametrize("prelude", ["unknown", "positive", "box"])
@pytest.mark.parametrize(
    ("product", "lowest"),
    [(swish, -0.2785), (hard_swish, -0.375), (hard_sigmoid_gate, -0.375), (mish, -0.3089)],
)
def test_products_of_exporters_keep_their_minimum(
    product: Any, lowest: float, prelude: str
) -> None:
    net = Net()
    made = product(net, preluded(prelude, net))
    wide = np.linspace(-130, 30, 240).reshape(2, 4, 6, 5).astype(np.float32)
    feeds = [{"x": filled(style, (2, 4, 6, 5), np.float32)} for style in STYLES]
    feeds += [{"x": wide}, {"x": wide / 20}, {"x": wide * 1e30}]
    interval = check(net.proto(), iter(feeds))[made]
    assert (interval.low >= lowest - 1e-3).all()
    assert interval.nonnegative == (prelude == "positive")


def test_a_gate_that_is_almost_shut() -> None:
    """There ONNX Runtime's sigmoid is off by half of its value, a few units of roundoff of 1."""
    net = Net()
    made = swish(net, net.add("Clip", "x", np.array(-17.5), np.array(-16.5)))
    interval = check(net.proto())[made]
    assert interval.within(-1e-4, 0)


@pytest.mark.parametrize(
    "operator", ["Sigmoid", "Tanh", "Erf", "Exp", "Softplus", "Elu", "Gelu", "Mish"]
)
def test_elementary_functions_over_their_whole_range(operator: str) -> None:
    """Where ONNX Runtime's polynomials are worst: its tanh comes out above 1."""
    rng = np.random.default_rng(1)
    net = Net((1, 40_000), opset=20)
    net.add(operator, net.add("Clip", "x", np.array(-3.0), np.array(20.0)))
    net.add(operator, "x")
    spread = [
        {"x": (rng.standard_normal((1, 40_000)) * s).astype(np.float32)} for s in (0.1, 1, 5, 30)
    ]
    check(net.proto(), iter(spread))


@pytest.mark.parametrize("dtype", [TensorProto.FLOAT16, TensorProto.DOUBLE])
def test_other_float_formats(dtype: int) -> None:
    net = Net(dtype=dtype)
    x = net.add("Clip", "x", np.array(-1.25), np.array(3.3))
    if dtype == TensorProto.FLOAT16:
        x = net.add("Conv", x, normal(4, 4, 3, 3), normal(4), pads=[1, 1, 1, 1])
        x = net.add("LeakyRelu", net.add("Add", x, normal(4, 1, 1)), alpha=0.1)
    x = net.add("Flatten", net.add("Mul", x, normal(4, 1, 1)))
    made = net.add("Gemm", x, normal(120, 7), normal(7))
    assert check(net.proto())[made].finite


def test_mixed_precision_rounds_to_the_coarser_format() -> None:
    net = Net()
    x = net.add("Cast", net.add("Clip", "x", np.array(0.1), np.array(0.7)), to=TensorProto.FLOAT16)
    half = check(net.proto(), iter([{"x": filled(s, net.shape, np.float32)} for s in STYLES]))[x]
    assert 0.7 < float(half.high) < 0.701
    assert float(np.float16(0.7)) <= half.high


def test_integers_are_bounded_by_their_type_and_by_what_is_cast() -> None:
    net = Net(dtype=TensorProto.UINT8)
    x = net.add("Cast", "x", to=TensorProto.FLOAT)
    back = net.add("Cast", net.add("Mul", x, np.float32(0.3)), to=TensorProto.INT32)
    rng = np.random.default_rng(0)
    feeds = iter(
        [{"x": rng.integers(0, 255, net.shape, np.uint8, endpoint=True)} for _ in range(3)]
    )
    table = check(net.proto(), feeds)
    assert (table[x].low, table[x].high) == (0, 255)
    assert (table[back].low, table[back].high) == (0, 76)


# Rounding ------------------------------------------------------------------------------------


@settings(max_examples=25)
@given(
    seed=st.integers(0, 2**32 - 1),
    depth=st.sampled_from([1, 2, 30, 500]),
    scale=st.sampled_from([1e-30, 1e-3, 1.0, 1e6]),
)
def test_the_worst_input_reaches_the_bound_and_does_not_leave_it(
    seed: int, depth: int, scale: float
) -> None:
    """Each row of the batch maximizes or minimizes one output: the real bound is met up to the
    rounding of the sum, which leads beyond it about as often as not."""
    rng = np.random.default_rng(seed)
    low, high = np.sort(rng.standard_normal((2, depth)) * scale, axis=0).astype(np.float32)
    weight = rng.standard_normal((depth, 6)).astype(np.float32)
    net = Net((12, depth))
    x = net.add("Min", net.add("Max", "x", low[None]), high[None])
    made = net.add("Gemm", x, weight, rng.standard_normal(6) * scale)
    worst = np.concatenate([np.where(weight.T > 0, high, low), np.where(weight.T > 0, low, high)])
    interval = check(net.proto(), iter([{"x": worst}]))[made]
    values = session(net.proto(), [made]).run(None, {"x": worst})[0]
    reached_high, reached_low = np.diag(values[:6]), np.diag(values[6:])
    slack = 4e-4 * np.abs(weight.T).dot(np.maximum(np.abs(low), np.abs(high))) + 1e-3 * scale
    assert (interval.high - reached_high <= slack).all()
    assert (reached_low - interval.low <= slack).all()


def test_products_may_underflow() -> None:
    net = Net()
    x = net.add("Clip", "x", np.array(1e-25), np.array(1.1e-25))
    made = net.add("Mul", x, np.array([1e-20, 7e-21, -1e-20, 1e-30]).reshape(C))
    interval = check(net.proto())[made]
    assert (interval.low >= [0, 0, -1e-37, 0]).all()


def test_a_sum_of_nonnegative_terms_is_nonnegative_in_floats() -> None:
    net = Net()
    x = net.add("Relu", "x")
    x = net.add(
        "Conv", x, np.abs(normal(5, 4, 3, 3)) * 1e-20, np.array([0, 0, 1e-30, 2, 0]), pads=[1] * 4
    )
    x = net.add("Add", x, net.add("Sigmoid", x))
    x = net.add("GlobalAveragePool", net.add("AveragePool", x, kernel_shape=[2, 2]))
    x = net.add("Gemm", net.add("Flatten", x), np.abs(normal(5, 3)))
    table = check(net.proto())
    assert all(table[name].nonnegative for node in net.nodes for name in node.output)


def test_nonpositive_terms_likewise() -> None:
    net = Net()
    x = net.add("Neg", net.add("Relu", "x"))
    made = net.add("Conv", x, np.abs(normal(2, 4, 2, 2)), np.array([0, -1.0]))
    interval = check(net.proto())[made]
    assert (interval.high <= [0, -0.9]).all()


def test_a_mean_over_an_unknown_size_keeps_its_sign_only() -> None:
    net = Net(("N", 4, "H", "W"))
    x = net.add("Clip", "x", np.array(0.0), np.array(6.0))
    made = net.add("GlobalAveragePool", x)
    low, high = check(net.proto())[made].per_channel(4)
    assert (low == 0).all()
    assert np.isinf(high).all()


def test_dirac_kernels_hand_on_exact_intervals() -> None:
    """What reserve-and-merge builds: nothing may widen on the way, or a Clip could not carry it."""
    net = Net()
    x = net.add("Clip", "x", np.array(0.0), np.array(6.0))
    kernel = np.zeros((8, 4, 3, 3))
    kernel[range(4), range(4), 1, 1] = 1
    kernel[range(4, 8), range(4), 1, 1] = [-1, 0.25, 2, 0.3]
    made = net.add("Conv", x, kernel, np.zeros(8), pads=[1, 1, 1, 1])
    interval = check(net.proto())[made]
    assert interval.low.tolist()[:7] == [0, 0, 0, 0, -6, 0, 0]
    assert interval.high.tolist()[:7] == [6, 6, 6, 6, 0, 1.5, 12]
    assert interval.high[7] > np.float32(0.3) * 6.0


# Facts ---------------------------------------------------------------------------------------


def test_padded_borders_read_zero() -> None:
    """The interval [2, 3] never holds 0, but the border of a padded convolution sees it."""
    net = Net((1, 1, 4, 4))
    x = net.add("Clip", "x", np.array(2.0), np.array(3.0))
    bare = net.add("Conv", x, np.ones((1, 1, 3, 3)))
    padded = net.add("Conv", x, np.ones((1, 1, 3, 3)), pads=[0, 0, 0, 1])
    same = net.add("Conv", x, np.ones((1, 1, 3, 3)), auto_pad="SAME_LOWER")
    valid = net.add("Conv", x, np.ones((1, 1, 3, 3)), auto_pad="VALID")
    table = check(net.proto(), iter([{"x": np.full((1, 1, 4, 4), v, np.float32)} for v in (-9, 9)]))
    assert 17.99 < table[bare].low <= 18
    assert 17.99 < table[valid].low <= 18
    assert table[padded].low == table[same].low == 0
    assert 27 <= table[padded].high < 27.01


def test_channels_are_kept_apart() -> None:
    net = Net()
    signs = np.array([1.0, -1, 2, 0]).reshape(C)
    x = net.add("Mul", net.add("Relu", "x"), signs)
    moved = net.add("Slice", x, np.array([3]), np.array([-9]), np.array([1]), np.array([-1]))
    padded = net.add("Pad", moved, np.array([0, 1, 0, 0, 0, 0, 0, 0]), np.array(-2.0))
    flat = net.add("Flatten", net.add("GlobalMaxPool", padded))
    table = check(net.proto())
    assert table[x].low.tolist() == [0, -np.inf, 0, 0]
    assert table[x].high.tolist() == [np.inf, 0, np.inf, 0]
    assert table[flat].low.tolist() == [-2, 0, 0, -np.inf, 0]
    assert table[flat].high.tolist() == [-2, 0, np.inf, 0, np.inf]


def test_a_zero_weight_forgets_an_unbounded_channel() -> None:
    net = Net()
    bounded = net.add("Sigmoid", "x")
    both = net.add("Concat", "x", bounded, axis=1)
    weight = np.zeros((2, 8, 1, 1))
    weight[0, 5], weight[1, 0] = 3, 1
    made = net.add("Conv", both, weight)
    interval = check(net.proto())[made]
    assert interval.low.tolist() == [0, -np.inf]
    assert np.isfinite(interval.high).tolist() == [True, False]


def test_every_position_of_a_flattened_map_knows_its_channel() -> None:
    net = Net((1, 2, 3, 1))
    x = net.add("Mul", net.add("Sigmoid", "x"), np.array([1.0, -4]).reshape(2, 1, 1))
    made = net.add("Flatten", x)
    interval = check(net.proto())[made]
    assert interval.low.tolist() == [0, 0, 0, -4, -4, -4]


def test_option_a_shortcut_with_padding_made_at_run_time() -> None:
    """Zeros of a shape that only the input knows, as PyTorch's exporter writes them."""
    net = Net(("N", 4, 6, 5))
    x = net.add("Relu", "x")
    size = net.add("Slice", net.add("Shape", x), np.array([0]), np.array([1]))
    zeros = net.add("ConstantOfShape", net.add("Concat", size, np.array([2, 6, 5]), axis=0))
    made = net.add("Concat", zeros, x, zeros, axis=1)
    interval = check(net.proto())[made]
    assert interval.nonnegative


def run_time(net: Net, *values: int) -> str:
    """Whole numbers that only the run knows: they are added to a size less itself."""
    rank = net.add("Size", net.add("Shape", "x"))
    return net.add("Add", net.add("Sub", rank, rank), np.array(values))


@pytest.mark.parametrize(
    ("operator", "numbers", "constants"),
    [
        ("Slice", [(1,), (3,)], [np.array([1])]),
        ("Slice", [(1,), (3,), (1,)], []),
        ("Slice", [(1, 1), (2, 3)], []),
        ("Slice", [(0,), (4,)], [np.array([-3]), np.array([2])]),
        ("Pad", [(0, 1, 0, 0, 0, 2, 0, 0)], [np.array(-2.5)]),
        ("Pad", [(1, 1)], [np.array(0.5), np.array([1])]),
        ("ReduceMean", [(1,)], []),
        ("ReduceMax", [(1, 2)], []),
        ("Reshape", [(2, 6, -1)], []),
        ("Gather", [(0, 2)], []),
        ("Tile", [(1, 2, 1, 1)], []),
        ("Expand", [(2, 4, 6, 5)], []),
        ("Unsqueeze", [(1,)], []),
        ("Split", [(1, 3)], []),
    ],
)
def test_amounts_that_only_the_run_knows(
    operator: str, numbers: list[tuple[int, ...]], constants: list[np.ndarray]
) -> None:
    net = Net(opset=18)
    options: dict[str, Any] = {"axis": 1} if operator in ("Gather", "Split") else {}
    inputs = [preluded("box", net), *(run_time(net, *n) for n in numbers), *constants]
    made = net.add(operator, *inputs, outputs=2 if operator == "Split" else 1, **options)
    interval = check(net.proto())[made]
    # a mean over unknown many values keeps its sign only
    assert interval.finite == (operator != "ReduceMean")


@pytest.mark.parametrize(
    ("axes", "scales", "extra"),
    [
        ([2, 3], [2.0, 1.5], {}),
        ([1], [2.0], {}),
        ([-1], [0.5], {"antialias": 1}),
        (None, [1.0, 1.5, 1.0, 1.0], {}),
    ],
)
def test_resize_along_some_axes(axes: list[int] | None, scales: list[float], extra: Any) -> None:
    net = Net(opset=18)
    options = {"mode": "linear", **extra} | ({} if axes is None else {"axes": axes})
    made = net.add("Resize", preluded("box", net), "", np.array(scales), **options)
    assert check(net.proto())[made].finite


def test_swish_operator() -> None:
    net = Net(opset=24)
    made = net.add("Swish", net.add("Identity", "x"), alpha=2.0)
    assert net.ranges()[made].within(-0.1402, np.inf)


def test_a_zero_point_tells_the_type_that_inference_does_not_know() -> None:
    net = Net()
    foreign = net.add("Guess", "x", domain="somewhere.else")
    grid = np.array(0.5), np.array(10, np.uint8)
    made = net.add("DequantizeLinear", foreign, *grid)
    interval = net.ranges()[made]
    assert interval.within(-5.001, 122.501)


def test_batch_norm_that_trains_is_unknown() -> None:
    net = Net()
    ones = np.ones(4)
    made = net.add("BatchNormalization", net.add("Sigmoid", "x"), ones, ones, ones, ones,
                   outputs=3, training_mode=1)  # fmt: skip
    assert not net.ranges()[made].known


def test_weights_of_the_run_time_are_unknown() -> None:
    net = Net()
    x = net.add("Sigmoid", "x")
    weight = net.add("Reshape", net.add("Slice", x, np.array([0]), np.array([1]), np.array([0])),
                     np.array([1, 4, 6, 5]))  # fmt: skip
    made = net.add("Conv", x, weight)
    assert not check(net.proto())[made].known


def test_old_broadcasting_by_an_attribute_is_not_taken_for_numpys() -> None:
    """Before opset 7, [2, 4, 6] with axis 0 lay over the first axes of a map, not its last ones."""
    net = Net(opset=6)
    offset = np.zeros((2, 4, 6))
    offset[1, 3, 5] = 2
    made = net.add("Add", net.add("Sigmoid", "x"), offset, axis=0, broadcast=1)
    interval = net.ranges()[made]
    assert interval.low == 0
    assert 3 <= interval.high < 3.01


def test_other_domains_and_malformed_nodes_are_unknown() -> None:
    net = Net()
    x = net.add("Relu", net.add("Sigmoid", "x"), domain="somewhere.else")
    y = net.add("Conv", preluded("box", net), normal(3, 5, 1, 1))
    table = net.ranges()
    assert not table[x].known
    assert not table[y].known


def test_int8_round_trip_is_bounded_and_keeps_the_sign() -> None:
    net = Net()
    made = []
    grids = [
        (np.array(0.1), np.array(0, np.int8)),
        (np.array([0.1, 0.2, 1, 0.03]), np.array([5, 0, -128, 3], np.int8)),
    ]
    for x in ("x", net.add("Relu", "x")):
        for scale, zero in grids:
            whole = net.add("QuantizeLinear", x, scale, zero)
            made.append(net.add("DequantizeLinear", whole, net.constant(scale), net.constant(zero)))
    table = check(net.proto())
    assert [table[name].finite for name in made] == [True] * 4
    assert [table[name].nonnegative for name in made] == [False, False, True, True]
    assert table[made[0]].within(-12.801, 12.701)


QUANTIZED = st.tuples(
    st.sampled_from([0.05, 0.3, 1.0]),
    st.sampled_from([0.0, 3.0]),
    st.integers(2, 8),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["ROUND", "FLOOR", "CEIL", "DOWN", "UP", "HALF_DOWN"]),
)


@settings(max_examples=60)
@given(QUANTIZED, st.sampled_from(["unknown", "positive", "box"]))
def test_qonnx_quant(parameters: tuple[float, float, int, bool, bool, str], prelude: str) -> None:
    """Against qonnx's own evaluation, for ONNX Runtime does not know the operator."""
    from qonnx.custom_op.general.intquant import int_quant

    scale, zero, bits, signed, narrow, mode = parameters
    net = Net()
    x = preluded(prelude, net)
    made = net.add("Quant", x, np.array(scale), np.array(zero), np.array(float(bits)),
                   domain="qonnx.custom_op.general", signed=int(signed), narrow=int(narrow),
                   rounding_mode=mode)  # fmt: skip
    interval = net.ranges()[made]
    assert interval.finite
    if prelude == "positive" and zero == 0:
        assert interval.nonnegative
    exposed = net.nodes.pop()
    running = session(net.proto(), [x]) if net.nodes else None
    for style in STYLES:
        feed = filled(style, net.shape, np.float32)
        values = feed if running is None else running.run(None, {"x": feed})[0]
        out = int_quant(
            values, np.float32(scale), np.float32(zero), np.float32(bits), signed, narrow, mode
        )
        assert outside(interval, out) == 0, exposed


def test_qonnx_thresholds_and_signs() -> None:
    net = Net()
    steps = net.add("MultiThreshold", "x", normal(4, 7), domain="qonnx.custom_op.general",
                    out_scale=0.5, out_bias=-1.0)  # fmt: skip
    signs = net.add("BipolarQuant", steps, np.array(0.25), domain="onnx.brevitas")
    table = net.ranges()
    assert table[steps].within(-1.0001, 2.5001)
    assert table[signs].within(-0.25, 0.25)


def test_quantized_tensors_end_at_their_codes() -> None:
    """Not a rounding more: the ends are values of codes, exact or in the tensor's own format."""
    net = Net()
    grid = [np.array(0.3), np.array(0.0), np.array(4.0)]
    whole = net.add("Quant", "x", *grid, domain="qonnx.custom_op.general", signed=0, narrow=0)
    steps = np.array([0.1, 0.7, 0.3, 1.1], np.float32).reshape(1, 4, 1, 1)
    each = net.add("Quant", "x", steps, *grid[1:], domain="qonnx.custom_op.general", signed=1)
    sum_ = net.add("Add", whole, whole)
    table = net.ranges()
    single = np.float32
    assert table[whole].low == 0
    assert table[whole].high == max(single(15) * single(0.3), 15 * np.float64(single(0.3)))
    ends = [
        np.stack([single(code) * steps.reshape(-1), code * steps.reshape(-1).astype(np.float64)])
        for code in (-8, 7)
    ]
    np.testing.assert_array_equal(table[each].low, ends[0].min(axis=0))
    np.testing.assert_array_equal(table[each].high, ends[1].max(axis=0))
    assert table[sum_].within(0, 2 * 15 * 0.3 + 1e-5)


def test_codes_of_qlinear_operators_and_of_finns_inputs() -> None:
    zero, one = np.array(128, np.uint8), np.array(0.5, np.float32)
    net = Net()
    codes = net.add("QuantizeLinear", "x", one, zero)
    total = net.add("QLinearAdd", codes, one, zero, codes, one, zero, one, zero,
                    domain="com.microsoft")  # fmt: skip
    real = net.add("DequantizeLinear", total, one, zero)
    table = net.ranges()
    assert (table[total].low, table[total].high) == (0, 255)
    assert (table[real].low, table[real].high) == (-64, 63.5)
    net = Net()
    made = net.add("Relu", "x")
    proto = net.proto()
    note = proto.graph.quantization_annotation.add()
    note.tensor_name = "x"
    note.quant_parameter_tensor_names.add(key="finn_datatype", value="INT3")
    table = Model.load(proto).analyses.get(Ranges())
    assert (table["x"].low, table["x"].high) == (-4, 3)
    assert table[made].within(0, 3)


# Random graphs -------------------------------------------------------------------------------

KINDS = (
    "conv 1x1", "conv 3x3", "conv grouped", "norm", "relu", "leaky", "prelu", "clip", "sigmoid",
    "tanh", "swish", "scale", "shift", "add", "mul", "max", "concat", "slice", "pad", "max pool",
    "average pool", "transpose",
)  # fmt: skip


def grow(net: Net, kinds: Sequence[str], rng: np.random.Generator) -> None:
    """Adds nodes that keep maps of 5 x 5 and read random earlier tensors."""
    width = {"x": 4}

    def pick(channels: int | None = None) -> str:
        names = [name for name, n in width.items() if channels in (None, n)]
        return names[max(0, len(names) - 1 - int(rng.exponential(1.5)))]

    def weights(*shape: int) -> np.ndarray:
        kept = rng.random(shape) < rng.choice([0.3, 1.0])
        return rng.standard_normal(shape) * kept * rng.choice([1e-3, 1.0, 30.0])

    for kind in kinds:
        x = pick()
        channels = made = width[x]
        sides = (channels, 1, 1)
        top, left = rng.integers(0, 3, 2)
        pads = [int(top), int(left), int(2 - top), int(2 - left)]
        match kind:
            case "conv 1x1":
                made = int(rng.integers(1, 6))
                y = net.add("Conv", x, weights(made, channels, 1, 1), weights(made))
            case "conv 3x3":
                made = int(rng.integers(1, 6))
                y = net.add("Conv", x, weights(made, channels, 3, 3), pads=pads)
            case "conv grouped":
                made = 2 * channels
                y = net.add(
                    "Conv", x, weights(made, 1, 3, 3), weights(made), group=channels, pads=pads
                )
            case "norm":
                y = net.add("BatchNormalization", x, weights(channels), weights(channels),
                            weights(channels), rng.random(channels) * 3)  # fmt: skip
            case "relu":
                y = net.add("Relu", x)
            case "leaky":
                y = net.add("LeakyRelu", x, alpha=float(rng.normal()))
            case "prelu":
                y = net.add("PRelu", x, weights(*sides))
            case "clip":
                y = net.add("Clip", x, *np.sort(rng.normal(size=2) * 4).astype(np.float32))
            case "sigmoid":
                y = net.add("Sigmoid", x)
            case "tanh":
                y = net.add("Tanh", x)
            case "swish":
                y = swish(net, x)
            case "scale":
                y = net.add(rng.choice(["Mul", "Div"]), x, rng.choice([-2.0, 0.3, 0.5, 4], sides))
            case "shift":
                y = net.add(rng.choice(["Add", "Sub"]), x, weights(*sides))
            case "add" | "mul" | "max":
                y = net.add(kind.title(), x, pick(channels))
            case "concat":
                other = pick()
                made = channels + width[other]
                y = net.add("Concat", x, other, axis=1)
            case "slice":
                start = int(rng.integers(0, channels))
                made = len(range(channels)[start::2])
                y = net.add(
                    "Slice", x, np.array([start]), np.array([99]), np.array([1]), np.array([2])
                )
            case "pad":
                before, after = (int(n) for n in rng.integers(0, 3, 2))
                made = channels + before + after
                y = net.add("Pad", x, np.array([0, before, 0, 0, 0, after, 0, 0]), rng.normal())
            case "max pool":
                y = net.add("MaxPool", x, kernel_shape=[3, 3], pads=pads)
            case "average pool":
                y = net.add("AveragePool", x, kernel_shape=[3, 3], pads=pads,
                            count_include_pad=int(rng.integers(2)))  # fmt: skip
            case _:
                y = net.add("Transpose", x, perm=[0, 1, 3, 2])
        width[y] = made


@settings(max_examples=120,
          suppress_health_check=[HealthCheck.too_slow])  # fmt: skip
@given(st.integers(0, 2**32 - 1), st.lists(st.sampled_from(KINDS), min_size=1, max_size=12))
def test_random_graphs(seed: int, kinds: list[str]) -> None:
    net = Net((2, 4, 5, 5))
    grow(net, kinds, np.random.default_rng(seed))
    feeds = ({"x": filled(style, (2, 4, 5, 5), np.float32, seed)} for style in STYLES)
    check(net.proto(), feeds)


# The interface -------------------------------------------------------------------------------


def test_reasons_name_the_nodes() -> None:
    net = Net()
    relu = net.add("Relu", "x")
    pool = net.add("MaxPool", relu, kernel_shape=[1, 1])
    other = net.add("Sigmoid", "x")
    total = net.add("Add", pool, other)
    direct = net.add("Add", relu, other)
    raw = net.add("Neg", "x")
    shift = net.add("Max", "x", np.array(1.0))
    table = net.ranges()
    assert table[relu].because == "it comes out of Relu_0"
    assert table[pool].because == "it is MaxPool_1 of a tensor that comes out of Relu_0"
    assert table[total].because == "it is Add_3 of tensors that go back to Relu_0 and Sigmoid_2"
    assert table[direct].because == "it is Add_4 of tensors that come out of Relu_0 and Sigmoid_2"
    assert table[raw].because == table["x"].because == "nothing bounds it"
    assert table[shift].because == "it comes out of Max_6"


def test_unknown_names_are_unbounded() -> None:
    table = RangeTable({})
    assert not table["nothing"].known
    assert "nothing" not in table
    assert str(table["nothing"]) == "[-inf, inf]"


def test_intervals_broadcast_compare_and_cannot_be_changed() -> None:
    interval = Interval(np.array([0.0, 1]), np.array([2.0, 3]), "so")
    low, high = interval.per_channel(2)
    assert low.tolist() == [0, 1]
    assert high.tolist() == [2, 3]
    assert interval.within(0, 3)
    assert not interval.within(0.5, 3)
    assert interval == Interval(np.array([0.0, 1]), np.array([2.0, 3]), "so")
    assert interval != Interval(np.array(0.0), np.array(2.0), "so")
    assert interval != "so"
    with pytest.raises(ValueError, match="broadcast"):
        interval.per_channel(3)
    net = Net()
    found = net.ranges() if net.add("Relu", "x") else None
    assert found is not None
    with pytest.raises(ValueError, match="read-only"):
        found["Relu_0_out"].low[...] = -1


def test_a_clone_has_the_same_ranges() -> None:
    net = Net()
    net.add("BatchNormalization", net.add("Sigmoid", "x"), *normal(3, 4), np.ones(4))
    model = Model.load(net.proto())
    assert Ranges().run(model.clone()) == Ranges().run(model)


# Real networks -------------------------------------------------------------------------------


@pytest.mark.real_models
@pytest.mark.parametrize(
    "file",
    [
        "cifar10/resnet20_torch213_opset13.onnx",
        "cifar10/mlperf_resnet8_tf2onnx.onnx",
        "seg/deeplab_dm05_nchw.onnx",
    ],
)
def test_real_networks(file: str) -> None:
    path = SHARED / "data" / "models" / file
    if not path.is_file():
        pytest.skip(f"{path} is not here: set GRAPHOPT_SHARED")
    proto = onnx.load(path)
    weights = {tensor.name for tensor in proto.graph.initializer}
    (x,) = [value for value in proto.graph.input if value.name not in weights]
    del proto.graph.input[:]  # a weight that is an input too could be overridden: no constant
    proto.graph.input.append(x)
    shape = [d.dim_value or 2 for d in x.type.tensor_type.shape.dim]
    rng = np.random.default_rng(0)
    images = (rng.integers(0, 256, shape), rng.standard_normal(shape) * 3, np.zeros(shape))
    table = check(proto, ({x.name: image.astype(np.float32)} for image in images))
    joined = [node.output[0] for node in proto.graph.node if node.op_type in ("Relu", "Clip")]
    assert joined
    assert all(table[name].nonnegative for name in joined)
