"""Files as people have them, made after public bug reports: nothing is refused late, and nothing is lost without a note."""

from __future__ import annotations

import os
import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from sr_deploy.errors import InputError, UsageError
from sr_deploy.video.encoder import EncodeOptions
from sr_deploy.video.pixels import has_alpha
from sr_deploy.video.streams import StreamChoice
from tests.video.conftest import Said, av, frames_of, make_video, times_of, with_sound

CASES = Path(__file__).parent / "cases"


def case(name: str) -> Path:
    """The small file `name`, whichever folder of cases it is in."""
    return next(CASES.rglob(name))


FAST = EncodeOptions(preset="ultrafast")
FFV1 = EncodeOptions(codec="ffv1")
STEADY = [512 * n for n in range(20)]


def streams_of(path):
    """Return (type, codec name, number of packets) of each stream."""
    with av.open(str(path)) as container:
        names = [
            (s.type, s.codec_context.codec.canonical_name if s.codec_context else None)
            for s in container.streams
        ]
        counts = [0] * len(names)
        for packet in container.demux():
            counts[packet.stream_index] += bool(packet.size)
    return [(*name, count) for name, count in zip(names, counts, strict=True)]


@pytest.mark.parametrize(
    ("name", "suffix", "codec", "kind"),
    [
        ("pgs.mkv", ".mkv", "hdmv_pgs_subtitle", "subtitle"),
        ("dts.mkv", ".mkv", "dts", "audio"),
        ("dvb.ts", ".mkv", "dvb_subtitle", "subtitle"),
        ("two264.mkv", ".mkv", "h264", "video"),
        ("two264.mkv", ".mp4", "h264", "video"),
        ("two.mkv", ".mkv", "av1", "video"),
        ("g.avif", ".mkv", "av1", "video"),
        ("cover.mp4", ".mp4", "png", "video"),
    ],
)
def test_a_stream_is_copied_whatever_its_decoder_is_called(upscale, tmp_path, name, suffix, codec, kind):
    target = upscale(case(name), tmp_path / f"out{suffix}", encode=FAST).target
    wanted = [stream for stream in streams_of(case(name))[1:] if stream[1] == codec]
    assert wanted
    assert [stream for stream in streams_of(target)[1:] if stream[:2] == (kind, codec)] == wanted


def test_a_hint_names_a_container_that_really_holds_the_stream(upscale, engine, tmp_path):
    source = with_sound(tmp_path / "in.mov", "pcm_alaw")
    with pytest.raises(
        UsageError, match=r"pcm_alaw audio, which \.mkv files cannot hold; name the output \.mov, or"
    ):
        upscale(source, tmp_path / "out.mkv", encode=FAST)
    assert engine.calls == 0
    assert streams_of(upscale(source, tmp_path / "out.mov", encode=FAST).target)[1][1] == "pcm_alaw"


def test_sound_that_no_container_holds_is_refused_or_left_out_with_a_note(upscale, engine, tmp_path):
    source = with_sound(tmp_path / "in.asf", "wmav2", video="wmv2")
    with pytest.raises(
        UsageError, match=r"wmav2 audio.*; convert it first, .* or leave it out with --no-audio or --drop"
    ):
        upscale(source, tmp_path / "out.mkv", encode=FAST)
    assert engine.calls == 0
    said = Said()
    choice = StreamChoice(drop_unsupported=True)
    target = upscale(source, tmp_path / "out.mkv", encode=FAST, choice=choice, watcher=said).target
    assert [stream[0] for stream in streams_of(target)] == ["video"]
    assert any("wmav2 audio) is left out" in note for note in said.notes)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_subtitles_without_a_decoder_are_refused_before_the_work(upscale, engine, tmp_path, suffix):
    with pytest.raises(UsageError, match="--no-subtitles or --drop-unsupported"):
        upscale(case("ttml.mp4"), tmp_path / f"out{suffix}", encode=FAST)
    assert engine.calls == 0
    said = Said()
    upscale(
        case("ttml.mp4"),
        tmp_path / f"out{suffix}",
        encode=FAST,
        choice=StreamChoice(drop_unsupported=True),
        watcher=said,
    )
    assert any("is left out" in note for note in said.notes)


