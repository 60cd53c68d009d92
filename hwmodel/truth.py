"""Checks the simulator against records of RTL simulations.

    python -m hwmodel.truth FILE.jsonl ...

A record is a small network that was simulated from FINN's own RTL: a residual block
(`convs`, optionally `skip_conv`), an `inverted_residual`, a `residual_threshold` or a `chain`, with
the frame times, the peak occupancies and the deadlock verdict for several FIFO depths. The wiring
is that of the records: fork -> FIFO -> for each operation [width converter] -> FIFO -> [padding ->
FIFO] -> [window -> FIFO] -> multiply -> FIFO; -> [width converter] -> FIFO -> join.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphopt.errors import GraphoptError
from hwmodel.datatypes import integer
from hwmodel.design import Builder, Design
from hwmodel.kernels import (
    Fork,
    Join,
    Kernel,
    MatrixVector,
    Padding,
    Threshold,
    VectorVector,
    WidthConverter,
    Window,
)
from hwmodel.kernels.kernel import Port
from hwmodel.simulate import UNLIMITED, Network

_ELEMENT = integer(2, signed=False)
"""Elements of the recorded designs are 2 bits wide; flow control does not depend on it."""
_NO_LIMIT = 100_000_000
"""How the records write an unlimited depth."""

_PATIENCE_OF_BLOCKS, _PATIENCE_OF_KINDS = 2_000_000, 200_000
"""Cycles without an output word after which the recorded simulations gave up."""

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Wired:
    """A recorded network.

    Attributes:
        design: the kernels and FIFOs.
        fifos: the streams that the records name, by the name there, in order.
    """

    design: Design
    fifos: dict[str, str]


def wired(record: Record, *, counter_wraps: bool = True) -> Wired:
    """The design of a record, all FIFO depths set but those that the runs vary.

    Args:
        record: the record.
        counter_wraps: as the RTL that was recorded; see `Window.counter_too_narrow`.
    """
    return _Wiring(record, counter_wraps).build()


class _Wiring:
    """The wiring of the records, followed word for word."""

    def __init__(self, record: Record, counter_wraps: bool) -> None:
        self.record = record
        self.wraps = counter_wraps
        self.chain = record.get("kind") == "chain"
        self.depth = None if self.chain else record["main_fifo"]
        self.builder = Builder()
        self.fifos: dict[str, str] = {}
        self.height, self.width = record["H"], record["W"]
        self.channels = record["C"]

    def build(self) -> Wired:
        record, builder = self.record, self.builder
        elements = self.height * self.width * self.channels
        word = record["stream_elems"]
        port = Port(_ELEMENT, word, elements // word)
        operations = record["ops"] if "ops" in record else record["convs"]
        if self.chain:
            (stream,) = [builder.source("in", port)]
            self._named("in", stream)
            for index, operation in enumerate(operations):
                stream = self._operation(index, operation, stream)
            return Wired(builder.design(), self.fifos)
        source = builder.source("source", port, depth=0)
        fork = Fork(name="fork", elements=elements, pe=word, element=_ELEMENT)
        stream, skip = builder.add(fork, [source], ["fork", "skip"], depths=[self.depth, None])
        self._named("fork", stream)
        self._named("skip", skip)
        shape = self.height, self.width, self.channels
        for index, operation in enumerate(operations):
            stream = self._operation(index, operation, stream)
        stream = self._converted(stream, word, "join")
        if record.get("skip_conv"):
            self.height, self.width, self.channels = shape
            skip = self._skip_conv(record["skip_conv"], skip)
        elements = builder.port(stream).words * word
        join = Join(
            name="join.add",
            elements=elements,
            pe=word,
            operands=(_ELEMENT, _ELEMENT),
            output=_ELEMENT,
        )
        builder.add(join, [stream, skip], ["out"], depths=[0])
        return Wired(builder.design(), self.fifos)

    def _named(self, name: str, stream: str) -> str:
        self.fifos[name] = stream
        return stream

    def _add(self, kernel: Kernel, stream: str, name: str, depth: int | None) -> str:
        (opened,) = self.builder.add(kernel, [stream], [name], depths=[depth])
        return opened

    def _converted(self, stream: str, word: int, name: str) -> str:
        """A width converter, or a wire where the words are the same, and the FIFO behind it."""
        port = self.builder.port(stream)
        converter = WidthConverter(
            name=f"{name}.dwc",
            elements=port.elements * port.words,
            into=port.elements,
            out_of=word,
            element=_ELEMENT,
        )
        return self._named(name, self._add(converter, stream, name, self.depth))

    def _operation(self, index: int, operation: Record, stream: str) -> str:
        name = f"op{index}"
        if operation.get("op") == "thr":
            return self._threshold(name, operation, stream)
        if operation.get("op") == "dw":
            return self._depthwise(name, operation, stream)
        return self._conv(name, operation, stream)

    def _conv(self, name: str, conv: Record, stream: str) -> str:
        channels, parallel = conv["Cin"], bool(conv["par"])
        taps = conv["k"] ** 2
        word = channels if parallel else min(conv["SIMD"], channels)
        stream = self._converted(stream, word, f"{name}.in")
        if (conv["k"], conv["s"]) != (1, 1):
            stream = self._window(name, conv, channels, word, parallel, False, stream)
        simd = taps * channels if parallel else conv["SIMD"]
        multiply = MatrixVector(
            name=f"{name}.mvu",
            mw=taps * channels,
            mh=conv["Cout"],
            vectors=self.height * self.width,
            simd=simd,
            pe=conv["PE"],
            input=_ELEMENT,
            weight=_ELEMENT,
            accumulator=_ELEMENT,
            output=_ELEMENT,
            backend="rtl",
        )
        self.channels = conv["Cout"]
        return self._named(f"{name}.out", self._add(multiply, stream, f"{name}.out", self.depth))

    def _window(
        self,
        name: str,
        conv: Record,
        channels: int,
        word: int,
        parallel: bool,
        depthwise: bool,
        stream: str,
    ) -> str:
        """[padding -> FIFO] -> window -> FIFO; sets the size of the map behind it."""
        if pad := conv["p"]:
            padding = Padding(
                name=f"{name}.padding",
                height=self.height,
                width=self.width,
                channels=channels,
                pads=(pad, pad, pad, pad),
                element=_ELEMENT,
                simd=word,
            )
            stream = self._named(
                f"{name}.pad", self._add(padding, stream, f"{name}.pad", self.depth)
            )
        window = Window(
            name=f"{name}.window",
            height=self.height + 2 * pad,
            width=self.width + 2 * pad,
            channels=channels,
            kernel=(conv["k"], conv["k"]),
            stride=(conv["s"], conv["s"]),
            element=_ELEMENT,
            simd=word,
            depthwise=depthwise,
            parallel=parallel,
            counter_wraps=self.wraps,
        )
        self.height, self.width = window.out_height, window.out_width
        return self._named(f"{name}.swg", self._add(window, stream, f"{name}.swg", self.depth))

    def _depthwise(self, name: str, conv: Record, stream: str) -> str:
        channels, parallel = conv["C"], bool(conv["par"])
        taps = conv["k"] ** 2
        simd = conv.get("SIMD", taps) if parallel else 1
        stream = self._converted(stream, conv["PE"], f"{name}.in")
        stream = self._window(name, conv, channels, conv["PE"], parallel, True, stream)
        if parallel and simd < taps:
            stream = self._converted(stream, conv["PE"] * simd, f"{name}.win")
        multiply = VectorVector(
            name=f"{name}.vvu",
            channels=channels,
            kernel=(conv["k"], conv["k"]),
            vectors=self.height * self.width,
            pe=conv["PE"],
            simd=simd,
            input=_ELEMENT,
            weight=_ELEMENT,
            accumulator=_ELEMENT,
            output=_ELEMENT,
            backend="rtl",
        )
        self.channels = channels
        return self._named(f"{name}.out", self._add(multiply, stream, f"{name}.out", self.depth))

    def _threshold(self, name: str, threshold: Record, stream: str) -> str:
        if self.builder.port(stream).elements != threshold["PE"]:
            stream = self._converted(stream, threshold["PE"], f"{name}.in")
        kernel = Threshold(
            name=f"{name}.thr",
            channels=threshold["C"],
            vectors=self.height * self.width,
            pe=threshold["PE"],
            input=_ELEMENT,
            threshold=_ELEMENT,
            output=_ELEMENT,
            steps=2 ** threshold["N"] - 1,
            bits=threshold["N"],
            deep_pipeline=bool(threshold["deep_pipeline"]),
        )
        return self._named(f"{name}.out", self._add(kernel, stream, f"{name}.out", self.depth))

    def _skip_conv(self, conv: Record, stream: str) -> str:
        """Window (k = 1) -> FIFO -> MVU -> a FIFO that never fills."""
        window = Window(
            name="skip.window",
            height=self.height,
            width=self.width,
            channels=conv["Cin"],
            kernel=(1, 1),
            stride=(conv["s"], conv["s"]),
            element=_ELEMENT,
            simd=conv["SIMD"],
        )
        stream = self._add(window, stream, "skip.swg", self.depth)
        self._named("skip_conv.swg", stream)
        multiply = MatrixVector(
            name="skip.mvu",
            mw=conv["Cin"],
            mh=conv["Cout"],
            vectors=window.out_height * window.out_width,
            simd=conv["SIMD"],
            pe=conv["PE"],
            input=_ELEMENT,
            weight=_ELEMENT,
            accumulator=_ELEMENT,
            output=_ELEMENT,
            backend="rtl",
        )
        stream = self._add(multiply, stream, "skip.out", UNLIMITED)
        return self._named("skip_conv.out", stream)


def check(record: Record) -> list[str]:
    """What the simulator gets wrong of a record; empty where every run is exact.

    A record does not say whether its depthwise windows had the counter that wraps. One that is
    dead at every depth, unlimited ones too, is taken to be of the generator that hangs; what the
    same record holds of runs with a widened counter (`widened_register_runs`) is checked as such.
    """
    hangs = all(run["status"] == "DEAD" for run in record["runs"])
    differences = _check(record, record["runs"], counter_wraps=hangs)
    return differences + _check(
        record, record.get("widened_register_runs", ()), counter_wraps=False
    )


def _check(record: Record, runs: Sequence[Record], *, counter_wraps: bool) -> list[str]:
    wiring = wired(record, counter_wraps=counter_wraps)
    network = Network(wiring.design)
    order = [stream.name for stream in wiring.design.streams]
    patience = _PATIENCE_OF_KINDS if "kind" in record else _PATIENCE_OF_BLOCKS
    differences = []
    for run in runs:
        label, depths = _depths(wiring, order, network, run)
        seen = network.run(depths, frames=3, limit=1 << 40, patience=patience)
        expected: dict[str, Any] = {
            "status": run["status"],
            "frame_cycles": list(run["frame_cycles"]),
        }
        found: dict[str, Any] = {
            "status": "ok" if seen.status == "ok" else "DEAD",
            "frame_cycles": list(seen.frame_cycles),
        }
        if "max_occupancy" in run:
            expected["max_occupancy"] = run["max_occupancy"]
            found["max_occupancy"] = seen.streams[wiring.fifos["skip"]].peak
        if "fifo_max_occupancy" in run:
            expected["fifo_max_occupancy"] = list(run["fifo_max_occupancy"])
            names = record.get("fifo_names", list(wiring.fifos))
            found["fifo_max_occupancy"] = [seen.streams[wiring.fifos[n]].peak for n in names]
        differences += [
            f"{label}: {key} {found[key]} instead of {expected[key]}"
            for key in expected
            if found[key] != expected[key]
        ]
    return differences


def _depths(wiring: Wired, order: Sequence[str], network: Network, run: Record) -> tuple[str, Any]:
    depths = network.depths()
    if "skip_depth" in run:
        value = run["skip_depth"]
        depths[order.index(wiring.fifos["skip"])] = UNLIMITED if value == _NO_LIMIT else value
        return f"skip depth {value}", depths
    value = run["fifo_depth"]
    for stream in wiring.fifos.values():
        depths[order.index(stream)] = UNLIMITED if value == _NO_LIMIT else value
    return f"FIFO depth {value}", depths


def records(path: Path) -> Iterator[Record]:
    """The records of a file, one JSON object a line.

    Raises:
        GraphoptError: the file cannot be read, or a line is no record.
    """
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise GraphoptError(f"{path} cannot be read: {error.strerror}.") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise GraphoptError(f"{path}, line {number}: no JSON ({error.msg}).") from None
        if not isinstance(record, dict) or "runs" not in record:
            raise GraphoptError(f"{path}, line {number}: no record of a simulation.")
        yield record


def main(arguments: Sequence[str] | None = None) -> int:
    """Checks files; prints `exact N of M` records for each; 0 where all are."""
    paths = list(sys.argv[1:] if arguments is None else arguments)
    if not paths or any(path.startswith("-") for path in paths):
        print("usage: python -m hwmodel.truth FILE.jsonl ...", file=sys.stderr)
        return 2
    wrong = 0
    for path in paths:
        try:
            everything = list(records(Path(path)))
            exact = 0
            for number, record in enumerate(everything, 1):
                differences = check(record)
                exact += not differences
                for difference in differences:
                    print(f"{path}, record {number}: {difference}", file=sys.stderr)
        except (GraphoptError, KeyError) as error:
            missing = f"a record has no field {error}." if isinstance(error, KeyError) else error
            print(f"error: {missing}", file=sys.stderr)
            return 2
        print(f"{path}: exact {exact} of {len(everything)}")
        wrong += len(everything) - exact
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
