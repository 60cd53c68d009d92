"""The rule of RMNet (Meng et al., sections 4.1 to 4.4): reserve, carry, merge.

A block computes `y = f(x) + s(x)`, f a chain of linear operators W1 .. WL with activations between
them, s linear.

- Reserve: W1 gets extra output channels that hold x (or s(x)): a Dirac kernel, one tap equal to 1.
- Carry: each activation on the way is the identity on these channels, or they are encoded so that
  it does no harm (`carriers`); each linear operator on the way copies them.
- Merge: WL reads them as extra inputs and adds s(x) to its sums: `WL' = [WL | P]`.

`plan` does the arithmetic on weights and decides nothing about the graph; `apply` in `rewrite`
puts its result there.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from graphopt.evidence import Exactness
from graphopt.ir.model import node_label
from graphopt.verify.algebra import CarriedChannels, Step
from passes.linear import Linear
from passes.linear_map import LinearMap
from passes.refused import Refused
from passes.reserve_merge.branch import Stage
from passes.reserve_merge.carriers import (
    CARRIERS,
    ActivationSite,
    Carriage,
    Carrier,
    Content,
    Plain,
    read_activation,
    reserved_activation,
)
from passes.reserve_merge.widen import (
    Array,
    Form,
    Layout,
    Taps,
    Widened,
    widen_first,
    widen_last,
    widen_middle,
)

Place = Literal["first", "last"]


@dataclass(frozen=True, eq=False)
class Plan:
    """A block without its join.

    Attributes:
        layers: the widened operators in order.
        place: where the skip's own map is applied: in the first operator or in the last.
        carriers: names of the carriers, one per activation.
        exactness: of the whole.
        facts: what the proof relies on.
        proof: that the reserved channels deliver the skip.
        multiply_adds: of the widened operators, one sample.
        parameters: weight elements of these.
    """

    layers: tuple[Widened, ...]
    place: Place
    carriers: tuple[str, ...]
    exactness: Exactness
    facts: tuple[str, ...]
    proof: CarriedChannels
    multiply_adds: int
    parameters: int


@dataclass(frozen=True, eq=False)
class ResidualBlock:
    """What the rule is applied to.

    Attributes:
        name: of the skip, for messages.
        stages: the branch.
        skip: the skip path.
        fork: bounds of the fork tensor, per channel.
        skipped: bounds of what the skip path delivers.
    """

    name: str
    stages: tuple[Stage, ...]
    skip: LinearMap
    fork: Content
    skipped: Content


def plan(block: ResidualBlock, carriers: Sequence[Carrier] = CARRIERS, form: Form = "auto") -> Plan:
    """The cheapest way to take the join out of a block.

    Args:
        block: branch, skip path and proved bounds.
        carriers: those that may be used.
        form: whether reserved channels pass a middle convolution as a dense block, as groups of
            their own, or in the form with fewer weights.

    Returns:
        The plan with the fewest multiply-adds; of equals, the stronger exactness.

    Raises:
        Refused: no placement and no carrier is valid; the reason of the first one tried.
    """
    if len(block.stages) < 2:
        raise Refused(
            "linear-branch",
            "the branch is a single linear operator, so the paths are parallel linear branches: "
            "a case for branch fusion, not for reserve-merge",
        )
    _check_strides(block)
    order = list(Exactness)
    plans: list[Plan] = []
    reasons: list[Refused] = []
    places: tuple[Place, ...] = ("last",) if block.skip.is_identity else ("last", "first")
    for place in places:
        try:
            plans.append(_plan_at(block, place, carriers, form))
        except Refused as reason:
            reasons.append(reason)
    if not plans:
        raise reasons[0]
    return min(plans, key=lambda p: (p.multiply_adds, order.index(p.exactness)))


def _check_strides(block: ResidualBlock) -> None:
    total = [1] * len(block.skip.strides)
    for stage in block.stages:
        for axis, stride in enumerate(stage.linear.strides):
            total[axis] *= stride
    if tuple(total) != block.skip.strides:
        raise Refused(
            "stride-mismatch",
            f"the branch has stride {total} and the skip path {list(block.skip.strides)}",
        )


def _plan_at(block: ResidualBlock, place: Place, carriers: Sequence[Carrier], form: Form) -> Plan:
    content = _with_zero(block.fork) if place == "last" and block.skip.padded else block.fork
    content = content if place == "last" else block.skipped
    *inner, last = block.stages
    layers: list[Widened] = []
    steps: list[Step] = []
    facts: list[str] = []
    used: list[Carriage] = []
    # what the reserved channels hold now: state = encode(content); decode gives content back
    state, decode, decode_offset = content, np.eye(content.channels), np.zeros(content.channels)
    layout: Layout | None = None
    for stage in inner:
        site = _site(stage)
        carriage = _carriage(state, content, decode, decode_offset, site, carriers)
        matrix, offset = carriage.encode, carriage.encode_offset
        if layout is None:
            matrix, offset, taps = _reserve(block, place, stage.linear, carriage)
            widened = widen_first(stage.linear, matrix, taps, offset)
            flat = matrix.sum(axis=2)
        else:
            tap = _copy_tap(stage)
            widened = widen_middle(stage.linear, matrix, tap, offset, layout, form)
            flat = matrix
        slopes = _slopes(site, carriage, widened.layout)
        layers.append(
            Widened(widened.linear, widened.blocks, widened.layout, widened.form, site, slopes)
        )
        layout = widened.layout
        activation = None if site is None else reserved_activation(site, carriage)
        steps.append(Step(flat, offset, activation))
        state, decode, decode_offset = carriage.after, carriage.decode, carriage.decode_offset
        if site is not None:
            used.append(carriage)
            facts.append(f"{_label(site)}: {carriage.carrier}, {carriage.fact}")
    assert layout is not None
    merge, taps, bias = _merge(block, place, last, decode, decode_offset)
    layers.append(widen_last(last.linear, merge, taps, bias, layout))
    steps.append(Step(merge.sum(axis=2), bias, None))
    forms = list(dict.fromkeys(layer.form for layer in layers[1:-1]))
    if forms:
        facts.append(f"the reserved channels pass the middle layers in {', '.join(forms)} form")
    if any(not layer.form.startswith(("depthwise", "grouped")) for layer in layers):
        facts.append("an infinite or NaN input reaches channels that it did not reach before")
    exactness = Exactness.EXACT
    for carriage in used:
        exactness = exactness.weakest(carriage.exactness)
    proof = CarriedChannels(
        tuple(steps),
        block.skip.matrix,
        block.skip.bias,
        block.fork.low,
        block.fork.high,
        block.name,
    )
    return Plan(
        layers=tuple(layers),
        place=place,
        carriers=tuple(carriage.carrier for carriage in used),
        exactness=exactness,
        facts=tuple(facts),
        proof=proof,
        multiply_adds=sum(
            stage.positions * int(layer.linear.weight.size)
            for stage, layer in zip(block.stages, layers, strict=True)
        ),
        parameters=sum(layer.linear.weight.size + layer.linear.bias.size for layer in layers),
    )


def _with_zero(content: Content) -> Content:
    """The content where it may also be read beyond its border."""
    return Content(
        np.minimum(content.low, 0.0),
        np.maximum(content.high, 0.0),
        f"{content.because}, and is 0 beyond its border",
    )


def _site(stage: Stage) -> ActivationSite | None:
    if stage.activation is None:
        return None
    return read_activation(stage.activation, len(stage.size_out), stage.linear.outputs)


def _label(site: ActivationSite) -> str:
    return node_label(site.node)


# --- carry ---------------------------------------------------------------------------------------


def _carriage(
    state: Content,
    content: Content,
    decode: Array,
    decode_offset: Array,
    site: ActivationSite | None,
    carriers: Sequence[Carrier],
) -> Carriage:
    """How the reserved channels, as they are, get through the next activation.

    `encode` maps the present channels to the next ones: the identity where the activation is the
    identity on them, else the content is decoded and encoded anew.
    """
    same = np.eye(state.channels)
    still = np.zeros(state.channels)
    if site is None:
        return Carriage("plain", same, still, decode, decode_offset, state, Exactness.EXACT, "")
    kept = Plain().carry(state, site.function)
    if kept is not None and any(isinstance(carrier, Plain) for carrier in carriers):
        return Carriage(
            "plain", same, still, decode, decode_offset, state, Exactness.EXACT, kept.fact
        )
    offered = [c for c in (carrier.carry(content, site.function) for carrier in carriers) if c]
    if not offered:
        raise Refused(
            "no-carrier",
            f"no carrier is valid for {_label(site)}: x lies in [{content.low.min():.4g}, "
            f"{content.high.max():.4g}] ({content.because})",
        )
    best = min(offered, key=lambda carriage: carriage.channels)
    return Carriage(
        best.carrier,
        best.encode @ decode,
        best.encode @ decode_offset + best.encode_offset,
        best.decode,
        best.decode_offset,
        best.after,
        best.exactness,
        best.fact,
        best.slope,
    )


def _slopes(site: ActivationSite | None, carriage: Carriage, layout: Layout) -> Array | None:
    """Slopes of the activation on the widened tensor, where it is to be a PRelu."""
    if site is None or (carriage.slope is None and site.node.op_type != "PRelu"):
        return None
    slopes = np.ones(len(layout.old) + len(layout.reserved))
    slopes[layout.old] = site.slopes
    return slopes


# --- reserve and merge ---------------------------------------------------------------------------


def _reserve(
    block: ResidualBlock, place: Place, linear: Linear, carriage: Carriage
) -> tuple[Array, Array, Taps]:
    """What the first operator reserves: matrix [R, K, taps], offset [R], and the taps.

    Placed last, it reserves x itself, read where the skip reads it (a Dirac); placed first, the
    skip's own map, tap by tap.
    """
    skip = block.skip
    if place == "last" and skip.is_pointwise:
        taps = _taps_at(linear, [skip.start])
        return carriage.encode[:, :, None], carriage.encode_offset, taps
    if place == "last":
        taps = _taps_at(linear, [(0,) * len(linear.kernel)])
        return carriage.encode[:, :, None], carriage.encode_offset, taps
    positions = [
        tuple(a + i * d for a, i, d in zip(skip.start, index, skip.dilations, strict=True))
        for index in _indices(skip)
    ]
    taps = _taps_at(linear, positions)
    flat = skip.taps.reshape(*skip.taps.shape[:2], -1)
    matrix = np.tensordot(carriage.encode, flat, axes=1)
    return matrix, carriage.encode @ skip.bias + carriage.encode_offset, taps


def _merge(
    block: ResidualBlock, place: Place, last: Stage, decode: Array, decode_offset: Array
) -> tuple[Array, Taps, Array]:
    """What the last operator adds: matrix [M, R, taps], the taps, and its addition to the bias."""
    skip = block.skip
    here = (0,) * len(last.linear.kernel)
    if place == "first":
        return decode[:, :, None], (_copy_tap(last),), decode_offset
    if skip.is_pointwise:
        matrix = skip.matrix @ decode
        return matrix[:, :, None], (_copy_tap(last),), skip.matrix @ decode_offset + skip.bias
    _check_spatial_merge(block, decode_offset)
    positions = [
        tuple(a + i * d for a, i, d in zip(skip.start, index, skip.dilations, strict=True))
        for index in _indices(skip)
    ]
    flat = skip.taps.reshape(*skip.taps.shape[:2], -1)
    matrix = np.einsum("mkt,kr->mrt", flat, decode)
    return matrix, _taps_at(last.linear, positions or [here]), skip.bias


def _check_spatial_merge(block: ResidualBlock, decode_offset: Array) -> None:
    """A merge with a window reads the border: sizes must be kept and 0 must stand for 0."""
    for stage in block.stages[:-1]:
        if stage.size_in[2:] != stage.size_out[2:] or any(s != 1 for s in stage.linear.strides):
            raise Refused(
                "window-after-stride",
                f"the skip path has a window and {stage.linear.label} changes the size before it",
            )
    if decode_offset.any():
        raise Refused("padded-border", "a shifted tensor would be wrong at the padded border")


def _indices(skip: LinearMap) -> Iterator[tuple[int, ...]]:
    return itertools.product(*map(range, skip.taps.shape[2:]))


def _taps_at(linear: Linear, positions: Sequence[tuple[int, ...]]) -> Taps:
    taps = []
    for position in positions:
        tap = linear.tap(position)
        if tap is None:
            raise Refused(
                "tap-outside-kernel",
                f"no tap of {linear.label} (kernel {list(linear.kernel)}, pads "
                f"{list(linear.pads_begin)}, dilations {list(linear.dilations)}) reads what the "
                f"skip path reads",
            )
        taps.append(tap)
    return tuple(taps)


def _copy_tap(stage: Stage) -> tuple[int, ...]:
    """The tap that copies a position; it must never read the padding."""
    (tap,) = _taps_at(stage.linear, [(0,) * len(stage.linear.kernel)])
    if not stage.linear.reads_inside(tap, stage.size_in[2:], stage.size_out[2:]):
        raise Refused(
            "tap-reads-padding", f"the tap of {stage.linear.label} that copies would read padding"
        )
    return tap
