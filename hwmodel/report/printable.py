"""Names of a model, made safe to show."""

from __future__ import annotations


def printable(text: str) -> str:
    """The text with `?` for what is no character to see.

    Control characters, line breaks, marks that turn the direction of writing, and halves of
    surrogate pairs go, so that a name can neither steer a terminal nor end a line.
    """
    return "".join(c if c.isprintable() else "?" for c in text)
