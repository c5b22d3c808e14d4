"""Checks of pixels for `run.py`: against ONNX Runtime on the CPU, at every size, in the precision asked for."""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np

from benchmarks.gpu.build import EngineToBuild
from benchmarks.gpu.common import COMMON, PSNR_LOSS, STEPS, Run, filled, named, open_engine

SWEEP = (
    *((16, 16), (17, 23), (31, 64), (97, 131), (180, 320), (256, 256), (257, 255), (359, 641)),
    *((540, 960), (721, 1279), (1080, 1920), (1081, 1923)),
)
"""Sizes (height, width) from tiny to full HD, many of them odd."""
LARGE = ((2160, 3840), (3001, 2003), (4096, 4096))
"""Sizes (height, width) that are always tiled."""


def precision_shown(run: Run, plan: EngineToBuild) -> dict[str, Any]:
    """TensorRT's own description of the layers shows the precision that was asked for."""
    from sr_deploy.engines.tensorrt.layers import require_precision
    from sr_deploy.engines.tensorrt.sidecar import read_engine

    found = dict(read_engine(run.engines[plan.name])[1].precisions)
    require_precision(found, plan.precision, plan.name)
    if not found:
        raise AssertionError("no layer says what it computes in")
    return found


def parity(run: Run, plan: EngineToBuild) -> dict[str, Any]:
    """The engine agrees with ONNX Runtime's fp32 on the CPU, on photographs of several sizes."""
    rows, model, precision = [], plan.model, plan.precision
    with open_engine(run, plan.name) as engine:
        for number, (large, small, expected) in enumerate(run.pictures(model)):
            found = engine.run(small[None])[0]
            again = engine.run(small[None])[0]  # recorded as a graph; replayed from the third run on
            third = engine.run(small[None])[0]
            rows.append(compared(large, expected, found, engine.spec.scale))
            rows[-1] |= {
                "size": named(small.shape[:2]),
                "repeats_equal": bool((found == again).all() and (found == third).all()),
            }
            run.log(f"parity {model} {precision} {number}: {rows[-1]}")
    lost = statistics.mean(row["psnr_lost"] for row in rows)
    run.log(f"parity {model} {precision}: {lost:.4f} dB lost on average")
    if lost > PSNR_LOSS[precision] or not all(acceptable(row, precision) for row in rows):
        raise AssertionError(f"{model} {precision}: {lost} dB lost; {rows}")
    return {"pictures": rows, "mean_psnr_lost": lost}


def acceptable(row: dict[str, Any], precision: str) -> bool:
    """Return whether one picture is within the tolerances of `precision`."""
    return bool(
        row["max_step"] <= STEPS[precision]
        and row["repeats_equal"]
        and max(abs(value) for value in row["mean_drift"]) <= 0.5
    )


def compared(large: Any, expected: Any, found: Any, shave: int) -> dict[str, Any]:
    """Compare the result with the CPU's and, cropped by `shave`, with the original; pixels are uint8."""
    difference = np.abs(found.astype(np.int16) - expected.astype(np.int16))
    mean = (found.astype(np.float64) - expected).mean(axis=(0, 1))
    return {
        "max_step": int(difference.max()),
        "differing": float((difference > 0).mean()),
        "psnr_between": psnr(found, expected),
        "psnr_lost": psnr(luma(expected), luma(large), shave) - psnr(luma(found), luma(large), shave),
        "mean_drift": [round(float(value), 4) for value in mean],
    }


def luma(pixels: Any) -> Any:
    """Luma by BT.601 with values 16..235, as papers measure it."""
    return 16 + pixels.astype(np.float64) @ np.array([65.481, 128.553, 24.966]) / 255


