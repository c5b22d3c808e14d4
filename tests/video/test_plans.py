"""Combinations of container, codec and kind of stream: each is planned, and what the plan promises comes true."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sr_deploy.errors import UsageError
from sr_deploy.video.encoder import EncodeOptions, plan_encoding
from sr_deploy.video.source import probe
from sr_deploy.video.streams import StreamChoice, plan_streams
from tests.video.conftest import Said, av, make_video, with_sound

pytestmark = pytest.mark.long

CASES = Path(__file__).parent / "cases"
CONTAINERS = (".mp4", ".mov", ".mkv", ".webm")
CODECS = ("h264", "hevc", "vp9", "av1", "prores", "ffv1")
SOUNDS = {
    "aac": ".mp4", "ac3": ".mkv", "eac3": ".mp4", "mp2": ".ts", "libmp3lame": ".mp4", "flac": ".mkv", "alac": ".mov",
    "libopus": ".mkv", "pcm_s16le": ".mov", "pcm_s24be": ".mov", "pcm_f32le": ".mkv", "pcm_alaw": ".mov",
    "wmav2": ".asf", "adpcm_ms": ".avi", "adpcm_ima_wav": ".avi",
}  # fmt: skip
"""Containers in which files with each codec of sound are made."""
TEXTS = {"mov_text": ".mp4", "subrip": ".mkv", "ass": ".mkv", "webvtt": ".mkv"}
SECOND = {"mpeg4": ".mkv", "libvpx-vp9": ".mkv", "mjpeg": ".mkv", "ffv1": ".mkv", "prores_ks": ".mov"}
FILES = (
    "base.mp4",
    "pgs.mkv",
    "dvb.ts",
    "dts.mkv",
    "ttml.mp4",
    "cover.mp4",
    "two.mkv",
    "two264.mkv",
    "ghost_audio.ts",
)


def two_videos(path: Path, second: str) -> Path:
    """Write a file with a second video track."""
    with av.open(str(path), "w") as container:
        for codec in ("libx264", second):
            video = container.add_stream(codec, rate=25)
            formats = [known.name for known in video.codec_context.codec.video_formats]
            video.width, video.height = 96, 64
            video.pix_fmt = next(n for n in ("yuv420p", "yuv422p10le") if n in formats)
            video.pix_fmt = "yuvj420p" if codec == "mjpeg" else video.pix_fmt
        for number in range(4):
            for video in container.streams.video:
                frame = av.VideoFrame.from_ndarray(np.full((64, 96, 3), 40 * number, np.uint8), "rgb24")
                frame = frame.reformat(format=video.pix_fmt)
                frame.pts, frame.time_base = number, Fraction(1, 25)
                container.mux(video.encode(frame))
        for video in container.streams.video:
            container.mux(video.encode(None))
    return path


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small file for each kind of stream."""
    folder = tmp_path_factory.mktemp("sources")
    found = {name: next(CASES.rglob(name)) for name in FILES}
    for codec, suffix in SOUNDS.items():
        video = "wmv2" if suffix == ".asf" else "mpeg4" if suffix == ".avi" else None
        found[codec] = with_sound(folder / f"{codec}{suffix}", codec, rate=48000, video=video)
    for codec, suffix in TEXTS.items():
        options: dict[str, Any] = {"subtitles": codec, "attachment": codec == "ass", "size": (96, 64)}
        found[codec] = make_video(folder / f"{codec}{suffix}", [512 * n for n in range(12)], **options)
    for codec, suffix in SECOND.items():
        found[f"second {codec}"] = two_videos(folder / f"two-{codec}{suffix}", codec)
    return found


def test_hundreds_of_combinations_are_planned(sources):
    count, refusals = 0, []
    for path in sources.values():
        facts = probe(path)
        for suffix in CONTAINERS:
            for codec in CODECS:
                target = path.with_name(f"out{suffix}")
                count += 1
                try:
                    encoding = plan_encoding(facts, 2, target, EncodeOptions(codec=codec))
                    assert facts.stream in plan_streams(facts, target, StreamChoice(), encoding).kept
                except UsageError as error:
                    refusals.append(str(error))
    assert count >= 300
    assert 0 < len(refusals) < count
    for refusal in refusals:
        assert any(word in refusal for word in ("--no-", "--codec"))
        assert any(word in refusal for word in ("name the output", "choose", "convert"))


@pytest.mark.parametrize("suffix", CONTAINERS)
def test_what_the_plan_keeps_is_in_the_result_and_the_rest_is_told(
    upscale, engine, sources, tmp_path, suffix
):
    encode = EncodeOptions(
        codec="vp9" if suffix == ".webm" else "h264", preset=None if suffix == ".webm" else "ultrafast"
    )
    if suffix == ".webm":
        encode = EncodeOptions(codec="vp9", extra=(("deadline", "realtime"), ("cpu-used", "8")))
    choice = StreamChoice(drop_unsupported=True)
    for name, path in sources.items():
        said = Said()
        target = upscale(
            path, tmp_path / f"{name}{suffix}", encode=encode, choice=choice, watcher=said
        ).target
        with av.open(str(path)) as before, av.open(str(target)) as after:
            streams = [s for s in before.streams if s.type in ("video", "audio", "subtitle", "attachment")]
            told = [note for note in said.notes if "left out" in note]
            kept = [s for s in after.streams if s.type != "data"]
            assert len(kept) + len(told) == len(streams), (name, said.notes)


def test_an_encoder_that_is_planned_writes_its_frames(upscale, tmp_path):
    """Every encoder of PyAV into every container: it is refused before the work, or the result is complete."""
    source = make_video(tmp_path / "in.mkv", [0, 512], codec="ffv1", size=(64, 48))
    names = {av.codec.Codec(n, "w").name for n in av.codecs_available if _is_video_encoder(n)}
    whole = 0
    for name in sorted(names):
        for suffix in CONTAINERS:
            said = Said()
            try:
                encode = EncodeOptions(codec=name)
                result = upscale(
                    source, tmp_path / f"out{suffix}", encode=encode, watcher=said, overwrite=True
                )
                whole += result.frames == 2
            except UsageError:
                assert said.done == 0, name
    assert whole > 20


def _is_video_encoder(name: str) -> bool:
    try:
        return av.codec.Codec(name, "w").type == "video"
    except ValueError:  # a decoder, or a codec's name without an encoder
        return False


def test_a_plan_reads_only_the_beginning_of_a_film(tmp_path):
    """A film whose first subtitle comes late is not read to its end to find it."""
    from sr_deploy.video.trial import _SAMPLE_PACKETS, sample_packets

    path = tmp_path / "late.mkv"
    with av.open(str(path), "w") as container:
        video, texts = container.add_stream("mpeg4", rate=25), container.add_mux_stream("subrip")
        video.width, video.height, video.pix_fmt = 32, 32, "yuv420p"
        texts.time_base = Fraction(1, 1000)
        for number in range(1000):
            frame = av.VideoFrame(32, 32, "yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        packet = av.Packet(b"late")
        packet.stream, packet.time_base, packet.duration = texts, Fraction(1, 1000), 500
        packet.pts = packet.dts = 39_000
        container.mux(packet)
    with av.open(str(path)) as container:
        assert sample_packets(container, [container.streams[1]]) == {1: []}
        following = next(packet for packet in container.demux(video=0))
        assert following.pts < 40 * (_SAMPLE_PACKETS + 10)
