"""The number of cores that this process may use. Thread pools are sized by it."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path

from sr_deploy.system.cgroup import cpu_quota

_CPUS = Path("/sys/devices/system/cpu")


def usable_cores() -> int | None:
    """Physical cores that CPU affinity and container limits leave, at least 1.

    None on systems other than Linux; there the runtime decides. Two hardware threads of one core count
    as one, because a convolution in one of them already keeps the core's vector units busy.
    """
    if sys.platform != "linux":
        return None
    threads = os.sched_getaffinity(0)
    cores = len({_siblings(thread) for thread in threads})
    quota = cpu_quota()
    # rounded up: with a quota of 1.5 cores, one thread alone would leave a third of the time unused
    return max(1, min(cores, math.ceil(quota)) if quota else cores)


def _siblings(thread: int) -> str:
    """The threads of the core that `thread` belongs to; the thread alone if the kernel does not tell."""
    try:
        file = _CPUS / f"cpu{thread}" / "topology" / "thread_siblings_list"
        return file.read_text(encoding="utf-8").strip()
    except OSError:
        return str(thread)
