"""Running models, and saying in one sentence why one cannot be run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from graphopt.ir import Model
from graphopt.ir.io import needs_data_file
from graphopt.verify import inputs, runtime
from graphopt.verify.runtime import CannotRun, OrtRunner, ReferenceRunner, latency, runner
from tests.support.models import matrices, plain_model, residual_mlp, residual_net

X = {"x": (np.float32, ("N", 4))}
node = helper.make_node
FEEDS = {"x": np.ones((2, 6), np.float32)}


def foreign() -> Model:
    return Model.load(
        plain_model([node("Mystery", ["x"], ["y"], domain="nobody")], X, ["y"], domains=["nobody"])
    )


def test_outputs_by_name() -> None:
    proto = residual_mlp()
    results = OrtRunner(Model.load(proto)).run(FEEDS)
    assert list(results) == [proto.graph.output[0].name]
    assert next(iter(results.values())).shape == (2, 3)


@pytest.mark.parametrize("kind", [OrtRunner, ReferenceRunner])
def test_inner_tensors_on_request(kind: type[OrtRunner] | type[ReferenceRunner]) -> None:
    proto = residual_mlp()
    output = proto.graph.output[0].name
    inner = proto.graph.node[1].output[0]
    model = Model.load(proto)
    results = kind(model, (inner, output, inner)).run(FEEDS)
    assert set(results) == {output, inner}
    assert (results[inner] >= 0).all()
    assert [value.name for value in model.graph.outputs] == [output]  # the model is not changed


def test_the_two_runtimes_agree() -> None:
    model = Model.load(residual_net(stride=2, norm=True))
    feeds = inputs.first(model).feeds
    (ours,), (theirs,) = (kind(model).run(feeds).values() for kind in (OrtRunner, ReferenceRunner))
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_onnx_runtime_is_asked_first() -> None:
    assert isinstance(runner(Model.load(residual_mlp())), OrtRunner)


def test_the_reference_evaluator_stands_in() -> None:
    """ONNX Runtime has no kernel for this type of Relu; the reference evaluator computes it."""
    proto = plain_model(
        [node("Quant", ["x", "scale", "zero", "bits"], ["y"], domain="qonnx.custom_op.general",
              signed=1, narrow=0, rounding_mode="ROUND")],
        X, ["y"], {"scale": np.float32(0.5), "zero": np.float32(0), "bits": np.float32(3)},
        domains=["qonnx.custom_op.general"],
    )  # fmt: skip
    chosen = runner(Model.load(proto))
    assert isinstance(chosen, ReferenceRunner)
    results = chosen.run({"x": np.array([[0.3, 0.1, -9, 9]], np.float32)})
    assert results["y"].tolist() == [[0.5, 0.0, -2.0, 1.5]]


def test_nobody_runs_it() -> None:
    with pytest.raises(CannotRun, match=r"^ONNX Runtime does not take .*Mystery") as error:
        runner(foreign())
    assert "\n" not in str(error.value)
    with pytest.raises(CannotRun, match=r"^the reference evaluator does not take the model: "):
        ReferenceRunner(foreign())
    with pytest.raises(CannotRun):
        latency(foreign(), {"x": np.ones((1, 4), np.float32)})


@pytest.mark.parametrize("kind", [OrtRunner, ReferenceRunner])
@pytest.mark.parametrize(
    "feeds",
    [{"x": np.ones((2, 7), np.float32)}, {"x": np.ones((2, 6, 1, 1), np.float32)}, {}],
    ids=["size", "rank", "nothing"],
)
def test_an_input_that_does_not_fit(
    kind: type[OrtRunner] | type[ReferenceRunner], feeds: dict[str, np.ndarray]
) -> None:
    one = kind(Model.load(residual_mlp()))
    with pytest.raises(CannotRun, match="cannot run the model") as error:
        one.run(feeds)
    assert "\n" not in str(error.value)
    assert one.run(FEEDS)  # it is not broken by that


def test_latency_is_a_positive_time() -> None:
    model = Model.load(residual_mlp())
    seconds = latency(model, inputs.first(model).feeds, seconds=0.05, threads=1)
    assert 0 < seconds < 1


def test_latency_of_at_least_five_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []

    class Counting(OrtRunner):
        def run(self, feeds: runtime.Feeds) -> dict[str, np.ndarray]:
            runs.append(1)
            return super().run(feeds)

    monkeypatch.setattr(runtime, "OrtRunner", Counting)
    model = Model.load(residual_mlp())
    assert latency(model, inputs.first(model).feeds, seconds=0.0) > 0
    assert len(runs) == 6  # one to warm up


def with_data_file(folder: Path) -> Path:
    proto = residual_mlp(width=32)
    path = folder / "model.onnx"
    onnx.save(proto, path, save_as_external_data=True, location="model.data", size_threshold=64)
    assert (folder / "model.data").stat().st_size > 1000
    return path


def test_a_model_with_a_data_file(tmp_path: Path) -> None:
    plain, external = Model.load(residual_mlp(width=32)), Model.load(with_data_file(tmp_path))
    assert needs_data_file(external)
    assert not needs_data_file(plain)
    feeds = {"x": np.random.default_rng(0).standard_normal((2, 32)).astype(np.float32)}
    before = sorted(tmp_path.iterdir())
    (wanted,) = OrtRunner(plain).run(feeds).values()
    for kind in (OrtRunner, ReferenceRunner):
        (found,) = kind(external).run(feeds).values()
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    assert sorted(tmp_path.iterdir()) == before


def test_a_model_too_large_for_one_protobuf(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two gigabytes are not to be had in a test, so the limit comes down."""
    model = Model.load(residual_mlp(width=32))
    monkeypatch.setattr("graphopt.ir.io.INLINE_LIMIT", 1000)
    assert needs_data_file(model)
    (found,) = OrtRunner(model).run({"x": np.ones((2, 32), np.float32)}).values()
    assert found.shape == (2, 3)


def test_optimized_sessions_give_the_same() -> None:
    model = Model.load(residual_net(norm=True))
    feeds = inputs.first(model).feeds
    (plain,), (fast,) = (
        OrtRunner(model, optimize=optimize).run(feeds).values() for optimize in (False, True)
    )
    np.testing.assert_allclose(plain, fast, rtol=1e-4, atol=1e-5)


def test_an_output_that_is_no_tensor_is_left_out() -> None:
    sequence = node("SequenceConstruct", ["x", "x"], ["s"])
    model = Model.load(plain_model([sequence, node("Neg", ["x"], ["y"])], X, ["s", "y"]))
    for kind in (OrtRunner, ReferenceRunner):
        assert list(kind(model).run({"x": np.ones((1, 4), np.float32)})) == ["y"]


def test_a_weight_that_is_missing() -> None:
    proto = residual_mlp()
    gone = matrices(proto)[0]
    kept = [tensor for tensor in proto.graph.initializer if tensor.name != gone]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(kept)
    proto.graph.input.append(helper.make_tensor_value_info(gone, 1, (6, 6)))
    with pytest.raises(CannotRun, match="cannot run the model on this input"):
        OrtRunner(Model.load(proto)).run(FEEDS)
