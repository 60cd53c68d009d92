"""Moves Transposes towards the outputs and cancels them: `f(T(x)) = T(f(x))`.

Converters of channels-last networks wrap every convolution in Transposes, so that no residual block
is a chain of operators any more. Most operators between them do not care for the order of the axes.
For each of these the pass chooses the order in which it works; a Transpose is needed wherever a
tensor is made in one order and read in another. The choice that needs fewest is a minimum cut.
Among those with equally many the pass prefers operators that work in the order of the convolutions
beside them, then Transposes that stand deep in the network: one remains at the input and one at an
output. So their number never grows, and what is settled stays settled.
"""

from passes.layout.sink import SinkTransposes

__all__ = ["SinkTransposes"]
