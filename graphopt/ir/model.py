"""`Model`: one ONNX model in memory, over `onnx_ir`, with its analyses and its evidence."""

from __future__ import annotations

import contextlib
import logging
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import onnx
import onnx_ir
from google.protobuf.message import DecodeError

from graphopt.analysis import AnalysisCache
from graphopt.errors import ModelError
from graphopt.evidence import METADATA_KEY, Evidence
from graphopt.ir import preflight
from graphopt.ir.preflight import shown

Source: TypeAlias = Any
"""A path, the bytes of a file, `onnx.ModelProto`, `onnx_ir.Model`, a graphsurgeon `Graph`, a qonnx
`ModelWrapper`, or a `Model`."""

MAX_PROTO_BYTES = 2**31 - 1
"""Bytes at which protobuf ends."""

Kind: TypeAlias = Literal["path", "bytes", "proto", "onnx_ir", "graphsurgeon", "qonnx"]


@dataclass(frozen=True)
class Origin:
    """Where a model came from: its kind, how messages call it, and its path if it has one."""

    kind: Kind
    label: str
    path: Path | None = None


@dataclass(eq=False)
class Model:
    """One model. Passes edit `ir`; everything else asks the analyses.

    Attributes:
        ir: the model as `onnx_ir` sees it. Weights stay memory-mapped until they are read.
        origin: where it came from.
        sidecar: what `onnx_ir` cannot hold; written back by `to_proto`.
        evidence: what has been done to it so far.
        was_sorted: False where the file broke ONNX's topological order and was sorted on loading.
    """

    ir: onnx_ir.Model
    origin: Origin
    sidecar: preflight.Sidecar = field(default_factory=preflight.Sidecar)
    evidence: Evidence = field(default_factory=Evidence)
    was_sorted: bool = True
    analyses: AnalysisCache = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.analyses = AnalysisCache(self)

    @classmethod
    def load(cls, source: Source) -> Model:
        """Reads a model from any of the kinds in `Source`.

        Raises:
            ModelError: the model is missing, damaged, inconsistent or unsafe.
            TypeError: `source` is none of the known kinds.
        """
        if isinstance(source, Model):
            return source.clone()
        if isinstance(source, str | os.PathLike):
            return _load_path(Path(source))
        if isinstance(source, bytes | bytearray | memoryview):
            proto = _parse(bytes(source), "the model")
            return _from_proto(proto, Origin("bytes", "the model"), None)
        if isinstance(source, onnx.ModelProto):
            proto = onnx.ModelProto()
            proto.CopyFrom(source)
            return _from_proto(proto, Origin("proto", "the model"), None)
        if isinstance(source, onnx_ir.Model):
            return _from_ir(source)
        from graphopt import interop

        proto, kind = interop.to_proto(source)
        return _from_proto(proto, Origin(kind, "the model"), None)

    @property
    def graph(self) -> onnx_ir.Graph:
        """The main graph."""
        return self.ir.graph

    @property
    def opset(self) -> int:
        """Version of the default ONNX operator set, 0 where the model imports none."""
        return self.ir.opset_imports.get("", self.ir.opset_imports.get("ai.onnx", 0))

    def values(self) -> Iterator[onnx_ir.Value]:
        """Every tensor of the main graph: inputs, initializers, node outputs; in that order."""
        yield from self.graph.inputs
        for value in self.graph.initializers.values():
            if not value.is_graph_input():
                yield value
        for node in self.graph:
            yield from node.outputs

    def value_index(self) -> dict[str, onnx_ir.Value]:
        """The tensors of the main graph by name, as they stand now."""
        return {value.name: value for value in self.values() if value.name}

    def node_index(self) -> dict[str, onnx_ir.Node]:
        """The nodes of the main graph by `node_label`, as they stand now."""
        return {node_label(node): node for node in self.graph}

    def tell_apart(self) -> None:
        """Renames nodes that share a label, which ONNX forbids and exporters do all the same:
        every analysis, and every report, knows a node by its label.
        """
        labels = Counter(map(node_label, self.graph))
        taken = set(labels)
        for label in [label for label, count in labels.items() if count > 1]:
            for node in [node for node in self.graph if node_label(node) == label][1:]:
                number = 2
                while f"{label}.{number}" in taken:
                    number += 1
                node.name = f"{label}.{number}"
                taken.add(node.name)

    def clone(self) -> Model:
        """A copy that can be edited freely. Weights are shared, for they are never edited."""
        copy = Model(self.ir.clone(), self.origin, self.sidecar, self.evidence, self.was_sorted)
        copy.analyses = self.analyses.copy_for(copy)
        return copy

    def adopt(self, draft: Model, preserved: frozenset[str] | None = None) -> None:
        """Becomes what `draft` is, and forgets all analyses but `preserved` (None: keeps all)."""
        self.ir = draft.ir
        self.evidence = draft.evidence
        seconds = self.analyses.seconds
        self.analyses = draft.analyses.copy_for(self)
        self.analyses.seconds = seconds
        if preserved is not None:
            self.analyses.keep_only(preserved)

    def to_proto(self) -> onnx.ModelProto:
        """The model as protobuf, evidence in its metadata, nothing lost. External weights stay
        external (their entries point to where the model was loaded from).
        """
        with _quiet_onnx_ir():
            proto = onnx_ir.to_proto(self.ir)
        preflight.put_back(proto, self.sidecar)
        _write_evidence(proto, self.evidence)
        return proto

    def restore(self) -> Any:
        """The model as the kind of object that it was loaded from; for a path, a ModelProto."""
        match self.origin.kind:
            case "bytes":
                return self.to_proto().SerializeToString(deterministic=True)
            case "onnx_ir":
                model = self.ir.clone()
                model.metadata_props.pop(METADATA_KEY, None)
                if self.evidence.rewrites or self.evidence.refusals:
                    model.metadata_props[METADATA_KEY] = self.evidence.to_text()
                return model
            case "graphsurgeon" | "qonnx":
                from graphopt import interop

                return interop.from_proto(self.to_proto(), self.origin.kind)
            case _:
                return self.to_proto()


