"""torch: a float ONNX model as a module that trains, through onnx2torch.

onnx2torch makes a module of its own for most operators, whose arguments are tensors. What comes out
here is plain torch: constants are numbers and tuples, matrices are `torch.nn.Linear`, and a
reshaping that keeps the batch has any batch. So whatever reads torch.fx graphs reads these too.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import sys
from operator import getitem
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from graphopt.errors import GraphoptError, ModelError
from graphopt.ir.constants import constant, scalar
from graphopt.ir.model import Model, Source
from graphopt.ir.preflight import shown
from graphopt.ir.shapes import Dim, Shapes, ShapeTable
from graphopt.verify.inputs import Array, cases
from graphopt.verify.runtime import CannotRun, runner
from graphopt.verify.tolerance import allowed, disturbed

if TYPE_CHECKING:
    from torch.fx import GraphModule

_DETECTION = ("nms", "roialign")
"""The converters of onnx2torch that import torchvision: NonMaxSuppression and RoiAlign."""

OPSET = 15
"""The operator set that onnx2torch 1.5.15 knows best."""

PROOFS = 3
"""Inputs on which the module is compared with the model."""


def to_module(source: Source) -> GraphModule:
    """The model as a module, in evaluation mode.

    Weights, norms and other float constants that are not scalars are parameters, which train. A
    call of the module is named after the node of the model (`.` becomes `/`).

    Args:
        source: what `Model.load` takes; it is not changed.

    Raises:
        GraphoptError: torch or onnx2torch is not installed.
        ModelError: the model cannot be read, or has an operator that onnx2torch cannot convert or
            converts to something else (its module is compared with the model on a few inputs).
    """
    onnx2torch = _library()
    original = Model.load(source)
    model = original.clone()
    hold_constants(model)
    free_batch(model)
    _name_matrices(model)
    RemoveUnusedNodesPass()(model.ir)
    proto = _known(model.to_proto(), model.origin.label)
    _check(proto, model.origin.label)
    try:
        converted = onnx2torch.convert(proto)
    except Exception as error:
        raise ModelError(
            f"{model.origin.label}: onnx2torch cannot convert it ({_sentence(error)})."
        ) from error
    module = _plain(converted)
    _prove(module, original)
    return module


def logits(source: Source) -> Model:
    """The model without a Softmax or LogSoftmax that makes an output: the order of the classes
    stays, and the losses that classifiers are trained with want what stands before it.

    Args:
        source: what `Model.load` takes; it is not changed.
    """
    model = Model.load(source)
    for index, output in enumerate(model.graph.outputs):
        node = output.producer()
        if node is None or node.op_type not in ("Softmax", "LogSoftmax") or output.uses():
            continue
        before = node.inputs[0]
        if before is None or before.producer() is None or before.is_graph_output():
            continue
        if before.type is None:
            before.type, before.shape = output.type, output.shape
        model.graph.outputs[index] = before
        model.graph.remove(node, safe=True)
    model.analyses.keep_only(())
    return model


def _library() -> ModuleType:
    """onnx2torch, which imports torchvision for two operators of detectors. Where torchvision is
    absent, or built for another torch, these two have no converter and the rest works.
    """
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise GraphoptError(
            "a torch module needs the package torch: pip install 'graphopt[train]'."
        ) from error
    if "onnx2torch" not in sys.modules:
        try:
            import torchvision  # noqa: F401
        except (ImportError, OSError, RuntimeError):
            for name in _DETECTION:
                name = f"onnx2torch.node_converters.{name}"
                sys.modules.setdefault(name, ModuleType(name, "Left out: no torchvision."))
    try:
        import onnx2torch
    except ImportError as error:
        raise GraphoptError(
            "a torch module needs the package onnx2torch: pip install --no-deps onnx2torch."
        ) from error
    library: ModuleType = onnx2torch
    return library


# What onnx2torch is given (the first two help to read what torch exports, too) ----------------


def hold_constants(model: Model) -> None:
    """Makes an initializer of each tensor that depends on no input, with its data in memory."""
    taken = {name for value in model.values() if (name := value.name)}
    for node in list(model.graph):
        for index, value in enumerate(node.inputs):
            array = constant(value) if value is not None and not value.is_initializer() else None
            if value is None or array is None:
                continue
            name = f"{value.name}.constant"
            if name not in model.graph.initializers:
                assert name not in taken
                held = onnx_ir.Value(name=name, const_value=onnx_ir.tensor(array, name=name))
                model.graph.register_initializer(held)
            node.replace_input_with(index, model.graph.initializers[name])
    for value in model.graph.initializers.values():
        if isinstance(value.const_value, onnx_ir.ExternalTensor):
            array = value.const_value.numpy().copy()
            value.const_value = onnx_ir.tensor(array, name=value.name)
    model.analyses.keep_only(())


def free_batch(model: Model) -> None:
    """Lets each Reshape that keeps the first axis keep any first axis: exporters write the batch
    they saw, or compute it from shapes.
    """
    shapes: ShapeTable = model.analyses.get(Shapes())
    batches = {_first(shapes, value) for value in model.graph.inputs} - {None}
    for node in [node for node in model.graph if node.op_type == "Reshape"]:
        source = node.inputs[0]
        if _first(shapes, source) not in batches:
            continue
        sizes = _sizes(node, shapes)
        if sizes is None:
            continue
        if len(sizes) == 1:
            new = onnx_ir.node("Flatten", [source], attributes={"axis": 1}, name=node.name)
        else:
            first = 0 if -1 in sizes else -1
            array = onnx_ir.tensor(np.array([first, *sizes], np.int64))
            target = onnx_ir.Value(name=f"{node.outputs[0].name}.shape", const_value=array)
            model.graph.register_initializer(target)
            new = onnx_ir.node("Reshape", [source, target], name=node.name)
        _replace(model, node, new)


def _sizes(node: onnx_ir.Node, shapes: ShapeTable) -> list[int] | None:
    """All sizes but the first that a Reshape gives, where the first is that of its input; one of
    them may be -1.
    """
    source = node.inputs[0]
    batch = _first(shapes, source)
    before, after = (_inner(shapes, value) for value in (source, node.outputs[0]))
    if after is not None and (
        _first(shapes, node.outputs[0]) == batch
        or (before is not None and math.prod(before) == math.prod(after))
    ):
        return after
    target = node.inputs[1]
    join = target.producer() if target is not None else None
    if join is None or join.op_type != "Concat" or not _is_first(join.inputs[0], batch, shapes):
        return None
    rest = [constant(value) for value in join.inputs[1:]]
    sizes = [int(size) for array in rest if array is not None for size in array]
    return None if any(array is None for array in rest) or 0 in sizes else sizes


def _is_first(value: onnx_ir.Value | None, batch: Dim, shapes: ShapeTable) -> bool:
    """Whether the value is the first size of a tensor whose first size is `batch`."""
    node = value.producer() if value is not None else None
    while node is not None and node.op_type in ("Unsqueeze", "Squeeze", "Cast", "Identity"):
        node = node.inputs[0].producer() if node.inputs[0] is not None else None
    if node is None or node.op_type != "Gather" or scalar(node.inputs[1]) != 0:
        return False
    shape = node.inputs[0].producer() if node.inputs[0] is not None else None
    return (
        shape is not None and shape.op_type == "Shape" and _first(shapes, shape.inputs[0]) == batch
    )


def _inner(shapes: ShapeTable, value: onnx_ir.Value | None) -> list[int] | None:
    """All sizes but the first, where they are numbers."""
    shape = shapes[value.name or ""].shape if value is not None else None
    sizes = [dim for dim in (shape or ())[1:] if isinstance(dim, int)]
    return sizes if shape and len(sizes) == len(shape) - 1 else None


def _first(shapes: ShapeTable, value: onnx_ir.Value | None) -> Dim:
    shape = shapes[value.name or ""].shape if value is not None else None
    return shape[0] if shape else None


def _name_matrices(model: Model) -> None:
    """Writes a product with a constant matrix, and the bias behind it, as a Gemm: onnx2torch takes
    that for a linear layer.
    """
    shapes: ShapeTable = model.analyses.get(Shapes())
    for node in [node for node in model.graph if node.op_type == "MatMul"]:
        source, weight = node.inputs
        array = constant(weight)
        ranks = [len(shapes[value.name or ""].shape or ()) for value in (source, weight) if value]
        if array is None or ranks != [2, 2]:
            continue
        last, inputs = node, [source, weight]
        (use, *others) = [*node.outputs[0].uses(), None]
        if use is not None and others == [None] and use.node.op_type == "Add":
            bias = use.node.inputs[1 - use.idx]
            if (found := constant(bias)) is not None and found.shape == (array.shape[1],):
                last, inputs = use.node, [source, weight, bias]
        if last is node or not node.outputs[0].is_graph_output():
            gemm = onnx_ir.node("Gemm", inputs, name=node.name)
            _replace(model, last, gemm)
            if last is not node:
                model.graph.remove(node, safe=True)


def _replace(model: Model, node: onnx_ir.Node, new: onnx_ir.Node) -> None:
    """Puts `new` where `node` stands; its one output takes over name, type and readers."""
    old, made = node.outputs[0], new.outputs[0]
    made.name, made.type, made.shape = old.name, old.type, old.shape
    model.graph.insert_before(node, new)
    old.replace_all_uses_with(made, replace_graph_outputs=True)
    model.graph.remove(node, safe=True)


def _known(proto: onnx.ModelProto, label: str) -> onnx.ModelProto:
    """The model, or the same in an older or newer operator set, where onnx2torch has a converter
    for each of its operators; with the shapes that its converters read.

    Raises:
        ModelError: there is none.
    """
    if (missing := _missing(proto)) is not None:
        other = None
        _spell_integers(proto)
        with contextlib.suppress(Exception):  # onnx's own assertions, where it has no rule
            other = onnx.version_converter.convert_version(proto, OPSET)
        if other is None or _missing(other) is not None:
            raise ModelError(
                f"{label}: node '{shown(missing.name or missing.output[0])}' is a "
                f"{_operator(missing)}, which onnx2torch has no torch module for."
            )
        proto = other
    return onnx.shape_inference.infer_shapes(proto)


def _missing(proto: onnx.ModelProto) -> onnx.NodeProto | None:
    """The first node that onnx2torch has no converter for."""
    from onnx2torch.node_converters import get_converter

    versions = {entry.domain: entry.version for entry in proto.opset_import}
    node: onnx.NodeProto
    for node in proto.graph.node:
        try:
            get_converter(node.op_type, versions.get(node.domain, 1), node.domain)
        except NotImplementedError:
            return node
    return None


def _spell_integers(proto: onnx.ModelProto) -> None:
    """Writes integers as numbers: onnx's version converter takes no axes from raw bytes."""
    for tensor in proto.graph.initializer:
        if tensor.data_type == onnx.TensorProto.INT64 and tensor.HasField("raw_data"):
            values = onnx.numpy_helper.to_array(tensor).ravel().tolist()
            tensor.ClearField("raw_data")
            tensor.int64_data.extend(values)


