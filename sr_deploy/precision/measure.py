"""Measure how far a converted model is from the one it was made from, on crops of photographs.

There are two figures. The change of PSNR against the photographs is what a viewer notices. The PSNR between
the two results separates candidates whose first figure is the same. Models are run here, but not changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from sr_deploy.errors import MissingRuntimeError, ModelError, one_line
from sr_deploy.graph.onnx_file import picture_io, require_spec
from sr_deploy.graph.session import open_session
from sr_deploy.precision.crops import CalibrationCrop
from sr_deploy.quality.metrics import psnr
from sr_deploy.spec import ModelSpec
from sr_deploy.system.arrays import FloatArray

_ROUGH_CROPS = 4
"""Number of crops on which candidates are compared with each other."""


@dataclass(frozen=True, kw_only=True)
class Distance:
    """Difference between the results of a model before and after conversion."""

    change: float
    """Change of the mean PSNR against the photographs, in dB; negative is worse. RGB, no border shaved off."""
    fidelity: float
    """PSNR between the results before and after, in dB, at most 200."""


class LossMeter:
    """Measures the distance of other models from `model` on `crops`.

    The results of `model` are computed once. Not thread-safe.
    """

    def __init__(self, model: onnx.ModelProto, spec: ModelSpec, crops: Sequence[CalibrationCrop]) -> None:
        self.spec, self.crops = spec, crops
        self._before = self._results(model, crops)

    def distance(self, model: onnx.ModelProto, *, rough: bool = False) -> Distance:
        """Measure how far `model` is from the one before, on all crops; with `rough`, on the first four only.

        If a result holds NaN or infinity, both figures are minus infinity. Raises ModelError if the model
        cannot be run here.
        """
        crops = self.crops[: _ROUGH_CROPS if rough else None]
        before, after = self._before[: len(crops)], self._results(model, crops)
        if not all(np.isfinite(result).all() for result in after):
            return Distance(change=-np.inf, fidelity=-np.inf)
        error = float(np.mean([np.mean(np.square(a - b)) for a, b in zip(after, before, strict=True)]))
        fidelity = -10 * np.log10(max(error, 1e-20))
        return Distance(change=_mean_psnr(after, crops) - _mean_psnr(before, crops), fidelity=float(fidelity))

    def _results(self, model: onnx.ModelProto, crops: Sequence[CalibrationCrop]) -> list[FloatArray]:
        """Compute [1, H, W, C] in 0..1 for every crop."""
        if (
            require_spec(model, self.spec.name).precision == "bf16"
        ):  # ONNX Runtime has no bf16 convolution for CPUs
            return self._results_in_openvino(model, crops)
        session, port = open_session(model, self.spec.name), picture_io(model)[0]
        try:
            return [self._to_pixels(session.run(None, {port.name: crop.small})[0]) for crop in crops]
        except Exception as error:  # ONNX Runtime's errors share no base class but this one
            raise ModelError(
                f"ONNX Runtime cannot run {self.spec.name} ({one_line(error)}); export it again"
            ) from error

    def _results_in_openvino(
        self, model: onnx.ModelProto, crops: Sequence[CalibrationCrop]
    ) -> list[FloatArray]:
        from sr_deploy.engines.registry import open_engine

        with open_engine(model, "openvino") as engine:  # it has bf16 convolutions on CPUs
            return [np.asarray(engine.run(self._pixels(crop.small)), np.float32) for crop in crops]

    def _to_pixels(self, result: FloatArray) -> FloatArray:
        """Convert from the model's layout and value range to [1, H, W, C], clipped to 0..1."""
        black, white = self.spec.value_range
        last = result if self.spec.layout == "NHWC" else result.transpose(0, 2, 3, 1)
        return np.asarray(np.clip((last.astype(np.float32) - black) / (white - black), 0, 1), np.float32)

    def _pixels(self, small: FloatArray) -> FloatArray:
        """Convert a crop from the model's layout and value range to what an engine takes."""
        return np.ascontiguousarray(self._to_pixels(small))


def _mean_psnr(results: Sequence[FloatArray], crops: Sequence[CalibrationCrop]) -> float:
    """Return the mean PSNR against the photographs in dB; an exact result counts as 200 dB, not infinity."""
    pairs = zip(results, crops, strict=True)
    return float(np.mean([min(psnr(result, crop.large), 200.0) for result, crop in pairs]))


def why_not_measured(precision: str) -> str | None:
    """Say why a model in `precision` cannot be run here, and what to do; None if it can."""
    if precision != "bf16":
        return None
    from sr_deploy.engines.openvino.engine import check_bf16

    try:
        check_bf16()
    except MissingRuntimeError as error:
        return str(error)
    return None
