"""The C library gives the bytes of the Python API: every depth, layout and size, tiled and whole."""

from __future__ import annotations

import pytest

from sr_deploy import Upscaler, __version__
from sr_deploy.engines.registry import available_backends
from tests.capi.pictures import cases

WHOLE, AUTO = -1, 0
SIZES = ((1, 1), (5, 3), (17, 13))


def upscaled(
    run, path, pictures, folder, *, scale, backend="onnxruntime", tile=AUTO, overlap=0, memory=0, how="each"
):
    """Upscale `pictures` with calls.c. Return its output, and the names of pictures whose bytes differ from the Python API."""
    lines = "\n".join(picture.write(folder, scale) for picture in pictures)
    done = run("calls.c", path, backend, tile, overlap, memory, how, input=lines)
    wrong = []
    with Upscaler.open(
        path,
        backend=backend,
        threads=1,
        tile={AUTO: "auto", WHOLE: None}.get(tile, tile),
        overlap=overlap or None,
        memory=memory or None,
    ) as upscaler:
        assert upscaler.spec.scale == scale
        for picture in pictures:
            result, gaps_untouched = picture.read(folder, scale)
            if (result != picture.expected(upscaler)).any() or not gaps_untouched:
                wrong.append(picture.name)
    return done.stdout, wrong


@pytest.mark.parametrize("tile", [WHOLE, AUTO, 4], ids=["whole", "auto", "tiled"])
@pytest.mark.parametrize(("name", "scale"), [("plain", 2), ("grey", 4)])
def test_every_depth_and_layout_is_as_from_python(run, model, tmp_path, name, scale, tile):
    _, wrong = upscaled(run, model(name), cases(*SIZES), tmp_path, scale=scale, tile=tile)
    assert wrong == []


def test_a_batch_is_as_many_single_calls(run, model, tmp_path):
    said, wrong = upscaled(run, model("plain"), cases(*SIZES), tmp_path, scale=2, how="batch")
    assert wrong == []
    assert said.splitlines()[-1] == "45 pictures, 0 notes"


@pytest.mark.parametrize("backend", ["auto", "openvino", "nearest"])
def test_every_backend_is_as_from_python(run, model, tmp_path, backend):
    why = available_backends().get(backend)
    if why is not None:
        pytest.skip(why)
    _, wrong = upscaled(run, model("plain"), cases((9, 6)), tmp_path, scale=2, backend=backend)
    assert wrong == []


def test_automatic_tiles_are_planned_for_the_memory_that_is_given(run, model, tmp_path):
    pictures = cases((61, 40))
    _, wrong = upscaled(run, model("plain"), pictures, tmp_path, scale=2, memory=200_000)
    with Upscaler.open(model("plain"), backend="onnxruntime", memory=200_000) as upscaler:
        assert upscaler.plan(40, 61).count > 1
    assert wrong == []


def test_a_bundled_model_gives_the_same_tiled_as_python_does(run, tmp_path):
    _, wrong = upscaled(run, "rt-x2", cases((40, 33))[:5], tmp_path, scale=2, tile=16)
    assert wrong == []


def test_a_model_of_one_size_takes_others(run, model, tmp_path):
    _, wrong = upscaled(run, model("fixed"), cases((9, 6), (4, 3)), tmp_path, scale=2)
    assert wrong == []


def test_query_tells_what_python_knows(run, model, tmp_path):
    said, _ = upscaled(run, model("plain"), cases((3, 3))[:1], tmp_path, scale=2)
    assert said.splitlines()[0] == (
        f"scale 2 channels 3 halo 2 most 0x0x0 backend onnxruntime model plain version {__version__}"
    )


def test_an_overlap_that_is_too_small_is_noted(run, model, tmp_path):
    said, _ = upscaled(run, model("plain"), cases((9, 6))[:1], tmp_path, scale=2, tile=4, overlap=1)
    assert "note: overlap 1: plain sees 2 pixels around a pixel, so tiles may show" in said
    assert said.splitlines()[-1] == "1 pictures, 1 notes"


def test_a_model_may_have_any_name(run, model, tmp_path):
    folder = tmp_path / "modèle 模型"
    folder.mkdir()
    named = model("plain").rename(folder / "ünïcode.onnx")
    _, wrong = upscaled(run, named, cases((9, 6))[:1], tmp_path, scale=2)
    assert wrong == []
