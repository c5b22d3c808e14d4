"""Scheduling of this process's threads, which a library may change behind our back."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def ordinary_scheduling() -> Iterator[None]:
    """Take real-time scheduling back from the threads that got it in this block.

    SVT-AV1 (4.1 in PyAV 18.1.0), run as root, gives SCHED_FIFO with the highest priority to the threads that it starts
    and to the one that opens the encoder, and leaves it so. Linux then runs nothing else on their cores while they
    compute, and every process that they start inherits it. Containers usually run as root. Threads get the policy
    of the calling thread, unless that is a real-time one already. Nothing is done on systems other than Linux.
    """
    if not hasattr(os, "sched_setscheduler") or not os.path.isdir("/proc/self/task"):
        yield
        return
    policy, priority = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        if not _is_real_time(policy):
            for thread in map(int, os.listdir("/proc/self/task")):
                with suppress(OSError):  # the thread has ended
                    if _is_real_time(os.sched_getscheduler(thread)):
                        os.sched_setscheduler(thread, policy, priority)


def _is_real_time(policy: int) -> bool:
    return policy & ~getattr(os, "SCHED_RESET_ON_FORK", 0) in (os.SCHED_FIFO, os.SCHED_RR)
