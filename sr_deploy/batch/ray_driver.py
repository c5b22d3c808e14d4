"""Run a folder on the machines of a Ray cluster. Every worker holds one Upscaler and takes a few pictures
at a time.

`sr_deploy.batch.jobs` makes the plan. A worker runs its share with `sr_deploy.batch.run`, using the same
claims and records beside the results, so all machines must see the pictures under the same paths. Ray Data
distributes the shares and repeats those of a lost machine. ray is imported only when a folder is run.
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import replace
from queue import Empty, SimpleQueue
from typing import Any, TextIO, cast

from sr_deploy.batch.jobs import Job
from sr_deploy.batch.ray_worker import (
    POLL_SECONDS,
    ModelInfo,
    RayWorker,
    ShareResult,
    StopFlag,
    WorkerConfig,
    inspect_model,
)
from sr_deploy.batch.steps import BatchListener, Outcome
from sr_deploy.errors import MissingRuntimeError, UsageError
from sr_deploy.version import __version__

_INSTALL = "pip install 'sr-deploy[ray]'"
_REACH_TIMEOUT, _CONNECT_TIMEOUT = 10.0, 60.0
"""Seconds to wait for a listening port, and for Ray to join the cluster or to leave it."""
_FINISH_TIMEOUT = 60.0
"""Seconds that workers may take to end their current picture when the run is stopped."""
_NOTICE_DELAY = 10.0
"""Seconds to wait for a free machine before the user is told."""
_MAX_SHARE_SIZE = 8
"""Most pictures in one share. Reading, computing and writing overlap within a share."""
_MIN_SHARES_PER_WORKER = 8
"""Least number of shares for each worker, so that all workers end at about the same time."""
_GPU_BACKENDS = ("tensorrt", "tensorrt-rtx", "onnxruntime-cuda", "onnxruntime-tensorrt")
"""Backends whose workers each reserve one GPU; a test holds it equal to the registry's, which this level does not import."""


def run_on_ray(
    jobs: Sequence[Job],
    config: WorkerConfig,
    *,
    address: str,
    watcher: BatchListener | None = None,
    say: Callable[[str], None] = lambda message: None,
    check: Callable[[ModelInfo], None] = lambda info: None,
) -> list[Outcome]:
    """Upscale every job on the cluster at `address`: "auto", "local" (a cluster on this machine, for this
    run) or "host:port".

    Works like `sr_deploy.batch.run.run_jobs` with a ledger: one outcome for each job, in their order; a job
    that fails raises nothing. `check` is called once backend and scale are known, before the work, and may
    raise. If a worker dies, its pictures are tried again one by one; a picture that ends two more workers
    fails. On KeyboardInterrupt it waits until the workers have ended, so that no partial file is left.

    Raises MissingRuntimeError without ray or a cluster, UsageError if no machine has the threads asked for,
    and the error of a worker that cannot begin.
    """
    ray = _import_ray()
    with _connected(ray, address):
        cpus, count, gpus = _worker_resources(ray, config)
        config = replace(config, threads=cpus)
        flag = ray.remote(num_cpus=0)(StopFlag).remote()
        try:
            info = _inspect_on_worker(ray, config, gpus, say)
            check(info)
            config = replace(config, backend=info.backend)
            results = _results(ray, jobs, config, flag, count, gpus if info.backend in _GPU_BACKENDS else 0)
            return _collect_outcomes(jobs, _fetched_in_thread(ray, results), watcher, say)
        finally:
            _stop_workers(ray, flag)


def _collect_outcomes(
    jobs: Sequence[Job],
    results: Iterator[ShareResult],
    watcher: BatchListener | None,
    say: Callable[[str], None],
) -> list[Outcome]:
    """Return the outcomes of all jobs in their order, and report each as it arrives.

    Once the output folder is full, the jobs without an outcome get the status "left". Raises the error of a
    worker that refuses to work.
    """
    found: dict[int, Outcome] = {}
    said: set[str] = set()
    full = False
    for result in results:
        if result.refused is not None:
            raise result.refused
        for message in dict.fromkeys(result.said):
            if message not in said:
                said.add(message)
                say(message)
        for number, outcome in result.outcomes.items():
            found[number] = replace(outcome, job=jobs[number])
            _report(watcher, found[number])
        full = result.full
        if full:
            break
    for number in range(len(jobs) if full else 0):
        if number not in found:
            found[number] = Outcome(jobs[number], "left")
            _report(watcher, found[number])
    return [found[number] for number in range(len(jobs))]


