"""The kernel that a node of FINN's describes.

Attributes and their defaults: `get_nodeattr_types` of the custom ops in finn-plus 1.6.1 and
Xilinx/finn, src/finn/custom_op/fpgadataflow.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import gcd, lcm, prod
from typing import TypeAlias

import onnx_ir

from graphopt.errors import ModelError
from graphopt.ir.model import node_label
from hwmodel import kernels as k
from hwmodel.datatypes import DataType, integer
from hwmodel.finn.attributes import checked
from hwmodel.finn.formulas import Dsp
from hwmodel.finn.names import SECOND
from hwmodel.kernels.kernel import Kernel


@dataclass(frozen=True)
class Draft:
    """A node and its attributes, on the way to a kernel.

    Attributes:
        node: the node.
        operator: its operator, without backend and in today's spelling: MVAU, FMPadding ...
        backend: "hls", "rtl", or None where FINN has not specialized it yet.
        dsp: the multiplier of the device.
    """

    node: onnx_ir.Node
    operator: str
    backend: str | None
    dsp: Dsp

    @property
    def name(self) -> str:
        """The node's name."""
        return node_label(self.node)

    @property
    def streams(self) -> list[onnx_ir.Value]:
        """The inputs that are streams. Weights and thresholds are none, wherever they come from."""
        inputs = [value for value in self.node.inputs if value is not None]
        if self.operator in _PARAMETERS:
            inputs = inputs[:1]
        return [value for value in inputs if value.const_value is None]

    def kernels(self) -> tuple[Kernel, ...]:
        """The kernel of the node; for a converter between widths that do not divide, two that
        stand behind each other.
        """
        if self.operator == _CONVERTER:
            return _converters(self)
        return (checked(_KERNELS[self.operator](self)),)

    def whole(self, attribute: str, default: int | None = None) -> int:
        """An integer attribute."""
        found = self._value(attribute, onnx_ir.AttributeType.INT, default)
        if not isinstance(found, int):
            raise self._missing(attribute, "a whole number")
        return found

    def wholes(self, attribute: str, default: Sequence[int] | None = None) -> tuple[int, ...]:
        """An attribute of integers."""
        found = self._value(attribute, onnx_ir.AttributeType.INTS, default)
        if not isinstance(found, Sequence):
            raise self._missing(attribute, "whole numbers")
        return tuple(int(each) for each in found)

    def pair(self, attribute: str, default: Sequence[int] | None = None) -> tuple[int, int]:
        """An attribute of two integers: along height and width."""
        found = self.wholes(attribute, default)
        if len(found) != 2:
            raise self._missing(attribute, "two whole numbers")
        return found[0], found[1]

    def text(self, attribute: str, default: str | None = None) -> str:
        """A text attribute."""
        found = self._value(attribute, onnx_ir.AttributeType.STRING, default)
        if not isinstance(found, str):
            raise self._missing(attribute, "a text")
        return found

    def texts(self, attribute: str) -> tuple[str, ...]:
        """An attribute of texts."""
        found = self._value(attribute, onnx_ir.AttributeType.STRINGS, None)
        if not isinstance(found, Sequence):
            raise self._missing(attribute, "texts")
        return tuple(str(each) for each in found)

    def type(self, attribute: str, default: str | None = None) -> DataType:
        """An attribute that names a data type."""
        return DataType.parse(self.text(attribute, default))

    def has(self, attribute: str) -> bool:
        """Whether the node has the attribute."""
        return attribute in self.node.attributes

    def vectors(self) -> int:
        """Pixels in a frame."""
        return prod(self.wholes("numInputVectors", (1,)))

    def refuse(self, reason: str) -> ModelError:
        """The error for a node that has no kernel."""
        return ModelError(f"{self.name} ({self.node.op_type}) {reason}.")

    def _value(self, attribute: str, kind: onnx_ir.AttributeType, default: object) -> object:
        found = self.node.attributes.get(attribute)
        if found is None:
            return default
        return found.value if found.type == kind else None

    def _missing(self, attribute: str, kind: str) -> ModelError:
        return self.refuse(f"needs the attribute {attribute}, {kind}")


