"""Checkpoints by name from OpenModelDB, the field's index, through its client `openmodeldb`.

The client downloads; the checksum of the index is compared here again, because the client (1.3.5) trusts a file that is already
there. The index states the licence of the weights, which goes into the record.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sr_deploy.errors import CheckFailedError, InputError, MissingRuntimeError, one_line
from sr_deploy.system.files import digest_of
from sr_deploy.training.anynet.community import load_community
from sr_deploy.training.anynet.source import SourceNet

PREFIX = "openmodeldb:"
"""Beginning of a name of this index, as in "openmodeldb:4x-Nomos8k"."""
_SUFFIXES = ("safetensors", "pth")
"""Kinds of files that are taken, the better one first: safetensors hold no code."""


@dataclass(frozen=True, kw_only=True)
class IndexEntry:
    """Entry of a model in the index, and the file that was fetched."""

    identity: str
    """Identifier in the index."""
    author: str
    licence: str | None
    path: Path
    sha256: str | None
    """Checksum that the index states; None where it states none."""


def database_source(
    name: str, *, extra: bool = False, say: Callable[[str], None] = lambda line: None
) -> SourceNet:
    """Fetch the model `name` of the index and return its net.

    Raises MissingRuntimeError without openmodeldb; InputError for an unknown name, a model without a file of weights, or
    a failed download; CheckFailedError for a file with another checksum than the index states.
    """
    with _fetched(name.removeprefix(PREFIX), say) as entry:
        found = digest_of(entry.path)
        if entry.sha256 is not None and found != entry.sha256.lower():
            raise CheckFailedError(
                f"{name}: the file has SHA-256 {found[:16]}..., the index states {entry.sha256[:16].lower()}...; it was changed "
                "or damaged and is not used"
            )
        source = load_community(entry.path, extra=extra)
    unknown = () if entry.licence else ("The index states no licence for these weights.",)
    unchecked = () if entry.sha256 else ("The index states no checksum for this file.",)
    return replace(
        source,
        name=entry.identity,
        licence=entry.licence,
        parameters={**source.parameters, "source": f"{PREFIX}{entry.identity}", "author": entry.author},
        notes=(*source.notes, *unknown, *unchecked),
    )


@contextmanager
def _fetched(name: str, say: Callable[[str], None]) -> Iterator[IndexEntry]:
    """Download the weights of a model into a folder that is removed afterwards."""
    try:
        from openmodeldb import OpenModelDB  # type: ignore[import-not-found, unused-ignore]
    except ImportError as error:
        raise MissingRuntimeError(
            f"{PREFIX}{name} needs the package openmodeldb, which is not installed; pip install openmodeldb"
        ) from error
    with tempfile.TemporaryDirectory(prefix="sr-deploy-openmodeldb-") as folder:
        try:
            index = OpenModelDB(download_dir=folder)
            model = index[name]
            resource = _resource(model)
            say(f"fetching {model.name} by {model.author}, licence {model.license or 'unknown'}")
            path = Path(index.download(model, dest=folder, format=resource["type"], quiet=True))
        except InputError:
            raise
        except (
            Exception
        ) as error:  # the client raises its own errors, those of urllib, ValueError and KeyError
            raise InputError(
                f"{PREFIX}{name}: cannot be fetched ({type(error).__name__}: {one_line(error)}); "
                "check the name with `openmodeldb search`, and the network"
            ) from error
        yield IndexEntry(
            identity=str(model.id),
            author=str(model.author),
            licence=str(model.license) or None,
            path=path,
            sha256=resource.get("sha256"),
        )


def _resource(model: Any) -> dict[str, Any]:
    """Return the file of a model to fetch. Raises InputError where it has none with weights."""
    by_kind = {str(resource.get("type", "")).lower(): resource for resource in reversed(model.resources)}
    for kind in _SUFFIXES:
        if kind in by_kind:
            found: dict[str, Any] = {**by_kind[kind], "type": kind}
            return found
    kinds = ", ".join(sorted(by_kind)) or "none"
    raise InputError(
        f"{PREFIX}{model.id}: has no file of weights ({kinds}), expected {' or '.join(_SUFFIXES)}"
    )