def psnr(first: Any, second: Any, shave: int = 0) -> float:
    """PSNR in dB of 8-bit pixels, cropped by `shave` if large enough; 99 if they are equal."""
    error = first.astype(np.float64) - second.astype(np.float64)
    if shave and min(error.shape[:2]) > 4 * shave:
        error = error[shave:-shave, shave:-shave]
    mse = float((error**2).mean())
    return 99.0 if mse == 0 else float(10 * np.log10(255**2 / mse))


def sweep(run: Run, plan: EngineToBuild, sizes: tuple[tuple[int, int], ...] = SWEEP) -> dict[str, Any]:
    """One engine upscales every size, in tiles if necessary, and crops of each result agree with it."""
    from sr_deploy.upscale import Upscaler

    rng, rows = np.random.default_rng(3), []
    with open_engine(run, plan.name) as engine:
        upscaler = Upscaler(engine)
        base = run.pictures(plan.model)[0][0]
        for height, width in sizes:
            picture = filled(base, height, width)
            start = time.perf_counter()
            result = upscaler.upscale_pixels(picture)
            seconds = time.perf_counter() - start
            tiles = upscaler.plan(height, width).count
            worst = max(crop_difference(engine, picture, result, rng) for _ in range(4))
            rows.append(
                {"size": named((height, width)), "tiles": tiles, "seconds": seconds, "max_step": worst}
            )
            run.log(f"sweep {rows[-1]}")
            if result.shape != (height * 4, width * 4, 3) or worst > STEPS[plan.precision]:
                raise AssertionError(f"{rows}")
    return {"engine": plan.name, "sizes": rows}


def crop_difference(engine: Any, picture: Any, result: Any, rng: Any) -> int:
    """Largest difference between a part of `result` and the engine's result for that part and its halo."""
    height, width = picture.shape[:2]
    halo, scale, side = engine.spec.halo, engine.spec.scale, 48
    top, left = int(rng.integers(0, max(height - side, 1))), int(rng.integers(0, max(width - side, 1)))
    up, before = max(top - halo, 0), max(left - halo, 0)
    down, after = min(top + side + halo, height), min(left + side + halo, width)
    crop = engine.run(np.ascontiguousarray(picture[None, up:down, before:after]))[0]
    bottom, right = min(top + side, height), min(left + side, width)
    mine = crop[
        (top - up) * scale : (bottom - up) * scale, (left - before) * scale : (right - before) * scale
    ]
    theirs = result[top * scale : bottom * scale, left * scale : right * scale]
    return int(np.abs(mine.astype(np.int16) - theirs.astype(np.int16)).max())


def float_pixels(run: Run, plan: EngineToBuild) -> dict[str, Any]:
    """The float form, for 16-bit pictures, gives the 8-bit form's pixels before rounding."""
    _, small, expected = run.pictures(plan.model)[1]
    with open_engine(run, plan.name) as engine:
        found = engine.run(small[None].astype(np.float32) / np.float32(255))[0]
    off = float(np.abs(found * 255 - expected.astype(np.float32)).max())
    if not (found.min() >= 0 and found.max() <= 1 and off <= STEPS[plan.precision] + 0.5):
        raise AssertionError(f"off by {off}")
    return {"max_off_8_bit_steps": off}


def agree(run: Run, timed: EngineToBuild, checked: EngineToBuild) -> dict[str, Any]:
    """The engine that is timed agrees with the one whose pixels were compared with the CPU's."""
    from sr_deploy.upscale import Upscaler

    picture = filled(run.pictures(timed.model)[0][0], *(timed.only_size or COMMON[0]))
    with open_engine(run, timed.name) as engine:
        found = engine.run(picture[None])[0]
    with open_engine(run, checked.name) as engine:
        expected = Upscaler(engine).upscale_pixels(picture)
    difference = np.abs(found.astype(np.int16) - expected.astype(np.int16))
    worst = int(difference.max())
    if worst > 2 * STEPS[timed.precision]:
        raise AssertionError(f"{timed.name} and {checked.name} differ by {worst}")
    return {"max_step": worst, "differing": float((difference > 0).mean())}
