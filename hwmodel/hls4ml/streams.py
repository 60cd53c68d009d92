"""hls4ml: the FIFOs it gives a model, the same network as a design, and depths handed back.

In hls4ml's io_stream every tensor is a stream whose word is a whole pixel, and its FIFO holds a
whole map by default: prod(shape) / shape[-1] words, whoever writes it, Clone, Merge and Resize
among them (backends/fpga/fpga_types.py, StreamVariableConverter). The streams into and out of the
model are interfaces without a FIFO. No key of hls4ml's configuration sets a depth: its own
optimization measures peaks in a co-simulation, which needs Vivado or Vitis, and writes them into
the stream variables of the ModelGraph (passes/fifo_depth_optimization.py). `apply_depths` does the
same with ours.

Each layer is one loop over pixels without storage but its line buffer. It becomes these kernels,
in which a pixel is one element, and which are joined by streams that are not FIFOs of hls4ml
(`INSIDE`, always `WORDS_INSIDE` deep). Files of templates/{vivado,vitis}/nnet_utils:

| layer | kernels | source |
|---|---|---|
| ZeroPadding2D | `Padding` | nnet_padding_stream.h |
| Conv2D, DepthwiseConv2D ..., latency | reuse factor of cycles for each pixel that comes in, those of the border among them; parallel `Window`; one result a window | nnet_conv2d_stream.h: PIPELINE II=reuse_factor |
| the same, resource | parallel `Window`; reuse factor of cycles a window | the same, loop not pipelined |
| Pooling2D | parallel `Window`, one result a window | nnet_pooling_stream.h |
| GlobalPooling2D | `GlobalPool` | nnet_pooling_stream.h |
| Dense | gathers a vector, then takes the reuse factor of cycles | nnet_dense_stream.h |
| Clone | `Fork` | nnet_stream.h |
| Merge, Concatenate of channels | `Join` | nnet_merge_stream.h |
| Concatenate of rows or columns | `Concat` | nnet_merge_stream.h |
| Resize | `Upsample` | nnet_image_stream.h |
| Transpose, Reshape, Repack | gathers what it must, then gives it | nnet_transpose_stream.h, nnet_stream.h |
| Activation, BatchNormalization ... | a register | nnet_activation_stream.h |

Cycles are spent by `MatrixVector` units, which stand for any loop of so many cycles, and hold up to
two words more than hls4ml's loop. The depth of HLS pipelines is not known without synthesis and not
modelled; a Transpose reads the next frame while it gives one, which hls4ml's does not; a Resize
reads a row and then gives it, which hls4ml's does at once.
"""  # noqa: E501

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graphopt.errors import GraphoptError
from hwmodel.datatypes import DataType, integer
from hwmodel.design import Builder, Design, Stream
from hwmodel.kernels import (
    Channelwise,
    Concat,
    Fork,
    GlobalPool,
    Join,
    Kernel,
    MatrixVector,
    Padding,
    Upsample,
    WidthConverter,
    Window,
)
from hwmodel.kernels.kernel import Port

INSIDE = ".inside"
"""Ends the name of a stream within a layer: hls4ml has no FIFO there."""
WORDS_INSIDE = 2
"""Words of such a stream: what passes words on at full rate."""
_BEAT = integer(1, signed=False)
"""A word within a layer: it is counted, not stored."""
_CONVOLUTIONS = frozenset(
    "Conv2D Conv2DBatchnorm DepthwiseConv2D PointwiseConv2D Conv2D_PointwiseConv2D".split()
)
_ELEMENTWISE = frozenset(
    "Activation ParametrizedActivation PReLU Softmax TernaryTanh HardActivation "
    "BatchNormalization BatchNormalizationQuantizedTanh BatchNormOnnx ApplyAlpha Quant "
    "BipolarQuant".split()
)


