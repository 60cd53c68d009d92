"""hls4ml: the FIFOs it gives a model, the same network as a design, and depths handed back.

In hls4ml's io_stream every tensor is a stream whose word is a whole pixel, and its FIFO holds a
whole map by default: prod(shape) / shape[-1] words (backends/fpga/fpga_types.py,
StreamVariableConverter). Its own optimization sizes FIFOs by the peaks of a co-simulation, which
needs Vivado (passes/fifo_depth_optimization.py).

A layer is a kernel here: ZeroPadding2D is `Padding`, Clone `Fork`, Merge `Join`, an activation a
register, Conv2D a parallel `Window` and a `MatrixVector` that takes the reuse factor of cycles a
pixel, with no FIFO of its own between the two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graphopt.errors import GraphoptError
from hwmodel.datatypes import DataType
from hwmodel.design import Builder, Design
from hwmodel.kernels import (
    Channelwise,
    Fork,
    Join,
    Kernel,
    MatrixVector,
    MaxPool,
    Padding,
    WidthConverter,
    Window,
)
from hwmodel.kernels.kernel import Port

INSIDE = ".inside"
"""Ends the name of a stream within a layer: hls4ml has no FIFO there."""


def dump(graph: Any) -> dict[str, Any]:
    """The layers and streams of an hls4ml ModelGraph (io_stream), as plain values.

    Runs where hls4ml is installed; what it returns can be kept as JSON and read elsewhere.
    """
    streams = {}
    for name, variable in graph.output_vars.items():
        kind = getattr(variable.type, "precision", None)
        streams[name] = {
            "variable": variable.name,
            "shape": [int(size) for size in variable.shape],
            "bits": int(getattr(kind, "width", 16)),
            "depth": int(variable.pragma[1]) if getattr(variable, "pragma", None) else 0,
        }
    wanted = (
        "in_height in_width n_chan filt_height filt_width stride_height stride_width n_filt "
        "pad_top pad_bottom pad_left pad_right reuse_factor pool_height pool_width n_in n_out op"
    ).split()
    layers = []
    for layer in graph.get_layers():
        attributes = {}
        for key in wanted:
            value = layer.get_attr(key)
            if isinstance(value, int | str):
                attributes[key] = value
        layers.append(
            {
                "name": layer.name,
                "class": layer.class_name,
                "inputs": list(layer.inputs),
                "outputs": list(layer.outputs),
                **attributes,
            }
        )
    return {"layers": layers, "streams": streams}


def design(record: Mapping[str, Any]) -> Design:
    """The design of a dumped model, with hls4ml's own FIFO depths.

    Raises:
        GraphoptError: the record is none, or a layer has no kernel.
    """
    try:
        return _Reader(record).read()
    except (KeyError, TypeError) as error:
        raise GraphoptError(f"this is no dump of an hls4ml model: {error!r}.") from None


@dataclass
class _Reader:
    record: Mapping[str, Any]

    def read(self) -> Design:
        build = Builder()
        open_: dict[str, str] = {}
        for layer in self.record["layers"]:
            names = layer["outputs"]
            if layer["class"] == "Input":
                open_[names[0]] = build.source(
                    names[0], self._port(names[0]), self._depth(names[0])
                )
                continue
            kernels = self._kernels(layer)
            streams = [open_[name] for name in layer["inputs"]]
            for kernel in kernels[:-1]:
                streams = list(
                    build.add(kernel, streams, [f"{kernel.name}{INSIDE}"], layer=layer["name"])
                )
            made = build.add(
                kernels[-1],
                streams,
                names,
                depths=[self._depth(name) for name in names],
                layer=layer["name"],
            )
            open_.update(zip(names, made, strict=True))
        return build.design()

    def _type(self, name: str) -> DataType:
        bits = self.record["streams"][name]["bits"]
        return DataType(f"FIXED<{bits},{bits}>", bits, True)

    def _depth(self, name: str) -> int:
        return int(self.record["streams"][name]["depth"])

    def _shape(self, name: str) -> Sequence[int]:
        shape: Sequence[int] = self.record["streams"][name]["shape"]
        return shape

    def _port(self, name: str) -> Port:
        shape = self._shape(name)
        pixels = 1
        for size in shape[:-1]:
            pixels *= size
        return Port(self._type(name), shape[-1], pixels)

    def _kernels(self, layer: Mapping[str, Any]) -> list[Kernel]:
        kind, name = layer["class"], layer["name"]
        source, result = layer["inputs"][0], layer["outputs"][0]
        given, made = self._port(source), self._port(result)
        elements = given.elements * given.words
        match kind:
            case "Clone":
                return [
                    Fork(
                        name=name,
                        elements=elements,
                        pe=given.elements,
                        element=given.element,
                        ways=len(layer["outputs"]),
                    )
                ]
            case "Merge":
                operands = tuple(self._type(each) for each in layer["inputs"])
                return [
                    Join(
                        name=name,
                        elements=elements,
                        pe=given.elements,
                        operands=operands,
                        output=made.element,
                    )
                ]
            case "ZeroPadding2D":
                height, width, channels = self._shape(source)
                return [
                    Padding(
                        name=name,
                        height=height,
                        width=width,
                        channels=channels,
                        pads=(
                            layer["pad_top"],
                            layer["pad_left"],
                            layer["pad_bottom"],
                            layer["pad_right"],
                        ),
                        element=given.element,
                        simd=channels,
                    )
                ]
            case "Conv2D" | "Conv2DBatchnorm" | "PointwiseConv2D":
                return self._conv(layer)
            case "Pooling2D":
                height, width, channels = self._shape(source)
                return [
                    MaxPool(
                        name=name,
                        height=height,
                        width=width,
                        channels=channels,
                        kernel=(layer["pool_height"], layer["pool_width"]),
                        element=given.element,
                        pe=channels,
                    )
                ]
            case "Dense":
                return [self._unit(layer, elements, made.elements, 1)]
            case _ if given.elements * given.words != made.elements * made.words:
                raise GraphoptError(f"{name} ({kind}) of hls4ml has no kernel here.")
            case _ if given.elements != made.elements:
                # Transpose, Reshape: the same elements in words of another size.
                return [
                    WidthConverter(
                        name=name,
                        elements=elements,
                        into=given.elements,
                        out_of=made.elements,
                        element=given.element,
                    )
                ]
            case _:
                return [
                    Channelwise(
                        name=name,
                        function=kind,
                        channels=given.elements,
                        vectors=given.words,
                        pe=given.elements,
                        input=given.element,
                        parameter=given.element,
                        output=made.element,
                    )
                ]

    def _conv(self, layer: Mapping[str, Any]) -> list[Kernel]:
        source = layer["inputs"][0]
        height, width, channels = self._shape(source)
        window = Window(
            name=f"{layer['name']}.window",
            height=height,
            width=width,
            channels=channels,
            kernel=(layer["filt_height"], layer["filt_width"]),
            stride=(layer["stride_height"], layer["stride_width"]),
            element=self._type(source),
            simd=channels,
            parallel=True,
        )
        taps = layer["filt_height"] * layer["filt_width"] * channels
        vectors = window.out_height * window.out_width
        unit = self._unit(layer, taps, layer["n_filt"], vectors)
        if unit.pe == unit.mh:
            return [window, unit]
        # A pixel leaves whole, when its last product is done.
        gather = WidthConverter(
            name=f"{layer['name']}.pixel",
            elements=vectors * unit.mh,
            into=unit.pe,
            out_of=unit.mh,
            element=unit.output,
        )
        return [window, unit, gather]

    def _unit(self, layer: Mapping[str, Any], mw: int, mh: int, vectors: int) -> MatrixVector:
        """A unit that takes about the reuse factor of cycles for a pixel."""
        reuse = max(1, int(layer.get("reuse_factor", 1)))
        passes = min((d for d in range(1, mh + 1) if mh % d == 0), key=lambda d: abs(d - reuse))
        kind = self._type(layer["outputs"][0])
        return MatrixVector(
            name=layer["name"],
            mw=mw,
            mh=mh,
            vectors=vectors,
            simd=mw,
            pe=mh // passes,
            input=self._type(layer["inputs"][0]),
            weight=DataType("FIXED<16,6>", 16, True),
            accumulator=kind,
            output=kind,
        )


def stream_depths(sized: Design) -> dict[str, int]:
    """The depths of the streams that hls4ml has, by its names of them."""
    return {
        stream.name: stream.depth if stream.depth is not None else 2
        for stream in sized.streams
        if not stream.name.endswith(INSIDE)
    }


def fifo_bits(sized: Design) -> int:
    """Storage of the FIFOs that hls4ml has."""
    return sum(sized.stream[name].bits * depth for name, depth in stream_depths(sized).items())


def apply_depths(graph: Any, depths: Mapping[str, int]) -> int:
    """Sets the FIFO depths of an hls4ml ModelGraph; returns how many it set.

    Raises:
        GraphoptError: a stream that the graph does not have.
    """
    for name, depth in depths.items():
        variable = graph.output_vars.get(name)
        if variable is None:
            raise GraphoptError(f"the hls4ml model has no stream {name}.")
        if getattr(variable, "pragma", None):
            variable.pragma = (variable.pragma[0], depth)
    return len(depths)


def configuration(sized: Design) -> dict[str, Any]:
    """A configuration for hls4ml of a design mapped from ONNX, and its FIFO depths.

    `Model` and `LayerName` are hls4ml's own keys (hls_config). hls4ml has no key for FIFO depths:
    `FIFODepths` is ours, by the kernel that writes and the kernel that reads; each pixel of C
    channels is one word in hls4ml, so depths here are in pixels.
    """
    layers: dict[str, Any] = {}
    for kernel in sized.kernels:
        if isinstance(kernel, MatrixVector):
            layers[sized.layer_of(kernel.name)] = {
                "ReuseFactor": kernel.synapse_fold * kernel.neuron_fold,
                "Precision": {
                    "weight": f"fixed<{kernel.weight.bits},1>",
                    "result": f"fixed<{kernel.output.bits},{kernel.output.bits}>",
                },
            }
    from hwmodel.folding import channels_of

    channels = channels_of(sized)
    depths = []
    for stream in sized.streams:
        if stream.source is None or stream.sink is None or (stream.depth or 2) <= 2:
            continue
        per_pixel = max(1, channels[stream.sink.kernel] // stream.elements)
        depths.append(
            {
                "from": sized.layer_of(stream.source.kernel),
                "to": sized.layer_of(stream.sink.kernel),
                "pixels": -(-(stream.depth or 2) // per_pixel),
            }
        )
    return {
        "Model": {"Precision": "fixed<16,6>", "ReuseFactor": 1, "Strategy": "Latency"},
        "LayerName": layers,
        "FIFODepths": depths,
    }
