"""Whether two models compute the same: run both on inputs that hurt and compare."""

from __future__ import annotations

import enum
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from graphopt.ir.fingerprint import essence, fingerprint
from graphopt.ir.layers import data_tensors
from graphopt.ir.model import Model
from graphopt.verify.inputs import Case, cases
from graphopt.verify.runtime import CannotRun, runner
from graphopt.verify.tolerance import SPREAD, allowed, disturbed, quantizes

Array = npt.NDArray[Any]
Progress = Callable[[str, float], None]

INNER_PROBES = 8
"""Inner tensors that are compared where the outputs do not depend on the input."""

MAX_NOISE = 0.05
"""A tensor whose rounding noise is a larger share of its values than this proves nothing."""


class Status(enum.Enum):
    """The verdict of a comparison."""

    UNCHANGED = "unchanged"
    """The graphs and weights are identical, constants evaluated: there is nothing to compare."""
    EQUAL = "equal"
    DIFFERENT = "different"
    INCONCLUSIVE = "inconclusive"
    """Nothing tells: no tensor depends on the input, or all drown in rounding noise."""
    NOT_RUN = "not run"
    """No runtime on this machine executes the model."""
    RETRAIN = "needs retraining"
    """A pass changed what the model computes, and says so: equal outputs are not to be expected."""
    BOUNDED = "approximate"
    """A pass changed it within bounds that it states."""


@dataclass(frozen=True)
class OutputError:
    """The worst error of one tensor over all inputs.

    Attributes:
        tensor: its name.
        absolute: the error, absolute.
        relative: relative to the largest magnitude in the original's tensor.
        noise: rounding noise of the noisier model on that input, relative likewise.
        tolerance: greatest error allowed on that input, relative likewise.
        case: the input on which the error came closest to its tolerance.
        telling: whether the tensor depends on the input and rises above its noise.
        inner: whether it is an inner tensor.
    """

    tensor: str
    absolute: float
    relative: float
    noise: float
    tolerance: float
    case: str
    telling: bool
    inner: bool = False


@dataclass(frozen=True)
class Verification:
    """How the equivalence of two models was checked, and what came out."""

    status: Status
    reason: str
    errors: tuple[OutputError, ...] = ()
    cases: tuple[str, ...] = ()

    @property
    def worst(self) -> OutputError | None:
        """The tensor whose error came closest to its tolerance, of those that tell anything."""
        telling = [error for error in self.errors if error.telling]
        return max(telling or self.errors, key=_share, default=None)


def compare(
    before: Model,
    after: Model,
    *,
    probes: Sequence[str] = (),
    seconds: float = 10.0,
    seed: int = 0,
    progress: Progress = lambda text, share: None,
) -> Verification:
    """Compares two models on inputs that hurt.

    Args:
        before: the original.
        after: the model that must compute the same.
        probes: inner tensors present in both under the same name, compared as well.
        seconds: after about this long no further input is tried (four always are).
        seed: of the random inputs.
        progress: called with a sentence and a share between 0 and 1.

    Returns:
        The verdict. Integer and boolean tensors must agree exactly, but where rounding noise moves
        codes of quantizers; float ones within the tolerance of `tolerance.allowed`; NaN and
        infinities must stand in the same places. Where the outputs do not depend on the input,
        inner tensors are compared before giving up.
    """
    if fingerprint(before) == fingerprint(after):
        return Verification(Status.UNCHANGED, "the graph and its weights are the same")
    if essence(before) == essence(after):
        return Verification(
            Status.UNCHANGED,
            "only constants were evaluated and dead code was removed; what is left is the same",
        )
    mismatch = _interfaces_differ(before, after)
    if mismatch:
        return Verification(Status.DIFFERENT, mismatch)
    found = _run(before, after, probes, seconds, seed, progress)
    if found.status is Status.INCONCLUSIVE:
        inner = tuple(dict.fromkeys((*probes, *_common(before, after))))
        if set(inner) != set(probes):
            return _run(before, after, inner, seconds, seed, progress)
    return found


