"""Passes that misbehave on purpose, and how to install them for one test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import onnx_ir
import pytest

from graphopt import plugins
from graphopt.ir import Model
from graphopt.pipeline import Context, PassResult


@dataclass(frozen=True)
class Installed:
    """What `plugins.passes()` holds for each name."""

    factory: Any

    def load(self) -> Any:
        return self.factory


def install(monkeypatch: pytest.MonkeyPatch, *factories: Any) -> None:
    """Installs passes beside the real ones."""
    known = plugins.passes() | {factory.name: Installed(factory) for factory in factories}
    monkeypatch.setattr(plugins, "passes", lambda: dict(sorted(known.items())))


CHANGED = PassResult(changed=True)


@dataclass(frozen=True)
class Edit:
    """Runs any function on the draft, and says `result`."""

    edit: Callable[[Model], object]
    result: PassResult = CHANGED
    preserves: frozenset[str] = frozenset()
    name: ClassVar[str] = "edit"

    def run(self, model: Model, context: Context) -> PassResult:
        self.edit(model)
        return self.result


@dataclass(frozen=True)
class NegateOutput:
    """Wrong: the first output changes its sign."""

    name: ClassVar[str] = "negate-output"
    preserves: ClassVar[frozenset[str]] = frozenset()

    def run(self, model: Model, context: Context) -> PassResult:
        negate(model)
        return PassResult(changed=True)


@dataclass(frozen=True)
class Explode:
    """Edits half of what it wants to, then raises."""

    name: ClassVar[str] = "explode"
    preserves: ClassVar[frozenset[str]] = frozenset()
    fuse: int = 3

    def run(self, model: Model, context: Context) -> PassResult:
        negate(model)
        raise ZeroDivisionError(f"the fuse was {self.fuse}")


@dataclass(frozen=True)
class Nothing:
    """Does nothing and says so."""

    name: ClassVar[str] = "nothing"
    preserves: ClassVar[frozenset[str]] = frozenset()

    def run(self, model: Model, context: Context) -> PassResult:
        return PassResult(statistics={"looked at": model.graph.num_nodes()})


def append(model: Model, operator: str) -> None:
    """Puts a unary operator behind the first output, which keeps its name."""
    output = model.graph.outputs[0]
    name, producer = output.name, output.producer()
    assert producer is not None
    output.name = f"{name}.inner"
    node = onnx_ir.node(operator, [output])
    node.outputs[0].name = name
    node.outputs[0].type, node.outputs[0].shape = output.type, output.shape
    model.graph.append(node)
    model.graph.outputs[0] = node.outputs[0]


def negate(model: Model) -> None:
    """Changes the sign of the first output."""
    append(model, "Neg")
