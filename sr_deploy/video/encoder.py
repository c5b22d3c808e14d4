"""Choose the encoder of the result and its settings. They are fixed once, so every part and the joined file
agree."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from difflib import get_close_matches
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sr_deploy.errors import UsageError
from sr_deploy.frames.colour import Colours, Siting
from sr_deploy.frames.layout import LAYOUTS, Layout
from sr_deploy.video.pixels import (
    FULL,
    LIMITED,
    RGB_SPACE,
    alpha_format,
    can_write,
    colours_of,
    frame_layout,
    has_alpha,
    layout_for,
    space_of,
)
from sr_deploy.video.pyav import Container, Stream, pyav, pyav_version

if TYPE_CHECKING:
    from sr_deploy.video.source import VideoInfo

SUFFIXES = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
"""FFmpeg's name of the container for each suffix that can be written."""
CODECS = {
    "h264": "libx264",
    "hevc": "libx265",
    "av1": "libsvtav1",
    "vp9": "libvpx-vp9",
    "prores": "prores_ks",
    "ffv1": "ffv1",
}
"""FFmpeg's encoder for each common codec name. An encoder's own name is accepted too."""
_QUALITY = {"libx264": 17, "libx265": 19, "libsvtav1": 24, "libvpx-vp9": 24}
"""Default constant rate factor of each encoder that has one. Chosen to be visually lossless on its scale."""
_ALWAYS = {
    "libx265": {"x265-params": "log-level=none"},
    "libvpx-vp9": {"b": "0", "row-mt": "1", "deadline": "good", "cpu-used": "3"},
    "ffv1": {"level": "3", "g": "1"},
}
"""Options that are always set. x265 would log to stderr; VP9 needs a bit rate of 0 for constant quality;
FFV1 version 3 has checksums, and a group of 1 frame makes every frame a key frame."""
_LOSSLESS = {"ffv1", "utvideo", "libx264rgb", "huffyuv", "ffvhuff", "magicyuv", "png", "qtrle", "rawvideo"}
"""Encoders that keep RGB, grey and the depth of the source. Players of other codecs expect YUV."""
_WITH_ALPHA = {"ffv1", "prores_ks", "png", "qtrle", "utvideo", "magicyuv"}
"""Encoders whose opacity is written inside the frames. That of VP9 lies in data beside them, which the parts lose."""
_LOCATIONS: dict[Siting, str] = {"left": "left", "center": "center", "topleft": "topleft"}
"""FFmpeg's name of each position of chroma samples."""
_H264_LARGEST = 4096 * 2304
"""Most pixels of a frame at H.264 level 5.2, the highest that hardware commonly decodes."""


@dataclass(frozen=True, kw_only=True)
class EncodeOptions:
    """Encoder settings that the user may give."""

    codec: str | None = None
    """Codec or encoder; None: VP9 in WebM, else H.264 for 8 bits up to 4096x2304 pixels and HEVC above."""
    quality: int | None = None
    """Constant rate factor; smaller is better. None: the default of the encoder, see `_QUALITY`."""
    preset: str | None = None
    """Preset of the encoder, which trades time for size; None: the encoder's default."""
    pixel_format: str | None = None
    """Pixel format of the result; None: the source's format, or the nearest that the encoder takes."""
    extra: tuple[tuple[str, str], ...] = ()
    """Further options of the encoder, as pairs of name and value."""


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """All settings of an encoder. Equal encodings give streams that can be joined."""

    encoder: str
    """FFmpeg's name of the encoder."""
    width: int
    """Width of a frame in pixels."""
    height: int
    """Height of a frame in pixels."""
    pixel_format: str
    """FFmpeg's name of the pixel format that the encoder takes."""
    layout: Layout
    """Layout in which frames are handed to the encoder; it matches `pixel_format`."""
    colours: Colours
    """Matrix and range by which RGB is converted to YUV."""
    space: int
    """Colour matrix as ITU-T H.273 numbers it. `range`, `primaries` and `transfer` likewise."""
    range: int
    primaries: int
    transfer: int
    rate: Fraction
    """Nominal frames per second. Timestamps decide when a frame is shown."""
    time_base: Fraction
    """Unit of timestamps in seconds, the same as in the source."""
    aspect: Fraction | None = None
    """Ratio of width to height of a pixel; None: unknown."""
    options: dict[str, str] = field(default_factory=dict)
    """Options of the encoder by FFmpeg's names."""
    alpha: bool = False
    """True if opacity is upscaled too."""
    keeps_captions: bool = False
    """True if the encoder writes the closed captions of frames (ATSC A/53)."""

    def add_to(self, container: Container) -> Stream:
        """Add a stream of this encoding to `container`. Its encoder opens with the first packet or frame."""
        stream: Stream = container.add_stream(self.encoder, rate=self.rate, options=dict(self.options))
        stream.width, stream.height, stream.pix_fmt = self.width, self.height, self.pixel_format
        stream.time_base = self.time_base
        context = stream.codec_context
        context.time_base = self.time_base
        context.colorspace, context.color_range = self.space, self.range
        context.color_primaries, context.color_trc = self.primaries, self.transfer
        if self.aspect is not None:
            context.sample_aspect_ratio = self.aspect
        stream.thread_type = "AUTO"  # frame or slice threads, whichever the encoder supports
        return stream