def waived(found: Verification, passes: Sequence[str], *, retrain: bool) -> Verification:
    """The verdict where `passes` changed on purpose what the model computes: a comparison proves
    nothing then, but a model that does not run, or has other inputs or outputs, is still wrong.

    Args:
        found: the comparison.
        passes: names of the passes.
        retrain: whether the model must be trained again; else the evidence states bounds.
    """
    if found.status is Status.DIFFERENT and not found.errors:
        return found
    reason = f"{', '.join(passes)} changed what the model computes"
    if found.worst is not None:
        reason += (
            f" ('{found.worst.tensor}' by up to {found.worst.relative:.2g} of its largest value)"
        )
    cure = "train it again and measure" if retrain else "the report states the bounds: measure"
    reason += f", so no comparison proves it; {cure} the accuracy"
    status = Status.RETRAIN if retrain else Status.BOUNDED
    return replace(found, status=status, reason=reason)


def _common(before: Model, after: Model) -> list[str]:
    """The last inner tensors that both models make under the same name."""
    outputs = {value.name for value in before.graph.outputs}
    shared = data_tensors(before) & data_tensors(after)
    names = [output.name for node in before.graph for output in node.outputs]
    return [name for name in names if name in shared and name not in outputs and name][
        -INNER_PROBES:
    ]


def _run(
    before: Model,
    after: Model,
    probes: Sequence[str],
    seconds: float,
    seed: int,
    progress: Progress,
) -> Verification:
    try:
        signs = (1, -1) if quantizes(before) else (1,)
        old, new = (runner(model, probes) for model in (before, after))
        old_noisy, new_noisy = (
            [runner(disturbed(model, sign=sign), probes) for sign in signs]
            for model in (before, after)
        )
    except CannotRun as error:
        return Verification(Status.NOT_RUN, str(error))
    outputs = {value.name for value in before.graph.outputs if value.name}
    tallies: dict[str, _Tally] = {}
    done: list[str] = []
    refused = ""
    plan = list(cases(before, seed))
    start = time.perf_counter()
    for number, case in enumerate(plan):
        if len(done) >= 4 and time.perf_counter() - start > seconds:
            break
        progress(f"comparing on {case.name}", number / len(plan))
        try:
            expected = old.run(case.feeds)
            disturbed_old = [one.run(case.feeds) for one in old_noisy]
        except CannotRun as error:
            refused = str(error)
            continue
        try:
            found = new.run(case.feeds)
            disturbed_new = [one.run(case.feeds) for one in new_noisy]
        except CannotRun as error:
            return Verification(Status.DIFFERENT, f"on {case.name} the new model fails: {error}")
        done.append(case.name)
        for name, array in expected.items():
            tally = tallies.setdefault(name, _Tally(name, name not in outputs, len(signs) > 1))
            changes = [_change(array, run.get(name)) for run in disturbed_old]
            changes += [_change(found.get(name), run.get(name)) for run in disturbed_new]
            noise = _Change(max(c.size for c in changes), max(c.count for c in changes))
            tally.add(case, array, found.get(name), noise)
    if not done:
        return Verification(Status.NOT_RUN, f"the original runs on none of the inputs: {refused}")
    return _verdict(tuple(tallies.values()), tuple(done))


@dataclass(frozen=True)
class _Change:
    """How two runs of one tensor differ: by how much at most, and in how many places by more than
    float arithmetic always grants.
    """

    size: float = 0.0
    count: int = 0


def _change(array: Array | None, other: Array | None) -> _Change:
    """The difference between two runs of one tensor, where both are finite."""
    if array is None or other is None or array.dtype.kind in "bOSU" or array.shape != other.shape:
        return _Change()
    x, y = array.astype(np.float64), other.astype(np.float64)
    both = np.isfinite(x) & np.isfinite(y)
    off = np.abs(x[both] - y[both])
    granted = 0.0
    if array.dtype.kind in "fV":
        granted = allowed(0.0, float(np.abs(x[both]).max(initial=0.0)), array.dtype)
    return _Change(float(off.max(initial=0.0)), int(np.count_nonzero(off > granted)))


def _verdict(tallies: Sequence[_Tally], done: tuple[str, ...]) -> Verification:
    errors = tuple(tally.error() for tally in tallies)
    failed = next((tally.failed for tally in tallies if tally.failed), None)
    if failed:
        return Verification(Status.DIFFERENT, failed, errors, done)
    silent = ", ".join(e.tensor for e in errors if not e.telling and not e.inner)
    if not any(e.telling for e in errors):
        reason = (
            f"nothing compared depends on the input ({silent or 'no output at all'}), so equal "
            "values prove nothing; the claims about the weights were still checked"
        )
        return Verification(Status.INCONCLUSIVE, reason, errors, done)
    reason = f"{len(done)} inputs, every error within its tolerance"
    if silent:
        inner = sum(e.telling for e in errors if e.inner)
        reason += f"; {silent} does not depend on the input, {inner} inner tensors do"
    return Verification(Status.EQUAL, reason, errors, done)


