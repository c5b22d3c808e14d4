"""Export a checkpoint to one self-describing ONNX file.

The steps: fold the net, convert it with `torch.onnx.export` (on `torch.export`), clean the graph, measure the
halo, add the spec, check against torch, write. Precision and pixel I/O are added by `sr_deploy.graph` and
`sr_deploy.precision`. Equal checkpoints give equal bytes. Nothing is written before the check has passed.
"""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import nn

from sr_deploy.errors import MissingRuntimeError, ModelError, UsageError
from sr_deploy.graph.onnx_file import PIXELS, UPSCALED, save_model, write_spec
from sr_deploy.graph.pixel_io import with_pixel_io
from sr_deploy.precision.convert import convert
from sr_deploy.precision.half import to_fp16
from sr_deploy.precision.learned import with_learned_ranges
from sr_deploy.spec import ModelSpec, SizeRule
from sr_deploy.system.output_folder import check_output_path
from sr_deploy.training.checkpoint import CheckpointInfo, load_net
from sr_deploy.training.export.halo import measure_halo
from sr_deploy.training.export.parity import Parity, check_parity, check_pictures
from sr_deploy.training.nets import size_rule_of
from sr_deploy.training.nets.blocks import fold

OPSETS = range(18, 24)
"""Opsets that torch's exporter can write. ONNX Runtime 1.18 to 1.20 read up to 21; bf16 convolutions need 22.
"""

DEFAULT_OPSET = 18
"""Opset that every runtime in use reads. The operators of these nets have not changed since."""

IR_VERSION = 10  # that of ONNX 1.16, the newest one ONNX Runtime 1.18 reads
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


def export_onnx(
    checkpoint: Path,
    out: Path,
    *,
    precision: str = "fp32",
    io: str = "float",
    opset: int = DEFAULT_OPSET,
    data: Path | None = None,
    licence: str | None = None,
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
      check: whether ONNX Runtime and torch are compared before anything is written.

    For bf16 and int8 the returned parity is that of the fp32 model; `sr_deploy.precision.convert` measures
    the loss of the conversion itself.

    Raises UsageError for an argument outside its range, InputError for a file that is not a checkpoint,
    OutputError where `out` cannot be written, MissingRuntimeError without onnxscript or ONNX Runtime, and
    CheckFailedError where ONNX Runtime and torch differ by more than the tolerance.
    """
    _check_arguments(out, precision, io, opset)
    net, info = load_net(checkpoint)
    pictures = check_pictures(data) if check else []
    spec = spec_of(net, info, checkpoint, precision=precision, licence=licence)
    model = with_learned_ranges(
        core_model(net, spec, opset), {f"{name}.weight": found for name, found in info.ranges.items()}
    )
    parity: Parity | None = None
    if precision in ("bf16", "int8"):
        full = spec.with_(precision="fp32")
        parity = check_parity(net, model, full, pictures) if check else None
        model = convert(model, precision, data=data).model
    elif precision == "fp16":
        model = to_fp16(model)
    if io == "uint8":
        model = with_pixel_io(model)
    onnx.checker.check_model(model, full_check=True)
    if parity is None and check:
        parity = check_parity(net, model, spec, pictures)
    save_model(model, out)
    return ExportResult(
        path=out,
        spec=spec,
        opset=opset,
        size=out.stat().st_size,
        parameters=_count_weights(net),
        parity=parity,
    )


def _check_arguments(out: Path, precision: str, io: str, opset: int) -> None:
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
    _clean(model, spec.channels)
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


def _clean(model: onnx.ModelProto, channels: int) -> None:
    """Remove everything that does not compute, and name the rest so that equal nets give equal bytes. Stack
    traces and torch's own records (which contain paths), attributes that repeat a default, and intermediate
    shapes are removed. Weights keep their names in the net."""
    model.producer_name, model.producer_version, model.doc_string = "sr-deploy", "", ""
    model.ir_version = IR_VERSION
    graph = model.graph
    graph.name, graph.doc_string = "core", ""
    del graph.value_info[:], model.metadata_props[:], graph.metadata_props[:]
    for tensor in (*graph.initializer, *graph.input, *graph.output):
        tensor.doc_string = ""
        del tensor.metadata_props[:]
    for number, node in enumerate(graph.node):
        node.name, node.doc_string = f"{node.op_type}_{number}", ""
        del node.metadata_props[:]
        _drop_defaults(node)
    _rename_values(graph)
    _declare(graph.input[0], PIXELS, ["n", channels, "h", "w"])
    _declare(graph.output[0], UPSCALED, ["n", channels, "H", "W"])


def _drop_defaults(node: onnx.NodeProto) -> None:
    """Remove attributes that repeat a default, and sort the others by name."""
    kept = [
        a
        for a in node.attribute
        if not (a.name == "auto_pad" and a.s == b"NOTSET") and not (a.name == "group" and a.i == 1)
    ]
    copies = sorted((_copy(a) for a in kept), key=lambda a: str(a.name))
    del node.attribute[:]
    node.attribute.extend(copies)


def _copy(attribute: onnx.AttributeProto) -> onnx.AttributeProto:
    copied = onnx.AttributeProto()
    copied.CopyFrom(attribute)
    return copied


def _rename_values(graph: onnx.GraphProto) -> None:
    """Name results after their operator, and constants by number; weights keep their names in the net."""
    names = {PIXELS: PIXELS, UPSCALED: UPSCALED, "": ""}
    constants = [t for t in graph.initializer if "." not in t.name]
    names |= {tensor.name: f"constant_{number}" for number, tensor in enumerate(constants)}
    for number, node in enumerate(graph.node):
        for name in node.output:
            names.setdefault(name, f"{node.op_type.lower()}_{number}")
    for tensor in constants:
        tensor.name = names[tensor.name]
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names[name] for name in node.output]


def _declare(port: Any, name: str, dims: list[int | str]) -> None:
    """Set name and shape of a float input or output."""
    port.CopyFrom(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, dims))


def _count_weights(net: nn.Module) -> int:
    """Count the trainable weights and biases of the folded net."""
    return sum(p.numel() for p in fold(net).parameters() if p.requires_grad)
