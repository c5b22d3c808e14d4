"""Conversion between YUV and RGB, compared with the formulas of the standards in double precision, pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sr_deploy.errors import UsageError
from sr_deploy.frames.colour import Colours, from_rgb, to_rgb, usual_matrix
from sr_deploy.frames.layout import LAYOUTS, Layout

YUV = [name for name, layout in LAYOUTS.items() if layout.kind == "yuv"]
WEIGHTS = {
    "bt601": (0.299, 0.587, 0.114),
    "bt709": (0.2126, 0.7152, 0.0722),
    "bt2020": (0.2627, 0.6780, 0.0593),
}
every_colours = st.builds(
    Colours,
    matrix=st.sampled_from(["bt601", "bt709", "bt2020"]),
    range=st.sampled_from(["limited", "full"]),
    siting=st.sampled_from(["left", "center", "topleft"]),
)


def coded(rgb: np.ndarray, colours: Colours, depth: int) -> np.ndarray:
    """Convert RGB in 0..1 to Y, Cb, Cr in steps, unrounded: E'Y, (E'B - E'Y) / (2 - 2 Kb), (E'R - E'Y) / (2 - 2 Kr)."""
    red, _, blue = weights = WEIGHTS[colours.matrix]
    luma = rgb @ np.array(weights)
    u, v = (rgb[..., 2] - luma) / (2 - 2 * blue), (rgb[..., 0] - luma) / (2 - 2 * red)
    if colours.range == "full":
        top = 2**depth - 1
        return np.stack([luma * top, u * top + 2 ** (depth - 1), v * top + 2 ** (depth - 1)], -1)
    step = 2 ** (depth - 8)
    return np.stack([16 + 219 * luma, 128 + 224 * u, 128 + 224 * v], -1) * step


def mean_around(chroma: np.ndarray, i: int, j: int, layout: Layout, siting: str) -> float:
    """Return chroma sample (i, j): the weighted mean of the pixels around its position."""

    def taps(k: int, factor: int, on_pixel: bool, length: int) -> list[tuple[int, float]]:
        if factor == 1:
            return [(k, 1.0)]
        pairs = (
            [(2 * k - 1, 0.25), (2 * k, 0.5), (2 * k + 1, 0.25)]
            if on_pixel
            else [(2 * k, 0.5), (2 * k + 1, 0.5)]
        )
        return [(min(max(p, 0), length - 1), weight) for p, weight in pairs]

    rows = taps(i, layout.down, siting == "topleft", chroma.shape[0])
    columns = taps(j, layout.across, siting != "center", chroma.shape[1])
    return sum(a * b * chroma[y, x] for y, a in rows for x, b in columns)


def unpacked(planes: list[np.ndarray], layout: Layout) -> list[np.ndarray]:
    """Return Y, U and V as unshifted numbers."""
    split = [planes[0], planes[1][:, :, 0], planes[1][:, :, 1]] if layout.paired else planes
    return [plane.astype(float) / (1 << layout.shift) for plane in split]


