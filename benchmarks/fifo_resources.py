"""FIFOs in memory: the model of `hwmodel.memory` against yosys and against Vivado.

    python benchmarks/fifo_resources.py [--srl 90] [--bram 45] [--cache FOLDER]

- yosys, run here (`synth_xilinx -family xcup`): shift-register LUTs of FIFOs built like FINN's
  Q_srl, RAMB18 / RAMB36 of FIFOs in block RAM. Wanted: SRL exact in 98 %, BRAM in 93 %. Results are
  kept in a temporary folder, so that a second run takes seconds. yosys builds a memory from RAMs of
  one shape; Vivado mixes shapes (FINN+ measured it), which saves some: the model knows both.
- Vivado on a xc7z020, out of context (truth/vivado_z7020): LUTs and flip-flops of Q_srl, and of
  AXI4-Stream FIFOs. Wanted: LUT within 8 %, flip-flops within 3 % (mean absolute error). And the
  block RAM of weight memories (MVAUs in HLS, ram_style block).
- Vivado on a xc7z020, inside whole designs (truth/finn_reports_tfc): the same without the monitor.

The folder `truth` is looked for in GRAPHOPT_SHARED (default ../shared).
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from hwmodel.datatypes import DataType
from hwmodel.devices import device
from hwmodel.memory import (
    axis_fifo,
    bram18,
    finn_choice,
    lutram_luts,
    srl_fifo,
    weight_options,
)
from hwmodel.resources import Resources

SHARED = Path(os.environ.get("GRAPHOPT_SHARED", Path(__file__).parents[1] / "../shared"))
TRUTH = SHARED / "truth"


# Verilog ------------------------------------------------------------------------------------------


def srl_verilog(depth: int, bits: int) -> str:
    """A FIFO with the structure of FINN's Q_srl: empty / one / more, and an output register.

    One packed shift register for each bit, or yosys infers no SRL.
    """
    cells, address = depth - 1, max(1, (depth - 1).bit_length())
    moved = f"{{cells[{cells - 2}:0], in_data[b]}}" if cells > 1 else "in_data[b]"
    picked = "cells[address]" if cells > 1 else "cells[0]"
    return f"""
module fifo(input clk, input rst,
            input [{bits - 1}:0] in_data, input in_valid, output in_ready,
            output [{bits - 1}:0] out_data, output out_valid, input out_ready);
  localparam EMPTY = 2'd0, ONE = 2'd1, MORE = 2'd2;
  reg [1:0] state, next_state;
  reg [{address - 1}:0] address, next_address;
  reg full, stop, valid, load, shift, bypass;
  wire next_full = (next_state == MORE) && (next_address == {depth - 2});
  assign in_ready = !stop;
  assign out_valid = valid;
  always @* begin
    next_state = state;
    next_address = 0;
    load = 0;
    shift = 1;
    bypass = 1;
    case (state)
      EMPTY: if (in_valid) begin load = 1; next_state = ONE; end
      ONE: begin
        load = in_valid && out_ready;
        if (in_valid && !out_ready) next_state = MORE;
        if (!in_valid && out_ready) next_state = EMPTY;
      end
      MORE: begin
        bypass = 0;
        load = out_ready;
        shift = in_valid && !full{" && 0" if depth == 2 else ""};
        next_address = address;
        if (shift && !out_ready) next_address = address + 1;
        if (!shift && out_ready)
          if (address == 0) next_state = ONE; else next_address = address - 1;
      end
      default: next_state = EMPTY;
    endcase
  end
  always @(posedge clk)
    if (rst) begin state <= EMPTY; address <= 0; full <= 0; stop <= 0; valid <= 0; end
    else begin
      state <= next_state; address <= next_address;
      full <= next_full; stop <= next_full; valid <= next_state != EMPTY;
    end
  genvar b;
  generate for (b = 0; b < {bits}; b = b + 1) begin : column
    reg [{cells - 1}:0] cells;
    reg out;
    always @(posedge clk) if (shift) cells <= {moved};
    always @(posedge clk) if (rst) out <= 0; else if (load) out <= bypass ? in_data[b] : {picked};
    assign out_data[b] = out;
  end endgenerate
