"""The algebra of exact rewrites: true claims pass, each false one is stopped."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from onnx import helper

from graphopt.ir import Model
from graphopt.verify import algebra
from graphopt.verify.algebra import (
    Activation,
    Block,
    CarriedChannels,
    ClaimError,
    Composed,
    Map,
    Step,
    WidenedWeight,
    ungrouped,
)
from tests.support.models import plain_model

Array = np.ndarray
X = {"x": (np.float32, (1, 1))}
NOTHING = Model.load(plain_model([helper.make_node("Neg", ["x"], ["y"])], X, ["y"]))


def holds(claim: algebra.Claim, before: Model = NOTHING, after: Model = NOTHING) -> None:
    algebra.check([claim], before, after)


def fails(
    claim: algebra.Claim, match: str, before: Model = NOTHING, after: Model = NOTHING
) -> None:
    with pytest.raises(ClaimError, match=match):
        algebra.check([claim], before, after)


def with_weights(**weights: Array) -> Model:
    """A model that holds these arrays and reads them."""
    nodes = [
        helper.make_node("Shape", [name], [f"{name}.shape"]) for name in weights
    ]  # reads without demands on the shape
    total = helper.make_node("Concat", [node.output[0] for node in nodes], ["y"], axis=0)
    return Model.load(plain_model([*nodes, total], X, ["y"], weights))


# Widened weights ------------------------------------------------------------------------------

OLD = np.random.default_rng(0).standard_normal((2, 3, 3, 3)).astype(np.float32)
TAP = (1, 1)


def widened() -> tuple[Array, tuple[Block, ...]]:
    """Two more rows that copy inputs 0 and 2, and one more column that nothing reads."""
    new = np.zeros((4, 4, 3, 3), np.float32)
    new[:2, :3] = OLD
    new[2, 0, 1, 1] = 1
    new[3, 2, 1, 1] = -1
    matrix = np.zeros((2, 3, 1), np.float32)
    matrix[0, 0], matrix[1, 2] = 1, -1
    return new, (
        Block((0, 1), (0, 1, 2), "old", (0, 1), (0, 1, 2)),
        Block((2, 3), (0, 1, 2), "dirac", matrix=matrix, taps=(TAP,)),
        Block((0, 1, 2, 3), (3,), "zero"),
    )


def widened_claim(new: Array | None = None, **changes: Any) -> WidenedWeight:
    array, blocks = widened()
    claim = WidenedWeight("new", "old", array if new is None else new, OLD, blocks)
    return replace(claim, **changes)


def test_a_true_widening() -> None:
    new, _ = widened()
    holds(widened_claim())
    holds(widened_claim(), with_weights(old=OLD), with_weights(new=new))


def test_a_widening_that_is_stored_transposed() -> None:
    new, blocks = widened()
    flat = tuple(replace(b, taps=((),) if b.taps else ()) for b in blocks)
    wide, old = new[:, :, 1, 1], OLD[:, :, 1, 1]
    claim = WidenedWeight("new", "old", wide, old, flat, transposed=True)
    before, after = with_weights(old=old.T.copy()), with_weights(new=wide.T.copy())
    holds(claim, before, after)
    with pytest.raises((ClaimError, IndexError)):
        holds(replace(claim, transposed=False), before, after)


@pytest.mark.parametrize(
    ("place", "kind"),
    [
        ((1, 2, 0, 0), "old"),
        ((2, 0, 1, 1), "dirac"),
        ((3, 1, 0, 2), "dirac"),
        ((1, 3, 2, 2), "zero"),
    ],
)
def test_one_wrong_element_of_each_block(place: tuple[int, ...], kind: str) -> None:
    new, _ = widened()
    new[place] = np.nextafter(new[place], np.float32(9), dtype=np.float32)
    fails(widened_claim(new), f"in the new weight 'new' the {kind} block")
    fails(widened_claim(), f"the {kind} block", with_weights(old=OLD), with_weights(new=new))


def test_the_tensor_in_the_model_counts_not_the_one_in_the_claim() -> None:
    wrong = np.zeros((4, 4, 3, 3), np.float32)
    fails(widened_claim(), "the old block", with_weights(old=OLD), with_weights(new=wrong))
    fails(widened_claim(), "the old block", with_weights(old=OLD + 1))


def test_the_wrong_tap() -> None:
    _, blocks = widened()
    moved = replace(blocks[1], taps=((1, 0),))
    fails(widened_claim(blocks=(blocks[0], moved, blocks[2])), "the dirac block")


def test_the_wrong_matrix() -> None:
    _, blocks = widened()
    matrix = blocks[1].matrix
    assert matrix is not None
    wrong = replace(blocks[1], matrix=-matrix)
    fails(widened_claim(blocks=(blocks[0], wrong, blocks[2])), "the dirac block")


def test_rows_of_the_old_weight_in_another_order() -> None:
    _, blocks = widened()
    swapped = replace(blocks[0], old_rows=(1, 0))
    fails(widened_claim(blocks=(swapped, *blocks[1:])), "the old block")


def test_several_taps() -> None:
    """An average of two positions: one matrix for each tap."""
    new = np.zeros((1, 1, 3, 3), np.float32)
    new[0, 0, 1, 1] = new[0, 0, 1, 2] = 0.5
    half = np.full((1, 1, 2), 0.5, np.float32)
    block = Block((0,), (0,), "dirac", matrix=half, taps=((1, 1), (1, 2)))
    holds(WidenedWeight("n", "o", new, OLD, (block,)))
    fails(WidenedWeight("n", "o", new * 2, OLD, (block,)), "the dirac block")


@pytest.mark.parametrize("missing", range(3))
def test_an_element_that_no_block_covers(missing: int) -> None:
    _, blocks = widened()
    left = tuple(b for number, b in enumerate(blocks) if number != missing)
    fails(widened_claim(blocks=left), "do not cover the new weight 'new' exactly once")


def test_an_element_that_two_blocks_cover() -> None:
    _, blocks = widened()
    twice = (*blocks, Block((0,), (3,), "zero"))
    fails(widened_claim(blocks=twice), "do not cover the new weight 'new' exactly once")


def test_a_weight_that_is_no_constant() -> None:
    after = Model.load(
        plain_model(
            [helper.make_node("Relu", ["x"], ["new"]), helper.make_node("Neg", ["new"], ["y"])],
            X,
            ["y"],
        )
    )
    fails(widened_claim(), "the weight 'new' is not a constant of the model", after=after)


def test_nan_is_what_it_was() -> None:
    new, blocks = widened()
    old = OLD.copy()
    old[0, 0, 0, 0] = new[0, 0, 0, 0] = np.nan
    holds(WidenedWeight("n", "o", new, old, blocks))
    new[2, 1] = np.nan
    fails(WidenedWeight("n", "o", new, old, blocks), "the dirac block")


# Carried channels -----------------------------------------------------------------------------

EYE = np.eye(3)
NONE = np.zeros(3)


def carried(**changes: Any) -> CarriedChannels:
    """x >= 0 through a Relu: reserve, carry, merge."""
    claim = CarriedChannels(
        steps=(Step(EYE, NONE, Activation("relu")), Step(EYE, NONE)),
        skip=EYE,
        skip_bias=NONE,
        low=np.array(0.0),
        high=np.array(np.inf),
        where="add_1",
    )
    return replace(claim, **changes)


def split(slope: float = 0.0) -> tuple[Step, ...]:
    """x and -x through an activation, subtracted again; divided by 1 + slope for a leaky one."""
    function = Activation("relu") if not slope else Activation("leaky", slope=(slope,) * 6)
    both = np.concatenate([EYE, -EYE])
    merge = np.concatenate([EYE, -EYE], axis=1) / (1 + slope)
    return Step(both, np.zeros(6), function), Step(merge, NONE)


def test_what_is_not_negative_passes_a_relu() -> None:
    holds(carried())


def test_negatives_do_not() -> None:
    fails(carried(low=np.array(-1.0)), "the reserved channels of 'add_1' deliver values off by")
    fails(carried(low=np.array([0.0, -1e-6, 0.0])), "off by")
    fails(carried(low=np.array(-np.inf)), "off by")


@pytest.mark.parametrize("slope", [0.0, 0.1, 0.5])
def test_the_split_carries_anything(slope: float) -> None:
    holds(carried(steps=split(slope), low=np.array(-np.inf)))


def test_a_split_for_the_wrong_slope() -> None:
    steps = (split(0.1)[0], split(0.11)[1])
    fails(carried(steps=steps, low=np.array(-1.0)), "off by")


def test_a_slope_of_one_carries_anything_and_no_other() -> None:
    def prelu(slope: float) -> tuple[Step, ...]:
        return Step(EYE, NONE, Activation("leaky", slope=(1.0, 1.0, slope))), Step(EYE, NONE)

    holds(carried(steps=prelu(1.0), low=np.array(-np.inf)))
    fails(carried(steps=prelu(0.999), low=np.array(-np.inf)), "off by")
    holds(carried(steps=prelu(0.999)))  # nothing negative comes


def test_clip_within_its_range_only() -> None:
    def clip(low: float, high: float) -> CarriedChannels:
        steps = (Step(EYE, NONE, Activation("clip", low=0, high=6)), Step(EYE, NONE))
        return carried(steps=steps, low=np.array(low), high=np.array(high))

    holds(clip(0, 6))
    fails(clip(0, 6.001), "off by")
    fails(clip(-0.001, 6), "off by")


def test_scale_and_shift_into_the_range_and_back() -> None:
    clip = Activation("clip", low=0, high=6)

    def moved(scale: float, shift: float, back: float) -> CarriedChannels:
        steps = (Step(EYE * scale, NONE + shift, clip), Step(EYE / scale, NONE + back))
        return carried(steps=steps, low=np.array(-8.0), high=np.array(8.0))

    holds(moved(0.25, 2.0, -8.0))
    fails(moved(0.25, 2.0, -8.01), "off by")
    fails(moved(0.5, 2.0, -4.0), "off by")


def test_the_bias_and_the_matrix_of_the_skip_count() -> None:
    skip = np.array([[2.0, 0.0, 1.0], [0.0, 0.0, -1.0]])
    merge = (Step(EYE, NONE, Activation("relu")), Step(skip, np.array([0.5, 1.0])))
    claim = carried(steps=merge, skip=skip, skip_bias=np.array([0.5, 1.0]))
    holds(claim)
    fails(replace(claim, skip_bias=np.array([0.5, 1.001])), "off by 0.001")
    fails(replace(claim, skip=skip * 1.001), "off by")


def test_values_that_are_not_numbers_carry_nothing() -> None:
    """A comparison with NaN is false, so it must not be what decides."""
    infinite = np.where(EYE > 0, np.inf, 0.0)
    for steps in (
        (Step(EYE * np.nan, NONE),),
        (Step(EYE, NONE + np.nan),),
        (Step(infinite, NONE), Step(EYE * 0, NONE)),
    ):
        with np.errstate(invalid="ignore"):
            fails(carried(steps=steps), "deliver values off by")


def test_a_range_far_from_zero_is_sampled_where_it_is() -> None:
    """Beyond 10 000 the samples stop for unbounded ranges, not for those that start there."""
    shifted = (Step(EYE, NONE - 2e4, Activation("relu")), Step(EYE, NONE + 2e4))
    holds(carried(steps=shifted, low=np.array(2e4), high=np.array(np.inf)))
    holds(carried(steps=shifted, low=np.array(2e4), high=np.array(3e4)))
    fails(carried(steps=shifted, low=np.array(1.9e4), high=np.array(3e4)), "off by")


# Compositions ---------------------------------------------------------------------------------

RNG = np.random.default_rng(1)


def weight(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


FIRST = Map(weight(4, 3, 3, 3), weight(4).astype(np.float64))
SECOND = Map(weight(5, 4, 1, 1), weight(5).astype(np.float64))


def fused(first: Map, second: Map) -> Map:
    one, two = (m.weight.astype(np.float64) for m in (first, second))
    if second.is_pointwise:
        made = np.tensordot(two[:, :, 0, 0], one, axes=1)
    else:
        made = np.einsum("mkhw,kc->mchw", two, one[:, :, 0, 0])
    bias = two.sum(axis=(2, 3)) @ first.bias + second.bias
    return Map(made.astype(np.float32), bias.astype(np.float32).astype(np.float64))


def composed(first: Map = FIRST, second: Map = SECOND, **changes: Any) -> Composed:
    return replace(Composed("w", "b", fused(first, second), first, second), **changes)


def in_model(claim: Composed, new: Map, **more: Any) -> Model:
    return with_weights(w=new.weight, b=new.bias.astype(np.float32), **more)


def test_a_true_composition() -> None:
    holds(composed())
    holds(composed(), after=in_model(composed(), composed().new))


def test_a_pointwise_one_before_a_window() -> None:
    first = Map(weight(4, 3, 1, 1), weight(4).astype(np.float64))
    second = Map(weight(5, 4, 3, 3), weight(5).astype(np.float64))
    holds(composed(first, second))
    other = replace(second, weight=second.weight * 1.01)
    fails(replace(composed(first, second), second=other), "off by")


def test_two_matrix_products() -> None:
    first, second = Map(weight(4, 3), NONE[:1].repeat(4)), Map(weight(2, 4), np.ones(2))
    new = Map(second.weight @ first.weight, np.ones(2))
    claim = Composed("w", "b", new, first, second, transposed=True)
    holds(claim)
    holds(claim, after=with_weights(w=new.weight.T.copy(), b=np.ones(2, np.float32)))
    fails(claim, "off by", after=with_weights(w=new.weight.T * 2, b=np.ones(2, np.float32)))


@pytest.mark.parametrize("place", [(0, 0, 0, 0), (4, 2, 2, 2), (2, 1, 1, 1)])
def test_one_wrong_element(place: tuple[int, ...]) -> None:
    new = fused(FIRST, SECOND)
    array = new.weight.copy()
    array[place] += 1e-3
    wrong = Map(array, new.bias)
    fails(composed(new=wrong), "'w' is not the composition of what it replaces")
    fails(composed(), "is not the composition", after=in_model(composed(), wrong))


def test_a_wrong_bias() -> None:
    new = fused(FIRST, SECOND)
    fails(composed(new=Map(new.weight, new.bias + 1e-3)), "off by 0.001")


def test_the_wrong_order_of_the_two() -> None:
    square = Map(weight(4, 4, 1, 1), np.zeros(4)), Map(weight(4, 4, 1, 1), np.zeros(4))
    holds(composed(*square))
    fails(replace(composed(*square), first=square[1], second=square[0]), "off by")


def test_rounding_once_is_allowed_in_half_precision_too() -> None:
    new = fused(FIRST, SECOND)
    half = Map(new.weight.astype(np.float16), new.bias)
    holds(composed(new=half))
    fails(composed(new=Map((new.weight * 1.05).astype(np.float16), new.bias)), "off by")


def test_a_grouped_weight() -> None:
    grouped = weight(4, 2, 3, 3)  # two groups of two
    dense = ungrouped(grouped, 2)
    assert dense.shape == (4, 4, 3, 3)
    assert not dense[:2, 2:].any()
    assert not dense[2:, :2].any()
    assert np.array_equal(dense[:2, :2], grouped[:2])
    assert np.array_equal(dense[2:, 2:], grouped[2:])
    scale = np.array([1.0, 2.0, 3.0, 4.0])
    second = Map(np.diag(scale).reshape(4, 4, 1, 1), np.zeros(4))
    new = (grouped * scale.reshape(4, 1, 1, 1)).astype(np.float32)
    claim = Composed(
        "w", "b", Map(ungrouped(new, 2), np.zeros(4)), Map(dense, np.zeros(4)), second, group=2
    )
    bias = np.zeros(4, np.float32)
    holds(claim, after=with_weights(w=new, b=bias))
    fails(claim, "off by", after=with_weights(w=new[::-1].copy(), b=bias))


def test_numbers_that_are_none_compose_nothing() -> None:
    new = fused(FIRST, SECOND)
    for bad in (np.nan, np.inf, -np.inf):
        array = new.weight.copy()
        array[0, 0, 0, 0] = bad
        fails(composed(new=Map(array, new.bias)), "is not the composition")
        bias = new.bias.copy()
        bias[0] = bad
        fails(composed(new=Map(new.weight, bias)), "is not the composition")


def test_weights_that_were_no_numbers_before_may_stay_so() -> None:
    """A broken model is not made worse, and not refused for what it was."""
    array = FIRST.weight.copy()
    array[1] = np.nan
    first = replace(FIRST, weight=array)
    new = fused(first, SECOND)
    assert np.isnan(new.weight).all()
    holds(composed(first, SECOND))


def test_a_composed_weight_that_is_no_constant() -> None:
    after = Model.load(
        plain_model(
            [helper.make_node("Relu", ["x"], ["w"]), helper.make_node("Neg", ["w"], ["y"])],
            X,
            ["y"],
        )
    )
    fails(composed(), "the weight 'w' is not a constant of the model", after=after)
    lone = with_weights(w=fused(FIRST, SECOND).weight)
    fails(composed(), "is not a constant of the model", after=lone)


# Activations ----------------------------------------------------------------------------------


def test_activations_per_channel() -> None:
    x = np.array([[-2.0, 0.0, 8.0], [-2.0, 0.0, 8.0]])
    assert Activation("relu")(x).tolist() == [[0, 0, 8], [0, 0, 8]]
    assert Activation("clip", low=-1, high=6)(x).tolist() == [[-1, 0, 6], [-1, 0, 6]]
    assert Activation("leaky", slope=(0.5, 1.0))(x).tolist() == [[-1, 0, 8], [-2, 0, 8]]
    assert Activation("leaky", slope=(0.25,))(x).tolist() == [[-0.5, 0, 8], [-0.5, 0, 8]]
