"""The kernels of a streaming accelerator: what each one is, does in a frame, and costs in time.

A kernel reads words from its input streams and writes words to its output streams, one at a time,
with ready / valid handshakes. The names in brackets are FINN's.

| module | kernels |
|---|---|
| `window` | `Padding` (FMPadding), `Window` (ConvolutionInputGenerator), `Downsample`, \
`ChannelPadding` |
| `matrix` | `MatrixVector` (MVAU), `VectorVector` (VVAU) |
| `threshold` | `Threshold` (Thresholding), `Channelwise` (ChannelwiseOp) |
| `plumbing` | `WidthConverter`, `Fork` (DuplicateStreams), `Join` (AddStreams, elementwise), \
`Concat` (StreamingConcat), `Split` (StreamingSplit), `Shuffle` |
| `pooling` | `MaxPool` (StreamingMaxPool), `Pool`, `GlobalPool` (GlobalAccPool), `Upsample`, \
`LabelSelect` |
"""

from hwmodel.kernels.kernel import Kernel
from hwmodel.kernels.matrix import MatrixVector, VectorVector
from hwmodel.kernels.plumbing import Concat, Fork, Join, Shuffle, Split, WidthConverter
from hwmodel.kernels.pooling import GlobalPool, LabelSelect, MaxPool, Pool, Upsample
from hwmodel.kernels.threshold import Channelwise, Threshold
from hwmodel.kernels.window import ChannelPadding, Downsample, Padding, Window

__all__ = [
    "ChannelPadding",
    "Channelwise",
    "Concat",
    "Downsample",
    "Fork",
    "GlobalPool",
    "Join",
    "Kernel",
    "LabelSelect",
    "MatrixVector",
    "MaxPool",
    "Padding",
    "Pool",
    "Shuffle",
    "Split",
    "Threshold",
    "Upsample",
    "VectorVector",
    "WidthConverter",
    "Window",
]
