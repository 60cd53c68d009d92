"""A qonnx `Transformation` that runs graphopt's passes, where both live in one environment.

    model = model.transform(Optimize("finn"))

Where FINN lives in an environment of its own, the build steps of `build` do the same.
"""

from __future__ import annotations

from typing import Any

from qonnx.transformation.base import Transformation

from graphopt.optimizer import optimize


class Optimize(Transformation):  # type: ignore[misc]  # qonnx ships no types
    """Runs a preset or a pipeline on a model; the result is verified against what was given.

    qonnx applies a transformation until it changes nothing more; ours does nothing the second time.

    Args:
        preset: a named pipeline.
        pipeline: passes as text; overrides `preset`.
    """

    def __init__(self, preset: str = "finn", *, pipeline: str | None = None) -> None:
        super().__init__()
        self.preset, self.pipeline = preset, pipeline

    def apply(self, model: Any) -> tuple[Any, bool]:
        """The optimized model, a `ModelWrapper` again, and whether anything changed.

        Raises:
            GraphoptError: a pass is unknown or fails, or the result is not equivalent.
        """
        outcome = optimize(model, preset=self.preset, pipeline=self.pipeline)
        return (outcome.model.restore(), True) if outcome.changed else (model, False)
