"""Try every architecture of spandrel, each in a process of its own with a time limit, and keep what was found.

    python -m benchmarks.architectures.run [NAME...] [--again] [--limit SECONDS] [--nets FOLDER]

Results are kept in benchmarks/architectures/results.json after each architecture. What is there already is not tried
again without --again, so a run that was interrupted continues. `page.py` makes docs/models/architectures.md of them.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.architectures.instances import INSTANCES

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results.json"

REAL_WEIGHTS = {
    "ESRGAN": ("RealESRGAN_x4plus_anime_6B.pth",),
    "Compact": ("realesr-animevideov3.pth",),
    "CRAFT": ("craft_x4.pth",),
}
"""Architecture -> names of files with trained weights, which are used where --nets has them."""


def main() -> int:
    """Try what is missing; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--limit", type=int, default=300, help="seconds of computing for each architecture")
    parser.add_argument("--brief", action="store_true", help="only export, to be completed by a later run")
    parser.add_argument("--nets", type=Path, help="folder with trained weights")
    arguments = parser.parse_args()
    for name in arguments.names or INSTANCES:
        results = load()
        found = results.get(name, {})
        done = found and (arguments.brief or not found.get("brief"))
        if done and not arguments.again:
            continue
        found = tried(name, arguments.limit, arguments.nets, brief=arguments.brief)
        results = load()
        results[name] = found
        RESULTS.write_text(json.dumps(dict(sorted(results.items())), indent=1) + "\n", encoding="utf-8")
        export = found.get("export", {})
        print(f"{name}: {export.get('error') or export.get('exporter') or found}", flush=True)
    return 0


def load() -> dict[str, Any]:
    """Return the results that are kept."""
    found: dict[str, Any] = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {}
    return found


def tried(name: str, limit: int, nets: Path | None, *, brief: bool) -> dict[str, Any]:
    """Try one architecture in a process. What it wrote before its time was over counts."""
    real = next(
        (nets / file for file in REAL_WEIGHTS.get(name, ()) if nets and (nets / file).is_file()), None
    )
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "result.json"
        command = [sys.executable, "-W", "ignore", "-m", "benchmarks.architectures.one", name, str(out)]
        started = time.perf_counter()
        ended = "it ended without a result"
        try:
            done = subprocess.run(
                [*command, *(["--weights", str(real)] if real else []), *(["--brief"] if brief else [])],
                stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, timeout=4 * limit, check=False, cwd=HERE.parents[1],
                preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (limit, limit)),
            )  # fmt: skip
            ended = done.stderr.strip().splitlines()[-1][:300] if done.stderr.strip() else ended
            ended = f"stopped after {limit} s of computing at: {ended}" if done.returncode < 0 else ended
        except subprocess.TimeoutExpired as error:
            said = (error.stderr or b"").decode(errors="replace").strip().splitlines()
            ended = f"stopped after {4 * limit} s" + (f" at: {said[-1][:200]}" if said else "")
        record: dict[str, Any] = json.loads(out.read_text("utf-8")) if out.exists() else {}
    if "export" not in record and "error" not in record.get("load", {}):
        record["export"] = {"error": ended}
    record["total_seconds"] = round(time.perf_counter() - started)
    return record


if __name__ == "__main__":
    sys.exit(main())
