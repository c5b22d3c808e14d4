"""Names of chains: models that run one after the other are named by their files, joined by "+".

`sr_deploy.engines.chain` runs them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sr_deploy.system.files import digest_of

SEPARATOR = "+"
"""Stands between the names of the models of a chain."""


def split_chain(model: str, exists: Callable[[str], bool]) -> list[str]:
    """Return the models of a chain, or [model] for a single one.

    `exists` says whether a text names a model. A file whose own name has the separator stays whole: the longest
    names that exist are taken, from the left.
    """
    if SEPARATOR not in model or exists(model):
        return [model]
    pieces, found, start = model.split(SEPARATOR), list[str](), 0
    while start < len(pieces):
        for end in range(len(pieces), start, -1):
            if exists(candidate := SEPARATOR.join(pieces[start:end])):
                found.append(candidate)
                start = end
                break
        else:
            return [model]
    return found


def chain_files(model: Path) -> list[Path]:
    """Return the files of a chain that is given as a path; [model] for a single file."""
    return [Path(part) for part in split_chain(str(model), lambda text: bool(text) and Path(text).is_file())]


def chain_digest(model: Path) -> str:
    """Return the SHA-256 of a model file, or for a chain one over the SHA-256 of its files; hexadecimal."""
    files = chain_files(model)
    digests = [digest_of(file) for file in files]
    if len(digests) == 1:
        return digests[0]
    import hashlib  # loads OpenSSL, which single models do not need

    return hashlib.sha256("+".join(digests).encode()).hexdigest()
