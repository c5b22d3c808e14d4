"""The parts of a result that is being made: a folder beside it, one file and one record a part.

A part is a stretch of frames encoded on its own, so it can be kept when the work is cut off, and made again
without the others. Its record, written last, lists the timestamps of its frames; a part without one is none.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sr_deploy.errors import OutputError
from sr_deploy.system.claims import Claim, read_record, write_record


@dataclass(frozen=True, kw_only=True)
class Part:
    """The record of one part."""

    pts: list[int]
    """Of its frames, in the order they are shown."""
    order: list[int]
    """Of its packets as they lie in the file: the place among `pts` of each."""
    tail: int
    """How long its last frame is shown where no part follows."""
    bytes: int
    """Of its file."""


class Parts:
    """The parts of the result `target`, held by this process alone while the object is in use."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.folder = target.with_name(f".{target.name}.sr-deploy")
        claim = Claim.take(self.folder / "lock")
        if claim is None:
            raise OutputError(
                f"another sr-deploy is making {target}; wait for it, or give another name with -o"
            )
        self._claim = claim
        self.done: list[Part] = []

    def resume(self, key: Mapping[str, Any]) -> list[str]:
        """Keep the parts made under the same `key`; forget all others. What differs, where there were some."""
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
        """Drop what an earlier run left."""
        self._clear()

    def path(self, number: int) -> Path:
        """Of a part's file."""
        return self.folder / f"{number:06}.part"

    def record_path(self, number: int) -> Path:
        """Of a part's record."""
        return self.folder / f"{number:06}.json"

    def finish(self, temporary: Path, part: Part) -> None:
        """Take `temporary` as the next part, safely on the disk."""
        number = len(self.done)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, self.path(number))
        write_record(self.record_path(number), asdict(part))
        self.done.append(part)

    @property
    def frames(self) -> int:
        """In the parts that are done."""
        return sum(len(part.pts) for part in self.done)

    def remove(self) -> None:
        """Remove the folder, the lock last: the result is there."""
        self._clear()
        self.release()

    def release(self) -> None:
        """Let others go on with the parts; where there are none, leave nothing behind."""
        with suppress(OSError):
            if [path.name for path in self.folder.iterdir()] == ["lock"]:
                self._claim.discard()
                self.folder.rmdir()
        self._claim.release()

    def _whole_part(self, number: int) -> Part | None:
        record = read_record(self.record_path(number))
        try:
            part = Part(**(record or {}))
            return part if self.path(number).stat().st_size == part.bytes else None
        except (TypeError, OSError):
            return None

    def _clear(self) -> None:
        for path in self.folder.iterdir():
            if path.name != "lock":
                with suppress(OSError):
                    path.unlink()
