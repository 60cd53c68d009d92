"""Whether a rewrite that should save FIFO storage does so on the target, for a whole model."""

from __future__ import annotations

from graphopt.errors import GraphoptError
from graphopt.ir.model import Model
from graphopt.pipeline.passes import Context


def has_fifos(model: Model, context: Context) -> bool:
    """Whether the target streams, and can stream this model."""
    try:
        return context.cost.estimate(model, context.target).total.fifo_bits is not None
    except GraphoptError:
        return False


def why_not(before: Model, after: Model, context: Context) -> str | None:
    """Why `after` is no gain on the target; None where it is."""
    try:
        old, new = (context.cost.estimate(model, context.target).total for model in (before, after))
    except GraphoptError as error:
        return f"the target has no cost for it: {error}"
    verdict = context.cost.judge(old, new, context.target)
    if not verdict:
        return verdict.reason
    if (new.fifo_bits or 0) >= (old.fifo_bits or 0):
        return f"FIFOs hold {old.fifo_bits:,} bits before, {new.fifo_bits:,} after"
    return None
