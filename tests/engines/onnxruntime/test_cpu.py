"""The ONNX Runtime engine: pixels in the caller's arrays, several threads, and errors in our own words."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import FrozenInstanceError

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sr_deploy.engines.base import Engine
from sr_deploy.engines.onnxruntime import session
from sr_deploy.engines.onnxruntime.cpu import OnnxRuntimeEngine, OnnxRuntimeOptions
from sr_deploy.engines.onnxruntime.session import CPU, CUDA, session_options
from sr_deploy.engines.registry import AUTO, BACKENDS, available_backends, choose_backend, open_engine
from sr_deploy.errors import MissingRuntimeError, ModelError, OutOfMemoryError, UsageError
from sr_deploy.graph.onnx_file import save_model, write_spec
from sr_deploy.graph.pixel_io import with_pixel_io
from sr_deploy.graph.runnable import EXACT_INT8
from sr_deploy.graph.session import open_session
from sr_deploy.precision.half import to_fp16
from sr_deploy.precision.quantise import to_int8
from sr_deploy.spec import ModelSpec, SizeRule

SPEC = ModelSpec(name="net", scale=2, halo=0)


def custom(nodes, weights=None, spec: ModelSpec = SPEC, axes=("n", 3, "h", "w")) -> onnx.ModelProto:
    """Build a model of hand-written nodes from `pixels` to `upscaled`."""
    taken = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, axes)
    given = helper.make_tensor_value_info("upscaled", TensorProto.FLOAT, [None] * 4)
    tensors = [numpy_helper.from_array(np.asarray(v), k) for k, v in (weights or {}).items()]
    graph = helper.make_graph(nodes, "g", [taken], [given], tensors)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.example", 1)]
    return write_spec(helper.make_model(graph, opset_imports=opsets, ir_version=8), spec)


def hidden_shape(source: str, target: str) -> list[onnx.NodeProto]:
    """Return nodes that copy a picture (of values other than 0) through a list whose length inference
    cannot know."""
    return [
        helper.make_node("Shape", [source], ["shape"]),
        helper.make_node("Abs", [source], ["positive"]),
        helper.make_node("NonZero", ["positive"], ["places"]),
        helper.make_node("Transpose", ["places"], ["listed"], perm=[1, 0]),
        helper.make_node("GatherND", [source, "listed"], ["values"]),
        helper.make_node("Abs", ["shape"], ["reshaped"]),
        helper.make_node("Reshape", ["values", "reshaped"], [target]),
    ]


def test_it_runs_every_model_from_a_path_bytes_or_in_memory(each_tiny, tmp_path):
    path = tmp_path / "größer.onnx"
    save_model(each_tiny.model, path)
    for source in (path, path.read_bytes(), each_tiny.model):
        with OnnxRuntimeEngine(source) as engine:
            assert isinstance(engine, Engine)
            assert engine.spec == each_tiny.spec
            each_tiny.check(engine.run)


def test_it_runs_half_precision(tiny):
    plain = tiny("plain")
    plain.tolerance = 4e-3
    with OnnxRuntimeEngine(to_fp16(plain.model)) as engine:
        assert engine.spec.precision == "fp16"
        plain.check(engine.run)


def test_the_result_is_written_into_the_callers_array(tiny):
    plain = tiny("plain")
    with OnnxRuntimeEngine(plain.model) as engine:
        for picture in plain.pictures():
            for pixels in (picture, picture / np.float32(255)):
                expected = engine.run(pixels)
                out = np.full_like(expected, 77)
                assert engine.run(pixels, out) is out
                np.testing.assert_array_equal(out, expected)


def test_a_view_of_a_picture_need_not_be_copied_first(tiny):
    plain, picture = tiny("plain"), np.random.default_rng(1).integers(0, 256, (1, 20, 30, 3), np.uint8)
    picture.flags.writeable = False
    with OnnxRuntimeEngine(plain.model) as engine:
        tile = picture[:, 3:11, 5:25]
        np.testing.assert_array_equal(engine.run(tile), engine.run(tile.copy()))
        flipped = picture[:, ::-1]
        np.testing.assert_array_equal(engine.run(flipped), engine.run(flipped.copy()))


def test_a_picture_may_be_upscaled_onto_itself(tiny):
    model = tiny("as-is")
    picture = np.random.default_rng(1).integers(0, 256, (1, 9, 8, 3), np.uint8)
    with OnnxRuntimeEngine(model.model) as engine:
        expected = engine.run(picture)
        np.testing.assert_array_equal(engine.run(picture, picture), expected)


def test_nothing_is_kept_between_calls(tiny):
    plain = tiny("plain")
    with OnnxRuntimeEngine(plain.model) as engine:
        first = engine.run(plain.pictures(1)[2])
        kept = first.copy()
        engine.run(plain.pictures(2)[2])
        np.testing.assert_array_equal(first, kept)


def test_threads_share_an_engine(tiny):
    plain = tiny("plain")
    rng = np.random.default_rng(3)
    pictures = [rng.integers(0, 256, (1, 5 + i % 7, 9 + i % 5, 3), np.uint8) for i in range(40)]
    pictures = [p if i % 3 else p / np.float32(255) for i, p in enumerate(pictures)]
    with OnnxRuntimeEngine(plain.model, OnnxRuntimeOptions(threads=1)) as alone:
        expected = [alone.run(p) for p in pictures]
    with OnnxRuntimeEngine(plain.model) as engine, ThreadPoolExecutor(8) as pool:
        for result, wanted in zip(pool.map(engine.run, pictures), expected, strict=True):
            np.testing.assert_allclose(result, wanted, atol=1e-6)


def test_a_closed_engine_says_so(tiny):
    plain = tiny("plain")
    engine = OnnxRuntimeEngine(plain.model)
    engine.run(plain.pictures()[0])
    engine.close()
    engine.close()
    with pytest.raises(UsageError, match="closed"):
        engine.run(plain.pictures()[0])


@pytest.mark.parametrize(
    "options",
    [
        OnnxRuntimeOptions(memory_arena=False),
        OnnxRuntimeOptions(spinning=False, threads=2),
        OnnxRuntimeOptions(graph_optimisation="none"),
        OnnxRuntimeOptions(session_config={"session.set_denormal_as_zero": "1"}),
    ],
)
def test_options_change_how_and_not_what(tiny, options):
    plain = tiny("plain")
    with OnnxRuntimeEngine(plain.model, options) as engine:
        plain.check(engine.run)


def test_options_are_values_and_are_checked():
    with pytest.raises(FrozenInstanceError):
        OnnxRuntimeOptions().threads = 3
    with pytest.raises(UsageError, match="threads must be at least 1, got 0"):
        OnnxRuntimeOptions(threads=0)
    with pytest.raises(UsageError, match="at least one execution provider"):
        OnnxRuntimeOptions(providers=())


def test_int8_does_not_overflow_where_the_processor_would_let_it(monkeypatch):
    """On x86 without VNNI two products of int8 are added in 16 bits; these products are the largest
    possible."""
    signs = np.where(np.arange(12) % 2, -0.3, 0.3).astype(np.float32)
    weights = np.repeat(signs, 3).reshape(12, 3, 1, 1)
    nodes = [
        helper.make_node("Conv", ["pixels", "first"], ["features"]),
        helper.make_node(
            "Conv", ["features", "second"], ["detail"]
        ),  # lets the result of the first one be quantised
        helper.make_node("DepthToSpace", ["detail"], ["upscaled"], blocksize=2, mode="CRD"),
    ]
    model = custom(nodes, {"first": weights, "second": np.eye(12, dtype=np.float32)[..., None, None]})
    small = to_int8(model, {"pixels": 1.0, "features": 1.0})
    white = np.ones((1, 9, 8, 3), np.float32)
    with OnnxRuntimeEngine(model) as exact, OnnxRuntimeEngine(small) as engine:
        expected = exact.run(white)
        assert np.allclose(engine.run(white), expected, atol=0.02)
    monkeypatch.setattr(session, "exact_int8_settings", lambda: dict([EXACT_INT8]))  # as without VNNI
    assert session_options(OnnxRuntimeOptions()).get_session_config_entry(EXACT_INT8[0]) == "1"
    with OnnxRuntimeEngine(small) as engine:
        assert np.allclose(engine.run(white), expected, atol=0.02)


def test_memory_is_planned_by_size_on_gpus_alone():
    assert not session_options(OnnxRuntimeOptions()).enable_mem_pattern
    assert session_options(OnnxRuntimeOptions(providers=(CUDA, CPU))).enable_mem_pattern


def test_a_provider_that_is_not_there_is_never_replaced_silently(tiny):
    options = OnnxRuntimeOptions(providers=("NoSuchExecutionProvider", "CPUExecutionProvider"))
    with pytest.raises(
        MissingRuntimeError,
        match=r'NoSuch.*this ONNX Runtime has.*pip install "sr-deploy\[onnxruntime-gpu\]"$',
    ):
        OnnxRuntimeEngine(tiny("plain").model, options)


def test_without_onnx_runtime_the_error_ends_in_the_install_line(tiny, monkeypatch):
    for runtime in ("onnxruntime", "openvino"):
        monkeypatch.setitem(sys.modules, runtime, None)
    with pytest.raises(MissingRuntimeError, match=r'pip install "sr-deploy\[cpu\]"$'):
        OnnxRuntimeEngine(tiny("plain").model)
    reasons = available_backends()
    assert reasons["nearest"] is None
    assert reasons["onnxruntime"].endswith('pip install "sr-deploy[cpu]"')
    with pytest.raises(
        MissingRuntimeError, match=r'no backend can run here: .*pip install "sr-deploy\[cpu\]"'
    ):
        choose_backend(AUTO)


def test_shapes_and_types_it_does_not_take_are_refused(tiny):
    with OnnxRuntimeEngine(tiny("plain").model) as engine:
        for wrong in (
            np.zeros((4, 4, 3), np.uint8),
            np.zeros((1, 4, 4, 1), np.uint8),
            np.zeros((1, 4, 4, 3)),
        ):
            with pytest.raises(UsageError, match="plain: expected"):
                engine.run(wrong)
        picture = np.zeros((1, 4, 4, 3), np.uint8)
        locked = np.zeros((1, 8, 8, 3), np.uint8)
        locked.flags.writeable = False
        for out in (np.zeros((1, 8, 9, 3), np.uint8), np.zeros((1, 8, 8, 3), np.float32), locked):
            with pytest.raises(UsageError, match="out must be a writable C-contiguous uint8 array"):
                engine.run(picture, out)


def test_a_fixed_size_is_the_only_one_it_takes(tiny):
    fixed = tiny("fixed")
    with OnnxRuntimeEngine(fixed.model) as engine:
        with pytest.raises(UsageError, match="cannot take 5x6 pixels"):
            engine.run(np.zeros((1, 6, 5, 3), np.uint8))
        assert engine.limits.bytes_per_pixel > 0


def test_a_batch_of_one_is_a_limit():
    model = custom(
        [helper.make_node("Resize", ["pixels", "", "s"], ["upscaled"], mode="nearest")],
        {"s": np.array([1, 1, 2, 2], np.float32)},
        axes=(1, 3, "h", "w"),
    )
    with OnnxRuntimeEngine(model) as engine:
        assert engine.limits.max_batch == 1
        assert engine.run(np.zeros((1, 4, 4, 3), np.uint8)).shape == (1, 8, 8, 3)
        with pytest.raises(UsageError, match="2 pictures in one call, this engine takes 1"):
            engine.run(np.zeros((2, 4, 4, 3), np.uint8))


def test_a_model_with_pixel_io_runs_bytes_and_says_that_it_takes_no_floats(tiny):
    plain = tiny("plain")
    with OnnxRuntimeEngine(with_pixel_io(plain.model)) as engine:
        plain.check_uint8(engine.run)
        with pytest.raises(UsageError, match=r"plain was exported with uint8 pixel I/O.*--io float"):
            engine.run(plain.pictures()[0] / np.float32(255))


def test_a_model_without_a_record_names_the_command_that_makes_one(tiny, tmp_path):
    plain, path = tiny("plain"), tmp_path / "foreign.onnx"
    del plain.model.metadata_props[:]
    save_model(plain.model, path)
    with pytest.raises(ModelError, match=r"foreign\.onnx has no sr_deploy spec.*`sr-deploy stamp`"):
        OnnxRuntimeEngine(path)
    with OnnxRuntimeEngine(path, spec=plain.spec) as engine:
        plain.check(engine.run)


@pytest.mark.parametrize(
    ("name", "changes", "says"),
    [
        ("plain", {"channels": 1}, "takes 3 channels, its spec says 1"),
        ("plain", {"layout": "NHWC"}, "sr-deploy stamp"),
        ("fixed", {"size_rule": SizeRule()}, "takes 9x6 pixels, its spec says any size"),
        ("fixed", {"size_rule": SizeRule(fixed=(9, 6))}, "takes 9x6 pixels, its spec says 6x9"),
    ],
)
def test_a_record_that_contradicts_the_graph_is_refused_before_anything_runs(tiny, name, changes, says):
    model = tiny(name)
    with pytest.raises(ModelError, match=says):
        OnnxRuntimeEngine(write_spec(model.model, model.spec.with_(**changes)))


def test_a_wrong_scale_that_the_graph_does_not_tell_is_found_when_it_runs(tiny, capfd):
    plain = tiny("plain")
    last = next(node for node in plain.model.graph.node if node.output[0] == "upscaled")
    last.output[0] = "shaped"
    plain.model.graph.node.extend(hidden_shape("shaped", "upscaled"))
    write_spec(plain.model, plain.spec.with_(scale=4))
    with (
        OnnxRuntimeEngine(plain.model) as engine,
        pytest.raises(ModelError, match="cannot run plain on 1x1 pixels"),
    ):
        engine.run(plain.pictures()[0])
    assert capfd.readouterr() == ("", "")


def test_an_operator_the_runtime_lacks_is_named_in_one_line(capfd):
    model = custom([helper.make_node("Mystery", ["pixels"], ["upscaled"], domain="com.example")])
    with OnnxRuntimeEngine(model) as engine:
        assert engine.limits.bytes_per_pixel is None
        with pytest.raises(ModelError, match=r"cannot load net: .*Mystery") as caught:
            engine.run(np.zeros((1, 4, 4, 3), np.uint8))
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("arena", [True, False])
def test_work_that_does_not_fit_is_our_out_of_memory_error(arena, capfd):
    """A tensor inside the graph takes a quarter of an exabyte."""
    nodes = [
        helper.make_node("Expand", ["pixels", "shape"], ["vast"]),
        helper.make_node("ReduceMax", ["vast"], ["small"], axes=[1], keepdims=1),
        helper.make_node("Concat", ["small"] * 3, ["upscaled"], axis=1),
    ]
    spec = SPEC.with_(scale=1)
    model = custom(nodes, {"shape": np.array([1, 2**56, 1, 1])}, spec, axes=("n", 3, "h", "w"))
    model.graph.node.insert(0, helper.make_node("ReduceMax", ["pixels"], ["grey"], axes=[1], keepdims=1))
    model.graph.node[1].input[0] = "grey"
    says = "net: 4x4 pixels at once do not fit into memory"
    engine = OnnxRuntimeEngine(model, OnnxRuntimeOptions(memory_arena=arena))
    with engine, pytest.raises(OutOfMemoryError, match=says):
        engine.run(np.zeros((1, 4, 4, 3), np.uint8))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("name", "channels_alive"), [("plain", 12 + 12), ("grey", 16 + 16)])
def test_what_a_pixel_costs_follows_from_the_net(tiny, name, channels_alive):
    with OnnxRuntimeEngine(tiny(name).model) as engine:
        cost = engine.limits.bytes_per_pixel
    assert channels_alive * 4 < cost < 2 * channels_alive * 4


def test_engines_are_opened_by_the_name_of_their_backend(tiny, tmp_path):
    plain, path = tiny("plain"), tmp_path / "net.onnx"
    save_model(plain.model, path)
    for backend in (AUTO, "onnxruntime"):
        with open_engine(str(path), backend, threads=1) as engine:
            assert engine.backend == "onnxruntime"
            assert engine.options.threads == 1
            plain.check(engine.run)
    options = OnnxRuntimeOptions(spinning=True)
    with open_engine(path, "onnxruntime", options=options) as engine:
        assert engine.options is options
    with open_engine(path, "nearest") as engine:
        assert (engine.backend, engine.spec.scale) == ("nearest", 2)


def test_an_unknown_backend_names_the_near_ones(tiny):
    with pytest.raises(UsageError, match="no backend 'onxruntime'; did you mean 'onnxruntime'"):
        open_engine(tiny("plain").model, "onxruntime")
    with pytest.raises(UsageError, match=r"choose one of auto, onnxruntime, .*nearest"):
        open_engine(tiny("plain").model, "zzz")


def test_options_that_are_not_the_backends_own_are_refused(tiny):
    model = tiny("plain").model
    with pytest.raises(UsageError, match="takes OnnxRuntimeOptions, got dict"):
        open_engine(model, "onnxruntime", options={"threads": 2})
    with pytest.raises(UsageError, match="takes no options"):
        open_engine(model, "nearest", options=OnnxRuntimeOptions())
    with pytest.raises(UsageError, match="either threads or options"):
        open_engine(model, threads=1, options=OnnxRuntimeOptions())


def test_listing_the_backends_imports_none_of_them():
    code = "import sys, sr_deploy.engines.registry as e; print(len(e.BACKENDS), 'onnx' in sys.modules, 'onnxruntime' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == [str(len(BACKENDS)), "False", "False"]


def test_without_a_runtime_probing_ends_in_an_install_line_for_every_shell(tiny, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingRuntimeError, match=r'pip install "sr-deploy\[cpu\]"$'):
        open_session(tiny("plain").model, "net")
