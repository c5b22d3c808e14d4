"""Find the int8 form of a model that is closest to it, by measuring candidates.

Three things are searched: how far channels are balanced, how ranges are chosen, and which convolutions stay
in fp32. Every candidate is run on photographs that it was not calibrated on. The first convolution stays in
fp32 if that helps. If the tolerance is still exceeded, others follow, in the order of gain per cost.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx

from sr_deploy.graph.nodes import constants_of
from sr_deploy.precision.calibrate import METHODS, Magnitudes, choose_ranges, measure, observe
from sr_deploy.precision.crops import CalibrationCrop
from sr_deploy.precision.equalise import equalised, find_links
from sr_deploy.precision.measure import Distance, LossMeter
from sr_deploy.precision.quantise import quantisable, quantised_inputs, to_int8
from sr_deploy.system.arrays import AnyArray

STRENGTHS = (0.0, 0.5, 0.75, 1.0)
"""Strengths with which channels are balanced, see `equalised`."""
_CHEAP_SHARE = 0.04
"""Share of the time of all convolutions, below which the first one may stay in fp32 for a small gain."""
_READ_COST = 100
"""Cost of reading one value, in multiplications: see `costs_of`."""
_LEAST_GAIN = 0.2
"""Gain of fidelity in dB for which the first convolution stays in fp32."""

Say = Callable[[str], None]
"""Function that shows one line of progress."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One int8 form of a model."""

    model: onnx.ModelProto
    """The int8 model."""
    strength: float
    """Strength with which its channels were balanced, 0..1."""
    method: str
    """Method that chose its ranges, one of `METHODS`."""
    kept: tuple[str, ...]
    """Convolutions in fp32, by the names of their results."""
    distance: Distance
    """Distance from the fp32 model."""


@dataclass(frozen=True)
class _Balanced:
    """An fp32 model with balanced channels, and the magnitudes of its values."""

    model: onnx.ModelProto
    """The fp32 model."""
    strength: float
    """Strength with which its channels were balanced, 0..1."""
    magnitudes: Mapping[str, Magnitudes]
    """Name of a value that is quantised -> histogram of its magnitudes."""


def best_int8(
    model: onnx.ModelProto, meter: LossMeter, crops: Sequence[CalibrationCrop], *, target: float, say: Say
) -> Candidate:
    """Return the fastest int8 form of `model` that lowers PSNR by at most `target` dB. If none does, it is
    the closest one found. `meter` compares candidates with `model`; `crops` are those to calibrate on; `say`
    gets progress lines. Raises ModelError for a model that cannot be run or has nothing to quantise."""
    pictures = [crop.small for crop in crops]
    best, base = _best_ranges(model, meter, pictures, say)
    cost = costs_of(model, pictures[0])
    first = next(iter(cost))
    # it reads pixels, of which symmetric int8 keeps 7 bits of 8
    if cost[first] <= _CHEAP_SHARE:
        better = _keep_more(base, meter, best, {first})
        best = better if better.distance.fidelity >= best.distance.fidelity + _LEAST_GAIN else best
    best = _measured_fully(best, meter)
    if -best.distance.change <= target:
        return best
    say(f"PSNR changes by {best.distance.change:+.3f} dB; looking for convolutions to keep in fp32")
    return _keep_until_target(best, base, meter, cost, target)


def _best_ranges(
    model: onnx.ModelProto, meter: LossMeter, pictures: Sequence[Any], say: Say
) -> tuple[Candidate, _Balanced]:
    """Try every strength and every method, with all convolutions in int8, and return the best candidate."""
    found: list[tuple[Candidate, _Balanced]] = []
    for strength in STRENGTHS if find_links(model) else STRENGTHS[:1]:
        balanced = equalised(model, pictures, strength=strength) if strength else model
        base = _Balanced(balanced, strength, measure(balanced, quantised_inputs(balanced).values(), pictures))
        for method in METHODS:
            found.append((_candidate(base, meter, method, set()), base))
        say(f"calibrated with channels balanced by {strength:g}")
    return max(found, key=lambda pair: pair[0].distance.fidelity)


def _candidate(base: _Balanced, meter: LossMeter, method: str, keep: set[str]) -> Candidate:
    """Make one candidate and measure it roughly, on a few crops."""
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
    """Make `best` again with more convolutions in fp32."""
    return _candidate(base, meter, best.method, {*best.kept, *more})


def _keep_until_target(
    best: Candidate, base: _Balanced, meter: LossMeter, cost: Mapping[str, float], target: float
) -> Candidate:
    """Keep one convolution after another in fp32, in the order of gain per cost, until the target is met.

    At least one convolution stays in int8.
    """
    # on the same few crops as the candidates it is compared with
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
    """Return `found` with its distance on all crops."""
    return replace(found, distance=meter.distance(found.model))


def _gain(before: Candidate, after: Candidate) -> float:
    """Return the share of the squared error that `after` removes from `before`."""
    return float(1 - 10 ** ((before.distance.fidelity - after.distance.fidelity) / 10))


def costs_of(model: onnx.ModelProto, picture: Any) -> dict[str, float]:
    """Estimate the share of the time that each quantisable convolution takes: name of its result -> 0..1.

    The estimate counts multiplications and the values that are read, each of which costs as much as
    `_READ_COST` multiplications. `picture` is one input of the model; it gives the sizes.
    """
    names, constants = quantisable(model), constants_of(model)
    weights = {node.output[0]: node.input[1] for node in model.graph.node if node.op_type == "Conv"}
    work: dict[str, float] = {}

    def count(name: str, value: AnyArray) -> None:
        dims = constants[weights[name]].dims
        work[name] = float(np.prod(dims) + _READ_COST * dims[1]) * value[0, 0].size

    observe(model, names, [picture], count)
    total = sum(work.values())
    return {name: work[name] / total for name in names}
