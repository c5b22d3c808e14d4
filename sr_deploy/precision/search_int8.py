"""Find the int8 form of a model that is closest to it, by measuring candidates.

Three things are searched: how far channels are balanced, how ranges are chosen, and which convolutions stay
in fp32. Every candidate is run on photographs that it was not calibrated on. The first convolution stays in
fp32 if that helps. If the tolerance is still exceeded, others follow, in the order of gain per cost: as few as meet
the tolerance, found by bisection. Of these, the ones that turn out not to be needed go back to int8, so that the
tolerance is used up.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from sr_deploy.graph.nodes import constants_of
from sr_deploy.graph.rewrites.int8_form import never_negative
from sr_deploy.precision.calibrate import (
    METHODS,
    Magnitudes,
    choose_ranges,
    measure,
    observe,
    relative_error,
)
from sr_deploy.precision.crops import CalibrationCrop
from sr_deploy.precision.effort import FULL, SearchEffort
from sr_deploy.precision.equalise import equalised, find_links
from sr_deploy.precision.measure import Distance, LossMeter
from sr_deploy.precision.quantise import (
    quantisable,
    quantised_inputs,
    rounded_weights,
    to_int8,
    weight_scales,
)
from sr_deploy.system.arrays import AnyArray

_CHEAP_SHARE = 0.04
"""Share of the time of all convolutions, below which the first one may stay in fp32 for a small gain."""
_READ_COST = 100
"""Cost of reading one value, in multiplications: see `costs_of`."""
_LEAST_GAIN = 0.2
"""Gain of fidelity in dB for which the first convolution stays in fp32."""
_MOST_RETURNS = 12
"""Maximum number of kept convolutions that are tried in int8 again, the slowest first."""

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


@dataclass(frozen=True, kw_only=True)
class Int8Start:
    """The best form with every convolution in int8, from which weights and ranges can be tuned."""

    model: onnx.ModelProto
    """The fp32 model with balanced channels."""
    int8: onnx.ModelProto
    """Its int8 form."""
    strength: float
    """Strength with which its channels were balanced, 0..1."""
    ranges: Mapping[str, float]
    """Value that is quantised -> magnitude that its last step stands for."""
    unsigned: frozenset[str]
    """Values that are never negative."""


def start_int8(
    model: onnx.ModelProto,
    meter: LossMeter,
    crops: Sequence[CalibrationCrop],
    *,
    say: Say,
    effort: SearchEffort = FULL,
) -> Int8Start:
    """Return the closest int8 form of `model` in which no convolution stays in fp32. The arguments are those of
    `best_int8`, and so are the errors."""
    best, base = _best_ranges(model, meter, [crop.small for crop in crops], say, effort)
    return Int8Start(
        model=base.model,
        int8=best.model,
        strength=base.strength,
        ranges=choose_ranges(base.magnitudes, best.method),
        unsigned=never_negative(base.model),
    )


def best_int8(
    model: onnx.ModelProto,
    meter: LossMeter,
    crops: Sequence[CalibrationCrop],
    *,
    target: float,
    say: Say,
    effort: SearchEffort = FULL,
) -> Candidate:
    """Return the fastest int8 form of `model` that lowers PSNR by at most `target` dB. If none does, it is
    the closest one found. `meter` compares candidates with `model`; `crops` are those to calibrate on; `say`
    gets progress lines; `effort` limits the search. Raises ModelError for a model that cannot be run or has nothing to quantise."""
    pictures = [crop.small for crop in crops]
    best, base = _best_ranges(model, meter, pictures, say, effort)
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
    ranked = _ranked_by_gain(best, base, meter, cost, effort, say)
    return _keep_until_target(best, base, meter, ranked, cost, target, say)


def _best_ranges(
    model: onnx.ModelProto, meter: LossMeter, pictures: Sequence[Any], say: Say, effort: SearchEffort
) -> tuple[Candidate, _Balanced]:
    """Try every strength and every method, with all convolutions in int8, and return the best candidate."""
    found: list[tuple[Candidate, _Balanced]] = []
    links, start = find_links(model), time.monotonic()
    # in an ESRGAN nearly every value is read by a Concat, so there is next to nothing to balance
    few = not effort.measured_gains and 4 * len(links) < len(quantisable(model))
    strengths = effort.strengths[:1] if few or not links else effort.strengths
    for done, strength in enumerate(strengths, start=1):
        balanced = equalised(model, pictures, strength=strength) if strength else model
        base = _Balanced(balanced, strength, measure(balanced, quantised_inputs(balanced).values(), pictures))
        for method in effort.methods or METHODS:
            found.append((_candidate(base, meter, method, set()), base))
        left = (time.monotonic() - start) / done * (len(strengths) - done)
        say(f"calibrated with channels balanced by {strength:g}{_time_left(left)}")
    return max(found, key=lambda pair: pair[0].distance.fidelity)


def _candidate(base: _Balanced, meter: LossMeter, method: str, keep: set[str]) -> Candidate:
    """Make one candidate and measure it roughly, on a few crops."""
    ranges = choose_ranges(base.magnitudes, method)
    model = to_int8(base.model, ranges, keep=keep, unsigned=never_negative(base.model))
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


def _ranked_by_gain(
    best: Candidate,
    base: _Balanced,
    meter: LossMeter,
    cost: Mapping[str, float],
    effort: SearchEffort,
    say: Say,
) -> list[str]:
    """Return the convolutions in int8, those first that gain most for their cost if they stay in fp32.

    Each is measured alone, on the same few crops as the candidates; for large nets the gain is estimated from the
    rounding of its input and weights.
    """
    rest = [name for name in cost if name not in best.kept]
    if not effort.measured_gains:
        errors = _rounding_errors(base, best.method)
        return sorted(rest, key=lambda name: -errors[name] / cost[name])
    rough, gains, start = _keep_more(base, meter, best, set()), dict[str, float](), time.monotonic()
    for done, name in enumerate(rest, start=1):
        gains[name] = _gain(rough, _keep_more(base, meter, best, {name})) / cost[name]
        if done % 8 == 0:
            left = (time.monotonic() - start) / done * (len(rest) - done)
            say(f"measured {done} of {len(rest)} convolutions{_time_left(left)}")
    return sorted(rest, key=lambda name: -gains[name])


def _rounding_errors(base: _Balanced, method: str) -> dict[str, float]:
    """Estimate the relative squared error that int8 brings into the input and the weights of each convolution."""
    sources, constants = quantised_inputs(base.model), constants_of(base.model)
    weights = {node.output[0]: node.input[1] for node in base.model.graph.node if node.op_type == "Conv"}
    found = {}
    for name, source in sources.items():
        values = numpy_helper.to_array(constants[weights[name]]).astype(np.float32)
        scales = weight_scales(values)
        rounded = rounded_weights(values, scales) * scales.reshape(-1, *[1] * (values.ndim - 1))
        error = float(np.square(values - rounded).sum() / max(float(np.square(values).sum()), 1e-20))
        found[name] = error + relative_error(
            base.magnitudes[source], METHODS[method](base.magnitudes[source])
        )
    return found


def _keep_until_target(
    best: Candidate,
    base: _Balanced,
    meter: LossMeter,
    ranked: Sequence[str],
    cost: Mapping[str, float],
    target: float,
    say: Say,
) -> Candidate:
    """Keep as few of the `ranked` convolutions in fp32 as meet the target, the first ones first.

    At least one convolution stays in int8. If the target is not met then, the closest candidate is returned.
    """
    closest = best

    def with_first(count: int) -> Candidate:
        nonlocal closest
        start = time.monotonic()
        made = _measured_fully(_keep_more(base, meter, best, set(ranked[:count])), meter)
        closest = max(closest, made, key=lambda found: found.distance.change)
        say(
            f"with {len(made.kept)} convolutions in fp32 PSNR changes by {made.distance.change:+.3f} dB "
            f"({time.monotonic() - start:.0f} s a try)"
        )
        return made

    low, high, found = 0, 1, None
    while found is None and low < len(ranked) - 1:
        high = min(high, len(ranked) - 1)
        made = with_first(high)
        found = made if -made.distance.change <= target else None
        low, high = (low, high) if found else (high, 2 * high)
    if found is None:
        return closest
    while high - low > 1:
        middle = (low + high) // 2
        made = with_first(middle)
        if -made.distance.change <= target:
            found, high = made, middle
        else:
            low = middle
    return _return_unneeded(found, set(best.kept), base, meter, cost, target)


def _return_unneeded(
    found: Candidate,
    always: set[str],
    base: _Balanced,
    meter: LossMeter,
    cost: Mapping[str, float],
    target: float,
) -> Candidate:
    """Make kept convolutions int8 again where the target is met without them, the slowest first.

    Those in `always` stay.
    """
    free = sorted((name for name in found.kept if name not in always), key=lambda name: -cost[name])
    for name in free[:_MOST_RETURNS]:
        made = _candidate(base, meter, found.method, set(found.kept) - {name})
        if -made.distance.change > 2 * target:  # on few crops already far off
            continue
        made = _measured_fully(made, meter)
        if -made.distance.change <= target:
            found = made
    return found


def _time_left(seconds: float) -> str:
    """Say how long something still takes; empty for less than five seconds."""
    return f"; about {seconds:.0f} s left" if seconds >= 5 else ""


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
