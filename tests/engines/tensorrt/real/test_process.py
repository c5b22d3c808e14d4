"""What a build leaves behind: after Ctrl-C, after a failure, and beside another one, with NVIDIA's real compiler."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from sr_deploy.engines.tensorrt import api
from sr_deploy.engines.tensorrt.build import build_engine
from sr_deploy.engines.tensorrt.options import BuildOptions
from sr_deploy.engines.tensorrt.runtimes import RTX
from sr_deploy.errors import ModelError
from tests.engines.tensorrt.real.compiler import build, needs_rtx, prepared
from tests.engines.tensorrt.real.forms import FORMS

pytestmark = needs_rtx

ROOT = Path(__file__).parents[4]


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `code` in a process of its own, on this copy of the project."""
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": paths},
    )


INTERRUPTED = """
import os, signal, sys, threading, time
from pathlib import Path
from sr_deploy.engines.tensorrt.build import build_engine, source_of
from sr_deploy.engines.tensorrt.options import BuildOptions
from sr_deploy.engines.tensorrt.runtimes import RTX
from sr_deploy.models import find_model

source = source_of(find_model("rt-x2"))
sizes = tuple((64 + 8 * n, 64) for n in range(12))  # a profile for each: the build takes seconds
interrupted = left = 0
for _ in range(10):
    threading.Timer(0.15, os.kill, (os.getpid(), signal.SIGINT)).start()
    try:
        build_engine(source, BuildOptions(sizes=sizes), runtime=RTX)
    except KeyboardInterrupt:
        interrupted += 1
    time.sleep(0.05)  # the thread has said that it is done, and needs a moment to end
    left += sum(t.name == "sr-deploy-build" for t in threading.enumerate())
built = build_engine(source, BuildOptions(tile=64), runtime=RTX)
print(interrupted, left, len(built.plan) > 1000)
"""


def test_ten_of_ten_interrupts_end_in_keyboardinterrupt_and_a_usable_process():
    done = python(INTERRUPTED)
    assert (done.returncode, done.stdout.split()) == (0, ["10", "0", "True"]), done.stderr


LEAKS = """
import gc, os, sys
from pathlib import Path
from sr_deploy.engines.tensorrt.build import build_engine, source_of
from sr_deploy.engines.tensorrt.options import BuildOptions
from sr_deploy.engines.tensorrt.runtimes import RTX
from sr_deploy.errors import ModelError

source = source_of(Path(sys.argv[1]))
kept = []

def fail():
    try:
        build_engine(source, BuildOptions(tile=1024, workspace_mib=1), runtime=RTX, progress=lambda *step: None)
    except ModelError as error:
        kept.append(error)  # as a program does that reports all errors at its end
    else:
        raise SystemExit("it was built")

def resident():
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

for _ in range(20):
    fail()
before = resident()
for _ in range(20):
    fail()
more = (resident() - before) // 1024
alive = sum(type(each).__name__ == "Monitor" for each in gc.get_objects())  # one hangs on each configuration
print(more, alive)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_twenty_failed_builds_leave_memory_as_it_was(tmp_path):
    prepared(FORMS["half_ports"](), tmp_path)
    done = python(LEAKS, str(tmp_path / "model.onnx"))
    assert done.returncode == 0, done.stderr
    more, alive = map(int, done.stdout.split())
    assert alive == 0
    assert more < 5 << 10, f"{more} KiB more"  # 6 to 11 MiB where builder, network and configuration stay


def test_a_build_that_is_told_to_stop_stops(tmp_path):
    """The progress callback raises, as a program that gives up would."""

    def stop(phase: str, done: int, steps: int) -> None:
        raise RuntimeError("enough")

    source = prepared(FORMS["fixed_size"](), tmp_path)
    with pytest.raises((ModelError, RuntimeError)):
        build_engine(source, BuildOptions(tile=64), runtime=RTX, progress=stop)
    assert build(source)[0].record.precisions == {"fp32": 2}


def test_a_second_build_hears_its_own_errors_while_the_first_is_alive(tmp_path):
    """TensorRT keeps the first logger of a process and ignores all later ones, while anything of it lives."""
    trt = api.runtime(RTX)
    first = api.TensorRTLog(trt)
    alive = api.new_builder(trt, first)
    source = prepared(FORMS["half_ports"](), tmp_path)
    with pytest.raises(ModelError, match="scratch memory for kernels is too small"):
        build_engine(source, BuildOptions(tile=1024, workspace_mib=1), runtime=RTX)
    assert first.take() == []
    said: list[str] = []
    build_engine(source, BuildOptions(tile=64), runtime=RTX, say=said.append)
    assert said == []  # no warning of a second logger either
    del alive


def test_builds_of_two_threads_do_not_mix_their_errors(tmp_path):
    (tmp_path / "a").mkdir()
    good, bad = prepared(FORMS["fixed_size"](), tmp_path / "a"), prepared(FORMS["half_ports"](), tmp_path)
    results: dict[str, object] = {}

    def run(name: str, source: object, options: BuildOptions) -> None:
        try:
            results[name] = build_engine(source, options, runtime=RTX).record.precisions  # type: ignore[arg-type]
        except ModelError as error:
            results[name] = str(error)

    jobs = [
        threading.Thread(target=run, args=("good", good, BuildOptions(tile=64))),
        threading.Thread(target=run, args=("bad", bad, BuildOptions(tile=1024, workspace_mib=1))),
    ]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert results["good"] == {"fp32": 2}
    assert "scratch memory" in str(results["bad"])
