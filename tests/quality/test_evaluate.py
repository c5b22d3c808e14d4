"""Evaluation on real files: the figures, the protocol, and pictures that do not match."""

from __future__ import annotations

import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest

from sr_deploy.engines.nearest import NearestEngine
from sr_deploy.errors import ImageError, InputError, MissingRuntimeError, ModelError, UsageError
from sr_deploy.quality.bicubic import imresize
from sr_deploy.quality.evaluate import (
    bicubic_baseline,
    compare,
    evaluate,
    infer_scale,
    nearest_baseline,
    score_picture,
)
from sr_deploy.quality.metrics import luma, psnr, ssim
from sr_deploy.quality.pairs import EvalPicture, find_pictures
from sr_deploy.quality.results import Evaluation, Protocol, Quality, Score, csv_text
from sr_deploy.quality.set5 import check_set5, is_set5, set5_warning
from sr_deploy.upscale import Upscaler

X2 = Protocol(scale=2, border=2)


def scene(height: int, width: int, *, channels: int = 3, dtype: type = np.uint8, seed: int = 0) -> np.ndarray:
    """Smooth colours with an edge and a little noise: [H, W, C], RGB."""
    random = np.random.default_rng(seed)
    coarse = random.uniform(0.1, 0.9, (5, 5, channels))
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).reshape(
        height, width, channels
    )
    smooth[height // 3 : height // 2] = 1 - smooth[height // 3 : height // 2]
    noisy = np.clip(smooth + random.normal(0, 0.01, smooth.shape), 0, 1)
    return np.rint(noisy * np.iinfo(dtype).max).astype(dtype)


def save(path: Path, pixels: np.ndarray) -> Path:
    done, data = cv2.imencode(".png", np.ascontiguousarray(pixels[:, :, ::-1]))
    assert done
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data.tobytes())
    return path


def evaluation(*values: Quality, scale: int = 2, names: list[str] | None = None) -> Evaluation:
    names = names or [f"{i}.png" for i in range(len(values))]
    scores = tuple(Score(name, 32, 32, value) for name, value in zip(names, values, strict=True))
    return Evaluation("bicubic", Protocol(scale, scale), scores)


def test_a_score_is_what_the_metrics_say_of_the_shaved_pictures(tmp_path: Path) -> None:
    large = scene(41, 50)
    score = score_picture(
        EvalPicture(save(tmp_path / "a.png", large)), nearest_baseline(3), Protocol(scale=3, border=4)
    )
    cut = large[:39, :48]
    result = np.kron(imresize(cut, 1 / 3), np.ones((3, 3, 1), np.uint8))
    a, b = result[4:-4, 4:-4], cut[4:-4, 4:-4]
    assert (score.name, score.height, score.width) == ("a.png", 39, 48)
    assert score.quality == Quality(psnr(luma(a), luma(b)), ssim(luma(a), luma(b)), psnr(a, b), ssim(a, b))


def test_the_baseline_and_the_upscaler_of_nearest_pixels_agree(tmp_path: Path) -> None:
    picture = EvalPicture(save(tmp_path / "a.png", scene(40, 36)))
    with Upscaler(NearestEngine(2)) as upscaler:
        assert score_picture(picture, upscaler.upscale_pixels, X2) == score_picture(
            picture, nearest_baseline(2), X2
        )


def test_bicubic_is_rounded_once_at_the_end() -> None:
    small = scene(16, 16)
    in_double = np.floor(np.clip(imresize(small.astype(float), 2), 0, 255) + 0.5)
    assert np.array_equal(bicubic_baseline(2)(small), in_double.astype(np.uint8))


def test_bicubic_beats_nearest_on_a_picture_with_smooth_parts(tmp_path: Path) -> None:
    picture = EvalPicture(save(tmp_path / "a.png", scene(64, 64)))
    bicubic, nearest = (
        score_picture(picture, make(2), X2).quality for make in (bicubic_baseline, nearest_baseline)
    )
    assert bicubic.psnr_y is not None
    assert nearest.psnr_y is not None
    assert bicubic.psnr_y > nearest.psnr_y + 1


def test_given_low_resolution_pictures_are_used_and_not_made(tmp_path: Path) -> None:
    large, grey = scene(32, 32), np.full((16, 16, 3), 128, np.uint8)
    picture = EvalPicture(save(tmp_path / "a.png", large), save(tmp_path / "lr" / "a.png", grey))
    score = score_picture(picture, nearest_baseline(2), X2)
    assert score.quality == compare(np.full_like(large, 128), large, 2)


