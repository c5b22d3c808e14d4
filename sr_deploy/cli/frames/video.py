"""`sr-deploy video`: a video file in, a larger video file out.

This module parses and prints; `sr_deploy.video` does the work.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sr_deploy.cli.frames.options import frame_options
from sr_deploy.cli.frames.progress import FrameProgress
from sr_deploy.cli.shared.model_options import choose_form, model_name, open_upscaler
from sr_deploy.cli.shared.paths import NamedPath

if TYPE_CHECKING:
    from sr_deploy.video.job import VideoOptions, VideoResult

_EXAMPLES = """\b
Examples:
  sr-deploy video film.mkv -o film-x2.mkv --scale 2
  sr-deploy video film.mkv -o film-x4.mkv --codec hevc --quality 20 --preset slow
  sr-deploy video film.mkv -o master.mkv --codec ffv1
"""


def _parse_encoder_options(
    ctx: click.Context, param: click.Parameter, values: tuple[str, ...]
) -> tuple[tuple[str, str], ...]:
    """Parse --encoder-option: NAME=VALUE pairs. A value may contain "=" or be empty. Raises click.BadParameter."""
    pairs = []
    for value in values:
        name, equals, rest = value.partition("=")
        if not (name and equals):
            raise click.BadParameter(f"'{value}' is not NAME=VALUE.", ctx, param)
        pairs.append((name, rest))
    return tuple(pairs)


@click.command("video", epilog=_EXAMPLES)
@click.argument("source", metavar="IN", type=NamedPath())
@click.option(
    "-o",
    "--output",
    type=NamedPath(),
    metavar="OUT",
    required=True,
    help="Video file to write: .mp4, .mov, .mkv or .webm.",
)
@frame_options
@click.option(
    "--codec",
    help="Codec of the result: h264, hevc, av1, vp9, prores, ffv1 (lossless), or the name of an FFmpeg encoder. "
    "[default: h264; hevc for deep or very large video; vp9 in .webm]",
)
@click.option(
    "--quality",
    type=click.IntRange(0, 63),
    help="Constant rate factor of the encoder; smaller is better. [default: h264 17, hevc 19, av1 and vp9 24]",
)
@click.option(
    "--preset",
    help="Preset of the encoder, such as fast or slow; for av1 a number. [default: chosen by the encoder]",
)
@click.option(
    "--pixel-format",
    help="Pixel format of the result, such as yuv420p or yuv420p10le. [default: that of the source if the encoder has it]",
)
@click.option(
    "--encoder-option",
    "extra",
    metavar="NAME=VALUE",
    multiple=True,
    callback=_parse_encoder_options,
    help="Additional option for the encoder. Repeat for several.",
)
@click.option("--no-audio", is_flag=True, help="Leave the audio out.")
@click.option("--no-subtitles", is_flag=True, help="Leave the subtitles out.")
@click.option(
    "--drop-unsupported",
    is_flag=True,
    help="Leave out, with a note, the audio and subtitles that the output cannot hold.",
)
@click.option("--deinterlace", is_flag=True, help="Turn interlaced frames into progressive ones first.")
@click.option(
    "--max-gap",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Close longer gaps between two frames. [default: all gaps are kept]",
)
@click.option("--overwrite", is_flag=True, help="Replace an existing output file.")
@click.option(
    "--follow-links",
    is_flag=True,
    help="Write to where OUTPUT leads if it is a link, instead of replacing the link.",
)
@click.option(
    "--restart", is_flag=True, help="Start from the beginning instead of continuing an interrupted run."
)
@click.option(
    "--part-frames",
    type=click.IntRange(1, 100_000),
    default=120,
    show_default=True,
    help="Frames in each separately encoded part. An interruption loses at most one part.",
)
@click.option("-q", "--quiet", is_flag=True, help="Print only errors.")
def command(source: Path, output: Path, **options: Any) -> None:
    """Upscale a video.

    Audio, subtitles, chapters, attachments, metadata, colour tags and timestamps are copied, and the result is
    checked against the source. After any interruption, run the same command again: it continues where it stopped.
    """
    from sr_deploy.system.output_folder import OutputFolders

    output = output.resolve() if options["follow_links"] else output
    folders = OutputFolders()
    with FrameProgress(quiet=options["quiet"]) as display:
        try:
            # The folder of the output is made here, and removed again below if the run leaves it empty.
            folders.prepare(output, overwrite=True)
            result = _upscale(source, output, options, display)
        except KeyboardInterrupt:
            display.say("the finished parts are kept; run the same command again to go on")
            raise
        finally:
            folders.remove_empty()
    if not options["quiet"]:
        facts = f"{result.width}x{result.height}, {result.encoder} {result.pixel_format}"
        click.echo(
            f"{source} -> {output} ({result.frames} frames, {facts}, {display.seconds:.1f} s)", err=True
        )


def _upscale(source: Path, output: Path, options: dict[str, Any], display: FrameProgress) -> VideoResult:
    """Open the Upscaler and upscale the video, with `display` as the listener.

    Raises MissingRuntimeError without PyAV, and what `upscale_video` raises.
    """
    from sr_deploy.models import find_chain
    from sr_deploy.video.job import check_files, upscale_video
    from sr_deploy.video.pyav import pyav

    pyav()  # a missing package is reported before a model is loaded, and so is a file that cannot serve
    settings = _video_options(options)
    check_files(source, output, settings)
    model = choose_form(model_name(options), options, display.say)
    with open_upscaler(model, options, display.say) as upscaler:
        return upscale_video(
            source, output, upscaler, model=find_chain(model), options=settings, watcher=display
        )


def _video_options(options: dict[str, Any]) -> VideoOptions:
    """The options of the command as `VideoOptions`.

    `--restart` becomes `resume=False`: parts of an interrupted run are then deleted instead of continued.
    """
    from fractions import Fraction

    from sr_deploy.video.encoder import EncodeOptions
    from sr_deploy.video.job import VideoOptions
    from sr_deploy.video.streams import StreamChoice

    encode = EncodeOptions(
        codec=options["codec"],
        quality=options["quality"],
        preset=options["preset"],
        pixel_format=options["pixel_format"],
        extra=options["extra"],
    )
    return VideoOptions(
        encode=encode,
        choice=StreamChoice(
            audio=not options["no_audio"],
            subtitles=not options["no_subtitles"],
            drop_unsupported=options["drop_unsupported"],
        ),
        deinterlace=options["deinterlace"],
        max_gap=None if options["max_gap"] is None else Fraction(str(options["max_gap"])),
        overwrite=options["overwrite"],
        resume=not options["restart"],
        part_frames=options["part_frames"],
        streams=options["streams"],
    )
