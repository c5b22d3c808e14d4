"""Find the spec of a foreign ONNX model by running it.

`examine` calls one module after another: `shape` (layout, channels, scale, sizes), `range` (the values of
black and white), then `structure`, `perturbation`, `tiles` and `halo` (the halo). Each needs what the ones
before it found. The model runs in a child process (`process`), so nothing that it does can end the caller. It needs
ONNX Runtime, changes nothing, and lists in `ModelSpec.undecided` what it had to assume.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import onnx
from onnx import inliner

from sr_deploy.graph.foreign_ports import with_plain_ports
from sr_deploy.graph.onnx_file import Port, load_model, picture_io
from sr_deploy.graph.session import SessionRunner, detect_precision, without_bf16
from sr_deploy.probe.halo import Halo, find_halo
from sr_deploy.probe.process import ProbeLimits, ProbeProcess
from sr_deploy.probe.range import Ranges, ValueRange, find_range
from sr_deploy.probe.shape import Shape, SizeTrial, find_shape, find_size_rule
from sr_deploy.spec import ModelSpec, SizeRule

_RANGE_SIDE = 64
"""Side in pixels of the picture that the value range is found with, unless the size is fixed."""
_CONFIRMING_SECONDS = 6.0
"""Seconds of probing after which what only confirms is left out, so that small nets take at most ten."""


@dataclass(frozen=True, kw_only=True)
class KnownFacts:
    """Facts that the user states, so that they are not measured. None: measure it."""

    value_range: ValueRange | None = None
    """Values of black and white at the model's input (and output, unless `output_range` is given or found)."""
    output_range: ValueRange | None = None
    """Values of black and white at the model's output, if they are not those of the input."""
    halo: int | Literal["global"] | None = None
    """Halo in input pixels; "global" for a model that must not be tiled."""
    channel_order: Literal["RGB", "BGR"] | None = None
    """Order of the colours. Probing cannot find it; None: RGB."""


_NOTHING_KNOWN = KnownFacts()


@dataclass(frozen=True, kw_only=True)
class Examination:
    """Result of probing a model, with the evidence for it."""

    spec: ModelSpec
    evidence: dict[str, str]
    """Evidence for each answer, by the name of the property."""


def probe(model: onnx.ModelProto | Path, *, name: str, given: KnownFacts = _NOTHING_KNOWN) -> ModelSpec:
    """Find the spec of `model` as `examine` does."""
    return examine(model, name=name, given=given).spec


def examine(
    model: onnx.ModelProto | Path,
    *,
    name: str,
    given: KnownFacts = _NOTHING_KNOWN,
    say: Callable[[str], None] = lambda step: None,
    limits: ProbeLimits | None = None,
) -> Examination:
    """Find the spec of `model` by running it on pictures: seconds for small nets, minutes for huge ones.

    The halo is such that a tile equals the whole picture if it starts at a multiple of
    `size_rule.step` and holds its kept region plus `halo` input pixels on every side; None if there
    is no such halo. Facts in `given` are taken as they are. `name` is used in messages and in the spec. `say` is
    called with the property that is being found. `limits` are those of the child process.

    Raises ModelError for a model that does not run or does not upscale one picture: several inputs or
    outputs, not 4-D, an output that is no whole multiple of the input, channels other than 1 or 3. Raises
    MissingRuntimeError without ONNX Runtime.
    """
    with ProbeProcess(limits) as process:
        deadline = time.monotonic() + _CONFIRMING_SECONDS
        loaded = load_model(model) if isinstance(model, Path) else model
        return _examine(process, loaded, name, given, say, deadline)


