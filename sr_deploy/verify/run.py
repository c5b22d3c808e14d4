"""Do all forms of a model compute the same picture? Every file, on every backend, whole and tiled, against one
reference, on crops of real photographs.

This module decides what is compared and judges it. `verify_measure` compares, `verify_diagnose` looks for the
culprit where something failed, and only then. Nothing is printed or stored here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from sr_deploy.engines.base import Engine
from sr_deploy.errors import CheckFailedError, MissingRuntimeError, ModelError, UsageError
from sr_deploy.graph.pixel_io import has_pixel_io
from sr_deploy.probe.halo import measure_halo
from sr_deploy.spec import ModelSpec
from sr_deploy.upscale import Upscaler
from sr_deploy.verify.crops import TILE, Bytes, VerifyCrop
from sr_deploy.verify.layers import layers_of, pair_layers, scaled_layers
from sr_deploy.verify.measure import Comparison, to_bytes
from sr_deploy.verify.plain import PlainGraph, not_finite
from sr_deploy.verify.results import FILE, CheckedPath, PathResult, Verification, VerifiedModel, judge
from sr_deploy.verify.subject import (
    ModelForm,
    Plain,
    ReferencedCrop,
    check_comparable,
    coarser,
    range_samples,
    takes_floats,
)


def verify(
    subjects: Sequence[ModelForm],
    reference: ModelForm,
    crops: Sequence[VerifyCrop],
    on_leg: Callable[[str, str], None] = lambda model, leg: None,
) -> Verification:
    """Hold every subject to `reference` on `crops`, and look for the culprit where one fails.

    `on_leg(model, backend)` is called before each leg. Raises UsageError where the reference is a compiled
    engine or no form of the same model, CheckFailedError where it gives values that are no numbers.
    """
    for subject in subjects:
        check_comparable(subject, reference)
    samples = make_samples(reference, crops)
    if reference not in subjects:
        _check_reference(reference, samples)
    models = []
    for subject in subjects:
        found = verify_model(subject, reference, samples, partial(on_leg, subject.name))
        if found.failed:
            from sr_deploy.verify.diagnose import find_culprits

            found = replace(found, culprits=tuple(find_culprits(found, subject, reference, samples)))
        models.append(found)
    return Verification(
        against=reference.name,
        precision=reference.spec.precision,
        crops=len(crops),
        pictures=len({crop.picture for crop in crops}),
        models=tuple(models),
    )


def _check_reference(reference: ModelForm, samples: Sequence[ReferencedCrop]) -> None:
    for sample in samples:
        if not np.isfinite(sample.wanted).all():
            raise CheckFailedError(
                f"the reference {reference.name} gives NaN or infinite values on {sample.crop}; verify that one first"
            )


def make_samples(reference: ModelForm, crops: Sequence[VerifyCrop]) -> list[ReferencedCrop]:
    """Run the reference on every crop; what is no number stays so.

    Raises UsageError for a compiled engine, which nothing can be held to.
    """
    if reference.plain is None:
        raise UsageError(
            f"{reference.name} is a compiled engine, which nothing can be held to; give --against the checkpoint or "
            "the ONNX file it was built from"
        )
    return [ReferencedCrop(crop, np.clip(reference.plain(crop.small), 0, 1)) for crop in crops]


def verify_model(
    subject: ModelForm,
    reference: ModelForm,
    samples: Sequence[ReferencedCrop],
    on_leg: Callable[[str], None] = lambda leg: None,
) -> VerifiedModel:
    """Everything about one model but for the search for culprits; `on_leg` is told before each leg.

    Raises UsageError where `reference` is not a form of the same model.
    """
    check_comparable(subject, reference)
    rows: list[PathResult] = []
    if subject.plain is not None:
        on_leg(subject.plain_backend)
        rows.append(_plain_row(subject, subject.plain, samples))
    for backend in subject.backends:
        on_leg(backend)
        rows += _backend_rows(subject, backend, samples)
    if isinstance(subject.plain, PlainGraph):
        on_leg(FILE)
        rows += _file_rows(subject, reference)
    return VerifiedModel(model=subject.name, rows=tuple(rows))


def _plain_row(subject: ModelForm, plain: Plain, samples: Sequence[ReferencedCrop]) -> PathResult:
    comparison, bad = Comparison(subject.spec.channels), 0
    for sample in samples:
        result = plain(sample.crop.small)
        bad += _not_finite(result)
        comparison.add(sample.crop, sample.wanted, to_bytes(result))
    comparison.not_finite = bad + _not_finite_within(subject, samples)
    return _judged(subject, subject.plain_backend, "whole", comparison)


def _not_finite_within(subject: ModelForm, samples: Sequence[ReferencedCrop]) -> int:
    """Values inside the graph that are no numbers, where that tells: in fp32 a mask of infinity may be meant."""
    if not (isinstance(subject.plain, PlainGraph) and _hides_overflow(subject)):
        return 0
    plain = subject.plain
    found = (not_finite(plain.model, plain.values(sample.crop.small)) for sample in range_samples(samples))
    return sum(bad.count for bad in found if bad)


def _hides_overflow(subject: ModelForm) -> bool:
    """Bytes hold no NaN, and ONNX Runtime computes fp16 on a CPU in fp32, where nothing overflows."""
    return subject.spec.precision == "fp16" or (subject.graph is not None and has_pixel_io(subject.graph))


def _backend_rows(subject: ModelForm, backend: str, samples: Sequence[ReferencedCrop]) -> list[PathResult]:
    """The legs of one backend: whole, and tiled where the model is ever tiled."""
    assert subject.open_engine is not None
    leg = CheckedPath(model=subject.name, precision=subject.spec.precision, backend=backend, how="whole")
    try:
        with subject.open_engine(backend) as engine:
            engine.run(_smallest(samples, engine.spec))  # what only running shows
            return list(_rows_of(subject, engine, leg, samples))
    except (ModelError, MissingRuntimeError) as error:
        return [PathResult(leg=leg, not_run=str(error))]


def _smallest(samples: Sequence[ReferencedCrop], spec: ModelSpec) -> Bytes:
    height, width = spec.size_rule.padded(1, 1)
    first = samples[0].crop.small
    return np.ascontiguousarray(np.broadcast_to(first[:1, :1], (1, height, width, first.shape[2])))


def _rows_of(
    subject: ModelForm, engine: Engine, leg: CheckedPath, samples: Sequence[ReferencedCrop]
) -> Iterator[PathResult]:
    try:
        upscaler, whole = Upscaler(engine), Comparison(subject.spec.channels)
        results = [_added(whole, sample, upscaler) for sample in samples]
        whole.not_finite = _not_finite_floats(subject, upscaler, samples)
        yield _judged(subject, leg.backend, "whole", whole)
        if engine.spec.halo is not None and not engine.spec.size_rule.fixed:
            yield _judged(subject, leg.backend, "tiled", _compare_tiled(engine, samples, results))
    except ModelError as error:  # it ran before, on other sizes
        yield PathResult(leg=leg, failures=(str(error),))


def _added(comparison: Comparison, sample: ReferencedCrop, upscaler: Upscaler) -> Bytes:
    """What `upscaler` makes of `sample`, added to `comparison`."""
    result = upscaler.upscale_pixels(sample.crop.small)
    comparison.add(sample.crop, sample.wanted, result)
    return result


def _not_finite_floats(
    subject: ModelForm, upscaler: Upscaler, samples: Sequence[ReferencedCrop]
) -> int | None:
    """How many values of the float form are no numbers; None where there is no such form."""
    if not takes_floats(subject):
        return None
    pictures = (sample.crop.small / np.float32(255) for sample in samples)
    try:
        return sum(_not_finite(upscaler.upscale_pixels(picture)) for picture in pictures)
    except UsageError:  # an engine that was built for bytes alone
        return None


def _compare_tiled(engine: Engine, samples: Sequence[ReferencedCrop], whole: Sequence[Bytes]) -> Comparison:
    """Everything in small tiles, beside what it was whole."""
    comparison, upscaler = Comparison(engine.spec.channels), Upscaler(engine, tile=TILE)
    for sample, before in zip(samples, whole, strict=True):
        comparison.add_seam(sample.crop, before, _added(comparison, sample, upscaler))
    return comparison


def _judged(subject: ModelForm, backend: str, how: str, comparison: Comparison) -> PathResult:
    precision = subject.spec.precision
    leg = CheckedPath(model=subject.name, precision=precision, backend=backend, how=how)
    measured = comparison.measured()
    return PathResult(leg=leg, measured=measured, failures=judge(measured, precision))


def _not_finite(values: npt.NDArray[Any]) -> int:
    return int(values.size - np.isfinite(values).sum())


def _file_rows(subject: ModelForm, reference: ModelForm) -> Iterator[PathResult]:
    """What is told from an ONNX file itself: its halo, and its weights beside those of the reference."""
    leg = CheckedPath(model=subject.name, precision=subject.spec.precision, backend=FILE, how="halo")
    if subject.spec.halo is not None and not subject.spec.size_rule.fixed:
        yield PathResult(leg=leg, failures=tuple(_wrong_halo(subject)))
    if subject.spec.precision == "fp32" or subject is reference:  # to that, steps of 8 bits are sharp enough
        return
    if subject.graph is not None and reference.graph is not None:
        pairs = pair_layers(layers_of(subject.graph), layers_of(reference.graph))
        scaled = scaled_layers(pairs, coarser(subject, reference))
        yield PathResult(leg=replace(leg, how="weights"), failures=tuple(scaled))


def _wrong_halo(subject: ModelForm) -> Iterator[str]:
    assert subject.graph is not None
    declared, measured = subject.spec.halo or 0, measure_halo(subject.graph, subject.spec)
    if measured is not None and measured <= declared:
        return
    found = "a pixel reaches farther than any probe" if measured is None else f"measured is {measured}"
    yield f"the record declares a halo of {declared} pixels, {found}: tiles will show"
