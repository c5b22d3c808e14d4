"""How many cores this process may compute on: what thread pools are sized by."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path

from sr_deploy.system.cgroup import cpu_quota

_CPUS = Path("/sys/devices/system/cpu")


def usable_cores() -> int | None:
    """Physical cores that affinity and container limits leave; None: leave it to the runtime (not Linux).

    Two hardware threads of one core count as one: convolutions keep its vector units busy alone.
    """
    if sys.platform != "linux":
        return None
    threads = os.sched_getaffinity(0)
    cores = len({_siblings(thread) for thread in threads})
    quota = cpu_quota()
    return max(1, min(cores, math.ceil(quota)) if quota else cores)


def _siblings(thread: int) -> str:
    """What identifies the core of a hardware thread: the list of the threads it has."""
    try:
        file = _CPUS / f"cpu{thread}" / "topology" / "thread_siblings_list"
        return file.read_text(encoding="utf-8").strip()
    except OSError:
        return str(thread)
