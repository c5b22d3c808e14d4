"""Change the precision of a model, and measure what that costs before anything is written.

- fp16: weights and values that would overflow are found, and kept in fp32.
- bf16: the network is converted, but not the picture's way around it.
- int8: explicit QuantizeLinear and DequantizeLinear, calibrated on photographs
  (`sr_deploy.precision.search_int8`).

This module decides and measures; the modules beside it change the graphs. It writes no file.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import onnx

from sr_deploy.errors import CheckFailedError, UsageError
from sr_deploy.graph.foreign_ports import with_plain_ports
from sr_deploy.graph.nodes import in_opset, name_of
from sr_deploy.graph.onnx_file import require_spec, write_spec
from sr_deploy.graph.pixel_io import has_pixel_io
from sr_deploy.graph.session import in_fp32
from sr_deploy.precision.calibrate import measure_largest
from sr_deploy.precision.crops import CalibrationSet, drawn_crops, photograph_crops
from sr_deploy.precision.effort import FULL, SearchEffort, effort_for
from sr_deploy.precision.half import LARGEST_FP16, fp16_overflows, to_bf16, to_fp16
from sr_deploy.precision.learned import LearnedRanges, learned_ranges
from sr_deploy.precision.measure import Distance, LossMeter, why_not_measured
from sr_deploy.precision.quantise import OLDEST_OPSET, quantisable, to_int8
from sr_deploy.precision.search_int8 import best_int8
from sr_deploy.precision.shuffle import shuffled_by_pixels
from sr_deploy.precision.tuned import Tuner, tuned_int8
from sr_deploy.spec import ModelSpec

PRECISIONS = ("fp16", "bf16", "int8")
"""Precisions that an fp32 model can be converted to."""
TOLERANCES = {"fp16": 0.01, "bf16": 0.03, "int8": 0.1}
"""Precision -> PSNR in dB, against the photographs, that the conversion may cost by default."""
NOTES_KEY = "sr_deploy_conversion"
"""Metadata key of the ONNX file under which the notes on a conversion are kept."""
_INT8_TOLERANCE_SHARE = 0.75
"""Share of the tolerance that an int8 candidate may use up. If it costs more, convolutions are kept in fp32.
A quarter is left, because the user's pictures are not those that the candidates were measured on."""
_HEADROOM = 4.0
"""Factor that must remain between the largest value on the pictures and the largest fp16 number: other
pictures may have larger values."""


@dataclass(frozen=True, kw_only=True)
class Notes:
    """Facts about a conversion, kept as JSON in the file's metadata under `NOTES_KEY`."""

    precision: str
    """Precision of the result: fp16, bf16 or int8."""
    kept: tuple[str, ...]
    """Parts that stayed in fp32 although the precision has a form for them: for int8 convolutions, by the
    names of their weights; for fp16 weights and values that overflow."""
    photographs: int
    """Number of photographs used; 0 if the pictures were drawn."""
    psnr_change: float | None = None
    """Change of the mean RGB PSNR against the photographs, in dB; None if nothing was measured."""
    fidelity: float | None = None
    """PSNR between the results before and after, in dB; None if nothing was measured."""
    method: str | None = None
    """Method that chose the int8 ranges, one of `METHODS`, "learned" or "fine-tuned"; None for fp16 and bf16."""
    strength: float | None = None
    """Strength with which channels were balanced for int8, 0..1; None for fp16 and bf16."""
    unmeasured: str | None = None
    """Reason why nothing was measured; None if something was."""
    source: str | None = None
    """SHA-256 of the file that was converted; None if it was no file, or not told."""
    finetuned: float | None = None
    """Time of fine-tuning in minutes; None if the weights are those of the model."""
    fidelity_before: float | None = None
    """`fidelity` of the same form before fine-tuning, in dB; None without fine-tuning."""

    def to_json(self) -> str:
        """Return the notes as JSON. What fine-tuning adds is left out of other notes, so that their bytes stay."""
        values = asdict(self)
        if self.finetuned is None:
            del values["finetuned"], values["fidelity_before"]
        return json.dumps(values, sort_keys=True)


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """A converted model that carries its spec and notes."""

    model: onnx.ModelProto
    """The model, with the spec and the notes in its metadata."""
    spec: ModelSpec
    """Spec of the converted model."""
    notes: Notes
    """Facts about the conversion, and its cost."""


