"""FINN's build of a model, and the build steps in which FINN asks graphopt. For FINN's environment.

    python build.py [CONFIG.json]

runs it; the configuration is build.json beside this file by default. Its keys, paths from its own
folder on:

    model, output     an ONNX file; the folder that takes what FINN writes
    board, clock_mhz  as FINN calls it; default 100
    fps               frames a second to fold for, or null
    until             "estimates" (no tool of AMD's is needed) or "bitfile"
    graphopt          the command that runs graphopt, as a list; without it the build is FINN's own
    sizing            how graphopt finds FIFO depths: "bounds" by default

`fold` and `size_fifos` are build steps as FINN has them, (model, cfg) -> model, and so is
`optimize`; in a script of your own they stand among FINN's in `steps`, and $GRAPHOPT names the
command. They hand FINN's graph to graphopt as a file and give FINN what comes back, under the names
that FINN itself gave to its nodes and FIFOs. Nothing of graphopt is imported here.

Neither Vivado nor XSI is needed for estimates; finn-plus asks for both when it is imported, so a
path that does not exist stands in for the one, and an empty class for the other.
"""

import json
import os
import shlex
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

FOLDING = "step_target_fps_parallelization"
"""The step of FINN's that `fold` stands for."""
WIDTHS, SHUFFLES = "step_minimize_bit_width", "step_transpose_decomposition"
"""The steps behind which the widths of all streams are known, and all nodes are there."""


def optimize(model: Any, cfg: Any) -> Any:
    """The first step: graphopt's preset `finn` on the QONNX graph.

    Raises:
        RuntimeError: graphopt fails; with what it said.
    """
    from qonnx.core.modelwrapper import ModelWrapper

    before, after = _folder(cfg) / "before.onnx", _folder(cfg) / "after.onnx"
    model.save(str(before))
    _ask("optimize", before, "--preset", "finn", "-o", after)
    return ModelWrapper(str(after))


def fold(model: Any, cfg: Any) -> Any:
    """In the place of step_target_fps_parallelization: graphopt folds FINN's graph for the frames a
    second of the configuration; step_apply_folding_config applies it.

    Raises:
        RuntimeError: graphopt fails; with what it said.
    """
    graph = _folder(cfg) / "folding.onnx"
    model.save(str(graph))
    clock = 1000 / cfg.synth_clk_period_ns
    wanted = ["--fps", str(cfg.target_fps)] if cfg.target_fps else []
    made = _folder(cfg) / "folding"
    _ask("export", "finn", graph, "-o", made, "--sizing", "given", "--clock", clock, *wanted)
    cfg.folding_config_file = made / "folding.json"
    return model


def size_fifos(model: Any, cfg: Any) -> Any:
    """Behind step_transpose_decomposition: graphopt sizes every FIFO that FINN will put in.

    FINN's own transformations make the graph with all converters and FIFOs, read the depths and
    apply them; that graph is saved as `graphopt/with_fifos.onnx`. The configuration then names the
    file for step_set_fifo_depths, and the model stays as it is.

    Raises:
        RuntimeError: graphopt fails, or a depth did not arrive.
    """
    from finn.transformation.fpgadataflow.insert_dwc import InsertDWC
    from finn.transformation.fpgadataflow.insert_fifo import InsertFIFO
    from finn.transformation.fpgadataflow.set_fifo_depths import ApplyFIFODepthsFromFile
    from finn.transformation.fpgadataflow.specialize_layers import SpecializeLayers
    from finn.util.basic import getHWCustomOp
    from qonnx.transformation.general import GiveReadableTensorNames, GiveUniqueNodeNames

    graph = _folder(cfg) / "with_fifos.onnx"
    with_fifos = model.transform(InsertDWC())
    with_fifos = with_fifos.transform(InsertFIFO(create_shallow_fifos=True))
    with_fifos = with_fifos.transform(SpecializeLayers(cfg._resolve_fpga_part()))
    with_fifos = with_fifos.transform(GiveUniqueNodeNames())
    with_fifos = with_fifos.transform(GiveReadableTensorNames())
    with_fifos.save(str(graph))
    made = _folder(cfg) / "fifos"
    sizing = ["--sizing", os.environ.get("GRAPHOPT_SIZING", "bounds")]
    _ask("export", "finn", graph, "-o", made, *sizing)
    file = made / "fifos.json"
    with_fifos = with_fifos.transform(ApplyFIFODepthsFromFile(file))
    with_fifos.save(str(graph))
    wanted = json.loads(file.read_text())["fifo_depths"]
    nodes = with_fifos.get_nodes_by_op_type("StreamingFIFO_rtl")
    arrived = {node.name: getHWCustomOp(node).get_nodeattr("depth") for node in nodes}
    if arrived != wanted:
        lost = sorted(set(wanted.items()) ^ set(arrived.items()))
        raise RuntimeError(f"of {len(wanted)} FIFO depths these did not arrive: {lost}")
    cfg.auto_fifo_depths, cfg.fifo_config_file = False, file
    return model


