"""Pipelines as text: `fold-norm,reserve-merge{form=grouped},linear-fusion,dce`."""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Iterator
from typing import Any, Literal

from graphopt.errors import PipelineError
from graphopt.pipeline.passes import Pass
from graphopt.plugins import suggestion

_ITEM = re.compile(r"\s*([a-zA-Z][\w-]*)\s*(?:\{([^{}]*)\})?\s*(,|$)")


def parse(text: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Splits a pipeline into pass names and their options as written.

    Raises:
        PipelineError: the text is not a pipeline; the message shows where.
    """
    position = 0
    stripped = text.strip()
    if not stripped:
        raise PipelineError("the pipeline is empty: name at least one pass (graphopt passes).")
    while position < len(stripped):
        match = _ITEM.match(stripped, position)
        if match is None or (match.end() == len(stripped) and match[3] == ","):
            there = " ".join(stripped[position : position + 24].split())
            raise PipelineError(
                f"cannot read the pipeline at '{there}': write pass-name{{option=value,...}} "
                "separated by commas."
            )
        yield match[1], _options(match[1], match[2])
        position = match.end()


def _options(name: str, text: str | None) -> dict[str, str]:
    options: dict[str, str] = {}
    for item in filter(None, (part.strip() for part in (text or "").split(","))):
        key, equals, value = (part.strip() for part in item.partition("="))
        if not equals or not key or not value:
            raise PipelineError(f"{name}: option '{item}' is not of the form name=value.")
        if key in options:
            raise PipelineError(f"{name}: option '{key}' is given twice.")
        options[key.replace("-", "_")] = value
    return options


def build(factory: type[Any], options: dict[str, str]) -> Pass:
    """An instance of a pass from its options as written.

    Raises:
        PipelineError: an option is unknown or missing, or its value is of the wrong type.
    """
    hints = typing.get_type_hints(factory)
    fields = {f.name: hints[f.name] for f in dataclasses.fields(factory) if f.init}
    values: dict[str, Any] = {}
    for key, text in options.items():
        if key not in fields:
            raise PipelineError(
                f"{factory.name} has no option '{key}'{suggestion(key, fields)}; it has: "
                f"{', '.join(sorted(fields)) or 'none'}."
            )
        values[key] = _value(factory.name, key, text, fields[key])
    for spec in dataclasses.fields(factory):
        optional = spec.default is not dataclasses.MISSING
        optional |= spec.default_factory is not dataclasses.MISSING
        if spec.init and not optional and spec.name not in values:
            raise PipelineError(f"{factory.name} needs the option '{spec.name}'.")
    try:
        made: Pass = factory(**values)
    except ValueError as error:
        raise PipelineError(f"{factory.name}: {error}") from error
    return made


def _value(owner: str, key: str, text: str, hint: Any) -> Any:
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        if text == "none" and type(None) in typing.get_args(hint):
            return None
        hint = next(option for option in typing.get_args(hint) if option is not type(None))
    if typing.get_origin(hint) is Literal:
        choices = {str(choice): choice for choice in typing.get_args(hint)}
        if text in choices:
            return choices[text]
        raise PipelineError(
            f"{owner}: {key}={text} is not possible: choose one of {', '.join(choices)}."
        )
    try:
        if hint is bool:
            return {"true": True, "false": False}[text.lower()]
        return hint(text)
    except (KeyError, ValueError):
        raise PipelineError(f"{owner}: {key}={text} is not a {hint.__name__}.") from None


def unparse(passes: typing.Iterable[Pass]) -> str:
    """The text of these passes, options at their default left out."""
    return ",".join(map(_item, passes))


def _item(one: Pass) -> str:
    options = []
    for spec in dataclasses.fields(one):  # type: ignore[arg-type]
        value = getattr(one, spec.name)
        if spec.init and value != spec.default:
            text = str(value).lower() if isinstance(value, bool) or value is None else str(value)
            options.append(f"{spec.name}={text}")
    return one.name + (f"{{{','.join(options)}}}" if options else "")
