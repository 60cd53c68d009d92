"""The comparison of two models: every verdict, reached by a model that deserves it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import helper

from graphopt.ir import Model
from graphopt.verify import numeric
from graphopt.verify.numeric import Status, Verification
from tests.support.blocks import Net
from tests.support.models import (
    dense,
    matrices,
    plain_model,
    residual_mlp,
    residual_net,
    weight_named,
    with_weight,
)

node = helper.make_node
IMAGE = ("N", 3, "H", "W")


def compared(before: onnx.ModelProto, after: onnx.ModelProto, **options: object) -> Verification:
    found = numeric.compare(Model.load(before), Model.load(after), **options)  # type: ignore[arg-type]
    assert found.reason
    return found


def conv_net(
    tail: Callable[[Net, str], str] = lambda net, x: x,
    *,
    pads: tuple[int, ...] | None = None,
    edge: bool = False,
    shape: tuple[int | str, ...] = IMAGE,
    seed: int = 0,
) -> onnx.ModelProto:
    """Two convolutions with a Relu between them, then whatever `tail` adds."""
    net = Net(seed)
    x = net.act(net.conv("x", 3, 4), "Relu")
    if edge:
        x = net.op("Pad", x, net.const([0, 0, 1, 1, 0, 0, 1, 1], np.int64), mode="edge")
        pads = (0, 0, 0, 0)
    net.rng = np.random.default_rng(seed + 1)
    y = tail(net, net.conv(x, 4, 4, pads=pads))
    net.op("Identity", y)
    net.nodes[-1].output[0] = "y"
    return net.model("y", shape)


# Equal ----------------------------------------------------------------------------------------


def test_unchanged() -> None:
    found = compared(residual_mlp(), residual_mlp())
    assert found.status is Status.UNCHANGED
    assert (found.errors, found.cases) == ((), ())


def test_unchanged_but_for_names() -> None:
    proto = residual_mlp()
    for one in proto.graph.node:
        one.name = f"other_{one.name}"
    assert compared(residual_mlp(), proto).status is Status.UNCHANGED


def test_unchanged_but_for_constants_and_dead_code() -> None:
    proto = residual_mlp()
    proto.graph.node.append(node("Neg", ["x"], ["unused"]))
    assert compared(residual_mlp(), proto).status is Status.UNCHANGED


def test_equal_says_how_it_was_checked() -> None:
    found = compared(conv_net(), conv_net(lambda net, y: net.op("Neg", net.op("Neg", y))))
    assert found.status is Status.EQUAL
    assert len(found.cases) == len(set(found.cases)) + 2  # one style is drawn three times
    assert f"{len(found.cases)} inputs" in found.reason
    (error,) = found.errors
    assert (error.tensor, error.inner, error.telling) == ("y", False, True)
    assert error.absolute == 0
    assert 0 < error.noise < error.tolerance < 1e-4
    assert found.worst == error


def test_the_same_seed_gives_the_same_verdict() -> None:
    pair = residual_net(), split_in_two(residual_net(), 1)
    assert compared(*pair) == compared(*pair)
    assert compared(*pair) != compared(*pair, seed=1)


def test_probes_are_compared_too() -> None:
    before, after = conv_net(), conv_net(lambda net, y: net.op("Neg", net.op("Neg", y)))
    relu = next(one.output[0] for one in before.graph.node if one.op_type == "Relu")
    found = compared(before, after, probes=(relu,))
    assert [(e.tensor, e.inner) for e in found.errors] == [("y", False), (relu, True)]


def test_progress_grows() -> None:
    shares: list[float] = []
    compared(
        residual_mlp(),
        with_weight(residual_mlp(), "w_1", weight_named(residual_mlp(), "w_1") * 1.0000001),
        progress=lambda text, share: shares.append(share),
    )
    assert shares == sorted(shares)
    assert 0 == shares[0] < shares[-1] < 1


def test_time_is_bounded_but_four_inputs_are_always_tried() -> None:
    found = compared(
        conv_net(), conv_net(lambda net, y: net.op("Neg", net.op("Neg", y))), seconds=0.0
    )
    assert found.status is Status.EQUAL
    assert len(found.cases) == 4


# Different ------------------------------------------------------------------------------------


def assert_different(before: onnx.ModelProto, after: onnx.ModelProto, match: str = "") -> None:
    found = compared(before, after)
    assert found.status is Status.DIFFERENT, found
    assert match in found.reason
    assert compared(after, before).status is Status.DIFFERENT


@pytest.mark.parametrize("build", [residual_mlp, residual_net], ids=["mlp", "conv"])
@pytest.mark.parametrize("which", range(4))
def test_a_weight_that_is_off_by_a_thousandth(
    build: Callable[[], onnx.ModelProto], which: int
) -> None:
    proto = build()
    name = matrices(proto)[which]
    array = weight_named(proto, name) * np.float32(1.001)
    assert_different(proto, with_weight(proto, name, array), "times the tolerance")


@pytest.mark.parametrize("which", range(4))
def test_a_single_element_that_is_off_by_a_thousandth(which: int) -> None:
    proto = residual_net()
    name = matrices(proto)[which]
    array = weight_named(proto, name)
    place = np.unravel_index(np.abs(array).argmax(), array.shape)
    array[place] *= 1.001
    assert_different(proto, with_weight(proto, name, array), "times the tolerance")


def test_wrong_at_the_border_only() -> None:
    assert_different(conv_net(), conv_net(edge=True), "times the tolerance")


def test_wrong_for_negatives_only() -> None:
    def leak(net: Net, y: str) -> str:
        return net.op("LeakyRelu", y, alpha=1e-3)

    assert_different(conv_net(lambda net, y: net.op("Relu", y)), conv_net(leak))


def test_wrong_for_negative_inputs_only() -> None:
    """All the styles but one or two hold negative numbers; the first suffices."""
    x = {"x": (np.float32, ("N", 4))}
    before = plain_model([node("Identity", ["x"], ["y"])], x, ["y"])
    after = plain_model([node("Abs", ["x"], ["y"])], x, ["y"])
    assert_different(before, after)


def test_wrong_above_six_only() -> None:
    before = conv_net(lambda net, y: net.op("Relu", y))
    assert_different(before, conv_net(lambda net, y: net.act(y, "relu6")))


def test_wrong_at_batch_3_only() -> None:
    def when_three(net: Net, y: str) -> str:
        size = net.op("Gather", net.op("Shape", y), net.const([0], np.int64))
        three = net.op("Equal", size, net.const([3], np.int64))
        share = net.op("Mul", net.op("Cast", three, to=1), net.const([0.01]))
        return net.op("Add", y, share)

    found = compared(conv_net(), conv_net(when_three))
    assert found.status is Status.DIFFERENT
    assert "N=3" in found.reason


def test_wrong_at_odd_sizes_only() -> None:
    def pooled(ceil: int) -> onnx.ModelProto:
        def tail(net: Net, y: str) -> str:
            y = net.op("MaxPool", y, kernel_shape=[2, 2], strides=[2, 2], ceil_mode=ceil)
            return net.op("GlobalAveragePool", y)

        return conv_net(tail)

    found = compared(pooled(0), pooled(1))
    assert found.status is Status.DIFFERENT
    assert "H=33" in found.reason


def test_another_shape_at_odd_sizes_only() -> None:
    def pooled(ceil: int) -> onnx.ModelProto:
        return conv_net(
            lambda net, y: net.op("MaxPool", y, kernel_shape=[2, 2], strides=[2, 2], ceil_mode=ceil)
        )

    assert_different(pooled(0), pooled(1), "'y' is float32[1, 4, 17, 17] instead of float32[1, 4, ")


def test_an_integer_output_that_is_off_by_one_in_one_place() -> None:
    def rounded(more: float) -> onnx.ModelProto:
        weights = {"scale": np.float32(8), "more": np.array([0, 0, more], np.float32)}
        nodes = [
            node("Mul", ["x", "scale"], ["a"]),
            node("Round", ["a"], ["b"]),
            node("Add", ["b", "more"], ["c"]),
            node("Cast", ["c"], ["y"], to=onnx.TensorProto.INT8),
        ]
        return plain_model(nodes, {"x": (np.float32, ("N", 3))}, ["y"], weights)

    assert_different(rounded(0), rounded(1), "1 of 3 values of 'y' differ")


def test_a_boolean_output() -> None:
    def above(limit: float) -> onnx.ModelProto:
        return plain_model(
            [node("Greater", ["x", "limit"], ["y"])], {"x": (np.float32, ("N", 64))}, ["y"],
            {"limit": np.float32(limit)},
        )  # fmt: skip

    assert_different(above(0.5), above(0.6), "values of 'y' differ")


@pytest.mark.parametrize("operator", ["Sqrt", "Reciprocal"])
def test_not_finite_values_in_other_places(operator: str) -> None:
    """Sqrt: NaN for negatives. Reciprocal: infinite for zeros."""
    x = {"x": (np.float32, ("N", 4))}
    weights = {"tiny": np.float32(1e-3)}
    before = plain_model([node(operator, ["x"], ["y"])], x, ["y"])
    mended = [node("Abs", ["x"], ["a"]), node("Max", ["a", "tiny"], ["b"])]
    after = plain_model([*mended, node(operator, ["b"], ["y"])], x, ["y"], weights)
    assert_different(before, after)
    found = compared(before, plain_model([*mended[:1], node(operator, ["a"], ["y"])], x, ["y"]))
    assert found.status is Status.DIFFERENT


def test_not_finite_values_in_the_same_places_are_equal() -> None:
    x = {"x": (np.float32, ("N", 4))}
    before = plain_model([node("Sqrt", ["x"], ["y"])], x, ["y"])
    twice = [node("Neg", ["x"], ["a"]), node("Neg", ["a"], ["b"]), node("Sqrt", ["b"], ["y"])]
    assert compared(before, plain_model(twice, x, ["y"])).status is Status.EQUAL


def test_infinity_of_the_other_sign() -> None:
    x = {"x": (np.float32, ("N", 4))}
    weights = {"zero": np.float32(0)}

    def over_zero(*first: onnx.NodeProto, by: str) -> onnx.ModelProto:
        return plain_model([*first, node("Div", [by, "zero"], ["y"])], x, ["y"], weights)

    before = over_zero(node("Exp", ["x"], ["a"]), by="a")
    after = over_zero(node("Exp", ["x"], ["a"]), node("Neg", ["a"], ["b"]), by="b")
    assert_different(before, after, "NaN or infinite values of 'y' stand in other places")


def test_a_missing_output() -> None:
    proto = residual_mlp()
    more = onnx.ModelProto()
    more.CopyFrom(proto)
    more.graph.output.append(onnx.ValueInfoProto(name=proto.graph.node[3].output[0]))
    assert_different(more, proto, "the outputs are ")


def test_another_input() -> None:
    x, y = (np.float32, ("N", 4)), (np.float32, ("N", 4))
    before = plain_model([node("Neg", ["x"], ["y"])], {"x": x}, ["y"])
    after = plain_model([node("Neg", ["x"], ["y"])], {"x": x, "z": y}, ["y"])
    assert_different(before, after, "the inputs are ")


def test_another_type() -> None:
    x = {"x": (np.float32, ("N", 4))}
    before = plain_model([node("Neg", ["x"], ["y"])], x, ["y"])
    cast = [node("Neg", ["x"], ["a"]), node("Cast", ["a"], ["y"], to=onnx.TensorProto.DOUBLE)]
    found = compared(before, plain_model(cast, x, ["y"]))
    assert found.status is Status.DIFFERENT
    assert "'y' is float64[1, 4] instead of float32[1, 4]" in found.reason


def test_a_size_that_only_the_original_takes() -> None:
    before = conv_net()
    flat = node("Reshape", ["x", "shape"], ["flat"])
    back = node("Reshape", ["flat", "shape"], ["z"])
    after = onnx.ModelProto()
    after.CopyFrom(before)
    after.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1, 3, 32, 32]), "shape"))
    after.graph.node[0].input[0] = "z"
    after.graph.node.insert(0, back)
    after.graph.node.insert(0, flat)
    found = compared(before, after)
    assert found.status is Status.DIFFERENT
    assert "the new model fails: ONNX Runtime cannot run the model on this input" in found.reason
    assert "\n" not in found.reason


def test_one_bad_output_of_two() -> None:
    def two(factor: float) -> onnx.ModelProto:
        nodes = [node("Neg", ["x"], ["y"]), node("Mul", ["x", "f"], ["z"])]
        weights = {"f": np.float32(factor)}
        return plain_model(nodes, {"x": (np.float32, ("N", 4))}, ["y", "z"], weights)

    found = compared(two(2), two(2.001))
    assert found.status is Status.DIFFERENT
    assert "'z'" in found.reason
    assert found.worst is not None
    assert found.worst.tensor == "z"


# Nothing can be said --------------------------------------------------------------------------


def zero_head(scale: float, *, rename: bool) -> onnx.ModelProto:
    """An MLP whose last layer has only zeros; `scale` changes a layer before it."""
    net = Net()
    x = net.act(dense(net, "x", 4, 4), "Relu")
    x = net.op("Mul", x, net.const(scale))
    prefix = "renamed_" if rename else ""
    y = net.op("Gemm", x, net.const(np.zeros((3, 4))), net.const(np.zeros(3)), transB=1)
    for one in net.nodes:
        one.input[:] = [name if name == "x" or name in {w.name for w in net.weights}
                        else prefix + name for name in one.input]  # fmt: skip
        one.output[:] = [prefix + name for name in one.output]
    net.nodes[-1].output[0] = y
    return net.model(y, ("N", 4))


def test_a_zero_head_proves_nothing() -> None:
    found = compared(zero_head(1, rename=False), zero_head(2, rename=True))
    assert found.status is Status.INCONCLUSIVE
    assert "nothing compared depends on the input" in found.reason
    assert not any(error.telling for error in found.errors)


def test_inner_tensors_speak_where_the_outputs_are_silent() -> None:
    found = compared(zero_head(1, rename=False), zero_head(2, rename=False))
    assert found.status is Status.DIFFERENT
    equal = zero_head(1, rename=False)
    array = weight_named(equal, "w_2")
    found = compared(equal, with_weight(equal, "w_2", np.nextafter(array, np.inf)))
    assert found.status is Status.EQUAL
    assert "does not depend on the input, 3 inner tensors do" in found.reason


def ignoring_the_input(batch: int | str, scale: float) -> onnx.ModelProto:
    """The output has the shape of the input and the values of a bias that is not constant."""
    nodes = [
        node("Mul", ["x", "zero"], [f"a{scale}"]),
        node("Mul", [f"a{scale}", "scale"], [f"b{scale}"]),
        node("Add", [f"b{scale}", "bias"], ["y"]),
    ]
    weights = {
        "zero": np.float32(0),
        "scale": np.float32(scale),
        "bias": np.array([1, 2, 3], np.float32),
    }
    return plain_model(nodes, {"x": (np.float32, (batch, 3))}, ["y"], weights)


@pytest.mark.parametrize("batch", [1, "N"])
def test_outputs_that_do_not_depend_on_the_input(batch: int | str) -> None:
    """With a symbolic batch the output has several sizes, which is not to depend on the input."""
    found = compared(ignoring_the_input(batch, 1), ignoring_the_input(batch, 2))
    assert found.status is Status.INCONCLUSIVE


def test_a_model_that_drowns_in_its_own_noise() -> None:
    """The difference of two sums of large numbers: in float32 nothing is left of it."""

    def cancelling(seed: int) -> onnx.ModelProto:
        net = Net(0)
        rng = np.random.default_rng(seed)
        huge = np.full((8, 8), 1e7) + rng.permutation(8)[:, None] * 1e-3
        a = net.op("MatMul", "x", net.const(huge))
        b = net.op("MatMul", "x", net.const(np.flip(huge, 0)))
        y = net.op("Sub", a, b)
        net.nodes[-1].output[0] = "y"
        net.nodes[-1].name = "last"
        for number, one in enumerate(net.nodes[:-1]):
            one.output[0] = f"{seed}_{number}"
            net.nodes[-1].input[number] = f"{seed}_{number}"
        del y
        return net.model("y", ("N", 8))

    found = compared(cancelling(1), cancelling(2))
    assert found.status is not Status.EQUAL


@pytest.mark.parametrize("domain", ["nobody.knows", ""])
def test_an_unknown_operator_cannot_be_run(domain: str) -> None:
    def foreign(alpha: float) -> onnx.ModelProto:
        mystery = node("Mystery", ["x"], ["y"], domain=domain, alpha=alpha)
        x = {"x": (np.float32, ("N", 4))}
        return plain_model([mystery], x, ["y"], domains=[domain] if domain else [])

    found = compared(foreign(1.0), foreign(2.0))
    assert found.status is Status.NOT_RUN
    assert "Mystery" in found.reason
    assert "\n" not in found.reason


def test_an_original_that_runs_on_nothing() -> None:
    def impossible(scale: float) -> onnx.ModelProto:
        nodes = [node("Reshape", ["x", "shape"], ["a"]), node("Mul", ["a", "scale"], ["y"])]
        weights = {"shape": np.array([7, 11]), "scale": np.float32(scale)}
        return plain_model(nodes, {"x": (np.float32, ("N", 3))}, ["y"], weights)

    found = compared(impossible(1), impossible(2))
    assert found.status is Status.NOT_RUN
    assert "the original runs on none of the inputs" in found.reason


def test_node_names_that_are_not_unique() -> None:
    """ONNX does not ask for unique node names, and exporters give none."""
    proto = residual_mlp()
    for one in proto.graph.node:
        one.name = "same"
    other = with_weight(proto, "w_1", weight_named(proto, "w_1") * np.float32(1.001))
    assert compared(proto, other).status is Status.DIFFERENT
    close = with_weight(proto, "w_1", np.nextafter(weight_named(proto, "w_1"), np.inf))
    assert compared(proto, close).status is Status.EQUAL


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int64])
def test_integer_inputs_reach_the_ends_of_a_byte(dtype: type) -> None:
    """`Min` with the largest value but one: wrong for a single value of a byte."""
    high = min(int(np.iinfo(dtype).max), 255)
    x = {"x": (dtype, ("N", 512))}
    to_int = node("Cast", ["x"], ["i"], to=onnx.TensorProto.INT32)
    before = plain_model([to_int, node("Identity", ["i"], ["y"])], x, ["y"])
    after = plain_model(
        [to_int, node("Min", ["i", "top"], ["y"])], x, ["y"], {"top": np.int32(high - 1)}
    )
    assert_different(before, after, "values of 'y' differ")


def test_indices_into_a_small_table() -> None:
    """A vocabulary of three words: most random integers are no index into it."""

    def embed(scale: float) -> onnx.ModelProto:
        table = (np.arange(6, dtype=np.float32).reshape(3, 2) + 1) * np.float32(scale)
        return plain_model(
            [node("Gather", ["table", "x"], ["a"]), node("Neg", ["a"], ["y"])],
            {"x": (np.int64, ("N", 8))}, ["y"], {"table": table},
        )  # fmt: skip

    assert compared(embed(1), embed(1.001)).status is Status.DIFFERENT
    assert compared(embed(1), embed(1 + 1e-7)).status is Status.EQUAL


def test_scalars() -> None:
    def scaled(by: float) -> onnx.ModelProto:
        nodes = [node("Mul", ["x", "by"], ["a"]), node("Mul", ["a", "n"], ["y"])]
        inputs = {"x": (np.float32, ()), "n": (np.float32, ())}
        return plain_model(nodes, inputs, ["y"], {"by": np.float32(by)})

    assert compared(scaled(1), scaled(1 + 1e-7)).status is Status.EQUAL
    assert compared(scaled(1), scaled(1.001)).status is Status.DIFFERENT


# The tolerance --------------------------------------------------------------------------------


def split_in_two(proto: onnx.ModelProto, which: int) -> onnx.ModelProto:
    """Exact over the reals: one convolution or product is computed in two halves of its input
    channels, which are then added.
    """
    name = matrices(proto)[which]
    after = onnx.ModelProto()
    after.CopyFrom(proto)
    place, one = next((i, n) for i, n in enumerate(after.graph.node) if name in n.input)
    weight = weight_named(proto, name)
    half = weight.shape[1] // 2
    parts = []
    for number, keep in enumerate((np.s_[:half], np.s_[half:])):
        masked = np.zeros_like(weight)
        masked[:, keep] = weight[:, keep]
        after.graph.initializer.append(onnx.numpy_helper.from_array(masked, f"{name}.{number}"))
        copy = onnx.NodeProto()
        copy.CopyFrom(one)
        copy.name = f"{one.name}.{number}"
        copy.input[1] = f"{name}.{number}"
        copy.output[0] = f"{one.output[0]}.{number}"
        if number:
            del copy.input[2:]
        parts.append(copy)
    total = node("Add", [part.output[0] for part in parts], list(one.output), name=one.name)
    del after.graph.node[place]
    for new in (total, *reversed(parts)):
        after.graph.node.insert(place, new)
    return after


def permuted_mlp(depth: int, width: int, seed: int | None) -> onnx.ModelProto:
    """An MLP; with a seed the hidden units of each layer change places."""
    net = Net(3)
    rng = None if seed is None else np.random.default_rng(seed)
    x, order = "x", np.arange(width)
    for number in range(depth):
        weight = net.rng.standard_normal((width, width)) * np.sqrt(2 / width)
        bias = net.rng.standard_normal(width) * 0.1
        last = number == depth - 1
        new = np.arange(width) if rng is None or last else rng.permutation(width)
        weight, bias, order = weight[new][:, order], bias[new], new
        x = net.op("Gemm", x, net.const(weight), net.const(bias), transB=1)
        x = x if last else net.op("Relu", x)
    net.nodes[-1].output[0] = "y"
    return net.model("y", ("N", width))


def cancelling(split: bool) -> onnx.ModelProto:
    """The difference of two long sums that nearly cancel: a few digits are lost, not all."""
    net = Net(4)
    big = net.rng.standard_normal((64, 64)) * 50
    small = big + net.rng.standard_normal((64, 64)) * 0.1
    first, second = (net.const(w) for w in (big, small))
    a = net.op("MatMul", "x", first)
    b = net.op("MatMul", "x", second)
    if split:
        net.weights[0].CopyFrom(
            onnx.numpy_helper.from_array((big - small).astype(np.float32), net.weights[0].name)
        )
        net.nodes = net.nodes[:1]
        net.op("Identity", a)
    else:
        net.op("Sub", a, b)
    net.nodes[-1].output[0] = "y"
    return net.model("y", ("N", 64))


REASSOCIATED = {
    "conv in two halves": lambda: (residual_net(seed=2), split_in_two(residual_net(seed=2), 1)),
    "wide conv": lambda: (
        residual_net(1, 32, seed=5), split_in_two(residual_net(1, 32, seed=5), 1),
    ),
    "gemm in two halves": lambda: (residual_mlp(4, 32), split_in_two(residual_mlp(4, 32), 1)),
    "deep permuted mlp": lambda: (permuted_mlp(24, 48, None), permuted_mlp(24, 48, 1)),
    "shallow permuted mlp": lambda: (permuted_mlp(2, 512, None), permuted_mlp(2, 512, 1)),
    "cancelling sums": lambda: (cancelling(False), cancelling(True)),
}  # fmt: skip


@pytest.mark.parametrize("name", REASSOCIATED)
def test_exact_rewrites_pass(name: str) -> None:
    before, after = REASSOCIATED[name]()
    found = compared(before, after)
    assert found.status is Status.EQUAL, found.reason
    assert found.worst is not None
    assert found.worst.absolute > 0  # it does round otherwise
    assert found.worst.relative < found.worst.tolerance
    assert found.worst.tolerance < 5e-3


@pytest.mark.parametrize("name", REASSOCIATED)
@pytest.mark.parametrize("seed", [0, 1])
def test_errors_of_twenty_times_the_tolerance_fail(name: str, seed: int) -> None:
    before, after = REASSOCIATED[name]()
    fine = compared(before, after, seed=seed)
    worst = fine.worst
    assert worst is not None
    size = worst.absolute / worst.relative
    output = after.graph.output[0].name
    after.graph.initializer.append(
        onnx.numpy_helper.from_array(np.float32(20 * worst.tolerance * size), "shift")
    )
    for one in after.graph.node:
        one.output[:] = ["inner" if name == output else name for name in one.output]
    after.graph.node.append(node("Add", ["inner", "shift"], [output]))
    found = compared(before, after, seed=seed)
    assert found.status is Status.DIFFERENT
    assert "times the tolerance" in found.reason


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_the_tolerance_follows_the_float_type(dtype: type) -> None:
    def typed(wrong: float) -> onnx.ModelProto:
        net = Net(0, dtype)
        x = net.act(dense(net, "x", 16, 16), "Relu")
        y = net.op("Mul", dense(net, x, 16, 4), net.const(1 + wrong))
        return net.model(y, ("N", 16))

    unit = float(np.finfo(dtype).eps)
    assert compared(typed(0), typed(2000 * unit)).status is Status.DIFFERENT
    assert compared(typed(0), typed(2 * unit)).status is Status.EQUAL
