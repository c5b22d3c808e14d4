"""What TensorRT engines of one model become in a repository of Triton: one model, a file for each kind of GPU."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from sr_deploy.engines.tensorrt.sidecar import EngineRecord, read_engine
from sr_deploy.errors import UsageError
from sr_deploy.triton.config import Config
from sr_deploy.triton.plan import SPEC_PARAMETER, ServeOptions, ServePlan, common_fields, served_name

Engine = tuple[bytes, EngineRecord]


def plan_engines(paths: Sequence[Path], options: ServeOptions) -> list[ServePlan]:
    """One plan a model. Raises ModelError for an engine that is damaged, UsageError for those that do not go together."""
    groups: dict[str, list[Engine]] = {}
    for path in paths:
        plan, record = read_engine(path)
        groups.setdefault(record.model_sha256, []).append((plan, record))
    return [_plan_group(group, options) for group in groups.values()]


def _plan_group(group: Sequence[Engine], options: ServeOptions) -> ServePlan:
    records = [record for _, record in group]
    first = records[0]
    _require_alike(records)
    files = {_file(record): plan for plan, record in group}
    if len(files) < len(group):
        raise UsageError(f"two engines of {first.spec.name} are for the same GPUs; give one for each kind")
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
            # a context for each profile, each with the memory its own profile needs
            "execution_context_allocation_strategy": "ON_PROFILE_CHANGE",
        },
        **common_fields(
            first.spec, _with_fitting_warm_up(options, first), first.pixels, None, any_size=False
        ),
    )
    return ServePlan(config=config, files=files, notes=tuple(_notes(records)))


def _require_alike(records: Sequence[EngineRecord]) -> None:
    """Raises UsageError where engines of one model cannot stand for each other."""
    first = records[0]
    for record in records[1:]:
        if (record.pixels, record.profiles) != (first.pixels, first.profiles):
            raise UsageError(
                f"the engines of {first.spec.name} were built for different sizes, batches or pixels, and a server offers "
                "them as one model; build them with the same options"
            )
        if record.machine.tensorrt != first.machine.tensorrt and not record.options.version_compatible:
            raise UsageError(
                f"the engines of {first.spec.name} were built with TensorRT {first.machine.tensorrt} and "
                f"{record.machine.tensorrt}, and a server has one; build them with the same"
            )


def _with_fitting_warm_up(options: ServeOptions, record: EngineRecord) -> ServeOptions:
    """`options` with those sizes to warm up that an engine takes; its own profiles' sizes where none is left."""
    rule, profiles = record.spec.size_rule, record.profiles
    sizes = [size for size in options.warm_up if not rule.fixed]
    fitting = tuple(s for s in sizes if any(p.covers((1, *rule.padded(*s))) for p in profiles))
    best = tuple(profile.best[1:] for profile in profiles)
    return replace(options, warm_up=fitting or (best if options.warm_up else ()))


def _is_hardware_compatible(record: EngineRecord) -> bool:
    """Whether it runs on GPUs of several compute capabilities."""
    return record.options.hardware_compatible == "ampere+"


def _capability(record: EngineRecord) -> str:
    return ".".join(map(str, record.machine.capability))


def _file(record: EngineRecord) -> str:
    """Such as model-sm90.plan."""
    return (
        "model-ampere-plus.plan"
        if _is_hardware_compatible(record)
        else f"model-sm{_capability(record).replace('.', '')}.plan"
    )


def _notes(records: Sequence[EngineRecord]) -> Iterator[str]:
    first = records[0]
    largest = max(first.profiles, key=lambda profile: profile.room).high
    yield f"the server must have TensorRT {first.machine.tensorrt}, which its release notes tell"
    yield f"it takes pictures of up to {largest[2]}x{largest[1]} pixels; clients have to tile larger ones"
    if any(record.options.version_compatible for record in records):
        yield "start the server with --backend-config=tensorrt,version-compatible=true: that lets an engine bring code"
    exact = sorted({r.machine.gpu for r in records if r.options.hardware_compatible == "none"})
    if exact:
        yield f"its engines run on the GPUs they were built on: {', '.join(exact)}"
