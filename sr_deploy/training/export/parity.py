"""Does an exported model compute what the net computes? ONNX Runtime against torch, on real crops.

Compares pixels and says where they differ most. It does not export, and writes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import nn

from sr_deploy.errors import CheckFailedError, InputError, MissingRuntimeError, ModelError
from sr_deploy.graph.runnable import EXACT_INT8
from sr_deploy.quality.dead_leaves import dead_leaves
from sr_deploy.spec import ModelSpec
from sr_deploy.training.data.pictures import decode, list_pictures

CROPS = ((64, 64), (37, 53), (53, 37), (96, 17), (17, 96), (5, 7), (1, 3))
"""Heights and widths compared: square, odd, long, and smaller than any receptive field."""

TOLERANCES = {"fp32": 1e-4, "fp16": 1 / 255}
"""Largest difference allowed to a float output, 1 being full scale: one step of 8 bits in half precision."""

_ROUNDING = 0.5 / 255  # how far a uint8 output may be from what it rounds
_MAX_PICTURES = 8

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class CropSource:
    """A picture to cut crops from: RGB uint8 [H, W, 3]."""

    name: str
    pixels: Pixels


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The largest difference between net and model, 1 being full scale, and where it is."""

    value: float
    picture: str
    crop: tuple[int, int, int, int]
    """Top, left, height, width of the crop in the picture."""
    position: tuple[int, int]
    """Row and column in the upscaled crop."""
    channel: str

    def __str__(self) -> str:
        top, left, height, width = self.crop
        row, column = self.position
        return (
            f"{self.value:.2e} of full scale ({self.value * 255:.3f} steps of 8 bits) in {self.picture}, "
            f"crop {width}x{height} at ({left}, {top}), output pixel ({column}, {row}), channel {self.channel}"
        )


@dataclass(frozen=True, kw_only=True)
class Parity:
    """What a comparison found."""

    largest: Difference
    tolerance: float
    crops: int

    @property
    def passed(self) -> bool:
        """False too where the difference is not a number."""
        return self.largest.value <= self.tolerance


