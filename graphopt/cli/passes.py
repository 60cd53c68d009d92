"""`graphopt passes`."""

from __future__ import annotations

import dataclasses
import typing
from typing import Any, Literal

from graphopt.cli.console import JsonOption, out, print_json


def passes(json: JsonOption = False) -> None:
    """List the installed passes with their options, the presets and the analyses."""
    from graphopt import plugins
    from graphopt.report.tables import table

    loaded = {name: plugin.load() for name, plugin in plugins.passes().items()}
    described: list[dict[str, Any]] = [
        {"name": name, "summary": _summary(factory), "options": _options(factory)}
        for name, factory in loaded.items()
    ]
    presets = {name: str(plugin.load()) for name, plugin in plugins.presets().items()}
    analyses = {n: _summary(plugin.load()) for n, plugin in plugins.analyses().items()}
    if json:
        print_json({"passes": described, "presets": presets, "analyses": analyses})
        return
    console = out()
    shown = table("Passes", "pass", "what it does", "options (default first)")
    for entry in described:
        options = "\n".join(f"{o['name']}={o['values']}" for o in entry["options"])
        shown.add_row(entry["name"], entry["summary"], options)
    console.print(shown)
    named = table("Presets", "preset", "pipeline")
    for name, text in presets.items():
        named.add_row(name, text)
    console.print(named)
    known = table("Analyses", "analysis", "what it finds")
    for name, summary in analyses.items():
        known.add_row(name, summary)
    console.print(known)


def _summary(factory: Any) -> str:
    """The first sentence of the docstring."""
    text = (factory.__doc__ or "").strip().split("\n\n")[0]
    return " ".join(text.split())


def _options(factory: Any) -> list[dict[str, str]]:
    hints = typing.get_type_hints(factory)
    made = []
    for spec in dataclasses.fields(factory):
        hint = hints[spec.name]
        values = str(spec.default)
        if typing.get_origin(hint) is Literal:
            others = [str(v) for v in typing.get_args(hint) if v != spec.default]
            values = "|".join([str(spec.default), *others])
        made.append({"name": spec.name, "values": values})
    return made
