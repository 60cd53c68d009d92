"""Activations as functions of one variable, however an exporter spells them."""

from passes.activations.function import Call, Channels, Function
from passes.activations.saturation import limit, line_from
from passes.activations.symmetry import split_gain

__all__ = ["Call", "Channels", "Function", "limit", "line_from", "split_gain"]
