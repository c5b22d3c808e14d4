"""Run foreign models in a child process, with limits of time and memory.

A foreign net may crash the runtime at some sizes (max pooling of ONNX Runtime 1.32 divides by zero where a pool has
no output), hang, or use up the memory. Here that costs one run and not the process: the run counts as refused, the
incident is kept with the size, and the next run starts another child.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
import onnx

from sr_deploy.errors import MissingRuntimeError, ModelError
from sr_deploy.graph.session import RuntimeDiedError
from sr_deploy.system.arrays import AnyArray
from sr_deploy.system.memory import available_memory

_MODULE = "sr_deploy.probe.worker"
_SHARE_OF_MEMORY = 0.8
"""Share of the free memory that the child may use."""
_MOST_DEATHS = 12
"""Deaths of the child after which probing ends. Of the sizes that are tried, only the few smallest can be expected to
crash; a file that crashes everywhere would be tried dozens of times."""
_MOST_TIMEOUTS = 3
"""Runs that may exceed the time limit before probing ends, because each costs as much as the limit."""
_START_SECONDS = 60.0
"""Time limit for the start of the child, which imports ONNX Runtime."""


@dataclass(frozen=True, kw_only=True)
class ProbeLimits:
    """Limits for the child process."""

    seconds: float = 60.0
    """Time for one run, and for opening the model."""
    memory: int | None = None
    """Bytes that the child may allocate; None: 0.8 of the free memory."""


class ProbeProcess:
    """A child process that runs ONNX Runtime sessions. Use it as a context manager; it belongs to one thread.

    `incidents` lists what ended or overran, one sentence each. The child is started at once, so that it imports the
    runtime while the caller prepares the model.
    """

    def __init__(self, limits: ProbeLimits | None = None, command: Sequence[str] = ()) -> None:
        self.limits = limits or ProbeLimits()
        self.incidents: list[str] = []
        self.version = ""
        self._command = tuple(command) or (sys.executable, "-m", _MODULE)
        self._folder = tempfile.TemporaryDirectory(prefix="sr-deploy-probe-")
        self._opened: list[dict[str, Any]] = []
        self._deaths = self._timeouts = 0
        self._child: _Child | None = _Child(self._command)

    def __enter__(self) -> ProbeProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the child and remove its files."""
        self._end_child()
        self._folder.cleanup()

    def open(self, model: onnx.ModelProto, name: str, *, optimise: bool = True) -> ChildSession:
        """Open a session of `model`; `optimise=False` runs the graph as it stands.

        Raises ModelError if the runtime cannot load the graph, or crashes or takes too long over it;
        MissingRuntimeError if ONNX Runtime is not installed.
        """
        key = len(self._opened)
        path = Path(self._folder.name) / f"{key}.onnx"
        path.write_bytes(model.SerializeToString())
        memory = self.limits.memory
        if memory is None and (free := available_memory()) is not None:
            memory = int(free * _SHARE_OF_MEMORY)
        self._opened.append({"session": key, "path": str(path), "optimise": optimise, "memory": memory})
        try:
            self._child_with(key)
        except RuntimeDiedError as error:
            raise ModelError(
                f"model {name!r} cannot be loaded by ONNX Runtime: it {error}; export it again with another opset"
            ) from error
        except _ChildError as error:
            raise ModelError(
                f"model {name!r} cannot be loaded by ONNX Runtime ({error}); export it again with standard operators"
            ) from error
        return ChildSession(self, key)

    def run(self, key: int, port: str, tensor: AnyArray) -> AnyArray:
        """Run a session on `tensor` and return its first output.

        Raises RuntimeDiedError if the child ended or took too long, which is counted; RuntimeError with the runtime's
        message if it refused.
        """
        child = self._child_with(key)
        request = {"session": key, "input": port, "shape": tensor.shape, "dtype": str(tensor.dtype)}
        return self._ask(child, request, np.ascontiguousarray(tensor).tobytes())[1]

    def _child_with(self, key: int) -> _Child:
        """Return a child in which the session is open; starts one if the last one ended."""
        if self._deaths >= _MOST_DEATHS or self._timeouts >= _MOST_TIMEOUTS:
            raise ModelError(
                f"ONNX Runtime {self.version} crashed or overran {self._deaths + self._timeouts} times on this model (first: "
                f"{self.incidents[0] if self.incidents else 'when it was opened'}), so probing ended; export it again with "
                "another opset, or with dynamic height and width"
            )
        if self._child is None:
            self._child = _Child(self._command)
        child = self._child
        if not child.ready:
            hello, _ = child.answer(_START_SECONDS)
            if "missing" in hello:
                raise MissingRuntimeError(
                    'probing a model needs ONNX Runtime, which is not installed; pip install "sr-deploy[cpu]"'
                )
            self.version, child.ready = hello.get("version", ""), True
        if key not in child.sessions:
            self._ask(child, self._opened[key])
            child.sessions.add(key)
        return child

    def _ask(
        self, child: _Child, request: dict[str, Any], payload: bytes = b""
    ) -> tuple[dict[str, Any], AnyArray]:
        """Send a request and return the answer, with the array in it."""
        try:
            child.send(request, payload)
            record, array = child.answer(self.limits.seconds)
        except TimeoutError as error:
            self._timeouts += 1
            self._end_child()
            raise RuntimeDiedError(f"took longer than {self.limits.seconds:g} s and was stopped") from error
        except OSError as error:
            self._deaths += 1
            code = child.code()
            self._end_child()
            raise RuntimeDiedError(f"ended with {_name_of(code)}") from error
        if "error" in record:
            raise _ChildError(record["error"])
        return record, array

    def _end_child(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child = None


class ChildSession:
    """One session in the child, with the `run` of an ONNX Runtime session, as `SessionRunner` uses it."""

    def __init__(self, process: ProbeProcess, key: int) -> None:
        self.process, self._key = process, key

    def run(self, outputs: None, feed: dict[str, AnyArray]) -> list[AnyArray]:
        """Run the session on its one input; returns its first output in a list."""
        ((name, tensor),) = feed.items()
        return [self.process.run(self._key, name, tensor)]

    def died(self, what: str) -> None:
        """Keep the sentence `what` about a run that ended or overran."""
        self.process.incidents.append(f"ONNX Runtime {self.process.version} {what}")


class _ChildError(RuntimeError):
    """The runtime in the child reported an error."""


class _Child:
    """The child process. A thread reads its answers, so that waiting for one can end after a time."""

    def __init__(self, command: Sequence[str]) -> None:
        self.ready = False
        self.sessions: set[int] = set()
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=_environment(),
        )
        self._answers: queue.SimpleQueue[tuple[dict[str, Any], AnyArray] | None] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def send(self, request: dict[str, Any], payload: bytes) -> None:
        """Send a request. Raises OSError if the child has ended."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request).encode() + b"\n" + payload)
        self._process.stdin.flush()

    def answer(self, seconds: float) -> tuple[dict[str, Any], AnyArray]:
        """Wait for an answer. Raises TimeoutError after `seconds`, OSError if the child has ended."""
        try:
            answer = self._answers.get(timeout=seconds)
        except queue.Empty as error:
            raise TimeoutError from error
        if answer is None:
            raise BrokenPipeError
        return answer

    def code(self) -> int:
        """Return the exit code of a child that has ended: the negative number of a signal."""
        with suppress(subprocess.TimeoutExpired):
            return self._process.wait(timeout=5)
        return 1

    def kill(self) -> None:
        """End the child, even if it is computing."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with suppress(OSError, ValueError):  # closing flushes, and the reader is gone
                    stream.close()

    def _read(self) -> None:
        """Pass on the answers of the child, and None at its end."""
        stream = self._process.stdout
        assert stream is not None
        with suppress(OSError, ValueError):
            while line := stream.readline():
                record = json.loads(line)
                array = np.empty(0, np.float32)
                if "shape" in record:
                    array = _read_array(stream, record)
                self._answers.put((record, array))
        self._answers.put(None)


def _read_array(stream: IO[bytes], record: dict[str, Any]) -> AnyArray:
    """Read the array that follows an answer. Raises ValueError if the stream ends before."""
    dtype = np.dtype(record["dtype"])
    size = int(np.prod(record["shape"])) * dtype.itemsize
    array: AnyArray = np.frombuffer(stream.read(size), dtype).reshape(record["shape"])
    return array


def _name_of(code: int) -> str:
    """Name an exit code: the signal that ended the process, or the number."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def _environment() -> dict[str, str]:
    """The environment of the child: ours, with this package on PYTHONPATH, wherever it is started.

    PYTHONSAFEPATH (Python 3.11 and later) keeps modules of the current folder from being imported.
    """
    here = str(Path(__file__).resolve().parents[2])
    rest = os.environ.get("PYTHONPATH")
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([here, rest] if rest else [here]),
        "PYTHONSAFEPATH": "1",
    }
