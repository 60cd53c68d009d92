"""Reserve-merge on QDQ and QLinear: codes stay as ONNX Runtime computes them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphopt import optimize
from graphopt.evidence import Exactness, Refusal, Rewrite
from graphopt.ir import Model
from graphopt.ir.quant import Grid
from graphopt.optimizer import Fate
from graphopt.pipeline.passes import Context
from graphopt.verify.numeric import Status
from passes.refused import Refused
from passes.reserve_merge import QuantizedReserveMerge
from passes.reserve_merge.integer import sums, weights
from passes.skip_detection import Skips

SHORT = (2.0**-6, 3 * 2.0**-7, 2.0**-5)
"""Steps of skip, branch and sum with which float32 is exact: ties are ties everywhere."""
ODD = (0.03113, 0.01729, 0.05271)


@dataclass
class Net:
    """An integer network; `qlinear` says how it is written. Tensors are codes in both dialects."""

    qlinear: bool
    signed: bool = False
    opset: int = 13
    seed: int = 0
    nodes: list[Any] = field(default_factory=list)
    constants: list[Any] = field(default_factory=list)
    grids: dict[str, tuple[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)

    def name(self, stem: str) -> str:
        return f"{stem}{len(self.nodes) + len(self.constants)}"

    def const(self, array: Any, stem: str = "c") -> str:
        name = self.name(stem)
        self.constants.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def op(self, kind: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        out = self.name(kind.lower())
        self.nodes.append(
            helper.make_node(
                kind, list(inputs), [out], name=f"n_{out}", domain=domain, **attributes
            )
        )
        return out

    def grid(self, scale: float, zero: int) -> tuple[str, str]:
        kind = np.int8 if self.signed else np.uint8
        return self.const(np.float32(scale)), self.const(kind(zero - 128 * self.signed))

    def quantized(self, x: str, scale: float, zero: int) -> str:
        given = self.grid(scale, zero)
        out = self.op("QuantizeLinear", x, *given)
        self.grids[out] = given
        return out

    def real(self, codes: str) -> str:
        return self.op("DequantizeLinear", codes, *self.grids[codes])

    def conv(
        self, codes: str, outputs: int, inputs: int, scale: float, zero: int, *,
        kernel: int = 3, group: int = 1, relu: bool = False, per_channel: bool = True,
        **attributes: Any,
    ) -> str:  # fmt: skip
        shape = (outputs, inputs // group, kernel, kernel)
        w = self.rng.integers(-127, 128, shape).astype(np.int8)
        into = float(self.value(self.grids[codes][0]))
        fan = w[0].size
        steps = self.rng.uniform(0.5, 1.5, outputs if per_channel else 1) * scale / into / 12
        steps = (steps / np.sqrt(fan)).astype(np.float32)
        bias = self.rng.integers(-900, 900, outputs).astype(np.int32)
        attributes = {"kernel_shape": [kernel] * 2, "group": group, **attributes}
        attributes.setdefault("pads", [kernel // 2] * 4)
        given = self.grid(scale, zero)
        scale_name = self.const(steps if per_channel else steps[0])
        zeros = self.const(np.zeros(np.shape(steps) if per_channel else (), np.int8))
        if self.qlinear:
            out = self.op(
                "QLinearConv", codes, *self.grids[codes], self.const(w), scale_name, zeros, *given,
                self.const(bias), **attributes,
            )  # fmt: skip
        else:
            axis = {"axis": 0} if per_channel else {}
            weight = self.op("DequantizeLinear", self.const(w), scale_name, zeros, **axis)
            step = (np.float32(into) * np.broadcast_to(steps, (outputs,))).astype(np.float32)
            biased = self.op(
                "DequantizeLinear", self.const(bias), self.const(step),
                self.const(np.zeros(outputs, np.int32)), axis=0,
            )  # fmt: skip
            made = self.op("Conv", self.real(codes), weight, biased, **attributes)
            out = self.op("QuantizeLinear", self.op("Relu", made) if relu else made, *given)
        self.grids[out] = given
        return out

    def value(self, name: str) -> np.ndarray:
        return next(numpy_helper.to_array(t) for t in self.constants if t.name == name)

    def add(self, a: str, b: str, scale: float, zero: int, relu: bool = False) -> str:
        given = self.grid(scale, zero)
        if self.qlinear:
            out = self.op(
                "QLinearAdd", a, *self.grids[a], b, *self.grids[b], *given, domain="com.microsoft"
            )
        else:
            total = self.op("Add", self.real(a), self.real(b))
            out = self.op("QuantizeLinear", self.op("Relu", total) if relu else total, *given)
        self.grids[out] = given
        return out

    def model(self, out: str, channels: int, sizes: tuple[int, int] = (7, 9)) -> onnx.ModelProto:
        kind = TensorProto.INT8 if self.signed else TensorProto.UINT8
        graph = helper.make_graph(
            self.nodes,
            "net",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", channels, *sizes])],
            [helper.make_tensor_value_info(out, kind, ["N", None, None, None])],
            self.constants,
        )
        sets = [helper.make_opsetid("", self.opset), helper.make_opsetid("com.microsoft", 1)]
        proto = helper.make_model(graph, opset_imports=sets, ir_version=8)
        onnx.checker.check_model(proto)
        return proto


Steps = tuple[float, float, float]


def basic(
    net: Net, scales: tuple[float, float, float] = SHORT, relu: bool = False, **options: Any
) -> str:
    """Two 3x3 convolutions and their sum."""
    x = net.quantized("x", scales[0], 119)
    inner = net.conv(x, 8, 6, 0.02, 0, relu=relu, **options)
    last = net.conv(inner, 6, 8, scales[1], 140)
    return net.add(x, last, scales[2], 0 if relu else 132, relu)


def inverted(net: Net, scales: Steps = SHORT) -> str:
    """MobileNetV2's: 1x1, depthwise 3x3, 1x1."""
    x = net.quantized("x", scales[0], 119)
    wide = net.conv(x, 12, 6, 0.0235, 0, kernel=1)
    deep = net.conv(wide, 12, 12, 0.0235, 0, group=12)
    last = net.conv(deep, 6, 12, scales[1], 105, kernel=1)
    return net.add(last, x, scales[2], 132)


