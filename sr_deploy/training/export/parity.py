"""Compare an exported model in ONNX Runtime with its net in torch, on crops of real pictures.

The result says how large the largest difference is and where. This module does not export and writes no file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn

from sr_deploy.errors import CheckFailedError, InputError, MissingRuntimeError, ModelError
from sr_deploy.graph.runnable import exact_int8_settings
from sr_deploy.quality.dead_leaves import dead_leaves
from sr_deploy.spec import ModelSpec
from sr_deploy.system.arrays import FloatArray, Uint8Array
from sr_deploy.training.data.pictures import decode, list_pictures

CROPS = ((64, 64), (37, 53), (53, 37), (96, 17), (17, 96), (5, 7), (1, 3))
"""(height, width) of the crops that are compared: square, odd, long, and smaller than any halo."""

TOLERANCES = {"fp32": 1e-4, "fp16": 1 / 255}
"""Largest difference allowed to a float output, where 1 is full scale.

In half precision it is one 8-bit step.
"""

_ROUNDING = 0.5 / 255  # largest distance of a uint8 output from the value it was rounded from
_MAX_PICTURES = 8


@dataclass(frozen=True)
class CropSource:
    """A picture to cut crops from: RGB uint8 [H, W, 3]."""

    name: str
    pixels: Uint8Array


@dataclass(frozen=True, kw_only=True)
class CropReference:
    """A crop, and what the net makes of it in torch."""

    picture: str
    """Name of the picture."""
    crop: tuple[int, int, int, int]
    """Top, left, height and width of the crop in the picture."""
    pixels: Uint8Array
    """The crop, padded to a size that the size rule allows: [1, h, w, C]."""
    wanted: FloatArray
    """The net's result, [1, C, H, W], where 0 is black and 1 is white; not clipped."""
    full_scale: float = 1.0
    """Differences are divided by it. It is more than 1 for a net whose results go far beyond white."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The largest difference between net and model, where 1 is full scale, and its position."""

    value: float
    picture: str
    """Name of the picture."""
    crop: tuple[int, int, int, int]
    """Top, left, height and width of the crop in the picture."""
    position: tuple[int, int]
    """Row and column in the upscaled crop."""
    channel: str
    """"R", "G" or "B", or "Y" for a net of one channel."""

    def __str__(self) -> str:
        top, left, height, width = self.crop
        row, column = self.position
        return (
            f"{self.value:.2e} of full scale ({self.value * 255:.3f} steps of 8 bits) in {self.picture}, "
            f"crop {width}x{height} at ({left}, {top}), output pixel ({column}, {row}), channel {self.channel}"
        )


@dataclass(frozen=True, kw_only=True)
class Parity:
    """Result of a comparison."""

    largest: Difference
    tolerance: float
    """Largest difference allowed, where 1 is full scale."""
    crops: int
    """Number of crops compared."""

    @property
    def passed(self) -> bool:
        """True if the difference is within the tolerance. A difference that is not a number fails."""
        return self.largest.value <= self.tolerance


