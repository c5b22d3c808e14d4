"""The limits that a Linux control group (a container) puts on this process: processor time and memory.

Version 2 of the interface is asked first, then version 1 (https://docs.kernel.org/admin-guide/cgroup-v2.html).
Elsewhere than on Linux there are no such files, and every answer is None.
"""

from __future__ import annotations

from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_NO_LIMIT = 1 << 60
"""Version 1 writes "no limit" as a number of about 2**63 bytes; nothing has this much memory."""


def cpu_quota() -> float | None:
    """Cores' worth of processor time that the group may use, or None without a limit."""
    words = (_text("cpu.max") or "").split()
    if not words:
        words = [_text(f"cpu/cpu.cfs_{name}_us") or "" for name in ("quota", "period")]
    try:
        limit, period = (int(word) for word in words)
    except ValueError:  # "max" is how version 2 writes "no limit"; no file gives no number at all
        return None
    return limit / period if limit > 0 and period > 0 else None  # version 1 writes -1 for "no limit"


def memory_limit() -> int | None:
    """Bytes that all processes of the group may use together, or None without a limit."""
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        limit = _number(name)
        if limit is not None and limit < _NO_LIMIT:
            return limit
    return None


def memory_left() -> int | None:
    """Bytes that the group may still take, or None without a limit.

    Cached file pages count as free: the kernel drops them before it refuses memory.
    """
    for folder, limit_name, used_name in (
        ("", "memory.max", "memory.current"),
        ("memory/", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        limit, used = _number(folder + limit_name), _number(folder + used_name)
        if limit is not None and used is not None:
            return max(limit - used + _droppable_cache(folder + "memory.stat"), 0)
    return None


def _droppable_cache(name: str) -> int:
    """Bytes of cached file pages that were not used lately."""
    lines = (_text(name) or "").splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))


def _number(name: str) -> int | None:
    text = _text(name)
    return int(text) if text is not None and text.isdecimal() else None


def _text(name: str) -> str | None:
    try:
        return (_ROOT / name).read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return None