def run(proto: onnx.ModelProto, x: np.ndarray, *, optimized: bool = True) -> np.ndarray:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    if not optimized:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(proto.SerializeToString(), options)
    return session.run(None, {"x": x})[0].astype(np.int64)


def inputs(channels: int = 6, scale: float = 1.0) -> np.ndarray:
    x = np.random.default_rng(1).normal(0, 1.2 * scale, (4, channels, 7, 9)).astype(np.float32)
    x[0, 0, 0, :2] = 1e3, -1e3  # both ends of the grid
    return x


def removed(proto: onnx.ModelProto, **options: Any) -> tuple[onnx.ModelProto, Rewrite]:
    model = Model.load(proto)
    found = QuantizedReserveMerge(when="possible", **options).run(model, Context())
    assert not found.refusals, found.refusals[0].reason
    (rewrite,) = found.rewrites
    result = model.to_proto()
    onnx.checker.check_model(result)
    assert not Model.load(result).analyses.get(Skips())
    names = [node.name for node in result.graph.node]
    assert len(names) == len(set(names))
    return result, rewrite


def refused(proto: onnx.ModelProto, code: str, **options: Any) -> Refusal:
    model = Model.load(proto)
    before = model.to_proto().SerializeToString(deterministic=True)
    found = QuantizedReserveMerge(when="possible", **options).run(model, Context())
    (refusal,) = found.refusals
    assert refusal.code == code, refusal.reason
    assert model.to_proto().SerializeToString(deterministic=True) == before
    return refusal


