"""Find the halo of an undescribed model, and the step at which it looks the same from tile to tile.

The halo promised here is what tiling needs: output pixel o depends on no input pixel farther than `halo` from
o // scale, along either axis, and a tile that starts at a multiple of `multiple_of` and holds its kept region
plus `halo` on every side computes the kept region as the whole picture does. Tiles flush with a border of
the picture keep that border, so the net's own padding needs no halo.

Three witnesses: the structural twin (every path the graph has), perturbed pictures (what really changes), and
tiles compared with the whole. Where the first two differ the larger is taken; the third can only reject.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import onnx

from sr_deploy.errors import ModelError
from sr_deploy.graph.onnx_file import picture_io
from sr_deploy.graph.session import RefusedInputError, SessionRunner, open_session
from sr_deploy.probe.perturbation import (
    HaloProbe,
    observed_halo,
    picture_perturbations,
    structural_perturbation,
)
from sr_deploy.probe.range import Range
from sr_deploy.probe.shape import Shape
from sr_deploy.probe.structure import structure_of
from sr_deploy.probe.tiles import tiles_agree
from sr_deploy.spec import ModelSpec, SizeRule

_STEPS = (1, 2, 3, 4, 6, 8, 12, 16, 32, 64)
"""Multiples of the size rule's step that are tried as the step at which tiles agree."""

_TOLERANCE = {"fp32": 1e-4, "fp16": 1e-2, "bf16": 3e-2, "int8": 5e-2}
"""How far tile and whole may differ, in parts of full scale: rounding depends on the shape that is run."""

_LARGEST_HALO_TO_CONFIRM = 100
"""Above this many pixels the structure's word is taken alone: pictures would need too large a probe."""

_MOST_OFFSETS = 8
"""Pixels perturbed in pictures, at most, where the structure has already told the halo."""


@dataclass(frozen=True)
class Halo:
    """The radius in input pixels (None: global, or not to be trusted) and the size rule it holds for."""

    pixels: int | None
    rule: SizeRule
    undecided: tuple[str, ...]


@dataclass(frozen=True)
class _HaloEvidence:
    """What the two witnesses of reach say. None: beyond the largest probe; `structural` is also None where
    there is no twin, and `measured` is -1 where nothing was measured."""

    structural: int | None
    measured: int | None
    followed: bool

    @property
    def pixels(self) -> int | None:
        """The safe one of the two."""
        if not self.followed:
            return self.measured
        if self.structural is None or self.measured is None:
            return None
        return max(self.structural, self.measured)


@dataclass(frozen=True)
class _HaloProbes:
    pictures: HaloProbe
    twin: HaloProbe | None
    unfollowed: tuple[str, ...]
    precision: str

    def measure(self, step: int) -> _HaloEvidence:
        """The reach of pixels at every phase of `step`."""
        if self.twin is None:
            return _HaloEvidence(None, observed_halo(self.pictures, range(step)), False)
        structural = observed_halo(self.twin, range(step))
        if structural is None or structural > _LARGEST_HALO_TO_CONFIRM:
            return _HaloEvidence(structural, -1, True)
        offsets = sorted({round(i * (step - 1) / (_MOST_OFFSETS - 1)) for i in range(_MOST_OFFSETS)})
        few = replace(self.pictures, perturbations=self.pictures.perturbations[:2])
        return _HaloEvidence(structural, observed_halo(few, offsets), True)

    def tiles_agree(self, halo: int, step: int) -> bool:
        """Whether tiles with this halo, `step` apart, compute what the whole does."""
        return tiles_agree(self.pictures, halo, step, _TOLERANCE[self.precision])


def find_halo(
    model: onnx.ModelProto,
    run: SessionRunner,
    shape: Shape,
    rule: SizeRule,
    value_range: Range,
    precision: str,
) -> Halo:
    """Measure the halo as the module's docstring defines it; `run` is a runner of `model`."""
    probes = _make_probes(model, run, shape, rule, value_range, precision)
    first = probes.measure(rule.multiple_of)
    if first.pixels is None:
        return Halo(None, rule, (_global_note(probes.pictures),))
    step = _find_tile_step(probes, first.pixels)
    if step is None:
        return Halo(None, rule, (_POSITION_DEPENDENT,))
    evidence = first if step == rule.multiple_of else probes.measure(step)
    if evidence.pixels is None:
        return Halo(None, rule, (_global_note(probes.pictures),))
    if step > 1 and not probes.tiles_agree(evidence.pixels, step):  # at 1, _find_step asked the same
        return Halo(None, rule, (_POSITION_DEPENDENT,))
    return Halo(evidence.pixels, replace(rule, multiple_of=step), tuple(_notes(probes, evidence, rule, step)))


