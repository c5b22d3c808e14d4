"""The OpenVINO engine: pixels in the caller's arrays, several threads, and errors in our own words."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import FrozenInstanceError
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sr_deploy.engines.base import Engine
from sr_deploy.engines.registry import open_engine
from sr_deploy.errors import MissingRuntimeError, ModelError, UsageError
from sr_deploy.graph.cache import cache_folder
from sr_deploy.graph.onnx_file import save_model, write_spec
from sr_deploy.graph.pixel_io import with_pixel_io
from sr_deploy.precision.half import to_bf16, to_fp16
from sr_deploy.precision.quantise import quantised_inputs, to_int8
from sr_deploy.spec import ModelSpec, SizeRule
from sr_deploy.upscale import Upscaler

pytest.importorskip("openvino", reason="OpenVINO is not installed")
from sr_deploy.engines.openvino.engine import OpenVinoEngine, OpenVinoOptions, check_bf16, computes_in

SPEC = ModelSpec(name="net", scale=2, halo=0)


def needs_bf16() -> None:
    try:
        check_bf16()
    except MissingRuntimeError as error:
        pytest.skip(str(error))


def custom(nodes, weights=None, spec: ModelSpec = SPEC) -> onnx.ModelProto:
    """Build a model of hand-written nodes from `pixels` to `upscaled`."""
    taken = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ("n", 3, "h", "w"))
    given = helper.make_tensor_value_info("upscaled", TensorProto.FLOAT, [None] * 4)
    tensors = [numpy_helper.from_array(np.asarray(v), k) for k, v in (weights or {}).items()]
    graph = helper.make_graph(nodes, "g", [taken], [given], tensors)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.example", 1)]
    return write_spec(helper.make_model(graph, opset_imports=opsets, ir_version=8), spec)


def test_it_runs_every_model_from_a_path_bytes_or_in_memory(each_tiny, tmp_path):
    path = tmp_path / "größer.onnx"
    save_model(each_tiny.model, path)
    for source in (path, path.read_bytes(), each_tiny.model):
        with OpenVinoEngine(source) as engine:
            assert isinstance(engine, Engine)
            assert engine.spec == each_tiny.spec
            each_tiny.check(engine.run)


def test_the_second_start_takes_the_compiled_model_from_the_cache(tiny, tmp_path, monkeypatch):
    path = tmp_path / "net.onnx"
    save_model(tiny("plain").model, path)
    for _ in range(2):
        with OpenVinoEngine(path) as engine:
            tiny("plain").check(engine.run)
        monkeypatch.setattr(OpenVinoEngine, "_compile", lambda *_: pytest.fail("it was compiled again"))


def test_a_damaged_entry_of_the_cache_is_made_again(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("SR_DEPLOY_CACHE", str(tmp_path / "cache"))
    path, plain = tmp_path / "net.onnx", tiny("plain")
    save_model(plain.model, path)
    with OpenVinoEngine(path) as engine:
        plain.check_uint8(engine.run)
    entries = list(cache_folder().glob("*.openvino"))
    assert entries
    for entry in entries:
        entry.write_bytes(entry.read_bytes()[:-9])
    with OpenVinoEngine(path) as engine:
        plain.check_uint8(engine.run)


def test_a_runtime_that_exports_bytes_is_cached_too(tiny, tmp_path, monkeypatch):
    """OpenVINO 2025.0 gives bytes, later versions a BytesIO."""
    monkeypatch.setenv("SR_DEPLOY_CACHE", str(tmp_path / "cache"))
    compile_it = OpenVinoEngine._compile

    class Old(_Watched):
        def export_model(self) -> bytes:
            exported = self._model.export_model()
            return exported if isinstance(exported, bytes) else exported.getvalue()

    monkeypatch.setattr(OpenVinoEngine, "_compile", lambda *given: Old(compile_it(*given), []))
    path, plain = tmp_path / "net.onnx", tiny("plain")
    save_model(plain.model, path)
    with OpenVinoEngine(path) as engine:
        plain.check_uint8(engine.run)
    monkeypatch.setattr(OpenVinoEngine, "_compile", lambda *_: pytest.fail("it was compiled again"))
    with OpenVinoEngine(path) as engine:
        plain.check_uint8(engine.run)


def test_the_cache_can_be_left_alone(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("SR_DEPLOY_CACHE", str(tmp_path / "cache"))
    path, plain = tmp_path / "net.onnx", tiny("plain")
    save_model(plain.model, path)
    with OpenVinoEngine(path, OpenVinoOptions(cache=False)) as engine:
        plain.check_uint8(engine.run)
    assert not list(cache_folder().glob("*.openvino"))


def test_the_result_is_written_into_the_callers_array_and_nothing_is_kept(tiny):
    plain = tiny("plain")
    with OpenVinoEngine(plain.model) as engine:
        for picture in plain.pictures():
            for pixels in (picture, picture / np.float32(255)):
                expected = engine.run(pixels)
                kept = expected.copy()
                out = np.full_like(expected, 77)
                assert engine.run(pixels, out) is out
                np.testing.assert_array_equal(out, expected)
                engine.run(pixels[:, ::-1])
                np.testing.assert_array_equal(expected, kept)


def test_views_and_locked_arrays_are_read_as_they_are(tiny):
    picture = np.random.default_rng(1).integers(0, 256, (1, 20, 30, 3), np.uint8)
    picture.flags.writeable = False
    with OpenVinoEngine(tiny("plain").model) as engine:
        for view in (picture, picture[:, 3:11, 5:25], picture[:, ::-1]):
            np.testing.assert_array_equal(engine.run(view), engine.run(view.copy()))


def test_a_picture_may_be_upscaled_onto_itself(tiny):
    picture = np.random.default_rng(1).integers(0, 256, (1, 9, 8, 3), np.uint8)
    with OpenVinoEngine(tiny("as-is").model) as engine:
        expected = engine.run(picture)
        np.testing.assert_array_equal(engine.run(picture, picture), expected)


def test_threads_share_an_engine_and_get_the_bytes_of_one(tiny):
    rng = np.random.default_rng(3)
    pictures = [rng.integers(0, 256, (1, 5 + i % 7, 9 + i % 5, 3), np.uint8) for i in range(40)]
    with OpenVinoEngine(tiny("plain").model) as engine, ThreadPoolExecutor(8) as pool:
        expected = [engine.run(p) for p in pictures]
        for result, wanted in zip(pool.map(engine.run, pictures), expected, strict=True):
            np.testing.assert_array_equal(result, wanted)


def test_tiles_and_the_whole_picture_are_the_same(tiny):
    picture = np.random.default_rng(4).integers(0, 256, (53, 71, 3), np.uint8)
    with OpenVinoEngine(tiny("plain").model) as engine:
        whole = Upscaler(engine, tile=None).upscale_pixels(picture)
        tiled = Upscaler(engine, tile=16).upscale_pixels(picture)
    assert np.abs(whole.astype(int) - tiled).max() <= 1


def test_memory_is_given_back_before_a_much_smaller_picture(tiny):
    released = []
    with OpenVinoEngine(tiny("plain").model) as engine:
        engine.run(np.zeros((1, 64, 64, 3), np.uint8))
        compiled = engine._compiled[np.dtype(np.uint8)]
        real, compiled._model = compiled._model, _Watched(compiled._model, released)
        engine.run(np.zeros((1, 48, 64, 3), np.uint8))
        assert not released
        engine.run(np.zeros((1, 8, 8, 3), np.uint8))
        assert released == [True]
        compiled._model = real


class _Watched:
    """A compiled model that records when it gives memory back."""

    def __init__(self, model, released) -> None:
        self._model, self._released = model, released

    def __getattr__(self, name):
        return getattr(self._model, name)

    def release_memory(self) -> None:
        self._released.append(True)
        self._model.release_memory()


@pytest.mark.parametrize("name", ["plain", "convolved", "nhwc", "scalars"])
def test_a_bf16_file_is_computed_in_bf16_and_a_half_precision_one_runs(tiny, name):
    needs_bf16()
    model = tiny(name)
    for made, precision, tolerance in ((to_bf16, "bf16", 3e-2), (to_fp16, "fp16", 4e-3)):
        model.tolerance = tolerance
        with OpenVinoEngine(made(tiny(name).model)) as engine:
            assert engine.spec.precision == precision
            assert precision != "bf16" or engine.computes_in == "bf16"
            model.check(engine.run)


def test_an_int8_file_is_computed_in_int8(tiny):
    plain = tiny("plain")
    ranges = dict.fromkeys(quantised_inputs(plain.model).values(), 3.0)
    plain.tolerance = 0.2
    with OpenVinoEngine(to_int8(plain.model, ranges)) as engine:
        plain.check(engine.run)
        graph = engine._compiled[np.dtype(np.uint8)]._model.get_runtime_model()
    kinds = {str(op.get_rt_info()["runtimePrecision"].astype(str)) for op in graph.get_ops()}
    assert kinds & {"i8", "u8"}


def test_a_file_that_says_int8_and_is_not_is_refused(tiny):
    plain = tiny("plain")
    write_spec(plain.model, plain.spec.with_(precision="int8"))
    with (
        OpenVinoEngine(plain.model) as engine,
        pytest.raises(ModelError, match="computes none of its 2 convolutions"),
    ):
        engine.run(plain.pictures()[0])


@pytest.mark.parametrize(
    ("precision", "asked", "capabilities", "computed"),
    [
        ("fp32", None, ("FP32", "BF16"), "fp32"),
        ("fp32", "bf16", ("FP32", "BF16"), "bf16"),
        ("bf16", None, ("FP32", "BF16"), "bf16"),
        ("bf16", "fp32", ("FP32",), "fp32"),
        ("int8", None, ("FP32", "BF16", "INT8"), "bf16"),
        ("int8", None, ("FP32", "INT8"), "fp32"),
        ("fp16", None, ("FP32", "FP16"), "fp16"),
        ("fp16", None, ("FP32", "BF16"), "fp32"),
    ],
)
def test_what_is_computed_in_follows_from_the_file_and_the_processor(
    precision, asked, capabilities, computed
):
    spec = SPEC.with_(precision=precision)
    assert computes_in(spec, OpenVinoOptions(precision=asked), capabilities) == computed


@pytest.mark.parametrize(("precision", "asked"), [("bf16", None), ("fp32", "bf16")])
def test_bf16_on_a_processor_without_it_is_an_error(precision, asked):
    with pytest.raises(
        MissingRuntimeError, match="bf16 was asked for, this processor computes in FP32, INT8; use"
    ):
        computes_in(SPEC.with_(precision=precision), OpenVinoOptions(precision=asked), ("FP32", "INT8"))


def test_options_are_values_and_are_checked(tiny):
    with pytest.raises(FrozenInstanceError):
        OpenVinoOptions().threads = 3
    with pytest.raises(UsageError, match="threads must be at least 1, got 0"):
        OpenVinoOptions(threads=0)
    with pytest.raises(UsageError, match="precision must be fp32, bf16 or None, got 'int4'"):
        OpenVinoOptions(precision="int4")
    with pytest.raises(UsageError, match="takes OpenVinoOptions, got dict"):
        open_engine(tiny("plain").model, "openvino", options={"threads": 2})
    with open_engine(tiny("plain").model, "openvino", threads=1) as engine:
        assert engine.options.threads == 1


def test_a_closed_engine_says_so(tiny):
    plain = tiny("plain")
    engine = OpenVinoEngine(plain.model)
    engine.run(plain.pictures()[0])
    engine.close()
    engine.close()
    with pytest.raises(UsageError, match="closed"):
        engine.run(plain.pictures()[0])


def test_shapes_and_types_it_does_not_take_are_refused(tiny):
    with OpenVinoEngine(tiny("plain").model) as engine:
        for wrong in (
            np.zeros((4, 4, 3), np.uint8),
            np.zeros((1, 4, 4, 1), np.uint8),
            np.zeros((1, 4, 4, 3)),
        ):
            with pytest.raises(UsageError, match="plain: expected"):
                engine.run(wrong)
        with pytest.raises(UsageError, match="out must be a writable C-contiguous uint8 array"):
            engine.run(np.zeros((1, 4, 4, 3), np.uint8), np.zeros((1, 8, 9, 3), np.uint8))


def test_a_model_with_pixel_io_runs_bytes_and_says_that_it_takes_no_floats(tiny):
    plain = tiny("plain")
    with OpenVinoEngine(with_pixel_io(plain.model)) as engine:
        plain.check_uint8(engine.run)
        with pytest.raises(UsageError, match=r"plain was exported with uint8 pixel I/O.*--io float"):
            engine.run(plain.pictures()[0] / np.float32(255))


def test_without_openvino_the_error_ends_in_the_install_line(tiny, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingRuntimeError, match=r'pip install "sr-deploy\[openvino\]"$'):
        OpenVinoEngine(tiny("plain").model)


def test_an_operator_the_runtime_lacks_is_named_in_one_line(capfd):
    model = custom([helper.make_node("Mystery", ["pixels"], ["upscaled"], domain="com.example")])
    with (
        OpenVinoEngine(model) as engine,
        pytest.raises(ModelError, match=r"cannot load net: .*Mystery") as caught,
    ):
        engine.run(np.zeros((1, 4, 4, 3), np.uint8))
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(sys.platform != "linux", reason="limits a process's memory as Linux does")
def test_work_that_does_not_fit_is_our_out_of_memory_error(tmp_path):
    """A tensor inside the graph takes 4 GiB, in a process that may have 3 GiB; without that limit the
    system would promise the memory."""
    nodes = [
        helper.make_node("ReduceMax", ["pixels"], ["grey"], axes=[1], keepdims=1),
        helper.make_node("Expand", ["grey", "shape"], ["vast"]),
        helper.make_node("ReduceMax", ["vast"], ["small"], axes=[1], keepdims=1),
        helper.make_node("Concat", ["small"] * 3, ["upscaled"], axis=1),
    ]
    model = custom(nodes, {"shape": np.array([1, 2**26, 1, 1])}, SPEC.with_(scale=1))
    save_model(model, tmp_path / "net.onnx")
    code = (
        "import resource, sys, numpy as np; resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))\n"
        "from pathlib import Path; from sr_deploy.engines.openvino.engine import OpenVinoEngine\n"
        "from sr_deploy.errors import OutOfMemoryError\n"
        "try: OpenVinoEngine(Path(sys.argv[1])).run(np.zeros((1, 4, 4, 3), np.uint8))\n"
        "except OutOfMemoryError as error: print(error)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "net.onnx")]
    result = subprocess.run(command, capture_output=True, encoding="utf-8")
    assert result.stdout == "net: 4x4 pixels at once do not fit into memory; use smaller tiles\n", (
        result.stderr
    )
    assert result.stderr == ""


def test_what_a_pixel_costs_follows_from_the_net(tiny):
    with OpenVinoEngine(tiny("plain").model) as engine:
        assert (12 + 12) * 4 < engine.limits.bytes_per_pixel < 2 * (12 + 12) * 4


def test_its_own_file_is_all_it_reads(tiny, tmp_path):
    """The model is opened by a path that is text."""
    path = tmp_path / "net.onnx"
    save_model(tiny("plain").model, path)
    with open_engine(str(Path(path)), "openvino") as engine:
        tiny("plain").check_uint8(engine.run)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signal stacks")
def test_a_signal_after_another_thread_let_the_last_engine_go_finds_its_stack():
    program = """
