"""QONNX: a ModelWrapper there and back, and the operators against qonnx's own."""

from __future__ import annotations

import decimal
import itertools
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator
from qonnx.core.modelwrapper import ModelWrapper
from qonnx.core.onnx_exec import execute_onnx
from qonnx.custom_op.general.intquant import int_quant
from qonnx.custom_op.general.multithreshold import multithreshold
from qonnx.custom_op.general.trunc import trunc_v1, trunc_v2
from qonnx.transformation.infer_shapes import InferShapes

from graphopt.errors import GraphoptError
from graphopt.interop import qonnx
from graphopt.ir import Model
from graphopt.optimizer import Fate, optimize
from graphopt.verify.runtime import ReferenceRunner
from tests.support.blocks import Net
from tests.support.features import FEATURES, branch, conditional, info, node, note
from tests.support.features import model as parts
from tests.support.models import plain_model
from tests.support.same import assert_same

F = np.float32
GENERAL, LAST = "qonnx.custom_op.general", qonnx.CHANNELS_LAST_DOMAIN
MODES = [mode for mode in qonnx.ROUNDING if mode != "ROUND_TO_ZERO"]  # qonnx 1.0 lacks that one

STEPS = np.concatenate([np.arange(-12, 13) / 2, [-0.0, 0.49, -0.51, 1e-9, -1e-9, 127.5, 128.5]])
HURTS = np.concatenate([STEPS, [-128.5, 254.5, 255.5, 1e9, -1e9, np.inf, -np.inf]]).astype(F)
"""In steps of the grid: ties of both signs, both zeros, and what lies beyond every range."""


def operator(
    kind: str,
    inputs: Mapping[str, Any],
    domain: str = GENERAL,
    *,
    version: int = 1,
    shape: tuple[int, ...] | None = None,
    **attributes: Any,
) -> onnx.ModelProto:
    """A model of one operator: the first input is given, the others are weights."""
    (name, x), *others = inputs.items()
    made = helper.make_node(kind, list(inputs), ["y"], domain=domain, **attributes)
    proto = plain_model([made], {name: (x.dtype, x.shape)}, ["y"], dict(others), domains=[domain])
    proto.graph.output[0].CopyFrom(info("y", shape=shape or x.shape))
    proto.opset_import[1].version = version
    return proto