def check_pictures(folder: Path | None) -> list[CropSource]:
    """Return up to eight pictures of `folder`, spread evenly, or two synthetic ones where `folder` is None.

    Raises InputError for a folder without pictures, ImageError for a picture that cannot be read.
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
    """Run every crop of every picture through net and model. The model may have float or uint8 pixels.

    Crops are padded to sizes that the model's size rule allows. For a model with uint8 output the net's
    result is clipped but not rounded, and the half step that rounding may add is not counted as a difference.
    """
    return compare_crops(run_crops(net, spec, pictures), model, spec)


def run_crops(
    net: nn.Module,
    spec: ModelSpec,
    pictures: Sequence[CropSource],
    sizes: Sequence[tuple[int, int]] = CROPS,
    *,
    own_scale: bool = False,
) -> list[CropReference]:
    """Run crops of every picture through the net, so that several models can be compared with the results.

    `sizes` are (height, width) of the crops. With `own_scale`, full scale is the range of a result where that
    is larger than from black to white: nets with random weights leave 0..1 far behind.
    """
    random = np.random.default_rng(0)
    references = []
    for picture in pictures:
        for size in sizes:
            crop = _random_crop(picture.pixels, size, random)
            small = _padded(_cut(picture.pixels, crop, spec.channels), spec)
            if own_scale:  # a small picture cannot give a large crop, but its mirror can
                small = _enlarged(small, spec.size_rule.padded(*_within(spec, size)))
            wanted = _run_net(net, small, spec.value_range)
            full_scale = max(1.0, float(np.ptp(wanted))) if own_scale else 1.0
            references.append(
                CropReference(
                    picture=picture.name, crop=crop, pixels=small, wanted=wanted, full_scale=full_scale
                )
            )
    return references


def compare_crops(
    references: Sequence[CropReference],
    model: onnx.ModelProto,
    spec: ModelSpec,
    tolerance: float | None = None,
) -> Parity:
    """Run the crops through the model and compare; `tolerance` None means that of the spec's precision."""
    session = _open_session(model)
    as_bytes = session.get_inputs()[0].type == "tensor(uint8)"
    worst: Difference | None = None
    for reference in references:
        got = _run_model(session, reference.pixels, as_bytes, spec.value_range)
        found = _largest_difference(reference, got, as_bytes)
        if worst is None or not found.value <= worst.value:
            worst = found
    if worst is None:
        raise InputError("a comparison needs at least one picture, got none; name a folder with pictures")
    limit = TOLERANCES[spec.precision] if tolerance is None else tolerance
    return Parity(largest=worst, tolerance=limit, crops=len(references))


def check_parity(
    net: nn.Module, model: onnx.ModelProto, spec: ModelSpec, pictures: Sequence[CropSource]
) -> Parity:
    """Call `compare`, and raise CheckFailedError that says how much and where, if the tolerance is exceeded."""
    return require_parity(compare(net, model, spec, pictures), spec)


def require_parity(parity: Parity, spec: ModelSpec) -> Parity:
    """Return `parity`. Raises CheckFailedError that says how much and where, if the tolerance is exceeded."""
    if not parity.passed:
        raise CheckFailedError(
            f"{spec.name}: ONNX Runtime differs from torch by {parity.largest}; expected at most "
            f"{parity.tolerance:.1e} in {spec.precision}; export with another --opset or --precision, or report this"
        )
    return parity


def _open_session(model: onnx.ModelProto) -> Any:
    """Open `model` in ONNX Runtime on the CPU.

    Raises MissingRuntimeError where ONNX Runtime is not installed, ModelError where it refuses the model.
    """
    try:
        import onnxruntime  # type: ignore[import-untyped, unused-ignore]
    except ImportError as error:
        raise MissingRuntimeError(
            'checking an export needs ONNX Runtime, which is not installed; pip install "sr-deploy[cpu]"'
        ) from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = (
        4  # a failure is raised as well; its log line would be printed beside the error
    )
    for key, value in exact_int8_settings().items():
        options.add_session_config_entry(key, value)
    try:
        return onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # ONNX Runtime's errors have no narrower common base class
        reason = " ".join(str(error).split())
        raise ModelError(
            f"the exported model does not load in ONNX Runtime {onnxruntime.__version__} ({reason}); "
            "export with a lower --opset or install a newer onnxruntime"
        ) from error


def _random_crop(
    pixels: Uint8Array, size: tuple[int, int], random: np.random.Generator
) -> tuple[int, int, int, int]:
    """Return top, left, height and width of a random crop of `size`, limited to the size of the picture."""
    height, width = (min(a, b) for a, b in zip(size, pixels.shape[:2], strict=True))
    top, left = (
        int(random.integers(n - m + 1)) for n, m in zip(pixels.shape[:2], (height, width), strict=True)
    )
    return top, left, height, width


def _cut(pixels: Uint8Array, crop: tuple[int, int, int, int], channels: int) -> Uint8Array:
    """Return the crop as [1, h, w, channels]; a net of one channel gets the green one."""
    top, left, height, width = crop
    cut = pixels[top : top + height, left : left + width]
    return np.ascontiguousarray((cut if channels == 3 else cut[..., 1:2])[None])


