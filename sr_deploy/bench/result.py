"""What a measurement is, as values and as versioned JSON: raw samples and everything needed to trust them later.

Times are seconds, sizes pixels or bytes, energy joules. Summaries are computed (`summary`), never stored.
Measures nothing and prints nothing.

History of the schema:
    1   the first
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from sr_deploy.errors import InputError, OutputError
from sr_deploy.system.files import write_whole
from sr_deploy.system.json_values import dumps, from_plain, to_plain

SCHEMA = 1
KIND = "sr-deploy bench"
MODES = ("end-to-end", "with-files", "device")
"""Decoded pixels to decoded pixels in host memory; the same from file to file; resident on the device.
Figures of two modes never stand in one table."""
STAGES = ("read", "decode", "prepare", "to device", "compute", "from device", "finish", "encode", "write")
"""What a frame's time is made of, in order; a run has those that its backend and mode can tell apart."""


def _empty_mapping() -> Mapping[str, Any]:
    return MappingProxyType({})


@dataclass(frozen=True, kw_only=True)
class BenchMachine:
    """What must be equal before figures may be compared or merged."""

    cpu: str
    architecture: str
    system: str
    """Linux, Windows or Darwin."""
    cores: int
    """Logical cores of the machine."""
    usable_cores: int
    """Physical cores that affinity and container limits leave to this process."""
    features: tuple[str, ...] = ()
    """Instruction sets that matter to neural networks."""
    cpu_quota: float | None = None
    """Cores' worth of time that the container may use; None: no limit."""
    memory_limit: int | None = None
    """Bytes the container may use; None: no limit."""
    gpus: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class State:
    """What the machine was doing when the measurement began."""

    load: float | None = None
    """Runnable processes, mean of the last minute."""
    busy_elsewhere: float | None = None
    """Share (0..1) of the usable cores' time that others took in a short look before the first run."""
    governor: str | None = None
    clock_mhz: float | None = None
    top_clock_mhz: float | None = None
    memory_total: int | None = None
    memory_available: int | None = None
    virtual: str | None = None
    """The hypervisor, where one shows."""


@dataclass(frozen=True, kw_only=True)
class Environment:
    """Where and with what it was measured."""

    machine: BenchMachine
    state: State
    platform: str
    python: str
    versions: Mapping[str, str]
    """Distribution -> version, sr-deploy and every runtime that is installed."""
    driver: str | None = None
    """Of the GPU."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What this machine reached in a short test of its own, with the threads the runs had."""

    copy_bytes_per_second: float
    """Bytes read plus bytes written by a large copy of memory."""
    multiply_adds_per_second: float
    """Of a large float32 matrix product."""
    threads: int


@dataclass(frozen=True, kw_only=True)
class BenchSettings:
    """How it was measured."""

    mode: str = "end-to-end"
    throughput: bool = False
    min_samples: int
    min_seconds: float
    max_seconds: float
    images: tuple[str, ...] = ()
    """File names of the pictures the frames were cut from."""
    image_sha256: str | None = None
    """Of the pixels of those pictures."""


@dataclass(frozen=True, kw_only=True)
class BenchSubject:
    """What ran: a model on a backend, or a peer it is compared with."""

    model: str
    backend: str
    precision: str
    """Of the file: fp32, fp16, bf16, int8; "uint8" for a classic filter."""
    scale: int
    runner: str = "sr-deploy"
    """Who drove the backend; a peer's name where it was not sr-deploy, such as "torch eager"."""
    threads: int | None = None
    """None: what the backend takes by itself."""
    streams: int = 1
    """Calls in flight at once."""
    model_sha256: str | None = None
    """Of the model file."""
    engine_sha256: str | None = None
    """Of the compiled engine, where there is one."""
    parameters: int | None = None
    multiply_adds_per_pixel: float | None = None
    """Of the net, per input pixel."""
    quality: Mapping[str, Mapping[str, float]] = field(default_factory=_empty_mapping)
    """Data set -> measure -> value, from the model's card: {"Set5": {"psnr_y": 31.02}}."""
    options: Mapping[str, str] = field(default_factory=_empty_mapping)

    @property
    def name(self) -> str:
        """One line that tells it from its neighbours."""
        driver = "" if self.runner == "sr-deploy" else f" ({self.runner})"
        return f"{self.model} {self.backend} {self.precision}{driver}"


