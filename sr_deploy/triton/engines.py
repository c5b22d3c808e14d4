"""Plan TensorRT engines in a Triton repository: engines of one model become one model with a file for each
kind of GPU."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from sr_deploy.engines.tensorrt.sidecar import EngineSidecar, read_engine
from sr_deploy.errors import UsageError
from sr_deploy.triton.config import Config
from sr_deploy.triton.plan import SPEC_PARAMETER, ServeOptions, ServePlan, common_fields, served_name

Engine = tuple[bytes, EngineSidecar]
"""An engine file: the serialised plan and its record."""


def plan_engines(paths: Sequence[Path], options: ServeOptions) -> list[ServePlan]:
    """Return one plan for each model, grouped by the SHA-256 of the model the engines were built from.

    Raises ModelError for a damaged engine, UsageError for engines of TensorRT for RTX, and for engines that cannot
    be served as one model.
    """
    groups: dict[str, list[Engine]] = {}
    for path in paths:
        plan, record = read_engine(path)
        if record.machine.runtime != "tensorrt":
            raise UsageError(
                f"{path} is an engine of {record.machine.title}, which Triton has no backend for; build one with "
                "`sr-deploy build --runtime tensorrt`, or serve the ONNX file"
            )
        groups.setdefault(record.model_sha256, []).append((plan, record))
    return [_plan_group(group, options) for group in groups.values()]


def _plan_group(group: Sequence[Engine], options: ServeOptions) -> ServePlan:
    """Return the plan for the engines of one model. Raises UsageError if two are for the same kind of GPU."""
    records = [record for _, record in group]
    first = records[0]
    _require_alike(records)
    files = {_file(record): plan for plan, record in group}
    if len(files) < len(group):
        raise UsageError(
            f"two engines of {first.spec.name} are for the same GPUs; give one engine for each kind of GPU"
        )
    by_capability = {_capability(r): _file(r) for r in records if not _is_hardware_compatible(r)}
    config = Config(
        name=served_name(first.spec.name),
        backend="tensorrt",
        max_batch=min(options.max_batch, *(profile.high[0] for profile in first.profiles)),
        default_file=next((_file(r) for r in records if _is_hardware_compatible(r)), _file(first)),
        files_by_capability=by_capability,
        kind="KIND_GPU",
        profiles=len(first.profiles),
        parameters={
            SPEC_PARAMETER: first.spec.to_json(),
            # Each profile has a context of its own. With this setting a context takes the memory of its profile
            # instead of that of the largest one.
            "execution_context_allocation_strategy": "ON_PROFILE_CHANGE",
        },
        **common_fields(first.spec, _with_fitting_warm_up(options, first), first.pixels, any_size=False),
    )
    return ServePlan(config=config, files=files, notes=tuple(_notes(records)))


def _require_alike(records: Sequence[EngineSidecar]) -> None:
    """Raise UsageError if engines of one model differ in pixels, profiles or the TensorRT version they
    need."""
    first = records[0]
    for record in records[1:]:
        if (record.pixels, record.profiles) != (first.pixels, first.profiles):
            raise UsageError(
                f"the engines of {first.spec.name} were built for different sizes, batches or pixels, but a server offers "
                "them as one model; build them with the same options"
            )
        if record.machine.tensorrt != first.machine.tensorrt and not record.options.version_compatible:
            raise UsageError(
                f"the engines of {first.spec.name} were built with TensorRT {first.machine.tensorrt} and "
                f"{record.machine.tensorrt}, but a server has only one version; build them with the same version"
            )


def _with_fitting_warm_up(options: ServeOptions, record: EngineSidecar) -> ServeOptions:
    """Keep the warm-up sizes that an engine takes; if none is left, use the best of its profiles."""
    rule, profiles = record.spec.size_rule, record.profiles
    sizes = [size for size in options.warm_up if not rule.fixed]
    fitting = tuple(s for s in sizes if any(p.covers((1, *rule.padded(*s))) for p in profiles))
    best = tuple(profile.best[1:] for profile in profiles)
    return replace(options, warm_up=fitting or (best if options.warm_up else ()))


def _is_hardware_compatible(record: EngineSidecar) -> bool:
    """Return whether an engine runs on GPUs of several compute capabilities (built with ampere+)."""
    return record.options.hardware_compatible == "ampere+"


def _capability(record: EngineSidecar) -> str:
    """Return the compute capability, such as "9.0"."""
    return ".".join(map(str, record.machine.capability))


def _file(record: EngineSidecar) -> str:
    """Return the file name of an engine in the repository, such as model-sm90.plan."""
    return (
        "model-ampere-plus.plan"
        if _is_hardware_compatible(record)
        else f"model-sm{_capability(record).replace('.', '')}.plan"
    )


def _notes(records: Sequence[EngineSidecar]) -> Iterator[str]:
    """Yield notes for the person who runs the server."""
    first = records[0]
    largest = max(first.profiles, key=lambda profile: profile.largest_pixels).high
    yield f"the server must have TensorRT {first.machine.tensorrt}; its release notes list the version"
    yield f"pictures may have up to {largest[2]}x{largest[1]} pixels; clients have to tile larger ones"
    if any(record.options.version_compatible for record in records):
        yield "start the server with --backend-config=tensorrt,version-compatible=true, which allows an engine to contain code"
    exact = sorted({r.machine.gpu for r in records if r.options.hardware_compatible == "none"})
    if exact:
        yield f"the engines run only on the kind of GPU they were built on: {', '.join(exact)}"
