"""Facts about this installation: packages, runtimes that work and why others do not, CPU, memory, GPU, models.

Nothing here raises: a fact that cannot be had is None, a runtime that is broken is a sentence. Printing is
the command's business.
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
    "onnxruntime-gpu": "gpu",
    "openvino": "openvino",
    "tensorrt": "gpu",
    "pycuda": "gpu",
    "torch": "train",
    "safetensors": "train",
    "onnxscript": "train",
    "av": "video",
}
"""Distribution -> the extra that installs it; None: always there."""

_EXTRAS = {
    "cpu": "upscale on any processor",
    "openvino": "upscale faster on it",
    "train": "train and export models",
}
"""The extras that commands of this version use -> what for."""


@dataclass(frozen=True, kw_only=True)
class Backend:
    """Whether one runtime can upscale a picture here, found by doing it."""

    name: str
    works: bool | None
    """None: it is installed and loads, and there is no bundled model to try it with."""
    detail: str
    """What it ran, or why it cannot."""


@dataclass(frozen=True, kw_only=True)
class GpuInfo:
    """An NVIDIA GPU as its driver describes it."""

    name: str
    memory_mib: int | None = None
    driver: str | None = None


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """Everything `sr-deploy doctor` knows. `to_dict` is what `--json` prints."""

    version: str
    python: str
    platform: str
    packages: Mapping[str, str | None]
    """Distribution -> installed version; None: not installed."""
    backends: tuple[Backend, ...]
    cpu: CpuInfo
    memory_available: int | None
    """Bytes this process may still take, within its container's limit."""
    gpus: tuple[GpuInfo, ...]
    gpu_detail: str
    """How the GPUs were found, or why there is none."""
    models: tuple[str, ...]
    models_problem: str | None
    """What is wrong with the bundled models, if anything."""
    advice: tuple[str, ...]
    """Install lines for what is missing."""

    @property
    def can_upscale(self) -> bool:
        """Whether at least one runtime works."""
        return any(backend.works for backend in self.backends)

    @property
    def lacks_runtime(self) -> bool:
        """Whether every runtime is missing or broken; one that could not be tried is neither."""
        return all(backend.works is False for backend in self.backends)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "can_upscale": self.can_upscale}


def diagnose() -> Diagnosis:
    """Look at everything; takes about a second, as it opens every runtime that is installed."""
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
    """The NVIDIA GPUs that the driver shows to this process, and how that is known."""
    import subprocess

    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits"]
    try:
        result = subprocess.run(query, capture_output=True, text=True, timeout=20, errors="replace")
    except FileNotFoundError:
        return (), _device_hint("nvidia-smi is not installed")
    except (OSError, subprocess.TimeoutExpired) as error:
        return (), _device_hint(f"nvidia-smi does not run ({error})")
    if result.returncode != 0:
        said = " ".join((result.stderr or result.stdout).split()) or "it says nothing"
        return (), _device_hint(f"nvidia-smi fails with exit code {result.returncode}: {said}")
    gpus = tuple(_gpu(line) for line in result.stdout.splitlines() if line.strip())
    return gpus, "as nvidia-smi lists them" if gpus else "nvidia-smi lists none"


def _device_hint(reason: str) -> str:
    if os.path.exists("/dev/nvidiactl"):
        return f"{reason}, yet /dev/nvidiactl exists: the driver's tools are missing or not mounted"
    return reason


def _gpu(line: str) -> GpuInfo:
    name, memory, driver = ([part.strip() for part in line.split(",")] + ["", "", ""])[:3]
    return GpuInfo(name=name, memory_mib=int(memory) if memory.isdecimal() else None, driver=driver or None)


def _version(distribution: str) -> str | None:
    from importlib import metadata

    try:
        return metadata.version(distribution)
    except Exception:  # a broken installation may raise anything
        return None


def _memory() -> int | None:
    try:
        return available_memory()
    except Exception:
        return None


def _models() -> tuple[tuple[str, ...], str | None]:
    try:
        from sr_deploy.models import list_models

        return tuple(entry.name for entry in list_models()), None
    except Exception as error:
        return (), _one_line(error)


def _backend_names() -> tuple[str, ...]:
    """The runtimes that compute a model; the nearest-neighbour engine is none."""
    try:
        from sr_deploy.engines.registry import BACKENDS
    except Exception:
        return ("onnxruntime",)
    return tuple(name for name in BACKENDS if name not in ("auto", "nearest"))


def _try_backend(name: str, models: tuple[str, ...]) -> Backend:
    """Run the first bundled model on a small picture; without one, only see whether the runtime loads."""
    try:
        import numpy as np

        from sr_deploy.engines.registry import available_backends, open_engine
        from sr_deploy.models import find_model

        if not models:
            missing = available_backends()[name]
            detail = "it loads, and there is no bundled model to try it with; install sr-deploy again"
            return Backend(name=name, works=False if missing else None, detail=missing or detail)
        with open_engine(find_model(models[0]), backend=name) as engine:
            result = engine.run(np.zeros((1, 16, 16, engine.spec.channels), np.uint8))
    except Exception as error:
        return Backend(name=name, works=False, detail=_one_line(error))
    return Backend(
        name=name, works=True, detail=f"ran {models[0]}: 16x16 to {result.shape[2]}x{result.shape[1]} pixels"
    )


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    from sr_deploy.errors import SrDeployError

    return text if isinstance(error, SrDeployError) else f"{type(error).__name__}: {text}"


def _advice(packages: Mapping[str, str | None]) -> tuple[str, ...]:
    """One line an extra of which something is missing."""
    missing: dict[str, list[str]] = {}
    for name, extra in PACKAGES.items():
        if packages[name] is None and extra is not None:
            missing.setdefault(extra, []).append(name)
    if packages["onnxruntime-gpu"] is not None:
        missing.pop("cpu", None)  # it brings the same module
    return tuple(
        f'to {_EXTRAS[extra]}: pip install "sr-deploy[{extra}]"' for extra in _EXTRAS if extra in missing
    )
