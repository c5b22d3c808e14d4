"""Change the precision of a model file, and measure what it costs before anything is written.

fp16: what would overflow, in the weights or on pictures, is found and kept in fp32. bf16: the net, not what goes
around it. int8: explicit Q/DQ, calibrated on photographs (`sr_deploy.precision.search_int8`). Graphs are changed by
`sr_deploy.graph`; this module decides and measures. It writes no file.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import onnx

from sr_deploy.errors import CheckFailedError, UsageError
from sr_deploy.graph.nodes import in_opset, name_of
from sr_deploy.graph.onnx_file import require_spec
from sr_deploy.graph.pixel_io import has_pixel_io
from sr_deploy.precision.calibrate import measure_largest
from sr_deploy.precision.crops import CalibrationSet, drawn_crops, photograph_crops
from sr_deploy.precision.half import LARGEST_FP16, fp16_overflows, to_bf16, to_fp16
from sr_deploy.precision.measure import Distance, LossMeter, why_not_measured
from sr_deploy.precision.quantise import OLDEST_OPSET
from sr_deploy.precision.search_int8 import best_int8
from sr_deploy.precision.shuffle import shuffled_by_pixels
from sr_deploy.spec import ModelSpec

PRECISIONS = ("fp16", "bf16", "int8")
TOLERANCES = {"fp16": 0.01, "bf16": 0.03, "int8": 0.1}
"""dB of PSNR against the photographs that a precision may cost."""
NOTES_KEY = "sr_deploy_conversion"
_INT8_TOLERANCE_SHARE = 0.75
"""Of the tolerance: what int8 may cost before convolutions are kept in fp32."""
_HEADROOM = 4.0
"""A value on pictures may come this close to the largest half-precision number: other pictures go further."""


@dataclass(frozen=True, kw_only=True)
class Notes:
    """How a model was converted; JSON in the file's metadata under `NOTES_KEY`."""

    precision: str
    kept: tuple[str, ...]
    """What stayed in fp32 though it need not have: convolutions by their weights' name, values that overflow."""
    photographs: int
    """Looked at; 0: pictures were made up."""
    psnr_change: float | None = None
    """Of the mean RGB PSNR against the photographs, in dB."""
    fidelity: float | None = None
    """PSNR between the results before and after, in dB."""
    method: str | None = None
    """How int8 ranges were chosen."""
    strength: float | None = None
    """How far channels were balanced for int8."""
    unmeasured: str | None = None
    """Why nothing was measured."""


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """A converted model, record and notes in it."""

    model: onnx.ModelProto
    spec: ModelSpec
    notes: Notes


def convert(
    model: onnx.ModelProto,
    precision: str,
    *,
    data: Path | None = None,
    tolerance: float | None = None,
    say: Callable[[str], None] = lambda message: None,
) -> Conversion:
    """`model`, which is fp32 and has a record, in `precision`.

    `data`: a folder of photographs; int8 needs one, the others are measured on it where it is given. `tolerance`:
    dB that PSNR may change by, `TOLERANCES` by default. Raises UsageError for a precision or model that this
    cannot be done with, InputError for a folder without photographs, ModelError for a model that cannot be
    run, and CheckFailedError where the result misses the tolerance.
    """
    spec = _checked(model, precision, data)
    allowed = TOLERANCES[precision] if tolerance is None else tolerance
    crops = drawn_crops(spec) if data is None else photograph_crops(data, spec)
    if precision == "int8":
        made, notes = _to_int8(model, spec, crops, allowed, say)
    else:
        made, notes = _to_half_precision(model, spec, precision, crops, measured=data is not None)
    change = notes.psnr_change
    if change is not None and not -change <= allowed:  # NaN too
        raise CheckFailedError(
            f"{spec.name} in {precision} changes PSNR by {change:+.3f} dB on {len(crops.measure)} photographs, "
            f"{allowed:g} dB are allowed; use a higher precision, or accept it with --tolerance"
        )
    made.metadata_props.append(
        onnx.StringStringEntryProto(key=NOTES_KEY, value=json.dumps(asdict(notes), sort_keys=True))
    )
    return Conversion(model=made, spec=require_spec(made), notes=notes)


def _checked(model: onnx.ModelProto, precision: str, data: Path | None) -> ModelSpec:
    spec = require_spec(model)
    if precision not in PRECISIONS:
        raise UsageError(f"a model can be converted to {', '.join(PRECISIONS)}, got {precision!r}")
    if spec.precision != "fp32":
        raise UsageError(f"{spec.name} is {spec.precision} already; convert the fp32 file it was made from")
    if has_pixel_io(model):
        raise UsageError(
            f"{spec.name} has uint8 pixel I/O; convert the file with float pixels, then add --io uint8"
        )
    if precision == "int8" and data is None:
        raise UsageError("int8 is calibrated on photographs; point --data at a folder of them")
    return spec


def _to_int8(
    model: onnx.ModelProto, spec: ModelSpec, crops: CalibrationSet, allowed: float, say: Callable[[str], None]
) -> tuple[onnx.ModelProto, Notes]:
    model = shuffled_by_pixels(in_opset(model, OLDEST_OPSET))
    meter = LossMeter(model, spec, crops.measure)
    # not all of it, for the photographs are not the ones it will be held to
    best = best_int8(model, meter, crops.calibrate, target=_INT8_TOLERANCE_SHARE * allowed, say=say)
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


def _to_half_precision(
    model: onnx.ModelProto, spec: ModelSpec, precision: str, crops: CalibrationSet, *, measured: bool
) -> tuple[onnx.ModelProto, Notes]:
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
    """The values inside `model` that come too close to what half precision holds, on any of the crops."""
    values = [name for node in model.graph.node if node.op_type != "Constant" for name in node.output if name]
    pictures = [crop.small for crop in (*crops.calibrate, *crops.measure)]
    largest = measure_largest(model, values, pictures)
    return {name for name, value in largest.items() if value * _HEADROOM > LARGEST_FP16}
