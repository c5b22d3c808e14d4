"""A folder on the machines of a Ray cluster: every worker holds one Upscaler and takes a few pictures at a time.

The plan is made before, by `sr_deploy.batch.jobs`; a worker does its share as `sr_deploy.batch.run` does a folder, with the
same claims and records beside the results, so all machines must see the pictures under the same names. Who gets
what, and what becomes of it when a machine is lost, is Ray Data's work. ray is imported when a folder is run.
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
    ShareResult,
    StopFlag,
    Worker,
    WorkerConfig,
    inspect_model,
)
from sr_deploy.batch.steps import BatchListener, Outcome
from sr_deploy.errors import MissingRuntimeError, UsageError
from sr_deploy.version import __version__

_INSTALL = "pip install 'sr-deploy[ray]'"
_REACH_TIMEOUT, _CONNECT_TIMEOUT = 10.0, 60.0  # seconds
_FINISH_TIMEOUT = 60.0  # seconds a picture may go on for when the run is stopped
_NOTICE_DELAY = 10.0
_MAX_SHARE_SIZE = 8  # pictures a worker is given: their reading, computing and writing overlap
_MIN_SHARES_PER_WORKER = 8  # that a worker gets at least, so that all end together
_GPU_BACKENDS = ("tensorrt", "onnxruntime-cuda", "onnxruntime-tensorrt")


def run_on_ray(
    jobs: Sequence[Job],
    config: WorkerConfig,
    *,
    address: str,
    watcher: BatchListener | None = None,
    say: Callable[[str], None] = lambda message: None,
    check: Callable[[ModelInfo], None] = lambda info: None,
) -> list[Outcome]:
    """Upscale every job on the cluster at `address`: "auto", "local" (one on this machine, for this run), "host:port".

    As `sr_deploy.batch.run.run_jobs` with a ledger: one outcome a job, in their order, nothing raised for a job that
    fails. `check` may raise once backend and scale are known, before the work. What a worker was at when it died is
    tried again one by one, and a picture that ends two more of them fails. Stopped (KeyboardInterrupt), it waits
    for the workers to end without partial files.
    Raises MissingRuntimeError without ray or a cluster, UsageError where no machine has the threads asked for, and
    what a worker meets that cannot begin.
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
    """The outcomes as they come; once a place is full, the rest is left."""
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
    if watcher is None:
        return
    if outcome.status == "done":
        watcher.tile(outcome.job, 1, 1)
    watcher.finished(outcome)


def _import_ray() -> Any:
    """Ray and Ray Data, quiet. Raises MissingRuntimeError."""
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # of its C++ part, which writes to our stderr
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingRuntimeError(f"--ray needs Ray Data ({error}); {_INSTALL}") from error
    ray.data.DataContext.get_current().enable_progress_bars = False
    for handler in logging.getLogger("ray.data").handlers:
        if type(handler).__name__ == "PlainRayHandler":  # what goes to stderr; its log files are kept
            handler.setLevel(logging.CRITICAL)
    return ray


class _CallerThreadStdout:
    """Stdout for the thread that made it: what Ray's own threads print there is no result, and is dropped."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._thread = stream, threading.current_thread()

    def write(self, text: str) -> int:
        ours = threading.current_thread() is self._thread
        return self._stream.write(text) if ours else len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def _connected(ray: Any, address: str) -> Iterator[None]:
    """Be a driver of the cluster, in a bounded time. Raises MissingRuntimeError, UsageError."""
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
        ended.wait()  # what it started goes with the thread that did
        ray.shutdown()

    # in a thread, for it may wait forever for what is no Ray, and would take SIGTERM from the command line
    thread = threading.Thread(target=connect, daemon=True)
    with redirect_stdout(cast("TextIO", _CallerThreadStdout(sys.stdout))):
        thread.start()
        try:
            if not tried.wait(_CONNECT_TIMEOUT) or failed:
                reason = (
                    str(failed[0]).splitlines()[0]
                    if failed and str(failed[0])
                    else "no answer of a Ray cluster"
                )
                raise _unreachable(address, reason) from (failed[0] if failed else None)
            _restore_sigterm()
            yield
        finally:
            ended.set()
            if tried.is_set():
                thread.join(_CONNECT_TIMEOUT)


def _restore_sigterm() -> None:
    """Give SIGTERM back to Python, from whom the C++ part of Ray took it in order to abort."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM) or signal.SIG_DFL)


