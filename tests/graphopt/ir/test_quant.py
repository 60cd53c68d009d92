"""On which grid each tensor lies: what is claimed, against what is computed."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from graphopt.interop import qonnx
from graphopt.ir import Grid, Model, Quantization

GENERAL = "qonnx.custom_op.general"


class Net:
    """Builds a graph on one input `x` of shape [1, 4, 3, 3]."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, values: Any, dtype: Any = np.float32) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def op(self, kind: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        name = f"{kind.lower()}{len(self.nodes)}"
        node = helper.make_node(kind, inputs, [name], name=name, domain=domain, **attributes)
        self.nodes.append(node)
        return name

    def quant(self, x: str, scale: Any, bits: int, zero: float = 0.0, **attributes: Any) -> str:
        parameters = [self.constant(value) for value in (scale, zero, bits)]
        given = {"signed": 1, "narrow": 0, "rounding_mode": "ROUND"} | attributes
        return self.op("Quant", x, *parameters, domain=GENERAL, **given)

    def model(self, output: str, dtype: int = TensorProto.FLOAT) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "net",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 3, 3])],
            [helper.make_tensor_value_info(output, dtype, None)],
            self.constants,
        )
        domains = [("", 19), (GENERAL, 1), ("com.microsoft", 1)]
        opsets = [helper.make_opsetid(*domain) for domain in domains]
        return helper.make_model(graph, opset_imports=opsets, ir_version=9)

    def grid(self, output: str, dtype: int = TensorProto.FLOAT) -> Grid:
        """The grid of a tensor, which all that is computed for many inputs lies on."""
        proto = self.model(output, dtype)
        grid = Model.load(proto).analyses.get(Quantization())[output]
        evaluator = ReferenceEvaluator(proto, new_ops=qonnx.reference_operators(proto))
        rng = np.random.default_rng(0)
        for spread in (0.1, 1.0, 40.0):
            x = (rng.normal(size=(1, 4, 3, 3)) * spread).astype(np.float32)
            (found,) = evaluator.run(None, {"x": x})
            found = np.asarray(found, np.float64)
            codes = found if grid.codes else found / grid.scale + grid.zero_point
            np.testing.assert_allclose(codes, np.rint(codes), atol=1e-3)
            assert grid.low - 1e-3 <= codes.min()
            assert codes.max() <= grid.high + 1e-3
        return grid


@pytest.mark.parametrize(
    ("attributes", "wanted"),
    [
        ({}, (-8, 7)),
        ({"narrow": 1}, (-7, 7)),
        ({"signed": 0}, (0, 15)),
        ({"signed": 0, "narrow": 1}, (0, 14)),
    ],
)
def test_quant(attributes: dict[str, int], wanted: tuple[int, int]) -> None:
    net = Net()
    grid = net.grid(net.quant("x", 0.25, 4, **attributes))
    assert (grid.low, grid.high) == wanted
    assert (grid.bits, float(grid.scale)) == (4, 0.25)
    assert grid.signed == bool(attributes.get("signed", 1))
    assert grid.rounding == "ROUND"
    assert grid.per_tensor
    assert grid.symmetric
    assert not grid.codes
    assert grid.real(3) == 0.75


def test_quant_by_channel_and_with_a_zero_point() -> None:
    net = Net()
    scale = np.array([0.1, 0.2, 0.3, 0.4]).reshape(1, 4, 1, 1)
    grid = net.grid(net.quant("x", scale, 4))
    assert not grid.per_tensor
    assert grid.scale.shape == (1, 4, 1, 1)
    grid = net.grid(net.quant("x", 0.5, 4, zero=3.0, signed=0))
    assert not grid.symmetric
    assert grid.real(3) == 0


def test_bipolar() -> None:
    net = Net()
    grid = net.grid(net.op("BipolarQuant", "x", net.constant(0.75), domain=GENERAL))
    assert (grid.low, grid.high, grid.bits) == (0, 1, 1)
    assert [float(grid.real(code)) for code in (0, 1)] == [-0.75, 0.75]


def test_trunc() -> None:
    net = Net()
    wide = net.quant("x", 0.25, 8)
    parameters = [net.constant(value) for value in (0.25, 0.0, 8.0, 4.0)]
    grid = net.grid(net.op("Trunc", wide, *parameters, domain=GENERAL, rounding_mode="FLOOR"))
    assert (grid.low, grid.high, float(grid.scale)) == (-8, 8, 0.25)


