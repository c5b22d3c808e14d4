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
from sr_deploy.probe.halo import measure_radius
from sr_deploy.spec import ModelSpec
from sr_deploy.upscale import Upscaler
from sr_deploy.verify.crops import TILE, Bytes, VerifyCrop
from sr_deploy.verify.forms import (
    ModelForm,
    Plain,
    ReferencedCrop,
    check_comparable,
    largest_crops,
    lower_precision,
    takes_floats,
)
from sr_deploy.verify.layers import layers_of, pair_layers, scaled_layers
from sr_deploy.verify.measure import Comparison, to_bytes
from sr_deploy.verify.plain import PlainGraph, not_finite
from sr_deploy.verify.results import FILE, CheckedPath, PathResult, Verification, VerifiedModel, judge


def verify(
    subjects: Sequence[ModelForm],
    reference: ModelForm,
    crops: Sequence[VerifyCrop],
    on_path: Callable[[str, str], None] = lambda model, path: None,
) -> Verification:
    """Hold every subject to `reference` on `crops`, and look for the culprit where one fails.

    `on_path(model, backend)` is called before each path. Raises UsageError where the reference is a compiled
    engine or no form of the same model, CheckFailedError where it gives values that are no numbers.
    """
    for subject in subjects:
        check_comparable(subject, reference)
    referenced_crops = run_reference(reference, crops)
    if reference not in subjects:
        _check_reference(reference, referenced_crops)
    models = []
    for subject in subjects:
        found = verify_model(subject, reference, referenced_crops, partial(on_path, subject.name))
        if found.failed:
            from sr_deploy.verify.diagnose import find_culprits

            found = replace(found, culprits=tuple(find_culprits(found, subject, reference, referenced_crops)))
        models.append(found)
    return Verification(
        against=reference.name,
        precision=reference.spec.precision,
        crops=len(crops),
        pictures=len({crop.picture for crop in crops}),
        models=tuple(models),
    )


def _check_reference(reference: ModelForm, crops: Sequence[ReferencedCrop]) -> None:
    for referenced in crops:
        if not np.isfinite(referenced.wanted).all():
            raise CheckFailedError(
                f"the reference {reference.name} gives NaN or infinite values on {referenced.crop}; verify that one first"
            )


def run_reference(reference: ModelForm, crops: Sequence[VerifyCrop]) -> list[ReferencedCrop]:
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
    crops: Sequence[ReferencedCrop],
    on_path: Callable[[str], None] = lambda path: None,
) -> VerifiedModel:
    """Everything about one model but for the search for culprits; `on_path` is told before each path.

    Raises UsageError where `reference` is not a form of the same model.
    """
    check_comparable(subject, reference)
    results: list[PathResult] = []
    if subject.plain is not None:
        on_path(subject.plain_backend)
        results.append(_check_plain(subject, subject.plain, crops))
    for backend in subject.backends:
        on_path(backend)
        results += _check_backend(subject, backend, crops)
    if isinstance(subject.plain, PlainGraph):
        on_path(FILE)
        results += _check_file(subject, reference)
    return VerifiedModel(model=subject.name, results=tuple(results))


def _check_plain(subject: ModelForm, plain: Plain, crops: Sequence[ReferencedCrop]) -> PathResult:
    comparison, bad = Comparison(subject.spec.channels), 0
    for referenced in crops:
        result = plain(referenced.crop.small)
        bad += _count_not_finite(result)
        comparison.add(referenced.crop, referenced.wanted, to_bytes(result))
    comparison.not_finite = bad + _count_not_finite_inside(subject, crops)
    return _judge_path(subject, subject.plain_backend, "whole", comparison)


def _count_not_finite_inside(subject: ModelForm, crops: Sequence[ReferencedCrop]) -> int:
    """Values inside the graph that are no numbers, where that tells: in fp32 a mask of infinity may be meant."""
    if not (isinstance(subject.plain, PlainGraph) and _may_hide_overflow(subject)):
        return 0
    plain = subject.plain
    found = (
        not_finite(plain.model, plain.values(referenced.crop.small)) for referenced in largest_crops(crops)
    )
    return sum(bad.count for bad in found if bad)


def _may_hide_overflow(subject: ModelForm) -> bool:
    """Bytes hold no NaN, and ONNX Runtime computes fp16 on a CPU in fp32, where nothing overflows."""
    return subject.spec.precision == "fp16" or (subject.graph is not None and has_pixel_io(subject.graph))


