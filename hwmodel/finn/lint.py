"""What FINN will stumble over in a QONNX graph, and what can be mended exactly.

Every trap here was seen: with finn-plus 1.6.1 and its stock estimate-only steps, or in FINN's RTL
(the depthwise window generator). A finding says what breaks and how to mend it; with `fix` the pass
mends what it can mend without changing a code.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnx_ir

from graphopt.evidence import Exactness, Refusal, Region, Rewrite
from graphopt.ir.constants import constant
from graphopt.ir.layers import data_tensors
from graphopt.ir.model import Model, node_label
from graphopt.ir.quant import Grid, GridTable, Quantization
from graphopt.ir.shapes import Shapes, ShapeTable
from graphopt.pipeline.passes import Context, PassResult
from hwmodel.datatypes import integer
from hwmodel.kernels import Window
from passes.linear import Initializers, Linear, NotLinear, replace_output
from passes.refused import Refused
from passes.reserve_merge import lattice
from passes.reserve_merge.quantized_layers import Layer, chain, weight_codes

PRESET = (
    "freeze-weights,fold-constants,reserve-merge-quantized{when=possible},finn-lint{fix=true},dce"
)
"""A quantized network as FINN's stock steps accept it, every code as it was."""

OPSET = 13
"""The operator set that FINN's steps are made for."""

_QUANTIZERS = ("Quant", "IntQuant", "BipolarQuant", "MultiThreshold")
_FLOATS = frozenset(
    "Sigmoid Tanh Elu Selu Celu Gelu HardSwish HardSigmoid Mish Softplus Softsign LeakyRelu PRelu "
    "Exp Log Sqrt Erf Pow Softmax LayerNormalization InstanceNormalization "
    "GroupNormalization".split()
)
_CONV = ("kernel_shape", "strides", "pads", "dilations", "group")


@dataclass(frozen=True)
class Finding:
    """One trap.

    Attributes:
        code: short stable word for the kind of trap.
        where: label of the node, or of the model.
        what: what breaks, in a sentence.
        cure: how to mend it.
        fix: mends it, where that can be done exactly.
    """

    code: str
    where: str
    what: str
    cure: str
    fix: Callable[[], str] | None = None


@dataclass(frozen=True)
class FinnLint:
    """Reports what will break in FINN.

    Attributes:
        fix: mend what can be mended exactly; the rest is reported either way.
    """

    name: ClassVar[str] = "finn-lint"
    preserves: ClassVar[frozenset[str]] = frozenset()

    fix: bool = False

    def run(self, model: Model, context: Context) -> PassResult:
        """Every trap that is left is a refusal, every one that is mended a rewrite."""
        rewrites: list[Rewrite] = []
        refused: set[str] = set()
        while self.fix:
            todo = [f for f in findings(model) if f.fix and f.where + f.code not in refused]
            if not todo:
                break
            one = todo[0]
            assert one.fix is not None
            try:
                fact = one.fix()
            except Refused:
                refused.add(one.where + one.code)
                continue
            region = Region(one.where, (one.where,))
            rewrites.append(Rewrite(self.name, one.code, region, Exactness.EXACT, (fact,)))
            model.analyses.keep_only(())
        left = tuple(
            Refusal(self.name, Region(one.where, (one.where,)), f"{one.what}: {one.cure}", one.code)
            for one in findings(model)
        )
        counts = {"mended": len(rewrites), "left": len(left)}
        return PassResult(bool(rewrites), tuple(rewrites), left, (), counts)


def findings(model: Model) -> tuple[Finding, ...]:
    """Every trap in a model, in order of its nodes."""
    lint = _Lint(model)
    return (*lint.model_wide(), *(one for node in model.graph for one in lint.at(node)))


