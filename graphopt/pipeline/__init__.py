"""Passes, pipelines and what watches them run."""

from graphopt.pipeline.instruments import Instrument, PrintAfter, VerifyEach
from graphopt.pipeline.manager import PassRecord, Pipeline
from graphopt.pipeline.passes import Context, Pass, PassResult

__all__ = [
    "Context",
    "Instrument",
    "Pass",
    "PassRecord",
    "PassResult",
    "Pipeline",
    "PrintAfter",
    "VerifyEach",
]
