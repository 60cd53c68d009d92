"""What can go wrong in a way the user can mend.

Every error that graphopt raises on purpose is a `GraphoptError`: one sentence that names the
file, the node and the cure, and the exit code that the command leaves with.
"""

from __future__ import annotations

from typing import ClassVar


class GraphoptError(Exception):
    """A failure with a cure. `str(error)` is one sentence; no traceback is needed to act on it."""

    exit_code: ClassVar[int] = 2


class ModelError(GraphoptError):
    """The model cannot be read, is inconsistent, or uses what graphopt does not support."""


class PipelineError(GraphoptError):
    """The pipeline text, a pass name, an option or a plug-in is wrong."""


class TargetError(GraphoptError):
    """The target is unknown, or no installed cost model serves it."""


class PassFailed(GraphoptError):
    """A pass raised; the model is as it was before that pass."""


class NotEquivalent(GraphoptError):
    """The rewritten model does not compute what the original computes."""

    exit_code: ClassVar[int] = 1
