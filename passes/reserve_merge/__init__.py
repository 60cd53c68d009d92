"""Reserve and merge: removes a residual join exactly (RMNet, sections 4.1 to 4.4)."""

from passes.reserve_merge.quantized import QuantizedReserveMerge
from passes.reserve_merge.rewrite import ReserveMerge

__all__ = ["QuantizedReserveMerge", "ReserveMerge"]