def _padded(small: Uint8Array, spec: ModelSpec) -> Uint8Array:
    """Mirror [1, h, w, C] at its bottom and right, up to the next size that the size rule allows."""
    height, width = small.shape[1:3]
    tall, wide = spec.size_rule.padded(height, width)
    return np.pad(small, ((0, 0), (0, tall - height), (0, wide - width), (0, 0)), mode="symmetric")


def _within(spec: ModelSpec, size: tuple[int, int]) -> tuple[int, int]:
    """Return `size`, or the fixed size of the model."""
    return spec.size_rule.fixed or size


def _enlarged(small: Uint8Array, size: tuple[int, int]) -> Uint8Array:
    """Mirror [1, h, w, C] at its bottom and right, as often as needed to fill `size`."""
    extra = [max(wanted - found, 0) for wanted, found in zip(size, small.shape[1:3], strict=True)]
    return np.pad(small, ((0, 0), (0, extra[0]), (0, extra[1]), (0, 0)), mode="symmetric")


def _to_float(small: Uint8Array, value_range: tuple[float, float]) -> FloatArray:
    """Convert uint8 [1, h, w, C] to float32 [1, C, h, w] in the value range."""
    low, high = value_range
    unit = np.asarray(np.ascontiguousarray(small.transpose(0, 3, 1, 2)) / np.float32(255), np.float32)
    return unit if (low, high) == (0.0, 1.0) else np.asarray(low + unit * (high - low), np.float32)


def _to_unit(values: FloatArray, value_range: tuple[float, float]) -> FloatArray:
    """Convert values in the value range to values where 0 is black and 1 is white."""
    low, high = value_range
    return values if (low, high) == (0.0, 1.0) else np.asarray((values - low) / (high - low), np.float32)


def _run_net(net: nn.Module, small: Uint8Array, value_range: tuple[float, float]) -> FloatArray:
    """Run the net. Returns [1, C, H, W], nominally 0..1, not clipped."""
    with torch.inference_mode():
        result: FloatArray = net(torch.from_numpy(_to_float(small, value_range))).float().numpy()
    return _to_unit(result, value_range)


def _run_model(
    session: Any, small: Uint8Array, as_bytes: bool, value_range: tuple[float, float]
) -> FloatArray:
    """Run the model in ONNX Runtime. Returns float32 [1, C, H, W], nominally 0..1, whatever its pixel format."""
    port = session.get_inputs()[0]
    if as_bytes:
        result = session.run(None, {port.name: small})[0].transpose(0, 3, 1, 2) / np.float32(255)
        return np.asarray(result, np.float32)
    dtype = np.float16 if port.type == "tensor(float16)" else np.float32
    result = session.run(None, {port.name: _to_float(small, value_range).astype(dtype)})[0]
    return _to_unit(np.asarray(result, np.float32), value_range)


def _largest_difference(reference: CropReference, got: FloatArray, rounded: bool) -> Difference:
    """Find the largest difference. `rounded` says that `got` was rounded to 8 bits.

    Raises CheckFailedError where the shapes differ.
    """
    wanted = reference.wanted
    if wanted.shape != got.shape:
        raise CheckFailedError(
            f"the exported model gives {got.shape} for a crop of {reference.picture}, torch gives {wanted.shape}; report this"
        )
    error = np.abs((np.clip(wanted, 0, 1) if rounded else wanted).astype(np.float64) - got)
    if rounded:
        error = np.maximum(error - _ROUNDING, 0)
    error = np.where(np.isnan(error), np.inf, error) / reference.full_scale
    _, channel, row, column = (int(i) for i in np.unravel_index(int(error.argmax()), error.shape))
    return Difference(
        value=float(error.max()),
        picture=reference.picture,
        crop=reference.crop,
        position=(row, column),
        channel="RGB"[channel] if wanted.shape[1] == 3 else "Y",
    )
