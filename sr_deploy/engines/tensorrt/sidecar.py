"""What lies beside a compiled engine: `model.engine.json`, and whether that engine may run here. Stdlib only.

A compiled engine ("plan") is machine code of one model for one version of TensorRT on one kind of GPU, and says
nothing of it that can be relied on. So it travels with a record: what it was made from, for what, and the checksum
of its bytes. `require_usable` answers an engine that does not fit with what differs and how to rebuild it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from sr_deploy.engines.tensorrt.options import BuildOptions
from sr_deploy.engines.tensorrt.profiles import Profile
from sr_deploy.errors import ModelError, SrDeployError
from sr_deploy.spec import ModelSpec

SCHEMA = 1
SUFFIX = ".json"
_BUILD_COMMAND = "sr-deploy build"


@dataclass(frozen=True, kw_only=True)
class BuildMachine:
    """What an engine depends on beside the model and the options."""

    tensorrt: str
    """Version, as "8.6.0"."""
    gpu: str
    """Name, as "NVIDIA H100 80GB HBM3"."""
    capability: tuple[int, int]
    """Compute capability."""
    driver: str

    def __post_init__(self) -> None:
        major, minor = self.capability
        object.__setattr__(self, "capability", (int(major), int(minor)))


@dataclass(frozen=True, kw_only=True)
class EngineRecord:
    """Of one engine file."""

    spec: ModelSpec
    """Of the model it was built from."""
    pixels: str
    """What goes in and comes out: "uint8" or "float32"."""
    model_sha256: str
    model_name: str
    """The file the model came from, for the command that rebuilds."""
    options: BuildOptions
    machine: BuildMachine
    profiles: tuple[Profile, ...]
    plan_sha256: str
    plan_size: int
    precisions: Mapping[str, int] = field(default_factory=dict)
    """How many layers compute in which type, from TensorRT's own inspector."""
    build_seconds: float = 0.0
    created: str = ""
    """When, in UTC, as ISO 8601 has it."""
    sr_deploy: str = ""
    """The version that built it."""
    schema: int = SCHEMA

    def to_json(self) -> str:
        """Indented, keys sorted; read back by `from_json`."""
        fields = asdict(self) | {
            "spec": json.loads(self.spec.to_json()),
            "options": self.options.to_dict(),
            "profiles": [profile.to_dict() for profile in self.profiles],
            "precisions": dict(self.precisions),
        }
        return json.dumps(fields, indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> EngineRecord:
        """Raises ModelError for anything that `to_json` did not write."""
        try:
            fields = json.loads(text)
            if fields.get("schema") != SCHEMA:
                raise ValueError(f"its schema is {fields.get('schema')!r}, this sr-deploy knows {SCHEMA}")
            return cls(
                **fields
                | {
                    "spec": ModelSpec.from_json(json.dumps(fields["spec"])),
                    "options": BuildOptions.from_dict(fields["options"]),
                    "machine": BuildMachine(**fields["machine"]),
                    "profiles": tuple(Profile.from_dict(values) for values in fields["profiles"]),
                }
            )
        except (ValueError, TypeError, KeyError, AttributeError, SrDeployError) as error:
            raise ModelError(
                f"an engine's record cannot be used ({error}); build the engine again"
            ) from error


def record_path(engine: Path) -> Path:
    """Where the record of the engine file `engine` lies."""
    return engine.with_name(engine.name + SUFFIX)


def read_engine(path: Path) -> tuple[bytes, EngineRecord]:
    """The engine file `path` and its record. Raises ModelError where either is missing, damaged or truncated."""
    try:
        plan = path.read_bytes()
    except OSError as error:
        raise ModelError(
            f"cannot read the engine {path} ({error.strerror or error}); {_BUILD_COMMAND} makes one"
        ) from error
    record = read_record(path)
    if len(plan) != record.plan_size or digest(plan) != record.plan_sha256:
        state = "truncated" if len(plan) < record.plan_size else "not the one its record speaks of"
        raise ModelError(
            f"the engine {path} is {state} ({len(plan)} bytes, expected {record.plan_size}); copy it again, or "
            f"rebuild it: {rebuild_command(record, path)}"
        )
    return plan, record


def read_record(path: Path) -> EngineRecord:
    """The record beside the engine file `path`. Raises ModelError where it is missing or damaged."""
    sidecar = record_path(path)
    try:
        text = sidecar.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ModelError(
            f"the engine {path} has no record {sidecar.name} beside it, so what it computes is not known; copy both, or "
            f"build it again with `{_BUILD_COMMAND}`"
        ) from error
    return EngineRecord.from_json(text)


def differences(record: EngineRecord, here: BuildMachine, model_sha256: str | None = None) -> list[str]:
    """Why the engine of `record` cannot run `here`, one clause each; with `model_sha256`, as that model."""
    there, options, found = record.machine, record.options, []
    if model_sha256 is not None and model_sha256 != record.model_sha256:
        found.append(
            f"it was built from another model ({record.spec.name}, sha256 {record.model_sha256[:12]}, not {model_sha256[:12]})"
        )
    if not _version_matches(there.tensorrt, here.tensorrt, options.version_compatible):
        found.append(f"it was built with TensorRT {there.tensorrt}, this is {here.tensorrt}")
    if not _gpu_matches(there, here, options.hardware_compatible):
        found.append(f"it was built for {_gpu_text(there)}, this is {_gpu_text(here)}")
    return found


def require_usable(
    record: EngineRecord, here: BuildMachine, path: Path, model_sha256: str | None = None
) -> None:
    """Raises ModelError where the engine cannot run `here`, with what differs and the command that rebuilds it."""
    if found := differences(record, here, model_sha256):
        raise ModelError(
            f"the engine {path} cannot be used: {'; '.join(found)}; rebuild it: {rebuild_command(record, path)}"
        )


def rebuild_command(record: EngineRecord, path: Path) -> str:
    """What builds the engine again, with the options it was built with."""
    options, usual = record.options, BuildOptions()
    parts = [_BUILD_COMMAND, _quoted(record.model_name), "-o", _quoted(str(path)), "--overwrite"]
    if options.sizes:
        parts += ["--sizes", ",".join(f"{width}x{height}" for height, width in options.sizes)]
    for name, flag in (
        ("small", "--small"),
        ("tile", "--tile"),
        ("max_batch", "--max-batch"),
        ("workspace_mib", "--workspace"),
        ("optimisation_level", "--level"),
        ("hardware_compatible", "--hardware-compatible"),
    ):
        if getattr(options, name) != getattr(usual, name):
            parts += [flag, str(getattr(options, name))]
    parts += ["--tf32"] * options.tf32 + ["--version-compatible"] * options.version_compatible
    parts += ["--io", "float"] * (record.pixels == "float32")
    return " ".join(parts)


def engine_key(
    model_sha256: str, pixels: str, options: BuildOptions, machine: BuildMachine, sr_deploy_version: str
) -> str:
    """The name an engine is cached under: a hash of everything that what is built depends on."""
    parts = {
        "model": model_sha256,
        "pixels": pixels,
        "options": options.to_dict(),
        "machine": asdict(machine),
        "made_by": sr_deploy_version,
        "schema": SCHEMA,
    }
    return digest(json.dumps(parts, sort_keys=True).encode("utf-8"))[:32]


def digest(data: bytes) -> str:
    """SHA-256, in hex."""
    return hashlib.sha256(data).hexdigest()


def _version_matches(built: str, here: str, compatible: bool) -> bool:
    if not compatible:
        return built == here
    return _numbers(built) <= _numbers(here)  # forward, never backward


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:3] if part.isdecimal())


def _gpu_matches(there: BuildMachine, here: BuildMachine, compatible: str) -> bool:
    if compatible == "ampere+":
        return here.capability >= (8, 0)
    if compatible == "same-capability":
        return here.capability == there.capability
    return (there.gpu, there.capability) == (here.gpu, here.capability)


def _gpu_text(machine: BuildMachine) -> str:
    return f"{machine.gpu} (compute capability {machine.capability[0]}.{machine.capability[1]})"


def _quoted(name: str) -> str:
    return f'"{name}"' if " " in name else name