import gc, signal, threading
import numpy as np
from sr_deploy.engines.registry import open_engine
from sr_deploy.models import find_model
engines = [open_engine(find_model("rt-x4"), "openvino")]
engines[0].run(np.zeros((1, 16, 16, 3), np.uint8))
def let_go():
    engines.clear()
    gc.collect()
thread = threading.Thread(target=let_go)
thread.start()
thread.join()
signal.signal(signal.SIGINT, lambda number, frame: print("heard"))
signal.raise_signal(signal.SIGINT)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, "heard\n"), result.stderr


@pytest.mark.parametrize("pixels", [np.uint8, np.float32])
def test_the_pictures_own_way_around_a_bf16_net_is_computed_in_fp32(pixels):
    needs_bf16()
    generator = np.random.default_rng(8)
    weights = {
        "body": generator.standard_normal((4, 3, 3, 3)).astype(np.float32),
        "head": np.zeros((3, 4, 3, 3), np.float32),  # so that the result is the skip path alone
        "around": generator.random((3, 3, 3, 3)).astype(np.float32) / 27,
        "rim": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
    }
    nodes = [
        helper.make_node("Conv", ["pixels", "body"], ["features"], name="a", pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["features", "head"], ["detail"], name="b", pads=[1, 1, 1, 1]),
        helper.make_node("Pad", ["pixels", "rim"], ["larger"], name="p", mode="edge"),
        helper.make_node("Conv", ["larger", "around"], ["picture"], name="c"),
        helper.make_node("Add", ["detail", "picture"], ["upscaled"], name="d"),
    ]
    model = custom(nodes, weights, ModelSpec(name="net", scale=1, halo=2))
    pictures = generator.random((1, 12, 13, 3), np.float32)
    if pixels == np.uint8:
        pictures = (pictures * 255).round().astype(np.uint8)
    with OpenVinoEngine(model) as exact, OpenVinoEngine(to_bf16(model)) as engine:
        assert engine.computes_in == "bf16"
        # in bf16 the error would be 1/256
        np.testing.assert_allclose(engine.run(pictures), exact.run(pictures), rtol=0, atol=1e-6)