def _folder(cfg: Any) -> Path:
    folder = Path(cfg.output_dir).resolve() / "graphopt"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _ask(*arguments: object) -> None:
    """Runs graphopt.

    Raises:
        RuntimeError: it fails.
    """
    command = shlex.split(os.environ.get("GRAPHOPT", "graphopt"))
    done = subprocess.run(
        [*command, *(str(each) for each in arguments)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines() or ["it said nothing"]
        raise RuntimeError(f"graphopt {arguments[0]}: {said[-1]}")


def build(config: dict[str, Any], folder: Path) -> int:
    """Runs FINN's steps, with graphopt's between them where the configuration names it.

    Args:
        config: as above.
        folder: that its paths start from.

    Returns:
        0 where FINN came to the end.
    """
    output = folder / config["output"]
    until = config.get("until", "estimates")
    os.environ["FINN_BUILD_DIR"] = str(output / "build")
    Path(os.environ["FINN_BUILD_DIR"]).mkdir(parents=True, exist_ok=True)
    if until == "estimates":
        os.environ.setdefault("XILINX_VIVADO", "/none/Vivado/2024.2")
        _without_simulator()

    from finn.builder import build_dataflow, build_dataflow_config

    made = build_dataflow_config.DataflowOutputType
    if until == "estimates":
        steps = list(build_dataflow_config.estimate_only_dataflow_steps)
        outputs = [made.ESTIMATE_REPORTS]
    else:
        steps = list(build_dataflow_config.default_build_dataflow_steps)
        outputs = [made.ESTIMATE_REPORTS, made.STITCHED_IP, made.BITFILE, made.PYNQ_DRIVER]
        outputs.append(made.DEPLOYMENT_PACKAGE)
    if command := config.get("graphopt"):
        os.environ.setdefault("GRAPHOPT", shlex.join(command))
        os.environ.setdefault("GRAPHOPT_SIZING", config.get("sizing") or "bounds")
        steps[steps.index(FOLDING)] = fold
        if SHUFFLES not in steps:
            steps.insert(steps.index(WIDTHS) + 1, SHUFFLES)
        steps.insert(steps.index(SHUFFLES) + 1, size_fifos)
    configuration = build_dataflow_config.DataflowBuildConfig(
        output_dir=str(output),
        synth_clk_period_ns=1000 / float(config.get("clock_mhz", 100)),
        board=config["board"],
        steps=steps,
        generate_outputs=outputs,
        target_fps=config.get("fps"),
        verbose=False,
    )
    return int(build_dataflow.build_dataflow_cfg(str(folder / config["model"]), configuration))


def _without_simulator() -> None:
    """An empty class in the place of XSI's engine."""
    from finn.util import settings

    settings.initialize_dummy_settings()
    try:
        from finn import xsi
    except ImportError:
        xsi = types.ModuleType("finn.xsi")
        sys.modules["finn.xsi"] = xsi
    xsi.SimEngine = type("SimEngine", (), {})


def main() -> None:
    """Reads the configuration and builds."""
    here = Path(__file__).resolve().parent / "build.json"
    place = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else here
    sys.exit(build(json.loads(place.read_text()), place.parent) != 0)


if __name__ == "__main__":
    main()
