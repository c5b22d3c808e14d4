"""The bundled models: the .onnx files of this folder, their cards, and finding a model by name.

Reading is cheap on purpose: `read_metadata` parses only the metadata of a file, without onnx and
without a runtime. Running a model is the task of the engines.

A card is the file `<name>.md` beside `<name>.onnx`. It begins with a front matter: one JSON object
between two lines `---`. JSON is also YAML, so Markdown renderers accept it. Its keys, all optional:

    parameters  int     weights and biases after folding
    sha256      str     digest of the .onnx file
    licence     str     SPDX identifier; default: the licence in the file's spec
    quality     object  data set -> {"psnr_y": dB, "ssim_y": 0..1}, as `sr-deploy eval` measures them
    forms       object  precision -> {"sha256": digest of its file, "psnr_change": dB, "photographs": number}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sr_deploy.engines.registry import ENGINE_SUFFIXES
from sr_deploy.errors import ModelError, UsageError, check_path
from sr_deploy.spec import METADATA_KEY, ModelSpec
from sr_deploy.system.json_values import parse_json
from sr_deploy.system.protobuf import Message

_FOLDER = Path(__file__).parent
_METADATA_FIELD = 14  # metadata_props of ModelProto in onnx.proto


@dataclass(frozen=True, kw_only=True)
class ModelEntry:
    """One bundled model."""

    name: str
    """Name of the model, as `--model` takes it."""
    path: Path
    """Path of the .onnx file."""
    size: int
    """Size of the .onnx file in bytes."""
    spec: ModelSpec
    """Spec from the metadata of the .onnx file."""
    parameters: int | None = None
    """Number of weights and biases after folding, or None if the card does not say."""
    licence: str | None = None
    """SPDX identifier, from the card or else from the spec."""
    quality: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Data set -> measure -> value, from the card."""
    sha256: str | None = None
    """SHA-256 of the .onnx file according to the card, in hexadecimal digits."""

    @property
    def scale(self) -> int:
        """Output pixels per input pixel, along each axis."""
        return self.spec.scale


def forms_folder(path: Path) -> Path:
    """The folder with the bf16 and int8 forms of the model at `path`: its own, or `forms` for a bundled model."""
    return path.parent / "forms" if is_bundled(path) else path.parent


def is_bundled(path: Path) -> bool:
    """True for a file in the folder of the bundled models."""
    return path.resolve().parent == _FOLDER.resolve()


def list_models(folder: Path | None = None) -> list[ModelEntry]:
    """The models in `folder` (default: the bundled ones), sorted by name. Raises ModelError if a file is not
    ONNX or carries no sr-deploy spec, or if a card is broken."""
    if folder is not None:
        check_path("folder", folder)
    entries, broken = survey_models(folder)
    for error in broken.values():
        raise error
    return entries


def survey_models(folder: Path | None = None) -> tuple[list[ModelEntry], dict[str, ModelError]]:
    """The usable models like `list_models`, and name -> error for those that cannot be used.

    Nothing is raised for a broken model.
    """
    entries: list[ModelEntry] = []
    broken: dict[str, ModelError] = {}
    for path in sorted((folder or _FOLDER).glob("*.onnx")):
        try:
            entries.append(_read_entry(path))
        except ModelError as error:
            broken[path.stem] = error
    return entries, broken


