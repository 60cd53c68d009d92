"""The lattice merge against every pair of accumulator and code."""

from __future__ import annotations

import numpy as np
import pytest

from passes.reserve_merge.lattice import Quantizer, Rounding, Sum, first, merge


def pairs(sum_: Sum) -> tuple[np.ndarray, np.ndarray]:
    a = np.arange(sum_.low, sum_.high + 1)[:, None]
    return a, np.arange(sum_.codes[0], sum_.codes[1] + 1)[None, :]


def codes(sum_: Sum, quantizer: Quantizer) -> np.ndarray:
    a, x = pairs(sum_)
    return quantizer.code(sum_.gain * a + sum_.step * x + sum_.shift)


@pytest.mark.parametrize("rounding", ["half-even", "half-up", "half-away"])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("relu", [False, True])
def test_every_code_of_every_pair(rounding: Rounding, signed: bool, bits: int, relu: bool) -> None:
    rng = np.random.default_rng(bits)
    for _ in range(12):
        low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
        quantizer = Quantizer(rng.uniform(0.05, 0.3), low, high, rounding, relu)
        step = quantizer.scale * rng.uniform(0.4, 1.6)
        gain = step / rng.uniform(22, 81)  # what trained networks have
        reach = int(2**bits * 40)
        sum_ = Sum(gain, step, rng.normal() * quantizer.scale, -reach, reach, (low, high))
        merged = merge(sum_, quantizer)
        assert merged is not None
        assert merged.wrong == 0
        np.testing.assert_array_equal(
            merged.code(*pairs(sum_), quantizer.low), codes(sum_, quantizer)
        )


def test_the_smallest_factor() -> None:
    sum_ = Sum(1.0, 3.3, 0.0, -40, 40, (0, 3))
    quantizer = Quantizer(4.0, -4, 3, "half-even")
    merged = merge(sum_, quantizer)
    assert merged is not None
    for m in range(1, merged.m):
        assert merge(sum_, quantizer, m) is None


@pytest.mark.parametrize(
    ("rounding", "wanted"),
    [("half-even", [-2, 0, 0, 2]), ("half-up", [-1, 0, 1, 2]), ("half-away", [-2, -1, 1, 2])],
)
def test_ties(rounding: Rounding, wanted: list[int]) -> None:
    """Sums of -1.5, -0.5, 0.5 and 1.5 steps."""
    quantizer = Quantizer(2.0, -2, 2, rounding)
    sum_ = Sum(2.0, 2.0, 1.0, -2, 1, (0, 0))
    assert codes(sum_, quantizer).ravel().tolist() == wanted
    merged = merge(sum_, quantizer)
    assert merged is not None
    assert merged.code(*pairs(sum_), -2).ravel().tolist() == wanted


def test_first_is_where_the_code_begins() -> None:
    sum_ = Sum(0.3, 1.1, 0.2, -50, 50, (-2, 1))
    quantizer = Quantizer(2.0, -3, 3, "half-even")
    a, _ = pairs(sum_)
    wanted = codes(sum_, quantizer)
    for k, row in zip(range(-2, 4), first(sum_, quantizer), strict=True):
        for column, least in enumerate(row):
            np.testing.assert_array_equal(wanted[:, column] >= k, a[:, 0] >= least)


def test_approximate_counts_what_is_wrong() -> None:
    sum_ = Sum(1.0, 3.37, 0.1, -60, 60, (0, 15))
    quantizer = Quantizer(4.1, 0, 15, "half-even")
    assert merge(sum_, quantizer, 2) is None
    merged = merge(sum_, quantizer, 2, approximate=True)
    assert merged is not None
    off = np.abs(merged.code(*pairs(sum_), 0) - codes(sum_, quantizer))
    assert merged.wrong == off.sum() > 0
    assert merged.pairs == off.size
    exact = merge(sum_, quantizer)
    assert exact is not None
    assert exact.m > merged.m