def dump(graph: Any) -> dict[str, Any]:
    """The layers and streams of an hls4ml ModelGraph (io_stream), as plain values.

    Runs where hls4ml is installed; what it returns can be kept as JSON and read elsewhere. A depth
    of 0 says that the stream is another name of its layer's input.
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
        "pad_top pad_bottom pad_left pad_right reuse_factor strategy pool_height pool_width "
        "n_in n_out op axis"
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


def default_depth(shape: Sequence[int]) -> int:
    """Words of the FIFO that hls4ml gives a tensor of this shape, the batch left out."""
    return math.prod(shape) // shape[-1]


def design(record: Mapping[str, Any]) -> Design:
    """The design of a dumped model, with the FIFO depths of the dump.

    Raises:
        GraphoptError: the record is none, or a layer has no kernel.
    """
    try:
        return _Reader(record).read()
    except (KeyError, TypeError, IndexError) as error:
        raise GraphoptError(f"this is no dump of an hls4ml model: {error!r}.") from None


@dataclass
class _Reader:
    record: Mapping[str, Any]

    def read(self) -> Design:
        build = Builder()
        open_: dict[str, str] = {}
        for layer in self.record["layers"]:
            names = layer["outputs"]
            depths = [int(self.record["streams"][name]["depth"]) or None for name in names]
            if layer["class"] == "Input":
                open_[names[0]] = build.source(names[0], self._port(names[0]), depths[0])
                continue
            streams = [open_[name] for name in layer["inputs"]]
            if depths == [None]:
                # Another name of the same stream: a Reshape that moves nothing.
                open_[names[0]] = streams[0]
                continue
            kernels = self._kernels(layer)
            for kernel in kernels[:-1]:
                streams = list(
                    build.add(
                        kernel,
                        streams,
                        [f"{kernel.name}{INSIDE}"],
                        depths=[WORDS_INSIDE],
                        layer=layer["name"],
                    )
                )
            made = build.add(kernels[-1], streams, names, depths=depths, layer=layer["name"])
            open_.update(zip(names, made, strict=True))
        return build.design()

    def _shape(self, name: str) -> Sequence[int]:
        shape: Sequence[int] = self.record["streams"][name]["shape"]
        return shape

    def _pixel(self, name: str) -> DataType:
        bits = self._shape(name)[-1] * int(self.record["streams"][name]["bits"])
        return DataType(f"FIXED<{bits},{bits}>", bits, True)

    def _port(self, name: str) -> Port:
        return Port(self._pixel(name), 1, default_depth(self._shape(name)))

    def _kernels(self, layer: Mapping[str, Any]) -> list[Kernel]:
        """The kernels of a layer in order; the last writes its streams."""
        kind, name = layer["class"], layer["name"]
        source, result = layer["inputs"][0], layer["outputs"][0]
        given, made = self._port(source), self._port(result)
        if kind in _CONVOLUTIONS:
            return self._convolution(layer)
        if kind in _ELEMENTWISE and given.words == made.words:
            return [_register(name, kind, given, made)]
        match kind:
            case "Clone":
                ways = len(layer["outputs"])
                return [
                    Fork(name=name, elements=given.words, pe=1, element=given.element, ways=ways)
                ]
            case "Merge" | "Concatenate":
                return [self._join(layer, made)]
            case "ZeroPadding2D":
                height, width, _ = self._shape(source)
                sides = ("pad_top", "pad_left", "pad_bottom", "pad_right")
                top, left, bottom, right = (int(layer[side]) for side in sides)
                return [
                    Padding(
                        name=name,
                        height=height,
                        width=width,
                        channels=1,
                        pads=(top, left, bottom, right),
                        element=given.element,
                    )
                ]
            case "Pooling2D":
                window = self._window(layer, (layer["pool_height"], layer["pool_width"]), 1)
                return [window, _gathers(name, made, 1, layer["pool_height"] * layer["pool_width"])]
            case "GlobalPooling2D":
                return [
                    GlobalPool(
                        name=name,
                        channels=1,
                        vectors=given.words,
                        input=given.element,
                        output=made.element,
                    )
                ]
            case "Resize":
                return [self._upsample(layer, given)]
            case "Dense":
                return _dense(layer, given, made)
            case "Transpose":
                return _regrouped(name, given, made, given.words)
            case "Reshape" | "Repack":
                return _regrouped(
                    name, given, made, given.words // math.gcd(given.words, made.words)
                )
        raise GraphoptError(f"{name} ({kind}) of hls4ml has no kernel here.")

    def _join(self, layer: Mapping[str, Any], made: Port) -> Kernel:
        ports = [self._port(name) for name in layer["inputs"]]
        words = {port.words for port in ports}
        if words == {made.words}:
            operands = tuple(port.element for port in ports)
            return Join(
                name=layer["name"],
                elements=made.words,
                pe=1,
                operands=operands,
                output=made.element,
            )
        shapes = [self._shape(name) for name in layer["inputs"]]
        rank = len(shapes[0])
        # hls4ml counts the batch as axis 0.
        axis = int(layer["axis"]) - 1 if int(layer["axis"]) > 0 else rank + int(layer["axis"])
        before = math.prod(shapes[0][:axis])
        return Concat(
            name=layer["name"],
            vectors=before,
            channels=tuple(port.words // before for port in ports),
            element=made.element,
        )

    def _window(self, layer: Mapping[str, Any], kernel: tuple[int, int], parts: int) -> Window:
        """A line buffer over pixels that come in so many parts."""
        height, width, _ = self._shape(layer["inputs"][0])
        return Window(
            name=f"{layer['name']}.window",
            height=height,
            width=width,
            channels=parts,
            kernel=kernel,
            stride=(layer["stride_height"], layer["stride_width"]),
            element=_BEAT if parts > 1 else self._pixel(layer["inputs"][0]),
            parallel=True,
        )

    def _convolution(self, layer: Mapping[str, Any]) -> list[Kernel]:
        given, made = self._port(layer["inputs"][0]), self._port(layer["outputs"][0])
        kernel = layer["filt_height"], layer["filt_width"]
        taps, reuse = kernel[0] * kernel[1], max(1, int(layer.get("reuse_factor", 1)))
        pace = f"{layer['name']}.pace"
        if str(layer.get("strategy", "latency")).lower().startswith("resource"):
            window = self._window(layer, kernel, 1)
            if reuse == 1:
                return [window, _gathers(layer["name"], made, 1, taps)]
            spends = _spends(pace, window.outputs[0], reuse)
            return [window, spends, _gathers(layer["name"], made, reuse, 1)]
        window = self._window(layer, kernel, reuse)
        gathers = _gathers(layer["name"], made, reuse, taps)
        return [window, gathers] if reuse == 1 else [_spends(pace, given, reuse), window, gathers]

    def _upsample(self, layer: Mapping[str, Any], given: Port) -> Kernel:
        before, after = self._shape(layer["inputs"][0]), self._shape(layer["outputs"][0])
        scale = after[0] // before[0]
        if len(before) != 3 or (after[0], after[1]) != (before[0] * scale, before[1] * scale):
            raise GraphoptError(f"{layer['name']} (Resize) of hls4ml has no kernel here.")
        height, width, _ = before
        return Upsample(
            name=layer["name"],
            height=height,
            width=width,
            channels=1,
            scale=scale,
            element=given.element,
        )


def _unit(
    name: str, vectors: int, mw: int, simd: int, mh: int, given: DataType, made: DataType
) -> MatrixVector:
    return MatrixVector(
        name=name,
        mw=mw,
        mh=mh,
        vectors=vectors,
        simd=simd,
        input=given,
        weight=_BEAT,
        accumulator=made,
        output=made,
    )


def _spends(name: str, given: Port, cycles: int) -> MatrixVector:
    """Takes a word in so many cycles, and gives one part in each."""
    return _unit(name, given.words, given.elements, given.elements, cycles, given.element, _BEAT)


def _gathers(name: str, made: Port, parts: int, elements: int) -> MatrixVector:
    """Makes a word of so many."""
    return _unit(name, made.words, parts * elements, elements, 1, _BEAT, made.element)


def _register(name: str, function: str, given: Port, made: Port) -> Channelwise:
    return Channelwise(
        name=name,
        function=function,
        channels=1,
        vectors=given.words,
        input=given.element,
        parameter=_BEAT,
        output=made.element,
    )


def _dense(layer: Mapping[str, Any], given: Port, made: Port) -> list[Kernel]:
    name, reuse = layer["name"], max(1, int(layer.get("reuse_factor", 1)))
    if made.words != 1:
        raise GraphoptError(f"{name} (Dense) of hls4ml gives more than one word: no kernel here.")
    line: list[Kernel] = []
    port = given
    if given.words > 1:
        line.append(
            WidthConverter(
                name=f"{name}.gather",
                elements=given.words,
                into=1,
                out_of=given.words,
                element=given.element,
            )
        )
        port = line[0].outputs[0]
    if reuse > 1:
        line.append(_spends(f"{name}.pace", port, reuse))
        return [*line, _gathers(name, made, reuse, 1)]
    return [*line, _gathers(name, made, 1, port.elements)]


def _regrouped(name: str, given: Port, made: Port, group: int) -> list[Kernel]:
    """Gives made.words words for given.words, a group of the latter at a time."""
    if group == 1 and given.words == made.words:
        return [_register(name, "copy", given, made)]
    gather = WidthConverter(
        name=f"{name}.gather", elements=given.words, into=1, out_of=group, element=given.element
    )
    groups = given.words // group
    element = given.element if group == 1 else _BEAT
    scatter = _unit(name, groups, group, group, made.words // groups, element, made.element)
    return [scatter] if group == 1 else [gather, scatter]


def default_depths(record: Mapping[str, Any]) -> dict[str, int]:
    """Words of the FIFOs that hls4ml gives a dumped model by default, by stream.

    From the shapes alone; of the depths in the dump only 0 is read: no stream of its own.
    """
    read = {name for layer in record["layers"] for name in layer["inputs"]}
    given = {name for layer in record["layers"] if layer["class"] == "Input"
             for name in layer["outputs"]}  # fmt: skip
    return {
        name: default_depth(stream["shape"])
        for name, stream in record["streams"].items()
        if name in read - given and stream["depth"]
    }


def fifos(given: Design) -> tuple[Stream, ...]:
    """The streams that are FIFOs in hls4ml: between layers, not into or out of the model."""
    return tuple(
        stream
        for stream in given.streams
        if stream.source and stream.sink and not stream.name.endswith(INSIDE)
    )


def stream_depths(sized: Design) -> dict[str, int]:
    """Words of each FIFO, by hls4ml's name of its stream."""
    return {s.name: s.depth if s.depth is not None else 2 for s in fifos(sized)}