def convert(
    model: onnx.ModelProto,
    precision: str,
    *,
    data: Path | None = None,
    tolerance: float | None = None,
    source: str | None = None,
    tuner: Tuner | None = None,
    say: Callable[[str], None] = lambda message: None,
) -> Conversion:
    """Convert `model`, which is fp32 and carries a spec, to `precision`. A file in fp16 or bf16, as some nets are
    published only, is widened to fp32 first.

    `data` is a folder of photographs. int8 needs one, unless the training has learnt the ranges; fp16 and bf16 are measured on it if it is given.
    `tolerance` is the change of PSNR in dB that is allowed, by default that of `TOLERANCES`. `source` is the
    SHA-256 of the file of `model`, for the notes: it shows later which file this is a form of. `tuner` fine-tunes the
    weights for int8. `say` gets progress lines.

    Raises UsageError for a precision or model that cannot be used, InputError for a folder without
    photographs, ModelError for a model that cannot be run, and CheckFailedError if the result exceeds the
    tolerance.
    """
    model, spec = with_plain_ports(*_widened(model, _checked(model, precision, data, tuner), say))
    allowed = TOLERANCES[precision] if tolerance is None else tolerance
    learned = learned_ranges(model) if precision == "int8" else None
    effort = effort_for(model, spec) if precision == "int8" and not learned else FULL
    crops = drawn_crops(spec) if data is None else photograph_crops(data, spec, effort)
    if learned:
        made, notes = _to_learned_int8(model, spec, learned, crops, measured=data is not None)
    elif tuner is not None and data is not None:
        made, notes = _to_tuned_int8(model, spec, crops, data, tuner, effort, say)
    elif precision == "int8":
        made, notes = _to_int8(model, spec, crops, allowed, say, effort)
    else:
        made, notes = _to_half_precision(model, spec, precision, crops, measured=data is not None)
    change = notes.psnr_change
    if change is not None and not -change <= allowed:  # written so that NaN fails
        raise CheckFailedError(
            f"{spec.name} in {precision} changes PSNR by {change:+.3f} dB on {len(crops.measure)} photographs, but only "
            f"{allowed:g} dB are allowed; use a higher precision, or allow more with --tolerance"
        )
    notes = replace(notes, source=source)
    made.metadata_props.append(onnx.StringStringEntryProto(key=NOTES_KEY, value=notes.to_json()))
    return Conversion(model=made, spec=require_spec(made), notes=notes)


def _checked(model: onnx.ModelProto, precision: str, data: Path | None, tuner: Tuner | None) -> ModelSpec:
    """Return the spec of a model that can be converted to `precision`. Raises UsageError if it cannot be."""
    spec = require_spec(model)
    if precision not in PRECISIONS:
        raise UsageError(
            f"expected a precision of {', '.join(PRECISIONS)}, got {precision!r}; choose one of them"
        )
    if spec.precision in (precision, "int8"):
        raise UsageError(f"{spec.name} is already {spec.precision}; convert the fp32 file it was made from")
    if has_pixel_io(model):
        raise UsageError(
            f"{spec.name} has uint8 pixel I/O; convert the file with float pixels and add --io uint8"
        )
    if tuner is not None and precision != "int8":
        raise UsageError(f"--finetune is for int8, got {precision}; leave it out")
    if tuner is not None and learned_ranges(model) is not None:
        raise UsageError(f"the ranges of {spec.name} were learnt in its training; leave out --finetune")
    if precision == "int8" and data is None and learned_ranges(model) is None:
        raise UsageError("int8 is calibrated on photographs; point --data at a folder of them")
    return spec


def _widened(
    model: onnx.ModelProto, spec: ModelSpec, say: Callable[[str], None]
) -> tuple[onnx.ModelProto, ModelSpec]:
    """Return a file in fp16 or bf16 as fp32, with its spec; one in fp32 as it is."""
    if spec.precision == "fp32":
        return model, spec
    say(f"{spec.name} is {spec.precision}; it is widened to fp32 first, with its weights as they are rounded")
    wide = spec.with_(precision="fp32")
    return write_spec(in_fp32(model), wide), wide


