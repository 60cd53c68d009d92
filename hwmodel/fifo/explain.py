"""What the words of a FIFO are for, in a sentence."""

from __future__ import annotations

from hwmodel.design import Design
from hwmodel.fifo.bounds import Bound, bounds
from hwmodel.kernels import Window


def explain(design: Design, stream: str, bound: Bound | None = None) -> str:
    """Why the FIFO of a stream is as deep as it is.

    Args:
        design: a sized design.
        stream: name of a stream.
        bound: its bound if it is known already.
    """
    found = bound or bounds(design).get(stream)
    depth = design.stream[stream].depth
    if found is None:
        if depth is not None and depth <= 2:
            return "passes words on"
        return "evens out bursts of its writer against its reader"
    parts = []
    for kernel in found.skip.branch:
        if isinstance(kernel, Window) and kernel.kernel != (1, 1):
            count = kernel.kernel[0] - 1
            name = _short(design.layer_of(kernel.name))
            parts.append(f"{count} row{'s' if count > 1 else ''} of {name}")
    held = " + ".join(parts) or "what the branch works on"
    text = f"holds {held}: {found.deadlock} words or deadlock"
    more = found.throughput - found.deadlock
    if more > 0:
        text += f", {more} more for speed"
    if depth is not None and depth > found.throughput:
        text += f", {depth - found.throughput} beyond that for gaps between rows and frames"
    return text


def _short(layer: str) -> str:
    """The telling part of a name such as /layer1/layer1.0/conv1/Conv."""
    parts = [part for part in layer.split("/") if part]
    if len(parts) > 1 and parts[-1].rstrip("_0123456789") in ("Conv", "MatMul", "Gemm"):
        parts.pop()
    return parts[-1] if parts else layer
