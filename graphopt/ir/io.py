"""Saving: a model appears whole or not at all.

Everything is written to temporary files in the target's folder, flushed to disk, and renamed; the
rename of the `.onnx` file is the one moment at which the new model exists. Weights that no pass
has touched are copied from file to file through their memory map and never held in memory.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import onnx
import onnx_ir
from google.protobuf.message import DecodeError, EncodeError

from graphopt.errors import ModelError
from graphopt.ir.fingerprint import tensor_hash
from graphopt.ir.model import Model
from graphopt.ir.preflight import shown

INLINE_LIMIT = 1_800_000_000
"""Bytes of weights above which they go to an external file (protobuf ends at 2 GiB)."""

EXTERNAL_THRESHOLD = 1024
"""Weights of fewer bytes stay in the `.onnx` file even then."""


def save(model: Model, path: str | os.PathLike[str], *, external: bool | None = None) -> Path:
    """Writes `model` to `path`, whole or not at all.

    Args:
        model: what to write. It is not changed.
        path: the `.onnx` file; it may exist and is then replaced in one step.
        external: put the weights into a data file beside it. None decides: yes if the model came
            with external weights or holds more than `INLINE_LIMIT` bytes of them. The data file
            carries a hash in its name, so an old model never meets new weights.

    Returns:
        The path.

    Raises:
        ModelError: the target cannot be written.
    """
    target = Path(path)
    label = shown(target)
    try:
        if target.is_dir():
            raise ModelError(f"{label} is a folder: name a file for the output.")
        if model.origin.path is not None and _same_file(target, model.origin.path):
            raise ModelError(f"{label} is the input model, which is never overwritten: choose -o.")
        if _is_among(target, _read_from(model)):
            raise ModelError(f"{label} holds the weights of the input model: choose another -o.")
        target.parent.mkdir(parents=True, exist_ok=True)
        old = _data_files_of(target)
        if needs_data_file(model) if external is None else external:
            old -= {_save_external(model, target)}
        else:
            write_whole(target, _serialized(_inlined(model)))
        _remove(old, target.parent, keep=_read_from(model))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ModelError(
            f"{label} cannot be written ({reason}): choose another place with -o."
        ) from error
    except EncodeError as error:
        raise ModelError(
            f"{label} would be larger than 2 GiB, where protobuf ends: save it with external data."
        ) from error
    return target


def write_whole(path: Path, data: bytes) -> None:
    """Writes a file so that at any moment it is the old one, the new one, or absent."""
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, _mode_of(path))
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    _sync_folder(path.parent)


def _serialized(model: Model) -> bytes:
    data: bytes = model.to_proto().SerializeToString(deterministic=True)
    return data


def _save_external(model: Model, target: Path) -> str:
    """Writes the weights, then the model; the name of the data file."""
    copy = _inlined(model, but_weights=True)
    moving = [value for value in _weights(copy) if _is_large(value.const_value)]
    name = _data_name(target, moving, _read_from(model))
    data = target.parent / name
    was_there = data.exists()
    try:
        if moving:
            _move_out(moving, target.parent, name)
            with data.open("rb") as file:
                os.fsync(file.fileno())
        write_whole(target, _serialized(copy))
    except BaseException:
        if not was_there:
            data.unlink(missing_ok=True)
        raise
    return name


def _data_name(target: Path, values: list[onnx_ir.Value], in_use: set[str]) -> str:
    """A name with a hash of the weights in their order, so that a model never meets weights of
    another; none that the input reads from. The model's fingerprint would not do: it is blind to
    weights that nothing reads.
    """
    digest = hashlib.sha256()
    for value in values:
        if value.const_value is not None:
            digest.update(tensor_hash(value.const_value).encode())
    stem = f"{target.stem}.{digest.hexdigest()[:12]}"
    names = (
        f"{stem}{suffix}.data"
        for suffix in itertools.chain([""], (f"-{n}" for n in itertools.count(2)))
    )
    return next(name for name in names if not _is_among(target.parent / name, in_use))


def _remove(names: set[str], folder: Path, keep: set[str]) -> None:
    for name in names:
        if not _is_among(folder / name, keep):
            with contextlib.suppress(OSError):
                (folder / name).unlink()


def _is_among(path: Path, others: set[str]) -> bool:
    return any(_same_file(path, Path(other)) for other in others)


def _move_out(values: list[onnx_ir.Value], folder: Path, name: str) -> None:
    """Writes weights to a data file and lets the values point there."""
    tensors = [value.const_value for value in values if value.const_value is not None]
    moved = onnx_ir.external_data.convert_tensors_to_external(tensors, str(folder), name)
    for value, old, new in zip(values, tensors, moved, strict=True):
        new.doc_string = old.doc_string
        new.metadata_props.update(old.metadata_props)
        value.const_value = new


def _is_large(tensor: onnx_ir.TensorProtocol | None) -> bool:
    """Whether a weight goes to the data file. Text may not."""
    if tensor is None or tensor.dtype == onnx_ir.DataType.STRING:
        return False
    return tensor.nbytes > EXTERNAL_THRESHOLD


def _data_files_of(target: Path) -> set[str]:
    """Data files of the model that is about to be replaced, where graphopt wrote it."""
    old = onnx.ModelProto()
    try:
        old.ParseFromString(target.read_bytes())
    except (OSError, DecodeError):
        return set()
    pattern = re.compile(re.escape(target.stem) + r"\.[0-9a-f]{12}(-\d+)?\.data")
    locations = {
        entry.value
        for tensor in old.graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    return {location for location in locations if pattern.fullmatch(location)}


def needs_data_file(model: Model) -> bool:
    """Whether the weights belong beside the model file: some are there already, or all together
    are more than `INLINE_LIMIT`.
    """
    tensors = [value.const_value for value in _weights(model) if value.const_value is not None]
    if any(isinstance(tensor, onnx_ir.ExternalTensor) for tensor in tensors):
        return True
    return sum(tensor.nbytes for tensor in tensors) > INLINE_LIMIT


def _weights(model: Model) -> Iterator[onnx_ir.Value]:
    """The initializers of the main graph and its subgraphs."""
    for graph in model.ir.graphs():
        yield from graph.initializers.values()


def _inlined(model: Model, *, but_weights: bool = False) -> Model:
    """`model`, or a copy in which tensors from external files are held in memory.

    Args:
        model: not changed.
        but_weights: leave the large initializers, which are about to be written to a new data
            file; tensors in attributes always go into the `.onnx` file.
    """
    if not _read_from(model):
        return model.clone() if but_weights else model
    copy = model.clone()
    for body in (copy.graph, *(function.graph for function in copy.ir.functions.values())):
        for graph in (body, *body.subgraphs()):
            moving = but_weights and body is copy.graph
            for value in graph.initializers.values():
                tensor = value.const_value
                if tensor is not None and not (moving and _is_large(tensor)):
                    value.const_value = _in_memory(tensor)
            for node in graph:
                for name, attribute in list(node.attributes.items()):
                    if attribute.is_ref():
                        continue
                    if attribute.type == onnx_ir.AttributeType.TENSOR:
                        tensor = _in_memory(attribute.as_tensor())
                        node.attributes[name] = onnx_ir.AttrTensor(
                            name, tensor, doc_string=attribute.doc_string
                        )
                    elif attribute.type == onnx_ir.AttributeType.TENSORS:
                        tensors = [_in_memory(tensor) for tensor in attribute.as_tensors()]
                        node.attributes[name] = onnx_ir.AttrTensors(
                            name, tensors, doc_string=attribute.doc_string
                        )
    return copy


def _in_memory(tensor: onnx_ir.TensorProtocol) -> onnx_ir.TensorProtocol:
    if not isinstance(tensor, onnx_ir.ExternalTensor):
        return tensor
    (loaded,) = onnx_ir.external_data.convert_tensors_from_external([tensor])
    loaded.doc_string = tensor.doc_string
    loaded.metadata_props.update(tensor.metadata_props)
    return loaded


def _read_from(model: Model) -> set[str]:
    """Paths of the external files that the model reads weights from."""
    tensors: list[object] = []
    for body in (model.graph, *(function.graph for function in model.ir.functions.values())):
        for graph in (body, *body.subgraphs()):
            tensors += [value.const_value for value in graph.initializers.values()]
            for node in graph:
                for attribute in node.attributes.values():
                    if attribute.type == onnx_ir.AttributeType.TENSOR:
                        tensors.append(attribute.value)
                    elif attribute.type == onnx_ir.AttributeType.TENSORS:
                        tensors += attribute.value or ()
    return {tensor.path for tensor in tensors if isinstance(tensor, onnx_ir.ExternalTensor)}


def _same_file(first: Path, second: Path) -> bool:
    with contextlib.suppress(OSError):
        return first.exists() and first.samefile(second)
    return False


def _mode_of(path: Path) -> int:
    """The mode of the file that stands there, else what the umask gives."""
    with contextlib.suppress(OSError):
        return path.stat().st_mode & 0o777
    umask = os.umask(0)
    os.umask(umask)
    return 0o666 & ~umask


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
