"""The training hooks: what happens in PyTorch before or after a graph is rewritten.

So far: architectures that are designed for the removal of their skips, the sparsity penalty that
network slimming needs, and Brevitas quantizers as FINN wants them (`quantize`; float ONNX models
become modules through `graphopt.interop.torch`); the losses of JointRD, AlignKD, Tailor and plain
distillation (`losses`, on networks in stages: `staged`), and the published schedules (`schedules`).
Students, gates and methods will follow; they plug into graphopt through the entry-point group
`graphopt.commands`.
"""
