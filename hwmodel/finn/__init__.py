"""FINN: its own estimates reproduced, its hardware graphs read, its JSON files read and written.

| module | what |
|---|---|
| `formulas` | FINN's estimates of cycles and resources, for each kernel |
| `fifo` | its estimate of a FIFO |
| `graph` | designs from FINN's hardware graphs |
| `config` | folding and FIFO JSON |
| `names` | the names and numbers that FINN gives |
| `lint` | what FINN will stumble over |
| `bridge` | FINN in an environment of its own, run to its estimates |
| `build` | FINN's build as a script, and the steps in which it asks graphopt |
| `package` | model, JSON files and that script in a folder |
| `transformation` | our passes as a qonnx Transformation |
"""

from hwmodel.finn.config import Folding, apply, fifo_json, folding_json, read_fifos, read_folding
from hwmodel.finn.fifo import fifo_resources, fifo_style
from hwmodel.finn.formulas import Estimated, alternatives, cycles, resources
from hwmodel.finn.graph import Connection, read, with_converters, without_converters
from hwmodel.finn.names import Names, finn_names

__all__ = [
    "Connection",
    "Estimated",
    "Folding",
    "Names",
    "alternatives",
    "apply",
    "cycles",
    "fifo_json",
    "fifo_resources",
    "fifo_style",
    "finn_names",
    "folding_json",
    "read",
    "read_fifos",
    "read_folding",
    "resources",
    "with_converters",
    "without_converters",
]