class _Lint:
    """The checks, and what they share."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.shapes: ShapeTable = model.analyses.get(Shapes())
        self.grids: GridTable = model.analyses.get(Quantization())
        self.data = data_tensors(model)

    def model_wide(self) -> Iterator[Finding]:
        """Traps of the file."""
        graph = self.model.graph.name or "the model"
        if self.model.opset > OPSET:
            yield Finding(
                "opset",
                graph,
                f"it is of operator set {self.model.opset}, FINN's steps know {OPSET}",
                f"export with opset_version={OPSET}",
            )
        for value in self.model.graph.inputs:
            if value.name not in self.data or value.is_initializer():
                continue
            readers = [use.node for use in value.uses()]
            quantized = readers and all(n.op_type in ("Quant", "IntQuant") for n in readers)
            if quantized and value.name not in self.grids:
                yield Finding(
                    "float-input",
                    value.name or graph,
                    "FINN makes a thresholding of float32 numbers of the quantizer behind it, "
                    "which our costs and folding files do not count: FINN has one number more",
                    "annotate the input as integers (finn_datatype UINT8) and leave that "
                    "quantizer out",
                )
            elif readers and value.name not in self.grids:
                yield Finding(
                    "unquantized-input",
                    value.name or graph,
                    "nothing says that it holds integers, so the first layer stays float and "
                    "unmapped",
                    "quantize it when training, or say what comes in: export finn --input UINT8",
                )
        keys = {key for node in self.model.graph for key in node.metadata_props}
        if any(key.startswith("pkg.torch.onnx") for key in keys):
            yield Finding(
                "dynamo-export",
                graph,
                "torch's dynamo exporter wrote it, whose graphs FINN does not recognise",
                "export with dynamo=False",
            )

    def at(self, node: onnx_ir.Node) -> Iterator[Finding]:
        """Traps at one node."""
        if not any(value.name in self.data for value in node.outputs):
            return
        data = [v for v in node.inputs if v is not None and v.name in self.data]
        onnx_operator = node.domain in ("", "ai.onnx")
        if onnx_operator and node.op_type in ("Add", "Sum") and len(data) > 1:
            yield from self._join(node, data)
        elif onnx_operator and node.op_type in ("Mul", "Div") and len(data) > 1:
            yield self._float(node, "multiplies two tensors")
        elif onnx_operator and node.op_type in _FLOATS:
            yield self._float(node, "is no function of integers")
        elif onnx_operator and node.op_type in ("AveragePool", "GlobalAveragePool", "ReduceMean"):
            if not self._truncated(node):
                yield self._pool(node)
        elif onnx_operator and node.op_type == "Conv":
            yield from self._conv(node)
        elif node.op_type in ("Quant", "IntQuant"):
            yield from self._quantizer(node)

    # --- joins -----------------------------------------------------------------------------------

    def _join(self, node: onnx_ir.Node, data: list[onnx_ir.Value]) -> Iterator[Finding]:
        label = node_label(node)
        grids = [self.grids.get(value.name or "") for value in data]
        known = [grid for grid in grids if grid is not None]
        if len(known) == len(grids) and not all(known[0].same_as(one) for one in known):
            steps = " and ".join(f"{float(one.scale.flat[0]):.6g}" for one in known)
            yield Finding(
                "unequal-scales",
                label,
                f"its inputs have steps of {steps}, so FINN leaves float nodes there, which it "
                "estimates at no cost and cannot build",
                "train with one shared quantizer in front of the join",
            )
        yield Finding(
            "residual-join",
            label,
            "the stock steps of FINN leave it and the convolutions around it unmapped",
            "reserve-merge-quantized{when=possible} takes it away, or use the steps of FINN's "
            "ResNet-50",
        )

    def _float(self, node: onnx_ir.Node, why: str) -> Finding:
        return Finding(
            "float-operator",
            node_label(node),
            f"{node.op_type} {why}, so it stays a float node that FINN cannot build",
            "use ReLU, or quantize its result by thresholds",
        )

    # --- pools -----------------------------------------------------------------------------------

    def _truncated(self, node: onnx_ir.Node) -> bool:
        """Whether FINN knows the pool: an AveragePool with a Trunc (AvgPoolAndTruncToQuantAvgPool
        in finn/transformation/qonnx/infer_quant_avg_pool_2d.py).
        """
        readers = [use.node for use in node.outputs[0].uses()]
        pool = node.op_type == "AveragePool" and bool(readers)
        return pool and all(reader.op_type == "Trunc" for reader in readers)

    def _pool(self, node: onnx_ir.Node) -> Finding:
        fix: Callable[[], str] | None = None
        source = node.inputs[0]
        grid = self.grids.get((source.name if source is not None else "") or "")
        if grid is not None and grid.per_tensor and not grid.codes:
            fix = lambda: self._pool_to_conv(node)  # noqa: E731
        return Finding(
            "pool",
            node_label(node),
            f"{node.op_type} stops streamlining, which leaves it unmapped or loops for ever",
            "make it a depthwise convolution with equal weights",
            fix,
        )

    def _pool_to_conv(self, node: onnx_ir.Node) -> str:
        """The mean as a depthwise convolution: integer weights 1, and 1 / k as their scale."""
        source, output = node.inputs[0], node.outputs[0]
        assert source is not None
        shape = self.shapes[source.name or ""].shape
        made = self.shapes[output.name or ""].shape
        if shape is None or made is None or not all(isinstance(d, int) for d in shape[1:]):
            raise Refused("unknown-shape", "the shape before it is not known")
        channels, *sizes = (int(d) for d in shape[1:] if isinstance(d, int))
        if node.op_type == "AveragePool":
            try:
                pool = Linear.of_pool(node, channels, shape)
            except NotLinear as reason:
                raise Refused("pooled-border", str(reason)) from reason
            kernel, strides = pool.kernel, pool.strides
            pads, dilations = pool.pads_begin + pool.pads_end, pool.dilations
        else:
            whole = len(made) == len(shape) and made[:2] == shape[:2]
            if not whole or any(d != 1 for d in made[2:]):
                raise Refused("pool-axes", "it does not take the mean of each channel's map")
            kernel = strides = tuple(sizes)
            pads, dilations = (0,) * 2 * len(sizes), (1,) * len(sizes)
        initializers = Initializers(self.model.graph, set(self.model.value_index()))
        label, one = node_label(node), 1 / math.prod(kernel)
        arrays = (np.full((channels, 1, *kernel), one), one, 0.0, 2.0)
        inputs = [
            initializers.add(f"{label}.{name}", np.asarray(array, np.float32))
            for name, array in zip(("weight", "scale", "zero", "bits"), arrays, strict=True)
        ]
        weight = onnx_ir.node(
            "Quant", inputs, attributes={"signed": 1, "narrow": 0, "rounding_mode": "ROUND"},
            domain=self._domain(), name=initializers.fresh(f"{label}.weights"),
        )  # fmt: skip
        weight.outputs[0].name = initializers.fresh(f"{label}.quantized")
        self.model.graph.insert_before(node, weight)
        attributes: dict[str, Any] = dict(
            zip(_CONV, (kernel, strides, pads, dilations, channels), strict=True)
        )
        new = onnx_ir.node(
            "Conv", [source, weight.outputs[0]], attributes=attributes, name=node.name
        )
        replace_output(self.model, node, new)
        return f"the mean over {math.prod(kernel)} elements is a convolution with equal weights"

    def _domain(self) -> str:
        """The domain that the model uses for quantizers."""
        found = (n.domain for n in self.model.graph if n.op_type in _QUANTIZERS)
        return next(found, "qonnx.custom_op.general")

    # --- convolutions ----------------------------------------------------------------------------

    def _conv(self, node: onnx_ir.Node) -> Iterator[Finding]:
        label = node_label(node)
        missing = [name for name in _CONV if node.attributes.get(name) is None]
        if missing:
            yield Finding(
                "conv-attributes",
                label,
                f"it leaves {', '.join(missing)} to ONNX's defaults, and qonnx's "
                "LowerConvsToMatMul reads them",
                "write them",
                lambda: self._spell(node),
            )
        source = node.inputs[0]
        known = self.shapes[(source.name if source is not None else "") or ""].shape or ()
        shape = [dim for dim in known[1:] if isinstance(dim, int)]
        grid = self.grids.get((source.name if source is not None else "") or "")
        group = node.attributes.get_int("group", 1) or 1
        if group > 1 and len(shape) > 1 and group == shape[0]:
            yield from self._depthwise(node, grid)
        pads = node.attributes.get_ints("pads", ()) or ()
        if len(shape) != 3 or group != shape[0] or group == 1 or any(pads):
            return  # a padder in front sends the last row at a word a cycle, which is fast enough
        kernel = node.attributes.get_ints("kernel_shape", (1, 1)) or (1, 1)
        strides = node.attributes.get_ints("strides", (1, 1)) or (1, 1)
        bits = grid.bits if grid is not None else 8
        hangs = [
            simd
            for simd in range(1, group)
            if group % simd == 0
            and Window(
                name=label,
                height=shape[1],
                width=shape[2],
                channels=group,
                kernel=(kernel[0], kernel[1]),
                stride=(strides[0], strides[1]),
                element=integer(bits, signed=False),
                simd=simd,
                depthwise=True,
            ).counter_too_narrow
        ]
        if hangs:
            yield Finding(
                "window-hangs",
                label,
                "FINN's depthwise window generator hangs here with SIMD "
                f"{', '.join(map(str, hangs))}, if the last pixel comes late",
                "use another SIMD, or a FINN with Xilinx/finn pull request 1698 or finn-plus 264",
            )

    def _depthwise(self, node: onnx_ir.Node, grid: Grid | None) -> Iterator[Finding]:
        """Scales by channel in front of a depthwise convolution stay there: MoveMulPastDWConv is
        none of the stock steps, MoveScalarMulPastConv is.
        """
        source = node.inputs[0]
        maker = source.producer() if source is not None else None
        if grid is None or grid.codes or grid.scale.size == 1:
            return
        yield Finding(
            "depthwise-scale",
            node_label(node),
            f"it reads a scale for each channel ({float(grid.scale.flat[0]):.6g} and others), and "
            "streamlining moves only one scale past a convolution: it stays unmapped",
            "let the quantizer have steps of 1, and the layers around it the scale",
            (lambda: self._unscaled(maker, node))
            if maker is not None and maker.op_type in ("Quant", "IntQuant") and grid.symmetric
            else None,
        )

    def _unscaled(self, quantizer: onnx_ir.Node, conv: onnx_ir.Node) -> str:
        """The quantizer with steps of 1: what comes in is divided by its scale, which goes into the
        weights behind it.
        """
        given = self.grids[quantizer.outputs[0].name or ""].scale
        scale = given.reshape(-1)
        norm = quantizer.inputs[0].producer() if quantizer.inputs[0] is not None else None
        chain_ = [quantizer]
        while norm is not None and norm.op_type == "Relu":
            chain_.append(norm)
            norm = norm.inputs[0].producer() if norm.inputs[0] is not None else None
        if norm is None or norm.op_type != "BatchNormalization":
            raise Refused("no-norm", "no batch norm stands before the quantizer")
        if any(len(one.outputs[0].uses()) != 1 for one in (*chain_, norm)) or any(
            one.outputs[0].is_graph_output() for one in (*chain_, norm)
        ):
            raise Refused("read-elsewhere", "something else reads what is scaled")
        factors = [constant(norm.inputs[place]) for place in (1, 2)]
        weight = conv.inputs[1]
        if weight is None or any(array is None for array in factors):
            raise Refused("not-constant", "the batch norm has no constants")
        codes, steps, bits = weight_codes(weight, self.grids)
        shape = (1,) * (codes.ndim - given.ndim) + given.shape
        if shape != (1, len(codes), *[1] * (codes.ndim - 2)) or codes.shape[1] != 1:
            raise Refused("scales", "the scales are not those of the channels, one filter each")
        if codes.min() < -(2 ** (bits - 1)) or codes.max() >= 2 ** (bits - 1):
            bits += 1  # they were unsigned
        initializers = Initializers(self.model.graph, set(self.model.value_index()))
        for place, array in zip((1, 2), factors, strict=True):
            assert array is not None
            scaled = (array / scale).astype(np.float32)
            norm.replace_input_with(place, initializers.add(f"{node_label(norm)}.scaled", scaled))
        label = node_label(conv)
        one = np.array(1, np.float32)
        quantizer.replace_input_with(1, initializers.add(f"{label}.one", one))
        step = (steps * scale).astype(np.float32).reshape(-1, *[1] * (codes.ndim - 1))
        arrays = (codes.astype(np.float32) * step, step, np.float32(0), np.float32(bits))
        made = onnx_ir.node(
            "Quant",
            [initializers.add(f"{label}.weight", np.asarray(array)) for array in arrays],
            attributes={"signed": 1, "narrow": 0, "rounding_mode": "ROUND"},
            domain=quantizer.domain,
            name=initializers.fresh(f"{label}.weights"),
        )
        made.outputs[0].name = initializers.fresh(f"{label}.quantized")
        self.model.graph.insert_before(conv, made)
        old = weight.producer()
        conv.replace_input_with(1, made.outputs[0])
        if old is not None and not weight.uses():
            self.model.graph.remove(old, safe=True)
        return "the quantizer's scales go into the batch norm and the weights around it"

    def _spell(self, node: onnx_ir.Node) -> str:
        weight = node.inputs[1]
        shape = self.shapes[(weight.name if weight is not None else "") or ""].shape
        if shape is None or not all(isinstance(d, int) for d in shape):
            raise Refused("unknown-shape", "the shape of its weights is not known")
        if node.attributes.get_string("auto_pad", "NOTSET") not in ("NOTSET", ""):
            raise Refused("padding", "it pads by auto_pad")
        kernel = [int(d) for d in shape[2:] if isinstance(d, int)]
        ones = [1] * len(kernel)
        defaults: tuple[Any, ...] = (kernel, ones, [0] * 2 * len(kernel), ones)
        for name, value in zip(_CONV, defaults, strict=False):
            if node.attributes.get(name) is None:
                node.attributes[name] = onnx_ir.AttrInt64s(name, value)
        if node.attributes.get("group") is None:
            node.attributes["group"] = onnx_ir.AttrInt64("group", 1)
        return "the attributes are those that ONNX takes where none are written"

    # --- quantizers ------------------------------------------------------------------------------

    def _quantizer(self, node: onnx_ir.Node) -> Iterator[Finding]:
        source = node.inputs[0]
        maker = source.producer() if source is not None else None
        if maker is not None and maker.op_type in ("Flatten", "Reshape"):
            grid = self.grids.get(node.outputs[0].name or "")
            alone = source is not None and len(source.uses()) == 1
            yield Finding(
                "flatten-before-quantizer",
                node_label(node),
                f"{node_label(maker)} stands before it, and FINN removes a flattening only right "
                "before a matrix",
                "quantize first, then flatten",
                (lambda: self._swap(maker, node))
                if grid is not None and grid.per_tensor and alone
                else None,
            )
        layer = self._layer(node)
        if layer is not None and self._has_ties(layer):
            yield Finding(
                "half-even-ties",
                node_label(node),
                "sums half way between two codes occur (its scale is a power of two times the "
                "accumulator's), QONNX rounds them to the even one and FINN's thresholds up",
                "train with HALF_UP, or write the thresholds",
                lambda: self._thresholds(layer),
            )

    def _swap(self, flatten: onnx_ir.Node, quantizer: onnx_ir.Node) -> str:
        source = flatten.inputs[0]
        assert source is not None
        initializers = Initializers(self.model.graph, set(self.model.value_index()))
        first = onnx_ir.Node(
            quantizer.domain, quantizer.op_type, [source, *quantizer.inputs[1:]],
            quantizer.attributes.values(), name=quantizer.name,
        )  # fmt: skip
        first.outputs[0].name = initializers.fresh(f"{source.name}.quantized")
        self.model.graph.insert_before(flatten, first)
        second = onnx_ir.Node(
            flatten.domain, flatten.op_type, [first.outputs[0], *flatten.inputs[1:]],
            flatten.attributes.values(), name=flatten.name,
        )  # fmt: skip
        replace_output(self.model, quantizer, second)
        self.model.graph.remove(flatten, safe=True)
        return "a quantizer with one scale does the same to each element, whatever their order"

    def _layer(self, quantizer: onnx_ir.Node) -> Layer | None:
        """The convolution that a quantizer rounds, where it reads a quantized tensor."""
        value = quantizer.outputs[0]
        here: onnx_ir.Value | None = value
        for _ in range(8):
            maker = here.producer() if here is not None else None
            if maker is None:
                return None
            if maker.op_type == "Conv":
                source = maker.inputs[0]
                if source is None or not value.name:
                    return None
                try:
                    found = chain(value, source, self.shapes, self.grids, read_by_all=True)
                except Refused:
                    return None
                return found[0] if len(found) == 1 else None
            here = maker.inputs[0] if maker.inputs else None
        return None

    def _entering(self, layer: Layer) -> Grid | None:
        grid = self.grids.get(layer.linear.source.name or "")
        usable = grid is not None and grid.per_tensor and grid.symmetric and not grid.codes
        return grid if usable else None

    def _has_ties(self, layer: Layer) -> bool:
        grid, entering = layer.grid, self._entering(layer)
        if grid is None or entering is None or grid.rounding not in ("ROUND", "HALF_EVEN"):
            return False
        step = np.abs(layer.gain) * layer.scale * float(entering.scale)
        shift = layer.gain * layer.linear.bias + layer.shift
        # a = (k - 1/2) scale / step - shift / step is whole for some k, exactly
        with np.errstate(divide="ignore", invalid="ignore"):
            half = 0.5 * float(grid.scale) / step - shift / step
            whole = float(grid.scale) / step
        ties = (half == np.rint(half)) & (whole == np.rint(whole)) & (whole >= 2)
        return bool(ties.any())

    def _thresholds(self, layer: Layer) -> str:
        """Thresholds on the accumulator, which send each tie to the even code."""
        entering, grid, quantizer = self._entering(layer), layer.grid, layer.quantizer
        assert entering is not None
        assert grid is not None
        assert quantizer is not None
        if (layer.gain <= 0).any() or layer.linear.group != 1:
            raise Refused("negative-gain", "a channel falls where its accumulator rises")
        codes = layer.linear.weight.reshape(layer.linear.outputs, -1)
        ends = np.stack([codes * entering.low, codes * entering.high])
        low, high = ends.min(axis=0).sum(axis=1), ends.max(axis=0).sum(axis=1)
        rounds = lattice.Quantizer(float(grid.scale), grid.low, grid.high, "half-even", layer.relu)
        rows = []
        for row, (least, most) in enumerate(zip(low, high, strict=True)):
            step = float(layer.gain[row] * layer.scale[row]) * float(entering.scale)
            shift = float(layer.gain[row] * layer.linear.bias[row] + layer.shift[row])
            sum_ = lattice.Sum(step, 1.0, shift, int(least), int(most), (0, 0))
            first = lattice.first(sum_, rounds)[:, 0]
            first = np.clip(first, least - 1, most + 1)
            rows.append((first - 0.5) * float(layer.scale[row]) * float(entering.scale))
        initializers = Initializers(self.model.graph, set(self.model.value_index()))
        label = node_label(quantizer)
        conv = onnx_ir.Node(
            "", "Conv", layer.linear.node.inputs[:2], layer.linear.node.attributes.values(),
            name=layer.linear.node.name,
        )  # fmt: skip
        conv.outputs[0].name = initializers.fresh(f"{label}.accumulator")
        self.model.graph.insert_before(quantizer, conv)
        table = initializers.add(f"{label}.thresholds", np.stack(rows).astype(np.float32))
        kind = integer((grid.high - grid.low).bit_length(), signed=grid.low < 0)
        steps = onnx_ir.node(
            "MultiThreshold", [conv.outputs[0], table],
            attributes={"out_scale": 1.0, "out_bias": float(grid.low), "out_dtype": kind.name},
            domain=quantizer.domain, name=initializers.fresh(f"{label}.steps"),
        )  # fmt: skip
        steps.outputs[0].name = initializers.fresh(f"{label}.codes")
        self.model.graph.insert_before(quantizer, steps)
        scale = initializers.add(f"{label}.scale", np.array(grid.scale, np.float32))
        new = onnx_ir.node("Mul", [steps.outputs[0], scale], name=quantizer.name)
        replace_output(self.model, quantizer, new)
        for node in reversed(layer.nodes[:-1]):
            self.model.graph.remove(node, safe=True)
        return "every threshold stands between two accumulators, on the side of the even code"
