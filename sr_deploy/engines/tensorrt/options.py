"""How a TensorRT engine is built and run: two frozen values, handed down whole. Stdlib only.

`BuildOptions` changes the engine, so all of it goes into the key of the engine cache. `TensorRTOptions` has those
and what can change from run to run without a new build.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from sr_deploy.errors import UsageError

HARDWARE = ("none", "ampere+", "same-capability")
"""On which GPUs an engine runs: the kind it was built on; any since Ampere; any of the same compute capability."""
LARGEST_SIDE = 1 << 14
"""Pixels; twice 8K. A larger profile is a typing error."""


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """What an engine is built for. Sizes are (height, width) in input pixels."""

    sizes: tuple[tuple[int, int], ...] = ()
    """Sizes that come up often: each gets kernels of its own."""
    small: int = 256
    """Pictures up to this side get kernels chosen for small ones."""
    tile: int = 1024
    """Side of the largest picture taken whole, where no larger one of `sizes` says otherwise; larger ones are tiled."""
    max_batch: int = 1
    """Pictures in one call."""
    workspace_mib: int | None = None
    """Scratch memory that kernels may take; None: as much as the GPU has."""
    optimisation_level: int = 3
    """0 (builds fast) to 5 (searches long), TensorRT's own scale."""
    tf32: bool = False
    """Let fp32 convolutions round their factors to 10 bits on the matrix units: faster, and no longer fp32."""
    version_compatible: bool = False
    """Runs on later versions of TensorRT too, and perhaps slower."""
    hardware_compatible: Literal["none", "ampere+", "same-capability"] = "none"
    """One of `HARDWARE`."""

    def __post_init__(self) -> None:
        # JSON has lists, and a key must not depend on which of the two it was
        object.__setattr__(self, "sizes", tuple((int(h), int(w)) for h, w in self.sizes))
        _check("tile", self.tile, 16, LARGEST_SIDE)
        _check("small", self.small, 1, LARGEST_SIDE)
        _check("max_batch", self.max_batch, 1, 64)
        _check("optimisation_level", self.optimisation_level, 0, 5)
        for size in self.sizes:
            for side in size:
                _check("a side of sizes", side, 1, LARGEST_SIDE)
        if self.workspace_mib is not None:
            _check("workspace_mib", self.workspace_mib, 1, 1 << 20)
        if self.hardware_compatible not in HARDWARE:
            raise UsageError(
                f"hardware_compatible must be one of {', '.join(HARDWARE)}, got {self.hardware_compatible!r}"
            )

    def to_dict(self) -> dict[str, Any]:
        """JSON values, read back by `from_dict`."""
        return asdict(self) | {"sizes": [list(size) for size in self.sizes]}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> BuildOptions:
        """Raises UsageError, TypeError or ValueError for what `to_dict` did not write."""
        return cls(**values)


@dataclass(frozen=True, kw_only=True)
class TensorRTOptions:
    """How TensorRT runs a model; `build` is what it is compiled for where no engine is there yet."""

    build: BuildOptions = field(default_factory=BuildOptions)
    device: int = 0
    """Which GPU, by CUDA's own numbers."""
    contexts: int = 3
    """Calls that may be on the GPU at once: each has memory and a stream of its own, made when first needed."""
    graphs: bool = True
    """Replay what was recorded of a shape that comes up again (CUDA graphs), for fewer calls into the driver."""
    shapes_kept: int = 4
    """Shapes for which each context stays set up."""
    context: Literal["primary", "current"] = "primary"
    """Whose CUDA context: the device's primary one, which torch and CuPy share, or the one that is current in
    the thread that opens the engine. With "current", all calls and `close` belong in threads where it is."""
    cache: bool = True
    """Look for the engine in the user's cache, and keep a built one there."""
    folder: Path | None = None
    """Of the cache; None: the user's own."""
    build_missing: bool = True
    """Build an engine that is not in the cache; where not, that is an error."""
    model: Path | None = None
    """The ONNX file an engine file is meant to be of; with it, an engine of another model is refused."""

    def __post_init__(self) -> None:
        _check("device", self.device, 0, 255)
        _check("contexts", self.contexts, 1, 64)
        _check("shapes_kept", self.shapes_kept, 1, 64)
        if self.context not in ("primary", "current"):
            raise UsageError(f"context must be 'primary' or 'current', got {self.context!r}")


def parse_sizes(text: str) -> tuple[tuple[int, int], ...]:
    """Texts such as "1920x1080,640x360" (width x height) as ((1080, 1920), (360, 640)). Raises UsageError for other texts."""
    sizes = []
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        width, _, height = part.lower().partition("x")
        if not (width.isdecimal() and height.isdecimal()):
            raise UsageError(f"{part!r} is no size; give WIDTHxHEIGHT, such as 1920x1080")
        sizes.append((int(height), int(width)))
    return tuple(dict.fromkeys(sizes))


def _check(name: str, value: int, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise UsageError(f"{name} must be a whole number of {low} to {high}, got {value!r}")
