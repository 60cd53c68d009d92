"""Small FINN graphs."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from graphopt.ir.model import Model

DOMAIN = "finn.custom_op.fpgadataflow"


def node(operator: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    """A node named after its first output."""
    name = str(attributes.pop("name", outputs.split()[0]))
    domain = str(attributes.pop("domain", DOMAIN))
    return helper.make_node(
        operator, inputs.split(), outputs.split(), name, domain=domain, **attributes
    )


def model(
    nodes: list[onnx.NodeProto],
    shape: tuple[int, ...],
    constants: dict[str, tuple[int, ...]] | None = None,
    outputs: str | None = None,
    fill: float = 0,
) -> Model:
    """A model that reads `x`; its outputs are by default those of its last node."""
    names = outputs.split() if outputs else nodes[-1].output
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names],
        [
            numpy_helper.from_array(np.full(size, fill, np.float32), name)
            for name, size in (constants or {}).items()
        ],
    )
    opsets = [helper.make_opsetid("", 13), helper.make_opsetid(DOMAIN, 1)]
    return Model.load(helper.make_model(graph, opset_imports=opsets, ir_version=8))


def mvau(inputs: str, outputs: str, mw: int, mh: int, **more: object) -> onnx.NodeProto:
    attributes: dict[str, object] = {
        "MW": mw,
        "MH": mh,
        "SIMD": 1,
        "PE": 1,
        "numInputVectors": [1, 8, 8],
        "inputDataType": "UINT4",
        "weightDataType": "INT4",
        "outputDataType": "UINT4",
        "noActivation": 0 if len(inputs.split()) > 2 else 1,
    }
    return node("MVAU", inputs, outputs, **{**attributes, **more})


def block() -> Model:
    """A residual block: a fork, 3x3 convolution, thresholds, an addition."""
    return model(
        [
            node(
                "DuplicateStreams",
                "x",
                "a b",
                NumChannels=4,
                PE=1,
                NumOutputStreams=2,
                numInputVectors=[1, 8, 8],
                inputDataType="UINT4",
            ),
            node(
                "FMPadding",
                "a",
                "c",
                ImgDim=[8, 8],
                Padding=[1, 1, 1, 1],
                NumChannels=4,
                SIMD=1,
                inputDataType="UINT4",
            ),
            node(
                "ConvolutionInputGenerator",
                "c",
                "d",
                ConvKernelDim=[3, 3],
                IFMChannels=4,
                IFMDim=[10, 10],
                OFMDim=[8, 8],
                SIMD=4,
                Stride=[1, 1],
                Dilation=[1, 1],
                inputDataType="UINT4",
                outputDataType="UINT4",
            ),
            mvau("d w", "e", 36, 4, outputDataType="INT16"),
            node(
                "Thresholding",
                "e t",
                "f",
                NumChannels=4,
                PE=2,
                numSteps=15,
                numInputVectors=[1, 8, 8],
                inputDataType="INT16",
                weightDataType="INT16",
                outputDataType="UINT4",
            ),
            node(
                "ElementwiseAdd",
                "f b",
                "g",
                lhs_dtype="UINT4",
                rhs_dtype="UINT4",
                out_dtype="UINT5",
                lhs_shape=[1, 8, 8, 4],
                rhs_shape=[1, 8, 8, 4],
                out_shape=[1, 8, 8, 4],
                PE=4,
            ),
        ],
        (1, 8, 8, 4),
        {"w": (36, 4), "t": (4, 15)},
    )
