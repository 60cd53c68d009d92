"""The training hooks: what happens in PyTorch before or after a graph is rewritten.

So far: architectures that are designed for the removal of their skips, and the sparsity penalty
that network slimming needs. Students, gates, losses, schedules, methods and the bridge from and to
ONNX will follow; they plug into graphopt through the entry-point group `graphopt.commands`.
"""
