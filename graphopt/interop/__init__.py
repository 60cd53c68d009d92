"""Models of other libraries: graphsurgeon's `Graph` and qonnx's `ModelWrapper`, there and back."""

from __future__ import annotations

from typing import Any, Literal

import onnx

Kind = Literal["graphsurgeon", "qonnx"]


def to_proto(source: Any) -> tuple[onnx.ModelProto, Kind]:
    """The protobuf of a foreign model, and the library it came from.

    Raises:
        TypeError: it is of no kind that graphopt knows.
    """
    library = type(source).__module__.partition(".")[0]
    if library == "onnx_graphsurgeon":
        from graphopt.interop import graphsurgeon

        return graphsurgeon.to_proto(source), "graphsurgeon"
    if library == "qonnx":
        from graphopt.interop import qonnx

        return qonnx.to_proto(source), "qonnx"
    raise TypeError(
        f"cannot read a model from {type(source).__qualname__}: give a path, bytes, an "
        "onnx.ModelProto, an onnx_ir.Model, a graphsurgeon Graph or a qonnx ModelWrapper"
    )


def from_proto(proto: onnx.ModelProto, kind: str) -> Any:
    """The inverse of `to_proto` for `kind`."""
    if kind == "graphsurgeon":
        from graphopt.interop import graphsurgeon

        return graphsurgeon.from_proto(proto)
    from graphopt.interop import qonnx

    return qonnx.from_proto(proto)