def draft_of(node: onnx_ir.Node, dsp: Dsp) -> Draft:
    """The draft of a node.

    Raises:
        ModelError: it is no hardware layer of FINN's, or there is no kernel for it.
    """
    operator, backend = node.op_type, None
    if match := re.fullmatch(r"(.+)_(hls|rtl)", operator):
        operator, backend = match.groups()
    operator = operator.removesuffix("_Batch")
    draft = Draft(node, _OLD_NAMES.get(operator, operator), backend, dsp)
    if not node.domain.startswith(DOMAIN) or draft.operator not in (FIFO, _CONVERTER, *_KERNELS):
        raise draft.refuse(
            "is no hardware layer of FINN's that is known here: give the model after "
            "step_convert_to_hw, without partitions and IODMA"
        )
    if draft.operator in _PARAMETERS and any(_made(value) for value in node.inputs[1:]):
        raise draft.refuse("gets its weights from another node, for which there is no kernel")
    return draft


def _made(value: onnx_ir.Value | None) -> bool:
    return value is not None and value.producer() is not None


DOMAIN = "finn.custom_op.fpgadataflow"
"""How the domain of a hardware layer begins."""

_CONVERTER = "StreamingDataWidthConverter"
FIFO = "StreamingFIFO"
"""The operator that is no kernel, but the depth of a stream."""

_PARAMETERS = frozenset({"MVAU", "VVAU", "Thresholding", "ChannelwiseOp"})
_OLD_NAMES = {
    "MatrixVectorActivation": "MVAU",
    "StreamingFCLayer": "MVAU",
    "VectorVectorActivation": "VVAU",
    "Vector_Vector_Activate": "VVAU",
    "ConvolutionInputGenerator1D": "ConvolutionInputGenerator",
}
_OLD_MEMORIES = {"const": "internal_embedded", "decoupled": "internal_decoupled"}


def _memory(draft: Draft) -> str:
    mode = draft.text("mem_mode", "internal_decoupled")
    return _OLD_MEMORIES.get(mode, mode)


def _steps_inside(draft: Draft, output: DataType) -> int:
    """Thresholds inside a kernel that multiplies."""
    if draft.whole("noActivation", 0):
        return 0
    inputs = draft.node.inputs
    shape = inputs[2].shape if len(inputs) > 2 and inputs[2] is not None else None
    if shape is not None and isinstance(shape[-1], int):
        return shape[-1]
    return (1 << output.bits) - 1


def _core(dsp: Dsp, act: DataType, weight: DataType) -> str:
    """The core of an RTL MVAU (Xilinx/finn, rtl/matrixvectoractivation_rtl.py)."""
    if dsp == "DSP58":
        return "mvu_vvu_8sx9_dsp58"
    if act.bits > 4 or weight.bits > 4:
        return "mvu_8sx8u_dsp48"
    return f"mvu_4sx4u_{dsp.lower()}"


def _fits(draft: Draft, weight: DataType) -> bool:
    """Whether the device can multiply the weights: a DSP48E1 not the smallest of their type."""
    values = draft.node.inputs[1] if len(draft.node.inputs) > 1 else None
    if draft.dsp != "DSP48E1" or values is None or values.const_value is None:
        return draft.dsp != "DSP48E1"
    return bool(values.const_value.numpy().min() > -(2 ** (weight.bits - 1)))


