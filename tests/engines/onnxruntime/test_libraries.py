"""The libraries of ONNX Runtime's GPU providers: loaded from wheels, and named where one is missing."""

from __future__ import annotations

import ctypes
import sys
import threading
from types import SimpleNamespace

import pytest

from sr_deploy.engines.onnxruntime import libraries
from sr_deploy.engines.onnxruntime.libraries import missing_library, old_driver, require_libraries
from sr_deploy.engines.onnxruntime.session import CUDA, TENSORRT, open_session, runtime
from sr_deploy.errors import MissingRuntimeError, ModelError

LINUX = "{}: cannot open shared object file: No such file or directory"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (LINUX.format("libcublasLt.so.13"), r"needs the library libcublasLt\.so\.13 of CUDA or cuDNN, which is missing"),
        (LINUX.format("libcudnn.so.9"), r"needs the library libcudnn\.so\.9 of CUDA or cuDNN"),
        ('Error loading "onnxruntime_providers_cuda.dll" which depends on "cublasLt64_12.dll" which is missing', "cublasLt64_12.dll"),
        (LINUX.format("libnvinfer.so.10"), r"needs TensorRT 10, whose library libnvinfer\.so\.10 is missing"),
        ('"x.dll" depends on "nvinfer_10.dll" which is missing', r"needs TensorRT 10, whose library nvinfer_10\.dll"),
        (LINUX.format("libcuda.so.1"), r"needs NVIDIA's driver, whose library libcuda\.so\.1 is missing; install the driver"),
    ],
)  # fmt: skip
def test_the_missing_library_is_named_with_what_helps(text, words):
    error = missing_library(f"[ONNXRuntimeError] : 1 : FAIL : Failed to load library: {text}", TENSORRT)
    assert error is not None
    with pytest.raises(MissingRuntimeError, match=words):
        raise error
    if "driver" not in words:
        assert str(error).endswith('; pip install "sr-deploy[onnxruntime-gpu]"')


def test_other_messages_are_not_about_libraries():
    assert (
        missing_library("This is an invalid model. Error in Node:conv : No Op registered for Sharpen", CUDA)
        is None
    )


@pytest.fixture
def wheel(monkeypatch, tmp_path):
    """An installed ONNX Runtime whose CUDA provider lacks what `needs` names; what was called is in `calls`."""
    made = SimpleNamespace(calls=[], needs="")
    (tmp_path / "capi").mkdir()
    suffix = ".dll" if sys.platform == "win32" else ".so"
    prefix = "" if sys.platform == "win32" else "lib"
    for name in ("onnxruntime_providers_cuda", "onnxruntime_providers_tensorrt"):
        (tmp_path / "capi" / f"{prefix}{name}{suffix}").touch()

    def load(path, mode=0):
        made.calls.append(path.rpartition("onnxruntime_providers_")[2].partition(".")[0])
        if made.needs and "shared" not in path:
            raise OSError(LINUX.format(made.needs))

    def preload_dlls():
        made.calls.append("preload")
        print("Failed to load libcufft.so.12")  # as ONNX Runtime does

    ort = SimpleNamespace(__file__=str(tmp_path / "__init__.py"), preload_dlls=preload_dlls)
    monkeypatch.setattr(libraries, "runtime", lambda: ort)
    monkeypatch.setattr(libraries, "_preloaded", threading.Event())
    monkeypatch.setattr(ctypes, "CDLL", load)
    return made


def test_libraries_are_loaded_from_the_wheels_once_and_silently(wheel, capsys):
    require_libraries(CUDA)
    require_libraries(CUDA)
    assert wheel.calls == ["preload", "shared", "cuda", "shared", "cuda"]
    assert capsys.readouterr().out == ""


def test_tensorrt_is_imported_for_its_provider_before_that_is_loaded(wheel, monkeypatch):
    package = type(sys)("tensorrt_libs")
    monkeypatch.setitem(sys.modules, "tensorrt_libs", package)
    monkeypatch.setattr(libraries, "import_module", lambda name: wheel.calls.append(name))
    require_libraries(TENSORRT)
    assert wheel.calls == ["preload", "tensorrt_libs", "shared", "tensorrt"]


def test_a_provider_whose_library_is_missing_is_an_error_that_names_it(wheel, monkeypatch):
    wheel.needs = "libcudnn.so.9"
    with pytest.raises(MissingRuntimeError, match=r"CUDAExecutionProvider needs the library libcudnn\.so\.9"):
        require_libraries(CUDA)
    monkeypatch.setattr(libraries, "_installed_tensorrt", lambda: " (installed is TensorRT 11.4.0)")
    wheel.needs = "libnvinfer.so.10"
    with pytest.raises(
        MissingRuntimeError, match=r"needs TensorRT 10, .* is missing \(installed is TensorRT 11\.4\.0\); pip"
    ):
        require_libraries(TENSORRT)
    wheel.needs = "a symbol"
    with pytest.raises(
        MissingRuntimeError, match=r"CUDAExecutionProvider does not load \(a symbol: .*pip install"
    ):
        require_libraries(CUDA)


def test_a_driver_that_is_too_old_is_told_as_that():
    text = "libonnxruntime_providers_cuda.so: undefined symbol: cuTensorMapEncodeTiled"
    assert "needs a later NVIDIA driver: this one has no cuTensorMapEncodeTiled" in str(
        old_driver(text, "CUDA")
    )
    assert old_driver("undefined symbol: cudaMallocAsync", "CUDA") is None


def test_a_failure_of_the_gpu_is_not_blamed_on_the_model(monkeypatch):
    """ONNX Runtime 1.31 says so where the driver starts and CUDA does not."""
    text = "provider_options_utils.h:187 Parse Failed to parse provider option device_id: CUDA failure 3: initialization error"

    def fail(*arguments, **named):
        raise RuntimeError(text)

    monkeypatch.setattr(runtime(), "InferenceSession", fail)
    with pytest.raises(
        MissingRuntimeError, match=r"cannot use the GPU: .*CUDA failure 3.*check `nvidia-smi`"
    ):
        open_session(b"", None, [(CUDA, {})], "net")
    text = "no kernel for BatchToSpace"
    with pytest.raises(ModelError, match="BatchToSpace; export it with standard operators"):
        open_session(b"", None, [(CUDA, {})], "net")
