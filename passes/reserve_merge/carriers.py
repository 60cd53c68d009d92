"""Carriers: how reserved channels survive an activation.

A carrier encodes a tensor u as channels `v = E u + e` such that a linear map of `act(v)` gives u
back: `D act(v) + d = u`. Each carrier is one object with its precondition, its maps and its proof;
the rule tries them in the order of `CARRIERS` and takes the cheapest whose precondition is proved.
A new carrier is one more class and its place in that tuple.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt
import onnx_ir

from graphopt.evidence import Exactness
from graphopt.ir.constants import constant, scalar
from graphopt.ir.model import node_label
from graphopt.verify.algebra import Activation
from passes.norm_folding import per_channel
from passes.refused import Refused

Array = npt.NDArray[np.float64]

MAX_RANGE = 2.0**12
"""A proved range wider than this is too coarse for carriers that shift a tensor by its bound: the
shift would round away what the tensor holds."""


@dataclass(frozen=True, eq=False)
class Content:
    """What is to be carried.

    Attributes:
        low: proved lower bounds, one per channel.
        high: proved upper bounds.
        because: where the bounds come from.
    """

    low: Array
    high: Array
    because: str

    @property
    def channels(self) -> int:
        """Number of channels."""
        return len(self.low)


@dataclass(frozen=True, eq=False)
class Carriage:
    """How one carrier takes some content through one activation.

    Attributes:
        carrier: its name.
        encode: E, shape [R, C].
        encode_offset: e, shape [R].
        decode: D, shape [C, R].
        decode_offset: d, shape [C].
        after: bounds of the reserved channels behind the activation.
        exactness: of this carrier.
        fact: what the proof relies on.
        slope: slope for negative values on the reserved channels, where the carrier turns the
            activation into a PRelu; None leaves the activation as it is.
    """

    carrier: str
    encode: Array
    encode_offset: Array
    decode: Array
    decode_offset: Array
    after: Content
    exactness: Exactness
    fact: str
    slope: float | None = None

    @property
    def channels(self) -> int:
        """Number of reserved channels R."""
        return int(self.encode.shape[0])


class Carrier(Protocol):
    """One way to carry a tensor through an activation."""

    name: ClassVar[str]

    def carry(self, content: Content, activation: Activation) -> Carriage | None:
        """The carriage, or None where the precondition does not hold."""
        ...


def _eye(content: Content) -> tuple[Array, Array, Array, Array]:
    one, zero = np.eye(content.channels), np.zeros(content.channels)
    return one, zero, one, zero


@dataclass(frozen=True)
class Plain:
    """The activation is the identity on the content: ReLU on x >= 0, Clip within its bounds."""

    name: ClassVar[str] = "plain"

    def carry(self, content: Content, activation: Activation) -> Carriage | None:
        """Needs x >= 0 for ReLU and LeakyReLU, low <= x <= high for Clip."""
        match activation.function:
            case "relu" | "leaky":
                holds = bool((content.low >= 0).all())
                fact = f"x >= 0 because {content.because}"
            case "clip":
                holds = bool(
                    (content.low >= activation.low).all()
                    and (content.high <= activation.high).all()
                )
                bounds = f"{activation.low:g} <= x <= {activation.high:g}"
                fact = f"{bounds} because {content.because}"
        if not holds:
            return None
        return Carriage(self.name, *_eye(content), content, Exactness.EXACT, fact)


@dataclass(frozen=True)
class PReluSlope:
    """The activation becomes a PRelu: the old slope on old channels, slope 1 on reserved ones."""

    name: ClassVar[str] = "prelu"

    def carry(self, content: Content, activation: Activation) -> Carriage | None:
        """For ReLU, LeakyReLU and PReLU; never for Clip, whose bounds a PRelu would lose."""
        if activation.function not in ("relu", "leaky"):
            return None
        fact = "a PRelu with slope 1 on the reserved channels passes every x"
        return Carriage(self.name, *_eye(content), content, Exactness.EXACT, fact, slope=1.0)


@dataclass(frozen=True)
class Split:
    """+-split: reserve x and -x; `f(x) - f(-x) = (1 + a) x` with a the slope below zero."""

    name: ClassVar[str] = "split"

    def carry(self, content: Content, activation: Activation) -> Carriage | None:
        """For ReLU and for LeakyReLU with one slope above -1."""
        if activation.function == "clip":
            return None
        slope = activation.slope[0] if activation.slope else 0.0
        if slope <= -1:
            return None
        one = np.eye(content.channels)
        zero = np.zeros(content.channels)
        reach = np.maximum(np.abs(content.low), np.abs(content.high))
        behind = Content(
            np.concatenate([-abs(slope) * reach if slope else zero] * 2),
            np.concatenate([reach, reach]),
            f"it is the positive or negative part that {self.name} carries",
        )
        return Carriage(
            self.name,
            np.concatenate([one, -one]),
            np.zeros(2 * content.channels),
            np.concatenate([one, -one], axis=1) / (1 + slope),
            zero,
            behind,
            Exactness.EXACT,
            "f(x) - f(-x) is a multiple of x for every x",
        )


@dataclass(frozen=True)
class Shift:
    """x - low >= 0 passes a ReLU; the bound is added again at the merge."""

    name: ClassVar[str] = "shift"

    def carry(self, content: Content, activation: Activation) -> Carriage | None:
        """Needs a proved, finite lower bound."""
        lowest = np.minimum(content.low, 0.0)
        if activation.function == "clip" or not (lowest > -MAX_RANGE).all():
            return None
        one = np.eye(content.channels)
        return Carriage(
            self.name,
            one,
            -lowest,
            one,
            lowest,
            Content(
                np.maximum(content.low - lowest, 0.0),
                content.high - lowest,
                "it is shifted above 0",
            ),
            Exactness.EXACT_IN_RANGE,
            f"x >= {float(lowest.min()):.4g} because {content.because}",
        )


@dataclass(frozen=True)
class ScaleIntoClip:
    """Scale by a power of two and shift, so that the proved range lies within the clip's bounds."""

    name: ClassVar[str] = "scale"

    def carry(self, content: Content, activation: Activation) -> Carriage | None:
        """Needs finite bounds of the content and of the clip."""
        width = content.high - content.low
        room = activation.high - activation.low
        if activation.function != "clip" or not (math.isfinite(room) and room > 0):
            return None
        if not (np.isfinite(width).all() and (width <= MAX_RANGE).all()):
            return None
        # 2^k is exact in floats; a thousandth to spare keeps rounding inside the bounds
        spared = room * (1 - 2.0**-10)
        exponent = np.minimum(np.floor(np.log2(spared / np.maximum(width, room * 2.0**-20))), 0)
        scale = np.exp2(exponent)
        middle = (activation.low + activation.high) / 2
        shift = middle - scale * (content.low + content.high) / 2
        return Carriage(
            self.name,
            np.diag(scale),
            shift,
            np.diag(1 / scale),
            -shift / scale,
            Content(
                scale * content.low + shift,
                scale * content.high + shift,
                "it is scaled into the clip",
            ),
            Exactness.EXACT_IN_RANGE,
            f"{float(content.low.min()):.4g} <= x <= {float(content.high.max()):.4g} because "
            f"{content.because}",
        )


