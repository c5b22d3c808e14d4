"""The sidecar of an engine file, `model.engine.json`, and the decision whether the engine may run here.

An engine ("plan" in TensorRT's words) is machine code of one model for one version of TensorRT and one kind
of GPU, and contains no reliable statement of them. So a sidecar lies beside it: what the engine was made from
and for, and the checksum of its bytes. `require_usable` refuses an engine that does not fit, and says how to
rebuild it. Standard library only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sr_deploy.engines.tensorrt.options import BuildOptions
from sr_deploy.engines.tensorrt.profiles import Profile
from sr_deploy.engines.tensorrt.runtimes import DEFAULT_CAPABILITIES, RTX, RUNTIMES, TENSORRT, Runtime
from sr_deploy.errors import ModelError, SrDeployError
from sr_deploy.spec import ModelSpec
from sr_deploy.system.files import read_bounded, sha256_of
from sr_deploy.system.json_values import LARGEST_JSON, Hooks, from_plain, parse_json, to_plain

SCHEMA = 1
"""Version of the sidecar's format; part of the cache key. Other versions are refused."""
SUFFIX = ".json"
"""Appended to the name of the engine file to name its sidecar."""
_BUILD_COMMAND = "sr-deploy build"
"""The command that the messages recommend."""


@dataclass(frozen=True, kw_only=True)
class BuildMachine:
    """The GPU and the software that an engine depends on, besides the model and the options.

    An engine of TensorRT for RTX depends on no GPU and no driver; see `without_gpu`.
    """

    tensorrt: str
    """Version of TensorRT, or of TensorRT for RTX; for example "8.6.0"."""
    gpu: str
    """Name of the GPU, for example "NVIDIA H100 80GB HBM3"; empty if the engine depends on none."""
    capability: tuple[int, int]
    """Compute capability (major, minor); (0, 0) if the engine depends on no GPU."""
    driver: str
    """Version of the NVIDIA driver, for example "580.159.04"; empty if the engine depends on none."""
    runtime: str = TENSORRT.backend
    """The library: "tensorrt" or "tensorrt-rtx"."""

    @classmethod
    def without_gpu(cls, runtime: Runtime, version: str) -> BuildMachine:
        """Describe what an engine depends on that is built without a GPU: the library alone."""
        return cls(tensorrt=version, gpu="", capability=(0, 0), driver="", runtime=runtime.backend)

    @property
    def title(self) -> str:
        """Name and version of the library for messages: "TensorRT 10.16.1"."""
        return f"{RUNTIMES[self.runtime].product} {self.tensorrt}"

    def __post_init__(self) -> None:
        """Raises ValueError for another library."""
        if self.runtime not in RUNTIMES:
            raise ValueError(f"there is no library {self.runtime!r}")


