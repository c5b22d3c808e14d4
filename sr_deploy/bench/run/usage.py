"""Measure what a process uses: its peak of memory, processor time taken by other processes, and energy.

Every figure is None if the platform does not report it.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from sr_deploy.system.memory import proc_bytes

_SYSTEM: str = sys.platform
_RAPL = Path("/sys/class/powercap")
_STATUS, _CLEAR, _STAT = Path("/proc/self/status"), Path("/proc/self/clear_refs"), Path("/proc/stat")
_IDLE_COLUMNS = (3, 4)  # columns idle and iowait of /proc/stat, see proc(5)
_GUEST_COLUMN = 8  # from here on guest time, which is already part of user time


def resident() -> int | None:
    """Resident memory of this process in bytes; the peak on systems other than Linux and Windows."""
    if _SYSTEM == "linux":
        return proc_bytes(_STATUS, "VmRSS")
    return _windows_memory("WorkingSetSize") if _SYSTEM == "win32" else peak_resident()


def peak_resident() -> int | None:
    """Peak resident memory of this process in bytes, since the last `reset_peak` if the platform has that."""
    if _SYSTEM == "linux":
        return proc_bytes(_STATUS, "VmHWM")
    if _SYSTEM == "win32":
        return _windows_memory("PeakWorkingSetSize")
    import resource

    # getrusage counts in bytes on macOS, in KiB on other systems.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if _SYSTEM == "darwin" else 1024)


def reset_peak() -> bool:
    """Reset the peak of resident memory. Returns whether that worked: only on Linux, if the kernel allows it."""
    try:
        _CLEAR.write_text("5", encoding="utf-8")  # 5 resets VmHWM, see proc(5)
    except OSError:
        return False
    return True


def _windows_memory(field: str) -> int | None:
    """A field of PROCESS_MEMORY_COUNTERS in bytes, such as "WorkingSetSize", from GetProcessMemoryInfo."""
    import ctypes
    from ctypes import wintypes

    size = ctypes.c_size_t
    names = ("PeakWorkingSetSize", "WorkingSetSize", "a", "b", "c", "d", "PagefileUsage", "PeakPagefileUsage")

    # Windows fills the structure in this order; the fields without a name are not read.
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
    """Measure how busy other processes keep the cores that this process may use (Linux).

    Their time is the busy time of the cores in /proc/stat minus the processor time of this process. The file
    counts in ticks of usually 10 ms, so short periods give rough figures.
    """

    def __init__(self) -> None:
        self._cores = sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else []
        self._begin = self._now()

    def share(self) -> float | None:
        """Share (0..1) of the cores' time that others took since this object was made: 1 is all of it."""
        now = self._now()
        if now is None or self._begin is None:
            return None
        busy, own, wall = (new - old for new, old in zip(now, self._begin, strict=True))
        return min(1.0, max(0.0, (busy - own) / (wall * len(self._cores)))) if wall > 0 else None

    def _now(self) -> tuple[float, float, float] | None:
        """Busy time of the cores, processor time of this process, and elapsed time, in seconds."""
        busy = _busy_seconds(self._cores)
        return None if busy is None else (busy, time.process_time(), time.perf_counter())


def _busy_seconds(cores: list[int]) -> float | None:
    """Seconds that these cores have worked since the machine started; None if /proc/stat cannot be read."""
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
    """Measure the energy of the processor packages by Linux's power capping files (Intel and AMD)."""

    def __init__(self) -> None:
        self._zones = [zone for zone in sorted(_RAPL.glob("intel-rapl:*")) if zone.name.count(":") == 1]
        # Zones with a second colon, such as intel-rapl:0:0, are parts of a package that is counted already.
        self._begin = [_read_integer(zone / "energy_uj") for zone in self._zones]

    def joules(self) -> float | None:
        """Joules since this object was made; None if the platform does not report them."""
        total = 0
        for zone, begin in zip(self._zones, self._begin, strict=True):
            end = _read_integer(zone / "energy_uj")
            if begin is None or end is None:
                return None
            # The counter starts again at zero after its largest value.
            wrapped = (_read_integer(zone / "max_energy_range_uj") or 0) if end < begin else 0
            total += end - begin + wrapped
        return total / 1e6 if self._zones else None


def _read_integer(file: Path) -> int | None:
    """The integer in a file; None if it cannot be read."""
    try:
        return int(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