def find_model(name_or_path: str | Path, folder: Path | None = None) -> Path:
    """The path of a model file, given the name of a bundled model or a path.

    Raises ModelError for a folder, a missing file or an unknown name (the message suggests similar
    names), and UsageError for an empty name.
    """
    check_path("name_or_path", name_or_path)
    if not str(name_or_path):
        raise UsageError(
            "the model's name is empty; give an .onnx file or a name listed by `sr-deploy models`"
        )
    bundled = {path.stem: path for path in sorted((folder or _FOLDER).glob("*.onnx"))}
    forms = {path.stem: path for path in (folder or _FOLDER).glob("forms/*.onnx")}
    if str(name_or_path) in forms:
        return forms[str(name_or_path)]
    # a bundled name comes first, so that a file of that name in the working folder does not change its meaning
    if str(name_or_path) in bundled:
        return bundled[str(name_or_path)]
    path = Path(name_or_path)
    if path.is_file():
        return path
    if path.is_dir():
        raise ModelError(f"model {path}: it is a folder, expected an .onnx file or one of {_names(bundled)}")
    if path.suffix or len(path.parts) > 1:
        raise ModelError(f"model {path}: no such file; give an .onnx file or one of {_names(bundled)}")
    from difflib import get_close_matches  # needed for this error message only

    near = get_close_matches(str(name_or_path), bundled, n=2, cutoff=0.5)
    hint = (
        f"did you mean {' or '.join(near)}?" if near else f"choose one of {_names(bundled)} or an .onnx file"
    )
    raise ModelError(f"no bundled model is called {str(name_or_path)!r}; {hint}")


def find_chain(name_or_path: str | Path, folder: Path | None = None) -> Path:
    """The path of a model, or of a chain of models that are joined by "+".

    The path of a chain joins the paths of its files by "+"; `open_engine` opens it. Raises the errors of `find_model`.
    """
    text = str(name_or_path)
    if "+" not in text:
        return find_model(name_or_path, folder)
    from sr_deploy.system.chains import SEPARATOR, split_chain

    def exists(name: str) -> bool:
        try:
            return bool(find_model(name, folder))
        except (ModelError, UsageError):
            return False

    parts = split_chain(text, exists)
    if len(parts) == 1:
        for part in text.split(SEPARATOR):  # names the model that is missing
            find_model(part, folder)
        return find_model(name_or_path, folder)
    return Path(SEPARATOR.join(str(find_model(part, folder).resolve()) for part in parts))


def card_of(path: Path, sha256: str) -> ModelEntry | None:
    """The entry of the bundled model that the file `path` is, told by its checksum; None for any other file."""
    if not is_bundled(path):
        return None
    return next((entry for entry in list_models() if entry.sha256 == sha256), None)


def model_for_scale(scale: float, folder: Path | None = None, *, or_larger: bool = False) -> str:
    """The name of the bundled model for `scale`: `rt-x<scale>` if it exists, else the first by name.

    Nets for damaged pictures and perceptual ones are taken only where there is no other.

    With `or_larger`, a scale above 1 without a model of its own gets a model of the next larger scale, whose result is
    then made smaller. Raises UsageError with the available scales if there is none. Raises ModelError if a model that
    cannot be read might have been the right one.
    """
    by_scale: dict[float, list[str]] = {}
    entries, broken = survey_models(folder)
    for entry in entries:
        by_scale.setdefault(entry.scale, []).append(entry.name)
    larger = [known for known in by_scale if known > scale > 1]
    if or_larger and larger and scale not in by_scale and not broken:
        scale = min(larger)
    names = by_scale.get(scale)
    for name, error in broken.items():  # the scale of a broken model is unknown
        if names is None or name == f"rt-x{scale}":
            raise ModelError(f"{error}; it came with sr-deploy: install sr-deploy again") from error
    if names is None:
        known = ", ".join(f"{one} ({_preferred(one, by_scale[one])})" for one in sorted(by_scale)) or "none"
        raise UsageError(
            f"no bundled model has scale {scale:g}, the available scales are: {known}; choose one of these, give a "
            "--model, or set the output size with --width, --height or --fit"
        )
    return _preferred(scale, names)


def _preferred(scale: float, names: Sequence[str]) -> str:
    """The one of the models `names` of a scale that stands for it; see `model_for_scale`."""
    if f"rt-x{scale}" in names:
        return f"rt-x{scale}"
    plain = [name for name in names if not name.startswith("photo-") and not name.endswith("-perceptual")]
    return (plain or names)[0]


