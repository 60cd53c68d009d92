"""Carriers: how reserved channels survive an activation.

A carrier encodes a tensor u as channels `v = E u + e` such that a linear map of `act(v)` gives u
back: `D act(v) + d = u`. Each carrier is one object with its precondition, its maps and its proof;
the rule tries them in the order of `CARRIERS` and takes the cheapest whose precondition is proved.
A new carrier is one more class and its place in that tuple.

What a carrier sees of an activation is what it does to a channel whose own constants are neutral
(`Function.shared`): reserved channels may have slopes, scales and shifts of their own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
import numpy.typing as npt

from graphopt.evidence import Exactness
from graphopt.verify.tolerance import roundoff
from passes.activations import Function, line_from, split_gain

Array = npt.NDArray[np.float64]
Form = Literal["same", "prelu", "max-min", "pass-through"]

MAX_RANGE = 2.0**12
"""A proved range wider than this is too coarse for carriers that shift a float32 tensor by its
bound: the shift would round away what the tensor holds. `range_of` has it for other types."""


def range_of(dtype: npt.DTypeLike) -> float:
    """`MAX_RANGE` for a float type: as many digits are left as in float32."""
    return MAX_RANGE * min(1.0, roundoff(np.float32) / roundoff(dtype))


@dataclass(frozen=True, eq=False)
class Content:
    """What is to be carried.

    Attributes:
        low: proved lower bounds, one per channel.
        high: proved upper bounds.
        because: where the bounds come from.
        reach: how wide a range may be to be shifted, in the type of the tensor.
    """

    low: Array
    high: Array
    because: str
    reach: float = MAX_RANGE

    @property
    def channels(self) -> int:
        """Number of channels."""
        return len(self.low)

    def take(self, channels: npt.NDArray[Any]) -> Content:
        """Some of the channels."""
        return replace(self, low=self.low[channels], high=self.high[channels])

    def scaled(self, gain: float) -> Content:
        """The content times a number."""
        if gain == 1:
            return self
        ends = np.sort(np.stack([self.low * gain, self.high * gain]), axis=0)
        because = f"it is {gain:g} times what {self.because}"
        return replace(self, low=ends[0], high=ends[1], because=because)

    def with_zero(self) -> Content:
        """The content where it may also be read beyond its border."""
        return replace(
            self,
            low=np.minimum(self.low, 0.0),
            high=np.maximum(self.high, 0.0),
            because=f"{self.because}, and is 0 beyond its border",
        )


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
        form: what becomes of the activation: `same`, or an operator with constants per channel that
            are neutral on the reserved ones (`prelu`, `max-min`), or `pass-through`: the reserved
            channels go around it.
    """

    carrier: str
    encode: Array
    encode_offset: Array
    decode: Array
    decode_offset: Array
    after: Content
    exactness: Exactness
    fact: str
    form: Form = "same"

    @property
    def channels(self) -> int:
        """Number of reserved channels R."""
        return int(self.encode.shape[0])

    @property
    def is_in_place(self) -> bool:
        """Whether it takes the channels as they are."""
        same = self.encode.shape[0] == self.encode.shape[1]
        return (
            same
            and not self.encode_offset.any()
            and bool((self.encode == np.eye(self.channels)).all())
        )


class Carrier(Protocol):
    """One way to carry a tensor through an activation.

    Attributes:
        name: what reports and `reserve-merge{carrier=...}` call it.
        serves: the activations it is for, as a reader would say it.
        needs: its precondition.
        exactness: of what it does.
        leaves_as_is: whether the channels go in and come out as the content itself.
    """

    name: ClassVar[str]
    serves: ClassVar[str]
    needs: ClassVar[str]
    exactness: ClassVar[Exactness]
    leaves_as_is: ClassVar[bool]

    def carry(self, content: Content, function: Function) -> Carriage | None:
        """The carriage, or None where the precondition does not hold."""
        ...


def _eye(content: Content) -> tuple[Array, Array, Array, Array]:
    one, zero = np.eye(content.channels), np.zeros(content.channels)
    return one, zero, one, zero


def clip_bounds(function: Function) -> tuple[float, float] | None:
    """The bounds of a Clip with the same bounds for all channels; None for another function."""
    only = function.only
    if only is None or only.operator != "Clip":
        return None
    low, high = (float(o[0]) for o in only.operands[1:] if not isinstance(o, int))
    return low, high


