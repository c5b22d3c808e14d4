"""How much memory this process may still take: what the machine has free, within its container's limit."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from sr_deploy.system.cgroup import memory_left


def available_memory() -> int | None:
    """Bytes that can be taken without swapping; None where the platform does not tell."""
    if sys.platform == "win32":
        return _windows_available()
    found = [value for value in (_linux_available(), memory_left()) if value is not None]
    if found:
        return min(found)
    try:  # macOS has no count of available pages; half of the physical ones is a careful stand-in
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    except (ValueError, OSError):
        return None


def _linux_available() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    return None


def _windows_available() -> int | None:
    import ctypes

    class _MemoryStatus(ctypes.Structure):
        _fields_ = (
            ("length", ctypes.c_ulong),
            ("load", ctypes.c_ulong),
            *((name, ctypes.c_ulonglong) for name in ("total", "available", "a", "b", "c", "d", "e")),
        )

    status = _MemoryStatus(length=ctypes.sizeof(_MemoryStatus))
    kernel32 = getattr(ctypes, "windll").kernel32  # noqa: B009 (exists on Windows only)
    return int(status.available) if kernel32.GlobalMemoryStatusEx(ctypes.byref(status)) else None
