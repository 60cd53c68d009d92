"""Off-chip feature-map traffic of a layer-by-layer accelerator, and the part of the skips.

    python benchmarks/skip_traffic.py

Beside the published figures of Shortcut Mining (Azizimazreah and Chen, HPCA 2019, abstract):
off-chip feature-map traffic falls by 53.3 % on SqueezeNet, 58 % on ResNet-34 and 43 % on
ResNet-152. ResNet-34, ResNet-152 and MobileNetV2 are exported from examples/networks, which needs
PyTorch; the others come from the shared folder.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import graphopt
from graphopt import Model
from graphopt.errors import GraphoptError
from hwmodel.sequential import Accelerator, Policy, estimate

REPOSITORY = Path(__file__).parents[1]
SHARED = Path(os.environ.get("GRAPHOPT_SHARED", REPOSITORY / ".." / "shared"))
REAL = {
    "ResNet-20": "cifar10/resnet20_torch213_opset13.onnx",
    "ResNet-50": "imagenet/light_resnet50.onnx",
    "SqueezeNet": "imagenet/light_squeezenet.onnx",
    "DenseNet-121": "imagenet/light_densenet121.onnx",
}
BUFFERS = (16, 128, 512, 1024, 2048)
"""KiB of feature maps on the chip."""
PUBLISHED = {"SqueezeNet": 0.533, "ResNet-34": 0.58, "ResNet-152": 0.43}


def real() -> Iterator[tuple[str, Model, Model | None]]:
    """Models of the shared folder, and what the preset `plain` makes of them."""
    folder = SHARED / "data" / "models"
    if not folder.is_dir():
        print(f"{folder} is not there: set GRAPHOPT_SHARED to the folder with the models.")
        return
    for label, name in REAL.items():
        plain = graphopt.optimize(folder / name, preset="plain", verify=False).model
        yield label, Model.load(folder / name), plain


def exported() -> Iterator[tuple[str, Model, None]]:
    """Networks of examples/networks; their weights are random, which traffic does not see."""
    sys.path.insert(0, str(REPOSITORY / "examples"))
    try:
        from networks import NETWORKS, export
        from networks.resnet import Bottleneck, resnet
    except ImportError as error:
        print(f"no ResNet-34, ResNet-152 and MobileNetV2: {error}.")
        return
    networks = {
        "ResNet-34": NETWORKS["resnet34"],
        "ResNet-152": lambda: resnet(Bottleneck, (3, 8, 36, 3)),
        "MobileNetV2": NETWORKS["mobilenet_v2"],
    }
    for label, build in networks.items():
        with tempfile.TemporaryDirectory() as name:
            path = Path(name) / "network.onnx"
            export(build(), (1, 3, 224, 224), path)
            yield label, Model.load(path), None


def traffic(model: Model, kib: int, policy: Policy) -> int:
    """Bytes of maps to and from DRAM."""
    return estimate(model, Accelerator(buffer_bytes=kib * 1024), policy).feature_map_bytes


def saved(model: Model, kib: int, baseline: Policy) -> float:
    """What `shortcut` saves of the traffic of another policy with the same buffer."""
    return 1 - traffic(model, kib, "shortcut") / traffic(model, kib, baseline)


def enough(model: Model, share: float, baseline: Policy) -> int:
    """KiB, to a multiple of 16, from which on about that share is saved."""
    low, high = 0, 512
    while low + 1 < high:
        middle = (low + high) // 2
        if saved(model, middle * 16, baseline) >= share:
            high = middle
        else:
            low = middle
    return high * 16


def main() -> None:
    print("off-chip feature-map traffic in MB, one image, 8-bit activations")
    print(f"{'model':14} {'buffer':>9} {'stream':>8} {'adjacent':>9} {'skips':>6} {'shortcut':>9}"
          f" {'saved':>6} {'plain':>8}")  # fmt: skip
    beside = []
    for source in (real, exported):
        for label, model, plain in source():
            for kib in BUFFERS:
                machine = Accelerator(buffer_bytes=kib * 1024)
                streamed = traffic(model, kib, "stream")
                base = estimate(model, machine, "adjacent")
                before, after = base.feature_map_bytes, traffic(model, kib, "shortcut")
                without = "" if plain is None else f"{traffic(plain, kib, 'adjacent') / 1e6:8.2f}"
                print(
                    f"{label:14} {kib:5d} KiB {streamed / 1e6:8.2f} {before / 1e6:9.2f} "
                    f"{base.skip_bytes / before:6.1%} {after / 1e6:9.2f} "
                    f"{1 - after / before:6.1%} {without}"
                )
            if label in PUBLISHED:
                share = PUBLISHED[label]
                beside.append((label, share, *(enough(model, share, p) for p in BASELINES)))
    print(
        "stream: every map goes out, and comes back for each reader; adjacent: a map stays for\n"
        "the next layer only, skips go out and come back; shortcut: all stay where there is room;\n"
        "skips: share in adjacent; saved: by shortcut, of adjacent; plain: adjacent, after\n"
        "graphopt's preset of that name.\n"
    )
    print("the buffer with which our model saves what Shortcut Mining published, in KiB")
    print(f"{'model':14} {'published':>9} {'of stream':>10} {'of adjacent':>12}")
    for label, share, *sizes in beside:
        print(f"{label:14} {share:9.1%} {sizes[0]:10d} {sizes[1]:12d}")
    print(
        "Ours is no fixed percentage: it depends on how much of a block's maps the buffer holds,\n"
        "and the paper's buffer, word width and baseline are not in its abstract; it also keeps\n"
        "maps that are no shortcuts, which `of stream` counts as saved and `of adjacent` does not."
    )


BASELINES: tuple[Policy, ...] = ("stream", "adjacent")


if __name__ == "__main__":
    try:
        main()
    except GraphoptError as error:
        raise SystemExit(str(error)) from None
