"""What an element type says by itself: how floats round, which numbers an integer holds."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from onnx_ir import DataType

from passes.ranges.interval import Bounds


class Float(NamedTuple):
    """A float format: its unit roundoff, what an underflow may lose, its largest number."""

    unit: float
    tiny: float
    largest: float


FLOATS: dict[DataType | None, Float] = {
    DataType.DOUBLE: Float(2.0**-53, 2.0**-1022, float(np.finfo(np.float64).max)),
    DataType.FLOAT: Float(2.0**-24, 2.0**-126, float(np.finfo(np.float32).max)),
    DataType.FLOAT16: Float(2.0**-11, 2.0**-24, 65504.0),
    DataType.BFLOAT16: Float(2.0**-8, 2.0**-126, (2 - 2.0**-7) * 2.0**127),
}


def _whole_numbers(dtype: DataType) -> Bounds | None:
    if dtype == DataType.BOOL:
        return Bounds.of(0, 1)
    if not dtype.is_integer():
        return None
    if not dtype.is_signed():
        return Bounds.of(0, 2.0**dtype.bitwidth - 1)
    reach = 2.0 ** (dtype.bitwidth - 1)
    return Bounds.of(-reach, reach - 1) if dtype.bitwidth <= 16 else None


INTEGERS: dict[DataType | None, Bounds] = {
    dtype: bounds for dtype in DataType if (bounds := _whole_numbers(dtype)) is not None
}
"""Bounds that an element type sets by itself. Signed integers above 16 bits count as unbounded."""
