"""`sr-deploy pipe`: raw frames on stdin, larger raw frames on stdout.

This module parses and prints; `sr_deploy.frames.pipe` does the work.
"""

from __future__ import annotations

import io
import os
import sys
from typing import Any

import click

from sr_deploy.cli.frames.options import frame_options
from sr_deploy.cli.frames.progress import FrameProgress
from sr_deploy.cli.shared.model_options import choose_form, model_name, open_upscaler
from sr_deploy.cli.upscale import parse_size

_EXAMPLES = """\b
Examples:
  ffmpeg -i in.mp4 -f yuv4mpegpipe - | sr-deploy pipe --format y4m -s 2 | ffmpeg -i - out.mp4
  ffmpeg -i in.mp4 -f rawvideo -pix_fmt rgb24 - | sr-deploy pipe --size 640x360 --format rgb24 |
    ffmpeg -f rawvideo -pix_fmt rgb24 -s 2560x1440 -r 25 -i - out.mp4
"""


@click.command("pipe", epilog=_EXAMPLES)
@click.option(
    "--size",
    metavar="WxH",
    callback=parse_size,
    help="Size of the incoming raw frames in pixels; y4m frames state their own.",
)
@click.option(
    "-f",
    "--format",
    "format_name",
    metavar="FORMAT",
    required=True,
    help="Format of the incoming frames: y4m, or one of ffmpeg's -pix_fmt: rgb24, bgr24, gray8, rgba, rgb48le, "
    "yuv420p, nv12, p010le and more.",
)
@click.option(
    "--stride",
    type=click.IntRange(min=1),
    metavar="BYTES",
    help="Bytes from one row of the incoming frames to the next, in their first plane. [default: rows have no padding]",
)
@click.option(
    "--output-format",
    metavar="FORMAT",
    help="Format of the outgoing frames. [default: the format of the incoming frames]",
)
@click.option(
    "--matrix",
    type=click.Choice(["bt601", "bt709", "bt2020"]),
    help="Colour matrix of YUV frames, in and out. [default: bt601 for frames up to 576 rows, bt709 above]",
)
@click.option(
    "--range",
    "range_name",
    type=click.Choice(["limited", "full"]),
    help="Value range of YUV frames, in and out. [default: from the y4m header, else limited]",
)
@click.option(
    "--chroma-location",
    type=click.Choice(["left", "center", "topleft"]),
    help="Position of the samples of subsampled chroma. [default: from the y4m header, else left]",
)
@click.option(
    "--rate",
    default="25",
    show_default=True,
    help="Frames per second in the y4m header that is written for raw frames: a number or a ratio such as 30000/1001.",
)
@frame_options
@click.option("-q", "--quiet", is_flag=True, help="Print only errors.")
def command(**options: Any) -> None:
    """Upscale raw frames between two programs.

    Frames are read from stdin and written to stdout in the same order; none is dropped. Reading, computing and
    writing overlap. If the stream ends within a frame, the complete frames are written and the exit code is 3.
    """
    from sr_deploy.frames.pipe import PipeOptions, run_pipe

    settings = PipeOptions(
        format=options["format_name"],
        size=options["size"],
        output_format=options["output_format"],
        rate=options["rate"],
        matrix=options["matrix"],
        range=options["range_name"],
        siting=options["chroma_location"],
        stride=options["stride"],
        streams=options["streams"],
    )
    source, target = _binary_stream(sys.stdin, "stdin"), _binary_stream(sys.stdout, "stdout")
    with (
        FrameProgress(quiet=options["quiet"]) as display,
        open_upscaler(
            choose_form(model_name(options), options, display.say), options, display.say
        ) as upscaler,
    ):
        display.begin(None)
        count = run_pipe(source, target, upscaler, settings, done=display.frame, say=display.say)
        backend = upscaler.engine.backend
    if not options["quiet"]:
        click.echo(f"{count} frames in {display.seconds:.1f} s, {display.rate:.1f}/s, {backend}", err=True)


def _binary_stream(stream: Any, name: str) -> Any:
    """The unbuffered binary file behind `stream`, which is stdin or stdout.

    Raises click.UsageError for a terminal. Returns the buffered file if there is no unbuffered one.
    """
    if stream.isatty():
        direction = "from" if name == "stdin" else "to"
        raise click.UsageError(f"{name} is a terminal; pipe frames {direction} another program or a file.")
    buffer = stream.buffer
    if sys.platform == "win32" and isinstance(buffer, io.BufferedIOBase):
        import msvcrt

        # In text mode Windows changes bytes that look like line ends.
        msvcrt.setmode(stream.fileno(), os.O_BINARY)
    return getattr(buffer, "raw", buffer)
