"""The example package and the page that explains it: installed, run, and equal to each other."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from tests.conftest import REPOSITORY
from tests.support.models import residual_net
from tests.support.packages import environment, graphopt

PACKAGE = REPOSITORY / "examples" / "plugin_pass"
PAGE = REPOSITORY / "docs" / "writing-a-pass.md"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the package has been installed into, from a copy, without the network."""
    work = tmp_path_factory.mktemp("plugin")
    copy, target = work / "source", work / "site"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("build", "*.egg-info", "__*"))
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
         "--no-deps", "--no-build-isolation", "--no-index", "--target", str(target), str(copy)],
        check=True, capture_output=True, env=environment(), cwd=work,
    )  # fmt: skip
    return target


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Two blocks of 6 channels: the ones inside of the blocks are hidden."""
    onnx.save(residual_net(2, 6, norm=True), tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


def channels(path: Path) -> list[int]:
    proto = onnx.load(path)
    sizes = {tensor.name: tensor.dims[0] for tensor in proto.graph.initializer}
    return [sizes[node.input[1]] for node in proto.graph.node if node.op_type == "Conv"]


def outputs(path: Path) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    x = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
    (y,) = session.run(None, {"x": x})
    return np.asarray(y)


def test_graphopt_lists_it(site: Path, tmp_path: Path) -> None:
    done = graphopt("passes", "--json", cwd=tmp_path, path=site)
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    (one,) = (one for one in told["passes"] if one["name"] == "align-channels")
    assert one["summary"] == "Rounds the channels between two convolutions up to a multiple."
    assert one["options"] == [{"name": "multiple", "values": "8"}]
    assert "align-channels" in told["presets"]["aligned"].split(",")
    assert "hidden-channels" in told["analyses"]


def test_without_the_package_there_is_no_such_pass(tmp_path: Path, model: Path) -> None:
    done = graphopt("optimize", model, "--pipeline", "align-channels", cwd=tmp_path)
    assert done.returncode == 2
    assert "no pass is called 'align-channels'" in done.stderr


def test_graphopt_runs_it(site: Path, tmp_path: Path, model: Path) -> None:
    done = graphopt(
        "optimize", model, "--pipeline", "fold-norm,align-channels{multiple=4},dce",
        "--verify-each", "--json", cwd=tmp_path, path=site,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    assert told["verification"]["status"] == "equal"
    aligned = next(one for one in told["passes"] if one["name"] == "align-channels")
    assert aligned["statistics"] == {"aligned": 2, "left": 3}
    assert aligned["claims_checked"] == 4

    written = tmp_path / "net.opt.onnx"
    onnx.checker.check_model(onnx.load(written), full_check=True)
    assert channels(model) == [6, 6, 6, 6, 6]
    assert channels(written) == [6, 8, 6, 8, 6]
    np.testing.assert_allclose(outputs(written), outputs(model), rtol=1e-4, atol=1e-5)


def test_its_preset_is_idempotent(site: Path, tmp_path: Path, model: Path) -> None:
    first, second = tmp_path / "first.onnx", tmp_path / "second.onnx"
    for source, target in ((model, first), (first, second)):
        done = graphopt(
            "optimize", source, "--preset", "aligned", "-o", target, cwd=tmp_path, path=site
        )
        assert (done.returncode, done.stderr) == (0, "")
    assert second.read_bytes() == first.read_bytes()
    assert channels(first) == [6, 8, 6, 8, 6]


def test_its_own_tests_pass(site: Path, tmp_path: Path) -> None:
    shutil.copy(PACKAGE / "test_align_channels.py", tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", ".",
         "-W", "error"],
        cwd=tmp_path, env=environment(site), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert re.search(r"\d+ passed", done.stdout)


# The page -------------------------------------------------------------------------------------


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip()]


def test_the_code_of_the_page_is_the_code_of_the_package() -> None:
    module = (PACKAGE / "align_channels.py").read_text()
    tests = (PACKAGE / "test_align_channels.py").read_text()
    ours = [block for block in blocks("python") if "\ndef test_" not in f"\n{block}"]
    theirs = [block for block in blocks("python") if block not in ours]
    assert lines("".join(ours)) == lines(module)
    assert all(block.strip() in module for block in ours)
    for block in theirs:
        for test in block.split("\n\n\n"):
            assert test.strip() in tests
    assert [block.strip() for block in blocks("toml")] == [
        (PACKAGE / "pyproject.toml").read_text().strip()
    ]


def test_the_page_names_what_there_is(tmp_path: Path) -> None:
    text = PAGE.read_text()
    for option in set(re.findall(r"`(--[a-z-]+)", text)):
        assert option in graphopt_help(tmp_path), option
    for path in re.findall(r"`((?:passes|graphopt|examples)/[\w/.]+)`", text):
        assert (REPOSITORY / path).exists(), path


def graphopt_help(folder: Path) -> str:
    return graphopt("optimize", "--help", cwd=folder).stdout + graphopt("--help", cwd=folder).stdout
