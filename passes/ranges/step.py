from __future__ import annotations

RULES = Rules()


@dataclass(frozen=True)
class Step:
    """One node as its rule sees it."""

    node: onnx_ir.Node
    walk: _Walk
    kind: Float

    def value(self, index: int) -> onnx_ir.Value | None:
        return self.node.inputs[index] if index < len(self.node.inputs) else None

    def given(self, index: int) -> bool:
        """Whether an optional input is there."""
        value = self.value(index)
        return value is not None and bool(value.name)

    def x(self, index: int = 0) -> Bounds:
        """What is known of an input, channel by channel of its own axis 1."""
        return self.walk.bounds(self.value(index))

    def array(self, index: int) -> npt.NDArray[Any] | None:
        """The content of a constant input."""
        return self.walk.array(self.value(index))

    def shape(self, index: int = 0) -> tuple[Dim, ...] | None:
        return self.walk.info(self.value(index)).shape

    @cached_property
    def made(self) -> TensorInfo:
        """Type and shape of the first output."""
        return self.walk.info(self.node.outputs[0])

    @property
    def version(self) -> int:
        return self.node.version or self.walk.opset

    def number(self, name: str, default: float) -> float:
        return float(self.node.attributes.get_float(name, default))

    def integer(self, name: str, default: int) -> int:
        return int(self.node.attributes.get_int(name, default))

    def text(self, name: str, default: str) -> str:
        return str(self.node.attributes.get_string(name, default))

    def integers(self, name: str, index: int | None = None) -> tuple[int, ...] | None:
        """Whole numbers from an attribute or, in newer versions, a constant input.

        None where neither is given or the input is no constant.
        """
        listed = self.node.attributes.get_ints(name)
        if listed is None and index is not None and self.given(index):
            array = self.array(index)
            return None if array is None else tuple(int(i) for i in array.reshape(-1))
        return None if listed is None else tuple(listed)

    def axis(self, axis: int, index: int = 0) -> int | None:
        """An axis of an input, counted from the front. None where its rank would be needed."""
        shape = self.shape(index)
        if axis >= 0:
            return axis
        return None if shape is None else axis + len(shape)

    def aligned(self, index: int) -> Bounds:
        """An operand as it broadcasts over the output: per channel of the output's axis 1."""
        rank = None if self.made.shape is None else len(self.made.shape)
        if self.version < 7 and self.integer("broadcast", 0):  # aligned by an attribute
            return self.x(index).whole()
        array = self.array(index)
        if array is not None and rank is not None and rank >= 2 and array.ndim <= rank:
            axis = array.ndim - rank + 1
            channels = axis >= 0 and array.shape[axis] > 1
            return along(array, axis if channels else None) or UNBOUNDED
        shape = self.shape(index)
        if shape is None or rank is None or len(shape) != rank:
            return self.x(index).whole()
        return self.x(index)

    def rounded(self, term: Bounds, roundings: npt.ArrayLike, products: float = 1) -> Bounds:
        """One term that goes through so many roundings."""
        return Terms.of(term).rounded(self.kind, roundings, products)


Result: TypeAlias = "Bounds | list[Bounds | None] | None"


class Rule(NamedTuple):
    compute: Callable[[Step], Result]
    integers: bool


def _rule(
    operators: str, *, domains: Sequence[str] = ("",), integers: bool = False
) -> Callable[[Callable[[Step], Result]], Callable[[Step], Result]]:
    """Registers a rule. `integers`: it holds for integer outputs too (no arithmetic that wraps)."""

    def register(compute: Callable[[Step], Result]) -> Callable[[Step], Result]:
        for domain in domains:
            for operator in operators.split():
                _RULES[domain, operator] = Rule(compute, integers)
        return compute

    return register


def elements(dims: Sequence[Dim]) -> int | None:
    """The number of elements in a block of these sizes."""
    known = [dim for dim in dims if isinstance(dim, int)]
    return math.prod(known) if len(known) == len(dims) else None
