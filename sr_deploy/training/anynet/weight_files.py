"""Read the weights of a file, and never run code that it holds.

Pickles are read by `torch.load(weights_only=True)`, which builds tensors and containers and calls nothing else.
Files that are often mistaken for checkpoints are recognised by their first bytes, and named.
"""

from __future__ import annotations

import pickletools
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from sr_deploy.errors import InputError, one_line

_LFS = b"version https://git-lfs"
_HTML = (b"<!doctype", b"<html", b"<?xml", b"<head")
_HARMLESS = ("torch", "collections", "numpy", "_codecs")
"""Packages whose names a pickle of plain weights mentions."""
_PLAIN_TYPES = {
    f"{place}.{kind}"
    for place in ("builtins", "__builtin__")
    for kind in ("set", "frozenset", "complex", "bytearray")
}
"""Built-in types that a pickle may make; they run nothing, so a message names something else."""
_WRAPPERS = (
    "model_state_dict",
    "state_dict",
    "params_ema",
    "params-ema",
    "params",
    "model",
    "net",
    "generator",
)
"""Keys under which trainers keep the weights, the better ones first: an average of weights before the last ones."""
_PREFIXES = ("module.", "netG.", "_orig_mod.")
"""Prefixes that wrappers of modules (data parallelism, GANs, torch.compile) add to every name."""


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint by name, on the CPU and without the trainer's wrapping.

    Raises InputError for a file that is missing, empty, no checkpoint, or a pickle that asks for code.
    """
    _check_head(path)
    loaded = _load_safetensors(path) if path.suffix.lower() == ".safetensors" else _load_pickle(path)
    tensors = {str(key): value for key, value in unwrapped(loaded).items() if isinstance(value, Tensor)}
    if not tensors:
        raise InputError(
            f"{path}: holds no tensors by name, so it is no checkpoint of a net; save it with torch.save(net.state_dict(), ...)"
        )
    return tensors


def _check_head(path: Path) -> None:
    """Raise InputError for a file that its first bytes show not to be a checkpoint."""
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such checkpoint; check the path") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    if not head:
        raise InputError(f"{path}: is empty; download it again")
    if head.startswith(_LFS):
        raise InputError(f"{path}: is a Git LFS pointer, not the checkpoint itself; run `git lfs pull`")
    if head.lstrip().lower().startswith(_HTML):
        raise InputError(
            f"{path}: is a web page saved under this name, not a checkpoint; download the file behind the page"
        )


def _load_safetensors(path: Path) -> Mapping[str, Any]:
    """Return the tensors of a safetensors file. Raises InputError for another file."""
    try:
        tensors: dict[str, Any] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"{path}: not a safetensors checkpoint, or a damaged one ({one_line(error)}); download it again"
        ) from error
    return tensors


def _load_pickle(path: Path) -> Mapping[str, Any]:
    """Return the content of a file of torch.save. Raises InputError for anything but weights."""
    if is_torchscript(path):
        raise InputError(
            f"{path}: is a TorchScript program, which holds code beside weights; save its state_dict() with torch.save instead"
        )
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (
        Exception
    ) as error:  # torch raises UnpicklingError, RuntimeError, EOFError, KeyError and others here
        raise _refusal(path, error) from error
    if not isinstance(loaded, Mapping):
        raise InputError(
            f"{path}: holds a {type(loaded).__name__}, expected weights by name; save it with torch.save(net.state_dict(), ...)"
        )
    return loaded


def is_torchscript(path: Path) -> bool:
    """True for a file of torch.jit.save, which has a folder `code` in its archive."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in name and "/.data" not in name for name in archive.namelist())


def _refusal(path: Path, error: Exception) -> InputError:
    """Return the error for a pickle that torch did not read: one that asks for code, or a damaged one."""
    names = _called_names(path)
    wanted = [name for name in names if name.partition(".")[0] not in _HARMLESS and name not in _PLAIN_TYPES]
    if not wanted and any(name.startswith("torch.nn.modules.") for name in names):
        return InputError(
            f"{path}: holds a whole module, which is more than weights; save only the weights, with torch.save(net.state_dict(), ...)"
        )
    if wanted:
        return InputError(
            f"{path}: is a pickle that wants to call {wanted[0]}, which is code and not weights; it was not "
            "run; save the weights alone with torch.save(net.state_dict(), ...)"
        )
    reason = one_line(error, 120)
    if reason.startswith(
        "Weights only"
    ):  # torch's advice to read the file with its code, which is no help here
        reason = "torch finds no weights in it"
    return InputError(f"{path}: is not a checkpoint of torch, or a damaged one ({reason}); download it again")


def _called_names(path: Path) -> list[str]:
    """Return the classes and functions that a pickle names, without loading it; empty for what is no pickle."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                data = archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))
        else:
            data = path.read_bytes()
        found, texts = [], list[str]()
        for operation, value, _ in pickletools.genops(data):
            if isinstance(value, str) and operation.name == "GLOBAL":
                found.append(value.replace(" ", "."))
            elif isinstance(value, str):
                texts.append(value)
            elif operation.name == "STACK_GLOBAL":
                found.append(".".join(texts[-2:]))
    except (StopIteration, ValueError, KeyError, IndexError, OSError, zipfile.BadZipFile):
        return []
    return found


def unwrapped(loaded: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the weights inside what a trainer saved around them, with plain names."""
    for key in _WRAPPERS:
        if isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
            break
    if len(loaded) == 1 and isinstance(only := next(iter(loaded.values())), Mapping):
        loaded = only
    for prefix in _PREFIXES:
        if loaded and all(str(key).startswith(prefix) for key in loaded):
            loaded = {str(key)[len(prefix) :]: value for key, value in loaded.items()}
    return loaded