@dataclass(frozen=True)
class Plain:
    """The activation is the identity on the content: ReLU on x >= 0, Clip within its bounds."""

    name: ClassVar[str] = "plain"
    serves: ClassVar[str] = (
        "any that is the identity from a point on; Clip; PRelu and other norms, scales and shifts per channel"  # noqa: E501
    )
    needs: ClassVar[str] = (
        "x beyond that point (0 for ReLU, LeakyReLU and ELU, 3 for HardSwish), or within the clip's bounds, proved by `ranges`; nothing for constants per channel"  # noqa: E501
    )
    exactness: ClassVar[Exactness] = Exactness.EXACT
    leaves_as_is: ClassVar[bool] = True

    def carry(self, content: Content, function: Function) -> Carriage | None:
        """Needs the content where the activation is the identity."""
        if not function.calls:
            fact = "its constants per channel are neutral on the reserved ones"
            return Carriage(self.name, *_eye(content), content, self.exactness, fact)
        bounds, line = clip_bounds(function), line_from(function)
        if bounds is not None:
            low, high = bounds
            holds = bool((content.low >= low).all() and (content.high <= high).all())
            fact = f"{low:g} <= x <= {high:g} because {content.because}"
            return (
                Carriage(self.name, *_eye(content), content, self.exactness, fact)
                if holds
                else None
            )
        if line is None or not (content.low >= line[0]).all():
            return None
        point, gain = line
        one, zero, _, _ = _eye(content)
        return Carriage(
            self.name,
            one,
            zero,
            one / gain,
            zero,
            content.scaled(gain),
            self.exactness,
            f"x >= {point:g} because {content.because}",
        )


@dataclass(frozen=True)
class PReluSlope:
    """The activation becomes a PRelu: the old slope on old channels, slope 1 on reserved ones."""

    name: ClassVar[str] = "prelu"
    serves: ClassVar[str] = "ReLU, LeakyReLU"
    needs: ClassVar[str] = (
        "nothing: the activation becomes a PRelu with slope 1 on the reserved channels"
    )
    exactness: ClassVar[Exactness] = Exactness.EXACT
    leaves_as_is: ClassVar[bool] = True

    def carry(self, content: Content, function: Function) -> Carriage | None:
        """For ReLU and LeakyReLU; never for Clip, whose bounds a PRelu would lose."""
        if function.only is None or function.only.operator not in ("Relu", "LeakyRelu"):
            return None
        fact = "a PRelu with slope 1 on the reserved channels passes every x"
        return Carriage(self.name, *_eye(content), content, self.exactness, fact, "prelu")


@dataclass(frozen=True)
class Split:
    """+-split: reserve x and -x; `f(x) - f(-x) = g x` (`passes.activations.symmetry`)."""

    name: ClassVar[str] = "split"
    serves: ClassVar[str] = (
        "ReLU, LeakyReLU, SiLU, GELU (erf and tanh), QuickGELU, HardSwish, Softplus, in any spelling"  # noqa: E501
    )
    needs: ClassVar[str] = "nothing: `f(x) - f(-x) = g x` for every x"
    exactness: ClassVar[Exactness] = Exactness.EXACT
    leaves_as_is: ClassVar[bool] = False

    def carry(self, content: Content, function: Function) -> Carriage | None:
        """For every activation whose odd part is linear."""
        gain = split_gain(function)
        if gain is None:
            return None
        one, zero = np.eye(content.channels), np.zeros(content.channels)
        return Carriage(
            self.name,
            np.concatenate([one, -one]),
            np.zeros(2 * content.channels),
            np.concatenate([one, -one], axis=1) / gain,
            zero,
            self._behind(content, function),
            self.exactness,
            f"f(x) - f(-x) = {gain:g} x for every x",
        )

    def _behind(self, content: Content, function: Function) -> Content:
        reach = np.concatenate([np.maximum(np.abs(content.low), np.abs(content.high))] * 2)
        because = f"it is one half of what {self.name} carries"
        if function.only is not None and function.only.operator == "Relu":
            return Content(np.zeros_like(reach), reach, because)
        # every function with a known gain lies between 0 and x, or between a x and x, or above both
        return Content(np.full_like(reach, -np.inf), np.full_like(reach, np.inf), because)


