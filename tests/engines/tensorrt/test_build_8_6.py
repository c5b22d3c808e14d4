"""A whole build with a stand-in for TensorRT 8.6, which behaves as that version did on a real GPU.

The stand-in has the names of 8.6 and no others. It compiles nothing. Like 8.6, it calls all values FLOAT. It
describes layers with 8.6's own words about a real engine, with weights in the type that the flags allow.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest

from sr_deploy.engines.tensorrt import build as build_module
from sr_deploy.engines.tensorrt.build import build_engine, source_of
from sr_deploy.engines.tensorrt.options import BuildOptions
from sr_deploy.errors import ModelError
from sr_deploy.graph.onnx_file import save_model
from sr_deploy.precision.half import to_fp16
from tests.engines.tensorrt.test_layers import REAL
from tests.engines.tensorrt.test_sidecar import HERE
from tests.engines.tensorrt.test_versions import Module, Recorder, network_of

VERSION = "8.6"
OPTIONS = BuildOptions(sizes=((36, 64),), tile=96, small=16)


class StandIn:
    """A stand-in for `tensorrt` 8.6. `halves`: it uses fp16 kernels where they are allowed. `out`: type of the output."""

    def __init__(self, *, halves: bool = True, out: str = "UINT8") -> None:
        self.out = out
        self.halves, self.flags, self.profiles = halves, set(), []
        self.module = trt = Module(VERSION)
        trt.ILogger = type("ILogger", (), {"Severity": type("S", (), {n: n for n in ("INTERNAL_ERROR", "ERROR", "WARNING")})})  # fmt: skip
        trt.Builder = lambda logger: self.builder()
        trt.OnnxParser = lambda network, logger: self.made("OnnxParser", parse=lambda graph: True)
        trt.Runtime = lambda logger: self.made("Runtime", deserialize_cuda_engine=lambda plan: self.engine())

    def made(self, kind: str, **answers: Any) -> Recorder:
        """A recorder of the class `kind` of 8.6."""
        return Recorder(VERSION, kind, answers)

    def builder(self) -> Recorder:
        """The builder; its plan is a constant."""
        return self.made(
            "Builder",
            create_network=lambda flags: network_of(VERSION),
            create_builder_config=self.config,
            create_optimization_profile=lambda: self.made("IOptimizationProfile"),
            build_serialized_network=lambda network, config: b"a plan",
        )

    def config(self) -> Recorder:
        """The configuration; keeps flags and profiles for the tests."""
        return self.made(
            "IBuilderConfig",
            set_flag=lambda flag: self.flags.add(str(flag)),
            add_optimization_profile=lambda profile: self.profiles.append(profile) or len(self.profiles) - 1,
            get_timing_cache=lambda: self.made("ITimingCache", serialize=lambda: b"timings"),
        )

    def engine(self) -> Recorder:
        """The engine; its inspector gives the description of a real engine."""
        kind = "Half" if self.halves and "FP16" in self.flags else "Float"
        words = REAL.replace('"Type": "Float"', f'"Type": "{kind}"')
        inspector = self.made("EngineInspector", get_engine_information=lambda form: words)
        return self.made("ICudaEngine", create_engine_inspector=lambda: inspector, **ports_of(self.out))


def ports_of(out: str) -> dict[str, Any]:
    """The answers of an engine about its ports: bytes in, and the type `out` out."""
    return {
        "num_io_tensors": 2,
        "get_tensor_name": lambda number: ("pixels", "upscaled")[number],
        "get_tensor_mode": lambda name: "INPUT" if name == "pixels" else "OUTPUT",
        "get_tensor_dtype": lambda name: f"DataType.{'UINT8' if name == 'pixels' else out}",
        "get_tensor_shape": lambda name: (-1, -1, -1, 3),
    }


@pytest.fixture
def stand_in(monkeypatch):
    """Returns a function that replaces TensorRT, CUDA and the machine by stand-ins."""

    def use(**options: Any) -> StandIn:
        made = StandIn(**options)
        monkeypatch.setattr(build_module.api, "runtime", lambda which: made.module)
        monkeypatch.setattr(build_module, "machine", lambda device, version: HERE)
        gpu = type("Gpu", (), {"current": lambda self: nullcontext()})
        monkeypatch.setattr(build_module, "GpuContext", lambda device, context: gpu())
        return made

    return use


def source(tiny, tmp_path, change=lambda model: model):
    """The tiny model `plain`, changed by `change`, as a source for a build."""
    path = tmp_path / "model.onnx"
    save_model(change(tiny("plain").model), path)
    return source_of(path)


def test_an_fp16_file_becomes_an_fp16_engine_though_the_network_says_float(tiny, tmp_path, stand_in):
    trt = stand_in()
    built = build_engine(source(tiny, tmp_path, to_fp16), OPTIONS)
    assert trt.flags == {"FP16"}
    assert built.record.precisions == {"fp16": 3}
    assert [profile.name for profile in built.record.profiles] == ["64x36", "small", "tile"]
    assert (built.plan, built.timings) == (b"a plan", b"timings")


def test_an_fp32_file_becomes_an_fp32_engine(tiny, tmp_path, stand_in):
    trt = stand_in()
    built = build_engine(source(tiny, tmp_path), OPTIONS)
    assert trt.flags == set()
    assert built.record.precisions == {"fp32": 3}


def test_an_engine_that_quietly_computes_in_fp32_is_an_error(tiny, tmp_path, stand_in):
    stand_in(halves=False)
    half = source(tiny, tmp_path, to_fp16)
    with pytest.raises(ModelError, match=r"should compute in fp16, but its layers do not \(3 in fp32\)"):
        build_engine(half, OPTIONS)
    assert build_engine(half, OPTIONS, check_precision=False).record.precisions == {"fp32": 3}


def test_a_wrong_record_is_found_before_tensorrt_is_started(tiny, tmp_path, stand_in):
    trt = stand_in()
    wrong = source(tiny, tmp_path)
    wrong = replace(wrong, spec=wrong.spec.with_(precision="fp16"))
    trt.module.Builder = lambda logger: pytest.fail("it was started")
    with pytest.raises(ModelError, match="its weights are fp32"):
        build_engine(wrong, OPTIONS)


def test_an_engine_whose_output_became_int8_is_refused_after_the_build(tiny, tmp_path, stand_in):
    """8.6 tells types only of the engine; pixels above 127 would saturate."""
    stand_in(out="INT8")
    with pytest.raises(
        ModelError, match=r"the engine has a port upscaled of type INT8.*expected upscaled of type UINT8"
    ):
        build_engine(source(tiny, tmp_path), OPTIONS)
