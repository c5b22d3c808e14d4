"""Keep the curves of trainings, and show how far each net has come in equal time.

    python -m benchmarks.training.curves --run FOLDER --name NAME     add the curve of a finished run to the results
    python -m benchmarks.training.curves --table   write the table into docs/notes/training.md
    python -m benchmarks.training.curves --check   check that the page has that table

FOLDER is the run's folder of `sr-deploy train`. A point is a look at the photographs held out.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.pages import ROOT, filled, settle
from sr_deploy.system.files import write_whole

RESULTS = ROOT / "benchmarks" / "results" / "training" / "curves.json"
PAGE = ROOT / "docs" / "notes" / "training.md"
BEGIN, END = "<!-- made by benchmarks/training/curves.py --table -->\n", "<!-- end of curves -->\n"
MINUTES = (1, 5, 10, 20, 30, 40, 60)
"""Columns of the table: the last look before each of these."""


def add(run: Path, name: str) -> None:
    """Read the log of `run` and keep its looks as `name`."""
    from sr_deploy.training.checkpoint import find_checkpoint, read_checkpoint

    info, _ = read_checkpoint(find_checkpoint(run))
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    looks = [
        {
            "phase": one["phase"],
            "steps": one["steps"],
            "minutes": round(one["seconds"] / 60, 2),
            "psnr": round(one["psnr"], 3),
        }
        for one in lines
        if one.get("psnr") is not None
    ]
    record = read()
    record["runs"][name] = {"training": info.training, "looks": looks}
    write_whole(RESULTS, f"{json.dumps(record, indent=1)}\n".encode())


def read() -> dict[str, Any]:
    """Return the results so far."""
    empty: dict[str, Any] = {"runs": {}}
    return json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else empty


def table(record: dict[str, Any]) -> str:
    """Return the table: a row for each run, PSNR in dB at the last look before each time."""
    lines = [
        "| run | began with | steps | minutes | "
        + " | ".join(f"{minutes} min" for minutes in MINUTES)
        + " | end |",
        "|---|---|---:|---:|" + "---:|" * (len(MINUTES) + 1),
    ]
    for name, run in record["runs"].items():
        told, looks = run["training"], run["looks"]
        cells = []
        for minutes in MINUTES:
            before = [look["psnr"] for look in looks if look["minutes"] <= minutes]
            cells.append(f"{before[-1]:.2f}" if before and minutes <= looks[-1]["minutes"] + 0.5 else "")
        began = told["init"]["name"] if told.get("init") else "fresh weights"
        lines.append(
            f"| {name} | {began} | {told['steps']:,} | {told['minutes']:g} | {' | '.join(cells)} | {looks[-1]['psnr']:.2f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--run", type=Path, help="folder of a finished run")
    parser.add_argument("--name", help="name of the row")
    parser.add_argument("--table", action="store_true", help="write the table into docs/notes/training.md")
    parser.add_argument("--check", action="store_true", help="exit with 1 if the page is not up to date")
    args = parser.parse_args()
    if args.table or args.check:
        made = filled(PAGE, BEGIN, END, f"\n{table(read())}\n")
        settle(PAGE, made, only_check=args.check, remedy="-m benchmarks.training.curves --table")
    elif args.run is None or args.name is None:
        parser.error("name a run with --run and --name")
    else:
        add(args.run, args.name)


if __name__ == "__main__":
    main()
