"""Memory that this process can still use: what the machine has free, within the limit of the container."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

from sr_deploy.errors import OutOfMemoryError, UsageError
from sr_deploy.system.cgroup import memory_left

_NEEDED = 512 << 20
"""Bytes of address space that must be left when an engine is opened. Below, importing the decoders of pictures (0.3 GiB)
or starting their threads failed, or a runtime ended the process (measured with ONNX Runtime 1.23 and OpenVINO 2026.4)."""
_PER_THREAD = 24 << 20
"""Bytes of address space of a thread of a runtime: its stack (8 MiB by default) and what it allocates at once."""
_M_ARENA_MAX = -8
"""Number by which glibc's `mallopt` knows the most arenas of its allocator (malloc.h)."""


_UNITS = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40}
"""First letter of a unit of memory -> the power of 2 that it stands for: 1G is 1024**3 bytes, as in `ulimit` and Docker."""


def parse_memory(amount: int | str) -> int:
    """A number of bytes, given as a whole number or as a text such as "512M", "1.5 GiB" or "1g".

    Raises UsageError for anything else, and for less than one byte.
    """
    total = 0
    if isinstance(amount, str):
        import re  # only for texts: every start would pay for it otherwise

        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?\s*", amount.lower())
        total = int(float(found[1]) * (1 << _UNITS[found[2]])) if found else 0
    elif hasattr(amount, "__index__") and not isinstance(amount, bool):  # a whole number, that of NumPy too
        total = int(amount)
    if total < 1:
        raise UsageError(
            f"memory must be a positive number of bytes, or a text such as '512M' or '1G', got {amount!r:.60}"
        )
    return total


def address_space_left() -> int | None:
    """Bytes that the limit of this process's address space (`ulimit -v`) leaves; None if there is no limit, or the
    system does not tell."""
    if sys.platform == "win32":
        return None
    import resource

    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return None
    with suppress(OSError, ValueError, IndexError):
        used = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        return max(0, limit - used * resource.getpagesize())
    return None


def prepare_for_limit() -> None:
    """Check that the limit of the address space leaves enough to open an engine. Does nothing without such a limit.

    Otherwise thread pools of the runtimes would end the process or wait forever. glibc's allocator reserves 64 MiB of
    address space for each of many threads; with a limit it is told to use two arenas. Raises OutOfMemoryError.
    """
    left = address_space_left()
    if left is None:
        return
    if left < _NEEDED:
        raise OutOfMemoryError(
            f"the limit of the address space leaves {left >> 20} MiB to this process, but opening a model takes "
            f"{_NEEDED >> 20} MiB; raise the limit (`ulimit -v`), or limit the memory in another way"
        )
    import ctypes

    with suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 2)


def affordable_threads(threads: int | None) -> int | None:
    """`threads`, or fewer if the limit of the address space has no room for that many; at least 1.

    None, which leaves the choice to a runtime, stays None without such a limit.
    """
    left = address_space_left()
    if left is None:
        return threads
    most = 1 + max(0, left - _NEEDED) // _PER_THREAD
    return min(threads or os.cpu_count() or 1, most)


def available_memory() -> int | None:
    """Bytes that can be used without swapping, or None if the platform does not tell.

    It is a snapshot: other processes may take the memory at any time.
    """
    if sys.platform == "win32":
        return _windows_available()
    # the machine may have more free than the container's limit leaves, or less
    # MemAvailable includes caches that the kernel can drop
    on_machine = proc_bytes(Path("/proc/meminfo"), "MemAvailable")
    found = [value for value in (on_machine, memory_left(), address_space_left()) if value is not None]
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
