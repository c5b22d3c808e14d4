"""Model repositories for Triton: files, configurations, and equal results to sr-deploy."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from sr_deploy.engines.tensorrt.options import BuildOptions
from sr_deploy.engines.tensorrt.profiles import plan_profiles
from sr_deploy.engines.tensorrt.sidecar import BuildMachine, EngineSidecar, digest, sidecar_path
from sr_deploy.errors import ModelError, OutputError, UsageError
from sr_deploy.graph.onnx_file import save_model
from sr_deploy.models import find_model
from sr_deploy.spec import ModelSpec
from sr_deploy.triton.plan import ServeOptions, served_name
from sr_deploy.triton.repository import write_repository
from sr_deploy.upscale import Upscaler
from tests.triton.triton_schema import parse

Tiny = Callable[[str], Any]


def config(folder: Path) -> Any:
    """Return the configuration in a model's folder, parsed by Triton's schema."""
    return parse((folder / "config.pbtxt").read_text(encoding="ascii"))


@pytest.fixture
def saved(tmp_path: Path, tiny: Tiny) -> Callable[[str], Path]:
    """Write a tiny model as NAME.onnx."""

    def save(name: str) -> Path:
        path = tmp_path / f"{name}.onnx"
        save_model(tiny(name).model, path)
        return path

    return save


def engine(folder: Path, capability: tuple[int, int], **changes: Any) -> Path:
    """Write a file with the record that `sr-deploy build` puts beside an engine. Its bytes are no real engine."""
    options = changes.pop("options", BuildOptions(tile=512, max_batch=4))
    spec = changes.pop("spec", ModelSpec(name="rt-x4", scale=4, halo=10))
    plan = f"engine for {capability} {options.hardware_compatible}".encode()
    fields: dict[str, Any] = {
        "spec": spec,
        "pixels": "uint8",
        "model_sha256": "ab" * 32,
        "model_name": "rt-x4.onnx",
        "options": options,
        "machine": BuildMachine(
            tensorrt="10.13.2", gpu=f"GPU {capability}", capability=capability, driver="580"
        ),
        "profiles": plan_profiles(spec, options),
        "plan_sha256": digest(plan),
        "plan_size": len(plan),
        **changes,
    }
    path = (
        folder / f"{fields['spec'].name}-{capability[0]}{capability[1]}-{options.hardware_compatible}.engine"
    )
    path.write_bytes(plan)
    sidecar_path(path).write_text(EngineSidecar(**fields).to_json(), encoding="utf-8")
    return path


def test_a_bundled_model_is_served_with_pixels_in_and_out(tmp_path: Path) -> None:
    (served,) = write_repository(tmp_path / "repository", [find_model("rt-x4")])
    read = config(served.folder)
    assert served.folder == tmp_path / "repository" / "rt-x4"
    assert (read.name, read.backend) == ("rt-x4", "onnxruntime")
    assert sorted(p.name for p in served.folder.iterdir()) == ["1", "config.pbtxt"]
    assert [p.name for p in (served.folder / "1").iterdir()] == [read.default_model_filename]
    assert ModelSpec.from_json(read.parameters["sr_deploy"].string_value).scale == 4


def test_the_written_model_gives_the_bytes_that_sr_deploy_gives(tmp_path: Path) -> None:
    (served,) = write_repository(tmp_path, [find_model("rt-x4")])
    session = onnxruntime.InferenceSession(
        served.folder / "1" / "model.onnx", providers=["CPUExecutionProvider"]
    )
    pixels = np.random.default_rng(0).integers(0, 256, (2, 17, 23, 3), np.uint8)
    (found,) = session.run(["upscaled"], {"pixels": pixels})
    with Upscaler.open("rt-x4", backend="onnxruntime") as upscaler:
        expected = np.stack([upscaler.upscale_pixels(picture) for picture in pixels])
    np.testing.assert_array_equal(found, expected)


def test_every_kind_of_model_has_ports_that_its_configuration_tells(each_tiny: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    save_model(each_tiny.model, path)
    (served,) = write_repository(tmp_path / "repository", [path])
    session = onnxruntime.InferenceSession(
        served.folder / "1" / "model.onnx", providers=["CPUExecutionProvider"]
    )
    (taken,), (given,) = session.get_inputs(), session.get_outputs()
    read = config(served.folder)
    assert (taken.name, given.name) == (read.input[0].name, read.output[0].name) == ("pixels", "upscaled")
    axes = [-1 if isinstance(axis, str) else axis for axis in taken.shape]
    assert axes == ([-1] if read.max_batch_size else []) + list(read.input[0].dims)
    picture = each_tiny.pictures()[0][:1]
    (result,) = session.run(None, {"pixels": picture})
    wanted = list(read.output[0].dims)
    assert all(axis in (-1, size) for axis, size in zip(wanted, result.shape[-len(wanted) :], strict=True))


def test_a_model_of_one_size_is_warmed_up_with_it_and_says_so(
    saved: Callable[[str], Path], tmp_path: Path
) -> None:
    (served,) = write_repository(tmp_path / "repository", [saved("fixed")])
    read = config(served.folder)
    assert list(read.input[0].dims) == [6, 9, 3]
    assert list(read.output[0].dims) == [12, 18, 3]
    assert [list(sample.inputs["pixels"].dims) for sample in read.model_warmup] == [[6, 9, 3]]
    assert served.notes == ("pictures must have 9x6 pixels; --backend python takes any size",)


def test_a_later_version_stands_beside_the_first(tmp_path: Path) -> None:
    model = find_model("rt-x2")
    write_repository(tmp_path, [model])
    (served,) = write_repository(tmp_path, [model], options=ServeOptions(version=2, keep=2))
    assert sorted(p.name for p in served.folder.iterdir()) == ["1", "2", "config.pbtxt"]
    assert config(served.folder).version_policy.latest.num_versions == 2


def test_a_version_that_is_there_is_replaced_only_where_that_is_asked_for(tmp_path: Path) -> None:
    write_repository(tmp_path, [find_model("rt-x2")])
    before = (tmp_path / "rt-x2" / "1" / "model.onnx").stat().st_mtime_ns
    with pytest.raises(OutputError, match="add --overwrite"):
        write_repository(tmp_path, [find_model("rt-x4"), find_model("rt-x2")])
    assert not (tmp_path / "rt-x4").exists()
    options = ServeOptions(overwrite=True, backend="python")  # the only version may change its backend
    (served,) = write_repository(tmp_path, [find_model("rt-x2")], options=options)
    assert (tmp_path / "rt-x2" / "1" / "model.onnx").stat().st_mtime_ns != before
    assert sorted(p.name for p in (served.folder / "1").iterdir()) == ["model.onnx", "model.py"]
    assert sorted(p.name for p in served.folder.iterdir()) == ["1", "config.pbtxt"]


def test_versions_of_one_model_share_one_backend(tmp_path: Path) -> None:
    write_repository(tmp_path, [find_model("rt-x2")])
    with pytest.raises(OutputError, match="its version 1 uses the backend onnxruntime and this one python"):
        write_repository(tmp_path, [find_model("rt-x2")], options=ServeOptions(version=2, backend="python"))
    assert sorted(p.name for p in (tmp_path / "rt-x2").iterdir()) == ["1", "config.pbtxt"]


def test_an_older_version_is_written_and_said_not_to_be_served(tmp_path: Path) -> None:
    write_repository(tmp_path, [find_model("rt-x2")], options=ServeOptions(version=7))
    (served,) = write_repository(tmp_path, [find_model("rt-x2")])
    assert served.notes == ("version 7 is newer and is served instead",)
    (served,) = write_repository(tmp_path, [find_model("rt-x2")], options=ServeOptions(version=2, keep=2))
    assert served.notes == ()


def test_where_a_write_fails_nothing_is_left_and_what_was_there_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    write_repository(tmp_path, [find_model("rt-x2")])
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match="No space left on device"):
        write_repository(tmp_path, [find_model("rt-x4")])
    with pytest.raises(OutputError, match="No space left on device"):
        write_repository(tmp_path, [find_model("rt-x2")], options=ServeOptions(overwrite=True))
    assert sorted(tmp_path.rglob("*")) == before


def test_two_models_of_one_name_are_refused(tmp_path: Path, saved: Callable[[str], Path]) -> None:
    first = saved("plain")
    second = tmp_path / "other" / "plain.onnx"
    second.parent.mkdir()
    second.write_bytes(first.read_bytes())
    with pytest.raises(UsageError, match="called plain, but clients call a model by its name"):
        write_repository(tmp_path / "repository", [first, second])


def test_a_name_is_made_safe_for_paths_and_urls() -> None:
    assert served_name("My Modell/../ä v2") == "My-Modell-..-v2"
    with pytest.raises(UsageError, match="rename the file"):
        served_name("模型")


def test_a_place_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "repository").write_text("a file")
    with pytest.raises(OutputError):
        write_repository(tmp_path / "repository", [find_model("rt-x2")])


@pytest.mark.parametrize(
    "wrong",
    [
        {"version": 0},
        {"max_batch": 65},
        {"queue_delay": -1},
        {"threads": 0},
        {"max_pixels": 0},
        {"warm_up": ((0, 4),)},
        {"device": "tpu"},
    ],
)
def test_options_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        ServeOptions(**wrong)


def test_threads_and_the_search_of_convolutions_are_set(tmp_path: Path) -> None:
    options = ServeOptions(threads=3, device="gpu", instances=2)
    (served,) = write_repository(tmp_path, [find_model("rt-x2")], options=options)
    read = config(served.folder)
    assert read.parameters["intra_op_thread_count"].string_value == "3"
    assert read.parameters["cudnn_conv_algo_search"].string_value == "1"
    assert (read.instance_group[0].kind, read.instance_group[0].count) == (read.instance_group[0].KIND_GPU, 2)


def test_engines_for_several_gpus_become_one_model(tmp_path: Path) -> None:
    engines = [engine(tmp_path, (9, 0)), engine(tmp_path, (8, 9))]
    (served,) = write_repository(tmp_path / "repository", engines=engines)
    read = config(served.folder)
    assert (read.name, read.backend, read.max_batch_size) == ("rt-x4", "tensorrt", 4)
    assert dict(read.cc_model_filenames) == {"9.0": "model-sm90.plan", "8.9": "model-sm89.plan"}
    for name in read.cc_model_filenames.values():
        assert (served.folder / "1" / name).read_bytes().startswith(b"engine for")
    assert list(read.instance_group[0].profile) == ["0", "1"]
    assert "512x512" in " ".join(served.notes)
    assert "TensorRT 10.13.2" in served.notes[0]


def test_an_engine_for_any_gpu_since_ampere_is_for_those_that_have_none_of_their_own(tmp_path: Path) -> None:
    general = BuildOptions(tile=512, max_batch=4, hardware_compatible="ampere+")
    engines = [engine(tmp_path, (9, 0)), engine(tmp_path, (8, 0), options=general)]
    (served,) = write_repository(tmp_path / "repository", engines=engines)
    read = config(served.folder)
    assert read.default_model_filename == "model-ampere-plus.plan"
    assert dict(read.cc_model_filenames) == {"9.0": "model-sm90.plan"}


def test_engines_that_cannot_stand_for_each_other_are_refused(tmp_path: Path) -> None:
    one = engine(tmp_path, (9, 0))
    other = engine(tmp_path, (8, 9), options=BuildOptions(tile=1024, max_batch=4))
    with pytest.raises(UsageError, match="build them with the same options"):
        write_repository(tmp_path / "repository", engines=[one, other])
    newer = BuildMachine(tensorrt="11.0.0", gpu="GPU", capability=(8, 9), driver="580")
    other = engine(tmp_path, (8, 9), machine=newer)
    with pytest.raises(UsageError, match=r"TensorRT 10\.13\.2 and 11\.0\.0"):
        write_repository(tmp_path / "repository", engines=[one, other])
    with pytest.raises(UsageError, match="for the same GPUs"):
        write_repository(tmp_path / "repository", engines=[one, one])


def test_a_damaged_engine_is_refused(tmp_path: Path) -> None:
    path = engine(tmp_path, (9, 0))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ModelError, match="truncated"):
        write_repository(tmp_path / "repository", engines=[path])
    assert not (tmp_path / "repository").exists()


def test_only_sizes_that_an_engine_takes_are_warmed_up(tmp_path: Path) -> None:
    options = ServeOptions(warm_up=((256, 256), (2000, 2000)))
    (served,) = write_repository(tmp_path / "repository", engines=[engine(tmp_path, (9, 0))], options=options)
    assert served.config.warm_up == ((256, 256),)
    options = ServeOptions(warm_up=((2000, 2000),), overwrite=True)
    (served,) = write_repository(tmp_path / "repository", engines=[engine(tmp_path, (9, 0))], options=options)
    assert served.config.warm_up == ((256, 256),)  # the best size of its profile


def test_the_record_in_a_configuration_is_json(tmp_path: Path) -> None:
    (served,) = write_repository(tmp_path, [find_model("rt-x2")])
    assert json.loads(config(served.folder).parameters["sr_deploy"].string_value)["scale"] == 2
