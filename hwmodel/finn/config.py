"""FINN's JSON files: the folding of kernels, and the depths of FIFOs in two dialects.

Folding: `{"Defaults": {}, "MVAU_rtl_0": {"PE": 4, "SIMD": 9, "ram_style": "auto"}}`, as
ApplyConfig reads it. FIFOs: finn-plus reads `{"fifo_depths": {"StreamingFIFO_rtl_0": 2},
"impl_style": {...}, "ram_style": {...}}` (ApplyFIFODepthsFromFile); Xilinx/finn has entries
`"StreamingFIFO_rtl_0": {"depth": 2, "impl_style": "rtl", "ram_style": "auto"}` among those of the
folding, and both have lists `inFIFODepths` and `outFIFODepths` for each kernel.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from math import ceil
from pathlib import Path
from typing import TypeAlias

from graphopt.errors import GraphoptError
from hwmodel import kernels as k
from hwmodel.design import Design, Stream
from hwmodel.finn.attributes import Dialect, attributes, op_type, with_attributes
from hwmodel.finn.graph import with_converters, without_converters
from hwmodel.finn.names import FIFO_NAME, Names, finn_names, is_converter

Folding: TypeAlias = Mapping[str, Mapping[str, object]]
"""For each kernel its attributes, under FINN's names."""

Json: TypeAlias = Mapping[str, object] | str | os.PathLike[str]
"""The contents of a JSON file, or its path."""

SHALLOW = 2
"""Words of the FIFO that FINN puts where nothing else is said."""

LARGEST_SHIFT_REGISTER = 256
"""Depth up to which Xilinx/finn builds a FIFO as "rtl", a shift register; deeper ones are AMD's
FIFO ("vivado")."""

_CONVERTER_NAME = re.compile(r"StreamingDataWidthConverter(_rtl|_hls)?_(\d+)")


# ---- reading


def read_folding(source: Json) -> Folding:
    """A folding JSON.

    Raises:
        GraphoptError: the file cannot be read, or is no folding.
    """
    content, label = _loaded(source)
    if "fifo_depths" in content:
        raise GraphoptError(f"{label} is a FIFO configuration, not a folding: use read_fifos.")
    folding: dict[str, Mapping[str, object]] = {}
    for name, values in content.items():
        if not isinstance(values, Mapping):
            raise GraphoptError(
                f"{label}: the entry '{name}' must be an object such as {{\"PE\": 4}}."
            )
        folding[str(name)] = {str(key): value for key, value in values.items()}
    return folding


def apply(design: Design, folding: Folding | Json, *, strict: bool = True) -> Design:
    """The design with this folding: kernels folded anew, width converters put in where they are
    needed now, FIFO depths as far as the folding gives them.

    A stream takes the depth of its StreamingFIFO entry, else the larger one of `outFIFODepths` of
    its source and `inFIFODepths` of its sink, as FINN does. Without either it keeps its depth if
    its word stays the same.

    Args:
        design: what to fold.
        folding: attributes by FINN's name of the kernel or by its own; "Defaults" as FINN has
            them: `{"PE": [4, ["MVAU_hls"]]}`, or "all" for every kernel.
        strict: whether entries for kernels that the design does not have are an error. FINN leaves
            them out with a warning.

    Raises:
        GraphoptError: a kernel that the design doesn't have, or an attribute that doesn't fit.
    """
    entries = dict(read_folding(folding))
    defaults = entries.pop("Defaults", {})
    names = finn_names(design)
    own = {finn: name for name, finn in names.kernels.items()}
    own |= {kernel.name: kernel.name for kernel in design.kernels}
    inserted = {
        name: values
        for name, values in entries.items()
        if FIFO_NAME.fullmatch(name) or _CONVERTER_NAME.fullmatch(name)
    }
    values: dict[str, Mapping[str, object]] = {}
    for name, entry in entries.items():
        if name in own:
            values[own[name]] = entry
        elif strict and name not in inserted:
            known = ", ".join(sorted(set(names.kernels.values()))[:5])
            raise GraphoptError(
                f"the folding has an entry '{name}', but the design has no such kernel (it has "
                f"{known} ...)."
            )
    kernels, connections = without_converters(design)
    folded = []
    for kernel in kernels:
        attributes_ = {**_defaults(defaults, kernel), **values.get(kernel.name, {})}
        folded.append(with_attributes(kernel, attributes_))
    remade = with_converters(folded, connections, design.layers)
    old = {(s.source, s.sink): s for s in design.streams}
    depths: dict[str, int | None] = {}
    for stream in remade.streams:
        before = old.get((stream.source, stream.sink))
        same = before is not None and before.elements == stream.elements
        depths[stream.name] = before.depth if before is not None and same else None
    for stream in remade.streams:
        lists = _from_lists(stream, {**inserted, **values})
        if lists is not None:
            depths[stream.name] = lists
    depths |= _from_entries(inserted, finn_names(remade), strict)
    return remade.with_depths(depths)


