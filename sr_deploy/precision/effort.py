"""Limits on what a conversion to int8 may try, by the work that the net does for a pixel.

The search runs a net a few hundred times. For small nets that takes seconds; for an ESRGAN it would take half an hour.
The choice depends on the model alone and never on the clock, so the same photographs give the same bytes on every
machine.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from sr_deploy.graph.multiplications import multiply_adds
from sr_deploy.spec import ModelSpec


@dataclass(frozen=True, kw_only=True)
class SearchEffort:
    """Limits of a search for the best int8 form."""

    crop_side: int
    """Side of a crop of a photograph, in input pixels."""
    photographs: int
    """Maximum number of photographs; a third of them is measured on, the others are calibrated on."""
    strengths: tuple[float, ...]
    """Strengths with which channels are balanced."""
    methods: tuple[str, ...] | None
    """Methods that choose ranges; None: all."""
    measured_gains: bool
    """Measure for every convolution what it gains to keep it in fp32; else the gain is estimated from its values and
    weights."""


FULL = SearchEffort(
    crop_side=96, photographs=36, strengths=(0.0, 0.5, 0.75, 1.0), methods=None, measured_gains=True
)
"""For nets below `_LARGE` multiply-adds per pixel."""
_SHORT = SearchEffort(
    crop_side=64,
    photographs=12,
    strengths=(0.0, 0.75),
    methods=("max", "percentile-99.99", "mse"),
    measured_gains=False,
)
"""For larger nets: a tenth of the full work. The left-out methods won for no net of this size that was tried."""
_SHORTEST = SearchEffort(
    crop_side=48, photographs=9, strengths=(0.0,), methods=("percentile-99.99", "mse"), measured_gains=False
)
"""For nets above `_HUGE`."""
_LARGE, _HUGE = 3e6, 1e7
"""Multiply-adds per input pixel. ESRGAN has 6 million with 6 blocks and 18 million with 23; Compact has 0.6 million."""


def effort_for(model: onnx.ModelProto, spec: ModelSpec) -> SearchEffort:
    """Return the effort for `model`; the full one where its work is not known."""
    work = multiply_adds(model, spec) or 0.0
    return _SHORTEST if work > _HUGE else _SHORT if work > _LARGE else FULL
