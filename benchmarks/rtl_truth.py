"""Fresh truth for the token simulator: random blocks, simulated from FINN's own RTL.

    python benchmarks/rtl_truth.py --finn FINN --out FILE.jsonl [--kind KIND] [--count N] [--seed S]
    python benchmarks/rtl_truth.py --finn FINN --check FILE.jsonl [--count N]

Writes records of the form of shared/truth (README.md, README-depthwise-threshold-chain.md), which
`python -m hwmodel.truth FILE.jsonl` reads; with --check it simulates records that exist and says
how many come out equal. FINN is a checkout of Xilinx/finn, whose finn-rtllib is compiled by
Verilator (5.006 was used). Kinds: block, inverted_residual, residual_threshold, chain, all.

FINN's kernels: fmpadding_axi, the window generator's two templates, mvu_vvu_axi, dwc_axi,
thresholding_axi. Fork, join and FIFO are our own, one register each (PLAIN below). Cycle 0 is the
first without reset; the source is valid from then on for ever; the sink is always ready. A frame
ends one cycle after the cycle in which its last word is taken, and the peak of a FIFO includes the
state after the end of frame 3. All data are zero, and weights always valid: only flow control is
looked at. So a matrix unit is built with SIMD = PE = 1 and the same numbers of folds, and the data
of the parallel window generator are left out. Two lines of FINN are changed: the padder's struct is
packed (Verilator cannot assign it otherwise), and the depthwise window generator's register
First_elem_next_window gets two more bits: without them it can hang (Xilinx/finn pull request 1698).

Where shared/truth says nothing: a skip convolution whose SIMD or PE is not the word of the fork has
width converters without a FIFO directly before its window generator and directly before the join.
Such records are drawn only with --fold-skips.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any

Record = dict[str, Any]

KINDS = ("block", "inverted_residual", "residual_threshold", "chain")
UNLIMITED = 100_000_000
FRAMES = 3
SILENCE = 200_001
"""A run without a word at the sink for so many cycles is DEAD."""
SLOWEST = 4000
"""Cycles a frame that a new record may take."""

PLAIN = """
module plain_fifo(input logic clk, rst, ivld, ordy, output logic irdy, ovld,
                  input logic [31:0] depth, output logic [31:0] peak);
  logic [31:0] count = 0, most = 0;
  assign irdy = count < depth;
  assign ovld = count != 0;
  assign peak = count > most ? count : most;
  always_ff @(posedge clk)
    if (rst) begin
      count <= 0;
      most <= 0;
    end
    else begin
      count <= count + 32'(ivld && irdy) - 32'(ovld && ordy);
      most <= peak;
    end
endmodule
module plain_fork(input logic clk, rst, ivld, ordy, brdy, output logic irdy, ovld, bvld);
  logic full = 0;
  assign ovld = full && brdy;
  assign bvld = full && ordy;
  assign irdy = !full || (ordy && brdy);
  always_ff @(posedge clk)
    if (rst) full <= 0;
    else if (irdy) full <= ivld;
endmodule
module plain_join(input logic clk, rst, ivld, bvld, ordy, output logic irdy, brdy, ovld);
  logic full = 0;
  wire free = !full || ordy;
  assign irdy = bvld && free;
  assign brdy = ivld && free;
  assign ovld = full;
  always_ff @(posedge clk)
    if (rst) full <= 0;
    else if (free) full <= ivld && bvld;
endmodule
"""

HARNESS = r"""
#include "Vtop.h"
#include "verilated.h"
#include <cstdio>
#include <iostream>
#include <vector>
static void edge(Vtop& top) { top.clk = 1; top.eval(); top.clk = 0; top.eval(); }
int main() {
  long frames, words, silence;
  while (std::cin >> frames >> words >> silence) {
    Vtop top;
    const int fifos = sizeof(top.depth) / sizeof(top.depth[0]);
    for (int i = 0; i < fifos; ++i) std::cin >> top.depth[i];
    for (int i = 0; i < 4; ++i) edge(top);
    top.rst_n = 1;
    top.eval();
    std::vector<long> ends;
    for (long cycle = 0, seen = 0, last = 0; cycle - last <= silence;) {
      if (top.ovld) {
        last = cycle;
        if (++seen % words == 0) ends.push_back(cycle + 1);
      }
      edge(top);
      ++cycle;
      if ((long)ends.size() == frames) break;
    }
    std::printf("RESULT %zu", ends.size());
    for (long end : ends) std::printf(" %ld", end);
    for (int i = 0; i < fifos; ++i) std::printf(" %u", (unsigned)top.peak[i]);
    std::printf("\n");
    std::fflush(stdout);
    top.final();
  }
}
"""

SOURCES = """
    swg/swg_pkg.sv swg/swg_common.sv
    fmpadding/hdl/axi2we.sv fmpadding/hdl/fmpadding.sv fmpadding/hdl/fmpadding_axi.sv
    mvu/replay_buffer.sv mvu/mvu_4sx4u.sv mvu/mvu_8sx8u_dsp48.sv mvu/mvu_vvu_8sx9_dsp58.sv
    mvu/mvu_vvu_axi.sv dwc/hdl/dwc.sv dwc/hdl/dwc_axi.sv
    thresholding/hdl/axilite_if.v thresholding/hdl/thresholding.sv
    thresholding/hdl/thresholding_axi.sv