def _defaults(defaults: Mapping[str, object], kernel: k.Kernel) -> dict[str, object]:
    """The defaults that concern a kernel."""
    found: dict[str, object] = {}
    for attribute, rule in defaults.items():
        if not isinstance(rule, list | tuple) or len(rule) % 2:
            raise GraphoptError(
                f"Defaults: '{attribute}' must be a list of a value and operators, such as "
                '[4, ["MVAU_hls"]].'
            )
        for value, operators in zip(rule[::2], rule[1::2], strict=True):
            if operators == "all" or (
                isinstance(operators, list | tuple)
                and ("all" in operators or op_type(kernel) in operators)
            ):
                found[attribute] = value
    return found


def _from_lists(stream: Stream, values: Folding) -> int | None:
    """The depth that the lists of the two kernels at a stream give."""
    found = []
    for end, key in ((stream.source, "outFIFODepths"), (stream.sink, "inFIFODepths")):
        depths = values.get(end.kernel, {}).get(key) if end is not None else None
        if end is None or depths is None:
            continue
        if not isinstance(depths, list | tuple) or not depths:
            raise GraphoptError(f"{end.kernel}: {key} must be a list of depths.")
        depth = depths[min(end.port, len(depths) - 1)]
        found.append(_depth(f"{end.kernel}: {key}", depth))
    return max(found, default=None)


def _from_entries(entries: Folding, names: Names, strict: bool) -> dict[str, int | None]:
    """The depths of StreamingFIFO entries."""
    number = {finn.rpartition("_")[2]: stream for stream, finn in names.fifos.items()}
    depths: dict[str, int | None] = {}
    for name, entry in entries.items():
        match = FIFO_NAME.fullmatch(name)
        if match is None or "depth" not in entry:
            continue
        if match.group(2) not in number:
            if strict:
                raise GraphoptError(
                    f"'{name}' is not among the {len(number)} FIFOs of the design: the folding "
                    "belongs to another network."
                )
            continue
        depths[number[match.group(2)]] = _depth(name, entry["depth"])
    return depths


