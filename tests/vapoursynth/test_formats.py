"""Formats and frame properties of VapourSynth, read without VapourSynth."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest

from sr_deploy.errors import InputError, MissingRuntimeError, UsageError
from sr_deploy.frames.colour import Colours
from sr_deploy.frames.layout import Layout
from sr_deploy.vapoursynth import Upscale
from sr_deploy.vapoursynth.formats import check_progressive, colours_of, layout_of_format

GREY, RGB, YUV = 1, 2, 3
INTEGER, FLOAT = 0, 1


def layout(family: int, bits: int, sample_type: int = INTEGER, across: int = 0, down: int = 0) -> Layout:
    return layout_of_format(
        SimpleNamespace(
            name="Named",
            color_family=family,
            sample_type=sample_type,
            bits_per_sample=bits,
            subsampling_w=across,
            subsampling_h=down,
        )
    )


YUV420 = layout(YUV, 8, across=1, down=1)


@pytest.mark.parametrize("bits", [8, 9, 10, 12, 14, 16])
@pytest.mark.parametrize(
    ("family", "across", "down", "kind"),
    [(GREY, 0, 0, "grey"), (RGB, 0, 0, "rgb"), *((YUV, a, d, "yuv") for a in (0, 1) for d in (0, 1))],
)
def test_integers_of_8_to_16_bits_have_a_layout(family, across, down, kind, bits):
    found = layout(family, bits, across=across, down=down)
    assert (found.kind, found.depth, found.across, found.down) == (kind, bits, 1 << across, 1 << down)
    planes = 1 if family == GREY else 3
    assert len(found.shapes(8, 8)) == planes


def test_floating_rgb_and_grey_have_a_layout():
    for family in (GREY, RGB):
        found = layout(family, 32, FLOAT)
        assert found.floating
        assert str(found.dtype) == "float32"


@pytest.mark.parametrize(
    ("family", "bits", "sample_type", "across", "instead"),
    [
        (RGB, 32, INTEGER, 0, "RGBS"),
        (RGB, 16, FLOAT, 0, "RGBS"),
        (GREY, 32, INTEGER, 0, "GRAYS"),
        (YUV, 32, FLOAT, 0, "YUV444P16"),
        (YUV, 8, INTEGER, 2, "YUV444P16"),
    ],
)
def test_other_formats_are_refused_with_one_to_convert_to(family, bits, sample_type, across, instead):
    with pytest.raises(UsageError, match=f"format Named .*format=vs.{instead}"):
        layout(family, bits, sample_type, across)


@pytest.mark.parametrize(
    ("number", "matrix"),
    [(1, "bt709"), (4, "fcc"), (5, "bt601"), (6, "bt601"), (7, "smpte240m"), (8, "ycgco"), (9, "bt2020")],
)
def test_the_matrix_is_the_one_that_the_frame_names(number, matrix):
    assert colours_of({"_Matrix": number}, YUV420, 100, 100).matrix == matrix


@pytest.mark.parametrize(("height", "matrix"), [(576, "bt601"), (720, "bt709")])
@pytest.mark.parametrize("properties", [{}, {"_Matrix": 2}])
def test_without_a_matrix_the_size_decides_as_in_players(properties, height, matrix):
    assert colours_of(properties, YUV420, height, 720).matrix == matrix


@pytest.mark.parametrize(
    ("number", "name"), [(0, "that of RGB"), (10, "constant luminance"), (14, "ICtCp"), (99, "unknown")]
)
def test_a_matrix_that_is_not_converted_is_refused_by_name(number, name):
    with pytest.raises(InputError, match=rf"_Matrix={number}\) is .*{name}"):
        colours_of({"_Matrix": number}, YUV420, 100, 100)


@pytest.mark.parametrize(
    ("properties", "yuv", "rgb"),
    [
        ({}, "limited", "full"),
        ({"_Range": 0}, "limited", "limited"),
        ({"_Range": 1}, "full", "full"),
        ({"_ColorRange": 0}, "full", "full"),
        ({"_ColorRange": 1}, "limited", "limited"),
        ({"_Range": 1, "_ColorRange": 1}, "full", "full"),
    ],
)
def test_the_range_has_two_names_with_opposite_numbers(properties, yuv, rgb):
    assert colours_of(properties, YUV420, 100, 100).range == yuv
    assert colours_of(properties, layout(GREY, 8), 100, 100).range == yuv
    assert colours_of(properties, layout(RGB, 8), 100, 100).range == rgb
    assert colours_of(properties, layout(RGB, 32, FLOAT), 100, 100).range == "full"


@pytest.mark.parametrize(
    ("across", "down", "wanted"),
    [
        (1, 1, ["left", "center", "topleft", None, None, None]),
        (1, 0, ["left", "center", "left", "center", "left", "center"]),
        (0, 1, ["left", "left", "topleft", "topleft", None, None]),
        (0, 0, ["left"] * 6),
    ],
)
def test_the_chroma_location_counts_along_the_axes_that_are_halved(across, down, wanted):
    yuv = layout(YUV, 10, across=across, down=down)
    for number, siting in enumerate(wanted):
        properties = {"_Matrix": 1, "_ChromaLocation": number}
        if siting is None:
            with pytest.raises(InputError, match=f"_ChromaLocation={number}"):
                colours_of(properties, yuv, 100, 100)
        else:
            assert colours_of(properties, yuv, 100, 100) == Colours(siting=siting)


def test_interlaced_frames_are_refused():
    check_progressive({})
    check_progressive({"_FieldBased": 0})
    for number in (1, 2):
        with pytest.raises(InputError, match=rf"_FieldBased={number}\)"):
            check_progressive({"_FieldBased": number})


def test_without_vapoursynth_the_error_ends_in_the_install_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "vapoursynth", None)
    with pytest.raises(MissingRuntimeError, match=r'pip install "sr-deploy\[vapoursynth\]"$'):
        Upscale(None, "rt-x2")


def test_the_name_can_be_imported_without_vapoursynth():
    code = "import sys; sys.modules['vapoursynth'] = None; from sr_deploy.vapoursynth import Upscale; Upscale"
    subprocess.run([sys.executable, "-c", code], check=True)
