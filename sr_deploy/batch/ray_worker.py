"""The part of a Ray run that works on the machines of the cluster: an Upscaler in an actor, given a few
pictures at a time.

`sr_deploy.batch.ray_driver` starts it. This module neither starts nor finds a cluster.
"""

from __future__ import annotations

import os
import pickle
import socket
import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sr_deploy.batch.jobs import Job
from sr_deploy.batch.steps import Outcome, Stop, WriteSettings
from sr_deploy.errors import MissingRuntimeError, ModelError, SrDeployError
from sr_deploy.version import __version__

if TYPE_CHECKING:
    from sr_deploy.upscale import Upscaler

POLL_SECONDS = 0.5
"""Seconds between two checks of the stop flag. Ctrl-C is noticed within that time, and a check costs a remote call."""
_MAX_DEATHS = 2
"""Number of workers that may die of one picture that is tried alone, before the picture fails."""


@dataclass(frozen=True, kw_only=True)
class WorkerConfig:
    """Configuration of a worker, equal for all of them. It is pickled and sent over the network."""

    model: str
    """Name of a bundled model, or a file that all machines see under the same path."""
    digest: str
    """SHA-256 of the model on the driver. A worker that finds another file refuses to work."""
    settings: WriteSettings
    backend: str = "auto"
    """Name of the backend. "auto" is decided by one worker for all, so that all give the same bytes."""
    threads: int | None = None
    """Threads of each worker; None: as many as the smallest machine has CPUs."""
    tile: int | Literal["auto"] | None = "auto"
    overlap: int | None = None
    version: str = __version__
    """Version of sr-deploy on the driver. A worker with another version refuses to work."""

    def open(self, say: Callable[[str], None]) -> Upscaler:
        """Open the Upscaler of this configuration on this machine.

        Raises MissingRuntimeError for another version of sr-deploy and ModelError for another model file,
        since results would differ between machines.
        """
        from sr_deploy.models import find_model
        from sr_deploy.system.cores import usable_cores
        from sr_deploy.system.files import digest_of
        from sr_deploy.upscale import Upscaler

        host = socket.gethostname()
        if self.version != __version__:
            raise MissingRuntimeError(
                f"{host} has sr-deploy {__version__}, but this run needs {self.version}; install the same version "
                "on every machine of the cluster"
            )
        if digest_of(find_model(self.model)) != self.digest:
            raise ModelError(
                f"{self.model} is a different file on {host}; copy the model to a place that all machines see"
            )
        threads = min(self.threads or 1, usable_cores() or self.threads or 1)
        return Upscaler.open(
            self.model,
            backend=self.backend,
            threads=threads,
            tile=self.tile,
            overlap=self.overlap,
            say=say,
        )


@dataclass(frozen=True)
class ModelInfo:
    """Facts about the model, found by the first worker before the run."""

    backend: str
    """Name of the backend that "auto" stands for."""
    scale: int
    """Enlargement of the model along each axis."""


def inspect_model(config: WorkerConfig) -> tuple[ModelInfo | SrDeployError, list[str]]:
    """Open the model on a worker and return its facts, or the error, with the messages for the user.

    Errors are returned, not raised, because Ray would wrap a raised one.
    """
    said: list[str] = []
    try:
        with warnings.catch_warnings(record=True) as caught, config.open(said.append) as upscaler:
            found = ModelInfo(upscaler.engine.backend, upscaler.spec.scale)
    except SrDeployError as error:
        return error, said
    return found, [*said, *(str(one.message) for one in caught)]


@dataclass(frozen=True, kw_only=True)
class ShareResult:
    """The result of one share of the jobs."""

    outcomes: Mapping[int, Outcome]
    """Outcome of each finished job, by the number of the job. Jobs that were stopped are missing."""
    said: Sequence[str] = ()
    """Messages for the user."""
    full: bool = False
    """True if the output folder takes no more files."""
    refused: SrDeployError | None = None
    """Error for which this worker cannot do any job; None otherwise."""


_Share = tuple[int, ...]
"""Numbers of the jobs that a worker gets at once."""


class StopFlag:
    """Ray actor by which the driver stops the workers.

    It also counts how often each share was begun. A worker that dies cannot report it, but this actor
    outlives the worker, so a repeated share is recognised.
    """

    def __init__(self) -> None:
        self._on, self._begun = True, Counter[_Share]()
        self._busy: set[_Share] = set()

    def begin(self, share: _Share) -> int:
        """Count a start of `share`. Returns its starts so far, this one included; 0 if the run is stopped."""
        if not self._on:
            return 0
        self._busy.add(share)
        self._begun[share] += 1
        return self._begun[share]

    def end(self, share: _Share) -> None:
        """Note that a worker has finished `share`, or given it up."""
        self._busy.discard(share)

    def is_on(self) -> bool:
        """Return whether the workers may go on."""
        return self._on

    def turn_off(self) -> None:
        """Ask the workers to stop."""
        self._on = False

    def busy(self) -> int:
        """Return the number of shares that are being worked on."""
        return len(self._busy)