def too_bright(fixed: bool, ports: str) -> onnx.ModelProto:
    """A net whose values go from -2 to 3, far outside of what bytes hold. `ports` is "float", "quantised" or "cast"."""
    weights = {"five": np.float32(5), "two": np.float32(2), "step": np.float32(1 / 255), "zero": np.uint8(0)}
    nodes = [helper.make_node("Concat", ["detail"] * 4, ["four"], axis=1)]
    if ports == "float":
        nodes.append(helper.make_node("DepthToSpace", ["four"], ["upscaled"], blocksize=2, mode="DCR"))
        source = "pixels"
    else:
        nodes.insert(0, helper.make_node("DequantizeLinear", ["pixels", "step", "zero"], ["source"]))
        nodes.append(helper.make_node("DepthToSpace", ["four"], ["large"], blocksize=2, mode="DCR"))
        source = "source"
    if ports == "quantised":
        nodes.append(helper.make_node("QuantizeLinear", ["large", "step", "zero"], ["upscaled"]))
    if ports == "cast":
        weights |= {"black": np.float32(0), "white": np.float32(255)}
        nodes += [
            helper.make_node("Div", ["large", "step"], ["steps"]),
            helper.make_node("Round", ["steps"], ["whole"]),
            helper.make_node("Clip", ["whole", "black", "white"], ["clipped"]),
            helper.make_node("Cast", ["clipped"], ["upscaled"], to=TensorProto.UINT8),
        ]
    at = 0 if ports == "float" else 1
    nodes[at:at] = [
        helper.make_node("Mul", [source, "five"], ["scaled"]),
        helper.make_node("Sub", ["scaled", "two"], ["detail"]),
    ]
    rule = SizeRule(fixed=(6, 8)) if fixed else SizeRule()
    model = custom(nodes, weights, SPEC.with_(size_rule=rule))
    kind = TensorProto.FLOAT if ports == "float" else TensorProto.UINT8
    sizes = ([1, 3, 6, 8], [1, 3, 12, 16]) if fixed else (["n", 3, "h", "w"], [None] * 4)
    for port, dims in zip((model.graph.input[0], model.graph.output[0]), sizes, strict=True):
        port.CopyFrom(helper.make_tensor_value_info(port.name, kind, dims))
    return model if ports == "float" else write_spec(model, SPEC.with_(size_rule=rule, value_range=(0, 255)))


@pytest.mark.parametrize("ports", ["float", "quantised", "cast", "exported"])
@pytest.mark.parametrize("fixed", [True, False], ids=["fixed", "any size"])
def test_values_beyond_black_and_white_are_clamped_and_never_wrap(fixed, ports):
    """OpenVINO's conversion to bytes wraps on fixed sizes and saturates on symbolic ones."""
    picture = np.arange(6 * 8 * 3, dtype=np.uint8).reshape(1, 6, 8, 3)
    model = with_pixel_io(too_bright(fixed, "float")) if ports == "exported" else too_bright(fixed, ports)
    expected = np.clip(np.rint(picture.repeat(2, 1).repeat(2, 2) * 5.0 - 510), 0, 255)
    with OpenVinoEngine(model) as engine:
        np.testing.assert_allclose(engine.run(picture), expected, atol=1)


def test_threads_that_open_their_first_engine_at_once_do_not_disturb_each_other():
    from concurrent.futures import ThreadPoolExecutor

    from sr_deploy.engines.openvino.engine import _runtime

    with ThreadPoolExecutor(8) as threads:
        runtimes = [call.result() for call in [threads.submit(_runtime) for _ in range(400)]]
    assert {runtime.__name__ for runtime in runtimes} == {"openvino"}
