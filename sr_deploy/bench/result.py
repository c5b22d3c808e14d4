"""The data of a measurement, as values and as versioned JSON.

A result has raw samples and everything needed to judge them later. Times are in seconds, sizes in pixels or
bytes, energy in joules. Summaries are computed (`summary`), never stored. This module measures nothing and
prints nothing.

History of the schema:
    1   the first
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from sr_deploy.errors import InputError, OutputError
from sr_deploy.system.files import read_bounded, write_whole
from sr_deploy.system.json_values import dumps, from_plain, parse_json, to_plain

_LARGEST = 64 << 20
"""Most bytes of a result that are read. Raw samples of a long run have some megabytes."""
SCHEMA = 1
"""Version of the JSON format; `read_result` refuses every other version."""
KIND = "sr-deploy bench"
"""Value of the key "kind", which identifies a file as a result of `sr-deploy bench`."""
MODES = ("end-to-end", "with-files", "device")
"""Names of the modes, which say what a sample covers. Figures of two modes never appear in one table.

"end-to-end": from decoded pixels to decoded pixels in host memory. "with-files": from file to file. "device":
buffers stay on the device.
"""
STAGES = ("read", "decode", "prepare", "to device", "compute", "from device", "finish", "encode", "write")
"""Parts of a frame's time, in order. A run has the stages that its backend and mode can separate."""


def _empty_mapping() -> Mapping[str, Any]:
    """Default of the mapping fields; read-only because the dataclasses are frozen."""
    return MappingProxyType({})


@dataclass(frozen=True, kw_only=True)
class BenchMachine:
    """The properties of a machine that must be equal before figures may be compared or merged."""

    cpu: str
    """Name of the processor."""
    architecture: str
    """Instruction set architecture, such as x86_64."""
    system: str
    """Operating system: Linux, Windows or Darwin."""
    cores: int
    """Number of logical cores of the machine."""
    usable_cores: int
    """Number of physical cores that affinity and container limits leave to this process."""
    features: tuple[str, ...] = ()
    """Instruction sets of the processor that matter to neural networks."""
    cpu_quota: float | None = None
    """Processor time the container may use, in cores; None: no limit."""
    memory_limit: int | None = None
    """Memory the container may use, in bytes; None: no limit."""
    gpus: tuple[str, ...] = ()
    """Names of the GPUs."""


@dataclass(frozen=True, kw_only=True)
class State:
    """The state of the machine when the measurement began. None: the platform does not report the value."""

    load: float | None = None
    """Number of runnable processes, averaged over the last minute."""
    busy_elsewhere: float | None = None
    """Share (0..1) of the usable cores' time that other processes took just before the first run."""
    governor: str | None = None
    """Linux's policy for the clock of the processor, such as "performance" or "powersave"."""
    clock_mhz: float | None = None
    """Current clock of the first processor in MHz."""
    top_clock_mhz: float | None = None
    """Highest clock of the first processor in MHz."""
    memory_total: int | None = None
    """Memory of the machine in bytes."""
    memory_available: int | None = None
    """Memory in bytes that was free for new allocations."""
    virtual: str | None = None
    """Name of the hypervisor, if one can be detected."""


@dataclass(frozen=True, kw_only=True)
class Environment:
    """The machine and the software that a measurement was made with."""

    machine: BenchMachine
    state: State
    platform: str
    """Description of the operating system, as `platform.platform()` gives it."""
    python: str
    versions: Mapping[str, str]
    """Distribution -> version, for sr-deploy and every installed runtime."""
    driver: str | None = None
    """Version of the GPU driver."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The peak of this machine in a short test of its own, with as many threads as the runs had."""

    copy_bytes_per_second: float
    """Bytes read plus bytes written by a large copy in memory."""
    multiply_adds_per_second: float
    """Multiply-adds of a large float32 matrix product."""
    threads: int
    """Number of threads that copied; the matrix product uses the threads of the BLAS library."""


