"""Reading FINN's hardware graphs."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from graphopt.errors import GraphoptError, ModelError
from graphopt.ir.model import Model
from hwmodel import finn
from hwmodel import kernels as k
from hwmodel.design import End
from hwmodel.finn.formulas import Dsp
from hwmodel.finn.graph import is_hardware
from tests.hwmodel.finn import graphs

# From finn-plus 1.6.1 (InsertDWC, InsertFIFO, SpecializeLayers, GiveUniqueNodeNames on the same
# graph): what writes each FIFO, and what reads it.
NUMBERED = [
    (None, "DuplicateStreams_hls_0"),
    ("DuplicateStreams_hls_0", "StreamingDataWidthConverter_rtl_0"),
    ("DuplicateStreams_hls_0", "FMPadding_rtl_0"),
    ("StreamingDataWidthConverter_rtl_0", "ElementwiseAdd_hls_0"),
    ("FMPadding_rtl_0", "StreamingDataWidthConverter_rtl_1"),
    ("StreamingDataWidthConverter_rtl_1", "ConvolutionInputGenerator_rtl_0"),
    ("ConvolutionInputGenerator_rtl_0", "StreamingDataWidthConverter_rtl_2"),
    ("StreamingDataWidthConverter_rtl_2", "MVAU_rtl_0"),
    ("MVAU_rtl_0", "StreamingDataWidthConverter_rtl_3"),
    ("StreamingDataWidthConverter_rtl_3", "Thresholding_rtl_0"),
    ("Thresholding_rtl_0", "StreamingDataWidthConverter_rtl_4"),
    ("StreamingDataWidthConverter_rtl_4", "ElementwiseAdd_hls_0"),
    ("ElementwiseAdd_hls_0", None),
]


def test_nodes_and_fifos_are_numbered_as_finn_does() -> None:
    design = finn.read(graphs.block())
    names = finn.finn_names(design)
    assert list(names.fifos.values()) == [f"StreamingFIFO_rtl_{n}" for n in range(len(NUMBERED))]

    def name(end: End | None) -> str | None:
        return names.kernels[end.kernel] if end is not None else None

    streams = [design.stream[stream] for stream in names.fifos]
    assert [(name(stream.source), name(stream.sink)) for stream in streams] == NUMBERED


def test_kernels_keep_the_names_of_the_nodes() -> None:
    design = finn.read(graphs.block())
    own = [kernel.name for kernel in design.kernels if not isinstance(kernel, k.WidthConverter)]
    assert own == ["a", "c", "d", "e", "f", "g"]
    assert design.layer_of("StreamingDataWidthConverter_rtl_0") == "g"


def test_a_tensor_read_twice_gets_a_fork() -> None:
    model = graphs.model(
        [
            graphs.mvau("x w", "a", 4, 4),
            graphs.mvau("a w", "b", 4, 4),
            graphs.node(
                "AddStreams",
                "a b",
                "c",
                NumChannels=4,
                PE=1,
                numInputVectors=[1, 8, 8],
                inputDataType="UINT4",
            ),
        ],
        (1, 8, 8, 4),
        {"w": (4, 4)},
    )
    design = finn.read(model)
    fork = design.kernel["DuplicateStreams_hls_0"]
    assert isinstance(fork, k.Fork)
    assert (fork.ways, fork.elements) == (2, 256)
    assert set(design.graph.successors(fork.name)) == {"b", "c"}
    join = design.kernel["c"]
    assert isinstance(join, k.Join)
    assert join.output.name == "UINT5"


def test_an_output_that_is_read_too_gets_a_fork() -> None:
    nodes = [graphs.mvau("x w", "a", 4, 4), graphs.mvau("a w", "b", 4, 4)]
    design = finn.read(graphs.model(nodes, (1, 8, 8, 4), {"w": (4, 4)}, outputs="a b"))
    assert [stream.sink for stream in design.streams].count(None) == 2
    assert isinstance(design.kernel["DuplicateStreams_hls_0"], k.Fork)


def test_widths_that_do_not_divide_get_two_converters() -> None:
    nodes = [graphs.mvau("x w", "a", 4, 12, PE=4), graphs.mvau("a v", "b", 12, 4, SIMD=6)]
    design = finn.read(graphs.model(nodes, (1, 8, 8, 4), {"w": (4, 12), "v": (12, 4)}))
    up, down = (kernel for kernel in design.kernels if isinstance(kernel, k.WidthConverter))
    assert (up.into, up.out_of, down.into, down.out_of) == (4, 12, 12, 6)
    assert down.name == f"{up.name}_narrow"
    # FINN has one node there, with a FIFO on either side.
    assert len(finn.finn_names(design).fifos) == 4
    assert len(design.streams) == 5
    assert finn.resources(up).lut + finn.resources(down).lut == 1 + 48 + 1 + 24


def test_fifos_and_converters_of_the_graph() -> None:
    model = graphs.model(
        [
            graphs.mvau("x w", "a", 4, 12, PE=4, inFIFODepths=[2]),
            graphs.node(
                "StreamingFIFO_rtl",
                "a",
                "a1",
                name="StreamingFIFO_rtl_1",
                depth=40,
                folded_shape=[1, 8, 8, 3, 4],
                normal_shape=[1, 8, 8, 12],
                dataType="UINT4",
            ),
            graphs.node(
                "StreamingDataWidthConverter_rtl",
                "a1",
                "c",
                inShape=[1, 8, 8, 12],
                outShape=[1, 8, 8, 12],
                inWidth=16,
                outWidth=24,
                dataType="UINT4",
            ),
            graphs.mvau("c v", "b", 12, 4, SIMD=6),
        ],
        (1, 8, 8, 4),
        {"w": (4, 12), "v": (12, 4)},
    )
    design = finn.read(model)
    assert list(design.kernel) == ["a", "c", "c_narrow", "b"]
    assert design.stream["StreamingFIFO_rtl_1"].depth == 40


def test_thresholds_inside() -> None:
    nodes = [graphs.mvau("x w t", "a", 4, 8, numInputVectors=[1, 16])]
    model = graphs.model(nodes, (1, 16, 4), {"w": (4, 8), "t": (8, 15)})
    kernel = finn.read(model).kernel["a"]
    assert isinstance(kernel, k.MatrixVector)
    assert (kernel.thresholds, kernel.output.name, kernel.backend) == (15, "UINT4", "hls")


@pytest.mark.parametrize(
    ("dsp", "kinds", "core"),
    [
        ("DSP48E1", ("UINT4", "INT4"), "mvu_4sx4u_dsp48e1"),
        ("DSP48E2", ("UINT4", "INT4"), "mvu_4sx4u_dsp48e2"),
        ("DSP48E2", ("UINT8", "INT4"), "mvu_8sx8u_dsp48"),
        ("DSP58", ("UINT4", "INT8"), "mvu_vvu_8sx9_dsp58"),
    ],
)
def test_the_core_of_an_rtl_mvau(dsp: Dsp, kinds: tuple[str, str], core: str) -> None:
    act, weight = kinds
    node = graphs.mvau("x w", "a", 4, 4, inputDataType=act, weightDataType=weight)
    kernel = finn.read(graphs.model([node], (1, 8, 8, 4), {"w": (4, 4)}), dsp=dsp).kernel["a"]
    assert isinstance(kernel, k.MatrixVector)
    assert (kernel.backend, kernel.core) == ("rtl", core)


def test_names_of_old_versions() -> None:
    node = graphs.mvau("x w", "a", 4, 4, mem_mode="const")
    node.op_type = "StreamingFCLayer_Batch"
    kernel = finn.read(graphs.model([node], (1, 8, 8, 4), {"w": (4, 4)})).kernel["a"]
    assert isinstance(kernel, k.MatrixVector)
    assert kernel.memory == "internal_embedded"


def test_other_layers() -> None:
    common = {"NumChannels": 4, "inputDataType": "UINT4"}
    model = graphs.model(
        [
            graphs.node(
                "StreamingMaxPool_hls",
                "x",
                "a",
                ImgDim=[8, 8],
                PoolDim=[2, 2],
                NumChannels=4,
                dataType="UINT4",
            ),
            graphs.node("DownSampler_hls", "a", "b", ImgDim=4, Stride=2, SIMD=2, **common),
            graphs.node("UpsampleNearestNeighbour", "b", "c", OFMDim=4, IFMDim=2, **common),
            graphs.node(
                "ChannelwiseOp_hls",
                "c p",
                "d",
                NumChannels=4,
                PE=1,
                inputDataType="UINT4",
                Func="mul",
                paramDataType="INT4",
                outputDataType="INT8",
                numInputVectors=[1, 4, 4],
            ),
            graphs.node(
                "ElementwiseMul_hls",
                "d q",
                "e",
                lhs_dtype="INT8",
                rhs_dtype="INT4",
                out_dtype="INT12",
                lhs_shape=[1, 4, 4, 4],
                rhs_shape=[1],
                out_shape=[1, 4, 4, 4],
                PE=2,
                mem_mode="internal_decoupled",
            ),
            graphs.node(
                "GlobalAccPool",
                "e",
                "f",
                NumChannels=4,
                PE=1,
                inputDataType="INT12",
                numInputVectors=[1, 4, 4],
            ),
            graphs.node(
                "Reshape_rtl", "f", "g", inp_shape=[1, 1, 1, 4], out_shape=[1, 4], dtype="INT16"
            ),
            graphs.node("LabelSelect", "g", "h", Labels=4, PE=1, K=1, inputDataType="INT16"),
        ],
        (1, 8, 8, 4),
        {"p": (4,), "q": (1,)},
    )
    design = finn.read(model)
    kernels = [design.kernel[name] for name in "abcdefgh"]
    assert [finn.cycles(kernel) for kernel in kernels] == [80, 32, 16, 64, 32, 68, 4, 4]
    assert [type(kernel).__name__ for kernel in kernels] == [
        "MaxPool",
        "Downsample",
        "Upsample",
        "Channelwise",
        "Channelwise",
        "GlobalPool",
        "WidthConverter",
        "LabelSelect",
    ]
    pool = design.kernel["f"]
    assert isinstance(pool, k.GlobalPool)
    assert pool.output.name == "INT16"
    label = design.kernel["h"]
    assert isinstance(label, k.LabelSelect)
    assert label.output.name == "UINT2"


def test_shuffles() -> None:
    """A transposition is one node, until FINN takes it apart."""
    shape = {"in_shape": [1, 4, 4, 8], "data_type": "INT8", "SIMD": 2}
    turned = {"perm": [0, 3, 1, 2], "out_shape": [1, 8, 4, 4], "transpose_in_shape": [1, 4, 4, 8]}
    parts = {"in_shape": [1, 16, 8], "transpose_in_shape": [1, 16, 8], "data_type": "INT8"}
    model = graphs.model(
        [
            graphs.node("Shuffle", "x", "a", **shape, **turned, transpose_out_shape=[1, 8, 4, 4]),
            graphs.node("InnerShuffle_rtl", "a", "b", **parts, SIMD=4),
            graphs.node(
                "OuterShuffle_hls", "b", "c", **shape, perm=[0, 2, 1, 3],
                out_shape=[1, 4, 4, 8], transpose_in_shape=[1, 4, 4, 8],
            ),
        ],
        (1, 4, 4, 8),
    )  # fmt: skip
    design = finn.read(model)
    whole, inner, outer = (design.kernel[name] for name in "abc")
    assert isinstance(whole, k.Shuffle)
    assert isinstance(outer, k.Shuffle)
    assert (whole.innermost, outer.innermost) == (4, 8)
    assert [kernel.inputs[0].words for kernel in (whole, inner, outer)] == [64, 32, 64]
    assert finn.cycles(inner) == 2 * 32 + 32  # inner_shuffle.py: get_exp_cycles
    assert finn.finn_names(design).kernels["c"] == "OuterShuffle_hls_0"
    wider = finn.apply(design, {"b": {"SIMD": 8}})
    assert wider.kernel["b"].inputs[0].words == 16
    with pytest.raises(GraphoptError, match="SIMD"):
        finn.apply(design, {"a": {"SIMD": 8}})


def test_a_split() -> None:
    common = {"ChannelsPerStream": [4, 8], "SIMD": 2, "inputDataType": "UINT4"}
    model = graphs.model(
        [
            graphs.node("StreamingSplit_hls", "x", "a b", **common, numInputVectors=[1, 3, 3]),
            graphs.node("DuplicateStreams_hls", "a", "c d", NumChannels=4, PE=2,
                        inputDataType="UINT4", numInputVectors=[1, 3, 3], NumOutputStreams=2),
        ],
        (1, 3, 3, 12),
    )  # fmt: skip
    design = finn.read(model)
    split = next(kernel for kernel in design.kernels if isinstance(kernel, k.Split))
    assert split.channels == (4, 8)
    assert [port.words for port in split.outputs] == [18, 36]
    assert finn.cycles(split) == 54
    assert finn.finn_names(design).kernels[split.name] == "StreamingSplit_hls_0"
    # By the time that word 3 (of pixel 1) leaves by the first, pixel 0 has left by the second.
    assert split.sent(1, 0, 3) == 4
    assert split.sent(0, 1, 3) == 2


def test_depthwise_pool_and_concat() -> None:
    model = graphs.model(
        [
            graphs.node(
                "ConvolutionInputGenerator_rtl",
                "x",
                "a",
                ConvKernelDim=[3, 3],
                IFMChannels=4,
                IFMDim=[8, 8],
                OFMDim=[6, 6],
                SIMD=2,
                Stride=[1, 1],
                inputDataType="UINT4",
                depthwise=1,
            ),
            graphs.node(
                "VVAU_hls",
                "a w",
                "b",
                Channels=4,
                Kernel=[3, 3],
                Dim=[6, 6],
                PE=2,
                inputDataType="UINT4",
                weightDataType="INT4",
                outputDataType="UINT4",
                noActivation=1,
            ),
            graphs.node(
                "ConvolutionInputGenerator_rtl",
                "b",
                "c",
                ConvKernelDim=[2, 2],
                IFMChannels=4,
                IFMDim=[6, 6],
                OFMDim=[3, 3],
                SIMD=2,
                Stride=[2, 2],
                inputDataType="UINT4",
                depthwise=1,
            ),
            graphs.node(
                "Pool_hls",
                "c",
                "d",
                Channels=4,
                KernelSize=[2, 2],
                OutImgDims=[3, 3],
                PE=2,
                Function="MaxPool",
                InputDataType="UINT4",
                OutputDataType="UINT4",
            ),
            graphs.node(
                "StreamingEltwise_hls",
                "d d",
                "e",
                NumChannels=4,
                PE=2,
                inputDataType0="UINT4",
                inputDataType1="UINT4",
                eltwiseOp="Sub",
                numInputVectors=[1, 3, 3],
            ),
            graphs.node(
                "StreamingConcat_hls",
                "d e",
                "f",
                ChannelsPerStream=[4, 4],
                SIMD=2,
                inputDataTypes=["INT5", "INT5"],
                numInputVectors=[1, 3, 3],
            ),
        ],
        (1, 8, 8, 4),
        {"w": (4, 1, 3, 3)},
    )
    design = finn.read(model)
    assert [finn.cycles(design.kernel[name]) for name in "abcdef"] == [686, 648, 109, 72, 18, 36]
    fork = design.kernel["DuplicateStreams_hls_0"]
    assert isinstance(fork, k.Fork)
    assert fork.ways == 3
    join = design.kernel["e"]
    assert isinstance(join, k.Join)
    assert (join.function, join.output.name) == ("sub", "INT5")
    assert design.kernel["a"].outputs[0].words == design.kernel["b"].inputs[0].words


def test_narrow_weights_on_a_dsp48e1() -> None:
    """A DSP48E1 multiplies only weights that leave out the smallest value."""
    node = graphs.mvau("x w", "a", 4, 4)
    for value, backend in ((-7, "rtl"), (-8, "hls")):
        model = graphs.model([node], (1, 8, 8, 4), {"w": (4, 4)}, fill=value)
        kernel = finn.read(model, dsp="DSP48E1").kernel["a"]
        assert isinstance(kernel, k.MatrixVector)
        assert kernel.backend == backend


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (graphs.node("Transpose", "x", "a", domain=""), r"a \(Transpose\) is no hardware layer"),
        (graphs.node("IODMA_hls", "x", "a"), "without partitions and IODMA"),
        (graphs.node("FMPadding", "x", "a"), "needs the attribute ImgDim, whole numbers"),
        (graphs.mvau("x w", "a", 4, 4, SIMD=3), "a: SIMD = 3 must divide 4"),
        (graphs.mvau("x w", "a", 4, 4, PE=8), "a: PE = 8 must divide 4"),
        (graphs.mvau("x w", "a", 4, 4, TH=2), "is tiled"),
        (graphs.mvau("x w", "a", 4, 4, weightDataType="INT"), "'INT' is no data type"),
    ],
)
def test_nodes_that_cannot_be_read(node: onnx.NodeProto, message: str) -> None:
    model = graphs.model([node], (1, 8, 8, 4), {"w": (4, 4)} if "w" in node.input else {})
    with pytest.raises(GraphoptError, match=message):
        finn.read(model)


def test_nodes_that_do_not_fit() -> None:
    nodes = [graphs.mvau("x w", "a", 4, 4), graphs.mvau("a v", "b", 8, 4)]
    model = graphs.model(nodes, (1, 8, 8, 4), {"w": (4, 4), "v": (8, 4)})
    with pytest.raises(ModelError, match="a writes 256 elements in a frame, but b reads 512"):
        finn.read(model)


def test_hardware_graphs_are_told_apart() -> None:
    assert is_hardware(graphs.block())
    plain = graphs.model([graphs.node("Relu", "x", "a", domain="")], (1, 4))
    assert not is_hardware(plain)


def test_a_graph_from_a_build(shared: Path) -> None:
    path = shared / "data" / "models" / "qonnx_finn" / "hara_sat6_finn_ready.onnx"
    if not path.exists():
        pytest.skip(f"{path} is not there: set GRAPHOPT_SHARED")
    design = finn.read(Model.load(path))
    names = finn.finn_names(design)
    assert names.kernels["MVAU_MatMul_0"] == "MVAU_hls_0"
    assert sum(isinstance(kernel, k.MatrixVector) for kernel in design.kernels) == 5
    assert design.cycles == finn.cycles(design.kernel["MVAU_MatMul_0"]) == 147456
