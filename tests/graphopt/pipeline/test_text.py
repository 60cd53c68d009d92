"""Pipelines as text: there and back, and one sentence for everything that is no pipeline."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphopt import plugins
from graphopt.errors import PipelineError
from graphopt.ir import Model
from graphopt.pipeline import Context, PassResult, Pipeline
from graphopt.pipeline.text import build, parse, unparse
from tests.support.passes import install


@dataclass(frozen=True)
class Tunable:
    """Has an option of every type that the text can say."""

    name: ClassVar[str] = "tunable"
    preserves: ClassVar[frozenset[str]] = frozenset()

    mode: Literal["fast", "small", "both-ways"] = "fast"
    lanes: Literal[8, 16] = 8
    count: int = 4
    limit: int | None = None
    share: float = 0.5
    bound: Optional[float] = 1.0  # noqa: UP045
    strict: bool = False
    label: str = "x"

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ValueError(f"count={self.count} is negative.")

    def run(self, model: Model, context: Context) -> PassResult:
        return PassResult()


@dataclass(frozen=True)
class Needy:
    """Cannot do without its option."""

    width: int
    name: ClassVar[str] = "needy"
    preserves: ClassVar[frozenset[str]] = frozenset()

    def run(self, model: Model, context: Context) -> PassResult:
        return PassResult()


@pytest.fixture(autouse=True)
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, Tunable, Needy)


def tunable(text: str) -> Tunable:
    (one,) = Pipeline.parse(text).passes
    assert isinstance(one, Tunable)
    return one


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("dce", [("dce", {})]),
        ("dce,fold-norm", [("dce", {}), ("fold-norm", {})]),
        (" dce ,\n fold-norm ", [("dce", {}), ("fold-norm", {})]),
        ("dce{}", [("dce", {})]),
        ("a{x=1}", [("a", {"x": "1"})]),
        ("a{ x = 1 , y-z=w },b", [("a", {"x": "1", "y_z": "w"}), ("b", {})]),
        ("a{x=-1e-5}", [("a", {"x": "-1e-5"})]),
        ("a{x=b=c}", [("a", {"x": "b=c"})]),
        ("a,a{x=1},a", [("a", {}), ("a", {"x": "1"}), ("a", {})]),
    ],
)
def test_parses(text: str, expected: list[tuple[str, dict[str, str]]]) -> None:
    assert list(parse(text)) == expected


@pytest.mark.parametrize(
    "text",
    ["dce,", "dce,,fold-norm", ",dce", "dce fold-norm", "dce{x=1", "dce}", "dce{{x=1}}", "{x=1}",
     "dce;fold-norm", "1dce", "-dce", "dce{x=1}{y=2}", "dce{x={y}}", "dce\0", "λ"],
)  # fmt: skip
def test_garbage_is_refused_and_shown(text: str) -> None:
    with pytest.raises(PipelineError, match="cannot read the pipeline at '"):
        Pipeline.parse(text)


def test_shows_where_it_stops_reading() -> None:
    with pytest.raises(PipelineError, match=r"at 'oops oops': write pass-name\{option=value"):
        Pipeline.parse("dce, fold-norm ,oops oops")


@pytest.mark.parametrize("text", ["", "   ", "\n\t"])
def test_empty_is_refused(text: str) -> None:
    with pytest.raises(PipelineError, match="pipeline is empty"):
        Pipeline.parse(text)


def test_unknown_pass_with_a_suggestion() -> None:
    with pytest.raises(PipelineError, match=r"'fold-nrom' \(did you mean 'fold-norm'\?\)"):
        Pipeline.parse("dce,fold-nrom")


def test_unknown_pass_without_one() -> None:
    with pytest.raises(PipelineError, match=r"^no pass is called 'qqqqqq': see `graphopt passes`"):
        Pipeline.parse("qqqqqq")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tunable{cuont=1}", r"no option 'cuont' \(did you mean 'count'\?\); it has: bound, count"),
        ("dce{x=1}", "^dce has no option 'x'; it has: none"),
        ("tunable{name=x}", "no option 'name'"),
        ("tunable{preserves=x}", "no option 'preserves'"),
        ("tunable{count=four}", "count=four is not a int"),
        ("tunable{count=1.5}", "count=1.5 is not a int"),
        ("tunable{count=none}", "count=none is not a int"),
        ("tunable{limit=few}", "limit=few is not a int"),
        ("tunable{share=half}", "share=half is not a float"),
        ("tunable{strict=yes}", "strict=yes is not a bool"),
        ("tunable{strict=1}", "strict=1 is not a bool"),
        ("tunable{mode=slow}", "mode=slow is not possible: choose one of fast, small, both-ways"),
        ("tunable{mode=Fast}", "mode=Fast is not possible"),
        ("tunable{lanes=9}", "lanes=9 is not possible: choose one of 8, 16"),
        ("tunable{count=1,count=2}", "option 'count' is given twice"),
        ("tunable{count}", "option 'count' is not of the form name=value"),
        ("tunable{count=}", "option 'count=' is not of the form name=value"),
        ("tunable{=1}", "option '=1' is not of the form name=value"),
        ("tunable{count=-1}", "^tunable: count=-1 is negative"),
        ("needy", "needy needs the option 'width'"),
    ],
)
def test_bad_options_are_named(text: str, message: str) -> None:
    with pytest.raises(PipelineError, match=message):
        Pipeline.parse(text)


def test_a_dash_and_an_underscore_are_the_same_option() -> None:
    with pytest.raises(PipelineError, match="given twice"):
        list(parse("a{b-c=1,b_c=2}"))


def test_values_get_their_types() -> None:
    one = tunable(
        "tunable{mode=both-ways,lanes=16,count=7,limit=9,share=1e-3,bound=none,strict=TRUE,label=y}"
    )
    assert one == Tunable("both-ways", 16, 7, 9, 1e-3, None, True, "y")
    assert (type(one.lanes), type(one.limit), type(one.strict)) == (int, int, bool)


def test_none_only_where_the_type_has_it() -> None:
    assert tunable("tunable{limit=none}").limit is None
    assert tunable("tunable{label=none}").label == "none"


def test_defaults_are_left_out_of_the_text() -> None:
    assert str(Pipeline((Tunable(), Tunable(count=5, strict=True)))) == (
        "tunable,tunable{count=5,strict=true}"
    )


@given(
    st.lists(
        st.builds(
            Tunable,
            mode=st.sampled_from(["fast", "small", "both-ways"]),
            lanes=st.sampled_from([8, 16]),
            count=st.integers(0, 10**20),
            limit=st.none() | st.integers(),
            share=st.floats(allow_nan=False),
            bound=st.none() | st.floats(allow_nan=False),
            strict=st.booleans(),
            label=st.from_regex(r"[\w./:=+-]+", fullmatch=True).filter(lambda t: t != "none"),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_any_pipeline_survives_the_round_trip(passes: list[Tunable]) -> None:
    text = unparse(passes)
    back = [build(Tunable, options) for _, options in parse(text)]
    assert back == passes
    assert unparse(back) == text


@given(st.text(max_size=40))
def test_any_text_is_a_pipeline_or_a_pipeline_error(text: str) -> None:
    sentence, items = "", []
    try:
        items = list(parse(text))
    except PipelineError as error:
        sentence = str(error)
    assert len(sentence.splitlines()) == (0 if items else 1)
    assert all(name and not name[0].isspace() for name, _ in items)


@pytest.mark.parametrize("name", sorted(plugins.presets()))
def test_presets_are_in_their_own_words(name: str) -> None:
    text = plugins.preset(name)
    assert str(Pipeline.parse(text)) == text


def test_nan_is_a_float() -> None:
    assert math.isnan(tunable("tunable{share=nan}").share)
