"""Verify that all forms of a model compute the same picture.

Every form is run on every backend, whole and tiled, on crops of real photographs, and compared with one
reference. This module chooses the paths and judges them. `sr_deploy.verify.measure` compares the pixels, and
`sr_deploy.verify.diagnose` looks for the culprit, only where something failed. Nothing is printed or stored
here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from sr_deploy.engines.base import Engine
from sr_deploy.errors import CheckFailedError, MissingRuntimeError, ModelError, UsageError
from sr_deploy.graph.pixel_io import has_pixel_io
from sr_deploy.probe.halo import measure_halo
from sr_deploy.spec import ModelSpec
from sr_deploy.system.arrays import AnyArray, Uint8Array
from sr_deploy.upscale import Upscaler
from sr_deploy.verify.crops import TILE, VerifyCrop
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
    """Compare every subject with `reference` on `crops`, and look for the culprit where one fails.

    `on_path(model, backend)` is called before each path, from the calling thread. Raises UsageError if the
    reference is an engine file or no form of the same model, and CheckFailedError if the reference itself
    gives NaN or infinity.
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
    """Raise CheckFailedError if the reference gave a value that is NaN or infinite."""
    for referenced in crops:
        if not np.isfinite(referenced.wanted).all():
            raise CheckFailedError(
                f"the reference {reference.name} gives NaN or infinite values on {referenced.crop}; verify the reference first"
            )


def run_reference(reference: ModelForm, crops: Sequence[VerifyCrop]) -> list[ReferencedCrop]:
    """Run the reference on every crop and clip its results to 0..1; NaN stays NaN.

    Raises UsageError for an engine file: it has no form that is computed operator by operator.
    """
    if reference.plain is None:
        raise UsageError(
            f"{reference.name} is an engine file, with which nothing can be compared; give the checkpoint or ONNX file it "
            "was compiled from with --against"
        )
    return [ReferencedCrop(crop, np.clip(reference.plain(crop.small), 0, 1)) for crop in crops]


def verify_model(
    subject: ModelForm,
    reference: ModelForm,
    crops: Sequence[ReferencedCrop],
    on_path: Callable[[str], None] = lambda path: None,
) -> VerifiedModel:
    """Check one model on all its paths, without looking for culprits. `on_path(backend)` is called before
    each path. Raises UsageError if `reference` is not a form of the same model."""
    check_comparable(subject, reference)
    results: list[PathResult] = []
    if subject.plain is not None:
        on_path(subject.plain_backend)
        results.append(_check_plain(subject, subject.plain, crops))
    # a runtime may turn NaN into numbers, so what the file itself makes counts for every backend
    in_file = sum(result.measured.not_finite or 0 for result in results if result.measured)
    for backend in subject.backends:
        on_path(backend)
        results += _check_backend(subject, backend, crops, in_file)
    if isinstance(subject.plain, PlainGraph):
        on_path(FILE)
        results += _check_file(subject, reference)
    return VerifiedModel(model=subject.name, results=tuple(results))


def _check_plain(subject: ModelForm, plain: Plain, crops: Sequence[ReferencedCrop]) -> PathResult:
    """Check the form itself: the ONNX file operator by operator, or the checkpoint in torch."""
    comparison, bad = Comparison(subject.spec.channels), 0
    for referenced in crops:
        result = plain(referenced.crop.small)
        bad += _count_not_finite(result)
        comparison.add(referenced.crop, referenced.wanted, to_bytes(result))
    comparison.not_finite = bad + _count_not_finite_inside(subject, crops)
    return _judge_path(subject, subject.plain_backend, "whole", comparison)


def _count_not_finite_inside(subject: ModelForm, crops: Sequence[ReferencedCrop]) -> int:
    """Count the NaN and infinite values inside the graph that the output may hide.

    In fp32 with a float output only NaN is looked for, because a constant of infinity may be meant as a
    mask.
    """
    if not isinstance(subject.plain, PlainGraph):
        return 0
    plain = subject.plain
    if not _may_hide_overflow(subject):
        return sum(plain.hidden_nan(referenced.crop.small) for referenced in largest_crops(crops))
    found = (
        not_finite(plain.model, plain.values(referenced.crop.small)) for referenced in largest_crops(crops)
    )
    return sum(bad.count for bad in found if bad)


def _may_hide_overflow(subject: ModelForm) -> bool:
    """Return True if the output may look right although a value inside overflowed.

    Bytes cannot hold NaN, and ONNX Runtime computes fp16 on a CPU in fp32, where nothing overflows.
    """
    return subject.spec.precision == "fp16" or (subject.graph is not None and has_pixel_io(subject.graph))


def _check_backend(
    subject: ModelForm, backend: str, crops: Sequence[ReferencedCrop], in_file: int
) -> list[PathResult]:
    """Check one backend: the pictures whole, and tiled if the model may be tiled.

    `in_file` is the number of NaN and infinite values that the file itself makes.

    A backend that cannot open the model, or fails on the smallest picture, counts as not run.
    """
    assert subject.open_engine is not None
    path = CheckedPath(model=subject.name, precision=subject.spec.precision, backend=backend, how="whole")
    try:
        with subject.open_engine(backend) as engine:
            engine.run(
                _smallest_batch(crops, engine.spec)
            )  # some runtimes accept a model and fail only when it runs
            return list(_check_whole_and_tiled(subject, engine, path, crops, in_file))
    except (ModelError, MissingRuntimeError) as error:
        return [PathResult(path=path, not_run=str(error))]


