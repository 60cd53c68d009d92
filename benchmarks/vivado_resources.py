"""LUT, FF, BRAM and DSP of the `streaming` backend against Vivado's, on a held-out split.

    python benchmarks/vivado_resources.py [--seeds N] [--write]

Truth: shared/truth/vivado_z7020 (out-of-context results of FINN builds on an xc7z020) and, as an
independent set, shared/truth/finn_reports_tfc (post-synthesis reports of whole networks). A
configuration is a kernel with all its attributes. All rows of a shape, which is a configuration
without its choice of memory and multiplier, fall on one side of the split. The split is honest for
the coefficients; the form of the model was chosen with all of the data in view.
`--write` fits on all of vivado_z7020 and writes hwmodel/data/streaming.toml.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from statistics import mean, median

import numpy as np

from hwmodel.datatypes import DataType, integer
from hwmodel.kernels import (
    Kernel,
    LabelSelect,
    MatrixVector,
    Padding,
    Threshold,
    WidthConverter,
    Window,
)
from hwmodel.streaming.fabric import fabric
from hwmodel.streaming.terms import Coefficients, Part, resources, terms

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("GRAPHOPT_SHARED", ROOT.parent / "shared"))
DATA = ROOT / "hwmodel" / "data" / "streaming.toml"
PART = Part(fabric("7series"), dsps=220)  # xc7z020
HELD_OUT = 0.3
TARGETS = {"lut": 0.15, "bram": 0.10, "dsp": 0.10}
FIELDS = ("lut", "ff", "bram", "dsp")


@dataclass(frozen=True)
class Row:
    """One result of Vivado. `kernel` is nameless: equal kernels are one configuration."""

    kind: str
    model: str
    kernel: Kernel
    truth: Mapping[str, float]


# ------------------------------------------------------------------------------- reading


def dims(text: str) -> tuple[int, int]:
    high, wide = json.loads(text)
    return high, wide


def matrix_vector(row: Mapping[str, str]) -> Kernel:
    """All but four RTL rows carry the folding of another layer (SIMD 36 where MW is 32).

    FINN's cycles, MW MH vectors, say that it was SIMD = PE = 1.
    """
    vectors = int(np.prod(json.loads(row["numInputVectors"])))
    simd, pe = int(row["SIMD"]), int(row["PE"])
    if int(row["MW"]) * int(row["MH"]) * vectors == int(row["cycles_estimate"]):
        simd = pe = 1
    output = DataType.parse(row["outputDataType"])
    return MatrixVector(
        name="",
        mw=int(row["MW"]),
        mh=int(row["MH"]),
        vectors=vectors,
        simd=simd,
        pe=pe,
        input=DataType.parse(row["inputDataType"]),
        weight=DataType.parse(row["weightDataType"]),
        accumulator=DataType.parse(row["accDataType"]),
        output=output,
        thresholds=0 if row["noActivation"] == "1" else steps_of(output, row),
        backend=row["op_type"].removeprefix("MVAU_"),
        resource=row["resType"],
        memory=row["mem_mode"],
        ram_style=row["ram_style"],
    )


def steps_of(output: DataType, row: Mapping[str, str]) -> int:
    """Steps of the activation: ActVal is what counts as none of them."""
    full = 2**output.bits - 1
    narrow = output.signed and int(row["ActVal"]) > -(2 ** (output.bits - 1))
    return full - 1 if narrow and output.bits > 1 else full


def window(row: Mapping[str, str]) -> Kernel:
    height, width = dims(row["IFMDim"])
    return Window(
        name="",
        height=height,
        width=width,
        channels=int(row["IFMChannels"]),
        kernel=dims(row["ConvKernelDim"]),
        stride=dims(row["Stride"]),
        dilation=dims(row["Dilation"]),
        element=DataType.parse(row["inputDataType"]),
        simd=int(row["SIMD"]),
        depthwise=row["depthwise"] == "1",
        parallel=row["parallel_window"] == "1",
        ram_style=row["ram_style"],
    )


def padding(row: Mapping[str, str]) -> Kernel:
    height, width = dims(row["ImgDim"])
    top, left, bottom, right = json.loads(row["Padding"])
    return Padding(
        name="",
        height=height,
        width=width,
        channels=int(row["NumChannels"]),
        pads=(top, left, bottom, right),
        element=DataType.parse(row["inputDataType"]),
        simd=int(row["SIMD"]),
    )


def threshold(row: Mapping[str, str]) -> Kernel:
    return Threshold(
        name="",
        channels=int(row["NumChannels"]),
        pe=int(row["PE"]),
        input=DataType.parse(row["inputDataType"]),
        threshold=DataType.parse(row["weightDataType"]),
        output=DataType.parse(row["outputDataType"]),
        steps=int(row["numSteps"]),
        # Quantizers of the input: no memory in any of them, though there are 784 channels.
        shared=True,
    )


def label_select(row: Mapping[str, str]) -> Kernel:
    return LabelSelect(
        name="",
        labels=int(row["Labels"]),
        k=int(row["K"] or 1),
        pe=int(row["PE"]),
        input=DataType.parse(row["inputDataType"]),
        output=DataType.parse(row["outputDataType"]),
    )


READERS: dict[str, tuple[str, Callable[[Mapping[str, str]], Kernel]]] = {
    "MVAU": ("MVAU.csv", matrix_vector),
    "SWG": ("ConvolutionInputGenerator.csv", window),
    "Thresholding": ("Thresholding.csv", threshold),
    "FMPadding": ("FMPadding.csv", padding),
    "LabelSelect": ("LabelSelect.csv", label_select),
}


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def truth_of(row: Mapping[str, str]) -> dict[str, float]:
    columns = ("Total LUT", "Total FFs", "BRAM (36k eq.)", "DSP Blocks")
    return {name: float(row[column]) for name, column in zip(FIELDS, columns, strict=True)}


def read(folder: Path) -> list[Row]:
    """All rows that a kernel can be made of."""
    result = []
    for kind, (name, reader) in READERS.items():
        for row in rows_of(folder / name):
            label = "MVAU (rtl)" if row["op_type"] == "MVAU_rtl" else kind
            result.append(Row(label, row["model_id"], reader(row), truth_of(row)))
    return result + width_converters(folder)


def width_converters(folder: Path) -> list[Row]:
    """Width converters, whose widths are those of their neighbours in the same run.

    fifo_depths_chosen_by_finn.csv names the kernels on both sides of each FIFO, in order; the
    n-th converter of a chain is StreamingDataWidthConverter_rtl_n.
    """
    chains: dict[tuple[str, str], list[dict[str, str]]] = defaultdict(list)
    for fifo in rows_of(folder / "fifo_depths_chosen_by_finn.csv"):
        chains[fifo["session"], fifo["run_name"]].append(fifo)
    parallel = {
        (row["session"], row["run_name"], row["Submodule Instance"]): row
        for row in rows_of(folder / "ConvolutionInputGenerator.csv")
    }
    measured = {
        (row["session"], row["run_name"], row["Submodule Instance"]): row
        for row in rows_of(folder / "StreamingDataWidthConverter.csv")
    }
    result = []
    for run, chain in chains.items():
        chain.sort(key=lambda fifo: int(fifo["fifo_name"].rsplit("_", 1)[1]))
        count = windows = 0
        for before, after in pairwise(chain):
            if before["dn_layer_type"] == "ConvolutionInputGenerator":
                windows += 1
            if before["dn_layer_type"] != "StreamingDataWidthConverter":
                continue
            if before["dn_impl_type"] != "rtl":
                continue
            row = measured.get((*run, f"StreamingDataWidthConverter_rtl_{count}"))
            count += 1
            swg = parallel.get((*run, f"ConvolutionInputGenerator_rtl_{windows - 1}"))
            into, out_of = leaving(before, swg), entering(after)
            if row is None or not into or not out_of or max(into, out_of) % min(into, out_of):
                continue
            kernel = WidthConverter(
                name="",
                elements=into * out_of,
                into=into,
                out_of=out_of,
                element=integer(1, signed=False),
            )
            result.append(Row("DWC", row["model_id"], kernel, truth_of(row)))
    return result


def leaving(fifo: Mapping[str, str], swg: Mapping[str, str] | None) -> int:
    """Bits that the kernel before a FIFO writes."""
    kind = fifo["up_layer_type"]
    if kind in ("MVAU", "Thresholding", "LabelSelect"):
        return int(fifo["up_PE"]) * int(fifo["up_outputBits"])
    bits = int(fifo["up_SIMD"]) * int(fifo["up_inputBits"])
    if kind == "ConvolutionInputGenerator" and swg is not None and swg["parallel_window"] == "1":
        high, wide = dims(swg["ConvKernelDim"])
        bits *= high * wide
    return bits


def entering(fifo: Mapping[str, str]) -> int:
    """Bits that the kernel behind a FIFO reads."""
    folds = "dn_PE" if fifo["dn_layer_type"] in ("Thresholding", "LabelSelect") else "dn_SIMD"
    return int(fifo[folds]) * int(fifo["dn_inputBits"])


# ------------------------------------------------------------------------------- fitting


def fit(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """Coefficients of every group that the rows show.

    Non-negative least squares on the relative error of each configuration's mean, reweighted ten
    times by the inverse of the residual: the smallest mean absolute relative error.
    """
    from scipy.optimize import nnls

    cases: dict[str, list[tuple[Mapping[str, float], float, float]]] = defaultdict(list)
    for group in configurations(rows).values():
        what = terms(group[0].kernel, PART)
        for name, counts, known in (
            ("lut", what.lut, what.known.lut),
            ("ff", what.ff, what.known.ff),
        ):
            if counts:
                truth = mean(row.truth[name] for row in group)
                cases[f"{what.group}.{name}"].append((counts, known, truth))
    result = {}
    for name, listed in sorted(cases.items()):
        columns = list(listed[0][0])
        matrix = np.array([[counts[c] for c in columns] for counts, _, _ in listed], float)
        truth = np.array([max(truth, 1.0) for _, _, truth in listed])
        known = np.array([known for _, known, _ in listed])
        matrix, goal = matrix / truth[:, None], (truth - known) / truth
        weight = np.ones(len(goal))
        for _ in range(10):
            found, _ = nnls(matrix * weight[:, None], goal * weight)
            weight = 1 / np.sqrt(np.maximum(np.abs(matrix @ found - goal), 0.01))
        result[name] = dict(zip(columns, map(float, found), strict=True))
    return result


def configurations(rows: Iterable[Row]) -> dict[Kernel, list[Row]]:
    result: dict[Kernel, list[Row]] = defaultdict(list)
    for row in rows:
        result[row.kernel].append(row)
    return result


def shape(kernel: Kernel) -> Kernel:
    """The kernel without the choice of memory and multiplier, which changes it little."""
    if isinstance(kernel, MatrixVector):
        return replace(kernel, ram_style="", resource="")
    return kernel


def split(rows: Sequence[Row], seed: int) -> tuple[list[Row], list[Row]]:
    """Training and held-out rows: of each kind, all rows of a shape on one side."""
    chosen = set()
    for of_kind in by_kind(rows).values():
        shapes = sorted({shape(row.kernel) for row in of_kind}, key=repr)
        random.Random(seed).shuffle(shapes)
        chosen |= set(shapes[: max(1, round(HELD_OUT * len(shapes)))])
    held = [shape(row.kernel) in chosen for row in rows]
    return (
        [row for row, out in zip(rows, held, strict=True) if not out],
        [row for row, out in zip(rows, held, strict=True) if out],
    )


# ------------------------------------------------------------------------------- measuring


@dataclass(frozen=True)
class Error:
    """Of one kind and resource.

    Attributes:
        mape: mean of |estimate - truth| / truth where truth is not 0; None: nowhere.
        zeros: configurations where truth is 0.
        right: how many of them are estimated 0.
    """

    mape: float | None
    zeros: int
    right: int

    def __str__(self) -> str:
        shown = [f"{100 * self.mape:.1f} %"] if self.mape is not None else []
        if self.zeros:
            shown.append(f"0: {self.right}/{self.zeros}")
        return ", ".join(shown)


Estimate = Callable[[Kernel], Mapping[str, float]]


def ours(using: Coefficients | None) -> Estimate:
    def estimate(kernel: Kernel) -> dict[str, float]:
        what = resources(kernel, dsps=PART.dsps, using=using)
        return {"lut": what.lut, "ff": what.ff, "bram": what.bram18 / 2, "dsp": what.dsp}

    return estimate


def errors(rows: Sequence[Row], estimate: Estimate) -> dict[str, Error]:
    """Errors over configurations: each counts once, with the mean of its rows."""
    pairs: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for kernel, group in configurations(rows).items():
        for name, found in estimate(kernel).items():
            pairs[name].append((found, mean(row.truth[name] for row in group)))
    result = {}
    for name, listed in pairs.items():
        relative = [abs(found - truth) / truth for found, truth in listed if truth]
        zeros = [found == 0 for found, truth in listed if not truth]
        result[name] = Error(mean(relative) if relative else None, len(zeros), sum(zeros))
    return result


def spread(rows: Sequence[Row]) -> float:
    """Mean relative distance of LUTs to the median of their configuration: no model beats it."""
    distances = []
    for group in configurations(rows).values():
        middle = median(row.truth["lut"] for row in group)
        distances += [abs(row.truth["lut"] - middle) / row.truth["lut"] for row in group]
    return mean(distances)


def table(head: Sequence[str], body: Sequence[Sequence[object]]) -> str:
    lines = [[str(cell) for cell in line] for line in (head, *body)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def by_kind(rows: Iterable[Row]) -> dict[str, list[Row]]:
    result: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        result[row.kind].append(row)
    return dict(result)


def finn() -> Estimate | None:
    """FINN's own formulas, where hwmodel.finn is there."""
    try:
        formulas = import_module("hwmodel.finn.formulas")
    except ModuleNotFoundError:
        return None

    def estimate(kernel: Kernel) -> dict[str, float]:
        what = formulas.resources(kernel)
        return {"lut": what.lut, "bram": what.bram18 / 2, "dsp": what.dsp}

    return estimate