def _to_int8(
    model: onnx.ModelProto,
    spec: ModelSpec,
    crops: CalibrationSet,
    allowed: float,
    say: Callable[[str], None],
    effort: SearchEffort,
) -> tuple[onnx.ModelProto, Notes]:
    """Find the best int8 form of `model` on `crops`."""
    model = shuffled_by_pixels(in_opset(model, OLDEST_OPSET))
    meter = LossMeter(model, spec, crops.measure)
    best = best_int8(
        model, meter, crops.calibrate, target=_INT8_TOLERANCE_SHARE * allowed, say=say, effort=effort
    )
    names = {node.output[0]: name_of(node) for node in model.graph.node}
    notes = Notes(
        precision="int8",
        kept=tuple(names[name] for name in best.kept),
        photographs=len(crops.calibrate) + len(crops.measure),
        psnr_change=round(best.distance.change, 4),
        fidelity=round(best.distance.fidelity, 2),
        method=best.method,
        strength=best.strength,
    )
    return best.model, notes


def _to_learned_int8(
    model: onnx.ModelProto,
    spec: ModelSpec,
    learned: LearnedRanges,
    crops: CalibrationSet,
    *,
    measured: bool,
) -> tuple[onnx.ModelProto, Notes]:
    """Convert to int8 with the ranges that the training has learnt, and measure the loss on photographs.

    Nothing is searched: the weights were trained with these ranges and no others. Convolutions that were not
    quantised in the training stay in fp32.
    """
    model = shuffled_by_pixels(in_opset(model, OLDEST_OPSET))
    made = to_int8(model, learned.ranges, keep=learned.without, unsigned=learned.unsigned)
    found = LossMeter(model, spec, crops.measure).distance(made) if measured else None
    names = {node.output[0]: name_of(node) for node in model.graph.node}
    return made, Notes(
        precision="int8",
        kept=tuple(names[name] for name in quantisable(model) if name in learned.without),
        photographs=len(crops.calibrate) + len(crops.measure) if measured else 0,
        psnr_change=round(found.change, 4) if found else None,
        fidelity=round(found.fidelity, 2) if found else None,
        method="learned",
        unmeasured=None if found else "no photographs were given",
    )


def _to_tuned_int8(
    model: onnx.ModelProto,
    spec: ModelSpec,
    crops: CalibrationSet,
    data: Path,
    tuner: Tuner,
    effort: SearchEffort,
    say: Callable[[str], None],
) -> tuple[onnx.ModelProto, Notes]:
    """Fine-tune `model` for int8. The loss is that against the model as it was given, not as it was tuned."""
    found = tuned_int8(in_opset(model, OLDEST_OPSET), spec, crops, data, tuner, effort, say)
    return found.model, Notes(
        precision="int8",
        kept=(),
        photographs=len(crops.calibrate) + len(crops.measure),
        psnr_change=round(found.distance.change, 4),
        fidelity=round(found.distance.fidelity, 2),
        method="fine-tuned",
        strength=found.start.strength,
        finetuned=tuner.minutes,
        fidelity_before=round(found.before.fidelity, 2),
    )


def _to_half_precision(
    model: onnx.ModelProto, spec: ModelSpec, precision: str, crops: CalibrationSet, *, measured: bool
) -> tuple[onnx.ModelProto, Notes]:
    """Convert to fp16 or bf16, and measure the loss if that is possible here.

    `measured` says that the crops are photographs; on drawn pictures no loss is measured.
    """
    kept: tuple[str, ...] = ()
    if precision == "fp16":
        too_large = overflowing(model, crops)
        kept = tuple(sorted({*too_large, *fp16_overflows(model)}))
        made = to_fp16(model, too_large=too_large)
    else:
        made = to_bf16(shuffled_by_pixels(model))
    reason = why_not_measured(precision) if measured else "no photographs were given"
    found: Distance | None = None
    if reason is None:
        found = LossMeter(model, spec, crops.measure).distance(made)
    return made, Notes(
        precision=precision,
        kept=kept,
        photographs=len(crops.calibrate) + len(crops.measure) if measured else 0,
        psnr_change=round(found.change, 4) if found else None,
        fidelity=round(found.fidelity, 2) if found else None,
        unmeasured=reason,
    )


def overflowing(model: onnx.ModelProto, crops: CalibrationSet) -> set[str]:
    """List the values inside `model` that would overflow in fp16. They come within a factor of `_HEADROOM` of
    the largest fp16 number on one of the crops at least."""
    values = [name for node in model.graph.node if node.op_type != "Constant" for name in node.output if name]
    pictures = [crop.small for crop in (*crops.calibrate, *crops.measure)]
    largest = measure_largest(model, values, pictures)
    return {name for name, value in largest.items() if value * _HEADROOM > LARGEST_FP16}