def _report(watcher: BatchListener | None, outcome: Outcome) -> None:
    """Pass an outcome to the listener. A picture counts as one tile, since workers report no tiles."""
    if watcher is None:
        return
    if outcome.status == "done":
        watcher.tile(outcome.job, 1, 1)
    watcher.finished(outcome)


def _import_ray() -> Any:
    """Import Ray and Ray Data and silence their output. Raises MissingRuntimeError if they are not
    installed."""
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its C++ part writes to stderr
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingRuntimeError(f"--ray needs Ray Data ({error}); {_INSTALL}") from error
    ray.data.DataContext.get_current().enable_progress_bars = False
    for handler in logging.getLogger("ray.data").handlers:
        if type(handler).__name__ == "PlainRayHandler":  # the handler for stderr; log files are kept
            handler.setLevel(logging.CRITICAL)
    return ray


class _CallerThreadStdout:
    """Stdout that passes on the text of the thread that made it, and drops the text of other threads.

    Ray's own threads print messages there, and stdout may carry the JSON result of the command.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._thread = stream, threading.current_thread()

    def write(self, text: str) -> int:
        """Write `text` if the creating thread calls; return the number of characters in any case."""
        ours = threading.current_thread() is self._thread
        return self._stream.write(text) if ours else len(text)

    def __getattr__(self, name: str) -> Any:
        """Return any other attribute of the real stream."""
        return getattr(self._stream, name)


@contextmanager
def _connected(ray: Any, address: str) -> Iterator[None]:
    """Connect to the cluster as a driver for the duration of the block, within `_CONNECT_TIMEOUT`.

    Raises MissingRuntimeError if no cluster answers, UsageError for a malformed address.
    """
    _check_reachable(address)
    failed: list[BaseException] = []
    tried, ended = threading.Event(), threading.Event()

    def connect() -> None:
        try:
            more = {"include_dashboard": False} if address == "local" else {}
            ray.init(address=address, log_to_driver=False, logging_level="ERROR", **more)
        except BaseException as error:
            failed.append(error)
        tried.set()
        # The processes that Ray started end together with the thread that started them, so this thread stays alive.
        ended.wait()
        ray.shutdown()

    # In a thread: `ray.init` may wait forever for a server that is not Ray. In the main thread it would also replace
    # the SIGTERM handler of the command line.
    thread = threading.Thread(target=connect, daemon=True)
    with redirect_stdout(cast("TextIO", _CallerThreadStdout(sys.stdout))):
        thread.start()
        try:
            if not tried.wait(_CONNECT_TIMEOUT) or failed:
                reason = (
                    str(failed[0]).splitlines()[0] if failed and str(failed[0]) else "no Ray cluster answers"
                )
                raise _unreachable(address, reason) from (failed[0] if failed else None)
            _restore_sigterm()
            yield
        finally:
            ended.set()
            if tried.is_set():
                thread.join(_CONNECT_TIMEOUT)


def _restore_sigterm() -> None:
    """Install Python's SIGTERM handler again. Ray's C++ part replaces it with one that aborts the process."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM) or signal.SIG_DFL)


def _check_reachable(address: str) -> None:
    """Check that something listens at a "host:port". Ray itself would wait for minutes and then end the
    process.

    Raises UsageError for a malformed address, MissingRuntimeError if nothing listens.
    """
    if address in ("auto", "local"):
        return
    host, colon, port = address.rpartition(":")
    if not (colon and host and port.isdecimal() and 0 < int(port) < 65536) or "/" in host:
        raise UsageError(
            f"--ray {address}: this is not the address of a cluster; give auto, local, or host:port of the head node"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_REACH_TIMEOUT).close()
    except OSError as error:
        raise _unreachable(address, error.strerror or str(error)) from error


def _unreachable(address: str, reason: str) -> MissingRuntimeError:
    """Return the error for a cluster that cannot be reached."""
    return MissingRuntimeError(
        f"no Ray cluster can be reached at {address} ({reason.rstrip('.')}); start one with 'ray start --head', and "
        "give its host:port, or use --ray local"
    )


