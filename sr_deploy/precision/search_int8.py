"""Find the int8 form of a model that is closest to it, by measuring: how far to balance channels, which way to
choose ranges, which convolutions to leave in fp32.

Every candidate is run on photographs that it was not calibrated on. The first convolution, and others where the
tolerance asks for it, are kept in fp32, those first that gain most for what they cost.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from sr_deploy.graph.nodes import constants_of
from sr_deploy.precision.calibrate import METHODS, Magnitudes, choose_ranges, measure, observe
from sr_deploy.precision.crops import CalibrationCrop
from sr_deploy.precision.equalise import equalised, find_links
from sr_deploy.precision.measure import Distance, LossMeter
from sr_deploy.precision.quantise import quantisable, quantised_inputs, to_int8

STRENGTHS = (0.0, 0.5, 0.75, 1.0)
"""How far channels are balanced, see `equalised`."""
_CHEAP_SHARE = 0.04  # of the time: what may be kept in fp32 for any gain
_READ_COST = 100
_LEAST_GAIN = 0.2  # dB of fidelity: less is no gain

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One int8 form of a model."""

    model: onnx.ModelProto
    strength: float
    method: str
    kept: tuple[str, ...]
    """The convolutions in fp32, by the names of their results."""
    distance: Distance


@dataclass(frozen=True)
class _Balanced:
    """The model with its channels balanced, and how large its values get."""

    model: onnx.ModelProto
    strength: float
    magnitudes: Mapping[str, Magnitudes]


def best_int8(
    model: onnx.ModelProto, meter: LossMeter, crops: Sequence[CalibrationCrop], *, target: float, say: Say
) -> Candidate:
    """The fastest int8 form of `model` that changes PSNR by at most `target` dB; else the closest one found.

    `crops` are those to calibrate on. Raises ModelError for a model that has nothing to quantise or cannot
    be run.
    """
    pictures = [crop.small for crop in crops]
    best, base = _best_ranges(model, meter, pictures, say)
    cost = costs_of(model, pictures[0])
    first = next(iter(cost))
    if cost[first] <= _CHEAP_SHARE:
        better = _keep_more(base, meter, best, {first})
        best = better if better.distance.fidelity >= best.distance.fidelity + _LEAST_GAIN else best
    best = _measured_fully(best, meter)
    if -best.distance.change <= target:
        return best
    say(f"{best.distance.change:+.3f} dB; looking for convolutions to keep in fp32")
    return _keep_until_target(best, base, meter, cost, target)


def _best_ranges(
    model: onnx.ModelProto, meter: LossMeter, pictures: Sequence[Any], say: Say
) -> tuple[Candidate, _Balanced]:
    """The best of every way to balance and to choose ranges, with all convolutions in int8."""
    found: list[tuple[Candidate, _Balanced]] = []
    for strength in STRENGTHS if find_links(model) else STRENGTHS[:1]:
        balanced = equalised(model, pictures, strength=strength) if strength else model
        base = _Balanced(balanced, strength, measure(balanced, quantised_inputs(balanced).values(), pictures))
        for method in METHODS:
            found.append((_candidate(base, meter, method, set()), base))
        say(f"calibrated with channels balanced by {strength:g}")
    return max(found, key=lambda pair: pair[0].distance.fidelity)


def _candidate(base: _Balanced, meter: LossMeter, method: str, keep: set[str]) -> Candidate:
    model = to_int8(base.model, choose_ranges(base.magnitudes, method), keep=keep)
    kept = tuple(name for name in quantisable(base.model) if name in keep)
    return Candidate(
        model=model,
        strength=base.strength,
        method=method,
        kept=kept,
        distance=meter.distance(model, rough=True),
    )


def _keep_more(base: _Balanced, meter: LossMeter, best: Candidate, more: set[str]) -> Candidate:
    return _candidate(base, meter, best.method, {*best.kept, *more})


def _keep_until_target(
    best: Candidate, base: _Balanced, meter: LossMeter, cost: Mapping[str, float], target: float
) -> Candidate:
    """Keep one convolution after the other, those first that gain most for what they cost."""
    rough = _keep_more(base, meter, best, set())
    rest = [name for name in cost if name not in best.kept]
    gains = {name: _gain(rough, _keep_more(base, meter, best, {name})) / cost[name] for name in rest}
    for name in sorted(rest, key=lambda name: -gains[name])[: len(rest) - 1]:
        better = _measured_fully(_keep_more(base, meter, best, {name}), meter)
        if better.distance.fidelity > best.distance.fidelity:
            best = better
        if -best.distance.change <= target:
            break
    return best


def _measured_fully(found: Candidate, meter: LossMeter) -> Candidate:
    """`found` with its distance on all crops."""
    return replace(found, distance=meter.distance(found.model))


def _gain(before: Candidate, after: Candidate) -> float:
    """Of squared error, as a share of what there was."""
    return float(1 - 10 ** ((before.distance.fidelity - after.distance.fidelity) / 10))


def costs_of(model: onnx.ModelProto, picture: Any) -> dict[str, float]:
    """Of every quantisable convolution, by the name of its result: its share of the time all of them take.

    Multiplications, and what it reads in values, each of which costs as much as `_READ_COST` of them.
    """
    names, constants = quantisable(model), constants_of(model)
    weights = {node.output[0]: node.input[1] for node in model.graph.node if node.op_type == "Conv"}
    work: dict[str, float] = {}

    def count(name: str, value: npt.NDArray[Any]) -> None:
        dims = constants[weights[name]].dims
        work[name] = float(np.prod(dims) + _READ_COST * dims[1]) * value[0, 0].size

    observe(model, names, [picture], count)
    total = sum(work.values())
    return {name: work[name] / total for name in names}
