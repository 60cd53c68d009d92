"""An estimate and its findings, for people and for CI.

| format | for whom |
|---|---|
| `table` | people |
| `json` | programs, and the baseline of a budget |
| `junit` | any CI: a test case for each limit |
| `sarif` | code scanning: a result for each limit that is broken |
| `github` | GitHub Actions: annotations (`markdown` is the text of its job summary) |

Names come from the model, so every format escapes them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from graphopt.errors import GraphoptError
from hwmodel.budget import Finding
from hwmodel.estimates import Estimate
from hwmodel.report import ci, table
from hwmodel.report.summary import markdown

__all__ = ["FORMATS", "markdown", "render"]

_MACHINES: Mapping[str, Callable[[Estimate, Sequence[Finding], Path], str]] = {
    "json": ci.json_text,
    "junit": ci.junit,
    "sarif": ci.sarif,
    "github": ci.github,
}

FORMATS = ("table", *_MACHINES)
"""What `render` can make."""


def render(
    estimate: Estimate,
    findings: Sequence[Finding],
    form: str,
    *,
    model_path: Path,
    everything: bool = False,
) -> str:
    """The text of one format.

    Args:
        estimate: what was found.
        findings: the limits that were checked.
        form: one of `FORMATS`.
        model_path: the model, as the user wrote it.
        everything: in a table, every layer and FIFO.

    Raises:
        GraphoptError: no such format.
    """
    if form == "table":
        return table.text(estimate, findings, model_path, everything=everything)
    if form in _MACHINES:
        return _MACHINES[form](estimate, findings, model_path)
    raise GraphoptError(f"'{form}' is no format: use {', '.join(FORMATS)}.")
