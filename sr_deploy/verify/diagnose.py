"""What a failed verification comes from: asked only where something failed, cheapest question first.

Names what it finds, one line each; where it finds nothing it says so in no line at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import permutations
from typing import Any

import numpy as np
import numpy.typing as npt

from sr_deploy.upscale import Upscaler
from sr_deploy.verify.forms import ModelForm, Plain, ReferencedCrop, largest_crops, lower_precision
from sr_deploy.verify.layers import layers_of, pair_layers, result_culprit, weight_culprits
from sr_deploy.verify.measure import Floats
from sr_deploy.verify.plain import PlainGraph, not_finite
from sr_deploy.verify.results import FILE, PathDifferences, PathResult, VerifiedModel

_HALF_STEP_DRIFT = (0.4, 0.6)
_LARGEST_FP16 = 65504
_CHANNEL_ERROR_RATIO = 16.0
"""How many times smaller a squared error must become for a change of the channels to explain it: 12 dB."""


def find_culprits(
    found: VerifiedModel, subject: ModelForm, reference: ModelForm, crops: Sequence[ReferencedCrop]
) -> Iterator[str]:
    """What the failures in `found` come from, as far as it can be told."""
    in_file = [
        clause for result in found.results if result.path.backend == FILE for clause in result.failures
    ]
    yield from in_file
    failed = [
        result for result in found.results if result.verdict == "failed" and result.measured is not None
    ]
    if any(result.measured and result.measured.not_finite for result in failed):
        yield from _where_not_finite(subject, failed, crops)
        return
    if in_file or not failed:
        return
    few = largest_crops(crops)
    whole = [result for result in failed if result.path.how == "whole"]
    if not whole:
        yield f"only tiles differ, on {_backends(failed)}, though the halo is right: the backend computes a picture by its size"
        return
    answers = [_rounding(whole), _channels(subject, whole, few)]
    if any(answers):
        yield from (answer for answer in answers if answer)
        return
    yield from _in_backend_or_layers(found, whole, subject, reference, few)


def _backends(results: Sequence[PathResult]) -> str:
    return ", ".join(dict.fromkeys(result.path.backend for result in results))


def _where_not_finite(
    subject: ModelForm, failed: Sequence[PathResult], crops: Sequence[ReferencedCrop]
) -> Iterator[str]:
    if isinstance(subject.plain, PlainGraph):
        for referenced in largest_crops(crops):
            values = subject.plain.values(referenced.crop.small)
            if bad := not_finite(subject.plain.model, values):
                too_large = f"fp16 holds at most {_LARGEST_FP16}, so keep it in fp32"
                advice = too_large if subject.spec.precision == "fp16" else "look at its weights"
                yield (
                    f"NaN or infinite values begin at {bad.operator}, from inputs of up to {bad.largest:.4g}: {advice}"
                )
                return
    yield f"NaN or infinite values come from {_backends(failed)}; the file's own arithmetic makes none"


def _rounding(results: Sequence[PathResult]) -> str:
    """Whether every colour is half a step off, and nothing more."""
    measured = [result.measured for result in results if result.measured is not None]
    for sign, name in ((-1, "by truncation"), (1, "up")):
        if all(_is_half_a_step(found, sign) for found in measured):
            mean = float(np.mean([found.drift for found in measured]))
            return f"rounds {name} instead of to nearest: every colour is {abs(mean):.2f} of a step " + (
                "too low" if sign < 0 else "too high"
            )
    return ""


def _is_half_a_step(found: PathDifferences, sign: int) -> bool:
    low, high = _HALF_STEP_DRIFT
    return all(low <= sign * value <= high for value in found.drift)


def _channels(subject: ModelForm, failed: Sequence[PathResult], crops: Sequence[ReferencedCrop]) -> str:
    """Whether another order of the channels explains the difference."""
    if subject.spec.channels != 3:
        return ""
    with _PathRunner(subject, failed[0].path.backend) as run:
        base = sum(_squares(run(referenced.crop.small), referenced.wanted) for referenced in crops)
        best, sentence = base / _CHANNEL_ERROR_RATIO, ""
        for order in list(permutations(range(3)))[1:]:
            for where, error in _errors_by_place(run, order, crops):
                if error < best:
                    best, sentence = error, f"{_describe_order(order)} {where}"
    return sentence


def _errors_by_place(
    run: Plain, order: tuple[int, ...], crops: Sequence[ReferencedCrop]
) -> list[tuple[str, float]]:
    """The squared error with the channels in `order` at the output, the input, and both (and back again)."""
    back = np.argsort(order)
    at_output = at_input = at_both = 0.0
    for referenced in crops:
        small, wanted = referenced.crop.small, referenced.wanted
        turned = run(np.ascontiguousarray(small[..., order]))
        at_output += _squares(run(small)[..., order], wanted)
        at_input += _squares(turned, wanted)
        at_both += _squares(turned[..., back], wanted)
    return [
        ("at the output", at_output),
        ("at the input", at_input),
        ("at the input and at the output", at_both),
    ]


def _describe_order(order: Sequence[int]) -> str:
    names = ("red", "green", "blue")
    moved = [names[i] for i in range(3) if order[i] != i]
    if len(moved) == 2:
        return f"{moved[0]} and {moved[1]} are swapped"
    return f"the colours are in another order ({', '.join(names[i] for i in order)})"


class _PathRunner:
    """Runs a subject as the path that failed did: the file itself, or an engine."""

    def __init__(self, subject: ModelForm, backend: str) -> None:
        self._plain = subject.plain if backend == subject.plain_backend else None
        self._engine = None
        if self._plain is None and subject.open_engine is not None:
            self._engine = subject.open_engine(backend)

    def __enter__(self) -> Plain:
        return self._run

    def __exit__(self, *error: object) -> None:
        if self._engine is not None:
            self._engine.close()

    def _run(self, pixels: npt.NDArray[np.uint8]) -> Floats:
        if self._plain is not None:
            return self._plain(pixels)
        assert self._engine is not None
        return np.asarray(Upscaler(self._engine).upscale_pixels(pixels) / np.float32(255), np.float32)


def _squares(first: npt.NDArray[Any], second: npt.NDArray[Any]) -> float:
    return float(np.square(np.clip(first, 0, 1).astype(np.float64) - second).sum())


def _in_backend_or_layers(
    found: VerifiedModel,
    failed: Sequence[PathResult],
    subject: ModelForm,
    reference: ModelForm,
    few: Sequence[ReferencedCrop],
) -> Iterator[str]:
    if any(
        result.path.backend == subject.plain_backend and result.verdict == "passed"
        for result in found.results
    ):
        yield f"the file itself is right, {_backends(failed)} computes it differently"
        return
    if subject.graph is None or reference.graph is None or subject is reference:
        return
    pairs = pair_layers(layers_of(subject.graph), layers_of(reference.graph))
    if not pairs:
        yield "its layers do not correspond to the reference's, so none can be named"
        return
    precision = lower_precision(subject, reference)
    lines = weight_culprits(pairs, precision) or [
        _by_layer_results(pairs, subject, reference, few[0], precision)
    ]
    yield from (line for line in lines if line)


def _by_layer_results(
    pairs: Any, subject: ModelForm, reference: ModelForm, referenced: ReferencedCrop, precision: str
) -> str:
    assert subject.graph is not None
    assert reference.graph is not None
    ours, theirs = (
        PlainGraph(one.graph, one.spec).values(referenced.crop.small)  # type: ignore[arg-type]
        for one in (subject, reference)
    )
    if line := result_culprit(pairs, ours, theirs, precision):
        return line
    return f"all layers agree up to {pairs[-1][0].label}: look at what follows it"
