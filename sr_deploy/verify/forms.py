"""Describe what is verified: one form of a model, with the functions that run it.

A model exists in several forms: a checkpoint, ONNX files in different precisions, engine files. Nothing is
run or compared here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import onnx

from sr_deploy.engines.base import Engine
from sr_deploy.engines.chain import chain_spec
from sr_deploy.errors import UsageError
from sr_deploy.graph.onnx_file import require_spec
from sr_deploy.graph.pixel_io import has_pixel_io
from sr_deploy.spec import ModelSpec
from sr_deploy.system.arrays import FloatArray, Uint8Array
from sr_deploy.verify.crops import VerifyCrop
from sr_deploy.verify.measure import to_bytes
from sr_deploy.verify.plain import PlainGraph
from sr_deploy.verify.results import TOLERANCES

GRAPH = "graph"
"""Backend name under which an ONNX file is run as it is written."""
Plain = Callable[[Uint8Array], FloatArray]
"""Function from 8-bit pixels [h, w, C] to [h * scale, w * scale, C] in 0..1, not clipped."""


@dataclass(frozen=True, kw_only=True)
class ModelForm:
    """One form of a model, to verify or to compare others with."""

    name: str
    """Name or path by which the user gave the model."""
    spec: ModelSpec
    """Spec read from the file."""
    plain: Plain | None = None
    """Function that computes what the file says, as slowly as necessary; None for an engine file."""
    plain_backend: str = GRAPH
    """Backend name of `plain` in results: "graph" for an ONNX file, "torch" for a checkpoint."""
    load_graph: Callable[[], onnx.ModelProto] | None = None
    """Loader of the graph: that of an ONNX file, or the one that a checkpoint exports to. None for an engine
    file, whose operators cannot be read."""
    backends: tuple[str, ...] = ()
    """Backends on which the model is checked, in this order."""
    open_engine: Callable[[str], Engine] | None = None
    """Function that opens the model on one of `backends`."""

    @cached_property
    def graph(self) -> onnx.ModelProto | None:
        """The graph that `load_graph` gives, loaded once; None if there is no loader."""
        return self.load_graph() if self.load_graph else None


def onnx_form(
    name: str,
    model: onnx.ModelProto,
    backends: Sequence[str],
    open_engine: Callable[[str], Engine],
) -> ModelForm:
    """Make the form of an ONNX model that carries a spec.

    Raises ModelError as `PlainGraph` and `require_spec` do.
    """
    plain = PlainGraph(model, require_spec(model, name))
    return ModelForm(
        name=name,
        spec=plain.spec,
        plain=plain,
        load_graph=lambda: plain.model,
        backends=tuple(backends),
        open_engine=open_engine,
    )


def chain_form(
    name: str, forms: Sequence[ModelForm], backends: Sequence[str], open_engine: Callable[[str], Engine]
) -> ModelForm:
    """Make the form of a chain of models, whose reference runs one file after the other as it is written.

    Between two models the picture has 8 bits, as it has between the engines. A value near the middle of two steps may be
    rounded either way there, and the next model enlarges the difference, so the limits of fp16 hold for fp32 files too.
    Raises UsageError for engine files, and for models that make no chain.
    """
    for form in forms:
        if form.plain is None:
            raise UsageError(f"{form.name} is an engine file; verify a chain of ONNX files")
    plains = [form.plain for form in forms if form.plain is not None]

    def plain(pixels: Uint8Array) -> FloatArray:
        for each in plains[:-1]:
            pixels = to_bytes(each(pixels))
        return plains[-1](pixels)

    spec = chain_spec([form.spec for form in forms])
    return ModelForm(
        name=name,
        spec=spec.with_(precision="fp16") if spec.precision == "fp32" else spec,
        plain=plain,
        backends=tuple(backends),
        open_engine=open_engine,
    )


def choose_reference(subjects: Sequence[ModelForm]) -> ModelForm:
    """Choose the form to compare the others with, when the user names none.

    The first checkpoint, else the first fp32 file, else the first form that is no engine file: the form that
    was rounded least. Raises UsageError if all are engine files.
    """
    plain = [subject for subject in subjects if subject.plain is not None]
    if not plain:
        raise UsageError(
            "an engine file can only be compared with the model it was built from; name that model with --against"
        )
    checkpoints = [subject for subject in plain if subject.plain_backend != GRAPH]
    full = [subject for subject in plain if subject.spec.precision == "fp32"]
    return (checkpoints or full or plain)[0]


def check_comparable(subject: ModelForm, reference: ModelForm) -> None:
    """Raise UsageError unless both are forms of one model: the scale and the number of channels must agree."""
    for what in ("scale", "channels"):
        ours, theirs = getattr(subject.spec, what), getattr(reference.spec, what)
        if ours != theirs:
            raise UsageError(
                f"{subject.name} has {what} {ours}, but {reference.name} has {what} {theirs}; verify forms of one model together"
            )


def takes_floats(subject: ModelForm) -> bool:
    """Return True if the form's engines take float32 pixels; a graph with pixel I/O takes bytes only."""
    return subject.graph is None or not has_pixel_io(subject.graph)


def lower_precision(subject: ModelForm, reference: ModelForm) -> str:
    """Return the precision of the form that rounds more, in the order of `TOLERANCES`."""
    return max(subject.spec.precision, reference.spec.precision, key=list(TOLERANCES).index)


@dataclass(frozen=True)
class ReferencedCrop:
    """A crop together with the reference's result for it."""

    crop: VerifyCrop
    """The crop: the input and the ground truth."""
    wanted: FloatArray
    """The reference's result [H, W, C], clipped to 0..1; NaN stays NaN."""


def largest_crops(crops: Sequence[ReferencedCrop]) -> Sequence[ReferencedCrop]:
    """Return the three crops with the most pixels.

    Every value inside a graph is examined on these only, because that takes much time and memory.
    """
    return sorted(crops, key=lambda referenced: -referenced.crop.small.size)[:3]
