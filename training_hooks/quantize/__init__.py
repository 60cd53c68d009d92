"""Brevitas quantizers on a float network, as FINN and reserve-merge want them.

    net = quantize(module, images[:1], Widths.parse("w4a4"))
    calibrate(net, [images[:500]])
    ...                                   # any training loop
    export_qonnx(net, images[:1], "network.onnx")

Where the quantizers go:

- weights: one scale a channel for convolutions, one for a linear layer;
- behind every ReLU, unsigned;
- at a join: ONE signed quantizer that all addends go through, since codes are added only where
  their steps are equal;
- directly behind the input, a pool, a sum, a layer: wherever something reads the tensor that wants
  codes, or two things read it that would each round it in their own way. So behind a pool it stands
  before the flattening.

A batch norm is folded into the layer in front of it first (Jacob et al. 2018, section 3.2, train
with it; from trained float weights that is not needed).
"""

from training_hooks.quantize.calibration import calibrate
from training_hooks.quantize.export import export_qonnx
from training_hooks.quantize.insertion import quantize
from training_hooks.quantize.widths import Widths

__all__ = ["Widths", "calibrate", "export_qonnx", "quantize"]
