"""Named pipelines."""

_CLEAN = "freeze-weights,fold-constants,sink-transposes,fold-norm"
_FUSED = f"{_CLEAN},branch-fusion,fold-norm"
_AFTER = "fold-norm,linear-fusion,dce"

CLEAN = f"{_CLEAN},dce"
"""Only the housekeeping."""

DEFAULT = f"{_FUSED},mobilenet-v1,reserve-merge,{_AFTER}"
"""What is exact and not worse on the target."""

PLAIN = f"{_FUSED},mobilenet-v1,reserve-merge{{when=possible}},{_AFTER}"
"""Removes every skip that can be removed exactly, whatever it costs."""

PLAIN_CONCAT = PLAIN.replace("{when=possible}", "{when=possible,concat=true}")
"""As `plain`, and concatenations too."""
