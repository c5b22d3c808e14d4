"""A model as a runner takes it: its facts, and its graph with pixel I/O, kept on disk once made.

Grafting needs the `onnx` package, whose import alone takes longer than upscaling a small picture. So what was
made of a file is kept (`sr_deploy.graph.cache`): the second start of a model needs no `onnx` at all. This module
runs nothing.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sr_deploy.errors import ModelError, SrDeployError, UsageError
from sr_deploy.graph.cache import LARGEST_MODEL, CacheEntry
from sr_deploy.spec import ModelSpec

if TYPE_CHECKING:
    import onnx

EXACT_INT8 = ("session.x64quantprecision", "1")
"""ONNX Runtime's switch against overflow, for every session: on x86 without VNNI it adds products of int8 in 16 bits, which
gave white as a third of white. With this it makes the weights uint8 there first."""


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """What is known of a model before it is run."""

    spec: ModelSpec
    max_batch: int | None
    """Pictures in one call; None: any number."""
    peak_per_pixel: float | None
    """Bytes of results alive at the worst moment of a run, per input pixel; None: cannot be told."""
    bytes_only: bool
    """The file has uint8 pixel I/O itself, and so no float form."""

    def to_json(self) -> str:
        """One line, read back by `from_json`."""
        return json.dumps(self.__dict__ | {"spec": self.spec.to_json()})

    @classmethod
    def from_json(cls, text: str) -> ModelFacts:
        """Read what `to_json` wrote. Raises ValueError, TypeError or ModelError for anything else."""
        record = json.loads(text)
        return cls(**record | {"spec": ModelSpec.from_json(record["spec"])})


class RunnableModel:
    """`model`: the path of an ONNX file, its bytes, or the model itself. `spec` stands in for its record.

    Raises ModelError for a model that no picture can be run through, that has no record, or whose record
    contradicts its graph.
    """

    def __init__(self, model: Path | bytes | onnx.ModelProto, spec: ModelSpec | None = None) -> None:
        self._source, self._spec = model, spec
        self._entry = CacheEntry.of(model) if isinstance(model, Path) and spec is None else None

    @cached_property
    def facts(self) -> ModelFacts:
        """Of the model; from the cache where they are there."""
        kept = self._entry.read("json") if self._entry else None
        if kept:
            with suppress(ValueError, TypeError, KeyError, SrDeployError):
                return ModelFacts.from_json(kept.decode("utf-8"))
        facts = _facts(self._loaded_model, self._spec, self._name)
        self._write_entry("json", facts.to_json().encode("utf-8"))
        return facts

    def graph(self, dtype: np.dtype[Any], *, fresh: bool = False) -> bytes:
        """The serialised graph that takes and gives pixels of `dtype` [N, H, W, C]: uint8, or float32 0..1.

        `fresh` makes it anew, whatever the cache holds. Raises UsageError for the float form of a file that
        takes bytes itself.
        """
        if dtype != np.uint8 and self.facts.bytes_only:
            raise UsageError(
                f"{self.facts.spec.name} was exported with uint8 pixel I/O and takes 8-bit pictures only; "
                "use a file exported with `--io float`"
            )
        kind = f"{dtype}.onnx"
        kept = self._entry.read(kind) if self._entry and not fresh else None
        if kept:
            return kept
        from sr_deploy.graph.pixel_io import with_float_io, with_pixel_io

        graft = with_pixel_io if dtype == np.uint8 else with_float_io
        made = bytes(graft(self._loaded_model, self.facts.spec).SerializeToString(deterministic=True))
        self._write_entry(kind, made)
        return made

    def read_cached(self, kind: str) -> bytes | None:
        """What `remember` kept of this model's file as `kind`; None where there is nothing."""
        return self._entry.read(kind) if self._entry else None

    def write_cached(self, kind: str, data: bytes) -> None:
        """Keep `data`, which a runtime made of the graph, for the next start. `kind` names what it depends on
        beside the file."""
        if self._entry and self.is_cached and len(data) <= LARGEST_MODEL:
            self._entry.write(kind, data)

    @property
    def is_cached(self) -> bool:
        """Whether anything is kept of this model: not of one in memory, with weights in another file, or too large."""
        return self._entry is not None and self._entry.read("json") is not None

    @property
    def _name(self) -> str:
        return str(self._source) if isinstance(self._source, Path) else "the model"

    @cached_property
    def _loaded_model(self) -> onnx.ModelProto:
        from sr_deploy.graph.onnx_file import load_model, parse_model, require_embedded

        if isinstance(self._source, Path):
            return load_model(self._source)
        model = parse_model(self._source) if isinstance(self._source, bytes) else self._source
        require_embedded(model)
        return model

    def _write_entry(self, kind: str, data: bytes) -> None:
        # weights in a file beside the model are not part of the key
        if (
            self._entry
            and len(data) <= LARGEST_MODEL
            and self._loaded_model.ByteSize() <= self._entry.size + 1024
        ):
            self._entry.write(kind, data)


def _facts(model: onnx.ModelProto, spec: ModelSpec | None, name: str) -> ModelFacts:
    from sr_deploy.graph.footprint import peak_bytes
    from sr_deploy.graph.onnx_file import picture_io, require_spec
    from sr_deploy.graph.pixel_io import has_pixel_io, with_float_io, with_pixel_io

    spec = spec or require_spec(model, name)
    _check_ports(model, spec)
    height, width = spec.size_rule.fixed or spec.size_rule.padded(64, 64)
    _check_result_size(model, spec, height, width)
    bytes_only = has_pixel_io(model)
    graph = (with_pixel_io if bytes_only else with_float_io)(model, spec)
    peak = peak_bytes(graph, (1, height, width, spec.channels))
    return ModelFacts(
        spec=spec,
        max_batch=picture_io(model)[0].dims[0],
        peak_per_pixel=peak / (height * width) if peak else None,
        bytes_only=bytes_only,
    )


def _check_ports(model: onnx.ModelProto, spec: ModelSpec) -> None:
    """Raises ModelError where the record contradicts the graph."""
    from sr_deploy.graph.onnx_file import picture_io

    _, *axes = picture_io(model, spec.name)[0].dims
    if spec.layout == "NCHW":
        axes = [*axes[1:], axes[0]]
    height, width, channels = axes
    if channels not in (None, spec.channels):
        raise ModelError(
            f"{spec.name}: the graph takes {channels} channels, its record says {spec.channels}; "
            "run `sr-deploy stamp` on it again"
        )
    fixed = spec.size_rule.fixed
    if (height, width) != (fixed or (None, None)) and (height or width):
        raise ModelError(
            f"{spec.name}: the graph takes {width or 'any'}x{height or 'any'} pixels, its record says "
            f"{'any size' if fixed is None else f'{fixed[1]}x{fixed[0]}'}; run `sr-deploy stamp` on it again"
        )


def _check_result_size(model: onnx.ModelProto, spec: ModelSpec, height: int, width: int) -> None:
    """Raises ModelError where `model` plainly makes of a picture other than what its record says."""
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
        f"{spec.name}: its record says x{spec.scale}, the graph gives {found}; run `sr-deploy stamp --force` on it"
    )
