"""Settings of the encoder that a finished file does not show on every machine."""

from __future__ import annotations

import struct

from sr_deploy.video.encoder import EncodeOptions, plan_encoding
from sr_deploy.video.source import probe
from tests.video.conftest import make_video


def test_hdr_metadata_reaches_x265_in_its_own_units(tmp_path):
    """Return FFmpeg's struct for a display with BT.2020 primaries, D65, 0.005 to 1000 cd/m2."""
    numbers = [(34000, 50000), (16000, 50000), (13250, 50000), (34500, 50000), (7500, 50000), (3000, 50000)]
    numbers += [(15635, 50000), (16450, 50000), (50, 10000), (10000000, 10000)]
    display = struct.pack("<22i", *(n for ratio in numbers for n in ratio), 1, 1)
    facts = probe(make_video(tmp_path / "in.mkv", codec="ffv1", pixel_format="yuv420p10le"))
    facts.light.update(MASTERING_DISPLAY_METADATA=display, CONTENT_LIGHT_LEVEL=struct.pack("<2I", 1000, 400))
    told = plan_encoding(facts, 2, tmp_path / "out.mp4", EncodeOptions()).options["x265-params"]
    assert "master-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,50)" in told
    assert told.endswith(":max-cll=1000,400")


def test_the_users_own_x265_parameters_are_added_to_ours(tmp_path):
    facts = probe(make_video(tmp_path / "in.mkv"))
    options = EncodeOptions(codec="hevc", quality=30, extra=(("x265-params", "bframes=2"),))
    told = plan_encoding(facts, 2, tmp_path / "out.mp4", options).options
    assert told["crf"] == "30"
    assert told["x265-params"] == "log-level=none:bframes=2"


def test_very_large_results_become_hevc_and_small_ones_h264(tmp_path):
    facts = probe(make_video(tmp_path / "in.mkv"))
    assert plan_encoding(facts, 4, tmp_path / "out.mp4", EncodeOptions()).encoder == "libx264"
    assert plan_encoding(facts, 96, tmp_path / "out.mp4", EncodeOptions()).encoder == "libx264"
    assert plan_encoding(facts, 256, tmp_path / "out.mp4", EncodeOptions()).encoder == "libx265"


def test_a_matrix_the_source_does_not_name_is_named_in_the_result(tmp_path):
    facts = probe(make_video(tmp_path / "in.mkv"))
    encoding = plan_encoding(facts, 2, tmp_path / "out.mp4", EncodeOptions())
    assert facts.space == 2  # unspecified
    assert (encoding.space, encoding.colours.matrix, encoding.range) == (6, "bt601", 1)
