"""Tests of sidecars, and of the messages about engines that do not fit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from sr_deploy.engines.tensorrt.options import BuildOptions
from sr_deploy.engines.tensorrt.profiles import plan_profiles
from sr_deploy.engines.tensorrt.runtimes import RTX
from sr_deploy.engines.tensorrt.sidecar import (
    BuildMachine,
    EngineSidecar,
    differences,
    digest,
    engine_key,
    read_engine,
    rebuild_command,
    require_usable,
    sidecar_path,
)
from sr_deploy.errors import ModelError
from sr_deploy.spec import ModelSpec, SizeRule
from sr_deploy.system.json_values import to_plain

PLAN = b"plan" * 100
HERE = BuildMachine(tensorrt="10.16.1", gpu="NVIDIA H100", capability=(9, 0), driver="580.1")


def a_record(**changes) -> EngineSidecar:
    """A sidecar's content for the engine `PLAN`, with `changes`."""
    spec = ModelSpec(
        name="net", scale=4, halo=7, size_rule=SizeRule(multiple_of=2), parameters={"features": 8}
    )
    options = changes.pop("options", BuildOptions(sizes=((1080, 1920),), tile=512, tf32=True))
    fields = {
        "spec": spec,
        "pixels": "uint8",
        "model_sha256": "ab" * 32,
        "model_name": "my net.onnx",
        "options": options,
        "machine": HERE,
        "profiles": plan_profiles(spec, options),
        "plan_sha256": digest(PLAN),
        "plan_size": len(PLAN),
        "precisions": {"fp16": 9},
        "build_seconds": 1.5,
        "created": "2026-01-01T00:00:00+00:00",
        "sr_deploy": "0.1.0",
    }
    return EngineSidecar(**(fields | changes))


def write(path: Path, plan: bytes = PLAN, record: EngineSidecar | None = None) -> Path:
    """Write an engine with its sidecar to `path`."""
    path.write_bytes(plan)
    sidecar_path(path).write_text((record or a_record()).to_json(), encoding="utf-8")
    return path


def test_a_record_survives_json():
    assert EngineSidecar.from_json(a_record().to_json()) == a_record()


def test_a_sidecar_from_before_the_later_fields_is_read_with_their_defaults():
    """Engine files that were built before TensorRT for RTX was supported are engines of TensorRT."""
    record = json.loads(a_record().to_json())
    del record["machine"]["runtime"], record["options"]["capabilities"]
    for later in ("precisions", "build_seconds", "created", "sr_deploy"):
        del record[later]
    read = EngineSidecar.from_json(json.dumps(record))
    assert read.machine == HERE
    assert read.machine.title == "TensorRT 10.16.1"
    assert read.options == a_record().options
    assert (read.options.capabilities, dict(read.precisions), read.created) == ((), {}, "")
    assert differences(read, HERE) == []


@pytest.mark.parametrize(
    "spoil",
    [
        lambda fields: fields.update(schema=2),
        lambda fields: fields.pop("machine"),
        lambda fields: fields["machine"].pop("gpu"),
        lambda fields: fields.update(more=1),
        lambda fields: fields["spec"].update(scale=0),
        lambda fields: fields["options"].update(tile=1),
        lambda fields: fields["profiles"][0].pop("low"),
    ],
)
def test_a_damaged_record_is_refused(spoil):
    fields = json.loads(a_record().to_json())
    spoil(fields)
    with pytest.raises(ModelError, match="sidecar of an engine cannot be used"):
        EngineSidecar.from_json(json.dumps(fields))
    with pytest.raises(ModelError, match="sidecar of an engine cannot be used"):
        EngineSidecar.from_json("[")


def test_an_engine_is_read_with_its_record(tmp_path):
    plan, record = read_engine(write(tmp_path / "ü.engine"))
    assert (plan, record) == (PLAN, a_record())


def test_a_truncated_engine_is_refused_with_the_command_that_rebuilds_it(tmp_path):
    path = write(tmp_path / "net.engine", PLAN[:-5])
    with pytest.raises(ModelError, match=r"truncated.*395 bytes, expected 400.*rebuild it: sr-deploy build"):
        read_engine(path)


def test_another_engine_under_the_record_is_refused(tmp_path):
    path = write(tmp_path / "net.engine", PLAN[::-1])
    with pytest.raises(ModelError, match="not the one that its sidecar describes"):
        read_engine(path)


def test_an_engine_without_its_record_is_refused(tmp_path):
    path = tmp_path / "net.engine"
    path.write_bytes(PLAN)
    with pytest.raises(ModelError, match=r"no sidecar net\.engine\.json beside it"):
        read_engine(path)


def test_an_engine_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(ModelError, match="cannot read the engine"):
        read_engine(tmp_path / "none.engine")


@pytest.mark.parametrize(
    ("here", "said"),
    [
        (replace(HERE, tensorrt="11.4.0"), "TensorRT 10.16.1, this is 11.4.0"),
        (
            replace(HERE, gpu="NVIDIA T4", capability=(7, 5)),
            r"NVIDIA H100 \(compute capability 9.0\), this is NVIDIA T4",
        ),
    ],
)
def test_what_differs_is_said_with_the_command_that_rebuilds(here, said):
    with pytest.raises(ModelError, match=said) as caught:
        require_usable(a_record(), here, Path("net.engine"))
    command = 'sr-deploy build "my net.onnx" -o net.engine --overwrite --sizes 1920x1080 --tile 512 --tf32'
    assert str(caught.value).endswith(command)


