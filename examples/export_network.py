"""Exports a well-known network, with lively random weights, to ONNX.

Usage: python examples/export_network.py resnet18 -o resnet18.onnx --width 0.25 --size 64
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from networks import NETWORKS, export, input_shape, lively


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Export a well-known network to ONNX.")
    parser.add_argument("network", choices=NETWORKS, metavar="NETWORK", nargs="?")
    parser.add_argument("-o", "--output", type=Path, help="file to write (default: NETWORK.onnx)")
    parser.add_argument("--width", type=float, default=1.0, help="factor on all channels")
    parser.add_argument("--size", type=int, help="side of the image (224) or tokens (128)")
    parser.add_argument("--seed", type=int, default=0, help="of the random weights")
    parser.add_argument("--list", action="store_true", help="list the networks and stop")
    chosen = parser.parse_args()
    if not (chosen.network or chosen.list):
        parser.error("name a network, or --list them")
    return chosen


def main() -> None:
    chosen = arguments()
    if chosen.list:
        for name, build in NETWORKS.items():
            with torch.device("meta"):
                count = sum(weight.numel() for weight in build(width=chosen.width).parameters())
            print(f"{name:22}{count / 1e6:7.2f} M parameters")
        return
    of_tokens = chosen.network.startswith("bert")
    tokens = {"tokens": chosen.size} if of_tokens and chosen.size else {}
    module = lively(NETWORKS[chosen.network](width=chosen.width, **tokens), chosen.seed)
    shape = input_shape(module, chosen.size or 224)
    path = chosen.output or Path(f"{chosen.network}.onnx")
    export(module, shape, path)
    size = path.stat().st_size / 1e6
    print(f"{path}: input [N, {', '.join(map(str, shape[1:]))}], {size:.1f} MB")


if __name__ == "__main__":
    main()
