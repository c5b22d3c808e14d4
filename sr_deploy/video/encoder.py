"""Which encoder makes the result and how: chosen once, so that every part and the joined file agree."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from difflib import get_close_matches
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sr_deploy.errors import UsageError
from sr_deploy.frames.colour import Colours
from sr_deploy.frames.layout import LAYOUTS, Layout
from sr_deploy.video.pixels import FULL, LIMITED, RGB_SPACE, colours_of, layout_for, space_of
from sr_deploy.video.pyav import Container, Stream, pyav

if TYPE_CHECKING:
    from sr_deploy.video.source import VideoInfo

SUFFIXES = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
CODECS = {
    "h264": "libx264",
    "hevc": "libx265",
    "av1": "libsvtav1",
    "vp9": "libvpx-vp9",
    "prores": "prores_ks",
    "ffv1": "ffv1",
}
"""Names people use -> FFmpeg's encoders; an encoder's own name does as well."""
_QUALITY = {"libx264": 17, "libx265": 19, "libsvtav1": 24, "libvpx-vp9": 24}
_ALWAYS = {
    "libx265": {"x265-params": "log-level=none"},
    "libvpx-vp9": {"b": "0", "row-mt": "1", "deadline": "good", "cpu-used": "3"},
    "ffv1": {"level": "3", "g": "1"},
}
_H264_LARGEST = 4096 * 2304
"""Pixels of level 5.2, which hardware decodes."""


@dataclass(frozen=True, kw_only=True)
class EncodeOptions:
    """What the user may say of the result."""

    codec: str | None = None
    """None: H.264 for 8 bits up to 4096x2304, HEVC above; in WebM, VP9."""
    quality: int | None = None
    """Constant rate factor; smaller is better. None: visually lossless by the encoder's scale."""
    preset: str | None = None
    pixel_format: str | None = None
    """None: the source's, or the nearest the encoder takes."""
    extra: tuple[tuple[str, str], ...] = ()
    """Further options of the encoder, as name and value."""


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """All that makes an encoder; equal encodings make equal streams."""

    encoder: str
    width: int
    height: int
    pixel_format: str
    layout: Layout
    colours: Colours
    space: int
    range: int
    primaries: int
    transfer: int
    rate: Fraction
    time_base: Fraction
    aspect: Fraction | None = None
    options: dict[str, str] = field(default_factory=dict)

    def add_to(self, container: Container) -> Stream:
        """A stream of this encoding in `container`, whose encoder opens with the first packet or frame."""
        stream: Stream = container.add_stream(self.encoder, rate=self.rate, options=dict(self.options))
        stream.width, stream.height, stream.pix_fmt = self.width, self.height, self.pixel_format
        stream.time_base = self.time_base
        context = stream.codec_context
        context.time_base = self.time_base
        context.colorspace, context.color_range = self.space, self.range
        context.color_primaries, context.color_trc = self.primaries, self.transfer
        if self.aspect is not None:
            context.sample_aspect_ratio = self.aspect
        stream.thread_type = "AUTO"
        return stream


def plan_encoding(facts: VideoInfo, scale: int, target: Path, options: EncodeOptions) -> Encoding:
    """Choose what the user left open. Raises UsageError for what no encoder of this PyAV can do."""
    width, height = facts.width * scale, facts.height * scale
    source = layout_for(facts.pixel_format)
    name = _encoder_name(options.codec, target, source.depth > 8 or width * height > _H264_LARGEST)
    encoder = _encoder(name)
    pixel_format = _pixel_format(encoder, source, options.pixel_format)
    layout = layout_for(pixel_format)
    if (width % layout.across or height % layout.down) and name != "ffv1":
        raise UsageError(
            f"the result of {width}x{height} pixels has an odd side, which {pixel_format} cannot have; add "
            "--pixel-format yuv444p"
        )
    colours = colours_of(facts)
    yuv = layout.kind != "rgb"
    return Encoding(
        encoder=name,
        width=width,
        height=height,
        pixel_format=pixel_format,
        layout=layout,
        colours=colours,
        space=space_of(colours) if yuv else RGB_SPACE,
        range=FULL if colours.range == "full" or not yuv else LIMITED,
        primaries=facts.primaries,
        transfer=facts.transfer,
        rate=facts.rate,
        time_base=facts.time_base,
        aspect=facts.aspect,
        options=_encoder_options(name, encoder, options, facts),
    )


def container_format(target: Path) -> str:
    """The container a file name asks for. Raises UsageError for one that is not written."""
    found = SUFFIXES.get(target.suffix.lower())
    if found is None:
        known = ", ".join(SUFFIXES)
        raise UsageError(f"output {target}: videos are written as {known}; choose one of these")
    return found


