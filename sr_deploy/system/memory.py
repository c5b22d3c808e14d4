"""Memory that this process can still use: what the machine has free, within the limit of the container."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

from sr_deploy.system.cgroup import memory_left


def available_memory() -> int | None:
    """Bytes that can be used without swapping, or None if the platform does not tell.

    It is a snapshot: other processes may take the memory at any time.
    """
    if sys.platform == "win32":
        return _windows_available()
    # the machine may have more free than the container's limit leaves, or less
    # MemAvailable includes caches that the kernel can drop
    on_machine = proc_bytes(Path("/proc/meminfo"), "MemAvailable")
    found = [value for value in (on_machine, memory_left()) if value is not None]
    if found:
        return min(found)
    try:  # macOS does not report available pages; half of the physical memory is a cautious estimate
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    except (ValueError, OSError):
        return None


def proc_bytes(file: Path, key: str) -> int | None:
    """The value of the line `key` in a file of /proc that counts in KiB, in bytes; None if there is none."""
    with suppress(OSError, ValueError, IndexError):
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith(f"{key}:"):
                return int(line.split()[1]) * 1024
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
