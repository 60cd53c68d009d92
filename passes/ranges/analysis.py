from __future__ import annotations

RULES = Rules()


@dataclass(frozen=True)
class Ranges:
    """Analysis: the `RangeTable` of a model."""

    name: ClassVar[str] = "ranges"

    def run(self, model: Model) -> RangeTable:
        """Walks through the graph once, in order of execution."""
        walk = _Walk(model)
        with np.errstate(all="ignore"):
            for node in model.graph:
                walk.visit(node)
        return RangeTable(walk.found)


_BOUNDING = frozenset(
    {
        "Relu",
        "LeakyRelu",
        "PRelu",
        "Clip",
        "Sigmoid",
        "HardSigmoid",
        "HardSwish",
        "Tanh",
        "Softmax",
        "Softplus",
        "Elu",
        "Selu",
        "Celu",
        "Gelu",
        "QuickGelu",
        "Mish",
        "Swish",
        "Erf",
        "Abs",
        "Sqrt",
        "Exp",
        "QuantizeLinear",
        "Quant",
        "IntQuant",
        "BipolarQuant",
        "MultiThreshold",
    }
)
