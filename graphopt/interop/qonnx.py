"""QONNX: qonnx's `ModelWrapper` there and back, and QONNX's operators for the reference evaluator.

The operators are written from the QONNX specification (docs/qonnx-custom-ops in qonnx) and need no
qonnx. They are known under every domain that exporters have used for them.

Deeploy's `RequantShift` is not among them: no attribute says whether it rounds before it shifts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx

from graphopt.errors import GraphoptError

Array: TypeAlias = npt.NDArray[Any]

GENERAL_DOMAINS = ("qonnx.custom_op.general", "onnx.brevitas", "finn.custom_op.general", "finn")
"""Domains under which exporters write the quantizers and `MultiThreshold`."""

CHANNELS_LAST_DOMAIN = "qonnx.custom_op.channels_last"


def to_proto(wrapper: Any) -> onnx.ModelProto:
    """A copy of the protobuf in a qonnx `ModelWrapper`."""
    proto = onnx.ModelProto()
    proto.CopyFrom(wrapper.model)
    return proto


def from_proto(proto: onnx.ModelProto) -> Any:
    """A qonnx `ModelWrapper` around `proto`, which is not copied and not cleaned up.

    Raises:
        GraphoptError: qonnx is not installed.
    """
    try:
        from qonnx.core.modelwrapper import ModelWrapper
    except ImportError as error:
        raise GraphoptError(
            "a qonnx ModelWrapper needs the package qonnx: pip install 'graphopt[qonnx]'."
        ) from error
    # The constructor rewrites what it is given (domains, value_info); an empty model has neither.
    wrapper = ModelWrapper(onnx.ModelProto(), fix_missing_initializer_valueinfo=False)
    wrapper.model = proto
    return wrapper


def reference_operators(proto: onnx.ModelProto) -> list[type[Any]]:
    """Implementations for `onnx.reference.ReferenceEvaluator(new_ops=...)`: of the foreign
    operators in `proto` that are known here, and of two of ONNX's own that the evaluator gets wrong
    or takes minutes for (`batch_normalization`, `resize_nearest`).
    """
    used = {(node.domain, node.op_type) for node in _nodes(proto)}
    operators = [
        _operator(domain, op_type, rule)
        for domain, op_type in sorted(used)
        if (rule := _rule(domain, op_type)) is not None
    ]
    opset = next((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), 0)
    for op_type, function, serves in (
        ("Resize", resize_nearest, _resizes_nearest),
        ("BatchNormalization", batch_normalization, _normalizes),
    ):
        nodes = [n for n in _nodes(proto) if n.op_type == op_type and n.domain in ("", "ai.onnx")]
        if nodes and all(serves(node, opset) for node in nodes):
            operators.append(_operator("", op_type, _without_node(function)))
    return operators


def declare_domains(proto: onnx.ModelProto) -> None:
    """Adds (in place) an import of version 1 for each operator domain that `proto` uses without
    importing it, as Brevitas exports do; the reference evaluator insists on one. "ai.onnx" becomes
    the empty domain that it stands for.
    """
    for node in _nodes(proto):
        if node.domain == "ai.onnx":
            node.domain = ""
    for holder in (proto, *proto.functions):
        for opset in holder.opset_import:
            if opset.domain == "ai.onnx":
                opset.domain = ""
    for holder, graph in ((proto, proto.graph), *((f, f) for f in proto.functions)):
        missing = {node.domain for node in _walk(graph.node)}
        missing -= {opset.domain for opset in holder.opset_import}
        holder.opset_import.extend(onnx.helper.make_opsetid(name, 1) for name in sorted(missing))


def quant(
    x: Array,
    scale: Array,
    zero_point: Array,
    bit_width: Array,
    *,
    signed: int = 1,
    narrow: int = 0,
    rounding_mode: str = "ROUND",
) -> Array:
    """`Quant` (also called `IntQuant`): `x` on the grid of an integer type, as real numbers.

    Args:
        x: any shape.
        scale: step of the grid; it, `zero_point` and `bit_width` broadcast to `x`.
        zero_point: the integer that stands for 0.
        bit_width: bits of the integer type. One signed bit means -1 and +1.
        signed: 1 for integers of both signs.
        narrow: 1 leaves out one integer: the lowest if signed, else the highest.
        rounding_mode: a key of `ROUNDING`, in upper or lower case.
    """
    integer = x / scale + zero_point
    low, high = _limits(bit_width, signed, narrow)
    clamped = _rounding(rounding_mode)(np.minimum(np.maximum(integer, low), high))
    if signed:
        clamped = np.where(bit_width == 1, np.where(integer >= 0, 1.0, -1.0), clamped)
    return np.asarray((clamped - zero_point) * scale).astype(x.dtype)


def bipolar_quant(x: Array, scale: Array) -> Array:
    """`BipolarQuant`: `scale` where x >= 0, else `-scale`."""
    return np.asarray(np.where(x >= 0, scale, -scale)).astype(x.dtype)


def trunc(
    x: Array,
    scale: Array,
    zero_point: Array,
    in_bits: Array,
    *others: Array,
    rounding_mode: str = "FLOOR",
    signed: int = 1,
    narrow: int = 0,
) -> Array:
    """`Trunc`: drops the lowest bits of what `Quant` made.

    Args:
        x: any shape, on the grid of `scale` and `zero_point`.
        scale: step of the grid before.
        zero_point: the integer that stands for 0 before.
        in_bits: bits before.
        others: version 1: bits after; the scale stays, so values shrink. Version 2: scale and bits
            after; the values stay and are clamped to the new type.
        rounding_mode: a key of `ROUNDING`.
        signed: version 2: the new type has both signs.
        narrow: version 2: as for `quant`.
    """
    integer = np.round(x / scale + zero_point)
    rounding = _rounding(rounding_mode)
    if len(others) == 1:
        (out_bits,) = others
        shrunk = rounding(integer / 2.0 ** (in_bits - out_bits))
        return np.asarray((shrunk - zero_point) * scale).astype(x.dtype)
    out_scale, out_bits = others
    factor = 2.0 ** np.round(np.log2(out_scale / scale))
    low, high = _limits(out_bits, signed, narrow)
    shrunk = rounding(np.minimum(np.maximum(integer / factor, low), high))
    return np.asarray((shrunk - zero_point / factor) * out_scale).astype(x.dtype)


def multi_threshold(
    x: Array,
    thresholds: Array,
    *,
    out_scale: float = 1.0,
    out_bias: float = 0.0,
    data_layout: str = "",
    out_dtype: str = "",
) -> Array:
    """`MultiThreshold`: the number of thresholds that x reaches, times `out_scale` plus `out_bias`.

    Args:
        x: [N, C, ...], or as `data_layout` says.
        thresholds: [C or 1, number of steps].
        out_scale: see above.
        out_bias: see above.
        data_layout: one letter per axis; "C" marks the channels. Without one, rank 3 means "NWC"
            and every other rank has the channels on axis 1 (as in qonnx).
        out_dtype: FINN's name for the type of the result; the numbers do not depend on it.
    """
    layout = data_layout or ("NWC" if x.ndim == 3 else "NC")
    axis = layout.index("C") if "C" in layout else 1
    if thresholds.shape[0] == 1:
        columns = thresholds
    elif axis < x.ndim and x.shape[axis] == thresholds.shape[0]:
        shape = [1] * x.ndim
        shape[axis] = -1
        columns = np.stack([column.reshape(shape) for column in thresholds.T], axis=-1)
    else:
        raise ValueError(
            f"MultiThreshold has thresholds for {thresholds.shape[0]} channels, the input has "
            f"shape {x.shape} in layout {layout}"
        )
    dtype = x.dtype if np.issubdtype(x.dtype, np.floating) else np.dtype(np.float32)
    reached = np.zeros(x.shape, dtype)
    for step in range(columns.shape[-1]):
        reached += x >= columns[..., step]
    return np.asarray(out_scale * reached + out_bias).astype(dtype)


def _away(x: Array) -> Array:
    return np.asarray(np.sign(x) * np.ceil(np.abs(x)))


def _half_away(x: Array) -> Array:
    return np.asarray(np.sign(x) * np.floor(np.abs(x) + 0.5))


def _half_towards_zero(x: Array) -> Array:
    return np.asarray(np.sign(x) * np.ceil(np.abs(x) - 0.5))


ROUNDING: dict[str, Callable[[Array], Array]] = {
    "ROUND": np.round,
    "HALF_EVEN": np.round,
    "CEIL": np.ceil,
    "FLOOR": np.floor,
    "UP": _away,
    "DOWN": np.trunc,
    "ROUND_TO_ZERO": np.trunc,
    "HALF_UP": _half_away,
    "HALF_DOWN": _half_towards_zero,
}
"""Rounding modes of the specification. UP is away from zero, DOWN towards it, also for halves."""


def _rounding(mode: str) -> Callable[[Array], Array]:
    try:
        return ROUNDING[mode.upper()]
    except KeyError:
        raise ValueError(f"rounding mode '{mode}' is none of {', '.join(ROUNDING)}") from None


def _limits(bit_width: Array, signed: int, narrow: int) -> tuple[Array, Array]:
    """Lowest and highest integer of `bit_width` bits, in the float type of `bit_width`."""
    bits = np.asarray(bit_width)
    if not np.issubdtype(bits.dtype, np.floating):
        bits = bits.astype(np.float32)
    if signed:
        high = 2.0 ** (bits - 1) - 1
        return np.asarray(-high - (0 if narrow else 1)), np.asarray(high)
    return np.zeros_like(bits), np.asarray(2.0**bits - (2 if narrow else 1))


def _channels_last(node: onnx.NodeProto, *arrays: Array) -> Array:
    """Runs `node` as the ONNX operator of the same name: x is [N, *spatial, C], as is the result;
    the weight of a Conv is [M, *kernel, C / group].
    """
    from onnx.reference import ReferenceEvaluator

    moved = 2 if node.op_type == "Conv" else 1
    inner = onnx.NodeProto()
    inner.CopyFrom(node)
    inner.domain = ""
    feeds = {
        name: np.moveaxis(array, -1, 1) if index < moved else array
        for index, (name, array) in enumerate(zip(node.input, arrays, strict=False))
        if name
    }
    result, *_ = ReferenceEvaluator(inner).run(None, feeds)
    return np.ascontiguousarray(np.moveaxis(np.asarray(result), 1, -1))


_GENERAL: dict[str, Callable[..., Array]] = {
    "Quant": quant,
    "IntQuant": quant,
    "BipolarQuant": bipolar_quant,
    "Trunc": trunc,
    "MultiThreshold": multi_threshold,
}
_CHANNELS_LAST = frozenset({"Conv", "MaxPool", "BatchNormalization"})


def resize_nearest(
    x: Array,
    roi: Array | None = None,
    scales: Array | None = None,
    sizes: Array | None = None,
    *,
    coordinate_transformation_mode: str = "half_pixel",
    nearest_mode: str = "round_prefer_floor",
    **_unused: object,
) -> Array:
    """ONNX `Resize` in mode "nearest", which onnx's own evaluator computes element by element
    (minutes for a U-Net) and only with a region of interest. Arguments as in ONNX.
    """
    for axis, length in enumerate(x.shape):
        if scales is not None and scales.size:
            scale = float(scales[axis])
            out = int(np.floor(length * scale))
        else:
            assert sizes is not None
            out = int(sizes[axis])
            scale = out / length
        place = np.arange(out, dtype=np.float64)
        match coordinate_transformation_mode:
            case "asymmetric":
                source = place / scale
            case "align_corners":
                source = place * ((length - 1) / (out - 1) if out > 1 else 0.0)
            case _:
                source = (place + 0.5) / scale - 0.5
        index = np.clip(_NEAREST[nearest_mode](source), 0, length - 1).astype(np.int64)
        x = np.take(x, index, axis)
    return x


def batch_normalization(
    x: Array,
    scale: Array,
    bias: Array,
    mean: Array,
    variance: Array,
    *,
    epsilon: float = 1e-5,
    **_unused: object,
) -> Array:
    """ONNX `BatchNormalization` for inference. Between opsets 7 and 13 onnx's own evaluator takes
    the momentum that every exporter writes for a sign of training, and normalizes by the batch.
    """
    axes = (1,) * (x.ndim - 2)
    factor = scale / np.sqrt(variance + epsilon)
    shift = bias - mean * factor
    return np.asarray(x * factor.reshape(-1, *axes) + shift.reshape(-1, *axes)).astype(x.dtype)


def _normalizes(node: onnx.NodeProto, opset: int) -> bool:
    """Whether `batch_normalization` computes this BatchNormalization."""
    spatial = all(attribute.i for attribute in node.attribute if attribute.name == "spatial")
    return 7 <= opset < 14 and sum(map(bool, node.output)) == 1 and spatial


_NEAREST: dict[str, Callable[[Array], Array]] = {
    "round_prefer_floor": lambda source: np.asarray(np.ceil(source - 0.5)),
    "round_prefer_ceil": lambda source: np.asarray(np.floor(source + 0.5)),
    "floor": np.floor,
    "ceil": np.ceil,
}
_RESIZE_ATTRIBUTES = {
    "mode": {b"nearest"},
    "coordinate_transformation_mode": {b"half_pixel", b"asymmetric", b"align_corners"},
    "nearest_mode": {name.encode() for name in _NEAREST},
}


def _resizes_nearest(node: onnx.NodeProto, opset: int) -> bool:
    """Whether `resize_nearest` computes this Resize."""
    given = {attribute.name: attribute.s for attribute in node.attribute}
    given.pop("cubic_coeff_a", None)
    given.pop("extrapolation_value", None)
    return opset >= 11 and all(
        value in _RESIZE_ATTRIBUTES.get(name, ()) for name, value in given.items()
    )


def _rule(domain: str, op_type: str) -> Callable[..., Array] | None:
    """What computes the operator from its node, inputs and attributes."""
    if domain == CHANNELS_LAST_DOMAIN and op_type in _CHANNELS_LAST:
        return lambda node, *arrays, **attributes: _channels_last(node, *arrays)
    function = _GENERAL.get(op_type) if domain in GENERAL_DOMAINS else None
    return None if function is None else _without_node(function)


def _without_node(function: Callable[..., Array]) -> Callable[..., Array]:
    return lambda node, *arrays, **attributes: function(*arrays, **attributes)


def _operator(domain: str, op_type: str, rule: Callable[..., Array]) -> type[Any]:
    from onnx.reference.op_run import OpRun

    def run(self: Any, *arrays: Array, **attributes: Any) -> tuple[Array]:
        return (rule(self.onnx_node, *arrays, **attributes),)

    return type(op_type, (OpRun,), {"op_domain": domain, "_run": run})


def _nodes(proto: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    yield from _walk(proto.graph.node)
    for function in proto.functions:
        yield from _walk(function.node)


def _walk(nodes: Any) -> Iterator[onnx.NodeProto]:
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                yield from _walk(graph.node)
