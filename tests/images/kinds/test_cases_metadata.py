"""Small valid files made after public bug reports: what they say about themselves is kept, made true or named.

The files are in `cases`. Each is read, enlarged four times and written; Pillow and tifffile read the result.
"""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.IptcImagePlugin
import pytest
import tifffile

from sr_deploy.images.image import read_image, write_image
from tests.images.kinds.test_cases_pixels import case
from tests.images.samples import joined


def enlarged(name: str, target: Path) -> tuple[str, ...]:
    """Write the case four times as large to `target`. Returns all notes."""
    image = read_image(case(name))
    pixels = np.ascontiguousarray(image.pixels.repeat(4, 0).repeat(4, 1))
    alpha = image.alpha.repeat(4, 0).repeat(4, 1) if image.alpha is not None else None
    return (*image.notes, *write_image(replace(image, pixels=pixels, alpha=alpha), target))


def chunks(path: Path) -> dict[bytes, bytes]:
    """Type and body of every chunk of a PNG."""
    data, at, found = path.read_bytes(), 8, {}
    while at < len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        found[kind] = data[at + 8 : at + 8 + size]
        at += 12 + size
    return found


def info(path: Path) -> dict[str, Any]:
    """What Pillow says about the file."""
    with PIL.Image.open(path) as seen:
        return dict(seen.info)


def xmp_of(path: Path) -> str:
    xmp = info(path)["xmp"]
    return xmp.decode() if isinstance(xmp, bytes) else str(xmp)


@pytest.mark.parametrize(
    ("name", "kinds"),
    [("cicp-pq.png", [b"cICP"]), ("chrm-adobergb.png", [b"cHRM", b"gAMA"]), ("pixel-aspect.png", [b"pHYs"])],
)
def test_colour_chunks_and_the_shape_of_a_pixel_are_kept_in_a_png(
    tmp_path: Path, name: str, kinds: list[bytes]
) -> None:
    assert enlarged(name, tmp_path / "out.png") == ()
    before, after = chunks(case(name)), chunks(tmp_path / "out.png")
    assert [after[kind] for kind in kinds] == [before[kind] for kind in kinds]


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("cicp-pq.png", "the colour chunk cICP"),
        ("chrm-adobergb.png", "the colour chunk cHRM"),
        ("sd-parameters.png", "the text 'parameters'"),
        ("pixel-aspect.png", "the shape of a pixel"),
        ("iptc.jpg", "IPTC captions, the comment"),
        ("geotiff.tif", "the georeference"),
    ],
)
def test_what_a_format_cannot_hold_is_named(tmp_path: Path, name: str, part: str) -> None:
    assert part in " ".join(enlarged(name, tmp_path / "out.webp"))


@pytest.mark.parametrize("suffix", [".jpg", ".tif"])
def test_the_shape_of_a_pixel_is_kept_elsewhere(tmp_path: Path, suffix: str) -> None:
    assert enlarged("pixel-aspect.png", tmp_path / f"out{suffix}") == ()
    assert read_image(tmp_path / f"out{suffix}").metadata.aspect == (1, 2)


def test_png_texts_are_kept(tmp_path: Path) -> None:
    assert enlarged("sd-parameters.png", tmp_path / "out.png") == ()
    with PIL.Image.open(case("sd-parameters.png")) as before, PIL.Image.open(tmp_path / "out.png") as after:
        assert after.info["parameters"] == before.info["parameters"]


def test_exif_that_exiv2_wrote_into_a_png_counts(tmp_path: Path) -> None:
    assert enlarged("exif-raw-profile.png", tmp_path / "out.png") == ()
    with (
        PIL.Image.open(case("exif-raw-profile.png")) as before,
        PIL.Image.open(tmp_path / "out.png") as after,
    ):
        assert after.size == (192, 256)  # it was taken upright
        assert after.getexif()[0x010F] == before.getexif()[0x010F]
        assert after.getexif()[0x0112] == 1
    assert b"Raw profile type exif" not in (tmp_path / "out.png").read_bytes()


def test_a_thumbnail_that_lies_on_its_side_is_left_out(tmp_path: Path) -> None:
    notes = enlarged("rotated-with-thumbnail.jpg", tmp_path / "out.jpg")
    assert notes == ("its thumbnail lay on its side and was left out",)
    with PIL.Image.open(tmp_path / "out.jpg") as after:
        assert after.size == (256, 192)
        assert after.getexif()[0x0112] == 1
        assert after.getexif().get_ifd(1) == {}


def test_gain_map_and_video_are_left_out_with_their_properties(tmp_path: Path) -> None:
    notes = enlarged("ultrahdr-motion.jpg", tmp_path / "out.jpg")
    assert notes == ("its gain map (HDR) was left out", "its video (motion photo) was left out")
    xmp = xmp_of(tmp_path / "out.jpg")
    for word in ("hdrgm:Version", "GainMap", "MotionPhoto", "Container:Directory"):
        assert word not in xmp
    assert "rdf:about" in xmp


def test_further_pictures_of_a_jpeg_are_named(tmp_path: Path) -> None:
    assert enlarged("stereo-mpo.jpg", tmp_path / "out.jpg") == ("holds 2 pictures: only the first is used",)


