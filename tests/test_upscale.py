"""Upscaler: any size, any bit depth, grey and alpha, whole or tiled, with engines defined in this file."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sr_deploy import upscale
from sr_deploy.engines.base import Limits, check_batch
from sr_deploy.engines.nearest import NearestEngine
from sr_deploy.errors import ModelError, OutOfMemoryError, UsageError
from sr_deploy.images.image import Image, Metadata
from sr_deploy.spec import ModelSpec, SizeRule
from sr_deploy.upscale import Upscaler

ANY_SIZE = SizeRule()


class BoxEngine(NearestEngine):
    """Nearest-neighbour upscaling of a zero-padded box filter: a net with a known halo."""

    def __init__(self, radius=3, scale=2, *, rule=ANY_SIZE, halo=-1, most=None, channels=3):
        super().__init__(scale, channels=channels)
        self.radius, self.most, self.calls = radius, most, []
        self.spec = ModelSpec(
            name="box", scale=scale, halo=radius if halo == -1 else halo, size_rule=rule, channels=channels
        )
        self.limits = Limits(bytes_per_pixel=1000.0)

    def run(self, batch, out=None):
        check_batch(self.spec, self.limits, batch, out)
        self.calls.append(batch.shape)
        if self.most and batch.shape[1] * batch.shape[2] > self.most:
            raise OutOfMemoryError("too large for this engine")
        r, (height, width) = self.radius, batch.shape[1:3]
        padded = np.pad(batch.astype(np.float64), ((0, 0), (r, r), (r, r), (0, 0)))
        window = range(2 * r + 1)
        total = sum(padded[:, dy : dy + height, dx : dx + width] for dy in window for dx in window)
        mean = total / (2 * r + 1) ** 2
        mean = np.rint(mean) if batch.dtype == np.uint8 else mean
        return super().run(mean.astype(batch.dtype), out)


def noise(height, width, channels=3, dtype=np.uint8, seed=0):
    top = 255 if dtype == np.uint8 else 65535
    return np.random.default_rng(seed).integers(0, top + 1, (height, width, channels)).astype(dtype)


def image(pixels, alpha=None):
    return Image(pixels=pixels, alpha=alpha, metadata=Metadata(), format="png", notes=())


@settings(deadline=None, max_examples=60)
@given(
    height=st.integers(1, 61),
    width=st.integers(1, 61),
    tile=st.integers(1, 40),
    radius=st.integers(0, 5),
    scale=st.integers(1, 4),
    step=st.sampled_from([1, 2, 3, 4]),
)
def test_tiled_equals_whole_for_any_size(height, width, tile, radius, scale, step):
    engine = BoxEngine(radius, scale, rule=SizeRule(multiple_of=step, minimum=5))
    pixels = noise(height, width)
    whole = Upscaler(engine, tile=None).upscale_pixels(pixels)
    assert whole.shape == (height * scale, width * scale, 3)
    np.testing.assert_array_equal(Upscaler(engine, tile=tile).upscale_pixels(pixels), whole)


def test_an_overlap_one_pixel_too_small_changes_the_picture_and_is_reported():
    engine, said = BoxEngine(3), []
    pixels = noise(50, 50)
    whole = Upscaler(engine, tile=None).upscale_pixels(pixels)
    spoiled = Upscaler(engine, tile=16, overlap=2, say=said.append).upscale_pixels(pixels)
    assert (spoiled != whole).any()
    assert len(said) == 1
    assert "overlap 2" in said[0]
    assert "3 pixels" in said[0]


def test_sixteen_bit_pictures_keep_their_bits():
    pixels = noise(21, 33, dtype=np.uint16)
    result = Upscaler(NearestEngine(2), tile=8).upscale_pixels(pixels)
    assert result.dtype == np.uint16
    np.testing.assert_array_equal(result, pixels.repeat(2, axis=0).repeat(2, axis=1))


def test_float_pictures_stay_float():
    pixels = noise(9, 7).astype(np.float32) / 255
    result = Upscaler(NearestEngine(3)).upscale_pixels(pixels)
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, pixels.repeat(3, axis=0).repeat(3, axis=1))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_grey_picture_goes_through_a_colour_net_and_stays_grey(dtype):
    pixels = noise(20, 30, channels=1, dtype=dtype)
    result = Upscaler(NearestEngine(2), tile=7).upscale_pixels(pixels)
    assert result.dtype == dtype
    np.testing.assert_array_equal(result, pixels.repeat(2, axis=0).repeat(2, axis=1))


def test_a_colour_picture_goes_through_a_grey_net():
    pixels = noise(20, 30)
    result = Upscaler(NearestEngine(2, channels=1), tile=7).upscale_pixels(pixels)
    np.testing.assert_array_equal(result, pixels.repeat(2, axis=0).repeat(2, axis=1))


def test_alpha_is_upscaled_and_hidden_colour_does_not_bleed_into_the_edges():
    pixels = np.zeros((24, 24, 3), np.uint8)
    pixels[:, :12] = (200, 100, 50)
    pixels[:, 12:] = (0, 255, 0)  # fully transparent, so the colour is hidden
    alpha = np.zeros((24, 24), np.uint8)
    alpha[:, :12] = 255
    result = Upscaler(BoxEngine(2)).upscale(image(pixels, alpha))
    assert result.alpha is not None
    inside = result.pixels[8:-8, 16:24]  # visible, beside the edge
    assert (np.abs(inside.astype(int) - (200, 100, 50)) <= 1).all()
    assert result.alpha[24, 8] == 255
    assert 0 < result.alpha[24, 23] < 255


class RingingEngine(NearestEngine):
    """Nearest-neighbour upscaling that exaggerates every edge, like nets trained for sharpness."""

    def run(self, batch, out=None):
        wide = np.pad(batch.astype(np.float64), ((0, 0), (2, 2), (2, 2), (0, 0)), mode="edge")
        mean = sum(np.roll(wide, (dy, dx), (1, 2)) for dy in (-2, 0, 2) for dx in (-2, 0, 2)) / 9
        sharp = np.clip(2 * wide - mean, 0, np.iinfo(batch.dtype).max)[:, 2:-2, 2:-2]
        return super().run(sharp.astype(batch.dtype), out)


@pytest.mark.parametrize("side", [24, 150])
def test_an_opaque_shape_stays_opaque_up_to_its_edge(side):
    alpha = np.zeros((side, side), np.uint8)
    alpha[4:-4, 4 : side // 2] = 255
    alpha[4:-4, side // 2 : -4] = 100
    result = Upscaler(RingingEngine(2)).upscale(image(noise(side, side), alpha))
    nearest = alpha.repeat(2, 0).repeat(2, 1)
    assert result.alpha is not None
    inside = np.zeros_like(nearest, bool)
    inside[10:-10, 10 : side - 2] = True  # a pixel of the input away from every edge
    assert (result.alpha[inside] == 255).all()
    assert (result.alpha[:6] == 0).all()


def test_opacity_costs_no_second_pass_through_the_net():
    engine = BoxEngine(1)
    result = Upscaler(engine).upscale(image(noise(10, 12), np.full((10, 12), 128, np.uint8)))
    assert len(engine.calls) == 1
    assert result.alpha is not None
    assert (result.alpha == 128).all()
    assert result.alpha.shape == (20, 24)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_tiles_are_placed_by_several_threads_as_by_one(monkeypatch, dtype):
    top = 1 if dtype == np.float32 else 200
    pixels = noise(61, 43) if dtype == np.uint8 else (noise(61, 43) / np.float32(255) * top).astype(dtype)
    upscaler = Upscaler(NearestEngine(2), tile=9)
    one = upscaler.upscale_pixels(pixels)
    began = set()

    def placed(batch, target, place=upscale._from_engine):
        began.add(threading.get_ident())
        place(batch, target)

    monkeypatch.setattr(upscale, "_from_engine", placed)
    monkeypatch.setattr(upscale, "usable_cores", lambda: 3)
    monkeypatch.setattr(upscale, "_PARALLEL_BYTES", 1)
    np.testing.assert_array_equal(upscaler.upscale_pixels(pixels), one)
    assert began
    assert threading.get_ident() not in began


def test_what_goes_wrong_while_a_tile_is_placed_is_raised(monkeypatch):
    def full(batch, target):
        raise MemoryError

    monkeypatch.setattr(upscale, "_from_engine", full)
    monkeypatch.setattr(upscale, "usable_cores", lambda: 3)
    monkeypatch.setattr(upscale, "_PARALLEL_BYTES", 1)
    with pytest.raises(MemoryError):
        Upscaler(NearestEngine(2), tile=9).upscale_pixels(noise(61, 43))


def test_where_no_thread_can_be_had_tiles_are_placed_all_the_same(monkeypatch):
    pixels = noise(64, 64)
    upscaler = Upscaler(NearestEngine(2), tile=16, overlap=0)
    expected, starts, start = upscaler.upscale_pixels(pixels), [], threading.Thread.start

    def first_fails(thread):
        starts.append(thread)
        if len(starts) == 1:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(upscale, "usable_cores", lambda: 3)
    monkeypatch.setattr(upscale, "_PARALLEL_BYTES", 1)
    monkeypatch.setattr(threading.Thread, "start", first_fails)
    np.testing.assert_array_equal(upscaler.upscale_pixels(pixels), expected)
    assert len(starts) == 1


def test_running_out_of_memory_means_smaller_tiles_and_one_line_each_time():
    engine, said = BoxEngine(2, most=900), []
    pixels = noise(100, 90)
    result = Upscaler(engine, say=said.append).upscale_pixels(pixels)
    np.testing.assert_array_equal(result, BoxEngine(2).run(pixels[None])[0])
    assert said
    assert all("out of memory" in line and "going on with" in line for line in said)


def test_no_tiles_means_none_even_where_memory_does_not_suffice():
    with pytest.raises(OutOfMemoryError, match="allow tiles"):
        Upscaler(BoxEngine(2, most=900), tile=None).upscale_pixels(noise(100, 90))


def test_tiles_stay_within_what_the_engine_takes():
    engine = BoxEngine(2)
    engine.limits = Limits(max_height=32, max_width=40)
    pixels = noise(100, 90)
    for tile in ("auto", 64, 5):
        np.testing.assert_array_equal(
            Upscaler(engine, tile=tile).upscale_pixels(pixels), BoxEngine(2).run(pixels[None])[0]
        )
    with pytest.raises(UsageError, match="smaller overlap"):
        Upscaler(engine, tile=64, overlap=16).upscale_pixels(pixels)


def test_a_colour_picture_goes_through_a_grey_net_that_takes_one_picture_a_call():
    engine = BoxEngine(1, channels=1)
    engine.limits = Limits(max_batch=1)
    pixels = noise(20, 30)
    expected = np.concatenate(
        [BoxEngine(1, channels=1).run(pixels[None, :, :, c : c + 1]) for c in range(3)], axis=3
    )
    np.testing.assert_array_equal(Upscaler(engine, tile=7).upscale_pixels(pixels), expected[0])


def test_memory_that_never_suffices_is_an_error():
    with pytest.raises(OutOfMemoryError, match="not even a tile"):
        Upscaler(BoxEngine(2, most=1)).upscale_pixels(noise(100, 90))


def test_auto_tiling_follows_the_memory_it_is_given():
    engine = BoxEngine(2)
    assert Upscaler(engine, memory=100 * 100 * 1000).plan(100, 100).whole
    plan = Upscaler(engine, memory=100 * 100 * 1000).plan(400, 300)
    assert plan.count > 1
    assert plan.read_height <= 100
    assert plan.read_width <= 100


def test_a_model_that_sees_everything_is_never_tiled_silently():
    engine = BoxEngine(2, halo=None)
    assert Upscaler(engine, memory=1000).plan(400, 300).whole
    with pytest.raises(UsageError, match="sees the whole picture"):
        Upscaler(engine, tile=32)
    said = []
    assert Upscaler(engine, tile=32, overlap=4, say=said.append).plan(400, 300).count > 1
    assert len(said) == 1


def test_a_model_of_fixed_size_takes_any_picture():
    engine = BoxEngine(2, rule=SizeRule(fixed=(32, 40)))
    pixels = noise(75, 91)
    expected = BoxEngine(2).run(pixels[None])[0]
    np.testing.assert_array_equal(Upscaler(engine).upscale_pixels(pixels), expected)
    assert Upscaler(engine).upscale_pixels(noise(5, 6)).shape == (10, 12, 3)


def test_progress_counts_every_tile():
    seen = []
    picture = image(noise(40, 40), noise(40, 40, channels=1)[:, :, 0])
    Upscaler(BoxEngine(1), tile=20).upscale(picture, lambda done, total: seen.append((done, total)))
    assert [done for done, _ in seen] == list(range(1, len(seen) + 1))
    assert {total for _, total in seen} == {len(seen)}


def test_threads_share_one_upscaler():
    upscaler = Upscaler(BoxEngine(2), tile=9)
    pictures = [noise(30 + n, 25, seed=n) for n in range(8)]
    results = [None] * len(pictures)

    def work(n):
        results[n] = upscaler.upscale_pixels(pictures[n])

    threads = [threading.Thread(target=work, args=(n,)) for n in range(len(pictures))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for picture, result in zip(pictures, results, strict=True):
        np.testing.assert_array_equal(result, BoxEngine(2).run(picture[None])[0])


def test_the_caller_may_bring_the_memory_for_the_result():
    pixels = noise(20, 21)
    out = np.empty((40, 42, 3), np.uint8)
    assert Upscaler(NearestEngine(2)).upscale_pixels(pixels, out) is out
    with pytest.raises(UsageError, match="out must be"):
        Upscaler(NearestEngine(2)).upscale_pixels(pixels, out[:-1])


@pytest.mark.parametrize(
    "pixels",
    [np.zeros((3, 4)), np.zeros((3, 4, 3)), np.zeros((3, 4, 2), np.uint8), np.zeros((0, 4, 3), np.uint8)],
)
def test_what_is_not_a_picture_is_refused(pixels):
    with pytest.raises(UsageError, match="expected"):
        Upscaler(NearestEngine(2)).upscale_pixels(pixels)


@pytest.mark.parametrize("options", [{"tile": 0}, {"tile": -3}, {"tile": "big"}, {"overlap": -1}])
def test_options_that_make_no_sense_are_refused(options):
    with pytest.raises(UsageError, match="must be"):
        Upscaler(NearestEngine(2), **options)


def test_a_result_larger_than_the_memory_is_refused_before_the_work(monkeypatch):
    monkeypatch.setattr("sr_deploy.upscale.available_memory", lambda: 1000)
    engine = BoxEngine(1)
    with pytest.raises(OutOfMemoryError, match="are free"):
        Upscaler(engine).upscale_pixels(noise(40, 40))
    assert engine.calls == []


class PreparedEngine(NearestEngine):
    """An engine that notes what it was prepared for, and fails at it if told to."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__(2)
        self.error, self.prepared, self.closed_while_at_it = error, [], False
        self.at_it = threading.Event()

    def prepare(self, dtype):
        self.at_it.set()
        time.sleep(0.02)
        if self.error:
            raise self.error
        self.closed_while_at_it = self._closed
        self.prepared.append(np.dtype(dtype))


