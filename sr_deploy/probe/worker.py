"""Run ONNX Runtime for the probe in a process of its own, so that a crash there does not end the caller's.

The process reads requests from stdin and answers on stdout: a line of JSON, then the bytes of an array. It imports
ONNX Runtime and NumPy only, because its start is part of every probe. `sr_deploy.probe.process` is the other side.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import suppress
from typing import IO, Any

import numpy as np

from sr_deploy.errors import one_line
from sr_deploy.graph.runnable import quiet_session


def main() -> None:
    """Answer requests until stdin ends. Errors of the runtime become answers; the process goes on."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the caller, which ends this process
    answers, sessions = _take_stdout(), dict[int, Any]()
    try:
        import onnxruntime  # type: ignore[import-untyped, unused-ignore]
    except ImportError as error:
        _answer(answers, {"missing": one_line(error)})
        return
    _answer(answers, {"version": onnxruntime.__version__})
    while line := sys.stdin.buffer.readline():
        request = json.loads(line)
        try:
            if "path" in request:
                _limit_memory(request["memory"])
                sessions[request["session"]] = quiet_session(
                    onnxruntime, request["path"], optimise=request["optimise"]
                )
                _answer(answers, {})
            else:
                result = _run(sessions[request["session"]], request)
                _answer(answers, {"shape": result.shape, "dtype": str(result.dtype)}, result)
        except Exception as error:  # ONNX Runtime's errors share no base class but this one
            _answer(answers, {"error": one_line(error, 400)})


def _run(session: Any, request: dict[str, Any]) -> Any:
    """Run a session on the array that follows the request, and return its first output."""
    dtype = np.dtype(request["dtype"])
    size = int(np.prod(request["shape"])) * dtype.itemsize
    tensor = np.frombuffer(sys.stdin.buffer.read(size), dtype).reshape(request["shape"])
    return np.ascontiguousarray(session.run(None, {request["input"]: tensor})[0])


def _limit_memory(most: int | None) -> None:
    """Let this process allocate at most so many bytes; the runtime then reports an error instead of using up the
    machine's memory. Does nothing where the system has no such limit."""
    if most is None:
        return
    with suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (most, resource.getrlimit(resource.RLIMIT_DATA)[1]))


def _answer(answers: IO[bytes], record: dict[str, Any], array: Any = None) -> None:
    """Write one answer, and the bytes of `array` after it."""
    answers.write(json.dumps(record).encode() + b"\n")
    if array is not None:
        answers.write(array.tobytes())
    answers.flush()


def _take_stdout() -> IO[bytes]:
    """Return the real stdout, and send what libraries print there to stderr, which the caller discards."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return answers


if __name__ == "__main__":
    main()
