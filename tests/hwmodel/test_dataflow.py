"""ONNX graphs as kernels: each operator, where widths come from, what is refused; real models."""

from __future__ import annotations

import math
import random
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
from hwmodel.dataflow import Bits, UnsupportedLayer, map_model, mapped, precision
from hwmodel.dataflow.layout import CannotReshape, Layout
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


def test_widths_for_a_layer_by_name_and_for_one_side() -> None:
    nodes = [
        conv("w1", "x", "a"),
        oh.make_node("Relu", ["a"], ["b"], name="b"),
        conv("w2", "b", "c"),
        oh.make_node("Relu", ["c"], ["d"], name="d"),
        conv("w3", "d", "y"),
    ]
    loaded = model(nodes, {name: weight(4, 4, 1, 1) for name in ("w1", "w2", "w3")})
    design = map_model(loaded, bits=Bits.parse("w2a3,w2=w6a2,last=w8"))
    units = [k for k in design.kernels if isinstance(k, MatrixVector)]
    assert [u.weight.bits for u in units] == [2, 6, 8]
    assert [u.input.bits for u in units] == [8, 2, 3]
    with pytest.raises(GraphoptError, match="no layer with weights is named 'middle'"):
        map_model(loaded, bits=Bits.parse("w2a3,middle=w8"))


@pytest.mark.parametrize(
    "text", ["4", "w0a4", "w4", "w4a4,first=", "w4a4,w8a8", "w4a4,last=8", "w4a99", ""]
)
def test_bad_widths_get_a_sentence(text: str) -> None:
    with pytest.raises(GraphoptError, match="is no width"):
        Bits.parse(text)


@pytest.mark.parametrize(
    ("nodes", "arrays", "message"),
    [
        ([oh.make_node("Erf", ["x"], ["y"], name="g")], {}, r"g \(Erf\) cannot be mapped"),
        ([oh.make_node("MatMul", ["x", "x"], ["y"], name="m")], {}, "both of its sides"),
        ([conv("w", "x", "y")], {"w": weight(4, 4, 9, 9)}, "larger than the map"),
        (
            [
                oh.make_node("GlobalAveragePool", ["x"], ["g"], name="g"),
                oh.make_node("Mul", ["x", "g"], ["y"], name="gate"),
            ],
            {},
            "not over 8 x 6",
        ),
        (
            [
                conv("w", "x", "a"),
                oh.make_node("Transpose", ["a"], ["b"], perm=[0, 1, 3, 2]),
                conv("v", "b", "y"),
            ],
            {"w": weight(4, 4, 1, 1), "v": weight(4, 4, 3, 3)},
            "turned in a memory",
        ),
        (
            [
                conv("v", "x", "a"),
                oh.make_node("Reshape", ["a", "tokens"], ["t"]),
                oh.make_node("MatMul", ["t", "w"], ["y"], name="mix"),
            ],
            {"tokens": np.array([1, 4, 48]), "w": weight(48, 48), "v": weight(4, 4, 1, 1)},
            r"mix \(MatMul\) .* turned in a memory",
        ),
        (
            [
                conv("w", "x", "a"),
                oh.make_node("Softmax", ["a"], ["b"], name="soft"),
                conv("v", "b", "y"),
            ],
            {"w": weight(4, 4, 1, 1), "v": weight(4, 4, 1, 1)},
            r"soft \(Softmax\)",
        ),
    ],
)
def test_what_no_kernel_runs_is_refused(
    nodes: Sequence[onnx.NodeProto], arrays: dict[str, Any], message: str
) -> None:
    with pytest.raises(UnsupportedLayer, match=message):
        map_model(model(nodes, arrays, (1, 4, 8, 6), opset=20), bits=W4A4)


def test_groups_are_one_unit_and_copies_of_channels_units_of_their_own() -> None:
    groups = map_model(model([conv("w", "x", "y", group=2)], {"w": weight(4, 2, 3, 3)}), bits=W4A4)
    unit = only(groups, MatrixVector)
    assert (unit.mw, unit.mh, unit.vectors) == (36, 4, 36)
    copies = map_model(model([conv("w", "x", "y", group=4)], {"w": weight(8, 1, 3, 3)}), bits=W4A4)
    assert kinds(copies) == ["Window", "Fork", "VectorVector", "VectorVector", "Concat"]
    assert only(copies, Concat).channels == (4, 4)
    assert simulate(copies, frames=2).status == "ok"


