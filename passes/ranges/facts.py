from __future__ import annotations

RULES = Rules()


@dataclass(frozen=True)
class Origin:
    """Which nodes gave a tensor its bounds, and how far back they are."""

    sources: tuple[str, ...] = ()
    last: str = ""
    steps: int = 0

    def because(self) -> str:
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


class _Walk:
    """What is known so far, tensor by tensor."""

    def __init__(self, model: Model) -> None:
        self.shapes: ShapeTable = model.analyses.get(Shapes())
        self.opset = model.opset
        self.found: dict[str, Interval] = {}
        self._bounds: dict[str, Bounds] = {}
        self._origins: dict[str, Origin] = {}
        self._arrays: dict[str, npt.NDArray[Any] | None] = {}
        self._fixed = fixed_tensors(model)
        kinds = {info.dtype for info in self.shapes.values()} & set(FLOATS)
        self._coarsest = max(
            (FLOATS[kind] for kind in kinds if kind is not None),
            default=FLOATS[onnx_ir.DataType.FLOAT],
        )
        for value in model.graph.inputs:
            if value.name and value.name not in self._fixed:
                self._note(value.name, self._of_type(value), Origin((f"the input {value.name}",)))

    def visit(self, node: onnx_ir.Node) -> None:
        """Bounds the outputs of one node."""
        if all(output.name in self._fixed for output in node.outputs):
            return
        results = self._apply(node)
        origin = self._origin(node)
        for output, bounds in zip(node.outputs, results, strict=True):
            if output.name:
                found = self._of_type(output) if bounds is None else self._fit(bounds, output)
                self._note(output.name, found, origin)

    def bounds(self, value: onnx_ir.Value | None) -> Bounds:
        """What is known of a tensor."""
        if value is None or not value.name:
            return UNBOUNDED
        if value.name not in self._bounds:
            found = self._constant_bounds(value)
            self._note(value.name, found, Origin())
        return self._bounds[value.name]

    def array(self, value: onnx_ir.Value | None) -> npt.NDArray[Any] | None:
        """The content of a constant, None for any other tensor."""
        if value is None or not value.name or value.name not in self._fixed:
            return None
        if value.name not in self._arrays:
            self._arrays[value.name] = constant(value)
        return self._arrays[value.name]

    def info(self, value: onnx_ir.Value | None) -> TensorInfo:
        return self.shapes[value.name or ""] if value is not None else TensorInfo(None, None)

    def kind(self, value: onnx_ir.Value) -> Float | None:
        """The float format of a tensor, None for another type.

        Where inference knows no type, the coarsest one in the model.
        """
        dtype = self.info(value).dtype
        return self._coarsest if dtype is None else FLOATS.get(dtype)

    def _apply(self, node: onnx_ir.Node) -> Sequence[Bounds | None]:
        domain = "" if node.domain == "ai.onnx" else node.domain
        rule = _RULES.get((domain, node.op_type))
        unknown = (None,) * len(node.outputs)
        if rule is None or not node.outputs:
            return unknown
        kind = self.kind(node.outputs[0])
        if kind is None and not rule.integers:
            return unknown
        try:
            result = rule.compute(Step(node, self, kind or self._coarsest))
        except (ValueError, IndexError, ZeroDivisionError):  # malformed: sizes contradict
            return unknown
        return result if isinstance(result, list) else (result, *unknown[1:])

    def _origin(self, node: onnx_ir.Node) -> Origin:
        label = node_label(node)
        if node.op_type in _BOUNDING:
            return Origin((label,))
        origins = [
            self._origins[value.name]
            for value in dict.fromkeys(node.inputs)
            if value is not None and value.name in self._origins and self.found[value.name].known
        ]
        sources = tuple(dict.fromkeys(s for origin in origins for s in origin.sources))
        if not sources:
            return Origin((label,))
        return Origin(sources[:3], label, 1 + max(origin.steps for origin in origins))

    def _note(self, name: str, bounds: Bounds, origin: Origin) -> None:
        low, high = (np.array(side) for side in bounds)
        low.flags.writeable = high.flags.writeable = False
        self._bounds[name] = Bounds(low, high)
        because = origin.because() if origin.sources else f"it is the constant {name}"
        interval = Interval(low, high, because)
        self.found[name] = interval if interval.known else Interval(low, high, NOTHING.because)
        self._origins[name] = origin

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
        dtype = self.info(value).dtype
        return INTEGERS.get(dtype, UNBOUNDED) if dtype is not None else UNBOUNDED

    def _constant_bounds(self, value: onnx_ir.Value) -> Bounds:
        node = value.producer()
        if node is not None and node.op_type == "ConstantOfShape":
            return filled(node)
        array = self.array(value)
        if array is None:
            return self._of_type(value)
        return along(array, 1 if array.ndim >= 2 else None) or UNBOUNDED