def _check_backend(subject: ModelForm, backend: str, crops: Sequence[ReferencedCrop]) -> list[PathResult]:
    """The legs of one backend: whole, and tiled where the model is ever tiled."""
    assert subject.open_engine is not None
    path = CheckedPath(model=subject.name, precision=subject.spec.precision, backend=backend, how="whole")
    try:
        with subject.open_engine(backend) as engine:
            engine.run(_smallest_batch(crops, engine.spec))  # what only running shows
            return list(_check_whole_and_tiled(subject, engine, path, crops))
    except (ModelError, MissingRuntimeError) as error:
        return [PathResult(path=path, not_run=str(error))]


def _smallest_batch(crops: Sequence[ReferencedCrop], spec: ModelSpec) -> Bytes:
    height, width = spec.size_rule.padded(1, 1)
    first = crops[0].crop.small
    return np.ascontiguousarray(np.broadcast_to(first[:1, :1], (1, height, width, first.shape[2])))


def _check_whole_and_tiled(
    subject: ModelForm, engine: Engine, path: CheckedPath, crops: Sequence[ReferencedCrop]
) -> Iterator[PathResult]:
    try:
        upscaler, whole = Upscaler(engine), Comparison(subject.spec.channels)
        outputs = [_upscale_and_add(whole, referenced, upscaler) for referenced in crops]
        whole.not_finite = _count_not_finite_outputs(subject, upscaler, crops)
        yield _judge_path(subject, path.backend, "whole", whole)
        if engine.spec.halo is not None and not engine.spec.size_rule.fixed:
            yield _judge_path(subject, path.backend, "tiled", _compare_tiled(engine, crops, outputs))
    except ModelError as error:  # it ran before, on other sizes
        yield PathResult(path=path, failures=(str(error),))


def _upscale_and_add(comparison: Comparison, referenced: ReferencedCrop, upscaler: Upscaler) -> Bytes:
    """What `upscaler` makes of `referenced`, added to `comparison`."""
    result = upscaler.upscale_pixels(referenced.crop.small)
    comparison.add(referenced.crop, referenced.wanted, result)
    return result


def _count_not_finite_outputs(
    subject: ModelForm, upscaler: Upscaler, crops: Sequence[ReferencedCrop]
) -> int | None:
    """How many values of the float form are no numbers; None where there is no such form."""
    if not takes_floats(subject):
        return None
    pictures = (referenced.crop.small / np.float32(255) for referenced in crops)
    try:
        return sum(_count_not_finite(upscaler.upscale_pixels(picture)) for picture in pictures)
    except UsageError:  # an engine that was built for bytes alone
        return None


def _compare_tiled(engine: Engine, crops: Sequence[ReferencedCrop], whole: Sequence[Bytes]) -> Comparison:
    """Everything in small tiles, beside what it was whole."""
    comparison, upscaler = Comparison(engine.spec.channels), Upscaler(engine, tile=TILE)
    for referenced, before in zip(crops, whole, strict=True):
        comparison.add_seam(referenced.crop, before, _upscale_and_add(comparison, referenced, upscaler))
    return comparison


def _judge_path(subject: ModelForm, backend: str, how: str, comparison: Comparison) -> PathResult:
    precision = subject.spec.precision
    path = CheckedPath(model=subject.name, precision=precision, backend=backend, how=how)
    measured = comparison.measured()
    return PathResult(path=path, measured=measured, failures=judge(measured, precision))


def _count_not_finite(values: npt.NDArray[Any]) -> int:
    return int(values.size - np.isfinite(values).sum())


def _check_file(subject: ModelForm, reference: ModelForm) -> Iterator[PathResult]:
    """What is told from an ONNX file itself: its halo, and its weights beside those of the reference."""
    path = CheckedPath(model=subject.name, precision=subject.spec.precision, backend=FILE, how="halo")
    if subject.spec.halo is not None and not subject.spec.size_rule.fixed:
        yield PathResult(path=path, failures=tuple(_halo_failures(subject)))
    if subject.spec.precision == "fp32" or subject is reference:  # to that, steps of 8 bits are sharp enough
        return
    if subject.graph is not None and reference.graph is not None:
        pairs = pair_layers(layers_of(subject.graph), layers_of(reference.graph))
        scaled = scaled_layers(pairs, lower_precision(subject, reference))
        yield PathResult(path=replace(path, how="weights"), failures=tuple(scaled))


def _halo_failures(subject: ModelForm) -> Iterator[str]:
    assert subject.graph is not None
    declared, measured = subject.spec.halo or 0, measure_radius(subject.graph, subject.spec)
    if measured is not None and measured <= declared:
        return
    found = "a pixel reaches farther than any probe" if measured is None else f"measured is {measured}"
    yield f"the record declares a halo of {declared} pixels, {found}: tiles will show"