@dataclass
class _Tally:
    """What is collected of one tensor while the inputs run: its worst error, and whether it tells
    anything (with `in_steps` the model rounds to integers, and noise moves few values, but those by
    a step): it moved with the input (`seen` holds its first value of each shape), its elements
    varied, and it was audible above its noise.
    """

    name: str
    inner: bool
    in_steps: bool = False
    worst: OutputError | None = None
    failed: str | None = None
    seen: dict[tuple[int, ...], bytes] = field(default_factory=dict)
    moved: bool = False
    varied: bool = False
    audible: bool = False

    def add(self, case: Case, a: Array, b: Array | None, noise: _Change) -> None:
        """Compares the tensor on one input: the original's `a` with the new model's `b`, given the
        rounding noise in it.
        """
        if b is None or a.shape != b.shape or a.dtype != b.dtype:
            have = "missing" if b is None else f"{b.dtype}{list(b.shape)}"
            self._fail(case, f"'{self.name}' is {have} instead of {a.dtype}{list(a.shape)}")
            return
        if not self.moved:
            self.moved = self.seen.setdefault(a.shape, a.tobytes()) != a.tobytes()
        if a.dtype.kind not in "fV":
            self.varied, self.audible = self.varied or a.size > 0, True
            off = _change(a, b) if a.dtype.kind in "iu" else _Change(np.inf, int((a != b).sum()))
            if off.count and (
                off.size > SPREAD * noise.size or off.count > max(1, SPREAD * noise.count)
            ):
                self._fail(case, f"{off.count} of {a.size} values of '{self.name}' differ")
            return
        x, y = a.astype(np.float64), b.astype(np.float64)
        finite = np.isfinite(x)
        if not np.array_equal(finite, np.isfinite(y)) or not np.array_equal(
            x[~finite], y[~finite], equal_nan=True
        ):
            self._fail(case, f"NaN or infinite values of '{self.name}' stand in other places")
            return
        if finite.any():
            self._compare(case, a.dtype, x[finite], y[finite], noise.size)
        off = _change(a, b)
        if self.in_steps and off.count > max(1, SPREAD * noise.count):
            self._fail(
                case,
                f"{off.count} of {a.size} values of '{self.name}' differ, where rounding noise "
                f"moves {noise.count}",
            )

    def _compare(self, case: Case, dtype: Any, x: Array, y: Array, noise: float) -> None:
        size = float(np.abs(x).max()) or 1.0
        error = float(np.abs(x - y).max())
        bound = allowed(noise, size, dtype)
        self.varied = self.varied or x.size == 1 or float(np.ptp(x)) > 0
        self.audible = self.audible or noise <= MAX_NOISE * size
        found = OutputError(
            self.name, error, error / size, noise / size, bound / size, case.name, False, self.inner
        )
        if self.worst is None or _share(found) > _share(self.worst):
            self.worst = found
        if error > bound:
            self._fail(
                case,
                f"the error of '{self.name}' is {error / size:.2g} of its largest value, "
                f"{error / bound if bound else np.inf:.3g} times the tolerance",
            )

    def _fail(self, case: Case, text: str) -> None:
        self.failed = self.failed or f"on {case.name} {text}"

    def error(self) -> OutputError:
        """The worst of this tensor."""
        telling = self.varied and self.audible and self.moved
        worst = self.worst
        if worst is None:
            size = np.inf if self.failed else 0.0
            return OutputError(self.name, size, size, 0.0, 0.0, "every input", telling, self.inner)
        return OutputError(**{**vars(worst), "telling": telling})


def _share(error: OutputError) -> float:
    return error.relative / error.tolerance if error.tolerance else error.relative


def _interfaces_differ(before: Model, after: Model) -> str | None:
    for side in ("inputs", "outputs"):
        old, new = (_interface(model, side) for model in (before, after))
        if old != new:
            return f"the {side} are {new} instead of {old}"
    return None


def _interface(model: Model, side: str) -> list[str | None]:
    """Names of the inputs (weights among them left out) or outputs."""
    weights = model.graph.initializers
    return [
        value.name
        for value in getattr(model.graph, side)
        if side == "outputs" or value.name not in weights
    ]
