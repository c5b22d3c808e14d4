"""`Upscale`: a clip in which every frame is upscaled when it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

from sr_deploy.errors import MissingRuntimeError, SrDeployError, UsageError
from sr_deploy.upscale import Upscaler
from sr_deploy.vapoursynth.formats import layout_of_format
from sr_deploy.vapoursynth.frame import upscale_frame

Clip = Any
"""A `vapoursynth.VideoNode`."""


def Upscale(  # noqa: N802 - filters of VapourSynth are named so
    clip: Clip,
    model: str | Path,
    *,
    backend: str = "auto",
    threads: int | None = None,
    tile: int | Literal["auto"] | None = "auto",
    overlap: int | None = None,
    streams: int = 2,
) -> Clip:
    """Return `clip` enlarged by the model's scale, in the same format and with the same frame properties.

    `model` is the name of a bundled model, an ONNX file or an engine file; `backend`, `threads`, `tile` and `overlap` are
    those of `Upscaler.open`. `streams` frames are computed at once, if VapourSynth has as many threads. Frames come out in
    order, and any of them can be asked for at any time.

    Raises `vapoursynth.Error` with one sentence for a model, an option or a format that cannot be used. A frame that cannot
    be upscaled raises it when it is asked for. Raises MissingRuntimeError if VapourSynth is missing.
    """
    vs = _vapoursynth()
    try:
        _check(vs, clip, streams)
        upscaler = Upscaler.open(
            model, backend=backend, threads=threads, tile=tile, overlap=overlap, say=partial(_log, vs)
        )
        return _upscaled(vs, clip, upscaler, streams)
    except SrDeployError as error:
        raise vs.Error(f"Upscale: {error}") from None


def _vapoursynth() -> Any:
    """Return the module `vapoursynth`. Raises MissingRuntimeError if it cannot be imported."""
    try:
        import vapoursynth
    except ImportError as error:
        raise MissingRuntimeError(
            f"this needs VapourSynth, which cannot be imported ({error}); with Python 3.12 or later: pip install "
            '"sr-deploy[vapoursynth]"'
        ) from error
    return vapoursynth


def _log(vs: Any, text: str) -> None:
    """Pass a note for the user to the program that runs the script."""
    vs.core.log_message(vs.MESSAGE_TYPE_INFORMATION, f"Upscale: {text}")


def _check(vs: Any, clip: Clip, streams: int) -> None:
    """Raise UsageError for an argument that is wrong, before a model is opened."""
    if not isinstance(clip, vs.VideoNode):
        raise UsageError(f"clip must be a VapourSynth clip of video, got {type(clip).__name__}")
    if not isinstance(streams, int) or streams < 1:
        raise UsageError(f"streams must be a number of frames from 1, got {streams!r}")
    if _has_one_format(vs, clip):
        layout_of_format(clip.format)


def _has_one_format(vs: Any, clip: Clip) -> bool:
    """Return whether all frames of a clip have the same format."""
    return clip.format is not None and int(clip.format.color_family) != int(vs.UNDEFINED)


def _upscaled(vs: Any, clip: Clip, upscaler: Upscaler, streams: int) -> Clip:
    """Return the filter. VapourSynth calls one Python function for one frame at a time, so there are `streams` filters
    side by side, each for every `streams`th frame."""
    if clip.width:
        upscaler.plan(clip.height, clip.width)  # raises UsageError if the model cannot take the size
    large, modifier = _large_blank(vs, clip, upscaler.spec.scale), partial(_modifier, vs, upscaler)
    std, count = vs.core.std, min(streams, clip.num_frames)
    if count == 1:
        return std.ModifyFrame(large, clip, modifier(lambda n: n))

    def part(first: int) -> Clip:
        own, blank = (std.SelectEvery(one, count, [first], modify_duration=False) for one in (clip, large))
        return std.ModifyFrame(blank, own, modifier(lambda n: n * count + first))

    parts = [part(first) for first in range(count)]
    # with `extend`, the result lasts as long as the longest part in all places; what is too long is cut off
    joined = std.Interleave(parts, extend=True, mismatch=True, modify_duration=False)
    return std.Trim(joined, length=clip.num_frames)


def _large_blank(vs: Any, clip: Clip, scale: int) -> Clip:
    """Return a clip of the format and size that the result has. Its frames are never made.

    It has as many frames as `clip`. Where sizes or formats of `clip` change, it is of changing size or format as well.
    """
    std, size = vs.core.std, {"width": clip.width * scale, "height": clip.height * scale}
    if not clip.width:
        return clip
    if _has_one_format(vs, clip):
        return std.BlankClip(clip, **size, keep=True)
    one, other = (std.BlankClip(clip, **size, format=format, length=1) for format in (vs.GRAY8, vs.RGB24))
    return std.Loop(std.Splice([one, other], mismatch=True), clip.num_frames)[: clip.num_frames]


def _modifier(vs: Any, upscaler: Upscaler, number: Callable[[int], int]) -> Callable[[int, Any], Any]:
    """Return the function that VapourSynth calls with frames. `number` gives the frame's number in the clip."""

    def modify(n: int, f: Any) -> Any:
        try:
            return upscale_frame(f, upscaler)
        except SrDeployError as error:
            text = f"Upscale: frame {number(n)}: {error}"
        # raised here, where no other error is handled: VapourSynth's message would contain the traceback of both
        raise vs.Error(text)

    return modify