def test_a_gate_is_repeated_over_the_map() -> None:
    nodes = [
        conv("w", "x", "a"),
        oh.make_node("Relu", ["a"], ["r"]),
        oh.make_node("GlobalAveragePool", ["r"], ["p"]),
        conv("v", "p", "q"),
        oh.make_node("Sigmoid", ["q"], ["s"]),
        oh.make_node("Mul", ["r", "s"], ["m"], name="gate"),
        conv("u", "m", "y"),
    ]
    arrays = {name: weight(4, 4, 1, 1) for name in "wvu"}
    design = map_model(model(nodes, arrays), bits=W4A4)
    repeat, gate = only(design, Upsample), only(design, Join)
    assert (repeat.height, repeat.width, repeat.channels, repeat.scale) == (1, 1, 4, 8)
    assert (gate.function, gate.elements, gate.output.name) == ("mul", 256, "UINT8")
    assert design.layer_of(repeat.name) == "gate"
    # The skip waits for the mean of the whole map.
    (skip,) = (s for s in design.streams if s.sink and s.sink.kernel == "gate" and s.sink.port == 0)
    depths = {s.name: 2 for s in design.streams}
    assert simulate(design.with_depths(depths), frames=1).status == "deadlock"
    assert simulate(design.with_depths({**depths, skip.name: 256}), frames=2).status == "ok"


@pytest.mark.parametrize("operator", ["HardSwish", "Gelu"])
def test_an_activation_that_is_no_staircase_is_a_gate(operator: str) -> None:
    nodes = [conv("w", "x", "a"), oh.make_node(operator, ["a"], ["y"], name="act")]
    loaded = model(nodes, {"w": weight(4, 4, 1, 1)}, opset=20)
    design = map_model(loaded, bits=W4A4)
    assert kinds(design) == ["MatrixVector", "Threshold", "Fork", "Threshold", "Join"]
    assert [t.name for t in only(design, Join).operands] == ["INT4", "UINT4"]
    alone = model([oh.make_node(operator, ["x"], ["y"], name="act")], {}, opset=20)
    with pytest.raises(UnsupportedLayer, match=r"act .* --bits"):
        map_model(alone)


def test_what_follows_the_last_weights_may_stay_on_the_host() -> None:
    nodes = [
        conv("w", "x", "a"),
        oh.make_node("Softmax", ["a"], ["s"], name="soft"),
        oh.make_node("Exp", ["s"], ["y"], name="exp"),
    ]
    found = mapped(model(nodes, {"w": weight(4, 4, 1, 1)}), bits=W4A4)
    assert found.host == ("soft", "exp")
    (leaving,) = (s for s in found.design.streams if s.sink is None)
    assert leaving.source is not None
    assert leaving.source.kernel == "w"


def test_a_shuffle_of_channels_is_free_and_joins_see_it() -> None:
    def shuffle(source: str, result: str) -> list[onnx.NodeProto]:
        return [
            oh.make_node("Reshape", [source, "split"], [f"{source}.1"]),
            oh.make_node("Transpose", [f"{source}.1"], [f"{source}.2"], perm=[0, 2, 1, 3, 4]),
            oh.make_node("Reshape", [f"{source}.2", "whole"], [result]),
        ]

    arrays = {
        "split": np.array([1, 2, 2, 8, 8]),
        "whole": np.array([1, 4, 8, 8]),
        "w": weight(4, 4, 1, 1),
        "d": weight(4, 1, 3, 3),
    }
    depthwise = conv("d", "b", "c", group=4)
    straight = [conv("w", "x", "a"), *shuffle("a", "b"), depthwise, conv("w", "c", "y")]
    straight[-1].name = "last"
    design = map_model(model(straight, arrays), bits=W4A4)
    assert kinds(design) == ["MatrixVector", "Threshold", "Window", "VectorVector", "Threshold",
                             "MatrixVector"]  # fmt: skip
    joined = [conv("w", "x", "a"), *shuffle("a", "b"), oh.make_node("Add", ["a", "b"], ["e"]),
              conv("w", "e", "y")]  # fmt: skip
    joined[-1].name = "last"
    with pytest.raises(UnsupportedLayer, match="different orders"):
        map_model(model(joined, arrays), bits=W4A4)


