"""Trains a quantized ResNet8 for CIFAR-10 and exports it as QONNX.

    pip install torch brevitas onnx
    python examples/quantized_resnet8.py FLOAT.onnx OUT.onnx --data FOLDER [--bits 4] [--epochs 8]

FLOAT.onnx is a trained float ResNet8 (MLPerf Tiny's, batch norms folded); its weights are where the
training starts. FOLDER holds `train_batch_*.npz` and `test.npz` with arrays x (uint8, NCHW) and y.

Both addends of a join go through one quantizer, since FINN (and reserve-merge) add codes only where
their steps are equal. The first and the last layer have weights of 8 bits.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import onnx
import torch
from brevitas.export import export_qonnx
from brevitas.nn import QuantConv2d, QuantIdentity, QuantLinear, QuantReLU
from brevitas.quant import (
    Int8ActPerTensorFloat,
    Int8WeightPerChannelFloat,
    Int8WeightPerTensorFloat,
    Uint8ActPerTensorFloat,
)
from onnx import numpy_helper
from torch import Tensor, nn


def conv(inputs: int, outputs: int, kernel: int, bits: int, stride: int = 1) -> QuantConv2d:
    return QuantConv2d(
        inputs, outputs, kernel, stride, kernel // 2, bias=True,
        weight_quant=Int8WeightPerChannelFloat, weight_bit_width=bits,
    )  # fmt: skip


def relu(bits: int) -> QuantReLU:
    return QuantReLU(act_quant=Uint8ActPerTensorFloat, bit_width=bits, return_quant_tensor=False)


def identity(bits: int) -> QuantIdentity:
    return QuantIdentity(act_quant=Int8ActPerTensorFloat, bit_width=bits, return_quant_tensor=False)


class Block(nn.Module):
    """Two 3x3 convolutions and a skip, whose ends share a quantizer."""

    def __init__(self, inputs: int, outputs: int, stride: int, bits: int) -> None:
        super().__init__()
        self.first = conv(inputs, outputs, 3, bits, stride)
        self.inner = relu(bits)
        self.second = conv(outputs, outputs, 3, bits)
        self.skip = conv(inputs, outputs, 1, bits, stride) if stride > 1 else nn.Identity()
        self.addend = identity(bits)
        self.outer = relu(bits)

    def forward(self, x: Tensor) -> Tensor:
        branch = self.second(self.inner(self.first(x)))
        return self.outer(self.addend(branch) + self.addend(self.skip(x)))


class ResNet8(nn.Module):
    """MLPerf Tiny's: 16, 32 and 64 channels, one block each, on pixels of 0 ... 255."""

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.image = QuantIdentity(
            act_quant=Uint8ActPerTensorFloat, bit_width=8, return_quant_tensor=False
        )
        self.stem = conv(3, 16, 3, 8)
        self.act = relu(bits)
        self.blocks = nn.Sequential(
            Block(16, 16, 1, bits), Block(16, 32, 2, bits), Block(32, 64, 2, bits)
        )
        self.pool = nn.AvgPool2d(8)
        self.pooled = identity(8)
        self.classes = QuantLinear(
            64, 10, bias=True, weight_quant=Int8WeightPerTensorFloat, weight_bit_width=8
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.act(self.stem(self.image(x))))
        return self.classes(torch.flatten(self.pooled(self.pool(x)), 1))


def start_from(net: ResNet8, path: Path) -> None:
    """Copies the weights of a float ResNet8, by the order of its layers.

    Raises:
        ValueError: the model has other layers.
    """
    graph = onnx.load(path).graph
    arrays = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    arrays |= {
        node.output[0]: numpy_helper.to_array(node.attribute[0].t)
        for node in graph.node
        if node.op_type == "Constant"
    }
    given = [node for node in graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
    modules = [m for m in net.modules() if isinstance(m, QuantConv2d | QuantLinear)]
    waiting = list(modules)
    for node in given:
        weight = torch.tensor(arrays[node.input[1]])
        for module in waiting:
            fits = weight.shape == module.weight.shape
            turned = node.op_type != "Conv" and weight.T.shape == module.weight.shape
            if fits or turned:
                break
        else:
            raise ValueError(f"{path}: no layer of a ResNet8 has the weights of '{node.name}'")
        waiting.remove(module)
        module.weight.data.copy_(weight if fits else weight.T)
        if len(node.input) > 2:
            module.bias.data.copy_(torch.tensor(arrays[node.input[2]]).reshape(-1))
    if waiting:
        raise ValueError(f"{path} has too few layers for a ResNet8")


def load(folder: Path, *names: str) -> tuple[Tensor, Tensor]:
    parts = [np.load(folder / name) for name in names]
    images = np.concatenate([part["x"] for part in parts])
    labels = np.concatenate([part["y"] for part in parts])
    return torch.tensor(images), torch.tensor(labels.astype(np.int64))


def moved(images: Tensor) -> Tensor:
    """Half of the images mirrored; all of them moved by up to 4 pixels."""
    images = torch.where(torch.rand(len(images), 1, 1, 1) < 0.5, images, images.flip(3))
    padded = nn.functional.pad(images, (4, 4, 4, 4))
    down, right = (int(torch.randint(0, 9, ())) for _ in range(2))
    return padded[:, :, down : down + 32, right : right + 32]


@torch.no_grad()
def accuracy(net: nn.Module, images: Tensor, labels: Tensor) -> float:
    net.eval()
    right = sum(
        int((net(x.float()).argmax(1) == y).sum())
        for x, y in zip(images.split(500), labels.split(500), strict=True)
    )
    return right / len(labels)


def train(
    net: nn.Module, images: Tensor, labels: Tensor, epochs: int, test: tuple[Tensor, Tensor]
) -> None:
    batch, rate = 128, 2e-3
    optimizer = torch.optim.Adam(net.parameters(), rate)
    steps = epochs * (len(images) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps, pct_start=0.2)
    for epoch in range(epochs):
        start, total = time.perf_counter(), 0.0
        net.train()
        order = torch.randperm(len(images))
        for chosen in order.split(batch)[: len(images) // batch]:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(net(moved(images[chosen]).float()), labels[chosen])
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        print(
            f"epoch {epoch + 1}: loss {total / (len(images) // batch):.3f}, test accuracy "
            f"{accuracy(net, *test):.2%}, {time.perf_counter() - start:.0f} s",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("float_model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    net = ResNet8(options.bits)
    start_from(net, options.float_model)
    names = sorted(path.name for path in options.data.glob("train_batch_*.npz"))
    images, labels = load(options.data, *names)
    test = load(options.data, "test.npz")
    net.train()
    net(images[:500].float())  # the quantizers take their first scales from this
    print(f"{len(images)} images to train on; before: {accuracy(net, *test):.2%}", flush=True)
    if options.epochs:
        train(net, images, labels, options.epochs, test)
    net.eval()
    export_qonnx(
        net, args=images[:1].float(), export_path=str(options.out), opset_version=13, dynamo=False
    )
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
