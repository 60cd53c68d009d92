"""The package's front door."""

from __future__ import annotations

import importlib
import types

import pytest

import graphopt
from tests.support.models import residual_net


def test_what_it_offers_is_there() -> None:
    for name in graphopt.__all__:
        assert getattr(graphopt, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = graphopt.nothing


def test_no_submodule_takes_the_place_of_what_is_offered() -> None:
    """Importing a submodule sets an attribute of its name on the package."""
    for name in graphopt.__all__:
        importlib.import_module(graphopt._HOMES[name])
        assert not isinstance(getattr(graphopt, name), types.ModuleType)


def test_optimize_twice() -> None:
    for _ in range(2):
        outcome = graphopt.optimize(residual_net(1), preset="plain", verify=False)
        assert outcome.changed