def plan_encoding(facts: VideoInfo, scale: int, target: Path, options: EncodeOptions) -> Encoding:
    """Choose all settings that the user left open. Raises UsageError for settings that no encoder of this
    PyAV supports."""
    width, height = facts.width * scale, facts.height * scale
    source = layout_for(facts.pixel_format)
    name = _encoder_name(options.codec, target, source.depth > 8 or width * height > _H264_LARGEST)
    encoder = _encoder(name)
    pixel_format = _pixel_format(encoder, source, options.pixel_format)
    alpha = None
    if facts.alpha and has_alpha(facts.pixel_format) and options.pixel_format is None and name in _WITH_ALPHA:
        alpha = alpha_format(pixel_format, [known.name for known in encoder.video_formats or ()])
        pixel_format = alpha or pixel_format
    layout = frame_layout(pixel_format)
    if (width % layout.across or height % layout.down) and name != "ffv1":
        raise UsageError(
            f"the result has {width}x{height} pixels, but {pixel_format} needs even sides; add "
            "--pixel-format yuv444p"
        )
    colours = colours_of(facts)
    # RGB has no matrix, and is always full range.
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
        alpha=alpha is not None,
        keeps_captions="a53cc" in (_known_options(name) or ()) and pyav_version() >= 18,
    )


def container_format(target: Path) -> str:
    """Return FFmpeg's name of the container that a file name asks for. Raises UsageError for an unknown
    suffix."""
    found = SUFFIXES.get(target.suffix.lower())
    if found is None:
        known = ", ".join(SUFFIXES)
        raise UsageError(
            f"output {target}: the suffix of a video must be one of {known}; choose one of these"
        )
    return found


def _encoder_name(codec: str | None, target: Path, demanding: bool) -> str:
    """Name of the encoder; `demanding`: more than 8 bits, or a frame larger than H.264 level 5.2."""
    if codec is not None:
        return CODECS.get(codec.lower(), codec)
    if container_format(target) == "webm":
        return CODECS["vp9"]
    return CODECS["hevc" if demanding else "h264"]


def _encoder(name: str) -> Any:
    """Return PyAV's description of an encoder. Raises UsageError if it is missing or does not encode video."""
    av = pyav()
    try:
        codec = av.codec.Codec(name, "w")
    except av.codec.codec.UnknownCodecError as error:
        raise UsageError(
            f"this PyAV has no encoder {name!r}; choose one of {', '.join(CODECS)}, or an encoder name of FFmpeg"
        ) from error
    if codec.type != "video":
        raise UsageError(f"{name} encodes {codec.type}, not video; choose one of {', '.join(CODECS)}")
    return codec


def _pixel_format(encoder: Any, source: Layout, asked: str | None) -> str:
    """Return the pixel format of the result. Raises UsageError if the encoder does not take it, or if it
    cannot be made."""
    takes = [known.name for known in encoder.video_formats or ()]
    if asked is not None:
        if takes and asked not in takes:
            raise UsageError(f"{encoder.name} does not take {asked} frames; choose one of {', '.join(takes)}")
        if not can_write(asked):
            raise UsageError(f"{asked} frames cannot be made; choose one of {', '.join(LAYOUTS)}")
        return asked
    if not takes:
        return "yuv420p"
    # If the encoder takes none of the preferred formats, any that we can make is better than none.
    ours = (name for name in takes if can_write(name))
    wanted = _preferred_formats(source, encoder.name in _LOSSLESS)
    found = next((name for name in wanted if name in takes), None) or next(ours, None)
    if found is None:
        raise UsageError(
            f"{encoder.name} takes only {', '.join(takes)}, which cannot be made; choose another --codec"
        )
    return found


