"""`Refused`: why something was not done."""

from __future__ import annotations


class Refused(Exception):
    """A condition of a rewrite does not hold, or cannot be proved.

    Attributes:
        code: short stable word for the kind of reason.
    """

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code
