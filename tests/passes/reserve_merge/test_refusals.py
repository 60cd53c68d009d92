"""Each condition of the rule: where it fails the join stays, and the reason says so."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest

from tests.support.blocks import Net, basic_block
from tests.support.check import RM, refused, removed


def block(
    branch: Callable[[Net, str], str],
    shortcut: Callable[[Net, str], str] = lambda net, x: x,
    shape: tuple[int | str, ...] = (2, 3, 8, 8),
    before: str = "Relu",
) -> onnx.ModelProto:
    """Stem with 4 channels, a branch, a shortcut, and their sum."""
    net = Net()
    x = net.act(net.conv("x", 3, 4, 1), before)
    return net.model(net.op("Add", branch(net, x), shortcut(net, x)), shape)


def plain(net: Net, x: str) -> str:
    return net.conv(net.act(net.conv(x, 4, 4), "Relu"), 4, 4)


def strided(net: Net, x: str) -> str:
    return net.conv(net.act(net.conv(x, 4, 4, stride=2), "Relu"), 4, 4)


BRANCHES: dict[str, tuple[str, Callable[[Net, str], str]]] = {
    "pool": (
        "pool-in-branch",
        lambda n, x: n.op("MaxPool", plain(n, x), kernel_shape=[3, 3], pads=[1] * 4),
    ),
    "gate": ("gate-in-branch", lambda n, x: n.op("Mul", plain(n, x), n.const(np.ones((1, 1, 8))))),
    "layer norm": (
        "norm-in-branch",
        lambda n, x: n.op("InstanceNormalization", plain(n, x), *(n.const(np.ones(4)),) * 2),
    ),
    "shuffle": (
        "shuffle-in-branch",
        lambda n, x: n.op("Transpose", plain(n, x), perm=[0, 1, 3, 2]),
    ),
    "transposed convolution": (
        "transposed-conv",
        lambda n, x: n.op("ConvTranspose", plain(n, x), n.const(np.ones((4, 4, 1, 1)))),
    ),
    "quantizer": (
        "quantized",
        lambda n, x: n.op(
            "DequantizeLinear",
            n.op("QuantizeLinear", plain(n, x), n.const(0.1), n.const(0, np.int8)),
            n.const(0.1),
            n.const(0, np.int8),
        ),
    ),
    "activation last": ("activation-before-join", lambda n, x: n.act(plain(n, x), "Relu")),
    "activation before the join": (
        "activation-before-join",
        lambda n, x: n.act(plain(n, x), "Relu"),
    ),
    "pre-activation": (
        "no-carrier",
        lambda n, x: n.conv(n.act(n.conv(n.act(x, "Tanh"), 4, 4), "Relu"), 4, 4),
    ),
    "single convolution": ("linear-branch", lambda n, x: n.conv(x, 4, 4)),
    "sigmoid": ("no-carrier", lambda n, x: n.conv(n.act(n.conv(x, 4, 4), "Sigmoid"), 4, 4)),
    "unknown operator": ("branch-not-a-chain", lambda n, x: n.op("Cos", plain(n, x))),
    "runtime weights": (
        "runtime-weights",
        lambda n, x: n.op(
            "Conv",
            n.act(n.conv(x, 4, 4), "Relu"),
            n.op("Expand", n.op("ReduceMean", x), n.const([4, 4, 1, 1], np.int64)),
        ),
    ),
    "runtime bias": (
        "runtime-weights",
        lambda n, x: n.op(
            "Conv",
            n.act(n.conv(x, 4, 4), "Relu"),
            n.const(np.ones((4, 4, 1, 1))),
            n.op("Reshape", n.op("ReduceMean", x, axes=[0, 2, 3]), n.const([4], np.int64)),
        ),
    ),
    "runtime slope": (
        "runtime-weights",
        lambda n, x: n.conv(
            n.op(
                "PRelu",
                n.conv(x, 4, 4),
                n.op(
                    "Reshape", n.op("ReduceMean", x, axes=[0, 2, 3]), n.const([4, 1, 1], np.int64)
                ),
            ),
            4,
            4,
        ),
    ),
    "runtime clip": (
        "runtime-weights",
        lambda n, x: n.conv(
            n.op("Clip", n.conv(x, 4, 4), "", n.op("ReduceMax", x, keepdims=0)), 4, 4
        ),
    ),
    "dropout that may train": (
        "training-mode",
        lambda n, x: n.op("Dropout", plain(n, x), n.const(0.5), n.const(False, np.bool_)),
    ),
    "stride": (
        "broadcast",
        lambda n, x: n.conv(n.act(n.conv(x, 4, 4, stride=8), "Relu"), 4, 4),
    ),
}


@pytest.mark.parametrize("name", BRANCHES)
def test_branch(name: str) -> None:
    code, branch = BRANCHES[name]
    refused(block(branch), code)


def _slice(n: Net, x: str, start: int, axis: int, step: int, end: int = 2**31 - 1) -> str:
    numbers = ([start], [end], [axis], [step])
    return n.op("Slice", x, *(n.const(v, np.int64) for v in numbers))


def _pad(n: Net, x: str, pads: list[int], value: float = 0.0, mode: str = "constant") -> str:
    return n.op("Pad", x, n.const(pads, np.int64), n.const(value), mode=mode)


SKIPS: dict[str, tuple[str, Callable[[Net, str], str], Callable[[Net, str], str]]] = {
    "activation": ("skip-not-linear", plain, lambda n, x: n.act(n.conv(x, 4, 4, 1), "Relu")),
    "max pool": (
        "skip-not-linear",
        strided,
        lambda n, x: n.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2]),
    ),
    "padded average": (
        "pooled-border",
        plain,
        lambda n, x: n.op("AveragePool", x, kernel_shape=[3, 3], pads=[1] * 4),
    ),
    "non-constant pad": (
        "skip-not-linear",
        plain,
        lambda n, x: _pad(n, _slice(n, x, 0, 1, 1, 2), [0, 0, 0, 0, 0, 2, 0, 0], 1.0),
    ),
    "reflected pad": (
        "skip-not-linear",
        plain,
        lambda n, x: _pad(n, _slice(n, x, 1, 2, 1), [0, 0, 1, 0, 0, 0, 0, 0], mode="reflect"),
    ),
    "spatial pad": (
        "skip-not-linear",
        plain,
        lambda n, x: _pad(n, _slice(n, x, 1, 2, 1), [0, 0, 1, 0, 0, 0, 0, 0]),
    ),
    "concat with ones": (
        "skip-not-linear",
        plain,
        lambda n, x: n.op(
            "Concat", _slice(n, x, 0, 1, 1, 2), n.const(np.ones((2, 2, 8, 8))), axis=1
        ),
    ),
    "concat on height": (
        "skip-not-linear",
        plain,
        lambda n, x: n.op(
            "Concat", _slice(n, x, 0, 2, 1, 4), n.const(np.zeros((2, 4, 4, 8))), axis=2
        ),
    ),
    "backward slice": ("skip-not-linear", plain, lambda n, x: _slice(n, x, -1, 2, -1, -99)),
    "constant per position": (
        "skip-not-linear",
        plain,
        lambda n, x: n.op("Mul", x, n.const(np.ones((8, 8)) * 2)),
    ),
    "training norm": (
        "training-mode",
        plain,
        lambda n, x: n.op(
            "BatchNormalization",
            x,
            *(n.const(np.ones(4)) for _ in range(4)),
            outputs=3,
            training_mode=1,
        )[0],
    ),
    "runtime projection": (
        "skip-not-simple",
        plain,
        lambda n, x: n.op(
            "Conv", x, n.op("Expand", n.op("ReduceMean", x), n.const([4, 4, 1, 1], np.int64))
        ),
    ),
    "two windows": (
        "skip-not-simple",
        lambda n, x: n.conv(n.act(n.conv(x, 4, 4, 5), "Relu"), 4, 4, 5),
        lambda n, x: n.conv(n.conv(x, 4, 4, 3), 4, 4, 3),
    ),
    "shift before padding": (
        "padded-border",
        plain,
        lambda n, x: n.conv(n.op("Add", x, n.const(np.ones((4, 1, 1)))), 4, 4, 3),
    ),
    "another stride": (
        "stride-mismatch",
        lambda n, x: n.conv(n.act(n.conv(x, 4, 4, 5, stride=1, pads=(0, 0, 0, 0)), "Relu"), 4, 4),
        lambda n, x: n.conv(x, 4, 4, 2, stride=2, pads=(0, 0, 0, 0)),
    ),
    "window larger than the kernel": (
        "tap-outside-kernel",
        lambda n, x: n.conv(n.act(n.conv(x, 4, 4, 1), "Relu"), 4, 4, 1),
        lambda n, x: n.conv(x, 4, 4, 3),
    ),
    "window after a stride": (
        "window-after-stride",
        lambda n, x: n.conv(n.act(n.conv(x, 4, 4, 1, stride=2), "Relu"), 4, 4, 3),
        lambda n, x: n.conv(x, 4, 4, 3, stride=2),
    ),
}


@pytest.mark.parametrize("name", SKIPS)
def test_skip_path(name: str) -> None:
    code, branch, shortcut = SKIPS[name]
    refused(block(branch, shortcut), code)


@pytest.mark.parametrize("sizes", [(7, 7), (8, 8)])
def test_average_that_rounds_up_is_exact_only_for_even_sizes(sizes: tuple[int, int]) -> None:
    model = block(
        strided,
        lambda n, x: n.op("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
        (2, 3, *sizes),
    )
    if sizes == (7, 7):
        assert "cut window" in refused(model, "pooled-border")
    else:
        removed(model)


def test_average_merged_by_a_window() -> None:
    removed(
        block(strided, lambda n, x: n.op("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2]))
    )


@pytest.mark.parametrize("start", [0, 1])
@pytest.mark.parametrize("before", ["Relu", "none"])
def test_slice_that_starts_later(start: int, before: str) -> None:
    """The tap moves with the start of the slice."""
    model = block(
        strided,
        lambda n, x: _slice(n, _slice(n, x, start, 2, 2), start, 3, 2),
        before=before,
    )
    removed(model)


def test_negative_start_and_attributes_of_old_opsets() -> None:
    net = Net(opset=9)
    x = net.act(net.conv("x", 3, 4, 1), "Relu")
    s = net.op("Slice", x, axes=[2, 3], starts=[-8, 0], ends=[2**31 - 1, 9999])
    s = net.op(
        "Pad", net.op("Slice", s, axes=[1], starts=[1], ends=[3]), pads=[0, 1, 0, 0, 0, 1, 0, 0]
    )
    removed(net.model(net.op("Add", plain(net, x), s), (2, 3, 8, 8)))


def test_concat_with_zeros_before_and_after() -> None:
    zeros = np.zeros((2, 1, 8, 8))
    removed(
        block(
            plain,
            lambda n, x: n.op(
                "Concat", n.const(zeros), _slice(n, x, 1, 1, 1, 3), n.const(zeros), axis=1
            ),
        )
    )


def test_many_paths() -> None:
    net = Net()
    x = net.act(net.conv("x", 3, 4, 1), "Relu")
    y = net.op("Sum", plain(net, x), x, net.conv(x, 4, 4, 3))
    refused(net.model(y, (1, 3, 6, 6)), "many-paths")


def test_concat_and_product() -> None:
    net = Net()
    x = net.act(net.conv("x", 3, 4, 1), "Relu")
    refused(net.model(net.op("Concat", plain(net, x), x, axis=1), (1, 3, 6, 6)), "concat-join")
    net = Net()
    x = net.act(net.conv("x", 3, 4, 1), "Relu")
    refused(net.model(net.op("Mul", plain(net, x), x), (1, 3, 6, 6)), "gated-join")


def test_broadcast() -> None:
    pooled = block(plain, lambda n, x: n.op("GlobalAveragePool", x))
    refused(pooled, "broadcast")


def test_tensor_of_the_branch_that_is_an_output() -> None:
    net = Net()
    x = net.act(net.conv("x", 3, 4, 1), "Relu")
    h = net.act(net.conv(x, 4, 4), "Relu")
    y = net.op("Add", net.conv(h, 4, 4), x)
    refused(net.model(y, (1, 3, 6, 6), extra_outputs=(h,)), "read-elsewhere")


def test_padded_projection_keeps_zero_in_its_range() -> None:
    """A 1x1 projection with padding reads zeros that the fork never holds."""
    net = Net()
    x = net.op("Clip", net.conv("x", 3, 4, 1), net.const(1.0), net.const(6.0))
    h = net.op("Clip", net.conv(x, 4, 4, 3, pads=(2, 2, 2, 2)), net.const(1.0), net.const(6.0))
    y = net.op("Add", net.conv(h, 4, 4, 3), net.conv(x, 4, 4, 1, pads=(1, 1, 1, 1)))
    outcome = removed(net.model(y, (1, 3, 6, 6)))
    assert "carried by scale" in outcome.fates[0].reason


def test_form_grouped_is_refused_where_it_does_not_fit() -> None:
    net = Net()
    x = net.act(net.conv("x", 3, 4, 1), "Relu")
    h = net.act(net.conv(net.act(net.conv(x, 4, 3), "Relu"), 3, 5), "Relu")
    model = net.model(net.op("Add", net.conv(h, 5, 4), x), (1, 3, 6, 6))
    refused(model, "grouped-branch", RM.replace("possible", "possible,form=grouped"))
    removed(model)


def test_norm_in_training_mode() -> None:
    proto = basic_block(norm=True)
    for node in proto.graph.node:
        if node.op_type == "BatchNormalization":
            node.attribute.append(onnx.helper.make_attribute("training_mode", 1))
            break
    refused(proto, "norm-not-folded", "reserve-merge{when=possible}")


def test_an_average_over_more_than_there_is() -> None:
    """ONNX Runtime gives one result for a 2x2 window over one pixel: the pixel, not a quarter."""
    model = block(
        strided,
        lambda n, x: n.op("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2]),
        (2, 3, 1, 1),
    )
    assert "larger than its input" in refused(model, "pooled-border")
