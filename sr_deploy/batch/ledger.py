"""The pictures of a folder run, each claimed before it is made and recorded after: so that a run that was cut off
goes on, a changed picture or option redoes only what it touches, and several processes share one folder.

The records lie in a hidden folder `.sr-deploy` in every folder of results, one small file a picture. Reading and
writing pictures is `sr_deploy.batch.run`'s work.
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
from sr_deploy.errors import OutputError
from sr_deploy.system.claims import Claim, NoLocksError, stamp_of
from sr_deploy.system.files import digest_of
from sr_deploy.system.output_folder import OutputFolders

if TYPE_CHECKING:
    from sr_deploy.batch.steps import WriteSettings
    from sr_deploy.upscale import Upscaler

_SCHEMA = 1
_QUALITY_FORMATS = ("jpeg", "webp")
"""Formats whose bytes depend on a quality."""


@dataclass(frozen=True)
class Decision:
    """Whether a picture is to be made."""

    do: Literal["make", "skip", "taken"]
    """Taken: another process is at it."""
    existing: Existing = "refuse"
    """What to do with a file in the target's place, where it is to be made."""


@dataclass
class _ClaimedPicture:
    """A picture this process is at."""

    claim: Claim
    source: dict[str, Any]


class Ledger:
    """The claims and records of one run. Serves several threads.

    `key`: what besides a picture decides how its result looks; JSON values, the quality under "quality".
    `existing`: "resume" makes what is missing or no longer right, "overwrite" what was not made since this run
    began, "skip" what is not there at all.
    """

    def __init__(
        self, key: Mapping[str, Any], existing: Existing, *, say: Callable[[str], None] | None = None
    ) -> None:
        self._key, self._existing = {"schema": _SCHEMA, **key}, existing
        self._say = say or (lambda message: None)
        self._begun = time.time()
        self._held: dict[Job, _ClaimedPicture] = {}
        self._warned = False

    def begin(self, job: Job, folders: OutputFolders) -> Decision:
        """Claim `job`'s picture. Raises OutputError for a result that someone has changed."""
        there = os.path.lexists(job.target)
        if there and self._existing == "skip":
            return Decision("skip")
        claim = self._claim(job, folders)
        if claim is None:
            return Decision("taken")
        if isinstance(claim, Decision):
            return claim
        try:
            return self._begin(job, claim)
        except BaseException:
            claim.release()
            raise

    def done(self, job: Job) -> None:
        """Record that `job`'s result is written, and let go of it."""
        held = self._held.pop(job, None)
        if held is None:
            return
        with held.claim:
            target = stamp_of(job.target)
            record = {"key": self._key_of(job), "source": held.source, "target": target, "when": time.time()}
            with suppress(OSError):  # a full disk costs the record, not the picture
                held.claim.write(record)

    def drop(self, job: Job) -> None:
        """Let go of a picture that was not made."""
        held = self._held.pop(job, None)
        if held is not None:
            held.claim.discard()

    def close(self) -> None:
        """Let go of all that is left."""
        for job in list(self._held):
            self.drop(job)

    def _claim(self, job: Job, folders: OutputFolders) -> Claim | Decision | None:
        """The claim; None where another has it; where claims cannot be kept, what to do without one."""
        path = record_path(job.target)
        try:
            folders.make(path.parent)
            return Claim.take(path)
        except NoLocksError as error:
            if not self._warned:
                self._warned = True
                self._say(f"{error}; let only one process work on it, or give each a --shard")
        except OutputError:
            pass  # nothing can be written there, which the picture's own error will say
        return Decision("make", "refuse" if self._existing == "resume" else self._existing)

    def _begin(self, job: Job, claim: Claim) -> Decision:
        record = claim.record() or {}
        target = _stamp(job.target)
        ours = bool(record) and record.get("target", target) == target
        if ours and target is not None and self._is_current(job, record, claim):
            claim.release()
            return Decision("skip")
        if target is not None and self._existing == "skip":  # another process was faster
            claim.release()
            return Decision("skip")
        if target is not None and not ours and self._existing == "resume":
            raise OutputError(
                f"{job.source}: {job.target} was changed since it was made, or is not ours; move it away, or add "
                "--overwrite"
            )
        self._held[job] = _ClaimedPicture(claim, _source_of(job.source))
        claim.write({"doing": True})
        return Decision("make", "overwrite" if target is not None else "refuse")

    def _is_current(self, job: Job, record: dict[str, Any], claim: Claim) -> bool:
        """Whether the result that is there is what would be made now; in doubt, no."""
        if record.get("key") != self._key_of(job):
            return False
        if self._existing == "overwrite" and record.get("when", 0) < self._begun:
            return False
        before, now = record.get("source", {}), _stamp(job.source)
        if before.get("stamp") == now:
            return True
        if now is None or before.get("stamp", [None])[0] != now[0]:
            return False
        source = _source_of(job.source)  # touched or copied: the same bytes are the same picture
        if source.get("sha256") != before.get("sha256"):
            return False
        claim.write({**record, "source": source})
        return True

    def _key_of(self, job: Job) -> dict[str, Any]:
        quality = self._key.get("quality") if job.format in _QUALITY_FORMATS else None
        return {**self._key, "quality": quality, "format": job.format}


def open_ledger(
    upscaler: Upscaler, settings: WriteSettings, model: str, *, say: Callable[[str], None] | None = None
) -> Ledger:
    """The ledger of a run of `upscaler` with `settings`; `model` is the SHA-256 of its file."""
    size = settings.size
    key = {
        "model": model,
        "backend": upscaler.engine.backend,
        "tiles": [upscaler.tile, upscaler.overlap],
        "size": [size.width, size.height, size.fit and list(size.fit)],
        "quality": settings.quality,
    }
    return Ledger(key, settings.existing, say=say)


def _stamp(path: Path) -> list[int] | None:
    try:
        return stamp_of(path)
    except OSError:
        return None


def _source_of(path: Path) -> dict[str, Any]:
    """What tells whether a picture is still the same; empty where it cannot be read."""
    try:
        return {"stamp": stamp_of(path), "sha256": digest_of(path)}
    except OSError:
        return {}