def _smallest_batch(crops: Sequence[ReferencedCrop], spec: ModelSpec) -> Uint8Array:
    """Return the smallest batch [1, h, w, C] that the model takes, filled with one pixel of a photograph."""
    height, width = spec.size_rule.padded(1, 1)
    first = crops[0].crop.small
    return np.ascontiguousarray(np.broadcast_to(first[:1, :1], (1, height, width, first.shape[2])))


def _check_whole_and_tiled(
    subject: ModelForm, engine: Engine, path: CheckedPath, crops: Sequence[ReferencedCrop], in_file: int
) -> Iterator[PathResult]:
    """Compare an open engine with the reference, whole and then tiled.

    An error here is a failure of the model, not a missing backend: the engine ran before, on another size.
    """
    try:
        upscaler, whole = Upscaler(engine), Comparison(subject.spec.channels)
        outputs = [_upscale_and_add(whole, referenced, upscaler) for referenced in crops]
        found = _count_not_finite_outputs(subject, upscaler, crops)
        whole.not_finite = max(found or 0, in_file) if found is not None or in_file else None
        yield _judge_path(subject, path.backend, "whole", whole)
        if engine.spec.halo is not None and not engine.spec.size_rule.fixed:
            yield _judge_path(subject, path.backend, "tiled", _compare_tiled(engine, crops, outputs))
    except ModelError as error:  # a failure, for the smallest size did run
        yield PathResult(path=path, failures=(str(error),))


def _upscale_and_add(comparison: Comparison, referenced: ReferencedCrop, upscaler: Upscaler) -> Uint8Array:
    """Upscale one crop, add the result to `comparison` and return it."""
    result = upscaler.upscale_pixels(referenced.crop.small)
    comparison.add(referenced.crop, referenced.wanted, result)
    return result


def _count_not_finite_outputs(
    subject: ModelForm, upscaler: Upscaler, crops: Sequence[ReferencedCrop]
) -> int | None:
    """Count the NaN and infinite values in the float output; None if the engine takes and gives bytes only.

    The same crops are run again as float32 pixels, because 8-bit results would hide such values.
    """
    if not takes_floats(subject):
        return None
    pictures = (referenced.crop.small / np.float32(255) for referenced in crops)
    try:
        return sum(_count_not_finite(upscaler.upscale_pixels(picture)) for picture in pictures)
    except UsageError:  # an engine built for bytes only
        return None


def _compare_tiled(
    engine: Engine, crops: Sequence[ReferencedCrop], whole: Sequence[Uint8Array]
) -> Comparison:
    """Upscale every crop in small tiles, and compare with the reference and with the `whole` results."""
    comparison, upscaler = Comparison(engine.spec.channels), Upscaler(engine, tile=TILE)
    for referenced, before in zip(crops, whole, strict=True):
        comparison.add_seam(referenced.crop, before, _upscale_and_add(comparison, referenced, upscaler))
    return comparison


def _judge_path(subject: ModelForm, backend: str, how: str, comparison: Comparison) -> PathResult:
    """Judge the differences of one path by the limits of the file's precision."""
    precision = subject.spec.precision
    path = CheckedPath(model=subject.name, precision=precision, backend=backend, how=how)
    measured = comparison.measured()
    return PathResult(path=path, measured=measured, failures=judge(measured, precision))


def _count_not_finite(values: AnyArray) -> int:
    """Count the values that are NaN or infinite."""
    return int(values.size - np.isfinite(values).sum())


def _check_file(subject: ModelForm, reference: ModelForm) -> Iterator[PathResult]:
    """Check what needs no picture: the halo in an ONNX file, and its weights against the reference's.

    Weights of fp32 files are not compared here: there the limit of one 8-bit step finds a wrong layer
    already.
    """
    path = CheckedPath(model=subject.name, precision=subject.spec.precision, backend=FILE, how="halo")
    if subject.spec.halo is not None and not subject.spec.size_rule.fixed:
        yield PathResult(path=path, failures=tuple(_halo_failures(subject)))
    if subject.spec.precision == "fp32" or subject is reference:
        return
    if subject.graph is not None and reference.graph is not None:
        pairs = pair_layers(layers_of(subject.graph), layers_of(reference.graph))
        scaled = scaled_layers(pairs, lower_precision(subject, reference))
        yield PathResult(path=replace(path, how="weights"), failures=tuple(scaled))


def _halo_failures(subject: ModelForm) -> Iterator[str]:
    """Say so if the halo in the spec is smaller than the measured one; a larger one only costs time."""
    assert subject.graph is not None
    declared, measured = subject.spec.halo or 0, measure_halo(subject.graph, subject.spec)
    if measured is not None and measured <= declared:
        return
    found = (
        "a pixel depends on pixels farther away than any that were probed"
        if measured is None
        else f"measured is {measured}"
    )
    yield f"the spec declares a halo of {declared} pixels, {found}: seams between tiles will show"
