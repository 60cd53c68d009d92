"""Channels that nobody needs leave the network, and nothing else changes; or what must, is said."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.cli.main import main
from graphopt.errors import NotEquivalent, PassFailed, PipelineError
from graphopt.evidence import Exactness
from graphopt.ir import Model, fingerprint
from graphopt.optimizer import Outcome, optimize
from graphopt.pipeline import Pipeline
from graphopt.verify.algebra import ClaimError, PrunedBias, PrunedWeight
from graphopt.verify.numeric import Status
from tests.support.blocks import Net
from tests.support.check import equal, run
from tests.support.models import residual_net, weight_named, with_weight

SHAPE = ("N", 3, 8, 9)


def prune(proto: onnx.ModelProto, options: str = "") -> Outcome:
    return optimize(proto, pipeline=f"prune-channels{{{options}}}" if options else "prune-channels")


def widths(model: Model) -> list[int]:
    """Output channels of the linear operators, in order."""
    found = []
    for node in model.graph:
        if node.op_type in ("Conv", "Gemm", "MatMul"):
            shape = node.inputs[1].shape
            stored_by_input = node.op_type == "MatMul" or (
                node.op_type == "Gemm" and not node.attributes.get_int("transB", 0)
            )
            found.append(shape[1 if stored_by_input else 0])
    return found


def codes(outcome: Outcome) -> list[tuple[str, str]]:
    """Code and region of every refusal, those left out that come with every model: its output."""
    return [
        (one.code, one.region.name)
        for one in outcome.records[-1].refusals
        if "is an output of the model" not in one.reason
    ]


def weights(net: Net, rows: int, columns: int, *kernel: int, zero_rows=(), zero_columns=()):
    """Random weights of which some rows and columns are zero."""
    array = net.rng.standard_normal((rows, columns, *kernel))
    array[list(zero_rows)] = 0
    array[:, list(zero_columns)] = 0
    return array


def conv(net: Net, x: str, weight: np.ndarray, bias=None, **attributes: object) -> str:
    """A convolution, unpadded unless `pads` are given."""
    inputs = [x, net.const(weight)] + ([] if bias is None else [net.const(bias)])
    return net.op("Conv", *inputs, **attributes)


def norm(net: Net, x: str, gamma, beta, mean=None, var=None) -> str:
    count = len(gamma)
    mean = net.rng.standard_normal(count) if mean is None else mean
    var = net.rng.uniform(0.3, 2, count) if var is None else var
    return net.op("BatchNormalization", x, *map(net.const, (gamma, beta, mean, var)))


def head(net: Net, x: str, channels: int, k: int = 1, **attributes: object) -> str:
    return conv(net, x, weights(net, 2, channels, k, k), net.rng.standard_normal(2), **attributes)


# Never read ---------------------------------------------------------------------------------------


def test_channels_that_nobody_reads() -> None:
    net = Net()
    x = net.act(net.norm(net.conv("x", 3, 6, 3, bias=False), 6), "Relu")
    y = conv(net, x, weights(net, 4, 6, 3, 3, zero_columns=(0, 4)), pads=[1] * 4)
    outcome = prune(net.model(y, SHAPE))
    assert widths(outcome.model) == [4, 4]
    equal(outcome)
    (record,) = outcome.records
    assert record.statistics == {"channels removed": 2, "groups": 1, "coupled": 1}
    assert record.claims_checked == 6  # two weights, four parameters of the norm
    (rewrite,) = record.rewrites
    assert rewrite.exactness is Exactness.EXACT
    assert "2 of 6 channels" in rewrite.facts[0]
    assert "never read" in rewrite.facts[1]
    assert rewrite.after.multiply_adds < rewrite.before.multiply_adds
    assert rewrite.after.parameters < rewrite.before.parameters
    assert outcome.after.total.multiply_adds * 3 == outcome.before.total.multiply_adds * 2


def test_each_reader_must_not_read_it() -> None:
    net = Net()
    x = net.act(net.conv("x", 3, 6, 3), "Relu")
    a = conv(net, x, weights(net, 4, 6, 1, 1, zero_columns=(0, 1, 2)))
    b = conv(net, x, weights(net, 5, 6, 3, 3, zero_columns=(1, 2, 3)), pads=[1] * 4)
    outcome = prune(net.model(net.op("Concat", a, b, axis=1), SHAPE))
    assert widths(outcome.model) == [4, 4, 5]
    equal(outcome)
    assert codes(outcome) == [("coupled", a), ("coupled", b)]


def test_without_readers_nothing_happens() -> None:
    net = Net()
    net.conv("x", 3, 6, 3)
    assert not prune(net.model(net.conv("x", 3, 2, 1), SHAPE)).changed


# Constants ----------------------------------------------------------------------------------------

CHAINS = {
    "relu": ("Relu", {}),
    "leaky": ("LeakyRelu", {"alpha": 0.2}),
    "elu": ("Elu", {"alpha": 0.7}),
    "selu": ("Selu", {}),
    "celu": ("Celu", {"alpha": 0.6}),
    "sigmoid": ("Sigmoid", {}),
    "hard sigmoid": ("HardSigmoid", {"alpha": 0.3, "beta": 0.4}),
    "hard swish": ("HardSwish", {}),
    "tanh": ("Tanh", {}),
    "softplus": ("Softplus", {}),
    "softsign": ("Softsign", {}),
    "threshold": ("ThresholdedRelu", {"alpha": 0.4}),
    "erf": ("Erf", {}),
    "neg": ("Neg", {}),
    "identity": ("Identity", {}),
    "global": ("GlobalAveragePool", {}),
    "global max": ("GlobalMaxPool", {}),
    "mean": ("ReduceMean", {"axes": [2, 3]}),
    "max pool": ("MaxPool", {"kernel_shape": [3, 3], "pads": [1] * 4, "strides": [2, 2]}),
    "average": ("AveragePool", {"kernel_shape": [2, 3], "strides": [2, 1]}),
    "average padded": ("AveragePool", {"kernel_shape": [3, 3], "pads": [1] * 4}),
    "average cut": ("AveragePool", {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
}


@pytest.mark.parametrize("kind", CHAINS)
def test_a_constant_goes_through(kind: str) -> None:
    """Rows that are zero leave a constant; a negative, a small, a large and a very large one."""
    operator, attributes = CHAINS[kind]
    net = Net()
    bias = np.array([-2.0, 0.3, 1.4, 9.0, -0.7, 0.2])
    x = conv(net, "x", weights(net, 6, 3, 3, 3, zero_rows=range(4)), bias, pads=[1] * 4)
    x = net.op(operator, x, **attributes)
    outcome = prune(net.model(head(net, x, 6), SHAPE))
    assert widths(outcome.model) == [2, 2]
    equal(outcome)
    assert "4 of them constant" in outcome.records[0].rewrites[0].facts[1]


def test_a_norm_makes_constants_of_its_shift() -> None:
    """Where gamma is 0 only beta is left, and it is negative under the ReLU for one of them."""
    net = Net()
    gamma, beta = [0, 1.2, 0, -0.7, 0], [-1.5, 0.2, 0.8, -0.4, 0]
    x = net.act(norm(net, net.conv("x", 3, 5, 3), gamma, beta), "Relu")
    outcome = prune(net.model(head(net, x, 5), SHAPE))
    assert widths(outcome.model) == [2, 2]
    equal(outcome)


def test_a_constant_through_a_norm() -> None:
    net = Net()
    x = conv(net, "x", weights(net, 5, 3, 1, 1, zero_rows=(1, 3)), net.rng.standard_normal(5))
    x = net.act(net.norm(x, 5), "Relu")
    outcome = prune(net.model(head(net, x, 5), SHAPE))
    assert widths(outcome.model) == [3, 2]
    equal(outcome)


def test_per_channel_constants() -> None:
    """PRelu, Clip, scales, shifts, Max and Min, each with numbers of its own for every channel."""
    net = Net()
    bias = np.array([-2.0, 0.3, 1.4, 9.0, -0.7, 0.2])
    x = conv(net, "x", weights(net, 6, 3, 3, 3, zero_rows=range(4)), bias)

    def wide(*shape: int) -> str:
        return net.const(net.rng.uniform(0.4, 2, shape))

    x = net.op("PRelu", x, wide(6, 1, 1))
    x = net.op("Mul", wide(1, 6, 1, 1), x)
    x = net.op("Sub", wide(6, 1, 1), x)
    x = net.op("Div", x, wide(6, 1, 1))
    x = net.op("Clip", x, net.const(-3.0), net.const(2.5))
    x = net.op("Clip", x, "", net.const(2.0))
    x = net.op("Max", x, wide(6, 1, 1))
    x = net.op("Min", net.const(1.5), x)
    x = net.op("Pow", x, net.const(2.0))
    outcome = prune(net.model(head(net, x, 6), SHAPE))
    assert widths(outcome.model) == [2, 2]
    equal(outcome)


def test_clip_with_attributes() -> None:
    net = Net(opset=10)
    x = conv(net, "x", weights(net, 4, 3, 1, 1, zero_rows=(0, 1)), [-3.0, 8.0, 0.1, 0.2])
    x = net.op("Clip", x, min=-1.0, max=6.0)
    outcome = prune(net.model(head(net, x, 4), (2, 3, 5, 5)))
    assert widths(outcome.model) == [2, 2]
    equal(outcome)


@pytest.mark.parametrize("kind", ["swish", "hard swish", "gelu", "pooled gate"])
def test_products_of_the_same_channels(kind: str) -> None:
    net = Net()
    x = conv(net, "x", weights(net, 5, 3, 3, 3, zero_rows=(0, 2)), [-1.2, 0.1, 2.2, 0.3, 0.2])
    match kind:
        case "swish":
            y = net.op("Mul", x, net.op("Sigmoid", x))
        case "hard swish":
            gate = net.op("Clip", net.op("Add", x, net.const(3.0)), net.const(0), net.const(6))
            y = net.op("Div", net.op("Mul", x, gate), net.const(6.0))
        case "gelu":
            inner = net.op("Erf", net.op("Div", x, net.const(np.sqrt(2))))
            y = net.op("Mul", x, net.op("Add", inner, net.const(1.0)))
        case _:
            y = net.op("Mul", x, net.op("Sigmoid", net.op("GlobalAveragePool", x)))
    outcome = prune(net.model(head(net, y, 5), SHAPE))
    assert widths(outcome.model) == [3, 2]
    equal(outcome)


def test_a_factor_of_zero_makes_zero() -> None:
    net = Net()
    x = net.op("Mul", net.conv("x", 3, 4, 3), net.const(np.array([[[1]], [[0]], [[2]], [[0]]])))
    outcome = prune(net.model(head(net, x, 4, 3, pads=[1] * 4), SHAPE))
    assert widths(outcome.model) == [2, 2]
    equal(outcome)


def test_without_a_bias_the_readers_get_one() -> None:
    net = Net()
    x = net.act(
        conv(net, "x", weights(net, 4, 3, 1, 1, zero_rows=(0, 1)), [0.5, 1.0, 2, 3]), "Relu"
    )
    y = conv(net, x, weights(net, 2, 4, 1, 1))
    outcome = prune(net.model(y, SHAPE))
    assert widths(outcome.model) == [2, 2]
    assert len(list(outcome.model.graph)[-1].inputs) == 3
    equal(outcome)


def test_what_is_not_finite_is_no_constant() -> None:
    net = Net()
    x = conv(net, "x", weights(net, 4, 3, 1, 1, zero_rows=(0, 1)), [0.0, 1.0, 2, 3])
    x = net.op("Div", net.const(1.0), net.op("Add", net.op("Mul", x, x), net.const(0.0)))
    outcome = prune(net.model(head(net, x, 4), SHAPE))
    assert widths(outcome.model) == [3, 2]


# Borders ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [-1.0, 0.0, 1.0])
def test_padding_spoils_a_constant_that_is_not_zero(value: float) -> None:
    net = Net()
    bias = np.array([value, 0.3, value, 0.1])
    x = net.act(conv(net, "x", weights(net, 4, 3, 1, 1, zero_rows=(0, 2)), bias), "Relu")
    outcome = prune(net.model(head(net, x, 4, 3, pads=[1] * 4), SHAPE))
    if value > 0:
        assert not outcome.changed
        assert [code for code, _ in codes(outcome)] == ["padded-border"]
        assert "(2 of 4)" in outcome.records[0].refusals[-1].reason
        return
    assert widths(outcome.model) == [2, 2]
    equal(outcome)


def test_only_taps_that_read_padding_spoil_it() -> None:
    """A kernel that is zero but for its centre, as reserve-merge writes it, reads no padding."""
    net = Net()
    x = conv(net, "x", weights(net, 4, 3, 1, 1, zero_rows=(0, 2)), [1.0, 0.3, 2.0, 0.1])
    weight = weights(net, 3, 4, 3, 3)
    weight[:, 0] = 0
    weight[:, 0, 1, 1] = [0.3, -0.8, 1.7]
    y = conv(net, x, weight, pads=[1] * 4)
    outcome = prune(net.model(y, SHAPE))
    assert widths(outcome.model) == [3, 3]
    equal(outcome)
    assert [code for code, _ in codes(outcome)] == ["padded-border"]


@pytest.mark.parametrize(("size", "width"), [(8, 3), (9, 4), ("H", 4)])
def test_strides_may_step_over_the_padding(size: int | str, width: int) -> None:
    """Windows of 2 at every second position of an even image leave the padding behind it alone."""
    net = Net()
    x = conv(net, "x", weights(net, 4, 3, 1, 1, zero_rows=(0,)), [1.0, 0.3, 2.0, 0.1])
    y = conv(net, x, weights(net, 3, 4, 2, 2), strides=[2, 2], pads=[0, 0, 1, 1])
    outcome = prune(net.model(y, (1, 3, size, size)))
    assert widths(outcome.model) == [width, 3]
    if outcome.changed:
        equal(outcome)


@pytest.mark.parametrize("include", [0, 1])
@pytest.mark.parametrize("value", [0.0, 0.5])
def test_an_average_over_padding(include: int, value: float) -> None:
    net = Net()
    x = conv(net, "x", weights(net, 4, 3, 1, 1, zero_rows=(1,)), [0.1, value, 2.0, 0.1])
    x = net.op("AveragePool", x, kernel_shape=[3, 3], pads=[1] * 4, count_include_pad=include)
    outcome = prune(net.model(head(net, x, 4), SHAPE))
    assert widths(outcome.model) == [4 if include and value else 3, 2]
    if outcome.changed:
        equal(outcome)
    else:
        assert [code for code, _ in codes(outcome)] == ["padded-border"]


# Depthwise convolutions ---------------------------------------------------------------------------


@pytest.mark.parametrize("stride", [1, 2])
def test_a_depthwise_chain(stride: int) -> None:
    """Expand, depthwise, project: the depthwise convolution and both norms shrink along."""
    net = Net()
    x = conv(net, "x", weights(net, 8, 3, 1, 1, zero_rows=(1, 5)))
    x = net.act(norm(net, x, np.ones(8), np.full(8, -0.5), np.zeros(8)), "relu6")
    x = net.conv(x, 8, 8, 3, group=8, stride=stride, bias=False)
    x = net.act(net.norm(x, 8), "relu6")
    y = conv(net, x, weights(net, 4, 8, 1, 1, zero_columns=(2,)))
    outcome = prune(net.model(y, SHAPE))
    assert widths(outcome.model) == [5, 5, 4]
    groups = [n.attributes.get_int("group", 1) for n in outcome.model.graph if n.op_type == "Conv"]
    assert groups == [1, 5, 1]
    equal(outcome)


@pytest.mark.parametrize(("pads", "width"), [(0, 4), (1, 5)])
def test_a_constant_through_a_depthwise_convolution(pads: int, width: int) -> None:
    net = Net()
    x = conv(net, "x", weights(net, 6, 3, 1, 1, zero_rows=(0, 3)), [0.7, 1, 2, -0.4, 1, 1])
    weight = weights(net, 6, 1, 3, 3)
    weight[3] = 0
    x = conv(net, x, weight, net.rng.standard_normal(6), group=6, pads=[pads] * 4)
    outcome = prune(net.model(head(net, net.act(x, "Relu"), 6), SHAPE))
    assert widths(outcome.model) == [width, width, 2]
    equal(outcome)


def test_a_depthwise_channel_that_is_zero_ends_its_channel() -> None:
    """Whatever comes in, its bias comes out: also the channel before it is needed by nobody."""
    net = Net()
    x = net.act(net.conv("x", 3, 4, 3), "Relu")
    weight = weights(net, 4, 1, 3, 3, zero_rows=(2,))
    x = conv(net, x, weight, [0.1, 0.2, 0.9, 0.4], group=4, pads=[1] * 4)
    outcome = prune(net.model(head(net, net.act(x, "HardSwish"), 4), SHAPE))
    assert widths(outcome.model) == [3, 3, 2]
    equal(outcome)


# Other ranks --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["flatten", "reshape", "reshape -1", "reshape 0"])
def test_channels_that_are_flattened(kind: str) -> None:
    """Each channel becomes a run of columns; norms behind have one number for each of these."""
    net = Net()
    x = conv(net, "x", weights(net, 5, 3, 3, 3, zero_rows=(1, 4)), [0.1, 0.7, 0.3, 0.2, -0.5])
    x = net.act(net.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2]), "LeakyRelu")
    shapes = {"reshape": [-1, 45], "reshape -1": [2, -1], "reshape 0": [0, -1]}
    if kind == "flatten":
        x = net.op("Flatten", x)
    else:
        x = net.op("Reshape", x, net.const(shapes[kind], np.int64))
    x = net.act(net.norm(x, 45), "Relu")
    weight = weights(net, 4, 45, zero_columns=range(18, 27))
    y = net.op("Gemm", x, net.const(weight), net.const(np.ones(4)), transB=1)
    outcome = prune(net.model(y, (2, 3, 8, 8)))
    assert widths(outcome.model) == [2, 4]
    equal(outcome)


def test_a_run_of_columns_that_is_read_in_part_stays() -> None:
    net = Net()
    x = net.op("Flatten", net.act(net.conv("x", 3, 4, 3), "Relu"))
    y = net.op("Gemm", x, net.const(weights(net, 5, 64, zero_columns=range(15))), transB=1)
    assert not prune(net.model(y, ("N", 3, 4, 4))).changed


def test_means_and_squeezes_move_the_axis() -> None:
    net = Net()
    x = net.act(conv(net, "x", weights(net, 6, 3, 3, 3, zero_rows=(0,)), np.ones(6)), "Relu")
    x = net.op("ReduceMean", x, axes=[-1], keepdims=0)
    x = net.op("ReduceMean", x, axes=[2], keepdims=1)
    x = net.op("Squeeze", x, net.const([2], np.int64))
    y = net.op("Gemm", x, net.const(weights(net, 6, 4, zero_columns=())))
    outcome = prune(net.model(y, SHAPE))
    assert widths(outcome.model) == [5, 4]
    equal(outcome)


def test_one_spatial_axis() -> None:
    net = Net()
    x = conv(net, "x", weights(net, 6, 3, 5, zero_rows=(0, 5)), [-1.0, 1, 1, 1, 1, 0], pads=[2, 2])
    x = net.act(net.act(x, "Relu"), "none")
    y = conv(net, x, weights(net, 4, 6, 3, zero_columns=(2,)), pads=[1, 1])
    outcome = prune(net.model(y, ("N", 3, 11)))
    assert widths(outcome.model) == [3, 4]
    equal(outcome)


@pytest.mark.parametrize("trans", [0, 1])
def test_gemms(trans: int) -> None:
    net = Net()

    def gemm(x: str, weight: np.ndarray, bias: np.ndarray) -> str:
        stored = weight if trans else weight.T
        return net.op("Gemm", x, net.const(stored), net.const(bias), transB=trans)

    x = gemm("x", weights(net, 7, 4, zero_rows=(0, 3)), net.rng.standard_normal(7))
    x = net.act(net.norm(x, 7), "Relu")
    x = gemm(x, weights(net, 6, 7, zero_columns=(5,)), np.array([0.4]))
    y = gemm(net.act(x, "Tanh"), weights(net, 3, 6, zero_columns=(1,)), np.zeros((1, 3)))
    outcome = prune(net.model(y, ("N", 4)))
    assert widths(outcome.model) == [4, 5, 3]
    equal(outcome)


@pytest.mark.parametrize("bias", [False, True])
def test_matrix_products_over_tokens(bias: bool) -> None:
    """Channels are the last axis; without a bias a constant needs an Add."""
    net = Net()

    def dense(x: str, weight: np.ndarray, given: bool) -> str:
        y = net.op("MatMul", x, net.const(weight))
        return net.op("Add", net.const(net.rng.standard_normal(weight.shape[1])), y) if given else y

    x = dense("x", weights(net, 4, 8, zero_columns=(1, 6)), True)
    x = net.op("Mul", x, net.op("Sigmoid", x))
    y = dense(x, weights(net, 8, 5, zero_rows=(2,)), bias)
    outcome = prune(net.model(net.op("Softmax", y), ("N", 7, 4)))
    assert widths(outcome.model) == [5, 5]
    assert [n.op_type for n in outcome.model.graph].count("Add") == 2
    equal(outcome)
    assert not optimize(outcome.model, pipeline="prune-channels").changed


def test_products_in_a_row_without_biases() -> None:
    """The Add in the middle makes a tensor of as many channels as are left."""
    net = Net()
    x = net.op("Add", net.op("MatMul", "x", net.const(weights(net, 3, 6))), net.const(np.ones(6)))
    x = net.op("Mul", x, net.const([0.0, 1, 1, 0, 1, 1]))
    x = net.op("Add", x, net.const(np.arange(6)))
    x = net.op("MatMul", x, net.const(weights(net, 6, 5)))
    y = net.op("MatMul", x, net.const(weights(net, 5, 2, zero_rows=(1, 2))))
    outcome = prune(net.model(y, ("N", 4, 3)))
    assert widths(outcome.model) == [4, 3, 2]
    equal(outcome)


def test_half_precision() -> None:
    net = Net(dtype=np.float16)
    x = conv(net, "x", weights(net, 6, 3, 3, 3, zero_rows=(0, 2)), np.linspace(-1, 1, 6))
    outcome = prune(net.model(head(net, net.act(x, "LeakyRelu"), 6), SHAPE))
    assert widths(outcome.model) == [4, 2]
    equal(outcome)


# The fixpoint -------------------------------------------------------------------------------------


def test_one_channel_takes_others_with_it() -> None:
    """Backwards: whoever alone read for an unread channel is unread. Forwards: what reads only
    constants is a constant.
    """
    net = Net()
    first = weights(net, 4, 3, 3, 3)
    second = weights(net, 5, 4, 1, 1, zero_columns=(0,))
    second[3, 0] = 1.0  # only channel 3 reads channel 0, and nobody reads channel 3
    first[1] = 0
    second[2] = 0
    second[2, 1] = 0.7  # channel 2 reads only channel 1, which is a constant
    third = weights(net, 3, 5, 1, 1, zero_columns=(3,))
    x = net.act(conv(net, "x", first, [0.1, 0.8, 0.2, 0.3]), "Relu")
    x = net.act(conv(net, x, second, net.rng.standard_normal(5)), "Sigmoid")
    y = conv(net, x, third)
    outcome = prune(net.model(y, SHAPE))
    assert widths(outcome.model) == [2, 3, 3]
    equal(outcome)


def test_a_deep_chain_goes_in_one_run() -> None:
    """Nobody reads the end of it, so nobody reads what was computed for it, ten layers up."""
    net = Net()
    x = "x"
    for number in range(10):
        weight = weights(net, 4, 3 if number == 0 else 4, 1, 1)
        if number:
            weight[:2, 2:], weight[2:, :2] = 0, 0  # two pairs of channels side by side
        x = net.act(conv(net, x, weight, net.rng.standard_normal(4)), "Tanh")
    y = conv(net, x, weights(net, 2, 4, 1, 1, zero_columns=(0, 1)))
    outcome = prune(net.model(y, SHAPE))
    assert widths(outcome.model) == [2] * 11
    equal(outcome)


def test_the_last_channel_stays() -> None:
    net = Net()
    x = net.act(conv(net, "x", np.zeros((4, 3, 1, 1)), np.array([1.0, 2, 3, 4])), "Relu")
    x = conv(net, x, weights(net, 3, 4, 1, 1), net.rng.standard_normal(3))
    y = net.op("Concat", x, net.conv("x", 3, 2, 1), axis=1)
    outcome = prune(net.model(y, SHAPE))
    assert widths(outcome.model) == [1, 3, 2]
    equal(outcome)


@pytest.mark.parametrize(("options", "width"), [("align=4", 8), ("align=3", 6), ("keep=7", 7)])
def test_how_many_are_kept(options: str, width: int) -> None:
    net = Net()
    x = net.act(net.conv("x", 3, 9, 3), "Relu")
    y = conv(net, x, weights(net, 2, 9, 1, 1, zero_columns=(0, 3, 4, 8)))
    outcome = prune(net.model(y, SHAPE), options)
    assert widths(outcome.model) == [width, 2]
    equal(outcome)
    assert not optimize(outcome.model, pipeline=f"prune-channels{{{options}}}").changed


def test_where_aligning_leaves_nothing() -> None:
    net = Net()
    y = conv(net, net.conv("x", 3, 9, 3), weights(net, 2, 9, 1, 1, zero_columns=(0,)))
    assert not prune(net.model(y, SHAPE), "align=16").changed


# Coupled ------------------------------------------------------------------------------------------


def first_four(net: Net) -> tuple[str, str]:
    return net.const([0], np.int64), net.const([4], np.int64)


COUPLED = {
    "add": lambda net, x: net.op("Add", x, net.conv("x", 3, 4, 1)),
    "concat": lambda net, x: net.op("Concat", x, net.conv("x", 3, 4, 1), axis=1),
    "gate": lambda net, x: net.op("Mul", x, net.op("Sigmoid", net.conv("x", 3, 4, 1))),
    "grouped": lambda net, x: net.conv(x, 4, 4, 3, group=2),
    "multiplier": lambda net, x: net.conv(x, 4, 8, 3, group=4),
    "layer norm": lambda net, x: net.op("LayerNormalization", x, net.const(np.ones(9)), axis=-1),
    "transpose": lambda net, x: net.op("Transpose", x, perm=[0, 2, 1, 3]),
    "softmax": lambda net, x: net.op("Softmax", x, axis=1),
    "map": lambda net, x: net.op("Mul", x, net.const(net.rng.standard_normal((8, 9)))),
    "whole": lambda net, x: net.op("Add", x, net.const(net.rng.standard_normal((4, 8, 9)))),
    "more axes": lambda net, x: net.op("Mul", x, net.const(np.ones((1, 1, 4, 1, 1)))),
    "mean": lambda net, x: net.op("ReduceMean", x, axes=[1], keepdims=1),
    "mean of all": lambda net, x: net.op("ReduceMean", x, keepdims=1),
    "reshape": lambda net, x: net.op("Reshape", x, net.const([0, 2, -1], np.int64)),
    "folded batch": lambda net, x: net.op("Reshape", x, net.const([8, -1], np.int64)),
    "rows": lambda net, x: net.op("Flatten", x, axis=2),
    "bound": lambda net, x: net.op("Clip", x, net.op("ReduceMean", x, keepdims=0)),
    "rank": lambda net, x: net.op("Mul", x, net.op("ReduceMean", x, axes=[3], keepdims=0)),
    "foreign": lambda net, x: net.op("Relu", x, domain="elsewhere"),
    "product": lambda net, x: net.op("MatMul", x, net.const(np.ones((9, 2)))),
    "matrix": lambda net, x: net.op("MatMul", net.const(np.ones((2, 8))), x),
    "shape": lambda net, x: net.op("Reshape", x, net.op("Shape", x)),
    "three": lambda net, x: net.op("Max", x, net.const(0.5), net.const(1.0)),
    "indices": lambda net, x: net.op("MaxPool", x, outputs=2, kernel_shape=[2, 2])[1],
    "statistics": lambda net, x: net.op(
        "BatchNormalization",
        x,
        net.const(np.ones(4)),
        net.const(np.ones(4)),
        net.op("ReduceMean", net.conv("x", 3, 4, 1), axes=[0, 2, 3], keepdims=0),
        net.const(np.ones(4)),
    ),
    "runtime scale": lambda net, x: net.op(
        "BatchNormalization",
        x,
        net.op("Slice", net.op("ReduceMean", "x", axes=[0, 1, 2], keepdims=0), *first_four(net)),
        *(net.const(np.ones(4)) for _ in range(3)),
    ),
    "training": lambda net, x: net.op("Dropout", x, net.const(0.5), net.const(True, np.bool_)),
}


@pytest.mark.parametrize("kind", COUPLED)
def test_coupled_channels_stay(kind: str) -> None:
    """Channel 0 is zero, and would go if nothing else depended on it."""
    net = Net()
    x = conv(net, "x", weights(net, 4, 3, 1, 1, zero_rows=(0,)))
    model = net.model(COUPLED[kind](net, x), (1, 3, 8, 9), opset_imports=(("elsewhere", 1),))
    (record,) = Pipeline.parse("prune-channels").run(Model.load(model))
    assert not record.changed
    (refusal,) = (one for one in record.refusals if one.region.name == x)
    assert refusal.code == "coupled"
    guilty = [node.name for node in model.graph.node if x in node.input]
    assert refusal.region.nodes[-1] in guilty
    assert refusal.region.nodes[-1] in refusal.reason


def test_an_inner_tensor_that_is_an_output_couples() -> None:
    net = Net()
    x = net.act(conv(net, "x", weights(net, 4, 3, 1, 1, zero_rows=(0,))), "Relu")
    outcome = prune(net.model(head(net, x, 4), SHAPE, extra_outputs=(x,)))
    assert not outcome.changed
    assert all("is an output of the model" in one.reason for one in outcome.records[0].refusals)


def test_a_subgraph_that_reads_channels_couples() -> None:
    net = Net()
    x = net.act(conv(net, "x", weights(net, 4, 3, 1, 1, zero_rows=(0,))), "Relu")
    branches = [
        onnx.helper.make_graph(
            [onnx.helper.make_node(operator, [x], ["inner"])],
            operator,
            [],
            [onnx.helper.make_tensor_value_info("inner", onnx.TensorProto.FLOAT, None)],
        )
        for operator in ("Neg", "Abs")
    ]
    condition = net.const(True, np.bool_)
    chosen = net.op("If", condition, then_branch=branches[0], else_branch=branches[1])
    y = net.op("Concat", head(net, x, 4), chosen, axis=1)
    model = Model.load(net.model(y, SHAPE))
    (record,) = Pipeline.parse("prune-channels").run(model)
    assert not record.changed
    assert record.refusals[0].reason == f"a subgraph reads '{x}'"


def test_weights_that_are_no_constants_couple() -> None:
    net = Net()
    x = conv(net, "x", weights(net, 4, 3, 1, 1, zero_rows=(0,)))
    weight = net.op(
        "Reshape", net.op("ReduceMean", "x", axes=[0, 1]), net.const([2, 4, 3, 3], np.int64)
    )
    outcome = prune(net.model(net.op("Conv", x, weight), (1, 3, 8, 9)))
    assert not outcome.changed


def test_only_the_inside_of_residual_blocks_is_free() -> None:
    """Where an Add joins two tensors their channels are coupled; without it they are not."""
    proto = residual_net(2, 4)
    for name in [node.input[1] for node in proto.graph.node if node.op_type == "Conv"]:
        array = weight_named(proto, name)
        array[1] = 0
        proto = with_weight(proto, name, array)
    for name in [node.input[2] for node in proto.graph.node if node.op_type == "Conv"]:
        array = weight_named(proto, name)
        array[1] = -0.3
        proto = with_weight(proto, name, array)
    coupled = prune(proto)
    assert widths(coupled.model) == [4, 3, 4, 3, 4, 5]
    equal(coupled)
    plain = optimize(proto, preset="plain")
    free = optimize(plain.model, pipeline="prune-channels,dce")
    equal(free)
    assert not [n for n in free.model.graph if n.op_type == "Add"]
    assert free.records[0].statistics["channels removed"] >= 5 * 1
    assert free.after.total.multiply_adds < plain.after.total.multiply_adds


def test_option_a_leaves_zeros_that_go() -> None:
    """The block strides and pads its skip with zero channels; the branch adds nothing to some of
    them, so they are zero, which shows once the join is gone: the next block reserves them too.
    """
    proto = residual_net(3, 4, stride=2, projection="option-a")
    kernels = [node.input[1:3] for node in proto.graph.node if node.op_type == "Conv"]
    weight, bias = (weight_named(proto, name) for name in kernels[2])
    weight[[0, 1, 6]], bias[[0, 1, 6]] = 0, 0  # channels 2 to 5 come from the skip
    for name, array in zip(kernels[2], (weight, bias), strict=True):
        proto = with_weight(proto, name, array)
    plain = optimize(proto, preset="plain")
    assert not [n for n in plain.model.graph if n.op_type == "Add"]
    outcome = optimize(plain.model, pipeline="prune-channels,dce")
    equal(outcome)
    before, after = widths(plain.model), widths(outcome.model)
    assert all(b >= a for b, a in zip(before, after, strict=True))
    assert after[2] == before[2] - 3  # the tensor behind the block
    assert outcome.records[0].statistics["channels removed"] >= 6  # and where it is reserved
    assert outcome.after.total.parameters < plain.after.total.parameters


# Slimming -----------------------------------------------------------------------------------------


def normed(gammas: list[np.ndarray], betas: list[np.ndarray], *, k: int = 1, pads: int = 0) -> Net:
    """Convolutions with norms and ReLUs, and a head; the net and, as an attribute, its output."""
    net = Net(seed=3)
    x, channels = "x", 3
    for gamma, beta in zip(gammas, betas, strict=True):
        x = conv(net, x, weights(net, len(gamma), channels, k, k), pads=[pads] * 4)
        x = net.act(norm(net, x, gamma, beta), "Relu")
        channels = len(gamma)
    net.output = head(net, x, channels)
    return net


GAMMAS = [np.array([0.9, -0.02, 0.3, 0.05, 1.1]), np.array([0.04, -0.6, 0.01, 0.5, -0.03, 0.2])]
BETAS = [np.array([0.1, -0.4, 0.2, 0.8, -0.1]), np.array([-0.3, 0.2, 0.9, -0.1, 0.4, 0.0])]


def with_small_gammas_zero(proto: onnx.ModelProto, threshold: float) -> onnx.ModelProto:
    """The network as slimming masks it: gamma = 0, beta kept."""
    for node in proto.graph.node:
        if node.op_type == "BatchNormalization":
            gamma = weight_named(proto, node.input[1])
            proto = with_weight(proto, node.input[1], np.where(abs(gamma) < threshold, 0, gamma))
    return proto


@pytest.mark.parametrize("k", [1, 3])
def test_slimming_is_the_masked_network_made_smaller(k: int) -> None:
    net = normed(GAMMAS, BETAS, k=k)
    proto = net.model(net.output, SHAPE)
    outcome = prune(proto, "by=scale,threshold=0.1")
    assert widths(outcome.model) == [3, 3, 2]
    (masked,) = run(Model.load(with_small_gammas_zero(proto, 0.1)))
    (slim,) = run(outcome.model)
    np.testing.assert_allclose(slim, masked, rtol=1e-4, atol=1e-5)
    (old,) = run(outcome.original)
    assert np.abs(slim - old).max() > 1e-3
    rewrites = outcome.records[0].rewrites
    assert {one.exactness for one in rewrites} == {Exactness.NEEDS_RETRAINING}
    assert "|gamma|" in rewrites[0].facts[1]


def test_slimming_before_padding_is_the_masked_network_where_nothing_is_left() -> None:
    """With betas that a ReLU makes zero the border is right too."""
    betas = [np.where(abs(g) < 0.1, -abs(b) - 0.1, b) for g, b in zip(GAMMAS, BETAS, strict=True)]
    net = normed(GAMMAS, betas, k=3, pads=1)
    proto = net.model(net.output, SHAPE)
    outcome = prune(proto, "by=scale,threshold=0.1")
    (masked,) = run(Model.load(with_small_gammas_zero(proto, 0.1)))
    np.testing.assert_allclose(run(outcome.model)[0], masked, rtol=1e-4, atol=1e-5)


def test_slimming_does_not_mind_the_border() -> None:
    net = normed(GAMMAS, BETAS, k=3, pads=1)
    outcome = prune(net.model(net.output, SHAPE), "by=scale,threshold=0.1")
    assert widths(outcome.model) == [3, 3, 2]
    assert codes(outcome) == []


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [
        (0.01, [5, 6]),
        (0.1, [5, 5]),
        (0.2, [4, 5]),
        (0.3, [4, 4]),
        (0.4, [4, 3]),
        (0.46, [3, 3]),
        (0.99, [1, 1]),
    ],
)
def test_the_ratio_ranks_all_layers_together(ratio: float, expected: list[int]) -> None:
    """0.01 and 0.03 and 0.04 of the second layer, 0.02 and 0.05 of the first."""
    net = normed(GAMMAS, BETAS)
    outcome = prune(net.model(net.output, SHAPE), f"by=scale,ratio={ratio}")
    assert widths(outcome.model)[:2] == expected


def test_the_best_channels_are_kept() -> None:
    net = normed(GAMMAS, BETAS)
    outcome = prune(net.model(net.output, SHAPE), "by=scale,threshold=9,keep=2")
    assert widths(outcome.model) == [2, 2, 2]
    kept = [
        node.inputs[1].const_value.numpy()
        for node in outcome.model.graph
        if node.op_type == "BatchNormalization"
    ]
    np.testing.assert_array_equal(kept[0], np.float32([0.9, 1.1]))
    np.testing.assert_array_equal(kept[1], np.float32([-0.6, 0.5]))


def test_aligned_slimming_keeps_the_best_of_what_it_wants_out() -> None:
    net = normed(GAMMAS, BETAS)
    outcome = prune(net.model(net.output, SHAPE), "by=scale,threshold=0.1,align=4")
    assert widths(outcome.model) == [4, 4, 2]
    gamma = next(
        node.inputs[1].const_value.numpy()
        for node in outcome.model.graph
        if node.op_type == "BatchNormalization"
    )
    np.testing.assert_array_equal(gamma, np.float32([0.9, 0.3, 0.05, 1.1]))


def test_slimming_also_takes_what_nobody_needs() -> None:
    """A channel that is constant anyway keeps its exact value, and comes first."""
    net = Net()
    x = conv(net, "x", weights(net, 4, 3, 1, 1, zero_rows=(1,)), net.rng.standard_normal(4))
    x = net.act(norm(net, x, [0.01, 0.9, 0.8, 0.02], [0.5, 0.6, -0.1, 0.4]), "Sigmoid")
    outcome = prune(net.model(head(net, x, 4), SHAPE), "by=scale,threshold=0.1,keep=2")
    assert widths(outcome.model) == [2, 2]
    facts = outcome.records[0].rewrites[0].facts
    assert facts[1].startswith("1 of them constant")
    assert facts[2].startswith("1 of them low in |gamma|")


@pytest.mark.parametrize("setting", ["threshold=0.1", "ratio=0.5"])
def test_without_a_norm_there_is_no_score(setting: str) -> None:
    net = Net()
    x = net.act(net.conv("x", 3, 4, 3), "Relu")
    outcome = prune(net.model(head(net, x, 4), SHAPE), f"by=scale,{setting}")
    assert not outcome.changed
    assert [code for code, _ in codes(outcome)] == ["no-score"]
    assert outcome.verification.status is Status.UNCHANGED


def calibrated(folder: Path) -> tuple[onnx.ModelProto, np.ndarray, Path]:
    """A network whose statistics are those of the samples in a file, which it names."""
    x = np.random.default_rng(1).standard_normal((70, 3, 6, 6)).astype(np.float32)
    net = Net(seed=3)
    y, channels = "x", 3
    for gamma, beta in zip(GAMMAS, BETAS, strict=True):
        y = conv(net, y, weights(net, len(gamma), channels, 3, 3), pads=[1] * 4)
        proto = net.model(y, ("N", 3, 6, 6))
        session = onnxruntime.InferenceSession(proto.SerializeToString())
        (made,) = session.run(None, {"x": x})
        mean, var = made.mean(axis=(0, 2, 3)), made.var(axis=(0, 2, 3))
        y = net.act(norm(net, y, gamma, beta, mean, var), "Relu")
        channels = len(gamma)
    np.savez(folder / "samples.npz", x)
    return net.model(head(net, y, channels), ("N", 3, 6, 6)), x, folder / "samples.npz"


@pytest.mark.parametrize("setting", ["threshold=0.1", "ratio=0.4"])
def test_measured_scores_are_those_of_the_norms(tmp_path: Path, setting: str) -> None:
    """Once the norms are folded, deviation and mean of the samples stand for gamma and beta."""
    proto, x, file = calibrated(tmp_path)
    by_norm = optimize(proto, pipeline=f"prune-channels{{by=scale,{setting}}},fold-norm,dce")
    measured = optimize(
        proto, pipeline=f"fold-norm,prune-channels{{by=scale,{setting},calibration={file}}},dce"
    )
    assert widths(by_norm.model) == widths(measured.model)
    assert sum(widths(measured.model)) < 13
    assert "samples.npz" in " ".join(measured.records[1].rewrites[0].facts)
    one, other = (
        onnxruntime.InferenceSession(outcome.model.to_proto().SerializeToString()).run(
            None, {"x": x}
        )[0]
        for outcome in (by_norm, measured)
    )
    np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3)


def test_samples_for_several_inputs_and_a_fixed_batch(tmp_path: Path) -> None:
    net = Net()
    x = conv(net, "x", weights(net, 4, 3, 1, 1) * np.array([1, 1e-3, 1, 1])[:, None, None, None])
    model = net.model(head(net, net.op("Relu", x), 4), (2, 3, 5, 5))
    file = tmp_path / "s.npz"
    samples = np.random.default_rng(0).standard_normal((5, 3, 5, 5))
    np.savez(file, x=samples, unused=samples)
    outcome = prune(model, f"by=scale,threshold=0.1,calibration={file}")
    assert widths(outcome.model) == [3, 2]


@pytest.mark.parametrize("kind", ["missing", "text", "name", "few", "scalar", "npy"])
def test_samples_that_do_not_fit(tmp_path: Path, kind: str) -> None:
    net = Net()
    model = net.model(head(net, net.act(net.conv("x", 3, 4, 3), "Relu"), 4), (4, 3, 5, 5))
    file = tmp_path / "s.npz"
    samples = np.zeros((2, 3, 5, 5), np.float32)
    match kind:
        case "text":
            file.write_text("samples")
        case "name":
            np.savez(file, a=samples, b=samples)
        case "few":
            np.savez(file, x=samples)
        case "scalar":
            np.savez(file, x=np.float32(1))
        case "npy":
            with file.open("wb") as stream:
                np.save(stream, samples)
    with pytest.raises(PassFailed, match=r"s\.npz"):
        prune(model, f"by=scale,threshold=0.1,calibration={file}")


@pytest.mark.parametrize(
    "options",
    [
        "by=scale,threshold=0.1,ratio=0.1", "threshold=0.1", "ratio=0.5", "keep=0",
        "align=0", "by=scale,ratio=1", "by=scale,ratio=-0.1", "by=scale,threshold=-1", "by=size",
        "calibration=x.npz", "by=scale,threshold=nan",
    ],
)  # fmt: skip
def test_options_that_make_no_sense(options: str) -> None:
    with pytest.raises(PipelineError, match="prune-channels"):
        Pipeline.parse(f"prune-channels{{{options}}}")


def test_slimming_must_be_told_how_much() -> None:
    net = normed(GAMMAS, BETAS)
    with pytest.raises(PassFailed, match="by=scale needs a threshold or a ratio"):
        prune(net.model(net.output, SHAPE), "by=scale")


# What the host makes of it ------------------------------------------------------------------------


def test_slimming_is_no_failure_but_needs_retraining() -> None:
    net = normed(GAMMAS, BETAS)
    outcome = prune(net.model(net.output, SHAPE), "by=scale,threshold=0.1")
    assert outcome.verification is not None
    assert outcome.verification.status is Status.RETRAIN
    assert "prune-channels changed what the model computes" in outcome.verification.reason
    assert "measure the accuracy" in outcome.verification.reason
    assert outcome.verification.errors


def test_what_does_not_run_is_a_failure_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    from passes.channel_pruning import prune as module

    def broken(model: Model, removal: object) -> tuple[()]:
        node = next(n for n in model.graph if n.op_type == "Conv")
        node.attributes["kernel_shape"] = onnx_ir.AttrInt64s("kernel_shape", [5, 5])
        return ()

    monkeypatch.setattr(module, "cut", broken)
    net = normed(GAMMAS, BETAS)
    with pytest.raises(NotEquivalent):
        prune(net.model(net.output, SHAPE), "by=scale,threshold=0.1")


def test_the_command_writes_it_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net = normed(GAMMAS, BETAS)
    onnx.save(net.model(net.output, SHAPE), tmp_path / "net.onnx")
    command = ["optimize", str(tmp_path / "net.onnx"), "--verify-each", "--pipeline"]
    with pytest.raises(SystemExit) as left:
        main([*command, "prune-channels{by=scale,threshold=0.1}", "--json"])
    assert left.value.code in (0, None)
    told = json.loads(capsys.readouterr().out)
    assert told["verification"]["status"] == "needs retraining"
    assert told["passes"][0]["statistics"]["channels removed"] == 5
    onnx.checker.check_model(onnx.load(tmp_path / "net.opt.onnx"), full_check=True)
    with pytest.raises(SystemExit) as left:
        main([*command, "prune-channels{by=scale,ratio=0.2}", "--timing"])
    assert left.value.code in (0, None)
    shown = " ".join(capsys.readouterr().out.split())
    assert "Needs retraining: prune-channels changed" in shown
    assert "measure the accuracy." in shown
    assert "channels removed: 2" in shown


@pytest.mark.parametrize("setting", ["threshold=0.1", "ratio=0.3"])
def test_slimming_twice_is_slimming_once(setting: str) -> None:
    net = normed(GAMMAS, BETAS)
    text = f"prune-channels{{by=scale,{setting}}}"
    first = optimize(net.model(net.output, SHAPE), pipeline=text)
    assert first.changed
    again = optimize(first.model, pipeline=text)
    assert not again.changed
    assert fingerprint(again.model) == fingerprint(first.model)
    if "ratio" in setting:
        assert {code for code, _ in codes(again)} == {"slimmed-before"}


@pytest.mark.parametrize("options", ["", "by=scale,ratio=0.3", "align=4"])
def test_deterministic(options: str) -> None:
    net = normed(GAMMAS, BETAS)
    proto = net.model(net.output, SHAPE)
    saved = {
        prune(proto, options).model.to_proto().SerializeToString(deterministic=True)
        for _ in range(2)
    }
    assert len(saved) == 1


def test_the_original_is_not_touched() -> None:
    net = normed(GAMMAS, BETAS)
    model = Model.load(net.model(net.output, SHAPE))
    before = model.to_proto().SerializeToString(deterministic=True)
    prune(model, "by=scale,threshold=0.1")
    assert model.to_proto().SerializeToString(deterministic=True) == before


# Claims -------------------------------------------------------------------------------------------


def models(*pairs: tuple[str, np.ndarray]) -> Model:
    nodes = [onnx.helper.make_node("Identity", [name], [f"{name}.out"]) for name, _ in pairs]
    graph = onnx.helper.make_graph(
        nodes,
        "weights",
        [],
        [onnx.helper.make_empty_tensor_value_info(f"{name}.out") for name, _ in pairs],
        [onnx.numpy_helper.from_array(np.asarray(array), name) for name, array in pairs],
    )
    return Model.load(onnx.helper.make_model(graph, ir_version=8))


OLD = np.arange(24, dtype=np.float32).reshape(4, 3, 2)


def test_a_pruned_weight_is_the_old_one_without_slices() -> None:
    before = models(("old", OLD))
    good = OLD[[0, 3]][:, [1, 2]]
    claim = PrunedWeight("new", "old", ((0, 3), (1, 2), None))
    claim.check(before, models(("new", good)))
    for bad in (good + 1e-6, OLD[[0, 2]][:, [1, 2]], good.astype(np.float64), good[:, :1]):
        with pytest.raises(ClaimError, match="new"):
            claim.check(before, models(("new", bad)))
    with pytest.raises(ClaimError):
        claim.check(before, models(("other", good)))
    with pytest.raises(ClaimError):
        PrunedWeight("new", "old", ((0, 3), (1, 2))).check(before, models(("new", good)))


@pytest.mark.parametrize("transposed", [False, True])
def test_a_pruned_bias_holds_what_the_constants_add(transposed: bool) -> None:
    weight, bias = OLD[:, :, 0] * 0.1, np.array([[0.3, 0.1, -0.2, 0.7]], np.float32)
    before = models(("w", weight.T if transposed else weight), ("b", bias))
    right = (bias[0] + weight[:, 0] * 2 - weight[:, 2] * 0.5)[[0, 1, 3]]
    claim = PrunedBias("new", "b", "w", (0, 1, 3), (0, 2), np.array([2, -0.5]), transposed)
    claim.check(before, models(("new", right)))
    for bad in (right + np.float32([0, 1e-5, 0]), right[:2], bias[0][[0, 1, 3]]):
        with pytest.raises(ClaimError, match="new"):
            claim.check(before, models(("new", bad)))


def test_a_bias_to_which_nothing_is_added_is_the_same_bit_for_bit() -> None:
    before = models(("w", OLD[:, :, 0]), ("b", np.float32([0.3, 0.1, -0.2, 0.7])))
    claim = PrunedBias("new", "b", "w", (1, 2), (), np.zeros(0))
    claim.check(before, models(("new", np.float32([0.1, -0.2]))))
    with pytest.raises(ClaimError):
        claim.check(before, models(("new", np.nextafter(np.float32([0.1, -0.2]), np.float32(1)))))


def test_the_host_rejects_a_cut_at_the_wrong_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """The claims compare with the model before, not with what the pass believes."""
    from passes.channel_pruning import cut as module

    monkeypatch.setattr(module.np, "take", lambda array, kept, axis: np.roll(array, 1, axis)[:3])
    net = normed(GAMMAS, BETAS)
    with pytest.raises(PassFailed, match="without what was taken out"):
        prune(net.model(net.output, SHAPE), "by=scale,threshold=0.1")


# Random networks ----------------------------------------------------------------------------------


@st.composite
def networks(draw: st.DrawFn) -> tuple[onnx.ModelProto, int]:
    """Chains of layers with zeroed rows and columns, and how many channels at least can go: those
    whose columns are zero.
    """
    net = Net(seed=draw(st.integers(0, 2**16)))
    x, channels, unread = "x", 3, 0
    acts = st.sampled_from(["Relu", "relu6", "leaky", "prelu", "HardSwish", "Tanh", "none"])

    def some(count: int) -> list[int]:
        return sorted(draw(st.sets(st.integers(0, count - 1), max_size=count // 2)))

    for number in range(draw(st.integers(2, 4))):
        out, k = draw(st.integers(2, 6)), draw(st.sampled_from([1, 3]))
        columns = some(channels) if number else []
        unread += len(columns)
        weight = weights(net, out, channels, k, k, zero_rows=some(out), zero_columns=columns)
        bias = None if draw(st.booleans()) else net.rng.standard_normal(out)
        pads = [draw(st.sampled_from([0, k // 2]))] * 4
        stride = 1 if number else draw(st.sampled_from([1, 2]))
        x, channels = conv(net, x, weight, bias, pads=pads, strides=[stride] * 2), out
        x = net.norm(x, out) if draw(st.booleans()) else x
        x = net.act(x, draw(acts), out)
        if draw(st.booleans()):
            depth = weights(net, out, 1, 3, 3, zero_rows=some(out) if draw(st.booleans()) else ())
            x = conv(net, x, depth, net.rng.standard_normal(out), group=out, pads=[1] * 4)
            x = net.act(x, draw(acts), out)
        if draw(st.booleans()):
            kind = draw(st.sampled_from(["MaxPool", "AveragePool"]))
            x = net.op(kind, x, kernel_shape=[3, 3], pads=[1] * 4)
    columns = some(channels)
    unread += len(columns)
    if draw(st.booleans()):
        x = net.op("Flatten", net.op("GlobalAveragePool", x))
        weight = weights(net, 3, channels, zero_columns=columns)
        y = net.op("Gemm", x, net.const(weight), net.const(np.ones(3)), transB=1)
    else:
        weight = weights(net, 3, channels, 1, 1, zero_columns=columns)
        y = conv(net, x, weight)
    return net.model(y, (draw(st.sampled_from(["N", 2])), 3, 17, 18)), unread


@given(networks(), st.sampled_from(["", "align=2", "keep=2"]))
@settings(max_examples=60)
def test_pruned_networks_are_equivalent_and_smaller(
    network: tuple[onnx.ModelProto, int], options: str
) -> None:
    proto, unread = network
    outcome = prune(proto, options)
    assert outcome.verification is not None
    assert outcome.verification.status in (Status.EQUAL, Status.UNCHANGED, Status.INCONCLUSIVE)
    onnx.checker.check_model(outcome.model.to_proto(), full_check=True)
    removed = outcome.records[0].statistics.get("channels removed", 0)
    if not options:
        assert removed >= unread
    before, after = outcome.before.total, outcome.after.total
    assert (after.parameters < before.parameters) is (removed > 0)
    assert (after.multiply_adds < before.multiply_adds) is (removed > 0)
    assert after.peak_activation_bytes <= before.peak_activation_bytes
    again = prune(outcome.model, options)
    assert not again.changed
    assert fingerprint(again.model) == fingerprint(outcome.model)
