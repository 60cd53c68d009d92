"""hls4ml: its FIFOs, its conversion, and its C++ beside the network.

| module | what |
|---|---|
| `streams` | a converted model as a design, its FIFO depths, and depths handed back |
| `lowering` | a quantized network written the way that hls4ml converts to the bit |
| `fixed_point` | HLS's number types |
| `bridge` | hls4ml in an environment of its own: converted, compiled, run, compared |
| `front_end` | what runs there |
"""

from hwmodel.hls4ml.streams import (
    INSIDE,
    WORDS_INSIDE,
    apply_depths,
    configuration,
    default_depth,
    default_depths,
    design,
    dump,
    fifo_bits,
    fifos,
    profiled,
    sized,
    stream_depths,
)

__all__ = [
    "INSIDE",
    "WORDS_INSIDE",
    "apply_depths",
    "configuration",
    "default_depth",
    "default_depths",
    "design",
    "dump",
    "fifo_bits",
    "fifos",
    "profiled",
    "sized",
    "stream_depths",
]
