"""Installed packages that plug into graphopt, made on the spot; and graphopt in a process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

Finished = subprocess.CompletedProcess[str]


def package(folder: Path, name: str, source: str, **groups: str) -> Path:
    """Lays down what `pip install --target folder` leaves of a package with one module.

    Args:
        folder: a folder for `PYTHONPATH` or `sys.path`.
        name: of the distribution and of its module.
        source: text of the module.
        groups: `passes="name = module:attribute"` and so on, one entry per line.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.py").write_text(source)
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = [f"[graphopt.{group}]\n{entries}\n" for group, entries in groups.items()]
    (info / "entry_points.txt").write_text("\n".join(lines))
    return folder


def graphopt(
    *arguments: object, cwd: Path, path: Path | None = None, python: tuple[str, ...] = ()
) -> Finished:
    """Runs `python -m graphopt` in a folder, to its end.

    Args:
        arguments: of the command.
        cwd: where; `python -m` looks for modules there first.
        path: put on `PYTHONPATH`.
        python: options of the interpreter; `-m graphopt` by default.
    """
    return subprocess.run(
        [sys.executable, *(python or ("-m", "graphopt")), *map(str, arguments)],
        cwd=cwd,
        env=environment(path),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def environment(path: Path | None = None) -> dict[str, str]:
    """The environment of a child: one thread, no colours, `path` as `PYTHONPATH`."""
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "COLUMNS")}
    more = {"OMP_NUM_THREADS": "1", "NO_COLOR": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    return kept | more | ({"PYTHONPATH": str(path)} if path is not None else {})


def one_line(text: str) -> str:
    """The only line of `text`, which must be an error of graphopt's."""
    (line,) = text.splitlines()
    assert line.startswith("graphopt: "), line
    assert "Traceback" not in line
    return line
