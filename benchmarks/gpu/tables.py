"""Writes `results/gpu/README.md`, the page of GPU results, from the raw results beside it. No number is typed here.

python -m benchmarks.gpu.tables [--check]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterator
from typing import Any

from benchmarks.pages import ROOT

FOLDER = ROOT / "benchmarks" / "results" / "gpu"
PAGE = FOLDER / "README.md"
HEAD = """\
<!-- written by benchmarks/gpu/tables.py from the results beside it -->
# What ran on a GPU

These are the raw results of `tests/gpu/run.py` and `benchmarks/gpu/torch_peer.py`, unchanged except for shortened paths.
A section that failed or was skipped proves nothing and is listed as such. The rt-x4 of these runs was wider than the one
that is bundled now: 32 features, 88,752 parameters.
"""
NOTES = {
    "tensorrt-8.6-h100.json": (
        "The first run. To make TensorRT small enough for transfer to that machine, its kernels for other GPUs were "
        "blanked out, and its check of that library's digest was skipped; the kernels for this GPU were left "
        "unchanged. Every fp16 build was refused by a check of this project that asked the network for its types, which "
        "TensorRT 8.6 does not report. The `precisions` of the engine are empty, because TensorRT's description of the "
        "layers is not strict JSON. Both faults have been fixed since. Nothing here ran an engine."
    ),
    "torch-h100.json": "No checkpoint of srresnet-x4 was on that machine, so only rt-x4 was timed.",
}


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for path in sorted(FOLDER.glob("*.json")):
        found = json.loads(path.read_text(encoding="utf-8"))
        told = torch_section(found) if "timings" in found else tensorrt_section(found)
        notes = [NOTES[path.name] + "\n"] if path.name in NOTES else []
        parts += [f"## {path.name}\n", *notes, *told]
    return "\n".join(parts)


def tensorrt_section(found: dict[str, Any]) -> Iterator[str]:
    """Sections about a run of `tests/gpu/run.py`."""
    sections = found["sections"]
    where = sections["environment"].get("result", {})
    yield (
        f"TensorRT {where.get('tensorrt')}, {where.get('gpu')}, driver {where.get('driver')}, "
        f"{where.get('cores')} cores; {found['seconds']:.0f} s in all.\n"
    )
    for state in ("ran", "failed", "skipped"):
        names = [f"`{name}`" for name, section in sections.items() if section["state"] == state]
        yield f"{len(names)} sections {state}: {', '.join(names) or 'none'}.\n"
    yield table(("engine", "profiles", "level", "MB", "layers by type", "built in"), list(builds(found)))
    yield table(("copying", "GB/s"), list(copies(sections)))
    yield table(("picture", "on the device", "from host to host", "TFLOP/s"), list(timings(sections)))


def builds(found: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """A row for each build that succeeded."""
    for name, section in found["sections"].items():
        if name.startswith("build/") and section["state"] == "ran":
            made = section["result"]
            record = made["record"]
            types = ", ".join(f"{count} {kind}" for kind, count in sorted(record["precisions"].items()))
            yield (
                name.removeprefix("build/"),
                str(len(record["profiles"])),
                str(record["options"]["optimisation_level"]),
                f"{made['plan_bytes'] / 1e6:.1f}",
                types or "not known",
                f"{record['build_seconds']:.0f} s",
            )


def copies(sections: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """A row for each kind of copy."""
    for name, found in sections.get("peaks", {}).get("result", {}).items():
        rate = found["bytes"] / min(found["seconds"]) / 1e9
        yield name.replace("_", " "), f"{rate:.0f}"


def timings(sections: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """A row for each engine that was timed."""
    for name, section in sections.items():
        if name.startswith("timing/") and section["state"] == "ran":
            found = section["result"]
            device, host = (
                statistics.median(found[key]) * 1e3 for key in ("device_graph", "host_page_locked")
            )
            rate = found["operations"] / device / 1e9
            yield name.removeprefix("timing/"), f"{device:.3f} ms", f"{host:.3f} ms", f"{rate:.0f}"


def torch_section(found: dict[str, Any]) -> Iterator[str]:
    """Sections about a run of `torch_peer.py`."""
    where = found["environment"]
    yield f"torch {where['torch']}, CUDA {where['cuda']}, {where['gpu']}; {found['seconds']:.0f} s in all.\n"
    rows = [
        (
            *key.split("/"),
            f"{statistics.median(timed['seconds']) * 1e3:.3f} ms",
            f"{timed['warm_up_seconds']:.0f} s",
        )
        for key, timed in found["timings"].items()
        if "seconds" in timed
    ]
    yield table(("model", "mode, fp16", "picture", "median", "warm-up"), rows)
    peaks = found["peaks"]
    products = [
        (name, f"{p['tera_operations_per_s']:.0f} TFLOP/s")
        for name, p in peaks.items()
        if "tera_operations_per_s" in p
    ]
    copied = [(name, f"{p['gb_per_s']:.0f} GB/s") for name, p in peaks.items() if "gb_per_s" in p]
    yield table(("peak", "reached"), [*products, *copied])
    skipped = [f"`{entry['what'] if isinstance(entry, dict) else entry}`" for entry in found["skipped"]]
    yield f"{len(skipped)} not timed: {', '.join(skipped) or 'none'}.\n"


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table; empty if there are no rows."""
    if not rows:
        return ""
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def main() -> int:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument(
        "--check", action="store_true", help="write nothing; exit with 1 if the page is out of date"
    )
    made = page()
    if not cli.parse_args().check:
        PAGE.write_text(made, encoding="utf-8", newline="\n")
        return 0
    if not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != made:
        print("results/gpu/README.md is out of date; run: python -m benchmarks.gpu.tables", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