class _StoppedError(BaseException):
    """Raised between two tiles once the run is stopped.

    A BaseException, like KeyboardInterrupt, so that it is not stored as the error of a picture.
    """


class RayWorker:
    """Actor process of the cluster, with its Upscaler. Ray Data calls it once for each share.

    An error while opening the model is kept, and sent as the result of every share.
    """

    def __init__(self, config: WorkerConfig, flag: Any) -> None:
        self._config, self._flag = config, flag
        self._said: list[str] = []
        self._stop = Stop()  # set once the output folder is full
        self._refused: SrDeployError | None = None
        from sr_deploy.batch.ledger import open_ledger

        say = self._said.append
        try:
            self._upscaler = config.open(say)
            self._ledger = open_ledger(self._upscaler, config.settings, config.digest, say=say)
        except SrDeployError as error:
            self._refused = error

    def __call__(self, share: dict[str, Any]) -> dict[str, list[bytes]]:
        """Do one share of the jobs. The result is pickled, since a column of Ray Data holds plain values."""
        result = ShareResult(outcomes={}, refused=self._refused) if self._refused else self._process(share)
        return {"result": [pickle.dumps(result)]}

    def _process(self, share: dict[str, Any]) -> ShareResult:
        """Run one share. If a worker has died of it before, its pictures are tried one by one, to find out
        which is the cause."""
        columns = (share[name] for name in ("number", "source", "target", "format"))
        jobs = {
            int(number): Job(Path(os.fsdecode(source)), Path(os.fsdecode(target)), str(format))
            for number, source, target, format in zip(*columns, strict=True)
        }
        outcomes = self._run(jobs)
        if outcomes is None:
            self._said.append("a worker died; its pictures are tried again, one at a time")
            outcomes = {}
            for number, job in jobs.items():
                alone = self._run({number: job})
                outcomes.update({number: _lost_outcome(job)} if alone is None else alone)
        said, self._said[:] = tuple(self._said), []
        return ShareResult(outcomes=outcomes, said=said, full=bool(self._stop))

    def _run(self, jobs: Mapping[int, Job]) -> dict[int, Outcome] | None:
        """Run `jobs`. Returns no outcomes if the run is stopped, and None if too many workers have died of
        these jobs."""
        import ray

        from sr_deploy.batch.run import FULL_ERRNOS, run_jobs

        share, settings = tuple(jobs), self._config.settings
        times = ray.get(self._flag.begin.remote(share))
        try:
            if times > (_MAX_DEATHS if len(jobs) == 1 else 1):
                return None
            watch = _StopWatcher(self._flag)
            todo = tuple(jobs.values()) if times else ()
            done = run_jobs(todo, self._upscaler, settings=settings, watcher=watch, ledger=self._ledger)
            for error in (one.error for one in done if one.error is not None):
                self._stop.note_error(error, FULL_ERRNOS)
            return dict(zip(jobs, map(_picklable, done), strict=False))
        except _StoppedError:
            return {}
        finally:
            ray.get(self._flag.end.remote(share))


class _StopWatcher:
    """Listener that checks the stop flag between two tiles, at most once in `POLL_SECONDS`."""

    def __init__(self, flag: Any) -> None:
        self._flag, self._last_check = flag, time.monotonic()

    def tile(self, job: Job, done: int, total: int) -> None:
        """Raise _StoppedError once the flag is turned off."""
        import ray

        if time.monotonic() - self._last_check < POLL_SECONDS:
            return
        self._last_check = time.monotonic()
        if not ray.get(self._flag.is_on.remote()):
            raise _StoppedError

    def slow(self, job: Job, size: tuple[int, int], seconds: float) -> None:
        """Do nothing: workers have no screen."""

    def finished(self, outcome: Outcome) -> None:
        """Do nothing: outcomes travel in the result of the share."""


def _picklable(outcome: Outcome) -> Outcome:
    """Return `outcome` with an error that another process can unpickle. Some errors of libraries cannot be."""
    error = outcome.error
    if error is None:
        return outcome
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return replace(outcome, error=RuntimeError(f"{type(error).__name__}: {error}"))
    return outcome


def _lost_outcome(job: Job) -> Outcome:
    """Return the outcome of a picture that ended every worker that tried it."""
    error = MissingRuntimeError(
        f"{job.source}: every worker that tried it died, mostly from lack of memory; run again with a smaller --tile "
        "or fewer workers (more --threads each); only missing results are made"
    )
    return Outcome(job, "failed", error=error)
