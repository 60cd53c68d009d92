"""How a channel that is constant goes through a channel-wise operator.

All arrays hold one number per *entry*: a channel is one entry of the axis that holds it, or a run
of entries once its positions have been flattened into that axis.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from passes.activations.function import OPERATORS
from passes.norm_folding import Affine

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Known:
    """What is known of the entries of one tensor.

    Attributes:
        value: the number that an entry holds, where it holds only one; shape [E].
        everywhere: whether it holds this number at every position, whatever the input.
        inside: whether it does so where no padding is read, or is to be replaced by a constant;
            true wherever `everywhere` is.
    """

    value: Array
    everywhere: Array
    inside: Array

    @classmethod
    def where(cls, mask: Array, value: Array) -> Known:
        """Entries that hold `value` at every position where `mask` says so."""
        finite = mask & np.isfinite(value)
        return cls(np.where(finite, value, 0.0), finite, finite)

    def replaced(self, mask: Array, value: Array) -> Known:
        """The entries in `mask` that are no constants are to be read as if they held `value`."""
        return Known(
            np.where(mask & ~self.everywhere, value, self.value),
            self.everywhere,
            self.inside | mask,
        )


class Law(Protocol):
    """What an operator does to constant entries."""

    def __call__(self, sources: Sequence[Known]) -> Known:
        """What is known behind it, from what is known of the tensors that it reads."""
        ...


@dataclass(frozen=True, eq=False)
class Elementwise:
    """A function of the values at one position.

    Attributes:
        operator: its name in `OPERATORS`.
        parameters: attributes of the node.
        sources: the operands that hold the channels.
        constants: the other operands, float64, of shape [E] or [].
    """

    operator: str
    parameters: Mapping[str, Any]
    sources: tuple[int, ...]
    constants: Mapping[int, Array]

    def __call__(self, sources: Sequence[Known]) -> Known:
        """Computes the function; a product with zero is zero, whatever the other factor."""
        operands = {**self.constants, **dict(zip(self.sources, sources, strict=True))}
        everywhere = np.logical_and.reduce([known.everywhere for known in sources])
        inside = np.logical_and.reduce([known.inside for known in sources])
        zero = np.zeros(everywhere.shape, bool)
        if self.operator == "Mul":
            for one in operands.values():
                known = one.everywhere & (one.value == 0) if isinstance(one, Known) else one == 0
                zero |= known
        arguments = [
            one.value if isinstance(one, Known) else one for _, one in sorted(operands.items())
        ]
        with np.errstate(all="ignore"):  # entries that are not constant hold any number
            value = np.where(zero, 0.0, OPERATORS[self.operator](self.parameters, *arguments))
        finite = np.isfinite(value)
        return Known(
            np.where(finite, value, 0.0), (everywhere | zero) & finite, (inside | zero) & finite
        )


@dataclass(frozen=True, eq=False)
class Norm:
    """`scale * x + shift`; where the scale is 0, `shift` is all that is left of x."""

    affine: Affine

    def __call__(self, sources: Sequence[Known]) -> Known:
        """Scales and shifts."""
        (known,) = sources
        idle = self.affine.scale == 0
        value = self.affine.scale * known.value + self.affine.shift
        return Known(value, known.everywhere | idle, known.inside | idle)


@dataclass(frozen=True)
class Kept:
    """What leaves a constant as it is: pooling, a mean over positions, the identity.

    Attributes:
        padded: whether zeros at the border take part in it.
    """

    padded: bool = False

    def __call__(self, sources: Sequence[Known]) -> Known:
        """Only zero meets zeros unharmed."""
        (known,) = sources
        everywhere = known.everywhere & (known.value == 0) if self.padded else known.everywhere
        return Known(known.value, everywhere, known.inside)


@dataclass(frozen=True)
class Repeated:
    """Flattening: each entry becomes one for each of its positions."""

    times: int

    def __call__(self, sources: Sequence[Known]) -> Known:
        """Repeats."""
        (known,) = sources
        return Known(
            *(np.repeat(a, self.times) for a in (known.value, known.everywhere, known.inside))
        )


@dataclass(frozen=True, eq=False)
class Depthwise:
    """A convolution of each channel by itself.

    Attributes:
        summed: sum over the kernel of each channel.
        bias: bias of each channel.
        idle: whether all weights of the channel are zero.
        at_border: whether a weight of the channel that is not zero may read padding.
    """

    summed: Array
    bias: Array
    idle: Array
    at_border: Array

    def __call__(self, sources: Sequence[Known]) -> Known:
        """Multiplies by the sum of the kernel, where no padding takes part."""
        (known,) = sources
        unharmed = known.everywhere & ((known.value == 0) | ~self.at_border)
        value = self.summed * known.value + self.bias
        return Known(value, unharmed | self.idle, known.inside | self.idle)
