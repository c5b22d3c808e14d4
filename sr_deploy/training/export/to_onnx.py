"""Export a checkpoint to one self-describing ONNX file.

The steps: fold the net, convert it with `torch.onnx.export` (on `torch.export`), clean the graph, measure the
halo, add the spec, check against torch, write. Precision and pixel I/O are added by `sr_deploy.graph` and
`sr_deploy.precision`. Equal checkpoints give equal bytes. Nothing is written before the check has passed.
"""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import onnx
import torch
from torch import nn

from sr_deploy.errors import MissingRuntimeError, ModelError, UsageError
from sr_deploy.graph.onnx_file import PIXELS, UPSCALED, opset_of, save_model, write_spec
from sr_deploy.graph.pixel_io import with_pixel_io
from sr_deploy.precision.convert import convert
from sr_deploy.precision.half import to_fp16
from sr_deploy.precision.learned import with_learned_ranges
from sr_deploy.spec import ModelSpec, SizeRule
from sr_deploy.system.output_folder import check_output_path
from sr_deploy.training.checkpoint import CheckpointInfo, load_net
from sr_deploy.training.export.cleaning import clean_graph
from sr_deploy.training.export.halo import measure_halo
from sr_deploy.training.export.parity import (
    CropReference,
    Parity,
    check_pictures,
    compare_crops,
    require_parity,
    run_crops,
)
from sr_deploy.training.nets import size_rule_of
from sr_deploy.training.nets.blocks import fold

OPSETS = range(18, 24)
"""Opsets that torch's exporter can write. ONNX Runtime 1.18 to 1.20 read up to 21; bf16 convolutions need 22.
"""

DEFAULT_OPSET = 18
"""Opset that every runtime in use reads. The operators of these nets have not changed since."""

PRECISIONS = ("fp32", "fp16", "bf16", "int8")
IO = ("float", "uint8")


@dataclass(frozen=True, kw_only=True)
class ExportResult:
    """Description of a written file and the result of the check."""

    path: Path
    spec: ModelSpec
    opset: int
    size: int
    """Size of the file in bytes."""
    parameters: int
    """Number of weights and biases of the folded net."""
    parity: Parity | None
    """Result of the check against torch; None where it was skipped."""
    exporter: str = "dynamo"
    """The exporter of torch whose graph was kept: "dynamo" or "torchscript"."""
    nodes: int = 0
    """Nodes of the written graph."""
    notes: tuple[str, ...] = ()
    """Sentences for the user about what was assumed or found."""
    tried: tuple[str, ...] = ()
    """One line for each export that was not kept, with the reason."""


def export_onnx(
    checkpoint: Path,
    out: Path,
    *,
    precision: str = "fp32",
    io: str = "float",
    opset: int = DEFAULT_OPSET,
    data: Path | None = None,
    licence: str | None = None,
    tolerance: float | None = None,
    check: bool = True,
) -> ExportResult:
    """Write the net of `checkpoint` to the ONNX file `out`.

    Args:
      checkpoint: file of `sr-deploy train`.
      out: path to write; an existing file is replaced.
      precision: "fp32", "fp16", "bf16" or "int8".
      io: "float" (NCHW, 0..1) or "uint8" (NHWC pixels).
      opset: one of `OPSETS`.
      data: folder of pictures to check on; without it synthetic pictures are used. int8 is calibrated on them.
      licence: licence of the weights, stored in the spec.
      tolerance: largest difference from torch, where 1 is full scale; None: that of the precision.
      check: whether ONNX Runtime and torch are compared before anything is written.

    For bf16 and int8 the returned parity is that of the fp32 model; `sr_deploy.precision.convert` measures
    the loss of the conversion itself.

    Raises UsageError for an argument outside its range, InputError for a file that is not a checkpoint,
    OutputError where `out` cannot be written, MissingRuntimeError without onnxscript or ONNX Runtime, and
    CheckFailedError where ONNX Runtime and torch differ by more than the tolerance.
    """
    check_arguments(out, precision, io, opset)
    net, info = load_net(checkpoint)
    pictures = check_pictures(data) if check else []
    spec = spec_of(net, info, checkpoint, precision=precision, licence=licence)
    references = run_crops(net, spec, pictures) if check else []
    parameters = _count_weights(net)
    return finish(
        with_learned_ranges(
            core_model(net, spec, opset), {f"{name}.weight": found for name, found in info.ranges.items()}
        ),
        spec,
        out,
        io=io,
        data=data,
        references=references,
        parameters=parameters,
    )


