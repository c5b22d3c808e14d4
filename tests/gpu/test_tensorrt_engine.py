"""Tests of TensorRT on a real GPU: pixels, threads, memory, and release in any order."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading

import numpy as np
import pytest

from sr_deploy.engines.base import Engine
from sr_deploy.errors import ModelError, UsageError
from sr_deploy.graph.onnx_file import save_model
from sr_deploy.upscale import Upscaler

STEP = 1 / 255
"""One 8-bit step in 0..1."""


def picture(height: int, width: int, count: int = 1, seed: int = 0) -> np.ndarray:
    """Random pixels [count, height, width, 3], uint8."""
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), np.uint8)


def close_to(found: np.ndarray, expected: np.ndarray) -> bool:
    """Return whether two arrays differ by at most one 8-bit step: sums in another order may round differently."""
    return bool(np.abs(found.astype(np.int16) - expected.astype(np.int16)).max() <= 1)


def expected_of(model, batch: np.ndarray) -> np.ndarray:
    """The reference result for uint8 pixels, rounded to uint8."""
    return np.rint(model.reference(batch / np.float32(255)) * 255).astype(np.uint8)


def test_it_is_an_engine(tiny, opened):
    engine = opened(tiny("plain").model)
    assert isinstance(engine, Engine)
    assert engine.backend == "tensorrt"


def test_every_tiny_model_gives_its_pixels(each_tiny, opened):
    engine = opened(each_tiny.model)
    for batch in each_tiny.pictures():
        parts = [batch[i : i + 1] for i in range(len(batch))] if engine.limits.max_batch == 1 else [batch]
        for part in parts:
            assert close_to(engine.run(part), expected_of(each_tiny, part))


def test_float_pictures_have_an_engine_of_their_own(tiny, opened):
    model = tiny("plain")
    pixels = picture(17, 23) / np.float32(255)
    found = opened(model.model).run(pixels)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, model.reference(pixels), atol=STEP)


def test_a_run_repeated_gives_the_same_bytes_with_and_without_graphs(tiny, opened):
    batch = picture(40, 30)
    results = [
        opened(tiny("plain").model, graphs=graphs).run(batch) for graphs in (True, False) for _ in range(4)
    ]
    assert all((result == results[0]).all() for result in results)


def test_shapes_that_come_and_go_keep_their_pixels(tiny, opened):
    model, engine = tiny("plain"), opened(tiny("plain").model, shapes_kept=2)
    for turn in range(3):
        for size in ((16, 16), (17, 9), (96, 96), (1, 1), (33, 64)):
            batch = picture(*size, seed=turn)
            assert close_to(engine.run(batch), expected_of(model, batch))


def test_a_picture_larger_than_the_profiles_is_tiled(tiny, opened):
    model = tiny("plain")
    large = picture(201, 333)
    found = Upscaler(opened(model.model)).upscale_pixels(large[0])
    assert close_to(found, expected_of(model, large)[0])


def test_eight_threads_give_the_bytes_of_one(tiny, opened):
    engine = opened(tiny("plain").model)
    batches = [picture(*size) for size in ((16, 16), (33, 64), (96, 80), (7, 50))]
    expected, wrong = [engine.run(batch) for batch in batches], []

    def work(number):
        for turn in range(20):
            index = (number + turn) % len(batches)
            if not (engine.run(batches[index]) == expected[index]).all():
                wrong.append((number, turn))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert wrong == []


def test_a_stream_of_frames_comes_in_order_and_equal(tiny, opened):
    engine = opened(tiny("plain").model)
    batches = [picture(20 + n % 5, 30, seed=n) for n in range(12)]
    for found, batch in zip(engine.run_stream(batches), batches, strict=True):
        assert (found == engine.run(batch)).all()


def test_a_stream_that_is_not_read_to_its_end_gives_its_lanes_back(tiny, opened):
    engine = opened(tiny("plain").model, contexts=2)
    stream = engine.run_stream([picture(20, 20)] * 9)
    next(stream)
    stream.close()
    assert engine.run(picture(20, 20)).shape == (1, 40, 40, 3)


def test_page_locked_arrays_are_used_in_place(tiny, opened):
    engine, batch = opened(tiny("plain").model), picture(24, 40)
    taken, given = engine.empty(batch.shape), engine.empty((1, 48, 80, 3))
    taken[...] = batch
    assert engine.run(taken, given) is given
    assert (given == engine.run(batch)).all()


def test_arrays_on_the_gpu_give_the_bytes_of_those_in_main_memory(tiny, opened):
    from sr_deploy.engines.tensorrt.cuda import OwnedMemory
    from sr_deploy.engines.tensorrt.device import DeviceArray

    engine, batch = opened(tiny("plain").model), picture(24, 40)
    expected, cuda = engine.run(batch), engine._gpu.cuda
    with engine._gpu.current():
        memory, stream = OwnedMemory(engine._gpu, batch.nbytes), engine._gpu.stream()
        cuda.memcpy_htod(memory.address, batch)
    source = DeviceArray(memory.address, batch.shape, batch.dtype, memory)
    for handle in (None, int(stream.handle)):
        for _ in range(3):
            given = engine.run_device(source, stream=handle)
            back = np.empty(given.shape, np.uint8)
            with engine._gpu.current():
                stream.synchronize()
                cuda.memcpy_dtoh(back, given.address)
            assert (back == expected).all()
    with engine._gpu.current():
        del stream


def test_memory_is_flat_over_frames_of_changing_sizes(tiny, opened):
    engine = opened(tiny("plain").model)
    rng = np.random.default_rng(1)
    sizes = [(int(h), int(w)) for h, w in rng.integers(1, 97, (20, 2))]

    def free():
        with engine._gpu.current():
            return engine._gpu.cuda.mem_get_info()[0]

    engine.run(picture(96, 96))
    for size in sizes * 3:
        engine.run(picture(*size))
    before = free()
    for size in sizes * 5:
        engine.run(picture(*size))
    assert before - free() <= 2 << 20


def test_a_closed_engine_says_so_and_closing_twice_is_fine(tiny, opened):
    engine = opened(tiny("plain").model)
    engine.run(picture(9, 9))
    engine.close()
    engine.close()
    with pytest.raises(UsageError, match="closed"):
        engine.run(picture(9, 9))


def test_engines_are_released_in_any_order(tiny, opened):
    first, second = opened(tiny("plain").model), opened(tiny("plain").model)
    expected = second.run(picture(9, 9))
    first.run(picture(9, 9))
    first.close()
    gc.collect()
    assert (second.run(picture(9, 9)) == expected).all()


def test_an_engine_file_is_refused_as_another_model(tiny, opened, tmp_path):
    from sr_deploy.engines.tensorrt.build import build_engine, source_of, write_engine
    from sr_deploy.engines.tensorrt.engine import TensorRTEngine
    from sr_deploy.engines.tensorrt.options import BuildOptions, TensorRTOptions

    paths = [tmp_path / f"{name}.onnx" for name in ("plain", "dcr")]
    for path in paths:
        save_model(tiny(path.stem).model, path)
    built = build_engine(source_of(paths[0]), BuildOptions(tile=64, small=16, optimisation_level=0))
    write_engine(tmp_path / "net.engine", built.plan, built.record)
    with TensorRTEngine(tmp_path / "net.engine", TensorRTOptions(model=paths[0])) as engine:
        assert engine.run(picture(8, 8)).shape == (1, 16, 16, 3)
        with pytest.raises(UsageError, match="--io float"):
            engine.run(picture(8, 8) / np.float32(255))
    with pytest.raises(ModelError, match="another model"):
        TensorRTEngine(tmp_path / "net.engine", TensorRTOptions(model=paths[1]))


def test_a_program_that_leaves_its_engine_open_ends_well(tiny, tmp_path):
    save_model(tiny("plain").model, tmp_path / "plain.onnx")
    program = (
        "import numpy as np\nfrom pathlib import Path\n"
        "from sr_deploy.engines.tensorrt.engine import TensorRTEngine\n"
        "from sr_deploy.engines.tensorrt.options import BuildOptions, TensorRTOptions\n"
        "build = BuildOptions(tile=64, small=16, optimisation_level=0)\n"
        f"engine = TensorRTEngine(Path({str(tmp_path / 'plain.onnx')!r}), TensorRTOptions(build=build, cache=False))\n"
        "x = np.zeros((1, 16, 16, 3), np.uint8)\n"
        "for _ in range(3): engine.run(x)\n"
        "stream = engine.run_stream([x] * 5); next(stream)\n"
    )
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", program], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "Error" not in done.stderr
