"""What the subcommands share: output, progress, and the options that mean the same everywhere."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

Report = Callable[[str, float], None]

PATIENCE = 1.0
"""Seconds after which a running command shows its progress."""

ModelArgument = Annotated[Path, typer.Argument(help="An ONNX model.", show_default=False)]
TargetOption = Annotated[str, typer.Option("--target", help="What to count the cost for.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]


def out() -> Console:
    """Where results go. Wide where nobody looks (a file, a pipe), so that nothing is cut."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=160)


def print_json(record: Any) -> None:
    """Writes a record as JSON. Infinite numbers become null, which JSON can say."""
    json.dump(_finite(record), sys.stdout, indent=2, ensure_ascii=False)
    sys.stdout.write("\n")


def to_json(record: Any) -> str:
    """The text that `print_json` prints."""
    return json.dumps(_finite(record), indent=2, ensure_ascii=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value


@contextlib.contextmanager
def progress() -> Iterator[Report]:
    """A bar on the terminal's error stream, once something takes longer than `PATIENCE`."""
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    )
    task = bar.add_task("", total=1.0)
    start = time.monotonic()
    shown = False

    def report(text: str, share: float) -> None:
        nonlocal shown
        if not shown and console.is_terminal and time.monotonic() - start > PATIENCE:
            shown = True
            bar.start()
        bar.update(task, description=text, completed=share)

    try:
        yield report
    finally:
        if shown:
            bar.stop()
