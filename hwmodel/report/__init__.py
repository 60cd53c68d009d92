"""An estimate and its findings, for people and for CI.

| format | for whom |
|---|---|
| `table` | people |
| `json` | programs, and the baseline of a budget |
| `junit` | any CI: a test case for each limit |
| `sarif` | code scanning: a result for each limit that is broken |
| `github` | GitHub Actions: annotations |

Names come from the model, so every format escapes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from graphopt.errors import GraphoptError
from hwmodel.budget import Finding
from hwmodel.estimates import Estimate
from hwmodel.report import ci, table

FORMATS = ("table", "json", "junit", "sarif", "github")


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
    match form:
        case "table":
            return table.text(estimate, findings, model_path, everything=everything)
        case "json":
            return ci.json_text(estimate, findings)
        case "junit":
            return ci.junit(estimate, findings, model_path)
        case "sarif":
            return ci.sarif(estimate, findings, model_path)
        case "github":
            return ci.github(estimate, findings, model_path)
    raise GraphoptError(f"'{form}' is no format: use {', '.join(FORMATS)}.")