@pytest.mark.parametrize("qlinear", [False, True], ids=["qdq", "qlinear"])
@pytest.mark.parametrize("signed", [False, True], ids=["uint8", "int8"])
@pytest.mark.parametrize("build", [basic, inverted])
@pytest.mark.parametrize("seed", range(3))
def test_every_code_stays(qlinear: bool, signed: bool, build: Any, seed: int) -> None:
    net = Net(qlinear, signed, seed=seed)
    proto = net.model(build(net), 6)
    result, rewrite = removed(proto)
    assert rewrite.exactness is Exactness.EXACT
    x = inputs()
    before = run(proto, x)
    assert len(np.unique(before)) > 60
    np.testing.assert_array_equal(run(result, x), before)
    np.testing.assert_array_equal(run(result, x, optimized=False), before)


@pytest.mark.parametrize("qlinear", [False, True], ids=["qdq", "qlinear"])
def test_steps_that_have_no_small_ratio(qlinear: bool) -> None:
    """Wide weights in floats; a few pairs of codes lie within float32's noise of a tie."""
    net = Net(qlinear)
    proto = net.model(basic(net, ODD), 6)
    result, rewrite = removed(proto)
    assert "held in floats" in rewrite.facts[0]
    x = inputs()
    differ = run(result, x) != run(proto, x)
    assert differ.mean() <= 1e-3
    outcome = optimize(proto, preset="plain")
    assert [one.fate for one in outcome.fates] == [Fate.REMOVED]
    assert not optimize(outcome.model, preset="plain").changed
    assert optimize(proto).fates[0].fate is Fate.KEPT  # it is not worth it on a CPU


def test_equal_steps_add_in_int8() -> None:
    net = Net(True)
    proto = net.model(basic(net, (0.03125, 0.03125, 0.0625)), 6)
    result, rewrite = removed(proto)
    assert "whole weights 1 and 1" in rewrite.facts[0]
    assert {node.op_type for node in result.graph.node} == {"QuantizeLinear", "QLinearConv"}
    x = inputs()
    np.testing.assert_array_equal(run(result, x), run(proto, x))


def test_a_relu_before_quantizers() -> None:
    net = Net(False)
    proto = net.model(basic(net, relu=True), 6)
    result, _ = removed(proto)
    x = inputs()
    np.testing.assert_array_equal(run(result, x), run(proto, x))
    # A zero point in the middle and a Relu leave half of the codes.
    net = Net(False)
    x_codes = net.quantized("x", SHORT[0], 119)
    inner = net.conv(x_codes, 8, 6, 0.02, 100, relu=True)
    out = net.add(x_codes, net.conv(inner, 6, 8, SHORT[1], 140), SHORT[2], 132)
    assert "too few" in refused(net.model(out, 6), "zero-point").reason


def test_a_relu_behind_the_sum_with_codes_below_it() -> None:
    net = Net(False)
    x = net.quantized("x", SHORT[0], 119)
    last = net.conv(net.conv(x, 8, 6, 0.02, 0), 6, 8, SHORT[1], 140)
    proto = net.model(net.add(x, last, SHORT[2], 60, relu=True), 6)
    result, _ = removed(proto)
    codes = run(proto, inputs())
    assert codes.min() == 60
    np.testing.assert_array_equal(run(result, inputs()), codes)


def test_padding_that_is_not_the_same_on_both_sides() -> None:
    net = Net(True)
    x = net.quantized("x", SHORT[0], 119)
    inner = net.conv(x, 8, 6, 0.02, 0, pads=[2, 0, 0, 2])
    last = net.conv(inner, 6, 8, SHORT[1], 140, pads=[0, 2, 2, 0])
    proto = net.model(net.add(x, last, SHORT[2], 132), 6)
    result, _ = removed(proto)
    np.testing.assert_array_equal(run(result, inputs()), run(proto, inputs()))


def test_one_scale_for_all_channels_and_an_old_opset() -> None:
    net = Net(True, opset=10)
    proto = net.model(basic(net, per_channel=False), 6)
    result, _ = removed(proto)
    np.testing.assert_array_equal(run(result, inputs()), run(proto, inputs()))


