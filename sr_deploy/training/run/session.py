"""The data that all parts of a training run share: its options, its listener and its position."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from sr_deploy.errors import OutputError, UsageError
from sr_deploy.training.checkpoint import CheckpointInfo, save_checkpoint
from sr_deploy.training.nets.quantised import learned_ranges
from sr_deploy.training.recipe import Recipe
from sr_deploy.training.run.log import TrainingLog
from sr_deploy.training.run.process_group import ProcessGroup
from sr_deploy.training.run.state import write_error


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Paths, device and limits of a run.

    Raises UsageError for a value outside its range.
    """

    data: Path
    """Folder of pictures to train on."""
    out: Path
    """Folder for logs, checkpoints and the state."""
    minutes: float | None = None
    """Minutes of training, which replace the recipe's steps; None: the recipe's steps."""
    resume: bool = False
    """Continue the run whose state is in `out`."""
    init: Path | None = None
    """Checkpoint of the same net to take the first weights from, as far as they fit."""
    phase: int = 1
    """Phase with which a new run begins, counted from 1.

    Phases that the run of `init` has been through can be left out.
    """
    vgg: Path | None = None
    """File of VGG weights; None: torchvision's."""
    teacher: Path | None = None
    """Checkpoint of the net whose pictures the phases with `target = "teacher"` learn."""
    cache: Path | None = None
    """Folder that keeps decoded pictures for the next run; None: memory, as far as it goes."""
    device: str = "auto"
    """"auto", "cpu", "cuda" or "cuda:N"."""
    workers: int | None = None
    """Number of threads that cut crops; None: one for a CPU, several for a GPU."""
    compiled: bool = False
    """Run the net through `torch.compile`."""
    every: int = 1000
    """Steps between two evaluations. Each evaluation writes the log and the state."""
    keep: int = 3
    """Number of best checkpoints kept in each phase."""
    command: str = ""
    """The command line that started the run; it is kept in the folder `out`."""

    def __post_init__(self) -> None:
        if self.minutes is not None and not self.minutes > 0:
            raise UsageError(f"minutes = {self.minutes}, expected a number above 0")
        if self.phase > 1 and self.init is None:
            raise UsageError(
                f"phase = {self.phase} starts from the weights of another run; name its checkpoint with --init"
            )
        for key in ("every", "keep", "workers", "phase"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise UsageError(f"{key} = {value}, expected at least 1")


@dataclass(frozen=True, kw_only=True)
class PhaseStatus:
    """Progress of a phase, as listeners get it after every step."""

    phase: int
    """Number of the phase, counted from 1."""
    phases: int
    """Number of phases in the recipe."""
    step: int
    """Steps done in this phase."""
    share: float
    """Progress of the phase, 0..1."""
    rate: float
    """Steps per second since this process began the phase, without the time of evaluations."""
    left: float
    """Estimated seconds until the phase ends."""


class TrainingListener(Protocol):
    """Interface of an object that is told how a run proceeds."""

    def say(self, line: str) -> None:
        """Take one line that is worth keeping."""

    def step(self, status: PhaseStatus) -> None:
        """Take the status after a step. It is called after every step and has to be quick."""

    def work(self, what: str, done: int, total: int) -> None:
        """Take the progress of work between steps: preparing, or measuring the quality. It has to be quick.

        It is called from several threads, the last time with `done` equal to `total`.
        """


class SilentListener:
    """A listener that ignores everything."""

    def say(self, line: str) -> None:
        """Ignore the line."""

    def step(self, status: PhaseStatus) -> None:
        """Ignore the status."""

    def work(self, what: str, done: int, total: int) -> None:
        """Ignore the progress."""


@dataclass
class RunPosition:
    """Progress of a run: everything that a resumed run must know besides tensors.

    All values are JSON values. The state file stores them under these names, so they must not be renamed.
    """

    phase: int = 0
    """Current phase, counted from 0."""
    steps: int = 0
    """Steps done in all phases."""
    done: bool = False
    """True if the current phase is finished."""
    seconds: float = 0.0
    """Seconds of training in all phases, without evaluations and suspended time."""
    spent: float = 0.0
    """Seconds of training in the current phase."""
    looked: float = 0.0
    """Seconds of evaluations in the current phase."""
    budget: float | None = None
    """Seconds of training for the current phase; None: it is bounded by steps."""
    minutes: float | None = None
    """Minutes of training of the run; None: it is bounded by steps."""
    side: int = 0
    """Side of the crops that the current phase measures quality on, in large pixels; 0: not chosen yet."""
    bicubic: dict[str, float] = field(default_factory=dict)
    """Number of a phase, counted from 1 -> PSNR of Y in dB that bicubic reaches on its crops."""
    highest_rate: float = 0.0
    """Highest learning rate in the current phase so far."""
    pictures: int = 0
    """Number of pictures decoded."""
    kept: list[Any] = field(default_factory=list)
    """(rank, file name) of the best checkpoints of the current phase, best first."""
    psnr: float | None = None
    """PSNR of Y in dB at the last evaluation."""
    init: dict[str, Any] | None = None
    """Name, recipe and training of the checkpoint that the first weights came from."""
    precision: str | None = None
    """Precision of the last forward pass: fp32, bf16 or fp16."""
    teacher: dict[str, Any] | None = None
    """Name, SHA-256 and training of the last teacher's checkpoint."""


@dataclass
class TrainingRun:
    """One run, as all its parts see it."""

    recipe: Recipe
    options: TrainOptions
    listener: TrainingListener
    processes: ProcessGroup
    device: torch.device
    position: RunPosition = field(default_factory=RunPosition)
    log: TrainingLog | None = None
    """The log; None in processes other than the leader."""
    rates: dict[int, list[tuple[int, float]]] = field(default_factory=dict)
    """Number of a phase, counted from 1 -> (step, learning rate) of steps in this process, for the curve."""
    stopping: bool = False
    """Set from a signal handler: save after the current step, then raise KeyboardInterrupt."""

    def say(self, line: str) -> None:
        """Tell the listener one line, from the leader only."""
        if self.processes.leads:
            self.listener.say(line)

    def work(self, what: str, done: int, total: int) -> None:
        """Tell the listener the progress of work between steps, from the leader only."""
        if self.processes.leads:
            self.listener.work(what, done, total)

    def save(self, path: Path, net: torch.nn.Module, scale: int) -> None:
        """Write a checkpoint with a record of its training.

        Raises OutputError where that fails; the old file is then intact.
        """
        training: dict[str, Any] = {
            "steps": self.position.steps,
            "minutes": round(self.position.seconds / 60, 1),
            "pictures": self.position.pictures,
            "device": device_name(self.device)
            + f", {self.processes.world} processes" * (self.processes.world > 1),
            "precision": self.position.precision,
            "psnr_held_out": None if self.position.psnr is None else round(self.position.psnr, 3),
        }
        if self.position.init:
            training["init"] = self.position.init
        if self.position.teacher:
            training["teacher"] = self.position.teacher
        info = CheckpointInfo(
            name=self.recipe.name,
            architecture=self.recipe.architecture,
            scale=scale,
            parameters=dict(self.recipe.parameters),
            recipe_sha256=self.recipe.sha256,
            training=training,
            ranges=learned_ranges(net),
        )
        try:
            save_checkpoint(path, net, info)
        except OutputError:
            raise
        except Exception as error:  # safetensors raises an error of its own for a full disk
            raise write_error(path, error) from error


def device_name(device: torch.device) -> str:
    """Return a name such as "CPU, 2 threads" or "NVIDIA H100"."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads"
