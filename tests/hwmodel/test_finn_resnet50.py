"""FINN's shipped ResNet-50 for the U250: its skip depths, found again by our simulator."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwmodel.simulate import Network

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "finn_resnet50.py"


def benchmark() -> Any:
    spec = importlib.util.spec_from_file_location("finn_resnet50", BENCHMARK)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_every_skip_is_within_half_a_percent_of_finns(shared: Path) -> None:
    path = shared / "truth" / "finn_configs" / "resnet50__folding_config__U250_folding_config.json"
    config = json.loads(path.read_text())
    module = benchmark()
    design = module.ResNet50(config).design()
    frame = np.array([stream.words for stream in design.streams])
    run = Network(design).run(frame, frames=2, fed=2)
    assert run.status == "ok"
    assert run.interval == 903_168
    depths = module.skips(design, config)
    assert len(depths) == 16
    for name, finn in depths.items():
        assert run.streams[name].peak == pytest.approx(finn, rel=0.005), name
