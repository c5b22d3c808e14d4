"""Facts about this installation: packages, runtimes, CPU, memory, GPUs and models.

Nothing here raises. A fact that cannot be determined is None; a runtime that does not work is described
by a sentence. Every import that may fail in a broken installation stands inside a function for this
reason. The `doctor` command prints the facts.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from sr_deploy.engines.nvidia import GpuInfo, find_gpus
from sr_deploy.errors import describe_error
from sr_deploy.system.cpu import CpuInfo, describe_cpu
from sr_deploy.system.json_values import to_plain
from sr_deploy.system.memory import available_memory
from sr_deploy.version import __version__

PACKAGES = {
    "numpy": None,
    "opencv-python-headless": None,
    "pyvips": None,
    "pyvips-binary": None,
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

_SAME_LIBRARY = {"tensorrt": ("tensorrt-cu13", "tensorrt-cu12")}
"""Distribution -> others that install the same module. The extra `onnxruntime-gpu` installs one of these."""

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
        return {**to_plain(self), "can_upscale": self.can_upscale}


def diagnose() -> Diagnosis:
    """Collect all facts. Takes about a second, because it opens every installed runtime."""
    packages = {name: _version(name) for name in PACKAGES}
    models, problem = _bundled_models()
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


def _version(distribution: str) -> str | None:
    """The installed version of a distribution, or of one with the same module; None if there is none."""
    from importlib import metadata

    for name in (distribution, *_SAME_LIBRARY.get(distribution, ())):
        with suppress(Exception):  # a broken installation may raise anything
            return metadata.version(name)
    return None


def _memory() -> int | None:
    """The available memory in bytes, or None."""
    try:
        return available_memory()
    except Exception:
        return None


def _bundled_models() -> tuple[tuple[str, ...], str | None]:
    try:
        from sr_deploy.models import list_models

        return tuple(entry.name for entry in list_models()), None
    except Exception as error:
        return (), describe_error(error)


def _backend_names() -> tuple[str, ...]:
    """The backends that compute a model: not `nearest`, which copies pixels, nor `auto`, a choice."""
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
        return Backend(name=name, works=False, detail=describe_error(error))
    return Backend(
        name=name, works=True, detail=f"ran {models[0]}: 16x16 to {result.shape[2]}x{result.shape[1]} pixels"
    )


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