def _matrix_vector(draft: Draft) -> Kernel:
    if draft.whole("TH", 1) != 1:
        raise draft.refuse("is tiled (TH), for which there is no kernel")
    act, weight = draft.type("inputDataType"), draft.type("weightDataType")
    output = draft.type("outputDataType")
    thresholds = _steps_inside(draft, output)
    backend = draft.backend or draft.text("preferred_impl_style", "")
    if not backend:
        wide = act.bits >= 4 and weight.bits >= 4 and weight.signed
        plain = not thresholds and not draft.whole("binaryXnorMode", 0)
        backend = "rtl" if wide and plain and _fits(draft, weight) else "hls"
    return k.MatrixVector(
        name=draft.name,
        mw=draft.whole("MW"),
        mh=draft.whole("MH"),
        vectors=draft.vectors(),
        simd=draft.whole("SIMD"),
        pe=draft.whole("PE"),
        input=act,
        weight=weight,
        accumulator=draft.type("accDataType", "INT32"),
        output=output,
        thresholds=thresholds,
        backend=backend,
        core=_core(draft.dsp, act, weight),
        resource=draft.text("resType", "auto"),
        memory=_memory(draft),
        ram_style=draft.text("ram_style", "auto"),
        ram_style_thresholds=draft.text("ram_style_thresholds", "auto"),
        pumped=bool(draft.whole("pumpedCompute", 0)),
    )


def _vector_vector(draft: Draft) -> Kernel:
    output = draft.type("outputDataType")
    act, weight = draft.type("inputDataType"), draft.type("weightDataType")
    thresholds = _steps_inside(draft, output)
    backend = draft.backend or draft.text("preferred_impl_style", "")
    if not backend:
        wide = act.bits >= 4 and 4 <= weight.bits <= 8 and weight.signed
        backend = "rtl" if draft.dsp == "DSP58" and wide and not thresholds else "hls"
    return k.VectorVector(
        name=draft.name,
        channels=draft.whole("Channels"),
        kernel=draft.pair("Kernel"),
        vectors=prod(draft.wholes("Dim")),
        pe=draft.whole("PE"),
        simd=draft.whole("SIMD", 1),
        input=act,
        weight=weight,
        accumulator=draft.type("accDataType", "INT32"),
        output=output,
        thresholds=thresholds,
        backend=backend,
        resource=draft.text("resType", "auto"),
        memory=_memory(draft),
        ram_style=draft.text("ram_style", "auto"),
    )


def _threshold(draft: Draft) -> Kernel:
    channels = draft.whole("NumChannels")
    values = draft.node.inputs[1] if len(draft.node.inputs) > 1 else None
    shape = values.shape if values is not None else None
    rows = shape[0] if shape is not None and len(shape) == 2 else None
    steps = shape[-1] if shape is not None and isinstance(shape[-1], int) else 1
    return k.Threshold(
        name=draft.name,
        channels=channels,
        vectors=draft.vectors(),
        pe=draft.whole("PE"),
        input=draft.type("inputDataType"),
        threshold=draft.type("weightDataType", "INT32"),
        output=draft.type("outputDataType"),
        steps=draft.whole("numSteps", steps),
        deep_pipeline=bool(draft.whole("deep_pipeline", 1)),
        backend=draft.backend or draft.text("preferred_impl_style", "") or "rtl",
        depth_trigger_bram=draft.whole("depth_trigger_bram", 0),
        depth_trigger_uram=draft.whole("depth_trigger_uram", 0),
        shared=rows == 1 and channels > 1,
        ram_style=draft.text("ram_style", "distributed"),
    )


def _channelwise(draft: Draft) -> Kernel:
    return k.Channelwise(
        name=draft.name,
        function=draft.text("Func", "cmp_le"),
        channels=draft.whole("NumChannels"),
        vectors=draft.vectors(),
        pe=draft.whole("PE"),
        input=draft.type("inputDataType"),
        parameter=draft.type("paramDataType"),
        output=draft.type("outputDataType"),
        ram_style=draft.text("ram_style", "distributed"),
        operator="channelwise",
    )


