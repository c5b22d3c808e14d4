"""What `upscale` does with masks, damaged and dithered pictures, metadata and everything in a folder; `formats`."""

from __future__ import annotations

import json
import shutil

import numpy as np
import PIL.Image
import pytest

from sr_deploy.images.codecs.avif import reads_heic
from sr_deploy.images.codecs.formats import NAMES, formats
from sr_deploy.images.dither import is_dithered
from sr_deploy.images.image import Image, Metadata, read_image, write_image
from tests.images.kinds.test_cases_pixels import case


def repeated(pixels, scale=4):
    return pixels.repeat(scale, axis=0).repeat(scale, axis=1)


def test_a_mask_leaves_the_colours_as_they_are(run, bundle, tmp_path):
    mask, out = case("texture-mask.png"), tmp_path / "out.png"
    assert run("upscale", mask, "-o", out, "--alpha", "straight").exit_code == 0
    colours = np.asarray(PIL.Image.open(mask))[..., :3]
    with PIL.Image.open(out) as seen:
        assert np.array_equal(np.asarray(seen)[..., :3], repeated(colours))
    assert run("upscale", mask, "-o", out, "--overwrite").exit_code == 0
    with PIL.Image.open(out) as seen:
        assert not np.array_equal(np.asarray(seen)[..., :3], repeated(colours))


def test_a_mask_of_another_size_keeps_its_colours_too(run, bundle, tmp_path):
    mask, out = case("texture-mask.png"), tmp_path / "out.png"
    assert run("upscale", mask, "-o", out, "--alpha", "straight", "--width", 128).exit_code == 0
    image, source = read_image(out), read_image(mask)
    assert (image.width, image.height) == (128, 96)
    for after, before in zip(
        image.pixels.reshape(-1, 3).mean(0), source.pixels.reshape(-1, 3).mean(0), strict=True
    ):
        assert after == pytest.approx(before, abs=1.5)


def test_damage_is_an_error_or_a_note(run, bundle, tmp_path):
    out = tmp_path / "out.png"
    result = run("upscale", case("damaged-deflate.tif"), "-o", out)
    assert result.exit_code == 3
    assert "--keep-damaged" in result.stderr
    assert not out.exists()
    result = run("upscale", case("damaged-deflate.tif"), "-o", out, "--keep-damaged", "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["notes"][0].startswith("damaged: it cannot be decoded")


def test_metadata_is_stripped_but_for_what_the_pixels_mean(run, bundle, tmp_path):
    source, out = tmp_path / "in.png", tmp_path / "out.png"
    chunks = ((b"gAMA", b"\0\0\xb1\x8f"), (b"tEXt", b"parameters\0a cat"))
    metadata = Metadata(xmp=b"<x/>", dpi=(300.0, 300.0), chunks=chunks)
    write_image(Image(pixels=np.zeros((8, 8, 3), np.uint8), metadata=metadata), source)
    assert run("upscale", source, "-o", out, "--strip").exit_code == 0
    found = read_image(out).metadata
    assert (found.xmp, found.chunks) == (None, chunks[:1])
    assert found.dpi == pytest.approx((300, 300), abs=0.02)


def test_a_dithered_picture_is_resampled_and_said_to_be(run, bundle, tmp_path):
    source, out = case("dither-bayer.png"), tmp_path / "out.png"
    result = run("upscale", source, "-o", out, "--json")
    assert any("looks dithered" in note for note in json.loads(result.stdout)["notes"])
    small, large = read_image(source).pixels[..., 0], read_image(out).pixels[..., 0]
    assert large.mean() == pytest.approx(small.mean(), abs=3)
    means = small[:52].reshape(13, 4, 24, 4).mean((1, 3)), large[:208].reshape(13, 16, 24, 16).mean((1, 3))
    assert np.sqrt(np.mean((means[0] - means[1]) ** 2)) < 12


def test_drawings_and_photographs_are_not_taken_for_dithered(picture):
    y, x = np.mgrid[:64, :64]
    for pixels in (
        y // 8 % 2 * 255,
        (x + y) // 3 % 2 * 255,
        x * 4,
        np.random.default_rng(0).integers(0, 256, (64, 64)),
    ):
        assert not is_dithered(pixels.astype(np.uint8)[..., None])
    assert is_dithered(((x + y) % 2 * 255).astype(np.uint8)[..., None])


def test_everything_in_a_folder_is_counted(run, bundle, picture, tmp_path):
    photo = picture("in/a.png")
    folder = photo.parent
    shutil.copy(photo, folder / "without_a_suffix")
    for name in ("b.heic", "c.dng", "d.txt", "e.txt", "f", ".hidden.txt"):
        (folder / name).write_bytes(b"text")
    (folder / "deep").mkdir()
    (folder / "linked").symlink_to(tmp_path)
    result = run("upscale", folder, "-o", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    summary = result.stderr.splitlines()[-1]
    assert summary.startswith(
        "2 upscaled, 7 left out (2 .txt files, 1 HEIC, 1 camera raw, 1 linked folder, 1 other file, 1 subfolder: add --recursive) in "
    )
    assert sorted(path.name for path in (tmp_path / "out").glob("*.png")) == ["a.png", "without_a_suffix.png"]


def test_a_result_of_an_earlier_run_is_never_an_input(run, bundle, picture, tmp_path):
    folder = picture("in/a.png").parent
    assert run("upscale", folder, "--scale", 2).exit_code == 0
    result = run("upscale", folder)
    assert result.stderr.splitlines()[-1].startswith(
        "1 upscaled, 1 left out (1 result of an earlier run) in "
    )
    assert sorted(path.name for path in folder.glob("*.png")) == ["a-x2.png", "a-x4.png", "a.png"]
    assert run("upscale", folder, "-o", tmp_path / "out", "--recursive").exit_code == 0
    result = run("upscale", tmp_path / "out", "-o", tmp_path / "again")
    assert result.exit_code == 3
    assert "holds no pictures except results of earlier runs (1); name the files" in result.stderr
    assert run("upscale", tmp_path / "out" / "a.png", "-o", tmp_path / "again" / "a.png").exit_code == 0


def test_the_formats_are_those_of_the_code(run):
    result = run("formats", "--json")
    facts = json.loads(result.stdout)
    missing = [] if reads_heic() else ["HEIC"]
    assert facts["read"] == [name for name in NAMES.values() if name not in missing]
    assert list(facts["missing"]) == missing
    assert [row["format"] for row in facts["written"]] == [NAMES[kind.name] for kind in formats()]
    assert {"camera raw", "JPEG XL", "SVG", "PPM", "Photoshop"} <= set(facts["refused"])
    assert "LZW" in facts["tiff"]
    assert "TIFF: LZMA" in facts["refused"]
    plain = run("formats").stdout
    assert all(kind in plain for kind in (*NAMES.values(), "CCITT fax (G4)"))
