"""The parts of an unfinished result: a folder beside it, with a file and a JSON record for each part.

A part is a run of frames that is encoded on its own, so it can be kept when the work is interrupted. Its
record is written last and lists the timestamps of its frames. A file without a record does not count as a
part.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sr_deploy.errors import OutputError
from sr_deploy.system.claims import Claim, read_record, write_record
from sr_deploy.system.json_values import from_plain, to_plain


@dataclass(frozen=True, kw_only=True)
class Part:
    """The record of one part."""

    pts: list[int]
    """Display times of its frames in ascending order, in the video's time base."""
    order: list[int]
    """Index into `pts` of each packet, in the order of the file. It differs from 0, 1, 2... if the encoder
    reorders frames."""
    tail: int
    """Duration of its last frame in the video's time base, used if no part follows."""
    bytes: int
    """Size of its file in bytes."""


class Parts:
    """The parts of the result `target`. A lock gives them to one process as long as the object is in use.

    Raises OutputError if another process holds the lock.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        self.folder = target.with_name(f".{target.name}.sr-deploy")
        with suppress(OSError):  # the claim's error says what is wrong
            self.folder.mkdir(mode=0o700, parents=True)
        claim = Claim.take(self.folder / "lock")
        if claim is None:
            raise OutputError(
                f"another sr-deploy is making {target}; wait for it, or give another name with -o"
            )
        self._claim = claim
        self._drop_links()
        self.done: list[Part] = []

    def resume(self, key: Mapping[str, Any]) -> list[str]:
        """Load the parts that were made with the same `key`; delete them if the key differs.

        Returns the names of the key's entries that changed, if there were parts. Loading ends at the first
        part that is missing or damaged.
        """
        plan = self.folder / "plan.json"
        before = read_record(plan)
        if before == key:
            while (part := self._whole_part(len(self.done))) is not None:
                self.done.append(part)
            return []
        had_parts = self.record_path(0).exists()
        self._clear()
        write_record(plan, key)
        return sorted(name for name in key if (before or {}).get(name) != key[name]) if had_parts else []

    def forget(self) -> None:
        """Delete the parts of an earlier run."""
        self._clear()

    def path(self, number: int) -> Path:
        """Return the path of a part's file, counted from 0."""
        return self.folder / f"{number:06}.part"

    def record_path(self, number: int) -> Path:
        """Return the path of a part's record, counted from 0."""
        return self.folder / f"{number:06}.json"

    def finish(self, temporary: Path, part: Part) -> None:
        """Store `temporary` as the next part, safe on disk before its record is written."""
        number = len(self.done)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, self.path(number))
        write_record(self.record_path(number), to_plain(part))
        self.done.append(part)

    @property
    def frames(self) -> int:
        """Number of frames in the finished parts."""
        return sum(len(part.pts) for part in self.done)

    def remove(self) -> None:
        """Delete the folder after the result is complete. The lock goes last, so no other process starts in
        between."""
        self._clear()
        self.release()

    def release(self) -> None:
        """Release the lock, so that another process may continue. An empty folder is removed."""
        with suppress(OSError):
            if [path.name for path in self.folder.iterdir()] == ["lock"]:
                self._claim.discard()
                self.folder.rmdir()
        self._claim.release()

    def _whole_part(self, number: int) -> Part | None:
        """Return a part if its record is complete and its file has the recorded size, else None."""
        record = read_record(self.record_path(number))
        try:
            part = from_plain(Part, record)
            return part if self.path(number).stat().st_size == part.bytes else None
        except (ValueError, OSError):
            return None

    def _drop_links(self) -> None:
        """Delete what is not a regular file, so that nothing is read or written through a link."""
        for path in self.folder.iterdir():
            if path.is_symlink() or not path.is_file():
                with suppress(OSError):
                    path.unlink()

    def _clear(self) -> None:
        """Delete everything but the lock."""
        for path in self.folder.iterdir():
            if path.name != "lock":
                with suppress(OSError):
                    path.unlink()