def test_the_sizes_of_a_panorama_grow_with_it(tmp_path: Path) -> None:
    assert enlarged("panorama360.jpg", tmp_path / "out.jpg") == ()
    xmp = xmp_of(tmp_path / "out.jpg")
    for name, value in (
        ("GPano:FullPanoWidthPixels", 256),
        ("GPano:FullPanoHeightPixels", 128),
        ("GPano:CroppedAreaImageWidthPixels", 256),
        ("GPano:CroppedAreaImageHeightPixels", 128),
        ("GPano:CroppedAreaLeftPixels", 0),
        ("exif:PixelXDimension", 256),
        ("tiff:ImageWidth", 256),
    ):
        assert f"<{name}>{value}</{name}>" in xmp


@pytest.mark.parametrize("suffix", [".jpg", ".tif", ".png"])
def test_captions_are_kept(tmp_path: Path, suffix: str) -> None:
    notes = enlarged("iptc.jpg", tmp_path / f"out{suffix}")
    assert notes == (("TIFF has no place for the comment: left out",) if suffix == ".tif" else ())
    with PIL.Image.open(case("iptc.jpg")) as before:
        captions = PIL.IptcImagePlugin.getiptcinfo(before)
        comment = before.info["comment"]
    assert captions
    record = read_image(tmp_path / f"out{suffix}").metadata.iptc
    assert record == read_image(case("iptc.jpg")).metadata.iptc
    if suffix == ".png":
        assert record is not None
        assert record in bytes.fromhex(
            "".join(info(tmp_path / "out.png")["Raw profile type iptc"].split()[2:])
        )
        return
    with PIL.Image.open(tmp_path / f"out{suffix}") as after:
        assert PIL.IptcImagePlugin.getiptcinfo(after) == captions
        assert suffix == ".tif" or after.info["comment"] == comment


def test_extended_xmp_is_named_and_its_pointer_removed(tmp_path: Path) -> None:
    assert enlarged("extended-xmp.jpg", tmp_path / "out.jpg") == ("its extended XMP was left out",)
    assert "HasExtendedXMP" not in xmp_of(tmp_path / "out.jpg")
    assert "dc:format" in xmp_of(tmp_path / "out.jpg")


def test_a_geotiff_stays_in_its_place(tmp_path: Path) -> None:
    assert enlarged("geotiff.tif", tmp_path / "out.tif") == ()
    with tifffile.TiffFile(case("geotiff.tif")) as before, tifffile.TiffFile(tmp_path / "out.tif") as after:
        old, new = before.pages[0].tags, after.pages[0].tags
        assert new[33550].value == (2.5, 2.5, 0.0)
        assert new[33922].value == old[33922].value
        assert new[34735].value == old[34735].value


def test_the_tags_of_windows_travel(tmp_path: Path) -> None:
    for source, target in (("windows-tags.tif", "a.tif"), ("windows-tags.tif", "b.jpg")):
        assert enlarged(source, tmp_path / target) == ()
    write_image(read_image(tmp_path / "b.jpg"), tmp_path / "c.tif")
    with PIL.Image.open(case("windows-tags.tif")) as before:
        expected = {number: before.getexif()[number] for number in (269, 18246, 40091, 40094, 315)}
    for name in ("a.tif", "b.jpg", "c.tif"):
        with PIL.Image.open(tmp_path / name) as after:
            assert {number: after.getexif()[number] for number in expected} == expected


def test_lossless_webp_stays_lossless(tmp_path: Path) -> None:
    assert enlarged("lossless-pixelart.webp", tmp_path / "out.webp") == ()
    assert b"VP8L" in (tmp_path / "out.webp").read_bytes()[:64]
    with (
        PIL.Image.open(case("lossless-pixelart.webp")) as before,
        PIL.Image.open(tmp_path / "out.webp") as after,
    ):
        expected = np.asarray(before.convert("RGB")).repeat(4, 0).repeat(4, 1)
        assert np.array_equal(np.asarray(after.convert("RGB")), expected)


def test_a_grey_profile_is_not_put_into_a_webp(tmp_path: Path) -> None:
    notes = enlarged("grey-icc.png", tmp_path / "out.webp")
    assert notes == ("WebP has no grey pictures: the grey colour profile was left out",)
    assert "icc_profile" not in info(tmp_path / "out.webp")
    enlarged("grey-icc.png", tmp_path / "out.png")
    assert info(tmp_path / "out.png")["icc_profile"][16:20] == b"GRAY"


def test_a_missing_end_marker_is_a_note(tmp_path: Path) -> None:
    image = read_image(case("no-eoi.jpg"))
    assert image.notes == ("has no end marker, although all its rows are there",)
    whole = tmp_path / "whole.jpg"
    whole.write_bytes((case("no-eoi.jpg")).read_bytes() + b"\xff\xd9")
    with PIL.Image.open(whole) as seen:
        assert np.array_equal(joined(image), np.asarray(seen))


def test_jpeg_ls_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"JPEG-LS, which is not supported"):
        read_image(case("jpeg-ls.jls"))
