"""Look for the culprit of a failed verification, with the cheapest check first.

It is called only for a model that failed. Each finding is one line; if nothing is found there is no line.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import permutations
from typing import Any

import numpy as np

from sr_deploy.system.arrays import AnyArray, FloatArray, Uint8Array
from sr_deploy.upscale import Upscaler
from sr_deploy.verify.forms import ModelForm, Plain, ReferencedCrop, largest_crops, lower_precision
from sr_deploy.verify.layers import layers_of, pair_layers, result_culprit, weight_culprits
from sr_deploy.verify.plain import PlainGraph, not_finite
from sr_deploy.verify.results import FILE, PathDifferences, PathResult, VerifiedModel

_HALF_STEP_DRIFT = (0.4, 0.6)
"""Drift, in 8-bit steps, that truncation or rounding up causes. In theory it is 0.5; the margin allows for
values that are not spread evenly between two steps."""
_LARGEST_FP16 = 65504
"""Largest finite value of fp16."""
_CHANNEL_ERROR_RATIO = 16.0
"""Factor by which another order of the channels must lower the squared error to count as the explanation (16
is 12 dB). A smaller gain may be chance."""


def find_culprits(
    found: VerifiedModel, subject: ModelForm, reference: ModelForm, crops: Sequence[ReferencedCrop]
) -> Iterator[str]:
    """Yield the causes of the failures in `found`, one line each, as far as they can be told.

    The order of the checks: what was read from the file; NaN and infinity; tiles only; rounding and the order
    of the channels; the backend; and last the layers of the graph. The first check that explains the failure
    ends the search.
    """
    # halo and weights were checked before any picture ran, and their clauses name the culprit
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
    # a fault of the whole picture shows in tiles too, so tiles are blamed only if nothing else failed
    whole = [result for result in failed if result.path.how == "whole"]
    if not whole:
        yield f"only tiles differ, on {_backends(failed)}, though the halo is right: the backend's result depends on the picture's size"
        return
    answers = [_rounding(whole), _channels(subject, whole, few)]
    if any(answers):
        yield from (answer for answer in answers if answer)
        return
    yield from _in_backend_or_layers(found, whole, subject, reference, few)


def _backends(results: Sequence[PathResult]) -> str:
    """List the backends of `results` once each, in order."""
    return ", ".join(dict.fromkeys(result.path.backend for result in results))


def _where_not_finite(
    subject: ModelForm, failed: Sequence[PathResult], crops: Sequence[ReferencedCrop]
) -> Iterator[str]:
    """Say at which operator NaN or infinity begins in the file itself; if nowhere, blame the backends."""
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
    yield f"NaN or infinite values come from {_backends(failed)}; the file run operator by operator makes none"


def _rounding(results: Sequence[PathResult]) -> str:
    """Describe the rounding if every channel drifts by half a step the same way; empty if not.

    Truncation gives values that are half a step too low on average, and rounding up gives values half a step
    too high.
    """
    measured = [result.measured for result in results if result.measured is not None]
    for sign, name in ((-1, "by truncation"), (1, "up")):
        if all(_is_half_a_step(found, sign) for found in measured):
            mean = float(np.mean([found.drift for found in measured]))
            return f"rounds {name} instead of to nearest: every colour is {abs(mean):.2f} of a step " + (
                "too low" if sign < 0 else "too high"
            )
    return ""


def _is_half_a_step(found: PathDifferences, sign: int) -> bool:
    """Check that every channel drifts by about half a step in the direction `sign`."""
    low, high = _HALF_STEP_DRIFT
    return all(low <= sign * value <= high for value in found.drift)


def _channels(subject: ModelForm, failed: Sequence[PathResult], crops: Sequence[ReferencedCrop]) -> str:
    """Describe the order of the colour channels that explains the difference, if there is one.

    The five other orders are tried on the path that failed, at the input, at the output and at both. Empty if none
    explains the difference, and for grey models.
    """
    if subject.spec.channels != 3:
        return ""
    with _PathRunner(subject, failed[0].path.backend) as run:
        base = sum(_squares(run(referenced.crop.small), referenced.wanted) for referenced in crops)
        best, sentence = base / _CHANNEL_ERROR_RATIO, ""
        for order in list(permutations(range(3)))[1:]:  # without the first, which changes nothing
            for where, error in _errors_by_place(run, order, crops):
                if error < best:
                    best, sentence = error, f"{_describe_order(order)} {where}"
    return sentence


def _errors_by_place(
    run: Plain, order: tuple[int, ...], crops: Sequence[ReferencedCrop]
) -> list[tuple[str, float]]:
    """Sum the squared errors with the channels in `order` at the output, at the input, and at both.

    At both means reordered at the input and back again at the output.
    """
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
    """Describe an order of the channels in words, such as "red and blue are swapped"."""
    names = ("red", "green", "blue")
    moved = [names[i] for i in range(3) if order[i] != i]
    if len(moved) == 2:
        return f"{moved[0]} and {moved[1]} are swapped"
    return f"the colours are in another order ({', '.join(names[i] for i in order)})"


class _PathRunner:
    """Context manager that runs a subject as the failed path did: by itself, or on an engine.

    It opens an engine of its own and closes it.
    """

    def __init__(self, subject: ModelForm, backend: str) -> None:
        self._plain = subject.plain if backend == subject.plain_backend else None
        self._engine = None
        if self._plain is None and subject.open_engine is not None:
            self._engine = subject.open_engine(backend)

    def __enter__(self) -> Plain:
        """Return the function that upscales one crop."""
        return self._run

    def __exit__(self, *error: object) -> None:
        if self._engine is not None:
            self._engine.close()

    def _run(self, pixels: Uint8Array) -> FloatArray:
        """Compute the picture of `pixels` [h, w, C] in 8 bits: [h * scale, w * scale, C] in 0..1."""
        if self._plain is not None:
            return self._plain(pixels)
        assert self._engine is not None
        return np.asarray(Upscaler(self._engine).upscale_pixels(pixels) / np.float32(255), np.float32)


def _squares(first: AnyArray, second: AnyArray) -> float:
    """Return the sum of squared differences; `first` is clipped to 0..1."""
    return float(np.square(np.clip(first, 0, 1).astype(np.float64) - second).sum())


def _in_backend_or_layers(
    found: VerifiedModel,
    failed: Sequence[PathResult],
    subject: ModelForm,
    reference: ModelForm,
    few: Sequence[ReferencedCrop],
) -> Iterator[str]:
    """Blame the backend if the file itself is right, else look into the layers.

    Layers can be compared only if the reference has a graph and is another form than the subject.
    """
    if any(
        result.path.backend == subject.plain_backend and result.verdict == "passed"
        for result in found.results
    ):
        yield f"the file itself is right, but {_backends(failed)} computes something else"
        return
    if subject.graph is None or reference.graph is None or subject is reference:
        return
    # the file differs in itself: compare it with the reference, layer by layer
    pairs = pair_layers(layers_of(subject.graph), layers_of(reference.graph))
    if not pairs:
        yield "its layers cannot be paired with the reference's, so none can be named"
        return
    precision = lower_precision(subject, reference)
    # weights first, for they need no run; values only where all weights agree
    lines = weight_culprits(pairs, precision) or [
        _by_layer_results(pairs, subject, reference, few[0], precision)
    ]
    yield from (line for line in lines if line)


def _by_layer_results(
    pairs: Any, subject: ModelForm, reference: ModelForm, referenced: ReferencedCrop, precision: str
) -> str:
    """Run both graphs on one crop, and say where their results begin to differ."""
    assert subject.graph is not None
    assert reference.graph is not None
    ours, theirs = (
        PlainGraph(one.graph, one.spec).values(referenced.crop.small)  # type: ignore[arg-type]
        for one in (subject, reference)
    )
    if line := result_culprit(pairs, ours, theirs, precision):
        return line
    return f"all layers agree, up to the last one, {pairs[-1][0].label}: look at the operators after it"