def _check(proto: onnx.ModelProto, label: str) -> None:
    """Converts each node by itself, for onnx2torch does not say which one it stumbled over.

    Raises:
        ModelError: one has an attribute or an input that its converter refuses.
    """
    from onnx2torch.node_converters import get_converter
    from onnx2torch.onnx_graph import OnnxGraph

    versions = {entry.domain: entry.version for entry in proto.opset_import}
    graph = OnnxGraph(proto.graph)
    for node in graph.nodes.values():
        convert = get_converter(node.operation_type, versions.get(node.domain, 1), node.domain)
        try:
            convert(node, graph)
        except Exception as error:
            raise ModelError(
                f"{label}: node '{shown(node.name or node.unique_name)}' is a "
                f"{_operator(node.proto)} of a form that onnx2torch cannot convert "
                f"({_sentence(error)})."
            ) from error


def _operator(node: onnx.NodeProto) -> str:
    return f"{node.domain}.{node.op_type}".lstrip(".")


def _sentence(error: Exception) -> str:
    return (str(error).strip() or repr(error)).splitlines()[0].rstrip(".")


# What it gives ----------------------------------------------------------------------------------


def _plain(converted: GraphModule) -> GraphModule:
    """The same computation without modules of onnx2torch, wherever torch.fx can look into them."""
    import torch
    from torch import fx, nn

    class Tracer(fx.Tracer):
        def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
            try:
                return super().call_module(m, forward, args, kwargs)
            except Exception:  # it branches on the data's shape or type: it stays as it is
                return self.create_proxy("call_module", self.path_of_module(m), args, kwargs)

        def create_arg(self, a: Any) -> Any:
            scalar = isinstance(a, torch.Tensor) and a.ndim == 0 and not isinstance(a, nn.Parameter)
            if scalar or isinstance(a, np.generic):
                return a.item()
            return super().create_arg(a)

    constants = getattr(converted, "initializers", nn.Module())  # where onnx2torch puts them
    for name, array in list(constants.named_buffers(recurse=False)):
        if array.is_floating_point() and array.ndim:
            delattr(constants, name)
            constants.register_parameter(name, nn.Parameter(array))
    graph = Tracer().trace(converted)
    for node in graph.nodes:
        if node.target is getitem and isinstance(node.args[1], list):
            node.args = (node.args[0], tuple(node.args[1]))  # a list would be an index of its own
    module = fx.GraphModule(converted, graph)
    module.graph.eliminate_dead_code()
    module.recompile()
    module.delete_all_unused_submodules()
    return module.eval()


