"""Find the CUDA, cuDNN and TensorRT libraries that ONNX Runtime's GPU providers need, and name the missing one.

Wheels put these libraries into folders that the system's loader does not search. ONNX Runtime has `preload_dlls`
for that, which nobody calls by itself; the wheels of TensorRT load their libraries when they are imported.
"""

from __future__ import annotations

import ctypes
import re
import sys
import threading
from contextlib import redirect_stdout, suppress
from importlib import import_module
from io import StringIO
from pathlib import Path

from sr_deploy.engines.onnxruntime.session import TENSORRT, install_line, runtime
from sr_deploy.errors import MissingRuntimeError

_LIBRARY = re.compile(
    r"\b((?:lib)?[A-Za-z][\w+-]*?(?:\.so(?:\.\d+)*|\.dll))\b(?=(?:(?!\.so\b|\.dll)[^;])*(?:cannot open|no such file|not found|which is missing))",
    re.IGNORECASE,
)
"""Finds the library that the loader of Linux or Windows, or ONNX Runtime, says is missing."""
_DRIVER_FUNCTION = re.compile(r"undefined symbol: (cu[A-Z]\w+)")
"""Finds the function of the driver that the loader of Linux misses. Those of CUDA's libraries begin with "cuda",
"cublas" and the like."""
_PROVIDER_FILES = {
    "CUDAExecutionProvider": "onnxruntime_providers_cuda",
    TENSORRT: "onnxruntime_providers_tensorrt",
}
"""Library of each provider, without the system's prefix and suffix."""
_TENSORRT_PACKAGES = ("tensorrt_libs", "tensorrt")
"""Packages whose import loads TensorRT's libraries; the first is that of the wheels."""
_preloaded = threading.Event()
_preload_lock = threading.Lock()


def preload(provider: str) -> None:
    """Load the libraries that `provider` needs from the wheels that are installed; failures are ignored.

    Happens once per process. A library that is still missing is named by `require_libraries`.
    """
    with _preload_lock:
        if not _preloaded.is_set():
            _preloaded.set()
            load = getattr(runtime(), "preload_dlls", None)
            if load is not None:
                # it prints a line for each library that it does not find
                with suppress(Exception), redirect_stdout(StringIO()):
                    load()
        if provider == TENSORRT:
            _import_tensorrt()


def _import_tensorrt() -> None:
    """Import the first package that loads TensorRT's libraries; nothing happens if there is none."""
    for name in _TENSORRT_PACKAGES:
        try:
            import_module(name)
        except Exception:  # a wheel of another CUDA raises OSError or RuntimeError
            continue
        return


def require_libraries(provider: str) -> None:
    """Raises MissingRuntimeError that names the library without which `provider` cannot start."""
    preload(provider)
    folder = Path(str(runtime().__file__)).parent / "capi"
    prefix, suffix = ("", ".dll") if sys.platform == "win32" else ("lib", ".so")
    path = folder / f"{prefix}{_PROVIDER_FILES[provider]}{suffix}"
    if not path.exists():  # a build of ONNX Runtime with the provider inside
        return
    try:
        # the provider's library takes its host's functions from the shared one
        ctypes.CDLL(str(folder / f"{prefix}onnxruntime_providers_shared{suffix}"), mode=ctypes.RTLD_GLOBAL)
        ctypes.CDLL(str(path))
    except OSError as error:
        raise (
            missing_library(str(error), provider)
            or old_driver(str(error), provider)
            or MissingRuntimeError(f"{provider} does not load ({error}); {install_line(provider)}")
        ) from error


def old_driver(text: str, provider: str) -> MissingRuntimeError | None:
    """Return the error for a message about a function that NVIDIA's driver lacks, or None for any other message."""
    found = _DRIVER_FUNCTION.search(text)
    return found and MissingRuntimeError(
        f"{provider} needs a later NVIDIA driver: this one has no {found[1]}; update the driver, or use --backend auto"
    )


def missing_library(text: str, provider: str) -> MissingRuntimeError | None:
    """Return the error for a message that names a missing library, or None for any other message."""
    found = _LIBRARY.search(text)
    if found is None:
        return None
    name = found[1]
    if re.match(r"libcuda\.so|nvcuda", name):
        return MissingRuntimeError(
            f"{provider} needs NVIDIA's driver, whose library {name} is missing; install the driver, or use --backend auto"
        )
    if "nvinfer" in name or "nvonnxparser" in name:
        version = re.search(r"\.so\.(\d+)|_(\d+)\.dll", name)
        wanted = f"TensorRT {version[1] or version[2]}" if version else "another TensorRT"
        return MissingRuntimeError(
            f"{provider} needs {wanted}, whose library {name} is missing{_installed_tensorrt()}; {install_line(provider)}"
        )
    return MissingRuntimeError(
        f"{provider} needs the library {name} of CUDA or cuDNN, which is missing; {install_line(provider)}"
    )


def _installed_tensorrt() -> str:
    """Clause about the TensorRT that is installed; empty if none is."""
    from importlib import metadata

    for name in ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"):
        with suppress(metadata.PackageNotFoundError):
            return f" (installed is TensorRT {metadata.version(name)})"
    return ""
