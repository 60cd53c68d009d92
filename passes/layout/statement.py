"""Names, types, shapes and annotations: what a model says about a tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import onnx_ir

from graphopt.ir.model import node_label
from passes.layout.orders import Perm

ANNOTATION = "quant_parameter_tensor_names"


@dataclass(frozen=True, eq=False)
class Statement:
    """What the model shall say about a tensor."""

    value: onnx_ir.Value
    name: str
    type: onnx_ir.TypeProtocol | None
    shape: onnx_ir.Shape | None
    doc_string: str | None
    meta: dict[str, Any]
    properties: dict[str, str]

    def apply(self) -> None:
        """Says it. A node without a name goes by that of its output, so it is given one."""
        value, node = self.value, self.value.producer()
        if node is not None and value.name:
            node.name = node_label(node)
        value.name, value.type, value.shape = self.name, self.type, self.shape
        value.doc_string = self.doc_string
        for new, old in ((self.meta, value.meta), (self.properties, value.metadata_props)):
            old.clear()
            old.update(new)


def turned_annotation(annotation: dict[str, str], perm: Perm) -> dict[str, str]:
    """A quantization annotation after a Transpose: QONNX keeps a letter for each axis there."""
    layout = annotation.get("tensor_layout", "").strip("[]").split(",")
    if len(layout) != len(perm):
        return annotation
    letters = ", ".join(layout[axis].strip() for axis in perm)
    return annotation | {"tensor_layout": f"[{letters}]"}