def _prove(module: GraphModule, model: Model) -> None:
    """Runs both on a few inputs.

    Raises:
        ModelError: they differ by more than rounding does.
    """
    import torch

    label = model.origin.label
    try:
        plain, noisy = runner(model), runner(disturbed(model))
    except CannotRun:
        return
    for case in itertools.islice(cases(model), PROOFS):
        try:
            expected, noise = plain.run(case.feeds), noisy.run(case.feeds)
        except CannotRun:
            continue
        try:
            with torch.no_grad():
                answer = module(*(torch.from_numpy(array) for array in case.feeds.values()))
        except Exception as error:
            raise ModelError(
                f"{label}: what onnx2torch makes of it does not run ({_sentence(error)})."
            ) from error
        answers = [answer] if isinstance(answer, torch.Tensor) else list(answer)
        for (name, array), found in zip(expected.items(), answers, strict=True):
            if array.dtype.kind != "f" or not array.size:
                continue
            same = tuple(found.shape) == array.shape
            off = _distance(array, found.numpy()) if same else math.inf
            size = _distance(array, np.zeros_like(array))
            limit = allowed(_distance(array, noise[name]), size, array.dtype)
            if not off <= limit:
                raise ModelError(
                    f"{label}: what onnx2torch makes of it computes something else: '{name}' is "
                    f"off by {off:.2g} on the input '{case.name}', where rounding explains "
                    f"{limit:.2g}."
                )


def _distance(one: Array, other: Array) -> float:
    return float(np.abs(np.nan_to_num(one) - np.nan_to_num(other)).max())
