"""Orders of axes: permutations, and which order of one thing goes with which of another.

An order of axes is written as the `perm` of the Transpose that leads to it. What goes together is
kept by union-find whose links carry permutations: path compression evaluates the product along a
path (Tarjan 1979, "Applications of Path Compression on Balanced Trees", JACM 26(4)).
"""

from __future__ import annotations

from typing import TypeAlias

Perm: TypeAlias = tuple[int, ...]


def identity(rank: int) -> Perm:
    """The order that is there."""
    return tuple(range(rank))


def then(first: Perm, second: Perm) -> Perm:
    """The Transpose that does `first` and then `second`."""
    return tuple(first[axis] for axis in second)


def inverse(perm: Perm) -> Perm:
    """The Transpose that undoes `perm`."""
    return tuple(perm.index(axis) for axis in range(len(perm)))


class Orders:
    """Which order of axes goes with which, from what has been joined (union-find)."""

    def __init__(self) -> None:
        self._up: dict[object, tuple[object, Perm]] = {}

    def add(self, item: object, rank: int) -> None:
        """An item that goes with none so far."""
        self._up.setdefault(item, (item, identity(rank)))

    def __contains__(self, item: object) -> bool:
        return item in self._up

    def find(self, item: object) -> tuple[object, Perm]:
        """The item that stands for all that go together, and what leads from it to `item`."""
        below: list[object] = []
        while self._up[item][0] is not item:
            below.append(item)
            item = self._up[item][0]
        whole = self._up[item][1]
        for one in reversed(below):
            whole = then(whole, self._up[one][1])
            self._up[one] = item, whole
        return item, whole

    def join(self, one: object, other: object, perm: Perm) -> bool:
        """Says that `perm` leads from `one` to `other`; False where that contradicts the rest."""
        (top, before), (root, behind) = self.find(one), self.find(other)
        whole = then(before, perm)
        if top is root:
            return whole == behind
        self._up[root] = top, then(whole, inverse(behind))
        return True