@pytest.mark.parametrize("bias", [0.0, -4.0, 0.5])
def test_multi_threshold(bias: float) -> None:
    net = Net()
    table = net.constant(np.linspace(-2, 2, 7)[None].repeat(4, 0))
    grid = net.grid(
        net.op("MultiThreshold", "x", table, domain=GENERAL, out_scale=1.0, out_bias=bias)
    )
    assert grid.high - grid.low == 7
    assert float(grid.real(grid.low)) == bias
    assert grid.symmetric == (bias != 0.5)


def test_qdq() -> None:
    net = Net()
    scale, zero = net.constant(0.1), net.constant(5, np.int8)
    codes = net.op("QuantizeLinear", "x", scale, zero)
    grid = net.grid(codes, TensorProto.INT8)
    assert grid.codes
    assert (grid.low, grid.high, float(grid.zero_point)) == (-128, 127, 5)
    grid = net.grid(net.op("DequantizeLinear", codes, scale, zero))
    assert not grid.codes
    assert float(grid.scale) == pytest.approx(0.1)
    assert float(grid.real(5)) == 0


def test_qdq_by_channel() -> None:
    net = Net()
    scale, zero = net.constant([0.1, 0.2, 0.3, 0.4]), net.constant([0] * 4, np.uint8)
    codes = net.op("QuantizeLinear", "x", scale, zero, axis=1)
    grid = net.grid(net.op("DequantizeLinear", codes, scale, zero, axis=1))
    assert grid.scale.shape == (1, 4, 1, 1)
    assert (grid.low, grid.high) == (0, 255)


def test_operators_that_stay_on_the_grid() -> None:
    net = Net()
    x = net.quant("x", 0.25, 4)
    assert net.grid(net.op("Relu", x)).low == 0
    assert net.grid(net.op("MaxPool", x, kernel_shape=[2, 2])).low == -8
    assert net.grid(net.op("Flatten", x)).bits == 4
    assert float(net.grid(net.op("Mul", x, net.constant(2.0))).scale) == 0.5
    assert float(net.grid(net.op("Div", x, net.constant(2.0))).scale) == 0.125
    assert float(net.grid(net.op("Add", x, net.constant(0.1))).zero_point) == pytest.approx(-0.4)
    total = net.grid(net.op("Add", x, net.quant("x", 0.25, 3)))
    assert (total.low, total.high, total.bits) == (-12, 10, 5)


def test_tensors_on_no_one_grid() -> None:
    net = Net()
    x, other = net.quant("x", 0.25, 4), net.quant("x", 0.3, 4)
    scale = np.array([0.1, 0.2, 0.3, 0.4]).reshape(1, 4, 1, 1)
    outputs = [
        net.op("Add", x, other),
        net.op("Concat", x, other, axis=1),
        net.op("Flatten", net.quant("x", scale, 4)),
        net.op("Mul", x, net.constant(-1.0)),
        net.op("Sigmoid", x),
    ]
    table = Model.load(net.model(outputs[0])).analyses.get(Quantization())
    assert not set(outputs) & set(table)


def test_finn_annotations() -> None:
    net = Net()
    proto = net.model(net.op("Relu", "x"))
    note = proto.graph.quantization_annotation.add()
    note.tensor_name = "x"
    note.quant_parameter_tensor_names.add(key="finn_datatype", value="INT3")
    grid = Model.load(proto).analyses.get(Quantization())["x"]
    assert (grid.low, grid.high, grid.codes) == (-4, 3, True)


def test_qlinear_operators() -> None:
    net = Net()
    scale, zero = net.constant(0.1), net.constant(0, np.uint8)
    codes = net.op("QuantizeLinear", "x", scale, zero)
    out = net.constant(0.3), net.constant(7, np.uint8)
    total = net.op(
        "QLinearAdd", codes, scale, zero, codes, scale, zero, *out, domain="com.microsoft"
    )
    pooled = net.op("QLinearGlobalAveragePool", total, *out, scale, zero, domain="com.microsoft")
    table = Model.load(net.model(pooled, TensorProto.UINT8)).analyses.get(Quantization())
    assert (float(table[total].scale), float(table[total].zero_point)) == (pytest.approx(0.3), 7)
    assert float(table[pooled].scale) == pytest.approx(0.1)


def test_arithmetic_on_codes_is_not_that_of_the_real_numbers() -> None:
    net = Net()
    codes = net.op("QuantizeLinear", "x", net.constant(0.1), net.constant(0, np.int8))
    outputs = [
        net.op("Mul", codes, net.constant(2, np.int8)),
        net.op("Add", codes, net.constant(2, np.int8)),
        net.op("Add", codes, codes),
    ]
    table = Model.load(net.model(outputs[0], TensorProto.INT8)).analyses.get(Quantization())
    assert codes in table
    assert not set(outputs) & set(table)
