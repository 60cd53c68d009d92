"""How much feature-map memory do skips hold? JointRD's 40 % and 43 %, under several definitions.

    python benchmarks/skip_memory.py [MODEL.onnx ...]

Li et al., "Residual Distillation: Towards Portable Deep Neural Networks without Shortcuts"
(JointRD, NeurIPS 2020) say that shortcuts take about 40 % of the memory for feature maps in
ResNet-50, and 43 % in ResNet-152, and do not say how that is counted. Each row here is one way of
counting, at batch 1 and 224 x 224; further models can be named on the command line.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from graphopt.ir import Model
from graphopt.skips import Skip
from passes.lifetime import Lifetime, LifetimeTable
from passes.skip_detection import Skips

PAPER = {"ResNet-50": 0.40, "ResNet-152": 0.43}
BLOCKS = {"ResNet-50": (3, 4, 6, 3), "ResNet-152": (3, 8, 36, 3)}


@dataclass
class Bottlenecks:
    """Writes the graph of torchvision's bottleneck ResNets, in its exporter's order of nodes.

    Weights are ConstantOfShape, so the model is a few kilobytes.
    """

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)

    def add(self, operator: str, *inputs: str, name: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(operator, inputs, [f"{name}_out"], name, **attributes))
        return f"{name}_out"

    def constant(self, name: str, array: np.ndarray) -> str:
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def conv(self, x: str, channels: tuple[int, int], size: int, stride: int, name: str) -> str:
        """A convolution with batch norm; `channels` counts those that go in and come out."""
        shape = np.array([channels[1], channels[0], size, size], np.int64)
        weight = self.constant(f"{name}_shape", shape)
        weight = self.add("ConstantOfShape", weight, name=f"{name}_weight")
        x = self.add("Conv", x, weight, name=name, strides=[stride] * 2, pads=[size // 2] * 4)
        ones = np.ones(channels[1], np.float32)
        norm = [self.constant(f"{name}_{part}", ones) for part in ("scale", "bias", "mean", "var")]
        return self.add("BatchNormalization", x, *norm, name=f"{name}_norm")

    def block(self, x: str, channels: tuple[int, int, int], stride: int, name: str) -> str:
        """1x1, 3x3, 1x1, and a projection where the size changes."""
        entering, inner, leaving = channels
        y = self.conv(x, (entering, inner), 1, 1, f"{name}.conv1")
        y = self.add("Relu", y, name=f"{name}.relu1")
        y = self.conv(y, (inner, inner), 3, stride, f"{name}.conv2")
        y = self.add("Relu", y, name=f"{name}.relu2")
        y = self.conv(y, (inner, leaving), 1, 1, f"{name}.conv3")
        if entering != leaving:
            x = self.conv(x, (entering, leaving), 1, stride, f"{name}.downsample")
        return self.add("Relu", self.add("Add", y, x, name=f"{name}.add"), name=f"{name}.relu3")


def resnet(blocks: Sequence[int]) -> onnx.ModelProto:
    """The bottleneck ResNet with so many blocks per stage, stride in the 3x3 convolutions."""
    net = Bottlenecks()
    x = net.add("Relu", net.conv("x", (3, 64), 7, 2, "conv1"), name="relu")
    x = net.add("MaxPool", x, name="pool", kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    channels = 64
    for stage, count in enumerate(blocks):
        inner = 64 * 2**stage
        for index in range(count):
            stride = 2 if stage and not index else 1
            name = f"layer{stage + 1}.{index}"
            x = net.block(x, (channels, inner, 4 * inner), stride, name)
            channels = 4 * inner
    x = net.add("Flatten", net.add("GlobalAveragePool", x, name="average"), name="flatten")
    weight = net.constant("fc_shape", np.array([channels, 1000], np.int64))
    x = net.add("MatMul", x, net.add("ConstantOfShape", weight, name="fc_weight"), name="fc")
    graph = helper.make_graph(
        net.nodes,
        "resnet",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 224, 224])],
        [helper.make_tensor_value_info(x, TensorProto.FLOAT, [1, 1000])],
        net.constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


Share = Callable[[LifetimeTable, Sequence[Skip]], float]


@dataclass(frozen=True)
class Definition:
    """One way of counting: under which execution, and what over what."""

    text: str
    execution: Lifetime
    share: Share


def per_step(table: LifetimeTable, skips: Sequence[Skip]) -> float:
    """The share of live bytes that a skip holds, waiting or at its join, averaged over steps."""
    held = table.held_by(skips, at_join=True)
    return sum(h / live for h, live in zip(held, table.live_bytes, strict=True)) / len(held)


def to_the_join(table: LifetimeTable, skips: Sequence[Skip]) -> float:
    """The forks' whole lives, from birth to the step before the join: bytes times steps."""
    held = {
        (skip.held, step)
        for skip in skips
        for step in range(table[skip.held].born + 1, table.step(skip.join))
        if step <= table[skip.held].dies
    }
    return sum(table[name].bytes or 0 for name, _ in held) / sum(table.live_bytes)


def at_the_worst_step(table: LifetimeTable, skips: Sequence[Skip]) -> float:
    """The most that waits at any step over the peak."""
    return max(table.held_by(skips)) / table.peak_bytes


def of_all_maps(table: LifetimeTable, skips: Sequence[Skip]) -> float:
    """Skip tensors over all feature maps and the skip tensors once more; time does not count."""
    held = sum(table[skip.held].bytes or 0 for skip in skips)
    maps = sum(life.bytes or 0 for life in table.lives if life.replaces is None)
    return held / (maps + held)


IN_PLACE = Lifetime(in_place=True)
DEFINITIONS = (
    Definition(
        "bytes x steps that wait, in place (reported)", IN_PLACE, LifetimeTable.share_held_by
    ),
    Definition("the same, nothing in place", Lifetime(in_place=False), LifetimeTable.share_held_by),
    Definition("the same, fused", Lifetime(in_place=True, fused=True), LifetimeTable.share_held_by),
    Definition("mean share per step, join included", Lifetime(in_place=False), per_step),
    Definition("fork to join, fused", Lifetime(in_place=True, fused=True), to_the_join),
    Definition("most that waits / peak", IN_PLACE, at_the_worst_step),
    Definition("skip tensors / (all maps + skips)", IN_PLACE, of_all_maps),
)


def main(paths: Sequence[str]) -> None:
    models = {name: Model.load(resnet(blocks)) for name, blocks in BLOCKS.items()}
    models |= {path.rpartition("/")[2]: Model.load(path) for path in paths}
    print(f"{'':46}" + "".join(f"{name:>21}" for name in models))
    print(f"{'JointRD':46}" + "".join(f"{PAPER[n]:21.1%}" if n in PAPER else "" for n in models))
    misses: dict[str, float] = {}
    for one in DEFINITIONS:
        shares = {
            name: one.share(one.execution.run(model), model.analyses.get(Skips()))
            for name, model in models.items()
        }
        print(f"{one.text:46}" + "".join(f"{share:21.1%}" for share in shares.values()))
        misses[one.text] = max(abs(shares[name] - paper) for name, paper in PAPER.items())
    peaks = (IN_PLACE.run(model).peak_bytes / 1e6 for model in models.values())
    print(f"{'peak, in place (MB)':46}" + "".join(f"{peak:21.2f}" for peak in peaks))
    closest = min(misses, key=lambda text: misses[text])
    print(f"\nclosest to the paper: {closest} (within {misses[closest]:.1%})")


if __name__ == "__main__":
    main(sys.argv[1:])