endmodule
"""


def ram_verilog(depth: int, bits: int, style: str) -> str:
    """A FIFO of a power of two of words in a memory, with two pointers and a count."""
    address = (depth - 1).bit_length()
    return f"""
module fifo(input clk, input rst,
            input [{bits - 1}:0] in_data, input in_valid, output in_ready,
            output [{bits - 1}:0] out_data, output out_valid, input out_ready);
  (* ram_style = "{style}" *) reg [{bits - 1}:0] cells [0:{depth - 1}];
  reg [{address - 1}:0] head, tail;
  reg [{address}:0] count;
  reg [{bits - 1}:0] word;
  reg held;
  wire push = in_valid && in_ready;
  wire fetch = (count != 0) && (!held || out_ready);
  assign in_ready = !count[{address}];
  assign out_data = word;
  assign out_valid = held;
  always @(posedge clk) begin
    if (push) cells[head] <= in_data;
    if (fetch) word <= cells[tail];
  end
  always @(posedge clk)
    if (rst) begin head <= 0; tail <= 0; count <= 0; held <= 0; end
    else begin
      if (push) head <= head + 1;
      if (fetch) tail <= tail + 1;
      if (fetch) held <= 1; else if (out_ready) held <= 0;
      if (push && !fetch) count <= count + 1; else if (fetch && !push) count <= count - 1;
    end
