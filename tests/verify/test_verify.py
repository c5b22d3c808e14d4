"""Forms of a model that compute the same picture pass; a spoiled one fails, and the culprit is named."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sr_deploy.engines.nearest import NearestEngine
from sr_deploy.engines.registry import open_engine
from sr_deploy.errors import CheckFailedError, InputError, MissingRuntimeError, ModelError, UsageError
from sr_deploy.graph.onnx_file import copy_of, load_model, read_spec, write_spec
from sr_deploy.graph.pixel_io import with_pixel_io
from sr_deploy.images.image import Image, write_image
from sr_deploy.models import find_model
from sr_deploy.precision.half import to_fp16
from sr_deploy.precision.quantise import quantised_inputs, to_int8
from sr_deploy.quality.bicubic import imresize
from sr_deploy.quality.dead_leaves import dead_leaves
from sr_deploy.spec import ModelSpec, SizeRule
from sr_deploy.verify.crops import SIZES, TILE, VerifyCrop, cut_crops
from sr_deploy.verify.forms import ModelForm, choose_reference, onnx_form
from sr_deploy.verify.plain import PlainGraph
from sr_deploy.verify.results import VerifiedModel
from sr_deploy.verify.run import verify

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    for seed in (1, 2):
        write_image(Image(pixels=dead_leaves(200, 194, seed=seed)), folder / f"leaves-{seed}.png")
    return folder


def subject(model: onnx.ModelProto, name: str = "model") -> ModelForm:
    return onnx_form(name, model, ["onnxruntime"], lambda backend: open_engine(model, backend))


def verified(
    model: onnx.ModelProto, photographs: Path, *, against: onnx.ModelProto | None = None
) -> VerifiedModel:
    candidate = subject(model, "candidate")
    reference = candidate if against is None else subject(against, "reference")
    crops = cut_crops(photographs, reference.spec)
    (found,) = verify([candidate], reference, crops).models
    return found


def changed(model: onnx.ModelProto, **changes: Callable[[np.ndarray], np.ndarray]) -> onnx.ModelProto:
    """A copy of `model` with some of its weights changed."""
    copied = copy_of(model)
    assert changes.keys() <= {tensor.name for tensor in copied.graph.initializer}
    for tensor in copied.graph.initializer:
        if change := changes.get(tensor.name):
            values = numpy_helper.to_array(tensor)
            copied_values = np.ascontiguousarray(change(values), values.dtype)
            tensor.CopyFrom(numpy_helper.from_array(copied_values, tensor.name))
    return copied


def ending_in(
    model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto], **constants: np.ndarray
) -> onnx.ModelProto:
    """A copy of `model` whose output goes through `nodes`, from "raw" to "upscaled"."""
    copied = copy_of(model)
    for node in copied.graph.node:
        node.output[:] = ["raw" if name == "upscaled" else name for name in node.output]
    copied.graph.node.extend(nodes)
    copied.graph.initializer.extend(numpy_helper.from_array(v, name) for name, v in constants.items())
    return copied


def rgb_net(*, scale: int = 2) -> onnx.ModelProto:
    """A network that really upscales: nearest neighbours in colour, plus a weak 3x3 convolution."""
    rng, depth = np.random.default_rng(3), 3 * scale**2
    around = np.zeros((depth, 3, 1, 1), np.float32)
    around[np.arange(depth), np.arange(depth) // scale**2] = 1
    weights = {
        "w0": rng.normal(0, 0.3, (8, 3, 3, 3)).astype(np.float32),
        "b0": rng.normal(0, 0.1, 8).astype(np.float32),
        "w1": rng.normal(0, 0.02, (depth, 8, 3, 3)).astype(np.float32),
        "around": around,
    }
    nodes = [
        helper.make_node("Conv", ["pixels", "w0", "b0"], ["a"], "first", pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["r"], "relu"),
        helper.make_node("Conv", ["r", "w1"], ["b"], "second", pads=[1] * 4),
        helper.make_node("Conv", ["pixels", "around"], ["c"], "third"),
        helper.make_node("Add", ["b", "c"], ["d"], "sum"),
        helper.make_node("DepthToSpace", ["d"], ["upscaled"], "shuffle", blocksize=scale, mode="CRD"),
    ]
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3, height, width])
        for name, height, width in (("pixels", "h", "w"), ("upscaled", "H", "W"))
    ]
    tensors = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "net", ports[:1], ports[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return write_spec(model, ModelSpec(name="net", scale=scale, halo=2))


def test_every_tiny_model_equals_itself_on_an_engine_whole_and_tiled(each_tiny, photographs):
    found = verified(each_tiny.model, photographs)
    assert found.passed, found.why()
    ways = {(row.path.backend, row.path.how) for row in found.results}
    assert {("graph", "whole"), ("onnxruntime", "whole")} <= ways
    assert (("onnxruntime", "tiled") in ways) == (each_tiny.spec.size_rule.fixed is None)


def test_forms_of_one_net_pass_together(photographs):
    model = rgb_net()
    for form in (to_fp16(model), with_pixel_io(model), with_pixel_io(to_fp16(model))):
        found = verified(form, photographs, against=model)
        assert found.passed, found.why()


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize(("weight", "layer"), [("w0", "first"), ("w1", "second"), ("around", "third")])
def test_a_layer_scaled_by_a_fiftieth_is_named(photographs, weight, layer, precision):
    model = rgb_net()
    spoiled = changed(model, **{weight: lambda values: values * np.float32(1.02)})
    found = verified(to_fp16(spoiled) if precision == "fp16" else spoiled, photographs, against=model)
    assert found.failed
    assert f"'{layer}'" in found.why()
    assert "1.02 times" in found.why()


def in_int8(model: onnx.ModelProto, photographs: Path) -> onnx.ModelProto:
    spec = read_spec(model)
    known = PlainGraph(model, spec).values(cut_crops(photographs, spec)[0].small)
    ranges = {name: float(np.abs(known[name]).max()) for name in quantised_inputs(model).values()}
    return to_int8(model, ranges)


def test_a_quantised_net_passes_and_its_scaled_layer_is_named(photographs):
    model = rgb_net()
    found = verified(in_int8(model, photographs), photographs, against=model)
    assert found.passed, found.why()
    spoiled = changed(model, w0=lambda values: values * np.float32(1.02))
    found = verified(in_int8(spoiled, photographs), photographs, against=model)
    assert found.failed
    assert "Conv 'first'" in found.why()


def test_layers_scaled_so_that_they_make_up_for_each_other_pass(photographs):
    model = rgb_net()
    balanced = changed(
        model, w0=lambda values: values * 4, b0=lambda values: values * 4, w1=lambda values: values / 4
    )
    found = verified(balanced, photographs, against=model)
    assert found.passed, found.why()


def test_another_net_is_called_one(photographs):
    model = rgb_net()
    rng = np.random.default_rng(9)
    other = changed(
        model, **{name: lambda v: v + rng.normal(0, 0.1, v.shape) for name in ("w0", "w1", "around")}
    )
    assert "another checkpoint" in verified(other, photographs, against=model).why()


def swapped_in(values: np.ndarray) -> np.ndarray:
    return values[:, ::-1]


def swapped_out(values: np.ndarray) -> np.ndarray:
    return values.reshape(3, -1, *values.shape[1:])[::-1].reshape(values.shape)


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"w0": swapped_in, "around": swapped_in}, "at the input"),
        ({"w1": swapped_out, "around": swapped_out}, "at the output"),
        (
            {"w0": swapped_in, "w1": swapped_out, "around": lambda v: swapped_out(swapped_in(v))},
            "at the input and at the output",
        ),
    ],
    ids=["in", "out", "both"],
)
def test_swapped_colours_are_told_and_where(photographs, changes, where):
    model = rgb_net()
    found = verified(changed(model, **changes), photographs, against=model)
    assert found.failed
    assert found.culprits == (f"red and blue are swapped {where}",)


def test_a_halo_declared_one_too_small_is_told_with_the_measured_one(photographs):
    model = rgb_net()
    small = write_spec(copy_of(model), ModelSpec(name="net", scale=2, halo=1))
    found = verified(small, photographs, against=model)
    assert found.failed
    assert "declares a halo of 1 pixels, measured is 2" in found.why()


def test_a_halo_larger_than_needed_is_no_failure(photographs):
    model = rgb_net()
    large = write_spec(copy_of(model), ModelSpec(name="net", scale=2, halo=9))
    assert verified(large, photographs, against=model).passed


def overflowing() -> onnx.ModelProto:
    """In fp32 the same as `rgb_net`; in fp16 the first convolution leaves the range."""
    return changed(
        rgb_net(),
        w0=lambda values: values * np.float32(6e4),
        b0=lambda values: values * np.float32(6e4),
        w1=lambda values: values / np.float32(6e4),
    )


@pytest.mark.parametrize("io", ["float", "bytes"])
def test_an_overflow_of_fp16_is_followed_to_the_operator_that_makes_it(photographs, io):
    half = to_fp16(overflowing())
    found = verified(with_pixel_io(half) if io == "bytes" else half, photographs, against=rgb_net())
    assert found.failed
    assert "NaN or infinite values begin at Conv" in found.why()
    assert "first'" in found.why()
    assert "65504" in found.why()


def test_the_overflow_is_found_without_another_file_to_hold_it_to(photographs):
    assert "first'" in verified(to_fp16(overflowing()), photographs).why()


def test_what_overflows_only_in_fp16_is_right_in_fp32(photographs):
    assert verified(overflowing(), photographs, against=rgb_net()).passed


def test_a_mask_of_infinity_is_no_overflow(photographs):
    nodes = [
        helper.make_node("Where", ["never", "infinity", "raw"], ["upscaled"]),
    ]
    masked = ending_in(rgb_net(), nodes, never=np.array(False), infinity=np.array(np.inf, np.float32))
    found = verified(with_pixel_io(masked), photographs, against=rgb_net())
    assert found.passed, found.why()


def test_nan_that_an_activation_hides_is_found_and_its_operator_named(photographs):
    """Runtimes differ in what Relu makes of NaN, so the output cannot tell."""
    model = rgb_net()
    nodes = [
        helper.make_node("Sub", ["raw", "half"], ["below"], "below"),
        helper.make_node("Sqrt", ["below"], ["root"], "root"),
        helper.make_node("Relu", ["root"], ["positive"], "positive"),
        helper.make_node("IsNaN", ["positive"], ["is_nan"], "is_nan"),
        helper.make_node("Where", ["is_nan", "raw", "raw"], ["upscaled"], "where"),
    ]
    broken = ending_in(model, nodes, half=np.float32(0.5))
    found = verified(broken, photographs)
    assert found.failed
    assert "NaN or infinite values begin at Sqrt 'root'" in found.why()
    assert all(r.measured.not_finite for r in found.results if r.path.how == "whole")


def test_the_largest_of_two_sizes_is_no_number_that_could_be_nan(photographs):
    nodes = [
        helper.make_node("Shape", ["raw"], ["size"], "size"),
        helper.make_node("Max", ["size", "size"], ["largest"], "largest"),
        helper.make_node("Reshape", ["raw", "largest"], ["upscaled"], "reshape"),
    ]
    found = verified(ending_in(rgb_net(), nodes), photographs)
    assert found.passed, found.why()


def test_values_that_are_no_numbers_fail_in_fp32_too(photographs):
    nodes = [
        helper.make_node("Sqrt", ["raw"], ["root"], "root"),
        helper.make_node("Mul", ["root", "root"], ["upscaled"]),
    ]
    model = changed(ending_in(rgb_net(), nodes), around=lambda values: values * -1)
    found = verified(model, photographs, against=rgb_net())
    assert found.failed
    assert "Sqrt 'root'" in found.why()


def truncating_floats() -> onnx.ModelProto:
    nodes = [helper.make_node("Sub", ["raw", "half"], ["upscaled"])]
    return ending_in(rgb_net(), nodes, half=np.array(0.5 / 255, np.float32))


def truncating_bytes() -> onnx.ModelProto:
    """Pixel I/O that rounds by a plain cast, as hand-written graphs often do."""
    model = with_pixel_io(rgb_net())
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if node.op_type != "QuantizeLinear":
            nodes.append(node)
            continue
        nodes.append(helper.make_node("Mul", [node.input[0], "white"], ["scaled"]))
        nodes.append(helper.make_node("Clip", ["scaled", "zero", "white"], ["clipped"]))
        nodes.append(helper.make_node("Cast", ["clipped"], [node.output[0]], to=TensorProto.UINT8))
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    constants = {"zero": np.float32(0), "white": np.float32(255)}
    model.graph.initializer.extend(numpy_helper.from_array(np.array(v), n) for n, v in constants.items())
    return model


@pytest.mark.parametrize("make", [truncating_floats, truncating_bytes])
def test_rounding_by_truncation_is_told(photographs, make):
    found = verified(make(), photographs, against=rgb_net())
    assert found.failed
    assert max(row.measured.steps for row in found.results if row.measured) == 1
    assert "rounds by truncation" in found.why()


def test_an_operator_changed_between_two_layers_is_placed_between_them(photographs):
    model = rgb_net()
    copied = copy_of(model)
    next(node for node in copied.graph.node if node.name == "relu").op_type = "Abs"
    why = verified(copied, photographs, against=model).why()
    assert "agree up to Conv 'first'" in why
    assert "look between the two" in why
    assert "at Conv 'second'" in why


def test_an_operator_changed_behind_the_layers_is_placed_there(photographs):
    nodes = [helper.make_node("Mul", ["raw", "half"], ["upscaled"])]
    dark = ending_in(rgb_net(), nodes, half=np.array(0.5, np.float32))
    assert "look at the operators after it" in verified(dark, photographs, against=rgb_net()).why()


@pytest.mark.parametrize("layer", ["body.4.", "around."])
def test_the_bundled_model_passes_and_fails_with_one_layer_scaled(photographs, layer):
    model = load_model(find_model("rt-x4"))
    weight = next(tensor.name for tensor in model.graph.initializer if tensor.name.startswith(layer))
    reference = subject(model, "rt-x4")
    spoiled = subject(changed(model, **{weight: lambda values: values * np.float32(1.02)}), "spoiled")
    crops = cut_crops(photographs, reference.spec)[:6]
    good, bad = verify([reference, spoiled], reference, crops).models
    assert good.passed, good.why()
    assert bad.failed
    assert weight in bad.why()


class ShadedEngine(NearestEngine):
    """Adds 9 steps to pictures narrower than `below`."""

    backend = "shaded"

    def __init__(self, below: int) -> None:
        super().__init__(2)
        self.spec, self.below = self.spec.with_(halo=2), below

    def run(self, batch, out=None):
        result = super().run(batch, out)
        if batch.dtype == np.uint8 and batch.shape[2] < self.below:
            np.copyto(result, np.clip(result.astype(np.int16) + 9, 0, 255), casting="unsafe")
        return result


def nearest_model() -> onnx.ModelProto:
    return changed(rgb_net(), w1=np.zeros_like)


def on_engine(make: Callable[[str], NearestEngine]) -> ModelForm:
    plain = subject(nearest_model())
    return replace(plain, backends=("shaded",), open_engine=make)


def test_an_engine_that_computes_something_else_is_named_and_the_file_is_not(photographs):
    candidate = on_engine(lambda backend: ShadedEngine(below=10_000))
    (found,) = verify([candidate], candidate, cut_crops(photographs, candidate.spec)).models
    assert found.culprits == ("the file itself is right, but shaded computes something else",)


def test_an_engine_that_goes_wrong_in_tiles_only_is_told(photographs):
    candidate = on_engine(lambda backend: ShadedEngine(below=40))
    crops = [crop for crop in cut_crops(photographs, candidate.spec) if crop.small.shape[1] >= 40]
    (found,) = verify([candidate], candidate, crops).models
    assert found.failed
    assert "only tiles differ, on shaded" in found.why()
    tiled = next(row for row in found.results if row.path.how == "tiled")
    assert tiled.measured.seam == 9


def test_a_backend_that_is_not_there_is_not_run_and_nothing_is_claimed_of_it(photographs):
    def open_nothing(backend: str) -> NearestEngine:
        raise MissingRuntimeError("there is no such device; buy one")

    candidate = on_engine(open_nothing)
    (found,) = verify([candidate], candidate, cut_crops(photographs, candidate.spec)).models
    row = next(row for row in found.results if row.path.backend == "shaded")
    assert row.verdict == "not run"
    assert "buy one" in row.not_run
    assert not found.failed


class PickyEngine(NearestEngine):
    """Fails on odd widths."""

    def run(self, batch, out=None):
        if batch.shape[2] % 2 and batch.shape[2] > 2:
            raise ModelError("odd widths are beyond me; give even ones")
        return super().run(batch, out)


def test_an_engine_that_fails_on_some_sizes_has_failed(photographs):
    candidate = on_engine(lambda backend: PickyEngine(2))
    (found,) = verify([candidate], candidate, cut_crops(photographs, candidate.spec)).models
    assert found.failed
    assert "odd widths" in found.why()


class BytesEngine(NearestEngine):
    """Takes bytes only, like an engine file built for bytes."""

    def run(self, batch, out=None):
        if batch.dtype != np.uint8:
            raise UsageError("this engine takes bytes; build one for floats")
        return super().run(batch, out)


def test_nothing_is_claimed_of_numbers_that_cannot_be_seen(photographs):
    candidate = on_engine(lambda backend: BytesEngine(2))
    (found,) = verify([candidate], candidate, cut_crops(photographs, candidate.spec)).models
    row = next(row for row in found.results if row.path.backend == "shaded")
    assert row.verdict == "passed"
    assert row.measured.not_finite is None


def test_models_of_another_scale_cannot_be_held_together(photographs):
    one, other = subject(rgb_net(), "one"), subject(rgb_net(scale=3), "other")
    with pytest.raises(UsageError, match="scale 3"):
        verify([other], one, cut_crops(photographs, one.spec))


def test_a_reference_that_gives_no_numbers_is_refused(photographs):
    broken = subject(changed(rgb_net(), around=lambda values: values * np.nan), "broken")
    with pytest.raises(CheckFailedError, match="broken gives NaN"):
        verify([subject(rgb_net())], broken, cut_crops(photographs, broken.spec))


def test_the_reference_is_the_fp32_file_wherever_it_stands():
    half, full = subject(to_fp16(rgb_net()), "half"), subject(rgb_net(), "full")
    assert choose_reference([half, full]).name == "full"
    assert choose_reference([half]).name == "half"
    compiled = ModelForm(name="plan", spec=half.spec)
    assert choose_reference([compiled, half]).name == "half"
    with pytest.raises(UsageError, match="--against"):
        choose_reference([compiled])


def test_a_compiled_engine_cannot_be_held_to(photographs):
    compiled = ModelForm(name="plan", spec=subject(rgb_net()).spec)
    with pytest.raises(UsageError, match="compiled"):
        verify([subject(rgb_net())], compiled, cut_crops(photographs, compiled.spec))


def sizes(crops: Sequence[VerifyCrop]) -> set[tuple[int, ...]]:
    return {crop.small.shape[:2] for crop in crops}


def test_crops_come_in_all_sizes_and_one_can_be_tiled(photographs):
    spec = ModelSpec(name="net", scale=2, halo=2)
    crops = cut_crops(photographs, spec)
    assert set(SIZES) <= sizes(crops)
    assert max(crop.small.shape[0] for crop in crops) > 2 * (TILE + spec.halo)
    assert cut_crops(photographs, spec)[3].small.tobytes() == crops[3].small.tobytes()


def test_the_small_version_is_the_bit_exact_bicubic_of_the_original(photographs):
    for crop in cut_crops(photographs, ModelSpec(name="net", scale=3, halo=0)):
        height, width = crop.small.shape[:2]
        assert crop.truth.shape == (3 * height, 3 * width, 3)
        np.testing.assert_array_equal(imresize(crop.truth, size=(height, width)), crop.small)


def test_crops_of_a_model_of_one_size_are_no_larger(photographs):
    spec = ModelSpec(name="net", scale=2, halo=2, size_rule=SizeRule(fixed=(20, 30)))
    assert all(h <= 20 and w <= 30 for h, w in sizes(cut_crops(photographs, spec)))


def test_a_grey_picture_serves_a_colour_net_and_16_bits_become_8(tmp_path):
    grey = np.random.default_rng(0).integers(0, 65536, (40, 50, 1), np.uint16)
    write_image(Image(pixels=grey), tmp_path / "grey.png")
    crops = cut_crops(tmp_path, ModelSpec(name="net", scale=2, halo=2))
    assert all(crop.truth.shape[2] == 3 and crop.truth.dtype == np.uint8 for crop in crops)
    assert int(crops[0].truth.max()) > 128


def test_pictures_without_room_for_one_pixel_are_refused(tmp_path):
    write_image(Image(pixels=np.zeros((3, 3, 3), np.uint8)), tmp_path / "dot.png")
    with pytest.raises(InputError, match="give photographs"):
        cut_crops(tmp_path, ModelSpec(name="net", scale=4, halo=2))


def test_the_record_of_a_run_is_strict_json(photographs):
    import json

    one = subject(rgb_net(), "one")
    record = verify([one], one, cut_crops(photographs, one.spec)).record()
    text = json.dumps(record, allow_nan=False)
    assert json.loads(text)["passed"] is True
    assert {leg["backend"] for leg in record["models"][0]["legs"]} == {"graph", "onnxruntime", "file"}


def test_precision_of_the_record_is_what_judges(photographs):
    half = to_fp16(rgb_net())
    assert read_spec(half).precision == "fp16"
    lying = write_spec(half, read_spec(half).with_(precision="fp32"))
    found = verified(changed(lying, w1_fp16=lambda v: v * np.float16(1.05)), photographs, against=rgb_net())
    assert found.failed
