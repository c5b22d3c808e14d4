"""A checkpoint as a reference for `verify`: torch's result for 8-bit pixels, and the graph to export."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from sr_deploy.spec import ModelSpec
from sr_deploy.system.arrays import FloatArray, Uint8Array
from sr_deploy.training.checkpoint import find_checkpoint, load_net
from sr_deploy.training.export.to_onnx import core_model, spec_of
from sr_deploy.verify.forms import ModelForm
from sr_deploy.verify.plain import mirrored


def open_checkpoint(path: Path) -> ModelForm:
    """Open the net of a checkpoint, or of the folder of a run, in fp32.

    Raises InputError for a file that is not a checkpoint, MissingRuntimeError without onnxscript.
    """
    found = find_checkpoint(path)
    net, info = load_net(found)
    spec = spec_of(net, info, found)
    return ModelForm(
        name=str(path),
        spec=spec,
        plain=lambda pixels: _run_net(net, spec, pixels),
        plain_backend="torch",
        load_graph=lambda: core_model(net, spec),
    )


def _run_net(net: nn.Module, spec: ModelSpec, pixels: Uint8Array) -> FloatArray:
    """Run `net` on [h, w, C]. Returns [h * scale, w * scale, C], nominally 0..1, not clipped."""
    height, width = pixels.shape[:2]
    padded = mirrored(pixels, spec.size_rule)
    tensor = torch.from_numpy(padded.transpose(2, 0, 1)[None] / np.float32(255))
    with torch.inference_mode():
        result: FloatArray = net(tensor)[0].numpy().transpose(1, 2, 0)
    return np.ascontiguousarray(result[: height * spec.scale, : width * spec.scale])
