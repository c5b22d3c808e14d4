"""Measure everything behind the speed tables, one after the other, then rewrite the tables.

    python -m benchmarks.measure_all            # on an idle machine; three quarters of an hour on two cores

Refuses to start if other processes keep the cores busy, because the results are committed and cited.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from sr_deploy.bench.doubts import BUSY
from sr_deploy.bench.run.usage import OtherProcesses

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"


def commands() -> list[list[str]]:
    """Return the commands in order. The suites are those of suites/ to which a power law is fitted."""
    python = sys.executable
    return [
        [python, "-m", "benchmarks.peers", "--out", str(RESULTS / "peers.json")],
        [python, "-m", "benchmarks.harness", "--out", str(RESULTS / "harness.json")],
        *(_suite(name) for name in ("pixels", "batch", "tiles")),
        [python, "-m", "benchmarks.tables"],
    ]


def _suite(name: str) -> list[str]:
    suite, target = HERE / "suites" / f"{name}.toml", RESULTS / f"scaling-{name}.json"
    command = [sys.executable, "-m", "sr_deploy", "bench", "--suite", str(suite)]
    return [*command, "-o", str(target), "--overwrite"]


def require_idle(seconds: float = 5.0) -> None:
    others = OtherProcesses()
    time.sleep(seconds)
    share = others.share() or 0.0
    if share > BUSY:
        raise SystemExit(f"other processes use {share:.0%} of the cores; end them, or add --busy")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--busy", action="store_true", help="measure even on a busy machine")
    args = parser.parse_args()
    if not args.busy:
        require_idle()
    for command in commands():
        print(" ".join(command), flush=True)
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