def ours(proto: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    return next(iter(ReferenceRunner(Model.load(proto)).run({"x": x}).values()))


def theirs(proto: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    wrapper = ModelWrapper(proto, make_deepcopy=True).transform(InferShapes())
    return next(iter(execute_onnx(wrapper, {"x": x}).values()))


# The wrapper -----------------------------------------------------------------------------------


def test_a_wrapper_is_read_as_it_is() -> None:
    given = FEATURES["quantization_annotations"]()
    wrapper = ModelWrapper(given)
    wrapper.set_tensor_datatype("t", wrapper.get_tensor_datatype("x"))
    read = qonnx.to_proto(wrapper)
    assert read == wrapper.model
    assert read is not wrapper.model
    kinds = {
        n.tensor_name: n.quant_parameter_tensor_names for n in read.graph.quantization_annotation
    }
    assert kinds["t"][0].value == "INT8"
    read.graph.name = "changed"
    assert wrapper.model.graph.name == "g"


def test_a_wrapper_is_made_without_cleaning_up() -> None:
    """qonnx's constructor would rename domains and add value_info."""
    given = FEATURES["foreign_domain_without_import"]()
    wrapper = qonnx.from_proto(given)
    assert isinstance(wrapper, ModelWrapper)
    assert wrapper.model is given
    assert_same(wrapper.model, FEATURES["foreign_domain_without_import"]())
    assert wrapper.graph.node[0].op_type == "Quant"


def test_without_qonnx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "qonnx.core.modelwrapper", None)
    with pytest.raises(GraphoptError, match=r"pip install 'graphopt\[qonnx\]'\.$"):
        qonnx.from_proto(FEATURES["unnamed_nodes"]())


def quantized_block(domain: str = GENERAL) -> onnx.ModelProto:
    """A residual block with 4-bit weights and activations."""
    net = Net(seed=4)

    def quantized(x: str, *, scale: float, signed: int, bits: int = 4) -> str:
        parameters = [net.const(value) for value in (scale, 0.0, bits)]
        return net.op("Quant", x, *parameters, domain=domain, signed=signed, narrow=0,
                      rounding_mode="ROUND")  # fmt: skip

    def conv(x: str, inputs: int, outputs: int) -> str:
        weight = net.const(net.rng.standard_normal((outputs, inputs, 3, 3)) / 4)
        read = quantized(weight, scale=1 / 16, signed=1)
        return net.op("Conv", x, read, kernel_shape=[3, 3], pads=[1] * 4)

    x = quantized(net.act(conv("x", 3, 4), "Relu"), scale=0.125, signed=0)
    h = quantized(net.act(conv(x, 4, 4), "Relu"), scale=0.125, signed=0)
    y = net.act(net.op("Add", conv(h, 4, 4), x), "Relu")
    y = quantized(y, scale=0.125, signed=0, bits=8)
    y = net.conv(y, 4, 2, 1)
    proto = net.model(y, (1, 3, 6, 5), opset_imports=((domain, 1),))
    proto.graph.output[0].CopyFrom(info(y, shape=(1, 2, 6, 5)))
    note(proto, "x", finn_datatype="INT8")
    return proto


def test_optimize_gives_a_wrapper_that_computes_the_same() -> None:
    wrapper = ModelWrapper(quantized_block())
    before = qonnx.to_proto(wrapper)
    outcome = optimize(wrapper)
    assert [one.fate for one in outcome.fates] == [Fate.KEPT]
    returned = outcome.model.restore()
    assert isinstance(returned, ModelWrapper)
    assert wrapper.model == before
    assert returned.get_tensor_datatype("x").name == "INT8"
    x = np.random.default_rng(0).integers(-128, 128, (1, 3, 6, 5)).astype(F)
    wanted = theirs(before, x)
    np.testing.assert_allclose(theirs(returned.model, x), wanted, atol=1e-5)
    np.testing.assert_allclose(ours(before, x), wanted, atol=1e-5)


@pytest.mark.parametrize("domain", qonnx.GENERAL_DOMAINS)
def test_every_domain_of_the_exporters(domain: str) -> None:
    x = np.random.default_rng(1).standard_normal((1, 3, 6, 5)).astype(F) * 3
    found, wanted = (ours(quantized_block(name), x) for name in (domain, GENERAL))
    np.testing.assert_array_equal(found, wanted)


# Rounding --------------------------------------------------------------------------------------

MEANING = {
    "ROUND": decimal.ROUND_HALF_EVEN,
    "HALF_EVEN": decimal.ROUND_HALF_EVEN,
    "HALF_UP": decimal.ROUND_HALF_UP,
    "HALF_DOWN": decimal.ROUND_HALF_DOWN,
    "CEIL": decimal.ROUND_CEILING,
    "FLOOR": decimal.ROUND_FLOOR,
    "UP": decimal.ROUND_UP,
    "DOWN": decimal.ROUND_DOWN,
    "ROUND_TO_ZERO": decimal.ROUND_DOWN,
}


@pytest.mark.parametrize("mode", qonnx.ROUNDING)
def test_rounding_modes_as_the_decimal_module_has_them(mode: str) -> None:
    values = STEPS.astype(F)
    wanted = [
        float(decimal.Decimal(float(v)).quantize(decimal.Decimal(1), MEANING[mode])) for v in values
    ]
    np.testing.assert_array_equal(qonnx.ROUNDING[mode](values), wanted)


def test_a_rounding_mode_that_does_not_exist() -> None:
    x = np.ones(1, F)
    with pytest.raises(ValueError, match=r"^rounding mode 'NEAREST' is none of ROUND, HALF_EVEN"):
        qonnx.quant(x, x, x, x, rounding_mode="NEAREST")


# Quant -----------------------------------------------------------------------------------------


def grids() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Scale and zero point: for all, per channel, and not a power of two."""
    yield F(0.25), F(0)
    yield F(0.5), F(3)
    yield np.array([0.25, 1, 4], F)[None, :, None], np.array([0, -2, 5], F)[None, :, None]
    yield np.array([0.1, 0.3, 7.7], F)[None, :, None], F(0)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("signed", [0, 1])
@pytest.mark.parametrize("narrow", [0, 1])
def test_quant(mode: str, signed: int, narrow: int) -> None:
    for (scale, zero), bits in itertools.product(grids(), (1, 2, 3, 4, 8, 9)):
        x = HURTS * np.broadcast_to(scale, (1, 3, 1))
        options = {"signed": signed, "narrow": narrow, "rounding_mode": mode}
        found = qonnx.quant(x, scale, zero, F(bits), **options)
        wanted = int_quant(x, scale, zero, F(bits), signed, narrow, mode)
        np.testing.assert_array_equal(found, wanted, f"{bits} bits, scale {scale}, zero {zero}")
        assert found.dtype == F


def test_quant_keeps_within_its_integers() -> None:
    """The limits from their definition: with two integers fewer than 2**bits where narrow."""
    for bits, signed, narrow in itertools.product(range(2, 9), (0, 1), (0, 1)):
        found = np.unique(
            qonnx.quant(np.arange(-300, 301).astype(F), F(1), F(0), F(bits), signed=signed,
                        narrow=narrow)
        )  # fmt: skip
        lowest = -(2 ** (bits - 1)) + narrow if signed else 0
        wanted = np.arange(lowest, lowest + 2**bits - narrow)
        np.testing.assert_array_equal(found, wanted)


def test_quant_with_bits_per_channel() -> None:
    """qonnx itself takes one number of bits; each channel is as if it stood alone."""
    bits = np.array([1, 2, 4], F)
    x = np.stack([HURTS, HURTS, HURTS], 1)
    together = qonnx.quant(x, F(0.5), F(1), bits)
    for channel, count in enumerate(bits):
        wanted = int_quant(x[:, channel], F(0.5), F(1), count, 1, 0, "ROUND")
        np.testing.assert_array_equal(together[:, channel], wanted)
    integers = qonnx.quant(x, F(0.5), F(1), bits.astype(np.int64))
    np.testing.assert_array_equal(integers, together)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_quant_keeps_the_type(dtype: type) -> None:
    x = np.array([-9, 0.3, 0.75, 9], dtype)
    found = qonnx.quant(x, F(0.5), F(0), F(3))
    assert found.dtype == dtype
    assert found.tolist() == [-2, 0.5, 1, 1.5]


@pytest.mark.parametrize("mode", ["round", "FLOOR", "half_up"])
@pytest.mark.parametrize("kind", ["Quant", "IntQuant"])
def test_quant_in_a_model(kind: str, mode: str) -> None:
    x = np.tile(np.clip(HURTS, -1e4, 1e4), (3, 1)).T.copy()
    inputs = {"x": x, "scale": np.array([0.5, 1, 3], F), "zero": F(1), "bits": F(4)}
    options = {"signed": 1, "narrow": 1, "rounding_mode": mode}
    proto = operator(kind, inputs, **options)
    np.testing.assert_array_equal(ours(proto, x), theirs(proto, x))


# BipolarQuant and Trunc ------------------------------------------------------------------------


@pytest.mark.parametrize("domain", [GENERAL, "onnx.brevitas"])
def test_bipolar_quant(domain: str) -> None:
    x = np.tile(HURTS, (3, 1)).T.copy()
    proto = operator("BipolarQuant", {"x": x, "scale": np.array([0.5, 1, 3], F)}, domain)
    found = ours(proto, x)
    np.testing.assert_array_equal(found, theirs(proto, x))
    assert (found[x == 0] > 0).all()
    assert set(np.abs(found).ravel()) == {0.5, 1, 3}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("before", "after"), [(8, 8), (8, 4), (5, 2), (16, 8)])
def test_trunc_of_version_1(mode: str, before: int, after: int) -> None:
    for scale, zero in grids():
        x = np.arange(-40, 41).astype(F) * np.broadcast_to(scale, (1, 3, 1))
        inputs = (x, scale, zero, F(before), F(after))
        wanted = trunc_v1(*inputs, mode)
        np.testing.assert_array_equal(qonnx.trunc(*inputs, rounding_mode=mode), wanted)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("signed", [0, 1])
@pytest.mark.parametrize("narrow", [0, 1])
def test_trunc_of_version_2(mode: str, signed: int, narrow: int) -> None:
    options = {"signed": signed, "narrow": narrow, "rounding_mode": mode}
    for (scale, zero), shift, after in itertools.product(grids(), (0, 1, 3), (2, 4, 8)):
        x = np.arange(-40, 41).astype(F) * np.broadcast_to(scale, (1, 3, 1))
        wider = (scale * 2**shift).astype(F)
        found = qonnx.trunc(x, scale, zero, F(8), wider, F(after), **options)
        wanted = trunc_v2(x, scale, zero, F(8), narrow, signed, wider, F(after), mode)
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("version", [1, 2])
def test_trunc_in_a_model(version: int) -> None:
    x = np.arange(-24, 24).astype(F).reshape(2, 24) / 4
    inputs = {"x": x, "scale": F(0.25), "zero": F(0), "bits": F(8)}
    inputs |= {"out_scale": F(1), "out_bits": F(3)} if version == 2 else {"out_bits": F(3)}
    proto = operator("Trunc", inputs, version=version, rounding_mode="FLOOR")
    np.testing.assert_array_equal(ours(proto, x), theirs(proto, x))


# MultiThreshold --------------------------------------------------------------------------------

LAYOUTS = [
    ("", (2, 3)),
    ("", (2, 5, 3)),
    ("", (2, 3, 4, 5)),
    ("NC", (2, 3)),
    ("NCW", (2, 3, 5)),
    ("NWC", (2, 5, 3)),
    ("NCHW", (2, 3, 4, 5)),
    ("NHWC", (2, 4, 5, 3)),
]


@pytest.mark.parametrize(("layout", "shape"), LAYOUTS)
@pytest.mark.parametrize("channels", [1, 3])
def test_multi_threshold(layout: str, shape: tuple[int, ...], channels: int) -> None:
    rng = np.random.default_rng(2)
    thresholds = np.sort(rng.integers(-4, 5, (channels, 7)), axis=1).astype(F)
    x = (rng.integers(-12, 13, shape) / 2).astype(F)
    options = {"out_dtype": "INT4", "out_scale": 0.5, "out_bias": -1.5}
    if layout:
        options["data_layout"] = layout
    proto = operator("MultiThreshold", {"x": x, "t": thresholds}, **options)
    found = ours(proto, x)
    np.testing.assert_array_equal(found, theirs(proto, x))
    assert found.dtype == F
    axis = layout.index("C") if layout else {3: 2}.get(x.ndim, 1)
    moved = multithreshold(np.moveaxis(x, axis, 1), thresholds, 0.5, -1.5)
    np.testing.assert_array_equal(np.moveaxis(found, axis, 1), moved)


def test_multi_threshold_reaches_a_threshold_that_it_equals() -> None:
    found = qonnx.multi_threshold(np.array([[0.9], [1], [2], [9]], F), np.array([[1, 2, 2]], F))
    assert found.ravel().tolist() == [0, 1, 3, 3]


def test_multi_threshold_of_integers_and_of_five_axes() -> None:
    x = np.arange(12).reshape(1, 3, 2, 2, 1)
    thresholds = np.array([[1], [5], [100]])
    found = qonnx.multi_threshold(x, thresholds)
    assert found.dtype == F
    wanted = [[0, 1, 1, 1], [0, 1, 1, 1], [0, 0, 0, 0]]
    np.testing.assert_array_equal(found.reshape(3, 4), wanted)


@pytest.mark.parametrize(("shape", "layout"), [((2, 4), ""), ((2, 3, 4), ""), ((3,), "NC")])
def test_multi_threshold_for_other_channels(shape: tuple[int, ...], layout: str) -> None:
    with pytest.raises(ValueError, match=r"thresholds for 3 channels, the input has shape \("):
        qonnx.multi_threshold(np.ones(shape, F), np.ones((3, 2), F), data_layout=layout)


# Operators with the channels last --------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "weights", "shape", "attributes"),
    [
        ("Conv", [(4, 3, 2, 6)], (1, 3, 3, 4),
         {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 0], "group": 1}),
        ("Conv", [(6, 3, 3, 2), (6,)], (1, 5, 4, 6),
         {"kernel_shape": [3, 3], "strides": [1, 1], "pads": [1] * 4, "group": 3}),
        ("MaxPool", [], (1, 2, 2, 6),
         {"kernel_shape": [2, 2], "strides": [2, 2], "pads": [0] * 4}),
        ("BatchNormalization", [(6,)] * 4, (1, 5, 4, 6), {"epsilon": 1e-3, "momentum": 0.9}),
    ],
)  # fmt: skip
def test_channels_last(
    kind: str, weights: list[tuple[int, ...]], shape: tuple[int, ...], attributes: dict[str, Any]
) -> None:
    rng = np.random.default_rng(3)
    arrays = {f"w{i}": rng.uniform(0.2, 2, size).astype(F) for i, size in enumerate(weights)}
    x = rng.standard_normal((1, 5, 4, 6)).astype(F)
    version = 9 if kind == "BatchNormalization" else 1
    inputs = {"x": x} | arrays
    proto = operator(kind, inputs, LAST, version=version, shape=shape, **attributes)
    found = ours(proto, x)
    assert found.flags.c_contiguous
    wrapper = ModelWrapper(proto, make_deepcopy=True)
    wanted = execute_onnx(wrapper, {"x": x})["y"]
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


# ONNX's own ------------------------------------------------------------------------------------


def in_onnx_runtime(proto: onnx.ModelProto, x: np.ndarray) -> Any:
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def resize(
    sizes: list[int] | None, scales: list[float] | None, opset: int, **attributes: Any
) -> Any:
    """x [1, 2, 4, 8]."""
    weights = {"roi": np.zeros(0, F), "scales": np.array(scales or [], F)}
    names = ["x", "roi", "scales"]
    if sizes is not None:
        weights["sizes"] = np.array(sizes, np.int64)
        names.append("sizes")
    made = helper.make_node("Resize", names, ["y"], mode="nearest", **attributes)
    return plain_model([made], {"x": (F, (1, 2, 4, 8))}, ["y"], weights, opset=opset)


@pytest.mark.parametrize("place", ["half_pixel", "asymmetric", "align_corners"])
@pytest.mark.parametrize("nearest", ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])
def test_resize_nearest(place: str, nearest: str) -> None:
    """Sizes and scales whose quotients binary numbers hold, so that a tie is a tie."""
    x = np.arange(64, dtype=F).reshape(1, 2, 4, 8)
    how = {"coordinate_transformation_mode": place, "nearest_mode": nearest}
    cases = [
        (None, s) for s in ([1, 1, 2, 0.5], [1, 1, 1.5, 4], [1, 0.5, 3.25, 1], [1, 1, 0.25, 1])
    ]
    cases += [(s, None) for s in ([1, 2, 8, 3], [1, 2, 1, 16], [1, 4, 7, 5], [1, 2, 4, 8])]
    for (sizes, scales), opset in itertools.product(cases, (11, 13, 18)):
        proto = resize(sizes, scales, opset, **how)
        (served,) = qonnx.reference_operators(proto)
        assert served.__name__ == "Resize"
        found = ReferenceEvaluator(proto, new_ops=[served]).run(None, {"x": x})[0]
        np.testing.assert_array_equal(found, in_onnx_runtime(proto, x), f"{sizes} {scales}")


@pytest.mark.parametrize(
    ("opset", "attributes", "served"),
    [
        (13, {}, True),
        (13, {"cubic_coeff_a": -0.75, "extrapolation_value": 1.0}, True),
        (10, {}, False),
        (13, {"coordinate_transformation_mode": "tf_crop_and_resize"}, False),
        (13, {"coordinate_transformation_mode": "pytorch_half_pixel"}, False),
        (13, {"exclude_outside": 1}, False),
        (18, {"antialias": 1}, False),
        (18, {"axes": [2, 3]}, False),
        (18, {"keep_aspect_ratio_policy": "not_larger"}, False),
    ],
)
def test_only_what_resize_nearest_computes_is_taken_over(
    opset: int, attributes: dict[str, Any], served: bool
) -> None:
    proto = resize(None, [1, 1, 2, 2], 13)
    proto.opset_import[0].version = opset
    proto.graph.node[0].attribute.extend(
        helper.make_attribute(name, value) for name, value in attributes.items()
    )
    assert bool(qonnx.reference_operators(proto)) is served


def test_a_linear_resize_leaves_all_to_the_evaluator() -> None:
    proto = resize(None, [1, 1, 2, 2], 13)
    other = onnx.NodeProto()
    other.CopyFrom(proto.graph.node[0])
    other.output[0] = "z"
    other.attribute[0].s = b"linear"
    proto.graph.node.append(other)
    assert not qonnx.reference_operators(proto)


def norm(opset: int, shape: tuple[int, ...] = (2, 3, 4, 5), **attributes: Any) -> Any:
    rng = np.random.default_rng(6)
    names = ["scale", "bias", "mean", "variance"]
    weights = {name: rng.uniform(0.2, 3, 3).astype(F) for name in names}
    made = helper.make_node("BatchNormalization", ["x", *names], ["y"], **attributes)
    return plain_model([made], {"x": (F, shape)}, ["y"], weights, opset=opset)


@pytest.mark.parametrize("opset", [7, 8, 9, 12, 13])
@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4), (2, 3, 4, 5), (1, 3, 2, 2, 2)])
def test_batch_normalization(opset: int, shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(7).standard_normal(shape).astype(F) * 5
    proto = norm(opset, shape, momentum=0.9, epsilon=1e-2)
    (served,) = qonnx.reference_operators(proto)
    found = ReferenceEvaluator(proto, new_ops=[served]).run(None, {"x": x})[0]
    np.testing.assert_allclose(found, in_onnx_runtime(proto, x), rtol=1e-5, atol=1e-5)
    assert found.dtype == F


def test_only_what_batch_normalization_computes_is_taken_over() -> None:
    assert not qonnx.reference_operators(norm(14, momentum=0.9))
    assert not qonnx.reference_operators(norm(15))
    assert qonnx.reference_operators(norm(7, spatial=1))
    unspatial, training = norm(7), norm(9)
    unspatial.graph.node[0].attribute.append(helper.make_attribute("spatial", 0))
    training.graph.node[0].output.extend(["m", "v"])
    for proto in (unspatial, training):
        assert not qonnx.reference_operators(proto)


# Operators and their domains -------------------------------------------------------------------


def test_only_known_operators_of_known_domains_are_served() -> None:
    nodes = [
        helper.make_node(kind, ["x"], [f"y{i}"], domain=domain)
        for i, (domain, kind) in enumerate(
            [
                (GENERAL, "Quant"),
                ("onnx.brevitas", "Quant"),
                ("finn", "MultiThreshold"),
                (GENERAL, "FloatQuant"),
                ("com.example", "Quant"),
                (LAST, "Conv"),
                (LAST, "AveragePool"),
                ("", "Trunc"),
            ]
        )
    ]
    served = {(one.op_domain, one.__name__) for one in qonnx.reference_operators(parts(nodes))}
    assert served == {
        (GENERAL, "Quant"),
        ("onnx.brevitas", "Quant"),
        ("finn", "MultiThreshold"),
        (LAST, "Conv"),
    }


def bipolar(x: str, y: str) -> onnx.NodeProto:
    return node("BipolarQuant", f"{x} one", y, domain="onnx.brevitas")


def hidden() -> onnx.ModelProto:
    """Operators of foreign domains in a branch and in a function, none of them imported."""
    proto = conditional(branch([bipolar("x", "a")], "a"))
    proto.graph.initializer.append(onnx.numpy_helper.from_array(F(2), "one"))
    body = [node("Constant", "", "one", value_float=3.0), bipolar("p", "q")]
    imports = [helper.make_opsetid("ai.onnx", 17)]
    proto.functions.append(helper.make_function("local", "F", ["p"], ["q"], body, imports))
    proto.functions[0].node[0].domain = "ai.onnx"
    proto.graph.node.append(node("F", "y", "z", domain="local"))
    proto.graph.output.append(info("z"))
    return proto


def test_domains_are_declared_where_they_are_used() -> None:
    proto = hidden()
    qonnx.declare_domains(proto)
    declared = [{o.domain: o.version for o in p.opset_import} for p in (proto, *proto.functions)]
    assert declared == [
        {"": 17, "local": 1, "onnx.brevitas": 1},
        {"": 17, "onnx.brevitas": 1},
    ]
    assert not proto.functions[0].node[0].domain
    again = onnx.ModelProto()
    again.CopyFrom(proto)
    qonnx.declare_domains(again)
    assert again == proto


def test_operators_in_branches_and_functions_run() -> None:
    x = np.array([[-1, 0, 5]], F)
    found = ReferenceRunner(Model.load(hidden())).run({"x": x, "c": np.array(True)})
    assert found["y"].tolist() == [[-2, 2, 2]]
    assert found["z"].tolist() == [[-3, 3, 3]]


def test_a_model_of_the_domain_ai_onnx_runs() -> None:
    proto = FEATURES["default_domain_by_name"]()
    qonnx.declare_domains(proto)
    assert [(o.domain, o.version) for o in proto.opset_import] == [("", 17)]
    (found,) = ReferenceEvaluator(proto).run(None, {"x": np.array([[-1, 0, 2]] * 2, F)})
    assert found.max() == 2
    assert found.min() == 0