endmodule
"""


# yosys --------------------------------------------------------------------------------------------


class Yosys:
    """Runs yosys once per design and keeps the counts of cells in a folder."""

    def __init__(self, cache: Path) -> None:
        cache.mkdir(parents=True, exist_ok=True)
        self.cache = cache
        self.version = subprocess.run(
            ["yosys", "-V"], capture_output=True, text=True, check=True
        ).stdout.strip()

    def cells(self, verilog: str) -> Counter[str]:
        """Cells by type after synthesis for UltraScale+."""
        key = hashlib.sha256((self.version + verilog).encode()).hexdigest()[:24]
        kept = self.cache / f"{key}.json"
        if kept.exists():
            return Counter(json.loads(kept.read_text()))
        with tempfile.TemporaryDirectory() as folder:
            source, report = Path(folder, "fifo.v"), Path(folder, "cells.txt")
            source.write_text(verilog)
            script = (
                f"read_verilog {source}; synth_xilinx -family xcup -noiopad -noclkbuf -top fifo; "
                f"tee -o {report} stat"
            )
            command = ["nice", "-n", "10", "yosys", "-q", "-p", script]
            subprocess.run(
                command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            found = re.findall(r"^ +([A-Z]\w+) +(\d+)$", report.read_text(), re.MULTILINE)
        counts = Counter({name: int(count) for name, count in found})
        kept.write_text(json.dumps(counts))
        return counts


def counted(cells: Counter[str]) -> Resources:
    """What the cells take."""
    srl = cells["SRL16E"] + cells["SRLC32E"]
    memory = 8 * (cells["RAM32M16"] + cells["RAM64M8"]) + 4 * (cells["RAM32M"] + cells["RAM64M"])
    logic = sum(cells[f"LUT{inputs}"] for inputs in range(1, 7))
    return Resources(
        lut=logic + srl + memory,
        ff=sum(count for name, count in cells.items() if name.startswith("FD")),
        srl=srl,
        lutram=memory,
        bram18=cells["RAMB18E2"] + 2 * cells["RAMB36E2"],
    )


def installed() -> bool:
    """Whether yosys is there; installs it where that is possible."""
    if shutil.which("yosys"):
        return True
    if os.geteuid() == 0 and shutil.which("apt-get"):
        print("installing yosys with apt-get ...")
        subprocess.run(["apt-get", "install", "-y", "-qq", "yosys"], check=False)
    if shutil.which("yosys"):
        return True
    print("yosys is not installed and could not be (as root: apt-get install yosys): left out\n")
    return False


def against_yosys(cache: Path, srl: int, bram: int) -> None:
    chance = random.Random(2024)
    yosys = Yosys(cache)
    print(f"{yosys.version}\n")
    edges = [(2, 8), (3, 8), (4, 8), (17, 8), (32, 8), (33, 8), (34, 8), (64, 8), (65, 8), (256, 8)]
    pairs = edges + [(chance.randint(5, 256), chance.randint(1, 64)) for _ in range(srl)]
    rows = [
        ((d, w), counted(yosys.cells(srl_verilog(d, w))), srl_fifo(d, w)) for d, w in pairs[:srl]
    ]
    report("SRL FIFOs (Q_srl)", "srl", rows, 0.98)
    shapes = [
        (1 << chance.randint(9, 14), chance.choice([chance.randint(1, 90), 8 * (1 + i % 16)]))
        for i in range(bram)
    ]
    found = [(shape, counted(yosys.cells(ram_verilog(*shape, "block")))) for shape in shapes]
    for title, mixed, wanted in (
        ("BRAM FIFOs, one shape in a memory (what yosys does)", False, 0.93),
        ("BRAM FIFOs, shapes mixed (Vivado, by FINN+; the model's default; no target)", True, None),
    ):
        rows = [(shape, f, Resources(bram18=bram18(*shape, mixed=mixed))) for shape, f in found]
        report(title, "bram18", rows, wanted)
    slices = [(d, w) for d in (32, 64, 128, 256) for w in (7, 14, 20, 32)]
    rows = [
        (
            (d, w),
            counted(yosys.cells(ram_verilog(d, w, "distributed"))),
            Resources(lutram=lutram_luts(d, w)),
        )
        for d, w in slices
    ]
    report("LUTRAM FIFOs (no target)", "lutram", rows, None)


Row = tuple[tuple[int, int], Resources, Resources]


def report(title: str, exact: str, rows: list[Row], wanted: float | None) -> None:
    wrong = [row for row in rows if getattr(row[1], exact) != getattr(row[2], exact)]
    share = 1 - len(wrong) / len(rows) if rows else 1.0
    target = "" if wanted is None else f", wanted {100 * wanted:.0f} %"
    right = len(rows) - len(wrong)
    print(f"{title}: {exact} exact {right} of {len(rows)} ({100 * share:.1f} %{target})")
    for (depth, bits), found, said in wrong:
        got, claimed = getattr(found, exact), getattr(said, exact)
        print(f"  {depth:>6} x {bits:<3} yosys {got}, model {claimed}")
    if wrong:
        got, claimed = (sum(getattr(row[side], exact) for row in rows) for side in (1, 2))
        print(f"  sum: yosys {got}, model {claimed} ({100 * (claimed / got - 1):+.1f} %)")
    for name in ("lut", "ff"):
        pairs = [(getattr(f, name), getattr(s, name)) for _, f, s in rows if getattr(s, name)]
        if pairs and exact == "srl":
            print(f"  {name.upper()}: mean absolute error {100 * error(pairs):.1f} %")
    print()


def error(pairs: Iterable[tuple[float, float]]) -> float:
    """Mean absolute error of the second against the first, relative."""
    return statistics.mean(abs(said - found) / found for found, said in pairs)


# Vivado -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    """A FIFO that Vivado synthesised: words, bits (whole bytes), and what it took."""

    depth: int
    bits: int
    lut: int
    ff: int
    bram18: float


def stream_bits(row: dict[str, str]) -> int | None:
    """Bits of a FIFO's stream, from the kernels on both sides; None where neither tells.

    Downstream first: a window generator with parallel output does not tell its width.
    """

    def number(column: str) -> int:
        return int(float(row[column]))

    reads = row["dn_layer_type"]
    if reads in ("FMPadding", "ConvolutionInputGenerator", "MVAU"):
        return number("dn_SIMD") * number("dn_inputBits")
    if reads in ("Thresholding", "LabelSelect"):
        return number("dn_PE") * number("dn_inputBits")
    writes = row["up_layer_type"]
    if writes in ("FMPadding", "ConvolutionInputGenerator"):
        return number("up_SIMD") * number("up_inputBits")
    if writes in ("MVAU", "Thresholding"):
        return number("up_PE") * number("up_outputBits")
    return number("up_outputBits") if writes == "LabelSelect" else None


def vivado_rows(folder: Path) -> Iterator[tuple[str, Measured]]:
    """Each FIFO with `depth` set ("whole"), and parts of split ones ("part") by FINN's rule."""
    run = ("model_id", "session", "run_name")
    with (folder / "fifo_depths_chosen_by_finn.csv").open() as file:
        chosen = {(*(r[c] for c in run), r["fifo_name"]): r for r in csv.DictReader(file)}
    with (folder / "StreamingFIFO.csv").open() as file:
        for row in csv.DictReader(file):
            name, key = row["Submodule Instance"], tuple(row[c] for c in run)
            kind, depth, beside = "whole", row["depth"], chosen.get((*key, name))
            split = re.fullmatch(r"(\w+_rtl_\d+)_(\d+)", name)
            if not depth and split:
                kind, beside = "part", chosen.get((*key, split[1]))
            if beside is None or not (bits := stream_bits(beside)):
                continue
            words = int(float(depth or beside["depth"]))
            if kind == "part" and split:
                pieces = finn_choice(words, bits, split=True).pieces
                words = pieces[int(split[2])].depth
            yield (
                kind,
                Measured(
                    words,
                    8 * -(-bits // 8),
                    int(row["Total LUT"]),
                    int(row["Total FFs"]),
                    2 * float(row["BRAM (36k eq.)"]),
                ),
            )


def against_vivado(folder: Path) -> None:
    if not (folder / "StreamingFIFO.csv").is_file():
        print(f"{folder} is not there (set GRAPHOPT_SHARED): Vivado left out\n")
        return
    counts: dict[str, Counter[Measured]] = defaultdict(Counter)
    for kind, fifo in vivado_rows(folder):
        counts[kind][fifo] += 1
    whole, parts = counts["whole"], counts["part"]
    print("Vivado, xc7z020, out of context (with FINN's occupancy monitor)")
    print(f"{'':34}{'different':>10}{'LUT':>9}{'FF':>9}{'rows':>8}{'LUT':>9}{'FF':>9}")
    line("Q_srl", whole)
    for title, most in (("  2 words", 2), ("  3-32", 32), ("  33-64", 64), ("  65-256", 256)):
        least = {2: 0, 32: 3, 64: 33, 256: 65}[most]
        line(title, Counter({f: n for f, n in whole.items() if least <= f.depth <= most}))
    fifos = sorted(whole, key=lambda f: (f.depth, f.bits, f.lut, f.ff))
    random.Random(7).shuffle(fifos)
    groups = sorted({(f.depth, f.bits) for f in fifos})
    random.Random(7).shuffle(groups)
    fitted = set(groups[: len(groups) // 2])
    train = [f for f in fifos if (f.depth, f.bits) in fitted]
    held = [f for f in fifos if (f.depth, f.bits) not in fitted]
    slope = min((s / 10 for s in range(60)), key=lambda s: error(monitored(train, s)))
    print(
        f"\nLUTs for each bit of the monitor's counter, fitted on half of the shapes ({len(train)} "
        f"FIFOs): {slope} (the model has 2.5)\n  LUT error on that half "
        f"{100 * error(monitored(train, slope)):.1f} %, on the other ({len(held)} FIFOs) "
        f"{100 * error(monitored(held, slope)):.1f} %; without the term "
        f"{100 * error(monitored(held, 0)):.1f} %\n"
    )
    srl = Counter({f: n for f, n in parts.items() if f.depth <= 256})
    print(
        "Parts of FIFOs that FINN split (their depth follows from FINN's rule, not from the data)"
    )
    line("Q_srl", srl)
    axis = [f for f in parts if f.depth > 256]
    said = [axis_fifo("bram", f.depth, f.bits, "7series") for f in axis]
    exact = sum(s.bram18 == f.bram18 for f, s in zip(axis, said, strict=True))
    luts = error((f.lut, s.lut) for f, s in zip(axis, said, strict=True))
    ffs = error((f.ff, s.ff) for f, s in zip(axis, said, strict=True))
    print(
        f"AXI4-Stream, block RAM: BRAM18 exact {exact} of {len(axis)}; error LUT {100 * luts:.1f} "
        f"%, FF {100 * ffs:.1f} %\n"
    )


def monitored(fifos: Iterable[Measured], slope: float) -> list[tuple[float, float]]:
    """LUTs measured and said, with `slope` LUTs for each bit of the monitor's counter."""
    return [
        (f.lut, srl_fifo(f.depth, f.bits, "7series").lut + slope * f.depth.bit_length())
        for f in fifos
    ]


def line(title: str, fifos: Counter[Measured]) -> None:
    """Errors over different FIFOs, then over all rows of the data."""
    if not fifos:
        return
    print(f"{title:<34}", end="")
    for rows in (list(fifos), list(fifos.elements())):
        said = {f: srl_fifo(f.depth, f.bits, "7series", monitor=True) for f in set(rows)}
        lut = error((f.lut, said[f].lut) for f in rows)
        ff = error((f.ff, said[f].ff) for f in rows)
        print(
            f"{len(rows):>{10 if rows == list(fifos) else 8}}{100 * lut:>8.1f}%{100 * ff:>8.1f}%",
            end="",
        )
    print()


def weights(path: Path) -> None:
    """Weight memories of HLS MVAUs in block RAM: words x bits from the folding."""
    if not path.is_file():
        return
    memories: set[tuple[int, int, float]] = set()
    with path.open() as file:
        for row in csv.DictReader(file):
            if (row["isHLS"], row["mem_mode"], row["ram_style"]) != (
                ("1", "internal_decoupled", "block")
            ):
                continue
            fold = int(row["PE"]) * int(row["SIMD"])
            words = int(row["MW"]) * int(row["MH"]) // fold
            bits = fold * DataType.parse(row["weightDataType"]).bits
            memories.add((words, bits, 2 * float(row["BRAM (36k eq.)"])))
    chip = device("Pynq-Z1")
    exact = sum(
        next(o for o in weight_options(words, bits, chip) if o.style == "bram").resources.bram18
        == found
        for words, bits, found in memories
    )
    print(f"Weight memories, xc7z020: BRAM18 exact {exact} of {len(memories)}\n")


def in_designs(folder: Path) -> None:
    """FIFOs inside placed designs: the monitor is gone, and bits that pad a byte are, too."""
    found: list[tuple[str, int, int, dict[str, int], Resources]] = []
    for path in sorted(folder.glob("*__post_synth_resources.json")):
        sizing = path.with_name(path.name.replace("post_synth_resources", "fifo_sizing"))
        if not sizing.is_file():
            continue
        sizes = json.loads(sizing.read_text())
        for name, took in json.loads(path.read_text()).items():
            fifo = name.removeprefix("StreamingDataflowPartition_1_")
            if fifo in sizes["fifo_depths"]:
                depth = sizes["fifo_depths"][fifo]
                bits = sizes["fifo_sizes"][fifo] // depth
                found.append((fifo, depth, bits, took, srl_fifo(depth, bits, "7series")))
    if not found:
        print(f"{folder} is not there (set GRAPHOPT_SHARED): FIFOs inside designs left out\n")
        return
    print("Vivado, xc7z020, inside five small networks (without the monitor)")
    exact = sum(took["SRL"] == said.srl for *_, took, said in found)
    luts = error((took["LUT"], said.lut) for *_, took, said in found)
    ffs = error((took["FF"], said.ff) for *_, took, said in found)
    print(
        f"{len(found)} FIFOs of 2 or 32 words: SRL exact {exact}; error LUT {100 * luts:.1f} %, "
        f"FF {100 * ffs:.1f} %; sum of LUTs {sum(t['LUT'] for *_, t, _ in found)}, said "
        f"{sum(s.lut for *_, s in found):.0f}\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--srl", type=int, default=90, help="SRL FIFOs to synthesise")
    parser.add_argument("--bram", type=int, default=45, help="BRAM FIFOs to synthesise")
    kept = Path(tempfile.gettempdir()) / "graphopt-fifo-yosys"
    parser.add_argument("--cache", type=Path, default=kept, help="where yosys's results are kept")
    given = parser.parse_args()
    if installed():
        against_yosys(given.cache, given.srl, given.bram)
    against_vivado(TRUTH / "vivado_z7020")
    weights(TRUTH / "vivado_z7020" / "MVAU.csv")
    in_designs(TRUTH / "finn_reports_tfc")


if __name__ == "__main__":
    main()
