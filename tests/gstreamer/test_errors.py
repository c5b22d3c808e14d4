"""Wrong use of sruscale: one sentence as an error of the element, and never a crash of the program around it."""

from __future__ import annotations

import shutil
import subprocess

import onnx
import pytest

from sr_deploy import __version__
from tests.gstreamer.conftest import SECONDS

SOURCE = "videotestsrc num-buffers=3 ! video/x-raw,format=I420,width=64,height=36"


@pytest.fixture
def refused(host_program, environment, tmp_path):
    """The error of a pipeline that must fail: the name of the element, and the sentence."""

    def run(pipeline, **more):
        done = subprocess.run(
            [str(host_program), "run", pipeline],
            cwd=tmp_path,
            env={**environment, **more},
            capture_output=True,
            encoding="utf-8",
            timeout=SECONDS,
        )
        assert (done.returncode, done.stdout) == (1, "")
        (line,) = done.stderr.splitlines()
        return line

    return run


@pytest.mark.parametrize(
    ("properties", "text"),
    [
        ("model=nothing", "no bundled model is called 'nothing'; "),
        (
            "model=nowhere/a.onnx",
            "model nowhere/a.onnx: no such file; give an .onnx file or one of photo-x2, ",
        ),
        ('model=""', "the model's name is empty; give an .onnx file or a name listed by `sr-deploy models`"),
        (
            "scale=7",
            "no bundled model has scale 7, the available scales are: 2 (rt-x2), 4 (rt-x4); choose one of ",
        ),
        ("model=rt-x2 scale=4", "model rt-x2 has scale 2 and the property scale asks for 4; leave one out"),
        ("model=rt-x2 tile=0", 'tile "0" is not auto, none or a number of pixels; set one of these'),
        ("model=rt-x2 tile=many", 'tile "many" is not auto, none or a number of pixels; set one of these'),
        ("model=rt-x2 backend=none", "there is no backend 'none'; choose one of auto, onnxruntime, "),
    ],
)
def test_a_wrong_property_is_an_error_of_the_element(refused, properties, text):
    assert refused(f"{SOURCE} ! sruscale name=up {properties} ! fakesink").startswith(f"up: {text}")


def test_without_a_model_the_bundled_one_of_scale_4_is_used(launch):
    done = launch(f"-v {SOURCE} ! sruscale name=up ! fakesink")
    assert "width=(int)256, height=(int)144" in done.stdout


def test_a_python_that_is_not_there_is_an_error_of_the_element(refused):
    text = refused(f"{SOURCE} ! sruscale name=up model=rt-x2 ! fakesink", SR_DEPLOY_PYTHON="/nowhere/python")
    assert text.startswith(
        "up: there is no Python at /nowhere/python; set the environment variable SR_DEPLOY_PYTHON"
    )


def test_a_library_that_is_not_there_is_an_error_of_the_element(refused, plugin, tmp_path):
    alone = tmp_path / "alone"
    shutil.copytree(plugin.folder, alone)
    more = {"GST_PLUGIN_PATH": str(alone), "GST_REGISTRY": str(tmp_path / "registry")}
    text = refused(f"{SOURCE} ! sruscale name=up model=rt-x2 ! fakesink", **more)
    assert text.startswith("up: the library of sr-deploy cannot be loaded (")
    assert text.endswith(
        "make it again with `sr-deploy gstreamer --plugin-path`, and keep both of its folders"
    )


def test_a_format_that_is_not_supported_cannot_be_linked(refused):
    text = refused("videotestsrc ! video/x-raw,format=VUYA ! sruscale name=up model=rt-x2 ! fakesink")
    assert "can't handle caps video/x-raw, format=(string)VUYA" in text


@pytest.mark.parametrize(
    ("before", "after"),
    [("width=64,height=36", "width=129"), ("width=2000000000,height=36", "height=72")],
    ids=["no multiple of the scale", "too wide"],
)
def test_a_size_that_cannot_be_served_is_not_negotiated(refused, before, after):
    source = f"videotestsrc num-buffers=3 ! video/x-raw,format=I420,{before}"
    text = refused(f"{source} ! sruscale name=up model=rt-x2 ! video/x-raw,{after} ! fakesink")
    assert text == "videotestsrc0: Internal data stream error."


@pytest.mark.parametrize(
    ("caps", "text"),
    [
        ("format=RGB,colorimetry=2:1:0:0", "RGB of limited range is not converted; put videoconvert before sruscale"),
        ("format=I420,chroma-site=v-cosited", "chroma samples on rows but between columns (chroma-site v-cosited)"),
    ],
)  # fmt: skip
def test_colours_that_are_not_converted_are_an_error_of_the_element(refused, caps, text):
    source = f"videotestsrc num-buffers=3 ! video/x-raw,{caps},width=64,height=36"
    assert refused(f"{source} ! sruscale name=up model=rt-x2 ! fakesink").startswith(f"up: {text}")


def test_a_frame_that_the_model_cannot_take_is_an_error_of_the_element(refused, tiny, tmp_path):
    net = tiny("fixed")
    onnx.save(net.model, tmp_path / "fixed.onnx")
    text = refused(f"{SOURCE} ! sruscale name=up model=fixed.onnx tile=none ! fakesink")
    assert "9x6" in text


def test_interlaced_frames_are_upscaled_with_a_warning(launch):
    caps = "video/x-raw,format=I420,width=64,height=36,interlace-mode=interleaved"
    done = launch(
        f"videotestsrc num-buffers=1 ! capssetter caps={caps} ! sruscale model=rt-x2 backend=nearest ! fakesink"
    )
    assert (
        "the frames are interlaced, and upscaling blurs them; put deinterlace before sruscale" in done.stdout
    )


def test_an_error_in_the_midst_of_a_stream_ends_it(refused, tiny, tmp_path):
    net = tiny("fixed")
    onnx.save(net.model, tmp_path / "fixed.onnx")
    small = "video/x-raw,format=RGB,width=9,height=6,framerate=30/1"
    text = refused(
        f"concat name=c ! sruscale name=up model=fixed.onnx tile=none ! fakesink videotestsrc num-buffers=3 ! {small} ! c. "
        f"videotestsrc num-buffers=3 ! {small.replace('width=9', 'width=10')} ! c."
    )
    assert text.startswith("up: ")


def test_the_plugin_tells_its_version_and_licence(environment):
    done = subprocess.run(
        ["gst-inspect-1.0", "srdeploy"], env=environment, capture_output=True, encoding="utf-8"
    )
    assert done.returncode == 0
    assert __version__ in done.stdout
    assert "sruscale: Super-resolution" in done.stdout
