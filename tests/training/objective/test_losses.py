"""The losses against a few lines of NumPy each, and their gradients against finite differences."""

from functools import partial
from itertools import product

import cv2
import numpy as np
import pytest
import torch
from torch.nn import functional

from sr_deploy.errors import UsageError
from sr_deploy.quality.degradations.compress import jpeg
from sr_deploy.training.objective.losses import (
    PIXEL,
    ComposedLoss,
    blocks,
    charbonnier,
    gram,
    gram_distance,
    grid,
    lattice,
    random_shift,
    total_variation,
)
from sr_deploy.training.objective.vgg import MEAN, STD, VGGFeatures
from sr_deploy.training.recipe import TERMS


@pytest.fixture
def two():
    random = np.random.default_rng(7)
    return random.random((2, 3, 6, 5)), random.random((2, 3, 6, 5))


def tensors(pair):
    return [torch.from_numpy(a) for a in pair]


def tiny_vgg(layers):
    """A VGG16 cut after conv1_2, with few random weights, small enough for checks in double precision."""
    generator = torch.Generator().manual_seed(3)
    weights = {
        0: {
            "weight": torch.randn(64, 3, 3, 3, generator=generator) * 0.2,
            "bias": torch.randn(64, generator=generator) * 0.1,
        },
        2: {"weight": torch.randn(64, 64, 3, 3, generator=generator) * 0.05, "bias": torch.zeros(64)},
    }
    return VGGFeatures("vgg16", layers, weights), weights


def convolved(x, weight, bias):
    """Convolve with a 3x3 kernel and zero padding, in NumPy."""
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    return np.einsum("nchwij,ocij->nohw", windows, weight) + bias[None, :, None, None]


def activations(x, weights):
    """Return relu1_1 and relu1_2, computed in NumPy from pictures normalised like ImageNet."""
    x = (x - np.array(MEAN)[None, :, None, None]) / np.array(STD)[None, :, None, None]
    first = np.maximum(convolved(x, *(weights[0][k].numpy() for k in ("weight", "bias"))), 0)
    second = np.maximum(convolved(first, *(weights[2][k].numpy() for k in ("weight", "bias"))), 0)
    return {"relu1_1": first, "relu1_2": second}


def numpy_gram(f):
    n, c, h, w = f.shape
    return np.stack([[[(f[m, i] * f[m, j]).sum() for j in range(c)] for i in range(c)] for m in range(n)]) / (
        c * h * w
    )


@pytest.mark.parametrize(
    ("name", "formula"),
    [
        ("l1", lambda d: np.abs(d).mean()),
        ("l2", lambda d: (d**2).mean()),
        ("charbonnier", lambda d: np.sqrt(d**2 + 1e-6).mean()),
    ],
)
def test_pixel_terms_equal_their_formulas(two, name, formula):
    assert PIXEL[name](*tensors(two)).item() == pytest.approx(formula(two[0] - two[1]), rel=1e-12)


def test_luma_terms_are_the_squared_and_the_absolute_error_of_y_alone(two):
    y = 255 * (two[0] - two[1])  # error in 8-bit steps
    y = (65.481 * y[:, 0] + 128.553 * y[:, 1] + 24.966 * y[:, 2]) / 255
    assert PIXEL["luma"](*tensors(two)).item() == pytest.approx(((y / 255) ** 2).mean(), rel=1e-9)
    assert PIXEL["luma_l1"](*tensors(two)).item() == pytest.approx(np.abs(y / 255).mean(), rel=1e-9)
    red, as_bright = torch.zeros(1, 3, 2, 2), torch.zeros(1, 3, 2, 2)
    red[:, 0], as_bright[:, 1] = 0.5, 0.5 * 65.481 / 128.553
    assert PIXEL["luma"](red, as_bright).item() < 1e-12
    assert PIXEL["luma_l1"](red, as_bright).item() < 1e-6


def test_minus_psnr_is_the_mean_of_the_crops_own(two):
    y = 255 * (two[0] - two[1])
    y = (65.481 * y[:, 0] + 128.553 * y[:, 1] + 24.966 * y[:, 2]) / 255
    crops = [10 * np.log10(255**2 / ((crop**2).mean() + 0.4**2)) for crop in y]
    assert PIXEL["luma_psnr"](*tensors(two)).item() == pytest.approx(-np.mean(crops), rel=1e-9)
    same = torch.full((1, 3, 4, 4), 0.5, requires_grad=True)
    PIXEL["luma_psnr"](same, torch.full((1, 3, 4, 4), 0.5)).backward()
    assert not same.grad.any()