def _padding(draft: Draft) -> Kernel:
    pads = draft.wholes("Padding", (1, 1, 1, 1))
    if len(pads) != 4:
        raise draft.refuse("needs four numbers in its attribute Padding")
    height, width = draft.pair("ImgDim")
    return k.Padding(
        name=draft.name,
        height=height,
        width=width,
        channels=draft.whole("NumChannels"),
        pads=(pads[0], pads[1], pads[2], pads[3]),
        element=draft.type("inputDataType"),
        simd=draft.whole("SIMD", 1),
    )


def _window(draft: Draft) -> Kernel:
    if draft.whole("M", 1) != 1:
        raise draft.refuse("makes several windows at once (M), for which there is no kernel")
    height, width = draft.pair("IFMDim")
    return k.Window(
        name=draft.name,
        height=height,
        width=width,
        channels=draft.whole("IFMChannels"),
        kernel=draft.pair("ConvKernelDim"),
        stride=draft.pair("Stride", (1, 1)),
        dilation=draft.pair("Dilation", (1, 1)),
        element=draft.type("inputDataType"),
        simd=draft.whole("SIMD"),
        depthwise=bool(draft.whole("depthwise", 0)),
        parallel=bool(draft.whole("parallel_window", 0)),
        ram_style=draft.text("ram_style", "distributed"),
    )


def _downsample(draft: Draft) -> Kernel:
    side, stride = draft.whole("ImgDim"), draft.whole("Stride", 2)
    line = bool(draft.whole("is1D", 0))
    unit_x = bool(draft.whole("is1D_unitx", 1))
    sides, strides = [side, side], [stride, stride]
    if line:
        sides[1 if unit_x else 0] = strides[1 if unit_x else 0] = 1
    return k.Downsample(
        name=draft.name,
        height=sides[0],
        width=sides[1],
        channels=draft.whole("NumChannels"),
        stride=(strides[0], strides[1]),
        element=draft.type("inputDataType"),
        simd=draft.whole("SIMD", 1),
    )


def _fork(draft: Draft) -> Kernel:
    return k.Fork(
        name=draft.name,
        elements=draft.whole("NumChannels") * draft.vectors(),
        pe=draft.whole("PE"),
        element=draft.type("inputDataType"),
        ways=draft.whole("NumOutputStreams", len(draft.node.outputs)),
    )


def _add(draft: Draft) -> Kernel:
    operand = draft.type("inputDataType")
    return k.Join(
        name=draft.name,
        elements=draft.whole("NumChannels") * draft.vectors(),
        pe=draft.whole("PE"),
        operands=(operand, operand),
        output=integer(operand.bits + 1, signed=operand.signed),
    )


def _eltwise(draft: Draft) -> Kernel:
    operands = (draft.type("inputDataType0"), draft.type("inputDataType1"))
    function = draft.text("eltwiseOp").lower()
    bits = max(operand.bits for operand in operands)
    signed = any(operand.signed for operand in operands)
    if function == "absdiff":
        output = integer(bits, signed=False)
    else:
        output = integer(bits + 1, signed=signed or function == "sub")
    return k.Join(
        name=draft.name,
        elements=draft.whole("NumChannels") * draft.vectors(),
        pe=draft.whole("PE"),
        operands=operands,
        output=output,
        function=function,
    )


