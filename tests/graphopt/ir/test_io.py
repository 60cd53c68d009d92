"""Saving: whole or not at all, without holding the weights in memory."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import pytest
from onnx import TensorProto
from onnx.numpy_helper import from_array, to_array

from graphopt.errors import ModelError
from graphopt.ir import Layers, Model, Shapes, fingerprint, save, write_whole
from tests.support.features import info, model, node, weight
from tests.support.same import assert_same

LARGE = (64, 64)
"""A weight of this shape goes to the data file; one of [2, 3] stays in the model."""


def two_weights(seed: int = 0) -> onnx.ModelProto:
    random = np.random.default_rng(seed)
    large = from_array(random.standard_normal(LARGE).astype(np.float32), "large")
    large.doc_string = "a large one"
    large.metadata_props.add(key="layer", value="1")
    small = from_array(random.standard_normal((1, 64)).astype(np.float32), "small")
    nodes = [node("MatMul", "x large", "t"), node("Add", "t small", "y")]
    return model(
        nodes, [info("x", shape=("N", 64))], [info("y", shape=("N", 64))], weights=[large, small]
    )


@pytest.fixture
def external(tmp_path: Path) -> Model:
    """A model whose large weight lies in another file."""
    folder = tmp_path / "input"
    folder.mkdir()
    save(Model.load(two_weights()), folder / "in.onnx", external=True)
    loaded = Model.load(folder / "in.onnx")
    assert isinstance(loaded.graph.initializers["large"].const_value, onnx_ir.ExternalTensor)
    return loaded


def files(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def untouched(tensor: object) -> bool:
    """Whether an external tensor has never been read."""
    assert isinstance(tensor, onnx_ir.ExternalTensor)
    return tensor.raw is None and tensor._array is None


# What is written ----------------------------------------------------------------------------


def test_inline_by_default(tmp_path: Path) -> None:
    path = save(Model.load(two_weights()), tmp_path / "out.onnx")
    assert files(tmp_path) == ["out.onnx"]
    assert_same(onnx.load(path), two_weights())


def test_external_on_request(tmp_path: Path) -> None:
    path = save(Model.load(two_weights()), tmp_path / "out.onnx", external=True)
    data, name = files(tmp_path)
    assert name == "out.onnx"
    assert (tmp_path / data).stat().st_size == 64 * 64 * 4
    raw = onnx.load(path, load_external_data=False)
    by_name = {tensor.name: tensor for tensor in raw.graph.initializer}
    assert by_name["large"].data_location == TensorProto.EXTERNAL
    assert by_name["small"].data_location == TensorProto.DEFAULT
    assert by_name["large"].doc_string == "a large one"
    assert by_name["large"].metadata_props[0].value == "1"
    full = onnx.load(path)
    full.graph.initializer[0].ClearField("data_location")
    assert_same(full, two_weights())
    onnx.checker.check_model(path)


def test_external_stays_external(external: Model, tmp_path: Path) -> None:
    path = save(external, tmp_path / "out.onnx")
    assert len(files(tmp_path)) == 3
    again = Model.load(path)
    np.testing.assert_array_equal(_large(again), to_array(two_weights().graph.initializer[0]))
    assert fingerprint(again) == fingerprint(external)


def test_external_may_be_taken_in(external: Model, tmp_path: Path) -> None:
    path = save(external, tmp_path / "out.onnx", external=False)
    assert files(tmp_path) == ["input", "out.onnx"]
    assert_same(onnx.load(path), two_weights())


def test_new_weights_get_a_new_data_file(external: Model, tmp_path: Path) -> None:
    path = save(external, tmp_path / "out.onnx")
    before = set(files(tmp_path))
    external.graph.initializers["large"].const_value = onnx_ir.tensor(
        np.ones(LARGE, np.float32), name="large"
    )
    save(external, path, external=True)
    gone, come = before - set(files(tmp_path)), set(files(tmp_path)) - before
    assert len(gone) == len(come) == 1
    assert (_large(Model.load(path)) == 1).all()


def test_unused_weight_counts_for_the_name_of_the_data_file(tmp_path: Path) -> None:
    """Two models that compute the same, with different data files, must not share one."""
    names = []
    for value in (1, 2):
        proto = two_weights()
        proto.graph.initializer.insert(
            0, from_array(np.full(LARGE, value, np.float32), "nobody_reads_it")
        )
        save(Model.load(proto), tmp_path / str(value) / "out.onnx", external=True)
        names += [name for name in files(tmp_path / str(value)) if name.endswith(".data")]
    assert len(set(names)) == 2


def test_old_data_file_goes_when_the_weights_come_inside(external: Model, tmp_path: Path) -> None:
    path = save(external, tmp_path / "out.onnx")
    save(external, path, external=False)
    assert files(tmp_path) == ["input", "out.onnx"]


def test_files_of_others_stay(external: Model, tmp_path: Path) -> None:
    for name in ("out.0123456789ab.data", "out.data", "model.data", "out.txt"):
        (tmp_path / name).write_text("mine")
    save(Model.load(two_weights(1)), tmp_path / "out.onnx", external=True)
    save(external, tmp_path / "out.onnx")
    assert {"out.0123456789ab.data", "out.data", "model.data", "out.txt"} <= set(files(tmp_path))


def test_data_file_that_the_input_reads_stays(tmp_path: Path) -> None:
    """A model that was renamed still reads the data file with the old name."""
    for external in (True, False):
        path = save(Model.load(two_weights()), tmp_path / "out.onnx", external=True)
        renamed = path.rename(tmp_path / "renamed.onnx")
        moved = Model.load(renamed)
        save(Model.load(two_weights(1)), path, external=True)
        save(moved, path, external=external)
        assert_same(onnx.load(renamed), onnx.load(path)) if external else None
        for name in (renamed, path):
            proto = onnx.load(name)
            large = to_array(proto.graph.initializer[0])
            np.testing.assert_array_equal(large, to_array(two_weights().graph.initializer[0]))


def test_text_stays_in_the_model_file(tmp_path: Path) -> None:
    words = onnx.helper.make_tensor("words", TensorProto.STRING, [500], [b"word"] * 500)
    nodes = [node("Identity", "words", "y")]
    proto = model(nodes, outputs=[info("y", TensorProto.STRING, [500])], weights=[words])
    assert_same(onnx.load(save(Model.load(proto), tmp_path / "a.onnx", external=True)), proto)


def test_model_is_not_changed_by_saving(external: Model, tmp_path: Path) -> None:
    before = external.to_proto()
    save(external, tmp_path / "out.onnx", external=True)
    save(external, tmp_path / "in.onnx", external=False)
    assert external.to_proto() == before
    assert fingerprint(external) == fingerprint(Model.load(tmp_path / "out.onnx"))


def test_saving_is_deterministic(tmp_path: Path) -> None:
    contents = set()
    for name in ("a", "b"):
        save(Model.load(two_weights()), tmp_path / name / "out.onnx", external=True)
        contents.add(tuple((f, (tmp_path / name / f).read_bytes()) for f in files(tmp_path / name)))
    assert len(contents) == 1


def test_folders_are_made(tmp_path: Path) -> None:
    assert save(Model.load(two_weights()), tmp_path / "a" / "b" / "out.onnx").is_file()


# What is refused ----------------------------------------------------------------------------


def test_input_is_never_overwritten(external: Model, tmp_path: Path) -> None:
    assert external.origin.path is not None
    before = {f: (tmp_path / "input" / f).read_bytes() for f in files(tmp_path / "input")}
    (tmp_path / "link.onnx").symlink_to(external.origin.path)
    around = tmp_path / "input" / ".." / "input" / "in.onnx"
    for target in (external.origin.path, around, tmp_path / "link.onnx"):
        with pytest.raises(ModelError, match="never overwritten"):
            save(external, target)
    (data,) = (tmp_path / "input" / f for f in before if f.endswith(".data"))
    with pytest.raises(ModelError, match="holds the weights of the input"):
        save(external, data)
    assert {f: (tmp_path / "input" / f).read_bytes() for f in files(tmp_path / "input")} == before


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    loaded = Model.load(two_weights())
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="is a folder"):
        save(loaded, tmp_path)
    for place in (tmp_path / "file" / "out.onnx", tmp_path / ("n" * 300), Path("a\0b")):
        for external in (True, False):
            with pytest.raises(ModelError, match="cannot be written") as caught:
                save(loaded, place, external=external)
            assert "\n" not in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_folder_without_write_permission(tmp_path: Path) -> None:
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o500)
    with pytest.raises(ModelError, match="cannot be written"):
        save(Model.load(two_weights()), folder / "out.onnx")


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_file_mode_follows_the_umask(tmp_path: Path, mask: int) -> None:
    old = os.umask(mask)
    try:
        save(Model.load(two_weights()), tmp_path / "out.onnx", external=True)
    finally:
        os.umask(old)
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in files(tmp_path)}
    assert modes == {0o666 & ~mask}


def test_file_mode_of_the_replaced_file_stays(tmp_path: Path) -> None:
    path = save(Model.load(two_weights()), tmp_path / "out.onnx")
    path.chmod(0o640)
    save(Model.load(two_weights(1)), path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


# Failures on the way ------------------------------------------------------------------------


def failing(at: int) -> Callable[..., object]:
    """A function that fails the `at`-th time."""
    calls: Iterator[int] = iter(range(1000))
    real = {"replace": os.replace, "fsync": os.fsync}

    def call(name: str, *arguments: object, **options: object) -> object:
        if next(calls) == at:
            raise OSError(28, "No space left on device")
        return real[name](*arguments, **options)  # type: ignore[operator]

    return call


@pytest.mark.parametrize("at", [0, 1])
@pytest.mark.parametrize("function", ["replace", "fsync"])
@pytest.mark.parametrize("external", [True, False])
def test_failure_leaves_the_old_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, external: bool, at: int
) -> None:
    path = save(Model.load(two_weights()), tmp_path / "out.onnx", external=external)
    before = {name: (tmp_path / name).read_bytes() for name in files(tmp_path)}
    step = failing(at)
    with monkeypatch.context() as patch:
        patch.setattr(os, function, lambda *a, **k: step(function, *a, **k))
        if at == 0 or external:
            with pytest.raises(ModelError, match=r"No space left on device.*-o"):
                save(Model.load(two_weights(1)), path, external=external)
            assert {name: (tmp_path / name).read_bytes() for name in files(tmp_path)} == before
        elif function == "fsync":  # the folder's own, after the rename: too late to matter
            save(Model.load(two_weights(1)), path, external=external)
    assert not [name for name in files(tmp_path) if "tmp" in name]
    Model.load(path)


def test_interruption_leaves_no_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "a", b"content")
    with pytest.raises(KeyboardInterrupt):
        save(Model.load(two_weights()), tmp_path / "out.onnx", external=True)
    assert files(tmp_path) == []


KILLED = textwrap.dedent(
    """
    import os, random, signal, sys, time
    from pathlib import Path

    from graphopt.ir import Model, fingerprint, save

    folder, external, kills = Path(sys.argv[1]), sys.argv[2] == "True", int(sys.argv[3])
    models = [Model.load(folder / f"{name}.onnx") for name in "ab"]
    known = {fingerprint(model) for model in models}
    target = folder / "out" / "out.onnx"
    random.seed(7)
    found = 0
    start = time.process_time()
    save(models[0], folder / "once" / "out.onnx", external=external)
    once = time.process_time() - start
    for number in range(kills):
        moment = random.uniform(once / 100, 3 * once)
        child = os.fork()
        if not child:
            # By its own processor time, so that a busy machine kills it no earlier.
            signal.setitimer(signal.ITIMER_PROF, moment)
            while True:
                for model in models:
                    save(model, target, external=external)
        os.waitpid(child, 0)
        if target.exists():
            found += 1
            assert fingerprint(Model.load(target)) in known
        if number % 5 == 4:
            for file in sorted((folder / "out").rglob("*"), reverse=True):
                file.rmdir() if file.is_dir() else file.unlink()
    print(found)
    """
)


@pytest.mark.parametrize("external", [True, False])
def test_killed_at_any_moment(tmp_path: Path, external: bool) -> None:
    """Twenty-five processes that save two models in turn are killed; what stands there is one of
    the two, complete."""
    for seed, name in enumerate("ab"):
        onnx.save(two_weights(seed), tmp_path / f"{name}.onnx")
    result = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path), str(external), "25"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )
    assert result.returncode == 0, result.stderr
    assert 5 <= int(result.stdout) <= 25, "the kills came too early or too late to say anything"


# Memory -------------------------------------------------------------------------------------


def test_weights_are_not_read_to_look_at_shapes(external: Model, tmp_path: Path) -> None:
    tensor = external.graph.initializers["large"].const_value
    assert untouched(tensor)
    for file in (tmp_path / "input").iterdir():
        file.unlink()
    shapes = external.analyses.get(Shapes())
    assert shapes["y"].shape == ("N", 64)
    assert external.analyses.get(Layers()).layers[0].parameters == 64 * 64
    external.clone().to_proto()
    assert untouched(tensor)


def test_weights_are_not_read_to_fold_shapes(tmp_path: Path) -> None:
    """Shapes behind shape arithmetic need constants; the weights beside it are none of them."""
    nodes = [
        node("Transpose", "large", "turned", perm=[1, 0]),
        node("MatMul", "x turned", "t"),
        node("Shape", "t", "shape"),
        node("Gather", "shape zero", "rows", axis=0),
        node("Concat", "rows minus", "target", axis=0),
        node("Reshape", "t target", "y"),
    ]
    weights = [
        weight("large", LARGE),
        from_array(np.array([0]), "zero"),
        from_array(np.array([-1]), "minus"),
    ]
    path = tmp_path / "in.onnx"
    proto = model(nodes, [info("x", shape=(2, 64))], [info("y", shape=None)], weights=weights)
    loaded = Model.load(save(Model.load(proto), path, external=True))
    assert loaded.analyses.get(Shapes())["y"].shape == (2, 64)
    assert untouched(loaded.graph.initializers["large"].const_value)


FRUGAL = textwrap.dedent(
    """
    import resource, sys
    from pathlib import Path

    from graphopt.ir import Layers, Model, Shapes, fingerprint, save

    small, large, target = map(Path, sys.argv[1:])

    def work(source):
        model = Model.load(source)
        model.analyses.get(Shapes())
        model.analyses.get(Layers())
        return fingerprint(Model.load(save(model, target))) == fingerprint(model)

    assert work(small)  # imports what it needs
    held = next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("VmData"))
    limit = held * 1024 + 100_000_000
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    try:
        bytearray(200_000_000)
    except MemoryError:
        assert work(large)
        print("ok")
    """
)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_300_mb_of_weights_need_little_memory(tmp_path: Path) -> None:
    """Loading, looking, hashing and saving, within 100 MB; one weight alone has 200 MB."""
    sizes = [50_000_000, *[5_000_000] * 5]
    weights = []
    for number, count in enumerate(sizes):
        tensor = TensorProto(name=f"w{number}", dims=(count,), data_type=TensorProto.FLOAT)
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="weights.bin")
        tensor.external_data.add(key="offset", value=str(4 * sum(sizes[:number])))
        weights.append(tensor)
    with (tmp_path / "weights.bin").open("wb") as file:
        file.truncate(4 * sum(sizes))
    nodes = [node("Identity", f"w{n}", f"y{n}") for n in range(len(sizes))]
    outputs = [info(f"y{n}", shape=None) for n in range(len(sizes))]
    proto = model([*nodes, node("Relu", "x", "y")], outputs=[*outputs, info("y")], weights=weights)
    (tmp_path / "large.onnx").write_bytes(proto.SerializeToString())
    small = save(Model.load(two_weights()), tmp_path / "small.onnx", external=True)
    script = [sys.executable, "-c", FRUGAL, str(small), str(tmp_path / "large.onnx")]
    result = subprocess.run(
        [*script, str(tmp_path / "out" / "out.onnx")],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout == "ok\n"


def _large(loaded: Model) -> np.ndarray:
    tensor = loaded.graph.initializers["large"].const_value
    assert tensor is not None
    return tensor.numpy()
