"""A video is upscaled, and the result has all streams of the source."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from sr_deploy.errors import CheckFailedError, InputError, OutputError, UsageError
from sr_deploy.frames.colour import Colours, from_rgb, to_rgb
from sr_deploy.frames.layout import LAYOUTS
from sr_deploy.video.check import check_result, check_times
from sr_deploy.video.encoder import EncodeOptions
from sr_deploy.video.join import CopiedStream, Joined
from sr_deploy.video.source import probe
from sr_deploy.video.streams import StreamChoice
from tests.video.conftest import VARIABLE, Said, av, frames_of, make_video, times_of

FFV1 = EncodeOptions(codec="ffv1")
FAST = EncodeOptions(preset="ultrafast")


def packets(path, kind):
    """Return (time after the first packet of the file, bytes) of every packet of a kind of stream."""
    with av.open(str(path)) as container:
        stream = next(stream for stream in container.streams if stream.type == kind)
        return [
            (packet.pts * packet.time_base, bytes(packet))
            for packet in container.demux(stream)
            if packet.size and bytes(packet) != b"\0\0"  # MP4 stores this between two subtitles
        ]


def repeated(frame: np.ndarray, name: str, colours: Colours) -> list[np.ndarray]:
    """Return the planes of a frame after conversion to RGB, doubling, and conversion to YUV."""
    layout = LAYOUTS[name]
    planes = layout.planes(np.ascontiguousarray(frame).reshape(-1).view(np.uint8), 24, 32)
    large = to_rgb(planes, layout, colours).repeat(2, axis=0).repeat(2, axis=1)
    return from_rgb(large, layout, colours)


@pytest.mark.parametrize("name", ["yuv420p", "yuv444p", "yuv420p10le"])
def test_every_frame_is_the_source_s_made_larger_at_the_same_time(upscale, tmp_path, name):
    if name == "yuv420p10le" and int(av.__version__.partition(".")[0]) < 18:
        pytest.skip("PyAV 17 makes no array of frames of 10 bits, which this test compares")
    source = make_video(tmp_path / "größe 大.mkv", codec="ffv1", pixel_format=name)
    result = upscale(source, tmp_path / "out.mkv", encode=FFV1, part_frames=5, streams=3)
    assert (result.frames, result.width, result.height, result.pixel_format) == (12, 64, 48, name)
    colours = Colours(matrix="bt601")
    for small, large in zip(frames_of(source), frames_of(result.target), strict=True):
        layout = LAYOUTS[name]
        got = layout.planes(np.ascontiguousarray(large).reshape(-1).view(np.uint8), 48, 64)
        for plane, expected in zip(got, repeated(small, name, colours), strict=True):
            np.testing.assert_array_equal(plane, expected)
    assert times_of(result.target) == times_of(source)


def test_an_mp4_keeps_sound_subtitles_chapters_tags_and_uneven_times(upscale, tmp_path):
    tags = {"colorspace": 1, "color_primaries": 1, "color_trc": 13, "color_range": 2}
    source = make_video(
        tmp_path / "in.mp4", sound=True, subtitles="mov_text", chapters=True, tags=tags, options={"bf": "2"}
    )
    target = upscale(source, tmp_path / "out.mp4", encode=FAST, part_frames=5).target
    assert times_of(target) == [Fraction(pts, 15360) for pts in VARIABLE]
    for kind in ("audio", "subtitle"):
        assert packets(target, kind) == packets(source, kind)
    with av.open(str(source)) as before, av.open(str(target)) as after:
        assert [stream.type for stream in after.streams] == [stream.type for stream in before.streams]
        assert [s.metadata.get("language") for s in after.streams] == [
            s.metadata.get("language") for s in before.streams
        ]
        assert after.chapters() == before.chapters()
        assert after.metadata["title"] == "A film"
        assert after.duration == before.duration
        video = after.streams.video[0].codec_context
        assert {name: getattr(video, name) for name in tags} == tags


def test_an_mkv_keeps_subtitles_and_attachments(upscale, tmp_path):
    source = make_video(tmp_path / "in.mkv", sound=True, subtitles="subrip", chapters=True, attachment=True)
    target = upscale(source, tmp_path / "out.mkv", encode=FAST).target
    assert packets(target, "subtitle") == packets(source, "subtitle")
    assert packets(target, "audio") == packets(source, "audio")
    with av.open(str(target)) as after:
        (attachment,) = (stream for stream in after.streams if stream.type == "attachment")
        assert (attachment.metadata["filename"], attachment.data) == ("letters.ttf", b"no font at all")
        assert [chapter["metadata"]["title"] for chapter in after.chapters()] == ["One", "Zwei"]


@pytest.mark.parametrize(
    ("suffix", "codec", "encoder", "pixels"),
    [
        (".mp4", None, "h264", "yuv420p"),
        (".mov", "prores", "prores", "yuv422p10le"),
        (".webm", None, "vp9", "yuv420p"),
        (".mkv", "hevc", "hevc", "yuv420p"),
        (".mkv", "av1", "av1", "yuv420p"),
    ],
)
def test_every_container_and_codec_plays_all_frames_at_their_times(
    upscale, tmp_path, suffix, codec, encoder, pixels
):
    source = make_video(tmp_path / "in.mkv", codec="ffv1", size=(64, 48))
    target = upscale(
        source, tmp_path / f"out{suffix}", encode=EncodeOptions(codec=codec), part_frames=5
    ).target
    with av.open(str(target)) as container:
        context = container.streams.video[0].codec_context
        assert (context.codec.canonical_name, context.pix_fmt) == (encoder, pixels)
    tolerance = Fraction(1, 1000) if suffix in (".webm", ".mkv") else 0
    for got, wanted in zip(times_of(target), times_of(source), strict=True):
        assert abs(got - wanted) <= tolerance


def test_deep_video_stays_deep_and_becomes_hevc(upscale, tmp_path):
    tags = {"colorspace": 9, "color_primaries": 9, "color_trc": 16}
    source = make_video(tmp_path / "in.mkv", codec="ffv1", pixel_format="yuv420p10le", tags=tags)
    result = upscale(source, tmp_path / "out.mp4", encode=FAST)
    assert (result.encoder, result.pixel_format) == ("libx265", "yuv420p10le")
    with av.open(str(result.target)) as container:
        video = container.streams.video[0].codec_context
        assert (video.colorspace, video.color_primaries, video.color_trc) == (9, 9, 16)


def test_rgb_video_comes_out_as_rgb_where_it_can(upscale, tmp_path):
    source = make_video(tmp_path / "in.mkv", codec="ffv1", pixel_format="bgr0")
    encode = EncodeOptions(codec="ffv1", pixel_format="yuv444p")
    target = upscale(source, tmp_path / "out.mkv", encode=encode).target
    for small, large in zip(frames_of(source, "rgb24"), frames_of(target, "rgb24"), strict=True):
        assert np.abs(large.astype(int) - small.repeat(2, 0).repeat(2, 1)).max() <= 3


@pytest.mark.skipif(not hasattr(av.video.stream.VideoStream, "set_display_matrix"), reason="needs PyAV 18")
def test_a_turned_video_stays_turned(upscale, tmp_path):
    quarter = (0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30)
    source = make_video(tmp_path / "in.mp4", matrix=quarter)
    target = upscale(source, tmp_path / "out.mp4", encode=FAST).target
    with av.open(str(source)) as before, av.open(str(target)) as after:
        turned = next(before.decode(video=0)).rotation
        assert turned != 0
        assert next(after.decode(video=0)).rotation == turned


def test_progress_knows_how_many_frames_there_are(upscale, tmp_path):
    said = Said()
    upscale(make_video(tmp_path / "in.mp4"), tmp_path / "out.mp4", encode=FAST, watcher=said)
    assert (said.total, said.first, said.done, said.notes) == (12, 0, 12, [])


def test_what_a_container_cannot_hold_is_refused_before_the_work(upscale, engine, tmp_path):
    source = make_video(tmp_path / "in.mkv", subtitles="subrip")
    with pytest.raises(UsageError, match=r"subrip subtitle, which \.mp4 files cannot hold.*--no-subtitles"):
        upscale(source, tmp_path / "out.mp4", encode=FAST)
    assert engine.calls == 0
    upscale(source, tmp_path / "out.mp4", encode=FAST, choice=StreamChoice(subtitles=False))
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert [stream.type for stream in container.streams] == ["video"]


@pytest.mark.parametrize(
    ("target", "encode", "message"),
    [
        ("out.avi", EncodeOptions(), r"suffix of a video must be one of \.mp4, \.m4v, \.mov, \.mkv, \.webm"),
        ("out.mp4", EncodeOptions(codec="h265x"), "no encoder 'h265x'"),
        ("out.mp4", EncodeOptions(codec="aac"), "aac encodes audio"),
        ("out.mp4", EncodeOptions(pixel_format="rgb24"), "libx264 does not take rgb24"),
        ("out.mkv", EncodeOptions(codec="ffv1", quality=3), "ffv1 has no constant rate factor"),
    ],
)
def test_options_no_encoder_can_serve_are_refused_in_words(upscale, tmp_path, target, encode, message):
    source = make_video(tmp_path / "in.mp4")
    with pytest.raises(UsageError, match=message):
        upscale(source, tmp_path / target, encode=encode)


@pytest.mark.skipif(
    not hasattr(av.codec.context.CodecContext, "supported_options"), reason="PyAV 18 tells the options"
)
def test_a_misspelt_encoder_option_is_refused_with_the_right_one(upscale, tmp_path):
    source = make_video(tmp_path / "in.mp4")
    with pytest.raises(UsageError, match="no option 'tunes'; did you mean 'tune'"):
        upscale(source, tmp_path / "out.mp4", encode=EncodeOptions(extra=(("tunes", "film"),)))


def test_files_that_are_no_videos_are_refused_in_words(upscale, tmp_path):
    text = tmp_path / "notes.mp4"
    text.write_text("no video at all", encoding="utf-8")
    with pytest.raises(InputError, match=r"notes\.mp4 cannot be read as a video"):
        upscale(text, tmp_path / "out.mp4")
    with pytest.raises(InputError, match="no such file"):
        upscale(tmp_path / "gone.mp4", tmp_path / "out.mp4")
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        audio = container.add_stream("aac", rate=44100, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 44100, 0
        container.mux(audio.encode(frame))
        container.mux(audio.encode(None))
    with pytest.raises(InputError, match="holds no video"):
        upscale(tmp_path / "sound.mp4", tmp_path / "out.mp4")


def test_a_result_that_is_there_is_replaced_only_when_asked(upscale, engine, tmp_path):
    source, target = make_video(tmp_path / "in.mp4"), tmp_path / "out.mp4"
    target.write_bytes(b"dear to someone")
    with pytest.raises(OutputError, match="exists already"):
        upscale(source, target, encode=FAST)
    assert target.read_bytes() == b"dear to someone"
    assert engine.calls == 0
    upscale(source, target, encode=FAST, overwrite=True)
    assert len(frames_of(target)) == 12
    with pytest.raises(OutputError, match="overwrite itself"):
        upscale(source, source, encode=FAST, overwrite=True)


def test_the_check_sees_a_lost_frame_a_moved_one_and_sound_out_of_step(tmp_path):
    path = make_video(tmp_path / "in.mp4", sound=True)
    with av.open(str(path)) as container:
        sound = CopiedStream("audio")
        for packet in container.demux(audio=0):
            if packet.size:
                sound.add(packet.pts * packet.time_base)
    base = Fraction(1, 15360)
    check_result(path, Joined(VARIABLE, [sound]), base)
    with pytest.raises(CheckFailedError, match="12 frames, the source has 13"):
        check_result(path, Joined([*VARIABLE, 20000], [sound]), base)
    with pytest.raises(CheckFailedError, match="frame 3 is at"):
        check_result(path, Joined([*VARIABLE[:2], 1100, *VARIABLE[3:]], [sound]), base)
    late = CopiedStream("audio", sound.packets, (sound.first or 0) + Fraction(1, 20), sound.last)
    with pytest.raises(CheckFailedError, match="out of step"):
        check_result(path, Joined(VARIABLE, [late]), base)
    with pytest.raises(CheckFailedError, match="packets"):
        check_result(path, Joined(VARIABLE, [CopiedStream("audio", 3, sound.first, sound.last)]), base)


def test_the_check_reads_the_times_of_the_source_itself(tmp_path):
    path = make_video(tmp_path / "in.mp4", options={"bf": "2"})
    facts = probe(path)
    check_times(path, facts, Joined(VARIABLE))
    check_times(path, facts, Joined(VARIABLE[:-1]))  # the packets do not tell which frame is missing
    with pytest.raises(CheckFailedError, match="frame 3 is at"):
        check_times(path, facts, Joined([*VARIABLE[:2], 1100, *VARIABLE[3:]]))


def test_a_frame_that_changes_size_is_an_error_that_says_where(upscale, tmp_path):
    source = tmp_path / "in.ts"
    parts = [make_video(tmp_path / f"{n}.ts", size=(32 * n, 24 * n)) for n in (1, 2)]
    source.write_bytes(b"".join(part.read_bytes() for part in parts))
    with pytest.raises(InputError, match=r"are 32x24 at the beginning and 64x48 after about \d+ %"):
        upscale(source, tmp_path / "out.mkv", encode=FAST)


def test_a_damaged_packet_costs_its_frame_and_is_told(upscale, tmp_path):
    source = make_video(tmp_path / "in.mp4", pts=[512 * n for n in range(20)], options={"g": "1"})
    with av.open(str(source)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        place, size = packets[10].pos, packets[10].size
    data = bytearray(source.read_bytes())
    data[place : place + size] = b"\xff" * size
    source.write_bytes(data)
    said = Said()
    result = upscale(source, tmp_path / "out.mp4", encode=FAST, watcher=said)
    assert result.frames == 19
    assert times_of(result.target) == [Fraction(512 * n, 15360) for n in range(20) if n != 10]
    assert any("1 damaged packets" in note for note in said.notes)