@dataclass(frozen=True)
class Shift:
    """Far enough to the right many activations are the identity; the merge shifts back."""

    name: ClassVar[str] = "shift"
    serves: ClassVar[str] = (
        "ReLU, LeakyReLU, ELU, CELU, HardSwish, Mish and others that are the identity from a point on"  # noqa: E501
    )
    needs: ClassVar[str] = "a proved lower bound of x"
    exactness: ClassVar[Exactness] = Exactness.EXACT_IN_RANGE
    leaves_as_is: ClassVar[bool] = False

    def carry(self, content: Content, function: Function) -> Carriage | None:
        """Needs a proved, finite lower bound."""
        line = line_from(function)
        if line is None:
            return None
        point, gain = line
        shift = np.minimum(content.low - point, 0.0)
        if not (shift > -content.reach).all():
            return None
        one = np.eye(content.channels)
        behind = Content(
            np.maximum(content.low - shift, point),
            content.high - shift,
            f"it is shifted above {point:g}",
        )
        fact = f"x >= {float(content.low.min()):.4g} because {content.because}"
        return Carriage(
            self.name, one, -shift, one / gain, shift, behind.scaled(gain), self.exactness, fact
        )


@dataclass(frozen=True)
class ScaleIntoClip:
    """Scale by a power of two and shift, so that the proved range lies within the clip's bounds."""

    name: ClassVar[str] = "scale"
    serves: ClassVar[str] = "Clip"
    needs: ClassVar[str] = (
        "a proved range of x: a power of two and a shift bring it within the bounds"
    )
    exactness: ClassVar[Exactness] = Exactness.EXACT_IN_RANGE
    leaves_as_is: ClassVar[bool] = False

    def carry(self, content: Content, function: Function) -> Carriage | None:
        """Needs finite bounds of the content and of the clip."""
        bounds = clip_bounds(function)
        if bounds is None:
            return None
        lowest, highest = bounds
        width, room = content.high - content.low, highest - lowest
        if not (math.isfinite(room) and room > 0):
            return None
        if not (np.isfinite(width).all() and (width <= max(content.reach, room)).all()):
            return None
        # 2^k is exact in floats; a thousandth to spare keeps rounding inside the bounds
        spared = room * (1 - 2.0**-10)
        exponent = np.minimum(np.floor(np.log2(spared / np.maximum(width, room * 2.0**-20))), 0)
        scale = np.exp2(exponent)
        middle = (lowest + highest) / 2
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
            self.exactness,
            f"{float(content.low.min()):.4g} <= x <= {float(content.high.max()):.4g} because "
            f"{content.because}",
        )


@dataclass(frozen=True)
class MaxMin:
    """Clip becomes Max and Min with bounds per channel: infinite ones on the reserved channels."""

    name: ClassVar[str] = "max-min"
    serves: ClassVar[str] = "Clip"
    needs: ClassVar[str] = "nothing: Max and Min with bounds per channel take its place"
    exactness: ClassVar[Exactness] = Exactness.EXACT
    leaves_as_is: ClassVar[bool] = True

    def carry(self, content: Content, function: Function) -> Carriage | None:
        """For Clip; ONNX gives it one bound for all channels, Max and Min one for each."""
        if clip_bounds(function) is None:
            return None
        fact = "Max and Min have infinite bounds on the reserved channels"
        return Carriage(self.name, *_eye(content), content, self.exactness, fact, "max-min")


@dataclass(frozen=True)
class PassThrough:
    """The reserved channels go around the activation: Gather before it, Concat behind it.

    That is a fork and a join again, if a short one, so it is done only where it is asked for.
    """

    name: ClassVar[str] = "pass-through"
    serves: ClassVar[str] = "any"
    needs: ClassVar[str] = "to be asked for: it leaves a fork and a join around the activation"
    exactness: ClassVar[Exactness] = Exactness.EXACT
    leaves_as_is: ClassVar[bool] = True

    def carry(self, content: Content, function: Function) -> Carriage | None:
        """For every elementwise function."""
        fact = "the reserved channels go around the activation"
        return Carriage(self.name, *_eye(content), content, self.exactness, fact, "pass-through")


CARRIERS: tuple[Carrier, ...] = (
    Plain(),
    PReluSlope(),
    Split(),
    Shift(),
    ScaleIntoClip(),
    MaxMin(),
)
"""In order of preference among carriers that need equally many channels."""

ON_REQUEST: tuple[Carrier, ...] = (PassThrough(),)
"""Carriers that are used only where the pipeline names them."""
