"""int8 with weights and ranges that were fine-tuned for a net whose training has not learnt them.

The search of `sr_deploy.precision.search_int8` gives the start: channels balanced and ranges chosen on photographs, with
every convolution in int8. A tuner moves weights and ranges towards the result of the fp32 net. It needs torch, so it
comes from `sr_deploy.training.finetune`, and only its protocol is known here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import onnx

from sr_deploy.errors import ModelError
from sr_deploy.precision.crops import CalibrationSet, tuning_pictures
from sr_deploy.precision.effort import SearchEffort
from sr_deploy.precision.learned import LearnedRanges, learned_ranges
from sr_deploy.precision.measure import Distance, LossMeter
from sr_deploy.precision.quantise import to_int8
from sr_deploy.precision.search_int8 import Int8Start, Say, start_int8
from sr_deploy.precision.shuffle import shuffled_by_pixels
from sr_deploy.spec import ModelSpec
from sr_deploy.system.arrays import FloatArray


class Tuner(Protocol):
    """Tunes weights and ranges for int8."""

    @property
    def minutes(self) -> float:
        """Time that tuning takes."""

    def check(self, model: onnx.ModelProto, picture: FloatArray) -> None:
        """Raise UsageError if `model` cannot be tuned; `picture` is an input of it."""

    def tune(
        self,
        start: Int8Start,
        model: onnx.ModelProto,
        spec: ModelSpec,
        pictures: Sequence[FloatArray],
        say: Say,
    ) -> onnx.ModelProto:
        """Return the model of `start` with tuned weights, and with learned ranges in its metadata.

        The target is the result of `model` on `pictures`, which are inputs of it.
        """


@dataclass(frozen=True, kw_only=True)
class TunedInt8:
    """A fine-tuned int8 model."""

    model: onnx.ModelProto
    """The int8 model."""
    start: Int8Start
    """The form that tuning started from."""
    distance: Distance
    """Distance from the fp32 model as it was before tuning, on the crops to measure on."""
    before: Distance
    """Distance of the start from the fp32 model, on the same crops."""


def tuned_int8(
    model: onnx.ModelProto,
    spec: ModelSpec,
    crops: CalibrationSet,
    data: Path,
    tuner: Tuner,
    effort: SearchEffort,
    say: Callable[[str], None],
) -> TunedInt8:
    """Fine-tune `model` for int8 on photographs of `data` that are not measured on. Every convolution becomes int8.

    Raises UsageError, before any work, if the tuner cannot run the model.
    """
    tuner.check(model, crops.calibrate[0].small)
    meter = LossMeter(model, spec, crops.measure)
    start = start_int8(model, meter, crops.calibrate, say=say, effort=effort)
    pictures = tuning_pictures(data, spec, crops.measure, effort.crop_side)
    tuned = shuffled_by_pixels(tuner.tune(start, model, spec, pictures, say))
    learned = _ranges(tuned)
    made = to_int8(tuned, learned.ranges, keep=learned.without, unsigned=learned.unsigned)
    return TunedInt8(
        model=made, start=start, distance=meter.distance(made), before=meter.distance(start.int8)
    )


def _ranges(model: onnx.ModelProto) -> LearnedRanges:
    found = learned_ranges(model)
    if found is None:
        raise ModelError("fine-tuning gave no ranges; convert without --finetune")
    return found
