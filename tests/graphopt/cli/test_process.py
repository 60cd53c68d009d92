"""The command as a process: what it imports, how it is stopped, what it leaves when killed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import onnx
import pytest

from graphopt.ir import Model
from graphopt.verify import numeric
from tests.support.models import residual_net
from tests.support.packages import environment, graphopt, one_line

LOADED = """
import json, sys
from graphopt.cli.main import main
try:
    main(sys.argv[1:])
except SystemExit as left:
    assert not left.code, left.code
heavy = ("torch", "onnxruntime", "onnxscript", "onnx", "qonnx", "onnx_graphsurgeon", "ortools",
         "sklearn", "plotly", "jinja2", "optuna")
print(json.dumps([name for name in heavy if name in sys.modules]), file=sys.stderr)
"""


def loaded(*arguments: object, cwd: Path) -> set[str]:
    done = graphopt(*arguments, cwd=cwd, python=("-c", LOADED))
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stderr.splitlines()[-1]))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "net.onnx"
    onnx.save(residual_net(), path)
    return path


def test_help_loads_nothing_heavy(tmp_path: Path) -> None:
    assert loaded("--help", cwd=tmp_path) == set()
    assert loaded("optimize", "--help", cwd=tmp_path) == set()


def test_help_is_fast(tmp_path: Path) -> None:
    times = []
    for _ in range(3):
        start = time.perf_counter()
        done = graphopt("--help", cwd=tmp_path)
        times.append(time.perf_counter() - start)
    assert done.stdout.lstrip().startswith("Usage: graphopt")
    assert min(times) < 2.0


def test_inspect_loads_no_runtime(tmp_path: Path, model: Path) -> None:
    assert not loaded("inspect", model, cwd=tmp_path) & {"torch", "onnxruntime", "sklearn"}


def test_optimize_loads_no_torch(tmp_path: Path, model: Path) -> None:
    assert not loaded("optimize", model, cwd=tmp_path) & {"torch", "sklearn", "qonnx", "ortools"}


def test_the_package_itself_loads_nothing(tmp_path: Path) -> None:
    code = (
        "import sys, graphopt; sys.exit(any(m in sys.modules for m in ('onnx', 'numpy', 'torch')))"
    )
    assert graphopt(cwd=tmp_path, python=("-c", code)).returncode == 0


def test_the_script_and_the_module_are_one(tmp_path: Path) -> None:
    script = Path(sys.executable).with_name("graphopt")
    done = subprocess.run(
        [script, "--help"], cwd=tmp_path, env=environment(), capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert done.stdout == graphopt("--help", cwd=tmp_path).stdout


def test_stderr_is_empty_when_all_is_well(tmp_path: Path, model: Path) -> None:
    done = graphopt("optimize", model, "--preset", "plain", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Equivalent on" in done.stdout


def test_bad_input_is_one_line_in_a_process_too(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"\x08\x07garbage")
    done = graphopt("optimize", "bad.onnx", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "bad.onnx" in one_line(done.stderr)


def test_json_in_a_pipe_is_not_folded(tmp_path: Path, model: Path) -> None:
    done = graphopt("inspect", model, "--json", cwd=tmp_path)
    assert json.loads(done.stdout)["model"]["nodes"] == 15


def test_a_reader_that_goes_away(tmp_path: Path, model: Path) -> None:
    """`graphopt inspect | head -1`: no traceback."""
    one = subprocess.Popen(
        [sys.executable, "-m", "graphopt", "inspect", str(model)], cwd=tmp_path, env=environment(),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert one.stdout is not None
    assert one.stderr is not None
    one.stdout.close()
    err = one.stderr.read()
    one.stderr.close()
    one.wait(timeout=60)
    assert "Traceback" not in err
    assert "internal error" not in err


# Shell completion -----------------------------------------------------------------------------


def test_there_is_shell_completion(tmp_path: Path) -> None:
    assert "--install-completion" in graphopt("--help", cwd=tmp_path).stdout


def test_completion_knows_commands_and_presets(tmp_path: Path) -> None:
    def complete(*words: str) -> set[str]:
        env = environment() | {
            "_GRAPHOPT_COMPLETE": "complete_bash",
            "COMP_WORDS": "\n".join(("graphopt", *words)),
            "COMP_CWORD": str(len(words)),
        }
        done = subprocess.run(
            [sys.executable, "-m", "graphopt"], cwd=tmp_path, env=env, capture_output=True,
            text=True, check=False,
        )  # fmt: skip
        assert "Traceback" not in done.stderr
        return set(done.stdout.split())

    assert {"optimize", "inspect", "compare", "passes"} <= complete("")
    assert complete("opt") == {"optimize"}
    assert {"default", "plain", "clean"} <= complete("optimize", "--preset", "")


# Stopped and killed ---------------------------------------------------------------------------


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A network whose file takes a moment to write."""
    path = tmp_path / "models" / "large.onnx"
    path.parent.mkdir()
    onnx.save(residual_net(3, 160, size=4), path)
    assert path.stat().st_size > 5_000_000
    return path


