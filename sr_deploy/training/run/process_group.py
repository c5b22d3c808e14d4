"""The processes of one run, as `torchrun` starts them, or a single process.

    torchrun --nproc-per-node 4 --no-python sr-deploy train RECIPE --data DIR --out RUN

DistributedDataParallel averages the gradients. Everything else on which the processes must agree (when to
stop, the logged means) goes over a gloo group of its own, which never makes a GPU wait.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sr_deploy.errors import MissingRuntimeError, UsageError


@dataclass(frozen=True)
class ProcessGroup:
    """The number of this process (`rank`) among `world` processes."""

    rank: int = 0
    world: int = 1
    local_world: int = 1
    """Number of processes on its host."""
    control: Any = None
    """Process group (gloo) for agreements on the CPU; None for a single process."""

    @property
    def leads(self) -> bool:
        """True in the leader, the process that validates, logs and saves."""
        return self.rank == 0

    def agreed(self, value: float) -> float:
        """Return the leader's value in every process."""
        if self.world == 1:
            return value
        told = torch.tensor([value], dtype=torch.float64)
        dist.broadcast(told, 0, group=self.control)
        return float(told)

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean over the processes, on the CPU in float64."""
        total = values.detach().to("cpu", torch.float64, copy=True)
        if self.world > 1:
            dist.all_reduce(total, group=self.control)
        return total / self.world

    def wrapped(self, net: nn.Module, device: torch.device) -> nn.Module:
        """Return `net` wrapped so that its gradients are averaged over the processes."""
        if self.world == 1:
            return net
        ids = [device.index] if device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(net, device_ids=ids)


def choose_device(wanted: str, local: int = 0) -> torch.device:
    """Return the device for "auto" (a GPU if there is one, else the CPU), "cpu", "cuda" or "cuda:N".

    `local` selects the GPU for "cuda" without a number. Raises UsageError for an unknown device,
    MissingRuntimeError for a GPU that torch does not see.
    """
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(wanted)
    except RuntimeError as error:
        raise UsageError(f"unknown device {wanted!r}; expected auto, cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise UsageError(
            f"device {wanted!r} is not supported for training; expected auto, cpu, cuda or cuda:N"
        )
    if device.type == "cpu":
        return device
    if not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count():
        raise MissingRuntimeError(
            f"device {wanted}: this torch sees {torch.cuda.device_count()} CUDA devices; use --device cpu, or "
            "install a CUDA build of torch and the driver (https://pytorch.org/get-started)"
        )
    return device if device.index is not None else torch.device("cuda", local)


@contextmanager
def join_processes(device: str) -> Iterator[tuple[ProcessGroup, torch.device]]:
    """Join the processes that `torchrun` started, and return them and this process's device.

    At the end the process leaves the group, unless torch.distributed was initialised before: then the caller
    who initialised it leaves.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ProcessGroup(), choose_device(device)
        return
    local = int(os.environ.get("LOCAL_RANK", "0"))
    chosen = choose_device(device, local)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    ours = not dist.is_initialized()
    if ours:
        dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield (
            ProcessGroup(
                rank=dist.get_rank(),
                world=dist.get_world_size(),
                local_world=int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
                control=dist.new_group(backend="gloo"),
            ),
            chosen,
        )
    finally:
        if ours:
            dist.destroy_process_group()