def _depth(label: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise GraphoptError(f"{label}: the depth is {value!r}, but must be a whole number.")
    return value


def read_fifos(design: Design, source: Json) -> Design:
    """The design with the FIFO depths of a FIFO JSON, in either dialect.

    Raises:
        GraphoptError: the file cannot be read, or does not name every FIFO of the design.
    """
    content, label = _loaded(source)
    names = finn_names(design)
    table = content.get("fifo_depths")
    if table is None:
        given: Mapping[object, object] = {
            name: entry["depth"]
            for name, entry in content.items()
            if FIFO_NAME.fullmatch(name) and isinstance(entry, Mapping) and "depth" in entry
        }
    elif isinstance(table, Mapping):
        given = table
    else:
        raise GraphoptError(f"{label}: fifo_depths must be an object of names and depths.")
    missing = [finn for finn in names.fifos.values() if finn not in given]
    if missing:
        raise GraphoptError(
            f"{label} has no depth for {missing[0]}; the design has {len(names.fifos)} FIFOs, the "
            f"file {len(given)}: every FIFO must be named."
        )
    return design.with_depths(
        {stream: _depth(f"{label}: {finn}", given[finn]) for stream, finn in names.fifos.items()}
    )


def _loaded(source: Json) -> tuple[Mapping[str, object], str]:
    """The contents of a JSON file, and how messages call it."""
    if isinstance(source, Mapping):
        return source, "the configuration"
    path = Path(source)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise GraphoptError(f"{path} does not exist: check the path.") from None
    except OSError as error:
        raise GraphoptError(f"{path} cannot be read ({error.strerror}): check the path.") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise GraphoptError(f"{path} is no JSON file ({error}): check that it is whole.") from None
    if not isinstance(content, dict):
        raise GraphoptError(f"{path} must hold a JSON object of names and attributes.")
    return content, str(path)


# ---- writing


def folding_json(
    design: Design, *, dialect: Dialect = "finn-plus", fifo_depths: bool = False
) -> dict[str, dict[str, object]]:
    """The folding of a design, for FINN's `folding_config_file`.

    Args:
        design: the design. Width converters are left out: FINN puts them in itself.
        dialect: the FINN that reads it; names of operators differ.
        fifo_depths: also the lists inFIFODepths and outFIFODepths of every kernel. FINN puts a
            width converter's FIFOs to the depth at its kernel and to 2 on its other side.
    """
    names = finn_names(design, dialect)
    folding: dict[str, dict[str, object]] = {"Defaults": {}}
    for kernel in design.kernels:
        if is_converter(kernel):
            continue
        entry: dict[str, object] = dict(attributes(kernel))
        if fifo_depths:
            into = [s for s in design.streams if s.sink and s.sink.kernel == kernel.name]
            out = [s for s in design.streams if s.source and s.source.kernel == kernel.name]
            into.sort(key=lambda stream: stream.sink.port if stream.sink else 0)
            out.sort(key=lambda stream: stream.source.port if stream.source else 0)
            entry["inFIFODepths"] = [_words(stream) for stream in into]
            entry["outFIFODepths"] = [_words(stream) for stream in out]
        folding[names.kernels[kernel.name]] = entry
    return folding


def fifo_json(
    design: Design,
    dialect: Dialect = "finn-plus",
    *,
    ram_styles: Mapping[str, str] | None = None,
) -> dict[str, object]:
    """The FIFOs of a design: for finn-plus a `fifo_config_file`; for Xilinx/finn entries that go
    into the folding JSON beside those of `folding_json`.

    Args:
        design: the design; a FIFO without depth has 2 words.
        dialect: the FINN that reads it.
        ram_styles: for streams by name, what holds the FIFO; "auto" where absent.
    """
    names = finn_names(design, dialect)
    styles = {finn: (ram_styles or {}).get(stream, "auto") for stream, finn in names.fifos.items()}
    depths = {finn: _words(design.stream[stream]) for stream, finn in names.fifos.items()}
    if dialect == "finn":
        return {
            "Defaults": {},
            **{
                finn: {
                    "ram_style": styles[finn],
                    "depth": depth,
                    "impl_style": "rtl" if depth <= LARGEST_SHIFT_REGISTER else "vivado",
                    "inFIFODepths": [0],
                    "outFIFODepths": [0],
                }
                for finn, depth in depths.items()
            },
        }
    bits = {finn: design.stream[stream].bits for stream, finn in names.fifos.items()}
    sizes = {finn: bits[finn] * depth for finn, depth in depths.items()}
    effective = {finn: bits[finn] * ceil(depth / 32) * 32 for finn, depth in depths.items()}
    return {
        "fifo_depths": depths,
        "fifo_sizes": sizes,
        "fifo_sizes_effective": effective,
        "impl_style": dict.fromkeys(depths, "rtl"),
        "ram_style": styles,
        "total_fifo_size_kiB": sum(sizes.values()) / 8 / 1024,
        "total_fifo_size_effective_kiB": sum(effective.values()) / 8 / 1024,
    }


def _words(stream: Stream) -> int:
    """The depth that FINN gets: at least 2."""
    return SHALLOW if stream.depth is None else max(SHALLOW, stream.depth)