def test_chroma_is_the_absolute_error_of_cb_and_cr_and_blind_to_grey(two):
    d = two[0] - two[1]
    y = 0.299 * d[:, 0] + 0.587 * d[:, 1] + 0.114 * d[:, 2]
    expected = (np.abs(d[:, 2] - y) / 1.772 + np.abs(d[:, 0] - y) / 1.402).mean() / 2
    assert PIXEL["chroma_l1"](*tensors(two)).item() == pytest.approx(expected, rel=1e-9)
    dark, light = torch.full((1, 3, 2, 2), 0.2), torch.full((1, 3, 2, 2), 0.7)
    assert PIXEL["chroma_l1"](dark, light).item() < 1e-6


def test_charbonnier_is_smooth_where_the_pictures_agree():
    x = torch.full((1, 3, 4, 4), 0.5, requires_grad=True)
    charbonnier(x, torch.full((1, 3, 4, 4), 0.5)).backward()
    assert torch.isfinite(x.grad).all()


def test_what_the_vgg_sees_is_shifted_by_what_the_picture_says():
    wanted = torch.rand(2, 3, 13, 17, generator=torch.Generator().manual_seed(1))
    for down, across in product(range(4), range(4)):
        wanted[0, :2, 0, 0] = torch.tensor([down + 8, across + 40]) / 255
        got = wanted + 1
        cut_got, cut_wanted = random_shift(got, wanted)
        assert torch.equal(cut_wanted, wanted[:, :, down : down + 10, across : across + 14])
        assert torch.equal(cut_got, cut_wanted + 1)


def test_gram_matrix_equals_inner_products_over_chw(two):
    assert gram(torch.from_numpy(two[0])).numpy() == pytest.approx(numpy_gram(two[0]), rel=1e-10)


def test_gram_distance_is_the_squared_frobenius_norm(two):
    difference = numpy_gram(two[0]) - numpy_gram(two[1])
    expected = np.mean([(d**2).sum() for d in difference])
    assert gram_distance(*tensors(two)).item() == pytest.approx(expected, rel=1e-10)


def test_gram_of_half_precision_features_does_not_overflow():
    features = torch.full((1, 2, 64, 64), 60.0, dtype=torch.float16)  # 60^2 * 64^2 is far beyond 65504
    assert gram(features).numpy() == pytest.approx(np.full((1, 2, 2), 1800.0), rel=1e-3)


def test_total_variation_is_the_mean_step_down_plus_across(two):
    x = two[0]
    expected = np.abs(np.diff(x, axis=2)).mean() + np.abs(np.diff(x, axis=3)).mean()
    assert total_variation(torch.from_numpy(x)).item() == pytest.approx(expected, rel=1e-12)


def test_total_variation_of_a_flat_picture_is_zero():
    assert total_variation(torch.full((1, 3, 5, 5), 0.3)).item() == 0


@pytest.mark.parametrize("period", [2, 3])
def test_the_grid_term_is_the_mean_error_of_each_phase_in_windows_of_four_cells(period):
    rng = np.random.default_rng(period)
    got, wanted = rng.random((2, 2, 3, 8 * period + 1, 4 * period))
    error, found = got - wanted, []
    for top in (0, 4 * period):
        window = error[:, :, top : top + 4 * period, : 4 * period]
        phases = np.array(
            [
                window[:, :, y::period, x::period].mean(axis=(2, 3))
                for y in range(period)
                for x in range(period)
            ]
        )
        found.append(np.abs(phases - phases.mean(axis=0)).mean())
    value = grid(torch.from_numpy(got), torch.from_numpy(wanted), period)
    assert value.item() == pytest.approx(np.mean(found), rel=1e-12)


