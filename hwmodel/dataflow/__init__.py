"""An ONNX graph as a design of streaming kernels, unfolded (PE = SIMD = 1).

| module | what it holds |
|---|---|
| `precision` | element types: from quantizers and annotations, or as the user gives them |
| `mapping` | the operators and their kernels |
"""

from hwmodel.dataflow.mapping import UnsupportedLayer, cleaned, map_model
from hwmodel.dataflow.precision import Bits

__all__ = ["Bits", "UnsupportedLayer", "cleaned", "map_model"]
