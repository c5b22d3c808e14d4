"""Find the spec of a foreign ONNX model by running it.

`probe` calls one module after another: `shape` (layout, channels, scale, sizes), `range` (the values of
black and white), then `structure`, `perturbation`, `tiles` and `halo` (the halo). Each needs what the ones
before it found. It needs ONNX Runtime, changes nothing, and lists in `ModelSpec.undecided` what it had to
assume.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import onnx
from onnx import inliner

from sr_deploy.graph.onnx_file import load_model, picture_io
from sr_deploy.graph.session import (
    SessionRunner,
    detect_precision,
    open_session,
    without_bf16,
)
from sr_deploy.probe.halo import Halo, find_halo
from sr_deploy.probe.range import ValueRange, find_range
from sr_deploy.probe.shape import Shape, SizeTrial, find_shape, find_size_rule
from sr_deploy.spec import ModelSpec, SizeRule

_RANGE_SIDE = 64
"""Side in pixels of the picture that the value range is found with, unless the size is fixed."""


@dataclass(frozen=True, kw_only=True)
class KnownFacts:
    """Facts that the user states, so that they are not measured. None: measure it."""

    value_range: ValueRange | None = None
    """Values of black and white at the model's input and output."""
    halo: int | Literal["global"] | None = None
    """Halo in input pixels; "global" for a model that must not be tiled."""


_NOTHING_KNOWN = KnownFacts()


def probe(model: onnx.ModelProto | Path, *, name: str, given: KnownFacts = _NOTHING_KNOWN) -> ModelSpec:
    """Find the spec of `model` by running it on pictures: seconds for small nets, minutes for huge ones.

    The halo is such that a tile equals the whole picture if it starts at a multiple of
    `size_rule.multiple_of` and holds its kept region plus `halo` input pixels on every side; None if there
    is no such halo. Facts in `given` are taken as they are. `name` is used in messages and in the spec.

    Raises ModelError for a model that does not run or does not upscale one picture: several inputs or
    outputs, not 4-D, an output that is no whole multiple of the input, channels other than 1 or 3. Raises
    MissingRuntimeError without ONNX Runtime.
    """
    loaded = load_model(model) if isinstance(model, Path) else model
    graph = _prepared(loaded)
    port, _ = picture_io(graph, f"model {name!r}")
    session = open_session(graph, name)  # first, because it checks the nodes that all others read
    precision = detect_precision(loaded)
    shape = find_shape(session, port, name)
    run = SessionRunner(session, port, shape.layout)
    rule, size_notes = find_size_rule(SizeTrial(run, shape), port)
    value_range, range_notes = _find_range(run, shape, rule, given)
    halo = _find_halo(graph, run, shape, rule, value_range, precision, given)
    return ModelSpec(
        name=name,
        scale=shape.scale,
        halo=halo.pixels,
        channels=shape.channels,
        value_range=value_range,
        layout=shape.layout,
        precision=precision,
        size_rule=halo.rule,
        undecided=(*size_notes, *range_notes, *_colour_order_notes(shape.channels), *halo.undecided),
    )


def _prepared(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return `model` in a form that ONNX Runtime's CPU kernels and the structural twin know: without bf16,
    for which there are no kernels, and without functions, whose bodies are inlined."""
    return without_bf16(inliner.inline_local_functions(model) if model.functions else model)


def _find_range(
    run: SessionRunner, shape: Shape, rule: SizeRule, given: KnownFacts
) -> tuple[ValueRange, list[str]]:
    if given.value_range is not None:
        return given.value_range, []
    size = rule.fixed or rule.padded(_RANGE_SIDE, _RANGE_SIDE)
    return find_range(run, shape.scale, size, shape.channels)


def _find_halo(
    graph: onnx.ModelProto,
    run: SessionRunner,
    shape: Shape,
    rule: SizeRule,
    value_range: ValueRange,
    precision: str,
    given: KnownFacts,
) -> Halo:
    """Return the halo that was given, or find it."""
    if given.halo is not None:
        return Halo(None if given.halo == "global" else given.halo, rule, ())
    return find_halo(graph, run, shape, rule, value_range, precision)


def _colour_order_notes(channels: int) -> list[str]:
    """Return the note that RGB is assumed; no note for a grey model."""
    if channels == 1:
        return []
    return ["Probing cannot tell whether the three channels are RGB or BGR; RGB is assumed."]
