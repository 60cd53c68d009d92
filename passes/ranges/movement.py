"""Operators that move, repeat or blend values: Concat, Split, Slice, Pad, Reshape, Resize ..."""

from __future__ import annotations

import numpy as np

from passes.ranges.constants import filled
from passes.ranges.interval import ZERO, Bounds, hull
from passes.ranges.rule import Result, Rules
from passes.ranges.step import Step, channels, elements, same_channels

MAX_CHANNELS = 2**20
"""A reshape that makes more channels than this keeps one interval for all of them."""

RULES = Rules()


@RULES.add("Identity", integers=True)
def _identity(step: Step) -> Result:
    return step.x()


@RULES.add("Dropout")
def _dropout(step: Step) -> Result:
    """The identity, unless it is in training mode or might be."""
    if step.version < 7 and not step.integer("is_test", 0):
        return None
    mode = step.array(2)
    if step.given(2) and (mode is None or mode.any()):
        return None
    return step.x()


@RULES.add("ConstantOfShape", integers=True)
def _constant_of_shape(step: Step) -> Result:
    return filled(step.node)


@RULES.add("Concat", integers=True)
def _concat(step: Step) -> Result:
    parts = range(len(step.node.inputs))
    axis = step.axis(step.integer("axis", 1))
    if axis != 1:
        return hull([step.x(i) if axis is not None else step.x(i).whole() for i in parts])
    lows, highs = [], []
    for index in parts:
        size = channels(step.shape(index))
        if not isinstance(size, int):
            return hull([step.x(i).whole() for i in parts])
        lows.append(np.broadcast_to(step.x(index).low, (size,)))
        highs.append(np.broadcast_to(step.x(index).high, (size,)))
    return Bounds(np.concatenate(lows), np.concatenate(highs))


@RULES.add("Split", integers=True)
def _split(step: Step) -> Result:
    """The channels of each output, from the sizes that shape inference found."""
    axis, x = step.axis(step.integer("axis", 0)), step.x()
    outputs = step.node.outputs
    if x.low.ndim == 0 or (axis is not None and axis != 1):
        return [x] * len(outputs)
    sizes = [channels(step.facts.info(output).shape) for output in outputs]
    known = [size for size in sizes if isinstance(size, int)]
    if axis is None or len(known) < len(sizes) or sum(known) != x.low.size:
        return [x.whole()] * len(outputs)
    ends = np.cumsum(known)
    return [
        Bounds(x.low[end - size : end], x.high[end - size : end])
        for end, size in zip(ends, known, strict=True)
    ]


@RULES.add("Slice", integers=True)
def _slice(step: Step) -> Result:
    x, shape = step.x(), step.shape()
    starts, ends = step.integers("starts", 1), step.integers("ends", 2)
    axes, steps = step.integers("axes", 3), step.integers("steps", 4)
    if axes is None and not step.given(3):
        count = _length(step, starts)
        axes = None if count is None else tuple(range(count))
    if axes is None or (shape is None and min(axes, default=0) < 0):
        return x.whole()
    places = [axis if axis >= 0 else axis + len(shape or ()) for axis in axes]
    if x.low.ndim == 0 or 1 not in places:
        return x
    if starts is None or ends is None or (steps is None and step.given(4)):
        return x.whole()
    at = places.index(1)
    chosen = slice(starts[at], ends[at], steps[at] if steps else 1)
    return Bounds(x.low[chosen], x.high[chosen])


def _length(step: Step, starts: tuple[int, ...] | None) -> int | None:
    """How many axes a Slice without `axes` cuts."""
    if starts is not None:
        return len(starts)
    shape = step.shape(1)
    return shape[0] if shape is not None and isinstance(shape[0], int) else None


