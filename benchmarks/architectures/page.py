"""Write docs/models/architectures.md from benchmarks/architectures/results.json; with --check, only report whether it is up to date."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.architectures.instances import INSTANCES, ONE_SIZE

HERE = Path(__file__).resolve().parent
PAGE = HERE.parents[1] / "docs" / "models" / "architectures.md"

_HEAD = """\
<!-- made by benchmarks/architectures/page.py from benchmarks/architectures/results.json; run benchmarks/architectures/run.py instead of editing -->
# Architectures

Every architecture that spandrel 0.4.2 loads, tried from checkpoint to picture by `benchmarks/architectures/run.py`: one small instance each, with random
weights. torch 2.14.1, ONNX Runtime 1.32, OpenVINO 2026.4, TensorRT for RTX 1.7, on a processor (AMD EPYC, 2 threads); nothing here ran on a GPU.

- *sizes*: any, multiples, or the one size the file takes; *1 a call* where the number of pictures is fixed.
- *halo*: in pixels; *global*: the net sees the whole picture, or no tile equals the whole.
- *parity*: largest difference from torch in ONNX Runtime, as a share of full scale, over crops of at least five sizes.
- *ORT*, *OpenVINO*: largest difference of sr-deploy's picture from torch's in 8-bit steps, beyond rounding. *tiles*: that of tiles from the whole.
- *fp16*, *bf16*, *int8*: PSNR in dB between the converted file's picture and torch's. Random weights are not trained ones: this tells
  whether the conversion works, not what it costs.
- *RTX*: TensorRT for RTX parsed and built it.
- *seconds*: for the export with all its tries, measured while the machine did other work.
"""


_LONGEST_ASIDE, _LONGEST_REASON = 60, 180
"""Characters of a remark in brackets, and of a reason, that are shown."""


def page() -> str:
    """Return the text of the page."""
    results: dict[str, Any] = json.loads((HERE / "results.json").read_text(encoding="utf-8"))
    rows = {name: results.get(name) for name in sorted(INSTANCES)}
    exported = [r for r in rows.values() if r and "parity" in r.get("export", {})]
    dynamic = [r for r in exported if not r["export"]["fixed"] and r["export"]["parity"] <= 1e-3]
    tried = sum(r is not None for r in rows.values())
    rest = (
        ""
        if tried == len(rows)
        else " The others wait for a run of the script, which continues where it stopped."
    )
    count = (
        f"Of {len(rows)} architectures {tried} were tried.{rest} {len(dynamic)} export with dynamic sizes and a parity of 1e-3 or better, "
        f"{len(exported) - len(dynamic)} more for one size.\n"
    )
    titles = [
        "architecture",
        "exporter",
        "nodes",
        "sizes",
        "halo",
        "parity",
        "ORT",
        "OpenVINO",
        "tiles",
        "fp16",
        "bf16",
        "int8",
        "RTX",
        "seconds",
    ]
    lines = [_HEAD, count, f"| {' | '.join(titles)} |", "|" + "---|" * len(titles)]
    lines += [f"| {' | '.join(_row(name, record))} |" for name, record in rows.items() if _works(record)]
    lines += ["", "## What does not work, and why", ""]
    lines += list(_failures(rows))
    return "\n".join(lines) + "\n"


def _works(record: dict[str, Any] | None) -> bool:
    return bool(record) and "parity" in (record or {}).get("export", {})


def _row(name: str, record: dict[str, Any]) -> list[str]:
    """Return the cells of an architecture that exports."""
    export = record["export"]
    sizes = "any" if export["multiple"] == 1 else f"multiples of {export['multiple']}"
    if export["fixed"]:
        sizes = f"{export['fixed'][1]}x{export['fixed'][0]} only"
    if export["batch"] != "any":
        sizes += ", 1 a call"
    return [
        name,
        export["exporter"],
        f"{export['nodes']:,}",
        sizes,
        "global" if export["halo"] is None else str(export["halo"]),
        f"{export['parity']:.0e}",
        *(_cell(record, key, "steps", "g") for key in ("onnxruntime", "openvino")),
        "" if "global" in record.get("tiled", {}) else _cell(record, "tiled", "steps", "g"),
        *(_cell(record, key, "psnr", ".0f") for key in ("fp16", "bf16", "int8")),
        _cell(record, "rtx", "bytes", ""),
        f"{record['seconds']['export']:.0f}",
    ]


def _cell(record: dict[str, Any], key: str, value: str, form: str) -> str:
    """Return one result as text: a number, "yes", "no", or nothing where it was not tried."""
    found = record.get(key)
    if found is None:
        return "not tried"
    if "error" in found:
        return "no"
    if value not in found:
        return ""
    return format(found[value], form) if form else "yes"


def _failures(rows: dict[str, dict[str, Any] | None]) -> Iterator[str]:
    """Yield one line for each thing that failed, with its reason."""
    missing = [name for name, record in rows.items() if record is None]
    if missing:
        yield f"- Not tried yet: {', '.join(missing)}."
    for name, record in rows.items():
        if record is None:
            continue
        for key in ("load", "export", "onnxruntime", "openvino", "tiled", "fp16", "bf16", "int8", "rtx"):
            error = record.get(key, {}).get("error")
            if error:
                yield f"- **{name}**, {key}: {plain(name, error)}"
        if record.get("export", {}).get("fixed"):
            yield f"- **{name}**, one size: {ONE_SIZE.get(name, 'no export for several sizes agrees with torch')}."


def plain(name: str, error: str) -> str:
    """Return a reason as one short sentence: without the name and paths, and without what follows the first clause."""
    text = re.sub(r"(?:/[\w.-]+)+/", "", error)
    text = re.sub(rf"^(?:{name}(?:\.pth)?: )+", "", text)
    if stopped := re.match(r"stopped after \d+ s(?: of computing)?", text):
        return stopped[0] + "."
    text = re.sub(
        r" \([^()]*(?:\([^()]*\)[^()]*)*\)",
        lambda part: part[0] if len(part[0]) <= _LONGEST_ASIDE else "",
        text,
    )
    text = re.split(r"; |: (?=\[|/)", text)[0].translate(str.maketrans("|<>", "/()"))
    words = text if len(text) <= _LONGEST_REASON else text[:_LONGEST_REASON].rpartition(" ")[0] + " ..."
    return words.rstrip(".,:") + "." if not words.endswith("...") else words


def main() -> int:
    """Write or check the page; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    sys.path.insert(0, str(HERE.parent))
    made = page()
    if not check:
        PAGE.write_text(made, encoding="utf-8", newline="\n")
        return 0
    if not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != made:
        print(
            "docs/models/architectures.md is not up to date; run: python -m benchmarks.architectures.page",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
