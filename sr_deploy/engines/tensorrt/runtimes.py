"""The two libraries that one code path serves: TensorRT, and TensorRT for RTX. Standard library only.

Both have the same Python names, so `api.py` serves both. They differ in their packages, and in what an engine
depends on: an engine of TensorRT is for the GPU it was built on; one of TensorRT for RTX is built without any GPU,
for a list of compute capabilities, and its kernels are compiled at the first run.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """One of the two libraries."""

    backend: str
    """Name by which users choose it, as in `--backend`; also kept in sidecars."""
    product: str
    """Its name in messages."""
    modules: tuple[str, ...]
    """Python packages that may contain it, the preferred one first."""
    missing: str
    """Start of the message where it cannot be imported."""
    install: str
    """The command that installs it."""
    builds_without_gpu: bool
    """True if a build needs neither GPU, driver nor PyCUDA."""


TENSORRT = Runtime(
    backend="tensorrt",
    product="TensorRT",
    modules=("tensorrt",),
    missing="the tensorrt backend needs TensorRT, which cannot be imported",
    install='pip install "sr-deploy[gpu]"',
    builds_without_gpu=False,
)
RTX = Runtime(
    backend="tensorrt-rtx",
    product="TensorRT for RTX",
    # NVIDIA's SDK has the first; the wheels on PyPI (1.7.1) have the second only
    modules=("tensorrt_rtx", "tensorrt_rtx_bindings"),
    missing="the tensorrt-rtx backend needs TensorRT for RTX, which cannot be imported",
    install='pip install "sr-deploy[rtx]"',
    builds_without_gpu=True,
)
RUNTIMES = {runtime.backend: runtime for runtime in (TENSORRT, RTX)}
"""The runtimes by backend."""
CAPABILITIES = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")
"""Compute capabilities that TensorRT for RTX 1.7 builds for: Turing to Blackwell, without the data-centre chips
9.0 and 10.0. Its `ComputeCapability` has one member for each."""
DEFAULT_CAPABILITIES = CAPABILITIES[1:]
"""The capabilities of an engine unless the user chooses: Ampere and later. With 7.5 among them, 1.7.1 refuses bf16,
and compiles every int8 convolution in fp32 for all of them, without a word."""
TURING = CAPABILITIES[0]
"""The capability that has neither bf16 nor int8 in TensorRT for RTX."""


def runtime_of(module: str) -> Runtime:
    """Return the runtime that the Python package named `module` contains."""
    return RTX if module.partition(".")[0] in RTX.modules else TENSORRT
