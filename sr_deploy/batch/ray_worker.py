"""What runs on a worker of a Ray cluster, for `sr_deploy.batch.ray_driver`: an Upscaler that is told what to do a few
pictures at a time. Neither starts nor finds a cluster.
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

POLL_SECONDS = 0.5  # seconds
_MAX_DEATHS = 2  # that a picture may cause when it is alone


@dataclass(frozen=True, kw_only=True)
class WorkerConfig:
    """What every worker is told."""

    model: str
    """A bundled model's name, or a file that all machines see."""
    digest: str
    """SHA-256 of the model here; a worker that has another one refuses."""
    settings: WriteSettings
    backend: str = "auto"
    """"auto" is chosen by one worker, for all."""
    threads: int | None = None
    """Of each worker; None: as many as the smallest machine has CPUs."""
    tile: int | Literal["auto"] | None = "auto"
    overlap: int | None = None
    version: str = __version__

    def open(self, say: Callable[[str], None]) -> Upscaler:
        """The Upscaler of this order. Raises SrDeployError where this machine cannot make what it would."""
        from sr_deploy.models import find_model
        from sr_deploy.system.cores import usable_cores
        from sr_deploy.system.files import digest_of
        from sr_deploy.upscale import Upscaler

        host = socket.gethostname()
        if self.version != __version__:
            raise MissingRuntimeError(
                f"{host} has sr-deploy {__version__} and {self.version} is asked for; install the same version "
                "on every machine of the cluster"
            )
        if digest_of(find_model(self.model)) != self.digest:
            raise ModelError(f"{self.model} is another file on {host}; copy it to where all machines see it")
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
    """What the first worker found."""

    backend: str
    scale: int


def inspect_model(config: WorkerConfig) -> tuple[ModelInfo | SrDeployError, list[str]]:
    """What a worker finds when it opens the model, or why it cannot; and what the user should know."""
    said: list[str] = []
    try:
        with warnings.catch_warnings(record=True) as caught, config.open(said.append) as upscaler:
            found = ModelInfo(upscaler.engine.backend, upscaler.spec.scale)
    except SrDeployError as error:
        return error, said
    return found, [*said, *(str(one.message) for one in caught)]


@dataclass(frozen=True, kw_only=True)
class ShareResult:
    """What a worker sends of one share."""

    outcomes: Mapping[int, Outcome]
    said: Sequence[str] = ()
    full: bool = False
    """The place of the results takes no more."""
    refused: SrDeployError | None = None
    """Why it cannot do anything."""


_Share = tuple[int, ...]
"""Numbers of jobs."""


class StopFlag:
    """Tells the workers when to stop, and the driver who has not yet; knows what was begun, whoever died of it."""

    def __init__(self) -> None:
        self._on, self._begun = True, Counter[_Share]()
        self._busy: set[_Share] = set()

    def begin(self, share: _Share) -> int:
        """How often `share` was begun, with this time; 0: there is nothing to do any more."""
        if not self._on:
            return 0
        self._busy.add(share)
        self._begun[share] += 1
        return self._begun[share]

    def end(self, share: _Share) -> None:
        """A worker is done with it."""
        self._busy.discard(share)

    def is_on(self) -> bool:
        """Whether there is something to do."""
        return self._on

    def turn_off(self) -> None:
        """Let the workers stop."""
        self._on = False

    def busy(self) -> int:
        """How many are at work."""
        return len(self._busy)


class _StoppedError(BaseException):
    """Told to stop: as KeyboardInterrupt, nothing that a picture fails of."""


class Worker:
    """One process of the cluster, with its Upscaler."""

    def __init__(self, config: WorkerConfig, flag: Any) -> None:
        self._config, self._flag = config, flag
        self._said: list[str] = []
        self._stop = Stop()
        self._refused: SrDeployError | None = None
        from sr_deploy.batch.ledger import open_ledger

        say = self._said.append
        try:
            self._upscaler = config.open(say)
            self._ledger = open_ledger(self._upscaler, config.settings, config.digest, say=say)
        except SrDeployError as error:
            self._refused = error

    def __call__(self, share: dict[str, Any]) -> dict[str, list[bytes]]:
        """Do one share of the jobs."""
        result = ShareResult(outcomes={}, refused=self._refused) if self._refused else self._process(share)
        return {"result": [pickle.dumps(result)]}

    def _process(self, share: dict[str, Any]) -> ShareResult:
        columns = (share[name] for name in ("number", "source", "target", "format"))
        jobs = {
            int(number): Job(Path(os.fsdecode(source)), Path(os.fsdecode(target)), str(format))
            for number, source, target, format in zip(*columns, strict=True)
        }
        outcomes = self._run(jobs)
        if outcomes is None:  # find out which picture it was
            self._said.append("a worker died; what it was at is tried again, one picture at a time")
            outcomes = {}
            for number, job in jobs.items():
                alone = self._run({number: job})
                outcomes.update({number: _lost_outcome(job)} if alone is None else alone)
        said, self._said[:] = tuple(self._said), []
        return ShareResult(outcomes=outcomes, said=said, full=bool(self._stop))

    def _run(self, jobs: Mapping[int, Job]) -> dict[int, Outcome] | None:
        """Do `jobs`, unless the run is stopped; None where too many workers died of them."""
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
    """Looks at the switch now and then, between two tiles."""

    def __init__(self, flag: Any) -> None:
        self._flag, self._last_check = flag, time.monotonic()

    def tile(self, job: Job, done: int, total: int) -> None:
        import ray

        if time.monotonic() - self._last_check < POLL_SECONDS:
            return
        self._last_check = time.monotonic()
        if not ray.get(self._flag.is_on.remote()):
            raise _StoppedError

    def finished(self, outcome: Outcome) -> None:
        """Told in the result."""


def _picklable(outcome: Outcome) -> Outcome:
    """`outcome` with an error that another process can read."""
    error = outcome.error
    if error is None:
        return outcome
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return replace(outcome, error=RuntimeError(f"{type(error).__name__}: {error}"))
    return outcome


def _lost_outcome(job: Job) -> Outcome:
    error = MissingRuntimeError(
        f"{job.source}: every worker that was at it died, of too little memory mostly; run again with a smaller --tile "
        "or fewer workers (more --threads each), which makes what is missing"
    )
    return Outcome(job, "failed", error=error)
