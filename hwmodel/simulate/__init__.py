"""A token simulator of streaming designs: counts, not data, exact to the cycle."""

from hwmodel.simulate.network import UNLIMITED, Network, Run, StreamRun, Wait, simulate

__all__ = ["UNLIMITED", "Network", "Run", "StreamRun", "Wait", "simulate"]
