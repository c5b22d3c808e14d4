"""Checkpoints: a trained net in one safetensors file.

The metadata of the file says how to build the net that the weights fit, so that a checkpoint needs no other
file beside it.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from sr_deploy.errors import InputError
from sr_deploy.system.json_values import from_plain, parse_json, to_plain
from sr_deploy.training.nets import build_net
from sr_deploy.training.nets.quantised import plain_tensors

_LARGEST_RECORD = 16 << 20
"""Most characters of metadata that are parsed. The learned ranges of a large net have some hundred thousand."""

_METADATA_KEY = "sr_deploy"
_CHECKPOINTS_OF_A_RUN = ("final.safetensors", "last.safetensors")  # in order of preference


@dataclass(frozen=True, kw_only=True)
class CheckpointInfo:
    """Metadata of a checkpoint, stored as JSON in the header of the safetensors file."""

    name: str
    """Name of the recipe, such as "rt-x4"."""
    architecture: str
    """Key of the net in `sr_deploy.training.nets.NETS`."""
    scale: int
    parameters: dict[str, Any] = field(default_factory=dict)
    """Arguments of the net besides its scale."""
    recipe_sha256: str = ""
    """SHA-256 of the recipe file in hexadecimal; empty where there was no recipe file."""
    training: dict[str, Any] = field(default_factory=dict)
    """History of the training (steps, minutes, pictures); free-form, shown on the model's card."""
    ranges: dict[str, Any] = field(default_factory=dict)
    """Ranges learnt for int8: name of a convolution -> {"range", "signed"}; empty without such a phase."""


def save_checkpoint(path: Path, net: nn.Module, info: CheckpointInfo) -> None:
    """Write `net` to `path` atomically.

    The file is written under a temporary name, flushed to disk and then renamed, so a crash leaves either the
    old file or the new one.
    """
    tensors = {key: value.detach().contiguous() for key, value in plain_tensors(net.state_dict()).items()}
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        save_file(tensors, temporary, metadata={_METADATA_KEY: _to_json(info)})
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _to_json(info: CheckpointInfo) -> str:
    # the PSNR in `training` is infinite if the net reproduces the held-out pictures exactly
    record = to_plain(info, finite=False)
    if not info.ranges:
        del record["ranges"]  # older versions know no ranges
    return json.dumps(record, sort_keys=True)


def find_checkpoint(path: Path) -> Path:
    """Return `path` itself or, for the folder of a run, its finished checkpoint, else its latest one.

    Raises InputError for a folder without either.
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
    """Return the metadata and the weights (on the CPU) of a checkpoint.

    Raises InputError for a file that is missing, is not a safetensors file, or was not written by sr-deploy.
    """
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
            f"{path}: has no sr-deploy metadata; only checkpoints of `sr-deploy train` can be read"
        )
    try:
        return from_plain(CheckpointInfo, parse_json(record, _LARGEST_RECORD), finite=False), tensors
    except ValueError as error:
        raise InputError(
            f"{path}: its sr-deploy metadata cannot be read ({error}); use the version that wrote it"
        ) from error


def load_net(path: Path) -> tuple[nn.Module, CheckpointInfo]:
    """Return the net of a checkpoint with its weights, in evaluation mode on the CPU, and its metadata.

    Raises InputError for a file that is not a checkpoint, or whose weights do not fit the net it names.
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
