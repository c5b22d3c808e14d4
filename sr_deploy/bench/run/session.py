"""Drive the workers: one process per subject, started when it is first needed and ended with the session.

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
"""Command of the worker for sr-deploy's own subjects; peers have commands of their own."""


@dataclass(frozen=True, kw_only=True, eq=False)
class WorkerStart:
    """A subject and how to start its worker. Compared by identity, as the key of a session's workers."""

    subject: BenchSubject
    path: Path
    """Path of the model file."""
    command: tuple[str, ...] = WORKER
    """Command line of the worker process."""


class BenchSession:
    """Measure subjects, each in a process of its own. Use it in a `with` statement, from one thread."""

    def __init__(self, images: Sequence[Path] = ()) -> None:
        self._images = tuple(str(path.resolve()) for path in images)
        self._workers: dict[WorkerStart, _WorkerProcess] = {}
        self._folder = tempfile.TemporaryDirectory(prefix="sr-deploy-bench-", ignore_cleanup_errors=True)

    def measure(
        self, entry: WorkerStart, case: BenchCase, *, mode: str, throughput: bool, effort: Effort
    ) -> BenchRun | FailedRun:
        """Measure one case. Returns the run, or why it failed.

        A worker that died is started again for the next case; one that reported an error goes on.
        """
        try:
            if entry not in self._workers:
                self._workers[entry] = _WorkerProcess(entry, self._images, self._folder.name)
            request = Request(case=case, mode=mode, throughput=throughput, effort=effort)
            return from_plain(BenchRun, self._workers[entry].ask(to_plain(request))["run"])
        except _WorkerError as error:
            if error.died:
                self._drop(entry)
            return FailedRun(subject=entry.subject, case=case, error=str(error))

    def restart(self, entry: WorkerStart) -> None:
        """Use a fresh process for `entry` from now on.

        The memory layout of a process costs or saves some percent, so several processes are measured.
        """
        self._drop(entry)

    def close(self) -> None:
        """End every worker, and remove the temporary files."""
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
        """End the worker of `entry`, if there is one."""
        worker = self._workers.pop(entry, None)
        if worker is not None:
            worker.close()


class _WorkerError(Exception):
    """A worker reported an error, or its process ended (`died`)."""

    def __init__(self, message: str, *, died: bool) -> None:
        super().__init__(message)
        self.died = died


class _WorkerProcess:
    """One worker process. Raises _WorkerError if the subject cannot be opened or measured."""

    def __init__(self, entry: WorkerStart, images: tuple[str, ...], folder: str) -> None:
        # A file, not a pipe: a pipe that nobody reads would block a runtime that prints much.
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
        """Send a request as a line of JSON and wait for the answer, without a time limit.

        Raises _WorkerError if the worker reports an error or its process ends.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except OSError:
            line = ""
        # A process that ends early leaves half a line, or none.
        if not line.endswith("\n"):
            raise _WorkerError(self._exit_reason(), died=True)
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise _WorkerError(answer["error"], died=False)
        return answer

    def close(self) -> None:
        """Kill the process, even if it is computing, and wait for its end."""
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
        last = next((line.strip() for line in reversed(lines) if line.strip()), "it printed nothing")
        how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
        return f"its process {how}: {last[:200]}; try a smaller size or another backend"


def _close_quietly(stream: IO[Any]) -> None:
    """Close a stream and ignore the error of a broken pipe."""
    with suppress(OSError):  # closing flushes, and the process that should read is gone
        stream.close()


def _environment(folder: str) -> dict[str, str]:
    """The environment of a worker: ours, with this package on PYTHONPATH, and `folder` for temporary files.

    The path lets the worker start in any working directory. A killed worker cannot remove its temporary
    files, so they are kept in a folder that the session removes.
    """
    temporary = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), folder)
    here = str(Path(sr_deploy.__file__).resolve().parents[1])
    rest = os.environ.get("PYTHONPATH")
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([here, rest] if rest else [here]),
        "PYTHONUTF8": "1",
        **temporary,
    }
