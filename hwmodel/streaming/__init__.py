"""The `streaming` backend: LUTs, flip-flops, block RAM and DSPs of a kernel.

Memories, registers and DSPs follow from the structure of FINN's RTL and HLS; what does not is a
small sum of counts times coefficients, fitted to Vivado results (data/streaming.toml, which says
on what and how well; `benchmarks/vivado_resources.py` repeats the fit on a held-out split).

| module | what |
|---|---|
| `terms` | `resources`, `fitted`, `terms` (register other kernels there) |
| `fabric` | block RAM shapes, LUT memories, counters, multiplexers by family |
| `window`, `matrix`, `threshold`, `plumbing`, `pooling` | the kernels |
"""

from hwmodel.streaming import matrix, plumbing, pooling, threshold, window
from hwmodel.streaming.terms import (
    Coefficients,
    Part,
    Terms,
    coefficients,
    fitted,
    resources,
    terms,
)

__all__ = [
    "Coefficients",
    "Part",
    "Terms",
    "coefficients",
    "fitted",
    "matrix",
    "plumbing",
    "pooling",
    "resources",
    "terms",
    "threshold",
    "window",
]