def test_a_stream_without_packets_is_left_out_with_a_note(upscale, tmp_path):
    said = Said()
    target = upscale(case("ghost_audio.ts"), tmp_path / "out.mkv", encode=FAST, watcher=said).target
    assert [stream[:2] for stream in streams_of(target)] == [("video", "h264"), ("audio", "aac")]
    assert said.notes == ["stream 2 (mp3) has no packets and is left out"]


def test_a_cover_that_the_container_drops_is_told(upscale, tmp_path):
    said = Said()
    upscale(case("cover.mp4"), tmp_path / "out.mov", encode=FAST, watcher=said)
    assert said.notes == ["stream 2, a png picture, is left out: .mov files cannot hold it"]


@pytest.mark.parametrize(
    ("codec", "target", "message"),
    [
        ("prores", "o.mp4", r"\.mp4 files cannot hold video of the encoder prores_ks .*\.mkv or \.mov"),
        ("vp9", "o.mov", r"\.mov files cannot hold video of the encoder libvpx-vp9"),
        ("utvideo", "o.mkv", r"\.mkv files cannot hold video of the encoder utvideo"),
        ("h264_nvenc", "o.mp4", r"the encoder h264_nvenc cannot start on this machine"),
    ],
)
def test_an_encoder_that_does_not_fit_is_refused_before_the_work(
    upscale, engine, tmp_path, codec, target, message
):
    if codec not in av.codecs_available and codec == "h264_nvenc":
        pytest.skip("this PyAV has no h264_nvenc")
    with pytest.raises(UsageError, match=message):
        upscale(case("base.mp4"), tmp_path / target, encode=EncodeOptions(codec=codec))
    assert engine.calls == 0
    assert not (tmp_path / target).exists()


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
@pytest.mark.parametrize("sound", [True, False])
def test_joined_parts_follow_each_other(upscale, tmp_path, suffix, sound):
    said = Said()
    choice = StreamChoice(audio=sound)
    result = upscale(case("cat.ts"), tmp_path / f"out{suffix}", encode=FAST, choice=choice, watcher=said)
    assert times_of(result.target) == [Fraction(n, 25) for n in range(50)]
    assert any("begins anew 1 times" in note for note in said.notes)
    if sound:
        assert streams_of(result.target)[1][2] == streams_of(case("cat.ts"))[1][2]


def test_joined_program_streams_follow_each_other(upscale, tmp_path):
    (tmp_path / "cat.vob").write_bytes((case("part.vob")).read_bytes() * 2)
    times = times_of(upscale(tmp_path / "cat.vob", tmp_path / "out.mkv", encode=FAST).target)
    assert times == [Fraction(n, 25) for n in range(50)]


def test_times_made_up_in_decoding_order_become_display_times(upscale, tmp_path):
    target = upscale(case("vfwavc.mkv"), tmp_path / "out.mkv", encode=FAST).target
    assert times_of(target) == [Fraction(n, 25) for n in range(75)]
    with av.open(
        str(target)
    ) as container:  # two frames later than the first decoding time, as ffprobe 5.1 says
        assert container.streams.video[0].start_time * container.streams.video[0].time_base == Fraction(2, 25)
    avi = make_video(tmp_path / "in.avi", STEADY, codec="mpeg4", options={"bf": "2"}, size=(96, 64))
    times = times_of(upscale(avi, tmp_path / "out2.mkv", encode=FAST).target)
    assert len(times) == 20
    assert max(abs(time - Fraction(n, 30)) for n, time in enumerate(times)) <= Fraction(1, 1000)


@pytest.mark.parametrize(("max_gap", "last"), [(None, Fraction(3600)), (Fraction(1), Fraction(1, 2))])
def test_a_long_gap_stays_with_a_note_and_can_be_closed(upscale, tmp_path, max_gap, last):
    pts = [512 * n for n in range(8)] + [15360 * 3600 + 512 * n for n in range(8)]
    source = make_video(tmp_path / "in.mp4", pts, options={"bf": "0"})
    said = Said()
    target = upscale(source, tmp_path / "out.mp4", encode=FAST, max_gap=max_gap, watcher=said).target
    times = times_of(target)
    assert (times[8] - times[7] > 3500) == (max_gap is None)
    assert any("--max-gap closes" in note for note in said.notes) == (max_gap is None)
    assert times[-1] < last + 1


