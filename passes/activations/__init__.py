"""Activations as functions of one variable, however an exporter spells them."""

from passes.activations.function import Call, Channels, Function
from passes.activations.saturation import identity_from, limit
from passes.activations.symmetry import split_gain

__all__ = ["Call", "Channels", "Function", "identity_from", "limit", "split_gain"]