def _elementwise(draft: Draft) -> Kernel:
    """Elementwise* of finn-plus: a `Join` of two streams, or a `Channelwise` with constants."""
    function = draft.operator.removeprefix("Elementwise").lower()
    operands = (draft.type("lhs_dtype"), draft.type("rhs_dtype"))
    shapes = (draft.wholes("lhs_shape"), draft.wholes("rhs_shape"))
    output, pe = draft.type("out_dtype"), draft.whole("PE", 1)
    shape = draft.wholes("out_shape")
    constant = [value is not None and value.const_value is not None for value in draft.node.inputs]
    if not any(constant):
        if prod(shapes[0]) != prod(shapes[1]):
            raise draft.refuse("broadcasts a stream, for which there is no kernel")
        return k.Join(
            name=draft.name,
            elements=prod(shape),
            pe=pe,
            operands=operands,
            output=output,
            function=function,
        )
    right = constant[1]
    if prod(shapes[0 if right else 1]) != prod(shape):
        raise draft.refuse("broadcasts a stream, for which there is no kernel")
    decoupled = right and draft.text("mem_mode", "internal_embedded") == "internal_decoupled"
    return k.Channelwise(
        name=draft.name,
        function=function,
        channels=shape[-1],
        vectors=prod(shape[:-1]),
        pe=pe,
        input=operands[0 if right else 1],
        parameter=operands[1 if right else 0],
        output=output,
        ram_style=draft.text("ram_style", "auto"),
        constants=prod(shapes[1 if right else 0]),
        memory="internal_decoupled" if decoupled else "internal_embedded",
    )


def _concat(draft: Draft) -> Kernel:
    types = [DataType.parse(name) for name in draft.texts("inputDataTypes")]
    if len({(each.bits, each.signed) for each in types}) != 1:
        raise draft.refuse("joins streams of different types, for which there is no kernel")
    return k.Concat(
        name=draft.name,
        vectors=draft.vectors(),
        channels=draft.wholes("ChannelsPerStream"),
        element=types[0],
        pe=draft.whole("SIMD"),
    )


def _split(draft: Draft) -> Kernel:
    return k.Split(
        name=draft.name,
        vectors=draft.vectors(),
        channels=draft.wholes("ChannelsPerStream"),
        element=draft.type("inputDataType"),
        pe=draft.whole("SIMD"),
    )


def _max_pool(draft: Draft) -> Kernel:
    height, width = draft.pair("ImgDim")
    kernel = draft.pair("PoolDim")
    channels = draft.whole("NumChannels")
    if draft.whole("CeilMode", 0) and (height % kernel[0] or width % kernel[1]):
        raise draft.refuse("has windows over the edge (CeilMode), for which there is no kernel")
    line = (height == 1 and kernel[0] == 1) or (width == 1 and kernel[1] == 1)
    return k.MaxPool(
        name=draft.name,
        height=height,
        width=width,
        channels=channels,
        kernel=kernel,
        element=draft.type("dataType"),
        pe=draft.whole("PE", 1) if line else channels,  # over a plane a word is a pixel
    )


def _pool(draft: Draft) -> Kernel:
    return k.Pool(
        name=draft.name,
        channels=draft.whole("Channels"),
        kernel=draft.pair("KernelSize"),
        vectors=prod(draft.wholes("OutImgDims")),
        function=draft.text("Function"),
        input=draft.type("InputDataType"),
        output=draft.type("OutputDataType"),
        pe=draft.whole("PE", 1),
    )


def _global_pool(draft: Draft) -> Kernel:
    vectors, element = draft.vectors(), draft.type("inputDataType")
    if element.signed:
        bits = (vectors * 2 ** (element.bits - 1) - 1).bit_length() + 1
    else:
        bits = (vectors * (2**element.bits - 1)).bit_length()
    return k.GlobalPool(
        name=draft.name,
        channels=draft.whole("NumChannels"),
        vectors=vectors,
        input=element,
        output=integer(bits, signed=element.signed),
        pe=draft.whole("PE"),
    )


def _upsample(draft: Draft) -> Kernel:
    channels = draft.whole("NumChannels")
    if draft.has("HI"):
        sizes = [draft.whole(name) for name in ("HI", "WI", "HO", "WO")]
    elif draft.whole("DimMode", 0):
        raise draft.refuse("stretches one side only, for which there is no kernel")
    else:
        sizes = [draft.whole("IFMDim")] * 2 + [draft.whole("OFMDim")] * 2
    scale = sizes[2] // sizes[0]
    if sizes[2:] != [sizes[0] * scale, sizes[1] * scale]:
        raise draft.refuse("stretches its sides by different factors: there is no kernel for it")
    return k.Upsample(
        name=draft.name,
        height=sizes[0],
        width=sizes[1],
        channels=channels,
        scale=scale,
        element=draft.type("inputDataType"),
        simd=draft.whole("SIMD", channels),
    )