@dataclass(frozen=True, kw_only=True)
class EngineSidecar:
    """The content of a sidecar. Engine caches and Triton repositories use it too."""

    spec: ModelSpec
    """Spec of the model that the engine was built from."""
    pixels: str
    """Type of input and output: "uint8" or "float32"."""
    model_sha256: str
    """SHA-256 of the model file, in hex."""
    model_name: str
    """Path of the model file, for the command that rebuilds the engine."""
    options: BuildOptions
    """The options of the build."""
    machine: BuildMachine
    """The machine it was built on."""
    profiles: tuple[Profile, ...]
    """The profiles, in the order of their numbers in the engine."""
    plan_sha256: str
    """SHA-256 of the engine file, in hex."""
    plan_size: int
    """Size of the engine file in bytes."""
    precisions: Mapping[str, int] = field(default_factory=dict)
    """Number of layers that compute in each precision, as TensorRT's inspector describes them."""
    build_seconds: float = 0.0
    """Duration of the build."""
    created: str = ""
    """Time of the build in UTC, in ISO 8601."""
    sr_deploy: str = ""
    """Version of sr-deploy that built the engine."""
    schema: int = SCHEMA

    def to_json(self) -> str:
        """Return the sidecar's text: indented, keys sorted. `from_json` reads it back."""
        record = to_plain(self, {ModelSpec: lambda spec: json.loads(spec.to_json())})
        return json.dumps(record, indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> EngineSidecar:
        """Read what `to_json` wrote. Raises ModelError for anything else, or another schema."""
        try:
            record = parse_json(text)
            if record.get("schema") != SCHEMA:
                raise ValueError(f"its schema is {record.get('schema')!r}, this sr-deploy reads {SCHEMA}")
            read_spec: Hooks = {ModelSpec: lambda spec: ModelSpec.from_json(json.dumps(spec))}
            return from_plain(cls, record, hooks=read_spec)
        except (ValueError, AttributeError, SrDeployError) as error:
            raise ModelError(
                f"the sidecar of an engine cannot be used ({error}); build the engine again"
            ) from error


def sidecar_path(engine: Path) -> Path:
    """Return the path of the sidecar of the engine file `engine`."""
    return engine.with_name(engine.name + SUFFIX)


def read_engine(path: Path) -> tuple[bytes, EngineSidecar]:
    """Read the engine file `path` and its sidecar.

    Raises ModelError if either is missing or damaged, or if size or checksum of the engine differ from the
    sidecar.
    """
    try:
        plan = path.read_bytes()
    except OSError as error:
        raise ModelError(
            f"cannot read the engine {path} ({error.strerror or error}); make one with `{_BUILD_COMMAND}`"
        ) from error
    record = read_sidecar(path)
    if len(plan) != record.plan_size or digest(plan) != record.plan_sha256:
        state = "truncated" if len(plan) < record.plan_size else "not the one that its sidecar describes"
        raise ModelError(
            f"the engine {path} is {state} ({len(plan)} bytes, expected {record.plan_size}); copy it again, or "
            f"rebuild it: {rebuild_command(record, path)}"
        )
    return plan, record


def read_sidecar(path: Path) -> EngineSidecar:
    """Read the sidecar of the engine file `path`. Raises ModelError if it is missing or damaged."""
    sidecar = sidecar_path(path)
    try:
        text = read_bounded(sidecar, LARGEST_JSON).decode("utf-8")
    except (OSError, ValueError) as error:
        raise ModelError(
            f"the engine {path} has no sidecar {sidecar.name} beside it, so what it computes is not known; copy both, or "
            f"build it again with `{_BUILD_COMMAND}`"
        ) from error
    return EngineSidecar.from_json(text)


def differences(record: EngineSidecar, here: BuildMachine, model_sha256: str | None = None) -> list[str]:
    """Return why the engine of `record` cannot be used on the machine `here`, one clause per reason.

    Checks model (only if `model_sha256` is given), TensorRT version and GPU. An empty list means that it can
    be used. A different driver alone is no reason.
    """
    built_on, options, reasons = record.machine, record.options, []
    if model_sha256 is not None and model_sha256 != record.model_sha256:
        reasons.append(
            f"it was built from another model ({record.spec.name}, sha256 {record.model_sha256[:12]}, not {model_sha256[:12]})"
        )
    if built_on.runtime != here.runtime:
        # versions and GPUs of different libraries cannot be compared
        return [
            *reasons,
            f"it is an engine of {built_on.title}, this is {here.title}; use --backend {built_on.runtime}",
        ]
    if not _version_matches(built_on.tensorrt, here.tensorrt, options.version_compatible):
        reasons.append(f"it was built with {built_on.title}, this is {here.tensorrt}")
    if built_on.runtime == RTX.backend:
        known = options.capabilities or DEFAULT_CAPABILITIES
        if here.gpu and ".".join(map(str, here.capability)) not in known:
            reasons.append(
                f"it was built for compute capabilities {', '.join(known)}, this is {_gpu_text(here)}"
            )
    elif not _gpu_matches(built_on, here, options.hardware_compatible):
        reasons.append(f"it was built for {_gpu_text(built_on)}, this is {_gpu_text(here)}")
    return reasons


def require_usable(
    record: EngineSidecar, here: BuildMachine, path: Path, model_sha256: str | None = None
) -> None:
    """Raises ModelError if the engine cannot be used `here`, with the reasons and the command that rebuilds it.

    `path` is the engine file. With `model_sha256`, the engine must be of that model.
    """
    if reasons := differences(record, here, model_sha256):
        raise ModelError(
            f"the engine {path} cannot be used: {'; '.join(reasons)}; rebuild it: {rebuild_command(record, path)}"
        )


def rebuild_command(record: EngineSidecar, path: Path) -> str:
    """Return the command that builds the engine `path` again, with the options of the first build."""
    options, defaults = record.options, BuildOptions()
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
        if getattr(options, name) != getattr(defaults, name):
            parts += [flag, str(getattr(options, name))]
    if record.machine.runtime != TENSORRT.backend:
        parts += ["--runtime", record.machine.runtime]
    if options.capabilities:
        parts += ["--capabilities", ",".join(options.capabilities)]
    parts += ["--tf32"] * options.tf32 + ["--version-compatible"] * options.version_compatible
    parts += ["--io", "float"] * (record.pixels == "float32")
    return " ".join(parts)


def engine_key(
    model_sha256: str, pixels: str, options: BuildOptions, machine: BuildMachine, sr_deploy_version: str
) -> str:
    """Return the cache key: 32 hex digits of a hash over everything that the engine depends on.

    The driver is included, although `differences` ignores it.
    """
    parts = {
        "model": model_sha256,
        "pixels": pixels,
        "options": to_plain(options),
        "machine": to_plain(machine),
        "made_by": sr_deploy_version,
        "schema": SCHEMA,
    }
    return digest(json.dumps(parts, sort_keys=True).encode("utf-8"))[:32]


def digest(data: bytes) -> str:
    """SHA-256 of `data`, in hex."""
    return sha256_of(data)


_LATER_MAJOR = {(8, 10), (10, 11)}
"""Pairs of major versions (built, here) between which version-compatible engines run; there are no others. Source:
support matrix of TensorRT 11.4, "Engine Portability"."""


def _version_matches(built: str, here: str, compatible: bool) -> bool:
    """Return whether an engine of TensorRT `built` runs on version `here`.

    A `compatible` one runs on later versions of the same major version, and on one later major version.
    """
    if not compatible:
        return built == here
    old, new = _numbers(built), _numbers(here)
    return old <= new and (old[:1] == new[:1] or (*old[:1], *new[:1]) in _LATER_MAJOR)


def _numbers(version: str) -> tuple[int, ...]:
    """Return the first three numbers of a version: (8, 6, 0) for "8.6.0"."""
    return tuple(int(part) for part in version.split(".")[:3] if part.isdecimal())


def _gpu_matches(built_on: BuildMachine, here: BuildMachine, compatible: str) -> bool:
    """Return whether an engine of the machine `built_on`, `compatible` with some GPUs, runs on that of `here`."""
    if compatible == "ampere+":
        return here.capability >= (8, 0)
    if compatible == "same-capability":
        return here.capability == built_on.capability
    return (built_on.gpu, built_on.capability) == (here.gpu, here.capability)


def _gpu_text(machine: BuildMachine) -> str:
    """Describe a GPU for messages."""
    return f"{machine.gpu} (compute capability {machine.capability[0]}.{machine.capability[1]})"


def _quoted(name: str) -> str:
    """Put a name with spaces in quotes, so that the command can be pasted into a shell."""
    return f'"{name}"' if " " in name else name
