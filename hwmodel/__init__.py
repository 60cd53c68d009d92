"""The hardware model: what a network costs as a streaming accelerator on an FPGA.

    from hwmodel import estimate
    estimate("model.onnx", "finn:ZCU104", bits="w4a4", fps=1000).resources

From the model down:

| module | what it holds |
|---|---|
| `dataflow` | an ONNX graph as kernels and streams (`Design`) |
| `folding` | parallelism: given, for frames a second, or the best within a budget |
| `fifo` | how deep each FIFO has to be |
| `simulate` | the token simulator, exact to the cycle; `truth` holds it against RTL |
| `streaming`, `memory`, `finn.formulas` | LUT, FF, BRAM, URAM, DSP |
| `estimator`, `estimates` | all of it together |
| `budget`, `report` | limits, and how to print |
| `devices` | FPGAs |
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hwmodel.design import Design
    from hwmodel.estimates import Estimate
    from hwmodel.estimator import estimate

__all__ = ["Design", "Estimate", "estimate"]

_HOMES = {
    "Design": "hwmodel.design",
    "Estimate": "hwmodel.estimates",
    "estimate": "hwmodel.estimator",
}


def __getattr__(name: str) -> Any:
    """Loads what is asked for: `import hwmodel` alone stays fast."""
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'hwmodel' has no attribute '{name}'")
