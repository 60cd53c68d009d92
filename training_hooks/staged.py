"""A network in stages, as the stage-wise methods see it: features, then a classifier."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class Staged(nn.Module):
    """`C . f_n ... f_1`: n stages and what turns the last features into logits.

    Args:
        stages: f_1 ... f_n; each maps features [N, C_i-1, ...] to [N, C_i, ...].
        head: C, from the last features to logits [N, classes].
    """

    def __init__(self, stages: Sequence[nn.Module], head: nn.Module) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, classes]."""
        return self.after(0, x)

    def features(self, x: Tensor) -> list[Tensor]:
        """What each stage gives, f_{1..i}(x) for i = 1 ... n."""
        found = []
        for stage in self.stages:
            x = stage(x)
            found.append(x)
        return found

    def after(self, stage: int, features: Tensor) -> Tensor:
        """Logits from the features behind the first `stage` stages: C . f_{stage+1..n}."""
        for one in self.stages[stage:]:
            features = one(features)
        logits: Tensor = self.head(features)
        return logits
