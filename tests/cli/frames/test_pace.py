"""What `pipe` and `video` say while they work."""

from __future__ import annotations

import pytest

from sr_deploy.cli.frames import progress
from sr_deploy.cli.frames.progress import FrameProgress


@pytest.fixture
def clock(monkeypatch):
    """A clock that is set by hand."""

    class Clock:
        now = 100.0

    monkeypatch.setattr(progress.time, "monotonic", lambda: Clock.now)
    return Clock


def test_a_line_now_and_then_has_frames_rate_and_time_left(clock, capsys):
    with FrameProgress(quiet=False) as pace:
        pace.begin(1000, 200)
        clock.now += 5
        pace.frame(300)
        assert capsys.readouterr().err == ""
        clock.now += 6
        pace.frame(310)
        assert capsys.readouterr().err == "310/1000 frames, 10.0/s, 0:01:09 left\n"


def test_where_the_end_is_unknown_there_is_no_time_left(clock, capsys):
    with FrameProgress(quiet=False) as pace:
        pace.begin(None)
        clock.now += 20
        pace.frame(50)
    assert capsys.readouterr().err == "50 frames, 2.5/s\n"


def test_a_file_with_more_frames_than_it_claims_goes_on(clock, capsys):
    with FrameProgress(quiet=False) as pace:
        pace.begin(10)
        clock.now += 20
        pace.frame(11)
    assert capsys.readouterr().err == "11 frames, 0.6/s\n"


def test_quiet_is_quiet(clock, capsys):
    with FrameProgress(quiet=True) as pace:
        pace.say("something")
        pace.begin(10)
        clock.now += 60
        pace.frame(5)
    assert capsys.readouterr().err == ""
