"""Facts by which a run knows a result again that it or an earlier run wrote, and tells damage from somebody's work.

Size and time are compared first. A power loss may leave a file of the right size that ends in zeros, or a shorter one.
Such a file is ours if the result that is made again begins like it.
"""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from typing import Any

from sr_deploy.system.claims import stamp_of

_BLOCK = 1 << 20  # bytes per read
_HEAD = 4096
"""Bytes at the beginning that are compared before a result is made again only to compare it."""
_END = 16
"""Bytes at the end that are compared on every run. Every format but TIFF and BMP ends in bytes that are not zero."""


def facts_of(path: Path) -> dict[str, Any]:
    """Return what a record says about the result `path`: JSON values. Raises OSError."""
    whole, head, end = 0, b"", b""
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            head = head or block[:_HEAD]
            whole, end = zlib.crc32(block, whole), (end + block)[-_END:]
    return {"target": stamp_of(path), "crc32": whole, "head": zlib.crc32(head), "end": end.hex()}


def is_written(path: Path, record: dict[str, Any]) -> bool:
    """Return whether the file `path` is the result that `record` describes, by size and time, or else size and CRC."""
    try:
        stamp, recorded = stamp_of(path), record.get("target")
        if stamp == recorded:
            return True
        if stamp[0] != _size(record) or "crc32" not in record:
            return False
        return bool(facts_of(path)["crc32"] == record["crc32"])
    except OSError:
        return False


def was_replaced(path: Path, record: dict[str, Any]) -> bool:
    """Return whether `path` is the result before the one that `record` describes: the run was killed in between."""
    try:
        return bool(stamp_of(path) == record.get("before"))
    except OSError:
        return False


def is_whole(path: Path, record: dict[str, Any], *, check: bool) -> bool:
    """Return whether `path` still ends as `record` says; with `check`, whether all its bytes are those written."""
    try:
        if check and "crc32" in record:
            return bool(facts_of(path)["crc32"] == record["crc32"])
        return "end" not in record or _part(path, -_END).hex() == record["end"]
    except OSError:
        return False


def may_be_damaged(path: Path, record: dict[str, Any]) -> bool:
    """Return whether `path`, which is not as recorded, looks like what a power loss leaves of a result.

    Then it is made again and compared (`is_remainder`). A picture that somebody edited does not look like that.
    """
    try:
        size, head = path.stat().st_size, _part(path, 0)
        shorter = size < _size(record)
        if not shorter and not _part(path, -1).endswith(b"\0"):
            return False
        return size < _HEAD or zlib.crc32(head) == record.get("head") or head.endswith(b"\0")
    except OSError:
        return False


def is_remainder(path: Path, whole: Path) -> bool:
    """Return whether `path` is the file `whole`, or the beginning of it, perhaps filled up with zeros.

    Raises OSError.
    """
    if path.stat().st_size > whole.stat().st_size:
        return False
    zeros = False  # True once the files differ: then all of the rest must be zero
    with open(path, "rb") as left, open(whole, "rb") as right:
        while block := left.read(_BLOCK):
            other = right.read(len(block))
            if zeros or block != other:
                kept = b"" if zeros else block.rstrip(b"\0")
                if not other.startswith(kept) or block[len(kept) :].strip(b"\0"):
                    return False
                zeros = True
    return True


def _size(record: dict[str, Any]) -> int:
    """Return the size in bytes that `record` gives the result; 0 if it gives none."""
    recorded = record.get("target")
    size = recorded[0] if isinstance(recorded, list) and recorded else 0
    return size if isinstance(size, int) else 0


def _part(path: Path, begin: int) -> bytes:
    """Return the first bytes of a file (0), or as many at its end as `begin` says (negative)."""
    with open(path, "rb") as file:
        if begin:
            file.seek(max(0, os.fstat(file.fileno()).st_size + begin))
        return file.read(-begin or _HEAD)
