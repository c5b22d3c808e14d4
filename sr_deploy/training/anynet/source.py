"""`SourceNet`: a net in torch that is not one of ours, and what is known of it before it is exported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import nn

from sr_deploy.spec import SizeRule


@dataclass(frozen=True, kw_only=True)
class SourceNet:
    """A net that maps float32 [N, C, H, W] to [N, C, H * scale, W * scale], in evaluation mode on the CPU."""

    net: nn.Module
    name: str
    """Name of the model that is made from it."""
    architecture: str
    scale: int
    channels: int = 3
    value_range: tuple[float, float] = (0.0, 1.0)
    """The numbers that stand for black and white, at the input and at the output."""
    rule: SizeRule = field(default_factory=SizeRule)
    """The input sizes that the net is known to take. The export may ask for larger multiples, never for smaller."""
    square: bool = False
    """The net takes squares only. No size rule says that, so its size is fixed at export."""
    halo: int | Literal["measure"] | None = "measure"
    """Halo in input pixels, None for a net that sees the whole picture; "measure" where the user states nothing."""
    tiling: str = "supported"
    """Statement of the author about tiles: "supported", "discouraged" or "internal"."""
    precisions: frozenset[str] = frozenset({"fp32", "fp16", "bf16", "int8"})
    """Precisions that the net is known to compute in. Others are tried, and a failure names this as the cause."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """JSON values for the record: purpose, tags, where the weights came from."""
    licence: str | None = None
    """Licence of the weights, if the source states one."""
    sha256: str | None = None
    """SHA-256 of the weights' file in hexadecimal digits."""
    notes: tuple[str, ...] = ()
    """Sentences for the user about what was assumed."""
