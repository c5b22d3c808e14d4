"""NVIDIA's driver library, and the GPUs that the driver lists. Starts nothing on a GPU."""

from __future__ import annotations

import ctypes
import os
import sys
from dataclasses import dataclass


def load_driver() -> ctypes.CDLL:
    """Load the library by the name that the system has for it. Raises OSError if it is not installed."""
    return ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")


@dataclass(frozen=True, kw_only=True)
class GpuInfo:
    """An NVIDIA GPU as described by its driver."""

    name: str
    memory_mib: int | None = None
    """Total memory in MiB, or None if the driver does not report a number."""
    driver: str | None = None
    """Version of the driver."""


def find_gpus() -> tuple[tuple[GpuInfo, ...], str]:
    """The NVIDIA GPUs that this process can see, and a clause that says how they were found."""
    import subprocess

    # nvidia-smi needs no Python package, so the GPU is found even before any GPU runtime is installed
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits"]
    try:
        result = subprocess.run(query, capture_output=True, text=True, timeout=20, errors="replace")
    except FileNotFoundError:
        return (), _device_hint("nvidia-smi is not installed")
    except (OSError, subprocess.TimeoutExpired) as error:
        return (), _device_hint(f"nvidia-smi does not run ({error})")
    if result.returncode != 0:
        output = " ".join((result.stderr or result.stdout).split()) or "it printed nothing"
        return (), _device_hint(f"nvidia-smi fails with exit code {result.returncode}: {output}")
    gpus = tuple(_gpu(line) for line in result.stdout.splitlines() if line.strip())
    return gpus, "as nvidia-smi lists them" if gpus else "nvidia-smi lists none"


def _device_hint(reason: str) -> str:
    """Add to `reason` that the driver's device file exists, if it does. This happens in containers that were
    given the device but not the driver's tools."""
    if os.path.exists("/dev/nvidiactl"):
        return f"{reason}, but /dev/nvidiactl exists: the driver's tools are missing or not mounted"
    return reason


def _gpu(line: str) -> GpuInfo:
    """The GPU of one line of nvidia-smi's CSV output: name, memory in MiB, driver version."""
    name, memory, driver = ([part.strip() for part in line.split(",")] + ["", "", ""])[:3]
    return GpuInfo(name=name, memory_mib=int(memory) if memory.isdecimal() else None, driver=driver or None)