def _check_reachable(address: str) -> None:
    """See that something listens at a "host:port": ray itself would wait for minutes, then end the process."""
    if address in ("auto", "local"):
        return
    host, colon, port = address.rpartition(":")
    if not (colon and host and port.isdecimal() and 0 < int(port) < 65536) or "/" in host:
        raise UsageError(
            f"--ray {address}: that is no cluster's address; give auto, local, or the head node's host:port"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_REACH_TIMEOUT).close()
    except OSError as error:
        raise _unreachable(address, error.strerror or str(error)) from error


def _unreachable(address: str, reason: str) -> MissingRuntimeError:
    return MissingRuntimeError(
        f"no Ray cluster can be reached at {address} ({reason.rstrip('.')}); start one with 'ray start --head', and "
        "give its host:port, or use --ray local"
    )


def _worker_resources(ray: Any, config: WorkerConfig) -> tuple[int, int, int]:
    """CPUs of a worker, how many workers there is room for, and GPUs of each."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    have = [int(resources.get("CPU", 0)) for resources in nodes]
    cpus = config.threads or min((count for count in have if count), default=1)
    count = sum(one // cpus for one in have)
    if not count:
        raise UsageError(
            f"no machine of the cluster has the {cpus} CPUs of one worker, the largest has {max(have, default=0)}; "
            "give fewer --threads"
        )
    on_gpu = sum(int(resources.get("GPU", 0)) for resources in nodes)
    if on_gpu and config.backend in ("auto", *_GPU_BACKENDS):
        return cpus, min(count, on_gpu), 1
    return cpus, count, 0


def _inspect_on_worker(ray: Any, config: WorkerConfig, gpus: int, say: Callable[[str], None]) -> ModelInfo:
    """What a worker finds when it opens the model: asked first, so that all use what one chose, or none begins."""
    task = ray.remote(num_cpus=config.threads, num_gpus=gpus, max_retries=0)(inspect_model).remote(config)
    ready, _ = ray.wait([task], timeout=_NOTICE_DELAY)
    if not ready:
        say(f"waiting for a machine of the cluster to have {config.threads} free CPUs")
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
    """What the workers send, as it comes."""
    size = max(1, min(_MAX_SHARE_SIZE, len(jobs) // (count * _MIN_SHARES_PER_WORKER)))
    rows = [_job_row(number, job) for number, job in enumerate(jobs)]
    blocks = -(-len(rows) // size)
    shares = ray.data.from_items(rows, override_num_blocks=blocks).map_batches(
        Worker,
        fn_constructor_kwargs={"config": config, "flag": flag},
        batch_size=None,  # a block
        compute=ray.data.ActorPoolStrategy(size=min(count, blocks)),
        num_cpus=config.threads,
        num_gpus=gpus,
    )
    for row in shares.iter_rows():
        yield pickle.loads(row["result"])


def _fetched_in_thread(ray: Any, results: Iterator[ShareResult]) -> Iterator[ShareResult]:
    """`results`, fetched by a thread: interrupted itself, Ray Data would kill the workers in the middle of a picture."""
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
            result = fetched.get(timeout=POLL_SECONDS)  # for ever, it could not be interrupted on Windows
        except Empty:
            continue
        if isinstance(result, ray.exceptions.RayError):
            raise MissingRuntimeError(
                f"the cluster failed ({_last_line(result)}); run again, which makes what is missing"
            ) from result
        if isinstance(result, Exception):
            raise result
        if result is None:
            return
        yield result


def _last_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()


def _job_row(number: int, job: Job) -> dict[str, Any]:
    """As bytes, for a name may be no text."""
    source, target = (os.fsencode(os.path.abspath(path)) for path in (job.source, job.target))
    return {"number": number, "source": source, "target": target, "format": job.format}


def _stop_workers(ray: Any, flag: Any) -> None:
    """Let the workers end what they cannot leave half-done."""
    with suppress(Exception):  # the cluster may be what is gone
        ray.get(flag.turn_off.remote(), timeout=_FINISH_TIMEOUT)
        deadline = time.monotonic() + _FINISH_TIMEOUT
        while ray.get(flag.busy.remote(), timeout=_FINISH_TIMEOUT) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