def node_label(node: onnx_ir.Node) -> str:
    """How reports call a node: its name, or the name of its first output where it has none."""
    if node.name:
        return node.name
    return next((output.name for output in node.outputs if output.name), node.op_type)


def _load_path(path: Path) -> Model:
    label = shown(path)
    try:
        if path.is_dir():
            raise ModelError(f"{label} is a folder: name the .onnx file in it.")
        data = path.read_bytes()
    except FileNotFoundError:
        raise ModelError(f"{label} does not exist: check the path.") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ModelError(f"{label} cannot be read ({reason}): check the path.") from error
    return _from_proto(_parse(data, label), Origin("path", label, path), path.parent)


def _parse(data: bytes, label: str) -> onnx.ModelProto:
    if not data:
        raise ModelError(f"{label} is empty: export or copy the model again.")
    if len(data) > MAX_PROTO_BYTES:
        raise ModelError(
            f"{label} is larger than 2 GiB, where protobuf ends: save it with external data."
        )
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except (DecodeError, RecursionError):
        raise ModelError(
            f"{label} is not an ONNX model, or is cut short: check that it is the right file and "
            "copy it again."
        ) from None
    return proto


def _from_proto(proto: onnx.ModelProto, origin: Origin, folder: Path | None) -> Model:
    preflight.check(proto, origin.label, folder)
    sidecar = preflight.set_aside(proto, origin.label)
    evidence = _read_evidence(proto)
    try:
        with _quiet_onnx_ir():
            ir = onnx_ir.from_proto(proto)
    except Exception as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        reason = (str(cause).strip() or repr(cause)).splitlines()[0].rstrip(".")
        raise ModelError(
            f"{origin.label} is not a valid ONNX model ({shown(reason)}): export it again."
        ) from error
    if folder is not None:
        for graph in _bodies(ir):
            onnx_ir.external_data.set_base_dir(graph, str(folder))
    return _checked(Model(ir, origin, sidecar, evidence))


