"""The hardware model: what a network costs on FINN, hls4ml and similar targets.

Nothing lives here yet. Devices, kernels, the dataflow view, the FIFO and token simulation, the
budget and the joint planner will; they plug into graphopt through the entry-point groups
`graphopt.cost_models` and `graphopt.commands`.
"""
