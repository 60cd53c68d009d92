"""Prunes channels: the network without them, not with a mask over them.

Where tensors meet in an Add, their channels can only go together, so skip connections are what
makes structured pruning hard. Once the joins are gone, each layer's channels stand alone, and what
nobody needs can be taken out of the weights before and behind.
"""

from passes.channel_pruning.prune import PruneChannels

__all__ = ["PruneChannels"]