""".split()


class Unbuildable(ValueError):
    """The record describes what FINN does not build, or what does not fit together."""


# ------------------------------------------------------------------ FINN's window generator


@dataclass(frozen=True)
class Window:
    """A window generator: the parameters that convolutioninputgenerator_rtl.py puts into it.

    `height` and `width` are those of the padded map.
    """

    height: int
    width: int
    channels: int
    simd: int
    kernel: int
    stride: int
    depthwise: bool
    parallel: bool

    def __post_init__(self) -> None:
        if min(self.height, self.width) < self.kernel:
            raise Unbuildable("the map is smaller than the window")
        if self.channels % self.simd:
            raise Unbuildable("the channels are not a multiple of SIMD")
        if self.stride > self.kernel and min(self.out) < 2:
            raise Unbuildable("FINN miscounts the rows that such a window leaves over")
        if self.parallel and self.kernel > 1 and self.width == self.kernel:
            raise Unbuildable("FINN makes a line buffer of depth 0")
        if not self.parallel and max(map(abs, self.increments)) > self.buffer:
            raise Unbuildable("FINN refuses a window that moves beyond its buffer")

    @property
    def out(self) -> tuple[int, int]:
        rows, columns = self.height - self.kernel, self.width - self.kernel
        return rows // self.stride + 1, columns // self.stride + 1

    @property
    def fold(self) -> int:
        return self.channels // self.simd

    @property
    def window(self) -> int:
        """Words from the first to the last of one window."""
        if self.parallel:
            return (self.kernel - 1) * (self.width + 1) * self.fold + 1
        return ((self.kernel - 1) * self.width + self.kernel) * self.fold

    @property
    def buffer(self) -> int:
        if self.parallel:
            return self.window + 1
        taps, slack = self.kernel**2, self.stride - 1
        return self.window + self.fold * (max(0, slack - taps) + max(0, slack * self.width - taps))

    @property
    def left_over(self) -> tuple[int, int]:
        """Rows and columns that no window reaches."""
        rows, columns = ((size - 1) * self.stride + self.kernel for size in self.out)
        return self.height % rows, self.width % columns

    @property
    def increments(self) -> tuple[int, int]:
        """From the last word of a window to the first of the next: in a row, at its end."""
        fold, back = self.fold, 1 - self.window
        below = (self.stride - 1) * self.width * fold
        at_end = (self.left_over[1] + self.kernel) * fold + below
        return back + self.stride * fold, back + at_end

    def parameters(self) -> dict[str, int | str]:
        k, s, fold, (rows, columns) = self.kernel, self.stride, self.fold, self.out
        last_row, last_column = self.height - self.left_over[0], self.width - self.left_over[1]
        values: dict[str, int | str] = {
            "RAM_STYLE": '"auto"',
            "BUF_ELEM_TOTAL": self.buffer,
            "LAST_READ_ELEM": self.height * self.width * fold - 1,
            "LAST_WRITE_ELEM": ((last_row - 1) * self.width + last_column) * fold - 1,
        }
        folds_inside = self.depthwise and not self.parallel and fold > 1
        row = (self.width - k) * fold
        if self.parallel:
            values["FIRST_WRITE_ELEM"] = self.window - 1
            loops = {"SIMD": 1, "KW": 1, "KH": fold}
            head = {"SIMD": 1, "KW": 1, "KH": 1, "W": (s - 1) * fold + 1}
            head["H"] = (self.left_over[1] + k - 1 + (s - 1) * self.width) * fold + 1
            tail = {"W": 0, "H": 0, "LAST": 0}
        else:
            values["ELEM_PER_WINDOW"] = k * k * (1 if folds_inside else fold)
            if folds_inside:
                loops = {"SIMD": k, "KW": k, "KH": fold}
                head = {"SIMD": fold, "KW": row + fold, "KH": fold + 1 - self.window}
            else:
                loops = {"SIMD": fold, "KW": k, "KH": k}
                head = {"SIMD": 1, "KW": 1, "KH": row + 1}
            head |= dict(zip("WH", self.increments, strict=True))
            freed = self.window - (fold if folds_inside else 1)
            tail = {name: head[name] + freed for name in "WH"} | {"LAST": self.window - 1}
        loops |= {"W": columns, "H": rows}
        inner = next((name for name in list(loops)[:-1] if loops[name] > 1), "H")
        loops[inner] -= 1
        values |= {f"LOOP_{name}_ITERATIONS": count - 2 for name, count in loops.items()}
        values |= {f"HEAD_INCR_{name}": value for name, value in head.items()}
        values |= {f"TAIL_INCR_{name}": value for name, value in tail.items()}
        largest = max(abs(value) for value in (*head.values(), *tail.values()))
        return values | {
            "INNERMOST_STATE": f"STATE_LOOP_{inner}",
            "IS_DEPTHWISE": int(folds_inside),
            "INCR_BITWIDTH": 1 + math.ceil(math.log2(largest + 1)),
        }

    def source(self, library: Path, name: str) -> str:
        style = "parallel" if self.parallel else "default"
        text = (library / "swg" / f"swg_template_{style}.sv").read_text()
        text = text.replace("$TOP_MODULE_NAME$", name)
        text = text.replace("$GENERATE_OUTPUT_MAPPING$", "assign data_out = '0;")
        for part in ("REG_FIFOS", "BRAM_FIFOS", "BUFFER_CONNECTION"):
            text = text.replace(f"$GENERATE_{part}$", "")
        for key, value in self.parameters().items():
            text = text.replace(f"${key}$", str(value))
        if self.depthwise and not self.parallel:
            kept = [line for line in text.splitlines() if "First_elem_next_window = 0" in line]
            for line in kept:
                text = text.replace(line, line.replace("+1-1:0]", "+3-1:0]"))
        return text


# ------------------------------------------------------------------ wiring of a record


def unused(*ports: str) -> dict[str, str]:
    return dict.fromkeys(ports, "'0")


AXILITE = unused(
    *("s_axilite_AWVALID", "s_axilite_AWADDR", "s_axilite_WVALID", "s_axilite_WDATA"),
    *("s_axilite_WSTRB", "s_axilite_BREADY", "s_axilite_ARVALID", "s_axilite_ARADDR"),
    "s_axilite_RREADY",
)


@dataclass
class Stream:
    """Where the wiring has got to: a wire, elements in a word, and the map that flows there."""

    wire: int
    word: int
    height: int
    width: int
    channels: int

    @property
    def words(self) -> int:
        return self.height * self.width * self.channels // self.word


@dataclass
class Design:
    """Verilog of a record, and the names of its FIFOs in order of construction."""

    library: Path
    lines: list[str] = field(default_factory=list)
    modules: list[str] = field(default_factory=list)
    fifos: list[str] = field(default_factory=list)
    wires: int = 0

    def wire(self) -> int:
        self.wires += 1
        self.lines.append(f"  wire v{self.wires}, r{self.wires};")
        return self.wires

    def add(self, module: str, into: int, parameters: dict[str, Any], ports: dict[str, str]) -> int:
        """A kernel; in `ports`, $i stands for its input stream and $o for its output."""
        out = self.wire()
        values = ", ".join(f".{name}({value})" for name, value in parameters.items())
        pins = ", ".join(f".{name}({pin})" for name, pin in ports.items())
        pins = pins.replace("$i", str(into)).replace("$o", str(out))
        kind = f"{module} #({values})" if values else module
        self.lines.append(f"  {kind} u{out} ({pins});")
        return out

    def plain(self, module: str, into: int, **ports: str) -> int:
        pins = {"clk": "clk", "rst": "!rst_n", "ivld": "v$i", "irdy": "r$i"}
        return self.add(module, into, {}, pins | {"ovld": "v$o", "ordy": "r$o"} | ports)

    def finn(
        self,
        module: str,
        into: int,
        parameters: dict[str, Any],
        ports: dict[str, str],
        names: tuple[str, str] = ("s_axis_t", "m_axis_t"),
    ) -> int:
        """A kernel of finn-rtllib; `names` begin the pins of its input and of its output."""
        pins = {"ap_clk": "clk", "ap_rst_n": "rst_n"}
        for name, wires in zip(names, (("v$i", "r$i", "'0"), ("v$o", "r$o", "")), strict=True):
            for part, wire in zip(("valid", "ready", "data"), wires, strict=True):
                pins[name + (part.upper() if name[-1].isupper() else part)] = wire
        return self.add(module, into, parameters, pins | ports)

    def fifo(self, into: int, name: str) -> int:
        index = len(self.fifos)
        self.fifos.append(name)
        return self.plain("plain_fifo", into, depth=f"depth[{index}]", peak=f"peak[{index}]")

    def converter(self, into: int, have: int, want: int) -> int:
        """From words of `have` to words of `want` elements; none if they are equal."""
        if max(have, want) % min(have, want):
            raise Unbuildable("a width converter needs a whole ratio")
        if have == want:
            return into
        return self.finn("dwc_axi", into, {"IBITS": 2 * have, "OBITS": 2 * want}, {})

    def padding(self, into: int, at: Stream, pad: int) -> int:
        values: dict[str, Any] = {"NUM_CHANNELS": at.channels, "SIMD": at.word, "ELEM_BITS": 2}
        for axis, size in (("X", at.width), ("Y", at.height)):
            values[f"{axis}COUNTER_BITS"] = math.ceil(math.log2(size + 2 * pad + 1))
            values[f"INIT_{axis}ON"] = pad
            values[f"INIT_{axis}OFF"] = pad + size
            values[f"INIT_{axis}END"] = size + 2 * pad - 1
        return self.finn("fmpadding_axi", into, values, AXILITE)

    def window(self, into: int, window: Window) -> int:
        name = f"window{len(self.modules)}"
        self.modules.append(window.source(self.library, name))
        out = window.kernel**2 if window.parallel else 1
        values = {"BIT_WIDTH": 2, "SIMD": window.simd, "MMV_IN": 1, "MMV_OUT": out}
        return self.finn(f"{name}_impl", into, values, {}, ("in0_V_V_T", "out_V_V_T"))

    def matrix(self, into: int, synapse_folds: int, neuron_folds: int, depthwise: bool) -> int:
        core = "mvu_vvu_8sx9_dsp58" if depthwise else "mvu_4sx4u_dsp48e2"
        values = {
            **{"IS_MVU": int(not depthwise), "COMPUTE_CORE": f'"{core}"'},
            **{"MW": synapse_folds, "MH": neuron_folds, "PE": 1, "SIMD": 1, "SEGMENTLEN": 0},
            **{"ACTIVATION_WIDTH": 4, "WEIGHT_WIDTH": 4, "ACCU_WIDTH": 16, "FORCE_BEHAVIORAL": 1},
        }
        ports = unused("ap_clk2x", "s_axis_weights_tdata") | {"s_axis_weights_tvalid": "1'b1"}
        return self.finn("mvu_vvu_axi", into, values, ports, ("s_axis_input_t", "m_axis_output_t"))

    def op(self, at: Stream, op: Record, name: str) -> Stream:
        """One of a record's `ops` or `convs`, with the FIFOs that belong to it."""
        if op.get("op") == "thr":
            return self.threshold(at, op, name)
        depthwise = op.get("op") == "dw"
        channels, out = (op["C"], op["C"]) if depthwise else (op["Cin"], op["Cout"])
        k, s, p, pe, parallel = op["k"], op["s"], op["p"], op["PE"], bool(op["par"])
        word = pe if depthwise else channels if parallel else op["SIMD"]
        if channels != at.channels or channels % word or out % pe:
            raise Unbuildable("channels or folding do not fit")
        wire = self.fifo(self.converter(at.wire, at.word, word), f"{name}.in")
        at = Stream(wire, word, at.height, at.width, channels)
        if p:
            wire = self.fifo(self.padding(wire, at, p), f"{name}.pad")
        window = Window(
            *(at.height + 2 * p, at.width + 2 * p, channels, word, k, s),
            *(depthwise, parallel or k == 1),
        )
        if depthwise or (k, s) != (1, 1):
            wire = self.fifo(self.window(wire, window), f"{name}.swg")
        if depthwise:
            simd = op.get("SIMD", k * k) if parallel else 1
            if parallel and simd < k * k:
                wire = self.fifo(self.converter(wire, k * k * pe, simd * pe), f"{name}.win")
            wire = self.matrix(wire, k * k // simd, channels // pe, depthwise)
        else:
            synapse_folds = 1 if parallel else k * k * channels // word
            wire = self.matrix(wire, synapse_folds, out // pe, depthwise)
        return Stream(self.fifo(wire, f"{name}.out"), pe, *window.out, out)

    def threshold(self, at: Stream, op: Record, name: str) -> Stream:
        wire, channels, pe = at.wire, op["C"], op["PE"]
        if channels != at.channels or channels % pe:
            raise Unbuildable("channels or folding do not fit")
        if pe != at.word:
            wire = self.fifo(self.converter(wire, at.word, pe), f"{name}.in")
        values = {"N": op["N"], "WI": 16, "WT": 16, "C": channels, "PE": pe, "USE_AXILITE": 0}
        values["DEEP_PIPELINE"] = op["deep_pipeline"]
        wire = self.finn("thresholding_axi", wire, values, AXILITE)
        return Stream(self.fifo(wire, f"{name}.out"), pe, at.height, at.width, channels)

    def skip_conv(self, at: Stream, conv: Record) -> Stream:
        """The 1x1 convolution of a skip; `at` comes out of the skip's FIFO."""
        simd, pe = conv["SIMD"], conv["PE"]
        if conv["Cin"] != at.channels or conv["Cin"] % simd or conv["Cout"] % pe:
            raise Unbuildable("channels or folding do not fit")
        wire = self.converter(at.wire, at.word, simd)
        window = Window(at.height, at.width, at.channels, simd, 1, conv["s"], False, True)
        wire = self.fifo(self.window(wire, window), "skip_conv.swg")
        wire = self.matrix(wire, conv["Cin"] // simd, conv["Cout"] // pe, False)
        wire = self.converter(self.fifo(wire, "skip_conv.out"), pe, at.word)
        return Stream(wire, at.word, *window.out, conv["Cout"])

    def verilog(self, end: Stream) -> str:
        count = len(self.fifos)
        return "\n".join(
            [
                *(PLAIN, *self.modules),
                f"module top(input logic clk, rst_n, input logic [31:0] depth[{count}],",
                f"           output logic [31:0] peak[{count}], output logic ovld);",
                *("  wire v0 = 1'b1, r0;", *self.lines),
                f"  assign ovld = v{end.wire};",
                *(f"  assign r{end.wire} = 1'b1;", "endmodule", ""),
            ]
        )


def wired(library: Path, record: Record) -> tuple[Design, Stream]:
    """The design of a record, and the stream that reaches the sink."""
    design = Design(library)
    at = Stream(0, record["stream_elems"], record["H"], record["W"], record["C"])
    if at.channels % at.word:
        raise Unbuildable("stream_elems does not divide C")
    ops = record["ops"] if "ops" in record else record["convs"]
    chain = record.get("kind") == "chain"
    start = at
    if chain:
        at.wire = design.fifo(0, "in")
    else:
        skip = design.wire()
        branch = design.plain("plain_fork", 0, bvld=f"v{skip}", brdy=f"r{skip}")
        at = Stream(design.fifo(branch, "fork"), at.word, at.height, at.width, at.channels)
        skip = design.fifo(skip, "skip")
    for index, op in enumerate(ops):
        at = design.op(at, op, f"op{index}")
    if chain:
        return design, at
    wire = design.fifo(design.converter(at.wire, at.word, start.word), "join")
    at = Stream(wire, start.word, at.height, at.width, at.channels)
    other = Stream(skip, start.word, start.height, start.width, start.channels)
    if record.get("skip_conv"):
        other = design.skip_conv(other, record["skip_conv"])
    if (at.height, at.width, at.channels) != (other.height, other.width, other.channels):
        raise Unbuildable("two different maps meet at the join")
    if at.channels % at.word:
        raise Unbuildable("stream_elems does not divide the channels at the join")
    wire = design.plain("plain_join", at.wire, bvld=f"v{other.wire}", brdy=f"r{other.wire}")
    return design, Stream(wire, at.word, at.height, at.width, at.channels)


# ------------------------------------------------------------------ compiling and running


@dataclass(frozen=True)
class Run:
    """One simulation: cycles of each frame, and the peak of each FIFO."""

    frames: list[int]
    peaks: dict[str, int]

    @property
    def dead(self) -> bool:
        return len(self.frames) < FRAMES


class Simulation:
    """A record compiled by Verilator; the depths of its FIFOs are given with each run.

    `folder` is for this record's files; beside it, Verilator's own library is kept for the next.
    """

    def __init__(self, library: Path, record: Record, folder: Path) -> None:
        self.record = record
        self.design, self.end = wired(library, record)
        self.runs: dict[int, Run] = {}
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        (folder / "top.sv").write_text(self.design.verilog(self.end))
        (folder / "main.cpp").write_text(HARNESS)
        for source in SOURCES:
            text = (library / source).read_text()
            if source.endswith("/fmpadding.sv"):
                text = text.replace("typedef struct {", "typedef struct packed {")
            (folder / Path(source).name).write_text(text)
        files = [*(Path(source).name for source in SOURCES), "top.sv", "main.cpp"]
        warnings = ["-Wno-fatal", "-Wno-lint", "-Wno-style"]
        self.call(
            folder, "verilator", "--cc", "--exe", "-O3", *warnings, "--top-module", "top", *files
        )
        objects, kept = folder / "obj_dir", folder.parent / "verilated"
        if kept.exists():
            shutil.copytree(kept, objects, copy_function=shutil.copy, dirs_exist_ok=True)
        levels = ["OPT_FAST=-O1", "OPT_SLOW=-O0", "OPT_GLOBAL=-O1"]
        self.call(objects, "make", "-f", "Vtop.mk", *levels)
        if not kept.exists():
            kept.mkdir()
            for one in objects.glob("verilated*.o"):
                shutil.copy(one, kept)
        self.process = subprocess.Popen(
            objects / "Vtop", stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    @staticmethod
    def call(folder: Path, *command: str) -> None:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{command[0]} failed:\n{(done.stdout + done.stderr)[-3000:]}")

    def __enter__(self) -> Simulation:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.process.communicate()

    def depth_of(self, fifo: str, depth: int) -> int:
        if fifo == "skip" or self.record.get("kind") == "chain":
            return depth
        return UNLIMITED if fifo == "skip_conv.out" else int(self.record["main_fifo"])

    def run(self, depth: int) -> Run:
        """With that depth of the skip FIFO; in a chain, of every FIFO."""
        if depth in self.runs:
            return self.runs[depth]
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        depths = [self.depth_of(fifo, depth) for fifo in self.design.fifos]
        print(FRAMES, self.end.words, SILENCE, *depths, file=self.process.stdin, flush=True)
        line = next(line for line in self.process.stdout if line.startswith("RESULT"))
        count, *rest = map(int, line.split()[1:])
        ends = [0, *rest[:count]]
        frames = [end - start for start, end in pairwise(ends)]
        peaks = dict(zip(self.design.fifos, rest[count:], strict=True))
        return self.runs.setdefault(depth, Run(frames, peaks))


def row(simulation: Simulation, depth: int) -> Record:
    """A run, as it stands in a record."""
    run, record = simulation.run(depth), simulation.record
    chain = record.get("kind") == "chain"
    out: Record = {"fifo_depth" if chain else "skip_depth": depth}
    out["status"] = "DEAD" if run.dead else "ok"
    if not chain:
        out["max_occupancy"] = run.peaks["skip"]
    out["frame_cycles"] = run.frames
    if "kind" in record:
        out["fifo_max_occupancy"] = list(run.peaks.values())
    return out


def least(good: Callable[[int], bool], start: int) -> int:
    """The smallest depth that is good, where all above it are; `start` is about as much."""
    low, high = 0, max(1, start)
    while not good(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if good(middle) else (middle, high)
    return high


def measured(simulation: Simulation, rng: random.Random) -> Record:
    """The record with its results."""
    record, names = simulation.record, simulation.design.fifos
    free = simulation.run(UNLIMITED)
    if free.dead:
        raise Unbuildable("it is dead with FIFOs without limit")
    interval = free.frames[-1]
    if record.get("kind") == "chain":
        results: Record = {"out_words_per_frame": simulation.end.words, "II": interval}
        depths = [UNLIMITED, 2, 3, 4, 8, 32]
    else:
        occupancy = free.peaks["skip"]
        alive = least(lambda depth: not simulation.run(depth).dead, occupancy)
        minimum = least(lambda depth: simulation.run(depth).frames[2:] == [interval], occupancy)
        results = {"minimum": minimum, "deadlock_free": alive, "occupancy": occupancy}
        results["II"] = interval
        depths = [UNLIMITED, occupancy, minimum, minimum - 1, alive, alive - 1]
        depths += [rng.randint(1, occupancy), rng.randint(1, occupancy)]
        depths = list(dict.fromkeys(max(1, depth) for depth in depths))
    if "kind" in record:
        results["fifo_names"] = names
    return record | results | {"runs": [row(simulation, depth) for depth in depths]}


# ------------------------------------------------------------------ random records

CHANNELS = (2, 3, 4, 6, 8, 9, 12)
SAME = [(3, 1, 1)] * 6 + [(1, 1, 0)] * 3 + [(5, 1, 2)] * 2
"""Kernel, stride, padding of convolutions that keep the map."""
PAIRS = ([(2, 1, 1), (2, 1, 0)], [(3, 1, 0), (3, 1, 2)], [(5, 1, 1), (3, 1, 2)])
"""Two that keep it together."""
STRIDED = [(3, 2, 1)] * 4 + [(1, 2, 0)] * 3 + [(5, 2, 2)] * 2 + [(3, 3, 1)] * 2
STRIDED += [(5, 3, 2), (1, 3, 0)]
POOLS = [(2, 2, 0)] * 3 + [(3, 2, 0), (3, 3, 0), (4, 2, 1), (3, 1, 0), (2, 1, 0)]


def divisors(number: int) -> list[int]:
    return [one for one in range(1, number + 1) if number % one == 0]


def fitting(number: int, *words: int) -> list[int]:
    """Divisors of `number` that a width converter brings to each of `words`."""
    return [one for one in divisors(number) if all(not max(one, w) % min(one, w) for w in words)]


@dataclass
class Draw:
    """Draws a record, op by op; keeps the map, the word, and the cycles of the slowest kernel.

    `fold_skips`: whether the convolution of a skip may have other words than the fork.
    """

    rng: random.Random
    fold_skips: bool = False
    ops: list[Record] = field(default_factory=list)
    cycles: int = 0

    def __post_init__(self) -> None:
        self.height, self.width = self.rng.randint(4, 13), self.rng.randint(4, 13)
        self.channels = self.rng.choice(CHANNELS)
        self.word = self.rng.choice(divisors(self.channels))

    def one(self, options: Sequence[int]) -> int:
        if not options:
            raise Unbuildable("no folding fits")
        return self.rng.choice(options)

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def busy(self, *cycles: int) -> None:
        self.cycles = max(self.cycles, *cycles)

    def move(self, word: int, k: int, s: int, p: int, depthwise: bool, par: bool) -> None:
        size = (self.height + 2 * p, self.width + 2 * p)
        window = Window(*size, self.channels, word, k, s, depthwise, par or k == 1)
        fold = self.channels // word
        self.height, self.width = window.out
        self.busy(size[0] * size[1] * fold)
        if not window.parallel:
            self.busy(window.window + self.height * self.width * k * k * fold)

    def conv(self, shape: tuple[int, int, int], out: int, *meets: int, par: float = 0.3) -> None:
        """A convolution to `out` channels, whose words fit those it `meets`."""
        k, s, p = shape
        parallel = k > 1 and self.chance(par)
        options = [self.channels] if parallel else divisors(self.channels)
        simd = self.one([one for one in options if one in fitting(self.channels, self.word)])
        pe = self.one(fitting(out, *meets))
        op = {"op": "conv", "k": k, "s": s, "p": p, "Cin": self.channels, "Cout": out}
        self.ops.append(op | {"SIMD": simd, "PE": pe, "par": int(parallel)})
        synapse_folds = 1 if parallel else k * k * self.channels // simd
        self.move(simd, k, s, p, False, parallel)
        self.busy(self.height * self.width * synapse_folds * (out // pe))
        self.channels, self.word = out, pe

    def depthwise(self, shape: tuple[int, int, int]) -> None:
        k, s, p = shape
        parallel = self.chance(0.45)
        pe = self.one(fitting(self.channels, self.word))
        op: Record = {"op": "dw", "k": k, "s": s, "p": p, "C": self.channels, "PE": pe}
        op["par"] = int(parallel)
        simd = self.one([*divisors(k * k), k * k]) if parallel else 1
        if parallel and (simd < k * k or self.chance(0.5)):
            op["SIMD"] = simd
        self.ops.append(op)
        self.move(pe, k, s, p, True, parallel)
        self.busy(self.height * self.width * (self.channels // pe) * (k * k // simd))
        self.word = pe

    def threshold(self, *meets: int) -> None:
        options = fitting(self.channels, self.word, *meets)
        pe = self.word if self.word in options and self.chance(0.7) else self.one(options)
        op = {"op": "thr", "C": self.channels, "PE": pe, "N": self.rng.randint(1, 4)}
        self.ops.append(op | {"deep_pipeline": self.rng.randint(0, 1)})
        self.busy(self.height * self.width * self.channels // pe)
        self.word = pe

    def chain(self) -> None:
        for _ in range(self.rng.randint(1, 4)):
            if self.chance(0.45):
                self.depthwise(self.rng.choice(SAME[:6] + STRIDED[:4] + STRIDED[7:11] + POOLS))
            else:
                self.conv(self.rng.choice(SAME + STRIDED + POOLS), self.rng.choice(CHANNELS))
            if self.chance(0.35):
                self.threshold()

    def inverted_residual(self, out: int, strided: bool) -> None:
        word, thresholds = self.word, self.chance(0.4)
        shapes = [(3, 2, 1), (3, 3, 1), (5, 2, 2)] if strided else [(3, 1, 1), (5, 1, 2)]
        self.conv((1, 1, 0), self.channels * self.rng.choice((1, 1, 2, 3)))
        if thresholds:
            self.threshold()
        self.depthwise(self.rng.choice(shapes))
        if thresholds:
            self.threshold()
        self.conv((1, 1, 0), out, *([] if thresholds else [word]))
        if thresholds:
            self.threshold(word)

    def residual(self, out: int, strided: bool, thresholds: bool) -> None:
        word, count = self.word, self.rng.choice((1, 2, 2, 3, 3))
        shapes = [self.rng.choice(SAME) for _ in range(count)]
        if strided:
            shapes[self.rng.randrange(count)] = self.rng.choice(STRIDED)
        elif count > 1 and self.chance(0.15):
            shapes[:2] = self.rng.choice(PAIRS)
        for index, shape in enumerate(shapes):
            threshold = thresholds and (index == 0 or self.chance(0.7))
            meets = [word] if index == count - 1 else []
            channels = out if meets else self.rng.choice(CHANNELS)
            self.conv(shape, channels, *([] if threshold else meets))
            if threshold:
                self.threshold(*meets)

    def skip_conv(self, channels: int, word: int, size: int) -> Record:
        out, simd, pe = self.channels, word, word
        if self.fold_skips and (out % word or self.chance(0.5)):
            simd, pe = self.one(fitting(channels, word)), self.one(fitting(out, word))
        stride = math.prod(op["s"] for op in self.ops if op["op"] != "thr")
        folds = channels // simd
        self.busy(size * folds, self.height * self.width * folds * (out // pe))
        return {"Cin": channels, "Cout": out, "s": stride, "SIMD": simd, "PE": pe}

    def record(self, kind: str) -> Record:
        """A record of that kind without results; `Unbuildable` where the draw came to nothing."""
        height, width, channels, word = self.height, self.width, self.channels, self.word
        self.busy(height * width * channels // word)
        out: Record = {} if kind == "block" else {"kind": kind}
        out |= {"H": height, "W": width, "C": channels, "stream_elems": word}
        if kind == "chain":
            self.chain()
            return out | {"ops": self.ops}
        strided = self.chance(0.45)
        last = self.rng.choice(CHANNELS) if strided and self.chance(0.5) else channels
        if kind == "inverted_residual":
            self.inverted_residual(last, strided)
        else:
            self.residual(last, strided, kind == "residual_threshold")
        conv = self.skip_conv(channels, word, height * width) if strided else None
        out["main_fifo"] = self.rng.choice((2, 3, 4, 16, 32))
        if kind == "block":
            convs = [{key: op[key] for key in op if key != "op"} for op in self.ops]
            return out | {"skip_conv": conv, "convs": convs}
        return out | {"ops": self.ops, "skip_conv": conv}


def drawn(kind: str, rng: random.Random, library: Path, fold_skips: bool) -> Iterator[Record]:
    """Records without results that FINN can build, of a size that is simulated in seconds."""
    while True:
        draw = Draw(rng, fold_skips)
        try:
            record = draw.record(kind)
            wired(library, record)
        except Unbuildable:
            continue
        if 40 <= draw.cycles <= 0.65 * SLOWEST:
            yield record


# ------------------------------------------------------------------ command line


def generate(
    library: Path, out: Path, kinds: Sequence[str], count: int, seed: int, fold_skips: bool
) -> None:
    rng = random.Random(seed)
    print(f"{'#':>4}  {'kind':<20}{'II':>6}{'skip':>6}{'runs':>6}{'dead':>6}{'s':>6}")
    done = 0
    with tempfile.TemporaryDirectory() as scratch, out.open("a") as file:
        while done < count:
            kind = kinds[done % len(kinds)]
            begin, record = time.perf_counter(), next(drawn(kind, rng, library, fold_skips))
            try:
                with Simulation(library, record, Path(scratch) / "record") as simulation:
                    record = measured(simulation, rng)
            except Unbuildable as reason:
                print(f"left out, {reason}: {json.dumps(record)}")
                continue
            if record["II"] > SLOWEST:
                continue
            done += 1
            print(json.dumps(record), file=file, flush=True)
            dead = sum(run["status"] == "DEAD" for run in record["runs"])
            seconds = time.perf_counter() - begin
            print(
                f"{done:>4}  {kind:<20}{record['II']:>6}{record.get('minimum', '-'):>6}"
                f"{len(record['runs']):>6}{dead:>6}{seconds:>6.1f}",
                flush=True,
            )


def check(library: Path, path: Path, count: int) -> None:
    """Simulates the runs of records that exist."""
    lines = path.read_text().splitlines()[:count]
    exact = runs = 0
    with tempfile.TemporaryDirectory() as scratch:
        for number, line in enumerate(lines, 1):
            record = json.loads(line)
            with Simulation(library, record, Path(scratch) / "record") as simulation:
                name = "fifo_depth" if record.get("kind") == "chain" else "skip_depth"
                wrong = [run for run in record["runs"] if row(simulation, run[name]) != run]
                names = simulation.design.fifos
            if record.get("fifo_names", names) != names:
                print(f"record {number}: FIFOs {names}")
            elif not wrong:
                exact += 1
            for run in wrong:
                print(f"record {number}: {name} {run[name]} differs")
            runs += len(record["runs"])
    print(f"exact {exact} of {len(lines)} records ({runs} runs)")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--finn", type=Path, help="checkout of Xilinx/finn")
    parser.add_argument("--out", type=Path, help="file to append records to (JSON lines)")
    parser.add_argument("--check", type=Path, help="file of records to simulate again")
    parser.add_argument("--kind", choices=(*KINDS, "all"), default="all")
    parser.add_argument("--count", type=int, help="records to make (20) or to check (all)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--fold-skips", action="store_true", help="skip convolutions with words of their own"
    )
    arguments = parser.parse_args()
    if not (arguments.out or arguments.check):
        parser.error("give --out FILE to make records or --check FILE to simulate some again")
    if arguments.finn is None:
        print("FINN's RTL is missing: name a checkout of Xilinx/finn with --finn PATH.")
        return 0
    library = arguments.finn / "finn-rtllib"
    absent = [source for source in SOURCES if not (library / source).exists()]
    if absent:
        print(f"FINN's RTL is missing: {arguments.finn} holds no finn-rtllib/{absent[0]}.")
        return 0
    if any(shutil.which(tool) is None for tool in ("verilator", "make", "g++")):
        print("Verilator is missing: install it with `apt-get install verilator make g++`.")
        return 0
    if arguments.check:
        check(library, arguments.check, arguments.count or sys.maxsize)
    else:
        kinds = KINDS if arguments.kind == "all" else (arguments.kind,)
        count, seed = arguments.count or 20, arguments.seed
        generate(library, arguments.out, kinds, count, seed, arguments.fold_skips)
    return 0


if __name__ == "__main__":
    sys.exit(main())
