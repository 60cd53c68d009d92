"""Does a network without joins prune better? RMNet's Figure 7, on a small network trained here.

    python benchmarks/slimming.py [--images 20000] [--epochs 8] [--tune 3] [--share 0.5] [--seed 0]

A small ResNet is trained on CIFAR-10 (from $GRAPHOPT_SHARED) with the sparsity hook. Then it is
slimmed twice to the same multiply-adds:

- with its skips: only channels inside of the blocks are free, the others are coupled by the joins;
- after reserve-merge (`--preset plain`): every channel is free, reserved ones included. They are
  ranked by the deviation of their values, which is what the scale of a norm is.

Both are trained on for as many epochs. Printed: accuracy on the test images before and after that,
multiply-adds, and speed in ONNX Runtime relative to the unpruned network, measured in turns.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parents[1]))

from examples.networks import export
from graphopt.cost import si
from graphopt.ir import Model
from graphopt.optimizer import optimize
from graphopt.verify.runtime import OrtRunner
from training_hooks.sparsity import l1_on_scales

SHARED = Path(os.environ.get("GRAPHOPT_SHARED", Path(__file__).parents[2] / "shared"))
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


class Block(nn.Module):
    """Two 3x3 convolutions and an identity, or a 1x1 projection where the size changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        project = [nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)]
        same = inputs == outputs and stride == 1
        self.skip = nn.Identity() if same else nn.Sequential(*project)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.branch(x) + self.skip(x))


def resnet(width: int = 16, blocks: int = 2) -> nn.Sequential:
    """The ResNet for CIFAR of He et al. 2016, section 4.2, with 6 * blocks + 2 layers."""
    layers: list[nn.Module] = [nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)]
    layers.append(nn.ReLU())
    channels = width
    for stage in range(3):
        for number in range(blocks):
            outputs, stride = width * 2**stage, 2 if stage and not number else 1
            layers.append(Block(channels, outputs, stride))
            channels = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))


