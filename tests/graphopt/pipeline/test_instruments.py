"""--verify-each, --print-after: what watches the passes and may reject what they did."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import onnx_ir
import pytest

from graphopt import plugins
from graphopt.errors import PassFailed
from graphopt.ir import Model
from graphopt.pipeline import Pass, PassResult, Pipeline, PrintAfter, VerifyEach
from graphopt.verify import numeric
from passes.skip_detection import Skips
from tests.support.models import residual_mlp
from tests.support.passes import Edit, NegateOutput, Nothing, append, negate


@pytest.fixture
def model() -> Model:
    return Model.load(residual_mlp())


def difference(before: Model, after: Model) -> str | None:
    found = numeric.compare(before, after, seconds=0)
    return found.reason if found.status is numeric.Status.DIFFERENT else None


def watched(model: Model, *passes: Pass) -> VerifyEach:
    """Runs the passes under `VerifyEach`."""
    watch = VerifyEach(difference)
    Pipeline(passes).run(model, None, [watch])
    return watch


def remove_a_skip(model: Model) -> None:
    """The first join adds its branch to itself."""
    join = next(node for node in model.graph if node.op_type == "Add")
    join.replace_input_with(1, join.inputs[0])


def replace_first_relu(model: Model) -> None:
    relu = next(node for node in model.graph if node.op_type == "Relu")
    new = onnx_ir.node("Abs", [relu.inputs[0]], name=relu.name)
    new.outputs[0].name = "abs"
    model.graph.insert_before(relu, new)
    relu.outputs[0].replace_all_uses_with(new.outputs[0])
    model.graph.remove(relu, safe=True)


def test_honest_passes_go_through_in_order(model: Model) -> None:
    def identity(draft: Model) -> None:
        append(draft, "Identity")

    plain = Pipeline.parse(plugins.preset("plain")).passes
    watch = watched(model, Nothing(), Edit(identity), *plain)
    assert watch.checked == ["nothing", "edit", *(one.name for one in plain)]


def test_a_lie_about_changed_is_caught(model: Model) -> None:
    with pytest.raises(PassFailed, match="edit says that it changed nothing, but the model is an"):
        watched(model, Edit(negate, PassResult(changed=False)))


def test_saying_changed_without_a_change_is_no_lie_that_harms(model: Model) -> None:
    assert watched(model, Edit(lambda draft: None)).checked == ["edit"]


@pytest.mark.parametrize("wrong", [negate, remove_a_skip, replace_first_relu])
def test_changed_outputs_are_caught(model: Model, wrong: Callable[[Model], None]) -> None:
    before = model.to_proto()
    with pytest.raises(PassFailed, match=r"edit breaks the model: on .* times the tolerance"):
        watched(model, Edit(wrong))
    assert model.to_proto() == before


def test_without_the_instrument_they_are_not(model: Model) -> None:
    """The check is the instrument's work, not the manager's."""
    (record,) = Pipeline((Edit(remove_a_skip),)).run(model)
    assert record.changed


def identity_before_the_end(draft: Model) -> None:
    """Equal outputs; one more tensor and one more layer, the same skips."""
    append(draft, "Identity")


def add_a_skip(draft: Model) -> None:
    """Equal outputs (`x + x` halved); one more skip than before."""
    output = draft.graph.outputs[0]
    name = output.name
    source = output.producer()
    assert source is not None
    output.name = "inner"
    half = onnx_ir.Value(
        name="half",
        const_value=onnx_ir.tensor([0.5], name="half"),
        type=onnx_ir.TensorType(onnx_ir.DataType.FLOAT),
        shape=onnx_ir.Shape([1]),
    )
    draft.graph.register_initializer(half)
    made = [onnx_ir.node("Mul", [output, half]), onnx_ir.node("Mul", [output, half])]
    for number, node in enumerate(made):
        node.outputs[0].name = f"half.{number}"
    join = onnx_ir.node("Add", [node.outputs[0] for node in made])
    join.outputs[0].name = name
    draft.graph.extend([*made, join])
    draft.graph.outputs[0] = join.outputs[0]


@pytest.mark.parametrize(
    ("edit", "claimed", "guilty"),
    [
        (identity_before_the_end, {"shapes"}, "shapes"),
        (identity_before_the_end, {"layers", "skips"}, "layers"),
        (add_a_skip, {"skips"}, "skips"),
        (add_a_skip, {"layers", "skips", "shapes"}, "(shapes|layers|skips)"),
    ],
)
def test_a_lie_about_preserves_is_caught(
    model: Model, edit: Callable[[Model], None], claimed: set[str], guilty: str
) -> None:
    model.analyses.get(Skips())
    assert {a.name for a in model.analyses.cached()} >= {"shapes", "layers", "skips"}
    with pytest.raises(PassFailed, match=f"preserves the analysis '{guilty}', but its result is"):
        watched(model, Edit(edit, preserves=frozenset(claimed)))


def test_the_truth_about_preserves_goes_through(model: Model) -> None:
    skips = model.analyses.get(Skips())
    watched(model, Edit(identity_before_the_end, preserves=frozenset({"skips"})))
    assert model.analyses.cached()[Skips()] is skips


def test_a_lie_about_an_analysis_that_the_pass_itself_asked_for_is_caught(model: Model) -> None:
    """The model knows no skips before the pass; what the pass finds would be kept."""

    def look_then_edit(draft: Model) -> None:
        draft.analyses.get(Skips())
        add_a_skip(draft)

    assert not model.analyses.cached()
    with pytest.raises(PassFailed, match="preserves the analysis 'skips'"):
        watched(model, Edit(look_then_edit, preserves=frozenset({"skips"})))


@pytest.mark.parametrize("listed", [False, True])
def test_own_passes_tell_the_truth_about_what_they_preserve(listed: bool) -> None:
    proto = residual_mlp(3)
    if listed:  # weights that are inputs too give freeze-weights something to do
        proto.graph.input.extend(
            onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            for tensor in proto.graph.initializer
        )
    model = Model.load(proto)
    for name in plugins.analyses():
        model.analyses.get(plugins.analysis(name))
    pipeline = Pipeline.parse(plugins.preset("plain"))
    watch = VerifyEach(difference)
    records = pipeline.run(model, None, [watch])
    assert watch.checked == [one.name for one in pipeline.passes]
    assert {record.name: record.changed for record in records}["freeze-weights"] is listed


def test_an_instrument_that_raises_rejects_the_pass(model: Model) -> None:
    class Strict:
        def after_pass(self, one: Pass, before: Model, after: Model, result: PassResult) -> None:
            assert before is model
            assert after.graph.num_nodes() == before.graph.num_nodes() + 1
            raise PassFailed("not today")

    with pytest.raises(PassFailed, match=r"'negate-output' .* failed: not today"):
        Pipeline((NegateOutput(),)).run(model, None, [Strict()])
    assert model.graph.num_nodes() == 13


@pytest.mark.parametrize(
    ("names", "headings"),
    [
        ({"edit"}, ["// after edit (changed)"]),
        ({"all"}, ["// after nothing (unchanged)", "// after edit (changed)"]),
        ({"other"}, []),
    ],
)
def test_print_after(model: Model, names: set[str], headings: list[str]) -> None:
    written: list[str] = []
    watch = PrintAfter(frozenset(names), written.append)
    Pipeline((Nothing(), Edit(negate))).run(model, None, [watch])
    assert written[::2] == headings
    assert all("Gemm" in graph for graph in written[1::2])
    if "edit" in names:
        assert "Neg" in written[1]


def test_verify_each_finds_the_guilty_pass_of_three(model: Model, tmp_path: Path) -> None:
    passes = (Nothing(), Edit(identity_before_the_end), NegateOutput(), Nothing())
    with pytest.raises(PassFailed, match=r"'negate-output' \(after nothing, edit\) failed"):
        Pipeline(passes, tmp_path).run(model, None, [VerifyEach(difference)])
    (folder,) = tmp_path.iterdir()
    assert (folder / "pipeline.txt").read_text() == "negate-output,nothing\n"
