"""Prepare a model for a runner: its facts, and its graph with pixel I/O, both cached on disk.

Grafting needs the `onnx` package, whose import alone takes longer than upscaling a small picture. So the
results are kept (`sr_deploy.graph.cache`), and the second start of a model needs no `onnx` at all. Nothing
is run here.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sr_deploy.errors import ModelError, SrDeployError, UsageError
from sr_deploy.graph.cache import LARGEST_MODEL, CacheEntry
from sr_deploy.spec import ModelSpec
from sr_deploy.system.json_values import from_plain, parse_json, to_plain

if TYPE_CHECKING:
    import onnx

_X86 = {"x86_64", "amd64", "x86", "i386", "i686"}
"""Names that systems have for processors with x86's instructions, in lower case."""
_VNNI = {"AVX-512 VNNI", "AVX VNNI"}
"""Instruction sets that add products of int8 in 32 bits."""
EXACT_INT8 = ("session.x64quantprecision", "1")
"""ONNX Runtime's setting against int8 overflow. On x86 without VNNI it adds products of int8 in 16 bits, which
turned white into a third of white. With this setting it makes the weights uint8 first. Where there is VNNI
nothing overflows, and the setting makes a QLinearConv take 2 to 5 times as long (onnxruntime 1.32)."""


@lru_cache(maxsize=1)
def exact_int8_settings() -> dict[str, str]:
    """Return the settings of an ONNX Runtime session that computes int8 exactly on this processor.

    It is `EXACT_INT8` on x86 without VNNI, or if the instruction sets cannot be found out, and nothing elsewhere.
    """
    from sr_deploy.system.cpu import describe_cpu

    cpu = describe_cpu()
    exact_itself = cpu.architecture.lower() not in _X86 or _VNNI.intersection(cpu.features)
    return {} if exact_itself else dict([EXACT_INT8])


