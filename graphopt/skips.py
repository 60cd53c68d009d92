"""The types that speak of skip connections."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any


class SkipKind(enum.Enum):
    """What the lighter path of a skip does to the tensor."""

    IDENTITY = "identity"
    PROJECTION = "projection"
    """A convolution or matrix product."""
    OPTION_A = "option-A"
    """Strided slice, zero channel padding, or both (He et al. 2016, section 3.3, option A)."""
    POOLED = "pooled"
    SCALED = "scaled"
    """Multiplied by, or added to, a constant."""
    RESIZED = "resized"
    """Upsampled, as in a feature pyramid."""
    CONCAT = "concat"
    """Joined by concatenation (DenseNet, U-Net)."""
    GATED = "gated"
    """Joined by multiplication (squeeze-excite)."""
    NONLINEAR = "nonlinear"
    """Every path holds an activation or another operator that is not linear."""


@dataclass(frozen=True)
class Path:
    """One way from the fork to the join.

    Attributes:
        tensor: the input of the join at its end.
        layers: names of the layers on it, in order of execution; none for an identity.
        operators: their ONNX operator types.
        multiply_adds: sum over its layers, for one sample.
    """

    tensor: str
    layers: tuple[str, ...]
    operators: tuple[str, ...]
    multiply_adds: int


@dataclass(frozen=True)
class Skip:
    """One join of two or more data paths that fork at a common tensor.

    Attributes:
        name: the join's name; what reports and `explain` call the skip.
        fork: the tensor at which the paths part (the last one that all of them depend on).
        join: layer name of the join.
        operator: the join's operator type (Add, Sum, Concat, Mul, QLinearAdd ...).
        kind: what the skip path does.
        paths: all paths; the skip first, then the branches.
        dominated: False where a path also depends on something from before the fork (overlapping
            skips), so that the fork alone does not determine the join.
        lifetime: layers executed while the skip's tensor waits, or None where unknown.
        bytes: bytes that the skip holds alive for one sample, or None where unknown.
        held: the tensor that the join waits with: the fork itself or the skip path's output.
    """

    name: str
    fork: str
    join: str
    operator: str
    kind: SkipKind
    paths: tuple[Path, ...]
    dominated: bool
    lifetime: int | None
    bytes: int | None
    held: str

    @property
    def skip(self) -> Path:
        """The lighter path."""
        return self.paths[0]

    @property
    def branch(self) -> Path:
        """The heaviest path."""
        return self.paths[-1]

    @property
    def is_additive(self) -> bool:
        """Whether the join adds (the kind that reserve-merge removes)."""
        return self.operator in ("Add", "Sum", "QLinearAdd")

    def to_json(self) -> dict[str, Any]:
        """Plain values for `--json`."""
        return {
            "name": self.name,
            "kind": self.kind.value,
            "fork": self.fork,
            "join": self.join,
            "operator": self.operator,
            "paths": [
                {
                    "tensor": path.tensor,
                    "layers": list(path.layers),
                    "operators": list(path.operators),
                    "multiply_adds": path.multiply_adds,
                }
                for path in self.paths
            ],
            "dominated": self.dominated,
            "lifetime": self.lifetime,
            "bytes": self.bytes,
            "held": self.held,
        }
