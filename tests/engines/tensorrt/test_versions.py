"""Tests of the calls that `api.py` makes in each version of TensorRT.

The calls are recorded by objects that have the names of that version and no others.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from sr_deploy.engines.tensorrt import api
from sr_deploy.engines.tensorrt.options import BuildOptions
from sr_deploy.engines.tensorrt.profiles import plan_profiles
from sr_deploy.errors import MissingRuntimeError, ModelError, OutOfMemoryError, UsageError
from sr_deploy.spec import ModelSpec
from tests.engines.tensorrt.test_names import NAMES, VERSIONS

SPEC = ModelSpec(name="net", scale=2, halo=3)


class Recorder:
    """A stand-in for an object of class `kind` in `version`.

    Records calls and assignments. Calls return True, or what `answers` contains for them.
    """

    def __init__(self, version: str, kind: str, answers: dict[str, Any] | None = None) -> None:
        self.__dict__.update(_names=NAMES[version][kind], _answers=answers or {}, calls=[], values={})

    def __getattr__(self, name: str) -> Any:
        if name not in self._names:
            raise AttributeError(name)
        if name in self._answers and not callable(self._answers[name]):
            return self._answers[name]

        def call(*arguments: Any) -> Any:
            self.calls.append((name, *arguments))
            return self._answers[name](*arguments) if name in self._answers else True

        return call

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in self._names:
            raise AttributeError(name)
        self.values[name] = value


class Enum:
    """An enumeration with the members of `version`; each equals its name and has a number of its own."""

    def __init__(self, version: str, kind: str) -> None:
        for number, name in enumerate(sorted(NAMES[version].get(kind, ()))):
            setattr(self, name, type("Member", (str,), {"__int__": lambda self, n=number: n})(name))


class Module:
    """A stand-in for `tensorrt` in one version, with its enumerations."""

    KINDS = (
        *(
            "BuilderFlag",
            "DataType",
            "HardwareCompatibilityLevel",
            "LayerInformationFormat",
            "MemoryPoolType",
        ),
        *(
            "NetworkDefinitionCreationFlag",
            "PreviewFeature",
            "ProfilingVerbosity",
            "TacticSource",
            "TensorIOMode",
        ),
        "ExecutionContextAllocationStrategy",
    )

    def __init__(self, version: str) -> None:
        self.__version__ = f"{version}.0"
        for kind in self.KINDS:
            if kind in NAMES[version]:
                setattr(self, kind, Enum(version, kind))

        class IProgressMonitor:
            pass

        if "IProgressMonitor" in NAMES[version]["module"]:
            self.IProgressMonitor = IProgressMonitor


class Tensor:
    """An input or output [N, H, W, 3]."""

    def __init__(self, dtype: str, name: str = "pixels") -> None:
        self.name, self.dtype, self.shape = name, f"DataType.{dtype}", (-1, -1, -1, 3)


def network_of(version: str) -> Recorder:
    """A network as a parser leaves it. Has no layers: 8.6 calls all their types FLOAT, so nothing may ask."""
    answers = {
        "num_inputs": 1,
        "num_outputs": 1,
        "get_input": lambda number: Tensor("UINT8"),
        "get_output": lambda number: Tensor("UINT8", "upscaled"),
    }
    return Recorder(version, "INetworkDefinition", answers)


def configured(version: str, *types: str, **options: Any) -> tuple[Recorder, Recorder]:
    """The configuration made for a file with numbers of `types`, and the profile that was set last."""
    config = Recorder(version, "IBuilderConfig", {"add_optimization_profile": lambda profile: 0})
    profile = Recorder(version, "IOptimizationProfile")
    builder = Recorder(
        version,
        "Builder",
        {"create_builder_config": lambda: config, "create_optimization_profile": lambda: profile},
    )
    chosen = BuildOptions(**options)
    profiles = plan_profiles(SPEC, chosen)
    api.configure(Module(version), builder, network_of(version), chosen, profiles, 3, set(types))
    return config, profile


def flags_of(config: Recorder) -> dict[str, set[str]]:
    """The flags that were set and cleared."""
    return {name: {str(c[1]) for c in config.calls if c[0] == name} for name in ("set_flag", "clear_flag")}


class LogWithErrors:
    """A log that has received `errors`."""

    def __init__(self, *errors: str) -> None:
        self.errors, self.logger = list(errors), None

    def take(self) -> list[str]:
        return self.errors

    def error(self, what: str, advice: str, **more: str) -> Exception:
        return api.TensorRTLog.error(self, what, advice, **more)  # type: ignore[arg-type]


class LogWithLastMessage:
    """A log whose last message is known."""

    logger = None

    def __init__(self, words: str) -> None:
        self.words = words

    def last_message(self) -> str:
        return self.words


DIGEST = (
    "2: [builder.cpp::createCaskKernelLibraryImpl::182] Error Code 2: Internal Error "
    "(Assertion validateCaskKLibDigest(sha256sum) failed. )"
)
"""Message of 8.6.0 on an H100 for a library in which bytes had been changed."""


@pytest.mark.parametrize(
    ("said", "remedy"),
    [
        (DIGEST, "install TensorRT again"),
        (
            "CUDA initialization failure with error: 35. Please check your CUDA installation",
            "newer NVIDIA driver",
        ),
        ("CUDA initialization failure with error: 100", "whether `nvidia-smi` lists one"),
        ("Internal Error (nobody knows)", "run `sr-deploy doctor`"),
    ],
)
@pytest.mark.parametrize("starts", ["builder", "runtime"])
def test_a_tensorrt_that_does_not_start_says_why_and_what_helps(said, remedy, starts):
    def refuse(logger):
        raise TypeError("factory function returned nullptr")

    trt = Module("8.6")
    trt.Builder = trt.Runtime = refuse
    start = api.new_builder if starts == "builder" else partial(api.new_runtime, host_code=False)
    with pytest.raises(MissingRuntimeError) as caught:
        start(trt, LogWithLastMessage(said))
    assert said in str(caught.value)
    assert remedy in str(caught.value)
    assert ("driver" in str(caught.value).rpartition(";")[2]) == ("driver" in remedy or "doctor" in remedy)


def test_networks_are_strongly_typed_where_the_version_has_that():
    made = {}
    for version in VERSIONS:
        builder = Recorder(version, "Builder", {"create_network": lambda flags: flags})
        trt = Module(version)
        flags = trt.NetworkDefinitionCreationFlag
        wanted = flags.EXPLICIT_BATCH if version == "8.6" else flags.STRONGLY_TYPED
        made[version] = api.new_network(trt, builder) == 1 << int(wanted)
    assert made == dict.fromkeys(VERSIONS, True)


@pytest.mark.parametrize("version", VERSIONS)
def test_precision_flags_are_set_only_where_typing_is_weak_and_only_as_the_file_has_it(version):
    weak = version == "8.6"
    assert flags_of(configured(version, "fp32")[0])["set_flag"] == set()
    assert flags_of(configured(version, "fp32", "fp16")[0])["set_flag"] == ({"FP16"} if weak else set())
    assert flags_of(configured(version, "fp32", "int8")[0])["set_flag"] == ({"INT8"} if weak else set())
    assert flags_of(configured("8.6", "int8", "fp16")[0])["set_flag"] == {"INT8", "FP16"}
    assert flags_of(configured("8.6", "bf16")[0])["set_flag"] == set()  # it has no such flag


@pytest.mark.parametrize("version", VERSIONS)
def test_tf32_is_off_unless_asked_for(version):
    assert "TF32" in flags_of(configured(version, "fp32")[0])["clear_flag"]
    assert "TF32" in flags_of(configured(version, "fp32", tf32=True)[0])["set_flag"]


@pytest.mark.parametrize("version", VERSIONS)
def test_workspace_level_and_portability_reach_the_builder(version):
    config, _ = configured(
        version, workspace_mib=7, optimisation_level=1, version_compatible=True, hardware_compatible="ampere+"
    )
    assert ("set_memory_pool_limit", "WORKSPACE", 7 << 20) in config.calls
    assert config.values["builder_optimization_level"] == 1
    assert config.values["hardware_compatibility_level"] == "AMPERE_PLUS"
    assert config.values["profiling_verbosity"] == "DETAILED"
    assert "VERSION_COMPATIBLE" in flags_of(config)["set_flag"]


def test_hardware_that_a_version_cannot_build_for_is_an_error_that_says_what_it_can():
    with pytest.raises(UsageError, match=r"8\.6\.0 cannot build for 'same-capability'.*'ampere\+'"):
        configured("8.6", hardware_compatible="same-capability")
    config, _ = configured("11.4", hardware_compatible="same-capability")
    assert config.values["hardware_compatibility_level"] == "SAME_COMPUTE_CAPABILITY"


def test_memory_that_follows_the_shape_and_shared_profiles_are_asked_for():
    asked = {v: [c[1] for c in configured(v)[0].calls if c[0] == "set_preview_feature"] for v in VERSIONS}
    resize = ["RUNTIME_ACTIVATION_RESIZE_10_10"]
    assert asked == {"8.6": ["PROFILE_SHARING_0806"], "10.16": resize, "11.4": resize}


@pytest.mark.parametrize("version", VERSIONS)
def test_profiles_have_the_channels_of_the_model(version):
    _, profile = configured(version, tile=64, small=32)
    assert profile.calls[-1] == ("set_shape", "pixels", (1, 1, 1, 3), (1, 32, 32, 3), (1, 64, 64, 3))


def test_a_profile_that_is_refused_is_named():
    config = Recorder("10.16", "IBuilderConfig", {"add_optimization_profile": lambda profile: -1})
    profile = Recorder("10.16", "IOptimizationProfile")
    answers = {"create_builder_config": lambda: config, "create_optimization_profile": lambda: profile}
    builder = Recorder("10.16", "Builder", answers)
    with pytest.raises(UsageError, match="refuses the profile"):
        api.configure(
            Module("10.16"),
            builder,
            network_of("10.16"),
            BuildOptions(),
            plan_profiles(SPEC, BuildOptions()),
            3,
            {"fp32"},
        )


def test_contexts_get_their_memory_from_us_in_every_version():
    calls = {}
    for version in VERSIONS:
        context = Recorder(version, "IExecutionContext")
        make = dict.fromkeys(
            ("create_execution_context", "create_execution_context_without_device_memory"),
            lambda *a, context=context: context,
        )
        engine = Recorder(version, "ICudaEngine", make)
        assert api.new_context(Module(version), engine, LogWithErrors()) is context
        calls[version] = engine.calls
        assert context.values["nvtx_verbosity"] == "NONE"
    managed = [("create_execution_context", "USER_MANAGED")]
    old = [("create_execution_context_without_device_memory",)]
    assert calls == {"8.6": old, "10.16": managed, "11.4": managed}


def test_memory_follows_the_shape_where_the_version_can_and_the_engine_elsewhere():
    found = {}
    for version in VERSIONS:
        context = Recorder(
            version, "IExecutionContext", {"update_device_memory_size_for_shapes": lambda: 100}
        )
        engine = Recorder(version, "ICudaEngine", {"device_memory_size": 900})
        found[version] = api.memory_needed(engine, context, 0)
    assert found == {"8.6": 900, "10.16": 100, "11.4": 100}


def test_memory_is_given_by_address_and_where_the_version_takes_it_by_size():
    old, new = Recorder("8.6", "IExecutionContext"), Recorder("11.4", "IExecutionContext")
    api.give_memory(old, 4096, 10)
    api.give_memory(new, 4096, 10)
    assert old.values == {"device_memory": 4096}
    assert new.calls == [("set_device_memory", 4096, 10)]


def test_the_profile_is_changed_only_where_it_has_to_be():
    context = Recorder("8.6", "IExecutionContext", {"active_optimization_profile": 1})
    api.set_shape(context, "pixels", (1, 2, 3, 3), 1, 77, LogWithErrors())
    api.set_shape(context, "pixels", (1, 2, 3, 3), 2, 77, LogWithErrors())
    names = [call[0] for call in context.calls]
    assert names == ["set_input_shape", "set_optimization_profile_async", "set_input_shape"]


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("[executionContext.cpp] Error Code 1: Cuda Runtime (out of memory)", OutOfMemoryError),
        (
            "[resizingAllocator.cpp] Requested amount of GPU memory (1 bytes) could not be allocated",
            OutOfMemoryError,
        ),
        ("IExecutionContext::enqueueV3: Error Code 3: API Usage Error", ModelError),
    ],
)
def test_what_tensorrt_says_decides_the_kind_of_error(said, kind):
    context = Recorder("10.16", "IExecutionContext", {"execute_async_v3": lambda stream: False})
    with pytest.raises(kind, match="cannot run the engine") as caught:
        api.execute(context, 5, LogWithErrors(said))
    assert type(caught.value) is kind


def test_a_build_that_runs_out_of_memory_says_what_to_build_instead():
    builder = Recorder("11.4", "Builder", {"build_serialized_network": lambda network, config: None})
    with pytest.raises(OutOfMemoryError, match=r"a smaller --tile$"):
        api.build(builder, None, None, LogWithErrors("[globWriter.cpp] Cuda Runtime (out of memory)"), "net")
    with pytest.raises(ModelError, match=r"Could not find any implementation.*--level 2$"):
        api.build(
            builder, None, None, LogWithErrors("Could not find any implementation for node Conv_0"), "net"
        )


@pytest.mark.parametrize("version", VERSIONS)
def test_an_operator_that_is_lacking_is_named(version):
    answers = {
        "node": lambda: 4,
        "node_name": lambda: "sharpen_1",
        "node_operator": lambda: "Sharpen",
        "desc": lambda: "No importer registered for op: Sharpen",
    }
    error = Recorder(version, "ParserError", answers)
    parser = {"parse": lambda graph: False, "num_errors": 1, "get_error": lambda number: error}
    trt = Module(version)
    trt.OnnxParser = lambda network, logger: Recorder(version, "OnnxParser", parser)
    where = "number 4" if version == "8.6" else "sharpen_1"
    with pytest.raises(
        ModelError, match=f"cannot read net: .*node {where}: .*op: Sharpen.*--backend onnxruntime"
    ):
        api.parse(trt, network_of(version), LogWithErrors(), b"", "net")


def test_a_timing_cache_of_another_machine_is_started_anew():
    given = []

    def use(cache, ignore):
        given.append(cache)
        return cache == b""

    config = Recorder(
        "8.6", "IBuilderConfig", {"create_timing_cache": lambda data: data, "set_timing_cache": use}
    )
    api.use_timing_cache(config, b"foreign")
    assert given == [b"foreign", b""]


def test_a_build_tells_its_steps_where_the_version_can_and_stops_when_told():
    heard, answers = [], iter([True, False])

    def progress(phase, done, steps):
        heard.append((phase, done, steps))
        return next(answers)

    assert api.watch(Module("8.6"), Recorder("8.6", "IBuilderConfig"), progress) is None
    config = Recorder("10.16", "IBuilderConfig")
    api.watch(Module("10.16"), config, progress)
    monitor = config.values["progress_monitor"]
    monitor.phase_start("Tactics", None, 5)
    assert [monitor.step_complete("Tactics", 0), monitor.step_complete("Tactics", 1)] == [True, False]
    monitor.phase_finish("Tactics")
    assert heard == [("Tactics", 1, 5), ("Tactics", 2, 5)]