def test_a_gap_between_slides_is_closed_to_what_the_user_allows(upscale, tmp_path):
    source = make_video(tmp_path / "in.mp4", [15360 * 4 * n for n in range(6)], options={"bf": "0"})
    times = times_of(upscale(source, tmp_path / "out.mp4", encode=FAST, max_gap=Fraction(1)).target)
    assert times == [Fraction(n) for n in range(6)]


def test_subtitles_after_the_end_of_the_picture_are_no_sign_of_a_cut(upscale, tmp_path):
    source = make_video(tmp_path / "in.mkv", [512 * n for n in range(3)], subtitles="subrip")
    said = Said()
    upscale(source, tmp_path / "out.mkv", encode=FAST, watcher=said)
    assert said.notes == []


def test_mpeg4_says_which_clock_it_cannot_count(upscale, engine, tmp_path):
    source = make_video(tmp_path / "in.ts", [512 * n for n in range(3)])  # counts 1/90000 s
    with pytest.raises(
        UsageError, match=r"mpeg4 counts time in 1/65535 s at the finest.*1/90000 s; choose another --codec$"
    ):
        upscale(source, tmp_path / "out.mkv", encode=EncodeOptions(codec="mpeg4"))
    assert engine.calls == 0


def test_float_pixels_have_no_opacity_that_can_be_read():
    found = [name for name in ("gbrapf32le", "gbrapf32be", "gbrapf16le") if has_alpha(name)]
    assert found == []
    assert all(map(has_alpha, ("gbrap", "gbrap16le", "yuva420p", "yuva444p10le", "rgba64le")))


