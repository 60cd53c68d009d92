"""graphopt: finds the skip connections of an ONNX model, and removes those that are worth it.

    import graphopt

    outcome = graphopt.optimize("model.onnx", preset="plain")
    graphopt.save(outcome.model, "model.plain.onnx")

Submodules load when they are first used, so that importing the package costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graphopt.errors import GraphoptError
    from graphopt.ir import Model, save
    from graphopt.optimizer import Outcome, optimize
    from graphopt.pipeline import Pipeline

__version__ = "0.1.0"
__all__ = ["GraphoptError", "Model", "Outcome", "Pipeline", "optimize", "save"]

_HOMES = {
    "GraphoptError": "graphopt.errors",
    "Model": "graphopt.ir",
    "Outcome": "graphopt.optimizer",
    "Pipeline": "graphopt.pipeline",
    "optimize": "graphopt.optimizer",
    "save": "graphopt.ir",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'graphopt' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
