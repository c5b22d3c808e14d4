"""Facts about this installation: packages, runtimes, CPU, memory, GPUs and models.

Nothing here raises. A fact that cannot be determined is None; a runtime that does not work is described
by a sentence. Every import that may fail in a broken installation stands inside a function for this
reason. The `doctor` command prints the facts.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from sr_deploy.system.cpu import CpuInfo, describe_cpu
from sr_deploy.system.memory import available_memory
from sr_deploy.version import __version__

PACKAGES = {
    "numpy": None,
    "opencv-python-headless": None,
    "onnx": None,
    "click": None,
    "rich": None,
    "onnxruntime": "cpu",
    "onnxruntime-gpu": "onnxruntime-gpu",
    "openvino": "openvino",
    "tensorrt": "gpu",
    "pycuda": "gpu",
    "tensorrt-rtx-cu12-libs": "rtx",
    "tensorrt-rtx-cu12-bindings": "rtx",
    "torch": "train",
    "safetensors": "train",
    "onnxscript": "train",
    "av": "video",
}
"""Distribution -> the extra of sr-deploy that installs it; None for those that are always required."""

_EXTRAS = {
    "cpu": "upscale on any processor",
    "openvino": "upscale faster on it",
    "train": "train and export models",
}
"""Extra -> its purpose, for the extras that commands of this version use."""


@dataclass(frozen=True, kw_only=True)
class Backend:
    """The result of trying to upscale a picture with one runtime."""

    name: str
    """Name of the backend, as `--backend` takes it."""
    works: bool | None
    """True if it upscaled the picture, False if not.

    None if it loads but no bundled model exists to try it with.
    """
    detail: str
    """The model and picture size it ran, or the reason why it does not work."""


@dataclass(frozen=True, kw_only=True)
class GpuInfo:
    """An NVIDIA GPU as described by its driver."""

    name: str
    memory_mib: int | None = None
    """Total memory in MiB, or None if the driver does not report a number."""
    driver: str | None = None
    """Version of the driver."""


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """The facts that `sr-deploy doctor` shows. `to_dict` gives the output of `--json`."""

    version: str
    python: str
    """Implementation, version and path of the Python interpreter."""
    platform: str
    packages: Mapping[str, str | None]
    """Distribution -> installed version, or None if it is not installed."""
    backends: tuple[Backend, ...]
    cpu: CpuInfo
    memory_available: int | None
    """Bytes that this process can still use, within the limit of its container."""
    gpus: tuple[GpuInfo, ...]
    gpu_detail: str
    """Source of the list of GPUs, or the reason why it is empty."""
    models: tuple[str, ...]
    """Names of the bundled models."""
    models_problem: str | None
    """Reason why the bundled models cannot be used, or None."""
    advice: tuple[str, ...]
    """Install commands for missing packages."""

    @property
    def can_upscale(self) -> bool:
        """True if at least one runtime works."""
        return any(backend.works for backend in self.backends)

    @property
    def lacks_runtime(self) -> bool:
        """True if every runtime is missing or broken. A runtime that could not be tried counts as neither."""
        return all(backend.works is False for backend in self.backends)

    def to_dict(self) -> dict[str, Any]:
        """The diagnosis as plain JSON values."""
        return {**asdict(self), "can_upscale": self.can_upscale}


def diagnose() -> Diagnosis:
    """Collect all facts. Takes about a second, because it opens every installed runtime."""
    packages = {name: _version(name) for name in PACKAGES}
    models, problem = _models()
    gpus, gpu_detail = find_gpus()
    return Diagnosis(
        version=__version__,
        python=f"{platform.python_implementation()} {platform.python_version()} ({sys.executable})",
        platform=platform.platform(),
        packages=packages,
        backends=tuple(_try_backend(name, models) for name in _backend_names()),
        cpu=describe_cpu(),
        memory_available=_memory(),
        gpus=gpus,
        gpu_detail=gpu_detail,
        models=models,
        models_problem=problem,
        advice=_advice(packages),
    )


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
    """Add to `reason` that the driver's device file exists, if it does.

    This happens in containers that were given the device but not the driver's tools.
    """
    if os.path.exists("/dev/nvidiactl"):
        return f"{reason}, but /dev/nvidiactl exists: the driver's tools are missing or not mounted"
    return reason


def _gpu(line: str) -> GpuInfo:
    """The GPU of one line of nvidia-smi's CSV output: name, memory in MiB, driver version."""
    name, memory, driver = ([part.strip() for part in line.split(",")] + ["", "", ""])[:3]
    return GpuInfo(name=name, memory_mib=int(memory) if memory.isdecimal() else None, driver=driver or None)


def _version(distribution: str) -> str | None:
    """The installed version of a distribution, or None."""
    from importlib import metadata

    try:
        return metadata.version(distribution)
    except Exception:  # a broken installation may raise anything
        return None


def _memory() -> int | None:
    """The available memory in bytes, or None."""
    try:
        return available_memory()
    except Exception:
        return None


def _models() -> tuple[tuple[str, ...], str | None]:
    """The names of the bundled models, or the reason why they cannot be listed."""
    try:
        from sr_deploy.models import list_models

        return tuple(entry.name for entry in list_models()), None
    except Exception as error:
        return (), _one_line(error)


def _backend_names() -> tuple[str, ...]:
    """The backends that compute a model.

    The `nearest` engine copies pixels and `auto` is a choice; neither counts.
    """
    try:
        from sr_deploy.engines.registry import BACKENDS
    except Exception:
        return ("onnxruntime",)
    return tuple(name for name in BACKENDS if name not in ("auto", "nearest"))


def _try_backend(name: str, models: tuple[str, ...]) -> Backend:
    """Run the first bundled model on a small picture.

    Without any model, only check that the runtime loads.
    """
    try:
        import numpy as np

        from sr_deploy.engines.registry import available_backends, open_engine
        from sr_deploy.models import find_model

        if not models:
            missing = available_backends()[name]
            detail = "it loads, but there is no bundled model to try it with; install sr-deploy again"
            return Backend(name=name, works=False if missing else None, detail=missing or detail)
        with open_engine(find_model(models[0]), backend=name) as engine:
            # 16x16 pixels: large enough for any model, too small to take noticeable time
            result = engine.run(np.zeros((1, 16, 16, engine.spec.channels), np.uint8))
    except Exception as error:
        return Backend(name=name, works=False, detail=_one_line(error))
    return Backend(
        name=name, works=True, detail=f"ran {models[0]}: 16x16 to {result.shape[2]}x{result.shape[1]} pixels"
    )


def _one_line(error: Exception) -> str:
    """The message of `error` on one line.

    Errors that are not sr-deploy's own get their class name in front.
    """
    text = " ".join(str(error).split())
    from sr_deploy.errors import SrDeployError

    return text if isinstance(error, SrDeployError) else f"{type(error).__name__}: {text}"


def _advice(packages: Mapping[str, str | None]) -> tuple[str, ...]:
    """One install command per extra of which a package is missing."""
    missing: dict[str, list[str]] = {}
    for name, extra in PACKAGES.items():
        if packages[name] is None and extra is not None:
            missing.setdefault(extra, []).append(name)
    if packages["onnxruntime-gpu"] is not None:
        missing.pop("cpu", None)  # onnxruntime-gpu installs the same Python module as onnxruntime
    return tuple(
        f'to {_EXTRAS[extra]}: pip install "sr-deploy[{extra}]"' for extra in _EXTRAS if extra in missing
    )
