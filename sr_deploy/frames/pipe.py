"""Upscale a stream of raw frames or y4m: frames in on a readable stream, larger frames out on a writable
one.

Reading with the conversion to RGB, computing, and writing with the conversion back run at once; see `flow`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

from sr_deploy.errors import InputError, UsageError
from sr_deploy.frames.colour import Colours, Matrix, Range, Siting, usual_matrix
from sr_deploy.frames.convert import FramePixels, pack, unpack
from sr_deploy.frames.flow import run_flow
from sr_deploy.frames.layout import ALL_LAYOUTS, LAYOUTS, Layout, Plane, layout_of
from sr_deploy.frames.streams import (
    Geometry,
    Readable,
    Writable,
    read_frames,
    read_header,
    widen_pipe,
    write_all,
    write_frame,
)
from sr_deploy.frames.y4m import Header, can_hold
from sr_deploy.upscale import Upscaler

Y4M = "y4m"
_SHUTDOWN_TIMEOUT = 0.5
"""Seconds that Ctrl-C waits for a blocked read or write on a pipe."""


@dataclass(frozen=True, kw_only=True)
class PipeOptions:
    """The formats of the incoming and the outgoing frames."""

    format: str
    """Name of the incoming layout, or "y4m", whose header gives the rest."""
    size: tuple[int, int] | None = None
    """(width, height) of the incoming frames in pixels; None for y4m."""
    output_format: str | None = None
    """Name of the outgoing layout, or "y4m"; None: the incoming format."""
    rate: str = "25"
    """Frames per second, such as 25 or 30000/1001, for a y4m header that is made for raw frames."""
    matrix: Matrix | None = None
    """Matrix of YUV; None: BT.601 or BT.709 by the incoming size, see `usual_matrix`."""
    range: Range | None = None
    """Range of YUV; None: as in the y4m header, else limited."""
    siting: Siting | None = None
    """Position of chroma samples; None: as in the y4m header, else left."""
    stride: int | None = None
    """Bytes from one row of the incoming frames to the next, in their first plane; None: rows have no padding."""
    streams: int = 2
    """Number of frames computed at once. Two keep the engine busy while a result is handed over."""


def run_pipe(
    source: Readable,
    target: Writable,
    upscaler: Upscaler,
    options: PipeOptions,
    *,
    done: Callable[[int], None] | None = None,
    say: Callable[[str], None] | None = None,
) -> int:
    """Upscale every frame of `source` into `target` and return their number.

    `done(count)` is called after every written frame, from the thread that writes. `say` gets notes for the
    user.

    Raises UsageError for contradictory options, and InputError for a stream that holds no frame, ends
    within a frame, or has an unusable header; frames before that are written. Errors of `target`, such as a
    broken pipe, are passed on.
    """
    incoming, outgoing, colours = _plan(source, upscaler.spec.scale, options, say or (lambda text: None))
    for stream in (source, target):
        widen_pipe(stream)
    geometry = Geometry(
        width=incoming.width, height=incoming.height, layout=incoming.layout, stride=options.stride
    )
    marked = isinstance(outgoing, Header)
    if isinstance(outgoing, Header):
        write_all(target, memoryview(outgoing.to_line()))
    large = outgoing.layout
    written = 0

    def pictures() -> Iterator[FramePixels]:
        for planes in read_frames(source, geometry, marked=isinstance(incoming, Header)):
            yield unpack(planes, incoming.layout, colours)

    def write(picture: FramePixels) -> None:
        nonlocal written
        write_frame(target, pack(picture, large, colours), marked=marked)
        written += 1
        if done is not None:
            done(written)

    run_flow(
        pictures(),
        partial(upscale_picture, upscaler),
        write,
        workers=options.streams,
        shutdown_timeout=_SHUTDOWN_TIMEOUT,
    )
    if not written:
        raise InputError(
            "the input ended before the first frame; check the messages of the program that writes it"
        )
    return written


def upscale_picture(upscaler: Upscaler, picture: FramePixels) -> FramePixels:
    """Upscale one frame. Opacity is treated as in `Upscaler.upscale`."""
    if picture.alpha is None:
        return FramePixels(upscaler.upscale_pixels(picture.pixels))
    # An Image does not hold float32, which deep frames are; the Upscaler needs only these two fields.
    return cast("FramePixels", upscaler.upscale(cast("Any", picture)))


def _plan(
    source: Readable, scale: int, options: PipeOptions, say: Callable[[str], None]
) -> tuple[Geometry | Header, Geometry | Header, Colours]:
    """Return the incoming and outgoing geometry, and the meaning of YUV values. Reads the header of y4m.

    A y4m output keeps rate, aspect and interlacing of a y4m input. A layout that y4m cannot name is
    replaced by the nearest one without less chroma.
    """
    incoming = _incoming(source, options)
    header = incoming if isinstance(incoming, Header) else None
    if header is not None and header.interlacing not in ("p", "?"):
        say(
            "the frames are interlaced, and upscaling blurs them; deinterlace them first, for example with ffmpeg's bwdif"
        )
    colours = Colours(
        matrix=options.matrix or usual_matrix(incoming.height, incoming.width),
        range=options.range or (header.range if header else None) or "limited",
        siting=options.siting or (header.siting if header else None) or "left",
    )
    name = options.output_format or options.format
    width, height = incoming.width * scale, incoming.height * scale
    if name != Y4M:
        return incoming, Geometry(width=width, height=height, layout=layout_of(name)), colours
    layout = incoming.layout if can_hold(incoming.layout) else _nearest(incoming.layout)
    made = header or Header(
        width=width,
        height=height,
        layout=layout,
        range="full" if layout.kind == "grey" else colours.range,
        rate=_rate_ratio(options.rate),
    )
    outgoing = replace(made, width=width, height=height, layout=layout, siting=colours.siting)
    if layout.kind == "yuv" and (header is None or options.range):
        outgoing = replace(outgoing, range=colours.range)
    return incoming, outgoing, colours


def _incoming(source: Readable, options: PipeOptions) -> Geometry | Header:
    """Return the geometry of the incoming frames. Raises UsageError if the size is missing or contradicts
    the header."""
    if options.format == Y4M:
        header = read_header(source)
        if options.size not in (None, (header.width, header.height)):
            raise UsageError(
                f"the y4m header says {header.width}x{header.height}, and --size asks for another size; leave --size out"
            )
        return header
    layout = layout_of(options.format)
    if options.size is None:
        raise UsageError(f"raw {options.format} frames carry no size; give it, for example --size 1920x1080")
    return Geometry(width=options.size[0], height=options.size[1], layout=layout)


def _nearest(layout: Layout) -> Layout:
    """Return the layout that y4m takes in place of one it cannot name.

    It has as much chroma at least, and as many bits. Only opacity is lost.
    """
    words = replace(layout, big_endian=False, shift=0, paired=False)
    if layout.kind == "rgb":
        return LAYOUTS["yuv444p" if layout.depth == 8 else "yuv444p16le"]
    wider = (
        "gray16le" if layout.kind == "grey" else f"yuv444p{'' if layout.depth == 8 else f'{layout.depth}le'}"
    )
    return next(
        (one for one in ALL_LAYOUTS.values() if can_hold(one) and replace(one, name=layout.name) == words),
        ALL_LAYOUTS[wider],  # y4m has no name for 14 bits of grey and for chroma of half the rows
    )


def _rate_ratio(rate: str) -> str:
    """Convert a frame rate to y4m's form: 25 -> 25:1, 30000/1001 -> 30000:1001. Raises UsageError for other
    text."""
    above, _, below = rate.partition("/")
    if not (above.isdecimal() and (below or "1").isdecimal() and int(above) and int(below or 1)):
        raise UsageError(
            f"a frame rate must be a number such as 25 or a ratio such as 30000/1001, got {rate!r}"
        )
    return f"{above}:{below or 1}"


__all__ = ["Y4M", "PipeOptions", "Plane", "run_pipe", "upscale_picture"]
