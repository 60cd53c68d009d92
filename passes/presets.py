"""Named pipelines."""

_CLEAN = "freeze-weights,fold-constants,sink-transposes,fold-norm"
_FUSED = f"{_CLEAN},branch-fusion,fold-norm"
_MERGED = "fold-norm,linear-fusion"
_AFTER = f"{_MERGED},{_MERGED},dce"  # what was fused may let a scale in, and be fused again

_SHORTER = "narrow-skip,shorten-skip"  # of the skips that stay

CLEAN = f"{_CLEAN},dce"
"""Only the housekeeping."""

DEFAULT = f"{_FUSED},mobilenet-v1,reserve-merge,reserve-merge-quantized,{_SHORTER},{_AFTER}"
"""What is exact and not worse on the target."""

PLAIN = (
    f"{_FUSED},mobilenet-v1,reserve-merge{{when=possible}},"
    f"reserve-merge-quantized{{when=possible}},{_AFTER}"
)
"""Removes every skip that can be removed exactly, whatever it costs."""

PLAIN_CONCAT = PLAIN.replace("merge{when=possible}", "merge{when=possible,concat=true}")
"""As `plain`, and concatenations too."""
