"""Operators by what the order of axes is to them, and the order that a Transpose leads to."""

from __future__ import annotations

import onnx_ir

from passes.layout.orders import Perm

_QONNX = ("qonnx.custom_op.general", "onnx.brevitas", "finn.custom_op.general")

ELEMENTWISE = frozenset(
    {
        ("", operator)
        for operator in "Abs Acos Acosh Add And Asin Asinh Atan Atanh BitShift BitwiseAnd "
        "BitwiseNot BitwiseOr BitwiseXor Cast Ceil Celu Clip Cos Cosh Div Dropout Elu Equal Erf "
        "Exp Floor Gelu Greater GreaterOrEqual HardSigmoid HardSwish Identity IsInf IsNaN "
        "LeakyRelu Less LessOrEqual Log Max Mean Min Mish Mod Mul Neg Not Or PRelu Pow "
        "Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin Sinh Softplus Softsign Sqrt Sub Sum "
        "Swish Tan Tanh ThresholdedRelu Where Xor".split()
    }
    | {
        ("com.microsoft", operator)
        for operator in "Gelu QuickGelu QLinearAdd QLinearMul QLinearSigmoid "
        "QLinearLeakyRelu".split()
    }
    | {(domain, name) for domain in _QONNX for name in "Quant BipolarQuant IntQuant Trunc".split()}
)
"""Operators that compute each element by itself, all inputs broadcast against each other."""

RANK_OF_FIRST = frozenset(
    "AveragePool BatchNormalization Concat Conv ConvTranspose GlobalAveragePool GlobalMaxPool "
    "LogSoftmax MaxPool Pad Slice Softmax Split".split()
)
"""Operators whose outputs have as many axes as their first input."""

CHANNELS_FIRST = frozenset(
    ("", operator)
    for operator in "AveragePool Conv ConvInteger ConvTranspose GlobalAveragePool GlobalMaxPool "
    "MaxPool QLinearConv".split()
)
"""Operators whose order of axes others had better share."""


def operator_of(node: onnx_ir.Node) -> tuple[str, str]:
    """Domain and type of a node; the domain of ONNX is empty."""
    return ("" if node.domain == "ai.onnx" else node.domain, node.op_type)


def perm_of(node: onnx_ir.Node, rank: int | None = None) -> Perm | None:
    """The `perm` of a Transpose; None for another node, or where it is neither given nor known."""
    if operator_of(node) != ("", "Transpose"):
        return None
    perm = tuple(node.attributes.get_ints("perm", ()) or ())
    if not perm and rank is not None:
        return tuple(reversed(range(rank)))
    return perm if sorted(perm) == list(range(len(perm))) and rank in (None, len(perm)) else None
