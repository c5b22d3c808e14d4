"""What is verified: a model in one of its forms, with what can run it. Runs and compares nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import onnx

from sr_deploy.engines.base import Engine
from sr_deploy.errors import UsageError
from sr_deploy.graph.onnx_file import require_spec
from sr_deploy.graph.pixel_io import has_pixel_io
from sr_deploy.spec import ModelSpec
from sr_deploy.verify.crops import Bytes, VerifyCrop
from sr_deploy.verify.measure import Floats
from sr_deploy.verify.plain import PlainGraph
from sr_deploy.verify.results import TOLERANCES

GRAPH = "graph"
Plain = Callable[[Bytes], Floats]
"""8-bit pixels [h, w, C] -> [h * scale, w * scale, C], 0..1, not clipped."""


@dataclass(frozen=True, kw_only=True)
class ModelForm:
    """A model to verify, or to hold others to."""

    name: str
    spec: ModelSpec
    plain: Plain | None = None
    """Computes what the file says, as slowly as it likes; None for a compiled engine."""
    plain_backend: str = GRAPH
    load_graph: Callable[[], onnx.ModelProto] | None = None
    """Gives the graph of an ONNX file, and of a checkpoint what it exports to; None: nothing to look into."""
    backends: tuple[str, ...] = ()
    open_engine: Callable[[str], Engine] | None = None
    """Opens the model on one of `backends`."""

    @cached_property
    def graph(self) -> onnx.ModelProto | None:
        """What `load_graph` gives."""
        return self.load_graph() if self.load_graph else None


def onnx_form(
    name: str,
    model: onnx.ModelProto,
    backends: Sequence[str],
    open_engine: Callable[[str], Engine],
) -> ModelForm:
    """A Subject of an ONNX model with a record. Raises ModelError as `PlainGraph` and `require_spec` do."""
    plain = PlainGraph(model, require_spec(model, name))
    return ModelForm(
        name=name,
        spec=plain.spec,
        plain=plain,
        load_graph=lambda: plain.model,
        backends=tuple(backends),
        open_engine=open_engine,
    )


def choose_reference(subjects: Sequence[ModelForm]) -> ModelForm:
    """What the others are held to where nobody says: a checkpoint, else the first fp32 file, else the first that
    is no compiled engine.

    Raises UsageError where all are compiled.
    """
    plain = [subject for subject in subjects if subject.plain is not None]
    if not plain:
        raise UsageError(
            "a compiled engine can only be held to the model it was built from; name that with --against"
        )
    checkpoints = [subject for subject in plain if subject.plain_backend != GRAPH]
    full = [subject for subject in plain if subject.spec.precision == "fp32"]
    return (checkpoints or full or plain)[0]


def check_comparable(subject: ModelForm, reference: ModelForm) -> None:
    """Raises UsageError where the two are not forms of one model."""
    for what in ("scale", "channels"):
        ours, theirs = getattr(subject.spec, what), getattr(reference.spec, what)
        if ours != theirs:
            raise UsageError(
                f"{subject.name} has {what} {ours} and {reference.name} {theirs}; verify forms of one model together"
            )


def takes_floats(subject: ModelForm) -> bool:
    """Whether engines of it take float32 pixels; a graph of bytes has no such form."""
    return subject.graph is None or not has_pixel_io(subject.graph)


def lower_precision(subject: ModelForm, reference: ModelForm) -> str:
    """The precision of the two that rounds more."""
    return max(subject.spec.precision, reference.spec.precision, key=list(TOLERANCES).index)


@dataclass(frozen=True)
class ReferencedCrop:
    """A crop, and what the reference makes of it, clipped to 0..1."""

    crop: VerifyCrop
    wanted: Floats


def largest_crops(crops: Sequence[ReferencedCrop]) -> Sequence[ReferencedCrop]:
    """The few crops on which everything a graph computes is looked at."""
    return sorted(crops, key=lambda referenced: -referenced.crop.small.size)[:3]
