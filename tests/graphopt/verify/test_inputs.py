"""The inputs that models are compared on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import helper

from graphopt.ir import Model
from graphopt.verify import inputs
from graphopt.verify.inputs import STYLES, Case
from graphopt.verify.runtime import OrtRunner
from tests.support.models import Shape, plain_model, residual_mlp, residual_net


def made(given: Mapping[str, tuple[Any, Shape | None]], **options: Any) -> list[Case]:
    """The cases of a model with these inputs, each of which is cast and given out."""
    nodes = [
        helper.make_node("Identity", [name], [f"{name}.out"]) for name in given
    ]  # any graph will do: only the inputs count
    model = plain_model(nodes, given, [f"{name}.out" for name in given], **options)
    return list(inputs.cases(Model.load(model)))


def by_style(cases: list[Case], style: str) -> np.ndarray:
    case = next(case for case in cases if case.name.startswith(style))
    (array,) = case.feeds.values()
    return array


def test_an_image_of_fixed_size() -> None:
    cases = made({"x": (np.float32, (1, 3, 8, 8))})
    assert {case.feeds["x"].shape for case in cases} == {(1, 3, 8, 8)}
    assert {case.feeds["x"].dtype for case in cases} == {np.dtype(np.float32)}
    assert [case.name for case in cases[: len(STYLES)]] == list(STYLES)
    assert all(not case.sizes for case in cases)


def test_the_styles_are_what_they_are_called() -> None:
    cases = made({"x": (np.float32, (2, 3, 16, 16))})
    assert (by_style(cases, "negative") < 0).all()
    assert not by_style(cases, "zeros").any()
    unit = by_style(cases, "uniform 0..1")
    assert 0 <= unit.min() < 0.1 < 0.9 < unit.max() <= 1
    image = by_style(cases, "uniform 0..255")
    assert 0 <= image.min() < 10 < 245 < image.max() <= 255
    assert np.array_equal(image, np.rint(image))
    assert by_style(cases, "normal x 30").std() == pytest.approx(30, rel=0.2)
    assert by_style(cases, "normal x 0.1").std() == pytest.approx(0.1, rel=0.2)
    normal = by_style(cases, "normal")
    assert normal.std() == pytest.approx(1, rel=0.2)
    assert (normal < 0).any()
    assert (normal > 0).any()
    assert np.abs(by_style(cases, "normal x 30")).max() > 6


def test_the_border_alone() -> None:
    array = by_style(made({"x": (np.float32, (2, 3, 6, 7))}), "border")
    assert not array[:, :, 1:-1, 1:-1].any()
    assert array[:, :, 0].all()
    assert array[:, :, -1].all()
    assert array[:, :, :, 0].all()
    assert array[:, :, :, -1].all()


def test_a_vector_has_no_border() -> None:
    assert by_style(made({"x": (np.float32, (2, 3))}), "border").all()


def test_batches_of_one_two_and_three() -> None:
    cases = made({"x": (np.float32, ("N", 5))})
    assert {case.feeds["x"].shape for case in cases} == {(n, 5) for n in (1, 2, 3)}
    assert all(case.sizes == {"N": len(case.feeds["x"])} for case in cases)
    assert cases[0].name == "normal at N=1"
    assert sum(case.sizes["N"] == 1 for case in cases) >= len(STYLES)


def test_heights_and_widths_even_and_odd() -> None:
    cases = made({"x": (np.float32, ("N", 3, "H", "W"))})
    sizes = {case.feeds["x"].shape[2:] for case in cases}
    assert {(32, 32), (33, 33), (47, 47), (8, 8)} <= sizes
    assert {case.feeds["x"].shape[0] for case in cases} == {1, 2, 3}
    assert cases[0].sizes == {"N": 1, "H": 32, "W": 32}


def test_a_size_without_a_name_is_one_of_its_own() -> None:
    proto = plain_model(
        [helper.make_node("Identity", ["x"], ["y"])], {"x": (np.float32, ("N", 3, "H", "W"))}, ["y"]
    )
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.ClearField("dim_param")
    cases = list(inputs.cases(Model.load(proto)))
    assert cases[0].feeds["x"].shape == (1, 3, 32, 32)
    assert sorted(cases[0].sizes.values()) == [1, 32, 32]
    assert any(case.feeds["x"].shape == (3, 3, 32, 32) for case in cases)


def test_a_name_stands_for_one_size_in_all_inputs() -> None:
    cases = made({"a": (np.float32, ("N", "T")), "b": (np.float32, ("N", "T", 4))})
    for case in cases:
        assert case.feeds["a"].shape == case.feeds["b"].shape[:2]
        assert case.feeds["b"].shape[2] == 4
    assert {case.feeds["a"].shape for case in cases} >= {(1, 32), (3, 32), (1, 33)}


def test_several_inputs_are_not_alike() -> None:
    case = made({"a": (np.float32, (1, 8)), "b": (np.float32, (1, 8))})[0]
    assert not np.array_equal(case.feeds["a"], case.feeds["b"])


def test_a_scalar() -> None:
    cases = made({"x": (np.float32, ())})
    assert {case.feeds["x"].shape for case in cases} == {()}
    assert all(isinstance(case.feeds["x"], np.ndarray) for case in cases)
    assert len({float(case.feeds["x"]) for case in cases}) > 4


@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [(np.int8, -128, 127), (np.uint8, 0, 255), (np.int32, -128, 255), (np.int64, -128, 255),
     (np.uint64, 0, 255), (np.int16, -128, 255)],
)  # fmt: skip
def test_integers_reach_over_a_byte_and_no_further(dtype: type, low: int, high: int) -> None:
    cases = made({"x": (dtype, (1, 4096))})
    assert {case.feeds["x"].dtype for case in cases} == {np.dtype(dtype)}
    assert min(int(case.feeds["x"].min()) for case in cases) == low
    assert max(int(case.feeds["x"].max()) for case in cases) == high
    assert not by_style(cases, "zeros").any()
    assert set(np.unique(by_style(cases, "uniform 0..1"))) == {0, 1}
    if low < 0:
        assert (by_style(cases, "negative") < 0).all()


def test_booleans() -> None:
    cases = made({"x": (np.bool_, (1, 64))})
    assert {case.feeds["x"].dtype for case in cases} == {np.dtype(np.bool_)}
    assert all(set(np.unique(case.feeds["x"])) == {False, True} for case in cases)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ml_dtypes.bfloat16])
def test_other_floats(dtype: Any) -> None:
    cases = made({"x": (dtype, (1, 16))})
    assert {case.feeds["x"].dtype for case in cases} == {np.dtype(dtype)}


def test_weights_among_the_inputs_are_not_fed() -> None:
    proto = plain_model(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        {"x": (np.float32, ("N", 4))},
        ["y"],
        {"w": np.ones((4, 2), np.float32)},
        weights_are_inputs=True,
    )
    assert [value.name for value in proto.graph.input] == ["x", "w"]
    model = Model.load(proto)
    for case in inputs.cases(model):
        assert list(case.feeds) == ["x"]
    assert OrtRunner(model).run(case.feeds)["y"].shape[1] == 2


def test_a_model_without_inputs() -> None:
    proto = plain_model([helper.make_node("Neg", ["w"], ["y"])], {}, ["y"], {"w": np.ones(3)})
    cases = list(inputs.cases(Model.load(proto)))
    assert all(case.feeds == {} for case in cases)


@pytest.mark.parametrize("proto", [residual_mlp(), residual_net()], ids=["mlp", "conv"])
def test_the_same_seed_gives_the_same_inputs(proto: onnx.ModelProto) -> None:
    def draw(seed: int) -> list[bytes]:
        return [
            array.tobytes()
            for case in inputs.cases(Model.load(proto), seed)
            for array in case.feeds.values()
        ]

    assert draw(0) == draw(0)
    assert draw(0) != draw(1)
    assert len(set(draw(0))) == len(draw(0))  # no case comes twice


def test_the_first_is_an_ordinary_one() -> None:
    case = inputs.first(Model.load(residual_mlp()))
    assert case.name == "normal at N=1"
    assert case.feeds["x"].shape == (1, 6)
