"""`Pipeline`: runs passes one after the other, each as a transaction."""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from graphopt import plugins
from graphopt.errors import GraphoptError, PassFailed, PipelineError
from graphopt.evidence import Refusal, Rewrite
from graphopt.ir.fingerprint import fingerprint
from graphopt.ir.io import save, write_whole
from graphopt.ir.model import Model, node_label
from graphopt.pipeline.instruments import Instrument
from graphopt.pipeline.passes import Context, Pass, PassResult
from graphopt.pipeline.text import build, parse, unparse
from graphopt.verify import algebra


@dataclass(frozen=True)
class PassRecord:
    """What one pass of a run did, and how long it took."""

    name: str
    changed: bool
    seconds: float
    rewrites: tuple[Rewrite, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    claims_checked: int = 0
    statistics: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Pipeline:
    """A sequence of passes.

    Attributes:
        passes: in order.
        reproducers: folder for crash reproducers, or None to write none.
    """

    passes: tuple[Pass, ...]
    reproducers: Path | None = None

    @classmethod
    def parse(cls, text: str, reproducers: Path | None = None) -> Pipeline:
        """The pipeline that `text` describes, such as `fold-norm,reserve-merge{form=dense}`.

        Raises:
            PipelineError: the text is malformed, or names an unknown pass or option.
        """
        known = plugins.passes()
        made = []
        for name, options in parse(text):
            if name not in known:
                raise PipelineError(
                    f"no pass is called '{name}'{plugins.suggestion(name, known)}: see "
                    "`graphopt passes`."
                )
            made.append(build(known[name].load(), options))
        return cls(tuple(made), reproducers)

    def __str__(self) -> str:
        return unparse(self.passes)

    def run(
        self,
        model: Model,
        context: Context | None = None,
        instruments: Sequence[Instrument] = (),
    ) -> tuple[PassRecord, ...]:
        """Applies the passes to `model` in place.

        Each pass works on a draft that replaces the model only when the pass has returned and says
        that it changed something, its claims about the weights hold, the draft is consistent and no
        instrument objects.

        Raises:
            PassFailed: a pass raised or was rejected; the model is as the pass before left it.
        """
        context = context or Context()
        records: list[PassRecord] = []
        for index, one in enumerate(self.passes):
            context.progress(one.name, index / len(self.passes))
            records.append(self._apply(index, model, context, instruments))
        return tuple(records)

    def _apply(
        self, index: int, model: Model, context: Context, instruments: Iterable[Instrument]
    ) -> PassRecord:
        one = self.passes[index]
        draft = model.clone()
        start = time.perf_counter()
        try:
            result = one.run(draft, context)
            if result.changed:
                check_consistent(draft)
                draft.analyses.keep_only(one.preserves)
            algebra.check(result.claims, model, draft)
            for instrument in instruments:
                instrument.after_pass(one, model, draft, result)
        except Exception as error:
            raise self._failure(index, model, error) from error
        if result.changed:
            model.adopt(draft)
        model.evidence = model.evidence.with_added(result.rewrites, result.refusals)
        return _record(one, result, time.perf_counter() - start)

    def _failure(self, index: int, model: Model, error: Exception) -> PassFailed:
        one = self.passes[index]
        before = ", ".join(p.name for p in self.passes[:index]) or "no other pass"
        text = (
            str(error) if isinstance(error, GraphoptError) else f"{type(error).__name__}: {error}"
        )
        where = ""
        if self.reproducers is not None:
            try:
                folder = self._reproducer(index, model, error)
                where = f" To see it again: graphopt optimize {folder / 'model.onnx'} --pipeline "
                where += f'"$(cat {folder / "pipeline.txt"})" --debug'
            except (GraphoptError, OSError) as trouble:
                where = f" (no reproducer could be written: {trouble})"
        return PassFailed(f"the pass '{one.name}' (after {before}) failed: {text}{where}")

    def _reproducer(self, index: int, model: Model, error: Exception) -> Path:
        """The model before the failing pass and the pipeline from there, as in MLIR."""
        assert self.reproducers is not None
        folder = self.reproducers / f"graphopt-crash-{fingerprint(model)[:12]}"
        folder.mkdir(parents=True, exist_ok=True)
        save(model, folder / "model.onnx")
        rest = unparse(self.passes[index:])
        write_whole(folder / "pipeline.txt", (rest + "\n").encode())
        trace = "".join(traceback.format_exception(error))
        write_whole(folder / "traceback.txt", trace.encode())
        return folder


def check_consistent(model: Model) -> None:
    """Refuses a graph that is not single-assignment, not in order, or reads what nobody makes.

    Raises:
        PassFailed: naming the node.
    """
    known = {value.name for value in model.graph.inputs}
    known |= set(model.graph.initializers)
    for node in model.graph:
        for value in node.inputs:
            if value is not None and value.name not in known:
                raise PassFailed(
                    f"node '{node_label(node)}' reads '{value.name}' before it is made"
                )
        for value in node.outputs:
            if value.name and value.name in known:
                raise PassFailed(f"two nodes make '{value.name}'")
            known.add(value.name)
    for value in model.graph.outputs:
        if value.name not in known:
            raise PassFailed(f"the output '{value.name}' is made by no node")


def _record(one: Pass, result: PassResult, seconds: float) -> PassRecord:
    return PassRecord(
        name=one.name,
        changed=result.changed,
        seconds=seconds,
        rewrites=result.rewrites,
        refusals=result.refusals,
        claims_checked=len(result.claims),
        statistics=dict(result.statistics),
    )
