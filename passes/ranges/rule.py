"""Rules: functions that bound what an operator computes, by the operators they are for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

from passes.ranges.interval import Bounds
from passes.ranges.step import Step

Result: TypeAlias = Bounds | list[Bounds | None] | None
"""Bounds of the first output, of all of them, or None for what the type says."""

Compute: TypeAlias = Callable[[Step], Result]


class Rule(NamedTuple):
    """One rule.

    Attributes:
        compute: bounds the outputs of a node.
        integers: whether it holds for integer outputs too (no arithmetic that wraps).
    """

    compute: Compute
    integers: bool


class Rules(dict[tuple[str, str], Rule]):
    """`Rule` by domain and operator."""

    def add(
        self, operators: str, *, domains: Sequence[str] = ("",), integers: bool = False
    ) -> Callable[[Compute], Compute]:
        """Decorates the rule for some operators, listed with spaces between them."""

        def register(compute: Compute) -> Compute:
            for domain in domains:
                for operator in operators.split():
                    self[domain, operator] = Rule(compute, integers)
            return compute

        return register
