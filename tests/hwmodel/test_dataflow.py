"""ONNX graphs as kernels: each operator, where widths come from, what is refused; real models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.helper as oh
import pytest
from onnx import TensorProto

from graphopt import Model
from graphopt.errors import GraphoptError
from graphopt.ir.layers import Layers
from hwmodel.dataflow import Bits, UnsupportedLayer, map_model
from hwmodel.datatypes import DataType, integer
from hwmodel.design import Design
from hwmodel.kernels import (
    ChannelPadding,
    Concat,
    Downsample,
    Fork,
    GlobalPool,
    Join,
    LabelSelect,
    MatrixVector,
    MaxPool,
    Padding,
    Pool,
    Threshold,
    Upsample,
    VectorVector,
    Window,
)
from hwmodel.simulate import simulate

W4A4 = Bits.parse("w4a4")


def model(
    nodes: Sequence[onnx.NodeProto],
    arrays: dict[str, Any],
    shape: Sequence[Any] = (1, 4, 8, 8),
    output: str = "y",
    opset: int = 17,
) -> Model:
    """A model of these nodes from x to y."""
    domains = {node.domain for node in nodes} - {""}
    graph = oh.make_graph(
        nodes,
        "g",
        [oh.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [oh.make_tensor_value_info(output, TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(np.asarray(a), name) for name, a in arrays.items()],
    )
    opsets = [oh.make_opsetid("", opset), *(oh.make_opsetid(d, 1) for d in sorted(domains))]
    return Model.load(oh.make_model(graph, opset_imports=opsets, ir_version=8))


def weight(*shape: int) -> Any:
    return np.ones(shape, np.float32)


def conv(name: str, source: str, result: str, **attributes: Any) -> onnx.NodeProto:
    return oh.make_node("Conv", [source, name], [result], name=name, **attributes)


def kinds(design: Design) -> list[str]:
    return [type(kernel).__name__ for kernel in design.kernels]


def only(design: Design, kind: type) -> Any:
    (found,) = [kernel for kernel in design.kernels if isinstance(kernel, kind)]
    return found


def test_a_convolution_is_padding_window_and_unit() -> None:
    design = map_model(
        model(
            [conv("w", "x", "y", pads=[1, 0, 2, 1], strides=[2, 1], kernel_shape=[3, 3])],
            {"w": weight(6, 4, 3, 3)},
        ),
        bits=W4A4,
    )
    assert kinds(design) == ["Padding", "Window", "MatrixVector"]
    assert only(design, Padding).pads == (1, 0, 2, 1)
    window = only(design, Window)
    assert (window.height, window.width, window.stride) == (11, 9, (2, 1))
    unit = only(design, MatrixVector)
    assert (unit.mw, unit.mh, unit.vectors) == (36, 6, 5 * 7)
    assert unit.weight == integer(4, signed=True)
    # 36 products of at most 255 x 8: 17 bits and a sign.
    assert unit.accumulator == integer(18, signed=True)
    assert simulate(design, frames=2).status == "ok"


def test_a_pointwise_convolution_is_its_unit_alone_and_a_strided_one_has_a_window() -> None:
    plain = map_model(model([conv("w", "x", "y")], {"w": weight(6, 4, 1, 1)}), bits=W4A4)
    assert kinds(plain) == ["MatrixVector"]
    strided = map_model(
        model([conv("w", "x", "y", strides=[2, 2])], {"w": weight(6, 4, 1, 1)}), bits=W4A4
    )
    assert kinds(strided) == ["Window", "MatrixVector"]
    assert only(strided, MatrixVector).vectors == 16


def test_dilation_and_same_padding() -> None:
    design = map_model(
        model(
            [conv("w", "x", "y", dilations=[2, 2], auto_pad="SAME_UPPER")],
            {"w": weight(4, 4, 3, 3)},
        ),
        bits=W4A4,
    )
    assert only(design, Padding).pads == (2, 2, 2, 2)
    assert only(design, Window).dilation == (2, 2)
    assert only(design, MatrixVector).vectors == 64


def test_a_depthwise_convolution_is_a_vector_unit() -> None:
    design = map_model(
        model([conv("w", "x", "y", group=4, pads=[1] * 4)], {"w": weight(4, 1, 3, 3)}), bits=W4A4
    )
    assert only(design, Window).depthwise
    assert only(design, VectorVector).multiply_adds == 64 * 4 * 9


def test_an_activation_becomes_thresholds_and_norms_nothing() -> None:
    vector = np.ones(6, np.float32)
    design = map_model(
        model(
            [
                conv("w", "x", "a"),
                oh.make_node("BatchNormalization", ["a", "s", "b", "m", "v"], ["n"]),
                oh.make_node("Relu", ["n"], ["y"], name="relu"),
            ],
            {"w": weight(6, 4, 1, 1), "s": vector, "b": vector, "m": vector, "v": vector},
        ),
        bits=W4A4,
    )
    assert kinds(design) == ["MatrixVector", "Threshold"]
    threshold = only(design, Threshold)
    assert (threshold.channels, threshold.steps) == (6, 15)
    assert threshold.output == integer(4, signed=False)


def residual(shape: Sequence[Any] = (1, 4, 8, 8)) -> Model:
    return model(
        [
            oh.make_node("Relu", ["x"], ["r"], name="r"),
            conv("w1", "r", "a", pads=[1] * 4),
            oh.make_node("Relu", ["a"], ["b"], name="b"),
            conv("w2", "b", "c", pads=[1] * 4),
            oh.make_node("Add", ["c", "r"], ["d"], name="add"),
            oh.make_node("Relu", ["d"], ["y"], name="out"),
        ],
        {"w1": weight(4, 4, 3, 3), "w2": weight(4, 4, 3, 3)},
        shape,
    )


@pytest.mark.parametrize("batch", [1, "N"])
def test_a_residual_block_is_fork_and_join(batch: Any) -> None:
    design = map_model(residual((batch, 4, 8, 8)), bits=W4A4)
    fork, join = only(design, Fork), only(design, Join)
    assert fork.ways == 2
    assert join.operands[1] == integer(4, signed=False)
    assert design.layer_of(join.name) == "add"
    assert simulate(design, frames=2).status == "ok"


def test_products_of_matrices_and_tokens() -> None:
    flat = map_model(
        model(
            [
                oh.make_node("Flatten", ["x"], ["f"]),
                oh.make_node("Gemm", ["f", "w"], ["y"], transB=1),
            ],
            {"w": weight(10, 256)},
        ),
        bits=W4A4,
    )
    assert (only(flat, MatrixVector).mw, only(flat, MatrixVector).mh) == (256, 10)
    tokens = map_model(
        model([oh.make_node("MatMul", ["x", "w"], ["y"])], {"w": weight(16, 24)}, (1, 7, 16)),
        bits=W4A4,
    )
    assert only(tokens, MatrixVector).vectors == 7


@pytest.mark.parametrize(
    ("node", "kind", "shape"),
    [
        (oh.make_node("MaxPool", ["a"], ["y"], kernel_shape=[2, 2], strides=[2, 2]), MaxPool, 4),
        (
            oh.make_node(
                "MaxPool", ["a"], ["y"], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4
            ),
            Pool,
            4,
        ),
        (oh.make_node("AveragePool", ["a"], ["y"], kernel_shape=[2, 2], strides=[2, 2]), Pool, 4),
        (oh.make_node("AveragePool", ["a"], ["y"], kernel_shape=[8, 8]), GlobalPool, 1),
        (oh.make_node("GlobalAveragePool", ["a"], ["y"]), GlobalPool, 1),
        (oh.make_node("ReduceMean", ["a"], ["y"], axes=[2, 3]), GlobalPool, 1),
        (
            oh.make_node("MaxPool", ["a"], ["y"], kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
            Pool,
            4,
        ),
    ],
)
def test_pools(node: onnx.NodeProto, kind: type, shape: int) -> None:
    design = map_model(model([oh.make_node("Relu", ["x"], ["a"], name="a"), node], {}), bits=W4A4)
    (out,) = [stream for stream in design.streams if stream.sink is None]
    assert isinstance(design.kernels[-1], kind)
    assert out.words * out.elements == 4 * shape * shape
    assert simulate(design, frames=2).status == "ok"


def test_moves_of_channels_and_pixels() -> None:
    nodes = [
        oh.make_node("Relu", ["x"], ["a"], name="a"),
        oh.make_node("Slice", ["a", "start", "end", "axes", "steps"], ["s"], name="s"),
        oh.make_node("Pad", ["s", "pads"], ["p"], name="p"),
        oh.make_node("Concat", ["p", "p"], ["c"], axis=1, name="c"),
        oh.make_node("Resize", ["c", "", "scales"], ["y"], name="u", mode="nearest"),
    ]
    design = map_model(
        model(
            nodes,
            {
                "start": np.array([0, 0]),
                "end": np.array([8, 8]),
                "axes": np.array([2, 3]),
                "steps": np.array([2, 2]),
                "pads": np.array([0, 2, 0, 0, 0, 2, 0, 0]),
                "scales": np.array([1, 1, 2, 2], np.float32),
            },
        ),
        bits=W4A4,
    )
    assert [type(k) for k in design.kernels if not isinstance(k, Threshold | Fork)] == [
        Downsample, ChannelPadding, Concat, Upsample,
    ]  # fmt: skip
    assert only(design, Concat).channels == (8, 8)
    assert simulate(design, frames=2).status == "ok"


def test_the_label_of_the_largest() -> None:
    design = map_model(
        model(
            [
                oh.make_node("Gemm", ["x", "w"], ["a"], name="gemm"),
                oh.make_node("TopK", ["a", "k"], ["v", "y"], name="top"),
            ],
            {"w": weight(12, 10), "k": np.array([3])},
            (1, 12),
        ),
        bits=W4A4,
    )
    select = only(design, LabelSelect)
    assert (select.labels, select.k) == (10, 3)


def quant(source: str, result: str, bits: float, signed: int = 1) -> onnx.NodeProto:
    return oh.make_node(
        "Quant",
        [source, "one", "zero", f"bits{bits:g}"],
        [result],
        name=result,
        domain="qonnx.custom_op.general",
        signed=signed,
        narrow=0,
        rounding_mode="ROUND",
    )


QUANT = {
    "one": np.float32(1),
    "zero": np.float32(0),
    "bits2": np.float32(2),
    "bits3": np.float32(3),
    "bits5": np.float32(5),
}


def test_widths_of_qonnx_quantizers() -> None:
    design = map_model(
        model(
            [
                quant("x", "q", 5, signed=0),
                quant("w", "qw", 3),
                oh.make_node("Conv", ["q", "qw"], ["a"], name="conv"),
                oh.make_node("Relu", ["a"], ["r"], name="r"),
                quant("r", "y", 2, signed=0),
            ],
            {**QUANT, "w": weight(6, 4, 1, 1)},
        )
    )
    unit = only(design, MatrixVector)
    assert (unit.input, unit.weight) == (integer(5, signed=False), integer(3, signed=True))
    assert only(design, Threshold).output == integer(2, signed=False)
    assert kinds(design) == ["MatrixVector", "Threshold"]


def test_widths_of_bipolar_and_qdq() -> None:
    bipolar = map_model(
        model(
            [
                oh.make_node("BipolarQuant", ["x", "one"], ["q"], domain="qonnx.custom_op.general"),
                oh.make_node("BipolarQuant", ["w", "one"], ["b"], domain="qonnx.custom_op.general"),
                oh.make_node("MatMul", ["q", "b"], ["y"], name="m"),
            ],
            {**QUANT, "w": weight(12, 10)},
            (1, 12),
        )
    )
    unit = only(bipolar, MatrixVector)
    assert unit.input == unit.weight == DataType.parse("BIPOLAR")
    scale, zero, zero_u = np.float32(0.1), np.int8(0), np.uint8(0)
    qdq = map_model(
        model(
            [
                oh.make_node("QuantizeLinear", ["x", "s", "zu"], ["q"]),
                oh.make_node("DequantizeLinear", ["q", "s", "zu"], ["d"]),
                oh.make_node("DequantizeLinear", ["w", "s", "z"], ["dw"]),
                oh.make_node("Conv", ["d", "dw"], ["a"], name="conv"),
                oh.make_node("QuantizeLinear", ["a", "s", "z"], ["qa"], name="qa"),
                oh.make_node("DequantizeLinear", ["qa", "s", "z"], ["y"]),
            ],
            {"s": scale, "z": zero, "zu": zero_u, "w": np.ones((6, 4, 1, 1), np.int8)},
        )
    )
    unit = only(qdq, MatrixVector)
    assert (unit.input, unit.weight) == (integer(8, signed=False), integer(8, signed=True))
    assert unit.backend == "rtl"
    assert only(qdq, Threshold).output == integer(8, signed=True)


def test_widths_for_the_ends() -> None:
    bits = Bits.parse("w2a3, first=w8a8, last=w5a6")
    design = map_model(
        model(
            [
                conv("w1", "x", "a"),
                oh.make_node("Relu", ["a"], ["b"], name="b"),
                conv("w2", "b", "c"),
                oh.make_node("Relu", ["c"], ["d"], name="d"),
                conv("w3", "d", "y"),
            ],
            {name: weight(4, 4, 1, 1) for name in ("w1", "w2", "w3")},
        ),
        bits=bits,
    )
    units = [k for k in design.kernels if isinstance(k, MatrixVector)]
    assert [u.weight.bits for u in units] == [8, 2, 5]
    assert [u.input.bits for u in units] == [8, 3, 3]


@pytest.mark.parametrize("text", ["4", "w0a4", "w4", "w4a4,middle=w8a8", "w4a99", ""])
def test_bad_widths_get_a_sentence(text: str) -> None:
    with pytest.raises(GraphoptError, match="is no width"):
        Bits.parse(text)


@pytest.mark.parametrize(
    ("nodes", "arrays", "message"),
    [
        ([conv("w", "x", "y", group=2)], {"w": weight(4, 2, 1, 1)}, "2 groups"),
        ([oh.make_node("Gelu", ["x"], ["y"], name="g")], {}, r"g \(Gelu\) cannot be mapped"),
        ([oh.make_node("MatMul", ["x", "x"], ["y"], name="m")], {}, "both of its sides"),
        ([conv("w", "x", "y")], {"w": weight(4, 4, 9, 9)}, "larger than the map"),
        (
            [
                oh.make_node("GlobalAveragePool", ["x"], ["g"], name="g"),
                oh.make_node("Mul", ["x", "g"], ["y"], name="gate"),
            ],
            {},
            "different sizes",
        ),
    ],
)
def test_what_no_kernel_runs_is_refused(
    nodes: Sequence[onnx.NodeProto], arrays: dict[str, Any], message: str
) -> None:
    with pytest.raises(UnsupportedLayer, match=message):
        map_model(model(nodes, arrays, opset=20), bits=W4A4)


def test_a_float_model_asks_for_widths() -> None:
    with pytest.raises(UnsupportedLayer, match="--bits w4a4"):
        map_model(residual())


REAL = [
    "cifar10/resnet20_torch213_opset13.onnx",
    "cifar10/cidr_resnet8_fp32.onnx",
    "cifar10/mlperf_resnet8_int8_qdq_K1.onnx",
    "cifar10/mlperf_resnet8_tf2onnx.onnx",
    "imagenet/light_resnet50.onnx",
    "imagenet/light_squeezenet.onnx",
    "imagenet/mobilenetv2-12-int8.onnx",
    "kws_vww/mlperf_vww_mbv1_int8_qdq.onnx",
    "qonnx_finn/zoo_TFC_2W2A.onnx",
    "qonnx_finn/zoo_TFC_1W1A.onnx",
    "qonnx_finn/finn_build_dataflow_tfc.onnx",
]


@pytest.mark.real_models
@pytest.mark.parametrize("name", REAL)
def test_real_models_map_with_their_multiply_adds(shared: Path, name: str) -> None:
    path = shared / "data" / "models" / name
    loaded = Model.load(path)
    quantized = "int8" in name or "qonnx" in name
    design = map_model(loaded, bits=None if quantized else W4A4)
    made = sum(getattr(kernel, "multiply_adds", 0) for kernel in design.kernels)
    counted = sum(layer.multiply_adds for layer in loaded.analyses.get(Layers()))
    assert made > 0
    if counted:
        # A batch that is fixed in the model counts there, a frame is one sample; the view of the
        # layers counts no product whose weights come through a Transpose.
        samples = round(counted / made)
        assert 0 <= samples * made - counted <= 0.005 * counted
