"""Find out what nobody wrote down: the spec of a foreign ONNX model, by running it.

`probe` asks one module after the other: probe_session (the ports), probe_shape (layout, channels, scale, sizes),
probe_range (black and white), probe_structure, probe_reach and probe_halo (the receptive field). It needs
ONNX Runtime, changes nothing, and says in `ModelSpec.undecided` what it had to assume.
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
from sr_deploy.probe.range import Range, find_range
from sr_deploy.probe.shape import Shape, SizeTrial, find_shape, find_size_rule
from sr_deploy.spec import ModelSpec, SizeRule

_RANGE_SIDE = 64


@dataclass(frozen=True, kw_only=True)
class KnownFacts:
    """What the user knows better than any probe; None: find out."""

    value_range: Range | None = None
    halo: int | Literal["global"] | None = None


_NOTHING_KNOWN = KnownFacts()


def probe(model: onnx.ModelProto | Path, *, name: str, given: KnownFacts = _NOTHING_KNOWN) -> ModelSpec:
    """The spec of `model`, found by running it on pictures; takes seconds for small nets, minutes for huge ones.

    `halo` is the radius of the receptive field in input pixels such that a tile starting at a multiple of
    `size_rule.multiple_of`, holding its kept region and `halo` more on every side, computes the kept region as
    the whole picture does; None where there is no such radius. What is `given` is taken as it is.

    Raises ModelError for what is no upscaler of one picture (several inputs or outputs, not 4-D, an output
    that is no whole multiple of the input, other than 1 or 3 channels) or does not run, and
    MissingRuntimeError without ONNX Runtime.
    """
    loaded = load_model(model) if isinstance(model, Path) else model
    graph = _prepared(loaded)
    port, _ = picture_io(graph, f"model {name!r}")
    session = open_session(graph, name)  # before anything reads the nodes: it checks them
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
    """The model as ONNX Runtime's CPU kernels and the structural twin can take it: no bf16, no functions."""
    return without_bf16(inliner.inline_local_functions(model) if model.functions else model)


def _find_range(
    run: SessionRunner, shape: Shape, rule: SizeRule, given: KnownFacts
) -> tuple[Range, list[str]]:
    if given.value_range is not None:
        return given.value_range, []
    size = rule.fixed or rule.padded(_RANGE_SIDE, _RANGE_SIDE)
    return find_range(run, shape.scale, size, shape.channels)


def _find_halo(
    graph: onnx.ModelProto,
    run: SessionRunner,
    shape: Shape,
    rule: SizeRule,
    value_range: Range,
    precision: str,
    given: KnownFacts,
) -> Halo:
    if given.halo is not None:
        return Halo(None if given.halo == "global" else given.halo, rule, ())
    return find_halo(graph, run, shape, rule, value_range, precision)


def _colour_order_notes(channels: int) -> list[str]:
    if channels == 1:
        return []
    return ["Whether the three channels are RGB or BGR does not show from outside; RGB is taken."]