@pytest.mark.parametrize(("height", "rows"), [(32, 16), (33, 16), (33, 17)])
def test_a_pair_may_miss_the_exact_multiple_by_a_rest(tmp_path: Path, height: int, rows: int) -> None:
    large, small = scene(height, 40), scene(rows, 20, seed=1)
    score = score_picture(
        EvalPicture(save(tmp_path / "a.png", large), save(tmp_path / "lr" / "a.png", small)),
        nearest_baseline(2),
        X2,
    )
    common = min(height, 2 * rows)
    assert (score.height, score.width) == (common, 40)
    assert score.quality == compare(nearest_baseline(2)(small)[:common], large[:common], 2)


def test_a_grey_picture_is_its_own_luma_and_has_no_rgb(tmp_path: Path) -> None:
    large = scene(40, 40, channels=1)
    quality = score_picture(EvalPicture(save(tmp_path / "a.png", large)), nearest_baseline(2), X2).quality
    result = nearest_baseline(2)(imresize(large, 0.5))
    assert quality.psnr_y == psnr(result[2:-2, 2:-2], large[2:-2, 2:-2])
    assert (quality.psnr_rgb, quality.ssim_rgb) == (None, None)


def test_sixteen_bits_are_measured_in_sixteen_bits(tmp_path: Path) -> None:
    large = scene(40, 40, dtype=np.uint16)
    deep = score_picture(EvalPicture(save(tmp_path / "a.png", large)), nearest_baseline(2), X2).quality
    flat = score_picture(
        EvalPicture(save(tmp_path / "b.png", (large // 257).astype(np.uint8))), nearest_baseline(2), X2
    ).quality
    assert deep.psnr_y == pytest.approx(flat.psnr_y, abs=0.3)
    assert deep.psnr_y != flat.psnr_y


def test_an_upscaler_that_returns_the_original_is_identical_in_every_measure(tmp_path: Path) -> None:
    large = scene(32, 32)
    score = score_picture(EvalPicture(save(tmp_path / "a.png", large)), lambda small: large, X2)
    assert score.identical
    assert (score.quality.psnr_y, score.quality.psnr_rgb) == (math.inf, math.inf)
    assert score.quality.ssim_y == pytest.approx(1.0, abs=1e-12)


def test_an_upscaler_of_another_scale_is_found_out(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"expected uint8 \(32, 32, 3\)"):
        score_picture(EvalPicture(save(tmp_path / "a.png", scene(32, 32))), nearest_baseline(3), X2)


def test_a_pair_whose_sizes_do_not_fit_is_refused(tmp_path: Path) -> None:
    picture = EvalPicture(
        save(tmp_path / "a.png", scene(64, 64)), save(tmp_path / "lr" / "a.png", scene(16, 16))
    )
    with pytest.raises(ImageError, match="16x16, which times 2 does not fit"):
        score_picture(picture, nearest_baseline(2), X2)
    assert infer_scale([picture]) == 4


def test_a_pair_of_different_depth_or_colour_is_refused(tmp_path: Path) -> None:
    large = save(tmp_path / "a.png", scene(32, 32))
    for name, small in (("deep", scene(16, 16, dtype=np.uint16)), ("grey", scene(16, 16, channels=1))):
        with pytest.raises(ImageError, match="convert one"):
            score_picture(EvalPicture(large, save(tmp_path / name / "a.png", small)), nearest_baseline(2), X2)


def test_pictures_that_fail_are_named_and_the_others_measured(tmp_path: Path) -> None:
    save(tmp_path / "good.png", scene(32, 32))
    save(tmp_path / "tiny.png", scene(12, 12))
    (tmp_path / "text.png").write_text("not a picture", encoding="utf-8")
    pictures, _ = find_pictures(tmp_path)
    seen: list[str] = []
    result = evaluate("nearest", nearest_baseline(2), pictures, X2, lambda picture: seen.append(picture.name))
    assert [score.name for score in result.scores] == ["good.png"]
    assert [failure.name for failure in result.failures] == ["text.png", "tiny.png"]
    assert "11x11" in result.failures[1].message
    assert seen == ["good.png", "text.png", "tiny.png"]


def test_when_no_picture_is_left_the_first_reason_is_given(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("not a picture", encoding="utf-8")
    with pytest.raises(InputError, match=r"none of 1 pictures.*text\.png"):
        evaluate("nearest", nearest_baseline(2), find_pictures(tmp_path)[0], X2)


def test_an_error_that_is_not_the_pictures_fault_stops_the_evaluation(tmp_path: Path) -> None:
    def broken(small: np.ndarray) -> np.ndarray:
        raise MissingRuntimeError("no runtime")

    with pytest.raises(MissingRuntimeError):
        evaluate("broken", broken, [EvalPicture(save(tmp_path / "a.png", scene(32, 32)))], X2)


def test_a_border_that_leaves_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="border of 20"):
        compare(scene(32, 32), scene(32, 32), 20)


def test_the_scale_of_pairs_that_have_none_is_asked_for(tmp_path: Path) -> None:
    odd = EvalPicture(save(tmp_path / "a.png", scene(64, 64)), save(tmp_path / "lr" / "a.png", scene(16, 40)))
    with pytest.raises(ImageError, match="no whole multiple"):
        infer_scale([odd])
    with pytest.raises(InputError, match="--scale"):
        infer_scale([])


def test_means_are_over_the_pictures_that_have_the_measure() -> None:
    result = evaluation(Quality(30.0, 0.8, None, None), Quality(32.0, 0.9, 28.0, 0.7))
    mean = result.mean
    assert (mean.psnr_y, mean.psnr_rgb, mean.ssim_rgb) == (31.0, 28.0, 0.7)
    assert mean.ssim_y == pytest.approx(0.85)


def test_an_identical_picture_is_counted_and_kept_out_of_the_mean_psnr() -> None:
    result = evaluation(Quality(math.inf, 1.0, math.inf, 1.0), Quality(30.0, 0.8, 28.0, 0.7))
    assert (result.mean.psnr_y, result.identical) == (30.0, 1)
    assert result.mean.ssim_y == pytest.approx(0.9)
    assert evaluation(Quality(math.inf, 1.0, None, None)).mean.psnr_y == math.inf


def test_the_record_is_strict_json_even_with_an_infinite_psnr() -> None:
    result = evaluation(Quality(math.inf, 1.0, math.inf, 1.0), Quality(30.0, 0.8, None, None))
    record = json.loads(json.dumps(result.record(), allow_nan=False))
    assert [p["psnr_y"] for p in record["pictures"]] == [None, 30.0]
    assert [p["identical"] for p in record["pictures"]] == [True, False]
    assert record["mean"]["psnr_y"] == 30.0
    assert "2 pixels shaved" in record["protocol"]


def test_the_csv_holds_every_value_in_full() -> None:
    text = csv_text([evaluation(Quality(math.inf, 1.0, 100 / 3, 0.5), Quality(30.0, 0.8, None, None))])
    head, first, second = text.splitlines()
    assert head == "model,scale,border,picture,width,height,psnr_y,ssim_y,psnr_rgb,ssim_rgb,blocks,specks,vgg"
    assert first == "bicubic,2,2,0.png,32,32,inf,1.0,33.333333333333336,0.5,,,"
    assert second == "bicubic,2,2,1.png,32,32,30.0,0.8,,,,,"


SET5_NAMES = ["baby.png", "bird.bmp", "butterfly_GT.png", "head.png", "woman_HR.png"]


def test_set5_is_known_by_its_five_names() -> None:
    assert is_set5(SET5_NAMES)
    assert not is_set5(SET5_NAMES[:4])
    assert not is_set5([*SET5_NAMES, "zebra.png"])


@pytest.mark.parametrize(("scale", "published"), [(2, 33.65), (3, 30.39), (4, 28.42)])
def test_bicubic_off_its_published_figure_on_set5_is_warned_of(scale: int, published: float) -> None:
    def warning(value: float) -> str | None:
        return set5_warning(evaluation(*[Quality(value, 0.9, None, None)] * 5, scale=scale, names=SET5_NAMES))

    assert warning(published + 0.015) is None
    assert warning(published - 0.015) is None
    assert f"{published:.2f} dB on the standard Set5" in (warning(published + 0.03) or "")
    assert f"{published - 1:.2f} dB here" in (warning(published - 1) or "")


def test_other_pictures_other_scales_and_other_borders_have_no_figure_to_miss() -> None:
    values = [Quality(40.0, 0.9, None, None)] * 5
    assert set5_warning(evaluation(*values)) is None
    assert set5_warning(evaluation(*values, scale=8, names=SET5_NAMES)) is None
    shaved = evaluation(*values, names=SET5_NAMES)
    assert set5_warning(Evaluation("bicubic", Protocol(2, 0), shaved.scores)) is None


def test_pictures_that_only_bear_the_names_of_set5_are_found_out_whatever_model_is_measured(
    tmp_path: Path,
) -> None:
    for seed, name in enumerate(("baby", "bird", "butterfly", "head", "woman")):
        save(tmp_path / f"{name}.png", scene(32, 32, seed=seed))
    pictures, _ = find_pictures(tmp_path)
    results = [evaluate("nearest", nearest_baseline(2), pictures, X2)]
    assert "33.65 dB on the standard Set5" in (check_set5(results, pictures, 2) or "")
    assert check_set5(results, pictures[:4], 2) is None
