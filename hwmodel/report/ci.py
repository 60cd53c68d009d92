"""The formats that machines read."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

from graphopt.cli.console import to_json
from hwmodel.budget import Finding
from hwmodel.estimates import Estimate
from hwmodel.report.printable import printable

SARIF = "https://json.schemastore.org/sarif-2.1.0.json"


_UNSEEN = re.compile("[\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""What JSON lets through as it is, and a terminal or an editor would obey."""


def json_text(estimate: Estimate, findings: Sequence[Finding], model_path: Path) -> str:
    """Everything, as one JSON object; the order of the keys and of the parts is fixed."""
    listed = [asdict(finding) | {"quantity": finding.quantity} for finding in findings]
    text = to_json({"model": str(model_path)} | estimate.to_json() | {"findings": listed})
    return _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _xml(text: str) -> str:
    """Without control characters, most of which XML 1.0 cannot hold, but with its line breaks."""
    return "\n".join(map(printable, re.split("\r\n?|\n", text)))


def junit(estimate: Estimate, findings: Sequence[Finding], model_path: Path) -> str:
    """A test suite with a case for each limit."""
    broken = [finding for finding in findings if finding.level != "ok"]
    name = _xml(f"graphopt cost {model_path} {estimate.target}")
    suite = ElementTree.Element(
        "testsuite",
        name=name,
        tests=str(len(findings)),
        failures=str(len(broken)),
        errors="0",
        skipped="0",
        time="0",
    )
    for finding in findings:
        label = finding.rule + (f"[{finding.where}]" if finding.where else "")
        case = ElementTree.SubElement(
            suite, "testcase", classname="graphopt.budget", name=_xml(label), time="0"
        )
        if finding.level != "ok":
            failure = ElementTree.SubElement(
                case, "failure", message=_xml(finding.message), type=finding.level
            )
            failure.text = _xml(finding.message)
    whole = ElementTree.Element(
        "testsuites", tests=str(len(findings)), failures=str(len(broken)), errors="0", time="0"
    )
    whole.append(suite)
    ElementTree.indent(whole)
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n'
        + ElementTree.tostring(whole, encoding="unicode")
        + "\n"
    )


def sarif(estimate: Estimate, findings: Sequence[Finding], model_path: Path) -> str:
    """SARIF 2.1.0: a rule for each kind of limit, a result for each that is broken.

    Each model is a category of its own, so that the results of one do not close those of another.
    """
    rules = sorted({finding.rule for finding in findings})
    results = [
        {
            "ruleId": finding.rule,
            "ruleIndex": rules.index(finding.rule),
            "level": "error",
            "message": {"text": _sarif_text(finding.message)},
            "locations": [_location(model_path, finding.where)],
        }
        for finding in findings
        if finding.level != "ok"
    ]
    log: dict[str, Any] = {
        "$schema": SARIF,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "graphopt",
                        "version": _version(),
                        "rules": [
                            {"id": rule, "shortDescription": {"text": f"budget: {rule}"}}
                            for rule in rules
                        ],
                    }
                },
                "automationDetails": {"id": f"graphopt-cost/{_uri(model_path)}/"},
                "results": results,
                "properties": {"target": estimate.target, "fps": estimate.fps},
            }
        ],
    }
    return json.dumps(log, indent=2) + "\n"


def _location(model_path: Path, where: str) -> dict[str, Any]:
    place: dict[str, Any] = {
        "physicalLocation": {
            "artifactLocation": {"uri": _uri(model_path)},
            "region": {"startLine": 1},
        }
    }
    if where:
        place["logicalLocations"] = [{"fullyQualifiedName": where}]
    return place


def _sarif_text(text: str) -> str:
    """With the brackets escaped that would make a link of a name."""
    return re.sub(r"([\\\[\]])", r"\\\1", printable(text))


def _uri(path: Path) -> str:
    escaped = quote(path.as_posix(), errors="surrogateescape")
    return f"file://{escaped}" if path.is_absolute() else escaped


def _version() -> str:
    try:
        return version("graphopt")
    except PackageNotFoundError:
        return "0"


def github(estimate: Estimate, findings: Sequence[Finding], model_path: Path) -> str:
    """Workflow commands: a notice with the totals, an annotation for each limit that is broken.

    Limits that are kept are plain lines of the log.
    """
    used = estimate.resources
    lines = [
        _command(
            "notice",
            model_path,
            f"graphopt cost, {estimate.target}",
            f"{estimate.fps:,.6g} fps, LUT {used.lut:,.0f}, FF {used.ff:,.0f}, "
            f"BRAM18 {used.bram18:,.0f}, URAM {used.uram:,.0f}, DSP {used.dsp:,.0f}, "
            f"FIFO bits {estimate.fifo_bits:,}",
        )
    ]
    lines += [
        f"ok {finding.rule}: {printable(finding.message)}".replace("##[", "##(")
        if finding.level == "ok"
        else _command("error", model_path, f"budget {finding.rule}", finding.message)
        for finding in findings
    ]
    lines += [
        _command("warning", model_path, "graphopt cost", warning) for warning in estimate.warnings
    ]
    return "\n".join(lines) + "\n"


def _command(kind: str, path: Path, title: str, message: str) -> str:
    """One workflow command; GitHub's own escapes keep a name from starting another."""
    return f"::{kind} file={_property(str(path))},title={_property(title)}::{_data(message)}"


def _data(text: str) -> str:
    escaped = text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    return printable(escaped)


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