def quiet_session(onnxruntime: Any, model: str | bytes, *, optimise: bool) -> Any:
    """Open an ONNX Runtime session on the CPU that prints nothing and keeps no memory between runs.

    `onnxruntime` is the imported module, `model` a path or a file's content. `optimise=False` runs the graph as it
    stands. Raises the runtime's own errors.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False
    for key, value in exact_int8_settings().items():
        options.add_session_config_entry(key, value)
    if not optimise:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(
        model,
        options,
        providers=["CPUExecutionProvider"],
        enable_fallback=0,  # a fallback would try the same again and print about it
    )


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """Facts of a model that are known before it is run."""

    spec: ModelSpec
    max_batch: int | None
    """Largest number of pictures per call; None: any number."""
    peak_per_pixel: float | None
    """Most bytes of results alive at once in a run, per input pixel; None: unknown."""
    bytes_only: bool
    """The file has uint8 pixel I/O itself, and so no float form."""

    def to_json(self) -> str:
        """Return the facts as one line, which `from_json` reads."""
        return json.dumps(to_plain(self, {ModelSpec: ModelSpec.to_json}))

    @classmethod
    def from_json(cls, text: str) -> ModelFacts:
        """Read the text that `to_json` wrote. Raises ValueError, TypeError or ModelError for any
        other text."""
        return from_plain(cls, parse_json(text), "the cache entry", {ModelSpec: ModelSpec.from_json})


class RunnableModel:
    """A model, its facts, and its graph with pixel I/O.

    `model` is the path of an ONNX file, its bytes, or the model itself. `spec` replaces the spec in it;
    then nothing is cached, because the cache is found by the file alone. `facts` and `graph` raise
    ModelError for a model that takes no picture, that has no spec, or whose spec contradicts its graph.
    """

    def __init__(self, model: Path | bytes | onnx.ModelProto, spec: ModelSpec | None = None) -> None:
        self._source, self._spec = model, spec
        self._entry = CacheEntry.of(model) if isinstance(model, Path) and spec is None else None

    @cached_property
    def facts(self) -> ModelFacts:
        """The facts of the model, from the cache if they are there."""
        kept = self._entry.read("json") if self._entry else None
        if kept:
            with suppress(ValueError, TypeError, SrDeployError):
                return ModelFacts.from_json(kept.decode("utf-8"))
        facts = _facts(self._loaded_model, self._spec, self._name)
        self._write_entry("json", facts.to_json().encode("utf-8"))
        return facts

    def graph(
        self,
        dtype: np.dtype[Any],
        *,
        fresh: bool = False,
        for_tensorrt: bool = False,
        planes: bool = False,
    ) -> bytes:
        """Return the serialised graph that takes and gives pixels of `dtype`: uint8, or float32 in 0..1;
        [N, H, W, C].

        With `fresh` it is made again, whatever the cache holds. `for_tensorrt` gives the form with bytes at the
        ports alone (`pixel_io`), `planes` the one that leaves the last shuffle of bytes to the caller. An int8 model is spelled for its runtime (`int8_form`). Raises UsageError
        for the float form of a file that has uint8 pixel I/O itself.
        """
        if dtype != np.uint8 and self.facts.bytes_only:
            raise UsageError(
                f"{self.facts.spec.name} was exported with uint8 pixel I/O and takes 8-bit pictures only; "
                "use a file exported with `--io float`"
            )
        planes = planes and dtype == np.uint8
        form = "-tensorrt" if for_tensorrt else "-planes" if planes else ""
        kind = f"{dtype}{form}.onnx"
        kept = self._entry.read(kind) if self._entry and not fresh else None
        if kept:
            return kept
        from sr_deploy.graph.pixel_io import with_float_io, with_pixel_io

        model, spec = self._spelled_model(for_tensorrt, planes), self.facts.spec
        if dtype == np.uint8:
            grafted = with_pixel_io(model, spec, for_tensorrt=for_tensorrt, planes=planes)
        else:
            grafted = with_float_io(model, spec, for_tensorrt=for_tensorrt)
        made = bytes(grafted.SerializeToString(deterministic=True))
        self._write_entry(kind, made)
        return made

    def _spelled_model(self, for_tensorrt: bool, planes: bool) -> onnx.ModelProto:
        """Return the model; one in int8 in the form that its runtime computes in integers."""
        if self.facts.spec.precision != "int8":
            return self._loaded_model
        from sr_deploy.graph.rewrites.carried import with_carried_picture
        from sr_deploy.graph.rewrites.int8_form import spelled_for_cpu, spelled_for_tensorrt

        if for_tensorrt:
            return spelled_for_tensorrt(self._loaded_model)
        spelled = spelled_for_cpu(self._loaded_model)
        carries = planes and self.facts.spec.value_range == (0.0, 1.0)
        return with_carried_picture(spelled) if carries else spelled

    def read_cached(self, kind: str) -> bytes | None:
        """Return the bytes that `write_cached` kept for this model's file as `kind`; None if there are
        none."""
        return self._entry.read(kind) if self._entry else None

    def write_cached(self, kind: str, data: bytes) -> None:
        """Keep `data`, which a runtime made from the graph, for the next start. `kind` names all that it
        depends on beside the file. Data above the cache's limit, and models that are not cached, are
        skipped."""
        if self._entry and self.is_cached and len(data) <= LARGEST_MODEL:
            self._entry.write(kind, data)

    @property
    def is_cached(self) -> bool:
        """True if something is kept for this model. That is never so for a model in memory, with weights in
        another file, or too large."""
        return self._entry is not None and self._entry.read("json") is not None

    @property
    def _name(self) -> str:
        return str(self._source) if isinstance(self._source, Path) else "the model"

    @cached_property
    def _loaded_model(self) -> onnx.ModelProto:
        """The model itself, read when it is first needed."""
        from sr_deploy.graph.onnx_file import load_model, parse_model, require_embedded

        if isinstance(self._source, Path):
            return load_model(self._source)
        model = parse_model(self._source) if isinstance(self._source, bytes) else self._source
        require_embedded(model)
        return model

    def _write_entry(self, kind: str, data: bytes) -> None:
        """Keep `data` if the whole model is in the file that the cache key is made from.

        A loaded model larger than its file (by more than 1024 bytes) has weights in another file, whose
        changes the key would miss.
        """
        if (
            self._entry
            and len(data) <= LARGEST_MODEL
            and self._loaded_model.ByteSize() <= self._entry.size + 1024
        ):
            self._entry.write(kind, data)


def _facts(model: onnx.ModelProto, spec: ModelSpec | None, name: str) -> ModelFacts:
    """Compute the facts of `model`. Raises ModelError if the spec contradicts the graph."""
    from sr_deploy.graph.footprint import peak_bytes
    from sr_deploy.graph.foreign_ports import with_plain_ports
    from sr_deploy.graph.onnx_file import picture_io, require_spec
    from sr_deploy.graph.pixel_io import has_pixel_io, with_float_io, with_pixel_io

    spec = spec or require_spec(model, name)
    model, plain = with_plain_ports(model, spec)
    _check_ports(model, plain)
    height, width = spec.size_rule.fixed or spec.size_rule.padded(64, 64)
    _check_result_size(model, plain, height, width)
    bytes_only = has_pixel_io(model)
    graph = (with_pixel_io if bytes_only else with_float_io)(model, plain)
    peak = peak_bytes(graph, (1, height, width, spec.channels))
    return ModelFacts(
        spec=spec,
        max_batch=picture_io(model)[0].dims[0],
        peak_per_pixel=peak / (height * width) if peak else None,
        bytes_only=bytes_only,
    )


def _check_ports(model: onnx.ModelProto, spec: ModelSpec) -> None:
    """Raise ModelError if the declared channels or sizes contradict the spec."""
    from sr_deploy.graph.onnx_file import picture_io

    _, *axes = picture_io(model, spec.name)[0].dims
    if spec.layout == "NCHW":
        axes = [*axes[1:], axes[0]]
    height, width, channels = axes
    if channels not in (None, spec.channels):
        raise ModelError(
            f"{spec.name}: the graph takes {channels} channels, its spec says {spec.channels}; "
            "run `sr-deploy stamp` on it again"
        )
    fixed = spec.size_rule.fixed
    # of a net with one fixed axis, the spec fixes both
    if any(size and size != said for size, said in zip((height, width), fixed or (None, None), strict=True)):
        raise ModelError(
            f"{spec.name}: the graph takes {width or 'any'}x{height or 'any'} pixels, its spec says "
            f"{'any size' if fixed is None else f'{fixed[1]}x{fixed[0]}'}; run `sr-deploy stamp` on it again"
        )


def _check_result_size(model: onnx.ModelProto, spec: ModelSpec, height: int, width: int) -> None:
    """Raise ModelError if the output for a picture has another size than the spec says. Sizes come from shape
    inference; where that finds none, only a run can tell."""
    from sr_deploy.graph.footprint import output_shape

    last = spec.layout == "NHWC"
    given = output_shape(
        model, (1, height, width, spec.channels) if last else (1, spec.channels, height, width)
    )
    if given is None or len(given) != 4:
        return
    tall, wide, channels = given[1:] if last else (*given[2:], given[1])
    if (tall, wide, channels) == (height * spec.scale, width * spec.scale, spec.channels):
        return
    found = f"{wide}x{tall} pixels of {channels} channels for {width}x{height} of {spec.channels}"
    if channels == spec.channels and tall % height == 0 and tall * width == wide * height:
        found = f"x{tall // height}"
    raise ModelError(
        f"{spec.name}: its spec says x{spec.scale}, the graph gives {found}; run `sr-deploy stamp --force` on it"
    )