def _preferred_formats(source: Layout, lossless: bool) -> list[str]:
    """Return pixel formats for a source's layout, best first: the same, the same depth, the same chroma,
    4:2:0. `lossless` encoders also keep grey, RGB and every depth."""
    kept = _same_class(source) if lossless else []
    if source.kind != "yuv":
        return [*kept, *(["yuv420p10le"] if source.depth > 8 else []), "yuv420p"]
    chroma = {(1, 1): "yuv444p", (2, 1): "yuv422p", (1, 2): "yuv440p"}.get(
        (source.across, source.down), "yuv420p"
    )
    own = [] if source.paired else [source.name.replace("be", "le")]
    deep = [f"{chroma}10le", "yuv420p10le"] if source.depth > 8 else []
    better = "yuv444p" if chroma == "yuv440p" else chroma
    return [*own, *kept, *deep, chroma, better, "yuv420p"]


def _same_class(source: Layout) -> list[str]:
    """Return the pixel formats of the source's kind that hold its depth, the smallest first."""
    depths = [depth for depth in (8, 9, 10, 12, 14, 16) if depth >= source.depth]
    ends = ["" if depth == 8 else f"{depth}le" for depth in depths]
    if source.kind == "grey":
        return [f"gray{end}" for end in ends]
    if source.kind == "rgb":
        packed = ["bgr0", "rgb24"] if source.depth == 8 else []
        return [*packed, *(f"gbrp{end}" for end in ends), "rgb48le", *(f"yuv444p{end}" for end in ends)]
    chroma = {(1, 1): "444", (2, 1): "422"}.get((source.across, source.down), "420")
    return [f"yuv{chroma}p{end}" for end in ends]


def _encoder_options(name: str, encoder: Any, options: EncodeOptions, facts: VideoInfo) -> dict[str, str]:
    """Return the options of the encoder. The user's options come last, and replace or extend the others."""
    made = dict(_ALWAYS.get(name, {}))
    if facts.siting is not None:
        made["chroma_sample_location"] = _LOCATIONS[facts.siting]
    quality = options.quality if options.quality is not None else _QUALITY.get(name)
    if options.quality is not None and name not in _QUALITY:
        raise UsageError(f"{name} has no constant rate factor for --quality; use --encoder-option NAME=VALUE")
    if quality is not None:
        made["crf"] = str(quality)
    if options.preset is not None:
        made["preset"] = options.preset
    if name == "libx265" and (light := _x265_hdr(facts.light)):
        made["x265-params"] += f":{light}"
    for key, value in options.extra:
        # x265-params holds many settings in one option, so the user's are appended instead of replacing ours.
        joins = key in made and key.endswith("-params")
        made[key] = f"{made[key]}:{value}" if joins else value
    _check_known(name, made)
    return made


def _check_known(encoder: str, options: dict[str, str]) -> None:
    """Raise UsageError for an option that the encoder does not have. FFmpeg would ignore it silently."""
    known = _known_options(encoder)
    if known is None:
        return
    if unknown := [name for name in options if name not in known]:
        near = get_close_matches(unknown[0], known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "leave it out, or choose another --codec"
        raise UsageError(f"{encoder} has no option {unknown[0]!r}; {hint}")


def _known_options(encoder: str) -> set[str] | None:
    """Return the names of an encoder's options; None if PyAV cannot list them, as before version 18."""
    context = pyav().codec.context.CodecContext.create(encoder, "w")
    if not hasattr(context, "supported_options"):
        return None
    groups = context.supported_options
    return {option.name for option in (*groups.generic, *groups.private)}


def _x265_hdr(light: dict[str, bytes]) -> str:
    """Return HDR10 metadata in the syntax of x265, or an empty string.

    `light` holds FFmpeg's structs AVMasteringDisplayMetadata (20 int32 as 10 ratios, then two flags) and
    AVContentLightMetadata (two uint32, in candela per square metre).
    """
    words = []
    if len(data := light.get("MASTERING_DISPLAY_METADATA", b"")) >= 88:
        numbers = struct.unpack("<22i", data[:88])
        if numbers[20] and numbers[21]:
            ratios = [
                Fraction(above, below or 1)
                for above, below in zip(numbers[:20:2], numbers[1:20:2], strict=True)
            ]
            red, green, blue, white = (ratios[i : i + 2] for i in (0, 2, 4, 6))
            # x265 takes the primaries in the order G, B, R, in steps of 0.00002, and luminances in steps of
            # 0.0001 candela per square metre.
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
    """Return values as integers in steps of 1/`unit`, separated by commas."""
    return ",".join(str(round(value * unit)) for value in values)
