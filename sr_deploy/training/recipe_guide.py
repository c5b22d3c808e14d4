"""Meaning of every key of a recipe, for `train --explain`, and a new recipe with comments, for `train --new`.

Both are made from the code that reads recipes: its types, its defaults and its docstrings.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import re
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from sr_deploy.errors import UsageError
from sr_deploy.training.data.degrade import Degradation
from sr_deploy.training.nets import NETS
from sr_deploy.training.recipe import KEYS, SCALES, TERM_MEANINGS, ExportSettings, Perceptual, Phase, Recipe

_WIDTH = 100
"""Characters of a line."""
_TYPES = {
    str: "text",
    int: "whole number",
    (int, float): "number",
    bool: "true or false",
    dict: "table",
    list: "list",
    (str, dict): "text or table",
}
"""Type of a value in TOML -> its name."""
_TABLES = {"perceptual", "export"}
"""Keys of a recipe that are tables, which are explained apart."""

_STARTS: Mapping[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "rt": (
        {"optimiser": "muon"},
        {"features": 16, "depth": 17, "residual": "bilinear", "foldable": False},
        {"crop": 40, "steps": 50_000, "learning_rate": 2e-3, "loss": {"luma_l1": 1.0, "chroma_l1": 0.5}},
    ),
    "srresnet": (
        {},
        {"features": 64, "blocks": 8, "activation": "leaky_relu", "residual": "bicubic"},
        {"crop": 48, "steps": 50_000, "learning_rate": 6e-4, "loss": {"l1": 1.0}},
    ),
    "unet": (
        {},
        {"features": 32, "blocks": 2, "activation": "leaky_relu", "residual": "bicubic"},
        {"crop": 48, "steps": 50_000, "learning_rate": 6e-4, "loss": {"l1": 1.0}},
    ),
}
"""Architecture -> values of a new recipe, of its net and of its phase that are not the defaults. They are near those of the
recipes in `export/`."""
_EXAMPLES = {
    "degrade": "{ blur = [0.2, 2.0], noise = [0, 6], jpeg = [60, 100], second = 0.3 }",
    "large_crop": "160",
    "sizes": "[1.0]",
}
"""Key -> a value that its comment shows, where it has no default or one that is not TOML."""


@dataclasses.dataclass(frozen=True)
class _Entry:
    """One key of a recipe."""

    key: str
    type: str
    meaning: str
    default: Any = None
    """Default as a value of TOML; None: the key is required, or nothing stands for it."""
    required: bool = False


def explain() -> str:
    """Return the explanation of all keys, for people."""
    lines = [
        *_wrapped("A recipe is a TOML file: keys of the whole training, then tables. Keys without a default that are not "
                  "optional are required."),
        *("", "Keys of the whole training", ""),
        *_listed(entry for entry in _entries("recipe", Recipe) if entry.key not in _TABLES),
        *("", "[net]", ""),
        *_listed([_Entry("architecture", "text", f"Name of the net: {', '.join(NETS)}.", required=True)]),
    ]  # fmt: skip
    for name, net in NETS.items():
        lines += [
            "",
            *_wrapped(f'[net] architecture = "{name}": {_first_sentence(net)}'),
            "",
            *_listed(_arguments(net)),
        ]
    lines += ["", "[[phase]], once for every phase", "", *_listed(_entries("phase", Phase))]
    lines += ["", "Terms of a phase's loss", ""]
    lines += _listed(_Entry(term, "", meaning) for term, meaning in TERM_MEANINGS.items())
    for name, kind, title in (
        ("degrade", Degradation, "degrade = { ... } of a phase"),
        ("perceptual", Perceptual, "[perceptual]"),
        ("export", ExportSettings, "[export], for export/build.py"),
    ):
        lines += ["", title, "", *_listed(_entries(name, kind))]
    return "\n".join(lines)


def new_recipe(name: str, architecture: str, scale: int) -> str:
    """Return a recipe with a comment on every key. Raises UsageError for an unknown architecture or scale."""
    if architecture not in NETS:
        raise UsageError(f"unknown architecture {architecture!r}; known: {', '.join(NETS)}")
    if scale not in SCALES:
        raise UsageError(f"scale {scale}, expected one of {', '.join(map(str, SCALES))}")
    top, net, phase = _STARTS[architecture]
    lines = [
        f"# Recipe of sr-deploy train: the net {architecture} at scale {scale}. Lines that begin with # and a key show defaults.",
        f"name = {_toml(name)}",
        *_settings((e for e in _entries("recipe", Recipe) if e.key not in {"name", *_TABLES}), top),
        *("", "[net]", f"architecture = {_toml(architecture)}"),
        *_settings(_arguments(NETS[architecture]), net),
        *("", "# A part of the training with one schedule; copy it for a second one, whose net begins with the weights of this one."),
        "[[phase]]",
        *_settings(_entries("phase", Phase), {"scale": scale, **phase}),
        *("", "# Only for the loss terms feature and gram.", "[perceptual]"),
        *_settings(_entries("perceptual", Perceptual), {}),
        *("", "# Only for export/build.py.", "[export]"),
        *_settings(_entries("export", ExportSettings), {}),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _entries(table: str, kind: type) -> Iterator[_Entry]:
    """The keys of a table of a recipe, in the order of the fields of `kind`, the dataclass that holds its values."""
    docs, keys = _field_docs(kind), KEYS[table]
    for field in dataclasses.fields(kind):
        if field.name not in keys:  # it has a table of its own
            continue
        default = field.default if field.default is not dataclasses.MISSING else None
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        crop = field.name == "crop"  # either it or `large_crop` is required
        required = default is None and field.default is dataclasses.MISSING and not crop
        yield _Entry(field.name, _TYPES[keys[field.name]], docs.get(field.name, ""), default, required)
        if crop:
            meaning = "Side of the large crop in large pixels, a multiple of the scale; instead of `crop`."
            yield _Entry("large_crop", _TYPES[keys["large_crop"]], meaning)


def _field_docs(kind: type) -> dict[str, str]:
    """Field of a dataclass -> its docstring on one line, from the source of the class."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(tree, ast.ClassDef)
    docs = {}
    for field, text in zip(tree.body, tree.body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(text, ast.Expr)
            and isinstance(text.value, ast.Constant)
        ):
            docs[field.target.id] = " ".join(str(text.value.value).split())
    return docs


