"""What a process took: its peak of memory, the processor time others took beside it, energy.

Every figure is None where the platform does not tell it.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

_SYSTEM: str = sys.platform
_RAPL = Path("/sys/class/powercap")
_STATUS, _CLEAR, _STAT = Path("/proc/self/status"), Path("/proc/self/clear_refs"), Path("/proc/stat")
_IDLE_COLUMNS = (3, 4)  # of /proc/stat, proc(5): idle, iowait
_GUEST_COLUMN = 8  # guest time from here on, which user time has already


def resident() -> int | None:
    """Bytes of this process in memory now."""
    if _SYSTEM == "linux":
        return _status_bytes("VmRSS")
    return _windows_memory("WorkingSetSize") if _SYSTEM == "win32" else peak_resident()


def peak_resident() -> int | None:
    """The most bytes that this process had in memory, since `forget_peak` where that works."""
    if _SYSTEM == "linux":
        return _status_bytes("VmHWM")
    if _SYSTEM == "win32":
        return _windows_memory("PeakWorkingSetSize")
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if _SYSTEM == "darwin" else 1024)


def reset_peak() -> bool:
    """Let the peak begin anew; whether the platform can (Linux, where the kernel allows it)."""
    try:
        _CLEAR.write_text("5", encoding="utf-8")
    except OSError:
        return False
    return True


def _status_bytes(key: str) -> int | None:
    try:
        for line in _STATUS.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith(f"{key}:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None


def _windows_memory(field: str) -> int | None:
    import ctypes
    from ctypes import wintypes

    size = ctypes.c_size_t
    names = ("PeakWorkingSetSize", "WorkingSetSize", "a", "b", "c", "d", "PagefileUsage", "PeakPagefileUsage")

    class Counters(ctypes.Structure):
        _fields_ = (
            ("cb", wintypes.DWORD),
            ("PageFaultCount", wintypes.DWORD),
            *((name, size) for name in names),
        )

    windll = getattr(ctypes, "windll")  # noqa: B009 (exists on Windows only)
    counters = Counters(cb=ctypes.sizeof(Counters))
    process = windll.kernel32.GetCurrentProcess
    process.restype = wintypes.HANDLE
    get_memory_info = windll.psapi.GetProcessMemoryInfo
    get_memory_info.argtypes = (wintypes.HANDLE, ctypes.c_void_p, wintypes.DWORD)
    return (
        int(getattr(counters, field))
        if get_memory_info(process(), ctypes.byref(counters), counters.cb)
        else None
    )


class OtherProcesses:
    """How busy other processes keep the cores that this one may use (Linux)."""

    def __init__(self) -> None:
        self._cores = sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else []
        self._begin = self._now()

    def share(self) -> float | None:
        """Of the cores' time since this object was made: 0 nobody else, 1 all of it."""
        now = self._now()
        if now is None or self._begin is None:
            return None
        busy, own, wall = (new - old for new, old in zip(now, self._begin, strict=True))
        return min(1.0, max(0.0, (busy - own) / (wall * len(self._cores)))) if wall > 0 else None

    def _now(self) -> tuple[float, float, float] | None:
        busy = _busy_seconds(self._cores)
        return None if busy is None else (busy, time.process_time(), time.perf_counter())


def _busy_seconds(cores: list[int]) -> float | None:
    """Seconds that these cores worked since the machine started."""
    names = {f"cpu{core}" for core in cores}
    try:
        lines = [line.split() for line in _STAT.read_text(encoding="utf-8").splitlines()]
        ticks = [
            sum(int(v) for i, v in enumerate(line[1:]) if i not in _IDLE_COLUMNS and i < _GUEST_COLUMN)
            for line in lines
            if line and line[0] in names
        ]
    except (OSError, ValueError):
        return None
    return sum(ticks) / os.sysconf("SC_CLK_TCK") if ticks else None


class EnergyMeter:
    """Joules of the processor packages, from Linux's power capping files (Intel and AMD, where readable)."""

    def __init__(self) -> None:
        self._zones = [zone for zone in sorted(_RAPL.glob("intel-rapl:*")) if zone.name.count(":") == 1]
        self._begin = [_read_integer(zone / "energy_uj") for zone in self._zones]

    def joules(self) -> float | None:
        """Since this object was made; None where nothing tells."""
        total = 0
        for zone, begin in zip(self._zones, self._begin, strict=True):
            end = _read_integer(zone / "energy_uj")
            if begin is None or end is None:
                return None
            wrapped = (_read_integer(zone / "max_energy_range_uj") or 0) if end < begin else 0
            total += end - begin + wrapped
        return total / 1e6 if self._zones else None


def _read_integer(file: Path) -> int | None:
    try:
        return int(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