def _label_select(draft: Draft) -> Kernel:
    labels = draft.whole("Labels")
    index = f"UINT{max(1, (labels - 1).bit_length())}"
    return k.LabelSelect(
        name=draft.name,
        labels=labels,
        k=draft.whole("K", 1),
        pe=draft.whole("PE"),
        input=draft.type("inputDataType"),
        output=DataType.parse(draft.text("outputDataType", "") or index),
    )


def _shuffle(draft: Draft) -> Kernel:
    """A whole transposition before it is decomposed, or one of its parts.

    An InnerShuffle has pages of its two innermost axes; of the others the whole frame is a page,
    which is more than an OuterShuffle waits for.
    """
    shape = draft.wholes("transpose_in_shape")
    inner = draft.operator == "InnerShuffle"
    last = shape[-2] if inner else draft.wholes("out_shape")[-1]
    return k.Shuffle(
        name=draft.name,
        elements=prod(shape),
        page=prod(shape[-2:]) if inner else prod(shape),
        innermost=gcd(draft.wholes("in_shape")[-1], shape[-1], last),
        element=draft.type("data_type"),
        simd=draft.whole("SIMD", 1),
        inner=draft.operator != "OuterShuffle",
    )


def _wire(draft: Draft) -> Kernel:
    element = draft.type("dtype") if draft.has("dtype") else draft.type("inp_dtype")
    pe = draft.whole("PE", 1)
    return k.WidthConverter(
        name=draft.name,
        elements=prod(draft.wholes("inp_shape")),
        into=pe,
        out_of=pe,
        element=element,
    )


def _converters(draft: Draft) -> tuple[Kernel, ...]:
    element = draft.type("dataType")
    bits = [draft.whole("inWidth"), draft.whole("outWidth")]
    if any(width < 1 or width % element.bits for width in bits):
        raise draft.refuse(f"has words that are no whole number of {element} elements")
    into, out_of = (width // element.bits for width in bits)
    widths = [into, out_of]
    if into % out_of and out_of % into:
        widths.insert(1, lcm(into, out_of))
    elements = prod(draft.wholes("inShape" if draft.has("inShape") else "shape"))
    return tuple(
        checked(
            k.WidthConverter(
                name=draft.name + SECOND * place,
                elements=elements,
                into=before,
                out_of=after,
                element=element,
            )
        )
        for place, (before, after) in enumerate(pairwise(widths))
    )


_Factory: TypeAlias = Callable[[Draft], Kernel]
_KERNELS: dict[str, _Factory] = {
    "MVAU": _matrix_vector,
    "VVAU": _vector_vector,
    "Thresholding": _threshold,
    "ChannelwiseOp": _channelwise,
    "FMPadding": _padding,
    "ConvolutionInputGenerator": _window,
    "DownSampler": _downsample,
    "DuplicateStreams": _fork,
    "AddStreams": _add,
    "StreamingEltwise": _eltwise,
    "StreamingConcat": _concat,
    "StreamingSplit": _split,
    "StreamingMaxPool": _max_pool,
    "Pool": _pool,
    "GlobalAccPool": _global_pool,
    "UpsampleNearestNeighbour": _upsample,
    "LabelSelect": _label_select,
    **dict.fromkeys(("Shuffle", "InnerShuffle", "OuterShuffle"), _shuffle),
    "Reshape": _wire,
    "Squeeze": _wire,
    "Unsqueeze": _wire,
    **{f"Elementwise{name}": _elementwise for name in ("Add", "Sub", "Mul", "AbsDiff", "Max")},
}
