"""Reserve-merge on quantized residual blocks: how many codes change?

    python benchmarks/quantized_blocks.py [--codes 163840] [--seeds 3]

Blocks in QONNX with random weights and scales calibrated on random data, of every form that the
pass knows, with x of either sign and 2, 4 and 8 bits; the codes before and after are computed by
qonnx's own execution.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from graphopt.interop import qonnx
from graphopt.ir import Model
from graphopt.pipeline.passes import Context
from passes.reserve_merge import QuantizedReserveMerge

Array = npt.NDArray[Any]
DOMAIN = "qonnx.custom_op.general"


@dataclass
class Block:
    """Builds one graph on inputs `x`, and computes it as it grows, to calibrate the scales.

    Attributes:
        x: a batch [N, C, H, W] to calibrate on.
        bits: of weights and activations.
        signed: whether the block's input is signed.
        power_of_two: whether all scales are powers of two, and batch norms left out.
    """

    x: Array
    seed: int
    bits: int
    signed: bool
    power_of_two: bool = False
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        self.count = 0

    def constant(self, values: Any) -> str:
        name = self._name("c")
        self.constants.append(numpy_helper.from_array(np.asarray(values, np.float32), name))
        return name

    def _name(self, stem: str) -> str:
        self.count += 1
        return f"{stem}_{self.count}"

    def op(self, kind: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        name = self._name(kind.lower())
        node = helper.make_node(kind, inputs, [name], name=name, domain=domain, **attributes)
        self.nodes.append(node)
        return name

    def values(self, name: str) -> Array:
        """What a tensor holds for the batch `x`."""
        proto = self.model(name)
        operators = qonnx.reference_operators(proto)
        found: Array = ReferenceEvaluator(proto, new_ops=operators).run(None, {"x": self.x})[0]
        return found

    def quantized(self, name: str, *, signed: bool, scale: float | None = None) -> str:
        """A quantizer; its scale puts the largest value of the batch at the highest code."""
        if scale is None:
            high = 2 ** (self.bits - int(signed)) - 1
            scale = float(np.abs(self.values(name)).max()) / high or 1.0
            if self.power_of_two:
                scale = 2.0 ** math.ceil(math.log2(scale))
        parameters = [self.constant(value) for value in (scale, 0.0, self.bits)]
        self.scale = scale
        return self.op("Quant", name, *parameters, domain=DOMAIN, signed=int(signed), narrow=0,
                       rounding_mode="ROUND")  # fmt: skip

    def conv(
        self, x: str, inputs: int, outputs: int, kernel: int, *, stride: int = 1, group: int = 1
    ) -> str:
        """A convolution with weight scales by channel, and a batch norm behind it."""
        shape = (outputs, inputs // group, kernel, kernel)
        weight = self.rng.normal(size=shape) / math.sqrt(math.prod(shape[1:]))
        high = 2 ** (self.bits - 1) - 1
        scale = np.abs(weight).max(axis=(1, 2, 3), keepdims=True) / high
        if self.power_of_two:
            scale = np.full_like(scale, 2.0 ** np.ceil(np.log2(scale.max())))
        parameters = [self.constant(value) for value in (scale, 0.0, self.bits)]
        read = self.op("Quant", self.constant(weight), *parameters, domain=DOMAIN, signed=1,
                       narrow=1, rounding_mode="ROUND")  # fmt: skip
        x = self.op("Conv", x, read, kernel_shape=[kernel] * 2, pads=[kernel // 2] * 4,
                    strides=[stride] * 2, dilations=[1, 1], group=group)  # fmt: skip
        if self.power_of_two:
            return x
        norm = [
            self.rng.uniform(0.5, 1.5, outputs) * self.rng.choice([1, 1, 1, -1], outputs),
            self.rng.normal(size=outputs) * 0.2,
            self.rng.normal(size=outputs) * 0.1,
            self.rng.uniform(0.5, 2.0, outputs),
        ]
        return self.op("BatchNormalization", x, *map(self.constant, norm), epsilon=1e-5)

    def relu(self, x: str) -> str:
        return self.quantized(self.op("Relu", x), signed=False)

    def model(self, output: str) -> onnx.ModelProto:
        shape = self.x.shape[1:]
        graph = helper.make_graph(
            self.nodes,
            "block",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *shape])],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["N", "M", "P", "Q"])],
            self.constants,
        )
        opsets = [helper.make_opsetid("", 13), helper.make_opsetid(DOMAIN, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def _branch(block: Block, x: str, channels: int, outputs: int, stride: int) -> str:
    h = block.relu(block.conv(x, channels, outputs, 3, stride=stride))
    return block.conv(h, outputs, outputs, 3)


def _inverted(block: Block, x: str, channels: int, outputs: int, stride: int) -> str:
    """MobileNetV2's: 1x1, depthwise, 1x1."""
    wide = 3 * channels
    h = block.relu(block.conv(x, channels, wide, 1))
    h = block.relu(block.conv(h, wide, wide, 3, group=wide, stride=stride))
    return block.conv(h, wide, outputs, 1)


Branch = Callable[[Block, str, int, int, int], str]