def _arguments(net: type[nn.Module]) -> Iterator[_Entry]:
    """The arguments of a net without its scale, with what the `Args` of its docstring say."""
    text = inspect.getdoc(net) or ""
    meanings = dict(re.findall(r"^  (\w+): (.*)$", text, re.MULTILINE))
    for name, parameter in inspect.signature(net).parameters.items():
        if name != "scale":
            default = parameter.default
            meaning = meanings[name]
            yield _Entry(name, _TYPES[_toml_type(type(default))], meaning[0].upper() + meaning[1:], default)


def _toml_type(kind: type) -> Any:
    """The key of `_TYPES` for a type; a float may be written as a whole number."""
    return (int, float) if kind is float else kind


def _first_sentence(net: type[nn.Module]) -> str:
    return (inspect.getdoc(net) or "").partition("\n")[0]


def _wrapped(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(
        text.replace("``", '"'), _WIDTH, initial_indent="", subsequent_indent=indent, break_on_hyphens=False
    )


def _listed(entries: Any) -> list[str]:
    """The entries as lines of text."""
    lines = []
    for entry in entries:
        default = (
            "required"
            if entry.required
            else "optional"
            if entry.default is None
            else f"default {_toml(entry.default)}"
        )
        about = f" ({entry.type}, {default})" if entry.type else ""
        lines += _wrapped(f"  {entry.key}{about}: {entry.meaning}", indent="      ")
    return lines


def _settings(entries: Any, given: Mapping[str, Any]) -> list[str]:
    """The entries as lines of a recipe: a comment, and the value, which is commented out where it is a default."""
    lines = []
    for entry in entries:
        lines += [f"# {line}" for line in textwrap.wrap(entry.meaning, _WIDTH - 2, break_on_hyphens=False)]
        value = _EXAMPLES.get(entry.key) or _toml(entry.default)
        shown = f"{entry.key} = {_toml(given[entry.key]) if entry.key in given else value}"
        lines.append(shown if entry.key in given else f"# {shown}")
    return lines


def _toml(value: Any) -> str:
    """A value as TOML, as recipes write it."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_toml(number)}" for key, number in value.items()) + " }"
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    return json.dumps(value) if not isinstance(value, float) else repr(value)
