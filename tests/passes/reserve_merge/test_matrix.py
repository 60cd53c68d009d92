"""Every cell of docs/reserve-merge-cells.md: rewritten within its tolerance, or refused as told."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from tests.conftest import REPOSITORY
from tests.support.matrix import Cell, cells, measure

DOCS = REPOSITORY / "docs"
CELLS = tuple(cells())


def _told() -> dict[tuple[str, ...], str]:
    """What the page says of each cell."""
    lines = (DOCS / "reserve-merge-cells.md").read_text().splitlines()
    rows = [[part.strip() for part in line.strip("|").split("|")] for line in lines if "|" in line]
    return {tuple(row[:5]): row[5] for row in rows[2:]}


TOLD = _told()


def _key(cell: Cell) -> tuple[str, ...]:
    return cell.kind, cell.activation, str(cell.stride), cell.padding, cell.carrier


def test_the_page_has_these_cells_and_enough_of_them() -> None:
    assert set(TOLD) == {_key(cell) for cell in CELLS}
    assert len(TOLD) >= 400
    assert sum(not verdict.startswith("refused") for verdict in TOLD.values()) >= 250


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_cell(cell: Cell) -> None:
    found = measure(cell)
    assert (found.verdict if found.removed else f"refused: {found.verdict}") == TOLD[_key(cell)]
    if found.removed:
        assert found.error is not None
        assert found.tolerance is not None
        assert found.error64 is not None
        assert found.error <= found.tolerance < 1e-3
        assert found.error64 <= 1e-12


def _tables() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tables", Path(DOCS / "tables.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_of_carriers_is_that_of_the_code() -> None:
    text: str = _tables().carriers()
    assert (DOCS / "carriers.md").read_text() == text
