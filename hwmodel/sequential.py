"""An accelerator that runs one layer after the other: what crosses to off-chip memory, and when.

One engine multiplies; feature maps live in a buffer on the chip as far as it holds them, the rest
goes out to DRAM and comes back. Three ways to use the buffer:

| policy | a map that a layer made |
|---|---|
| `stream` | goes out, and comes back for every reader |
| `adjacent` | stays for the next layer; a skip goes out, and comes back at its join |
| `shortcut` | stays for all its readers, as far as the branch leaves room in the buffer |

`shortcut` is the idea of Shortcut Mining (Azizimazreah and Chen, HPCA 2019): the buffers that a
branch leaves free hold the skip, in part where they are too small. Maps whose next use is farthest
away go out first. What is not kept passes through: tiles of maps and weights take no room here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from graphopt.errors import GraphoptError, TargetError
from graphopt.ir.layers import Layer, LayerKind, Layers
from graphopt.ir.model import Model
from graphopt.ir.shapes import Shapes
from hwmodel.dataflow import cleaned

Policy = Literal["stream", "adjacent", "shortcut"]


@dataclass(frozen=True)
class Accelerator:
    """The machine.

    Attributes:
        buffer_bytes: feature-map memory on the chip.
        macs_per_cycle: multiply-accumulates in a cycle, at best.
        bytes_per_cycle: bytes to or from DRAM in a cycle, at best.
        activation_bits, weight_bits: widths of what is stored.
    """

    buffer_bytes: int = 512 * 1024
    macs_per_cycle: int = 1024
    bytes_per_cycle: float = 16.0
    activation_bits: int = 8
    weight_bits: int = 8

    @classmethod
    def parse(cls, target: str) -> Accelerator:
        """Reads `sequential` or `sequential:512KiB`.

        Raises:
            TargetError: the size is none.
        """
        _, _, size = target.partition(":")
        if not size:
            return cls()
        for unit, factor in (("KiB", 1024), ("MiB", 1024**2), ("kB", 1000), ("MB", 10**6)):
            number = size.removesuffix(unit)
            if number != size and number.isdigit() and int(number) > 0:
                return cls(buffer_bytes=int(number) * factor)
        raise TargetError(f"'{size}' is no buffer size: write sequential:512KiB.")


@dataclass(frozen=True)
class LayerTraffic:
    """One layer.

    Attributes:
        name: of the layer.
        multiply_adds: for one sample.
        weight_bytes: read from DRAM.
        read, written: bytes of feature maps from and to DRAM.
        skip: of these, bytes of maps that wait for a join further on.
        cycles: the longer of computing and moving to or from DRAM.
        chip_read, chip_written: bytes of feature maps from and to the buffer on the chip.
    """

    name: str
    multiply_adds: int
    weight_bytes: int
    read: int
    written: int
    skip: int
    cycles: int
    chip_read: int = 0
    chip_written: int = 0


@dataclass(frozen=True)
class SequentialEstimate:
    """All layers under one policy."""

    policy: Policy
    accelerator: Accelerator
    layers: tuple[LayerTraffic, ...]

    @property
    def feature_map_bytes(self) -> int:
        """Off-chip traffic of feature maps."""
        return sum(layer.read + layer.written for layer in self.layers)

    @property
    def skip_bytes(self) -> int:
        """Of these, what skips cause: maps that wait, out and back."""
        return sum(layer.skip for layer in self.layers)

    @property
    def chip_bytes(self) -> int:
        """Traffic of feature maps with the buffer."""
        return sum(layer.chip_read + layer.chip_written for layer in self.layers)

    @property
    def weight_bytes(self) -> int:
        """Off-chip traffic of weights."""
        return sum(layer.weight_bytes for layer in self.layers)

    @property
    def cycles(self) -> int:
        """Of one sample."""
        return sum(layer.cycles for layer in self.layers)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "policy": self.policy,
            "buffer_bytes": self.accelerator.buffer_bytes,
            "feature_map_bytes": self.feature_map_bytes,
            "skip_bytes": self.skip_bytes,
            "chip_bytes": self.chip_bytes,
            "weight_bytes": self.weight_bytes,
            "cycles": self.cycles,
            "layers": [vars(layer) for layer in self.layers],
        }


def estimate(
    model: Model, accelerator: Accelerator | None = None, policy: Policy = "adjacent"
) -> SequentialEstimate:
    """Off-chip traffic and cycles of a model.

    Args:
        model: the model; one sample is counted.
        accelerator: the machine; default: `Accelerator()`.
        policy: how the buffer is used.

    Raises:
        GraphoptError: no such policy, or a feature map of unknown size.
    """
    if policy not in get_args(Policy):
        raise GraphoptError(f"'{policy}' is no policy: use {', '.join(get_args(Policy))}.")
    machine = accelerator or Accelerator()
    model = cleaned(model)
    view = model.analyses.get(Layers())
    layers = tuple(view)
    run = _Run(machine, policy, layers, _sizes(model, layers, machine), set(view.sources))
    outputs = {value.name for value in model.graph.outputs if value.name}
    return SequentialEstimate(
        policy, machine, tuple(run.layer(step, layer, outputs) for step, layer in enumerate(layers))
    )


def _sizes(model: Model, layers: Sequence[Layer], machine: Accelerator) -> dict[str, int]:
    shapes = model.analyses.get(Shapes())
    sizes: dict[str, int] = {}
    for layer in layers:
        for name in (*layer.inputs, *layer.outputs):
            if name in sizes:
                continue
            elements = shapes[name].elements()
            if elements is not None:
                sizes[name] = math.ceil(elements * machine.activation_bits / 8)
            elif layer.kind is LayerKind.MOVE and len(layer.inputs) == 1 and name in layer.outputs:
                sizes[name] = sizes[layer.inputs[0]]  # a Reshape to sizes computed in the graph
            else:
                raise GraphoptError(f"the size of {name} is not known: give the model fixed sizes.")
    return sizes


@dataclass
class _Run:
    machine: Accelerator
    policy: Policy
    layers: Sequence[Layer]
    sizes: dict[str, int]
    sources: set[str]
    held: dict[str, int] = field(default_factory=dict)
    """Bytes of each map on the chip."""
    outside: dict[str, int] = field(default_factory=dict)
    """Bytes of each map in DRAM."""

    def __post_init__(self) -> None:
        self.uses: dict[str, list[int]] = {}
        self.born: dict[str, int] = {}
        for step, layer in enumerate(self.layers):
            for name in dict.fromkeys(layer.inputs):
                self.uses.setdefault(name, []).append(step)
            for name in layer.outputs:
                self.born[name] = step
        self.outside.update({name: self.sizes[name] for name in self.sources if name in self.sizes})

    def _skips(self, name: str) -> bool:
        """Whether a map waits for a reader beyond the next layer."""
        born = self.born.get(name, -1)
        return bool(self.uses.get(name)) and self.uses[name][-1] > born + 1

    def layer(self, step: int, layer: Layer, outputs: set[str]) -> LayerTraffic:
        read = written = skip = chip_read = chip_written = 0
        inputs = list(dict.fromkeys(layer.inputs))
        for name in inputs:
            missing = self.sizes[name] - self.held.get(name, 0)
            read += missing
            chip_read += self.sizes[name] - missing
            # What comes back for a later reader only is the skip's.
            if name in self.born and self.born[name] < step - 1:
                skip += missing
        for name in [n for n in self.held if self._done(n, step)]:
            if name not in inputs:
                del self.held[name]
        for name in layer.outputs:
            size = self.sizes[name]
            kept = 0 if self.policy == "stream" else self._room(size, inputs, step)
            # Maps that are sent out to make room wait for a reader further on: skips.
            sent = self._make_room(kept, inputs, step) if kept else 0
            written += sent
            skip += sent
            self.held[name] = kept
            chip_written += kept
            needed = size - kept
            if name in outputs or (self.policy != "shortcut" and self._skips(name)):
                needed = size
            self.outside[name] = needed
            written += needed
            if self._skips(name):
                skip += needed
        for name in [n for n in self.held if self._done(n, step + 1)]:
            if name in inputs and self.uses[name][-1] <= step:
                del self.held[name]
        if self.policy == "adjacent":
            for name in [n for n in self.held if self.born.get(n, -1) < step]:
                del self.held[name]
        weights = math.ceil(layer.parameters * self.machine.weight_bits / 8)
        moved = (read + written + weights) / self.machine.bytes_per_cycle
        compute = layer.multiply_adds / self.machine.macs_per_cycle
        return LayerTraffic(
            layer.name,
            layer.multiply_adds,
            weights,
            read,
            written,
            skip,
            math.ceil(max(moved, compute)),
            chip_read,
            chip_written,
        )

    def _done(self, name: str, step: int) -> bool:
        return not any(use >= step for use in self.uses.get(name, ()))

    def _evictable(self, inputs: Sequence[str], step: int) -> list[str]:
        """Maps that may leave the chip, that with the farthest next use first."""

        def next_use(name: str) -> int:
            return next((use for use in self.uses.get(name, ()) if use > step), 1 << 30)

        names = [name for name, kept in self.held.items() if kept and name not in inputs]
        return sorted(names, key=next_use, reverse=True)

    def _room(self, size: int, inputs: Sequence[str], step: int) -> int:
        used = sum(self.held.get(name, 0) for name in inputs)
        if self.policy != "shortcut":
            used = sum(self.held.values())
        return max(0, min(size, self.machine.buffer_bytes - used))

    def _make_room(self, kept: int, inputs: Sequence[str], step: int) -> int:
        """Sends parts of waiting maps out until `kept` bytes are free; returns what was sent."""
        sent = 0
        free = self.machine.buffer_bytes - sum(self.held.values())
        for name in self._evictable(inputs, step):
            if free >= kept:
                break
            part = min(self.held[name], kept - free)
            self.held[name] -= part
            already = self.sizes[name] - self.outside.get(name, 0)
            goes = min(part, already)
            self.outside[name] = self.outside.get(name, 0) + goes
            sent += goes
            free += part
        return sent