def _worker_resources(ray: Any, config: WorkerConfig) -> tuple[int, int, int]:
    """Return the CPUs of a worker, the number of workers there is room for, and the GPUs of each worker.

    Raises UsageError if no machine has enough CPUs. Without a given number of threads, the smallest machine
    decides, so that every machine can hold a worker.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    have = [int(resources.get("CPU", 0)) for resources in nodes]
    cpus = config.threads or min((count for count in have if count), default=1)
    count = sum(one // cpus for one in have)
    if not count:
        raise UsageError(
            f"one worker needs {cpus} CPUs, and the largest machine of the cluster has {max(have, default=0)}; "
            "give fewer --threads"
        )
    on_gpu = sum(int(resources.get("GPU", 0)) for resources in nodes)
    if on_gpu and config.backend in ("auto", *_GPU_BACKENDS):
        return cpus, min(count, on_gpu), 1
    return cpus, count, 0


def _inspect_on_worker(ray: Any, config: WorkerConfig, gpus: int, say: Callable[[str], None]) -> ModelInfo:
    """Open the model on one worker before the run, so that all workers use the backend it chose. Raises
    MissingRuntimeError if sr-deploy does not run there, or the error of the worker."""
    task = ray.remote(num_cpus=config.threads, num_gpus=gpus, max_retries=0)(inspect_model).remote(config)
    ready, _ = ray.wait([task], timeout=_NOTICE_DELAY)
    if not ready:
        say(f"waiting until a machine of the cluster has {config.threads} free CPUs")
        ray.wait([task], timeout=None)
    try:
        found, said = ray.get(task)
    except ray.exceptions.RayError as error:
        raise MissingRuntimeError(
            f"a worker cannot run sr-deploy ({_last_line(error)}); install sr-deploy {__version__} on every machine of the cluster"
        ) from error
    for message in said:
        say(message)
    if isinstance(found, ModelInfo):
        return found
    raise found


def _results(
    ray: Any, jobs: Sequence[Job], config: WorkerConfig, flag: Any, count: int, gpus: int
) -> Iterator[ShareResult]:
    """Yield the results of the shares as they arrive, in no particular order.

    The size of a share is limited so that each worker gets at least `_MIN_SHARES_PER_WORKER` shares.
    """
    size = max(1, min(_MAX_SHARE_SIZE, len(jobs) // (count * _MIN_SHARES_PER_WORKER)))
    rows = [_job_row(number, job) for number, job in enumerate(jobs)]
    blocks = -(-len(rows) // size)
    shares = ray.data.from_items(rows, override_num_blocks=blocks).map_batches(
        RayWorker,
        fn_constructor_kwargs={"config": config, "flag": flag},
        batch_size=None,  # one block is one share
        compute=ray.data.ActorPoolStrategy(size=min(count, blocks)),
        num_cpus=config.threads,
        num_gpus=gpus,
    )
    for row in shares.iter_rows():
        yield pickle.loads(row["result"])


def _fetched_in_thread(ray: Any, results: Iterator[ShareResult]) -> Iterator[ShareResult]:
    """Yield `results`, fetched by a daemon thread.

    If KeyboardInterrupt reached Ray Data itself, it would kill the workers in the middle of a picture.
    Raises MissingRuntimeError if the cluster fails.
    """
    fetched: SimpleQueue[ShareResult | Exception | None] = SimpleQueue()

    def fetch() -> None:
        try:
            for result in results:
                fetched.put(result)
            fetched.put(None)
        except Exception as error:
            fetched.put(error)

    threading.Thread(target=fetch, daemon=True).start()
    while True:
        try:
            # Waiting without a timeout could not be interrupted on Windows.
            result = fetched.get(timeout=POLL_SECONDS)
        except Empty:
            continue
        if isinstance(result, ray.exceptions.RayError):
            raise MissingRuntimeError(
                f"the cluster failed ({_last_line(result)}); run again, and only missing results are made"
            ) from result
        if isinstance(result, Exception):
            raise result
        if result is None:
            return
        yield result


def _last_line(error: Exception) -> str:
    """Return the last line of an error's text. Ray puts a remote traceback before it."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()


def _job_row(number: int, job: Job) -> dict[str, Any]:
    """Return a job as a row of Ray Data. Paths are absolute and in bytes, since a name need not be valid
    text."""
    source, target = (os.fsencode(os.path.abspath(path)) for path in (job.source, job.target))
    return {"number": number, "source": source, "target": target, "format": job.format}


def _stop_workers(ray: Any, flag: Any) -> None:
    """Ask the workers to stop, and wait until none is writing a file any more."""
    with suppress(Exception):  # the cluster itself may be lost
        ray.get(flag.turn_off.remote(), timeout=_FINISH_TIMEOUT)
        deadline = time.monotonic() + _FINISH_TIMEOUT
        while ray.get(flag.busy.remote(), timeout=_FINISH_TIMEOUT) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
