"""The training hooks: retraining in PyTorch what no rewrite removes exactly.

Nothing lives here yet. Students, gates, losses, schedules, methods and the bridge from and to
ONNX will; they plug into graphopt through the entry-point group `graphopt.commands`.
"""
