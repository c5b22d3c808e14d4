#!/usr/bin/env bash
# SVT-AV1, run as root, makes the calling program a real-time one, and leaves it so.
#
# Versions: av 18.1.0 (FFmpeg 8.1 and SVT-AV1 4.1.0 inside), numpy 2.4.6, Linux; seen in November 2026.
# Expected: encoding a few frames changes nothing in the program that asks for it once the file is closed.
# Seen:     if the user is root, as in most containers, the thread that opens the encoder gets SCHED_FIFO with priority 99, stays so
#           after the file is closed, and every process that it starts inherits it. Two such processes that compute can take both cores
#           of a machine from everything else. Another user's program stays as it was.
set -euo pipefail
[ "$(uname)" = Linux ] && [ "$(id -u)" = 0 ] || { echo "needs Linux and root (a container is enough)"; exit 1; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q av==18.1.0 numpy==2.4.6
cd "$work"
SVT_LOG=1 "$work/venv/bin/python" - <<'PY'
import os
import subprocess
import sys

import av
import numpy as np

NAMES = {os.SCHED_OTHER: "SCHED_OTHER", os.SCHED_FIFO: "SCHED_FIFO"}
ASK = "import os; print(os.sched_getscheduler(0))"


def encode(codec):
    with av.open(f"{codec}.mkv", "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        for value in range(5):
            pixels = np.full((96, 128, 3), 40 * value, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


def seen(moment):
    child = int(subprocess.run([sys.executable, "-c", ASK], capture_output=True, check=True).stdout)
    found = os.sched_getscheduler(0), os.sched_getparam(0).sched_priority, child
    print(f"{moment}: {NAMES[found[0]]} {found[1]}; a process started now: {NAMES[child]}")
    return found


before = seen("at the start")
encode("libx264")
x264 = seen("after libx264")
encode("libsvtav1")
after = seen("after libsvtav1")
assert before == x264 == (os.SCHED_OTHER, 0, os.SCHED_OTHER), "this shell is not scheduled in the usual way"
assert after == (os.SCHED_FIFO, 99, os.SCHED_FIFO), "the finding has changed"
PY
