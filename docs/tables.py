"""Writes the tables of the documentation that follow from the code.

    python docs/tables.py

- docs/carriers.md: one row per carrier, from the objects themselves.
- docs/reserve-merge-cells.md: what becomes of every block kind with every activation, stride,
  padding and carrier, with the errors measured here and now.

The tests compare both with what the code does (the errors aside, which differ by machine).
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from passes.reserve_merge.carriers import CARRIERS, ON_REQUEST
from tests.support.matrix import Cell, Measured, cells, measure

DOCS = Path(__file__).parent


def carriers() -> str:
    rows = [
        "# Carriers",
        "",
        "How reserved channels survive an activation: written by `python docs/tables.py` from the "
        "objects in `passes/reserve_merge/carriers.py`, in the order in which they are tried. Of "
        "the valid ones, the one with the fewest channels is taken.",
        "",
        "| carrier | for | needs | exactness |",
        "|---|---|---|---|",
    ]
    rows += [
        f"| `{one.name}` | {one.serves} | {one.needs} | {one.exactness.value} |"
        for one in (*CARRIERS, *ON_REQUEST)
    ]
    return "\n".join([*rows, ""])


def row(cell: Cell, found: Measured) -> str:
    what = found.verdict if found.removed else f"refused: {found.verdict}"
    errors = (
        f"{found.error:.1e} of {found.tolerance:.1e} | {found.error64:.1e}"
        if found.removed
        else "- | -"
    )
    where = " | ".join((cell.kind, cell.activation, str(cell.stride), cell.padding, cell.carrier))
    return f"| {where} | {what} | {errors} |"


def matrix() -> str:
    found = [(cell, measure(cell)) for cell in cells()]
    gone = sum(one.removed for _, one in found)
    worst = max(one.error64 or 0.0 for _, one in found)
    rows = [
        "# Every kind of block",
        "",
        f"{len(found)} cells: {gone} rewritten, {len(found) - gone} refused with a code (explained "
        "in [reserve-merge.md](reserve-merge.md)). The worst error in float64 is "
        f"{worst:.1e} of the largest value; in float32 each error stands beside the tolerance that "
        "was derived for it. Written by `python docs/tables.py`; "
        "`tests/passes/reserve_merge/test_matrix.py` holds every cell to it.",
        "",
        "| block | activation | stride | padding | carrier asked for | carried by | error, float32 "
        "| error, float64 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    return "\n".join([*rows, *(row(cell, one) for cell, one in found), ""])


if __name__ == "__main__":
    (DOCS / "carriers.md").write_text(carriers())
    (DOCS / "reserve-merge-cells.md").write_text(matrix())