def test_blocks_behind_each_other() -> None:
    net = Net(True)
    here = net.quantized("x", SHORT[0], 119)
    for _ in range(3):
        last = net.conv(net.conv(here, 8, 6, 0.02, 0), 6, 8, SHORT[1], 140)
        here = net.add(here, last, SHORT[0] * 2, 132)
    proto = net.model(here, 6)
    outcome = optimize(proto, preset="plain")
    assert [one.fate for one in outcome.fates] == [Fate.REMOVED] * 3
    result = outcome.model.to_proto()
    np.testing.assert_array_equal(run(result, inputs()), run(proto, inputs()))


def test_few_bits_on_request() -> None:
    """Weights of int8 are at most 127: some pairs come out a code off, as many as are told."""
    net = Net(True)
    proto = net.model(basic(net, ODD), 6)
    refused(proto, "no-lattice", integer_limit=127)
    result, rewrite = removed(proto, integer_limit=127, approximate=True)
    assert rewrite.exactness is Exactness.BOUNDED
    assert all(node.op_type != "Conv" for node in result.graph.node)
    x = inputs(scale=3)
    off = np.abs(run(result, x) - run(proto, x))
    assert 0 < off.max() <= 1
    assert (off > 0).mean() < 0.05
    text = "reserve-merge-quantized{when=possible,integer_limit=127,approximate=true}"
    outcome = optimize(proto, pipeline=text)
    assert outcome.verification is not None
    assert outcome.verification.status is Status.BOUNDED
    assert "the report states the bounds" in outcome.verification.reason


def grid(scale: float, zero: int) -> Grid:
    return Grid(np.array(scale), np.array(float(zero)), 0, 255, False)


def wanted(branch: Grid, skip: Grid, out: Grid) -> np.ndarray:
    return sums(branch, skip, out, relu=False, qlinear=False)


@pytest.mark.parametrize("limit", [127, 32767])
def test_all_pairs_are_counted(limit: int) -> None:
    """What `weights` says of all 65,536 pairs is what a count says."""
    branch, skip, out = grid(0.0173, 140), grid(0.0311, 119), grid(0.0527, 132)
    codes = wanted(branch, skip, out)
    found = weights(branch, skip, out, codes, relu=False, limit=limit, approximate=limit == 127)
    b, x = np.meshgrid(np.arange(256) - 140, np.arange(256) - 119, indexing="ij")

    def counted(m: int, n: int, nudge: float = 0.0) -> int:
        real = 0.0173 / 0.0527 / m * (m * b + n * x + nudge)
        return int((np.clip(np.rint(real) + 132, 0, 255) != codes).sum())

    assert found.wrong == counted(found.m, found.n, found.nudge)
    assert (found.wrong == 0) == (limit > 127)
    assert found.pairs == 65536
    if limit > 127:
        assert all(counted(m, round(m * 0.0311 / 0.0173)) for m in range(1, found.m))


