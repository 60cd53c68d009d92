"""FINN's shipped ResNet-50 for the U250: its skip depths, found again by our simulator."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hwmodel.simulate import Network
from tests.support.benchmarks import benchmark


def test_both_files_are_of_this_design(shared: Path) -> None:
    module = benchmark("finn_resnet50")
    entries = json.loads((shared / module.SHIPPED.relative_to(module.SHARED)).read_text())
    found = module.configuration(module.SHIPPED)
    for name, entry in found.items():  # FINN says each depth twice
        assert entry["outFIFODepths"] == entries[name]["outFIFODepths"]
    shipped, plus = (
        module.shipped(module.ResNet50(module.configuration(path)).design())
        for path in (module.SHIPPED, module.FINN_PLUS)
    )
    assert (sum(shipped.values()), sum(plus.values())) == (362_481, 122_960)


@pytest.mark.slow
def test_every_skip_is_within_half_a_percent_of_finns(shared: Path) -> None:
    module = benchmark("finn_resnet50")
    design = module.ResNet50(module.configuration(module.SHIPPED)).design()
    frame = np.array([stream.words for stream in design.streams])
    run = Network(design).run(frame, frames=2, fed=2)
    assert run.status == "ok"
    assert run.interval == 903_168
    skips = module.skips(design)
    assert len(skips) == 16
    for name in skips:
        assert run.streams[name].peak == pytest.approx(design.stream[name].depth, rel=0.005), name
    assert module.agreeing(design, run.peaks) >= 265