def _encoder_name(codec: str | None, target: Path, demanding: bool) -> str:
    if codec is not None:
        return CODECS.get(codec.lower(), codec)
    if container_format(target) == "webm":
        return CODECS["vp9"]
    return CODECS["hevc" if demanding else "h264"]


def _encoder(name: str) -> Any:
    av = pyav()
    try:
        codec = av.codec.Codec(name, "w")
    except av.codec.codec.UnknownCodecError as error:
        raise UsageError(
            f"this PyAV has no encoder {name!r}; choose one of {', '.join(CODECS)}, or one that FFmpeg names"
        ) from error
    if codec.type != "video":
        raise UsageError(f"{name} encodes {codec.type}, not video; choose one of {', '.join(CODECS)}")
    return codec


def _pixel_format(encoder: Any, source: Layout, asked: str | None) -> str:
    takes = [known.name for known in encoder.video_formats or ()]
    if asked is not None:
        if takes and asked not in takes:
            raise UsageError(f"{encoder.name} takes no {asked} frames; choose one of {', '.join(takes)}")
        if layout_for(asked).name not in (asked, "gray8"):
            raise UsageError(f"frames are not made as {asked}; choose one of {', '.join(LAYOUTS)}")
        return asked
    if not takes:
        return "yuv420p"
    ours = (name for name in takes if layout_for(name).name == name)
    found = next((name for name in _preferred_formats(source) if name in takes), None) or next(ours, None)
    if found is None:
        raise UsageError(
            f"{encoder.name} takes {', '.join(takes)} only, which is not made; choose another --codec"
        )
    return found


def _preferred_formats(source: Layout) -> list[str]:
    """Pixel formats of the result for a source's layout, best first: its own, its depth, its chroma."""
    chroma = source.name[:7] if source.kind == "yuv" and not source.paired else "yuv420p"
    own = [source.name] if source.kind == "yuv" and not source.paired else []
    deep = [f"{chroma}10le", "yuv420p10le"] if source.depth > 8 else []
    return [*own, *deep, chroma, "yuv420p"]


def _encoder_options(name: str, encoder: Any, options: EncodeOptions, facts: VideoInfo) -> dict[str, str]:
    made = dict(_ALWAYS.get(name, {}))
    quality = options.quality if options.quality is not None else _QUALITY.get(name)
    if options.quality is not None and name not in _QUALITY:
        raise UsageError(f"{name} has no quality of this kind; set it with --encoder-option NAME=VALUE")
    if quality is not None:
        made["crf"] = str(quality)
    if options.preset is not None:
        made["preset"] = options.preset
    if name == "libx265" and (light := _x265_hdr(facts.light)):
        made["x265-params"] += f":{light}"
    for key, value in options.extra:
        joins = key in made and key.endswith("-params")
        made[key] = f"{made[key]}:{value}" if joins else value
    _check_known(name, made)
    return made


def _check_known(encoder: str, options: dict[str, str]) -> None:
    """Raise UsageError for an option the encoder does not have; FFmpeg would pass over it without a word."""
    context = pyav().codec.context.CodecContext.create(encoder, "w")
    if not hasattr(context, "supported_options"):  # before PyAV 18
        return
    groups = context.supported_options
    known = {option.name for option in (*groups.generic, *groups.private)}
    if unknown := [name for name in options if name not in known]:
        near = get_close_matches(unknown[0], known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "leave it out, or choose another --codec"
        raise UsageError(f"{encoder} has no option {unknown[0]!r}; {hint}")


def _x265_hdr(light: dict[str, bytes]) -> str:
    """HDR metadata as x265 takes it, from FFmpeg's structures of rational numbers."""
    words = []
    if len(data := light.get("MASTERING_DISPLAY_METADATA", b"")) >= 88:
        numbers = struct.unpack("<22i", data[:88])
        if numbers[20] and numbers[21]:
            ratios = [
                Fraction(above, below or 1)
                for above, below in zip(numbers[:20:2], numbers[1:20:2], strict=True)
            ]
            red, green, blue, white = (ratios[i : i + 2] for i in (0, 2, 4, 6))
            places = zip("GBR", (green, blue, red), strict=True)
            text = "".join(f"{letter}({_in_units(50000, *xy)})" for letter, xy in places)
            words.append(
                f"master-display={text}WP({_in_units(50000, *white)})L({_in_units(10000, ratios[9], ratios[8])})"
            )
    if len(data := light.get("CONTENT_LIGHT_LEVEL", b"")) >= 8:
        most, average = struct.unpack("<2I", data[:8])
        words.append(f"max-cll={most},{average}")
    return ":".join(words)


def _in_units(unit: int, *values: Fraction) -> str:
    return ",".join(str(round(value * unit)) for value in values)