def test_a_truncated_file_is_told(upscale, tmp_path):
    whole = make_video(tmp_path / "whole.mp4", [512 * n for n in range(50)], size=(96, 64))
    with (
        av.open(str(whole)) as container,
        av.open(str(tmp_path / "fast.mp4"), "w", options={"movflags": "faststart"}) as fast,
    ):
        video = fast.add_stream_from_template(container.streams.video[0], opaque=True)
        for packet in container.demux(video=0):
            if packet.size:
                packet.stream = video
                fast.mux(packet)
    data = (tmp_path / "fast.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) * 6 // 10])
    said = Said()
    result = upscale(tmp_path / "cut.mp4", tmp_path / "out.mkv", encode=FAST, watcher=said)
    assert 5 < result.frames < 50
    assert f"the source ends early: {result.frames} of its 50 frames could be read" in said.notes


@pytest.mark.parametrize(("suffix", "codec"), [(".mkv", "libx264"), (".avi", "mpeg4")])
def test_a_truncated_file_without_a_number_of_frames_is_told(upscale, tmp_path, suffix, codec):
    whole = make_video(tmp_path / f"whole{suffix}", [512 * n for n in range(60)], codec=codec, size=(96, 64))
    said = Said()
    upscale(whole, tmp_path / "whole-out.mkv", encode=FAST, watcher=said)
    assert said.notes == []
    data = whole.read_bytes()
    (tmp_path / f"cut{suffix}").write_bytes(data[: len(data) * 4 // 10])
    upscale(tmp_path / f"cut{suffix}", tmp_path / "out.mkv", encode=FAST, watcher=said)
    assert any(note.startswith("the video ends early: after ") for note in said.notes)


def test_damaged_packets_of_sound_are_left_out_with_a_note(upscale, tmp_path):
    said = Said()
    target = upscale(case("damaged.ts"), tmp_path / "out.mkv", encode=FAST, watcher=said).target
    assert len(frames_of(target)) == 49
    assert any("damaged packets" in note for note in said.notes)


def test_pixels_that_are_not_square_stay_so(upscale, tmp_path):
    for suffix in (".mkv", ".mp4"):
        target = upscale(case("sar_mkv.mkv"), tmp_path / f"out{suffix}", encode=FAST).target
        with av.open(str(target)) as container:
            video = container.streams.video[0]
            assert (video.sample_aspect_ratio, video.width, video.height) == (Fraction(32, 27), 192, 128)


def test_the_shape_of_pixels_is_kept_or_told(upscale, tmp_path):
    for codec, suffix, kept in (("ffv1", ".mkv", False), ("prores", ".mov", True), ("hevc", ".mkv", True)):
        said = Said()
        encode = EncodeOptions(codec=codec)
        target = upscale(
            case("sar_mkv.mkv"), tmp_path / f"{codec}{suffix}", encode=encode, watcher=said
        ).target
        with av.open(str(target)) as container:
            assert (container.streams.video[0].sample_aspect_ratio == Fraction(32, 27)) == kept
        assert any("shape of its pixels (32:27) is lost" in note for note in said.notes) != kept


def test_what_the_container_cuts_off_is_not_in_the_result(upscale, tmp_path):
    result = upscale(case("crop.mkv"), tmp_path / "out.mkv", encode=FFV1)
    assert (result.width, result.height) == (160, 112)
    small = frames_of(case("crop.mkv"), "gray")[0]
    large = frames_of(result.target, "gray")[0]
    inner = small[4:-4, 8:-8] if small.shape == (64, 96) else small
    assert np.abs(large.astype(int) - inner.repeat(2, 0).repeat(2, 1)).mean() < 1


def test_limited_grey_keeps_its_levels(upscale, tmp_path):
    small = frames_of(case("greyh.mp4"))[0]
    for encode in (FAST, FFV1):
        result = upscale(case("greyh.mp4"), tmp_path / f"{encode.codec}.mkv", encode=encode)
        large = frames_of(result.target)[0]
        luma = large[: small.shape[0] * 2, : small.shape[1] * 2].astype(int)
        assert np.abs(luma - small.repeat(2, 0).repeat(2, 1)).mean() <= 1
        assert (luma.min(), luma.max()) == pytest.approx((16, 235), abs=2)


def test_rgb_stays_rgb_in_a_lossless_codec(upscale, tmp_path):
    result = upscale(case("gbrp.mkv"), tmp_path / "out.mkv", encode=FFV1)
    assert result.pixel_format == "bgr0"
    for small, large in zip(
        frames_of(case("gbrp.mkv"), "rgb24"), frames_of(result.target, "rgb24"), strict=True
    ):
        np.testing.assert_array_equal(large, small.repeat(2, 0).repeat(2, 1))


def test_the_place_of_chroma_samples_is_read_and_written(upscale, tmp_path):
    from sr_deploy.video.source import probe

    assert probe(case("cen.avi")).siting == "center"
    assert probe(case("base.mp4")).siting == "left"
    for encode, suffix in ((FAST, ".mkv"), (FAST, ".mp4"), (FFV1, ".mkv")):
        target = upscale(case("cen.avi"), tmp_path / f"{encode.codec}{suffix}", encode=encode).target
        assert probe(target).siting == "center"


def test_closed_captions_are_kept_or_told(upscale, tmp_path):
    def captions(path):
        with av.open(str(path)) as container:
            return [
                bytes(one)
                for f in container.decode(video=0)
                for one in f.side_data
                if one.type.name == "A53_CC"
            ]

    wanted = captions(case("cc.mp4"))
    assert wanted
    said = Said()
    target = upscale(case("cc.mp4"), tmp_path / "out.mp4", encode=FAST, part_frames=4, watcher=said).target
    kept = int(av.__version__.partition(".")[0]) >= 18
    assert captions(target) == (wanted if kept else [])
    left_out = "its closed captions are left out: {} does not write them here"
    assert said.notes == ([] if kept else [left_out.format("libx264")])
    said.notes.clear()
    upscale(case("cc.mp4"), tmp_path / "out.mkv", encode=FFV1, watcher=said)
    assert said.notes == [left_out.format("ffv1")]


def test_opacity_beside_the_frames_is_told_and_its_tag_is_dropped(upscale, tmp_path):
    said = Said()
    target = upscale(case("valpha.webm"), tmp_path / "out.webm", watcher=said).target
    assert said.notes == ["its transparency is left out, if it has any"]
    with av.open(str(target)) as container:
        assert "alpha_mode" not in {key.lower() for key in container.streams.video[0].metadata}


def test_names_with_a_colon_are_names(upscale, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(case("base.mp4"), "Alien: Covenant.mp4")
    upscale(Path("Alien: Covenant.mp4"), Path("Alien: x2.mp4"), encode=FAST)
    assert len(frames_of(tmp_path / "Alien: x2.mp4")) == 25
    with pytest.raises(InputError, match=r"^http:gone\.mp4: no such file"):
        upscale(Path("http:gone.mp4"), Path("o.mp4"))
    assert not any(name.startswith(".") for name in os.listdir())


def test_interlaced_frames_become_progressive_at_their_times(upscale, tmp_path):
    def write(path, interlaced):
        with av.open(str(path), "w") as container:
            video = container.add_stream("libx264", rate=25, options={"crf": "1", **interlaced})
            video.width, video.height, video.pix_fmt = 96, 64, "yuv420p"
            for number in range(8):
                # A white square that moves sideways: its fields show two places.
                rows = np.full((96, 96), 128, np.uint8)
                rows[:64] = 30
                for parity in (0, 1):
                    left = 10 + 6 * (2 * number + parity) // 2
                    rows[16 + parity : 48 : 2, left : left + 20] = 220
                container.mux(video.encode(av.VideoFrame.from_ndarray(rows, "yuv420p")))
            container.mux(video.encode(None))
        return path

    source = write(tmp_path / "in.mkv", {"x264-params": "tff=1"})
    said = Said()
    combed = upscale(source, tmp_path / "combed.mkv", encode=FFV1, watcher=said).target
    assert said.notes == ["the video is interlaced, and upscaling blurs it; add --deinterlace"]
    said = Said()
    clean = upscale(source, tmp_path / "clean.mkv", encode=FFV1, watcher=said, deinterlace=True).target
    assert said.notes == []
    assert times_of(clean) == times_of(source)

    def combing(path):
        luma = frames_of(path, "gray")[3][:128:2].astype(int)
        return np.abs(2 * luma[1:-1] - luma[:-2] - luma[2:])[20:44].mean()

    assert combing(clean) < combing(combed) / 3


def test_pcm_may_be_divided_into_other_packets(upscale, tmp_path):
    """MOV gives back PCM in packets of 1024 samples, whatever the packets that were written."""
    source = with_sound(tmp_path / "in.mov", "pcm_s16le", rate=48000)
    with av.open(str(source)) as before, av.open(str(tmp_path / "in.mkv"), "w") as after:
        copies = [after.add_stream_from_template(stream, opaque=True) for stream in before.streams]
        sound = b"".join(bytes(packet) for packet in before.demux(audio=0))
        before.seek(0)
        for packet in before.demux(video=0):
            if packet.size:
                packet.stream = copies[0]
                after.mux(packet)
        for start in range(0, len(sound), 4 * 1920):
            packet = av.Packet(sound[start : start + 4 * 1920])
            packet.stream, packet.time_base = copies[1], Fraction(1, 48000)
            packet.pts = packet.dts = start // 4
            after.mux(packet)
    target = upscale(tmp_path / "in.mkv", tmp_path / "out.mov", encode=FAST).target
    with av.open(str(target)) as container:
        assert b"".join(bytes(packet) for packet in container.demux(audio=0)) == sound


@pytest.mark.parametrize("suffix", [".ts", ".webm"])
def test_a_size_that_changes_is_found_before_the_work(upscale, engine, tmp_path, suffix):
    if suffix == ".ts":
        parts = [
            make_video(tmp_path / f"{width}.ts", STEADY, options={"g": "6"}, size=(width, 64))
            for width in (96, 128)
        ]
        (tmp_path / "both.ts").write_bytes(b"".join(part.read_bytes() for part in parts))
    else:
        with av.open(str(tmp_path / "both.webm"), "w") as container:
            stream = container.add_stream("libvpx-vp9", rate=25)
            stream.width, stream.height = 96, 64
            for packet in [*vp9_packets(96, 0), *vp9_packets(128, 8)]:
                packet.stream = stream
                container.mux(packet)
    message = r"its frames are 96x64 at the beginning and 128x64 after about \d+ % of the file; split"
    with pytest.raises(InputError, match=message):
        upscale(tmp_path / f"both{suffix}", tmp_path / "out.mkv", encode=FAST)
    assert engine.calls == 0


def vp9_packets(width, first):
    """Encode 8 grey frames."""
    context = av.CodecContext.create("libvpx-vp9", "w")
    context.width, context.height, context.pix_fmt = width, 64, "yuv420p"
    context.time_base, context.options = Fraction(1, 25), {"deadline": "realtime", "cpu-used": "8"}
    for number in range(8):
        frame = av.VideoFrame.from_ndarray(np.full((96, width), 20 * number, np.uint8), "yuv420p")
        frame.pts, frame.time_base = first + number, Fraction(1, 25)
        yield from context.encode(frame)
    yield from context.encode(None)


def test_a_size_that_changes_between_the_places_looked_at_is_told_with_what_was_written(
    upscale, tmp_path, monkeypatch
):
    monkeypatch.setattr("sr_deploy.video.scan._PLACES", ())
    parts = [make_video(tmp_path / f"{width}.ts", STEADY, size=(width, 64)) for width in (96, 128)]
    (tmp_path / "both.ts").write_bytes(b"".join(part.read_bytes() for part in parts))
    with pytest.raises(
        InputError, match=r"frame 21 is 128x64, the frames before it are 96x64; no result is written"
    ):
        upscale(tmp_path / "both.ts", tmp_path / "out.mkv", encode=FAST)
    assert not (tmp_path / "out.mkv").exists()


@pytest.mark.parametrize(
    ("codec", "encoder", "decoder"), [("vp8", "libvpx", "libvpx"), ("vp9", "libvpx-vp9", "libvpx-vp9")]
)
def test_opacity_beside_the_frames_is_read_for_codecs_that_hold_it(
    upscale, tmp_path, codec, encoder, decoder
):
    if decoder not in av.codecs_available:
        pytest.skip(f"this PyAV has no {decoder}")
    with av.open(str(tmp_path / "in.webm"), "w") as container:
        video = container.add_stream(encoder, rate=25, options={"auto-alt-ref": "0", "crf": "10", "b": "2M"})
        video.width, video.height, video.pix_fmt = 96, 64, "yuva420p"
        video.metadata["alpha_mode"] = "1"
        for number in range(4):
            frame = av.VideoFrame.from_ndarray(np.full((96, 96), 90, np.uint8), "yuv420p").reformat(
                format="yuva420p"
            )
            ramp = np.repeat(np.linspace(0, 255, 8).astype(np.uint8), 12)
            frame.planes[3].update(
                np.pad(np.tile(ramp, (64, 1)), ((0, 0), (0, frame.planes[3].line_size - 96))).tobytes()
            )
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
    said = Said()
    result = upscale(tmp_path / "in.webm", tmp_path / "out.mkv", encode=FFV1, watcher=said)
    assert (result.pixel_format, result.frames, said.notes) == ("yuva420p", 4, [])
    with av.open(str(result.target)) as container:
        frame = next(container.decode(video=0))
        plane = frame.planes[3]
        alpha = np.frombuffer(plane, np.uint8).reshape(128, plane.line_size)[:, :192]
    middle = alpha[64, 12::24].astype(int)
    assert np.abs(middle - np.linspace(0, 255, 8)).max() <= 8


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_stereoscopic_frames_stay_marked_or_it_is_told(upscale, tmp_path, suffix):
    with av.open(str(case("base.mp4"))) as before, av.open(str(tmp_path / "in.mkv"), "w") as after:
        made = after.add_stream_from_template(before.streams.video[0], opaque=True)
        made.metadata["stereo_mode"] = "left_right"
        for packet in before.demux(video=0):
            if packet.size:
                packet.stream = made
                after.mux(packet)
    said = Said()
    target = upscale(tmp_path / "in.mkv", tmp_path / f"out{suffix}", encode=FAST, watcher=said).target
    with av.open(str(target)) as container:
        kinds = {one.type.name for one in next(container.decode(video=0)).side_data}
    assert ("STEREO3D" in kinds) == (suffix == ".mkv")
    told = ["its marks of stereoscopic frames are left out: libx264 does not write them here"]
    assert said.notes == ([] if suffix == ".mkv" else told)
