"""Find the halo of a model without a spec, and the step at which its tiles may start.

The halo is the receptive-field radius in input pixels: output pixel o depends on no input pixel farther
than `halo` from o // scale, along either axis. Tiling needs one thing more: a tile that starts at a
multiple of `multiple_of`, and holds its kept region plus `halo` pixels on every side, must compute the kept
region as the whole picture does. A tile that lies at a border of the picture keeps that border, so the
padding of the net itself needs no halo.

The halo is measured in three ways:

- The structural twin (`sr_deploy.probe.structure`) follows every path of the graph. It may find more than
  trained weights use, and it does not know every operator.
- Perturbed pictures (`sr_deploy.probe.perturbation`) show which pixels do change. They may miss a path that
  no picture opened.
- Tiles are compared with the whole picture (`sr_deploy.probe.tiles`).

Where the first two differ, the larger halo is taken: too large a halo costs time, too small a one shows
seams. The third can only reject a halo, not enlarge it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import onnx

from sr_deploy.errors import ModelError
from sr_deploy.graph.onnx_file import picture_io
from sr_deploy.graph.session import RefusedInputError, SessionRunner
from sr_deploy.probe.perturbation import (
    HaloProbe,
    observed_halo,
    picture_perturbations,
    structural_perturbation,
)
from sr_deploy.probe.process import ProbeProcess
from sr_deploy.probe.range import ValueRange
from sr_deploy.probe.shape import Shape
from sr_deploy.probe.structure import structure_of
from sr_deploy.probe.tiles import tiles_agree
from sr_deploy.spec import ModelSpec, SizeRule

_STEPS = (1, 2, 3, 4, 6, 8, 12, 16, 32, 64)
"""Factors of the size rule's step that are tried as the step between tiles, smallest first. Products above
the largest factor are skipped."""

_TOLERANCE = {"fp32": 1e-4, "fp16": 1e-2, "bf16": 3e-2, "int8": 5e-2}
"""Largest difference between a tile and the whole, as a share of full scale, by precision. It is not zero
because a runtime may add in another order for another shape, so results are rounded differently."""

_LARGEST_HALO_TO_CONFIRM = 100
"""Largest halo, in pixels, that perturbed pictures confirm. Above it the structural halo is taken alone,
because pictures would need too large a probe."""

_MOST_OFFSETS = 8
"""Largest number of perturbed pixels per axis where the structural twin already gave a halo. The offsets
are spread evenly over one step; without a twin every offset is tried."""


@dataclass(frozen=True)
class Halo:
    """A measured halo and the size rule for which it holds."""

    pixels: int | None
    """The halo in input pixels. None: the model is global, or tiles never equal the whole."""
    rule: SizeRule
    """The size rule to tile by; its `tile_step` is set if tiles need larger steps than the sizes."""
    undecided: tuple[str, ...]
    """Sentences for the user about what stays open."""
    evidence: str = ""
    """Evidence for the halo, in words."""


@dataclass(frozen=True)
class _HaloEvidence:
    """The halo by the structural twin and by perturbed pictures, in input pixels."""

    structural: int | None
    """Halo in the structural twin. None: larger than the largest probe, or there is no twin."""
    measured: int | None
    """Halo in perturbed pictures. None: larger than the largest probe; -1: not measured."""
    followed: bool
    """True where there is a structural twin, so that `structural` counts."""

    @property
    def pixels(self) -> int | None:
        """The larger of the two halos; None where one of them is larger than the largest probe."""
        if not self.followed:
            return self.measured
        if self.structural is None or self.measured is None:
            return None
        return max(self.structural, self.measured)


@dataclass(frozen=True)
class _HaloProbes:
    """The probes of one model: the model itself on pictures, and its structural twin."""

    pictures: HaloProbe
    twin: HaloProbe | None
    unfollowed: tuple[str, ...]
    """Operators for which there is no twin node; sorted."""
    precision: str
    deadline: float = math.inf
    """Time of `time.monotonic` after which pictures no longer confirm the halo of the twin."""

    def measure(self, step: int) -> _HaloEvidence:
        """Measure the halo of the pixels at every offset within `step`.

        Offsets matter: under strides and shuffles, pixels at different places in a cell have different
        halos. Beside a twin the pictures only confirm its halo, so two of them at a few offsets are enough.
        """
        if self.twin is None:
            return _HaloEvidence(None, observed_halo(self.pictures, range(step)), False)
        structural = observed_halo(self.twin, range(step))
        late = time.monotonic() > self.deadline
        if structural is None or structural > _LARGEST_HALO_TO_CONFIRM or late:
            return _HaloEvidence(structural, -1, True)
        offsets = sorted({round(i * (step - 1) / (_MOST_OFFSETS - 1)) for i in range(_MOST_OFFSETS)})
        few = replace(self.pictures, perturbations=self.pictures.perturbations[:2], confirms=structural)
        return _HaloEvidence(structural, observed_halo(few, offsets), True)

    def tiles_agree(self, halo: int, step: int) -> bool:
        """Return True if tiles with this halo that start at multiples of `step` equal the whole."""
        return tiles_agree(self.pictures, halo, step, _TOLERANCE[self.precision])


def find_halo(
    model: onnx.ModelProto,
    run: SessionRunner,
    shape: Shape,
    rule: SizeRule,
    value_range: ValueRange,
    precision: str,
    *,
    deadline: float = math.inf,
) -> Halo:
    """Measure the halo of `model`, as the module docstring defines it.

    `run` is a runner of `model`. `rule`, `value_range` and `precision` are what the other probes found;
    `precision` chooses the tolerance of the comparison. After `deadline`, a time of `time.monotonic`, what only
    confirms is left out. A model without a usable halo is no error: `pixels`
    is None then, and `undecided` says why.
    """
    probes = replace(_make_probes(model, run, shape, rule, value_range, precision), deadline=deadline)
    first = probes.measure(rule.multiple_of)
    if first.pixels is None:
        return Halo(None, rule, (_global_note(probes.pictures),))
    step = _find_tile_step(probes, first.pixels)
    if step is None:
        return Halo(None, rule, (_POSITION_DEPENDENT,))
    evidence = first if step == rule.multiple_of else probes.measure(step)
    if evidence.pixels is None:
        return Halo(None, rule, (_global_note(probes.pictures),))
    if step > 1 and not probes.tiles_agree(evidence.pixels, step):  # at 1, _find_tile_step checked the same
        return Halo(None, rule, (_POSITION_DEPENDENT,))
    tiled = rule if step == rule.multiple_of else replace(rule, tile_step=step)
    notes = tuple(_notes(probes, evidence, rule, step))
    return Halo(evidence.pixels, tiled, notes, _evidence_text(evidence, step))


def measure_halo(model: onnx.ModelProto, spec: ModelSpec) -> int | None:
    """Measure the halo of `model`, in input pixels; None if it is larger than the largest probe.

    All of `spec` but its halo must be right. As in `find_halo`, the larger of the structural and the
    measured halo is returned; tiles are not compared. Raises ModelError and MissingRuntimeError as
    `open_session` does.
    """
    with ProbeProcess() as process:
        run = SessionRunner(process.open(model, spec.name), picture_io(model, spec.name)[0], spec.layout)
        size = spec.size_rule.fixed or spec.size_rule.padded(64, 64)
        shape = Shape(layout=spec.layout, channels=spec.channels, scale=spec.scale, size=size)
        probes = _make_probes(model, run, shape, spec.size_rule, spec.value_range, spec.precision)
        return probes.measure(spec.size_rule.step).pixels


def _make_probes(
    model: onnx.ModelProto,
    run: SessionRunner,
    shape: Shape,
    rule: SizeRule,
    value_range: ValueRange,
    precision: str,
) -> _HaloProbes:
    """Build the structural twin of `model` and both probes."""
    structure = structure_of(model, run.port.name)
    perturbations = picture_perturbations(shape.channels, value_range)
    pictures = HaloProbe(
        run, shape.scale, rule, shape.channels, value_range, perturbations, structure.has_attention
    )
    twin = _open_twin(structure.twin, pictures, shape) if structure.twin else None
    return _HaloProbes(pictures, twin, structure.unfollowed, precision)


def _open_twin(twin: onnx.ModelProto, pictures: HaloProbe, shape: Shape) -> HaloProbe | None:
    """Return a probe of the structural twin; None if the twin does not run, changes the output's size, or
    gives NaN for a picture without NaN."""
    port = pictures.run.port
    if pictures.run.takes_bytes:
        port = replace(port, elem_type=onnx.TensorProto.FLOAT)
    try:
        session = pictures.run.session.process.open(twin, "structural twin", optimise=False)
        run = SessionRunner(session, port, pictures.run.layout)
        result = run(np.zeros((*shape.size, shape.channels), np.float32))
    except (ModelError, RefusedInputError):
        return None
    expected = (shape.size[0] * shape.scale, shape.size[1] * shape.scale, shape.channels)
    if result.shape != expected or not np.isfinite(result).all():
        return None
    return replace(pictures, run=run, perturbations=(structural_perturbation(shape.channels),), is_twin=True)


def _find_tile_step(probes: _HaloProbes, halo: int) -> int | None:
    """Return the smallest step at which tiles with `halo` equal the whole; None if there is none."""
    # So far only offsets of the rule's own step were measured; others may need up to 2 * step - 2 pixels more.
    # The caller measures the halo again at the step that was found.
    base = probes.pictures.rule.step
    steps = [base, *(base * factor for factor in _STEPS[1:] if base * factor <= _STEPS[-1])]
    return next((step for step in steps if probes.tiles_agree(halo + 2 * step - 2, step)), None)


_POSITION_DEPENDENT = (
    "The result depends on where a tile lies, so no halo makes tiles equal to the whole; "
    "the model is treated as global and is not tiled unless an overlap is set."
)
"""Note for a model of which no step makes tiles equal to the whole, such as align_corners."""


def _evidence_text(evidence: _HaloEvidence, step: int) -> str:
    """Say what a halo rests on."""
    parts = [f"graph structure {evidence.structural} px"] if evidence.followed else []
    parts += [f"changed pixels {evidence.measured} px"] if evidence.measured not in (None, -1) else []
    return ", ".join([*parts, f"tiles at multiples of {step} equal the whole"])


def _global_note(probe: HaloProbe) -> str:
    """Say that the halo is larger than the largest probe, with that probe's size in pixels."""
    *_, largest = probe.windows(0)
    return (
        f"One changed pixel changes the border of the largest probe ({max(largest)} px): the model is treated as "
        "global and is not tiled unless an overlap is set."
    )


def _notes(probes: _HaloProbes, evidence: _HaloEvidence, rule: SizeRule, step: int) -> Iterator[str]:
    """Yield a sentence about everything that the user should know of a halo that was found."""
    if step != rule.multiple_of:
        takes = "any size" if rule.multiple_of == 1 else f"any multiple of {rule.multiple_of}"
        yield (
            f"The model takes {takes}, but its inner grid repeats every {step} px; tiles start at multiples of {step}."
        )
    if not evidence.followed:
        held = ", ".join(probes.unfollowed) or "numbers that cannot be NaN"
        yield (
            f"The halo of {evidence.measured} px is the largest seen in perturbed pictures; the graph's structure could not "
            f"confirm it, because it contains {held}."
        )
    elif evidence.measured is not None and -1 < evidence.measured < (evidence.structural or 0):
        yield (
            f"The halo of {evidence.structural} px is what the graph's structure allows; perturbed pictures showed "
            f"{evidence.measured} px."
        )
    if rule.fixed and min(rule.fixed) - 2 * (evidence.pixels or 0) <= step:
        yield "The halo takes up the whole fixed size, so larger pictures cannot be tiled exactly."