def test_the_grid_term_sees_a_grid_and_nothing_else():
    cell = torch.tensor([[0.02, -0.02], [-0.02, 0.02]])
    pattern = cell.repeat(8, 8)[None, None].expand(1, 3, 16, 16)
    assert grid(pattern, torch.zeros_like(pattern), 2).item() == pytest.approx(0.02)
    assert grid(torch.full((1, 3, 16, 16), 0.3), torch.zeros(1, 3, 16, 16), 2).item() == pytest.approx(
        0, abs=1e-7
    )
    assert grid(pattern[..., :1, :1], torch.zeros(1, 3, 1, 1), 2).item() == 0


@pytest.mark.parametrize("period", [3, 4])
def test_the_lattice_term_compares_detail_by_its_place_in_windows_of_some_eight_cells(period):
    rng = np.random.default_rng(period)
    got, wanted = rng.random((2, 2, 3, 7 * period + 2, 15 * period))

    def by_place(detail, rows, columns):
        """Return the mean at every place in a cell, minus the mean of all places.

        `rows` or `columns` is 1 where only the other axis distinguishes places.
        """
        windows = []
        for left in (0, 7 * period):  # 14 or 15 cells make two windows of 7
            window = np.abs(detail[:, :, : 7 * period, left : left + 7 * period])
            places = np.array(
                [
                    window[:, :, y::rows, x::columns].mean(axis=(2, 3))
                    for y in range(rows)
                    for x in range(columns)
                ]
            )
            windows.append(places - places.mean(axis=0))
        return np.array(windows)

    def laplacian(x):
        return (
            x[..., 1:-1, 1:-1]
            - (x[..., :-2, 1:-1] + x[..., 2:, 1:-1] + x[..., 1:-1, :-2] + x[..., 1:-1, 2:]) / 4
        )

    expected = 0
    for detail, rows, columns in (
        (lambda x: np.diff(x, axis=2), period, 1),
        (lambda x: np.diff(x, axis=3), 1, period),
        (laplacian, period, period),
    ):
        ours, theirs = (by_place(detail(x), rows, columns) for x in (got, wanted))
        expected += np.abs(ours - theirs).mean()
    value = lattice(torch.from_numpy(got), torch.from_numpy(wanted), period)
    assert value.item() == pytest.approx(expected, rel=1e-12)


def test_the_lattice_term_sees_blocks_and_dots_that_the_grid_term_is_blind_to():
    generator = torch.Generator().manual_seed(0)
    smooth = torch.linspace(0, 1, 66).expand(1, 3, 66, 66)
    even = 0.2 * torch.rand(1, 3, 66, 66, generator=generator)
    small = 0.2 * torch.rand(1, 3, 17, 17, generator=generator)
    squares = small.repeat_interleave(4, 2).repeat_interleave(4, 3)[..., :66, :66]
    dots = torch.zeros(1, 3, 68, 68)
    dots[..., 1::4, 2::4] = torch.where(small > 0.1, 0.2, -0.2)
    for pattern in (squares, dots[..., :66, :66]):
        assert lattice(smooth + pattern, smooth, 4).item() > 4 * lattice(smooth + even, smooth, 4).item()
    assert grid(smooth + squares, smooth, 4).item() < 1e-6
    assert lattice(smooth + 0.1, smooth, 4).item() < 1e-6
    assert lattice(smooth[..., :5, :5], smooth[..., :5, :5] + 0.1, 4).item() == 0


