"""An ONNX graph as a design of streaming kernels, unfolded (PE = SIMD = 1).

| module | what it holds |
|---|---|
| `precision` | element types: from quantizers and annotations, or as the user gives them |
| `layout` | in which order a stream carries a tensor |
| `mapping` | the operators and their kernels |
"""

from hwmodel.dataflow.mapping import Mapped, UnsupportedLayer, cleaned, map_model, mapped
from hwmodel.dataflow.precision import Bits

__all__ = ["Bits", "Mapped", "UnsupportedLayer", "cleaned", "map_model", "mapped"]