# ------------------------------------------------------------------------------- networks


def networks(folder: Path) -> list[Row]:
    """Kernels of whole networks on a Pynq-Z2, with their post-synthesis results.

    What a report does not say of a layer (its matrix, its types) comes from the network's ONNX
    file, or from another one of the same model; folding from final_hw_config.
    """
    import onnx

    result = []
    models = {
        path.name.partition("__")[0]: {
            node.name: {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            for node in onnx.load(path, load_external_data=False).graph.node
        }
        for path in sorted(folder.glob("*__step_set_fifo_depths.onnx"))
    }
    for path in sorted(folder.glob("*__post_synth_resources.json")):
        run = path.name.partition("__")[0]
        layers = models.get(run) or next(reversed(models.values()))
        folding = json.loads((folder / f"{run}__final_hw_config.json").read_text())
        chain = []
        for name, used in json.loads(path.read_text()).items():
            node = name.removeprefix("StreamingDataflowPartition_1_")
            if node == name or "FIFO" in node:
                continue
            attributes = layers.get(node, {}) | folding.get(node, {})
            chain.append((node, network_kernel(node, attributes), used))
        for index, (node, kernel, used) in enumerate(chain):
            if node.startswith("StreamingDataWidthConverter"):
                before, after = chain[index - 1][1], chain[index + 1][1]
                if before is None or after is None:
                    continue
                into, out_of = before.outputs[0].bits, after.inputs[0].bits
                kernel = WidthConverter(
                    name="",
                    elements=into * out_of,
                    into=into,
                    out_of=out_of,
                    element=integer(1, signed=False),
                )
            if kernel is not None:
                truth = {"lut": used["LUT"], "ff": used["FF"], "dsp": used["DSP"]}
                truth["bram"] = used["BRAM_36K"] + used["BRAM_18K"] / 2
                result.append(Row(node.partition("_")[0], run, kernel, truth))
    return result


def network_kernel(node: str, attributes: Mapping[str, object]) -> Kernel | None:
    """The kernel of a node of a network, if its type is one of those measured here."""

    def number(name: str, default: int = 0) -> int:
        value = attributes.get(name, default)
        assert isinstance(value, int)
        return value

    def text(name: str, default: str = "") -> str:
        value = attributes.get(name, default)
        return value.decode() if isinstance(value, bytes) else str(value)

    def element(name: str) -> DataType:
        return DataType.parse(text(name))

    if node.startswith("MVAU"):
        output = element("outputDataType")
        return MatrixVector(
            name="",
            mw=number("MW"),
            mh=number("MH"),
            simd=number("SIMD"),
            pe=number("PE"),
            input=element("inputDataType"),
            weight=element("weightDataType"),
            accumulator=element("accDataType"),
            output=output,
            thresholds=0 if number("noActivation") else 2**output.bits - 1,
            backend="rtl" if "rtl" in node else "hls",
            resource=text("resType", "auto"),
            memory=text("mem_mode", "internal_decoupled"),
            ram_style=text("ram_style", "auto"),
        )
    if node.startswith("Thresholding"):
        return Threshold(
            name="",
            channels=number("NumChannels"),
            pe=number("PE"),
            input=element("inputDataType"),
            threshold=element("weightDataType"),
            output=element("outputDataType"),
            steps=number("numSteps"),
            shared=True,
        )
    if node.startswith("LabelSelect"):
        return LabelSelect(
            name="",
            labels=number("Labels"),
            pe=number("PE"),
            input=element("inputDataType"),
            output=element("outputDataType"),
        )
    return None


# ------------------------------------------------------------------------------- reporting


def held_out(rows: Sequence[Row], seeds: Sequence[int]) -> dict[str, list[dict[str, Error]]]:
    """Errors by kind, one entry a seed."""
    result: dict[str, list[dict[str, Error]]] = defaultdict(list)
    for seed in seeds:
        train, test = split(rows, seed)
        estimate = ours(fit(train))
        for kind, group in by_kind(test).items():
            result[kind].append(errors(group, estimate))
    return dict(result)


def summary(found: Sequence[Error]) -> str:
    """Mean and worst over the seeds; zeros added up."""
    values = [error.mape for error in found if error.mape is not None]
    zeros, right = sum(error.zeros for error in found), sum(error.right for error in found)
    shown = [f"{100 * mean(values):.1f} / {100 * max(values):.1f} %"] if values else []
    return ", ".join(shown + ([f"0: {right}/{zeros}"] if zeros else []))


def print_held_out(rows: Sequence[Row], seeds: Sequence[int]) -> None:
    found = held_out(rows, seeds)
    theirs = finn()
    body = []
    for kind, group in by_kind(rows).items():
        shapes = len({shape(row.kernel) for row in group})
        counts = (len(group), len(configurations(group)), shapes)
        cells = [summary([each[name] for each in found[kind]]) for name in FIELDS]
        body.append(("streaming", kind, *counts, *cells, f"{100 * spread(group):.1f} %"))
        if theirs is not None:
            of_finn = errors(group, theirs)
            shown = [str(of_finn[name]) if name in of_finn else "" for name in FIELDS]
            body.append(("FINN", kind, *counts, *shown, ""))
    head = ("model", "kernel", "rows", "configs", "shapes", *(n.upper() for n in FIELDS), "floor")
    print(table(head, body))
    print(
        "streaming: mean / worst over the seeds on held-out shapes; FINN: its formulas, all shapes."
        "\nA configuration counts once, with the mean of its rows. `0: a/b`: of b configurations"
        "\nwhere Vivado took none, a are estimated 0 (all seeds together); no percentage has them."
        "\nfloor: mean distance of LUTs to the median of their configuration, below which no model "
        "of these attributes gets."
    )
    if theirs is None:
        print("FINN's formulas: hwmodel.finn is not there.")
    missed = [
        f"{kind} {name.upper()}"
        for kind in ("MVAU", "SWG", "DWC", "Thresholding", "FMPadding")
        for name, limit in TARGETS.items()
        for each in [[e[name].mape for e in found[kind] if e[name].mape is not None]]
        if each and max(each) > limit
    ]
    print(
        f"Targets (worst seed, LUT 15 %, BRAM and DSP 10 %) missed: {', '.join(missed) or 'none'}"
    )


def print_models(rows: Sequence[Row]) -> None:
    """Each model in turn held out with all that it has: how far the coefficients reach."""
    body = []
    for model in sorted({row.model for row in rows}):
        train = [row for row in rows if row.model != model]
        known = {terms(row.kernel, PART).group for row in train}
        estimate = ours(fit(train))
        for kind, group in by_kind(row for row in rows if row.model == model).items():
            if {terms(row.kernel, PART).group for row in group} <= known:
                error = errors(group, estimate)
                body.append((model, kind, len(group), *(str(error[name]) for name in FIELDS)))
    print(table(("held-out model", "kernel", "rows", *(n.upper() for n in FIELDS)), body))


def print_networks(rows: Sequence[Row], using: Coefficients) -> None:
    body = []
    estimate, theirs = ours(using), finn()
    for kind, group in by_kind(rows).items():
        lines = [("streaming", estimate)] + ([("FINN", theirs)] if theirs is not None else [])
        for label, model in lines:
            error = errors(group, model)
            shown = [str(error[name]) if name in error else "" for name in FIELDS]
            took = sum(row.truth["lut"] for row in group)
            said = sum(model(row.kernel)["lut"] for row in group)
            body.append((label, kind, len(group), *shown, f"{took:.0f} / {said:.0f}"))
    head = ("model", "kernel", "nodes", *(n.upper() for n in FIELDS), "sum of LUTs, Vivado / model")
    print(table(head, body))


def write(rows: Sequence[Row], path: Path) -> None:
    """The coefficients of a fit on all rows."""
    found = fit(rows)
    numbers = defaultdict(lambda: [0, 0])
    for group in configurations(rows).values():
        count = numbers[terms(group[0].kernel, PART).group]
        count[0] += len(group)
        count[1] += 1
    lines = [
        "# Coefficients of the `streaming` backend: written by benchmarks/vivado_resources.py",
        "# --write, from a fit on Vivado results of FINN builds (xc7z020, out of context; public",
        "# research data, ArthurEly/hara at 46b3e320). Terms: hwmodel/streaming.",
    ]
    for name, table_of in found.items():
        measured, distinct = numbers[name.rpartition(".")[0]]
        lines += ["", f"# {measured} results of {distinct} configurations."]
        lines += [f'[coefficients."{name}"]']
        lines += [f"{term} = {value:.4g}" for term, value in table_of.items()]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"wrote {path.relative_to(ROOT)}: {len(found)} tables")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10, help="splits to try")
    parser.add_argument("--write", action="store_true", help="refresh hwmodel/data/streaming.toml")
    options = parser.parse_args(arguments)
    folder = SHARED / "truth" / "vivado_z7020"
    if not folder.is_dir():
        print(f"{folder} is not there: set GRAPHOPT_SHARED to the folder with truth/vivado_z7020.")
        return 0
    rows = read(folder)
    converters = len(rows_of(folder / "StreamingDataWidthConverter.csv"))
    joined = sum(row.kind == "DWC" for row in rows)
    print(f"Width converters with both neighbours known: {joined} of {converters} rows.\n")
    print_held_out(rows, range(options.seeds))
    print()
    print_models(rows)
    reports = SHARED / "truth" / "finn_reports_tfc"
    print()
    if reports.is_dir():
        print("Whole networks on a Pynq-Z2, fitted on all of vivado_z7020:")
        print_networks(networks(reports), fit(rows))
    else:
        print(f"{reports} is not there: no independent test.")
    if options.write:
        write(rows, DATA)
    return 0


if __name__ == "__main__":
    sys.exit(main())
