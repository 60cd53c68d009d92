"""Ranges: between which bounds the values of each tensor lie, whatever the input.

Interval arithmetic, per channel (axis 1) where that can be kept, and sound for the *float*
evaluation of the model, not only for the function over the reals. An operator that sums is bounded
by the backward error of summation in any order: `fl(sum t_i) = sum t_i (1 + d_i)` with
`|d_i| <= gamma_n = n u / (1 - n u)`, u the unit roundoff and n the number of roundings that a term
goes through (Higham, Accuracy and Stability of Numerical Algorithms, 2nd edition, sections 3.1 and
4.2). Each term is widened by itself, so signs stay exact: a sum of terms that are all >= 0 is >= 0
in floats too; and a sum with one term that is not 0, and a weight that is a power of two, is not
widened at all (a Dirac kernel hands on exactly the interval it reads). Products that underflow, or
are flushed to zero, are allowed for.

What the bounds assume:
- the input is finite and nothing overflows: NaN and infinities are outside of every claim;
- sums are sums: fast convolutions that subtract (Winograd, FFT) and matrix products in a format
  narrower than the tensor's (TF32) err more than gamma_n and may leave the sign of a zero bound;
- elementary functions (exp, tanh, sigmoid, erf ...) err by at most `ELEMENTARY` units of roundoff,
  several times what ONNX Runtime's polynomials do (its tanh reaches 1 + 4u, which the bound keeps).

Tensors inside subgraphs (If, Loop, Scan) are not in the table.
"""

from passes.ranges.analysis import Ranges
from passes.ranges.interval import Interval
from passes.ranges.table import RangeTable

__all__ = ["Interval", "RangeTable", "Ranges"]
