"""The public API is fixed on purpose: a new or missing name fails a test. Every name is used, and every wrong call
gets a sentence."""

from __future__ import annotations

import importlib.util
import inspect
import os
import re
import subprocess
import sys
import typing
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sr_deploy
from sr_deploy import (
    BuildOptions,
    CheckFailedError,
    Engine,
    FailedVerdictWarning,
    Image,
    ImageError,
    InputError,
    Limits,
    Metadata,
    MissingRuntimeError,
    ModelEntry,
    ModelError,
    ModelSpec,
    OnnxRuntimeGpuOptions,
    OnnxRuntimeOptions,
    OpenVinoOptions,
    OutOfMemoryError,
    OutputError,
    Plan,
    SizeRule,
    Span,
    SrDeployError,
    TensorRTOptions,
    Upscaler,
    UsageError,
    decode_image,
    encode_image,
    export,
    find_model,
    imresize,
    list_models,
    open_engine,
    psnr,
    read_image,
    resize,
    ssim,
    write_image,
)
from sr_deploy.engines.verdict import Verdict, store_verdict
from tests.paths import EXAMPLE


def test_the_public_names_are_these_and_sorted():
    assert sr_deploy.__all__ == sorted(sr_deploy._MODULE_OF)


@pytest.mark.parametrize("name", sr_deploy.__all__)
def test_every_public_name_is_there_and_documented(name):
    assert getattr(sr_deploy, name).__doc__


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        sr_deploy.nothing  # noqa: B018


def test_the_version_is_that_of_the_distribution():
    assert sr_deploy.__version__ == version("sr-deploy")


def test_importing_the_package_alone_imports_nothing_heavy():
    code = "import sys, sr_deploy; print(sorted({'numpy', 'cv2', 'onnx', 'torch', 'rich', 'click'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_the_runtime_leaves_no_trace_in_the_home_folder(tmp_path):
    surroundings = {
        k: v for k, v in os.environ.items() if k not in ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")
    }
    code = "import sr_deploy, onnxruntime as o; o.get_available_providers()"
    home = {"HOME": str(tmp_path), "USERPROFILE": str(tmp_path), "LOCALAPPDATA": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], env=surroundings | home, check=True)
    assert list(tmp_path.rglob("*")) == []


IN_ORDER = "import sr_deploy; names = sr_deploy.__all__"
ORDERS = {
    "alphabetical": IN_ORDER,
    "reverse": f"{IN_ORDER}[::-1]",
    "submodules of the same name first": "import sr_deploy.images.resize, sr_deploy.training.export, sr_deploy.upscale; "
    + IN_ORDER,
    "all modules first": "import importlib, pkgutil, sr_deploy; [importlib.import_module(m.name) for m in "
    "pkgutil.walk_packages(sr_deploy.__path__, 'sr_deploy.') if '.training' not in m.name and '__main__' not in m.name]; "
    "names = sr_deploy.__all__",
    "star": "from sr_deploy import *; import sr_deploy; names = [n for n in sr_deploy.__all__ if n in globals()]; "
    "assert names == sr_deploy.__all__",
}