def check_pictures(folder: Path | None) -> list[CropSource]:
    """Up to eight pictures of `folder`, spread over it; two made ones without it.

    Raises InputError for a folder without pictures, ImageError for one that cannot be read.
    """
    if folder is None:
        return [CropSource(f"dead-leaves-{seed}", dead_leaves(128, 160, seed=seed)) for seed in (0, 1)]
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; point --data at a folder of photographs")
    paths = list_pictures(folder)
    chosen = paths[:: -(-len(paths) // _MAX_PICTURES)]
    return [CropSource(path.name, decode(path)) for path in chosen]


def compare(
    net: nn.Module, model: onnx.ModelProto, spec: ModelSpec, pictures: Sequence[CropSource]
) -> Parity:
    """Run every crop of every picture through both. The model may have float or uint8 pixels.

    Sizes the model's rule does not allow are padded first. Against uint8 output the net's
    own is clipped, not rounded, and what rounding to nearest may add counts for nothing.
    """
    session = _open_session(model)
    as_bytes = session.get_inputs()[0].type == "tensor(uint8)"
    random = np.random.default_rng(0)
    worst: Difference | None = None
    count = 0
    for picture in pictures:
        for size in CROPS:
            crop = _random_crop(picture.pixels, size, random)
            small = _padded(_cut(picture.pixels, crop, spec.channels), spec)
            wanted = _run_net(net, small)
            got = _run_model(session, small, as_bytes)
            found = _largest_difference(wanted, got, as_bytes, picture.name, crop)
            count += 1
            if worst is None or not found.value <= worst.value:
                worst = found
    if worst is None:
        raise InputError("a comparison needs at least one picture, got none; give some")
    return Parity(largest=worst, tolerance=TOLERANCES[spec.precision], crops=count)


def check_parity(
    net: nn.Module, model: onnx.ModelProto, spec: ModelSpec, pictures: Sequence[CropSource]
) -> Parity:
    """`compare`, and raise CheckFailedError saying by how much and where, when the tolerance is missed."""
    parity = compare(net, model, spec, pictures)
    if not parity.passed:
        raise CheckFailedError(
            f"{spec.name}: ONNX Runtime differs from torch by {parity.largest}; expected at most "
            f"{parity.tolerance:.1e} in {spec.precision}; export with another --opset or --precision, or report this"
        )
    return parity


def _open_session(model: onnx.ModelProto) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingRuntimeError(
            'checking an export needs ONNX Runtime, which is not installed; pip install "sr-deploy[cpu]"'
        ) from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry(*EXACT_INT8)
    try:
        return onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # ONNX Runtime's errors share no base class but this one
        reason = " ".join(str(error).split())
        raise ModelError(
            f"the exported model does not load in ONNX Runtime {onnxruntime.__version__} ({reason}); "
            "export with a lower --opset or install a newer onnxruntime"
        ) from error


def _random_crop(
    pixels: Pixels, size: tuple[int, int], random: np.random.Generator
) -> tuple[int, int, int, int]:
    """Where a crop of `size` lies: top, left, height, width; smaller where the picture is."""
    height, width = (min(a, b) for a, b in zip(size, pixels.shape[:2], strict=True))
    top, left = (
        int(random.integers(n - m + 1)) for n, m in zip(pixels.shape[:2], (height, width), strict=True)
    )
    return top, left, height, width


def _cut(pixels: Pixels, crop: tuple[int, int, int, int], channels: int) -> Pixels:
    """The crop [1, h, w, channels]; the green channel stands in for grey."""
    top, left, height, width = crop
    cut = pixels[top : top + height, left : left + width]
    return np.ascontiguousarray((cut if channels == 3 else cut[..., 1:2])[None])


def _padded(small: Pixels, spec: ModelSpec) -> Pixels:
    height, width = small.shape[1:3]
    tall, wide = spec.size_rule.padded(height, width)
    return np.pad(small, ((0, 0), (0, tall - height), (0, wide - width), (0, 0)), mode="symmetric")


def _to_float(small: Pixels) -> Floats:
    return np.asarray(np.ascontiguousarray(small.transpose(0, 3, 1, 2)) / np.float32(255), np.float32)


def _run_net(net: nn.Module, small: Pixels) -> Floats:
    """[1, C, H, W] in 0..1, unclipped."""
    with torch.inference_mode():
        result: Floats = net(torch.from_numpy(_to_float(small))).numpy()
    return result


def _run_model(session: Any, small: Pixels, as_bytes: bool) -> Floats:
    """The same of the model, whatever its pixels."""
    port = session.get_inputs()[0]
    if as_bytes:
        result = session.run(None, {port.name: small})[0].transpose(0, 3, 1, 2) / np.float32(255)
    else:
        dtype = np.float16 if port.type == "tensor(float16)" else np.float32
        result = session.run(None, {port.name: _to_float(small).astype(dtype)})[0]
    return np.asarray(result, np.float32)


def _largest_difference(
    wanted: Floats, got: Floats, rounded: bool, name: str, crop: tuple[int, int, int, int]
) -> Difference:
    if wanted.shape != got.shape:
        raise CheckFailedError(
            f"the exported model gives {got.shape} for a crop of {name}, torch gives {wanted.shape}; report this"
        )
    error = np.abs((np.clip(wanted, 0, 1) if rounded else wanted).astype(np.float64) - got)
    if rounded:
        error = np.maximum(error - _ROUNDING, 0)
    error = np.where(np.isnan(error), np.inf, error)
    _, channel, row, column = (int(i) for i in np.unravel_index(int(error.argmax()), error.shape))
    return Difference(
        value=float(error.max()),
        picture=name,
        crop=crop,
        position=(row, column),
        channel="RGB"[channel] if wanted.shape[1] == 3 else "Y",
    )