@pytest.mark.parametrize("qlinear", [False, True], ids=["qdq", "qlinear"])
@pytest.mark.parametrize("seed", range(5))
def test_sums_are_those_of_onnx_runtime(qlinear: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    steps = rng.uniform(0.01, 0.1, 3).astype(np.float32)
    zeros = rng.integers(0, 256, 3)
    net = Net(qlinear)
    net.grids = {name: net.grid(steps[i], zeros[i]) for i, name in enumerate("ab")}
    out = net.add("a", "b", steps[2], zeros[2])
    info = [
        helper.make_tensor_value_info(name, TensorProto.UINT8, [256, 256])
        for name in ("a", "b", out)
    ]
    graph = helper.make_graph(net.nodes, "sum", info[:2], info[2:], net.constants)
    sets = [helper.make_opsetid("", 13), helper.make_opsetid("com.microsoft", 1)]
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    proto = helper.make_model(graph, opset_imports=sets, ir_version=8)
    session = ort.InferenceSession(proto.SerializeToString(), options)
    a, b = np.meshgrid(np.arange(256), np.arange(256), indexing="ij")
    (got,) = session.run(None, {"a": a.astype(np.uint8), "b": b.astype(np.uint8)})
    grids = [grid(float(s), int(z)) for s, z in zip(steps, zeros, strict=True)]
    found = sums(*grids, relu=False, qlinear=qlinear)
    # A processor without fused multiply-adds rounds a sum or two otherwise.
    assert (got != found).sum() <= (3 if qlinear else 0)


def test_a_skip_that_is_much_finer_than_the_branch() -> None:
    grids = grid(1.0, 0), grid(1e-7, 0), grid(1.0, 0)
    with pytest.raises(Refused, match="no whole weights"):
        weights(*grids, wanted(*grids), relu=False, limit=100, approximate=False)


@pytest.mark.parametrize(
    ("code", "change"),
    [
        ("zero-point", "projection"),
        ("grouped", "groups"),
        ("no-quantizer-behind", "read"),
        ("read-elsewhere", "inner"),
        ("branch-not-a-chain", "pool"),
        ("weight-type", "uint8"),
        ("not-quantized", "float"),
        ("quantized-bias", "bias"),
    ],
)
def test_refused(code: str, change: str) -> None:
    net = Net(qlinear=change in ("groups", "pool", "uint8"))
    x = net.quantized("x", SHORT[0], 119)
    skip, out = x, None
    if change == "projection":
        skip = net.conv(x, 6, 6, SHORT[0], 90, kernel=1)
    inner = net.conv(x, 8, 6, 0.02, 0, group=2 if change == "groups" else 1)
    if change == "pool":
        pooled = net.op("MaxPool", inner, kernel_shape=[3, 3], pads=[1] * 4)
        net.grids[pooled] = net.grids[inner]
        inner = pooled
    last = net.conv(inner, 6, 8, SHORT[1], 140)
    if change == "read":
        out = net.op("Add", net.real(x), net.real(last))
    elif change == "float":
        out = net.quantized(net.op("Add", "x", net.real(last)), SHORT[2], 132)
    else:
        out = net.add(skip, last, SHORT[2], 132)
    proto = net.model(out, 6)
    if change == "read":
        proto.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT
    if change == "inner":
        kind = helper.make_tensor_value_info(inner, TensorProto.UINT8, ["N", 8, 7, 9])
        proto.graph.output.append(kind)
    tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
    convs = [node for node in proto.graph.node if node.op_type in ("Conv", "QLinearConv")]
    if change == "uint8":
        for place in (3, 5):
            tensor = tensors[convs[0].input[place]]
            array = numpy_helper.to_array(tensor).view(np.uint8)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    if change == "bias":
        maker = next(n for n in proto.graph.node if n.output[0] == convs[0].input[2])
        tensor = tensors[maker.input[1]]
        array = numpy_helper.to_array(tensor) * np.float32(1.37)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    if change == "float":
        # The fork is the float input then: the branch quantizes it, the skip does not.
        found = QuantizedReserveMerge(when="possible").run(Model.load(proto), Context())
        assert not found.rewrites
        return
    refused(proto, code)


def test_ties_of_an_odd_zero_point() -> None:
    """QLinearAdd rounds after it has added the zero point: where that is odd, ties go the other
    way than those of a convolution.
    """
    net = Net(True)
    x = net.quantized("x", SHORT[0], 119)
    last = net.conv(net.conv(x, 8, 6, 0.02, 0), 6, 8, SHORT[1], 140)
    proto = net.model(net.add(x, last, SHORT[2], 131), 6)
    refused(proto, "no-lattice")
    net = Net(False)  # QuantizeLinear rounds first
    x = net.quantized("x", SHORT[0], 119)
    last = net.conv(net.conv(x, 8, 6, 0.02, 0), 6, 8, SHORT[1], 140)
    proto = net.model(net.add(x, last, SHORT[2], 131), 6)
    result, _ = removed(proto)
    x = inputs()
    plain = run(proto, x, optimized=False)
    np.testing.assert_array_equal(run(result, x), plain)
    assert (run(proto, x) != plain).any()  # ONNX Runtime makes a QLinearAdd of it


def test_a_code_that_is_read_in_two_ways() -> None:
    """A QLinearConv may read codes with other steps than their maker had: it is its own that
    count.
    """
    net = Net(True)
    x = net.quantized("x", SHORT[0], 119)
    inner = net.conv(x, 8, 6, 0.02, 0)
    net.grids[inner] = net.grid(0.0173, 3)
    last = net.conv(inner, 6, 8, SHORT[1], 140)
    net.grids[last] = net.grid(0.05, 100)
    net.grids[x] = net.grid(0.0311, 77)
    proto = net.model(net.add(x, last, SHORT[2], 132), 6)
    result, _ = removed(proto)
    assert (run(result, inputs()) != run(proto, inputs())).mean() < 1e-3


def test_more_than_two_addends_are_refused() -> None:
    net = Net(False)
    x = net.quantized("x", SHORT[0], 119)
    last = net.real(net.conv(net.conv(x, 8, 6, 0.02, 0), 6, 8, SHORT[1], 140))
    skip = net.real(x)
    out = net.quantized(net.op("Sum", last, skip, skip), SHORT[2], 132)
    refused(net.model(out, 6), "many-paths")


def test_maps_of_other_sizes_are_refused() -> None:
    """A branch that ends at one pixel is repeated over the skip's map."""
    net = Net(True)
    x = net.quantized("x", SHORT[0], 119)
    inner = net.conv(x, 8, 6, 0.02, 0, pads=[0] * 4)
    last = net.conv(inner, 6, 8, SHORT[1], 140, kernel=1, pads=[0] * 4)
    refused(net.model(net.add(x, last, SHORT[2], 132), 6, (3, 3)), "broadcast")


def test_types_that_differ_are_refused() -> None:
    net = Net(False)
    x = net.quantized("x", SHORT[0], 119)
    net.signed = True
    inner = net.conv(x, 8, 6, 0.02, 0)
    net.signed = False
    last = net.conv(inner, 6, 8, SHORT[1], 140)
    refused(net.model(net.add(x, last, SHORT[2], 132), 6), "mixed-types")


def test_a_bias_beyond_32_bits_is_refused() -> None:
    net = Net(False)
    proto = net.model(basic(net), 6)
    conv = next(node for node in proto.graph.node if node.op_type == "Conv")
    maker = next(node for node in proto.graph.node if node.output[0] == conv.input[2])
    tensor = next(t for t in proto.graph.initializer if t.name == maker.input[1])
    array = numpy_helper.to_array(tensor) * np.float32(2**24)
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    assert "32 bits" in refused(proto, "quantized-bias").reason


def test_sums_that_are_almost_ties_stay_on_their_side() -> None:
    """Wide weights around large zero points: what is added to the sum must not be lost in it."""
    rng = np.random.default_rng(5)
    nudged = 0
    for seed in range(12):
        steps = rng.uniform(0.01, 0.05, 3)
        net = Net(True, seed=seed)
        x = net.quantized("x", float(steps[0]), 250)
        last = net.conv(net.conv(x, 8, 6, 0.02, 0), 6, 8, float(steps[1]), 3)
        proto = net.model(net.add(x, last, float(steps[2]), 132), 6)
        model = Model.load(proto)
        found = QuantizedReserveMerge(when="possible").run(model, Context())
        if not found.rewrites:
            assert found.refusals[0].code == "no-lattice"
            continue
        nudged += 1
        result = model.to_proto()
        x_in = np.random.default_rng(seed).uniform(-13, 1, (4, 6, 7, 9)).astype(np.float32)
        np.testing.assert_array_equal(run(result, x_in), run(proto, x_in))
        np.testing.assert_array_equal(run(result, x_in, optimized=False), run(proto, x_in))
    assert nudged > 6
