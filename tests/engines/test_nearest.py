"""The nearest-neighbour engine repeats every pixel, under the same contract as any other engine."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sr_deploy.engines.base import Engine, Limits
from sr_deploy.engines.nearest import NearestEngine
from sr_deploy.errors import UsageError
from sr_deploy.spec import ModelSpec

BYTES = hnp.arrays(np.uint8, hnp.array_shapes(min_dims=3, max_dims=3, max_side=5).map(lambda s: (*s, 3)))


@given(BYTES, st.integers(1, 5))
def test_every_pixel_is_repeated_along_both_axes(batch, scale):
    with NearestEngine(scale) as engine:
        np.testing.assert_array_equal(engine.run(batch), batch.repeat(scale, axis=1).repeat(scale, axis=2))


def test_floats_are_clipped_to_the_range_of_pixels():
    batch = np.array([-0.5, 0.25, 1.5], np.float32).reshape(1, 1, 3, 1)
    result = NearestEngine(1, channels=1).run(batch)
    assert result.dtype == np.float32
    assert result.ravel().tolist() == [0.0, 0.25, 1.0]


def test_it_fills_and_returns_the_callers_array():
    out = np.full((1, 4, 6, 3), 9, np.uint8)
    assert NearestEngine(2).run(np.zeros((1, 2, 3, 3), np.uint8), out) is out
    assert not out.any()


def test_it_is_an_engine_that_describes_itself():
    engine = NearestEngine(3)
    assert isinstance(engine, Engine)
    assert engine.spec == ModelSpec(name="nearest-x3", scale=3, halo=0, architecture="nearest")
    assert engine.backend == "nearest"


def test_it_keeps_to_the_limits_it_was_given():
    engine = NearestEngine(2, limits=Limits(max_height=4, max_width=5, max_batch=1))
    engine.run(np.zeros((1, 4, 5, 3), np.uint8))
    for shape, says in (((1, 5, 5, 3), "5 rows"), ((1, 4, 6, 3), "6 columns"), ((2, 4, 5, 3), "2 pictures")):
        with pytest.raises(UsageError, match=f"{says} in one call"):
            engine.run(np.zeros(shape, np.uint8))


@pytest.mark.parametrize(
    "wrong",
    [
        [[1, 2]],
        np.zeros((2, 2, 3), np.uint8),
        np.zeros((1, 2, 2, 4), np.uint8),
        np.zeros((1, 0, 2, 3), np.uint8),
        np.zeros((1, 2, 2, 3), np.uint16),
    ],
)
def test_what_is_no_batch_of_pixels_is_refused(wrong):
    with pytest.raises(UsageError, match="nearest-x2: expected"):
        NearestEngine(2).run(wrong)


@pytest.mark.parametrize(
    "out",
    [
        np.zeros((1, 4, 5, 3), np.uint8),
        np.zeros((1, 4, 6, 3), np.float32),
        np.zeros((1, 4, 12, 3), np.uint8)[:, :, ::2],
    ],
)
def test_an_array_that_cannot_take_the_result_is_refused(out):
    with pytest.raises(UsageError, match="out must be"):
        NearestEngine(2).run(np.zeros((1, 2, 3, 3), np.uint8), out)


def test_a_closed_engine_says_so():
    engine = NearestEngine(2)
    engine.close()
    engine.close()
    with pytest.raises(UsageError, match="closed"):
        engine.run(np.zeros((1, 2, 3, 3), np.uint8))


def test_it_takes_scale_and_channels_from_a_model(tiny, tmp_path):
    grey = tiny("grey")
    path = tmp_path / "grey.onnx"
    path.write_bytes(grey.model.SerializeToString())
    for source in (grey.model, path.read_bytes(), path):
        with NearestEngine.open(source) as engine:
            assert (engine.spec.scale, engine.spec.channels) == (4, 1)
