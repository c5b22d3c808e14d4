"""sruscale in a stream: seeks, flushes, early ends, lateness, latency and changes of size."""

from __future__ import annotations

import subprocess

import pytest

from tests.gstreamer.conftest import SECONDS

SMALL = "video/x-raw,format=I420,width=64,height=36,framerate=30/1"
UP = "sruscale name=up model=rt-x2"
COPY = f"{UP} backend=nearest"
"""The element with pixels that are repeated: for tests of the stream, where the picture does not matter."""
SINK = "fakesink"


def source(frames: int, more: str = "") -> str:
    return f"videotestsrc num-buffers={frames} {more} ! {SMALL}"


@pytest.mark.parametrize("streams", [1, 2, 5])
def test_every_frame_comes_out_in_order(host, streams):
    found = host("run", f"{source(30)} ! {UP} streams={streams} ! {SINK} sync=false")
    assert found == {"in": 30, "out": 30, "in_order": True, "dropped": 0, "wrong_seeks": 0}


def test_a_stream_shorter_than_the_frames_in_flight_comes_out_whole(host):
    found = host("run", f"{source(2)} ! {UP} streams=8 ! {SINK} sync=false")
    assert (found["in"], found["out"]) == (2, 2)


def test_after_a_seek_the_first_frame_is_that_of_the_new_time(host):
    found = host("seek", f"{source(1_000_000)} ! {COPY} streams=4 ! {SINK} sync=false", 50)
    assert found["wrong_seeks"] == 0
    assert found["in_order"]


def test_an_early_end_passes_on_every_frame_that_came_in(host):
    found = host("early-eos", f"{source(100_000)} ! {COPY} streams=4 ! {SINK} sync=false", 10)
    assert found["in"] == found["out"] > 9
    assert found["in_order"]


@pytest.mark.parametrize(("what", "number"), [("run", 0), ("seek", 10), ("early-eos", 10)])
def test_no_buffer_event_or_element_is_left_behind(host_program, environment, what, number):
    frames = 20 if what == "run" else 1_000_000
    done = subprocess.run(
        [str(host_program), what, f"{source(frames)} ! {COPY} streams=4 ! {SINK} sync=false", str(number)],
        env={**environment, "GST_TRACERS": "leaks", "GST_DEBUG": "GST_TRACER:7"},
        capture_output=True,
        encoding="utf-8",
        timeout=SECONDS,
    )
    assert done.returncode == 0
    assert "object-alive" in done.stderr  # the tracer's description of its lines
    assert [line for line in done.stderr.splitlines() if "object-alive, type-name=(string)Gst" in line] == []


def test_stopping_in_the_midst_of_frames_leaves_no_thread_behind(host):
    found = host("stop", f"{source(100_000)} ! {UP} streams=4 ! {SINK} sync=false", 12)
    before, after = found[
        "threads"
    ]  # after the seventh and the twelfth stop; GLib ends idle threads of its own later
    assert after - before < 5


def test_a_slow_reader_without_qos_loses_no_frame(host):
    slow = "identity sleep-time=20000"
    found = host("run", f"{source(20)} ! {COPY} ! {slow} ! {SINK} sync=true qos=false")
    assert (found["out"], found["dropped"]) == (20, 0)


def test_frames_are_dropped_where_qos_says_that_they_come_too_late(host):
    found = host("late", f"{source(60)} ! {COPY} ! {SINK} sync=false", 1000)
    # 1 s of 30 frames a second; those in flight at the time of the event came before it
    assert 20 <= found["dropped"] <= 31
    assert found["out"] + found["dropped"] == found["in"] == 60
    assert found["in_order"]


def test_qos_can_be_switched_off(host):
    found = host("late", f"{source(60)} ! {COPY} qos=false ! {SINK} sync=false", 1000)
    assert (found["out"], found["dropped"]) == (60, 0)


@pytest.mark.parametrize(("streams", "nanoseconds"), [(1, 33_333_333), (3, 100_000_000)])
def test_a_live_source_is_told_the_latency(host, streams, nanoseconds):
    live = source(20, "is-live=true")
    alone = host("latency", f"{live} ! {COPY} streams=1 ! {SINK} sync=false")["least"]
    found = host("latency", f"{live} ! {COPY} streams={streams} ! {SINK} sync=false")
    assert found["live"]
    assert found["least"] - alone == nanoseconds - 33_333_333


def test_a_size_that_changes_in_mid_stream_is_followed(launch, tmp_path):
    other = SMALL.replace("64", "32").replace("36", "18")
    launch(
        f"concat name=c ! {COPY} ! filesink location=out.raw "
        f"videotestsrc num-buffers=5 ! {SMALL} ! c. videotestsrc num-buffers=5 ! {other} ! c."
    )
    assert (tmp_path / "out.raw").stat().st_size == 5 * (128 * 72 + 64 * 36) * 3 // 2


def test_memory_does_not_grow_with_the_stream(host):
    found = host("memory", f"{source(3000)} ! {COPY} ! {SINK} sync=false", 500)["resident"]
    assert len(found) == 6
    assert found[-1] - found[0] < 4 << 20
