"""Memory that this process can still use: what the machine has free, within the limit of the container."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from sr_deploy.system.cgroup import memory_left


def available_memory() -> int | None:
    """Bytes that can be used without swapping, or None if the platform does not tell.

    It is a snapshot: other processes may take the memory at any time.
    """
    if sys.platform == "win32":
        return _windows_available()
    # the machine may have more free than the container's limit leaves, or less
    found = [value for value in (_linux_available(), memory_left()) if value is not None]
    if found:
        return min(found)
    try:  # macOS does not report available pages; half of the physical memory is a cautious estimate
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    except (ValueError, OSError):
        return None


def _linux_available() -> int | None:
    """MemAvailable of /proc/meminfo in bytes, or None. It includes caches that the kernel can drop."""
    try:
        for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    return None


def _windows_available() -> int | None:
    """Free physical memory in bytes, from GlobalMemoryStatusEx; None if the call fails."""
    import ctypes

    # MEMORYSTATUSEX of the Windows API; the members after `available` are not used
    class _MemoryStatus(ctypes.Structure):
        _fields_ = (
            ("length", ctypes.c_ulong),
            ("load", ctypes.c_ulong),
            *((name, ctypes.c_ulonglong) for name in ("total", "available", "a", "b", "c", "d", "e")),
        )

    status = _MemoryStatus(length=ctypes.sizeof(_MemoryStatus))
    kernel32 = getattr(ctypes, "windll").kernel32  # noqa: B009 (exists on Windows only)
    return int(status.available) if kernel32.GlobalMemoryStatusEx(ctypes.byref(status)) else None