def fifo_bits(sized: Design) -> int:
    """Storage of all FIFOs."""
    return sum(sized.stream[name].bits * depth for name, depth in stream_depths(sized).items())


def profiled(given: Design) -> Design:
    """With the depths that hls4ml's own optimization would measure, by our simulator.

    Its pass makes FIFOs 100,000 deep, runs two samples as fast as they go, and takes the peaks
    (backends/vitis/passes/fifo_depth_optimization.py). Here no depth is below two words, as a FIFO
    of one halves the rate in the simulator.
    """
    from hwmodel.simulate import simulate

    names = [stream.name for stream in fifos(given)]
    free = given.with_depths(dict.fromkeys(names, PROFILING_DEPTH))
    peaks = simulate(free, frames=2, fed=2).peaks
    return given.with_depths({name: max(WORDS_INSIDE, peaks[name]) for name in names})


PROFILING_DEPTH = 100_000
"""hls4ml's `profiling_fifo_depth`."""


def sized(given: Design) -> Design:
    """With the smallest FIFOs that a descent finds at the cycles of those the design has.

    The dearest FIFOs first, many at once where two words do, else each to its smallest depth
    beside the others as they are by then (`hwmodel.fifo.minimal`), on the whole design with a
    source that is never late. Unlike `hwmodel.fifo.size`, which may size every stream, it leaves
    those within layers alone.

    Raises:
        GraphoptError: the design does not run with the depths it has.
    """
    from hwmodel.simulate import simulate

    interval = simulate(given, frames=4).interval
    dear = sorted(fifos(given), key=lambda s: s.bits * (s.depth or s.words), reverse=True)
    return _shrunk(given, [stream.name for stream in dear], interval)