def _examine(
    process: ProbeProcess,
    loaded: onnx.ModelProto,
    name: str,
    given: KnownFacts,
    say: Callable[[str], None],
    deadline: float,
) -> Examination:
    """Find one property after the other, and put the answers together."""
    graph = _prepared(loaded)
    say("opening it")
    graph, run, shape, inset = _find_shape(process, graph, name)
    say("input sizes")
    trial = SizeTrial(run, shape)
    rule, size_notes = find_size_rule(trial, run.port)
    precision = detect_precision(loaded)
    say("value range")
    output = picture_io(graph)[1]
    ranges = _find_range(run, output, shape, rule, given)
    say("halo")
    halo = _find_halo(graph, run, shape, rule, ranges.value_range, precision, given, deadline)
    spec = ModelSpec(
        name=name,
        scale=shape.scale,
        halo=halo.pixels,
        channels=shape.channels,
        value_range=ranges.value_range,
        output_range=ranges.output_range,
        channel_order=given.channel_order or "RGB",
        inset=inset,
        layout=shape.layout,
        precision=precision,
        size_rule=halo.rule,
        undecided=(
            *size_notes,
            *(f"{incident}; such sizes count as not taken." for incident in process.incidents),
            *ranges.notes,
            *_colour_order_notes(shape.channels, given),
            *halo.undecided,
        ),
    )
    evidence = {
        "scale": f"{shape.size[1] * shape.scale}x{shape.size[0] * shape.scale} pixels for {shape.size[1]}x{shape.size[0]}",
        "sizes": trial.summary() or "the axes of the graph",
        "value range": ranges.evidence,
        "halo": halo.evidence,
    }
    return Examination(spec=spec, evidence={key: text for key, text in evidence.items() if text})


def _find_shape(
    process: ProbeProcess, graph: onnx.ModelProto, name: str
) -> tuple[onnx.ModelProto, SessionRunner, Shape, int]:
    """Open the model and find its shape; returns the graph that runs, its runner, its shape, and its inset.

    A model that leaves out a border gets one from the picture (`with_plain_ports`); all else is found with that
    graph.
    """
    port, _ = picture_io(graph, f"model {name!r}")
    session = process.open(graph, name)  # first, because it checks the nodes that all others read
    shape = find_shape(session, port, name)
    if not shape.inset:
        return graph, SessionRunner(session, port, shape.layout), shape, 0
    fact = ModelSpec(name=name, scale=shape.scale, halo=None, layout=shape.layout, inset=shape.inset)
    padded, _ = with_plain_ports(graph, fact)
    port, _ = picture_io(padded, f"model {name!r}")
    session = process.open(padded, name)
    inset, shape = shape.inset, find_shape(session, port, name)
    return padded, SessionRunner(session, port, shape.layout), shape, inset


def _prepared(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return `model` in a form that ONNX Runtime's CPU kernels and the structural twin know: without bf16,
    for which there are no kernels, and without functions, whose bodies are inlined."""
    return without_bf16(inliner.inline_local_functions(model) if model.functions else model)


def _find_range(run: SessionRunner, output: Port, shape: Shape, rule: SizeRule, given: KnownFacts) -> Ranges:
    """Return the value ranges that were given, or find them."""
    if given.value_range is not None and given.output_range is not None:
        different = given.output_range if given.output_range != given.value_range else None
        return Ranges(given.value_range, different, evidence="given")
    size = rule.fixed or rule.padded(_RANGE_SIDE, _RANGE_SIDE)
    gives_bytes = output.elem_type == onnx.TensorProto.UINT8
    small = rule.fixed or rule.padded(_RANGE_SIDE // 2, _RANGE_SIDE // 2)
    found = find_range(
        run, shape.scale, size, shape.channels, small=small, given=given.value_range, gives_bytes=gives_bytes
    )
    if given.output_range is not None:
        different = given.output_range if given.output_range != found.value_range else None
        return replace(found, output_range=different)
    return found


def _find_halo(
    graph: onnx.ModelProto,
    run: SessionRunner,
    shape: Shape,
    rule: SizeRule,
    value_range: ValueRange,
    precision: str,
    given: KnownFacts,
    deadline: float,
) -> Halo:
    """Return the halo that was given, or find it."""
    if given.halo is not None:
        return Halo(None if given.halo == "global" else given.halo, rule, (), "given")
    return find_halo(graph, run, shape, rule, value_range, precision, deadline=deadline)


def _colour_order_notes(channels: int, given: KnownFacts) -> list[str]:
    """Return the note that RGB is assumed; no note for a grey model, or where the order was given."""
    if channels == 1 or given.channel_order:
        return []
    return ["Probing cannot tell whether the three channels are RGB or BGR; RGB is assumed."]
