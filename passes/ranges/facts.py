"""What is known so far, tensor by tensor, while the analysis walks through a graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir
from onnx_ir import DataType

from graphopt.ir.constants import constant
from graphopt.ir.model import Model
from graphopt.ir.quant import Grid
from graphopt.ir.shapes import Shapes, ShapeTable, TensorInfo
from passes.ranges.constants import along, filled, fixed_tensors
from passes.ranges.formats import FLOATS, INTEGERS, Float
from passes.ranges.interval import NOTHING, UNBOUNDED, Bounds, Interval


@dataclass(frozen=True)
class Origin:
    """Which nodes gave a tensor its bounds, and how far back they are."""

    sources: tuple[str, ...] = ()
    last: str = ""
    steps: int = 0

    def because(self) -> str:
        """The clause that an `Interval` gives as its reason."""
        shown = list(self.sources[:2]) + (["others"] if len(self.sources) > 2 else [])
        names = " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)
        several = len(self.sources) > 1
        if self.steps == 0:
            return f"it comes out of {names}"
        if self.steps == 1:
            clause = "tensors that come out of" if several else "a tensor that comes out of"
        else:
            clause = "tensors that go back to" if several else "a tensor that goes back to"
        return f"it is {self.last} of {clause} {names}"


class Facts:
    """Bounds, origins, types and constants of the tensors of one model.

    Attributes:
        opset: the version of ONNX's operators that the model asks for.
        found: what is told of each tensor.
        origins: where that comes from.
        fixed: names of the tensors that no input changes.
        coarsest: the float format with the largest unit roundoff in the model.
    """

    def __init__(self, model: Model) -> None:
        self.opset = model.opset
        self.found: dict[str, Interval] = {}
        self.origins: dict[str, Origin] = {}
        self.fixed = fixed_tensors(model)
        self._shapes: ShapeTable = model.analyses.get(Shapes())
        self._arrays: dict[str, npt.NDArray[Any] | None] = {}
        self.coarsest = max(
            (FLOATS[info.dtype] for info in self._shapes.values() if info.dtype in FLOATS),
            default=FLOATS[DataType.FLOAT],
        )
        for value in model.graph.inputs:
            if value.name and value.name not in self.fixed:
                self.note(value, None, Origin((f"the input {value.name}",)))

    def note(self, value: onnx_ir.Value, bounds: Bounds | None, origin: Origin) -> None:
        """Keeps what was found for a tensor that has a name; None is what its type says."""
        if value.name:
            found = self._of_type(value) if bounds is None else self._fit(bounds, value)
            self._keep(value.name, found, origin)

    def lie_on(self, value: onnx_ir.Value, grid: Grid) -> None:
        """Keeps of the bounds of a tensor what lies on its grid: its ends are values of codes, as
        the tensor's own float format computes them.
        """
        if value.name and value.name in self.found:
            known, ends = self.bounds(value), self._fit(self._ends(grid, value), value)
            low, high = np.maximum(known.low, ends.low), np.minimum(known.high, ends.high)
            if (low <= high).all():
                self._keep(value.name, Bounds.of(low, high), self.origins[value.name])

    def _ends(self, grid: Grid, value: onnx_ir.Value) -> Bounds:
        """The values of the least and of the greatest code, whether or not they are rounded."""
        if grid.codes:
            return Bounds.of(grid.low, grid.high)
        dtype = self.info(value).dtype
        kind = np.dtype(np.float32 if dtype is None or dtype not in FLOATS else dtype.numpy())
        exact = [grid.real(code) for code in (grid.low, grid.high)]
        steps = [(code - grid.zero_point).astype(kind) for code in (grid.low, grid.high)]
        rounded = [step * grid.scale.astype(kind) for step in steps]
        low, high = np.minimum(exact[0], rounded[0]), np.maximum(exact[1], rounded[1])
        shape = self.info(value).shape
        if shape is not None and len(shape) >= 2:
            aligned = (1,) * (len(shape) - low.ndim) + low.shape
            if aligned[1] == low.size:  # one for each channel, or one
                return Bounds.of(low.reshape(-1), high.reshape(-1))
        return Bounds.of(low.min(), high.max())

    def bounds(self, value: onnx_ir.Value | None) -> Bounds:
        """What is known of a tensor."""
        if value is None or not value.name:
            return UNBOUNDED
        if value.name not in self.found:
            self._keep(value.name, self._constant_bounds(value), Origin())
        interval = self.found[value.name]
        return Bounds(interval.low, interval.high)

    def array(self, value: onnx_ir.Value | None) -> npt.NDArray[Any] | None:
        """The content of a constant, None for any other tensor."""
        if value is None or not value.name or value.name not in self.fixed:
            return None
        if value.name not in self._arrays:
            self._arrays[value.name] = constant(value)
        return self._arrays[value.name]

    def info(self, value: onnx_ir.Value | None) -> TensorInfo:
        """Element type and shape of a tensor."""
        return self._shapes[value.name or ""] if value is not None else TensorInfo(None, None)

    def kind(self, value: onnx_ir.Value) -> Float | None:
        """The float format of a tensor, None for another type.

        Where inference knows no type, the coarsest one in the model.
        """
        dtype = self.info(value).dtype
        return self.coarsest if dtype is None else FLOATS.get(dtype)

    def _keep(self, name: str, bounds: Bounds, origin: Origin) -> None:
        low, high = (np.array(side) for side in bounds)
        low.flags.writeable = high.flags.writeable = False
        because = origin.because() if origin.sources else f"it is the constant {name}"
        interval = Interval(low, high, because)
        self.found[name] = interval if interval.known else Interval(low, high, NOTHING.because)
        self.origins[name] = origin

    def _fit(self, bounds: Bounds, value: onnx_ir.Value) -> Bounds:
        """Opens bounds that are no number or beyond the largest one.

        Channels that are all alike, or not those of the tensor, become one interval.
        """
        kind = self.kind(value)
        largest = kind.largest if kind is not None else np.inf
        low = np.where(np.isnan(bounds.low) | (bounds.low < -largest), -np.inf, bounds.low)
        high = np.where(np.isnan(bounds.high) | (bounds.high > largest), np.inf, bounds.high)
        fitted = Bounds.of(np.minimum(low, largest), np.maximum(high, -largest))
        if fitted.low.ndim:
            shape = self.info(value).shape
            strange = shape is not None and (len(shape) < 2 or shape[1] != fitted.low.size)
            alike = (fitted.low == fitted.low[:1]).all() and (fitted.high == fitted.high[:1]).all()
            if strange or alike:
                return fitted.whole()
        return fitted

    def _of_type(self, value: onnx_ir.Value) -> Bounds:
        """What the element type alone says."""
        return INTEGERS.get(self.info(value).dtype, UNBOUNDED)

    def _constant_bounds(self, value: onnx_ir.Value) -> Bounds:
        node = value.producer()
        if node is not None and node.op_type == "ConstantOfShape":
            return filled(node)
        array = self.array(value)
        if array is None:
            return self._of_type(value)
        return along(array, 1 if array.ndim >= 2 else None) or UNBOUNDED
