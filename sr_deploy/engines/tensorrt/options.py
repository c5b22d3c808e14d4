"""Options for building and running TensorRT engines: two frozen dataclasses. Standard library only.

Everything in `BuildOptions` changes the engine, so all of it is part of the cache key. `TensorRTOptions`
contains them, plus what can change between runs without a new build.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from sr_deploy.errors import UsageError

HARDWARE = ("none", "ampere+", "same-capability")
"""On which GPUs an engine runs.

Only the kind it was built on; any since Ampere; or any of the same compute capability.
"""
LARGEST_SIDE = 1 << 14
"""Largest side of a profile in pixels, twice that of 8K; a larger one is a typing error."""


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """Options of a build, part of the cache key. Sizes are (height, width) in input pixels. Raises UsageError
    for bad values.
    """

    sizes: tuple[tuple[int, int], ...] = ()
    """Frequent sizes; each gets a profile with kernels chosen for exactly that size."""
    small: int = 256
    """Largest side of the profile for small pictures, in pixels."""
    tile: int = 1024
    """Largest side of a picture that is computed whole, in pixels, 16 or more.

    A larger entry in `sizes` raises it. Larger pictures are cut into tiles.
    """
    max_batch: int = 1
    """Largest number of pictures in one call, 1 to 64."""
    workspace_mib: int | None = None
    """Limit of the scratch memory for kernels in MiB; None: all memory of the GPU."""
    optimisation_level: int = 3
    """TensorRT's own scale, from 0 (fast build) to 5 (long search for fast kernels)."""
    tf32: bool = False
    """Let fp32 convolutions round their factors to 10 bits (TF32): faster, but no longer fp32."""
    version_compatible: bool = False
    """Make an engine that also runs on later versions of TensorRT, perhaps more slowly."""
    hardware_compatible: Literal["none", "ampere+", "same-capability"] = "none"
    """On which GPUs the engine runs: one of `HARDWARE`."""

    def __post_init__(self) -> None:
        """Check the values. Sizes become tuples, because JSON has only lists, and keys must not depend on that."""
        object.__setattr__(self, "sizes", tuple((int(h), int(w)) for h, w in self.sizes))
        _check("tile", self.tile, 16, LARGEST_SIDE)
        _check("small", self.small, 1, LARGEST_SIDE)
        _check("max_batch", self.max_batch, 1, 64)
        _check("optimisation_level", self.optimisation_level, 0, 5)
        for size in self.sizes:
            for side in size:
                _check("each side in sizes", side, 1, LARGEST_SIDE)
        if self.workspace_mib is not None:
            _check("workspace_mib", self.workspace_mib, 1, 1 << 20)
        if self.hardware_compatible not in HARDWARE:
            raise UsageError(
                f"hardware_compatible must be one of {', '.join(HARDWARE)}, got {self.hardware_compatible!r}"
            )


@dataclass(frozen=True, kw_only=True)
class TensorRTOptions:
    """Options for running a model with TensorRT. Raises UsageError for bad values."""

    build: BuildOptions = field(default_factory=BuildOptions)
    """Options of the build, if the engine has to be built."""
    device: int = 0
    """Number of the GPU, as CUDA counts them, from 0."""
    contexts: int = 3
    """Largest number of runs on the GPU at once, 1 to 64.

    Each has a stream and memory of its own, created when first needed.
    """
    graphs: bool = True
    """Replay shapes that come up again as CUDA graphs, which saves calls into the driver."""
    shapes_kept: int = 4
    """Number of shapes for which each lane keeps a context set up, 1 to 64."""
    context: Literal["primary", "current"] = "primary"
    """The CUDA context to use.

    "primary": the device's own, which torch and CuPy share. "current": the one that is current in the thread
    that opens the engine; then all calls, `close` included, belong in threads where it is current.
    """
    cache: bool = True
    """Look for the engine in the cache, and store a built one there."""
    folder: Path | None = None
    """Folder of the cache; None: the user's own."""
    build_missing: bool = True
    """Build an engine that is not in the cache; if off, a missing engine is an error."""
    model: Path | None = None
    """The ONNX file that an engine file must have been built from; None: not checked."""

    def __post_init__(self) -> None:
        _check("device", self.device, 0, 255)
        _check("contexts", self.contexts, 1, 64)
        _check("shapes_kept", self.shapes_kept, 1, 64)
        if self.context not in ("primary", "current"):
            raise UsageError(f"context must be 'primary' or 'current', got {self.context!r}")


def parse_sizes(text: str) -> tuple[tuple[int, int], ...]:
    """Parse sizes such as "1920x1080,640x360" (width x height) into ((1080, 1920), (360, 640)).

    Repeated sizes are dropped. Raises UsageError for anything else.
    """
    sizes = []
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        width, _, height = part.lower().partition("x")
        if not (width.isdecimal() and height.isdecimal()):
            raise UsageError(f"{part!r} is not a size; use WIDTHxHEIGHT, such as 1920x1080")
        sizes.append((int(height), int(width)))
    return tuple(dict.fromkeys(sizes))


def _check(name: str, value: int, low: int, high: int) -> None:
    """Raises UsageError unless `value` is an integer from `low` to `high`; a bool is refused."""
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise UsageError(f"{name} must be a whole number from {low} to {high}, got {value!r}")
