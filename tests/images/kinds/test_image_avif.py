"""Reading AVIF, compared with Pillow, and HEIC where libvips has a decoder."""

from __future__ import annotations

import base64
import io
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
import pyvips

from sr_deploy.errors import ImageError
from sr_deploy.images.codecs import avif
from sr_deploy.images.image import read_image, write_image
from tests.images.kinds.test_cases_pixels import case
from tests.images.samples import camera_exif, joined, profile, read, refused, saved, smooth


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("orientation", [1, 6, 7])
def test_avif_reads_as_pillow_reads_it(tmp_path: Path, channels: int, orientation: int) -> None:
    source, icc = PIL.Image.fromarray(smooth(40, 50, channels)), profile()
    data = saved(
        source, "AVIF", quality=90, subsampling="4:4:4", exif=camera_exif(orientation), icc_profile=icc
    )
    image = read(tmp_path, data)
    expected = PIL.ImageOps.exif_transpose(PIL.Image.open(io.BytesIO(data)))
    assert np.abs(joined(image).astype(int) - np.asarray(expected).astype(int)).max() <= 2
    assert (image.format, image.metadata.icc, image.notes) == ("avif", icc, ())
    write_image(image, tmp_path / "out.png")
    with PIL.Image.open(tmp_path / "out.png") as seen:
        assert seen.getexif()[0x010F] == "A maker"
        assert seen.getexif().get(0x0112, 1) == 1


def deep(value: int, **options: Any) -> bytes:
    samples = np.full((20, 30, 3), value, np.uint16)
    image = pyvips.Image.new_from_memory(samples.data, 30, 20, 3, "ushort").copy(interpretation="rgb16")
    return bytes(image.heifsave_buffer(compression="av1", bitdepth=10, lossless=True, **options))


def test_ten_bits_become_sixteen_and_white_stays_white(tmp_path: Path) -> None:
    image = read(tmp_path, deep(65535))
    assert (image.bits, image.pixels.min()) == (16, 65535)


def test_the_meaning_of_pixel_values_is_kept(tmp_path: Path) -> None:
    data = deep(30000)
    at = data.index(b"colrnclx") + 8
    pq = data[:at] + b"\0\x09\0\x10" + data[at + 4 :]
    image = read(tmp_path, pq)
    assert image.metadata.chunks == ((b"cICP", b"\x09\x10\0\1"),)
    assert any("the colour chunk cICP" in note for note in write_image(image, tmp_path / "out.jpg"))
    write_image(image, tmp_path / "out.png")
    assert read_image(tmp_path / "out.png").metadata.chunks == image.metadata.chunks
    assert read(tmp_path, data).metadata.chunks == ()


def test_a_truncated_avif_is_refused(tmp_path: Path) -> None:
    data = saved(PIL.Image.fromarray(smooth(40, 50, 3)), "AVIF")
    for kept in (20, 40, 300, len(data) // 2, len(data) - 1):
        (tmp_path / "cut").write_bytes(data[:kept])
        assert "cannot be decoded" in refused(tmp_path / "cut")
    (tmp_path / "whole").write_bytes(data)
    assert "50x40 pixels are too many" in refused(tmp_path / "whole", max_pixels=100)


def test_colours_that_were_multiplied_by_their_opacity_are_divided_by_it() -> None:
    """The file is avifenc's, of waves of three colours whose opacity grows by 4 with every column."""
    image = read_image(case("premultiplied.avif"))
    y, x = np.mgrid[:48, :64]
    waves = np.stack([(np.sin(x / 9 + c) * np.cos(y / 7 + c) * 120 + 128) for c in range(3)], 2)
    assert image.alpha is not None
    assert np.abs(image.pixels - waves)[:, 16:].mean() < 3


def heic() -> bytes:
    """The grey HEIC of 16x16 pixels by which the decoder is looked for."""
    return zlib.decompress(base64.b85decode(avif._PROBE))


def test_heic_without_a_decoder_is_refused_with_the_way_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(avif, "reads_heic", lambda: False)
    (tmp_path / "a.heic").write_bytes(heic())
    with pytest.raises(
        ImageError, match=r"is in the format HEIC: the libvips here has no decoder.*libvips42"
    ) as caught:
        read_image(tmp_path / "a.heic")
    assert "convert it to PNG" not in str(caught.value)


def test_heic_is_read_where_there_is_a_decoder(tmp_path: Path) -> None:
    if not avif.reads_heic():
        pytest.skip("this libvips has no decoder for HEIC")
    (tmp_path / "a.heic").write_bytes(heic())
    found = read_image(tmp_path / "a.heic")
    assert (found.width, found.height, found.format, found.notes) == (16, 16, "heic", ())
    assert abs(int(found.pixels.mean()) - 128) < 3