@given(
    name=st.sampled_from(YUV),
    colours=every_colours,
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_every_value_of_a_frame_is_the_nearest_step_to_the_formula(name, colours, height, width, seed):
    layout, rng = LAYOUTS[name], np.random.default_rng(seed)
    pixels = rng.random((height, width, 3), np.float32)
    if layout.depth == 8:
        pixels = (pixels * 255).round().astype(np.uint8)
    white = 255 if layout.depth == 8 else 1
    exact = coded(pixels.astype(float) / white, colours, layout.depth)
    luma, u, v = unpacked(from_rgb(pixels, layout, colours), layout)
    slack = 0.5 + 2.0 ** (layout.depth - 20)  # rounding error of float32
    assert np.abs(luma - exact[:, :, 0]).max() <= slack
    for plane, channel in ((u, 1), (v, 2)):
        for i, j in np.ndindex(plane.shape):
            wanted = min(mean_around(exact[:, :, channel], i, j, layout, colours.siting), 2**layout.depth - 1)
            assert abs(plane[i, j] - wanted) <= slack


def test_bands_of_rows_do_not_show():
    pixels = np.random.default_rng(0).integers(0, 256, (200, 6, 3), np.uint8)
    for siting in ("left", "center", "topleft"):
        colours, layout = Colours(siting=siting), LAYOUTS["yuv420p"]
        exact = coded(pixels / 255, colours, 8)
        _, u, _ = from_rgb(pixels, layout, colours)
        for i in (0, 31, 32, 33, 63, 64, 99):
            assert abs(u[i, 1] - mean_around(exact[:, :, 1], i, 1, layout, siting)) <= 0.5001


@given(colours=every_colours, depth=st.sampled_from([8, 10, 12]), seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_without_subsampling_there_and_back_changes_no_step(colours, depth, seed):
    layout = LAYOUTS["yuv444p" if depth == 8 else f"yuv444p{depth}le"]
    rgb = np.random.default_rng(seed).random((6, 5, 3), np.float32)
    deep = from_rgb(rgb, layout, colours)
    back = to_rgb(deep, layout, colours)
    if depth > 8:
        assert np.abs(back - rgb).max() <= 2.5 / 2**depth
        for plane, again in zip(deep, from_rgb(back, layout, colours), strict=True):
            assert np.abs(plane.astype(int) - again).max() <= 1  # a colour was clipped to the RGB cube
    else:
        assert np.abs(back / 255 - rgb).max() <= 2.5 / 255


@pytest.mark.parametrize("name", YUV)
@pytest.mark.parametrize("range", ["limited", "full"])
def test_black_grey_and_white_are_where_the_range_puts_them(name, range):
    layout, colours = LAYOUTS[name], Colours(range=range)
    top = 2**layout.depth - 1
    low, high = (16 << (layout.depth - 8), 235 << (layout.depth - 8)) if range == "limited" else (0, top)
    for level, luma in ((0, low), (1, high)):
        pixels = (
            np.full((4, 4, 3), level, np.float32)
            if layout.depth > 8
            else np.full((4, 4, 3), level * 255, np.uint8)
        )
        planes = from_rgb(pixels, layout, colours)
        y, u, v = unpacked(planes, layout)
        assert set(np.unique(y)) == {luma}
        assert set(np.unique(u)) == set(np.unique(v)) == {2 ** (layout.depth - 1)}
        np.testing.assert_allclose(to_rgb(planes, layout, colours), pixels, atol=1e-6)


@pytest.mark.parametrize("siting", ["left", "center", "topleft"])
@pytest.mark.parametrize("name", ["yuv420p", "yuv422p", "yuv420p10le"])
def test_a_colour_gradient_keeps_its_place(name, siting):
    """Subsample chroma and enlarge it again. A wrong siting would show as a shift of half a pixel."""
    layout, colours = LAYOUTS[name], Colours(siting=siting, range="full")
    ramp = np.linspace(0.3, 0.7, 32, dtype=np.float32)
    for across in (True, False):
        blue = np.broadcast_to(ramp[None, :] if across else ramp[:, None], (32, 32))
        pixels = np.stack([np.full((32, 32), 0.5, np.float32), 1 - blue, blue], -1)
        given_ = pixels if layout.depth > 8 else np.rint(pixels * 255).astype(np.uint8)
        back = to_rgb(from_rgb(given_, layout, colours), layout, colours)
        inner = back[4:-4, 4:-4].astype(float) / (255 if layout.depth == 8 else 1)
        shift = (inner - pixels[4:-4, 4:-4])[:, :, 2].mean() / (ramp[1] - ramp[0])
        assert abs(shift) < 0.1  # of a pixel


def test_players_defaults_are_known_and_nonsense_is_not():
    assert usual_matrix(576, 720) == "bt601"
    assert usual_matrix(720, 1280) == usual_matrix(1080, 1920) == "bt709"
    with pytest.raises(UsageError, match="bt601, bt709, bt2020"):
        Colours(matrix="bt1886")  # type: ignore[arg-type]
