"""How deep each FIFO has to be.

| module | what it answers |
|---|---|
| `needs` | how many words a kernel has to take before it gives its n-th; exact, without time |
| `bounds` | closed forms for the FIFO of a skip: free of deadlock, full throughput |
| `search` | by simulation: occupancy, the smallest depth of one FIFO, the joint minimum of all |
| `placement` | on which stream of a skip its FIFO costs least |
| `sharing` | one FIFO for several skips of one source |
| `explain` | what the words of a FIFO are for |

Two questions that are often confused: *occupancy* is how full an unlimited FIFO becomes, which
depends on how eagerly the source sends; *need* is the smallest depth at which the design is as
fast as with unlimited FIFOs. FINN sizes by occupancy; need is smaller, and the joint need of all
FIFOs smaller still.
"""

from hwmodel.fifo.bounds import Bound, bounds
from hwmodel.fifo.explain import explain
from hwmodel.fifo.placement import Move, placed
from hwmodel.fifo.search import SMALLEST, Sizing, deadlock_free, minimal, occupancy, size
from hwmodel.fifo.sharing import shared

__all__ = [
    "SMALLEST",
    "Bound",
    "Move",
    "Sizing",
    "bounds",
    "deadlock_free",
    "explain",
    "minimal",
    "occupancy",
    "placed",
    "shared",
    "size",
]
