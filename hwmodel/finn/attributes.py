"""FINN's names for kernels and their attributes, beside ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

from graphopt.errors import GraphoptError
from hwmodel import kernels as k
from hwmodel.kernels.kernel import Kernel

Dialect: TypeAlias = Literal["finn-plus", "finn"]
"""finn-plus 1.6.1, or Xilinx/finn before August 2026."""

_WEIGHTS = {"PE": "pe", "SIMD": "simd", "ram_style": "ram_style", "resType": "resource"}
_WEIGHTS |= {"mem_mode": "memory"}
FIELDS: Mapping[type, Mapping[str, str]] = MappingProxyType(
    {
        k.MatrixVector: {
            **_WEIGHTS,
            "ram_style_thresholds": "ram_style_thresholds",
            "pumpedCompute": "pumped",
        },
        k.VectorVector: _WEIGHTS,
        k.Threshold: {
            "PE": "pe",
            "depth_trigger_bram": "depth_trigger_bram",
            "depth_trigger_uram": "depth_trigger_uram",
            "ram_style": "ram_style",
            "deep_pipeline": "deep_pipeline",
        },
        k.Channelwise: {"PE": "pe", "ram_style": "ram_style", "mem_mode": "memory"},
        k.Padding: {"SIMD": "simd"},
        k.Window: {"SIMD": "simd", "parallel_window": "parallel", "ram_style": "ram_style"},
        k.Downsample: {"SIMD": "simd"},
        k.Fork: {"PE": "pe"},
        k.Join: {"PE": "pe"},
        k.Concat: {"SIMD": "pe"},
        k.Split: {"SIMD": "pe"},
        k.MaxPool: {"PE": "pe"},
        k.Pool: {"PE": "pe"},
        k.GlobalPool: {"PE": "pe"},
        k.Upsample: {"SIMD": "simd"},
        k.LabelSelect: {"PE": "pe"},
        k.Shuffle: {"SIMD": "simd"},
        k.WidthConverter: {},
    }
)
"""For each kernel, FINN's attributes that fold or place it, and the fields that hold them."""

IGNORED = frozenset(
    "inFIFODepths outFIFODepths runtime_writeable_weights slr mem_port partition_id device_id "
    "preferred_impl_style impl_style depth mac_resource ram_style_mask EmbFold SeqFold "
    "pumpedMemory mem_mode ram_style resType mlo_max_iter TH cpp_interface hls_style".split()
)
"""Attributes that other kernels have, or that say nothing about cycles and estimates."""

_CHOICES = {
    "ram_style": ("auto", "block", "distributed", "ultra"),
    "ram_style_thresholds": ("auto", "block", "distributed"),
    "resType": ("auto", "lut", "dsp"),
    "mem_mode": ("internal_embedded", "internal_decoupled", "external", "external_mem", "dynamic"),
}
_FLAGS = ("parallel_window", "pumpedCompute", "deep_pipeline")


def op_type(kernel: Kernel, dialect: Dialect = "finn-plus") -> str:
    """FINN's operator for a kernel: `MVAU_hls`, `Thresholding_rtl` ...

    Raises:
        GraphoptError: FINN has no such kernel.
    """
    match kernel:
        case k.MatrixVector():
            return f"MVAU_{kernel.backend}"
        case k.VectorVector():
            return f"VVAU_{kernel.backend}"
        case k.Threshold():
            return f"Thresholding_{kernel.backend}"
        case k.Channelwise() if kernel.operator == "channelwise" or dialect == "finn":
            return "ChannelwiseOp_hls"
        case k.Channelwise():
            return f"Elementwise{kernel.function.capitalize()}_hls"
        case k.Join() if dialect == "finn":
            return "AddStreams_hls" if kernel.function == "add" else "StreamingEltwise_hls"
        case k.Join():
            function = {"absdiff": "AbsDiff"}.get(kernel.function, kernel.function.capitalize())
            return f"Elementwise{function}_hls"
        case k.Shuffle():
            return "InnerShuffle_rtl" if kernel.inner else "OuterShuffle_hls"
        case k.WidthConverter():
            same = kernel.into == kernel.out_of
            return "Reshape_rtl" if same else "StreamingDataWidthConverter_rtl"
    for kind, name in _OPERATORS.items():
        if isinstance(kernel, kind):
            return name
    raise GraphoptError(f"{kernel.name}: FINN has no {type(kernel).__name__}.")


_OPERATORS = {
    k.Padding: "FMPadding_rtl",
    k.Window: "ConvolutionInputGenerator_rtl",
    k.Downsample: "DownSampler_hls",
    k.Fork: "DuplicateStreams_hls",
    k.Concat: "StreamingConcat_hls",
    k.Split: "StreamingSplit_hls",
    k.MaxPool: "StreamingMaxPool_hls",
    k.Pool: "Pool_hls",
    k.GlobalPool: "GlobalAccPool_hls",
    k.Upsample: "UpsampleNearestNeighbour_hls",
    k.LabelSelect: "LabelSelect_hls",
}


