"""`sr_deploy.export`: any net to ONNX, from Python. Light to import: torch is loaded by the call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sr_deploy.errors import MissingRuntimeError, UsageError, check_path
from sr_deploy.training.anynet.suffixes import install_line

if TYPE_CHECKING:
    from torch import nn

    from sr_deploy.spec import SizeRule
    from sr_deploy.training.export.to_onnx import ExportResult

_PACKAGES = ("torch", "safetensors", "onnxscript")
"""Packages of sr-deploy[train]. If another module cannot be imported, that is a bug and not a missing package."""


def export(
    net: nn.Module | str | Path | Any,
    out: str | Path,
    *,
    name: str | None = None,
    scale: int | None = None,
    channels: int | None = None,
    value_range: tuple[float, float] | None = None,
    bgr: bool = False,
    size_rule: SizeRule | None = None,
    halo: int | Literal["measure"] | None = "measure",
    weights: str | Path | None = None,
    arguments: Mapping[str, Any] | None = None,
    precision: str = "fp32",
    io: str = "float",
    opset: int | None = None,
    data: str | Path | None = None,
    licence: str | None = None,
    tolerance: float | None = None,
    extra_architectures: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> ExportResult:
    """Write any super-resolution or restoration net to the ONNX file `out`, checked against torch.

    Args:
      net: a module, a `torch.export` program, a checkpoint that spandrel knows or `sr-deploy train` wrote, "openmodeldb:NAME", a .pt2
        file, "package.module:factory", or the path of a .py file. Code is run only if it is named so.
      out: path to write; an existing file is replaced.
      name: name of the model; default: that of the file or class.
      scale: output pixels per input pixel; this and the following are measured where they are not given.
      channels: 3 or 1.
      value_range: the numbers that stand for black and white.
      size_rule: the sizes that the net takes.
      halo: halo in input pixels; None says that the net sees the whole picture.
      bgr: the net takes and gives blue, green, red.
      weights: file with the state dict for a net that a factory makes.
      arguments: keyword arguments of a factory.
      precision: "fp32", "fp16", "bf16" or "int8".
      io: "float" (NCHW in the net's value range) or "uint8" (NHWC pixels).
      opset: opset of ONNX; default: the one that every runtime reads.
      data: folder of photographs for the check and for the calibration of int8.
      licence: licence of the weights, an SPDX identifier.
      tolerance: largest difference from torch, where 1 is full scale; default 1e-3 (1e-4 for nets of `sr-deploy train`).
      extra_architectures: also use spandrel-extra-arches; read the licences of its architectures.
      say: called with a line for each step.

    Returns what was written: path, spec, exporter, parity, and what was tried. Raises InputError, UsageError, ModelError,
    CheckFailedError, OutputError and MissingRuntimeError; each message is one line that says what to do.
    """
    check_path("out", out)
    if not (isinstance(net, (str, Path)) or callable(net) or hasattr(net, "graph_signature")):
        raise UsageError(
            f"export takes a torch.nn.Module, a torch.export program or the path of a checkpoint, got {type(net).__name__}"
        )
    try:
        from sr_deploy.training.anynet.exporting import export_anything
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in _PACKAGES:
            raise
        raise MissingRuntimeError(
            f"exporting needs {error.name}, which is not installed; {install_line(net)}"
        ) from error
    from sr_deploy.training.anynet.modules import StatedFacts

    stated = StatedFacts(
        name=name,
        scale=scale,
        channels=channels,
        value_range=value_range,
        bgr=bgr,
        rule=size_rule,
        halo=halo,
        weights=Path(weights) if weights is not None else None,
        arguments=dict(arguments or {}),
    )
    return export_anything(
        net,
        Path(out),
        stated,
        precision=precision,
        io=io,
        opset=opset,
        data=Path(data) if data is not None else None,
        licence=licence,
        tolerance=tolerance,
        extra=extra_architectures,
        say=say,
    )
