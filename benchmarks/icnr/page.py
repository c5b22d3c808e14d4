"""Measure the checkerboard that nets draw with and without ICNR: before, early in and after a short training.

    python -m benchmarks.icnr.page --data PICTURES   do the runs that are missing in benchmarks/results/icnr.json
    python -m benchmarks.icnr.page --table           write the table of that file into docs/notes/icnr.md
    python -m benchmarks.icnr.page --check           check that docs/notes/icnr.md has that table

Only `--data` needs torch. `benchmarks/icnr/picture.py` draws the picture of the page.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path
from statistics import fmean, median
from typing import Any

from benchmarks.pages import ROOT, filled, settle

RESULTS, PAGE = ROOT / "benchmarks" / "results" / "icnr.json", ROOT / "docs" / "notes" / "icnr.md"
BEGIN, END = "<!-- made by benchmarks/icnr/page.py --table -->\n", "<!-- end of what was made -->\n"


def table(record: dict[str, Any]) -> str:
    """Return the table of the page; every number in it comes from `record`."""
    settings, references = record["settings"], record["baselines"]
    of_references = "; ".join(reference(name, of) for name, of in references.items())
    lines = [
        f"Energy is in millionths, the median of {settings['held_out']} pictures. PSNR is that of Y in dB, the mean of the "
        f"same pictures. Both are means over {len(settings['seeds'])} seeds (lowest to highest). For comparison, the energy of other "
        f"pictures: {of_references}.",
        "",
        "| net | steps | energy without ICNR | energy with ICNR | lower with ICNR | PSNR without | PSNR with |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, steps in product(settings["nets"], settings["steps"]):
        without, with_ = points(record, name, False, steps), points(record, name, True, steps)
        pairs = [
            (a, b)
            for p, q in zip(without, with_, strict=True)
            for a, b in zip(p["energy"], q["energy"], strict=True)
        ]
        cells = [name, str(steps)]
        cells += [spread([median(p["energy"]) for p in side], energy) for side in (without, with_)]
        cells += [f"{sum(b < a for a, b in pairs)} of {len(pairs)}"]
        cells += [spread([fmean(p["psnr_y"]) for p in side], "{:.2f}".format) for side in (without, with_)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def reference(name: str, of: dict[str, list[float]]) -> str:
    quality = f" at {fmean(of['psnr_y']):.2f} dB" if "psnr_y" in of else ""
    return f"{name} {energy(median(of['energy']))}{quality}"


def points(record: dict[str, Any], name: str, icnr: bool, steps: int) -> list[dict[str, Any]]:
    """Return the measurements after `steps` steps, one per seed in their order."""
    runs = [run for run in record["runs"] if (run["net"], run["icnr"]) == (name, icnr)]
    found = [point for run in runs for point in run["points"] if point["step"] == steps]
    if len(found) != len(record["settings"]["seeds"]):
        sys.exit(f"{RESULTS} is not complete; run with --data to continue")
    return found


def energy(value: float) -> str:
    return f"{value * 1e6:.3g}" if value < 1e-3 else f"{value * 1e6:.0f}"


def spread(values: list[float], shown: Callable[[float], str]) -> str:
    return f"{shown(fmean(values))} ({shown(min(values))} to {shown(max(values))})"


def page() -> str:
    """Return the text of docs/notes/icnr.md with the table of the results."""
    record = json.loads(RESULTS.read_text(encoding="utf-8"))
    return filled(PAGE, BEGIN, END, f"\n{table(record)}\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--data", type=Path, help="folder of photographs to train on")
    what.add_argument("--table", action="store_true", help="write the table into docs/notes/icnr.md")
    what.add_argument(
        "--check", action="store_true", help="exit with 1 if docs/notes/icnr.md is not up to date"
    )
    args = parser.parse_args()
    if args.data:
        from benchmarks.icnr.runs import measure

        measure(args.data, RESULTS)
    else:
        settle(PAGE, page(), only_check=args.check, remedy="-m benchmarks.icnr.page --table")


if __name__ == "__main__":
    main()