def _shrunk(given: Design, names: Sequence[str], interval: int) -> Design:
    """With these FIFOs as small as keeps the interval, one after the other."""
    from hwmodel.fifo import minimal
    from hwmodel.simulate import simulate

    if not names:
        return given
    attempt = given.with_depths(dict.fromkeys(names, WORDS_INSIDE))
    run = simulate(attempt, frames=4)
    if run.status == "ok" and run.interval <= interval:
        return attempt
    if len(names) == 1:
        return given.with_depths({names[0]: minimal(given, names[0], interval=interval)})
    half = (len(names) + 1) // 2
    return _shrunk(_shrunk(given, names[:half], interval), names[half:], interval)


def apply_depths(graph: Any, depths: Mapping[str, int]) -> int:
    """Sets the FIFO depths of an hls4ml ModelGraph; returns how many it set.

    To be called after the conversion and before `compile`, `write` or `build`, all of which keep
    them.

    Raises:
        GraphoptError: a stream that the graph does not have, or that is no FIFO there.
    """
    for name, depth in depths.items():
        variable = graph.output_vars.get(name)
        if variable is None:
            raise GraphoptError(f"the hls4ml model has no stream {name}.")
        if not getattr(variable, "pragma", None):
            raise GraphoptError(f"{name} is no FIFO: convert the model with io_type='io_stream'.")
        variable.pragma = (variable.pragma[0], int(depth))
    return len(depths)


def configuration(sized: Design) -> dict[str, Any]:
    """A configuration for hls4ml of a design mapped from ONNX, and its FIFO depths.

    `Model` and `LayerName` are hls4ml's own keys (hls_config). hls4ml has no key for FIFO depths,
    and ignores `FIFODepths`, which is ours: by the layer that writes and the layer that reads, in
    pixels, which are hls4ml's words; `default` is what hls4ml takes. To size and set the depths of
    a converted model, use `dump`, `design`, `sized` and `apply_depths`.
    """
    from hwmodel.folding import channels_of

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
                "default": -(-stream.words // per_pixel),
            }
        )
    return {
        "Model": {"Precision": "fixed<16,6>", "ReuseFactor": 1, "Strategy": "Latency"},
        "LayerName": layers,
        "FIFODepths": depths,
    }
