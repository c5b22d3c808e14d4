"""Export any `SourceNet` to one self-describing ONNX file, checked against torch.

The steps are those of our own nets (`sr_deploy.training.export`), except that two exporters compete and that the halo is
measured on the exported graph, with tiles compared to the whole.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from sr_deploy.errors import CheckFailedError, ModelError, one_line
from sr_deploy.graph.onnx_file import picture_io, write_spec
from sr_deploy.graph.session import SessionRunner
from sr_deploy.probe.halo import find_halo
from sr_deploy.probe.process import ProbeProcess
from sr_deploy.probe.shape import Shape
from sr_deploy.spec import ModelSpec
from sr_deploy.training.anynet.choosing import ExportChoice, choose_export
from sr_deploy.training.anynet.finding import find_source, is_own_checkpoint
from sr_deploy.training.anynet.modules import StatedFacts
from sr_deploy.training.anynet.source import SourceNet
from sr_deploy.training.checkpoint import find_checkpoint
from sr_deploy.training.export.parity import TOLERANCES, check_pictures
from sr_deploy.training.export.to_onnx import (
    DEFAULT_OPSET,
    ExportResult,
    check_arguments,
    export_onnx,
    finish,
)

TOLERANCE = 1e-3
"""Largest difference from torch, where 1 is full scale: a quarter of an 8-bit step. Nets with attention add
hundreds of products in another order than torch, so the 1e-4 of our own nets is too little for them."""
_LARGEST_FILE = (1 << 31) - (1 << 20)
"""Bytes of weights that an ONNX file can hold, less 1 MiB for the graph: protobuf ends at 2 GiB."""


def export_source(
    source: SourceNet,
    out: Path,
    *,
    precision: str = "fp32",
    io: str = "float",
    opset: int = DEFAULT_OPSET,
    data: Path | None = None,
    licence: str | None = None,
    tolerance: float = TOLERANCE,
    say: Callable[[str], None] = lambda line: None,
) -> ExportResult:
    """Write `source` to the ONNX file `out`.

    Arguments are those of `export_onnx`; `tolerance` is the largest difference from torch in fp32, where 1 is
    full scale, and `say` is called with what is being done. Raises what `export_onnx` raises, and ModelError for a net
    that cannot be exported.
    """
    check_arguments(out, precision, io, opset)
    _check_weight(source)
    pictures = check_pictures(data)
    spec = _first_spec(source, licence)
    choice = choose_export(source, spec, opset, pictures[:2], tolerance=tolerance, say=say)
    say("measuring the halo")
    spec, notes = _with_halo(choice, source)
    model = write_spec(choice.model, spec)
    try:
        return finish(
            model,
            spec.with_(precision=precision),
            out,
            io=io,
            data=data,
            references=choice.references,
            parity=choice.parity,
            tolerance=max(tolerance, TOLERANCES.get(precision, 0)),
            parameters=sum(weight.numel() for weight in source.net.parameters()),
            exporter=choice.exporter,
            notes=(*source.notes, *notes),
            tried=choice.tried,
        )
    except CheckFailedError as error:
        raise _in_precision(source, precision, error) from error


def _in_precision(source: SourceNet, precision: str, error: CheckFailedError) -> CheckFailedError:
    """Return `error`, with the author's word where the net is not meant for this precision."""
    if precision in source.precisions:
        return error
    return CheckFailedError(
        f"{one_line(error, 300)}; {source.architecture} is known not to compute in {precision}, use "
        f"{' or '.join(sorted(source.precisions - {'int8'}))}"
    )


def _check_weight(source: SourceNet) -> None:
    """Raise ModelError for weights that no ONNX file can hold."""
    size = sum(tensor.numel() * tensor.element_size() for tensor in source.net.state_dict().values())
    if size > _LARGEST_FILE:
        raise ModelError(
            f"{source.name}: has {size / 2**30:.1f} GiB of weights, and one ONNX file holds 2 GiB; use a smaller net"
        )


def _first_spec(source: SourceNet, licence: str | None) -> ModelSpec:
    """Return what the source says of itself as a spec, without a halo."""
    return ModelSpec(
        name=source.name,
        scale=source.scale,
        halo=None,
        architecture=source.architecture,
        parameters=dict(source.parameters),
        channels=source.channels,
        value_range=source.value_range,
        size_rule=source.rule,
        checkpoint_sha256=source.sha256,
        licence=licence or source.licence,
    )


def _with_halo(choice: ExportChoice, source: SourceNet) -> tuple[ModelSpec, tuple[str, ...]]:
    """Return the spec with its halo and the step of its tiles, and what the user should know of them."""
    spec = choice.spec
    if source.halo != "measure":
        return spec.with_(halo=source.halo), ()
    size = spec.size_rule.fixed or spec.size_rule.padded(64, 64)
    shape = Shape(layout=spec.layout, channels=spec.channels, scale=spec.scale, size=size)
    with ProbeProcess() as process:
        session = process.open(choice.model, spec.name)
        run = SessionRunner(session, picture_io(choice.model, spec.name)[0], spec.layout)
        halo = find_halo(choice.model, run, shape, spec.size_rule, spec.value_range, spec.precision)
    return spec.with_(halo=halo.pixels, size_rule=halo.rule, undecided=halo.undecided), halo.undecided


def export_anything(
    what: Any,
    out: Path,
    stated: StatedFacts,
    *,
    precision: str,
    io: str,
    opset: int | None,
    data: Path | None,
    licence: str | None,
    tolerance: float | None,
    extra: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> ExportResult:
    """Export a checkpoint of our own by `export_onnx`, and any other net by `export_source`.

    Arguments and errors are those of `sr_deploy.export`.
    """
    opset = DEFAULT_OPSET if opset is None else opset
    path = Path(what) if isinstance(what, str | Path) else None
    if path is not None and is_own_checkpoint(path):
        return export_onnx(
            find_checkpoint(path),
            out,
            precision=precision,
            io=io,
            opset=opset,
            data=data,
            licence=licence,
            tolerance=tolerance,
        )
    check_arguments(out, precision, io, opset)
    return export_source(
        find_source(what, stated, extra=extra, say=say),
        out,
        precision=precision,
        io=io,
        opset=opset,
        data=data,
        licence=licence,
        tolerance=TOLERANCE if tolerance is None else tolerance,
        say=say,
    )
