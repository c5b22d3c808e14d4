"""How many cores this process may compute on: what thread pools are sized by."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path

_CPUS = Path("/sys/devices/system/cpu")
_CGROUP = Path("/sys/fs/cgroup")


def usable_cores() -> int | None:
    """Physical cores that affinity and container limits leave; None: leave it to the runtime (not Linux).

    Two hardware threads of one core count as one: convolutions keep its vector units busy alone.
    """
    if sys.platform != "linux":
        return None
    threads = os.sched_getaffinity(0)
    cores = len({_siblings(thread) for thread in threads})
    quota = _quota()
    return max(1, min(cores, math.ceil(quota)) if quota else cores)


def _siblings(thread: int) -> str:
    """What identifies the core of a hardware thread: the list of the threads it has."""
    try:
        file = _CPUS / f"cpu{thread}" / "topology" / "thread_siblings_list"
        return file.read_text(encoding="utf-8").strip()
    except OSError:
        return str(thread)


def _quota() -> float | None:
    """Cores' worth of time the control group (version 2, then 1) allows; None where there is no limit."""
    try:
        limit, period = (_CGROUP / "cpu.max").read_text(encoding="utf-8").split()
    except (OSError, ValueError):
        try:
            limit, period = (
                (_CGROUP / "cpu" / f"cpu.cfs_{name}_us").read_text(encoding="utf-8").strip()
                for name in ("quota", "period")
            )
        except OSError:
            return None
    try:
        return int(limit) / int(period) if int(limit) > 0 else None
    except ValueError:  # "max"
        return None