CARRIERS: tuple[Carrier, ...] = (Plain(), PReluSlope(), Split(), Shift(), ScaleIntoClip())
"""In order of preference among carriers that need equally many channels."""


@dataclass(frozen=True, eq=False)
class ActivationSite:
    """An activation in the graph and what the algebra knows of it.

    Attributes:
        node: the ONNX node.
        function: what it does to reserved channels, before a carrier changes that.
        slopes: slopes below zero of the old channels, shape [C]; empty for a Clip.
    """

    node: onnx_ir.Node
    function: Activation
    slopes: Array = field(default_factory=lambda: np.zeros(0))


def read_activation(node: onnx_ir.Node, rank: int, channels: int) -> ActivationSite:
    """What an activation node computes.

    Raises:
        Refused: no carrier knows this function, or its parameters are not constants.
    """
    match node.op_type:
        case "Relu":
            return ActivationSite(node, Activation("relu"), np.zeros(channels))
        case "LeakyRelu":
            slope = node.attributes.get_float("alpha", 0.01) or 0.0
            return ActivationSite(
                node, Activation("leaky", slope=(slope,)), np.full(channels, slope)
            )
        case "PRelu":
            array = constant(node.inputs[1])
            slopes = (
                None if array is None else per_channel(array.astype(np.float64), rank, channels)
            )
            if slopes is None:
                raise Refused("runtime-weights", f"the slopes of {node_label(node)} are not known")
            slopes = np.broadcast_to(slopes, (channels,)).copy()
            # reserved channels get slopes of their own: 1
            return ActivationSite(node, Activation("leaky", slope=(1.0,)), slopes)
        case "Clip":
            return ActivationSite(node, _read_clip(node))
        case other:
            raise Refused(
                "no-carrier", f"no carrier takes a tensor through {node_label(node)} ({other})"
            )


def _read_clip(node: onnx_ir.Node) -> Activation:
    bounds: list[Any] = [
        node.attributes.get_float("min", None),
        node.attributes.get_float("max", None),
    ]
    for index, value in enumerate(node.inputs[1:3]):
        if value is None:
            continue
        bounds[index] = scalar(value)
        if bounds[index] is None:
            raise Refused("runtime-weights", f"the bounds of {node_label(node)} are not constants")
    low = -math.inf if bounds[0] is None else float(bounds[0])
    high = math.inf if bounds[1] is None else float(bounds[1])
    return Activation("clip", low=low, high=high)


def reserved_activation(site: ActivationSite, carriage: Carriage) -> Activation:
    """What the activation does to the reserved channels under a carriage."""
    if carriage.slope is not None:
        return Activation("leaky", slope=(carriage.slope,))
    return site.function
