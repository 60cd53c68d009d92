"""The pass `branch-fusion`: parallel linear branches of one tensor become one operator."""

from passes.branch_fusion.fusion import BranchFusion

__all__ = ["BranchFusion"]