@dataclass(frozen=True, kw_only=True)
class BenchCase:
    """What it ran on."""

    label: str
    """As it was asked for: "540p", "637x481", a file name."""
    width: int
    height: int
    """Of one input picture, in pixels."""
    batch: int = 1
    """Pictures a sample worked on."""
    tile: str = "auto"
    """"whole", "auto", or the side of the kept part of a tile in pixels, as it was asked for."""
    tiles: int = 1
    """How many there were."""

    @property
    def pixels(self) -> int:
        """Input pixels of one sample."""
        return self.width * self.height * self.batch


@dataclass(frozen=True, kw_only=True)
class ColdStart:
    """What comes before the first picture, in a process that had done neither before for this subject."""

    open: float
    """Opening the model."""
    first: float
    """The first call."""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """The most that was taken, in bytes."""

    host: int | None = None
    """Resident, over what it was before the model was opened; None where the platform does not tell."""
    host_total: int | None = None
    """Resident, the whole process."""
    device: int | None = None


@dataclass(frozen=True, kw_only=True)
class BenchRun:
    """One subject on one case."""

    subject: BenchSubject
    case: BenchCase
    mode: str
    throughput: bool
    warm_up: tuple[float, ...]
    """Seconds of every call before it was steady."""
    steady: bool
    """Whether the warm-up ended because the times were steady, rather than because its time was up."""
    samples: tuple[float, ...]
    """Seconds from handing in a sample to having its result, in order."""
    wall: float
    """Seconds all samples took together; with several in flight less than their sum."""
    cpu: tuple[float, ...] = ()
    """Seconds of processor time of all threads in every sample, spinning ones included; none where several were in
    flight. Where others keep the machine busy it tells more of the work than the time does."""
    pace: tuple[float, ...] = ()
    """Seconds that a fixed piece of work took between the samples: how fast the machine was (`sr_deploy.bench.run.pace`).
    None on a device, from file to file, with several samples in flight, or where all was over too soon."""
    stages: Mapping[str, tuple[float, ...]]
    """Stage -> seconds in every sample; what is left of a sample is the harness and Python."""
    cold_start: ColdStart | None = None
    memory: Memory = Memory()
    energy: float | None = None
    """Joules the processor took over the samples, everything that ran on it included, looks at the pace too."""
    load: float | None = None
    """Of the machine when the run ended, as `State.load`."""
    others: float | None = None
    """Share (0..1) of the usable cores' time that other processes took during the samples."""


@dataclass(frozen=True, kw_only=True)
class FailedRun:
    """A run that did not come about."""

    subject: BenchSubject
    case: BenchCase
    error: str


@dataclass(frozen=True, kw_only=True)
class BenchResult:
    """What one call of `sr-deploy bench` measured."""

    created: str
    """UTC, ISO 8601 to the second."""
    environment: Environment
    settings: BenchSettings
    runs: tuple[BenchRun, ...]
    calibration: Calibration | None = None
    failures: tuple[FailedRun, ...] = ()
    interrupted: bool = False
    """It was stopped; `runs` is what was complete by then."""
    schema: int = SCHEMA
    kind: str = KIND


def write_result(result: BenchResult, path: Path) -> None:
    """As JSON; the file appears whole or not at all. Raises OutputError where it cannot be written."""
    write_text(path, to_json(result))


def write_text(path: Path, text: str) -> None:
    """As UTF-8, whole or not at all. Raises OutputError where it cannot be written."""
    try:
        write_whole(path, text.encode("utf-8"))
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}; choose another place") from error


def read_result(path: Path) -> BenchResult:
    """What `write_result` wrote. Raises InputError for anything else, naming what is wrong with it."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not a result of sr-deploy bench; give the JSON file it wrote") from error
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}; give a JSON file of sr-deploy bench") from error
    return from_json(text, str(path))


def to_json(result: BenchResult) -> str:
    """A line a key, and each list of numbers on one line: it is kept under version control."""
    return dumps(to_plain(result)) + "\n"


def from_json(text: str, name: str = "the result") -> BenchResult:
    """Read what `to_json` wrote. Raises InputError for anything else; `name` is what the error calls it."""
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name} is not JSON ({error}); give the file that sr-deploy bench wrote") from error
    if not isinstance(record, dict) or record.get("kind") != KIND:
        raise InputError(f"{name} is not a result of sr-deploy bench; give the JSON file it wrote")
    if record.get("schema") != SCHEMA:
        raise InputError(
            f"{name} has schema {record.get('schema')!r}, this version reads {SCHEMA}; measure again, or use the "
            "version of sr-deploy that wrote it"
        )
    try:
        result = from_plain(BenchResult, record)
        _check(result)
    except ValueError as error:
        raise InputError(f"{name}: {error}; it was changed or cut short: measure again") from error
    return result


def _check(result: BenchResult) -> None:
    """What the types do not say. Raises ValueError."""
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