def summed(branch: Branch) -> Callable[[Block, int], str]:
    """Form A: the sum is taken at full precision, and then quantized."""

    def build(block: Block, channels: int) -> str:
        x = block.quantized("x", signed=block.signed)
        total = block.op("Add", branch(block, x, channels, channels, 1), x)
        if block.seed % 2:
            return block.relu(total)
        return block.quantized(total, signed=True)

    return build


def shared(branch: Branch) -> Callable[[Block, int], str]:
    """Form B: both addends come through quantizers of one scale."""

    def build(block: Block, channels: int) -> str:
        x = block.quantized("x", signed=block.signed)
        inner = block.quantized(branch(block, x, channels, channels, 1), signed=True)
        skip = block.quantized(x, signed=True, scale=block.scale)
        return block.relu(block.op("Add", inner, skip))

    return build


def projected(block: Block, channels: int) -> str:
    """Form B with a projection and stride 2 on the skip."""
    x = block.quantized("x", signed=block.signed)
    inner = block.quantized(_branch(block, x, channels, 2 * channels, 2), signed=True)
    skip = block.conv(x, channels, 2 * channels, 1, stride=2)
    skip = block.quantized(skip, signed=True, scale=block.scale)
    return block.relu(block.op("Add", inner, skip))


FORMS: dict[str, tuple[Callable[[Block, int], str], bool]] = {
    "A, lattice": (summed(_branch), False),
    "A, power of two": (summed(_branch), True),
    "B, pointwise": (shared(_branch), False),
    "B, projection": (projected, False),
    "MobileNetV2 A": (summed(_inverted), False),
    "MobileNetV2 B": (shared(_inverted), False),
}


def drawn(form: str, bits: int, signed: bool, seed: int, x: Array) -> onnx.ModelProto:
    """A block of a form, for inputs like x [N, C, H, W]."""
    build, power_of_two = FORMS[form]
    block = Block(x[:4], seed, bits, signed, power_of_two)
    return block.model(build(block, x.shape[1]))


def execute(proto: onnx.ModelProto, x: Array) -> Array:
    """The output, by qonnx."""
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.core.onnx_exec import execute_onnx
    from qonnx.transformation.infer_shapes import InferShapes

    fixed = onnx.ModelProto()
    fixed.CopyFrom(proto)
    fixed.graph.input[0].type.tensor_type.shape.dim[0].dim_value = len(x)
    wrapped = ModelWrapper(fixed).transform(InferShapes())
    found: Array = execute_onnx(wrapped, {"x": x})[fixed.graph.output[0].name]
    return found


def exact(proto: onnx.ModelProto, x: Array) -> Array:
    """The output in float64: what the integers say, without the noise of float32 sums."""
    double = onnx.ModelProto()
    double.CopyFrom(proto)
    del double.graph.initializer[:]
    for tensor in proto.graph.initializer:
        array = numpy_helper.to_array(tensor)
        array = array.astype(np.float64) if array.dtype.kind == "f" else array
        double.graph.initializer.append(numpy_helper.from_array(array, tensor.name))
    for value in (*double.graph.input, *double.graph.output):
        value.type.tensor_type.elem_type = TensorProto.DOUBLE
    operators = qonnx.reference_operators(double)
    evaluator = ReferenceEvaluator(double, new_ops=operators)
    found: Array = evaluator.run(None, {"x": x.astype(np.float64)})[0]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--codes", type=int, default=163_840)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    print(f"{'form':16} bits  x         codes  other  in float64  rule")
    total = noise = 0
    for form in FORMS:
        for bits in (2, 4, 8):
            for signed in (False, True):
                codes, wrong, doubled, rules = 0, 0, 0, set[str]()
                for seed in range(options.seeds):
                    rng = np.random.default_rng(seed + 1000)
                    batch = math.ceil(options.codes / options.seeds / (16 * 16 * 16))
                    x = rng.normal(size=(batch, 16, 16, 16)).astype(np.float32)
                    x = x if signed else np.abs(x)
                    proto = drawn(form, bits, signed, seed, x)
                    model = Model.load(proto)
                    found = QuantizedReserveMerge(when="possible").run(model, Context())
                    if not found.rewrites:
                        rules.add(f"refused: {found.refusals[0].reason}")
                        continue
                    rules.add(found.rewrites[0].rule)
                    before, after = execute(proto, x), execute(model.to_proto(), x)
                    codes += before.size
                    other = int((np.abs(before - after) > 1e-6).sum())
                    wrong += other
                    if other:  # is the rewrite wrong, or does float32 not know?
                        changed = np.abs(exact(proto, x) - exact(model.to_proto(), x)) > 1e-6
                        doubled += int(changed.sum())
                total, noise = total + doubled, noise + wrong
                sign = "signed" if signed else "unsigned"
                print(
                    f"{form:16} {bits:4d}  {sign:8} {codes:6d} {wrong:6d} {doubled:11d}  "
                    f"{', '.join(sorted(rules))}"
                )
    print(f"codes that changed: {noise} in float32, {total} of them in float64 too")


if __name__ == "__main__":
    main()
