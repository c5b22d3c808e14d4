"""Claims and records of the pictures of a folder run.

A picture is claimed before it is made and recorded afterwards. So a run that was cut off can go on, a
changed picture or option redoes only the results it affects, and several processes can share one folder.

The records lie in a hidden folder `.sr-deploy` in every folder of results, one small JSON file for each
picture. `sr_deploy.batch.run` reads and writes the pictures themselves.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sr_deploy.batch.jobs import Existing, Job, record_path
from sr_deploy.batch.written import (
    facts_of,
    is_remainder,
    is_whole,
    is_written,
    may_be_damaged,
    was_replaced,
)
from sr_deploy.errors import OutputError
from sr_deploy.system.claims import Claim, NoLocksError, UntrustedRecordError, read_record, stamp_of
from sr_deploy.system.files import digest_of, sync_folder
from sr_deploy.system.output_folder import OutputFolders

if TYPE_CHECKING:
    from sr_deploy.batch.steps import WriteSettings
    from sr_deploy.upscale import Upscaler

_SCHEMA = 1
"""Version of a record. It is part of the key, so a change makes every recorded result outdated."""
_QUALITY_FORMATS = ("jpeg", "webp")
"""Formats whose bytes depend on the quality. For other formats a changed quality redoes nothing."""


@dataclass(frozen=True)
class Decision:
    """Decision whether a picture is to be made."""

    do: Literal["make", "skip", "taken"]
    """"make", "skip" (the result is current), or "taken" (another process is working on it)."""
    existing: Existing = "refuse"
    """Policy for a file at the target path if the picture is to be made."""


@dataclass
class _ClaimedPicture:
    """A picture that this process has claimed."""

    claim: Claim
    source: dict[str, Any]
    """Stamp and SHA-256 of the input, taken before it is read."""
    earlier: bool
    """True if the claim holds a record of an earlier result."""
    stamp: list[int] | None
    """Stamp of the file at the target when the picture was claimed; None if there was none."""
    ours: bool
    """True if a record says that an earlier run wrote that file."""
    compare: bool = False
    """True if that file may be a damaged result: it is replaced only if the new result begins like it."""
    record: dict[str, Any] | None = None
    """Record of the result that is about to get its name."""


class Ledger:
    """The claims and records of one run. Thread safe for calls about different jobs.

    `key` holds everything besides the picture that determines the result: JSON values, with the quality
    under "quality". `existing` selects what is made: "resume" makes missing and outdated results,
    "overwrite" makes all that were not made since this run began, and "skip" makes only missing ones. With `check`,
    all bytes of the existing results are compared with their checksum.
    """

    def __init__(
        self,
        key: Mapping[str, Any],
        existing: Existing,
        *,
        check: bool = False,
        say: Callable[[str], None] | None = None,
    ) -> None:
        self._key, self._existing = {"schema": _SCHEMA, **key}, existing
        self._say = say or (lambda message: None)
        self._check = check
        self._begun = _now()
        self._held: dict[Job, _ClaimedPicture] = {}
        self._folders = set[Path]()
        self._warned = False

    def begin(self, job: Job, folders: OutputFolders) -> Decision:
        """Claim the picture of `job` and decide what to do with it. Raises OutputError if the result was
        changed by someone else."""
        if os.path.lexists(job.target) and self._existing == "skip":
            return Decision("skip")
        existed = os.path.lexists(record_path(job.target))
        claim = self._claim(job, folders)
        if claim is None:
            return Decision("taken")
        if isinstance(claim, Decision):
            return claim
        try:
            return self._begin(job, claim, existed)
        except BaseException:
            claim.release()
            raise

    def written(self, job: Job, draft: Path) -> None:
        """Record that the file `draft` is about to become the result of `job`.

        The record is on the disk before the result gets its name. So if the process or the machine dies in between,
        the next run knows what was there before and what may be there now. Raises OutputError if the file at the
        target is not ours after all.
        """
        held = self._held.get(job)
        if held is None:
            return
        if self._existing == "resume" and held.stamp is not None:
            same = _stamp(job.target) == held.stamp
            if not same or (held.compare and not is_remainder(job.target, draft)):
                raise _foreign_error(job)
        held.record = self._record(job, held, draft)
        with suppress(OSError):  # a full disk costs the record, not the picture
            held.claim.write(held.record, synced=True)

    def done(self, job: Job) -> None:
        """Record that the result of `job` is written, and release its claim."""
        held = self._held.pop(job, None)
        if held is None:
            return
        self._folders.update((job.target.parent, held.claim.path.parent))
        # The stamp is taken while the claim is held, so no other process can replace the result in between.
        with held.claim, suppress(OSError):
            if held.record is None:
                held.claim.write(self._record(job, held, job.target))
            elif held.record["target"] != (stamp := stamp_of(job.target)):  # a file system that rounds times
                held.claim.write({**held.record, "target": stamp})

    def drop(self, job: Job) -> None:
        """Release the claim of a picture that was not made. The record of an earlier result stays. Does nothing if
        there is no claim."""
        held = self._held.pop(job, None)
        if held is not None and held.earlier:
            held.claim.release()
        elif held is not None:
            held.claim.discard()

    def close(self) -> None:
        """Release all claims that are still held, and flush the names of the results to the disk."""
        for job in list(self._held):
            self.drop(job)
        # once for all results, because a folder takes as long to flush as a file
        for folder in self._folders:
            sync_folder(folder)
        self._folders.clear()

    def _claim(self, job: Job, folders: OutputFolders) -> Claim | Decision | None:
        """Take the claim of a picture.

        Returns None if another process holds it, and a Decision if claims cannot be kept in this folder.
        Then the run goes on without claims: a file system without locks, or a record that is a link or another
        user's, is reported once.
        """
        path = record_path(job.target)
        try:
            folders.make(path.parent)
            return Claim.take(path)
        except NoLocksError as error:
            if not self._warned:
                self._warned = True
                self._say(
                    f"{error}; let only one process work on this folder, or give each process a --shard"
                )
        except UntrustedRecordError as error:
            if not self._warned:
                self._warned = True
                self._say(str(error))
        except OutputError:
            pass  # the folder cannot be written to; writing the picture raises the error that says so
        return Decision("make", "refuse" if self._existing == "resume" else self._existing)

    def _begin(self, job: Job, claim: Claim, existed: bool) -> Decision:
        """Decide about a claimed picture. The claim is kept only if the picture is to be made.

        `existed` says whether there was a record file before. A file at the target is replaced only if the record
        says that we wrote it, if the user asked for it, or if it may be a result that a power loss has damaged, or
        whose record it has damaged. In the last case the new result has to begin like it (`written`).
        """
        record, stamp = claim.record() or {}, _stamp(job.target)
        wrote = stamp is not None and is_written(job.target, record)
        ours = wrote or (stamp is not None and was_replaced(job.target, record))
        if wrote and self._is_current(job, record, claim):
            claim.release()
            return Decision("skip")
        if stamp is not None and self._existing == "skip":  # another process was faster
            claim.release()
            return Decision("skip")
        compare = False
        if stamp is not None and not ours and self._existing == "resume":
            compare = existed and (claim.is_damaged() or may_be_damaged(job.target, record))
            if not compare:
                raise _foreign_error(job)
        self._held[job] = _ClaimedPicture(
            claim, _source_of(job.source), bool(record), stamp, ours or compare, compare
        )
        return Decision("make", "overwrite" if stamp is not None else "refuse")

    def peek(self, job: Job) -> Literal["make", "skip", "foreign"]:
        """Return what a run would do with `job`, without claiming it: "foreign" stands for a result that is not ours."""
        found, there = read_record(record_path(job.target)), os.path.lexists(job.target)
        record, damaged = found or {}, found is None and os.path.lexists(record_path(job.target))
        if there and self._existing == "skip":
            return "skip"
        if is_written(job.target, record):
            return "skip" if self._is_current(job, record, None) else "make"
        ours = damaged or was_replaced(job.target, record) or may_be_damaged(job.target, record)
        return "foreign" if there and self._existing == "resume" and not ours else "make"

    def _is_current(self, job: Job, record: dict[str, Any], claim: Claim | None) -> bool:
        """Return whether the existing result equals what would be made now. Doubt counts as no.

        The stamp (size and time) of the input is compared first because it is cheap. If only the time
        differs, the SHA-256 decides, and the record gets the new stamp, if the picture is claimed.
        """
        if record.get("key") != self._key_of(job) or not is_whole(job.target, record, check=self._check):
            return False
        if self._existing == "overwrite" and not self._is_new(record):
            return False
        before, now = _mapping(record.get("source")), _stamp(job.source)
        if before.get("stamp") == now:
            return True
        recorded = before.get("stamp")
        if now is None or not isinstance(recorded, list) or recorded[:1] != now[:1]:
            return False
        source = _source_of(job.source)  # a file that was only touched or copied still has the same bytes
        if source.get("sha256") != before.get("sha256"):
            return False
        if claim is not None:
            claim.write({**record, "source": source})
        return True

    def _is_new(self, record: dict[str, Any]) -> bool:
        """Return whether the result was made since this run began, by the counter of this start of the machine.

        Results that were made on another machine, or before it was started again, count as old.
        """
        order = record.get("order")
        if not (isinstance(order, list) and len(order) == 2 and isinstance(order[1], int)):
            return False
        return bool(order[0] == self._begun[0] != "") and self._begun[1] <= order[1] <= time.monotonic_ns()

    def _record(self, job: Job, held: _ClaimedPicture, result: Path) -> dict[str, Any]:
        """Return the record of the result of `job`, whose bytes are in the file `result`. Raises OSError."""
        record = {"key": self._key_of(job), "source": held.source, **facts_of(result)}
        if held.ours and held.stamp is not None:
            record["before"] = held.stamp
        # the time of the clock is for people: it may be wrong, or change
        return {**record, "order": _now(), "when": time.time()}

    def _key_of(self, job: Job) -> dict[str, Any]:
        """Return the key for one job: the key of the run, the format, and the quality if the format depends
        on it."""
        quality = self._key.get("quality") if job.format in _QUALITY_FORMATS else None
        return {**self._key, "quality": quality, "format": job.format}


def open_ledger(
    upscaler: Upscaler, settings: WriteSettings, model: str, *, say: Callable[[str], None] | None = None
) -> Ledger:
    """Return the ledger for a run of `upscaler` with `settings`. `model` is the SHA-256 of the model file.

    The tiles are part of the key because a tile with a small overlap changes the pixels of the result.
    """
    size = settings.size
    key: dict[str, Any] = {
        "model": model,
        "backend": upscaler.engine.backend,
        "tiles": [upscaler.tile, upscaler.overlap],
        "size": [size.width, size.height, size.fit and list(size.fit), *filter(None, [size.factor])],
        "quality": settings.quality,
    }
    # options are part of the key only if they are used, so that records made before they existed stay valid
    chosen = {
        name: getattr(settings, name) for name in ("alpha", "profile", "strip", "keep_damaged", "keep_dates")
    }
    usual = type(settings)()
    key |= {name: value for name, value in chosen.items() if value != getattr(usual, name)}
    return Ledger(key, settings.existing, check=settings.check, say=say)


def _stamp(path: Path) -> list[int] | None:
    """Return the stamp of a file, or None if there is no such file. A link that leads nowhere is there."""
    try:
        return stamp_of(path)
    except OSError:
        return [-1, -1] if os.path.lexists(path) else None


def _source_of(path: Path) -> dict[str, Any]:
    """Return stamp and SHA-256 of an input, which tell whether it has changed; empty if it cannot be read."""
    try:
        return {"stamp": stamp_of(path), "sha256": digest_of(path)}
    except OSError:
        return {}


def _foreign_error(job: Job) -> OutputError:
    """The error for a file at the target that no record says we wrote."""
    return OutputError(
        f"{job.source}: {job.target} was changed after it was made, or was not made by sr-deploy; move it away, or add "
        "--overwrite"
    )


def _mapping(value: object) -> dict[str, Any]:
    """Return `value` if it is a dict, as JSON gives it, else an empty one."""
    return value if isinstance(value, dict) else {}


def _now() -> tuple[str, int]:
    """Return (start of the machine, nanoseconds since then): an order that does not depend on the clock's time.

    The first is empty where the system does not tell its starts apart (all but Linux); then no order is known.
    """
    boot = ""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return boot, time.monotonic_ns()
