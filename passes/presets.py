"""Named pipelines."""

DEFAULT = "freeze-weights,fold-constants,fold-norm,reserve-merge,linear-fusion,dce"
"""What is exact and not worse on the target."""

PLAIN = "freeze-weights,fold-constants,fold-norm,reserve-merge{when=possible},linear-fusion,dce"
"""Removes every skip that can be removed exactly, whatever it costs."""

CLEAN = "freeze-weights,fold-constants,fold-norm,dce"
"""Only the housekeeping."""