@dataclass(frozen=True, kw_only=True)
class BenchSettings:
    """The settings of a measurement."""

    mode: str = "end-to-end"
    """One of `MODES`."""
    throughput: bool = False
    """True if several calls were in flight at once."""
    min_samples: int
    """Minimum number of samples of a run."""
    min_seconds: float
    """Minimum time of all samples of a run, in seconds."""
    max_seconds: float
    """Time limit of the samples of a run, in seconds."""
    images: tuple[str, ...] = ()
    """File names of the pictures that the frames were cut from."""
    image_sha256: str | None = None
    """SHA-256 of the pixels of those pictures."""


@dataclass(frozen=True, kw_only=True)
class BenchSubject:
    """The measured model on its backend, or a peer that it is compared with."""

    model: str
    """Name of the model."""
    backend: str
    precision: str
    """Precision of the model file: fp32, fp16, bf16 or int8; "uint8" for a classic filter."""
    scale: int
    """Factor by which width and height grow."""
    runner: str = "sr-deploy"
    """The program that called the backend: "sr-deploy", or the name of a peer such as "torch eager"."""
    threads: int | None = None
    """Number of threads; None: the default of the backend."""
    streams: int = 1
    """Number of calls in flight at once."""
    model_sha256: str | None = None
    """SHA-256 of the model file."""
    engine_sha256: str | None = None
    """SHA-256 of the compiled engine, if there is one."""
    parameters: int | None = None
    """Number of weights and biases of the model."""
    multiply_adds_per_pixel: float | None = None
    """Multiply-adds of the net per input pixel."""
    quality: Mapping[str, Mapping[str, float]] = field(default_factory=_empty_mapping)
    """Data set -> measure -> value, from the model's card: {"Set5": {"psnr_y": 31.02}}."""
    options: Mapping[str, str] = field(default_factory=_empty_mapping)
    """Further options of a peer, by name."""

    @property
    def name(self) -> str:
        """One line that distinguishes the subject from the others."""
        driver = "" if self.runner == "sr-deploy" else f" ({self.runner})"
        return f"{self.model} {self.backend} {self.precision}{driver}"


@dataclass(frozen=True, kw_only=True)
class BenchCase:
    """The input that a subject was measured on."""

    label: str
    """Size as the user gave it: "540p", "637x481" or a file name."""
    width: int
    """Width of one input picture in pixels."""
    height: int
    """Height of one input picture in pixels."""
    batch: int = 1
    """Number of pictures in a sample."""
    tile: str = "auto"
    """Requested tiling: "whole", "auto", or the side in pixels of the part of a tile that is kept."""
    tiles: int = 1
    """Number of tiles that a picture was cut into."""

    @property
    def pixels(self) -> int:
        """Number of input pixels of one sample."""
        return self.width * self.height * self.batch


@dataclass(frozen=True, kw_only=True)
class ColdStart:
    """Seconds before the first picture is done, in a process that has not used this subject before."""

    open: float
    """Seconds to open the model."""
    first: float
    """Seconds of the first call."""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Peaks of memory, in bytes."""

    host: int | None = None
    """Peak resident memory above that before the model was opened; None if the platform does not report it."""
    host_total: int | None = None
    """Peak resident memory of the whole process."""
    device: int | None = None
    """Memory taken on the device."""


@dataclass(frozen=True, kw_only=True)
class BenchRun:
    """The measurement of one subject on one case."""

    subject: BenchSubject
    case: BenchCase
    mode: str
    """One of `MODES`."""
    throughput: bool
    """True if several calls were in flight at once."""
    warm_up: tuple[float, ...]
    """Seconds of each call before the times were steady."""
    steady: bool
    """True if the warm-up ended because the times were steady, False if it reached its time limit."""
    samples: tuple[float, ...]
    """Seconds of each sample from input to result, in order."""
    wall: float
    """Elapsed seconds of all samples; with several in flight this is less than their sum."""
    cpu: tuple[float, ...] = ()
    """Processor seconds of all threads in each sample, including threads that spin.

    Empty with several samples in flight. If others keep the machine busy, this says more about the work than
    the elapsed time does.
    """
    pace: tuple[float, ...] = ()
    """Seconds that a fixed piece of work took between the samples, a measure of the machine's speed.

    See `sr_deploy.bench.run.pace`. Empty on a device, with files, with several samples in flight, and for
    runs that were too short.
    """
    stages: Mapping[str, tuple[float, ...]]
    """Stage -> seconds in each sample. The rest of a sample is spent in the harness and in Python."""
    cold_start: ColdStart | None = None
    memory: Memory = Memory()
    """Peaks of memory during the run."""
    energy: float | None = None
    """Joules of the processor during the samples, including everything else that ran on it and the pace work."""
    load: float | None = None
    """Load of the machine at the end of the run, as in `State.load`."""
    others: float | None = None
    """Share (0..1) of the usable cores' time that other processes took during the samples."""


