"""Shortens kept skips of quantized networks, exactly: the fork moves behind the first convolution.

Tailor's Skip Shortener lets a skip start later and trains the network again. Here nothing changes:
the first convolution of the branch carries the tensor along in reserved channels (`reserve-merge`'s
first step), a Split takes them apart behind its quantizer, and the skip starts there. Its FIFO no
longer waits while the first convolution fills its window, which holds the tensor anyway. The price
is the wider convolution; so a target is asked whether it pays, on the whole model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from graphopt.evidence import Exactness, Refusal, Region, Rewrite
from graphopt.ir.model import Model
from graphopt.pipeline.passes import Context, PassResult
from graphopt.skips import Skip
from passes.fifos import has_fifos, why_not
from passes.refused import Refused
from passes.reserve_merge.quantized import shorten
from passes.skip_detection import Skips


@dataclass(frozen=True)
class SkipShortening:
    """Moves forks behind the first convolution of their branch.

    Attributes:
        when: `worth` asks the cost model, on the whole model, and a target without FIFOs gains
            nothing; `possible` shortens every skip that can be.
    """

    name: ClassVar[str] = "shorten-skip"
    preserves: ClassVar[frozenset[str]] = frozenset()

    when: Literal["worth", "possible"] = "worth"

    def run(self, model: Model, context: Context) -> PassResult:
        """Goes through the skips, each once."""
        if self.when == "worth" and not has_fifos(model, context):
            return PassResult()
        rewrites: list[Rewrite] = []
        refusals: list[Refusal] = []
        tried: set[str] = set()
        while True:
            skips = [one for one in model.analyses.get(Skips()) if one.is_additive]
            skip = next((one for one in skips if one.join not in tried), None)
            if skip is None:
                break
            tried.add(skip.join)
            region = Region(f"{skip.name} shortened", (skip.join,))
            try:
                if self.when == "worth":
                    _check_worth(skip, model, context)
                fact = shorten(skip, model)
            except Refused as reason:
                if reason.code == "not-quantized":
                    continue  # others than QONNX's joins are none of this pass
                chosen = reason.code == "not-worth-it"
                refusals.append(Refusal(self.name, region, str(reason), reason.code, chosen))
                continue
            model.analyses.keep_only(())
            rewrites.append(Rewrite(self.name, "shortened", region, Exactness.EXACT, (fact,)))
        counts = {"shortened": len(rewrites), "left": len(refusals)}
        return PassResult(bool(rewrites), tuple(rewrites), tuple(refusals), (), counts)


def _check_worth(skip: Skip, model: Model, context: Context) -> None:
    """Estimates a copy that has it.

    Raises:
        Refused: it cannot be shortened, or it costs more.
    """
    copy = model.clone()
    copy.tell_apart()
    shorten(skip, copy)
    copy.analyses.keep_only(())
    reason = why_not(model, copy, context)
    if reason is not None:
        raise Refused("not-worth-it", reason)