def test_an_engine_is_made_ready_once_beside_other_work_and_before_it_is_closed():
    engine = PreparedEngine()
    with Upscaler(engine) as upscaler:
        upscaler.prepare()
        upscaler.prepare()
        assert engine.at_it.wait(10)
    assert engine.prepared == [np.uint8]
    assert not engine.closed_while_at_it


def test_what_goes_wrong_in_making_ready_is_left_to_the_first_picture():
    with Upscaler(PreparedEngine(ModelError("broken; mend it"))) as upscaler:
        upscaler.prepare()
        assert upscaler.upscale_pixels(np.zeros((3, 4, 3), np.uint8)).shape == (6, 8, 3)


def test_an_engine_that_needs_no_making_ready_is_left_alone():
    before = set(threading.enumerate())
    with Upscaler(NearestEngine(2)) as upscaler:
        upscaler.prepare()
        assert set(threading.enumerate()) <= before


def test_a_stream_is_in_order_lazy_and_of_one_kind():
    taken = []

    def frames():
        for value in range(100):
            taken.append(value)
            yield np.full((4, 4, 3), value, np.uint8)

    upscaler = Upscaler(BoxEngine(1))
    results = upscaler.stream(frames())
    assert taken == []
    assert [int(next(results)[4, 4, 0]) for _ in range(5)] == [0, 1, 2, 3, 4]
    assert len(taken) == 7  # those five and two in advance
    results.close()
    assert len(taken) == 7
    (made,) = upscaler.stream([image(noise(4, 5))])
    assert (made.width, made.height) == (10, 8)
    batch = np.stack([noise(4, 5), noise(4, 5)])
    assert [one.shape for one in upscaler.stream(batch)] == [(8, 10, 3)] * 2
    assert list(upscaler.stream([])) == []


def test_a_stream_computes_frames_while_others_wait():
    together, most = threading.Barrier(2, timeout=20), []

    class MeetingEngine(BoxEngine):
        def run(self, batch, out=None):
            most.append(together.wait())
            return super().run(batch, out)

    assert len(list(Upscaler(MeetingEngine(1)).stream(noise(4, 4) for _ in range(4)))) == 4
    assert sorted(most) == [0, 0, 1, 1]


def test_an_error_in_a_stream_comes_in_the_place_of_its_frame():
    frames = [noise(4, 4), noise(4, 4), noise(4, 4)[..., 0], noise(4, 4)]
    results = Upscaler(BoxEngine(1)).stream(frames)
    assert next(results).shape == next(results).shape == (8, 8, 3)
    with pytest.raises(UsageError, match=r"pass pixels\[..., None\]"):
        next(results)
    with pytest.raises(StopIteration):
        next(results)