@dataclass(frozen=True, kw_only=True)
class FailedRun:
    """A run that failed, with the error in one line."""

    subject: BenchSubject
    case: BenchCase
    error: str
    """The error message, in one line."""


@dataclass(frozen=True, kw_only=True)
class BenchResult:
    """The output of one call of `sr-deploy bench`."""

    created: str
    """Date and time in UTC, ISO 8601 to the second."""
    environment: Environment
    settings: BenchSettings
    runs: tuple[BenchRun, ...]
    calibration: Calibration | None = None
    """Peak of the machine, if it was measured."""
    failures: tuple[FailedRun, ...] = ()
    """Runs that failed; the other runs are complete all the same."""
    interrupted: bool = False
    """True if the measurement was stopped; `runs` has those that were complete by then."""
    schema: int = SCHEMA
    kind: str = KIND


def write_result(result: BenchResult, path: Path) -> None:
    """Write `result` as JSON, atomically: no partial file is ever visible. Raises OutputError."""
    write_text(path, to_json(result))


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, atomically: no partial file is ever visible. Raises OutputError."""
    try:
        write_whole(path, text.encode("utf-8"), synced=True)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}; choose another place") from error


def read_result(path: Path) -> BenchResult:
    """Read what `write_result` wrote. Raises InputError for anything else, naming the fault."""
    try:
        text = read_bounded(path, _LARGEST).decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not a result of sr-deploy bench; give the JSON file it wrote") from error
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}; give a JSON file of sr-deploy bench") from error
    return from_json(text, str(path))


def to_json(result: BenchResult) -> str:
    """Format a result as JSON, one key per line and each list of numbers on one line, for readable diffs."""
    return dumps(to_plain(result)) + "\n"


def from_json(text: str, name: str = "the result") -> BenchResult:
    """Parse what `to_json` wrote; raises InputError for anything else. `name` names the text in the message."""
    try:
        record = parse_json(text, _LARGEST)
    except ValueError as error:
        raise InputError(f"{name} is not JSON ({error}); give the file that sr-deploy bench wrote") from error
    # Kind and schema are checked first: they explain more than an unknown key would.
    if not isinstance(record, dict) or record.get("kind") != KIND:
        raise InputError(f"{name} is not a result of sr-deploy bench; give the JSON file it wrote")
    if record.get("schema") != SCHEMA:
        raise InputError(
            f"{name} has schema {record.get('schema')!r}, this version reads schema {SCHEMA}; measure again, or use the "
            "version of sr-deploy that wrote it"
        )
    try:
        result = from_plain(BenchResult, record)
        _check(result)
    except ValueError as error:
        raise InputError(f"{name}: {error}; it was changed or truncated; measure again") from error
    return result


def _check(result: BenchResult) -> None:
    """Check what the types do not express. Raises ValueError."""
    for number, run in enumerate(result.runs):
        where = f"runs[{number}]"
        if run.mode not in MODES:
            raise ValueError(f"{where}.mode is {run.mode!r}, expected one of {', '.join(MODES)}")
        if not run.samples:
            raise ValueError(f"{where} has no samples")
        if len(run.cpu) not in (0, len(run.samples)):
            raise ValueError(f"{where}.cpu has {len(run.cpu)} of {len(run.samples)} samples")
        if min(run.samples + run.warm_up) < 0 or run.wall <= 0:
            raise ValueError(f"{where} has a time below zero")
        if min((1.0, *run.pace)) <= 0 or not any(run.samples):
            raise ValueError(f"{where} has work that took no time")
        for stage, seconds in run.stages.items():
            if len(seconds) != len(run.samples):
                raise ValueError(f"{where}: stage {stage!r} has {len(seconds)} of {len(run.samples)} samples")
        if min(run.case.width, run.case.height, run.case.batch) < 1:
            raise ValueError(f"{where}.case has no pixels")
