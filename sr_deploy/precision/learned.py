"""Ranges for int8 that a training has learnt, kept in the metadata of an ONNX file.

`[[phase]] quantise = "int8"` in a recipe learns them, `export` writes them into the file, and `convert` uses them in
place of ranges measured on photographs. A range belongs to the input of the convolution that reads a weight.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx

from sr_deploy.errors import ModelError
from sr_deploy.graph.onnx_file import copy_of
from sr_deploy.precision.quantise import quantisable, quantised_inputs
from sr_deploy.system.json_values import parse_json

RANGES_KEY = "sr_deploy_ranges"
"""Metadata key of the ONNX file: JSON, name of a weight -> {"range": number, "signed": bool}."""


@dataclass(frozen=True, kw_only=True)
class LearnedRanges:
    """Learned ranges, in the terms of a graph."""

    ranges: Mapping[str, float]
    """Value that is quantised -> magnitude that its last step stands for."""
    unsigned: frozenset[str]
    """Values that are never negative: they have 255 steps from 0."""
    without: frozenset[str]
    """Quantisable convolutions without a learned range, by the names of their results."""


def with_learned_ranges(model: onnx.ModelProto, found: Mapping[str, Any]) -> onnx.ModelProto:
    """Return `model` with the ranges `found` in its metadata: weight -> {"range", "signed"}; nothing for none."""
    if not found:
        return model
    copied = copy_of(model)
    text = json.dumps(found, sort_keys=True)
    copied.metadata_props.append(onnx.StringStringEntryProto(key=RANGES_KEY, value=text))
    return copied


def learned_ranges(model: onnx.ModelProto) -> LearnedRanges | None:
    """Return the ranges in the metadata of `model`, or None where it has none.

    A value that several convolutions read gets the largest of their ranges, and is signed if one of them is. Raises
    ModelError for a record that cannot be read.
    """
    text = next((entry.value for entry in model.metadata_props if entry.key == RANGES_KEY), None)
    if text is None:
        return None
    record, sources = _read(text), quantised_inputs(model)
    weights = {node.output[0]: node.input[1] for node in model.graph.node if node.op_type == "Conv"}
    ranges: dict[str, float] = {}
    signed, without = set(), set()
    for name in quantisable(model):
        if weights[name] not in record:
            without.add(name)
            continue
        largest, may_be_negative = record[weights[name]]
        source = sources[name]
        ranges[source] = max(ranges.get(source, 0.0), largest)
        signed |= {source} if may_be_negative else set()
    return LearnedRanges(ranges=ranges, unsigned=frozenset(ranges) - signed, without=frozenset(without))


def _read(text: str) -> dict[str, tuple[float, bool]]:
    """Read the record: weight -> (range, signed)."""
    try:
        return {
            weight: (float(it["range"]), bool(it["signed"]))
            for weight, it in parse_json(text, 16 << 20).items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"the learned ranges under {RANGES_KEY} cannot be read ({error}); export the checkpoint again"
        ) from error