@pytest.mark.parametrize("order", ORDERS, ids=lambda name: name.replace(" ", "-"))
def test_every_name_is_the_thing_and_no_module_in_any_order_of_imports(order):
    code = f"""{ORDERS[order]}
import types
for name in names:
    found = {{}}
    exec(f"from sr_deploy import {{name}}", found)
    assert not isinstance(found[name], types.ModuleType), name
    assert found[name].__name__ == name, name
print(len(names))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == str(len(sr_deploy.__all__)), done.stderr


@pytest.fixture(scope="module")
def upscaler() -> Iterator[Upscaler]:
    with Upscaler.open("rt-x2", backend="onnxruntime", threads=1) as opened:
        yield opened


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with open_engine("rt-x2", backend="onnxruntime", options=OnnxRuntimeOptions(threads=1)) as opened:
        yield opened


PIXELS = np.arange(12 * 16 * 3, dtype=np.uint8).reshape(12, 16, 3)
ALPHA = np.full((12, 16), 9, np.uint8)
IMAGE = Image(pixels=PIXELS)


def uses(upscaler: Upscaler, engine: Engine, folder: Path) -> dict[str, Callable[[], bool]]:
    """Public name -> what uses it once and says whether the answer is right."""
    path = folder / "a.png"
    raised: dict[type[SrDeployError], Callable[[], object]] = {
        UsageError: lambda: upscaler.plan(0, 1),
        ImageError: lambda: read_image(folder / "none.png"),
        InputError: lambda: read_image(folder / "none.png"),
        SrDeployError: lambda: read_image(folder / "none.png"),
        ModelError: lambda: Upscaler.open("none"),
        OutputError: lambda: write_image(IMAGE, folder / "none" / "a.png"),
    }

    def catches(kind: type[SrDeployError]) -> bool:
        try:
            raised[kind]()
        except kind as error:
            return 2 <= error.exit_code <= 3
        return False

    def warns() -> bool:
        copy = folder / "failed.onnx"
        copy.write_bytes(find_model("rt-x2").read_bytes())
        store_verdict(copy, Verdict(passed=False, against="a.onnx", why="bent", backends={}))
        with pytest.warns(FailedVerdictWarning) as caught:
            open_engine(copy, "onnxruntime").close()
        return len(caught) == 1

    def exports() -> bool:
        if importlib.util.find_spec("torch") is None:
            with pytest.raises(MissingRuntimeError, match="torch"):
                export("net.py:Net", folder / "net.onnx", scale=2)
            return True
        from torch import nn

        export(nn.Upsample(scale_factor=2), folder / "net.onnx", scale=2)
        with Upscaler.open(folder / "net.onnx", backend="onnxruntime") as doubling:
            return bool((doubling.upscale(IMAGE).pixels == PIXELS.repeat(2, 0).repeat(2, 1)).all())

    return {
        **{kind.__name__: (lambda kind=kind: catches(kind)) for kind in raised},
        "MissingRuntimeError": lambda: MissingRuntimeError("").exit_code == 4,
        "OutOfMemoryError": lambda: isinstance(OutOfMemoryError(""), MemoryError),
        "CheckFailedError": lambda: CheckFailedError("").exit_code == 1,
        "FailedVerdictWarning": warns,
        "BuildOptions": lambda: TensorRTOptions(build=BuildOptions(sizes=((8, 8),))).device == 0,
        "TensorRTOptions": lambda: TensorRTOptions(contexts=2).contexts == 2,
        "OnnxRuntimeOptions": lambda: engine.backend == "onnxruntime",
        "OnnxRuntimeGpuOptions": lambda: OnnxRuntimeGpuOptions().device == 0,
        "OpenVinoOptions": lambda: OpenVinoOptions(threads=2).threads == 2,
        "Engine": lambda: isinstance(engine, Engine),
        "Limits": lambda: isinstance(engine.limits, Limits),
        "Image": lambda: (IMAGE.width, IMAGE.height, IMAGE.bits) == (16, 12, 8),
        "Metadata": lambda: IMAGE.metadata == Metadata(),
        "ModelEntry": lambda: all(isinstance(entry, ModelEntry) for entry in list_models()),
        "ModelSpec": lambda: ModelSpec(name="a", scale=2, halo=1).scale == 2,
        "SizeRule": lambda: SizeRule(multiple_of=8).padded(9, 8) == (16, 8),
        "Plan": lambda: isinstance(upscaler.plan(20, 30), Plan) and upscaler.plan(20, 30).count == 1,
        "Span": lambda: next(iter(upscaler.plan(20, 30)))[0] == Span(0, 0, 20),
        "Upscaler": lambda: upscaler.upscale(IMAGE).width == 32,
        "decode_image": lambda: decode_image(EXAMPLE.read_bytes()).width == read_image(EXAMPLE).width,
        "encode_image": lambda: bool((decode_image(encode_image(IMAGE)).pixels == PIXELS).all()),
        "export": exports,
        "find_model": lambda: find_model("rt-x4").name == "rt-x4.onnx",
        "imresize": lambda: imresize(PIXELS, 0.5).shape == (6, 8, 3),
        "list_models": lambda: "rt-x4" in {entry.name for entry in list_models()},
        "open_engine": lambda: engine.run(PIXELS[None]).shape == (1, 24, 32, 3),
        "psnr": lambda: psnr(PIXELS, PIXELS) == float("inf"),
        "read_image": lambda: (
            write_image(IMAGE, path) == () and bool((read_image(path).pixels == PIXELS).all())
        ),
        "resize": lambda: resize(IMAGE, 20, 10).height == 10,
        "ssim": lambda: ssim(PIXELS, PIXELS) == 1.0,
        "write_image": lambda: (
            write_image(PIXELS[..., 0], path) == () and read_image(path).pixels.shape[2] == 1
        ),
    }


def test_every_public_name_is_used(upscaler, engine, tmp_path):
    table = uses(upscaler, engine, tmp_path)
    assert sorted(table) == sr_deploy.__all__
    assert [name for name, use in table.items() if not use()] == []


def callables() -> Iterator[Any]:
    """The public functions, classes and their methods."""
    for name in sr_deploy.__all__:
        thing = getattr(sr_deploy, name)
        yield thing
        if inspect.isclass(thing):
            yield from (m for n, m in vars(thing).items() if inspect.isfunction(m) and not n.startswith("_"))


ORDINARY_WORDS = {"Colours", "Runtime"}
"""Words of sentences that are names of classes, too."""


def test_names_in_the_docstrings_are_exported():
    """Names of classes of the package that a public docstring mentions, alone or in backticks."""
    classes = {
        name
        for path in Path(sr_deploy.__file__).parent.rglob("*.py")
        for name in re.findall(r"^class ([A-Z]\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    missing = {
        (thing.__qualname__, word)
        for thing in callables()
        for word in re.findall(r"\b[A-Z]\w+", inspect.getdoc(thing) or "")
        if word in classes - ORDINARY_WORDS and word not in sr_deploy.__all__
    }
    assert missing == set()


def test_types_in_the_signatures_are_exported():
    missing = set()
    for thing in callables():
        if not inspect.isfunction(thing) or thing is export:
            continue  # export returns what needs torch to be imported
        names = {
            **vars(sys.modules[thing.__module__]),
            **{n: getattr(sr_deploy, n) for n in sr_deploy.__all__},
        }
        hints = typing.get_type_hints(thing, names | {"ModelProto": bytes})
        text = " ".join(map(str, hints.values()))
        for word in re.findall(r"sr_deploy\.[\w.]*\.([A-Z]\w+)", text):
            if word not in sr_deploy.__all__:
                missing.add((thing.__qualname__, word))
    assert missing == set()


FLOATS = np.full((8, 8, 3), 200, np.float32)
WRONG: dict[str, tuple[Callable[[Upscaler, Engine], object], str]] = {
    "memory=-1": (lambda u, e: Upscaler(e, memory=-1), "memory must be a positive number of bytes.*'1G', got -1"),
    "memory=1X": (lambda u, e: Upscaler(e, memory="1X"), "got '1X'"),
    "memory=1.5": (lambda u, e: Upscaler(e, memory=1.5), "got 1.5"),
    "upscale(path)": (lambda u, e: u.upscale("a.jpg"), "takes an Image or a NumPy array.*read_image reads"),
    "upscale(None)": (lambda u, e: u.upscale(None), "got NoneType"),
    "upscale(alpha)": (lambda u, e: u.upscale(IMAGE, alpha="mask"), "alpha must be one of 'cutout', 'straight'"),
    "Upscaler(name)": (lambda u, e: Upscaler("rt-x2"), "Upscaler.open\\('rt-x2'\\) opens"),
    "Upscaler(None)": (lambda u, e: Upscaler(None), "takes an engine of open_engine, got NoneType"),
    "floats to 255": (lambda u, e: u.upscale_pixels(FLOATS), "got 200 to 200; divide by 255"),
    "floats from -1": (lambda u, e: u.upscale_pixels(FLOATS * 0 - 1), "got -1 to -1; for pixels of -1 to 1"),
    "NaN": (lambda u, e: u.upscale_pixels(FLOATS * np.nan), "got NaN"),
    "floats in an engine": (lambda u, e: e.run(FLOATS[None]), "divide by 255"),
    "floats in psnr": (lambda u, e: psnr(FLOATS, FLOATS), "divide by 255"),
    "float64": (lambda u, e: u.upscale_pixels(FLOATS / 255.0 * np.float64(1)), "uint8, uint16 or float32"),
    "CHW": (lambda u, e: u.upscale_pixels(PIXELS.transpose(2, 0, 1)), "channels come last"),
    "HW": (lambda u, e: u.upscale_pixels(ALPHA), "pass pixels\\[..., None\\]"),
    "RGBA": (lambda u, e: u.upscale_pixels(np.dstack((PIXELS, ALPHA))), "opacity is apart"),
    "stream(array)": (lambda u, e: u.stream(PIXELS), "upscale takes a single picture"),
    "stream(ahead=0)": (lambda u, e: u.stream([PIXELS], ahead=0), "ahead must be at least 1"),
    "out=list": (lambda u, e: u.upscale_pixels(PIXELS, out=[1]), "out must be a NumPy array"),
    "progress=3": (lambda u, e: u.upscale_pixels(PIXELS, progress=3), "progress must be a function"),
    "plan(0)": (lambda u, e: u.plan(0, 5), "height must be at least 1, got 0"),
    "plan(text)": (lambda u, e: u.plan(5, "5"), "width must be a whole number, got '5'"),
    "tile=text": (lambda u, e: Upscaler(e, tile="512"), "tile must be a number of pixels"),
    "tile=True": (lambda u, e: Upscaler(e, tile=True), "got True"),
    "overlap=1.5": (lambda u, e: Upscaler(e, overlap=1.5), "overlap must be a whole number"),
    "say=text": (lambda u, e: Upscaler(e, say="print"), "say must be a function"),
    "threads=text": (lambda u, e: Upscaler.open("rt-x2", threads="2"), "threads must be a whole number, got '2'"),
    "threads=0": (lambda u, e: Upscaler.open("rt-x2", threads=0), "threads must be at least 1"),
    "backend=None": (lambda u, e: Upscaler.open("rt-x2", backend=None), "backend must be one of auto, onnxruntime"),
    "backend=cuda": (lambda u, e: Upscaler.open("rt-x2", backend="cuda"), "there is no backend 'cuda'"),
    "model=4": (lambda u, e: Upscaler.open(4), "model must be the name of a bundled model"),
    "model=rtx4": (lambda u, e: Upscaler.open("rtx4"), "did you mean rt-x4"),
    "engine=dict": (lambda u, e: open_engine("rt-x2", "onnxruntime", options={}), "takes OnnxRuntimeOptions, got dict"),
    "read_image(3)": (lambda u, e: read_image(3), "path must be a path, got int"),
    "read_image(bytes)": (lambda u, e: read_image(b"data"), "decode_image takes the bytes"),
    "read_image(profile)": (lambda u, e: read_image(EXAMPLE, profile="sRGB"), "profile must be one of 'auto'"),
    "read_image(max)": (lambda u, e: read_image(EXAMPLE, max_pixels="9"), "max_pixels must be a whole number"),
    "decode_image(path)": (lambda u, e: decode_image("a.jpg"), "takes the bytes of a picture file, got str"),
    "decode_image(text)": (lambda u, e: decode_image(b"hello"), "this is a text file, not a picture"),
    "decode_image(nothing)": (lambda u, e: decode_image(b""), "there are no bytes"),
    "write_image(swapped)": (lambda u, e: write_image("a.png", IMAGE), "the picture comes first"),
    "write_image(floats)": (lambda u, e: write_image(FLOATS, "a.png"), r"pass \(pixels \* 255\)"),
    "write_image(quality)": (lambda u, e: write_image(IMAGE, "a.jpg", quality="9"), "quality must be a whole number"),
    "write_image(format)": (lambda u, e: write_image(IMAGE, "a.jpg", format=1), "a name such as 'png'"),
    "encode_image(format)": (lambda u, e: encode_image(IMAGE, "gif"), "format must be one of .png"),
    "Image(list)": (lambda u, e: Image(pixels=[[1]]), "pixels must be a NumPy array"),
    "Image(metadata)": (lambda u, e: Image(pixels=PIXELS, metadata={}), "metadata must be a Metadata"),
    "resize(array)": (lambda u, e: resize(PIXELS, 5, 5), "use imresize for arrays"),
    "resize(floats)": (lambda u, e: resize(IMAGE, 5.5, 5), "width must be a whole number"),
    "imresize(Image)": (lambda u, e: imresize(IMAGE, 2), "pass its .pixels"),
    "imresize(text)": (lambda u, e: imresize(PIXELS, "2"), "scale must be a positive number"),
    "psnr(Image)": (lambda u, e: psnr(IMAGE, IMAGE), "pass its .pixels"),
    "ssim(shapes)": (lambda u, e: ssim(PIXELS, PIXELS[:4]), "of one shape and type"),
    "export(None)": (lambda u, e: export(None, "a.onnx"), "takes a torch.nn.Module"),
}  # fmt: skip
"""Name of a wrong call -> the call, and what its sentence says."""


@pytest.mark.parametrize("name", WRONG)
def test_every_wrong_call_gets_a_sentence_at_once(upscaler, engine, name):
    call, text = WRONG[name]
    with pytest.raises(SrDeployError, match=text) as caught:
        call(upscaler, engine)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize(
    ("text", "size"), [("1G", 1 << 30), ("512m", 512 << 20), ("1.5 GiB", 3 << 29), ("64", 64), ("8kB", 8192)]
)
def test_sizes_of_memory_may_be_texts(engine, text, size):
    assert Upscaler(engine, memory=text).memory == size


def test_arrays_are_taken_where_images_are(upscaler, tmp_path):
    larger = upscaler.upscale(PIXELS)
    np.testing.assert_array_equal(larger, upscaler.upscale(IMAGE).pixels)
    assert write_image(larger, tmp_path / "a.png") == ()
    np.testing.assert_array_equal(read_image(tmp_path / "a.png").pixels, larger)


def test_an_image_describes_itself_in_one_line():
    assert repr(Image(pixels=PIXELS, alpha=ALPHA)) == "<Image 16x12 RGB, 8 bits, with opacity, read as png>"