def finish(
    model: onnx.ModelProto,
    spec: ModelSpec,
    out: Path,
    *,
    io: str,
    data: Path | None,
    references: Sequence[CropReference],
    parameters: int,
    parity: Parity | None = None,
    tolerance: float | None = None,
    exporter: str = "dynamo",
    notes: tuple[str, ...] = (),
    tried: tuple[str, ...] = (),
) -> ExportResult:
    """Convert a core graph in fp32 to the precision of `spec`, add pixel I/O, check it and write it.

    `references` are what torch computes; empty: no check. `parity` is the comparison of the core graph, if it was made
    already. Raises CheckFailedError where the difference exceeds `tolerance` (None: that of the precision).
    """
    precision = spec.precision
    if precision in ("bf16", "int8"):
        full = spec.with_(precision="fp32")
        if parity is None and references:
            parity = require_parity(compare_crops(references, model, full, tolerance), full)
        model = convert(model, precision, data=data).model
    elif precision == "fp16":
        parity = None
        model = to_fp16(model)
    if io == "uint8":
        parity = None if precision in ("fp32", "fp16") else parity
        model = with_pixel_io(model)
    onnx.checker.check_model(model, full_check=True)
    if parity is None and references:
        parity = require_parity(compare_crops(references, model, spec, tolerance), spec)
    save_model(model, out)
    return ExportResult(
        path=out,
        spec=spec,
        opset=opset_of(model),
        size=out.stat().st_size,
        parameters=parameters,
        parity=parity,
        exporter=exporter,
        nodes=len(model.graph.node),
        notes=notes,
        tried=tried,
    )


def check_arguments(out: Path, precision: str, io: str, opset: int) -> None:
    """Raise UsageError or OutputError for arguments that cannot work, before the net is loaded."""
    if precision not in PRECISIONS:
        raise UsageError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    if io not in IO:
        raise UsageError(f"io must be one of {', '.join(IO)}, got {io!r}")
    if opset not in OPSETS:
        raise UsageError(
            f"opset {opset} cannot be written, expected {OPSETS.start} to {OPSETS.stop - 1}; "
            f"leave it out for {DEFAULT_OPSET}, which every runtime reads"
        )
    check_output_path(out, overwrite=True)


def spec_of(
    net: nn.Module,
    info: CheckpointInfo,
    checkpoint: Path,
    *,
    precision: str = "fp32",
    licence: str | None = None,
) -> ModelSpec:
    """Return the spec of `net`; its halo is measured."""
    return ModelSpec(
        name=info.name,
        scale=info.scale,
        halo=measure_halo(net),
        architecture=info.architecture,
        parameters=info.parameters,
        channels=int(getattr(net, "channels", 3)),
        precision=precision,
        size_rule=size_rule_of(net),
        checkpoint_sha256=hashlib.sha256(checkpoint.read_bytes()).hexdigest(),
        recipe_sha256=info.recipe_sha256 or None,
        licence=licence,
    )


def core_model(net: nn.Module, spec: ModelSpec, opset: int = DEFAULT_OPSET) -> onnx.ModelProto:
    """Export the folded `net` in fp32 with `spec` in its metadata: `pixels` [n, C, h, w] -> `upscaled`.
    Raises MissingRuntimeError without onnxscript, ModelError where torch cannot export the net."""
    model = _converted(fold(net).eval(), spec.channels, spec.size_rule, opset)
    clean_graph(model, ["n", spec.channels, "h", "w"], ["n", spec.channels, "H", "W"])
    return write_spec(model, spec.with_(precision="fp32"))


def _converted(net: nn.Module, channels: int, rule: SizeRule, opset: int) -> onnx.ModelProto:
    """Convert `net` with torch's exporter; batch, height and width stay dynamic."""
    step = rule.multiple_of
    axes = {name: torch.export.Dim(name) for name in ("n", "h", "w")}
    shapes = (
        {0: axes["n"], 2: step * axes["h"], 3: step * axes["w"]}
        if step > 1
        else dict(zip((0, 2, 3), axes.values(), strict=True))
    )
    # Sizes that differ from each other and from 1, so that the exporter cannot take them for constants or for equal.
    example = torch.zeros(2, channels, 8 * step, 12 * step)
    with _silenced():
        try:
            program = torch.onnx.export(
                net,
                (example,),
                dynamo=True,
                opset_version=opset,
                input_names=[PIXELS],
                output_names=[UPSCALED],
                dynamic_shapes=(shapes,),
                verbose=False,
            )
        except ImportError as error:
            raise MissingRuntimeError(
                'exporting needs onnxscript, which is not installed; pip install "sr-deploy[train]"'
            ) from error
        except torch.onnx.errors.OnnxExporterError as error:
            reason = " ".join(str(error).split())[:200]
            raise ModelError(
                f"torch cannot export this net in opset {opset} ({reason}); report this"
            ) from error
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    return model


@contextmanager
def _silenced() -> Iterator[None]:
    """Silence torch's exporter, which warns of its own deprecated calls and logs that torchvision is missing."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _count_weights(net: nn.Module) -> int:
    """Count the trainable weights and biases of the folded net."""
    return sum(p.numel() for p in fold(net).parameters() if p.requires_grad)
