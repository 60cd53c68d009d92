"""The table of intervals that the analysis gives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from passes.ranges.interval import NOTHING, Interval


class RangeTable(Mapping[str, Interval]):
    """`Interval` by tensor name; an unbounded one for a name it does not hold.

    It holds every tensor that is computed at run time, and the constants that take part in
    elementwise operators and moves (not weights).
    """

    def __init__(self, table: Mapping[str, Interval]) -> None:
        self._table = dict(table)

    def __getitem__(self, name: str) -> Interval:
        return self._table.get(name, NOTHING)

    def __iter__(self) -> Iterator[str]:
        return iter(self._table)

    def __len__(self) -> int:
        return len(self._table)

    def __contains__(self, name: object) -> bool:
        return name in self._table
