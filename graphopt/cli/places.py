"""Where the subcommands write."""

from __future__ import annotations

import os
from pathlib import Path

from graphopt.errors import ModelError


def check_place(place: Path, model: Path) -> None:
    """Refuses, before anything takes long, what could not be written in the end.

    Raises:
        ModelError: `place` is a folder or the input, or no file can be made there.
    """
    if place.is_dir():
        raise ModelError(f"{place} is a folder: name a file for the output.")
    if place.exists() and model.exists() and place.samefile(model):
        raise ModelError(
            f"{place} is the input model, which is never overwritten: choose another file."
        )
    above = next(folder for folder in place.absolute().parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        why = "may not be written" if above.is_dir() else "is no folder"
        raise ModelError(f"{place} cannot be written: {above} {why}.")


def write_text(report: Path, text: str) -> None:
    """Writes a text whole or not at all.

    Raises:
        ModelError: it cannot be written.
    """
    from graphopt.ir import write_whole

    try:
        report.parent.mkdir(parents=True, exist_ok=True)
        write_whole(report, text.encode())
    except OSError as error:
        raise ModelError(f"{report} cannot be written: {error.strerror or error}.") from error


def append_text(path: Path, text: str) -> None:
    """Adds to a text file.

    Raises:
        ModelError: it cannot be written.
    """
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise ModelError(f"{path} cannot be written: {error.strerror}.") from None
