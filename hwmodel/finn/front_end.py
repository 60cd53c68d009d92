"""Runs FINN's own front end on a model, to its estimate reports. For FINN's environment only.

    python front_end.py MODEL.onnx FOLDER BOARD PERIOD_NS [FPS]

Imports nothing of graphopt: `bridge` starts it with the interpreter of the environment that FINN
lives in, and reads what FINN writes into FOLDER.

Neither Vivado nor XSI is needed for the estimates; FINN asks for both when it is imported, so a
path that does not exist stands in for the one, and an empty class for the other.
"""

import os
import sys
import types
from pathlib import Path


def main() -> None:
    """Builds to the estimates with FINN's stock steps."""
    model, folder, board, period, *fps = sys.argv[1:]
    os.environ.setdefault("XILINX_VIVADO", "/none/Vivado/2024.2")
    os.environ["FINN_BUILD_DIR"] = str(Path(folder) / "build")
    Path(os.environ["FINN_BUILD_DIR"]).mkdir(parents=True, exist_ok=True)

    from finn.util import settings

    settings.initialize_dummy_settings()
    try:
        from finn import xsi
    except ImportError:
        xsi = types.ModuleType("finn.xsi")
        sys.modules["finn.xsi"] = xsi
    xsi.SimEngine = type("SimEngine", (), {})

    from finn.builder import build_dataflow, build_dataflow_config

    configuration = build_dataflow_config.DataflowBuildConfig(
        output_dir=folder,
        synth_clk_period_ns=float(period),
        board=board,
        steps=list(build_dataflow_config.estimate_only_dataflow_steps),
        generate_outputs=[build_dataflow_config.DataflowOutputType.ESTIMATE_REPORTS],
        target_fps=int(fps[0]) if fps else None,
        verbose=False,
    )
    sys.exit(build_dataflow.build_dataflow_cfg(model, configuration) != 0)


if __name__ == "__main__":
    main()
