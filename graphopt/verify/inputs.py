"""Inputs that hurt: negatives, zeros, large values, borders, odd sizes, several batches."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from graphopt.ir.model import Model
from graphopt.ir.shapes import Dim, Shapes, TensorInfo

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Case:
    """One set of inputs.

    Attributes:
        name: what is special about it.
        sizes: the value given to each symbolic size.
        feeds: an array for each graph input.
    """

    name: str
    sizes: Mapping[str, int]
    feeds: Mapping[str, Array]


def cases(model: Model, seed: int = 0) -> Iterator[Case]:
    """Test inputs for a model, the most telling ones first.

    Values: normal at scales 1, 0.1 and 30, uniform in [0, 1] and [0, 255], all negative, zeros,
    and an image that is zero but for its border. Sizes: symbolic batch 1, 2 and 3; other symbolic
    sizes 32, then odd ones (a model may refuse these: the caller drops what the original refuses).
    """
    shapes = model.analyses.get(Shapes())
    inputs = {
        value.name: shapes[value.name]
        for value in model.graph.inputs
        if value.name and value.name not in model.graph.initializers
    }
    symbols = list(dict.fromkeys(_symbols(inputs)))
    for number, (style, sizes) in enumerate(_plan(symbols, inputs)):
        rng = np.random.default_rng([seed, number])
        bound = dict(zip(symbols, sizes, strict=True))
        feeds = {
            name: _fill(style, _shape(name, info, bound), info, rng)
            for name, info in inputs.items()
        }
        sized = f" at {', '.join(f'{k}={v}' for k, v in bound.items())}" if bound else ""
        yield Case(f"{style}{sized}", bound, feeds)


STYLES = ("normal", "uniform 0..1", "negative", "normal x 30", "border", "uniform 0..255", "zeros",
          "normal x 0.1")  # fmt: skip

_INTEGERS = {
    "zeros": (0, 0),
    "uniform 0..1": (0, 1),
    "uniform 0..255": (0, 255),
    "negative": (-128, -1),
    "normal x 0.1": (-2, 2),
}
"""Range of an integer input by style: all of a byte, and numbers small enough to be an index."""


def _plan(
    symbols: list[str], inputs: Mapping[str, TensorInfo]
) -> Iterator[tuple[str, tuple[int, ...]]]:
    batch = {_symbol(name, 0, info.shape[0]) for name, info in inputs.items() if info.shape}

    def sizes(batch_size: int, other: int) -> tuple[int, ...]:
        return tuple(batch_size if symbol in batch else other for symbol in symbols)

    has_other = any(symbol not in batch for symbol in symbols)
    for style in STYLES:
        yield style, sizes(1, 32)
    if symbols:
        yield "normal", sizes(3, 32)
        yield "normal", sizes(2, 32)
    if has_other:
        for other in (33, 47, 64, 8, 224):
            yield "normal", sizes(1, other)
    for _ in range(2):
        yield "normal", sizes(1, 32)


def _symbol(name: str, axis: int, dim: Dim) -> str:
    """Key of a symbolic size; an unnamed one is a size of its own."""
    return dim if isinstance(dim, str) else f"{name}[{axis}]"


def _symbols(inputs: Mapping[str, TensorInfo]) -> Iterator[str]:
    for name, info in inputs.items():
        for axis, dim in enumerate(info.shape or ()):
            if not isinstance(dim, int) or dim <= 0:
                yield _symbol(name, axis, dim if isinstance(dim, str) else None)


def _shape(name: str, info: TensorInfo, bound: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(
        dim
        if isinstance(dim, int) and dim > 0
        else bound[_symbol(name, axis, dim if isinstance(dim, str) else None)]
        for axis, dim in enumerate(info.shape or ())
    )


def _fill(style: str, shape: tuple[int, ...], info: TensorInfo, rng: np.random.Generator) -> Array:
    dtype: Any = info.dtype.numpy() if info.dtype is not None else np.dtype(np.float32)
    if dtype == np.bool_:
        return np.asarray(rng.random(shape) < 0.5)
    if np.issubdtype(dtype, np.integer):
        limits = np.iinfo(dtype)
        low, high = _INTEGERS.get(style, (-128, 127))
        if high < limits.min:
            low, high = 0, 255
        low, high = max(low, int(limits.min)), min(high, int(limits.max))
        return np.asarray(rng.integers(low, high, shape, dtype=dtype, endpoint=True))
    if dtype == np.object_:
        return np.full(shape, "", dtype)
    match style:
        case "zeros":
            values = np.zeros(shape)
        case "negative":
            values = -np.abs(rng.standard_normal(shape)) - 0.1
        case "uniform 0..1":
            values = rng.random(shape)
        case "uniform 0..255":
            values = np.floor(rng.random(shape) * 256)
        case "border":
            values = rng.standard_normal(shape) * 3
            if len(shape) >= 3:
                inner = (slice(None), slice(None), *(slice(1, -1) for _ in shape[2:]))
                values[inner] = 0
        case _:
            values = rng.standard_normal(shape) * float(
                style.rpartition(" x ")[2] or 1 if " x " in style else 1
            )
    return np.asarray(values, dtype)


def first(model: Model) -> Case:
    """One ordinary input, for measuring latency."""
    return next(itertools.islice(cases(model), 1))
