"""A process that measures one subject, so that its memory, the runtime's threads and its crashes are its own.

It reads one JSON object per line from stdin and answers each with one on stdout. The first request opens the
subject, every other one measures a case. Output of runtimes to stdout goes to stderr. The process ignores
Ctrl-C, which the parent handles, and ends when stdin ends.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

from sr_deploy.bench.result import BenchCase, BenchRun, BenchSubject
from sr_deploy.bench.run.measure import Effort
from sr_deploy.errors import describe_error
from sr_deploy.system.json_values import from_plain, to_plain


@dataclass(frozen=True, kw_only=True)
class Opening:
    """The first request: the subject to open."""

    subject: BenchSubject
    model: str
    """Path of the model file."""
    images: tuple[str, ...]
    """Files that frames are cut from; none: the bundled photograph."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """A request to measure one case."""

    case: BenchCase
    mode: str
    throughput: bool
    effort: Effort


class Measurer(Protocol):
    """The object that measures in a worker: a `SubjectRunner`, or that of a peer."""

    def measure(self, case: BenchCase, mode: str, throughput: bool, effort: Effort) -> BenchRun:
        """Measure one case and return its run."""
        ...


def serve(open_subject: Callable[[Opening], Measurer]) -> None:
    """Answer requests until stdin ends. Errors become answers; the process goes on."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = _take_stdout()
    requests = iter(sys.stdin)
    opened: Measurer | None = None
    for line in requests:
        try:
            record = json.loads(line)
            if opened is None:
                opened = open_subject(from_plain(Opening, record))
                answer: dict[str, Any] = {"opened": True}
            else:
                request = from_plain(Request, record)
                run = opened.measure(request.case, request.mode, request.throughput, request.effort)
                answer = {"run": to_plain(run)}
        except Exception as error:
            answer = {"error": describe_error(error), "kind": type(error).__name__}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def open_runner(opening: Opening) -> Measurer:
    """Open a `SubjectRunner` for the subject of a request."""
    from sr_deploy.bench.frames import load_photographs
    from sr_deploy.bench.run.runner import SubjectRunner

    photographs = load_photographs([Path(name) for name in opening.images])
    return SubjectRunner(opening.subject, Path(opening.model), photographs)


def _take_stdout() -> IO[str]:
    """Return the real stdout, and send all other output to stdout to stderr, including that of C libraries."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8", newline="\n")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return answers


if __name__ == "__main__":
    serve(open_runner)
