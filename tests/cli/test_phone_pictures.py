"""`sr-deploy upscale` on a folder as a phone leaves it: nothing is left out silently, and the run is foreseen and shown."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from sr_deploy.batch import compare, survey
from sr_deploy.images.codecs.formats import NAMES, formats
from sr_deploy.images.image import Image, read_image, read_size, write_image
from sr_deploy.images.resize import resize
from sr_deploy.system.files import write_whole


def test_videos_and_heic_are_named_with_the_way_to_take_them(run, bundle, picture, tmp_path, monkeypatch):
    monkeypatch.setattr("sr_deploy.batch.inputs._reads_heic", lambda: False)
    folder = picture("in/IMG_1.jpg").parent
    for name in ("IMG_1.MOV", "IMG_2.heic", "IMG_2.mov", "IMG_3.HEIC", "film.mov", "clip.mp4"):
        (folder / name).write_bytes(b"not read")
    (folder / "more").mkdir()
    result = run("upscale", folder, "-o", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    lines = result.stderr.splitlines()
    assert lines[-1].startswith(
        "1 upscaled, 7 left out (2 HEIC, 1 subfolder: add --recursive, 2 videos: see sr-deploy video, "
        "2 videos of Live Photos) in "
    )
    said = [
        line for line in lines if "HEIC pictures are left out (2): the libvips here has no decoder" in line
    ]
    assert len(said) == 1
    assert "apt install libvips42" in said[0]


def test_heic_is_taken_where_libvips_has_a_decoder(run, bundle, picture, tmp_path, monkeypatch):
    monkeypatch.setattr("sr_deploy.batch.inputs._reads_heic", lambda: True)
    photo = picture("in/a.png")
    shutil.copy(photo, photo.with_name("b.HEIC"))  # content decides
    shutil.copy(photo, photo.with_name("c.png"))
    result = run("upscale", photo.parent, "-o", tmp_path / "out", "--json")
    assert [Path(json.loads(line)["output"]).name for line in result.stdout.splitlines()] == [
        "a.png",
        "b.png",
        "c.png",
    ]


def test_a_dry_run_lists_sizes_and_time_and_writes_nothing(run, bundle, picture, tmp_path):
    folder = picture("in/a.png").parent
    picture("in/b.jpg", width=20, height=10)
    assert run("upscale", folder, "-o", tmp_path / "out").exit_code == 0
    picture("in/c.png", width=30, height=20)
    (folder / "bad.png").write_bytes((folder / "a.png").read_bytes()[:60])
    edited = tmp_path / "out" / "b.jpg"
    edited.write_bytes(edited.read_bytes() + b"a signature")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    result = run("upscale", folder, "-o", tmp_path / "out", "--dry-run")
    assert result.exit_code == 5
    out = tmp_path / "out"
    assert result.stdout.splitlines() == [
        f"{out / 'a.png'} is there already, would be skipped",
        f"{out / 'b.jpg'} was not made by a run of sr-deploy, or was changed: would be reported and kept",
        result.stdout.splitlines()[2],
        f"{folder / 'c.png'} (30x20) -> {out / 'c.png'} (120x80)",
    ]
    assert "bad.png: this picture" in result.stdout.splitlines()[2]
    last = result.stderr.splitlines()[-1]
    assert last.startswith(
        "1 to upscale (0.0 megapixels, which become 0.0), 1 skipped, 2 failing, about 1 s on "
    )
    assert last.endswith("; nothing was written")
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_a_dry_run_as_json_has_the_keys_of_a_run(run, bundle, picture, tmp_path):
    arguments = ("upscale", picture("in/a.png").parent, "-o", tmp_path / "out", "--json")
    planned = json.loads(run(*arguments, "--dry-run").stdout)
    made = json.loads(run(*arguments).stdout)
    assert planned.keys() == made.keys()
    assert (planned["status"], planned["width"], planned["height"]) == (
        "planned",
        made["width"],
        made["height"],
    )
    assert 0 < planned["seconds"] < 5


def test_a_dry_run_of_a_single_picture_whose_size_is_asked_for(run, bundle, picture, tmp_path):
    result = run("upscale", picture(), "-o", tmp_path / "a.png", "--width", 50, "--dry-run")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.endswith(f"-> {tmp_path / 'a.png'} (50x39)\n")


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.1, "1 s"), (89, "89 s"), (95, "2 min"), (7500, "2 h 5 min")]
)
def test_durations_are_in_the_unit_that_suits(seconds, text):
    from sr_deploy.cli.shared.dry_run import duration

    assert duration(seconds) == text


def test_the_measurement_takes_parts_of_large_pictures(bundle, picture, monkeypatch):
    from sr_deploy.batch.jobs import Job
    from sr_deploy.batch.steps import WriteSettings
    from sr_deploy.images.sizes import OutputSize
    from sr_deploy.upscale import Upscaler

    monkeypatch.setattr(survey, "_PARTS", (256, 1024))
    sources = [picture(f"{n}.png", width=20 + n, height=90) for n in range(9)]
    settings = WriteSettings(size=OutputSize(factor=1.5))
    with Upscaler.open("rt-x2", backend="onnxruntime") as upscaler:
        looks = survey.look_at([Job(s, s, "png") for s in sources], scale=2, settings=settings)
        assert [look.result for look in looks][:2] == [(30, 135), (32, 135)]
        assert 0 < (survey.seconds_per_pixel(upscaler, looks, settings, "0") or 0) < 0.01


def test_pictures_are_chosen_by_their_longer_side(run, bundle, picture, tmp_path):
    folder = picture("in/icon.png", width=8, height=4).parent
    picture("in/photo.png", width=20, height=40)
    picture("in/huge.png", width=60, height=9)
    result = run("upscale", folder, "-o", tmp_path / "out", "--min-size", 9, "--max-size", 40)
    assert result.exit_code == 0, result.stderr
    assert [path.name for path in (tmp_path / "out").glob("*.png")] == ["photo.png"]
    assert "1 upscaled, 2 left out (1 too large picture, 1 too small picture) in " in result.stderr
    assert run("upscale", folder, "--min-size", 9, "--max-size", 8).exit_code == 2


def test_the_size_of_a_picture_is_that_of_the_upright_one(tmp_path):
    from PIL import Image as Pillow

    exif = Pillow.Exif()
    exif[0x112] = 6
    Pillow.new("RGB", (30, 20)).save(tmp_path / "a.jpg", exif=exif)
    assert read_size(tmp_path / "a.jpg") == (20, 30)
    Pillow.new("RGB", (30, 20)).save(
        tmp_path / "a.webp", lossless=True
    )  # its size is in the bits of the codec
    assert read_size(tmp_path / "a.webp") == (30, 20)


def test_the_size_of_a_jpeg_is_found_behind_much_metadata(tmp_path, monkeypatch):
    from PIL import Image as Pillow

    Pillow.new("RGB", (30, 20)).save(tmp_path / "a.jpg", icc_profile=b"p" * 3000)
    monkeypatch.setattr("sr_deploy.images.image._HEAD", 1000)
    assert read_size(tmp_path / "a.jpg") == (30, 20)


def test_results_have_the_dates_of_their_pictures_and_stay_known(run, bundle, picture, tmp_path):
    photo = picture("in/a.jpg")
    os.utime(photo, ns=(1_000_000_000, 1_234_567_890_000_000_000))
    arguments = ("upscale", photo.parent, "-o", tmp_path / "out", "--keep-dates")
    assert run(*arguments).exit_code == 0
    assert (tmp_path / "out" / "a.jpg").stat().st_mtime == pytest.approx(1_234_567_890, abs=2)
    assert "is there already, skipped" in run(*arguments).stderr
    single = tmp_path / "single.jpg"
    assert run("upscale", photo, "-o", single, "--keep-dates").exit_code == 0
    assert single.stat().st_mtime == pytest.approx(1_234_567_890, abs=2)


@pytest.mark.parametrize(("factor", "scale"), [("3", 4), ("1.5", 2)])
def test_other_factors_are_the_net_and_one_resize(run, bundle, picture, tmp_path, factor, scale):
    photo = picture("in/a.png", width=10, height=8)
    result = run("upscale", photo.parent, "-o", tmp_path / "out", "--scale", factor)
    assert result.exit_code == 0, result.stderr
    whole = Image(pixels=read_image(photo).pixels.repeat(scale, axis=0).repeat(scale, axis=1))
    expected = resize(whole, round(10 * float(factor)), round(8 * float(factor)))
    np.testing.assert_array_equal(read_image(tmp_path / "out" / "a.png").pixels, expected.pixels)
    assert run("upscale", photo.parent, "--scale", factor).exit_code == 0
    assert (photo.parent / f"a-x{factor}.png").exists()
    assert (
        "0 upscaled, 1 skipped"
        in run("upscale", photo.parent, "-o", tmp_path / "out", "--scale", factor).stderr
    )


def test_a_model_that_was_named_serves_smaller_factors(run, bundle, picture, tmp_path):
    out = tmp_path / "a.png"
    assert run("upscale", picture(), "-o", out, "--model", "rt-x4", "--scale", "2.5").exit_code == 0
    assert read_image(out).width == round(9 * 2.5)


@pytest.mark.parametrize("factor", ["0.5", "nan", "1001", "many"])
def test_a_factor_that_makes_no_sense_is_refused(run, picture, factor):
    result = run("upscale", picture(), "--scale", factor)
    assert result.exit_code == 2
    assert "--scale" in result.stderr


def test_a_call_without_inputs_says_what_to_type(run, tmp_path):
    result = run("upscale")
    assert result.exit_code == 2
    assert "such as: sr-deploy upscale photo.jpg" in result.stderr
    folder = tmp_path / "holiday"
    folder.mkdir()
    result = run(folder)
    assert result.exit_code == 2
    assert (
        f"is a folder, not a command; to upscale its pictures: sr-deploy upscale {folder}/ -o {folder}-x4/"
        in result.stderr
    )


def test_the_help_names_every_format(run):
    text = " ".join(run("upscale", "--help").stdout.split())
    *names, heic = NAMES.values()
    assert f"Reads {', '.join(names)} and, where libvips has a decoder, {heic}. Writes" in text
    assert f"Format of the results: {', '.join(kind.name for kind in formats())}." in text


def pairs_of(page: Path) -> list[dict[str, str]]:
    found = re.search(r'id="pairs">(.*?)</script>', page.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    pairs: list[dict[str, str]] = json.loads(found[1])
    return pairs


def test_the_page_shows_files_where_they_lie(run, bundle, picture, tmp_path):
    picture("in/a.png")
    picture("in/$PAIRS<script> 1%.jpg" if os.name != "nt" else "in/$PAIRS 1%.jpg")
    picture("in/scan.tif", width=500, height=300)
    page = tmp_path / "out" / "compare.html"
    arguments = ("upscale", tmp_path / "in", "-o", tmp_path / "out", "--recursive", "--compare", page)
    assert run(*arguments).exit_code == 0
    text = page.read_text(encoding="utf-8")
    assert "http://" not in text
    assert "https://" not in text
    assert text.count("<script") == 2
    pairs = {pair["name"]: pair for pair in pairs_of(page)}
    assert pairs["a.png"] == {"name": "a.png", "before": "../in/a.png", "after": "a.png"}
    scan = pairs.pop("scan.tif")
    assert scan["part"]
    assert all(scan[side].startswith("data:image/webp;base64,") for side in ("before", "after"))
    for pair in pairs.values():
        from urllib.parse import unquote

        assert all((page.parent / unquote(pair[side])).is_file() for side in ("before", "after"))
    shutil.rmtree(tmp_path / "in" / "none", ignore_errors=True)
    again = run(*arguments)  # our own page is replaced, and results that were there already are shown
    assert again.exit_code == 0
    assert len(pairs_of(page)) == len(pairs) + 1


def test_the_page_stays_small(tmp_path, monkeypatch):
    monkeypatch.setattr(compare, "_MOST_EMBEDDED", 50_000)
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)
    pairs = []
    for number in range(4):
        before, after = tmp_path / f"{number}.tif", tmp_path / f"{number}-x2.tif"
        write_image(noise, before)
        write_image(noise.repeat(2, axis=0).repeat(2, axis=1), after)
        pairs.append(compare.Pair(before, after))
    page = tmp_path / "compare.html"
    compare.write_page(page, pairs * 1000, "rt-x2")
    assert page.stat().st_size < 3_000_000
    assert [bool(pair.get("part")) for pair in pairs_of(page)[:4]] == [True, False, False, False]


def test_a_page_of_somebody_else_is_kept(run, bundle, picture, tmp_path):
    page = tmp_path / "index.html"
    write_whole(page, b"<html>mine</html>")
    photo = picture()
    result = run("upscale", photo, "--compare", page)
    assert result.exit_code == 3
    assert "is no page of comparisons" in result.stderr
    assert run("upscale", photo, "--compare", tmp_path / "page.png").exit_code == 2
    assert page.read_bytes() == b"<html>mine</html>"
    assert [path.name for path in tmp_path.glob("photo*")] == ["photo.png"]


def test_a_name_that_is_no_utf_8_stands_on_the_page(tmp_path: Path) -> None:
    from sr_deploy.batch.compare import Pair, write_page

    page, name = tmp_path / "page.html", os.fsdecode(b"caf\xe9.png")
    write_page(page, [Pair(tmp_path / name, tmp_path / "out" / name)], "rt-x2")
    text = page.read_text(encoding="utf-8")
    assert "caf%E9.png" in text
    assert "out/caf%E9.png" in text


def test_a_page_that_cannot_be_written_is_refused_before_the_work(tmp_path: Path) -> None:
    from sr_deploy.batch.compare import check_page
    from sr_deploy.errors import OutputError

    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError):
        check_page(tmp_path / "file" / "page.html")
    check_page(tmp_path / "new" / "folder" / "page.html")
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]
