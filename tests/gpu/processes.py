"""Checks of whole programs for `run.py`: how they end, two that want one engine, one that is interrupted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu.build import FAST, USUAL, EngineToBuild, source
from benchmarks.gpu.common import COMMON, ROOT, Run

QUICK: dict[str, Any] = {"tile": 300, "small": 300, "optimisation_level": FAST}
"""Options of an engine that is built fast."""
LONG: dict[str, Any] = {"sizes": COMMON, "optimisation_level": USUAL}
"""Options of an engine whose build takes long enough to be interrupted."""


def exits(run: Run, plan: EngineToBuild) -> dict[str, Any]:
    """Programs end with exit code 0 and no output, whatever they leave open or release in whatever order."""
    path = run.engines[plan.name]
    start = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "import numpy as np\nfrom pathlib import Path\n"
        "from sr_deploy.engines.tensorrt.engine import TensorRTEngine\n"
        f"engine = TensorRTEngine(Path({str(path)!r})); x = np.zeros((1, 48, 64, 3), np.uint8)\n"
    )
    programs = {
        "left open": "engine.run(x); engine.run(x); engine.run(x)\n",
        "stream unread": "s = engine.run_stream([x] * 9); next(s); next(s)\n",
        "pinned outlives": "a = engine.empty((1, 48, 64, 3)); a[:] = 3; engine.run(a); engine.close(); del engine\n",
        "result outlives": "import gc; engine.run(x); del engine; gc.collect()\n",
        "thread running": "import threading; t = threading.Thread(target=lambda: [engine.run(x) for _ in range(200)]); t.start()\n",
    }
    found = {}
    for name, program in programs.items():
        done = subprocess.run([sys.executable, "-X", "faulthandler", "-c", start + program],
                              capture_output=True, text=True, timeout=60)  # fmt: skip
        found[name] = {"code": done.returncode, "stderr": done.stderr[-800:]}
    run.log(f"exit: {found}")
    wrong = {name: result for name, result in found.items() if result["code"] or result["stderr"].strip()}
    if wrong:
        raise AssertionError(f"{wrong}")
    return found


def started(run: Run, folder: str, kind: str) -> subprocess.Popen[str]:
    """Start a process that takes one engine from the cache in `folder`, or builds it there."""
    command = [
        sys.executable,
        "-m",
        "tests.gpu.run",
        str(run.folder),
        "--out",
        str(run.out),
        "--child",
        folder,
        "--child-builds",
        kind,
    ]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def two_processes(run: Run) -> dict[str, Any]:
    """Two processes that want the same engine build it once."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "timings").write_bytes(run.timings)
        both = [started(run, folder, "quick") for _ in range(2)]
        said = [process.communicate(timeout=150) for process in both]
        left = sorted(os.listdir(folder))
    reports = [json.loads(out.strip().splitlines()[-1]) for out, _ in said if out.strip()]
    engines = [name for name in left if name.endswith(".engine")]
    run.log(f"two processes: {reports} {[err[-300:] for _, err in said]}, left {left}")
    if sorted(report["built"] for report in reports) != [False, True] or len(engines) != 1:
        raise AssertionError(f"{reports}, {engines}, {said}")
    return {"reports": reports, "stderr": [err[-300:] for _, err in said], "left": left}


def interrupted(run: Run, after: float = 8.0) -> dict[str, Any]:
    """A build that is interrupted leaves only its lock, which is empty and stays by design."""
    with tempfile.TemporaryDirectory() as folder:
        process = started(run, folder, "long")
        assert process.stderr is not None
        while (line := process.stderr.readline()) and "building" not in line:
            pass
        time.sleep(after)  # starting TensorRT takes four of them and is not part of the build
        if process.poll() is not None:
            raise AssertionError(f"it ended by itself: {process.returncode}, {process.stderr.read()[-800:]}")
        process.send_signal(signal.SIGINT)
        start = time.perf_counter()
        try:
            code = process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        seconds = time.perf_counter() - start
        left = {path.name: path.stat().st_size for path in sorted(Path(folder).iterdir())}
    run.log(f"interrupted: exit {code} after {seconds:.1f} s, left {left}")
    if code != 130 or any(size or not name.endswith(".lock") for name, size in left.items()):
        raise AssertionError(f"exit {code}, left behind: {left}")
    return {"code": code, "seconds": seconds, "left": left}


def child(run: Run, folder: str, kind: str) -> None:
    """Main function of the processes that `started` starts."""
    from sr_deploy.engines.tensorrt.api import runtime, version
    from sr_deploy.engines.tensorrt.build import engine_from_cache
    from sr_deploy.engines.tensorrt.cache import EngineCache
    from sr_deploy.engines.tensorrt.cuda import machine
    from sr_deploy.engines.tensorrt.options import BuildOptions

    def complain(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    row, calls = run.row("rt-x4", "fp16"), []
    assert row is not None

    def made() -> Any:
        calls.append(1)
        return source(run, row)

    os.chmod(folder, 0o700)
    cache = EngineCache.of_user(Path(folder), complain)
    assert cache is not None
    if (known := Path(folder) / "timings").exists():
        cache.store_timings(machine(0, version(runtime())), known.read_bytes())
    plan, _ = engine_from_cache(
        made, row["sha256"], "uint8", BuildOptions(**(QUICK if kind == "quick" else LONG)),
        device=0, context="primary", cache=cache, say=complain,
    )  # fmt: skip
    print(json.dumps({"built": bool(calls), "bytes": len(plan)}), flush=True)
