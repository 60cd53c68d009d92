"""`Layout`: in which order a stream carries the elements of a tensor.

ONNX keeps an image as [N, C, H, W], a stream carries H, W, C. Both orders are written in atoms:
factors of the sizes that stay whole in either. A Transpose permutes the axes of the tensor and a
Reshape splits or joins them; neither moves an element of the stream, so both are free, and a
channel shuffle is a new order of the atoms in a pixel that the next layer's weights take in. What
a layer then has to check is whether the stream still suits it: a matrix product over an axis that
does not lie innermost would need a memory that turns the map.

One frame is one sample: the batch counts as 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, pairwise


class CannotReshape(Exception):
    """The new shape cuts an axis where no factor of its size lies."""


@dataclass(frozen=True)
class Layout:
    """Atoms are numbered in the order of the stream, the outermost first; none has size 1.

    Attributes:
        sizes: of the atoms.
        axes: for each axis of the tensor its atoms, the major one first.
    """

    sizes: tuple[int, ...]
    axes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, shape: Sequence[int], order: Sequence[int] | None = None) -> Layout:
        """The layout of a tensor whose axes come in this order, natural by default."""
        kept = [axis for axis in order or range(len(shape)) if shape[axis] != 1]
        place = {axis: index for index, axis in enumerate(kept)}
        axes = tuple((place[axis],) if axis in place else () for axis in range(len(shape)))
        return cls(tuple(shape[axis] for axis in kept), axes)

    @classmethod
    def of_map(cls, shape: Sequence[int], pixel: Layout | None = None) -> Layout:
        """The layout of [N, C, *spatial], channels innermost.

        Args:
            shape: of the tensor.
            pixel: a layout whose channels (axis 1) come in the order that these have.
        """
        rank = len(shape)
        if pixel is None or len(pixel.axes) < 2 or len(pixel.axes[1]) < 2:
            return cls.of(shape, (0, *range(2, rank), 1))
        channels = pixel.axes[1]
        spatial = [axis for axis in range(2, rank) if shape[axis] != 1]
        ordered = sorted(channels)
        place = {atom: len(spatial) + index for index, atom in enumerate(ordered)}
        axes: list[tuple[int, ...]] = [() for _ in shape]
        axes[1] = tuple(place[atom] for atom in channels)
        for index, axis in enumerate(spatial):
            axes[axis] = (index,)
        sizes = [shape[axis] for axis in spatial] + [pixel.sizes[atom] for atom in ordered]
        return cls(tuple(sizes), tuple(axes))

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the tensor."""
        return tuple(math.prod(self.sizes[atom] for atom in axis) for axis in self.axes)

    @property
    def is_map(self) -> bool:
        """Whether it is [N, C, *spatial] with whole pixels, in rows: what a window reads."""
        if len(self.axes) < 2:
            return False
        channels, *spatial = self.axes[1:]
        rows = list(chain(*spatial))
        return rows == sorted(rows) and (not rows or not channels or max(rows) < min(channels))

    def is_innermost(self, axis: int) -> bool:
        """Whether the elements along this axis follow each other, in whatever order."""
        atoms = self.axes[axis]
        return set(atoms) == set(range(len(self.sizes) - len(atoms), len(self.sizes)))

    @property
    def pixel(self) -> int:
        """Elements that follow each other along one axis, at the end of the stream."""
        last = len(self.sizes) - 1
        inner = next((set(axis) for axis in self.axes if last in axis), set())
        count = 1
        for atom in range(last, -1, -1):
            if atom not in inner:
                break
            count *= self.sizes[atom]
        return count

    def with_last(self, size: int) -> Layout:
        """What a product over the last axis, which lies innermost, makes of it."""
        outer = len(self.sizes) - len(self.axes[-1])
        last = () if size == 1 else (outer,)
        sizes = self.sizes[:outer] + (() if size == 1 else (size,))
        return Layout(sizes, (*self.axes[:-1], last))._merged()

    def transposed(self, perm: Sequence[int]) -> Layout:
        """After a Transpose."""
        return Layout(self.sizes, tuple(self.axes[axis] for axis in perm))._merged()

    def reshaped(self, shape: Sequence[int]) -> Layout:
        """After a Reshape to a shape of as many elements.

        Raises:
            CannotReshape: the shapes have no common factors to split the axes at.
        """
        if math.prod(shape) != math.prod(self.sizes):
            raise CannotReshape
        size: dict[int, int] = dict(enumerate(self.sizes))
        stream = list(size)
        waiting = list(chain(*self.axes))[::-1]
        axes: list[tuple[int, ...]] = []
        for wanted in shape:
            taken: list[int] = []
            while wanted > 1:
                atom = waiting.pop()
                if size[atom] > wanted:
                    if size[atom] % wanted:
                        raise CannotReshape
                    rest = len(size)
                    size[rest], size[atom] = size[atom] // wanted, wanted
                    stream.insert(stream.index(atom) + 1, rest)
                    waiting.append(rest)
                elif wanted % size[atom]:
                    raise CannotReshape
                taken.append(atom)
                wanted //= size[atom]
            axes.append(tuple(taken))
        place = {atom: index for index, atom in enumerate(stream)}
        renamed = tuple(tuple(place[atom] for atom in axis) for axis in axes)
        return Layout(tuple(size[atom] for atom in stream), renamed)._merged()

    def _merged(self) -> Layout:
        """Atoms that follow each other in the stream and in their axis become one."""
        follows = {b for axis in self.axes for a, b in pairwise(axis) if b == a + 1}
        place: dict[int, int] = {}
        sizes: list[int] = []
        for atom, size in enumerate(self.sizes):
            if atom in follows:
                sizes[-1] *= size
            else:
                sizes.append(size)
            place[atom] = len(sizes) - 1
        axes = tuple(tuple(place[a] for a in axis if a not in follows) for axis in self.axes)
        return Layout(tuple(sizes), axes)
