"""Networks as Brevitas defines them, through the preset `finn`: same results, FINN's verdict.

    python benchmarks/brevitas_networks.py [--finn]

CNV 2w2a (Umuroglu et al. 2017) and MobileNetV1 4b, from `brevitas_examples`; weights are random and
batch norms have the statistics of random images, so that the networks do something. Both are
compared in the reference evaluator before and after, in float32. With --finn, FINN's stock
estimate-only steps are run on the export as it is, and on the result (`graphopt finn setup` first).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from brevitas.export import export_qonnx

from graphopt import optimize
from graphopt.ir import Model, save
from graphopt.verify.runtime import runner
from hwmodel.finn.package import annotated

SAMPLES = 4


def networks() -> dict[str, tuple[Any, tuple[int, ...]]]:
    """Each network and the shape of its input."""
    from brevitas_examples.bnn_pynq.models import model_with_cfg as small
    from brevitas_examples.imagenet_classification.models import model_with_cfg as large

    return {
        "CNV 2w2a": (small("CNV_2W2A", pretrained=False)[0], (1, 3, 32, 32)),
        "MobileNetV1 4b": (large("quant_mobilenet_v1_4b", pretrained=None)[0], (1, 3, 224, 224)),
    }


def images(shape: tuple[int, ...], count: int, *, whole: bool) -> torch.Tensor:
    """Random images: whole numbers 0 ... 255, or -1 ... 1."""
    drawn = torch.rand(count, *shape[1:])
    return (drawn * 255).round() if whole else drawn * 2 - 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--finn", action="store_true", help="run FINN's stock steps on both")
    parser.add_argument("--limit", type=float, default=900, help="seconds for each of FINN's runs")
    options = parser.parse_args()
    for name, (net, shape) in networks().items():
        torch.manual_seed(0)
        # CNV quantizes its input; MobileNetV1 takes it as it comes, which must be integers then.
        whole = shape[-1] == 224
        net.train()
        for module in net.modules():
            if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
                module.momentum = 1.0  # the statistics of the last batch
        with torch.no_grad():
            for _ in range(5):
                net(images(shape, 8, whole=whole))
        net.eval()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "before.onnx"
            export_qonnx(
                net, args=images(shape, 1, whole=whole), export_path=str(path), opset_version=13,
                dynamo=False,
            )  # fmt: skip
            before = Model.load(onnx.load(path))
            if whole:
                before = annotated(before, "UINT8")
                save(before, path)
            outcome = optimize(before, preset="finn", verify=False)
            after = Path(folder) / "after.onnx"
            save(outcome.model, after)
            rules = Counter(one.rule for one in outcome.model.evidence.rewrites)
            print(f"{name}: {', '.join(f'{rule} {count}' for rule, count in rules.items())}")
            # Random weights leave little behind an average of few bits: what it reads tells more.
            pools = [n.inputs[0].name or "" for n in before.graph if n.op_type == "AveragePool"]
            tensor = (pools or [before.graph.outputs[0].name or ""])[-1]
            name_in = next(v.name or "" for v in before.graph.inputs if not v.is_initializer())
            runs = [runner(model, [tensor]) for model in (before, outcome.model)]
            for number, x in enumerate(images(shape, SAMPLES, whole=whole).numpy()):
                one, other = (run.run({name_in: x[None]})[tensor] for run in runs)
                print(
                    f"  image {number}: {np.count_nonzero(np.abs(one - other) > 1e-5)} of "
                    f"{one.size} values of {tensor} differ (mean {one.mean():.4g}, largest "
                    f"{np.abs(one).max():.4g})"
                )
            if not options.finn:
                continue
            from hwmodel.finn import bridge

            for label, model in (("as exported", path), ("through graphopt", after)):
                start = time.perf_counter()
                found = bridge.estimate(
                    model, Path(folder) / label, board="ZCU104", limit=options.limit
                )
                verdict = (
                    f"accepted: {found.layers} layers, LUT {found.resources['LUT']:,.0f}, BRAM18 "
                    f"{found.resources['BRAM_18K']:,.0f}, {found.fps:,.1f} fps"
                    if found.accepted
                    else f"rejected at {found.step}: {found.reason[:120]}"
                )
                print(f"  FINN, {label}: {verdict} ({time.perf_counter() - start:.0f} s)")


if __name__ == "__main__":
    main()