def photo_model(clean: str, folder: Path | None = None) -> str | None:
    """The name of the bundled photo net with the scale of the bundled model `clean`; None where there is none.

    It is called `photo-x<scale>`, and was trained on compressed and noisy pictures. Raises ModelError if it cannot be
    read.
    """
    spec = read_spec(find_model(clean, folder))
    path = (folder or _FOLDER) / f"photo-x{spec.scale if spec else 0}.onnx"
    if not path.is_file():
        return None
    photo = read_spec(path)
    if photo is None or spec is None or photo.scale != spec.scale:
        raise ModelError(
            f"model {path}: its spec does not have the scale of its name; install sr-deploy again"
        )
    return path.stem


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata properties of an ONNX file, read without its weights.

    They are field 14 (metadata_props) of ModelProto in onnx.proto. Raises ModelError for a file that
    cannot be read or is not ONNX.
    """
    try:
        with path.open("rb") as file:
            entries = list(Message(file).messages(_METADATA_FIELD))
            pairs = [
                {number: text.read() for number in (1, 2) for text in entry.messages(number)}
                for entry in entries
            ]
        return {pair.get(1, b"").decode(): pair.get(2, b"").decode() for pair in pairs}
    except OSError as error:
        raise ModelError(
            f"model {path}: {error.strerror or error}; check the path and its permissions"
        ) from error
    except (ValueError, EOFError) as error:
        raise ModelError(f"model {path}: not an ONNX file ({error}); give an .onnx file") from error


def read_spec(path: Path) -> ModelSpec | None:
    """The spec of a model file, or None if an ONNX file carries none.

    The spec of an engine file comes from its sidecar, that of a chain from all its files. Raises ModelError like
    `read_metadata`.
    """
    if "+" in str(path) and not path.exists():
        from sr_deploy.engines.chain import chain_spec
        from sr_deploy.system.chains import chain_files

        files = chain_files(path)
        if len(files) > 1:
            specs = [read_spec(file) for file in files]
            return None if None in specs else chain_spec([spec for spec in specs if spec])
    if path.suffix.lower() in ENGINE_SUFFIXES:
        from sr_deploy.engines.tensorrt.sidecar import read_sidecar

        return read_sidecar(path).spec
    text = read_metadata(path).get(METADATA_KEY)
    return None if text is None else ModelSpec.from_json(text)


def _read_entry(path: Path) -> ModelEntry:
    """The entry of the model file `path`. Raises ModelError if it has no spec or its card is broken."""
    spec = read_spec(path)
    if spec is None:
        raise ModelError(
            f"model {path}: it carries no sr-deploy spec; write one with: sr-deploy stamp {path}"
        )
    card = read_card(path.with_suffix(".md"))
    return ModelEntry(
        name=path.stem,
        path=path,
        size=path.stat().st_size,
        spec=spec,
        parameters=card.get("parameters"),
        licence=card.get("licence", spec.licence),
        quality=card.get("quality", {}),
        sha256=card.get("sha256"),
    )


def read_card(path: Path) -> Mapping[str, Any]:
    """The front matter of a card; empty if there is no card or no front matter. Raises ModelError if it is broken."""
    if not path.is_file():
        return {}
    lines = path.read_text(encoding="utf-8").splitlines()
    if not lines or lines[0] != "---":
        return {}
    try:
        front_matter = parse_json("\n".join(lines[1 : lines.index("---", 1)]))
    except ValueError as error:
        raise ModelError(
            f"card {path}: its front matter is not one JSON object ({error}); correct the file"
        ) from error
    if not isinstance(front_matter, dict):
        raise ModelError(
            f"card {path}: its front matter is a {type(front_matter).__name__}, expected a JSON object; correct the file"
        )
    return front_matter


def _names(bundled: Mapping[str, Path]) -> str:
    """The names of the bundled models as one list for messages."""
    return ", ".join(bundled) or "the bundled models (none is installed)"
