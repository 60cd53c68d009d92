"""Saving: a model appears whole or not at all.

Everything is written to temporary files in the target's folder, flushed to disk, and renamed; the
rename of the `.onnx` file is the one moment at which the new model exists. Weights that no pass
has touched are copied from file to file through their memory map and never held in memory.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

import onnx_ir

from graphopt.errors import ModelError
from graphopt.ir.fingerprint import fingerprint
from graphopt.ir.model import Model

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
    if target.is_dir():
        raise ModelError(f"{target} is a folder: name a file for the output.")
    if model.origin.path is not None and _same_file(target, model.origin.path):
        raise ModelError(f"{target} is the input model, which is never overwritten: choose -o.")
    if external is None:
        external = needs_data_file(model)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if external:
            _save_external(model, target)
        else:
            write_whole(target, model.to_proto().SerializeToString(deterministic=True))
    except OSError as error:
        raise ModelError(f"{target} cannot be written: {error.strerror or error}.") from error
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


def _save_external(model: Model, target: Path) -> None:
    copy = model.clone()
    name = f"{target.stem}.{fingerprint(model)[:12]}.data"
    onnx_ir.external_data.unload_from_model(
        copy.ir, str(target.parent), name, size_threshold_bytes=EXTERNAL_THRESHOLD
    )
    data = target.parent / name
    if data.exists():
        with data.open("rb") as file:
            os.fsync(file.fileno())
    replaced = _data_files_of(target) - {name}
    write_whole(target, copy.to_proto().SerializeToString(deterministic=True))
    for old in replaced:
        with contextlib.suppress(OSError):
            (target.parent / old).unlink()


def _data_files_of(target: Path) -> set[str]:
    """Data files of the model that is about to be replaced, where graphopt wrote it."""
    if not target.is_file():
        return set()
    pattern = f"{target.stem}.????????????.data"
    return {file.name for file in target.parent.glob(pattern)}


def needs_data_file(model: Model) -> bool:
    """Whether the weights belong beside the model file: some are there already, or all together are
    more than `INLINE_LIMIT`.
    """
    return _weight_bytes(model) > INLINE_LIMIT or any(
        isinstance(value.const_value, onnx_ir.ExternalTensor)
        for value in model.graph.initializers.values()
    )


def _weight_bytes(model: Model) -> int:
    return sum(
        value.const_value.nbytes
        for value in model.graph.initializers.values()
        if value.const_value is not None
    )


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
