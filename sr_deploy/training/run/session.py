"""What the parts of a training run share: its options, who watches it, how far it has come."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from sr_deploy.errors import OutputError, UsageError
from sr_deploy.training.checkpoint import CheckpointInfo, save_checkpoint
from sr_deploy.training.recipe import Recipe
from sr_deploy.training.run.log import TrainingLog
from sr_deploy.training.run.process_group import ProcessGroup
from sr_deploy.training.run.state import write_error


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Where a run reads and writes, and on what it runs."""

    data: Path
    out: Path
    minutes: float | None = None
    """Bound by time instead of the recipe's steps."""
    resume: bool = False
    init: Path | None = None
    """Checkpoint of the same net to take the first weights from, as far as they fit."""
    phase: int = 1
    """The phase to begin a new run with, counted from 1: what `init` has been through need not be done again."""
    vgg: Path | None = None
    teacher: Path | None = None
    """Checkpoint of the net whose pictures the phases with `target = "teacher"` learn."""
    cache: Path | None = None
    """Folder for decoded pictures, kept for the next run; None: memory, as far as it goes."""
    device: str = "auto"
    workers: int | None = None
    """Threads that cut crops; None: one beside a CPU, several beside a GPU."""
    compiled: bool = False
    every: int = 1000
    """Steps between two looks at quality, each of which writes the log and the state."""
    keep: int = 3
    """Checkpoints kept for their quality in each phase."""

    def __post_init__(self) -> None:
        if self.minutes is not None and not self.minutes > 0:
            raise UsageError(f"minutes = {self.minutes}, expected more than 0")
        if self.phase > 1 and self.init is None:
            raise UsageError(
                f"phase = {self.phase} begins with the weights of another run: give them with --init"
            )
        for key in ("every", "keep", "workers", "phase"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise UsageError(f"{key} = {value}, expected at least 1")


@dataclass(frozen=True, kw_only=True)
class PhaseStatus:
    """How far along a phase is; `left` is in seconds."""

    phase: int
    phases: int
    step: int
    share: float
    """0..1."""
    rate: float
    """Steps a second since this process began the phase, looks at quality left out."""
    left: float


class TrainingListener(Protocol):
    """Who is told how a run goes."""

    def say(self, line: str) -> None:
        """One line worth keeping."""

    def step(self, status: PhaseStatus) -> None:
        """Called after every step; has to be quick."""


class SilentListener:
    """Tells nobody."""

    def say(self, line: str) -> None:
        """Does nothing."""

    def step(self, status: PhaseStatus) -> None:
        """Does nothing."""


@dataclass
class RunPosition:
    """How far a run has come: all that a resumed one must know beside tensors. JSON values only."""

    phase: int = 0
    """Counted from 0."""
    steps: int = 0
    """In all phases."""
    done: bool = False
    """Whether `phase` is finished."""
    seconds: float = 0.0
    """In all phases, suspended time left out."""
    spent: float = 0.0
    """In this phase."""
    budget: float | None = None
    """Seconds this phase has; None: bound by steps."""
    minutes: float | None = None
    """The run is bounded to; None: bounded by steps."""
    pictures: int = 0
    kept: list[Any] = field(default_factory=list)
    psnr: float | None = None
    init: dict[str, Any] | None = None
    """What the first weights were: the name, recipe and training of the checkpoint they came from."""
    precision: str | None = None
    """What the forward pass was computed in last: fp32, bf16 or fp16."""
    teacher: dict[str, Any] | None = None
    """Whose pictures were learnt last: the name, file and training of the checkpoint."""


@dataclass
class TrainingRun:
    """One run, as every part of it sees it."""

    recipe: Recipe
    options: TrainOptions
    listener: TrainingListener
    processes: ProcessGroup
    device: torch.device
    position: RunPosition = field(default_factory=RunPosition)
    log: TrainingLog | None = None
    """The leader's."""
    stopping: bool = False
    """Set from a signal handler: save after this step, then raise KeyboardInterrupt."""

    def say(self, line: str) -> None:
        """Tell the listener, once for the whole processes."""
        if self.processes.leads:
            self.listener.say(line)

    def save(self, path: Path, net: torch.nn.Module, scale: int) -> None:
        """Write weights with the record of how they came to be. Raises OutputError; the old file survives."""
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
        )
        try:
            save_checkpoint(path, net, info)
        except OutputError:
            raise
        except Exception as error:  # safetensors has its own error for a full disk
            raise write_error(path, error) from error


def device_name(device: torch.device) -> str:
    """Such as "CPU, 2 threads" or "NVIDIA H100"."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads"
