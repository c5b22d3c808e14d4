"""Driving the workers: one process a subject, started when it is first needed, ended with the session.

Cases are measured one at a time, whatever the number of subjects: while one computes, the others wait.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import sr_deploy
from sr_deploy.bench.result import BenchCase, BenchRun, BenchSubject, FailedRun
from sr_deploy.bench.run.measure import Effort
from sr_deploy.bench.run.worker import Opening, Request
from sr_deploy.system.json_values import from_plain, to_plain

WORKER: tuple[str, ...] = (sys.executable, "-m", "sr_deploy.bench.run.worker")


@dataclass(frozen=True, kw_only=True, eq=False)
class WorkerStart:
    """A subject and how to start its worker."""

    subject: BenchSubject
    path: Path
    """The model file."""
    command: tuple[str, ...] = WORKER


class BenchSession:
    """Measures subjects, each in a process of its own. Use it in a `with` statement."""

    def __init__(self, images: Sequence[Path] = ()) -> None:
        self._images = tuple(str(path.resolve()) for path in images)
        self._workers: dict[WorkerStart, _Worker] = {}
        self._folder = tempfile.TemporaryDirectory(prefix="sr-deploy-bench-", ignore_cleanup_errors=True)

    def measure(
        self, entry: WorkerStart, case: BenchCase, *, mode: str, throughput: bool, effort: Effort
    ) -> BenchRun | FailedRun:
        """The run, or why there is none; a worker that died is started anew for the next case."""
        try:
            if entry not in self._workers:
                self._workers[entry] = _Worker(entry, self._images, self._folder.name)
            request = Request(case=case, mode=mode, throughput=throughput, effort=effort)
            return from_plain(BenchRun, self._workers[entry].ask(to_plain(request))["run"])
        except _WorkerError as error:
            if error.died:
                self._drop(entry)
            return FailedRun(subject=entry.subject, case=case, error=str(error))

    def restart(self, entry: WorkerStart) -> None:
        """Measure `entry` in a fresh process from now on: how its memory came to lie costs or saves some percent."""
        self._drop(entry)

    def close(self) -> None:
        """End every worker, and remove what they left."""
        for entry in tuple(self._workers):
            self._drop(entry)
        self._folder.cleanup()

    def __enter__(self) -> BenchSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _drop(self, entry: WorkerStart) -> None:
        worker = self._workers.pop(entry, None)
        if worker is not None:
            worker.close()


class _WorkerError(Exception):
    """What a worker answered instead of a run."""

    def __init__(self, message: str, *, died: bool) -> None:
        super().__init__(message)
        self.died = died


class _Worker:
    """One process. Raises _FailedError where the subject cannot be opened or measured."""

    def __init__(self, entry: WorkerStart, images: tuple[str, ...], folder: str) -> None:
        self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (closed in `close`)
        self._process = subprocess.Popen(
            entry.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            encoding="utf-8",
            env=_environment(folder),
        )
        opening = Opening(subject=entry.subject, model=str(entry.path.resolve()), images=images)
        try:
            self.ask(to_plain(opening))
        except BaseException:
            self.close()
            raise

    def ask(self, request: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except OSError:
            line = ""
        if not line.endswith("\n"):
            raise _WorkerError(self._exit_reason(), died=True)
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise _WorkerError(answer["error"], died=False)
        return answer

    def close(self) -> None:
        """End the process, at once if it is computing."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._stderr):
            if stream is not None:
                _close_quietly(stream)

    def _exit_reason(self) -> str:
        code = self._process.wait()
        self._stderr.seek(0)
        lines = self._stderr.read().decode("utf-8", "replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
        how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
        return f"its process {how}: {last[:200]}; try a smaller size or another backend"


def _close_quietly(stream: IO[Any]) -> None:
    with suppress(OSError):  # what was not sent yet has nobody to take it
        stream.close()


def _environment(folder: str) -> dict[str, str]:
    """Ours, with this package on the path wherever the child starts, and `folder` for temporary files: a worker
    that is killed cannot tidy up."""
    temporary = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), folder)
    here = str(Path(sr_deploy.__file__).resolve().parents[1])
    rest = os.environ.get("PYTHONPATH")
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([here, rest] if rest else [here]),
        "PYTHONUTF8": "1",
        **temporary,
    }
