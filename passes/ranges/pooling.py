"""Pooling and reduction: extremes, means and sums over windows or axes."""

from __future__ import annotations

import math

import numpy as np

from passes.ranges.interval import ZERO, Bounds, hull, product
from passes.ranges.rule import Result, Rules
from passes.ranges.step import Step, elements

RULES = Rules()


@RULES.add("MaxPool", integers=True)
def _max_pool(step: Step) -> Result:
    """Padding never wins; except where a dilated window may miss the tensor altogether."""
    dilated = any(d != 1 for d in step.integers("dilations") or ())
    padded = any(step.integers("pads") or ()) or step.text("auto_pad", "NOTSET")[:4] == "SAME"
    x = step.x()
    return Bounds.of(-np.inf, x.high) if dilated and padded else x


@RULES.add("GlobalMaxPool", integers=True)
def _global_max_pool(step: Step) -> Result:
    return step.x()


@RULES.add("AveragePool")
def _average_pool(step: Step) -> Result:
    """A mean over the window. Border windows divide by fewer, or read zeros."""
    x = step.x()
    if step.integer("count_include_pad", 0) or step.integer("ceil_mode", 0):
        x = hull([x, ZERO])
    window = math.prod(step.integers("kernel_shape") or (0,))
    return step.rounded(x, window + 1) if window else None


@RULES.add("GlobalAveragePool")
def _global_average_pool(step: Step) -> Result:
    shape = step.shape()
    return _averaged(step, step.x(), None if shape is None else elements(shape[2:]))


@RULES.add("ReduceMean ReduceMax ReduceMin ReduceSum")
def _reduce(step: Step) -> Result:
    """Per channel while axes 0 and 1 stay."""
    shape, axes = step.shape(), step.integers("axes", 1)
    count, keeps = None, False
    if axes is not None or not step.given(1):
        if not axes and step.integer("noop_with_empty_axes", 0):
            return step.x()
        if shape is not None:
            reduced = {axis % len(shape) for axis in axes or range(len(shape))}
            count = elements([shape[axis] for axis in reduced])
            keeps = min(reduced, default=2) >= 2
    x = step.x() if keeps else step.x().whole()
    match step.node.op_type:
        case "ReduceMean":
            return _averaged(step, x, count)
        case "ReduceSum" if count is not None:
            return step.rounded(product(x, Bounds.point(count)), count)
        case "ReduceSum":
            return _signs(x)
        case _:
            return x


def _averaged(step: Step, x: Bounds, count: int | None) -> Bounds:
    return _signs(x) if count is None else step.rounded(x, count + 1)


def _signs(x: Bounds) -> Bounds:
    """All that is sure of a sum or mean of unknown length in floats."""
    return Bounds.of(np.where(x.low >= 0, 0.0, -np.inf), np.where(x.high <= 0, 0.0, np.inf))