def test_another_model_is_refused():
    with pytest.raises(ModelError, match=r"another model.*abababababab, not cdcdcdcdcdcd"):
        require_usable(a_record(), HERE, Path("net.engine"), "cd" * 32)
    require_usable(a_record(), HERE, Path("net.engine"), "ab" * 32)


def test_another_driver_alone_is_no_reason_to_refuse():
    assert differences(a_record(), replace(HERE, driver="590.2")) == []


def test_a_version_compatible_engine_runs_on_later_versions_and_not_on_earlier_ones():
    record = a_record(options=BuildOptions(version_compatible=True))
    assert differences(record, replace(HERE, tensorrt="11.0.0")) == []
    assert differences(record, replace(HERE, tensorrt="10.9.0"))
    assert differences(record, replace(HERE, tensorrt="12.0.0")) == [
        "it was built with TensorRT 10.16.1, this is 12.0.0"
    ]
    old = replace(record, machine=replace(HERE, tensorrt="8.6.1"))
    runs = {
        v: not differences(old, replace(HERE, tensorrt=v)) for v in ("8.6.2", "9.1.0", "10.4.0", "11.0.0")
    }
    assert runs == {"8.6.2": True, "9.1.0": False, "10.4.0": True, "11.0.0": False}


RTX_BUILD = BuildMachine.without_gpu(RTX, "1.7.1.116")
RTX_HERE = BuildMachine(
    tensorrt="1.7.1.116", gpu="NVIDIA RTX 4090", capability=(8, 9), driver="580.1", runtime="tensorrt-rtx"
)


def test_an_engine_of_the_other_runtime_is_told_apart_whatever_its_version():
    made = a_record(machine=RTX_BUILD)
    assert EngineSidecar.from_json(made.to_json()) == made
    (reason,) = differences(made, HERE)
    assert (
        reason
        == "it is an engine of TensorRT for RTX 1.7.1.116, this is TensorRT 10.16.1; use --backend tensorrt-rtx"
    )
    (reason,) = differences(a_record(), RTX_HERE)
    assert (
        reason
        == "it is an engine of TensorRT 10.16.1, this is TensorRT for RTX 1.7.1.116; use --backend tensorrt"
    )
    with pytest.raises(ModelError, match="cannot be used"):
        EngineSidecar.from_json(made.to_json().replace("tensorrt-rtx", "cudnn"))


def test_an_engine_for_rtx_runs_on_every_gpu_of_its_compute_capabilities():
    made = a_record(machine=RTX_BUILD, options=BuildOptions())
    hopper = replace(RTX_HERE, gpu="NVIDIA H200", capability=(9, 0))
    assert differences(made, RTX_HERE) == []
    assert (
        differences(made, replace(RTX_HERE, driver="590.0", gpu="NVIDIA RTX 3060", capability=(8, 6))) == []
    )
    assert "built for compute capabilities 8.0, 8.6" in differences(made, hopper)[0]
    one = a_record(machine=RTX_BUILD, options=BuildOptions(capabilities=("8.6",)))
    assert differences(one, RTX_HERE) == [
        "it was built for compute capabilities 8.6, this is NVIDIA RTX 4090 (compute capability 8.9)"
    ]
    assert differences(made, replace(RTX_HERE, tensorrt="1.8.0.1")) == [
        "it was built with TensorRT for RTX 1.7.1.116, this is 1.8.0.1"
    ]
    command = rebuild_command(one, Path("a.engine"))
    assert command.endswith("--runtime tensorrt-rtx --capabilities 8.6")


def test_hardware_compatible_engines_run_on_the_gpus_they_were_built_for():
    a100 = replace(HERE, gpu="NVIDIA A100", capability=(8, 0))
    t4 = replace(HERE, gpu="NVIDIA T4", capability=(7, 5))
    h200 = replace(HERE, gpu="NVIDIA H200")
    ampere = a_record(options=BuildOptions(hardware_compatible="ampere+"))
    same = a_record(options=BuildOptions(hardware_compatible="same-capability"))
    assert [bool(differences(ampere, gpu)) for gpu in (a100, t4, h200)] == [False, True, False]
    assert [bool(differences(same, gpu)) for gpu in (a100, t4, h200)] == [True, True, False]


def test_the_key_depends_on_everything_that_the_engine_does():
    base = ("ab", "uint8", BuildOptions(), HERE, "0.1")
    others = [
        ("cd", *base[1:]),
        ("ab", "float32", *base[2:]),
        *(("ab", "uint8", options, HERE, "0.1") for options in every_other_option()),
        *(("ab", "uint8", BuildOptions(), replace(HERE, **change), "0.1") for change in (
            {"tensorrt": "1"}, {"runtime": "tensorrt-rtx"}, {"gpu": "x"}, {"capability": (8, 9)}, {"driver": "1"})),
        ("ab", "uint8", BuildOptions(), HERE, "0.2"),
    ]  # fmt: skip
    keys = [engine_key(*parts) for parts in (base, *others)]
    assert len(set(keys)) == len(keys)
    assert engine_key(*base) == keys[0]


def every_other_option() -> list[BuildOptions]:
    """For each field of BuildOptions, options that differ from the default in that field only."""
    changed = {
        "sizes": ((9, 9),),
        "small": 9,
        "tile": 99,
        "max_batch": 2,
        "workspace_mib": 5,
        "optimisation_level": 5,
        "tf32": True,
        "capabilities": ("8.6",),
        "version_compatible": True,
        "hardware_compatible": "ampere+",
    }
    assert set(changed) == set(to_plain(BuildOptions()))
    return [BuildOptions(**{name: value}) for name, value in changed.items()]
