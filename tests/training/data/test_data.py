"""Pictures and batches: exact small versions, aligned crops, reproducible order, and files that cannot be read."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sr_deploy.errors import ImageError, InputError, UsageError
from sr_deploy.quality.bicubic import imresize
from sr_deploy.quality.degradations.compress import to_uint8
from sr_deploy.quality.degradations.filters import gaussian_kernel
from sr_deploy.quality.degradations.resample import KERNELS, shrink
from sr_deploy.training.data.degrade import Degradation, degraded
from sr_deploy.training.data.loader import CropSampler, Loader, degraded_pairs, orient
from sr_deploy.training.data.pictures import (
    PictureStore,
    TrainingPair,
    decode,
    list_pictures,
    split_validation,
)
from tests.training.conftest import picture


def pair(seed=0, scale=2, height=48, width=56):
    large = picture(seed, height * scale, width * scale)
    return TrainingPair(f"p{seed}", large, imresize(large, 1 / scale))


def write(path, pixels):
    path.write_bytes(cv2.imencode(path.suffix, pixels[..., ::-1])[1].tobytes())


@settings(max_examples=30, deadline=None)
@given(st.sampled_from([2, 3, 4, 8]), st.integers(2, 9), st.integers(2, 9), st.integers(0, 2**32 - 1))
def test_shrinking_on_the_fly_agrees_with_matlab_within_rounding(scale, rows, columns, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (rows * scale, columns * scale, 3), dtype=np.uint8)
    ours, matlab = to_uint8(shrink(pixels, scale)), imresize(pixels, 1 / scale)
    assert np.abs(ours.astype(int) - matlab).max() <= 1


def test_shrinking_on_the_fly_mostly_equals_matlab_on_smooth_pictures():
    pixels = picture(3, 96, 120)
    ours, matlab = to_uint8(shrink(pixels, 4)), imresize(pixels, 1 / 4)
    assert (ours != matlab).mean() < 0.25


def test_the_small_picture_is_matlabs_to_the_bit(pictures, tmp_path):
    store = PictureStore(pictures, overflow=tmp_path)
    for made in store.pairs(3):
        assert made.large.shape[0] % 3 == made.large.shape[1] % 3 == 0
        assert np.array_equal(made.small, imresize(np.asarray(made.large), 1 / 3))


@pytest.mark.parametrize("scale", [2, 3, 4, 8])
def test_crops_are_aligned_at_every_scale(scale):
    crops = CropSampler([pair(1, scale)], scale=scale, crop=12, batch=6, seed=1)
    small, large = crops.batch(0)
    assert small.shape == (6, 3, 12, 12)
    assert large.shape == (6, 3, 12 * scale, 12 * scale)
    for one, other in zip(small, large, strict=True):
        again = imresize(other.permute(1, 2, 0).numpy(), 1 / scale)
        inner = np.s_[
            2:-2, 2:-2
        ]  # resizing the crop alone changes its border, resizing the whole picture does not
        difference = again[inner].astype(int) - one.permute(1, 2, 0).numpy()[inner]
        assert np.abs(difference).mean() < 0.3  # a shift by one pixel would give 3 or more


@pytest.mark.parametrize("which", range(8))
def test_an_orientation_is_quarter_turns_and_then_a_mirror(which):
    square = picture(5, 20, 20)[3:15, 2:14]
    square.flags.writeable = False
    out = np.zeros((2, 12, 12, 3), np.uint8)
    orient(square, which, out[1])
    turned = np.rot90(square, which % 4)
    assert np.array_equal(out[1], turned[:, ::-1] if which >= 4 else turned)
    assert not out[0].any()


def test_the_kth_batch_depends_on_the_seed_and_k_only():
    pairs = [pair(seed) for seed in range(4)]
    make = {"scale": 2, "crop": 8, "batch": 4}
    one, other = CropSampler(pairs, seed=5, **make), CropSampler(pairs, seed=5, **make)
    one.batch(0)
    assert one.batch(7)[1].equal(other.batch(7)[1])
    assert not one.batch(7)[1].equal(one.batch(8)[1])
    assert not one.batch(7)[1].equal(CropSampler(pairs, seed=6, **make).batch(7)[1])


def test_a_loader_begins_where_it_is_told_and_keeps_the_order():
    crops = CropSampler([pair()], scale=2, crop=8, batch=2, seed=0)
    with Loader(crops, first=3, workers=3) as batches:
        for k, (small, large) in zip(range(3, 12), batches, strict=False):
            assert small.equal(crops.batch(k)[0])
            assert large.equal(crops.batch(k)[1])


@pytest.mark.parametrize(
    ("degrade", "busiest_of"),
    [(None, 1), (Degradation(blur=(0.5, 1), noise=(1, 5), jpeg=(50, 90), second=0.5), 1), (None, 4)],
)
def test_processes_share_one_batch_between_them(degrade, busiest_of):
    pairs = [pair(seed) for seed in range(3)]
    make = {"scale": 2, "crop": 8, "batch": 6, "seed": 2, "degrade": degrade, "busiest_of": busiest_of}
    whole = CropSampler(pairs, **make).batch(4)
    parts = [CropSampler(pairs, share=(rank, 3), **make).batch(4) for rank in range(3)]
    for side in (0, 1):
        assert np.array_equal(np.concatenate([part[side].numpy() for part in parts]), whole[side].numpy())


def test_a_batch_that_cannot_be_shared_evenly_is_refused():
    with pytest.raises(UsageError, match="multiple of 3"):
        CropSampler([pair()], scale=2, crop=8, batch=4, seed=0, share=(0, 3))


def test_larger_pictures_are_drawn_more_often_but_not_only_they():
    pairs = [pair(0), pair(1, height=96, width=112)]
    crops = CropSampler(pairs, scale=2, crop=8, batch=600, seed=0)
    draws = np.random.default_rng([0, 0]).random((600, 4))[:, 0]
    share = (np.searchsorted(crops._cumulative_weight, draws) == 1).mean()
    assert share == pytest.approx(2 / 3, abs=0.06)


def test_the_busiest_of_several_places_is_cut_and_every_picture_drawn_as_often_as_before():
    sky, leaves = (np.full((96, 320, 3), level, np.uint8) for level in (120, 200)), picture(5, 96, 60)
    dim, light = (
        np.concatenate([part, leaves], axis=1) for part in sky
    )  # a sixth of the places contain leaves
    plain = np.full((96, 380, 3), 20, np.uint8)
    pairs = [TrainingPair(str(n), one, imresize(one, 1 / 2)) for n, one in enumerate((dim, light, plain))]
    make = {"scale": 2, "crop": 16, "batch": 300, "seed": 3}
    one, many = (CropSampler(pairs, busiest_of=n, **make).batch(0)[0].float() for n in (1, 10))
    detail = [crops.diff(dim=3).abs().mean(dim=(1, 2, 3)) > 0.5 for crops in (one, many)]
    assert detail[0].sum() < 80
    assert detail[1].sum() > 130  # out of about 200 that are not plain
    assert all(75 < (crops.mean(dim=(1, 2, 3)) == 20).sum() < 125 for crops in (one, many))


def test_pictures_smaller_than_a_crop_are_left_out_and_counted():
    crops = CropSampler([pair(0), pair(1, height=10)], scale=2, crop=16, batch=2, seed=0)
    assert (len(crops.pairs), crops.too_small) == (1, 1)


def test_when_every_picture_is_too_small_the_size_needed_is_named():
    with pytest.raises(UsageError, match="at least 400 pixels on both sides"):
        CropSampler([pair()], scale=4, crop=100, batch=2, seed=0)


def test_an_empty_folder_is_an_input_error(tmp_path):
    (tmp_path / "notes.txt").write_text("no picture")
    with pytest.raises(InputError, match="no pictures found"):
        PictureStore(tmp_path, overflow=tmp_path)


def test_corrupt_files_are_named_and_the_rest_is_used(tmp_path):
    write(tmp_path / "good.png", picture(0))
    write(tmp_path / "cut.png", picture(1))
    whole = (tmp_path / "cut.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    write(tmp_path / "cut.jpg", picture(1))
    whole = (tmp_path / "cut.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.png").write_bytes(b"hello")
    store = PictureStore(tmp_path, overflow=tmp_path / "overflow")
    assert [p.name for p in store.pictures] == ["good.png"]
    named = "\n".join(store.skipped)
    assert all(name in named for name in ("cut.png", "cut.jpg", "empty.jpg", "text.png"))


def test_when_no_file_can_be_decoded_it_is_an_input_error(tmp_path):
    (tmp_path / "text.png").write_bytes(b"hello")
    with pytest.raises(InputError, match=r"none of 1 pictures can be decoded.*text\.png"):
        PictureStore(tmp_path, overflow=tmp_path)


def test_pictures_are_found_in_subfolders_and_decoded_as_rgb(tmp_path):
    folder = tmp_path / "größe" / "深い"
    folder.mkdir(parents=True)
    red = np.zeros((4, 5, 3), np.uint8)
    red[..., 0] = 255
    write(folder / "rot.PNG", red)
    (path,) = list_pictures(tmp_path)
    assert np.array_equal(decode(path), red)
    with pytest.raises(ImageError, match="cannot be read"):
        decode(tmp_path / "none.png")


def test_memory_and_memory_mapped_files_hold_the_same(pictures, tmp_path):
    memory = PictureStore(pictures, overflow=tmp_path / "a", memory=1 << 30)
    mapped = PictureStore(pictures, overflow=tmp_path / "b", memory=0)
    for one, other in zip(memory.pairs(2), mapped.pairs(2), strict=True):
        assert not isinstance(one.large, np.memmap)
        assert isinstance(other.large, np.memmap)
        assert np.array_equal(one.small, other.small)
        assert np.array_equal(one.large, other.large)
    assert not (tmp_path / "a").exists()


def test_what_does_not_fit_into_memory_goes_to_files(pictures, tmp_path):
    store = PictureStore(pictures, overflow=tmp_path, memory=3 * 72 * 80 * 3)
    mapped = [isinstance(p.pixels, np.memmap) for p in store.pictures]
    assert sum(mapped) == len(mapped) - 3


def test_a_cache_is_used_by_the_next_run_and_noticed_to_be_old(tmp_path):
    write(tmp_path / "p.png", picture(0))
    cache = tmp_path / "cache"
    PictureStore(tmp_path, overflow=tmp_path, cache=cache).pairs(2)
    before = {p: p.stat().st_mtime_ns for p in cache.iterdir()}
    PictureStore(tmp_path, overflow=tmp_path, cache=cache).pairs(2)
    assert {p: p.stat().st_mtime_ns for p in cache.iterdir()} == before
    write(tmp_path / "p.png", picture(1, 90, 90))
    (fresh,) = PictureStore(tmp_path, overflow=tmp_path, cache=cache).pairs(2)
    assert np.array_equal(fresh.large, picture(1, 90, 90))


def test_the_held_out_pictures_depend_on_names_only():
    pairs = [pair(seed) for seed in range(6)]
    _, one = split_validation(pairs, 2)
    rest, other = split_validation(pairs[::-1], 2)
    assert {p.name for p in one} == {p.name for p in other}
    assert len(rest) == 4
    with pytest.raises(InputError, match="none is left to train on"):
        split_validation(pairs, 6)


def get_data(batch_size, lr_size, scale, *, folder):
    """A loader of crops of the pictures in `folder`, built from the public parts."""
    pairs = PictureStore(folder, overflow=folder / "overflow").pairs(scale)
    return Loader(CropSampler(pairs, scale=scale, crop=lr_size, batch=batch_size, seed=0))


def test_get_data_makes_loaders_for_any_phase(pictures):
    with get_data(3, 10, 4, folder=pictures) as batches:
        small, large = next(iter(batches))
    assert small.shape == (3, 3, 10, 10)
    assert large.shape == (3, 3, 40, 40)


def test_degradation_is_reproducible_and_changes_the_picture():
    how = Degradation(blur=(0.5, 2), noise=(2, 8), jpeg=(40, 80), second=1.0)
    large = picture(2, 64, 64)
    one = degraded(large, 2, how, np.random.default_rng(3))
    assert one.shape == (32, 32, 3)
    assert np.array_equal(one, degraded(large, 2, how, np.random.default_rng(3)))
    assert not np.array_equal(one, degraded(large, 2, how, np.random.default_rng(4)))


def test_without_any_degradation_the_small_crop_is_bicubic():
    large = picture(2, 64, 64)
    plain = degraded(large, 2, Degradation(), np.random.default_rng(0))
    assert np.array_equal(plain, to_uint8(shrink(large, 2)))


def test_noise_has_the_strength_asked_for():
    large = np.full((256, 256, 3), 128, np.uint8)
    noisy = degraded(large, 2, Degradation(noise=(10, 10)), np.random.default_rng(0))
    assert noisy.astype(float).std() == pytest.approx(10, rel=0.05)


def test_blur_lowers_contrast_and_jpeg_quality_matters():
    large = picture(2, 64, 64)
    sharp = degraded(large, 2, Degradation(), np.random.default_rng(0)).astype(float)
    soft = degraded(large, 2, Degradation(blur=(3, 3)), np.random.default_rng(0)).astype(float)
    assert soft.std() < sharp.std()
    errors = [
        np.abs(degraded(large, 2, Degradation(jpeg=(q, q)), np.random.default_rng(0)) - sharp).mean()
        for q in (10, 95)
    ]
    assert errors[0] > errors[1] > 0


def test_a_blur_kernel_sums_to_one_and_is_wider_along_its_angle():
    kernel = gaussian_kernel(3.0, 1.0, 0.0)
    assert kernel.sum() == pytest.approx(1.0, abs=1e-5)
    middle = kernel.shape[0] // 2
    assert kernel[middle, middle + 3] > kernel[middle + 3, middle]


def test_degraded_crops_do_not_see_their_own_border():
    one = pair(1, 2, 40, 40)
    how = Degradation(blur=(0.0, 0.0))
    small, _ = CropSampler([one], scale=2, crop=16, batch=8, seed=0, degrade=how).batch(0)
    plain, _ = CropSampler([one], scale=2, crop=16, batch=8, seed=0).batch(0)
    assert np.abs(small.numpy().astype(int) - plain.numpy()).max() <= 1


PHOTO = Degradation(
    clean=0.25, chance=0.5, blur=(0, 2), kernels=KERNELS, camera=(0, 8), sharpen=(0, 1), chroma_shift=(0, 1),
    jpeg=(30, 98), webp=(40, 95), avif=(40, 90), encoders=True, uncompressed=0.1, twice=0.3, dither=0.02, second=0.1,
)  # fmt: skip


def test_photo_degradations_are_reproducible_and_leave_a_quarter_clean():
    large = picture(2, 64, 64)
    plain = to_uint8(shrink(large, 2))
    made = [degraded(large, 2, PHOTO, np.random.default_rng(seed)) for seed in range(200)]
    clean = sum(np.array_equal(one, plain) for one in made)
    assert all(one.shape == (32, 32, 3) and one.dtype == np.uint8 for one in made)
    assert 30 <= clean <= 80, "a quarter of 200"
    assert np.array_equal(made[7], degraded(large, 2, PHOTO, np.random.default_rng(7)))


def test_held_out_pictures_are_degraded_alike_on_every_call():
    pairs = [pair(1, 2, 40, 40), pair(2, 2, 40, 40)]
    once, again = degraded_pairs(pairs, 2, PHOTO), degraded_pairs(pairs, 2, PHOTO)
    assert [one.name for one in once] == [p.name for p in pairs for _ in range(2)]
    assert all(np.array_equal(a.small, b.small) for a, b in zip(once, again, strict=True))
    assert any(not np.array_equal(a.small, p.small) for a, p in zip(once[::2], pairs, strict=True))


def test_drawn_pictures_are_pairs_that_are_the_same_on_every_call(pictures, tmp_path):
    store = PictureStore(pictures, overflow=tmp_path / "overflow")
    drawn = store.drawn_pairs(4, 3)
    assert [one.large.shape for one in drawn] == [(768, 768, 3)] * 3
    assert all(one.large.std() > 10 for one in drawn)
    again = PictureStore(pictures, overflow=tmp_path / "other").drawn_pairs(4, 3)
    assert all(np.array_equal(a.small, b.small) for a, b in zip(drawn, again, strict=True))


def test_small_pictures_are_made_when_they_are_used_and_kept(pictures, tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(
        "sr_deploy.training.data.pictures.imresize", lambda *a: (made.append(a), imresize(*a))[1]
    )
    store = PictureStore(pictures, overflow=tmp_path)
    pairs = store.pairs(2)
    assert [pair.small_shape for pair in pairs] == [(36, 40, 3)] * 10
    assert made == []
    assert pairs[3].small.shape == (36, 40, 3)
    assert pairs[3].small is store.pairs(2)[3].small
    assert len(made) == 1
    PictureStore(pictures, overflow=tmp_path, cache=tmp_path / "cache").pairs(2)
    assert len(made) == 11  # files are written before the training, because the disk may be full


def test_pictures_of_one_name_in_several_folders_are_different_pictures(tmp_path):
    for number in range(6):
        folder = tmp_path / "pictures" / f"d{number}"
        folder.mkdir(parents=True)
        cv2.imwrite(str(folder / "img.png"), picture(number, 40, 40))
    store = PictureStore(tmp_path / "pictures", overflow=tmp_path / "overflow")
    training, held_out = split_validation(store.pairs(2), 2)
    assert len({pair.name for pair in [*training, *held_out]}) == 6
    assert not {pair.name for pair in training} & {pair.name for pair in held_out}
    assert all(pair.name.endswith("/img.png") for pair in training)
