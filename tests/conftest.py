"""What every test may ask for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

REPOSITORY = Path(__file__).resolve().parents[1]

# A first example may pay for an import or a session of ONNX Runtime, so time says nothing. A run is
# the same every time, so what it passes it passes elsewhere; `--hypothesis-profile explore` draws
# new ones each time.
settings.register_profile("graphopt", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None)
settings.load_profile("graphopt")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with the real models and data sets, which are not in the repository."""
    folder = Path(os.environ.get("GRAPHOPT_SHARED", REPOSITORY.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there: set GRAPHOPT_SHARED to the folder with the models")
    return folder
