from __future__ import annotations

RULES = Rules()


class Float(NamedTuple):
    """A float format: its unit roundoff, what an underflow may lose, its largest number."""

    unit: float
    tiny: float
    largest: float


FLOATS = {
    onnx_ir.DataType.DOUBLE: Float(2.0**-53, 2.0**-1022, float(np.finfo(np.float64).max)),
    onnx_ir.DataType.FLOAT: Float(2.0**-24, 2.0**-126, float(np.finfo(np.float32).max)),
    onnx_ir.DataType.FLOAT16: Float(2.0**-11, 2.0**-24, 65504.0),
    onnx_ir.DataType.BFLOAT16: Float(2.0**-8, 2.0**-126, (2 - 2.0**-7) * 2.0**127),
}


INTEGERS: dict[onnx_ir.DataType, Bounds] = {
    onnx_ir.DataType.BOOL: Bounds.of(0, 1),
    **{
        onnx_ir.DataType[f"UINT{bits}"]: Bounds.of(0, 2.0**bits - 1)
        for bits in (2, 4, 8, 16, 32, 64)
        if f"UINT{bits}" in onnx_ir.DataType.__members__
    },
    **{
        onnx_ir.DataType[f"INT{bits}"]: Bounds.of(-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1)
        for bits in (2, 4, 8, 16)
        if f"INT{bits}" in onnx_ir.DataType.__members__
    },
}
