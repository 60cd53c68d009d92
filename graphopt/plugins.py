"""Plug-ins, found by entry point: passes, analyses, presets, cost models and subcommands.

The host imports no plug-in by name; graphopt's own `passes` and `hwmodel` come in by the same door
as a stranger's package.
"""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import graphopt
from graphopt.errors import PipelineError

OWN_PACKAGES = ("passes", "hwmodel", "training_hooks")
"""Import packages that are installed with graphopt and that a user's folder could hide."""


class Plugin:
    """One entry point, loaded when it is needed."""

    def __init__(self, entry: EntryPoint) -> None:
        self.name = entry.name
        self._entry = entry

    def load(self) -> Any:
        """The object behind the entry point.

        Raises:
            PipelineError: it cannot be imported, or a folder of the user's hides our package.
        """
        check_not_shadowed(self._entry.module.partition(".")[0])
        try:
            return self._entry.load()
        except Exception as error:  # whatever a stranger's module raises while it is imported
            text = " ".join(str(error).split())
            raise PipelineError(
                f"the plug-in '{self.name}' ({self._entry.value}) cannot be loaded: "
                f"{type(error).__name__}: {text}; install its package again, or remove it."
            ) from error


def check_not_shadowed(package: str) -> None:
    """Refuses to go on where a folder of the user's hides one of our packages.

    Raises:
        PipelineError: naming the folder and the cure.
    """
    if package not in OWN_PACKAGES:
        return
    ours = Path(graphopt.__file__).resolve().parent.parent / package
    spec = importlib.util.find_spec(package)
    where = Path(spec.origin).resolve() if spec is not None and spec.origin else None
    if where is not None and not where.is_relative_to(ours):
        hiding = where.parent if where.name == "__init__.py" else where
        raise PipelineError(
            f"{hiding} hides graphopt's own package '{package}': rename it, or start graphopt from "
            "another folder and keep that folder out of PYTHONPATH."
        )


def _plugins(group: str) -> dict[str, Plugin]:
    found: dict[str, Plugin] = {}
    values: dict[str, str] = {}
    for entry in entry_points(group=group):
        if entry.name in found and values[entry.name] != entry.value:
            raise PipelineError(
                f"two plug-ins are called '{entry.name}' ({values[entry.name]} and {entry.value}): "
                "uninstall one of them."
            )
        found[entry.name] = Plugin(entry)
        values[entry.name] = entry.value
    return dict(sorted(found.items()))


def passes() -> dict[str, Plugin]:
    """Installed passes by name."""
    return _plugins("graphopt.passes")


def analyses() -> dict[str, Plugin]:
    """Installed analyses by name. Each loads to a frozen dataclass with defaults for all fields."""
    return _plugins("graphopt.analyses")


def presets() -> dict[str, Plugin]:
    """Named pipelines. Each loads to the text of a pipeline."""
    return _plugins("graphopt.presets")


def cost_models() -> dict[str, Plugin]:
    """Installed cost models beside the host's own. Each loads to a class to be called without
    arguments.
    """
    return _plugins("graphopt.cost_models")


def commands() -> dict[str, Plugin]:
    """Subcommands of plug-ins. Each loads to a function that typer can take."""
    return _plugins("graphopt.commands")


def analysis(name: str) -> Any:
    """The installed analysis called `name`.

    Raises:
        PipelineError: there is none.
    """
    known = analyses()
    if name not in known:
        raise PipelineError(
            f"no analysis is called '{name}'{suggestion(name, known)}: reinstall graphopt if it is "
            "one of its own."
        )
    return known[name].load()()


def preset(name: str) -> str:
    """The pipeline text of a preset.

    Raises:
        PipelineError: there is no such preset.
    """
    known = presets()
    if name not in known:
        raise PipelineError(
            f"no preset is called '{name}'{suggestion(name, known)}; there are: {', '.join(known)}."
        )
    return str(known[name].load())


def suggestion(word: str, known: Iterable[str]) -> str:
    """` (did you mean 'x'?)` where a known word is close, else nothing."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean '{close[0]}'?)" if close else ""