@RULES.add("Pad", integers=True)
def _pad(step: Step) -> Result:
    """Mode `constant` puts its value into new channels and borders; the others repeat values."""
    x, shape = step.x(), step.shape()
    pads = step.integers("pads" if step.version >= 2 else "paddings", 1)
    new = step.text("mode", "constant") == "constant"
    fill = Bounds.point(step.number("value", 0.0))
    if step.version >= 11:
        fill = step.x(2).whole() if step.given(2) else ZERO
    axes = step.integers("axes", 3)
    if pads is None or shape is None or (axes is None and step.given(3)):
        return hull([x.whole(), fill]) if new else x.whole()
    places = [axis % len(shape) for axis in axes] if axes is not None else range(len(shape))
    amounts = {place: (pads[i], pads[i + len(places)]) for i, place in enumerate(places)}
    first, last = amounts.pop(1, (0, 0))
    if new and any(amount > 0 for pair in amounts.values() for amount in pair):
        x = hull([x, fill])
    if not first and not last:
        return x
    if not new or not isinstance(shape[1], int):
        return hull([x.whole(), fill]) if new else x.whole()
    sides = []
    for side, value in zip(x, fill, strict=True):
        kept = np.broadcast_to(side, (shape[1],))[max(-first, 0) : shape[1] - max(-last, 0)]
        sides.append(np.pad(kept, (max(first, 0), max(last, 0)), constant_values=float(value)))
    return Bounds(*sides)


@RULES.add("Reshape Flatten Squeeze Unsqueeze", integers=True)
def _reshape(step: Step) -> Result:
    """Per channel where the batch axis stays.

    The elements of one sample keep their order, so a new channel is a part of an old one, or
    several old ones.
    """
    x, old, new = step.x(), step.shape(), step.made.shape
    if x.low.ndim == 0 or old is None or new is None or min(len(old), len(new)) < 2:
        return x.whole()
    if old[0] is None or old[0] != new[0]:
        return x.whole()
    if same_channels(old, new):
        return x
    area, new_area = elements(old[2:]), elements(new[2:])
    read, made = old[1], new[1]
    if not (isinstance(read, int) and isinstance(made, int) and area and new_area):
        return x.whole()
    if read * area != made * new_area or made > MAX_CHANNELS:
        return x.whole()
    if area % new_area == 0:
        return Bounds(*(np.repeat(side, area // new_area) for side in x))
    if new_area % area == 0:
        low, high = (side.reshape(made, new_area // area) for side in x)
        return Bounds(low.min(axis=1), high.max(axis=1))
    return x.whole()


@RULES.add("Transpose", integers=True)
def _transpose(step: Step) -> Result:
    order = step.integers("perm")
    return step.x() if order is not None and len(order) > 1 and order[1] == 1 else step.x().whole()


@RULES.add("Gather", integers=True)
def _gather(step: Step) -> Result:
    x, axis, indices = step.x(), step.axis(step.integer("axis", 0)), step.array(1)
    if axis is not None and axis >= 2:
        return x
    if axis != 1 or indices is None or indices.ndim != 1 or x.low.ndim == 0:
        return x.whole()
    return Bounds(x.low[indices], x.high[indices])


@RULES.add("Expand Tile", integers=True)
def _expand(step: Step) -> Result:
    """Per channel where neither the rank nor the number of channels changes."""
    old, new = step.shape(), step.made.shape
    if old is None or new is None or len(old) != len(new) or len(old) < 2:
        return step.x().whole()
    return step.x() if same_channels(old, new) else step.x().whole()


@RULES.add("DepthToSpace SpaceToDepth GatherElements GatherND", integers=True)
def _rearrange(step: Step) -> Result:
    return step.x().whole()


@RULES.add("Resize Upsample")
def _resize(step: Step) -> Result:
    """Nearest picks values; linear mixes them by weights >= 0 that sum to 1; cubic overshoots."""
    mode = step.text("mode", "nearest")
    if mode not in ("nearest", "linear", "bilinear"):
        return None
    x = step.x() if _keeps_channels(step) else step.x().whole()
    if step.text("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize":
        outside = step.number("extrapolation_value", 0.0)
        x = hull([x, Bounds.point(outside)])
    return x if mode == "nearest" else step.rounded(x, 16)


def _keeps_channels(step: Step) -> bool:
    """Whether a Resize leaves axis 1 as it is."""
    old, new = step.shape(), step.made.shape
    axes = step.integers("axes")
    if axes is not None and old is not None and all(axis % len(old) >= 2 for axis in axes):
        return True
    if axes is not None:
        return False
    if step.given(3):
        same = old is not None and new is not None and same_channels(old, new)
        return same and step.text("keep_aspect_ratio_policy", "stretch") == "stretch"
    listed = step.node.attributes.get_floats("scales")
    modern = step.node.op_type == "Resize" and step.version >= 11
    array = step.array(2 if modern else 1) if listed is None else np.asarray(listed)
    return array is not None and array.size > 1 and float(array[1]) == 1.0
