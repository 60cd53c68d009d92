"""The rule of RMNet (Meng et al., sections 4.1 to 4.4): reserve, carry, merge.

A block computes `y = f(x) + s(x)`, f a chain of linear operators W1 .. WL with activations between
them, s linear.

- Reserve: W1 gets extra output channels that hold x (or s(x)): a Dirac kernel, one tap equal to 1.
- Carry: each activation on the way is the identity on these channels, or they are encoded so that
  it does no harm (`carriers`); each linear operator on the way copies them.
- Merge: WL reads them as extra inputs and adds s(x) to its sums: `WL' = [WL | P]`.

A block that concatenates, `y = [f(x), s(x)]`, is reserved without a merge: the channels are carried
to the end and lie there in the order of the concatenation.

`plan` does the arithmetic on weights and decides nothing about the graph; `rewrite` puts its result
there.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from graphopt.cost import si
from graphopt.evidence import Cost, Exactness, Verdict
from graphopt.verify.algebra import CarriedChannels, Step
from passes.activations import Function, line_from
from passes.linear import Linear
from passes.linear_map import LinearMap
from passes.refused import Refused
from passes.reserve_merge.branch import Stage
from passes.reserve_merge.carriers import (
    CARRIERS,
    Carriage,
    Carrier,
    Content,
    Plain,
    clip_bounds,
)
from passes.reserve_merge.gates import Gate
from passes.reserve_merge.widen import (
    Array,
    Form,
    Layout,
    Taps,
    Widened,
    wanted_by,
    wanted_by_merge,
    widen_first,
    widen_last,
    widen_middle,
)

Place = Literal["first", "last"]

MAX_WEIGHT = {"float16": 2.0**8, "float32": 2.0**100}
"""A merge with a greater weight is refused: what it makes might leave the range of its type."""


@dataclass(frozen=True, eq=False)
class PlannedStage:
    """One stage of a block without its join.

    Attributes:
        widened: the linear operator.
        through: for each activation of the stage how it is carried; None for a gate.
    """

    widened: Widened
    through: tuple[Carriage | None, ...]


@dataclass(frozen=True, eq=False)
class Plan:
    """A block without its join.

    Attributes:
        stages: what becomes of each stage, in order.
        place: where the skip's own map is applied: in the first operator or in the last.
        carriers: names of the carriers, one per activation.
        exactness: of the whole.
        facts: what the proof relies on.
        proof: that the reserved channels deliver the skip.
        multiply_adds: of the widened operators, one sample.
        parameters: weight elements of these.
    """

    stages: tuple[PlannedStage, ...]
    place: Place
    carriers: tuple[str, ...]
    exactness: Exactness
    facts: tuple[str, ...]
    proof: CarriedChannels
    multiply_adds: int
    parameters: int

    @property
    def cost(self) -> Cost:
        """Of the widened operators, gates left out."""
        size = self.stages[0].widened.linear.like.weight.dtype.itemsize
        return Cost(self.parameters, self.parameters * size, self.multiply_adds)


@dataclass(frozen=True, eq=False)
class ResidualBlock:
    """What the rule is applied to.

    Attributes:
        name: of the skip, for messages.
        stages: the branch.
        skip: the skip path; where the block concatenates, from the fork to all channels of the
            result, with zeros where those of the branch are.
        fork: bounds of the fork tensor, per channel.
        skipped: bounds of what the skip path delivers.
        branch_at: where the block concatenates, the places of the branch's channels in the result;
            None where it adds.
    """

    name: str
    stages: tuple[Stage, ...]
    skip: LinearMap
    fork: Content
    skipped: Content
    branch_at: Array | None = None


def plan(
    block: ResidualBlock,
    judge: Callable[[Cost, Cost], Verdict],
    carriers: Sequence[Carrier] = CARRIERS,
    form: Form = "auto",
) -> Plan:
    """The cheapest way to take the join out of a block.

    Args:
        block: branch, skip path and proved bounds.
        judge: whether the second of two costs is not worse than the first, on the target.
        carriers: those that may be used.
        form: whether reserved channels pass a middle convolution as a dense block, as groups of
            their own, or in the form with fewer weights.

    Returns:
        The plan that is cheapest on the target; of equals, the stronger exactness.

    Raises:
        Refused: no placement and no carrier is valid; the reason of the first one tried.
    """
    if len(block.stages) < 2 and block.branch_at is None:
        raise Refused(
            "linear-branch",
            "the branch is a single linear operator, so the paths are parallel linear branches: "
            "a case for branch fusion, not for reserve-merge",
        )
    _check_strides(block)
    order = list(Exactness)
    plans: list[Plan] = []
    reasons: list[Refused] = []
    for ways in _ways(block, carriers):
        for place, allowed in ways:
            try:
                plans.append(_plan_at(block, place, allowed, form))
            except Refused as reason:
                reasons.append(reason)
        if plans:
            break
    else:
        raise reasons[0]
    best = plans[0]
    for other in plans[1:]:
        weaker = order.index(other.exactness) >= order.index(best.exactness)
        if judge(best.cost, other.cost) and not (weaker and judge(other.cost, best.cost)):
            best = other
    return best


def _ways(
    block: ResidualBlock, carriers: Sequence[Carrier]
) -> Iterator[list[tuple[Place, Sequence[Carrier]]]]:
    """Where the skip's map may go, and with which carriers; more only if these lead nowhere.

    The carrier with the fewest channels may not fit the next operator (a depthwise convolution
    cannot make one channel of two), so each carrier is also tried by itself. A concatenation
    decodes nothing, so carriers that leave channels as they are all the way come first there.
    """
    places: tuple[Place, ...] = ("last", "first")
    if block.branch_at is not None:
        places = ("first",)
        yield [("first", carriers), ("first", [c for c in carriers if c.leaves_as_is])]
    elif block.skip.is_identity:
        places = ("last",)
    yield [(place, carriers) for place in places]
    for carrier in carriers if len(carriers) > 1 else ():
        yield [(place, [carrier]) for place in places]


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


@dataclass(frozen=True, eq=False)
class _Passage:
    """How the reserved channels get through one stage.

    Attributes:
        matrix: from the reserved channels before it to those behind it, shape [R', R]; before the
            first stage stands the content itself.
        offset: what is added, shape [R'].
        through: as in `PlannedStage`.
    """

    matrix: Array
    offset: Array
    through: tuple[Carriage | None, ...]


def _plan_at(block: ResidualBlock, place: Place, carriers: Sequence[Carrier], form: Form) -> Plan:
    kept, content = _content(block, place)
    merges = block.branch_at is None
    inner = block.stages[:-1] if merges else block.stages
    passages, decode, decode_offset = _carry(inner, content, carriers)
    reserve, taps = _reserve(block, place, kept, passages[0].matrix)
    offset = passages[0].offset
    if place == "first":
        offset = offset + passages[0].matrix @ block.skip.bias[kept]
    if merges:
        merge, merge_taps, shift = _merge(block, place, kept, decode, decode_offset)
        want = wanted_by_merge(block.stages[-1].linear, np.abs(merge).sum(axis=2))
    else:
        want = _concatenated(block, kept, decode, decode_offset)
    layouts = _layouts(inner, passages, want)

    widened = [widen_first(inner[0].linear, reserve, taps, offset, layouts[0])]
    for stage, passage, layout in zip(inner[1:], passages[1:], layouts[1:], strict=True):
        tap = _copy_tap(stage)
        before = widened[-1].layout
        widened.append(
            widen_middle(stage.linear, passage.matrix, tap, passage.offset, before, form, layout)
        )
    steps = [
        Step(passage.matrix, passage.offset, _activation(stage, passage))
        for stage, passage in zip(inner, passages, strict=True)
    ]
    stages = [PlannedStage(w, p.through) for w, p in zip(widened, passages, strict=True)]
    if merges:
        last = widen_last(block.stages[-1].linear, merge, merge_taps, shift, widened[-1].layout)
        stages.append(PlannedStage(last, (None,) * len(block.stages[-1].through)))
        scale = _trailing_scale(block.stages[-1])
        steps.append(Step(merge.sum(axis=2) * scale[:, None], shift * scale, None))
    else:
        everything = np.eye(block.skip.taps.shape[0])[:, kept]
        steps.append(Step(everything @ decode, np.zeros(len(everything)), None))
    used = [carriage for passage in passages for carriage in passage.through if carriage]
    exactness = Exactness.EXACT
    for carriage in used:
        exactness = exactness.weakest(carriage.exactness)
    # what is known of the content is what the carriers relied on; that the first layer reserves it
    # is a block of its weight
    delivered = block.skip.matrix, block.skip.bias
    if place == "first":
        delivered = np.eye(len(block.skip.taps)), np.zeros(len(block.skip.taps))
    proof = CarriedChannels(
        tuple(steps), delivered[0][:, kept], delivered[1], content.low, content.high, block.name
    )
    return Plan(
        stages=tuple(stages),
        place=place,
        carriers=tuple(carriage.carrier for carriage in used),
        exactness=exactness,
        facts=_facts(block, passages, stages),
        proof=proof,
        multiply_adds=sum(
            stage.positions * int(one.widened.linear.weight.size)
            for stage, one in zip(block.stages, stages, strict=True)
        ),
        parameters=sum(
            one.widened.linear.weight.size + one.widened.linear.bias.size for one in stages
        ),
    )


def _content(block: ResidualBlock, place: Place) -> tuple[Array, Content]:
    """What is reserved: the channels of x that the skip reads, or those of s(x) that are not 0."""
    if block.branch_at is not None:
        kept = np.setdiff1d(np.arange(block.skip.taps.shape[0]), block.branch_at)
        return kept, block.skipped.take(kept)
    kept = block.skip.read_channels if place == "last" else block.skip.made_channels
    if not len(kept):
        raise Refused("skip-not-linear", "the skip path does not depend on its fork")
    if place == "first":
        return kept, block.skipped.take(kept)
    fork = block.fork.take(kept)
    return kept, fork.with_zero() if block.skip.padded else fork


# --- carry ---------------------------------------------------------------------------------------


def _carry(
    stages: Sequence[Stage], content: Content, carriers: Sequence[Carrier]
) -> tuple[list[_Passage], Array, Array]:
    """Takes the content through the stages.

    Returns:
        One passage per stage, and the map from the reserved channels at the end to the content.
    """
    state, decode, offset = content, np.eye(content.channels), np.zeros(content.channels)
    passages = []
    for stage in stages:
        # `encode` takes the present channels to the next: the content is decoded and encoded anew,
        # unless the channels can go on as they are
        encode, shift = np.eye(state.channels), np.zeros(state.channels)
        through: list[Carriage | None] = []
        settled = False
        for one in stage.through:
            if isinstance(one, Gate):
                decode = decode / one.level
                state = state.scaled(one.level)
                through.append(None)
                settled = settled or one.level != 1
                continue
            found = _in_place(state, one, carriers, anew=state is content and not settled)
            if found is None and not settled:
                found = _encoded(content, one, carriers)
                encode = found.encode @ decode
                shift = found.encode @ offset + found.encode_offset
                state, decode, offset = found.after, found.decode, found.decode_offset
            elif found is None:
                raise _no_carrier(one, content)
            else:
                state, decode = found.after, decode @ found.decode
            settled = True
            through.append(found)
        passages.append(_Passage(encode, shift, tuple(through)))
    return passages, decode, offset


def _in_place(
    state: Content, function: Function, carriers: Sequence[Carrier], anew: bool
) -> Carriage | None:
    """A carriage that takes the reserved channels as they are.

    Channels that are encoded already go on by `Plain` whichever carriers were asked for.
    """
    shared = function.shared
    ways = [c for c in carriers if isinstance(c, Plain)]
    if not anew or not shared.calls:
        ways = [Plain()]
    offered = (carrier.carry(state, shared) for carrier in ways)
    return next((carriage for carriage in offered if carriage is not None), None)


def _encoded(content: Content, function: Function, carriers: Sequence[Carrier]) -> Carriage:
    offered = [c for c in (carrier.carry(content, function.shared) for carrier in carriers) if c]
    if not offered:
        raise _no_carrier(function, content)
    return min(offered, key=lambda carriage: carriage.channels)


def _no_carrier(function: Function, content: Content) -> Refused:
    """Names the bounds where they are what is missing."""
    shared = function.shared
    names = " ".join(call.operator for call in shared.calls)
    low, high = content.low.min(), content.high.max()
    known = f"proved because {content.because}"
    if clip_bounds(shared) is not None:
        why = f"x lies in [{low:.4g}, {high:.4g}], {known}"
    elif line_from(shared) is not None:
        why = f"x >= {low:.4g}, {known}"
    else:
        why = "it is linear nowhere, and f(x) - f(-x) is no multiple of x"
    return Refused(
        "no-carrier",
        f"no carrier is valid for {function.label} ({names}): {why}; "
        "reserve-merge{carrier=pass-through} would lead it around",
    )


@dataclass(frozen=True, eq=False)
class _Chain:
    """What the activations and gates of a stage do to the reserved channels."""

    parts: tuple[Function | float, ...]

    def __call__(self, x: Array) -> Array:
        for part in self.parts:
            x = x * part if isinstance(part, float) else part(x)
        return x


def _activation(stage: Stage, passage: _Passage) -> _Chain:
    parts: list[Function | float] = []
    for one, carriage in zip(stage.through, passage.through, strict=True):
        if isinstance(one, Gate):
            parts.append(one.level)
        elif carriage is not None and carriage.form == "same":
            parts.append(one.shared)
    return _Chain(tuple(parts))


# --- reserve and merge ---------------------------------------------------------------------------


def _reserve(block: ResidualBlock, place: Place, kept: Array, encode: Array) -> tuple[Array, Taps]:
    """What the first operator reserves: matrix [R, K, taps], and the taps.

    Placed last, it reserves x itself, read where the skip reads it (a Dirac); placed first, the
    skip's own map, tap by tap.
    """
    skip, linear = block.skip, block.stages[0].linear
    if place == "last":
        dirac = np.zeros((len(encode), skip.taps.shape[1], 1))
        dirac[:, kept, 0] = encode
        start = skip.start if skip.is_pointwise else (0,) * len(linear.kernel)
        return dirac, _taps_at(linear, [start])
    flat = skip.taps[kept].reshape(len(kept), skip.taps.shape[1], -1)
    return np.tensordot(encode, flat, axes=1), _taps_at(linear, _positions(skip))


def _merge(
    block: ResidualBlock, place: Place, kept: Array, decode: Array, decode_offset: Array
) -> tuple[Array, Taps, Array]:
    """What the last operator adds: matrix [M, R, taps], the taps, and its addition to the bias.

    A scale behind the last operator is divided out: `a (W h + s / a) = a W h + s`.

    Raises:
        Refused: a weight would leave the range of its type, or no tap reads what it must.
    """
    matrix, taps, shift = _scaled_merge(block, place, kept, decode, decode_offset)
    largest = max(np.abs(matrix).max(initial=0.0), np.abs(shift).max(initial=0.0))
    dtype = str(block.stages[-1].linear.weight.dtype)
    if largest > MAX_WEIGHT.get(dtype, MAX_WEIGHT["float32"]):
        raise Refused(
            "activation-before-join",
            f"a weight of {largest:.3g}, which undoes the scale before the join, is too large for "
            "its type",
        )
    return matrix, taps, shift


def _scaled_merge(
    block: ResidualBlock, place: Place, kept: Array, decode: Array, decode_offset: Array
) -> tuple[Array, Taps, Array]:
    skip, last = block.skip, block.stages[-1]
    scale = _trailing_scale(last)
    if place == "first" or skip.is_pointwise:
        whole = np.eye(len(skip.taps))[:, kept] if place == "first" else skip.matrix[:, kept]
        bias = whole @ decode_offset + (0 if place == "first" else skip.bias)
        matrix = (whole @ decode)[:, :, None]
        return matrix / scale[:, None, None], (_copy_tap(last),), bias / scale
    _check_spatial_merge(block, decode_offset)
    flat = skip.taps[:, kept].reshape(len(skip.taps), len(kept), -1)
    matrix = np.einsum("mkt,kr->mrt", flat, decode)
    taps = _taps_at(last.linear, _positions(skip))
    return matrix / scale[:, None, None], taps, skip.bias / scale


def _trailing_scale(last: Stage) -> Array:
    """The scale, per channel, that stands between the last operator and the join."""
    scale = np.ones(last.linear.outputs)
    for one in last.through:
        affine = one.affine() if isinstance(one, Function) else None
        if affine is None:
            raise Refused(
                "activation-before-join",
                f"{one.label} stands between the last linear layer and the join, so no layer can "
                "merge the tensor",
            )
        scale = scale * affine[0]
    if not scale.all():
        raise Refused("activation-before-join", "the branch is scaled by 0 before the join")
    return scale


def _concatenated(block: ResidualBlock, kept: Array, decode: Array, decode_offset: Array) -> Layout:
    """The layout in which the channels of branch and skip are those of the concatenation.

    Raises:
        Refused: the reserved channels at the end are encoded, and nothing decodes them.
    """
    if decode_offset.any() or not np.array_equal(decode, np.eye(len(kept))):
        raise Refused(
            "concat-join",
            "the reserved channels arrive encoded at the concatenation, and no layer decodes them",
        )
    assert block.branch_at is not None
    return Layout(block.branch_at, kept, block.skip.taps.shape[0])


def _layouts(
    stages: Sequence[Stage], passages: Sequence[_Passage], last: Layout | None
) -> list[Layout | None]:
    """Where the channels must lie behind each stage, from the last one back."""
    layouts = [last]
    for stage, passage in zip(stages[:0:-1], passages[:0:-1], strict=True):
        layouts.append(wanted_by(stage.linear, passage.matrix, layouts[-1]))
    return layouts[::-1]


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


def _positions(skip: LinearMap) -> list[tuple[int, ...]]:
    """The input positions that the taps of a map read, for output 0."""
    return [
        tuple(a + i * d for a, i, d in zip(skip.start, index, skip.dilations, strict=True))
        for index in itertools.product(*map(range, skip.taps.shape[2:]))
    ]


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


# --- what is said of it --------------------------------------------------------------------------


def _facts(
    block: ResidualBlock, passages: Sequence[_Passage], stages: Sequence[PlannedStage]
) -> tuple[str, ...]:
    facts = []
    for stage, passage in zip(block.stages, passages, strict=False):
        for one, carriage in zip(stage.through, passage.through, strict=True):
            if carriage is not None:
                facts.append(f"{one.label}: {carriage.carrier}, {carriage.fact}")
            elif isinstance(one, Gate):
                facts.append(
                    f"{one.label}: a bias of {one.bias:g} makes the gate {one.level:g} on the "
                    "reserved channels"
                )
    spent: Counter[str] = Counter()
    for stage, new in zip(block.stages, stages, strict=True):
        extra = new.widened.linear.weight.size - stage.linear.weight.size
        spent[new.widened.form] += stage.positions * int(extra)
    costs = ", ".join(f"{form} {si(count)}" for form, count in spent.items())
    facts.append(f"multiply-adds of the reserved channels by form: {costs}")
    if any(not one.widened.form.endswith(("depthwise", "grouped")) for one in stages):
        facts.append("an infinite or NaN input reaches channels that it did not reach before")
    return tuple(facts)