def attributes(kernel: Kernel) -> dict[str, int | str]:
    """The attributes of a kernel for a folding JSON."""
    if isinstance(kernel, k.WidthConverter):
        return {"PE": kernel.into} if kernel.into == kernel.out_of else {}
    found: dict[str, int | str] = {}
    for attribute, field in FIELDS[type(kernel)].items():
        if _has(kernel, attribute):
            value = getattr(kernel, field)
            found[attribute] = int(value) if isinstance(value, bool) else value
    return found


def _has(kernel: Kernel, attribute: str) -> bool:
    """Whether FINN's operator has the attribute in this implementation."""
    match kernel, attribute:
        case k.MatrixVector(), "pumpedCompute":
            return kernel.backend == "rtl"
        case k.Threshold(), "ram_style":
            return kernel.backend == "hls"
        case k.Threshold(), "depth_trigger_bram" | "depth_trigger_uram" | "deep_pipeline":
            return kernel.backend == "rtl"
        case k.Channelwise(), "mem_mode":
            return kernel.operator == "elementwise"
    return True


def with_attributes(kernel: Kernel, values: Mapping[str, object]) -> Kernel:
    """The kernel folded as these attributes of FINN say; those that do not fold are left out.

    Raises:
        GraphoptError: an attribute that FINN doesn't have, a value of the wrong kind, or a folding
            that does not divide the kernel.
    """
    fields = {"PE": "pe"} if isinstance(kernel, k.WidthConverter) else FIELDS[type(kernel)]
    changes: dict[str, Any] = {}
    for attribute, value in values.items():
        if attribute in fields:
            changes[fields[attribute]] = _value(kernel.name, attribute, value)
        elif attribute not in IGNORED:
            known = ", ".join(fields)
            raise GraphoptError(
                f"{kernel.name} has no attribute '{attribute}': a {type(kernel).__name__} takes "
                f"{known}."
            )
    if isinstance(kernel, k.WidthConverter):
        pe = changes.get("pe")
        if pe is None or kernel.into != kernel.out_of:
            return kernel
        return checked(replace(kernel, into=pe, out_of=pe))
    return checked(replace(kernel, **changes))  # type: ignore[type-var]


def _value(name: str, attribute: str, value: object) -> int | str | bool:
    if attribute in _CHOICES:
        if value not in _CHOICES[attribute]:
            known = ", ".join(_CHOICES[attribute])
            raise GraphoptError(f"{name}: {attribute} is {value!r}, but must be one of {known}.")
        return str(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise GraphoptError(f"{name}: {attribute} is {value!r}, but must be a whole number.")
    if attribute in _FLAGS:
        return value != 0
    if attribute in ("PE", "SIMD") and value < 1:
        raise GraphoptError(f"{name}: {attribute} is {value}, but must be at least 1.")
    return value


def checked(kernel: Kernel) -> Kernel:
    """The kernel itself.

    Raises:
        GraphoptError: its folding does not divide it, or FINN cannot build it so.
    """
    for attribute, part, whole in _divisions(kernel):
        if part < 1 or whole % part:
            raise GraphoptError(
                f"{kernel.name}: {attribute} = {part} must divide {whole}: choose a divisor."
            )
    if (
        isinstance(kernel, k.Window)
        and kernel.is_parallel
        and kernel.kernel != (1, 1)
        and not kernel.depthwise
        and kernel.simd != kernel.channels
    ):
        raise GraphoptError(
            f"{kernel.name}: with parallel_window SIMD must be all {kernel.channels} channels."
        )
    return kernel


def _divisions(kernel: Kernel) -> list[tuple[str, int, int]]:
    """Each attribute that folds, its value, and what it must divide."""
    match kernel:
        case k.MatrixVector():
            return [("SIMD", kernel.simd, kernel.mw), ("PE", kernel.pe, kernel.mh)]
        case k.VectorVector():
            return [("SIMD", kernel.simd, kernel.taps), ("PE", kernel.pe, kernel.channels)]
        case k.Threshold() | k.Channelwise() | k.MaxPool() | k.Pool() | k.GlobalPool():
            return [("PE", kernel.pe, kernel.channels)]
        case k.Padding() | k.Window() | k.Downsample() | k.Upsample():
            return [("SIMD", kernel.simd, kernel.channels)]
        case k.Fork() | k.Join():
            return [("PE", kernel.pe, kernel.elements)]
        case k.Concat() | k.Split():
            return [("SIMD", kernel.pe, channels) for channels in kernel.channels]
        case k.LabelSelect():
            return [("PE", kernel.pe, kernel.labels)]
        case k.Shuffle():
            return [("SIMD", kernel.simd, kernel.innermost)]
        case k.WidthConverter():
            return [("PE", width, kernel.elements) for width in (kernel.into, kernel.out_of)]
    return []