def test_the_blocks_term_compares_relative_steps_by_their_place_in_blocks_of_8_small_pixels():
    rng = np.random.default_rng(5)
    got, wanted = rng.random((2, 2, 3, 24, 40))

    def by_place(plane):
        across = np.diff(plane, axis=1)
        steps = np.abs(across[:, 1:-1] - (across[:, :-2] + across[:, 2:]) / 2).mean(axis=0)
        places = np.array([steps[: len(steps) // 8 * 8][place::8].mean() for place in range(8)])
        return (places + 0.5 / 255) / (places.mean() + 0.5 / 255)

    def luma_of(picture):
        small = picture.reshape(3, 12, 2, 20, 2).mean(axis=(2, 4))
        return np.tensordot([65.481 / 255, 128.553 / 255, 24.966 / 255], small, axes=1)

    expected = 0
    for turn in (lambda plane: plane, lambda plane: plane.T):
        ours, theirs = (
            np.mean([by_place(turn(luma_of(x))) for x in crops], axis=0) for crops in (got, wanted)
        )
        expected += np.abs(ours - theirs).mean()
    value = blocks(torch.from_numpy(got), torch.from_numpy(wanted), 2)
    assert value.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("start", [0, 3])
def test_the_blocks_term_sees_a_jpeg_wherever_its_blocks_begin(start):
    rng = np.random.default_rng(1)
    pictures = [cv2.GaussianBlur(x, (0, 0), 2) * 255 for x in rng.random((8, 120, 120, 3), np.float32)]
    damaged = [jpeg(picture, 40) for picture in pictures]
    spread = np.std(np.subtract(damaged, pictures))
    noisy = [picture + rng.normal(0, spread, picture.shape) for picture in pictures]
    whole, compressed, noised = (
        torch.from_numpy(np.float32(crops)[:, start : start + 96, start : start + 96] / 255).movedim(3, 1)
        for crops in (pictures, damaged, noisy)
    )
    large = partial(functional.interpolate, scale_factor=4, mode="nearest")
    assert blocks(large(whole), large(whole), 4).item() == 0
    assert blocks(large(compressed), large(whole), 4) > 10 * blocks(large(noised), large(whole), 4)
    assert blocks(large(whole)[..., :40, :40], large(compressed)[..., :40, :40], 4).item() == 0


@pytest.mark.parametrize("name", ["feature", "gram"])
def test_perceptual_terms_equal_numpy_on_the_same_weights(two, name):
    layers = {"relu1_1": 0.5, "relu1_2": 2.0}
    vgg, weights = tiny_vgg(list(layers))
    loss = ComposedLoss({name: 1.0}, vgg=vgg.double(), layers=layers)
    ours, theirs = (activations(x, weights) for x in two)
    if name == "feature":
        expected = sum(w * np.abs(ours[k] - theirs[k]).mean() for k, w in layers.items())
    else:
        squares = {k: (numpy_gram(ours[k]) - numpy_gram(theirs[k])) ** 2 for k in layers}
        expected = sum(w * squares[k].sum(axis=(1, 2)).mean() for k, w in layers.items())
    assert loss(*tensors(two)).total.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", TERMS)
def test_gradients_agree_with_finite_differences(name):
    random = np.random.default_rng(11)
    side = {"lattice": 12, "blocks": 48}.get(
        name, 4
    )  # they need a cell, or a block of small pixels, and its neighbours
    got = torch.from_numpy(random.random((1, 3, side, side))).requires_grad_()
    wanted = torch.from_numpy(random.random((1, 3, side, side)))
    vgg, _ = tiny_vgg(["relu1_1"])
    loss = ComposedLoss({name: 1.0}, vgg=vgg.double(), layers={"relu1_1": 1.0})
    assert torch.autograd.gradcheck(lambda x: loss(x, wanted).total, (got,), eps=1e-7, atol=1e-5)
    assert torch.autograd.grad(loss(got, wanted).total, got)[0].abs().max() > 1e-4


def test_composed_loss_weighs_its_terms_and_gives_them_unweighted(two):
    got, wanted = tensors(two)
    value = ComposedLoss({"l1": 2.0, "tv": 0.5})(got, wanted)
    assert list(value.terms) == ["l1", "tv"]
    assert value.terms["l1"].item() == pytest.approx(np.abs(two[0] - two[1]).mean())
    assert value.total.item() == pytest.approx(2 * value.terms["l1"].item() + 0.5 * value.terms["tv"].item())


def test_terms_of_weight_zero_are_not_computed():
    assert ComposedLoss({"l1": 1.0, "feature": 0.0}).names == ["l1"]


def test_a_perceptual_loss_without_a_vgg_is_refused():
    with pytest.raises(UsageError, match="load_vgg"):
        ComposedLoss({"gram": 1.0})


def test_the_vgg_takes_no_gradient_and_its_input_does(two):
    vgg, _ = tiny_vgg(["relu1_2"])
    got = torch.from_numpy(two[0]).float().requires_grad_()
    ComposedLoss({"feature": 1.0}, vgg=vgg, layers={"relu1_2": 1.0})(
        got, torch.zeros_like(got)
    ).total.backward()
    assert got.grad.abs().sum() > 0
    assert all(p.grad is None for p in vgg.parameters())
