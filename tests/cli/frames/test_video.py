"""`sr-deploy video` as its users call it, with a model that repeats pixels."""

from __future__ import annotations

import sys

import pytest

from tests.cli.conftest import repeating_model

av = pytest.importorskip("av", reason="PyAV is not installed")


@pytest.fixture
def clip(tmp_path):
    """A video of ten frames of 32x24, and a model that doubles them."""
    repeating_model(tmp_path / "twice.onnx", 2)
    path = tmp_path / "clip 大.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height = 32, 24
        for _ in range(10):
            container.mux(stream.encode(av.VideoFrame(32, 24, "yuv420p")))
        container.mux(stream.encode(None))
    return path


def frames_and_size(path) -> tuple[int, int, int]:
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
        return len(frames), frames[0].width, frames[0].height


def test_a_clip_becomes_a_larger_clip_in_a_new_folder(run, clip, tmp_path):
    target = tmp_path / "new" / "large.mp4"
    result = run("video", clip, "-o", target, "--model", tmp_path / "twice.onnx")
    assert (result.exit_code, result.stdout) == (0, ""), result.stderr
    assert frames_and_size(target) == (10, 64, 48)
    assert result.stderr.startswith(f"{clip} -> {target} (10 frames, 64x48, libx264 yuv420p, ")
    assert [path.name for path in target.parent.iterdir()] == ["large.mp4"]


@pytest.mark.parametrize("options", [(), ("--fast",)])
def test_a_file_that_cannot_serve_is_named_before_the_model_is_looked_at(run, clip, tmp_path, options):
    absent = ("--model", tmp_path / "absent.onnx", *options)
    (tmp_path / "there.mp4").touch()
    result = run("video", clip, "-o", tmp_path / "there.mp4", *absent)
    assert result.exit_code == 3
    assert "there.mp4: it exists already" in result.stderr
    result = run("video", tmp_path / "none.mp4", "-o", tmp_path / "large.mp4", *absent)
    assert result.exit_code == 3
    assert "none.mp4" in result.stderr


def test_options_reach_the_encoder(run, clip, tmp_path):
    target = tmp_path / "large.mkv"
    options = ["--codec", "ffv1", "--pixel-format", "yuv444p", "--encoder-option", "slicecrc=1", "-q"]
    result = run("video", clip, "-o", target, "--model", tmp_path / "twice.onnx", *options)
    assert (result.exit_code, result.stderr) == (0, "")
    with av.open(str(target)) as container:
        context = container.streams.video[0].codec_context
        assert (context.codec.canonical_name, context.pix_fmt) == ("ffv1", "yuv444p")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--encoder-option", "tune"], 2, "'tune' is not NAME=VALUE"),
        (["--codec", "h265x"], 2, "no encoder 'h265x'"),
        (["--scale", "4"], 2, "has scale 2 and --scale asks for 4"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(run, clip, tmp_path, arguments, code, message):
    target = tmp_path / "large.mp4"
    result = run("video", clip, "-o", target, "--model", tmp_path / "twice.onnx", *arguments)
    assert result.exit_code == code
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not target.exists()


def test_a_result_that_is_there_is_kept(run, clip, tmp_path):
    target = tmp_path / "large.mp4"
    target.write_bytes(b"dear")
    result = run("video", clip, "-o", target, "--model", tmp_path / "twice.onnx")
    assert result.exit_code == 3
    assert "add --overwrite" in result.stderr
    assert target.read_bytes() == b"dear"


def test_without_pyav_the_error_ends_in_the_install_line(run, clip, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    result = run("video", clip, "-o", tmp_path / "large.mp4", "--model", tmp_path / "twice.onnx")
    assert result.exit_code == 4
    assert 'pip install "sr-deploy[video]"' in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_an_interruption_says_that_what_is_done_is_kept(run, clip, tmp_path, monkeypatch):
    from sr_deploy.upscale import Upscaler

    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Upscaler, "upscale_pixels", interrupted)
        result = run("video", clip, "-o", tmp_path / "large.mp4", "--model", tmp_path / "twice.onnx")
    assert result.exit_code == 130
    assert "run the same command again to go on" in result.stderr
    assert run("video", clip, "-o", tmp_path / "large.mp4", "--model", tmp_path / "twice.onnx").exit_code == 0


def test_what_does_not_fit_is_refused_or_dropped_and_gaps_are_closed(run, tmp_path):
    """A film with SubRip subtitles, which MP4 cannot hold, and a gap of an hour."""
    from tests.video.conftest import make_video, times_of

    repeating_model(tmp_path / "twice.onnx", 2)
    source = make_video(tmp_path / "in.mkv", [0, 512, 15360 * 3600], subtitles="subrip", options={"bf": "0"})
    common = ["video", source, "--model", tmp_path / "twice.onnx", "-o", tmp_path / "out.mp4"]
    refused = run(*common)
    assert refused.exit_code == 2
    assert "subrip subtitle, which .mp4 files cannot hold" in refused.stderr
    result = run(*common, "--drop-unsupported", "--max-gap", "1.5", "--deinterlace")
    assert result.exit_code == 0, result.stderr
    assert "is left out" in result.stderr
    assert times_of(tmp_path / "out.mp4")[-1] < 1
