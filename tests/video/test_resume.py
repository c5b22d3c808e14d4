"""An interrupted video is continued, and the result equals that of an uninterrupted run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from sr_deploy.errors import OutputError
from sr_deploy.video.encoder import EncodeOptions
from sr_deploy.video.parts import Parts
from tests.cli.conftest import repeating_model
from tests.video.conftest import VARIABLE, Said, frames_of, make_video, times_of

FAST = EncodeOptions(preset="ultrafast")
CALL = "import sys; from sr_deploy.cli import main; main(sys.argv[1:])"


@pytest.fixture
def source(tmp_path):
    return make_video(tmp_path / "in.mp4", sound=True, options={"bf": "2"})


def assert_same_video(one, other):
    assert times_of(one) == times_of(other)
    for frame, wanted in zip(frames_of(one), frames_of(other), strict=True):
        np.testing.assert_array_equal(frame, wanted)


@pytest.mark.parametrize("after", [0, 3, 4, 7, 11])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError()])
def test_only_what_is_missing_is_done_and_the_result_is_the_same(
    upscale, engine, source, tmp_path, after, error
):
    whole, broken = tmp_path / "whole.mp4", tmp_path / "broken.mp4"
    upscale(source, whole, encode=FAST, part_frames=4)
    engine.calls, engine.fails_at, engine.error = 0, after, error
    with pytest.raises((KeyboardInterrupt, MemoryError)):
        upscale(source, broken, encode=FAST, part_frames=4)
    assert not broken.exists()
    engine.calls, engine.fails_at = 0, None
    said = Said()
    upscale(source, broken, encode=FAST, part_frames=4, watcher=said)
    assert said.done == 12
    assert engine.calls == 12 - said.first
    assert said.first % 4 == 0
    if isinstance(error, MemoryError):  # computed frames are written before the error is raised
        assert said.first == after // 4 * 4
    assert_same_video(broken, whole)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


@pytest.mark.parametrize("codec", ["hevc", "av1", "vp9", "ffv1", "prores"])
def test_every_encoder_gives_the_same_after_an_interruption(upscale, engine, tmp_path, codec):
    source = make_video(tmp_path / "in.mkv", pts=[512 * n for n in range(24)], size=(96, 64))
    options = {"encode": EncodeOptions(codec=codec), "part_frames": 8}
    upscale(source, tmp_path / "whole.mkv", **options)
    engine.calls, engine.fails_at = 0, 13
    with pytest.raises(KeyboardInterrupt):
        upscale(source, tmp_path / "broken.mkv", **options)
    engine.fails_at = None
    upscale(source, tmp_path / "broken.mkv", **options)
    assert_same_video(tmp_path / "broken.mkv", tmp_path / "whole.mkv")


def test_killed_in_the_middle_it_goes_on(source, tmp_path):
    model = repeating_model(tmp_path / "twice.onnx", 2)
    long = make_video(tmp_path / "long.mp4", pts=[512 * n for n in range(300)])
    arguments = [sys.executable, "-c", CALL, "video", str(long), "-m", str(model), "--threads", "1"]
    arguments += ["--part-frames", "10", "--preset", "ultrafast", "-o"]
    broken, whole = tmp_path / "broken.mp4", tmp_path / "whole.mp4"
    first = tmp_path / ".broken.mp4.sr-deploy" / "000001.json"
    process = subprocess.Popen([*arguments, str(broken)], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not first.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(getattr(signal, "SIGKILL", signal.SIGTERM))
    process.wait()
    assert not broken.exists()
    result = subprocess.run([*arguments, str(broken)], capture_output=True, encoding="utf-8")
    assert result.returncode == 0, result.stderr
    assert "continuing after" in result.stderr
    subprocess.run([*arguments, str(whole), "-q"], check=True)
    assert_same_video(broken, whole)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"encode": EncodeOptions(preset="ultrafast", quality=30)}, "the encoding changed"),
        ({"part_frames": 5}, "the frames of a part changed"),
    ],
)
def test_parts_made_otherwise_are_not_used(upscale, engine, source, tmp_path, change, why):
    options = {"encode": FAST, "part_frames": 4}
    engine.fails_at = 9
    with pytest.raises(KeyboardInterrupt):
        upscale(source, tmp_path / "out.mp4", **options)
    engine.calls, engine.fails_at = 0, None
    said = Said()
    upscale(source, tmp_path / "out.mp4", watcher=said, **{**options, **change})
    assert engine.calls == 12
    assert any(why in note for note in said.notes)


def test_a_changed_source_or_model_begins_anew(upscale, engine, source, tmp_path):
    for change in (
        lambda: make_video(source, VARIABLE[:-1], sound=True),
        lambda: (tmp_path / "model.onnx").write_bytes(b"x"),
    ):
        engine.calls, engine.fails_at = 0, 9
        with pytest.raises(KeyboardInterrupt):
            upscale(source, tmp_path / "out.mp4", encode=FAST, part_frames=4)
        change()
        engine.calls, engine.fails_at = 0, None
        upscale(source, tmp_path / "out.mp4", encode=FAST, part_frames=4, overwrite=True)
        assert engine.calls == len(frames_of(source))
        (tmp_path / "out.mp4").unlink()


def test_a_part_that_is_damaged_is_made_again(upscale, engine, source, tmp_path):
    engine.fails_at = 11
    with pytest.raises(KeyboardInterrupt):
        upscale(source, tmp_path / "out.mp4", encode=FAST, part_frames=4)
    folder = tmp_path / ".out.mp4.sr-deploy"
    (folder / "000001.part").write_bytes(b"half of it")
    engine.calls, engine.fails_at = 0, None
    upscale(source, tmp_path / "out.mp4", encode=FAST, part_frames=4)
    assert engine.calls == 8
    assert len(frames_of(tmp_path / "out.mp4")) == 12


def test_restart_forgets_what_was_done(upscale, engine, source, tmp_path):
    engine.fails_at = 9
    with pytest.raises(KeyboardInterrupt):
        upscale(source, tmp_path / "out.mp4", encode=FAST, part_frames=4)
    engine.calls, engine.fails_at = 0, None
    upscale(source, tmp_path / "out.mp4", encode=FAST, part_frames=4, resume=False)
    assert engine.calls == 12


def test_two_at_once_do_not_make_one_video(upscale, engine, source, tmp_path):
    parts = Parts(tmp_path / "out.mp4")
    with pytest.raises(OutputError, match="another sr-deploy is making"):
        upscale(source, tmp_path / "out.mp4", encode=FAST)
    parts.release()
    upscale(source, tmp_path / "out.mp4", encode=FAST)
    assert engine.calls == 12


def test_what_fails_before_the_first_part_leaves_nothing_behind(tmp_path):
    parts = Parts(tmp_path / "out.mp4")
    assert parts.folder.is_dir()
    parts.release()
    assert not parts.folder.exists()


@pytest.mark.skipif(
    not hasattr(os, "sched_getscheduler"), reason="only Linux tells how a thread is scheduled"
)
def test_no_thread_becomes_a_real_time_one(upscale, tmp_path):
    """SVT-AV1 4.1 (in PyAV 18.1.0) makes its threads and ours real-time ones if the user is root."""
    before = os.sched_getscheduler(0)

    class Watcher(Said):
        def frame(self, count: int) -> None:
            super().frame(count)
            found.update(map(os.sched_getscheduler, map(int, os.listdir("/proc/self/task"))))

    found: set[int] = set()
    source = make_video(tmp_path / "in.mkv", pts=[512 * n for n in range(5)], size=(96, 64))
    upscale(source, tmp_path / "out.mkv", encode=EncodeOptions(codec="av1"), watcher=Watcher())
    found.update(map(os.sched_getscheduler, map(int, os.listdir("/proc/self/task"))))
    assert found == {before}