# Data and training ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Data:
    """Images [N, 3, 32, 32], normalised, and their labels."""

    images: Tensor
    labels: Tensor

    @classmethod
    def read(cls, names: list[str], count: int) -> Data:
        files = [np.load(SHARED / "data/cifar10" / f"{name}.npz") for name in names]
        x = np.concatenate([file["x"] for file in files])[:count]
        y = np.concatenate([file["y"] for file in files])[:count]
        images = torch.from_numpy(x).float() / 255
        mean, std = (torch.tensor(one).reshape(1, 3, 1, 1) for one in (MEAN, STD))
        return cls((images - mean) / std, torch.from_numpy(y).long())

    def batches(self, size: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """In random order, shifted by up to 4 pixels and mirrored at random."""
        order = torch.randperm(len(self.labels), generator=generator)
        for part in order.split(size):
            images = functional.pad(self.images[part], (4, 4, 4, 4))
            top, left, mirror = torch.randint(0, 9, (3,), generator=generator).tolist()
            images = images[..., top : top + 32, left : left + 32]
            yield (images.flip(-1) if mirror % 2 else images), self.labels[part]


def train(net: nn.Module, data: Data, epochs: int, rate: float, l1: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(net.parameters(), rate, 0.9, weight_decay=5e-4, nesterov=True)
    steps = epochs * -(-len(data.labels) // 128)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, max(steps, 2))
    net.train()
    for _ in range(epochs):
        for images, labels in data.batches(128, generator):
            optimizer.zero_grad()
            loss = functional.cross_entropy(net(images), labels)
            if l1:
                with l1_on_scales(net, l1):
                    loss.backward()
            else:
                loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 5.0)
            optimizer.step()
            schedule.step()


def accuracy(net: nn.Module, data: Data) -> float:
    net.eval()
    with torch.no_grad():
        found = torch.cat([net(part).argmax(1) for part in data.images.split(500)])
    return float((found == data.labels).float().mean())


# ONNX as a module that trains ------------------------------------------------------------------


class Graph(nn.Module):
    """An ONNX graph of the few operators that pruned ResNets hold, its weights as parameters."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        super().__init__()
        self.proto = proto
        arrays = {t.name: onnx.numpy_helper.to_array(t).copy() for t in proto.graph.initializer}
        self.keys = {name: f"p{number}" for number, name in enumerate(arrays)}
        for name, array in arrays.items():
            self.register_parameter(self.keys[name], nn.Parameter(torch.from_numpy(array)))

    def forward(self, x: Tensor) -> Tensor:
        values = {name: getattr(self, key) for name, key in self.keys.items()}
        values[self.proto.graph.input[0].name] = x
        for node in self.proto.graph.node:
            a = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
            values[node.output[0]] = self._run(node.op_type, a, [values[n] for n in node.input])
        return values[self.proto.graph.output[0].name]

    def _run(self, operator: str, a: dict[str, object], v: list[Tensor]) -> Tensor:
        match operator:
            case "Conv":
                pads, strides = list(a["pads"])[:2], list(a["strides"])  # type: ignore[call-overload]
                return functional.conv2d(v[0], v[1], v[2], strides, pads)
            case "Relu":
                return functional.relu(v[0])
            case "PRelu":
                return functional.prelu(v[0], v[1].reshape(-1))
            case "Add":
                return v[0] + v[1]
            case "GlobalAveragePool":
                return v[0].mean((2, 3), keepdim=True)
            case "Flatten":
                return v[0].flatten(1)
            case "Gemm":
                return functional.linear(v[0], v[1] if a.get("transB") else v[1].T, v[2])
        raise NotImplementedError(operator)

    def trained(self) -> onnx.ModelProto:
        """The graph with the weights as they are now."""
        proto = onnx.ModelProto()
        proto.CopyFrom(self.proto)
        for tensor in proto.graph.initializer:
            array = getattr(self, self.keys[tensor.name]).detach().numpy()
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
        return proto


# Pruning ---------------------------------------------------------------------------------------


def slimmed(model: Model, limit: float, samples: Path) -> Model:
    """The least slimming that brings the model to `limit` multiply-adds, by bisection."""
    low, high, best = 0.0, 0.98, model
    for _ in range(9):
        ratio = (low + high) / 2
        options = f"by=scale,ratio={ratio:.5f},calibration={samples},keep=2"
        outcome = optimize(model, pipeline=f"prune-channels{{{options}}},dce", verify=False)
        if outcome.after.total.multiply_adds <= limit:
            high, best = ratio, outcome.model
        else:
            low = ratio
    return best


def speed(first: Model, second: Model, images: np.ndarray, rounds: int = 25) -> float:
    """How many times as fast as the first the second is, on one thread."""
    runners = [OrtRunner(m, optimize=True, threads=1) for m in (first, second)]
    name = first.graph.inputs[0].name or ""
    ratios = []
    for _ in range(rounds):
        seconds = []
        for runner in runners:
            start = time.perf_counter()
            runner.run({name: images})
            seconds.append(time.perf_counter() - start)
        ratios.append(seconds[0] / seconds[1])
    return float(np.median(ratios))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--tune", type=int, default=3)
    parser.add_argument("--share", type=float, nargs="+", default=[0.7, 0.5, 0.3])
    parser.add_argument("--l1", type=float, default=1e-4)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()

    torch.manual_seed(given.seed)
    data = Data.read([f"train_batch_{n}" for n in (1, 2, 3)], given.images)
    test = Data.read(["test"], 10_000)
    net = resnet()
    train(net, data, given.epochs, 0.2, given.l1, given.seed)
    buffer = BytesIO()
    export(net.eval(), (1, 3, 32, 32), buffer)
    # both arms start from the same arithmetic: norms folded, scores by the deviation
    skips = optimize(buffer.getvalue(), preset="clean", verify=False).model
    outcome = optimize(buffer.getvalue(), preset="plain")
    assert outcome.verification is not None
    full = outcome.before.total.multiply_adds
    print(
        f"ResNet-14 trained on {given.images} images for {given.epochs} epochs: "
        f"{accuracy(net, test):.2%} on 10,000 test images, {si(full)} multiply-adds; after "
        f"reserve-merge {si(outcome.after.total.multiply_adds)}, outputs "
        f"{outcome.verification.status.value}"
    )
    print("\n| multiply-adds | pruned | accuracy at once | after training on | speed |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        samples = Path(folder) / "samples.npz"
        np.savez(samples, data.images[:512].numpy())
        for share in given.share:
            for name, model in (("with skips", skips), ("after reserve-merge", outcome.model)):
                pruned = slimmed(model, share * full, samples)
                graph = Graph(pruned.to_proto())
                at_once = accuracy(graph, test)
                train(graph, data, given.tune, 0.02, 0.0, given.seed)
                count = optimize(pruned, preset="clean", verify=False).before.total.multiply_adds
                faster = speed(skips, Model.load(graph.trained()), test.images[:32].numpy())
                print(
                    f"| {count / full:.2f} | {name} | {at_once:.2%} | {accuracy(graph, test):.2%} "
                    f"| {faster:.2f}x |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