def measure_halo(model: onnx.ModelProto, spec: ModelSpec) -> int | None:
    """The radius of the receptive field of `model`, whose record says all but this truly, in input pixels.

    None where it is beyond the largest probe. As in `find_halo`, the larger of what the structure allows and what
    perturbed pictures show. Raises ModelError and MissingRuntimeError as `open_session` does.
    """
    run = SessionRunner(open_session(model, spec.name), picture_io(model, spec.name)[0], spec.layout)
    size = spec.size_rule.fixed or spec.size_rule.padded(64, 64)
    shape = Shape(layout=spec.layout, channels=spec.channels, scale=spec.scale, size=size)
    probes = _make_probes(model, run, shape, spec.size_rule, spec.value_range, spec.precision)
    return probes.measure(spec.size_rule.multiple_of).pixels


def _make_probes(
    model: onnx.ModelProto,
    run: SessionRunner,
    shape: Shape,
    rule: SizeRule,
    value_range: Range,
    precision: str,
) -> _HaloProbes:
    structure = structure_of(model, run.port.name)
    perturbations = picture_perturbations(shape.channels, value_range)
    pictures = HaloProbe(
        run, shape.scale, rule, shape.channels, value_range, perturbations, structure.has_attention
    )
    twin = _open_twin(structure.twin, pictures, shape) if structure.twin else None
    return _HaloProbes(pictures, twin, structure.unfollowed, precision)


def _open_twin(twin: onnx.ModelProto, pictures: HaloProbe, shape: Shape) -> HaloProbe | None:
    """The probe of the structural twin; None where the twin does not run, or makes NaN out of nothing."""
    port = pictures.run.port
    if pictures.run.takes_bytes:
        port = replace(port, elem_type=onnx.TensorProto.FLOAT)
    try:
        run = SessionRunner(open_session(twin, "structural twin", optimise=False), port, pictures.run.layout)
        result = run(np.zeros((*shape.size, shape.channels), np.float32))
    except (ModelError, RefusedInputError):
        return None
    expected = (shape.size[0] * shape.scale, shape.size[1] * shape.scale, shape.channels)
    if result.shape != expected or not np.isfinite(result).all():
        return None
    return replace(pictures, run=run, perturbations=(structural_perturbation(shape.channels),))


def _find_tile_step(probes: _HaloProbes, halo: int) -> int | None:
    """The smallest multiple of the size rule's step at which the model's grid repeats; None: it never does."""
    base = probes.pictures.rule.multiple_of
    steps = [base, *(base * factor for factor in _STEPS[1:] if base * factor <= _STEPS[-1])]
    return next((step for step in steps if probes.tiles_agree(halo + 2 * step - 2, step)), None)


_POSITION_DEPENDENT = (
    "The result depends on where a tile lies, so no halo makes tiles equal to the whole; "
    "the model is taken as global and will not be tiled unless an overlap is asked for."
)


def _global_note(probe: HaloProbe) -> str:
    *_, largest = probe.windows(0)
    return (
        f"One pixel reaches the border of the largest probe ({max(largest)} px): the model is taken as global and "
        "will not be tiled unless an overlap is asked for."
    )


def _notes(probes: _HaloProbes, evidence: _HaloEvidence, rule: SizeRule, step: int) -> Iterator[str]:
    if step != rule.multiple_of:
        takes = "any size" if rule.multiple_of == 1 else f"any multiple of {rule.multiple_of}"
        yield (
            f"The model takes {takes}, but its inner grid repeats every {step} px; sizes and tile positions are kept "
            f"to multiples of {step}."
        )
    if not evidence.followed:
        held = ", ".join(probes.unfollowed) or "numbers that cannot carry a NaN"
        yield (
            f"The halo of {evidence.measured} px is the largest seen in perturbed pictures; the graph's structure could not "
            f"confirm it, for it holds {held}."
        )
    elif evidence.measured is not None and -1 < evidence.measured < (evidence.structural or 0):
        yield (
            f"The halo of {evidence.structural} px is what the graph's structure allows; perturbed pictures showed "
            f"{evidence.measured} px."
        )
    if rule.fixed and min(rule.fixed) - 2 * (evidence.pixels or 0) <= step:
        yield "The fixed size leaves nothing to keep inside the halo, so larger pictures cannot be tiled exactly."