def started(model: Path, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "graphopt", "optimize", str(model), *options],
        cwd=model.parent, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, preexec_fn=_hear_interrupts,
    )  # fmt: skip


def _hear_interrupts() -> None:
    """A job in the background of a script is deaf to SIGINT, and so are its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_interrupted(large: Path) -> None:
    before = large.read_bytes()
    one = started(large, "--preset", "plain", "--verify-each", "--measure")  # takes its time
    time.sleep(1.0)
    one.send_signal(signal.SIGINT)
    out, err = one.communicate(timeout=60)
    assert one.returncode == 130, (out, err)
    assert out == ""
    assert "Traceback" not in err
    assert one_line(err) == "graphopt: stopped"
    assert list(large.parent.iterdir()) == [large]
    assert large.read_bytes() == before


def test_killed_at_any_moment_it_leaves_all_or_nothing(large: Path) -> None:
    """Ten times SIGKILL, half of them around the moment at which the file is written."""
    before = large.read_bytes()
    output = large.parent / "large.opt.onnx"
    options = ("--pipeline", "fold-norm,reserve-merge{when=possible},dce", "--no-verify")

    start = time.perf_counter()
    one = started(large, *options)
    appeared = None
    while one.poll() is None:
        if appeared is None and any(p.name.endswith(".tmp") for p in large.parent.iterdir()):
            appeared = time.perf_counter() - start
        time.sleep(0.002)
    one.communicate()
    whole = time.perf_counter() - start
    appeared = appeared or whole
    assert one.returncode == 0
    wanted = output.read_bytes()

    rng = random.Random(int(os.environ.get("GRAPHOPT_SEED", "0")))
    survived = 0
    for number in range(10):
        output.unlink(missing_ok=True)
        early = number % 2 == 0
        wait = rng.uniform(0.1, whole) if early else rng.uniform(0.97, 1.05) * appeared
        one = started(large, *options)
        time.sleep(wait)
        one.kill()
        one.communicate()
        assert large.read_bytes() == before
        if output.exists():
            survived += 1
            assert output.read_bytes() == wanted
    assert survived < 10  # else nothing was killed in time
    for rest in large.parent.glob(".*.tmp"):  # what a killed process cannot clear away
        assert rest.name.startswith(".large.opt.onnx.")
        rest.unlink()
    assert {path.name for path in large.parent.iterdir()} <= {"large.onnx", "large.opt.onnx"}


def test_the_killed_run_can_be_repeated(large: Path) -> None:
    """Nothing that a killed run leaves behind is in the way of the next one."""
    one = started(large, "--preset", "clean")
    time.sleep(0.8)
    one.kill()
    one.communicate()
    done = graphopt("optimize", large, "--preset", "clean", cwd=large.parent)
    assert done.returncode == 0
    found = numeric.compare(
        Model.load(large), Model.load(large.parent / "large.opt.onnx"), seconds=0
    )
    assert found.status in (numeric.Status.EQUAL, numeric.Status.UNCHANGED)