def test_images_in_channels_last_order_stream_the_same() -> None:
    nodes = [oh.make_node("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2]), conv("w", "t", "y")]
    design = map_model(model(nodes, {"w": weight(5, 3, 3, 3)}, (1, 8, 6, 3)), bits=W4A4)
    window = only(design, Window)
    assert (window.height, window.width, window.channels) == (8, 6, 3)


def test_a_convolution_in_one_dimension() -> None:
    nodes = [conv("w", "x", "a", pads=[1, 1]), oh.make_node("Relu", ["a"], ["y"], name="relu")]
    design = map_model(model(nodes, {"w": weight(5, 3, 3)}, (1, 3, 16)), bits=W4A4)
    window, relu = only(design, Window), only(design, Threshold)
    assert (window.height, window.width, window.channels) == (18, 1, 3)
    assert (relu.channels, relu.vectors) == (5, 16)


def test_layouts_say_where_each_element_is() -> None:
    rng = random.Random(5)
    moved = 0
    for _ in range(300):
        shape = [1, *(rng.choice([1, 2, 3, 4, 6]) for _ in range(3))]
        layout = Layout.of_map(shape)
        places = _places(layout)
        assert layout.is_map
        for _ in range(4):
            axes = list(range(len(layout.axes)))
            if rng.random() < 0.5:
                rng.shuffle(axes)
                layout, places = layout.transposed(axes), places.transpose(axes)
            else:
                sizes = [math.prod(layout.sizes)]
                while (most := sizes.pop()) > 1:
                    sizes += [rng.choice([d for d in range(2, most + 1) if most % d == 0])]
                    sizes += [most // sizes[-1]]
                try:
                    layout = layout.reshaped(sizes or [1])
                except CannotReshape:
                    continue
                places = places.reshape(sizes or [1])
            moved += 1
            assert np.array_equal(_places(layout), places)
            assert layout.shape == places.shape
    assert moved > 500


def _places(layout: Layout) -> Any:
    """For each element of the tensor its place in the stream, straight from the definition."""
    stream = np.arange(math.prod(layout.sizes)).reshape(layout.sizes)
    return stream.transpose([atom for axis in layout.axes for atom in axis]).reshape(layout.shape)


@pytest.mark.parametrize(
    ("length", "of_input", "of_weight", "expected"),
    [
        (144, "UINT4", "INT4", "INT16"),  # -17280 ... 15120
        (128, "BINARY", "INT4", "INT11"),  # -1024 ... 896
        (784, "BIPOLAR", "BIPOLAR", "INT11"),  # -784 ... 784
        (9, "UINT4", "UINT4", "UINT11"),  # 0 ... 2025
        (64, "INT8", "INT8", "INT22"),  # -1040384 ... 1048576
    ],
)
def test_accumulators_hold_the_worst_case(
    length: int, of_input: str, of_weight: str, expected: str
) -> None:
    kinds = DataType.parse(of_input), DataType.parse(of_weight)
    assert precision.accumulator(length, *kinds).name == expected


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
    "imagenet/light_densenet121.onnx",
    "imagenet/mobilenetv2-12-int8.onnx",
    "detect/ultraface_rfb320.onnx",
    "detect/yunet_n_640.onnx",
    "integer/dory_dronet_2.0_int.onnx",
    "integer/deeploy_resnet8_requantshift.onnx",
    "misc/mini_xception_fer_tf2onnx.onnx",
    "seg/deeplab_dm05_nchw.onnx",
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


@pytest.mark.real_models
@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("cifar10/vnncomp24_vit_pgd_2_3_16.onnx", "Concat"),
        ("detect/fastestdet.onnx", "Gather"),
        ("qonnx_finn/hara_sat6_finn_ready.onnx", "hardware graph of FINN's already"),
        ("qonnx_finn/hls4ml_tiny_unet_ch_last_qonnx.onnx", "channels-last"),
        ("seg/selfie_segmentation.onnx", "not over 36 x 64"),
        ("seg/unet_sedgen.onnx", "ConvTranspose"),
    ],
)
def test_real_models_that_no_kernels_run_say_why(shared: Path, name: str, why: str) -> None:
    with pytest.raises(UnsupportedLayer, match=why):
        map_model(Model.load(shared / "data" / "models" / name), bits=W4A4)


def test_a_computed_bias_is_refused() -> None:
    gemm = oh.make_node("Gemm", ["r", "w", "r"], ["y"], name="gemm")
    with pytest.raises(UnsupportedLayer, match="bias is computed"):
        map_model(
            model([oh.make_node("Relu", ["x"], ["r"]), gemm], {"w": weight(12, 12)}, (1, 12)),
            bits=W4A4,
        )


def test_two_quantizers_of_one_input_are_both_kept() -> None:
    design = map_model(
        model(
            [
                quant("x", "q5", 5),
                quant("x", "q2", 2),
                oh.make_node("Add", ["q5", "q2"], ["y"], name="add"),
            ],
            QUANT,
        )
    )
    outputs = {k.output for k in design.kernels if isinstance(k, Threshold)}
    assert outputs == {integer(5, signed=True), integer(2, signed=True)}


def test_what_a_model_quantizes_is_not_narrowed_by_the_user() -> None:
    design = map_model(
        model(
            [
                quant("x", "q", 5),
                quant("w", "qw", 3),
                oh.make_node("Conv", ["q", "qw"], ["a"], name="conv"),
                quant("a", "b", 5),
                oh.make_node("Conv", ["b", "qw"], ["y"], name="second"),
            ],
            {**QUANT, "w": weight(4, 4, 1, 1)},
        ),
        bits=Bits.parse("w2a2"),
    )
    units = [k for k in design.kernels if isinstance(k, MatrixVector)]
    assert [unit.input.bits for unit in units] == [5, 5]
