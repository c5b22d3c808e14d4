"""The pipelines of the guide run as they are written, with a file and a sink that this machine has."""

from __future__ import annotations

import re

import pytest

from tests.paths import ROOT

PAGE = (ROOT / "docs" / "gstreamer.md").read_text(encoding="utf-8")
LINES = re.findall(r"^gst-launch-1\.0 (.+)$", PAGE, re.MULTILINE)
SINK = "fakesink"
"""In place of a window, which a test has no screen for."""


def test_the_guide_has_pipelines():
    assert len(LINES) == 3


def test_the_first_pipeline_of_the_guide_runs(launch):
    first = LINES[0].replace("autovideosink", SINK).replace("num-buffers=100", "num-buffers=3")
    assert "sruscale model=rt-x2" in first
    launch(first)


def test_the_pipeline_of_a_file_runs(launch, has, tmp_path):
    has("x264enc", "avdec_h264", "matroskamux", "decodebin")
    launch(
        "videotestsrc num-buffers=5 ! video/x-raw,width=64,height=48 ! x264enc ! matroskamux ! "
        "filesink location=film.mkv"
    )
    launch(LINES[1])
    assert (tmp_path / "film-x2.mkv").stat().st_size > 1000


def test_the_pipeline_of_a_camera_runs_with_a_live_source(launch):
    line = (
        LINES[2].replace("v4l2src", "videotestsrc is-live=true num-buffers=5").replace("autovideosink", SINK)
    )
    launch(line)


@pytest.mark.parametrize("name", ["model", "scale", "backend", "tile", "threads", "streams", "qos"])
def test_every_property_of_the_element_is_in_the_guide(environment, name):
    import subprocess

    done = subprocess.run(
        ["gst-inspect-1.0", "sruscale"], env=environment, capture_output=True, encoding="utf-8"
    )
    own = set(re.findall(r"^  (\w+) +:", done.stdout, re.MULTILINE)) - {"name", "parent"}
    assert name in own
    assert own == set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE))