def _from_ir(source: onnx_ir.Model) -> Model:
    origin = Origin("onnx_ir", "the model")
    evidence = Evidence()
    with contextlib.suppress(ValueError):
        evidence = Evidence.from_text(source.metadata_props.get(METADATA_KEY, ""))
    in_order = [_in_order(graph, set(), origin.label) for graph in _bodies(source)]
    if not all(in_order):
        raise ModelError(
            "the nodes of the onnx_ir model are not in order of execution: call its graph.sort() "
            "first."
        )
    return Model(source.clone(), origin, evidence=evidence)


def _bodies(ir: onnx_ir.Model) -> list[onnx_ir.Graph]:
    """The main graph and those of the functions."""
    return [ir.graph, *(function.graph for function in ir.functions.values())]


def _checked(model: Model) -> Model:
    """Sorts the graph where it is not sorted and refuses what no order can mend."""
    label = model.origin.label
    in_order = [_in_order(graph, set(), label) for graph in _bodies(model.ir)]
    if all(in_order):
        return model
    try:
        for graph in _bodies(model.ir):
            graph.sort()
    except ValueError:
        raise ModelError(
            f"{label}: the nodes form a cycle, so no order of execution exists: export the "
            "model again."
        ) from None
    model.was_sorted = False
    return model


def _in_order(graph: onnx_ir.Graph, outer: set[onnx_ir.Value], label: str) -> bool:
    """Whether every node follows the ones it reads, those of its subgraphs included.

    Raises:
        ModelError: a node or an output reads what nothing produces.
    """
    known = outer | set(graph.inputs) | set(graph.initializers.values())
    in_order = True
    for node in graph:
        for value in node.inputs:
            if value is None or value in known:
                continue
            if value.producer() is None and not value.is_initializer():
                raise ModelError(
                    f"{label}: node '{shown(node_label(node))}' reads '{shown(value.name)}', which "
                    "nothing produces: the graph is damaged, export it again."
                )
            in_order = False
        for inner in _subgraphs(node):
            in_order &= _in_order(inner, known, label)
        known.update(node.outputs)
    for output in graph.outputs:
        if output not in known:
            raise ModelError(
                f"{label}: the output '{shown(output.name)}' is produced by no node: export it "
                "again."
            )
    return in_order


def _subgraphs(node: onnx_ir.Node) -> Iterator[onnx_ir.Graph]:
    for attribute in node.attributes.values():
        if attribute.type == onnx_ir.AttributeType.GRAPH and not attribute.is_ref():
            yield attribute.as_graph()
        elif attribute.type == onnx_ir.AttributeType.GRAPHS and not attribute.is_ref():
            yield from attribute.as_graphs()


def _read_evidence(proto: onnx.ModelProto) -> Evidence:
    for entry in proto.metadata_props:
        if entry.key == METADATA_KEY:
            with contextlib.suppress(ValueError):
                return Evidence.from_text(entry.value)
    return Evidence()


def _write_evidence(proto: onnx.ModelProto, evidence: Evidence) -> None:
    others = [entry for entry in proto.metadata_props if entry.key != METADATA_KEY]
    if evidence.rewrites or evidence.refusals:
        others.append(onnx.StringStringEntryProto(key=METADATA_KEY, value=evidence.to_text()))
    kept = [(entry.key, entry.value) for entry in others]
    del proto.metadata_props[:]
    for key, value in kept:
        proto.metadata_props.add(key=key, value=value)


@contextlib.contextmanager
def _quiet_onnx_ir() -> Iterator[None]:
    """onnx_ir logs what `_in_order` turns into errors, and onnxscript what it does not fold."""
    loggers = [logging.getLogger(name) for name in ("onnx_ir", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
