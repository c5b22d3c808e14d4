"""A trained net on disk: one safetensors file whose metadata says how to build the net it fits."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from sr_deploy.errors import InputError
from sr_deploy.training.nets import build_net

_METADATA_KEY = "sr_deploy"
_CHECKPOINTS_OF_A_RUN = ("final.safetensors", "last.safetensors")  # the finished one first


@dataclass(frozen=True, kw_only=True)
class CheckpointInfo:
    """What a checkpoint says of itself."""

    name: str
    architecture: str
    scale: int
    parameters: dict[str, Any] = field(default_factory=dict)
    recipe_sha256: str = ""
    training: dict[str, Any] = field(default_factory=dict)
    """What it was trained with: steps, minutes, pictures; free-form, for the model's card."""


def save_checkpoint(path: Path, net: nn.Module, info: CheckpointInfo) -> None:
    """Write atomically: under a temporary name, flushed to disk, then renamed over `path`."""
    tensors = {key: value.detach().contiguous() for key, value in net.state_dict().items()}
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        save_file(tensors, temporary, metadata={_METADATA_KEY: json.dumps(asdict(info), sort_keys=True)})
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def find_checkpoint(path: Path) -> Path:
    """`path` itself, or the finished (else the latest) checkpoint of the run folder it names.

    Raises InputError where there is none.
    """
    if not path.is_dir():
        return path
    for name in _CHECKPOINTS_OF_A_RUN:
        if (path / name).is_file():
            return path / name
    raise InputError(
        f"{path}: neither {' nor '.join(_CHECKPOINTS_OF_A_RUN)} in this folder; name a checkpoint or a folder that "
        "`sr-deploy train` wrote"
    )


def read_checkpoint(path: Path) -> tuple[CheckpointInfo, dict[str, Tensor]]:
    """The record and the weights of a checkpoint. Raises InputError for anything that is not one."""
    try:
        with safe_open(path, framework="pt") as file:
            record = (file.metadata() or {}).get(_METADATA_KEY)
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    except FileNotFoundError as error:
        raise InputError(
            f"{path}: no such checkpoint; name a .safetensors file of `sr-deploy train`"
        ) from error
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"{path}: not a safetensors checkpoint ({error}); name a .safetensors file of `sr-deploy train`"
        ) from error
    if record is None:
        raise InputError(
            f"{path}: no sr-deploy record in it; only checkpoints of `sr-deploy train` are known"
        )
    try:
        return CheckpointInfo(**json.loads(record)), tensors
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{path}: its sr-deploy record cannot be understood ({error}); use the version that wrote it"
        ) from error


def load_net(path: Path) -> tuple[nn.Module, CheckpointInfo]:
    """The net of a checkpoint, in evaluation mode, with its weights.

    Raises InputError for what is no checkpoint, or whose weights do not fit the net it names.
    """
    info, tensors = read_checkpoint(path)
    net = build_net(info.architecture, info.scale, info.parameters)
    try:
        net.load_state_dict(tensors)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{path}: its weights do not fit {info.architecture} x{info.scale} ({reason}); train it again"
        ) from error
    return net.eval(), info
